"""Notifications: what became of a Direct message, written and read (RFC 8098; RFC 3464 read).

A notice counts only if it is signed for the recipient it speaks of, and about a message of ours:
both is for the caller to compare (`Notice.recipient`, `Notice.message_id`). A notice is never
answered with a notice.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from phr import ids
from phr.sharing.channels import message, mime
from phr.sharing.channels.message import Opened
from phr.sharing.channels.mime import Entity

FINAL_FIELD: Final = "X-DIRECT-FINAL-DESTINATION-DELIVERY"
_SAID: Final = {
    "processed": "The message was received, decrypted and trusted.",
    "dispatched": "The message was delivered to where it is read.",
    "failed": "The message could not be delivered.",
}
_REPORTS: Final = {"disposition-notification", "delivery-status"}


class Disposition(StrEnum):
    """What a notice says (Applicability Statement 1.3 §3; Implementation Guide for Delivery)."""

    PROCESSED = "processed"
    DISPATCHED = "dispatched"
    FAILED = "failed"
    OTHER = "other"  # displayed, delayed and the like: nothing follows from it


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice: about which message of ours, and for which of its recipients it speaks."""

    message_id: str
    recipient: str
    disposition: Disposition


def compose(
    notice: Notice, *, recipient: str, message_id: str, date: datetime, subject: str = "Notice"
) -> bytes:
    """Return the message inside the envelope of a notice; `recipient` is who sent the original.

    It comes from `notice.recipient`, the address that the original reached. Raises ValueError.
    """
    kind = notice.disposition
    fields = [
        ("Reporting-UA", f"{notice.recipient.rpartition('@')[2]}; Homeport"),
        ("Original-Recipient", f"rfc822;{notice.recipient}"),
        ("Final-Recipient", f"rfc822;{notice.recipient}"),
        ("Original-Message-ID", notice.message_id),
        ("Disposition", f"automatic-action/MDN-sent-automatically;{kind}"),
    ]
    if kind is Disposition.DISPATCHED:
        fields.append((FINAL_FIELD, "optional,true"))
    words = f"{_SAID[kind]}\r\n".encode()
    pieces = [
        mime.entity([("Content-Type", "text/plain; charset=us-ascii")], words),
        mime.entity(
            [("Content-Type", "message/disposition-notification")], mime.entity(fields, b"")
        ),
    ]
    edge = ids.new_id()
    about = f'multipart/report; report-type=disposition-notification; boundary="{edge}"'
    head = [*message.head(notice.recipient, recipient, message_id, date), ("Subject", subject)]
    return mime.multipart([*head, ("Content-Type", about)], pieces, edge)


def is_report(entity: Entity) -> bool:
    """Say whether a message is a notice, a readable one or not: such a one is never answered."""
    said = str(entity.head.get_param("report-type", "")).lower()
    return entity.media_type == "multipart/report" or said in _REPORTS


def read(opened: Opened) -> Notice | None:
    """Read a notice; None where it is none, or one that cannot be read."""
    if not is_report(opened.entity):
        return None
    try:
        reported = [mime.read(part) for part in mime.parts(opened.entity)]
        for part in reported:
            if part.media_type == "message/disposition-notification":
                return _from_disposition(part)
            if part.media_type == "message/delivery-status":
                return _from_delivery(part, reported)
    except Exception:  # noqa: BLE001 - the library raises many kinds for a stranger's bytes
        return None
    return None


def _from_disposition(part: Entity) -> Notice | None:
    said = mime.read(mime.decoded(part))
    _, _, kind = said.field("Disposition").partition(";")
    name, _, modifier = kind.strip().lower().partition("/")
    if modifier.split("/")[0].split(",")[0].strip() in {"error", "failure", "failed"}:
        name = Disposition.FAILED
    return _noticed(
        said.field("Original-Message-ID"),
        said.field("Final-Recipient") or said.field("Original-Recipient"),
        Disposition(name) if name in set(Disposition) else Disposition.OTHER,
    )


def _from_delivery(part: Entity, reported: list[Entity]) -> Notice | None:
    """Read a delivery status: fields of the message, then of one recipient (RFC 3464 §2.1)."""
    whole = mime.decoded(part)
    about = mime.read(whole)
    one = mime.read(about.body)
    original = about.field("X-Original-Message-ID")
    for other in reported:
        if not original and other.media_type in {"message/rfc822", "text/rfc822-headers"}:
            original = mime.read(mime.decoded(other)).field("Message-ID")
    failed = one.field("Action").lower() == "failed"
    kind = Disposition.FAILED if failed else Disposition.OTHER
    return _noticed(original, one.field("Final-Recipient"), kind)


def _noticed(message_id: str, recipient: str, kind: Disposition) -> Notice | None:
    address = recipient.partition(";")[2].strip().strip("<>").lower()
    if not message_id or not address:
        return None
    return Notice(message_id[:300], address[:320], kind)
