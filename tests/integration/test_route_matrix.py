"""Every route by every actor, from the route table: who is let in, and what the others see.

`OUTCOMES` declares what each (access, actor) gives; `routes.txt` beside this file names every route
with its access, so that a new one must be added by hand and seen in review; `tests/house` holds it.
"""

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock
from phr.fhir.record import Selection
from phr.sharing import gate, inbox
from phr.sharing import provision as policy
from phr.sharing.inbox import Sent
from phr.sharing.provision import READING, Action
from phr.store import accounts, members, records
from phr.web import app as web
from phr.web import application as parts
from phr.web.routing import Access
from tests.cast import HOME, PUBLIC, Browser, Cast, csrf_in, sign_in
from tests.fixtures_sharing import ADA, Share, a_record, keep_all, recent

INSIDE = "let in: this is the handler"

IN = "in"
GONE = "not found"  # 404, the same as for what does not exist
SIGN_IN = "sign in"  # 303 to the sign-in page
LOOK = "look only"  # 403 in words
UNLOCK = "unlock"  # 303 to the page that opens sealed records

ACTORS = (
    "anonymous",
    "self",
    "proxy",
    "viewer",
    "removed",
    "other",
    "administrator",
    "sealed",
)
PERSON = {
    "anonymous": SIGN_IN,
    "removed": GONE,
    "other": GONE,
    "administrator": GONE,
    "sealed": UNLOCK,
}
OUTCOMES: dict[Access, dict[str, str]] = {
    Access.ANYONE: dict.fromkeys(ACTORS, IN),
    Access.SETUP: dict.fromkeys(ACTORS, GONE),
    Access.ACCOUNT: dict.fromkeys(ACTORS, IN) | {"anonymous": SIGN_IN},
    Access.MEMBER: PERSON | {"self": IN, "proxy": IN, "viewer": IN},
    Access.PROXY: PERSON | {"self": IN, "proxy": IN, "viewer": LOOK},
    Access.ADMINISTRATOR: dict.fromkeys(ACTORS, GONE)
    | {"anonymous": SIGN_IN, "administrator": IN, "self": IN, "proxy": IN, "sealed": IN},
    Access.LINK: dict.fromkeys(ACTORS, IN),
    Access.BEARER: dict.fromkeys(ACTORS, IN),
    Access.APP: dict.fromkeys(ACTORS, IN),
}


def test_a_route_without_access_refuses_everybody(cast: Cast):
    bare = HTTPRouteHandler("/bare", http_method=["GET"], sync_to_thread=False)(_bare)
    app = parts.application([bare], cast.home.state.doorkeeper, address=HOME)
    with Browser(app, HOME) as browser:
        answer = browser.get("/bare")
        assert answer.status_code == 403
        assert INSIDE not in answer.text


def _bare() -> Response[str]:
    return Response(INSIDE)


# ------------------------------------------------------------------ the actors


class Stage:
    """Browsers of every actor, and whose record each of them knocks at."""

    def __init__(self, cast: Cast, home: Any, public: Any) -> None:
        house, vaults = cast.appliance.house, cast.appliance.vaults
        self.cast = cast
        for name, patient_id in cast.patients.items():
            accounts.set_person(house, vaults, patient_id, name=f"Canary {name}")
        self.browsers = {actor: self._browser(home, actor) for actor in ACTORS}
        self.stranger = Browser(public, PUBLIC)
        _remove_cleo(cast)
        vaults.seal(cast.patients["Ben"])
        self.tokens = {
            actor: csrf_in(browser.get("/account", follow_redirects=True).text)
            for actor, browser in self.browsers.items()
        }

    def _browser(self, home: Any, actor: str) -> Browser:
        browser = Browser(home, HOME)
        name = {"anonymous": None, "viewer": "Gil", "removed": "Cleo", "other": "Eve"}
        if who := name.get(actor, "Ada"):
            sign_in(browser, who)
        return browser

    def patient_of(self, actor: str) -> str:
        name = {"proxy": "Kid", "administrator": "Eve", "sealed": "Ben"}.get(actor, "Ada")
        return self.cast.patients[name]

    def knock(self, actor: str, method: str, path: str) -> Any:
        address = re.sub(r"\{patient_id:\w+\}", self.patient_of(actor), path)
        address = re.sub(r"\{[^}]+\}", "0", address)
        browser = self.browsers[actor]
        if method == "POST":
            return browser.post(address, data={"csrf": self.tokens[actor]})
        return browser.request(method, address)


def _remove_cleo(cast: Cast) -> None:
    house, vaults = cast.appliance.house, cast.appliance.vaults
    members.remove_member(
        house, vaults, cast.patients["Ada"], cast.accounts["Cleo"], by=cast.accounts["Ada"]
    )


