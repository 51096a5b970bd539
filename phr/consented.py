"""The target's side of a Consent or a Permission Ticket: this record fetches from another server.

The patient agrees first; then a connection fetches like any other, with a token that the other
server gives for its Consent, or for the ticket, and our key. What this house gives to others:
`phr.sharing.consents`, `phr.sharing.tickets`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr import clock, ids, jwt, oauth, pull
from phr.errors import (
    AddressRefused,
    Conflict,
    InvalidInput,
    NeedsReauthorisation,
    NotFound,
    RemoteBroken,
    StepUpNeeded,
    TrustError,
)
from phr.fhir.kinds import KINDS
from phr.http import Http
from phr.oauth import Client, Credentials, Endpoint
from phr.sharing import asking, consents, grants, servers, tickets
from phr.sharing.asking import Line
from phr.sharing.gate import Standing
from phr.sharing.grants import StepUp
from phr.store import audit, connections
from phr.store.database import Priority
from phr.store.house import House
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
NO_TICKET: Final = "This is no Permission Ticket, or it cannot be read. Paste all of it."
TICKET_REFUSED: Final = (
    "The other server gives nothing for this ticket: it was stopped there, has run out, or was made"
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


_unanswered: WeakKeyDictionary[object, tuple[int, int]] = WeakKeyDictionary()


def unanswered(vault: Vault) -> int:
    """Return how many proposals of apps, to share or to fetch, wait for the patient's answer.

    Remembered until anything is written: every page shows it.
    """
    at = vault.database.commits
    known = _unanswered.get(vault.database)
    if known is None or known[0] != at:
        with vault.read() as session:
            number = consents.number_waiting(session) + _number_waiting(session)
        _unanswered[vault.database] = known = (at, number)
    return known[1]


def _number_waiting(session: Session) -> int:
    waits = FetchAsked.connection_id.is_(None)
    return int(session.scalar(select(func.count()).select_from(FetchAsked).where(waits)) or 0)


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
        row.connection_id = _connect(
            session, vault, (endpoint, client, credentials), step_up=step_up, actor=actor, now=now
        )
        return row.connection_id


def _connect(
    session: Session,
    vault: Vault,
    known: tuple[Endpoint, Client, Credentials],
    *,
    step_up: StepUp,
    actor: Mapping[str, Any],
    now: datetime,
) -> int:
    """Add the connection that fetches from there, due now, and return its id."""
    endpoint, client, credentials = known
    made = connections.get(
        session,
        connections.add(
            session,
            kind="smart",
            name=servers.shown(endpoint.base_url),
            base_url=endpoint.base_url,
            endpoint=endpoint.to_json(),
            client=client.to_json(),
            state=ConnectionState.ACTIVE,
            now=now,
        ),
    )
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
    """Bind a Consent or ticket there to the first record of this house that fetches under it."""
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


# ------------------------------------------------------------------ with a ticket


@dataclass(frozen=True, slots=True)
class Offered:
    """What a ticket says of itself, unchecked: only the server that made it can check it."""

    text: str = field(repr=False)
    id: str
    url: str  # FHIR base of the server where it is taken
    ends_at: datetime
    lines: tuple[Line, ...]
    is_ours: bool  # made for the key of this house

    @property
    def name(self) -> str:
        """What a person tells that server by."""
        return servers.shown(self.url)

    @property
    def words(self) -> tuple[str, ...]:
        """What may be fetched, each kind once; those that name people and places go without."""
        named = [line.scope for line in self.lines if line.scope.type not in asking.NAMELESS]
        whole = {scope.type for scope in named if not scope.query}
        if "*" in whole:
            return ("Everything that is shared",)
        return tuple(
            dict.fromkeys(
                KINDS[scope.type].label + ("" if scope.type in whole else ", in part")
                for scope in named
            )
        )


def offered(house: House, text: str, now: datetime) -> Offered:
    """Read what a pasted ticket says. Raises InvalidInput where it is none."""
    plain = "".join(text.split())
    try:
        said = jwt.peek(plain) if len(plain) <= tickets.LONGEST else {}
        url = servers.plain_address(str(said["aud"]))
        ends_at = clock.from_ms(int(said["exp"]) * 1000)
        named = str(said["jti"])
    except (TrustError, InvalidInput, LookupError, TypeError, ValueError, OverflowError):
        raise InvalidInput(NO_TICKET) from None
    if said.get("ticket_type") not in tickets.TYPES:
        raise InvalidInput(NO_TICKET)
    if ends_at <= now:
        raise InvalidInput("This ticket has run out. Ask for a new one.")
    key = jwt.thumbprint(jwt.public_half(servers.own_key(house)))
    bound = said.get("presenter_binding")
    is_ours = isinstance(bound, dict) and bound.get("jkt") == key
    return Offered(plain, named, url, ends_at, tickets.lines(plain), is_ours)


def take_up(
    vault: Vault,
    ticket: Offered,
    *,
    http: Http,
    public_url: str,
    step_up: StepUp,
    actor: Mapping[str, Any],
    now: datetime,
) -> int:
    """Connect the server that made a ticket and return the connection's id; a fetch is due.

    The first token proves the ticket, which then belongs to this record alone. Raises as `agree`.
    """
    if not timedelta() <= now - step_up.at <= grants.FRESH:
        raise StepUpNeeded
    if not ticket.is_ours:
        raise InvalidInput(TICKET_REFUSED)
    try:
        http.guard.check(ticket.url)
    except AddressRefused as error:
        raise InvalidInput(error.sentence) from None
    endpoint = oauth.discover(http, ticket.url)
    _must_be_one_place(ticket.url, endpoint.token_endpoint)
    client, credentials = _shown(vault, http, endpoint, ticket, public_url, now=now)
    if not credentials.patient:
        raise RemoteBroken(NOBODY)
    _must_be_ours(vault, ticket.url, f"ticket {ticket.id}")
    with vault.write(Priority.URGENT) as session:
        return _connect(
            session, vault, (endpoint, client, credentials), step_up=step_up, actor=actor, now=now
        )


def _shown(
    vault: Vault,
    http: Http,
    endpoint: Endpoint,
    ticket: Offered,
    public_url: str,
    *,
    now: datetime,
) -> tuple[Client, Credentials]:
    """Exchange the ticket, by our address or by our key: as one of them we are known there."""
    kid = jwt.thumbprint(jwt.public_half(servers.own_key(vault.house)))
    for name in (public_url, f"{servers.THUMBPRINT}{kid}"):
        client = Client(name, "", ticket=ticket.text)
        try:
            keyed = pull.with_key(vault, client)
            return client, oauth.by_ticket(http, endpoint, keyed, now=now)
        except NeedsReauthorisation:
            continue
    raise InvalidInput(TICKET_REFUSED)
