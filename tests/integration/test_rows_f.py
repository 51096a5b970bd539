"""Rows F of the list of bad inputs (docs/security-rows.md): hostile forms, paths and framing."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from phr.settings import Settings
from phr.web import app as web
from phr.web.look import VIEWS, WEB
from tests.cast import PASSWORDS, Browser, Cast, csrf_in
from tests.e2e.house import Running, running

FIELD = re.compile(r'name="([a-z_.]+)"')
NOT_A_FIELD = {"viewport", "color-scheme", "csrf", "confirm.password", "confirm.totp", "password"}
HOSTILE = {
    "endless number": "9" * 5000,
    "number beyond 64 bits": "9" * 30,
    "negative": "-1",
    "superscript": "\u00b2",
    "foreign digit": "\u0663",
    "path": "../../etc/passwd",
    "markup": "\"'><script>alert(1)</script>{{7*7}}",
    "lines": "a\r\nSet-Cookie: x=1\r\n",
    "turned around": "\u202e\u200b",
    "long": "x" * 20_000,
    "query": "' OR 1=1 --",
    "empty": "",
}
ENDS_THE_VISIT = (
    "/signin",
    "/signout",
    "/recover",
    "/unlock",
    "/seal",
    "/leave",
    "/setup",
    "/demo",
)


def fields() -> set[str]:
    """Return every field name that a template of ours has."""
    found: set[str] = set()
    for folder in (WEB / "templates", VIEWS / "templates"):
        for file in folder.rglob("*.html"):
            found |= set(FIELD.findall(file.read_text()))
    return found - NOT_A_FIELD


def addresses(cast: Cast, method: str, word: str) -> Iterator[str]:
    """Yield the address of every route of the household; `word` for each id but the first."""
    for handler in web.HOME:
        if method not in handler.http_methods:
            continue
        for path in sorted(handler.paths):
            known = re.sub(r"\{patient_id:\w+\}", cast.patients["Ada"], path)
            yield re.sub(r"\{[^}]+\}", word, known)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_value_of_any_field_makes_an_action_fail(cast: Cast, value: str):
    ada = cast.browser("Ada")
    token = ada.csrf()
    typed = dict.fromkeys(fields(), value)
    for address in addresses(cast, "POST", "1"):
        if any(part in address for part in ENDS_THE_VISIT):
            continue
        answer = ada.post(address, data={"csrf": token, **typed})
        assert answer.status_code < 500, address
        assert "<script>alert(1)" not in answer.text, address
        assert "x" not in answer.cookies, address
    assert ada.get("/account").status_code == 200


@pytest.mark.parametrize("value", ["9" * 5000, "9" * 30, "²", "1.1", "\u0663"])
@pytest.mark.parametrize("name", ["from", "hours", "private"])
def test_a_share_form_with_odd_numbers_is_counted_and_not_failed(cast: Cast, name: str, value: str):
    ada = cast.browser("Ada")
    answer = ada.submit(f"/p/{cast.patients['Ada']}/share", {"what": "chosen", name: value})
    assert answer.status_code == 200


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_query_makes_a_page_fail(cast: Cast, value: str):
    ada = cast.browser("Ada")
    asked = dict.fromkeys(
        ("before", "q", "type", "only", "grant", "next", "said", "system", "add", "taken"),
        value[:1500],
    )
    for address in addresses(cast, "GET", "1"):
        if address.endswith("/events") or "/demo" in address:
            continue
        answer = ada.get(address, params=asked)
        assert answer.status_code < 500 or address == "/readyz", address
        assert "<script>alert(1)" not in answer.text, address


@pytest.mark.parametrize(
    "word",
    ["9" * 400, "18446744073709551616", "-1", "0x1", "%2e%2e", "%", "a%0ab", "%ff", "\u2215"],
)
def test_an_id_that_is_none_is_not_found(cast: Cast, word: str):
    ada = cast.browser("Ada")
    token = ada.csrf()
    for address in addresses(cast, "GET", word):
        if word in address and not address.endswith("/events") and "/results/" not in address:
            assert ada.get(address).status_code in {303, 400, 404}, address
    for address in addresses(cast, "POST", word):
        if word in address:
            assert ada.post(address, data={"csrf": token}).status_code in {303, 400, 404}, address


def test_every_id_of_a_page_is_not_found_under_another_patient(cast: Cast):
    """What Ada's record holds is asked for under Eve's own record, and under Ada's by Eve."""
    from tests.fixtures_sharing import Share, a_record, keep_all

    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", a_record())
    grant = Share(cast.appliance, vault).link().grant_id  # type: ignore[arg-type]  # has house and vaults
    ada, eve = cast.browser("Ada"), cast.browser("Eve")
    mine, hers = (f"/p/{cast.patients[name]}" for name in ("Ada", "Eve"))
    pages = [ada.get(mine + path).text for path in ("/timeline", "/problems", "/other", "/grants")]
    found = {
        link for page in pages for link in re.findall(rf'(?:href|action)="{mine}(/[^"#]+)', page)
    }
    deep = {link for link in found if re.search(r"[0-9a-f]{16}", link)}
    assert any(grant in link for link in deep)
    assert any("/record/" in link for link in deep)
    for link in deep:
        for base in (mine, hers):
            answer = eve.get(base + link)
            assert answer.status_code in {404, 405} or (base == hers and "?" in link), link
            assert not re.search("Dr. Pell|Asthma|Penicillin", answer.text), link
            posted = eve.submit(base + link.partition("?")[0], {"hours": "24"})
            assert posted.status_code in {404, 405}, link
    for link in found - deep:  # pages that each record has: Eve's own are not served in its place
        assert eve.get(mine + link).status_code in {404, 405}, link


