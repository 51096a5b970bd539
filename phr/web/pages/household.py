"""The household: whose records are here, who is a member of each, and how that changes.

Everything about one person stands on `/p/{patient_id}/person`; it works while the record is
sealed, except where the vault itself is needed.
"""

from typing import Any

from litestar import Response

from phr.errors import Conflict, Denied, Ended, InvalidInput, NotFound, TooManyTries, WrongSecret
from phr.store import accounts, members
from phr.store.accounts import PatientView
from phr.store.models import MemberRole
from phr.web.pages import kits
from phr.web.pages.setup import COLOURS, colour_of, password_of
from phr.web.routing import Access, Form, Visit, action, page
from phr.web.sessions import CHANGING_ROLES, begin

ROLES = {
    MemberRole.SELF: "It is their own record: may do everything.",
    MemberRole.PROXY: "Acts for the person: may change and share everything.",
    MemberRole.VIEWER: "May look, not change or share.",
}
WRONG_NAME = "That is not the name of this record. Nothing was deleted."


@page("/", access=Access.ACCOUNT)
def front(visit: Visit) -> Response[Any]:
    """Lead to the record that is most likely meant; first of all to an unconfirmed kit."""
    kit: kits.Kit | None = visit.kept("kit")
    if kit is not None:
        return visit.redirect(kit.page)
    return visit.redirect(f"/p/{visit.people[0].id}/" if visit.people else "/household")


@page("/household", access=Access.ACCOUNT)
def show(visit: Visit) -> Response[Any]:
    """List the records this account is a member of, and offer a new one."""
    return _draw(visit)


def _draw(visit: Visit, sentence: str | None = None, about: str = "") -> Response[Any]:
    return visit.render(
        "pages/household.html",
        status=422 if sentence else 200,
        colours=COLOURS,
        next_colour=len(visit.people) % 4 + 1,
        sentence=sentence,
        about=about,
    )


@action("/household/add", access=Access.ACCOUNT)
def add(visit: Visit, form: Form) -> Response[Any]:
    """Create a record for a person: a child, a parent, or the one who is signed in."""
    name = form.text("name", limit=80)
    if not name:
        return _draw(visit, "Please type the person's name.", "add")
    mine = form.get("whose") == "me"
    patient_id = accounts.create_patient(
        visit.appliance.house,
        visit.appliance.vaults,
        name=name,
        colour=colour_of(form),
        account_id=visit.account_id,
        role=MemberRole.SELF if mine else MemberRole.PROXY,
        opens_by_itself=form.has("opens"),
    )
    return visit.redirect(f"/p/{patient_id}/", flash=f"The record of {name} is ready.")


# ------------------------------------------------------------------ one person


@page("/p/{patient_id:str}/person", access=Access.MEMBER, sealed=True)
def person(visit: Visit, patient_id: str) -> Response[Any]:  # noqa: ARG001 - checked by the doorkeeper
    """Show how one record is named, how it opens and who its members are."""
    return _draw_person(visit)


def _draw_person(visit: Visit, sentence: str | None = None, about: str = "") -> Response[Any]:
    who = _the_person(visit)
    appliance = visit.appliance
    return visit.render(
        "pages/person.html",
        status=422 if sentence else 200,
        person=who,
        may_change=who.role in CHANGING_ROLES,
        opens_by_itself=appliance.vaults.opens_by_itself(who.id),
        members=members.members_of(appliance.house, who.id),
        invitations=members.invitations(appliance.house, who.id),
        code=visit.kept(f"invitation {who.id}"),
        roles=ROLES,
        colours=COLOURS,
        sentence=sentence,
        about=about,
    )


def _the_person(visit: Visit) -> PatientView:
    if visit.patient is None:
        raise NotFound
    return visit.patient


def _page_of(visit: Visit) -> str:
    return f"/p/{_the_person(visit).id}/person"


@action("/p/{patient_id:str}/person", access=Access.PROXY)
def change(visit: Visit, form: Form) -> Response[Any]:
    """Change the name and the colour of a record."""
    name = form.text("name", limit=80)
    if not name:
        return _draw_person(visit, "Please type a name.", "name")
    appliance, who = visit.appliance, _the_person(visit)
    accounts.set_person(
        appliance.house, appliance.vaults, who.id, name=name, colour=colour_of(form)
    )
    return visit.redirect(_page_of(visit), flash="Saved.")


