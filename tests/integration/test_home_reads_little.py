"""Home asks for few records of many, and says so in true sentences."""

import json
import re
from datetime import timedelta

import pytest

from phr import pull
from phr.bench import house, shape
from phr.clock import now
from phr.fhir.record import Selection
from phr.store import records
from phr.web.pages.home import MOST
from tests.cast import Cast
from tests.fixtures_keep import rows
from tests.fixtures_records import concept, keep_records


def medicine(number: int) -> dict:
    return {
        "resourceType": "MedicationRequest",
        "id": f"m{number}",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": concept(f"Substance {number:03} tablets"),
        "authoredOn": "2026-10-01",
    }


def words_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_more_medicines_than_home_reads_are_counted_as_at_least(cast: Cast):
    keep_records(cast.vault("Ada"), [medicine(number) for number in range(MOST + 20)])
    words = words_of(cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/").text)
    assert f"At least {MOST} medicines" in words
    assert f"At least {MOST - 5} more medicines" in words


def test_few_medicines_are_counted_exactly(cast: Cast):
    keep_records(cast.vault("Ada"), [medicine(number) for number in range(7)])
    words = words_of(cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/").text)
    assert "7 medicines" in words
    assert "2 more medicines" in words
    assert "At least" not in words


@pytest.mark.parametrize("days", [1, 10_000])
def test_what_has_come_is_counted_and_the_newest_of_it_shown(cast: Cast, days: int):
    vault = cast.vault("Ada")
    dated = [medicine(number) | {"authoredOn": f"20{number:02}-01-01"} for number in range(10, 26)]
    keep_records(vault, dated, now=now())
    with vault.read() as session:
        count, found = records.come_since(session, vault, now() - timedelta(days=days), limit=3)
        nothing = records.come_since(session, vault, now() + timedelta(days=1), limit=3)
        ever = records.come_since(session, vault, None, limit=3)
    assert count == 16
    assert [one.remote_id for one in found] == ["m25", "m24", "m23"]
    assert nothing == (0, [])
    assert ever[0] == count


def test_what_has_come_is_found_by_its_own_index_and_many_by_the_timeline():
    few = "SELECT count(*) FROM record WHERE record.timeline IS NOT NULL AND record.received >= 5"
    many, params = records.statement(Selection(timeline=True, received_since=now(), limit=5))
    with house.opened() as vault:
        shape.fill(vault, 2_000)
        (step,) = rows(vault, f"EXPLAIN QUERY PLAN {few}")
        assert "COVERING INDEX record_received" in step[3]
        (step,) = rows(vault, f"EXPLAIN QUERY PLAN {many}", params)
        assert "INDEX record_timeline" in step[3]


def test_what_came_without_a_date_is_new_too_and_counts_once(cast: Cast, tmp_path):
    condition = {"resourceType": "Condition", "id": "c", "code": {"text": "Gout"}}
    value = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"text": "Iron"}}
    patient, vault = cast.patients["Ada"], cast.vault("Ada")
    ada = cast.browser("Ada")
    actor = {"kind": "account", "id": cast.accounts["Ada"], "name": "Ada"}

    def bring(*resources):
        path = tmp_path / "file.ndjson"
        path.write_text("\n".join(json.dumps(one) for one in resources))
        pull.take_file(vault, "file.ndjson", path, actor=actor, now=now())
        return words_of(ada.get(f"/p/{patient}/").text)

    words = bring(condition, value)
    assert "1 new thing, 1 new measurement all of it has just come" in words
    assert "Gout" in words
    ada.submit(f"/p/{patient}/seen")
    assert "Nothing new on the timeline" in words_of(ada.get(f"/p/{patient}/").text)
    words = bring(condition, value, condition | {"id": "d"}, value | {"id": "p"})
    assert "1 new thing, 1 new measurement since" in words
