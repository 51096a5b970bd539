"""What leaves, kept ready: the bytes of records as they leave, a window and a type at a time.

Made by a thread behind the first that fetches much, dropped by triggers in the transaction that
changes what it was made of. It decides nothing: which records leave is asked of the store, with the
compiled provision in the query, at every reading, and each is checked again before it is taken out.
"""

import logging
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from itertools import groupby, islice, starmap
from operator import itemgetter
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

import msgspec
import zstandard
from sqlalchemy.orm import Session

import phr
from phr import clock, courtesy, logs
from phr.errors import PhrError
from phr.fhir import document, references
from phr.fhir.check import Note
from phr.fhir.kinds import BY_NUMBER, KINDS
from phr.fhir.labels import Label
from phr.fhir.older import as_r4, may_be_older
from phr.fhir.record import Record
from phr.sharing import provision as policy
from phr.sharing.closure import Wanted, named_by
from phr.sharing.provision import NEVER, Compiled, Facts, Permit
from phr.store import bodies, records
from phr.store.database import Priority, rows
from phr.store.models import READY_TYPES, READY_WINDOW
from phr.store.records import Clause
from phr.store.vault import Vault

log = logging.getLogger("phr.ready")

NAME_END: Final = (
    b'","resource":'  # between a local id and its bytes, as entries of a Bundle have it
)
END: Final = b"\x1e"  # between one record and the next: JSON has no such byte (RFC 8259 §7)
ID: Final = 16  # bytes of a local id
HEAD: Final = ID + len(NAME_END)  # bytes in front of a record
LONGEST: Final = 32 * 1024  # bytes of a record kept ready; longer ones are made when they leave
MOST: Final = 8 * 1024 * 1024  # bytes of one window of one type
PART: Final = 256 * 1024  # bytes that leave together, about: between two it is looked again
TOLD: Final = 64  # windows of which is remembered what leaves: 34 bytes a record
SCATTERED: Final = 64  # records of one type in a window: more are found by reading all of it
FEW: Final = 64  # records that were not ready: so many are worth making
LEVEL: Final = 6
PIECE: Final = 256  # records made at once
RULES: Final = 2  # raise it where the same records give other bytes or marks
_WITHDRAWN: Final = int(Note.WITHDRAWN)  # arithmetic on enums is slow
_APART, _OLDER = 1, 2  # flags: made when it leaves; of an older release, so it never leaves here


class Marks(msgspec.Struct, array_like=True):
    """What is known of the records of one window and type, each in the order of pk.

    `places` are pks from the window's first on, `facts` distinct (connection, category bits) and
    `fact` which of them a record has, `first` and `last` its time in ms; `targets` what they refer
    to (see `closure`), `named` the number of a record and that of a target, again and again. Bytes
    are numbers of one size each: lists would cost more than all the rest.
    """

    places: bytes
    flags: bytes
    facts: list[tuple[int, int]]
    fact: bytes
    first: bytes
    last: bytes
    targets: list[tuple[int, str, str]]
    named: bytes


Came = tuple[int, int]  # the connection, and when it was received (ms)


@dataclass(frozen=True, slots=True)
class Lot:
    """Records of one type that leave together: `local id` NAME_END `bytes`, parted by END.

    With a `body` it is one, and `text` its local id. `came`: of each record, in their order, where
    that was asked for.
    """

    type: str
    text: bytes
    body: bytes | None = None
    came: tuple[Came, ...] = ()

    def names(self) -> list[bytes]:
        """Return the local ids."""
        if self.body is not None:
            return [self.text]
        return [one[:ID] for one in self.text.split(END)]


