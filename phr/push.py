"""The conductor OUT: claim -> release -> package -> channel -> settle, one delivery at a time.

Each step commits before the next begins, and nothing is open in the store while a channel works.
When it runs: `phr.jobs`. What may leave: `phr.sharing.gate`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from phr import logs
from phr.errors import (
    DeliveryFailed,
    DeliveryUncertain,
    Denied,
    Ended,
    NetError,
    NotFound,
    PhrError,
    TrustError,
)
from phr.http import SMALL, Http
from phr.sharing import endings, gate, grants, handles, links, orders, outbox, package
from phr.sharing.channels.base import Channel, Receipt
from phr.sharing.gate import Presented
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.provision import Action
from phr.store.database import Priority
from phr.store.models import (
    Delivery,
    DeliveryState,
    Direction,
    GrantState,
    HandleKind,
    MailMode,
    Postbox,
    PushState,
    RecipientKind,
)
from phr.store.vault import Vault

log = logging.getLogger("phr.push")

BUDGET: Final = 3 << 20  # bytes of records in one message: about 8 MiB when packed and sealed
NARROWED = "You share less since this began. It starts again with what you share now."


def begin(
    vault: Vault,
    wish: Wish,
    *,
    channel: Channel,
    address: str,
    grant_id: str,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> str:
    """Make a grant for a channel's recipient, approve it and queue one delivery; return its id.

    All or nothing. Raises InvalidInput, StepUpNeeded, or Conflict for a form that came twice.
    """
    with vault.write() as session:
        grant = links.draft(
            session, wish, RecipientKind(channel.kind), actor, grant_id=grant_id, now=now
        )
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        handles.make_inner(session, grant.id, HandleKind.PUSH, now=now)
        return outbox.queue(
            session, vault, grant, channel=channel, address=address, actor=actor, now=now
        )


def start(
    vault: Vault,
    wish: Wish,
    *,
    channel: Channel,
    address: str,
    standing: bool,
    grant_id: str,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> str:
    """Make and approve a grant and the order to send under it; return the grant's id.

    `standing`: also whatever arrives later, until the grant ends. All or nothing. Raises
    InvalidInput, StepUpNeeded, or Conflict (the form came twice, the address has an order).
    """
    outbox.check_address(channel, address)
    with vault.write() as session:
        grant = links.draft(
            session, wish, RecipientKind(channel.kind), actor, grant_id=grant_id, now=now
        )
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        handles.make_inner(session, grant.id, HandleKind.PUSH, now=now)
        orders.make(
            session,
            vault,
            grant,
            channel=channel.kind,
            address=address,
            standing=standing,
            actor=actor,
            now=now,
        )
        return grant.id


@dataclass(frozen=True, slots=True)
class Halted:
    """What stopping an order cannot call back: messages handed over before without an answer.

    `uncertain`: one was at its very last step and did not come to an end in time.
    """

    unconfirmed: int
    uncertain: bool


def halt(vault: Vault, grant_id: str, actor: Mapping[str, Any], *, now: datetime) -> Halted:
    """Stop an order; when this returns, nothing more of it leaves. Raises NotFound.

    Waits at most five seconds for a message whose final dot is out and not answered yet; then its
    connection is broken off.
    """
    with vault.write(Priority.URGENT) as session:
        orders.stop(session, vault, grant_id, actor, now=now)
    at_rest = orders.at_rest(grant_id)
    with vault.read() as session:
        return Halted(orders.gone(session, grant_id).handed_over, uncertain=not at_rest)


def plan_due(vault: Vault, *, budget: int, now: datetime) -> int:
    """Queue what standing and new orders have to send; return how many messages that are."""
    with vault.read() as session:
        waiting = orders.due(session)
    return sum(_plan(vault, grant_id, budget, now) for grant_id in waiting)


def _plan(vault: Vault, grant_id: str, budget: int, now: datetime) -> int:
    try:
        with vault.read() as session:
            seen = orders.taken_in(session)
        released = gate.release(
            vault,
            Presented(_handle_of(vault, grant_id)),
            Action.DOWNLOAD,
            "push.prepared",
            now=now,
            actor=outbox.APPLIANCE,
        )
        lots = orders.split(orders.not_carried(released, grant_id), budget=budget)
    except (Ended, NotFound, Denied):
        return 0  # the grant's state says why; a paused one goes on one day
    with vault.write() as session:
        job = orders.get(session, grant_id)
        if job is None or job.grant_id not in {each.grant_id for each in orders.active(session)}:
            return 0
        return len(orders.plan(session, job, lots, seen=seen, now=now))


def run_due(
    vault: Vault, *, channels: Mapping[str, Channel], public_url: str, now: datetime
) -> int:
    """Try every delivery of a vault whose time has come; return how many were tried."""
    plan_due(vault, budget=BUDGET, now=now)
    with vault.read() as session:
        due = outbox.due(session, now=now)
    for delivery_id in due:
        deliver(vault, delivery_id, channels=channels, public_url=public_url, now=now)
    return len(due)


def deliver(
    vault: Vault,
    delivery_id: str,
    *,
    channels: Mapping[str, Channel],
    public_url: str,
    now: datetime,
) -> str:
    """Carry one delivery as far as it goes, and return the state it is then in.

    A grant that ended stops it: before the claim, after it, and between two pieces of the parcel.
    Any failure leaves a sentence and a time for the next try; nothing is raised for it.
    """
    delivery = _claim(vault, delivery_id, channels, now)
    if delivery is None:
        return _state(vault, delivery_id)
    try:
        receipt = _send(vault, delivery, channels, public_url, now)
    except (Ended, NotFound):
        _cut_off(vault, delivery, now)
    except DeliveryUncertain as error:
        with vault.write(Priority.URGENT) as session:
            outbox.uncertain(session, vault, delivery_id, error.sentence, now=now)
    except DeliveryFailed as error:
        _failed(vault, delivery_id, error.sentence, permanent=error.permanent, now=now)
    except Denied as error:  # paused: it may go on one day
        _failed(vault, delivery_id, error.sentence, permanent=False, now=now)
    except Exception as error:  # noqa: BLE001 - whatever broke, the delivery must not stay "sending"
        logs.event(
            log, "delivery.broke", logging.ERROR, delivery=delivery_id, error=type(error).__name__
        )
        sentence = error.sentence if isinstance(error, PhrError) else DeliveryFailed.sentence
        _failed(vault, delivery_id, sentence, permanent=False, now=now)
    else:
        with vault.write(Priority.URGENT) as session:
            outbox.sent(session, vault, delivery_id, receipt, now=now)
    return _state(vault, delivery_id)


def _claim(
    vault: Vault, delivery_id: str, channels: Mapping[str, Channel], now: datetime
) -> Delivery | None:
    with vault.write(Priority.URGENT) as session:
        delivery = outbox.claim(session, delivery_id, now=now)
        channel = None if delivery is None else channels.get(delivery.channel)
        if delivery is not None and channel is not None:
            delivery.message_id = channel.reference(delivery.id)
        return delivery


def _send(
    vault: Vault,
    delivery: Delivery,
    channels: Mapping[str, Channel],
    public_url: str,
    now: datetime,
) -> Receipt:
    channel = channels.get(delivery.channel)
    if channel is None:
        raise DeliveryFailed("This way of sending is not installed any more.", permanent=True)
    turn = endings.turn(delivery.grant_id)
    released = gate.release(
        vault,
        Presented(_handle_of(vault, delivery.grant_id)),
        Action.DOWNLOAD,
        "delivery.released",
        now=now,
        measure=True,
        channel=delivery.channel,
    )
    with vault.read() as session:
        released = orders.within(session, released, delivery.id)
    parcel = replace(
        package.parcel(released, delivery.id, base_url=public_url, now=now),
        point=partial(orders.point, vault, delivery.grant_id, turn),
        number=delivery.part,
        total=delivery.parts,
    )
    return channel.send(parcel, delivery.address)


def _handle_of(vault: Vault, grant_id: str) -> str:
    with vault.read() as session:
        handle = handles.of_grant(session, grant_id, HandleKind.PUSH)
    if handle is None:
        raise NotFound
    return handle.id


def _cut_off(vault: Vault, delivery: Delivery, now: datetime) -> None:
    """Settle a delivery whose release broke off: the grant ended, or it covers less by now."""
    with vault.write(Priority.URGENT) as session:
        grant = grants.get(session, delivery.grant_id)
        job = orders.get(session, delivery.grant_id)
        goes_on = job is None or job.state == PushState.ACTIVE
        if goes_on and grant.state == GrantState.ACTIVE and now < grant.ends_at:
            outbox.put_off(session, vault, delivery.id, NARROWED, now=now)
        else:
            outbox.stopped(session, vault, delivery.id, now=now)


def _failed(
    vault: Vault, delivery_id: str, sentence: str, *, permanent: bool, now: datetime
) -> None:
    settle = outbox.failed if permanent else outbox.put_off
    with vault.write() as session:
        settle(session, vault, delivery_id, sentence, now=now)


def _state(vault: Vault, delivery_id: str) -> str:
    with vault.read() as session:
        delivery = session.get(Delivery, delivery_id)
        return DeliveryState.STOPPED if delivery is None else delivery.state


# ------------------------------------------------------------------------------- Direct's own side


def post(vault: Vault, *, http: Http) -> Mapping[str, Channel]:
    """Return the Direct channel of a vault, by its kind; nothing where no postbox is set up."""
    with vault.read() as session:
        box = session.get(Postbox, 1)
        if box is None:
            return {}
        from phr.sharing import postbox  # noqa: PLC0415 - loaded only where Direct is used
        from phr.sharing.channels import discovery  # noqa: PLC0415 - as above
        from phr.sharing.channels.direct import Direct, Outfit  # noqa: PLC0415 - as above

        outfit = Outfit(
            address=box.address,
            sealed=box.mode == MailMode.STA,
            own=postbox.current(session),
            chain=postbox.chain(session),
            anchors=postbox.anchors(session, Direction.OUT),
            places=discovery.places(http),
            server=postbox.server(box),
        )
    return {Direct.kind: Direct(outfit)}


def refresh_bundles(vault: Vault, *, http: Http, now: datetime) -> int:
    """Fetch the trust bundles that are due; return how many. What goes wrong becomes a sentence."""
    with vault.read() as session:
        if session.get(Postbox, 1) is None:
            return 0
        from phr.sharing import postbox  # noqa: PLC0415 - loaded only where Direct is used

        due = [(each.id, each.url) for each in postbox.bundles_due(session, now=now)]
    for bundle_id, url in due:
        try:
            answer = http.get(url, limits=replace(SMALL, size=4 << 20))
            with vault.write() as session:
                postbox.take_bundle(session, vault, bundle_id, answer, now=now)
        except (NetError, TrustError) as error:
            with vault.write() as session:
                postbox.bundle_failed(session, bundle_id, error.sentence, now=now)
    return len(due)
