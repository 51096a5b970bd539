"""What a source dates after the day on which it sent it: shown, said, and counted on no list."""

from datetime import timedelta

import pytest

from phr import views
from phr.chart.allergies import allergies
from phr.chart.marks import is_ahead
from phr.chart.medications import Standing, medications
from phr.chart.problems import problems
from phr.chart.results import by_test, flagged, newest_of_each, results
from phr.chart.summary import summary
from phr.fhir.record import Origin
from phr.views.allergies import short
from tests.fixtures_records import NOW, as_record, as_records, concept, lab

SOON = (NOW + timedelta(days=30)).date().isoformat()
TOMORROW = (NOW + timedelta(days=1)).date().isoformat()
SAID = "Dated by the source on a day that had not come yet"
ACTIVE = concept(code="active")


def vaccine(on, status="completed"):
    return {
        "resourceType": "Immunization",
        "status": status,
        "vaccineCode": concept("Flu shot"),
        "occurrenceDateTime": on,
    }


def operation(on, status="completed"):
    return {
        "resourceType": "Procedure",
        "status": status,
        "code": concept("Hip replacement"),
        "performedDateTime": on,
    }


def order(on):
    return {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": concept("Metformin"),
        "authoredOn": on,
    }


def problem(**more):
    made = {"resourceType": "Condition", "clinicalStatus": ACTIVE, "code": concept("Asthma")}
    return made | more


def shown(slug, *resources):
    """Return the heading and the text of a list of the chart."""
    context = views.Context({1: Origin(1, "Saltmarsh Hospital", "smart", False, NOW)}, NOW)
    page = views.show(views.VIEWS[slug], as_records(*resources), context)
    return page.heading, str(page.body)


def test_a_dose_dated_ahead_was_not_given():
    heading, body = shown("immunizations", vaccine(SOON))
    assert heading == "No vaccine on record"
    assert SAID in body
    assert shown("immunizations", vaccine(TOMORROW))[0] == "1 vaccine dose on record"


def test_a_procedure_dated_ahead_was_not_done():
    heading, body = shown("procedures", operation(SOON))
    assert heading == "0 procedures listed as done"
    assert SAID in body


def test_a_medicine_and_a_problem_dated_ahead_are_unclear():
    (one,) = medications(as_records(order(SOON)), NOW)
    assert one.standing is Standing.UNCLEAR
    assert "dated" in one.why
    listed = problems(as_records(problem(onsetDateTime=SOON)))
    assert not listed.active
    assert listed.unclear


@pytest.mark.parametrize("over", [{"abatementDateTime": "2020-01-01"}, {"abatementBoolean": True}])
def test_a_problem_that_is_active_and_was_over_is_unclear(over):
    listed = problems(as_records(problem(**over)))
    assert not listed.active
    assert [one.name for one in listed.unclear] == ["Asthma"]
    assert problems(as_records(problem(abatementDateTime=SOON))).active


def test_what_is_only_planned_may_lie_ahead():
    for planned in (operation(SOON, "preparation"), vaccine(SOON, "not-done")):
        (record,) = as_records(planned)
        assert not is_ahead(record)


def test_a_summary_has_no_dose_and_no_procedure_of_a_day_to_come():
    some = as_records(vaccine(SOON), operation(SOON))
    assert not {"immunizations", "procedures"} & {one.head.slug for one in summary(some, now=NOW)}


def test_a_value_dated_ahead_hides_no_flag():
    found = as_records(
        lab("Potassium", "2823-3", "4.1", on=SOON),
        lab("Potassium", "2823-3", "6.9", flag="HH", on="2026-11-01"),
    )
    assert [one.value.words for one in flagged(newest_of_each(by_test(found)))] == ["6.9"]


def test_the_newest_results_are_those_of_a_day_that_had_come():
    flagged_now = lab("Potassium", "2823-3", "6.9", flag="HH", on="2026-11-01")
    slip = lab("Sodium", "2951-2", "140", on=SOON)
    heading, body = shown("results", slip, flagged_now)
    assert heading == "The newest result is flagged by the source"
    assert body.index("6.9") < body.index("140")  # it does not open the page, and is not left out
    assert SAID in body
    heading, body = shown("results", slip)
    assert heading == "Every result is dated on a day that had not come yet"
    assert "140" in body


