"""Which server a consent is for: known by its address, where its public keys lie, or by its key.

A name that a server gives itself proves nothing: only the keys found at its address do, or the one
key that was handed over. Fetching goes through the guard of our outgoing requests.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from phr import jwt, net
from phr.errors import AddressRefused, InvalidInput, NetError, TrustError
from phr.http import Http, Limits
from phr.sharing import clients
from phr.sharing.clients import BadRegistration
from phr.store.house import House

KEYS: Final = "/.well-known/jwks.json"
THUMBPRINT: Final = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:"  # RFC 9278 §3
QUICK: Final = Limits(size=256 << 10, connect=3.0, first_byte=5.0, idle=3.0, total=5.0)
STATED_FOR: Final = timedelta(minutes=5)
OWN_KEY: Final = "server_key"
MOST_SHOWN: Final = 200  # characters of an address: it is shown whole to whoever decides
STATEMENT: Final = "homeport-statement+jwt"  # so that none serves as anything else (RFC 8725 §3.11)
NO_KEYS: Final = "At that address no public keys of a server were found."


@dataclass(frozen=True, slots=True)
class Server:
    """A server as it is known: `address` is what it calls itself in a token request (`iss`)."""

    address: str
    jwks: Mapping[str, Any] | None = None  # None: its keys lie at its address

    @property
    def jwks_uri(self) -> str | None:
        """Where its keys lie."""
        return keys_of(self.address) if self.jwks is None else None

    @property
    def name(self) -> str:
        """What a person tells it by."""
        return shown(self.address)


def shown(address: str) -> str:
    """Return what a person tells a server by: its address, or that it has a key and none.

    With its path: at one host the path decides whose keys count.
    """
    if address.startswith(THUMBPRINT):
        return f"the server with the key {address.removeprefix(THUMBPRINT)[:12]}…"
    parts = urlsplit(address)
    return parts.netloc + parts.path.rstrip("/")


def keys_of(address: str) -> str:
    """Return where the keys of a server lie: at a fixed place, or at the address itself."""
    return address if address.endswith(".json") else address.rstrip("/") + KEYS


def at_address(http: Http, address: str) -> Server:
    """Return the server at an address, which publishes keys there. Raises InvalidInput, NetError.

    It is asked over https only; http is for servers on this very machine.
    """
    return with_keys_at(http, address)[0]


def with_keys_at(http: Http, address: str) -> tuple[Server, Mapping[str, Any]]:
    """Return the same with the key set that lies there now. Raises InvalidInput, NetError."""
    server = Server(plain_address(address))
    answer = http.get(keys_of(server.address), limits=QUICK)
    try:
        found = json.loads(answer.body) if answer.status == 200 else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput(NO_KEYS)
    _sound(found)
    return server, found


def plain_address(text: str) -> str:
    """Return the address of a server as it is read, not as it was spelled. Raises InvalidInput."""
    try:
        place = net.parse(text)
    except AddressRefused as error:
        raise InvalidInput(error.sentence) from None
    if place.query or (place.scheme != "https" and place.host not in clients.LOOPBACK):
        raise InvalidInput("The address of a server begins with https:// and has no “?”.")
    if len(place.url) > MOST_SHOWN:
        raise InvalidInput("The address of this server is too long to be shown whole.")
    return place.url.rstrip("/")


def with_key(text: str) -> Server:
    """Return the server that is known by its public key, a JWK or PEM. Raises InvalidInput."""
    try:
        key = jwt.read_public(text)
    except TrustError as error:
        raise InvalidInput(error.sentence) from None
    return Server(THUMBPRINT + str(key["kid"]), {"keys": [key]})


def that_says(http: Http, statement: str, audiences: frozenset[str], now: datetime) -> Server:
    """Return the server that signed a statement of itself, checked with the keys at its address.

    As at the connectathon of 2017 (`jwt`). Raises InvalidInput, NetError.
    """
    try:
        said, kind = jwt.peek(statement), jwt.header(statement).get("typ")
    except TrustError as error:
        raise InvalidInput(error.sentence) from None
    if kind != STATEMENT:
        raise InvalidInput(f"This is no statement of a server: its header says typ {STATEMENT}.")
    issuer, audience = said.get("iss"), said.get("aud")
    if not isinstance(issuer, str) or not isinstance(audience, str) or audience not in audiences:
        raise InvalidInput("The statement does not say who made it, or it was made for another.")
    server = at_address(http, issuer)
    answer = http.get(keys_of(server.address), limits=QUICK)
    try:
        jwt.verify(statement, json.loads(answer.body), issuer=issuer, audience=audience, now=now)
    except (TrustError, ValueError, RecursionError):
        raise InvalidInput("The statement is not signed with a key of that server.") from None
    return server


def named(http: Http, given: Mapping[str, str], audiences: frozenset[str], now: datetime) -> Server:
    """Return the server that an app names in one of three ways. Raises InvalidInput, in words."""
    ways = [name for name in ("client", "publicKey", "jwt") if given.get(name)]
    if len(ways) != 1:
        raise InvalidInput("Name the server in one way: client, publicKey or jwt.")
    try:
        if ways == ["client"]:
            return at_address(http, given["client"])
        if ways == ["jwt"]:
            return that_says(http, given["jwt"], audiences, now)
        return with_key(given["publicKey"])
    except NetError:  # why is not for an app: it would learn what there is in our own network
        raise InvalidInput(NO_KEYS) from None


def own_key(house: House) -> Mapping[str, Any]:
    """Return the private key with which this house shows other servers who it is."""
    kept: Mapping[str, Any] = house.setting_or_made(OWN_KEY, lambda: jwt.new_key("ES384"))
    return kept


def statement(house: House, address: str, audience: str, now: datetime) -> str:
    """Return a signed statement that this house is at `address`, for one other to read.

    It names no subject and its type is its own: nobody can take it for a client's assertion (RFC
    7523 §3). Raises InvalidInput where the audience is no plain address.
    """
    claims = {
        "iss": address,
        "aud": plain_address(audience),
        "iat": int(now.timestamp()),
        "exp": int((now + STATED_FOR).timestamp()),
    }
    return jwt.sign(claims, own_key(house), kind=STATEMENT)


def own_keys(house: House) -> Mapping[str, Any]:
    """Return what this house publishes at its address, as `at_address` looks for it elsewhere."""
    return {"keys": [jwt.public_half(own_key(house))]}


def _sound(found: Mapping[str, Any]) -> None:
    try:
        clients.public_keys(found)
    except BadRegistration:
        raise InvalidInput(NO_KEYS) from None
