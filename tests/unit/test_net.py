"""The address guard: spec/security.md e A1-A14."""

import socket

import pytest

from phr.errors import AddressRefused
from phr.net import Guard, NotSent, is_public, join, parse, resolve

PUBLIC = "93.184.215.14"

REFUSED_BY_TEXT = [
    "http://127.0.0.1",
    "https://127.0.0.1",
    "https://localhost",
    "https://LOCALHOST:8443",
    "https://a.localhost",
    "https://[::1]",
    "https://0.0.0.0",
    "https://[::]",
    "https://2130706433",
    "https://0x7f.1",
    "https://0x7f000001",
    "https://127.1",
    "https://0177.0.0.1",
    "https://127.0.0.01",
    "https://1.2.3.4.5",
    "https://256.1.1.1",
    "https://\uff11\uff12\uff17.0.0.1",
    "https://\u2460\u2461\u2466.0.0.1",
    "https://10.0.0.1",
    "https://172.16.0.1",
    "https://172.31.255.255",
    "https://192.168.1.1",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1",
    "https://192.0.0.8",
    "https://192.88.99.1",
    "https://198.18.0.1",
    "https://198.51.100.1",
    "https://203.0.113.1",
    "https://224.0.0.1",
    "https://240.0.0.1",
    "https://255.255.255.255",
    "https://[fe80::1%25eth0]",
    "https://[fe80::1]",
    "https://[fc00::1]",
    "https://[fec0::1]",
    "https://[ff02::1]",
    "https://[::ffff:127.0.0.1]",
    "https://[::ffff:8.8.8.8]",
    "https://[::127.0.0.1]",
    "https://[64:ff9b::7f00:1]",
    "https://[64:ff9b:1::1]",
    "https://[2002:7f00:1::]",
    "https://[2001:0:1::1]",
    "https://[2001:db8::1]",
    "https://[100::1]",
    "https://[3fff::1]",
    "https://[::1",
    "https://[zz]",
    "http://ehr.example.org/fhir",
    "ftp://ehr.example.org",
    "file:///etc/passwd",
    "gopher://ehr.example.org",
    "javascript:alert(1)",
    "//ehr.example.org/fhir",
    "ehr.example.org/fhir",
    "https:ehr.example.org",
    "https:///fhir",
    "https://",
    "",
    "https://ehr.example.org@evil.example/",
    "https://user:pass@ehr.example.org/",
    "https://ehr.example.org/#part",
    "https://ehr.example.org/\\evil",
    "https://ehr.example.org\\@evil.example",
    "https://ehr.example.org/a\r\nHost: evil",
    "https://ehr.example.org/\x00",
    "https://ehr.example.org/a b",
    "https://ehr\t.example.org/",
    "https://ehr.example.org:0/",
    "https://ehr.example.org:65536/",
    "https://ehr.example.org:x/",
    "https://ehr.example.org:/",
    "https://ehr.example.org./",
    "https://.example.org/",
    "https://ehr..example.org/",
    "https://-ehr.example.org/",
    "https://ehr%2eexample.org/",
    "https://b\u00fccher.example/",
    "https://ehr.example.org/fhir/../admin",
    "https://ehr.example.org/fhir/%2e%2e/admin",
    "https://ehr.example.org/fhir/%2e./admin",
    "https://ehr.example.org/fhir%2f..%2fadmin",
    "https://ehr.example.org/" + "a" * 10_000,
]


def nobody_asks(host: str, port: int) -> list:
    pytest.fail(f"the resolver was asked for {host}:{port}")


@pytest.mark.parametrize("url", REFUSED_BY_TEXT)
def test_refused_by_its_text_alone_before_any_packet(url):
    with pytest.raises(AddressRefused):
        Guard(resolver=nobody_asks).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://ehr.example.org",
        "https://EHR.example.org/FHIR/R4/",
        "https://ehr.example.org:8443/fhir?category=http://x|laboratory",
        "https://ehr.example.org//api/oidc/auth",
        "https://xn--bcher-kva.example/",
        "https://a_b.example.org/",
        f"https://{PUBLIC}/fhir",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/fhir",
    ],
)
def test_ordinary_https_addresses_pass(url):
    place = Guard(resolver=nobody_asks).check(url)
    assert place.scheme == "https"
    assert place.host == place.host.lower()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "::1",
        "::ffff:8.8.8.8",
        "fe80::1%eth0",
        "2606:4700::1%eth0",
        "x",
    ],
)
def test_closed_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111"])
def test_open_addresses_are_public(address):
    assert is_public(address)


