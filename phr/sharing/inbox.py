"""What strangers send: in quarantine, until the patient accepts it as a Contribution or refuses it.

The only writer of Arrival and ArrivalRule rows. An accepted one is kept by `phr.keep` in a place of
its sender's own, beside the record and never over it. Whether somebody may send says the gate.
"""

import threading
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session, undefer

from phr import clock, ids, keep
from phr.errors import Conflict, Denied, InvalidInput, NotFound, TooManyTries
from phr.fhir.build import authored, concept
from phr.fhir.kinds import KINDS
from phr.fhir.record import Item
from phr.fhir.references import local_id_of, local_key
from phr.sharing import grants
from phr.sharing.gate import Terms
from phr.sharing.provision import Action
from phr.sharing.recipients import one_line
from phr.sharing.sent import (
    API,
    DIRECT,
    LINK,
    MOST,
    MOST_BY_API,
    MOST_NOTE,
    NOT_TAKEN,
    TOO_LARGE,
    TYPES,
    Content,
    Sent,
    adds,
    as_records,
    contributed,
    draft,
    file_address,
    holds_coded,
    look_at,
    named_person,
    received,
)
from phr.store import audit, connections
from phr.store.models import (
    Arrival,
    ArrivalKind,
    ArrivalRule,
    ArrivalState,
    Authorization,
    Connection,
    ConnectionState,
    PullState,
    Recipient,
)
from phr.store.vault import Vault

__all__ = [
    "API",
    "CAPABILITY",
    "DIRECT",
    "FULL",
    "KEPT_FOR",
    "LINK",
    "MOST",
    "MOST_BY_API",
    "MOST_EVER",
    "MOST_HOURLY",
    "MOST_NOTE",
    "MOST_OF_ONE",
    "MOST_WAITING",
    "NOT_TAKEN",
    "TOO_LARGE",
    "TYPES",
    "Received",
    "Sent",
    "accept",
    "address",
    "always",
    "as_records",
    "by_what",
    "contributed",
    "draft",
    "end_rule",
    "etag",
    "get",
    "holds_coded",
    "let_in_by",
    "listed",
    "look_at",
    "named_person",
    "own",
    "receive",
    "receive_from",
    "received",
    "reject",
    "rules",
    "sent_as",
    "sent_by",
    "tidy",
    "twins",
    "undo",
    "waiting",
    "withdraw",
]

MOST_WAITING: Final = 20  # of one grant at once
MOST_HOURLY: Final = 10  # of one grant
MOST_HOURLY_MAILED: Final = 40  # of one sender without a grant
MOST_EVER: Final = 200  # of one grant
MOST_OF_ONE: Final = 25 << 20  # bytes of what waits of one grant
MOST_BYTES: Final = 100 << 20  # bytes of all that wait in one vault: the last bound
KEPT_FOR: Final = timedelta(days=30)  # what was refused can be taken back for so long
HOUR: Final = timedelta(hours=1)
BY: Final = {
    LINK: "by link, not verified",
    API: "by an app, not verified",
    DIRECT: "by Direct mail, its signature checked",
}
BY_SERVER: Final = "by a server, not verified"  # an app that asks without a person
CAPABILITY: Final = (
    "Nothing is written into the record by this. It waits until the patient accepts it: 202, and"
    " the address answers 404 until then; 201 where the patient said so beforehand. Only what the"
    " same app sent can be amended or withdrawn, and what was accepted only if they accept that."
)
FULL = "The patient has not yet looked at what was sent before. Please wait until they have."
NO_ROOM = "This cannot be taken at the moment. Nothing of it was kept; please try again later."
TOO_OFTEN = "That was a lot within an hour. Please wait a while; nothing of this one was kept."

Actor = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """What became of it: its id, whether the same bytes were here already, where it stands."""

    id: str
    is_known: bool
    state: ArrivalState


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
    with vault.write() as session:
        terms = stands()
        if Action.CONTRIBUTE not in terms.actions:
            raise Denied(f"{Action.CONTRIBUTE} is not part of the grant")
        owner = _Owner(grants.get(session, terms.grant_id).recipient_id, terms.grant_id, handle_id)
        became = _take_in(session, vault, owner, sent, content, now=now)
    return _settled(vault, became, now)


