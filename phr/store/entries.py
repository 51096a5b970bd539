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
_AHEAD: Final = 6000  # records that an import holds for joining: about 20 MB
_AHEAD_BYTES: Final = 8 << 20  # of their bodies; a hospital may send 31 MB in one
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


def add(session: Session, rows: Sequence[tuple[int, int, int, int | None]]) -> None:
    """Write the entries of new records, each its own, and waiting.

    Rows are (pk, type, categories, time) in the order of pk, as in `New`.
    """
    made = [
        (pk, section_of(type_, categories) if type_ in _VARIES else _SECTIONS[type_], time)
        for pk, type_, categories, time in rows
    ]
    driver: Any = session.connection().connection.driver_connection
    driver.executemany(
        f"INSERT INTO entry(pk, section, state, time) VALUES (?, ?, {LISTED}, ?)", made
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
    heirs = [_leave(session, pk) for pk in pks]
    touch(session, [heir for heir in heirs if heir is not None])  # what joined the rest may be gone


def _leave(session: Session, pk: int) -> int | None:
    """Take a record out of its entry; return the first of the records that stay there, if any."""
    run = session.connection().exec_driver_sql
    home = _home(session, pk)
    if home is not None:
        run("DELETE FROM evidence WHERE record = ?", (pk,))
        return home
    heir: int | None = run("SELECT min(record) FROM evidence WHERE entry = ?", (pk,)).scalar()
    if heir is None:
        run("DELETE FROM entry WHERE pk = ?", (pk,))
        return None
    run("DELETE FROM evidence WHERE record = ?", (heir,))
    run("UPDATE evidence SET entry = ? WHERE entry = ?", (heir, pk))
    run("UPDATE entry SET pk = ? WHERE pk = ?", (heir, pk))
    return heir


def _home(session: Session, pk: int) -> int | None:
    """Return the entry that a record belongs to without being its first; else None."""
    found = database.rows(session, "SELECT entry FROM evidence WHERE record = ?", (pk,))
    return int(found[0][0]) if found else None


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


class JustWritten:
    """Records that an import just wrote, read already: joining them needs no way to the disk.

    Equal elements are held once. Those over the bound are read from the vault when they are joined.
    Each is given out only while the vault's record has the hash that it was written with.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.elements = records.Elements()
        self._held: dict[int, tuple[bytes, Record]] = {}
        self._bytes = 0

    def add(self, row: records.Row, hash_: bytes, body: bytes) -> Record | None:
        """Take a record as it was written, for `Elements.read`; None: they are too many."""
        if len(self._held) >= _AHEAD or self._bytes + len(body) > _AHEAD_BYTES:
            return None
        self._bytes += len(body)
        made = self.elements.read(row, hash_, body)
        self._held[row[0]] = hash_, made
        return made

    def current(self, session: Session, pks: Iterable[int]) -> dict[int, Record]:
        """Return those of these records that are held and are what the vault has now."""
        held = self._held
        listed = [pk for pk in pks if pk in held]
        found: dict[int, Record] = {}
        for begin in range(0, len(listed), 1000):
            some = tuple(listed[begin : begin + 1000])
            sql = f"SELECT pk, hash FROM record WHERE pk IN ({','.join('?' * len(some))})"
            for pk, hash_ in database.rows(session, sql, some):
                if held[pk][0] == hash_:
                    found[pk] = held[pk][1]
        return found


def loaded(
    session: Session, vault: Vault, pks: Iterable[int], *, ahead: JustWritten | None = None
) -> list[Record]:
    """Return records by pk, in the order of pk.

    With `ahead` (it may be empty) as they are compared, see `records.Elements`: without narrative
    and bytes, and those that an import has read already as it read them.
    """
    listed = sorted(pks)
    found = {} if ahead is None else ahead.current(session, listed)
    missing = [pk for pk in listed if pk not in found]
    for begin in range(0, len(missing), 500):
        some = tuple(missing[begin : begin + 500])
        if ahead is not None:
            found |= {one.pk: one for one in records.compared(session, some, ahead.elements)}
            continue
        marks = ",".join("?" * len(some))
        where = records.Clause(f"record.pk IN ({marks})", some)
        found |= {one.pk: one for one in records.scan(session, vault, where=where, limit=len(some))}
    return [found[pk] for pk in listed if pk in found]


def write(session: Session, groups: Sequence[Group]) -> int:
    """Make entries as they shall be, as far as they are not; return how many rows changed.

    Evidence that is gone meanwhile is left out.
    """
    driver: Any = session.connection().connection.driver_connection
    before = driver.total_changes
    have = siblings(session, [pk for group in groups for pk in group.records])
    wanted = [(one, [pk for pk in one.records if pk in have]) for one in groups]
    there = [(one, pks) for one, pks in wanted if pks]
    alone = [(pk, pks[0]) for _, pks in there for pk in pks[1:] if have[pk] == pk]
    joined = _join_lone(session, alone)
    for _, pks in there:
        for pk in pks:
            if have[pk] != pks[0] and pk not in joined:
                _move(session, pk, pks[0])
    standing = _standing(session, [pks[0] for _, pks in there])
    driver.executemany(
        "UPDATE entry SET state = ?, time = ? WHERE pk = ?",
        [
            (one.state, one.time, pks[0])
            for one, pks in there
            if standing.get(pks[0]) != (one.state, one.time)
        ],
    )
    return int(driver.total_changes - before)


def _standing(session: Session, pks: Sequence[int]) -> dict[int, tuple[int, int | None]]:
    """Return state and time of entries."""
    found: dict[int, tuple[int, int | None]] = {}
    for begin in range(0, len(pks), 1000):
        some = tuple(pks[begin : begin + 1000])
        sql = f"SELECT pk, state, time FROM entry WHERE pk IN ({','.join('?' * len(some))})"
        found.update((pk, (state, at)) for pk, state, at in database.rows(session, sql, some))
    return found


def _join_lone(session: Session, moves: Sequence[tuple[int, int]]) -> set[int]:
    """Make (record, entry) evidence where the record was an entry without others; return which."""
    taken = set[int]()
    for begin in range(0, len(moves), 1000):
        some = tuple(pk for pk, _ in moves[begin : begin + 1000])
        sql = f"SELECT entry FROM evidence WHERE entry IN ({','.join('?' * len(some))})"
        taken.update(row[0] for row in database.rows(session, sql, some))
    lone = [(pk, entry) for pk, entry in moves if pk not in taken]
    driver: Any = session.connection().connection.driver_connection
    driver.executemany("DELETE FROM entry WHERE pk = ?", [(pk,) for pk, _ in lone])
    driver.executemany("INSERT INTO evidence(record, entry) VALUES (?, ?)", lone)
    return {pk for pk, _ in lone}


def _move(session: Session, pk: int, entry: int) -> None:
    """Let a record belong to an entry, as far as it does not; an own one is made where it lacks."""
    home = _home(session, pk)
    if home == entry:
        return
    run = session.connection().exec_driver_sql
    if home is not None or pk != entry:
        _leave(session, pk)
    if pk != entry:
        run("INSERT INTO evidence(record, entry) VALUES (?, ?)", (pk, entry))
        return
    run(
        "INSERT INTO entry(pk, section, state, time) SELECT pk, ?, ?, time FROM record"
        " WHERE pk = ? ON CONFLICT(pk) DO UPDATE SET section = excluded.section",
        (_section(session, pk), LISTED, pk),
    )


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
        sql = (
            f"SELECT pk, pk FROM entry WHERE pk IN ({marks})"
            f" UNION ALL SELECT record, entry FROM evidence WHERE record IN ({marks})"
        )
        found.update((row[0], row[1]) for row in database.rows(session, sql, (*some, *some)))
    return found


def evidence(session: Session, pks: Iterable[int]) -> dict[int, list[int]]:
    """Return, by entry, the pks of all evidence of the entries that these records belong to."""
    found = {home: [home] for home in siblings(session, pks).values()}
    homes = list(found)
    for begin in range(0, len(homes), 1000):
        some = tuple(homes[begin : begin + 1000])
        marks = ",".join("?" * len(some))
        sql = f"SELECT entry, record FROM evidence WHERE entry IN ({marks}) ORDER BY record"
        for entry, record in database.rows(session, sql, some):
            found[entry].append(record)
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
        "EXISTS (SELECT 1 FROM entry WHERE entry.pk = coalesce((SELECT evidence.entry FROM evidence"
        f" WHERE evidence.record = record.pk), record.pk) AND {shown})",
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
