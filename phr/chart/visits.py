"""Visits: encounters and appointments with reason, people and place as the source gave them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    code_as_words,
    concept_words,
    concepts_words,
    joined,
    listing,
    mapping,
    mappings,
    moment_words,
    period_words,
    string,
)
from phr.chart.titles import visit_class
from phr.fhir.record import Record


@dataclass(frozen=True, slots=True)
class Visit:
    """One Encounter or Appointment."""

    record: Record
    name: str
    kind: str  # "Outpatient visit", "Hospital stay", ...
    when: str  # words
    status: str  # "" when it is simply over
    reasons: tuple[str, ...]
    people: tuple[str, ...]
    place: str
    left_to: str
    marks: Marks
    evidence: Evidence = NO_EVIDENCE


def visits(records: Sequence[Record], how: How = PLAINLY) -> tuple[Visit, ...]:
    """Read every visit, each told once, in the order given."""
    book = Book(records)
    found = entries(records, ("Encounter", "Appointment"), how)
    read = [_visit(record, book) for record in of_types(records, "Encounter", "Appointment")]
    return tuple(gathered(read, found))


def _visit(record: Record, book: Book) -> Visit:
    document = record.document
    kind = visit_class(document)
    name = joined(*concepts_words(document.get("type"))) or concept_words(
        document.get("serviceType")
    )
    status = string(document.get("status"))
    return Visit(
        record=record,
        name=name or kind or ("Appointment" if record.type == "Appointment" else "Visit"),
        kind=kind if name else "",
        when=_when(document, is_over=status not in _GOING_ON),
        status="" if status in ("finished", "completed", "fulfilled") else code_as_words(status),
        reasons=_reasons(record, book),
        people=_people(record, book),
        place=_place(record, book),
        left_to=concept_words(mapping(document.get("hospitalization")).get("dischargeDisposition")),
        marks=marks(record),
    )


_GOING_ON: Final = frozenset({"in-progress", "onleave", "on-hold", "arrived", "triaged"})


def _when(document: Mapping[str, Any], *, is_over: bool) -> str:
    period = mapping(document.get("period")) or mapping(document.get("actualPeriod"))
    start, end = string(document.get("start")), string(document.get("end"))
    begin = string(period.get("start"))
    if is_over and begin and not string(period.get("end")):
        return moment_words(begin)  # "since" would say that it goes on
    return span_words(period or {"start": start, "end": end}) or moment_words(
        document.get("created")
    )


def span_words(period: Mapping[str, Any]) -> str:
    """Return a period; of one day the day is said once: "11 Nov 2026, 09:30 to 10:05 UTC"."""
    start, end = moment_words(period.get("start")), moment_words(period.get("end"))
    day, _, begin = start.partition(", ")
    last, _, finish = end.partition(", ")
    zones = begin.endswith(" UTC") == finish.endswith(" UTC")
    if not (begin and finish and zones) or day != last or begin == finish:
        return period_words(period)
    return f"{day}, {begin.removesuffix(' UTC')} to {finish}"


def _reasons(record: Record, book: Book) -> tuple[str, ...]:
    document = record.document
    coded = concepts_words(document.get("reasonCode") or document.get("reason"))
    references = [
        *mappings(document.get("reasonReference")),
        *(mapping(one.get("condition")) for one in mappings(document.get("diagnosis"))),
    ]
    pointed = (
        book.name(record, one) or concept_words(book.document(record, one).get("code"))
        for one in references
    )
    return tuple(dict.fromkeys(words for words in (*coded, *pointed) if words))


def _people(record: Record, book: Book) -> tuple[str, ...]:
    found: list[str] = []
    for one in mappings(record.document.get("participant")):
        reference = mapping(one.get("individual") or one.get("actor"))
        if string(reference.get("reference")).startswith("Patient/"):
            continue
        name = book.name(record, reference)
        role = joined(*concepts_words(one.get("type")))
        if name:
            generic = role.casefold() in ("", "participation", "primary performer")
            found.append(name if generic else f"{name} ({role})")
    return tuple(dict.fromkeys(found))


def _place(record: Record, book: Book) -> str:
    document = record.document
    rooms = (
        book.name(record, mapping(one).get("location")) for one in listing(document.get("location"))
    )
    owner = book.name(record, document.get("serviceProvider"))
    return joined(*dict.fromkeys(name for name in (*rooms, owner) if name))
