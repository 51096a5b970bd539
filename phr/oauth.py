"""The client side of SMART App Launch 2.2: discovery, authorisation with PKCE, tokens, renewal.

Stateless: what must be remembered is handed back as plain values and kept in the vault by the
caller (`phr.connect`, `phr.pull`). Not here: FHIR itself.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import msgspec

from phr import beacon, clock, ids, jwt
from phr.beacon import Help
from phr.bounded import read_object
from phr.errors import (
    AddressRefused,
    AnswerRefused,
    InvalidInput,
    NeedsReauthorisation,
    NetError,
    RemoteBroken,
    TrustError,
    TryLater,
    Unreachable,
    WrongPatient,
)
from phr.http import SMALL, Answer, Http, Limits
from phr.net import NotSent

PENDING_FOR: Final = timedelta(minutes=10)
LONGEST_LIFE: Final = 24 * 3600  # seconds; a longer `expires_in` is not believed
METADATA: Final = Limits(size=8 << 20, first_byte=30.0, total=90.0)  # some statements are huge
FHIR_ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,64}\Z")  # R4 §2.24.0.1 id
OAUTH_URIS: Final = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
WILDCARDS: Final = ("patient/*.rs", "patient/*.read", "patient/*.r")
LATER: Final = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
CLIENT_UNKNOWN: Final = frozenset({"invalid_client", "unauthorized_client"})
ASSERTED: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 §2.2
BY_CONSENT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # RFC 8693 §2.1
TICKET: Final = "https://smarthealthit.org/token-type/permission-ticket"
ASSERTION_LIFE: Final = 60  # seconds
CONSENT_OVER: Final = (
    "The consent there has ended, or it was stopped. Nothing more is fetched; what was fetched "
    "before is kept."
)
TICKET_OVER: Final = (
    "The ticket has run out, or it was stopped there. Nothing more is fetched; what was fetched "
    "before is kept."
)
NO_REGISTRATION: Final = (
    "This hospital does not register apps by itself. Register an own app there and type its client "
    "id here."
)
LONGEST_GRANT: Final = 20 * 366 * 24 * 3600  # seconds; a longer permission is not believed


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of a provider's address. `quirks` are data: "aud", "count", "everything"."""

    base_url: str  # exactly as published: `aud` must equal it byte for byte at some vendors
    authorization_endpoint: str
    token_endpoint: str
    issuer: str | None = None
    jwks_uri: str | None = None
    revocation_endpoint: str | None = None
    registration_endpoint: str | None = None  # RFC 7591
    iss_promised: bool = False  # RFC 9207 §3
    scopes_supported: tuple[str, ...] = ()
    token_auth_methods: tuple[str, ...] = ()
    token_auth_algorithms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    fhir_version: str | None = None
    software: str | None = None
    offers: tuple[str, ...] = ()  # resource types named by the CapabilityStatement
    everything: bool = False  # Patient/$everything is declared
    quirks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sign_in_url(self) -> str:
        """Where a browser is sent to sign in: as announced, or as we ourselves know better."""
        return str(self.quirks.get("authorize") or self.authorization_endpoint)

    def to_json(self) -> dict[str, Any]:
        """Return plain values to keep."""
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Endpoint":
        """Read what `to_json` gave."""
        return msgspec.convert(kept, cls)


@dataclass(frozen=True, slots=True)
class Made:
    """Where a dynamically registered client is managed, and the token for it (RFC 7592 §3)."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Client:
    """How we are known there. Without secret, key and help we are a public client."""

    id: str
    redirect_uri: str
    secret: str | None = field(default=None, repr=False)
    scopes: str = ""  # empty: chosen from what the endpoint supports
    key: Mapping[str, Any] | None = field(default=None, repr=False)  # private_key_jwt: our JWK
    help: Help | None = None  # a lighthouse that signs or passes on
    back: Help | None = None  # a lighthouse whose page leads the browser back here
    made: Made | None = None  # where a client that the site made for us is given back
    consent: str = ""  # id of the Consent there under which tokens are given without a sign-in
    ticket: str = field(default="", repr=False)  # a Permission Ticket for which they are given

    @property
    def is_confidential(self) -> bool:
        """Whether the token endpoint is shown more than a client id."""
        return bool(self.secret or self.key or self.help)

    def to_json(self) -> dict[str, Any]:
        """Return plain values to keep."""
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Client":
        """Read what `to_json` gave."""
        return msgspec.convert(kept, cls)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Tokens of a connection. `rotates` is None until a renewal has shown it.

    `renewing` is set durably before a refresh token is sent: if it is still set after a crash, the
    token may have been used and must not be used again.
    """

    access_token: str = field(repr=False)
    obtained_at: datetime
    expires_at: datetime | None = None
    refresh_token: str | None = field(default=None, repr=False)
    patient: str = ""
    scope: str = ""
    fhir_user: str | None = None
    rotates: bool | None = None
    renewing: bool = False
    ends_at: datetime | None = None  # of the permission as a whole, where the hospital told it

    def to_json(self) -> dict[str, Any]:
        """Return plain values to keep."""
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Credentials":
        """Read what `to_json` gave."""
        return msgspec.convert(kept, cls)

    def due(self, now: datetime) -> bool:
        """Say whether to renew before the next use: a fifth of the life left, at most a minute."""
        if self.expires_at is None:
            return False
        life = self.expires_at - self.obtained_at
        return now >= self.expires_at - min(timedelta(minutes=1), life / 5)


