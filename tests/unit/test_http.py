"""Outgoing HTTP: spec/security.md e A8-A18 against a raw loopback server."""

import gzip
import resource
import socket
import ssl
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from phr import http as outgoing
from phr.errors import AddressRefused, AnswerRefused, Unreachable
from phr.http import Http, Limits, TooLarge
from phr.net import Guard, NotSent
from tests.fixtures_net import plain

QUICK = Limits(size=1 << 20, connect=2, first_byte=0.6, idle=0.6, total=1.2, rate=2000, grace=0.2)


@pytest.fixture
def client(raw_server):
    made = []

    def start(reply, limits=QUICK):
        server = raw_server(reply)
        made.append(Http(Guard([server.place]), limits=limits))
        return server, made[-1]

    yield start
    for http in made:
        http.close()


def test_a_plain_answer_comes_back_whole(client):
    body = b'{"value": 1.10}'
    server, http = client(
        plain(body, "200 OK", "Content-Type: Application/FHIR+json; charset=utf-8")
    )
    answer = http.get(server.url + "/fhir")
    assert (answer.status, answer.body) == (200, body)
    assert answer.media_type == "application/fhir+json"


def test_bearer_goes_only_to_its_own_origin(client, raw_server):
    server, http = client(plain(b"{}"))
    foreign = raw_server(plain(b"{}"))
    http.guard.allow(foreign.place)
    http.get(server.url + "/fhir/Patient/1", bearer="t0ken", origin=server.url + "/fhir")
    assert b"authorization: bearer t0ken" in server.requests[0].lower()
    for url in (foreign.url + "/fhir/x", server.url + "/fhirx", server.url + "/other"):
        with pytest.raises(AddressRefused):
            http.get(url, bearer="t0ken", origin=server.url + "/fhir")
    assert foreign.requests == []
    assert len(server.requests) == 1


def test_a_deletion_goes_out_once_with_its_token_and_only_at_home(client):
    server, http = client(plain(b"", "204 No Content"))
    own = {"bearer": "t0ken", "origin": server.url + "/register", "limits": QUICK}
    assert http.delete(server.url + "/register/7", **own).status == 204
    with pytest.raises(AddressRefused):
        http.delete(server.url + "/other/7", **own)
    (request,) = server.requests
    assert request.startswith(b"DELETE /register/7 ")
    assert b"authorization: bearer t0ken" in request.lower()


def test_bearer_without_an_origin_is_a_programming_error(client):
    server, http = client(plain(b"{}"))
    with pytest.raises(ValueError, match="origin"):
        http.get(server.url, bearer="t0ken")


def test_a_bearer_never_goes_out_by_plain_http(client):
    _, http = client(plain(b"{}"))
    away = "http://crl.example.org/"
    with pytest.raises(AddressRefused, match="must be reached by https"):
        http.get(away, bearer="secret-token", origin=away, plain=True)


def test_nothing_of_the_last_request_is_remembered(client):
    server, http = client(plain(b"{}", "200 OK", "Set-Cookie: who=juniper; Path=/"))
    http.get(server.url, bearer="t0ken", origin=server.url)
    http.get(server.url)
    assert b"cookie" not in server.requests[1].lower()
    assert b"t0ken" not in server.requests[1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://192.168.0.1/x", "file:///etc/passwd", "/login"])
def test_redirects_are_not_followed_and_named(client, status, target):
    server, http = client(plain(b"", f"{status} Moved", f"Location: {target}"))
    with pytest.raises(AnswerRefused, match="does not follow") as refused:
        http.get(server.url)
    assert len(server.requests) == 1
    if "192" in target:
        assert "192.168.0.1" in refused.value.sentence


def test_proxies_from_the_environment_are_ignored(client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server, http = client(plain(b"ok"))
    assert http.get(server.url).body == b"ok"


def encoded(body: bytes, encoding: str) -> bytes:
    return plain(body, "200 OK", f"Content-Encoding: {encoding}")


def test_ordinary_gzip_is_unpacked(client):
    body = b'{"resourceType":"Bundle"}' * 2000
    server, http = client(encoded(gzip.compress(body), "gzip"))
    assert http.get(server.url).body == body


def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (bomb(), "gzip"),
        (gzip.compress(bomb()), "gzip, gzip"),
        (zlib.compress(bytes(1 << 20)), "deflate"),
        (b"\x00", "br"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"not gzip at all", "gzip"),
        (gzip.compress(b"a") + gzip.compress(b"b"), "gzip"),
        (gzip.compress(b"a") + b"trailing", "gzip"),
    ],
    ids=["bomb", "double", "deflate", "brotli", "zstd", "no gzip", "two members", "trailing"],
)
def test_bombs_and_odd_encodings_are_refused_with_flat_memory(client, body, encoding):
    server, http = client(encoded(body, encoding), Limits(size=64 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AnswerRefused):
        http.get(server.url)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024


def test_gzip_that_ends_early_is_a_broken_answer(client):
    body = gzip.compress(bytes(range(256)) * 100)[:-9]
    server, http = client(encoded(body, "gzip"))
    with pytest.raises(Unreachable):
        http.get(server.url)


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nX: " + "a" * (1 << 20) + "\r\n\r\n",
        "HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 100_000 + "\r\n",
        "this is not HTTP\r\n\r\n",
    ],
    ids=["negative", "twice", "text", "chunks", "huge header", "many headers", "no http"],
)
def test_lies_about_the_answer_drop_the_connection(client, head):
    server, http = client(head.encode())
    with pytest.raises((AnswerRefused, Unreachable)):
        http.get(server.url)


