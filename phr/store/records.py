"""Records as pages, the gate and the keeper read them. Nothing here writes.

`where` fragments come compiled from `sharing.provision`; they name columns as `record.<column>`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock
from phr.fhir import document, references, synonyms
from phr.fhir.check import Note
from phr.fhir.kinds import BY_NUMBER, KINDS, category_mask
from phr.fhir.labels import Label
from phr.fhir.older import as_r4
from phr.fhir.record import UNSAID, UPLOAD, Element, Record, Selection
from phr.fhir.references import key_of, local_id_of
from phr.store import bodies, database, index, spelling
from phr.store.vault import Vault

__all__ = ["UNDATED", "Clause", "Row", "key_of", "local_id_of"]

Row = tuple[Any, ...]  # a stored record, in the order of _COLUMNS

UNDATED: Final = -(1 << 62)  # stands for "no date" in `Selection.before`
_REPEATS: Final = 512  # bytes; longer elements are mostly narrative, each its own
_REMEMBERED: Final = 8192  # elements
_NOT_COMPARED: Final = frozenset(  # when records are joined: narrative, and what says nothing there
    {"text", "meta", "note", "extension", "modifierExtension", "presentedForm", "photo"}
)
_LONG_TEXT: Final = 4096  # characters
_HEADS: Final = 40  # types or concepts that are each asked by their own index
_MANY: Final = 2000  # from so many on, the timeline itself leads to the newest of them quickest
_COLUMNS: Final = (
    "record.pk, record.key, record.connection, record.type, record.remote_id, record.version,"
    " record.received, record.time, record.labels, record.flags, record.body, record.splices"
)
_BEFORE_BODY: Final = 10  # of them


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition over the columns of `record`, with `?` for each parameter."""

    sql: str
    params: tuple[object, ...] = ()

    def __and__(self, other: "Clause") -> "Clause":
        """Return both conditions together."""
        return Clause(f"({self.sql}) AND ({other.sql})", (*self.params, *other.params))


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of a record: kept (`hash` set) or missing with the reason; `url` as in the record."""

    record_pk: int
    url: str
    hash: bytes | None
    media_type: str
    size: int
    sentence: str | None


# ---------------------------------------------------------------------------------- many


def select(
    session: Session, vault: Vault, selection: Selection, *, where: Clause | None = None
) -> list[Record]:
    """Return the records of a Selection in its order (undated ones last when newest first)."""
    sql, params = statement(selection, where, concepts(session, selection))
    if sql is None:
        return []
    return _records(session, vault, sql, params)


def stored(session: Session, selection: Selection) -> tuple[list[Row], Callable[[Row], Record]]:
    """Return the rows of a Selection as they are stored, and what makes a Record of one.

    For a list that has drawn most of its rows before: only the others are unpacked and parsed.
    """
    sql, params = statement(selection, concepts=concepts(session, selection))
    found: list[Row] = [] if sql is None else database.rows(session, sql, params)
    opened = bodies.unpacker(session)
    return found, lambda row: _record(row, opened)


def seen_of(row: Row) -> Row:
    """Return what changes whenever anything shown of a stored row changes."""
    return (row[1], row[5], row[6], row[7], row[8], row[9])  # key to flags, but for the names


def place_of(row: Row) -> tuple[int, int]:
    """Return where a newest-first list goes on behind a stored row: see `Selection.before`."""
    return (UNDATED if row[7] is None else row[7], row[0])


def concepts(session: Session, selection: Selection) -> Sequence[int] | None:
    """Return the numbers of the concepts that have one of a Selection's codes; None: any will do.

    Known beforehand they lead into the index; as a part of the statement they would let SQLite
    guess how many there are, and read every record instead.
    """
    if not selection.codes:
        return None
    pairs = [code.rpartition("|")[::2] for code in selection.codes]
    marks = ",".join(["(?, ?)"] * len(pairs))
    sql = f"SELECT DISTINCT concept FROM coding WHERE (system, code) IN (VALUES {marks})"
    rows = database.rows(session, sql, tuple(part for pair in pairs for part in pair))
    return [row[0] for row in rows]


def statement(
    selection: Selection, where: Clause | None = None, concepts: Sequence[int] | None = None
) -> tuple[str | None, tuple[object, ...]]:
    """Return the SQL and parameters of a Selection; None when it can select nothing.

    With several types or concepts and a limit each is asked by its own index and the heads are
    merged: an IN list would make SQLite sort all of them. `concepts` are those of the codes.
    """
    types = [KINDS[type_].number for type_ in selection.types if type_ in KINDS]
    if (selection.types and not types) or (selection.codes and not concepts):
        return None, ()
    column = "timeline" if selection.timeline else "time"
    order = _order(column, selection.order)
    shared = _conditions(selection, column, where)
    limit = "" if selection.limit is None else f" LIMIT {int(selection.limit)}"
    split, values = "record.type", types
    if concepts is not None:
        split, values = "record.concept", list(concepts)
        shared = _in("+record.type", types) & shared if types else shared
    if not selection.timeline and 1 < len(values) <= _HEADS and limit:
        part = (
            f"SELECT pk FROM (SELECT record.pk FROM record WHERE {split} = ? AND ({shared.sql})"
            f" {order}{limit})"
        )
        union = " UNION ALL ".join([part] * len(values))
        params = tuple(value for each in values for value in (each, *shared.params))
        sql = f"SELECT {_COLUMNS} FROM record WHERE record.pk IN ({union}) {order}{limit}"
        return sql, params
    condition = shared
    if values:
        name = "+record.type" if selection.timeline and concepts is None else split
        condition = _in(name, values) & shared
    sql = f"SELECT {_COLUMNS} FROM record WHERE {condition.sql} {order}{limit}"
    return sql, condition.params


def _in(name: str, values: Sequence[int]) -> Clause:
    return Clause(f"{name} IN ({','.join('?' * len(values))})", tuple(values))


def _order(column: str, order: str) -> str:
    """Both directions follow an index as it is: (..., time) with the pk behind it."""
    direction = "ASC" if order == "oldest" else "DESC"
    return f"ORDER BY record.{column} {direction}, record.pk {direction}"


def _conditions(selection: Selection, column: str, where: Clause | None) -> Clause:
    found = [Clause(f"record.{column} IS NOT NULL") if selection.timeline else Clause("1")]
    if selection.categories:
        found.append(_in_categories(selection.categories))
    if selection.since:
        found.append(Clause(f"record.{column} >= ?", (clock.to_ms(selection.since),)))
    if selection.until:
        found.append(Clause(f"record.{column} < ?", (clock.to_ms(selection.until),)))
    if selection.before:
        found.append(_before(column, *selection.before, oldest=selection.order == "oldest"))
    if selection.connection_id is not None:
        found.append(Clause("record.connection = ?", (selection.connection_id,)))
    if selection.received_since:
        # its index is for `come_since`: here the order decides
        found.append(Clause("+record.received >= ?", (clock.to_ms(selection.received_since),)))
    if not selection.withdrawn:
        found.append(Clause(f"record.flags & {int(Note.WITHDRAWN)} = 0"))
    if where is not None:
        # IS TRUE: the policy filters, the Selection decides about the index
        found.append(Clause(f"(({where.sql}) IS TRUE)", where.params))
    return Clause(
        " AND ".join(each.sql for each in found),
        tuple(value for each in found for value in each.params),
    )


def _in_categories(categories: Sequence[str]) -> Clause:
    mask = category_mask(one for one in categories if one != UNSAID)
    unsaid = " OR COALESCE(record.category, 0) = 0" if UNSAID in categories else ""
    return Clause(f"(record.category & ? != 0{unsaid})", (mask,))


def _before(column: str, ms: int, pk: int, *, oldest: bool) -> Clause:
    """Continue after the row (ms, pk) of the last page, in the same order; see UNDATED."""
    name = f"record.{column}"
    if oldest:  # undated ones come first
        if ms == UNDATED:
            return Clause(f"(({name} IS NULL AND record.pk > ?) OR {name} IS NOT NULL)", (pk,))
        return Clause(f"{name} >= ? AND ({name} > ? OR record.pk > ?)", (ms, ms, pk))
    if ms == UNDATED:
        return Clause(f"{name} IS NULL AND record.pk < ?", (pk,))
    earlier = f"{name} <= ? AND ({name} < ? OR record.pk < ?)"
    if column == "timeline":  # has no undated rows
        return Clause(earlier, (ms, ms, pk))
    return Clause(f"(({earlier}) OR {name} IS NULL)", (ms, ms, pk))


def scan(
    session: Session,
    vault: Vault,
    *,
    where: Clause | None = None,
    after: int = 0,
    limit: int = 500,
) -> list[Record]:
    """Return up to `limit` records behind the pk `after`, in the order of pk: for streaming."""
    condition = Clause("record.pk > ?", (after,))
    if where is not None:
        condition &= where
    sql = f"SELECT {_COLUMNS} FROM record WHERE {condition.sql} ORDER BY record.pk LIMIT ?"
    return _records(session, vault, sql, (*condition.params, limit))


def by_keys(
    session: Session, vault: Vault, keys: Iterable[int], *, where: Clause | None = None
) -> list[Record]:
    """Return the records of these keys that exist (and fulfil `where`), in the order of pk."""
    found: list[Record] = []
    listed = list(dict.fromkeys(keys))
    for begin in range(0, len(listed), 500):
        some = listed[begin : begin + 500]
        condition = Clause(f"record.key IN ({','.join('?' * len(some))})", tuple(some))
        if where is not None:
            condition &= where
        sql = f"SELECT {_COLUMNS} FROM record WHERE {condition.sql} ORDER BY record.pk"
        found += _records(session, vault, sql, condition.params)
    return found


def pointed_to(
    session: Session, vault: Vault, found: Iterable[Record], types: Sequence[str]
) -> list[Record]:
    """Return the records of these types to which others point, each once."""
    keys = dict.fromkeys(key for one in found for key in referenced(session, vault, one))
    numbers = tuple(KINDS[type_].number for type_ in types)
    where = Clause(f"+record.type IN ({','.join('?' * len(numbers))})", numbers)
    return by_keys(session, vault, keys, where=where)


def search(
    session: Session, vault: Vault, words: str, *, limit: int = 50, where: Clause | None = None
) -> list[Record]:
    """Return the newest records whose text has every word (as a prefix); any string is fine.

    Or every word of another name for the same thing; or what is coded with exactly this code.
    """
    query = index.query(words, *synonyms.also(words))
    if query is None:
        return []
    condition = Clause("record.text IN (SELECT rowid FROM search WHERE search MATCH ?)", (query,))
    found = _newest(session, vault, condition, where, limit)
    code = words.strip()
    if len(found) < limit and any(each.isdigit() for each in code) and " " not in code:
        coded = Clause("record.concept IN (SELECT concept FROM coding WHERE code = ?)", (code,))
        seen = {record.pk for record in found}
        more = _newest(session, vault, coded, where, limit)
        found += [record for record in more if record.pk not in seen]
    return found[:limit]


def search_near(
    session: Session, vault: Vault, words: str, *, limit: int = 50
) -> tuple[list[Record], str]:
    """Search; where nothing has these words, for the nearest that something has: say which."""
    found = search(session, vault, words, limit=limit)
    instead = None if found else spelling.nearest(session, words)
    if instead is None:
        return found, ""
    return search(session, vault, instead, limit=limit), instead


def _newest(
    session: Session, vault: Vault, condition: Clause, where: Clause | None, limit: int
) -> list[Record]:
    if where is not None:
        condition &= where
    sql = f"SELECT {_COLUMNS} FROM record WHERE {condition.sql} {_order('time', 'newest')} LIMIT ?"
    return _records(session, vault, sql, (*condition.params, limit))


def count(session: Session, selection: Selection, where: Clause | None = None) -> int:
    """Return how many records a Selection has (its limit and order do not matter)."""
    types = [KINDS[type_].number for type_ in selection.types if type_ in KINDS]
    coded = concepts(session, selection)
    if (selection.types and not types) or coded == []:
        return 0
    condition = _conditions(selection, "timeline" if selection.timeline else "time", None)
    if where is not None:  # here the policy may choose the index: there is no order to keep
        condition &= where
    if types:
        condition &= _in("record.type", types)
    if coded:
        condition &= _in("record.concept", coded)
    sql = f"SELECT count(*) FROM record WHERE {condition.sql}"
    return int(session.connection().exec_driver_sql(sql, condition.params).scalar_one())


def come_since(
    session: Session, vault: Vault, since: datetime | None, *, limit: int
) -> tuple[int, list[Record]]:
    """Return how many records of the timeline came or changed since then (None: ever).

    And the newest of them by their own date: when many came they lie close together on the
    timeline, and few are soon sorted.
    """
    came = "record.timeline IS NOT NULL AND record.received >= ?"
    after = 0 if since is None else clock.to_ms(since)
    [(many,)] = database.rows(session, f"SELECT count(*) FROM record WHERE {came}", (after,))
    if many > _MANY:
        selection = Selection(timeline=True, received_since=since, limit=limit)
        return many, select(session, vault, selection)
    sql = (
        f"SELECT {_COLUMNS} FROM record WHERE record.pk IN (SELECT pk FROM record WHERE {came}"
        f" {_order('timeline', 'newest')} LIMIT ?) {_order('timeline', 'newest')}"
    )
    return many, _records(session, vault, sql, (after, limit))


def undated_since(
    session: Session, vault: Vault, since: datetime | None, *, limit: int
) -> tuple[int, list[Record]]:
    """Return how many records came or changed since then that lack the date for the timeline.

    And those that came last. Few are undated: the index of types and times leads to them.
    """
    kinds = ",".join(str(kind.number) for kind in KINDS.values() if kind.timeline)
    came = f"record.type IN ({kinds}) AND record.time IS NULL AND record.received >= ?"
    after = 0 if since is None else clock.to_ms(since)
    [(many,)] = database.rows(session, f"SELECT count(*) FROM record WHERE {came}", (after,))
    sql = f"SELECT {_COLUMNS} FROM record WHERE {came} ORDER BY record.pk DESC LIMIT ?"
    return many, _records(session, vault, sql, (after, limit)) if many else []


def in_files_since(session: Session, type_: str, since: datetime) -> int:
    """Return how many records of a type the files brought since then hold that came since then.

    Of a file brought for the first time the kept counters tell it; only for one that was there
    before are the records themselves looked at.
    """
    after = clock.to_ms(since)
    sql = "SELECT id, created_at >= ? FROM connection WHERE kind = ? AND last_pull_at >= ?"
    files = database.rows(session, sql, (after, UPLOAD, after))
    many = sum(counts(session, pk).get(type_, 0) for pk, is_new in files if is_new)
    for pk in (pk for pk, is_new in files if not is_new):
        sql = "SELECT count(*) FROM record WHERE type = ? AND connection = ? AND received >= ?"
        many += database.rows(session, sql, (KINDS[type_].number, pk, after))[0][0]
    return many


def counts(session: Session, connection_id: int | None = None) -> dict[str, int]:
    """Return the number of records per type (of one connection), from the kept counters."""
    condition, params = ("WHERE connection = ?", (connection_id,)) if connection_id else ("", ())
    sql = f"SELECT type, sum(n) FROM counter {condition} GROUP BY type HAVING sum(n) > 0"
    rows = session.connection().exec_driver_sql(sql, params)
    return {BY_NUMBER[row[0]].type: row[1] for row in rows}


# ---------------------------------------------------------------------------------- one


def get(session: Session, vault: Vault, type_: str, local_id: str) -> Record | None:
    """Return the current version of one record, or None."""
    key = key_of(local_id)
    kind = KINDS.get(type_)
    if key is None or kind is None:
        return None
    sql = f"SELECT {_COLUMNS} FROM record WHERE record.key = ? AND record.type = ?"
    found = _records(session, vault, sql, (key, kind.number))
    return found[0] if found else None


def versions(session: Session, vault: Vault, type_: str, local_id: str) -> list[Record]:
    """Return every version of one record, the current one first."""
    current = get(session, vault, type_, local_id)
    if current is None:
        return []
    sql = (
        "SELECT record.pk, record.key, record.connection, record.type, record.remote_id,"
        " earlier.version, earlier.received, record.time, earlier.labels, earlier.flags,"
        " earlier.body, earlier.splices FROM record_version AS earlier"
        " JOIN record ON record.pk = earlier.pk WHERE earlier.pk = ? ORDER BY earlier.version DESC"
    )
    return [current, *_records(session, vault, sql, (current.pk,))]


def _records(session: Session, vault: Vault, sql: str, params: tuple[object, ...]) -> list[Record]:
    del vault  # the session is the vault's own; the argument keeps the two together at the call
    opened = bodies.unpacker(session)
    return [_record(row, opened) for row in database.rows(session, sql, params)]


_WITHDRAWN: Final = int(Note.WITHDRAWN)  # arithmetic on enums is slow, and this is a hot path
_label = lru_cache(maxsize=1024)(Label)
_received = lru_cache(maxsize=64)(clock.from_ms)  # one for all records of an import


def _record(row: Any, opened: Callable[[bytes], bytes]) -> Record:
    pk, key, connection, type_, remote_id, version, received, time, labels, flags, body, splices = (
        row
    )
    fields = {
        "pk": pk,
        "local_id": local_id_of(key),
        "connection_id": connection,
        "type": BY_NUMBER[type_].type,
        "remote_id": remote_id,
        "version": version,
        "received_at": _received(received),
        "when": None if time is None else clock.from_ms(time),
        "labels": _label(labels),
        "withdrawn": bool(flags & _WITHDRAWN),
        "body": opened(body),
        "splices": splices,
    }
    made = object.__new__(Record)  # a frozen dataclass sets its fields one by one: 5 x as long
    object.__setattr__(made, "__dict__", fields)
    return made


def _element(value: Any) -> Any:
    """Return a value as an Element, a list as one of Elements."""
    if isinstance(value, list):
        return [_element(one) for one in value]
    return Element(value) if isinstance(value, dict) else value


def _shortened(value: Any) -> Any:
    """Return a value with what stands for each long text: equal texts are equal still."""
    if isinstance(value, str):
        if len(value) <= _LONG_TEXT:
            return value
        return f"sha256-{sha256(''.join(value.split()).encode()).hexdigest()}"
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    return value


class Elements:
    """Reads records to be compared with each other: many are held, so each takes little memory.

    Elements that came byte for byte the same are one object: a hospital's conditions take a quarter
    of the memory, for the time of one parse. What nobody compares is left out, what is long is
    shortened, and the bytes are not held: in their place stands the hash that they are kept under.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {}

    def read(self, row: Row, hash_: bytes, body: bytes) -> Record:
        """Return the Record of a row, which ends before its body and splices."""
        made: dict[str, Any] = {}
        known, parse = self._known, document.parse
        for name, slice_ in document.slices(body).items():
            if name in _NOT_COMPARED:
                continue
            raw = bytes(slice_)
            if raw[0] not in b"[{" or len(raw) > _REPEATS:
                read = parse(raw)
                made[name] = read if len(raw) <= _LONG_TEXT else _shortened(read)
                continue
            value = known.get(raw)
            if value is None:
                if len(known) >= _REMEMBERED:
                    known.clear()
                value = known[raw] = _element(parse(raw))
            made[name] = value
        record = _record((*row, hash_, b""), bytes)
        record.__dict__["_document"] = as_r4(made)
        return record


