"""Foreign JSON values in plain words, with the digits and the precision the source gave.

Nothing here raises, whatever the shape: a value of the wrong type reads as absent.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from phr.chart import hl7, vaccines
from phr.fhir.record import once

MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NOTHING: Mapping[str, Any] = {}
_LONGEST_NAME = 1000  # characters of a name in words; the record's own page has the whole text
_DEEPEST = 24  # levels of our own walks; the parser refuses more than 64

_MOMENT = re.compile(
    r"(\d{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01])"
    r"(?:T(\d\d:\d\d)(:\d\d(?:\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?)?)?",
    re.ASCII,
)

# Short names of code systems, for "Code 1234-5 (LOINC)".
SYSTEMS = {
    "http://loinc.org": "LOINC",
    "http://snomed.info/sct": "SNOMED CT",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "RxNorm",
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD-10-CM",
    "http://hl7.org/fhir/sid/icd-10": "ICD-10",
    "http://hl7.org/fhir/sid/icd-9-cm": "ICD-9-CM",
    "http://hl7.org/fhir/sid/cvx": "CVX",
    "http://hl7.org/fhir/sid/ndc": "NDC",
    "http://hl7.org/fhir/sid/us-npi": "NPI",
    "http://hl7.org/fhir/sid/us-ssn": "SSN",
    "http://www.ama-assn.org/go/cpt": "CPT",
    "http://www.whocc.no/atc": "ATC",
    "http://unitsofmeasure.org": "UCUM",
    "urn:oid:2.16.840.1.113883.6.238": "CDC race and ethnicity",
    "urn:oid:2.16.840.1.113883.6.96": "SNOMED CT",
    "urn:oid:2.16.840.1.113883.6.1": "LOINC",
    "urn:oid:2.16.840.1.113883.6.88": "RxNorm",
    "urn:oid:2.16.840.1.113883.6.90": "ICD-10-CM",
}

# UCUM spellings that people do not read; the meaning is the same, no value is converted.
UNITS = {
    "mm[Hg]": "mmHg",
    "[degF]": "°F",
    "Cel": "°C",
    "kg/m2": "kg/m²",
    "/min": "per minute",
    "[lb_av]": "lb",
    "[in_i]": "in",
    "[in_us]": "in (US)",
    "{score}": "points",
    "1": "",
}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def listing(value: Any) -> list[Any]:
    """Return a JSON array as it is, nothing as [], a lone value as a list of one."""
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON array (or the lone object); other members are left out."""
    return [one for one in listing(value) if isinstance(one, dict)]


def string(value: Any) -> str:
    """Return text without outer space; a number as its source digits; anything else as ""."""
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else digits(value)


def digits(value: Any) -> str:
    """Return a JSON number exactly as the source wrote it; "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal, float)):
        return ""
    try:
        return str(value)
    except ValueError:  # an integer beyond the interpreter's limit of digits
        return ""


def number(value: Any) -> float | None:
    """Return a finite float for drawing only, or None. What is shown comes from `digits`."""
    try:
        drawn = float(digits(value) or "nan")
    except (ValueError, OverflowError):
        return None
    return drawn if abs(drawn) < 1e15 else None  # also False for NaN


def clip(text: str, limit: int = 240) -> str:
    """Shorten a text for a list; the record's own page has all of it."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


# What changes the order of letters or takes no room: it could make a text read as another one.
# Joiners and single direction marks stay: scripts and emoji need them, they turn nothing around.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u206f\ufeff]")


def visible(value: Any) -> Any:
    """Return a text with its invisible controls as signs, "[U+202E]"; all else as it is.

    Every template passes what it prints through this (security.md C6); received bytes stay.
    """
    if type(value) is not str or value.isprintable():  # Markup is ours, of parts seen before
        return value
    return _UNSEEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", value)


def joined(*parts: str, by: str = ", ") -> str:
    """Join the parts that say something."""
    return by.join(part for part in parts if part)


# ------------------------------------------------------------------------------------ codes


def coding_words(coding: Mapping[str, Any]) -> str:
    """Return a Coding's display, a bundled word for its code, else "Code 1234-5 (LOINC)"."""
    shown = string(coding.get("display"))
    if shown:
        return shown
    code, named = string(coding.get("code")), string(coding.get("system"))
    if not code:
        return ""
    if words := hl7.words(named, code) or vaccines.words(named, code):
        return words
    system = system_words(named)
    return f"Code {code} ({system})" if system else f"Code {code}"


def system_words(system: str) -> str:
    """Return the short name of a code system, its last path segment, or ""."""
    known = SYSTEMS.get(system)
    if known is not None or not system:
        return known or ""
    return clip(re.split(r"[/:]", system.rstrip("/:"))[-1], 40)


