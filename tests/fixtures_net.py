"""A raw TCP server for tests of outgoing connections: it answers each request with given bytes."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

Reply = Callable[[bytes, socket.socket], None]


@dataclass
class RawServer:
    """Accepts, reads one request head (and body by Content-Length), lets `reply` answer, closes."""

    reply: Reply
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                channel, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(channel,), daemon=True).start()

    def _one(self, channel: socket.socket) -> None:
        with channel, contextlib.suppress(OSError):
            channel.settimeout(10)
            if self.tls is not None:
                channel = self.tls.wrap_socket(channel, server_side=True)
            request = _read_request(channel)
            self.requests.append(request)
            self.reply(request, channel)
            channel.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(2)


def _read_request(channel: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = channel.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    wanted = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            wanted = int(line.split(b":")[1])
    while len(body) < wanted:
        body += channel.recv(65536)
    return head + b"\r\n\r\n" + body


def fixed(data: bytes) -> Reply:
    return lambda _request, channel: channel.sendall(data)


def plain(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def raw_server() -> Iterator[Callable[[Reply | bytes], RawServer]]:
    servers: list[RawServer] = []

    def start(reply: Reply | bytes) -> RawServer:
        server = RawServer(fixed(reply) if isinstance(reply, bytes) else reply)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
