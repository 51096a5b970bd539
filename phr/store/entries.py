"""Entries: what a person reads as one thing, with the records that are its evidence.

Derived and rebuildable. Here they are kept and found; `phr.chart.reconcile` says what belongs
together and `phr.gather` writes that down here. A record that just came is an entry of its own
until then, and is noted as waiting. The patient's decisions are no derived rows: they stay.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import starmap
from typing import Any, Final, NamedTuple

from sqlalchemy.orm import Session

from phr import clock
from phr.chart.decision import Decision
from phr.fhir import references
from phr.fhir.kinds import BY_NUMBER, KINDS, SECTIONS, section_number
from phr.fhir.record import Record
from phr.store import database, records
from phr.store.models import VaultFact
from phr.store.vault import Vault

DERIVED_VERSION: Final = b"3"  # of entries; a vault that says otherwise is rebuilt
LISTED: Final = 1  # entry.state: a source may list it as current, or nobody has looked yet
NOT_LISTED: Final = 2
_FROM: Final = "entries_from"  # the first record that waits to be joined
_TOUCHED: Final = "entries_touched"  # older ones that wait: they changed
_HITS: Final = 600  # records that are looked through for other entries that have some words
_MANY: Final = 5000  # older ones that are noted one by one; more: all wait


class New(NamedTuple):
    """A record that was just written."""

    pk: int
    type: int
    categories: int = 0
    time: int | None = None


class Row(NamedTuple):
    """A record as far as joining needs it before its body is read."""

    pk: int
    type: int
    connection: int
    time: int | None


class Group(NamedTuple):
    """An entry as it shall be: its first record, all of them, its state and its newest time."""

    pk: int
    records: tuple[int, ...]
    state: int
    time: int | None


def section_of(type_: int, categories: int) -> int:
    """Return the number of the section in which a record is read."""
    return section_number(BY_NUMBER[type_].section_for(categories))


_SECTIONS: Final = {number: section_number(kind.section) for number, kind in BY_NUMBER.items()}
_VARIES: Final = {
    number for number, kind in BY_NUMBER.items() if kind.section_for(-1) != kind.section
}


# ------------------------------------------------------------------------------ while importing


def add(session: Session, rows: Sequence[New]) -> None:
    """Write the entries of new records: each its own, and waiting.

    `rows` come in the order of pk, and no other entry lies between them.
    """
    made = [
        (pk, section_of(type_, categories) if type_ in _VARIES else _SECTIONS[type_], LISTED, time)
        for pk, type_, categories, time in rows
    ]
    driver: Any = session.connection().connection.driver_connection
    driver.executemany("INSERT INTO entry(pk, section, state, time) VALUES (?, ?, ?, ?)", made)
    driver.execute(
        "INSERT INTO evidence(entry, record) SELECT pk, pk FROM entry WHERE pk BETWEEN ? AND ?",
        (made[0][0], made[-1][0]),
    )
    driver.execute(
        "INSERT OR IGNORE INTO vault_fact(name, value) VALUES (?, ?)",
        (_FROM, str(made[0][0]).encode()),
    )


def change(session: Session, row: New) -> None:
    """Follow a record that has a new version: it may now be another thing at another time."""
    waiting = _fact(session, _FROM)
    remove(session, [row.pk])
    add(session, [row])
    if waiting is None:
        session.connection().exec_driver_sql("DELETE FROM vault_fact WHERE name = ?", (_FROM,))
    touch(session, [row.pk])


def touch(session: Session, pks: Iterable[int]) -> None:
    """Note records whose entries must be looked at again."""
    said = ",".join(map(str, pks))
    if said:
        session.connection().exec_driver_sql(
            "INSERT INTO vault_fact(name, value) VALUES (?, ?) ON CONFLICT(name)"
            " DO UPDATE SET value = CAST(value || ',' || excluded.value AS BLOB)",
            (_TOUCHED, said.encode()),
        )


def remove(session: Session, pks: Sequence[int]) -> None:
    """Take records out of the entries they are evidence of; an entry without evidence goes.

    An entry whose first record goes is founded anew by the next one, under that record's pk.
    """
    run = session.connection().exec_driver_sql
    heirs = []
    for pk in pks:
        home = run("SELECT entry FROM evidence WHERE record = ?", (pk,)).scalar()
        run("DELETE FROM evidence WHERE record = ?", (pk,))
        if home is None:
            continue
        heir = run("SELECT min(record) FROM evidence WHERE entry = ?", (home,)).scalar()
        if heir is None:
            run("DELETE FROM entry WHERE pk = ?", (home,))
            continue
        heirs.append(heir)  # what joined the rest may be gone
        if home == pk:
            run("UPDATE entry SET pk = ? WHERE pk = ?", (heir, pk))
            run("UPDATE evidence SET entry = ? WHERE entry = ?", (heir, pk))
    touch(session, heirs)


def rebuild(session: Session) -> int:
    """Lay all entries anew, one for each record, all waiting; return their number.

    `phr.gather.refresh` does this and then joins them.
    """
    run = session.connection().exec_driver_sql
    run("DELETE FROM evidence")
    run("DELETE FROM entry")
    run("DELETE FROM vault_fact WHERE name IN (?, ?)", (_FROM, _TOUCHED))
    after = made = 0
    while rows := _some(session, after):
        add(session, rows)
        after = rows[-1].pk
        made += len(rows)
    session.merge(VaultFact(name="derived_version", value=DERIVED_VERSION))
    return made


def _some(session: Session, after: int) -> list[New]:
    rows = session.connection().exec_driver_sql(
        "SELECT pk, type, category, time FROM record WHERE pk > ? ORDER BY pk LIMIT 2000",
        (after,),
    )
    return list(starmap(New, rows))


def outdated(session: Session) -> bool:
    """Say whether entries were made by older rules, or still wait to be joined."""
    return superseded(session) or waits(session)


def superseded(session: Session) -> bool:
    """Say whether the entries were made by other rules than the present ones."""
    fact = session.get(VaultFact, "derived_version")
    return fact is not None and fact.value != DERIVED_VERSION


# ------------------------------------------------------------------------------ joining


class Waiting(NamedTuple):
    """What waits to be joined: some records, or so many that all are looked at."""

    rows: tuple[Row, ...]
    everything: bool
    last: int  # the newest record there was


def waits(session: Session) -> bool:
    """Say whether anything waits to be joined."""
    sql = "SELECT 1 FROM vault_fact WHERE name IN (?, ?)"
    return bool(database.rows(session, sql, (_FROM, _TOUCHED)))


def waiting(session: Session) -> Waiting:
    """Return what waits to be joined."""
    begin, touched = _fact(session, _FROM), _fact(session, _TOUCHED)
    pks = [int(one) for one in (touched or "").split(",") if one]
    [(last,)] = database.rows(session, "SELECT coalesce(max(pk), 0) FROM record")
    first = last + 1 if begin is None else int(begin)
    if len(pks) + last + 1 - first > _MANY:
        return Waiting((), True, last)
    found = _rows(session, "pk >= ?", (first,)) if begin else []
    for place in range(0, len(pks), 500):
        found += rows_of(session, pks[place : place + 500])
    return Waiting(tuple({row.pk: row for row in found}.values()), False, last)


def settled(session: Session, done: Waiting) -> None:
    """Forget what waited, but for what came since then."""
    run = session.connection().exec_driver_sql
    following = run("SELECT min(pk) FROM record WHERE pk > ?", (done.last,)).scalar()
    run("DELETE FROM vault_fact WHERE name IN (?, ?)", (_FROM, _TOUCHED))
    if following is not None:
        value = str(following).encode()
        run("INSERT INTO vault_fact(name, value) VALUES (?, ?)", (_FROM, value))


def _fact(session: Session, name: str) -> str | None:
    run = session.connection().exec_driver_sql
    value = run("SELECT value FROM vault_fact WHERE name = ?", (name,)).scalar()
    return None if value is None else bytes(value).decode()


def _rows(session: Session, condition: str, params: tuple[object, ...]) -> list[Row]:
    sql = f"SELECT pk, type, connection, time FROM record WHERE {condition}"
    return list(starmap(Row, database.rows(session, sql, params)))


def rows_of(session: Session, pks: Sequence[int]) -> list[Row]:
    """Return records by pk, without their bodies."""
    found: list[Row] = []
    for begin in range(0, len(pks), 1000):
        some = tuple(pks[begin : begin + 1000])
        found += _rows(session, f"pk IN ({','.join('?' * len(some))})", some)
    return found


def by_keys(session: Session, keys: Sequence[int]) -> dict[int, str]:
    """Return pk and type of the records with these keys."""
    found: dict[int, str] = {}
    for begin in range(0, len(keys), 500):
        some = tuple(keys[begin : begin + 500])
        sql = f"SELECT pk, type FROM record WHERE key IN ({','.join('?' * len(some))})"
        found.update({pk: BY_NUMBER[type_].type for pk, type_ in database.rows(session, sql, some)})
    return found


def days(session: Session, type_: str) -> dict[int, set[int]]:
    """Return the days (UTC, since 1970) on which a type has records, with their connections."""
    found: dict[int, set[int]] = {}
    sql = (
        "SELECT DISTINCT time / 86400000, connection FROM record"
        " WHERE type = ? AND time IS NOT NULL"
    )
    for day, connection in database.rows(session, sql, (KINDS[type_].number,)):
        found.setdefault(day, set()).add(connection)
    return found


def types(session: Session, hospitals: int = 1) -> set[str]:
    """Return the types of which at least so many connections have records."""
    sql = "SELECT type FROM counter WHERE n > 0 GROUP BY type HAVING count(*) >= ?"
    return {BY_NUMBER[row[0]].type for row in database.rows(session, sql, (hospitals,))}


def on_days(session: Session, type_: str, wanted: Sequence[int]) -> set[int]:
    """Return the pks of a type's records of these days."""
    found: set[int] = set()
    for day in wanted:
        sql = "SELECT pk FROM record WHERE type = ? AND time >= ? AND time < ?"
        bounds = (KINDS[type_].number, day * 86_400_000, (day + 1) * 86_400_000)
        found.update(row[0] for row in database.rows(session, sql, bounds))
    return found


