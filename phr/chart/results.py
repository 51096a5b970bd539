"""Laboratory and other measured results: values, words, ranges, reports and series of one test.

Values keep the source's digits. A word comes from the source's interpretation code (HL7 v3
ObservationInterpretation); without one, only plain arithmetic against the range that was sent.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

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
    day_words,
    joined,
    listing,
    mapping,
    mappings,
    moment_words,
    number,
    period_words,
    quantity_digits,
    range_words,
    ratio_words,
    string,
    unit_words,
)
from phr.chart.titles import when_text
from phr.chart.units import canonical, converted, is_same, together
from phr.chart.whose import NOBODY, Whose, fits, whose
from phr.fhir.record import Record

LOINC = "http://loinc.org"


@dataclass(frozen=True, slots=True)
class Value:
    """A result's value in words. `figure` is only for drawing and comparing; None: not a number."""

    words: str  # "5.40", "< 0.1", "1 : 128", "Positive"
    unit: str = ""  # as the source writes it
    figure: float | None = None
    exact: bool = False  # a plain number without comparator
    ucum: str = ""  # the unit as UCUM spells it, where that is known: what is compared
    comparator: str = ""  # "<", "<=", ">", ">=" before the number, where it is not exact


@dataclass(frozen=True, slots=True)
class Range:
    """The range that the source sent with a value. `words` may be all there is."""

    words: str
    low: float | None = None
    high: float | None = None
    low_words: str = ""
    high_words: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """What a trend draws for a value that came in another unit: worked out here, so marked.

    `words` are the digits in the unit of the trend; the source's own stay in the Result.
    """

    words: str
    figure: float
    span: Range | None


@dataclass(frozen=True, slots=True)
class Word:
    """A result in a word: `mark` is high, low, flag, ok or none."""

    mark: str
    words: str
    said: str  # who says so
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One Observation, or one component of it, as a person reads it."""

    record: Record
    name: str
    key: tuple[str, str] | None  # (system, code) by which its series is found
    value: Value
    word: Word
    span: Range | None
    taken: str  # FHIR text
    lab: str
    status: str
    notes: tuple[str, ...]
    marks: Marks
    parts: tuple["Result", ...] = ()
    earlier: tuple["Result", ...] = ()  # same test and unit, newest first
    evidence: Evidence = NO_EVIDENCE
    converted: Converted | None = None  # only where the value was converted to its trend's unit

    @property
    def figure(self) -> float | None:
        """Return where a trend puts the value: in the trend's unit."""
        return self.converted.figure if self.converted else self.value.figure

    @property
    def range(self) -> Range | None:
        """Return the range in the trend's unit."""
        return self.converted.span if self.converted else self.span

    @property
    def flagged(self) -> bool:
        """Say whether a source flagged this result or one of its parts; not what is void."""
        return not self.void and (self.word.flagged or any(part.flagged for part in self.parts))

    @property
    def void(self) -> bool:
        """Say whether its source took it back: cancelled, or entered in error."""
        return string(self.record.document.get("status")) in ("cancelled", "entered-in-error")

    @property
    def outside(self) -> bool:
        """Say whether it is flagged, or lies outside the range that was sent with it."""
        marked = self.word.mark in _OUTSIDE or any(part.outside for part in self.parts)
        return marked and not self.void


@dataclass(frozen=True, slots=True)
class Group:
    """Results that belong together: one DiagnosticReport, or one day of one lab."""

    title: str
    report: Record | None
    taken: str
    issued: str
    lab: str
    status: str
    conclusion: str
    results: tuple[Result, ...]
    missing: int  # results that the report names and that are not among the records at hand
    attachments: int
    marks: Marks
    record: Record  # says where the group comes from


@dataclass(frozen=True, slots=True)
class Test:
    """All results of one test, newest first, as far as they can be told in one unit.

    `unit` is the newest value's. Values in a unit with a known factor to it carry `converted`.
    """

    key: tuple[str, str] | None
    name: str
    unit: str
    results: tuple[Result, ...]

    @property
    def latest(self) -> Result:
        """Return the newest value; one of a day that had not come only where there is no other."""
        return next((one for one in self.results if not one.marks.ahead), self.results[0])


