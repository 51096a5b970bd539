"""Problems: the problem list first, diagnoses of visits apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.plain import counted, joined, moment_words, sentence_case
from phr.chart.problems import NO_STATUS, Diagnosis, Problem, Problems, problems
from phr.chart.summary import DISAGREE
from phr.fhir.record import Record, Selection
from phr.views.evidence import PERSONS, how, with_evidence
from phr.views.frame import (
    CAREGIVERS,
    Context,
    Mark,
    Row,
    Sheet,
    View,
    at_least,
    nothing,
    said_by,
    sheets,
    with_marks,
)


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from Condition records."""
    found = problems(records, how(context))
    none = nothing(context, ("Condition",), "problems")
    anything = any(
        (found.active, found.unclear, found.over, found.diagnoses, found.doubtful, found.said)
    )
    return sheets(
        context,
        at_least(VIEW, records, heading(found, context)),
        DISAGREE if found.active and found.said else "",
        Sheet(
            "Listed as active",
            tuple(row(one, context) for one in found.active),
            empty=""
            if found.active
            else ("No source lists an active problem." if anything else none),
        ),
        Sheet("Said of the list", tuple(row(one, context) for one in found.said)),
        Sheet(
            "Unclear",
            tuple(row(one, context) for one in found.unclear),
            ("no source says plainly that these are active",),
        ),
        Sheet("Listed as over or inactive", tuple(row(one, context) for one in found.over)),
        Sheet(
            "Diagnoses of visits",
            tuple(_diagnosis(one, context) for one in found.diagnoses),
            ("what a visit was about, as the clinic coded it",),
            types=("Condition",),
        ),
        Sheet(
            "Ruled out or mistaken",
            tuple(row(one, context) for one in found.doubtful),
            ("kept so that you can look back",),
        ),
    )


def heading(found: Problems, context: Context) -> str:
    """Return the answer."""
    if found.active:
        verb = "is" if len(found.active) == 1 else "are"
        return f"{counted(len(found.active), 'problem')} {verb} listed as active"
    if found.said and not found.unclear:
        first = found.said[0]
        return f"{sentence_case(first.name)}, says {context.origin(first.record)}"
    if found.unclear or found.over or found.diagnoses:
        return "No problem is listed as active"
    return "Problems are unknown"


def row(one: Problem, context: Context) -> Row:
    """Return one problem with its times and who lists it."""
    times = joined(
        f"began {one.began}" if one.began else "",
        f"ended {one.ended}" if one.ended else "",
    )
    recorded = moment_words(one.recorded)
    details = (sentence_case(times), sentence_case(joined(one.severity, one.body_site)), *one.notes)
    made = Row(
        title=one.name,
        href=context.link(one.record),
        mark=_mark(one),
        details=with_marks(details, one.record, one.marks, context),
        aside=said_by(
            context,
            one.record,
            joined(
                f"recorded {recorded}" if recorded else "", f"by {one.by}" if one.by else "", by=" "
            ),
        ),
        struck=one.marks.mistaken,
    )
    return with_evidence(made, one.evidence, context)


def _mark(one: Problem) -> Mark | None:
    if one.over:
        return Mark("ended", sentence_case(one.status or "over"))
    if one.status == "active":
        return None
    return Mark("none", sentence_case(one.status or NO_STATUS))


def _diagnosis(one: Diagnosis, context: Context) -> Row:
    newest = one.problems[0]
    times = [problem.began or moment_words(problem.recorded) for problem in one.problems]
    dated = [time for time in times if time]
    seen = counted(len(one.problems), "time")
    span = f"last {dated[0]}" if dated else "no date given"
    if len(dated) > 1 and dated[-1] != dated[0]:
        span = f"{span}, first {dated[-1]}"
    return Row(
        title=one.name,
        href=context.link(newest.record),
        details=(f"{sentence_case(seen)}, {span}",),
        aside=said_by(context, newest.record),
    )


VIEW = View(
    "problems",
    "Problems",
    Selection(types=("Condition",), limit=2000),
    build,
    also=(
        CAREGIVERS,
        PERSONS,
    ),
)
