"""Allergies: present, "none known" said by somebody, or unknown. Three things, never mixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    clip,
    code_as_words,
    code_of,
    concept_words,
    concepts_words,
    joined,
    listing,
    mappings,
    string,
)
from phr.chart.statements import NO_INFORMATION_CODES, says, says_none_known
from phr.chart.titles import when_text
from phr.fhir.record import Record

_NAMELESS = "Allergy without a name"
_NOT_ACTIVE = frozenset({"inactive", "resolved"})
_DOUBTFUL = frozenset({"unconfirmed", "provisional", "presumed"})


class Knowledge(StrEnum):
    """What the record knows about allergies as a whole."""

    PRESENT = "present"
    NONE_KNOWN = "none known"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Allergy:
    """One allergy or intolerance as listed. `severe` only where the source said so."""

    record: Record
    name: str
    severe: bool
    severity: str
    reactions: tuple[str, ...]
    kind: str
    status: str  # empty: listed as active and confirmed
    noted: str  # FHIR text
    by: str
    notes: tuple[str, ...]
    marks: Marks
    evidence: Evidence = NO_EVIDENCE


@dataclass(frozen=True, slots=True)
class Allergies:
    """All that was said about allergies, kept apart by what it means."""

    knowledge: Knowledge
    listed: tuple[Allergy, ...]
    none_known: tuple[Allergy, ...]  # statements that nothing is known
    former: tuple[Allergy, ...]  # inactive, resolved, refuted, mistaken; "none known" taken back
    no_information: tuple[Allergy, ...]  # statements that nobody asked


def allergies(records: Sequence[Record], how: How = PLAINLY) -> Allergies:
    """Sort every allergy, each told once; severe ones first, then in the order given."""
    book = Book(records)
    found = entries(records, ("AllergyIntolerance",), how)
    read = [_allergy(one, book) for one in of_types(records, "AllergyIntolerance")]
    listed: list[Allergy] = []
    none_known: list[Allergy] = []
    former: list[Allergy] = []
    nothing: list[Allergy] = []
    by_pk = {one.record.pk: one for one in read}
    for told in gathered(read, found, _speaks):
        one = _with_severity(told, by_pk)
        if _is_former(one):
            former.append(one)
        elif says(one.record.document, NO_INFORMATION_CODES):
            nothing.append(one)
        elif says_none_known(one.record.document, one.name):
            # What its source takes back is no statement any more; an allergy stays in sight.
            (former if one.marks.withdrawn else none_known).append(one)
        else:
            listed.append(one)
    knowledge = Knowledge.UNKNOWN
    if listed:
        knowledge = Knowledge.PRESENT
    elif none_known:
        knowledge = Knowledge.NONE_KNOWN
    listed.sort(key=lambda one: not one.severe)
    return Allergies(knowledge, tuple(listed), tuple(none_known), tuple(former), tuple(nothing))


def _speaks(one: Allergy) -> tuple[int, bool, bool]:
    """Let what is still listed speak, and the most severe of it; a conflict says the rest."""
    named = one.name != _NAMELESS
    listed = 0 if _is_former(one) else 1 if one.marks.withdrawn else 2
    return listed, one.severe, named


def _with_severity(one: Allergy, by_pk: Mapping[int, Allergy]) -> Allergy:
    """Mark as severe what any source that lists it calls so, and say that another one does."""
    told = (by_pk[record.pk] for record in one.evidence.records if record.pk in by_pk)
    if one.severe or _is_former(one) or not any(e.severe and not _is_former(e) for e in told):
        return one
    severity = joined(one.severity, "severe as another source says", by="; ")
    return replace(one, severe=True, severity=severity)


def _is_former(one: Allergy) -> bool:
    document = one.record.document
    return (
        one.marks.mistaken
        or code_of(document.get("clinicalStatus")) in _NOT_ACTIVE
        or code_of(document.get("verificationStatus")) == "refuted"
    )


def _allergy(record: Record, book: Book) -> Allergy:
    document = record.document
    reactions = mappings(document.get("reaction"))
    severities = {string(one.get("severity")) for one in reactions} - {""}
    high = string(document.get("criticality")) == "high"
    severity = next((one for one in ("severe", "moderate", "mild") if one in severities), "")
    return Allergy(
        record=record,
        name=_name(document, reactions),
        severe=severity == "severe" or high,
        severity=joined(severity, "high risk stated" if high else ""),
        reactions=_reactions(reactions),
        kind=joined(
            string(document.get("type")),
            *(code_as_words(string(one)) for one in listing(document.get("category"))),
        ),
        status=_status(document),
        noted=when_text(document),
        by=book.name(record, document.get("asserter"))
        or book.name(record, document.get("recorder")),
        notes=tuple(
            clip(string(note.get("text")), 300)
            for note in mappings(document.get("note"))
            if string(note.get("text"))
        ),
        marks=marks(record),
    )


def _name(document: Mapping[str, Any], reactions: list[Mapping[str, Any]]) -> str:
    named = concept_words(document.get("code"))
    substances = (concept_words(one.get("substance")) for one in reactions)
    return named or joined(*dict.fromkeys(substances)) or _NAMELESS


def _reactions(reactions: list[Mapping[str, Any]]) -> tuple[str, ...]:
    found: list[str] = []
    for one in reactions:
        manifestations = concepts_words(one.get("manifestation"))
        found.extend(manifestations or ((string(one.get("description")),)))
    return tuple(dict.fromkeys(words for words in found if words))


def _status(document: Mapping[str, Any]) -> str:
    clinical = code_of(document.get("clinicalStatus"))
    verification = code_of(document.get("verificationStatus"))
    said = [clinical] if clinical in _NOT_ACTIVE else []
    if verification in _DOUBTFUL or verification == "refuted":
        said.append(verification)
    return joined(*(code_as_words(one) for one in said))
