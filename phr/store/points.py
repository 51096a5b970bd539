"""The numbers of one test over the years, from the index alone: what its page draws.

Bodies are read only where the index cannot give back the digits. Not here: the table, which is of
whole records (`phr.store.records`).
"""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Final

from sqlalchemy.orm import Session

from phr.fhir import measures
from phr.fhir.check import Note
from phr.fhir.labels import Label
from phr.fhir.measures import Measure, Point, Points
from phr.fhir.record import Record, Selection
from phr.store import database, records
from phr.store.records import UNDATED, Clause
from phr.store.vault import Vault

MOST: Final = 2000  # values of one test: those of 20 years, taken twice a week
_TOGETHER: Final = 500  # bodies or measures asked for at once
_TIME, _MEASURE, _STANDS = itemgetter(1), itemgetter(3), itemgetter(4)  # of a Point
_UNREAD: Final = "%.0s"  # the format that says nothing of a number
_STANDING: Final = (
    f"connection * {measures.STANDINGS} + (flags & {int(Note.WITHDRAWN)} != 0)"
    f" + 2 * (labels & {int(Label.PRIVATE)} != 0)"
)


def read(session: Session, vault: Vault, selection: Selection, *, most: int = MOST) -> Points:
    """Return the newest dated numbers that have one of a Selection's codes, at most `most`.

    Newest first; those of one instant in no order. Of the Selection only `codes` and `before`
    count. Whose records these are was settled before: this is for members, not for doors.
    """
    rows: list[Point] = []
    before = selection.before
    if before is None or before[0] != UNDATED:
        for concept in records.concepts(session, replace(selection, types=())) or ():
            sql, params = statement(concept, before, most + 1)
            found: list[Point] = database.rows(session, sql, params)
            rows = sorted([*rows, *found], key=_TIME, reverse=True) if rows else found
    more = len(rows) > most
    del rows[most:]
    numbers = set(map(_MEASURE, rows))
    known = _measures(session, numbers)
    forms: dict[int | None, str] = {None: _UNREAD}
    forms.update((number, measures.form(one)) for number, one in known.items())
    digits = [forms[row[3]] % row[2] for row in rows]
    unread = [row[0] for row in rows if row[3] is None] if None in numbers else []
    bodies = _bodies(session, vault, unread)
    return Points(rows, digits, known, _homes(session, rows), bodies, more)


def statement(
    concept: int, before: tuple[int, int] | None, limit: int
) -> tuple[str, tuple[object, ...]]:
    """Return the SQL and parameters for the newest numbers of one concept.

    Ordered by time alone and with nothing but what its index has: either more costs a sort, or a
    way to each record.
    """
    earlier = Clause("1")
    if before is not None:
        ms, pk = before
        earlier = Clause("time <= ? AND (time < ? OR pk < ?)", (ms, ms, pk))
    sql = (
        f"SELECT pk, time, value, measure, {_STANDING} FROM record"
        f" WHERE concept = ? AND time IS NOT NULL AND value IS NOT NULL AND {earlier.sql}"
        " ORDER BY time DESC LIMIT ?"
    )
    return sql, (concept, *earlier.params, limit)


def _measures(session: Session, numbers: set[int | None]) -> dict[int, Measure]:
    """Return the measures with these numbers, as read."""
    found: dict[int, Measure] = {}
    for some in _portions(sorted(each for each in numbers if each is not None)):
        sql = f"SELECT id, content FROM measure WHERE id IN ({','.join('?' * len(some))})"
        rows = database.rows(session, sql, tuple(some))
        found.update((number, measures.read(content)) for number, content in rows)
    return found


def _homes(session: Session, rows: Sequence[Point]) -> dict[int, int]:
    """Return the entries of those that are further evidence of one.

    What one place holds apart was not joined (`chart.rules`), unless the patient said so: asked
    for one place without that, the answer would be empty, and it takes as long as the rest.
    """
    standings = set(map(_STANDS, rows))
    if len({measures.standing(each)[0] for each in standings}) < 2:
        decided = "SELECT 1 FROM decision LIMIT 1"
        if not database.rows(session, decided):
            return {}
    found: dict[int, int] = {}
    for some in _portions([row[0] for row in rows]):
        sql = f"SELECT record, entry FROM evidence WHERE record IN ({','.join('?' * len(some))})"
        found.update(database.rows(session, sql, tuple(some)))
    return found


def _bodies(session: Session, vault: Vault, pks: Sequence[int]) -> list[Record]:
    found: list[Record] = []
    for some in _portions(pks):
        where = Clause(f"record.pk IN ({','.join('?' * len(some))})", tuple(some))
        found += records.scan(session, vault, where=where, limit=_TOGETHER)
    return [one for one in found if one.type == "Observation"]


def _portions(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[at : at + _TOGETHER] for at in range(0, len(numbers), _TOGETHER)]
