"""What strangers send: in quarantine, until the patient accepts it as a Contribution or refuses it.

The only writer of Arrival and ArrivalRule rows. An accepted one is kept by `phr.keep` in a place of
its sender's own, beside the record and never over it. Whether somebody may send says the gate.
"""

import base64
import io
import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, undefer

from phr import clock, ids, keep
from phr.chart import documents
from phr.chart.plain import name_words, string
from phr.errors import Conflict, Denied, InvalidInput, NotFound, TooManyTries
from phr.fhir import document, statements
from phr.fhir.build import authored, concept
from phr.fhir.intake import Intake, Taken, named, peek
from phr.fhir.kinds import KINDS
from phr.fhir.labels import Label
from phr.fhir.record import Item, Record
from phr.fhir.references import local_id_of, local_key
from phr.fhir.slicing import slices
from phr.papers import kinds
from phr.papers.kinds import Way
from phr.sharing import grants
from phr.sharing.gate import Terms
from phr.sharing.parameters import PARAMETERS
from phr.sharing.provision import IDENTITY, SUPPORTING, Action
from phr.sharing.recipients import one_line
from phr.store import audit, connections
from phr.store.models import (
    Arrival,
    ArrivalKind,
    ArrivalRule,
    ArrivalState,
    Connection,
    ConnectionState,
    PullState,
    Recipient,
)
from phr.store.vault import Vault

MOST: Final = 10 << 20  # bytes of one arrival
MOST_BY_API: Final = 4 << 20  # bytes of a request
MOST_NOTE: Final = 20_000  # characters
MOST_WAITING: Final = 20  # of one grant at once
MOST_HOURLY: Final = 10  # of one grant
MOST_EVER: Final = 200  # of one grant
MOST_OF_ONE: Final = 25 << 20  # bytes of what waits of one grant
MOST_BYTES: Final = 100 << 20  # bytes of all that wait in one vault: the last bound
MOST_RESOURCES: Final = 200  # in one arrival
KEPT_FOR: Final = timedelta(days=30)  # what was refused can be taken back for so long
HOUR: Final = timedelta(hours=1)
NOTE: Final = "note"
FILE: Final = "file"
CODED: Final = "document"  # a C-CDA: a file whose coded entries become records
API: Final = "api"
LINK: Final = "link"
BY: Final = {LINK: "by link", API: "by an app"}
# What may be sent as FHIR: what the API offers, but nobody's identity. Who and where come along.
TYPES: Final = frozenset(PARAMETERS) - {*IDENTITY, *SUPPORTING, "Provenance"}
CAPABILITY: Final = (
    "Nothing is written into the record by this. It waits until the patient accepts it: 202, and"
    " the address answers 404 until then; 201 where the patient said so beforehand. Only what the"
    " same app sent can be amended or withdrawn, and what was accepted only if they accept that."
)
_COMING_ALONG: Final = frozenset({*SUPPORTING, "Binary"})
_SHOWN_AS: Final = frozenset({kinds.PDF, kinds.TEXT, kinds.CDA, kinds.RTF})

DAMAGED = "This file says that it is FHIR, but it cannot be read as that. It was not kept."
NOT_TAKEN = "Please send a PDF, a picture (PNG, JPEG, GIF), plain text, C-CDA or FHIR (JSON)."
NO_RECORDS = "There is no record in this file that could be added. It was not kept."
TOO_MANY = f"This file holds more than {MOST_RESOURCES} records. It was not kept."
TOO_LARGE = "This is larger than 10 MB. It was not kept."
FULL = "The patient has not yet looked at what was sent before. Please wait until they have."
NO_ROOM = "This cannot be taken at the moment. Nothing of it was kept; please try again later."
TOO_OFTEN = "That was a lot within an hour. Please wait a while; nothing of this one was kept."

Actor = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender hands in. `title`, `name` and `signed` are his words; `amends` is an arrival.

    `type` is the FHIR type that a program names in its request; its `content` is one resource,
    about nobody but `patient` (the id by which the API knows whose record this is).
    """

    content: bytes = field(repr=False)
    title: str = field(default="", repr=False)
    name: str = field(default="", repr=False)
    signed: str = field(default="", repr=False)
    is_note: bool = False
    way: str = LINK
    type: str = ""
    patient: str = ""
    amends: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What became of it: its id, whether the same bytes were here already, where it stands."""

    id: str
    is_known: bool
    state: ArrivalState


@dataclass(frozen=True, slots=True)
class Content:
    """What the bytes are (kind, media type, what is in it), found out without believing anybody."""

    kind: ArrivalKind
    media_type: str
    what: tuple[str, ...]


# ------------------------------------------------------------------ what it is


