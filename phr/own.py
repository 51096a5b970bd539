"""The patient's own layer: statements kept as records of their own, beside what hospitals sent.

Each is authored by the patient, with Provenance; hospital bytes are never altered. A change is a
new version, a mistake is marked as one, and both can be undone. What may be stated is
`phr.fhir.statements`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock, ids, keep
from phr.errors import NotFound
from phr.fhir import statements
from phr.fhir.build import authored, concept
from phr.fhir.record import Item, Record, Selection
from phr.fhir.statements import Statement
from phr.store import audit, connections
from phr.store.models import Connection, ConnectionState, PullState
from phr.store.vault import Vault

NAME: Final = "The patient"  # as the origin of a record: "listed as current by The patient"


@dataclass(frozen=True, slots=True)
class Author:
    """Who states something: the actor of the audit line, and whether it is the patient."""

    actor: Mapping[str, Any]
    is_patient: bool


def state(
    vault: Vault,
    statement: Statement,
    answers: Mapping[str, str],
    author: Author,
    *,
    now: datetime,
    remote_id: str | None = None,
) -> str:
    """Keep a statement, or a new version of the one with this id; return its id.

    Raises InvalidInput with a sentence for the field that cannot be taken.
    """
    id_ = remote_id or ids.new_id()
    made = statements.build(statement, answers, id_=id_, now=now)
    _keep(vault, made, author, "UPDATE" if remote_id else "CREATE", now)
    return id_


def take_back(vault: Vault, record: Record, author: Author, *, now: datetime) -> None:
    """Mark a statement as made by mistake; it stays readable, and this can be undone."""
    held = _own(vault, record)
    statement = statements.of_type(held)
    if statement is None:
        raise NotFound
    _keep(vault, statements.taken_back(statement, held), author, "NULLIFY", now)


def undo(vault: Vault, versions: list[Record], author: Author, *, now: datetime) -> None:
    """State again what the version before the newest one said. `versions` are newest first."""
    if len(versions) < 2:
        raise NotFound
    _own(vault, versions[0])
    _keep(vault, dict(versions[1].document), author, "UPDATE", now)


def not_taken(vault: Vault, record: Record, author: Author, *, now: datetime) -> str:
    """State "I don't take this" about a medicine that a hospital lists; return the id."""
    listed = record.document
    named = listed.get("medicationCodeableConcept") or {"text": "Medicine without a name"}
    made = {
        "resourceType": "MedicationStatement",
        "id": ids.new_id(),
        "status": "not-taken",
        "medicationCodeableConcept": named,
        "subject": statements.PATIENT,
        "dateAsserted": clock.instant(now),
        "informationSource": statements.PATIENT,
    }
    _keep(vault, made, author, "CREATE", now)
    return str(made["id"])


def connection_of(vault: Vault) -> int | None:
    """Return the id of the place where own statements are kept, or None before the first one."""
    with vault.read() as session:
        return next((row.id for row in connections.listed(session, kind=connections.OWN)), None)


def selection(connection_id: int) -> Selection:
    """Return the selection of everything that was stated, newest first."""
    types = tuple(dict.fromkeys(one.type for one in statements.STATEMENTS.values()))
    return Selection(types=types, connection_id=connection_id, limit=500)


def _own(vault: Vault, record: Record) -> Mapping[str, Any]:
    """Return a statement's resource. Raises NotFound for what a hospital sent."""
    if record.connection_id != connection_of(vault):
        raise NotFound
    return record.document


def _keep(vault: Vault, made: Mapping[str, Any], author: Author, what: str, now: datetime) -> None:
    """Keep a statement and its Provenance (R4 §6.3) together, with one audit line."""
    provenance = _provenance(made, author, what, now)
    items = [Item(authored(each)) for each in (made, provenance)]
    with vault.write() as session:
        row = _place(session, now)
        connection_id = row.id
        pull_id = connections.claim(session, row, now=now, full=False, anew=True).pull_id
    keeper = keep.Keeper(vault, connection_id, pull_id, now=now, live=True)
    keeper.page(str(made["resourceType"]), items)
    keeper.finish()
    with vault.write() as session:
        pull = connections.pull(session, connection_id, pull_id)
        pull.state, pull.ended_at = PullState.DONE, now
        row = session.get_one(Connection, connection_id)
        row.claimed_by, row.last_pull_at = None, now
        detail = {"type": made["resourceType"], "what": what.casefold()}
        audit.append(session, vault, "own.stated", author.actor, **detail)


def _place(session: Session, now: datetime) -> Connection:
    for row in connections.listed(session, kind=connections.OWN):
        return row
    made = connections.add(
        session, kind=connections.OWN, name=NAME, base_url="", now=now, state=ConnectionState.ACTIVE
    )
    return session.get_one(Connection, made)


def _provenance(
    made: Mapping[str, Any], author: Author, what: str, now: datetime
) -> Mapping[str, Any]:
    who = statements.PATIENT if author.is_patient else {"display": str(author.actor.get("name"))}
    return {
        "resourceType": "Provenance",
        "id": ids.new_id(),
        "target": [{"reference": f"{made['resourceType']}/{made['id']}"}],
        "recorded": clock.instant(now),
        "activity": concept("v3-DataOperation", what),
        "agent": [{"type": concept("provenance-participant-type", "author"), "who": who}],
    }
