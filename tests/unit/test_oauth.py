"""The SMART client: SMART App Launch 2.2, RFC 6749, 7636, 9207; spec/security.md e B1-B24."""

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from phr import ids, oauth
from phr.errors import (
    AddressRefused,
    InvalidInput,
    NeedsReauthorisation,
    RemoteBroken,
    TrustError,
    TryLater,
    Unreachable,
    WrongPatient,
)
from phr.oauth import Client, Credentials, Endpoint
from tests.fixtures_net import plain
from tests.fixtures_smart import configuration, failing

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
CLIENT = Client("homeport-app", "http://127.0.0.1:8080/connect/callback")
TOKENS = {
    "access_token": "at-1",
    "token_type": "Bearer",
    "expires_in": 300,
    "refresh_token": "rt-1",
    "patient": "85",
    "scope": "patient/*.rs",
}


@pytest.fixture
def endpoint(smart, http):
    return oauth.discover(http, smart.url + "/fhir")


# ------------------------------------------------------------------------------- discovery


def test_discovery_reads_the_smart_configuration(smart, endpoint):
    assert endpoint.token_endpoint == smart.url + "/token"
    assert endpoint.issuer == smart.url
    assert endpoint.fhir_version == "4.0.1"
    assert endpoint.everything
    assert endpoint.offers == ("Patient", "Observation")
    assert Endpoint.from_json(json.loads(json.dumps(endpoint.to_json()))) == endpoint


def test_discovery_falls_back_to_the_capability_statement(smart, http):
    smart.answers["/fhir/.well-known/smart-configuration"] = failing("404 Not Found", b"<html>")
    smart.answers["/fhir/metadata"] = {
        "rest": [
            {
                "security": {
                    "extension": [
                        {
                            "url": oauth.OAUTH_URIS,
                            "extension": [
                                {"url": "authorize", "valueUri": smart.url + "/a"},
                                {"url": "token", "valueUri": smart.url + "/t"},
                            ],
                        }
                    ]
                }
            }
        ]
    }
    found = oauth.discover(http, smart.url + "/fhir/")
    assert (found.authorization_endpoint, found.token_endpoint) == (
        smart.url + "/a",
        smart.url + "/t",
    )
    assert found.base_url.endswith("/fhir/"), "the base is kept as it was published"


@pytest.mark.parametrize(
    "body",
    [b"<html>login</html>", b"[]", b'{"token_endpoint": 5}', b"{" * 100_000, b" " * 300_000],
    ids=["html", "list", "number", "deep", "huge"],
)
def test_a_server_without_usable_sign_in_is_refused_in_words(smart, http, body):
    smart.answers["/fhir/.well-known/smart-configuration"] = plain(body)
    smart.answers["/fhir/metadata"] = plain(body)
    with pytest.raises(InvalidInput, match="no SMART sign-in"):
        oauth.discover(http, smart.url + "/fhir")


def test_a_server_that_lists_only_plain_pkce_is_refused(smart, http):
    smart.answers["/fhir/.well-known/smart-configuration"] = configuration(
        smart.url, code_challenge_methods_supported=["plain"]
    )
    with pytest.raises(InvalidInput, match="S256"):
        oauth.discover(http, smart.url + "/fhir")


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
@pytest.mark.parametrize(
    "address", ["http://ehr.example.org/x", "https://10.0.0.1/x", "javascript:alert(1)"]
)
def test_endpoints_at_refused_addresses_are_refused(smart, http, name, address):
    smart.answers["/fhir/.well-known/smart-configuration"] = configuration(
        smart.url, **{name: address}
    )
    with pytest.raises(AddressRefused):
        oauth.discover(http, smart.url + "/fhir")


def test_nobody_at_the_address_is_unreachable(http):
    http.guard.allow("127.0.0.1:1")
    with pytest.raises(Unreachable):
        oauth.discover(http, "http://127.0.0.1:1/fhir")


# ---------------------------------------------------------------------------- authorisation


