"""The authorization server of SMART App Launch 2.2: what an app asks, and the tokens it is given.

Authlib walks the code and refresh grants, revocation and introspection (RFC 6749, 7636, 7009,
7662); what it leaves open is here: S256 for everybody, `aud`, scopes, `private_key_jwt`, families
of refresh tokens. Nothing is decided about records: a token is a handle of a Grant, the gate looks.
"""

import hashlib
import hmac
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from authlib.common.urls import add_params_to_uri
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeGrant,
    AuthorizationServer,
    BaseGrant,
    ClientCredentialsGrant,
    ClientMixin,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
    OAuth2Request,
    RefreshTokenGrant,
    TokenEndpointMixin,
)
from authlib.oauth2.rfc6749.requests import OAuth2Payload
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from sqlalchemy import select
from sqlalchemy.orm import Session

from phr import ids, jwt
from phr.errors import Conflict, InvalidInput
from phr.fhir import references
from phr.fhir.labels import Label
from phr.sharing import (
    asking,
    clients,
    consents,
    gate,
    grants,
    handles,
    proof,
    recipients,
    tickets,
)
from phr.sharing.addresses import Addresses
from phr.sharing.asking import Context, Wishes
from phr.sharing.clients import App
from phr.sharing.grants import StepUp
from phr.sharing.handles import Bearer
from phr.sharing.proof import OAuthRefused
from phr.sharing.provision import Action, Provision
from phr.sharing.tickets import Ticket
from phr.store import audit
from phr.store.database import Priority
from phr.store.house import House
from phr.store.models import (
    Authorization,
    ConsentAsked,
    Grant,
    GrantState,
    Handle,
    HandleKind,
    HandleState,
    MemberRole,
    Membership,
)
from phr.store.vault import Vault, Vaults

# Authlib writes tokens into its own log at the level of debugging.
logging.getLogger("authlib").disabled = True
for _name in ("authorization_code", "refresh_token", "client_credentials"):
    logging.getLogger(f"authlib.oauth2.rfc6749.grants.{_name}").disabled = True

MAX_FIELD: Final = 4000  # characters
CODE_LASTS: Final = timedelta(seconds=60)
SERVER_TOKEN_LASTS: Final = timedelta(seconds=300)  # of a backend service, at most (§3.3)
SECRET: Final = 43  # characters of 32 bytes in base64url; the mark of 16 follows
GRACE: Final = timedelta(seconds=30)  # in which a refresh may be repeated: its answer was lost
ISSUER_KEY: Final = "issuer_key"
ID_TOKEN_LASTS: Final = timedelta(minutes=10)
REUSED = "reused"  # why a grant ended: a key that was used up came again


@dataclass(frozen=True, slots=True)
class Asked:
    """A sound authorization request, waiting for a patient's answer."""

    app: App
    redirect_uri: str
    scopes: Wishes  # what can be given of what was asked
    sending: Wishes  # what it would send, for one tick of the patient's
    state: str
    code_challenge: str
    nonce: str | None
    launch: str | None


@dataclass(slots=True)
class Answer:
    """What the token endpoint and its sisters say: status and JSON body."""

    status: int
    body: Mapping[str, Any]


# ------------------------------------------------------------------ an app asks


def read_request(house: House, given: Mapping[str, Sequence[str]], addresses: Addresses) -> Asked:
    """Judge an authorization request (SMART App Launch 2.2 §2.1.6). Raises OAuthRefused.

    `leads_to` of the refusal is empty where app or redirect address are not known: then nobody is
    sent anywhere (sharing.md §3.8).
    """
    server = _Server(house, addresses)
    request = _Request("GET", given)
    try:
        consent = server.get_consent_grant(request)
        return _asked(consent.client.app, consent.redirect_uri, request, addresses)
    except OAuth2Error as error:
        leads_to = error.redirect_uri or ""
        raise OAuthRefused(error.error, str(error.description or ""), leads_to=leads_to) from None


