"""What a visit brought: results, notes, diagnoses, medicines and the rest that names it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from phr import clock
from phr.chart.book import Book, of_types
from phr.chart.plain import clip, joined, mapping, mappings, moment_words
from phr.chart.results import component_sentence, result
from phr.chart.titles import record_title, when_text
from phr.fhir import reading
from phr.fhir.record import Record, Selection
from phr.views.frame import Context, Mark, Row, Sheet, View, sheets, standing

_SHEETS: Final = (
    ("Diagnoses of this visit", ("Condition",)),
    ("Results of this visit", ("Observation",)),
    ("Reports and notes", ("DiagnosticReport", "DocumentReference", "ImagingStudy")),
    ("Medicines", ("MedicationRequest", "MedicationStatement", "MedicationAdministration")),
    ("Done at this visit", ("Procedure", "Immunization")),
)
TYPES: Final = tuple(type_ for _, types in _SHEETS for type_ in types)
_BEFORE, _AFTER = timedelta(days=1), timedelta(days=60)  # a report may come weeks later
MOST: Final = 400  # records looked through


def selection(visit: Record) -> Selection:
    """Return where the records that may name a visit lie: of its hospital, around its time."""
    if visit.when is None:
        return Selection(types=TYPES, connection_id=visit.connection_id, limit=MOST)
    moment = reading.when(visit.document)
    ended = clock.from_ms(moment.end) if moment and moment.end is not None else visit.when
    return Selection(
        types=TYPES,
        connection_id=visit.connection_id,
        since=_moved(visit.when, -_BEFORE),
        until=_moved(max(visit.when, ended), _AFTER),
        limit=MOST,
    )


def _moved(at: datetime, by: timedelta) -> datetime:
    """Return an instant moved; at the end of the calendar it stays."""
    try:
        return at + by
    except OverflowError:
        return at


def of_visit(visit: Record, records: Sequence[Record]) -> list[Record]:
    """Return the records that name this visit as theirs (R4 `encounter`, or its older names)."""
    book = Book([visit])
    return [one for one in records if any(book.find(one, each) for each in _named(one))]


def _named(record: Record) -> list[Mapping[str, Any]]:
    document = record.document
    context = document.get("context")  # DocumentReference: context.encounter; STU3: a reference
    return [
        *mappings(document.get("encounter")),
        *mappings(mapping(context).get("encounter")),
        *mappings(context),
    ]


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the sheets of what a visit brought; each record is linked."""
    book = Book(records)
    made = (
        Sheet(title, tuple(_row(one, book, context) for one in of_types(records, *types)))
        for title, types in _SHEETS
    )
    return sheets(context, "What this visit brought", "", *made)


def _row(record: Record, book: Book, context: Context) -> Row:
    if record.type != "Observation":
        when = moment_words(when_text(record.document).partition("T")[0])
        return Row(record_title(record), context.link(record), aside=(when,) if when else ())
    one = result(record, book)
    amount = joined(clip(one.value.words, 200), one.value.unit, by=" ") or component_sentence(one)
    span = f"range given: {one.span.words}" if one.span else ""
    return Row(
        title=joined(one.name, amount, by=": "),
        href=context.link(record),
        mark=Mark(one.word.mark, one.word.words, one.word.said) if one.word.flagged else None,
        details=tuple(line for line in (span, *standing(record, one.marks, context)) if line),
        struck=one.marks.mistaken,
    )


VIEW = View("visit", "What this visit brought", Selection(types=TYPES, limit=MOST), build)
