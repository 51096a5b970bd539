"""Plain words: digits, precision, codes, names, marks and titles as the source gave them."""

import pytest

from phr import clock
from phr.chart import plain, titles
from phr.chart.book import Book
from phr.chart.fields import fields
from phr.chart.marks import marks
from phr.fhir import document
from phr.views import timeline
from phr.views.frame import Context
from tests.fixtures_records import Digits, as_record, as_records, body_of, concept


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("2026", "2026"),
        ("2026-11", "Nov 2026"),
        ("2026-11-19", "19 Nov 2026"),
        ("2026-11-19T08:20:00-05:00", "19 Nov 2026, 08:20"),
        ("2026-11-19T08:20Z", "19 Nov 2026, 08:20 UTC"),
        ("2026-11-19T08:20:31.123Z", "19 Nov 2026, 08:20 UTC"),
        ("1812-01-01", "1 Jan 1812"),
        ("0000-00-00", "0000-00-00"),
        ("last spring", "last spring"),
        (None, ""),
        (17, "17"),
        ({"odd": 1}, ""),
    ],
)
def test_a_moment_keeps_the_precision_and_the_clock_of_its_source(sent, shown):
    assert plain.moment_words(sent) == shown


@pytest.mark.parametrize("digits", ["5.40", "1.10", "0.000", "1e2", "100", "-3.0"])
def test_digits_are_shown_as_they_were_sent(digits):
    value = document.loads(body_of({"value": Digits(digits)}))
    assert plain.quantity_words(value | {"unit": "mmol/L"}) == f"{digits} mmol/L"


def test_a_truth_value_is_no_number():
    assert plain.digits(True) == ""
    assert plain.number(True) is None


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"text": "LDL", "coding": [{"display": "other"}]}, "LDL"),
        ({"coding": [{"code": "1"}, {"display": "LDL cholesterol"}]}, "LDL cholesterol"),
        (concept(code="2089-1"), "Code 2089-1 (LOINC)"),
        ({"coding": [{"code": "7", "system": "urn:example:local-list"}]}, "Code 7 (local-list)"),
        ({"coding": [{"code": "7"}]}, "Code 7"),
        ("a bare text", "a bare text"),
        ({"concept": {"text": "R5"}}, "R5"),
        ({}, ""),
        (["odd"], ""),
        ({"coding": "odd", "text": 5}, "5"),
    ],
)
def test_a_code_reads_as_text_then_display_then_the_bare_code(sent, shown):
    assert plain.concept_words(sent) == shown


def test_ranges_and_ratios_keep_their_open_ends_and_units():
    low, high = {"value": 15, "unit": "g/L"}, {"value": 150, "unit": "g/L"}
    assert plain.range_words({"low": low, "high": high}) == "15 to 150 g/L"
    assert plain.range_words({"low": low}) == "from 15 g/L"
    assert plain.range_words({"high": high}) == "up to 150 g/L"
    assert (
        plain.ratio_words({"numerator": {"value": 1}, "denominator": {"value": 128}}) == "1 : 128"
    )
    dose = {"numerator": {"value": 250, "unit": "mg"}, "denominator": {"value": 5, "unit": "mL"}}
    assert plain.ratio_words(dose) == "250 mg per 5 mL"
    assert plain.quantity_words({"value": 9, "comparator": "<", "unit": "1"}) == "< 9"


def test_the_official_name_of_a_person_comes_first():
    names = [{"use": "old", "text": "Old"}, {"use": "official", "given": ["A", "B"], "family": "C"}]
    assert plain.name_words(names) == "A B C"
    assert plain.name_words([]) == ""
    assert plain.name_words("Plain") == "Plain"


def test_a_reference_is_followed_only_inside_its_own_connection():
    doctor = {"resourceType": "Practitioner", "id": "p", "name": [{"text": "Dr. Pell Example"}]}
    visit = {"resourceType": "Encounter", "id": "e"}
    here, there = as_record(doctor, pk=1), as_record(doctor, pk=2, connection_id=2)
    origin = as_record(visit, pk=3)
    reference = {"reference": "https://x.example/fhir/Practitioner/p/_history/3"}
    assert Book([here]).name(origin, reference) == "Dr. Pell Example"
    assert Book([there]).name(origin, reference) == ""
    assert Book([]).name(origin, {"identifier": {"value": "12"}}) == "Number 12"


def test_a_contained_resource_and_a_urn_are_found():
    holder = as_record(
        {
            "resourceType": "MedicationRequest",
            "contained": [{"resourceType": "Medication", "id": "m", "code": concept("Iron")}],
        }
    )
    medicine = as_record({"resourceType": "Medication", "id": "u-1", "code": concept("Zinc")}, pk=2)
    assert Book([]).name(holder, {"reference": "#m"}) == "Iron"
    assert Book([medicine]).name(holder, {"reference": "urn:uuid:u-1"}) == "Zinc"


def test_what_a_source_took_back_is_marked_and_not_hidden():
    wrong = as_record({"resourceType": "Observation", "status": "entered-in-error"})
    refuted = as_record(
        {"resourceType": "Condition", "verificationStatus": concept(code="entered-in-error")}
    )
    altered = as_record({"resourceType": "Goal", "modifierExtension": [{"url": "x"}]})
    assert marks(wrong).mistaken
    assert marks(refuted).mistaken
    assert marks(altered).words == ("Carries an extra condition that may change its meaning",)
    assert not marks(as_record({"resourceType": "Goal"})).words


