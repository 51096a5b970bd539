"""What a visit brought, and its time in words."""

from datetime import UTC, datetime

import pytest

from phr import views
from phr.chart.visits import span_words
from phr.fhir.record import Origin
from phr.views import Context, during
from tests.fixtures_records import as_records, concept, lab

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONTEXT = Context(origins={1: Origin(1, "Saltmarsh", "smart")}, now=NOW)
VISIT = {
    "resourceType": "Encounter",
    "id": "v",
    "period": {"start": "2026-11-19T09:30:00Z", "end": "2026-11-21T10:05:00Z"},
}
OF_IT = {"encounter": {"reference": "Encounter/v"}}
NOTE = {
    "resourceType": "DocumentReference",
    "date": "2026-11-20",
    "type": concept("Progress note"),
    "context": {"encounter": [{"reference": "Encounter/v"}]},
}
CAUSE = {"resourceType": "Condition", "code": concept("Acute bronchitis")} | OF_IT


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("2026-11-11T09:30:00Z", "2026-11-11T10:05:00Z", "11 Nov 2026, 09:30 to 10:05 UTC"),
        ("2026-11-11T09:30:00", "2026-11-11T10:05:00", "11 Nov 2026, 09:30 to 10:05"),
        ("2026-11-11T09:30:00Z", "2026-11-12T10:05:00Z",
         "11 Nov 2026, 09:30 UTC to 12 Nov 2026, 10:05 UTC"),
        ("2026-11-11T09:30:00Z", "2026-11-11T10:05:00",
         "11 Nov 2026, 09:30 UTC to 11 Nov 2026, 10:05"),
        ("2026-11-11", "2026-11-11", "11 Nov 2026"),
        ("2026-11-11T09:30:00Z", None, "since 11 Nov 2026, 09:30 UTC"),
    ],
)  # fmt: skip
def test_the_time_of_a_visit_says_its_day_once(start, end, words):
    assert span_words({"start": start, "end": end}) == words


def test_a_visit_shows_its_results_notes_and_diagnoses_and_nothing_of_another():
    visit, *rest = as_records(
        VISIT,
        lab("Potassium", "2823-3", "5.40", flag="H", low="3.5", high="5.1", **OF_IT),
        NOTE,
        CAUSE,
        lab("Sodium", "2951-2", "140", encounter={"reference": "Encounter/other"}),
        lab("Chloride", "2075-0", "100"),
    )
    brought = during.of_visit(visit, rest)
    body = views.render(views.VISIT, brought, CONTEXT)
    for words in ("Potassium: 5.40 mmol/L", "High", "Progress note", "Acute bronchitis"):
        assert words in body
    assert "Sodium" not in body
    assert "Chloride" not in body


def test_what_names_a_visit_is_looked_for_in_its_hospital_and_around_its_time():
    (visit,) = as_records(VISIT)
    wanted = during.selection(visit)
    assert wanted.connection_id == visit.connection_id
    assert wanted.since < visit.when
    assert wanted.until > datetime(2026, 12, 21, tzinfo=UTC)
    (undated,) = as_records({"resourceType": "Encounter"})
    assert during.selection(undated).since is None


def test_odd_references_name_no_visit():
    visit, *rest = as_records(VISIT, CAUSE | {"encounter": 7}, NOTE | {"context": [None, "x"]})
    assert during.of_visit(visit, rest) == []


@pytest.mark.parametrize("year", ["9999-12-31", "0001-01-01"])
def test_a_visit_at_the_end_of_the_calendar_is_a_page_too(year):
    (visit,) = as_records(VISIT | {"period": {"start": year, "end": year}})
    assert during.selection(visit).limit == during.MOST
