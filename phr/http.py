"""The only maker of HTTP requests: `Http` on top of the address guard of `phr.net`.

No redirects, cookies, proxies from the environment or shared headers; a bearer token leaves only
towards the connection it belongs to. Every httpx error becomes one of ours here. httpx is loaded
at the first request: a tenth of every start and 5 MB, and many boxes ask nobody for days.
"""

import logging
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from phr.errors import AddressRefused, AnswerRefused, PhrError, Unreachable
from phr.net import Guard, NotSent, Place
from phr.told import Fault, Told

if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx

AGENT: Final = "Homeport"
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
MAX_RATIO: Final = 200  # FHIR JSON compresses 10 to 60 times; a bomb 1,000 times
RATIO_FROM: Final = 1 << 20
LARGE_FROM: Final = 2 << 20  # bytes; of such answers one at a time per origin is held
HEADERS_EXTRA: Final = 128 * 1024  # status line, headers and chunk framing beside the body


@dataclass(frozen=True, slots=True)
class Limits:
    """What one exchange may cost. Sizes in bytes, times in seconds, rate in bytes a second."""

    size: int = 32 << 20
    connect: float = 10.0
    first_byte: float = 60.0
    idle: float = 20.0
    total: float = 300.0
    rate: float = 1024.0
    grace: float = 10.0


