"""How a code is shown: its text, a display, a bundled word, and only then the bare code."""

import pytest

from phr.chart import hl7
from phr.chart.plain import coding_words, concept_words

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"


def coding(code, system, display=None):
    return {"system": system, "code": code} | ({"display": display} if display else {})


@pytest.mark.parametrize(
    ("concept", "shown"),
    [
        ({"text": "Sugar", "coding": [coding("2345-7", "http://loinc.org", "Glucose")]}, "Sugar"),
        ({"coding": [coding("x", "urn:a"), coding("2345-7", "http://loinc.org", "G")]}, "G"),
        ({"coding": [coding("2345-7", "http://loinc.org")]}, "Code 2345-7 (LOINC)"),
        ({"coding": [coding("active", f"{TERMINOLOGY}condition-clinical")]}, "active"),
        ({"coding": [coding("problem-list-item", f"{TERMINOLOGY}c")]}, "problem list item"),
        ({"coding": [coding("LAB", f"{TERMINOLOGY}v2-0074")]}, "laboratory"),
        ({"coding": [coding("LAB", "http://hl7.org/fhir/v2/0074")]}, "laboratory"),
        ({"coding": [coding("MTH", "http://hl7.org/fhir/v3/RoleCode")]}, "mother"),
        ({"coding": [coding("MR", "http://hl7.org/fhir/v2/0203")]}, "medical record number"),
        ({"coding": [coding("ZZ", f"{TERMINOLOGY}v2-0074")]}, "Code ZZ (v2-0074)"),
        (
            {"coding": [coding("141", "http://hl7.org/fhir/sid/cvx")]},
            "Vaccine against Influenza (CVX 141)",
        ),
        ({"coding": [coding("active", "http://hospital.example/states")]}, "Code active (states)"),
    ],
)
def test_a_concept_is_shown_by_the_best_words_there_are(concept, shown):
    assert concept_words(concept) == shown


def test_a_display_of_the_source_goes_before_the_bundled_word():
    assert coding_words(coding("LAB", f"{TERMINOLOGY}v2-0074", "Labor")) == "Labor"


def test_only_systems_of_hl7_are_translated():
    assert hl7.words("http://loinc.org", "active") == ""
    assert hl7.words("", "active") == ""
