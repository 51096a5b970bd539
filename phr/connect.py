"""The journey from an address to an authorised connection, for the pages and the command line.

Discover -> send the person to sign in -> take the answer back -> tokens into the vault. What is
asked for afterwards: `phr.pull`. The OAuth itself, without any store: `phr.oauth`.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import delete

from phr import beacon, clock, ids, jwt, keep, oauth, pull
from phr.beacon import Help
from phr.errors import Conflict, InvalidInput, NotFound, WrongPatient
from phr.http import Http
from phr.oauth import Client, Credentials, Endpoint, Pending
from phr.store import audit, connections
from phr.store.database import Priority
from phr.store.house import House
from phr.store.models import (
    Connection,
    ConnectionState,
    PendingAuthorization,
    PullState,
    VaultFact,
)
from phr.store.vault import Vault, Vaults

DRAFT_FOR: Final = timedelta(days=1)
OWN: Final = "own"  # a client id that somebody registered, with its secret if it has one
KEYED: Final = "key"  # a registered client id, shown by a signature with our own key
CLIENT_KEYS: Final = "client_keys"
REGISTERED: Final = "register"  # the hospital gives us a client of our own (RFC 7591)
MOVED: Final = "This hospital's interface moved to another address. Please sign in there once."
STALE: Final = "This sign-in is too old, was already used, or began in another browser."
WRONG: Final = (
    "The hospital signed in a different person than before, so nothing was stored and nothing was "
    "mixed. Please sign in there as the person this connection belongs to."
)


@dataclass(frozen=True, slots=True)
class Aid:
    """Help of a lighthouse that a person agreed to (see `beacon.SEES`)."""

    kind: str
    url: str
    lighthouse: str  # whose: the installation has another key for each
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person typed to connect a hospital. An empty secret means a public client."""

    name: str
    base_url: str
    client_id: str
    secret: str = field(default="", repr=False)
    scopes: str = ""
    audience: str = ""  # "exact", "no_slash", "absent" or an address; empty: as the quirks say
    authorize: str = ""  # where a browser signs in, where that is not what the server announces
    registered: str = ""  # the redirect address registered at the vendor, where it is not ours
    demo: bool = False
    way: str = OWN
    quirks: Mapping[str, Any] = field(default_factory=dict)  # habits known of the vendor
    aid: Aid | None = None  # a lighthouse that signs, or passes on with its secret
    back: Aid | None = None  # a lighthouse whose page leads the browser back here


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the person signs in now; `moved` names a sign-in host that is not the known one."""

    connection_id: int
    url: str
    host: str
    moved: str | None = None


@dataclass(frozen=True, slots=True)
class Landed:
    """A connection that was just authorised."""

    patient_id: str
    connection_id: int
    name: str


def add(
    vault: Vault, http: Http, wish: Wish, *, redirect_uri: str, actor: Mapping[str, Any]
) -> int:
    """Find out how to sign in at an address and keep the connection as a draft; return its id.

    Raises InvalidInput (no usable sign-in there, or something missing) and NetError.
    """
    if wish.way != REGISTERED and not wish.client_id.strip():
        raise InvalidInput("A client id is needed: the hospital gives it to registered apps.")
    base_url, registered = wish.base_url.strip(), wish.registered.strip()
    known = {"aud": wish.audience, "redirect": registered, "authorize": wish.authorize}
    quirks = {**wish.quirks, **{name: value for name, value in known.items() if value}}
    endpoint = oauth.discover(http, base_url, quirks)
    client = _client(vault, http, endpoint, wish, registered or redirect_uri)
    now = clock.now()
    with vault.write() as session:
        connections.forget_drafts(session, before=now - DRAFT_FOR)
        connection_id = connections.add(
            session,
            kind="smart",
            name=wish.name.strip() or http.guard.check(base_url).host,
            base_url=base_url,
            endpoint=endpoint.to_json(),
            client=client.to_json(),
            demo=wish.demo,
            now=now,
        )
        audit.append(session, vault, "connection.added", actor, connection=connection_id)
    return connection_id


def _client(vault: Vault, http: Http, endpoint: Endpoint, wish: Wish, redirect_uri: str) -> Client:
    """Return how we shall be known there, in the way that was wished for."""
    scopes = " ".join(wish.scopes.split())
    if wish.way == REGISTERED:
        keys = client_keys(vault, make=True)
        made = oauth.register(http, endpoint, redirect_uri, keys=keys)
        return replace(made, scopes=scopes)
    key = _signing_key(vault, endpoint) if wish.way == KEYED else None
    return Client(
        wish.client_id.strip(),
        redirect_uri,
        wish.secret.strip() or None,
        scopes,
        key,
        _agreed(vault.house, http, wish.aid),
        _agreed(vault.house, http, wish.back),
    )


def _agreed(house: House, http: Http, aid: Aid | None) -> Help | None:
    """Introduce this house to a lighthouse whose help was agreed to. Raises TryLater."""
    if aid is None:
        return None
    made = Help(aid.kind, aid.url.rstrip("/"), aid.endpoint, _installation(house, aid.lighthouse))
    beacon.introduce(http, made)
    return made


def _installation(house: House, lighthouse: str) -> Mapping[str, Any]:
    """Return this house's key for a lighthouse: another for each, so that they cannot compare."""
    name = f"installation {lighthouse}"
    kept: Mapping[str, Any] = house.setting_or_made(name, lambda: jwt.new_key("EdDSA"))
    return kept


