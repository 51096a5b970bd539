"""What a vault remembers of the mail that came: taken in, a notice, or refused with the reason.

The only writer of Letter rows. What is refused stays here, sealed away from everything else, and is
erased after 30 days. How a mail is judged: `phr.receive`.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, undefer

from phr import ids
from phr.errors import NotFound
from phr.sharing.recipients import NAME_LENGTH, one_line
from phr.store import arrived, audit
from phr.store.arrived import Mail
from phr.store.models import Letter, LetterState, Recipient, RecipientKind
from phr.store.vault import Vault

KEPT_FOR: Final = timedelta(days=30)  # what was refused is there to be looked into for so long
MOST_KEPT: Final = 100 << 20  # bytes of all that: then only the lines stay
FIRST_WAIT: Final = timedelta(minutes=1)
LONGEST_WAIT: Final = timedelta(hours=6)
ANSWER_TRIES: Final = 10  # about a day and a half, as a delivery
VERIFIED: Final = "anchor"  # a chain of signatures leads to an anchor of the patient
BY_PROVIDER: Final = "provider"  # the patient's provider for Direct mail says so


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mail. `answers` are owed to its sender, in turn."""

    state: LetterState
    reason: str = ""
    message_id: str = field(default="", repr=False)
    subject: str = field(default="", repr=False)
    certificate: bytes | None = field(default=None, repr=False)  # of the signer, DER
    arrivals: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    answers: tuple[str, ...] = ()


def is_due(vault: Vault, *, now: datetime) -> bool:
    """Say whether a mail waits to be looked at, or an answer to be sent; cheap."""
    if arrived.waiting(vault.house, vault.id):
        return True
    with vault.read() as session:
        owing = select(Letter.id).where(Letter.answer_at <= now)
        return session.scalar(owing.limit(1)) is not None


def known(session: Session, mail: Mail) -> Letter | None:
    """Return the line of a mail that was dealt with before."""
    return session.scalars(select(Letter).where(Letter.hash == mail.hash)).first()


def keep(
    session: Session, vault: Vault, mail: Mail, recipient: str, outcome: Outcome, *, now: datetime
) -> Letter:
    """Write down what became of a mail; its bytes stay where it, or a part of it, was not taken."""
    is_whole = outcome.state is not LetterState.REFUSED and not outcome.left_out
    letter = Letter(
        id=ids.new_id(),
        hash=mail.hash,
        sender=one_line(mail.sender, limit=320),
        recipient=recipient,
        vouched=int(mail.vouched),
        message_id=outcome.message_id,
        subject=one_line(outcome.subject, limit=200),
        certificate=outcome.certificate,
        state=outcome.state,
        reason=outcome.reason,
        arrivals=list(outcome.arrivals),
        left_out=[list(each) for each in outcome.left_out],
        size=len(mail.raw),
        received_at=mail.at,
        content=None if is_whole or not _fits(session, len(mail.raw)) else mail.raw,
        answers=list(outcome.answers),
        answer_at=now if outcome.answers else None,
    )
    session.add(letter)
    session.flush()
    audit.append(
        session,
        vault,
        f"mail.{outcome.state}",
        audit.APPLIANCE,
        letter=letter.id,
        arrivals=len(outcome.arrivals),
        left_out=len(outcome.left_out),
    )
    return letter


def _fits(session: Session, size: int) -> bool:
    held = session.scalar(select(func.total(Letter.size)).where(Letter.content.is_not(None)))
    return int(held or 0) + size <= MOST_KEPT


def sender(
    session: Session, address: str, signer: str, *, now: datetime, verified: str = VERIFIED
) -> str:
    """Return the id of the recipient that a sender of mail is: one for each address and key.

    So a rule about what comes from somebody never holds for another key under the same address.
    `signer` is the fingerprint, or what stands in its place where a provider checked.
    """
    query = select(Recipient).where(
        Recipient.kind == RecipientKind.DIRECT,
        func.json_extract(Recipient.identifiers, "$.address") == address,
        func.json_extract(Recipient.identifiers, "$.certificate") == signer,
    )
    found = session.scalars(query.limit(1)).first()
    if found is None:
        found = Recipient(
            id=ids.new_id(),
            name=one_line(address, limit=NAME_LENGTH),
            kind=RecipientKind.DIRECT,
            verification=verified,
            identifiers={"address": address, "certificate": signer},
            created_at=now,
        )
        session.add(found)
        session.flush()
    return found.id


# ------------------------------------------------------------------ answers


def owed(session: Session, *, now: datetime) -> list[Letter]:
    """Return the mails whose sender is to be answered now, the longest waiting first."""
    query = select(Letter).where(Letter.answer_at <= now).order_by(Letter.answer_at, Letter.id)
    return list(session.scalars(query))


def answered(session: Session, letter_id: str, answer: str, *, now: datetime) -> None:
    """Note that an answer went; the next one, if any, is due at once."""
    letter = session.get_one(Letter, letter_id)
    letter.answers = [each for each in letter.answers if each != answer]
    letter.answered_at, letter.answer_tries, letter.answer_problem = now, 0, ""
    letter.answer_at = now if letter.answers else None


def not_answered(session: Session, letter_id: str, sentence: str, *, now: datetime) -> None:
    """Note why an answer could not go, and when it is tried again; after ten tries never."""
    letter = session.get_one(Letter, letter_id)
    letter.answer_tries += 1
    letter.answer_problem = sentence
    wait = min(FIRST_WAIT * 2 ** (letter.answer_tries - 1), LONGEST_WAIT)
    letter.answer_at = None if letter.answer_tries >= ANSWER_TRIES else now + wait


# ------------------------------------------------------------------ looking at it


def listed(session: Session, *states: LetterState, limit: int = 200) -> list[Letter]:
    """Return the mails in some states, newest first; without their bytes."""
    query = select(Letter).where(Letter.state.in_(states))
    return list(session.scalars(query.order_by(Letter.received_at.desc(), Letter.id).limit(limit)))


def content(session: Session, letter_id: str) -> bytes:
    """Return the bytes of a mail that was not taken whole. Raises NotFound once they are erased."""
    letter = session.get(Letter, letter_id, options=[undefer(Letter.content)])
    if letter is None or letter.content is None:
        raise NotFound
    return letter.content


def refused(session: Session, letter_id: str) -> tuple[Letter, bytes]:
    """Return a mail that was refused, with its bytes. Raises NotFound once they are erased."""
    letter = session.get(Letter, letter_id, options=[undefer(Letter.content)])
    if letter is None or letter.content is None or letter.state != LetterState.REFUSED:
        raise NotFound
    return letter, letter.content


def forget(session: Session, letter: Letter) -> None:
    """Take a refused mail's line away: it waits again, and gets another one."""
    session.delete(letter)
    session.flush()


def tidy(session: Session, *, now: datetime) -> None:
    """Erase the bytes of what came more than 30 days ago; the lines stay."""
    old = (Letter.received_at < now - KEPT_FOR, Letter.content.is_not(None))
    session.execute(update(Letter).where(*old).values(content=None))
