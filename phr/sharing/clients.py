"""The apps (OAuth clients) that may ask the patients of this house: registered, known, blocked.

A row here opens nothing: what an app may read is a Grant, made when a patient answers it. How an
app proves who it is, and what it asks for: `authorization`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from phr import clock, ids, jwt, net
from phr.errors import AddressRefused, Conflict, InvalidInput, NotFound
from phr.sharing import asking
from phr.sharing.recipients import NAME_LENGTH, one_line
from phr.store import audit
from phr.store.database import Priority
from phr.store.house import House
from phr.store.models import Client, ClientState, SeenAssertion, Setting

MOST_CLIENTS: Final = 200  # in one house
MOST_WAITING: Final = 20  # of them nobody has let in yet
INVITATION: Final = "app_invitation"
INVITED_FOR: Final = timedelta(days=1)
WAITS_FOR: Final = timedelta(days=7)  # then a registration nobody used is forgotten
MOST_REDIRECTS: Final = 10
MAX_URL: Final = 2000
MAX_DOCUMENT: Final = 64 * 1024
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
METHODS: Final = ("none", "private_key_jwt")
GRANT_TYPES: Final = ("authorization_code", "refresh_token", "client_credentials")
REDIRECT_WORDS: Final = (
    "Each redirect address begins with https://, or with http:// on the app's own machine, or is"
    " an app's own scheme with a dot in it; without # and without a name or password."
)

ONE_HOST: Final = (
    "All redirect addresses of an app lead to one host, so that the patient is told the right one."
)
HOST: Final = re.compile(r"[A-Za-z0-9.\[\]:-]+", re.ASCII)
KEY_MEMBERS: Final = frozenset({"kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"})
MAX_MEMBER: Final = 4096
OWN_NETWORKS: Final = tuple(
    ip_network(each)
    for each in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
                 "::/64", "fc00::/7", "fe80::/10")
)  # fmt: skip


class BadRegistration(InvalidInput):
    """A registration that is not taken; `code` is RFC 7591 §3.2.2's."""

    def __init__(self, sentence: str, code: str = "invalid_client_metadata") -> None:
        """Take the sentence for people and the error code for programs."""
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app says of itself (RFC 7591 §2), read and found sound."""

    name: str
    redirect_uris: tuple[str, ...]
    jwks: Mapping[str, Any] | None
    jwks_uri: str | None
    scope: str = ""
    launch_url: str | None = None

    @property
    def method(self) -> str:
        """How it proves who it is at the token endpoint."""
        return "private_key_jwt" if self.jwks or self.jwks_uri else "none"


@dataclass(frozen=True, slots=True)
class App:
    """One registered app."""

    id: str
    state: ClientState
    says: Registration
    patient_id: str | None
    registered_by: str | None
    network: str | None
    created_at: datetime
    key: str = ""  # thumbprint of the key by which it has just proved who it is

    @property
    def is_backend(self) -> bool:
        """Whether it is a server that asks without a person (SMART backend services)."""
        return not self.says.redirect_uris

    @property
    def host(self) -> str:
        """What it is known by to a person: where it leads back to, or where its keys lie."""
        redirects = self.says.redirect_uris
        return known_by(redirects[0] if redirects else self.says.jwks_uri or "")


def known_by(address: str) -> str:
    """Return what a person can tell an address by: its host, or the scheme of an app's own."""
    parts = urlsplit(address)
    if parts.scheme in {"http", "https"}:
        return parts.hostname or ""
    return parts.scheme or "a server without an address"


# ------------------------------------------------------------------ what it says of itself