# ------------------------------------------------------------------ over real sockets


@pytest.fixture
def house(cast: Cast, settings: Settings) -> Iterator[Running]:
    """`phr serve` on the data of the cast, in a process of its own."""
    cast.close()
    cast.appliance.close()
    with running(settings.data) as started:
        yield started


@contextmanager
def visiting(home: str, name: str) -> Iterator[httpx.Client]:
    """Sign somebody in at a running appliance."""
    headers = {"accept": "text/html", "origin": home}
    with httpx.Client(base_url=home, headers=headers, timeout=30) as visitor:
        typed = {"name": name, "password": PASSWORDS[name]}
        token = csrf_in(visitor.get("/signin").text)
        assert visitor.post("/signin", data={"csrf": token, **typed}).status_code == 303
        yield visitor


def said(address: str, request: str, *, ends: bool = True) -> list[str]:
    """Send raw bytes and `ends` our side; return the statuses of all answers until they close.

    A server that closes before it has read everything resets the connection: that is an end too.
    """
    place = urlsplit(address)
    heard = b""
    with (
        socket.create_connection((place.hostname, place.port), 30) as line,
        suppress(ConnectionResetError, BrokenPipeError),
    ):
        line.sendall(request.replace("@host", place.netloc).encode())
        if ends:
            line.shutdown(socket.SHUT_WR)
        while piece := line.recv(65536):
            heard += piece
    return re.findall(r"HTTP/1\.1 (\d+)", heard.decode("latin-1"))


WHOLE = "POST /signin HTTP/1.1\r\nHost: @host\r\n"
FRAMING = {
    "two lengths": WHOLE + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "negative length": WHOLE + "Content-Length: -1\r\n\r\n",
    "unknown coding": WHOLE + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bad chunk": WHOLE + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "space before colon": "GET /healthz HTTP/1.1\r\nHost : @host\r\n\r\n",
    "two hosts": "GET /healthz HTTP/1.1\r\nHost: @host\r\nHost: evil.example\r\n\r\n",
    "no host": "GET /healthz HTTP/1.1\r\n\r\n",
    "foreign host": "GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "host behind an address": "GET http://@host/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "HTTP/0.9": "GET /healthz\r\n\r\n",
    "a tunnel": "CONNECT evil.example:443 HTTP/1.1\r\nHost: @host\r\n\r\n",
    "NUL": "GET /a\x00b HTTP/1.1\r\nHost: @host\r\n\r\n",
    "64 kB header": "GET / HTTP/1.1\r\nHost: @host\r\nX: " + "a" * 65_536 + "\r\n\r\n",
    "10,000 headers": "GET / HTTP/1.1\r\nHost: @host\r\n" + "X: a\r\n" * 10_000 + "\r\n",
}


def test_odd_framing_foreign_hosts_and_a_crowd_of_slow_callers_are_refused_calmly(house: Running):
    for name, request in FRAMING.items():
        for address in (house.home, house.public):
            assert set(said(address, request)) <= {"400", "404", "405", "431"}, name
    absolute = "GET http://evil.example/healthz HTTP/1.1\r\nHost: @host\r\n\r\n"
    assert said(house.home, absolute) in (["400"], ["404"], ["200"])  # never another host's page
    with ExitStack() as held, visiting(house.home, "Ada") as ada:
        place = urlsplit(house.home)
        for _ in range(200):
            line = held.enter_context(socket.create_connection((place.hostname, place.port), 30))
            line.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert ada.get("/account").status_code == 200


