"""An index of what software searches by: (parameter, value, date, record), made when asked for.

It only leads to records that could fit, in the order of pages: whether one fits decides the test of
its bytes, whether it leaves the gate. No import pays for it; the first search does, once.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from phr import clock
from phr.fhir import document, references
from phr.fhir.kinds import KINDS
from phr.fhir.record import Record, Selection
from phr.sharing.parameters import PARAMETERS
from phr.sharing.search import Facet, Search, Spread, facets_of, received_facet
from phr.store import records
from phr.store.database import Priority, rows
from phr.store.records import UNDATED, Clause
from phr.store.vault import Vault

PIECE: Final = 500  # records looked at in one go
FEW: Final = 200  # so far the smallest of several facets is looked for
VALUES: Final = 100  # of a spread at most; with more of them no record is rare
RULES: Final = 2  # raise it where the same record gives other rows
_RULES: Final = int.from_bytes(
    blake2b(repr((RULES, PARAMETERS)).encode(), digest_size=6).digest(), "big"
)

_lock = threading.Lock()
_of: WeakKeyDictionary[object, threading.Lock] = WeakKeyDictionary()


# ------------------------------------------------------------------ made


def ready(vault: Vault) -> bool:
    """Bring the index up to date; False where another request is doing that at this moment."""
    with vault.read() as session:
        if _is_current(session):
            return True
    mine = _lock_of(vault)
    if not mine.acquire(blocking=False):
        return False
    try:
        _catch_up(vault)
    finally:
        mine.release()
    return True


def _lock_of(vault: Vault) -> threading.Lock:
    with _lock:
        return _of.setdefault(vault.database, threading.Lock())


def _is_current(session: Session) -> bool:
    sql = (
        "SELECT upto >= (SELECT coalesce(max(pk), 0) FROM record) AND rules = ?"
        " AND NOT EXISTS (SELECT 1 FROM facet_due) FROM facet_state"
    )
    return bool(rows(session, sql, (_RULES,))[0][0])


def _catch_up(vault: Vault) -> None:
    with vault.read() as session:
        [(rules,)] = rows(session, "SELECT rules FROM facet_state")
    if rules != _RULES:
        with vault.write(Priority.BULK) as session:
            run = session.connection().exec_driver_sql
            run("DELETE FROM facet")
            run("UPDATE facet_state SET upto = 0, rules = ?", (_RULES,))
    while _next_piece(vault):
        pass


def _next_piece(vault: Vault) -> bool:
    """Look at some records: those that changed first, then those behind the last one."""
    with vault.read() as session:
        due = [pk for (pk,) in rows(session, f"SELECT record FROM facet_due LIMIT {PIECE}")]
        [(upto,)] = rows(session, "SELECT upto FROM facet_state")
        if due:
            where = Clause(f"record.pk IN ({','.join('?' * len(due))})", tuple(due))
            found = records.scan(session, vault, where=where, limit=PIECE)
        else:
            found = records.scan(session, vault, after=upto, limit=PIECE)
        made = [row for record in found for row in _rows(session, vault, record)]
    if not (due or found):
        return False
    with vault.write(Priority.BULK) as session:
        _write(session, made, found, due, upto)
    return True


def _write(
    session: Session,
    made: list[tuple[int, int, int, int]],
    found: list[Record],
    due: list[int],
    upto: int,
) -> None:
    """Write rows of records that are still as they were read; of others later."""
    run = session.connection().exec_driver_sql
    if made:
        run("INSERT OR IGNORE INTO facet VALUES (?, ?, ?, ?)", made)
    if not due:
        run("UPDATE facet_state SET upto = ? WHERE upto = ?", (found[-1].pk, upto))
        return
    held = {record.pk: record for record in found}
    for pk in due:
        record = held.get(pk)
        as_read = (
            "NOT EXISTS (SELECT 1 FROM record WHERE pk = ? AND NOT (version = ? AND received = ?))"
        )
        if record is None:
            run("DELETE FROM facet_due WHERE record = ?", (pk,))
            continue
        read = (pk, pk, record.version, clock.to_ms(record.received_at))
        run(f"DELETE FROM facet_due WHERE record = ? AND {as_read}", read)


def _rows(session: Session, vault: Vault, record: Record) -> Iterator[tuple[int, int, int, int]]:
    known: Mapping[str, Any] = PARAMETERS.get(record.type, {})
    if not known:
        return
    time = UNDATED if record.when is None else clock.to_ms(record.when)
    leaving = document.parse(records.released_bytes(vault, record, session))
    found = facets_of(record.type, leaving, references.patient_id(vault.id_key))
    received = received_facet(record.type, clock.to_ms(record.received_at))
    for facet in (*found, received):
        for value in facet.values:
            yield facet.parameter, value, time, record.pk


# ------------------------------------------------------------------ asked


def leads(asked: Search) -> bool:
    """Tell whether the index leads to what a search asks for."""
    return bool(asked.facets or asked.late or asked.spreads)


def keys(session: Session, asked: Search, selection: Selection, where: Clause) -> list[int]:
    """Return the keys of the next records that could fit, in the order of the search."""
    direction = "ASC" if selection.order == "oldest" else "DESC"
    found = _parts(session, asked, selection, where)
    sql = " UNION ALL ".join(f"SELECT * FROM ({part})" for part, _ in found)
    sql = (
        f"SELECT DISTINCT key, time, pk FROM ({sql})"
        f" ORDER BY time {direction}, pk {direction} LIMIT {selection.limit}"
    )
    params = tuple(value for _, given in found for value in given)
    return [row[0] for row in rows(session, sql, params)]


def _parts(session: Session, asked: Search, selection: Selection, where: Clause) -> list["Part"]:
    """Return the walks that together meet everything, each in order: the shortest there are."""
    leading = [] if asked.codes else [*_leading(session, asked)]
    if leading:
        first = min(leading, key=lambda some: sum(_size(session, one) for one in some))
        others = [one for one in asked.facets if one not in first]
        rest = where & _all(others) & _in_type(selection)
        walks = [_by_facet(one, value, selection, rest) for one in first for value in one.values]
        return walks or [NOTHING]
    rest = where & _all(asked.facets)
    if asked.late is None or asked.codes:
        return [_by_type(session, selection, rest)]
    since = max(filter(None, (selection.since, asked.dated_from)), default=None)
    within = rest & _in_type(selection)
    return [
        _by_type(session, replace(selection, since=since), rest),
        *(_by_facet(asked.late, value, selection, within) for value in asked.late.values),
    ]


Part = tuple[str, tuple[object, ...]]
NOTHING: Final[Part] = ("SELECT key, time, pk FROM record WHERE 0", ())


def _leading(session: Session, asked: Search) -> Iterator[list[Facet]]:
    """Yield sets of facets of which each set alone has every record that fits."""
    yield from ([one] for one in asked.facets)
    for spread in asked.spreads:
        some = _within(session, spread)
        if some is not None:
            yield some


def _within(session: Session, spread: Spread) -> list[Facet] | None:
    """Return the facets of a spread with the values that there are; None where those are many."""
    values = _values(session, spread)
    absent = [] if spread.absent is None else _within(session, spread.absent)
    if values is None or absent is None:
        return None
    return [Facet(spread.parameter, tuple(values)), *absent]


def _values(session: Session, spread: Spread) -> list[int] | None:
    """Return the distinct values, stepping from one to the next in the index."""
    sql = (
        "WITH RECURSIVE step(value) AS (SELECT min(value) FROM facet"
        " WHERE parameter = ? AND value BETWEEN ? AND ? UNION ALL"
        " SELECT (SELECT min(value) FROM facet WHERE parameter = ? AND value > step.value"
        " AND value <= ?) FROM step WHERE step.value IS NOT NULL LIMIT ?)"
        " SELECT value FROM step WHERE value IS NOT NULL"
    )
    bounds = (spread.parameter, spread.first, spread.last)
    found = rows(session, sql, (*bounds, spread.parameter, spread.last, VALUES + 1))
    return None if len(found) > VALUES else [value for (value,) in found if spread.fits(value)]


def _by_facet(facet: Facet, value: int, selection: Selection, where: Clause) -> Part:
    """Walk along the rows of one value, which lie in the order of a page."""
    begin = _behind("facet.time", "facet.record", selection)
    direction = "ASC" if selection.order == "oldest" else "DESC"
    sql = (
        "SELECT record.key, facet.time, record.pk FROM facet CROSS JOIN record"
        " ON record.pk = facet.record AND coalesce(record.time, ?) = facet.time"
        f" WHERE facet.parameter = ? AND facet.value = ? AND {begin.sql} AND ({where.sql})"
        f" ORDER BY facet.time {direction}, facet.record {direction} LIMIT {selection.limit}"
    )
    return sql, (UNDATED, facet.parameter, value, *begin.params, *where.params)


def _by_type(session: Session, selection: Selection, where: Clause) -> Part:
    """Walk along a type as pages and exports do."""
    sql, params = records.statement(selection, where, records.concepts(session, selection))
    if sql is None:  # nothing can fit: never a walk without its conditions
        return NOTHING
    inside = sql.partition(" FROM record ")[2]
    time = f"coalesce(record.time, {UNDATED}) AS time"
    return f"SELECT record.key, {time}, record.pk FROM record {inside}", params


def _in_type(selection: Selection) -> Clause:
    found = Clause("record.type = ?", (KINDS[selection.types[0]].number,))
    if selection.since:
        found &= Clause("record.time >= ?", (clock.to_ms(selection.since),))
    if selection.until:
        found &= Clause("record.time < ?", (clock.to_ms(selection.until),))
    return found


def _behind(time: str, pk: str, selection: Selection) -> Clause:
    if selection.before is None:
        return Clause("1")
    ms, last = selection.before
    sign = ">" if selection.order == "oldest" else "<"
    return Clause(f"({time} {sign}= ? AND ({time} {sign} ? OR {pk} {sign} ?))", (ms, ms, last))


def _all(facets: Sequence[Facet]) -> Clause:
    found = Clause("1")
    for facet in facets:
        marks = ",".join("?" * len(facet.values))
        found &= Clause(
            "EXISTS (SELECT 1 FROM facet AS other WHERE other.parameter = ? AND other.value IN"
            f" ({marks}) AND other.time = coalesce(record.time, ?) AND other.record = record.pk)",
            (facet.parameter, *facet.values, UNDATED),
        )
    return found


def _size(session: Session, facet: Facet) -> int:
    if not facet.values:
        return 0
    marks = ",".join("?" * len(facet.values))
    sql = (
        f"SELECT count(*) FROM (SELECT 1 FROM facet WHERE parameter = ? AND value IN ({marks})"
        f" LIMIT {FEW})"
    )
    return int(rows(session, sql, (facet.parameter, *facet.values))[0][0])
