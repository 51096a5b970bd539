"""What the three small parts that help with sign-ins share: reading a request, answering, silence.

They are plain ASGI so that nothing between the socket and a secret writes anything down. What each
may be asked is theirs: `redirect`, `assertions`, `proxy`.
"""

import json
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from cryptography.exceptions import UnsupportedAlgorithm

from lighthouse import listening
from lighthouse.parameters import PUBLIC_KEY

log = logging.getLogger("lighthouse.parts")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Command = Callable[..., None]

WENT: Final = "homeport-upstream"  # what a vendor heard: "untouched", "answered", "lost"
MOST: Final = 16 * 1024  # bytes of a request's body
NO_STORE: Final = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Told(Exception):
    """A refusal before any vendor was asked: status, one word of RFC 6749 §5.2 or our own."""

    def __init__(self, status: int, word: str) -> None:
        """Take the status and the word; nothing of the request stands in either."""
        super().__init__(word)
        self.status, self.word = status, word


async def body_of(receive: Receive) -> bytes:
    """Return the whole body of a request. Raises Told when it is too large or broke off."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Told(400, "invalid_request")
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > MOST:
            raise Told(413, "invalid_request")
        parts.append(part)
    return b"".join(parts)


def json_of(body: bytes) -> dict[str, Any]:
    """Return a small JSON object; a name that stands twice and anything else is refused.

    So is text that cannot be written as UTF-8 (half of a surrogate pair): nobody could sign it.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError
        return made

    try:
        found = json.loads(body, object_pairs_hook=once)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Told(400, "invalid_request") from None
    if not isinstance(found, dict):
        raise Told(400, "invalid_request")
    return found


def header(scope: Scope, name: str) -> str:
    """Return a header of a request; one that stands twice is refused."""
    found = [value for key, value in scope["headers"] if key == name.encode()]
    if len(found) > 1:
        raise Told(400, "invalid_request")
    return bytes(found[0]).decode("latin-1").strip() if found else ""


async def answer(
    send: Send, status: int, body: bytes, headers: Mapping[str, str], kind: str
) -> None:
    """Send a whole answer; never to be stored unless `headers` say otherwise."""
    said = {**NO_STORE, "content-type": kind, "content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in said.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_json(
    send: Send, status: int, value: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> None:
    """Send a JSON object."""
    await answer(send, status, json.dumps(value).encode(), headers or {}, "application/json")


def silent(app: App, part: str) -> App:
    """Wrap a part: whatever goes wrong inside is told by the kind of error, never by its words.

    An error's text and its trace may hold a code or a token, so neither is ever written.
    """

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            await send(message)
            begun = True

        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        try:
            await app(scope, receive, sending)
        except Told as refusal:
            if not begun:
                untouched = {WENT: "untouched"}
                await answer_json(send, refusal.status, {"error": refusal.word}, untouched)
        except Exception as error:  # noqa: BLE001 - see above
            log.error("event=failed part=%s kind=%s", part, type(error).__name__)  # noqa: TRY400 - no trace: it may hold secrets
            if not begun:
                await answer_json(send, 500, {"error": "server_error"})

    return outside


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def read_private(path: Path) -> bytes:
    """Read a file of keys or secrets; only its owner may be able to. Raises ClickException."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                sentence = f"{path.name} holds secrets and can be read by others: chmod 600 it."
                raise click.ClickException(sentence)
            return file.read()
    except OSError as problem:
        raise click.ClickException(f"{path.name} cannot be read.") from problem


@contextmanager
def told(sentence: str) -> Iterator[None]:
    """Say a sentence instead of a trace, which could show what a file of secrets holds."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm):
        raise click.ClickException(sentence) from None


def options(port: int, *, snapshot: bool = False) -> Callable[[Command], Command]:
    """Give a part's command the options that parts share; `snapshot`: those to take one, too."""
    file = click.Path(exists=True, path_type=Path)
    place = click.Path(path_type=Path)
    shared = [
        click.option("--installations", required=True, type=place),
        click.option("--host", default="127.0.0.1", show_default=True),
        click.option("--port", type=click.IntRange(1, 65535), default=port, show_default=True),
    ]
    if snapshot:
        shared += [
            click.option("--snapshot", required=True, type=file),
            click.option(
                "--root", required=True, type=PUBLIC_KEY, help="Root key of the snapshot."
            ),
            click.option("--shelf", required=True, type=place, help="Own folder."),
        ]

    def give(command: Command) -> Command:
        for option in shared:
            command = option(command)
        return command

    return give


def run(app: App, host: str, port: int) -> None:
    """Serve one part, without an access log and without core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    # Errors of the server carry traces.
    listening.serve(app, host, port, log_level="critical", h11_max_incomplete_event_size=MOST)
