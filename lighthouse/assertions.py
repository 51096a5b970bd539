"""Assertion minting: signs that an installation is the lighthouse's client, and nothing else.

It sees which endpoint and when; never a code, a verifier or a token. The address that a statement
is made for comes from the signed snapshot, never from the request. A process of its own.
"""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lighthouse import clock, parts
from lighthouse.installations import Installations, network_of
from lighthouse.parts import App, Receive, Scope, Send, Told
from lighthouse.snapshot import Content, Refused, Shelf, Trust, reader_of
from lighthouse.vendors import profile

LIFE: Final = 60  # seconds of a statement
MIN_RSA_BITS: Final = 2048
PARAMETERS: Final = frozenset({"endpoint_id", "installation_id", "nonce", "ts", "sig"})


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint that this lighthouse helps with, as its own snapshot says it."""

    vendor: str
    token_url: str
    client_id: str
    via: str
    redirect_uri: str
    scopes: frozenset[str]
    pkce: bool


def targets_of(content: Content) -> dict[str, Target]:
    """Return the allow-list: every endpoint with a token address and a client of ours, by id."""
    found: dict[str, Target] = {}
    for identity, end in content.endpoints.items():
        rules = {**profile(end.vendor), **content.vendors.get(end.vendor, {})}
        rules |= content.overrides.get(identity, {})
        client = rules.get("client")
        if end.token and isinstance(client, Mapping) and client.get("id"):
            found[identity] = Target(
                end.vendor,
                end.token,
                str(client["id"]),
                str(client.get("via", "")),
                str(client.get("redirect_uri", "")),
                frozenset(str(client.get("scopes", "")).split()),
                rules.get("pkce") != "unlisted",
            )
    return found


def load_targets(shelf: Path, snapshot: Path, root: str) -> dict[str, Target]:
    """Take a snapshot (a folder or packed file) as any reader would, and return its allow-list.

    Raises click.ClickException where it is refused.
    """
    place = Shelf(shelf)
    try:
        place.take("own", reader_of(snapshot), Trust((root,)), now=clock.now())
        return targets_of(place.load("own").content)
    except (Refused, OSError) as problem:
        raise click.ClickException(f"The snapshot was not taken. {problem}") from problem


@dataclass(frozen=True)
class SigningKey:
    """A private key of one client. RS384 or ES384, as the key itself says."""

    kid: str
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def algorithm(self) -> str:
        """RS384 or ES384 (RFC 7518 §3.1)."""
        return "RS384" if isinstance(self.private, rsa.RSAPrivateKey) else "ES384"

    def sign(self, data: bytes) -> bytes:
        """Return the signature in the form that JWS wants (RFC 7518 §3.3, §3.4)."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), SHA384())
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(SHA384())))
        return r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def public_jwk(self) -> dict[str, str]:
        """Return the public half (RFC 7517), for the vendor."""
        common = {"kid": self.kid, "alg": self.algorithm, "use": "sig"}
        if isinstance(self.private, rsa.RSAPrivateKey):
            one = self.private.public_key().public_numbers()
            size = (one.n.bit_length() + 7) // 8
            return {"kty": "RSA", "n": _b64(one.n.to_bytes(size, "big")), "e": "AQAB", **common}
        two = self.private.public_key().public_numbers()
        x, y = (_b64(number.to_bytes(48, "big")) for number in (two.x, two.y))
        return {"kty": "EC", "crv": "P-384", "x": x, "y": y, **common}


def read_keys(path: Path) -> dict[str, SigningKey]:
    """Read {client id: {"kid", "pem"}}. Raises click.ClickException, for weak keys, too."""
    kept = parts.read_private(path)
    with parts.told(f"{path.name} does not hold {{client id: {{kid, pem}}}}."):
        given = {
            client: (str(one["kid"]), load_pem_private_key(one["pem"].encode(), None))
            for client, one in json.loads(kept).items()
        }
    found: dict[str, SigningKey] = {}
    for client, (kid, private) in given.items():
        strong = (
            private.key_size >= MIN_RSA_BITS and private.public_key().public_numbers().e == 65537
            if isinstance(private, rsa.RSAPrivateKey)
            else isinstance(private, ec.EllipticCurvePrivateKey) and private.key_size == 384
        )
        if not strong:
            sentence = f"The key of {client} is neither RSA (2048 bits or more) nor P-384."
            raise click.ClickException(sentence)
        found[client] = SigningKey(kid, private)  # type: ignore[arg-type]  # judged above
    return found


def statement(key: SigningKey, target: Target, now: datetime) -> tuple[str, int]:
    """Return a signed client assertion (RFC 7523 §2.2) and when it ends."""
    issued = int(now.timestamp())
    head = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
    claims = {
        "iss": target.client_id,
        "sub": target.client_id,
        "aud": target.token_url,
        "jti": _b64(os.urandom(16)),
        "iat": issued,
        "exp": issued + LIFE,
    }
    signed = ".".join(
        _b64(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims)
    )
    return f"{signed}.{_b64(key.sign(signed.encode()))}", claims["exp"]  # type: ignore[return-value]  # an int, as written above


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def create_app(
    installations: Installations, targets: Mapping[str, Target], keys: Mapping[str, SigningKey]
) -> App:
    """Return the application: POST /v1/assertion, POST /v1/installation, GET /jwks.json."""
    published = {"keys": [key.public_jwk() for key in keys.values()]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["method"], scope["path"]
        if scope["query_string"]:
            raise Told(400, "invalid_request")
        if route == ("GET", "/jwks.json"):
            lasting = {"cache-control": "public, max-age=300"}
            await parts.answer_json(send, 200, published, lasting)
        elif route == ("GET", "/healthz"):
            await parts.answer_json(send, 200, {"status": "ok"})
        elif route == ("POST", "/v1/installation"):
            await welcome(installations, scope, receive, send)
        elif route == ("POST", "/v1/assertion"):
            said = parts.json_of(await parts.body_of(receive))
            await parts.answer_json(send, 200, _mint(installations, targets, keys, said))
        else:
            raise Told(404, "not_found")

    return parts.silent(app, "assertions")


def _mint(
    installations: Installations,
    targets: Mapping[str, Target],
    keys: Mapping[str, SigningKey],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    if set(said) - PARAMETERS:
        raise Told(400, "invalid_request")
    identity = str(said.get("endpoint_id"))
    installations.admit(said, "assertion", [identity], now=clock.now())
    target = targets.get(identity)
    key = keys.get(target.client_id) if target is not None and target.via == "mint" else None
    if target is None or key is None:
        raise Told(404, "unknown_endpoint")
    signed, ends = statement(key, target, clock.now())
    return {"client_assertion": signed, "exp": ends}


async def welcome(installations: Installations, scope: Scope, receive: Receive, send: Send) -> None:
    """Take a new installation in; every part does so, for all of them share the file."""
    said = parts.json_of(await parts.body_of(receive))
    address = str((scope.get("client") or ("unknown",))[0])
    who = installations.register(said, network=network_of(address), now=clock.now())
    await parts.answer_json(send, 201, {"installation_id": who})


@click.command()
@click.option("--keys", required=True, type=click.Path(exists=True, path_type=Path))
@parts.options(8092, snapshot=True)
def main(
    *, snapshot: Path, root: str, shelf: Path, keys: Path, installations: Path, host: str, port: int
) -> None:
    """Serve assertion minting. KEYS is {client id: {"kid", "pem"}}, chmod 600."""
    signing = read_keys(keys)
    targets = load_targets(shelf, snapshot, root)
    parts.run(create_app(Installations(installations), targets, signing), host, port)


if __name__ == "__main__":
    main()
