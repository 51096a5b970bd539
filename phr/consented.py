"""The target's side of a consent token: an app asks this record to fetch from another server.

The patient agrees first; then a connection fetches like any other, with a token that the other
server gives for its Consent and our key. What this house gives to others: `phr.sharing.consents`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr import ids, oauth
from phr.errors import Conflict, InvalidInput, NeedsReauthorisation, NotFound, RemoteBroken
from phr.http import Http
from phr.oauth import Client
from phr.sharing import servers
from phr.sharing.gate import Standing
from phr.store import audit, connections
from phr.store.database import Priority
from phr.store.models import ConnectionState, FetchAsked
from phr.store.vault import Vault

MOST_WAITING: Final = 20
FULL: Final = "Too many such requests wait for the patient's answer. Nothing was kept."
ANSWERED: Final = "This was answered already."
REFUSED_THERE: Final = (
    "The other server gives nothing under this Consent. It may not be approved there yet, or it is"
    " for another server than this one. Nothing was changed."
)
NOBODY: Final = "The other server did not say whose record it is, so nothing was connected."


def ask(
    vault: Vault, by: Standing, url: str, consent: str, *, http: Http, now: datetime
) -> FetchAsked:
    """Note that an app asks this record to fetch under a Consent at another server.

    Nothing is asked there before the patient agrees. Raises AddressRefused, InvalidInput, Conflict
    where too many wait.
    """
    place = http.guard.check(url)
    if place.query or not oauth.FHIR_ID.match(consent):
        raise InvalidInput("The address or the id of the Consent cannot be used.")
    with vault.write() as session:
        waits = select(func.count()).select_from(FetchAsked)
        if (session.scalar(waits.where(FetchAsked.connection_id.is_(None))) or 0) >= MOST_WAITING:
            raise Conflict(FULL)
        row = FetchAsked(
            id=ids.new_id(),
            client_id=by.client_id or "",
            url=url.rstrip("/"),
            consent=consent,
            created_at=now,
        )
        session.add(row)
        actor = {"kind": "recipient", "id": by.grant.id, "name": by.recipient}
        audit.append(session, vault, "fetch.proposed", actor, grant_id=by.grant.id)
        session.flush()
        return row


def waiting(session: Session) -> list[FetchAsked]:
    """Return what nobody answered yet, the newest first."""
    wanted = select(FetchAsked).where(FetchAsked.connection_id.is_(None))
    return list(session.scalars(wanted.order_by(FetchAsked.created_at.desc(), FetchAsked.id)))


def of_app(session: Session, client_id: str | None, request_id: str) -> FetchAsked:
    """Return one request of this app. Raises NotFound, also for one that was refused."""
    row = session.get(FetchAsked, request_id)
    if row is None or row.client_id != client_id:
        raise NotFound
    return row


def agree(
    vault: Vault,
    request_id: str,
    *,
    http: Http,
    public_url: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> int:
    """Connect the other server and return the connection's id; the first fetch is due.

    The first token proves that the Consent there names our key. Raises InvalidInput (also where it
    does not), NetError, RemoteBroken, Conflict.
    """
    with vault.read() as session:
        row = session.get(FetchAsked, request_id)
        if row is None:
            raise NotFound
        if row.connection_id is not None:
            raise Conflict(ANSWERED)
        url, consent = row.url, row.consent
    endpoint = oauth.discover(http, url)
    client = Client(public_url, "", key=servers.own_key(vault.house), consent=consent)
    try:
        credentials = oauth.by_consent(http, endpoint, client, now=now)
    except NeedsReauthorisation:
        raise InvalidInput(REFUSED_THERE) from None
    if not credentials.patient:
        raise RemoteBroken(NOBODY)
    with vault.write(Priority.URGENT) as session:
        row = session.get_one(FetchAsked, request_id)
        if row.connection_id is not None:
            raise Conflict(ANSWERED)
        row.connection_id = connections.add(
            session,
            kind="smart",
            name=servers.shown(url),
            base_url=url,
            endpoint=endpoint.to_json(),
            client=client.to_json(),
            state=ConnectionState.ACTIVE,
            now=now,
        )
        made = connections.get(session, row.connection_id)
        made.remote_patient, made.credentials = credentials.patient, credentials.to_json()
        made.next_pull_at = now
        audit.append(session, vault, "connection.authorised", actor, connection=made.id)
        return made.id


def decline(vault: Vault, request_id: str) -> None:
    """Say no: nothing is kept of it. Raises NotFound, Conflict where it was agreed to."""
    with vault.write() as session:
        row = session.get(FetchAsked, request_id)
        if row is None:
            raise NotFound
        if row.connection_id is not None:
            raise Conflict(ANSWERED)
        session.delete(row)
