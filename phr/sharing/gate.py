"""The only way out: no record leaves except through `release` (the owner's copy: `owner_export`).

Decide, count and write the audit line in one short urgent transaction; only after its commit are
bodies read, with the compiled provision inside the query, and each is checked again. What is sent
in pieces looks before each piece whether the grant still stands. Doors contain no decisions.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial, reduce
from operator import or_
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr import clock, ids
from phr.chart.decision import Decision
from phr.errors import Denied, Ended, NotFound, ScopeTooSmall, TokenRefused
from phr.fhir import document, kinds, reading
from phr.fhir.labels import Label
from phr.fhir.older import as_r4
from phr.fhir.record import Origin, Record, Selection
from phr.fhir.references import key_of
from phr.sharing import bursts, clients, closure, endings, grants, handles, scopes, search
from phr.sharing import provision as policy
from phr.sharing.handles import Bearer
from phr.sharing.provision import SENSITIVE, Action, Compiled, Permit, Provision
from phr.sharing.search import Search
from phr.store import audit, entries, records
from phr.store.database import Priority, rows
from phr.store.house import House, bury
from phr.store.models import (
    ClaimedBrowser,
    Connection,
    Grant,
    GrantState,
    Handle,
    HandleKind,
    HandleState,
    Patient,
    Recipient,
    Route,
)
from phr.store.models import record as record_table
from phr.store.records import Clause
from phr.store.vault import Vault

VISIT = timedelta(minutes=30)  # pages less than this apart are one visit, and one use
BATCH = 500  # records read at once when a whole set is streamed
APPLIANCE = {"kind": "appliance"}


@dataclass(frozen=True, slots=True)
class Presented:
    """What a recipient shows: the handle's id, and for a link the cookie of its browser."""

    handle_id: str
    cookie: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Interaction:
    """What a token is used for: the SMART letters it needs (r, s, or both) for a type.

    `type` None: any, for a request that names none that is known.
    """

    letters: str
    type: str | None


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
            found = _select(session, self.vault, selections, self.compiled)
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
        for record, body in self._scan(self.compiled.counted):
            wanted.note(record)
            yield record, body
        supporting = {
            record.pk: (record, body) for record, body in self._scan(self.compiled.supporting)
        }
        for record in wanted.pick([record for record, _ in supporting.values()]):
            yield supporting[record.pk]

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
                leaving = _leaving(
                    session, self.vault, [r for r in batch if named is None or r.pk in named]
                )
            for record, body in leaving:
                if search.fits(tests, body):
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
        known = f"Patient/{records.patient_local_id(self.vault)}"
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
            return _leaving(session, self.vault, permitted)

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
            return _decided(session, self.vault, self.compiled)

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
            return _leaving(session, self.vault, permitted)

    def file(self, record: Record, url: str) -> bytes:
        """Return the kept bytes of a file that a released record names. Raises NotFound."""
        with self.vault.read() as session:
            self._must_stand(session)
            for named in records.attachments(session, record.pk):
                held = records.attachment(session, named.hash) if named.hash else None
                if named.url == url and held is not None:
                    return held[1]
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
            found = records.by_keys(session, self.vault, keys, where=where)
        return [one for one in found if self.compiled.permits(one) == Permit()]

    def _walk(self, asked: Search, after: str) -> Iterator[list[Record]]:
        """Yield the permitted records among which a search looks, batch by batch, in its order."""
        where = self.compiled.where & asked.where
        place = self._behind(asked.type, after) if after else None
        if asked.keys is not None:
            yield _in_order(self._by_keys(asked.keys, where), asked, place)
            return
        with self.vault.read() as session:
            selection = _select_of(session, asked)
        if selection is not None and place is not None:
            selection = replace(selection, before=place)
        while selection is not None:
            with self.vault.read() as session:
                self._must_stand(session)
                batch = records.select(session, self.vault, selection, where=where)
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
        for batch in self._pieces(self.compiled.counted, _as_found):
            for record in batch:
                wanted.note(record)
        pieces = self._pieces(self.compiled.supporting, _as_found)
        supporting = [record for batch in pieces for record in batch]
        return frozenset(record.pk for record in wanted.pick(supporting))

    def _is_over(self) -> bool:
        grant_id = self.terms.grant_id
        return endings.stopped(grant_id) or endings.turn(grant_id) != self.turn

    def _must_stand(self, session: Session) -> None:
        state = session.execute(select(Grant.state).where(Grant.id == self.terms.grant_id)).scalar()
        if state != GrantState.ACTIVE or self._is_over():
            raise Ended

    def _scan(self, where: Clause) -> Iterator[tuple[Record, bytes]]:
        for leaving in self._pieces(where, partial(_leaving, vault=self.vault)):
            yield from leaving

    def _pieces(self, where: Clause, take: Callable[..., list[Any]]) -> Iterator[list[Any]]:
        """Yield what `take` makes of the permitted records, batch by batch, in the order of pk."""
        after = 0
        while True:
            with self.vault.read() as session:
                self._must_stand(session)
                batch = records.scan(session, self.vault, where=where, after=after, limit=BATCH)
                permitted = [one for one in batch if self.compiled.permits(one) == Permit()]
                taken = take(session, found=permitted)
            yield taken
            if len(batch) < BATCH:
                return
            after = batch[-1].pk