def test_consent_is_asked_for_where_renewal_is_wanted(endpoint):
    assert query_of(oauth.begin(endpoint, CLIENT, now=NOW).url)["prompt"] == "consent"
    switched_off = replace(endpoint, quirks={"prompt": ""})
    assert "prompt" not in query_of(oauth.begin(switched_off, CLIENT, now=NOW).url)
    once = replace(CLIENT, scopes="openid fhirUser patient/*.rs")
    assert "prompt" not in query_of(oauth.begin(endpoint, once, now=NOW).url)


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def test_authorisation_request_holds_what_smart_asks_for(smart, endpoint):
    begun = oauth.begin(endpoint, CLIENT, now=NOW)
    asked = query_of(begun.url)
    assert asked["tenant"] == "1", "what stood in the endpoint's query stays"
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["code_challenge"] != begun.pending.verifier
    assert asked["aud"] == smart.url + "/fhir"
    assert asked["redirect_uri"] == CLIENT.redirect_uri
    assert asked["scope"] == "launch/patient openid fhirUser offline_access patient/*.rs"
    assert asked["nonce"] == begun.pending.nonce
    assert begun.state not in json.dumps(begun.pending.to_json())
    assert 43 <= len(begun.pending.verifier) <= 128


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("exact", "/fhir/"), ("no_slash", "/fhir"), ("absent", None), ("https://x.example/", "")],
)
def test_four_rules_of_aud(smart, http, rule, expected):
    found = oauth.discover(http, smart.url + "/fhir/", {"aud": rule})
    asked = query_of(oauth.begin(found, CLIENT, now=NOW).url).get("aud")
    if expected is None:
        assert asked is None
    else:
        assert asked == (smart.url + expected if expected else rule)


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        ([], "launch/patient openid fhirUser offline_access patient/*.rs"),
        (["launch/patient", "patient/*.read"], "launch/patient patient/*.read"),
        (
            ["offline_access", "patient/Observation.read", "patient/Patient.read", "system/*.rs"],
            "launch/patient offline_access patient/Observation.read patient/Patient.read",
        ),
        (["openid"], "launch/patient patient/*.read"),
    ],
)
def test_least_scopes_are_chosen(endpoint, supported, chosen):
    assert oauth.scopes_for(replace(endpoint, scopes_supported=tuple(supported))) == chosen


def land(http, endpoint, *, client=CLIENT, begun=None, now=NOW, **changes):
    begun = begun or oauth.begin(endpoint, client, now=NOW)
    landed = {"code": "c", "state": begun.state} | changes
    return oauth.complete(http, endpoint, client, begun.pending, landed, now=now)


def test_public_client_exchanges_code_and_verifier(smart, http, endpoint):
    smart.answers["/token"] = TOKENS
    begun = oauth.begin(endpoint, CLIENT, now=NOW)
    credentials = land(http, endpoint, begun=begun)
    path, form, head = smart.asked[-1]
    assert path == "/token"
    assert form["client_id"] == CLIENT.id
    hashed = hashlib.sha256(form["code_verifier"].encode()).digest()  # RFC 7636 §4.2
    challenge = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
    assert parse_qs(urlsplit(begun.url).query)["code_challenge"] == [challenge]
    assert b"authorization" not in head.lower()
    assert credentials.patient == "85"
    assert credentials.expires_at == NOW + timedelta(seconds=300)
    assert Credentials.from_json(json.loads(json.dumps(credentials.to_json()))) == credentials


def test_confidential_client_sends_its_secret_by_basic(smart, http, endpoint):
    smart.answers["/token"] = TOKENS
    land(http, endpoint, client=replace(CLIENT, secret="s:ecret %"))
    _, form, head = smart.asked[-1]
    expected = base64.b64encode(b"homeport-app:s%3Aecret+%25")
    assert b"basic " + expected.lower() in head.lower()
    assert "client_id" not in form


def test_confidential_client_posts_its_secret_where_only_that_is_listed(smart, http, endpoint):
    smart.answers["/token"] = TOKENS
    only = replace(endpoint, token_auth_methods=("client_secret_post",))
    land(http, only, client=replace(CLIENT, secret="hush"))
    assert smart.asked[-1][1]["client_secret"] == "hush"


