"""What a decision of the gate let out: records read with the compiled provision in the query.

Each is checked again before it leaves, and nothing is read once the grant is over. `gate` makes
these and nobody else; the decision, the use and the line of the log are there.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from phr import clock, courtesy
from phr.chart.decision import Decision
from phr.errors import Ended, NotFound
from phr.fhir import kinds, reading, references
from phr.fhir.record import Origin, Record, Selection
from phr.fhir.references import key_of
from phr.sharing import closure, endings, facets, files, ready, scopes, search
from phr.sharing import provision as policy
from phr.sharing.provision import Action, Compiled, Permit, Provision
from phr.sharing.ready import Lot, Taken, is_r4
from phr.sharing.search import Search
from phr.store import entries, records
from phr.store.database import rows
from phr.store.models import Connection, GrantState
from phr.store.records import Clause
from phr.store.vault import Vault

BATCH = 500  # records read at once when a whole set is streamed
FRESH = 32  # the same of what must not be old when it leaves, however slowly it is taken


@dataclass(frozen=True, slots=True)
class Terms:
    """What a recipient may know of the grant it holds."""

    grant_id: str
    patient: str  # the name in the house, for where no released Patient gives one; "" for a token
    recipient: str
    role: str
    purpose: str
    reason: str | None
    shared_by: str
    created_at: datetime
    ends_at: datetime
    actions: frozenset[Action]


@dataclass(frozen=True, slots=True)
class Released:
    """What a decision let out: the terms, and the records it may read (checked one by one)."""

    vault: Vault = field(repr=False)
    terms: Terms
    provision: Provision = field(repr=False)
    compiled: Compiled = field(repr=False)
    turn: int = 0  # of `endings`: what was released before a narrowing stops there
    scopes: str = ""  # of a token, and the letters for which they were read
    letters: str = ""

    def select(self, *selections: Selection) -> list[Record]:
        """Return the released records of some selections, each once; raise Ended when it is over.

        Practitioners, organizations and the like come only where a released record names them.
        """
        with self.vault.read() as session:
            self._must_stand(session)
            found = chosen(session, self.vault, selections, self.compiled)
        return closure.closed(found)

    def one(self, type_: str, local_id: str) -> Record:
        """Return one released record. Raises NotFound alike for hidden and for unknown."""
        key = key_of(local_id)
        if type_ not in kinds.KINDS or key is None or type_ in policy.SUPPORTING:
            raise NotFound
        for record in self._by_keys([key], self.compiled.where):
            if record.type == type_:
                return record
        raise NotFound

    def around(self, record: Record) -> list[Record]:
        """Return what a released record points to, as far as that is released itself.

        Practitioners and the like come with it, as it names them. Raises Ended when it is over.
        """
        with self.vault.read() as session:
            self._must_stand(session)
            keys = records.referenced(session, self.vault, record)
        found = self._by_keys(list(keys), self.compiled.where)
        beside = [one for one in found if one.pk != record.pk and one.type not in policy.IDENTITY]
        return closure.closed([record, *beside])[1:]

    def stream(self) -> Iterator[tuple[Record, bytes]]:
        """Yield every released record with the bytes that leave, in bounded memory.

        Raises Ended as soon as it is over. Supporting records come last: those that are named.
        """
        wanted = closure.Wanted()
        for batch in self._pieces(self.compiled.counted):
            for record, body in batch:
                wanted.note(record)
                yield record, body
        yield from self.bodies(self._supporting(wanted))

    def lots(
        self,
        type_: str | None = None,
        *,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        older: bool = False,
        came: bool = False,
    ) -> Iterator[Lot]:
        """Yield what is released, many records at a time: of one type, or of all or some types.

        A window of records after another, in it what was ready and then what was not. `since`:
        what this server took in from then on; `until`: as it was then; `older`, `came`: see
        `ready.Asked`. Of supporting records, which come last, those that are referred to. Raises
        Ended as soon as it is over.
        """
        if type_ in policy.IDENTITY:  # of whom it is about only the composed Patient leaves
            return
        wanted = closure.Wanted()
        asked = ready.Asked(
            type_,
            frozenset(kinds.KINDS if types is None else types),
            None if since is None else clock.to_ms(since),
            None if until is None else clock.to_ms(until),
            files_apart=bool(self.scopes),
            named=self._named() if type_ in policy.SUPPORTING else None,
            older=older,
            came=came,
        )
        yield from self._counted_lots(asked, wanted)
        if type_ is None:
            yield from self._supporting_lots(asked, wanted)

    def _counted_lots(self, asked: ready.Asked, wanted: closure.Wanted) -> Iterator[Lot]:
        """Yield what is asked for but supporting records; `wanted` notes what it refers to."""
        unmade = 0
        commits = self.vault.database.commits
        with self.vault.read() as session:
            self._must_stand(session)
            windows = list(
                ready.windows(session, self.vault, self.compiled, asked.type, commits=commits)
            )
        for window in windows:
            commits = self.vault.database.commits
            with self.vault.read() as session:
                self._must_stand(session)
                taken = ready.take(
                    session,
                    self.vault,
                    self.compiled,
                    asked,
                    window=window,
                    wanted=wanted,
                    commits=commits,
                    now=self._news(window[0], commits),
                )
            yield from taken.lots()
            yield from self._loose(taken, asked, wanted)
            unmade += taken.unmade
        if unmade >= ready.FEW:
            ready.behind(self.vault)

    def _news(self, window: int, commits: int) -> Callable[[], Mapping[int, ready.Row] | None]:
        """Return what tells which rows of a window leave now, once anything was written.

        Who receives slowly must not get what was hidden while the window was on its way.
        """
        told: tuple[int, Mapping[int, ready.Row] | None] = (commits, None)

        def now() -> Mapping[int, ready.Row] | None:
            nonlocal told
            at = self.vault.database.commits
            if at != told[0]:
                with self.vault.read() as session:
                    self._must_stand(session)
                    told = (at, ready.leaving_now(session, self.compiled, window))
            return told[1]

        return now

    def _loose(self, taken: Taken, asked: ready.Asked, wanted: closure.Wanted) -> Iterator[Lot]:
        """Yield what was not ready; of what changed after `until` the version of then."""
        for start in range(0, len(taken.loose), FRESH):
            some = policy.among("record.pk", taken.loose[start : start + FRESH])
            for batch in self._pieces(self.compiled.where & some):
                for record, body in batch:
                    wanted.note(record)
                    leaving = [(record, body)]
                    if not asked.is_in_time(record):
                        leaving = [one for one in self.versions(record) if asked.is_in_time(one[0])]
                    yield from ready.lots_of(leaving[:1], asked)

    def _supporting_lots(self, asked: ready.Asked, wanted: closure.Wanted) -> Iterator[Lot]:
        yield from ready.lots_of(self.bodies(self._supporting(wanted)), asked)

    def _supporting(self, wanted: closure.Wanted) -> list[Record]:
        """Return the supporting records to which others refer, and those to which these do."""
        with self.vault.read() as session:
            self._must_stand(session)
            every = Selection(types=policy.SUPPORTING)
            found = records.select(session, self.vault, every, where=self.compiled.supporting)
        permitted = [one for one in found if self.compiled.permits(one) == Permit()]
        return list(wanted.pick(sorted(permitted, key=attrgetter("pk"))))

    def found(self, asked: Search, *, after: str = "") -> Iterator[tuple[Record, bytes]]:
        """Yield the released records that a search asks for, in its order, as they leave.

        `after` is the local id of the last one that was seen. Raises Ended as soon as it is over,
        NotFound where `after` is no released record of this type.
        """
        named = self._named() if asked.type in policy.SUPPORTING else None
        tests = (*asked.tests, *(self._linked(chain) for chain in asked.chains))
        for batch in self._walk(asked, after):
            with self.vault.read() as session:
                self._must_stand(session)
                leaving = self._leaving(
                    session, [r for r in batch if named is None or r.pk in named]
                )
            for record, body in leaving:
                courtesy.stand_back()
                if search.fits(tests, record.type, body):
                    yield record, body

    def total(self, asked: Search) -> int:
        """Return how many released records a search asks for, each looked at."""
        return sum(1 for _ in self.found(asked))

    def included(self, leaving: Sequence[tuple[Record, bytes]], asked: Search) -> list[Record]:
        """Return the released records to which others point by the `_include`s of a search."""
        pointed = search.pointed(leaving, asked)
        keys = [key for each in pointed if (key := key_of(each.rpartition("/")[2])) is not None]
        seen = {record.pk for record, _ in leaving}
        return [
            one
            for one in self._by_keys(keys, self.compiled.where)
            if f"{one.type}/{one.local_id}" in pointed
            and one.type not in policy.IDENTITY
            and one.pk not in seen
            and is_r4(one)
        ]

    def includes_patient(self, leaving: Sequence[tuple[Record, bytes]], asked: Search) -> bool:
        """Tell whether an `_include` leads to the composed Patient, and the scopes reach it."""
        known = f"Patient/{references.patient_id(self.vault.id_key)}"
        return self.reaches("Patient") and known in search.pointed(leaving, asked)

    def types_of(self, local_id: str) -> list[str]:
        """Return the type of the record with this id, if the provision lets it out at all."""
        key = key_of(local_id)
        keys = [] if key is None else [key]
        return [one.type for one in self._by_keys(keys, self.compiled.where)]

    def supporting(self, type_: str, local_id: str) -> Record:
        """Return a supporting record to which a released one refers. Raises NotFound."""
        key = key_of(local_id)
        if type_ not in policy.SUPPORTING or key is None:
            raise NotFound
        for record in self._by_keys([key], self.compiled.supporting):
            if record.type == type_ and record.pk in self._named():
                return record
        raise NotFound

    def versions(self, record: Record) -> list[tuple[Record, bytes]]:
        """Return the versions of a released record that may be seen as they leave, newest first.

        Each is judged by its own labels, date and words, also those of long ago.
        """
        with self.vault.read() as session:
            self._must_stand(session)
            found = records.versions(session, self.vault, record.type, record.local_id)
            permitted = [one for one in found if self.compiled.permits(_as_it_was(one)) == Permit()]
            return self._leaving(session, permitted)

    def reaches(self, type_: str) -> bool:
        """Tell whether the scopes of a token say anything of this type."""
        return type_ in scopes.types_within(self.scopes, self.letters)

    def count(self, selection: Selection) -> int:
        """Return how many released records a selection has, supporting ones not counted."""
        with self.vault.read() as session:
            self._must_stand(session)
            return records.count(session, selection, self.compiled.counted)

    def count_by_type(self) -> dict[str, int]:
        """Return how many released records there are of each type, supporting ones not counted."""
        with self.vault.read() as session:
            self._must_stand(session)
            found = _grouped(session, "record.type", self.compiled.counted)
            return {kinds.BY_NUMBER[number].type: count for number, count in found.items()}

    def origins(self) -> dict[int, Origin]:
        """Return the places that released records came from; of others nothing is told."""
        with self.vault.read() as session:
            self._must_stand(session)
            return origins(session, self.compiled.counted)

    def decisions(self) -> tuple[Decision, ...]:
        """Return what the patient said about which records are the same, of released ones only."""
        with self.vault.read() as session:
            self._must_stand(session)
            return decided_within(session, self.vault, self.compiled)

    def place_of(self, record: Record) -> str:
        """Return the name of the place that a released record came from."""
        with self.vault.read() as session:
            self._must_stand(session)
            return place_names(session).get(record.connection_id, "an unknown source")

    def identity(self) -> list[Record]:
        """Return the released Patient records: what the composed patient is made of."""
        return self.select(Selection(types=policy.IDENTITY))

    def bodies(self, found: Sequence[Record]) -> list[tuple[Record, bytes]]:
        """Return the bytes that leave for selected records; raise Ended when it is over."""
        with self.vault.read() as session:
            self._must_stand(session)
            permitted = [one for one in found if self.compiled.permits(one) == Permit()]
            return self._leaving(session, permitted)

    def file(self, record: Record, url: str) -> bytes:
        """Return the bytes of a file that a released record names. Raises NotFound."""
        with self.vault.read() as session:
            self._must_stand(session)
            held = files.held(session, self.vault, self.provision, record, url)
        if held is None:
            raise NotFound
        return held.content

    def file_named(self, name: str) -> tuple[Record, files.File]:
        """Return a file by the id that addresses of this API give it, and the record it is of.

        Whoever may read the record may read its files. Raises NotFound alike for what is hidden,
        unknown, or not here.
        """
        local_id, url_of = files.read_name(self.vault, name)
        for record in self._by_keys(
            [key for key in [key_of(local_id)] if key], self.compiled.where
        ):
            if record.type in policy.SUPPORTING or record.type in policy.IDENTITY:
                continue
            with self.vault.read() as session:
                self._must_stand(session)
                url = url_of(records.attachments(session, record.pk))
                held = url and files.held(session, self.vault, self.provision, record, url)
            if held:
                return record, held
        raise NotFound

    def guarded(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass chunks on while the grant stands; raise Ended in front of the next one after it."""
        for chunk in chunks:
            if self._is_over() or clock.now() >= self.terms.ends_at:
                raise Ended
            yield chunk

    def _by_keys(self, keys: Sequence[int], where: Clause) -> list[Record]:
        with self.vault.read() as session:
            self._must_stand(session)
            if len(keys) == 1 and not _is_let_out(session, keys[0], where):
                return []
            found = records.by_keys(session, self.vault, keys, where=where)
        return [one for one in found if self.compiled.permits(one) == Permit()]

    def _walk(self, asked: Search, after: str) -> Iterator[list[Record]]:
        """Yield the permitted records among which a search looks, batch by batch, in its order."""
        where = self.compiled.where & asked.where
        place = self._behind(asked.type, after) if after else None
        if asked.keys is not None:
            yield _in_order(self._by_keys(asked.keys, where), asked, place)
            return
        asked = search.beyond(asked, references.patient_id(self.vault.id_key))
        led = facets.leads(asked) and facets.ready(self.vault)
        with self.vault.read() as session:
            selection = _select_of(session, asked)
        if selection is not None and place is not None:
            selection = replace(selection, before=place)
        while selection is not None:
            with self.vault.read() as session:
                self._must_stand(session)
                if not led:
                    batch = records.select(session, self.vault, selection, where=where)
                else:
                    keys = facets.keys(session, asked, selection, where)
                    batch = records.by_keys(session, self.vault, keys, where=where)
                    batch.sort(key=_place, reverse=asked.order == "newest")
            yield [
                one
                for one in batch
                if asked.may_fit(one) and self.compiled.permits(one) == Permit()
            ]
            selection = _next(selection, batch)

    def _behind(self, type_: str, local_id: str) -> tuple[int, int]:
        """Return the place of the released record behind which a page begins."""
        key = key_of(local_id)
        known = [] if key is None else self._by_keys([key], self.compiled.where)
        places = [_place(record) for record in known if record.type == type_]
        if not places:
            raise NotFound
        return places[0]

    def _linked(self, chain: search.Chain) -> search.Test:
        """Return the test that a reference leads to something released that fulfils a search."""
        asked = chain.search
        found = (
            [record.local_id for record, _ in self.found(asked)] if self.reaches(asked.type) else []
        )
        return search.within(asked.type, found, chain.parameter)

    def _named(self) -> frozenset[int]:
        """Return the pks of the supporting records to which released ones refer."""
        question = (self.terms.grant_id, self.provision, self.scopes, self.letters)
        file = self.vault.database
        return _kept.get(file, file.commits, question, self._ask_named)

    def _ask_named(self) -> frozenset[int]:
        wanted = closure.Wanted()
        list(self._counted_lots(ready.Asked(types=frozenset()), wanted))  # none, but all is noted
        return frozenset(record.pk for record in self._supporting(wanted))

    def _is_over(self) -> bool:
        grant_id = self.terms.grant_id
        return endings.stopped(grant_id) or endings.turn(grant_id) != self.turn

    def _must_stand(self, session: Session) -> None:
        courtesy.stand_back()
        sql = 'SELECT 1 FROM "grant" WHERE id = ? AND state = ?'
        stands = rows(session, sql, (self.terms.grant_id, GrantState.ACTIVE.value))
        if not stands or self._is_over():
            raise Ended

    def _leaving(self, session: Session, found: Sequence[Record]) -> list[tuple[Record, bytes]]:
        """Return records as they leave; for a token the addresses of their files are our own."""
        leaving = _leaving(session, self.vault, found)
        return files.addressed(session, self.vault, leaving) if self.scopes else leaving

    def _pieces(self, where: Clause) -> Iterator[list[tuple[Record, bytes]]]:
        """Yield the permitted records as they leave, batch by batch, in the order of pk."""
        after = 0
        while True:
            with self.vault.read() as session:
                self._must_stand(session)
                batch = records.scan(session, self.vault, where=where, after=after, limit=BATCH)
                permitted = [one for one in batch if self.compiled.permits(one) == Permit()]
                leaving = self._leaving(session, permitted)
            yield leaving
            if len(batch) < BATCH:
                return
            after = batch[-1].pk


