"""Putting a backup back: found key, verified, brought in under a new name, swapped, distrusted.

Needs the backup and a member's password or recovery kit only: no house.key, no house.db of then.
Nothing of the live record changes before the backup is known to be whole.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Rows

from phr import clock, ids, logs
from phr.errors import Conflict, Damaged, PhrError, WrongSecret
from phr.store import accounts, audit, backup, files, limits, slots
from phr.store.backup import Manifest
from phr.store.database import Database, Priority, remove
from phr.store.house import House
from phr.store.models import Account, Member, Membership, Patient, PatientState, Tombstone
from phr.store.models import Session as Browser
from phr.store.slots import KeyPair, Slots
from phr.store.vault import Vault, Vaults, person_of

log = logging.getLogger(__name__)

SHREDDED = (
    "This record was destroyed on purpose on this machine. It is brought back only when you ask"
    " for that explicitly."
)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `new_here`: neither the person nor its accounts were known before."""

    patient_id: str
    name: str
    new_here: bool
    grants_suspended: int
    connections_paused: int
    sentence: str


def restore(
    house: House,
    vaults: Vaults,
    folder: Path,
    *,
    password: str | None = None,
    kit: str | None = None,
    bring_back: bool = False,
) -> Restored:
    """Put the backup in `folder` in the place of its record, or bring that record in anew.

    Without a secret the key of the open vault is used. Afterwards grants are suspended until
    confirmed (ended ones stay ended), connections paused, the members' sessions ended, and a new
    audit epoch begins. `bring_back` is needed for a record that was shredded here. Raises Damaged,
    NewerSchema, NotFound (no backup there), WrongSecret, TooManyTries, Conflict.
    """
    manifest = backup.check_files(folder)
    patient_id = manifest.vault_id
    if patient_id in house.buried("vault") and not bring_back:
        raise Conflict(SHREDDED)
    held = slots.read_file(folder / backup.SLOTS)
    key = _find_key(house, vaults, held, password, kit)
    backup.verify_backup(folder, key)
    live = _live_slots(vaults, patient_id)
    seats = _reseat(house, held, key, live)
    _prepare(vaults, folder, key, patient_id)
    _replace(house, vaults, patient_id, seats)
    new_here = _register(house, held, key, vaults.path(patient_id), patient_id)
    detail = {"made_at": manifest.made_at.isoformat(), "program": manifest.program}
    vault, stopped = vaults.open_restored(patient_id, key, detail)
    _bring_up_to_date(house, vaults, vault, live)
    return _finish(house, vault, manifest, new_here=new_here, stopped=stopped)


def check(folder: Path, *, kit: str | None) -> None:
    """Refuse what is no backup or no recovery kit by its looks alone; no house is needed.

    Raises what `restore` would; WrongSecret names the group of a kit that was mistyped.
    """
    backup.check_files(folder)
    if kit is not None:
        slots.read_kit(kit)


# ---------------------------------------------------------------------- the key


def _find_key(
    house: House, vaults: Vaults, held: Slots, password: str | None, kit: str | None
) -> bytes:
    """Return the vault key of the backup, from the open vault or through a member's secret."""
    if password is None and kit is None:
        if vaults.is_open(held.vault_id):
            key = vaults.get(held.vault_id).key
            if slots.key_id(key) == held.current.key_id:
                return key
        raise WrongSecret(
            "This backup needs the password or the recovery kit of one of its members."
        )
    secret: str | bytes = slots.read_kit(kit) if kit is not None else accounts.plain(password or "")
    place = f"restore:{held.vault_id}"
    limits.take(house, [(place, limits.SIGN_IN)])
    for account_id, wrap in _wraps(house, held, "password" if kit is None else "kit"):
        for key in _keys(held, account_id, wrap, secret):
            limits.passed(house, place)
            return key
    raise WrongSecret("No member of this backup has that password or recovery kit.")


