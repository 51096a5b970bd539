"""What apps ask to be sent to Direct addresses under their Consents, and how each stands.

The request and the patient's answer are those of `consents`; the order that it becomes is `orders`.
Stopping one is `phr.push`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from phr.errors import InvalidInput, NotFound
from phr.http import Http
from phr.sharing import consents, orders, outbox
from phr.sharing.consents import Answer, Asked
from phr.store.models import DeliveryState, Direction, MailMode, Postbox, PushState
from phr.store.vault import Vault

NO_POSTBOX: Final = "This record has no Direct address of its own to send from."
NOT_TRUSTED: Final = "No certificate that the patient trusts was found for this address."
# What an app is told of an order, besides how its request stands (`Answer`).
PAUSED, COMPLETED, STOPPED = "paused", "completed", "stopped"
UNSENT: Final = frozenset({DeliveryState.QUEUED, DeliveryState.SENDING})


def problem(address: str) -> str | None:
    """Say what is wrong with the form of an address; None where it is good."""
    from phr.sharing.channels import discovery  # noqa: PLC0415 - loaded only where Direct is used

    return discovery.problem(address)


def must_be_reachable(vault: Vault, http: Http, address: str, *, now: datetime) -> None:
    """Raise InvalidInput unless mail to an address could be sealed for somebody who is trusted.

    Asks the name system and directories, as sending does. Where a provider seals, there is nothing
    to look for.
    """
    with vault.read() as session:
        box = session.get(Postbox, 1)
        if box is None:
            raise InvalidInput(NO_POSTBOX)
        from phr.sharing import postbox  # noqa: PLC0415 - loaded only where Direct is used
        from phr.sharing.channels import discovery  # noqa: PLC0415 - as above

        anchors = postbox.anchors(session, Direction.OUT)
    if box.mode == MailMode.HISP:
        return
    places = discovery.places(http)
    if not discovery.find(address, anchors=anchors, places=places, now=now).certificates:
        raise InvalidInput(NOT_TRUSTED)


@dataclass(frozen=True, slots=True)
class Told:
    """How one push stands, as its app is told: no reason, no record, nobody's words."""

    asked: Asked
    address: str
    once: bool
    status: str
    messages: Mapping[str, int]  # by state of a delivery
    disposition: str | None  # what the recipient's server said last
    next_at: datetime | None


def listed(session: Session, vault: Vault, client_id: str | None, consent_id: str) -> list[Told]:
    """Return every push under a Consent of this app, the oldest first. Raises NotFound."""
    known = consents.of_consent(session, vault, client_id, consent_id)
    return [told for each in known if (told := _told(session, each)) is not None]


def live(
    session: Session, vault: Vault, client_id: str | None, consent_id: str, named: str
) -> Asked:
    """Return the push that goes on, or waits, by its address or its id. Raises NotFound."""
    for told in listed(session, vault, client_id, consent_id):
        same = told.address.lower() == named.lower() or told.asked.grant.id == named
        if same and told.asked.answer not in consents.OVER and told.status != STOPPED:
            return told.asked
    raise NotFound


def _told(session: Session, asked: Asked) -> Told | None:
    box = asked.mailbox
    if box is None:
        return None
    sent = outbox.of_grant(session, asked.grant.id)
    waits = [each for each in sent if each.state in UNSENT]
    answered = [each for each in sent if each.answer is not None and each.answered_at is not None]
    last = max(answered, key=lambda each: (each.answered_at, each.id), default=None)
    job = orders.get(session, asked.grant.id)
    status = str(asked.answer)
    if asked.answer is Answer.ACTIVE and job is not None:
        if job.state == PushState.STOPPED:
            status = STOPPED
        elif any(each.attempts and each.state == DeliveryState.QUEUED for each in waits):
            status = PAUSED
        elif box.once and sent and not waits:
            status = COMPLETED
    return Told(
        asked=asked,
        address=box.address,
        once=box.once,
        status=status,
        messages=Counter(str(each.state) for each in sent),
        disposition=None if last is None else last.answer,
        next_at=min((at for each in waits if (at := each.next_attempt_at)), default=None),
    )
