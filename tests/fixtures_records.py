"""Records put into a vault by the real keeper, and a made-up person with something of each kind."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from phr import clock
from phr.fhir import document, reading
from phr.fhir.labels import Label
from phr.fhir.record import Item, Record
from phr.keep import Keeper
from phr.store import connections
from phr.store.models import ConnectionState
from phr.store.vault import Vault

NOW = datetime(2026, 11, 21, 3, 12, tzinfo=UTC)
LOINC = "http://loinc.org"
_FLAGS = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"


class Digits(str):
    """A number that stands in the JSON with exactly these digits."""

    __slots__ = ()


def body_of(resource: Mapping[str, Any]) -> bytes:
    """Return the JSON of a resource; `Digits` become bare numbers."""
    return document.dumps(_numbers(resource))


def _numbers(value: Any) -> Any:
    if isinstance(value, Digits):
        return document.number(value)
    if isinstance(value, Mapping):
        return {key: _numbers(one) for key, one in value.items()}
    return [_numbers(one) for one in value] if isinstance(value, list) else value


def keep_records(
    vault: Vault,
    resources: Iterable[Mapping[str, Any]],
    *,
    name: str = "Saltmarsh University Hospital",
    demo: bool = False,
    now: datetime = NOW,
    connection_id: int | None = None,
) -> int:
    """Keep resources as one pull of a hospital; return the id of its connection."""
    with vault.write() as session:
        if connection_id is None:
            connection_id = connections.add(
                session,
                kind="smart",
                name=name,
                base_url="https://fhir.saltmarsh.example/r4",
                now=now,
                state=ConnectionState.ACTIVE,
                demo=demo,
            )
        row = connections.get(session, connection_id)
        row.last_pull_at = now
        claim = connections.claim(session, row, now=now, full=True)
    keeper = Keeper(vault, connection_id, claim.pull_id, now=now)
    keeper.page("Bundle", [Item(body_of(one)) for one in resources])
    keeper.finish()
    with vault.write() as session:
        connections.get(session, connection_id).claimed_by = None
    return connection_id


def as_record(resource: Mapping[str, Any], *, pk: int = 1, connection_id: int = 1) -> Record:
    """Return a Record as the store would, for pure functions."""
    moment = reading.when(resource)
    return Record(
        pk=pk,
        local_id=f"{pk:016x}",
        connection_id=connection_id,
        type=str(resource.get("resourceType", "Basic")),
        remote_id=str(resource.get("id", f"r{pk}")),
        version=1,
        received_at=NOW,
        when=clock.from_ms(moment.start) if moment and moment.start is not None else None,
        labels=Label.NONE,
        withdrawn=False,
        body=body_of(resource),
    )


def as_records(*resources: Mapping[str, Any]) -> list[Record]:
    """Return several Records in their order."""
    return [as_record(one, pk=pk) for pk, one in enumerate(resources, start=1)]


def concept(text: str = "", code: str = "", system: str = LOINC) -> dict[str, Any]:
    """Return a CodeableConcept."""
    coding = {"coding": [{"system": system, "code": code}]} if code else {}
    return ({"text": text} if text else {}) | coding


def lab(
    name: str,
    code: str,
    value: str | None,
    unit: str = "mmol/L",
    *,
    low: str = "",
    high: str = "",
    flag: str = "",
    on: str = "2026-11-19",
    **more: Any,
) -> dict[str, Any]:
    """Return a laboratory Observation; values and bounds keep their digits."""
    bounds = {
        side: {"value": Digits(digits), "unit": unit}
        for side, digits in (("low", low), ("high", high))
        if digits
    }
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"{code}-{on}".replace(":", "-")[:60],
        "status": "final",
        "category": [concept(code="laboratory", system="http://hl7.org/category")],
        "code": concept(name, code),
        "effectiveDateTime": on,
        "performer": [{"display": "Saltmarsh Laboratory"}],
    }
    if value is not None:
        made["valueQuantity"] = {"value": Digits(value), "unit": unit}
    if bounds:
        made["referenceRange"] = [bounds]
    if flag:
        made["interpretation"] = [concept(code=flag, system=_FLAGS)]
    return made | more


def _status(code: str) -> dict[str, Any]:
    return concept(code=code, system="http://terminology.hl7.org/CodeSystem/status")


def _labs() -> list[dict[str, Any]]:
    days = ("2024-11-20", "2025-06-03", "2026-05-04", "2026-11-19")
    rows = (
        ("LDL cholesterol", "2089-1", "mmol/L", "3.3 3.5 3.8 4.1", "", "3.0", "- H H H"),
        ("HDL cholesterol", "2085-9", "mmol/L", "1.48 1.50 1.49 1.52", "1.20", "", "- - - -"),
        ("Ferritin", "2276-4", "µg/L", "33 22 14 9", "15", "150", "- - L L"),
        ("TSH", "3016-3", "mIU/L", "2.2 1.9 2.60 2.40", "0.40", "4.00", "- - - -"),
        ("Potassium", "2823-3", "mmol/L", "4.1 4.0 4.5 5.40", "3.50", "5.10", "- - - -"),
        ("Vitamin B12, active", "2132-9", "pmol/L", "72 70 66 61", "", "", "- - - -"),
    )
    return [
        lab(name, code, value, unit, low=low, high=high, flag=flag.strip("-"), on=on)
        for name, code, unit, values, low, high, flags in rows
        for on, value, flag in zip(days, values.split(), flags.split(), strict=True)
    ]


def juniper() -> list[dict[str, Any]]:
    """Return the made-up record of Juniper Sample: something of every section."""
    labs = _labs()
    newest = [one for one in labs if one["effectiveDateTime"] == "2026-11-19"]
    doctor = {"display": "Dr. Imogen Placeholder"}
    report = {
        "resourceType": "DiagnosticReport",
        "id": "report-1",
        "status": "final",
        "category": [concept(code="LAB", system="http://terminology.hl7.org/CodeSystem/v2-0074")],
        "code": concept("Lipids, blood and thyroid", "24331-1"),
        "effectiveDateTime": "2026-11-19T08:20:00+00:00",
        "issued": "2026-11-20T16:00:00Z",
        "performer": [{"display": "Saltmarsh Laboratory"}],
        "result": [{"reference": f"Observation/{one['id']}"} for one in newest],
        "conclusion": "Ferritin is lower than in May.",
    }
    pressure = {
        "resourceType": "Observation",
        "id": "pressure-1",
        "status": "final",
        "category": [concept(code="vital-signs", system="http://hl7.org/category")],
        "code": concept("Blood pressure panel", "85354-9"),
        "effectiveDateTime": "2026-11-12T09:00:00Z",
        "component": [
            {
                "code": concept("Systolic blood pressure", "8480-6"),
                "valueQuantity": {"value": 128, "unit": "mm[Hg]"},
            },
            {
                "code": concept("Diastolic blood pressure", "8462-4"),
                "valueQuantity": {"value": 79, "unit": "mm[Hg]"},
            },
        ],
    }
    return [
        *labs,
        report,
        pressure,
        *_allergies(),
        *_medicines(doctor),
        *_problems(doctor),
        *_events(doctor),
    ]


def _allergies() -> list[dict[str, Any]]:
    return [
        {
            "resourceType": "AllergyIntolerance",
            "id": "allergy-1",
            "clinicalStatus": _status("active"),
            "verificationStatus": _status("confirmed"),
            "criticality": "high",
            "code": concept("Penicillin"),
            "recordedDate": "2009-03-01",
            "reaction": [{"manifestation": [concept("throat swelling")], "severity": "severe"}],
        },
        {
            "resourceType": "AllergyIntolerance",
            "id": "allergy-2",
            "clinicalStatus": _status("active"),
            "code": concept("Latex"),
            "reaction": [{"manifestation": [concept("skin rash")], "severity": "mild"}],
        },
        {
            "resourceType": "AllergyIntolerance",
            "id": "allergy-3",
            "verificationStatus": _status("entered-in-error"),
            "code": concept("Peanut"),
        },
    ]


def _medicines(doctor: dict[str, Any]) -> list[dict[str, Any]]:
    once_a_day = {
        "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
        "doseAndRate": [{"doseQuantity": {"value": 1, "unit": "tablet"}}],
    }
    rows = (
        ("Levothyroxine 50 micrograms", "active", [{"text": "1 tablet each morning"}]),
        ("Ferrous fumarate 210 mg", "active", [once_a_day]),
        ("Amoxicillin 500 mg", "completed", [{"text": "1 capsule 3 times a day"}]),
        ("Omeprazole 20 mg", "on-hold", []),
    )
    return [
        {
            "resourceType": "MedicationRequest",
            "id": f"medicine-{place}",
            "status": status,
            "intent": "order",
            "medicationCodeableConcept": concept(name),
            "authoredOn": "2026-11-12",
            "requester": doctor,
            "dosageInstruction": dosage,
        }
        for place, (name, status, dosage) in enumerate(rows)
    ]


def _problems(doctor: dict[str, Any]) -> list[dict[str, Any]]:
    system = "http://terminology.hl7.org/CodeSystem/condition-category"
    rows = (
        ("Underactive thyroid", "problem-list-item", "active", "2019"),
        ("Iron deficiency", "problem-list-item", "resolved", "2021"),
        ("Acute bronchitis", "encounter-diagnosis", "resolved", "2016-02-03"),
        ("Acute bronchitis", "encounter-diagnosis", "resolved", "2018-01-09"),
    )
    return [
        {
            "resourceType": "Condition",
            "id": f"problem-{place}",
            "clinicalStatus": _status(status),
            "verificationStatus": _status("confirmed"),
            "category": [concept(code=category, system=system)],
            "code": concept(name),
            "onsetDateTime": onset,
            "recorder": doctor,
        }
        for place, (name, category, status, onset) in enumerate(rows)
    ]


def _events(doctor: dict[str, Any]) -> list[dict[str, Any]]:
    letter = "PGh0bWw+PGJvZHk+PHA+RGVhciBKdW5pcGVyPC9wPjxzY3JpcHQ+YWxlcnQoMSk8L3NjcmlwdD4="
    return [
        {
            "resourceType": "DocumentReference",
            "id": "letter-1",
            "status": "current",
            "type": concept("Letter: thyroid clinic, follow-up"),
            "date": "2026-11-18T10:00:00Z",
            "author": [doctor],
            "text": {"status": "generated", "div": "<div><p>A letter.</p><img src='x'></div>"},
            "content": [
                {"attachment": {"contentType": "text/html", "data": letter, "title": "letter"}},
                {"attachment": {"contentType": "application/pdf", "url": "Binary/none"}},
                {"attachment": {"contentType": "text/plain", "data": "cGxhaW4gdGV4dA=="}},
            ],
        },
        {
            "resourceType": "Immunization",
            "id": "vaccine-1",
            "status": "completed",
            "vaccineCode": concept("Influenza, season 2026/27"),
            "occurrenceDateTime": "2026-11-16",
            "site": concept("Left arm"),
        },
        {
            "resourceType": "Encounter",
            "id": "visit-1",
            "status": "finished",
            "class": {"code": "AMB"},
            "type": [concept("Follow-up at the thyroid clinic")],
            "period": {"start": "2026-11-12T09:00:00Z", "end": "2026-11-12T09:30:00Z"},
            "participant": [{"individual": doctor}],
        },
        {
            "resourceType": "Procedure",
            "id": "procedure-1",
            "status": "completed",
            "code": concept("Ultrasound of the thyroid"),
            "performedDateTime": "2026-11-12",
        },
        {"resourceType": "Organization", "id": "lab", "name": "Saltmarsh Laboratory"},
        {
            "resourceType": "Patient",
            "id": "juniper",
            "name": [{"given": ["Juniper"], "family": "Sample"}],
            "birthDate": "1984-03-14",
            "gender": "female",
        },
    ]


def bundle(resources: Iterable[Mapping[str, Any]]) -> bytes:
    """Return resources as a collection Bundle."""
    entries = [json.loads(body_of(one)) for one in resources]
    return json.dumps(
        {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [{"resource": e} for e in entries],
        }
    ).encode()