def _wraps(house: House, held: Slots, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the wraps of each member: as they were then, and as they are in this house now."""
    for slot in held.current.slots:
        here = accounts.wraps_if_known(house, slot.account_id)
        for wrap in (*slot.wraps, *(wrap for wrap in here if wrap not in slot.wraps)):
            if wrap.get("kind") == kind:
                yield slot.account_id, wrap


def _keys(
    held: Slots, account_id: str, wrap: Mapping[str, Any], secret: str | bytes
) -> list[bytes]:
    try:
        pair: KeyPair = slots.unwrap(wrap, secret)
    except (WrongSecret, Damaged):
        return []
    return slots.keys_for_member(held, account_id, pair)


# ---------------------------------------------------------------------- the files


def _reseat(house: House, held: Slots, key: bytes, live: Slots | None) -> Slots:
    """Return the backup's slots, with a house slot where the person has chosen one here."""
    chosen = house.key if live is not None and any(ring.house for ring in live.rings) else None
    ring = slots.with_house(held.current, held.vault_id, key, chosen)
    return slots.signed(replace(held, current=ring, pending=None), [key])


def _prepare(vaults: Vaults, folder: Path, key: bytes, patient_id: str) -> None:
    """Bring a copy of the database in under a new name, migrated and checked."""
    coming, coming_slots = vaults.coming(patient_id)
    try:
        with files.in_words():
            coming_slots.unlink(missing_ok=True)
            remove(coming)
            shutil.copyfile(folder / backup.VAULT, coming)
            coming.chmod(0o600)
            database = Database.open(coming, key, kind="vault")
            problems = database.problems()
            database.close()
            files.flush(coming)
        if problems:
            raise Damaged(f"The backup is damaged: {problems[0]}")
    except PhrError:
        remove(coming)
        raise


def _replace(house: House, vaults: Vaults, patient_id: str, held: Slots) -> None:
    """Put the old record aside, then the coming one in its place.

    Writing the coming slots decides it: before that a failure leaves everything as it was, after
    it the next opening finishes.
    """
    key = vaults.get(patient_id).key if vaults.is_open(patient_id) else None
    coming, coming_slots = vaults.coming(patient_id)
    try:
        with files.in_words():
            _put_old_aside(house, vaults, patient_id)
        slots.write_file(coming_slots, held)
    except PhrError:
        coming_slots.unlink(missing_ok=True)
        remove(coming)
        if key is not None:
            vaults.open_with(patient_id, key)
        raise
    vaults.swap_in(patient_id)


def _put_old_aside(house: House, vaults: Vaults, patient_id: str) -> None:
    """Keep what the restore replaces: as a backup when open, else the files as they lie there."""
    if vaults.is_open(patient_id):
        try:
            backup.back_up(house, vaults, patient_id, reason="before restore")
        except PhrError:
            logs.event(log, "restore.old_not_kept", logging.WARNING, vault=patient_id)
        else:
            vaults.seal(patient_id)
            return
        vaults.seal(patient_id)
    stamp = clock.now().strftime(backup.STAMP)
    aside = house.backups_folder / patient_id / f"{backup.REPLACED}{stamp}"
    for path in (vaults.path(patient_id), vaults.slots_path(patient_id)):
        for beside in (path, path.with_name(f"{path.name}-wal")):
            if beside.exists():
                aside.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(beside, aside / beside.name)
                (aside / beside.name).chmod(0o600)


def _live_slots(vaults: Vaults, patient_id: str) -> Slots | None:
    try:
        return vaults.slots_of(patient_id)
    except Damaged:
        return None


# ---------------------------------------------------------------------- people


def _register(house: House, held: Slots, key: bytes, path: Path, patient_id: str) -> bool:
    """Enter patient, accounts and memberships that this house does not know; tell whether new."""
    database = Database.open(path, key, kind="vault")
    try:
        with database.read() as session:
            members = list(session.scalars(select(Member)))
        peek = Vault(patient_id, key, database, house)
        peek.load_facts()
        person = person_of(peek)
    finally:
        database.close()
    with house.write() as session:
        row = session.get(Patient, patient_id)
        known = row is not None and row.state == PatientState.ACTIVE
        if not known:
            _enter_patient(session, patient_id, person, epoch=peek.epoch)
            wraps = {slot.account_id: slot.wraps for slot in held.current.slots}
            for member in members:
                _enter_member(session, patient_id, member, wraps.get(member.account_id, ()))
        return not known


def _enter_patient(
    session: Rows, patient_id: str, person: Mapping[str, Any], *, epoch: int
) -> None:
    """Enter somebody who is new here, with a mark that no file fits.

    A restore that is cut off from here on leaves a record that the next opening distrusts.
    """
    session.merge(
        Patient(
            id=patient_id,
            name=person.get("name", "Restored record"),
            colour=person.get("colour", 1),
            demo=person.get("demo", 0),
            state=PatientState.ACTIVE,
            created_at=clock.now(),
            audit_epoch=epoch,
            audit_seq=0,
            audit_head=b"",
        )
    )
    tombstone = session.get(Tombstone, ("vault", patient_id))
    if tombstone is not None:
        session.delete(tombstone)
    session.flush()


def _enter_member(
    session: Rows, patient_id: str, member: Member, wraps: tuple[Mapping[str, Any], ...]
) -> None:
    """Give a member its place back, with its account when this house does not have it."""
    account = session.get(Account, member.account_id)
    by_kind = {wrap["kind"]: dict(wrap) for wrap in reversed(wraps)}
    if account is None and "password" in by_kind:
        name = _free_name(session, member.name)
        account = Account(
            id=member.account_id,
            name=name,
            name_key=accounts.name_key(name),
            administrator=int(session.scalar(select(Account.id).limit(1)) is None),
            public_key=member.public_key,
            password_wrap=by_kind["password"],
            kit_wrap=by_kind.get("kit"),
            kit_confirmed_at=clock.now() if "kit" in by_kind else None,
            created_at=clock.now(),
        )
        session.add(account)
        session.flush()
    if account is not None and ids.same(account.public_key, member.public_key):
        session.merge(
            Membership(
                account_id=account.id, patient_id=patient_id, role=member.role, since=clock.now()
            )
        )
        session.flush()


def _free_name(session: Rows, name: str) -> str:
    tried, number = name, 1
    while session.scalar(select(Account.id).where(Account.name_key == accounts.name_key(tried))):
        number += 1
        tried = f"{name} ({number})"
    return tried


# ---------------------------------------------------------------------- afterwards


def _bring_up_to_date(house: House, vaults: Vaults, vault: Vault, live: Slots | None) -> None:
    """Let go of members removed since, and take today's wraps.

    When the vault's key was changed after the backup, somebody else may hold the old one: the
    restored file gets a new key.
    """
    with house.read() as session:
        query = select(Membership.account_id).where(Membership.patient_id == vault.id)
        standing = set(session.scalars(query))
    pinned = {member.account_id for member in vaults.members(vault)}
    for account_id in standing - pinned:
        _end_membership(house, vault.id, account_id)
    vaults.refresh(vault, {each: accounts.wraps_of(house, each) for each in standing & pinned})
    for account_id in pinned - standing:
        vaults.unpin(vault, account_id)
    held_key = slots.key_id(vault.key)
    if live is not None and pinned <= standing and live.current.key_id != held_key:
        vaults.rotate(vault)


def _end_membership(house: House, patient_id: str, account_id: str) -> None:
    """A member who came after the backup has no slot in it and must be invited again."""
    with house.write() as session:
        row = session.get_one(Membership, (account_id, patient_id))
        session.delete(row)
    house.warn(
        patient_id,
        "Somebody became a member after this backup was made, and has to be invited again.",
    )


def _finish(
    house: House, vault: Vault, manifest: Manifest, *, new_here: bool, stopped: tuple[int, int]
) -> Restored:
    grants, connections = stopped
    day = f"{manifest.made_at:%d %B %Y, %H:%M} UTC"
    sentence = (
        f"This record was restored from the backup of {day}. Shares suspended until you confirm"
        f" them: {grants}. Connections to check: {connections}. Records that came after the backup"
        " come again with the next pull."
    )
    house.warn(vault.id, sentence)
    with house.write(Priority.URGENT) as session:
        here = select(Membership.account_id).where(Membership.patient_id == vault.id)
        session.execute(delete(Browser).where(Browser.account_id.in_(here)))
        audit.append_house(session, house, "vault.restored", patient=vault.id)
    logs.event(log, "vault.restored", vault=vault.id)
    name = person_of(vault).get("name", "")
    return Restored(vault.id, name, new_here, grants, connections, sentence)
