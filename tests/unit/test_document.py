"""The only door for FHIR JSON: what it refuses, and that it changes nothing."""

import json
from contextlib import suppress
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.errors import InvalidInput
from phr.fhir import document, intake

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)

REFUSED = {
    "nested too deep": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    "nested very deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a name twice": b'{"a":1,"a":2}',
    "a name twice, spaced": b'{"a" : 1, "a" : 2}',
    "a name twice, escaped": b'{"a":1,"\\u0061":2}',
    "a name twice, deep inside": b'{"a":[{"b":{"c":1,"c":1}}]}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "1e999": b'{"a":1e999}',
    "1e999999": b'{"a":1e999999}',
    "1e-31": b'{"a":1e-31}',
    "5000 digits": b'{"a":' + b"1" * 5000 + b"}",
    "41 decimals": b'{"a":0.' + b"1" * 40 + b"}",
    "lone surrogate": b'{"a":"\\ud800"}',
    "NUL": b'{"a":"x\\u0000y"}',
    "NUL in a name": b'{"\\u0000":1}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "trailing garbage": b'{"a":1} x',
    "two documents": b'{"a":1}{"b":2}',
    "comment": b'{"a":1/*x*/}',
    "single quotes": b"{'a':1}",
    "trailing comma": b'{"a":1,}',
    "leading zero": b'{"a":01}',
    "control character": b'{"a":"\x01"}',
    "not an object": b"[1]",
    "nothing": b"",
    "cut off": b'{"a":"b',
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_resource_may_hold_is_refused_with_a_sentence(body):
    with pytest.raises(InvalidInput) as refusal:
        document.loads(body)
    assert refusal.value.sentence.endswith(".")


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_the_importer_refuses_exactly_what_the_door_refuses(body):
    with pytest.raises(InvalidInput):
        imported(
            body if body[:1] in b"[" else b'{"resourceType":"Basic","id":"x","code":%s}' % body
        )


def imported(body):
    clean = document.text_bytes(body)
    kind, _ = intake.named(*intake.peek(clean), clean, None)
    return intake.Intake().take(clean, kind)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\\\\u0000"}',
        b'{"a":"[[[[{{{{"}',
        b'{"a":"' + b"[" * 200 + b'"}',
        b'{"a":"\\ud83d\\ude00"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a":"\\"a\\":1"}',
        b'{"a":-0.0,"b":0.10,"c":1e30}',
    ],
)
def test_what_only_looks_bad_is_taken(body):
    assert document.loads(body)


@pytest.mark.parametrize("digits", ["1.10", "0.10", "72.50", "-0.0", "1e2", "1E-5", "100.000"])
def test_decimals_keep_their_digits(digits):
    body = b'{"value":%s}' % digits.encode()
    value = document.loads(body)["value"]
    assert digits == str(value)
    assert Decimal(digits) == value
    assert body == document.dumps({"value": value})
    assert digits == str(document.parse(body)["value"])


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5))
def test_any_plain_document_is_read_as_json_reads_it(value):
    for body in (orjson.dumps(value), json.dumps(value, indent=1).encode()):
        if any("\0" in text for text in document.strings(value)):
            continue
        assert value == document.loads(body)
        assert value == document.parse(body)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5), st.booleans())
def test_fields_are_the_very_bytes_at_their_offsets(value, spaced):
    body = json.dumps(value, indent=2 if spaced else None, ensure_ascii=spaced).encode(
        "utf-8", "replace"
    )
    found = document.fields(body)
    assert list(found) == list(value)
    for start, raw in found.values():
        assert raw == body[start : start + len(raw)]


@given(st.binary(max_size=60))
def test_no_bytes_make_the_door_raise_anything_else(body):
    for reader in (document.loads, document.slice_bundle, document.fields):
        with suppress(InvalidInput):
            reader(body)


