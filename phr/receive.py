"""The conductor of what comes by mail: open -> judge -> take in -> write down -> answer.

Each mail waits sealed (`phr.store.arrived`) until its line is written; a crash anywhere begins it
anew, and what was taken in before is recognised by its bytes. When this runs: `phr.jobs`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.orm import Session

from phr import logs
from phr.errors import Conflict, Damaged, InvalidInput, PhrError, TooManyTries
from phr.http import Http
from phr.papers import kinds
from phr.sharing import echo, inbox, letterbox, postbox
from phr.sharing.channels import discovery, mdn, message, submission, trust
from phr.sharing.channels.identity import Identity
from phr.sharing.channels.mdn import Disposition, Notice
from phr.sharing.channels.message import Attachment, Opened
from phr.sharing.channels.trust import Purpose
from phr.sharing.inbox import DIRECT, Received, Sent
from phr.sharing.letterbox import Outcome
from phr.store import arrived, audit
from phr.store.arrived import Mail
from phr.store.models import Direction, Letter, LetterState, MailMode
from phr.store.vault import Vault

log = logging.getLogger("phr.receive")

PATIENCE: Final = timedelta(days=3)  # for what may be trusted later: a list that cannot be fetched
AGAIN: Final = timedelta(minutes=10)
MOST_AT_ONCE: Final = 50  # mails of one vault in one look
MOST_TAKEN: Final = 15  # parts of one mail: some room is left for the next
NO_POSTBOX: Final = "Direct is not set up for this record any more."
NOT_OURS: Final = "This notice is about no message that was sent from here to this address."
SAID: Final = {
    Disposition.PROCESSED: "The recipient's server received what you sent, and trusted it.",
    Disposition.DISPATCHED: "What you sent was delivered to where it is read.",
    Disposition.FAILED: "What you sent could not be delivered.",
    Disposition.OTHER: "The recipient's server says something that changes nothing.",
}
UNREADABLE: Final = "This calls itself a notice, but says nothing that can be read."
TOO_MANY: Final = f"More than {MOST_TAKEN} parts of one message are not taken in."
NOTHING: Final = "There is nothing in this message."

_later: dict[str, datetime] = {}  # files that are looked at again; a restart may be early


@dataclass(frozen=True, slots=True)
class _Box:
    """What the vault gives for judging mail, read once for a look."""

    address: str
    mode: str
    identities: Sequence[Identity]
    accepted: Sequence[x509.Certificate]  # anchors of those we accept from
    reached: Sequence[x509.Certificate]  # anchors of those we send to


def run_due(vault: Vault, *, http: Http, now: datetime) -> None:
    """Deal with every mail that waits for an open vault, then send what answers are owed."""
    box = _box(vault)
    for path in arrived.waiting(vault.house, vault.id)[:MOST_AT_ONCE]:
        if now < _later.get(path.name, now):
            continue
        try:
            mail = arrived.take(vault, path)
        except Damaged:
            logs.event(log, "mail.damaged", logging.ERROR, vault=vault.id)
            arrived.drop(path)
            continue
        if _dealt_with(vault, box, mail, http, now):
            arrived.drop(path)
            _later.pop(path.name, None)
        else:
            _later[path.name] = now + AGAIN
    with vault.read() as session:
        owed = letterbox.owed(session, now=now)
    for letter in owed:
        _answer(vault, box, letter, http, now)


def _box(vault: Vault) -> _Box | None:
    with vault.read() as session:
        held = postbox.get(session)
        if held is None:
            return None
        return _Box(
            held.address.lower(),
            held.mode,
            postbox.identities(session),
            postbox.anchors(session, Direction.IN),
            postbox.anchors(session, Direction.OUT),
        )


# ------------------------------------------------------------------ one mail


def _dealt_with(vault: Vault, box: _Box | None, mail: Mail, http: Http, now: datetime) -> bool:
    """Take a mail as far as it goes; False where it has to be looked at again later."""
    with vault.read() as session:
        if letterbox.known(session, mail) is not None:
            return True
    recipient = box.address if box else next(iter(mail.recipients), "")
    try:
        outcome = _judged(vault, box, mail, http, now)
    except _NotNow as wait:
        if now < mail.at + PATIENCE:
            return False
        outcome = _refused(wait.sentence, mail)
    except PhrError as problem:
        outcome = _refused(problem.sentence, mail)
    with vault.write() as session:
        letterbox.keep(session, vault, mail, recipient, outcome, now=now)
    return True


class _NotNow(Exception):
    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


def _refused(sentence: str, mail: Mail) -> Outcome:
    """Return the outcome of what is sealed away. To whom it cannot be trusted, nothing is said."""
    outside, _ = message.outer(mail.raw)
    return Outcome(LetterState.REFUSED, sentence, message_id=outside)


def _judged(vault: Vault, box: _Box | None, mail: Mail, http: Http, now: datetime) -> Outcome:
    if box is None:
        raise InvalidInput(NO_POSTBOX)
    to = [each for each in mail.recipients if each.lower() == box.address]
    keys = [(each.certificate, each.key) for each in box.identities]
    if mail.vouched and box.mode == MailMode.HISP:
        return _vouched(vault, box, mail, now)
    opened = message.unseal(mail.raw, envelope_from=mail.sender, envelope_to=to, keys=keys)
    if mdn.is_report(opened.entity):
        return _noticed(vault, box, opened, http, now)
    if echo.is_signed(opened, box.identities) and echo.came(vault, opened.message_id, now=now):
        return _own(opened)
    signer = _trusted(opened, opened.sender, box.accepted, http, now)
    contents = message.contents(opened)
    last = now >= mail.at + PATIENCE
    name_of_key = signer.fingerprint(hashes.SHA256()).hex()

    def sender(session: Session) -> str:
        return letterbox.sender(session, opened.sender, name_of_key, now=now)

    taken, left_out = _taken(vault, opened, contents, sender, now=now, last=last)
    if not taken and not left_out:
        raise InvalidInput(NOTHING)
    answers = [Disposition.PROCESSED]
    if opened.asks_dispatched and taken:
        answers.append(Disposition.DISPATCHED)
    return Outcome(
        LetterState.TAKEN,
        message_id=opened.message_id,
        subject=opened.subject,
        certificate=signer.public_bytes(Encoding.DER),
        arrivals=tuple(each.id for each in taken),
        left_out=tuple(left_out),
        answers=tuple(answers),
    )


def _own(opened: Opened, *, answers: bool = True) -> Outcome:
    """Write down the patient's own test message: it is answered, and is nothing for the inbox."""
    return Outcome(
        LetterState.NOTICE,
        echo.CAME,
        message_id=opened.message_id,
        answers=(Disposition.PROCESSED,) if answers else (),
    )


