"""Rows C of the list of bad inputs (docs/security-rows.md) that no other test covers."""

import json
from datetime import timedelta

import pytest

from phr import clock, pull
from phr.bench import house, shape
from phr.connectors import rest
from phr.fhir.record import Selection
from phr.store import records
from phr.store.models import PullState
from tests.fixtures_hospital import connected, observation
from tests.fixtures_records import keep_records

RIGHT_TO_LEFT = "\u202e"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Pauses between repetitions are real but short."""
    monkeypatch.setattr(rest.Conversation.__init__, "__defaults__", (lambda _attempt: 0.01,))


@pytest.fixture
def ada(cast):
    return cast.browser("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


def kept(cast, kind):
    with cast.vault("Ada").read() as session:
        return records.select(session, cast.vault("Ada"), Selection(types=(kind,)))


def problem(name, text, **more):
    return {
        "resourceType": "Condition",
        "id": name,
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "code": {"text": text},
        "onsetDateTime": "2020-01-01",
        **more,
    }


def test_marks_that_turn_text_around_are_stored_and_shown_as_visible_signs(cast, ada, base):
    keep_records(cast.vault("Ada"), [problem("c1", f"Asthma {RIGHT_TO_LEFT}dlim\u200b")])
    (record,) = kept(cast, "Condition")
    assert record.document["code"]["text"] == f"Asthma {RIGHT_TO_LEFT}dlim\u200b"
    for path in ("/problems", f"/record/Condition/{record.local_id}", "/timeline", "/"):
        page = ada.get(base + path)
        assert page.status_code == 200
        assert RIGHT_TO_LEFT not in page.text, path
        assert "\u200b" not in page.text, path


def test_a_megabyte_of_combining_marks_is_stored_and_cut_where_it_is_shown(cast, ada, base):
    keep_records(cast.vault("Ada"), [problem("c1", "Zalgo" + "\u0301" * 500_000)])
    (record,) = kept(cast, "Condition")
    assert len(record.body) > 1_000_000
    for path in ("/problems", "/timeline", "/", "/search?q=Zalgo"):
        page = ada.get(base + path)
        assert page.status_code == 200
        assert len(page.content) < 100_000, path


def test_records_that_point_at_each_other_and_at_themselves_are_pages(cast, ada, base):
    def points(name, *targets):
        members = [{"reference": target} for target in targets]
        return {
            "resourceType": "Observation",
            "id": name,
            "status": "final",
            "code": {"text": f"Panel {name}"},
            "effectiveDateTime": "2026-01-01",
            "hasMember": members,
        }

    chain = [points(f"n{n}", f"Observation/n{n + 1}") for n in range(300)]
    round_about = [
        points("a", "Observation/b", "Observation/a", "#a", "#"),
        points("b", "Observation/a"),
        {**points("c", "#x"), "contained": [{**points("x", "#x"), "contained": []}]},
    ]
    keep_records(cast.vault("Ada"), [*chain, *round_about])
    assert len(kept(cast, "Observation")) == 303
    for path in ("/results", "/timeline", "/other", "/"):
        assert ada.get(base + path).status_code == 200
    for record in kept(cast, "Observation")[:20]:
        assert ada.get(f"{base}/record/Observation/{record.local_id}").status_code == 200


def test_a_change_time_in_the_future_does_not_move_the_next_question(
    cast, hospital, to_hospital, time_machine
):
    vault = cast.vault("Ada")
    future = {"lastUpdated": "2099-01-01T00:00:00Z"}
    hospital.records["Observation"] = [observation(1, meta=future)]
    cid = connected(vault, hospital)
    assert pull.run(vault, cid, http=to_hospital, now=clock.now()) == PullState.DONE
    hospital.asked.clear()
    hospital.records["Observation"].append(observation(2))
    assert pull.run(vault, cid, http=to_hospital, now=clock.now()) == PullState.DONE
    (asked,) = {
        found.params["_lastUpdated"] for found in hospital.asked if found.path.endswith("ervation")
    }
    tomorrow = clock.now() + timedelta(days=1)
    assert asked < f"ge{tomorrow:%Y-%m-%dT}"
    assert len(kept(cast, "Observation")) == 2


def test_what_may_change_the_meaning_is_marked(cast, ada, base):
    altered = {"url": "https://h.example/x", "valueBoolean": True}
    keep_records(cast.vault("Ada"), [problem("c1", "Odd", modifierExtension=[altered])])
    (record,) = kept(cast, "Condition")
    page = ada.get(f"{base}/record/Condition/{record.local_id}").text
    assert "meaning" in page
    assert json.loads(record.body)["modifierExtension"] == [altered]


@pytest.mark.parametrize(
    "words", ['"', "*", "-x", "NEAR(", "a:b", "\U0001f600", "' OR 1=1 --", "x" * 1900, "%00", "{}"]
)
def test_any_search_words_give_a_page(cast, ada, base, words):
    keep_records(cast.vault("Ada"), [problem("c1", "Asthma")])
    assert ada.get(f"{base}/search", params={"q": words}).status_code == 200


# ------------------------------------------------------------------ very many records

FEW, MANY = 1_000, 50_000
PAGES = {
    "timeline": Selection(timeline=True, limit=50),
    "timeline, further": Selection(timeline=True, limit=50, before=(1_500_000_000_000, 7)),
    "one kind": Selection(types=("Condition",), limit=50),
}


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    """The same shape of record, small and large."""
    with (
        house.opened(tmp_path_factory.mktemp("few")) as few,
        house.opened(tmp_path_factory.mktemp("many")) as many,
    ):
        shape.fill(few, FEW)
        shape.fill(many, MANY)
        yield few, many


def steps(vault, selection):
    """How many steps of its machine SQLite takes for the rows of one page."""
    sql, params = records.statement(selection)
    counted = [0]

    def count():
        counted[0] += 1
        return 0

    with vault.read() as session:
        driver = session.connection().connection.driver_connection
        driver.set_progress_handler(count, 1)
        try:
            assert len(driver.execute(sql, params).fetchall()) == selection.limit
        finally:
            driver.set_progress_handler(None, 1)
    return counted[0]


@pytest.mark.parametrize("selection", PAGES.values(), ids=PAGES.keys())
def test_a_page_takes_the_same_steps_in_a_record_of_any_size(sizes, selection):
    """Not a load of everything: fifty times the records, the same work (and so on upwards)."""
    few, many = (steps(vault, selection) for vault in sizes)
    assert few
    assert many <= few * 1.1 + 20