def all_of(session: Session, types: Sequence[str]) -> set[int]:
    """Return the pks of all records of these types."""
    numbers = tuple(KINDS[type_].number for type_ in types)
    sql = f"SELECT pk FROM record WHERE type IN ({','.join('?' * len(numbers))})"
    return {row[0] for row in database.rows(session, sql, numbers)}


def loaded(
    session: Session, vault: Vault, pks: Iterable[int], *, compact: bool = False
) -> list[Record]:
    """Return records by pk, in the order of pk; `compact`: read now, equal elements held once."""
    found: list[Record] = []
    read = records.Elements().read if compact else None
    listed = sorted(pks)
    for begin in range(0, len(listed), 500):
        some = tuple(listed[begin : begin + 500])
        marks = ",".join("?" * len(some))
        where = records.Clause(f"record.pk IN ({marks})", some)
        some_found = records.scan(session, vault, where=where, limit=len(some))
        found += some_found if read is None else map(read, some_found)
    return found


def write(session: Session, groups: Sequence[Group]) -> int:
    """Make entries as they shall be, as far as they are not; return how many rows changed.

    Evidence that is gone meanwhile is left out.
    """
    driver: Any = session.connection().connection.driver_connection
    before = driver.total_changes
    have = siblings(session, [pk for group in groups for pk in group.records])
    moved = [
        (group.pk, pk)
        for group in groups
        for pk in group.records
        if pk in have and have[pk] != group.pk
    ]
    left = {have[pk] for _, pk in moved}
    driver.executemany("UPDATE OR IGNORE evidence SET entry = ? WHERE record = ?", moved)
    founders = {group.pk for group in groups}
    driver.executemany(
        "INSERT OR IGNORE INTO entry(pk, section, state, time) SELECT record.pk, ?, ?, record.time"
        " FROM record WHERE record.pk = ?",
        [
            (_section(session, group.pk), LISTED, group.pk)
            for group in groups
            if have.get(group.pk, group.pk) != group.pk
        ],
    )
    driver.executemany(
        "DELETE FROM entry WHERE pk = ? AND NOT EXISTS"
        " (SELECT 1 FROM evidence WHERE evidence.entry = entry.pk)",
        [(pk,) for pk in left - founders],
    )
    driver.executemany(
        "UPDATE entry SET state = ?, time = ? WHERE pk = ? AND (state != ? OR time IS NOT ?)",
        [(one.state, one.time, one.pk, one.state, one.time) for one in groups],
    )
    return int(driver.total_changes - before)


