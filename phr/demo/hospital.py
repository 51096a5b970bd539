"""The demo hospital itself: its pages, its authorization server, its FHIR door (one ASGI app).

SMART App Launch 2.2, standalone launch for a public client: PKCE S256 is demanded, a code works
once, refresh tokens rotate and a replayed one ends the whole family (RFC 9700 §4.14). Everything is
held in memory and void after a stop; nobody real is in it.
"""

import base64
import hashlib
import html
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from phr import clock, ids
from phr.demo.fhir import PATIENCE, Answer, Records, outcome
from phr.demo.people import HOSPITAL, PEOPLE
from phr.settings import is_loopback

NAME = HOSPITAL
CLIENT_ID = "homeport-demo"
SCOPES = (
    "openid",
    "fhirUser",
    "offline_access",
    "launch/patient",
    "patient/*.rs",
    "patient/*.read",
)
ACCESS_SECONDS = 300
ASKED_MINUTES = 10
OPEN_AT_MOST = 100  # authorizations under way
BODY_AT_MOST = 16 * 1024
KEY_ID = "demo-1"
STATIC = Path(__file__).parents[1] / "web" / "static"  # the look of the appliance

NARROW = b".doctor main { max-inline-size: 44rem } .stack { padding-inline: 0 }\n"

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]
Query = Mapping[str, str]


@dataclass(slots=True)
class Asked:
    """An authorization request under way."""

    redirect_uri: str
    state: str
    challenge: str
    nonce: str
    scope: str
    ends_at: datetime
    person: str = ""


@dataclass(slots=True)
class Family:
    """One authorization: the person, and the one refresh token that is good now."""

    person: str
    scope: str
    nonce: str
    refresh: str = ""
    ended: bool = False
    asked_for_patience: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """A code or an access token: whose it is and when it ends."""

    family: Family
    ends_at: datetime
    redirect_uri: str = ""
    challenge: str = ""


