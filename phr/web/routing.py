"""The idiom of every page: `page`, `slow_page`, `action`, and the `Visit` that a handler is given.

What a route lets in is declared here by `Access` and decided in one place, `phr.web.sessions`.
"""

import asyncio
import gzip
import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property, partial
from inspect import Parameter, iscoroutinefunction, signature
from typing import Any, cast, get_type_hints
from urllib.parse import quote, urlsplit

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.utils.signature import ParsedSignature
from markupsafe import Markup

from phr import clock, ids
from phr.appliance import Appliance
from phr.errors import InvalidInput, NotFound, NotSignedIn, Sealed, StepUpNeeded, TokenRefused
from phr.sharing import endings, inbox
from phr.store import accounts, sessions
from phr.store.accounts import PatientView
from phr.store.house import House
from phr.store.sessions import Browser
from phr.store.vault import Vault
from phr.web.forms import Form, uploads_of
from phr.web.look import WORTH_PACKING, Look

__all__ = ["Access", "Form", "Visit", "action", "live_page", "page", "slow_page"]

FRESH = timedelta(minutes=5)  # how long a password or code counts for a step that needs it
CSRF_FIELD = "csrf"
HTML = "text/html"
KEY = "homeport.visit"  # where the Visit lies in the ASGI scope
WELL_KNOWN = "/.well-known/"
# Doors where programs in other people's pages ask (Fetch §3.2): by token, never by cookie. Only
# these answer OPTIONS.
FOREIGN_PAGES = ("/fhir/", "/oauth/token", "/oauth/revoke", "/oauth/introspect",
                 "/oauth/keys.json", WELL_KNOWN, "/h/")  # fmt: skip
OPTIONS = frozenset({"sealed", "csrf", "uploads", "always", "most", "anonymous", "stops"})
# What programs ask for at the doors waits for each other, not in front of what the household does:
# fifty that read at once would keep the tap that stops them waiting for half a second.
DOOR_THREADS = min(32, (os.cpu_count() or 1) + 4)  # as many as the event loop has for the rest
AT_DOORS = ThreadPoolExecutor(DOOR_THREADS, thread_name_prefix="door")

Decorator = Callable[[Callable[..., Any]], HTTPRouteHandler]


class Access(StrEnum):
    """Who a route lets in. There is no default: a route without it refuses everybody."""

    ANYONE = "anyone"  # signed in or not
    SETUP = "setup"  # only while there is no account yet
    ACCOUNT = "account"  # signed in
    MEMBER = "member"  # may read the patient named in the path
    PROXY = "proxy"  # self or proxy: may change things for that patient
    ADMINISTRATOR = "administrator"
    LINK = "link"  # a door: the handler asks the gate who holds which handle
    BEARER = "bearer"  # a door for machines: no cookie, the handler asks the gate about the token
    APP = "app"  # a door of OAuth: who asks proves it there, or is led to the patient


@dataclass(slots=True)
class SetCookie:
    """A cookie to send; `max_age` in seconds, None until the browser closes, 0 ends it."""

    name: str
    value: str
    path: str = "/"
    max_age: int | None = None
    same_site: str = "lax"


