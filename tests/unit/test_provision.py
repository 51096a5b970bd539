"""What a provision covers: the SQL and the check say the same, and the default is no."""

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from phr.fhir import kinds
from phr.fhir.check import Note
from phr.fhir.intake import Intake
from phr.fhir.labels import Label
from phr.fhir.record import Record
from phr.fhir.references import key_of, local_id_of
from phr.sharing import provision as policy
from phr.sharing.provision import Action, Deny, Permit, Provision, Rule
from tests.fixtures_provision import make_record

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TYPES = ("Observation", "Condition", "Encounter", "Patient", "Practitioner", "Device")
DATES = (None, "2019", "2020-06", "2020-06-15", "2020-06-15T10:00:00Z", "2026-11-01")
LIMITS = (None, datetime(2020, 6, 15, 9, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC), NOW)
IDS = tuple(local_id_of(number) for number in (1, 2, -3, 1 << 62))
CATEGORIES = ("laboratory", "vital-signs", "survey", "something-else")

records = some.builds(
    lambda type_, date, category, labels, local_id, connection, withdrawn: make_record(
        type_,
        date,
        category,
        labels=reduce(or_, labels, Label.NONE),
        local_id=local_id,
        connection_id=connection,
        withdrawn=withdrawn,
    ),
    some.sampled_from(TYPES),
    some.sampled_from(DATES),
    some.sampled_from((None, *CATEGORIES)),
    some.lists(some.sampled_from(list(Label)), max_size=2),
    some.sampled_from(IDS),
    some.sampled_from((1, 2)),
    some.booleans(),
)
rules = some.builds(
    Rule,
    types=some.lists(some.sampled_from(TYPES), min_size=1, max_size=3).map(tuple),
    categories=some.lists(some.sampled_from(CATEGORIES[:3]), max_size=2).map(tuple),
    without=some.lists(some.sampled_from(CATEGORIES[:3]), max_size=1).map(tuple),
    since=some.sampled_from(LIMITS),
    until=some.sampled_from(LIMITS),
)
provisions = some.builds(
    Provision,
    rules=some.lists(rules, max_size=3).map(tuple),
    labels=some.lists(some.sampled_from(list(Label)), max_size=3).map(
        lambda listed: reduce(or_, listed, Label.NONE) & ~Label.PRIVATE
    ),
    connections=some.sampled_from(((), (1,), (1, 2))),
    excluded=some.frozensets(some.sampled_from(IDS), max_size=2),
    ticked=some.frozensets(some.sampled_from(IDS), max_size=2),
    understood=some.booleans(),
)


def found_by_sql(database: sqlite3.Connection, record: Record, sql: str, params: Any) -> bool:
    """Say whether the piece of SQL finds the record among the columns that keep writes."""
    taken = Intake().take(record.body, kinds.KINDS[record.type])
    database.execute("DELETE FROM record")
    database.execute(
        "INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?)",
        (
            1,
            key_of(record.local_id),
            record.connection_id,
            kinds.KINDS[record.type].number,
            taken.time,
            taken.time_end,
            taken.categories,
            int(record.labels),
            int(Note.WITHDRAWN) if record.withdrawn else 0,
        ),
    )
    row = database.execute(f"SELECT count(*) FROM record WHERE {sql}", params).fetchone()
    return bool(row[0])


@pytest.fixture(scope="module")
def database() -> Any:
    with sqlite3.connect(":memory:") as made:
        made.execute(
            "CREATE TABLE record(pk INTEGER, key INTEGER, connection INTEGER, type INTEGER,"
            " time INTEGER, time_end INTEGER, category INTEGER, labels INTEGER, flags INTEGER)"
        )
        yield made
    made.close()


@settings(max_examples=300, deadline=None)
@given(records, provisions)
def test_the_query_and_the_check_agree_on_any_record(
    database: sqlite3.Connection, record: Record, provision: Provision
) -> None:
    compiled = policy.compiled(provision)
    by_sql = found_by_sql(database, record, compiled.where.sql, compiled.where.params)
    assert by_sql == (compiled.permits(record) == Permit())


@settings(max_examples=200, deadline=None)
@given(records, provisions)
def test_what_is_counted_is_covered_and_never_identity_or_supporting(
    database: sqlite3.Connection, record: Record, provision: Provision
) -> None:
    compiled = policy.compiled(provision)
    counted = found_by_sql(database, record, compiled.counted.sql, compiled.counted.params)
    covered = found_by_sql(database, record, compiled.where.sql, compiled.where.params)
    plain = record.type not in (*policy.IDENTITY, *policy.SUPPORTING)
    assert counted == (covered and plain)


