"""A test message to oneself, by the way that every message takes, and how far it came in words.

It holds nothing of the record. `phr.receive` recognises it by its id and the patient's own key, and
answers it as any other. One test is remembered at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import ids
from phr.errors import InvalidInput, PhrError
from phr.http import Http
from phr.sharing import postbox
from phr.sharing.channels import discovery, message, submission, trust
from phr.sharing.channels.identity import Identity
from phr.sharing.channels.mdn import Disposition, Notice
from phr.sharing.channels.message import Letter, Opened
from phr.sharing.channels.trust import Purpose
from phr.store.models import MailMode, MailTest, Postbox
from phr.store.vault import Vault

DONE, WAITING, FAILED = "done", "waiting", "failed"
PATIENCE: Final = timedelta(hours=1)  # as for every message (sharing.md §2.4)
CAME: Final = "The test message that was sent from here arrived, and could be opened."
TEXT: Final = "This is a test message. A Homeport sent it to itself; it holds no health records."
NOT_SET_UP: Final = "Please set up a Direct address first."
NO_WAY_IN: Final = (
    "Nothing takes mail in here: neither PHR_MAIL_LISTEN nor a mailbox at a provider is set."
)
BY_PROVIDER: Final = "Your provider keeps the certificates, and signs and encrypts for you."
LATE: Final = "It did not come within an hour."


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a test: `state` is "done", "waiting" or "failed"."""

    name: str
    state: str
    sentence: str


def begin(vault: Vault, *, http: Http, listens: bool, now: datetime) -> None:
    """Send a test message to the own address; `listens`: this appliance takes mail in by itself.

    What goes wrong becomes a step. Raises InvalidInput where no address is set up.
    """
    with vault.read() as session:
        box = postbox.get(session)
        own, chain = postbox.current(session), postbox.chain(session)
    if box is None:
        raise InvalidInput(NOT_SET_UP)
    named = message.message_id(ids.new_id(), 1, trust.split(box.address)[1])
    with vault.write() as session:  # before it goes: it may be back sooner than this ends
        session.merge(
            MailTest(
                id=1, message_id=named, began_at=now, steps=[], arrived_at=None, answered_at=None
            )
        )
    if box.mode == MailMode.STA:
        steps = _certificates(box, own, chain, http, now)
    else:
        steps = [Step("Certificates", DONE, BY_PROVIDER)]
    letter = Letter(
        sender=box.address,
        recipient=box.address,
        message_id=named,
        date=now,
        subject="Test",
        text=TEXT,
    )
    steps.append(_handed_over(box, own, letter, chain, http))
    if not listens and box.imap_host is None:
        steps.append(Step("Taken in again", FAILED, NO_WAY_IN))
    with vault.write() as session:
        held = session.get_one(MailTest, 1)
        if held.message_id == named:
            held.steps = [[each.name, each.state, each.sentence] for each in steps]


def _certificates(
    box: Postbox, own: Identity | None, chain: Sequence[Any], http: Http, now: datetime
) -> list[Step]:
    """Look for the own certificate as a correspondent does who trusts the own root."""
    if own is None:
        return [Step("Own certificate", FAILED, "There is none. Please make one.")]
    verdict = trust.judge(
        own.certificate,
        address=box.address,
        purpose=Purpose.ENCRYPT,
        anchors=chain,
        fetch=trust.fetching(http),
        now=now,
    )
    good = "It is in date, and good for this address." if verdict.trusted else verdict.sentence
    steps = [Step("Own certificate", DONE if verdict.trusted else FAILED, good)]
    found = discovery.find(box.address, anchors=chain, places=discovery.places(http), now=now)
    if own.certificate in found.certificates:
        where = found.steps[-1].place
        steps.append(Step("Published", DONE, f"Others find it: {where}."))
    elif found.certificates:
        said = "Another certificate of yours is published, not the one that is used now."
        steps.append(Step("Published", FAILED, said))
    else:
        steps.append(Step("Published", FAILED, found.sentence))
    return steps


def _handed_over(
    box: Postbox, own: Identity | None, letter: Letter, chain: Sequence[Any], http: Http
) -> Step:
    step, inner = "Taken by the mail server", message.compose(letter)
    if box.mode == MailMode.STA:
        if own is None:
            return Step(step, FAILED, "Without a certificate nothing is sent.")
        inner = message.seal(
            inner,
            sender=letter.sender,
            recipient=letter.recipient,
            message_id=letter.message_id,
            date=letter.date,
            own=(own.certificate, own.key),
            chain=chain,
            recipients=[own.certificate],
        )
    try:
        said = submission.hand_over(
            inner,
            sender=box.address,
            recipient=box.address,
            server=postbox.server(box),
            guard=http.guard,
        )
    except PhrError as problem:
        return Step(step, FAILED, problem.sentence)
    return Step(step, DONE, f"It said: {said}")


# ------------------------------------------------------------------ what came back


def is_signed(opened: Opened, identities: Sequence[Identity]) -> bool:
    """Say whether one of the patient's own keys signed a message."""
    return any(each.certificate in opened.signers for each in identities)


def came(vault: Vault, message_id: str, *, now: datetime) -> bool:
    """Note that the test message arrived; False where this is not its id."""
    return _noted(vault, message_id, "arrived_at", now)


def answered(vault: Vault, notice: Notice, *, now: datetime) -> bool:
    """Note that the test message was confirmed; False where the notice is not about it."""
    if notice.disposition is Disposition.FAILED:
        return False
    return _noted(vault, notice.message_id, "answered_at", now)


def _noted(vault: Vault, message_id: str, what: str, now: datetime) -> bool:
    with vault.write() as session:
        held = session.get(MailTest, 1)
        if held is None or not message_id or held.message_id != message_id:
            return False
        if getattr(held, what) is None:
            setattr(held, what, now)
        return True


# ------------------------------------------------------------------ looking at it


def began(vault: Vault) -> datetime | None:
    """Return when the last test was begun, or None."""
    with vault.read() as session:
        held = session.get(MailTest, 1)
        return None if held is None else held.began_at


def steps(vault: Vault, *, now: datetime) -> tuple[Step, ...]:
    """Return the steps of the last test as far as they are known; empty where there was none."""
    with vault.read() as session:
        held = session.get(MailTest, 1)
        return () if held is None else _steps(session, held, now)


def _steps(session: Session, held: MailTest, now: datetime) -> tuple[Step, ...]:
    told = [Step(*each) for each in held.steps]
    box = postbox.get(session)
    by_provider = box is not None and box.mode == MailMode.HISP
    late = now > held.began_at + PATIENCE
    lost = any(each.state == FAILED for each in told if each.name.startswith("Taken"))
    arrived = "It came back, was opened, and its signature holds."
    confirmed = "The confirmation that it was opened came back, too."
    if by_provider:
        arrived = "It came back through your provider's mailbox."
        confirmed = "Your provider confirmed that it was delivered."
    for name, at, said in (
        ("Arrived", held.arrived_at, arrived),
        ("Confirmed", held.answered_at, confirmed),
    ):
        if at is not None:
            told.append(Step(name, DONE, said))
        elif lost:
            told.append(Step(name, FAILED, "It did not get so far."))
        else:
            told.append(Step(name, FAILED, LATE) if late else Step(name, WAITING, "Not yet."))
    return tuple(told)
