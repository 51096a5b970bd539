"""Readers that never raise, whatever a hospital sends."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr import clock
from phr.fhir import check, intake, kinds, labels, reading, references
from phr.fhir.kinds import KINDS

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(  # names that the readers look at
                [
                    "code",
                    "coding",
                    "system",
                    "display",
                    "text",
                    "value",
                    "unit",
                    "start",
                    "end",
                    "given",
                    "family",
                    "reference",
                    "resourceType",
                    "category",
                    "effectiveDateTime",
                    "period",
                    "event",
                    "repeat",
                    "use",
                    "meta",
                    "security",
                    "status",
                    "verificationStatus",
                    "modifierExtension",
                    "content",
                    "attachment",
                    "url",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(ANY)
def test_no_shape_makes_a_reader_raise(value):
    for reader in (
        reading.text_of,
        reading.name_of,
        reading.codings,
        reading.preferred,
        reading.quantity,
        reading.period,
        reading.moment_of,
        reading.category_bits,
        reading.mapping,
        reading.listed,
        reading.text,
    ):
        reader(value)
    document = {"resourceType": "Observation", **reading.mapping(value)}
    reading.when(document)
    reading.categories(document)
    labels.label(document)
    references.targets(document)
    check.in_error(document)


@pytest.mark.parametrize(
    ("sent", "start", "days"),
    [
        ("2024", "2024-01-01", 366),
        ("2023", "2023-01-01", 365),
        ("2024-02", "2024-02-01", 29),
        ("2023-12", "2023-12-01", 31),
        ("2024-02-29", "2024-02-29", 1),
    ],
)
def test_partial_dates_are_ranges(sent, start, days):
    moment = reading.moment(sent)
    begin = clock.to_ms(datetime.fromisoformat(start).replace(tzinfo=UTC))
    assert (begin, begin + days * 86_400_000 - 1) == (moment.start, moment.end)
    assert sent == moment.text


@pytest.mark.parametrize(
    "sent",
    ["0000-00-00", "2023-02-30", "2023-02-29", "2024-01-01T24:00:00Z", "2024-13", "soon", "",
     "x" * 99, "2016-12-31T23:59:60Z", "20240101", "2024-W01", "2024-01-01 08:00",
     "2024-01-01T08:00:00+25:00"],
)  # fmt: skip
def test_impossible_dates_keep_their_text_and_sort_nowhere(sent):
    assert reading.Moment(sent) == reading.moment(sent)


@pytest.mark.parametrize(
    ("sent", "utc"),
    [
        ("2024-03-01T08:00:00Z", "2024-03-01T08:00:00+00:00"),
        ("2024-03-01T08:00:00+14:00", "2024-02-29T18:00:00+00:00"),
        ("2024-03-01T08:00:00.5-13:59", "2024-03-01T21:59:00.500+00:00"),
        ("2024-03-01T08:00:00", "2024-03-01T08:00:00+00:00"),
        ("9999-12-31T00:00:00Z", "9999-12-31T00:00:00+00:00"),
    ],
)
def test_instants_are_sorted_in_utc(sent, utc):
    assert clock.to_ms(datetime.fromisoformat(utc)) == reading.moment(sent).start


def test_the_first_real_date_of_a_kind_counts():
    document = {
        "resourceType": "Observation",
        "effectiveDateTime": "2023-02-30",
        "issued": "2024-01-02",
    }
    assert reading.when(document).text == "2024-01-02"
    del document["issued"]
    assert reading.Moment("2023-02-30") == reading.when(document)
    assert reading.when({"resourceType": "Observation"}) is None


def test_an_open_period_has_no_end():
    found = reading.period({"start": "2024-01-01"})
    assert found.start is not None
    assert found.end is None


def test_names_prefer_the_official_one_and_leave_nothing_out():
    names = [
        {"use": "old", "family": "Before"},
        {"use": "official", "prefix": ["Dr."], "given": ["Ada", "M."], "family": "Love"},
    ]
    assert reading.name_of(names) == "Dr. Ada M. Love"
    assert reading.name_of({"text": "Ada L.", "family": "x"}) == "Ada L."


def test_a_shared_vocabulary_speaks_for_a_concept():
    concept = {
        "coding": [
            {"system": "urn:local", "code": "GLU"},
            {"system": "http://loinc.org", "code": "2345-7", "display": "Glucose"},
        ]
    }
    assert reading.preferred(concept).code == "2345-7"
    assert reading.text_of(concept) == "Glucose"


def test_quantities_keep_digits_and_comparator():
    found = reading.quantity({"value": 5, "comparator": "<", "unit": "mg"})
    assert str(found) == "< 5 mg"
    assert reading.quantity({"unit": "mg"}) is None


def test_categories_are_bits_that_sql_and_documents_agree_on():
    document = {"category": [{"coding": [{"code": "laboratory"}]}, {"text": "Something"}]}
    bits = reading.categories(document)
    assert bits & kinds.category_mask(["http://x|laboratory"])
    assert bits & kinds.CATEGORIES["other"]
    assert not bits & kinds.category_mask(["vital-signs"])
    assert kinds.category_bit("LAB") == kinds.category_bit("laboratory")


def test_the_intake_finds_what_the_readers_find():
    body = (
        b'{ "resourceType" : "Observation", "id":"1", "status":"entered-in-error",'
        b'"category":[{"coding":[{"code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc'
        b'.org","code":"8480-6","display":"Systolic"}]},"subject":{"reference":"Patient/7"},'
        b'"effectiveDateTime":"2024-05","valueQuantity":{"value":0.0},'
        b'"modifierExtension":[{"url":"x"}],"performer":[{"reference":"#c"}]}'
    )
    taken = intake.Intake().take(body, KINDS["Observation"])
    assert (reading.moment("2024-05").start, reading.moment("2024-05").end) == (
        taken.time,
        taken.time_end,
    )
    assert taken.patients == ("7",)
    assert taken.value == 0.0
    assert kinds.CATEGORIES["vital-signs"] == taken.categories
    assert taken.flags == check.Note.IN_ERROR | check.Note.MODIFIED
    assert taken.codings[0].code == "8480-6"
    assert {"Systolic", "8480-6"} == set(taken.words)
    assert [(body.index(b"Patient/7"), 9)] == references.unpack(taken.splices)[1]
