"""A small web server on loopback that answers as a test tells it: lists, redirects, drips, lies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Said:
    """One answer: status, headers, body; `slowly` sends it a byte at a time until cut off."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    slowly: threading.Event | None = None


@dataclass
class ListServer:
    """What a test sees: the address, the answers by path, and the requests that came."""

    port: int
    answers: dict[str, Said | Callable[[BaseHTTPRequestHandler], Said]] = field(
        default_factory=dict
    )
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def allowed(self) -> frozenset[tuple[str, int]]:
        return frozenset({("127.0.0.1", self.port)})


@contextmanager
def running() -> Iterator[ListServer]:
    told: ListServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            said = told.answers.get(self.path, Said(b"not here", 404))
            said = said if isinstance(said, Said) else said(self)
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in said.headers and said.slowly is None:
                self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            try:
                if said.slowly is None:
                    self.wfile.write(said.body)
                while said.slowly is not None and not said.slowly.wait(0.02):
                    self.wfile.write(b" ")
            except OSError:
                self.close_connection = True  # the other side had enough

        def log_message(self, *_words: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = ListServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
