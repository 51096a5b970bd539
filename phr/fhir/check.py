"""Notes on what looks unusual in a kept resource: marks for people, never a reason to refuse."""

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

from phr.fhir.reading import text, walk


class Note(IntFlag):
    """Bits kept in `record.flags`."""

    NONE = 0
    WITHDRAWN = 1  # the source no longer offers it
    IN_ERROR = 2  # status or verification "entered-in-error"
    MODIFIED = 4  # modifierExtension: may change the meaning (R4 §2.1.0.5)
    DATE_UNREADABLE = 8  # a date was given that is no date
    NO_ID = 16  # came without an id; ours is made from the fullUrl or the bytes


def in_error(document: Mapping[str, Any]) -> bool:
    """Say whether the source marked the resource as entered in error."""
    status = document.get("status")
    verification = document.get("verificationStatus")
    return (
        status == "entered-in-error"
        or any(found.get("code") == "entered-in-error" for found in walk(verification))
        or verification == "entered-in-error"
    )


def changes_meaning(value: Any) -> bool:
    """Say whether any object inside carries a modifierExtension."""
    return any(found.get("modifierExtension") for found in walk(value))


def status_of(document: Mapping[str, Any]) -> str:
    """Return the status as sent, or ""."""
    return text(document.get("status"))