@dataclass(frozen=True, slots=True)
class Pending:
    """An authorisation on its way. The state itself is only in the browser's address."""

    state_hash: str
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)
    redirect_uri: str
    token_endpoint: str
    issuer: str | None
    expires_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return plain values to keep."""
        kept: dict[str, Any] = msgspec.to_builtins(self)
        return kept

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Pending":
        """Read what `to_json` gave."""
        return msgspec.convert(kept, cls)


@dataclass(frozen=True, slots=True)
class Begun:
    """Where to send the person, and what to remember until they come back."""

    url: str
    state: str = field(repr=False)
    pending: Pending


# ------------------------------------------------------------------------------- discovery


def discover(http: Http, base_url: str, quirks: Mapping[str, Any] | None = None) -> Endpoint:
    """Ask a FHIR base URL how to sign in there (SMART App Launch 2.2 §2.6 conformance).

    Reads `.well-known/smart-configuration`, or the CapabilityStatement's oauth-uris where there is
    none. Raises InvalidInput when no usable sign-in is offered, NetError when nobody answers.
    """
    place = http.guard.check(base_url)
    if place.query:
        raise InvalidInput("The address must not hold a '?'.")
    smart = _fetch_json(http, base_url.rstrip("/") + "/.well-known/smart-configuration", SMALL)
    statement = _statement(http, base_url.rstrip("/") + "/metadata")
    found = smart if "token_endpoint" in smart else smart | _oauth_uris(statement)
    endpoint = _endpoint(base_url, found, statement, quirks or {})
    _refuse_unsafe(http, endpoint, found)
    return endpoint


def _statement(http: Http, url: str) -> dict[str, Any]:
    """Return the CapabilityStatement (DSTU2: Conformance), asked for anew where it came as XML."""
    try:
        answer = _fetch(http, url, METADATA)
        if answer.status == 200 and answer.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
            answer = _fetch(http, url + "?_format=json", METADATA)
        return read_object(answer.body) if answer.status == 200 else {}
    except (AnswerRefused, RemoteBroken):
        return {}


def _fetch_json(http: Http, url: str, limits: Limits) -> dict[str, Any]:
    """Return a JSON object, or an empty one where the server has none to give."""
    try:
        answer = _fetch(http, url, limits)
        return read_object(answer.body) if answer.status == 200 else {}
    except (AnswerRefused, RemoteBroken):
        return {}


def _fetch(http: Http, url: str, limits: Limits) -> Answer:
    every = "application/json, application/fhir+json;q=0.9, application/json+fhir;q=0.8"
    return http.get(url, headers={"accept": every}, limits=limits)  # JSON of all releases


def _endpoint(
    base_url: str,
    found: Mapping[str, Any],
    statement: Mapping[str, Any],
    quirks: Mapping[str, Any],
) -> Endpoint:
    authorize, token = _text(found, "authorization_endpoint"), _text(found, "token_endpoint")
    if not authorize or not token:
        raise InvalidInput(
            "At this address no SMART sign-in was found. Is it the FHIR address for patients, "
            "such as https://…/fhir/r4?"
        )
    rest = _first(statement.get("rest"))
    resources = [entry for entry in _list(rest.get("resource")) if isinstance(entry, dict)]
    software = statement.get("software")
    return Endpoint(
        base_url=base_url,
        authorization_endpoint=authorize,
        token_endpoint=token,
        issuer=_text(found, "issuer"),
        jwks_uri=_text(found, "jwks_uri"),
        revocation_endpoint=_text(found, "revocation_endpoint"),
        registration_endpoint=_text(found, "registration_endpoint"),
        iss_promised=found.get("authorization_response_iss_parameter_supported") is True,
        scopes_supported=_texts(found.get("scopes_supported")),
        token_auth_methods=_texts(found.get("token_endpoint_auth_methods_supported")),
        token_auth_algorithms=_texts(found.get("token_endpoint_auth_signing_alg_values_supported")),
        capabilities=_texts(found.get("capabilities")),
        fhir_version=_text(statement, "fhirVersion"),
        software=_text(software, "name") if isinstance(software, dict) else None,
        offers=tuple(text for entry in resources if (text := _text(entry, "type"))),
        everything=any(
            _text(operation, "name") in {"everything", "patient-everything"}
            for entry in resources
            if entry.get("type") == "Patient"
            for operation in _list(entry.get("operation"))
            if isinstance(operation, dict)
        ),
        quirks=dict(quirks),
    )


def _refuse_unsafe(http: Http, endpoint: Endpoint, found: Mapping[str, Any]) -> None:
    methods = _texts(found.get("code_challenge_methods_supported"))
    if methods and "S256" not in methods:
        raise InvalidInput(
            "This server offers only a weak form of sign-in protection (PKCE without S256), so "
            "Homeport does not connect to it."
        )
    for address in (
        endpoint.authorization_endpoint,
        endpoint.token_endpoint,
        endpoint.jwks_uri,
        endpoint.revocation_endpoint,
        endpoint.registration_endpoint,
    ):
        if address:
            http.guard.check(address)


def _oauth_uris(statement: Mapping[str, Any]) -> dict[str, Any]:
    """Read the addresses from a CapabilityStatement (SMART App Launch 1.0, still in use)."""
    names = {
        "authorize": "authorization_endpoint",
        "token": "token_endpoint",
        "revoke": "revocation_endpoint",
        "register": "registration_endpoint",
    }
    found: dict[str, Any] = {}
    security = _first(statement.get("rest")).get("security")
    for outer in _list(security.get("extension") if isinstance(security, dict) else None):
        if isinstance(outer, dict) and outer.get("url") == OAUTH_URIS:
            for inner in _list(outer.get("extension")):
                if isinstance(inner, dict) and inner.get("url") in names:
                    found[names[inner["url"]]] = inner.get("valueUri")
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _first(value: Any) -> Mapping[str, Any]:
    first = value[0] if isinstance(value, list) and value else None
    return first if isinstance(first, dict) else {}


def _text(holder: Mapping[str, Any], name: str) -> str | None:
    value = holder.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= 2048 else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in _list(value)[:500] if isinstance(text, str))


# ------------------------------------------------------------------------------ registration


def register(
    http: Http, endpoint: Endpoint, redirect_uri: str, *, keys: Mapping[str, Mapping[str, Any]]
) -> Client:
    """Have a site give us a client of our own (RFC 7591 §3), for this house alone.

    `keys` are our private JWKs by algorithm; only public halves are sent. Raises InvalidInput where
    the site does not do so, NetError where it does not answer.
    """
    if not endpoint.registration_endpoint:
        raise InvalidInput(NO_REGISTRATION)
    method, key = _method(endpoint, keys)
    wish: dict[str, Any] = {
        "client_name": "Homeport",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "scope": scopes_for(endpoint, confidential=method != "none"),
    }
    if key is not None:
        wish["jwks"] = {"keys": [jwt.public_half(key)]}
        wish["token_endpoint_auth_signing_alg"] = key["alg"]
    kind = {"content-type": "application/json", "accept": "application/json"}
    url, body = endpoint.registration_endpoint, json.dumps(wish).encode()
    answer = http.post(url, body, headers=kind, limits=SMALL)
    given = _token_object(answer)
    if answer.status not in {200, 201} or not _text(given, "client_id"):
        said = plain_words(str(given.get("error_description") or given.get("error") or ""), 100)
        raise InvalidInput(NO_REGISTRATION + (f" It said: {said}" if said else ""))
    return _registered(given, redirect_uri, method, key)


def _method(
    endpoint: Endpoint, keys: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Mapping[str, Any] | None]:
    """Choose how to show who we are: a key of our own, else nothing, else a secret."""
    listed, signing = endpoint.token_auth_methods, endpoint.token_auth_algorithms
    if "private_key_jwt" in listed:
        for algorithm in jwt.SIGNING_ALGORITHMS:
            if algorithm in keys and (not signing or algorithm in signing):
                return "private_key_jwt", keys[algorithm]
    if not listed or "none" in listed:
        return "none", None
    way = "client_secret_basic" if "client_secret_basic" in listed else "client_secret_post"
    return way, None


def _registered(
    given: Mapping[str, Any], redirect_uri: str, method: str, key: Mapping[str, Any] | None
) -> Client:
    """Read what a site made of our wish (RFC 7591 §3.2.1); it may choose another method."""
    chosen, secret = given.get("token_endpoint_auth_method") or method, given.get("client_secret")
    if chosen == "private_key_jwt" and key is None:
        raise InvalidInput(NO_REGISTRATION)
    return Client(
        _token_text(given["client_id"]),
        redirect_uri,
        _token_text(secret) if secret and str(chosen).startswith("client_secret") else None,
        "",
        dict(key) if key is not None and chosen == "private_key_jwt" else None,
        made=_made(given),
    )


def _made(given: Mapping[str, Any]) -> Made | None:
    url, token = _text(given, "registration_client_uri"), _text(given, "registration_access_token")
    return Made(url, token) if url and token and token.isascii() and token.isprintable() else None


def unregister(http: Http, endpoint: Endpoint, client: Client) -> bool | None:
    """Give back a client that the site made for us (RFC 7592 §2.3); whether it agreed.

    None where there is nothing to give back. The token goes to the site that made the client only.
    """
    if client.made is None or not endpoint.registration_endpoint:
        return None
    place = http.guard.check(endpoint.registration_endpoint)
    origin = f"{place.scheme}://{place.authority}/"
    try:
        answer = http.delete(client.made.url, bearer=client.made.token, origin=origin, limits=SMALL)
    except NetError:
        return False
    return answer.status in {200, 204, 404}


# ---------------------------------------------------------------------------- authorisation


def scopes_for(endpoint: Endpoint, *, confidential: bool = False) -> str:
    """Choose the least scopes that let one patient's record be read and renewed.

    Vendors' habits come as quirks: "scopes" (exactly these), "scopes_by_type" (no wildcard),
    "scopes_add", "openid", "refresh" ("none", or "confidential": only for clients with a secret).
    """
    fixed = endpoint.quirks.get("scopes")
    if isinstance(fixed, str) and fixed.strip():
        return " ".join(fixed.split())
    chosen = [*_launching(endpoint, confidential=confidential), *_reading(endpoint)]
    added = endpoint.quirks.get("scopes_add")
    return " ".join(dict.fromkeys([*chosen, *(added.split() if isinstance(added, str) else ())]))


def _launching(endpoint: Endpoint, *, confidential: bool) -> Iterator[str]:
    supported = endpoint.scopes_supported
    yield "launch/patient"
    identity = not supported or ("openid" in supported and "fhirUser" in supported)
    if identity and endpoint.quirks.get("openid", True):
        yield from ("openid", "fhirUser")
    refresh = endpoint.quirks.get("refresh", "scope")
    wanted = refresh == "scope" or (refresh == "confidential" and confidential)
    if wanted and (not supported or "offline_access" in supported):
        yield "offline_access"


def _reading(endpoint: Endpoint) -> list[str]:
    supported, v2 = endpoint.scopes_supported, "permission-v2" in endpoint.capabilities
    if endpoint.quirks.get("scopes_by_type"):
        named = [scope for scope in supported if _reads_one(scope) and "*" not in scope]
        kinds = [*endpoint.offers] if not named else []
        return named or [f"patient/{kind}.read" for kind in kinds] or ["patient/*.read"]
    if not supported:
        return ["patient/*.rs" if v2 else "patient/*.read"]
    for wildcard in WILDCARDS:
        if wildcard in supported:
            return [wildcard]
    return [scope for scope in supported if _reads_one(scope)] or ["patient/*.read"]


def _reads_one(scope: str) -> bool:
    return scope.startswith("patient/") and scope.partition(".")[2] in {"read", "rs", "r"}


def begin(
    endpoint: Endpoint,
    client: Client,
    *,
    now: datetime,
    seal: Callable[[str], str] | None = None,
) -> Begun:
    """Start an authorisation: the address to open, and what to keep until the answer comes.

    `seal` turns the fresh state into one that a redirect page of a lighthouse can read.
    """
    # 20 ms and 3 MB of every start: who connects no hospital never needs it
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # noqa: PLC0415 - see above
    from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415 - see above

    state, verifier, nonce = ids.new_secret(), ids.new_secret(48), ids.new_secret()
    state = seal(state) if seal else state
    scope = client.scopes or scopes_for(endpoint, confidential=client.is_confidential)
    parameters = {
        "state": state,
        "code_challenge": create_s256_code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    audience = _audience(endpoint)
    if audience is not None:
        parameters["aud"] = audience
    if endpoint.quirks.get("response_mode") == "fragment":
        parameters["response_mode"] = "fragment"  # OAuth 2.0 Multiple Response Types §2.1
    if "openid" in scope.split():
        parameters["nonce"] = nonce
        parameters |= _prompt(endpoint, scope)
    url = prepare_grant_uri(
        endpoint.sign_in_url,
        client.id,
        "code",
        redirect_uri=client.redirect_uri,
        scope=scope,
        **parameters,
    )
    pending = Pending(
        state_hash=ids.fingerprint(state).hex(),
        verifier=verifier,
        nonce=nonce,
        redirect_uri=client.redirect_uri,
        token_endpoint=endpoint.token_endpoint,
        issuer=endpoint.issuer,
        expires_at=now + PENDING_FOR,
    )
    return Begun(str(url), state, pending)


def _prompt(endpoint: Endpoint, scope: str) -> dict[str, str]:
    """Ask for consent anew where renewal is wanted: OIDC Core §11 drops offline_access without."""
    prompt = endpoint.quirks.get("prompt", "consent")
    return {"prompt": str(prompt)} if prompt and "offline_access" in scope.split() else {}


def _audience(endpoint: Endpoint) -> str | None:
    """Apply the endpoint's rule: the base as published, without slash, absent, or a given one."""
    rule = endpoint.quirks.get("aud", "exact")
    if rule == "absent":
        return None
    if rule == "no_slash":
        return endpoint.base_url.rstrip("/")
    return endpoint.base_url if rule == "exact" else str(rule)