_kept = closure.Kept()


def outlive(vault: Vault, commits: int) -> None:
    """Carry what is remembered over the next commit, which touches no record."""
    _kept.outlive(vault.database, commits)
    ready.outlive(vault, commits)


def _is_let_out(session: Session, key: int, where: Clause) -> bool:
    """Tell whether a record is there and released, by the same work where it is not there at all.

    Then the next one in the index is judged instead: the time it takes must not tell them apart.
    """
    sql = (
        f"SELECT record.key, ({where.sql}) IS TRUE FROM record WHERE record.key >= ?"
        " ORDER BY record.key LIMIT 1"
    )
    found = rows(session, sql, (*where.params, key))
    return bool(found) and found[0][0] == key and bool(found[0][1])


def _select_of(session: Session, asked: Search) -> Selection | None:
    """Return the Selection by which a search is walked through; None where nothing can fit."""
    codes: tuple[str, ...] = ()
    if asked.codes:
        codes = tuple(f"{system}|{code}" for system, code in _coded(session, asked.codes))
        if not codes:
            return None
    return Selection(
        types=(asked.type,),
        codes=codes,
        since=asked.since,
        until=asked.until,
        order=asked.order,
        limit=asked.count + 1,
    )


def _coded(session: Session, tokens: Sequence[search.Token]) -> set[tuple[str, str]]:
    """Return the (system, code) pairs of this vault that tokens without a system may mean."""
    found = {(system, code) for system, code in tokens if system is not None}
    bare = [code for system, code in tokens if system is None]
    if bare:
        marks = ", ".join("?" * len(bare))
        sql = f"SELECT DISTINCT system, code FROM coding WHERE code IN ({marks})"
        rows = session.connection().exec_driver_sql(sql, tuple(bare))
        found |= {(row[0], row[1]) for row in rows}
    return found


