"""All records: every kind with its count, and the list of one kind. Nothing kept is unreachable."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.marks import marks
from phr.chart.plain import counted, joined, moment_words
from phr.chart.titles import kind_words, list_words, record_title, state_words, when_text
from phr.fhir.record import Record, Selection
from phr.views.frame import MOST_ROWS, Context, Row, Sheet, View, said_by, sheets, with_marks


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the list of kinds from the counts, or from the records where no counts are known."""
    counts = dict(context.counts)
    if not counts:
        for record in records:
            counts[record.type] = counts.get(record.type, 0) + 1
    rows = tuple(
        Row(
            title=list_words(kind),
            href=context.type_link(kind),
            details=(kind,),
            aside=(f"{count:,}",),
        )
        for kind, count in sorted(counts.items(), key=lambda item: list_words(item[0]))
    )
    return sheets(
        context,
        f"{counted(sum(counts.values()), 'record')} of {counted(len(counts), 'kind')}"
        if counts
        else "Nothing is kept yet",
        "Every record that was received, also those that no other page shows.",
        Sheet("By kind", rows, empty="Connect a hospital or bring a file to begin."),
    )


def build_kind(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the list of the records at hand, whatever their kind."""
    rows = tuple(row(record, context) for record in records)
    kinds = {list_words(record.type) for record in records}
    title = next(iter(kinds)) if len(kinds) == 1 else "Records"
    return sheets(
        context, title, "", Sheet(title, rows, ("newest first",), "No record of this kind.")
    )


def row(record: Record, context: Context) -> Row:
    """Return any record as a row."""
    found = marks(record)
    return Row(
        title=record_title(record),
        href=context.link(record),
        details=with_marks(
            (
                joined(kind_words(record.type), state_words(record.document)),
                *context.remarks.words(record),
            ),
            record,
            found,
            context,
        ),
        aside=said_by(context, record, moment_words(when_text(record.document)) or "no date given"),
        struck=found.mistaken,
    )


def build_hits(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the hits of a search, by kind; kinds in the order of their newest hit."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(list_words(record.type), []).append(record)
    made = (
        Sheet(kind, tuple(row(record, context) for record in some), (counted(len(some), "hit"),))
        for kind, some in kinds.items()
    )
    empty = Sheet(
        "Nothing found", empty="No record has all of these words. Try fewer or shorter ones."
    )
    heading = f"{counted(len(records), 'record')} found" if records else "Nothing found"
    return sheets(context, heading, "", *(tuple(made) or (empty,)))


VIEW = View("other", "All records", Selection(limit=0), build)
KIND = View("kind", "Records", Selection(limit=MOST_ROWS), build_kind)
HITS = View("hits", "Search", Selection(limit=MOST_ROWS), build_hits)
