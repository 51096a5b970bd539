"""A hospital of 2016: FHIR DSTU2 as the vendors' Argonaut servers speak it, strict where they are.

XML unless JSON is asked for; sign-in addresses only in the Conformance statement; Observations
only by category; types of later releases do not exist. `stubborn` answers XML whatever is asked,
`deaf` heeds `_format` but not the header.
"""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import quoteattr

from tests.fixtures_net import RawServer, plain

JSON = "Content-Type: application/json+fhir;charset=utf-8"
XML = "Content-Type: application/xml+fhir;charset=utf-8"
PATIENT = "Tbt3"
LETTER = b"Dear colleague, the knee is well."
CATEGORY = "http://hl7.org/fhir/observation-category"
NEEDS = {"Observation": "category", "CarePlan": "category"}

BINARY = {"id": "b1", "contentType": "text/plain", "content": base64.b64encode(LETTER).decode()}
SUBJECT = {
    "AllergyIntolerance": "patient",
    "Condition": "patient",
    "Encounter": "patient",
    "Immunization": "patient",
    "MedicationOrder": "patient",
    "MedicationStatement": "patient",
}
NO_PERSON = {"Patient", "Practitioner", "Medication", "Binary"}


def _records() -> dict[str, list[dict[str, Any]]]:
    """Read what the hospital has: one record a line; digits of values are written as text."""
    found: dict[str, list[dict[str, Any]]] = {}
    path = Path(__file__).parents[1] / "data" / "dstu2.ndjson"
    for line in path.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        found.setdefault(one.pop("resourceType"), []).append(one)
    return found | {"Binary": [BINARY]}


RECORDS = _records()