@pytest.fixture
def stage_of(cast: Cast) -> Any:
    house, vaults = cast.appliance.house, cast.appliance.vaults
    cast.add_account("Gil")
    cast.let_in("Ada", "Gil", "viewer")
    cast.patients["Kid"] = accounts.create_patient(
        house,
        vaults,
        name="Kid",
        account_id=cast.accounts["Ada"],
        role="proxy",
        opens_by_itself=True,
    )
    return lambda home, public: Stage(cast, home, public)


def outcome_of(answer: Any) -> str:
    """Name what happened, from status, target and words together."""
    target = answer.headers.get("location", "")
    if answer.status_code == 303 and target.startswith("/signin"):
        return SIGN_IN
    if answer.status_code == 303 and target.startswith("/unlock"):
        return UNLOCK
    if answer.status_code == 404 and "There is nothing here" in answer.text:
        return GONE
    if answer.status_code == 403 and "not change it" in answer.text:
        return LOOK
    return IN if answer.status_code == 200 and answer.text == INSIDE else f"? {answer.status_code}"


def expected(handler: Any, actor: str) -> str:
    options = handler.opt
    outcome = IN if options.get("always") else OUTCOMES[options["access"]][actor]
    return IN if outcome == UNLOCK and options.get("sealed") else outcome


# ------------------------------------------------------------------ the matrix


def _with_echo(table: list[HTTPRouteHandler]) -> Iterator[HTTPRouteHandler]:
    """Yield the route table with every handler replaced by one that only says it was reached."""
    for handler in table:
        yield HTTPRouteHandler(
            sorted(handler.paths),
            http_method=sorted(handler.http_methods),
            opt=dict(handler.opt or {}),
            status_code=200,
            sync_to_thread=False,
        )(_echo_of(handler))


def _echo_of(handler: HTTPRouteHandler) -> Any:
    def echo() -> Response[bytes]:
        return Response(INSIDE.encode(), media_type="text/plain")

    echo.__name__ = f"echo_{id(handler)}"
    return echo


def test_the_doorkeeper_lets_in_exactly_whom_the_table_says(cast: Cast, stage_of: Any):
    keep_forms = {"/signin", "/account"}  # real pages: the actors take their tokens there
    real = [each for each in web.HOME if set(each.paths) & keep_forms]
    rest = [each for each in web.HOME if not set(each.paths) & keep_forms]
    home = parts.application([*real, *_with_echo(rest)], cast.home.state.doorkeeper, address=HOME)
    stage = stage_of(home, cast.public)
    wrong = []
    for handler in rest:
        for path in handler.paths:
            for method in sorted(set(handler.http_methods) - {"HEAD"}):
                for actor in ACTORS:
                    answer = stage.knock(actor, str(method), path)
                    if outcome_of(answer) != expected(handler, actor):
                        wrong.append((str(method), path, actor, outcome_of(answer)))
    assert wrong == []


def test_who_is_not_let_in_sees_and_changes_nothing(cast: Cast, stage_of: Any):
    stage = stage_of(cast.home, cast.public)
    before = _state(cast)
    for handler in web.HOME:
        for actor in ACTORS:
            wanted = expected(handler, actor)
            if wanted == IN:
                continue
            for path in handler.paths:
                for method in sorted(handler.http_methods):
                    answer = stage.knock(actor, str(method), path)
                    where = (str(method), path, actor, answer.status_code)
                    assert method == "HEAD" or outcome_of(answer) == wanted, where
                    others = {"anonymous", "removed", "other"}
                    assert actor not in others or "Canary Ada" not in answer.text, where
                    assert actor != "administrator" or "Canary Eve" not in answer.text, where
    assert _state(cast) == before


def test_every_page_answers_those_who_may_see_it(cast: Cast, stage_of: Any):
    stage = stage_of(cast.home, cast.public)
    for handler in web.HOME:
        if "GET" not in handler.http_methods:
            continue
        for actor in ACTORS:
            if expected(handler, actor) != IN:
                continue
            for path in handler.paths:
                if path.endswith("/events"):
                    continue  # a stream does not end; its own tests read it
                answer = stage.knock(actor, "GET", path)
                assert answer.status_code in {200, 303, 400, 404, 503}, (path, actor)


def test_no_administrator_page_names_anything_of_a_record(cast: Cast, stage_of: Any):
    stage = stage_of(cast.home, cast.public)
    for handler in web.HOME:
        if (handler.opt or {})["access"] is Access.ADMINISTRATOR and "GET" in handler.http_methods:
            for path in handler.paths:
                text = stage.knock("administrator", "GET", path).text
                assert not re.search(r"Observation|mmol|mg/dL|Condition", text), path


