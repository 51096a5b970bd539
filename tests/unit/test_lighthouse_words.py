"""What is typed, brought to a catalogue's words: sentences, short forms, words run together."""

import pytest

from lighthouse import words
from lighthouse.search import Hit, Search, namesakes
from tests.fixtures_lighthouse import HILL, LAKE, OTHER, endpoint, organization


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ("how do i log in to my chart at Sharp", ("sharp",)),
        ("How do I get my records from Heller Heart Health please", ("heller", "heart", "health")),
        ("where can i find test results of Duke", ("duke",)),
        ("urgent care owned by FastMed", ("urgent", "care", "fastmed")),
        ("MY DR NOW", ("my", "doctor", "now")),
        ("of the", ("of",)),
    ],
)
def test_what_people_type_around_a_name_is_dropped(typed, left):
    assert words.tokens(words.query_text(typed)) == left


@pytest.mark.parametrize(
    "written",
    ["Dubuque OB/GYN", "Dubuque Obstetrics & Gynecology", "dubuque gynecology and obstetrics"],
)
def test_one_trade_has_one_word(written):
    assert words.tokens(written) == ("dubuque", "obgyn")


@pytest.mark.parametrize(
    ("typed", "states"),
    [
        ("jackson hospital fl", {"FL": "fl"}),
        ("hospital FL", {"FL": "fl"}),
        ("primary care or", {}),
        ("tx childrens", {}),
        ("texas childrens", {"TX": "texas"}),
    ],
)
def test_a_state_in_small_letters_counts_where_it_stands_last(typed, states):
    assert words.states_in(typed) == states


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("ortho carolina", "OrthoCarolina"),
        ("orthocarolina", "OrthoCarolina"),
        ("tx childrens", "Texas Children's Hospital"),
        ("n mississippi health", "North Mississippi Health Services"),
        ("bluecross massachusetts", "Blue Cross Blue Shield of Massachusetts"),
        ("methodist lebonheur", "Methodist Le Bonheur Healthcare"),
    ],
)
def test_words_written_otherwise_find_who_is_meant(typed, named):
    names = [
        "OrthoCarolina", "Texas Children's Hospital", "North Mississippi Health Services",
        "Blue Cross Blue Shield of Massachusetts", "BlueCross Plan",
        "Methodist Le Bonheur Healthcare",
        *(f"{word} Practice {number}" for word in ("Blue", "Cross", "Le", "Bonheur")
          for number in range(3)),
    ]  # fmt: skip
    ends = (LAKE, HILL, OTHER)
    search = Search(
        organization(at, name, ends[at % 3], state="" if at else "NC")
        for at, name in enumerate(names)
    )

    assert search.find(typed, 1)[0].organization.name == named


def test_hits_of_one_name_say_where_each_answers_and_others_do_not():
    def at(number, name, *urls):
        ends = [endpoint(url) for url in urls]
        return Hit(organization(number, name, *ends), name, 1.0)

    hits = [
        at(1, "Health First", "https://fhir.one.example/r4", "https://fhir.one.example/dstu2"),
        at(2, "Health First, Inc.", "https://fhir.two.example/r4"),
        at(3, "Family Eye Care", "https://vendor.example/tenants/a/"),
        at(4, "Family Eye Care", "https://vendor.example/tenants/b/"),
        at(5, "Lakeside Hospital", "https://fhir.lakeside.example/r4"),
    ]

    assert list(namesakes(hits).values()) == [
        "fhir.one.example",
        "fhir.two.example",
        "vendor.example/tenants/a",
        "vendor.example/tenants/b",
    ]
    assert namesakes([]) == {}


def test_word_that_has_a_short_form_is_no_beginning_of_other_words():
    found = Search(
        [
            organization(1, "Labette Healthcare", LAKE),
            organization(2, "Quadrant Laboratories", HILL),
        ]
    )

    assert [hit.organization.name for hit in found.find("laboratory")] == ["Quadrant Laboratories"]
