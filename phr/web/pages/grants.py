"""Who can see: what is shared now and how to stop or narrow it, and who saw what, when.

What is decided is decided in `phr.sharing`; here are the pages and the words around it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.orm import Session

from phr import clock, consented
from phr.chart.plain import sentence_case, size_words
from phr.errors import Conflict, InvalidInput
from phr.fhir.labels import Label
from phr.sharing import (
    activity,
    asking,
    consents,
    cover,
    gate,
    given,
    grants,
    handles,
    links,
    orders,
    outbox,
)
from phr.sharing import provision as policy
from phr.sharing.emergency import HOLDER
from phr.sharing.provision import ROLES, SENSITIVE, Action, Provision
from phr.store import audit
from phr.store.models import (
    Authorization,
    Delivery,
    DeliveryState,
    Grant,
    GrantState,
    HandleKind,
    PushJob,
    PushState,
    Recipient,
    RecipientKind,
)
from phr.web.pages import picking
from phr.web.pages.asked import HOURS, is_number
from phr.web.pages.shares import base_of, draft_cover, step_up_of
from phr.web.routing import Access, Form, Visit, action, page, slow_page

PAGE_OF_LOG = 100
KINDS = {
    RecipientKind.LINK: "by link",
    RecipientKind.FOLDER: "saved as files",
    RecipientKind.DIRECT: "by Direct mail",
    RecipientKind.PAPER: "on paper or as a file",
    RecipientKind.APP: "by an app",
    RecipientKind.HEALTH_LINK: "by a health link",
    RecipientKind.CARD: "by the printed emergency card",
}
BY_SERVER = "by a server that fetches by itself"
BY_TICKET = "by a server with a ticket"
ASKING = {RecipientKind.APP, RecipientKind.HEALTH_LINK, RecipientKind.CARD}
USES = ("api.", "health_link.opened", "card.opened")  # events that are a use
BECAUSE = {
    "patient": "Ended by you",
    "time": "Time ran out",
    "uses": "Used up",
    "restored": "Ended before the restore",
    "refused": "Refused by you",
    "app": "The app gave it back",
    "reused": "Ended because a key that was used up came again: the app must ask anew",
}
SENDING = {
    DeliveryState.QUEUED: ("wait", "Waiting to be saved"),
    DeliveryState.SENDING: ("wait", "Being saved now"),
    DeliveryState.SENT: ("fresh", "Saved"),
    DeliveryState.FAILED: ("wait", "Not saved"),
    DeliveryState.STOPPED: ("ended", "Stopped"),
    DeliveryState.UNCERTAIN: ("wait", "Not certain"),
}
# How an attempt by mail came to its end, as a line of its history.
SETTLED = {
    DeliveryState.SENT: "Handed to the mail server, which took it.",
    DeliveryState.FAILED: "Given up.",
    DeliveryState.STOPPED: "Stopped before it was sent.",
}
MAY_HAVE_GONE = "Broke off at its very last step: it is not certain whether it went."
ANSWERED = {
    "processed": "Their mail server says that it received and opened it.",
    "dispatched": "Their mail server says that it reached the recipient.",
    "failed": "Their mail server says that it was not delivered.",
}
BACK_TO = {"": "as now", "1": "1 year", "2": "2 years", "5": "5 years", "10": "10 years"}
STOPPED = (
    "Stopped. All further access ends now; copies already opened, printed, downloaded or sent"
    " stay with the recipient."
)
SAME = "Nothing was taken away, so nothing changed."
NOTHING_LEFT = "Leave at least one kind of record and one place, or stop it altogether."


@dataclass(frozen=True, slots=True)
class Sending:
    """One delivery in words: (class of the mark, word), where the files are, and what to know.

    `is_awaited`: it went, and an answer may still come. `history`: what became of a message, when.
    """

    word: tuple[str, str]
    place: str
    said: str
    at: datetime | None
    is_moving: bool
    is_awaited: bool = False
    history: tuple[tuple[datetime, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """An order to send by Direct mail: where to, whether also what arrives later, if it goes on."""

    address: str
    is_standing: bool
    goes_on: bool
    is_begun: bool  # what it has to send first was looked at


@dataclass(frozen=True, slots=True)
class Standing:
    """One grant as the pages show it."""

    grant: Grant
    name: str
    kind: str
    role: str
    told: tuple[tuple[str, str], ...]  # (period, what) of all that it gives
    narrower: tuple[str, ...]  # what an app asked for more narrowly than a grant can say
    number: int
    named: tuple[str, ...]
    may: str
    is_link: bool
    is_app: bool
    is_health: bool  # a SMART Health Link
    is_card: bool  # the printed emergency card
    used: datetime | None  # when an app, a viewer or a card's holder last asked
    waits: bool  # suspended by a restore, until a person confirms it
    browsers: tuple[str, ...]
    devices_left: int
    locked: bool
    confirmed: str
    sendings: tuple[Sending, ...]
    order: Order | None = None

    @property
    def is_open(self) -> bool:
        """Whether a health link or the emergency card: opened by whoever holds it."""
        return self.is_health or self.is_card

    def is_moving(self) -> bool:
        """Whether something of it still waits in the outbox."""
        waits = self.order is not None and self.order.goes_on and not self.order.is_begun
        return waits or any(one.is_moving for one in self.sendings)

    def is_awaited(self) -> bool:
        """Whether an answer to something sent may still come."""
        return any(one.is_awaited for one in self.sendings)


# ------------------------------------------------------------------ who can see


@slow_page("/p/{patient_id:str}/grants", access=Access.MEMBER)
def who_can_see(visit: Visit) -> Response[Any]:
    """Show who can see parts of this record now, the last lines of the log, and what has ended."""
    return _draw_grants(visit)


def _draw_grants(visit: Visit, **more: Any) -> Response[Any]:
    vault = visit.vault
    gate.expire(vault, now=clock.now())
    with vault.read() as session:
        standing = [_standing(session, grant) for grant in grants.standing(session)]
        over = [(grant, _name(session, grant)) for grant in grants.over(session)]
        lines = _lines(session, visit, grant_id=None, limit=8, before=None)
        live = grants.looking(session)
        proposed = consents.waiting(session, vault) or consented.waiting(session)
    seeing = [each for each in standing if (each.is_link or each.is_health) and not each.waits]
    asking = [each for each in standing if each.is_app and not each.waits]
    cards = [each for each in standing if each.is_card and not each.waits]
    mailed = [each for each in standing if each.order is not None and not each.waits]
    by_hand = [
        each
        for each in standing
        if not (each.is_link or each.is_app or each.is_open or each.order is not None)
    ]
    return visit.render(
        "pages/shares_grants.html",
        seeing=seeing,
        apps=asking,
        live=live,
        proposed=bool(proposed),
        cards=cards,
        mailed=mailed,
        handed=[each for each in by_hand if not each.waits],
        waiting=[each for each in standing if each.waits],
        over=over,
        lines=lines,
        because=BECAUSE,
        may_change=_may_change(visit),
        hours=HOURS,
        **{"code": None, "code_for": None} | more,
    )


def _standing(session: Session, grant: Grant) -> Standing:
    provision = policy.from_json(grant.provision)
    recipient = session.get_one(Recipient, grant.recipient_id)
    is_health = recipient.kind == RecipientKind.HEALTH_LINK
    held = session.get(Authorization, grant.id)
    is_server = held is not None and not held.redirect_uri
    has_ticket = handles.of_grant(session, grant.id, HandleKind.TICKET) is not None
    fetches = BY_TICKET if has_ticket else BY_SERVER
    handle = handles.of_grant(session, grant.id, HandleKind.LINK)
    viewed = handles.of_grant(session, grant.id, HandleKind.HEALTH_LINK) if is_health else None
    bound = handles.browsers(session, handle.id) if handle else []
    approved = grants.approvals(session, grant.id)
    return Standing(
        grant=grant,
        name=_name(session, grant),
        kind=fetches if is_server else KINDS[RecipientKind(recipient.kind)],
        role="A server" if is_server else _role(grant.role),
        told=given.told(provision),
        narrower=_narrower(held),
        number=gate.tally(session, provision).shared,
        named=tuple(title for title, label in SENSITIVE.values() if label & provision.labels),
        may=_may(provision),
        is_link=handle is not None,
        is_app=recipient.kind == RecipientKind.APP,
        is_health=is_health,
        is_card=recipient.kind == RecipientKind.CARD,
        used=_last_asked(session, grant) if recipient.kind in ASKING else None,
        waits=grant.state == GrantState.SUSPENDED and _was_restored(session, grant),
        browsers=tuple(one.browser for one in bound),
        devices_left=handle.devices_left if handle else 0,
        locked=any(
            one is not None and one.code_hash is not None and one.tries_left == 0
            for one in (handle, viewed)
        ),
        confirmed=activity.PASSWORD.get(approved[0].factor, "") if approved else "",
        sendings=tuple(_sending(each) for each in outbox.of_grant(session, grant.id)),
        order=_order(session, grant),
    )


def _order(session: Session, grant: Grant) -> Order | None:
    job = orders.get(session, grant.id)
    if job is None:
        return None
    goes_on = job.state == PushState.ACTIVE and grant.state == GrantState.ACTIVE
    return Order(job.address, bool(job.standing), goes_on, job.seen is not None)


def _narrower(held: Authorization | None) -> tuple[str, ...]:
    """Return the lines that scopes of an app narrow by what the rules of a grant do not have."""
    lines = () if held is None else asking.read(held.scopes).lines
    return tuple(
        line.words for line in lines if any(name != "category" for name, _ in line.scope.query)
    )


def _role(role: str) -> str:
    return "Your own choice" if role == "chosen" else ROLES[role].title if role in ROLES else role


def _last_asked(session: Session, grant: Grant) -> datetime | None:
    found = audit.entries(session, grant_id=grant.id, limit=50)
    return next((entry.at for entry in found if entry.event.startswith(USES)), None)


def _may(provision: Provision) -> str:
    also = {
        Action.PRINT: "print",
        Action.DOWNLOAD: "download",
        Action.CONTRIBUTE: "send you something",
    }
    words = ["read", *(word for what, word in also.items() if what in provision.actions)]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else "only read"


def _was_restored(session: Session, grant: Grant) -> bool:
    """Tell a grant that a restore suspended from one that a person paused."""
    steps = {"grant.approved", "grant.resumed", "grant.suspended"}
    found = audit.entries(session, grant_id=grant.id, limit=1000)
    newest = next((entry.event for entry in found if entry.event in steps), "")
    return newest != "grant.suspended"


def _sending(delivery: Delivery) -> Sending:
    moving = delivery.state in {DeliveryState.QUEUED, DeliveryState.SENDING}
    if delivery.channel == RecipientKind.DIRECT:
        mark, named, known, at = outbox.words(delivery, now=clock.now())
        return Sending(
            (mark, named),
            place="",
            said=known,
            at=at,
            is_moving=moving,
            is_awaited=delivery.answer is None and mark == "fresh",
            history=tuple(_history(delivery)),
        )
    receipt = delivery.receipt or {}
    word = SENDING[DeliveryState(delivery.state)]
    place = receipt.get("folder") or f"{delivery.address}-{delivery.id}"
    said = delivery.sentence or ""
    if delivery.attempts and delivery.state == DeliveryState.QUEUED and delivery.next_attempt_at:
        said = f"{said} It is tried again on {cover.minute(delivery.next_attempt_at)}."
    if receipt:
        said = f"{receipt['files']} files, {size_words(receipt['bytes'])}"
    return Sending(
        word=word,
        place=f"outbox/{place}",
        said=said,
        at=delivery.settled_at,
        is_moving=moving,
    )


def _history(delivery: Delivery) -> Iterator[tuple[datetime, str]]:
    """Yield what became of a message, in turn; what is still to come stands last."""
    yield delivery.created_at, "Prepared, and waits its turn."
    if delivery.claimed_at is not None:
        tries = f" (try {delivery.attempts})" if delivery.attempts > 1 else ""
        yield delivery.claimed_at, f"Began to be sent{tries}."
    state = DeliveryState(delivery.state)
    if delivery.settled_at is not None:
        went = delivery.receipt is not None
        ended = SETTLED[DeliveryState.SENT] if went else SETTLED.get(state, MAY_HAVE_GONE)
        unknown = not went and delivery.answer is not None
        yield delivery.settled_at, MAY_HAVE_GONE if unknown else ended
    if delivery.answered_at is not None and delivery.answer in ANSWERED:
        yield delivery.answered_at, ANSWERED[delivery.answer]
    if state == DeliveryState.QUEUED and delivery.attempts and delivery.next_attempt_at:
        yield delivery.next_attempt_at, "Will be tried again then."


def _name(session: Session, grant: Grant) -> str:
    name = str(gate.actor_of(session, grant)["name"])
    return sentence_case(name) if name == HOLDER else name


def _may_change(visit: Visit) -> bool:
    return visit.patient is not None and visit.patient.role in {"self", "proxy"}


# ------------------------------------------------------------------ one grant


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}", access=Access.MEMBER)
def one_grant(visit: Visit, grant_id: str) -> Response[Any]:
    """Show one grant: its terms, what it covers, what was sent, and what they see first."""
    now = clock.now()
    gate.expire(visit.vault, now=now)
    with visit.vault.read() as session:
        grant = grants.get(session, grant_id)
        provision = policy.from_json(grant.provision)
        standing = _standing(session, grant)
        tally = gate.tally(session, provision)
        lines = _lines(session, visit, grant_id=grant_id, limit=8, before=None)
        first = _first_screen(visit, session, grant, provision, now)
        places = _named_places(session, provision)
    return visit.render(
        "pages/shares_grant.html",
        block="sendings",
        each=standing,
        tally=tally,
        places=places,
        private=len(provision.ticked),
        body=first,
        lines=lines,
        because=BECAUSE,
        hours=HOURS,
        is_over=grant.state == GrantState.ENDED,
        may_change=_may_change(visit) and grant.state != GrantState.ENDED,
    )


def _named_places(session: Session, provision: Provision) -> list[str]:
    """Return the only places that it gives records of; none where it is from all."""
    names = gate.place_names(session)
    return [names.get(each, "a place that is gone") for each in provision.connections]


def _first_screen(
    visit: Visit, session: Session, grant: Grant, provision: Provision, now: datetime
) -> Any:
    if grant.state == GrantState.ENDED:
        return None
    first = replace(
        draft_cover(visit, session, provision, now),
        recipient=_name(session, grant),
        shared_by=grant.shared_by,
        reason=grant.reason or "not given",
        ends=cover.minute(grant.ends_at),
    )
    return cover.body(first)


# ------------------------------------------------------------------ sharing less


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}/less", access=Access.PROXY)
def less(visit: Visit, grant_id: str) -> Response[Any]:
    """Offer everything that a live grant covers, to take away."""
    with visit.vault.read() as session:
        provision = policy.from_json(_live(session, grant_id).provision)
    return _draw_less(visit, grant_id, provision, back_to="")


@action("/p/{patient_id:str}/grants/{grant_id:str}/less", access=Access.PROXY)
def share_less(visit: Visit, form: Form, grant_id: str) -> Response[Any]:
    """Count again, choose single records, or narrow the grant; asks for no password."""
    with visit.vault.read() as session:
        before = policy.from_json(_live(session, grant_id).provision)
    after = _narrowed(before, form, clock.now())
    back_to = form.get("reach") if form.get("reach") in BACK_TO else ""
    wanted = form.get("do")
    if wanted.startswith("pick") and not visit.is_htmx:
        return _pick_less(visit, form, grant_id, before, after)
    if wanted != "less" or visit.is_htmx:
        return _draw_less(visit, grant_id, after, back_to=back_to)
    try:
        return _narrow(visit, grant_id, before, after)
    except InvalidInput as error:
        return _draw_less(visit, grant_id, after, back_to=back_to, sentence=error.sentence)


def _live(session: Session, grant_id: str) -> Grant:
    grant = grants.get(session, grant_id)
    if grant.state not in grants.LIVE:
        raise Conflict("This has ended already: nothing is shared by it any more.")
    return grant


def _narrow(visit: Visit, grant_id: str, before: Provision, after: Provision) -> Response[Any]:
    if not after.rules:
        raise InvalidInput(NOTHING_LEFT)
    if policy.within(before, after):
        raise InvalidInput(SAME)
    gate.narrow(visit.vault, grant_id, after, visit.actor)
    with visit.vault.read() as session:
        number = gate.tally(session, after).shared
    said = f"Done. They can read {activity.counted(number, 'record', 'records')} from now on."
    return visit.redirect(f"{base_of(visit)}/grants/{grant_id}", said)


def _narrowed(before: Provision, form: Form, now: datetime) -> Provision:
    """Return what is left after the form: whatever is not ticked any more is taken away."""
    years = form.get("reach")
    since = now - timedelta(days=365 * int(years)) if years in BACK_TO and years else None
    places = frozenset(int(each) for each in form.all("from")[:200] if is_number(each))
    offered = frozenset(int(one) for one in form.get("places").split(",")[:200] if is_number(one))
    kept = reduce(or_, (SENSITIVE[key][1] for key in form.all("also") if key in SENSITIVE), 0)
    optional = {Action.PRINT: "print", Action.DOWNLOAD: "download", Action.CONTRIBUTE: "send"}
    fewer = given.only(before, frozenset(form.all("part")), since)
    return replace(
        fewer,
        rules=() if offered and not places else fewer.rules,  # no place left: nothing, not all
        labels=before.labels & Label(kept),
        actions=frozenset(
            what for what in before.actions if what not in optional or form.has(optional[what])
        ),
        connections=before.connections if places >= offered else tuple(sorted(places)),
        excluded=before.excluded | picking.taken_out(form),
        ticked=before.ticked & frozenset(form.all("private")),
    )


def _draw_less(
    visit: Visit, grant_id: str, after: Provision, *, back_to: str, sentence: str = ""
) -> Response[Any]:
    now = clock.now()
    vault = visit.vault
    with vault.read() as session:
        grant = _live(session, grant_id)
        before = policy.from_json(grant.provision)
        shown: dict[str, Any] = {
            "name": _name(session, grant),
            "now_shared": gate.tally(session, before).shared,
            "tally": gate.tally(session, after),
            "first": draft_cover(visit, session, after, now),
            "places": _places(session, before),
            "private": picking.left_out(session, vault, before.ticked),
            "without": picking.left_out(session, vault, after.excluded - before.excluded),
            "already": len(before.excluded),
            "by_app": session.get(Authorization, grant.id) is not None,
        }
    return visit.render(
        "pages/shares_less.html",
        status=422 if sentence else 200,
        block="tally",
        grant=grant,
        sentence=sentence,
        parts={key: piece.title for key, piece in given.pieces(before).items()},
        left=given.pieces(after),
        reach=_reach(before, now),
        back_to=back_to,
        sensitive={key: it for key, it in SENSITIVE.items() if it[1] & before.labels},
        kept_labels={key for key, it in SENSITIVE.items() if it[1] & after.labels},
        before=before,
        after=after,
        **shown,
    )


def _reach(before: Provision, now: datetime) -> Mapping[str, str]:
    """Return the periods that are shorter than what the grant covers now; none without dates."""
    since = given.reaching_back(before)
    if not any(piece.dated for piece in given.pieces(before).values()):
        return {}
    shorter = {
        key: words
        for key, words in BACK_TO.items()
        if key and (since is None or now - timedelta(days=365 * int(key)) > since)
    }
    return {"": BACK_TO[""], **shorter} if shorter else {}


def _places(session: Session, before: Provision) -> Sequence[Any]:
    every = gate.origins(session, policy.compiled(before).counted)
    return list(every.values())


def _pick_less(
    visit: Visit, form: Form, grant_id: str, before: Provision, after: Provision
) -> Response[Any]:
    with visit.vault.read() as session:
        picked = picking.page_of(session, visit.vault, after, form, keeps=before.excluded)
    travelling = {"part", "reach", "also", "from", "places", "private", "print", "download"}
    return visit.render(
        "pages/shares_pick.html",
        picked=picked,
        fields=[pair for pair in form.pairs() if pair[0] in travelling],
        action=f"{base_of(visit)}/grants/{grant_id}/less",
        back="count",
        live=True,
    )


# ------------------------------------------------------------------ stopping and going on


@action("/p/{patient_id:str}/grants/{grant_id:str}/stop", access=Access.PROXY, stops=True)
def stop(visit: Visit, grant_id: str) -> Response[Any]:
    """End a grant at once; asks nothing."""
    gate.end(visit.vault, grant_id, "patient", visit.actor, now=clock.now())
    with visit.vault.read() as session:
        went = _what_went(orders.gone(session, grant_id), orders.get(session, grant_id))
    return visit.redirect(f"{base_of(visit)}/grants", f"{STOPPED}{went}")


def _what_went(gone: orders.Gone, job: PushJob | None) -> str:
    """Say what stopping an order to send could not call back; nothing for what is no order."""
    if job is None:
        return ""
    told = activity.counted(gone.handed_over, "message was", "messages were")
    unsure = activity.counted(gone.uncertain, "message is", "messages are")
    said = ""
    if gone.handed_over:
        said += f" {told} handed to the mail server before, and not confirmed yet: that may arrive."
    if gone.uncertain:
        said += f" {unsure} uncertain: it may have gone."
    return said or " No message was on its way without an answer."


@action("/p/{patient_id:str}/grants/{grant_id:str}/pause", access=Access.PROXY, stops=True)
def pause(visit: Visit, grant_id: str) -> Response[Any]:
    """Pause a grant; asks nothing."""
    gate.suspend(visit.vault, grant_id, visit.actor)
    return visit.redirect(f"{base_of(visit)}/grants", "Paused. They see nothing until you go on.")


@action("/p/{patient_id:str}/grants/{grant_id:str}/resume", access=Access.PROXY)
def resume(visit: Visit, grant_id: str) -> Response[Any]:
    """Start a paused grant again; needs the password."""
    step_up = step_up_of(visit)
    with visit.vault.read() as session:
        each = _standing(session, grants.get(session, grant_id))
    until = each.grant.ends_at.isoformat(timespec="minutes")
    gate.resume(
        visit.vault,
        grant_id,
        step_up=step_up,
        shown=f"Let {each.name} read again, {each.number} records now, until {until}",
        actor=visit.actor,
        now=clock.now(),
    )
    return visit.redirect(f"{base_of(visit)}/grants", f"{each.name} can see it again.")


@action("/p/{patient_id:str}/grants/{grant_id:str}/extend", access=Access.PROXY)
def extend(visit: Visit, form: Form, grant_id: str) -> Response[Any]:
    """Let a grant run longer, counted from now; needs the password."""
    hours = form.get("hours")
    if not is_number(hours) or int(hours) not in HOURS:
        raise InvalidInput("Please choose how long.")
    step_up = step_up_of(visit)
    now = clock.now()
    until = now + timedelta(hours=int(hours))
    shown = f"Let them read until {until.isoformat(timespec='minutes')}"
    with visit.vault.write() as session:
        grants.extend(
            session,
            visit.vault,
            grants.get(session, grant_id),
            until,
            step_up=step_up,
            shown=shown,
            actor=visit.actor,
            now=now,
        )
    return visit.redirect(f"{base_of(visit)}/grants", f"It now runs until {cover.minute(until)}.")


@action("/p/{patient_id:str}/grants/{grant_id:str}/code", access=Access.PROXY)
def code(visit: Visit, grant_id: str) -> Response[Any]:
    """Make a new code for a link and show it once."""
    made = links.new_code(visit.vault, grant_id, visit.actor)
    return _draw_grants(visit, code=made, code_for=grant_id)


@action("/p/{patient_id:str}/grants/{grant_id:str}/device", access=Access.PROXY)
def device(visit: Visit, grant_id: str) -> Response[Any]:
    """Allow one more device for a link."""
    links.allow_browser(visit.vault, grant_id, visit.actor)
    return visit.redirect(
        f"{base_of(visit)}/grants", "One more device may open the link, with the same code."
    )


# ------------------------------------------------------------------ who saw what, when


@page("/p/{patient_id:str}/activity", access=Access.MEMBER)
def log(visit: Visit, grant: str = "", before: int = 0) -> Response[Any]:
    """Show the audit log in sentences, newest first, for all or for one grant."""
    with visit.vault.read() as session:
        lines = _lines(
            session, visit, grant_id=grant or None, limit=PAGE_OF_LOG, before=before or None
        )
        names = _recipients(session)
    return visit.render(
        "pages/shares_activity.html",
        lines=lines,
        names=names,
        chosen=grant,
        more=lines[-1].seq if len(lines) == PAGE_OF_LOG else None,
    )


def _lines(
    session: Session, visit: Visit, *, grant_id: str | None, limit: int, before: int | None
) -> list[activity.Line]:
    names = _recipients(session)
    found = audit.entries(session, grant_id=grant_id, limit=limit, before=before)
    places = gate.place_names(session)
    return [activity.line(entry, names, visit.account_id, places) for entry in found]


def _recipients(session: Session) -> Mapping[str, str]:
    every = [*grants.standing(session), *grants.over(session, limit=1000)]
    return {grant.id: str(gate.actor_of(session, grant)["name"]) for grant in every}


ROUTES: list[HTTPRouteHandler] = [
    who_can_see,
    one_grant,
    less,
    share_less,
    stop,
    pause,
    resume,
    extend,
    code,
    device,
    log,
]
