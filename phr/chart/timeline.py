"""The timeline: one quick row for each record that belongs on it.

A hot path: strings are made once, straight from the parsed document, without references.
"""

from dataclasses import dataclass

from phr.chart.marks import Marks, marks
from phr.chart.plain import joined, moment_words
from phr.chart.titles import kind_words, state_words, title, when_text
from phr.fhir.record import Record

# Filters of the timeline page: slug -> (words, types).
FILTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "visits": ("Visits", ("Encounter",)),
    "reports": ("Reports", ("DiagnosticReport",)),
    "documents": ("Documents", ("DocumentReference", "Composition")),
    "problems": ("Problems", ("Condition",)),
    "medicines": ("Medicines", ("MedicationRequest", "MedicationStatement", "MedicationOrder")),
    "vaccines": ("Vaccines", ("Immunization",)),
    "procedures": ("Procedures", ("Procedure",)),
    "allergies": ("Allergies", ("AllergyIntolerance",)),
}


@dataclass(slots=True)  # not frozen: building frozen ones costs a third of this page
class Event:
    """One row of the timeline."""

    record: Record
    year: str  # of the instant by which the timeline is sorted; "" for what is undated
    when: str  # words, with the precision the source gave
    kind: str  # with what says that it is not simply so: "Vaccination, not given"
    title: str
    marks: Marks


def event(record: Record) -> Event:
    """Read one record as a row."""
    document = record.document
    return Event(
        record,
        str(record.when.year) if record.when else "",
        moment_words(when_text(document)),
        joined(kind_words(record.type), state_words(document)),
        title(document),
        marks(record),
    )
