"""The redirect page: leads a browser from a vendor back to the home where the sign-in began.

A static page with a script of its own: where it leads to is a seal inside `state`, checked in the
browser against the key in the page, so that nothing here needs to read or log the query.
"""

import base64
import json
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lighthouse import clock, parts
from lighthouse.assertions import welcome
from lighthouse.installations import Installations
from lighthouse.parts import App, Receive, Scope, Send, Told

LIFE: Final = 15 * 60  # seconds a seal counts: a sign-in takes ten minutes at most
PARAMETERS: Final = frozenset({"return_to", "state_hash", "installation_id", "nonce", "ts", "sig"})
HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}\Z")
PRIVATE_NAMES: Final = (".local", ".lan", ".home", ".internal", ".home.arpa", ".localhost")
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
FOLDER: Final = Path(__file__).with_name("static") / "redirect"
FILES: Final = {"/r.js": "text/javascript; charset=utf-8", "/r.css": "text/css; charset=utf-8"}


def is_home(return_to: str) -> bool:
    """Say whether an address can be a Homeport's: https, or plain http inside a house."""
    try:
        parsed = urlsplit(return_to)
        _ = parsed.port
    except ValueError:
        return False
    odd = not return_to.isascii() or not return_to.isprintable() or len(return_to) > 300
    extra = parsed.query or parsed.fragment or "@" in parsed.netloc or "\\" in return_to
    host = parsed.hostname or ""
    if odd or extra or not host or not parsed.path.endswith("/connect/callback"):
        return False
    return parsed.scheme == "https" or (parsed.scheme == "http" and is_private(host))


def is_private(host: str) -> bool:
    """Say whether a host's name is one of a house: a private number or a name of no public zone."""
    try:
        ip = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_NAMES)
    return ip.is_private and not ip.is_unspecified


def sealed(key: ec.EllipticCurvePrivateKey, return_to: str, state_hash: str, ends: int) -> str:
    """Return body and signature (ES256), both base64url: what the page checks."""
    said = {"to": return_to, "h": state_hash, "exp": ends}
    body = _b64(json.dumps(said, separators=(",", ":")).encode())
    r, s = decode_dss_signature(key.sign(body.encode(), ec.ECDSA(SHA256())))
    return f"{body}.{_b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def page(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the page; the key that it checks with stands in it."""
    numbers = key.public_key().public_numbers()
    x, y = (_b64(one.to_bytes(32, "big")) for one in (numbers.x, numbers.y))
    html = (FOLDER / "r.html").read_text(encoding="utf-8")
    return html.replace("KEY-X", x).replace("KEY-Y", y).encode()


def create_app(installations: Installations, key: ec.EllipticCurvePrivateKey) -> App:
    """Return the application: GET /r and its two files, POST /v1/seal, POST /v1/installation."""
    shown = page(key)
    files = {name: (FOLDER / name[1:]).read_bytes() for name in FILES}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if method in {"GET", "HEAD"} and path == "/r":
            headers = {"content-security-policy": POLICY}
            await parts.answer(send, 200, shown, headers, "text/html; charset=utf-8")
        elif method in {"GET", "HEAD"} and path in files:
            lasting = {"cache-control": "public, max-age=3600"}
            await parts.answer(send, 200, files[path], lasting, FILES[path])
        elif (method, path) == ("GET", "/healthz"):
            await parts.answer_json(send, 200, {"status": "ok"})
        elif (method, path) == ("POST", "/v1/installation"):
            await welcome(installations, scope, receive, send)
        elif (method, path) == ("POST", "/v1/seal"):
            said = parts.json_of(await parts.body_of(receive))
            await parts.answer_json(send, 200, {"seal": _seal(installations, key, said)})
        else:
            raise Told(404, "not_found")

    return parts.silent(app, "redirect")


def _seal(
    installations: Installations, key: ec.EllipticCurvePrivateKey, said: Mapping[str, Any]
) -> str:
    return_to, state_hash = str(said.get("return_to")), str(said.get("state_hash"))
    if set(said) - PARAMETERS or not HASH.match(state_hash) or not is_home(return_to):
        raise Told(400, "invalid_request")
    installations.admit(said, "seal", [return_to, state_hash], now=clock.now())
    return sealed(key, return_to, state_hash, int(clock.now().timestamp()) + LIFE)


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@click.command()
@click.option("--key", required=True, type=click.Path(exists=True, path_type=Path))
@parts.options(8091)
def main(key: Path, installations: Path, host: str, port: int) -> None:
    """Serve the redirect page. KEY is an EC P-256 private key (PEM), chmod 600."""
    kept = parts.read_private(key)
    with parts.told(f"{key.name} does not hold a private key (PEM)."):
        private = load_pem_private_key(kept, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.key_size != 256:
        raise click.UsageError("--key must be an EC P-256 private key.")
    parts.run(create_app(Installations(installations), private), host, port)


if __name__ == "__main__":
    main()