def _place(record: Record) -> tuple[int, int]:
    return (records.UNDATED if record.when is None else clock.to_ms(record.when), record.pk)


def _in_order(found: list[Record], asked: Search, behind: tuple[int, int] | None) -> list[Record]:
    """Return a few records of one type in the order of a search, from behind a place on."""
    newest = asked.order == "newest"
    some = sorted((one for one in found if one.type == asked.type), key=_place, reverse=newest)
    if behind is None:
        return some
    return [one for one in some if (_place(one) < behind if newest else _place(one) > behind)]


def _next(selection: Selection, batch: Sequence[Record]) -> Selection | None:
    """Return how a walk goes on behind a batch; None at its end."""
    if selection.limit is None or len(batch) < selection.limit:
        return None
    return replace(selection, before=_place(batch[-1]), limit=BATCH)


def _as_it_was(record: Record) -> Record:
    """Return an earlier version with its own date: the index knows only that of the newest."""
    moment = reading.when(record.document)
    start = None if moment is None else moment.start
    return replace(record, when=None if start is None else clock.from_ms(start))


@dataclass(frozen=True, slots=True)
class Owned:
    """The owner's own copy on its way out: every record, also private and withdrawn ones."""

    vault: Vault = field(repr=False)

    def origins(self) -> dict[int, Origin]:
        """Return every place that records came from."""
        with self.vault.read() as session:
            return origins(session)

    def select(self, *selections: Selection) -> list[Record]:
        """Return the records of some selections, each once."""
        with self.vault.read() as session:
            found = {
                record.pk: record
                for selection in selections
                for record in records.select(session, self.vault, selection)
            }
        return closure.closed(found.values())

    def bodies(self, found: Sequence[Record]) -> list[tuple[Record, bytes]]:
        """Return the bytes that leave for selected records."""
        with self.vault.read() as session:
            return _leaving(session, self.vault, found)

    def types(self) -> list[str]:
        """Return the types of which there are records."""
        with self.vault.read() as session:
            return sorted(type_ for type_, number in records.counts(session).items() if number)

    def attachments(self, record: Record) -> list[records.Attachment]:
        """Return the files that a record names and that are kept."""
        if b'"url"' not in record.body:
            return []
        with self.vault.read() as session:
            return [one for one in records.attachments(session, record.pk) if one.hash]

    def earlier(self, record: Record) -> list[tuple[Record, bytes]]:
        """Return the earlier versions of a record with the bytes that leave, oldest first."""
        with self.vault.read() as session:
            found = records.versions(session, self.vault, record.type, record.local_id)
            return _leaving(session, self.vault, found[:0:-1])

    def decisions(self) -> list[dict[str, Any]]:
        """Return what the patient decided about which records are the same thing."""
        with self.vault.read() as session:
            return entries.decisions_out(session)

    def attachment(self, digest: bytes) -> bytes:
        """Return the bytes of a kept file. Raises NotFound."""
        with self.vault.read() as session:
            found = records.attachment(session, digest)
        if found is None:
            raise NotFound
        return found[1]

    def stream(self, connection_id: int, type_: str) -> Iterator[tuple[Record, bytes]]:
        """Yield every record of one type of one connection with the bytes that leave."""
        where = Clause(
            "record.connection = ? AND record.type = ?",
            (connection_id, kinds.KINDS[type_].number),
        )
        after = 0
        while True:
            with self.vault.read() as session:
                batch = records.scan(session, self.vault, where=where, after=after, limit=BATCH)
                leaving = _leaving(session, self.vault, batch)
            yield from leaving
            if len(batch) < BATCH:
                return
            after = batch[-1].pk