def _vouched(vault: Vault, box: _Box, mail: Mail, now: datetime) -> Outcome:
    """Take what a provider opened and checked, on its word; it also answers the sender."""
    opened = message.opened_by_provider(mail.raw)
    if mdn.is_report(opened.entity):
        notice = mdn.read(opened)
        if notice is None:
            raise InvalidInput(UNREADABLE)
        is_ours = _settled(vault, box, notice, now)
        said = SAID[notice.disposition] if is_ours else NOT_OURS
        return Outcome(LetterState.NOTICE, said, message_id=opened.message_id)
    if opened.sender == box.address and echo.came(vault, opened.message_id, now=now):
        return _own(opened, answers=False)
    contents = message.contents(opened)

    def sender(session: Session) -> str:
        by = letterbox.BY_PROVIDER
        return letterbox.sender(session, opened.sender, by, now=now, verified=by)

    last = now >= mail.at + PATIENCE
    taken, left_out = _taken(vault, opened, contents, sender, now=now, last=last)
    if not taken and not left_out:
        raise InvalidInput(NOTHING)
    return Outcome(
        LetterState.TAKEN,
        message_id=opened.message_id,
        subject=opened.subject,
        arrivals=tuple(each.id for each in taken),
        left_out=tuple(left_out),
    )


def _trusted(
    opened: Opened, address: str, anchors: Sequence[x509.Certificate], http: Http, now: datetime
) -> x509.Certificate:
    """Return the signer whose certificate is good for an address. Raises with the reason."""
    refused: trust.Verdict | None = None
    for signer in opened.signers:
        verdict = trust.judge(
            signer,
            address=address,
            purpose=Purpose.SIGN,
            anchors=anchors,
            intermediates=[each for each in opened.certificates if each != signer],
            fetch=trust.fetching(http),
            now=now,
        )
        if verdict.trusted:
            return signer
        if refused is None or verdict.passing:
            refused = verdict
    sentence = refused.sentence if refused else "Nobody signed this message."
    if refused is not None and refused.passing:
        raise _NotNow(sentence)
    raise InvalidInput(sentence)


def _noticed(vault: Vault, box: _Box, opened: Opened, http: Http, now: datetime) -> Outcome:
    """Settle what a notice says, if it is signed for the recipient it speaks of."""
    notice = mdn.read(opened)
    if notice is None:
        raise InvalidInput(UNREADABLE)
    if notice.recipient == box.address and echo.is_signed(opened, box.identities):
        signer = opened.signers[0]
    else:
        anchors = [*box.reached, *box.accepted]
        signer = _trusted(opened, notice.recipient, anchors, http, now)
    is_ours = _settled(vault, box, notice, now)
    return Outcome(
        LetterState.NOTICE,
        SAID[notice.disposition] if is_ours else NOT_OURS,
        message_id=opened.message_id,
        certificate=signer.public_bytes(Encoding.DER),
    )


def _settled(vault: Vault, box: _Box, notice: Notice, now: datetime) -> bool:
    """Note what a notice says; False where it is about nothing that was sent from here."""
    if notice.disposition is Disposition.OTHER:
        return True
    if notice.recipient == box.address and echo.answered(vault, notice, now=now):
        return True
    with vault.write() as session:
        return postbox.settle(
            session,
            vault,
            message_id=notice.message_id,
            recipient=notice.recipient,
            disposition=notice.disposition,
            now=now,
        )


