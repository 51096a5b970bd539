"""Apps that publish their keys: fetched through the guard, kept no longer than was said."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from phr import clock, jwt
from phr.errors import NetError
from phr.http import Http
from phr.net import Guard
from phr.sharing.clients import App, Registration
from phr.sharing.proof import KeySets
from phr.store.models import ClientState
from tests.fixtures_net import plain

KEY = jwt.new_key("ES384")


class Published:
    """A key set at an address on loopback, and how often it was asked for."""

    def __init__(self, raw_server: Any) -> None:
        self.asked = 0
        self.body: bytes = json.dumps({"keys": [jwt.public_half(KEY)]}).encode()
        self.headers: tuple[str, ...] = ("Content-Type: application/json",)
        self.server = raw_server(self._reply)
        place = self.server.url.removeprefix("http://")
        self.http = Http(Guard((place,)))
        self.sets = KeySets(self.http)

    def _reply(self, _request: bytes, channel: Any) -> None:
        self.asked += 1
        channel.sendall(plain(self.body, "200 OK", *self.headers))

    @property
    def app(self) -> App:
        says = Registration("Clinic", (), None, f"{self.server.url}/keys.json")
        return App("c1", ClientState.KNOWN, says, None, None, None, clock.now())

    def ask(self, kid: str = KEY["kid"], **later: float) -> list[Any]:
        with time_machine.travel(clock.now() + timedelta(**later), tick=False):
            return self.sets.keys(self.app, kid, clock.now())


@pytest.fixture
def published(raw_server: Any) -> Iterator[Published]:
    made = Published(raw_server)
    yield made
    made.http.close()


def test_key_set_is_fetched_once_and_kept_for_an_hour_where_nothing_is_said(published: Published):
    assert [key["kid"] for key in published.ask()] == [KEY["kid"]]
    published.ask(minutes=59)
    assert published.asked == 1

    published.ask(minutes=61)

    assert published.asked == 2


def test_key_set_is_kept_no_longer_than_its_server_said(published: Published):
    published.headers = ("Cache-Control: max-age=120",)
    published.ask()
    published.ask(seconds=119)
    assert published.asked == 1

    published.headers = ("Cache-Control: no-store",)
    published.ask(seconds=121)
    published.ask(seconds=182)

    assert published.asked == 3


def test_one_address_is_asked_once_a_minute_whatever_it_answers(published: Published):
    published.headers = ("Cache-Control: no-store",)
    published.ask()
    published.ask(seconds=59)
    published.body = b"nonsense"
    with pytest.raises(NetError):
        published.ask(seconds=61)

    assert published.ask(seconds=90) == []
    assert published.asked == 2


def test_key_that_is_not_in_the_set_is_looked_for_again_but_not_at_every_try(published: Published):
    published.ask()
    assert published.ask("new") == []
    assert published.ask("new", seconds=30) == []
    assert published.asked == 1

    new = jwt.new_key("ES384") | {"kid": "new"}
    published.body = json.dumps({"keys": [jwt.public_half(new)]}).encode()

    assert [key["kid"] for key in published.ask("new", seconds=61)] == ["new"]
    assert published.asked == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"'])
def test_answer_that_is_no_key_set_is_an_error_and_not_kept(published: Published, body: bytes):
    published.body = body

    with pytest.raises(NetError):
        published.ask()


def test_set_without_a_list_of_keys_has_none(published: Published):
    published.body = b'{"keys": "none"}'

    assert published.ask() == []


def test_key_set_at_a_private_address_is_never_asked_for(published: Published):
    http = Http(Guard(()))

    with closing(http), pytest.raises(NetError):
        KeySets(http).keys(published.app, KEY["kid"], clock.now())
    assert published.asked == 0