def look_at(sent: Sent) -> Content:
    """Return what was sent, judged by its bytes. Raises InvalidInput with the reason."""
    content = sent.content
    if not content.strip():
        raise InvalidInput("There is nothing in it.")
    if len(content) > MOST:
        raise InvalidInput(TOO_LARGE)
    if sent.type:
        return _one_resource(sent)
    if sent.is_note:
        if len(content.decode()) > MOST_NOTE:
            raise InvalidInput(f"A note takes at most {MOST_NOTE:,} characters.")
        return Content(ArrivalKind.NOTE, kinds.TEXT.media_type, (NOTE,))
    kind = kinds.kind_of(content)
    if kind is kinds.TEXT and _is_fhir(content):
        return Content(ArrivalKind.RECORDS, "application/fhir+json", _types(_judged(content)))
    if kind not in _SHOWN_AS and kind.way is not Way.IMAGE:
        raise InvalidInput(NOT_TAKEN)
    what = CODED if kind is kinds.CDA else FILE
    return Content(ArrivalKind.FILE, kind.media_type, (what,))


def _one_resource(sent: Sent) -> Content:
    if sent.type not in TYPES:
        raise InvalidInput("This type cannot be sent here.")
    body = sent.content.removeprefix(document.BOM).strip()
    type_, _ = peek(body)
    if type_ != sent.type:
        raise InvalidInput("The resourceType differs from the address.")
    if set(_take(Item(body)).patients) - {sent.patient}:
        raise InvalidInput("This is about another patient. Nothing was kept.")
    return Content(ArrivalKind.RECORDS, "application/fhir+json", (sent.type,))


def _is_fhir(content: bytes) -> bool:
    start = content.removeprefix(document.BOM).lstrip()
    return start.startswith((b"{", b"[")) and b'"resourceType"' in content


def _judged(content: bytes) -> list[Item]:
    """Return what would be added of a FHIR file; raise InvalidInput where anything is unfit."""
    items: list[Item] = []
    for item in slices(io.BytesIO(content)):
        type_ = _take(item).kind.type
        if type_ in IDENTITY or type_ == "Provenance":
            continue  # whom it is about is told, never added
        if type_ not in TYPES and type_ not in _COMING_ALONG:
            raise InvalidInput(f"{DAMAGED} ({item.place or 'in it'})")
        items.append(item)
        if len(items) > MOST_RESOURCES:
            raise InvalidInput(TOO_MANY)
    if not set(_types(items)) & TYPES:
        raise InvalidInput(NO_RECORDS)
    return items


def _take(item: Item) -> Taken:
    """Judge one resource as `keep` will, so that an accepted arrival is kept as a whole."""
    try:
        kind, _ = named(*peek(item.body), item.body, item.url)
        return Intake().take(document.text_bytes(item.body), kind)
    except InvalidInput as problem:
        raise InvalidInput(f"{DAMAGED} {problem.sentence}") from problem


def _types(items: Iterable[Item]) -> tuple[str, ...]:
    return tuple(sorted({str(peek(item.body)[0]) for item in items}))


# ------------------------------------------------------------------ receiving


def receive(
    vault: Vault,
    stands: Callable[[], Terms],
    sent: Sent,
    *,
    handle_id: str | None,
    now: datetime,
) -> Received:
    """Take something in, to wait for the patient. When this returns it is on the disk, once.

    `stands` is the gate's answer about who sends; it is asked inside the transaction, so that
    nothing arrives after a grant has ended. Raises what it raises; Denied where the grant does not
    let its holder send, InvalidInput for what cannot be taken, TooManyTries at a limit, NotFound
    for `amends` of somebody else.
    """
    content = look_at(sent)
    digest = sha256(sent.content).digest()
    with vault.write() as session:
        terms = stands()
        if Action.CONTRIBUTE not in terms.actions:
            raise Denied(f"{Action.CONTRIBUTE} is not part of the grant")
        before = _own(session, terms.grant_id, sent.amends) if sent.amends else None
        known = _same(session, terms.grant_id, digest, before)
        if known is not None:
            return Received(known.id, is_known=True, state=ArrivalState(known.state))
        _must_fit(session, terms.grant_id, len(sent.content), now)
        made = _made(grants.get(session, terms.grant_id).recipient_id, sent, content, now)
        made.grant_id, made.handle_id = terms.grant_id, handle_id
        if before is not None:
            made.chain, made.place = before.chain, before.place
            if before.state in {ArrivalState.WAITING, ArrivalState.REJECTED}:
                _withdraw(before, now, by=made.id)
        elif sent.way == API:  # the address that is told must lead to it later
            made.place = _place(session, made, (), now)
        session.add(made)
        session.flush()
        what, who = ", ".join(content.what), _recipient(session, made)
        audit.append(
            session,
            vault,
            "inbox.received",
            who,
            grant_id=terms.grant_id,
            arrival=made.id,
            what=what,
        )
    _forget(vault)
    return Received(made.id, is_known=False, state=_by_rule(vault, made.id, now=now))


