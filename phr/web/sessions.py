"""Who is asking: the session cookie, the CSRF check, and the one place that enforces `Access`.

Also the step-up: a confirm page posts the original form again with the password in it, and that
password is taken out here before the handler runs. The sessions themselves sleep in `phr.store`.
"""

import asyncio
import ipaddress
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

from litestar.exceptions import MethodNotAllowedException
from litestar.types import ASGIApp, Receive, Scope, Send

from phr import clock, courtesy, ids
from phr.appliance import Appliance
from phr.errors import Denied, Ended, InvalidInput, NotFound, NotSignedIn, Sealed, TooManyTries
from phr.sharing import gate
from phr.sharing.provision import Action
from phr.store import accounts, sessions
from phr.store.models import MemberRole
from phr.web import forms, outcome
from phr.web.forms import Form
from phr.web.look import Look
from phr.web.presented import by_cookie, by_token, vault_of
from phr.web.routing import CSRF_FIELD, KEY, Access, Desk, Known, Visit, state_of

COOKIE = "hp"
FORM_COOKIE = "hp-form"  # what forms of a browser that is not signed in are bound to
DOOR_COOKIE = "hp-door"  # the same at the public address (ports of one host share cookies)
STEP_UP_PASSWORD = "confirm.password"  # noqa: S105 - the name of a field
STEP_UP_TOTP = "confirm.totp"
STEP_UP_FIELDS = frozenset({STEP_UP_PASSWORD, STEP_UP_TOTP})
SAFE_METHODS = frozenset({"GET", "HEAD"})
MOST_KNOWN = 200  # browsers remembered between two requests
CHANGING_ROLES = frozenset({MemberRole.SELF, MemberRole.PROXY})

FOREIGN_FORM = (
    "This form was open for too long, or it was not sent from this page. Nothing was changed. "
    "Please go back, reload the page and send it again."
)
MAY_ONLY_LOOK = "You may look at this record, but not change it."
ONE_AT_A_TIME = "Something is still being sent by this link. Please try again in a moment."
PATIENCE = 10.0  # seconds in which a second form of one link waits for the first


class CrossSite(Denied):
    """A form that did not come from our own page, or whose token does not fit."""

    sentence = FOREIGN_FORM


class SetupFirst(NotSignedIn):
    """Nobody has claimed this box yet: everything leads to the set-up page."""

    sentence = "Please set up this Homeport first."


class KitFirst(Denied):
    """The recovery kit of set-up is not confirmed: no page of a record opens before it is."""

    sentence = "Please confirm your recovery kit first."