@pytest.mark.parametrize(
    ("resource", "shown"),
    [
        (
            {
                "resourceType": "Observation",
                "code": concept("Pulse"),
                "valueQuantity": {"value": 60},
            },
            "Pulse: 60",
        ),
        ({"resourceType": "Encounter", "class": {"code": "EMER"}}, "Emergency visit"),
        (
            {"resourceType": "Encounter", "class": [{"coding": [{"code": "VR"}]}]},
            "Video or phone visit",
        ),
        ({"resourceType": "Immunization", "vaccineCode": concept("Flu")}, "Flu"),
        ({"resourceType": "Practitioner", "name": [{"family": "Pell"}]}, "Pell"),
        ({"resourceType": "Organization", "name": "Lab"}, "Lab"),
        ({"resourceType": "Condition"}, "Problem"),
        ({"resourceType": "NobodyKnowsThis"}, "Nobody knows this"),
        ({"resourceType": 7}, "Record"),
        ({"resourceType": "FamilyMemberHistory", "relationship": concept("Mother")}, "Mother"),
    ],
)
def test_every_record_has_a_title(resource, shown):
    assert titles.title(resource) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Glucose", "Glucose: 5.40 mmol/L"),
        ("جلوكوز", "جلوكوز: \u200e5.40 mmol/L"),
        ("גלוקוז", "גלוקוז: \u200e5.40 mmol/L"),
    ],
)
def test_a_figure_stays_with_its_unit_behind_a_name_of_any_script(name, shown):
    quantity = {"value": Digits("5.40"), "unit": "mmol/L"}
    resource = {
        "resourceType": "Observation",
        "code": {"text": name},
        "valueQuantity": quantity,
    }
    assert titles.title(resource) == shown


def test_the_timeline_gathers_by_year_and_keeps_the_order():
    days = ("2026-05-01", "2026-01-02", "2019")
    records = as_records(
        *({"resourceType": "Procedure", "performedDateTime": day} for day in days),
        {"resourceType": "Procedure"},
    )
    years = timeline.build(records, Context({}, clock.now()))["years"]
    assert [(year, rows.count("<li")) for year, _, rows in years] == [
        ("2026", 2),
        ("2019", 1),
        ("No date given", 1),
    ]


def test_the_readable_view_of_one_record_leaves_no_member_out():
    resource = {
        "resourceType": "Observation",
        "code": {"coding": [{"system": "http://loinc.org", "code": "1", "display": "One"}]},
        "valueQuantity": {"value": Digits("5.40"), "unit": "mmol/L", "comparator": "<"},
        "referenceRange": [{"low": {"value": 1}, "text": "said by hand"}],
        "subject": {"reference": "Patient/1", "display": "Ada"},
        "extension": [{"url": "http://x.example/birth-sex", "valueCode": "F"}],
        "modifierExtension": [{"url": "http://x.example/not", "valueBoolean": True}],
        "contact": [{"name": {"family": "Pell"}, "telecom": [{"system": "phone", "value": "123"}]}],
        "meta": {"versionId": "7"},
    }
    told = fields(document.loads(body_of(resource)))
    shown = {row.label: row.value for row in told.rows}
    assert shown["Code"] == "One [LOINC 1]"
    assert shown["Value"] == "< 5.40 mmol/L"
    assert shown["Text"] == "said by hand"
    assert shown["Birth sex"] == "F"
    assert shown["Not (may change the meaning)"] == "yes"
    assert shown["Name"] == "Pell"
    assert shown["Version at the source"] == "7"
    assert "123" in " ".join(shown.values())


def test_a_very_deep_record_is_cut_and_says_so():
    deep: dict = {}
    inner = deep
    for _ in range(60):
        inner["part"] = {"note": 1}
        inner = inner["part"]
    told = fields({"resourceType": "Basic", "x": deep})
    assert any("nested too deeply" in row.value for row in told.rows)


def test_more_fields_than_fit_are_counted():
    told = fields({"resourceType": "Basic", "note": [{"text": str(n)} for n in range(700)]})
    assert len(told.rows) == 400
    assert told.left_out == 300


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("2026-11-19T08:20:31.125-05:00", "19 Nov 2026, 08:20:31.125 (UTC-05:00)"),
        ("2026-11-19T08:20:31Z", "19 Nov 2026, 08:20:31 UTC"),
        ("2026-11-19", "19 Nov 2026"),
        ("2026", None),
        ("words", None),
        (5, None),
    ],
)
def test_the_page_of_one_record_shows_a_time_to_its_last_digit(sent, shown):
    assert plain.exact_words(sent) == shown


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("AllergyIntolerance", {"text": "None"}, "none known"),
        ("AllergyIntolerance", {"text": "Penicillin"}, ""),
        ("AllergyIntolerance", concept("No information", "no-allergy-info"), "not known"),
        ("Condition", concept("No known problems", "no-known-problems"), "none known"),
        ("Condition", concept("No information", "no-problem-info"), "not known"),
        ("Condition", {"text": "Asthma"}, ""),
        ("Condition", 7, ""),
    ],
)
def test_a_statement_about_a_whole_list_is_not_called_one_of_it(kind, code, words):
    assert titles.state_words({"resourceType": kind, "code": code, "status": "active"}) == words
