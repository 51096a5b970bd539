"""What every record view is made of: View, Context, the rows and sheets, and the rendering.

Not here: fetching (each page and door has its own way) and decisions about what may be seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from phr.chart.decision import Decision
from phr.chart.marks import Marks, says_transcribed
from phr.chart.plain import MONTHS, joined, visible
from phr.chart.remarks import NO_REMARKS, Remarks, labelled
from phr.chart.titles import list_words
from phr.fhir.measures import Points
from phr.fhir.record import Origin, Record, Selection
from phr.views.compiled import Compiled

CAREGIVERS = Selection(types=("Practitioner", "Organization", "PractitionerRole"), limit=500)


MOST_ROWS = 60  # of one sheet
TRANSCRIBED = "Transcribed from a document"


def with_demo(name: str, *, demo: bool) -> str:
    """Return the name of a source, marked when it is a demo and does not say so itself."""
    return f"{name} (demo)" if demo and "demo" not in name.lower() else name


def nowhere(*_: object) -> str | None:
    """Link to nothing: what a reader may not open stays plain text."""
    return None


@dataclass(frozen=True)
class Context:
    """What a view needs beside the records. Link functions return an address or None."""

    origins: Mapping[int, Origin]
    now: datetime
    link: Callable[[Record], str | None] = nowhere
    test_link: Callable[[str, str], str | None] = nowhere  # (system, code) of a series
    attachment_link: Callable[[Record, int], str | None] = nowhere  # (record, place)
    type_link: Callable[[str], str | None] = nowhere  # all records of a FHIR type
    # FHIR type -> who was asked for it and listed none, in sentences
    answered: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)  # FHIR type -> records in the vault
    decisions: tuple[Decision, ...] = ()  # the patient's word on what is the same
    grouped: Mapping[int, int] | None = None  # record pk -> entry pk, where the store is at hand
    remarks: Remarks = NO_REMARKS  # the patient's own names and notes
    points: Points | None = None  # numbers of one test beyond the records, for its drawing

    def origin(self, record: Record) -> str:
        """Return the name of where a record comes from, marked when it is a demo."""
        return self.origin_name(record.connection_id)

    def origin_name(self, connection_id: int) -> str:
        """Return the name of one connection, marked when it is a demo."""
        origin = self.origins.get(connection_id)
        if origin is None:
            return "Source unknown"
        return with_demo(origin.name, demo=origin.demo)

    def as_of(self, record: Record) -> str:
        """Return the day on which the source last offered this record."""
        origin = self.origins.get(record.connection_id)
        at = origin.as_of if origin and origin.as_of and not record.withdrawn else None
        return day(at or record.received_at)

    def listed(self, record: Record, how: str) -> str:
        """Return "listed as current by X on D"."""
        return f"{how} by {self.origin(record)} on {self.as_of(record)}"


@dataclass(frozen=True)
class View:
    """One way of looking at records. `also` fetches what references point to."""

    slug: str
    title: str
    selection: Selection
    build: Callable[[Sequence[Record], Context], Mapping[str, Any]]
    template: str = "sheets.html"
    also: tuple[Selection, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A rendered view: the heading is the answer, the lead one sentence, the body HTML."""

    heading: str
    lead: str
    body: Markup
    is_empty: bool = False  # nothing but a sentence that says so


