"""Sensitivity labels."""

import re

import pytest

from phr.fhir import labels
from phr.fhir.intake import Intake
from phr.fhir.kinds import KINDS
from phr.fhir.labels import Label

ICD = "http://hl7.org/fhir/sid/icd-10-cm"
SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"

CASES = [
    (ICD, "F10.20", Label.ETH | Label.ETHUD),
    (ICD, "F11.20", Label.ETH | Label.OPIOIDUD),
    (ICD, "F14.1", Label.ETH),
    (ICD, "F33.1", Label.PSY),
    (ICD, "T74.11XA", Label.SDV),
    (ICD, "B20", Label.HIV),
    (ICD, "A54.00", Label.STD),
    (ICD, "Z30.9", Label.SEX),
    (ICD, "E84.0", Label.GDIS),
    (SNOMED, "86406008", Label.HIV),
    (SNOMED, "370143000", Label.PSY),
    (SNOMED, "72892002", Label.SEX),
    (LOINC, "44261-6", Label.PSY),
    (LOINC, "20447-9", Label.HIV),
    (RXNORM, "6813", Label.ETH | Label.OPIOIDUD),
    ("urn:oid:2.16.840.1.113883.6.90", "B20", Label.HIV),
    (ICD, "E11.9", Label.NONE),
    (ICD, "I10", Label.NONE),
    (LOINC, "2345-7", Label.NONE),
    ("urn:local", "F10.20", Label.NONE),
]


@pytest.mark.parametrize(("system", "code", "expected"), CASES)
def test_codes_carry_the_labels_of_their_class(system, code, expected):
    document = {"resourceType": "Condition", "code": {"coding": [{"system": system, "code": code}]}}
    assert expected == labels.label(document)


def test_a_sensitive_code_anywhere_labels_the_whole_resource():
    document = {
        "resourceType": "Encounter",
        "reasonCode": [{"coding": [{"system": ICD, "code": "F32.9"}]}],
    }
    assert labels.label(document) == Label.PSY


def test_medicines_are_known_by_their_ingredients_name():
    document = {
        "resourceType": "MedicationRequest",
        "medicationCodeableConcept": {"text": "Buprenorphine 8 MG / Naloxone 2 MG Film"},
    }
    assert labels.label(document) == Label.ETH | Label.OPIOIDUD


@pytest.mark.parametrize(
    ("code", "expected"),
    [("R", Label.R), ("V", Label.V), ("N", Label.NONE), ("PSY", Label.PSY), ("HTEST", Label.NONE)],
)
def test_what_the_source_says_counts(code, expected):
    document = {"resourceType": "Basic", "meta": {"security": [{"system": "x", "code": code}]}}
    assert expected == labels.label(document)


def test_every_label_says_which_rule_gave_it():
    document = {"resourceType": "Condition", "code": {"coding": [{"system": ICD, "code": "B20"}]}}
    assert list(labels.explain(document)) == [("icd10-hiv", Label.HIV)]


def test_rules_have_one_id_each_and_plain_codes():
    assert len(labels.RULES) == len({rule.id for rule in labels.RULES})
    for rule in labels.RULES:
        assert all(re.fullmatch(r"[A-Z0-9-]+", code) for code in (*rule.codes, *rule.prefixes))


@pytest.mark.parametrize(("system", "code", "expected"), CASES)
def test_the_importer_gives_the_same_labels(system, code, expected):
    body = (
        b'{"resourceType":"Condition","id":"1","meta":{"lastUpdated":"2024-01-01T00:00:00Z"},'
        b'"code":{"coding":[{"system":"%s","code":"%s"}]}}' % (system.encode(), code.encode())
    )
    assert expected == Intake().take(body, KINDS["Condition"]).labels