# ------------------------------------------------------------------------------- words

_HIGH, _LOW = "high", "low"
_OUTSIDE = frozenset({_HIGH, _LOW, "flag"})
# code -> (mark, words, flagged). Only codes whose definition says high, low or out of the ordinary
# count as a flag.
INTERPRETATIONS: dict[str, tuple[str, str, bool]] = {
    "H": (_HIGH, "High", True),
    "HH": (_HIGH, "High, marked critical", True),
    "H*": (_HIGH, "High, marked critical", True),
    "HU": (_HIGH, "Much higher", True),
    "H>": (_HIGH, "Much higher", True),
    "HX": (_HIGH, "Above the threshold", True),
    "L": (_LOW, "Low", True),
    "LL": (_LOW, "Low, marked critical", True),
    "L*": (_LOW, "Low, marked critical", True),
    "LU": (_LOW, "Much lower", True),
    "L<": (_LOW, "Much lower", True),
    "LX": (_LOW, "Below the threshold", True),
    "A": ("flag", "Flagged", True),
    "AA": ("flag", "Flagged, marked critical", True),
    "A*": ("flag", "Flagged, marked critical", True),
    "EX": ("flag", "Outside the threshold", True),
    "N": ("ok", "Normal", False),
    "<": ("none", "Below what the test can measure", False),
    ">": ("none", "Above what the test can measure", False),
    "POS": ("none", "Positive", False),
    "NEG": ("none", "Negative", False),
    "IND": ("none", "Indeterminate", False),
    "E": ("none", "Equivocal", False),
    "DET": ("none", "Detected", False),
    "ND": ("none", "Not detected", False),
    "RR": ("none", "Reactive", False),
    "NR": ("none", "Not reactive", False),
    "WR": ("none", "Weakly reactive", False),
    "S": ("none", "Susceptible", False),
    "I": ("none", "Intermediate", False),
    "R": ("none", "Resistant", False),
    "SDD": ("none", "Susceptible, depending on the dose", False),
    "NS": ("none", "Not susceptible", False),
    "MS": ("none", "Moderately susceptible", False),
    "VS": ("none", "Very susceptible", False),
    "SYN-R": ("none", "Synergy: resistant", False),
    "SYN-S": ("none", "Synergy: susceptible", False),
    "IE": ("none", "Not enough evidence", False),
    "B": ("none", "Better than before", False),
    "W": ("none", "Worse than before", False),
    "U": ("none", "Up since last time", False),
    "D": ("none", "Down since last time", False),
    "EXP": ("none", "Expected", False),
    "UNE": ("none", "Unexpected", False),
    "CAR": ("none", "Carrier", False),
    "TOX": ("none", "Cytotoxic substance present", False),
    "AC": ("none", "Anti-complementary substances present", False),
    "HM": ("none", "Held until a doctor has looked", False),
    "NCL": ("none", "No clear meaning set", False),
    "QCF": ("none", "The lab's quality check did not pass", False),
    "NULL": ("none", "No range applies", False),
    "OBX": ("none", "See the explanation with it", False),
}
_SPELLED = {"HIGH": "H", "LOW": "L", "NORMAL": "N", "ABNORMAL": "A", "POSITIVE": "POS"}
_SPELLED |= {
    "CARRIER": "CAR",
    "NEGATIVE": "NEG",
    **dict.fromkeys(("CRITICAL HIGH", "CRITICALLY HIGH", "HIGH CRITICAL", "PANIC HIGH"), "HH"),
    **dict.fromkeys(("CRITICAL LOW", "CRITICALLY LOW", "LOW CRITICAL", "PANIC LOW"), "LL"),
    **dict.fromkeys(("CRITICAL", "CRITICAL ABNORMAL", "CRITICALLY ABNORMAL", "PANIC"), "AA"),
    **dict.fromkeys(("VERY HIGH", "SIGNIFICANTLY HIGH"), "HU"),
    **dict.fromkeys(("VERY LOW", "SIGNIFICANTLY LOW"), "LU"),
    "ABNORMAL HIGH": "H",
    "ABNORMAL LOW": "L",
    "DETECTED": "DET",
    "NOT DETECTED": "ND",
}
BY_SOURCE = "flagged by the source"
NO_RANGE = "No range given"


