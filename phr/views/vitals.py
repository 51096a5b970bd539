"""Vital signs: the latest of each kind with a small trend; blood pressure as a pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phr.chart.drawing import Spark, drawn_words, spark
from phr.chart.plain import clip, counted, joined, moment_words
from phr.chart.results import LOINC, component_sentence
from phr.chart.vitals import BODY_MASS, BodyMass, Reading, Vital, body_mass, plain_name, vitals
from phr.chart.whose import Whose, whose
from phr.fhir.record import Record, Selection
from phr.views.evidence import PERSONS, from_words, how
from phr.views.frame import CAREGIVERS, Context, Mark, View, is_full, nothing, standing
from phr.views.measured import age_of, setting_words
from phr.views.results import size_of


@dataclass(frozen=True, slots=True)
class VitalRow:
    """One kind of vital sign, ready to show."""

    name: str
    href: str | None
    value: str
    unit: str
    size: str
    mark: Mark | None
    taken: str
    before: str
    spark: Spark | None
    spark_words: str
    details: tuple[str, ...]
    struck: bool


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from vital-sign Observations."""
    found = vitals(records, how(context))
    person = whose(records, how(context))
    made = body_mass(found, person)
    rows = [_row(one, context, person) for one in found]
    return {
        "heading": _heading(found),
        "lead": _lead(records),
        "rows": [*rows, *([_worked_out(made, person)] if made else [])],
        "empty": "" if found else nothing(context, ("Observation",), "vital signs"),
    }


def _lead(records: Sequence[Record]) -> str:
    """Say how far back this page looks, when it does not look at everything."""
    if not is_full(VIEW, records):
        return ""
    return f"From the newest {VIEW.selection.limit} measurements. Older ones are under All records."


def _heading(found: Sequence[Vital]) -> str:
    if not found:
        return "No vital signs yet"
    first = found[0]
    newest = first.come[0]
    if first.name == "Blood pressure":
        taken = moment_words(newest.first.taken.partition("T")[0])
        words = joined(newest.words, newest.unit, by=" ")
        if any(one.value.figure is not None for one in newest.figures):
            return joined(
                f"The last blood pressure was {words}", f"on {taken}" if taken else "", by=" "
            )
        told = any(part.value.figure is not None for one in newest.figures for part in one.parts)
        if told:
            return f"{joined('Blood pressure', f'on {taken}' if taken else '', by=' ')}: {words}"
        return joined("Blood pressure, no figure given", f"on {taken}" if taken else "", by=" ")
    return f"{counted(len(found), 'kind')} of vital signs"


def _worked_out(made: BodyMass, person: Whose) -> VitalRow:
    """Return the body mass index that no source sent, marked as ours."""
    weight, height = made.weight, made.height
    told = joined(
        *(
            f"{name} {one.value.words} {one.value.unit} ({moment_words(one.taken)})"
            for name, one in (("weight", weight), ("height", height))
        ),
        by=" and ",
    )
    return VitalRow(
        name=plain_name((LOINC, BODY_MASS)),
        href=None,
        value=made.words,
        unit="kg/m²",
        size=size_of(made.words),
        mark=Mark("none", "Worked out by Homeport"),
        taken=f"from {told}",
        before="",
        spark=None,
        spark_words="",
        details=tuple(line for line in (age_of(weight, person, BODY_MASS),) if line),
        struck=False,
    )


def _row(vital: Vital, context: Context, person: Whose) -> VitalRow:
    newest, *older = vital.come
    one = newest.first
    flagged = next((part for part in (one, *newest.figures) if part.word.flagged), None)
    series = context.test_link(*vital.key) if vital.key else None
    old = older[0] if older else None
    value, parts = _main(newest)
    code = vital.key[1] if vital.key else ""
    drawn = [reading.figures[0] for reading in vital.come]
    return VitalRow(
        name=vital.name,
        href=series or context.link(one.record),
        value=clip(value or "No value given", 300),
        unit=newest.unit,
        size=size_of(value),
        mark=Mark(flagged.word.mark, flagged.word.words, flagged.word.said) if flagged else None,
        taken=joined(
            moment_words(one.taken) or "no date given",
            from_words(one.evidence, context)
            if len(one.evidence.sources) > 1
            else context.origin(one.record),
        ),
        before=_before(old, newest.unit),
        spark=spark(drawn),
        spark_words=f"{vital.name}, last values: " + ", ".join(_last(vital.come)),
        details=tuple(
            line
            for line in (
                parts,
                joined(setting_words(one, context), age_of(one, person, code)),
                *(clip(note, 200) for note in one.notes),
                *context.remarks.words(one.record),
                *standing(one.record, one.marks, context),
            )
            if line
        ),
        struck=one.marks.mistaken,
    )


def _main(one: Reading) -> tuple[str, str]:
    """Return the main value and its parts apart: "77" and "Inhaled oxygen flow rate 6 L/min"."""
    first = one.first
    if len(one.figures) == 1 and first.parts and first.value.words:
        return first.value.words, component_sentence(first)
    return one.words, ""


def _before(old: Reading | None, unit: str) -> str:
    value = _main(old)[0] if old else ""
    if old is None or not value:
        return ""
    amount = joined(clip(value, 14), old.unit if old.unit != unit else "", by=" ")
    return joined(moment_words(old.first.taken.partition("T")[0]), amount, by=": ")


def _last(readings: Sequence[Reading]) -> list[str]:
    """Return the values that the small trend draws; converted ones are marked."""
    return [
        joined(*(drawn_words(one) for one in reading.figures), by="/")
        if reading.figures[0].converted
        else reading.words
        for reading in reversed(readings[:8])
    ]


VIEW = View(
    "vitals",
    "Vital signs",
    Selection(types=("Observation",), categories=("vital-signs",), limit=400),
    build,
    "vitals.html",
    (CAREGIVERS, PERSONS),
)