@pytest.mark.parametrize("state", ["", "other"])
def test_missing_or_wrong_state_is_refused_before_anything_is_sent(smart, http, endpoint, state):
    before = len(smart.asked)
    with pytest.raises(InvalidInput):
        land(http, endpoint, state=state)
    assert len(smart.asked) == before


def test_a_state_older_than_ten_minutes_is_refused(http, endpoint):
    with pytest.raises(InvalidInput):
        land(http, endpoint, now=NOW + timedelta(minutes=10))


def test_answer_of_another_issuer_is_a_mix_up(http, endpoint):
    with pytest.raises(TrustError):
        land(http, endpoint, iss="https://evil.example")


def test_promised_issuer_must_come(http, endpoint):
    with pytest.raises(TrustError):
        land(http, replace(endpoint, iss_promised=True))


def test_changed_token_endpoint_is_refused(http, endpoint):
    begun = oauth.begin(endpoint, CLIENT, now=NOW)
    moved = replace(endpoint, token_endpoint=endpoint.token_endpoint + "2")
    with pytest.raises(TrustError):
        land(http, moved, begun=begun)


def test_a_no_at_the_hospital_is_said_calmly(http, endpoint):
    with pytest.raises(InvalidInput, match="said no"):
        land(http, endpoint, code="", error="access_denied")


def test_hostile_error_text_is_cut_and_flattened(http, endpoint):
    hostile = "<script>\r\nSet-Cookie: x\x00\u202e" + "a" * 100_000
    with pytest.raises(InvalidInput) as refused:
        land(http, endpoint, code="", error="x", error_description=hostile)
    assert len(refused.value.sentence) < 300
    assert refused.value.sentence.isprintable()


@pytest.mark.parametrize(
    "patient",
    [None, "", ["1", "2"], {"id": "1"}, 85, "../x", "a/b", "..", "x" * 65, "Patient/"],
    ids=str,
)
def test_an_unusable_patient_is_never_guessed(smart, http, endpoint, patient):
    smart.answers["/token"] = TOKENS | {"patient": patient}
    with pytest.raises(RemoteBroken):
        land(http, endpoint)


def test_two_patients_in_one_answer_are_refused(smart, http, endpoint):
    text = json.dumps(TOKENS)[:-1] + ', "patient": "86"}'
    smart.answers["/token"] = plain(text.encode())
    with pytest.raises(RemoteBroken):
        land(http, endpoint)


@pytest.mark.parametrize(
    ("given", "life"),
    [
        (3600, 3600),
        ("3600", 3600),
        (1.5, 1.5),
        (-1, None),
        (0, None),
        (None, None),
        ("soon", None),
        (10**12, 86400),
        ([], None),
    ],
    ids=str,
)
def test_odd_lifetimes_are_tolerated(smart, http, endpoint, given, life):
    smart.answers["/token"] = TOKENS | {"expires_in": given}
    expires = land(http, endpoint).expires_at
    assert expires == (None if life is None else NOW + timedelta(seconds=life))


@pytest.mark.parametrize("changes", [{"token_type": None}, {"token_type": "bearer"}], ids=str)
def test_harmless_defects_are_tolerated(smart, http, endpoint, changes):
    smart.answers["/token"] = TOKENS | changes
    assert land(http, endpoint).access_token == "at-1"


@pytest.mark.parametrize(
    "script",
    [
        plain(b"<html>please log in</html>"),
        {"error": "invalid_grant"},
        {"error": "invalid_grant", "access_token": "x"},
        failing("400 Bad", {"error": "invalid_client"}),
        failing("500 Oops", b"<html>"),
        {},
        TOKENS | {"token_type": "mac"},
        TOKENS | {"access_token": "two words"},
        TOKENS | {"access_token": "x\r\nHost: evil"},
        TOKENS | {"access_token": "x" * 20_000},
    ],
    ids=["html", "error 200", "both", "client", "500", "empty", "mac", "space", "crlf", "long"],
)
def test_unusable_token_answers_connect_nothing(smart, http, endpoint, script):
    smart.answers["/token"] = script
    with pytest.raises(RemoteBroken):
        land(http, endpoint)