def word_of(observation: Mapping[str, Any], value: Value, span: Range | None) -> Word:
    """Return the word for a value: the source's own first, else arithmetic, else "none given"."""
    stated = _stated(observation.get("interpretation"))
    if stated is not None:
        return stated
    if span is None:
        return Word("none", NO_RANGE, "not flagged")
    if _is_above(value, span):
        return Word(_HIGH, "Above the range given", "not flagged by the source")
    if _is_below(value, span):
        return Word(_LOW, "Below the range given", "not flagged by the source")
    if not value.exact or value.figure is None or (span.low is None and span.high is None):
        return Word("none", "Not flagged", "by the source")
    return Word("ok", "In range", "not flagged")


def _is_above(value: Value, span: Range) -> bool:
    """Say whether a value is surely above its range: "> 5" is above 5, and so is 5 above "< 5"."""
    if value.figure is None or span.high is None or value.comparator.startswith("<"):
        return False
    beyond = value.comparator == ">" or _is_open(span.high_words, "<")
    return value.figure > span.high or (beyond and value.figure == span.high)


def _is_below(value: Value, span: Range) -> bool:
    if value.figure is None or span.low is None or value.comparator.startswith(">"):
        return False
    beyond = value.comparator == "<" or _is_open(span.low_words, ">")
    return value.figure < span.low or (beyond and value.figure == span.low)


def _is_open(bound: str, sign: str) -> bool:
    return bound.startswith(sign) and not bound.startswith(f"{sign}=")


def _stated(value: Any) -> Word | None:
    """Return what the source's interpretation says; a flag among several comes first."""
    found = [word for concept in listing(value) if (word := _one_stated(concept))]
    return next((word for word in found if word.flagged), found[0] if found else None)


def _one_stated(concept: Any) -> Word | None:
    for code in (*(code for _, code in codes(concept)), concept_words(concept)):
        upper = code.strip().upper()
        known = INTERPRETATIONS.get(_SPELLED.get(upper, upper))
        if known is not None:
            mark, words, flagged = known
            return Word(mark, words, BY_SOURCE if flagged else "stated by the source", flagged)
    words = concept_words(concept)
    return Word("none", clip(words, 60), "stated by the source") if words else None


# ------------------------------------------------------------------------------- values


def value_of(observation: Mapping[str, Any]) -> Value:
    """Return value[x] of an Observation or component; why it is absent; or nothing."""
    for field, read in _READERS.items():
        content = observation.get(field)
        if content is not None:
            value = read(content)
            if value.words:
                return value
    absent = concept_words(observation.get("dataAbsentReason"))
    return Value(f"No value: {code_as_words(absent)}" if absent else "")


def _quantity(content: Any) -> Value:
    quantity = mapping(content)
    words = quantity_digits(quantity)
    if not words:
        return Value("")
    comparator = string(quantity.get("comparator"))
    unit = unit_words(quantity)
    ucum = canonical(string(quantity.get("unit")), string(quantity.get("code"))) if unit else ""
    figure = number(quantity.get("value"))
    return Value(words, unit, figure, not comparator, ucum, comparator)


def _integer(content: Any) -> Value:
    return Value(string(content), "", number(content), exact=True)


def _sampled(content: Any) -> Value:
    return Value("A recording, kept as received" if mapping(content) else "")


_READERS: dict[str, Callable[[Any], Value]] = {
    "valueQuantity": _quantity,
    "valueCodeableConcept": lambda content: Value(concept_words(content)),
    "valueString": lambda content: Value(string(content)),
    "valueInteger": _integer,
    "valueRange": lambda content: Value(range_words(content)),
    "valueRatio": lambda content: Value(ratio_words(content)),
    "valueBoolean": lambda content: (
        Value({True: "Yes", False: "No"}[content]) if isinstance(content, bool) else Value("")
    ),
    "valueDateTime": lambda content: Value(moment_words(content)),
    "valueTime": lambda content: Value(string(content)),
    "valuePeriod": lambda content: Value(period_words(content)),
    "valueSampledData": _sampled,
    "valueAttachment": lambda content: Value("See the attachment" if mapping(content) else ""),
}