def concept_words(value: Any) -> str:
    """Return a CodeableConcept in words: its text, a coding's display, or the bare code.

    What the patient calls it goes between its text and a display (`phr.chart.remarks.labelled`).
    A Coding, a CodeableReference (R5) and a plain string are read as well.
    """
    return clip(_concept_words(value), _LONGEST_NAME)


def _concept_words(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    concept = mapping(value)
    if not concept and isinstance(value, list):
        concept = next(iter(mappings(value)), _NOTHING)
    text = concept.get("text")
    if text and (words := string(text)):
        return words
    codings = mappings(concept.get("coding"))
    if len(codings) > 1:  # R4 §2.24.0.6: the one that a person picked goes first
        codings = sorted(codings, key=lambda one: one.get("userSelected") is not True)
    for coding in codings:
        shown = string(coding.get("display"))
        if shown:
            return shown
    for coding in codings:
        words = coding_words(coding)
        if words:
            return words
    if "concept" in concept:
        return concept_words(mapping(concept["concept"]))
    return coding_words(concept)


def concepts_words(value: Any) -> tuple[str, ...]:
    """Return each concept of a list in words, without repeats."""
    return tuple(dict.fromkeys(words for one in listing(value) if (words := concept_words(one))))


def codes(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (system, code) of every coding of one or many CodeableConcepts."""
    for concept in mappings(value):
        yield from once(_codes, concept)


def _codes(concept: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    listed = [
        (string(one.get("system")), string(one.get("code")))
        for one in mappings(concept.get("coding"))
    ]
    return tuple(pair for pair in listed if pair[1])


def code_of(value: Any) -> str:
    """Return the first bare code of a CodeableConcept, Coding or code string, lower case."""
    return value.strip().lower() if isinstance(value, str) else once(_code_of, value)


def _code_of(value: Any) -> str:
    for _, code in codes(value):
        return code.lower()
    return string(mapping(value).get("code")).lower()


# ------------------------------------------------------------------------------------ time


def moment_words(value: Any) -> str:
    """Return a FHIR date, dateTime or instant with its own precision and clock.

    "2026" · "Nov 2026" · "19 Nov 2026" · "19 Nov 2026, 08:20" · "…, 13:20 UTC". A time is the
    source's local time unless marked UTC. What is not a date stays as it was written.
    """
    return _moment(string(value)) if value is not None else ""


@lru_cache(maxsize=4096)
def _moment(text: str) -> str:
    match = _MOMENT.fullmatch(text)
    if match is None:
        return clip(text, 60)
    year, month, day, clock, _, zone = match.groups()
    if month is None:
        return str(year)
    name = MONTHS[int(month)]
    if day is None:
        return f"{name} {year}"
    if clock is None:
        return f"{int(day)} {name} {year}"
    return f"{int(day)} {name} {year}, {clock}{' UTC' if zone == 'Z' else ''}"


def exact_words(value: Any) -> str | None:
    """Return a date or time with seconds and zone, as much as was sent; None if it is neither."""
    match = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[3] is None:
        return None
    seconds, zone = match[5] or "", match[6] or ""
    tail = " UTC" if zone == "Z" else f" (UTC{zone})" if zone else ""
    return f"{_moment(value.removesuffix('Z'))}{seconds}{tail}"


def is_moment(value: Any) -> bool:
    """Say whether a text is a FHIR date, dateTime or instant, however precise."""
    return _MOMENT.fullmatch(string(value)) is not None


def day_words(value: Any) -> str:
    """Return only the day of a moment ("19 Nov 2026"), for a heading above exact times."""
    return moment_words(string(value).partition("T")[0])


def period_words(value: Any) -> str:
    """Return a Period: "A to B", "since A", "until B", or ""."""
    period = mapping(value)
    start, end = moment_words(period.get("start")), moment_words(period.get("end"))
    if start and end:
        return start if start == end else f"{start} to {end}"
    if start:
        return f"since {start}"
    return f"until {end}" if end else ""


def ended_before(value: Any, now_text: str) -> bool:
    """Say whether a FHIR date text lies before `now_text` (ISO, UTC), as far as it is precise."""
    text = string(value)
    return bool(_MOMENT.fullmatch(text)) and text[:10] < now_text[: len(text[:10])]


# ------------------------------------------------------------------------------------ amounts


def unit_words(quantity: Mapping[str, Any]) -> str:
    """Return the unit a source gave, in the spelling people read."""
    unit = string(quantity.get("unit")) or string(quantity.get("code"))
    return UNITS.get(unit, unit)


def quantity_digits(value: Any) -> str:
    """Return comparator and digits of a Quantity: "5.40", "< 0.1", or ""."""
    quantity = mapping(value)
    figure = string(quantity.get("value"))
    comparator = string(quantity.get("comparator"))
    return f"{comparator} {figure}" if figure and comparator else figure


def quantity_words(value: Any) -> str:
    """Return a Quantity, Money or SimpleQuantity: "5.40 mmol/L"."""
    quantity = mapping(value)
    if "currency" in quantity:
        return joined(string(quantity.get("value")), string(quantity.get("currency")), by=" ")
    return joined(quantity_digits(quantity), unit_words(quantity), by=" ")


_TIMES: Final = {
    "s": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "wk": "week",
    "mo": "month",
    "a": "year",
}


def time_words(value: Any) -> str:
    """Return an Age or Duration: "3 years" for 3 a (UCUM); a unit in words stays as it is."""
    quantity = mapping(value)
    return joined(quantity_digits(quantity), _time_unit(quantity), by=" ")


def time_range_words(value: Any) -> str:
    """Return a Range of ages or durations: "20 to 30 years"."""
    span = mapping(value)
    sides = {
        side: {**one, "unit": _time_unit({**one, "value": "2"})}
        for side in ("low", "high")
        if (one := mapping(span.get(side)))
    }
    return range_words(sides)


def _time_unit(quantity: Mapping[str, Any]) -> str:
    unit = unit_words(quantity)
    known = _TIMES.get(unit)
    if known is None:
        return unit
    return known if string(quantity.get("value")) == "1" else f"{known}s"


def range_words(value: Any) -> str:
    """Return a Range: "15 to 150 µg/L", "from 15", "up to 150", or ""."""
    span = mapping(value)
    low, high = mapping(span.get("low")), mapping(span.get("high"))
    unit = unit_words(high) or unit_words(low)
    start, end = quantity_digits(low), quantity_digits(high)
    if start and end:
        return joined(f"{start} to {end}", unit, by=" ")
    if start:
        return joined(f"from {start}", unit, by=" ")
    return joined(f"up to {end}", unit, by=" ") if end else ""


def ratio_words(value: Any) -> str:
    """Return a Ratio: "1 : 128" for titres, "250 mg per 5 mL" where units are given."""
    ratio = mapping(value)
    upper, lower = mapping(ratio.get("numerator")), mapping(ratio.get("denominator"))
    above, below = quantity_words(upper), quantity_words(lower)
    if not above or not below:
        return above or below
    if unit_words(upper) or unit_words(lower):
        return f"{above} per {below}"
    return f"{above} : {below}"


# ------------------------------------------------------------------------------------ people


def name_words(value: Any) -> str:
    """Return a HumanName; of several the official, then the usual, then the first one."""
    names = mappings(value)
    if not names:
        return value.strip() if isinstance(value, str) else ""
    for use in ("official", "usual"):
        for name in names:
            if name.get("use") == use and (words := _one_name(name)):
                return words
    return next((words for name in names if (words := _one_name(name))), "")


def _one_name(name: Mapping[str, Any]) -> str:
    text = string(name.get("text"))
    if text:
        return text
    parts = [
        *listing(name.get("prefix")),
        *listing(name.get("given")),
        *listing(name.get("family")),  # DSTU2 has a list
        *listing(name.get("suffix")),
    ]
    return joined(*(string(part) for part in parts), by=" ")


def address_words(value: Any) -> str:
    """Return an Address on one line."""
    address = next(iter(mappings(value)), _NOTHING)
    text = string(address.get("text"))
    if text:
        return " ".join(text.split())
    lines = [string(line) for line in listing(address.get("line"))]
    town = joined(string(address.get("postalCode")), string(address.get("city")), by=" ")
    return joined(*lines, town, string(address.get("state")), string(address.get("country")))


def contacts(value: Any) -> tuple[tuple[str, str], ...]:
    """Return (system, value) of each ContactPoint that has a value and is not marked old."""
    return tuple(
        (string(point.get("system")), string(point.get("value")))
        for point in mappings(value)
        if string(point.get("value")) and point.get("use") != "old"
    )


# ------------------------------------------------------------------------------------ words


def code_as_words(code: str) -> str:
    """Turn a FHIR code into words: "entered-in-error" to "entered in error"."""
    return code.replace("-", " ").replace("_", " ")


def sentence_case(text: str) -> str:
    """Raise the first letter; the rest stays as the source wrote it."""
    return text[:1].upper() + text[1:]


def counted(count: int, one: str, many: str = "") -> str:
    """Return "1 result", "2 results", "1,204 results"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def size_words(size: int) -> str:
    """Return a number of bytes as people read it: "640 bytes", "36 kB", "1.4 MB", "12 GB"."""
    if size < 1000:
        return counted(size, "byte")
    value, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "kB" else f"{value:,.0f} {unit}"


def safe_depth(depth: int) -> bool:
    """Say whether a recursive walk may go one level deeper."""
    return depth < _DEEPEST
