"""Results: the newest report as a group, by test, only the flagged ones, and one test over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phr.chart.drawing import NumberLine, Spark, Trend, drawn_words, number_line, spark, trend
from phr.chart.plain import clip, counted, joined, moment_words, sentence_case
from phr.chart.points import beyond
from phr.chart.results import (
    LOINC,
    NO_RANGE,
    Group,
    Newest,
    Result,
    Test,
    as_tests,
    by_test,
    component_sentence,
    groups,
    newest,
    parts_of,
    results,
)
from phr.chart.vitals import DIASTOLIC, SYSTOLIC, plain_name, reading
from phr.chart.whose import Whose, whose
from phr.fhir.record import UNSAID, Record, Selection
from phr.views.evidence import PERSONS, conflict_words, from_words, how, links
from phr.views.frame import (
    CAREGIVERS,
    Context,
    Link,
    Mark,
    View,
    day,
    is_full,
    nothing,
    standing,
)
from phr.views.measured import age_of, setting_words

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
        "heading": _heading_of(found, latest),
        "lead": joined(_of_day(latest), FLAG_MEANING if marked else "", by=" "),
        "groups": [_group(one, context) for one in found],
        "empty": "" if found else nothing(context, ("Observation", "DiagnosticReport"), "results"),
    }


def _heading_of(found: Sequence[Group], latest: Newest) -> str:
    if not found:
        return "No results yet"
    if not latest.results and any(group.results for group in found):
        return "Every result is dated on a day that had not come yet"
    return heading(len(latest.results), len(latest.flagged))


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
    """Build only what is flagged or out of its range, one sheet for each group that has any."""
    marked = [
        (group, some)
        for group in _whole_groups(records, context)
        if (some := [one for one in group.results if one.outside and not one.marks.mistaken])
    ]
    count = sum(len(some) for _, some in marked)
    said = sum(one.flagged for _, some in marked for one in some)
    verb = "is" if count == 1 else "are"
    return {
        "heading": f"{counted(count, 'result')} {verb} out of range"
        if count
        else "No result here is flagged or out of its range",
        "lead": joined(_flags(said, count), _looked_at(records), by=" "),
        "groups": [_group(group, context, only=some) for group, some in marked],
        "empty": "" if count else "Nothing here is flagged or out of the range sent with it.",
    }


def _flags(said: int, count: int) -> str:
    """Say how many a source flagged, and how many only lie outside the range it sent."""
    rest = count - said
    outside = "lies" if rest == 1 else "lie"
    told = joined(
        f"{said} flagged by the source" if said else "",
        f"{rest} {outside} outside the range sent, without a flag" if rest else "",
    )
    return f"{sentence_case(told)}. {FLAG_MEANING if said else ''}".strip() if told else ""


def _looked_at(records: Sequence[Record]) -> str:
    """Say so when not all results were looked at."""
    if not is_full(FLAGGED, records):
        return ""
    return f"Among {FLAGGED.selection.limit} results; more are behind “Older ones”."


def build_new(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build what has come since the last look; the page selects it by its receipt."""
    found = [one for one in _whole_groups(records, context) if one.results or one.conclusion]
    count = sum(len(one.results) for one in found)
    marked = sum(one.outside for group in found for one in group.results)
    return {
        "heading": f"{counted(count, 'result')} since your last look"
        if found
        else "No new results since your last look",
        "lead": f"Out of range: {marked}." if marked else "",
        "groups": [_group(one, context) for one in found],
        "empty": "" if found else "Nothing new. “I have seen these” on Home begins anew.",
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
        marks=standing(group.report, group.marks, context) if group.report else (),
    )


# ------------------------------------------------------------------------------- a row