def range_of(
    observation: Mapping[str, Any], unit: str, person: Whose = NOBODY, taken: str = ""
) -> Range | None:
    """Return the range sent with a value; one in another unit only in words.

    Of several (by age, sex, phase, or critical ones beside the normal one) all are told; the one
    that is surely for this person is told first and may be drawn. Else none of them is.
    """
    spans = observation.get("referenceRange")
    if not spans:
        return None
    read = [each for one in mappings(spans) if (each := _read_span(one, unit)) is not None]
    if len(read) == 1 and read[0].plain:  # nearly all of them
        return read[0].range
    chosen = _chosen(read, person, taken)
    if chosen is None:
        return Range(clip(joined(*(one.told for one in read), by="; "), 200)) if read else None
    others = joined(*(one.told for one in read if one is not chosen), by="; ")
    words = clip(joined(chosen.told, f"others: {others}" if others else "", by="; "), 200)
    return replace(chosen.range, words=words)


class _Span(NamedTuple):
    """One reference range as read. `plain`: normal, for everybody; `told`: with its conditions."""

    range: Range
    told: str
    plain: bool
    sent: Mapping[str, Any]


def _read_span(span: Mapping[str, Any], unit: str) -> _Span | None:
    low, high = mapping(span.get("low")), mapping(span.get("high"))
    start, end = quantity_digits(low), quantity_digits(high)
    of_low, of_high = unit_words(low) if low else "", unit_words(high) if high else ""
    words = string(span.get("text")) or _bounds(start, end, unit, of_high or of_low)
    if not words:
        return None
    words = clip(words, 200)
    same = (of_low or unit) == unit == (of_high or unit)
    made = Range(
        words,
        number(low.get("value")) if low and same else None,
        number(high.get("value")) if high and same else None,
        start if same else "",
        end if same else "",
    )
    if "type" not in span and "appliesTo" not in span and "age" not in span:
        return _Span(made, words, plain=True, sent=span)
    who = joined(*concepts_words(span.get("appliesTo")), range_words(span.get("age")))
    kind = "" if _is_normal(span) else concept_words(span.get("type"))
    told = joined(words, kind, who)
    return _Span(made, told, plain=not kind and not who, sent=span)


def _bounds(start: str, end: str, unit: str, other: str) -> str:
    tail = f" {other}" if other and other != unit else ""
    if start and end:
        return f"{start} to {end}{tail}"
    if start:
        return f"from {start}{tail}"
    return f"up to {end}{tail}" if end else ""


def _chosen(spans: Sequence[_Span], person: Whose, taken: str) -> _Span | None:
    """Return the one normal range whose conditions are all known to hold; None: not one."""
    able = [
        (one, fit)
        for one in spans
        if _is_normal(one.sent) and (fit := fits(one.sent, person, taken)) is not False
    ]
    return able[0][0] if len(able) == 1 and able[0][1] else None


def _is_normal(span: Mapping[str, Any]) -> bool:
    kind = code_of(span.get("type"))
    return kind in ("", "normal")


# ------------------------------------------------------------------------------- results


def key_of(concept: Any) -> tuple[str, str] | None:
    """Return the (system, code) that names a test: LOINC first, else the first coding."""
    pairs = list(codes(concept))
    return next((pair for pair in pairs if pair[0] == LOINC), pairs[0] if pairs else None)