Turn = Callable[[float], bool]
DEFAULT: Final = Limits()
MOST_CERTIFICATES: Final = 10_000  # remembered, one for each server
SMALL: Final = Limits(size=256 << 10, first_byte=20.0, total=45.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, headers with lower-case names, the whole body, and from where."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    place: Place

    @property
    def media_type(self) -> str:
        """The media type without parameters, lower case; empty when none was sent."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def date(self) -> float | None:
        """The server's Date header as a POSIX time; None when absent or unreadable."""
        try:
            return parsedate_to_datetime(self.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            return None


class TooLarge(AnswerRefused):
    """More bytes than the limit, declared, sent or unpacked."""

    sentence = "The other server's answer was larger than is allowed."
    tells = Fault.TOO_LARGE


class BrokenOff(Unreachable):
    """The connection ended before the answer was whole."""


class _Budget(threading.local):
    """What the exchange running in this thread may still use; looked at on every socket read."""

    deadline: float = 0.0
    left: int = 0
    idle: float = 0.0
    first: float | None = None  # when the first byte came
    got: int = 0
    limits: Limits = DEFAULT
    turn: "Turn | None" = None  # to be waited for before a large answer is read

    def start(self, limits: Limits, deadline: float, turn: "Turn | None") -> None:
        self.limits, self.deadline, self.turn = limits, deadline, turn
        self.left, self.got, self.first = limits.size + HEADERS_EXTRA, 0, None

    def seconds(self) -> float:
        """Return how long the next read may wait; raise when the total time is used up."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _too_slow()
        return min(left, self.limits.first_byte if self.first is None else self.limits.idle)

    def spend(self, count: int) -> None:
        """Book received bytes; raise on too many, or on fewer a second than the least rate."""
        now = time.monotonic()
        if self.first is None:
            if not count:
                return
            self.first = now
        self.got += count
        if self.got > self.left:
            raise TooLarge
        since = now - self.first
        if since > self.limits.grace and self.got / since < self.limits.rate:
            raise _too_slow()


def _too_slow() -> AnswerRefused:
    sentence = "The other server answered too slowly and was cut off."
    return AnswerRefused(Told(sentence, Fault.TOO_SLOW))


class _Stream:
    """A socket's stream that keeps to the budget of the exchange: an httpcore.NetworkStream."""

    def __init__(
        self, inner: "httpcore.NetworkStream", budget: _Budget, show: Callable[[Any], None]
    ) -> None:
        self._inner = inner
        self._budget = budget
        self._show = show

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - httpcore's signature; our budget decides
        data = self._inner.read(max_bytes, self._budget.seconds())
        self._budget.spend(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        self._inner.write(buffer, self._budget.seconds())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: "ssl.SSLContext",
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "_Stream":
        inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        self._show(inner.get_extra_info("ssl_object"))
        return _Stream(inner, self._budget, self._show)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend:
    """Dials through the guard: the name is resolved once and the checked address is used.

    An httpcore.NetworkBackend.
    """

    def __init__(
        self, guard: Guard, budget: _Budget, certificates: dict[tuple[str, int], str]
    ) -> None:
        self._guard = guard
        self._budget = budget
        self._certificates = certificates

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - httpcore's signature
    ) -> _Stream:
        from httpcore._backends.sync import SyncStream  # noqa: PLC0415 - see above; ready-made

        channel = self._guard.dial(host, port, timeout or DEFAULT.connect)
        return _Stream(SyncStream(channel), self._budget, partial(self._seen, (host.lower(), port)))

    def _seen(self, where: tuple[str, int], tls: Any) -> None:
        if where in self._certificates or len(self._certificates) < MOST_CERTIFICATES:
            self._certificates[where] = sha256(tls.getpeercert(True)).hexdigest()


class Http:
    """Makes requests. One for the process; safe to use from several threads at once."""

    def __init__(
        self,
        guard: Guard,
        *,
        limits: Limits = DEFAULT,
        tls: "ssl.SSLContext | None" = None,
        connections: int = 32,
    ) -> None:
        """Take the address guard, the default limits and, for private CAs, a TLS context."""
        logging.getLogger("httpcore").setLevel(logging.WARNING)  # its DEBUG prints headers
        self.guard = guard
        self.limits = limits
        self._budget = _Budget()
        self._certificates: dict[tuple[str, int], str] = {}
        self._tls, self._connections = tls, connections
        self._pools: tuple[httpx.HTTPTransport, httpx.HTTPTransport] | None = None
        self._making = threading.Lock()
        self._turns: defaultdict[tuple[str, str, int], threading.Lock] = defaultdict(threading.Lock)

    def certificate(self, url: str) -> str | None:
        """Return the SHA-256 of the certificate this address showed last, in hex; None: no TLS."""
        place = self.guard.check(url)
        return self._certificates.get((place.host, place.port))

    def close(self) -> None:
        """Close every pooled connection."""
        for pool in self._pools or ():
            pool.close()

    def _transports(self) -> "tuple[httpx.HTTPTransport, httpx.HTTPTransport]":
        """Return the transport whose connections are kept, and the one with fresh connections.

        A reused connection can die just as the request goes out, and then nobody knows whether it
        was heard. For a POST (tokens!) that matters, so each one gets a fresh connection.
        """
        import httpx  # noqa: PLC0415 - see above

        with self._making:
            if self._pools is None:
                tls = self._tls or httpx.create_ssl_context(trust_env=False)
                backend = _Backend(self.guard, self._budget, self._certificates)
                most = self._connections
                self._pools = (
                    _transport(tls, backend, most, most // 2),
                    _transport(tls, backend, most, 0),
                )
            return self._pools

    def get(
        self,
        url: str,
        *,
        bearer: str | None = None,
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        plain: bool = False,
        turn: "Turn | None" = None,
    ) -> Answer:
        """GET an address. A `bearer` is sent only at or under `origin`, else AddressRefused.

        `turn` is asked for before more is read of a large answer: it may wait as many seconds as
        it is given, and says False where that was not enough.
        `plain` also asks by http, without a bearer: certificates and revocation lists, which are
        signed themselves and are published so (RFC 5280 §8).
        """
        place = self._place(url, origin, plain=plain and bearer is None)
        return self._exchange(
            "GET", place, _headers(headers, bearer, origin), None, limits, turn=turn
        )

    def post(
        self,
        url: str,
        form: Mapping[str, str] | bytes,
        *,
        bearer: str | None = None,
        origin: str | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Answer:
        """POST a form (or ready bytes, with their own content-type header)."""
        place = self._place(url, origin)
        all_headers = _headers(headers, bearer, origin)
        if isinstance(form, bytes):
            return self._exchange("POST", place, all_headers, form, limits)
        all_headers["content-type"] = "application/x-www-form-urlencoded"
        return self._exchange("POST", place, all_headers, urlencode(form).encode(), limits)

    def delete(self, url: str, *, bearer: str, origin: str, limits: Limits) -> Answer:
        """DELETE what lies at an address at or under `origin` (RFC 7592 §2.3)."""
        place = self._place(url, origin)
        return self._exchange("DELETE", place, _headers(None, bearer, origin), None, limits)

    def _place(self, url: str, origin: str | None, *, plain: bool = False) -> Place:
        """Check the address; with an `origin` it must lie there, whatever token is used."""
        place = self.guard.check(url, plain=plain)
        if origin is not None and not place.within(self.guard.check(origin)):
            sentence = (
                f"The server pointed to {place.authority}, which is outside of this connection. "
                "Nothing was asked there."
            )
            raise AddressRefused(Told(sentence, Fault.OUTSIDE))
        return place

    def _exchange(
        self,
        method: str,
        place: Place,
        headers: dict[str, str],
        body: bytes | None,
        limits: Limits | None,
        *,
        turn: "Turn | None" = None,
    ) -> Answer:
        import httpx  # noqa: PLC0415 - see above

        kept, fresh = self._transports()
        limits = limits or self.limits
        self._budget.start(limits, time.monotonic() + limits.total, turn)
        request = httpx.Request(
            method,
            place.url,
            headers=headers,
            content=body,
            extensions={
                "timeout": httpx.Timeout(limits.idle, connect=limits.connect, pool=60).as_dict()
            },
        )
        if method != "GET":
            return self._once(fresh, request, place, limits)
        try:
            return self._once(kept, request, place, limits)
        except BrokenOff:
            if self._budget.first is not None:
                raise
        # Not a byte came: a kept connection had died. A GET may be repeated on a new one.
        return self._once(fresh, request, place, limits)

    def _once(
        self,
        transport: "httpx.HTTPTransport",
        request: "httpx.Request",
        place: Place,
        limits: Limits,
    ) -> Answer:
        with _translated(place.host):
            response = transport.handle_request(request)
            try:
                return self._read(response, place, limits)
            finally:
                response.close()

    def _read(self, response: "httpx.Response", place: Place, limits: Limits) -> Answer:
        answer_headers = {name.lower(): value for name, value in response.headers.items()}
        if response.status_code in REDIRECTS:
            raise AnswerRefused(_redirect_sentence(place, answer_headers.get("location", "")))
        if _declared(answer_headers) > limits.size:
            raise TooLarge
        encoding = answer_headers.get("content-encoding", "").strip().lower()
        chunks: Iterator[bytes] = response.iter_raw()
        if encoding in {"gzip", "x-gzip"}:
            chunks = _inflated(chunks)
        elif encoding not in {"", "identity"}:
            sentence = "The other server compressed its answer in a way not asked for."
            raise AnswerRefused(Told(sentence, Fault.UNPACKED))
        body = self._collected(chunks, place, limits.size)
        return Answer(response.status_code, answer_headers, body, place)

    def _collected(self, chunks: Iterator[bytes], place: Place, size: int) -> bytes:
        """Return the whole body; a large one waits while another of the same origin comes in.

        A server that answers every question with a giant then costs the memory of one.
        """
        whole = BytesIO()
        with ExitStack() as turn:
            for chunk in chunks:
                if whole.tell() <= LARGE_FROM < whole.tell() + len(chunk):
                    turn.enter_context(self._turn(place))
                    own = self._budget.turn
                    if own is not None and not own(self._budget.deadline - time.monotonic()):
                        raise _too_slow()
                if whole.tell() + len(chunk) > size:
                    raise TooLarge
                whole.write(chunk)
        return whole.getvalue()

    @contextmanager
    def _turn(self, place: Place) -> Iterator[None]:
        lock = self._turns[place.origin]
        if not lock.acquire(timeout=max(self._budget.deadline - time.monotonic(), 0)):
            raise _too_slow()
        try:
            yield
        finally:
            lock.release()


def _transport(
    tls: "ssl.SSLContext", backend: Any, connections: int, keep: int
) -> "httpx.HTTPTransport":
    import httpcore  # noqa: PLC0415 - see above
    import httpx  # noqa: PLC0415 - as above

    transport = httpx.HTTPTransport(verify=tls, trust_env=False)
    # The hook for an own network backend is public in httpcore but not in httpx 0.28.1, which is
    # pinned for this line.
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001 - see above
        ssl_context=tls,
        max_connections=connections,
        max_keepalive_connections=keep,
        keepalive_expiry=15.0,
        network_backend=backend,
    )
    return transport


def _headers(
    given: Mapping[str, str] | None, bearer: str | None, origin: str | None
) -> dict[str, str]:
    headers = {"accept": "*/*", **(given or {})}
    headers |= {"user-agent": AGENT, "accept-encoding": "gzip"}
    if bearer is not None:
        if origin is None:
            msg = "a bearer token needs the origin it belongs to"
            raise ValueError(msg)
        headers["authorization"] = f"Bearer {bearer}"
    return headers


def _declared(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack one gzip member in steps of 64 kB; refuse bombs, a cut end and trailing data."""
    unpacker = zlib.decompressobj(wbits=31)
    taken = given = 0
    for chunk in chunks:
        taken += len(chunk)
        rest = chunk
        while rest and not unpacker.eof:
            piece = unpacker.decompress(rest, 1 << 16)
            given += len(piece)
            if given > RATIO_FROM and given > taken * MAX_RATIO:
                raise TooLarge
            rest = unpacker.unconsumed_tail
            yield piece
        if unpacker.unused_data or (rest and unpacker.eof):
            raise AnswerRefused
    if not unpacker.eof:
        raise Unreachable(Told("The other server's answer was cut off.", Fault.BROKE_OFF))


def _redirect_sentence(place: Place, location: str) -> Told:
    target = location.partition("//")[2].partition("/")[0][:100]
    shown = "".join(letter for letter in target if letter.isalnum() or letter in ".-:[]")
    where = shown or "another address"
    sentence = f"{place.host} wanted to send us on to {where}. Homeport does not follow such hints."
    return Told(sentence, Fault.REDIRECT)


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """Turn every httpx, TLS and zlib error into one of ours; ours pass through."""
    import httpx  # noqa: PLC0415 - see above

    try:
        yield
    except PhrError:
        raise
    except (httpx.ConnectTimeout, httpx.PoolTimeout):
        raise NotSent(Told(f"{host} could not be reached.", Fault.UNREACHABLE)) from None
    except httpx.ConnectError as problem:
        raise NotSent(_connect_sentence(host, problem)) from None
    except httpx.TimeoutException:
        raise Unreachable(Told(f"{host} gave no answer in time.", Fault.TOO_SLOW)) from None
    except (httpx.DecodingError, zlib.error):
        raise AnswerRefused from None
    except httpx.RemoteProtocolError as problem:
        if "without sending" in str(problem) or "incomplete" in str(problem):
            sentence = f"{host} broke off in the middle of its answer."
            raise BrokenOff(Told(sentence, Fault.BROKE_OFF)) from None
        raise AnswerRefused from None
    except httpx.HTTPError:
        raise BrokenOff(Told(f"The connection to {host} broke off.", Fault.BROKE_OFF)) from None


def _connect_sentence(host: str, problem: Exception) -> Told:
    if "CERTIFICATE_VERIFY_FAILED" in str(problem):
        sentence = f"The certificate of {host} is not valid, so nothing was sent."
        return Told(sentence, Fault.CERTIFICATE)
    return Told(f"{host} could not be reached.", Fault.UNREACHABLE)
