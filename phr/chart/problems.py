"""Problems: the problem list, apart from the diagnoses that visits were given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
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
    ended_before,
    joined,
    mapping,
    mappings,
    moment_words,
    string,
    time_range_words,
    time_words,
)
from phr.chart.results import key_of
from phr.chart.statements import is_of_the_list
from phr.fhir.record import Record

NO_STATUS = "status not given"
ENCOUNTER_DIAGNOSIS = "encounter-diagnosis"
_ACTIVE = frozenset({"active", "recurrence", "relapse"})
_OVER = frozenset({"inactive", "remission", "resolved", "abated"})
_VERIFIED = frozenset(
    {"confirmed", "unconfirmed", "provisional", "differential", "refuted", "entered-in-error"}
)


class Standing(StrEnum):
    """What a source says about a problem today."""

    ACTIVE = "active"
    UNCLEAR = "unclear"  # no status, one in words of its own, or not confirmed
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Problem:
    """One Condition as listed."""

    record: Record
    name: str
    standing: Standing
    status: str  # in words, the source's own where it gave no code; "" when not said
    severity: str
    began: str  # words, "" when not said
    ended: str  # words
    recorded: str  # FHIR text
    by: str
    body_site: str
    notes: tuple[str, ...]
    marks: Marks
    evidence: Evidence = NO_EVIDENCE

    @property
    def over(self) -> bool:
        """Say whether the source lists it as inactive or resolved, or says when it ended."""
        return self.standing is Standing.OVER


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The same diagnosis given at visits: how often, first and last."""

    name: str
    problems: tuple[Problem, ...]  # newest first


@dataclass(frozen=True, slots=True)
class Problems:
    """The lists, kept apart."""

    active: tuple[Problem, ...]
    unclear: tuple[Problem, ...]
    over: tuple[Problem, ...]
    diagnoses: tuple[Diagnosis, ...]
    doubtful: tuple[Problem, ...]  # refuted, entered in error, "none known" taken back
    said: tuple[Problem, ...] = ()  # statements that there are none, or that nobody knows


def problems(records: Sequence[Record], how: How = PLAINLY) -> Problems:
    """Sort every problem, each told once, by list and status (R4 Condition, US Core categories)."""
    book = Book(records)
    listed: dict[Standing, list[Problem]] = {each: [] for each in Standing}
    doubtful: list[Problem] = []
    said: list[Problem] = []
    visits: dict[object, list[Problem]] = {}
    found = entries(records, ("Condition",), how)
    read = [_problem(record, book) for record in of_types(records, "Condition")]
    for one in gathered(read, found, lambda each: (_RANKS[each.standing],)):
        document = one.record.document
        if one.marks.mistaken or code_of(document.get("verificationStatus")) == "refuted":
            doubtful.append(one)
        elif is_of_the_list(document.get("code")):
            is_over = one.over or one.marks.withdrawn  # what is taken back states nothing now
            (doubtful if is_over else said).append(one)
        elif _only_diagnosis(document):
            visits.setdefault(key_of(document.get("code")) or one.name.casefold(), []).append(one)
        else:
            listed[one.standing].append(one)
    diagnoses = (Diagnosis(some[0].name, tuple(some)) for some in visits.values())
    return Problems(
        tuple(listed[Standing.ACTIVE]),
        tuple(listed[Standing.UNCLEAR]),
        tuple(listed[Standing.OVER]),
        tuple(diagnoses),
        tuple(doubtful),
        tuple(said),
    )


_RANKS = {Standing.ACTIVE: 2, Standing.UNCLEAR: 1, Standing.OVER: 0}


def _only_diagnosis(document: Mapping[str, Any]) -> bool:
    kinds = {code for _, code in codes(document.get("category"))}
    return ENCOUNTER_DIAGNOSIS in kinds and not kinds & {"problem-list-item", "health-concern"}


def _problem(record: Record, book: Book) -> Problem:
    document = record.document
    clinical, said = _status(document.get("clinicalStatus"), _ACTIVE | _OVER)
    verified, doubt = _status(document.get("verificationStatus"), _VERIFIED)
    doubt = "" if verified == "confirmed" else doubt
    ended = _edge(document, "abatement")
    found = marks(record)
    return Problem(
        record=record,
        name=concept_words(document.get("code")) or "Problem without a name",
        standing=_standing(
            clinical,
            ended=bool(ended),
            doubted=bool(doubt) or found.ahead or _is_past(record),
        ),
        status=joined(said, doubt),
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
        marks=found,
    )


def _status(value: Any, known: frozenset[str]) -> tuple[str, str]:
    """Return a status as one of the known codes ("" when it is none), and in words.

    A text without a code counts as a code only when it says just that ("Resolved").
    """
    told = [code.lower() for _, code in codes(value)] or [code_of(value)]
    said = concept_words(value)
    code = next((one for one in (*told, said.casefold()) if one in known), "")
    return code, code_as_words(code) or said


def _standing(clinical: str, *, ended: bool, doubted: bool) -> Standing:
    if clinical in _OVER or (not clinical and ended):
        return Standing.OVER
    return Standing.ACTIVE if clinical and not doubted else Standing.UNCLEAR


def _is_past(record: Record) -> bool:
    """Say whether it was over when it came; what is active too contradicts itself (R4 con-4)."""
    document = record.document
    period = mapping(document.get("abatementPeriod"))
    told = string(document.get("abatementDateTime")) or string(period.get("end"))
    came = record.received_at.isoformat()
    return ended_before(told, came) or document.get("abatementBoolean") is True


def _edge(document: Mapping[str, Any], name: str) -> str:
    """Return onset[x] or abatement[x] in words, whichever form it has."""
    period = mapping(document.get(f"{name}Period"))
    age = document.get(f"{name}Age")
    ages = time_range_words(document.get(f"{name}Range"))
    if document.get(f"{name}Boolean") is True:
        return "yes, no date given"
    return (
        moment_words(document.get(f"{name}DateTime"))
        or moment_words(period.get("start") if name == "onset" else period.get("end"))
        or (f"at age {time_words(age)}" if time_words(age) else "")
        or (f"at age {ages}" if ages[:1].isdigit() else ages)
        or clip(string(document.get(f"{name}String")), 80)
    )
