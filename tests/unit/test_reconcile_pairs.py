"""The pairs of tests/data/pairs: none joined that must not be, hardly one missed."""

from collections import Counter

import pytest

from phr.chart.plain import codes
from phr.chart.reconcile import reconcile
from phr.chart.titles import medicine_words, title
from tests import pairs
from tests.corpus import corpus

RECALL = 0.98
OWN = [one for one in pairs.every() if not one.needs_corpus]
HELD_OUT = pairs.every(pairs.HELD_OUT)
PUBLISHED = [one for one in pairs.every() if one.needs_corpus]


def joined(pair):
    one, other, near = pair.records()
    found = reconcile([one, other], near=near).of()
    return found[one.pk] is found[other.pk]


def by_name(pair):
    """The trivial rule: one kind, and one code or one name."""
    one, other, _ = pair.records()
    if one.type != other.type:
        return False
    mine, theirs = ({*codes(record.document.get("code"))} for record in (one, other))
    names = [
        (medicine_words(record.document) or title(record.document)).casefold()
        for record in (one, other)
    ]
    return bool(mine & theirs) or names[0] == names[1]


def judged(rule, listed):
    """Return the false merges and what was missed, in words."""
    wrong = [pair.why for pair in listed if not pair.same and rule(pair)]
    missed = [pair.why for pair in listed if pair.same and not rule(pair)]
    return wrong, missed


def test_the_set_is_as_large_as_it_must_be():
    kinds = Counter(pair.kind for pair in pairs.every())
    assert len(pairs.every()) >= 120
    assert sum(pair.published for pair in pairs.every()) >= 60
    assert len(kinds) == 9
    assert min(kinds.values()) >= 8
    assert sum(not pair.same for pair in pairs.every()) >= 100


def test_our_own_pairs_are_joined_and_kept_apart_as_written():
    wrong, missed = judged(joined, OWN)
    assert not wrong
    assert not missed


@pytest.mark.corpus
def test_no_two_published_records_are_joined_that_must_not_be_and_hardly_one_is_missed():
    corpus()
    wrong, missed = judged(joined, pairs.every())
    assert not wrong
    alike = sum(pair.same for pair in pairs.every())
    assert 1 - len(missed) / alike >= RECALL, missed


def test_pairs_written_by_somebody_who_had_not_read_the_rules_are_told_apart():
    wrong, missed = judged(joined, HELD_OUT)
    assert len(HELD_OUT) >= 140
    assert not wrong
    assert 1 - len(missed) / sum(pair.same for pair in HELD_OUT) >= RECALL, missed


def test_the_trivial_rule_does_not_pass_this_set():
    wrong, missed = judged(by_name, OWN)
    assert len(wrong) >= 10
    assert len(missed) >= 10


FLAGGED = [one for one in (*pairs.every(), *HELD_OUT) if one.flagged]


@pytest.mark.parametrize("pair", FLAGGED, ids=lambda p: p.why)
def test_whoever_is_not_surely_the_same_person_is_flagged(pair):
    if pair.needs_corpus:
        corpus()
    one, other, near = pair.records()
    found = reconcile([one, other], near=near)
    assert set(found.flagged) == {other.pk}
