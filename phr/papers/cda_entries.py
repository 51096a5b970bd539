"""Coded entries of a C-CDA document (Release 1.1 and 2.1) transcribed into FHIR R4 resources.

Only what the document says. An id is made of what a resource says: the same file, or the same
statement in the next file of that place, is the same record. Allergies, problems, medicines their
hand-outs, immunizations, results, vital signs, procedures, visits, family and social history,
abilities, scores, pregnancy; all else stays in the document, which is kept as it came. The rules,
and what they follow: `docs/decisions`.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from phr.papers import cda, cda_life, cda_lists, cda_seen
from phr.papers import cda_values as values
from phr.papers.cda_page import (
    HL7,
    TEMPLATE,
    UNKNOWN,
    Page,
    coded,
    is_denied,
    keyed,
    stands,
    to,
)
from phr.papers.cda_values import Element, Value, attr, every, filled, first, roots, words_in
from phr.papers.reading import TRANSCRIBED, Reading, name_of

UNTOLD: Final = "Not taken in, perhaps not in the text"  # a fact about a document: its label
_MOST: Final = 5000  # entries of one document
_NUMBERS: Final = msgspec.json.Encoder(decimal_format="number")
_CONFIDENTIAL: Final = f"{values.V3}confidentialityCode"
_SEXES: Final = {"M": "male", "F": "female", "UN": "other"}
_MAKERS: Final[Mapping[str, tuple[str, Callable[[Page, Element], Iterator[Value]]]]] = {
    f"{TEMPLATE}7": ("Allergies", cda_lists.allergy),
    f"{TEMPLATE}4": ("Problems", cda_lists.problem),
    f"{TEMPLATE}16": ("Medicines", cda_lists.medicine),
    f"{TEMPLATE}52": ("Immunizations", cda_lists.immunization),
    f"{TEMPLATE}27": ("Vital signs", cda_seen.vital),
    f"{TEMPLATE}1": ("Results", cda_seen.battery),
    f"{TEMPLATE}2": ("Results", cda_seen.result),
    f"{TEMPLATE}14": ("Procedures", cda_seen.procedure),
    f"{TEMPLATE}12": ("Procedures", cda_seen.procedure),
    f"{TEMPLATE}13": ("Procedures", cda_seen.procedure),
    f"{TEMPLATE}49": ("Visits", cda_life.visit),
    f"{TEMPLATE}45": ("Family history", cda_life.relative),
    f"{TEMPLATE}78": ("Social history", cda_life.habit),
    f"{TEMPLATE}85": ("Social history", cda_life.habit),
    f"{TEMPLATE}200": ("Social history", cda_life.habit),
    f"{TEMPLATE}38": ("Social history", cda_life.habit),
    f"{TEMPLATE}18": ("Medicines handed out", cda_lists.hand_out),
    f"{TEMPLATE}69": ("Scores", cda_life.scale),
    f"{TEMPLATE}67": ("Abilities", cda_life.ability),
    f"{TEMPLATE}127": ("Abilities", cda_life.ability),
    f"{TEMPLATE}128": ("Abilities", cda_life.ability),
    f"{TEMPLATE}74": ("Mental status", cda_life.mind),
    cda_life.PREGNANCY: ("Pregnancy", cda_life.pregnancy),
    f"{TEMPLATE}293": ("Pregnancy", cda_life.pregnancy),
}
_OPEN: Final = f"{TEMPLATE}49"  # whose parts (diagnoses) are statements of their own
_NESTED: Final = {  # what stands in another statement and is one of its own: its element
    f"{TEMPLATE}18": "supply",
    f"{TEMPLATE}69": "observation",
}
# C-CDA's Medication Supply Order, Non-Medicinal Supply Activity and Product Instance (but that of a
# procedure) inside of a statement are not transcribed, and its text may leave them out: counted.
_PROCEDURES: Final = {f"{TEMPLATE}{each}" for each in ("12", "13", "14")}
_INSIDE: Final[Mapping[str, str]] = {
    f"{TEMPLATE}17": "Orders of a supply",
    f"{TEMPLATE}50": "Supplies",
    f"{TEMPLATE}37": "Devices",
}
_OF_OTHERS: Final = f"{TEMPLATE}45"  # which speaks of a relative, as it says


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a document says as resources (JSON): itself, then Patient, entries, Provenance.

    `counts` has the entries by kind, `left` those that stay in the document, by section, of these
    `wordless` those of sections without text; `inside` what is coded in a statement, by kind.
    """

    resources: tuple[bytes, ...]
    counts: Mapping[str, int]
    left: Mapping[str, int]
    wordless: Mapping[str, int]
    inside: Mapping[str, int]