def receive_from(
    vault: Vault, sender: Callable[[Session], str], sent: Sent, *, now: datetime
) -> Received:
    """Take in what came without a grant, to wait like all else, within the same limits.

    `sender` returns the recipient's id; it is asked inside the transaction, and raises where this
    must not be kept. Raises otherwise as `receive` does.
    """
    content = look_at(sent)
    with vault.write() as session:
        owner = _Owner(sender(session))
        became = _take_in(session, vault, owner, sent, content, now=now)
    return _settled(vault, became, now)


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose an arrival is: what counts as sent before, and against which limits."""

    recipient_id: str
    grant_id: str | None = None  # None: it came without a grant, as mail does
    handle_id: str | None = None

    @property
    def own(self) -> ColumnElement[bool]:
        """What came from the same."""
        if self.grant_id is not None:
            return Arrival.grant_id == self.grant_id
        return and_(Arrival.recipient_id == self.recipient_id, Arrival.grant_id.is_(None))


def _take_in(
    session: Session, vault: Vault, owner: _Owner, sent: Sent, content: Content, *, now: datetime
) -> Received:
    before = _own(session, str(owner.grant_id), sent.amends) if sent.amends else None
    known = _same(session, owner, sha256(sent.content).digest(), before)
    if known is not None:
        return Received(known.id, is_known=True, state=ArrivalState(known.state))
    _must_fit(session, owner, len(sent.content), now)
    made = _made(owner, sent, content, now)
    if before is not None:
        made.chain, made.place = before.chain, before.place
        if before.state in {ArrivalState.WAITING, ArrivalState.REJECTED}:
            _withdraw(before, now, by=made.id)
    elif sent.way == API:  # the address that is told must lead to it later
        made.place = _place(session, made, (), now)
    session.add(made)
    session.flush()
    who = _recipient(session, made)
    _say(session, vault, "inbox.received", who, made)
    return Received(made.id, is_known=False, state=ArrivalState.WAITING)


def _settled(vault: Vault, became: Received, now: datetime) -> Received:
    if became.is_known:
        return became
    _forget(vault)
    return replace(became, state=_by_rule(vault, became.id, now=now))


def _same(session: Session, owner: _Owner, digest: bytes, before: Arrival | None) -> Arrival | None:
    """Return the arrival that these bytes are already, unless they are said in another's place."""
    query = select(Arrival).where(
        owner.own,
        Arrival.hash == digest,
        Arrival.state != ArrivalState.WITHDRAWN,
    )
    if before is not None:
        query = query.where(Arrival.chain == before.chain)
    return session.scalars(query.order_by(Arrival.received_at).limit(1)).first()


def _must_fit(session: Session, owner: _Owner, size: int, now: datetime) -> None:
    _must_be_few(session, owner, now)
    waits = Arrival.state == ArrivalState.WAITING
    own = (owner.own, waits)
    if _number(session, *own) >= MOST_WAITING or _bytes(session, *own) + size > MOST_OF_ONE:
        raise Conflict(FULL)
    if _bytes(session, waits) + size > MOST_BYTES:
        raise Conflict(NO_ROOM)  # of others nothing is told


def _must_be_few(session: Session, owner: _Owner, now: datetime) -> None:
    """Bound how often somebody adds a line here, and to the log: by sending or by withdrawing."""
    most = MOST_HOURLY if owner.grant_id is not None else MOST_HOURLY_MAILED
    if _number(session, owner.own, Arrival.received_at > now - HOUR) >= most:
        raise TooManyTries(TOO_OFTEN, after=now + HOUR)
    if _number(session, owner.own) >= MOST_EVER:
        raise Conflict(FULL)


def _number(session: Session, *where: Any) -> int:
    return int(session.scalar(select(func.count()).select_from(Arrival).where(*where)) or 0)


def _bytes(session: Session, *where: Any) -> int:
    return int(session.scalar(select(func.total(Arrival.size)).where(*where)) or 0)


