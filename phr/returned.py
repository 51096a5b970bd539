"""An own export comes back: what belongs to its records beside their current bytes.

Earlier versions, documents, the marks "private" and "no longer offered", what was decided. The
records themselves came in before, like those of any file (`phr.keep`). What the package holds:
`docs/export.md`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import groupby
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock, keep
from phr.connectors.upload import Earlier, Upload
from phr.errors import InvalidInput, NotFound
from phr.fhir import document, references
from phr.fhir.check import Note
from phr.fhir.intake import Intake, named, peek
from phr.fhir.kinds import KINDS
from phr.store import bodies, entries
from phr.store.database import Priority
from phr.store.vault import Vault

MOST_VERSIONS: Final = 1000  # of one record
_HASH_BYTES: Final = 16  # as in phr.keep


def complete(vault: Vault, connection_id: int, upload: Upload) -> None:
    """Give the records of an own export back what stands beside them in the package.

    Twice is the same as once; what belongs to no record of this connection is passed over.
    """
    place = _Place(vault, connection_id)
    for name, versions in groupby(upload.versions(), key=lambda each: each.record):
        place.put_versions(name, _some(versions))
    for brought in upload.attachments():
        found = place.find(brought.record)
        if found is not None:
            keep.attach(vault, found[0], brought.url, brought.media_type, brought.content)
    marks = upload.marks()
    place.withdraw(marks.withdrawn)
    place.hide(marks.private)
    place.decide(upload.decisions())


def _some(versions: Iterable[Earlier]) -> list[Earlier]:
    return [each for each, _ in zip(versions, range(MOST_VERSIONS), strict=False)]


class _Place:
    """The records that one upload brought, by the names they have in the package."""

    def __init__(self, vault: Vault, connection_id: int) -> None:
        self._vault = vault
        self._keys = references.Keys(vault.id_key, connection_id)
        self._connection = connection_id
        self._intake = Intake()

    def _key(self, name: str) -> int | None:
        kind, _, remote_id = name.partition("/")
        return self._keys.key(kind, remote_id.encode()) if kind in KINDS else None

    def find(self, name: str) -> tuple[int, int] | None:
        """Return (pk, version) of a record named "Type/id", or None."""
        key = self._key(name)
        if key is None:
            return None
        with self._vault.read() as session:
            return _found(session, key)

    def put_versions(self, name: str, versions: Sequence[Earlier]) -> None:
        """Write the earlier versions of a record that has none here."""
        found = self.find(name)
        if found is None or found[1] > 1:
            return  # nothing to belong to, or it has a history of its own here
        made = list(self._rows(name, versions))
        with self._vault.read() as session:
            packed = bodies.packer(session, self._connection).pack([body for _, body in made])
        rows = [
            (found[0], number, *facts, blob)
            for number, ((facts, _), blob) in enumerate(zip(made, packed, strict=True), start=1)
        ]
        if not rows:
            return
        with self._vault.write(Priority.BULK) as session:
            run = session.connection().exec_driver_sql
            if _found(session, self._key(name) or 0) != found:
                return  # changed meanwhile
            run(
                "INSERT INTO record_version(pk, version, hash, labels, flags, received, splices,"
                " body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            run("UPDATE record SET version = ? WHERE pk = ?", (len(rows) + 1, found[0]))

    def _rows(
        self, name: str, versions: Sequence[Earlier]
    ) -> Iterator[tuple[tuple[object, ...], bytes]]:
        """Judge each version as if it came today; what is not a version of this is left out."""
        for earlier in versions:
            try:
                body = document.text_bytes(earlier.body)
                kind, remote_id = named(*peek(body), body, None)
                if f"{kind.type}/{remote_id}" != name:
                    continue
                taken = self._intake.take(body, kind)
            except InvalidInput:
                continue
            hash_ = sha256(body).digest()[:_HASH_BYTES]
            received = clock.to_ms(earlier.received)
            yield (hash_, taken.labels, taken.flags, received, taken.splices), body

    def withdraw(self, names: Sequence[str]) -> None:
        """Mark records as no longer offered by their source."""
        keys = [(int(Note.WITHDRAWN), key) for name in names if (key := self._key(name))]
        if keys:
            with self._vault.write(Priority.BULK) as session:
                run = session.connection().exec_driver_sql
                run("UPDATE record SET flags = flags | ? WHERE key = ?", keys)

    def decide(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take back what the person decided about which records are the same thing."""
        said = list(lines)
        if said:
            with suppress(KeyError, ValueError, TypeError), self._vault.write() as session:
                entries.decisions_in(session, said)

    def hide(self, names: Sequence[str]) -> None:
        """Set the person's own "keep private" on records."""
        for name in names:
            key = self._key(name)
            if key is not None:
                try:
                    keep.mark_private(self._vault, references.local_id_of(key), on=True)
                except NotFound:
                    continue


def _found(session: Session, key: int) -> tuple[int, int] | None:
    run = session.connection().exec_driver_sql
    row = run("SELECT pk, version FROM record WHERE key = ?", (key,)).first()
    return None if row is None else (row[0], row[1])
