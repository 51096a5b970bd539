"""The patient summary as HTML for people, and as the narrative that travels in the document."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from phr.chart.plain import visible
from phr.chart.summary import SELECTIONS, Section, summary
from phr.fhir.record import Record
from phr.views.frame import Context, View

LEAD = "What every doctor asks first, in the order of the International Patient Summary."


def build(
    records: Sequence[Record], context: Context, *, shared: bool = False
) -> Mapping[str, Any]:
    """Build the readable page; `shared` as in `phr.chart.summary.summary`."""
    sections = summary(records, now=context.now, shared=shared)
    return {"heading": "Summary", "lead": LEAD, "sections": sections, "context": context}


def narrative(section: Section, context: Context) -> Markup:
    """Return one section as XHTML for `Composition.section.text` (R4 §2.4.0): no class, no link."""
    if section.gap is not None:
        return _paragraph(section.gap.words)
    columns = (*section.head.columns, "From")
    lines = [(*line.cells, context.origin(line.record)) for line in section.lines]
    filled = [place for place in range(len(columns)) if any(line[place] for line in lines)]
    head = _row("th", [columns[place] for place in filled])
    rows = (_row("td", [line[place] for place in filled]) for line in lines)
    table = Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(
        head, Markup().join(rows)
    )
    return table + (_paragraph(section.note) if section.note else Markup())


def _row(tag: str, cells: Sequence[str]) -> Markup:
    shape = Markup(f"<{tag}>{{}}</{tag}>")  # noqa: S704 - the tag is one of ours
    return Markup("<tr>{}</tr>").format(Markup().join(shape.format(visible(one)) for one in cells))


def _paragraph(words: str) -> Markup:
    return Markup("<p>{}</p>").format(visible(words))


VIEW = View(
    "summary", "Summary", SELECTIONS[0], build, template="summary.html", also=SELECTIONS[1:]
)