def _made(owner: _Owner, sent: Sent, content: Content, now: datetime) -> Arrival:
    id_ = ids.new_id()
    return Arrival(
        id=id_,
        chain=id_,
        recipient_id=owner.recipient_id,
        grant_id=owner.grant_id,
        handle_id=owner.handle_id,
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
    _must_be_few(session, _Owner(held.recipient_id, held.grant_id), now)
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
    before = set(adds(out)) if out is not None and out.place is not None else set()
    if into is None:
        with vault.write() as session:
            _take_out(session, vault, out, before)
            settle(session)
    else:
        made, pull_id = _ready(vault, into, out, now)
        items = contributed(into)
        is_newer = out is not None and out.place == made  # what has the same name is a version
        stays = set(adds(into)) if is_newer else set()

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
        place, names = held.place, adds(held)
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
    mine = set(adds(before)) if before is not None and is_there else set()
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
    name = f"{recipient.name} ({by_what(session, held)})"
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


def _hold_file(session: Session, held: Arrival, place: int) -> None:
    if held.kind != ArrivalKind.FILE:
        return
    where = file_address(held)
    wanted = {url: pk for pk, url in connections.files_wanted(session, place)}
    if where in wanted:  # not where it was here before, as the file of an earlier version
        keep.hold(session, wanted[where], where, held.media_type, received(held))


def _provenance_id(held: Arrival) -> str:
    return f"{held.id}-p"


def _provenance(vault: Vault, held: Arrival, actor: Actor, now: datetime) -> Item:
    """Return who sent it, by what way, when, and who let it in (R4 §6.3)."""
    with vault.read() as session:
        sender = str(_recipient(session, held)["name"])
        author = f"{sender}, {by_what(session, held)}"
    signed = f"; signed as {held.signed}" if held.signed else ""
    let_in = str(actor.get("name") or "Homeport, by a rule of the patient")
    role = "provenance-participant-type"
    made = {
        "resourceType": "Provenance",
        "id": _provenance_id(held),
        "target": [{"reference": f"{type_}/{id_}"} for type_, id_ in adds(held)],
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


def by_what(session: Session, held: Arrival) -> str:
    """Return by what way an arrival came, and what of its sender was checked, in words."""
    allowed = session.get(Authorization, held.grant_id) if held.way == API else None
    if allowed is not None and not allowed.redirect_uri:
        return BY_SERVER
    return BY.get(held.way, held.way)


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


def rules(session: Session, held: Arrival | None = None) -> list[ArrivalRule]:
    """Return the standing rules (that hold for what sent this arrival), oldest first."""
    query = select(ArrivalRule).where(ArrivalRule.ended_at.is_(None))
    if held is not None:
        query = query.where(
            ArrivalRule.recipient_id == held.recipient_id,
            or_(ArrivalRule.grant_id.is_(None), ArrivalRule.grant_id == held.grant_id),
        )
    return list(session.scalars(query.order_by(ArrivalRule.id)))


def let_in_by(session: Session, rule_id: int) -> list[Arrival]:
    """Return what a rule let in, newest first."""
    query = select(Arrival).where(Arrival.rule_id == rule_id)
    return list(session.scalars(query.order_by(Arrival.received_at.desc())))


def always(vault: Vault, arrival_id: str, actor: Actor, *, now: datetime) -> None:
    """Let in from now on, unasked, what this sender sends of the kinds of this arrival.

    A link is known by its name alone, which another link may have too: the rule is for this one.
    An app, a server or a mail address is known by what it is: the rule outlives a grant.
    """
    with vault.write() as session:
        held = session.get(Arrival, arrival_id)
        if held is None or held.kind == ArrivalKind.WITHDRAWAL:
            raise NotFound
        if holds_coded(held):
            raise InvalidInput("Clinical documents are always looked at one by one.")
        known = {rule.what for rule in rules(session, held)}
        for what in held.what:
            if what not in known:
                session.add(
                    ArrivalRule(
                        recipient_id=held.recipient_id,
                        grant_id=held.grant_id if held.way == LINK else None,
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
        standing = {rule.what: rule.id for rule in rules(session, held)}
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