def _asked(app: App, redirect_uri: str, request: "_Request", addresses: Addresses) -> Asked:
    given = request.payload.data
    for name in ("state", "aud", "code_challenge", "scope"):
        if not given.get(name):
            raise InvalidRequestError(f"Missing '{name}' in request.", redirect_uri=redirect_uri)
    if any(len(values) > 1 for values in request.payload.datalist.values()):
        raise InvalidRequestError("A parameter stands twice.", redirect_uri=redirect_uri)
    if any(len(each) > MAX_FIELD for each in given.values()):
        raise InvalidRequestError("A parameter is too long.", redirect_uri=redirect_uri)
    if {"request", "request_uri"} & given.keys() or given.get("response_mode", "query") != "query":
        raise InvalidRequestError("Only plain requests are taken.", redirect_uri=redirect_uri)
    if given.get("code_challenge_method") != "S256":
        words = "Only 'code_challenge_method=S256' is offered."
        raise InvalidRequestError(words, redirect_uri=redirect_uri)
    if given["aud"].rstrip("/") != addresses.fhir:
        raise InvalidRequestError("'aud' is not this server.", redirect_uri=redirect_uri)
    try:
        asked = asking.read(given["scope"])
    except InvalidInput:
        raise InvalidScopeError(redirect_uri=redirect_uri) from None
    registered = asking.read(app.says.scope)
    offered = asking.grantable(asked, (Context.PATIENT, Context.USER)).bounded(registered)
    sending = asking.sendable(asked, (Context.PATIENT, Context.USER)).bounded(registered)
    if not (offered.lines or offered.errands or sending.lines):
        raise InvalidScopeError(redirect_uri=redirect_uri)
    return Asked(
        app,
        redirect_uri,
        offered,
        sending,
        given["state"],
        given["code_challenge"],
        given.get("nonce"),
        given.get("launch"),
    )


def leading_back(redirect_uri: str, addresses: Addresses, **said: str) -> str:
    """Return the app's address with an answer in it, and who answers (RFC 9207 §2)."""
    words = {name: value for name, value in said.items() if value}
    return str(add_params_to_uri(redirect_uri, [*words.items(), ("iss", addresses.public_url)]))


@dataclass(frozen=True, slots=True)
class Answered:
    """What a patient let an app have: lines, labels, how far back, and until when."""

    wishes: Wishes
    labels: Label
    since: datetime | None
    ends_at: datetime

    @property
    def provision(self) -> Provision:
        """The same as what a grant covers."""
        sent = {Action.CONTRIBUTE} if self.wishes.sends else set()
        actions = frozenset({Action.VIEW, Action.DOWNLOAD, *sent})
        return Provision(asking.reaching(self.wishes.rules, self.since), self.labels, actions)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The patient's own act: the form it came by, the fresh factor, what was shown, and when."""

    grant_id: str  # comes with the form, so that one sent twice makes one grant
    step_up: StepUp
    shown: str
    actor: Mapping[str, Any]
    now: datetime


def allow(vault: Vault, asked: Asked, answered: Answered, confirmed: Confirmed) -> str:
    """Approve what an app asked and return its code (RFC 6749 §4.1.2).

    The code lasts 60 seconds and is redeemed once, by this app, with the verifier of its
    challenge. Raises StepUpNeeded, InvalidInput where nothing is left, Conflict for a form sent
    twice; then nothing was made.
    """
    secret = ids.new_secret()
    with vault.write() as session:
        routing_id, row = _approved(session, vault, asked.app, answered, confirmed)
        row.redirect_uri, row.nonce = asked.redirect_uri, asked.nonce
        row.code_challenge = asked.code_challenge
        row.code_hash, row.code_ends_at = ids.fingerprint(secret), confirmed.now + CODE_LASTS
    clients.let_in(vault.house, asked.app.id, by=confirmed.step_up.account_id)
    return f"{routing_id}.{secret}"


