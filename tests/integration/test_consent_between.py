"""Two appliances and the patient's app between them: a Consent at one, a fetch by the other.

Issue 4 item 4 and acceptance 6 (consent token pull with revoke); nothing is configured by hand but
addresses. Both are real processes on loopback; the app is this test.
"""

import base64
import hashlib
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from phr import ids
from phr.sharing import asking
from tests.cast import PASSWORDS, Cast, csrf_in
from tests.e2e.house import Running, command_line, running
from tests.fixtures_sharing import condition, lab, recent
from tests.integration.test_consents import a_consent, of, of_2017, permit

BACK = "https://app.example.org/back"


@dataclass
class Side:
    """One appliance: a person signed in at home, and the app with its token at the door."""

    house: Running
    person: str
    patient_id: str
    browser: httpx.Client
    token: str = ""
    local_id: str = ""

    def let_in(self, *scopes: str) -> None:
        """Register the app here and let it in as the person would."""
        given = {"client_name": "Errands", "redirect_uris": [BACK]}
        client_id = httpx.post(f"{self.house.public}/oauth/register", json=given).json()[
            "client_id"
        ]
        verifier = ids.new_secret()
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": BACK,
            "scope": " ".join(scopes),
            "state": ids.new_secret(),
            "aud": f"{self.house.public}/fhir",
            "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
            .rstrip(b"=")
            .decode(),
            "code_challenge_method": "S256",
        }
        door = httpx.get(f"{self.house.public}/oauth/authorize", params=asked)
        assert door.status_code == 303, door.text
        answer = self.answer(urlsplit(door.headers["location"]).path, patient=self.patient_id)
        code = dict(parse_qsl(urlsplit(answer.headers["location"]).query))["code"]
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": BACK,
            "client_id": client_id,
            "code_verifier": verifier,
        }
        given = httpx.post(f"{self.house.public}/oauth/token", data=form).json()
        self.token, self.local_id = given["access_token"], given["patient"]

    def answer(self, path: str, do: str = "allow", **fields: str) -> httpx.Response:
        """Answer a page of ours as the person would, everything ticked."""
        page = self.browser.get(path)
        assert page.status_code == 200, page.text
        form: dict[str, Any] = {
            "csrf": csrf_in(page.text),
            "line": re.findall(r'name="line" value="([^"]+)"', page.text),
            "once": ids.new_id(),
            "days": "30",
            "do": do,
            "confirm.password": PASSWORDS[self.person],
        }
        answer = self.browser.post(path, data=form | fields, headers={"origin": self.house.home})
        assert answer.status_code == 303, answer.text
        return answer

    def submit(self, path: str, page: str, **fields: str) -> httpx.Response:
        csrf = csrf_in(self.browser.get(page).text)
        return self.browser.post(
            path, data={"csrf": csrf} | fields, headers={"origin": self.house.home}
        )

    def found(self, pattern: str, path: str) -> list[str]:
        return re.findall(pattern, self.browser.get(path).text)

    def call(self, path: str, body: Any = None) -> httpx.Response:
        """Send the app's request to the FHIR API here."""
        headers = {"authorization": f"Bearer {self.token}"}
        url = f"{self.house.public}/fhir/{path}"
        if body is None:
            return httpx.get(url, headers=headers)
        headers["content-type"] = "application/fhir+json"
        return httpx.post(url, content=json.dumps(body), headers=headers)

    def says(self, word: str) -> bool:
        """Whether a word stands in the person's record here."""
        base = f"/p/{self.patient_id}"
        pages = ("results", "problems", "allergies")
        return any(word in self.browser.get(f"{base}/{each}").text for each in pages)