def row(one: Result, context: Context, *, origin: bool = False, drawn: bool = True) -> ResultRow:
    """Return a result, ready to show; its drawings only where they are `drawn`."""
    span = one.span.words if one.span else ""
    value = one.value.words or ("" if one.parts else "No value given")
    line = number_line(one) if drawn else None
    small = spark((one, *one.earlier)) if drawn and one.earlier else None
    return ResultRow(
        name=one.name,
        href=_href(one, context),
        value=clip(value, 600),
        unit=one.value.unit,
        size=size_of(value),
        mark=Mark(one.word.mark, one.word.words, one.word.said),
        span=f"Range given: {span}" if span else "No range given",
        before=_before(one),
        details=(
            *_details(one, context),
            *_evidence(one, context),
            *context.remarks.words(one.record),
        ),
        line=line,
        line_words=_line_words(one, span) if line else "",
        spark=small,
        spark_words=_spark_words(one) if small else "",
        struck=one.marks.mistaken,
        origin=context.origin(one.record) if origin else "",
        links=links(one.evidence.records, context) if len(one.evidence.records) > 1 else (),
    )


def _line_words(one: Result, span: str) -> str:
    amount = joined(one.value.words, one.value.unit, by=" ")
    return f"{one.name} {amount}. {one.word.words}, {one.word.said}. Range given: {span}."


def _evidence(one: Result, context: Context) -> tuple[str, ...]:
    """Return from how many hospitals a result came, and where they disagree."""
    if len(one.evidence.records) < 2:
        return ()
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


def _details(one: Result, context: Context) -> tuple[str, ...]:
    parts = component_sentence(one)
    notes = (clip(note, 300) for note in one.notes)
    return tuple(
        line
        for line in (
            parts,
            sentence_case(one.status),
            *notes,
            *standing(one.record, one.marks, context),
        )
        if line
    )


def _spark_words(one: Result) -> str:
    values = [old.value.words for old in reversed((one, *one.earlier)) if old.value.exact][-8:]
    return f"{one.name}, last {len(values)} values: {', '.join(values)}"


# ------------------------------------------------------------------------------- by test


