"""The newest record of each concept: one row for each laboratory test, however many values it has.

Not here: what makes two concepts one test (`phr.chart.results`).
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from sqlalchemy.orm import Session

from phr import clock
from phr.fhir.kinds import KINDS
from phr.fhir.record import Record, Selection
from phr.store import records
from phr.store.records import Clause
from phr.store.vault import Vault

# Newest rows of one concept that are looked at: a report may carry the code of its one test,
_LOOKED_AT: Final = 3
_OF_PLACES: Final = 12  # and several places may each have sent some of one test.
_LOOKED_THROUGH: Final = 2000  # newest records of a type among which those without a code are found


def of_each_concept(session: Session, vault: Vault, selection: Selection) -> list[Record]:
    """Return the newest record of each concept among those of a Selection of one type.

    In the Selection's order and with its limit. Its index leads to the newest of each concept, so
    the work grows with the number of tests, not of values. Records without a code stay out. What is
    dated on a day to come is the newest only of a concept that has nothing else.
    """
    (type_,) = selection.types
    number = KINDS[type_].number
    newest = Clause(
        f"record.pk IN (SELECT coalesce({_first_of(' AND same.time <= ?')}, {_first_of('')})"
        " FROM concept)",
        (_to_come(), _LOOKED_AT, number, _LOOKED_AT, number),
    )
    return records.select(session, vault, selection, where=newest)


def without_concept(
    session: Session, vault: Vault, selection: Selection, limit: int
) -> list[Record]:
    """Return the newest records of a Selection of one type that came without a code.

    Among the 2,000 newest of the type: no index leads to them.
    """
    (type_,) = selection.types
    bare = Clause(
        "record.pk IN (SELECT pk FROM (SELECT pk, concept FROM record WHERE type = ?"
        " ORDER BY time DESC LIMIT ?) WHERE concept IS NULL)",
        (KINDS[type_].number, _LOOKED_THROUGH),
    )
    return records.select(session, vault, replace(selection, before=None, limit=limit), where=bare)


def _first_of(when: str) -> str:
    return (
        "(SELECT near.pk FROM (SELECT same.pk, same.type, same.time FROM record AS same"
        f" WHERE same.concept = concept.id{when} ORDER BY same.time DESC LIMIT ?) AS near"
        " WHERE near.type = ? ORDER BY near.time DESC LIMIT 1)"
    )


def _to_come() -> int:
    """Return from when on a day is still to come, in ms; a day is for zones."""
    return int((clock.now() + timedelta(days=1)).timestamp() * 1000)


def of_each_place(session: Session, vault: Vault, selection: Selection) -> list[Record]:
    """Return the newest record of each concept that each connection sent, as `of_each_concept`.

    A place counts whose record is among the twelve newest of its concept. What is dated on a day
    to come is none of them: it hides nothing that has happened.
    """
    (type_,) = selection.types
    newest = Clause(
        "record.pk IN (SELECT pk FROM ("
        "SELECT near.pk, max(coalesce(near.time, -9e18)) FROM record AS near"
        f" WHERE near.pk IN ({_NEAR}) AND near.type = ? GROUP BY near.concept, near.connection))",
        (*(_to_come(),) * _OF_PLACES, KINDS[type_].number),
    )
    return records.select(session, vault, selection, where=newest)


_NEAR: Final = " UNION ALL ".join(
    "SELECT (SELECT same.pk FROM record AS same WHERE same.concept = concept.id"
    f" AND coalesce(same.time, 0) <= ? ORDER BY same.time DESC LIMIT 1 OFFSET {nth}) FROM concept"
    for nth in range(_OF_PLACES)
)
