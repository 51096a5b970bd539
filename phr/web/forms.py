"""What a browser posted, read once and bounded: url-encoded or multipart, files as a stream.

A field that comes twice counts by its first value (`get`); `all` gives every one.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from phr import clock
from phr.errors import InvalidInput, TooManyTries

MAX_BODY = 256 * 1024  # bytes of all plain fields of one form together
MAX_FIELDS = 1000
MAX_NAME = 200  # characters of a field's name
MOST_UNKNOWN = 64 * 1024  # bytes of a program's body before anything is known of its token
BODY_LASTS = 60.0  # seconds in which a body that is read whole must have come
SILENCE = 30.0  # seconds without a byte after which an upload has broken off
MOST_HELD = 48 << 20  # bytes of the bodies that are in memory at once, at one of our addresses
MOST_OF_ONE = 16 << 20  # the same of one network
# Files are read in threads of their own: an upload that dawdles must not stop pages and doors, and
# one that comes through a door must not stop the household's.
UPLOADS = ThreadPoolExecutor(4, thread_name_prefix="upload")
UPLOADS_AT_DOORS = ThreadPoolExecutor(2, thread_name_prefix="upload-door")

CROWDED = "Too much is being sent here at once. Nothing was changed; please try again in a moment."
TOO_LARGE = "That is more than this form takes. Nothing was changed."
NOT_A_FORM = "This address takes a form. Nothing was changed."
BROKEN = "The form arrived incomplete. Nothing was changed; please send it again."


Receive: TypeAlias = Callable[[], Awaitable[Any]]
# The head of a part, bytes of it, and None at its end.
Event: TypeAlias = MultipartSegment | bytes | bytearray | None
Take: TypeAlias = Callable[[int], None]  # takes up so many bytes of memory, or raises TooManyTries


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly an upload may come; only the time in which it is waited for counts."""

    least: int  # bytes a second on the average, once SILENCE has passed
    longest: float  # seconds in all


AT_HOME = Pace(1024, math.inf)  # years of a record, over a slow wireless network
AT_DOORS = Pace(8 * 1024, 600.0)


class Held:
    """The bytes of bodies that one application has in memory; asked in its event loop only."""

    def __init__(self) -> None:
        """Start with none."""
        self._of: Counter[str] = Counter()

    @contextmanager
    def room(self, network: str) -> Iterator[Take]:
        """Yield what takes up room for a network; all of it is free again at the end."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._of[network] + size > MOST_OF_ONE or self._of.total() + size > MOST_HELD:
                raise TooManyTries(CROWDED, after=clock.now() + timedelta(seconds=SILENCE))
            self._of[network] += size
            taken += size

        try:
            yield take
        finally:
            self._of[network] -= taken
            if not self._of[network]:
                del self._of[network]


def _unbounded(_: int) -> None:
    """Take up no counted room."""


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


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(BODY_LASTS):
            yield
    except TimeoutError as error:
        raise InvalidInput(BROKEN) from error


async def read(receive: Receive, headers: Mapping[str, str], take: Take = _unbounded) -> Form:
    """Read a whole small form (fields only); files in it are refused."""
    kind, options = kind_of(headers)
    body = bytearray()
    async with _in_time():
        async for chunk in chunks_of(receive):
            take(len(chunk))
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
    receive: Receive,
    headers: Mapping[str, str],
    most: int = MAX_BODY,
    *,
    vouch: Callable[[], Awaitable[None]] | None = None,
    take: Take = _unbounded,
) -> tuple[bytes, Form]:
    """Read what a program sent: at most `most` bytes as they are, and as a form if they are one.

    `vouch` is awaited before more than MOST_UNKNOWN bytes are read, and raises where nobody known
    sends them.
    """
    body = bytearray()
    async with _in_time():
        async for chunk in chunks_of(receive):
            if vouch is not None and len(body) + len(chunk) > MOST_UNKNOWN:
                await vouch()
                vouch = None
            take(len(chunk))
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


def uploads_of(*, at_home: bool) -> ThreadPoolExecutor:
    """Return the threads in which files are read at the home address, or at the public one."""
    return UPLOADS if at_home else UPLOADS_AT_DOORS


async def open_stream(
    receive: Receive, headers: Mapping[str, str], *, at_home: bool = True
) -> Form:
    """Read the fields that stand before the first file; the files follow by `Form.uploads`.

    Nothing is stored here: the handler, in its own thread, pulls chunk by chunk from the network.
    """
    kind, options = kind_of(headers)
    if kind != "multipart/form-data":
        raise InvalidInput(NOT_A_FORM)
    parser = _parser(options.get("boundary", ""))
    loop = asyncio.get_running_loop()
    chunks = _pulled(receive, loop, AT_HOME if at_home else AT_DOORS)
    pool = uploads_of(at_home=at_home)
    return await loop.run_in_executor(pool, _until_first_file, parser, chunks)


def _pulled(receive: Receive, loop: asyncio.AbstractEventLoop, pace: Pace) -> Iterator[bytes]:
    """Yield the body's chunks in a worker thread; the event loop does the waiting."""
    source = chunks_of(receive)
    waited, came = 0.0, 0

    async def following() -> bytes | None:
        return await anext(source, None)

    while True:
        began = time.monotonic()
        waiting = asyncio.run_coroutine_threadsafe(following(), loop)
        try:
            chunk = waiting.result(min(SILENCE, pace.longest - waited))
        except TimeoutError as error:
            waiting.cancel()
            raise InvalidInput(BROKEN) from error
        if chunk is None:
            return
        waited, came = waited + time.monotonic() - began, came + len(chunk)
        if waited > pace.longest or (waited > SILENCE and came < pace.least * waited):
            raise InvalidInput(BROKEN)
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
