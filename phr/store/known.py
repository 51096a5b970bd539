"""What a vault has of the records that a source offers: found by key, by page, by run of a pull.

A re-pull is little else than these look-ups, so they go straight to the driver. Not here: what is
decided about an offered record (`phr.keep`).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy.orm import Session

from phr.fhir import references
from phr.store import database

Row = tuple[Any, ...]  # the fields of Known, but the last
_COLUMNS: Final = "SELECT key, pk, hash, version, flags FROM record WHERE"
_PAGE: Final = 10  # records of a page from which on it is looked for as a whole


class Known(NamedTuple):
    """A record that the vault has."""

    key: int
    pk: int
    hash: bytes
    version: int
    flags: int
    moved: bool = False  # a newer version of it is in the group being kept


def of_pages(session: Session, pages: Sequence[Sequence[int]]) -> dict[int, Row]:
    """Return by key what the vault has of some pages, each given as the keys of its records.

    A page that came before was written in one go: its records lie between its first and its last,
    and reading them so is half the work of finding each by its key. Neighbours may come along.
    """
    long = [keys for keys in pages if len(keys) >= _PAGE]
    found = _by("key", session, [key for keys in long for key in (keys[0], keys[-1])])
    for keys in long:
        first, last = found.get(keys[0]), found.get(keys[-1])
        if first is not None and last is not None and 0 < last[1] - first[1] < 2 * len(keys):
            rows = database.rows(session, f"{_COLUMNS} pk BETWEEN ? AND ?", (first[1], last[1]))
            found.update({row[0]: row for row in rows})
    missing = [key for keys in pages for key in keys if key not in found]
    return found | _by("key", session, missing)


def of_pks(session: Session, pks: Sequence[int]) -> dict[int, Row]:
    """Return by key what the vault has at these pks."""
    return _by("pk", session, pks)


def _by(column: str, session: Session, values: Sequence[int]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for begin in range(0, len(values), 1000):
        some = tuple(values[begin : begin + 1000])
        sql = f"{_COLUMNS} {column} IN ({','.join('?' * len(some))})"
        found.update({row[0]: row for row in database.rows(session, sql, some)})
    return found


def nothing(session: Session) -> bool:
    """Say whether the vault has no record at all."""
    return not database.rows(session, "SELECT 1 FROM record LIMIT 1")


def nothing_of(session: Session, connection_id: int) -> bool:
    """Say whether a connection has brought nothing so far."""
    sql = "SELECT 1 FROM counter WHERE connection = ? LIMIT 1"
    return not database.rows(session, sql, (connection_id,))


def private(session: Session) -> set[int]:
    """Return the keys of what the patient keeps private."""
    return {row[0] for row in database.rows(session, "SELECT key FROM private_mark")}


# ------------------------------------------------------------------------- met by a full pull


def next_part(session: Session, pull_id: int) -> int:
    """Return the number of the next row of what a pull has met (docs/decisions/0015)."""
    sql = "SELECT coalesce(max(part), 0) + 1 FROM seen WHERE pull = ?"
    return int(database.rows(session, sql, (pull_id,))[0][0])


def meet(session: Session, pull_id: int, part: int, pks: Iterable[int]) -> None:
    """Write down which records a pull has met again, in one packed row."""
    session.connection().exec_driver_sql(
        "INSERT INTO seen(pull, part, pks) VALUES (?, ?, ?)", (pull_id, part, _packed(pks))
    )


def met(session: Session, pull_id: int) -> set[int]:
    """Return the pks of the records that a pull has met again."""
    rows = database.rows(session, "SELECT pks FROM seen WHERE pull = ?", (pull_id,))
    return {pk for row in rows for pk in _unpacked(row[0])}


def _packed(pks: Iterable[int]) -> bytes:
    """Pack pks as runs: the distance from the run before, and its length."""
    numbers: list[int] = []
    last = first = -1
    before = 0
    for pk in sorted(pks):
        if pk > last + 1 or first < 0:
            if first >= 0:
                numbers += (first - before, last - first)
                before = last
            first = pk
        last = pk
    numbers += (first - before, last - first)
    return references.packed(numbers)


def _unpacked(blob: bytes) -> Iterator[int]:
    last = 0
    numbers = iter(references.varints(blob))
    for gap in numbers:
        first = last + gap
        last = first + next(numbers)
        yield from range(first, last + 1)