def compared(session: Session, pks: Sequence[int], elements: Elements) -> Iterator[Record]:
    """Yield the records of these pks as they are compared, holding the bytes of one at a time."""
    opened = bodies.unpacker(session)
    sql = (
        f"SELECT {_COLUMNS}, record.hash FROM record"
        f" WHERE record.pk IN ({','.join('?' * len(pks))})"
    )
    for row in database.each_row(session, sql, tuple(pks)):
        yield elements.read(row[:_BEFORE_BODY], row[-1], opened(row[_BEFORE_BODY]))


def notes(session: Session, record_pk: int) -> Note:
    """Return what was noted about a record when it was kept."""
    row = session.connection().exec_driver_sql(
        "SELECT flags FROM record WHERE pk = ?", (record_pk,)
    )
    return Note(row.scalar() or 0)


# ------------------------------------------------------------------------------- leaving


def local_id(vault: Vault, connection_id: int, type_: str, remote_id: str) -> str:
    """Return our id of a remote resource (whether or not it was received)."""
    return local_id_of(references.local_key(vault.id_key, connection_id, type_, remote_id))


def released_bytes(vault: Vault, record: Record, session: Session | None = None) -> bytes:
    """Return the received bytes with id, references and patient reference made local.

    Relative references, absolute ones under the connection's base and URNs of the same file lead
    to our ids; `#contained` and foreign addresses stay as they are.
    """
    if session is None:
        with vault.read() as own:
            return released_bytes(vault, record, own)
    return leaving(vault, session, [record])[0]