def test_content_length_too_long_is_a_broken_answer(client):
    server, http = client(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc")
    with pytest.raises(Unreachable):
        http.get(server.url)


def test_declared_giant_is_refused_without_reading_it(client):
    server, http = client(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\nabc")
    with pytest.raises(AnswerRefused, match="larger"):
        http.get(server.url)


def endless(piece: bytes, pause: float = 0.0, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n"):
    stop = threading.Event()

    def reply(_request: bytes, channel: socket.socket) -> None:
        channel.sendall(head)
        while not stop.wait(pause):
            channel.sendall(piece)

    return reply


def test_endless_body_stops_at_the_cap(client):
    server, http = client(endless(b"x" * 65536), Limits(size=4 << 20))
    with pytest.raises(AnswerRefused, match="larger"):
        http.get(server.url)


def test_a_wrapping_that_outgrows_its_body_stops_at_the_cap(client):
    """Each chunk of one byte costs six on the line: the body alone would be small enough."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server, http = client(head + b"1\r\nx\r\n" * 28_000 + b"0\r\n\r\n", Limits(size=30_000))
    with pytest.raises(TooLarge):
        http.get(server.url)


def test_a_drip_of_bytes_is_cut_off(client):
    server, http = client(endless(b"x", 0.02))
    began = time.monotonic()
    with pytest.raises(AnswerRefused, match="slowly"):
        http.get(server.url)
    assert time.monotonic() - began < 2


def test_endless_interim_answers_are_cut_off(client):
    server, http = client(
        endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.0, b"HTTP/1.1 100 Continue\r\n\r\n")
    )
    with pytest.raises((AnswerRefused, Unreachable)):
        http.get(server.url)


def test_silence_frees_the_worker(client):
    silent = threading.Event()
    server, http = client(lambda _request, _channel: silent.wait(5))
    began = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        http.get(server.url)
    silent.set()
    assert time.monotonic() - began < 2


def test_a_reset_is_unreachable(client):
    def reset(_request: bytes, channel: socket.socket) -> None:
        channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    server, http = client(reset)
    with pytest.raises(Unreachable):
        http.get(server.url)


def test_a_closed_port_means_that_nothing_was_sent():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    http = Http(Guard([f"127.0.0.1:{port}"]))
    with pytest.raises(NotSent):
        http.post(f"http://127.0.0.1:{port}/token", {"grant_type": "refresh_token"})
    http.close()


def test_a_server_that_never_greets_back_was_told_nothing(raw_server):
    """It takes the connection, but not the TLS greeting: the request never left."""
    server = raw_server(b"")
    http = Http(Guard([server.place]), limits=Limits(connect=0.1))
    with pytest.raises(NotSent):
        http.post(f"https://{server.place}/token", {"grant_type": "refresh_token"})
    http.close()


def test_a_server_that_breaks_off_the_tls_greeting_was_told_nothing(raw_server):
    server = raw_server(plain(b"{}"))
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate to show
    http = Http(Guard([server.place]))
    with pytest.raises(NotSent, match="could not be reached"):
        http.post(f"https://{server.place}/token", {"refresh_token": "t0ken"})
    http.close()
    assert server.requests == []


def test_a_hang_up_without_a_word_is_asked_once_more_but_never_a_post(client):
    server, http = client(b"")
    with pytest.raises(Unreachable):
        http.post(server.url + "/token", {"refresh_token": "r"})
    assert server.connections == 1
    with pytest.raises(Unreachable):
        http.get(server.url + "/fhir")
    assert server.connections == 3


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sunday", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
        (None, None),
    ],
)
def test_the_servers_clock_is_read_or_unknown(client, sent, seconds):
    server, http = client(plain(b"{}", "200 OK", *([f"Date: {sent}"] if sent else [])))
    assert http.get(server.url).date == seconds


def test_each_post_uses_a_connection_of_its_own(client):
    server, http = client(plain(b"{}"))
    http.post(server.url, {"a": "1 2"})
    http.post(server.url, b"<x/>", headers={"content-type": "text/xml"})
    assert server.connections == 2
    assert server.requests[0].endswith(b"a=1+2")
    assert b"text/xml" in server.requests[1]


def self_signed(folder, name="127.0.0.1") -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_a_certificate_nobody_vouches_for_stops_before_sending(raw_server, tmp_path):
    server = raw_server(plain(b"secret page"))
    server.tls = self_signed(tmp_path)
    http = Http(Guard([server.place]))
    with pytest.raises(Unreachable, match="certificate"):
        http.get(f"https://{server.place}/")
    assert server.requests == []
    http.close()


def test_a_private_authority_can_be_trusted_explicitly(raw_server, tmp_path):
    server = raw_server(plain(b"page"))
    server.tls = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    http = Http(Guard([server.place]), tls=trusting)
    assert http.get(f"https://{server.place}/").body == b"page"
    http.close()


def test_certificates_are_remembered_up_to_a_number_and_renewed(raw_server, tmp_path, monkeypatch):
    monkeypatch.setattr(outgoing, "MOST_CERTIFICATES", 1)
    first, second = raw_server(plain(b"1")), raw_server(plain(b"2"))
    first.tls = second.tls = self_signed(tmp_path)
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    http = Http(Guard([first.place, second.place]), tls=trusting)
    assert http.get(f"https://{first.place}/").body == b"1"
    assert http.get(f"https://{second.place}/").body == b"2"
    shown = http.certificate(f"https://{first.place}/")
    assert shown is not None
    assert http.certificate(f"https://{second.place}/") is None

    first.tls = self_signed(tmp_path, "renewed")
    trusting.load_verify_locations(tmp_path / "cert.pem")
    http.post(f"https://{first.place}/", {})
    assert http.certificate(f"https://{first.place}/") not in {shown, None}
    http.close()
