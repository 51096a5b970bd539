"""The fault hospital does what its tests rely on: fixed bytes, real lies, a record of what came."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.fakes import forms
from tests.fakes import hospital as faults
from tests.fakes.hospital import Hospital


@pytest.fixture
def hospital() -> Iterator[Hospital]:
    made = Hospital(records={"Observation": faults.odd_observations()})
    yield made
    made.close()


def raw(hospital: Hospital, kind: str, most: int = 1 << 20) -> bytes:
    """Ask with a bare socket and return what came, up to `most` bytes; then hang up."""
    host, port = hospital.place.split(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=5) as channel:
        channel.sendall(f"GET /fhir/{kind} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while len(got) < most:
            piece = channel.recv(65536)
            if not piece:
                break
            got += piece
    return got


def test_pages_hold_the_very_bytes_and_lead_on(hospital):
    url, pages = f"{hospital.base}/Observation?patient=p1", []
    # The hospital closes after each answer without a word: a kept connection would be a race.
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while url:
            page = client.get(url, headers={"authorization": "Bearer t"})
            pages.append(page.content)
            links = page.json()["link"]
            url = links[0]["url"] if links else None
    assert len(pages) == 3
    assert all(body in b"".join(pages) for body in faults.odd_observations())
    assert [asked.bearer for asked in hospital.asked] == ["Bearer t"] * 3
    assert hospital.asked[1].params["_offset"] == "2"


def test_odd_bytes_are_json_that_serialising_again_would_change():
    for body in faults.odd_observations():
        assert json.dumps(json.loads(body)).encode() != body


def test_a_giant_is_made_while_it_is_sent_and_stops_when_nobody_listens(hospital):
    hospital.behaviours["Observation"] = faults.huge(declared=True)
    got = raw(hospital, "Observation")
    assert b"Content-Length: 1073741824" in got
    assert hospital.sent["Observation"] < 64 << 20


def test_the_bomb_unpacks_to_a_gigabyte_of_a_megabyte():
    packed = b"".join(faults._zeros_gzipped(64 << 20))
    assert len(packed) < 200_000
    unpacker = zlib.decompressobj(wbits=31)
    assert sum(len(piece) for piece in _unpacked(unpacker, packed)) == 64 << 20


def _unpacked(unpacker: "zlib._Decompress", packed: bytes) -> Iterator[bytes]:
    rest = packed
    while rest:
        yield unpacker.decompress(rest, 1 << 20)
        rest = unpacker.unconsumed_tail


def test_the_double_bomb_is_small_and_double(hospital):
    hospital.behaviours["Observation"] = faults.double_bomb
    packed = raw(hospital, "Observation").partition(b"\r\n\r\n")[2]
    assert len(packed) < 20_000
    assert gzip.decompress(packed)[:2] == b"\x1f\x8b"


def test_many_is_just_under_the_limit_and_well_formed(hospital):
    hospital.behaviours["Observation"] = faults.many(b"[", b"{},", b"{}]", size=200_000)
    body = httpx.get(f"{hospital.base}/Observation").content
    assert 190_000 < len(body) <= 200_000
    assert len(json.loads(body)) > 60_000


def test_deep_is_deep(hospital):
    hospital.behaviours["Observation"] = faults.deep
    body = httpx.get(f"{hospital.base}/Observation").content
    assert body.count(b"[") > 50_000
    assert body.count(b"[") == body.count(b"]")


def test_a_page_that_dies_halfway_really_does(hospital):
    hospital.behaviours["Observation"] = faults.dies_halfway
    assert httpx.get(f"{hospital.base}/Observation").status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{hospital.base}/Observation?_offset=2")


def test_forms_are_read_with_their_fields_buttons_and_links():
    page = """<a href="/out">x</a><form method="POST" action="/go"><input type="hidden" name="k"
        value="1&amp;2"><textarea name="t"></textarea><button name="do" value="it">Go</button>
        </form><form action="/other"><input name="q"></form>"""
    found = forms.forms(page)
    assert [(one.action, one.method) for one in found] == [("/go", "post"), ("/other", "get")]
    assert found[0].fields == {"k": "1&2", "t": ""}
    assert found[0].buttons == [("do", "it")]
    assert forms.links(page) == ["/out"]
