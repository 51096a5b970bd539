"""The sections of the International Patient Summary: what stands where, and what a gap says."""

from datetime import UTC, datetime

import pytest

from phr.chart.decision import Decision
from phr.chart.evidence import How
from phr.chart.people import of_the_person
from phr.chart.summary import Gap, contacts_of, summary
from phr.fhir import build
from phr.fhir.record import Origin
from phr.views import Context, show
from phr.views import summary as view
from tests.fixtures_records import as_record, as_records, concept, juniper, lab

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONTEXT = Context(origins={1: Origin(1, "Saltmarsh", "smart")}, now=NOW)
REQUIRED = ["48765-2", "10160-0", "11450-4"]


def sections(*resources, shared=False):
    found = summary(as_records(*resources), now=NOW, shared=shared)
    return {one.head.slug: one for one in found}


def names(section):
    return [line.cells[0] for line in section.lines]


def condition(name, status="active", **more):
    return {
        "resourceType": "Condition",
        "code": concept(name),
        "clinicalStatus": concept(code=status),
        **more,
    }


def told(code, name, words, on, category="social-history"):
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [concept(code=category)],
        "code": concept(name, code),
        "effectiveDateTime": on,
        "valueCodeableConcept": concept(words),
    }


def test_the_three_required_sections_are_there_when_nothing_is_known():
    found = summary([], now=NOW)
    assert [one.head.code for one in found] == REQUIRED
    assert [one.gap for one in found] == [Gap.UNAVAILABLE] * 3


def test_a_gap_is_never_said_to_be_nil_known():
    assert "nilknown" not in set(Gap)
    for one in summary([], now=NOW):
        assert "none known" not in one.gap.words.casefold()


def test_an_empty_section_of_what_is_shared_says_withheld_whatever_the_record_holds():
    for one in summary([], now=NOW, shared=True):
        assert one.gap is Gap.WITHHELD


def test_a_source_that_did_not_ask_about_allergies_is_not_a_source_that_found_none():
    asked = {"resourceType": "AllergyIntolerance", "code": concept("?", "1631000175102")}
    allergies = sections(asked)["allergies"]
    assert allergies.lines == ()
    assert allergies.gap is Gap.NOT_ASKED


def test_no_known_allergy_is_an_entry_that_somebody_stated():
    stated = {
        "resourceType": "AllergyIntolerance",
        "code": concept("No known allergy", "716186003"),
    }
    allergies = sections(stated)["allergies"]
    assert names(allergies) == ["No known allergy"]
    assert allergies.gap is None


def test_sources_that_contradict_each_other_about_allergies_are_both_shown_and_named():
    stated = {
        "resourceType": "AllergyIntolerance",
        "code": concept("No known allergy", "716186003"),
    }
    listed = {"resourceType": "AllergyIntolerance", "code": concept("Latex")}
    allergies = sections(stated, listed)["allergies"]
    assert names(allergies) == ["Latex", "No known allergy"]
    assert "do not agree" in allergies.note


def test_active_problems_and_past_ones_stand_apart_and_mistakes_are_left_out():
    found = sections(
        condition("Asthma"),
        condition("Broken arm", "resolved"),
        condition("Gout", verificationStatus=concept(code="entered-in-error")),
    )
    assert names(found["problems"]) == ["Asthma"]
    assert names(found["past"]) == ["Broken arm"]


def test_a_problem_without_a_plain_status_is_told_with_its_words_behind_the_active_ones():
    bare = {"resourceType": "Condition", "code": concept("Gout")}
    found = sections(
        bare,
        {**bare, "code": concept("Lupus"), "clinicalStatus": {"text": "Ruled out"}},
        condition("Asthma"),
    )
    assert [line.cells[:2] for line in found["problems"].lines] == [
        ("Asthma", "active"),
        ("Gout", "status not given"),
        ("Lupus", "Ruled out"),
    ]


def test_what_only_visits_were_given_as_diagnosis_is_listed_once():
    """Some hospitals keep no problem list: without these the list would be falsely empty."""
    visit = [concept(code="encounter-diagnosis")]
    found = sections(
        condition("Diabetes", category=visit),
        condition("Diabetes", category=visit),
        condition("Cough", "resolved", category=visit),
    )
    assert [line.cells[:2] for line in found["problems"].lines] == [
        ("Diabetes", "active, diagnosis of a visit")
    ]
    assert names(found["past"]) == ["Cough"]


