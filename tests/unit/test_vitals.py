"""Vital signs: pairs, several units, who measured, growth by age, and what Homeport works out."""

from datetime import UTC, datetime

import pytest

from phr import views
from phr.chart.drawing import trend
from phr.chart.results import by_test, parts_of
from phr.chart.vitals import Setting, body_mass, setting, vitals
from phr.chart.whose import NOBODY, age_words, whose
from phr.fhir.record import Origin
from phr.views import Context
from tests.fixtures_records import as_records, concept, lab

CONTEXT = Context(
    origins={1: Origin(1, "Saltmarsh", "smart")}, now=datetime(2026, 11, 22, tzinfo=UTC)
)
CHILD = {"resourceType": "Patient", "gender": "female", "birthDate": "2021-05-01"}
GROWN = CHILD | {"birthDate": "1984-02-14"}


def vital(name, code, value, unit, on="2026-11-19", **more):
    return lab(name, code, value, unit, on=on, **more)


def weight(value="72.5", unit="kg", on="2026-11-19", **more):
    return vital("Weight", "29463-7", value, unit, on, **more)


def height(value="175", unit="cm", on="2026-03-02", **more):
    return vital("Height", "8302-2", value, unit, on, **more)


def shown(view, *resources, context=CONTEXT):
    return views.show(view, as_records(*resources), context).body


def pressure(upper, lower, on, **more):
    def part(name, code, value):
        made = lab(name, code, value, "mm[Hg]")
        kept = ("code", "valueQuantity", "interpretation", "referenceRange")
        return {key: each for key, each in (made | more).items() if key in kept}

    return {
        "resourceType": "Observation",
        "id": f"bp-{on}",
        "status": "final",
        "code": concept("Blood pressure panel", "85354-9"),
        "effectiveDateTime": on,
        "component": [
            part("Systolic blood pressure", "8480-6", upper),
            part("Diastolic blood pressure", "8462-4", lower),
        ],
    }


def test_a_blood_pressure_without_a_figure_is_told_as_one_and_none_is_made_up():
    silent = pressure("120", "80", "2026-11-19")
    for part in silent["component"]:
        del part["valueQuantity"]
        part["dataAbsentReason"] = {"text": "Cuff would not fit"}
    heading = views.show(views.VIEWS["vitals"], as_records(silent), CONTEXT).heading
    assert heading == "Blood pressure, no figure given on 19 Nov 2026"
    said = views.show(
        views.VIEWS["vitals"], as_records(pressure("120", "80", "2026-11-19")), CONTEXT
    ).heading
    assert said == "The last blood pressure was 120/80 mmHg on 19 Nov 2026"


# ------------------------------------------------------------------------- units


def test_weights_in_pounds_and_kilograms_are_one_kind_with_the_source_s_digits():
    (found,) = vitals(as_records(weight("72.5"), weight("160.1", "[lb_av]", "2025-11-19")))
    assert [(one.words, one.unit) for one in found.readings] == [("72.5", "kg"), ("160.1", "lb")]
    assert [
        each.figures[0].converted and each.figures[0].converted.words for each in found.readings
    ] == [
        None,
        "72.62",
    ]


def test_the_value_before_is_told_in_its_own_unit():
    body = shown(
        views.VIEWS["vitals"], weight("72.5"), weight("160.1", "[lb_av]", "2025-11-19"), GROWN
    )
    assert "19 Nov 2025: 160.1 lb" in body


def test_an_unknown_unit_stays_a_kind_of_its_own():
    found = vitals(as_records(weight("72.5"), weight("11", "stone", "2025-11-19")))
    assert [[one.unit for one in kind.readings] for kind in found] == [["kg"], ["stone"]]


# ------------------------------------------------------------------------- pairs


def test_both_figures_of_a_blood_pressure_are_drawn_on_one_scale_and_joined():
    records = as_records(pressure("131", "84", "2025-01-02"), pressure("128", "79", "2026-01-02"))
    (test,) = by_test(records)
    upper, lower = parts_of(test.results)
    drawn = trend(upper.results, lower.results)
    assert [point.label for point in drawn.points] == ["131", "128", "84", "79"]
    assert len(drawn.bars) == 2
    body = shown(views.TEST, *(one.document for one in records))
    assert body.count('<svg class="trend"') == 1
    assert body.count("<table") == 1
    assert "131/84" in body


def test_what_a_source_says_about_one_figure_of_a_pair_is_told_beside_the_pair():
    flag = {"interpretation": [concept(code="H")], "referenceRange": [{"text": "up to 120"}]}
    body = shown(views.TEST, pressure("131", "84", "2026-01-02", **flag))
    assert "Systolic blood pressure 131, High, range: up to 120" in body


