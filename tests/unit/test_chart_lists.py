"""Lists of the record: allergies, medicines, problems, vaccines, visits, documents, people."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from phr.chart.allergies import Knowledge, allergies
from phr.chart.documents import attachments, documents, inline_bytes, size_words
from phr.chart.immunizations import immunizations
from phr.chart.medications import Standing, dose_words, medications
from phr.chart.people import patients, people, places, teams
from phr.chart.problems import problems
from phr.chart.procedures import procedures
from phr.chart.visits import visits
from phr.views import VIEWS, Context, show
from tests.fixtures_records import as_records, concept, juniper

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def allergy(text="", code="", **more):
    return {"resourceType": "AllergyIntolerance", "code": concept(text, code), **more}


def medicine(status="active", **more):
    named = {"medicationCodeableConcept": concept("Iron")}
    return {"resourceType": "MedicationRequest", "status": status} | named | more


# ------------------------------------------------------------------------- allergies


def test_unknown_none_known_and_present_are_three_different_things():
    none_known = allergy("No known allergy", "716186003")
    assert allergies([]).knowledge is Knowledge.UNKNOWN
    assert allergies(as_records(none_known)).knowledge is Knowledge.NONE_KNOWN
    assert allergies(as_records(none_known, allergy("Latex"))).knowledge is Knowledge.PRESENT


@pytest.mark.parametrize(
    "text",
    ["NKA", "NKDA", "None", "No allergies.", "No known allergies", "no known drug allergies"],
)
def test_a_statement_of_none_known_is_also_read_from_words(text):
    assert allergies(as_records(allergy(text))).knowledge is Knowledge.NONE_KNOWN


def test_none_known_that_its_source_takes_back_is_unknown_but_an_allergy_stays():
    (none,) = as_records(allergy("No known allergy", "716186003"))
    found = allergies([replace(none, withdrawn=True)])
    assert found.knowledge is Knowledge.UNKNOWN
    assert len(found.former) == 1
    (latex,) = as_records(allergy("Latex"))
    assert allergies([replace(latex, withdrawn=True)]).knowledge is Knowledge.PRESENT


def test_none_known_still_stands_where_only_one_of_two_sources_takes_it_back():
    said = (allergy("No known allergy", "716186003"), allergy("No known allergy", "716186003"))
    one, other = as_records(*said)
    for some in ([replace(one, withdrawn=True), other], [one, replace(other, withdrawn=True)]):
        assert allergies(some).knowledge is Knowledge.NONE_KNOWN


def test_nobody_asked_is_not_the_same_as_none_known():
    found = allergies(as_records(allergy("no information", "no-allergy-info")))
    assert found.knowledge is Knowledge.UNKNOWN
    assert len(found.no_information) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"verificationStatus": concept(code="refuted")},
        {"verificationStatus": concept(code="entered-in-error")},
        {"clinicalStatus": concept(code="resolved")},
        {"clinicalStatus": concept(code="inactive")},
    ],
)
def test_a_refuted_mistaken_or_over_allergy_is_kept_apart(more):
    found = allergies(as_records(allergy("Latex", **more)))
    assert (len(found.listed), len(found.former)) == (0, 1)


def test_severe_allergies_come_first_and_only_where_the_source_said_so():
    found = allergies(as_records(*juniper()))
    assert [(one.name, one.severe, one.reactions) for one in found.listed] == [
        ("Penicillin", True, ("throat swelling",)),
        ("Latex", False, ("skin rash",)),
    ]


def test_an_allergy_without_a_code_takes_the_substance_of_its_reaction():
    found = allergies(
        as_records(
            {
                "resourceType": "AllergyIntolerance",
                "reaction": [{"substance": concept("Bee venom"), "description": "swelling"}],
            }
        )
    )
    assert (found.listed[0].name, found.listed[0].reactions) == ("Bee venom", ("swelling",))


# ------------------------------------------------------------------------- medicines


@pytest.mark.parametrize(
    ("resource", "standing"),
    [
        (medicine("active"), Standing.CURRENT),
        (medicine("completed"), Standing.PAST),
        (medicine("stopped"), Standing.PAST),
        (medicine("on-hold"), Standing.UNCLEAR),
        (medicine("draft"), Standing.UNCLEAR),
        (medicine("weird"), Standing.UNCLEAR),
        (medicine(None), Standing.UNCLEAR),
        (medicine("entered-in-error"), Standing.PAST),
        (medicine("active", intent="proposal"), Standing.UNCLEAR),
        (medicine("active", effectivePeriod={"end": "2020-01-01"}), Standing.UNCLEAR),
        (medicine("active", effectivePeriod={"end": "2030-01-01"}), Standing.CURRENT),
        (medicine("active", effectivePeriod={"end": "2026"}), Standing.CURRENT),
        (
            medicine(
                "active",
                dosageInstruction=[{"timing": {"repeat": {"boundsPeriod": {"end": "2021-02-03"}}}}],
            ),
            Standing.UNCLEAR,
        ),
        (medicine("completed") | {"resourceType": "MedicationDispense"}, Standing.GIVEN),
    ],
)
def test_a_medicine_stands_where_its_status_and_period_put_it(resource, standing):
    (found,) = medications(as_records(resource), NOW)
    assert found.standing is standing


def test_an_order_of_dstu2_is_a_medicine_like_any_other():
    order = medicine("active", prescriber={"display": "Dr. Placeholder"}, dateWritten="2015-03-02")
    over = order | {"dateEnded": "2016-01-01"}
    (found,) = medications(as_records(order | {"resourceType": "MedicationOrder"}), NOW)
    assert (found.standing, found.dated, found.by) == (
        Standing.CURRENT,
        "2015-03-02",
        "Dr. Placeholder",
    )
    (found,) = medications(as_records(over | {"resourceType": "MedicationOrder"}), NOW)
    assert found.standing is Standing.UNCLEAR


@pytest.mark.parametrize(
    ("dosage", "words"),
    [
        ({"text": "1 tablet each morning", "patientInstruction": "With water"},
         "1 tablet each morning. With water"),
        (
            {
                "timing": {"repeat": {"frequency": 2, "period": 1, "periodUnit": "d"}},
                "doseAndRate": [{"doseQuantity": {"value": 1, "unit": "tablet"}}],
                "route": concept("by mouth"),
            },
            "1 tablet, 2 times a day, by mouth",
        ),
        (
            {
                "timing": {
                    "repeat": {"frequency": 1, "frequencyMax": 2, "period": 4, "periodMax": 6,
                               "periodUnit": "h"}
                },
                "asNeededCodeableConcept": concept("pain"),
                "maxDosePerPeriod": {
                    "numerator": {"value": 8, "unit": "puffs"},
                    "denominator": {"value": 1, "unit": "day"},
                },
            },
            "1 to 2 times every 4 to 6 hours, when needed for pain, at most 8 puffs a day",
        ),
        ({"timing": {"repeat": {"when": ["HS"], "dayOfWeek": ["mon"], "timeOfDay": ["21:00:00"]}}},
         "At bedtime, on Monday, at 21:00"),
        ({"timing": {"code": concept("BID")}, "asNeededBoolean": True}, "BID, when needed"),
        ({"timing": {"repeat": {"period": 1, "periodUnit": "wk", "count": 3}}},
         "Once a week, 3 times in all"),
        ({"doseAndRate": [{"doseRange": {"low": {"value": 1}, "high": {"value": 2}},
                           "rateRatio": {"numerator": {"value": 5, "unit": "mL"},
                                         "denominator": {"value": 1, "unit": "h"}}}]},
         "1 to 2, at 5 mL an hour"),
        ({}, ""),
        ({"timing": "odd", "doseAndRate": "odd"}, ""),
    ],
)  # fmt: skip
def test_a_dose_is_told_from_its_text_or_its_parts_and_never_invented(dosage, words):
    assert dose_words(dosage) == words


def test_a_medicine_takes_its_name_from_where_the_record_points():
    request = {
        "resourceType": "MedicationRequest",
        "medicationReference": {"reference": "Medication/m"},
        "reasonReference": [{"reference": "Condition/c"}],
        "requester": {"display": "Dr. Pell Example"},
    }
    drug = {"resourceType": "Medication", "id": "m", "code": concept("Zinc")}
    cause = {"resourceType": "Condition", "id": "c", "code": concept("Cold")}
    (found,) = medications(as_records(request, drug, cause), NOW)
    assert (found.name, found.reasons, found.by) == ("Zinc", ("Cold",), "Dr. Pell Example")
    (bare,) = medications(as_records(request), NOW)
    assert bare.name == "Medicine without a name"


# ------------------------------------------------------------------------- problems


def test_the_problem_list_stands_apart_from_the_diagnoses_of_visits():
    found = problems(as_records(*juniper()))
    assert [one.name for one in found.active] == ["Underactive thyroid"]
    assert [one.name for one in found.over] == ["Iron deficiency"]
    assert [(one.name, len(one.problems)) for one in found.diagnoses] == [("Acute bronchitis", 2)]


@pytest.mark.parametrize(
    ("more", "began"),
    [
        ({"onsetDateTime": "2019"}, "2019"),
        ({"onsetAge": {"value": 12, "unit": "years"}}, "at age 12 years"),
        ({"onsetString": "since childhood"}, "since childhood"),
        ({"onsetPeriod": {"start": "2001-02"}}, "Feb 2001"),
        ({"onsetRange": {"low": {"value": 3}}}, "from 3"),
        ({}, ""),
    ],
)
def test_the_beginning_of_a_problem_is_told_in_every_form(more, began):
    (found,) = problems(
        as_records({"resourceType": "Condition", "code": concept("X"), **more})
    ).unclear
    assert found.began == began


def test_a_problem_without_a_status_but_with_an_end_is_over():
    over = {"resourceType": "Condition", "code": concept("X"), "abatementDateTime": "2020"}
    refuted = {"resourceType": "Condition", "verificationStatus": concept(code="refuted")}
    found = problems(as_records(over, refuted))
    assert (len(found.over), len(found.doubtful)) == (1, 1)


@pytest.mark.parametrize(
    ("clinical", "verification", "words"),
    [
        (None, None, ""),
        ({"text": "Ruled out"}, None, "Ruled out"),
        (concept("Quiet", "quiet"), concept(code="confirmed"), "Quiet"),
        (concept(code="active"), concept(code="differential"), "active, differential"),
        (concept(code="active"), concept("Provisional", "provisional"), "active, provisional"),
        (concept(code="active"), {"text": "Ruled out"}, "active, Ruled out"),
    ],
)
def test_a_problem_that_nobody_lists_plainly_as_active_is_unclear_in_the_words_of_its_source(
    clinical, verification, words
):
    stated = {"clinicalStatus": clinical, "verificationStatus": verification}
    given = {name: value for name, value in stated.items() if value is not None}
    found = problems(as_records({"resourceType": "Condition", "code": concept("X"), **given}))
    assert (found.active, found.over, [one.status for one in found.unclear]) == ((), (), [words])


@pytest.mark.parametrize(
    ("clinical", "where"),
    [
        ("active", "active"),  # FHIR DSTU2: a bare code
        ({"text": "Active"}, "active"),
        ({"text": "Resolved"}, "over"),
        ({"coding": [{"code": "55561003"}, {"code": "recurrence"}]}, "active"),
    ],
)
def test_a_plain_status_is_read_in_every_form(clinical, where):
    stated = {"resourceType": "Condition", "code": concept("X"), "clinicalStatus": clinical}
    assert len(getattr(problems(as_records(stated)), where)) == 1


# ------------------------------------------------------------------------- the rest


def test_a_vaccine_that_was_not_given_says_so():
    not_given = {
        "resourceType": "Immunization",
        "status": "not-done",
        "statusReason": concept("declined"),
        "vaccineCode": concept("Flu"),
        "occurrenceString": "last autumn",
        "primarySource": False,
        "protocolApplied": [{"doseNumberPositiveInt": 2, "seriesDosesPositiveInt": 3}],
    }
    (found,) = immunizations(as_records(not_given))
    assert (found.given, found.why_not, found.when) == (False, "declined", "last autumn")
    assert (found.dose, found.reported) == ("dose 2 of 3", True)


def test_a_visit_tells_reason_people_and_place():
    visit = {
        "resourceType": "Encounter",
        "status": "finished",
        "class": {"code": "IMP"},
        "period": {"start": "2026-01-02", "end": "2026-01-05"},
        "reasonCode": [concept("Fall")],
        "diagnosis": [{"condition": {"reference": "Condition/c"}}],
        "participant": [
            {"individual": {"display": "Dr. Pell Example"}, "type": [concept("attender")]},
            {"individual": {"reference": "Patient/p", "display": "Juniper"}},
        ],
        "location": [{"location": {"display": "Ward 3"}}],
        "serviceProvider": {"display": "Saltmarsh"},
        "hospitalization": {"dischargeDisposition": concept("Home")},
    }
    cause = {"resourceType": "Condition", "id": "c", "code": concept("Broken wrist")}
    (found,) = visits(as_records(visit, cause))
    assert (found.name, found.when) == ("Hospital stay", "2 Jan 2026 to 5 Jan 2026")
    assert found.reasons == ("Fall", "Broken wrist")
    assert found.people == ("Dr. Pell Example (attender)",)
    assert (found.place, found.left_to) == ("Ward 3, Saltmarsh", "Home")


def test_an_appointment_shows_its_time_and_status():
    booked = {"resourceType": "Appointment", "status": "booked", "start": "2027-01-02T09:00:00Z"}
    (found,) = visits(as_records(booked))
    assert (found.name, found.status) == ("Appointment", "booked")
    assert found.when == "since 2 Jan 2027, 09:00 UTC"


def test_a_procedure_that_was_not_done_is_not_listed_as_done():
    (found,) = procedures(
        as_records({"resourceType": "Procedure", "status": "not-done", "performedString": "never"})
    )
    assert (found.done, found.status, found.when) == (False, "not done", "never")


def test_documents_list_their_files_in_a_fixed_order():
    (paper,) = documents(as_records(*juniper()))
    assert paper.name == "Letter: thyroid clinic, follow-up"
    assert [(one.place, one.said_type, one.inline) for one in paper.attachments] == [
        (0, "text/html", True),
        (1, "application/pdf", False),
        (2, "text/plain", True),
    ]
    assert inline_bytes(paper.record.document, 2) == b"plain text"
    assert inline_bytes(paper.record.document, 1) is None
    assert inline_bytes(paper.record.document, 9) is None


def test_damaged_base64_is_no_content():
    broken = {"resourceType": "Binary", "contentType": "text/plain", "data": "%%%"}
    assert len(attachments(broken)) == 1
    assert inline_bytes(broken, 0) is None


@pytest.mark.parametrize(
    ("size", "words"), [("0", "0 bytes"), ("1500", "1.5 kB"), ("2000000", "2 MB"), ("x", "")]
)
def test_sizes_are_told_in_words(size, words):
    assert size_words(size) == words


def test_people_places_and_teams_are_shown_as_they_appear():
    records = as_records(
        {
            "resourceType": "CareTeam",
            "participant": [{"member": {"reference": "Practitioner/d"}, "role": [concept("GP")]}],
        },
        {
            "resourceType": "Practitioner",
            "id": "d",
            "name": [{"text": "Dr. Pell Example"}],
            "telecom": [{"system": "phone", "value": "123"}, {"use": "old", "value": "9"}],
        },
        {
            "resourceType": "PractitionerRole",
            "practitioner": {"reference": "Practitioner/d"},
            "specialty": [concept("Cardiology")],
            "organization": {"display": "Driftwood"},
        },
        {"resourceType": "Organization", "name": "Saltmarsh", "address": [{"city": "Kelp"}]},
        {"resourceType": "Patient", "name": [{"text": "Juniper"}], "birthDate": "1984-03-14"},
    )
    assert teams(records)[0].members == (("Dr. Pell Example", "GP"),)
    assert [one.name for one in people(records)] == ["Dr. Pell Example", "Dr. Pell Example"]
    assert people(records)[0].contacts == (("phone", "123"),)
    assert people(records)[1].roles == ("Cardiology", "Driftwood")
    assert places(records)[0].address == "Kelp"
    assert patients(records)[0].born == "14 Mar 1984"


# ------------------------------------------------------------- statements about a whole list

ABSENT = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"


@pytest.mark.parametrize(
    "code",
    [
        concept("No known problems", "no-known-problems", ABSENT),
        concept("No information about problems", "no-problem-info", ABSENT),
        concept("No current problems or disability", "160245001", "http://snomed.info/sct"),
        concept("No active problems"),
        concept("None known"),
    ],
    ids=["none", "no information", "none by SNOMED CT", "in words", "in two words"],
)
def test_that_there_is_no_problem_is_never_counted_as_one(code):
    active = {"clinicalStatus": concept(code="active")}
    (said,) = as_records({"resourceType": "Condition", "code": code, **active})
    found = problems([said])
    assert not found.active
    assert len(found.said) == 1
    taken_back = problems([replace(said, withdrawn=True)])
    assert not taken_back.said
    assert not taken_back.over  # nor is it a problem of the past
    shown = show(VIEWS["problems"], [said], Context(origins={}, now=NOW))
    assert shown.heading.endswith("says Source unknown")


@pytest.mark.parametrize("words", ["No known allergy to latex", "No pain", "None of the above"])
def test_a_problem_whose_name_begins_with_no_is_a_problem(words):
    active = {"clinicalStatus": concept(code="active"), "code": concept(words)}
    assert len(problems(as_records({"resourceType": "Condition", **active})).active) == 1


@pytest.mark.parametrize(
    "named",
    [
        concept("No known medications", "no-known-medications", ABSENT),
        concept("No information about medications", "no-medication-info", ABSENT),
        concept("No current medications"),
    ],
    ids=["none", "no information", "in words"],
)
def test_that_there_is_no_medicine_is_never_listed_as_one(named):
    (said,) = as_records(medicine(medicationCodeableConcept=named))
    (one,) = medications([said], NOW)
    assert one.standing is Standing.SAID
    (one,) = medications([replace(said, withdrawn=True)], NOW)
    assert one.standing is Standing.PAST
    shown = show(VIEWS["medications"], [said], Context(origins={}, now=NOW))
    assert shown.heading.endswith("says Source unknown")
    both = as_records(medicine(medicationCodeableConcept=named), medicine())
    shown = show(VIEWS["medications"], both, Context(origins={}, now=NOW))
    assert shown.heading == "1 medicine is listed as current"


def test_that_there_is_no_vaccine_or_procedure_is_none_that_was_given_or_done():
    none = concept("No known immunizations", "no-known-immunizations", ABSENT)
    shot = {"resourceType": "Immunization", "status": "completed", "vaccineCode": none}
    assert [one.given for one in immunizations(as_records(shot))] == [False]
    none = concept("No known procedures", "no-known-procedures", ABSENT)
    done = {"resourceType": "Procedure", "status": "completed", "code": none}
    assert [one.done for one in procedures(as_records(done))] == [False]
