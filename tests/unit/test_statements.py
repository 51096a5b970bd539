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


def filled(statement):
    """Answers to every question of a form."""
    return {
        field.name: field.options[-1].key if field.options else SAID[field.shape]
        for field in statement.fields
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
    made = statements.build(statement, answering(statement), id_="s-1", now=NOW)
    body = authored(made)  # the R4B models of fhir.resources
    problems = [str(one) for one in fhirkit.validate(body) if one.severity == "error"]
    assert problems == []


@every
@pytest.mark.parametrize("answering", [filled, least])
def test_a_form_reads_back_what_was_typed(statement, answering):
    said = answering(statement)
    made = document.loads(authored(statements.build(statement, said, id_="s-1", now=NOW)))
    assert statements.of_type(made) is statement
    read = statements.answers(statement, made)
    assert {name: value for name, value in read.items() if value} == said


@every
def test_a_statement_taken_back_is_marked_valid_and_known_again(statement):
    made = statements.build(statement, filled(statement), id_="s-1", now=NOW)
    back = statements.taken_back(statement, made)
    assert statements.is_taken_back(back)
    assert not statements.is_taken_back(made)
    assert [one for one in fhirkit.validate(authored(back)) if one.severity == "error"] == []


def test_digits_stay_as_they_were_typed():
    made = authored(built("weight", {"value": "72.50", "unit": "kg", "when": "2026"}))
    assert b'"value":72.50' in made


def test_a_result_is_a_number_a_comparison_or_words():
    def value(said):
        made = built("result", {"what": "CRP", "value": said, "unit": "mg/L", "when": "2026"})
        return {k: v for k, v in json.loads(authored(made)).items() if k.startswith("value")}

    assert value("5.4") == {"valueQuantity": {"value": 5.4, "unit": "mg/L"}}
    assert value("< 0.1")["valueQuantity"]["comparator"] == "<"
    assert value("Negative") == {"valueString": "Negative"}


def test_severity_without_a_reaction_says_nothing():
    assert "reaction" not in built("allergy", {"what": "Latex", "severity": "severe"})


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