def _same(session: Session, grant_id: str, digest: bytes, before: Arrival | None) -> Arrival | None:
    """Return the arrival that these bytes are already, unless they are said in another's place."""
    query = select(Arrival).where(
        Arrival.grant_id == grant_id,
        Arrival.hash == digest,
        Arrival.state != ArrivalState.WITHDRAWN,
    )
    if before is not None:
        query = query.where(Arrival.chain == before.chain)
    return session.scalars(query.order_by(Arrival.received_at).limit(1)).first()


def _must_fit(session: Session, grant_id: str, size: int, now: datetime) -> None:
    _must_be_few(session, grant_id, now)
    waits = Arrival.state == ArrivalState.WAITING
    own = (Arrival.grant_id == grant_id, waits)
    if _number(session, *own) >= MOST_WAITING or _bytes(session, *own) + size > MOST_OF_ONE:
        raise Conflict(FULL)
    if _bytes(session, waits) + size > MOST_BYTES:
        raise Conflict(NO_ROOM)  # of others nothing is told


def _must_be_few(session: Session, grant_id: str, now: datetime) -> None:
    """Bound how often a grant adds a line here, and to the log: by sending or by withdrawing."""
    own = Arrival.grant_id == grant_id
    if _number(session, own, Arrival.received_at > now - HOUR) >= MOST_HOURLY:
        raise TooManyTries(TOO_OFTEN, after=now + HOUR)
    if _number(session, own) >= MOST_EVER:
        raise Conflict(FULL)


def _number(session: Session, *where: Any) -> int:
    return int(session.scalar(select(func.count()).select_from(Arrival).where(*where)) or 0)


def _bytes(session: Session, *where: Any) -> int:
    return int(session.scalar(select(func.total(Arrival.size)).where(*where)) or 0)


def _made(recipient_id: str, sent: Sent, content: Content, now: datetime) -> Arrival:
    id_ = ids.new_id()
    return Arrival(
        id=id_,
        chain=id_,
        recipient_id=recipient_id,
        way=sent.way,
        kind=content.kind,
        what=list(content.what),
        media_type=content.media_type,
        title=one_line(sent.title, limit=200),
        name=one_line(sent.name, limit=120),
        signed=one_line(sent.signed, limit=120),
        hash=sha256(sent.content).digest(),
        size=len(sent.content),
        content=sent.content,
        state=ArrivalState.WAITING,
        received_at=now,
    )


# ------------------------------------------------------------------ what the sender may do


def sent_by(session: Session, grant_id: str) -> list[Arrival]:
    """Return what came under a grant, newest first; what was replaced is left out."""
    newer = select(Arrival.id).where(Arrival.kind != ArrivalKind.WITHDRAWAL)
    query = select(Arrival).where(
        Arrival.grant_id == grant_id,
        or_(Arrival.replaced_by.is_(None), Arrival.replaced_by.not_in(newer)),
        Arrival.kind != ArrivalKind.WITHDRAWAL,
    )
    return list(session.scalars(query.order_by(Arrival.received_at.desc(), Arrival.id)))


def own(session: Session, grant_id: str, arrival_id: str) -> Arrival:
    """Return one of these. Raises NotFound alike for unknown and for somebody else's."""
    return _own(session, grant_id, arrival_id)


def _own(session: Session, grant_id: str, arrival_id: str) -> Arrival:
    found = session.get(Arrival, arrival_id)
    if found is None or found.grant_id != grant_id or found.kind == ArrivalKind.WITHDRAWAL:
        raise NotFound
    if found.state == ArrivalState.WITHDRAWN or found.replaced_by is not None:
        raise NotFound
    return found


def withdraw(vault: Vault, stands: Callable[[], Terms], arrival_id: str, *, now: datetime) -> str:
    """Take an own arrival back, for its sender; return its state afterwards.

    What waits is gone at once. What the patient accepted stays until the patient has read that it
    was withdrawn, and agrees: that waits as an arrival too. Asking again changes nothing. Raises
    TooManyTries and Conflict at the limits of what a grant may ask for.
    """
    with vault.write() as session:
        terms = stands()
        if Action.CONTRIBUTE not in terms.actions:
            raise Denied(f"{Action.CONTRIBUTE} is not part of the grant")
        held = _own(session, terms.grant_id, arrival_id)
        who = _recipient(session, held)
        is_news = True
        if held.state == ArrivalState.ACCEPTED:
            is_news = _ask_to_withdraw(session, held, now)
        else:
            _withdraw(held, now)
        if is_news:
            audit.append(
                session, vault, "inbox.withdrawn", who, grant_id=terms.grant_id, arrival=held.id
            )
        state = str(held.state)
    _forget(vault)
    return state


