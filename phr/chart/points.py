"""Results made of points: what a drawing of many years needs, without a body.

The same functions read them as read whole records (`phr.chart.results`): a value, its range and its
word come out alike, and which of several hospitals' copies speaks is decided alike. What only a
table needs (laboratory, notes) is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from phr import clock
from phr.chart.book import Book, of_types
from phr.chart.evidence import How, entries, gathered
from phr.chart.marks import marks
from phr.chart.plain import quantity_digits
from phr.chart.results import Result, Value, result, speaks, word_of
from phr.chart.whose import Whose, whose
from phr.fhir.labels import Label
from phr.fhir.measures import Measure, Points, standing
from phr.fhir.record import Record

_NO_LABELS, _PRIVATE = Label(0), Label.PRIVATE


def beyond(points: Points, records: Sequence[Record], how: How) -> list[Result]:
    """Return the results of the points that are not among the records, nor of an entry of theirs.

    Newest first, and of one instant the one received last, as a list of records has them.
    """
    person = whose(records, how)
    grouped = dict(how.grouped or {})
    here = of_types(records, "Observation")
    told = {one.pk for one in here} | {grouped.get(one.pk, one.pk) for one in here}
    read, home = _read(points, person, told)
    together: dict[int, list[Result]] = {}
    for one in read:
        together.setdefault(home[one.record.pk], []).append(one)
    if len(together) < len(read):  # some values came from several places
        several = [one for some in together.values() if len(some) > 1 for one in some]
        also = [one for one in records if one.type == "Patient"]
        known = replace(how, grouped=home)
        entered = entries([*(one.record for one in several), *also], ("Observation",), known)
        speaking = {id(one.record): one for one in gathered(several, entered, speaks)}
        alone = [one for some in together.values() if len(some) == 1 for one in some]
        read = [*alone, *speaking.values()]
    return sorted(read, key=_newest, reverse=True)


def _newest(one: Result) -> tuple[datetime, int]:
    when = one.record.when
    assert when is not None  # noqa: S101  a point has a date
    return when, one.record.pk


def _read(points: Points, person: Whose, told: set[int]) -> tuple[list[Result], dict[int, int]]:
    """Return the results of what is not told yet, and the entry of each of their records."""
    bodies = {one.pk: one for one in points.bodies}
    made: list[Result] = []
    home: dict[int, int] = {}
    book = Book(())
    patterns = {number: _pattern(one, person) for number, one in points.measures.items()}
    for (pk, time, value, measure, packed), digits in zip(points.rows, points.digits, strict=True):
        place = points.entries.get(pk, pk)
        if pk in told or place in told:
            continue
        if measure is None:
            if pk not in bodies:  # something else than an Observation has the code
                continue
            made.append(result(bodies[pk], book, person))
        else:
            record = _record(pk, time, packed, points.measures[measure].document)
            made.append(_with(patterns[measure], record, digits, value))
        home[pk] = place
    return made, home


def _pattern(measure: Measure, person: Whose) -> Result:
    """Return what all results of one measure have in common; its number is none of theirs."""
    quantity = {**measure.quantity, "value": 0}
    document = {**measure.document, "valueQuantity": quantity}
    return result(_record(0, 0, 0, document), Book(()), person)


def _with(pattern: Result, record: Record, digits: str, figure: float) -> Result:
    """Return a result of a pattern with its own number."""
    like = pattern.value
    words = quantity_digits({"value": digits, "comparator": like.comparator})
    value = Value(words, like.unit, figure, like.exact, like.ucum, like.comparator)
    return replace(
        pattern,
        record=record,
        value=value,
        word=word_of(record.document, value, pattern.span),
        marks=marks(record),
    )


def _record(pk: int, time: int, packed: int, document: Mapping[str, Any]) -> Record:
    """Return a Record without a body: its document is the measure's, so it has no number."""
    connection, withdrawn, private = standing(packed)
    when = clock.from_ms(time)
    fields = {
        "pk": pk,
        "local_id": "",
        "connection_id": connection,
        "type": "Observation",
        "remote_id": "",
        "version": 1,
        "received_at": when,
        "when": when,
        "labels": _PRIVATE if private else _NO_LABELS,
        "withdrawn": withdrawn,
        "body": b"",
        "splices": b"",
        "_document": document,
    }
    made = object.__new__(Record)  # a frozen dataclass sets its fields one by one: 5 x as long
    object.__setattr__(made, "__dict__", fields)
    return made
