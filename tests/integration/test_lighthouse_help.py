"""Help with sign-ins: redirect page, minting, proxy. What they refuse; that they keep nothing."""

import asyncio
import base64
import gc
import hashlib
import io
import json
import linecache
import logging
import re
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlencode, urlsplit

import click
import httpx
import pytest
import uvicorn
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from lighthouse import assertions, net, proxy, redirect
from lighthouse.assertions import Target
from lighthouse.installations import NEWCOMERS, QUOTAS, Installations, network_of
from lighthouse.parts import Told
from lighthouse.proxy import FIELDS
from lighthouse.snapshot import Shelf
from lighthouse.vendors import profile
from phr import beacon, clock, jwt
from phr.beacon import Help
from phr.catalogue import Catalogue, Lighthouse
from phr.errors import TryLater, Unreachable
from phr.http import Http
from phr.net import Guard
from phr.store import connections
from phr.store.models import ConnectionState
from tests import fixtures_lighthouse
from tests.fakes.vendors import CLIENT, SECRET, Row, Vendor
from tests.fixtures_net import plain

CODE = "canary-code-77d1"
VERIFIER = "canary-verifier-" + "v" * 40
ACCESS = "canary-access-3f0a"
REFRESH = "canary-refresh-9c2e"
HIDDEN = "canary-secret-51be"
CANARIES = (CODE, VERIFIER, ACCESS, REFRESH, HIDDEN)
BACK = "https://lighthouse.example.org/r"
TOKENS = json.dumps({"access_token": ACCESS, "refresh_token": REFRESH, "patient": "p1"}).encode()


@contextmanager
def serving(app):
    """Serve an ASGI application on a free port of this machine."""
    config = uvicorn.Config(app, port=0, log_level="critical", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)


@pytest.fixture
def installations(tmp_path):
    kept = Installations(tmp_path / "installations.db")
    yield kept
    kept.close()


@pytest.fixture
def said():
    """Everything that any logger of this process writes, whatever its level, with traces."""
    noise = io.StringIO()
    handler = logging.StreamHandler(noise)
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield noise
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
def house():
    """An installation: its key, as the appliance makes it."""
    return jwt.new_key("EdDSA")


def signed(key, purpose, *words):
    """Return a signed question as the appliance makes it."""
    return beacon._introduced(Help("", "", "", key), purpose, *words)


def welcome(installations, key):
    question = {"key": key["x"], **signed(key, "installation", key["x"])}
    installations.register(question, network="test", now=clock.now())


# ------------------------------------------------------------------------- asking an application


def ask(app, method, path, body=b"", headers=None):
    """Ask an application in this very thread; return status, headers, body."""
    sent = []
    pairs = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": pairs}
    scope["client"] = ("127.0.0.1", 1)

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    if not sent:
        return None  # a server would close the connection
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


def token_request(key, endpoint="end", **changes):
    """Return body and headers of a token request that is right but for `changes`."""
    form = {
        "grant_type": "authorization_code",
        "code": CODE,
        "code_verifier": VERIFIER,
        "redirect_uri": BACK,
    }
    form = {k: v for k, v in (form | changes).items() if v is not None}
    return sealed_form(key, urlencode(form).encode(), endpoint)


def sealed_form(key, body, endpoint="end"):
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
    told = signed(key, "token", endpoint, digest)
    return body, {
        "content-type": "application/x-www-form-urlencoded",
        "homeport-installation": told["installation_id"],
        "homeport-nonce": told["nonce"],
        "homeport-time": str(told["ts"]),
        "homeport-signature": told["sig"],
    }


@pytest.fixture
def passing(installations, house, raw_server):
    """A proxy before an upstream of this machine: `passing(reply)` gives the app and upstream."""
    welcome(installations, house)

    def start(reply, *, via="pass", pkce=True, seconds=5.0, allowed=True):
        upstream = raw_server(reply)
        url = upstream.url + "/oauth2/token"
        target = Target("Vendor", url, CLIENT, via, BACK, frozenset(), pkce)
        guard = net.Guard(frozenset({("127.0.0.1", upstream.port)} if allowed else ()))
        app = proxy.create_app(
            installations,
            {"end": target},
            {CLIENT: proxy.Secret(HIDDEN)},
            guard,
            seconds=seconds,
        )
        return app, upstream

    return start


def post(app, request, path="/v1/token/end"):
    body, headers = request
    return ask(app, "POST", path, body, headers)


# ------------------------------------------------------------------------- the proxy: what passes