def _section(session: Session, pk: int) -> int:
    row = database.rows(session, "SELECT type, category FROM record WHERE pk = ?", (pk,))
    return section_of(*row[0]) if row else 0


# ------------------------------------------------------------------------------ reading


def counts(session: Session) -> dict[str, int]:
    """Return the number of entries per section slug."""
    rows = session.connection().exec_driver_sql("SELECT section, count(*) FROM entry GROUP BY 1")
    return {SECTIONS[row[0]]: row[1] for row in rows}


def siblings(session: Session, pks: Iterable[int]) -> dict[int, int]:
    """Return the entry of each record; records of one entry are evidence of the same thing."""
    found: dict[int, int] = {}
    listed = list(pks)
    for begin in range(0, len(listed), 1000):
        some = tuple(listed[begin : begin + 1000])
        marks = ",".join("?" * len(some))
        sql = f"SELECT record, entry FROM evidence WHERE record IN ({marks})"
        found.update((row[0], row[1]) for row in database.rows(session, sql, some))
    return found


def evidence(session: Session, pks: Iterable[int]) -> dict[int, list[int]]:
    """Return, by entry, the pks of all evidence of the entries that these records belong to."""
    found: dict[int, list[int]] = {}
    homes = list(dict.fromkeys(siblings(session, pks).values()))
    for begin in range(0, len(homes), 1000):
        some = tuple(homes[begin : begin + 1000])
        marks = ",".join("?" * len(some))
        sql = f"SELECT entry, record FROM evidence WHERE entry IN ({marks}) ORDER BY record"
        for entry, record in database.rows(session, sql, some):
            found.setdefault(entry, []).append(record)
    return found