class Doorkeeper:
    """Lets each request of one application in, or raises; `origins` may send forms."""

    def __init__(
        self, appliance: Appliance, look: Look, *, origins: frozenset[str], secure: bool, home: bool
    ) -> None:
        """Take what every visit needs; `home` tells the pages from the public doors."""
        self.appliance = appliance
        self.look = look
        self.origins = origins
        self.secure = secure
        self.home = home
        self.desk = Desk()
        self._claimed = False
        self._known: dict[bytes, Known] = {}
        self._known_at: object = None  # the state of the house in which all of it was read
        self._held = forms.Held()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.idle = timedelta(minutes=appliance.settings.idle_minutes)

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Return the middleware that admits a request and hands its Visit to the handler."""

        async def admitted(scope: Scope, receive: Receive, send: Send) -> None:
            with ExitStack() as leaving:
                await self.admit(scope, receive, leaving)
                await app(scope, receive, send)

        return admitted

    async def admit(self, scope: Any, receive: Receive, leaving: ExitStack) -> None:
        """Check one request against its route: origin, session, form token, access, step-up.

        What it holds until it is answered is given back by `leaving`.
        """
        options = scope["route_handler"].opt
        visit = self.visit_of(scope)
        scope[KEY] = visit
        access = _declared(scope)
        unsafe = scope["method"] not in SAFE_METHODS
        checked = unsafe and options.get("csrf", True)
        if checked:
            self._check_origin(visit)
        if access not in {Access.BEARER, Access.APP}:  # no browser's session, and none is begun
            self._recognise(visit)
        self._check_account(visit, access, always=options.get("always", False))
        if checked:
            visit.form = Form()  # who is turned away now is not led back to what was posted
        self._check_patient(visit, access, scope["path_params"], options.get("sealed", False))
        leaving.enter_context(_turn_of(options))
        uploads = options.get("uploads", False)
        if access is Access.LINK and uploads:
            try:
                await self._check_link(visit, str(scope["path_params"].get("routing_id")), leaving)
            except (Ended, Denied, Sealed):
                return  # nothing is read: the door says it in its own words, to an empty form
        if unsafe:
            take = leaving.enter_context(self._held.room(visit.network))
        if checked:  # only now: a stranger must not keep a thread busy with an upload
            visit.form = await _read_form(visit, receive, take, uploads=uploads)
            self._check_token(visit)
        elif unsafe:  # of a program: no cookie counts there, so no form of ours can be forged
            visit.body, visit.form = await forms.read_machine(
                receive,
                visit.headers,
                options.get("most", forms.MAX_BODY),
                vouch=partial(_vouch, visit),
                take=take,
            )
            return
        await self._note(visit)

    # ------------------------------------------------------------ the request

    def visit_of(self, scope: Any) -> Visit:
        """Return the visit of a request that was not admitted yet."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        return Visit(
            appliance=self.appliance,
            look=self.look,
            path=scope["path"],
            query=_query(scope.get("query_string", b"")),
            headers=headers,
            cookies=_cookies(headers.get("cookie", "")),
            network=network_of(scope.get("client")),
            secure=self.secure,
            at_home=self.home,
            desk=self.desk,
        )

    def _check_origin(self, visit: Visit) -> None:
        """Require that a form comes from our own pages (OWASP CSRF, Fetch Metadata §2)."""
        site = visit.headers.get("sec-fetch-site")
        origin = visit.headers.get("origin")
        if site not in {None, "same-origin"}:
            raise CrossSite("cross-site request")
        if origin is None and site is None:
            raise CrossSite("a form without origin")
        if origin is not None and origin not in self.origins:
            raise CrossSite("foreign origin")

    def _recognise(self, visit: Visit) -> None:
        """Find the session of the cookie; without one bind forms to a cookie of their own."""
        secret = visit.cookie(COOKIE) if self.home else ""
        known = self._know(ids.fingerprint(secret)) if secret else None
        if known is not None and sessions.is_live(known.browser, idle=self.idle):
            visit.known, visit.session = known, known.browser
            visit.csrf_mark = f"session {visit.session.public_id}"
            return
        name = FORM_COOKIE if self.home else DOOR_COOKIE
        mark = visit.cookie(name)
        if len(mark) < 40:
            mark = ids.new_secret()
            visit.set_cookie(name, mark, path=cookie_path(visit))
        visit.csrf_mark = f"browser {mark}"

    def _know(self, id_hash: bytes) -> Known | None:
        """Return who a browser is, remembered for as long as the house stays as it was then."""
        house = self.appliance.house
        at = state_of(house)
        if at != self._known_at or len(self._known) >= MOST_KNOWN:
            self._known, self._known_at = {}, at
        known = self._known.get(id_hash)
        if known is None:
            browser = sessions.remembered(house, id_hash)
            if browser is None:
                return None
            known = Known(at, browser, accounts.patients_of(house, browser.account_id))
            known.kit_waits = accounts.waits_for_kit(house, browser.account_id)
            self._known[id_hash] = known
        return known

    def _check_token(self, visit: Visit) -> None:
        given = visit.headers.get("x-csrf-token") or (visit.form or Form()).get(CSRF_FIELD)
        if not visit.csrf_fits(given):
            raise CrossSite("the form token does not fit")

    # ------------------------------------------------------------ access

    def _check_account(self, visit: Visit, access: Access, *, always: bool) -> None:
        if always or access in {Access.LINK, Access.BEARER, Access.APP}:
            return
        waiting = visit.session is None and self._unclaimed()
        if access is Access.SETUP:
            if not waiting:
                raise NotFound
            return
        if waiting:
            raise SetupFirst
        if access is Access.ANYONE:
            return
        if visit.session is None:
            raise NotSignedIn
        if access is Access.ADMINISTRATOR and not visit.session.administrator:
            raise NotFound

    def _unclaimed(self) -> bool:
        """Whether there is no account yet; once there was one, nobody looks again."""
        self._claimed = self._claimed or not self.appliance.needs_setup()
        return not self._claimed

    def _check_patient(
        self, visit: Visit, access: Access, params: Mapping[str, Any], sealed: bool
    ) -> None:
        if access not in {Access.MEMBER, Access.PROXY}:
            return
        wanted = params.get("patient_id")
        found = next((person for person in visit.people if person.id == wanted), None)
        if found is None:
            raise NotFound
        if visit.known is not None and visit.known.kit_waits:
            raise KitFirst
        visit.patient = found
        if access is Access.PROXY and found.role not in CHANGING_ROLES:
            raise Denied("viewer", MAY_ONLY_LOOK)
        if not sealed and not found.is_open:
            raise Sealed

    async def _check_link(self, visit: Visit, routing_id: str, leaving: ExitStack) -> None:
        """Require a bound browser that may send now, and its turn, before a file is read.

        A routing id stands in addresses and outlives its link: it alone must hold nothing up.
        """
        await asyncio.to_thread(_may_send, visit, routing_id)
        turn = self._turns.setdefault(routing_id, asyncio.Lock())
        try:
            async with asyncio.timeout(PATIENCE):
                await turn.acquire()
        except TimeoutError:
            after = clock.now() + timedelta(seconds=forms.SILENCE)
            raise TooManyTries(ONE_AT_A_TIME, after=after) from None
        leaving.callback(turn.release)

    async def _note(self, visit: Visit) -> None:
        """Take the step-up out of the form, and remember that the browser was seen."""
        browser, form = visit.session, visit.form
        if browser is None:
            return
        if form is not None and any(form.has(name) for name in STEP_UP_FIELDS):
            visit.form = form.without(STEP_UP_FIELDS)
            await asyncio.to_thread(confirm, visit, form)
        elif sessions.needs_touch(browser):
            await asyncio.to_thread(sessions.touch, self.appliance.house, browser)


