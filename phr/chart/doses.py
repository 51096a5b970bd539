"""Doses as the source gave them: its own text, else the structured parts in plain words."""

from collections.abc import Mapping
from typing import Any

from phr.chart.plain import (
    clip,
    concept_words,
    concepts_words,
    joined,
    listing,
    mapping,
    mappings,
    quantity_words,
    range_words,
    ratio_words,
    sentence_case,
    string,
)


def dosages(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the Dosage elements of a request, statement or dispense."""
    return mappings(document.get("dosageInstruction")) or mappings(document.get("dosage"))


def doses(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dose lines: the source's text, else its structured parts; never invented."""
    rendered = string(document.get("renderedDosageInstruction"))
    lines = [line for dosage in dosages(document) if (line := dose_words(dosage))]
    if not lines and rendered:
        return (clip(rendered, 300),)
    return tuple(dict.fromkeys(lines))


def dose_words(dosage: Mapping[str, Any]) -> str:
    """Return one Dosage (FHIR R4 §2.24.0.4) in words, "" where it holds nothing readable."""
    text = string(dosage.get("text"))
    patient = string(dosage.get("patientInstruction"))
    if text:
        return clip(joined(text, "" if patient == text else patient, by=". "), 300)
    amounts = [_amount(one) for one in mappings(dosage.get("doseAndRate"))] or [_amount(dosage)]
    parts = joined(
        *dict.fromkeys(amount for amount in amounts if amount),
        _timing(mapping(dosage.get("timing"))),
        _as_needed(dosage),
        concept_words(dosage.get("route")),
        *concepts_words(dosage.get("additionalInstruction")),
        _most(dosage),
    )
    return clip(sentence_case(joined(parts, patient, by=". ")), 300)


def _amount(part: Mapping[str, Any]) -> str:
    dose = quantity_words(part.get("doseQuantity") or part.get("dose")) or range_words(
        part.get("doseRange")
    )
    rate = (
        ratio_words(part.get("rateRatio"))
        or quantity_words(part.get("rateQuantity"))
        or range_words(part.get("rateRange"))
    )
    return joined(dose, f"at {rate}" if rate else "")


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
}
_DAYS = {"mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday"}
_DAYS |= {"fri": "Friday", "sat": "Saturday", "sun": "Sunday"}


def _timing(timing: Mapping[str, Any]) -> str:
    repeat = mapping(timing.get("repeat"))
    often = _often(repeat)
    events = [_EVENTS.get(string(one), string(one)) for one in listing(repeat.get("when"))]
    days = [_DAYS.get(string(one), string(one)) for one in listing(repeat.get("dayOfWeek"))]
    clock = [string(one)[:5] for one in listing(repeat.get("timeOfDay"))]
    words = joined(
        often,
        *events,
        f"on {joined(*days)}" if days else "",
        f"at {joined(*clock)}" if clock else "",
        _bounds(repeat),
    )
    return words or concept_words(timing.get("code"))


def _often(repeat: Mapping[str, Any]) -> str:
    """Return "2 times a day", "every 8 hours", "1 to 2 times every 4 to 6 hours"."""
    unit = string(repeat.get("periodUnit"))
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
    length = quantity_words(repeat.get("boundsDuration")) or range_words(repeat.get("boundsRange"))
    count = string(repeat.get("count"))
    return joined(f"for {length}" if length else "", f"{count} times in all" if count else "")


def _as_needed(dosage: Mapping[str, Any]) -> str:
    concept = dosage.get("asNeededCodeableConcept") or dosage.get("asNeededFor")
    reason = joined(*concepts_words(concept))
    if reason:
        return f"when needed for {reason}"
    return "when needed" if dosage.get("asNeededBoolean") is True else ""


def _most(dosage: Mapping[str, Any]) -> str:
    limits = [ratio_words(one) for one in mappings(dosage.get("maxDosePerPeriod"))]
    single = quantity_words(dosage.get("maxDosePerAdministration"))
    return joined(
        *(f"at most {limit}" for limit in limits if limit),
        f"at most {single} at once" if single else "",
    )