def test_medicines_listed_as_current_come_before_unclear_ones_and_past_ones_stay_out():
    def medicine(name, status):
        return {
            "resourceType": "MedicationRequest",
            "status": status,
            "intent": "order",
            "medicationCodeableConcept": concept(name),
        }

    found = sections(
        medicine("Iron", "on-hold"), medicine("Thyroxine", "active"), medicine("Old", "stopped")
    )["medications"]
    assert names(found) == ["Thyroxine", "Iron"]
    assert [line.cells[2] for line in found.lines] == ["current", "unclear: on hold"]


def test_of_each_test_the_newest_value_is_listed_with_its_own_digits():
    found = sections(
        lab("Potassium", "2823-3", "5.40", low="3.5", high="5.1", on="2026-11-19"),
        lab("Potassium", "2823-3", "4.1", on="2026-05-04"),
    )["results"]
    assert [line.cells[:2] for line in found.lines] == [("Potassium", "5.40 mmol/L")]


def test_social_history_and_pregnancy_stand_in_sections_of_their_own():
    found = sections(
        told("72166-2", "Tobacco smoking status", "Former smoker", "2024-01-01"),
        told("72166-2", "Tobacco smoking status", "Smoker", "2019-01-01"),
        told("82810-3", "Pregnancy status", "Not pregnant", "2026-01-01"),
    )
    assert [line.cells[1] for line in found["social"].lines] == ["Former smoker"]
    assert [line.cells[1] for line in found["pregnancy"].lines] == ["Not pregnant"]
    assert "results" not in found


def test_an_advance_directive_is_a_consent_of_that_kind_only():
    directive = {
        "resourceType": "Consent",
        "scope": concept(code="adr"),
        "category": [concept("DNR")],
    }
    research = {"resourceType": "Consent", "scope": concept(code="research")}
    assert len(sections(directive, research)["directives"].lines) == 1


def test_the_narrative_says_what_the_entries_say_and_escapes_what_hospitals_send():
    evil = condition("<script>alert(1)</script> & \u202egnihton")
    problems = sections(evil)["problems"]
    text = str(view.narrative(problems, CONTEXT))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "[U+202E]" in text
    assert "Saltmarsh" in text


@pytest.mark.parametrize("shared", [False, True])
def test_a_full_record_draws_every_line_once_with_its_source(shared):
    found = summary(as_records(*juniper()), now=NOW, shared=shared)
    lines = sum(len(one.lines) for one in found)
    body = show(view.VIEW, as_records(*juniper()), CONTEXT).body
    assert body.count("<small>Saltmarsh</small>") == lines > 15


def test_both_figures_of_a_blood_pressure_are_entries_of_the_summary():
    def half(code, name, value):
        return {
            "resourceType": "Observation",
            "id": code,
            "status": "final",
            "category": [{"coding": [{"code": "vital-signs"}]}],
            "code": {
                "coding": [{"system": "http://loinc.org", "code": code}],
                "text": name,
            },
            "effectiveDateTime": "2026-11-20",
            "valueQuantity": {"value": value, "unit": "mmHg"},
        }

    found = sections(half("8480-6", "Systolic", 135), half("8462-4", "Diastolic", 92))["vitals"]
    assert [line.cells[:2] for line in found.lines] == [("Blood pressure", "135/92 mmHg")]
    assert {one.remote_id for one in found.records} == {"8480-6", "8462-4"}


def test_whom_to_call_is_told_once_for_all_sources():
    person = {
        "resourceType": "Patient",
        "contact": [
            {
                "name": {"given": ["Ada"], "family": "Sample"},
                "relationship": [concept("wife")],
                "telecom": [{"system": "phone", "value": "555 0100"}],
            }
        ],
    }
    assert contacts_of(as_records(person, person)) == ("Ada Sample, wife: 555 0100",)


def test_what_we_author_is_refused_when_it_is_not_valid():
    with pytest.raises(ValueError, match="author"):
        build.authored({"resourceType": "Composition", "id": "x", "status": "final"})


# ------------------------------------------------------------------------- several sources


def from_two(*resources):
    """Return records of two hospitals in turn."""
    return [
        as_record(one, pk=n, connection_id=1 + (n - 1) % 2) for n, one in enumerate(resources, 1)
    ]


def iron(id_, **more):
    return {
        "resourceType": "MedicationRequest",
        "id": id_,
        "status": "active",
        "intent": "order",
        "authoredOn": "2026-01-01",
        "medicationCodeableConcept": concept("Ferrous fumarate 210 mg"),
    } | more


TWO = Context(
    origins={1: Origin(1, "Saltmarsh", "smart"), 2: Origin(2, "Harbour", "smart")}, now=NOW
)


def medicines(records, **more):
    return next(one for one in summary(records, now=NOW, **more) if one.head.slug == "medications")