def transcribe(content: bytes) -> Transcript:
    """Return what a ClinicalDocument says as FHIR resources.

    Raises what `cda.parse` raises.
    """
    return _Scribe(cda.parse(content), content).written()


def read(content: bytes) -> Reading:
    """Return the readable view of a document, with what of it was taken into the record."""
    found = cda.read(content)
    if found.sentence and not found.facts:
        return found
    made = transcribe(content)
    told = [
        ("Taken into the record", _counted(made.counts)),
        ("Only in the text", _counted(Counter(made.left) - Counter(made.wordless))),
        (UNTOLD, _counted(Counter(made.wordless) + Counter(made.inside))),
    ]
    return replace(found, facts=(*found.facts, *(each for each in told if each[1])))


def packed(content: bytes) -> bytes:
    """Return the resources as one JSON array, for the way out of the child process."""
    return b"[" + b",".join(transcribe(content).resources) + b"]"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


class _Scribe:
    """Walks one document, section by section, entry by entry."""

    def __init__(self, root: Element, content: bytes) -> None:
        self._root = root
        self._content = content
        ids = {attr(each, "ID"): each for each in root.iter() if attr(each, "ID")}
        self._level = _strictest(root.iter(_CONFIDENTIAL))  # a file is handed over whole
        self._page = Page(ids, _somebody(root), root, self._level)
        self._made: dict[str, Value] = {}
        self._names: dict[str, Value] = {}  # which entry of the document each was made of
        self._counts: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._wordless: Counter[str] = Counter()
        self._inside: Counter[str] = Counter()

    def written(self) -> Transcript:
        """Return everything, in the order of the document."""
        paper = self._paper()
        told: list[Value] = []
        for section in self._root.iter(f"{values.V3}section"):
            self._page.section = section
            self._page.security = _around(section)
            made = self._of_section(section)
            if made:
                told.append(self._provenance(section, made, paper))
        entries = list(self._made.values())
        person = [self._page.patient] if self._page.patient else []
        everything = [paper, *person, *entries, *told]
        return Transcript(
            tuple(_NUMBERS.encode(each) for each in everything),
            self._counts,
            self._left,
            self._wordless,
            self._inside,
        )

    def _of_section(self, section: Element) -> list[Value]:
        found: list[Value] = []
        for entry in every(section, "entry"):
            made = list(self._of_entry(entry)) if len(self._made) < _MOST else []
            if not made:
                self._left[cda.title_of(section)] += 1
                self._wordless[cda.title_of(section)] += not words_in(first(section, "text"))
            found += made
        return found

    def _of_entry(self, entry: Element) -> Iterator[Value]:
        done: set[Element] = set()
        for at in entry.iter():
            if at in done or not isinstance(at.tag, str):
                continue
            named = roots(at)
            template = next((one for one in _MAKERS if one in named), None)
            if template is None:
                continue
            if template != _OPEN:
                done.update(at.iter())  # what is inside a statement belongs to it
                done.difference_update(_apart(at))
            if is_denied(at) if template == _OF_OTHERS else not stands(at):
                continue
            self._inside.update(_left_inside(self._page, at))
            kind, maker = _MAKERS[template]
            found = [keyed(made) for made in maker(self._page, at)]
            if template in _NESTED and not found and at.getparent().tag != f"{values.V3}entry":
                self._inside[kind] += 1
            for resource in found:
                self._names.setdefault(resource["id"], next(iter(values.identifiers(at)), {}))
                if resource["id"] not in self._made:
                    self._made[resource["id"]] = resource
                    self._counts[kind] += resource["resourceType"] != "DiagnosticReport"
                yield resource

    def _paper(self) -> Value:
        """Return the document as a DocumentReference; its file is named by its hash."""
        root, content = self._root, self._content
        name = name_of(content)
        digest = hashlib.sha1(content, usedforsecurity=False).digest()  # R4 Attachment.hash
        title = words_in(first(root, "title")) or cda.display(first(root, "code"))
        written = values.moment(attr(first(root, "effectiveTime"), "value"))
        known = first(root, "id")
        authors = [cda.party(first(each, "assignedAuthor")) for each in every(root, "author")]
        custodian = "custodian/assignedCustodian/representedCustodianOrganization/name"
        made: Value = {
            "resourceType": "DocumentReference",
            "id": name,
            "meta": filled({"security": list(self._level), "tag": [TRANSCRIBED]}),
            "status": "current",
            "content": [
                {
                    "attachment": filled(
                        {
                            "contentType": "application/xml",
                            "url": f"Binary/{name}",
                            "size": len(content),
                            "hash": base64.b64encode(digest).decode(),
                            "title": title,
                            "creation": written,
                        }
                    )
                }
            ],
        }
        more = {
            "masterIdentifier": values.identifier(known) if known is not None else {},
            "type": self._page.concept(first(root, "code")),
            "subject": to(self._page.patient) if self._page.patient else {},
            "date": written if "T" in written else "",
            "author": [{"display": each} for each in dict.fromkeys(authors) if each],
            "custodian": filled({"display": words_in(first(root, custodian))}),
            "description": title,
            "securityLabel": [{"coding": [each]} for each in self._level],
        }
        return made | filled(more)

    def _provenance(self, section: Element, made: list[Value], paper: Value) -> Value:
        """Return whence the entries of one section come (R4 §6.3): document, section, entry."""
        title = cda.title_of(section)
        name = str(paper.get("description") or "Clinical document")
        authors = [
            {"type": coded("provenance-participant-type", "author"), "who": each}
            for each in paper.get("author", ())
        ]
        agent = {"display": "Homeport"}
        return keyed(
            {
                "resourceType": "Provenance",
                "meta": self._page.meta(),
                "target": [
                    to(each) | filled({"identifier": self._names.get(each["id"], {})})
                    for each in {one["id"]: one for one in made}.values()
                ],
                "_recorded": {"extension": [UNKNOWN]},  # the same file again changes nothing
                "activity": coded("iso-21089-lifecycle", "transform"),
                "agent": [
                    *authors,
                    {"type": coded("provenance-participant-type", "assembler"), "who": agent},
                ],
                "entity": [
                    {"role": "source", "what": {**to(paper), "display": f"{name}: {title}"}}
                ],
            }
        )