class Hospital:
    """The ASGI application. `origin` is where apps reach it, `pages` where browsers do."""

    def __init__(self, origin: str, pages: str) -> None:
        """Make the records and the signing key."""
        self.origin, self.pages = origin, pages
        self.records = Records(f"{origin}/fhir")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._asked: dict[str, Asked] = {}
        self._codes: dict[str, Grant] = {}
        self._used_codes: dict[str, Family] = {}
        self._access: dict[str, Grant] = {}
        self._refresh: dict[str, Family] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Unknown paths are 404."""
        if scope["type"] != "http":
            return
        body = await _body(receive) if scope["method"] == "POST" else b""
        answer = self._answer(scope, body)
        headers = [
            ("content-type", answer.media_type),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            *answer.headers,
        ]
        start = {"type": "http.response.start", "status": answer.status}
        await send({**start, "headers": [(n.encode(), v.encode()) for n, v in headers]})
        await send({"type": "http.response.body", "body": answer.body})

    def _answer(self, scope: Scope, body: bytes) -> Answer:
        path = scope["path"].removeprefix("/demo-hospital").rstrip("/") or "/"
        query = _pairs(scope["query_string"].decode("latin-1"))
        form = _pairs(body.decode("latin-1"))
        pages: Mapping[tuple[str, str], Callable[[], Answer]] = {
            ("GET", "/"): self._front,
            ("GET", "/style.css"): _style,
            ("GET", "/authorize"): lambda: self._authorize(query),
            ("POST", "/person"): lambda: self._person(form),
            ("POST", "/consent"): lambda: self._consent(form),
            ("POST", "/token"): lambda: self._token(form),
            ("POST", "/revoke"): lambda: self._revoke(form),
            ("GET", "/jwks"): self._jwks,
            ("GET", "/fhir/metadata"): self._metadata,
            ("GET", "/fhir/.well-known/smart-configuration"): self._configuration,
        }
        found = pages.get((scope["method"], path))
        if found is not None:
            return found()
        if scope["method"] == "GET" and path.startswith("/fhir/"):
            return self._fhir(path.removeprefix("/fhir/"), query, _bearer(scope))
        return Answer(404, b"Not found\n", media_type="text/plain")

    # ------------------------------------------------------------------ discovery

    def _configuration(self) -> Answer:
        return _json(
            {
                "issuer": self.origin,
                "jwks_uri": f"{self.origin}/jwks",
                "authorization_endpoint": f"{self.origin}/authorize",
                "token_endpoint": f"{self.origin}/token",
                "revocation_endpoint": f"{self.origin}/revoke",
                "token_endpoint_auth_methods_supported": ["none"],
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "response_types_supported": ["code"],
                "scopes_supported": list(SCOPES),
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
                "capabilities": [
                    "launch-standalone",
                    "client-public",
                    "sso-openid-connect",
                    "context-standalone-patient",
                    "permission-offline",
                    "permission-patient",
                    "permission-v1",
                    "permission-v2",
                ],
            }
        )

    def _metadata(self) -> Answer:
        body = self.records.capability(f"{self.origin}/authorize", f"{self.origin}/token")
        return Answer(200, body)

    def _jwks(self) -> Answer:
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID}
        x, y = (_b64(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
        return _json({"keys": [{**key, "x": x, "y": y}]})

    # ------------------------------------------------------------------ pages for people

    def _front(self) -> Answer:
        return _page("This hospital is not real", "<p>It exists so that Homeport can be tried.</p>")

    def _authorize(self, query: Query) -> Answer:
        """Check the request (RFC 6749 §4.1.1, RFC 7636 §4.3) and ask who is there."""
        problem = self._objection(query)
        if problem:
            return _page("This request cannot be answered", f"<p>{html.escape(problem)}</p>", 400)
        now = clock.now()
        self._asked = {key: one for key, one in self._asked.items() if one.ends_at > now}
        if len(self._asked) >= OPEN_AT_MOST:
            return _page(
                "Too many sign-ins at once", "<p>Please try again in a few minutes.</p>", 503
            )
        asked = Asked(
            query["redirect_uri"],
            query.get("state", ""),
            query["code_challenge"],
            query.get("nonce", ""),
            query.get("scope", ""),
            now + timedelta(minutes=ASKED_MINUTES),
        )
        key = ids.new_id()
        self._asked[key] = asked
        rows = "".join(
            f'<li class="row"><div><p><b>{one.name}</b></p><p>{one.about}</p></div>'
            f'<button name="person" value="{one.id}">Sign in as {one.name.split()[0]}</button></li>'
            for one in PEOPLE
        )
        listed = f'<ul class="paper rows">{rows}</ul>'
        body = self._form("person", key, listed)
        return _page("Who are you?", body, targets=asked.redirect_uri)

    def _objection(self, query: Query) -> str:
        if query.get("client_id") != CLIENT_ID:
            return "This app is not known here."
        if not self._leads_home(query.get("redirect_uri", "")):
            return "The address to return to is not acceptable."
        if query.get("response_type") != "code":
            return "Only the authorization code flow is offered."
        if query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            return "PKCE with S256 is required."
        if query.get("aud", self.records.base).rstrip("/") != self.records.base:
            return "The request is meant for another server."
        return ""

    def _leads_home(self, address: str) -> bool:
        """Tell whether an address is the appliance's own or on this machine (RFC 8252 §7.3)."""
        try:
            target, home = urlsplit(address), urlsplit(self.pages)
            own = (target.scheme, target.hostname, target.port)
            same = own == (home.scheme, home.hostname, home.port)
        except ValueError:
            return False
        local = target.scheme in {"http", "https"} and is_loopback(target.hostname or "")
        return (same or local) and not target.fragment

    def _person(self, form: Query) -> Answer:
        asked = self._asked.get(form.get("key", ""))
        person = next((one for one in PEOPLE if one.id == form.get("person")), None)
        if asked is None or person is None or asked.ends_at <= clock.now():
            return _page("Please start again", "<p>This sign-in has run out.</p>", 400)
        asked.person = person.id
        text = (
            f"<p>An app called <b>Homeport</b> asks to read the record of <b>{person.name}</b>, "
            "now and later, until you end it here or there.</p>"
        )
        buttons = (
            '<p class="tools"><button class="main" name="decision" value="allow">Allow</button> '
            '<button name="decision" value="deny">Do not allow</button></p>'
        )
        body = self._form("consent", form["key"], text + buttons)
        return _page(f"May this app read {person.name}?", body, targets=asked.redirect_uri)

    def _form(self, action: str, key: str, content: str) -> str:
        hidden = f'<input type="hidden" name="key" value="{html.escape(key)}">'
        target = f"{self.pages}/{action}"
        return f'<form class="stack" method="post" action="{target}">{hidden}{content}</form>'

    def _consent(self, form: Query) -> Answer:
        """Send the browser back with a code, or with access_denied (RFC 6749 §4.1.2)."""
        asked = self._asked.pop(form.get("key", ""), None)
        if asked is None or not asked.person or asked.ends_at <= clock.now():
            return _page("Please start again", "<p>This sign-in has run out.</p>", 400)
        back = {"state": asked.state, "iss": self.origin}
        if form.get("decision") == "allow":
            code = ids.new_secret()
            family = Family(asked.person, asked.scope, asked.nonce)
            ends_at = clock.now() + timedelta(seconds=60)
            self._codes[code] = Grant(family, ends_at, asked.redirect_uri, asked.challenge)
            back["code"] = code
        else:
            back["error"] = "access_denied"
        joint = "&" if "?" in asked.redirect_uri else "?"
        target = f"{asked.redirect_uri}{joint}{urlencode(back)}"
        return Answer(303, b"", (("location", target),), "text/plain")

    # ------------------------------------------------------------------ tokens

    def _token(self, form: Query) -> Answer:
        if form.get("client_id") != CLIENT_ID:
            return _refusal("invalid_client")
        if form.get("grant_type") == "authorization_code":
            return self._redeem(form)
        if form.get("grant_type") == "refresh_token":
            return self._renew(form.get("refresh_token", ""))
        return _refusal("unsupported_grant_type")

    def _redeem(self, form: Query) -> Answer:
        code = form.get("code", "")
        if code in self._used_codes:
            self._used_codes[code].ended = True  # a code used twice: end what it gave
            return _refusal("invalid_grant")
        grant = self._codes.pop(code, None)
        if grant is None or grant.ends_at <= clock.now():
            return _refusal("invalid_grant")
        made = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        fits = ids.same(_b64(made), grant.challenge)
        if not fits or form.get("redirect_uri") != grant.redirect_uri:
            return _refusal("invalid_grant")
        self._used_codes[code] = grant.family
        return self._issue(grant.family)

    def _renew(self, token: str) -> Answer:
        family = self._refresh.get(token)
        if family is None or family.ended:
            return _refusal("invalid_grant")
        if family.refresh != token:
            family.ended = True  # somebody replayed an old one: end the family
            return _refusal("invalid_grant")
        return self._issue(family)

    def _issue(self, family: Family) -> Answer:
        now = clock.now()
        access, family.asked_for_patience = ids.new_secret(), False
        self._access = {key: one for key, one in self._access.items() if one.ends_at > now}
        self._access[access] = Grant(family, now + timedelta(seconds=ACCESS_SECONDS))
        granted = [scope for scope in family.scope.split() if scope in SCOPES]
        answer = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": ACCESS_SECONDS,
            "scope": " ".join(granted),
            "patient": family.person,
        }
        if "offline_access" in granted:
            family.refresh = ids.new_secret()
            self._refresh[family.refresh] = family
            answer["refresh_token"] = family.refresh
        if "openid" in granted:
            answer["id_token"] = self._id_token(family, now)
        return _json(answer)

    def _id_token(self, family: Family, now: datetime) -> str:
        """Sign an ID token with ES256 (RFC 7518 §3.4: r and s, 32 bytes each)."""
        issued = int(now.timestamp())
        claims = {
            "iss": self.origin,
            "aud": CLIENT_ID,
            "sub": family.person,
            "iat": issued,
            "exp": issued + ACCESS_SECONDS,
            "fhirUser": f"{self.records.base}/Patient/{family.person}",
        }
        if family.nonce:
            claims["nonce"] = family.nonce
        header = {"alg": "ES256", "typ": "JWT", "kid": KEY_ID}
        signed = ".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(SHA256())))
        return f"{signed}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def _revoke(self, form: Query) -> Answer:
        """End the family of a refresh or access token; always 200 (RFC 7009 §2.2)."""
        token = form.get("token", "")
        grant = self._access.get(token)
        family = self._refresh.get(token) or (grant.family if grant else None)
        if family is not None:
            family.ended = True
        return _json({})

    # ------------------------------------------------------------------ records

    def _fhir(self, path: str, query: Query, token: str) -> Answer:
        grant = self._access.get(token)
        if grant is None or grant.family.ended or grant.ends_at <= clock.now():
            demand = ("www-authenticate", 'Bearer error="invalid_token"')
            return Answer(401, outcome("login", "The access token is not valid."), (demand,))
        kind, _, identity = path.partition("/")
        if identity:
            return self.records.read(kind, identity, grant.family.person)
        if kind == PATIENCE and not grant.family.asked_for_patience:
            grant.family.asked_for_patience = True
            wait = ("retry-after", "1")
            return Answer(429, outcome("throttled", "Please come back in a second."), (wait,))
        return self.records.search(kind, query, grant.family.person)


