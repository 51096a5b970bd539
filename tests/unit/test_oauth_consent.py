"""A token for a Consent at another server (RFC 7523 §2.1, `consent` as in 2017), as its target."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from phr import jwt, oauth
from phr.errors import NeedsReauthorisation, TryLater, WrongPatient
from phr.oauth import Client, Credentials
from tests.fixtures_net import plain
from tests.fixtures_smart import failing

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
OURS = "https://home.example.org"
TOKEN = {"access_token": "at-2", "token_type": "Bearer", "expires_in": 300, "patient": "85"}
HELD = Credentials("at-1", NOW, NOW, None, "85")


@pytest.fixture
def endpoint(smart, http):
    return oauth.discover(http, smart.url + "/fhir")


@pytest.fixture(scope="module")
def client():
    return Client(OURS, "", key=jwt.new_key("ES384"), consent="c-1")


def test_what_is_shown_names_us_the_token_endpoint_and_the_consent(smart, http, endpoint, client):
    smart.answers["/token"] = TOKEN

    found = oauth.by_consent(http, endpoint, client, now=NOW)

    _, form, _ = smart.asked[-1]
    assert set(form) == {"grant_type", "assertion"}
    assert form["grant_type"] == oauth.BY_CONSENT
    keys = {"keys": [jwt.public_half(client.key)]}
    said = jwt.peek(form["assertion"])
    checked = jwt.verify(
        form["assertion"],
        keys,
        issuer=OURS,
        audience=endpoint.token_endpoint,
        now=datetime.fromtimestamp(said["iat"], UTC),
        algorithms=jwt.SIGNING_ALGORITHMS,
    )
    assert checked["consent"] == "c-1"
    assert checked["exp"] - checked["iat"] <= 300
    assert (found.access_token, found.patient, found.refresh_token) == ("at-2", "85", None)


def test_renewing_asks_again_and_uses_nothing_up(smart, http, endpoint, client):
    smart.answers["/token"] = TOKEN

    first = oauth.refresh(http, endpoint, client, HELD, now=NOW)
    second = oauth.refresh(http, endpoint, client, first, now=NOW)

    assert (first.access_token, second.patient) == ("at-2", "85")
    ids = [jwt.peek(form["assertion"])["jti"] for path, form, _ in smart.asked if path == "/token"]
    assert len(ids) == len(set(ids)) == 2


def test_another_patient_than_before_stops(smart, http, endpoint, client):
    smart.answers["/token"] = TOKEN | {"patient": "86"}

    with pytest.raises(WrongPatient):
        oauth.refresh(http, endpoint, client, HELD, now=NOW)


@pytest.mark.parametrize(
    "answer",
    [
        failing("400 Bad Request", {"error": "invalid_grant"}),
        failing("401 Unauthorized", {"error": "invalid_client"}),
        failing("403 Forbidden", b"<html>"),
        plain(json.dumps({"error": "invalid_scope"}).encode()),
    ],
    ids=["invalid_grant", "invalid_client", "HTML", "200 with an error"],
)
def test_refusal_says_that_the_consent_is_over(smart, http, endpoint, client, answer):
    smart.answers["/token"] = answer

    with pytest.raises(NeedsReauthorisation) as over:
        oauth.by_consent(http, endpoint, client, now=NOW)

    assert over.value.sentence == oauth.CONSENT_OVER


@pytest.mark.parametrize(
    "answer",
    [
        failing("503 Service Unavailable"),
        failing("429 Too Many Requests"),
        failing("400 Bad Request", {"error": "temporarily_unavailable"}),
        plain(json.dumps(TOKEN | {"token_type": "mac"}).encode()),
        plain(json.dumps(TOKEN | {"patient": ["85", "86"]}).encode()),
        plain(json.dumps(TOKEN | {"access_token": "a b"}).encode()),
        b"nonsense\r\n\r\n",
    ],
    ids=["503", "429", "sealed", "mac", "two patients", "odd token", "no HTTP"],
)
def test_answer_that_says_nothing_is_asked_for_again_later(smart, http, endpoint, client, answer):
    smart.answers["/token"] = answer

    with pytest.raises(TryLater):
        oauth.by_consent(http, endpoint, client, now=NOW)


def test_token_endpoint_inside_our_own_network_is_not_asked(http, endpoint, client):
    elsewhere = replace(endpoint, token_endpoint="https://10.0.0.1/token")

    with pytest.raises(TryLater):
        oauth.by_consent(http, elsewhere, client, now=NOW)


def test_client_with_a_consent_is_kept_and_read_back(client):
    assert Client.from_json(json.loads(json.dumps(client.to_json()))) == client
