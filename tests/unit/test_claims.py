"""Insurance in words: cover, what was billed, what was paid; amounts with their own digits."""

import json
from datetime import UTC, datetime

import pytest

from phr.chart.claims import covers, money_words, statements
from phr.fhir import document
from phr.views import VIEWS, Context, show
from tests.corpus import corpus
from tests.fixtures_records import Digits, as_records, concept

NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONTEXT = Context(origins={}, now=NOW)


def bill(**more):
    return {
        "resourceType": "ExplanationOfBenefit",
        "status": "active",
        "outcome": "complete",
        "type": concept("Institutional"),
        "billablePeriod": {"start": "2019-01-01", "end": "2019-10-31"},
        "provider": {"display": "North Quay"},
        "insurer": {"display": "Harbour Mutual"},
        "item": [{"productOrService": concept(f"Service {number}")} for number in range(7)],
        "total": [
            {
                "category": concept("submitted"),
                "amount": {"value": Digits("2650.10"), "currency": "USD"},
            },
        ],
        "payment": {"date": "2019-11-02", "amount": {"value": Digits("120.00"), "currency": "USD"}},
        **more,
    }


def test_amounts_keep_the_digits_and_the_currency_of_the_source():
    (one,) = statements(as_records(bill()))
    assert one.amounts == (("Submitted", "2650.10 USD"), ("Paid on 2 Nov 2019", "120.00 USD"))


def test_what_does_not_fit_in_a_row_is_counted():
    (one,) = statements(as_records(bill()))
    assert (len(one.items), one.more_items) == (5, 2)


def test_a_claim_with_one_plain_total_says_what_was_billed():
    claim = {
        "resourceType": "Claim",
        "status": "cancelled",
        "total": {"value": Digits("80.5"), "currency": "EUR"},
    }
    (one,) = statements(as_records(claim))
    assert one.amounts == (("Billed", "80.5 EUR"),)
    assert one.status == "cancelled"


def test_an_ended_cover_says_that_it_is_not_active():
    cover = {"resourceType": "Coverage", "status": "cancelled", "type": concept("Health plan")}
    body = str(show(VIEWS["insurance"], as_records(cover), CONTEXT).body)
    assert "Not active" in body


def test_without_insurance_the_page_says_that_nobody_sent_any():
    shown = show(VIEWS["insurance"], [], CONTEXT)
    assert shown.heading == "No insurance on record"
    assert "does not mean there are none" in shown.body


@pytest.mark.parametrize("odd", [None, 5, "x", [], {"value": True}, {"value": "12"}])
def test_what_is_no_amount_is_no_words(odd):
    assert money_words(odd) == ""


@pytest.mark.corpus
def test_every_number_of_the_published_insurance_examples_is_shown_as_it_was_written():
    raw = (corpus() / "fhir/uscore-reference/carin_bundle_patient_888.json").read_bytes()
    records = as_records(*(entry["resource"] for entry in document.loads(raw)["entry"]))
    body = str(show(VIEWS["insurance"], records, CONTEXT).body)
    assert len(covers(records)) == 1
    assert len(statements(records)) == 5
    for entry in json.loads(raw, parse_float=str, parse_int=str)["entry"]:
        for total in entry["resource"].get("total", ()):
            assert total["amount"]["value"] in body


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("submitted", "Billed"),
        ("benefit", "Plan pays"),
        ("memberliability", "You may owe"),
        ("paidbypatient", "You paid"),
        ("priorpayerpaid", "Another insurer paid"),
    ],
)
def test_a_total_is_told_in_the_words_of_a_bill(code, words):
    system = "http://terminology.hl7.org/CodeSystem/adjudication"
    amount = {"value": Digits("12.30"), "currency": "USD"}
    total = [{"category": concept(code=code, system=system), "amount": amount}]
    (one,) = statements(as_records(bill(total=total, payment={})))
    assert one.amounts == ((words, "12.30 USD"),)


def test_a_total_of_an_unknown_kind_keeps_the_words_of_its_source():
    amount = {"value": Digits("3.00"), "currency": "USD"}
    total = [{"category": concept("handling fee", "own-1"), "amount": amount}]
    (one,) = statements(as_records(bill(total=total, payment={})))
    assert one.amounts == (("Handling fee", "3.00 USD"),)