# --------------------------------------------------------------------------------- id_token

RSA = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "k1"})


def identity(smart, http, endpoint, *, key=RSA, alg="RS256", keys=None, **changes):
    begun = oauth.begin(endpoint, CLIENT, now=NOW)
    claims = {
        "iss": endpoint.issuer,
        "aud": CLIENT.id,
        "exp": NOW.timestamp() + 300,
        "iat": NOW.timestamp(),
        "nonce": begun.pending.nonce,
        "sub": "u",
        "fhirUser": "https://x/Patient/85",
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode({"alg": alg, "kid": "k1"}, claims, key, algorithms=[alg])
    smart.answers["/jwks"] = {"keys": keys or [RSA.as_dict(private=False)]}
    smart.answers["/token"] = TOKENS | {"id_token": token}
    return land(http, endpoint, begun=begun)


def test_a_valid_id_token_names_the_user(smart, http, endpoint):
    assert identity(smart, http, endpoint).fhir_user == "https://x/Patient/85"


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "another"},
        {"aud": "another-app"},
        {"aud": ["homeport-app", "another-app"]},
        {"azp": "another-app"},
        {"iss": "https://evil.example"},
        {"exp": NOW.timestamp() - 61},
        {"exp": "tomorrow"},
        {"nbf": NOW.timestamp() + 61},
        {"iat": NOW.timestamp() + 600},
    ],
    ids=str,
)
def test_an_id_token_that_says_something_wrong_stops_the_connection(smart, http, endpoint, changes):
    with pytest.raises(TrustError):
        identity(smart, http, endpoint, **changes)


@pytest.mark.parametrize("absent", ["aud", "nonce", "exp", "iss"])
def test_an_id_token_that_lacks_something_says_nothing(smart, http, endpoint, absent):
    assert identity(smart, http, endpoint, **{absent: None}).fhir_user is None


def test_an_id_token_signed_by_somebody_else_is_refused(smart, http, endpoint):
    with pytest.raises(TrustError):
        identity(smart, http, endpoint, key=OTHER)


@pytest.mark.parametrize(
    "keys",
    [
        [RSA.as_dict(private=False) | {"n": base64.urlsafe_b64encode(b"\xff" * 128).decode()}],
        [RSA.as_dict(private=True)],
        [RSA.as_dict(private=False)] * 101,
        [RSA.as_dict(private=False) | {"n": "A" * 5000}],
        [RSA.as_dict(private=False) | {"e": "AQ"}],
        [RSA.as_dict(private=False) | {"use": "enc"}],
        [ECKey.generate_key("P-256").as_dict(private=False)],
        ["nonsense", 5, {}],
    ],
    ids=["short", "private", "101", "huge", "e=1", "enc", "other kind", "nonsense"],
)
def test_weak_or_wrong_signing_keys_are_not_believed(smart, http, endpoint, keys):
    with pytest.raises(TrustError):
        identity(smart, http, endpoint, keys=keys)


def unsigned(header, claims, signature=b""):
    def text(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    return ".".join(
        (text(json.dumps(header).encode()), text(json.dumps(claims).encode()), text(signature))
    )


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "nOnE"},
        {"alg": "HS256"},
        {"alg": 5},
        {},
        {"alg": "RS256", "crit": ["x"]},
        {"alg": "RS256", "b64": False},
        {"alg": "RS256", "zip": "DEF"},
        {"alg": "RS256", "jwk": RSA.as_dict(private=False)},
        {"alg": "RS256", "kid": "../../etc/passwd"},
        {"alg": "PBES2-HS256+A128KW", "p2c": 2**31},
    ],
    ids=lambda header: (
        "-".join(str(each) for each in header.items() if each[0] != "jwk") or "empty"
    ),
)
def test_forged_headers_are_refused(smart, http, endpoint, header):
    begun = oauth.begin(endpoint, CLIENT, now=NOW)
    claims = {
        "iss": endpoint.issuer,
        "aud": CLIENT.id,
        "exp": NOW.timestamp() + 300,
        "nonce": begun.pending.nonce,
    }
    smart.answers["/jwks"] = {"keys": [OTHER.as_dict(private=False)]}
    smart.answers["/token"] = TOKENS | {"id_token": unsigned(header, claims, b"x")}
    with pytest.raises(TrustError):
        land(http, endpoint, begun=begun)


