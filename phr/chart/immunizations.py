"""Vaccines as recorded: what, when, where, by whom; what was not given and why. No schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    code_as_words,
    concept_words,
    concepts_words,
    joined,
    mapping,
    mappings,
    quantity_words,
    string,
)
from phr.chart.statements import is_of_the_list
from phr.chart.titles import when_text
from phr.fhir.record import Record


@dataclass(frozen=True, slots=True)
class Vaccine:
    """One Immunization. `given` is False when the source says that it was not given."""

    record: Record
    name: str
    named: bool
    given: bool
    status: str  # said only where it is not plainly "completed"
    when: str  # FHIR text, or the source's own words
    dose: str
    details: tuple[str, ...]
    why_not: str
    reported: bool  # told by somebody, not recorded by who gave it
    by: str
    marks: Marks
    evidence: Evidence = NO_EVIDENCE

    @property
    def counts(self) -> bool:
        """Say whether it is a dose that was given, on a day that had come.

        What is neither named nor said to be completed tells of no dose.
        """
        told = self.named or not self.status
        return self.given and told and not (self.marks.mistaken or self.marks.ahead)


def immunizations(records: Sequence[Record], how: How = PLAINLY) -> tuple[Vaccine, ...]:
    """Read every Immunization, each told once, in the order given."""
    book = Book(records)
    found = entries(records, ("Immunization",), how)
    read = [_vaccine(record, book) for record in of_types(records, "Immunization")]
    return tuple(gathered(read, found, lambda one: not one.reported))


def _vaccine(record: Record, book: Book) -> Vaccine:
    document = record.document
    status = string(document.get("status"))
    actors = [mapping(one).get("actor") for one in mappings(document.get("performer"))]
    names = (book.name(record, one) for one in actors)
    name = concept_words(document.get("vaccineCode"))
    return Vaccine(
        record=record,
        name=name or "Vaccine without a name",
        named=bool(name),
        given=status != "not-done"
        and document.get("wasNotGiven") is not True
        and not is_of_the_list(document.get("vaccineCode")),
        status="" if status == "completed" else code_as_words(status) or "no status given",
        when=when_text(document) or string(document.get("occurrenceString")),
        dose=_dose(document),
        details=_details(document),
        why_not=joined(*concepts_words(document.get("statusReason"))),
        reported=document.get("primarySource") is False,
        by=joined(*dict.fromkeys(name for name in names if name))
        or book.name(record, document.get("location")),
        marks=marks(record),
    )


def _dose(document: Mapping[str, Any]) -> str:
    """Return "dose 2 of 3", as far as protocolApplied says so."""
    for protocol in mappings(document.get("protocolApplied")):
        dose = _first(protocol, "doseNumberPositiveInt", "doseNumberString", "doseNumber")
        series = _first(protocol, "seriesDosesPositiveInt", "seriesDosesString", "seriesDoses")
        if dose:
            return f"dose {dose} of {series}" if series else f"dose {dose}"
    return ""


def _first(protocol: Mapping[str, Any], *fields: str) -> str:
    return next((words for field in fields if (words := string(protocol.get(field)))), "")


def _details(document: Mapping[str, Any]) -> tuple[str, ...]:
    lot = string(document.get("lotNumber"))
    maker = string(mapping(document.get("manufacturer")).get("display"))
    found = (
        concept_words(document.get("site")),
        concept_words(document.get("route")),
        quantity_words(document.get("doseQuantity")),
        f"lot {lot}" if lot else "",
        maker,
        "marked by the source as not fully effective"
        if document.get("isSubpotent") is True
        else "",
    )
    return tuple(words for words in found if words)
