"""The Direct message: composed, wrapped and sealed for one recipient; unsealed and cut into parts.

Outside of the envelope stand two addresses, a date, an id and a subject that is always the same
(Applicability Statement 1.3; Context 1.1). Whether a signer is to be trusted: `trust`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime, getaddresses
from hashlib import sha256
from typing import Final

from cryptography import x509

from phr import ids
from phr.errors import MessageRefused, PhrError
from phr.sharing.channels import mime, smime
from phr.sharing.channels.mime import Entity
from phr.sharing.channels.smime import Cipher, Own, Transport

SUBJECT: Final = "Direct message"
METADATA: Final = "metadata.txt"
ASKS_DISPATCHED: Final = "X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true"

MOST_PARTS: Final = 200  # leaves of one message
DEEPEST: Final = 8  # multiparts within one another
_WRAPPED: Final = "message/rfc822"
_SEALED: Final = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,253}\Z")
_ID: Final = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]{3,300}>\Z")


class EnvelopeRefused(PhrError):
    """Who sent it, or to whom, is said differently outside and inside; or a header field is odd."""

    sentence = "The addresses in this message are not those it was sent with."


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file of a message, by its name, as its sender called it."""

    name: str
    media_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent to one recipient. `context` are the lines of metadata.txt (Context 1.1 §3)."""

    sender: str
    recipient: str
    message_id: str
    date: datetime
    subject: str = field(repr=False)
    text: str = field(repr=False)
    attachments: Sequence[Attachment] = ()
    context: Mapping[str, str] = field(default_factory=dict, repr=False)
    asks_dispatched: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A message whose signature holds and whose envelope fits; nobody has been trusted yet."""

    sender: str
    message_id: str
    subject: str = field(repr=False)
    date: str
    entity: Entity = field(repr=False)  # the message inside, for `contents` and `mdn.read`
    signers: tuple[x509.Certificate, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()
    asks_dispatched: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """A message cut into its parts: words of the sender, files, and the lines of its context."""

    text: str = field(repr=False)
    attachments: tuple[Attachment, ...]
    context: Mapping[str, str] = field(repr=False)


def message_id(delivery_id: str, part: int, domain: str) -> str:
    """Return the id that every attempt of a delivery's part has (RFC 5322 §3.6.4).

    A receiver knows a repeated message by it; nothing about the delivery can be told from it.
    """
    digest = sha256(f"homeport direct {delivery_id} {part}".encode()).hexdigest()
    return f"<{digest[:40]}@{domain}>"


# ---------------------------------------------------------------------------------------- outwards


def compose(letter: Letter) -> bytes:
    """Return the message inside the envelope: 7-bit lines that end in CRLF (RFC 5322, 2046).

    Raises ValueError for addresses, ids or header values that could begin a line of their own.
    """
    context_id = f"<{ids.new_id()}@{letter.sender.rpartition('@')[2]}>"
    pieces = [_text(letter.text)]
    pieces += [_attached(each) for each in letter.attachments]
    fields = [*head(letter.sender, letter.recipient, letter.message_id, letter.date)]
    fields.append(("Subject", letter.subject))
    if letter.context:
        fields.append(("X-Direct-Context", context_id))
        pieces.append(_metadata(letter.context, context_id))
    if letter.asks_dispatched:
        fields.append(("Disposition-Notification-Options", ASKS_DISPATCHED))
    boundary = ids.new_id()
    fields.append(("Content-Type", f'multipart/mixed; boundary="{boundary}"'))
    return mime.multipart(fields, pieces, boundary)


def seal(
    inner: bytes,
    *,
    sender: str,
    recipient: str,
    message_id: str,
    date: datetime,
    own: Own,
    chain: Sequence[x509.Certificate] = (),
    recipients: Sequence[x509.Certificate],
    cipher: Cipher = Cipher.AES256_CBC,
    transport: Transport = Transport.OAEP_SHA256,
) -> bytes:
    """Wrap a message as message/rfc822, sign it, encrypt it, and put the outer fields before it."""
    wrapped = mime.entity([("Content-Type", _WRAPPED)], inner)
    signed = smime.sign(wrapped, certificate=own[0], key=own[1], chain=chain, now=date)
    sealed = smime.encrypt(signed, recipients, cipher=cipher, transport=transport)
    outer = [*head(sender, recipient, message_id, date), ("Subject", SUBJECT)]
    return mime.entity(outer, b"")[:-2] + sealed


def head(sender: str, recipient: str, message_id: str, date: datetime) -> Iterator[tuple[str, str]]:
    """Yield the fields that each message begins with. Raises ValueError for a malformed value."""
    if not _ADDRESS.match(sender) or not _ADDRESS.match(recipient):
        raise ValueError("an address is malformed")
    if not _ID.match(message_id):
        raise ValueError("a message id is malformed")
    yield "From", f"<{sender}>"
    yield "To", f"<{recipient}>"
    yield "Date", format_datetime(date.astimezone(UTC))
    yield "Message-ID", message_id
    yield "MIME-Version", "1.0"


def _text(text: str) -> bytes:
    lines = "\r\n".join(text.splitlines()) + "\r\n"
    return mime.in_base64([("Content-Type", "text/plain; charset=utf-8")], lines.encode())


def _attached(each: Attachment) -> bytes:
    shown = ("Content-Disposition", f"attachment; {mime.file_name(each.name)}")
    return mime.in_base64([("Content-Type", each.media_type)], each.content, more=[shown])


def _metadata(context: Mapping[str, str], context_id: str) -> bytes:
    """Write metadata.txt: one `name: value` a line (Context 1.1 §4)."""
    lines = [("version", "1.1"), ("id", ids.new_uuid()), *context.items()]
    text = b"".join(f"{name}: {' '.join(value.split())}\r\n".encode() for name, value in lines)
    more = [
        ("Content-ID", context_id),
        ("Content-Disposition", f'attachment; filename="{METADATA}"'),
    ]
    return mime.in_base64([("Content-Type", "text/plain; charset=utf-8")], text, more=more)


# ----------------------------------------------------------------------------------------- inwards


def outer(raw: bytes) -> tuple[str, str]:
    """Return (Message-ID, From) as the outside says, "" where it does not: nothing is checked."""
    try:
        head = mime.read(raw)
        return head.field("Message-ID")[:300], next(iter(_addresses(head, "From")), "")
    except Exception:  # noqa: BLE001 - a stranger's bytes
        return "", ""


def return_path(raw: bytes) -> str:
    """Return the envelope's sender as the last server wrote it down (RFC 5321 §4.4), or From.

    For mail that is read in a mailbox, where there is no envelope any more.
    """
    try:
        head = mime.read(raw)
        found = _addresses(head, "Return-Path") or _addresses(head, "From")
        return next(iter(found), "")
    except Exception:  # noqa: BLE001 - a stranger's bytes
        return ""


def opened_by_provider(raw: bytes) -> Opened:
    """Read a message that a provider opened and checked for the patient (HISP edge mode).

    Nothing here proves who sent it: that is the provider's word. Raises MessageRefused for what is
    sealed still, EnvelopeRefused where no one sender is named.
    """
    try:
        inner = mime.read(raw)
        kind, senders = inner.media_type, _addresses(inner, "From")
    except Exception:  # noqa: BLE001 - a stranger's bytes
        raise MessageRefused("This message could not be read.") from None
    if kind in _SEALED:
        raise MessageRefused("This message is sealed still: the provider did not open it.")
    if len(senders) != 1 or len(inner.fields("From")) != 1:
        raise EnvelopeRefused("This message does not name one sender.")
    named = inner.field("Message-ID")
    return Opened(
        sender=senders[0],
        message_id=named if _ID.match(named) else "",
        subject=mime.words(inner.field("Subject")),
        date=inner.field("Date"),
        entity=inner,
    )


def unseal(
    raw: bytes, *, envelope_from: str, envelope_to: Sequence[str], keys: Sequence[Own]
) -> Opened:
    """Decrypt, verify and unwrap a message, and compare it with its envelope.

    Raises MessageRefused where it does not open or verify, EnvelopeRefused where MAIL FROM is not
    From or Sender inside, or a RCPT TO stands in neither To nor Cc (Applicability Statement 1.3).
    """
    if len(raw) > mime.MOST:
        raise MessageRefused
    signed = smime.verify(smime.decrypt(raw, keys))
    try:
        inner = _unwrapped(mime.read(signed.content), raw)
        return _checked(inner, signed, envelope_from, envelope_to)
    except PhrError:
        raise
    except Exception:  # noqa: BLE001 - the library raises many kinds for a stranger's header fields
        raise EnvelopeRefused from None


def _unwrapped(entity: Entity, raw: bytes) -> Entity:
    """Return the message inside; an older peer does not wrap: then the fields are the outer ones.

    Those are not covered by the signature. That does no harm where they only have to name the
    addresses that the envelope and the signer's certificate name too.
    """
    if entity.media_type == _WRAPPED:
        return mime.read(mime.decoded(entity))
    around = mime.read(raw).head
    for name in ("From", "Sender", "To", "Cc", "Message-ID", "Date"):
        if name not in entity.head and around.get(name) is not None:
            entity.head[name] = str(around[name])
    return entity


def _checked(
    inner: Entity, signed: smime.Signed, envelope_from: str, envelope_to: Sequence[str]
) -> Opened:
    said = [*_addresses(inner, "From"), *_addresses(inner, "Sender")]
    sender = envelope_from.lower()
    to = {*_addresses(inner, "To"), *_addresses(inner, "Cc")}
    if any(len(inner.fields(name)) > 1 for name in ("From", "Sender", "To", "Cc", "Message-ID")):
        raise EnvelopeRefused("A header field of this message stands there twice.")
    if not sender or sender not in said or len(said) > 2:
        raise EnvelopeRefused("The sender inside this message is not the one who sent it.")
    if not envelope_to or not {each.lower() for each in envelope_to} <= to:
        raise EnvelopeRefused("This message is not addressed to whom it was sent.")
    message_id = inner.field("Message-ID")
    if not _ID.match(message_id):
        raise EnvelopeRefused("This message has no id, or a malformed one.")
    options = inner.field("Disposition-Notification-Options").lower()
    return Opened(
        sender=sender,
        message_id=message_id,
        subject=mime.words(inner.field("Subject")),
        date=inner.field("Date"),
        entity=inner,
        signers=signed.signers,
        certificates=signed.certificates,
        asks_dispatched=ASKS_DISPATCHED.partition("=")[0].lower() in options,
    )


def _addresses(entity: Entity, name: str) -> list[str]:
    """Return the addresses of a header field in lower case, those of plain form only."""
    found = getaddresses(entity.fields(name))
    return [address.lower() for _, address in found if _ADDRESS.match(address)]


def contents(opened: Opened) -> Contents:
    """Cut a message into its words, its files and its context. Raises MessageRefused at a limit.

    The words are the first text/plain that is no attachment; of alternatives the plain one counts.
    """
    try:
        leaves = list(_leaves(opened.entity, 0))
        named = opened.entity.field("X-Direct-Context")
        return _sorted(leaves, named)
    except Exception:  # noqa: BLE001 - the library raises many kinds for a stranger's bytes
        raise MessageRefused("The parts of this message could not be read.") from None


def _leaves(entity: Entity, depth: int) -> Iterator[Entity]:
    """Yield what is no multipart, in order; a message within the message is a file."""
    if not entity.media_type.startswith("multipart/"):
        yield entity
        return
    if depth >= DEEPEST:
        raise ValueError("multiparts within one another")
    number = 0
    for part in mime.parts(entity):
        for leaf in _leaves(mime.read(part), depth + 1):
            number += 1
            if number > MOST_PARTS:
                raise ValueError("too many parts")
            yield leaf


def _sorted(leaves: Sequence[Entity], context_id: str) -> Contents:
    if len(leaves) > MOST_PARTS:
        raise ValueError("too many parts")
    text: str | None = None
    context: dict[str, str] = {}
    files: list[Attachment] = []
    for leaf in leaves:
        content = mime.decoded(leaf)
        name = mime.words(leaf.head.get_filename("") or "")
        is_file = bool(name) or leaf.head.get_content_disposition() == "attachment"
        if context_id and leaf.field("Content-ID") == context_id:
            context = _context(content)
        elif leaf.media_type == "text/plain" and not is_file and text is None:
            text = mime.characters(content, leaf.head.get_content_charset("utf-8"))
        elif content.strip():
            files.append(Attachment(name[:120], leaf.media_type, content))
    return Contents((text or "").strip(), tuple(files), context)


def _context(content: bytes) -> dict[str, str]:
    lines = content[:8192].decode("utf-8", "replace").splitlines()
    pairs = [line.partition(":") for line in lines if ":" in line]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
