"""Insurance: who covers what, what was billed, who paid. Amounts with the source's own digits.

Claim, ClaimResponse and ExplanationOfBenefit say much the same; each is read as one statement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from phr.chart.book import Book, of_types
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    code_as_words,
    codes,
    concept_words,
    digits,
    joined,
    mapping,
    mappings,
    moment_words,
    period_words,
    sentence_case,
    string,
)
from phr.fhir.record import Record

STATEMENTS: Final = ("ExplanationOfBenefit", "Claim", "ClaimResponse")
_ITEMS: Final = 5  # of one statement in a list; the record's own page has them all


@dataclass(frozen=True, slots=True)
class Cover:
    """One insurance cover."""

    record: Record
    name: str
    payer: str
    number: str
    period: str
    holder: str  # how the person stands to the policy holder
    active: bool
    marks: Marks


@dataclass(frozen=True, slots=True)
class Statement:
    """What was billed for, and who pays. `amounts` are (what, "120.00 USD")."""

    record: Record
    title: str
    served: str
    provider: str
    insurer: str
    status: str
    items: tuple[str, ...]
    more_items: int
    reasons: tuple[str, ...]
    amounts: tuple[tuple[str, str], ...]
    marks: Marks


def covers(records: Sequence[Record]) -> tuple[Cover, ...]:
    """Read every Coverage in the order given (FHIR R4 §13.1)."""
    book = Book(records)
    return tuple(_cover(record, book) for record in of_types(records, "Coverage"))


def statements(records: Sequence[Record]) -> tuple[Statement, ...]:
    """Read every claim and statement of benefits in the order given (FHIR R4 §13.9, §13.10)."""
    book = Book(records)
    return tuple(_statement(record, book) for record in of_types(records, *STATEMENTS))


def money_words(value: Any) -> str:
    """Return a Money (R4 §2.24.0.5) as "120.00 USD"; "" where there is no amount."""
    money = mapping(value)
    currency = string(money.get("currency")) or string(money.get("code"))
    amount = digits(money.get("value"))
    return joined(amount, currency, by=" ") if amount else ""


def _cover(record: Record, book: Book) -> Cover:
    document = record.document
    classes = [string(one.get("name")) for one in mappings(document.get("class"))]
    payers = (*mappings(document.get("payor")), *mappings(document.get("insurer")))
    number = string(document.get("subscriberId")) or _identifier(document)
    relation = concept_words(document.get("relationship"))
    return Cover(
        record=record,
        name=joined(*dict.fromkeys(name for name in classes if name))
        or concept_words(document.get("type"))
        or "Insurance without a name",
        payer=joined(*dict.fromkeys(filter(None, (book.name(record, one) for one in payers)))),
        number=f"number {number}" if number else "",
        period=period_words(document.get("period")),
        holder="" if relation.casefold() in {"self", ""} else f"as {relation.casefold()}",
        active=string(document.get("status")) == "active",
        marks=marks(record),
    )


def _identifier(document: Mapping[str, Any]) -> str:
    found = (string(one.get("value")) for one in mappings(document.get("identifier")))
    return next(filter(None, found), "")


def _statement(record: Record, book: Book) -> Statement:
    document = record.document
    items = [words for one in mappings(document.get("item")) if (words := _item(one))]
    status = string(document.get("status"))
    outcome = string(document.get("outcome"))
    kind = joined(concept_words(document.get("type")), concept_words(document.get("subType")))
    return Statement(
        record=record,
        title=sentence_case(kind) or "Statement without a kind",
        served=period_words(document.get("billablePeriod")) or _first_served(document),
        provider=book.name(record, document.get("provider")),
        insurer=book.name(record, document.get("insurer")),
        status=joined(
            "" if status == "active" else code_as_words(status),
            "" if outcome in {"", "complete"} else code_as_words(outcome),
        ),
        items=tuple(dict.fromkeys(items))[:_ITEMS],
        more_items=max(0, len(dict.fromkeys(items)) - _ITEMS),
        reasons=_reasons(record, book),
        amounts=_amounts(document),
        marks=marks(record),
    )


def _first_served(document: Mapping[str, Any]) -> str:
    for item in mappings(document.get("item")):
        words = moment_words(item.get("servicedDate")) or period_words(item.get("servicedPeriod"))
        if words:
            return words
    return ""


def _item(item: Mapping[str, Any]) -> str:
    return concept_words(item.get("productOrService")) or concept_words(item.get("service"))


def _reasons(record: Record, book: Book) -> tuple[str, ...]:
    found = (
        concept_words(one.get("diagnosisCodeableConcept"))
        or book.name(record, one.get("diagnosisReference"))
        for one in mappings(record.document.get("diagnosis"))
    )
    return tuple(dict.fromkeys(words for words in found if words))


# HL7 adjudication codes and those of the Blue Button guide, in the words of a bill.
_TOTALS: Final = {
    "submitted": "Billed",
    "eligible": "Allowed by the plan",
    "allowed": "Allowed by the plan",
    "benefit": "Plan pays",
    "paidtoprovider": "Plan paid the provider",
    "paidtopatient": "Plan paid you",
    "paidbypatient": "You paid",
    "paidbypatientcash": "You paid in cash",
    "paidbypatientother": "You paid otherwise",
    "paidbypatienthealthaccount": "Paid from your health account",
    "priorpayerpaid": "Another insurer paid",
    "memberliability": "You may owe",
    "copay": "Your copay",
    "coinsurance": "Your share of the cost",
    "deductible": "Your deductible",
    "noncovered": "Not covered",
    "discount": "Discount",
    "drugcost": "Cost of the drug",
    "tax": "Tax",
}


def _total_words(category: Any) -> str:
    """Return what a total is: in plain words where its code is known, else as the source says."""
    known = next((_TOTALS[code] for _, code in codes(category) if code in _TOTALS), "")
    return known or sentence_case(concept_words(category)) or "Total"


def _amounts(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the totals that the source gave, then what was paid; nothing is added up."""
    totals = document.get("total")
    given = [
        (_total_words(one.get("category")), money_words(one.get("amount")))
        for one in mappings(totals)
        if "amount" in one
    ]
    if isinstance(totals, dict) and not given:  # a Claim has one plain total
        given = [("Billed", money_words(totals))]
    payment = mapping(document.get("payment"))
    when = moment_words(payment.get("date"))
    paid = money_words(payment.get("amount"))
    if paid:
        given.append((f"Paid on {when}" if when else "Paid", paid))
    return tuple((what, words) for what, words in given if words)