def allow_server(vault: Vault, app: App, answered: Answered, confirmed: Confirmed) -> None:
    """Let a backend service fetch tokens for this record by itself (SMART App Launch 2.2 §5).

    It belongs to this record from now on. Raises as `allow` does.
    """
    if not app.is_backend or app.patient_id not in {None, vault.id}:
        raise Conflict
    by = confirmed.step_up.account_id
    clients.let_in(vault.house, app.id, by=by, patient_id=vault.id)
    with vault.write() as session:
        _approved(session, vault, app, answered, confirmed)


def _approved(
    session: Session, vault: Vault, app: App, answered: Answered, confirmed: Confirmed
) -> tuple[str, Authorization]:
    """Make recipient, grant, approval, authorization; return its tokens' routing id with it."""
    name, now = f"{app.says.name} ({app.host})", confirmed.now
    grant = grants.create(
        session,
        grant_id=confirmed.grant_id,
        recipient_id=recipients.app(session, app.id, name, now=now).id,
        role="app",
        provision=answered.provision,
        reason="",
        created_by=confirmed.step_up.account_id,
        shared_by=str(confirmed.actor["name"]),
        ends_at=answered.ends_at,
        uses=None,
        now=now,
        purpose="PATRQT",
        for_errands=bool(answered.wishes.errands) or answered.wishes.sends,
    )
    shown, actor = confirmed.shown, confirmed.actor
    grants.approve(
        session, vault, grant, step_up=confirmed.step_up, shown=shown, actor=actor, now=now
    )
    row = Authorization(
        grant_id=grant.id,
        client_id=app.id,
        account_id=confirmed.step_up.account_id,
        scopes=str(answered.wishes),
        redirect_uri="",
        code_challenge="",
        chain_key=ids.random_bytes(32),
    )
    session.add(row)
    return handles.bearer_route(vault.house, vault.id, grant.id), row


# ------------------------------------------------------------------ the token endpoint


@dataclass(frozen=True, slots=True)
class Desk:
    """What every endpoint for apps needs: the house, its vaults, our addresses, and the time."""

    house: House
    vaults: Vaults
    addresses: Addresses
    now: datetime


def give_token(desk: Desk, app: App, given: Mapping[str, Sequence[str]]) -> Answer:
    """Answer a token request of an app that has proved who it is (RFC 6749 §4.1.3, §4.4.2, §6).

    One urgent transaction decides and issues: a code or refresh token sent twice at once is
    redeemed once. One that was used up before ends the grant. A ticket is shown again and again.
    Raises OAuthRefused or Sealed.
    """
    ticket = None
    if _first(given, "grant_type") == tickets.EXCHANGE:
        ticket = tickets.read(desk.house, given, app.key, desk.addresses, now=desk.now)
        found = _reach_ticket(desk, ticket)
    else:
        found = _reach(desk, app, _presented(given), proof.consent_of(given))
    if found is None:
        raise OAuthRefused("invalid_grant")
    vault, grant_id, routing_id = found
    with vault.write(Priority.URGENT) as session:
        server = _Server(desk.house, desk.addresses)
        server.at = _At(session, vault, app, grant_id, routing_id, desk.now, ticket)
        answer: Answer = server.create_token_response(_Request("POST", given))
    if server.at.reused:
        gate.end(vault, grant_id, REUSED, gate.APPLIANCE, now=desk.now)
    return answer


def revoke(desk: Desk, app: App, given: Mapping[str, Sequence[str]]) -> Answer:
    """End a token of this app (RFC 7009): a refresh token takes the whole grant with it.

    Whatever is unknown, or another app's, is answered alike: 200, and nothing happens (§2.2).
    """
    answer, at = _ask(desk, app, given, "revocation")
    if at is not None and at.given_back:
        who = {"kind": "recipient", "id": app.id, "name": app.says.name}
        gate.end(at.vault, at.grant_id, "app", who, now=desk.now)
    return answer or Answer(200, {})


