"""What an Observation says about its number, apart from the number: its measure.

Values of one test share it but for a few, so it is kept once, and a drawing of many years reads
numbers and no bodies. What it cannot give back exactly has no measure: there the body is read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from phr.fhir import document
from phr.fhir.older import as_r4
from phr.fhir.record import Record

# Everything that a drawing and its words are made of, but for value and date.
ELEMENTS: Final = frozenset(
    {"code", "status", "interpretation", "referenceRange", "modifierExtension", "subject"}
)
_TOLD: Final = frozenset({"comparator", "unit", "system", "code"})  # R4 §2.24.0.5, its value aside
_NUMBER: Final = re.compile(rb"-?[0-9]{1,15}(?:\.([0-9]{1,15}))?")
_LONGEST: Final = 2048  # bytes of all elements; nobody draws by more
_DECIMALS: Final = "decimals"

Key = tuple[tuple[str, ...], tuple[bytes, ...], bytes]  # names, their values as received, `rest`


def rest(literal: bytes, told: bytes) -> bytes:
    """Return the rest of a Quantity with the count of its number's decimals; b"" for none.

    `told` is `,"unit":"mg/dL"` and its like. There is none where the nearest double does not give
    back the digits as they were written (R4 §2.24.0.1: their precision has a meaning).
    """
    match = _NUMBER.fullmatch(literal)
    if match is None:
        return b""
    decimals = len(match[1] or b"")
    if _form(decimals) % float(literal) != literal.decode() or literal == b"-0":  # an int: "0"
        return b""
    return b'{"%s":%d%s}' % (_DECIMALS.encode(), decimals, told)


def rest_of(quantity: bytes) -> bytes:
    """Return the same of a Quantity in any spelling that was judged before.

    None of one that says more than number, comparator and unit.
    """
    found = {name: bytes(raw) for name, raw in document.slices(quantity).items()}
    literal = found.pop("value", b"")
    if not found.keys() <= _TOLD:
        return b""
    told = b"".join(b',"%s":%s' % (name.encode(), raw) for name, raw in found.items())
    return rest(literal, told)


def content(key: Key) -> bytes | None:
    """Return what is kept of a measure, a JSON object; None where bodies must be read.

    A range for an age needs the date as it was written, and that is in the body.
    """
    names, values, quantity = key
    if sum(map(len, values)) + len(quantity) > _LONGEST:
        return None
    for name, raw in zip(names, values, strict=True):
        if name == "referenceRange" and (b'"age"' in raw or b"\\u" in raw):
            return None
    parts = [b'"%s":%s' % (name.encode(), raw) for name, raw in zip(names, values, strict=True)]
    return b"{%s}" % b",".join((b'"valueQuantity":%s' % quantity, *parts))


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure as read: the Observation without value and date, the Quantity without number."""

    document: Mapping[str, Any]  # with R4's names
    quantity: Mapping[str, Any]
    decimals: int


def read(kept: bytes) -> Measure:
    """Read what `content` made."""
    said = document.parse(kept)
    quantity = said.pop("valueQuantity")
    decimals = int(quantity.pop(_DECIMALS))
    return Measure(as_r4({"resourceType": "Observation", **said}), quantity, decimals)


def _form(decimals: int) -> str:
    return f"%.{decimals}f"


def form(measure: Measure) -> str:
    """Return the format (`%`) that gives back the digits of each of a measure's numbers."""
    return _form(measure.decimals)


# One value as the index has it: pk, time (ms), value, measure and how it stands (see `standing`).
# Thousands are read at once: no objects.
Point = tuple[int, int, float, int | None, int]
STANDINGS: Final = 4  # connection * 4, + 1 withdrawn by its source, + 2 kept private


def standing(packed: int) -> tuple[int, bool, bool]:
    """Return (connection, withdrawn by its source, kept private) of a Point."""
    connection, marks = divmod(packed, STANDINGS)
    return connection, bool(marks & 1), bool(marks & 2)


@dataclass(frozen=True, slots=True)
class Points:
    """The newest values of one test that are numbers and dated, newest first.

    `digits` go with `rows`, as the source wrote them; "" where the body is among `bodies`.
    `entries` are those of what is further evidence of one, by pk.
    """

    rows: Sequence[Point] = ()
    digits: Sequence[str] = ()
    measures: Mapping[int, Measure] = field(default_factory=dict)
    entries: Mapping[int, int] = field(default_factory=dict)
    bodies: Sequence[Record] = ()
    more: bool = False  # there are older ones
