"""A scripted SMART server for tests of the OAuth client: each path answers what the test says."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from phr.http import Http
from phr.net import Guard
from tests.fixtures_net import RawServer, plain

Script = bytes | dict[str, Any] | Callable[[dict[str, str]], bytes]


@dataclass
class Scripted:
    """`answers` by path; a dict is sent as JSON. `asked` is (path, form, headers) per request."""

    server: RawServer | None = None
    answers: dict[str, Script] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.server.url

    def reply(self, request: bytes, channel) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        target = urlsplit(head.split(b" ", 2)[1].decode())
        form = dict(parse_qsl(body.decode())) | dict(parse_qsl(target.query))
        self.asked.append((target.path, form, head))
        script = self.answers.get(target.path, plain(b"", "404 Not Found"))
        channel.sendall(written(script(form) if callable(script) else script))


def written(script: bytes | dict[str, Any]) -> bytes:
    if isinstance(script, bytes):
        return script
    return plain(json.dumps(script).encode(), "200 OK", "Content-Type: application/json")


def failing(status: str, body: bytes | dict[str, Any] = b"") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return plain(raw, status)


@pytest.fixture
def smart(raw_server):
    """A scripted server with a usable SMART configuration at /fhir."""
    scripted = Scripted()
    scripted.server = raw_server(scripted.reply)
    scripted.answers["/fhir/.well-known/smart-configuration"] = configuration(scripted.url)
    scripted.answers["/fhir/metadata"] = {
        "resourceType": "CapabilityStatement",
        "fhirVersion": "4.0.1",
        "software": {"name": "Scripted"},
        "rest": [
            {
                "resource": [
                    {"type": "Patient", "operation": [{"name": "everything"}]},
                    {"type": "Observation"},
                ]
            }
        ],
    }
    return scripted


def configuration(url: str, **changes: Any) -> dict[str, Any]:
    return {
        "issuer": url,
        "jwks_uri": url + "/jwks",
        "authorization_endpoint": url + "/auth?tenant=1",
        "token_endpoint": url + "/token",
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["launch-standalone", "permission-v2"],
        "scopes_supported": [
            "openid",
            "fhirUser",
            "launch/patient",
            "offline_access",
            "patient/*.rs",
        ],
    } | changes


@pytest.fixture
def http(smart):
    client = Http(Guard([smart.server.place]))
    yield client
    client.close()
