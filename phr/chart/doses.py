"""Doses as the source gave them: its own text, else the structured parts in plain words.

Read are the Dosage and Timing of R4 and R5, and their older names (STU3, DSTU2).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from phr.chart.plain import (
    clip,
    codes,
    concept_words,
    concepts_words,
    joined,
    listing,
    mapping,
    mappings,
    moment_words,
    number,
    period_words,
    quantity_words,
    range_words,
    ratio_words,
    sentence_case,
    string,
    time_range_words,
    time_words,
)

_NUMBER: Final = re.compile(r"\d+(?:,\d+)*(?:\.\d+)?")
_WITH_UNIT: Final = re.compile(
    r"\d\s*-?(mcg|ug|[µμ]g|micrograms?|mg|milligrams?|ml|milliliters?|g|grams?|units?|iu|meq|mmol)\b",
    re.IGNORECASE,
)
_UNITS: Final = {
    "mcg": "ug",
    "microgram": "ug",
    "milligram": "mg",
    "milliliter": "ml",
    "gram": "g",
    "iu": "unit",
    "[iu]": "unit",
}


def dosages(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the Dosage elements of a request, statement or dispense."""
    return mappings(document.get("dosageInstruction")) or mappings(document.get("dosage"))


def doses(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dose lines: the source's text, else its structured parts; never invented."""
    rendered = string(document.get("renderedDosageInstruction"))
    given = sorted(dosages(document), key=_place)
    told = [(_place(one), line) for one in given if (line := dose_words(one))]
    if not told and rendered:
        return (clip(rendered, _LONGEST),)
    if len({place for place, _ in told}) > 1:  # one after the other (R4 Dosage.sequence)
        first = told[0][0]
        lines = [f"{'First' if place == first else 'Then'}: {line}" for place, line in told]
        return tuple(lines)
    return tuple(dict.fromkeys(line for _, line in told))


def _place(dosage: Mapping[str, Any]) -> float:
    """Return the place of a step; those without one are taken as they stand."""
    return number(dosage.get("sequence")) or 0.0


def dose_words(dosage: Mapping[str, Any]) -> str:
    """Return one Dosage (FHIR R4 §2.24.0.4) in words, "" where it holds nothing readable."""
    text = string(dosage.get("text"))
    patient = string(dosage.get("patientInstruction"))
    if text:
        told = joined(text, "" if patient == text else patient, by=". ")
        return clip(joined(told, _otherwise(dosage, told), by=" "), _LONGEST)
    parts = joined(
        _amounts(dosage),
        _timing(mapping(dosage.get("timing"))),
        _as_needed(dosage),
        concept_words(dosage.get("route")),
        concept_words(dosage.get("method")),
        concept_words(dosage.get("site") or dosage.get("siteCodeableConcept")),
        *concepts_words(dosage.get("additionalInstruction")),
        concept_words(dosage.get("additionalInstructions")),
        _most(dosage),
    )
    return clip(sentence_case(joined(parts, patient, by=". ")), _LONGEST)


def _otherwise(dosage: Mapping[str, Any], told: str) -> str:
    """Return the coded dose where the text names amounts in its unit and not this one.

    A source that says "5 mg" in words and codes 50 mg contradicts itself: both are told.
    """
    said = {figure for each in _NUMBER.findall(told) for figure in _figures(each)}
    for one in (*mappings(dosage.get("doseAndRate")), dosage):
        dose = mapping(one.get("doseQuantity"))
        amount, unit = (
            number(dose.get("value")),
            _unit(string(dose.get("unit")) or dose.get("code")),
        )
        named = {_unit(each) for each in _WITH_UNIT.findall(told)}
        if amount is not None and unit in named and amount not in said:
            return f"(Coded by the source as {quantity_words(dose)}.)"
    return ""


def _figures(written: str) -> set[float]:
    """Return what a number may mean: "1,000" is a thousand to some and one to others."""
    plain = written.replace(",", "")
    decimal = written.replace(",", ".")
    return {float(plain)} | ({float(decimal)} if decimal.count(".") < 2 else set())


def _unit(name: Any) -> str:
    """Return one spelling of a unit of doses."""
    plain = string(name).casefold().rstrip("s").replace("µ", "u").replace("μ", "u")
    return _UNITS.get(plain, plain)


def _amounts(dosage: Mapping[str, Any]) -> str:
    """Return the dose; where several are given, each with its kind ("ordered", "calculated")."""
    given = mappings(dosage.get("doseAndRate"))
    told = [(concept_words(one.get("type")), _amount(one)) for one in given]
    told = [one for one in dict.fromkeys(told) if one[1]]
    if len({amount for _, amount in told}) > 1:
        return joined(*(joined(kind.lower(), amount, by=": ") for kind, amount in told), by="; ")
    return told[0][1] if told else _amount(dosage)


def _amount(part: Mapping[str, Any]) -> str:
    dose = quantity_words(part.get("doseQuantity") or part.get("dose")) or range_words(
        part.get("doseRange")
    )
    rate = (
        _ratio(part.get("rateRatio"))
        or quantity_words(part.get("rateQuantity"))
        or range_words(part.get("rateRange"))
    )
    return joined(dose, f"at {rate}" if rate else "")


def _ratio(value: Any) -> str:
    """Return an amount in a time: "8 puffs a day", "5 mL in 12 h"; else the ratio as it is."""
    ratio = mapping(value)
    above, time = quantity_words(ratio.get("numerator")), mapping(ratio.get("denominator"))
    unit = string(time.get("code")) or string(time.get("unit"))
    name = _PERIODS.get(unit) or (unit if unit in _PERIODS.values() else "")
    if not above or not name:
        return ratio_words(value)
    length = string(time.get("value"))
    if length in ("", "1"):
        return f"{above} {'an' if name == 'hour' else 'a'} {name}"
    return f"{above} in {length} {name}s"


_LONGEST = 600  # characters of one line; the record's own page has all of it
_PERIODS = {"s": "second", "min": "minute", "h": "hour", "d": "day", "wk": "week"}
_PERIODS |= {"mo": "month", "a": "year"}
_EVENTS = {
    "MORN": "in the morning",
    "AFT": "in the afternoon",
    "EVE": "in the evening",
    "NIGHT": "at night",
    "HS": "at bedtime",
    "WAKE": "on waking",
    "AC": "before meals",
    "PC": "after meals",
    "C": "with meals",
    "ACM": "before breakfast",
    "ACD": "before lunch",
    "ACV": "before dinner",
    "PCM": "after breakfast",
    "PCD": "after lunch",
    "PCV": "after dinner",
    "CM": "with breakfast",
    "CD": "with lunch",
    "CV": "with dinner",
    "CDIN": "with dinner",
    "MORN.early": "early in the morning",
    "MORN.late": "late in the morning",
    "NOON": "at noon",
    "AFT.early": "early in the afternoon",
    "AFT.late": "late in the afternoon",
    "EVE.early": "early in the evening",
    "EVE.late": "late in the evening",
    "PHS": "after bedtime",
    "IMD": "at once",
}
# HL7 v3 GTSAbbreviation, for a code that comes without words.
_CODES = {
    "BID": "2 times a day",
    "TID": "3 times a day",
    "QID": "4 times a day",
    "QD": "every day",
    "QOD": "every other day",
    "AM": "every morning",
    "PM": "every afternoon",
    "BED": "at bedtime",
    "WK": "weekly",
    "MO": "monthly",
    "Q1H": "every hour",
    "Q2H": "every 2 hours",
    "Q3H": "every 3 hours",
    "Q4H": "every 4 hours",
    "Q6H": "every 6 hours",
    "Q8H": "every 8 hours",
}
_DAYS = {"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday"}
_DAYS |= {"fri": "Friday", "sat": "Saturday", "sun": "Sunday"}


def _timing(timing: Mapping[str, Any]) -> str:
    repeat = mapping(timing.get("repeat"))
    often = _often(repeat)
    events = [_event(repeat, string(one)) for one in listing(repeat.get("when"))]
    days = [_DAYS.get(string(one), string(one)) for one in listing(repeat.get("dayOfWeek"))]
    clock = [string(one)[:5] for one in listing(repeat.get("timeOfDay"))]
    words = joined(
        often,
        *events,
        f"on {joined(*days)}" if days else "",
        f"at {joined(*clock)}" if clock else "",
        _lasting(repeat),
        _bounds(repeat),
    )
    moments = [moment_words(one) for one in listing(timing.get("event"))]
    given = joined(words, f"on {joined(*moments)}" if moments else "")
    return given or _coded(timing.get("code"))


def _coded(value: Any) -> str:
    """Return a Timing.code: the source's words, else what its abbreviation means."""
    concept = mapping(value)
    worded = string(concept.get("text")) or any(
        string(one.get("display")) for one in mappings(concept.get("coding"))
    )
    known = (_CODES.get(code) for _, code in codes(value))
    found = None if worded else next(filter(None, known), None)
    return found or concept_words(value)


def _event(repeat: Mapping[str, Any], code: str) -> str:
    """Return an event of the day, "30 minutes before meals" where an offset is given."""
    words = _EVENTS.get(code, code)
    offset = string(repeat.get("offset"))
    return f"{offset} minutes {words}" if offset not in ("", "0") else words


def _lasting(repeat: Mapping[str, Any]) -> str:
    """Return how long one dose lasts: "over 30 minutes"."""
    length = _span(repeat, "duration")
    unit = string(repeat.get("durationUnit")) or string(repeat.get("durationUnits"))
    return f"over {length} {_many(_PERIODS.get(unit, unit), length)}" if length else ""


def _many(name: str, count: str) -> str:
    return name if count == "1" else f"{name}s"


def _often(repeat: Mapping[str, Any]) -> str:
    """Return "2 times a day", "every 8 hours", "1 to 2 times every 4 to 6 hours"."""
    unit = string(repeat.get("periodUnit")) or string(repeat.get("periodUnits"))
    period = string(repeat.get("period"))
    if not unit or not period:
        return ""
    name = _PERIODS.get(unit, unit)
    times = _span(repeat, "frequency") or "1"
    length = _span(repeat, "period")
    if length == "1":
        return f"once a {name}" if times == "1" else f"{times} times a {name}"
    every = f"every {length} {name}s"
    return every if times == "1" else f"{times} times {every}"


def _span(repeat: Mapping[str, Any], field: str) -> str:
    low, high = string(repeat.get(field)), string(repeat.get(f"{field}Max"))
    return f"{low} to {high}" if low and high and low != high else low


def _bounds(repeat: Mapping[str, Any]) -> str:
    length = time_words(repeat.get("boundsDuration")) or time_range_words(repeat.get("boundsRange"))
    count = _span(repeat, "count")
    return joined(
        f"for {length}" if length else "",
        period_words(repeat.get("boundsPeriod")),
        f"{count} {_many('time', count)} in all" if count else "",
    )


def _as_needed(dosage: Mapping[str, Any]) -> str:
    concept = dosage.get("asNeededCodeableConcept") or dosage.get("asNeededFor")
    reason = joined(*concepts_words(concept))
    if reason:
        return f"when needed for {reason}"
    plain = True in (dosage.get("asNeededBoolean"), dosage.get("asNeeded"))
    return "when needed" if plain else ""


def _most(dosage: Mapping[str, Any]) -> str:
    limits = [_ratio(one) for one in mappings(dosage.get("maxDosePerPeriod"))]
    single = quantity_words(dosage.get("maxDosePerAdministration"))
    ever = quantity_words(dosage.get("maxDosePerLifetime"))
    return joined(
        *(f"at most {limit}" for limit in limits if limit),
        f"at most {single} at once" if single else "",
        f"at most {ever} in a lifetime" if ever else "",
    )
