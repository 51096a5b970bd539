"""The timeline by year. A hot path: strings are made here, the template only joins them."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.marks import NO_MARKS
from phr.chart.timeline import Event, timeline
from phr.fhir.record import Record, Selection
from phr.views.frame import Context, View, nothing


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the years with their rows."""
    names = {key: context.origin_name(key) for key in context.origins}
    years = [
        (
            year.name or "No date given",
            f"y{year.name or '0'}",
            [_row(one, context, names) for one in year.events],
        )
        for year in timeline(records)
    ]
    return {
        "heading": _heading([year for year, _, _ in years if year.isdigit()]),
        "lead": "",
        "years": years,
        "empty": "" if years else nothing(context, ("Encounter",), "events"),
    }


def _heading(years: Sequence[str]) -> str:
    """Return the span of what is on this page."""
    if not years:
        return "What happened"
    newest, oldest = years[0], years[-1]
    return f"What happened in {newest}" if newest == oldest else f"From {oldest} to {newest}"


def _row(one: Event, context: Context, names: Mapping[int, str]) -> tuple[object, ...]:
    """Return (when, title, href, kind and origin, marks)."""
    record = one.record
    return (
        one.when or "no date",
        one.title,
        context.link(record),
        f"{one.kind} · {names.get(record.connection_id, 'Source unknown')}",
        () if one.marks is NO_MARKS else one.marks.words,
    )


VIEW = View(
    "timeline",
    "Timeline",
    Selection(timeline=True, limit=50),
    build,
    "timeline.html",
)
