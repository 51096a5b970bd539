"""Reading kept records: selections, paging, search, released bytes."""

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phr.fhir import references
from phr.fhir.record import Selection
from phr.store import bodies, records
from phr.store.records import UNDATED, Clause
from tests.fixtures_keep import PATIENT, hospital, item, keep_all, lab, vault

__all__ = ["hospital", "vault"]


def day(number, id_=None, **more):
    return item(lab(id_ or f"d{number}", effectiveDateTime=f"2024-01-{number:02}", **more))


def condition(id_, **more):
    return item(
        {
            "resourceType": "Condition",
            "id": id_,
            "code": {"text": "Asthma", "coding": [{"system": "s", "code": "c"}]},
            **more,
        }
    )


@pytest.fixture
def filled(vault, hospital):
    undated = item(lab("undated").replace(b'"effectiveDateTime"', b'"_effectiveDateTime"'))
    items = [day(number) for number in (3, 1, 5, 2, 4)]
    items += [
        undated,
        condition("c1", onsetDateTime="2024-01-03"),
        condition("c2", onsetDateTime="2023"),
        item(
            lab(
                "bp",
                category=[{"coding": [{"code": "vital-signs"}]}],
                code={
                    "coding": [
                        {"system": "urn:local", "code": "BP"},
                        {"system": "http://loinc.org", "code": "85354-9"},
                    ]
                },
                effectiveDateTime="2022-01-01",
            )
        ),
    ]
    keep_all(vault, hospital, items)
    return vault


def ids(vault, selection, where=None):
    with vault.read() as session:
        found = records.select(session, vault, selection, where=where)
        if selection.limit is None:
            assert len(found) == records.count(session, selection, where)
        return [record.remote_id for record in found]


def test_newest_first_ends_with_what_has_no_date(filled):
    expected = ["d5", "d4", "d3", "d2", "d1", "bp", "undated"]
    assert expected == ids(filled, Selection(types=("Observation",)))
    assert expected[::-1] == ids(filled, Selection(types=("Observation",), order="oldest"))


@pytest.mark.parametrize("order", ["newest", "oldest"])
@pytest.mark.parametrize("types", [(), ("Observation",), ("Observation", "Condition")])
def test_paging_meets_every_record_once_to_the_end(filled, order, types):
    whole = ids(filled, Selection(types=types, order=order))
    met, before = [], None
    while True:
        selection = Selection(types=types, order=order, limit=2, before=before)
        with filled.read() as session:
            page = records.select(session, filled, selection)
        if not page:
            break
        met += [record.remote_id for record in page]
        last = page[-1]
        ms = UNDATED if last.when is None else round(last.when.timestamp() * 1000)
        before = (ms, last.pk)
    assert whole == met
    assert len(met) == len(set(met))


def test_selections_narrow_by_everything_they_name(filled, hospital):
    lab_only = Selection(types=("Observation",), categories=("laboratory",))
    assert "bp" not in ids(filled, lab_only)
    assert ids(filled, Selection(categories=("vital-signs",))) == ["bp"]
    assert ids(filled, Selection(codes=("urn:local|BP",))) == ["bp"]
    assert ids(filled, Selection(codes=("http://loinc.org|85354-9", "x|y"))) == ["bp"]
    period = Selection(
        since=datetime(2024, 1, 2, tzinfo=UTC), until=datetime(2024, 1, 4, tzinfo=UTC)
    )
    assert ids(filled, period) == ["c1", "d3", "d2"]
    assert ids(filled, Selection(timeline=True)) == ["c1", "c2"]
    assert ids(filled, Selection(timeline=True, types=("Condition",), limit=1)) == ["c1"]
    assert ids(filled, Selection(types=("Potion",))) == []
    assert ids(filled, Selection(connection_id=hospital + 1)) == []
    assert ids(filled, Selection(received_since=datetime(2999, 1, 1, tzinfo=UTC))) == []


def test_a_compiled_policy_stands_inside_the_query(filled):
    only = Clause("record.type = ? OR record.type = ?", (28, 28))
    assert ids(filled, Selection(), only) == ["c1", "c2"]
    assert ids(filled, Selection(types=("Observation", "Condition"), limit=1), only) == ["c1"]
    with filled.read() as session:
        assert {"c1", "c2"} == {
            record.remote_id for record in records.scan(session, filled, where=only)
        }
        assert records.search(session, filled, "glucose", where=only) == []
        assert records.count(session, Selection(), only) == 2


def test_scanning_goes_through_everything_in_steps(filled):
    met, after = [], 0
    with filled.read() as session:
        while page := records.scan(session, filled, after=after, limit=4):
            met += page
            after = page[-1].pk
    assert len({record.pk for record in met}) == 9


def test_one_record_is_found_by_its_local_id_and_type(filled):
    with filled.read() as session:
        (first, *_) = records.select(session, filled, Selection(types=("Condition",)))
        assert first == records.get(session, filled, "Condition", first.local_id)
        assert records.get(session, filled, "Observation", first.local_id) is None
        assert records.get(session, filled, "Condition", "nonsense") is None
        assert records.get(session, filled, "Potion", first.local_id) is None
        assert records.versions(session, filled, "Condition", "0" * 16) == []
        assert [first] == records.by_keys(session, filled, [records.key_of(first.local_id), 1])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("glucose", 6),
        ("GLUC", 6),
        ("serum glucose", 6),
        ("2345-7", 6),
        ("asthma", 2),
        ("asthma glucose", 0),
        ("", 0),
        ('"', 0),
        ("*", 0),
        ("-x", 0),
        ("NEAR(", 0),
        ("a:b", 0),
        ("glucose OR asthma", 0),
        ("'; DROP TABLE record; --", 0),
        ("x" * 10_000, 0),
        ("\0", 0),
        ("\ud800", 0),
        ("😀", 0),
    ],
)
def test_search_takes_any_words_as_words(filled, words, found):
    with filled.read() as session:
        assert found == len(records.search(session, filled, words))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(words=st.text(max_size=30))
def test_no_words_make_the_search_raise(filled, words):
    with filled.read() as session:
        records.search(session, filled, words)


def test_search_ignores_accents_and_forgets_changed_words(vault, hospital):
    keep_all(vault, hospital, [condition("1", note=[{"text": "Überwachung"}])])
    keep_all(vault, hospital, [condition("1", note=[{"text": "Entlassung"}])])
    with vault.read() as session:
        assert len(records.search(session, vault, "entlass")) == 1
        assert records.search(session, vault, "uberwachung") == []


def test_released_bytes_differ_only_where_they_must(filled):
    with filled.read() as session:
        for record in records.scan(session, filled):
            out = orjson.loads(records.released_bytes(filled, record, session))
            kept = orjson.loads(record.body)
            assert record.local_id == out.pop("id")
            kept.pop("id")
            if "subject" in kept:
                assert f"Patient/{PATIENT}" == kept.pop("subject")["reference"]
                assert (
                    f"Patient/{references.patient_id(filled.id_key)}"
                    == out.pop("subject")["reference"]
                )
            assert kept == out


def test_a_frame_names_its_dictionary():
    (packed,) = bodies.Packer().pack([b'{"resourceType":"Patient"}'])
    assert bodies.dictionary_id(packed) == bodies.GENERAL_ID
    assert bodies.dictionary_id(bodies.plain(b"x" * 1000)) == 0