@action("/p/{patient_id:str}/person/opens", access=Access.PROXY)
def opens(visit: Visit, form: Form) -> Response[Any]:
    """Choose whether the record opens by itself; giving the house the key needs the password."""
    by_itself = form.get("opens") == "itself"
    if by_itself:
        visit.require_step_up()
    appliance = visit.appliance
    accounts.set_opens_by_itself(
        appliance.house, appliance.vaults, _the_person(visit).id, by_itself
    )
    said = (
        "From now on it opens by itself after a restart."
        if by_itself
        else "From now on it stays sealed after a restart until a member signs in."
    )
    return visit.redirect(_page_of(visit), flash=said)


@action("/p/{patient_id:str}/person/seal", access=Access.PROXY, sealed=True)
def seal(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Seal the record now; it never asks anything."""
    visit.appliance.vaults.seal(_the_person(visit).id)
    return visit.redirect("/household", flash=f"{_the_person(visit).name} is sealed.")


@action("/p/{patient_id:str}/person/read", access=Access.PROXY, sealed=True)
def warnings_read(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Take away the sentences that the store had for the members."""
    visit.appliance.house.dismiss_warnings(_the_person(visit).id)
    return visit.redirect(f"/p/{_the_person(visit).id}/")


@action("/p/{patient_id:str}/person/shred", access=Access.PROXY, sealed=True)
def shred(visit: Visit, form: Form) -> Response[Any]:
    """Destroy a record for good: its name must be typed and the password given."""
    who = _the_person(visit)
    if form.text("name") != who.name:
        return _draw_person(visit, WRONG_NAME, "shred")
    visit.require_step_up()
    accounts.shred(visit.appliance.house, visit.appliance.vaults, who.id)
    said = f"The record of {who.name} is destroyed here. Copies elsewhere are yours to delete."
    return visit.redirect("/household", flash=said)


# ------------------------------------------------------------------ members


@action("/p/{patient_id:str}/members/invite", access=Access.PROXY)
def invite(visit: Visit, form: Form) -> Response[Any]:
    """Make an invitation code; it lets nobody in before the answer is confirmed here."""
    role = form.get("role")
    if role not in set(MemberRole):
        raise InvalidInput("Please choose what they may do. Nothing was changed.")
    visit.require_step_up()
    who = _the_person(visit)
    invited = members.invite(visit.appliance.house, who.id, by=visit.account_id, role=role)
    visit.put_down(f"invitation {who.id}", invited.code)
    return visit.redirect(_page_of(visit), flash="The invitation is ready. Its code is below.")


@action("/p/{patient_id:str}/members/confirm", access=Access.PROXY)
def confirm(visit: Visit, form: Form) -> Response[Any]:
    """Let an invited person in, by the words they read out from their own screen."""
    visit.require_step_up()
    appliance = visit.appliance
    invitation, words = _invitation(visit, form), form.text("fingerprint")
    try:
        members.confirm_member(
            appliance.house,
            appliance.vaults,
            invitation,
            by=visit.account_id,
            fingerprint=words,
        )
    except WrongSecret as error:
        return _draw_person(visit, error.sentence, "members")
    visit.forget(f"invitation {_the_person(visit).id}")
    return visit.redirect(_page_of(visit), flash="They are a member now.")


def _invitation(visit: Visit, form: Form) -> str:
    """Return the id of an invitation to this very record; any other is not found."""
    here = members.invitations(visit.appliance.house, _the_person(visit).id)
    if form.get("invitation") not in {each.id for each in here}:
        raise NotFound
    return form.get("invitation")


@action("/p/{patient_id:str}/members/withdraw", access=Access.PROXY, sealed=True)
def withdraw(visit: Visit, form: Form) -> Response[Any]:
    """Take an invitation back; it never asks anything."""
    invitation = _invitation(visit, form)
    members.end_invitation(visit.appliance.house, invitation, by=visit.account_id)
    visit.forget(f"invitation {_the_person(visit).id}")
    return visit.redirect(_page_of(visit), flash="The invitation is withdrawn.")


@action("/p/{patient_id:str}/members/role", access=Access.PROXY)
def change_role(visit: Visit, form: Form) -> Response[Any]:
    """Change what a member may do; more than before needs the password."""
    member = _other_member(visit, form)
    role = form.get("role")
    if role not in {MemberRole.PROXY, MemberRole.VIEWER}:
        raise InvalidInput("Please choose what they may do. Nothing was changed.")
    if role == MemberRole.PROXY:
        visit.require_step_up()
    appliance, who = visit.appliance, _the_person(visit)
    members.set_role(
        appliance.house, appliance.vaults, who.id, member.account_id, role, by=visit.account_id
    )
    return visit.redirect(_page_of(visit), flash=f"Changed for {member.name}.")


@action("/p/{patient_id:str}/members/remove", access=Access.PROXY)
def remove(visit: Visit, form: Form) -> Response[Any]:
    """Remove a member at once: the record gets a new key."""
    appliance, who = visit.appliance, _the_person(visit)
    member = _other_member(visit, form)
    members.remove_member(
        appliance.house, appliance.vaults, who.id, member.account_id, by=visit.account_id
    )
    said = f"{member.name} is removed. Backups made before stay readable to them."
    return visit.redirect(_page_of(visit), flash=said)


def _other_member(visit: Visit, form: Form) -> members.MemberView:
    """Return the member a form names: not oneself, and never the person the record is about."""
    account_id = form.get("account")
    everybody = members.members_of(visit.appliance.house, _the_person(visit).id)
    member = next((each for each in everybody if each.account_id == account_id), None)
    if member is None:
        raise NotFound
    if member.role == MemberRole.SELF or account_id == visit.account_id:
        raise Denied("own role", "You cannot change that for yourself or for the person themself.")
    return member


@action("/p/{patient_id:str}/members/leave", access=Access.MEMBER)
def leave(visit: Visit, form: Form) -> Response[Any]:  # noqa: ARG001 - the form is its token
    """Give up one's own membership; somebody who may act for the record must remain."""
    appliance, who = visit.appliance, _the_person(visit)
    members.remove_member(
        appliance.house, appliance.vaults, who.id, visit.account_id, by=visit.account_id
    )
    return visit.redirect("/household", flash=f"You left the record of {who.name}.")


# ------------------------------------------------------------------ joining by invitation


@page("/join", access=Access.ANYONE)
def ask_join(visit: Visit) -> Response[Any]:
    """Ask an invited person for the code, and for an account when there is none yet."""
    return visit.render("pages/join.html", sentence=None, form=Form())


@action("/join", access=Access.ANYONE)
def join(visit: Visit, form: Form) -> Response[Any]:
    """Answer an invitation; a new account gets its recovery kit first."""
    house, code, fresh = visit.appliance.house, form.text("code"), visit.session is None
    try:
        members.look_up(house, code, network=visit.network)
        if fresh:
            _new_account(visit, form)
        members.answer(house, code, visit.account_id)
    except (InvalidInput, WrongSecret, TooManyTries, Ended, Conflict) as error:
        status = 429 if isinstance(error, TooManyTries) else 422
        return visit.render("pages/join.html", status=status, sentence=error.sentence, form=form)
    return visit.redirect("/join/kit" if fresh else "/join/wait")


def _new_account(visit: Visit, form: Form) -> None:
    password = password_of(form)
    try:
        account_id = accounts.create_account(
            visit.appliance.house, form.text("name", limit=80), password
        )
    except Conflict as error:  # their own, perhaps: made before something broke off
        raise Conflict(f"{error.sentence} If it is yours, sign in first.") from error
    begin(visit, account_id, "password")
    kits.offer(visit, password, "/join/kit")


@page("/join/kit", access=Access.ACCOUNT)
def kit(visit: Visit) -> Response[Any]:
    """Show the recovery kit of a new member."""
    return kits.show(visit, target="/join/kit")


@action("/join/kit", access=Access.ACCOUNT)
def kit_held(visit: Visit, form: Form) -> Response[Any]:
    """Go on once two groups of the kit were typed back."""
    if sentence := kits.confirm(visit, form):
        return kits.show(visit, target="/join/kit", sentence=sentence)
    return visit.redirect("/join/wait")


@page("/join/wait", access=Access.ACCOUNT)
def wait(visit: Visit) -> Response[Any]:
    """Show the words that the inviting person compares; whoever was let in is led on."""
    if visit.people and not members.is_waiting(visit.appliance.house, visit.account_id):
        return visit.redirect("/household")
    words = members.fingerprint_of(visit.appliance.house, visit.account_id)
    return visit.render("pages/join_wait.html", words=words)


ROUTES = [
    front,
    show,
    add,
    person,
    change,
    opens,
    seal,
    warnings_read,
    shred,
    invite,
    confirm,
    withdraw,
    change_role,
    remove,
    leave,
    ask_join,
    join,
    kit,
    kit_held,
    wait,
]
