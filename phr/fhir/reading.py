"""Readers that never raise: words, names, moments, quantities out of FHIR-shaped JSON.

They take what hospitals send, wrong shapes included, and answer None or "" for what is not there.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Final, NamedTuple

from phr.fhir.kinds import CATEGORIES, KINDS, category_bit

_FHIR_TIME = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d)?)?)?)?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_DAY_MS = 86_400_000
_OTHER = CATEGORIES["other"]
_TYPED_SYSTEMS: Final = (  # which coding speaks for a concept: the shared vocabularies first
    "http://loinc.org",
    "http://snomed.info/sct",
    "http://www.nlm.nih.gov/research/umls/rxnorm",
    "http://hl7.org/fhir/sid/cvx",
    "http://hl7.org/fhir/sid/icd-10-cm",
    "http://hl7.org/fhir/sid/icd-10",
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A FHIR date, dateTime, instant or Period.

    `text` is what was sent; `start` and `end` (inclusive) bound it in ms since 1970 and are None
    where the text is no real date. A time without a zone counts as UTC. `precision` is the number
    of parts given: 1 year, 2 month, 3 day, 5 minute, 6 second.
    """

    text: str
    start: int | None = None
    end: int | None = None
    precision: int = 0


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measured value as sent: `value` keeps its digits ("5.40"), `comparator` is "<", ">" ..."""

    value: str
    unit: str = ""
    comparator: str = ""
    code: str = ""
    system: str = ""

    def __str__(self) -> str:
        """Return "< 5.40 mmol/L"."""
        return " ".join(part for part in (self.comparator, self.value, self.unit) if part)


class Coding(NamedTuple):
    """One code of one vocabulary."""

    system: str
    code: str
    display: str = ""


# ---------------------------------------------------------------------------------- shapes


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is an object, its first object if it is a list, else an empty one."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return next((inner for inner in value if isinstance(inner, dict)), {})
    return {}


def listed(value: Any) -> list[Any]:
    """Return a list: the value itself, a single value in a list, or nothing."""
    if isinstance(value, list):
        return [inner for inner in value if inner is not None]
    return [] if value is None else [value]


def text(value: Any) -> str:
    """Return a string as it is, a number as sent, everything else as ""."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None or isinstance(value, (dict, list)):
        return ""
    return str(value)


def at(value: Any, path: str) -> list[Any]:
    """Return everything found at a dotted path, through lists."""
    found = listed(value)
    for name in path.split("."):
        found = [
            inner for outer in found if isinstance(outer, dict) for inner in listed(outer.get(name))
        ]
    return found


# ---------------------------------------------------------------------------------- words


def codings(value: Any) -> tuple[Coding, ...]:
    """Return the codings of a CodeableConcept (or a Coding, or a list of either), in order."""
    found = []
    for concept in listed(value):
        if isinstance(concept, dict):
            inner = concept.get("coding")
            found += [each for each in listed(inner) if isinstance(each, dict)]
            if inner is None and "code" in concept:
                found.append(concept)
    return tuple(
        Coding(text(each.get("system")), text(each.get("code")), text(each.get("display")))
        for each in found
    )


def text_of(value: Any) -> str:
    """Return what a CodeableConcept, Coding, Reference or string says, or ""."""
    for concept in listed(value):
        if isinstance(concept, str):
            return concept
        if not isinstance(concept, dict):
            continue
        for said in (
            concept.get("text"),
            concept.get("display"),
            *(coding.display for coding in codings(concept)),
            *(coding.code for coding in codings(concept)),
            mapping(concept.get("concept")).get("text"),
        ):
            if text(said).strip():
                return text(said)
    return ""


def preferred(value: Any) -> Coding | None:
    """Return the coding that speaks for a concept: a shared vocabulary's, else the first."""
    found = [coding for coding in codings(value) if coding.code]
    for system in _TYPED_SYSTEMS:
        for coding in found:
            if coding.system == system:
                return coding
    return found[0] if found else None


def name_of(value: Any) -> str:
    """Return a HumanName (or the best of several) as "Prefix Given Family Suffix", or ""."""
    names = [name for name in listed(value) if isinstance(name, (dict, str))]
    names.sort(key=_name_rank)
    for name in names:
        if isinstance(name, str):
            return name
        if text(name.get("text")).strip():
            return text(name["text"])
        parts = [
            text(part)
            for element in ("prefix", "given", "family", "suffix")
            for part in listed(name.get(element))
        ]
        if any(part.strip() for part in parts):
            return " ".join(part for part in parts if part.strip())
    return ""


