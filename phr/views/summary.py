"""The patient summary as HTML for people, and as the narrative that travels in the document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from phr.chart.plain import joined, visible
from phr.chart.summary import SELECTIONS, Line, Section, summary
from phr.fhir.record import Record
from phr.views.evidence import conflict_words, how
from phr.views.frame import Context, View

SOMEBODY_ELSE = "This may be about somebody else: its source names another person."
LEAD = "What every doctor asks first, in the order of the International Patient Summary."


def build(
    records: Sequence[Record], context: Context, *, shared: bool = False
) -> Mapping[str, Any]:
    """Build the readable page; `shared` as in `phr.chart.summary.summary`."""
    sections = summary(records, now=context.now, shared=shared, how=how(context))
    drawn = [(one, [row(line, context) for line in one.lines]) for one in sections]
    return {"heading": "Summary", "lead": LEAD, "sections": drawn}


@dataclass(frozen=True, slots=True)
class LineRow:
    """One entry of the summary, ready to show."""

    title: str
    href: str | None
    severe: bool
    details: str
    remarks: tuple[str, ...]
    origin: str


def row(line: Line, context: Context) -> LineRow:
    """Return an entry with what its sources disagree about and where all of them are."""
    return LineRow(
        title=line.cells[0],
        href=context.link(line.record),
        severe=line.severe,
        details=line.details,
        remarks=remarks(line, context),
        origin=origins(line, context),
    )


def remarks(line: Line, context: Context) -> tuple[str, ...]:
    """Return what must be said beside an entry: whose it may be, where its sources disagree."""
    doubt = (SOMEBODY_ELSE,) if line.doubtful else ()
    return (*doubt, *(conflict_words(one, context) for one in line.evidence.conflicts))


def origins(line: Line, context: Context) -> str:
    """Return every place that a line comes from."""
    sources = line.evidence.sources or (line.record.connection_id,)
    return joined(*dict.fromkeys(context.origin_name(one) for one in sources))


def narrative(section: Section, context: Context) -> Markup:
    """Return one section as XHTML for `Composition.section.text` (R4 §2.4.0): no class, no link."""
    if section.gap is not None:
        return _paragraph(section.gap.words)
    columns = (*section.head.columns, "To note", "From")
    lines = [
        (*line.cells, joined(*remarks(line, context), by=" "), origins(line, context))
        for line in section.lines
    ]
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