_kept = closure.Kept()


def _as_found(_session: Session, found: list[Record]) -> list[Record]:
    return found


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


def is_r4(record: Record) -> bool:
    """Tell whether a record has no elements of an older release; the API speaks R4 only."""
    parsed = document.parse(record.body)
    return as_r4(parsed) is parsed


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

    def identity(self) -> list[Record]:
        """Return the Patient records: what the composed patient is made of."""
        return self.select(Selection(types=policy.IDENTITY))

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
    return [(one, records.released_bytes(vault, one, session)) for one in found]


# ------------------------------------------------------------------ letting out


def release(
    vault: Vault,
    presented: Presented,
    action: Action,
    event: str,
    *,
    now: datetime,
    actor: Mapping[str, Any] | None = None,
    measure: bool = False,
    **detail: Any,
) -> Released:
    """Decide whether what was presented opens its grant for `action`, and write that down.

    `event` and `detail` become the audit line, by the recipient unless `actor` says otherwise;
    `measure` adds how many records it covers. Raises NotFound (nothing known is presented), Ended
    (it was live once) or Denied.
    """
    with vault.write(Priority.URGENT) as session:
        handle, browser = _known(session, presented)
        grant = grants.get(session, handle.grant_id)
        objection = _objection(handle, grant, browser, now)
        if objection is not None:
            raise objection
        provision = policy.from_json(grant.provision)
        if action not in provision.actions:
            raise Denied(f"{action} is not part of the grant")
        _count_use(grant, browser, now)
        released = Released(
            vault,
            _terms(session, vault, grant),
            provision,
            policy.compiled(provision),
            endings.turn(grant.id),
        )
        if measure:
            where = released.compiled.counted
            detail["records"] = records.count(session, Selection(), where)
        who = actor or actor_of(session, grant)
        audit.append(session, vault, event, who, grant_id=grant.id, **detail)
    return released


def release_to(
    vault: Vault,
    grant_id: str,
    bearer: Bearer,
    wanted: Interaction,
    event: str,
    *,
    now: datetime,
    **detail: str,
) -> Released:
    """Decide whether a bearer token opens its grant for an interaction, and write that down.

    Looked up at every request. Requests for the same thing within a minute are one line of the
    log (`bursts`), and the first of them waits until that is committed; a refused one writes
    nothing. `detail` is never in the words of who asks. Raises TokenRefused (unknown, expired,
    ended, of an app that is blocked or gone), ScopeTooSmall or Denied.
    """
    token = (vault.id, ids.fingerprint(bearer.secret))
    with vault.read() as session:
        released = _let_in(session, vault, grant_id, bearer, wanted, now=now)
    line = bursts.due(token, (event, tuple(sorted(detail.items()))), now=now)
    if line is None:
        return released
    with vault.write(Priority.URGENT) as session:
        commits = vault.database.commits
        released = _let_in(session, vault, grant_id, bearer, wanted, now=now)
        who = actor_of(session, grants.get(session, grant_id))
        audit.append(session, vault, line[0], who, grant_id=grant_id, **dict(line[1]))
        session.info["after"] = [
            partial(bursts.written, token, line, now=now),
            partial(_kept.outlive, vault.database, commits),
        ]
    return released