@pytest.fixture
def sides(cast_at_home: tuple[Path, Cast], tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """A source with Ada's records and a target with Eve's empty one, each knowing no other."""
    folder, cast = cast_at_home
    ports = [free_port(), free_port()]
    lan = ",".join(f"127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        made = []
        for name, person, port in zip(("one", "other"), ("Ada", "Eve"), ports, strict=True):
            data = tmp_path / name / "data"
            shutil.copytree(folder, data, ignore=shutil.ignore_patterns("run"))
            settings = {"PHR_DEMO": "0", "PHR_LAN_HOSTS": lan, "PHR_PUBLIC_PORT": str(port)}
            house = stack.enter_context(running(data, **settings))
            browser = stack.enter_context(httpx.Client(base_url=house.home, timeout=30))
            form = {
                "name": person,
                "password": PASSWORDS[person],
                "csrf": csrf_in(browser.get("/signin").text),
            }
            signed_in = browser.post("/signin", data=form, headers={"origin": house.home})
            assert signed_in.status_code == 303
            made.append(Side(house, person, cast.patients[person], browser))
        file = tmp_path / "records.ndjson"
        records = [
            condition("c1", "Asthma", onsetDateTime="2001"),
            condition("c2", "Canarydisease", onsetDateTime=recent(30)),
            lab("o1", recent(10)),
        ]
        file.write_text("".join(json.dumps(each) + "\n" for each in records))
        command_line(made[0].house, "import", str(file), "--patient", "Ada")
        yield made[0], made[1]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def agreed(source: Side, target: Side, consent_id: str) -> str:
    """Have the app connect both; return the path of the connection at the target."""
    where = f"{source.house.public}/fhir"
    given = of({"name": "url", "valueUri": where}, {"name": "consent", "valueString": consent_id})
    asked = target.call("$connect", given)
    assert asked.status_code == 202, asked.text
    place = urlsplit(asked.headers["content-location"]).path.removeprefix("/fhir/")
    base = f"/p/{target.patient_id}"
    (path,) = target.found(rf'action="({base}/fetches/\w+)"', f"{base}/consents")
    answer = target.submit(path, f"{base}/consents", do="allow")
    assert answer.status_code == 303, answer.text
    assert target.submit(path, f"{base}/consents", do="allow").status_code == 409
    assert target.submit(path, f"{base}/consents", do="refuse").status_code == 409
    assert "active" in target.call(place).text
    return str(urlsplit(answer.headers["location"]).path)


def asked_now(target: Side, connection: str) -> str:
    """Have a connection asked and wait until that is over; return its page."""
    target.submit(f"{connection}/pull", connection)
    with target.browser.stream("GET", f"{connection}/events") as events:
        for _ in events.iter_lines():
            pass
    return target.browser.get(connection).text


def authorized(source: Side, target: Side, body: dict[str, Any]) -> str:
    """Have the app propose a Consent at the source for the target, and the patient approve it."""
    proposed = source.call("Consent", body)
    assert proposed.status_code == 201, proposed.text
    consent_id = str(proposed.json()["id"])
    named = of({"name": "client", "valueUri": target.house.public})
    asked = source.call(f"Consent/{consent_id}/$authorize", named)
    assert asked.status_code == 202, asked.text
    base = f"/p/{source.patient_id}/consents"
    (path,) = source.found(rf'href="({base}/\w+)"', base)
    source.answer(path, days="")
    return consent_id


def test_target_fetches_under_a_consent_until_it_is_revoked(sides: tuple[Side, Side]):
    source, target = sides
    source.let_in(asking.MANAGE)
    target.let_in(asking.CONNECT)

    asked = {"type": "deny", "provision": [permit("Condition"), permit("Patient", "Observation")]}
    consent_id = authorized(source, target, a_consent(source.local_id, provision=asked))
    connection = agreed(source, target, consent_id)
    asked_now(target, connection)

    assert target.says("Asthma")
    revoked = source.call(
        f"Consent/{consent_id}/$revokeAuthorization",
        of({"name": "app-id", "valueUri": target.house.public}),
    )
    assert revoked.status_code == 200
    assert "The consent there has ended" in asked_now(target, connection)
    assert target.says("Asthma")  # what was fetched stays


def test_profile_of_2017_and_its_names_lead_to_the_same(sides: tuple[Side, Side]):
    source, target = sides
    source.let_in("Consent.authorize")
    target.let_in("Consent.connect")
    statement = target.call(f"$jwt?source={source.house.public}/fhir").text
    proposed = source.call("Consent", of_2017(source.local_id, "patient/*.read"))
    consent_id = str(proposed.json()["id"])

    named = of({"name": "jwt", "valueString": statement})
    assert source.call(f"Consent/{consent_id}/$getToken", named).status_code == 202
    base = f"/p/{source.patient_id}/consents"
    source.answer(source.found(rf'href="({base}/\w+)"', base)[0], days="")
    connection = agreed(source, target, consent_id)
    asked_now(target, connection)

    assert target.says("Canarydisease")


def test_target_changes_nothing_while_the_consent_gives_nothing(sides: tuple[Side, Side]):
    source, target = sides
    source.let_in(asking.MANAGE)
    target.let_in(asking.CONNECT)
    consent_id = str(source.call("Consent", a_consent(source.local_id)).json()["id"])
    where = f"{source.house.public}/fhir"
    given = of({"name": "url", "valueUri": where}, {"name": "consent", "valueString": consent_id})
    target.call("$connect", given)
    base = f"/p/{target.patient_id}"
    (path,) = target.found(rf'action="({base}/fetches/\w+)"', f"{base}/consents")

    early = target.submit(path, f"{base}/consents", do="allow")
    assert early.status_code == 422
    assert "gives nothing under this Consent" in early.text
    refused = target.submit(path, f"{base}/consents", do="refuse")
    assert refused.status_code == 303
    assert target.found(rf'action="({base}/fetches/\w+)"', f"{base}/consents") == []