def _declared(scope: Any) -> Access:
    """Return whom the route lets in, as it declares; it takes the methods it declares and no other.

    OPTIONS comes to a handler of Litestar's own, which is none of ours.
    """
    if scope.get("method") == "OPTIONS":
        has = scope["litestar_app"].route_handler_method_map[scope["path_template"]]
        raise MethodNotAllowedException(headers={"allow": ", ".join(has)})
    access = scope["route_handler"].opt.get("access")
    if scope["type"] != "http" or not isinstance(access, Access):
        raise Denied("the route declares no access")
    return access


def _may_send(visit: Visit, routing_id: str) -> None:
    """Ask the gate about a browser at a link; NotFound where the patient did not offer sending."""
    terms = gate.look(vault_of(visit, routing_id), by_cookie(visit, routing_id), now=clock.now())
    if Action.CONTRIBUTE not in terms.actions:
        raise NotFound


async def _vouch(visit: Visit) -> None:
    """Refuse a large body whose sender shows no token that stands; doors of a grant's data only.

    Raises as the door itself would: TokenRefused, Sealed or Denied.
    """
    if not outcome.is_ours(visit.path):
        raise InvalidInput(forms.TOO_LARGE)
    await asyncio.to_thread(_must_stand, visit)


def _must_stand(visit: Visit) -> None:
    vault, grant_id, bearer = by_token(visit)
    with vault.read() as session:
        gate.stands(session, vault, grant_id, bearer, now=clock.now())


def _turn_of(options: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Return what holds while a request is answered: who stops something goes before all others."""
    return courtesy.stopping() if options.get("stops") else nullcontext()


async def _read_form(visit: Visit, receive: Receive, take: forms.Take, *, uploads: bool) -> Form:
    kind = visit.headers.get("content-type", "")
    if uploads and kind.lower().startswith("multipart/"):
        return await forms.open_stream(receive, visit.headers, at_home=visit.at_home)
    return await forms.read(receive, visit.headers, take)


def _query(raw: bytes) -> dict[str, str]:
    """Return the query's fields, the first of each; more than 100 are refused."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), max_num_fields=100, keep_blank_values=True)
    except ValueError as error:
        raise InvalidInput from error
    return dict(reversed(pairs))


def _cookies(header: str) -> dict[str, str]:
    """Return cookies by name; of two with one name the first counts (the longest path)."""
    found: dict[str, str] = {}
    for part in header.split(";")[:50]:
        name, _, value = part.strip().partition("=")
        found.setdefault(name, value)
    return found


def network_of(client: Any) -> str:
    """Return the peer's address as limits count it: IPv4 whole, IPv6 by its /64."""
    return _network(client[0]) if client and isinstance(client[0], str) else "unknown"


@lru_cache(maxsize=256)
def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "unknown"
    if address.version == 6 and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)


# ------------------------------------------------------------------ signing in and out


def begin(visit: Visit, account_id: str, factor: str) -> None:
    """Give this browser a new session; whatever id it came with is dead (ASVS 7.2.4)."""
    house = visit.appliance.house
    if visit.session is not None:
        sessions.end(house, visit.session.account_id, visit.session.public_id)
    lifetime = timedelta(hours=visit.appliance.settings.session_hours)
    secret = sessions.start(
        house, account_id, browser=visit.agent, lifetime=lifetime, factor=factor
    )
    _use(visit, secret)


def confirm(visit: Visit, form: Form) -> None:
    """Check the password or code of a confirm page; the session goes on under a new id."""
    browser = visit.session
    if browser is None:
        raise NotSignedIn
    house = visit.appliance.house
    visit.confirming = True
    if accounts.has_totp(house, browser.account_id):
        accounts.verify_totp(house, browser.account_id, form.get(STEP_UP_TOTP))
        factor = "totp"
    else:
        accounts.verify_password(house, browser.account_id, form.get(STEP_UP_PASSWORD))
        factor = "password"
    _use(visit, sessions.step_up(house, browser, factor))
    visit.confirming = False


def _use(visit: Visit, secret: str) -> None:
    idle = timedelta(minutes=visit.appliance.settings.idle_minutes)
    visit.session = sessions.find(visit.appliance.house, secret, idle=idle)
    if visit.session is None:
        raise NotSignedIn
    visit.known = None
    visit.csrf_mark = f"session {visit.session.public_id}"
    visit.set_cookie(COOKIE, secret, path=cookie_path(visit))
    visit.__dict__.pop("people", None)


def cookie_path(visit: Visit) -> str:
    """Return the path of our cookies: `__Host-` needs "/", else the sub-path."""
    return "/" if visit.secure else visit.look.base or "/"


def finish(visit: Visit) -> None:
    """End this browser's session; its pages are asked out of the browser's memory."""
    if visit.session is not None:
        sessions.end(visit.appliance.house, visit.session.account_id, visit.session.public_id)
    visit.session = None
    visit.set_cookie(COOKIE, "", path=cookie_path(visit), max_age=0)
    visit.extra_headers["clear-site-data"] = '"cache", "storage"'
