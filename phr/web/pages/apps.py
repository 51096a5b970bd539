"""Apps that read this record by the FHIR API: what one asks, the answer, and those that are known.

What stands between app and records is decided in `phr.sharing`; here are the pages around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock, consented, ids
from phr.errors import Conflict, Denied, InvalidInput, NotFound
from phr.fhir.labels import Label
from phr.sharing import addresses, asking, clients, consents, gate, grants
from phr.sharing.asking import Context, Wishes
from phr.sharing.clients import App
from phr.sharing.provision import SENSITIVE
from phr.store.accounts import PatientView
from phr.store.models import ClientState, Recipient, RecipientKind
from phr.store.vault import Vault
from phr.web.pages.asked import REACH, is_number
from phr.web.pages.shares import base_of, step_up_of
from phr.web.routing import Access, Form, Visit, action, page, slow_page
from phr.web.sessions import KitFirst

if TYPE_CHECKING:  # Authlib comes with it: loaded when an app asks
    from phr.sharing.authorization import Answered, Asked, Confirmed

DAYS = {1: "1 day", 30: "30 days", 90: "3 months", 365: "1 year"}
GONE = (
    "What the app asked has run out, or it was answered already. Go back to the app and begin there"
    " again. Nothing was shared."
)
NOTHING_LEFT = "Leave at least one line, or refuse."
BLOCKED = (
    "It may not ask any more, and nothing opens to it. What it read in your records has ended."
)
CHANGING = frozenset({"self", "proxy"})
NOTHING = Wishes()


# ------------------------------------------------------------------ an app asks


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the patient ticked on the page where an app asks."""

    patient_id: str
    lines: tuple[str, ...]
    also: frozenset[str]
    reach: str
    days: int
    once: str
    send: bool = False


def _first(wishes: Wishes, patient_id: str) -> Chosen:
    """Return what is ticked when the page is first shown: what was asked, and nothing sensitive."""
    lines = tuple(line.text for line in wishes.lines)
    return Chosen(patient_id, (*lines, *wishes.errands), frozenset(), "", 30, ids.new_id())


def _chosen(form: Form, wishes: Wishes, patient_id: str) -> Chosen:
    days, ticked = form.get("days"), form.all("line")
    return Chosen(
        patient_id=form.get("patient") or patient_id,
        lines=tuple(
            each
            for each in (*(line.text for line in wishes.lines), *wishes.errands)
            if each in ticked
        ),
        also=frozenset(form.all("also")) & SENSITIVE.keys(),
        reach=form.get("reach") if form.get("reach") in REACH else "",
        days=int(days) if is_number(days) and int(days) in DAYS else 30,
        once=form.get("once") or ids.new_id(),
        send=form.has("send"),
    )


@slow_page("/apps/ask/{key:str}", access=Access.ACCOUNT)
def ask(visit: Visit, key: str) -> Response[Any]:
    """Show what an app asks: who it is, each kind of record, how far back and how long."""
    asked = _waiting(visit, key)
    patient_id = _for_whom(visit, asked)
    return _draw_ask(visit, asked, _first(asked.scopes, patient_id), key)


@action("/apps/ask/{key:str}", access=Access.ACCOUNT)
def answer(visit: Visit, form: Form, key: str) -> Response[Any]:
    """Refuse, or approve with the password; either way back to the app with the answer."""
    from phr.sharing import authorization  # noqa: PLC0415 - see above

    asked = _waiting(visit, key)
    visit.extra_headers["form-action"] = _target(asked.redirect_uri)
    chosen = _chosen(form, asked.scopes, _for_whom(visit, asked))
    try:
        with visit.appliance.parking.taken(key, clock.now()) as mine:
            if mine is None:
                raise Conflict(GONE)
            said = _said(visit, mine, form, chosen)
    except InvalidInput as error:
        return _draw_ask(visit, asked, chosen, key, sentence=error.sentence)
    address = authorization.leading_back(
        asked.redirect_uri, addresses.of(visit.appliance.settings), **said
    )
    return visit.leave(address)


def _said(visit: Visit, asked: "Asked", form: Form, chosen: Chosen) -> dict[str, str]:
    """Return what the app is told. Raises InvalidInput or StepUpNeeded: then it waits on."""
    if form.get("do") == "refuse":
        return {"error": "access_denied", "state": asked.state}
    if form.get("do") != "allow":
        raise InvalidInput("Allow it, or refuse.")
    return {"code": _allowed(visit, asked, chosen), "state": asked.state}


