"""A head that does not end is refused while it comes; what is whole is answered as it is sent."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from phr.cli.protocol import MAX_HEAD
from tests.cast import Cast
from tests.e2e.house import Running, running


@pytest.fixture
def house(cast: Cast) -> Iterator[Running]:
    """`phr serve` on the data of the cast, in a process of its own."""
    cast.close()
    cast.appliance.close()
    with running(cast.appliance.settings.data) as started:
        yield started


def connected(address: str) -> socket.socket:
    place = urlsplit(address)
    return socket.create_connection((place.hostname, place.port), 10)


def answer(line: socket.socket) -> bytes:
    heard = b""
    while b"\r\n\r\n" not in heard and (piece := line.recv(65536)):
        heard += piece
    return heard


def test_a_head_that_does_not_end_is_refused_while_it_comes(house: Running):
    for start in (b"GET /healthz HTTP/1.1\r\nX: ", b"GET /"):
        with connected(house.home) as line:
            line.sendall(start + b"a" * MAX_HEAD)
            heard = b""
            with suppress(ConnectionError):  # it has hung up; who goes on waiting times out
                while piece := line.recv(65536):
                    heard += piece
            assert heard[:12] in (b"HTTP/1.1 400", b"")


def test_a_request_in_single_bytes_and_two_at_once_are_answered(house: Running):
    place = urlsplit(house.home).netloc.encode()
    ask = b"GET /healthz HTTP/1.1\r\nHost: " + place + b"\r\n\r\n"
    with connected(house.home) as line:
        for byte in ask:
            line.sendall(bytes([byte]))
        assert answer(line).startswith(b"HTTP/1.1 200")
    with connected(house.home) as line:
        line.sendall(ask + ask)
        heard = b""
        while heard.count(b"ok\n") < 2:
            heard += line.recv(65536)
        assert heard.count(b"HTTP/1.1 200") == 2


def test_a_long_body_does_not_count_as_a_head(house: Running):
    place = urlsplit(house.home).netloc.encode()
    body = b"name=" + b"a" * (2 * MAX_HEAD)
    head = b"POST /signin HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (place, len(body))
    with connected(house.home) as line:
        line.sendall(head)
        for begin in range(0, len(body), 1000):
            line.sendall(body[begin : begin + 1000])
        assert answer(line).startswith(b"HTTP/1.1 403")  # a form without origin, judged as such
