"""How an app proves who it is at the token endpoint, public or with a key; what it is refused with.

`private_key_jwt` as SMART's asymmetric profile has it (RFC 7523 §3, SMART App Launch 2.2 §5.2).
What the token then gives is `authorization`'s.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from phr import clock, jwt
from phr.errors import NetError, TrustError
from phr.http import Http
from phr.sharing import clients, servers
from phr.sharing.clients import App
from phr.store import limits
from phr.store.house import House

BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS: Final = frozenset(jwt.SIGNING_ALGORITHMS)
LASTS: Final = timedelta(minutes=5) + timedelta(seconds=jwt.SKEW)  # an assertion, at most
KEPT: Final = timedelta(hours=1)  # a fetched key set without a word about its age
KEPT_AT_MOST: Final = timedelta(hours=24)
ASKED_AGAIN: Final = timedelta(minutes=1)  # for a key that is not in the set: it may be new
MOST_SETS: Final = 100
AT_ONCE: Final = 2  # key sets fetched at the same time


class Unproved(Exception):
    """Not shown who it is: RFC 6749 §5.2 `invalid_client`, whatever the reason was."""


class OAuthRefused(Exception):
    """An answer of RFC 6749 §5.2 or §4.1.2.1; `leads_to` is the app's address, where it may go."""

    def __init__(
        self, code: str, words: str = "", *, status: int = 400, leads_to: str = ""
    ) -> None:
        """Take the error code, words for the app's developer, and how it is said."""
        super().__init__(code)
        self.code, self.words, self.status, self.leads_to = code, words, status, leads_to


class KeySets:
    """Key sets of apps that publish them, remembered for as long as they said, at most a day."""

    def __init__(self, http: Http) -> None:
        """Ask through the one way out, so that no set lies at an address of our own network."""
        self._http = http
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._kept: dict[str, _Kept] = {}

    def keys(self, app: App, kid: str, now: datetime) -> list[Mapping[str, Any]]:
        """Return the keys of an app with this id. Raises NetError where they cannot be fetched.

        One address is asked once a minute at most, and two addresses at a time: whoever sends
        made-up assertions keeps no more of this server busy.
        """
        if app.says.jwks is not None:
            return _named(app.says.jwks, kid)
        address = app.says.jwks_uri or ""
        with self._lock:
            kept = self._kept.get(address)
        if kept is not None:
            known = _named(kept.found, kid)
            if now < kept.asked + ASKED_AGAIN or (known and now < kept.until):
                return known
        if not self._places.acquire(blocking=False):
            raise NetError
        try:
            return _named(self._fetch(address, now), kid)
        finally:
            self._places.release()

    def _fetch(self, address: str, now: datetime) -> Mapping[str, Any]:
        with self._lock:
            kept = self._kept.get(address)
        # A failure is remembered too, and takes away no key that is good for longer.
        holds = kept is not None and now < kept.until
        self._keep(address, replace(kept, asked=now) if kept and holds else _Kept(now, now, {}))
        answer = self._http.get(address, limits=servers.QUICK)
        try:
            found = json.loads(answer.body) if answer.status == 200 else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise NetError("The app's keys could not be read at the address it gave.")
        lasts = _max_age(answer.headers.get("cache-control", ""))
        self._keep(address, _Kept(now, now + min(lasts, KEPT_AT_MOST), found))
        return found

    def _keep(self, address: str, kept: "_Kept") -> None:
        with self._lock:
            self._kept.pop(address, None)
            while len(self._kept) >= MOST_SETS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[address] = kept


@dataclass(frozen=True, slots=True)
class _Kept:
    """The keys of an app as they were found."""

    asked: datetime
    until: datetime
    found: Mapping[str, Any]


def prove(
    house: House,
    key_sets: KeySets,
    given: Mapping[str, Sequence[str]],
    audiences: Sequence[str],
    *,
    network: str,
    now: datetime,
) -> App:
    """Return the app that a request comes from. Raises Unproved, alike for every fault.

    A public app only names itself; one with keys must show an assertion made for one of
    `audiences` (our token endpoint or issuer), which is good for five minutes and for once, and
    is returned with that key's thumbprint. Tries
    with assertions are counted for app and `network`: raises TooManyTries.
    """
    if any(len(values) > 1 for values in given.values()) or "client_secret" in given:
        raise Unproved
    one = {name: values[0] for name, values in given.items() if values}
    if one.get("grant_type") == BEARER:
        if "client_assertion" in one:  # the Consent stands in the one that is checked
            raise Unproved
        one |= {"client_assertion": one.get("assertion", ""), "client_assertion_type": ASSERTION}
    if "client_assertion" not in one:
        app = clients.find(house, one.get("client_id", ""))
        if app is None or app.says.method != "none":
            raise Unproved
        return app
    if one.get("client_assertion_type") != ASSERTION:
        raise Unproved
    try:
        return _asserted(house, key_sets, one, audiences, now, network=network)
    except (TrustError, NetError):
        raise Unproved from None