# ------------------------------------------------------------------------- who measured


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"performer": [{"reference": "Patient/1"}]}, Setting.OWN),
        ({"performer": [{"reference": "https://x.example/RelatedPerson/1"}]}, Setting.OWN),
        ({"performer": [{"type": "Patient"}]}, Setting.OWN),
        ({"performer": [], "meta": {"security": [{"code": "PATAST"}]}}, Setting.OWN),
        ({"performer": [{"reference": "Organization/1"}]}, Setting.CLINIC),
        ({"performer": [], "encounter": {"reference": "Encounter/1"}}, Setting.CLINIC),
        ({"performer": [{"display": "Somebody"}]}, Setting.UNSAID),
        ({"performer": "odd", "meta": {"security": 7}}, Setting.UNSAID),
    ],
)
def test_who_measured_is_said_only_where_the_source_says_it(more, place):
    assert setting(weight(**more)) is place


def test_own_readings_and_devices_are_marked_on_the_page():
    own = Context(origins={1: Origin(1, "The patient", "own")}, now=CONTEXT.now)
    assert "Own reading, not by a clinic" in shown(views.VIEWS["vitals"], weight(), context=own)
    told = weight(performer=[], device={"display": "Bathroom scale"})
    assert "device: Bathroom scale" in shown(views.VIEWS["vitals"], told)
    assert "At a clinic" not in shown(views.VIEWS["vitals"], told)


# ------------------------------------------------------------------------- growth


def test_growth_of_a_child_is_told_with_its_age_and_drawn_by_age():
    some = [
        height("71", on="2022-05-02"),
        height("84.5", on="2023-05-02"),
        height("93", on="2024-05-02"),
        height("101", on="2025-11-02"),
    ]
    body = shown(views.TEST, *some, CHILD)
    assert "at the age of 4 years 6 months" in body
    assert ">age 2</text>" in body
    assert "percentile" not in body


def test_an_adult_s_height_is_told_by_date_alone():
    body = shown(views.TEST, height("175", on="2022-05-02"), height("175", on="2024-05-02"), GROWN)
    assert "age" not in body.replace("Blood", "")
    assert ">2023</text>" in body


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (1, "1 day"),
        (60, "60 days"),
        (100, "3 months"),
        (700, "22 months"),
        (1160, "3 years 2 months"),
        (1096, "3 years"),
        (9000, "24 years"),
    ],
)
def test_an_age_is_told_as_people_say_it(days, words):
    assert age_words(days) == words


def test_an_age_is_unknown_before_birth_without_a_day_and_without_a_birth_date():
    person = whose(as_records(CHILD))
    assert person.age("2021-05-03") == 2
    assert person.age("2021-04-30") is None
    assert person.age("2022") is None
    assert NOBODY.age("2022-01-01") is None
    assert whose(as_records(CHILD | {"birthDate": "2021-05"})).born is None
    assert whose(as_records(CHILD | {"birthDate": "2021-13-45"})).born is None


# ------------------------------------------------------------------------- worked out


def index(*resources):
    records = as_records(*resources)
    made = body_mass(vitals(records), whose(records))
    return made and made.words


def test_a_body_mass_index_is_worked_out_from_a_weight_and_a_height_near_in_time():
    assert index(weight(), height(), GROWN) == "23.7"
    assert index(weight("159.8", "[lb_av]"), height("5.74", "[ft_i]"), GROWN) == "23.7"
    body = shown(views.VIEWS["vitals"], weight(), height(), GROWN)
    assert "Worked out by Homeport" in body
    assert "from weight 72.5 kg (19 Nov 2026) and height 175 cm (2 Mar 2026)" in body


@pytest.mark.parametrize(
    "resources",
    [
        (weight(), GROWN),
        (height(), GROWN),
        (weight(), height(on="2024-01-01"), GROWN),  # too long ago
        (weight(), height()),  # might be a child: a height of months ago is too old
        (weight(), height(), CHILD),
        (weight(unit="stone"), height(), GROWN),
        (weight(), height(unit="hands"), GROWN),
        (weight(), height("0"), GROWN),
        (weight(status="entered-in-error"), height(), GROWN),
        (weight(), height(), vital("BMI", "39156-5", "23.6", "kg/m2"), GROWN),  # a source sent one
    ],
)
def test_it_is_not_worked_out_where_it_would_be_a_guess_or_a_source_sent_one(resources):
    assert index(*resources) is None


def test_of_several_heights_the_nearest_counts_and_a_child_needs_a_recent_one():
    assert index(weight(), height(), height("180", on="2026-11-01"), GROWN) == "22.4"
    assert index(weight("18"), height("105", on="2026-11-01"), CHILD) == "16.3"