def raw(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Return a record as the hospital keeps it: the digits of values stay as written above."""
    whole = {"resourceType": kind, **fields}
    if kind not in NO_PERSON:
        whole[SUBJECT.get(kind, "subject")] = {"reference": f"Patient/{PATIENT}"}
    return _digits(json.dumps(whole)).encode()


def _digits(text: str) -> str:
    """Write every "value": "4.10" as a number."""
    parts = text.split('"value": "')
    rest = [part.partition('"') for part in parts[1:]]
    return parts[0] + "".join(f'"value": {number}{after}' for number, _, after in rest)


class OldHospital:
    """Serves `RECORDS`; `asked` holds (path, parameters, Accept) of each request."""

    def __init__(
        self,
        raw_server: Callable[[Any], RawServer],
        *,
        stubborn: bool = False,
        deaf: bool = False,
    ) -> None:
        self.stubborn, self.deaf = stubborn, deaf
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.server = raw_server(self._reply)
        self.base = self.server.url + "/dstu2"

    def _reply(self, request: bytes, channel: Any) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        target = urlsplit(head.split(b" ", 2)[1].decode())
        lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        headers = {name.decode().lower(): value.decode().strip() for name, _, value in lines}
        asked = dict(parse_qsl(target.query))
        self.asked.append((target.path, asked, headers.get("accept", "")))
        if target.path == "/token":
            channel.sendall(self._token(dict(parse_qsl(body.decode()))))
        else:
            channel.sendall(self._answer(target.path, asked, headers))

    def _token(self, form: dict[str, str]) -> bytes:
        if form.get("code") != "good-code":
            return plain(b'{"error":"invalid_grant"}', "400 Bad Request")
        granted = {"access_token": "at", "token_type": "Bearer", "patient": PATIENT}
        return plain(json.dumps(granted | {"expires_in": 3600}).encode())

    def _wants_json(self, asked: dict[str, str], accept: str) -> bool:
        if self.stubborn:
            return False
        if "_format" in asked:
            return "json" in asked["_format"]
        first = [one.partition(";")[0].strip() for one in accept.split(",")]
        known = [one for one in first if one in {"application/json+fhir", "application/json"}]
        return bool(known) and not self.deaf

    def _answer(self, path: str, asked: dict[str, str], headers: dict[str, str]) -> bytes:
        kind, _, name = path.removeprefix("/dstu2/").partition("/")
        as_json = self._wants_json(asked, headers.get("accept", ""))
        if kind == ".well-known":
            return plain(b"<html><body>404 - File not found.</body></html>", "404 Not Found")
        if kind == "metadata":
            return self._written(self._conformance(), as_json=as_json)
        if headers.get("authorization") != "Bearer at":
            return plain(b"", "401 Unauthorized")
        if kind == "Binary":
            return self._binary(name, as_json=as_json)
        status, body = self._read(kind, name) if name else self._searched(kind, asked)
        return self._written(body, status, as_json=as_json)

    def _read(self, kind: str, name: str) -> tuple[str, bytes]:
        for one in RECORDS.get(kind, ()):
            if one["id"] == name:
                return "200 OK", raw(kind, one)
        return "404 Not Found", outcome("not-found")

    def _searched(self, kind: str, asked: dict[str, str]) -> tuple[str, bytes]:
        if kind not in RECORDS:
            return "404 Not Found", outcome("not-supported")
        lacking = kind in NEEDS and NEEDS[kind] not in asked
        if kind in NO_PERSON or asked.get("patient") != PATIENT or lacking:
            return "400 Bad Request", outcome("required")
        return "200 OK", self._page(kind, asked)

    def _binary(self, name: str, *, as_json: bool) -> bytes:
        found = RECORDS["Binary"][0]
        assert found["id"] == name
        if as_json:
            return plain(raw("Binary", found), "200 OK", JSON)
        return plain(LETTER, "200 OK", "Content-Type: text/plain")

    def _page(self, kind: str, asked: dict[str, str]) -> bytes:
        found = [one for one in RECORDS[kind] if _fits(one, asked.get("category"))]
        if "_page" not in asked and len(found) > 1:
            query = "&".join(f"{key}={value}" for key, value in asked.items())
            link = [{"relation": "next", "url": f"{self.base}/{kind}?{query}&_page=2"}]
            shown = found[:1]
        else:
            link, shown = [], found[1:] if "_page" in asked else found
        entries = ",".join(
            f'{{"search":{{"mode":"match"}},"resource":{raw(kind, one).decode()}}}' for one in shown
        )
        return (
            f'{{"resourceType":"Bundle","type":"searchset","total":{len(found)},'
            f'"link":{json.dumps(link)},"entry":[{entries}]}}'
        ).encode()

    def _conformance(self) -> bytes:
        uris = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
        places = [
            {"url": "token", "valueUri": self.server.url + "/token"},
            {"url": "authorize", "valueUri": self.server.url + "/auth"},
        ]
        statement = {
            "resourceType": "Conformance",
            "fhirVersion": "1.0.2",
            "software": {"name": "Old Quay EHR"},
            "acceptUnknown": "both",
            "format": ["xml", "json"],
            "rest": [
                {
                    "mode": "server",
                    "security": {"extension": [{"url": uris, "extension": places}]},
                    "resource": [{"type": kind} for kind in RECORDS],
                }
            ],
        }
        return json.dumps(statement).encode()

    def _written(self, body: bytes, status: str = "200 OK", *, as_json: bool) -> bytes:
        if as_json:
            return plain(body, status, JSON)
        return plain(xml(json.loads(body)).encode(), status, XML)


def outcome(code: str) -> bytes:
    """Return an OperationOutcome as this vendor sends it."""
    issue = {"severity": "fatal", "code": code}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


def _fits(one: Mapping[str, Any], wanted: str | None) -> bool:
    """Say whether a record is of a category; one whose category is only words is of each."""
    given = one.get("category")
    codes = {each.get("code") for each in given["coding"]} if isinstance(given, dict) else set()
    return wanted is None or not codes or wanted in codes


def xml(resource: Mapping[str, Any]) -> str:
    """Return a resource in FHIR's XML (DSTU2 §1.19.3), well enough for what stands above."""
    kind = resource["resourceType"]
    named = ((name, value) for name, value in resource.items() if name != "resourceType")
    inside = "".join(_element(name, value) for name, value in named)
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f'{head}<{kind} xmlns="http://hl7.org/fhir">{inside}</{kind}>'


def _element(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "".join(_element(name, one) for one in value)
    if isinstance(value, dict):
        if "resourceType" in value:
            return f"<resource>{xml(value).partition('?>')[2]}</resource>"
        inner = "".join(_element(key, one) for key, one in value.items() if key != "url")
        url = f" url={quoteattr(value['url'])}" if name == "extension" else ""
        return f"<{name}{url}>{inner}</{name}>"
    said = str(value).lower() if isinstance(value, bool) else str(value)
    return f"<{name} value={quoteattr(said)}/>"
