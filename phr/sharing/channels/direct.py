"""The Direct channel: one sealed message for one recipient, handed to a mail server.

In STA mode the recipient's certificate is looked for at each sending and the message is signed and
sealed here; in HISP mode a provider does that, and the message goes to it as it is.
"""

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509

from phr import clock
from phr.errors import DeliveryFailed
from phr.sharing.channels import discovery, message, submission
from phr.sharing.channels.base import Channel, Parcel, Receipt
from phr.sharing.channels.discovery import Places
from phr.sharing.channels.identity import Identity
from phr.sharing.channels.message import Attachment, Letter
from phr.sharing.channels.submission import Server

MOST: Final = 10 << 20  # bytes of a message on the wire, with what two base64 add
BUDGET: Final = 3 << 20  # bytes of records in one message; the page for reading comes on top
PARTS: Final = ("record.json", "record.html")  # the signature over a package is the message's here
SUBJECT: Final = "Health records"  # also inside: some programs show it where others can read it
CONTEXT: Final = {"type": "general/notification"}  # Context 1.1 §4


@dataclass(frozen=True, slots=True)
class Outfit:
    """A patient's own side: address, keys, whom to trust, the mail server.

    `sealed`: signed and sealed here; else the mail goes to a provider as it is.
    """

    address: str
    sealed: bool
    own: Identity | None = field(repr=False)
    chain: Sequence[x509.Certificate]
    anchors: Sequence[x509.Certificate]
    places: Places
    server: Server
    tls: ssl.SSLContext | None = None  # for private issuers of the mail server's certificate


class Direct(Channel):
    """Sends to a Direct address. Twice would be two messages, so it is never repeated unasked."""

    kind = "direct"
    title = "Send to a Direct address"
    address_label = "The doctor's Direct address"
    repeatable = False

    def __init__(self, outfit: Outfit) -> None:
        """Send as the owner of this outfit."""
        self.outfit = outfit

    def problems(self, address: str) -> list[str]:
        """Say what is wrong with the form of an address; nothing is asked."""
        sentence = discovery.problem(address)
        return [] if sentence is None else [sentence]

    def reference(self, parcel_id: str) -> str | None:
        """Return the Message-ID, the same at each attempt."""
        return message.message_id(parcel_id, 1, self.outfit.address.rpartition("@")[2])

    def send(self, parcel: Parcel, address: str) -> Receipt:
        """Find the certificate, compose, seal and hand over; the final dot is the last step."""
        if problems := self.problems(address):
            raise DeliveryFailed(problems[0], permanent=True)
        now = clock.now()
        certificates = self._certificates(address, now)
        raw = self._sealed(self._letter(parcel, address, now), certificates)
        if len(raw) > MOST:
            raise DeliveryFailed(
                "One record is too large for a Direct message (10 MiB with its packing).",
                permanent=True,
            )
        said = submission.hand_over(
            raw,
            sender=self.outfit.address,
            recipient=address,
            server=self.outfit.server,
            guard=self.outfit.places.guard,
            tls=self.outfit.tls,
            point=parcel.point,
        )
        return Receipt({"bytes": len(raw), "server": said, "part": parcel.number})

    def _certificates(self, address: str, now: datetime) -> tuple[x509.Certificate, ...]:
        if not self.outfit.sealed:
            return ()
        if self.outfit.own is None or now > self.outfit.own.certificate.not_valid_after_utc:
            raise DeliveryFailed("Your own certificate for Direct is missing or has expired.")
        found = discovery.find(
            address, anchors=self.outfit.anchors, places=self.outfit.places, now=now
        )
        if not found.certificates:
            raise DeliveryFailed(
                f"There is no certificate to trust for this address. {found.sentence}",
                permanent=not found.passing,
            )
        return found.certificates

    def _letter(self, parcel: Parcel, address: str, now: datetime) -> Letter:
        return Letter(
            sender=self.outfit.address,
            recipient=address,
            message_id=self.reference(parcel.id) or "",
            date=now,
            subject=SUBJECT,
            text=_words(parcel),
            attachments=[
                Attachment(part.name, part.media_type, _whole(part.chunks))
                for part in parcel.parts
                if part.name in PARTS
            ],
            context=CONTEXT,
        )

    def _sealed(self, letter: Letter, certificates: Sequence[x509.Certificate]) -> bytes:
        inner, own = message.compose(letter), self.outfit.own
        if not self.outfit.sealed:
            return inner
        if own is None or not certificates:
            raise DeliveryFailed  # never out in the open because something is missing
        return message.seal(
            inner,
            sender=letter.sender,
            recipient=letter.recipient,
            message_id=letter.message_id,
            date=letter.date,
            own=(own.certificate, own.key),
            chain=self.outfit.chain,
            recipients=certificates,
        )


def _words(parcel: Parcel) -> str:
    """Return what a person reads first; no name and no value of the record."""
    which = f" This is message {parcel.number} of {parcel.total}." if parcel.total > 1 else ""
    return (
        "A patient sends you health records from their own copy." + which + "\n\n"
        "record.html is for reading, in any browser.\n"
        "record.json holds the same as a FHIR R4 Bundle, for software.\n"
    )


def _whole(chunks: Iterable[bytes]) -> bytes:
    """Return a part whole; one that could never be sent is not read to its end."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        if len(held) > MOST:
            raise DeliveryFailed(
                "This part of the record is too large for a Direct message.", permanent=True
            )
    return bytes(held)
