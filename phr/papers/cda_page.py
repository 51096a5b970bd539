"""What the statements of a clinical document share: narrative, authors, marks, references.

A Page is one section of one document as its statements are read (`phr.papers.cda_lists`,
`phr.papers.cda_seen`); it makes no resource of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from phr.papers import cda
from phr.papers import cda_values as values
from phr.papers.cda_values import (
    Element,
    Value,
    attr,
    concept,
    every,
    filled,
    first,
    roots,
    words_in,
)
from phr.papers.reading import TRANSCRIBED

TEMPLATE: Final = "2.16.840.1.113883.10.20.22.4."
HL7: Final = "http://terminology.hl7.org/CodeSystem/"
UNKNOWN: Final = {
    "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
    "valueCode": "unknown",
}


@dataclass(slots=True)
class Page:
    """One section: its document's narrative by ID, its patient, how confidential it is."""

    ids: Mapping[str, Element] = field(repr=False)
    patient: Value
    section: Element
    security: tuple[Value, ...] = ()
    _known: dict[str, str] = field(default_factory=dict, repr=False)  # narrative read before

    def told(self, at: Element | None) -> str:
        """Return the words of a text, or of the narrative that it points to."""
        if at is None:
            return ""
        held = self.pointed(at)
        if held is None:
            return values.clipped(words_in(at))
        name = attr(held, "ID")
        if name not in self._known:  # thousands of entries may point to one long paragraph
            self._known[name] = values.clipped(" ".join(cda.lines(held)))
        return self._known[name]

    def pointed(self, at: Element | None) -> Element | None:
        """Return the part of the narrative that a text points to."""
        name = attr(first(at, "reference"), "value")
        return self.ids.get(name.removeprefix("#")) if name.startswith("#") else None

    def concept(self, at: Element | None) -> Value:
        """Return a coded value as a CodeableConcept; {} for nothing."""
        return concept(at, self.told)

    def meta(self) -> Value:
        """Return the marks of what is made here: how confidential, and that it is transcribed."""
        return filled({"security": list(self.security), "tag": [TRANSCRIBED]})

    def begin(self, type_: str, person: str = "subject") -> Value:
        """Return the beginning of a resource about the document's patient."""
        made: Value = {"resourceType": type_, "meta": self.meta()}
        if self.patient:
            made[person] = to(self.patient)
        return made

    def written_by(self, at: Element) -> tuple[str, str]:
        """Return when a statement was recorded and by whom: its own author, or that of its act."""
        author = first(at, "author")
        for above in at.iterancestors(f"{values.V3}act", f"{values.V3}organizer"):
            author = author if author is not None else first(above, "author")
        who = cda.party(first(author, "assignedAuthor"))
        return values.moment(attr(first(author, "time"), "value")), who

    def notes(self, at: Element) -> list[Value]:
        """Return the comments on a statement (Comment Activity, C-CDA 2.1 §3.20)."""
        found = (
            self.told(first(each, "text"))
            for each in every(at, "entryRelationship/act")
            if f"{TEMPLATE}64" in roots(each)
        )
        return [{"text": text} for text in found if text]

    def inside(self, at: Element, number: str) -> list[Element]:
        """Return the observations inside a statement that follow a template and hold."""
        wanted = f"{TEMPLATE}{number}"
        return [
            each
            for each in every(at, "entryRelationship/observation")
            if wanted in roots(each) and stands(each) and attr(each, "negationInd") != "true"
        ]

    def act_status(self, at: Element) -> str:
        """Return the status of the act around an observation (a concern)."""
        act = at.getparent().getparent() if at.getparent() is not None else None
        return attr(first(act, "statusCode"), "code") if act is not None else ""


def stands(at: Element) -> bool:
    """Say whether a statement speaks of the patient: not null, nor about a relative.

    What is around it counts too, up to its section: a null or denied act, a family's organizer.
    """
    about = (first(each, "subject/relatedSubject") for each in _with_what_holds(at))
    return not is_denied(at) and all(each is None for each in about)


def is_denied(at: Element) -> bool:
    """Say whether a statement is null, or inside of a null or denied one of its section."""
    *inside, _ = _with_what_holds(at)
    return any(
        attr(each, "nullFlavor") or (each is not at and attr(each, "negationInd") == "true")
        for each in inside
    )


def _with_what_holds(at: Element) -> list[Element]:
    """Return a statement, all that is around it, and last its section."""
    found = [at]
    while found[-1].tag != f"{values.V3}section" and found[-1].getparent() is not None:
        found.append(found[-1].getparent())
    return found


def keyed(resource: Value) -> Value:
    """Give a resource the id that follows from what it says."""
    said = json.dumps(resource, sort_keys=True, default=str).encode()
    return {**resource, "id": f"cda-{hashlib.sha256(said).hexdigest()[:32]}"}


def to(resource: Value) -> Value:
    """Return a Reference to a resource made here."""
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def coded(system: str, code: str, display: str = "") -> Value:
    """Return a CodeableConcept; `system` is whole or the end of HL7's address."""
    whole = system if ":" in system else f"{HL7}{system}"
    return {"coding": [filled({"system": whole, "code": code, "display": display})]}


def words_of(what: Mapping[str, Any]) -> str:
    """Return a CodeableConcept in words."""
    shown = (str(each.get("display") or "") for each in what.get("coding", ()))
    return str(what.get("text") or "") or next(filter(None, shown), "")
