"""JSON objects that strangers sent, bounded before they are read. FHIR is `phr.fhir.document`."""

import json
from typing import Any, Final

from phr.errors import RemoteBroken

MARKS: Final = 400_000  # `{ [ , :` in one document: bounds what reading it may cost in memory
NUMBER: Final = 40  # characters of a number


def read_object(body: bytes) -> dict[str, Any]:
    """Read a JSON object; a name that stands twice (two patients!) is refused.

    Bounded before it is read: 8 MB of `[{},{}…` would become gigabytes of small objects.
    """
    if sum(body.count(mark) for mark in (b"{", b"[", b",", b":")) > MARKS:
        raise RemoteBroken
    try:
        value = json.loads(
            body,
            object_pairs_hook=_once,
            parse_int=_whole,
            parse_float=_broken,
            parse_constant=_nothing,
        )
    except (ValueError, RecursionError):
        raise RemoteBroken from None
    if not isinstance(value, dict):
        raise RemoteBroken
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _whole(digits: str) -> int:
    if len(digits) > NUMBER:
        raise ValueError
    return int(digits)


def _broken(digits: str) -> float:
    if len(digits) > NUMBER:
        raise ValueError
    return float(digits)


def _nothing(name: str) -> None:
    """Refuse NaN and infinities: they are no JSON (RFC 8259 §6)."""
    raise ValueError(name)