def read_landing(text: str) -> dict[str, str]:
    """Read code, state and iss from the address that a person landed on and pasted.

    Raises InvalidInput if a parameter stands twice or the text is no such address.
    """
    parts = urlsplit(text.strip()[:8192])
    pairs = parse_qsl(parts.query or parts.fragment, keep_blank_values=True)
    found = dict(pairs)
    if len(found) != len(pairs) or "state" not in found:
        raise InvalidInput(
            "This is not the address you landed on after signing in: it should hold 'code=' and "
            "'state='."
        )
    return found


def complete(
    http: Http,
    endpoint: Endpoint,
    client: Client,
    pending: Pending,
    landed: Mapping[str, str],
    *,
    now: datetime,
) -> Credentials:
    """Turn the answer of the authorisation into tokens (SMART App Launch 2.2 §2.1.9-2.1.12).

    Raises InvalidInput for a wrong, old or denied answer, TrustError where somebody else than the
    expected server speaks, RemoteBroken where the tokens cannot be used.
    """
    _check_landing(endpoint, pending, landed, now)
    form = {
        "grant_type": "authorization_code",
        "code": landed["code"],
        "redirect_uri": pending.redirect_uri,
        "code_verifier": pending.verifier,
    }
    answer = _ask_token(http, endpoint, client, form)
    given = _token_object(answer)
    error = _error_of(given)
    if answer.status != 200 or error:
        raise RemoteBroken(_exchange_sentence(answer, error))
    credentials = _credentials(given, now)
    if not credentials.patient:
        raise RemoteBroken(
            "The hospital did not say whose record this is, so nothing was connected."
        )
    if isinstance(given.get("id_token"), str):
        who = _identity(http, endpoint, client, given["id_token"], nonce=pending.nonce, now=now)
        credentials = replace(credentials, fhir_user=who)
    return credentials