def test_a_length_beside_a_chunked_body_is_refused(house: Running):
    smuggled = "GET /healthz HTTP/1.1\r\nHost: @host\r\n\r\n"
    both = WHOLE + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
    assert said(house.home, both) == ["400"]


@pytest.mark.parametrize("name", ["Ada", "Eve"])
def test_uploads_that_do_not_come_stop_no_page_and_no_door(house: Running, cast: Cast, name: str):
    place, patient = urlsplit(house.home), cast.patients["Ada"]
    with ExitStack() as held, visiting(house.home, name) as visitor:
        head = (
            f"POST /p/{patient}/files HTTP/1.1\r\nHost: {place.netloc}\r\nOrigin: {house.home}\r\n"
            f"Cookie: hp={visitor.cookies['hp']}\r\nContent-Length: 100000\r\n"
            "Content-Type: multipart/form-data; boundary=xx\r\n\r\n--xx\r\n"
        )
        for _ in range(12):
            line = held.enter_context(socket.create_connection((place.hostname, place.port), 30))
            line.sendall(head.encode())
        own = cast.patients[name]
        until = time.monotonic() + 1.0
        while time.monotonic() < until:  # let every one of them reach a thread
            assert visitor.get("/healthz").status_code == 200
        assert visitor.get(f"/p/{own}/grants").status_code == 200
        door = "GET /s/" + "0" * 32 + ".x HTTP/1.1\r\nHost: @host\r\nConnection: close\r\n\r\n"
        assert said(house.public, door, ends=False) == ["404"]


def test_fields_before_the_token_are_bounded_together(cast: Cast):
    ada = cast.browser("Ada")
    parts = "".join(
        f'--xx\r\nContent-Disposition: form-data; name="f{number}"\r\n\r\n{"a" * 60_000}\r\n'
        for number in range(100)
    )
    answer = ada.post(
        f"/p/{cast.patients['Ada']}/files",
        content=(parts + "--xx--\r\n").encode(),
        headers={"content-type": "multipart/form-data; boundary=xx"},
    )
    assert answer.status_code == 400
    assert "more than this form takes" in answer.text


@pytest.mark.parametrize(
    "host",
    [
        "evil@127.0.0.1",
        "127.0.0.1/x",
        "127.0.0.1?x",
        "127.0.0.1#x",
        "127.0.0.1\\x",
        "127.0.0.1:port.evil",
        "127.0.0.1:8080:8080",
        "localhost.evil.example",
        "[127.0.0.1",
        "::1",
    ],
    ids=str,
)
def test_a_host_that_only_holds_our_name_is_refused(cast: Cast, host: str):
    assert cast.browser().get("/healthz", headers={"host": host}).status_code == 400


def test_one_rule_for_a_field_that_comes_twice(cast: Cast):
    """The first counts, in a form and in a query; a second one changes nothing (F8)."""
    ada = cast.browser("Ada")
    body = f"csrf={ada.csrf()}&name=First&name=Second&colour=1"
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert ada.post("/household/add", content=body, headers=kind).status_code == 303
    page = ada.get("/household").text
    assert "First" in page
    assert "Second" not in page


def test_forwarding_headers_of_a_stranger_change_nothing_that_is_written(cast: Cast):
    """In the in-process browser as over uvicorn: the peer's own address is what counts."""
    lying: dict[str, Any] = {
        "x-forwarded-for": "10.9.8.7",
        "x-real-ip": "10.9.8.7",
        "forwarded": "for=10.9.8.7;proto=https",
        "x-forwarded-proto": "https",
    }
    eve = Browser(cast.home, "http://127.0.0.1:8080", network="192.0.2.9")
    with eve:
        answer = eve.submit(
            "/signin", {"name": "Eve", "password": "wrong"}, page="/signin", headers=lying
        )
        assert answer.status_code == 422
        assert "secure" not in answer.headers.get("set-cookie", "").lower()
    with cast.appliance.house.read() as session:
        rows = session.connection().exec_driver_sql("SELECT key FROM attempt").all()
    keys = " ".join(row[0] for row in rows)
    assert "10.9.8.7" not in keys