def leaving(vault: Vault, session: Session, found: Iterable[Record]) -> list[bytes]:
    """Return the bytes that leave for some records: see `released_bytes`."""
    known: dict[int, Rewriting] = session.info.setdefault("rewriting", {})
    made = []
    for one in found:
        rewriting = known.get(one.connection_id)
        if rewriting is None:
            rewriting = known[one.connection_id] = Rewriting(session, vault, one.connection_id)
        made.append(references.splice(one.body, one.splices, one.local_id, rewriting))
    return made


def may_read_otherwise(session: Session, record: Record) -> bool:
    """Tell, of a record of which `leaving` was asked, whether what comes next may change that."""
    rewriting: Rewriting = session.info["rewriting"][record.connection_id]
    return any(said in rewriting.unsure for said in references.said_in(record.body, record.splices))


class Rewriting:
    """What the references of one connection are called here; each is made once in a session.

    `unsure` are those (as they stand in the bytes) whose meaning may still change, because nothing
    that was received so far says what they lead to.
    """

    def __init__(self, session: Session, vault: Vault, connection_id: int) -> None:
        """Belong to a session: what is remembered holds in its snapshot."""
        self._session = session
        self._vault = vault
        self._connection = connection_id
        self._base = _base_url(session, connection_id)
        self._known: dict[bytes, bytes | None] = {}
        self.unsure: set[bytes] = set()

    def __call__(self, said: bytes) -> bytes | None:
        """Return what stands for a reference in what leaves; None where it stays as it is."""
        if said in self._known:
            return self._known[said]
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        new = self._rewritten(said)
        made = self._known[said] = None if new is None else references.escaped(new)
        return made

    def _rewritten(self, said: bytes) -> str | None:
        text = references.unescaped(said)
        pointed = references.target(text)
        if pointed is None:
            return None
        if pointed.type and (not pointed.base or pointed.base == self._base):
            if pointed.type == "Patient":
                return f"Patient/{references.patient_id(self._vault.id_key)}"
            name = local_id(self._vault, self._connection, pointed.type, pointed.id)
            return f"{pointed.type}/{name}"
        found = _resolve(self._session, self._vault, self._connection, text)
        if found is None:
            self.unsure.add(said)
            return None
        type_, key = found
        if type_ == "Patient":
            return f"Patient/{references.patient_id(self._vault.id_key)}"
        return f"{type_}/{local_id_of(key)}"


