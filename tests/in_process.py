"""An httpx transport that talks to an ASGI application of this process, streams included."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx

SECONDS = 30


@cache
def the_loop() -> asyncio.AbstractEventLoop:
    """Return the one event loop all applications under test run on, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="applications").start()
    return loop


class InProcess(httpx.BaseTransport):
    """Runs each request as a task; the response body is read while the application writes it."""

    def __init__(self, app: Any, network: str) -> None:
        self.app = app
        self.client = (network, 50000)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(self._scope(request), request)
        asyncio.run_coroutine_threadsafe(exchange.run(self.app), the_loop())
        start = exchange.next_message()
        return httpx.Response(start["status"], headers=start["headers"], stream=exchange)

    def _scope(self, request: httpx.Request) -> dict[str, Any]:
        path, _, query = request.url.raw_path.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": self.client,
            "server": (request.url.host, request.url.port or 80),
            "extensions": {},
        }


class _Exchange(httpx.SyncByteStream):
    def __init__(self, scope: dict[str, Any], request: httpx.Request) -> None:
        self.scope = scope
        self.body = iter(request.stream)  # type: ignore[arg-type]  # a sync client streams sync
        self.messages: queue.Queue[Any] = queue.Queue()
        self.gone = asyncio.Event()
        self.sent = False

    async def run(self, app: Any) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        except BaseException as error:  # noqa: BLE001 - a test must see what the application raised
            self.messages.put(error)

    async def _receive(self) -> dict[str, Any]:
        if self.sent:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        chunk = await asyncio.to_thread(next, self.body, None)
        self.sent = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": not self.sent}

    async def _send(self, message: Any) -> None:
        self.messages.put(message)

    def next_message(self) -> Any:
        message = self.messages.get(timeout=SECONDS)
        if isinstance(message, BaseException):
            raise message
        return message

    def __iter__(self) -> Iterator[bytes]:
        more = True
        while more:
            message = self.next_message()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    def close(self) -> None:
        the_loop().call_soon_threadsafe(self.gone.set)