def _allowed(visit: Visit, asked: "Asked", chosen: Chosen) -> str:
    from phr.sharing import authorization  # noqa: PLC0415 - see above

    person = _person(visit, chosen.patient_id)
    answered = _answered(asked.scopes, chosen, clock.now(), asked.sending)
    confirmed = _confirmed(visit, asked.app, person, answered, chosen)
    return authorization.allow(visit.appliance.vault(person.id), asked, answered, confirmed)


def _draw_ask(
    visit: Visit, asked: "Asked", chosen: Chosen, key: str, *, sentence: str = ""
) -> Response[Any]:
    return _draw_wishes(
        visit,
        asked.app,
        asked.scopes,
        chosen,
        here=f"/apps/ask/{key}",
        own=[person for person in visit.people if _may_answer(person)],
        offline=asking.OFFLINE in asked.scopes.plain,
        sending=asked.sending,
        form_targets=[_target(asked.redirect_uri)],
        sentence=sentence,
    )


def _draw_wishes(
    visit: Visit,
    app: App,
    wishes: Wishes,
    chosen: Chosen,
    *,
    here: str,
    own: Sequence[PatientView],
    offline: bool,
    sentence: str,
    sending: Wishes = NOTHING,
    form_targets: Sequence[str] = (),
) -> Response[Any]:
    """Draw what an app or a server asks, to be ticked off."""
    return visit.render(
        "pages/apps_ask.html",
        status=422 if sentence else 200,
        form_targets=form_targets,
        here=here,
        app=app,
        fresh=app.state == ClientState.WAITING,
        own=own,
        lines=wishes.lines,
        errands=wishes.errands,
        sending=sending.lines,
        offline=offline,
        signs_in=asking.OPENID in wishes.plain,
        chosen=chosen,
        sentence=sentence,
        sensitive=SENSITIVE,
        reach=REACH,
        days=DAYS,
    )


def _waiting(visit: Visit, key: str) -> "Asked":
    if visit.known is not None and visit.known.kit_waits:
        raise KitFirst
    found: Asked | None = visit.appliance.parking.look(key, clock.now())
    if found is None or clients.find(visit.appliance.house, found.app.id) is None:
        raise InvalidInput(GONE)
    return found


def _for_whom(visit: Visit, asked: "Asked") -> str:
    """Return whose record is meant: where the app was opened from, else the only one, else ""."""
    own = [person.id for person in visit.people if _may_answer(person)]
    if not own:
        raise InvalidInput("There is no open record here that you may share. Nothing was shared.")
    if asked.launch is not None:
        launched = visit.appliance.launches.look(asked.launch, clock.now())
        if launched not in own:
            raise InvalidInput(GONE)
        return str(launched)
    return own[0] if len(own) == 1 else ""


def _may_answer(person: PatientView) -> bool:
    return person.role in CHANGING and person.is_open


def _person(visit: Visit, patient_id: str) -> PatientView:
    if not patient_id:
        raise InvalidInput("Choose whose record it may read.")
    for person in visit.people:
        if person.id == patient_id and _may_answer(person):
            return person
    raise NotFound


def _answered(
    wishes: Wishes, chosen: Chosen, now: datetime, sending: Wishes = NOTHING
) -> "Answered":
    from phr.sharing.authorization import Answered  # noqa: PLC0415 - see above

    kept = wishes.only(chosen.lines)
    if chosen.send:
        kept = replace(kept, lines=(*kept.lines, *sending.lines))
    if not (kept.rules or kept.errands or kept.sends):
        raise InvalidInput(NOTHING_LEFT)
    return Answered(
        wishes=kept,
        labels=reduce(or_, (SENSITIVE[each][1] for each in chosen.also), Label.NONE),
        since=now - timedelta(days=365 * int(chosen.reach)) if chosen.reach else None,
        ends_at=now + timedelta(days=chosen.days),
    )


def _confirmed(
    visit: Visit, app: App, person: PatientView, answered: "Answered", chosen: Chosen
) -> "Confirmed":
    from phr.sharing.authorization import Confirmed  # noqa: PLC0415 - see above

    now = clock.now()
    named = [title for title, label in SENSITIVE.values() if label & answered.labels]
    shown = "\n".join(
        [
            f"App: {app.host}, which calls itself “{app.says.name}” ({app.id})",
            f"Record: {person.name}",
            *(
                f"May {'send' if line.scope.letters & asking.SENDING else 'read'}:"
                f" {line.words} ({line.text})"
                for line in answered.wishes.lines
            ),
            *(f"{words} ({scope})" for scope, words in answered.wishes.errands.items()),
            f"Sensitive: {', '.join(named) or 'left out'}",
            f"Since: {answered.since.isoformat() if answered.since else 'the beginning'}",
            f"Until: {answered.ends_at.isoformat(timespec='minutes')}",
        ]
    )
    return Confirmed(chosen.once, step_up_of(visit), shown, visit.actor, now)