def _base_url(session: Session, connection_id: int) -> str:
    """Return a connection's base with a slash at its end; asked once in a session."""
    known: dict[int, str] = session.info.setdefault("bases", {})
    if connection_id not in known:
        sql = "SELECT base_url FROM connection WHERE id = ?"
        run = session.connection().exec_driver_sql
        base = run(sql, (connection_id,)).scalar() or ""
        known[connection_id] = base.rstrip("/") + "/" if base else ""
    return known[connection_id]


def _resolve(
    session: Session, vault: Vault, connection_id: int, said: str
) -> tuple[str, int] | None:
    """Find what a URN or an address outside the base means: a record of the same connection."""
    run = session.connection().exec_driver_sql
    pointed = references.target(said)
    if pointed is None:
        return None
    keys = [
        references.local_key(vault.id_key, connection_id, type_, pointed.id)
        for type_ in ([pointed.type] if pointed.type else counts(session, connection_id))
    ]
    sql = "SELECT key FROM alias WHERE connection = ? AND url = ?"
    named = run(sql, (connection_id, said)).scalar()
    keys = [named] if named is not None else keys
    marks = ",".join("?" * len(keys))
    row = run(f"SELECT type, key FROM record WHERE key IN ({marks}) LIMIT 1", tuple(keys)).first()
    return (BY_NUMBER[row[0]].type, row[1]) if row else None


