"""What is said of a provision is what it gives: all of it in words, and nothing without a tick."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from phr.fhir import kinds
from phr.sharing import given as told_of
from phr.sharing import provision as policy
from phr.sharing.asking import reaching, read
from phr.sharing.provision import IDENTITY, PARTS, SUPPORTING, Permit, Provision, Rule
from tests.fixtures_provision import make_record

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIMITS = (None, datetime(2020, 6, 15, 9, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC))
TYPES = (
    *sorted({type_ for part in PARTS.values() for rule in part.rules for type_ in rule.types}),
    "Claim",
    "Task",
    "Provenance",
)
CATEGORIES = (None, "laboratory", "vital-signs", "survey", "advance-directive", "of-its-own")
NAMED = {*IDENTITY, *SUPPORTING}
EVERYTHING = Rule(tuple(each for each in kinds.KINDS if each not in NAMED))

rules = some.one_of(
    some.sampled_from([rule for part in PARTS.values() for rule in part.rules]),
    some.builds(
        Rule,
        types=some.lists(some.sampled_from(TYPES), max_size=4, unique=True).map(tuple),
        categories=some.lists(some.sampled_from(CATEGORIES[1:5]), max_size=2).map(tuple),
        without=some.lists(some.sampled_from(CATEGORIES[1:5]), max_size=1).map(tuple),
    ),
    some.sampled_from(
        [*(Rule(tuple(told_of._TYPES[key])) for key in PARTS), Rule(TYPES), EVERYTHING]
    ),
)
dated = some.builds(
    lambda rule, since, until: replace(rule, since=since, until=until),
    rules,
    some.sampled_from(LIMITS),
    some.sampled_from(LIMITS),
)
provisions = some.builds(
    Provision,
    rules=some.one_of(
        some.lists(dated, max_size=4).map(tuple),
        some.lists(some.sampled_from(sorted(PARTS)), min_size=1, max_size=4).map(
            lambda keys: policy.rules_for(keys, days=700, now=NOW)
        ),
        some.sampled_from(LIMITS).map(lambda since: reaching((EVERYTHING,), since)),
    ),
)


RECORDS = [
    *(make_record(type_, date, None) for type_ in TYPES for date in (None, "2019", "2026-11-01")),
    *(
        make_record(type_, date, category)
        for type_, category, date in product(
            ("Observation", "DocumentReference"), CATEGORIES[1:], ("2019", "2026-11-01")
        )
    ),
]


def released(provision: Provision) -> set[int]:
    """Return which of RECORDS a provision releases; that is nobody's words but the gate's."""
    return {
        number
        for number, record in enumerate(RECORDS)
        if policy.permits(provision, record) == Permit()
    }


def names(title: str, type_: str) -> bool:
    """Say whether a title tells a reader of this type."""
    if title == told_of.REST_WORDS:
        return not any(type_ in rule.types for part in PARTS.values() for rule in part.rules)
    parts = [part for part in PARTS.values() if part.title == title]
    if parts and any(type_ in rule.types for part in parts for rule in part.rules):
        return True
    return title.startswith(kinds.KINDS[type_].label)


@settings(max_examples=150, deadline=None)
@given(provisions)
def test_the_pieces_of_any_provision_are_what_it_releases(provision: Provision) -> None:
    every = told_of.pieces(provision)
    together = tuple(rule for piece in every.values() for rule in piece.rules)
    assert released(replace(provision, rules=together)) == released(provision)


@settings(max_examples=150, deadline=None)
@given(provisions)
def test_each_type_that_is_released_is_named_in_the_words(provision: Provision) -> None:
    every = told_of.pieces(provision)
    said = " ".join(what for _, what in told_of.told(provision)).lower()
    for number in released(provision):
        type_ = RECORDS[number].type
        titles = [piece.title for piece in every.values() if names(piece.title, type_)]
        assert titles, type_
        assert all(title.lower() in said for title in titles)


@settings(max_examples=150, deadline=None)
@given(provisions, some.data())
def test_what_is_unticked_is_gone_and_the_rest_stays(provision: Provision, data: Any) -> None:
    every = told_of.pieces(provision)
    assert not released(told_of.only(provision, ()))
    assert released(told_of.only(provision, every)) == released(provision)
    kept = data.draw(some.sets(some.sampled_from(sorted(every)))) if every else set()
    fewer = told_of.only(provision, kept)
    rules_left = tuple(rule for key in every if key in kept for rule in every[key].rules)
    assert released(fewer) == released(replace(provision, rules=rules_left))
    assert policy.within(fewer, provision)
    if kept:
        assert set(told_of.pieces(fewer)) <= {*kept}


@settings(max_examples=100, deadline=None)
@given(provisions)
def test_a_period_is_told_with_what_it_bounds(provision: Provision) -> None:
    told = told_of.told(provision)
    for rule in provision.rules:
        if rule.types:
            assert told_of.span(rule.since, rule.until) in dict(told)


@pytest.mark.parametrize("role", sorted(policy.ROLES))
def test_a_preset_is_told_by_the_titles_of_its_parts(role: str) -> None:
    preset = policy.preset(role, now=NOW)
    titles = [piece.title for piece in told_of.pieces(preset).values()]
    parts = policy.ROLES[role].parts
    assert titles == [part.title for key, part in PARTS.items() if key in parts]


def test_a_type_that_an_app_names_is_told_though_no_part_is_it() -> None:
    wishes = read("patient/Observation.rs patient/AllergyIntolerance.rs patient/Consent.rs")
    assert told_of.told(Provision(wishes.rules)) == (
        ("", "allergies, results and measurements, consents"),
    )


def test_a_narrower_scope_is_told_with_its_category() -> None:
    wishes = read("patient/Observation.rs?category=laboratory")
    assert told_of.told(Provision(reaching(wishes.rules, LIMITS[2]))) == (
        ("since 1 Jan 2024", "results and measurements: only laboratory"),
    )


def test_everything_can_be_unticked_by_the_same_parts_that_a_patient_ticks() -> None:
    every = told_of.pieces(Provision(read("patient/*.rs").rules))
    assert list(every) == [*PARTS, told_of.REST]


def test_how_far_back_is_without_limit_where_one_piece_has_none() -> None:
    vitals, visits = Rule(("Observation",), ("vital-signs",)), Rule(("Encounter",))
    bounded = replace(vitals, since=LIMITS[1])
    assert told_of.reaching_back(Provision((bounded,))) == LIMITS[1]
    assert told_of.reaching_back(Provision((bounded, visits))) is None