def introspect(desk: Desk, app: App, given: Mapping[str, Sequence[str]]) -> Answer:
    """Say what a token of this app stands for now (RFC 7662); of others: that it is not active."""
    answer, _at = _ask(desk, app, given, "introspection")
    return answer or Answer(200, {"active": False})


def _ask(
    desk: Desk, app: App, given: Mapping[str, Sequence[str]], endpoint: str
) -> tuple[Answer | None, "_At | None"]:
    found = _reach(desk, app, _first(given, "token"))
    if found is None:
        return None, None
    vault, grant_id, routing_id = found
    server = _Server(desk.house, desk.addresses)
    with vault.write(Priority.URGENT) as session:
        server.at = _At(session, vault, app, grant_id, routing_id, desk.now)
        return server.create_endpoint_response(endpoint, _Request("POST", given)), server.at


def _presented(given: Mapping[str, Sequence[str]]) -> str:
    return _first(given, "code") or _first(given, "refresh_token")


def _first(given: Mapping[str, Sequence[str]], name: str) -> str:
    values = given.get(name) or ("",)
    return values[0]


def _reach(
    desk: Desk, app: App, presented: str, consent_id: str = ""
) -> tuple[Vault, str, str] | None:
    """Return the vault, grant and routing id that a token text or a backend service leads to.

    Raises Sealed where the record is there and closed.
    """
    if not (presented or consent_id) and app.is_backend and app.patient_id is not None:
        return _reach_server(desk, app, app.patient_id)
    if consent_id:
        return _reach_consent(desk, app, consent_id)
    bearer = handles.bearer_of(presented)
    route = None if bearer is None else handles.route_of(desk.house, bearer)
    if bearer is None or route is None:
        return None
    patient_id, grant_id = route
    return desk.vaults.get(patient_id), grant_id, bearer.routing_id


def _reach_ticket(desk: Desk, ticket: Ticket) -> tuple[Vault, str, str] | None:
    route = handles.route_of(desk.house, Bearer(ticket.id, ""))
    if route is None or route[0] != ticket.patient_id:
        return None
    patient_id, grant_id = route
    return desk.vaults.get(patient_id), grant_id, ticket.id


def _reach_consent(desk: Desk, app: App, consent_id: str) -> tuple[Vault, str, str] | None:
    patient_id = consents.whose(desk.house, consent_id)
    if patient_id is None:
        return None
    vault = desk.vaults.get(patient_id)
    with vault.read() as session:
        grant_id = consents.granted(session, consent_id, app.id)
    if grant_id is None:
        return None
    return vault, grant_id, handles.bearer_route(desk.house, vault.id, grant_id)


def _reach_server(desk: Desk, app: App, patient_id: str) -> tuple[Vault, str, str] | None:
    vault = desk.vaults.get(patient_id)
    wanted = (
        select(Authorization.grant_id)
        .join(Grant, Grant.id == Authorization.grant_id)
        .where(
            Authorization.client_id == app.id,
            Grant.state == GrantState.ACTIVE,
            Grant.id.not_in(select(ConsentAsked.grant_id)),  # those ask by their Consent
            Grant.id.not_in(select(Handle.grant_id).where(Handle.kind == HandleKind.TICKET)),
        )
        .order_by(Grant.created_at.desc())
        .limit(1)
    )
    with vault.read() as session:
        grant_id = session.scalars(wanted).first()
    if grant_id is None:
        return None
    return vault, grant_id, handles.bearer_route(desk.house, vault.id, grant_id)


# ------------------------------------------------------------------ Authlib, filled in


@dataclass(slots=True)
class _At:
    """The one grant that a request is about, in the transaction that answers it."""

    session: Session
    vault: Vault
    app: App
    grant_id: str
    routing_id: str
    now: datetime
    ticket: Ticket | None = None  # the one that is shown, where one is
    reused: bool = False
    given_back: bool = False

    def row(self) -> Authorization | None:
        found = self.session.get(Authorization, self.grant_id)
        return found if found is not None and found.client_id == self.app.id else None

    def grant(self) -> Grant | None:
        """The grant, while tokens may be given under it."""
        found = self.session.get(Grant, self.grant_id)
        if found is None or found.state != GrantState.ACTIVE:
            return None
        return found if found.starts_at <= self.now < found.ends_at else None


