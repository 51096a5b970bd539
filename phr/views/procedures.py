"""Procedures as recorded, newest first; what was not done stands apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.plain import counted, joined, sentence_case
from phr.chart.procedures import Procedure, procedures
from phr.fhir.record import Record, Selection
from phr.views.evidence import how, with_evidence
from phr.views.frame import (
    CAREGIVERS,
    Context,
    Mark,
    Row,
    Sheet,
    View,
    at_least,
    nothing,
    said_by,
    sheets,
    with_marks,
)


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from Procedure records."""
    found = procedures(records, how(context))
    done = [one for one in found if one.counts]
    rest = [one for one in found if not one.counts]
    count = counted(len(done), "procedure")
    empty = nothing(context, ("Procedure",), "procedures") if not found else ""
    return sheets(
        context,
        at_least(VIEW, records, f"{count} listed as done") if found else "No procedures yet",
        "",
        Sheet(
            "Done",
            tuple(_row(one, context) for one in done),
            ("newest first",),
            empty,
            types=("Procedure",),
        ),
        Sheet(
            "Not done, not yet, or unclear",
            tuple(_row(one, context) for one in rest),
            types=("Procedure",),
        ),
    )


def _row(one: Procedure, context: Context) -> Row:
    reasons = joined(*one.reasons)
    details = (
        joined(one.body_site, one.outcome),
        f"For: {reasons}" if reasons else "",
        f"Used: {joined(*one.devices)}" if one.devices else "",
        joined(*one.people),
        *one.notes,
    )
    row = Row(
        title=one.name,
        href=context.link(one.record),
        mark=Mark("none", sentence_case(one.status)) if one.status else None,
        details=with_marks(details, one.record, one.marks, context),
        aside=said_by(context, one.record, one.when or "no date given", one.place),
        struck=one.marks.mistaken,
    )
    return with_evidence(row, one.evidence, context)


VIEW = View(
    "procedures",
    "Procedures",
    Selection(types=("Procedure",), limit=500),
    build,
    also=(CAREGIVERS, Selection(types=("Location",), limit=200)),
)
