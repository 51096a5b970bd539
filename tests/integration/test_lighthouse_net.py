"""The lighthouse asks nobody it must not ask: judged at the socket, not by what we say."""

import gzip
import json
import socket
import ssl
import threading
import zlib

import pytest

from lighthouse import net, repair
from tests.corpus import corpus
from tests.fakes.list_server import Said

PRIVATE = ["10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "::1",
           "fd00::1", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "0.0.0.1"]  # fmt: skip


def leads_to(*addresses):
    """A resolver that gives these addresses, one list a call, the last one again and again."""
    calls = []

    def resolve(host, port):
        calls.append(host)
        found = addresses[min(len(calls), len(addresses)) - 1]
        kind = socket.AF_INET6 if ":" in found else socket.AF_INET
        return [(kind, (found, port))]

    resolve.calls = calls
    return resolve


@pytest.mark.corpus
def test_no_refused_address_of_any_published_list_is_ever_requested(watched):
    lines = (corpus() / "lighthouse" / "weird.ndjson").read_text().splitlines()
    nowhere = net.Guard(resolve=leads_to("10.0.0.1"))
    refused = [url for line in lines if repair.address(url := json.loads(line)["url"]).refused]
    assert len(refused) > 100

    for url in refused:
        if not repair.address(url).defects & {"U-is-a-document", "U-points-at-resource"}:
            with pytest.raises(net.Refused):
                net.ask("GET", url, nowhere)

    assert watched == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/r4", "https://10.1.2.3/fhir", "https://2130706433/", "https://0x7f.1/",
        "https://127.1/", "https://[::1]/", "https://localhost/", "https://host.local/",
        "https://INSCMQAES51/FHIR", "https://user@example.org/", "https://example.org:0/",
        "https://a.example.org\\@10.0.0.1/", "https://127.0.0.1\t.example.org/",
        "ftp://example.org/", "file:///etc/passwd", "https:///x", "https://ex\u00e4mple.org/", "",
        "https://x/" + "a" * 3000,
    ],
)  # fmt: skip
def test_address_that_must_not_be_asked_is_refused_before_its_name_is_looked_up(url, watched):
    resolve = leads_to("93.184.216.34")

    with pytest.raises(net.Refused):
        net.ask("GET", url, net.Guard(resolve=resolve))

    assert (resolve.calls, watched) == ([], [])


@pytest.mark.parametrize("address", PRIVATE)
def test_name_that_leads_into_a_private_network_is_refused(address, watched):
    with pytest.raises(net.Refused):
        net.ask("GET", "https://fhir.example.org/r4", net.Guard(resolve=leads_to(address)))

    assert watched == []


def test_one_private_address_among_public_ones_refuses_the_name():
    def resolve(_host, port):
        return [(socket.AF_INET, (a, port)) for a in ("93.184.216.34", "10.0.0.1")]

    with pytest.raises(net.Refused):
        net.Guard(resolve=resolve).check(net.place("https://fhir.example.org/r4"))


def test_name_is_looked_up_once_so_that_a_second_answer_can_do_nothing(list_server):
    list_server.answers["/r4"] = Said(b"{}")
    resolve = leads_to("127.0.0.1", "169.254.169.254")
    guard = net.Guard(frozenset({("fhir.test", list_server.port)}), resolve)

    answer = net.ask("GET", f"http://fhir.test:{list_server.port}/r4", guard)

    assert answer.status == 200
    assert resolve.calls == ["fhir.test"]
    assert list_server.asked[0][1]["host"] == f"fhir.test:{list_server.port}"


def test_allowing_one_private_server_allows_no_other_port(list_server):
    guard = net.Guard(list_server.allowed)

    with pytest.raises(net.Refused):
        net.ask("GET", f"http://127.0.0.1:{list_server.port + 1}/", guard)


def test_redirect_to_another_host_is_refused_and_never_followed(list_server, watched):
    list_server.answers["/list"] = Said(b"", 302, {"Location": "https://evil.example.org/list"})

    with pytest.raises(net.Refused, match="another host"):
        net.ask("GET", list_server.url("/list"), net.Guard(list_server.allowed), hops=3)

    dialled = [where for event, where in watched if event == "socket.connect"]
    assert dialled == [("127.0.0.1", list_server.port)]


def test_redirect_on_the_same_host_is_followed_so_far_and_no_further(list_server):
    list_server.answers["/a"] = Said(b"", 302, {"Location": "/b"})
    list_server.answers["/b"] = Said(b"here")
    list_server.answers["/loop"] = Said(b"", 307, {"Location": "/loop"})
    guard = net.Guard(list_server.allowed)

    assert net.ask("GET", list_server.url("/a"), guard, hops=1).body == b"here"
    assert net.ask("GET", list_server.url("/b"), guard).body == b"here"
    with pytest.raises(net.Unanswered):
        net.ask("GET", list_server.url("/loop"), guard, hops=3)


@pytest.mark.parametrize(
    "said",
    [
        Said(b"x" * 2000),
        Said(gzip.compress(b"x" * 10_000_000), headers={"Content-Encoding": "gzip"}),
        Said(zlib.compress(b"no gzip"), headers={"Content-Encoding": "gzip"}),
        Said(b"short", headers={"Content-Length": "50"}),
        Said(b"", headers={f"X-{n}": "y" for n in range(200)}),
    ],
    ids=["too long", "a bomb", "no gzip", "cut off", "too many headers"],
)
def test_answer_out_of_bounds_is_no_answer(list_server, said):
    list_server.answers["/list"] = said

    with pytest.raises(net.Unanswered):
        net.ask("GET", list_server.url("/list"), net.Guard(list_server.allowed), limit=1000)


def test_answer_that_drips_is_cut_off(list_server):
    enough = threading.Event()
    list_server.answers["/list"] = Said(slowly=enough)

    try:
        with pytest.raises(net.Unanswered, match="too long"):
            net.ask("GET", list_server.url("/list"), net.Guard(list_server.allowed), seconds=0.3)
    finally:
        enough.set()


def test_packed_answer_is_unpacked(list_server):
    list_server.answers["/list"] = Said(gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})

    assert net.ask("GET", list_server.url("/list"), net.Guard(list_server.allowed)).body == b"{}"


def test_nobody_there_is_no_answer():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(net.Unanswered):
            net.ask("GET", f"http://127.0.0.1:{port}/", net.Guard(frozenset({("127.0.0.1", port)})))


def test_server_without_a_good_certificate_gets_no_request(list_server):
    guard = net.Guard(list_server.allowed)

    with pytest.raises(net.Unanswered):
        net.ask("GET", f"https://127.0.0.1:{list_server.port}/", guard)

    assert list_server.asked == []
    assert guard.tls.verify_mode == ssl.CERT_REQUIRED
    assert guard.tls.check_hostname


def test_name_that_nobody_knows_is_no_answer():
    with pytest.raises(net.Unanswered):
        net.Guard(resolve=lambda _host, _port: []).check(net.place("https://fhir.example.org/"))
    with pytest.raises(net.Unanswered):
        net.resolve("no-such-name.invalid", 443)
