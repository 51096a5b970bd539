"""A page drawn from points equals the page drawn from bodies, whatever a source sends."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from phr import clock, keep
from phr.bench import house
from phr.chart.drawing import MOST_WHOLE, trend
from phr.chart.evidence import How
from phr.chart.points import beyond
from phr.chart.results import Result, as_tests, by_test, results
from phr.fhir import measures
from phr.fhir.record import Record, Selection
from phr.store import entries, index, points, records
from phr.store.vault import Vault
from phr.views import TEST, show
from phr.views.frame import Context
from tests.fixtures_keep import PATIENT, hospital, item, keep_all, lab, rows, vault

__all__ = ["hospital", "vault"]

CODE = "http://loinc.org|2345-7"
SELECTION = Selection(types=("Observation",), codes=(CODE,))
START = datetime(2006, 1, 1, 8, tzinfo=UTC)


# --------------------------------------------------------------------------- what may be sent

plain = st.integers(-99_999, 999_999).flatmap(
    lambda n: st.integers(0, 4).map(lambda places: f"{n / 10**places:.{places}f}")
)
odd = st.sampled_from(
    ["-0", "-0.0", "0", "0.00", "1e2", "1E-3", "5.40", "123456789012345", "1234567890123456",
     "99999999999999999999", "0.1234567890123456", "0.123456789012345", "-7.10", "1.0e400",
     "123456789.123456789", "4503599627370497.5", "0.30000000000000004"]
)  # fmt: skip
UNITS = ("mmol/L", "mg/dL", "", "odd unit", "% \\u0067", "5")
quantities = st.fixed_dictionaries(
    {"value": plain | plain | odd},
    optional={
        "unit": st.sampled_from(UNITS),
        "comparator": st.sampled_from(["<", "<=", ">", ">=", "ad", "<script>"]),
        "system": st.sampled_from(["http://unitsofmeasure.org", "urn:x"]),
        "code": st.sampled_from(["mmol/L", "mg/dL", "%"]),
        "extension": st.just([{"url": "u", "valueString": "x"}]),
        "decimals": st.just(3),
    },
)
bound = st.fixed_dictionaries(
    {"value": plain}, optional={"unit": st.sampled_from(["mmol/L", "mg/dL"])}
)
ranges = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "low": bound,
            "high": bound,
            "text": st.sampled_from(["< 5", "see note"]),
            "type": st.just({"coding": [{"code": "normal"}]}),
            "appliesTo": st.just([{"text": "women"}]),
            "age": st.just({"high": {"value": 90, "code": "a"}}),
        },
    ),
    max_size=2,
)
interpretations = st.sampled_from(
    [None, [{"coding": [{"code": "H"}]}], [{"text": "Low"}], {"coding": [{"code": "N"}]}, [], "H"]
)
observations = st.fixed_dictionaries(
    {"day": st.integers(0, 40), "spaced": st.booleans(), "place": st.integers(0, 1)},
    optional={
        "valueQuantity": quantities,
        "valueString": st.sampled_from(["positive", "5.4"]),
        "valueInteger": st.integers(-9, 9),
        "referenceRange": ranges,
        "interpretation": interpretations,
        "status": st.sampled_from(["final", "preliminary", "entered-in-error", "cancelled"]),
        "modifierExtension": st.just([{"url": "u", "valueBoolean": True}]),
        "component": st.just([{"code": {"text": "part"}, "valueInteger": 4}]),
        "undated": st.just(True),
        "name": st.sampled_from(["Glucose in serum", "glucose IN serum"]),
    },
)


def sent(number: int, given_: dict[str, Any]) -> bytes:
    """Return an Observation as a hospital writes it, digits untouched."""
    told = dict(given_)
    day, spaced = told.pop("day"), told.pop("spaced")
    told.pop("place")
    made = orjson.loads(lab(f"o-{number}", "0"))
    made["effectiveDateTime"] = f"{START + timedelta(days=day):%Y-%m-%dT%H:%M:%SZ}"
    del made["valueQuantity"]
    if told.pop("undated", False):
        del made["effectiveDateTime"]
    if "name" in told:
        made["code"]["text"] = told.pop("name")
    made |= {name: value for name, value in told.items() if value is not None}
    body = orjson.dumps(made, option=orjson.OPT_INDENT_2 if spaced else 0)
    body = body.replace(b"\\\\u", b"\\u")
    return re.sub(rb'("value":\s*)"([-0-9.eE+]+)"', rb"\1\2", body)


# ------------------------------------------------------------------------------- comparing


def seen(one: Result) -> tuple[Any, ...]:
    """Return all that a drawing and its words show of a result."""
    return (
        one.record.pk,
        one.record.when,
        one.record.connection_id,
        one.name,
        one.key,
        one.value,
        one.word,
        one.span,
        one.converted,
        one.status,
        one.marks,
    )


def read(vault: Vault, at_hand: int | None) -> tuple[list[Record], points.Points, How]:
    with vault.read() as session:
        found = records.select(session, vault, replace(SELECTION, limit=at_hand))
        everything = records.select(session, vault, SELECTION)
        homes = entries.siblings(session, [one.pk for one in everything])
        return found, points.read(session, vault, SELECTION), How(grouped=homes)


def drawable(tests: Any) -> list[list[tuple[Any, ...]]]:
    """Return, by series, what can be drawn of it: dated numbers."""
    made = [
        [seen(one) for one in test.results if one.record.when and one.value.figure is not None]
        for test in tests
    ]
    return sorted((some for some in made if some), key=str)


def drawings(tests: Any) -> set[str]:
    """Return every drawing, parts aside: they have bodies."""
    made = (trend([one for one in test.results if not one.marks.mistaken]) for test in tests)
    return {str(drawn) for drawn in made if drawn is not None}


def assert_alike(vault: Vault, at_hand: int) -> None:
    everything, _, how = read(vault, None)
    some, found, _ = read(vault, at_hand)
    whole = by_test(everything, how)
    made = as_tests([*results(some, how=how), *beyond(found, some, how)])
    assert drawable(made) == drawable(whole)
    assert drawings(made) == drawings(whole)


@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each is a vault: shrinking takes long
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(observations, min_size=1, max_size=14), st.integers(1, 4))
@example([{"day": 1, "spaced": False, "place": 0, "valueQuantity": {"value": "-0"}}] * 3, 1)
@example(
    [
        {"day": 3, "spaced": False, "place": place, "valueQuantity": {"value": "5.40"}, **more}
        for place, more in ((0, {"status": "preliminary"}), (1, {}), (0, {}))
    ],
    1,
)
def test_a_drawing_from_points_is_the_drawing_from_bodies(told, at_hand):
    with TemporaryDirectory() as folder, house.opened(Path(folder)) as vault:
        places = [house.connection(vault), house.connection(vault, "Second hospital")]
        for place, connection in enumerate(places):
            items = [
                item(sent(number, one)) for number, one in enumerate(told) if one["place"] == place
            ]
            if items:
                keep_all(vault, connection, items)
        assert_alike(vault, at_hand)


# ------------------------------------------------------------------------------- kept


def day(number: int) -> str:
    return f"{START + timedelta(days=number):%Y-%m-%dT%H:%M:%SZ}"


def many(count: int, *, first: int = 0, prefix: str = "o", **more: Any) -> list[keep.Item]:
    """Return daily values that go up and down, a flag on each twentieth."""
    flag = {"interpretation": [{"coding": [{"code": "H"}]}]}
    span = {"referenceRange": [{"low": {"value": 3.9}, "high": {"value": 5.6}}]}
    return [
        item(
            lab(
                f"{prefix}-{number}",
                f"{4 + number * 7 % 23 / 10:.2f}",
                effectiveDateTime=day(number),
                **(flag if number % 20 == 0 else {}),
                **span,
                **more,
            )
        )
        for number in range(first, first + count)
    ]


def found_in(vault: Vault, **options: Any) -> points.Points:
    with vault.read() as session:
        return points.read(session, vault, SELECTION, **options)


def test_points_are_read_without_a_body_and_with_the_digits_received(vault, hospital):
    keep_all(vault, hospital, many(50))
    with vault.write() as session:  # a body that nobody can open
        session.connection().exec_driver_sql("UPDATE record SET body = x'00'")
    found = found_in(vault)
    assert (len(found.rows), len(found.measures), found.bodies, found.more) == (50, 2, [], False)
    assert found.digits[0] == f"{4 + 49 * 7 % 23 / 10:.2f}"


@pytest.mark.parametrize("value", ["-0", "1e2", "1234567890123456", "0.12345678901234567"])
def test_a_number_that_would_not_come_back_as_written_is_read_from_its_body(vault, hospital, value):
    keep_all(vault, hospital, [item(lab("o-1", value))])
    found = found_in(vault)
    assert found.digits == [""]
    assert [one.body for one in found.bodies] == [lab("o-1", value)]


def test_points_go_on_before_a_place_and_say_that_there_are_more(vault, hospital):
    keep_all(vault, hospital, many(30))
    newest = found_in(vault, most=10)
    assert newest.more
    last = newest.rows[-1]
    with vault.read() as session:
        further = points.read(
            session, vault, replace(SELECTION, before=(last[1], last[0])), most=100
        )
    assert [row[1] for row in further.rows] == sorted(row[1] for row in further.rows)[::-1]
    assert (len(further.rows), further.more) == (20, False)
    assert not {row[0] for row in further.rows} & {row[0] for row in newest.rows}


def test_what_is_withdrawn_or_private_says_so_as_a_point(vault, hospital):
    keep_all(vault, hospital, many(3))
    everything, _, _ = read(vault, None)
    keep.mark_private(vault, everything[1].local_id, on=True)
    with vault.write() as session:
        keep.withdraw(session, [records.key_of(everything[2].local_id)])
    assert_alike(vault, 1)
    found = found_in(vault)
    assert [measures.standing(row[4]) for row in found.rows] == [
        (hospital, False, False),
        (hospital, False, True),
        (hospital, True, False),
    ]


def test_another_version_brings_its_own_measure(vault, hospital):
    keep_all(vault, hospital, [item(lab("o-1", "5.40"))])
    changed = lab("o-1", "97", status="amended").replace(b"mmol/L", b"mg/dL")
    keep_all(vault, hospital, [item(changed)])
    found = found_in(vault)
    (one,) = found.measures.values()
    assert (found.digits, one.quantity["unit"]) == (["97"], "mg/dL")


def test_two_contents_with_one_hash_are_never_taken_for_one(vault, hospital, monkeypatch):
    monkeypatch.setattr(index, "_hash_of", lambda _: 7)
    keep_all(vault, hospital, [item(lab("o-1", "5.40"))])
    other = lab("o-2", "97").replace(b"mmol/L", b"mg/dL")
    keep_all(vault, hospital, [item(other)])
    found = found_in(vault)
    assert sorted(found.digits) == ["", "5.40"]
    assert [one.body for one in found.bodies] == [other]


def test_erasing_a_hospital_takes_its_measures_too(vault, hospital):
    second = house.connection(vault, "Second hospital")
    keep_all(vault, hospital, many(3))
    keep_all(vault, second, many(3, prefix="p", status="amended"))
    assert rows(vault, "SELECT count(*) FROM measure") == [(4,)]
    keep.erase(vault, second)
    assert rows(vault, "SELECT count(*) FROM measure") == [(2,)]
    keep.erase(vault, hospital)
    assert rows(vault, "SELECT count(*) FROM measure") == [(0,)]


def test_one_value_of_two_hospitals_is_one_point(vault, hospital):
    second = house.connection(vault, "Second hospital")
    keep_all(vault, hospital, many(12))
    keep_all(vault, second, many(12))
    assert len(found_in(vault).entries) == 12
    assert_alike(vault, 1)
    some, found, how = read(vault, 2)
    assert len(beyond(found, some, how)) == 11


# ------------------------------------------------------------------------------- drawn


def series(count: int, **more: Any) -> list[Result]:
    with TemporaryDirectory() as folder, house.opened(Path(folder)) as vault:
        keep_all(vault, house.connection(vault), many(count, **more))
        return beyond(found_in(vault), [], How())


def test_a_long_line_keeps_the_extremes_and_the_flagged_of_each_stretch():
    values = series(900)
    drawn = trend(values)
    assert drawn is not None
    assert drawn.of == 900
    assert len(drawn.points) < 400
    assert len(drawn.lines) <= 4 * 62
    flagged = sum(one.outside for one in values)
    assert flagged > 45
    heights = {point.y for point in drawn.points}
    whole = trend(values[:MOST_WHOLE])
    assert whole is not None
    assert (whole.of, len(whole.points)) == (0, MOST_WHOLE)
    assert {min(heights, key=_cents), max(heights, key=_cents)} == {
        end((point.y for point in whole.points), key=_cents) for end in (min, max)
    }
    marks = {(point.x, point.y) for point in drawn.points}
    ends = {(line[0], line[1]) for line in drawn.lines} | {
        (line[2], line[3]) for line in drawn.lines
    }
    assert ends <= marks


def _cents(place: str) -> float:
    return float(place.rstrip("%"))


def test_ranges_that_change_with_every_value_are_told_and_not_drawn():
    turns = [
        replace(one, span=replace(one.span, high=5.6 + place % 2))
        for place, one in enumerate(series(400))
        if one.span
    ]
    drawn = trend(turns)
    assert drawn is not None
    assert (drawn.bands, drawn.unshaded) == ((), True)


def test_the_page_says_what_is_drawn_and_what_its_table_has(vault, hospital):
    keep_all(vault, hospital, many(700))
    with vault.read() as session:
        some = records.select(session, vault, replace(SELECTION, limit=300))
        context = Context(
            origins={}, now=clock.now(), points=points.read(session, vault, SELECTION)
        )
    words = re.sub(r"<[^>]+>", " ", show(TEST, some, context).body)
    assert "700 values" in words
    assert "The table has 300 of them. Older ones are in the tables behind" in words
    assert re.search(r"Drawn: \d+ of 700 values", words)
    assert "the lowest 4.00 on" in words
    assert "The table below has the same values" not in words


def test_the_page_of_a_test_of_20_years_is_light(cast):
    vault = cast.vault("Ada")
    connection = house.connection(vault, "Long hospital")
    keep_all(vault, connection, many(2100, subject={"reference": f"Patient/{PATIENT}"}))
    browser = cast.browser("Ada")
    path = f"/p/{cast.patients['Ada']}/results/2345-7"
    answer = browser.get(path, headers={"accept-encoding": "gzip"})
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) <= 60_000
    assert "the newest 2,000 values" in answer.text
    further = re.search(r'href="([^"]*before=[^"]*)"', answer.text)
    assert further is not None
    second = browser.get(further[1].replace("&amp;", "&"))
    assert "The table has 300 of them" in second.text
    assert "1,800 values" in second.text
