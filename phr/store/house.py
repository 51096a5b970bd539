"""The house: its data folder and lock, its key, house.db and what is remembered outside vaults.

Who signs in is `accounts`, a person's record is `vault`. No clinical data here.
"""

import ctypes
import fcntl
import json
import logging
import os
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from phr import clock, ids, logs
from phr.errors import DataLocked, PhrError, SettingsError, WrongSecret
from phr.store import files
from phr.store.database import Database, Priority, rows
from phr.store.models import Patient, Setting, Tombstone
from phr.store.slots import KEY_BYTES

log = logging.getLogger(__name__)

PR_SET_DUMPABLE = 4
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "ceph", "fuse.sshfs", "fuse.rclone")
Buried = Literal["grant", "vault", "device"]


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """The high-water mark of a vault's audit chain: its epoch, last line and that line's hash."""

    epoch: int
    seq: int
    head: bytes | None = field(default=None, compare=False)


class House:
    """The opened data folder. One process holds it at a time."""

    def __init__(self, data: Path, key: bytes, database: Database, lock: int) -> None:
        self.data = data
        self.key = key
        self.database = database
        self._lock = lock
        self.open_vaults: set[str] = set()  # kept by Vaults; here for those who only know a house

    def __repr__(self) -> str:
        """Name the folder, never the key."""
        return f"House({self.data})"

    @classmethod
    def open(cls, data: Path, *, key_file: Path | None = None) -> "House":
        """Lock and open a data folder; an empty one gets its key and house.db.

        Raises DataLocked, SettingsError (folder or key file cannot be used, in one sentence),
        WrongSecret (the key does not open house.db), Damaged, NewerSchema.
        """
        lock = _take_folder(data)
        try:
            fresh = not begun(data)
            key = _house_key(data, key_file, fresh=fresh)
            database = _open_database(data / "house.db", key, fresh=fresh)
            return cls(data, key, database, lock)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Close house.db and give the data folder free."""
        self.database.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def vaults_folder(self) -> Path:
        """Return the folder of vault and slots files."""
        return self.data / "vaults"

    @property
    def backups_folder(self) -> Path:
        """Return the folder of backups."""
        return self.data / "backups"

    def read(self) -> AbstractContextManager[Session]:
        """Give a read session of house.db."""
        return self.database.read()

    def write(self, priority: Priority = Priority.NORMAL) -> AbstractContextManager[Session]:
        """Give the writer's session of house.db; may be used inside a vault's write, not around."""
        return self.database.write(priority)

    # ------------------------------------------------------------------ small facts

    def get_setting(self, name: str, default: Any = None) -> Any:
        """Return a small fact of the house, or `default`."""
        ask = "SELECT value FROM setting WHERE name = ?"  # plain: some are asked on every page
        with self.read() as session:
            found = rows(session, ask, (name,))
        return json.loads(found[0][0]) if found else default

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a small fact (a JSON value); None forgets it."""
        with self.write() as session:
            put_setting(session, name, value)

    def setting_or_made(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a small fact; the first time `make` gives it and it is kept.

        Whoever needs it at the same moment gets the one that was kept first. `make` may take long:
        it runs before the writer's turn, and what it made is dropped where another was quicker.
        """
        kept = self.get_setting(name)
        if kept is not None:
            return kept
        made = make()
        with self.write() as session:
            row = session.get(Setting, name)
            if row is not None:
                return row.value
            put_setting(session, name, made)
            return made

    # ------------------------------------------------------------------ high-water marks

    def mark_of(self, patient_id: str) -> Mark | None:
        """Return the high-water mark of a vault; None before its first audit line."""
        with self.read() as session:
            patient = session.get(Patient, patient_id)
            if patient is None or patient.audit_head is None:
                return None
            return Mark(patient.audit_epoch, patient.audit_seq, patient.audit_head)

    def advance_mark(self, patient_id: str, mark: Mark) -> None:
        """Move the mark forward, never back.

        Called after the vault has committed: failing here must not look as if that had failed. A
        mark that stays behind is harmless, the next one moves it on.
        """
        try:
            with self.write(Priority.URGENT) as session:
                session.connection().exec_driver_sql(
                    "UPDATE patient SET audit_epoch=?, audit_seq=?, audit_head=?"
                    " WHERE id=? AND (audit_epoch, audit_seq) < (?, ?)",
                    (mark.epoch, mark.seq, mark.head, patient_id, mark.epoch, mark.seq),
                )
        except PhrError:
            logs.event(log, "mark.behind", logging.WARNING, patient=patient_id, seq=mark.seq)

    # ------------------------------------------------------------------ tombstones

    def bury(self, kind: Buried, identifier: str) -> None:
        """Remember that a grant or a vault is over, whatever a backup says later."""
        with self.write(Priority.URGENT) as session:
            bury(session, kind, identifier)

    def buried(self, kind: Buried) -> frozenset[str]:
        """Return the ids of a kind that are over for ever."""
        with self.read() as session:
            return frozenset(session.scalars(select(Tombstone.id).where(Tombstone.kind == kind)))

    # ------------------------------------------------------------------ what people must know

    def warn(self, patient_id: str, sentence: str) -> None:
        """Keep a sentence for the members of a record until one of them dismisses it."""
        name = f"warnings:{patient_id}"
        with self.write() as session:
            row = session.get(Setting, name)
            known = [] if row is None else list(row.value)
            at = clock.to_ms(clock.now())
            known = [line for line in known if line["sentence"] != sentence]
            put_setting(session, name, [*known[-9:], {"at": at, "sentence": sentence}])

    def warnings(self, patient_id: str) -> list[str]:
        """Return the sentences that members of a record have not dismissed yet, oldest first."""
        return [line["sentence"] for line in self.get_setting(f"warnings:{patient_id}", [])]

    def dismiss_warnings(self, patient_id: str) -> None:
        """Forget the sentences kept for the members of a record."""
        self.set_setting(f"warnings:{patient_id}", None)


def put_setting(session: Session, name: str, value: Any) -> None:
    """Keep a small fact in the caller's transaction; None forgets it."""
    row = session.get(Setting, name)
    if value is None:
        if row is not None:
            session.delete(row)
    elif row is None:
        session.add(Setting(name=name, value=value))
    else:
        row.value = value
    session.flush()


def bury(session: Session, kind: Buried, identifier: str) -> None:
    """Write a tombstone in the caller's house transaction; twice is the same as once."""
    if session.get(Tombstone, (kind, identifier)) is None:
        session.add(Tombstone(kind=kind, id=identifier, at=clock.now()))
        session.flush()


def begun(data: Path) -> bool:
    """Tell whether a Homeport has begun in this folder. Looks and makes nothing."""
    path = data / "house.db"
    return path.exists() and path.stat().st_size > 0


def harden_process() -> None:
    """Forbid core dumps and tracing of this process: both would hold keys (security.md c2-11)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


# ---------------------------------------------------------------------- folder, lock and key


def _take_folder(data: Path) -> int:
    """Make the folder's rooms (0700), refuse a place that cannot keep them, and lock it."""
    try:
        for folder in (data, data / "vaults", data / "backups", data / "run"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.chmod(0o700)
        lock = os.open(data / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(
            f"The data folder {data.absolute()} cannot be written to by user id {os.getuid()}"
            f" ({error.strerror}). Give that user the folder, or choose another with PHR_DATA."
        ) from error
    try:
        _refuse_network_folder(data)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise DataLocked from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _refuse_network_folder(data: Path) -> None:
    kind = file_system_of(data)
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        raise SettingsError(
            f"The data folder {data.absolute()} is on a network file system ({kind}), where an"
            " encrypted store is not safe. Choose a local disk with PHR_DATA."
        )


def file_system_of(path: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds `path` ("" when the system does not say)."""
    if mounts is None:
        table = Path("/proc/self/mounts")
        mounts = table.read_text(errors="replace") if table.exists() else ""
    place, best, kind = path.resolve(), -1, ""
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) > 2:
            where = Path(parts[1].replace("\\040", " "))
            if place.is_relative_to(where) and len(where.parts) >= best:
                best, kind = len(where.parts), parts[2]
    return kind


def _house_key(data: Path, key_file: Path | None, *, fresh: bool) -> bytes:
    path = key_file or data / "house.key"
    try:
        if not path.exists() and key_file is None and fresh:
            files.write_atomically(path, ids.random_bytes(KEY_BYTES))
        elif path.stat().st_mode & 0o077:
            if key_file is None:
                path.chmod(0o600)
            logs.event(log, "house_key.open_to_others", logging.WARNING)
        return read_key(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise SettingsError(_without_key(path, key_file)) from error
    except OSError as error:
        raise SettingsError(
            f"The house key {path.absolute()} cannot be read by user id {os.getuid()}"
            f" ({error.strerror})."
        ) from error


def _without_key(path: Path, key_file: Path | None) -> str:
    if key_file is not None:
        return f"PHR_HOUSE_KEY_FILE names {path.absolute()}, but there is no such file."
    return (
        f"The house key {path.absolute()} is missing, so house.db cannot be opened. Put the key"
        " back; or start with an empty data folder and restore each record from its backup with"
        " a member's password or recovery kit."
    )


def read_key(data: bytes, path: Path) -> bytes:
    """Return the 32 bytes of a key file: raw, or 64 hex digits; one trailing newline is forgiven.

    Raises SettingsError that says how many bytes there are.
    """
    if len(data) == KEY_BYTES:
        return data
    ended = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(ended) == KEY_BYTES:
        return ended
    text = data.strip()
    if len(text) == 2 * KEY_BYTES:
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            pass
    raise SettingsError(
        f"The house key {path.absolute()} has {len(data)} bytes; it must be 32 random bytes or 64"
        " hexadecimal digits."
    )


def _open_database(path: Path, key: bytes, *, fresh: bool) -> Database:
    def keep_copy(database: Database, version: int) -> None:
        folder = path.parent / "backups" / "house"
        folder.mkdir(mode=0o700, exist_ok=True)
        stamp = clock.now().strftime("%Y%m%dT%H%M%S%fZ")
        database.copy_to(folder / f"house-{stamp}-version-{version}.db")

    try:
        return Database.open(path, key, kind="house", create=fresh, before_migration=keep_copy)
    except WrongSecret as error:
        raise WrongSecret(
            "The house key does not open house.db. If it was exchanged, put the old key back; or"
            " start with an empty data folder and restore each record from its backup with a"
            " member's password or recovery kit."
        ) from error
