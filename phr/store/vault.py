"""Vaults: which are open, with which key, and everything that happens to a key while it lives.

A vault is one person's encrypted file with its slots file. People and passwords are `accounts`.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from phr import clock, ids, logs
from phr.errors import Damaged, NotFound, PhrError, Sealed, WrongSecret
from phr.store import audit, backup, files, slots
from phr.store.connections import PLACES
from phr.store.database import Database, Priority, remove
from phr.store.house import House, bury, put_setting
from phr.store.models import (
    Connection,
    ConnectionState,
    Grant,
    GrantState,
    Invitation,
    MailRoute,
    Member,
    Membership,
    Patient,
    PatientState,
    PendingAuthorization,
    Route,
    SealedEvent,
    Setting,
    VaultFact,
)
from phr.store.slots import KeyPair, Pinned, Slots

log = logging.getLogger(__name__)

ROLLED_BACK = (
    "This record's file is older than it was when Homeport last wrote to it. Somebody may have"
    " restored or exchanged it. Sharing is suspended until you confirm it again."
)
SLOTS_CHANGED = "The key slots of this record had been changed from outside. They were made anew."
MAKING = "making "  # and a vault's id: files are there or coming, and nobody has them yet
CHECK = "This record was restored. Check that this connection is still right, then resume it."


@dataclass(eq=False, slots=True)
class Vault:
    """An open vault. `id_key` makes local ids, `audit_key` and `epoch` the audit chain."""

    id: str
    key: bytes = field(repr=False)
    database: Database
    house: House = field(repr=False)
    id_key: bytes = field(default=b"", repr=False)
    audit_key: bytes = field(default=b"", repr=False)
    box_private: bytes = field(default=b"", repr=False)
    epoch: int = 1
    # lines that pages drew of records (phr.views.timeline): emptied with the key, never for a door
    drawn: dict[Any, Any] = field(default_factory=dict, repr=False)

    def read(self) -> AbstractContextManager[Session]:
        """Give a session on one snapshot of the vault. Raises Sealed once it is sealed."""
        return self.database.read()

    @contextmanager
    def write(self, priority: Priority = Priority.NORMAL) -> Iterator[Session]:
        """Give the writer's session; after the commit the audit mark goes to house.db.

        Functions in `session.info["after"]` are called between the two: it is committed then.
        """
        with self.database.write(priority) as session:
            yield session
        for told in session.info.get("after", ()):
            told()
        mark = session.info.get("mark")
        if mark is not None:
            self.house.advance_mark(self.id, mark)

    def urgent_waiting(self) -> bool:
        """Tell a bulk writer that it should end its transaction now."""
        return self.database.urgent_waiting()

    def load_facts(self) -> None:
        """Read the vault's own keys and epoch. Raises Damaged when the file is another record's."""
        with self.database.read() as session:
            facts = {fact.name: fact.value for fact in session.scalars(select(VaultFact))}
        if facts.get("id") != self.id.encode():
            raise Damaged("This file belongs to another record. It was not touched.")
        self.id_key = facts["id_key"]
        self.audit_key = facts["audit_key"]
        self.box_private = facts["box_private"]
        self.epoch = int(facts["epoch"])

    def fact(self, name: str) -> bytes | None:
        """Return one fact of the vault."""
        with self.read() as session:
            row = session.get(VaultFact, name)
            return None if row is None else row.value


@dataclass(frozen=True, slots=True)
class Founder:
    """The first member of a new vault."""

    account_id: str
    name: str
    role: str
    public_key: bytes
    wraps: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


class Loan:
    """What opens records for a while only: see `Vaults.lend`."""


class Vaults:
    """All vaults of the house: sealed or open. Safe to use from any thread."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.folder = house.vaults_folder
        self.on_open: list[Callable[[Vault], None]] = []
        self._open: dict[str, Vault] = {}
        self._lent: dict[str, set[Loan]] = {}  # what is open for as long as one of these lasts
        self._changing = threading.RLock()
        self._sweep()

    # ------------------------------------------------------------------ which are open

    def get(self, vault_id: str) -> Vault:
        """Return an open vault. Raises Sealed, or NotFound when there is none of this id."""
        vault = self._open.get(vault_id)
        if vault is None:
            if vault_id in self.ids():
                raise Sealed
            raise NotFound
        return vault

    def is_open(self, vault_id: str) -> bool:
        """Tell whether a vault is open."""
        return vault_id in self._open

    def open_ids(self) -> list[str]:
        """Return the ids of open vaults."""
        return list(self._open)

    def ids(self) -> list[str]:
        """Return the ids of all vaults that exist, shredded ones left out."""
        with self.house.read() as session:
            query = select(Patient.id).where(Patient.state == PatientState.ACTIVE)
            return list(session.scalars(query.order_by(Patient.created_at)))

    def path(self, vault_id: str) -> Path:
        """Return the vault's file; the slots file lies beside it as `.slots`."""
        return self.folder / f"{vault_id}.db"

    def slots_path(self, vault_id: str) -> Path:
        """Return the slots file."""
        return self.folder / f"{vault_id}.slots"

    def slots_of(self, vault_id: str) -> Slots:
        """Read the slots file. Raises Damaged also when it belongs to another vault."""
        held = slots.read_file(self.slots_path(vault_id))
        if held.vault_id != vault_id:
            raise Damaged("The key slots beside this record belong to another one.")
        return held

    def opens_by_itself(self, vault_id: str) -> bool:
        """Tell whether there is a house slot."""
        return any(ring.house for ring in self.slots_of(vault_id).rings)

    # ------------------------------------------------------------------ making

    def create(
        self, vault_id: str, founder: Founder, *, person: Mapping[str, Any], by_itself: bool
    ) -> Vault:
        """Make the files of a new vault: database first, slots last. It is not registered yet.

        The caller adds the Patient row, in the same transaction calls `is_made`, and then
        `register`; a crash before that leaves files that the next start sweeps away.
        """
        with self._changing:
            self.house.set_setting(f"{MAKING}{vault_id}", value=True)
            key, box = ids.random_bytes(slots.KEY_BYTES), slots.new_key_pair()
            database = Database.open(self.path(vault_id), key, kind="vault", create=True)
            with database.write() as session:
                session.add_all(_first_rows(vault_id, box, founder, person))
            pinned = Pinned(founder.account_id, founder.public_key, founder.wraps)
            ring = slots.make_ring(vault_id, key, [pinned], self._house_key(on=by_itself))
            held = slots.signed(Slots(vault_id, box.public, ring), [key])
            slots.write_file(self.slots_path(vault_id), held)
            vault = Vault(vault_id, key, database, self.house)
            vault.load_facts()
            return vault

    def coming(self, vault_id: str) -> tuple[Path, Path]:
        """Return the names under which a restored vault and its slots are made ready."""
        return self.folder / f"{vault_id}.coming", self.folder / f"{vault_id}.coming-slots"

    def swap_in(self, vault_id: str) -> None:
        """Put what is ready in the live files' place. The slots are the sign that all is ready.

        A crash in between is finished at the next start (`_sweep`).
        """
        coming, coming_slots = self.coming(vault_id)
        with self._changing:
            self.seal(vault_id)
            with files.in_words():
                if coming.exists():
                    remove(self.path(vault_id))
                    coming.replace(self.path(vault_id))
                    files.flush(self.path(vault_id))
                coming_slots.replace(self.slots_path(vault_id))
                files.flush(self.slots_path(vault_id))

    def register(self, vault: Vault) -> Vault:
        """Take an opened vault in and tell those who wait for it."""
        self._open[vault.id] = vault
        self.house.open_vaults.add(vault.id)
        for told in self.on_open:
            told(vault)
        return vault

    def _sweep(self) -> None:
        """Finish what a crash left: files of shredded vaults, files of vaults nobody has."""
        known = set(self.ids())
        for vault_id in self.house.buried("vault") - known:
            if self.path(vault_id).exists() or (self.house.backups_folder / vault_id).exists():
                self.shred_files(vault_id)
        for vault_id in self._never_made():
            self.slots_path(vault_id).unlink(missing_ok=True)
            remove(self.path(vault_id))
            self.house.set_setting(f"{MAKING}{vault_id}", None)
        for ready in self.folder.glob("*.coming-slots"):
            self.swap_in(ready.stem)
        for left in {*self.folder.glob("*.new"), *self.folder.glob("*.coming*")}:
            left.unlink()
        for part in self.house.backups_folder.glob("*/.*.part*"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()

    def _never_made(self) -> list[str]:
        with self.house.read() as session:
            begun = Setting.name.startswith(MAKING, autoescape=True)
            names = list(session.scalars(select(Setting.name).where(begun)))
        return [name.removeprefix(MAKING) for name in names]

    # ------------------------------------------------------------------ opening and sealing

    def open_with(self, vault_id: str, key: bytes) -> Vault:
        """Open a vault with its key; an open one is returned as it is."""
        return self.open_with_any(vault_id, [key])

    def open_with_pair(
        self, vault_id: str, account_id: str, pair: KeyPair, loan: Loan | None = None
    ) -> Vault:
        """Open a vault through a member's slot. Raises WrongSecret when there is none."""
        keys = slots.keys_for_member(self.slots_of(vault_id), account_id, pair)
        return self.open_with_any(vault_id, keys, loan)

    @contextmanager
    def lend(self) -> Iterator[Loan]:
        """Give a loan to open records with: what was sealed before is sealed again at its end.

        Unless another loan still needs it, or somebody opened it to stay open meanwhile.
        """
        loan = Loan()
        try:
            yield loan
        finally:
            with self._changing:
                for vault_id, loans in list(self._lent.items()):
                    loans.discard(loan)
                    if not loans:
                        self.seal(vault_id)

    def open_by_themselves(self) -> list[str]:
        """Open every vault that has a house slot; one that fails stays sealed and is logged."""
        opened = []
        for vault_id in self.ids():
            try:
                keys = slots.keys_for_house(self.slots_of(vault_id), self.house.key)
                if keys:
                    self.open_with_any(vault_id, keys)
                    opened.append(vault_id)
            except PhrError as error:
                logs.event(log, "vault.not_opened", logging.ERROR, vault=vault_id)
                with suppress(PhrError):  # the disk that refused the vault may refuse this too
                    self.house.warn(vault_id, error.sentence)
        return opened

    def open_restored(
        self, vault_id: str, key: bytes, detail: Mapping[str, Any]
    ) -> tuple[Vault, tuple[int, int]]:
        """Open a file that was just put in place of the live one; see `distrust`."""
        with self._changing:
            held = self.slots_of(vault_id)
            vault = self._try_keys(vault_id, held, [key])
            try:
                self._remake_slots(vault, held)
                stopped = self.distrust(vault, "vault.restored", **detail)
                _resume_places(vault)
                self._merge_notes(vault)
            except BaseException:
                vault.database.close()
                raise
            return self.register(vault), stopped

    def open_with_any(
        self, vault_id: str, keys: Sequence[bytes], loan: Loan | None = None
    ) -> Vault:
        """Open with whichever key fits (old and new one while a key is being changed)."""
        with self._changing:
            if vault_id in self._open:
                self._lend_open(vault_id, loan)
                return self._open[vault_id]
            if vault_id not in self.ids():
                raise NotFound
            if self.coming(vault_id)[1].exists():
                self.swap_in(vault_id)  # a restore that the disk stopped half-way
            held = self.slots_of(vault_id)
            vault = self._try_keys(vault_id, held, keys)
            try:
                self._settle(vault, held)
                _resume_places(vault)
            except BaseException:
                vault.database.close()
                raise
            logs.event(log, "vault.opened", vault=vault_id)
            if loan is not None:
                self._lent[vault_id] = {loan}
            return self.register(vault)

    def _lend_open(self, vault_id: str, loan: Loan | None) -> None:
        """Note who needs a vault that is open already; opened without a loan, it stays open."""
        if loan is None:
            self._lent.pop(vault_id, None)
        elif vault_id in self._lent:
            self._lent[vault_id].add(loan)

    def _try_keys(self, vault_id: str, held: Slots, keys: Sequence[bytes]) -> Vault:
        for key in keys:
            try:
                database = self._open_file(vault_id, held, key)
            except WrongSecret:
                continue
            vault = Vault(vault_id, key, database, self.house)
            try:
                vault.load_facts()
            except BaseException:
                database.close()
                raise
            return vault
        if keys:
            raise Damaged(
                "The keys of this record do not open its file: it is damaged or another one's."
                " It was not touched; restore a backup to go on."
            )
        raise WrongSecret

    def _open_file(self, vault_id: str, held: Slots, key: bytes) -> Database:
        def keep_copy(database: Database, _version: int) -> None:
            target = self.house.backups_folder / vault_id
            backup.write_backup(database, held, key, target, "before migration")
            backup.let_go(target, keep=3)

        path = self.path(vault_id)
        return Database.open(path, key, kind="vault", before_migration=keep_copy)

    def _settle(self, vault: Vault, held: Slots) -> None:
        """Bring slots, members, audit mark and waiting notes into order after opening."""
        self._settle_slots(vault, held)
        self._settle_members(vault)
        with vault.read() as session:
            trusted = audit.follows(session, vault.epoch, self.house.mark_of(vault.id))
        if not trusted:
            self.house.warn(vault.id, ROLLED_BACK)
            logs.event(log, "vault.rolled_back", logging.ERROR, vault=vault.id)
            self.distrust(vault, "vault.rolled_back")
        self._merge_notes(vault)

    def _settle_slots(self, vault: Vault, held: Slots) -> None:
        known = vault.fact("generation")
        if not slots.authentic(held, vault.key) or held.generation < int(known or b"0"):
            self.house.warn(vault.id, SLOTS_CHANGED)
            logs.event(log, "slots.changed", logging.ERROR, vault=vault.id)
            self._remake_slots(vault, held)
        elif held.pending is not None:
            ring = next(ring for ring in held.rings if ring.key_id == slots.key_id(vault.key))
            self._save_slots(vault, replace(held, current=ring, pending=None))
        elif known is None or held.generation > int(known):
            self._note_generation(vault, held.generation)

    def _settle_members(self, vault: Vault) -> None:
        """Give each pinned member a slot; a slot of somebody no longer pinned means: rotate."""
        held = self.slots_of(vault.id)
        pinned = {member.account_id for member in self.members(vault)}
        slotted = {slot.account_id for slot in held.current.slots}
        if slotted - pinned:
            self.rotate(vault)
        elif pinned - slotted:
            self._remake_slots(vault, held)

    def _merge_notes(self, vault: Vault) -> None:
        """Bring in what happened while sealed: into the vault first, then out of house.db."""
        with self.house.read() as session:
            waiting = select(SealedEvent).where(SealedEvent.patient_id == vault.id)
            notes = list(session.scalars(waiting.order_by(SealedEvent.id)))
        if not notes:
            return
        merged = set((vault.fact("merged") or b"").decode().split())
        with vault.write(Priority.URGENT) as session:
            for note in notes:
                if ids.fingerprint(note.box).hex() not in merged:
                    content = slots.take_from_box(vault.box_private, vault.id, note.box)
                    audit.merge(session, vault, content)
            names = " ".join(ids.fingerprint(note.box).hex() for note in notes)
            session.merge(VaultFact(name="merged", value=names.encode()))
        with self.house.write() as session:
            for note in notes:
                session.delete(session.get_one(SealedEvent, note.id))

    def note(
        self,
        vault_id: str,
        event: str,
        actor: Mapping[str, Any],
        *,
        grant_id: str | None = None,
        **detail: Any,
    ) -> None:
        """Append an audit line to a vault, or put it aside encrypted when the vault is sealed."""
        vault = self._open.get(vault_id)
        if vault is not None:
            with vault.write(Priority.URGENT) as session:
                audit.append(session, vault, event, actor, grant_id=grant_id, **detail)
            return
        box_key = self.slots_of(vault_id).box_key
        with self.house.write(Priority.URGENT) as session:
            audit.put_aside(session, vault_id, box_key, event, actor, grant_id=grant_id, **detail)

    def seal(self, vault_id: str) -> None:
        """Close a vault and forget its key; readers still at work are interrupted."""
        with self._changing:
            vault = self._open.pop(vault_id, None)
            self._lent.pop(vault_id, None)
            self.house.open_vaults.discard(vault_id)
            if vault is not None:
                vault.database.close()
                vault.key = vault.id_key = vault.audit_key = vault.box_private = b""
                vault.drawn.clear()
                logs.event(log, "vault.sealed", vault=vault_id)

    def close(self) -> None:
        """Seal every vault."""
        for vault_id in self.open_ids():
            self.seal(vault_id)

    # ------------------------------------------------------------------ members and slots

    def members(self, vault: Vault) -> list[Member]:
        """Return the members pinned in the vault."""
        with vault.read() as session:
            return list(session.scalars(select(Member).order_by(Member.pinned_at)))

    def pin(self, vault: Vault, member: Member, wraps: tuple[Mapping[str, Any], ...]) -> None:
        """Pin a new member inside the vault, then give it a slot."""
        with self._changing:
            with vault.write(Priority.URGENT) as session:
                session.merge(member)
            self.refresh(vault, {member.account_id: wraps})

    def unpin(self, vault: Vault, account_id: str) -> None:
        """Take a member's pin away and change the vault's key; old backups stay readable to it."""
        with self._changing:
            with vault.write(Priority.URGENT) as session:
                gone = session.get(Member, account_id)
                if gone is not None:
                    session.delete(gone)
            self.rotate(vault)

    def rotate(self, vault: Vault) -> None:
        """Give the vault a new key: pending slots, rekey, verify, drop the old ones.

        A crash at any step leaves a file that one of the two rings opens.
        """
        with self._changing:
            held, new = self._settled(vault), ids.random_bytes(slots.KEY_BYTES)
            house_key = self._house_key(on=held.current.house is not None)
            ring = slots.make_ring(vault.id, new, self._pinned(vault, held), house_key)
            held = replace(held, pending=ring, generation=held.generation + 1)
            slots.write_file(self.slots_path(vault.id), slots.signed(held, [vault.key, new]))
            try:
                vault.database.rekey(new)
            except PhrError:
                self._after_failed_rekey(vault, new)
                raise
            vault.key = new
            vault.drawn.clear()
            self._save_slots(vault, replace(held, current=ring, pending=None))
            logs.event(log, "vault.rekeyed", vault=vault.id)

    def _after_failed_rekey(self, vault: Vault, new: bytes) -> None:
        """Go on with the key that fits now; the slots hold both, so the next opening finds it."""
        if vault.database.has_key(new):
            vault.key = new
        elif not vault.database.has_key(vault.key):
            self.seal(vault.id)

    def _settled(self, vault: Vault) -> Slots:
        """Return the slots; what a key change that failed left is brought into order before."""
        held = self.slots_of(vault.id)
        if held.pending is None:
            return held
        ring = next(ring for ring in held.rings if ring.key_id == slots.key_id(vault.key))
        self._save_slots(vault, replace(held, current=ring, pending=None))
        return self.slots_of(vault.id)

    def set_by_itself(self, vault: Vault, *, on: bool) -> None:
        """Add or remove the house slot; removing changes the key, as the house saw the old one."""
        with self._changing:
            held = self._settled(vault)
            ring = slots.with_house(held.current, vault.id, vault.key, self._house_key(on=on))
            self._save_slots(vault, replace(held, current=ring))
            if not on:
                self.rotate(vault)

    def put_wraps(
        self, vault_id: str, account_id: str, pair: KeyPair, wraps: tuple[Mapping[str, Any], ...]
    ) -> None:
        """Copy an account's wraps into a slots file (also of a sealed vault): for restoring."""
        with self._changing:
            held = self.slots_of(vault_id)
            keys = slots.keys_for_member(held, account_id, pair)
            by_name = {slots.key_id(key): key for key in keys}
            if not keys or any(ring.key_id not in by_name for ring in held.rings):
                raise WrongSecret
            rings = [_with_wraps(ring, account_id, wraps) for ring in held.rings]
            if rings == list(held.rings):
                return
            pending = rings[1] if len(rings) > 1 else None
            held = replace(held, current=rings[0], pending=pending, generation=held.generation + 1)
            slots.write_file(self.slots_path(vault_id), slots.signed(held, keys))

    def refresh(self, vault: Vault, wraps: Mapping[str, tuple[Mapping[str, Any], ...]]) -> None:
        """Make the slots of an open vault anew, with these wraps of its members' keys."""
        with self._changing:
            self._remake_slots(vault, self._settled(vault), wraps)

    def _remake_slots(
        self,
        vault: Vault,
        held: Slots,
        wraps: Mapping[str, tuple[Mapping[str, Any], ...]] | None = None,
    ) -> None:
        house_key = self._house_key(on=held.current.house is not None)
        ring = slots.make_ring(vault.id, vault.key, self._pinned(vault, held, wraps), house_key)
        box_key = slots.public_of(vault.box_private)
        generation = max(held.generation, int(vault.fact("generation") or b"0"))
        self._save_slots(vault, Slots(vault.id, box_key, ring, None, generation))

    def _save_slots(self, vault: Vault, held: Slots) -> None:
        saved = slots.signed(replace(held, generation=held.generation + 1), [vault.key])
        slots.write_file(self.slots_path(vault.id), saved)
        self._note_generation(vault, saved.generation)

    def _note_generation(self, vault: Vault, generation: int) -> None:
        with vault.write(Priority.URGENT) as session:
            session.merge(VaultFact(name="generation", value=str(generation).encode()))

    def _pinned(
        self,
        vault: Vault,
        held: Slots,
        wraps: Mapping[str, tuple[Mapping[str, Any], ...]] | None = None,
    ) -> list[Pinned]:
        kept = {slot.account_id: slot.wraps for ring in held.rings for slot in ring.slots}
        kept.update(wraps or {})
        return [
            Pinned(member.account_id, member.public_key, tuple(kept.get(member.account_id, ())))
            for member in self.members(vault)
        ]

    def _house_key(self, *, on: bool) -> bytes | None:
        return self.house.key if on else None

    # ------------------------------------------------------------------ shredding

    def bury(self, session: Session, patient: Patient) -> None:
        """Write the tombstone of a record in the caller's house transaction."""
        bury(session, "vault", patient.id)
        patient.state, patient.name, patient.audit_head = PatientState.SHREDDED, "", None
        for model in (Membership, Invitation, Route, MailRoute, SealedEvent, PendingAuthorization):
            session.execute(delete(model).where(model.patient_id == patient.id))
        put_setting(session, f"warnings:{patient.id}", None)

    def shred_files(self, vault_id: str) -> None:
        """Remove what is left of a buried record: slots first, then database and local backups."""
        with self._changing:
            self.seal(vault_id)
            self.slots_path(vault_id).unlink(missing_ok=True)
            for held in (self.house.backups_folder / vault_id).rglob("*.slots"):
                held.unlink()
            remove(self.path(vault_id))
            for folder in (self.house.backups_folder, self.house.data / files.ARRIVALS):
                shutil.rmtree(folder / vault_id, ignore_errors=True)
            logs.event(log, "vault.shredded", vault=vault_id)

    # ------------------------------------------------------------------ after a restore

    def distrust(self, vault: Vault, event: str, **detail: Any) -> tuple[int, int]:
        """Begin a new audit epoch in a vault that is not the one last written here.

        Active grants are suspended until confirmed, grants that were ended stay ended, connections
        to servers are paused for checking. Returns how many grants and connections were stopped.
        """
        buried = self.house.buried("grant")
        mark = self.house.mark_of(vault.id)
        epoch = max(vault.epoch, mark.epoch if mark else 0) + 1
        with vault.write(Priority.URGENT) as session:
            session.merge(VaultFact(name="epoch", value=str(epoch).encode()))
            vault.epoch = epoch
            grants = _suspend_grants(session, buried)
            connections = _pause_connections(session)
            audit.append(session, vault, event, audit.APPLIANCE, **detail)
        return grants, connections


def is_made(session: Session, vault_id: str) -> None:
    """Say in the house's transaction that somebody has this vault now (`Vaults.create`)."""
    put_setting(session, f"{MAKING}{vault_id}", None)


def person_of(vault: Vault) -> dict[str, Any]:
    """Return name and colour as the vault itself remembers them (for a restore elsewhere)."""
    return dict(json.loads(vault.fact("person") or b"{}"))


def keep_person(vault: Vault, person: Mapping[str, Any]) -> None:
    """Keep name, colour and demo mark inside the vault too."""
    with vault.write() as session:
        session.merge(VaultFact(name="person", value=json.dumps(person).encode()))


def _first_rows(
    vault_id: str, box: KeyPair, founder: Founder, person: Mapping[str, Any]
) -> Iterable[VaultFact | Member]:
    facts = {
        "id": vault_id.encode(),
        "id_key": ids.random_bytes(slots.KEY_BYTES),
        "audit_key": ids.random_bytes(slots.KEY_BYTES),
        "box_private": box.private,
        "epoch": b"1",
        "generation": b"1",
        "person": json.dumps(person).encode(),
    }
    yield from (VaultFact(name=name, value=value) for name, value in facts.items())
    yield Member(
        account_id=founder.account_id,
        name=founder.name,
        public_key=founder.public_key,
        role=founder.role,
        pinned_at=clock.now(),
        pinned_by=None,
    )


def _with_wraps(
    ring: slots.Ring, account_id: str, wraps: tuple[Mapping[str, Any], ...]
) -> slots.Ring:
    return replace(
        ring,
        slots=tuple(
            replace(slot, wraps=wraps) if slot.account_id == account_id else slot
            for slot in ring.slots
        ),
    )


def _suspend_grants(session: Session, buried: frozenset[str]) -> int:
    stopped = 0
    for grant in session.scalars(select(Grant).where(Grant.state != GrantState.ENDED)):
        if grant.id in buried:
            grant.state, grant.ended_because = GrantState.ENDED, "ended before the restore"
            grant.ended_at = clock.now()
        elif grant.state == GrantState.ACTIVE:
            grant.state = GrantState.SUSPENDED
            stopped += 1
    return stopped


def _pause_connections(session: Session) -> int:
    running = (ConnectionState.ACTIVE, ConnectionState.NEEDS_REAUTHORISATION)
    session.execute(update(Connection).values(claimed_by=None))
    stopped = session.execute(
        update(Connection)
        .where(Connection.state.in_(running), Connection.kind.not_in(PLACES))
        .values(state=ConnectionState.PAUSED, sentence=CHECK)
        .returning(Connection.id)
    )
    return len(stopped.all())


def _resume_places(vault: Vault) -> None:
    """Set places of files and own statements active again; earlier versions paused these too."""
    paused = (Connection.kind.in_(PLACES), Connection.state == ConnectionState.PAUSED)
    with vault.read() as session:
        if session.scalar(select(Connection.id).where(*paused).limit(1)) is None:
            return
    with vault.write(Priority.URGENT) as session:
        active = {"state": ConnectionState.ACTIVE, "sentence": None}
        session.execute(update(Connection).where(*paused).values(active))
