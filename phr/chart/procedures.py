"""Procedures as recorded: what was done, when, by whom, where, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    clip,
    code_as_words,
    concept_words,
    concepts_words,
    joined,
    mapping,
    mappings,
    moment_words,
    period_words,
    string,
    time_words,
)
from phr.chart.statements import is_of_the_list
from phr.fhir.record import Record


@dataclass(frozen=True, slots=True)
class Procedure:
    """One Procedure. `done` is False when the source says it was not, or not yet, done."""

    record: Record
    name: str
    done: bool
    status: str
    when: str  # words
    reasons: tuple[str, ...]
    people: tuple[str, ...]
    place: str
    body_site: str
    outcome: str
    devices: tuple[str, ...]
    notes: tuple[str, ...]
    marks: Marks
    evidence: Evidence = NO_EVIDENCE

    @property
    def counts(self) -> bool:
        """Say whether it was done, on a day that had come."""
        return self.done and not (self.marks.mistaken or self.marks.ahead)


def procedures(records: Sequence[Record], how: How = PLAINLY) -> tuple[Procedure, ...]:
    """Read every Procedure, each told once, in the order given."""
    book = Book(records)
    found = entries(records, ("Procedure",), how)
    read = [_procedure(record, book) for record in of_types(records, "Procedure")]
    return tuple(gathered(read, found))


def _procedure(record: Record, book: Book) -> Procedure:
    document = record.document
    status = string(document.get("status"))
    people = (book.name(record, one.get("actor")) for one in mappings(document.get("performer")))
    pointed = (book.name(record, one) for one in mappings(document.get("reasonReference")))
    reasons = (*concepts_words(document.get("reasonCode")), *pointed)
    return Procedure(
        record=record,
        name=concept_words(document.get("code")) or "Procedure without a name",
        done=status == "completed" and not is_of_the_list(document.get("code")),
        status="" if status == "completed" else code_as_words(status) or "no status given",
        when=_when(document),
        reasons=tuple(dict.fromkeys(words for words in reasons if words)),
        people=tuple(dict.fromkeys(name for name in people if name)),
        place=book.name(record, document.get("location")),
        body_site=joined(*concepts_words(document.get("bodySite"))),
        outcome=concept_words(document.get("outcome")),
        devices=_devices(document),
        notes=tuple(
            clip(string(note.get("text")), 300)
            for note in mappings(document.get("note"))
            if string(note.get("text"))
        ),
        marks=marks(record),
    )


def _devices(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what was used: each kind, and the number (UDI) that tells one from the others."""
    kinds = concepts_words(document.get("usedCode"))
    told = (
        joined(string(one.get("display")), string(mapping(one.get("identifier")).get("value")))
        for one in mappings(document.get("usedReference"))
    )
    numbered = tuple(words for words in told if words)
    named = {words.partition(", ")[0] for words in numbered}
    return (*numbered, *(kind for kind in dict.fromkeys(kinds) if kind and kind not in named))


def _when(document: Mapping[str, Any]) -> str:
    age = time_words(document.get("performedAge"))
    return (
        moment_words(document.get("performedDateTime"))
        or period_words(document.get("performedPeriod"))
        or (f"at age {age}" if age else "")
        or clip(string(document.get("performedString")), 80)
    )
