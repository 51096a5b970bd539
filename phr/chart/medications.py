"""Medicines: what is listed as current, what is past, what stays unclear; doses as the source said.

Not here: whether somebody takes them. A list says what was listed, by whom and when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from phr.chart.book import Book, of_types, resource_name
from phr.chart.doses import dosages, dose_words, doses
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    code_as_words,
    concept_words,
    concepts_words,
    ended_before,
    joined,
    listing,
    mapping,
    mappings,
    moment_words,
    string,
)
from phr.chart.titles import medicine_words
from phr.fhir.record import Record

__all__ = ["GIVEN", "LISTED", "Medicine", "Standing", "dose_words", "doses", "medications"]

LISTED = ("MedicationRequest", "MedicationStatement", "MedicationOrder")  # the last in DSTU2
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
    evidence: Evidence = NO_EVIDENCE


def medications(
    records: Sequence[Record], now: datetime, how: How = PLAINLY
) -> tuple[Medicine, ...]:
    """Read every medicine, each told once, in the order given.

    Medication records only lend their names. What was handed out or given stays a single event.
    """
    book = Book(records)
    today = now.isoformat()[:10]
    found = entries(records, (*LISTED, *GIVEN), how)
    read = [_medicine(one, book, today) for one in of_types(records, *LISTED, *GIVEN)]
    return tuple(gathered(read, found, _speaks))


_RANKS = {Standing.CURRENT: 3, Standing.UNCLEAR: 2, Standing.PAST: 1, Standing.GIVEN: 0}


def _speaks(one: Medicine) -> tuple[int, float]:
    """Let what is listed as current speak, then the newest; a conflict says the rest."""
    when = one.record.when.timestamp() if one.record.when else float("-inf")
    return _RANKS[one.standing], when


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
    told = string(period.get("end")) or string(document.get("dateEnded"))
    if told:
        return told
    ends = [
        string(mapping(mapping(timing.get("repeat")).get("boundsPeriod")).get("end"))
        for dosage in dosages(document)
        for timing in (mapping(dosage.get("timing")),)
    ]
    return max(ends) if ends and all(ends) else ""


def _dated(document: Mapping[str, Any]) -> str:
    period = mapping(document.get("effectivePeriod"))
    fields = (
        "authoredOn",
        "dateWritten",
        "dateAsserted",
        "effectiveDateTime",
        "whenHandedOver",
        "whenPrepared",
    )
    for field in fields:
        if string(document.get(field)):
            return string(document.get(field))
    return string(period.get("start"))


def _by(record: Record, book: Book) -> str:
    document = record.document
    for field in ("requester", "prescriber", "informationSource", "recorder"):
        name = book.name(record, document.get(field))
        if name:
            return name
    performers = (mapping(one).get("actor") for one in listing(document.get("performer")))
    return joined(*(book.name(record, one) for one in performers))


def _reasons(record: Record, book: Book) -> tuple[str, ...]:
    document = record.document
    coded = concepts_words(document.get("reasonCode") or document.get("reasonCodeableConcept"))
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
