"""A stranger's server of SMART Health Links and Health Cards on loopback, with its own faults."""

import base64
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jws
from joserfc.jwk import ECKey

KEY = bytes(range(32))
NONCE = bytes(12)
CARD = "application/smart-health-card"
FHIR = "application/fhir+json"


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def deflated(plain: bytes) -> bytes:
    packing = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packing.compress(plain) + packing.flush()


def sealed(plain: bytes, kind: str = FHIR, *, packed: bool = False, **header: Any) -> str:
    """Return a compact JWE as others make it: with `zip`, an odd header, whatever a test wants."""
    head = {"alg": "dir", "enc": "A256GCM", "cty": kind} | ({"zip": "DEF"} if packed else {})
    first = text(json.dumps(head | header).encode())
    made = AESGCM(KEY).encrypt(NONCE, deflated(plain) if packed else plain, first.encode())
    return f"{first}..{text(NONCE)}.{text(made[:-16])}.{text(made[-16:])}"


@dataclass
class Host:
    """What a test sees: where it is, what lies at each path, and what it was asked."""

    port: int
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    manifest: list[dict[str, str]] = field(default_factory=list)
    passcode: str = ""
    left: int = 5
    status: int = 200
    asked: list[tuple[str, Any]] = field(default_factory=list)
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def link(self, **more: Any) -> str:
        said = {"url": f"{self.url}/m", "key": text(KEY), "v": 1} | more
        return f"shlink:/{text(json.dumps(said).encode())}"

    def card(self, resources: list[dict[str, Any]], **more: Any) -> str:
        """Sign a Health Card as this issuer."""
        entries = [
            {"fullUrl": f"resource:{number}", "resource": one}
            for number, one in enumerate(resources)
        ]
        subject = {"fhirVersion": "4.0.1", "fhirBundle": {
            "resourceType": "Bundle", "type": "collection", "entry": entries}}  # fmt: skip
        credential = {"type": ["https://smarthealth.cards#health-card"],
                      "credentialSubject": subject, **more.pop("vc", {})}  # fmt: skip
        said = {"iss": self.url, "nbf": 1_700_000_000, "vc": credential} | more
        header = {"alg": "ES256", "zip": "DEF", "kid": self.key.thumbprint()}
        registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
        payload = deflated(json.dumps(said, separators=(",", ":")).encode())
        return jws.serialize_compact(header, payload, self.key, registry=registry)

    def publish(self, **more: Any) -> None:
        public = dict(self.key.as_dict(private=False)) | {
            "kid": self.key.thumbprint(), "use": "sig", "alg": "ES256", **more}  # fmt: skip
        self.files["/.well-known/jwks.json"] = (200, json.dumps({"keys": [public]}).encode())


@contextmanager
def running() -> Iterator[Host]:
    told: Host

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append((self.path, None))
            self._say(*told.files.get(self.path.partition("?")[0], (404, b"")))

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.asked.append((self.path, given))
            if told.status != 200:
                self._say(told.status, b"")
            elif told.passcode and given.get("passcode") != told.passcode:
                told.left -= 1
                self._say(401, json.dumps({"remainingAttempts": told.left}).encode())
            else:
                self._say(200, json.dumps({"files": told.manifest}).encode())

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = Host(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
