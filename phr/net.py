"""The address guard: which places outside this house may be contacted, for every protocol.

A name is resolved once, every answer is checked, and the checked address is what gets dialled, so
that a second, different DNS answer can do nothing. Not here: HTTP (`phr.http`).
"""

import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from phr.errors import AddressRefused, Unreachable
from phr.told import Fault, Told

MAX_URL = 2048
PORTS = {"https": 443, "http": 80}
LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\<>\"]")

# `ipaddress.is_global` calls several of these global, and differs between Python releases; so the
# lists are our own (IANA special-purpose registries, RFC 6890 and its successors).
CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relay anycast
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# Everything outside 2000::/3 is closed: loopback, v4-mapped, v4-compatible, NAT64, unique local,
# link-local, site-local, multicast.
OPEN_V6 = IPv6Network("2000::/3")
CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries any IPv4 address
        "2620:4f:8000::/48",
        "3ffe::/16",
        "3fff::/20",
    )
)


class NotSent(Unreachable):
    """No connection came about: the request never left, so trying again repeats nothing."""


Answers = Iterable[tuple[int, Any]]  # (family, sockaddr)
Resolver = Callable[[str, int], Answers]


@dataclass(frozen=True, slots=True)
class Place:
    """A checked absolute address: scheme, lower-case ASCII host, port, path, query."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454 §4)."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host for people and for the Host header; the port only where it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as text."""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.authority}{self.path}{query}"

    def within(self, base: "Place") -> bool:
        """Say whether this place has `base`'s origin and lies at or under its path."""
        prefix = base.path.rstrip("/")
        return self.origin == base.origin and (
            self.path == prefix or self.path.startswith(prefix + "/")
        )


def is_public(address: str) -> bool:
    """Say whether an IP address (text, no zone) is an ordinary public unicast address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in CLOSED_V4)
    return _is_public_v6(ip)


def _is_public_v6(ip: IPv6Address) -> bool:
    return ip.scope_id is None and ip in OPEN_V6 and not any(ip in network for network in CLOSED_V6)


def parse(url: str) -> Place:
    """Read an absolute http(s) address strictly; odd spellings raise AddressRefused.

    Only the form is judged: whether the place may be contacted is `Guard.check`.
    """
    if len(url) > MAX_URL or UNSAFE.search(url) or not url.isascii():
        raise AddressRefused("This address holds characters that do not belong into one.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressRefused("This address cannot be read.") from None
    if parts.scheme not in PORTS or "@" in parts.netloc or "#" in url or parts.netloc.endswith(":"):
        raise AddressRefused("An address must begin with https:// and hold no name, password or #.")
    if port == 0:
        raise AddressRefused("This address cannot be read.")
    path = _clean_path(parts.path)
    return Place(
        parts.scheme, clean_host(parts.netloc), port or PORTS[parts.scheme], path, parts.query
    )


def _clean_path(path: str) -> str:
    """Return the path; dot segments are refused because they could leave a token's prefix."""
    if any(unquote(segment) in {".", ".."} for segment in path.split("/")):
        raise AddressRefused("This address holds '..' in its path.")
    if "%2f" in path.lower() or "%5c" in path.lower() or "%00" in path:
        raise AddressRefused("This address holds an encoded slash in its path.")
    return path or "/"


def clean_host(netloc: str) -> str:
    """Return the lower-case host of `host[:port]`: a plain name, dotted quad or bare IPv6."""
    if netloc.startswith("["):
        return _clean_v6(netloc[1:].partition("]")[0])
    host = netloc.partition(":")[0].lower()
    labels = host.split(".")
    if len(host) > 253 or not all(LABEL.match(label) for label in labels):
        raise AddressRefused("The server's name in this address is not a plain host name.")
    if NUMERIC_LABEL.match(labels[-1]):
        # Resolvers take 2130706433, 0x7f.1 and 0177.0.0.1 for 127.0.0.1; only the strict quad is.
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise AddressRefused("This is an odd spelling of a numeric address.") from None
    return host


def _clean_v6(host: str) -> str:
    try:
        ip = IPv6Address(host)
    except ValueError:
        raise AddressRefused("This numeric address cannot be read.") from None
    if ip.scope_id is not None:
        raise AddressRefused("An address with a network zone is not allowed.")
    return ip.compressed


def join(base: Place, link: str) -> Place:
    """Resolve a link found in an answer against the page it stood in, then read it strictly."""
    if UNSAFE.search(link) or len(link) > MAX_URL:
        raise AddressRefused("The server gave a link that is not an address.")
    return parse(urljoin(base.url, link))


def resolve(host: str, port: int) -> Answers:
    """Ask the system's resolver once; raise NotSent when it knows no answer."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotSent(f"The name {host} could not be found.") from None
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def allowed_place(text: str) -> tuple[str, int]:
    """Read one "host:port" of the explicit list of private servers."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise AddressRefused(f"'{text}' is not host:port.")
    return clean_host(host), int(port)


class Guard:
    """Decides where connections may go. `allowed` are "host:port" of private servers, by name.

    `name_servers` are whom to ask for records that are no addresses; empty: the machine's own.
    """

    def __init__(
        self,
        allowed: Iterable[str] = (),
        *,
        resolver: Resolver = resolve,
        name_servers: Sequence[tuple[str, int]] = (),
    ) -> None:
        """Take the explicit exceptions and, for tests, another resolver."""
        self.name_servers = name_servers
        self._allowed = {allowed_place(text) for text in allowed}
        self._resolver = resolver

    def allow(self, text: str) -> None:
        """Let one more "host:port" through (the demo hospital beside us)."""
        self._allowed.add(allowed_place(text))

    def is_allowed(self, host: str, port: int) -> bool:
        """Say whether this host and port were let through explicitly."""
        return (host, port) in self._allowed

    def check(self, url: str, *, plain: bool = False) -> Place:
        """Read an address and refuse it before any packet, as far as its text alone can tell.

        `plain` lets http pass, on its own port: for what is signed itself (RFC 5280 §8).
        """
        place = parse(url)
        if self.is_allowed(place.host, place.port):
            return place
        if place.scheme != "https" and not (plain and place.port == PORTS["http"]):
            raise AddressRefused(f"{place.authority} must be reached by https.")
        if place.host == "localhost" or place.host.endswith(".localhost"):
            raise AddressRefused
        if _is_numeric(place.host) and not is_public(place.host):
            raise AddressRefused
        return place

    def dial(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect to a checked address of `host`; ALL answers must be public, else none is used."""
        answers = list(self._resolver(host, port))
        if not self.is_allowed(host, port) and not all(
            is_public(str(sockaddr[0])) for _, sockaddr in answers
        ):
            raise AddressRefused
        return _first_that_answers(host, answers, timeout)


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _first_that_answers(
    host: str, answers: Sequence[tuple[int, Any]], timeout: float
) -> socket.socket:
    deadline = time.monotonic() + timeout
    for number, (family, sockaddr) in enumerate(answers):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        channel = socket.socket(family, socket.SOCK_STREAM)
        channel.settimeout(left / (len(answers) - number))
        try:
            channel.connect(sockaddr)
        except OSError:
            channel.close()
            continue
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return channel
    raise NotSent(Told(f"{host} could not be reached.", Fault.UNREACHABLE))
