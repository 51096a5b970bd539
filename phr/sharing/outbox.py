"""The list of deliveries: queued -> sending -> sent, backoff, and what a crash or an ending does.

Every function runs in the caller's transaction; nothing here waits for a network. The order of
the steps is `phr.push`; standing orders and what each message carries are in `orders`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from phr import ids
from phr.errors import InvalidInput
from phr.sharing.channels.base import Channel, Receipt
from phr.store import audit
from phr.store.models import Delivery, DeliveryState, Grant, GrantState
from phr.store.vault import Vault

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=6)
ATTEMPTS = 10  # about a day and a half
APPLIANCE = {"kind": "appliance"}
UNANSWERED = timedelta(hours=1)  # then a missing answer is said to be missing (sharing.md §2.4)
# (class of the mark, word) of what goes by mail, and of what the recipient's server answered.
BY_MAIL = {
    DeliveryState.QUEUED: ("wait", "Waiting"),
    DeliveryState.SENDING: ("wait", "Being sent"),
    DeliveryState.SENT: ("fresh", "Handed to the mail server"),
    DeliveryState.FAILED: ("wait", "Not sent"),
    DeliveryState.STOPPED: ("ended", "Stopped"),
    DeliveryState.UNCERTAIN: ("wait", "Not certain"),
}
ANSWERS = {
    "processed": ("fresh", "Opened by the recipient's mail server"),
    "dispatched": ("fresh", "Arrived at the recipient"),
    "failed": ("wait", "Not delivered"),
}
SILENT = "The recipient's mail server has not answered yet. It may have arrived."


def queue(
    session: Session,
    vault: Vault,
    grant: Grant,
    *,
    channel: Channel,
    address: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> str:
    """Queue a delivery under an active grant and return its id. Raises InvalidInput."""
    check_address(channel, address)
    if grant.state != GrantState.ACTIVE:
        raise InvalidInput("This is not shared, so nothing can be sent.")
    delivery = Delivery(
        id=ids.new_id(),
        grant_id=grant.id,
        channel=channel.kind,
        address=address,
        state=DeliveryState.QUEUED,
        next_attempt_at=now,
        created_at=now,
    )
    session.add(delivery)
    session.flush()
    audit.append(session, vault, "delivery.queued", actor, grant_id=grant.id, channel=channel.kind)
    return delivery.id


def check_address(channel: Channel, address: str) -> None:
    """Raise InvalidInput with the first thing that is wrong with an address."""
    if problems := channel.problems(address):
        raise InvalidInput(problems[0])


def due(session: Session, *, now: datetime) -> list[str]:
    """Return the ids of the deliveries whose time has come, the longest waiting first."""
    return list(
        session.scalars(
            select(Delivery.id)
            .where(Delivery.state == DeliveryState.QUEUED, Delivery.next_attempt_at <= now)
            .order_by(Delivery.next_attempt_at, Delivery.created_at, Delivery.part, Delivery.id)
        )
    )


def of_grant(session: Session, grant_id: str) -> list[Delivery]:
    """Return the deliveries of a grant, newest first."""
    return list(
        session.scalars(
            select(Delivery)
            .where(Delivery.grant_id == grant_id)
            .order_by(Delivery.created_at.desc(), Delivery.id)
        )
    )


def words(delivery: Delivery, *, now: datetime) -> tuple[str, str, str, datetime | None]:
    """Return a delivery by mail in words: (class of the mark, word, what to know, when)."""
    mark, word = ANSWERS.get(delivery.answer or "", BY_MAIL[DeliveryState(delivery.state)])
    said, at = delivery.sentence or "", delivery.settled_at
    silent = delivery.state == DeliveryState.SENT and delivery.answer is None
    if silent and at is not None and now > at + UNANSWERED:
        mark, said = "wait", SILENT
    if delivery.parts > 1:
        said = f"message {delivery.part} of {delivery.parts}. {said}".rstrip()
    return mark, word, said, delivery.answered_at or at


def claim(session: Session, delivery_id: str, *, now: datetime) -> Delivery | None:
    """Mark a queued delivery as being sent, before anything is done; None if it is not due."""
    row = session.execute(
        update(Delivery)
        .where(
            Delivery.id == delivery_id,
            Delivery.state == DeliveryState.QUEUED,
            Delivery.next_attempt_at <= now,
        )
        .values(state=DeliveryState.SENDING, attempts=Delivery.attempts + 1, claimed_at=now)
        .execution_options(synchronize_session=False)
        .returning(Delivery.id)
    ).first()
    return None if row is None else session.get(Delivery, delivery_id, populate_existing=True)


def sent(
    session: Session, vault: Vault, delivery_id: str, receipt: Receipt, *, now: datetime
) -> None:
    """Settle a delivery that went through."""
    delivery = _settled(session, delivery_id, DeliveryState.SENT, None, now)
    delivery.receipt = dict(receipt.facts)
    _note(session, vault, delivery, "delivery.sent", **dict(receipt.facts))


def uncertain(
    session: Session, vault: Vault, delivery_id: str, sentence: str, *, now: datetime
) -> None:
    """Settle a delivery that may or may not have gone out: it is never repeated unasked."""
    delivery = _settled(session, delivery_id, DeliveryState.UNCERTAIN, sentence, now)
    _note(session, vault, delivery, "delivery.uncertain")


def put_off(
    session: Session, vault: Vault, delivery_id: str, sentence: str, *, now: datetime
) -> None:
    """Try again later: 1 minute, doubled each time up to 6 hours; failed after ten attempts."""
    delivery = session.get_one(Delivery, delivery_id)
    if delivery.attempts >= ATTEMPTS:
        failed(session, vault, delivery_id, sentence, now=now)
        return
    delivery.state = DeliveryState.QUEUED
    delivery.next_attempt_at = now + wait_after(delivery.attempts)
    delivery.sentence = sentence


def wait_after(attempts: int) -> timedelta:
    """Return how long to wait after so many attempts."""
    doubled: int = 1 << max(0, attempts - 1)
    return min(FIRST_WAIT * doubled, LONGEST_WAIT)


def failed(
    session: Session, vault: Vault, delivery_id: str, sentence: str, *, now: datetime
) -> None:
    """Settle a delivery that another try cannot save."""
    delivery = _settled(session, delivery_id, DeliveryState.FAILED, sentence, now)
    _note(session, vault, delivery, "delivery.failed")


def stopped(
    session: Session,
    vault: Vault,
    delivery_id: str,
    *,
    now: datetime,
    sentence: str = "Stopped before it was sent.",
) -> None:
    """Settle a delivery whose grant or order ended before it was out."""
    delivery = _settled(session, delivery_id, DeliveryState.STOPPED, sentence, now)
    _note(session, vault, delivery, "delivery.stopped")


def recover(
    session: Session, vault: Vault, channels: Mapping[str, Channel], *, now: datetime
) -> None:
    """Deal with what a crash left at "sending". To be called when a vault is opened.

    It may or may not have gone out. Where sending twice does no harm (`Channel.repeatable`) it is
    queued again; elsewhere it is `uncertain`, and the patient decides.
    """
    for delivery in session.scalars(
        select(Delivery).where(Delivery.state == DeliveryState.SENDING)
    ):
        channel = channels.get(delivery.channel)
        if channel is not None and channel.repeatable:
            delivery.state = DeliveryState.QUEUED
            delivery.next_attempt_at = now
            continue
        delivery.state = DeliveryState.UNCERTAIN
        delivery.sentence = "Homeport stopped while this was being sent. It may have arrived."
        _note(session, vault, delivery, "delivery.uncertain")


def _settled(
    session: Session, delivery_id: str, state: DeliveryState, sentence: str | None, now: datetime
) -> Delivery:
    delivery = session.get_one(Delivery, delivery_id)
    delivery.state = state
    delivery.next_attempt_at = None
    delivery.settled_at = now
    delivery.sentence = sentence
    return delivery


def _note(session: Session, vault: Vault, delivery: Delivery, event: str, **detail: Any) -> None:
    audit.append(
        session,
        vault,
        event,
        APPLIANCE,
        grant_id=delivery.grant_id,
        channel=delivery.channel,
        **detail,
    )
