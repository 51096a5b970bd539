"""First screens after somebody else's data came: Home, the doctor's page and the printed card."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from phr import clock
from phr.fhir.labels import Label
from phr.fhir.record import CONTRIBUTED, UPLOAD, Origin
from phr.sharing import cover, emergency
from phr.sharing.provision import Provision, Rule
from phr.sharing.released import Terms
from phr.store import connections
from tests.fixtures_records import (
    NOW,
    as_record,
    as_records,
    concept,
    juniper,
    keep_records,
    lab,
)
from tests.fixtures_sharing import label

HOSPITAL = Origin(1, "Saltmarsh Hospital", "smart", as_of=NOW)
STRANGER = Origin(2, "Dr. Chen (link, not verified)", CONTRIBUTED, as_of=NOW)
FILE = Origin(3, "summary.json", UPLOAD, as_of=NOW)
PLACES = {one.connection_id: one for one in (HOSPITAL, STRANGER, FILE)}
ALL = Provision((Rule(("Observation", "AllergyIntolerance", "Condition", "MedicationRequest")),))
PENICILLIN = {
    "resourceType": "AllergyIntolerance",
    "id": "a",
    "clinicalStatus": concept(code="active"),
    "code": concept("Penicillin", "7980", "http://www.nlm.nih.gov/research/umls/rxnorm"),
}


def first_page(found, role="doctor", provision=ALL):
    """Return the first screen of these records."""
    terms = Terms(
        grant_id="g",
        patient="Juniper",
        recipient="Dr. Welcome",
        role=role,
        purpose="",
        reason=None,
        shared_by="Juniper",
        created_at=NOW,
        ends_at=NOW + timedelta(days=1),
        actions=frozenset(),
    )
    return cover.build(found, terms, provision, PLACES, now=NOW)


def flat(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


# ------------------------------------------------------------------ the doctor's first page


@pytest.mark.parametrize("flagged", [1, 15])
def test_a_flagged_result_stands_on_the_doctors_first_page_however_many_are_newer(flagged):
    old = [lab(f"Old {n}", f"o{n}", "9", flag="H", on="2019-01-01") for n in range(flagged)]
    new = [lab(f"New {n}", f"n{n}", "5", on="2026-11-01") for n in range(cover.NEWEST_TESTS + 3)]
    shown = first_page(as_records(*new, *old))
    marked = [one.name for one in shown.tests if one.words == "High"]
    assert len(marked) == flagged
    assert [one.name for one in shown.tests[:flagged]] == marked
    left = len(old) + len(new) - len(shown.tests)
    told = f"{left} more tests, not flagged by the source, in the section below."
    assert shown.tests_note == told
    assert told in cover.body(shown)


def test_where_all_tests_are_shown_nothing_says_that_there_are_more():
    shown = first_page(as_records(lab("Sodium", "2951-2", "140")))
    assert shown.tests_note == ""
    assert "more test" not in cover.body(shown)


def test_each_latest_result_says_where_it_is_from_and_whether_anybody_vouches():
    found = [
        as_record(lab("Sodium", "2951-2", "140"), pk=1, connection_id=1),
        as_record(lab("Iron", "2498-4", "12"), pk=2, connection_id=2),
        as_record(lab("Zinc", "2601-3", "11"), pk=3, connection_id=3),
    ]
    said = {one.name: one.by for one in first_page(found).tests}
    assert said == {
        "Sodium": "Saltmarsh Hospital",
        "Iron": "Dr. Chen (link, not verified)",
        "Zinc": "summary.json (a file the patient kept)",
    }
    assert "Dr. Chen (link, not verified)" in cover.body(first_page(found))


@pytest.mark.parametrize("brought", [STRANGER, FILE])
def test_what_was_brought_never_speaks_in_a_connected_hospitals_place(brought):
    later = replace(
        as_record(PENICILLIN, pk=1, connection_id=brought.connection_id),
        received_at=NOW + timedelta(days=9),
    )
    shown = first_page([later, as_record(PENICILLIN, pk=2, connection_id=1)])
    (line,) = shown.columns[0].lines
    assert "Saltmarsh Hospital" in line.said
    assert "Saltmarsh Hospital" in shown.as_of[0]


def test_a_severity_that_only_a_file_tells_is_still_marked_and_told_as_anothers():
    severe = PENICILLIN | {"criticality": "high"}
    found = [
        as_record(PENICILLIN, pk=1, connection_id=1),
        as_record(severe, pk=2, connection_id=3),
    ]
    (line,) = first_page(found).columns[0].lines
    assert line.severe
    assert "severe as another source says" in line.text.casefold()
    assert "Saltmarsh Hospital" in line.said


def test_an_allergy_that_only_a_file_lists_as_active_stays_on_the_first_page():
    resolved = PENICILLIN | {"clinicalStatus": concept(code="resolved")}
    found = [
        as_record(resolved, pk=1, connection_id=1),
        as_record(PENICILLIN, pk=2, connection_id=3),
    ]
    (line,) = first_page(found).columns[0].lines
    assert "summary.json" in line.said


PATIENT = {"resourceType": "Patient", "id": "p", "name": [{"text": "Juniper Sample"}]}
ADA = {"name": {"text": "Ada Sample"}, "telecom": [{"system": "phone", "value": "555 1"}]}


@pytest.mark.parametrize(
    ("contact", "said"),
    [([ADA], "Ada Sample: 555 1"), ([], "no contact is listed in what is shared")],
)
def test_the_page_of_an_emergency_card_says_whom_to_call_and_keeps_still_on_results(contact, said):
    few = Provision((Rule(("AllergyIntolerance", "Condition", "MedicationRequest")),))
    shown = first_page([as_record(PATIENT | {"contact": contact})], emergency.ROLE, few)
    assert shown.calls == said
    page = cover.body(shown)
    assert said in page
    assert "Latest results" not in page
    other = cover.body(first_page([as_record(PATIENT)], provision=few))
    assert "Whom to call" not in other
    assert "The patient does not share test results here." in other


# ------------------------------------------------------------------ Home


@pytest.fixture
def home(cast):
    """Return a function that gives the words of Ada's Home."""
    browser = cast.browser("Ada")
    return lambda: flat(browser.get(f"/p/{cast.patients['Ada']}/").text)


