"""Results: the newest report as a group, by test, only the flagged ones, and one test over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phr.chart.drawing import NumberLine, Spark, Trend, number_line, spark, trend
from phr.chart.plain import clip, counted, joined, moment_words, sentence_case
from phr.chart.results import (
    Group,
    Newest,
    Result,
    Test,
    by_test,
    component_sentence,
    groups,
    newest,
)
from phr.chart.vitals import plain_name, reading
from phr.fhir.record import UNSAID, Record, Selection
from phr.views.evidence import conflict_words, from_words, how, links
from phr.views.frame import CAREGIVERS, Context, Link, Mark, View, is_full, nothing

DRAWN_TESTS = 60  # beyond that a page of drawings is too heavy for a phone
FLAG_MEANING = (
    "“Flagged” means that the source marked the value, for example as high or low. "
    "It is not a diagnosis."
)


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One result, ready to show."""

    name: str
    href: str | None
    value: str
    unit: str
    size: str  # "", "lengthy" for many digits, "wordy" for text: both get room of their own
    mark: Mark
    span: str
    before: str
    details: tuple[str, ...]
    line: NumberLine | None
    line_words: str
    spark: Spark | None
    spark_words: str
    struck: bool
    origin: str = ""
    links: tuple[Link, ...] = ()  # each piece of evidence, where there is more than one


@dataclass(frozen=True, slots=True)
class GroupSheet:
    """One report or day, ready to show."""

    title: str
    notes: tuple[str, ...]
    report_href: str | None
    conclusion: str
    rows: tuple[ResultRow, ...]
    missing: str
    marks: tuple[str, ...]


# ------------------------------------------------------------------------------- newest, flagged


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the newest groups."""
    found = _whole_groups(records, context)
    latest = newest(found)
    marked = len(latest.flagged)
    return {
        "heading": heading(len(latest.results), marked) if found else "No results yet",
        "lead": joined(_of_day(latest), FLAG_MEANING if marked else "", by=" "),
        "groups": [_group(one, context) for one in found],
        "empty": "" if found else nothing(context, ("Observation", "DiagnosticReport"), "results"),
    }


def _of_day(latest: Newest) -> str:
    """Return which results "newest" means: all of one day."""
    day = moment_words(latest.day)
    return f"The newest results are those of {day}." if day and len(latest.results) > 1 else ""


def heading(count: int, marked: int) -> str:
    """Return the answer for the newest results."""
    if not count:
        return "There are no single values"
    if not marked:
        one = "The newest result is not flagged"
        return one if count == 1 else f"No source flagged any of the {count} newest results"
    if count == 1:
        return "The newest result is flagged by the source"
    verb = "is" if marked == 1 else "are"
    return f"{marked} of the {count} newest results {verb} flagged by the source"


def _whole_groups(records: Sequence[Record], context: Context) -> list[Group]:
    """Return the groups, without those older than the oldest result at hand when there are more."""
    found = list(groups(records, how(context)))
    times = [one.when for one in records if one.type == "Observation" and one.when]
    if len(times) < (SELECTION.limit or 0):
        return found
    oldest = min(times)
    kept = [one for one in found if one.results or (one.record.when and one.record.when >= oldest)]
    return kept or found


def build_flagged(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build only what a source flagged, one sheet for each group that has any."""
    marked = [
        (group, some)
        for group in _whole_groups(records, context)
        if (some := [one for one in group.results if one.flagged and not one.marks.mistaken])
    ]
    count = sum(len(some) for _, some in marked)
    return {
        "heading": f"{counted(count, 'result')} {'is' if count == 1 else 'are'} flagged by a source"
        if count
        else "No source flagged any of these results",
        "lead": FLAG_MEANING if count else "",
        "groups": [_group(group, context, only=some) for group, some in marked],
        "empty": "" if count else "Nothing here carries a source's flag.",
    }


def _group(group: Group, context: Context, only: Sequence[Result] | None = None) -> GroupSheet:
    shown = group.results if only is None else tuple(only)
    taken, issued = moment_words(group.taken), moment_words(group.issued)
    missing = group.missing
    named = counted(missing, "result")
    return GroupSheet(
        title=group.title,
        notes=tuple(
            note
            for note in (
                clip(group.lab, 120),
                context.origin(group.record),
                f"taken {taken}" if taken else "no date given",
                f"reported {issued}" if issued and issued != taken else "",
                group.status,
            )
            if note
        ),
        report_href=context.link(group.report) if group.report else None,
        conclusion=clip(group.conclusion, 1200) if only is None else "",
        rows=tuple(row(one, context) for one in shown),
        missing=f"Not shown here: {named} of this report." if missing and only is None else "",
        marks=group.marks.words,
    )