def _withdraw(held: Arrival, now: datetime, by: str | None = None) -> None:
    """End what was never accepted: its bytes go, the line stays."""
    held.state, held.decided_at, held.replaced_by = ArrivalState.WITHDRAWN, now, by
    held.content = None


def _ask_to_withdraw(session: Session, held: Arrival, now: datetime) -> bool:
    """Have the patient asked; return whether that is news, or waits already."""
    asked = select(Arrival.id).where(
        Arrival.chain == held.chain,
        Arrival.kind == ArrivalKind.WITHDRAWAL,
        Arrival.state == ArrivalState.WAITING,
    )
    if session.scalar(asked) is not None:
        return False
    _must_be_few(session, str(held.grant_id), now)
    kept = ("chain", "recipient_id", "grant_id", "handle_id", "way", "what", "media_type", "title",
            "name", "signed", "place")  # fmt: skip
    same = {name: getattr(held, name) for name in kept}
    session.add(
        Arrival(
            id=ids.new_id(),
            kind=ArrivalKind.WITHDRAWAL,
            hash=held.hash,
            size=0,
            state=ArrivalState.WAITING,
            received_at=now,
            **same,
        )
    )
    return True


# ------------------------------------------------------------------ what the patient may do


def accept(
    vault: Vault, arrival_id: str, actor: Actor, *, now: datetime, rule: int | None = None
) -> None:
    """Let an arrival into the record as a Contribution, or let one be withdrawn from it.

    Its records, its Provenance, its new state and the audit line are one transaction. Raises
    Conflict when it does not wait any more.
    """
    with vault.read() as session:
        held = _waiting(session, arrival_id)
        before = _standing_in(session, held)
    is_withdrawal = held.kind == ArrivalKind.WITHDRAWAL

    def settle(session: Session) -> None:
        mine = _waiting(session, arrival_id)
        _decide(mine, ArrivalState.ACCEPTED, actor, now)
        mine.rule_id = rule
        for each in _standing(session, mine, but=arrival_id):
            each.state, each.replaced_by = ArrivalState.WITHDRAWN, arrival_id
        _say(session, vault, "inbox.accepted", actor, mine)

    into = None if is_withdrawal else held
    _bring_about(vault, out=before, into=into, actor=actor, settle=settle, now=now)


def reject(vault: Vault, arrival_id: str, actor: Actor, *, now: datetime) -> None:
    """Refuse an arrival; for 30 days that can be undone, then its bytes are erased."""
    with vault.write() as session:
        held = _waiting(session, arrival_id)
        _decide(held, ArrivalState.REJECTED, actor, now)
        _say(session, vault, "inbox.rejected", actor, held)
    _forget(vault)


def undo(vault: Vault, arrival_id: str, actor: Actor, *, now: datetime) -> None:
    """Take a decision back: the arrival waits again, and the record is as it was before.

    Raises Conflict where there is nothing to undo: it waits, was withdrawn, replaced, or erased.
    """
    with vault.read() as session:
        held = _whole(session, arrival_id)
        after = _replaced_by(session, held)

    def settle(session: Session) -> None:
        mine = _whole(session, arrival_id)
        if mine.state != held.state:
            raise Conflict
        again = session.get_one(Arrival, after.id) if after else None
        if again is not None:
            again.state, again.replaced_by = ArrivalState.ACCEPTED, None
        mine.state, mine.decided_at, mine.decided_by = ArrivalState.WAITING, None, None
        mine.rule_id = None
        _say(session, vault, "inbox.undone", actor, mine)

    if held.state == ArrivalState.REJECTED and _is_here(held):
        with vault.write() as session:
            settle(session)
        _forget(vault)
    elif held.state == ArrivalState.ACCEPTED:
        out = None if held.kind == ArrivalKind.WITHDRAWAL else held
        _bring_about(vault, out=out, into=after, actor=actor, settle=settle, now=now)
    else:
        raise Conflict("There is nothing to undo any more.")


def _is_here(held: Arrival) -> bool:
    return held.kind == ArrivalKind.WITHDRAWAL or held.content is not None


def tidy(vault: Vault, *, now: datetime) -> None:
    """Erase the bytes of what was refused more than 30 days ago; the lines stay."""
    old = (
        Arrival.state == ArrivalState.REJECTED,
        Arrival.decided_at < now - KEPT_FOR,
        Arrival.content.is_not(None),
    )
    with vault.read() as session:
        due = session.scalar(select(Arrival.id).where(*old).limit(1))
    if due is not None:
        with vault.write() as session:
            session.execute(
                update(Arrival)
                .where(*old)
                .values(content=None)
                .execution_options(synchronize_session=False)
            )


