"""Assertions of clients made as an attacker makes them: each is refused at the token endpoint.

spec/security.md e-B 14, 16, 17, 18 and 21; SMART App Launch 2.2 §5.2, RFC 7523 §3, RFC 8725. Where
it says "signed", the signature is right for exactly these bytes.
"""

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from phr import clock, ids, jwt
from tests.cast import PUBLIC
from tests.integration.test_apps import Stage, let_server_in, stage

__all__ = ["stage"]

KIND = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASKED = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}
PRIVATE = jwt.new_key("ES384")
REFUSED = (401, {"error": "invalid_client"})


@pytest.fixture
def client(stage: Stage) -> tuple[dict[str, Any], str]:
    """A backend service that its patient let in: its key, and its client id."""
    key = jwt.new_key("ES384")
    given = {
        "client_name": "Clinic",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [jwt.public_half(key)]},
        "scope": "system/Observation.rs",
    }
    client_id = stage.register(given).json()["client_id"]
    let_server_in(stage, client_id)
    return key, client_id


def packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unpacked(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def signed(key: dict[str, Any], header: dict[str, Any], claims: str) -> str:
    """Sign claims, as they stand, under a header with ES384."""
    bytes_ = f"{packed(json.dumps(header).encode())}.{packed(claims.encode())}"
    curve = ec.SECP384R1()
    public = ec.EllipticCurvePublicNumbers(unpacked(key["x"]), unpacked(key["y"]), curve)
    secret = ec.EllipticCurvePrivateNumbers(unpacked(key["d"]), public).private_key()
    r, s = decode_dss_signature(secret.sign(bytes_.encode(), ec.ECDSA(hashes.SHA384())))
    return f"{bytes_}.{packed(r.to_bytes(48) + s.to_bytes(48))}"


def claims_of(client_id: str, **changed: str) -> str:
    """Return claims as JSON; `changed` are values as they are written, "" for none."""
    now = int(clock.now().timestamp())
    known = {
        "iss": json.dumps(client_id),
        "sub": json.dumps(client_id),
        "aud": json.dumps(f"{PUBLIC}/oauth/token"),
        "exp": str(now + 200),
        "jti": json.dumps(ids.new_id()),
    }
    written = {name: value for name, value in (known | changed).items() if value}
    return "{" + ",".join(f'"{name}":{value}' for name, value in written.items()) + "}"


def redeemed(stage: Stage, token: str) -> tuple[int, Any]:
    answer = stage.post("token", **ASKED, client_assertion_type=KIND, client_assertion=token)
    return answer.status_code, answer.json()


def test_assertion_signed_as_here_is_taken(stage: Stage, client: Any):
    key, client_id = client
    header = {"alg": "ES384", "kid": key["kid"], "typ": "JWT"}
    assert redeemed(stage, signed(key, header, claims_of(client_id)))[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "nOnE"},
        {"alg": "HS256"},
        {"alg": "ES256"},
        {"alg": "RS384"},
        {"alg": None},
        {"jku": "https://elsewhere.example.org/keys.json"},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
        {"zip": "DEF"},
        {"kid": "../../etc/passwd"},
        {"kid": "' OR 1=1 --"},
        {"kid": None},
        {"enc": "A256GCM", "alg": "PBES2-HS256+A128KW", "p2c": 2**31, "p2s": "AAAA"},
    ],
    ids=lambda header: "-".join(f"{name}={value}" for name, value in header.items())[:40],
)
def test_signed_under_a_header_that_is_not_ours_is_refused(
    stage: Stage, client: Any, header: dict[str, Any]
):
    key, client_id = client
    whole = {"alg": "ES384", "kid": key["kid"], "typ": "JWT"} | header
    sent = {name: value for name, value in whole.items() if value is not None}
    token = signed(key, sent, claims_of(client_id))
    assert redeemed(stage, token) == REFUSED
    head, claims, _ = token.split(".")
    assert redeemed(stage, f"{head}.{claims}.") == REFUSED