def test_a_later_result_of_a_stranger_hides_no_flag_of_a_hospital(cast, home):
    vault = cast.vault("Ada")
    keep_records(vault, juniper())
    keep_records(vault, [lab("Zinc", "2601-3", "11", on="2026-11-21")], name="Somebody")
    same = lab("Ferritin", "2276-4", "90", "µg/L", on="2026-11-21")
    keep_records(vault, [same], name="Somebody else")
    words = home()
    assert "2 flagged among the newest value of each test of each place" in words
    assert "LDL cholesterol" in words.partition("Flagged by the source")[2]
    assert "Ferritin" in words.partition("Flagged by the source")[2]


def test_a_place_s_own_newer_value_takes_its_flag_away(cast, home):
    vault = cast.vault("Ada")
    old = lab("Ferritin", "2276-4", "9", "µg/L", flag="L", on="2026-01-01")
    new = lab("Ferritin", "2276-4", "60", "µg/L", on="2026-02-01")
    keep_records(vault, [old, new])
    assert "No source flagged anything among the newest value of each test" in home()


def test_more_flagged_results_than_home_shows_are_counted(cast, home):
    keep_records(cast.vault("Ada"), [lab(f"T{n}", f"t{n}", "9", flag="H") for n in range(8)])
    words = home()
    assert "8 flagged" in words
    assert "3 more, among all tests" in words


# ------------------------------------------------------------------ the printed card


def problem(id_, name, **more):
    return {
        "resourceType": "Condition",
        "id": id_,
        "clinicalStatus": concept(code="active"),
        "category": [concept(code="problem-list-item")],
        "code": concept(name),
    } | more


@pytest.fixture
def card(cast):
    """Return a function that gives Ada's card, its page and what is printed of it."""
    browser = cast.browser("Ada")

    def shown(query=""):
        page = browser.get(f"/p/{cast.patients['Ada']}/card{query}").text
        return page, page.partition('class="paper card')[2]

    return shown


