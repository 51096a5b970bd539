"""The newest value of each test: which records, in which order, by which index."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from phr import views
from phr.fhir.record import Selection
from phr.store import newest, records
from phr.store.models import Member
from phr.web.pages.chart import _PAGES, PAGES_KEPT
from tests.fixtures_records import concept, keep_records, lab

OF_TESTS = Selection(types=("Observation",), categories=("laboratory",), limit=300)


@pytest.fixture
def vault(cast):
    held = cast.vault("Ada")
    report = {
        "resourceType": "DiagnosticReport",
        "code": concept("Potassium", "2823-3"),
        "effectiveDateTime": "2026-12-01",
    }
    keep_records(
        held,
        [
            *(lab("Potassium", "2823-3", f"4.{n}", on=f"202{n}-01-01") for n in range(1, 7)),
            lab("Sodium", "2951-2", "140", on="2026-02-01"),
            lab("Sodium", "2951-2", "139", on="2020-02-01"),
            lab("Pulse", "8867-4", "60", on="2026-03-01", category=[concept(code="vital-signs")]),
            report,
        ],
    )
    return held


def chosen(vault, selection=OF_TESTS):
    with vault.read() as session:
        found = newest.of_each_concept(session, vault, selection)
    return [
        (one.document["code"]["text"], str(one.document["valueQuantity"]["value"])) for one in found
    ]


def test_each_test_is_there_once_with_its_newest_value_whatever_else_has_its_code(vault):
    assert chosen(vault) == [("Sodium", "140"), ("Potassium", "4.6")]


def test_limit_and_place_are_those_of_the_selection(vault):
    with vault.read() as session:
        first, *_ = newest.of_each_concept(session, vault, OF_TESTS)
    assert chosen(vault, replace(OF_TESTS, limit=1)) == [("Sodium", "140")]
    place = (int(first.when.timestamp() * 1000), first.pk)
    assert chosen(vault, replace(OF_TESTS, before=place)) == [("Potassium", "4.6")]


def test_a_day_to_come_is_the_newest_only_of_a_test_that_has_nothing_else(vault):
    keep_records(
        vault,
        [
            lab("Sodium", "2951-2", "155", on="2031-02-01"),
            lab("Zinc", "5763-8", "12", on="2032-02-01"),
        ],
    )
    assert chosen(vault) == [("Zinc", "12"), ("Sodium", "140"), ("Potassium", "4.6")]


@pytest.mark.usefixtures("vault")
def test_the_page_of_tests_shows_one_value_a_test(cast):
    browser, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/results"
    page = browser.get(f"{base}?show=tests").text
    assert "2 tests with results" in page
    assert "4.6" in page
    assert "4.5" not in page


def test_new_results_are_those_since_the_last_look(vault, cast):
    browser, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/results?show=new"
    assert "7 results since your last look" not in browser.get(base).text
    with vault.write() as session:
        for member in session.query(Member):
            member.seen_at = datetime(2026, 11, 21, 4, tzinfo=UTC)  # after everything came
    assert "No new results since your last look" in browser.get(base).text
    later = datetime(2026, 11, 23, tzinfo=UTC)
    keep_records(vault, [lab("Iron", "2498-4", "12", on="2026-11-22")], name="Harbour", now=later)
    text = browser.get(base).text
    assert "1 result since your last look" in text
    assert "Iron" in text
    assert "Sodium" not in text


def test_out_of_range_means_flagged_or_outside_the_range_that_was_sent(cast):
    vault = cast.vault("Ada")
    keep_records(
        vault,
        [
            lab("Potassium", "2823-3", "5.40", low="3.5", high="5.1"),
            lab("Ferritin", "2276-4", "9", "ng/mL", flag="L"),
            lab("Sodium", "2951-2", "140", low="135", high="145"),
        ],
    )
    text = cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/results?show=flagged").text
    assert "2 results are out of range" in text
    assert "1 flagged by the source, 1 lies outside the range sent, without a flag" in text
    assert "Sodium" not in text


def test_the_newest_of_each_is_found_by_the_index_of_concepts(vault):
    with vault.read() as session:
        run = session.connection().exec_driver_sql
        seen: list[str] = []
        held = session.connection().connection.driver_connection
        held.set_trace_callback(seen.append)
        newest.of_each_concept(session, vault, OF_TESTS)
        held.set_trace_callback(None)
        (asked,) = [one for one in seen if "concept.id" in one]
        plan = "\n".join(row[3] for row in run(f"EXPLAIN QUERY PLAN {asked}"))
    assert "record_concept" in plan


def test_a_section_is_drawn_once_until_something_is_written(vault, cast, monkeypatch):
    browser, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    drawn: list[str] = []
    whole = views.show

    def counting(view, found, context):
        drawn.append(view.slug)
        return whole(view, found, context)

    monkeypatch.setattr("phr.views.show", counting)
    for _ in range(2):
        assert "Sodium" in browser.get(f"{base}/results").text
    assert drawn == ["results"]
    keep_records(vault, [lab("Iron", "2498-4", "12", on="2026-11-22")], name="Harbour")
    assert "Iron" in browser.get(f"{base}/results").text
    browser.get(f"{base}/results?show=flagged")
    assert drawn == ["results"] * 3


def test_few_drawn_sections_are_kept_and_none_after_sealing(vault, cast):
    browser, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    for number in range(PAGES_KEPT + 3):
        browser.get(f"{base}/results?before=0.{number}")
    _, pages = vault.drawn[_PAGES]
    assert 0 < len(pages) <= PAGES_KEPT
    cast.appliance.vaults.seal(vault.id)
    assert not vault.drawn


def test_the_page_of_a_visit_shows_what_it_brought(cast):
    visit = {
        "resourceType": "Encounter",
        "id": "v",
        "status": "finished",
        "type": [concept("Follow-up")],
        "period": {"start": "2026-02-01T09:00:00Z", "end": "2026-02-01T09:30:00Z"},
    }
    named = {"encounter": {"reference": "Encounter/v"}}
    vault = cast.vault("Ada")
    keep_records(vault, [visit, lab("CRP", "1988-5", "12.0", "mg/L", on="2026-02-03", **named)])
    keep_records(vault, [lab("CRP", "1988-5", "7", "mg/L", on="2026-02-02", **named)], name="Else")
    with vault.read() as session:
        (found,) = records.select(session, vault, Selection(types=("Encounter",)))
    browser = cast.browser("Ada")
    page = browser.get(f"/p/{cast.patients['Ada']}/record/Encounter/{found.local_id}").text
    assert "Results of this visit" in page
    assert "CRP: 12.0 mg/L" in page
    assert "CRP: 7 mg/L" not in page  # another hospital's visit of the same id
