"""What both applications are made of: the host check, the headers of every answer, Litestar.

Which routes they have is in `phr.web.app`; what answers while those are loaded, in `phr.web.early`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from litestar import Litestar
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ControllerRouterHandler, Message, Receive, Scope, Send

from phr import courtesy
from phr.appliance import Appliance
from phr.settings import Settings, is_loopback
from phr.web import faults
from phr.web.look import look_at
from phr.web.routing import FOREIGN_PAGES, KEY, WELL_KNOWN, SetCookie, Visit
from phr.web.sessions import Doorkeeper

MAX_HEADERS = 32 * 1024  # bytes of all request headers together
OPEN_TO_PAGES = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": (
        "Content-Location, ETag, Expires, Last-Modified, Location, Retry-After, WWW-Authenticate,"
        " X-Progress"
    ),
    "cross-origin-resource-policy": "cross-origin",
}
PREFLIGHT = {
    "access-control-allow-headers": "Authorization, Content-Type, Accept, Prefer, If-None-Match",
    "access-control-allow-methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "access-control-max-age": "600",
}
ALWAYS_HERE = frozenset({"/healthz", "/readyz"})  # asked by name-less watchers
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; frame-src 'self'; form-action 'self'{}; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HOST = re.compile(r"(?P<name>[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5})?)?")
OPENER = b"cross-origin-opener-policy"
HEADERS = {
    "content-security-policy": CSP.format(""),
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # "no-referrer" would make browsers send Origin: null
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex, nofollow",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "vary": "HX-Request",
}

Table = Sequence[ControllerRouterHandler]


class Application(Litestar):
    """A Litestar application that answers only to its own names, with or without its sub-path."""

    hosts: frozenset[str] = frozenset()
    base: str = ""
    public: bool = False  # doors, not pages
    same_machine: str = ""  # the origin that this machine's other names for it are led to
    appliance: Appliance | None = None  # of the home address: its demo hospital's pages are here

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Leave out Litestar's plug-ins for pydantic and attrs: no handler speaks them.

        They would cost every start 0.1 s and 8 MB.
        """
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]  # the lifespan scope has the same shape here
        """Refuse foreign host names (DNS rebinding) and odd paths before anything else runs."""
        if scope["type"] == ScopeType.HTTP:
            if refused := self._refusal(scope):
                await _plain(send, refused.status, refused.sentence, close=refused.close)
                return
            if elsewhere := self._proper_address(scope):
                await _lead(send, elsewhere)
                return
            path = scope["path"] = self.below_base(scope["path"])
            scope["root_path"] = ""
            hospital = self.appliance.demo if self.appliance is not None else None
            if hospital is not None and path.startswith("/demo-hospital/"):
                await hospital.app(scope, receive, _with_headers(send, scope))
                return
            if self.public and path.startswith(FOREIGN_PAGES):
                send = _open_to_pages(send)
                if scope["method"] == "OPTIONS":
                    await _answer_preflight(send)
                    return
        with courtesy.answering():
            await super().__call__(scope, receive, send)

    def _refusal(self, scope: Scope) -> "_Refusal | None":
        if _too_many_headers(scope):
            return _Refusal(431, "That is more than this Homeport reads.")
        if _is_framed_twice(scope):
            return _Refusal(400, "Where this request ends is told twice.", close=True)
        if not self._host_fits(scope):
            return _Refusal(400, "This Homeport goes by another name.")
        if _is_odd(self.below_base(scope["path"])):
            return _Refusal(404, "There is nothing here.")
        return None

    def below_base(self, path: str) -> str:
        """Return a path as it is routed: without the sub-path of this application."""
        inside = self.base and (path == self.base or path.startswith(self.base + "/"))
        return path[len(self.base) :] or "/" if inside else path

    def _host_fits(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            return False
        host = given[0].decode("latin-1").lower()
        return host in self.hosts or is_loopback(_called(host)[0])

    def _proper_address(self, scope: Scope) -> str | None:
        """Return where a page asked for as `localhost` lies under the configured name, if it does.

        Cookies belong to a host name: who signed in under another one would come back from a
        hospital as a stranger. Only reading, only from one loopback name to another, and only for
        the port we listen on ourselves; the target is configuration (DESIGN §7.8).
        """
        if scope["type"] != ScopeType.HTTP or scope["method"] not in {"GET", "HEAD"}:
            return None
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
        proper = urlsplit(self.same_machine)
        if (
            not self.same_machine
            or host in self.hosts
            or _called(host)[1] != proper.port
            or scope["path"] in ALWAYS_HERE
        ):
            return None
        raw = scope.get("raw_path") or scope["path"].encode()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return self.same_machine + (raw.partition(b"?")[0] + query).decode("latin-1")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What is said to a request that no route sees."""

    status: int
    sentence: str
    close: bool = False


def _too_many_headers(scope: Scope) -> bool:
    headers = list(scope["headers"])
    return len(headers) > 100 or sum(len(k) + len(v) for k, v in headers) > MAX_HEADERS


def _is_framed_twice(scope: Scope) -> bool:
    """Tell a request with both lengths: a proxy may see another end of it (RFC 9112 §6.3)."""
    names = {name for name, _ in scope["headers"]}
    return {b"content-length", b"transfer-encoding"} <= names


@lru_cache(maxsize=64)
def _called(host: str) -> tuple[str, int | None]:
    """Return name and port of a Host header (RFC 9110 §7.2); no name for what is none.

    Read by its own rule: a parser of whole addresses finds a host in "127.0.0.1/x" too.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return "", None
    return found["name"].strip("[]"), int(found["port"]) if found["port"] else None


def _is_odd(path: str) -> bool:
    """Tell paths that no page of ours has: empty or dot segments, control characters, 2 kB."""
    plain = path.replace(WELL_KNOWN, "/", 1)  # the one segment with a dot in front (RFC 8615)
    return "//" in path or "/." in plain or len(path) > 2000 or not path.isprintable()


async def _plain(send: Send, status: int, sentence: str, *, close: bool = False) -> None:
    body = sentence.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in HEADERS.items()),
        *([(b"connection", b"close")] if close else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _lead(send: Send, address: str) -> None:
    """Answer 307 to another address of ours: the same request again, there."""
    headers = [
        (b"location", address.encode("latin-1")),
        (b"content-length", b"0"),
        *((name.encode(), value.encode()) for name, value in HEADERS.items()),
    ]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _answer_preflight(send: Send) -> None:
    """Let a page elsewhere send its request (Fetch §3.2.2); its token says what it may do."""
    given = HEADERS | PREFLIGHT | {"content-length": "0"}
    headers = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _open_to_pages(send: Send) -> Send:
    """Return a `send` whose answers a page elsewhere may read: there are no cookies in them."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0].decode() not in OPEN_TO_PAGES]
            opened = [(name.encode(), value.encode()) for name, value in OPEN_TO_PAGES.items()]
            message["headers"] = [pair for pair in kept if pair[0] != b"set-cookie"] + opened
        await send(message)

    return sending


def _with_headers(send: Send, scope: Scope) -> Send:
    async def sending(message: Message) -> None:
        await _finish_headers(message, scope)
        await send(message)

    return sending


async def _finish_headers(message: Message, scope: Scope) -> None:
    """Add the headers every answer carries, unless the handler chose its own."""
    if message["type"] != "http.response.start":
        return
    visit: Visit | None = scope.get(KEY)  # type: ignore[assignment]  # our own key
    headers = list(message["headers"])
    given = {name.lower() for name, _ in headers}
    wanted = _wanted((), secure=False)
    if visit is not None:
        wanted = _wanted(tuple(visit.extra_headers.items()), secure=visit.secure)
        if visit.at_home and visit.appliance.settings.home_is_plain_lan:
            wanted = [pair for pair in wanted if pair[0] != OPENER]  # browsers refuse it there
        headers += [(b"set-cookie", _cookie(visit, each)) for each in visit.set_cookies]
    message["headers"] = headers + [pair for pair in wanted if pair[0] not in given]


@lru_cache(maxsize=64)
def _wanted(more: tuple[tuple[str, str], ...], *, secure: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that chose `more` of its own, as they are sent."""
    extra, wanted = dict(more), dict(HEADERS)
    if targets := extra.pop("form-action", ""):
        wanted["content-security-policy"] = CSP.format(" " + targets)
    wanted |= extra
    if secure:
        wanted["strict-transport-security"] = "max-age=2592000"
    return [(name.encode(), value.encode()) for name, value in wanted.items()]


def _cookie(visit: Visit, cookie: SetCookie) -> bytes:
    parts = [f"{cookie.name}={cookie.value}", f"Path={cookie.path}", "HttpOnly", "SameSite=Lax"]
    if visit.secure:
        parts.append("Secure")
    if cookie.max_age is not None:
        parts.append(f"Max-Age={cookie.max_age}")
    return "; ".join(parts).encode("latin-1")


def home_keeper(appliance: Appliance) -> Doorkeeper:
    """Return who lets in at the home address: pages, with sessions and forms."""
    settings = appliance.settings
    return Doorkeeper(
        appliance,
        look_at(settings.home_path),
        origins=_origins(settings.home_origin, settings.port),
        secure=settings.home_is_https,
        home=True,
    )


def home_application(table: Table, doorkeeper: Doorkeeper) -> Application:
    """Return an application of the home address with these routes."""
    appliance = doorkeeper.appliance
    settings = appliance.settings
    app = application(table, doorkeeper, address=settings.home_url)
    app.appliance = appliance
    app.same_machine = settings.home_origin if _is_plain_loopback(settings) else ""
    return app


def public_keeper(appliance: Appliance) -> Doorkeeper:
    """Return who lets in at the public address: doors only."""
    settings = appliance.settings
    return Doorkeeper(
        appliance,
        look_at(settings.public_path),
        origins=_origins(settings.public_origin, settings.public_port),
        secure=settings.public_is_https,
        home=False,
    )


def public_application(table: Table, doorkeeper: Doorkeeper) -> Application:
    """Return an application of the public address with these routes."""
    app = application(table, doorkeeper, address=doorkeeper.appliance.settings.public_url)
    app.public = True
    return app


def application(table: Table, doorkeeper: Doorkeeper, *, address: str) -> Application:
    """Return what answers with these routes to the name in `address` and no other."""
    app = Application(
        route_handlers=table,
        middleware=[doorkeeper.middleware],
        exception_handlers={Exception: faults.answer},
        before_send=[_finish_headers],
        openapi_config=None,
        logging_config=None,
        state=State({"doorkeeper": doorkeeper}),
    )
    app.hosts = frozenset({urlsplit(address).netloc.lower()})
    app.base = doorkeeper.look.base
    return app


def _origins(origin: str, port: int) -> frozenset[str]:
    """Return what browsers call our own pages: the configured origin, and this very machine."""
    names = ("127.0.0.1", "localhost", "[::1]")
    return frozenset({origin, *(f"http://{name}:{port}" for name in names)})


def _is_plain_loopback(settings: Settings) -> bool:
    """Tell a home address that is this very machine's own port, with nothing in front of it."""
    proper = urlsplit(settings.home_url)
    return (
        settings.tls != "proxy"
        and not settings.trusted_proxies
        and is_loopback(proper.hostname or "")
        and proper.port == settings.port
    )
