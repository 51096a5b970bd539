"""One record, readable: its fields as labelled rows, its marks, where it came from."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.book import Book
from phr.chart.documents import attachments, described
from phr.chart.fields import Field, fields
from phr.chart.marks import marks
from phr.chart.plain import joined, moment_words
from phr.chart.titles import kind_words, record_title, state_words, when_text
from phr.fhir.record import Record, Selection
from phr.views.frame import TRANSCRIBED, Context, Link, View, is_transcribed, minute


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the view of the first record; the others are what it points to."""
    record = records[0]
    document = record.document
    told = fields(document)
    book = Book(records[1:])
    found = marks(record)
    when = moment_words(when_text(document))
    return {
        "heading": record_title(record),
        "lead": joined(
            kind_words(record.type), state_words(document), when, context.origin(record)
        ),
        "rows": [_row(one, record, book, context) for one in told.rows],
        "left_out": told.left_out,
        "narrative": told.narrative,
        "marks": found.words,
        "struck": found.mistaken,
        "files": _files(record, context),
        "origin": _origin(record, context),
    }


def _row(
    one: Field, record: Record, book: Book, context: Context
) -> tuple[int, str, str, str | None]:
    """Return (depth, label, value, href); a reference reads as what it points to."""
    target = book.find(record, {"reference": one.target}) if one.target else None
    if target is None:
        return min(one.depth, 4), one.label, one.value, None
    words = record_title(target) if one.value == one.target else one.value
    return min(one.depth, 4), one.label, words, context.link(target)


def _files(record: Record, context: Context) -> list[tuple[str, Link | None]]:
    made = []
    for one in attachments(record.document):
        words = described(one) or f"File {one.place + 1}"
        href = context.attachment_link(record, one.place)
        made.append((words, Link(words, href) if href else None))
    return made


def _origin(record: Record, context: Context) -> list[tuple[str, str]]:
    made = [("Made here", TRANSCRIBED)] if is_transcribed(record, context) else []
    return [
        ("From", context.origin(record)),
        *made,
        ("Received", minute(record.received_at)),
        ("Known there as", f"{record.type}/{record.remote_id}"),
        ("Version here", str(record.version)),
        ("Size as received", f"{len(record.body):,} bytes"),
    ]


VIEW = View("record", "One record", Selection(limit=1), build, "record.html")
