"""Between other servers: let one fetch from another, or send by mail; see what stands; stop it.

What is asked of them is in `phr.between`; each of them asks its patient itself.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import between, clock, connect
from phr.between import Listed, Place
from phr.errors import Conflict, ConnectorError, InvalidInput, NetError, NotFound
from phr.sharing import pushes, servers
from phr.sharing.provision import PARTS
from phr.web.pages.asked import is_number
from phr.web.pages.connections import add_and_begin
from phr.web.pages.shares import base_of, step_up_of
from phr.web.routing import Access, Form, Visit, action, slow_page

DAYS: Final = {"30": "30 days", "90": "3 months", "365": "1 year"}
STARTED: Final = (
    "Both servers were asked. Now approve it at each of them: first where it is shared."
)
ASKED: Final = "The server was asked. Now approve it there."
HALTED: Final = "Stopped there. What was sent before cannot be called back."
STOPPED: Final = "Stopped there. What was fetched before stays with the other server."


@slow_page("/p/{patient_id:str}/between", access=Access.PROXY)
def show(visit: Visit) -> Response[Any]:
    """Show the servers that let this Homeport ask, and what stands at one of them."""
    return _draw(visit, at=visit.query.get("at", ""))


@action("/p/{patient_id:str}/between", access=Access.PROXY)
def answer(visit: Visit, form: Form) -> Response[Any]:
    """Add a server, have one fetch from another (with the password), or stop that."""
    steps = {"add": _add, "start": _start, "stop": _stop, "send": _send, "halt": _halt}
    step = steps.get(form.get("do"))
    if step is None:
        raise InvalidInput
    try:
        return step(visit, form)
    except (Conflict, InvalidInput, NetError, ConnectorError) as error:
        return _draw(visit, sentence=error.sentence)


def _add(visit: Visit, form: Form) -> Response[Any]:
    client_id = form.text("client_id", limit=300).strip()
    base_url = servers.plain_address(form.text("base_url", limit=2000))
    wish = connect.Wish(
        name=servers.shown(base_url.removesuffix("/").removesuffix("/fhir")),
        base_url=base_url,
        client_id=client_id,
        scopes=between.SCOPES,
        audience="exact",
        way=connect.OWN if client_id else connect.REGISTERED,
    )
    return add_and_begin(visit, wish)


def _start(visit: Visit, form: Form) -> Response[Any]:
    step_up_of(visit)
    now, http = clock.now(), visit.appliance.http
    giving, fetching = _place(visit, form.get("giving")), _place(visit, form.get("fetching"))
    if giving.id == fetching.id:
        raise InvalidInput("Choose two different servers.")
    consent_id = _consent(visit, form, giving, fetching.name, now)
    between.start(visit.vault, http, giving, fetching, consent_id, actor=visit.actor)
    return visit.redirect(f"{base_of(visit)}/between?at={giving.id}", STARTED)


def _consent(visit: Visit, form: Form, giving: Place, whom: str, now: datetime) -> str:
    """Return the Consent there that was chosen, or a new one for the kinds that were ticked."""
    if chosen := form.get("consent"):
        return chosen
    days = form.get("days") if form.get("days") in DAYS else "30"
    parts = [each for each in form.all("part") if each in PARTS]
    ends_at, http = now + timedelta(days=int(days)), visit.appliance.http
    return between.propose(visit.vault, http, giving, parts, ends_at, whom=whom, now=now)


def _send(visit: Visit, form: Form) -> Response[Any]:
    step_up_of(visit)
    giving, address = _place(visit, form.get("giving")), form.text("to", limit=254).strip()
    if sentence := pushes.problem(address):
        raise InvalidInput(sentence)
    if not giving.may_push:
        raise InvalidInput(between.NO_PUSH)
    consent_id = _consent(visit, form, giving, address, clock.now())
    between.send(visit.vault, visit.appliance.http, giving, consent_id, address, actor=visit.actor)
    return visit.redirect(f"{base_of(visit)}/between?at={giving.id}", ASKED)


def _halt(visit: Visit, form: Form) -> Response[Any]:
    giving = _place(visit, form.get("giving"))
    named = form.get("consent"), form.text("to", limit=254)
    between.stop_sending(visit.vault, visit.appliance.http, giving, *named, actor=visit.actor)
    return visit.redirect(f"{base_of(visit)}/between?at={giving.id}", HALTED)


def _stop(visit: Visit, form: Form) -> Response[Any]:
    giving = _place(visit, form.get("giving"))
    named = form.get("consent"), form.get("authorization")
    between.stop(visit.vault, visit.appliance.http, giving, *named, actor=visit.actor)
    return visit.redirect(f"{base_of(visit)}/between?at={giving.id}", STOPPED)


def _place(visit: Visit, number: str) -> Place:
    with visit.vault.read() as session:
        known = {str(each.id): each for each in between.places(session)}
    if number not in known:
        raise InvalidInput("Choose the servers.")
    return known[number]


def _draw(visit: Visit, *, at: str = "", sentence: str = "") -> Response[Any]:
    with visit.vault.read() as session:
        places = between.places(session)
    looked: list[Listed] = []
    place = next((each for each in places if str(each.id) == at), None)
    if at and (place is None or not is_number(at)):
        raise NotFound
    if place is not None:
        try:
            looked = between.listed(visit.vault, visit.appliance.http, place)
        except (Conflict, InvalidInput, NetError, ConnectorError) as error:
            sentence = error.sentence
    return visit.render(
        "pages/between.html",
        status=422 if sentence else 200,
        here=f"{base_of(visit)}/between",
        places=places,
        giving=[each for each in places if each.may_give],
        fetching=[each for each in places if each.may_fetch],
        sending=[each for each in places if each.may_push],
        place=place,
        looked=looked,
        all_parts=PARTS,
        days=DAYS,
        sentence=sentence,
    )


ROUTES: list[HTTPRouteHandler] = [show, answer]