def test_public_key_as_hmac_secret_is_refused(smart, http, endpoint):
    begun = oauth.begin(endpoint, CLIENT, now=NOW)
    claims = {
        "iss": endpoint.issuer,
        "aud": CLIENT.id,
        "exp": NOW.timestamp() + 300,
        "nonce": begun.pending.nonce,
    }
    secret = OctKey.import_key(base64.b64encode(RSA.as_pem(private=False)))
    token = jws.serialize_compact(
        {"alg": "HS256"}, json.dumps(claims).encode(), secret, algorithms=["HS256"]
    )
    smart.answers["/jwks"] = {"keys": [RSA.as_dict(private=False)]}
    smart.answers["/token"] = TOKENS | {"id_token": token}
    with pytest.raises(TrustError):
        land(http, endpoint, begun=begun)


# ------------------------------------------------------------------------------------ renewal

HELD = Credentials("at-1", NOW, NOW + timedelta(seconds=300), "rt-1", "85", "patient/*.rs")


def renew(http, endpoint, held=HELD):
    return oauth.refresh(http, endpoint, CLIENT, held, now=NOW)


def test_rotation_is_noticed_and_the_new_token_returned(smart, http, endpoint):
    smart.answers["/token"] = TOKENS | {"access_token": "at-2", "refresh_token": "rt-2"}
    fresh = renew(http, endpoint)
    assert (fresh.access_token, fresh.refresh_token, fresh.rotates) == ("at-2", "rt-2", True)
    assert smart.asked[-1][1] == {
        "grant_type": "refresh_token",
        "refresh_token": "rt-1",
        "client_id": CLIENT.id,
    }


def test_without_rotation_the_old_token_stays(smart, http, endpoint):
    smart.answers["/token"] = {"access_token": "at-2", "expires_in": 60}
    fresh = renew(http, endpoint)
    assert (fresh.refresh_token, fresh.rotates, fresh.patient) == ("rt-1", False, "85")


def test_another_patient_in_a_renewal_stops(smart, http, endpoint):
    smart.answers["/token"] = TOKENS | {"patient": "86"}
    with pytest.raises(WrongPatient):
        renew(http, endpoint)


@pytest.mark.parametrize(
    "script",
    [
        failing("400 Bad", {"error": "invalid_grant"}),
        failing("400 Bad", {"error": "invalid_request"}),
        failing("400 Bad", {"error": "something_new", "error_description": "<b>"}),
        failing("401 No", {"error": "invalid_client"}),
        failing("400 Bad", b"<html>Session ended</html>"),
        failing("400 Bad"),
        failing("401 No"),
        failing("403 No", b"<html>"),
        {"error": "invalid_grant"},
        plain(b"<html>please log in</html>"),
        failing("502 Gateway", b"<html>"),
    ],
    ids=[
        "grant",
        "request",
        "unknown",
        "client",
        "html",
        "empty",
        "401",
        "403",
        "error in 200",
        "html in 200",
        "gateway lost it",
    ],
)
def test_a_dead_grant_under_any_name_asks_for_a_new_sign_in(smart, http, endpoint, script):
    smart.answers["/token"] = script
    with pytest.raises(NeedsReauthorisation):
        renew(http, endpoint)
    assert len([path for path, _, _ in smart.asked if path == "/token"]) == 1


@pytest.mark.parametrize(
    "script",
    [
        failing("429 Slow", {"error": "slow_down"}),
        failing("503 Busy", b"<html>"),
        failing("500 Oops"),
        failing("400 Bad", {"error": "temporarily_unavailable"}),
    ],
    ids=["429", "503", "500", "unavailable"],
)
def test_a_busy_sign_in_service_is_asked_again_later(smart, http, endpoint, script):
    smart.answers["/token"] = script
    with pytest.raises(TryLater):
        renew(http, endpoint)