def test_a_page_is_cut_into_the_very_bytes_that_were_sent():
    raw = b'{"resourceType":"Observation", "id":"1","v":1.10}'
    body = (
        b'{"resourceType":"Bundle","total":7,"link":[{"relation":"self","url":"a"},'
        b'{"relation":"next","url":"b"}],"entry":[null,{"fullUrl":"urn:uuid:1","resource":%s},'
        b'{"resource":{"resourceType":"OperationOutcome","issue":[{"severity":"warning",'
        b'"code":"throttled","diagnostics":"Too fast"}]},"search":{"mode":"outcome"}},'
        b'{"response":{"status":"429 Too Many"}},{"fullUrl":"x"}]}' % raw
    )
    page = document.slice_bundle(body)
    assert [raw] == [each.body for each in page.entries]
    assert (page.entries[0].place, page.entries[0].url) == ("entry 2", "urn:uuid:1")
    assert (page.next, page.total) == ("b", 7)
    assert [tuple(issue) for issue in page.outcomes] == [
        ("warning", "throttled", "Too fast"),
        ("error", "429", ""),
    ]


@pytest.mark.parametrize("at", range(1, 400, 13))
def test_nothing_of_a_page_that_breaks_off_is_taken(at):
    raw = b'{"resourceType":"Observation","id":"1"}'
    body = b'{"resourceType":"Bundle","entry":[' + b",".join([b'{"resource":%s}' % raw] * 9) + b"]}"
    with pytest.raises(InvalidInput):
        document.slice_bundle(body[:at])


@pytest.mark.parametrize(
    "bad",
    [
        b'{"resourceType":"Basic","a":"\\ud800"}',
        b'{"resourceType":"Basic","a":"\xff"}',
        b'{"resourceType":"Basic","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"resourceType":"Basic","a":nonsense}',
    ],
)
def test_one_entry_that_is_broken_inside_does_not_hurt_its_neighbours(bad):
    good = b'{"resourceType":"Observation","id":"1"}'
    body = b'{"resourceType":"Bundle","entry":[{"resource":%s},{"fullUrl":"u","resource":%s},'
    body += b'{"resource":%s}],"link":[{"relation":"next","url":"b"}],"total":3}'
    page = document.slice_bundle(body % (good, bad, good))
    assert [item.body for item in page.entries] == [good, bad, good]
    assert (page.next, page.total) == ("b", 3)


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType":"Bundle","entry":[' + b"{}," * 1_100_000 + b"{}]}",
        b'{"resourceType":"OperationOutcome","issue":[' + b"{}," * 1_100_000 + b"{}]}",
    ],
)
def test_millions_of_tiny_values_are_refused_before_they_are_made(body):
    with pytest.raises(InvalidInput):
        document.slice_bundle(body)
    with pytest.raises(InvalidInput):
        document.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceType":"Bundle"}',
        b'{"resourceType":"Bundle","entry":null,"link":{"relation":"self"},"total":"many"}',
        b'{"resourceType":"Bundle","entry":[],"link":[{"relation":"next"}]}',
    ],
)
def test_sloppy_pages_are_tolerated(body):
    assert document.Page(()) == document.slice_bundle(body)


def test_more_than_64_mb_is_refused_unread():
    giant = bytes(document.MAX_BYTES + 1)
    for door in (document.loads, document.slice_bundle):
        with pytest.raises(InvalidInput, match="64 MB"):
            door(giant)


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 1}', b'{"a": 1, "a": 2}', b'{"a":1,"\\u0061":1}'])
def test_fields_refuse_a_name_that_stands_twice(body):
    with pytest.raises(InvalidInput, match="twice"):
        document.fields(body)


def test_many_brackets_side_by_side_are_not_deep():
    wide = b'{"a":[' + b",".join([b'{"b":[]}'] * 1000) + b"]}"
    assert len(document.loads(wide)["a"]) == 1000


def test_one_resource_alone_is_a_page_of_one():
    body = b'{"resourceType":"Patient","id":"1"}'
    (found,) = document.slice_bundle(b" " + body + b"\n").entries
    assert (found.body, found.place) == (body, "the resource")