def _check_landing(
    endpoint: Endpoint, pending: Pending, landed: Mapping[str, str], now: datetime
) -> None:
    state = ids.fingerprint(landed.get("state", "")).hex()
    if not ids.same(state, pending.state_hash) or now >= pending.expires_at:
        raise InvalidInput("This sign-in is too old or was already used. Please start again.")
    if pending.token_endpoint != endpoint.token_endpoint:
        raise TrustError("The hospital's sign-in address changed meanwhile. Please start again.")
    issuer = landed.get("iss")
    if (issuer is None and endpoint.iss_promised) or (
        issuer is not None and endpoint.issuer is not None and issuer != endpoint.issuer
    ):
        raise TrustError(
            "The answer came from another server than the one you signed in at. Nothing was stored."
        )
    if "error" in landed or not landed.get("code"):
        raise InvalidInput(_denied_sentence(landed))


def _denied_sentence(landed: Mapping[str, str]) -> str:
    if landed.get("error") == "access_denied":
        return "The sign-in was cancelled or you said no there. Nothing was connected."
    said = plain_words(landed.get("error_description") or landed.get("error") or "nothing")
    return f"The hospital did not complete the sign-in. It said: {said}"


def plain_words(text: str, most: int = 160) -> str:
    """Return foreign text for people: printable, one line, cut."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: most * 4])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _exchange_sentence(answer: Answer, error: str) -> str:
    if error in CLIENT_UNKNOWN:
        return "The hospital does not accept this client id or secret. Please check both."
    said = plain_words(error, 60) or f"status {answer.status}"
    return f"The hospital did not accept this sign-in ({said}). Please start again."


def _identity(
    http: Http, endpoint: Endpoint, client: Client, token: str, *, nonce: str, now: datetime
) -> str | None:
    """Return the validated `fhirUser` of an id_token (OIDC Core §3.1.3.7); None if unusable.

    Some vendors leave out what a token must say; then it says nothing. What it says wrongly is
    refused with TrustError.
    """
    claims = jwt.peek(token)
    if any(claims.get(name) is None for name in ("iss", "aud", "exp", "nonce")):
        return None
    address = endpoint.jwks_uri or _openid_keys(http, endpoint)
    if not endpoint.issuer or not address:
        return None
    keys = _fetch_json(http, address, SMALL)
    if not keys:
        return None
    claims = jwt.verify(token, keys, issuer=endpoint.issuer, audience=client.id, now=now)
    if not ids.same(str(claims.get("nonce")), nonce):
        raise TrustError("The hospital's answer belongs to another sign-in. Nothing was stored.")
    who = claims.get("fhirUser") or claims.get("profile")
    return plain_words(who, 300) if isinstance(who, str) else None


def _openid_keys(http: Http, endpoint: Endpoint) -> str | None:
    """Find `jwks_uri` through OpenID Connect Discovery, whose issuer must be the same."""
    if not endpoint.issuer:
        return None
    url = endpoint.issuer.rstrip("/") + "/.well-known/openid-configuration"
    found = _fetch_json(http, url, SMALL)
    return _text(found, "jwks_uri") if found.get("issuer") == endpoint.issuer else None


# ------------------------------------------------------------------------------------ tokens


def _ask_token(
    http: Http,
    endpoint: Endpoint,
    client: Client,
    form: dict[str, str],
    *,
    url: str | None = None,
) -> Answer:
    """POST to the token endpoint, showing who we are in the way this client does.

    As public client, with the secret (RFC 6749 §2.3.1), with a signed assertion (RFC 7523 §2.2),
    or through a lighthouse that holds the secret.
    """
    if client.help is not None and client.help.kind == beacon.PASSES:
        return beacon.passed_on(http, client.help, urlencode(form).encode())
    headers = {"accept": "application/json"}
    methods = endpoint.token_auth_methods
    if client.key is not None or client.help is not None:
        form = form | {
            "client_id": client.id,
            "client_assertion_type": ASSERTED,
            "client_assertion": _assertion(http, endpoint, client),
        }
    elif client.secret is None:
        form = form | {"client_id": client.id}
    elif "client_secret_post" in methods and "client_secret_basic" not in methods:
        form = form | {"client_id": client.id, "client_secret": client.secret}
    else:
        pair = f"{quote_plus(client.id)}:{quote_plus(client.secret)}".encode()
        headers["authorization"] = "Basic " + base64.b64encode(pair).decode()
    return http.post(url or endpoint.token_endpoint, form, headers=headers, limits=SMALL)


def _assertion(
    http: Http, endpoint: Endpoint, client: Client, more: Mapping[str, str] | None = None
) -> str:
    """Return a signed statement that we are this client (SMART App Launch 2.2 §5.2.1)."""
    if client.key is None:
        if client.help is None:
            raise InvalidInput("Nobody signs for this connection.")
        return _token_text(beacon.minted(http, client.help))
    issued = int(clock.now().timestamp())
    claims = {
        "iss": client.id,
        "sub": client.id,
        "aud": endpoint.token_endpoint,
        "jti": ids.new_secret(),
        "iat": issued,
        "exp": issued + ASSERTION_LIFE,
    }
    return jwt.sign(claims | dict(more or {}), client.key)


# ------------------------------------------------------------------------- token answers


def _token_object(answer: Answer) -> dict[str, Any]:
    """Return the JSON object of a token answer; HTML and empty bodies count as an empty one."""
    try:
        return read_object(answer.body)
    except RemoteBroken:
        return {}


def _error_of(given: Mapping[str, Any]) -> str:
    error = given.get("error")
    if isinstance(error, str) and error:
        return error
    return "" if isinstance(given.get("access_token"), str) and given["access_token"] else "none"


def _credentials(given: Mapping[str, Any], now: datetime) -> Credentials:
    """Read a token answer; harmless defects are tolerated (spec/security.md e-B6, B8)."""
    kind = given.get("token_type")
    if kind is not None and str(kind).lower() != "bearer":
        raise RemoteBroken("The hospital hands out a kind of access that is not understood here.")
    refresh_token = given.get("refresh_token")
    life = _life(given.get("expires_in"))
    return Credentials(
        access_token=_token_text(given["access_token"]),
        obtained_at=now,
        expires_at=None if life is None else now + timedelta(seconds=life),
        refresh_token=_token_text(refresh_token) if refresh_token else None,
        patient=_patient(given.get("patient")),
        scope=str(given.get("scope") or "")[:4096],
        ends_at=_end_of_all(given, now),
    )


def _end_of_all(given: Mapping[str, Any], now: datetime) -> datetime | None:
    """Return when the permission as a whole ends, where the hospital tells; no standard says how.

    Both names are in use; zero and nonsense mean "no end is known".
    """
    for name in ("refresh_token_expires_in", "refresh_expires_in"):
        seconds = _life(given.get(name), LONGEST_GRANT)
        if seconds is not None:
            return now + timedelta(seconds=seconds)
    return None


def _token_text(value: Any) -> str:
    """Return a token that can stand in a header (RFC 6750 §2.1); anything else is refused."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise RemoteBroken
    if len(value) > 16 * 1024 or " " in value:
        raise RemoteBroken
    return value


