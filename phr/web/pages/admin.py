"""This Homeport, for who runs it: accounts, self-check, backups. Never anything of a record.

An administrator sees names of records and sizes of backup files here, and no clinical data.
"""

from typing import Any

from litestar import Response

from phr import selfcheck
from phr.errors import Conflict, InvalidInput, NotFound, TooManyTries, VaultError, WrongSecret
from phr.store import accounts, backup, restore
from phr.store.backup import Backup
from phr.web.routing import Access, Form, Visit, action, slow_page

DISABLED = "This account is disabled, and it was signed out everywhere."
SAFETY_WORDS = "restore this record"


@slow_page("/admin", access=Access.ADMINISTRATOR)
def show(visit: Visit) -> Response[Any]:
    """Show accounts, backups and the demo."""
    appliance = visit.appliance
    people = accounts.all_patients(appliance.house)
    return visit.render(
        "pages/admin.html",
        accounts=accounts.list_accounts(appliance.house),
        backups=backup.list_backups(appliance.house),
        names={each.id: each.name for each in people},
        sealed=[each for each in people if not appliance.vaults.is_open(each.id)],
        demo=any(each.demo for each in people),
        hour=appliance.settings.backup_hour,
        keep=appliance.settings.backup_keep,
    )


@slow_page("/admin/check", access=Access.ADMINISTRATOR)
def check(visit: Visit) -> Response[Any]:
    """Show what the server sees of itself: address, proxy, TLS, clock, disk, backups."""
    return visit.render("pages/check.html", findings=selfcheck.look(visit.appliance))


@action("/admin/backup", access=Access.ADMINISTRATOR)
def back_up_now(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Back every open record up now, and verify each copy by opening it."""
    appliance = visit.appliance
    report = backup.back_up_all(
        appliance.house,
        appliance.vaults,
        keep=appliance.settings.backup_keep,
        reason="by hand",
    )
    said = f"{len(report.made)} backed up and verified."
    if report.sealed:
        said += f" {len(report.sealed)} sealed: they are backed up when they are open."
    if report.failed:
        said += f" {len(report.failed)} failed: see the self-check."
    return visit.redirect("/admin", flash=said)


@slow_page("/admin/restore/{patient_id:str}/{stamp:str}", access=Access.ADMINISTRATOR)
def ask_restore(visit: Visit, patient_id: str, stamp: str) -> Response[Any]:
    """Say what putting this backup back means, and ask for the safety words."""
    return _ask_restore(visit, _backup(visit, patient_id, stamp))


def _ask_restore(visit: Visit, copy: Backup, sentence: str | None = None) -> Response[Any]:
    appliance, patient_id = visit.appliance, copy.folder.parent.name
    names = {each.id: each.name for each in accounts.all_patients(appliance.house)}
    return visit.render(
        "pages/restore.html",
        status=422 if sentence else 200,
        copy=copy,
        name=names.get(patient_id, "A destroyed record"),
        is_open=appliance.vaults.is_open(patient_id),
        words=SAFETY_WORDS,
        sentence=sentence,
        path=f"/admin/restore/{patient_id}/{copy.folder.name}",
    )


def _backup(visit: Visit, patient_id: str, stamp: str) -> Backup:
    """Return the backup a page names, from the list; anything else is not found."""
    for copy in backup.list_backups(visit.appliance.house, patient_id):
        if copy.folder.name == stamp and copy.folder.parent.name == patient_id:
            return copy
    raise NotFound


@action("/admin/restore/{patient_id:str}/{stamp:str}", access=Access.ADMINISTRATOR)
def put_back(visit: Visit, form: Form, patient_id: str, stamp: str) -> Response[Any]:
    """Put one record back from a backup; what it replaces is kept as a backup of its own."""
    copy = _backup(visit, patient_id, stamp)
    if form.text("words").lower() != SAFETY_WORDS:
        return _ask_restore(visit, copy, f"Please type the words “{SAFETY_WORDS}”.")
    visit.require_step_up()
    secret, kit = form.get("member") or None, form.text("kit") or None
    try:
        done = restore.restore(
            visit.appliance.house, visit.appliance.vaults, copy.folder, password=secret, kit=kit
        )
    except (WrongSecret, TooManyTries, Conflict, VaultError) as error:
        return _ask_restore(visit, copy, error.sentence)
    return visit.render("pages/restored.html", sentence=done.sentence)


@action("/admin/account", access=Access.ADMINISTRATOR)
def set_state(visit: Visit, form: Form) -> Response[Any]:
    """Disable an account (its sessions end at once), or let it sign in again."""
    if form.get("account") == visit.account_id:
        raise InvalidInput("You cannot disable yourself. Nothing was changed.")
    disabled = form.get("state") == "disabled"
    accounts.set_disabled(visit.appliance.house, form.get("account"), disabled=disabled)
    return visit.redirect(
        "/admin", flash=DISABLED if disabled else "This account may sign in again."
    )


ROUTES = [show, check, back_up_now, ask_restore, put_back, set_state]