# ------------------------------------------------------------------------- keys of our own


def client_keys(vault: Vault, *, make: bool = False) -> dict[str, dict[str, Any]]:
    """Return the private keys (JWK by algorithm) with which this record's connections sign.

    They lie in the vault; their public halves are published by `published_keys`.
    """
    kept = vault.fact(CLIENT_KEYS)
    if kept is None and not make:
        return {}
    keys: dict[str, dict[str, Any]] = json.loads(kept) if kept else _made_keys(vault)
    vault.house.setting_or_made(
        f"client_jwks {vault.id}", lambda: [jwt.public_half(key) for key in keys.values()]
    )
    return keys


def _made_keys(vault: Vault) -> dict[str, dict[str, Any]]:
    """Make and keep keys; whoever asks at the same moment gets those that were kept first."""
    made = {name: jwt.new_key(name) for name in jwt.SIGNING_ALGORITHMS}
    with vault.write() as session:
        row = session.get(VaultFact, CLIENT_KEYS)
        if row is not None:
            kept: dict[str, dict[str, Any]] = json.loads(row.value)
            return kept
        session.add(VaultFact(name=CLIENT_KEYS, value=json.dumps(made).encode()))
    return made


def published_keys(house: House, vaults: Vaults) -> dict[str, list[dict[str, Any]]]:
    """Return the public keys of all records as one JWK Set (RFC 7517 §5), sealed ones too."""
    sets = [house.get_setting(f"client_jwks {vault_id}", []) for vault_id in vaults.ids()]
    return {"keys": [key for some in sets for key in some]}


def _signing_key(vault: Vault, endpoint: Endpoint) -> Mapping[str, Any]:
    keys = client_keys(vault, make=True)
    signing = endpoint.token_auth_algorithms
    fitting = [name for name in jwt.SIGNING_ALGORITHMS if not signing or name in signing]
    if not fitting:
        raise InvalidInput("This hospital takes no signature of the kinds that Homeport makes.")
    return keys[fitting[0]]


