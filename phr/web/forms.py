"""What a browser posted, read once and bounded: url-encoded or multipart, files as a stream.

A field that comes twice counts by its first value (`get`); `all` gives every one.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from phr.errors import InvalidInput

MAX_BODY = 256 * 1024  # bytes of all plain fields of one form together
MAX_FIELDS = 1000
MAX_NAME = 200  # characters of a field's name
SILENCE = 30.0  # seconds without a byte after which an upload has broken off
# Files are read in threads of their own: an upload that dawdles must not stop pages and doors.
UPLOADS = ThreadPoolExecutor(4, thread_name_prefix="upload")

TOO_LARGE = "That is more than this form takes. Nothing was changed."
NOT_A_FORM = "This address takes a form. Nothing was changed."
BROKEN = "The form arrived incomplete. Nothing was changed; please send it again."


Receive: TypeAlias = Callable[[], Awaitable[Any]]
# The head of a part, bytes of it, and None at its end.
Event: TypeAlias = MultipartSegment | bytes | bytearray | None


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a streamed form; `chunks` must be read before the next file is asked for."""

    name: str  # of the form's field
    filename: str
    media_type: str
    chunks: Iterator[bytes] = field(repr=False)


class Form:
    """The fields of one posted form, in order."""

    __slots__ = ("_pairs", "_uploads")

    def __init__(
        self, pairs: list[tuple[str, str]] | None = None, uploads: Iterator[Upload] | None = None
    ) -> None:
        """Take the fields in order, and for a streamed form its files."""
        self._pairs = pairs or []
        self._uploads = uploads

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of a field, as typed; `default` when the field is absent."""
        return next((value for key, value in self._pairs if key == name), default)

    def text(self, name: str, *, limit: int = 200) -> str:
        """Return one line of at most `limit` characters, trimmed; longer raises InvalidInput."""
        value = " ".join(self.get(name).split())
        if len(value) > limit:
            raise InvalidInput(f"Please use at most {limit} characters. Nothing was changed.")
        return value

    def all(self, name: str) -> list[str]:
        """Return every value of a field, in order (ticked boxes)."""
        return [value for key, value in self._pairs if key == name]

    def has(self, name: str) -> bool:
        """Tell whether the field was sent at all (a ticked box, the pressed button)."""
        return any(key == name for key, _ in self._pairs)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the fields in order, for a page that repeats the form."""
        return list(self._pairs)

    def without(self, names: frozenset[str]) -> "Form":
        """Return the same form without some fields."""
        return Form([pair for pair in self._pairs if pair[0] not in names], self._uploads)

    def uploads(self) -> Iterator[Upload]:
        """Stream the files of a form whose route said `uploads=True`; to be used in its thread."""
        return self._uploads or iter(())