def read(given: Mapping[str, Any]) -> Registration:
    """Read the metadata of RFC 7591 §2; what is not used here is left out. Raises BadRegistration.

    Public apps and apps with a key of their own are taken; secrets are not: nothing would make a
    home server keep them.
    """
    redirects = _texts(given, "redirect_uris", "invalid_redirect_uri")
    types = _texts(given, "grant_types") or ("authorization_code",)
    if unknown := set(types) - set(GRANT_TYPES):
        raise BadRegistration(f"These grant types are not offered: {', '.join(sorted(unknown))}.")
    backend = "client_credentials" in types
    if backend and len(types) > 1:
        raise BadRegistration("A server that asks on its own is registered for that alone.")
    if backend == bool(redirects):
        code = "invalid_redirect_uri"
        raise BadRegistration("An app names where it leads back to; a server does not.", code)
    if not all(redirect_fits(each) for each in redirects) or len(redirects) > MOST_REDIRECTS:
        raise BadRegistration(REDIRECT_WORDS, "invalid_redirect_uri")
    if len({(urlsplit(each).scheme, known_by(each)) for each in redirects}) > 1:
        raise BadRegistration(ONE_HOST, "invalid_redirect_uri")
    if set(_texts(given, "response_types")) - {"code"}:
        raise BadRegistration("Only the response type “code” is offered.")
    return _with_keys(given, redirects, backend=backend)


def _with_keys(
    given: Mapping[str, Any], redirects: tuple[str, ...], *, backend: bool
) -> Registration:
    jwks, jwks_uri = given.get("jwks"), given.get("jwks_uri")
    method = given.get("token_endpoint_auth_method")
    if method is None:
        method = "private_key_jwt" if jwks or jwks_uri else "none"
    if method not in METHODS:
        raise BadRegistration("An app is public (none) or shows a key of its own: private_key_jwt.")
    keyed = method == "private_key_jwt"
    if (keyed and (jwks is None) == (jwks_uri is None)) or (backend and not keyed):
        raise BadRegistration("Give the public keys either as jwks or as jwks_uri.")
    return Registration(
        name=one_line(str(given.get("client_name") or ""), limit=NAME_LENGTH) or "An app",
        redirect_uris=redirects,
        jwks=public_keys(jwks) if keyed and jwks is not None else None,
        jwks_uri=_https(jwks_uri, "jwks_uri") if keyed and jwks_uri is not None else None,
        scope=_scope(given.get("scope")),
        launch_url=_https(given.get("initiate_login_uri"), "initiate_login_uri"),
    )


def redirect_fits(address: str) -> bool:
    """Say whether a redirect address can be trusted to lead to one app (RFC 8252 §7)."""
    plain = address.isascii() and address.isprintable() and len(address) <= MAX_URL
    if not plain or any(sign in address for sign in "#\\* "):
        return False
    try:
        parts = urlsplit(address)
        odd = "@" in parts.netloc or parts.port == 0
        odd = odd or bool(parts.netloc and not HOST.fullmatch(parts.netloc))
    except ValueError:
        return False
    if parts.scheme == "https":
        return bool(parts.hostname) and not odd
    if parts.scheme == "http":
        return (parts.hostname or "") in LOOPBACK and not odd
    return "." in parts.scheme  # of a domain its maker holds, §7.1; never javascript: or data:


def public_keys(jwks: Any) -> Mapping[str, Any]:
    """Return a JWK Set with what is needed of its public keys. Raises BadRegistration."""
    listed = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(listed, list) or not 0 < len(listed) <= jwt.MAX_KEYS:
        raise BadRegistration("jwks is a JWK Set with at least one key.")
    if any(not isinstance(key, dict) or set(key) & jwt.PRIVATE_MEMBERS for key in listed):
        raise BadRegistration("jwks holds public keys only. Make a new key: this one is known now.")
    keys = [{name: key[name] for name in KEY_MEMBERS & key.keys()} for key in listed]
    members = [value for key in keys for value in key.values()]
    if any(not isinstance(each, str) or len(each) > MAX_MEMBER for each in members):
        raise BadRegistration("The members of a key in jwks are short texts.")
    if len(json.dumps(keys)) > MAX_DOCUMENT:
        raise BadRegistration("jwks is larger than is read here.")
    return {"keys": keys}


def _https(address: Any, name: str) -> str | None:
    if address is None:
        return None
    try:
        place = net.parse(str(address))
    except AddressRefused as error:
        raise BadRegistration(f"{name}: {error.sentence}") from None
    if place.scheme != "https" and place.host not in LOOPBACK:
        raise BadRegistration(f"{name}: it must begin with https://.")
    return place.url


def _scope(text: Any) -> str:
    try:
        return str(asking.read(text)) if isinstance(text, str) and text else ""
    except InvalidInput as error:
        raise BadRegistration(error.sentence) from None


