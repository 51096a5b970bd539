"""Medicines: what is listed as current, what is past, what stays unclear; doses as the source said.

Not here: whether somebody takes them. A list says what was listed, by whom and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from phr.chart.book import Book, of_types, resource_name
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    clip,
    code_as_words,
    concept_words,
    concepts_words,
    ended_before,
    joined,
    listing,
    mapping,
    mappings,
    moment_words,
    quantity_words,
    range_words,
    ratio_words,
    sentence_case,
    string,
)
from phr.chart.titles import medicine_words
from phr.fhir.record import Record

LISTED = ("MedicationRequest", "MedicationStatement")
GIVEN = ("MedicationDispense", "MedicationAdministration")


class Standing(StrEnum):
    """How a medicine is listed."""

    CURRENT = "current"
    UNCLEAR = "unclear"
    PAST = "past"
    GIVEN = "given"  # handed out or administered once


@dataclass(frozen=True, slots=True)
class Medicine:
    """One listed medicine. `doses` are plain lines from the source; empty: none was given."""

    record: Record
    name: str
    standing: Standing
    why: str  # why it stands where it stands, when that is not plain
    doses: tuple[str, ...]
    dated: str  # FHIR text: written, stated or given on
    by: str  # who wrote it
    reasons: tuple[str, ...]
    marks: Marks


def medications(records: Sequence[Record], now: datetime) -> tuple[Medicine, ...]:
    """Read every medicine record in the order given; Medication records only lend their names."""
    book = Book(records)
    today = now.isoformat()[:10]
    return tuple(_medicine(one, book, today) for one in of_types(records, *LISTED, *GIVEN))


def _medicine(record: Record, book: Book, today: str) -> Medicine:
    document = record.document
    found = marks(record)
    standing, why = _standing(record, today, found)
    return Medicine(
        record=record,
        name=_name(record, book) or "Medicine without a name",
        standing=standing,
        why=why,
        doses=doses(document),
        dated=_dated(document),
        by=_by(record, book),
        reasons=_reasons(record, book),
        marks=found,
    )


def _name(record: Record, book: Book) -> str:
    """Return the name: as the record says, else as the Medication it points to says."""
    document = record.document
    named = medicine_words(document)
    if named:
        return named
    reference = mapping(document.get("medicationReference")) or mapping(
        mapping(document.get("medication")).get("reference")
    )
    target = book.document(record, reference)
    if not target:
        return book.name(record, reference)
    ingredients = (
        concept_words(one.get("itemCodeableConcept")) for one in mappings(target.get("ingredient"))
    )
    return resource_name(target) or joined(*ingredients)


_PAST = frozenset({"completed", "stopped", "cancelled", "not-taken", "not-done", "declined"})


def _standing(record: Record, today: str, found: Marks) -> tuple[Standing, str]:
    """Return the standing by status and period (FHIR R4 MedicationRequest and -Statement)."""
    document = record.document
    status = string(document.get("status"))
    if record.type in GIVEN:
        return Standing.GIVEN, "" if status in ("completed", "") else code_as_words(status)
    if found.mistaken:
        return Standing.PAST, ""
    if status in _PAST:
        return Standing.PAST, code_as_words(status)
    doubt = "" if found.withdrawn else _doubt(document, status, today)
    unclear = found.withdrawn or doubt
    return (Standing.UNCLEAR if unclear else Standing.CURRENT), doubt


def _doubt(document: Mapping[str, Any], status: str, today: str) -> str:
    """Return why a medicine that is not past cannot be called current, or ""."""
    if status != "active":
        return _unclear_status(status)
    end = _end(document)
    if end and ended_before(end, today):
        return f"listed as active, but its end was {moment_words(end)}"
    intent = string(document.get("intent"))
    return f"a {intent}, not an order" if intent in ("proposal", "plan") else ""


def _unclear_status(status: str) -> str:
    known = {
        "on-hold": "on hold",
        "draft": "a draft",
        "intended": "intended, not started",
        "unknown": "status unknown",
        "": "no status given",
    }
    return known.get(status, f"status: {code_as_words(status)}")


def _end(document: Mapping[str, Any]) -> str:
    """Return where the source says that the listing ends, as FHIR text."""
    period = mapping(document.get("effectivePeriod"))
    if string(period.get("end")):
        return string(period.get("end"))
    ends = [
        string(mapping(mapping(timing.get("repeat")).get("boundsPeriod")).get("end"))
        for dosage in _dosages(document)
        for timing in (mapping(dosage.get("timing")),)
    ]
    return max(ends) if ends and all(ends) else ""


def _dated(document: Mapping[str, Any]) -> str:
    period = mapping(document.get("effectivePeriod"))
    fields = ("authoredOn", "dateAsserted", "effectiveDateTime", "whenHandedOver", "whenPrepared")
    for field in fields:
        if string(document.get(field)):
            return string(document.get(field))
    return string(period.get("start"))


def _by(record: Record, book: Book) -> str:
    document = record.document
    for field in ("requester", "informationSource", "recorder"):
        name = book.name(record, document.get(field))
        if name:
            return name
    performers = (mapping(one).get("actor") for one in listing(document.get("performer")))
    return joined(*(book.name(record, one) for one in performers))


def _reasons(record: Record, book: Book) -> tuple[str, ...]:
    document = record.document
    coded = concepts_words(document.get("reasonCode"))
    pointed = tuple(
        words
        for one in mappings(document.get("reasonReference"))
        if (words := _pointed(record, book, one))
    )
    return tuple(dict.fromkeys((*coded, *pointed)))


def _pointed(record: Record, book: Book, reference: Mapping[str, Any]) -> str:
    return book.name(record, reference) or concept_words(
        book.document(record, reference).get("code")
    )


# ------------------------------------------------------------------------------------ dose


def _dosages(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return mappings(document.get("dosageInstruction")) or mappings(document.get("dosage"))


def doses(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dose lines: the source's text, else its structured parts; never invented."""
    rendered = string(document.get("renderedDosageInstruction"))
    lines = [line for dosage in _dosages(document) if (line := dose_words(dosage))]
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
