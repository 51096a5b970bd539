"""Problems: the problem list, apart from the diagnoses that visits were given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    clip,
    code_as_words,
    code_of,
    codes,
    concept_words,
    concepts_words,
    joined,
    mapping,
    mappings,
    moment_words,
    quantity_words,
    range_words,
    string,
)
from phr.chart.results import key_of
from phr.fhir.record import Record

ENCOUNTER_DIAGNOSIS = "encounter-diagnosis"
_OVER = frozenset({"inactive", "remission", "resolved", "abated"})
_SURE = frozenset({"confirmed", ""})


@dataclass(frozen=True, slots=True)
class Problem:
    """One Condition as listed."""

    record: Record
    name: str
    over: bool  # the source lists it as inactive, resolved or in remission
    status: str
    severity: str
    began: str  # words, "" when not said
    ended: str  # words
    recorded: str  # FHIR text
    by: str
    body_site: str
    notes: tuple[str, ...]
    marks: Marks
    evidence: Evidence = NO_EVIDENCE


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The same diagnosis given at visits: how often, first and last."""

    name: str
    problems: tuple[Problem, ...]  # newest first


@dataclass(frozen=True, slots=True)
class Problems:
    """The lists, kept apart."""

    active: tuple[Problem, ...]
    over: tuple[Problem, ...]
    diagnoses: tuple[Diagnosis, ...]
    doubtful: tuple[Problem, ...]  # refuted, or entered in error


def problems(records: Sequence[Record], how: How = PLAINLY) -> Problems:
    """Sort every problem, each told once, by list and status (R4 Condition, US Core categories)."""
    book = Book(records)
    active: list[Problem] = []
    over: list[Problem] = []
    doubtful: list[Problem] = []
    visits: dict[object, list[Problem]] = {}
    found = entries(records, ("Condition",), how)
    read = [_problem(record, book) for record in of_types(records, "Condition")]
    for one in gathered(read, found, lambda each: not each.over):
        document = one.record.document
        if one.marks.mistaken or code_of(document.get("verificationStatus")) == "refuted":
            doubtful.append(one)
        elif _only_diagnosis(document):
            visits.setdefault(key_of(document.get("code")) or one.name.casefold(), []).append(one)
        else:
            (over if one.over else active).append(one)
    diagnoses = (Diagnosis(some[0].name, tuple(some)) for some in visits.values())
    return Problems(tuple(active), tuple(over), tuple(diagnoses), tuple(doubtful))


def _only_diagnosis(document: Mapping[str, Any]) -> bool:
    kinds = {code for _, code in codes(document.get("category"))}
    return ENCOUNTER_DIAGNOSIS in kinds and not kinds & {"problem-list-item", "health-concern"}


def _problem(record: Record, book: Book) -> Problem:
    document = record.document
    clinical = code_of(document.get("clinicalStatus"))
    verification = code_of(document.get("verificationStatus"))
    ended = _edge(document, "abatement")
    doubt = "" if verification in _SURE else code_as_words(verification)
    return Problem(
        record=record,
        name=concept_words(document.get("code")) or "Problem without a name",
        over=clinical in _OVER or bool(not clinical and ended),
        status=joined(code_as_words(clinical), doubt),
        severity=concept_words(document.get("severity")),
        began=_edge(document, "onset"),
        ended=ended,
        recorded=string(document.get("recordedDate")),
        by=book.name(record, document.get("asserter"))
        or book.name(record, document.get("recorder")),
        body_site=joined(*concepts_words(document.get("bodySite"))),
        notes=tuple(
            clip(string(note.get("text")), 300)
            for note in mappings(document.get("note"))
            if string(note.get("text"))
        ),
        marks=marks(record),
    )


def _edge(document: Mapping[str, Any], name: str) -> str:
    """Return onset[x] or abatement[x] in words, whichever form it has."""
    period = mapping(document.get(f"{name}Period"))
    age = document.get(f"{name}Age")
    if document.get(f"{name}Boolean") is True:
        return "yes, no date given"
    return (
        moment_words(document.get(f"{name}DateTime"))
        or moment_words(period.get("start") if name == "onset" else period.get("end"))
        or (f"at age {quantity_words(age)}" if quantity_words(age) else "")
        or range_words(document.get(f"{name}Range"))
        or clip(string(document.get(f"{name}String")), 80)
    )
