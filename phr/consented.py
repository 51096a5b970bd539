"""The target's side of a consent token: an app asks this record to fetch from another server.

The patient agrees first; then a connection fetches like any other, with a token that the other
server gives for its Consent and our key. What this house gives to others: `phr.sharing.consents`.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr import ids, oauth, pull
from phr.errors import (
    Conflict,
    InvalidInput,
    NeedsReauthorisation,
    NotFound,
    RemoteBroken,
    StepUpNeeded,
)
from phr.http import Http
from phr.oauth import Client
from phr.sharing import grants, servers
from phr.sharing.gate import Standing
from phr.sharing.grants import StepUp
from phr.store import audit, connections
from phr.store.database import Priority
from phr.store.models import ConnectionState, FetchAsked
from phr.store.vault import Vault

WAITING_OF_ONE: Final = 5  # requests of one app that nobody has answered
MOST_WAITING: Final = 100  # of all apps: so many that an app learns nothing of the others
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
        waits = (
            select(func.count()).select_from(FetchAsked).where(FetchAsked.connection_id.is_(None))
        )
        own = session.scalar(waits.where(FetchAsked.client_id == by.client_id)) or 0
        if own >= WAITING_OF_ONE or (session.scalar(waits) or 0) >= MOST_WAITING:
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
    step_up: StepUp,
    actor: Mapping[str, Any],
    now: datetime,
) -> int:
    """Connect the other server and return the connection's id; the first fetch is due.

    The first token proves that the Consent there names our key, and the Consent then belongs to
    this record alone. Raises InvalidInput (also where it does not), NetError, RemoteBroken,
    Conflict, StepUpNeeded.
    """
    if not timedelta() <= now - step_up.at <= grants.FRESH:
        raise StepUpNeeded
    with vault.read() as session:
        row = session.get(FetchAsked, request_id)
        if row is None:
            raise NotFound
        if row.connection_id is not None:
            raise Conflict(ANSWERED)
        url, consent = row.url, row.consent
    endpoint = oauth.discover(http, url)
    _must_be_one_place(url, endpoint.token_endpoint)
    client = Client(public_url, "", consent=consent)
    keyed = pull.with_key(vault, client)
    try:
        credentials = oauth.by_consent(http, endpoint, keyed, now=now)
    except NeedsReauthorisation:
        raise InvalidInput(REFUSED_THERE) from None
    if not credentials.patient:
        raise RemoteBroken(NOBODY)
    _must_be_ours(vault, url, consent)
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
        audit.append(
            session,
            vault,
            "connection.authorised",
            actor,
            connection=made.id,
            factor=step_up.factor,
        )
        return made.id


def _must_be_one_place(url: str, token_endpoint: str) -> None:
    """Refuse a server whose tokens another one gives: it would be handed that one's token."""
    here, there = urlsplit(url), urlsplit(token_endpoint)
    if (here.scheme, here.netloc) != (there.scheme, there.netloc):
        raise InvalidInput(
            f"{here.netloc} says that {there.netloc} gives its tokens. A token of {there.netloc}"
            f" is not shown to {here.netloc}, so nothing was connected."
        )


def _must_be_ours(vault: Vault, url: str, consent: str) -> None:
    """Bind a Consent there to the first record of this house that fetches under it."""
    name = hashlib.sha256(f"{url}\n{consent}".encode()).hexdigest()
    if vault.house.setting_or_made(f"consent_of {name}", lambda: vault.id) != vault.id:
        raise InvalidInput(REFUSED_THERE)


def decline(vault: Vault, request_id: str) -> None:
    """Say no: nothing is kept of it. Raises NotFound, Conflict where it was agreed to."""
    with vault.write() as session:
        row = session.get(FetchAsked, request_id)
        if row is None:
            raise NotFound
        if row.connection_id is not None:
            raise Conflict(ANSWERED)
        session.delete(row)
