"""Backups: a consistent copy of a vault with its slots and a manifest, verified by opening it.

Never house.key, never the house slot. Putting one back is `phr.store.restore`.
"""

import hashlib
import hmac
import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

import phr
from phr import clock, logs
from phr.errors import Damaged, NewerSchema, NotFound, PhrError
from phr.store import audit, files, migrations, slots
from phr.store.database import PAGE_BYTES, Database
from phr.store.house import House
from phr.store.models import Patient
from phr.store.slots import Slots, derive

if TYPE_CHECKING:  # vault.py copies through here before it migrates
    from phr.store.vault import Vaults

log = logging.getLogger(__name__)

FORMAT = 1
STAMP = "%Y%m%dT%H%M%S%fZ"
VAULT, SLOTS, MANIFEST = "vault.db", "vault.slots", "manifest.json"
REPLACED = "replaced-"  # files that a restore put aside as they were: kept, but no backup
VAULT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds, authenticated under the vault key."""

    vault_id: str
    made_at: datetime
    program: str
    schema: int
    reason: str  # "nightly", "by hand", "before migration", "before restore"
    counts: dict[str, int]
    hashes: dict[str, str]
    mac: bytes = field(default=b"", repr=False)

    @property
    def badge(self) -> str:
        """Compare with this program: "same version", "older version" or "newer version"."""
        newest = migrations.newest("vault")
        if self.schema == newest:
            return "same version"
        return "older version" if self.schema < newest else "newer version"


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup folder as it lies on the disk. `manifest` None: it cannot be read."""

    folder: Path
    manifest: Manifest | None
    size: int


@dataclass(frozen=True, slots=True)
class NightReport:
    """What a round of backups did: ids of those made, of sealed ones left out, and failures."""

    made: tuple[str, ...]
    sealed: tuple[str, ...]
    failed: dict[str, str]


# ---------------------------------------------------------------------- making


def back_up_all(
    house: House, vaults: "Vaults", *, keep: int = 14, reason: str = "nightly"
) -> NightReport:
    """Back up house.db and every open vault, verify each, and let go of the oldest.

    A sealed vault cannot be copied (its key is not here), and nobody can have changed it since.
    """
    made, failed = [], {}
    for vault_id in vaults.open_ids():
        try:
            back_up(house, vaults, vault_id, keep=keep, reason=reason)
            made.append(vault_id)
        except PhrError as error:
            failed[vault_id] = error.sentence
            logs.event(log, "backup.failed", logging.ERROR, vault=vault_id)
    _back_up_house(house, keep)
    sealed = tuple(each for each in vaults.ids() if each not in made and each not in failed)
    house.set_setting(
        "last_backup",
        {"at": clock.to_ms(clock.now()), "made": made, "sealed": list(sealed), "failed": failed},
    )
    return NightReport(tuple(made), sealed, failed)


def back_up(
    house: House, vaults: "Vaults", patient_id: str, *, keep: int = 14, reason: str = "nightly"
) -> Backup:
    """Make and verify one backup of an open vault. Raises Sealed, Damaged, VaultError (disk)."""
    vault = vaults.get(patient_id)
    held = vaults.slots_of(patient_id)
    target = house.backups_folder / patient_id
    backup = write_backup(vault.database, held, vault.key, target, reason)
    let_go(target, keep)
    with vault.write() as session:
        audit.append(session, vault, "backup.made", audit.APPLIANCE, reason=reason)
    logs.event(log, "backup.made", vault=patient_id, bytes=backup.size)
    return backup


