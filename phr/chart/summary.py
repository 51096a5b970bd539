"""The International Patient Summary: which records stand in which of its sections, and in words.

Sections, codes and rules are those of the IPS guide 2.0.0 (Composition-uv-ips). Not here: the
document Bundle (`phr.sharing.summary`), HTML (`phr.views.summary`), which records may be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from phr.chart.allergies import Allergies, allergies
from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How
from phr.chart.immunizations import immunizations
from phr.chart.marks import marks
from phr.chart.medications import LISTED, Medicine, Standing, medications
from phr.chart.plain import (
    clip,
    codes,
    concept_words,
    concepts_words,
    contacts,
    day_words,
    joined,
    mappings,
    moment_words,
    name_words,
    period_words,
    sentence_case,
    string,
)
from phr.chart.problems import NO_STATUS, Problem, Problems, problems
from phr.chart.problems import Standing as Clinical
from phr.chart.procedures import procedures
from phr.chart.results import Result, by_test
from phr.chart.statements import is_not_known
from phr.chart.titles import title, when_text
from phr.chart.vitals import vitals
from phr.fhir.record import UNSAID, Record, Selection

MOST_TESTS: Final = 40  # newest values; the rest is in the record itself
MOST_LINES: Final = 100  # of any other section
OF_A_VISIT: Final = "diagnosis of a visit"
AS_STATED: Final = "as stated"
DISAGREE: Final = "The sources do not agree: one lists a problem, another says that there are none."


class Gap(StrEnum):
    """Why a section holds no entry: HL7 list-empty-reason. Never "nilknown": that is a finding."""

    UNAVAILABLE = "unavailable"  # nobody has sent anything
    NOT_ASKED = "notasked"  # a source says that nobody asked
    WITHHELD = "withheld"  # the patient chose not to share all of this

    @property
    def words(self) -> str:
        """Return the gap as a sentence."""
        return _GAPS[self]


_GAPS: Final = {
    Gap.UNAVAILABLE: "No information. Nobody has sent any; that does not mean there are none.",
    Gap.NOT_ASKED: "No information. A source says that nobody was asked.",
    Gap.WITHHELD: "The patient chose what to share. Not listed does not mean absent.",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a section in words: a cell for each column of the section."""

    record: Record
    cells: tuple[str, ...]
    severe: bool = False
    evidence: Evidence = NO_EVIDENCE  # all that was joined into this line
    unclear: bool = False  # a problem that no source says plainly to be active
    beside: tuple[Record, ...] = ()  # told in the same line: diastolic pressure as its own record

    @property
    def details(self) -> str:
        """Return what stands behind the name, as one line."""
        return joined(*self.cells[1:], by=" · ")

    @property
    def doubtful(self) -> bool:
        """Say whether it may be about somebody else: then it is told, and is no entry."""
        return self.evidence.doubt is not None


