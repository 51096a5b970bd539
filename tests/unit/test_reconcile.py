"""How records become entries: the same whatever the order, conflicts named, strangers apart."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phr import views
from phr.chart.allergies import Knowledge, allergies
from phr.chart.decision import Decision
from phr.chart.evidence import How
from phr.chart.medications import medications
from phr.chart.problems import problems
from phr.chart.reconcile import reconcile
from phr.chart.results import by_test, groups
from phr.fhir.record import Origin
from tests.fixtures_records import Digits, as_record, concept, juniper, lab

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NAMES = ("Saltmarsh Hospital", "Harbour Practice", "Upland Clinic")
ORIGINS = {n: Origin(n, name, "smart") for n, name in enumerate(NAMES, start=1)}
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"


def told(*resources):
    """Return records, the first of hospital 1, the second of hospital 2, and so on."""
    return [
        as_record({"id": f"r{n}", **one}, pk=n, connection_id=n)
        for n, one in enumerate(resources, start=1)
    ]


def context(**more):
    link = lambda record: f"/record/{record.type}/{record.local_id}"  # noqa: E731
    return views.Context(origins=ORIGINS, now=NOW, link=link, **more)


def allergy(text="Latex", status="active", **more):
    made = {"resourceType": "AllergyIntolerance", "code": concept(text)}
    return made | {"clinicalStatus": concept(code=status)} | more


def medicine(text, status="active", dose="", **more):
    made = {"resourceType": "MedicationRequest", "status": status}
    dosage = {"dosageInstruction": [{"text": dose}]} if dose else {}
    return made | {"medicationCodeableConcept": concept(text)} | dosage | more


def sets(found):
    return sorted(sorted(one.pk for one in entry.records) for entry in found.entries)


# ------------------------------------------------------------------------- gathering


def test_the_order_of_the_records_does_not_change_the_entries():
    texts = ["Latex", "latex allergy", "Peanut", "Peanuts", "Penicillin", "Bee venom", "Latex"]
    found = [
        as_record({"id": f"r{n}", **allergy(text)}, pk=n, connection_id=n % 3 + 1)
        for n, text in enumerate(texts, start=1)
    ]
    expected = sets(reconcile(found))
    assert expected == [[1, 2, 7], [3, 4], [5], [6]]
    for seed in range(20):
        mixed = random.Random(seed).sample(found, len(found))  # noqa: S311
        assert sets(reconcile(mixed)) == expected


def test_what_fits_two_entries_that_contradict_each_other_stays_alone():
    found = told(
        medicine("Lisinopril 10 mg tablet"),
        medicine("Lisinopril 20 mg tablet"),
        medicine("Lisinopril"),
    )
    assert sets(reconcile(found)) == [[1], [2], [3]]


def test_no_entry_holds_two_records_that_say_no_to_each_other():
    left = {
        "resourceType": "Condition",
        "code": concept("Knee pain", "1", "http://snomed.info/sct"),
    }
    sides = [{**left, "bodySite": [concept(f"{side} knee")]} for side in ("Left", "Right")]
    assert sets(reconcile(told(*sides, left))) == [[1], [2], [3]]


def test_each_record_is_evidence_of_exactly_one_entry():
    found = [as_record(one, pk=n) for n, one in enumerate(juniper(), start=1)]
    pks = [one.pk for entry in reconcile(found).entries for one in entry.records]
    assert sorted(pks) == sorted(one.pk for one in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)
FIELDS = (
    "code", "vaccineCode", "medicationCodeableConcept", "medicationReference", "status", "name",
    "clinicalStatus", "verificationStatus", "category", "onsetDateTime", "abatementDateTime",
    "effectiveDateTime", "effectivePeriod", "valueQuantity", "component", "identifier", "period",
    "class", "content", "telecom", "address", "bodySite", "reaction", "dosageInstruction",
    "performedDateTime", "occurrenceDateTime", "specimen", "birthDate", "lotNumber", "subject",
)  # fmt: skip
TYPES = (
    "AllergyIntolerance", "Condition", "DiagnosticReport", "DocumentReference", "Encounter",
    "Immunization", "Location", "MedicationDispense", "MedicationRequest", "Observation",
    "Organization", "Patient", "Practitioner", "Procedure",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)
        ),
        max_size=4,
    )
)
def test_anything_that_is_shaped_like_fhir_becomes_entries(made):
    found = told(*({**more, "resourceType": type_} for type_, more in made))
    assert sum(len(entry.records) for entry in reconcile(found).entries) == len(found)


# ------------------------------------------------------------------------- the patient's word


def test_a_decision_goes_before_the_rules_and_the_newer_before_the_older():
    found = told(allergy(), allergy(), allergy("Peanut"))
    one, two, other = (record.local_id for record in found)
    apart = Decision(one, two, same=False)
    assert sets(reconcile(found)) == [[1, 2], [3]]
    assert sets(reconcile(found, [apart])) == [[1], [2], [3]]
    assert sets(reconcile(found, [apart, Decision(two, one, same=True)])) == [[1, 2], [3]]
    assert sets(reconcile(found, [Decision(one, other, same=True)])) == [[1, 2, 3]]
    assert sets(reconcile(found, [Decision(one, other, same=True), apart])) in (
        [[1, 3], [2]],
        [[1], [2, 3]],
    )


def test_a_decision_about_what_is_not_at_hand_changes_nothing():
    found = told(allergy(), allergy())
    assert sets(reconcile(found, [Decision("f" * 16, found[0].local_id, same=False)])) == [[1, 2]]


def test_what_the_store_remembers_is_taken_as_it_is():
    found = told(allergy(), allergy(), allergy("Peanut"))
    assert sets(reconcile(found, grouped={1: 1, 2: 2, 3: 1})) == [[1, 3], [2]]


# ------------------------------------------------------------------------- conflicts


@pytest.mark.parametrize(
    ("resources", "about", "words"),
    [
        ((allergy(), allergy(status="resolved")), "status", ("active", "resolved")),
        (
            (
                allergy(reaction=[{"severity": "mild"}]),
                allergy(reaction=[{"severity": "severe"}]),
            ),
            "severity",
            ("mild", "severe"),
        ),
        (
            (
                medicine("Amlodipine 5 mg", dose="1 tablet a day"),
                medicine("Amlodipine 5 mg", dose="2 tablets a day"),
            ),
            "dose",
            ("1 tablet a day", "2 tablets a day"),
        ),
        (
            (
                {"resourceType": "Condition", "code": concept("Asthma"), "onsetDateTime": "2001"},
                {
                    "resourceType": "Condition",
                    "code": concept("Asthma"),
                    "onsetDateTime": "2003-05",
                },
            ),
            "date",
            ("2001", "2003-05"),
        ),
    ],
)
def test_a_conflict_names_what_the_sources_disagree_about_and_who_says_what(
    resources, about, words
):
    found = told(*resources)
    (entry,) = reconcile(found).entries
    (conflict,) = entry.conflicts
    assert conflict.about == about
    assert tuple(side.words for side in conflict.sides) == words
    assert [side.records for side in conflict.sides] == [(found[0],), (found[1],)]


def test_an_earlier_state_of_one_hospital_is_history_and_no_conflict():
    newer = medicine("Amlodipine 5 mg", "active", authoredOn="2024-01-01")
    older = medicine("Amlodipine 5 mg", "stopped", authoredOn="2020-01-01")
    found = [as_record({"id": f"r{n}", **one}, pk=n) for n, one in enumerate((older, newer), 1)]
    (entry,) = reconcile(found).entries
    assert entry.conflicts == ()


def test_a_less_exact_date_is_no_conflict():
    made = {"resourceType": "Condition", "code": concept("Asthma")}
    found = told({**made, "onsetDateTime": "2001"}, {**made, "onsetDateTime": "2001-04-02"})
    (entry,) = reconcile(found).entries
    assert entry.conflicts == ()


def test_a_source_that_rules_an_allergy_out_is_a_conflict_and_no_evidence():
    refuted = {"verificationStatus": {"coding": [{"code": "refuted"}]}}
    found = told(allergy(), {**allergy(), **refuted})
    made = reconcile(found)
    assert sets(made) == [[1], [2]]
    (conflict,) = made.entries[0].conflicts
    assert conflict.about == "allergy"
    assert [(side.words, [one.pk for one in side.records]) for side in conflict.sides] == [
        ("listed", [1]),
        ("ruled out", [2]),
    ]
    assert made.entries[1].conflicts == ()
    again = reconcile(found, grouped={1: 1, 2: 2})
    assert again.entries[0].conflicts == made.entries[0].conflicts
    shown = views.render(views.VIEWS["allergies"], found, context())
    assert "The sources disagree about the allergy: listed" in shown


def test_what_one_hospital_itself_ruled_out_later_is_no_conflict_between_sources():
    refuted = {"verificationStatus": {"coding": [{"code": "refuted"}]}}
    one, other = told(allergy(), {**allergy(), **refuted})
    found = [one, replace(other, connection_id=one.connection_id)]
    assert reconcile(found).entries[0].conflicts == ()


# ------------------------------------------------------------------------- another person


def person(given, born="1947-05-01", family="Jones"):
    return {
        "resourceType": "Patient",
        "name": [{"given": [given], "family": family}],
        "birthDate": born,
    }


def test_records_of_a_near_miss_person_are_flagged_and_never_joined():
    found = told(person("Isabella"), person("Myra"))
    for pk, (connection, patient) in enumerate([(1, "r1"), (1, "r1"), (2, "r2")], start=10):
        about = {"patient": {"reference": f"Patient/{patient}"}, "id": f"a{pk}"}
        found.append(as_record(allergy() | about, pk=pk, connection_id=connection))
    made = reconcile(found)
    assert set(made.flagged) == {2, 12}
    assert made.flagged[12].words == "Myra Jones, 1 May 1947"
    assert made.flagged[12].near
    assert [10, 11] in sets(made)
    assert [12] in sets(made)


def test_a_flagged_record_says_whom_its_source_names():
    found = told(person("Isabella"), person("Myra"))
    for pk, name in ((10, "r1"), (11, "r2")):
        about = {"patient": {"reference": f"Patient/{name}"}, "id": f"a{pk}"}
        found.append(as_record(allergy() | about, pk=pk, connection_id=pk - 9))
    shown = views.render(views.VIEWS["allergies"], found, context())
    assert shown.count("Latex</a>") == 2
    assert "somebody else" in shown
    assert "Myra Jones, 1 May 1947" in shown


# ------------------------------------------------------------------------- lists and pages


def test_an_allergy_of_two_hospitals_is_one_row_with_both_at_hand():
    found = told(allergy(), allergy(status="resolved"))
    assert len(allergies(found).listed) == 1
    shown = views.render(views.VIEWS["allergies"], found, context())
    assert "from 2 hospitals: Saltmarsh Hospital, Harbour Practice" in shown
    assert "The sources disagree about the status: active (Saltmarsh Hospital)" in shown
    for record in found:
        assert f"/record/AllergyIntolerance/{record.local_id}" in shown


def test_a_statement_of_none_known_stands_beside_the_allergies_it_contradicts():
    none = {"resourceType": "AllergyIntolerance", "code": concept("No known allergies")}
    found = told(none, allergy())
    made = allergies(found)
    assert made.knowledge is Knowledge.PRESENT
    assert (len(made.listed), len(made.none_known)) == (1, 1)
    shown = views.render(views.VIEWS["allergies"], found, context())
    assert "Against this stands: Latex (Harbour Practice)." in shown


def test_a_medicine_is_told_once_and_the_newest_listing_as_current_speaks():
    old = medicine("Omeprazole 20 mg", "stopped", authoredOn="2020-01-01")
    new = medicine("Prilosec 20 mg", "active", authoredOn="2024-01-01")
    (one,) = medications(told(old, new), NOW)
    assert (one.name, one.standing.value, len(one.evidence.records)) == (
        "Prilosec 20 mg",
        "current",
        2,
    )


def test_what_one_reader_may_see_is_gathered_without_the_rest():
    found = told(allergy(), allergy(status="resolved"))
    (one,) = allergies(found[:1]).listed
    assert one.evidence.conflicts == ()
    assert one.evidence.records == (found[0],)


def test_a_split_by_hand_shows_as_two_rows():
    found = told(allergy(), allergy())
    how = How((Decision(found[0].local_id, found[1].local_id, same=False),))
    assert len(allergies(found, how).listed) == 2


def test_a_problem_of_two_hospitals_is_one_problem():
    one = {"resourceType": "Condition", "code": concept("Asthma")}
    found = problems(told(one, one))
    assert (len(found.active), len(found.unclear)) == (0, 1)  # neither says how it stands


def test_one_result_of_two_hospitals_is_one_row_in_its_report_and_in_its_series():
    taken = "2026-11-19T08:20:00Z"
    first = lab("Potassium", "2823-3", "5.40", on=taken)
    second = lab("K", "2823-3", "5.4", on=taken, id="other")
    report = {
        "resourceType": "DiagnosticReport",
        "id": "report",
        "code": concept("Electrolytes"),
        "effectiveDateTime": taken,
        "result": [{"reference": "Observation/other"}],
    }
    found = [
        as_record(first, pk=1, connection_id=1),
        as_record(second, pk=2, connection_id=2),
        as_record(report, pk=3, connection_id=2),
    ]
    (group,) = groups(found)
    assert (len(group.results), group.missing) == (1, 0)
    (test,) = by_test(found)
    assert len(test.results) == 1
    assert len(test.results[0].evidence.records) == 2
    shown = views.render(views.VIEWS["results"], found, context())
    assert shown.count("from 2 hospitals") == 1
    for record in found[:2]:
        assert f"/record/Observation/{record.local_id}" in shown


def test_two_draws_stay_two_rows():
    found = told(
        lab("Potassium", "2823-3", "5.4", on="2026-11-19T08:20:00Z"),
        lab("Potassium", "2823-3", "5.4", on="2026-11-19T14:20:00Z"),
    )
    (test,) = by_test(found)
    assert len(test.results) == 2


def test_digits_that_differ_only_in_zeros_are_one_value():
    base = {"resourceType": "Observation", "status": "final", "code": concept("K", "2823-3")}
    made = [
        base
        | {
            "effectiveDateTime": "2026-11-19",
            "valueQuantity": {"value": Digits(one), "unit": "mmol/L"},
        }
        for one in ("5.4", "5.40")
    ]
    assert sets(reconcile(told(*made))) == [[1, 2]]