def begin(
    house: House,
    vault: Vault,
    connection_id: int,
    *,
    http: Http,
    session_hash: bytes | None,
    redirect_uri: str,
    moved_is_fine: bool = False,
) -> Begun:
    """Start (or repeat) the sign-in of a connection; only the newest one can be completed.

    The address is asked again. Where its sign-in lives on another host than known, nothing is
    started and `moved` names both, until the person agrees.
    """
    with vault.read() as session:
        row = connections.get(session, connection_id)
        known = Endpoint.from_json(row.endpoint)
        registered = str(known.quirks.get("redirect") or redirect_uri)
        client = Client.from_json(row.client | {"redirect_uri": registered})
        fresh = row.state == ConnectionState.DRAFT
    endpoint = oauth.discover(http, known.base_url, known.quirks)
    host = _host(endpoint.sign_in_url)
    moved = None if fresh else _moved(known, endpoint)
    if moved and not moved_is_fine:
        return Begun(connection_id, "", host, moved)
    seal = None
    if client.back is not None:
        seal = partial(beacon.seal, http, client.back, return_to=redirect_uri)
    begun = oauth.begin(endpoint, client, now=clock.now(), seal=seal)
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        row.endpoint, row.client = endpoint.to_json(), client.to_json()
        row.pending = begun.pending.to_json()
    with house.write(Priority.URGENT) as session:
        session.execute(
            delete(PendingAuthorization).where(
                PendingAuthorization.patient_id == vault.id,
                PendingAuthorization.connection_id == connection_id,
            )
        )
        session.add(
            PendingAuthorization(
                state_hash=ids.fingerprint(begun.state),
                session_hash=session_hash,
                patient_id=vault.id,
                connection_id=connection_id,
                expires_at=begun.pending.expires_at,
            )
        )
    return Begun(connection_id, begun.url, host)


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _moved(known: Endpoint, found: Endpoint) -> str | None:
    """Say in words how the sign-in moved to other hosts; None when it did not."""
    before = {_host(known.authorization_endpoint), _host(known.token_endpoint)}
    after = {_host(found.authorization_endpoint), _host(found.token_endpoint)}
    if after <= before:
        return None
    return f"{', '.join(sorted(before))} before, {', '.join(sorted(after))} now"


def land(
    house: House,
    vaults: Vaults,
    landed: Mapping[str, str],
    *,
    http: Http,
    session_hash: bytes | None,
    actor: Mapping[str, Any],
    may_change: frozenset[str] | None = None,
) -> Landed:
    """Take the answer of a sign-in: tokens go into the vault, the first pull becomes due.

    The state is used up whatever happens, and only in the browser session that began. `may_change`
    are the patients this account acts for (None: the command line). Raises InvalidInput,
    TrustError, RemoteBroken, WrongPatient, Sealed, NetError.
    """
    waiting = _take_pending(house, landed.get("state", ""), session_hash)
    if may_change is not None and waiting.patient_id not in may_change:
        raise NotFound
    vault = vaults.get(waiting.patient_id)
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, waiting.connection_id)
        if row.pending is None:
            raise InvalidInput(STALE)
        pending, row.pending = Pending.from_json(row.pending), None
        endpoint, client = Endpoint.from_json(row.endpoint), Client.from_json(row.client)
    credentials = oauth.complete(http, endpoint, client, pending, landed, now=clock.now())
    try:
        return _store(vault, waiting.connection_id, credentials, actor)
    except WrongPatient:
        oauth.revoke(http, endpoint, client, credentials)
        raise


def _take_pending(house: House, state: str, session_hash: bytes | None) -> PendingAuthorization:
    """Use up a state. Another browser's, an unknown and an old one all give the same sentence."""
    with house.write(Priority.URGENT) as session:
        row = session.get(PendingAuthorization, ids.fingerprint(state))
        if row is not None:
            session.delete(row)
    if row is None or row.expires_at <= clock.now():
        raise InvalidInput(STALE)
    if (row.session_hash is None) != (session_hash is None) or not ids.same(
        row.session_hash or b"", session_hash or b""
    ):
        raise InvalidInput(STALE)
    return row


