"""The whole catalogue: real lists in, the same bytes twice, and what people type finds it."""

import csv
import json
import re
import sqlite3
import subprocess
import sys

import pytest

from lighthouse import catalogue
from lighthouse.ingest import ingest
from lighthouse.search import Search
from tests.corpus import corpus

pytestmark = pytest.mark.corpus


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    file = tmp_path_factory.mktemp("lighthouse") / "catalogue.db"
    engine = catalogue.connect(file)
    report = ingest([corpus() / "lighthouse"], engine)
    yield engine, report, file
    engine.dispose()


@pytest.fixture(scope="module")
def search(filled):
    return Search(catalogue.organizations(filled[0]))


def test_all_published_lists_become_one_catalogue_of_the_expected_size(filled):
    _, report, _ = filled

    assert report.broken == ()
    assert report.endpoints == pytest.approx(47_300, rel=0.03)
    assert report.organizations == pytest.approx(48_900, rel=0.03)


def dump(file):
    with sqlite3.connect(file) as database:
        return list(database.iterdump())


def test_same_lists_twice_give_the_same_bytes(filled):
    engine, report, file = filled
    before = dump(file)

    again = ingest([corpus() / "lighthouse"], engine)

    assert again == report
    assert dump(file) == before


def test_jackson_health_system_is_found_under_both_names(search):
    for typed in ("Jackson Health System", "Public Health Trust of Miami-Dade County"):
        best = search.find(typed, 1)[0].organization
        assert "Jackson Health System" in {best.name, *best.aliases}


def test_kuakini_stays_in_hawaii_with_the_crosswalk_loaded(search):
    best = search.find("Kuakini Medical Center", 1)[0].organization

    assert best.state == "HI"


def test_mayo_clinic_is_one_brand(search):
    hits = [hit for hit in search.find("Mayo Clinic", 20) if hit.organization.name == "Mayo Clinic"]

    assert len(hits) == 1


def is_right(query, hit):
    one = hit.organization
    if query["expected_regex"] == "ZIP":
        return one.state == query["state"] or one.zip[:3] == query["query"][:3]
    named = any(
        re.search(query["expected_regex"], text.lower()) for text in (one.name, *one.aliases)
    )
    return named and (not query["state"] or one.state in {"", query["state"]})


def test_what_people_type_finds_the_right_organisation(search):
    with (corpus() / "lighthouse" / "queries_dev.tsv").open() as file:
        queries = list(csv.DictReader(file, delimiter="\t"))
    wanted = [query for query in queries if query["expected_regex"] != "NONE"]
    ranks = {
        query["query"]: [is_right(query, hit) for hit in search.find(query["query"], 5)]
        for query in wanted
    }

    first = sum(found[:1] == [True] for found in ranks.values()) / len(wanted)
    among_five = sum(any(found) for found in ranks.values()) / len(wanted)

    assert among_five >= 0.98, [text for text, found in ranks.items() if not any(found)]
    assert first >= 0.92


def test_what_nobody_is_called_finds_nothing(search):
    assert search.find("Springfield Nuclear Clinic zz") == []
    assert search.find("asdfghjkl") == []


@pytest.mark.parametrize(
    "typed", ['"', "*", "-x", "NEAR(", "a:b", "", " ", "é" * 300, "\x00", "' OR 1=1"]
)
def test_no_typed_text_breaks_the_search(search, typed):
    search.find(typed)


def test_command_line_answers_one_object_a_line(filled):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "lighthouse",
            "search",
            "--catalogue",
            str(filled[2]),
            "--limit",
            "2",
        ],
        input="mayo\nyale newhaven\n",
        capture_output=True,
        text=True,
        check=True,
    )

    answers = [json.loads(line) for line in done.stdout.splitlines()]

    assert [answer["q"] for answer in answers] == ["mayo", "yale newhaven"]
    assert answers[0]["hits"][0]["name"] == "Mayo Clinic"
    assert set(answers[0]["hits"][0]) == {
        "id", "name", "aliases", "matched", "city", "state", "zip", "country", "vendor", "score",
        "endpoints",
    }  # fmt: skip