def build_by_test(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build one row for each test, with its newest value."""
    found = by_test(records, how(context))
    drawn = len(found) <= DRAWN_TESTS
    rows = tuple(row(one.latest, context, origin=True, drawn=drawn) for one in found)
    sheet = GroupSheet("Tests, A to Z", ("newest value of each",), None, "", rows, "", ())
    return {
        "heading": f"{counted(len(found), 'test')} with results" if found else "No results yet",
        "lead": f"The {BY_TEST.selection.limit} tests done last; others are behind “Older ones”."
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
    left_out: str = ""  # what the drawing does not show


def build_test(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page of one test: newest value, every series with its table.

    The tables have the records; a drawing goes on with the points of the context.
    """
    read = results(records, how=how(context))
    more = beyond(context.points, records, how(context)) if context.points else []
    found = [one for one in as_tests([*read, *more]) if one.results]
    found.sort(key=lambda test: (test.latest.marks.ahead, -_latest(test.latest)))
    person = whose(records, how(context))
    if not found:
        return {
            "heading": "No results of this test",
            "lead": "",
            "newest": None,
            "series": [],
        }
    last = found[0].latest
    return {
        "heading": _test_heading(last),
        "lead": _test_lead(last, context),
        "newest": row(last, context) if last.span else None,
        "series": _all_series(found, context, person),
    }


def _all_series(found: Sequence[Test], context: Context, person: Whose) -> list[Series]:
    """Return a series for each unit that the values cannot be told in together, then the parts."""
    units = [one.unit for one in found]
    made = [
        _series(one, context, person, apart=[unit for unit in units if unit != one.unit])
        for one in found
    ]
    parts = parts_of([one for test in found for one in test.results])
    upper, lower = _pair(parts)
    if upper and lower and len(made) == 1:  # one drawing of both figures, above the one table
        made = [replace(made[0], **_drawn(upper, lower))]
        parts = [one for one in parts if one not in (upper, lower)]
    return [*made, *(_series(one, context, person) for one in parts)]


def _pair(parts: Sequence[Test]) -> tuple[Test | None, Test | None]:
    """Return the series of the upper and the lower blood pressure, where each has just one."""
    found = [[one for one in parts if one.key == (LOINC, code)] for code in (SYSTOLIC, DIASTOLIC)]
    upper, lower = (one[0] if len(one) == 1 else None for one in found)
    same = upper is not None and lower is not None and upper.unit == lower.unit
    return (upper, lower) if same else (None, None)


def _drawn(upper: Test, lower: Test) -> dict[str, Any]:
    both = [[one for one in test.results if not one.marks.mistaken] for test in (upper, lower)]
    values = (
        f"{test.name}: {_values(some)}" for test, some in zip((upper, lower), both, strict=True)
    )
    return {
        "unit": upper.unit,
        "trend": trend(*both),
        "trend_title": joined("Blood pressure", upper.unit),
        "trend_words": f"Values from oldest to newest. {joined(*values, by='. ')}. {_BELOW}",
    }


_BELOW = "The table below has the same values."
_FURTHER = "Older ones are in the tables behind “Older ones”."


def _values(some: Sequence[Result]) -> str:
    return ", ".join(drawn_words(one) for one in reversed(some) if one.value.exact)


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
    told = f"Taken {taken}, {where}." if taken else f"No date given, {where}."
    ahead = "That day had not come yet when the source sent it." if one.marks.ahead else ""
    return joined(said, told, ahead, by=" ")


def _series(test: Test, context: Context, person: Whose, apart: Sequence[str] = ()) -> Series:
    """Return one series. `apart` are the units of other series of the same test."""
    usable = [one for one in test.results if not one.marks.mistaken]
    code = test.key[1] if test.key and test.key[0] == LOINC else ""
    born = person.born if usable and age_of(usable[0], person, code) else None
    sources = {context.origin(one.record) for one in test.results}
    listed = [one for one in test.results if one.record.body]  # a point is not in the table
    drawn = trend(usable, born=born)
    return Series(
        title=plain_name(test.key) or test.name,
        unit=test.unit or reading(test.results[0]).unit,
        notes=tuple(
            note
            for note in (
                test.unit,
                joined(_counted(test, context), counted(len(sources), "source")),
                _conversion(test, apart),
                _in_table(test, len(listed)),
            )
            if note
        ),
        trend=drawn,
        trend_title=joined(test.name, test.unit),
        trend_words=_trend_words(drawn, usable, len(listed) < len(test.results)),
        rows=tuple(_series_row(one, test, context, person) for one in listed),
        left_out=_left_out(drawn),
    )


def _counted(test: Test, context: Context) -> str:
    """Return how many values there are; of more than are read, that these are the newest."""
    many = counted(len(test.results), "value")
    return f"the newest {many}" if context.points and context.points.more else many


def _in_table(test: Test, listed: int) -> str:
    """Say which values stand in the table, where those of the drawing go back further."""
    if listed == len(test.results):
        return ""
    if not listed:
        return "Its values are in the tables behind “Older ones”."
    return f"The table has {listed} of them. {_FURTHER}"


def _left_out(drawn: Trend | None) -> str:
    """Say what of a thinned drawing is not drawn, and by which rule."""
    if drawn is None or not drawn.of:
        return ""
    thinned = (
        f"Drawn: {len(drawn.points)} of {counted(drawn.of, 'value')}. Each stretch of time has its"
        " first, last, lowest and highest one, and every one that is flagged or out of its range;"
        " of marks that would cover one another there is one."
    )
    shading = "The ranges given change too often to be shaded." if drawn.unshaded else ""
    return joined(thinned, shading, by=" ")


def _trend_words(drawn: Trend | None, usable: Sequence[Result], further: bool) -> str:
    """Describe a drawing: all its values, or of many the first, the last and the extremes."""
    exact = [one for one in usable if one.value.exact and one.figure is not None]
    below = f"The table below has the newest of these values. {_FURTHER}" if further else _BELOW
    if drawn is None or not drawn.of:
        return f"Values from oldest to newest: {_values(usable)}. {below}"
    lowest, highest = (end(exact, key=_figure) for end in (min, max))
    flags = sum(one.outside for one in exact)
    told = (
        f"{counted(len(exact), 'value')} from {_dated(exact[-1])} to {_dated(exact[0])}",
        f"the lowest {_dated(lowest)}",
        f"the highest {_dated(highest)}",
        f"{flags} flagged or out of range",
    )
    return f"{joined(*told, by='; ')}. {_left_out(drawn)} {below}"


def _figure(one: Result) -> float:
    return one.figure if one.figure is not None else 0.0


def _dated(one: Result) -> str:
    """Return a value with its day; only the table has it as its source wrote it."""
    taken = one.record.when
    return f"{drawn_words(one)} on {day(taken)} (UTC)" if taken else drawn_words(one)


def _conversion(test: Test, apart: Sequence[str]) -> str:
    """Say what was converted, or why values stand apart."""
    converted = sum(one.converted is not None for one in test.results)
    if converted:
        told = f"{counted(converted, 'value')} converted to {test.unit} for the drawing, marked ≈"
        return f"{told}; the table has them as sent."
    if apart:
        others = joined(*(unit or "no unit" for unit in dict.fromkeys(apart)), by=" and ")
        return f"Kept apart from values in {others}: there is no known factor."
    return "no value was converted" if test.unit else ""


def _mark_of(one: Result) -> Mark:
    """Return the word of a result; a pair or panel without one has that of its parts."""
    words = [part.word for part in one.parts if part.span or part.word.flagged]
    if one.word.flagged or one.span or not words:
        word = one.word
    else:  # what is flagged goes before what is out of range, that before what is in range
        word = max(words, key=lambda each: (each.flagged, each.mark != "ok"))
    return Mark(word.mark, word.words, word.said)


def _span_words(one: Result) -> str:
    """Return the range of a row; where its word says that there is none, nothing more."""
    if one.span:
        return f"range: {one.span.words}"
    told = _mark_of(one).words == NO_RANGE or any(part.span for part in one.parts)
    return "" if told else "range: none given"


def _part_words(part: Result) -> str:
    """Return what a source says about one figure of a pair beyond the figure itself."""
    span = f"range: {part.span.words}" if part.span else ""
    word = part.word.words if part.span or part.word.flagged else ""
    return joined(f"{part.name} {part.value.words}", word, span) if word or span else ""


def _series_row(one: Result, test: Test, context: Context, person: Whose) -> SeriesRow:
    whole = reading(one)
    own_unit = whole.unit if whole.unit != test.unit and test.unit else ""
    code = test.key[1] if test.key and test.key[0] == LOINC else ""
    measured = setting_words(one, context) if plain_name(test.key) else ""
    return SeriesRow(
        taken=moment_words(one.taken) or "no date",
        href=context.link(one.record),
        value=joined(clip(whole.words, 300), own_unit, by=" ") or "No value given",
        mark=_mark_of(one),
        span=_span_words(one),
        origin=joined(
            clip(one.lab, 80),
            from_words(one.evidence, context)
            if len(one.evidence.sources) > 1
            else context.origin(one.record),
        ),
        details=tuple(
            line
            for line in (
                f"{drawn_words(one)} {test.unit}, converted by Homeport" if one.converted else "",
                joined(measured, age_of(one, person, code)),
                *(_part_words(part) for part in one.parts),
                *(clip(note, 200) for note in one.notes),
                *standing(one.record, one.marks, context),
            )
            if line
        ),
        struck=one.marks.mistaken,
    )


# What says no category is most likely a result; what is a vital sign says so.
_CATEGORIES = ("laboratory", UNSAID)
SELECTION = Selection(types=("Observation",), categories=_CATEGORIES, limit=80)
_ALSO = (Selection(types=("DiagnosticReport",), limit=100), CAREGIVERS, PERSONS)

VIEW = View("results", "Results", SELECTION, build, "results.html", _ALSO)
FLAGGED = View("results", "Results", SELECTION, build_flagged, "results.html", _ALSO)
NEW = View("results", "Results", SELECTION, build_new, "results.html", _ALSO)
# The page asks for the newest value of each test.
BY_TEST = View(
    "results",
    "Results",
    Selection(types=("Observation",), categories=_CATEGORIES, limit=300),
    build_by_test,
    "results.html",
    (CAREGIVERS, PERSONS),
)
# The page fills in the codes.
TEST = View(
    "test",
    "One test",
    Selection(types=("Observation",), limit=300),
    build_test,
    "test.html",
    (CAREGIVERS, PERSONS),
)