def answers(*addresses: str):
    return lambda _host, port: [(socket.AF_INET, (address, port)) for address in addresses]


def test_public_name_with_a_private_answer_is_refused():
    with pytest.raises(AddressRefused):
        Guard(resolver=answers("192.168.1.5")).dial("ehr.example.org", 443, 1)


def test_one_private_answer_among_public_ones_refuses_all():
    with pytest.raises(AddressRefused):
        Guard(resolver=answers(PUBLIC, "127.0.0.1")).dial("ehr.example.org", 443, 1)


def test_rebinding_finds_no_second_resolution(raw_server):
    server = raw_server(b"")
    asked = []

    def rebinding(host, port):
        asked.append(host)
        return [(socket.AF_INET, ("127.0.0.1" if len(asked) == 1 else "10.0.0.1", port))]

    guard = Guard([f"ehr.lan:{server.port}"], resolver=rebinding)
    guard.dial("ehr.lan", server.port, 1).close()
    assert asked == ["ehr.lan"]


def test_allowed_private_server_may_use_http_but_only_on_its_port():
    guard = Guard(["FHIR.lan:8080"], resolver=nobody_asks)
    assert guard.check("http://fhir.lan:8080/r4").path == "/r4"
    for other in ("http://fhir.lan:8081/r4", "http://fhir.lan/r4", "http://x.fhir.lan:8080"):
        with pytest.raises(AddressRefused):
            guard.check(other)


def test_a_name_without_answer_was_never_contacted():
    with pytest.raises(NotSent):
        Guard(resolver=lambda *_: []).dial("ehr.example.org", 443, 1)


def test_a_name_that_cannot_be_looked_up_was_never_contacted():
    with pytest.raises(NotSent, match=r"ehr\.\.example"):
        resolve("ehr..example", 443)


def test_without_time_left_nobody_is_called():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(NotSent):
            Guard([f"127.0.0.1:{port}"]).dial("127.0.0.1", port, 0)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


NO_PLACES = [
    "fhir.lan",
    "fhir.lan:0",
    "fhir.lan:99999",
    "a b:80",
    ":80",
    "[::g]:80",
    "[fe80::1%1]:80",
]


@pytest.mark.parametrize("text", NO_PLACES)
def test_allowed_list_wants_host_and_port(text):
    with pytest.raises(AddressRefused):
        Guard([text])


BASE = parse("https://ehr.example.org/fhir/r4")


@pytest.mark.parametrize(
    "url",
    [
        "https://ehr.example.org/fhir/r4",
        "https://ehr.example.org:443/fhir/r4/Observation?x=1",
        "https://EHR.EXAMPLE.ORG/fhir/r4?_getpages=1",
    ],
)
def test_within_the_connection(url):
    assert parse(url).within(BASE)


@pytest.mark.parametrize(
    "url",
    [
        "https://ehr.example.org.evil.example/fhir/r4/x",
        "https://ehr.example.org:8443/fhir/r4/x",
        "http://ehr.example.org/fhir/r4/x",
        "https://ehr.example.org/fhir/r40/x",
        "https://ehr.example.org/fhir",
        "https://ehr.example.org/FHIR/R4/x",
        "https://evil.example/fhir/r4/x",
    ],
)
def test_outside_of_the_connection(url):
    assert not parse(url).within(BASE)


@pytest.mark.parametrize("link", ["//evil.example/x", "javascript:alert(1)", "../admin", "a\nb"])
def test_hostile_links_lead_nowhere_inside(link):
    try:
        place = join(parse("https://ehr.example.org/fhir/r4/Observation"), link)
    except AddressRefused:
        return
    assert not place.within(BASE)


def test_relative_links_are_read_against_their_page():
    page = parse("https://ehr.example.org/fhir/r4/Observation?patient=1")
    assert join(page, "?page=2").url == "https://ehr.example.org/fhir/r4/Observation?page=2"


def test_what_is_signed_itself_may_be_asked_for_by_http_on_its_own_port_only():
    guard = Guard()
    assert guard.check("http://crl.example.org/ca.crl", plain=True).port == 80
    private = [
        url.replace("https://", "http://", 1)
        for url in REFUSED_BY_TEXT
        if url.startswith("https://")
    ]
    for url in ("http://crl.example.org:8080/", *private):
        with pytest.raises(AddressRefused):
            guard.check(url, plain=True)
    with pytest.raises(AddressRefused, match="must be reached by https"):
        guard.check("http://crl.example.org/ca.crl")
