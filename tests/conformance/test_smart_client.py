"""Our SMART client against a provider nobody here wrote (issue 2, acceptance 2).

oidc-provider is OpenID-certified; its login and consent pages are walked as they come. Records are
those of US Core reference patient 85, served by Medplum's FHIR router.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
import time_machine

from phr import clock, conformance, oauth, pull
from phr.errors import NeedsReauthorisation
from phr.fhir.record import Selection
from phr.http import Http
from phr.net import Guard
from phr.oauth import Client, Credentials, Endpoint
from phr.store import connections, records
from phr.store.models import Connection, ConnectionState, PullState
from tests.cast import Cast
from tests.fakes.forms import links
from tests.fakes.provider import CLIENT_ID, Provider

pytestmark = [pytest.mark.node, pytest.mark.corpus]

REDIRECT = "http://127.0.0.1:8080/connect/callback"


class Patience:
    """Ada's browser on one side, the provider's pages on the other."""

    def __init__(self, cast: Cast, provider: Provider) -> None:
        cast.appliance.http.guard.allow(provider.place)
        self.cast, self.provider = cast, provider
        self.browser = cast.browser("Ada")
        self.vault = cast.vault("Ada")
        self.base = f"/p/{cast.patients['Ada']}/connections"

    def way_out(self, answer: Any) -> str:
        """Follow to the page that leads to the provider and return its address."""
        assert answer.status_code == 303, answer.text[:800]
        page = self.browser.get(answer.headers["location"])
        return next(link for link in links(page.text) if self.provider.place in link)

    def connect(self) -> str:
        """Type the address in, sign in over there, come back; return where that led."""
        typed = {"name": "Reference", "base_url": self.provider.base, "client_id": CLIENT_ID}
        answer = self.browser.submit(self.base + "/add", typed, page=self.base + "/add")
        return self.come_back(self.provider.sign_in(self.way_out(answer)))

    def again(self, connection_id: int = 1) -> str:
        """Sign in again from the connection's own button."""
        answer = self.browser.submit(f"{self.base}/{connection_id}/sign-in", page=self.base)
        return self.come_back(self.provider.sign_in(self.way_out(answer)))

    def come_back(self, landed: dict[str, str]) -> str:
        answer = self.browser.get("/connect/callback", params=landed)
        assert answer.status_code == 303, answer.text[:800]
        return answer.headers["location"]

    def pull(self, connection_id: int = 1, **more: Any) -> PullState:
        http = self.cast.appliance.http
        return pull.run(self.vault, connection_id, http=http, now=clock.now(), **more)

    def row(self, connection_id: int = 1) -> Connection:
        with self.vault.read() as session:
            return connections.get(session, connection_id)

    def kept(self) -> list[str]:
        with self.vault.read() as session:
            found = records.select(session, self.vault, Selection())
        return [f"{record.type}/{record.remote_id}" for record in found]

    def ledger(self, connection_id: int = 1) -> dict[str, Any]:
        with self.vault.read() as session:
            last = connections.last_pull(session, connection_id)
            return {line.chain: line for line in connections.lines(session, last.id)}

    def credentials(self) -> Credentials:
        return Credentials.from_json(self.row().credentials)


@pytest.fixture
def ada(cast: Cast, provider: Provider) -> Patience:
    return Patience(cast, provider)


def refreshes(provider: Provider) -> list[int]:
    return [event["status"] for event in provider.events() if event.get("token") == "refresh_token"]


def test_all_267_records_of_patient_85_are_pulled(ada, provider):
    ada.connect()
    assert ada.pull() == PullState.DONE
    assert provider.resources == 267
    assert sorted(ada.kept()) == sorted(provider.names())


def test_pages_of_20_bring_the_same_records(ada, provider):
    provider.set(page=20)
    ada.connect()
    assert ada.pull() == PullState.DONE
    assert sorted(ada.kept()) == sorted(provider.names())
    line = ada.ledger()["Observation"]
    assert (line.pages, line.got, line.claimed) == (4, 66, 66)


def test_what_is_kept_is_what_the_provider_wrote(ada, provider):
    """Medplum's own bytes, whatever its order of names and its way to write numbers."""
    ada.connect()
    ada.pull()
    for kind in ("Observation", "Encounter", "DocumentReference"):
        url = f"{provider.base}/{kind}?patient={provider.patient}&_count=100"
        bearer = ada.credentials().access_token
        page = httpx.get(url, headers={"authorization": f"Bearer {bearer}"}).content
        with ada.vault.read() as session:
            found = records.select(session, ada.vault, Selection(types=(kind,)))
        assert found
        assert all(record.body in page for record in found)


