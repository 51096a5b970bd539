"""What an app asks for by scopes: what can be given of it, as rules and in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phr.errors import InvalidInput
from phr.sharing import asking
from phr.sharing.asking import Context
from phr.sharing.provision import Rule

LAB = "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
VITALS = "http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
PROBLEMS = "http://terminology.hl7.org/CodeSystem/condition-category|problem-list-item"


@pytest.mark.parametrize(
    "text",
    [
        "patient/Observation.",
        "patient/Observation.sr",
        "patient/Observation.rr",
        "patient/Observation.rx",
        "patient/Observation",
        "patient/Observation.Read",
        "patient/.rs",
        "patient/Spaceship.rs",
        "patient/*.rs?category=" + LAB,  # no parameter that all types have
        "patient/Observation.rs?category:not=" + LAB,
        "patient/Observation.rs?subject.name=Ada",
        "patient/Observation.rs?_filter=code",
        "patient/Observation.rs?code=http://loinc.org|4548-4",
        "patient/Observation.rs?",
        "patient/Observation.rs?category",
        "patient/AllergyIntolerance.rs?category=food",
        "patient/Observation.rs?category=" + LAB + ",vital-signs",
        "patient/Observation.rs?category=laboratory,vital-signs,x|your%20step%20count",
        "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|",
        "patient/Observation.rs?category=your-step-count",
        "patient/DocumentReference.rs?type=x%0AUntil:%20never",
        "patient/Observation.rs\npatient/Condition.rs",
        "patient/Obsérvation.rs",
        "patient/Observation.rs " * 250,
    ],
)
def test_scope_that_could_not_be_enforced_refuses_the_request(text):
    with pytest.raises(InvalidInput):
        asking.read(text)


def test_plain_scopes_are_kept_and_those_that_mean_nothing_here_are_left_out():
    read = asking.read("openid fhirUser profile email offline_access launch/patient online")

    assert read.plain == {"openid", "fhirUser", "offline_access", "launch/patient"}
    assert read.lines == ()


def test_categories_become_the_categories_of_a_rule():
    read = asking.read(f"patient/Observation.rs?category={LAB} patient/Condition.rs")

    assert read.rules == (Rule(("Observation",), ("laboratory",)), Rule(("Condition",)))


def test_what_asks_to_write_is_given_for_reading_and_says_so():
    asked = asking.read("patient/*.* patient/Condition.cruds patient/Observation.write user/*.rs")

    given_ = asking.grantable(asked, (Context.PATIENT,))

    assert str(given_) == "patient/*.read patient/Condition.rs"


def test_line_that_only_searches_and_lines_of_people_and_places_cover_nothing_by_themselves():
    read = asking.read("patient/Condition.s patient/Practitioner.rs patient/Patient.rs")

    assert read.rules == ()


def test_refresh_may_ask_for_less_and_never_for_more():
    given_ = asking.read(f"openid patient/Observation.rs patient/Condition.rs?category={PROBLEMS}")
    less = asking.read(f"patient/Observation.r patient/Observation.rs?category={LAB}")

    assert less.within(given_)
    for more in (
        "patient/Condition.rs",
        "patient/Observation.rs offline_access",
        "user/Observation.rs",
        "patient/*.rs",
        "patient/Observation.cruds",
    ):
        assert not asking.read(more).within(given_), more


def test_patient_may_leave_single_lines_out():
    asked = asking.read("openid patient/Observation.rs patient/Condition.rs")

    assert str(asked.only(["patient/Condition.rs"])) == "openid patient/Condition.rs"


def test_lines_are_named_in_words_that_a_patient_reads():
    read = asking.read(
        f"patient/*.rs patient/AllergyIntolerance.rs patient/Observation.rs?category={LAB}"
    )

    assert [line.words for line in read.lines] == [
        "Everything in the record",
        "Allergies",
        "Results and measurements: only laboratory",
    ]


LINES = st.builds(
    lambda type_, letters, category: (
        f"patient/{type_}.{letters}"
        + (f"?category={category}" if category and type_ == "Observation" else "")
    ),
    st.sampled_from(["Observation", "Condition", "DocumentReference", "Immunization", "*"]),
    st.sampled_from(["rs", "r", "s", "cruds", "read"]),
    st.sampled_from(["", LAB, VITALS]),
).filter(lambda text: not ("read" in text and "?" in text))


@given(st.lists(LINES, max_size=4))
def test_scopes_written_out_are_read_back_the_same(lines):
    read = asking.read(" ".join(lines))

    assert asking.read(str(read)) == read
    assert read.within(read)
    assert asking.grantable(read, tuple(Context)).within(read)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    try:
        read = asking.read(text)
    except InvalidInput:
        return
    assert asking.read(str(read)) == read
