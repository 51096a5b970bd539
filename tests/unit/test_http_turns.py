"""Large answers of one server are taken one after the other, small ones are not held up."""

import threading
from dataclasses import replace

import pytest

from phr.errors import AnswerRefused
from phr.http import DEFAULT, LARGE_FROM, Http
from phr.net import Guard
from tests.fixtures_net import plain

BEGIN = b"x" * (LARGE_FROM + 100_000)


@pytest.fixture
def stalled(raw_server):
    """A server that sends the beginning of a large answer and waits; and a client of it."""
    begun, leave = threading.Event(), threading.Event()

    def reply(request, channel):
        if b"GET /small" in request:
            channel.sendall(plain(b"small"))
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(BEGIN) + 1)
        channel.sendall(head + BEGIN)
        begun.set()
        leave.wait(5)
        channel.sendall(b"y")

    server = raw_server(reply)
    http = Http(Guard([server.place]))
    got = []
    first = threading.Thread(target=lambda: got.append(http.get(server.url + "/large").body))
    first.start()
    assert begun.wait(5)
    yield http, server, leave, first, got
    leave.set()
    first.join(5)
    http.close()


def test_a_second_large_answer_waits_for_the_first(stalled):
    http, server, leave, first, got = stalled
    second = threading.Thread(target=lambda: got.append(http.get(server.url + "/large").body))
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert got == []
    leave.set()
    for thread in (first, second):
        thread.join(5)
    assert got == [BEGIN + b"y"] * 2


def test_small_answers_are_not_held_up(stalled):
    http, server, *_ = stalled
    assert http.get(server.url + "/small").body == b"small"


def test_who_waits_too_long_for_a_turn_gives_up(stalled):
    http, server, *_ = stalled
    with pytest.raises(AnswerRefused, match="too slowly"):
        http.get(server.url + "/large", limits=replace(DEFAULT, total=1.5))


def test_a_large_answer_comes_only_while_its_asker_has_room_for_it(raw_server):
    """Whoever asks may hold a large answer back (`turn`): without room it gives up."""
    server = raw_server(lambda _, channel: channel.sendall(plain(BEGIN)))
    http = Http(Guard([server.place]))
    waited = []
    with pytest.raises(AnswerRefused, match="too slowly"):
        http.get(server.url + "/large", turn=lambda left: bool(waited.append(left)))
    assert 0 < waited[0] <= DEFAULT.total
    assert http.get(server.url + "/large", turn=bool).body == BEGIN
    http.close()