def _leaving(session: Session, vault: Vault, found: Sequence[Record]) -> list[tuple[Record, bytes]]:
    return list(zip(found, records.leaving(vault, session, found), strict=True))


def origins(session: Session, where: Clause | None = None) -> dict[int, Origin]:
    """Return the connections that have at least one record fulfilling `where`, as Origins."""
    having = _grouped(session, "record.connection", where or Clause("1"))
    return {
        row.id: Origin(row.id, row.name, row.kind, bool(row.demo), row.last_pull_at, row.base_url)
        for row in session.scalars(select(Connection).order_by(Connection.id))
        if row.id in having
    }


def place_names(session: Session) -> dict[int, str]:
    """Return the name of every connection, also of those without records: for the log."""
    return {row[0]: row[1] for row in session.execute(select(Connection.id, Connection.name))}


def _grouped(session: Session, column: str, where: Clause) -> dict[int, int]:
    sql = f"SELECT {column}, count(*) FROM record WHERE {where.sql} GROUP BY 1"
    rows = session.connection().exec_driver_sql(sql, where.params).all()
    return {row[0]: row[1] for row in rows}


def chosen(
    session: Session, vault: Vault, selections: Sequence[Selection], compiled: Compiled
) -> list[Record]:
    """Return the permitted records of some selections, each once, practitioners and all."""
    found: dict[int, Record] = {}
    for selection in selections:
        for record in records.select(session, vault, selection, where=compiled.where):
            if compiled.permits(record) == Permit():
                found.setdefault(record.pk, record)
    return list(found.values())


def decided_within(session: Session, vault: Vault, compiled: Compiled) -> tuple[Decision, ...]:
    """Return the patient's standing decisions of which both records may be read."""
    said = entries.decisions(session)
    keys = [
        key for one in said for name in (one.one, one.other) if (key := key_of(name)) is not None
    ]
    found = records.by_keys(session, vault, keys, where=compiled.where)
    permitted = {one.local_id for one in found if compiled.permits(one) == Permit()}
    return tuple(one for one in said if {one.one, one.other} <= permitted)