class Desk:
    """What is put down for one browser for a few minutes, in memory only: a kit being confirmed.

    Never more than 500 things; each is gone after 15 minutes or when it is taken.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._things: dict[tuple[str, str], tuple[datetime, Any]] = {}

    def put(self, owner: str, name: str, thing: Any) -> None:
        """Put a thing down for an owner (what the browser's forms are bound to)."""
        now = clock.now()
        kept = {key: value for key, value in self._things.items() if value[0] > now}
        while len(kept) >= 500:
            kept.pop(next(iter(kept)))
        self._things = kept | {(owner, name): (now + timedelta(minutes=15), thing)}

    def look(self, owner: str, name: str) -> Any:
        """Return the thing, or None."""
        until, thing = self._things.get((owner, name), (clock.now(), None))
        return thing if until > clock.now() else None

    def clear(self, owner: str, name: str) -> None:
        """Take the thing away."""
        self._things.pop((owner, name), None)


@dataclass(slots=True)
class Known:
    """What the house says of one browser, and the state of the house in which it said so."""

    at: object
    browser: Browser
    people: list[PatientView]
    warnings: dict[str, list[str]] = field(default_factory=dict)  # patient id -> sentences
    kit_waits: bool = False  # the recovery kit of set-up is still to be confirmed

    def holds(self, house: House) -> bool:
        """Tell whether nothing was written to house.db, opened or sealed since then."""
        return self.at == state_of(house)


def state_of(house: House) -> object:
    """Return what changes with every commit to house.db and every vault opened or sealed.

    One process writes there: what ends a session or a membership has changed it when it returns.
    """
    return house.database.commits, frozenset(house.open_vaults)


@dataclass(eq=False)
class Visit:
    """One request, after it was let in: who asks, for which patient, and how to answer."""

    appliance: Appliance
    look: Look
    path: str  # below the sub-path, as routed
    query: Mapping[str, str]  # first value of each
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    network: str  # address of the peer, IPv6 cut to /64: the key of limits
    secure: bool  # cookies may be Secure
    at_home: bool  # at the home address; not at a public door
    desk: Desk
    csrf_mark: str = ""  # what CSRF tokens of this browser are bound to
    session: Browser | None = None
    known: "Known | None" = None  # what is remembered of this browser; None asks the house anew
    patient: PatientView | None = None
    form: Form | None = None  # as posted, for pages that repeat it
    body: bytes = b""  # as a program posted it (`csrf=False`)
    confirming: bool = False  # a password is being checked on a confirm page
    set_cookies: list[SetCookie] = field(default_factory=list)
    extra_headers: dict[str, str] = field(default_factory=dict)

    # ------------------------------------------------------------ who

    @property
    def account_id(self) -> str:
        """Id of the account signed in; NotSignedIn without one."""
        return self._signed_in().account_id

    @property
    def account_name(self) -> str:
        """Name of the account signed in; NotSignedIn without one."""
        return self._signed_in().account_name

    @property
    def is_administrator(self) -> bool:
        """Whether an administrator is signed in."""
        return self.session is not None and self.session.administrator

    @cached_property
    def people(self) -> list[PatientView]:
        """The patients whose record this account is a member of."""
        if self.session is None:
            return []
        house = self.appliance.house
        if self.known is not None and self.known.holds(house):
            return self.known.people
        return accounts.patients_of(house, self.session.account_id)

    @property
    def vault(self) -> Vault:
        """The open vault of the patient in the path; raises Sealed or NotFound."""
        if self.patient is None:
            raise NotFound
        return self.appliance.vault(self.patient.id)

    @property
    def waiting(self) -> int:
        """How many arrivals wait in the inbox of the patient in the path; none while sealed."""
        if self.patient is None or not self.patient.is_open:
            return 0
        with suppress(Sealed, NotFound):
            return inbox.waiting(self.vault)
        return 0

    @property
    def unanswered(self) -> int:
        """How many proposals of apps wait for whoever may answer them; none while sealed."""
        if self.patient is None or not self.patient.is_open or self.patient.role == "viewer":
            return 0
        from phr import consented  # noqa: PLC0415 - not before the first page

        with suppress(Sealed, NotFound):
            return consented.unanswered(self.vault)
        return 0

    @property
    def actor(self) -> dict[str, str]:
        """Who acts, in the form the audit log keeps."""
        return {"kind": "account", "id": self.account_id, "name": self.account_name}

    def _signed_in(self) -> Browser:
        if self.session is None:
            raise NotSignedIn
        return self.session

    def require_step_up(self) -> str:
        """Return the fresh factor ("password" or "totp"), or raise StepUpNeeded (DESIGN §7.10)."""
        browser = self._signed_in()
        at, factor = browser.stepped_up_at, browser.stepped_up_with
        if at is None or clock.now() - at > FRESH:
            raise StepUpNeeded
        if factor != "totp" and accounts.has_totp(self.appliance.house, browser.account_id):
            raise StepUpNeeded  # a password does not stand in for the code that is enrolled
        return browser.stepped_up_with or "password"

    # ------------------------------------------------------------ the request

    @property
    def is_htmx(self) -> bool:
        """Whether htmx asks for a piece of a page."""
        return self.headers.get("hx-request") == "true"

    @property
    def here(self) -> str:
        """Path and query of this request, below the sub-path."""
        query = "&".join(f"{quote(k)}={quote(v)}" for k, v in self.query.items())
        return f"{quote(self.path)}?{query}" if query else quote(self.path)

    @property
    def came_by(self) -> str:
        """The host name of this request where it is not the configured one; "" else.

        A hospital leads back to the configured name, where this browser would be a stranger. Behind
        a proxy the name we see may be the proxy's own, so nothing is said.
        """
        settings = self.appliance.settings
        host = self.headers.get("host", "").lower()
        told = settings.tls == "proxy" or settings.trusted_proxies or not self.at_home
        return "" if told or host == urlsplit(settings.home_url).netloc.lower() else host

    @property
    def agent(self) -> str:
        """The browser in coarse words: "Firefox on Linux"."""
        return coarse_agent(self.headers.get("user-agent", ""))

    @property
    def csrf(self) -> str:
        """A token for a form of this browser; masked anew each time (BREACH)."""
        return mask(csrf_tag(self.appliance.house.key, self.csrf_mark))

    def csrf_fits(self, token: str) -> bool:
        """Tell whether a token was made for this very browser session."""
        expected = csrf_tag(self.appliance.house.key, self.csrf_mark)
        return bool(self.csrf_mark) and hmac.compare_digest(unmask(token), expected)

    # ------------------------------------------------------------ between two requests

    def put_down(self, name: str, thing: Any) -> None:
        """Keep a thing for this browser for 15 minutes, in memory only."""
        self.desk.put(self.csrf_mark, name, thing)

    def kept(self, name: str) -> Any:
        """Return what was put down under a name, or None."""
        return self.desk.look(self.csrf_mark, name)

    def forget(self, name: str) -> None:
        """Take away what was put down."""
        self.desk.clear(self.csrf_mark, name)

    # ------------------------------------------------------------ the answer

    def url(self, path: str) -> str:
        """Return the address of an own path, below the sub-path of this application."""
        return self.look.url(path)

    def csrf_field(self) -> Markup:
        """Return the hidden field that every form carries."""
        field = f'<input type="hidden" name="{CSRF_FIELD}" value="{self.csrf}">'
        return Markup(field)  # noqa: S704 (base64)

    def render(
        self,
        template: str,
        *,
        status: int = 200,
        block: str | None = None,
        form_targets: Sequence[str] = (),
        **context: Any,
    ) -> Response[bytes]:
        """Draw a template inside the layout.

        `block` is drawn alone when htmx asks. `form_targets` are foreign origins to which a form
        of this page may lead (CSP form-action also counts for redirects).
        """
        if form_targets:
            self.extra_headers["form-action"] = " ".join(form_targets)
        piece = block if self.is_htmx else None
        html = self.look.draw(template, self._context(context, whole=piece is None), piece)
        return self._packed(html.encode(), status)

    def _packed(self, body: bytes, status: int) -> Response[bytes]:
        """Answer with HTML, gzipped where that gains something.

        What is secret in a page (the form token) is masked anew each time, so its length tells
        nothing (BREACH).
        """
        headers = {"Vary": "Accept-Encoding, HX-Request"}
        if len(body) > WORTH_PACKING and "gzip" in self.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 1, mtime=0)  # 4 makes 5 % less of it in twice the time
            headers["Content-Encoding"] = "gzip"
        return Response(body, media_type=HTML, status_code=status, headers=headers)

    def _context(self, context: dict[str, Any], *, whole: bool) -> dict[str, Any]:
        given = {
            "visit": self,
            "patient": self.patient,
            "people": self.people,
            "csrf_field": self.csrf_field,
            "notes": self._notes() if whole else (),
            "warnings": self._warnings() if whole else (),
        }
        return given | context

    def _notes(self) -> Sequence[str]:
        if self.session is None or not self.session.flash:
            return ()
        return sessions.take_notes(self.appliance.house, self.session)

    def _warnings(self) -> Sequence[str]:
        """What the store has to tell the members: a restore, a rolled-back file."""
        if self.patient is None:
            return ()
        house, patient_id = self.appliance.house, self.patient.id
        kept = self.known.warnings if self.known is not None and self.known.holds(house) else {}
        if patient_id not in kept:
            kept[patient_id] = house.warnings(patient_id)
        return kept[patient_id]

    def redirect(self, path: str, flash: str | None = None) -> Response[bytes]:
        """Lead to an own path (303); `flash` is said once on the next page."""
        if flash and self.session is not None:
            sessions.leave_note(self.appliance.house, self.session, flash)
        return self.leave(self.url(safe_path(path)))

    def leave(self, url: str) -> Response[bytes]:
        """Lead to a whole address, also a foreign one (a hospital's sign-in page)."""
        if self.is_htmx:
            return Response(b"", media_type=HTML, headers={"HX-Redirect": url}, status_code=200)
        return Response(b"", media_type=HTML, headers={"Location": url}, status_code=303)

    def set_cookie(
        self, name: str, value: str, *, path: str = "/", max_age: int | None = None
    ) -> None:
        """Send a cookie: HttpOnly, SameSite=Lax, under https also Secure and `__Host-`."""
        self.set_cookies.append(SetCookie(self.cookie_name(name), value, path, max_age))

    def cookie(self, name: str) -> str:
        """Return a cookie the browser sent, or an empty text."""
        return self.cookies.get(self.cookie_name(name), "")

    def cookie_name(self, name: str) -> str:
        """Return the name a cookie goes by: `__Host-` under https."""
        return f"__Host-{name}" if self.secure else name


