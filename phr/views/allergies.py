"""Allergies: three different texts for present, none known and unknown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from phr.chart.allergies import Allergies, Allergy, Knowledge, allergies
from phr.chart.plain import clip, counted, joined, moment_words, sentence_case
from phr.fhir.record import Record, Selection
from phr.views.evidence import PERSONS, contradiction, how, with_evidence
from phr.views.frame import (
    CAREGIVERS,
    Context,
    Mark,
    Row,
    Sheet,
    View,
    said_by,
    sheets,
    with_marks,
)

_ON_A_STRIP = 80  # characters of a name: one of 5,000 would push what else matters off the screen
UNKNOWN = "Unknown. Nobody has sent anything about allergies. That does not mean there are none."


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from AllergyIntolerance records."""
    found = allergies(records, how(context))
    return sheets(
        context,
        heading(found, context),
        lead(found),
        Sheet("Listed", tuple(_row(one, context) for one in found.listed), ("severe first",)),
        Sheet(
            "Said to be none", tuple(_none_known(one, found, context) for one in found.none_known)
        ),
        Sheet(
            "Unknown",
            tuple(_row(one, context) for one in found.no_information),
            empty=_unknown(context) if found.knowledge is Knowledge.UNKNOWN else "",
        ),
        Sheet(
            "No longer listed",
            tuple(_row(one, context, struck=one.marks.mistaken) for one in found.former),
            ("inactive, resolved, ruled out or entered in error",),
        ),
    )


def heading(found: Allergies, context: Context) -> str:
    """Return the answer."""
    if found.knowledge is Knowledge.PRESENT:
        severe = sum(one.severe for one in found.listed)
        verb = "is" if len(found.listed) == 1 else "are"
        words = f"{counted(len(found.listed), 'allergy', 'allergies')} {verb} listed"
        return f"{words}, {severe} marked severe" if severe else words
    if found.knowledge is Knowledge.NONE_KNOWN:
        first = found.none_known[0]
        return f"{sentence_case(first.name)}, says {context.origin(first.record)}"
    return "Allergies are unknown"


def lead(found: Allergies) -> str:
    """Return the sentence below the answer."""
    if found.knowledge is Knowledge.PRESENT and found.none_known:
        return "The sources do not agree: one lists an allergy, another says that none is known."
    if found.knowledge is Knowledge.NONE_KNOWN:
        return "This is what was said on the date shown. It may be out of date."
    return ""


def short(found: Allergies) -> str:
    """Return one line for a strip: names with severity, or one of the two other texts."""
    if found.knowledge is Knowledge.PRESENT:
        return " · ".join(_short_one(one) for one in found.listed)
    if found.knowledge is Knowledge.NONE_KNOWN:
        return sentence_case(found.none_known[0].name)
    return UNKNOWN


def _short_one(one: Allergy) -> str:
    name = clip(one.name, _ON_A_STRIP)
    told = joined(
        "severe" if one.severe else "", clip(joined(*one.reactions), _ON_A_STRIP), by=": "
    )
    return f"{name} ({told})" if told else name


def _unknown(context: Context) -> str:
    answers = context.answered.get("AllergyIntolerance", ())
    return joined(UNKNOWN, *answers, by=" ")


def _row(one: Allergy, context: Context, *, struck: bool = False) -> Row:
    reactions = sentence_case(joined(*one.reactions))
    severity = one.severity.removeprefix("severe").removeprefix(", ")  # the mark says it
    details = (
        reactions,
        sentence_case(joined(severity, one.kind, one.status)),
        contradiction(one.record.document.get("code")),
        *one.notes,
    )
    noted = moment_words(one.noted)
    row = Row(
        title=one.name,
        href=context.link(one.record),
        mark=_mark(one),
        details=with_marks(details, one.record, one.marks, context),
        aside=said_by(
            context,
            one.record,
            f"noted {noted}" if noted else "no date given",
            f"by {one.by}" if one.by else "",
        ),
        struck=struck,
    )
    return with_evidence(row, one.evidence, context)


def _none_known(one: Allergy, found: Allergies, context: Context) -> Row:
    """Return a statement that nothing is known, with what contradicts it."""
    row = _row(one, context)
    if not found.listed:
        return row
    names = joined(*(f"{each.name} ({context.origin(each.record)})" for each in found.listed[:3]))
    return replace(row, details=(*row.details, f"Against this stands: {names}."))


def _mark(one: Allergy) -> Mark | None:
    if not one.severe:
        return None
    severe = one.severity.startswith("severe")
    return Mark("severe", "Severe" if severe else "High risk", "says the source")


VIEW = View(
    "allergies",
    "Allergies",
    Selection(types=("AllergyIntolerance",), limit=500),
    build,
    also=(
        CAREGIVERS,
        PERSONS,
    ),
)