def _waiting(session: Session, arrival_id: str) -> Arrival:
    found = _whole(session, arrival_id)
    if found.state != ArrivalState.WAITING:
        raise Conflict("This was decided already.")
    return found


def _whole(session: Session, arrival_id: str) -> Arrival:
    """Return an arrival with its bytes. Raises NotFound."""
    found = session.get(Arrival, arrival_id, options=[undefer(Arrival.content)])
    if found is None:
        raise NotFound
    return found


def _standing(session: Session, held: Arrival, *, but: str = "") -> list[Arrival]:
    """Return what is accepted of the same chain now: one at most, beside withdrawals."""
    query = (
        select(Arrival)
        .options(undefer(Arrival.content))
        .where(
            Arrival.chain == held.chain,
            Arrival.state == ArrivalState.ACCEPTED,
            Arrival.kind != ArrivalKind.WITHDRAWAL,
            Arrival.id != but,
        )
    )
    return list(session.scalars(query))


def _standing_in(session: Session, held: Arrival) -> Arrival | None:
    return next(iter(_standing(session, held)), None)


def _replaced_by(session: Session, held: Arrival) -> Arrival | None:
    query = (
        select(Arrival)
        .options(undefer(Arrival.content))
        .where(Arrival.replaced_by == held.id, Arrival.content.is_not(None))
    )
    return session.scalars(query).first()


def _decide(held: Arrival, state: ArrivalState, actor: Actor, now: datetime) -> None:
    held.state, held.decided_at = state, now
    held.decided_by = str(actor.get("name") or "")


def _say(session: Session, vault: Vault, event: str, actor: Actor, held: Arrival) -> None:
    audit.append(
        session, vault, event, actor, grant_id=held.grant_id, arrival=held.id,
        what=", ".join(held.what),
    )  # fmt: skip


def _recipient(session: Session, held: Arrival) -> dict[str, Any]:
    found = session.get_one(Recipient, held.recipient_id)
    return {"kind": "recipient", "id": found.id, "name": found.name}


# ------------------------------------------------------------------ the record


def _bring_about(
    vault: Vault,
    *,
    out: Arrival | None,
    into: Arrival | None,
    actor: Actor,
    settle: Callable[[Session], None],
    now: datetime,
) -> None:
    """Have the record hold what `into` sent instead of what `out` did; `settle` in the same commit.

    The arrivals keep the bytes, so what is taken out of the record can come back as it was.
    """
    before = set(_names(out)) if out is not None and out.place is not None else set()
    if into is None:
        with vault.write() as session:
            _take_out(session, vault, out, before)
            settle(session)
    else:
        made, pull_id = _ready(vault, into, out, now)
        items = contributed(into)
        is_newer = out is not None and out.place == made  # what has the same name is a version
        stays = set(_names(into)) if is_newer else set()

        def kept(session: Session, became: keep.Kept) -> None:
            if became.quarantined:
                raise InvalidInput(became.reasons[0][1])
            _take_out(session, vault, out, before, but=stays)
            _hold_file(session, into, made)
            session.get_one(Arrival, into.id).place = made
            settle(session)
            pull = connections.pull(session, made, pull_id)
            pull.state, pull.ended_at = PullState.DONE, now
            session.get_one(Connection, made).last_pull_at = now

        said = [*items, _provenance(vault, into, actor, now)]
        keeper = keep.Keeper(vault, made, pull_id, now=now, live=True)
        keeper.page(into.kind, said, settle=kept)
        keeper.finish()
    vault.drawn.clear()
    _forget(vault)


def _ready(vault: Vault, held: Arrival, before: Arrival | None, now: datetime) -> tuple[int, int]:
    """Return the place for the records of an arrival, and a run that brings them there.

    Nothing is asked for, so the place is not left claimed: an acceptance that is cut off must not
    look like an import that goes on.
    """
    with vault.write() as session:
        place, names = held.place, _names(held)
        if place is None or _is_taken(session, place, names, before):
            place = _place(session, held, names, now)
        row = session.get_one(Connection, place)
        connections.end_runs(session, place, (PullState.RUNNING,), "Cut off.")
        pull_id = connections.claim(session, row, now=now, full=False, anew=True).pull_id
        row.claimed_by = None
        return place, pull_id