def current(
    session: Session,
    vault: Vault,
    section: str,
    *,
    limit: int | None = None,
    each: int = 0,
) -> tuple[list[Record], bool]:
    """Return all evidence of what a section may list as current, and whether there is more.

    Newest first by entry, `limit` counts entries; `each` leaves only that many pieces of evidence
    of one entry (0: all): the newest of every connection first, then the newest. The chart decides
    what is current today: this leaves out only what no source lists. Statements that nothing is
    known are among them.
    """
    wanted = -1 if limit is None else limit + 1
    sql = "SELECT pk FROM entry WHERE section = ? AND state = ? ORDER BY time DESC, pk DESC LIMIT ?"
    rows = database.rows(session, sql, (section_number(section), LISTED, wanted))
    chosen = [row[0] for row in rows][: limit if limit is not None else len(rows)]
    proof = evidence(session, chosen)
    cut = [pk for some in proof.values() if 0 < each < len(some) for pk in some]
    known = {row.pk: row for row in rows_of(session, cut)}
    pks = [
        pk
        for some in proof.values()
        for pk in (_telling([known[one] for one in some])[:each] if some[0] in known else some)
    ]
    place = {entry: number for number, entry in enumerate(chosen)}
    homes = siblings(session, pks)
    found = loaded(session, vault, pks)
    found.sort(key=lambda one: (place.get(homes.get(one.pk, -1), 0), -one.pk))
    return found, len(rows) > len(chosen)