def again(vault: Vault, letter_id: str, actor: Mapping[str, Any], *, now: datetime) -> None:
    """Let a refused mail be judged once more, by those who are trusted now.

    Raises NotFound once its bytes are erased, Conflict while too much waits.
    """
    with vault.read() as session:
        letter, raw = letterbox.refused(session, letter_id)
    mail = Mail(letter.sender, (letter.recipient,), now, raw, vouched=bool(letter.vouched))
    arrived.put_aside_here(vault, mail)
    with vault.write() as session:
        held, _ = letterbox.refused(session, letter_id)
        letterbox.forget(session, held)
        audit.append(session, vault, "mail.again", actor, letter=letter_id)
    _later.clear()


# ------------------------------------------------------------------ into the inbox


def _taken(
    vault: Vault,
    opened: Opened,
    contents: message.Contents,
    sender: Callable[[Session], str],
    *,
    now: datetime,
    last: bool,
) -> tuple[list[Received], list[tuple[str, str]]]:
    """Hand each part to the inbox; return what waits there, and what was not taken and why.

    Where the inbox is full the mail waits until the `last` time, and what then finds no room is
    left out. What was taken before is recognised. `sender` returns the recipient's id.
    """
    taken: list[Received] = []
    left_out: list[tuple[str, str]] = []
    for sent, name in _parts(opened, contents):
        if len(taken) >= MOST_TAKEN:
            left_out.append((name, TOO_MANY))
            continue
        try:
            taken.append(inbox.receive_from(vault, sender, sent, now=now))
        except InvalidInput as problem:
            left_out.append((name, problem.sentence))
        except (Conflict, TooManyTries) as full:
            if not last:
                raise _NotNow(full.sentence) from full
            left_out.append((name, full.sentence))
    return taken, left_out


def _parts(opened: Opened, contents: message.Contents) -> Iterator[tuple[Sent, str]]:
    """Yield what the inbox is asked to take, the words first, and what to call each."""
    title = opened.subject
    if contents.text:
        is_long = len(contents.text) > inbox.MOST_NOTE
        words = Sent(contents.text.encode(), title=title, is_note=not is_long, way=DIRECT)
        yield words, "the words of the message"
    for each in contents.attachments:
        yield Sent(each.content, title=title, name=each.name, way=DIRECT), each.name or _kind(each)


def _kind(each: Attachment) -> str:
    return f"a part without a name ({kinds.kind_of(each.content).words})"


# ------------------------------------------------------------------ the answer


def _answer(vault: Vault, box: _Box | None, letter: Letter, http: Http, now: datetime) -> None:
    """Send the next notice that is owed for a mail: signed, and sealed to who is answered."""
    answer = str(letter.answers[0])
    try:
        if box is None or not box.identities:
            raise InvalidInput(NO_POSTBOX)
        _send(vault, box, letter, kind=Disposition(answer), http=http, now=now)
    except PhrError as problem:
        with vault.write() as session:
            letterbox.not_answered(session, letter.id, problem.sentence, now=now)
        return
    with vault.write() as session:
        letterbox.answered(session, letter.id, answer, now=now)


def _send(
    vault: Vault, box: _Box, letter: Letter, *, kind: Disposition, http: Http, now: datetime
) -> None:
    notice = Notice(letter.message_id, box.address, kind)
    domain = trust.split(box.address)[1]
    own_id = message.message_id(letter.id, list(Disposition).index(kind), domain)
    inner = mdn.compose(notice, recipient=letter.sender, message_id=own_id, date=now)
    newest = box.identities[0]
    with vault.read() as session:
        held, chain = postbox.get(session), postbox.chain(session)
    if held is None:
        raise InvalidInput(NO_POSTBOX)
    raw = message.seal(
        inner,
        sender=box.address,
        recipient=letter.sender,
        message_id=own_id,
        date=now,
        own=(newest.certificate, newest.key),
        chain=chain,
        recipients=_certificates(box, letter, http, now),
    )
    submission.hand_over(
        raw,
        sender=box.address,
        recipient=letter.sender,
        server=postbox.server(held),
        guard=http.guard,
    )


def _certificates(
    box: _Box, letter: Letter, http: Http, now: datetime
) -> Sequence[x509.Certificate]:
    """Return what to encrypt an answer for: the signer's certificate, else what is published."""
    if letter.sender.lower() == box.address:
        return [box.identities[0].certificate]
    anchors, fetch = [*box.reached, *box.accepted], trust.fetching(http)
    if letter.certificate is not None:
        signer = x509.load_der_x509_certificate(letter.certificate)
        verdict = trust.judge(
            signer,
            address=letter.sender,
            purpose=Purpose.ENCRYPT,
            anchors=anchors,
            fetch=fetch,
            now=now,
        )
        if verdict.trusted:
            return [signer]
    found = discovery.find(letter.sender, anchors=anchors, places=discovery.places(http), now=now)
    if not found.certificates:
        raise InvalidInput(found.sentence)
    return found.certificates
