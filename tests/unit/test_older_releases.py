"""DSTU2 and STU3 elements are read under R4's names; R4 passes as it is; nothing is made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.fhir.older import as_r4


def read(kind, **fields):
    made = as_r4({"resourceType": kind, **fields})
    assert made.pop("resourceType") == kind
    return made


@pytest.mark.parametrize(
    ("kind", "older", "newer"),
    [
        ("AllergyIntolerance", {"substance": {"text": "Peanut"}}, {"code": {"text": "Peanut"}}),
        ("AllergyIntolerance", {"status": "refuted"}, {"verificationStatus": "refuted"}),
        ("AllergyIntolerance", {"status": "inactive"}, {"clinicalStatus": "inactive"}),
        (
            "AllergyIntolerance",
            {"substance": {"text": "Egg"}, "criticality": "CRITH"},
            {"code": {"text": "Egg"}, "criticality": "high"},
        ),
        ("Immunization", {"wasNotGiven": True}, {"status": "not-done"}),
        ("Immunization", {"wasNotGiven": False, "status": "completed"}, {"status": "completed"}),
        ("Immunization", {"reported": True}, {"primarySource": False}),
        (
            "Immunization",
            {"date": "2015", "vaccinationProtocol": [{"doseSequence": 2}]},
            {"occurrenceDateTime": "2015", "protocolApplied": [{"doseNumberPositiveInt": 2}]},
        ),
        (
            "Procedure",
            {"notPerformed": True, "status": "entered-in-error"},
            {"status": "entered-in-error"},
        ),
        ("Procedure", {"notDone": True, "status": "completed"}, {"status": "not-done"}),
        ("Condition", {"notes": "worse in winter"}, {"note": [{"text": "worse in winter"}]}),
        ("Observation", {"comments": "hemolysed"}, {"note": [{"text": "hemolysed"}]}),
        ("MedicationOrder", {"dateWritten": "2015"}, {"authoredOn": "2015"}),
        (
            "MedicationStatement",
            {"wasNotTaken": True, "dosage": [{"quantityQuantity": {"value": 2}}]},
            {"wasNotTaken": True, "dosage": [{"doseQuantity": {"value": 2}}]},
        ),
        ("DiagnosticOrder", {"item": [{"code": {"text": "A"}}]}, {"code": {"text": "A"}}),
        (
            "DiagnosticOrder",
            {"item": [{"code": {"text": "A"}}, {"code": {"coding": [{"display": "B"}]}}]},
            {"code": {"text": "A; B"}},
        ),
        ("ReferralRequest", {"dateSent": "2015"}, {"authoredOn": "2015"}),
        ("Encounter", {"reason": [{"text": "Pain"}]}, {"reasonCode": [{"text": "Pain"}]}),
    ],
)
def test_an_older_element_is_read_under_its_new_name(kind, older, newer):
    made = read(kind, **older)
    assert {name: made[name] for name in newer} == newer
    assert not {"substance", "wasNotGiven", "notPerformed", "dateWritten"} & made.keys()


def test_what_r4_itself_says_is_never_replaced():
    found = {"code": {"text": "Latex"}, "substance": {"text": "Rubber"}}
    assert read("AllergyIntolerance", **found)["code"] == {"text": "Latex"}
    assert read("AllergyIntolerance", **dict(reversed(found.items())))["code"] == {"text": "Latex"}


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "AllergyIntolerance", "code": {"text": "x"}, "criticality": "high"},
        {"resourceType": "MedicationRequest", "requester": {"reference": "Practitioner/1"}},
        {"resourceType": "Immunization", "performer": [{"actor": {}}], "protocolApplied": []},
        {"resourceType": "MedicationStatement", "dosage": [{"text": "daily"}]},
        {"resourceType": "Basic", "substance": 1},
        {"resourceType": ["AllergyIntolerance"], "substance": 1},
        {},
    ],
)
def test_a_newer_resource_passes_as_the_same_object(resource):
    assert as_r4(resource) is resource


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
ELEMENTS = ("substance", "status", "criticality", "wasNotGiven", "explanation", "item", "notes",
            "vaccinationProtocol", "performer", "dosage", "requester", "reported", "patient",
            "date", "note", "notPerformed", "comments")  # fmt: skip
TYPES = ("AllergyIntolerance", "Condition", "DiagnosticOrder", "Immunization", "Observation",
         "MedicationStatement", "Procedure", "ReferralRequest")  # fmt: skip


@given(kind=st.sampled_from(TYPES), fields=st.dictionaries(st.sampled_from(ELEMENTS), ANYTHING))
def test_no_shape_makes_it_fail_and_the_received_resource_is_not_changed(kind, fields):
    resource = {"resourceType": kind, **fields}
    before = repr(resource)
    assert as_r4(resource)["resourceType"] == kind
    assert repr(resource) == before
