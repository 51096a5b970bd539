"""Medicines: what is listed as current, what is past, what stays unclear; doses as the source said.

Not here: whether somebody takes them. A list says what was listed, by whom and when. The rules,
each with its reason, are docs/decisions/0035.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from phr.chart.book import Book, of_types, resource_name
from phr.chart.doses import dosages, dose_words, doses
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    code_as_words,
    code_of,
    concept_words,
    concepts_words,
    ended_before,
    is_moment,
    joined,
    listing,
    mapping,
    mappings,
    moment_words,
    number,
    quantity_words,
    string,
    time_words,
)
from phr.chart.statements import is_of_the_list
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
    SAID = "said"  # no medicine: a statement that there are none, or that nobody knows


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
    handed: tuple[str, str] = ("", "")  # the last hand-out under it: FHIR text, and for how long


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
    by_pk = {one.record.pk: one for one in read}
    handed = _handed(records, book)
    return tuple(
        _with_hand_out(_with_dose(_with_denial(one, by_pk), by_pk), handed)
        for one in gathered(read, found, _speaks)
    )


def _with_denial(one: Medicine, by_pk: Mapping[int, Medicine]) -> Medicine:
    """Put what is listed as current, and since then stated as not taken, under what is unclear."""
    if one.standing is not Standing.CURRENT or len(one.evidence.records) < 2:
        return one
    told = (by_pk[record.pk] for record in one.evidence.records if record.pk in by_pk)
    denials = [each for each in told if _denies(each.record.document)]
    listed = _time(one.record)
    newest = max(denials, key=lambda each: _time(each.record), default=None)
    if newest is None or newest.marks.withdrawn or _time(newest.record) < listed:
        return one
    day = moment_words(newest.dated.partition("T")[0])
    by = "the patient said" if _by_patient(newest.record.document) else "another list says"
    why = joined(f"listed as active; {by}", f"on {day}" if day else "", "it is not taken", by=" ")
    return replace(one, standing=Standing.UNCLEAR, why=why)


def _with_dose(one: Medicine, by_pk: Mapping[int, Medicine]) -> Medicine:
    """Give one without a dose that of its newest other record that has one, and say so."""
    if one.doses or one.standing is Standing.GIVEN:
        return one
    told = (by_pk[record.pk] for record in one.evidence.records if record.pk in by_pk)
    others = [each for each in told if each.doses and not each.marks.mistaken]
    if not others:
        return one
    other = max(others, key=lambda each: (each.standing is not Standing.PAST, _time(each.record)))
    day = moment_words(other.dated.partition("T")[0])
    said = joined("as another record", f"of {day}" if day else "", "of it says", by=" ")
    return replace(one, doses=tuple(f"{line} ({said})" for line in other.doses))


def _denies(document: Mapping[str, Any]) -> bool:
    """Say whether a statement says that the medicine is not taken (R4; STU3; DSTU2; R5)."""
    if string(document.get("status")) == "entered-in-error":
        return False
    return (
        string(document.get("status")) == "not-taken"
        or string(document.get("taken")) == "n"
        or document.get("wasNotTaken") is True
        or code_of(mapping(document.get("adherence")).get("code")).startswith("not-taking")
    )


def _by_patient(document: Mapping[str, Any]) -> bool:
    told = string(mapping(document.get("informationSource")).get("reference"))
    return told.split("/")[-2:-1] == ["Patient"]


def _time(record: Record) -> float:
    return record.when.timestamp() if record.when else float("-inf")


def _handed(records: Sequence[Record], book: Book) -> dict[int, tuple[str, str]]:
    """Return, by the pk of the order, when it was last handed out and for how long."""
    found: dict[int, tuple[str, str]] = {}
    dispenses = of_types(records, "MedicationDispense")
    for dispense in sorted(dispenses, key=_time):
        document = dispense.document
        status = string(document.get("status"))
        day = string(document.get("whenHandedOver")) or string(document.get("whenPrepared"))
        if not day or status not in ("completed", ""):
            continue
        for reference in mappings(document.get("authorizingPrescription")):
            order = book.find(dispense, reference)
            if order is not None:
                found[order.pk] = day, quantity_words(document.get("daysSupply"))
    return found


def _with_hand_out(one: Medicine, handed: Mapping[int, tuple[str, str]]) -> Medicine:
    records = one.evidence.records or (one.record,)
    told = [handed[record.pk] for record in records if record.pk in handed]
    return replace(one, handed=max(told)) if told else one


_RANKS = {
    Standing.CURRENT: 3,
    Standing.SAID: 3,
    Standing.UNCLEAR: 2,
    Standing.PAST: 1,
    Standing.GIVEN: 0,
}


def _speaks(one: Medicine) -> tuple[int, float]:
    """Let what is listed as current speak, then the newest; a conflict says the rest."""
    return _RANKS[one.standing], _time(one.record)


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
    if status in _PAST or _denies(document):
        return Standing.PAST, code_as_words(status if status in _PAST else "not-taken")
    concept = document.get("medicationCodeableConcept") or document.get("medication")
    if is_of_the_list(concept):  # what is taken back states nothing now
        return (Standing.PAST if found.withdrawn else Standing.SAID), ""
    doubt = "" if found.withdrawn else _doubt(document, status, today)
    dated = _dated(document)
    if not doubt and (found.ahead or (dated and not is_moment(dated))):
        doubt = f"listed as active, but dated {moment_words(dated)}"
    unclear = found.withdrawn or doubt
    return (Standing.UNCLEAR if unclear else Standing.CURRENT), doubt


def _doubt(document: Mapping[str, Any], status: str, today: str) -> str:
    """Return why a medicine that is not past cannot be called current, or ""."""
    if document.get("doNotPerform") is True:
        return "an order not to give it"
    if status != "active" and not _taking(document, status):
        return _unclear_status(status)
    end = _end(document)
    if end and ended_before(end, today):
        return f"listed as active, but its end was {moment_words(end)}"
    start = string(mapping(document.get("effectivePeriod")).get("start"))
    if ended_before(start, "9999") and ended_before(today, start):
        return f"it begins on {moment_words(start)}"
    ran_out = _ran_out(document, today)
    if ran_out:
        return ran_out
    intent = string(document.get("intent"))
    return f"{_INTENTS[intent]}, not an order" if intent in _INTENTS else ""


_INTENTS = {"proposal": "a proposal", "plan": "a plan", "option": "one option of several"}


def _taking(document: Mapping[str, Any], status: str) -> bool:
    """Say whether an R5 statement ("recorded") says that the medicine is taken."""
    adherence = code_of(mapping(document.get("adherence")).get("code"))
    return status == "recorded" and adherence in ("taking", "taking-as-directed")


def _ran_out(document: Mapping[str, Any], today: str) -> str:
    """Return why an order is over by its own terms, though it is still listed as active."""
    valid = mapping(mapping(document.get("dispenseRequest")).get("validityPeriod"))
    until = string(valid.get("end"))
    if until and ended_before(until, today):
        return f"listed as active, but the order was valid until {moment_words(until)}"
    began = string(document.get("authoredOn"))[:10]
    ends = [_course(dosage, began) for dosage in dosages(document)]
    if ends and all(end and end < today for end in ends):
        length = time_words(_repeat(dosages(document)[-1]).get("boundsDuration"))
        return f"listed as active, but written on {moment_words(began)} for {length}"
    return ""


_LONGEST_OF: Final[Mapping[str, float]] = {
    "h": 1 / 24,
    **dict.fromkeys(("d", "day", "days"), 1),
    **dict.fromkeys(("wk", "week", "weeks"), 7),
    **dict.fromkeys(("mo", "month", "months"), 31),
    **dict.fromkeys(("a", "year", "years"), 366),
}


def _course(dosage: Mapping[str, Any], began: str) -> str:
    """Return the last day that a dose of a stated length can reach, as ISO text, or ""."""
    length = mapping(_repeat(dosage).get("boundsDuration"))
    count = number(length.get("value"))
    days = _LONGEST_OF.get(string(length.get("code")) or string(length.get("unit")))
    try:
        first = date.fromisoformat(began)
        return "" if count is None or days is None else str(first + timedelta(count * days + 1))
    except (ValueError, OverflowError):
        return ""


def _repeat(dosage: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(mapping(dosage.get("timing")).get("repeat"))


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
        string(mapping(_repeat(dosage).get("boundsPeriod")).get("end"))
        for dosage in dosages(document)
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
