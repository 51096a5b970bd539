"""Who dawdles, sends without end, or was never let in: nobody else waits for them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from phr import clock
from phr.sharing import gate, inbox
from phr.sharing import provision as policy
from phr.sharing.provision import READING, Action, Provision
from phr.web import forms, sessions
from tests.cast import Browser, Cast
from tests.fixtures_fhir import everything, token_for
from tests.fixtures_sharing import ADA, Share, a_record, keep_all

PARTS = "multipart/form-data; boundary=edge"
FHIR = "application/fhir+json"


class Door:
    """A link that may send, or not, and the browser that opened it."""

    def __init__(self, cast: Cast, *, may_send: bool = True) -> None:
        vault = cast.vault("Ada")
        self.vault, share = vault, Share(cast.appliance, vault)
        rules = policy.preset("primary", now=clock.now()).rules
        more = {Action.CONTRIBUTE} if may_send else set()
        self.link = share.link(Provision(rules, actions=READING | more))
        self.web: Browser = cast.stranger()
        page = self.link.url.partition("8081")[2]
        assert self.web.submit(page, {"code": self.link.code}, page=page).status_code == 303
        self.at = f"/s/{self.link.handle_id}/send"
        self.csrf = self.web.csrf(self.at) if may_send else ""


@pytest.fixture
def record(cast: Cast) -> None:
    keep_all(cast.vault("Ada"), "North Quay", a_record())


def posted(web: Browser, path: str, body: Iterator[bytes], kind: str = PARTS, **more: str) -> Any:
    return web.post(path, content=body, headers={"content-type": kind, **more})


def unread() -> Iterator[bytes]:
    pytest.fail("the body of a request was read that nobody had let in")
    yield b""


def field(name: str, value: str) -> bytes:
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


@contextmanager
def dawdling(*doors: Door) -> Iterator[Callable[[], list[int]]]:
    """Begin an upload at each door that does not go on; yields what lets them end."""
    go_on, begun = threading.Event(), [threading.Event() for _ in doors]

    def slowly(door: Door, here: threading.Event) -> Iterator[bytes]:
        yield field("csrf", door.csrf) + field("note", "Drink more")
        here.set()
        assert go_on.wait(60)
        yield b"--edge--\r\n"

    with ThreadPoolExecutor(len(doors)) as pool:
        sent = [
            pool.submit(posted, door.web, door.at, slowly(door, here))
            for door, here in zip(doors, begun, strict=True)
        ]

        def end() -> list[int]:
            go_on.set()
            return [each.result(60).status_code for each in sent]

        try:
            for here in begun:
                assert here.wait(30)
            yield end
        finally:
            go_on.set()


def test_a_routing_id_alone_has_no_body_read(cast: Cast, record: None) -> None:
    standing, over, silent = Door(cast), Door(cast), Door(cast, may_send=False)
    gate.end(over.vault, over.link.grant_id, "patient", ADA, now=clock.now())
    assert posted(cast.stranger(), standing.at, unread()).status_code == 404
    assert posted(cast.stranger(), over.at, unread()).status_code == 404
    assert posted(over.web, over.at, unread()).status_code == 410
    assert posted(silent.web, silent.at, unread()).status_code == 404


def test_slow_uploads_through_links_hold_up_nobody_at_home(cast: Cast, record: None) -> None:
    ada = cast.browser("Ada")
    files = f"/p/{cast.patients['Ada']}/files"
    csrf = ada.csrf(files)
    with dawdling(Door(cast), Door(cast)) as end:  # as many as there are threads for them
        brought = ada.post(files, data={"csrf": csrf}, files={"file": ("a.json", b"{}")})
        assert brought.status_code < 500
        assert end() == [303, 303]


def test_a_link_has_one_upload_at_a_time(
    cast: Cast, record: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PATIENCE", 0.0)
    door = Door(cast)
    with dawdling(door) as end:
        second = posted(door.web, door.at, unread())
        assert second.status_code == 429
        assert "still being sent" in second.text
        assert end() == [303]
    monkeypatch.undo()
    whole = field("csrf", door.csrf) + field("note", "Sleep more") + b"--edge--\r\n"
    assert posted(door.web, door.at, iter([whole])).status_code == 303


# ------------------------------------------------------------------ programs


def big(*, most: int) -> tuple[list[int], Iterator[bytes]]:
    """Return what counts the bytes that were asked for, and a body of `most` bytes."""
    asked: list[int] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(most // 16384):
            asked.append(16384)
            yield b" " * 16384

    return asked, pieces()


@pytest.mark.parametrize("shown", ["", "Basic YTpi", "Bearer x", f"Bearer {'0' * 32}.{'x' * 43}"],
                         ids=["nothing", "a password", "nonsense", "a guess"])  # fmt: skip
def test_without_a_token_that_stands_little_is_read(cast: Cast, shown: str) -> None:
    for kind in (FHIR, "text/plain"):  # 401 goes before 415 and before "too large"
        asked, body = big(most=inbox.MOST_BY_API * 2)
        more = {"authorization": shown} if shown else {}
        answer = posted(cast.stranger(), "/fhir/Observation", body, kind, origin="", **more)
        assert answer.status_code == 401
        assert sum(asked) <= forms.MOST_UNKNOWN + 16384


def test_a_token_that_has_ended_has_little_read_and_one_that_stands_its_limit(
    cast: Cast, record: None
) -> None:
    vault = cast.vault("Ada")
    actions = frozenset({Action.VIEW, Action.DOWNLOAD, Action.CONTRIBUTE})
    token = token_for(vault, Provision(everything().rules, actions=actions), "patient/*.cruds")

    def sent() -> tuple[int, int]:
        asked, body = big(most=inbox.MOST_BY_API * 2)
        more = {"authorization": f"Bearer {token.text}", "origin": ""}
        answer = posted(cast.stranger(), "/fhir/Observation", body, FHIR, **more)
        return answer.status_code, sum(asked)

    status, size = sent()
    assert status == 400
    assert size > inbox.MOST_BY_API
    gate.end(vault, token.grant_id, "patient", ADA, now=clock.now())
    status, size = sent()
    assert status == 401
    assert size <= forms.MOST_UNKNOWN + 16384


def test_a_door_without_tokens_takes_little(cast: Cast) -> None:
    asked, body = big(most=1 << 20)
    form = "application/x-www-form-urlencoded"
    assert posted(cast.stranger(), "/oauth/token", body, form, origin="").status_code == 400
    assert sum(asked) <= forms.MOST_UNKNOWN + 16384


def test_bodies_that_are_held_are_counted_for_each_network_and_given_back(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "MOST_OF_ONE", 20_000)
    go_on, begun = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b" " * 16384
        begun.set()
        assert go_on.wait(60)

    def asks(body: Iterator[bytes], network: str = "203.0.113.7") -> int:
        web = cast.stranger(network=network)
        return int(posted(web, "/fhir/Observation", body, FHIR, origin="", accept=FHIR).status_code)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(asks, slowly())
        try:
            assert begun.wait(30)
            assert asks(iter([b" " * 16384])) == 429
            assert asks(iter([b" " * 16384]), "198.51.100.9") == 401
        finally:
            go_on.set()
        assert held.result(60) == 401
    assert asks(iter([b" " * 16384])) == 401