async def chunks_of(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body of an ASGI request; a browser that went away raises InvalidInput."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise InvalidInput(BROKEN)
        more = message.get("more_body", False)
        yield message.get("body", b"")


def kind_of(headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return media type and parameters of a request; multipart without boundary is refused."""
    kind, options = parse_options_header(headers.get("content-type", ""))
    return kind.lower(), options


async def read(receive: Receive, headers: Mapping[str, str]) -> Form:
    """Read a whole small form (fields only); files in it are refused."""
    kind, options = kind_of(headers)
    body = bytearray()
    async for chunk in chunks_of(receive):
        body += chunk
        if len(body) > MAX_BODY:
            raise InvalidInput(TOO_LARGE)
    if kind == "application/x-www-form-urlencoded":
        return Form(_url_encoded(bytes(body)))
    if kind == "multipart/form-data":
        return Form(_parts(bytes(body), options.get("boundary", "")))
    if body or kind:
        raise InvalidInput(NOT_A_FORM)
    return Form()


async def read_machine(
    receive: Receive, headers: Mapping[str, str], most: int = MAX_BODY
) -> tuple[bytes, Form]:
    """Read what a program sent: at most `most` bytes as they are, and as a form if they are one."""
    body = bytearray()
    async for chunk in chunks_of(receive):
        body += chunk
        if len(body) > most:
            raise InvalidInput(TOO_LARGE)
    encoded = kind_of(headers)[0] == "application/x-www-form-urlencoded"
    return bytes(body), Form(_url_encoded(bytes(body)) if encoded else [])


def _url_encoded(body: bytes) -> list[tuple[str, str]]:
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one of them
        raise InvalidInput(BROKEN) from error
    return [_checked(name, value) for name, value in pairs]


def _checked(name: str, value: str) -> tuple[str, str]:
    """Refuse what no browser sends and no table should hold: NUL, endless names."""
    if len(name) > MAX_NAME or "\x00" in name or "\x00" in value:
        raise InvalidInput(BROKEN)
    return name, value.replace("\r\n", "\n")


def _parts(body: bytes, boundary: str) -> list[tuple[str, str]]:
    events = _events(_parser(boundary), iter([body]))
    pairs = []
    for event in events:
        if isinstance(event, MultipartSegment):
            if event.filename is not None:
                raise InvalidInput("This form takes no files. Nothing was changed.")
            pairs.append(_field(event, events))
    return pairs


def _parser(boundary: str) -> PushMultipartParser:
    if not boundary or len(boundary) > 70:  # RFC 2046 §5.1.1
        raise InvalidInput(BROKEN)
    return PushMultipartParser(boundary, max_segment_count=MAX_FIELDS)


def _events(parser: PushMultipartParser, chunks: Iterator[bytes]) -> Iterator[Event]:
    """Yield a segment's head, its bytes, and None at its end; broken input raises InvalidInput."""
    try:
        for chunk in filter(None, chunks):  # to the parser an empty piece is the end
            yield from parser.parse(chunk)
        parser.close()
    except (MultipartError, UnicodeDecodeError) as error:
        raise InvalidInput(BROKEN) from error


def _field(segment: MultipartSegment, events: Iterator[Event]) -> tuple[str, str]:
    value = bytearray()
    for event in events:
        if event is None:
            break
        if isinstance(event, bytes | bytearray):
            value += event
        if len(value) > MAX_BODY:
            raise InvalidInput(TOO_LARGE)
    try:
        return _checked(segment.name, value.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(BROKEN) from error


# ------------------------------------------------------------------ files as a stream


async def open_stream(receive: Receive, headers: Mapping[str, str]) -> Form:
    """Read the fields that stand before the first file; the files follow by `Form.uploads`.

    Nothing is stored here: the handler, in its own thread, pulls chunk by chunk from the network.
    """
    kind, options = kind_of(headers)
    if kind != "multipart/form-data":
        raise InvalidInput(NOT_A_FORM)
    parser = _parser(options.get("boundary", ""))
    loop = asyncio.get_running_loop()
    chunks = _pulled(receive, loop)
    return await loop.run_in_executor(UPLOADS, _until_first_file, parser, chunks)


def _pulled(receive: Receive, loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """Yield the body's chunks in a worker thread; the event loop does the waiting."""
    source = chunks_of(receive)

    async def following() -> bytes | None:
        return await anext(source, None)

    while True:
        waiting = asyncio.run_coroutine_threadsafe(following(), loop)
        try:
            chunk = waiting.result(SILENCE)
        except TimeoutError as error:
            waiting.cancel()
            raise InvalidInput(BROKEN) from error
        if chunk is None:
            return
        yield chunk


def _until_first_file(parser: PushMultipartParser, chunks: Iterator[bytes]) -> Form:
    events = _events(parser, chunks)
    pairs: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, MultipartSegment):
            if event.filename is not None:
                return Form(pairs, _uploads(event, events))
            pairs.append(_field(event, events))
            if sum(len(name) + len(value) for name, value in pairs) > MAX_BODY:
                raise InvalidInput(TOO_LARGE)
    return Form(pairs)


def _uploads(first: MultipartSegment, events: Iterator[Event]) -> Iterator[Upload]:
    segment: Event = first
    while isinstance(segment, MultipartSegment):
        if segment.filename is None:
            _field(segment, events)  # a field after a file: read past it
        else:
            chunks = _until_end(events)
            media_type = segment.content_type or "application/octet-stream"
            yield Upload(segment.name, segment.filename, media_type, chunks)
            for _ in chunks:
                pass  # what the caller left unread
        segment = next(events, None)


def _until_end(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if event is None:
            return
        if isinstance(event, bytes | bytearray):
            yield bytes(event)
