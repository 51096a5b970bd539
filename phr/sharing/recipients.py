"""Whom the patient shares with: a doctor, practice or folder, as the patient named them."""

import unicodedata
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr import ids
from phr.errors import InvalidInput
from phr.store.models import Recipient, RecipientKind

NAME_LENGTH = 120


def one_line(text: str, *, limit: int) -> str:
    """Return typed text as one NFC line of at most `limit` characters, control characters gone."""
    plain = unicodedata.normalize("NFC", text)
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in plain)
    return " ".join(visible.split())[:limit].rstrip()


def named(session: Session, name: str, kind: RecipientKind, *, now: datetime) -> Recipient:
    """Return the recipient of this kind and name, made now if the patient never named it before.

    Raises InvalidInput for an empty name.
    """
    line = one_line(name, limit=NAME_LENGTH)
    if not line:
        raise InvalidInput("Please say for whom this is: a doctor or a practice.")
    found = session.scalars(
        select(Recipient).where(Recipient.kind == kind, Recipient.name == line).limit(1)
    ).first()
    if found is not None:
        return found
    made = Recipient(id=ids.new_id(), name=line, kind=kind, created_at=now)
    session.add(made)
    session.flush()
    return made


def app(session: Session, client_id: str, name: str, *, now: datetime) -> Recipient:
    """Return the recipient that an app is in this record, made now if it never asked before."""
    known = select(Recipient).where(
        Recipient.kind == RecipientKind.APP,
        func.json_extract(Recipient.identifiers, "$.client_id") == client_id,
    )
    found = session.scalars(known.limit(1)).first()
    if found is not None:
        return found
    made = Recipient(
        id=ids.new_id(),
        name=one_line(name, limit=NAME_LENGTH),
        kind=RecipientKind.APP,
        identifiers={"client_id": client_id},
        created_at=now,
    )
    session.add(made)
    session.flush()
    return made
