"""The timeline by year. A hot path: rows are drawn here, the template only frames them."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from phr.chart.marks import NO_MARKS
from phr.chart.plain import visible
from phr.chart.timeline import Event, timeline
from phr.fhir.record import Record, Selection
from phr.views.frame import Context, View, nothing

Row = tuple[str, str, str | None, str, tuple[str, ...]]


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
        "drawn": _drawn,
        "empty": "" if years else nothing(context, ("Encounter",), "events"),
    }


def _heading(years: Sequence[str]) -> str:
    """Return the span of what is on this page."""
    if not years:
        return "What happened"
    newest, oldest = years[0], years[-1]
    return f"What happened in {newest}" if newest == oldest else f"From {oldest} to {newest}"


def _row(one: Event, context: Context, names: Mapping[int, str]) -> Row:
    """Return (when, title, href, kind and origin, marks)."""
    record = one.record
    return (
        one.when or "no date",
        one.title,
        context.link(record),
        f"{one.kind} · {names.get(record.connection_id, 'Source unknown')}",
        () if one.marks is NO_MARKS else one.marks.words,
    )


def _drawn(rows: Sequence[Row]) -> Markup:
    """Return rows as HTML: their texts escaped at once, as a call for each was half the time."""
    texts: list[str] = []
    for when, title, href, kind, _ in rows:
        texts += (when, title, href or "", kind)
    safe = _escaped(texts)
    lines = [_line(*safe[4 * at : 4 * at + 4], marks=row[4]) for at, row in enumerate(rows)]
    return Markup("\n".join(lines))  # noqa: S704 (escaped above)


def _line(when: str, title: str, href: str, kind: str, *, marks: Sequence[str]) -> str:
    named = f'<a class="go" href="{href}">{title}</a>' if href else title
    said = "".join(f"<small>{line}</small>" for line in _escaped(marks)) if marks else ""
    return (
        f'<li class="row"><small>{when}</small><div><h3>{named}</h3>'
        f"<small>{kind}</small>{said}</div></li>"
    )


def _escaped(texts: Sequence[str]) -> list[str]:
    """Make texts visible and escape them together; a line break inside one becomes a space."""
    if not "".join(texts).isprintable():
        texts = [visible(text).replace("\n", " ") for text in texts]
    return str(escape("\n".join(texts))).split("\n") if texts else []


VIEW = View(
    "timeline",
    "Timeline",
    Selection(timeline=True, limit=50),
    build,
    "timeline.html",
)
