"""What may be said beside any entry: mistaken, withdrawn, ahead of its day, private, altered."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from phr.chart.plain import code_of, mapping, mappings
from phr.fhir.labels import Label
from phr.fhir.record import Record
from phr.papers.reading import MADE


@dataclass(frozen=True, slots=True)
class Marks:
    """Standing marks of one record; the source states them, save `private`."""

    mistaken: bool = False  # the source marked it as entered in error
    withdrawn: bool = False  # the source no longer offers it
    ahead: bool = False  # said to have happened on a day after the one on which it came
    private: bool = False  # the patient's own mark
    altered: bool = False  # a modifierExtension may change its meaning (FHIR R4 §2.4.1)

    @property
    def words(self) -> tuple[str, ...]:
        """Return the marks as short sentences."""
        said = (
            (self.mistaken, "Marked by the source as entered in error"),
            (self.withdrawn, "No longer offered by the source; this copy is kept"),
            (self.ahead, "Dated by the source on a day that had not come yet"),
            (self.altered, "Carries an extra condition that may change its meaning"),
            (self.private, "Private: left out of what is shared"),
        )
        return tuple(sentence for holds, sentence in said if holds)


NO_MARKS = Marks()
_A_DAY: Final = timedelta(days=1)
_KINDS: Final = (
    "AllergyIntolerance Condition DiagnosticReport Immunization MedicationAdministration"
    " MedicationDispense MedicationOrder MedicationRequest Observation Procedure"
)
_HAPPENED: Final = frozenset(_KINDS.split())
_BEGAN: Final = frozenset(
    ("onsetDateTime", "onsetPeriod", "recordedDate")
)  # an end may be foreseen
_NOT_YET: Final = frozenset(
    ("draft", "not-done", "not-started", "on-hold", "planned", "preparation", "registered")
)
_PRIVATE = int(Label.PRIVATE)  # arithmetic on the enum is slow, and this is a hot path


def mistaken(document: Mapping[str, Any]) -> bool:
    """Say whether the source marked the resource as entered in error."""
    if document.get("status") == "entered-in-error":
        return True
    stated = document.get("verificationStatus")
    return stated is not None and code_of(stated) == "entered-in-error"


def marks(record: Record) -> Marks:
    """Return the marks of one record."""
    document = record.document
    wrong = mistaken(document)
    altered = "modifierExtension" in document and bool(mappings(document["modifierExtension"]))
    private = bool(int(record.labels) & _PRIVATE)
    ahead = is_ahead(record)
    if not (wrong or altered or private or ahead or record.withdrawn):
        return NO_MARKS
    return Marks(wrong, record.withdrawn, ahead, private, altered)


def is_ahead(record: Record) -> bool:
    """Say whether something is said to have happened after the day on which it was told.

    A slip of the source: it is no newest value, no dose given, no medicine taken. What is only
    planned may lie ahead. A day is allowed for zones.
    """
    when = record.when
    return (
        when is not None
        and when > record.received_at
        and when - record.received_at > _A_DAY
        and record.type in _HAPPENED
        and record.document.get("status") not in _NOT_YET
        and (record.type != "Condition" or not _BEGAN.isdisjoint(record.document))
    )


def says_transcribed(record: Record) -> bool:
    """Say whether a record has the mark of what is made of documents here.

    Whoever sends can write it: it counts only of places that are our own (`Origin.transcribes`).
    """
    if "meta" not in record.document:
        return False
    tags = mappings(mapping(record.document.get("meta")).get("tag"))
    return any(one.get("system") == MADE for one in tags)