def test_a_second_full_pull_writes_no_record(ada):
    ada.connect()
    ada.pull()
    assert ada.pull(full_days=0) == PullState.DONE
    lines = ada.ledger().values()
    assert sum(line.new + line.changed for line in lines) == 0
    assert sum(line.unchanged for line in lines) == 267


def test_tokens_of_one_second_are_renewed_in_the_middle_of_a_slow_pull(ada, provider):
    """RFC 6749 §6 with rotation: each refresh token is used once, and the record is whole."""
    provider.set(accessSeconds=1, delayMs=150, page=10)
    ada.connect()
    first = ada.credentials().refresh_token
    assert ada.pull() == PullState.DONE
    assert sorted(ada.kept()) == sorted(provider.names())
    seen = refreshes(provider)
    assert len(seen) >= 2
    assert set(seen) == {200}
    assert ada.credentials().refresh_token != first
    assert ada.credentials().rotates


def test_a_replayed_refresh_token_ends_in_a_clear_request_to_sign_in_again(ada, provider):
    """RFC 9700 §4.14: reuse kills the family; we stop asking and say so, and lose nothing."""
    ada.connect()
    stolen = ada.credentials()
    ada.pull()
    kept = ada.kept()
    row = ada.row()
    endpoint, client = Endpoint.from_json(row.endpoint), Client.from_json(row.client)
    http = ada.cast.appliance.http
    oauth.refresh(http, endpoint, client, stolen, now=clock.now())  # somebody else was first
    with time_machine.travel(stolen.expires_at):
        assert ada.pull() == PullState.FAILED
    row = ada.row()
    assert row.state == ConnectionState.NEEDS_REAUTHORISATION
    assert row.next_pull_at is None
    assert ada.credentials().refresh_token is None
    page = ada.browser.get(ada.base)
    assert "The hospital wants you to sign in again. What was fetched before is kept." in page.text
    assert "Sign in again" in page.text
    assert ada.kept() == kept
    provider.set()
    assert ada.browser.submit(f"{ada.base}/1/pull", page=ada.base).status_code == 409
    assert refreshes(provider) == [], "a dead token is not tried again"


def test_signing_in_again_goes_on_where_it_stopped(ada, provider):
    ada.connect()
    ada.pull()
    with ada.vault.write() as session:
        row = connections.get(session, 1)
        row.state = ConnectionState.NEEDS_REAUTHORISATION
    assert ada.again().endswith("/connections/1")
    assert ada.pull() == PullState.DONE
    assert sorted(ada.kept()) == sorted(provider.names())


def test_a_revoked_grant_leads_to_signing_in_again(ada, provider):
    ada.connect()
    row = ada.row()
    endpoint, client = Endpoint.from_json(row.endpoint), Client.from_json(row.client)
    oauth.revoke(ada.cast.appliance.http, endpoint, client, ada.credentials())
    assert ada.pull() == PullState.FAILED
    assert ada.row().state == ConnectionState.NEEDS_REAUTHORISATION


def test_saying_no_over_there_is_a_calm_page(ada, provider):
    """RFC 6749 §4.1.2.1 access_denied."""
    typed = {"name": "R", "base_url": provider.base, "client_id": CLIENT_ID}
    answer = ada.browser.submit(ada.base + "/add", typed, page=ada.base + "/add")
    landed = provider.sign_in(ada.way_out(answer), consent=False)
    assert landed["error"] == "access_denied"
    page = ada.browser.get("/connect/callback", params=landed)
    assert page.status_code == 400
    assert "Nothing was" in page.text or "did not" in page.text


def test_the_answer_names_its_issuer_and_another_one_is_refused(ada, provider):
    """RFC 9207 §2.4."""
    typed = {"name": "R", "base_url": provider.base, "client_id": CLIENT_ID}
    answer = ada.browser.submit(ada.base + "/add", typed, page=ada.base + "/add")
    landed = provider.sign_in(ada.way_out(answer))
    assert landed["iss"] == f"http://{provider.place}"
    page = ada.browser.get("/connect/callback", params=landed | {"iss": "https://other.example"})
    assert page.status_code == 400


