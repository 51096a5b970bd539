"""Instants as whole milliseconds: there and back, and dates that no calendar of ours holds."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr import clock
from phr.fhir.record import Selection
from phr.store import records
from tests.cast import Cast
from tests.fixtures_sharing import keep_all


@given(st.integers(clock.FIRST_MS, clock.LAST_MS))
def test_milliseconds_come_back_exactly(ms):
    assert clock.to_ms(clock.from_ms(ms)) == ms


def test_last_millisecond_of_a_year_stays_in_it():
    at = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)

    assert clock.from_ms(clock.to_ms(at)) == at


@pytest.mark.parametrize("beyond", [clock.FIRST_MS - 1, clock.LAST_MS + 1, -(10**18), 10**18])
def test_instant_outside_the_calendar_is_its_first_or_last(beyond):
    found = clock.from_ms(beyond)

    assert found - datetime.min.replace(tzinfo=UTC) < timedelta(1) or found.year == 9999


@pytest.mark.parametrize(
    "sentinel", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-05:00", "0001-01-01"]
)
def test_record_with_a_date_that_stands_for_none_is_kept_and_read(cast: Cast, sentinel: str):
    vault = cast.vault("Ada")
    dated = {"resourceType": "Condition", "id": "c1", "recordedDate": sentinel}

    keep_all(vault, "North Quay", [dated])

    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("Condition",)))
    assert [record.remote_id for record in found] == ["c1"]
    assert cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/problems").status_code == 200


def test_times_on_pages_are_of_this_box_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime(2026, 11, 8, 23, 12, tzinfo=UTC)
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert clock.minute_here(at) == "9 Nov 2026, 00:12 CET"
        assert clock.day_here(at) == "9 Nov 2026"
    finally:
        monkeypatch.undo()
        time.tzset()