def write_backup(database: Database, held: Slots, key: bytes, folder: Path, reason: str) -> Backup:
    """Copy an open database with its slots into a new folder named by the time, and verify it."""
    made_at = clock.now()
    target = folder / made_at.strftime(STAMP)
    part = folder / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with files.in_words():
            part.mkdir(mode=0o700, parents=True)
            database.copy_to(part / VAULT)
            slots.write_file(part / SLOTS, _without_house(held, key))
            _describe(part, held.vault_id, key, made_at, reason)
            verify_backup(part, key)
            files.flush(part)
            part.rename(target)
            files.flush(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return read_backup(target)


def _describe(part: Path, vault_id: str, key: bytes, made_at: datetime, reason: str) -> None:
    copy = Database(part / VAULT, key, kind="vault")
    try:
        counts, schema = copy.counts(), copy.version()
    finally:
        copy.close()
    hashes = {name: _hash(part / name) for name in (VAULT, SLOTS)}
    made = clock.from_ms(clock.to_ms(made_at))
    manifest = Manifest(vault_id, made, phr.__version__, schema, reason, counts, hashes)
    signed = replace(manifest, mac=_mac(manifest, key))
    files.write_atomically(part / MANIFEST, json.dumps(_plain(signed), indent=1).encode())


def _without_house(held: Slots, key: bytes) -> Slots:
    """Return the current ring only, without the house slot, authenticated again."""
    ring = next(ring for ring in held.rings if ring.key_id == slots.key_id(key))
    return slots.signed(replace(held, current=replace(ring, house=None), pending=None), [key])


def _back_up_house(house: House, keep: int) -> None:
    """Keep a copy of house.db beside; it opens with house.key only."""
    folder = house.backups_folder / "house"
    with files.in_words():
        folder.mkdir(mode=0o700, exist_ok=True)
        house.database.copy_to(folder / f"house-{clock.now().strftime(STAMP)}.db")
        for old in sorted(folder.glob("house-2*Z.db"))[:-keep]:
            old.unlink()


def let_go(folder: Path, keep: int) -> None:
    """Remove the oldest backups beyond `keep`, each reason counted on its own."""
    by_reason: dict[str, list[Path]] = {}
    for backup in _in_folder(folder):
        reason = backup.manifest.reason if backup.manifest else "unreadable"
        by_reason.setdefault(reason, []).append(backup.folder)
    for reason, folders in by_reason.items():
        if reason != "unreadable":
            for old in folders[: -max(keep, 1)]:
                with files.in_words():
                    going = old.rename(old.with_name(f".{old.name}.part"))  # never half a backup
                    shutil.rmtree(going)


def due(house: House, vaults: "Vaults", *, since: datetime | None = None) -> list[str]:
    """Return the open vaults older than `since` (24 hours) that have no backup made after it."""
    since = since or clock.now() - timedelta(hours=24)
    with house.read() as session:
        query = select(Patient.id).where(Patient.created_at <= since)
        old = set(session.scalars(query))
    return [
        vault_id
        for vault_id in vaults.open_ids()
        if vault_id in old
        and not any(
            each.manifest is not None and each.manifest.made_at > since
            for each in list_backups(house, vault_id)
        )
    ]


def make_up(
    house: House, vaults: "Vaults", patient_id: str, *, since: datetime, keep: int = 14
) -> bool:
    """Back up a vault that was sealed when the others were, at `since`; say whether it was due.

    Raises Sealed, Damaged, VaultError (disk).
    """
    if patient_id not in due(house, vaults, since=since):
        return False
    back_up(house, vaults, patient_id, keep=keep)
    last = house.get_setting("last_backup")
    if last:
        last["made"] = sorted({*last["made"], patient_id})
        last["sealed"] = [each for each in last["sealed"] if each != patient_id]
        last["failed"].pop(patient_id, None)
        house.set_setting("last_backup", last)
    return True


# ---------------------------------------------------------------------- looking


def list_backups(house: House, patient_id: str | None = None) -> list[Backup]:
    """Return the backups of one patient, or of all, newest first."""
    folders = [house.backups_folder / patient_id] if patient_id else house.backups_folder.glob("*")
    found = [
        backup for folder in folders if folder.name != "house" for backup in _in_folder(folder)
    ]
    return sorted(found, key=lambda backup: backup.folder.name, reverse=True)


def read_backup(folder: Path) -> Backup:
    """Return what lies in a backup folder; an unreadable manifest becomes None."""
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    try:
        return Backup(folder, _read_manifest(folder), size)
    except PhrError:
        return Backup(folder, None, size)


def verify_backup(folder: Path, key: bytes) -> Manifest:
    """Check a backup completely with its vault key: hashes, MAC, both integrity checks, counts.

    Raises Damaged with what is wrong, NewerSchema, WrongSecret.
    """
    manifest = check_files(folder)
    if not hmac.compare_digest(_mac(manifest, key), manifest.mac):
        raise Damaged("The backup's manifest was not written with this record's key.")
    if not slots.authentic(slots.read_file(folder / SLOTS), key):
        raise Damaged("The backup's key slots were changed.")
    copy = Database(folder / VAULT, key, kind="vault")
    try:
        copy.check_key()
        if problems := copy.problems():
            raise Damaged(f"The backup is damaged: {problems[0]}")
        if copy.counts() != manifest.counts:
            raise Damaged("The backup does not hold as many rows as its manifest says.")
    finally:
        copy.close()
        for beside in (f"{VAULT}-wal", f"{VAULT}-shm"):
            (folder / beside).unlink(missing_ok=True)
    return manifest


def check_files(folder: Path) -> Manifest:
    """Check what can be checked without a key: manifest, version, sizes and SHA-256."""
    manifest = _read_manifest(folder)
    if manifest.schema > migrations.newest("vault"):
        raise NewerSchema
    for name in (VAULT, SLOTS):
        path = folder / name
        if not path.is_file() or _hash(path) != manifest.hashes.get(name):
            raise Damaged(f"The backup is damaged: {name} is not what its manifest says.")
    if slots.read_file(folder / SLOTS).vault_id != manifest.vault_id:
        raise Damaged("The backup's parts belong to different records.")
    return manifest


def _in_folder(folder: Path) -> Sequence[Backup]:
    if not folder.is_dir():
        return ()
    return [
        read_backup(path)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith((".", REPLACED))
    ]


def _read_manifest(folder: Path) -> Manifest:
    try:
        plain = json.loads((folder / MANIFEST).read_bytes())
        if plain["format"] > FORMAT:
            raise NewerSchema
        if not VAULT_ID.fullmatch(plain["vault"]):  # it becomes part of paths
            raise Damaged("The backup's manifest names no record.")
        return Manifest(
            plain["vault"],
            datetime.fromisoformat(plain["made_at"]).astimezone(UTC),
            str(plain["program"]),
            int(plain["schema"]),
            str(plain["reason"]),
            {str(name): int(n) for name, n in plain["counts"].items()},
            {str(name): str(value) for name, value in plain["sha256"].items()},
            bytes.fromhex(plain["mac"]),
        )
    except FileNotFoundError as error:
        raise NotFound("There is no backup in this folder.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("The backup's manifest cannot be read.") from error


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "vault": manifest.vault_id,
        "made_at": manifest.made_at.isoformat(),
        "program": manifest.program,
        "schema": manifest.schema,
        "page_size": PAGE_BYTES,
        "reason": manifest.reason,
        "counts": manifest.counts,
        "sha256": manifest.hashes,
        "mac": manifest.mac.hex(),
    }


def _mac(manifest: Manifest, key: bytes) -> bytes:
    covered = _plain(replace(manifest, mac=b""))
    text = json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()
    return hmac.digest(derive(key, "backup manifest"), text, "sha256")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