@dataclass(frozen=True, slots=True)
class Mark:
    """A state in a word with its mark (a class of homeport.css), and who says so."""

    kind: str
    words: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A small link inside a row."""

    words: str
    href: str


@dataclass(frozen=True, slots=True)
class Row:
    """One fact: what, its details, who says so and when. Lines are plain text."""

    title: str
    href: str | None = None
    mark: Mark | None = None
    details: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    struck: bool = False
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Sheet:
    """A heading in the margin and its rows on paper; `empty` is said when there are none."""

    title: str
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    empty: str = ""
    types: tuple[str, ...] = ()  # whose full lists hold what is not shown here

    @property
    def shown(self) -> tuple[Row, ...]:
        """Return the rows that fit on a page that a phone loads at once."""
        return self.rows[:MOST_ROWS]

    @property
    def hidden(self) -> int:
        """Return how many rows are only in the full list."""
        return max(0, len(self.rows) - MOST_ROWS)


_ENVIRONMENT = Environment(
    loader=PackageLoader("phr.views"),
    autoescape=True,
    finalize=visible,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    auto_reload=False,
    bytecode_cache=Compiled(Path(__file__).parent / "templates"),
)


def show(view: View, records: Sequence[Record], context: Context) -> Shown:
    """Build and render a view; any FHIR-shaped JSON gives HTML."""
    return framed(view, view.build(labelled(records, context.remarks), context))


def framed(view: View, built: Mapping[str, Any]) -> Shown:
    """Render what a view built."""
    body = _ENVIRONMENT.get_template(view.template).render(slug=view.slug, **built)
    html = Markup(body)  # noqa: S704 (autoescaped)
    return Shown(built["heading"], built.get("lead", ""), html, _is_empty(built))


def _is_empty(built: Mapping[str, Any]) -> bool:
    """Tell a view that has nothing to show: it says why, or none of its sheets has a row."""
    made = built.get("sheets", ())
    return bool(built.get("empty")) or (bool(made) and not any(sheet.rows for sheet, _ in made))


def render(view: View, records: Sequence[Record], context: Context) -> Markup:
    """Return only the body of a view."""
    return show(view, records, context).body


def day(at: datetime) -> str:
    """Return the day of an instant (UTC): "21 Nov 2026"."""
    return f"{at.day} {MONTHS[at.month]} {at.year}"


def minute(at: datetime) -> str:
    """Return an instant to the minute (UTC): "21 Nov 2026, 03:12 UTC"."""
    return f"{day(at)}, {at.hour:02}:{at.minute:02} UTC"


def said_by(context: Context, record: Record, *more: str) -> tuple[str, ...]:
    """Return the quiet lines beside a fact: where it is from, then what else is known."""
    return (context.origin(record), *(line for line in more if line))


def with_marks(
    details: Sequence[str], record: Record, found: Marks, context: Context
) -> tuple[str, ...]:
    """Return details followed by what must be said of a record."""
    return (*(line for line in details if line), *standing(record, found, context))


def standing(record: Record, found: Marks, context: Context) -> tuple[str, ...]:
    """Return a record's marks in words, and whether it was transcribed here."""
    return (*found.words, TRANSCRIBED) if is_transcribed(record, context) else found.words


def is_transcribed(record: Record, context: Context) -> bool:
    """Say whether a record was made of a document here: whoever sends can write that mark."""
    origin = context.origins.get(record.connection_id)
    return origin is not None and origin.transcribes and says_transcribed(record)


def sheets(context: Context, heading: str, lead: str, *made: Sheet) -> Mapping[str, Any]:
    """Return what "sheets.html" shows; a sheet without rows and without a sentence is left out."""
    kept = [sheet for sheet in made if sheet.rows or sheet.empty]
    rest = [
        [(list_words(one), href) for one in sheet.types if (href := context.type_link(one))]
        if sheet.hidden
        else []
        for sheet in kept
    ]
    return {"heading": heading, "lead": lead, "sheets": list(zip(kept, rest, strict=True))}


def is_full(view: View, records: Sequence[Record]) -> bool:
    """Say whether the main selection reached its limit: then there may be more than was counted."""
    limit = view.selection.limit
    main = sum(record.type in view.selection.types for record in records)
    return limit is not None and main >= limit


def at_least(view: View, records: Sequence[Record], words: str) -> str:
    """Return a counting heading, marked where the count may be too low."""
    counts = words[:1].isdigit()
    return f"At least {words}" if counts and is_full(view, records) else words


def nothing(context: Context, types: Sequence[str], what: str) -> str:
    """Return the honest empty sentence: not asked, or asked and none listed."""
    answers = [line for one in types for line in context.answered.get(one, ())]
    if answers:
        return joined(f"No {what} listed.", *dict.fromkeys(answers), by=" ")
    return f"No {what} in this record. Nobody has sent any; that does not mean there are none."