def _texts(given: Mapping[str, Any], name: str, code: str = "") -> tuple[str, ...]:
    value = given.get(name) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadRegistration(f"{name} is a list of texts.", code or "invalid_client_metadata")
    return tuple(dict.fromkeys(value))


# ------------------------------------------------------------------ kept in the house


def register(
    house: House,
    says: Registration,
    *,
    by: str | None = None,
    network: str | None = None,
    invited: bool = False,
) -> App:
    """Keep a registration and return the app. By an account it is known at once, else it waits.

    Raises Conflict when there are too many, of those that wait (and were not invited) or of all.
    """
    now = clock.now()
    with house.write() as session:
        _make_room(session, waiting=by is None and not invited, now=now)
        row = Client(
            id=ids.new_id(),
            name=says.name,
            state=ClientState.WAITING if by is None else ClientState.KNOWN,
            redirect_uris=list(says.redirect_uris),
            launch_url=says.launch_url,
            jwks=None if says.jwks is None else dict(says.jwks),
            jwks_uri=says.jwks_uri,
            scope=says.scope,
            registered_by=by,
            network=network,
            created_at=now,
        )
        session.add(row)
        session.flush()
        audit.append_house(session, house, "client.registered", client=row.id, account=by)
        return _app(row)


def find(house: House, client_id: str) -> App | None:
    """Return an app that may ask, or None: unknown, blocked, or forgotten."""
    with house.read() as session:
        row = session.get(Client, client_id)
        return None if row is None or row.state == ClientState.BLOCKED else _app(row)


def server_with(house: House, *, jwks_uri: str | None, kid: str | None = None) -> App | None:
    """Return a server known by where its keys lie, or by its one key; None: unknown or blocked."""
    with house.read() as session:
        known = select(Client).where(Client.state == ClientState.KNOWN)
        servers = known.order_by(Client.created_at, Client.id)
        for row in session.scalars(servers):
            if row.redirect_uris:
                continue
            if jwks_uri is not None:
                fits = row.jwks_uri == jwks_uri
            else:  # by what the key is: what it calls itself anybody can write
                held = (row.jwks or {}).get("keys", ())
                fits = [jwt.thumbprint(key) for key in held] == [kid]
            if fits:
                return _app(row)
    return None


def known_server(house: House, says: Registration, *, by: str) -> App:
    """Return the server with these keys, registered now if this house never had it.

    Raises Conflict where it is blocked, or there are too many apps.
    """
    for app in reversed(listed(house)):
        same = app.says.jwks_uri == says.jwks_uri and app.says.jwks == says.jwks
        if app.is_backend and same:
            if app.state == ClientState.BLOCKED:
                raise Conflict("This server is blocked here. Let it ask again first, at “Apps”.")
            let_in(house, app.id, by=by)
            return app
    return register(house, says, by=by)


def listed(house: House) -> list[App]:
    """Return every app of the house, the newest first."""
    with house.read() as session:
        rows = session.scalars(select(Client).order_by(Client.created_at.desc(), Client.id))
        return [_app(row) for row in rows]


def let_in(house: House, client_id: str, *, by: str, patient_id: str | None = None) -> None:
    """Note that a patient lets an app in: it waits no longer. Raises NotFound.

    A server belongs to one record: Conflict where it belongs to another.
    """
    with house.write() as session:
        row = _row(session, client_id)
        if row.state == ClientState.WAITING:
            row.state = ClientState.KNOWN
            audit.append_house(session, house, "client.let_in", client=client_id, account=by)
        if patient_id is not None:
            if row.patient_id not in {None, patient_id}:
                raise Conflict("This server belongs to another record.")
            row.patient_id = patient_id


def unblock(house: House, client_id: str, *, by: str) -> None:
    """Let a blocked app ask again; what it could read stays ended. Raises NotFound."""
    with house.write() as session:
        row = _row(session, client_id)
        if row.state == ClientState.BLOCKED:
            row.state = ClientState.KNOWN
            audit.append_house(session, house, "client.unblocked", client=client_id, account=by)