def test_the_latest_value_of_a_test_is_of_a_day_that_had_come():
    context = views.Context({1: Origin(1, "Saltmarsh Hospital", "smart", False, NOW)}, NOW)
    slip, real = (
        lab("Potassium", "2823-3", value, on=on)
        for value, on in (("4.1", SOON), ("6.9", "2026-11-01"))
    )
    page = views.show(views.BY_TEST, as_records(slip, real), context)
    assert "6.9" in str(page.body)
    assert "4.1" not in str(page.body)
    page = views.show(views.TEST, as_records(slip, real), context)
    assert page.heading == "Potassium: 6.9 mmol/L"
    assert "4.1" in str(page.body)
    page = views.show(views.TEST, as_records(slip), context)
    assert "That day had not come yet when the source sent it." in page.lead


def test_vital_signs_and_a_summary_have_no_value_of_a_day_to_come():
    pulse = [concept(code="vital-signs")]
    some = [
        lab("Pulse", "8867-4", "71", on="2026-10-01", category=pulse),
        lab("Pulse", "8867-4", "64", on=SOON, category=pulse),
        lab("Potassium", "2823-3", "4.1", on=SOON),
    ]
    _, body = shown("vitals", *some[:2])
    assert "71" in body
    assert "64" not in body
    told = {one.head.slug: str(one.lines) for one in summary(as_records(*some), now=NOW)}
    assert "'71 " in told["vitals"]
    assert "'64 " not in told["vitals"]
    assert "results" not in told


@pytest.mark.parametrize("dated", ["bad date", "2026-13-45"])
def test_an_order_whose_date_is_none_is_unclear_and_says_so(dated):
    (one,) = medications(as_records(order(dated)), NOW)
    assert one.standing is Standing.UNCLEAR
    assert one.why == f"listed as active, but dated {dated}"


def test_an_order_without_a_date_is_as_current_as_its_list_says():
    bare = order("")
    del bare["authoredOn"]
    (one,) = medications(as_records(bare), NOW)
    assert one.standing is Standing.CURRENT


def test_a_vaccine_without_name_and_status_is_no_dose():
    bare = {"resourceType": "Immunization", "occurrenceDateTime": "2020-01-01"}
    heading, body = shown("immunizations", bare)
    assert heading == "No vaccine on record"
    assert "No status given" in body
    named = bare | {"vaccineCode": concept("Flu shot")}
    for counts in (named, bare | {"status": "completed"}):
        assert shown("immunizations", counts)[0] == "1 vaccine dose on record"


def test_of_one_result_of_two_places_the_flagged_one_speaks_and_then_the_one_with_a_range():
    bare = lab("Potassium", "2823-3", "5.4", on="2026-11-01")
    for other in ({"flag": "H"}, {"low": "3.5", "high": "5.1"}):
        told = lab("Potassium", "2823-3", "5.4", on="2026-11-01", **other)
        for some in ((bare, told), (told, bare)):
            sent = [as_record(one, pk=n, connection_id=n) for n, one in enumerate(some, start=1)]
            (one,) = results(sent)
            assert one.word.mark == "high", (other, one.word)


def test_a_pressure_with_one_half_says_it():
    half = {
        "resourceType": "Observation",
        "status": "final",
        "category": [concept(code="vital-signs")],
        "code": concept("Blood pressure", "85354-9"),
        "effectiveDateTime": "2026-11-01",
        "component": [
            {
                "code": concept("Systolic", "8480-6"),
                "valueQuantity": {"value": 122, "unit": "mmHg"},
            },
            {"code": concept("Diastolic", "8462-4"), "dataAbsentReason": concept("not done")},
        ],
    }
    heading, _ = shown("vitals", half)
    assert heading.startswith("Blood pressure on 1 Nov 2026: Systolic 122 mmHg")


def test_visits_that_did_not_take_place_are_not_counted_as_visits():
    def visit(status):
        return {"resourceType": "Encounter", "status": status, "period": {"start": "2026-03-01"}}

    statuses = ("finished", "cancelled", "planned", "entered-in-error")
    heading, _ = shown("visits", *(visit(each) for each in statuses))
    assert heading == "1 visit, 3 planned, called off or mistaken"


def test_a_very_long_name_leaves_room_for_the_other_allergies():
    def allergy(name):
        return {
            "resourceType": "AllergyIntolerance",
            "clinicalStatus": ACTIVE,
            "code": concept(name),
        }

    words = short(allergies(as_records(allergy("x" * 5000), allergy("Latex"))))
    assert len(words) < 120
    assert "Latex" in words