# ------------------------------------------------------------------------------- a row


def row(one: Result, context: Context, *, origin: bool = False) -> ResultRow:
    """Return a result, ready to show."""
    amount = joined(one.value.words, one.value.unit, by=" ")
    span = one.span.words if one.span else ""
    value = one.value.words or ("" if one.parts else "No value given")
    return ResultRow(
        name=one.name,
        href=_href(one, context),
        value=clip(value, 600),
        unit=one.value.unit,
        size=size_of(value),
        mark=Mark(one.word.mark, one.word.words, one.word.said),
        span=f"Range given: {span}" if span else "No range given",
        before=_before(one),
        details=(*_details(one), *_evidence(one, context)),
        line=number_line(one),
        line_words=f"{one.name} {amount}. {one.word.words}, {one.word.said}. Range given: {span}.",
        spark=spark((one, *one.earlier)),
        spark_words=_spark_words(one),
        struck=one.marks.mistaken,
        origin=context.origin(one.record) if origin else "",
        links=links(one.evidence.records, context) if len(one.evidence.records) > 1 else (),
    )


def _evidence(one: Result, context: Context) -> tuple[str, ...]:
    """Return from how many hospitals a result came, and where they disagree."""
    several = len(one.evidence.sources) > 1
    told = [from_words(one.evidence, context)] if several else []
    return (*told, *(conflict_words(each, context) for each in one.evidence.conflicts))


def size_of(value: str) -> str:
    """Return the class of a value by its length; no digit is ever cut off."""
    if len(value) > 18:
        return "wordy"
    return "lengthy" if len(value) > 8 else ""


def _href(one: Result, context: Context) -> str | None:
    series = context.test_link(*one.key) if one.key else None
    return series or context.link(one.record)


def _before(one: Result) -> str:
    if not one.earlier:
        return ""
    old = one.earlier[0]
    taken = moment_words(old.taken.partition("T")[0])
    return joined(taken, clip(old.value.words, 14), by=": ") if old.value.words else ""


def _details(one: Result) -> tuple[str, ...]:
    parts = component_sentence(one)
    notes = (clip(note, 300) for note in one.notes)
    return tuple(
        line for line in (parts, sentence_case(one.status), *notes, *one.marks.words) if line
    )


def _spark_words(one: Result) -> str:
    values = [old.value.words for old in reversed((one, *one.earlier)) if old.value.exact][-8:]
    return f"{one.name}, last {len(values)} values: {', '.join(values)}"


# ------------------------------------------------------------------------------- by test