def others(
    session: Session,
    vault: Vault,
    pk: int,
    types: Sequence[str],
    *,
    words: str = "",
    limit: int = 60,
) -> tuple[list[Record], bool]:
    """Return a record of each other entry of the same section and these types, newest first.

    With `words`: of those entries whose evidence has them, the newest record that has. The second
    value says whether there are more than `limit`.
    """
    home = siblings(session, [pk]).get(pk, pk)
    numbers = tuple(KINDS[type_].number for type_ in types)
    params = (home, home, *numbers)
    shown = (
        "entry.section = (SELECT section FROM entry WHERE pk = ?) AND entry.pk != ?"
        f" AND record.type IN ({','.join('?' * len(numbers))})"
    )
    if not words:
        sql = (
            f"SELECT entry.pk FROM entry JOIN record ON record.pk = entry.pk WHERE {shown}"
            " ORDER BY entry.time DESC, entry.pk DESC LIMIT ?"
        )
        pks = [row[0] for row in database.rows(session, sql, (*params, limit + 1))]
        place = {one: number for number, one in enumerate(pks)}
        found = sorted(loaded(session, vault, pks), key=lambda one: place[one.pk])
        return found[:limit], len(found) > limit
    where = records.Clause(
        "record.pk IN (SELECT evidence.record FROM evidence JOIN entry"
        f" ON entry.pk = evidence.entry WHERE {shown})",
        params,
    )
    hits = records.search(session, vault, words, limit=_HITS, where=where)
    homes = siblings(session, [one.pk for one in hits])
    newest = {homes.get(one.pk, one.pk): one for one in reversed(hits)}
    found = [one for one in hits if newest[homes.get(one.pk, one.pk)] is one]
    return found[:limit], len(found) > limit or len(hits) == _HITS


def _telling(rows: Sequence[Row]) -> list[int]:
    """Return evidence in the order in which it speaks: each connection's newest, then the rest."""
    never = -(1 << 62)
    newest = sorted(
        rows,
        key=lambda row: (never if row.time is None else row.time, row.pk),
        reverse=True,
    )
    first = {row.connection: row.pk for row in reversed(newest)}
    speaking = set(first.values())
    return [
        *(row.pk for row in newest if row.pk in speaking),
        *(row.pk for row in newest if row.pk not in speaking),
    ]


# ------------------------------------------------------------------------------ decisions


class Said(NamedTuple):
    """A decision as it is kept. `step` names what was said, and can be undone, at once."""

    step: int
    decision: Decision
    by: str
    at: datetime
    undone: bool


def decisions(session: Session) -> tuple[Decision, ...]:
    """Return the patient's standing decisions, oldest first, about records that are here."""
    return tuple(said.decision for said in history(session) if not said.undone)


def history(session: Session) -> list[Said]:
    """Return every decision ever made, oldest first; undone ones are marked.

    A record is found by its key; in another vault (after an import) by its type and remote id,
    where exactly one record has them.
    """
    sql = (
        "SELECT step, one, other, one_name, other_name, same, by, at, undone FROM decision"
        " ORDER BY id"
    )
    found = []
    for step, one, other, name, second, same, by, at, undone in database.rows(session, sql):
        first, last = _here(session, one, name), _here(session, other, second)
        if first is None or last is None:
            continue
        made = Decision(references.local_id_of(first), references.local_id_of(last), bool(same))
        found.append(Said(step, made, by, clock.from_ms(at), undone is not None))
    return found