def result(record: Record, book: Book, person: Whose = NOBODY) -> Result:
    """Read one Observation of a person."""
    document = record.document
    value = value_of(document)
    taken = when_text(document)
    span = range_of(document, value.unit, person, taken)
    lab = joined(*book.names(record, document.get("performer")))
    parts = tuple(
        _part(record, component, taken, lab, person)
        for component in mappings(document.get("component"))
    )
    return Result(
        record=record,
        name=concept_words(document.get("code")) or "Result without a name",
        key=key_of(document.get("code")),
        value=value,
        word=word_of(document, value, span),
        span=span,
        taken=taken,
        lab=lab,
        status=_status_words(document.get("status")),
        notes=tuple(
            string(note.get("text")) for note in mappings(document.get("note")) if note.get("text")
        ),
        marks=marks(record),
        parts=parts,
    )


def _part(
    record: Record, component: Mapping[str, Any], taken: str, lab: str, person: Whose
) -> Result:
    value = value_of(component)
    span = range_of(component, value.unit, person, taken)
    return Result(
        record=record,
        name=concept_words(component.get("code")) or "Part without a name",
        key=key_of(component.get("code")),
        value=value,
        word=word_of(component, value, span),
        span=span,
        taken=taken,
        lab=lab,
        status="",
        notes=(),
        marks=marks(record),
    )


def _status_words(value: Any) -> str:
    """Return a status only where it says more than "final"."""
    status = string(value)
    return "" if status in ("final", "") else code_as_words(status)


def results(
    records: Sequence[Record], book: Book | None = None, how: How = PLAINLY
) -> tuple[Result, ...]:
    """Read every Observation, each told once, in the order given, with its earlier values."""
    book = book or Book(records)
    person = whose(records, how)
    read = [result(record, book, person) for record in of_types(records, "Observation")]
    found = entries(records, ("Observation",), how)
    return tuple(_with_earlier(gathered(read, found, speaks)))


def speaks(one: Result) -> tuple[bool, bool, bool]:
    """Return which of one result from two places speaks (see `gathered`).

    The flagged one, then one that is final, then one with a range: no copy hides what another says.
    """
    return one.flagged, not one.status, one.span is not None


def _with_earlier(read: list[Result]) -> Iterable[Result]:
    series: dict[tuple[tuple[str, str] | None, str], list[Result]] = {}
    for one in read:
        series.setdefault((one.key, one.value.ucum), []).append(one)
    for same in series.values():
        same.sort(key=lambda one: one.record.when.timestamp() if one.record.when else 0.0)
        same.reverse()
    place = {id(one): (same, index) for same in series.values() for index, one in enumerate(same)}
    for one in read:
        same, index = place[id(one)]
        earlier = same[index + 1 : index + 8] if one.key else []
        yield replace(one, earlier=tuple(earlier)) if earlier else one


# ------------------------------------------------------------------------------- groups


def groups(records: Sequence[Record], how: How = PLAINLY) -> tuple[Group, ...]:
    """Gather results under their DiagnosticReport; the rest by day and lab. Newest first."""
    book = Book(records)
    read = {
        record.pk: one for one in results(records, book, how) for record in one.evidence.records
    }
    reports = entries(records, ("DiagnosticReport",), how)
    made: list[Group] = []
    used: set[int] = set()
    seen: set[int] = set()  # the same report of another hospital adds nothing
    for report in of_types(records, "DiagnosticReport"):
        entry = reports.of_record(report)
        if not _is_result_report(report) or (entry and entry.records[0].pk in seen):
            continue
        seen.add(entry.records[0].pk if entry else report.pk)
        group = _report_group(report, book, read)
        used.update(one.record.pk for one in group.results)
        made.append(group)
    loose: dict[tuple[int, str, str], list[Result]] = {}
    for one in {id(each): each for each in read.values()}.values():
        if one.record.pk not in used:
            day = one.taken.partition("T")[0]
            loose.setdefault((one.record.connection_id, day, one.lab), []).append(one)
    made.extend(_loose_group(some) for some in loose.values())
    made.sort(key=_group_time, reverse=True)
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Newest:
    """All results of the newest day on which there are any, whichever report they stand in.

    A day that had not come when its results came is none (docs/decisions/0070).
    """

    day: str  # FHIR date text, "" where the newest results are undated
    groups: tuple[Group, ...]
    results: tuple[Result, ...]

    @property
    def flagged(self) -> tuple[Result, ...]:
        """Return those that a source flagged."""
        return flagged(self.results)