class _Payload(OAuth2Payload):  # type: ignore[misc]  # Authlib has no types
    def __init__(self, given: Mapping[str, Sequence[str]]) -> None:
        self._given = given

    @property
    def datalist(self) -> "defaultdict[str, list[str]]":
        return defaultdict(list, {name: list(each) for name, each in self._given.items()})

    @property
    def data(self) -> dict[str, str]:
        return {name: each[0] for name, each in self._given.items() if each}


class _Request(OAuth2Request):  # type: ignore[misc]  # Authlib has no types
    def __init__(self, method: str, given: Mapping[str, Sequence[str]]) -> None:
        # Which addresses are safe enough is `settings`' to say; Authlib would ask for https only.
        super().__init__(method, "https://here.invalid/")
        self.payload = _Payload(given)

    @property
    def form(self) -> Mapping[str, str]:
        return self.payload.data


class _Client(ClientMixin):  # type: ignore[misc]  # Authlib has no types
    def __init__(self, app: App) -> None:
        self.app = app

    def get_client_id(self) -> str:
        return self.app.id

    def get_default_redirect_uri(self) -> None:
        """An address left out is none: which one was meant is not guessed."""

    def get_allowed_scope(self, scope: str) -> str:
        return scope  # judged in `_asked`, and by the patient

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.app.says.redirect_uris

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and not self.app.is_backend

    def check_grant_type(self, grant_type: str) -> bool:
        of_servers = {"client_credentials", proof.BEARER, tickets.EXCHANGE}
        return (grant_type in of_servers) == self.app.is_backend


