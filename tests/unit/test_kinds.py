"""The table of resource types."""

from phr.fhir import kinds
from phr.fhir.kinds import BY_NUMBER, KINDS

STORED = {  # numbers and bits that vaults hold already: these must never move
    "Account": 1,
    "AllergyIntolerance": 4,
    "Observation": 96,
    "Patient": 103,
    "VisionPrescription": 146,
}


def test_numbers_in_vaults_do_not_move():
    assert {type_: KINDS[type_].number for type_ in STORED} == STORED
    assert tuple(kinds.CATEGORIES[name] for name in ("other", "laboratory", "vital-signs")) == (
        1,
        2,
        4,
    )
    assert len(KINDS) == len(BY_NUMBER)


def test_every_type_has_words_a_section_and_a_date():
    for kind in KINDS.values():
        assert kind.label
        assert kind.singular
        assert kind.section in kinds.SECTIONS
        assert kind.dates


def test_what_us_core_servers_demand_is_asked_for():
    chains = KINDS["Observation"].searches
    assert {"category=laboratory", "category=vital-signs", "category=sdoh"} <= set(chains)
    assert "intent=order" in KINDS["MedicationRequest"].searches
    assert "category=encounter-diagnosis" in KINDS["Condition"].searches
    assert "category=clinical-note" in KINDS["DocumentReference"].searches


def test_vital_signs_are_read_apart_from_other_results():
    observation = KINDS["Observation"]
    assert observation.section_for(kinds.CATEGORIES["vital-signs"]) == "vitals"
    assert observation.section_for(kinds.CATEGORIES["laboratory"]) == "results"


def test_category_bits_fit_into_a_signed_integer():
    assert max(kinds.CATEGORIES.values()) < 1 << 62