@dataclass(slots=True)
class Taken:
    """What one window gave: what was ready, and the pks of what must be made now.

    Of what was ready each type is unpacked when its turn comes, so that one at a time is held.
    `unmade` counts those of them that could have been ready. `now` is asked in front of each lot:
    where anything was written since, it gives the rows that leave now, else nothing.
    """

    now: Callable[[], "Mapping[int, Row] | None"]
    ready: list[Iterator[Lot]] = field(default_factory=list)
    loose: list[int] = field(default_factory=list)
    unmade: int = 0

    def lots(self) -> Iterator[Lot]:
        """Yield what was ready. It needs no session."""
        while self.ready:
            yield from self.ready.pop(0)


Row = tuple[int, int, int, int, int]  # pk, type, labels, flags, received
_PK, _RECEIVED = itemgetter(0), itemgetter(4)
_BESIDE: Final = frozenset(KINDS[each].number for each in policy.IDENTITY + policy.SUPPORTING)
_ROW: Final = struct.Struct("<qHqqq")
_marks = msgspec.msgpack.Decoder(Marks)


# ------------------------------------------------------------------ taken out


@dataclass(frozen=True, slots=True)
class Asked:
    """What is taken out: of one type or of `types`, what came from `since` until `until` (ms).

    `files_apart`: records that name files are made when they leave, for their addresses change.
    With `types` empty nothing is taken out, only what it refers to is noted. `named`: the pks of
    supporting records that something refers to, where one type of these is asked for. `older`: also
    what has elements of an older release, as it is. `came`: tell where and when each was received.
    """

    type: str | None = None
    types: frozenset[str] = frozenset(KINDS)
    since: int | None = None
    until: int | None = None
    files_apart: bool = False
    named: frozenset[int] | None = None
    older: bool = False
    came: bool = False

    def is_in_time(self, record: Record) -> bool:
        """Tell whether a version of a record was there at `until`."""
        return self.until is None or clock.to_ms(record.received_at) <= self.until

    def has_all(self, group: Sequence["Row"]) -> bool:
        """Tell whether all of some rows came within the time asked for."""
        received = list(map(_RECEIVED, group))
        return (self.since is None or min(received) >= self.since) and (
            self.until is None or max(received) <= self.until
        )


class _Told:
    """Which records the store let out, by window and type: the last question asked of a file.

    An export asks for one type after the other, and each lies in every window. As of a number of
    commits: whatever is written, a label or a smaller grant, it is asked again.
    """

    def __init__(self) -> None:
        """Remember nothing."""
        self._lock = threading.Lock()
        self._of: WeakKeyDictionary[object, tuple[int, Clause, dict[int, dict[int, bytes]]]] = (
            WeakKeyDictionary()
        )

    def get(self, file: object, commits: int, where: Clause) -> dict[int, dict[int, bytes]]:
        """Return what was told of each window, if it still holds: type -> packed rows."""
        with self._lock:
            at, question, found = self._of.get(file, (-1, where, {}))
            return dict(found) if (at, question) == (commits, where) else {}

    def put(
        self, file: object, commits: int, where: Clause, told: tuple[int, dict[int, bytes]]
    ) -> None:
        """Remember what was told of one window."""
        with self._lock:
            at, question, found = self._of.get(file, (-1, where, {}))
            if (at, question) != (commits, where):
                found = {}
            if len(found) < TOLD:
                found[told[0]] = told[1]
            self._of[file] = (commits, where, found)

    def outlive(self, file: object, commits: int) -> None:
        """Carry what held at `commits` over the next commit, which touched no record."""
        with self._lock:
            at, question, found = self._of.get(file, (-1, Clause("0"), {}))
            if at == commits:
                self._of[file] = (commits + 1, question, found)


_told = _Told()


def outlive(vault: Vault, commits: int) -> None:
    """Carry what is remembered over the next commit, which touches no record."""
    _told.outlive(vault.database, commits)


