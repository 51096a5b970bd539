"""People: who the record is about, care teams, professionals and places, as they appear."""

from collections.abc import Mapping, Sequence
from typing import Any

from phr.chart.people import (
    PEOPLE,
    PLACES,
    TEAMS,
    Patient,
    Person,
    Team,
    patients,
    people,
    places,
    system_label,
    teams,
)
from phr.chart.plain import counted, joined, sentence_case
from phr.fhir.record import Record, Selection
from phr.views.evidence import how, with_evidence
from phr.views.frame import Context, Mark, Row, Sheet, View, said_by, sheets, with_marks


def build(records: Sequence[Record], context: Context) -> Mapping[str, Any]:
    """Build the page from Patient, CareTeam, Practitioner and Organization records."""
    known, where = people(records, how(context)), places(records, how(context))
    circle = teams(records)
    heading = joined(
        counted(len(known), "person", "people") if known else "",
        counted(len(where), "place") if where else "",
        by=" and ",
    )
    return sheets(
        context,
        f"{heading} in this record" if known or where else "No people or places yet",
        "Names and numbers can be old. They are shown as they were sent.",
        Sheet(
            "This record is about",
            tuple(_patient(one, context) for one in patients(records, how(context))),
        ),
        Sheet("Care teams", tuple(_team(one, context) for one in circle), types=TEAMS),
        Sheet(
            "People",
            tuple(_person(one, context) for one in known),
            empty="" if known or where else "Nobody is named in this record.",
            types=PEOPLE,
        ),
        Sheet("Places", tuple(_person(one, context) for one in where), types=PLACES),
    )


def _patient(one: Patient, context: Context) -> Row:
    facts = tuple(f"{label}: {value}" for label, value in one.facts)
    born = f"born {one.born}" if one.born else "birth date not given"
    row = Row(
        title=one.name,
        href=context.link(one.record),
        details=with_marks((joined(born, one.sex), *facts), one.record, one.marks, context),
        aside=said_by(context, one.record),
        struck=one.marks.mistaken,
    )
    return with_evidence(row, one.evidence, context)


def _team(one: Team, context: Context) -> Row:
    members = tuple(joined(name, role, by=": ") for name, role in one.members)
    return Row(
        title=one.name,
        href=context.link(one.record),
        mark=None if one.status in ("active", "") else Mark("none", sentence_case(one.status)),
        details=with_marks(members, one.record, one.marks, context),
        aside=said_by(context, one.record, one.period),
        struck=one.marks.mistaken,
    )


def _person(one: Person, context: Context) -> Row:
    reach = tuple(f"{system_label(system)}: {value}" for system, value in one.contacts[:6])
    row = Row(
        title=one.name,
        href=context.link(one.record),
        details=with_marks(
            (joined(*one.roles), *reach, one.address), one.record, one.marks, context
        ),
        aside=said_by(context, one.record),
        struck=one.marks.mistaken,
    )
    return with_evidence(row, one.evidence, context)


VIEW = View(
    "people",
    "People",
    Selection(types=("Patient", *TEAMS, *PEOPLE, *PLACES), limit=1000),
    build,
)
