"""Documents: type, date, author and the files they carry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phr.chart.documents import TYPES, Attachment, Paper, described, documents
from phr.chart.marks import marks
from phr.chart.plain import counted, joined, moment_words, sentence_case
from phr.chart.titles import record_title, when_text
from phr.fhir.record import Record, Selection
from phr.views.evidence import how, with_evidence
from phr.views.frame import (
    CAREGIVERS,
    Context,
    Link,
    Mark,
    Row,
    Sheet,
    Shown,
    View,
    at_least,
    framed,
    nothing,
    said_by,
    sheets,
    with_marks,
)


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from documents and reports with files."""
    found = documents(records, how(context))
    return sheets(
        context,
        at_least(VIEW, records, counted(len(found), "document")) if found else "No documents yet",
        "Files from hospitals open in a closed frame: nothing in them can run or reach out.",
        Sheet(
            "Letters, notes and reports",
            tuple(_row(one, context) for one in found),
            ("newest first",),
            "" if found else nothing(context, ("DocumentReference",), "documents"),
            types=TYPES,
        ),
    )


def _row(one: Paper, context: Context) -> Row:
    links = tuple(
        Link(_words(one, file), href)
        for file in one.attachments[:8]
        if (href := context.attachment_link(one.record, file.place))
    )
    told = "" if one.attachments else "No file came with it"
    row = Row(
        title=one.name,
        href=context.link(one.record),
        mark=Mark("none", sentence_case(one.status)) if one.status else None,
        details=with_marks(
            (one.category, joined(*one.authors), told), one.record, one.marks, context
        ),
        aside=said_by(context, one.record, moment_words(one.date) or "no date given"),
        struck=one.marks.mistaken,
        links=links,
    )
    return with_evidence(row, one.evidence, context)


def _words(one: Paper, file: Attachment) -> str:
    """Name a file by its type; its title only where that says more than the document's name."""
    told = described(replace(file, title="") if file.title == one.name else file)
    which = f"Open file {file.place + 1}" if len(one.attachments) > 1 else "Open"
    return f"{which} ({told})" if told else which


@dataclass(frozen=True, slots=True)
class Hit:
    """A document by whose words it was found: the file's place and title, where it says so."""

    record: Record
    place: int
    title: str
    excerpt: str


def found(hits: Sequence[Hit], context: Context) -> Shown:
    """Return the documents in whose files something was found, each with the place."""
    rows = tuple(_hit(one, context) for one in hits)
    sheet = Sheet("In documents", rows, (counted(len(rows), "document"), "newest first"))
    heading = f"{counted(len(rows), 'document')} with these words"
    return framed(FOUND, sheets(context, heading, "", sheet))


def _hit(one: Hit, context: Context) -> Row:
    name = record_title(one.record)
    named = "" if one.title.casefold() == name.casefold() else one.title
    return Row(
        title=f"In {name}",
        href=context.attachment_link(one.record, one.place),
        details=with_marks((one.excerpt, named), one.record, marks(one.record), context),
        aside=said_by(
            context,
            one.record,
            moment_words(when_text(one.record.document)) or "no date given",
        ),
    )


VIEW = View("documents", "Documents", Selection(types=TYPES, limit=300), build, also=(CAREGIVERS,))
FOUND = View("in-documents", "In documents", Selection(types=TYPES), build)