def test_a_lost_answer_is_not_asked_again_where_tokens_rotate(smart, http, endpoint):
    smart.answers["/token"] = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"
    with pytest.raises(NeedsReauthorisation, match="got lost"):
        renew(http, endpoint)


def test_a_lost_answer_may_be_asked_again_where_tokens_do_not_rotate(smart, http, endpoint):
    smart.answers["/token"] = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"
    with pytest.raises(TryLater):
        renew(http, endpoint, replace(HELD, rotates=False))


UNUSABLE = [
    TOKENS | {"access_token": "two words"},
    TOKENS | {"access_token": "é"},
    TOKENS | {"token_type": "mac"},
    TOKENS | {"refresh_token": ["rt-2"]},
    TOKENS | {"patient": "../85"},
]


@pytest.mark.parametrize("given", UNUSABLE, ids=["blank", "accent", "mac", "list", "path"])
def test_an_answer_that_cannot_be_used_counts_as_lost(smart, http, endpoint, given):
    smart.answers["/token"] = given
    with pytest.raises(NeedsReauthorisation, match="could not be read"):
        renew(http, endpoint)
    with pytest.raises(TryLater):
        renew(http, endpoint, replace(HELD, rotates=False))


def test_a_request_that_never_left_may_be_asked_again(http, endpoint):
    http.guard.allow("127.0.0.1:1")
    with pytest.raises(TryLater):
        renew(http, replace(endpoint, token_endpoint="http://127.0.0.1:1/token"))


def test_a_renewal_that_the_address_guard_refuses_may_be_asked_again(http, endpoint):
    refused = replace(endpoint, token_endpoint="https://10.0.0.8/token")
    with pytest.raises(TryLater, match=r"not renewed, and nothing was sent.*not allowed"):
        renew(http, refused)


def test_without_a_refresh_token_the_person_is_told_why(http, endpoint):
    with pytest.raises(NeedsReauthorisation, match="none that renews itself"):
        renew(http, endpoint, replace(HELD, refresh_token=None))


def test_renewal_is_due_before_the_end():
    assert not HELD.due(NOW)
    assert HELD.due(NOW + timedelta(seconds=241))
    assert not replace(HELD, expires_at=None).due(NOW + timedelta(days=9))
    short = replace(HELD, expires_at=NOW + timedelta(seconds=1))
    assert not short.due(NOW + timedelta(seconds=0.7))
    assert short.due(NOW + timedelta(seconds=0.8))


def test_revocation_is_tried_and_never_fails_loudly(smart, http, endpoint):
    assert not oauth.revoke(http, endpoint, CLIENT, HELD)
    at = replace(endpoint, revocation_endpoint=smart.url + "/revoke")
    smart.answers["/revoke"] = plain(b"")
    assert oauth.revoke(http, at, CLIENT, HELD)
    assert smart.asked[-1][1]["token"] == "rt-1"
    gone = replace(endpoint, revocation_endpoint="http://127.0.0.1:1/x")
    assert not oauth.revoke(http, gone, CLIENT, HELD)


# ------------------------------------------------------------------------------- pasted address


def test_a_pasted_address_is_read():
    found = oauth.read_landing(" https://127.0.0.1/cb?code=a%2Bb&state=s&iss=https%3A%2F%2Fx \n")
    assert found == {"code": "a+b", "state": "s", "iss": "https://x"}


@pytest.mark.parametrize(
    "text", ["", "hello", "https://x/?code=1", "https://x/?code=1&code=2&state=s"]
)
def test_another_text_is_not_taken_for_it(text):
    with pytest.raises(InvalidInput):
        oauth.read_landing(text)


def test_secrets_do_not_show_in_what_is_printed():
    shown = repr(HELD) + repr(replace(CLIENT, secret="hush"))
    assert "at-1" not in shown
    assert "rt-1" not in shown
    assert "hush" not in shown
    assert ids.fingerprint("x").hex() not in shown