def newest(found: Sequence[Group]) -> Newest:
    """Return the newest day of groups in newest-first order, as `groups` returns them."""
    filled = [group for group in found if not all(one.marks.ahead for one in group.results)]
    if not filled:
        return Newest("", (), ())
    day = _day_of(filled[0])
    same = tuple(group for group in filled if _day_of(group) == day)
    told = (one for group in same for one in group.results if not one.marks.ahead)
    return Newest(day, same, tuple(told))


def _day_of(group: Group) -> str:
    return group.taken.partition("T")[0]


def _group_time(group: Group) -> float:
    """Return the newest value's instant where all are of one day, else the report's own.

    A report's own time may be that of its writing, years after the blood was drawn. Undated groups
    come last, and those of a day that had not come: neither may open the page as the newest.
    """
    told = [one for one in group.results if not one.marks.ahead]
    if group.results and not told:
        return float("-inf")
    times = [one.record.when.timestamp() for one in told if one.record.when]
    if times and (group.report is None or _taken(group.results)):
        return max(times)
    if group.report is not None and group.report.when is not None and not group.marks.ahead:
        return group.report.when.timestamp()
    return max(times, default=float("-inf"))


def _is_result_report(report: Record) -> bool:
    """Say whether a report belongs with results; notes with only a file belong to documents."""
    document = report.document
    laboratory = any(code == "LAB" for _, code in codes(document.get("category")))
    return bool(document.get("result") or document.get("conclusion") or laboratory)


def _report_group(report: Record, book: Book, read: Mapping[int, Result]) -> Group:
    document = report.document
    named = mappings(document.get("result"))
    found: dict[int, Result] = {}
    for reference in named:
        target = book.find(report, reference)
        if target is not None and target.pk in read:
            found[read[target.pk].record.pk] = read[target.pk]
            _members(target, book, read, found)
    performers = [*listing(document.get("performer")), *listing(document.get("resultsInterpreter"))]
    conclusion = string(document.get("conclusion")) or joined(
        *concepts_words(document.get("conclusionCode"))
    )
    own = when_text(document)
    taken = _taken(found.values()) or own
    is_own = taken.partition("T")[0] == own.partition("T")[0]
    return Group(
        title=concept_words(document.get("code")) or "Report without a name",
        report=report,
        taken=own if is_own else taken,
        issued=string(document.get("issued")) or ("" if is_own else own),
        lab=joined(*book.names(report, performers)),
        status=_status_words(document.get("status")),
        conclusion=conclusion,
        results=tuple(found.values()),
        missing=max(0, len(named) - len(found)),
        attachments=len(mappings(document.get("presentedForm"))),
        marks=marks(report),
        record=report,
    )


def _taken(found: Iterable[Result]) -> str:
    """Return when values were taken that all say the same day, else ""."""
    told = dict.fromkeys(one.taken for one in found)
    days = {one.partition("T")[0] for one in told}
    return "" if len(days) != 1 else next(iter(told)) if len(told) == 1 else days.pop()


def _members(
    panel: Record, book: Book, read: Mapping[int, Result], found: dict[int, Result]
) -> None:
    """Add the members of a panel Observation (hasMember); a cycle ends where it began."""
    waiting = [panel]
    while waiting:
        current = waiting.pop()
        for reference in mappings(current.document.get("hasMember")):
            target = book.find(current, reference)
            if target is None or target.pk not in read:
                continue
            one = read[target.pk]
            if one.record.pk not in found:
                found[one.record.pk] = one
                waiting.append(target)


def _loose_group(some: list[Result]) -> Group:
    first = some[0]
    day = day_words(first.taken)
    return Group(
        title=f"Results of {day}" if day else "Results without a date",
        report=None,
        taken=first.taken.partition("T")[0],
        issued="",
        lab=first.lab,
        status="",
        conclusion="",
        results=tuple(some),
        missing=0,
        attachments=0,
        marks=first.marks if len(some) == 1 else Marks(),
        record=first.record,
    )


# ------------------------------------------------------------------------------- by test