@pytest.mark.parametrize("place", ["jwk", "x5c", "x5u", "jku"])
def test_key_that_travels_in_the_header_signs_nothing(stage: Stage, client: Any, place: str):
    key, client_id = client
    own = jwt.new_key("ES384") | {"kid": key["kid"]}
    said = {
        "jwk": jwt.public_half(own),
        "x5c": ["MIIB"],
        "x5u": "https://elsewhere.example.org/c.pem",
        "jku": "https://elsewhere.example.org/keys.json",
    }[place]
    header = {"alg": "ES384", "kid": key["kid"], place: said}
    assert redeemed(stage, signed(own, header, claims_of(client_id))) == REFUSED


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": "1"},
        {"exp": ""},
        {"exp": "1e400"},
        {"exp": "NaN"},
        {"exp": '"soon"'},
        {"exp": "true"},
        {"exp": "[4102444800]"},
        {"exp": "4102444800"},
        {"nbf": "4102444800"},
        {"nbf": '"now"'},
        {"iat": "4102444800"},
        {"aud": '"https://elsewhere.example.org/token"'},
        {"aud": f'["{PUBLIC}/oauth/token"]'},
        {"aud": f'["{PUBLIC}/oauth/token","https://elsewhere.example.org"]'},
        {"aud": ""},
        {"iss": '"somebody"'},
        {"sub": '"somebody"'},
        {"sub": ""},
        {"jti": ""},
        {"jti": '""'},
        {"jti": '{"a":1}'},
        {"iss": "null"},
    ],
    ids=lambda changed: "-".join(f"{name}={value}" for name, value in changed.items())[:40],
)
def test_signed_claims_that_are_not_exactly_right_are_refused(
    stage: Stage, client: Any, changed: dict[str, str]
):
    key, client_id = client
    header = {"alg": "ES384", "kid": key["kid"], "typ": "JWT"}
    assert redeemed(stage, signed(key, header, claims_of(client_id, **changed))) == REFUSED


@pytest.mark.parametrize("claims", ["", "[]", "null", "{", '{"iss":1,"iss":2}', "[" * 5000])
def test_signed_nonsense_is_refused(stage: Stage, client: Any, claims: str):
    key, _ = client
    header = {"alg": "ES384", "kid": key["kid"], "typ": "JWT"}
    assert redeemed(stage, signed(key, header, claims)) == REFUSED


@pytest.mark.parametrize(
    "keys",
    [
        [PRIVATE],
        [{"kty": "oct", "kid": "a", "k": "AAAA"}],
        [{"kty": "EC", "kid": str(number)} for number in range(10_000)],
        [],
    ],
    ids=["private half", "shared secret", "10,000 keys", "none"],
)
def test_key_set_that_is_private_or_endless_registers_nobody(stage: Stage, keys: Any):
    given = {
        "client_name": "Clinic",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": keys},
        "scope": "system/Observation.rs",
    }
    assert stage.register(given).status_code in {400, 413}


def test_weak_keys_sign_nothing(stage: Stage):
    """With e = 1 anybody can write a signature that fits: it is the padded hash itself."""
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - weak is what is tried here
    public = small.public_key().public_numbers()
    n = packed(public.n.to_bytes(128))
    trivial = packed(b"\xff" * 256)
    rsa_key = {"kty": "RSA", "use": "sig", "alg": "RS384"}
    keys = [
        rsa_key | {"kid": "small", "n": n, "e": "AQAB"},
        rsa_key | {"kid": "one", "n": trivial, "e": "AQ"},
    ]
    given = {
        "client_name": "Clinic",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": keys},
        "scope": "system/Observation.rs",
    }
    client_id = stage.register(given).json()["client_id"]
    let_server_in(stage, client_id)

    for kid in ("small", "one"):
        head = packed(json.dumps({"alg": "RS384", "kid": kid}).encode())
        signed_part = f"{head}.{packed(claims_of(client_id).encode())}"
        if kid == "small":
            signature = small.sign(signed_part.encode(), padding.PKCS1v15(), hashes.SHA384())
        else:
            prefix = bytes.fromhex("3041300d060960864801650304020205000430")
            hashed = prefix + hashlib.sha384(signed_part.encode()).digest()
            signature = b"\x00\x01" + b"\xff" * (256 - 3 - len(hashed)) + b"\x00" + hashed
        assert redeemed(stage, f"{signed_part}.{packed(signature)}") == REFUSED
