"""Vaccines by disease: CVX codes to groups, combined vaccines in each of theirs."""

from datetime import UTC, datetime

import pytest

from phr.chart.plain import concept_words
from phr.chart.vaccines import CVX, GROUPS, groups
from phr.views import VIEWS, Context, show
from phr.views.immunizations import OTHER
from tests.fixtures_records import as_records, concept

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("code", "against"),
    [
        ("141", ("Influenza",)),
        ("03", ("Measles, mumps, rubella",)),
        ("3", ("Measles, mumps, rubella",)),
        ("94", ("Measles, mumps, rubella", "Chickenpox")),
        ("115", ("Tetanus, diphtheria, pertussis",)),
        ("110", ("Tetanus, diphtheria, pertussis", "Polio", "Hepatitis B")),
        ("208", ("COVID-19",)),
        ("187", ("Shingles",)),
        ("21", ("Chickenpox",)),
    ],
)
def test_a_code_leads_to_the_diseases_it_is_against(code, against):
    assert groups([(CVX, code)]) == against


@pytest.mark.parametrize("code", ["30", "34", "36", "93", "98", "306", "998", "999", "", "abc"])
def test_globulins_skin_tests_and_unknown_codes_are_in_no_group(code):
    assert groups([(CVX, code)]) == ()


def test_the_same_number_of_another_system_means_nothing():
    assert groups([("http://www.ama-assn.org/go/cpt", "141")]) == ()


def dose(name, code, on):
    return {
        "resourceType": "Immunization",
        "status": "completed",
        "vaccineCode": concept(name, code, CVX),
        "occurrenceDateTime": on,
    }


def test_the_page_counts_doses_by_disease_and_keeps_what_it_cannot_place():
    records = as_records(
        dose("Flu shot", "141", "2025-10-01"),
        dose("Flu shot", "141", "2024-10-01"),
        dose("MMRV", "94", "1990-01-01"),
        dose("Something new", "7777", "2026-01-01"),
    )
    body = str(show(VIEWS["immunizations"], records, Context(origins={}, now=NOW)).body)
    places = [body.index(f">{name}<") for name in ("Influenza", "Chickenpox", OTHER)]
    assert places == sorted(places)
    assert "2 doses" in body
    assert body.count("MMRV") == 2  # once for each of its diseases
    assert body.count("Something new") == 1


def test_every_group_has_a_code():
    assert len(GROUPS) == len(set(GROUPS)) > 25


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("207", "Vaccine against COVID-19 (CVX 207)"),
        ("208", "Vaccine against COVID-19 (CVX 208)"),
        ("20", "Vaccine against Tetanus, diphtheria, pertussis (CVX 20)"),
        ("999", "Code 999 (CVX)"),
    ],
)
def test_a_vaccine_without_a_name_is_named_by_what_it_is_against(code, named):
    assert concept_words({"coding": [{"system": CVX, "code": code}]}) == named
    assert (
        concept_words({"coding": [{"system": CVX, "code": code, "display": "As sent"}]})
        == "As sent"
    )