def _is_taken(
    session: Session, place: int, names: Sequence[tuple[str, str]], before: Arrival | None
) -> bool:
    """Say whether something else that was sent stands in a place by one of these names."""
    is_there = before is not None and before.place == place
    mine = set(_names(before)) if before is not None and is_there else set()
    return bool(_held_in(session, place, set(names) - mine))


def _held_in(session: Session, place: int, names: Iterable[tuple[str, str]]) -> set[str]:
    """Return which of these names a place holds, each as "Type/id"."""
    wanted = [(KINDS[type_].number, type_, id_) for type_, id_ in names]
    types = {number: type_ for number, type_, _ in wanted}
    held = connections.remote_names(session, place, types)
    return {f"{type_}/{id_}" for _, type_, id_ in wanted} & held


def _place(session: Session, held: Arrival, names: Sequence[tuple[str, str]], now: datetime) -> int:
    """Return a place of this sender in which none of these names is taken; made if need be.

    Two files may both call something "1": the second must not become a version of the first.
    """
    recipient = session.get_one(Recipient, held.recipient_id)
    name = f"{recipient.name} ({BY.get(held.way, held.way)}, not verified)"
    known = connections.listed(session, kind=connections.CONTRIBUTED)
    for row in known:
        if row.client.get("recipient") != recipient.id or row.client.get("way") != held.way:
            continue
        if not _held_in(session, row.id, names):
            return row.id
    return connections.add(
        session,
        kind=connections.CONTRIBUTED,
        name=name,
        base_url="",
        now=now,
        state=ConnectionState.ACTIVE,
        client={"recipient": recipient.id, "way": held.way},
    )


def _take_out(
    session: Session,
    vault: Vault,
    held: Arrival | None,
    names: Iterable[tuple[str, str]],
    *,
    but: Container[tuple[str, str]] = (),
) -> None:
    """Take records (`but` those that get a newer version) out of the record.

    With them goes the Provenance of the arrival that brought them, and all that was transcribed
    of them: a newer version is transcribed anew.
    """
    if held is None or held.place is None:
        return
    gone = []
    for type_, id_ in names:
        key = local_key(vault.id_key, held.place, type_, id_)
        told = connections.told_by(session, f"{type_}/{local_id_of(key)}")
        if told is not None:
            keep.take_out(session, told.id, connections.held_in(session, told.id))
            connections.close_place(session, told)
        if (type_, id_) not in but:
            gone.append((type_, id_))
    keep.take_out(session, held.place, [*gone, ("Provenance", _provenance_id(held))])


def contributed(held: Arrival) -> list[Item]:
    """Return the resources that an arrival adds once it is accepted: received ones as received."""
    if held.kind == ArrivalKind.WITHDRAWAL or held.content is None:
        return []
    content = received(held)
    if held.kind != ArrivalKind.RECORDS:
        return [Item(authored(_document(held, content)), "what was sent")]
    if held.way == API:
        body = _without_id(content.removeprefix(document.BOM).strip())
        return [Item(body, "what was sent", f"{held.what[0]}/{held.chain}")]
    return _judged(content)


def received(held: Arrival) -> bytes:
    """Return the bytes of an arrival as they came; b"" where they were erased."""
    return held.content or b""


def _without_id(body: bytes) -> bytes:
    """Return a resource without the id its sender gave it (R4 §3.1.0.8: a server ignores it)."""
    kept = [
        document.dumps(name) + b":" + found.raw
        for name, found in document.fields(body).items()
        if name != "id"
    ]
    return b"{" + b",".join(kept) + b"}"


def _names(held: Arrival) -> list[tuple[str, str]]:
    """Return (type, remote id) of what an arrival adds."""
    found = [named(*peek(item.body), item.body, item.url) for item in contributed(held)]
    return [(kind.type, remote_id) for kind, remote_id in found]


def address(vault: Vault, held: Arrival) -> str:
    """Return "Type/id" by which the API knows what a program sent, now or once it is accepted."""
    type_ = str(held.what[0])
    return f"{type_}/{local_id_of(local_key(vault.id_key, held.place or 0, type_, held.chain))}"


def sent_as(session: Session, vault: Vault, grant_id: str, name: str) -> Arrival:
    """Return the newest that a program sent under a grant as "Type/id". Raises NotFound."""
    for held in sent_by(session, grant_id):
        is_its = held.way == API and held.state != ArrivalState.WITHDRAWN
        if is_its and address(vault, held) == name:
            return held
    raise NotFound


def etag(held: Arrival) -> str:
    """Return the entity tag of what waits (R4 §3.1.0.5); once accepted, the record has its own."""
    return f'W/"{held.id[:16]}"'


