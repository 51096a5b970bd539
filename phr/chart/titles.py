"""One line for any resource: what it is called and of which kind it is, quickly.

Used where kinds stand together: timeline, search, "what is new", all records.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final
from unicodedata import bidirectional

from phr.chart.book import resource_name
from phr.chart.plain import (
    clip,
    code_as_words,
    code_of,
    concept_words,
    concepts_words,
    joined,
    mapping,
    mappings,
    moment_words,
    name_words,
    quantity_words,
    sentence_case,
    string,
)
from phr.chart.statements import (
    NO_INFORMATION_CODES,
    is_not_known,
    is_of_the_list,
    says,
    says_none_known,
)
from phr.fhir.kinds import KINDS
from phr.fhir.reading import at
from phr.fhir.record import Record

Document = Mapping[str, Any]


@lru_cache(maxsize=1024)
def kind_words(resource_type: str) -> str:
    """Return the plain name of a FHIR type: "Visit"; an unknown type is spelled out."""
    known = KINDS.get(resource_type)
    if known is not None:
        return sentence_case(known.singular)
    spaced = "".join(f" {one.lower()}" if one.isupper() else one for one in resource_type)
    return clip(sentence_case(spaced.strip()), 60) or "Record"


_PLAINLY: Final = frozenset(  # statuses under which a record simply is what its name says
    {
        "",
        *("active", "completed", "finished", "final", "current", "fulfilled", "available"),
        *("amended", "corrected", "appended", "in-progress", "booked", "arrived", "checked-in"),
        *("unknown", "recorded", "entered-in-error", "confirmed", "ended", "inactive"),
    }
)
_VERIFIED: Final = {
    "refuted": "ruled out",
    "unconfirmed": "unconfirmed",
    "provisional": "provisional",
    "differential": "differential",
}


def state_words(document: Document) -> str:
    """Return in words why a record is not simply what its name says: "not given", or "".

    A refused vaccine, a cancelled visit, a diagnosis that was ruled out, the statement that there
    is none. What was entered in error is a mark (`phr.chart.marks`).
    """
    stated = document.get("verificationStatus")
    if stated is not None and (words := _VERIFIED.get(code_of(stated))):
        return words
    if words := _of_a_list(document):
        return words
    if document.get("doNotPerform") is True:
        return "not to be given"
    status = document.get("status")
    if not isinstance(status, str) or status in _PLAINLY:
        return ""
    if status == "not-done" and document.get("resourceType") == "Immunization":
        return "not given"
    return code_as_words(status).casefold()


def _of_a_list(document: Document) -> str:
    """Return what an allergy or a problem says of the whole list instead of being one, or ""."""
    kind, concept = document.get("resourceType"), document.get("code")
    if kind == "AllergyIntolerance":
        is_unknown, is_none = says(document, NO_INFORMATION_CODES), says_none_known(document)
    elif kind == "Condition":
        is_unknown, is_none = is_not_known(concept), is_of_the_list(concept)
    else:
        return ""
    return "not known" if is_unknown else "none known" if is_none else ""


@lru_cache(maxsize=1024)
def list_words(resource_type: str) -> str:
    """Return the plain name of many of a FHIR type: "Visits"."""
    known = KINDS.get(resource_type)
    return known.label if known else kind_words(resource_type)


def when_text(document: Document) -> str:
    """Return the clinically relevant moment as the source wrote it, or ""."""
    kind = document.get("resourceType")
    known = KINDS.get(kind) if isinstance(kind, str) else None
    for path in known.dates if known else ():
        if "." in path:
            found = next((text for one in at(document, path) if (text := _moment_text(one))), "")
        else:
            found = _moment_text(document.get(path))
        if found:
            return found
    return ""


def _moment_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return string(value.get("start")) or string(value.get("end"))
    return string(value)


def title(document: Document) -> str:
    """Return what a resource is called, at most 200 characters; its kind when it has no name."""
    kind = document.get("resourceType")
    if not isinstance(kind, str):
        return "Record"
    words = _TITLES.get(kind, _any_title)(document)
    if len(words) > 100 or "\n" in words:
        words = clip(" ".join(words.split()), 200)
    return words or kind_words(kind)


def record_title(record: Record) -> str:
    """Return the title of a record."""
    return title(record.document)


def _coded(document: Document) -> str:
    return concept_words(document.get("code"))


def _observation(document: Document) -> str:
    name = concept_words(document.get("code"))
    value = document.get("valueQuantity")
    if value is not None:
        return _told(name, quantity_words(value))
    coded = document.get("valueCodeableConcept")
    if coded is not None:
        return _told(name, concept_words(coded))
    text = document.get("valueString")
    return _told(name, clip(text, 80)) if isinstance(text, str) else name


def _told(name: str, value: str) -> str:
    """Return "NAME: 5.40 mmol/L"; a mark keeps the figure on its side of a right-to-left name."""
    turns = name and bidirectional(name[-1]) in {"R", "AL"}
    return joined(name, f"\u200e{value}" if turns and value else value, by=": ")


def medicine_words(document: Document) -> str:
    """Return the name of the medicine as far as the record itself gives it."""
    concept = concept_words(document.get("medicationCodeableConcept") or document.get("medication"))
    if concept:
        return concept
    reference = mapping(document.get("medicationReference"))
    shown = string(reference.get("display"))
    if shown:
        return shown
    target = string(reference.get("reference"))
    if target.startswith("#"):
        for inner in mappings(document.get("contained")):
            if string(inner.get("id")) == target[1:]:
                return resource_name(inner)
    return ""


def _vaccine(document: Document) -> str:
    return concept_words(document.get("vaccineCode"))


def _visit(document: Document) -> str:
    return (
        concept_words(document.get("type"))
        or visit_class(document)
        or next(iter(concepts_words(document.get("reasonCode"))), "")
    )


# Encounter.class in words (HL7 v3 ActCode).
VISIT_CLASSES = {
    "AMB": "Outpatient visit",
    "EMER": "Emergency visit",
    "FLD": "Visit in the field",
    "HH": "Home visit",
    "IMP": "Hospital stay",
    "ACUTE": "Hospital stay",
    "NONAC": "Hospital stay",
    "OBSENC": "Observation stay",
    "PRENC": "Before admission",
    "SS": "Short stay",
    "VR": "Video or phone visit",
    "UNK": "",
}


def visit_class(document: Document) -> str:
    """Return the class of an Encounter in words; an unknown class as the source named it."""
    value = document.get("class")
    coding = mapping(value if not isinstance(value, list) else (value or [None])[0])
    if "coding" in coding:  # R5 has a list of concepts
        coding = next(iter(mappings(coding.get("coding"))), {})
    code = string(coding.get("code")) or string(value)
    return VISIT_CLASSES.get(code.upper(), string(coding.get("display")) or code_as_words(code))


def _document(document: Document) -> str:
    return (
        concept_words(document.get("type"))
        or string(document.get("description"))
        or attachment_title(document)
    )


def attachment_title(document: Document) -> str:
    """Return the title of the first attachment of a DocumentReference."""
    for content in mappings(document.get("content")):
        found = string(mapping(content.get("attachment")).get("title"))
        if found:
            return found
    return ""


def _person(document: Document) -> str:
    return name_words(document.get("name")) or resource_name(document)


def _care_team(document: Document) -> str:
    return string(document.get("name")) or concept_words(document.get("category"))


def _care_plan(document: Document) -> str:
    return string(document.get("title")) or concept_words(document.get("category"))


def _goal(document: Document) -> str:
    return concept_words(document.get("description"))


def _coverage(document: Document) -> str:
    payers = (string(payer.get("display")) for payer in mappings(document.get("payor")))
    return joined(concept_words(document.get("type")), *payers)


def _relative(document: Document) -> str:
    problems = (
        concept_words(condition.get("code")) for condition in mappings(document.get("condition"))
    )
    return joined(concept_words(document.get("relationship")), joined(*problems), by=": ")


def _imaging(document: Document) -> str:
    return string(document.get("description")) or concept_words(document.get("procedureCode"))


def _any_title(document: Document) -> str:
    for field in ("code", "type", "title", "name", "description", "category", "display"):
        value = document.get(field)
        if value is None:
            continue
        words = name_words(value) if field == "name" else concept_words(value)
        if words:
            return words
    return ""


def _statement(document: Document) -> str:
    return joined(concept_words(document.get("type")), moment_words(document.get("created")))


_TITLES: dict[str, Callable[[Document], str]] = {
    "AllergyIntolerance": _coded,
    "CarePlan": _care_plan,
    "CareTeam": _care_team,
    "Claim": _statement,
    "Condition": _coded,
    "Coverage": _coverage,
    "DiagnosticReport": _coded,
    "DocumentReference": _document,
    "Encounter": _visit,
    "ExplanationOfBenefit": _statement,
    "FamilyMemberHistory": _relative,
    "Goal": _goal,
    "ImagingStudy": _imaging,
    "Immunization": _vaccine,
    "MedicationAdministration": medicine_words,
    "MedicationDispense": medicine_words,
    "MedicationOrder": medicine_words,
    "MedicationRequest": medicine_words,
    "MedicationStatement": medicine_words,
    "Observation": _observation,
    "Patient": _person,
    "Practitioner": _person,
    "Procedure": _coded,
    "RelatedPerson": _person,
}
