"""The conductor OUT: claim -> release -> package -> channel -> settle, one delivery at a time.

Each step commits before the next begins, and nothing is open in the store while a channel works.
When it runs: `phr.jobs`. What may leave: `phr.sharing.gate`.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from phr import logs
from phr.errors import DeliveryFailed, Denied, Ended, NotFound, PhrError
from phr.sharing import gate, grants, handles, links, outbox, package
from phr.sharing.channels.base import Channel, Receipt
from phr.sharing.gate import Presented
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.provision import Action
from phr.store.database import Priority
from phr.store.models import Delivery, DeliveryState, GrantState, HandleKind, RecipientKind
from phr.store.vault import Vault

log = logging.getLogger("phr.push")

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


def run_due(
    vault: Vault, *, channels: Mapping[str, Channel], public_url: str, now: datetime
) -> int:
    """Try every delivery of a vault whose time has come; return how many were tried."""
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
    delivery = _claim(vault, delivery_id, now)
    if delivery is None:
        return _state(vault, delivery_id)
    try:
        receipt = _send(vault, delivery, channels, public_url, now)
    except (Ended, NotFound):
        _cut_off(vault, delivery, now)
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


def _claim(vault: Vault, delivery_id: str, now: datetime) -> Delivery | None:
    with vault.write(Priority.URGENT) as session:
        return outbox.claim(session, delivery_id, now=now)


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
    released = gate.release(
        vault,
        Presented(_handle_of(vault, delivery.grant_id)),
        Action.DOWNLOAD,
        "delivery.released",
        now=now,
        measure=True,
        channel=delivery.channel,
    )
    parcel = package.parcel(released, delivery.id, base_url=public_url, now=now)
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
        if grant.state == GrantState.ACTIVE and now < grant.ends_at:
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