def test_no_door_opens_to_an_unknown_handle(cast: Cast):
    stranger = cast.stranger()
    token = ""
    for handler in web.PUBLIC:
        if (handler.opt or {})["access"] is not Access.LINK:
            continue
        for path in handler.paths:
            address = re.sub(r"\{[^}]+\}", "0" * 32, path)
            answer = stranger.get(address)
            assert answer.status_code in {200, 404, 405, 410}, path
            assert "Canary" not in answer.text
            found = re.search(r'name="csrf" value="([^"]+)"', answer.text)
            token = found[1] if found else token
            if "POST" in handler.http_methods:
                posted = stranger.post(address, data={"csrf": token, "code": "000000"})
                assert posted.status_code in {403, 404, 410, 422}, path


def test_no_door_for_software_opens_without_a_live_token(cast: Cast):
    stranger = cast.stranger()
    asked = {"accept": "application/fhir+json"}
    with_token = asked | {"authorization": f"Bearer {'0' * 32}.{'x' * 43}"}
    for handler in web.PUBLIC:
        for path in handler.paths:
            if (handler.opt or {})["access"] is not Access.BEARER or not path.startswith("/fhir/"):
                continue
            named = path.replace("{operation:str}", "$everything")
            address = re.sub(r"\{[^}]+\}", "Patient", named)
            method = "POST" if "POST" in handler.http_methods else "GET"
            for headers in (asked, with_token):
                answer = stranger.request(method, address, headers=headers)
                assert answer.status_code == (200 if path == "/fhir/metadata" else 401), path
                assert "Canary" not in answer.text
                assert not answer.headers.get("set-cookie")


def _state(cast: Cast) -> Any:
    house = cast.appliance.house
    people = accounts.all_patients(house)
    return [
        (p.id, p.name, p.is_open, [(m.account_id, m.role) for m in members.members_of(house, p.id)])
        for p in people
    ], [(a.id, a.state, a.totp) for a in accounts.list_accounts(house)]


# ------------------------------------------------------------------ the doors of one link

SHARED = ("Juniper Sample", "Penicillin", "Levothyroxine", "Asthma", "North Quay")
NAMES = (*SHARED, "Canary", "Ada", "Dr. Pell", "First visit")
HIDDEN = ("Hiddenadvice", "Hiddendepression", "Hiddenpractitioner", "Secretville")

OPEN = "open"  # 200, and something of the record is in it
FORM = "form"  # 200, a form for the code that names nobody
BOUND = "leads in"  # 303 to the first page
NONE = "there is nothing here"  # 404, as for what does not exist
OVER = "has ended"  # 410 in words
PAUSED = "not shared right now"  # 403 in words
LOCKED = "locked just now"  # 503 in words

# What each state answers: to a look at the address with the secret, to a code typed there that is
# none, and to every address with the routing id alone.
LINK_STATES = {
    "live": (BOUND, FORM, OPEN),
    "other browser": (FORM, FORM, NONE),
    "cookie of another link": (FORM, FORM, NONE),
    "wrong secret, other browser": (NONE, NONE, NONE),
    "paused": (PAUSED, FORM, PAUSED),
    "paused, other browser": (FORM, FORM, NONE),
    "expired": (OVER, OVER, OVER),
    "expired, other browser": (OVER, OVER, NONE),
    "revoked": (OVER, OVER, OVER),
    "revoked, other browser": (OVER, OVER, NONE),
    "sealed": (LOCKED, LOCKED, LOCKED),
    "sealed, other browser": (LOCKED, LOCKED, LOCKED),
}


def a_letter() -> dict[str, Any]:
    """Return a document whose file stands inside it."""
    text = b64encode(b"Dear colleague, thank you.").decode()
    return {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "date": recent(5),
        "type": {"text": "Letter"},
        "subject": {"reference": "Patient/1"},
        "content": [{"attachment": {"contentType": "text/plain", "data": text}}],
    }


@dataclass
class Door:
    """One link in one state, and the browser that knocks at it."""

    link: Any
    secret: str
    browser: Browser
    record: str  # local id of a shared record with a file
    token: str
    arrival: str  # id of what was sent under this link

    def knock(self, method: str, path: str) -> Any:
        """Ask for one path of the route table, filled in for this link."""
        routing_id = self.link.handle_id
        filled = {"handle": f"{routing_id}.{self.secret}", "routing_id": routing_id}
        filled |= {"section": "allergies", "type_": "DocumentReference", "place": "0"}
        filled["arrival_id"] = self.arrival
        filled["local_id"] = self.record
        address = re.sub(r"\{(\w+):\w+\}", lambda found: filled[found[1]], path)
        if method == "POST":
            return self.browser.post(address, data={"csrf": self.token, "code": "12", "note": "n"})
        return self.browser.request(method, address)