def _apart(at: Element) -> Iterator[Element]:
    """Yield what stands inside a statement and is one of its own."""
    for template, name in _NESTED.items():
        for each in at.iterdescendants(f"{values.V3}{name}"):
            if template in roots(each):
                yield each


def _left_inside(page: Page, at: Element) -> Iterator[str]:
    """Yield what is coded inside a statement and is in no record, by its kind."""
    used = not _PROCEDURES.isdisjoint(roots(at))
    for each in at.iter(f"{values.V3}supply", f"{values.V3}participantRole"):
        told = used and each.getparent().getparent() is at and any(cda_seen.device(page, each))
        yield from (_INSIDE[name] for name in roots(each) if name in _INSIDE and not told)


def _around(section: Element) -> tuple[Value, ...]:
    """Return how confidential a section is: the strictest of itself and all that it is part of."""
    every_one = (section, *section.iterancestors())
    return _strictest(first(each, "confidentialityCode") for each in every_one)


def _strictest(said: Iterable[Element | None]) -> tuple[Value, ...]:
    levels = {attr(each, "code").upper() for each in said}
    level = next((one for one in ("V", "R") if one in levels), "")
    return ({"system": f"{HL7}v3-Confidentiality", "code": level},) if level else ()


def _somebody(root: Element) -> Value:
    """Return the Patient of the head; its id follows from who it is, not where they live."""
    role = first(root, "recordTarget/patientRole")
    patient = first(role, "patient")
    if role is None or patient is None:
        return {}
    names = [made for each in every(patient, "name") if (made := values.human_name(each))]
    code = attr(first(patient, "administrativeGenderCode"), "code").upper()
    born = values.moment(attr(first(patient, "birthTime"), "value")).partition("T")[0]
    known = values.identifiers(role)
    stable = {"identifier": known, "name": names, "gender": code, "birthDate": born}
    said = json.dumps(stable, sort_keys=True).encode()
    return {
        "resourceType": "Patient",
        "id": f"cda-{hashlib.sha256(said).hexdigest()[:32]}",
        "meta": {"tag": [TRANSCRIBED]},
    } | filled(
        {
            "identifier": known,
            "name": names,
            "telecom": [one for each in every(role, "telecom") if (one := values.telecom(each))],
            "gender": _SEXES.get(code, ""),
            "birthDate": born,
            "address": [one for each in every(role, "addr") if (one := values.address(each))],
        }
    )