def _target(redirect_uri: str) -> str:
    """Return what a form may lead to, as CSP writes it: an origin, or an app's own scheme."""
    parts = urlsplit(redirect_uri)
    own = parts.scheme not in {"http", "https"}
    return f"{parts.scheme}:" if own else f"{parts.scheme}://{parts.netloc}"


# ------------------------------------------------------------------ the apps of this house


@page("/apps", access=Access.ACCOUNT)
def listed(visit: Visit) -> Response[Any]:
    """Show the apps that are known here, those that wait, and how to add one."""
    return _draw_list(visit)


@action("/apps", access=Access.ACCOUNT)
def add(visit: Visit, form: Form) -> Response[Any]:
    """Register an app by hand: a name, and where it leads back to or where its keys lie."""
    _must_have_a_say(visit)
    keys = form.get("keys").strip()
    given = {
        "client_name": form.get("name"),
        "redirect_uris": form.get("redirects").split(),
        "grant_types": ["client_credentials"] if form.get("kind") == "server" else [],
        "scope": form.get("scope").strip(),
        "jwks_uri": keys or None,
        "initiate_login_uri": form.get("launch").strip() or None,
    }
    try:
        app = clients.register(visit.appliance.house, clients.read(given), by=visit.account_id)
    except (InvalidInput, Conflict) as error:
        return _draw_list(visit, sentence=error.sentence, form=form)
    return visit.redirect("/apps", f"{app.says.name} may ask now. Its client id is {app.id}.")


@action("/apps/invite", access=Access.ACCOUNT)
def invite(visit: Visit) -> Response[Any]:
    """Make an invitation for one app to register itself from anywhere, and show it once."""
    _must_have_a_say(visit)
    return _draw_list(visit, invitation=clients.invite(visit.appliance.house))


@action("/apps/{client_id:str}/block", access=Access.ACCOUNT)
def block(visit: Visit, client_id: str) -> Response[Any]:
    """Let an app ask no more, and end what it may read in every record of this account."""
    _must_have_a_say(visit)
    clients.block(visit.appliance.house, client_id, by=visit.account_id)
    now = clock.now()
    for person in visit.people:
        if _may_answer(person):
            vault = visit.appliance.vault(person.id)
            for grant_id in [each for each, of in _standing(vault) if of == client_id]:
                gate.end(vault, grant_id, "patient", visit.actor, now=now)
    return visit.redirect("/apps", BLOCKED)


@action("/apps/{client_id:str}/unblock", access=Access.ACCOUNT)
def unblock(visit: Visit, client_id: str) -> Response[Any]:
    """Let a blocked app ask again; what it could read before stays ended."""
    _must_have_a_say(visit)
    clients.unblock(visit.appliance.house, client_id, by=visit.account_id)
    return visit.redirect("/apps", "It may ask again. What it could read before stays ended.")


@action("/apps/{client_id:str}/remove", access=Access.ACCOUNT)
def remove(visit: Visit, client_id: str) -> Response[Any]:
    """Take an app off the list; first it is blocked."""
    _must_have_a_say(visit)
    listed = clients.listed(visit.appliance.house)
    found = next((one for one in listed if one.id == client_id), None)
    if found is None:
        raise NotFound
    if found.state == ClientState.KNOWN:
        raise Conflict("Block the app first.")
    clients.forget(visit.appliance.house, client_id, by=visit.account_id)
    return visit.redirect("/apps", "The app is off the list.")


def _must_have_a_say(visit: Visit) -> None:
    """Apps are the business of who shares a record here, or runs this Homeport."""
    if not (visit.is_administrator or any(_may_answer(person) for person in visit.people)):
        raise Denied("viewer", "Only those who share a record here decide about apps.")


def _standing(vault: Vault) -> list[tuple[str, str]]:
    """Return (grant id, client id) of each standing grant of an app."""
    with vault.read() as session:
        found = (
            (grant.id, session.get_one(Recipient, grant.recipient_id))
            for grant in grants.standing(session)
        )
        return [
            (grant_id, str(recipient.identifiers.get("client_id")))
            for grant_id, recipient in found
            if recipient.kind == RecipientKind.APP
        ]


