"""The records of the demo hospital as a FHIR R4 REST interface answers: read, search, pages.

Its few faults are on purpose and realistic: one type is refused, one asks for patience once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from phr.demo import people
from phr.demo.people import Resource

PAGE = 20
REFUSED = frozenset({"CarePlan"})  # as a vendor that has not opened this type
PATIENCE = "Immunization"  # answers 429 to the first request of each visit
OFFERED = (
    "AllergyIntolerance",
    "CarePlan",
    "CareTeam",
    "Condition",
    "Coverage",
    "DiagnosticReport",
    "DocumentReference",
    "Encounter",
    "Immunization",
    "MedicationRequest",
    "Observation",
    "Procedure",
)
SHARED = ("Practitioner", "Organization", "Location")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and headers of an answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = "application/fhir+json"


def outcome(code: str, text: str) -> bytes:
    """Return an OperationOutcome with one error."""
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return people.serialise({"resourceType": "OperationOutcome", "issue": [issue]})


class Records:
    """Every resource of the demo hospital, by type and id."""

    def __init__(self, base: str) -> None:
        """Make the people; `base` is the FHIR base URL that links start with."""
        self.base = base
        self._by_type: dict[str, dict[str, Resource]] = defaultdict(dict)
        for resource in people.resources():
            self._by_type[resource["resourceType"]][resource["id"]] = resource

    def capability(self, authorize: str, token: str) -> bytes:
        """Return the CapabilityStatement: what is true, the oauth-uris for old clients included."""
        uris = {
            "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
            "extension": [
                {"url": "authorize", "valueUri": authorize},
                {"url": "token", "valueUri": token},
            ],
        }
        search = [{"code": "read"}, {"code": "search-type"}]
        offered = [{"type": name, "interaction": search} for name in OFFERED]
        shared = [{"type": name, "interaction": search[:1]} for name in ("Patient", *SHARED)]
        return people.serialise(
            {
                "resourceType": "CapabilityStatement",
                "status": "active",
                "date": people.ANCHOR.isoformat(),
                "kind": "instance",
                "software": {"name": "Homeport demo hospital (not a real hospital)"},
                "fhirVersion": "4.0.1",
                "format": ["json"],
                "rest": [
                    {
                        "mode": "server",
                        "security": {"extension": [uris]},
                        "resource": [*shared, *offered],
                    }
                ],
            }
        )

    def read(self, kind: str, identity: str, person: str) -> Answer:
        """Answer a read; what belongs to another person is as unknown as what is not there."""
        resource = self._by_type.get(kind, {}).get(identity)
        if resource is None or _whose(resource) not in (None, person):
            return Answer(404, outcome("not-found", "There is no such resource."))
        if kind == "Binary":
            return Answer(200, people.report_pdf(), media_type="application/pdf")
        return Answer(200, people.serialise(resource))

    def search(self, kind: str, query: Mapping[str, str], person: str) -> Answer:
        """Answer a search in the compartment of `person`, newest first, in pages of 20."""
        if kind in REFUSED:
            return Answer(403, outcome("forbidden", "Not released to apps by this hospital."))
        if kind not in (*OFFERED, *SHARED, "Patient"):
            return Answer(404, outcome("not-supported", f"{kind} is not offered."))
        found = [
            resource
            for resource in self._by_type[kind].values()
            if _whose(resource) in (None, person) and _fits(resource, query, person)
        ]
        found.sort(key=lambda resource: (resource["meta"]["lastUpdated"], resource["id"]))
        return Answer(200, self._page(kind, query, found[::-1]))

    def _page(self, kind: str, query: Mapping[str, str], found: list[Resource]) -> bytes:
        start = _number(query.get("_offset"), 0, len(found))
        size = _number(query.get("_count"), PAGE, PAGE) or PAGE
        links = [{"relation": "self", "url": f"{self.base}/{kind}?{urlencode(query)}"}]
        if start + size < len(found):
            following = urlencode({**query, "_offset": start + size})
            links.append({"relation": "next", "url": f"{self.base}/{kind}?{following}"})
        entries = [
            {
                "fullUrl": f"{self.base}/{kind}/{resource['id']}",
                "resource": resource,
                "search": {"mode": "match"},
            }
            for resource in found[start : start + size]
        ]
        bundle = {"resourceType": "Bundle", "type": "searchset", "total": len(found)}
        return people.serialise({**bundle, "link": links, "entry": entries})


def _number(text: str | None, default: int, most: int) -> int:
    return min(int(text), most) if text and text.isdecimal() and len(text) < 7 else default


def _whose(resource: Resource) -> str | None:
    """Return the person a resource belongs to; None: it belongs to the hospital."""
    if resource["resourceType"] == "Patient":
        return str(resource["id"])
    for key in ("subject", "patient", "beneficiary"):
        if key in resource:
            return str(resource[key]["reference"]).removeprefix("Patient/")
    return None


def _fits(resource: Resource, query: Mapping[str, str], person: str) -> bool:
    asked = query.get("patient") or query.get("subject") or query.get("beneficiary") or person
    if asked.removeprefix("Patient/") != person:
        return False
    if "_id" in query and resource["id"] not in query["_id"].split(","):
        return False
    if "category" in query and not _has_category(resource, query["category"]):
        return False
    if "status" in query and resource.get("status") not in query["status"].split(","):
        return False
    since = query.get("_lastUpdated", "")
    return not since.startswith(("gt", "ge")) or resource["meta"]["lastUpdated"] >= since[2:22]


def _has_category(resource: Resource, asked: str) -> bool:
    wanted = {token.rpartition("|")[2] for token in asked.split(",")}
    return any(coding["code"] in wanted for coding in _codings(resource.get("category", [])))


def _codings(concepts: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for concept in concepts:
        yield from concept.get("coding", [])
