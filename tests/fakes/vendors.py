"""Mock vendors, one per row of the table of quirks: strict where the real ones are said to be.

Each is a small SMART server on loopback that refuses, with the reason, whatever its row forbids.
The rows are written down here a second time, from the specification, not from the program's data.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet

from tests.fixtures_net import RawServer, plain

FHIR = "Content-Type: application/fhir+json"
PATIENT = "p1"
SECRET = "vendor-secret"
CLIENT = "homeport-client"
CLAIMS = ("Patient", "Coverage", "ExplanationOfBenefit")
COMMON = ("launch/patient", "openid", "fhirUser", "offline_access", "patient/*.read")
BY_TYPE = ("patient/Patient.read", "patient/Observation.read", "patient/Condition.read")


@dataclass(frozen=True)
class Row:
    """One row of the table. `auth`: none, post, basic, jwt; `aud`: exact, no_slash, absent."""

    vendor: str
    auth: str = "none"
    aud: str = "exact"
    scopes: tuple[str, ...] = COMMON  # what may be asked for
    needs: tuple[str, ...] = ("launch/patient",)  # what must be asked for
    renews: bool = True
    pkce: bool = True  # without: the challenge is ignored
    mode: str = "query"
    slash: bool = True  # its base is published with a slash at its end
    accept: str = ""
    redirect_https: bool = False
    key: str = "RS384"
    version: str = "R4"
    pace: bool = False  # asks for patience: no whole pull in a test

    @property
    def way(self) -> str:
        return "key" if self.auth == "jwt" else "id"


NO_OFFLINE = tuple(scope for scope in COMMON if scope != "offline_access")
ROWS = (
    Row("Epic", needs=("openid", "fhirUser"), renews=False, slash=False),
    Row("Epic", auth="jwt", needs=("openid", "fhirUser"), slash=False),
    Row("Epic", needs=("openid",), renews=False, accept="application/json+fhir", version="DSTU2"),
    Row(
        "Oracle Health",
        scopes=("launch/patient", "openid", "fhirUser", "offline_access", *BY_TYPE),
        needs=BY_TYPE,
        accept="application/fhir+json",
    ),
    Row("athenahealth", needs=("launch/patient", "patient/*.read")),
    Row("eClinicalWorks", aud="no_slash", scopes=NO_OFFLINE, renews=False),
    Row("eClinicalWorks", auth="post", aud="no_slash", needs=("offline_access",)),
    Row("Veradigm", scopes=NO_OFFLINE, renews=False),
    Row("MEDITECH", auth="post", scopes=NO_OFFLINE, renews=False),
    Row("NextGen", auth="basic", aud="absent", scopes=NO_OFFLINE, renews=False, pkce=False),
    Row(
        "Blue Button",
        auth="basic",
        scopes=("profile", *(f"patient/{kind}.read" for kind in CLAIMS)),
        needs=("profile", "patient/Patient.read"),
        renews=False,
    ),
    Row("VA", aud="absent", needs=("offline_access",), pkce=False, redirect_https=True, pace=True),
    Row("Kaiser Permanente", auth="basic", needs=("patient/*.read",), pace=True),
    Row("Aetna", scopes=NO_OFFLINE, renews=False),
    Row("Cigna", aud="absent", needs=("offline_access",)),
    Row("Humana", auth="post", scopes=(*COMMON, "internal"), needs=("internal", "offline_access")),
    Row("Anthem", auth="basic", aud="no_slash", needs=("offline_access",)),
    Row("UnitedHealthcare", scopes=NO_OFFLINE, renews=False),
    Row("Quest", auth="post", aud="absent", needs=("offline_access",)),
    Row("AdvancedMD", auth="post", aud="absent", needs=("offline_access",)),
    Row("CareEvolution", auth="basic", aud="no_slash", pkce=False),
    Row("MeldRx", auth="jwt", aud="no_slash", key="ES384"),
    Row("MEDHOST", aud="no_slash", mode="fragment"),
    Row("Netsmart", auth="basic", aud="no_slash"),
    Row("Qualifacts", aud="no_slash", pkce=False),
    Row("Flatiron", auth="post", aud="no_slash"),
    Row("One Medical", aud="no_slash", mode="fragment"),
    Row(
        "NHS",
        auth="jwt",
        aud="absent",
        scopes=("launch/patient", "offline_access", "patient/*.read", "nhs-login"),
        needs=("nhs-login",),
        pkce=False,
    ),
    Row("TEFCA", auth="jwt"),
)


class Refuses(Exception):
    """What this vendor does not take, and why."""


@dataclass
class Vendor:
    """A running mock of one row. `problems` are the reasons of every refusal."""

    row: Row
    server: RawServer | None = None
    keys: Callable[[], Mapping[str, Any]] = dict  # our published keys, as the vendor fetches them
    redirect_uri: str = ""  # as registered
    problems: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    access: set[str] = field(default_factory=set)
    refresh: set[str] = field(default_factory=set)
    seen_jti: set[str] = field(default_factory=set)
    renewals: int = 0
    extra: dict[str, Any] = field(default_factory=dict)  # of the token answer
    registers: bool = False
    host: str = ""  # the name it goes by over TLS; without one a plain loopback address

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.server.port}" if self.host else self.server.url

    @property
    def base(self) -> str:
        return self.url + "/fhir" + ("/" if self.row.slash else "")

    @property
    def token_url(self) -> str:
        return self.url + "/oauth2/token"

    # ------------------------------------------------------------------ the wire

    def reply(self, request: bytes, channel) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        target = urlsplit(line.split(" ")[1])
        headers = {k.lower(): v.strip() for k, _, v in (one.partition(":") for one in lines)}
        try:
            answer = self.route(target.path, dict(parse_qsl(target.query)), headers, body)
        except Refuses as problem:
            self.problems.append(f"{target.path}: {problem}")
            error = {"error": "invalid_request", "error_description": str(problem)}
            answer = plain(json.dumps(error).encode(), "400 Bad Request")
        channel.sendall(answer)

    def route(
        self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> bytes:
        if path == "/fhir/.well-known/smart-configuration":
            return _json(self.configuration())
        if path == "/oauth2/authorize":
            return self.authorize(query)
        if path == "/oauth2/token":
            return self.token(dict(parse_qsl(body.decode())), headers)
        if path == "/oauth2/register" and self.registers:
            return self.register(json.loads(body))
        if path.startswith("/fhir/"):
            return self.fhir(path.removeprefix("/fhir/"), headers)
        return plain(b"<html>not here</html>", "404 Not Found")

    def configuration(self) -> dict[str, Any]:
        methods = {"none": ["none"], "post": ["client_secret_post"], "jwt": ["private_key_jwt"]}
        found: dict[str, Any] = {
            "issuer": self.url,
            "authorization_endpoint": self.url + "/oauth2/authorize",
            "token_endpoint": self.token_url,
            "token_endpoint_auth_methods_supported": methods.get(
                self.row.auth, ["client_secret_basic"]
            ),
            "capabilities": ["launch-standalone"],
        }
        if self.row.vendor not in {"Blue Button", "Epic"}:
            found["scopes_supported"] = list(self.row.scopes)
        if self.row.pkce:
            found["code_challenge_methods_supported"] = ["S256"]
        if self.row.auth == "jwt":
            found["token_endpoint_auth_signing_alg_values_supported"] = [self.row.key]
        if self.registers:
            found["registration_endpoint"] = self.url + "/oauth2/register"
        return found

    # ------------------------------------------------------------------ signing in

    def authorize(self, asked: dict[str, str]) -> bytes:
        row, scopes = self.row, set(asked.get("scope", "").split())
        expected = {"exact": self.base, "no_slash": self.base.rstrip("/"), "absent": None}[row.aud]
        _must(asked.get("aud") == expected, f"aud is {asked.get('aud')!r}, not {expected!r}")
        _must(asked.get("client_id") == CLIENT, "unknown client")
        _must(asked.get("redirect_uri") == self.redirect_uri, "redirect address not registered")
        _must(asked.get("response_type") == "code" and asked.get("state"), "no code flow")
        _must(asked.get("response_mode", "query") == row.mode, f"only {row.mode} mode")
        if row.pkce:
            _must(asked.get("code_challenge_method") == "S256", "PKCE S256 is required")
        if row.redirect_https:
            place = urlsplit(asked["redirect_uri"])
            _must(place.scheme == "https" and place.hostname != "localhost", "https, not localhost")
        if row.vendor != "Epic":  # Epic decides at registration and ignores what is asked
            _must(scopes <= set(row.scopes), f"scopes {sorted(scopes - set(row.scopes))}")
        _must(set(row.needs) <= scopes, f"scopes lacking {sorted(set(row.needs) - scopes)}")
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        back = urlencode({"code": code, "state": asked["state"]})
        joint = "#" if row.mode == "fragment" else "?"
        return plain(b"", "302 Found", f"Location: {asked['redirect_uri']}{joint}{back}")

    def token(self, form: dict[str, str], headers: dict[str, str]) -> bytes:
        self.check_client(form, headers)
        if form.get("grant_type") == "refresh_token":
            _must(form["refresh_token"] in self.refresh, "unknown refresh token")
            self.refresh.discard(form["refresh_token"])
            self.renewals += 1
            return self.grant("offline_access")
        asked = self.codes.pop(form.get("code", ""), None)
        _must(asked is not None, "unknown code")
        _must(form.get("redirect_uri") == asked["redirect_uri"], "other redirect address")
        if self.row.pkce:
            made = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            made_text = base64.urlsafe_b64encode(made).rstrip(b"=").decode()
            _must(made_text == asked["code_challenge"], "verifier does not fit")
        return self.grant(asked.get("scope", ""))

    def check_client(self, form: dict[str, str], headers: dict[str, str]) -> None:
        auth, given = self.row.auth, headers.get("authorization", "")
        if auth == "basic":
            pair = base64.b64decode(given.removeprefix("Basic ")).decode().split(":")
            _must([unquote_plus(part) for part in pair] == [CLIENT, SECRET], "wrong Basic header")
            return
        _must(not given, "no Authorization header is taken here")
        if auth == "jwt":
            self.check_assertion(form)
            return
        _must(form.get("client_id") == CLIENT, "unknown client")
        _must(form.get("client_secret") == (SECRET if auth == "post" else None), "wrong secret")

    def check_assertion(self, form: dict[str, str]) -> None:
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        _must(form.get("client_assertion_type") == kind, "no assertion")
        keys = KeySet.import_key_set(dict(self.keys()))
        token = jwt.decode(form["client_assertion"], keys, algorithms=[self.row.key])
        claims = token.claims
        _must(claims["iss"] == claims["sub"] == CLIENT, "issuer and subject are the client")
        _must(claims["aud"] == self.token_url, "audience is the token address")
        _must(claims["jti"] not in self.seen_jti, "an assertion counts once")
        _must(0 < claims["exp"] - claims["iat"] <= 300, "at most five minutes")
        self.seen_jti.add(claims["jti"])

    def grant(self, scope: str) -> bytes:
        access, refresh = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.access = {access}
        answer = {"access_token": access, "token_type": "Bearer", "patient": PATIENT}
        answer |= {"expires_in": 3600, "scope": scope, **self.extra}
        if self.row.renews and ("offline_access" in scope.split() or self.row.vendor == "Epic"):
            self.refresh.add(refresh)
            answer["refresh_token"] = refresh
        return _json(answer)

    def register(self, wish: dict[str, Any]) -> bytes:
        _must(wish["redirect_uris"] == [self.redirect_uri], "redirect address")
        _must(not [key for key in wish["jwks"]["keys"] if "d" in key], "a private key was sent")
        keys = wish["jwks"]
        self.keys = lambda: keys
        answer = {"client_id": CLIENT, "token_endpoint_auth_method": "private_key_jwt"}
        return plain(json.dumps(answer).encode(), "201 Created")

    # ------------------------------------------------------------------ records

    def fhir(self, path: str, headers: dict[str, str]) -> bytes:
        if path == "metadata":
            return plain(b"", "404 Not Found")
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.access:
            return plain(b"", "401 Unauthorized")
        if self.row.accept:
            _must(headers.get("accept", "").startswith(self.row.accept), f"not {headers['accept']}")
        kind, _, name = path.partition("/")
        patient = {"resourceType": "Patient", "id": PATIENT}
        if kind == "Patient" and name == PATIENT:
            return plain(json.dumps(patient).encode(), "200 OK", FHIR)
        found = [observation(number) for number in range(3)] if kind == "Observation" else []
        entries = [{"resource": one} for one in found]
        bundle = {"resourceType": "Bundle", "type": "searchset", "entry": entries}
        return plain(json.dumps(bundle).encode(), "200 OK", FHIR)


def observation(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"text": "Sodium"},
        "subject": {"reference": f"Patient/{PATIENT}"},
        "effectiveDateTime": f"2026-01-0{number + 1}",
    }


def _must(holds: object, reason: str) -> None:
    if not holds:
        raise Refuses(reason)


def _json(value: Mapping[str, Any]) -> bytes:
    return plain(json.dumps(value).encode(), "200 OK", "Content-Type: application/json")


def seed_of(vendors: "list[Vendor]", more: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Return a built-in list that holds one organisation for each vendor."""
    organizations = [
        {
            "id": f"mock-{number}",
            "name": f"Hospital with {one.row.vendor}",
            "aliases": [],
            "kind": "prov",
            "city": "Springfield",
            "state": "IL",
            "country": "US",
            "website": "",
            "endpoints": [
                {
                    "id": f"end-{number}",
                    "url": one.base,
                    "vendor": one.row.vendor,
                    "fhir_version": one.row.version,
                    "portal": "",
                }
            ],
        }
        for number, one in enumerate(vendors)
    ]
    return {"dated": "2026-11-22", "organizations": [*organizations, *more]}
