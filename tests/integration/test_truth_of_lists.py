"""Odd but legal records, as a person and a doctor read them: nothing untrue, lost, or alarming."""

import pytest

from tests.fixtures_records import Digits, juniper, keep_records
from tests.walking import doctors_pages, text_of

_FLAGS = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
_VERIFIED = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_ACTIVE = {
    "coding": [
        {"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}
    ]
}
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
WHO = {"reference": "Patient/juniper"}
CRITICAL = [{"coding": [{"system": _FLAGS, "code": "HH", "display": "Critical high"}]}]


def measured(id_, **more):
    """Return an Observation with a name of its own."""
    made = {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "subject": WHO,
        "code": {"text": f"Test {id_}"},
        "effectiveDateTime": "2026-11-20T08:00:00Z",
    }
    return made | more


def suspected(code, name):
    """Return a Condition listed as active whose verification says otherwise."""
    return {
        "resourceType": "Condition",
        "id": code,
        "subject": WHO,
        "clinicalStatus": _ACTIVE,
        "verificationStatus": {"coding": [{"system": _VERIFIED, "code": code}]},
        "code": {"text": name},
        "onsetDateTime": "2026-11-19",
    }


ODD = [
    measured(
        "cancelled",
        status="cancelled",
        valueQuantity={"value": 99, "unit": "mg/dL"},
        interpretation=CRITICAL,
    ),
    measured("early", status="preliminary", valueString="Growth of E. coli"),
    measured(
        "parts",
        component=[
            {"code": {"text": "Width"}, "valueQuantity": {"value": Digits("5.0"), "unit": "mm"}},
            {"valueQuantity": {"value": 7, "unit": "mm"}},
        ],
    ),
    measured(
        "pressure",
        category=[{"coding": [{"code": "vital-signs"}]}],
        code={"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
        component=[
            {
                "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
                "valueQuantity": {"value": 118, "unit": "mmHg"},
            },
            {
                "code": {"coding": [{"system": "http://loinc.org", "code": "8462-4"}]},
                "dataAbsentReason": {"text": "not measured"},
            },
        ],
    ),
    {
        "resourceType": "Immunization",
        "id": "refused",
        "status": "not-done",
        "patient": WHO,
        "vaccineCode": {"text": "MMR"},
        "occurrenceDateTime": "2026-11-18",
    },
    {
        "resourceType": "Immunization",
        "id": "weak",
        "status": "completed",
        "patient": WHO,
        "vaccineCode": {"text": "Rabies"},
        "occurrenceDateTime": "1899",
        "isSubpotent": True,
    },
    {
        "resourceType": "Procedure",
        "id": "undone",
        "status": "not-done",
        "subject": WHO,
        "code": {"text": "Colonoscopy"},
        "performedDateTime": "2026-11-17",
    },
    {
        "resourceType": "Procedure",
        "id": "young",
        "status": "completed",
        "subject": WHO,
        "code": {"text": "Tonsils"},
        "performedAge": {"value": 6, "unit": "a", "code": "a"},
    },
    {
        "resourceType": "Encounter",
        "id": "off",
        "status": "cancelled",
        "subject": WHO,
        "class": {"code": "AMB"},
        "type": [{"text": "Eye clinic"}],
        "period": {"start": "2026-11-16"},
    },
    {
        "resourceType": "MedicationRequest",
        "id": "never",
        "status": "active",
        "intent": "order",
        "doNotPerform": True,
        "subject": WHO,
        "medicationCodeableConcept": {"text": "Ketorolac"},
        "authoredOn": "2026-11-15",
    },
    {
        "resourceType": "MedicationRequest",
        "id": "short",
        "status": "active",
        "intent": "order",
        "subject": WHO,
        "medicationCodeableConcept": {"text": "Prednisolone"},
        "authoredOn": "2026-11-20",
        "dosageInstruction": [
            {
                "doseAndRate": [{"doseQuantity": {"value": 40, "unit": "mg"}}],
                "timing": {
                    "repeat": {
                        "frequency": 1,
                        "period": 1,
                        "periodUnit": "d",
                        "boundsDuration": {"value": 5, "unit": "d", "code": "d"},
                    }
                },
            }
        ],
    },
    {
        "resourceType": "AllergyIntolerance",
        "id": "two",
        "patient": WHO,
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "code": {
            "coding": [
                {"system": RXNORM, "code": "1191", "display": "Aspirin"},
                {"system": RXNORM, "code": "2670", "display": "Codeine"},
                {"system": RXNORM, "code": "1001473", "display": "Aspirin 81 MG"},
            ]
        },
    },
    suspected("refuted", "Lupus"),
    suspected("differential", "Sarcoidosis"),
]


@pytest.fixture
def read(cast):
    """Return a function that gives the text of a page of Ada's record with the odd ones in it."""
    keep_records(cast.vault("Ada"), [*juniper(), *ODD])
    browser = cast.browser("Ada")
    return lambda path: text_of(browser.get(f"/p/{cast.patients['Ada']}/{path}").text)


def row(page, title):
    """Return what stands behind a title on a page, on one line."""
    return " ".join(page.partition(title)[2].split())[:160]


def test_the_timeline_says_what_did_not_happen(read):
    page = read("timeline")
    assert "Vaccination, not given" in row(page, "MMR")
    assert "Procedure, not done" in row(page, "Colonoscopy")
    assert "Visit, cancelled" in row(page, "Eye clinic")
    assert "not to be given" in row(page, "Ketorolac")
    assert "Problem, ruled out" in row(page, "Lupus")
    assert "Problem, differential" in row(page, "Sarcoidosis")


def test_search_says_it_too(read):
    assert "Vaccination, not given" in read("search?q=mmr")


def test_a_cancelled_result_alarms_nobody(read):
    assert "Test cancelled" not in row(read(""), "Did a source flag anything?")
    assert "Cancelled" in row(read("results"), "Test cancelled")
    assert "Test cancelled" not in read("summary")


def test_what_is_preliminary_says_so_wherever_it_stands(read):
    assert "Growth of E. coli (preliminary)" in read("summary")
    assert "Preliminary" in row(read("results"), "Test early")


def test_the_card_says_of_a_suspicion_that_it_is_one(read):
    page = read("card")
    assert "Sarcoidosis (active, differential)" in " ".join(page.split())
    assert "Lupus" not in page


def test_systolic_and_diastolic_have_names_without_a_display(read):
    page = read("vitals")
    assert "Systolic 118 mmHg" in page
    assert "Code 8480-6" not in page


def test_a_source_whose_own_codes_name_two_substances_is_not_read_as_one(read):
    said = row(read("allergies"), "Aspirin")
    assert "Its source's own codes do not agree: it also says Codeine." in said


def test_a_vaccine_that_may_not_have_worked_says_so(read):
    assert "Marked by the source as not fully effective" in row(read("immunizations"), "Rabies")


def test_ages_and_lengths_are_in_words(read):
    assert "at age 6 years" in read("procedures")
    assert "for 5 days" in read("medications")


def test_a_visit_that_was_cancelled_does_not_go_on(read):
    page = row(read("visits"), "Eye clinic")
    assert "since" not in page
    assert "16 Nov 2026" in page


def test_a_doctor_reads_the_same(cast, read):
    read("")
    pages = dict(doctors_pages(cast, "Ada"))
    first = " ".join(text_of(pages[min(pages, key=len)]).split())
    assert "Test cancelled" not in first
    assert "Test early (preliminary)" in first
    assert "Width 5.0 mm" in first
    timeline = next(page for path, page in pages.items() if path.endswith("/timeline"))
    assert "Vaccination, not given" in row(text_of(timeline), "MMR")
