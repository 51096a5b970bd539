"""Medicines: listed as current, unclear, past, handed out or given."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.medications import GIVEN, LISTED, Medicine, Standing, medications
from phr.chart.plain import counted, joined, moment_words, sentence_case
from phr.fhir.record import Record, Selection
from phr.views.evidence import PERSONS, contradiction, how, with_evidence
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

_NO_DOSE = "No dose given by the source"


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from medication records."""
    found = medications(records, context.now, how(context))
    kinds = {standing: [one for one in found if one.standing is standing] for standing in Standing}
    current = kinds[Standing.CURRENT]
    return sheets(
        context,
        at_least(VIEW, records, heading(found, context)),
        "A list can be out of date. It says what was listed, not what is taken.",
        Sheet(
            "Listed as current",
            tuple(row(one, context) for one in current),
            empty="No source lists a medicine as current."
            if found
            else nothing(context, LISTED, "medicines"),
        ),
        Sheet("Said of the list", tuple(row(one, context) for one in kinds[Standing.SAID])),
        Sheet(
            "Unclear",
            tuple(row(one, context) for one in kinds[Standing.UNCLEAR]),
            ("neither clearly current nor clearly past",),
        ),
        Sheet("Past", tuple(row(one, context) for one in kinds[Standing.PAST]), types=LISTED),
        Sheet(
            "Handed out or given",
            tuple(row(one, context) for one in kinds[Standing.GIVEN]),
            ("single events, newest first",),
            types=GIVEN,
        ),
    )


def heading(found: Sequence[Medicine], context: Context) -> str:
    """Return the answer."""
    current = [one for one in found if one.standing is Standing.CURRENT]
    said = [one for one in found if one.standing is Standing.SAID]
    if current:
        verb = "is" if len(current) == 1 else "are"
        return f"{counted(len(current), 'medicine')} {verb} listed as current"
    if said and all(one.standing is not Standing.UNCLEAR for one in found):
        return f"{sentence_case(said[0].name)}, says {context.origin(said[0].record)}"
    return "No medicine is listed as current" if found else "Medicines are unknown"


def row(one: Medicine, context: Context) -> Row:
    """Return a medicine with its dose and who lists it."""
    reasons = joined(*one.reasons)
    details = (
        *(one.doses or (() if one.standing in (Standing.GIVEN, Standing.SAID) else (_NO_DOSE,))),
        f"For: {reasons}" if reasons else "",
        _handed(one),
        contradiction(one.record.document.get("medicationCodeableConcept")),
    )
    made = Row(
        title=one.name,
        href=context.link(one.record),
        mark=_mark(one),
        details=with_marks(details, one.record, one.marks, context),
        aside=_aside(one, context),
        struck=one.marks.mistaken,
    )
    return with_evidence(made, one.evidence, context)


def _mark(one: Medicine) -> Mark | None:
    if one.why:
        return Mark("ended" if one.standing is Standing.PAST else "none", sentence_case(one.why))
    return None


def _handed(one: Medicine) -> str:
    """Return when a pharmacy last handed it out; that changes nothing about how it is listed."""
    day, supply = one.handed
    if not day:
        return ""
    return joined(f"Last handed out {moment_words(day)}", f"for {supply}" if supply else "")


def _aside(one: Medicine, context: Context) -> tuple[str, ...]:
    dated = moment_words(one.dated)
    when = {"MedicationDispense": "handed out", "MedicationAdministration": "given"}.get(
        one.record.type, "stated" if one.record.type == "MedicationStatement" else "written"
    )
    written = joined(f"{when} {dated}" if dated else "", f"by {one.by}" if one.by else "", by=" ")
    if one.standing is Standing.CURRENT:
        return tuple(
            line for line in (context.listed(one.record, "listed as current"), written) if line
        )
    return said_by(context, one.record, written)


VIEW = View(
    "medications",
    "Medicines",
    Selection(types=LISTED, limit=2000),
    build,
    also=(
        Selection(types=GIVEN, limit=200),
        Selection(types=("Medication",), limit=2000),
        CAREGIVERS,
        PERSONS,
    ),
)