def by_test(records: Sequence[Record], how: How = PLAINLY) -> tuple[Test, ...]:
    """Gather results by test, tests in alphabetical order, values newest first.

    One test in units without a known factor between them is two tests: nothing is guessed.
    """
    return as_tests(results(records, how=how))


def as_tests(found: Iterable[Result]) -> tuple[Test, ...]:
    """Gather results that were read, as `by_test` does."""
    same: dict[object, list[Result]] = {}
    for one in found:
        same.setdefault(one.key or one.name.casefold(), []).append(one)
    made = [test for some in same.values() for test in tests_of(some)]
    return tuple(sorted(made, key=lambda test: (test.name.casefold(), test.unit)))


def tests_of(some: Sequence[Result]) -> list[Test]:
    """Return the results of one test in as few units as known factors allow, the newest first.

    What has no number ("not detected") and no unit stands with the newest that has one.
    """
    ordered = sorted(some, key=_time, reverse=True) if len(some) > 1 else list(some)
    units = dict.fromkeys(one.value.ucum for one in ordered if _measures(one))
    if len(units) < 2:
        return [_test(ordered, ordered)]
    homes = together(units)
    first = next(iter(units))
    series: dict[str, list[Result]] = {}
    for one in ordered:
        home = homes[one.value.ucum] if _measures(one) else first
        series.setdefault(home, []).append(in_unit(one, home))
    return [_test(each, [one for one in each if _measures(one)]) for each in series.values()]


def parts_of(found: Sequence[Result]) -> list[Test]:
    """Return the parts of results (systolic and diastolic, the members of a panel) as tests."""
    same: dict[object, list[Result]] = {}
    for one in found:
        for part in one.parts:
            same.setdefault(part.key or part.name.casefold(), []).append(part)
    return [test for some in same.values() for test in tests_of(some)]


def _measures(one: Result) -> bool:
    return one.value.figure is not None or bool(one.value.ucum)


def _time(one: Result) -> float:
    return one.record.when.timestamp() if one.record.when else float("-inf")


def _test(ordered: Sequence[Result], measured: Sequence[Result]) -> Test:
    unit = next((one.value.unit for one in measured if one.value.unit), "")
    return Test(ordered[0].key, ordered[0].name, unit, tuple(ordered))


def in_unit(one: Result, home: str) -> Result:
    """Return a result with what a trend in the unit `home` (UCUM) draws for it."""
    value = one.value
    if not value.exact or is_same(value.ucum, home):
        return one
    words = converted(value.words, value.ucum, home)
    figure = number(Decimal(words)) if words is not None else None
    if words is None or figure is None:
        return one
    return replace(one, converted=Converted(words, figure, _span_in(one.span, value.ucum, home)))


def _span_in(span: Range | None, unit: str, home: str) -> Range | None:
    """Return a range in another unit; None where a bound of it is no plain number."""
    if span is None:
        return None
    words = [
        converted(each, unit, home) if each else "" for each in (span.low_words, span.high_words)
    ]
    if None in words or not any(words):
        return None
    low, high = (number(Decimal(each)) if each else None for each in words)
    return Range(span.words, low, high, words[0] or "", words[1] or "")


def newest_of_each(found: Iterable[Test]) -> list[Result]:
    """Return of each test the newest value that each place sent; what is void speaks for none."""
    chosen: list[Result] = []
    for test in found:
        seen: set[int] = set()
        for one in test.results:
            sources = set(one.evidence.sources or (one.record.connection_id,))
            if not one.void and not sources <= seen:
                chosen.append(one)
                seen |= set() if one.marks.ahead else sources  # a slip of the pen hides none
    return chosen


def flagged(found: Iterable[Result]) -> tuple[Result, ...]:
    """Return the results that a source flagged."""
    return tuple(one for one in found if one.flagged)


def component_sentence(one: Result) -> str:
    """Return the parts of a result: "Systolic 120 mmHg, Diastolic 80 mmHg"."""
    return ", ".join(
        joined(part.name, part.value.words, part.value.unit, by=" ") for part in one.parts
    )