@settings(max_examples=200, deadline=None)
@given(provisions)
def test_a_kept_provision_reads_back_the_same(provision: Provision) -> None:
    kept = json.loads(json.dumps(policy.to_json(provision)))
    assert policy.from_json(kept) == replace(provision, understood=True)


@settings(max_examples=300, deadline=None)
@given(records, provisions, provisions)
def test_a_narrower_provision_shares_nothing_more(
    record: Record, inner: Provision, outer: Provision
) -> None:
    if policy.within(inner, outer) and policy.permits(inner, record) == Permit():
        assert policy.permits(outer, record) == Permit()


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": True},
        {"labels": ["NEW"]},
        {"actions": ["copy"]},
        {"excluded": ["../x"]},
        {
            "rules": [
                {"types": ["Thing"], "categories": [], "without": [], "since": None, "until": None}
            ]
        },
        {"rules": [{"types": ["Condition"], "purpose": "x"}]},
        {"rules": "Condition"},
        {"connections": ["one"]},
        {
            "rules": [
                {"types": [], "categories": [], "without": [], "since": "2020-01-01", "until": None}
            ]
        },
    ],
)
def test_what_is_not_understood_grants_nothing(change: dict[str, Any]) -> None:
    kept = policy.to_json(policy.preset("primary", now=NOW)) | change
    provision = policy.from_json(kept)
    record = make_record("Condition", "2020", None)
    assert isinstance(policy.permits(provision, record), Deny)
    assert not policy.compiled(provision).grants_something
    assert policy.compiled(provision).where.sql == "0"


@pytest.mark.parametrize("broken", [None, [], "x", 3, {}])
def test_a_provision_that_is_no_object_grants_nothing(broken: Any) -> None:
    assert policy.from_json(broken) == policy.NOTHING


def test_every_role_leaves_sensitive_and_private_records_out() -> None:
    for role in policy.ROLES:
        provision = policy.preset(role, now=NOW)
        for label in Label:
            record = make_record("AllergyIntolerance", None, None, labels=label)
            assert isinstance(policy.permits(provision, record), Deny), (role, label)


def test_a_private_record_needs_its_own_tick_and_its_other_labels_too() -> None:
    provision = replace(policy.preset("primary", now=NOW), ticked=frozenset({IDS[0]}))
    private = make_record("AllergyIntolerance", None, None, labels=Label.PRIVATE)
    both = make_record("AllergyIntolerance", None, None, labels=Label.PRIVATE | Label.PSY)
    other = make_record("AllergyIntolerance", None, None, labels=Label.PRIVATE, local_id=IDS[1])
    assert policy.permits(provision, private) == Permit()
    assert isinstance(policy.permits(provision, both), Deny)
    assert isinstance(policy.permits(provision, other), Deny)


def test_an_undated_record_is_not_visible_under_a_period_but_identity_is() -> None:
    since = NOW - timedelta(days=365)
    provision = Provision((Rule(("Encounter",), since=since),))
    assert isinstance(policy.permits(provision, make_record("Encounter", None, None)), Deny)
    assert policy.permits(provision, make_record("Patient", None, None)) == Permit()


def test_a_partial_date_matches_on_overlap() -> None:
    since = datetime(2019, 6, 1, tzinfo=UTC)
    provision = Provision((Rule(("Observation",), since=since),))
    assert policy.permits(provision, make_record("Observation", "2019", None)) == Permit()
    assert isinstance(policy.permits(provision, make_record("Observation", "2018", None)), Deny)


def test_every_sensitive_label_can_be_named_on_the_share_page() -> None:
    named = reduce(or_, (label for _, label in policy.SENSITIVE.values()))
    assert named | Label.PRIVATE == reduce(or_, Label)


def test_every_type_of_a_part_is_known() -> None:
    for part in policy.PARTS.values():
        for rule in part.rules:
            assert set(rule.types) <= kinds.KINDS.keys()
            assert set(rule.categories + rule.without) <= kinds.CATEGORIES.keys()


def test_view_is_part_of_every_role() -> None:
    assert all(Action.VIEW in role.actions for role in policy.ROLES.values())