class _Server(AuthorizationServer):  # type: ignore[misc]  # Authlib has no types
    at: _At

    def __init__(self, house: House, addresses: Addresses) -> None:
        super().__init__()
        self.house, self.addresses = house, addresses
        self.register_grant(_CodeGrant, [CodeChallenge(required=True)])
        self.register_grant(_RefreshGrant)
        self.register_grant(_ServerGrant)
        self.register_grant(_ConsentGrant)
        self.register_grant(_TicketGrant)
        self.register_endpoint(_Revocation)
        self.register_endpoint(_Introspection)

    def query_client(self, client_id: str) -> _Client | None:
        app = clients.find(self.house, client_id)
        return None if app is None else _Client(app)

    def authenticate_client(
        self, request: _Request, _methods: Sequence[str], _endpoint: str = "token"
    ) -> _Client:
        """Return the app, which has proved who it is before anything was looked up."""
        request.auth_method = self.at.app.says.method
        return _Client(self.at.app)

    def save_token(self, token: Mapping[str, Any], request: _Request) -> None:
        """Nothing more to keep: a token is kept as it is made."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def validate_requested_scope(self, scope: str) -> None:
        """Wishes are judged where the request is: `_asked`, `_ServerGrant`, `_RefreshGrant`."""

    def create_oauth2_request(self, request: _Request) -> _Request:
        return request

    def handle_response(
        self, status: int, body: Mapping[str, Any], _headers: Sequence[tuple[str, str]]
    ) -> Answer:
        return Answer(status, body)

    def token(self, row: Authorization, given: Wishes, lasts: timedelta) -> dict[str, Any]:
        """Return the body of a token answer under a grant that stands (RFC 6749 §5.1, SMART)."""
        at = self.at
        grant = grants.get(at.session, at.grant_id)
        made = handles.make_token(
            at.session,
            at.grant_id,
            at.routing_id,
            str(given),
            now=at.now,
            lasts=min(lasts, grant.ends_at - at.now),
        )
        return {
            "access_token": made.text,
            "token_type": "Bearer",
            "expires_in": int((made.expires_at - at.now).total_seconds()),
            "scope": row.scopes if given == asking.read(row.scopes) else str(given),
            "patient": references.patient_id(at.vault.id_key),
            "need_patient_banner": True,
        }


@dataclass(frozen=True, slots=True)
class _Code:
    """An authorization as Authlib wants to see a code."""

    row: Authorization
    code_challenge_method: str = "S256"

    @property
    def code_challenge(self) -> str:
        return self.row.code_challenge

    def get_redirect_uri(self) -> str:
        return self.row.redirect_uri

    def get_scope(self) -> str:
        return self.row.scopes


class _CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]  # Authlib has no types
    server: _Server

    def query_authorization_code(self, code: str, _client: _Client) -> _Code | None:
        at = self.server.at
        row, bearer = at.row(), handles.bearer_of(code)
        if row is None or bearer is None or row.code_hash is None or row.code_ends_at is None:
            return None
        if not ids.same(ids.fingerprint(bearer.secret), row.code_hash):
            return None
        if row.redeemed_at is not None:
            at.reused = True
            return None
        return _Code(row) if at.now < row.code_ends_at else None

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        at, row = self.server.at, self.request.authorization_code.row
        if at.grant() is None:
            raise InvalidGrantError
        given = asking.read(row.scopes)
        body = self.server.token(row, given, handles.TOKEN_LASTS)
        row.redeemed_at = at.now
        if asking.OFFLINE in given.plain:
            secret = ids.new_secret()
            row.refresh_hash, row.refreshed_at = ids.fingerprint(secret), at.now
            body["refresh_token"] = _written(at, row, secret)
        if asking.OPENID in given.plain:
            body["id_token"] = _id_token(self.server, row, given)
        _note_connected(at)
        return 200, body, self.TOKEN_RESPONSE_HEADER


def _note_connected(at: _At) -> None:
    """Write into the patient's log that somebody has a token for the first time."""
    actor = gate.actor_of(at.session, grants.get(at.session, at.grant_id))
    audit.append(at.session, at.vault, "app.connected", actor, grant_id=at.grant_id)


class _RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]  # Authlib has no types
    server: _Server

    def authenticate_refresh_token(self, text: str) -> "_Refresh | None":
        at = self.server.at
        row, bearer = at.row(), handles.bearer_of(text)
        if row is None or bearer is None or row.refresh_hash is None:
            return None
        secret = _read(row, bearer.secret)
        if secret is None:
            return None
        following = _next(row.chain_key, secret)
        if ids.same(ids.fingerprint(secret), row.refresh_hash):
            return _Refresh(row, following, is_new=True)
        fresh = row.refreshed_at is not None and at.now - row.refreshed_at <= GRACE
        if fresh and ids.same(ids.fingerprint(following), row.refresh_hash):
            return _Refresh(row, following, is_new=False)
        at.reused = True
        return None

    def _validate_token_scope(self, token: "_Refresh") -> None:
        wanted = self.request.payload.scope
        try:
            if wanted and not asking.read(wanted).within(asking.read(token.row.scopes)):
                raise InvalidScopeError
        except InvalidInput:
            raise InvalidScopeError from None

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        at, held = self.server.at, self.request.refresh_token
        if at.grant() is None:
            raise InvalidGrantError
        given = asking.read(self.request.payload.scope or held.row.scopes)
        body = self.server.token(held.row, given, handles.TOKEN_LASTS)
        if held.is_new:
            held.row.refresh_hash = ids.fingerprint(held.following)
            held.row.refreshed_at = at.now
        body["refresh_token"] = _written(at, held.row, held.following)
        return 200, body, self.TOKEN_RESPONSE_HEADER


@dataclass(frozen=True, slots=True)
class _Refresh:
    """A refresh token that fits: its row, the one that follows it, and whether it does so now."""

    row: Authorization
    following: str = field(repr=False)
    is_new: bool

    def check_client(self, client: _Client) -> bool:
        return self.row.client_id == client.app.id