def _refusal(error: str) -> Answer:
    return Answer(400, json.dumps({"error": error}).encode(), media_type="application/json")


def _json(value: Mapping[str, Any]) -> Answer:
    return Answer(200, json.dumps(value).encode(), media_type="application/json")


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _pairs(text: str) -> dict[str, str]:
    """Return the first value of each name of a query or form."""
    pairs = parse_qs(text, keep_blank_values=True, max_num_fields=50)
    return {name: values[0] for name, values in pairs.items()}


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].decode("latin-1"))
    return ""


async def _body(receive: Receive) -> bytes:
    """Read a small body; what is larger is cut, and then fits no form of ours."""
    body, more = b"", True
    while more:
        message = await receive()
        more = message.get("more_body", False) and message["type"] == "http.request"
        body = (body + message.get("body", b""))[:BODY_AT_MOST]
    return body


def _style() -> Answer:
    css = b"".join((STATIC / name).read_bytes() for name in ("tokens.css", "homeport.css"))
    return Answer(200, css + NARROW, media_type="text/css; charset=utf-8")


def _page(title: str, body: str, status: int = 200, *, targets: str = "") -> Answer:
    """Draw a page of the hospital: the banner first, no script, its own strict policy."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(targets)) if targets else ""
    policy = (
        "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action 'self' {origin}".rstrip()
    )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<title>{html.escape(title)} · {NAME}</title><link rel="stylesheet" href="style.css">'
        '</head><body class="doctor"><main id="main">'
        f'<p class="note"><b>{NAME}.</b> This hospital is not real: '
        "its people and their records are made up.</p>"
        f'<div class="lead"><h1>{html.escape(title)}</h1></div>{body}</main></body></html>\n'
    )
    return Answer(
        status, page.encode(), (("content-security-policy", policy),), "text/html; charset=utf-8"
    )