def windows(
    session: Session, vault: Vault, compiled: Compiled, type_: str | None, *, commits: int
) -> Iterator[tuple[int, Sequence[int] | None]]:
    """Yield the windows in which there are records, and their pks where one type has few there.

    `commits` of the file were counted before the session began.
    """
    [(last,)] = rows(session, "SELECT coalesce(max(pk), -1) FROM record")
    numbers = range(last // READY_WINDOW + 1)
    if type_ is None:
        yield from ((number, None) for number in numbers)
        return
    told = _told.get(vault.database, commits, compiled.where)
    if len(told) == len(numbers):
        kind = KINDS[type_].number
        yield from ((number, None) for number in numbers if kind in told[number])
        return
    sql = "SELECT pk FROM record INDEXED BY record_type WHERE type = ?"
    pks = sorted(pk for (pk,) in rows(session, sql, (KINDS[type_].number,)))
    for number, found in groupby(pks, lambda pk: pk // READY_WINDOW):
        inside = list(found)
        yield number, inside if len(inside) < SCATTERED else None


def take(
    session: Session,
    vault: Vault,
    compiled: Compiled,
    asked: Asked,
    *,
    window: tuple[int, Sequence[int] | None],
    wanted: Wanted,
    commits: int,
    now: Callable[[], Mapping[int, Row] | None],
) -> Taken:
    """Take what is released out of a window; `wanted` notes what that refers to.

    `commits` of the file were counted before the session began; `now`: see Taken and `leaving_now`.
    """
    number = window[0]
    taken = Taken(now)
    groups = _groups(session, vault, compiled, asked, window=window, commits=commits)
    if not groups:
        return taken
    made = _made(session, vault, number, asked)
    apart = _with_files(session, number) if asked.files_apart else frozenset()
    for type_, group in groups:
        marks = made.get(type_)
        if marks is None or BY_NUMBER[type_].type in compiled.by_content:
            taken.unmade += len(group) if marks is None else 0
            taken.loose += [row[0] for row in group]
        else:
            frame = _Frame(session, number, BY_NUMBER[type_].type, marks)
            frame.take(taken, group, compiled, asked, apart=apart, wanted=wanted)
    return taken


def leaving_now(session: Session, compiled: Compiled, number: int) -> dict[int, Row]:
    """Return the rows of a window that the provision lets out at this moment, by pk."""
    return {row[0]: row for row in _permitted(session, compiled.where, number)}


def _groups(
    session: Session,
    vault: Vault,
    compiled: Compiled,
    asked: Asked,
    *,
    window: tuple[int, Sequence[int] | None],
    commits: int,
) -> list[tuple[int, list[Row]]]:
    """Return the rows of a window that leave, by type; few are asked for by their pks.

    Of supporting records those of `asked.named`, and none where all types are asked for.
    """
    (number, pks), where = window, compiled.where
    told = _told.get(vault.database, commits, where).get(number)
    if told is not None:
        kinds = sorted(told) if asked.type is None else [KINDS[asked.type].number]
        groups = [(kind, list(_ROW.iter_unpack(told.get(kind, b"")))) for kind in kinds]
    else:
        groups = _by_type(_permitted(session, where, number, pks))
        if pks is None and (asked.type is not None or not asked.types):
            packed = {kind: b"".join(starmap(_ROW.pack, found)) for kind, found in groups}
            _told.put(vault.database, commits, where, (number, packed))
    if asked.type is None:
        return [(kind, found) for kind, found in groups if kind not in _BESIDE]
    found = next((found for kind, found in groups if kind == KINDS[asked.type].number), [])
    if asked.named is not None:
        found = [row for row in found if row[0] in asked.named]
    return [(KINDS[asked.type].number, found)] if found else []


def _permitted(
    session: Session, where: Clause, number: int, pks: Sequence[int] | None = None
) -> list[Row]:
    """Return the rows of a window that the provision lets out, in the order of pk."""
    begin = number * READY_WINDOW
    inside = Clause("record.pk BETWEEN ? AND ?", (begin, begin + READY_WINDOW - 1))
    if pks is not None:
        inside = policy.among("record.pk", pks)
    condition = inside & where
    sql = (
        "SELECT record.pk, record.type, record.labels, record.flags, record.received FROM record"
        f" WHERE {condition.sql} ORDER BY record.pk"
    )
    return rows(session, sql, condition.params)


def _made(session: Session, vault: Vault, number: int, asked: Asked) -> dict[int, bytes]:
    """Return the marks of what is ready of a window, by type."""
    first = number * READY_TYPES
    places = (first, first + READY_TYPES - 1)
    if asked.type is not None:
        places = (first + KINDS[asked.type].number,) * 2
    sql = "SELECT place, marks FROM ready WHERE place BETWEEN ? AND ? AND rules = ?"
    found = rows(session, sql, (*places, _rules(vault)))
    return {place % READY_TYPES: marks for place, marks in found}


def _with_files(session: Session, number: int) -> frozenset[int]:
    begin = number * READY_WINDOW
    sql = (
        "SELECT DISTINCT record FROM attachment_link"
        " WHERE record BETWEEN ? AND ? AND substr(url, 1, 1) <> '#'"
    )
    found = rows(session, sql, (begin, begin + READY_WINDOW - 1))
    return frozenset(pk for (pk,) in found)


def _by_type(found: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    by_type: dict[int, list[Row]] = {}
    for row in found:
        by_type.setdefault(row[1], []).append(row)
    return sorted(by_type.items())


def _packed(form: str, numbers: Sequence[int]) -> bytes:
    """Return numbers as bytes, the same on every machine."""
    return struct.pack(f"<{len(numbers)}{form}", *numbers)


def _unpacked(form: str, raw: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(raw) // struct.calcsize('<' + form)}{form}", raw)


class _Frame:
    """What is ready of one window and type."""

    def __init__(self, session: Session, number: int, type_: str, marks: bytes) -> None:
        self._session = session
        self._type = type_
        self._marks = _marks.decode(bodies.unpack(session, marks))
        self._place = number * READY_TYPES + KINDS[type_].number
        self._body = b""
        begin = number * READY_WINDOW
        self._pks = [begin + place for place in _unpacked("H", self._marks.places)]

    def take(
        self,
        taken: Taken,
        group: list[Row],
        compiled: Compiled,
        asked: Asked,
        *,
        apart: frozenset[int],
        wanted: Wanted,
    ) -> None:
        """Take out what the rows let out and the check permits; the others are left to be made."""
        flags = self._marks.flags
        whole = not any(flags) and self._pks == list(map(_PK, group))
        numbers: Sequence[int] = range(len(group))
        if not whole or not apart.isdisjoint(self._pks):
            at = {pk: number for number, pk in enumerate(self._pks)}
            held = [row for row in group if row[0] in at and row[0] not in apart]
            held = [row for row in held if flags[at[row[0]]] != _APART]
            if len(held) < len(group):
                taken.unmade += sum(row[0] not in at for row in group)
                kept = {row[0] for row in held}
                taken.loose += [row[0] for row in group if row[0] not in kept]
            group, numbers = held, [at[row[0]] for row in held]
        numbers = self._checked(group, numbers, compiled)
        self._note(numbers, wanted)
        if self._type not in asked.types:
            return
        if group and not asked.has_all(group):
            numbers = self._timely(taken, group, numbers, asked)
        if any(flags):
            if asked.older:
                taken.loose += [self._pks[number] for number in numbers if flags[number]]
            numbers = [number for number in numbers if not flags[number]]
        if numbers:
            self._fetch()
            came = self._came(group, numbers) if asked.came else {}
            taken.ready.append(self._lots(numbers, came, taken, compiled, group))

    def _came(self, group: Sequence[Row], numbers: Sequence[int]) -> Mapping[int, Came]:
        """Return from which connection, and when, records came, by their numbers."""
        received, fact = {row[0]: row[4] for row in group}, _unpacked("H", self._marks.fact)
        said = [one[0] for one in self._marks.facts]
        return {number: (said[fact[number]], received[self._pks[number]]) for number in numbers}

    def _fetch(self) -> bytes:
        if not self._body:
            sql = "SELECT body FROM ready WHERE place = ?"
            [(self._body,)] = rows(self._session, sql, (self._place,))
        return self._body

    def _parts(self) -> Iterator[bytes]:
        """Yield the records in parts of a size that is soon copied."""
        text, begin = zstandard.ZstdDecompressor().decompress(self._fetch()), 0
        while len(text) - begin > PART and (end := text.find(END, begin + PART)) >= 0:
            yield text[begin:end]
            begin = end + 1
        yield text[begin:]

    def _lots(
        self,
        numbers: Sequence[int],
        came: Mapping[int, Came],
        taken: Taken,
        compiled: Compiled,
        group: Sequence[Row],
    ) -> Iterator[Lot]:
        chosen = None if len(numbers) == len(self._pks) else frozenset(numbers)
        begin = counted = 0  # the number of the next record, once so many parts were counted
        for turn, part in enumerate(self._parts()):
            live = taken.now()
            if chosen is None and live is None and not came:
                yield Lot(self._type, part)
                continue
            if counted < turn:  # what was written came in the middle: seldom
                begin = sum(one.count(END) + 1 for one in islice(self._parts(), turn))
            each = part.split(END)
            inside = [
                number
                for number in range(begin, begin + len(each))
                if chosen is None or number in chosen
            ]
            if live is not None:
                inside = [*self._still(inside, live, taken, compiled, group)]
            if inside:
                text = END.join([each[number - begin] for number in inside])
                told = tuple([came[number] for number in inside]) if came else ()
                yield Lot(self._type, text, came=told)
            begin, counted = begin + len(each), turn + 1

    def _still(
        self,
        numbers: Sequence[int],
        live: Mapping[int, Row],
        taken: Taken,
        compiled: Compiled,
        before: Sequence[Row],
    ) -> Sequence[int]:
        """Return those of some records that leave now; what was received anew is made anew."""
        received = {row[0]: row[4] for row in before}
        group, same = list[Row](), list[int]()
        for number in numbers:
            pk = self._pks[number]
            row = live.get(pk)
            if row is not None and row[4] != received[pk]:
                taken.loose.append(pk)
            elif row is not None:
                group.append(row)
                same.append(number)
        return self._checked(group, same, compiled)

    def _ids(self) -> list[str]:
        return [one[:ID].decode() for part in self._parts() for one in part.split(END)]

    def _spans(self) -> tuple[bytes, bytes]:
        return self._marks.first, self._marks.last

    def _times(self, number: int) -> tuple[datetime | None, datetime]:
        """Return when a record begins, and the last instant of its time."""
        first, last = (struct.unpack_from("<q", raw, 8 * number)[0] for raw in self._spans())
        if first == records.UNDATED:
            return None, NEVER
        return clock.from_ms(first), clock.from_ms(last)

    def _facts(
        self,
        said: tuple[int, int],
        live: tuple[int, int],
        time: tuple[datetime | None, datetime],
        local_id: str,
    ) -> Facts:
        connection, categories = said
        labels, flags = live
        withdrawn = bool(flags & _WITHDRAWN)
        return Facts(self._type, local_id, connection, Label(labels), withdrawn, categories, *time)

    def _note(self, numbers: Sequence[int], wanted: Wanted) -> None:
        targets = self._marks.targets
        if len(numbers) == len(self._pks):
            wanted.add(targets)
            return
        chosen, named = set(numbers), _unpacked("I", self._marks.named)
        pairs = zip(named[::2], named[1::2], strict=True)
        wanted.add(targets[target] for number, target in pairs if number in chosen)

    def _timely(
        self, taken: Taken, group: Sequence[Row], numbers: Sequence[int], asked: Asked
    ) -> Sequence[int]:
        """Return what came within the time asked for; what came later was otherwise then."""
        received = {row[0]: row[4] for row in group}
        since, until = asked.since or 0, asked.until
        found = []
        for number in numbers:
            at = received[self._pks[number]]
            if until is not None and at > until:
                taken.loose.append(self._pks[number])
            elif at >= since:
                found.append(number)
        return found

    # ---------------------------------------------------------------- checked again

    def _checked(
        self, group: Sequence[Row], numbers: Sequence[int], compiled: Compiled
    ) -> Sequence[int]:
        """Return those of some records that the check permits, by their own words and live labels.

        Where everything that could be said of any of them is permitted, none is looked at singly.
        """
        live = {(row[2], row[3] & _WITHDRAWN) for row in group}
        if self._is_alike(compiled):
            made = (
                self._facts(said, one, self._times(0), "")
                for said in self._marks.facts
                for one in live
            )
            if all(compiled.permits(one) == Permit() for one in made):
                return numbers
        return self._checked_singly(group, numbers, compiled)

    def _is_alike(self, compiled: Compiled) -> bool:
        """Tell whether neither the time nor the id of any of these records makes a difference."""
        if compiled.single and not compiled.single.isdisjoint(self._ids()):
            return False
        if not compiled.edges:
            return True
        first, last = (_unpacked("q", raw) for raw in self._spans())
        begin, end = min(first), max(last)
        if begin == records.UNDATED:
            return False
        begins, ends = clock.from_ms(begin), clock.from_ms(end)
        return not any(begins < edge <= ends for edge in compiled.edges)

    def _checked_singly(
        self, group: Sequence[Row], numbers: Sequence[int], compiled: Compiled
    ) -> list[int]:
        names = self._ids() if compiled.single else [""] * len(self._pks)
        fact = _unpacked("H", self._marks.fact)
        found = []
        for row, number in zip(group, numbers, strict=True):
            said = self._marks.facts[fact[number]]
            one = self._facts(said, row[2:4], self._times(number), names[number])
            if compiled.permits(one) == Permit():
                found.append(number)
        return found


def lots_of(leaving: Sequence[tuple[Record, bytes]], asked: Asked) -> Iterator[Lot]:
    """Yield as lots what was made just now, one record each: nothing of it has to be parted."""
    for record, body in leaving:
        if record.type not in asked.types or not (asked.older or is_r4(record)):
            continue
        at = clock.to_ms(record.received_at)
        if asked.since is None or at >= asked.since:
            came = ((record.connection_id, at),)
            yield Lot(record.type, record.local_id.encode(), body, came)


# ------------------------------------------------------------------ made

_worker = ThreadPoolExecutor(1, thread_name_prefix="ready")
_lock = threading.Lock()
_waiting: WeakSet[object] = WeakSet()  # files for which a making waits or runs


def behind(vault: Vault) -> None:
    """Make what is not ready, in a thread of its own, once at a time."""
    with _lock:
        if vault.database in _waiting:
            return
        _waiting.add(vault.database)
    _worker.submit(_make_behind, vault)


def _make_behind(vault: Vault) -> None:
    try:
        make(vault)
    except PhrError as error:  # sealed meanwhile, or the disk is full: the next one asks again
        logs.event(log, "ready.stopped", error=type(error).__name__)
    except Exception as error:  # noqa: BLE001 (a thread that nobody waits for tells it here)
        logs.event(log, "ready.failed", logging.ERROR, error=type(error).__name__)
    finally:
        with _lock:
            _waiting.discard(vault.database)


def make(vault: Vault) -> None:
    """Make what is not ready. A window that is written to meanwhile is left for another time."""
    number = 0
    while _make_window(vault, number):
        number += 1
        courtesy.give_way()


def _make_window(vault: Vault, number: int) -> bool:
    """Make the types of a window that are not ready as they are; False behind the last window."""
    commits = vault.database.commits  # before the reading: what it finds must still hold
    begin = number * READY_WINDOW
    with vault.read() as session:
        [(last,)] = rows(session, "SELECT coalesce(max(pk), -1) FROM record")
        have = _made(session, vault, number, Asked())
        sql = "SELECT pk, type FROM record WHERE pk BETWEEN ? AND ? ORDER BY pk"
        held: dict[int, list[int]] = {}
        for pk, type_ in rows(session, sql, (begin, begin + READY_WINDOW - 1)):
            held.setdefault(type_, []).append(pk)
        made = []
        for type_, pks in held.items():
            if type_ in have and _pks_of(session, have[type_], begin) == pks:
                continue
            marks, body = _Making(session, vault, begin).frame(pks)
            made.append((number * READY_TYPES + type_, _rules(vault), marks, body))
            courtesy.give_way()
    if made:
        with vault.write(Priority.BULK) as session:
            if vault.database.commits == commits:
                run = session.connection().exec_driver_sql
                run("INSERT OR REPLACE INTO ready VALUES (?, ?, ?, ?)", made)
    return bool(last >= begin + READY_WINDOW)


def _pks_of(session: Session, marks: bytes, begin: int) -> list[int]:
    places = _marks.decode(bodies.unpack(session, marks)).places
    return [begin + place for place in _unpacked("H", places)]


class _Making:
    """What is made ready of one window and type."""

    def __init__(self, session: Session, vault: Vault, begin: int) -> None:
        self._session = session
        self._vault = vault
        self._begin = begin
        self._size = 0
        self._facts: dict[tuple[int, int], int] = {}
        self._targets: dict[tuple[int, str, str], int] = {}

    def frame(self, pks: Sequence[int]) -> tuple[bytes, bytes]:
        """Return the marks and the text of some records of one type, as they are kept."""
        places, fact, first, last = list[int](), list[int](), list[int](), list[int]()
        flags = bytearray()
        named, texts = list[int](), list[bytes]()
        for start in range(0, len(pks), PIECE):
            some = policy.among("record.pk", pks[start : start + PIECE])
            found = records.scan(self._session, self._vault, where=some, limit=PIECE)
            leaving = records.leaving(self._vault, self._session, found)
            for record, body in zip(found, leaving, strict=True):
                flag = self._flag(record, body)
                if flag != _APART:
                    for target in self._named(record):
                        named.extend((len(flags), target))
                flags.append(flag)
                texts.append(record.local_id.encode() + NAME_END + (b"" if flag else body))
                told = policy.facts(record)
                said = (told.connection_id, told.categories)
                places.append(record.pk - self._begin)
                fact.append(self._facts.setdefault(said, len(self._facts)))
                first.append(records.UNDATED if told.when is None else clock.to_ms(told.when))
                last.append(0 if told.when is None else clock.to_ms(told.last))
        marks = Marks(
            _packed("H", places),
            bytes(flags),
            list(self._facts),
            _packed("H", fact),
            _packed("q", first),
            _packed("q", last),
            list(self._targets),
            _packed("I", named),
        )
        return bodies.plain(msgspec.msgpack.encode(marks)), bodies.plain(END.join(texts), LEVEL)

    def _flag(self, record: Record, body: bytes) -> int:
        self._size += len(body)
        if len(body) > LONGEST or self._size > MOST or END in body:
            return _APART
        if records.may_read_otherwise(self._session, record):
            return _APART
        return 0 if is_r4(record) else _OLDER

    def _named(self, record: Record) -> list[int]:
        found = {
            (record.connection_id, *named)
            for said in references.said_in(record.body, record.splices)
            if (named := named_by(said)) is not None
        }
        return [self._targets.setdefault(one, len(self._targets)) for one in found]


def is_r4(record: Record) -> bool:
    """Tell whether a record has no elements of an older release; the API speaks R4 only."""
    if not may_be_older(record.type, record.body):
        return True
    parsed = document.parse(record.body)
    return as_r4(parsed) is parsed


def _rules(vault: Vault) -> int:
    """Return what changes when the same records would be made ready otherwise."""
    own = references.patient_id(vault.id_key)
    said = repr((phr.__version__, RULES, READY_WINDOW, own))
    return int.from_bytes(blake2b(said.encode(), digest_size=6).digest(), "big")