def _next(chain_key: bytes, secret: str) -> str:
    return ids.as_text(hmac.digest(chain_key, secret.encode(), hashlib.sha256))


def _written(at: _At, row: Authorization, secret: str) -> str:
    """Return a refresh token: its secret, and our mark that we gave it out."""
    return f"{at.routing_id}.{secret}{_mark(row.chain_key, secret)}"


def _read(row: Authorization, text: str) -> str | None:
    """Return the secret behind the dot; None where it was never given out by us."""
    secret, mark = text[:SECRET], text[SECRET:]
    return secret if ids.same(mark, _mark(row.chain_key, secret)) else None


def _mark(chain_key: bytes, secret: str) -> str:
    said = f"refresh {secret}".encode()
    return ids.as_text(hmac.digest(chain_key, said, hashlib.sha256)[:16])


class _ServerGrant(ClientCredentialsGrant):  # type: ignore[misc]  # Authlib has no types
    server: _Server

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        at = self.server.at
        row = at.row()
        if row is None or at.grant() is None or row.redirect_uri:
            raise InvalidGrantError
        try:
            asked = asking.read(self.request.payload.scope or "")
        except InvalidInput:
            raise InvalidScopeError from None
        offered = asking.grantable(asked, (Context.SYSTEM,))
        if not offered.lines or not offered.within(asking.read(row.scopes)):
            raise InvalidScopeError
        body = self.server.token(row, offered, SERVER_TOKEN_LASTS)
        return 200, body, self.TOKEN_RESPONSE_HEADER


class _ConsentGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # Authlib has no types
    """A server shows a Consent (jwt-bearer as at the connectathon of 2017, sharing.md §9.1)."""

    GRANT_TYPE = proof.BEARER
    server: _Server

    def validate_token_request(self) -> None:
        """Take what was proved already; the Consent alone says which scopes there are."""
        self.request.client = self.server.authenticate_client(self.request, ())
        if "scope" in self.request.payload.data:
            raise InvalidScopeError

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        at = self.server.at
        row, asked = at.row(), at.session.get(ConsentAsked, at.grant_id)
        if row is None or asked is None or at.grant() is None:
            raise InvalidGrantError
        body = self.server.token(row, asking.read(row.scopes), SERVER_TOKEN_LASTS)
        if asked.used_at is None:
            _note_connected(at)
        asked.used_at, asked.error = at.now, None
        return 200, body, self.TOKEN_RESPONSE_HEADER


class _TicketGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # Authlib has no types
    """A server shows a SMART Permission Ticket (RFC 8693 §2.1); Authlib has only its name."""

    GRANT_TYPE = tickets.EXCHANGE
    server: _Server

    def validate_token_request(self) -> None:
        """Take what was proved and read already: server and ticket."""
        self.request.client = self.server.authenticate_client(self.request, ())

    def create_token_response(self) -> tuple[int, dict[str, Any], Any]:
        at = self.server.at
        row, ticket = at.row(), at.ticket
        if row is None or ticket is None or at.grant() is None:
            raise InvalidGrantError
        if not tickets.bears(at.session, at.vault, at.grant_id, ticket):
            raise InvalidGrantError
        given = tickets.granted(row, ticket)
        if not given.lines:
            raise InvalidScopeError
        body = self.server.token(row, given, SERVER_TOKEN_LASTS)
        if row.redeemed_at is None:
            _note_connected(at)
        row.redeemed_at = at.now
        body["issued_token_type"] = tickets.ACCESS_TOKEN  # RFC 8693 §2.2.1
        return 200, body, self.TOKEN_RESPONSE_HEADER


# ------------------------------------------------------------------ revoking, introspecting


