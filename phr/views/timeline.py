"""The timeline by year. A hot path: lines are drawn here, the template only frames them.

A line depends on its record alone and may be kept; who keeps one: `phr.web.pages.timeline`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from phr.chart.plain import visible
from phr.chart.remarks import labelled
from phr.chart.timeline import Event, event
from phr.fhir.record import Record, Selection
from phr.views.frame import Context, Shown, View, framed, nothing, standing


class Line(NamedTuple):
    """One row of the timeline as HTML, and the year below which it stands ("" is undated)."""

    year: str
    html: str


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the years with their rows."""
    return _years(lines(records, context), context)


def show(drawn: Sequence[Line], context: Context) -> Shown:
    """Render the timeline of lines that were drawn before, newest first."""
    return framed(VIEW, _years(drawn, context))


def lines(records: Sequence[Record], context: Context) -> list[Line]:
    """Draw a line for each record: their texts escaped at once, a call for each is slow."""
    if not records:
        return []
    names = {key: context.origin_name(key) for key in context.origins}
    events = [event(record) for record in labelled(records, context.remarks)]
    texts: list[str] = []
    for one in events:
        origin = names.get(one.record.connection_id, "Source unknown")
        texts += (
            one.when or "no date",
            one.title,
            context.link(one.record) or "",
            f"{one.kind} · {origin}",
        )
    safe = _escaped(texts)
    return [
        Line(one.year, _line(*safe[4 * at : 4 * at + 4], said=_said(one, context)))
        for at, one in enumerate(events)
    ]


def _line(when: str, title: str, href: str, kind: str, *, said: str) -> str:
    named = f'<a class="go" href="{href}">{title}</a>' if href else title
    return (
        f'<li class="row"><small>{when}</small><div><h3>{named}</h3>'
        f"<small>{kind}</small>{said}</div></li>"
    )


def _said(one: Event, context: Context) -> str:
    """Return the record's standing marks, if it has any."""
    said = standing(one.record, one.marks, context)
    return "".join(f"<small>{line}</small>" for line in _escaped(said)) if said else ""


def _escaped(texts: Sequence[str]) -> list[str]:
    """Make texts visible and escape them together; a line break inside one becomes a space."""
    if not "".join(texts).isprintable():
        texts = [visible(text).replace("\n", " ") for text in texts]
    return str(escape("\n".join(texts))).split("\n") if texts else []


def _years(drawn: Sequence[Line], context: Context) -> Mapping[str, Any]:
    """Return what the template shows: years in the order of the lines, each with its rows."""
    found: dict[str, list[str]] = {}
    for year, some in groupby(drawn, lambda line: line.year):
        found.setdefault(year, []).extend(line.html for line in some)
    years = [
        (year or "No date given", f"y{year or '0'}", Markup("\n".join(some)))  # noqa: S704 (escaped above)
        for year, some in found.items()
    ]
    return {
        "heading": _heading([year for year in found if year]),
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


VIEW = View(
    "timeline",
    "Timeline",
    Selection(timeline=True, limit=50),
    build,
    "timeline.html",
)