def test_the_proxy_adds_the_secret_and_hands_the_answer_on(passing, house):
    app, upstream = passing(plain(TOKENS, "200 OK", "Set-Cookie: a=b", "X-Other: 1"))
    status, headers, body = post(app, token_request(house))
    assert (status, body) == (200, TOKENS)
    assert headers["homeport-upstream"] == "answered"
    assert headers["cache-control"] == "no-store"
    assert not {"set-cookie", "x-other"} & set(headers)
    (request,) = upstream.requests
    pair = base64.b64encode(f"{CLIENT}:{HIDDEN}".encode())
    assert b"Authorization: Basic " + pair in request
    assert f"code={CODE}".encode() in request
    assert b"homeport-" not in request.lower()


def test_an_error_of_the_vendor_is_handed_on_with_its_patience(passing, house):
    error = b'{"error":"slow_down"}'
    app, _ = passing(plain(error, "429 Too Many Requests", "Retry-After: 30"))
    status, headers, body = post(app, token_request(house))
    assert (status, body, headers["retry-after"]) == (429, error, "30")


@pytest.mark.parametrize(
    "changes",
    [
        {"client_secret": "x"},
        {"client_assertion": "x"},
        {"resource": "https://evil.example"},
        {"token_url": "https://evil.example"},
        {"client_id": "somebody-else"},
        {"redirect_uri": "https://evil.example/r"},
        {"redirect_uri": None},
        {"code": None},
        {"code_verifier": None},
        {"code_verifier": "short"},
        {"grant_type": "password"},
        {"grant_type": "client_credentials"},
        {"grant_type": "refresh_token"},
        {"refresh_token": "x"},
        {"code": "x" * 9000},
    ],
    ids=str,
)
def test_nothing_but_the_two_grants_passes(passing, house, changes):
    app, upstream = passing(plain(TOKENS))
    status, headers, _ = post(app, token_request(house, **changes))
    assert status == 400
    assert headers["homeport-upstream"] == "untouched"
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"grant_type=refresh_token&refresh_token=a&refresh_token=b", None),
        (b'{"grant_type":"refresh_token","refresh_token":"a"}', None),
        (b'{"grant_type":"refresh_token","refresh_token":"a"}', "application/json"),
        (b"\xff\xfe", None),
        (b"", None),
        (b"grant_type=refresh_token&refresh_token=" + b"x" * 20_000, None),
    ],
    ids=["twice", "json", "json-kind", "bytes", "empty", "large"],
)
def test_no_other_form_passes(passing, house, body, kind):
    app, upstream = passing(plain(TOKENS))
    made, headers = sealed_form(house, body)
    status, _, _ = post(app, (made, headers | ({"content-type": kind} if kind else {})))
    assert status in {400, 413, 415}
    assert upstream.requests == []


def test_a_vendor_without_pkce_may_be_asked_without_a_verifier(passing, house):
    app, _ = passing(plain(TOKENS), pkce=False)
    assert post(app, token_request(house, code_verifier=None))[0] == 200


def test_only_known_unrevoked_installations_with_a_fresh_signature_pass(
    passing, house, installations
):
    app, upstream = passing(plain(TOKENS))
    stranger = jwt.new_key("EdDSA")
    assert post(app, token_request(stranger))[0] == 401
    request = token_request(house)
    assert post(app, request)[0] == 200
    assert post(app, request)[0] == 401, "the same signed request counts once"
    body, headers = token_request(house)
    assert post(app, (body + b"&scope=a", headers))[0] == 401, "the body is signed, too"
    assert post(app, token_request(house), "/v1/token/other")[0] == 401, "and the endpoint"
    stale = headers | {"homeport-time": str(int(headers["homeport-time"]) - 100)}
    assert post(app, (body, stale))[0] == 401
    installations.revoke(house["kid"])
    assert post(app, token_request(house))[0] == 401
    assert len(upstream.requests) == 1


def test_an_installation_has_a_quota_of_connections(passing, house):
    app, _ = passing(plain(TOKENS))
    seen = [post(app, token_request(house))[0] for _ in range(31)]
    assert seen == [200] * 30 + [429]
    renewal = sealed_form(house, b"grant_type=refresh_token&refresh_token=a")
    assert post(app, renewal)[0] == 200, "renewals of what is connected go on"


@pytest.mark.parametrize(
    "spelling",
    [
        (b"grant_type=authorization_code", b"grant_type=authorization%5Fcode"),
        (b"grant_type=authorization_code", b"grant_type=%61uthorization_code"),
        (b"grant_type=", b"grant%5Ftype="),
    ],
)
def test_the_quota_of_connections_counts_the_form_however_it_is_spelled(passing, house, spelling):
    app, upstream = passing(plain(TOKENS))

    def request():
        body, _ = token_request(house)
        assert spelling[0] in body
        return sealed_form(house, body.replace(*spelling))

    seen = [post(app, request())[0] for _ in range(31)]
    assert seen == [200] * 30 + [429]
    assert len(upstream.requests) == 30