def _asserted(
    house: House,
    key_sets: KeySets,
    one: Mapping[str, str],
    audiences: Sequence[str],
    now: datetime,
    *,
    network: str,
) -> App:
    token = one["client_assertion"]
    said = jwt.header(token)
    client_id = jwt.peek(token).get("iss")
    app = _named_as(house, client_id) if isinstance(client_id, str) else None
    if app is None or app.says.method != "private_key_jwt":
        raise Unproved
    if one.get("client_id", client_id) != client_id:
        raise Unproved
    if said.get("typ", "JWT") != "JWT" or said.get("jku", app.says.jwks_uri) != app.says.jwks_uri:
        raise Unproved
    tries = f"app:{app.id}:{network}"
    limits.take(house, [(tries, limits.NETWORK)])
    kid = said.get("kid")
    keys = key_sets.keys(app, kid, now) if isinstance(kid, str) else []
    if len(keys) != 1:
        raise Unproved
    claims = _checked(token, keys, str(client_id), audiences, now)
    until = clock.from_ms(int(claims["exp"] * 1000)) + timedelta(seconds=jwt.SKEW)
    if not clients.use_once(house, app.id, str(claims["jti"]), until):
        raise Unproved
    limits.passed(house, tries)
    return replace(app, key=jwt.thumbprint(keys[0]) or "")


def _named_as(house: House, name: str) -> App | None:
    """Return the app with a client id, or the server that calls itself by address or key."""
    found = clients.find(house, name)
    if found is not None or ":" not in name:
        return found
    if name.startswith(servers.THUMBPRINT):
        kid = name.removeprefix(servers.THUMBPRINT)
        return clients.server_with(house, jwks_uri=None, kid=kid)
    return clients.server_with(house, jwks_uri=servers.keys_of(name))


def _checked(
    token: str,
    keys: Sequence[Mapping[str, Any]],
    client_id: str,
    audiences: Sequence[str],
    now: datetime,
) -> dict[str, Any]:
    # One text, equal to ours: of several audiences another server could be the one that was meant
    # (CVE-2025-27370, CVE-2025-27371).
    audience = jwt.peek(token).get("aud")
    if not isinstance(audience, str) or audience not in audiences:
        raise Unproved
    claims = jwt.verify(
        token,
        {"keys": list(keys)},
        issuer=client_id,
        audience=audience,
        now=now,
        algorithms=ALGORITHMS,
        required=("iss", "aud", "exp", "jti"),
    )
    too_long = claims["exp"] > (now + LASTS).timestamp()
    subject = client_id if "consent" in claims else None  # as in 2017 it may be left out there
    if claims.get("sub", subject) != client_id or too_long or not isinstance(claims["jti"], str):
        raise Unproved
    return claims


def _named(key_set: Mapping[str, Any], kid: str) -> list[Mapping[str, Any]]:
    listed = key_set.get("keys")
    if not isinstance(listed, list):
        return []
    return [
        key for key in listed[: jwt.MAX_KEYS] if isinstance(key, dict) and key.get("kid") == kid
    ]


def _max_age(header: str) -> timedelta:
    words = [word.strip().lower() for word in header.split(",")]
    if {"no-store", "no-cache"} & set(words):
        return timedelta()
    for word in words:
        name, _, value = word.partition("=")
        if name == "max-age" and value.isascii() and value.isdigit():
            return timedelta(seconds=min(int(value), 86_400))
    return KEPT


def consent_of(given: Mapping[str, Sequence[str]]) -> str:
    """Return the Consent that a proved request shows its assertion for (RFC 7523 §2.1), or ""."""
    one = {name: values[0] for name, values in given.items() if values}
    if one.get("grant_type") != BEARER:
        return ""
    named = jwt.peek(one.get("assertion", "")).get("consent")
    return named if isinstance(named, str) else ""
