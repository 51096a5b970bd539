"""The hot queries use the right index, at 10^3 and 10^5 records, with and without statistics."""

import pytest

from phr.bench import house, shape
from phr.fhir.record import Selection
from phr.store import points, records
from phr.store.records import Clause
from tests.fixtures_keep import rows

HOT = {
    "timeline, newest": (Selection(timeline=True, limit=50), "record_timeline"),
    "timeline, further": (
        Selection(timeline=True, limit=50, before=(1_500_000_000_000, 7)),
        "record_timeline",
    ),
    "one kind": (Selection(types=("Condition",), limit=50), "record_type"),
    "one kind, all": (Selection(types=("Condition",)), "record_type"),
    "several kinds": (Selection(types=("Condition", "Procedure"), limit=50), "record_type"),
    "one category": (
        Selection(types=("Observation",), categories=("vital-signs",), limit=50),
        "record_type",
    ),
    "a result over the years": (
        Selection(types=("Observation",), codes=("http://loinc.org|2345-7",)),
        "record_concept",
    ),
    "the newest points of one test": (
        Selection(types=("Observation",), codes=("http://loinc.org|2345-7",), limit=300),
        "record_concept",
    ),
    "what is new": (
        Selection(types=("Condition", "Observation"), limit=20, received_since=None),
        "record_type",
    ),
}


@pytest.fixture(scope="module", params=[1_000, 100_000], ids=["10^3", "10^5"])
def sized(request, tmp_path_factory):
    with house.opened(tmp_path_factory.mktemp("plans")) as vault:
        shape.fill(vault, request.param)
        yield vault


@pytest.fixture(params=[False, True], ids=["no statistics", "statistics"])
def counted(request, sized):
    with sized.write() as session:
        run = session.connection().exec_driver_sql
        run("ANALYZE")
        if not request.param:
            run("DELETE FROM sqlite_stat1")
            run("DELETE FROM sqlite_stat4")
            run("ANALYZE sqlite_schema")
    return sized


def asked(vault, selection):
    with vault.read() as session:
        return records.concepts(session, selection)


def plan(vault, sql, params):
    return "\n".join(row[3] for row in rows(vault, f"EXPLAIN QUERY PLAN {sql}", params))


@pytest.mark.parametrize("name", HOT)
def test_a_selection_follows_its_index(counted, name):
    selection, wanted = HOT[name]
    sql, params = records.statement(selection, concepts=asked(counted, selection))
    found = plan(counted, sql, params)
    assert wanted in found
    assert "SCAN record\n" not in f"{found}\n"
    if selection.timeline or (len(selection.types) == 1 and not selection.codes):
        assert "TEMP B-TREE" not in found


@pytest.mark.parametrize("name", HOT)
def test_a_compiled_policy_does_not_change_the_way(counted, name):
    selection, wanted = HOT[name]
    where = Clause(
        "record.type IN (28, 96) AND record.labels & ? = 0 AND (record.time >= ? OR record.time IS"
        " NULL)",
        (2048, 0),
    )
    sql, params = records.statement(selection, where, asked(counted, selection))
    assert wanted in plan(counted, sql, params)


@pytest.mark.parametrize("before", [None, (1_500_000_000_000, 7)], ids=["newest", "further"])
def test_points_come_from_the_index_alone_in_its_order(counted, before):
    (concept,) = asked(counted, Selection(codes=("http://loinc.org|2345-7",)))
    sql, params = points.statement(concept, before, 2001)
    found = plan(counted, sql, params)
    assert "USING COVERING INDEX record_concept (concept=?" in found
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize(
    ("sql", "params", "wanted"),
    [
        ("SELECT pk FROM record WHERE record.key = ? AND record.type = ?", (1, 2), "record_key"),
        ("SELECT pk FROM record WHERE key IN (?, ?, ?)", (1, 2, 3), "record_key"),
        (
            """SELECT pk FROM record WHERE record.text IN (SELECT rowid FROM search WHERE search
            MATCH ?) ORDER BY record.time DESC, record.pk DESC LIMIT 50""",
            ('"glu"*',),
            "record_text",
        ),
        (
            """SELECT pk FROM entry WHERE section = ? AND state = ? ORDER BY time DESC, pk DESC
            LIMIT 50""",
            (1, 1),
            "entry_section",
        ),
        ("SELECT record FROM evidence WHERE entry IN (?, ?)", (1, 2), "evidence_entry"),
    ],
)
def test_single_look_ups_follow_their_index(counted, sql, params, wanted):
    found = plan(counted, sql, params)
    assert wanted in found
    assert "SCAN record\n" not in f"{found}\n"
