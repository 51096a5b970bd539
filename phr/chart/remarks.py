"""What the patient remarked on single records: an own name for a thing, and notes.

Both are records of the patient's own (`phr.fhir.statements`); the record that they are about stays
as its source sent it. An own name also stands at everything that has the same code.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from phr.chart.plain import clip, codes, concept_words, mapping, mappings, string
from phr.fhir.record import Record
from phr.fhir.statements import OWN_NAME, RECORD

_CONCEPTS: Final = ("code", "medicationCodeableConcept", "vaccineCode")
_LONGEST: Final = 160  # characters of a note beside a fact; all of it is on the record's page


@dataclass(frozen=True, slots=True)
class Remarks:
    """Own names and notes by the keys of what they are about."""

    names: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def name(self, record: Record) -> str:
        """Return what the patient calls this, or ""."""
        if not self.names:
            return ""
        return next((self.names[key] for key in _keys(record) if key in self.names), "")

    def words(self, record: Record) -> tuple[str, ...]:
        """Return the lines that stand beside a fact."""
        if not self.names and not self.notes:
            return ()
        name = self.name(record)
        if name and name == string((concept_of(record.document) or {}).get("text")):
            name = ""  # it is called that way already (`labelled`)
        named = (f"You call it “{clip(name, 80)}”",) if name else ()
        notes = self.notes.get(place(record), ())
        return (*named, *(f"Your note: {clip(' '.join(one.split()), _LONGEST)}" for one in notes))


NO_REMARKS: Final = Remarks()


def read(records: Iterable[Record]) -> Remarks:
    """Return the remarks that stand among own records, newest first; mistakes are left out."""
    names: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for record in records:
        document = record.document
        target = about(document)
        if not target or document.get("status") == "entered-in-error":
            continue
        if is_name(document):
            told = called(document)
            for key in (target, *_coded(mappings(document.get("entry")))):
                names.setdefault(key, told)
        elif note := string(document.get("description")):
            notes[target] = (*notes.get(target, ()), note)
    return Remarks(names, notes)


def labelled(records: Sequence[Record], remarks: Remarks) -> Sequence[Record]:
    """Return the records with the patient's own name for what its source only gave codes for.

    The display rule: the source's text, the own label, a coding's display, our word for the code,
    "Code 1234-5 (LOINC)". All but the label are `phr.chart.plain.concept_words`. For reading
    only: the bytes stay as they came.
    """
    if not remarks.names:
        return records
    return [_labelled(one, remarks) for one in records]


def _labelled(record: Record, remarks: Remarks) -> Record:
    name = remarks.name(record)
    document = record.document
    if not name:
        return record
    for element in _CONCEPTS:
        concept = document.get(element)
        if isinstance(concept, dict) and any(codes(concept)) and not string(concept.get("text")):
            made = replace(record)
            made.__dict__["_document"] = {**document, element: {**concept, "text": name}}
            return made
    return record


def is_name(document: Mapping[str, Any]) -> bool:
    """Say whether a resource of the patient's own is an own name for something."""
    return OWN_NAME in {code for _, code in codes(document.get("code"))}


def called(document: Mapping[str, Any]) -> str:
    """Return the name that an own name gives."""
    return string(mapping(document.get("code")).get("text"))


def about(document: Mapping[str, Any]) -> str:
    """Return which record a remark is about ("Observation/<our id>"), or ""."""
    listed = [
        *(mapping(one.get("item")) for one in mappings(document.get("entry"))),
        *mappings(mapping(document.get("context")).get("related")),
    ]
    for one in listed:
        pointed = mapping(one.get("identifier"))
        if pointed.get("system") == RECORD:
            return string(pointed.get("value"))
    return ""


def place(record: Record) -> str:
    """Return the key of one record."""
    return f"{record.type}/{record.local_id}"


def concept_of(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a record says it is about: its code, its medicine, its vaccine."""
    for element in _CONCEPTS:
        found = document.get(element)
        if isinstance(found, dict) and (any(codes(found)) or concept_words(found)):
            return found
    return None


def _coded(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of the codes that an own name was given to."""
    made = []
    for entry in entries:
        for extension in mappings(entry.get("extension")):
            made += _code_keys(extension.get("valueCodeableConcept"))
    return made


def _code_keys(value: Any) -> list[str]:
    return [f"{system}|{code}" for system, code in codes(value) if system and code]


def _keys(record: Record) -> list[str]:
    return [place(record), *_code_keys(concept_of(record.document))]