@dataclass(frozen=True, slots=True)
class Heading:
    """What a section is: `code` is its LOINC code, `types` the FHIR types of its entries."""

    slug: str
    title: str
    code: str
    columns: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One section with its lines; a required one without lines says by `gap` why."""

    head: Heading
    lines: tuple[Line, ...]
    note: str = ""  # what is deliberately not listed
    gap: Gap | None = None

    @property
    def records(self) -> tuple[Record, ...]:
        """Return the records that are its entries, each once.

        What an old standard names otherwise (DSTU2 MedicationOrder) is told in the text only, and
        so is what may be about somebody else.
        """
        sound = (
            one for line in self.lines if not line.doubtful for one in (line.record, *line.beside)
        )
        return tuple({one.pk: one for one in sound if one.type in self.head.types}.values())


PROBLEMS: Final = Heading(
    "problems", "Problems", "11450-4", ("Problem", "Status", "Since", "Remarks"), ("Condition",)
)
ALLERGIES: Final = Heading(
    "allergies",
    "Allergies and intolerances",
    "48765-2",
    ("Allergy", "Reaction", "Severity and status", "Remarks"),
    ("AllergyIntolerance",),
)
MEDICINES: Final = Heading(
    "medications",
    "Medicines",
    "10160-0",
    ("Medicine", "Dose", "Listed as", "Dated"),
    ("MedicationStatement", "MedicationRequest"),
)
IMMUNIZATIONS: Final = Heading(
    "immunizations", "Immunizations", "11369-6", ("Vaccine", "Given", "Dose"), ("Immunization",)
)
RESULTS: Final = Heading(
    "results",
    "Results",
    "30954-2",
    ("Test", "Value", "Reference range", "Word", "Taken"),
    ("Observation",),
)
PROCEDURES: Final = Heading(
    "procedures", "Procedures", "47519-4", ("Procedure", "When", "Details"), ("Procedure",)
)
DEVICES: Final = Heading(
    "devices", "Medical devices", "46264-8", ("Device", "When", "Where"), ("DeviceUseStatement",)
)
PAST: Final = Heading(
    "past", "Past problems", "11348-0", ("Problem", "Status", "When"), ("Condition",)
)
VITALS: Final = Heading(
    "vitals", "Vital signs", "8716-3", ("Measurement", "Newest value", "Taken"), ("Observation",)
)
SOCIAL: Final = Heading(
    "social", "Social history", "29762-2", ("What", "Said", "When"), ("Observation",)
)
PREGNANCY: Final = Heading(
    "pregnancy", "Pregnancy", "10162-6", ("What", "Said", "When"), ("Observation",)
)
ALERTS: Final = Heading("alerts", "Alerts", "104605-1", ("Alert", "When"), ("Flag",))
DIRECTIVES: Final = Heading(
    "directives", "Advance directives", "42348-3", ("Directive", "Dated"), ("Consent",)
)
PLANS: Final = Heading("plans", "Plan of care", "18776-5", ("Plan", "When"), ("CarePlan",))

_CARE = ("Practitioner", "PractitionerRole", "Organization", "Medication", "Location", "Device")
SELECTIONS: Final = (
    Selection(types=("AllergyIntolerance",), limit=500),
    Selection(types=LISTED, limit=1000),
    Selection(types=("Condition",), limit=1000),
    Selection(types=("Immunization",), limit=500),
    Selection(types=("Procedure",), limit=300),
    Selection(types=("DeviceUseStatement",), limit=100),
    Selection(types=("Flag",), limit=100),
    Selection(types=("Consent",), limit=50),
    Selection(types=("CarePlan",), limit=50),
    Selection(types=("Observation",), categories=("laboratory", UNSAID), limit=300),
    Selection(types=("Observation",), categories=("vital-signs",), limit=200),
    Selection(types=("Observation",), categories=("social-history",), limit=200),
    Selection(types=_CARE, limit=2000),
    Selection(types=("Patient",), limit=20),  # to see whose record each source means
)


def summary(
    records: Sequence[Record],
    *,
    now: datetime,
    shared: bool = False,
    how: How = PLAINLY,
) -> tuple[Section, ...]:
    """Sort records into sections; required ones always stand there, others only when filled.

    `how` carries the patient's decisions, so that what was joined or set apart is so here too. In
    what is `shared` under a grant an empty required section always says "withheld", whatever
    the record holds, so that the word tells nothing about what was kept back.
    """
    listed = problems(records, how)
    found = allergies(records, how)
    needed = (_allergies(found), _medicines(records, now, how), _problems(listed))
    more = (
        _immunizations(records, how),
        _results(records, how),
        _procedures(records, how),
        _devices(records),
        _past(listed),
        _vitals(records, how),
        _social(records, how),
        _pregnancy(records, how),
        _alerts(records),
        _directives(records),
        _plans(records),
    )
    unasked = bool(found.no_information)
    required = (one if one.lines else _with_gap(one, unasked, shared) for one in needed)
    filled = (*required, *(one for one in more if one.lines))
    return tuple(_with_bounds(one, records) for one in filled)


def _with_gap(section: Section, unasked: bool, shared: bool) -> Section:
    gap = Gap.UNAVAILABLE
    if shared:
        gap = Gap.WITHHELD
    elif section.head is ALLERGIES and unasked:
        gap = Gap.NOT_ASKED
    return replace(section, gap=gap)


def _with_bounds(section: Section, records: Sequence[Record]) -> Section:
    """Say where only the newest records of a kind were looked at."""
    for one in SELECTIONS:
        looked = sum(record.type in one.types for record in records)
        whole = one.categories or not one.limit or looked < one.limit
        if not whole and not set(one.types).isdisjoint(section.head.types):
            told = f"Only the newest {one.limit:,} records were looked at."
            return replace(section, note=joined(section.note, told, by=" "))
    return section


def contacts_of(records: Sequence[Record]) -> tuple[str, ...]:
    """Return whom to call, as the sources say (R4 Patient.contact): "Ada Sample, wife: 555 1"."""
    found = [
        joined(
            joined(
                name_words(one.get("name")) or concept_words(one.get("organization")),
                joined(*concepts_words(one.get("relationship"))),
            ),
            joined(*(value for system, value in contacts(one.get("telecom")) if system != "url")),
            by=": ",
        )
        for record in of_types(records, "Patient")
        for one in mappings(record.document.get("contact"))
    ]
    return tuple(dict.fromkeys(line for line in found if line))


# ------------------------------------------------------------------ required


def _problems(found: Problems) -> Section:
    """List the problem list, then what only visits were given as diagnosis and nobody ended.

    Of what is unclear the status is told as the source gave it: left out, it would seem absent.
    """
    kept = (*found.active, *found.unclear)
    listed = [(one, joined(one.status or NO_STATUS, one.severity)) for one in kept]
    given = [(one, words) for one, words in _of_visits(found) if not one.over]
    said = [one for one in found.said if not is_not_known(one.record.document.get("code"))]
    lines = tuple(
        Line(
            one.record,
            (one.name, words, one.began, _said(one.marks.words)),
            evidence=one.evidence,
            unclear=one.standing is Clinical.UNCLEAR,
        )
        for one, words in (*listed, *given, *((one, AS_STATED) for one in said))
    )
    section = _section(PROBLEMS, lines)
    return (
        replace(section, note=joined(DISAGREE, section.note, by=" ")) if said and kept else section
    )


def _of_visits(found: Problems) -> list[tuple[Problem, str]]:
    """Return the newest record of each diagnosis, marked as what it is."""
    return [
        (newest, joined(newest.status, OF_A_VISIT))
        for each in found.diagnoses
        for newest in each.problems[:1]
    ]


def _allergies(found: Allergies) -> Section:
    lines = tuple(
        Line(
            one.record,
            (
                sentence_case(one.name),
                sentence_case(joined(*one.reactions)),
                joined(one.severity, one.status),
                _said(one.marks.words),
            ),
            one.severe,
            one.evidence,
        )
        for one in (*found.listed, *found.none_known)
    )
    note = ""
    if found.listed and found.none_known:
        note = "The sources do not agree: one lists an allergy, another says that none is known."
    return Section(ALLERGIES, lines, note)


def _medicines(records: Sequence[Record], now: datetime, how: How) -> Section:
    kept = (Standing.CURRENT, Standing.UNCLEAR)
    found = [one for one in medications(records, now, how) if one.standing in kept or _none(one)]
    found.sort(key=lambda one: _ORDER[one.standing])
    lines = tuple(
        Line(
            one.record,
            (
                one.name,
                joined(*one.doses, by="; ") or ("" if _none(one) else "no dose given"),
                _standing(one.standing, one.why),
                day_words(one.dated),
            ),
            evidence=one.evidence,
        )
        for one in found
    )
    note = "Past medicines are not part of this summary." if lines else ""
    return Section(MEDICINES, lines, note)


_ORDER: Final = {Standing.CURRENT: 0, Standing.UNCLEAR: 1, Standing.SAID: 2}


def _none(one: Medicine) -> bool:
    """Say whether it is the statement that there are no medicines."""
    document = one.record.document
    concept = document.get("medicationCodeableConcept") or document.get("medication")
    return one.standing is Standing.SAID and not is_not_known(concept)


def _standing(standing: Standing, why: str) -> str:
    if standing is Standing.CURRENT:
        return "current"
    if standing is Standing.SAID:
        return AS_STATED
    return f"unclear: {why}" if why else "unclear"


# ------------------------------------------------------------------ where there is something


def _immunizations(records: Sequence[Record], how: How) -> Section:
    lines = tuple(
        Line(
            one.record,
            (one.name, moment_words(one.when) or one.when, one.dose),
            evidence=one.evidence,
        )
        for one in immunizations(records, how)
        if one.counts
    )
    return _section(IMMUNIZATIONS, lines)


def _results(records: Sequence[Record], how: How) -> Section:
    laboratory = [one for one in records if not _in(one, "vital-signs", "social-history")]
    newest = [
        next((one for one in series.results if not (one.void or one.marks.ahead)), None)
        for series in by_test(laboratory, how)
    ]
    sound = [one for one in newest if one is not None and (one.value.words or one.parts)]
    sound = [one for one in sound if one.record.type == "Observation"]
    sound.sort(key=_when, reverse=True)
    left = len(sound) - MOST_TESTS
    note = f"The newest value of each test; {left} more tests are not listed." if left > 0 else ""
    lines = tuple(_result(one) for one in sound[:MOST_TESTS])
    return Section(RESULTS, lines, note)


_LONGEST: Final = 300  # characters of one value; all of it is in the record


def _result(one: Result) -> Line:
    value = joined(one.value.words, one.value.unit, by=" ") or joined(
        *(joined(part.name, part.value.words, part.value.unit, by=" ") for part in one.parts)
    )
    span = one.span.words if one.span else "none given"
    status = f"({one.status.casefold()})" if one.status else ""
    said = joined(clip(value, _LONGEST), status, by=" ")
    cells = (one.name, said, span, one.word.words, day_words(one.taken))
    return Line(one.record, cells, evidence=one.evidence)


def _when(one: Result) -> float:
    return one.record.when.timestamp() if one.record.when else float("-inf")


def _procedures(records: Sequence[Record], how: How) -> Section:
    lines = tuple(
        Line(
            one.record,
            (one.name, one.when, joined(one.body_site, one.outcome)),
            evidence=one.evidence,
        )
        for one in procedures(records, how)
        if one.counts
    )
    return _section(PROCEDURES, lines)


def _devices(records: Sequence[Record]) -> Section:
    book = Book(records)
    lines = tuple(
        Line(
            one,
            (
                book.name(one, one.document.get("device")) or "Device without a name",
                moment_words(when_text(one.document)),
                concept_words(one.document.get("bodySite")),
            ),
        )
        for one in _sound(records, "DeviceUseStatement")
    )
    return _section(DEVICES, lines)


def _past(found: Problems) -> Section:
    listed = [(one, one.status) for one in found.over]
    given = [(one, words) for one, words in _of_visits(found) if one.over]
    lines = tuple(
        Line(
            one.record,
            (one.name, words, joined(one.began, one.ended, by=" to ")),
            evidence=one.evidence,
        )
        for one, words in (*listed, *given)
    )
    return _section(PAST, lines)


def _vitals(records: Sequence[Record], how: How) -> Section:
    measured = [one for one in records if _in(one, "vital-signs")]
    lines = tuple(
        Line(
            first,
            (kind.name, joined(one.words, one.unit, by=" "), day_words(when)),
            evidence=one.first.evidence,
            beside=tuple(each.record for each in one.figures),
        )
        for kind in vitals(measured, how)
        if (one := kind.come[0])
        and (first := one.first.record)
        and not (one.first.marks.mistaken or one.first.marks.ahead)
        and one.words
        for when in (one.first.taken,)
    )
    return _section(VITALS, lines)


# Pregnancy status, expected date of delivery, outcomes (Observation-pregnancy-* of the guide).
_STATUS_AND_DATE = ("82810-3", "11778-8", "11779-6", "11780-4")
_OUTCOMES = ("11636-8", "11637-6", "11638-4", "11639-2", "11640-0", "11612-9", "11613-7")
_PREGNANCY = frozenset((*_STATUS_AND_DATE, *_OUTCOMES, "11614-5", "33065-4"))


def _social(records: Sequence[Record], how: How) -> Section:
    told = [one for one in records if _in(one, "social-history") and not _of_pregnancy(one)]
    return _newest_of_each(SOCIAL, told, how)


def _pregnancy(records: Sequence[Record], how: How) -> Section:
    told = [one for one in of_types(records, "Observation") if _of_pregnancy(one)]
    return _newest_of_each(PREGNANCY, told, how)


def _of_pregnancy(record: Record) -> bool:
    return any(code in _PREGNANCY for _, code in codes(record.document.get("code")))


def _newest_of_each(head: Heading, told: Sequence[Record], how: How) -> Section:
    newest = [series.latest for series in by_test(told, how)]
    lines = tuple(
        Line(
            one.record,
            (one.name, joined(one.value.words, one.value.unit, by=" "), day_words(when)),
            evidence=one.evidence,
        )
        for one in newest
        if not (one.marks.mistaken or one.marks.ahead) and one.value.words
        for when in (one.taken,)
    )
    return _section(head, lines)


def _alerts(records: Sequence[Record]) -> Section:
    lines = tuple(
        Line(one, (concept_words(one.document.get("code")) or title(one.document), _period(one)))
        for one in _sound(records, "Flag")
        if string(one.document.get("status")) == "active"
    )
    return _section(ALERTS, lines)


def _directives(records: Sequence[Record]) -> Section:
    """A Consent of scope "adr" or category "acd" is an advance directive (R4 §6.2)."""
    lines = tuple(
        Line(one, (joined(*concepts_words(one.document.get("category"))), _dated(one)))
        for one in _sound(records, "Consent")
        if any(
            code in ("adr", "acd")
            for concept in (one.document.get("scope"), *mappings(one.document.get("category")))
            for _, code in codes(concept)
        )
    )
    return _section(DIRECTIVES, lines)


def _plans(records: Sequence[Record]) -> Section:
    lines = tuple(
        Line(one, (title(one.document), _period(one)))
        for one in _sound(records, "CarePlan")
        if string(one.document.get("status")) == "active"
    )
    return _section(PLANS, lines)


# ------------------------------------------------------------------ small parts


def _section(head: Heading, lines: Sequence[Line]) -> Section:
    """Return a section, cut to its newest lines with a note that says so."""
    left = len(lines) - MOST_LINES
    note = f"{left} older ones are not listed." if left > 0 else ""
    return Section(head, tuple(lines[:MOST_LINES]), note)


def _sound(records: Sequence[Record], type_: str) -> list[Record]:
    return [one for one in of_types(records, type_) if not marks(one).mistaken]


def _in(record: Record, *categories: str) -> bool:
    found = {
        code for concept in mappings(record.document.get("category")) for _, code in codes(concept)
    }
    return not found.isdisjoint(categories)


def _period(record: Record) -> str:
    return period_words(record.document.get("period"))


def _dated(record: Record) -> str:
    return moment_words(record.document.get("dateTime"))


def _said(words: tuple[str, ...]) -> str:
    return joined(*words, by=". ")
