"""What a person states about himself: from a form to FHIR and back, for every kind."""

import json
from datetime import UTC, datetime

import fhirkit
import pytest

from phr.errors import InvalidInput
from phr.fhir import document, statements
from phr.fhir.build import authored
from phr.fhir.statements import STATEMENTS, Shape

NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
SAID = {
    Shape.LINE: "Some words & <b>signs</b>",
    Shape.LONG: "A longer\nnote",
    Shape.DATE: "2019-03",
    Shape.NUMBER: "72.50",
    Shape.RESULT: "5.40",
}


HELD = {"content": [{"attachment": {"contentType": "application/pdf", "url": "Binary/b-1"}}]}


def filled(statement):
    """Answers to every question of a form."""
    return {
        field.name: field.options[-1].key if field.options else SAID[field.shape]
        for field in statement.fields
        if field.shape is not Shape.FILE
    }


def least(statement):
    """Answers to what must be answered only."""
    return {
        name: said
        for name, said in filled(statement).items()
        if next(field for field in statement.fields if field.name == name).required
    }


def built(slug, answers):
    return statements.build(STATEMENTS[slug], answers, id_="s-1", now=NOW)


every = pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)


@every
@pytest.mark.parametrize("answering", [filled, least])
def test_every_form_becomes_fhir_that_two_validators_accept(statement, answering):
    made = statements.build(statement, answering(statement), id_="s-1", now=NOW, held=HELD)
    body = authored(made)  # the R4B models of fhir.resources
    problems = [str(one) for one in fhirkit.validate(body) if one.severity == "error"]
    assert problems == []


@every
@pytest.mark.parametrize("answering", [filled, least])
def test_a_form_reads_back_what_was_typed(statement, answering):
    said = answering(statement)
    made = document.loads(
        authored(statements.build(statement, said, id_="s-1", now=NOW, held=HELD))
    )
    assert statements.of_type(made) is statement
    read = statements.answers(statement, made)
    assert {name: value for name, value in read.items() if value} == said


@every
def test_a_statement_taken_back_is_marked_valid_and_known_again(statement):
    made = statements.build(statement, filled(statement), id_="s-1", now=NOW, held=HELD)
    back = statements.taken_back(statement, made)
    assert statements.is_taken_back(back)
    assert not statements.is_taken_back(made)
    assert [one for one in fhirkit.validate(authored(back)) if one.severity == "error"] == []


def test_digits_stay_as_they_were_typed():
    made = authored(built("weight", {"value": "72.50", "unit": "kg", "when": "2026"}))
    assert b'"value":72.50' in made


def test_a_result_is_a_number_a_comparison_or_words():
    def value(said, unit="mg/L"):
        made = built("result", {"what": "CRP", "value": said, "unit": unit, "when": "2026"})
        return {k: v for k, v in json.loads(authored(made)).items() if k.startswith("value")}

    assert value("5.4") == {"valueQuantity": {"value": 5.4, "unit": "mg/L"}}
    assert value("< 0.1")["valueQuantity"]["comparator"] == "<"
    assert value("Negative", "") == {"valueString": "Negative"}


@pytest.mark.parametrize(
    ("slug", "answers", "words"),
    [
        ("allergy", {}, "What you react to"),
        ("weight", {"value": "72,5", "unit": "kg", "when": "2026"}, "with a point"),
        ("weight", {"value": "72.5", "unit": "stone", "when": "2026"}, "choose one"),
        ("problem", {"what": "Asthma", "status": "active", "began": "2019-13"}, "a date like"),
        ("problem", {"what": "Asthma", "status": "active", "began": "last year"}, "a date like"),
    ],
)
def test_what_cannot_be_taken_is_told_with_the_name_of_its_field(slug, answers, words):
    with pytest.raises(InvalidInput, match=words):
        built(slug, answers)


def test_what_a_hospital_sent_is_no_kind_of_statement():
    assert statements.of_type({"resourceType": "Claim"}) is None
    assert statements.of_type({}) is None


def test_a_blood_pressure_keeps_its_two_values_apart():
    made = built("blood-pressure", {"upper": "121.5", "lower": "80", "when": "2026"})
    values = [one["valueQuantity"]["value"] for one in json.loads(authored(made))["component"]]
    assert values == [121.5, 80]


# ------------------------------------------------------------------------- odd answers


def said(slug, **answers):
    return statements.build(
        STATEMENTS[slug], {**least(STATEMENTS[slug]), **answers}, id_="s-1", now=NOW, held=HELD
    )


@pytest.mark.parametrize(
    ("slug", "answers", "sentence"),
    [
        ("weight", {"when": "2031-01-01"}, "“Measured on” lies in the future."),
        ("weight", {"when": "2027"}, "lies in the future"),
        ("vaccine", {"when": "2026-12"}, "lies in the future"),
        ("weight", {"value": "72,5"}, "with a point: 72.5"),
        ("weight", {"value": "-72"}, "cannot be less than 0"),
        ("weight", {"value": "1e400"}, "needs a number"),
        ("weight", {"value": "٧٢"}, "needs a number"),
        ("result", {"value": "5,40"}, "number with a point"),
        ("result", {"value": "< 1,5"}, "number with a point"),
        ("result", {"value": "Negative", "unit": "mg"}, "“Unit” makes sense only with “Value”"),
        ("allergy", {"severity": "mild"}, "makes sense only with “What happens”"),
        ("allergy", {"what": "x" * 100_000}, "at most 2,000 characters; this has 100,000"),
        ("allergy", {"note": "🦋" * 20_001}, "at most 20,000 characters; this has 20,001"),
        ("medicine", {"since": "2020-05", "until": "2019"}, "“Until” is earlier than “Since”"),
        ("problem", {"began": "2020-05-02", "ended": "2020-05-01"}, "earlier than “Since”"),
        ("blood-pressure", {"upper": "80", "lower": "120"}, "Are they swapped?"),
        ("oxygen", {"value": "120.5"}, "cannot be more than 100 %"),
        ("medicine", {"since": "2026-12-01"}, "lies in the future"),
        ("problem", {"began": "02.05.2020"}, "needs a date like"),
        ("problem", {"began": "2021-02-29"}, "needs a date like"),
    ],
)
def test_an_odd_answer_is_refused_with_a_clear_sentence(slug, answers, sentence):
    with pytest.raises(InvalidInput) as refused:
        said(slug, **answers)
    assert sentence in refused.value.sentence


@pytest.mark.parametrize(
    ("slug", "answers"),
    [
        ("weight", {"when": "2026-11-22"}),
        ("weight", {"when": "2026"}),
        ("medicine", {"since": "2020-05-17", "until": "2020"}),
        ("result", {"value": "1:80, weak"}),
        ("result", {"value": "Positive 🦋"}),
        ("allergy", {"what": "Katze 🐈 عربي"}),
        ("allergy", {"note": "x" * 20_000}),
    ],
)
def test_an_unusual_answer_is_kept_as_it_was_typed(slug, answers):
    made = said(slug, **answers)
    read = statements.answers(STATEMENTS[slug], document.loads(authored(made)))
    assert {name: read[name] for name in answers} == answers