def referenced(session: Session, vault: Vault, record: Record) -> list[int]:
    """Return the keys of the records of the same connection to which a record points."""
    base = _base_url(session, record.connection_id)
    found: dict[int, None] = {}
    for said in references.reference_texts(record.body, record.splices):
        pointed = references.target(said)
        if pointed is None:
            continue
        if pointed.type and (not pointed.base or pointed.base == base):
            key = references.local_key(vault.id_key, record.connection_id, pointed.type, pointed.id)
            found[key] = None
        elif resolved := _resolve(session, vault, record.connection_id, said):
            found[resolved[1]] = None
    return list(found)


# ---------------------------------------------------------------------------- attachments


def attachments(session: Session, record_pk: int) -> list[Attachment]:
    """Return the files that a record names, kept or not."""
    rows = session.connection().exec_driver_sql(
        "SELECT link.record, link.url, link.hash, coalesce(attachment.media_type, ''),"
        " coalesce(attachment.size, 0), link.sentence FROM attachment_link AS link"
        " LEFT JOIN attachment ON attachment.hash = link.hash WHERE link.record = ?",
        (record_pk,),
    )
    return [Attachment(*row) for row in rows]


def attachment(session: Session, hash_: bytes) -> tuple[str, bytes] | None:
    """Return (media type as the sender said it, bytes) of a kept file."""
    row = (
        session.connection()
        .exec_driver_sql("SELECT media_type, bytes FROM attachment WHERE hash = ?", (hash_,))
        .first()
    )
    return (row[0], bodies.unpack(session, row[1])) if row else None


def attachment_records(session: Session, vault: Vault, hash_: bytes) -> list[Record]:
    """Return the records that name a file: whoever may see one of them may see the file."""
    sql = (
        f"SELECT {_COLUMNS} FROM record WHERE record.pk IN"
        " (SELECT record FROM attachment_link WHERE hash = ?) ORDER BY record.pk"
    )
    return _records(session, vault, sql, (hash_,))