def test_a_medicine_of_two_hospitals_is_one_line_that_names_both():
    section = medicines(from_two(iron("a"), iron("b")))
    assert len(section.lines) == len(section.records) == 1
    assert "Saltmarsh, Harbour" in view.narrative(section, TWO)


def test_what_the_patient_set_apart_or_joined_is_so_in_the_summary_too():
    records = from_two(iron("a"), iron("b"))
    one, other = (each.local_id for each in records)
    apart = How((Decision(one, other, same=False),))
    assert len(medicines(records, how=apart).lines) == 2
    named = {"medicationCodeableConcept": concept("Iron of the village doctor")}
    strangers = from_two(iron("a"), iron("b", **named))
    assert len(medicines(strangers).lines) == 2
    assert len(medicines(strangers, how=How((Decision(one, other, same=True),))).lines) == 1


def test_what_the_patient_does_not_take_is_listed_with_that_word():
    denial = {
        "resourceType": "MedicationStatement",
        "status": "not-taken",
        "medicationCodeableConcept": concept("Ferrous fumarate 210 mg"),
        "dateAsserted": "2026-06-01",
        "informationSource": {"reference": "Patient/p"},
    }
    (line,) = medicines(from_two(iron("a"), denial)).lines
    assert line.cells[2] == (
        "unclear: listed as active; the patient said on 1 Jun 2026 it is not taken"
    )


def test_where_sources_disagree_the_summary_says_so_and_chooses_nothing():
    dose = {"dosageInstruction": [{"text": "1 tablet"}]}
    other = {"dosageInstruction": [{"text": "2 tablets"}]}
    section = medicines(from_two(iron("a", **dose), iron("b", **other)))
    told = str(view.narrative(section, TWO))
    assert "disagree about the dose: 1 tablet (Saltmarsh); 2 tablets (Harbour)" in told
    shown = show(view.VIEW, from_two(iron("a", **dose), iron("b", **other)), TWO)
    assert "disagree about the dose" in shown.body


def test_what_may_be_about_somebody_else_is_told_and_is_no_entry():
    def person(id_, name, born):
        return {
            "resourceType": "Patient",
            "id": id_,
            "name": [{"family": name, "given": ["Ada"]}],
            "birthDate": born,
        }

    ours = {"subject": {"reference": "Patient/a"}}
    theirs = {"subject": {"reference": "Patient/b"}}
    records = from_two(
        person("a", "Sample", "1984-02-14"),
        person("b", "Other", "1950-01-01"),
        condition("Asthma", **ours),
        condition("Gout", **theirs),
        condition("Migraine", **ours),
    )
    problems = next(one for one in summary(records, now=NOW) if one.head.slug == "problems")
    assert set(names(problems)) == {"Asthma", "Gout", "Migraine"}
    assert [concept_of(one) for one in problems.records] == ["Asthma", "Migraine"]
    assert "may be about somebody else" in view.narrative(problems, TWO)
    assert [one.local_id for one in of_the_person(records)] == [records[0].local_id]


def concept_of(record):
    return record.document["code"]["text"]


def test_an_order_of_an_old_standard_is_told_in_the_text_and_is_no_entry():
    section = medicines(as_records(iron("a") | {"resourceType": "MedicationOrder"}))
    assert names(section) == ["Ferrous fumarate 210 mg"]
    assert section.records == ()
    assert section.gap is None


def test_where_only_the_newest_records_were_looked_at_the_section_says_so():
    many = [{"resourceType": "Immunization", "status": "completed"} for _ in range(500)]
    assert "newest 500 records were looked at" in sections(*many)["immunizations"].note
    assert "looked at" not in sections(*many[:499])["immunizations"].note


ABSENT = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"


def test_a_stated_absence_is_an_entry_and_missing_information_is_a_gap():
    def told(problem, drug):
        made = summary(
            as_records(
                {
                    "resourceType": "Condition",
                    "clinicalStatus": concept(code="active"),
                    "code": concept("As said", problem, ABSENT),
                },
                {
                    "resourceType": "MedicationStatement",
                    "status": "active",
                    "medicationCodeableConcept": concept("As said", drug, ABSENT),
                },
            ),
            now=NOW,
        )
        return {one.head.slug: one for one in made}

    stated = told("no-known-problems", "no-known-medications")
    assert [line.cells[1] for line in stated["problems"].lines] == ["as stated"]
    assert [line.cells[2] for line in stated["medications"].lines] == ["as stated"]
    missing = told("no-problem-info", "no-medication-info")
    for slug in ("problems", "medications"):
        assert not missing[slug].lines
        assert missing[slug].gap is Gap.UNAVAILABLE