def _life(value: Any, longest: float = LONGEST_LIFE) -> float | None:
    """Return a believable lifetime in seconds (numbers and digits as text); None: not known."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(seconds, longest) if seconds > 0 else None


def _patient(value: Any) -> str:
    """Return the patient id; "" when absent. Lists, paths and nonsense are refused, not guessed."""
    if value is None or value == "":
        return ""
    bare = value.removeprefix("Patient/") if isinstance(value, str) else ""
    if not FHIR_ID.match(bare) or set(bare) == {"."}:
        raise RemoteBroken("The hospital named the person in a way that cannot be used.")
    return bare


def refresh(
    http: Http, endpoint: Endpoint, client: Client, credentials: Credentials, *, now: datetime
) -> Credentials:
    """Use the refresh token, once (RFC 6749 §6, RFC 9700 §4.14).

    The caller has written `renewing` durably before. Raises NeedsReauthorisation when the grant is
    over or the answer got lost at a server that rotates, TryLater when asking again is safe.
    """
    if client.consent:
        return _renewed(credentials, by_consent(http, endpoint, client, now=now))
    if client.ticket:
        return _renewed(credentials, by_ticket(http, endpoint, client, now=now))
    if credentials.refresh_token is None:
        raise NeedsReauthorisation(
            "The hospital's permission has run out and it gave none that renews itself. Please "
            "sign in there again; what was fetched before is kept."
        )
    form = {"grant_type": "refresh_token", "refresh_token": credentials.refresh_token}
    try:
        answer = _ask_token(http, endpoint, client, form)
    except NotSent as problem:
        raise TryLater(problem.told) from problem
    except AddressRefused as problem:
        raise TryLater(
            f"The permission was not renewed, and nothing was sent. {problem.sentence}", after=900
        ) from problem
    except (Unreachable, AnswerRefused) as problem:
        raise _lost(credentials, problem) from problem
    given = _token_object(answer)
    error = _error_of(given)
    if answer.status == 200 and not error:
        try:
            fresh = _credentials(given, now)
        except RemoteBroken as problem:
            raise _lost(credentials, problem) from problem
        return _renewed(credentials, fresh)
    raise _refusal(answer, error, credentials)


def by_consent(http: Http, endpoint: Endpoint, client: Client, *, now: datetime) -> Credentials:
    """Ask for a token under a Consent, showing our key (RFC 7523 §2.1, with `consent` as in 2017).

    Nothing is used up by it. Raises NeedsReauthorisation when the Consent is over, TryLater.
    """
    more = {"consent": client.consent}
    form = {"grant_type": BY_CONSENT, "assertion": _assertion(http, endpoint, client, more)}
    return _given_for(http, endpoint, form, CONSENT_OVER, now=now)


def by_ticket(http: Http, endpoint: Endpoint, client: Client, *, now: datetime) -> Credentials:
    """Exchange a SMART Permission Ticket for a token, showing our key (RFC 8693 §2.1).

    Nothing is used up by it: a ticket is shown again and again. Raises as `by_consent` does.
    """
    form = {
        "grant_type": EXCHANGE,
        "subject_token": client.ticket,
        "subject_token_type": TICKET,
        "client_assertion_type": ASSERTED,
        "client_assertion": _assertion(http, endpoint, client),
    }
    return _given_for(http, endpoint, form, TICKET_OVER, now=now)


def _given_for(
    http: Http, endpoint: Endpoint, form: Mapping[str, str], over: str, *, now: datetime
) -> Credentials:
    """Ask with what can be shown again; `over` is said where the other server refuses it."""
    try:
        answer = http.post(
            endpoint.token_endpoint, form, headers={"accept": "application/json"}, limits=SMALL
        )
    except (Unreachable, AnswerRefused, AddressRefused) as problem:
        raise TryLater(problem.told) from problem
    given = _token_object(answer)
    error = _error_of(given)
    if answer.status == 200 and not error:
        try:
            return _credentials(given, now)
        except RemoteBroken as problem:
            raise TryLater(problem.told) from problem
    if answer.status in {408, 425, 429, 500, 502, 503, 504} or error in LATER:
        raise TryLater("The server that gives permission is busy or down.", after=300)
    raise NeedsReauthorisation(over)


def _lost(credentials: Credentials, problem: NetError | RemoteBroken) -> Exception:
    """Judge a renewal without a usable answer: a rotating token may be used up by now."""
    if credentials.rotates is False:
        return TryLater(problem.told)
    return NeedsReauthorisation(
        "The hospital's answer got lost, or could not be read, while the permission was being "
        "renewed. Please sign in there again; what was fetched before is kept."
    )


def _renewed(old: Credentials, new: Credentials) -> Credentials:
    if new.patient and new.patient != old.patient:
        raise WrongPatient
    rotated = new.refresh_token is not None and new.refresh_token != old.refresh_token
    return replace(
        new,
        refresh_token=new.refresh_token or old.refresh_token,
        patient=old.patient,
        scope=new.scope or old.scope,
        fhir_user=old.fhir_user,
        rotates=rotated,
        ends_at=new.ends_at or old.ends_at,
    )


def _refusal(answer: Answer, error: str, credentials: Credentials) -> Exception:
    """Class a refused renewal by status, error code and form; vendors agree on none of them."""
    if answer.status in {408, 425, 429, 500, 503} or error in LATER:
        return TryLater("The hospital's sign-in service is busy or down.", after=300)
    if error in CLIENT_UNKNOWN:
        return NeedsReauthorisation(
            "The hospital no longer accepts this app's client id or secret. Please check them and "
            "sign in again; what was fetched before is kept."
        )
    if 400 <= answer.status < 500 or (answer.status == 200 and error != "none"):
        return NeedsReauthorisation()  # invalid_grant, invalid_request, HTML, empty: all seen
    return _lost(credentials, Unreachable("The hospital's sign-in service did not work."))


def revoke(http: Http, endpoint: Endpoint, client: Client, credentials: Credentials) -> bool:
    """Tell the hospital that its permission is no longer used (RFC 7009); True if it agreed."""
    if not endpoint.revocation_endpoint or (
        client.help is not None and client.help.kind == beacon.PASSES
    ):
        return False
    token = credentials.refresh_token or credentials.access_token
    url = endpoint.revocation_endpoint
    try:
        return _ask_token(http, endpoint, client, {"token": token}, url=url).status == 200
    except (NetError, TryLater):
        return False
