"""Insurance: cover first, then what was billed and paid, newest first."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.claims import STATEMENTS, Cover, Statement, covers, statements
from phr.chart.plain import counted, joined, sentence_case
from phr.fhir.record import Record, Selection
from phr.views.frame import (
    CAREGIVERS,
    Context,
    Mark,
    Row,
    Sheet,
    View,
    nothing,
    said_by,
    sheets,
    with_marks,
)


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from Coverage, Claim, ClaimResponse and ExplanationOfBenefit records."""
    insured, billed = covers(records), statements(records)
    nobody = nothing(context, ("Coverage", *STATEMENTS), "insurance")
    return sheets(
        context,
        _heading(len(insured), len(billed)),
        "Amounts as the source gave them; nothing is added up here." if billed else "",
        Sheet(
            "Cover",
            tuple(_cover(one, context) for one in insured),
            empty="" if insured or billed else nobody,
            types=("Coverage",),
        ),
        Sheet(
            "Billed and paid",
            tuple(_statement(one, context) for one in billed),
            ("newest first",),
            types=STATEMENTS,
        ),
    )


def _heading(insured: int, billed: int) -> str:
    if not insured and not billed:
        return "No insurance on record"
    cover = counted(insured, "insurance cover") if insured else "no insurance cover"
    bills = counted(billed, "bill or claim", "bills and claims") if billed else "no bills or claims"
    return sentence_case(f"{cover}, {bills}")


def _cover(one: Cover, context: Context) -> Row:
    return Row(
        title=one.name,
        href=context.link(one.record),
        mark=None if one.active else Mark("ended", "Not active"),
        details=with_marks(
            (joined(one.payer, one.number), one.holder), one.record, one.marks, context
        ),
        aside=said_by(context, one.record, one.period or "no period given"),
        struck=one.marks.mistaken,
    )


def _statement(one: Statement, context: Context) -> Row:
    more = f"and {one.more_items} more" if one.more_items else ""
    details = (
        joined(one.provider, f"insurer {one.insurer}" if one.insurer else ""),
        joined(*one.items, more, by="; "),
        f"For: {joined(*one.reasons)}" if one.reasons else "",
        joined(*(f"{what}: {words}" for what, words in one.amounts), by=" · "),
    )
    return Row(
        title=one.title,
        href=context.link(one.record),
        mark=Mark("none", sentence_case(one.status)) if one.status else None,
        details=with_marks(details, one.record, one.marks, context),
        aside=said_by(context, one.record, one.served or "no date given"),
        struck=one.marks.mistaken,
    )


VIEW = View(
    "insurance",
    "Insurance",
    Selection(types=("Coverage", *STATEMENTS), limit=500),
    build,
    also=(CAREGIVERS,),
)
