"""The patient's own layer: statements kept as records of their own, beside what hospitals sent.

Each is authored by the patient, with Provenance; hospital bytes are never altered. A change is a
new version, a mistake is marked as one, and both can be undone. What may be stated is
`phr.fhir.statements`.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock, gather, ids, keep
from phr.errors import InvalidInput, NotFound
from phr.fhir import statements
from phr.fhir.build import LOINC, authored, concept
from phr.fhir.record import Item, Record, Selection
from phr.fhir.references import local_id_of, local_key
from phr.fhir.statements import Statement
from phr.papers.kinds import kind_of
from phr.store import audit, connections
from phr.store.models import Connection, ConnectionState, PullState
from phr.store.vault import Vault

NAME: Final = "The patient"  # as the origin of a record: "listed as current by The patient"


@dataclass(frozen=True, slots=True)
class Author:
    """Who states something: the actor of the audit line, and whether it is the patient."""

    actor: Mapping[str, Any]
    is_patient: bool


@dataclass(frozen=True, slots=True)
class File:
    """A file that a person brings as a document: its name there, and its bytes."""

    name: str
    content: bytes = field(repr=False)


def state(
    vault: Vault,
    statement: Statement,
    answers: Mapping[str, str],
    author: Author,
    *,
    now: datetime,
    version_of: Record | None = None,
) -> str:
    """Keep a statement, or a new version of an own record; return its id.

    Raises InvalidInput with a sentence for the field that cannot be taken.
    """
    id_ = version_of.remote_id if version_of else ids.new_id()
    held = version_of.document if version_of else None
    made = statements.build(statement, answers, id_=id_, now=now, held=held)
    _keep(vault, made, author, "UPDATE" if version_of else "CREATE", now)
    return id_


def bring(
    vault: Vault, answers: Mapping[str, str], file: File, author: Author, *, now: datetime
) -> str:
    """Keep a document that a person brings, its file beside it by hash; return its id.

    What the file is, its bytes say. Raises InvalidInput for an empty or too large one.
    """
    if not file.content:
        raise InvalidInput("This file is empty.")
    if len(file.content) > keep.MAX_ATTACHMENT:
        raise InvalidInput("This file is larger than 25 MB.")
    kind = kind_of(file.content)
    id_, url = ids.new_id(), f"Binary/{ids.new_id()}"
    made = statements.build(statements.STATEMENTS["document"], answers, id_=id_, now=now)
    digest = hashlib.sha1(file.content, usedforsecurity=False).digest()  # R4 Attachment.hash
    attachment = {
        "contentType": kind.media_type,
        "url": url,
        "size": len(file.content),
        "hash": base64.b64encode(digest).decode(),
        "title": file.name[:200],
    }
    made["content"] = [{"attachment": {name: one for name, one in attachment.items() if one}}]
    _keep(vault, made, author, "CREATE", now)
    place = connection_of(vault)
    with vault.read() as session:
        wanted = connections.files_wanted(session, place) if place is not None else []
    for pk, address in wanted:
        if address == url:
            keep.attach(vault, pk, url, kind.media_type, file.content)
    return id_


def remark(
    vault: Vault,
    record: Record,
    answers: Mapping[str, str],
    author: Author,
    *,
    slug: str,
    title: str,
    now: datetime,
) -> str:
    """Keep a "note" on a record, or an own "name" for it; return its id. The record stays as it is.

    `title` is how the record is called. A remark is private from the start: it leaves only where
    the patient takes that mark away, or ticks this very remark in a share.
    """
    id_ = ids.new_id()
    held = statements.about(record.document, record.local_id, title)
    made = statements.build(statements.STATEMENTS[slug], answers, id_=id_, now=now, held=held)
    _keep(vault, made, author, "CREATE", now)
    place = connection_of(vault)
    if place is not None:
        key = local_key(vault.id_key, place, str(made["resourceType"]), id_)
        keep.mark_private(vault, local_id_of(key), on=True)
    return id_


def remarks(connection_id: int) -> Selection:
    """Return the selection of all notes on records and own names, newest first."""
    return Selection(
        types=("List", "DocumentReference"),
        codes=(
            f"{statements.OWN_WORDS}|{statements.OWN_NAME}",
            f"{LOINC}|{statements.NOTE_CODE}",
        ),
        connection_id=connection_id,
        limit=1000,
    )


def mark_private(vault: Vault, local_id: str, remarked: Iterable[Record], *, on: bool) -> None:
    """Keep a record private, and what was remarked on it; or take the mark away from it alone.

    A remark may say more than its record does: it becomes shareable only by its own page.
    """
    keep.mark_private(vault, local_id, on=on)
    for one in remarked if on else ():
        keep.mark_private(vault, one.local_id, on=True)


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


def not_taken(
    vault: Vault, record: Record, named: Sequence[Record], author: Author, *, now: datetime
) -> str:
    """State "I don't take this" about a medicine that a hospital lists; return the id.

    `named` are the records it points to: one of them may hold the medicine's name. What is stated
    counts as the same thing as the hospital's record, whatever its codes.
    """
    made = {
        "resourceType": "MedicationStatement",
        "id": ids.new_id(),
        "status": "not-taken",
        "medicationCodeableConcept": _medicine(record, named),
        "subject": statements.PATIENT,
        "dateAsserted": clock.instant(now),
        "informationSource": statements.PATIENT,
    }
    _keep(vault, made, author, "CREATE", now)
    id_ = str(made["id"])
    place = connection_of(vault)
    if place is not None:
        stated = local_id_of(local_key(vault.id_key, place, "MedicationStatement", id_))
        by = str(author.actor.get("id", ""))
        with suppress(InvalidInput):  # told as one thing already, by name or code
            gather.join(vault, record.local_id, stated, by=by, now=now)
    return id_


def _medicine(record: Record, named: Sequence[Record]) -> Mapping[str, Any]:
    """Return what a hospital's record calls its medicine: itself, inside, or where it points."""
    listed = record.document
    pointed = listed.get("medicationReference")
    reference = pointed if isinstance(pointed, dict) else {}
    inside = listed.get("contained")
    held = [one for one in inside if isinstance(one, dict)] if isinstance(inside, list) else []
    around = [*held, *(one.document for one in named)]
    codes = [one.get("code") for one in around if one.get("resourceType") == "Medication"]
    found = [listed.get("medicationCodeableConcept"), *codes]
    told = next((one for one in found if isinstance(one, dict) and one), None)
    display = reference.get("display")
    text = display if isinstance(display, str) and display else "Medicine without a name"
    return told or {"text": text}


def connection_of(vault: Vault) -> int | None:
    """Return the id of the place where own statements are kept, or None before the first one."""
    with vault.read() as session:
        return connections.own_place(session)


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
