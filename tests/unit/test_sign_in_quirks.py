"""The client's newer parts: bounded metadata, quirks of scopes, keys, registration, known ends."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from phr import beacon, catalogue, clock, jwt, oauth
from phr.bounded import read_object
from phr.errors import InvalidInput, RemoteBroken, TryLater
from phr.oauth import Client, Credentials, Endpoint
from tests.fixtures_net import plain
from tests.fixtures_smart import configuration, failing

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
BACK = "http://127.0.0.1:8080/connect/callback"


# ----------------------------------------------------------------- metadata costs only so much


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"{}," * 2_000_000 + b"{}]",
        b'{"a":' + b"[" * 500_000,
        b'{"a":[' + b"1," * 900_000 + b"1]}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1.' + b"9" * 5000 + b"}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1,"a":2}',
    ],
    ids=["objects", "deep", "list", "number", "fraction", "nan", "infinity", "twice"],
)
def test_json_that_would_cost_too_much_or_is_none_is_refused_before_it_is_built(body):
    with pytest.raises(RemoteBroken):
        read_object(body)


def test_a_large_honest_statement_is_read():
    kinds = [
        {"type": f"Kind{number}", "searchParam": [{"name": "a"}] * 20} for number in range(900)
    ]
    found = read_object(json.dumps({"rest": [{"resource": kinds}]}).encode())
    assert len(found["rest"][0]["resource"]) == 900


# ----------------------------------------------------------------- quirks of scopes and modes


def endpoint(**changes):
    made = Endpoint("https://ehr.example.org/r4/", "https://ehr.example.org/a", "https://e.org/t")
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("quirks", "confidential", "expected"),
    [
        ({}, False, "launch/patient openid fhirUser offline_access patient/*.read"),
        ({"refresh": "none"}, False, "launch/patient openid fhirUser patient/*.read"),
        ({"refresh": "confidential"}, False, "launch/patient openid fhirUser patient/*.read"),
        (
            {"refresh": "confidential"},
            True,
            "launch/patient openid fhirUser offline_access patient/*.read",
        ),
        ({"openid": False}, False, "launch/patient offline_access patient/*.read"),
        ({"scopes": "profile  a.read"}, True, "profile a.read"),
        (
            {"scopes_add": "internal openid"},
            False,
            "launch/patient openid fhirUser offline_access patient/*.read internal",
        ),
    ],
    ids=str,
)
def test_scopes_follow_the_vendors_habits(quirks, confidential, expected):
    assert oauth.scopes_for(endpoint(quirks=quirks), confidential=confidential) == expected


def test_a_vendor_that_wants_each_kind_by_name_gets_no_wildcard():
    listed = (
        "patient/*.read",
        "patient/Patient.read",
        "patient/Observation.read",
        "launch/patient",
    )
    known = endpoint(quirks={"scopes_by_type": True}, scopes_supported=listed)
    asked = oauth.scopes_for(known)
    assert asked == "launch/patient patient/Patient.read patient/Observation.read"
    unknown = endpoint(quirks={"scopes_by_type": True}, offers=("Patient", "Condition"))
    assert "patient/Patient.read patient/Condition.read" in oauth.scopes_for(unknown)


def test_the_answer_comes_as_fragment_only_where_nothing_else_is_offered():
    client = Client("app", BACK)
    begun = oauth.begin(endpoint(quirks={"response_mode": "fragment"}), client, now=NOW)
    assert "response_mode=fragment" in begun.url
    assert "response_mode" not in oauth.begin(endpoint(), client, now=NOW).url


def test_every_vendor_with_a_way_in_has_what_a_person_needs_to_register():
    from lighthouse.vendors import profiles

    for name, row in profiles().items():
        assert set(row["clients"]) <= {"public", "secret", "jwt"}, name
        if row["clients"]:
            assert row["portal"], name
            assert row["portal_url"].startswith("https://"), name
            assert row["app_type"], name
            assert row["aud"] in {"exact", "no_slash", "absent"}, name
            assert row["refresh"] in {"scope", "confidential", "none", "registered"}, name
            quirks = catalogue.quirks_of(row, "R4")
            assert quirks["refresh"] != "registered"


# ----------------------------------------------------------------- keys


@pytest.mark.parametrize("algorithm", jwt.SIGNING_ALGORITHMS)
def test_a_statement_signed_here_is_believed_there_and_nothing_private_leaves(algorithm):
    key = jwt.new_key(algorithm)
    claims = {"iss": "app", "sub": "app", "aud": "https://e.org/t", "exp": NOW.timestamp() + 60}
    token = jwt.sign(claims, key)
    keys = {"keys": [jwt.public_half(key)]}
    assert not {"d", "p", "q"} & set(keys["keys"][0])
    found = jwt.verify(
        token,
        keys,
        issuer="app",
        audience="https://e.org/t",
        now=NOW,
        algorithms=jwt.SIGNING_ALGORITHMS,
    )
    assert found["sub"] == "app"
    assert key["kid"] == jwt.public_half(key)["kid"]


def test_words_to_a_lighthouse_are_signed_line_by_line():
    key = jwt.new_key("EdDSA")
    raw = base64.urlsafe_b64decode(jwt.sign_words(["a", "b"], key) + "==")
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    public.verify(raw, b"a\nb")
    with pytest.raises(InvalidSignature):
        public.verify(raw, b"ab")


def test_private_parts_of_a_client_are_not_in_its_words():
    client = Client("app", BACK, "hush", key=jwt.new_key("ES384"))
    aid = beacon.Help(beacon.SIGNS, "https://l.example", "e", jwt.new_key("EdDSA"))
    said = repr(replace(client, help=aid))
    assert "hush" not in said
    assert client.key["d"] not in said
    assert aid.installation["d"] not in said
    assert Client.from_json(json.loads(json.dumps(client.to_json()))) == client
    assert Client.from_json(replace(client, help=aid).to_json()).help == aid


# ----------------------------------------------------------------- registration (RFC 7591)


@pytest.fixture
def offering(smart, http):
    """Return a function: what the site announces, and what it answers to a wish."""

    def start(answer, **announced):
        more = {"registration_endpoint": smart.url + "/register", **announced}
        smart.answers["/fhir/.well-known/smart-configuration"] = configuration(smart.url, **more)
        smart.answers["/register"] = answer
        return oauth.discover(http, smart.url + "/fhir")

    return start


KEYS = {"ES384": jwt.new_key("ES384")}


def test_a_public_client_is_registered_where_nothing_else_is_listed(http, offering):
    made = oauth.register(http, offering({"client_id": "c-1"}), BACK, keys=KEYS)
    assert (made.id, made.redirect_uri, made.secret, made.key) == ("c-1", BACK, None, None)


def test_a_secret_is_kept_where_the_site_gives_one(http, offering):
    methods = ["client_secret_post"]
    site = offering(
        {"client_id": "c-1", "client_secret": "s"}, token_endpoint_auth_methods_supported=methods
    )
    assert oauth.register(http, site, BACK, keys=KEYS).secret == "s"


def test_a_key_is_preferred_and_only_of_a_kind_the_site_takes(http, smart, offering):
    site = offering({"client_id": "c"}, token_endpoint_auth_methods_supported=["private_key_jwt"])
    assert oauth.register(http, site, BACK, keys=KEYS).key == KEYS["ES384"]
    body = next(head for path, _, head in smart.asked if path == "/register")
    assert b"application/json" in body


@pytest.mark.parametrize(
    "answer",
    [
        failing("400 Bad Request", {"error": "invalid_redirect_uri"}),
        failing("404 Not Found"),
        failing("403 Forbidden", b"<html>"),
        plain(b"{}"),
        {"client_id": "a b"},
        {"client_id": "c", "token_endpoint_auth_method": "private_key_jwt"},
    ],
    ids=["refused", "absent", "html", "empty", "blank", "other method"],
)
def test_a_registration_that_does_not_work_out_is_said(http, offering, answer):
    site = offering(answer)
    with pytest.raises((InvalidInput, RemoteBroken)):
        oauth.register(http, site, BACK, keys=KEYS)


def test_a_site_without_registration_is_said_without_asking(http, smart):
    site = oauth.discover(http, smart.url + "/fhir")
    with pytest.raises(InvalidInput, match="does not register apps"):
        oauth.register(http, site, BACK, keys=KEYS)


# ----------------------------------------------------------------- known ends


@pytest.mark.parametrize(
    ("answer", "days"),
    [
        ({"refresh_token_expires_in": 864000}, 10),
        ({"refresh_expires_in": "86400"}, 1),
        ({"refresh_expires_in": 0}, None),
        ({"refresh_expires_in": -1}, None),
        ({"refresh_expires_in": "never"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_end_of_a_permission_is_known_where_the_hospital_tells(answer, days):
    made = oauth._credentials({"access_token": "a", **answer}, NOW)
    assert made.ends_at == (None if days is None else NOW + timedelta(days=days))


def test_a_renewal_that_tells_no_end_keeps_the_known_one():
    old = Credentials("a", NOW, None, "r", "p1", ends_at=NOW + timedelta(days=9))
    new = oauth._credentials({"access_token": "b"}, NOW)
    assert oauth._renewed(old, new).ends_at == old.ends_at


# ----------------------------------------------------------------- no lighthouse, no questions


def test_a_lighthouse_that_is_away_means_later_not_never(http, smart):
    aid = beacon.Help(beacon.SIGNS, smart.url, "e", jwt.new_key("EdDSA"))
    with pytest.raises(TryLater):
        beacon.minted(http, aid)
    assert clock.now().tzinfo is UTC
