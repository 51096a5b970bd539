"""Which places the lighthouse may contact, and how: the address guard and one bounded request.

A name is resolved once, every answer is checked, and the checked address is what gets dialled, so
that a second, different DNS answer can do nothing. Every address in a list is hostile input.
"""

import http.client
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

MAX_URL = 2048
# The special-purpose registries of IANA (RFC 6890 and its successors): nothing of these is a
# provider's server. `ipaddress.is_global` differs between Python releases.
_CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24",
        "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
_OPEN_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20",
    )
)  # fmt: skip
_ODD = frozenset(map(chr, [*range(0x21), *range(0x7F, 0xA0)])) | set('\\<>"{}|^`')

Dialable = tuple[int, Any]  # address family, sockaddr


class Refused(ValueError):
    """The address may not be contacted; nothing was sent."""


class Unanswered(OSError):
    """No usable answer: no connection, too slow, too large, or a broken answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """A checked absolute address."""

    scheme: str
    host: str
    port: int
    target: str  # path and query

    @property
    def authority(self) -> str:
        """Host and port as the Host header wants them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"https": 443, "http": 80}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: status, headers by lower-case name, body after decoding."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_public(address: str) -> bool:
    """Say whether an IP address is an ordinary public unicast address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _CLOSED_V4)
    closed = ip.scope_id is not None or any(ip in network for network in _CLOSED_V6)
    return ip in _OPEN_V6 and not closed


def place(url: str) -> Place:
    """Read an absolute http(s) address strictly; odd spellings are refused. Asks no server."""
    if len(url) > MAX_URL or not url.isascii() or _ODD & set(url):
        raise Refused("The address holds characters that do not belong into one.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("The address cannot be read.") from None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if scheme not in {"https", "http"} or "@" in parts.netloc or not host or port == 0:
        raise Refused("The address must begin with https:// and hold no name or password.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(scheme, host, port or (443 if scheme == "https" else 80), target)


def resolve(host: str, port: int) -> Iterable[Dialable]:
    """Ask the system's resolver once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unanswered(f"The name {host} could not be found.") from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


@dataclass(frozen=True, slots=True)
class Guard:
    """Whom we may contact.

    `allowed`: (host, port) pairs of one's own network, named explicitly; only these may be private,
    plain http or a number.
    """

    allowed: frozenset[tuple[str, int]] = frozenset()
    resolve: Callable[[str, int], Iterable[Dialable]] = resolve
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def check(self, where: Place) -> Sequence[Dialable]:
        """Return the addresses that may be dialled; raise Refused where any answer is private."""
        trusted = (where.host, where.port) in self.allowed
        if not trusted:
            _judge_form(where)
        found = list(self.resolve(where.host, where.port))
        if not found:
            raise Unanswered(f"The name {where.host} has no address.")
        if not trusted and not all(is_public(str(sockaddr[0])) for _, sockaddr in found):
            raise Refused("The name leads into a private network.")
        return found


def _judge_form(where: Place) -> None:
    if where.scheme != "https":
        raise Refused("Only https addresses are contacted.")
    last = where.host.rpartition(".")[2]
    number = last.isdigit() or last.startswith("0x") or ":" in where.host
    if number:
        raise Refused("A number instead of a host name.")
    private = {"local", "localhost", "internal", "lan", "localdomain", "corp", "home", "intranet"}
    if "." not in where.host or last in private:
        raise Refused("A private host name.")


def ask(
    method: str,
    url: str,
    guard: Guard,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    limit: int = 2**20,
    seconds: float = 20.0,
    hops: int = 0,
) -> Answer:
    """Send one request and read the whole answer, at most `limit` bytes within `seconds`.

    Redirects are followed `hops` times on the same scheme, host and port only; any other raises
    Refused. No retry, no cookies, no proxy from the environment.
    """
    where = place(url)
    for hop in range(hops + 1):
        connection = _Pinned(where, guard.check(where), guard.tls, seconds)
        answer = _once(connection, method, headers or {}, body, limit=limit)
        target = answer.headers.get("location", "")
        if answer.status not in {301, 302, 303, 307, 308} or not target:
            return answer
        there = place(urljoin(f"{where.scheme}://{where.authority}{where.target}", target))
        if (there.scheme, there.host, there.port) != (where.scheme, where.host, where.port):
            raise Refused("The server sends us to another host.")
        if hop == hops:
            break
        where = there
    raise Unanswered("The server redirects too often.")


def _once(
    connection: "_Pinned",
    method: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    limit: int,
) -> Answer:
    # The watch ends also what drips a byte at a time, which no timeout of a socket does.
    watch = threading.Timer(connection.seconds, connection.cut)
    watch.daemon = True
    watch.start()
    where = connection.where
    told = {"Accept-Encoding": "gzip", "User-Agent": "lighthouse", "Connection": "close"}
    try:
        every = {"Host": where.authority} | told | dict(headers)
        connection.request(method, where.target, body, every)
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, _body(response, named, limit, connection))
    except Unanswered:
        raise
    except (OSError, http.client.HTTPException, zlib.error, ValueError) as error:
        slow = "The server took too long." if connection.is_cut else "No usable answer came."
        raise Unanswered(f"{slow} ({type(error).__name__})") from None
    finally:
        watch.cancel()
        connection.close()


def _body(
    response: http.client.HTTPResponse,
    headers: Mapping[str, str],
    limit: int,
    connection: "_Pinned",
) -> bytes:
    """Read a body, unpacked where it came as gzip, and stop at the limit (no bombs)."""
    packed = headers.get("content-encoding", "").lower() == "gzip"
    unpack = zlib.decompressobj(wbits=31) if packed else None
    parts: list[bytes] = []
    size = 0
    while chunk := response.read(65536):
        plain = unpack.decompress(chunk, limit + 1 - size) if unpack else chunk
        size += len(plain)
        parts.append(plain)
        if size > limit:
            raise Unanswered(f"The answer is larger than {limit} bytes.")
    if connection.is_cut:  # an end of the stream that we made ourselves
        raise Unanswered("The server took too long.")
    if response.length:
        raise Unanswered("The answer ended too early.")
    return b"".join(parts)


class _Pinned(http.client.HTTPConnection):
    """A connection that dials checked addresses only, whatever the name resolves to by now."""

    def __init__(
        self, where: Place, found: Sequence[Dialable], tls: ssl.SSLContext, seconds: float
    ) -> None:
        super().__init__(where.host, where.port, timeout=seconds)
        self.where, self.seconds, self.is_cut = where, seconds, False
        self._found, self._tls = found, tls
        self._dialled: socket.socket | None = None

    def connect(self) -> None:
        """Dial the first checked address that answers; TLS proves the name."""
        problem: OSError = Unanswered("There is no address to dial.")
        for family, sockaddr in self._found[:4]:
            dialled = self._dialled = socket.socket(family, socket.SOCK_STREAM)
            dialled.settimeout(self.seconds)
            try:
                dialled.connect(sockaddr)
            except OSError as error:
                dialled.close()
                problem = error
                if self.is_cut:
                    break
                continue
            if self.where.scheme == "https":
                dialled = self._tls.wrap_socket(dialled, server_hostname=self.where.host)
            self.sock = self._dialled = dialled
            return
        raise problem

    def cut(self) -> None:
        """End the connection from outside: the time is up."""
        self.is_cut = True
        if self._dialled is not None:  # `sock` is gone once an answer that closes has begun
            with suppress(OSError):
                self._dialled.shutdown(socket.SHUT_RDWR)