@dataclass(frozen=True, slots=True)
class _Held:
    """A token of an app as Authlib wants to see it: an access token's handle, or none: refresh."""

    at: _At
    row: Authorization
    handle: Handle | None
    secret: str = field(default="", repr=False)  # of a refresh token

    def check_client(self, client: _Client) -> bool:
        return self.row.client_id == client.app.id

    def is_expired(self) -> bool:
        ends = None if self.handle is None else self.handle.expires_at
        return ends is not None and self.at.now >= ends

    def is_revoked(self) -> bool:
        """Whether nothing opens with it any more; of refresh tokens only the newest does."""
        if self.at.grant() is None:
            return True
        if self.handle is not None:
            return self.handle.state == HandleState.ENDED
        return not ids.same(ids.fingerprint(self.secret), self.row.refresh_hash or handles.UNKNOWN)


def _held(at: _At, text: str) -> _Held | None:
    row, bearer = at.row(), handles.bearer_of(text)
    if row is None or bearer is None:
        return None
    handle = handles.token_of(at.session, at.grant_id, bearer.secret)
    refresh = None if handle is not None else _read(row, bearer.secret)
    if handle is None and refresh is None:
        return None
    return _Held(at, row, handle, refresh or "")


class _Revocation(RevocationEndpoint):  # type: ignore[misc]  # Authlib has no types
    server: _Server

    def query_token(self, text: str, _hint: str | None) -> _Held | None:
        return _held(self.server.at, text)

    def revoke_token(self, token: _Held, _request: _Request) -> None:
        if token.handle is None:
            self.server.at.given_back = True
        else:
            handles.end_token(token.at.session, token.handle.id)


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]  # Authlib has no types
    server: _Server

    def query_token(self, text: str, _hint: str | None) -> _Held | None:
        return _held(self.server.at, text)

    def check_permission(self, token: _Held, client: _Client, _request: _Request) -> bool:
        return token.check_client(client)

    def introspect_token(self, token: _Held) -> dict[str, Any]:
        at = token.at
        ends = token.handle.expires_at if token.handle is not None else None
        grant = grants.get(at.session, at.grant_id)
        return {
            "active": True,
            "scope": token.handle.scopes if token.handle is not None else token.row.scopes,
            "client_id": token.row.client_id,
            "exp": int((ends or grant.ends_at).timestamp()),
            "iss": self.server.addresses.public_url,
            "patient": references.patient_id(at.vault.id_key),
        }


# ------------------------------------------------------------------ who signed in


def _id_token(server: _Server, row: Authorization, given: Wishes) -> str:
    """Return who approved, for this app alone: `sub` differs from app to app (OIDC Core §8.1)."""
    at = server.at
    sub = hmac.digest(server.house.key, f"sub {row.client_id} {row.account_id}".encode(), "sha256")
    claims: dict[str, Any] = {
        "iss": server.addresses.public_url,
        "sub": sub.hex()[:32],
        "aud": row.client_id,
        "iat": int(at.now.timestamp()),
        "exp": int((at.now + ID_TOKEN_LASTS).timestamp()),
    }
    if row.nonce:
        claims["nonce"] = row.nonce
    if asking.FHIR_USER in given.plain and _is_self(server, row):
        claims["fhirUser"] = (
            f"{server.addresses.fhir}/Patient/{references.patient_id(at.vault.id_key)}"
        )
    return jwt.sign(claims, issuer_key(server.house))


def _is_self(server: _Server, row: Authorization) -> bool:
    """Say whether who approved is the patient: a parent is not, and is no resource here."""
    with server.house.read() as session:
        member = session.get(Membership, (row.account_id, server.at.vault.id))
        return member is not None and member.role == MemberRole.SELF


def issuer_key(house: House) -> Mapping[str, Any]:
    """Return the private key that signs who signed in; made at the first need."""
    kept: Mapping[str, Any] = house.setting_or_made(ISSUER_KEY, lambda: jwt.new_key("RS256"))
    return kept


def published_keys(house: House) -> Mapping[str, Any]:
    """Return the JWK Set of this issuer (RFC 7517 §5)."""
    return {"keys": [jwt.public_half(issuer_key(house))]}