# ------------------------------------------------------------------ routes


def page(path: str | Sequence[str], *, access: Access, **options: Any) -> Decorator:
    """Declare a GET page that only reads by index; it runs directly. Options: `sealed=True`."""
    return _route(path, ["GET", "HEAD"], access, options)


def slow_page(path: str | Sequence[str], *, access: Access, **options: Any) -> Decorator:
    """Declare a GET page that may take long; it runs in a thread.

    Option: `anonymous=True` is for what a door of programs tells everybody, whatever they show.
    """
    return _route(path, ["GET", "HEAD"], access, options, threaded=True)


def live_page(path: str | Sequence[str], *, access: Access, **options: Any) -> Decorator:
    """Declare an `async def` GET route, for server-sent events."""
    return _route(path, ["GET"], access, options)


def action(path: str | Sequence[str], *, access: Access, **options: Any) -> Decorator:
    """Declare a POST; it runs in a thread, after Origin and CSRF token were checked.

    Options: `uploads=True` streams files (`form.uploads()`; the csrf field must come first),
    `sealed=True` also lets in while the patient's vault is sealed, `stops=True` lets nobody read
    for others meanwhile, `csrf=False` is for machines, whose body may have `most` bytes.
    """
    return _route(path, ["POST"], access, options, threaded=True)