def _here(session: Session, key: int, name: str) -> int | None:
    if database.rows(session, "SELECT 1 FROM record WHERE key = ?", (key,)):
        return key
    type_, _, remote_id = name.partition("/")
    if type_ not in KINDS:
        return None
    sql = "SELECT key FROM record WHERE type = ? AND remote_id = ? LIMIT 2"
    rows = database.rows(session, sql, (KINDS[type_].number, remote_id))
    return rows[0][0] if len(rows) == 1 else None


def decide(
    session: Session, pairs: Iterable[tuple[int, int]], *, same: bool, by: str, now: datetime
) -> int:
    """Remember a decision about pairs of records (by pk); return the step by which it is undone."""
    run = session.connection().exec_driver_sql
    step = int(run("SELECT coalesce(max(step), 0) + 1 FROM decision").scalar_one())
    for pair in pairs:
        (one, name), (other, second) = (_named(session, pk) for pk in pair)
        run(
            "INSERT INTO decision(step, one, other, one_name, other_name, same, by, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (step, one, other, name, second, int(same), by, clock.to_ms(now)),
        )
        touch(session, pair)
    return step


def undo(session: Session, step: int, *, now: datetime) -> bool:
    """Take a decision back; say whether there was one standing."""
    run = session.connection().exec_driver_sql
    rows = database.rows(
        session, "SELECT one, other FROM decision WHERE step = ? AND undone IS NULL", (step,)
    )
    run("UPDATE decision SET undone = ? WHERE step = ?", (clock.to_ms(now), step))
    _touch_keys(session, {key for row in rows for key in row})
    return bool(rows)


def _touch_keys(session: Session, keys: Iterable[int]) -> None:
    for key in keys:
        touch(session, [row[0] for row in database.rows(session, _PK_OF, (key,))])


_PK_OF: Final = "SELECT pk FROM record WHERE key = ?"


def _named(session: Session, pk: int) -> tuple[int, str]:
    sql = "SELECT key, type, remote_id FROM record WHERE pk = ?"
    ((key, type_, remote_id),) = database.rows(session, sql, (pk,))
    return key, f"{BY_NUMBER[type_].type}/{remote_id}"


def decisions_out(session: Session) -> list[dict[str, Any]]:
    """Return the decisions as plain values, for the owner's own export.

    Records are named as the export names them: "Type/local id", the id they come back with.
    """
    names = ("one", "other", "step", "same", "by", "at", "undone")
    sql = (
        "SELECT one_name, one, other_name, other, step, same, by, at, undone FROM decision"
        " ORDER BY id"
    )
    return [
        dict(zip(names, (_exported(*row[:2]), _exported(*row[2:4]), *row[4:]), strict=True))
        for row in database.rows(session, sql)
    ]


def _exported(name: str, key: int) -> str:
    return f"{name.partition('/')[0]}/{references.local_id_of(key)}"


def decisions_in(session: Session, lines: Iterable[Mapping[str, Any]]) -> int:
    """Take back decisions of `decisions_out` behind those that are here; return how many fit."""
    run = session.connection().exec_driver_sql
    first = int(run("SELECT coalesce(max(step), 0) FROM decision").scalar_one())
    taken = 0
    for line in lines:
        one, other = _here(session, 0, line["one"]), _here(session, 0, line["other"])
        if one is None or other is None:
            continue
        known = "SELECT 1 FROM decision WHERE one = ? AND other = ? AND at = ?"
        if run(known, (one, other, int(line["at"]))).first():
            continue
        run(
            "INSERT INTO decision(step, one, other, one_name, other_name, same, by, at, undone)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (first + int(line["step"]), one, other, line["one"], line["other"],
             int(line["same"]), str(line["by"]), int(line["at"]), line["undone"]),
        )  # fmt: skip
        _touch_keys(session, (one, other))
        taken += 1
    return taken