def _store(
    vault: Vault, connection_id: int, credentials: Credentials, actor: Mapping[str, Any]
) -> Landed:
    """Write the tokens durably; the remote person is pinned at the first sign-in, for ever."""
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        if row.remote_patient is not None and row.remote_patient != credentials.patient:
            audit.append(session, vault, "connection.wrong_patient", actor, connection=row.id)
            wrong = True
        else:
            row = _one_of_both(session, row, credentials.patient)
            row.remote_patient = credentials.patient
            row.credentials = credentials.to_json()
            row.state, row.sentence, row.failures = ConnectionState.ACTIVE, None, 0
            row.next_pull_at = clock.now()
            audit.append(session, vault, "connection.authorised", actor, connection=row.id)
            wrong = False
        found = Landed(vault.id, row.id, row.name)
    if wrong:
        raise WrongPatient(WRONG)
    return found


def _one_of_both(session: Any, row: Connection, patient: str) -> Connection:
    """Where the same person is connected there already, renew that instead of adding a twin."""
    twin = connections.twin(session, row, patient)
    if twin is None or row.state != ConnectionState.DRAFT:
        return row
    twin.endpoint, twin.client = row.endpoint, row.client
    session.delete(row)
    return twin


# ------------------------------------------------------------------------- pause and end


def pause(vault: Vault, connection_id: int, *, actor: Mapping[str, Any]) -> None:
    """Ask nothing more until resumed; a running pull ends and keeps what arrived."""
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        if row.state != ConnectionState.ACTIVE or row.kind in connections.PLACES:
            raise Conflict
        row.state, row.next_pull_at = ConnectionState.PAUSED, None
        audit.append(session, vault, "connection.paused", actor, connection=connection_id)
    pull.stop(vault.id, connection_id)


def resume(vault: Vault, connection_id: int, *, actor: Mapping[str, Any]) -> None:
    """Ask again, beginning now."""
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        if row.state != ConnectionState.PAUSED or not row.credentials:
            raise Conflict
        row.state, row.sentence, row.next_pull_at = ConnectionState.ACTIVE, None, clock.now()
        audit.append(session, vault, "connection.resumed", actor, connection=connection_id)


def remove(
    vault: Vault,
    connection_id: int,
    *,
    http: Http,
    keep_records: bool,
    actor: Mapping[str, Any],
) -> str:
    """End a connection: tokens are forgotten and revoked there; its records stay or are erased.

    Returns in words what the hospital was asked to forget, as far as it listened; "" for nothing.
    """
    if not pull.stop(vault.id, connection_id, wait=10.0):
        raise Conflict("Homeport is just finishing there. Please try again in a moment.")
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        kept = dict(row.credentials), dict(row.endpoint), dict(row.client)
        row.credentials, row.client, row.pending = {}, {}, None
        row.state, row.next_pull_at, row.claimed_by = ConnectionState.REMOVED, None, None
        connections.end_runs(session, row.id, (PullState.RUNNING,), "The connection was removed.")
        audit.append(
            session,
            vault,
            "connection.removed",
            actor,
            connection=connection_id,
            records="kept" if keep_records else "erased",
        )
    if not keep_records:
        keep.erase(vault, connection_id)
    return _revoke(http, *kept)


def remove_demo(vault: Vault, *, http: Http, actor: Mapping[str, Any]) -> None:
    """Remove every connection to the demo hospital with all it brought."""
    with vault.read() as session:
        demos = [row.id for row in connections.listed(session) if row.demo]
    for connection_id in demos:
        remove(vault, connection_id, http=http, keep_records=False, actor=actor)