def test_an_endpoint_that_is_not_on_the_list_or_not_meant_to_pass_is_refused(passing, house):
    app, upstream = passing(plain(TOKENS), via="mint")
    assert post(app, token_request(house))[0] == 404
    assert post(app, token_request(house, "other"), "/v1/token/other")[0] == 404
    for path in ("/v1/token/../end", "/v1/token/", "/v1/token/end/", "/v1/token/http://evil"):
        assert post(app, token_request(house), path)[0] in {401, 404}
    assert upstream.requests == []


def test_a_private_address_in_the_list_is_never_dialled(passing, house):
    app, upstream = passing(plain(TOKENS), allowed=False)
    status, headers, _ = post(app, token_request(house))
    assert (status, headers["homeport-upstream"]) == (503, "untouched")
    assert upstream.connections == 0


# ------------------------------------------------------------------------- a bad upstream


def drips(_, channel):
    channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    for _ in range(100):
        channel.sendall(b" ")
        time.sleep(0.1)


def endless(_, channel):
    channel.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        channel.sendall(b'{"access_token":"' + b"x" * 65536)


BAD = {
    "redirects": plain(b"", "307 Temporary Redirect", "Location: https://evil.example/token"),
    "drips": drips,
    "endless": endless,
    "bomb": plain(b"\x1f\x8b" * 100, "200 OK", "Content-Encoding: gzip"),
    "large": plain(b'{"access_token":"' + b"x" * 70_000 + b'"}'),
    "html": plain(b"<html>Sign in</html>", "200 OK", "Content-Type: text/html"),
    "html 500": plain(b"<html>Oops</html>", "500 Internal Server Error"),
    "empty": plain(b""),
    "list": plain(b"[1]"),
    "no token": plain(b"{}"),
    "dies": lambda _, channel: channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"),
    "dies at once": lambda *_: None,
    "nonsense": lambda _, channel: channel.sendall(b"\x00\x01\x02 hello\r\n\r\n"),
    "headers": lambda _, channel: channel.sendall(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upstream_gives_a_clean_error_and_is_asked_once(passing, house, said, name):
    app, upstream = passing(BAD[name], seconds=0.6)
    status, headers, body = post(app, token_request(house))
    assert (status, body) == (502, b'{"error": "server_error"}')
    assert headers["homeport-upstream"] == "lost"
    assert len(upstream.requests) == 1
    assert not [one for one in CANARIES if one in said.getvalue()]


def test_an_upstream_that_is_not_there_was_not_touched(passing, house):
    app, upstream = passing(plain(TOKENS))
    upstream.close()
    status, headers, _ = post(app, token_request(house))
    assert (status, headers["homeport-upstream"]) == (503, "untouched")


# ------------------------------------------------------------------------- an exception anywhere


class Boom(Exception):
    """An error whose words hold everything that was at hand: the worst a log line could get."""


MINE = {
    str(Path(module.__file__))
    for module in (assertions, proxy, redirect, sys.modules["lighthouse.installations"])
} | {str(Path(sys.modules["lighthouse.parts"].__file__))}


@contextmanager
def raising_at(number):
    """Raise in the n-th line that runs in the parts that help, in whichever thread; tell where."""
    state = SimpleNamespace(left=number, where=None, lock=threading.Lock())

    def local(frame, event, _):
        # At the end of a block its `with` line runs again, before the lock is given back: nothing
        # can fail there but a signal.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not line.startswith(("with ", "async with ")):
            with state.lock:
                state.left -= 1
                hit = state.left == 0
            if hit:
                state.where = (Path(frame.f_code.co_filename).stem, frame.f_code.co_name)
                raise Boom(repr(dict(frame.f_locals)))
        return local

    def tracer(frame, *_):
        return local if frame.f_code.co_filename in MINE else None

    before = sys.gettrace()
    threading.settrace(tracer)
    sys.settrace(tracer)
    try:
        yield state
    finally:
        sys.settrace(before)
        threading.settrace(None)


WRAPPER = {("parts", "outside"), ("parts", "sending")}  # the wall itself, tried on its own below


def sweep(attempt, check):
    """Run with an error in line 1, 2, 3, … until a run passes; return how many lines failed."""
    for number in range(1, 2000):
        answer = None
        with raising_at(number) as state:
            try:
                answer = attempt()
            except Boom:
                assert state.where in WRAPPER or state.where[0] == "parts", state.where
        check(answer, state.where)
        if state.where is None:
            return number - 1
    raise AssertionError("no run passed")


# An error in the very line that closes a socket leaves it to the collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_exception_at_any_line_of_the_proxy_lets_a_secret_out(
    passing, house, said, tmp_path, capfd
):
    app, upstream = passing(plain(TOKENS))
    untouched = []
    number = iter(range(10_000))

    def attempt():
        code = f"{CODE}-{next(number)}"
        answer = post(app, token_request(house, code=code))
        if answer is not None and answer[1].get("homeport-upstream") == "untouched":
            untouched.append(code)
        return answer

    def check(answer, where):
        if answer is None:
            return
        status, headers, body = answer
        if status != 200 or headers.get("homeport-upstream") != "answered":
            assert not [one for one in CANARIES if one.encode() in body], where
        metrics = ask(app, "GET", "/metrics")[2]
        assert not [one for one in CANARIES if one.encode() in metrics]

    generous = dict.fromkeys(("seal", "assertion", "token", "code"), 10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lighthouse.installations.QUOTAS", generous)
        failed = sweep(attempt, check)
    gc.collect()
    assert failed > 100
    heard = [code_of(request) for request in upstream.requests if b"code=" in request]
    assert len(heard) == len(set(heard)), "a code went out twice"
    assert not set(heard) & set(untouched), "said to be untouched, and was not"
    _nothing_leaked(said, capfd, tmp_path)
    assert "event=failed part=proxy kind=Boom" in said.getvalue(), "the positive control"


def code_of(request):
    return dict(parse_qsl(request.partition(b"\r\n\r\n")[2].decode()))["code"]


def _nothing_leaked(said, capfd, tmp_path):
    out, err = capfd.readouterr()
    written = said.getvalue() + out + err
    assert not [one for one in CANARIES if one in written]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [one for one in CANARIES if one.encode() in content], path


@pytest.fixture
def minting(installations, house):
    welcome(installations, house)
    key = assertions.SigningKey("k1", ec.generate_private_key(ec.SECP384R1()))
    target = Target(
        "Vendor", "https://v.example.org/token", CLIENT, "mint", BACK, frozenset(), True
    )
    return assertions.create_app(installations, {"end": target}, {CLIENT: key}), key


def mint(app, key, **changes):
    question = {"endpoint_id": "end", **signed(key, "assertion", "end")} | changes
    return ask(app, "POST", "/v1/assertion", json.dumps(question).encode())


def test_a_statement_is_made_for_the_address_in_the_list_alone(minting, house):
    app, _ = minting
    status, headers, body = mint(app, house)
    assert (status, headers["cache-control"]) == (200, "no-store")
    found = json.loads(body)
    keys = json.loads(ask(app, "GET", "/jwks.json")[2])
    claims = jwt.verify(
        found["client_assertion"],
        keys,
        issuer=CLIENT,
        audience="https://v.example.org/token",
        now=clock.now(),
        algorithms={"ES384"},
    )
    assert claims["sub"] == CLIENT
    assert claims["exp"] - claims["iat"] == 60
    assert found["exp"] == claims["exp"]
    assert claims["jti"]


@pytest.mark.parametrize(
    "changes",
    [
        {"token_url": "https://evil.example/token"},
        {"aud": "https://evil.example/token"},
        {"code": CODE},
        {"sig": "AAAA"},
        {"ts": 5},
        {"nonce": "short"},
        {"endpoint_id": "other"},
        {"installation_id": "nobody"},
    ],
    ids=str,
)
def test_minting_takes_nothing_else_and_from_nobody_else(minting, house, changes):
    app, _ = minting
    assert mint(app, house, **changes)[0] in {400, 401}


def half_a_letter(question, member):
    """Return a question as JSON in which a text holds a lone surrogate, in either spelling."""
    said = json.dumps(question | {member: "\ud800" + "x" * 20})
    return [said.encode(), said.replace("\\ud800", "\ud800").encode("utf-8", "surrogatepass")]


@pytest.mark.parametrize(
    "member", ["endpoint_id", "installation_id", "nonce", "sig", "\ud800", "ts", "return_to"]
)
def test_text_that_is_no_text_is_a_bad_request_everywhere(installations, minting, house, member):
    app, _ = minting
    sealing = redirect.create_app(installations, ec.generate_private_key(ec.SECP256R1()))
    question = {"endpoint_id": "end", **signed(house, "assertion", "end")}
    for body in half_a_letter(question, member):
        for path, part in (
            ("/v1/assertion", app),
            ("/v1/installation", app),
            ("/v1/seal", sealing),
        ):
            status, _, said = ask(part, "POST", path, body)
            assert (status, said) == (400, b'{"error": "invalid_request"}'), path


def test_no_exception_at_any_line_of_minting_or_sealing_lets_a_secret_out(  # noqa: PLR0917
    minting, installations, house, said, tmp_path, capfd
):
    app, key = minting
    private = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    page = redirect.create_app(installations, ec.generate_private_key(ec.SECP256R1()))
    back = "https://home.example.org/connect/callback"
    mark = "h" * 43

    def seal():
        question = {"return_to": back, "state_hash": mark, **signed(house, "seal", back, mark)}
        return ask(page, "POST", "/v1/seal", json.dumps(question).encode())

    def landing():
        scope_query = f"/r?code={CODE}".encode()
        return ask(page, "GET", "/r", scope_query)

    def check(answer, where):
        if answer is not None and answer[0] != 200:
            assert set(json.loads(answer[2])) == {"error"}, where

    generous = dict.fromkeys(("seal", "assertion", "token", "code"), 10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lighthouse.installations.QUOTAS", generous)
        assert sweep(lambda: mint(app, house), check) > 40
        assert sweep(seal, check) > 40
        assert sweep(landing, check) > 5
    _nothing_leaked(said, capfd, tmp_path)
    assert private.splitlines()[1] not in said.getvalue()


# ------------------------------------------------------------------------- the redirect page


@pytest.mark.parametrize(
    ("address", "fits"),
    [
        ("https://home.example.org/phr/connect/callback", True),
        ("http://192.168.1.5:8080/connect/callback", True),
        ("http://phr.lan:8080/connect/callback", True),
        ("http://localhost:8080/connect/callback", True),
        ("http://phr.example.org/connect/callback", False),
        ("http://8.8.8.8/connect/callback", False),
        ("https://home.example.org/connect/callback?x=1", False),
        ("https://home.example.org/connect/callback#x", False),
        ("https://a@home.example.org/connect/callback", False),
        ("https://home.example.org/elsewhere", False),
        ("javascript:alert(1)//connect/callback", False),
        ("https://home.example.org\\@evil/connect/callback", False),
        ("https:///connect/callback", False),
        ("//evil/connect/callback", False),
    ],
)
def test_only_an_address_that_can_be_a_home_is_sealed(address, fits):
    assert redirect.is_home(address) is fits


def test_the_page_is_static_whatever_the_query_says(installations):
    app = redirect.create_app(installations, ec.generate_private_key(ec.SECP256R1()))
    with serving(app) as url:
        pages = [httpx.get(url + "/r" + query) for query in ("", f"?code={CODE}&state=x")]
    assert pages[0].content == pages[1].content
    headers = pages[0].headers
    assert headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert CODE.encode() not in pages[1].content


# ------------------------------------------------------------------------- with a real appliance


HOST = "fhir.lakeside-health.org"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for the vendor's name: TLS contexts for its server and for who asks it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = clock.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + made.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    asking = ssl.create_default_context(cadata=made.public_bytes(Encoding.PEM).decode())
    return server, asking


def at_home(_, port):
    """Resolve every name to this machine."""
    return [(socket.AF_INET, ("127.0.0.1", port))]


@pytest.fixture
def world(cast, installations, raw_server, certificate, tmp_path):
    """A lighthouse with its three parts, a vendor, and Ada's appliance that knows both."""
    stack = []

    def build(row, via):
        vendor = Vendor(row, host=HOST)
        vendor.server = raw_server(vendor.reply)
        vendor.server.tls, asking = certificate
        signing = assertions.SigningKey("k1", rsa.generate_private_key(65537, 2048))
        sealing = ec.generate_private_key(ec.SECP256R1())
        targets = {}
        guard = net.Guard(frozenset({(HOST, vendor.server.port)}), at_home, asking)
        parts = {
            "redirect": redirect.create_app(installations, sealing),
            "assertions": assertions.create_app(installations, targets, {CLIENT: signing}),
            "proxy": proxy.create_app(
                installations, targets, {CLIENT: proxy.Secret(SECRET)}, guard
            ),
        }
        services = {}
        for name, app in parts.items():
            running = serving(app)
            services[name] = running.__enter__()
            stack.append(running)
        vendor.redirect_uri = services["redirect"] + "/r"
        vendor.keys = lambda: {"keys": [signing.public_jwk()]}
        client = {"id": CLIENT, "via": via, "redirect_uri": vendor.redirect_uri}
        publisher, now = fixtures_lighthouse.of_today(tmp_path / "published")
        end = fixtures_lighthouse.endpoint(vendor.base, vendor.token_url, vendor=row.vendor)
        one = fixtures_lighthouse.organization(1, "Lakeside Health", end)
        vendors = {row.vendor: {**profile(row.vendor), "client": client}}
        publisher.publish([one], at=now, vendors=vendors, services=services)
        shelf = Shelf(tmp_path / "operator")
        shelf.take("own", publisher.fetch, publisher.trust, now=now)
        targets |= assertions.targets_of(shelf.load("own").content)
        appliance = cast.appliance
        appliance.http.close()
        appliance.http = Http(Guard(resolver=at_home), tls=asking)
        for url in (vendor.url, *services.values()):
            appliance.http.guard.allow(urlsplit(url).netloc)
        known = Lighthouse("main", "http://127.0.0.1:9", publisher.trust.roots)
        appliance._catalogue = Catalogue(tmp_path / "catalogue", [known])
        appliance.catalogue.apply(publisher.folder, now)
        browser = partial(vendor_says, port=vendor.server.port)
        return SimpleNamespace(
            vendor=vendor, services=services, organization=one.id, end=end.id, browser=browser
        )

    yield build
    for running in stack:
        running.__exit__(None, None, None)


def sign_in(ada, here, made, **form):
    """Walk from the page to the vendor; return where the vendor sends the browser."""
    place = f"{here}/{made.organization}"
    answer = ada.submit(f"{place}/{made.end}", form, page=place)
    assert answer.status_code == 303, answer.text
    leaving = ada.get(answer.headers["location"]).text
    link = leaving.partition(f'href="{made.vendor.url}/oauth2/authorize')[2].partition('"')[0]
    url = f"{made.vendor.url}/oauth2/authorize{link}".replace("&amp;", "&")
    location = made.browser(url)
    assert location, made.vendor.problems
    return location


def vendor_says(url, *, port):
    """Open the vendor's address as a browser whose network knows its name."""
    direct = url.replace(f"https://{HOST}:{port}", f"https://127.0.0.1:{port}")
    answer = httpx.get(direct, verify=False)  # noqa: S501 - who it is was checked by the appliance
    return answer.headers.get("location")


def home_of(back, services):
    """Do what the script of the redirect page does, and return the parameters it hands over."""
    assert back.startswith(services["redirect"] + "/r?")
    given = dict(parse_qsl(urlsplit(back).query))
    mark, _, seal = given["state"].partition("~")
    body = seal.partition(".")[0]
    told = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    digest = base64.urlsafe_b64encode(hashlib.sha256(mark.encode()).digest()).rstrip(b"=").decode()
    assert told["h"] == digest
    assert told["to"] == "http://127.0.0.1:8080/connect/callback"
    return given


@pytest.mark.parametrize(
    ("row", "via", "words"),
    [
        (Row("athenahealth"), "redirect", "which only this Homeport can use"),
        (
            Row("MeldRx", auth="jwt", aud="no_slash"),
            "mint",
            "which hospital this Homeport signs in",
        ),
        (Row("Quest", auth="basic", aud="absent"), "pass", "The keys to your record pass through"),
    ],
    ids=["redirect", "mint", "pass"],
)
def test_a_lighthouse_helps_after_its_words_were_agreed_to(  # noqa: PLR0917
    cast, world, said, tmp_path, capfd, row, via, words
):
    made = world(row, via)
    ada, here = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/find"
    page = ada.get(f"{here}/{made.organization}").text
    assert words in page
    assert "With your own registration" in page
    place = f"{here}/{made.organization}"
    refused = ada.submit(f"{place}/{made.end}", {"way": "lighthouse"}, page=place)
    assert refused.status_code == 422
    assert "tick that you agree" in refused.text
    back = sign_in(ada, here, made, way="lighthouse", agreed="1")
    landed = ada.get("/connect/callback", params=home_of(back, made.services))
    assert landed.status_code == 303, landed.text
    assert made.vendor.problems == []
    vault = cast.vault("Ada")
    with vault.read() as session:
        kept = dict(connections.get(session, 1).credentials)
        shown = ada.get(landed.headers["location"]).text
    renew(cast, made.vendor)
    secrets = [kept["access_token"], kept["refresh_token"], *made.vendor.access]
    out, err = capfd.readouterr()
    files = [p.read_bytes() for p in (tmp_path / "operator").rglob("*") if p.is_file()]
    files += [p.read_bytes() for p in tmp_path.glob("installations.db*")]
    metrics = httpx.get(made.services["proxy"] + "/metrics").content
    for one in secrets:
        assert one not in said.getvalue() + out + err
        assert not [data for data in [*files, metrics] if one.encode() in data]
    if via == "pass":
        assert "passes its keys through" in shown


def renew(cast, vendor):
    """The access token is forgotten at the vendor: one renewal, through the same help."""
    from phr import pull

    vendor.access = set()
    vault = cast.vault("Ada")
    pull.run(vault, 1, http=cast.appliance.http, now=clock.now())
    assert vendor.renewals == 1
    assert vendor.problems == []
    with vault.read() as session:
        assert connections.get(session, 1).state == ConnectionState.ACTIVE


def test_an_own_registration_may_come_back_through_the_redirect_page(cast, world):
    made = world(Row("athenahealth"), "redirect")
    ada, here = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/find"
    form = {"way": "id", "client_id": CLIENT, "back": "lighthouse", "agreed": "1"}
    back = sign_in(ada, here, made, **form)
    landed = ada.get("/connect/callback", params=home_of(back, made.services))
    assert landed.status_code == 303
    assert made.vendor.problems == []


def test_each_lighthouse_knows_this_house_by_another_key(cast):
    from phr import connect

    house = cast.appliance.house
    first, again = connect._installation(house, "one"), connect._installation(house, "one")
    other = connect._installation(house, "two")
    assert first == again
    assert first["x"] != other["x"]


# ------------------------------------------------------------------------- the appliance's side


@pytest.fixture
def to_lighthouse(raw_server):
    """Return a function that gives an Http and a Help towards a lighthouse of fixed bytes."""
    made = []

    def start(reply, kind=beacon.PASSES):
        server = raw_server(reply)
        made.append(Http(Guard([server.place])))
        return made[-1], Help(kind, server.url, "end", jwt.new_key("EdDSA")), server

    yield start
    for one in made:
        one.close()


def awake_then(answer):
    def reply(request, channel):
        channel.sendall(plain(b"ok") if request.startswith(b"GET /healthz") else answer)

    return reply


def test_what_was_not_touched_may_be_tried_again_and_everything_else_counts_as_lost(to_lighthouse):
    untouched = plain(b"{}", "503 Later", "homeport-upstream: untouched")
    http, aid, _ = to_lighthouse(awake_then(untouched))
    with pytest.raises(TryLater):
        beacon.passed_on(http, aid, b"grant_type=refresh_token&refresh_token=a")
    for answer in (plain(b"<html>", "502 Bad Gateway"), plain(TOKENS), plain(b"", "500 Oops")):
        http, aid, server = to_lighthouse(awake_then(answer))
        with pytest.raises(Unreachable):
            beacon.passed_on(http, aid, b"grant_type=refresh_token&refresh_token=a")
        assert len(server.requests) == 2, "the look whether it is awake, and the one question"


def test_a_lighthouse_that_sleeps_is_not_trusted_with_a_token(to_lighthouse):
    http, aid, server = to_lighthouse(plain(b"<html>", "502 Bad Gateway"))
    with pytest.raises(TryLater):
        beacon.passed_on(http, aid, b"grant_type=refresh_token&refresh_token=a")
    assert len(server.requests) == 1
    assert b"refresh_token" not in server.requests[0]


@pytest.mark.parametrize(
    "answer",
    [
        plain(b"<html>"),
        plain(b"[]"),
        plain(b"{}"),
        plain(b'{"client_assertion": 5}'),
        plain(b'{"client_assertion": "a b"}'),
        plain(b'{"client_assertion": "a&client_secret=x"}'),
        plain(b"", "429 Too Many Requests"),
    ],
)
def test_a_lighthouse_that_signs_nonsense_is_told_to_wait(to_lighthouse, answer):
    http, aid, _ = to_lighthouse(answer, beacon.SIGNS)
    with pytest.raises(TryLater):
        beacon.minted(http, aid)


def test_secrets_that_others_can_read_are_refused(tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({CLIENT: {"secret": HIDDEN, "auth": "post"}}))
    path.chmod(0o644)
    with pytest.raises(click.ClickException, match="chmod 600"):
        proxy.read_secrets(path)
    path.chmod(0o600)
    assert proxy.read_secrets(path)[CLIENT].auth == "post"
    assert HIDDEN not in repr(proxy.read_secrets(path))


def starting(part, tmp_path, **files):
    """Start a part as a shell does, up to where it would serve; return how that ended."""
    words = ["--installations", str(tmp_path / "installations.db")]
    for name, path in files.items():
        words += [f"--{name}", str(path)]
    if part is not redirect:
        words += ["--snapshot", str(tmp_path), "--root", "A" * 43, "--shelf", str(tmp_path / "s")]
    return CliRunner().invoke(part.main, words)


PARTS = [(redirect, "key"), (assertions, "keys"), (proxy, "secrets")]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
@pytest.mark.parametrize(("part", "option"), PARTS)
def test_a_part_does_not_start_with_a_file_that_others_can_read(tmp_path, part, option, mode):
    path = tmp_path / "kept"
    path.write_text(HIDDEN)
    path.chmod(mode)
    ended = starting(part, tmp_path, **{option: path})
    assert ended.exit_code == 1
    assert ended.output == "Error: kept holds secrets and can be read by others: chmod 600 it.\n"


@pytest.mark.parametrize("held", [HIDDEN, "[]", '{"a": "b"}', '{"a": {"kid": "k", "pem": "x"}}'])
@pytest.mark.parametrize(("part", "option"), PARTS)
def test_a_file_that_holds_something_else_is_said_without_its_words(tmp_path, part, option, held):
    path = tmp_path / "kept"
    path.write_text(held)
    path.chmod(0o600)
    ended = starting(part, tmp_path, **{option: path})
    assert ended.exit_code == 1
    assert ended.output.startswith("Error: kept does not hold ")
    assert HIDDEN not in ended.output


def test_a_key_too_weak_to_be_believed_and_a_snapshot_that_is_none_are_sentences(tmp_path):
    weak = ec.generate_private_key(ec.SECP256R1())
    pem = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = tmp_path / "kept"
    path.write_text(json.dumps({CLIENT: {"kid": "k", "pem": pem}}))
    path.chmod(0o600)
    ended = starting(assertions, tmp_path, keys=path)
    assert f"The key of {CLIENT} is neither RSA" in ended.output
    path.write_text(json.dumps({CLIENT: {"secret": HIDDEN}}))
    ended = starting(proxy, tmp_path, secrets=path)
    assert ended.exit_code == 1
    assert ended.output.startswith("Error: The snapshot was not taken.")


# ------------------------------------------------------------------------- newcomers


def newcomer(installations, network, now):
    key = jwt.new_key("EdDSA")
    question = {"key": key["x"], **signed(key, "installation", key["x"])}
    try:
        installations.register(question, network=network, now=now)
    except Told as refusal:
        return refusal.status
    return 201


def test_newcomers_are_counted_in_the_file_that_all_parts_and_the_next_start_share(tmp_path):
    now = clock.now()
    one, two = Installations(tmp_path / "i.db"), Installations(tmp_path / "i.db")
    seen = [newcomer(kept, "203.0.113.0/24", now) for kept in (one, two) * 5]
    assert seen == [201] * NEWCOMERS
    assert newcomer(two, "203.0.113.0/24", now) == 429
    one.close()
    two.close()
    again = Installations(tmp_path / "i.db")
    assert newcomer(again, "203.0.113.0/24", now) == 429, "a restart forgets nothing"
    assert newcomer(again, "198.51.100.0/24", now) == 201
    again.close()


def test_a_network_is_forgotten_when_its_hour_is_over(installations, monkeypatch):
    now = clock.now()
    assert newcomer(installations, "203.0.113.0/24", now) == 201
    later = now + timedelta(hours=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert newcomer(installations, "198.51.100.0/24", later) == 201
    kept = installations._db.execute("SELECT network, count FROM newcomer").fetchall()
    assert kept == [("198.51.100.0/24", 1)]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("2001:db8:1:22ff::5", "2001:db8:1:2200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("unknown", "unknown"),
        ("", "unknown"),
    ],
)
def test_newcomers_are_counted_by_the_network_of_a_household(address, network):
    assert network_of(address) == network


# ------------------------------------------------------------------------- the specification


def test_the_specification_says_the_numbers_and_ports_that_are_in_force():
    docs = Path(__file__).parents[2] / "docs"
    spec = " ".join((docs / "lighthouse-spec.md").read_text(encoding="utf-8").split())
    shell = (docs / "cli.md").read_text(encoding="utf-8")
    for what, most in QUOTAS.items():
        assert re.search(rf"`{what}` (?:\([^)]*\) )?{most}\b", spec), what
    assert f"At most {NEWCOMERS} new keys an hour" in spec
    for part in (redirect, assertions, proxy):
        name = part.__name__.rpartition(".")[2]
        port = next(one.default for one in part.main.params if one.name == "port")
        assert f"`python -m lighthouse.{name}` | {port} |" in spec
        assert f"{port} ({name})" in shell
    for member in (*FIELDS["authorization_code"], *FIELDS["refresh_token"]):
        assert f"`{member}" in spec
    for member in (*redirect.PARAMETERS, *assertions.PARAMETERS):
        assert f"`{member}`" in spec
