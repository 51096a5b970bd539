"""Vaccines as recorded, by disease, newest first. No schedule and no forecast."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.immunizations import Vaccine, immunizations
from phr.chart.plain import codes, counted, joined, moment_words, sentence_case
from phr.chart.vaccines import GROUPS, groups
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

OTHER = "Other vaccines"


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from Immunization records."""
    found = immunizations(records, how(context))
    given = [one for one in found if one.counts]
    rest = [one for one in found if not one.counts]
    return sheets(
        context,
        at_least(VIEW, records, f"{counted(len(given), 'vaccine dose')} on record")
        if given
        else "No vaccine on record",
        "This is what sources recorded. It does not say which vaccines are due.",
        *_by_disease(given, context),
        Sheet("Given", empty="" if given else nothing(context, ("Immunization",), "vaccines")),
        Sheet(
            "Not given, mistaken or unclear",
            tuple(_row(one, context) for one in rest),
            types=("Immunization",),
        ),
    )


def _by_disease(given: Sequence[Vaccine], context: Context) -> list[Sheet]:
    """Return a sheet for each disease group; a combined vaccine is a dose in each of its own."""
    doses: dict[str, list[Vaccine]] = {}
    for one in given:
        for group in groups(codes(one.record.document.get("vaccineCode"))) or (OTHER,):
            doses.setdefault(group, []).append(one)
    return [
        Sheet(
            group,
            tuple(_row(one, context) for one in doses[group]),
            (counted(len(doses[group]), "dose"),),
            types=("Immunization",),
        )
        for group in (*GROUPS, OTHER)
        if group in doses
    ]


def _row(one: Vaccine, context: Context) -> Row:
    mark = None
    if not one.given:
        mark = Mark("none", "Not given", one.why_not)
    elif one.status:
        mark = Mark("none", sentence_case(one.status))
    when = moment_words(one.when)
    told = "told by somebody, not by who gave it" if one.reported else ""
    row = Row(
        title=one.name,
        href=context.link(one.record),
        mark=mark,
        details=with_marks(
            (sentence_case(joined(one.dose, *one.details)), told), one.record, one.marks, context
        ),
        aside=said_by(
            context, one.record, when or "no date given", f"by {one.by}" if one.by else ""
        ),
        struck=one.marks.mistaken,
    )
    return with_evidence(row, one.evidence, context)


VIEW = View(
    "immunizations",
    "Vaccines",
    Selection(types=("Immunization",), limit=1000),
    build,
    also=(CAREGIVERS, PERSONS, Selection(types=("Location",), limit=200)),
)
