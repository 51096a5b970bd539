"""The only way a record gets in: received bytes, index, labels, entries, together or not at all.

A `Keeper` serves one import into one vault. What a server offers is kept as it came; what cannot
be kept waits in quarantine with the reason. Reading is `phr.store.records`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final

import msgspec
from sqlalchemy.orm import Session

from phr import clock, courtesy, gather
from phr.errors import InvalidInput, NotFound
from phr.fhir import document, references
from phr.fhir.check import Note
from phr.fhir.intake import Intake, Taken, glance, named, peek
from phr.fhir.kinds import KINDS, Kind
from phr.fhir.labels import Label
from phr.fhir.record import UPLOAD, Item
from phr.news import Judge
from phr.store import bodies, entries, index, known
from phr.store.database import Priority
from phr.store.known import Known
from phr.store.models import Connection
from phr.store.vault import Vault
from phr.told import kept_as
from phr.whose import Whose

GROUP: Final = 2000  # records a commit
DEFERRED: Final = 100_000  # records after which a first import builds the indexes and goes on
DEFERRED_WAITING: Final = 10_000  # the same where a network is waited for: there is time for both
TRAINED: Final = 2000  # records after which a connection gets its own dictionary
GROUP_BYTES: Final = 4 * 1024 * 1024  # received bytes a commit
WAIT: Final = 0.5  # seconds that a page waits for others
WORTH: Final = 500  # records from which on a lull is used to put them in order
MAX_ATTACHMENT: Final = 25 * 1024 * 1024
MAX_QUARANTINED: Final = 1024 * 1024  # bytes kept of a refused item
_HASH_BYTES: Final = 16
_SAMPLED: Final = 3 << 20  # bytes that a dictionary of 48 KiB is made of
_SAMPLE: Final = 32 << 10  # of one body: what is long repeats within itself
_WITHDRAWN: Final = int(Note.WITHDRAWN)
_SPACE: Final = b" \t\r\n"
_OPENING, _CLOSING = b"{}"
_STRETCH: Final = 50  # records read in one go before pages may go first: about a millisecond
_PATIENT: Final = KINDS["Patient"]

_INSERT: Final = (  # what is the same for a whole import is written into the statement
    "INSERT INTO record(pk, key, connection, type, remote_id, version, hash, time, time_end,"
    " timeline, concept, category, text, value, measure, labels, flags, received, pull, splices,"
    " body) VALUES (?, ?, {connection}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {received},"
    " {pull}, ?, ?)"
)
_UPDATE: Final = (
    "UPDATE record SET version = ?, hash = ?, time = ?, time_end = ?, timeline = ?, concept = ?,"
    " category = ?, text = ?, value = ?, measure = ?, labels = ?, flags = ?, splices = ?, body = ?,"
    " received = ?, pull = ? WHERE pk = ?"
)
_TO_HISTORY: Final = (
    "INSERT OR REPLACE INTO record_version(pk, version, hash, labels, flags, received, splices,"
    " body) SELECT pk, version, hash, labels, flags, received, splices, body FROM record"
    " WHERE pk = ?"
)

Settle = Callable[[Session, "Kept"], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of items. `reasons` are (place, sentence) of those in quarantine."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    quarantined: int = 0
    reasons: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: "Kept") -> "Kept":
        """Return both together."""
        return Kept(
            self.new + other.new,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.quarantined + other.quarantined,
            self.reasons + other.reasons,
        )


class _Arrived(msgspec.Struct, gc=False):
    """An item that says which resource it is."""

    key: int
    kind: Kind
    name: bytes  # the remote id
    hash: bytes
    body: bytes
    item: Item
    taken: Taken | None = None  # where it was read already, while the next page is waited for

    @property
    def remote_id(self) -> str:
        """The remote id as text."""
        return self.name.decode()


@dataclass(slots=True)
class _Refused:
    """An item that cannot be kept, and why."""

    item: Item
    reason: str


@dataclass(slots=True)
class _Page:
    """One page waiting to be written."""

    chain: str
    settle: Settle | None = None
    before: Kept = field(default_factory=Kept)  # what became of its parts that were written before
    arrived: list[_Arrived] = field(default_factory=list)
    refused: list[_Refused] = field(default_factory=list)
    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def kept(self) -> Kept:
        """Count what became of it."""
        reasons = tuple((refused.item.place, str(refused.reason)) for refused in self.refused)
        return Kept(self.new, self.changed, self.unchanged, len(self.refused), reasons)


class _Row(msgspec.Struct, gc=False):
    """A record to be written: what was read of it, its packed body, and what it replaces."""

    arrived: _Arrived
    taken: Taken
    packed: bytes = b""
    version: int = 1
    pk: int = 0


@dataclass(slots=True)
class _Group:
    """Everything one transaction writes."""

    pages: list[_Page]
    fresh: dict[int, _Row] = field(default_factory=dict)
    earlier: list[_Row] = field(default_factory=list)  # versions of fresh ones, replaced at once
    changed: list[_Row] = field(default_factory=list)
    revived: list[Known] = field(default_factory=list)
    met: list[int] = field(default_factory=list)  # pks of unchanged ones

    def rows(self) -> list[_Row]:
        """Return every version that this group writes."""
        return [*self.fresh.values(), *self.earlier, *self.changed]


class Keeper:
    """One import run into one vault; not for several threads.

    `expected_patient` is the remote patient whose record this is: what says to be another's is
    quarantined. Pages wait for company up to 2,000 records or 0.5 s (see `due`); their ledger
    lines and cursors go through `settle` into the same transaction as their records.

    The first import into an empty vault leaves the secondary indexes for its end (or for the next
    opening: `index.ensure`), unless `live` forbids it, and at most for `deferred` records.
    """

    def __init__(
        self,
        vault: Vault,
        connection_id: int,
        pull_id: int,
        *,
        expected_patient: str | None = None,
        now: datetime,
        group: int = GROUP,
        with_entries: bool = True,
        live: bool = False,
        deferred: int | None = None,
    ) -> None:
        self._vault = vault
        self._connection = connection_id
        self._pull = pull_id
        self._now = clock.to_ms(now)
        self._group = group
        self._with_entries = with_entries
        self._most_deferred = DEFERRED if deferred is None else deferred
        self._pks: dict[int, int] = {}  # of what was written while deferring, by key
        self._insertion = _INSERT.format(
            connection=int(connection_id), received=self._now, pull=int(pull_id)
        )
        self._keys = references.Keys(vault.id_key, connection_id)
        self._intake = Intake()
        self._terms = index.Terms()
        self._ahead = gather.Ahead()
        self._pages: list[_Page] = []
        self._waiting = self._bytes = 0
        self._since = 0.0
        self._written = self._in_order = 0
        with vault.read() as session:
            self._packer = bodies.packer(session, connection_id)
            self._deferring = not live and known.nothing(session)
            self._anew = known.nothing_of(session, connection_id)
            row = session.get(Connection, connection_id)
            if row is None:
                raise NotFound
            self._live = row.kind != UPLOAD
            self._parts = known.next_part(session, pull_id)
            self._whose = Whose(session, expected_patient)
        if not self._deferring:
            index.ensure(vault)  # an import before this one may have been cut off

    # -------------------------------------------------------------------------- taking pages

    def page(self, chain: str, items: Sequence[Item], *, settle: Settle | None = None) -> Kept:
        """Take one page; return what was committed by this call (waiting pages count later).

        `settle(session, kept)` is called with this page's own numbers in its transaction; of a page
        of more than GROUP_BYTES, which is written in parts, in that of the last. What a crash
        leaves of it is there already when it comes again.
        """
        courtesy.give_way()
        sizes = document.sizes(items)
        size = sum(sizes)
        if size <= GROUP_BYTES:
            return self._take(_Page(chain, settle), items, size)
        for item in items:  # whoever stands in its last part says whose the first one is, too
            self.acquaint(chain, item)
        parts = _parts(sizes)
        total = before = Kept()
        for part in parts[:-1]:
            page = _Page(chain)
            total += self._take(page, items[part], sum(sizes[part])) + self.flush()
            before += page.kept()
        last = _Page(chain, settle, before)
        return total + self._take(last, items[parts[-1]], sum(sizes[parts[-1]]))

    def _take(self, page: _Page, items: Sequence[Item], size: int) -> Kept:
        """Take a page, or a part of one, of so many bytes; return what was committed by that."""
        arrived, key_of, chain = page.arrived, self._keys.key, page.chain
        for item in items:
            body = item.body
            if not body or body[0] != _OPENING or body[-1] != _CLOSING:
                body = body.removeprefix(document.BOM).strip(_SPACE)
            try:
                kind, name = glance(body) or _named(body, item)
            except InvalidInput as problem:
                page.refused.append(_Refused(item, problem.told))
                continue
            hash_ = sha256(body).digest()[:_HASH_BYTES]
            arrived.append(_Arrived(key_of(kind.type, name), kind, name, hash_, body, item))
            if kind is _PATIENT:  # before anything of this page is decided about
                self._whose.meet(chain, name.decode(), body)
        if self._anew:  # all of it is news, as a rule
            self._read_early(arrived)
        if not self._pages:
            self._since = time.monotonic()
        self._pages.append(page)
        self._waiting += len(page.arrived)
        self._bytes += size
        full = self._waiting >= self._group or self._bytes >= GROUP_BYTES
        return self.flush() if full or self.due() <= 0 else Kept()

    def acquaint(self, chain: str, item: Item) -> None:
        """Judge a Patient of a file before anything of the file is kept: it may stand at its end.

        What cannot be read is said when its page comes.
        """
        with suppress(InvalidInput):
            kind, name = glance(item.body) or _named(item.body, item)
            if kind is _PATIENT:
                self._whose.meet(chain, name.decode(), item.body)

    def _read_early(self, arrived: Sequence[_Arrived]) -> None:
        """Read what will be read anyway as it comes, so that there is less to do at once later."""
        with gather.uncollected():
            for place, each in enumerate(arrived):
                if not place % _STRETCH:
                    courtesy.give_way()
                with suppress(InvalidInput):  # said when it is decided about
                    each.taken = self._intake.take(document.text_bytes(each.body), each.kind)

    def due(self) -> float:
        """Return the seconds until waiting pages should be flushed (infinite if none wait)."""
        return self._since + WAIT - time.monotonic() if self._pages else float("inf")

    # -------------------------------------------------------------------------- writing groups

    def flush(self) -> Kept:
        """Write the waiting pages in one transaction and return what became of their items."""
        if not self._pages:
            return Kept()
        pages, self._pages, self._waiting, self._bytes = self._pages, [], 0, 0
        with gather.uncollected():
            total = self._commit(pages)
            pages.clear()  # thousands of rows go before the collector may look at them
        return total

    def _commit(self, pages: list[_Page]) -> Kept:
        group = self._prepare(pages)
        try:
            with self._vault.write(Priority.BULK) as session:
                self._write(session, group)
                for page in pages:
                    if page.settle is not None:
                        page.settle(session, page.before + page.kept())
        except BaseException:
            self._terms.forget()
            raise
        self._parts += 1
        self._written += len(group.fresh)
        if self._with_entries:
            self._look_ahead(group)
        if self._deferring:
            self._pks.update((key, row.pk) for key, row in group.fresh.items())
            if self._written >= self._most_deferred:
                self._end_deferring()
        total = Kept()
        for page in pages:
            total += page.kept()
        return total

    def _look_ahead(self, group: _Group) -> None:
        """Read for joining what was just written, while the next page is on its way."""
        listed = [row for row in group.fresh.values() if row.arrived.kind.type in gather.IN_LISTS]
        for place, row in enumerate(listed):
            if not place % _STRETCH:
                courtesy.give_way()
            arrived, taken = row.arrived, row.taken
            self._ahead.add(
                (
                    row.pk,
                    arrived.key,
                    self._connection,
                    arrived.kind.number,
                    arrived.remote_id,
                    row.version,
                    self._now,
                    taken.time,
                    taken.labels,
                    taken.flags,
                ),
                arrived.hash,
                arrived.body,
            )

    def _prepare(self, pages: list[_Page]) -> _Group:
        """Decide about each item and do the work that needs no writer's lock."""
        group = _Group(pages)
        arrived = [each for page in pages for each in page.arrived]
        with self._vault.read() as session:
            there = self._look_up(session, [[each.key for each in page.arrived] for page in pages])
            judge = Judge(session, there, arrived, live=self._live)
            decided = 0
            for page in pages:
                met = len(group.met)
                for each in page.arrived:
                    found = there.get(each.key)
                    if found is not None and found[2] == each.hash:
                        group.met.append(found[1])
                        if found[4] & _WITHDRAWN:
                            group.revived.append(Known(*found))
                        continue
                    decided += 1
                    if not decided % _STRETCH:
                        courtesy.give_way()
                    try:
                        self._decide(group, page, each, judge)
                    except InvalidInput as problem:
                        page.refused.append(_Refused(each.item, problem.told))
                page.unchanged += len(group.met) - met
        rows = group.rows()
        packed = self._packer.pack([row.arrived.body for row in rows])
        for row, blob in zip(rows, packed, strict=True):
            row.packed = blob
        return group

    def _look_up(self, session: Session, pages: Sequence[Sequence[int]]) -> dict[int, known.Row]:
        if self._deferring:  # there is no index on keys yet; what this import wrote is remembered
            pks = {self._pks[key] for keys in pages for key in keys if key in self._pks}
            return known.of_pks(session, list(pks))
        return known.of_pages(session, pages)

    def _decide(self, group: _Group, page: _Page, each: _Arrived, judge: Judge) -> None:
        """Place bytes that the vault does not have as current; raise InvalidInput if unfit."""
        fresh = group.fresh.get(each.key)
        found = judge.known.get(each.key)
        if fresh is None and found is None:
            group.fresh[each.key] = self._row(each, page.chain)
            page.new += 1
            return
        if fresh is not None and fresh.arrived.hash == each.hash:
            page.unchanged += 1
            return
        if found is not None:
            have = Known(*found)
            if not have.moved and judge.nothing_new(have, each.hash, each.body):
                group.met.append(have.pk)
                return
        self._place(group, page, self._row(each, page.chain), judge)

    def _place(self, group: _Group, page: _Page, row: _Row, judge: Judge) -> None:
        """Place another version of something that this group or the vault has."""
        key = row.arrived.key
        fresh = group.fresh.get(key)
        if fresh is not None:  # twice in this group with other content: both are kept
            group.earlier.append(fresh)
            row.version = fresh.version + 1
            group.fresh[key] = row
            page.changed += 1
            return
        have = Known(*judge.known[key])
        row.version, row.pk = have.version + 1, have.pk
        group.changed.append(row)
        page.changed += 1
        judge.known[key] = (key, have.pk, row.arrived.hash, row.version, have.flags, True)

    def _row(self, each: _Arrived, chain: str) -> _Row:
        taken = each.taken or self._intake.take(document.text_bytes(each.body), each.kind)
        whose = self._whose
        if whose.strangers or taken.patients != whose.ours:
            whose.refuse_others(each.remote_id, taken, chain)
        return _Row(each, taken)

    def _write(self, session: Session, group: _Group) -> None:
        rows = group.rows()
        self._settle_terms(session, rows)
        private = known.private(session)
        if self._deferring and not self._written:
            index.drop(session)
        self._insert(session, group, private)
        for row in group.changed:
            self._change(session, row, private)
        run = session.connection().exec_driver_sql
        for have in group.revived:
            run(
                "UPDATE record SET flags = ? WHERE pk = ?",
                (have.flags & ~Note.WITHDRAWN, have.pk),
            )
        if group.met:
            known.meet(session, self._pull, self._parts, group.met)
        self._count(session, group)
        self._quarantine(session, group)

    def _settle_terms(self, session: Session, rows: Sequence[_Row]) -> None:
        self._terms.settle(
            session,
            {row.taken.words for row in rows},
            {row.taken.codings for row in rows},
            {row.taken.measure for row in rows},
        )

    def _insert(self, session: Session, group: _Group, private: set[int]) -> None:
        fresh = list(group.fresh.values())
        if not fresh:
            return
        run = session.connection().exec_driver_sql
        pk = run("SELECT coalesce(max(pk), 0) FROM record").scalar_one()
        values = []
        for pk, row in enumerate(fresh, start=pk + 1):  # noqa: B020  counts on from the last
            row.pk = pk
            arrived = row.arrived
            values.append(
                (
                    pk,
                    arrived.key,
                    arrived.kind.number,
                    arrived.remote_id,
                    *self._columns(row, private),
                )
            )
        driver: Any = session.connection().connection.driver_connection
        driver.executemany(self._insertion, values)
        if group.earlier:
            self._write_earlier(session, group, private)
        if self._with_entries:
            made = [
                (row.pk, row.taken.kind.number, row.taken.categories, row.taken.time)
                for row in fresh
            ]
            entries.add(session, made)
        for row in fresh:
            if row.taken.links:
                self._link(session, row)
            if row.arrived.item.url is not None:
                self._alias(session, row, row.arrived.item.url)

    def _columns(self, row: _Row, private: set[int]) -> tuple[Any, ...]:
        taken = row.taken
        labels = taken.labels
        if private and row.arrived.key in private:
            labels |= Label.PRIVATE
        return (
            row.version,
            row.arrived.hash,
            taken.time,
            taken.time_end,
            taken.time if taken.kind.timeline else None,
            self._terms.concepts[taken.codings],
            taken.categories,
            self._terms.texts[taken.words],
            taken.value,
            self._terms.measures[taken.measure],
            labels,
            taken.flags,
            taken.splices,
            row.packed,
        )

    def _new(self, row: _Row) -> entries.New:
        taken = row.taken
        return entries.New(row.pk, taken.kind.number, taken.categories, taken.time)

    def _write_earlier(self, session: Session, group: _Group, private: set[int]) -> None:
        values = []
        for row in group.earlier:
            columns = self._columns(row, private)
            pk = group.fresh[row.arrived.key].pk
            values.append((pk, *columns[0:2], *columns[10:12], self._now, *columns[12:14]))
        session.connection().exec_driver_sql(
            "INSERT INTO record_version(pk, version, hash, labels, flags, received, splices, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def _change(self, session: Session, row: _Row, private: set[int]) -> None:
        """Put the present version into the history and the new one in its place."""
        run = session.connection().exec_driver_sql
        run(_TO_HISTORY, (row.pk,))
        run(_UPDATE, (*self._columns(row, private), self._now, self._pull, row.pk))
        if self._with_entries:
            entries.change(session, self._new(row))
        if row.taken.links:
            self._link(session, row)

    def _link(self, session: Session, row: _Row) -> None:
        for link in row.taken.links:
            if link.data is None:
                _link(session, row.pk, link.url, None, None)
            else:
                hold(session, row.pk, link.url, link.media_type, link.data)

    def _alias(self, session: Session, row: _Row, url: str) -> None:
        """Remember a fullUrl that does not end in the resource's own type and id."""
        pointed = references.target(url)
        if pointed is not None and (
            pointed.id == row.arrived.remote_id and pointed.type in ("", row.arrived.kind.type)
        ):
            return
        session.connection().exec_driver_sql(
            "INSERT OR REPLACE INTO alias(connection, url, key) VALUES (?, ?, ?)",
            (self._connection, url[:1000], row.arrived.key),
        )

    def _count(self, session: Session, group: _Group) -> None:
        added = Counter(row.arrived.kind.number for row in group.fresh.values())
        if added:
            session.connection().exec_driver_sql(
                "INSERT INTO counter(connection, type, n) VALUES (?, ?, ?)"
                " ON CONFLICT(connection, type) DO UPDATE SET n = n + excluded.n",
                [(self._connection, type_, number) for type_, number in added.items()],
            )

    def _quarantine(self, session: Session, group: _Group) -> None:
        run = session.connection().exec_driver_sql
        for page in group.pages:
            for refused in page.refused:
                body = refused.item.body
                hash_ = sha256(body).digest()[:_HASH_BYTES]
                faults = kept_as(refused.reason)
                told = (self._pull, self._now, refused.item.place, refused.reason, faults)
                known = (self._connection, hash_)
                again = run(  # told by the newest pull that met it, once
                    "UPDATE quarantined SET pull_id = ?, at = ?, place = ?, reason = ?, faults = ?"
                    " WHERE connection_id = ? AND hash = ? AND pull_id <> ?",
                    (*told, *known, self._pull),
                )
                if not again.rowcount:
                    run(
                        "INSERT INTO quarantined(pull_id, at, place, reason, faults,"
                        " connection_id, hash, body) SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
                        " (SELECT 1 FROM quarantined WHERE connection_id = ? AND hash = ?)",
                        (*told, *known, bodies.plain(body[:MAX_QUARANTINED]), *known),
                    )

    def catch_up(self) -> bool:
        """Write what waits and put it in order before the end, in a lull; say whether it did.

        Each time twice as much must have come as was in order before, so that many lulls cost no
        more than twice what `finish` alone would.
        """
        if self._written + self._waiting < max(WORTH, 2 * self._in_order):
            return False
        self.flush()
        self._put_in_order()
        return True

    @property
    def written(self) -> int:
        """How many new records were committed so far."""
        return self._written

    def finish(self) -> Kept:
        """Write what waits and leave the vault in good order for reading."""
        kept = self.flush()
        self._put_in_order()
        return kept

    def _put_in_order(self) -> None:
        self._end_deferring()
        if self._with_entries:
            gather.settle(self._vault, self._ahead)
        self._in_order = self._written

    def _end_deferring(self) -> None:
        """Build the indexes that a first import left out: at once they cost a third."""
        if self._deferring:
            index.ensure(self._vault)
            self._deferring = False
            self._pks.clear()


def _parts(sizes: Sequence[int]) -> list[slice]:
    """Cut a page of records of these sizes where a part would be larger than GROUP_BYTES."""
    begins, held = [0], 0
    for place, size in enumerate(sizes):
        if held and held + size > GROUP_BYTES:
            begins.append(place)
            held = 0
        held += size
    return [slice(*pair) for pair in pairwise([*begins, len(sizes)])]


def _named(body: bytes, item: Item) -> tuple[Kind, bytes]:
    """Return what `glance` did not see in the first bytes, or raise InvalidInput."""
    kind, remote_id = named(*peek(body), body, item.url)
    return kind, remote_id.encode()


# ------------------------------------------------------------------------------- attachments


def _link(session: Session, pk: int, url: str, hash_: bytes | None, sentence: str | None) -> None:
    session.connection().exec_driver_sql(
        "INSERT INTO attachment_link(record, url, hash, sentence) VALUES (?, ?, ?, ?)"
        " ON CONFLICT(record, url) DO UPDATE SET hash = coalesce(excluded.hash, hash),"
        " sentence = CASE WHEN excluded.hash IS NULL THEN coalesce(excluded.sentence, sentence)"
        " END",
        (pk, url, hash_, sentence),
    )


def hold(session: Session, record_pk: int, url: str, media_type: str, content: bytes) -> None:
    """Keep a file of a record in the caller's transaction, such as the one that kept the record."""
    if len(content) > MAX_ATTACHMENT:
        _link(session, record_pk, url, None, "This file is larger than 25 MB and was not kept.")
        return
    hash_ = sha256(content).digest()
    session.connection().exec_driver_sql(
        "INSERT OR IGNORE INTO attachment(hash, media_type, size, bytes) VALUES (?, ?, ?, ?)",
        (hash_, media_type[:200], len(content), bodies.plain(content)),
    )
    _link(session, record_pk, url, hash_, None)


def attach(vault: Vault, record_pk: int, url: str, media_type: str, content: bytes) -> None:
    """Keep a fetched file of a record by its SHA-256."""
    with vault.write(Priority.BULK) as session:
        hold(session, record_pk, url, media_type, content)


def attach_failed(vault: Vault, record_pk: int, url: str, sentence: str) -> None:
    """Remember why a file of a record is missing."""
    with vault.write(Priority.BULK) as session:
        _link(session, record_pk, url, None, sentence)


# ------------------------------------------------------------------- what is not offered now


def withdraw_unseen(vault: Vault, connection_id: int, pull_id: int, types: Iterable[str]) -> int:
    """Mark the records of these types that a full pull did not meet, and return how many.

    They stay readable, marked as no longer offered. Call it after `Keeper.finish`, and only for
    types whose every page arrived.
    """
    numbers = [KINDS[type_].number for type_ in types if type_ in KINDS]
    with vault.write(Priority.BULK) as session:
        run = session.connection().exec_driver_sql
        met = known.met(session, pull_id)
        gone = [
            row[0]
            for type_ in numbers
            for row in run(
                "SELECT pk FROM record WHERE type = ? AND connection = ? AND pull != ?"
                " AND flags & ? = 0",
                (type_, connection_id, pull_id, int(Note.WITHDRAWN)),
            )
            if row[0] not in met
        ]
        if gone:
            run(
                "UPDATE record SET flags = flags | ? WHERE pk = ?",
                [(int(Note.WITHDRAWN), pk) for pk in gone],
            )
        run("DELETE FROM seen WHERE pull = ?", (pull_id,))
    return len(gone)


def mark_private(vault: Vault, local_id: str, on: bool) -> None:
    """Set or lift the patient's own "keep private" on a record, for this and later versions."""
    key = references.key_of(local_id)
    with vault.write() as session:
        if key is None or not _mark(session, key, on=on):
            raise NotFound


def keep_private(session: Session, keys: Iterable[int]) -> None:
    """Set the patient's "keep private" in the transaction that kept the records of these keys."""
    for key in keys:
        _mark(session, key, on=True)


def _mark(session: Session, key: int, *, on: bool) -> bool:
    """Set or lift the mark and say whether there is such a record."""
    run = session.connection().exec_driver_sql
    row = run("SELECT pk FROM record WHERE key = ?", (key,)).first()
    if row is None:
        return False
    change = "labels | ?" if on else "labels & ~?"
    for table in ("record", "record_version"):
        run(f"UPDATE {table} SET labels = {change} WHERE pk = ?", (int(Label.PRIVATE), row[0]))
    if on:
        at = clock.to_ms(clock.now())
        run("INSERT OR IGNORE INTO private_mark(key, at) VALUES (?, ?)", (key, at))
    else:
        run("DELETE FROM private_mark WHERE key = ?", (key,))
    return True


def withdraw(session: Session, keys: Iterable[int], *, on: bool = True) -> None:
    """Mark records as no longer offered, or as offered again, in the caller's transaction."""
    change = "flags | ?" if on else "flags & ~?"
    marked = [(int(Note.WITHDRAWN), key) for key in keys]
    if marked:
        session.connection().exec_driver_sql(
            f"UPDATE record SET flags = {change} WHERE key = ?", marked
        )


def erase(vault: Vault, connection_id: int) -> int:
    """Erase everything that came by a connection and return how many records that was.

    In steps, so that urgent writers need not wait; calling it again finishes what a crash left.
    """
    erased = 0
    while True:
        with vault.write(Priority.BULK) as session:
            run = session.connection().exec_driver_sql
            rows = run(
                "SELECT pk, type FROM record WHERE connection = ? LIMIT 1000", (connection_id,)
            ).fetchall()
            if rows:
                _erase_some(session, [row[0] for row in rows])
            else:
                _erase_rest(session, connection_id)
        vault.drawn.clear()
        if not rows:
            return erased
        erased += len(rows)


def take_out(session: Session, connection_id: int, names: Iterable[tuple[str, str]]) -> int:
    """Erase records of one place by (type, remote id), all their versions; return how many.

    In the caller's transaction: for what somebody took back who still has the bytes elsewhere.
    """
    run = session.connection().exec_driver_sql
    erased = 0
    for type_, remote_id in names:
        number = KINDS[type_].number
        where = (connection_id, number, remote_id)
        sql = "SELECT pk FROM record WHERE connection = ? AND type = ? AND remote_id = ?"
        row = run(sql, where).first()
        if row is None:
            continue
        _erase_some(session, [row[0]])
        run("UPDATE counter SET n = n - 1 WHERE connection = ? AND type = ?", where[:2])
        erased += 1
    run(
        "DELETE FROM attachment WHERE hash NOT IN"
        " (SELECT hash FROM attachment_link WHERE hash IS NOT NULL)"
    )
    return erased


def _erase_some(session: Session, pks: list[int]) -> None:
    run = session.connection().exec_driver_sql
    entries.remove(session, pks)
    each = [(pk,) for pk in pks]
    run("DELETE FROM attachment_link WHERE record = ?", each)
    run("DELETE FROM record_version WHERE pk = ?", each)
    run("DELETE FROM record WHERE pk = ?", each)


def _erase_rest(session: Session, connection_id: int) -> None:
    run = session.connection().exec_driver_sql
    own = (connection_id,)
    run(
        "DELETE FROM attachment WHERE hash NOT IN"
        " (SELECT hash FROM attachment_link WHERE hash IS NOT NULL)"
    )
    run("DELETE FROM counter WHERE connection = ?", own)
    run("DELETE FROM alias WHERE connection = ?", own)
    run("DELETE FROM quarantined WHERE connection_id = ?", own)
    run("DELETE FROM dictionary WHERE connection = ?", own)
    run("DELETE FROM seen WHERE pull IN (SELECT id FROM pull WHERE connection_id = ?)", own)
    unused = "NOT IN (SELECT {0} FROM record WHERE {0} IS NOT NULL)"
    texts = unused.format("text")
    run(f"DELETE FROM search WHERE rowid IN (SELECT id FROM search_text WHERE id {texts})")
    run(f"DELETE FROM search_text WHERE id {texts}")
    run(f"DELETE FROM coding WHERE concept {unused.format('concept')}")
    run(f"DELETE FROM concept WHERE id {unused.format('concept')}")
    run(f"DELETE FROM measure WHERE id {unused.format('measure')}")


# ------------------------------------------------------------------------------ dictionaries


def train(vault: Vault, connection_id: int, least: int = TRAINED) -> bool:
    """Give a connection its own compression dictionary once it has enough records.

    Trained inside the vault from its own bodies, used for what comes later. Returns whether one
    was made; nothing happens where there is one or where there are fewer than `least` records.
    """
    with vault.read() as session:
        run = session.connection().exec_driver_sql
        own = (connection_id,)
        if run("SELECT 1 FROM dictionary WHERE connection = ?", own).first():
            return False
        enough = "SELECT count(*) FROM (SELECT 1 FROM record WHERE connection = ? LIMIT ?)"
        if run(enough, (connection_id, least)).scalar_one() < least:
            return False
        samples = _samples(session, connection_id)
    number, content = bodies.train(samples)
    with vault.write(Priority.BULK) as session:
        session.connection().exec_driver_sql(
            "INSERT INTO dictionary(id, connection, made, bytes) VALUES (?, ?, ?, ?)",
            (number, connection_id, clock.to_ms(clock.now()), content),
        )
    return True


def _samples(session: Session, connection_id: int) -> list[bytes]:
    """Return what a dictionary is made of: of the newest bodies, the beginnings, some megabytes."""
    samples: list[bytes] = []
    left = _SAMPLED
    sql = "SELECT body FROM record WHERE connection = ? ORDER BY pk DESC LIMIT 2000"
    with closing(session.connection().exec_driver_sql(sql, (connection_id,))) as rows:
        for (blob,) in rows:
            samples.append(bodies.unpack(session, blob)[:_SAMPLE])
            left -= len(samples[-1])
            if left <= 0:
                break
    return samples