def _revoke(
    http: Http,
    credentials: Mapping[str, Any],
    endpoint: Mapping[str, Any],
    client: Mapping[str, Any],
) -> str:
    """Tell the hospital, as far as it listens; our own forgetting does not depend on it."""
    if not endpoint or not client:
        return ""
    there, known_as = Endpoint.from_json(endpoint), Client.from_json(client)
    if credentials:
        oauth.revoke(http, there, known_as, Credentials.from_json(credentials))
    return {
        True: "The hospital deleted the registration that it had made for this Homeport.",
        False: "The hospital was asked to delete the registration that it had made for this "
        "Homeport, and did not confirm it. It opens nothing without a sign-in.",
        None: "",
    }[oauth.unregister(http, there, known_as)]


# ------------------------------------------------------------------------- an address that moved


def follow(
    vault: Vault, connection_id: int, url: str, *, http: Http, actor: Mapping[str, Any]
) -> bool:
    """Ask at another address from now on: the catalogue says it took this one's place.

    The permission goes along only where sign-in and server stay on the same hosts; otherwise the
    person signs in anew, which is returned as true. Raises InvalidInput, NetError, Conflict.
    """
    if not pull.stop(vault.id, connection_id, wait=10.0):
        raise Conflict("Homeport is just finishing there. Please try again in a moment.")
    with vault.read() as session:
        known = Endpoint.from_json(connections.get(session, connection_id).endpoint)
    found = oauth.discover(http, url, known.quirks)
    anew = bool(_moved(known, found)) or _host(known.base_url) != _host(url)
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        row.base_url, row.endpoint = url, found.to_json()
        row.cursor, row.last_full_at, row.failures = {}, None, 0  # what it has is seen afresh
        if row.state != ConnectionState.DRAFT:
            row.state = ConnectionState.NEEDS_REAUTHORISATION if anew else ConnectionState.ACTIVE
            row.sentence = MOVED if anew else None
            row.credentials = {} if anew else row.credentials
            row.next_pull_at = None if anew else clock.now()
        audit.append(session, vault, "connection.followed", actor, connection=connection_id)
    return anew


# ------------------------------------------------------------------------- the command line


ANSWERED = "You may close this page and go back: the command line says how it went."
REFUSED = "Nothing was connected. You may close this page and go back."


class Listener:
    """Waits on a loopback port for one answer of a sign-in (RFC 8252 §7.3)."""

    def __init__(self, server: HTTPServer, path: str) -> None:
        """Take the bound server; use `listen`."""
        self._server = server
        self._path = path
        self._state: str | None = None
        self._landed: dict[str, str] | None = None
        self._done = threading.Event()

    def expect(self, address: str) -> None:
        """Take only the answer to the sign-in that begins at this address.

        Any program of this machine can ask the port: a stranger's `state` must not end the wait.
        """
        self._state = dict(parse_qsl(urlsplit(address).query)).get("state")

    @property
    def redirect_uri(self) -> str:
        """The exact address to register at the vendor for this port."""
        return f"http://127.0.0.1:{self._server.server_port}{self._path}"

    def wait(self, seconds: float) -> dict[str, str]:
        """Return the parameters of the answer. Raises InvalidInput when none came in time."""
        if not self._done.wait(seconds) or self._landed is None:
            raise InvalidInput("Nobody came back from the sign-in in time. Please start again.")
        return self._landed

    def take(self, target: str) -> str | None:
        """Take a request's target; return what to tell the person if it was the answer."""
        if urlsplit(target).path != self._path or self._done.is_set():
            return None
        try:
            landed = oauth.read_landing(target)
        except InvalidInput:
            return None
        if self._state is None or not ids.same(landed.get("state", ""), self._state):
            return None
        self._landed = landed
        self._done.set()
        return ANSWERED if landed.get("code") else REFUSED


@contextmanager
def listen(port: int = 0) -> Iterator[Listener]:
    """Open a listener on 127.0.0.1; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = listener.take(self.path)
            text = (said or "Nothing is here.").encode()
            self.send_response(404 if said is None else 200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Write nothing: the request line holds the code."""

    server = HTTPServer(("127.0.0.1", port), Handler)
    listener = Listener(server, "/callback")
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join(2)
