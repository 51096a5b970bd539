"""The timeline keeps what it drew: only as long as it is true, only for members, never much."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

import phr
from phr.clock import now
from phr.fhir.record import Selection
from phr.store import records, sessions
from phr.store.models import Connection
from phr.views.timeline import Line
from phr.web.pages.timeline import MOST
from tests.cast import Cast
from tests.fixtures_records import concept, keep_records

KEEPERS = {
    "store/vault.py",
    "keep.py",
    "sharing/inbox.py",
    "transcribe.py",
    "web/pages/chart.py",
    "web/pages/timeline.py",
}


def shot(name: str = "Tetanus", **more) -> dict:
    return {
        "resourceType": "Immunization",
        "id": "shot",
        "status": "completed",
        "vaccineCode": concept(name),
        "occurrenceDateTime": "2026-05-05",
        **more,
    }


@pytest.fixture
def base(cast: Cast) -> str:
    return f"/p/{cast.patients['Ada']}"


@pytest.fixture
def connection(cast: Cast) -> int:
    return keep_records(cast.vault("Ada"), [shot()])


def test_a_new_version_is_drawn_anew(cast: Cast, base: str, connection: int):
    ada = cast.browser("Ada")
    assert "Tetanus" in ada.get(f"{base}/timeline").text
    assert "Tetanus" in ada.get(f"{base}/timeline").text
    changed = [shot("Measles", meta={"versionId": "2"})]
    keep_records(cast.vault("Ada"), changed, connection_id=connection, now=now())
    page = ada.get(f"{base}/timeline").text
    assert "Measles" in page
    assert "Tetanus" not in page


@pytest.mark.usefixtures("connection")
def test_a_mark_of_the_patient_shows_on_a_line_that_was_drawn_before(cast: Cast, base: str):
    ada = cast.browser("Ada")
    assert "Private" not in ada.get(f"{base}/timeline").text
    with cast.vault("Ada").read() as session:
        (one,) = records.select(session, cast.vault("Ada"), Selection(timeline=True))
    ada.submit(f"{base}/record/Immunization/{one.local_id}/private", {"on": "yes"})
    assert "Private: left out of what is shared" in ada.get(f"{base}/timeline").text


def test_another_name_of_a_source_shows_on_lines_drawn_before(
    cast: Cast, base: str, connection: int
):
    ada = cast.browser("Ada")
    assert "Saltmarsh" in ada.get(f"{base}/timeline").text
    with cast.vault("Ada").write() as session:
        session.get_one(Connection, connection).name = "North <Quay>"
    page = ada.get(f"{base}/timeline").text
    assert "North &lt;Quay&gt;" in page
    assert "Saltmarsh" not in page


@pytest.mark.usefixtures("connection")
def test_lines_go_with_the_key_of_the_record(cast: Cast, base: str):
    ada, vault = cast.browser("Ada"), cast.vault("Ada")
    ada.get(f"{base}/timeline")
    assert vault.drawn
    cast.appliance.vaults.rotate(vault)  # what removing a member does
    assert not vault.drawn
    assert "Tetanus" in ada.get(f"{base}/timeline").text
    assert vault.drawn
    cast.appliance.vaults.seal(vault.id)
    assert not vault.drawn


@pytest.mark.usefixtures("connection")
def test_no_more_lines_are_kept_than_a_small_box_can_hold(cast: Cast, base: str):
    ada, vault = cast.browser("Ada"), cast.vault("Ada")
    ada.get(f"{base}/timeline")
    vault.drawn.update({number: Line("2026", "") for number in range(MOST)})
    assert "Tetanus" in ada.get(f"{base}/timeline?only=vaccines").text
    keep_records(vault, [shot("Rubella") | {"id": "other"}], name="Second")
    assert "Rubella" in ada.get(f"{base}/timeline").text
    assert len(vault.drawn) <= MOST


def test_only_the_page_of_members_and_its_keepers_know_of_the_lines():
    root = Path(phr.__file__).parent
    named = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"\.drawn\b|\bdrawn: dict", path.read_text())
    }
    assert named <= KEEPERS


# ------------------------------------------------------------------ who is asking


def test_what_happens_to_a_browser_counts_at_its_next_request(cast: Cast, base: str):
    """Who a browser is is remembered between requests; every way of ending that is heard."""
    ada, house = cast.browser("Ada"), cast.appliance.house
    for _ in range(3):
        assert ada.get(f"{base}/").status_code == 200
    assert "Robin" not in ada.get("/household").text
    cast.appliance.house.warn(cast.patients["Ada"], "A sentence about this record.")
    assert "A sentence about this record." in ada.get(f"{base}/").text
    cast.appliance.vaults.seal(cast.patients["Ada"])
    assert ada.get(f"{base}/").headers["location"].startswith("/unlock")
    sessions.end_others(house, cast.accounts["Ada"])
    assert ada.get("/household").headers["location"].startswith("/signin")


def test_an_idle_browser_is_not_kept_awake_by_being_remembered(cast: Cast, base: str):
    import time_machine

    ada = cast.browser("Ada")
    assert ada.get(f"{base}/").status_code == 200
    later = now() + timedelta(minutes=cast.appliance.settings.idle_minutes + 1)
    with time_machine.travel(later):
        assert ada.get(f"{base}/").headers["location"].startswith("/signin")