def replacement(path: str | Sequence[str], *, access: Access, **options: Any) -> Decorator:
    """Declare a PUT for machines; it runs in a thread. Option: `most` bytes of its body."""
    return _route(path, ["PUT"], access, {"csrf": False, **options}, threaded=True)


def removal(path: str | Sequence[str], *, access: Access, **options: Any) -> Decorator:
    """Declare a DELETE for machines; it runs in a thread."""
    return _route(path, ["DELETE"], access, {"csrf": False, **options}, threaded=True)


def _route(
    path: str | Sequence[str],
    methods: Sequence[Any],
    access: Access,
    options: dict[str, Any],
    *,
    threaded: bool = False,
) -> Decorator:
    name = options.pop("name", None)
    if unknown := set(options) - OPTIONS:
        raise TypeError(f"unknown route options: {sorted(unknown)}")
    if not options.get("csrf", True) and access not in {Access.BEARER, Access.APP}:
        raise TypeError("without a form token only where no cookie counts")
    opt = {"access": access, **options}
    uploads = bool(options.get("uploads"))
    by_token = access is Access.BEARER and not options.get("anonymous")
    return lambda handler: _Handler(
        path,
        http_method=methods,
        opt=opt,
        name=name,
        status_code=200,
        sync_to_thread=None if threaded or iscoroutinefunction(handler) else False,
    )(_endpoint(handler, threaded=threaded, uploads=uploads, by_token=by_token))


def _threads_of(visit: Visit) -> ThreadPoolExecutor | None:
    """Return the threads in which a request is answered; None: those of the event loop."""
    return None if visit.at_home else AT_DOORS


def _refuse_stopped(visit: Visit) -> None:
    """Refuse a token that the patient stopped, before it waits for a thread behind the others.

    The gate decided that when it was stopped; every other token it still has to look up.
    """
    scheme, _, token = visit.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and endings.is_shut(token.strip().partition(".")[0]):
        raise TokenRefused


class _Handler(HTTPRouteHandler):
    """A route to Litestar. It sees one signature, `_endpoint`'s: what it learns of that is shared.

    A model for each of 130 routes would cost 2 MB.
    """

    @property
    def parsed_fn_signature(self) -> ParsedSignature:
        """The signature of every endpoint."""
        if "parsed" not in _SHARED:
            _SHARED["parsed"] = super().parsed_fn_signature
        parsed: ParsedSignature = _SHARED["parsed"]
        return parsed

    @property
    def signature_model(self) -> Any:
        """The model of that signature."""
        if "model" not in _SHARED:
            _SHARED["model"] = super().signature_model
        return _SHARED["model"]