def _draw_list(
    visit: Visit, *, sentence: str = "", form: Form | None = None, invitation: str = ""
) -> Response[Any]:
    own = [person for person in visit.people if _may_answer(person)]
    standing = {
        (person.id, client_id)
        for person in own
        for _, client_id in _standing(visit.appliance.vault(person.id))
    }
    apps = clients.listed(visit.appliance.house)
    return visit.render(
        "pages/apps.html",
        status=422 if sentence else 200,
        sentence=sentence,
        form=form or Form(),
        invitation=invitation,
        waiting=[app for app in apps if app.state == ClientState.WAITING],
        known=[app for app in apps if app.state == ClientState.KNOWN],
        blocked=[app for app in apps if app.state == ClientState.BLOCKED],
        own=own,
        proposed={person.id for person in own if _has_proposals(visit, person)},
        standing=standing,
        fhir=addresses.of(visit.appliance.settings).fhir,
        safe=visit.appliance.settings.public_is_safe,
    )


def _has_proposals(visit: Visit, person: PatientView) -> bool:
    vault = visit.appliance.vault(person.id)
    with vault.read() as session:
        return bool(consents.waiting(session, vault) or consented.waiting(session))


# ------------------------------------------------------------------ servers, and opening an app


@slow_page("/p/{patient_id:str}/apps/{client_id:str}", access=Access.PROXY)
def server(visit: Visit, client_id: str) -> Response[Any]:
    """Show what a server asks that fetches by itself (SMART backend services)."""
    app, wishes = _server(visit, client_id)
    return _draw_server(visit, app, wishes, _first(wishes, ""))


@action("/p/{patient_id:str}/apps/{client_id:str}", access=Access.PROXY)
def answer_server(visit: Visit, form: Form, client_id: str) -> Response[Any]:
    """Let a server fetch by itself, with the password."""
    from phr.sharing import authorization  # noqa: PLC0415 - see above

    app, wishes = _server(visit, client_id)
    chosen = _chosen(form, wishes, "")
    person = visit.patient
    if person is None:
        raise NotFound
    try:
        answered = _answered(wishes, chosen, clock.now())
        confirmed = _confirmed(visit, app, person, answered, chosen)
        authorization.allow_server(visit.vault, app, answered, confirmed)
    except InvalidInput as error:
        return _draw_server(visit, app, wishes, chosen, sentence=error.sentence)
    return visit.redirect(f"{base_of(visit)}/grants/{chosen.once}", f"{app.host} may fetch now.")


def _server(visit: Visit, client_id: str) -> tuple[App, Wishes]:
    app = clients.find(visit.appliance.house, client_id)
    if app is None or not app.is_backend or visit.patient is None:
        raise NotFound
    if app.patient_id not in {None, visit.patient.id}:
        raise NotFound
    asked = asking.read(app.says.scope or "system/*.rs")
    return app, asking.grantable(asked, (Context.SYSTEM,))


def _draw_server(
    visit: Visit, app: App, wishes: Wishes, chosen: Chosen, *, sentence: str = ""
) -> Response[Any]:
    own = [person for person in (visit.patient,) if person is not None]
    here = f"{base_of(visit)}/apps/{app.id}"
    return _draw_wishes(
        visit, app, wishes, chosen, here=here, own=own, offline=True, sentence=sentence
    )


@action("/p/{patient_id:str}/apps/{client_id:str}/open", access=Access.PROXY)
def launch(visit: Visit, client_id: str) -> Response[Any]:
    """Open an app from here, for this record (SMART App Launch 2.2 §2.0.1, EHR launch)."""
    app = clients.find(visit.appliance.house, client_id)
    if app is None or app.says.launch_url is None or visit.patient is None:
        raise NotFound
    key = visit.appliance.launches.put(visit.patient.id, whose=visit.account_id, now=clock.now())
    query = urlencode({"iss": addresses.of(visit.appliance.settings).fhir, "launch": key})
    joint = "&" if urlsplit(app.says.launch_url).query else "?"
    visit.extra_headers["form-action"] = _target(app.says.launch_url)
    return visit.leave(f"{app.says.launch_url}{joint}{query}")


ROUTES: list[HTTPRouteHandler] = [
    ask,
    answer,
    listed,
    add,
    invite,
    block,
    unblock,
    remove,
    server,
    answer_server,
    launch,
]
