"""Visits: when, why, with whom, where."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from phr.chart.plain import counted, joined, sentence_case
from phr.chart.visits import Visit, visits
from phr.fhir.record import Record, Selection
from phr.views.evidence import how, with_evidence
from phr.views.frame import (
    CAREGIVERS,
    MOST_ROWS,
    Context,
    Mark,
    Row,
    Sheet,
    View,
    is_full,
    nothing,
    said_by,
    sheets,
    with_marks,
)


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from Encounter and Appointment records, one sheet a year."""
    found = visits(records, how(context))
    years = [
        Sheet(year or "No date given", tuple(_row(one, context) for one in some))
        for year, some in groupby(found, _year)
    ]
    held = [one for one in found if not (one.marks.mistaken or one.status in _NOT_HELD)]
    others = len(found) - len(held)
    count = joined(
        counted(len(held), "visit") if held else "",
        f"{others} planned, called off or mistaken" if others else "",
    )
    empty = Sheet("Visits", empty=nothing(context, ("Encounter",), "visits"))
    return sheets(
        context,
        (f"The newest {count}" if is_full(VIEW, records) else count) if found else "No visits yet",
        "Future appointments are often not part of what a hospital's interface offers.",
        *(years or [empty]),
    )


_NOT_HELD = frozenset(
    ("planned", "proposed", "pending", "booked", "waitlist", "cancelled", "noshow", "no show")
)


def _year(one: Visit) -> str:
    return str(one.record.when.year) if one.record.when else ""


def _row(one: Visit, context: Context) -> Row:
    reasons = joined(*one.reasons)
    details = (
        f"For: {reasons}" if reasons else "",
        joined(*one.people),
        f"Left to: {one.left_to}" if one.left_to else "",
    )
    row = Row(
        title=one.name,
        href=context.link(one.record),
        mark=Mark("none", sentence_case(one.status)) if one.status else None,
        details=with_marks((one.kind, *details), one.record, one.marks, context),
        aside=said_by(context, one.record, one.when or "no date given", one.place),
        struck=one.marks.mistaken,
    )
    return with_evidence(row, one.evidence, context)


VIEW = View(
    "visits",
    "Visits",
    Selection(types=("Encounter", "Appointment"), limit=MOST_ROWS),
    build,
    also=(CAREGIVERS, Selection(types=("Location",), limit=200)),
)
