"""The demo hospital keeps to the standard it claims, and says everywhere that it is not real."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
import time_machine
from fhir.resources.R4B import get_fhir_model_class

from phr import clock, demo, ids, oauth, pull
from phr.demo import people
from phr.demo.fhir import Records
from phr.http import Http
from phr.net import Guard
from phr.oauth import Client
from phr.settings import Settings
from phr.store import connections
from phr.store.models import Connection, ConnectionState, LedgerState, PullState
from tests.fakes.forms import forms, send

APP = "http://127.0.0.1:9/connect/callback"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    settings = Settings(data=tmp_path_factory.mktemp("demo"), demo_port=0)
    running = demo.start(settings, standalone=True)
    yield running
    running.close()


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10) as client:
        yield client


VERIFIER = ids.new_secret(48)
CHALLENGE = (
    base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
)


def request(hospital: demo.Demo, **changes: str | None) -> str:
    """Return an authorization address; `None` leaves a parameter out."""
    asked = {
        "response_type": "code",
        "client_id": demo.CLIENT_ID,
        "redirect_uri": APP,
        "scope": "launch/patient openid fhirUser offline_access patient/*.rs",
        "state": "of-the-app",
        "aud": hospital.base_url,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
    } | changes
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return f"{hospital.authorize_url}?{query}"


def walk(browser: httpx.Client, url: str, person: str, decision: str = "allow") -> dict[str, str]:
    """Choose a person, decide; return what the app is sent back with."""
    page = browser.get(url)
    page = send(browser, page, forms(page.text)[0], person=person)
    assert page.status_code == 200, page.text
    back = send(browser, page, forms(page.text)[0], decision=decision)
    assert back.status_code == 303
    assert back.headers["location"].startswith(APP + "?")
    return dict(parse_qsl(urlsplit(back.headers["location"]).query))


def redeem(browser: httpx.Client, hospital: demo.Demo, code: str, **changes: str) -> httpx.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": demo.CLIENT_ID,
        "code": code,
        "redirect_uri": APP,
        "code_verifier": VERIFIER,
    } | changes
    return browser.post(f"{hospital.url}/token", data=form)


def renew(browser: httpx.Client, hospital: demo.Demo, token: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "client_id": demo.CLIENT_ID, "refresh_token": token}
    return browser.post(f"{hospital.url}/token", data=form)


def tokens(
    browser: httpx.Client, hospital: demo.Demo, person: str = "demo-juniper"
) -> dict[str, Any]:
    landed = walk(browser, request(hospital), person)
    answer = redeem(browser, hospital, landed["code"])
    assert answer.status_code == 200, answer.text
    return answer.json()


def fhir(
    browser: httpx.Client, hospital: demo.Demo, path: str, given: dict[str, Any]
) -> httpx.Response:
    bearer = {"authorization": f"Bearer {given['access_token']}"}
    return browser.get(f"{hospital.base_url}/{path}", headers=bearer)


# ------------------------------------------------------------------- signing in (SMART 2.2 §2)


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": None},
        {"client_id": "somebody-else"},
        {"response_type": "token"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": APP + "#x"},
        {"redirect_uri": "http://[::1"},
        {"redirect_uri": "https://evil.example/connect/callback"},
        {"redirect_uri": "http://127.0.0.1:port/"},
        {"aud": "https://ehr.example/fhir"},
    ],
    ids=str,
)
def test_a_request_outside_the_standard_gets_a_page_and_no_code(browser, hospital, changes):
    """RFC 7636 §4.4.1 and RFC 6749 §4.1.2.1: nothing is sent to an address nobody vouches for."""
    page = browser.get(request(hospital, **changes))
    assert page.status_code == 400
    assert "location" not in page.headers
    assert "<form" not in page.text


def test_state_and_issuer_come_back(browser, hospital):
    """RFC 6749 §4.1.2 and RFC 9207 §2."""
    landed = walk(browser, request(hospital), "demo-otto")
    assert landed["state"] == "of-the-app"
    assert landed["iss"] == hospital.url


def test_saying_no_sends_access_denied_and_no_code(browser, hospital):
    landed = walk(browser, request(hospital), "demo-otto", "deny")
    assert landed["error"] == "access_denied"
    assert "code" not in landed


def test_a_code_works_once_and_its_second_use_ends_what_it_gave(browser, hospital):
    """RFC 6749 §4.1.2: a code used twice also revokes the tokens issued for it."""
    landed = walk(browser, request(hospital), "demo-juniper")
    first = redeem(browser, hospital, landed["code"])
    assert first.status_code == 200
    again = redeem(browser, hospital, landed["code"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert fhir(browser, hospital, "Patient/demo-juniper", first.json()).status_code == 401
    assert renew(browser, hospital, first.json()["refresh_token"]).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [{"code_verifier": "x" * 43}, {"code_verifier": ""}, {"redirect_uri": APP + "2"}],
    ids=str,
)
def test_a_stolen_code_is_worth_nothing(browser, hospital, changes):
    """RFC 7636 §4.6."""
    landed = walk(browser, request(hospital), "demo-juniper")
    answer = redeem(browser, hospital, landed["code"], **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert redeem(browser, hospital, landed["code"]).status_code == 400


def test_a_code_is_too_old_after_a_minute(browser, hospital):
    landed = walk(browser, request(hospital), "demo-juniper")
    with time_machine.travel(clock.now() + timedelta(seconds=61)):
        assert redeem(browser, hospital, landed["code"]).status_code == 400


def test_a_sign_in_that_was_left_lying_runs_out(browser, hospital):
    page = browser.get(request(hospital))
    with time_machine.travel(clock.now() + timedelta(minutes=11)):
        late = send(browser, page, forms(page.text)[0], person="demo-otto")
    assert late.status_code == 400
    assert "start again" in late.text


# ------------------------------------------------------------------- tokens


def test_refresh_tokens_rotate_and_a_replay_ends_the_family(browser, hospital):
    """RFC 9700 §4.14.2."""
    first = tokens(browser, hospital)
    second = renew(browser, hospital, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert fhir(browser, hospital, "Patient/demo-juniper", second).status_code == 200
    replay = renew(browser, hospital, first["refresh_token"])
    assert (replay.status_code, replay.json()["error"]) == (400, "invalid_grant")
    assert renew(browser, hospital, second["refresh_token"]).status_code == 400
    assert fhir(browser, hospital, "Patient/demo-juniper", second).status_code == 401


def test_another_family_is_untouched_by_a_replay(browser, hospital):
    kept, lost = tokens(browser, hospital), tokens(browser, hospital)
    renew(browser, hospital, lost["refresh_token"])
    renew(browser, hospital, lost["refresh_token"])
    assert renew(browser, hospital, kept["refresh_token"]).status_code == 200


def test_access_tokens_are_short(browser, hospital):
    given = tokens(browser, hospital)
    assert given["expires_in"] <= 300
    assert given["patient"] == "demo-juniper"
    with time_machine.travel(clock.now() + timedelta(seconds=given["expires_in"] + 1)):
        answer = fhir(browser, hospital, "Patient/demo-juniper", given)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_revoking_ends_the_family(browser, hospital):
    """RFC 7009 §2: always 200, whatever was sent."""
    given = tokens(browser, hospital)
    for token in ("unknown", given["refresh_token"]):
        answer = browser.post(f"{hospital.url}/revoke", data={"token": token})
        assert answer.status_code == 200
    assert fhir(browser, hospital, "Patient/demo-juniper", given).status_code == 401


def test_without_offline_access_there_is_no_refresh_token(browser, hospital):
    landed = walk(browser, request(hospital, scope="launch/patient patient/*.rs"), "demo-otto")
    given = redeem(browser, hospital, landed["code"]).json()
    assert "refresh_token" not in given
    assert "id_token" not in given


def test_unknown_grant_and_client_are_refused(browser, hospital):
    for form, error in (
        ({"grant_type": "password", "client_id": demo.CLIENT_ID}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token", "client_id": "x"}, "invalid_client"),
    ):
        answer = browser.post(f"{hospital.url}/token", data=form)
        assert (answer.status_code, answer.json()["error"]) == (400, error)


# ------------------------------------------------------------------- records


def test_without_a_token_nothing_is_told(browser, hospital):
    for path in ("Patient/demo-juniper", "Observation?patient=demo-juniper", "Binary/x"):
        assert fhir(browser, hospital, path, {"access_token": "guess"}).status_code == 401


def test_another_persons_record_is_as_unknown_as_none(browser, hospital):
    given = tokens(browser, hospital, "demo-otto")
    other = fhir(browser, hospital, "Patient/demo-juniper", given)
    nobody = fhir(browser, hospital, "Patient/nobody", given)
    assert (other.status_code, other.content) == (404, nobody.content)
    found = fhir(browser, hospital, "Observation?patient=demo-juniper", given).json()
    assert (found["total"], found["entry"]) == (0, [])
    whole = fhir(browser, hospital, "Condition", given).text + other.text
    assert "demo-juniper" not in whole


def test_pages_of_twenty_lead_on_to_the_end(browser, hospital):
    given = tokens(browser, hospital)
    url, seen, pages = f"{hospital.base_url}/Observation?patient=demo-juniper&_count=100", [], 0
    while url:
        page = browser.get(url, headers={"authorization": f"Bearer {given['access_token']}"}).json()
        assert len(page["entry"]) <= 20
        seen += [entry["resource"]["id"] for entry in page["entry"]]
        url = next((one["url"] for one in page["link"] if one["relation"] == "next"), None)
        pages += 1
    assert pages >= 3
    assert len(seen) == len(set(seen)) == page["total"]


def test_categories_and_changes_narrow_a_search(browser, hospital):
    given = tokens(browser, hospital)

    def total(query: str) -> int:
        return fhir(browser, hospital, f"Observation?{query}", given).json()["total"]

    labs, vitals, all_ = (
        total("category=laboratory"),
        total("category=vital-signs"),
        total("patient=Patient/demo-juniper"),
    )
    assert 0 < labs < all_
    assert 0 < vitals < all_
    assert total("_lastUpdated=ge2099-01-01T00:00:00Z") == 0
    assert total("_lastUpdated=ge2000-01-01T00:00:00Z") == all_
    assert total("category=http://example.org|laboratory") == labs


def test_its_faults_are_those_of_real_vendors(browser, hospital):
    given = tokens(browser, hospital)
    assert fhir(browser, hospital, "CarePlan?patient=demo-juniper", given).status_code == 403
    assert fhir(browser, hospital, "Slot?patient=demo-juniper", given).status_code == 404
    busy = fhir(browser, hospital, "Immunization?patient=demo-juniper", given)
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
    assert fhir(browser, hospital, "Immunization?patient=demo-juniper", given).status_code == 200


# ------------------------------------------------------------------- what it shows and holds


def pages(browser: httpx.Client, hospital: demo.Demo) -> list[httpx.Response]:
    """Return each page a person can meet."""
    who = browser.get(request(hospital))
    may = send(browser, who, forms(who.text)[0], person="demo-wren")
    lost = send(browser, who, forms(who.text)[0], person="nobody")
    return [
        browser.get(hospital.url + "/"), who, may, lost, browser.get(request(hospital, aud="x"))
    ]  # fmt: skip


def test_every_page_says_that_it_is_not_real_and_runs_no_script(browser, hospital):
    for page in pages(browser, hospital):
        assert "This hospital is not real" in page.text
        assert "<script" not in page.text
        assert "style=" not in page.text
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
    assert browser.get(hospital.url + "/style.css").headers["content-type"].startswith("text/css")


def test_what_an_app_says_of_itself_cannot_write_on_the_page(browser, hospital):
    hostile = 'http://127.0.0.1:9/"><script>alert(1)</script>'
    page = browser.get(request(hospital, redirect_uri=hostile, state="<script>"))
    assert "<script" not in page.text
    assert "<" not in page.headers["content-security-policy"]


def test_every_name_says_demo():
    for resource in people.resources():
        if resource["resourceType"] in {"Patient", "Practitioner"}:
            for name in resource["name"]:
                assert "Demo" in json.dumps(name), name
        elif resource["resourceType"] in {"Organization", "Location"}:
            assert "Demo" in resource["name"]


def test_the_same_people_come_at_every_start():
    first = [people.serialise(resource) for resource in people.resources()]
    assert first == [people.serialise(resource) for resource in people.resources()]


def test_numbers_keep_the_digits_they_were_written_with():
    bodies = b"".join(people.serialise(resource) for resource in people.resources())
    assert re.search(rb'"value": ?\d+\.\d0[,}]', bodies), "a value such as 5.40"
    assert b"|" not in re.sub(rb'"[^"]*"', b"", bodies)


def test_every_resource_is_valid_r4():
    """Judged by fhir.resources; R4B differs from R4 in none of these types."""
    for resource in people.resources():
        kind = resource["resourceType"]
        get_fhir_model_class(kind).model_validate_json(people.serialise(resource))


def test_every_reference_leads_to_a_record_that_is_there():
    found = {f"{one['resourceType']}/{one['id']}" for one in people.resources()}
    for resource in people.resources():
        for reference in re.findall(rb'"reference": ?"([^"]+)"', people.serialise(resource)):
            assert reference.decode() in found, resource["id"]


def test_the_records_span_what_a_person_wants_to_see():
    kinds = {resource["resourceType"] for resource in people.resources()}
    assert kinds >= {
        "AllergyIntolerance", "CareTeam", "Condition", "Coverage", "DiagnosticReport",
        "DocumentReference", "Encounter", "Immunization", "Location", "MedicationRequest",
        "Observation", "Organization", "Patient", "Practitioner", "Procedure",
    }  # fmt: skip
    years = {
        resource["effectiveDateTime"][:4]
        for resource in people.resources()
        if "effectiveDateTime" in resource
    }
    assert len(years) >= 5
    assert len(people.PEOPLE) >= 2


def test_documents_are_what_they_say(browser, hospital):
    given = tokens(browser, hospital)
    page = fhir(browser, hospital, "DocumentReference?patient=demo-juniper", given).json()
    kinds = set()
    for entry in page["entry"]:
        attachment = entry["resource"]["content"][0]["attachment"]
        kinds.add(attachment["contentType"])
        if "url" in attachment:
            name = attachment["url"].removeprefix(hospital.base_url + "/")
            answer = fhir(browser, hospital, name, given)
            assert answer.headers["content-type"] == "application/pdf"
            assert answer.content.startswith(b"%PDF-")
            assert answer.content.rstrip().endswith(b"%%EOF")
    assert len(kinds) >= 2


# ------------------------------------------------------------------- through our own client


@pytest.mark.parametrize("person", [one.id for one in people.PEOPLE])
def test_each_person_is_pulled_whole(browser, hospital, cast, person):
    vault, http = cast.vault("Ada"), Http(Guard([hospital.address]))
    endpoint = oauth.discover(http, hospital.base_url)
    client = Client(demo.CLIENT_ID, APP)
    begun = oauth.begin(endpoint, client, now=clock.now())
    landed = walk(browser, begun.url, person)
    credentials = oauth.complete(http, endpoint, client, begun.pending, landed, now=clock.now())
    assert credentials.patient == person
    with vault.write() as session:
        connection_id = connections.add(
            session,
            kind="smart",
            name=hospital.name,
            base_url=hospital.base_url,
            endpoint=endpoint.to_json(),
            client=client.to_json(),
            state=ConnectionState.ACTIVE,
            now=clock.now(),
        )
        row = session.get_one(Connection, connection_id)
        row.credentials, row.remote_patient = credentials.to_json(), person
    assert pull.run(vault, connection_id, http=http, now=clock.now()) == PullState.DONE
    http.close()
    with vault.read() as session:
        last = connections.last_pull(session, connection_id)
        lines = {line.chain: line for line in connections.lines(session, last.id)}
    assert lines["CarePlan"].state == LedgerState.REFUSED
    assert sum(line.quarantined for line in lines.values()) == 0
    own = Records(hospital.base_url)
    for kind in ("Observation", "Condition", "Immunization", "DocumentReference", "Encounter"):
        offered = json.loads(own.search(kind, {}, person).body)["total"]
        assert (lines[kind].got, lines[kind].claimed) == (offered, offered), kind


def test_it_listens_on_this_machine_only(hospital):
    assert hospital.address.startswith("127.0.0.1:")
    assert urlsplit(hospital.base_url).hostname == "127.0.0.1"
