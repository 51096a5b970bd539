"""When a medicine is listed as current, and its dose in words (docs/decisions/0035)."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from phr.chart.decision import Decision
from phr.chart.evidence import How
from phr.chart.medications import Standing, dose_words, doses, medications
from phr.fhir.record import Origin
from phr.views import VIEWS, Context, show
from tests.fixtures_records import as_record, as_records, concept

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
DRUG = concept("Metformin 500 mg tablet", "861007", RXNORM)


def order(**more):
    return {
        "resourceType": "MedicationRequest",
        "id": "order",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": DRUG,
        "authoredOn": "2026-03-01",
        "dosageInstruction": [{"text": "1 tablet in the morning"}],
    } | more


def statement(**more):
    return {
        "resourceType": "MedicationStatement",
        "id": "said",
        "status": "active",
        "medicationCodeableConcept": DRUG,
        "dateAsserted": "2026-06-01",
        "informationSource": {"reference": "Patient/patient"},
    } | more


def only(*resources, how=None):
    """Return the one medicine that these resources, each of another hospital, tell of."""
    records = [as_record(one, pk=n, connection_id=n) for n, one in enumerate(resources, start=1)]
    (found,) = medications(records, NOW, how or How())
    return found


def course(value, unit, **more):
    bounds = {"boundsDuration": {"value": value, "unit": unit, "code": unit[0]}}
    return order(dosageInstruction=[{"timing": {"repeat": bounds}}], **more)


@pytest.mark.parametrize(
    ("resource", "standing", "why"),
    [
        (order(), Standing.CURRENT, ""),
        (order(doNotPerform=True), Standing.UNCLEAR, "an order not to give it"),
        (order(intent="option"), Standing.UNCLEAR, "one option of several, not an order"),
        (order(intent="instance-order"), Standing.CURRENT, ""),
        (
            order(dispenseRequest={"validityPeriod": {"end": "2026-09-01"}}),
            Standing.UNCLEAR,
            "listed as active, but the order was valid until 1 Sep 2026",
        ),
        (order(dispenseRequest={"validityPeriod": {"end": "2027-03"}}), Standing.CURRENT, ""),
        (
            course(7, "days"),
            Standing.UNCLEAR,
            "listed as active, but written on 1 Mar 2026 for 7 days",
        ),
        (course(7, "days", authoredOn="2026-11-20"), Standing.CURRENT, ""),
        (course(7, "moons"), Standing.CURRENT, ""),
        (course(7, "days", authoredOn="2026"), Standing.CURRENT, ""),
        (course("seven", "days"), Standing.CURRENT, ""),
        (
            statement(effectivePeriod={"start": "2027-01-04"}),
            Standing.UNCLEAR,
            "it begins on 4 Jan 2027",
        ),
        (statement(effectivePeriod={"start": "soon"}), Standing.CURRENT, ""),
        (statement(taken="n"), Standing.PAST, "not taken"),  # STU3
        (statement(wasNotTaken=True), Standing.PAST, "not taken"),  # DSTU2
        (statement(status="recorded"), Standing.UNCLEAR, "status: recorded"),  # R5
        (
            statement(status="recorded", adherence={"code": concept(code="taking")}),
            Standing.CURRENT,
            "",
        ),
        (
            statement(status="recorded", adherence={"code": concept(code="not-taking")}),
            Standing.PAST,
            "not taken",
        ),
    ],
)
def test_where_a_medicine_stands_and_why(resource, standing, why):
    found = only(resource)
    assert (found.standing, found.why) == (standing, why)


def test_what_the_patient_does_not_take_is_not_listed_as_current_and_stays_in_sight():
    found = only(order(), statement(status="not-taken"))
    assert found.standing is Standing.UNCLEAR
    assert found.why == "listed as active; the patient said on 1 Jun 2026 it is not taken"
    assert len(found.evidence.records) == 2
    assert found.doses == ("1 tablet in the morning",)


def test_an_order_written_after_that_is_listed_as_current_again():
    found = only(order(authoredOn="2026-07-01"), statement(status="not-taken"))
    assert found.standing is Standing.CURRENT
    assert [one.about for one in found.evidence.conflicts] == ["status"]


def test_another_list_that_denies_it_is_named_as_one_and_a_mistaken_one_counts_for_nothing():
    other = statement(status="not-taken", informationSource={"display": "Dr. Pell"})
    assert only(order(), other).why.startswith("listed as active; another list says")
    records = as_records(order(), statement(status="entered-in-error"))
    assert [one.standing for one in medications(records, NOW)] == [Standing.CURRENT, Standing.PAST]


def test_a_hand_out_is_told_beside_the_order_and_changes_nothing():
    given = {
        "resourceType": "MedicationDispense",
        "status": "completed",
        "medicationCodeableConcept": DRUG,
        "authorizingPrescription": [{"reference": "MedicationRequest/order"}],
        "daysSupply": {"value": 30, "unit": "days"},
    }
    old = given | {"whenHandedOver": "2026-04-01"}
    newest = given | {"whenHandedOver": "2026-05-02"}
    refused = given | {"whenHandedOver": "2026-06-02", "status": "declined"}
    found, *handed = medications(as_records(order(), newest, old, refused), NOW)
    assert (found.standing, found.handed) == (Standing.CURRENT, ("2026-05-02", "30 days"))
    assert {one.standing for one in handed} == {Standing.GIVEN}
    context = Context(origins={1: Origin(1, "Saltmarsh", "smart")}, now=NOW)
    shown = show(VIEWS["medications"], as_records(order(), newest), context)
    assert "Last handed out 2 May 2026, for 30 days" in shown.body


def test_a_split_by_the_patient_makes_two_medicines_and_a_join_makes_one():
    records = [
        as_record(order(), pk=1, connection_id=1),
        as_record(statement(status="active"), pk=2, connection_id=2),
    ]
    one, other = (record.local_id for record in records)
    assert len(medications(records, NOW)) == 1
    assert len(medications(records, NOW, How((Decision(one, other, same=False),)))) == 2


# ------------------------------------------------------------------------- doses


def timing(**repeat):
    return {"timing": {"repeat": repeat}}


DAILY = {"frequency": 1, "period": 1, "periodUnit": "d"}


@pytest.mark.parametrize(
    ("dosage", "words"),
    [
        (timing(when=["AC"], offset=30), "30 minutes before meals"),
        (timing(duration=30, durationUnit="min", **DAILY), "Once a day, over 30 minutes"),
        (timing(duration=1, durationMax=2, durationUnit="h"), "Over 1 to 2 hours"),
        (timing(boundsDuration={"value": 7, "unit": "days"}, **DAILY), "Once a day, for 7 days"),
        (
            timing(boundsPeriod={"start": "2026-01-02", "end": "2026-01-09"}, **DAILY),
            "Once a day, 2 Jan 2026 to 9 Jan 2026",
        ),
        (timing(count=1), "1 time in all"),
        (timing(count=2, countMax=3), "2 to 3 times in all"),
        (timing(frequency=2, period=1, periodUnits="d"), "2 times a day"),
        ({"timing": {"event": ["2026-01-02", "2026-02-02"]}}, "On 2 Jan 2026, 2 Feb 2026"),
        ({"timing": {"code": concept(code="BID")}}, "2 times a day"),
        ({"timing": {"code": concept(code="XYZ")}}, "Code XYZ (LOINC)"),
        ({"timing": {"code": {"text": "as directed"}}}, "As directed"),
        ({"asNeeded": True}, "When needed"),
        ({"asNeededBoolean": False, "route": concept("by mouth")}, "By mouth"),
        ({"asNeededFor": [concept("itch"), concept("sleep")]}, "When needed for itch, sleep"),
        ({"site": concept("left eye"), "method": concept("drop in")}, "Drop in, left eye"),
        ({"maxDosePerAdministration": {"value": 2, "unit": "g"}}, "At most 2 g at once"),
        ({"maxDosePerLifetime": {"value": 5, "unit": "mg/m2"}}, "At most 5 mg/m2 in a lifetime"),
        (
            {"maxDosePerPeriod": {"numerator": {"value": 4, "unit": "g"},
                                  "denominator": {"value": 24, "unit": "h"}}},
            "At most 4 g in 24 hours",
        ),
        (
            {"doseAndRate": [
                {"type": concept("Ordered"), "doseQuantity": {"value": 10, "unit": "mg/kg"}},
                {"type": concept("Calculated"), "doseQuantity": {"value": 200, "unit": "mg"}},
            ]},
            "Ordered: 10 mg/kg; calculated: 200 mg",
        ),
        (
            {"doseAndRate": [{"rateRatio": {"numerator": {"value": 250, "unit": "mg"},
                                            "denominator": {"value": 5, "unit": "mL"}}}]},
            "At 250 mg per 5 mL",
        ),
        ({"doseQuantity": {"value": 1, "unit": "tablet"}}, "1 tablet"),  # STU3, DSTU2
        ({"additionalInstructions": concept("with food")}, "With food"),  # DSTU2
        ({"timing": {"repeat": "odd", "event": [7]}, "maxDosePerPeriod": [1]}, "On 7"),
    ],
)  # fmt: skip
def test_an_odd_dose_is_told_in_words_and_nothing_is_added(dosage, words):
    assert dose_words(dosage) == words


@pytest.mark.parametrize(
    ("text", "coded", "told"),
    [
        ("Take 5 mg daily", ("50", "mg"), "Take 5 mg daily (Coded by the source as 50 mg.)"),
        ("Take 0.5 mg daily", ("0.50", "mg"), "Take 0.5 mg daily"),
        ("Take 100 micrograms", ("100", "ug"), "Take 100 micrograms"),
        ("Take 100 mcg", ("1000", "ug"), "Take 100 mcg (Coded by the source as 1000 ug.)"),
        ("Take 5-10 mg", ("5", "mg"), "Take 5-10 mg"),
        ("Take one tablet", ("1", "tablet"), "Take one tablet"),
        ("Take 1,000 mg", ("1000", "mg"), "Take 1,000 mg"),
        ("2,5 mg abends", ("2.5", "mg"), "2,5 mg abends"),
        (
            "10 units at night",
            ("15", "[iU]"),
            "10 units at night (Coded by the source as 15 [iU].)",
        ),
    ],
)
def test_a_coded_dose_that_contradicts_the_words_is_told_too(text, coded, told):
    amount = {"value": Decimal(coded[0]), "unit": coded[1]}
    assert dose_words({"text": text, "doseAndRate": [{"doseQuantity": amount}]}) == told
    assert dose_words({"text": text, "doseQuantity": amount}) == told  # STU3 and older


def test_steps_of_a_taper_come_in_their_order_and_say_so():
    steps = [
        {"sequence": 2, "text": "10 mg for 3 days"},
        {"sequence": 1, "text": "20 mg for 3 days"},
        {"sequence": 3, "text": "5 mg for 3 days, then stop"},
    ]
    assert doses({"dosageInstruction": steps}) == (
        "First: 20 mg for 3 days",
        "Then: 10 mg for 3 days",
        "Then: 5 mg for 3 days, then stop",
    )


def test_doses_of_one_step_stand_beside_each_other():
    both = [{"sequence": 1, "text": "2 at breakfast"}, {"sequence": 1, "text": "1 at night"}]
    assert doses({"dosageInstruction": both}) == ("2 at breakfast", "1 at night")
    assert doses({"dosageInstruction": [{"text": "1"}, {"text": "1"}]}) == ("1",)


def test_a_rendered_instruction_speaks_only_where_nothing_else_does():
    rendered = {"renderedDosageInstruction": "One at night"}
    assert doses(rendered) == ("One at night",)
    assert doses(rendered | {"dosage": [{"text": "Two"}]}) == ("Two",)
    assert doses({}) == ()


def test_one_without_a_dose_tells_that_of_another_record_of_it_and_says_so():
    bare = order(id="bare", authoredOn="2026-05-01")
    del bare["dosageInstruction"]
    told = order(id="told", status="completed", authoredOn="2026-02-03")
    (one,) = medications(as_records(bare, told), NOW, How(grouped={1: 1, 2: 1}))
    assert one.standing is Standing.CURRENT
    assert one.doses == ("1 tablet in the morning (as another record of 3 Feb 2026 of it says)",)


def test_a_dose_of_a_mistaken_record_is_told_for_no_other():
    bare = order(id="bare", authoredOn="2026-05-01")
    del bare["dosageInstruction"]
    wrong = order(id="wrong", status="entered-in-error")
    (one,) = medications(as_records(bare, wrong), NOW, How(grouped={1: 1, 2: 1}))
    assert one.doses == ()


def test_a_status_that_is_unknown_contradicts_nobody():
    known, unknown = order(id="known"), order(id="unknown", status="unknown")
    (one,) = medications(as_records(known, unknown), NOW, How(grouped={1: 1, 2: 1}))
    assert not one.evidence.conflicts