@pytest.fixture
def door_in(cast: Cast, time_machine: Any) -> Any:
    """Return a maker of doors: a live link, and then whatever its state asks for."""
    vault = cast.vault("Ada")
    accounts.set_person(cast.appliance.house, cast.appliance.vaults, vault.id, name="Canary Ada")
    keep_all(vault, "North Quay", [*a_record(), a_letter()])
    share = Share(cast.appliance, vault)
    with vault.read() as session:
        letters = records.select(session, vault, Selection(types=("DocumentReference",)))

    everything = policy.preset("primary", now=clock.now())
    may_send = replace(everything, actions=READING | {Action.CONTRIBUTE})

    def make(state: str) -> Door:
        link = share.link(may_send)
        held = inbox.receive(
            vault,
            lambda: replace(
                gate.draft_terms(vault, may_send, shared_by="Ada", now=clock.now()),
                grant_id=link.grant_id,
            ),
            Sent(b"Hiddenadvice", is_note=True),
            handle_id=link.handle_id,
            now=clock.now(),
        )
        browser = cast.stranger()
        page = link.url.removeprefix(PUBLIC)
        token = browser.csrf(page)
        if state == "cookie of another link":
            other = share.link()
            at = other.url.removeprefix(PUBLIC)
            browser.submit(at, {"code": other.code}, page=at)
        elif "other browser" not in state:
            assert browser.submit(page, {"code": link.code}, page=page).status_code == 303
        if "sealed" in state:
            cast.appliance.vaults.seal(vault.id)
        elif "revoked" in state:
            gate.end(vault, link.grant_id, "patient", ADA, now=clock.now())
        elif "expired" in state:
            time_machine.move_to(clock.now() + timedelta(hours=25), tick=True)
        elif "paused" in state:
            gate.suspend(vault, link.grant_id, ADA)
        secret = link.url.rpartition(".")[2]
        if "wrong secret" in state:
            secret = secret[::-1]
        return Door(link, secret, browser, letters[0].local_id, token, held.id)

    return make


def door_outcome(answer: Any) -> str:
    """Name what a door did, from status, target and words together."""
    words = {
        404: ("There is nothing here", NONE),
        410: ("has ended", OVER),
        403: ("not shared right now", PAUSED),
        503: ("locked just now", LOCKED),
    }
    said, outcome = words.get(answer.status_code, ("", ""))
    if outcome and said in answer.text:
        return outcome
    if answer.status_code == 303 and re.fullmatch(r"/s/[0-9a-f]{32}", answer.headers["location"]):
        return BOUND
    if answer.status_code in {200, 400} and "Code with six digits" in answer.text:
        return FORM
    return OPEN if answer.status_code == 200 else f"? {answer.status_code}"


@pytest.mark.parametrize("state", LINK_STATES)
def test_every_door_answers_as_the_state_of_its_link_says(door_in: Any, state: str):
    door = door_in(state)
    looked, typed, without = LINK_STATES[state]
    if state == "live":
        _check_the_live_door(door)
        return
    for method, path in _doors():
        answer = door.knock(method, path)
        with_secret = typed if method == "POST" else looked
        wanted = with_secret if "{handle:" in path else without
        assert door_outcome(answer) == wanted, (method, path, answer.status_code)
        for name in (*NAMES, *HIDDEN):
            assert name not in answer.text, (method, path, name)


def _doors() -> list[tuple[str, str]]:
    """Return method and path of every door of a link; HEAD says nothing that could be read."""
    return [
        (method, path)
        for app, method, path, access in web.routes()
        if app == "public" and access is Access.LINK and path.startswith("/s/") and method != "HEAD"
    ]


def _check_the_live_door(door: Door) -> None:
    """Every door of a live link opens to its browser, with shared things only."""
    seen = ""
    for method, path in _doors():
        if path.endswith("/events"):
            continue  # a stream does not end; its own tests read it
        answer = door.knock(method, path)
        if "{handle:" in path:
            assert door_outcome(answer) == (BOUND if method == "GET" else FORM), (method, path)
            continue
        assert answer.status_code == (200 if method == "GET" else 303), (method, path, answer.text)
        assert not any(name in answer.text for name in HIDDEN), path
        assert "no-store" in answer.headers["cache-control"], path
        seen += answer.text
    first = door.browser.get(f"/s/{door.link.handle_id}").text
    assert all(name in first + seen for name in SHARED)