_SHARED: dict[str, Any] = {}


def _endpoint(
    handler: Callable[..., Any], *, threaded: bool, uploads: bool, by_token: bool
) -> Callable[..., Any]:
    """Return what Litestar calls: it fills `visit`, `form`, path and query parameters by name.

    Threads are ours too: Litestar wraps a handler twice when its path is declared twice.
    """
    hints = get_type_hints(handler)
    wanted = {
        name: _Parameter(hints.get(name, str) is int, each.default)
        for name, each in signature(handler).parameters.items()
    }

    def filled(request: Any) -> dict[str, Any]:
        return {name: each.of(name, request) for name, each in wanted.items()}

    async def in_thread(request: Request[Any, Any, Any]) -> Response[Any]:
        call = partial(handler, **filled(request))
        visit: Visit = cast("Any", request.scope)[KEY]
        if by_token:
            _refuse_stopped(visit)
        pool = uploads_of(at_home=visit.at_home) if uploads else _threads_of(visit)
        answer: Response[Any] = await asyncio.get_running_loop().run_in_executor(pool, call)
        return answer

    async def awaited(request: Request[Any, Any, Any]) -> Response[Any]:
        answer: Response[Any] = await handler(**filled(request))
        return answer

    def direct(request: Request[Any, Any, Any]) -> Response[Any]:
        answer: Response[Any] = handler(**filled(request))
        return answer

    endpoint: Any = in_thread if threaded else direct
    if iscoroutinefunction(handler):
        endpoint = awaited
    endpoint.__name__, endpoint.__qualname__ = handler.__name__, handler.__qualname__
    endpoint.__module__, endpoint.__doc__ = handler.__module__, handler.__doc__
    return cast("Callable[..., Any]", endpoint)


@dataclass(frozen=True, slots=True)
class _Parameter:
    """How one parameter of a handler is filled; whole numbers are read, all else is text."""

    whole: bool
    default: Any

    def of(self, name: str, request: Any) -> Any:
        visit: Visit = request.scope[KEY]
        if name == "visit":
            return visit
        if name == "form":
            return visit.form or Form()
        if name == "request":
            return request
        in_path = request.scope["path_params"].get(name)
        text = visit.query.get(name) if in_path is None else in_path
        if text is None:
            return self._absent(name)
        if not self.whole:
            return text
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise NotFound
        return int(text)

    def _absent(self, name: str) -> Any:
        if self.default is Parameter.empty:
            raise InvalidInput(f"The address lacks “{name}”.")
        return self.default


# ------------------------------------------------------------------ small pure parts


def safe_path(path: str, default: str = "/") -> str:
    """Return an own absolute path as it is; anything that could lead elsewhere gives `default`."""
    parts = urlsplit(path)
    own = path.startswith("/") and not path.startswith(("//", "/\\"))
    plain = path.isascii() and path.isprintable() and "\\" not in path and len(path) < 2000
    return path if own and plain and not parts.netloc and not parts.scheme else default


def csrf_tag(key: bytes, bound_to: str) -> bytes:
    """Return the tag that binds a form to one browser session."""
    return hmac.digest(key, b"homeport form " + bound_to.encode(), "sha256")


def mask(tag: bytes) -> str:
    """Return a tag in a form that differs each time."""
    pad = ids.random_bytes(len(tag))
    mixed = bytes(a ^ b for a, b in zip(pad, tag, strict=True))
    return urlsafe_b64encode(pad + mixed).decode()


def unmask(token: str) -> bytes:
    """Return the tag inside a token; nonsense gives an empty one."""
    try:
        raw = urlsafe_b64decode(token.encode("ascii"))
    except ValueError:
        return b""
    half = len(raw) // 2
    return bytes(a ^ b for a, b in zip(raw[:half], raw[half:], strict=False))


_BROWSERS = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "Mac"),
    ("Linux", "Linux"),
)


def coarse_agent(text: str) -> str:
    """Return browser and system in coarse words; what cannot be told is "a browser"."""
    browser = next((word for mark, word in _BROWSERS if mark in text), "A browser")
    system = next((word for mark, word in _SYSTEMS if mark in text), "")
    return f"{browser} on {system}" if system else browser