def _let_in(
    session: Session,
    vault: Vault,
    grant_id: str,
    bearer: Bearer,
    wanted: Interaction,
    *,
    now: datetime,
) -> Released:
    held = _held(session, grant_id, bearer)
    if held is None or held.handle.expires_at is None or held.handle.expires_at <= now:
        raise TokenRefused
    if held.client_id is not None and clients.find(vault.house, held.client_id) is None:
        raise TokenRefused  # a vault that was sealed meanwhile has not heard of it
    grant = held.grant
    objection = _objection(held.handle, grant, None, now)
    if objection is not None:
        raise TokenRefused if isinstance(objection, Ended) else objection
    granted = held.handle.scopes or ""
    provision, compiled = _reached(held.provision, granted, wanted.letters)
    if Action.DOWNLOAD not in provision.actions:
        raise Denied(f"{Action.DOWNLOAD} is not part of the grant")
    types = scopes.types_within(granted, wanted.letters)
    if not types or (wanted.type is not None and wanted.type not in types):
        raise ScopeTooSmall
    terms = _terms_of(grant, held.recipient, provision.actions)
    return Released(
        vault, terms, provision, compiled, endings.turn(grant_id), granted, wanted.letters
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of a token: its handle, the grant, the recipient's name, and the app."""

    handle: Handle
    grant: Grant  # without its provision
    provision: str  # as kept
    recipient: str
    client_id: str | None  # None: not issued to a registered app


_HELD = (
    "SELECT handle.id, handle.state, handle.expires_at, handle.scopes, given.state,"
    " given.starts_at, given.ends_at, given.created_at, given.role, given.purpose, given.reason,"
    " given.shared_by, given.provision, recipient.name, allowed.client_id"
    ' FROM handle JOIN "grant" AS given ON given.id = handle.grant_id'
    " JOIN recipient ON recipient.id = given.recipient_id"
    " LEFT JOIN authorization AS allowed ON allowed.grant_id = handle.grant_id"
    " WHERE handle.grant_id = ? AND handle.kind = ? AND handle.secret_hash = ?"
)


def _held(session: Session, grant_id: str, bearer: Bearer) -> _Held | None:
    """Look a token up: one plain query, for this is asked at every request of every app."""
    secret = ids.fingerprint(bearer.secret)
    found = rows(session, _HELD, (grant_id, HandleKind.TOKEN.value, secret))
    if not found:
        return None
    id_, state, expires, said, standing, starts, ends, created, *rest = found[0]
    *words, provision, name, client_id = rest
    handle = Handle(
        id=id_,
        kind=HandleKind.TOKEN,
        state=state,
        expires_at=None if expires is None else clock.from_ms(expires),
        scopes=said,
    )
    grant = Grant(
        id=grant_id,
        state=standing,
        starts_at=clock.from_ms(starts),
        ends_at=clock.from_ms(ends),
        created_at=clock.from_ms(created),
        **dict(zip(("role", "purpose", "reason", "shared_by"), words, strict=True)),
    )
    return _Held(handle, grant, provision, name, client_id)


@lru_cache(maxsize=128)
def _reached(kept: str, granted: str, letters: str) -> tuple[Provision, Compiled]:
    """Return a kept provision, and it compiled within the scopes of a token."""
    provision = policy.from_json(json.loads(kept))
    return provision, scopes.narrowed(policy.compiled(provision), granted, letters)


def look(vault: Vault, presented: Presented, *, now: datetime) -> Terms:
    """Return the terms that what was presented stands under, reading no record, counting nothing.

    For the form that waits for a code, and for a page that listens for the end.
    """
    with vault.read() as session:
        handle, browser = _known(session, presented)
        grant = grants.get(session, handle.grant_id)
        objection = _objection(handle, grant, browser, now)
        if objection is not None:
            raise objection
        return _terms(session, vault, grant)


def preview(
    session: Session, vault: Vault, provision: Provision, *selections: Selection
) -> list[Record]:
    """Return what a recipient would see under this provision; for the owner's eyes only."""
    return closure.closed(_select(session, vault, selections, policy.compiled(provision)))


def decided(session: Session, vault: Vault, provision: Provision) -> tuple[Decision, ...]:
    """Return what was said about the records that `preview` shows; for the owner's eyes only."""
    return _decided(session, vault, policy.compiled(provision))


@dataclass(frozen=True, slots=True)
class Tally:
    """How many records a provision covers now, and why the others stay out.

    `left_out`: only for their label; `single`: taken out one by one; `rest`: not of the kinds,
    years and places chosen, or private. Those four are all there are. `labelled` counts the whole
    vault by the keys of SENSITIVE. Supporting records do not count.
    """

    shared: int
    left_out: int
    single: int
    rest: int
    labelled: Mapping[str, int]


def tally(session: Session, provision: Provision) -> Tally:
    """Count what a provision covers; for the owner's eyes only."""

    def size(one: Provision) -> int:
        return records.count(session, Selection(), policy.compiled(one).counted)

    every = reduce(or_, (label for _, label in SENSITIVE.values()))
    shared, named = size(provision), size(replace(provision, labels=every))
    whole = size(replace(provision, labels=every, excluded=frozenset()))
    total = records.count(session, Selection(), policy.COUNTABLE)
    sensitive = session.execute(
        select(record_table.c.labels, func.count())
        .where(record_table.c.labels != 0)
        .group_by(record_table.c.labels)
    ).all()
    labelled = {
        key: sum(number for bits, number in sensitive if bits & label)
        for key, (_, label) in SENSITIVE.items()
    }
    return Tally(shared, named - shared, whole - named, total - whole, labelled)


def private_records(session: Session, vault: Vault, *, limit: int) -> list[Record]:
    """Return the newest records that the patient keeps private; for the owner's eyes only."""
    private = Clause("(record.labels & ?) <> 0", (int(Label.PRIVATE),))
    return records.select(session, vault, Selection(limit=limit), where=private)


def draft_terms(vault: Vault, provision: Provision, *, shared_by: str, now: datetime) -> Terms:
    """Return terms for a preview of what nobody has approved yet."""
    return Terms(
        grant_id="",
        patient=person_of(vault),
        recipient="",
        role="",
        purpose="TREAT",
        reason=None,
        shared_by=shared_by,
        created_at=now,
        ends_at=now,
        actions=provision.actions,
    )


def origins(session: Session, where: Clause | None = None) -> dict[int, Origin]:
    """Return the connections that have at least one record fulfilling `where`, as Origins."""
    having = _grouped(session, "record.connection", where or Clause("1"))
    return {
        row.id: Origin(row.id, row.name, row.kind, bool(row.demo), row.last_pull_at)
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


def owner_export(vault: Vault, actor: Mapping[str, Any], *, form: str) -> Owned:
    """Let the owner take a whole copy; the audit line is committed before anything is read."""
    with vault.write(Priority.URGENT) as session:
        audit.append(session, vault, "export.done", actor, form=form)
    return Owned(vault)


def _known(session: Session, presented: Presented) -> tuple[Handle, ClaimedBrowser | None]:
    handle = session.get(Handle, presented.handle_id)
    if handle is None:
        raise NotFound
    if handle.kind == HandleKind.TOKEN:  # opens by its secret only: `release_to`
        raise NotFound
    if handle.kind != HandleKind.LINK:
        if presented.cookie is not None:
            raise NotFound
        return handle, None
    return handle, handles.browser_of(session, handle.id, presented.cookie or "")


def _objection(
    handle: Handle, grant: Grant, browser: ClaimedBrowser | None, now: datetime
) -> Ended | Denied | None:
    if grant.state in (GrantState.ENDED, GrantState.DRAFT) or handle.state == HandleState.ENDED:
        return Ended()
    if endings.stopped(grant.id) and grant.state != GrantState.SUSPENDED:
        return Ended()
    if not grant.starts_at <= now < grant.ends_at:
        return Ended()
    if grant.state == GrantState.SUSPENDED:
        return Denied("suspended", "The patient has paused this. Please ask them.")
    counted = handle.kind != HandleKind.TOKEN  # a token's use was counted when it was issued
    if counted and grant.uses_left == 0 and not _same_visit(browser, now):
        return Ended("This was opened as often as the patient allowed.")
    return None


def _same_visit(browser: ClaimedBrowser | None, now: datetime) -> bool:
    return browser is not None and browser.visit_at is not None and now - browser.visit_at < VISIT


def _count_use(grant: Grant, browser: ClaimedBrowser | None, now: datetime) -> None:
    if grant.uses_left is not None and not _same_visit(browser, now):
        grant.uses_left -= 1
    if browser is not None:
        browser.visit_at = now


def actor_of(session: Session, grant: Grant) -> dict[str, Any]:
    """Return the recipient of a grant in the form the audit log keeps."""
    recipient = session.get(Recipient, grant.recipient_id)
    name = "" if recipient is None else recipient.name
    return {"kind": "recipient", "id": grant.recipient_id, "name": name}


def person_of(vault: Vault) -> str:
    """Return the name that the house gives to the person of a vault."""
    with vault.house.read() as session:
        found = session.get(Patient, vault.id)
        return "" if found is None else found.name


def _terms(session: Session, vault: Vault, grant: Grant) -> Terms:
    recipient = actor_of(session, grant)["name"]
    terms = _terms_of(grant, recipient, policy.from_json(grant.provision).actions)
    return replace(terms, patient=person_of(vault))


def _terms_of(grant: Grant, recipient: str, actions: frozenset[Action]) -> Terms:
    return Terms(
        grant_id=grant.id,
        patient="",
        recipient=recipient,
        role=grant.role,
        purpose=grant.purpose,
        reason=grant.reason,
        shared_by=grant.shared_by,
        created_at=grant.created_at,
        ends_at=grant.ends_at,
        actions=actions,
    )


def _select(
    session: Session, vault: Vault, selections: Sequence[Selection], compiled: Compiled
) -> list[Record]:
    found: dict[int, Record] = {}
    for selection in selections:
        for record in records.select(session, vault, selection, where=compiled.where):
            if compiled.permits(record) == Permit():
                found.setdefault(record.pk, record)
    return list(found.values())


def _decided(session: Session, vault: Vault, compiled: Compiled) -> tuple[Decision, ...]:
    """Return the patient's standing decisions of which both records may be read."""
    said = entries.decisions(session)
    keys = [
        key for one in said for name in (one.one, one.other) if (key := key_of(name)) is not None
    ]
    found = records.by_keys(session, vault, keys, where=compiled.where)
    permitted = {one.local_id for one in found if compiled.permits(one) == Permit()}
    return tuple(one for one in said if {one.one, one.other} <= permitted)


# ------------------------------------------------------------------ ending


def end(
    vault: Vault,
    grant_id: str,
    because: str,
    actor: Mapping[str, Any],
    *,
    now: datetime,
) -> bool:
    """End a grant at once, everywhere; False if it was over before. Never asks for a password.

    The vault comes first: it is what every release reads. Then the bell for open pages and running
    downloads, then the memory in house.db that outlives a restored backup (`reconcile` mends a
    crash in between).
    """
    with vault.write(Priority.URGENT) as session:
        grants.get(session, grant_id)
        changed = grants.end(session, vault, grant_id, because, actor=actor, now=now)
        session.info["after"] = [partial(endings.announce, grant_id)]
    _remember(vault.house, [grant_id], now)
    return changed


def suspend(vault: Vault, grant_id: str, actor: Mapping[str, Any]) -> None:
    """Pause a grant; open pages go blank as at an ending."""
    with vault.write(Priority.URGENT) as session:
        grants.suspend(session, vault, grants.get(session, grant_id), actor)
        session.info["after"] = [partial(endings.announce, grant_id)]


def narrow(vault: Vault, grant_id: str, provision: Provision, actor: Mapping[str, Any]) -> None:
    """Let a grant cover less from now on: open pages ask again, running downloads are cut."""
    with vault.write(Priority.URGENT) as session:
        grants.narrow(session, vault, grants.get(session, grant_id), provision, actor)
        endings.narrowed(grant_id)
        session.info["after"] = [partial(endings.wake, grant_id)]


def resume(
    vault: Vault,
    grant_id: str,
    *,
    step_up: grants.StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> None:
    """Start a paused grant again; needs a fresh factor."""
    with vault.write(Priority.URGENT) as session:
        grant = grants.get(session, grant_id)
        grants.resume(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
    endings.forget(grant_id)


def expire(vault: Vault, *, now: datetime) -> int:
    """End the grants whose time has run out; return how many. For the housekeeping tick."""
    with vault.read() as session:
        due = grants.due(session, now=now)
    for grant_id in due:
        end(vault, grant_id, "time", APPLIANCE, now=now)
    return len(due)


def reconcile(vault: Vault, *, now: datetime) -> None:
    """Make vault and house agree on what has ended, whichever of them forgot. At each opening."""
    with vault.read() as session:
        over = set(session.scalars(select(Grant.id).where(Grant.state == GrantState.ENDED)))
        standing = set(session.scalars(select(Grant.id).where(Grant.state != GrantState.ENDED)))
    remembered = vault.house.buried("grant")
    for grant_id in standing & remembered:
        end(vault, grant_id, "restored", APPLIANCE, now=now)
    _remember(vault.house, sorted(over - remembered), now)


def _remember(house: House, grant_ids: Sequence[str], now: datetime) -> None:
    if not grant_ids:
        return
    with house.write(Priority.URGENT) as session:
        for grant_id in grant_ids:
            bury(session, "grant", grant_id)
        for route in session.scalars(
            select(Route).where(Route.grant_id.in_(grant_ids), Route.ended_at.is_(None))
        ):
            route.ended_at = now