def build_by_test(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build one row for each test, with its newest value."""
    found = by_test(records, how(context))
    rows = tuple(row(one.results[0], context, origin=True) for one in found)
    if len(rows) > DRAWN_TESTS:
        rows = tuple(replace(one, line=None, spark=None) for one in rows)
    sheet = GroupSheet("Tests, A to Z", ("newest value of each",), None, "", rows, "", ())
    return {
        "heading": f"{counted(len(found), 'test')} with results" if found else "No results yet",
        "lead": f"From the newest {BY_TEST.selection.limit} results; older ones are behind “Older”."
        if is_full(BY_TEST, records)
        else "",
        "groups": [sheet] if rows else [],
        "empty": "" if found else nothing(context, ("Observation",), "results"),
    }


# ------------------------------------------------------------------------------- one test


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One line of the table under a trend."""

    taken: str
    href: str | None
    value: str
    mark: Mark
    span: str
    origin: str
    details: tuple[str, ...]
    struck: bool


@dataclass(frozen=True, slots=True)
class Series:
    """One series in one unit."""

    title: str
    unit: str
    notes: tuple[str, ...]
    trend: Trend | None
    trend_title: str
    trend_words: str
    rows: tuple[SeriesRow, ...]


def build_test(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page of one test: newest value, every series with its table."""
    found = [one for one in by_test(records, how(context)) if one.results]
    found.sort(key=lambda test: -_latest(test.results[0]))
    if not found:
        return {
            "heading": "No results of this test",
            "lead": "",
            "newest": None,
            "series": [],
        }
    last = found[0].results[0]
    return {
        "heading": _test_heading(last),
        "lead": _test_lead(last, context),
        "newest": row(last, context) if last.span else None,
        "series": [*(_series(one, context) for one in found), *_parts(found, context)],
    }


def _latest(one: Result) -> float:
    return one.record.when.timestamp() if one.record.when else float("-inf")


def _test_heading(one: Result) -> str:
    whole = reading(one)
    name = plain_name(one.key) or one.name
    amount = joined(clip(whole.words, 90), whole.unit, by=" ")
    if not amount:
        return name
    old = one.earlier[0] if one.earlier else None
    told = f"{name}: {amount}"
    if old is None or not (one.value.exact and old.value.exact):
        return told
    now, then = one.value.figure, old.value.figure
    if now is None or then is None:
        return told
    change = "the same as" if now == then else "higher than" if now > then else "lower than"
    return f"{told}, {change} last time"


def _test_lead(one: Result, context: Context) -> str:
    taken = moment_words(one.taken)
    where = joined(one.lab, context.origin(one.record))
    said = f"{one.word.words}, {one.word.said}." if one.word.words else ""
    return joined(said, f"Taken {taken}, {where}." if taken else f"No date given, {where}.", by=" ")


def _series(test: Test, context: Context) -> Series:
    usable = [one for one in test.results if not one.marks.mistaken]
    drawn = trend(usable)
    values = ", ".join(one.value.words for one in reversed(usable) if one.value.exact)
    sources = {context.origin(one.record) for one in test.results}
    return Series(
        title=plain_name(test.key) or test.name,
        unit=test.unit or reading(test.results[0]).unit,
        notes=tuple(
            note
            for note in (
                test.unit,
                joined(counted(len(test.results), "value"), counted(len(sources), "source")),
                "no value was converted" if test.unit else "",
            )
            if note
        ),
        trend=drawn,
        trend_title=joined(test.name, test.unit),
        trend_words=f"Values from oldest to newest: {values}. The table below has the same values.",
        rows=tuple(_series_row(one, context) for one in test.results),
    )


def _series_row(one: Result, context: Context) -> SeriesRow:
    return SeriesRow(
        taken=moment_words(one.taken) or "no date",
        href=context.link(one.record),
        value=clip(reading(one).words, 300) or "No value given",
        mark=Mark(one.word.mark, one.word.words, one.word.said),
        span=one.span.words if one.span else "none given",
        origin=joined(
            clip(one.lab, 80),
            from_words(one.evidence, context)
            if len(one.evidence.sources) > 1
            else context.origin(one.record),
        ),
        details=(*(clip(note, 200) for note in one.notes), *one.marks.words),
        struck=one.marks.mistaken,
    )


def _parts(found: Sequence[Test], context: Context) -> list[Series]:
    """Return one series for each part of results that have parts (blood pressure, panels)."""
    parts: dict[tuple[str, str], list[Result]] = {}
    for test in found:
        for one in test.results:
            for part in one.parts:
                parts.setdefault((part.name, part.value.unit), []).append(part)
    return [
        _series(Test(some[0].key, name, unit, tuple(some)), context)
        for (name, unit), some in parts.items()
    ]


# What says no category is most likely a result; what is a vital sign says so.
_CATEGORIES = ("laboratory", UNSAID)
SELECTION = Selection(types=("Observation",), categories=_CATEGORIES, limit=80)
_ALSO = (Selection(types=("DiagnosticReport",), limit=100), CAREGIVERS)

VIEW = View("results", "Results", SELECTION, build, "results.html", _ALSO)
FLAGGED = View("results", "Results", SELECTION, build_flagged, "results.html", _ALSO)
BY_TEST = View(
    "results",
    "Results",
    Selection(types=("Observation",), categories=_CATEGORIES, limit=150),
    build_by_test,
    "results.html",
    (CAREGIVERS,),
)
# The page fills in the codes.
TEST = View(
    "test",
    "One test",
    Selection(types=("Observation",), limit=300),
    build_test,
    "test.html",
    (CAREGIVERS,),
)