def _document(held: Arrival, content: bytes) -> dict[str, Any]:
    """Return the DocumentReference (R4 §2.25) around a note or a file; the file is beside it."""
    title = held.title or held.name
    said = f"{held.media_type}; charset=utf-8" if held.kind == ArrivalKind.NOTE else held.media_type
    attachment: dict[str, Any] = {"contentType": said, "size": len(content)}
    if held.kind == ArrivalKind.NOTE:
        attachment["data"] = base64.b64encode(content).decode()
    else:
        attachment["url"] = _address(held)
    if title:
        attachment["title"] = title
    made: dict[str, Any] = {
        "resourceType": "DocumentReference",
        "id": held.chain,
        "status": "current",
        "type": {"text": title or ("Note" if held.kind == ArrivalKind.NOTE else "File")},
        "subject": statements.PATIENT,
        "date": clock.instant(held.received_at),
        "content": [{"attachment": attachment}],
    }
    if held.signed:
        made["author"] = [{"display": f"{held.signed} (as signed, not verified)"}]
    if held.kind == ArrivalKind.NOTE:
        made["description"] = content.decode()
    return made


def _address(held: Arrival) -> str:
    return f"Binary/{held.id}"


def _hold_file(session: Session, held: Arrival, place: int) -> None:
    if held.kind != ArrivalKind.FILE:
        return
    where = _address(held)
    wanted = {url: pk for pk, url in connections.files_wanted(session, place)}
    if where in wanted:  # not where it was here before, as the file of an earlier version
        keep.hold(session, wanted[where], where, held.media_type, received(held))


def _provenance_id(held: Arrival) -> str:
    return f"{held.id}-p"


def _provenance(vault: Vault, held: Arrival, actor: Actor, now: datetime) -> Item:
    """Return who sent it, by what way, when, and who let it in (R4 §6.3)."""
    with vault.read() as session:
        sender = str(_recipient(session, held)["name"])
    author = f"{sender}, {BY.get(held.way, held.way)}, not verified"
    signed = f"; signed as {held.signed}" if held.signed else ""
    let_in = str(actor.get("name") or "Homeport, by a rule of the patient")
    role = "provenance-participant-type"
    made = {
        "resourceType": "Provenance",
        "id": _provenance_id(held),
        "target": [{"reference": f"{type_}/{id_}"} for type_, id_ in _names(held)],
        "occurredDateTime": clock.instant(held.received_at),
        "recorded": clock.instant(now),
        "activity": concept("v3-DataOperation", "CREATE"),
        "agent": [
            {"type": concept(role, "author"), "who": {"display": author + signed}},
            {"type": concept(role, "enterer"), "who": {"display": let_in}},
        ],
        "entity": [
            {
                "role": "source",
                "what": {
                    "identifier": {"system": "urn:homeport:arrival", "value": held.id},
                    "display": f"sha-256 {held.hash.hex()}",
                },
            }
        ],
    }  # fmt: skip
    return Item(authored(made), "Provenance")


# ------------------------------------------------------------------ looking at it


def listed(session: Session, *states: ArrivalState, limit: int = 200) -> list[Arrival]:
    """Return arrivals in some states, newest first; without their bytes."""
    query = select(Arrival).where(Arrival.state.in_(states))
    return list(
        session.scalars(query.order_by(Arrival.received_at.desc(), Arrival.id).limit(limit))
    )


def get(session: Session, arrival_id: str) -> Arrival:
    """Return an arrival with its bytes, for the patient. Raises NotFound."""
    return _whole(session, arrival_id)


def as_records(vault: Vault, held: Arrival) -> list[Record]:
    """Return what an arrival would add as records, for looking at; nothing is kept by that."""
    return [
        Record(
            pk=-number,
            local_id=local_id_of(local_key(vault.id_key, held.place or 0, kind.type, remote_id)),
            connection_id=held.place or 0,
            type=kind.type,
            remote_id=remote_id,
            version=1,
            received_at=held.received_at,
            when=None,
            labels=Label(taken.labels),
            withdrawn=False,
            body=item.body,
        )
        for number, item in enumerate(contributed(held), start=1)
        for kind, remote_id in [named(*peek(item.body), item.body, item.url)]
        for taken in [Intake().take(document.text_bytes(item.body), kind)]
    ]


def draft(sent: Sent, *, now: datetime) -> Record:
    """Return what a program sends as a record, for judging whether its scopes reach that."""
    return Record(
        pk=0,
        local_id="",
        connection_id=0,
        type=sent.type,
        remote_id="",
        version=1,
        received_at=now,
        when=None,
        labels=Label.NONE,
        withdrawn=False,
        body=sent.content.removeprefix(document.BOM).strip(),
    )


