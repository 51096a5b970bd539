"""Local ids, the places of references, and splicing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.errors import InvalidInput
from phr.fhir import intake, references
from phr.fhir.kinds import KINDS

KEY = bytes(range(32))


def test_a_local_id_is_ours_alone_and_names_connection_type_and_id():
    ids = {
        references.local_id_of(references.local_key(KEY, connection, type_, remote))
        for connection in (1, 2)
        for type_ in ("Patient", "Observation")
        for remote in ("1", "2")
    }
    assert len(ids) == 8
    assert all(len(each) == 16 for each in ids)
    other = references.local_key(bytes(32), 1, "Patient", "1")
    assert references.local_id_of(other) not in ids


@given(st.integers(-(2**63), 2**63 - 1))
def test_keys_and_local_ids_are_the_same_thing(key):
    assert key == references.key_of(references.local_id_of(key))


@pytest.mark.parametrize("wrong", ["", "xyz", "0" * 15, "0" * 17, "G" * 16, "../../etc/passwd"])
def test_what_is_not_a_local_id_has_no_key(wrong):
    assert references.key_of(wrong) is None


@pytest.mark.parametrize(
    ("said", "target"),
    [
        ("Patient/1", ("Patient", "1", "")),
        ("https://a.b/fhir/Patient/1/_history/2", ("Patient", "1", "https://a.b/fhir/")),
        ("urn:uuid:ABC", ("", "abc", "")),
        ("#contained", None),
        ("Patient?identifier=x", None),
        ("javascript:alert(1)", None),
        ("", None),
    ],
)
def test_literal_references_are_understood_and_nothing_else(said, target):
    found = references.target(said)
    assert target == (tuple(found) if found else None)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), max_size=9))
def test_places_survive_packing(gaps):
    places, at = [], 0
    for gap, length in gaps:
        places.append((at + gap, length))
        at += gap + length
    assert ((3, 7), places) == references.unpack(references.pack((3, 7), places))


def spliced(body: bytes, **map_: str) -> bytes:
    kind, _ = intake.named(*intake.peek(body), body, None)
    taken = intake.Intake().take(body, kind)

    def rewrite(said: bytes) -> bytes | None:
        new = map_.get(references.unescaped(said))
        return None if new is None else references.escaped(new)

    return references.splice(body, taken.splices, "feedfeedfeedfeed", rewrite)


@pytest.mark.parametrize("indent", [None, 2])
def test_only_id_and_references_change(indent):
    document = {
        "resourceType": "Observation",
        "id": "1",
        "note": [{"text": 'he said "reference":"A" and {"id":"1"}'}],
        "subject": {"reference": "A"},
        "contained": [{"resourceType": "Patient", "id": "A"}],
        "performer": [{"reference": "A"}, {"reference": "#A"}, {"reference": "B"}],
        "extension": [{"valueReference": {"reference": "A"}}],
    }
    body = json.dumps(document, indent=indent).encode()
    out = json.loads(spliced(body, A="C/é", B=None))
    document["id"] = "feedfeedfeedfeed"
    document["subject"] = {"reference": "C/é"}
    document["performer"][0] = {"reference": "C/é"}
    document["extension"][0]["valueReference"]["reference"] = "C/é"
    assert document == out


def test_a_resource_without_id_gets_one():
    body = b'{"resourceType":"Basic","code":{"text":"x"}}'
    assert spliced(body) == b'{"id":"feedfeedfeedfeed","resourceType":"Basic","code":{"text":"x"}}'


def test_escaped_slashes_are_understood():
    body = b'{"resourceType":"Basic","id":"1","subject":{"reference":"Patient\\/1"}}'
    assert b'"Patient/local"' in spliced(body, **{"Patient/1": "Patient/local"})


def test_a_reference_that_hides_behind_an_escaped_name_is_refused():
    body = b'{"resourceType":"Basic","id":"1","subject":{"\\u0072eference":"Patient/1"}}'
    with pytest.raises(InvalidInput):
        intake.Intake().take(body, KINDS["Basic"])


def test_references_in_every_corner_of_large_resources_are_found():
    items = [{"sequence": n, "link": {"reference": f"Encounter/{n}"}} for n in range(400)]
    body = json.dumps({"resourceType": "Claim", "id": "1", "item": items}).encode()
    taken = intake.Intake().take(body, KINDS["Claim"])
    assert [f"Encounter/{n}" for n in range(400)] == references.reference_texts(body, taken.splices)