def block(house: House, client_id: str, *, by: str) -> None:
    """Let an app ask no more; its grants are ended by the caller. Raises NotFound."""
    with house.write(Priority.URGENT) as session:
        _row(session, client_id).state = ClientState.BLOCKED
        audit.append_house(session, house, "client.blocked", client=client_id, account=by)


def forget(house: House, client_id: str, *, by: str) -> None:
    """Remove an app; its id is never given again. Raises NotFound."""
    with house.write(Priority.URGENT) as session:
        session.delete(_row(session, client_id))
        audit.append_house(session, house, "client.forgotten", client=client_id, account=by)


def use_once(house: House, client_id: str, assertion_id: str, expires_at: datetime) -> bool:
    """Note the id of a client assertion; False where it was used before (RFC 7523 §3)."""
    now = clock.now()
    mark = ids.fingerprint(f"{client_id} {assertion_id}")
    with house.write(Priority.URGENT) as session:
        session.execute(
            delete(SeenAssertion).where(SeenAssertion.expires_at < now),
            execution_options={"synchronize_session": False},
        )
        if session.get(SeenAssertion, mark) is not None:
            return False
        session.add(SeenAssertion(id_hash=mark, expires_at=expires_at))
        return True


def described(app: App) -> dict[str, Any]:
    """Return a registration as the app is told of it (RFC 7591 §3.2.1)."""
    says = app.says
    types = ["client_credentials"] if app.is_backend else ["authorization_code", "refresh_token"]
    told: dict[str, Any] = {
        "client_id": app.id,
        "client_id_issued_at": int(app.created_at.timestamp()),
        "client_name": says.name,
        "token_endpoint_auth_method": says.method,
        "grant_types": types,
        "scope": says.scope,
    }
    if not app.is_backend:
        told |= {"redirect_uris": list(says.redirect_uris), "response_types": ["code"]}
    more = {
        "jwks": says.jwks,
        "jwks_uri": says.jwks_uri,
        "initiate_login_uri": says.launch_url,
    }
    return told | {name: value for name, value in more.items() if value}


def invite(house: House) -> str:
    """Return a new invitation with which one app may register from anywhere, within a day."""
    secret = ids.new_secret()
    until = clock.to_ms(clock.now() + INVITED_FOR)
    house.set_setting(INVITATION, {"hash": ids.fingerprint(secret).hex(), "until": until})
    return secret


def use_invitation(house: House, secret: str) -> bool:
    """Use up the invitation, if this is it (RFC 7591 §3: an initial access token)."""
    if not secret or house.get_setting(INVITATION) is None:
        return False
    with house.write() as session:
        row = session.get(Setting, INVITATION)
        if row is None or clock.to_ms(clock.now()) >= row.value["until"]:
            return False
        if not ids.same(ids.fingerprint(secret).hex(), row.value["hash"]):
            return False
        session.delete(row)
        return True


def may_register(network: str) -> bool:
    """Say whether an app of this network may register itself: of this machine or the home's own."""
    try:
        given = ip_network(network, strict=False)
    except ValueError:
        return False
    return any(
        given.version == own.version and given.subnet_of(own)  # type: ignore[arg-type]  # as told
        for own in OWN_NETWORKS
    )


def _make_room(session: Session, *, waiting: bool, now: datetime) -> None:
    old = (Client.state == ClientState.WAITING) & (Client.created_at < now - WAITS_FOR)
    session.execute(delete(Client).where(old), execution_options={"synchronize_session": False})
    count = select(func.count()).select_from(Client)
    if waiting:
        number = session.scalar(count.where(Client.state == ClientState.WAITING)) or 0
        if number >= MOST_WAITING:
            raise Conflict("Too many apps wait to be let in. Let one in or remove it first.")
    if (session.scalar(count) or 0) >= MOST_CLIENTS:
        raise Conflict("There are too many apps. Remove one that is not used first.")


def _row(session: Session, client_id: str) -> Client:
    row = session.get(Client, client_id)
    if row is None:
        raise NotFound
    return row


def _app(row: Client) -> App:
    says = Registration(
        row.name,
        tuple(row.redirect_uris),
        row.jwks,
        row.jwks_uri,
        row.scope,
        row.launch_url,
    )
    state = ClientState(row.state)
    return App(row.id, state, says, row.patient_id, row.registered_by, row.network, row.created_at)
