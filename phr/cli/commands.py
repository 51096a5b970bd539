"""What each command does: an open appliance and plain arguments in, objects with stable keys out.

The same functions run inside a running appliance (over the control socket) and in a process of
their own. Options, secrets and printing are in `phr.cli`; the keys are listed in docs/cli.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from phr import clock, connect, pull, selfcheck
from phr.appliance import Appliance
from phr.cli import alive, catalogue_commands, record_commands
from phr.cli.control import Ask, Dialogue, RemoteFailure
from phr.connectors import LIVE
from phr.errors import (
    AddressRefused,
    Conflict,
    ConnectorError,
    InvalidInput,
    NeedsReauthorisation,
    NotFound,
    PhrError,
    Sealed,
    StepUpNeeded,
    TotpNeeded,
    WrongPatient,
)
from phr.sharing import activity, gate
from phr.store import accounts, audit, backup, connections, members, restore
from phr.store.models import (
    Connection,
    ConnectionState,
    Grant,
    LedgerLine,
    Patient,
    PatientState,
    PullState,
    Recipient,
)
from phr.store.vault import Vault

Item = Mapping[str, Any]
Command = Callable[..., Iterator[Item]]

_LATE = 5.0  # seconds: whoever waits gives up by its own clock, not by ours
AT_THE_SHELL = {"kind": "appliance", "name": "command line"}
_CODES: tuple[tuple[type[PhrError], int], ...] = (
    (InvalidInput, 2),
    (Sealed, 3),
    (NeedsReauthorisation, 4),
    (WrongPatient, 4),
    (StepUpNeeded, 4),
    (TotpNeeded, 4),
)


def exit_code(error: PhrError) -> int:
    """Return the exit code of an error: 1 failed, 2 wrong use, 3 sealed, 4 needs a person."""
    if isinstance(error, RemoteFailure):
        return error.exit_code
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def run(appliance: Appliance, name: str, arguments: Mapping[str, Any]) -> Dialogue:
    """Run a command by name. `unlock` among the arguments opens records for its duration."""
    given = dict(arguments)
    unlock = given.pop("unlock", None)
    with _unlocked(appliance, unlock, stays=name == "vault.open"):
        yield from COMMANDS[name](appliance, **given)  # also what the caller answers, inwards


@contextmanager
def _unlocked(
    appliance: Appliance, unlock: Mapping[str, Any] | None, *, stays: bool
) -> Iterator[None]:
    """Open the records of an account by its password; seal again what was sealed before.

    A record that the command itself made was never sealed: it stays as the command left it.
    """
    if unlock is None:
        yield
        return
    with nullcontext() if stays else appliance.vaults.lend() as loan:
        accounts.sign_in(
            appliance.house,
            appliance.vaults,
            unlock["account"] or _only_account(appliance),
            unlock["password"],
            totp=unlock["code"],
            loan=loan,
        )
        yield


def _only_account(appliance: Appliance) -> str:
    every = accounts.list_accounts(appliance.house)
    if len(every) != 1:
        raise InvalidInput("Say whose password it is: --account NAME.")
    return every[0].name


# ------------------------------------------------------------------ people and records


def _patients(appliance: Appliance) -> list[Patient]:
    with appliance.house.read() as session:
        query = select(Patient).where(Patient.state == PatientState.ACTIVE)
        return list(session.scalars(query.order_by(Patient.created_at)))


def _patient(appliance: Appliance, name: str) -> Patient:
    """Return the patient of a name or id; InvalidInput when two have that name."""
    found = [
        one
        for one in _patients(appliance)
        if one.id == name or one.name.casefold() == name.strip().casefold()
    ]
    if not found:
        raise NotFound(f"There is no record of {name}.")
    if len(found) > 1:
        listed = ", ".join(one.id for one in found)
        raise InvalidInput(f"Several people are called {name}: give the id ({listed}).")
    return found[0]


def _vault(appliance: Appliance, name: str) -> Vault:
    return appliance.vault(_patient(appliance, name).id)


def _chosen(appliance: Appliance, name: str | None) -> tuple[list[Patient], list[Patient]]:
    """Return (one patient by name, or all whose record is open; those left out as it is sealed)."""
    if name is not None:
        return [_patient(appliance, name)], []
    every = _patients(appliance)
    shut = [one for one in every if not appliance.vaults.is_open(one.id)]
    return [one for one in every if one not in shut], shut


def _account_create(
    appliance: Appliance, *, name: str, password: str, administrator: bool
) -> Iterator[Item]:
    first = appliance.needs_setup()
    account_id = accounts.create_account(
        appliance.house, name, password, administrator=administrator or first
    )
    appliance.end_setup()
    yield {"account": account_id, "name": name, "administrator": administrator or first}


def _account_list(appliance: Appliance) -> Iterator[Item]:
    for one in accounts.list_accounts(appliance.house):
        yield {
            "account": one.id,
            "name": one.name,
            "administrator": one.administrator,
            "state": one.state,
            "second_factor": one.totp,
            "kit_confirmed": one.kit_confirmed_at is not None,
        }


def _vault_create(
    appliance: Appliance, *, patient: str, owner: str, role: str, opens_by_itself: bool
) -> Iterator[Item]:
    account = accounts.account_named(appliance.house, owner)
    if account is None:
        raise NotFound(f"There is no account called {owner}.")
    patient_id = accounts.create_patient(
        appliance.house,
        appliance.vaults,
        name=patient,
        colour=len(_patients(appliance)) % 4 + 1,
        account_id=account.id,
        role=role,
        opens_by_itself=opens_by_itself,
    )
    yield _vault_item(appliance, _patient(appliance, patient_id))


def _vault_list(appliance: Appliance) -> Iterator[Item]:
    for one in _patients(appliance):
        yield _vault_item(appliance, one)


def _vault_item(appliance: Appliance, patient: Patient) -> Item:
    return {
        "vault": patient.id,
        "patient": patient.name,
        "state": "open" if appliance.vaults.is_open(patient.id) else "sealed",
        "opens_by_itself": appliance.vaults.opens_by_itself(patient.id),
        "demo": bool(patient.demo),
        "members": [
            {"name": member.name, "role": member.role}
            for member in members.members_of(appliance.house, patient.id)
        ],
    }


def _vault_open(appliance: Appliance) -> Iterator[Item]:
    for one in _patients(appliance):
        if appliance.vaults.is_open(one.id):
            yield _vault_item(appliance, one)


def _vault_seal(appliance: Appliance, *, patient: str) -> Iterator[Item]:
    one = _patient(appliance, patient)
    appliance.vaults.seal(one.id)
    yield _vault_item(appliance, one)


def _vault_shred(appliance: Appliance, *, patient: str, confirm: str) -> Iterator[Item]:
    one = _patient(appliance, patient)
    if confirm.strip() != one.name:
        raise InvalidInput("--confirm must be the person's name, exactly.")
    accounts.shred(appliance.house, appliance.vaults, one.id)
    yield {"vault": one.id, "patient": one.name, "state": "shredded"}


# ------------------------------------------------------------------ what comes in


def _connect(
    appliance: Appliance,
    *,
    patient: str,
    name: str | None,
    redirect_uri: str,
    timeout: float,
    **given: Any,
) -> Dialogue:
    """Say where the person signs in, wait for what the hospital answered, and finish.

    One command, and so one unlock: a second-factor code fits once, and the sign-in takes a while.
    """
    vault = _vault(appliance, patient)
    base_url = given["base_url"]
    try:
        appliance.http.guard.check(base_url)
    except AddressRefused as error:  # by its text alone: a wrong value
        raise InvalidInput(error.sentence) from error
    wish = connect.Wish(
        name=name or urlsplit(base_url).hostname or base_url,
        base_url=base_url,
        client_id=given["client_id"],
        secret=given["secret"],
        scopes=given["scope"] or "",
    )
    number = connect.add(vault, appliance.http, wish, redirect_uri=redirect_uri, actor=AT_THE_SHELL)
    begun = connect.begin(
        appliance.house,
        vault,
        number,
        http=appliance.http,
        session_hash=None,
        redirect_uri=redirect_uri,
    )
    said = {"connection": number, "open": begun.url, "redirect_uri": redirect_uri}
    answer = yield Ask(said, within=timeout + _LATE)
    try:
        landed = connect.land(
            appliance.house,
            appliance.vaults,
            answer,
            http=appliance.http,
            session_hash=None,
            actor=AT_THE_SHELL,
        )
    except InvalidInput as error:  # said no there, or came too late: not wrong use of the command
        raise NeedsReauthorisation(error.sentence) from error
    yield {"connection": landed.connection_id, "name": landed.name}


def _pull(appliance: Appliance, *, patient: str | None, connection: int | None) -> Iterator[Item]:
    chosen, shut = _chosen(appliance, patient)
    waiting, failed = None, list[str]()
    for one in chosen:
        vault = appliance.vault(one.id)
        for number, asks in _to_pull(vault, connection):
            if asks:
                pull.run(
                    vault,
                    number,
                    http=appliance.http,
                    now=clock.now(),
                    full_days=appliance.settings.pull_full_days,
                )
            lines = list(_pulled(vault, one, number))
            yield from lines if asks else [{**lines[0], **_sums([])}]
            if lines[0]["needs_a_person"]:
                waiting = lines[0]["sentence"]
            elif lines[0]["state"] == PullState.FAILED:
                failed.append(lines[0]["name"])
    for one in shut:
        sentence = f"{Sealed.sentence} Nothing was asked for."
        yield {"kind": "sealed", "patient": one.name, "state": "sealed", "sentence": sentence}
    if waiting is not None:
        raise NeedsReauthorisation(waiting)
    if failed:
        raise ConnectorError(f"Nothing more could be fetched from {', '.join(failed)}: see above.")
    if shut and not chosen:
        raise Sealed("Every record is sealed, so nothing was asked for.")


def _to_pull(vault: Vault, number: int | None) -> list[tuple[int, bool]]:
    """Return connections and whether each is asked: the others are only told.

    One that its owner paused and that is named by its number is refused by the pull itself.
    """
    told = {
        ConnectionState.ACTIVE,
        ConnectionState.PAUSED,
        ConnectionState.NEEDS_REAUTHORISATION,
    }
    with vault.read() as session:
        found = [
            (row.id, row.state == ConnectionState.ACTIVE or (named and not _needs_a_person(row)))
            for row in connections.listed(session)
            for named in [row.id == number]
            if row.kind in LIVE and (row.state in told if number is None else named)
        ]
    if number is not None and not found:
        raise NotFound(f"There is no connection with the number {number}.")
    return found


def _needs_a_person(row: Connection) -> bool:
    """Tell whether nothing is asked until somebody signs in there, or confirms after a restore."""
    confirm = row.state == ConnectionState.PAUSED and row.sentence is not None
    return confirm or row.state == ConnectionState.NEEDS_REAUTHORISATION


def _pulled(vault: Vault, patient: Patient, number: int) -> Iterator[Item]:
    with vault.read() as session:
        row = connections.get(session, number)
        last = connections.last_pull(session, number)
        lines = connections.lines(session, last.id) if last else []
        yield {
            "kind": "pull",
            "patient": patient.name,
            "connection": number,
            "name": row.name,
            "state": last.state if last and row.state != ConnectionState.PAUSED else row.state,
            "sentence": row.sentence or (last.sentence if last else None),
            "needs_a_person": _needs_a_person(row),
            **_sums(lines),
        }
        for line in lines:
            yield {
                "kind": "line",
                "connection": number,
                "chain": line.chain,
                "type": line.type,
                "state": line.state,
                "sentence": line.sentence,
                "claimed": line.claimed,
                **_sums([line]),
            }


def _sums(lines: Sequence[LedgerLine]) -> dict[str, int]:
    keys = ("got", "new", "changed", "unchanged", "quarantined")
    return {key: sum(getattr(line, key) for line in lines) for key in keys}


def _import(appliance: Appliance, *, files: Sequence[str], patient: str) -> Iterator[Item]:
    vault = _vault(appliance, patient)
    failed = []
    for item in record_commands.import_files(vault, files, AT_THE_SHELL):
        if item.get("state") == PullState.FAILED:
            failed.append(Path(item["file"]).name)
        yield item
    if failed:
        raise PhrError(f"Nothing of {', '.join(failed)} could be kept: see above.")


def _export(appliance: Appliance, *, patient: str, out: str) -> Iterator[Item]:
    yield from record_commands.export_record(_vault(appliance, patient), out, AT_THE_SHELL)


def _chart(appliance: Appliance, *, section: str, patient: str) -> Iterator[Item]:
    yield from record_commands.chart(_vault(appliance, patient), section)


# ------------------------------------------------------------------ sharing and audit


def _grant_list(appliance: Appliance, *, patient: str, ended: bool) -> Iterator[Item]:
    with _vault(appliance, patient).read() as session:
        for one in session.scalars(select(Grant).order_by(Grant.created_at)):
            if ended or one.state != "ended":
                recipient = session.get_one(Recipient, one.recipient_id)
                yield _grant_item(one, recipient.name)


def _grant_item(grant: Grant, recipient: str) -> Item:
    return {
        "grant": grant.id,
        "recipient": recipient,
        "role": grant.role,
        "state": grant.state,
        "ended_because": grant.ended_because,
        "starts_at": grant.starts_at.isoformat(),
        "ends_at": grant.ends_at.isoformat(),
        "uses_left": grant.uses_left,
    }


def _grant_revoke(appliance: Appliance, *, grant: str, patient: str) -> Iterator[Item]:
    vault = _vault(appliance, patient)
    gate.end(vault, grant, "patient", AT_THE_SHELL, now=clock.now())
    with vault.read() as session:
        row = session.get_one(Grant, grant)
        yield _grant_item(row, session.get_one(Recipient, row.recipient_id).name)


def _activity(appliance: Appliance, *, patient: str, limit: int) -> Iterator[Item]:
    with _vault(appliance, patient).read() as session:
        named = select(Grant.id, Recipient.name).join(Recipient, Recipient.id == Grant.recipient_id)
        recipients = {row[0]: row[1] for row in session.execute(named)}
        places = gate.place_names(session)
        for entry in audit.entries(session, limit=limit):
            line = activity.line(entry, recipients, None, places)
            yield {
                "seq": entry.seq,
                "at": entry.at.isoformat(),
                "event": entry.event,
                "actor": entry.actor.get("name", entry.actor["kind"]),
                "grant": entry.grant_id,
                "sentence": f"{line.who} {line.what}".strip(),
                "detail": entry.detail,
            }


# ------------------------------------------------------------------ the box


def _backup(appliance: Appliance, *, patient: str | None) -> Iterator[Item]:
    chosen, shut = _chosen(appliance, patient)
    for one in chosen:
        made = backup.back_up(
            appliance.house,
            appliance.vaults,
            one.id,
            keep=appliance.settings.backup_keep,
            reason="by hand",
        )
        counts = made.manifest.counts if made.manifest else {}
        yield {
            "vault": one.id,
            "patient": one.name,
            "folder": str(made.folder),
            "bytes": made.size,
            "records": counts.get("record", 0),
            "sealed": False,
        }
    for one in shut:
        kept = next(iter(_readable(appliance, one.id)), None)
        yield {
            "vault": one.id,
            "patient": one.name,
            "folder": str(kept.folder) if kept else None,
            "bytes": kept.size if kept else 0,
            "records": kept.manifest.counts.get("record", 0) if kept and kept.manifest else 0,
            "sealed": True,
        }


def _readable(appliance: Appliance, patient_id: str) -> Iterator[backup.Backup]:
    """Yield the backups of a record that can be read, newest first."""
    for one in backup.list_backups(appliance.house, patient_id):
        if one.manifest is not None:
            yield one


def _restore(
    appliance: Appliance,
    *,
    folder: str,
    password: str | None = None,
    kit: str | None = None,
    bring_back: bool,
) -> Iterator[Item]:
    done = restore.restore(
        appliance.house,
        appliance.vaults,
        Path(folder),
        password=password,
        kit=kit,
        bring_back=bring_back,
    )
    yield {
        "vault": done.patient_id,
        "patient": done.name,
        "new_here": done.new_here,
        "grants_suspended": done.grants_suspended,
        "connections_paused": done.connections_paused,
        "sentence": done.sentence,
    }


def _alive(appliance: Appliance) -> Iterator[Item]:
    """Ask our own listener; what answered the command already is the control socket."""
    alive.ask_listener(appliance.settings)
    yield from ()


def _check(appliance: Appliance, *, connection: int | None = None, **given: Any) -> Iterator[Item]:
    if connection is not None:
        yield from _check_connection(appliance, connection, **given)
        return
    problems = False
    for finding in selfcheck.look(appliance):
        problems |= finding.level is selfcheck.Level.PROBLEM
        yield {
            "level": finding.level,
            "name": finding.name,
            "subject": finding.subject,
            "sentence": finding.sentence,
        }
    if problems:
        raise Conflict("Something needs to be put right: see above.")


def _check_connection(
    appliance: Appliance, connection: int, *, patient: str, now: bool, unnamed: bool
) -> Iterator[Item]:
    """Report what a connected hospital's interface does; with `now` it is asked first."""
    from phr import conformance  # noqa: PLC0415 - most calls never make a report

    vault = _vault(appliance, patient)
    seen = conformance.look(vault, connection, appliance.http) if now else None
    for item in conformance.report(vault, connection, seen, named=not unnamed):
        yield item.to_json()


COMMANDS: dict[str, Command] = {
    "account.create": _account_create,
    "account.list": _account_list,
    "vault.create": _vault_create,
    "vault.list": _vault_list,
    "vault.open": _vault_open,
    "vault.seal": _vault_seal,
    "vault.shred": _vault_shred,
    "connect": _connect,
    "pull": _pull,
    "import": _import,
    "export": _export,
    "chart": _chart,
    "grant.list": _grant_list,
    "grant.revoke": _grant_revoke,
    "activity": _activity,
    "backup": _backup,
    "restore": _restore,
    "check": _check,
    "check.alive": _alive,
    "catalogue.apply": catalogue_commands.apply,
    "catalogue.show": catalogue_commands.show,
}