def named_person(held: Arrival) -> tuple[str, str] | None:
    """Return (name, birth date) of the patient that a FHIR file is about, if it names one."""
    if held.kind != ArrivalKind.RECORDS or held.content is None:
        return None
    for item in slices(io.BytesIO(received(held))):
        if peek(item.body)[0] in IDENTITY:
            said = document.parse(item.body)
            full = name_words(said.get("name"))
            return full, string(said.get("birthDate"))
    return None


def holds_coded(held: Arrival) -> bool:
    """Say whether what was sent is a C-CDA, or has one inside a FHIR resource.

    It is about a person, and its coded entries become records once it is accepted.
    """
    if held.kind == ArrivalKind.FILE:
        return kinds.kind_of(received(held)) is kinds.CDA
    if held.kind != ArrivalKind.RECORDS:
        return False
    found = (document.parse(item.body) for item in contributed(held))
    return any(
        kinds.kind_of(documents.inline_bytes(said, one.place) or b"") is kinds.CDA
        for said in found
        for one in documents.attachments(said)
        if one.inline
    )


def twins(session: Session, held: Arrival) -> list[Arrival]:
    """Return other arrivals with the same bytes, from whomever."""
    query = select(Arrival).where(
        Arrival.hash == held.hash, Arrival.id != held.id, Arrival.chain != held.chain
    )
    return list(session.scalars(query.order_by(Arrival.received_at)))


_counts: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_lock = threading.Lock()


def waiting(vault: Vault) -> int:
    """Return how many arrivals wait in a vault; remembered, for every page shows it."""
    with _lock:
        known = _counts.get(vault.database)
    if known is None:
        with vault.read() as session:
            query = select(func.count()).select_from(Arrival)
            known = int(session.scalar(query.where(Arrival.state == ArrivalState.WAITING)) or 0)
        with _lock:
            _counts[vault.database] = known
    return known


def _forget(vault: Vault) -> None:
    with _lock:
        _counts.pop(vault.database, None)


# ------------------------------------------------------------------ rules


def rules(session: Session, *, recipient_id: str | None = None) -> list[ArrivalRule]:
    """Return the standing rules (of one recipient), oldest first."""
    query = select(ArrivalRule).where(ArrivalRule.ended_at.is_(None))
    if recipient_id is not None:
        query = query.where(ArrivalRule.recipient_id == recipient_id)
    return list(session.scalars(query.order_by(ArrivalRule.id)))


def let_in_by(session: Session, rule_id: int) -> list[Arrival]:
    """Return what a rule let in, newest first."""
    query = select(Arrival).where(Arrival.rule_id == rule_id)
    return list(session.scalars(query.order_by(Arrival.received_at.desc())))


def always(vault: Vault, arrival_id: str, actor: Actor, *, now: datetime) -> None:
    """Let in from now on, unasked, what this recipient sends of the kinds of this arrival."""
    with vault.write() as session:
        held = session.get(Arrival, arrival_id)
        if held is None or held.kind == ArrivalKind.WITHDRAWAL:
            raise NotFound
        if holds_coded(held):
            raise InvalidInput("Clinical documents are always looked at one by one.")
        known = {rule.what for rule in rules(session, recipient_id=held.recipient_id)}
        for what in held.what:
            if what not in known:
                session.add(
                    ArrivalRule(
                        recipient_id=held.recipient_id,
                        what=what,
                        made_at=now,
                        made_by=str(actor.get("name") or ""),
                    )
                )
        _say(session, vault, "inbox.always", actor, held)


def end_rule(vault: Vault, rule_id: int, actor: Actor, *, now: datetime) -> None:
    """Take a rule back: the next one waits again. What it let in stays until it is undone."""
    with vault.write() as session:
        rule = session.get(ArrivalRule, rule_id)
        if rule is None:
            raise NotFound
        if rule.ended_at is None:
            rule.ended_at = now
            audit.append(session, vault, "inbox.rule_ended", actor, what=rule.what)


def _by_rule(vault: Vault, arrival_id: str, *, now: datetime) -> ArrivalState:
    """Accept what the patient let in beforehand.

    Looked at first is what names a person, what becomes coded entries, and what takes the place
    of something: whatever became of that was decided about, or could have been.
    """
    with vault.read() as session:
        held = _whole(session, arrival_id)
        standing = {rule.what: rule.id for rule in rules(session, recipient_id=held.recipient_id)}
        wanted = [standing.get(what) for what in held.what]
        fits = bool(wanted) and all(wanted) and held.chain == held.id
        fits = fits and named_person(held) is None and not holds_coded(held)
    if not fits:
        return ArrivalState.WAITING
    try:
        accept(vault, arrival_id, audit.APPLIANCE, now=now, rule=wanted[0])
    except (InvalidInput, Conflict):
        return ArrivalState.WAITING  # the patient sees why when trying
    return ArrivalState.ACCEPTED