LABELLED = [
    problem("dep", "Moderate depressive episode", meta=label("PSY")),
    problem("asthma", "Asthma"),
    PENICILLIN | {"meta": label("HIV"), "patient": {"reference": "Patient/1"}},
    {
        "resourceType": "MedicationRequest",
        "id": "m",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": concept("Sertraline 50 mg"),
        "meta": label("PSY"),
    },
]


def test_what_carries_a_sensitive_label_is_on_the_card_only_when_it_was_ticked(cast, card):
    keep_records(cast.vault("Ada"), LABELLED)
    page, printed = card()
    for hidden in ("depressive", "Sertraline", "Penicillin", "sensitive"):
        assert hidden not in printed, hidden
    assert "Asthma" in printed
    words = flat(page)
    assert "1 problem with a sensitive label is left out." in words
    assert "1 medicine with a sensitive label is left out." in words
    assert "1 allergy with a sensitive label is left out." in words
    page, printed = card("?sensitive=yes")
    for told in ("depressive", "Sertraline", "Penicillin", "Asthma"):
        assert told in printed, told
    assert "left out" not in flat(page)


def test_a_card_of_a_record_without_labels_asks_for_nothing(cast, card):
    keep_records(cast.vault("Ada"), [problem("asthma", "Asthma")])
    page, _ = card()
    assert 'name="sensitive"' not in page
    assert "left out" not in page


def test_what_is_kept_private_is_never_on_the_card(cast, card):
    vault = cast.vault("Ada")
    keep_records(vault, [problem("asthma", "Asthma"), problem("gout", "Gout")])
    with vault.write() as session:
        session.connection().exec_driver_sql(
            "UPDATE record SET labels = ? WHERE remote_id = 'gout'", (int(Label.PRIVATE),)
        )
    for query in ("", "?sensitive=yes"):
        page, printed = card(query)
        assert "Gout" not in printed
        assert "1 problem with a sensitive label is left out." in flat(page)
        assert 'name="sensitive"' not in page


def test_the_card_with_a_code_keeps_the_choice_and_the_code(cast):
    keep_records(cast.vault("Ada"), LABELLED)
    base = f"/p/{cast.patients['Ada']}"
    browser = cast.browser("Ada")
    sent = {"link": f"{cast.appliance.settings.public_url}/s/a.b", "code": "123456"}
    for more, there in (({}, False), ({"sensitive": "yes"}, True)):
        page = browser.submit(f"{base}/card", sent | more, page=f"{base}/card").text
        assert ("depressive" in page) is there
        assert 'class="qr' in page or "<svg" in page
        assert 'name="code" value="123456"' in page


def test_the_card_says_in_words_that_an_allergy_is_severe(cast, card):
    keep_records(cast.vault("Ada"), juniper())
    _, printed = card()
    assert re.search(r"Penicillin\s*<b>\(severe\)</b>", printed)
    assert "unseen" not in printed.partition("</section>\n{% end")[0].partition("<footer")[0]


def test_the_card_counts_only_places_that_say_something_on_it(cast, card):
    vault = cast.vault("Ada")
    keep_records(vault, [problem("asthma", "Asthma")])
    keep_records(vault, [lab("Sodium", "2951-2", "140")], name="Only results")
    with vault.write() as session:
        connections.add(session, kind=UPLOAD, name="bad.exe", base_url="", now=clock.now())
    _, printed = card()
    assert "bad.exe" not in printed
    assert "Only results" not in printed
    assert "from 1 source" in flat(printed)


def test_a_diagnosis_of_a_visit_is_not_told_twice_on_the_card(cast, card):
    visit = [concept(code="encounter-diagnosis")]
    again = problem("again", "Asthma", category=visit, onsetDateTime="2020-01-01")
    alone = problem("alone", "Sprain", category=visit)
    keep_records(cast.vault("Ada"), [problem("asthma", "Asthma"), again, alone])
    _, printed = card()
    assert printed.count("Asthma") == 2  # the page and the wallet
    assert printed.count("Sprain") == 2


def test_home_s_words_hold_for_an_undated_flag(cast, home):
    undated = lab("Copper", "5631-7", "90", flag="H", on="2020-01-01")
    del undated["effectiveDateTime"]
    keep_records(cast.vault("Ada"), [undated], now=datetime(2026, 11, 21, tzinfo=UTC))
    words = home()
    assert "1 flagged" in words
    assert "no date given" in words
