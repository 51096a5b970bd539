"""Searching one's own record: slips of the pen, other names, codes, across kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.store import index, records, spelling
from tests.fixtures_records import concept, juniper, keep_records


@pytest.fixture
def ada(cast):
    medicine = {
        "resourceType": "MedicationRequest",
        "id": "metformin",
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": concept(
            "Metformin 500 mg", "860975", "http://www.nlm.nih.gov/research/umls/rxnorm"
        ),
    }
    problem = {
        "resourceType": "Condition",
        "id": "pressure",
        "code": concept("Essential hypertension", "59621000", "http://snomed.info/sct"),
    }
    keep_records(cast.vault("Ada"), [*juniper(), medicine, problem])
    return cast.vault("Ada")


def found(vault, words):
    with vault.read() as session:
        hits, instead = records.search_near(session, vault, words)
    return [hit.remote_id for hit in hits], instead


@pytest.mark.parametrize(
    "slip", ["metfromin", "metforrmin", "metforin", "metfirmin", "Metphormin", "etformin"]
)
def test_a_slip_of_the_pen_still_finds_the_medicine_and_says_so(ada, slip):
    assert found(ada, slip) == (["metformin"], "metformin")


def test_several_words_with_one_slip_are_put_right(ada):
    hits, instead = found(ada, "essential hypertensoin")
    assert hits == ["pressure"]
    assert instead == "essential hypertension"


def test_what_people_call_a_thing_finds_what_hospitals_call_it(ada):
    assert found(ada, "high blood pressure") == (["pressure"], "")
    assert found(ada, "HTN")[0] == ["pressure"]


@pytest.mark.parametrize("code", ["860975", "59621000", "2089-1"])
def test_a_code_finds_what_is_coded_with_it(ada, code):
    hits, instead = found(ada, code)
    assert hits
    assert not instead


def test_what_is_found_as_it_was_typed_is_never_put_right(ada):
    assert found(ada, "ferr")[1] == ""


@pytest.mark.parametrize("words", ["", "  ", "xylophone quartet", "12345678901", "abc", "\x00"])
def test_what_the_record_does_not_have_finds_nothing(ada, words):
    assert found(ada, words) == ([], "")


def test_the_page_says_what_it_searched_for_instead(cast, ada):
    base = f"/p/{cast.patients['Ada']}"
    text = cast.browser("Ada").get(f"{base}/search?q=metfromin").text
    assert "Nothing here has “metfromin”" in text
    assert "Metformin 500 mg" in text
    text = cast.browser("Ada").get(f"{base}/search?q=high+blood+pressure").text
    assert "Also searched for: hypertension" in text


@pytest.mark.parametrize(
    ("one", "other", "slips"),
    [("abcd", "abcd", 0), ("abcd", "abdc", 1), ("abcd", "bcd", 1), ("abcd", "axyd", 2)],
)
def test_slips_are_counted(one, other, slips):
    assert spelling.distance(one, other, 3) == slips


@given(st.text(max_size=12), st.text(max_size=12), st.integers(0, 3))
def test_distance_is_the_same_both_ways_and_never_more_than_told(one, other, most):
    far = spelling.distance(one, other, most)
    assert far == spelling.distance(other, one, most) <= most + 1
    assert (far == 0) == (one == other)


@given(st.text(), st.text())
def test_nothing_that_is_typed_becomes_an_operator(words, other):
    query = index.query(words, other)
    assert query is None or set(query.replace(" OR ", " ").split(" ")) >= set()