def test_a_single_entry_that_is_no_list_is_still_taken():
    page = document.slice_bundle(
        b'{"resourceType":"Bundle","entry":{"resource":{"resourceType":"Patient","id":"1"}}}'
    )
    assert [one.body for one in page.entries] == [b'{"resourceType":"Patient","id":"1"}']


@pytest.mark.parametrize("entry", [b'"none"', b"7", b"true"])
def test_entries_that_are_no_list_refuse_the_page(entry):
    with pytest.raises(InvalidInput, match="entries of this Bundle"):
        document.slice_bundle(b'{"resourceType":"Bundle","entry":' + entry + b"}")


@pytest.mark.parametrize("body", [b"{}", b'{"resourceType":7}', b'{"resourceType":null,"id":"1"}'])
def test_json_that_names_no_resource_is_not_fhir(body):
    with pytest.raises(InvalidInput, match="not a FHIR resource"):
        document.slice_bundle(body)


def test_a_link_or_total_that_cannot_be_read_does_not_cost_the_page():
    """Whether all pages came is then the caller's question: no next link, nothing claimed."""
    deep = b"[" * 70 + b"]" * 70
    page = document.slice_bundle(
        b'{"resourceType":"Bundle","total":1e999,"link":' + deep + b',"entry":['
        b'{"resource":{"resourceType":"Patient","id":"1"}}]}'
    )
    assert (len(page.entries), page.next, page.total) == (1, None, None)


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (b'{"resourceType":"OperationOutcome"}', True),
        (b'{"resourceType": "OperationOutcome", "issue": []}', True),
        (b'{"resourceType":"Basic","code":{"text":"OperationOutcome"}}', False),
        (b'{"note":["OperationOutcome"]}', False),
        (b'{"resourceType":"OperationOutcome","id":"1", "id":"1"}', False),
    ],
)
def test_only_what_calls_itself_an_outcome_is_one(raw, outcome):
    assert document.is_outcome(raw) is outcome


def test_an_outcome_that_breaks_the_rules_says_nothing():
    page = document.slice_bundle(
        b'{"resourceType":"OperationOutcome","issue":[{"code":"a","code":"b"}]}'
    )
    assert (page.entries, page.outcomes) == ((), ())


def test_what_is_no_issue_of_an_outcome_is_passed_over():
    said = {"issue": ["odd", {"severity": "error", "details": {"text": "Too many"}}, None]}
    assert list(document.issues(said)) == [document.Issue("error", "", "Too many")]


def test_an_entry_gives_its_resource_and_full_url():
    given = b'{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient"}}'
    assert document.entry(given) == (b'{"resourceType":"Patient"}', "urn:uuid:1")
    for nothing in (
        b"{}",
        b'{"resource":null}',
        b'{"resource":{"resourceType":"OperationOutcome"}}',
    ):
        assert document.entry(nothing) == (None, None)
    with pytest.raises(InvalidInput):
        document.entry(b'{"resource":')


def test_an_item_names_its_place_and_never_what_it_says():
    assert repr(document.Item(b'{"note":"secret"}', "entry 7", "urn:x")) == "Item('entry 7')"


def test_only_values_of_json_are_written():
    with pytest.raises(NotImplementedError):
        document.dumps({"when": object()})


def test_an_outcome_in_place_of_data_is_no_record():
    page = document.slice_bundle(
        b'{"resourceType":"OperationOutcome","issue":{"severity":"error","code":"forbidden",'
        b'"details":{"text":"Not you"}}}'
    )
    assert page.entries == ()
    assert [tuple(issue) for issue in page.outcomes] == [("error", "forbidden", "Not you")]


@given(st.lists(st.binary(max_size=6), max_size=8))
def test_the_quick_proof_about_names_agrees_with_the_strict_reader(parts):
    raw = b'{"a":{"x":1},' + b",".join(b'"%s":1' % part for part in parts) + b"}"
    try:
        clean = document.text_bytes(raw)
        expected = document.strict(clean)
    except InvalidInput:
        expected = None
    try:
        found = intake.judge(document.text_bytes(raw))[0]
    except InvalidInput:
        found = None
    assert expected == found