def test_two_threads_that_need_a_token_renew_it_once(ada, provider):
    """Single flight: with rotation a second use of the same refresh token would end everything."""
    ada.connect()
    row = ada.row()
    http = ada.cast.appliance.http
    job = pull.Job(
        connection_id=1,
        kind="smart",
        pull_id=0,
        full=True,
        resumed=False,
        base_url=row.base_url,
        patient=row.remote_patient,
        endpoint=Endpoint.from_json(row.endpoint),
        client=Client.from_json(row.client),
        credentials=ada.credentials(),
        cursor=None,
        interval=None,
        failures=0,
    )
    purse = pull.Purse(ada.vault, job, http)
    provider.set(delayMs=50)
    handed: list[str] = []
    dead = job.credentials.access_token
    threads = [
        threading.Thread(target=lambda: handed.append(purse.renewed(dead))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(handed) == 8
    assert len(set(handed)) == 1
    assert refreshes(provider) == [200]


# ------------------------------------------------------------------------- the library alone


@pytest.fixture
def signed_in(provider: Provider) -> Callable[[], tuple[Http, Endpoint, Client, Credentials]]:
    """Discover, authorise and redeem with the functions of phr.oauth only."""
    opened: list[Http] = []

    def go() -> tuple[Http, Endpoint, Client, Credentials]:
        http = Http(Guard([provider.place]))
        opened.append(http)
        endpoint = oauth.discover(http, provider.base)
        client = Client(CLIENT_ID, REDIRECT)
        begun = oauth.begin(endpoint, client, now=clock.now())
        landed = provider.sign_in(begun.url)
        done = oauth.complete(http, endpoint, client, begun.pending, landed, now=clock.now())
        return http, endpoint, client, done

    yield go
    for http in opened:
        http.close()


def test_tokens_carry_the_patient_the_scopes_and_a_valid_id_token(signed_in):
    """SMART App Launch 2.2 §2.1.12; the id_token is checked against the provider's own keys."""
    _, endpoint, _, credentials = signed_in()
    assert credentials.patient == "85"
    assert credentials.fhir_user == f"{endpoint.base_url}/Patient/85"
    assert credentials.refresh_token
    assert "patient/*.rs" in credentials.scope
    assert endpoint.iss_promised


def test_the_old_refresh_token_is_dead_after_a_renewal(signed_in):
    http, endpoint, client, first = signed_in()
    second = oauth.refresh(http, endpoint, client, first, now=clock.now())
    assert second.refresh_token != first.refresh_token
    with pytest.raises(NeedsReauthorisation):
        oauth.refresh(http, endpoint, client, first, now=clock.now())
    with pytest.raises(NeedsReauthorisation):  # the whole family is gone
        oauth.refresh(http, endpoint, client, second, now=clock.now())


def test_a_code_is_good_once_and_only_with_its_verifier(provider, signed_in):
    """RFC 7636 §4.6: a stolen code without the verifier is worth nothing."""
    http, endpoint, client, _ = signed_in()
    begun = oauth.begin(endpoint, client, now=clock.now())
    landed = provider.sign_in(begun.url)
    other = oauth.begin(endpoint, client, now=clock.now())
    forged = replace(begun.pending, verifier=other.pending.verifier)
    with pytest.raises(Exception, match="sign"):
        oauth.complete(http, endpoint, client, forged, landed, now=clock.now())


def test_report_of_what_its_interface_does_fits_what_it_did(ada, provider):
    """The report of `phr check connection`, of a server that keeps to the standards."""
    provider.set(page=20)
    location = ada.connect()
    ada.pull()
    number = int(location.rpartition("/")[2])
    seen = conformance.look(ada.vault, number, ada.cast.appliance.http)

    items = conformance.report(ada.vault, number, seen)

    said = {(one.kind, one.subject): one for one in items}
    answer = said["answer", "Observation"].value
    assert (answer["got"], answer["claimed"], answer["pages"]) == (66, 66, 4)
    assert said["exchange", "Patient"].value["status"] == 200
    assert "json" in said["exchange", "Patient"].value["content_type"]
    scopes = [one for one in items if one.kind == "scope"]
    assert [one for one in scopes if one.value["asked"] and one.value["granted"]]
    text = conformance.as_text(items) + conformance.as_lines(items)
    assert provider.patient not in text
    assert CLIENT_ID not in text
    assert ada.credentials().access_token not in text
    assert not {word for name in ada.kept() if (word := name.partition("/")[2]) in text}
