"""What a new version says otherwise: labelled, in words, nothing where nothing differs."""

from hypothesis import given
from hypothesis import strategies as st

from phr.chart.changes import MOST, Change, changes
from phr.fhir import document

LAB = {
    "resourceType": "Observation",
    "status": "preliminary",
    "code": {"text": "Potassium"},
    "valueQuantity": {"value": 5.4, "unit": "mmol/L"},
    "meta": {"versionId": "1", "lastUpdated": "2026-01-01T00:00:00Z"},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


def made(older, newer):
    return list(changes(older, newer).made)


def test_a_changed_value_is_told_with_what_it_was_and_what_it_is():
    newer = LAB | {"status": "final"}
    assert made(LAB, newer) == [Change("Status", "preliminary", "final")]


def test_digits_that_differ_are_a_change_even_where_the_number_is_the_same():
    older = document.loads(b'{"resourceType":"Observation","valueQuantity":{"value":5.4}}')
    newer = document.loads(b'{"resourceType":"Observation","valueQuantity":{"value":5.40}}')
    assert made(older, newer) == [Change("Value", "5.4", "5.40")]


def test_what_was_added_and_what_is_gone_is_told_as_such():
    noted = LAB | {"note": [{"text": "Haemolysed sample"}]}
    (added,) = made(LAB, noted)
    (gone,) = made(noted, LAB)
    assert (added.before, added.after) == ("", "Haemolysed sample")
    assert (gone.before, gone.after) == ("Haemolysed sample", "")


def test_a_new_stamp_alone_is_no_change():
    assert not made(LAB, LAB | {"meta": {"versionId": "2", "lastUpdated": "2026-02-01T00:00:00Z"}})


def test_many_changes_are_counted_and_not_all_listed():
    newer = LAB | {"note": [{"text": f"note {number}"} for number in range(MOST + 5)]}
    found = changes(LAB, newer)
    assert (len(found.made), found.left_out) == (MOST, 5)


@given(st.dictionaries(st.text(max_size=6), VALUES), st.dictionaries(st.text(max_size=6), VALUES))
def test_any_two_documents_compare_without_an_error(older, newer):
    assert changes(older, older).made == ()
    for change in changes(older, newer).made:
        assert change.before != change.after
