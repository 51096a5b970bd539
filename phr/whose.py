"""Whose a received record is: this person's, somebody else's, or nobody can tell.

A connection is pinned to one remote patient; a file says it by the Patients that are in it. What
becomes of a record then is decided by `phr.keep`, which asks here before it keeps anything.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from phr.connectors.smart import SUPPORTING
from phr.errors import InvalidInput
from phr.fhir import document
from phr.fhir.intake import Taken
from phr.fhir.kinds import KINDS
from phr.fhir.reading import text
from phr.store import bodies
from phr.told import Fault, Told

ANOTHER: Final = Told(
    "This belongs to another patient. It was not kept in this record.", Fault.OTHER_PERSON
)
UNSAID: Final = (
    "It came along with another patient's records and does not say whose it is. It was not kept in"
    " this record."
)
_PATIENT: Final = KINDS["Patient"]


@dataclass(slots=True)
class _Company:
    """Whether the Patients of one file (or chain) are this person, somebody else, or both."""

    ours: bool = False
    others: bool = False


class Whose:
    """What one import has learned about whose its records are.

    `expected` is the remote patient that a connection is pinned to; None: files have no such pin.
    `strangers` are the remote ids of Patients that are somebody else: it grows as they are met.
    """

    def __init__(self, session: Session, expected: str | None) -> None:
        self._expected = expected
        self.ours = (expected,)  # what records of a connection say, as a rule
        self._birth_date = _birth_date(session) if expected is None else None
        self._company: dict[str, _Company] = {}  # by chain, which is one file of what was brought
        self.strangers: set[str] = set()

    def meet(self, chain: str, remote_id: str, body: bytes) -> None:
        """Tell whether a Patient is the one of this record, and remember it for its chain.

        Several ids in files may be one person's, but somebody with another birth date is a
        stranger.
        """
        if self._expected is not None:
            is_ours = remote_id == self._expected
        else:
            try:
                born = text(document.loads(body).get("birthDate"))
            except InvalidInput:
                return  # it is refused where it is decided about
            ours = self._birth_date or born
            is_ours = ours.startswith(born) or born.startswith(ours)
            self._birth_date = ours or None
        company = self._company.setdefault(chain, _Company())
        if is_ours:
            company.ours = True
        else:
            company.others = True
            self.strangers.add(remote_id)

    def refuse_others(self, remote_id: str, taken: Taken, chain: str) -> None:
        """Raise InvalidInput for what is somebody else's, or may be.

        What names nobody belongs to whom its file is about: where all Patients of a file are
        strangers it is theirs, and where some are, nobody can tell.
        """
        if not self.strangers and (self._expected is None or taken.patients == self.ours):
            return
        is_patient = taken.kind is _PATIENT
        whose = (remote_id,) if is_patient else taken.patients
        if not self.strangers.isdisjoint(whose):
            raise InvalidInput(ANOTHER)
        if self._expected is not None and any(one != self._expected for one in whose):
            raise InvalidInput(ANOTHER)
        company = self._about(chain)
        if is_patient or not company.others:
            return
        if not company.ours:
            raise InvalidInput(ANOTHER)
        if not whose and taken.kind.type not in SUPPORTING:
            raise InvalidInput(UNSAID)

    def _about(self, chain: str) -> _Company:
        """Return whom a file is about; one without a Patient, whom the rest of its zip is about.

        A connection is always about its own patient too, and each of its chains stands alone.
        """
        company = self._company.get(chain)
        if self._expected is not None:
            return _Company(ours=True, others=company is not None and company.others)
        if company is not None:
            return company
        every = self._company.values()
        return _Company(any(one.ours for one in every), any(one.others for one in every))


def _birth_date(session: Session) -> str | None:
    """Return the birth date of the person whose vault this is, as its hospitals gave it."""
    rows = session.connection().exec_driver_sql(
        "SELECT body FROM record WHERE type = ? ORDER BY pk", (_PATIENT.number,)
    )
    for row in rows.fetchall():
        if born := text(document.parse(bodies.unpack(session, row[0])).get("birthDate")):
            return born
    return None