def _name_rank(name: Any) -> int:
    use = name.get("use") if isinstance(name, dict) else None
    order = ("official", "usual", None)
    return order.index(use) if use in order else 9 if use == "old" else 3


def quantity(value: Any) -> Quantity | None:
    """Return a Quantity with its digits as sent, or None if there is no value."""
    found = mapping(value)
    number = found.get("value")
    if not text(number):
        return None
    return Quantity(
        text(number),
        text(found.get("unit")) or text(found.get("code")),
        text(found.get("comparator")),
        text(found.get("code")),
        text(found.get("system")),
    )


# ---------------------------------------------------------------------------------- moments


@lru_cache(maxsize=16384)
def moment(sent: str) -> Moment:
    """Read a FHIR date, dateTime or instant; impossible ones keep their text and sort nowhere."""
    match = _FHIR_TIME.fullmatch(sent)
    if match is None:
        return Moment(sent)
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    precision = sum(part is not None for part in (year, month, day, hour, minute, second))
    try:
        begin = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            tzinfo=_zone(zone),
        )
        start = (begin - _EPOCH) // _MS
        return Moment(sent, start, _end(begin, start, precision), precision)
    except (ValueError, OverflowError):
        return Moment(sent)


def _zone(sent: str | None) -> timezone:
    if sent is None or sent == "Z":
        return UTC
    hours, minutes = int(sent[1:3]), int(sent[4:6])
    if minutes > 59:
        raise ValueError
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if sent[0] == "-" else ahead)


def _end(begin: datetime, start: int, precision: int) -> int:
    """Return the last millisecond that a partial date may mean."""
    if precision == 1:
        return start + _DAY_MS * (366 if _leap(begin.year) else 365) - 1
    if precision == 2:
        following = begin.replace(day=28) + timedelta(days=4)
        days = (following - timedelta(days=following.day)).day
        return start + _DAY_MS * days - 1
    return start + {3: _DAY_MS, 5: 60_000}.get(precision, 1) - 1


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def period(value: Any) -> Moment | None:
    """Read a Period (or Timing with bounds or events); an open end has `end` None."""
    found = mapping(value)
    if "event" in found or "repeat" in found:
        events = [moment(text(event)) for event in listed(found.get("event")) if text(event)]
        return events[0] if events else period(mapping(found.get("repeat")).get("boundsPeriod"))
    first, last = text(found.get("start")), text(found.get("end"))
    if not first and not last:
        return None
    begin, finish = moment(first or last), moment(last)
    said = f"{first}/{last}" if first and last else first or last
    return Moment(said, begin.start, finish.end, begin.precision)


def moment_of(value: Any) -> Moment | None:
    """Read whatever stands for a time: a string, a Period, a Timing."""
    if isinstance(value, str):
        return moment(value) if value else None
    return period(value) if isinstance(value, (dict, list)) else None


def when(document: Mapping[str, Any]) -> Moment | None:
    """Return the clinically relevant moment of a resource by the date paths of its kind.

    The first path with a real date counts; with none, the first text that stands for one.
    """
    kind = KINDS.get(text(document.get("resourceType")))
    unreadable = None
    for path in kind.dates if kind else ():
        for value in at(document, path):
            found = moment_of(value)
            if found is not None and found.start is not None:
                return found
            unreadable = unreadable or found
    return unreadable


# ---------------------------------------------------------------------------------- the rest


def categories(document: Mapping[str, Any]) -> int:
    """Return the category bits of a resource; the same number as in `record.category`."""
    return category_bits(document.get("category"))


def category_bits(value: Any) -> int:
    """Return the bits of a `category` element; one that is only words counts as "other"."""
    bits = 0
    for concept in listed(value):
        found = codings(concept)
        codes = [coding.code for coding in found if coding.code]
        if isinstance(concept, str):
            codes = [concept]
        known = 0
        for code in codes:
            known |= category_bit(code)
        bits |= (known & ~_OTHER) or (_OTHER if concept else 0)
    return bits


def walk(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every object inside a JSON value, the value itself included, outermost first."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting.extend(reversed(list(found.values())))
        elif isinstance(found, list):
            waiting.extend(reversed(found))
