"""A small FHIR hospital on loopback for tests of pulling: fixed bytes, paging, faults by type."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from phr import clock, pull
from phr.connectors import rest
from phr.fhir.record import Record, Selection
from phr.http import Http, Limits
from phr.net import Guard
from phr.oauth import Client, Credentials, Endpoint
from phr.store import connections, records
from phr.store.models import Connection, ConnectionState, LedgerLine, PullState
from phr.store.vault import Vault
from tests.fixtures_net import RawServer, plain

FHIR = "Content-Type: application/fhir+json"
Fault = Callable[["Asked"], bytes | None]  # None: answer as usual


@dataclass
class Asked:
    """One request as the hospital saw it."""

    path: str
    params: dict[str, str]
    bearer: str
    head: bytes
    url: str


@dataclass
class Hospital:
    """`records` by type hold the exact bytes to serve; `faults` by type come first."""

    server: RawServer | None = None
    patient: str = "p1"
    records: dict[str, list[bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    page: int = 2
    tokens: set[str] = field(default_factory=lambda: {"at-0"})
    refresh_tokens: set[str] = field(default_factory=lambda: {"rt-0"})
    used: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=lambda: {"good-code"})
    issued: int = 0
    life: Any = 3600
    asked: list[Asked] = field(default_factory=list)
    everything: bool = False
    configured: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return self.server.url + "/fhir"

    def reply(self, request: bytes, channel) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        target = head.split(b" ", 2)[1].decode()
        parts = urlsplit(target)
        bearer = next(
            (
                line[22:].decode()
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"authorization: bearer ")
            ),
            "",
        )
        asked = Asked(parts.path, dict(parse_qsl(parts.query)), bearer, head, target)
        self.asked.append(asked)
        if parts.path == "/token":
            answer = self.token(dict(parse_qsl(body.decode())))
        else:
            answer = self.fhir(asked)
        channel.sendall(answer)

    def token(self, form: dict[str, str]) -> bytes:
        """Rotate; a refresh token that comes twice kills the whole family."""
        given = form.get("refresh_token", "")
        if form.get("grant_type") == "authorization_code":
            if form.get("code") not in self.codes:
                return plain(b'{"error":"invalid_grant"}', "400 Bad")
            self.codes.discard(form["code"])
            return self.grant()
        if given in self.used:
            self.refresh_tokens.clear()
            self.tokens.clear()
        if given not in self.refresh_tokens:
            return plain(b'{"error":"invalid_grant"}', "400 Bad")
        self.refresh_tokens.discard(given)
        self.used.add(given)
        return self.grant()

    def grant(self) -> bytes:
        self.issued += 1
        number = self.issued
        self.tokens = {f"at-{number}"}
        self.refresh_tokens.add(f"rt-{number}")
        found = {
            "access_token": f"at-{number}",
            "refresh_token": f"rt-{number}",
            "expires_in": self.life,
            "token_type": "Bearer",
            "patient": self.patient,
        }
        return plain(json.dumps(found).encode())

    def configuration(self) -> bytes:
        url = self.server.url
        found = {
            "issuer": url,
            "authorization_endpoint": url + "/auth",
            "token_endpoint": url + "/token",
            "code_challenge_methods_supported": ["S256"],
            "capabilities": ["launch-standalone"],
        }
        return plain(json.dumps(found | self.configured).encode())

    def fhir(self, asked: Asked) -> bytes:
        if asked.path.endswith("/smart-configuration"):
            return self.configuration()
        if asked.bearer not in self.tokens:
            return plain(b"", "401 Unauthorized")
        kind, _, name = asked.path.removeprefix("/fhir/").partition("/")
        fault = self.faults.get(kind)
        answer = fault(asked) if fault else None
        if answer is not None:
            return answer
        if name.endswith("$everything") and self.everything:
            return self.bundle([body for some in self.records.values() for body in some], asked)
        if name:
            return self.read(kind, name)
        return self.bundle(self.records.get(kind, []), asked)

    def read(self, kind: str, name: str) -> bytes:
        if f"{kind}/{name}" in self.files:
            return plain(self.files[f"{kind}/{name}"], "200 OK", "Content-Type: application/pdf")
        for body in self.records.get(kind, []):
            if json.loads(body).get("id") == name:
                return plain(body, "200 OK", FHIR)
        return plain(b"", "404 Not Found")

    def bundle(self, bodies: list[bytes], asked: Asked) -> bytes:
        begin = int(asked.params.get("_offset", "0"))
        some = bodies[begin : begin + self.page]
        links = b"[]"
        if begin + self.page < len(bodies):
            others = "&".join(f"{k}={v}" for k, v in asked.params.items() if k != "_offset")
            url = f"{self.server.url}{asked.path}?{others}&_offset={begin + self.page}"
            links = json.dumps([{"relation": "next", "url": url}]).encode()
        entries = b",".join(b'{"resource":' + body + b"}" for body in some)
        whole = b'{"resourceType":"Bundle","type":"searchset","total":%d,"link":%s,"entry":[%s]}'
        date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return plain(whole % (len(bodies), links, entries), "200 OK", FHIR, f"Date: {date}")

    def count(self, kind: str) -> int:
        return sum(asked.path.startswith(f"/fhir/{kind}") for asked in self.asked)


def observation(number: int, value: str = "1.10", patient: str = "p1", **more: Any) -> bytes:
    extra = "".join(f',"{name}":{json.dumps(found)}' for name, found in more.items())
    return (
        f'{{"resourceType":"Observation","id":"o{number}","status":"final",'
        f'"code":{{"text":"Sodium"}},"subject":{{"reference":"Patient/{patient}"}},'
        f'"effectiveDateTime":"2026-01-{number % 28 + 1:02}T08:00:00Z",'
        f'"valueQuantity":{{"value":{value},"unit":"mmol/L"}}{extra}}}'
    ).encode()


@pytest.fixture
def hospital(raw_server):
    made = Hospital()
    made.server = raw_server(made.reply)
    made.records = {
        "Patient": [b'{"resourceType":"Patient","id":"p1","name":[{"family":"Sample"}]}'],
        "Observation": [observation(number) for number in range(6)],
        "Condition": [
            b"""{"resourceType":"Condition","id":"c1","code":{"text":"Hay fever"},
                "subject":{"reference":"Patient/p1"}}"""
        ],
    }
    return made


@pytest.fixture
def to_hospital(hospital):
    quick = Limits(size=4 << 20, connect=2, first_byte=1.0, idle=1.0, total=4.0)
    client = Http(Guard([hospital.server.place]), limits=quick)
    yield client
    client.close()


def connected(vault, hospital: Hospital, **changes: Any) -> int:
    """Add an authorised connection to the hospital and return its id."""
    now = clock.now()
    quirks = changes.pop("quirks", {})
    endpoint = Endpoint(
        hospital.base,
        hospital.server.url + "/auth",
        hospital.server.url + "/token",
        everything=hospital.everything,
        quirks=quirks,
    )
    credentials = Credentials("at-0", now, None, "rt-0", hospital.patient)
    with vault.write() as session:
        connection_id = connections.add(
            session,
            kind="smart",
            name="Saltmarsh Hospital",
            base_url=hospital.base,
            endpoint=endpoint.to_json(),
            client=Client("app", "http://127.0.0.1/cb").to_json(),
            state=ConnectionState.ACTIVE,
            now=now,
        )
        row = session.get_one(Connection, connection_id)
        row.credentials = credentials.to_json()
        row.remote_patient = hospital.patient
        row.next_pull_at = now
        for name, value in changes.items():
            setattr(row, name, value)
    return connection_id


# ------------------------------------------------------------------ short ways to pull and look


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between repetitions are real but short."""
    monkeypatch.setattr(rest, "backoff", lambda _attempt: 0.01)
    monkeypatch.setattr(rest.Conversation.__init__, "__defaults__", (lambda _attempt: 0.01,))


def go(vault: Vault, connection_id: int, http: Http, **more: Any) -> PullState:
    """Pull once, now."""
    return pull.run(vault, connection_id, http=http, now=clock.now(), **more)


def ledger(vault: Vault, connection_id: int) -> dict[str, LedgerLine]:
    """Return the last pull's lines by chain."""
    with vault.read() as session:
        last = connections.last_pull(session, connection_id)
        return {line.chain: line for line in connections.lines(session, last.id)}


def stored(vault: Vault, kind: str) -> list[Record]:
    """Return what is kept of a type, oldest first."""
    with vault.read() as session:
        return records.select(session, vault, Selection(types=(kind,), order="oldest"))
