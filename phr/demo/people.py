"""The made-up people of the demo hospital: the same resources at every start, none of them real.

Numbers are written as text between bars ("|5.40|") and become JSON numbers with exactly these
digits when a resource is serialised: `5.40` must stay `5.40` all the way to the page.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

Resource = dict[str, Any]

ANCHOR = date(2026, 11, 16)  # the day the demo is told on; fixed, so that nothing changes by itself
SEED = 85
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
ICD10 = "http://hl7.org/fhir/sid/icd-10-cm"
CVX = "http://hl7.org/fhir/sid/cvx"
UCUM = "http://unitsofmeasure.org"
TERMS = "http://terminology.hl7.org/CodeSystem/"
HOSPITAL = "Demo Harbour Hospital"
_NUMBER = re.compile(r'"\|(-?[0-9.]+)\|"')


@dataclass(frozen=True, slots=True)
class Person:
    """A demo person as the login page offers them."""

    id: str
    name: str
    about: str


PEOPLE = (
    Person("demo-juniper", "Juniper Demo", "48 years, long-standing conditions, many results"),
    Person("demo-otto", "Otto Demo", "9 years, vaccines and growth, no known allergies"),
    Person("demo-wren", "Wren Demo", "77 years, heart and kidney follow-up"),
)


def serialise(resource: Resource) -> bytes:
    """Return the JSON bytes of a resource, numbers with the digits they were written with."""
    return _NUMBER.sub(r"\1", json.dumps(resource, ensure_ascii=False)).encode()


def resources() -> list[Resource]:
    """Return every resource of the demo hospital, the shared ones (people, places) first."""
    return [*_shared(), *_juniper(), *_otto(), *_wren()]


# ------------------------------------------------------------------ small pieces


def concept(text: str, system: str = "", code: str = "", display: str = "") -> Resource:
    """Return a CodeableConcept with its text and, where given, one coding."""
    found: Resource = {"text": text}
    if code:
        found["coding"] = [{"system": system, "code": code, "display": display or text}]
    return found


def _coded(system: str, code: str) -> Resource:
    return {"coding": [{"system": TERMS + system, "code": code}]}


def _quantity(digits: str, unit: str, code: str = "") -> Resource:
    return {"value": f"|{digits}|", "unit": unit, "system": UCUM, "code": code or unit}


def _day(days_ago: int) -> str:
    return (ANCHOR - timedelta(days=days_ago)).isoformat()


def _at(days_ago: int, clock: str = "09:30:00") -> str:
    return f"{_day(days_ago)}T{clock}Z"


def _make(kind: str, identity: str, person: str | None, updated: str, **elements: Any) -> Resource:
    resource: Resource = {
        "resourceType": kind,
        "id": identity,
        "meta": {"versionId": "1", "lastUpdated": updated},
    }
    if person is not None:
        key = {
            "AllergyIntolerance": "patient",
            "Immunization": "patient",
            "Coverage": "beneficiary",
        }
        resource[key.get(kind, "subject")] = {"reference": f"Patient/{person}"}
    return resource | elements


def _shared() -> Iterator[Resource]:
    updated = _at(900)
    yield _make(
        "Organization",
        "demo-hospital",
        None,
        updated,
        active=True,
        name=HOSPITAL,
        telecom=[{"system": "phone", "value": "555-0100"}],
        address=[{"line": ["1 Made-up Quay"], "city": "Demo Harbour", "country": "US"}],
    )
    yield _make("Organization", "demo-lab", None, updated, active=True, name="Demo Laboratory")
    yield _make(
        "Location",
        "demo-clinic",
        None,
        updated,
        status="active",
        name=f"{HOSPITAL}, day clinic",
        managingOrganization={"reference": "Organization/demo-hospital"},
    )
    for identity, given, family, work in (
        ("demo-dr-pell", "Imogen", "Pell-Demo", "Internal medicine"),
        ("demo-dr-quay", "Rufus", "Quay-Demo", "Paediatrics"),
        ("demo-dr-tide", "Salome", "Tide-Demo", "Cardiology"),
    ):
        yield _make(
            "Practitioner",
            identity,
            None,
            updated,
            active=True,
            name=[{"family": family, "given": [given], "prefix": ["Dr."]}],
            qualification=[{"code": {"text": work}}],
        )


def _patient(person: str, given: str, gender: str, born: str) -> Resource:
    return _make(
        "Patient",
        person,
        None,
        _at(400),
        active=True,
        identifier=[{"system": "urn:example:demo-hospital", "value": f"DEMO-{person[5:].upper()}"}],
        name=[{"use": "official", "family": "Demo", "given": [given]}],
        gender=gender,
        birthDate=born,
        address=[{"line": ["7 Made-up Lane"], "city": "Demo Harbour", "postalCode": "00000"}],
        managingOrganization={"reference": "Organization/demo-hospital"},
    )


def _visit(person: str, number: int, days_ago: int, reason: str, doctor: str) -> Resource:
    return _make(
        "Encounter",
        f"{person}-visit-{number}",
        person,
        _at(days_ago, "17:00:00"),
        status="finished",
        **{"class": {"system": TERMS + "v3-ActCode", "code": "AMB", "display": "ambulatory"}},
        type=[concept("Office visit", SNOMED, "308335008", "Patient encounter procedure")],
        participant=[{"individual": {"reference": f"Practitioner/{doctor}"}}],
        period={"start": _at(days_ago), "end": _at(days_ago, "10:05:00")},
        reasonCode=[{"text": reason}],
        location=[{"location": {"reference": "Location/demo-clinic"}}],
        serviceProvider={"reference": "Organization/demo-hospital"},
    )


def _problem(
    person: str, key: str, code: Resource, days_ago: int, status: str = "active"
) -> Resource:
    return _make(
        "Condition",
        f"{person}-problem-{key}",
        person,
        _at(days_ago),
        clinicalStatus=_coded("condition-clinical", status),
        verificationStatus=_coded("condition-ver-status", "confirmed"),
        category=[_coded("condition-category", "problem-list-item")],
        code=code,
        onsetDateTime=_day(days_ago),
        recordedDate=_day(days_ago),
        **({"abatementDateTime": _day(days_ago - 60)} if status == "resolved" else {}),
    )


DAILY = "1 tablet once a day"
TWICE = "1 tablet twice a day"
MORNING = "1 tablet each morning, before food"
NEEDED = "1 tablet when needed, at most 3 a day"
Prescription = tuple[str, str, str, str, int, str]  # key, text, RxNorm, dose, days ago, status


def _medicines(person: str, *prescriptions: Prescription) -> Iterator[Resource]:
    for key, text, rxnorm, dose, days_ago, status in prescriptions:
        yield _make(
            "MedicationRequest",
            f"{person}-medicine-{key}",
            person,
            _at(days_ago),
            status=status,
            intent="order",
            medicationCodeableConcept=concept(text, RXNORM, rxnorm),
            authoredOn=_day(days_ago),
            requester={"reference": "Practitioner/demo-dr-pell"},
            dosageInstruction=[{"text": dose}],
        )


def _allergy(person: str, key: str, text: str, code: tuple[str, str], reaction: str) -> Resource:
    return _make(
        "AllergyIntolerance",
        f"{person}-allergy-{key}",
        person,
        _at(700),
        clinicalStatus=_coded("allergyintolerance-clinical", "active"),
        verificationStatus=_coded("allergyintolerance-verification", "confirmed"),
        code=concept(text, *code),
        recordedDate=_day(700),
        **(
            {
                "criticality": "high",
                "reaction": [{"manifestation": [{"text": reaction}], "severity": "severe"}],
            }
            if reaction
            else {}
        ),
    )


def _vaccine(person: str, number: int, text: str, cvx: str, days_ago: int) -> Resource:
    return _make(
        "Immunization",
        f"{person}-vaccine-{number}",
        person,
        _at(days_ago),
        status="completed",
        vaccineCode=concept(text, CVX, cvx),
        occurrenceDateTime=_day(days_ago),
        primarySource=True,
        lotNumber=f"DEMO{number:03}",
        site=concept("Left arm"),
    )


# name, LOINC, unit, low, high, decimals
Test = tuple[str, str, str, str, str, int]
LIPIDS: tuple[Test, ...] = (
    ("Cholesterol, total", "2093-3", "mg/dL", "", "200", 0),
    ("LDL cholesterol", "13457-7", "mg/dL", "", "130", 0),
    ("HDL cholesterol", "2085-9", "mg/dL", "40", "", 0),
    ("Triglycerides", "2571-8", "mg/dL", "", "150", 0),
)
METABOLIC: tuple[Test, ...] = (
    ("Glucose", "2345-7", "mg/dL", "70", "99", 0),
    ("Creatinine", "2160-0", "mg/dL", "0.60", "1.20", 2),
    ("Potassium", "2823-3", "mmol/L", "3.50", "5.10", 2),
    ("Sodium", "2951-2", "mmol/L", "136", "145", 0),
    ("Hemoglobin A1c", "4548-4", "%", "4.0", "5.6", 1),
)
BLOOD: tuple[Test, ...] = (
    ("Hemoglobin", "718-7", "g/dL", "12.0", "15.5", 1),
    ("White blood cells", "6690-2", "10*3/uL", "4.50", "11.00", 2),
    ("Platelets", "777-3", "10*3/uL", "150", "400", 0),
    ("Ferritin", "2276-4", "ng/mL", "13", "150", 0),
)


def _panel(
    person: str, name: str, tests: tuple[Test, ...], days_ago: int, random: Random
) -> Iterator[Resource]:
    """Yield one laboratory report with its results, each with the range this lab gave."""
    tag = f"{person}-{name.split(maxsplit=1)[0].lower()}-{days_ago}"
    results = [
        _result(f"{tag}-{n}", person, test, days_ago, random) for n, test in enumerate(tests)
    ]
    yield from results
    yield _make(
        "DiagnosticReport",
        tag,
        person,
        _at(days_ago, "16:00:00"),
        status="final",
        category=[_coded("v2-0074", "LAB")],
        code=concept(name),
        effectiveDateTime=_at(days_ago, "07:40:00"),
        issued=_at(days_ago, "16:00:00"),
        performer=[{"reference": "Organization/demo-lab"}],
        result=[{"reference": f"Observation/{result['id']}"} for result in results],
    )


def _result(identity: str, person: str, test: Test, days_ago: int, random: Random) -> Resource:
    name, loinc, unit, low, high, decimals = test
    value = f"{_draw(low, high, random):.{decimals}f}"
    flag = (
        "H"
        if high and float(value) > float(high)
        else "L"
        if low and float(value) < float(low)
        else "N"
    )
    range_: Resource = {}
    if low:
        range_["low"] = _quantity(low, unit)
    if high:
        range_["high"] = _quantity(high, unit)
    return _make(
        "Observation",
        identity,
        person,
        _at(days_ago, "16:00:00"),
        status="final",
        category=[_coded("observation-category", "laboratory")],
        code=concept(name, LOINC, loinc),
        effectiveDateTime=_at(days_ago, "07:40:00"),
        performer=[{"reference": "Organization/demo-lab"}],
        valueQuantity=_quantity(value, unit),
        interpretation=[_coded("v3-ObservationInterpretation", flag)],
        referenceRange=[range_],
    )


def _draw(low: str, high: str, random: Random) -> float:
    """Draw a value that is mostly inside the range and sometimes a little outside."""
    bottom = float(low) if low else float(high) * 0.5
    top = float(high) if high else float(low) * 1.8
    return bottom + (top - bottom) * random.uniform(-0.05, 1.15)


def _vital(person: str, key: str, days_ago: int, code: Resource, **value: Any) -> Resource:
    return _make(
        "Observation",
        f"{person}-{key}-{days_ago}",
        person,
        _at(days_ago),
        status="final",
        category=[_coded("observation-category", "vital-signs")],
        code=code,
        effectiveDateTime=_at(days_ago),
        **value,
    )


def _vitals(
    person: str, days_ago: int, pressure: tuple[int, int], weight: str, height: str
) -> Iterator[Resource]:
    parts = [
        {
            "code": concept(text, LOINC, loinc),
            "valueQuantity": _quantity(str(value), "mmHg", "mm[Hg]"),
        }
        for text, loinc, value in zip(
            ("Systolic blood pressure", "Diastolic blood pressure"),
            ("8480-6", "8462-4"),
            pressure,
            strict=True,
        )
    ]
    code = concept("Blood pressure", LOINC, "85354-9")
    yield _vital(person, "pressure", days_ago, code, component=parts)
    for key, text, loinc, value, unit in (
        ("weight", "Body weight", "29463-7", weight, "kg"),
        ("height", "Body height", "8302-2", height, "cm"),
        ("pulse", "Heart rate", "8867-4", str(60 + days_ago % 23), "/min"),
    ):
        measured = _quantity(value, unit)
        yield _vital(person, key, days_ago, concept(text, LOINC, loinc), valueQuantity=measured)


def _document(person: str, key: str, title: str, days_ago: int, **attachment: Any) -> Resource:
    return _make(
        "DocumentReference",
        f"{person}-document-{key}",
        person,
        _at(days_ago),
        status="current",
        type=concept(title, LOINC, "11506-3", "Progress note"),
        category=[
            concept(
                "Clinical note",
                "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
                "clinical-note",
            )
        ],
        date=_at(days_ago),
        author=[{"reference": "Practitioner/demo-dr-pell"}],
        content=[{"attachment": {"title": title, **attachment}}],
    )


def _note(*paragraphs: str) -> str:
    body = "".join(f"<p>{text}</p>" for text in paragraphs)
    page = f"<html><head><title>Demo note</title></head><body>{body}</body></html>"
    return base64.b64encode(page.encode()).decode()


def _team(person: str, *doctors: str) -> Resource:
    return _make(
        "CareTeam",
        f"{person}-team",
        person,
        _at(300),
        status="active",
        name="Care team",
        participant=[
            {"role": [concept("Doctor")], "member": {"reference": f"Practitioner/{doctor}"}}
            for doctor in doctors
        ],
    )


def _cover(person: str) -> Resource:
    return _make(
        "Coverage",
        f"{person}-cover",
        person,
        _at(300),
        status="active",
        type=concept("Health insurance"),
        subscriberId=f"DEMO-{person[5:].upper()}-1",
        payor=[{"display": "Demo Mutual Insurance"}],
        period={"start": _day(1400)},
    )


# ------------------------------------------------------------------ the people


def _juniper() -> Iterator[Resource]:
    person, random = "demo-juniper", Random(SEED)  # noqa: S311 - made-up people, not a secret
    yield _patient(person, "Juniper", "female", "1978-03-14")
    yield _problem(person, "thyroid", concept("Hypothyroidism", SNOMED, "40930008"), 2900)
    yield _problem(person, "iron", concept("Iron deficiency", ICD10, "E61.1"), 400)
    yield _problem(
        person, "ankle", concept("Sprain of ankle", SNOMED, "44465007"), 1500, "resolved"
    )
    yield _problem(person, "mood", concept("Moderate depressive episode", ICD10, "F32.1"), 820)
    yield _allergy(person, "penicillin", "Penicillin", (RXNORM, "70618"), "Swelling of the throat")
    yield _allergy(person, "latex", "Latex", (SNOMED, "111088007"), "Skin rash")
    yield from _medicines(
        person,
        ("thyroid", "Levothyroxine 50 microgram tablet", "966222", MORNING, 380, "active"),
        ("iron", "Ferrous fumarate 210 mg tablet", "310323", DAILY, 200, "active"),
        ("mood", "Sertraline 50 mg tablet", "312941", DAILY, 810, "stopped"),
        ("old", "Ibuprofen 400 mg tablet", "197805", NEEDED, 1490, "completed"),
    )
    for number, (text, cvx, days) in enumerate(
        (
            ("Influenza vaccine, season 2026/27", "150", 20),
            ("Influenza vaccine, season 2025/26", "150", 390),
            ("COVID-19 vaccine", "308", 395),
            ("Tetanus, diphtheria, pertussis (Tdap)", "115", 2100),
        )
    ):
        yield _vaccine(person, number, text, cvx, days)
    for days in (3, 185, 370, 560, 740, 1100, 1460, 1830):
        yield from _panel(person, "Blood count and iron", BLOOD, days, random)
        yield from _panel(person, "Lipid panel", LIPIDS, days, random)
        if days % 2:
            yield from _panel(person, "Basic metabolic panel", METABOLIC, days, random)
    for number, (days, reason) in enumerate(
        (
            (5, "Yearly check-up"),
            (190, "Thyroid follow-up"),
            (375, "Yearly check-up"),
            (815, "Low mood"),
            (1500, "Twisted ankle"),
        )
    ):
        yield _visit(person, number, days, reason, "demo-dr-pell")
        yield from _vitals(
            person, days, (118 + number * 2, 76 + number), f"6{4 + number % 3}.{number}0", "168"
        )
    yield _make(
        "Procedure",
        f"{person}-procedure-1",
        person,
        _at(600),
        status="completed",
        code=concept("Upper endoscopy", SNOMED, "386802000"),
        performedDateTime=_at(600),
        performer=[{"actor": {"reference": "Practitioner/demo-dr-tide"}}],
    )
    yield _document(
        person, "letter", "Letter: thyroid clinic, follow-up", 186, contentType="text/html",
        data=_note("This letter is made up.", "Thyroid values are stable. The dose stays."),
    )  # fmt: skip
    yield _document(
        person,
        "report",
        "Endoscopy report",
        598,
        contentType="application/pdf",
        url="Binary/demo-report",
    )
    yield _make("Binary", "demo-report", None, _at(598), contentType="application/pdf")
    yield _team(person, "demo-dr-pell", "demo-dr-tide")
    yield _cover(person)


def _otto() -> Iterator[Resource]:
    person, random = "demo-otto", Random(SEED + 1)  # noqa: S311 - made-up people, not a secret
    yield _patient(person, "Otto", "male", "2017-05-02")
    none_known = ("No known allergies", (SNOMED, "716186003"), "")
    yield _allergy(person, "none", *none_known)
    yield _problem(person, "ear", concept("Otitis media", SNOMED, "65363002"), 900, "resolved")
    for number, (text, cvx, days) in enumerate(
        (
            ("Measles, mumps, rubella (MMR)", "03", 3100),
            ("Measles, mumps, rubella (MMR)", "03", 1980),
            ("Varicella", "21", 3100),
            ("Polio (IPV)", "10", 1980),
            ("Influenza vaccine, season 2026/27", "150", 22),
        )
    ):
        yield _vaccine(person, number, text, cvx, days)
    for number, days in enumerate((30, 395, 760, 1120)):
        yield _visit(person, number, days, "Well-child check", "demo-dr-quay")
        height, weight = 138.5 - number * 6.5, 31.40 - number * 3.15
        yield from _vitals(person, days, (98 - number, 60), f"{weight:.2f}", f"{height:.1f}")
    yield from _panel(person, "Blood count", BLOOD[:3], 400, random)
    yield _team(person, "demo-dr-quay")
    yield _cover(person)


def _wren() -> Iterator[Resource]:
    person, random = "demo-wren", Random(SEED + 2)  # noqa: S311 - made-up people, not a secret
    yield _patient(person, "Wren", "female", "1949-09-30")
    yield _problem(person, "pressure", concept("High blood pressure", SNOMED, "38341003"), 5400)
    yield _problem(
        person, "kidney", concept("Chronic kidney disease stage 3", SNOMED, "433144002"), 1700
    )
    yield _problem(person, "rhythm", concept("Atrial fibrillation", SNOMED, "49436004"), 900)
    yield from _medicines(
        person,
        ("pressure", "Lisinopril 10 mg tablet", "314076", DAILY, 300, "active"),
        ("rhythm", "Apixaban 5 mg tablet", "1364445", TWICE, 300, "active"),
    )
    for days in (12, 100, 190, 280, 370, 460, 550, 640):
        yield from _panel(person, "Basic metabolic panel", METABOLIC, days, random)
    for number, days in enumerate((14, 195, 375, 640)):
        yield _visit(person, number, days, "Heart and kidney follow-up", "demo-dr-tide")
        yield from _vitals(person, days, (142 - number * 3, 84 - number), "71.20", "161")
    yield _team(person, "demo-dr-tide")
    yield _cover(person)


REPORT_LINES = (
    "Demo Harbour Hospital (this hospital is not real)",
    "Endoscopy report, made up for the demo",
    "Findings: none. This document shows how a PDF appears.",
)


def report_pdf() -> bytes:
    """Return a small valid PDF (ISO 32000-1) that says it is made up."""
    shown = "".join(f"({line}) Tj 0 -24 Td " for line in REPORT_LINES)
    stream = f"BT /F1 14 Tf 60 760 Td {shown}ET".encode()
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
            b" /Resources << /Font << /F1 5 0 R >> >> >>"
        ),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size, start = len(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, start)
    return bytes(out)
