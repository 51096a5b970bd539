"""Emergency access: switched on and off, how often a week, and the address on the printed card.

What is decided is decided in `phr.sharing.emergency`; here are the page and the words around it.
"""

from dataclasses import replace
from functools import reduce
from operator import or_
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock, ids
from phr.errors import InvalidInput
from phr.fhir.labels import Label
from phr.sharing import emergency, gate, given
from phr.sharing import provision as policy
from phr.sharing.emergency import A_WEEK, CARD_LASTS, LASTS, OFFERED, PATH, ROLE, WEEK
from phr.sharing.provision import SENSITIVE, Provision
from phr.store import audit
from phr.web.pages.asked import is_id, is_number
from phr.web.pages.shares import NOT_REACHABLE, base_of, qr, step_up_of
from phr.web.routing import Access, Form, Visit, action, slow_page

OFF = "Off. Every printed card stopped working, and every page it had opened went blank."


@slow_page("/p/{patient_id:str}/emergency", access=Access.MEMBER)
def show(visit: Visit) -> Response[Any]:
    """Say whether emergency access is on, what it shows, who opened it, and offer to change it."""
    return _draw(visit, Form())


def _draw(visit: Visit, form: Form, *, sentence: str = "", made: str = "") -> Response[Any]:
    now = clock.now()
    with visit.vault.read() as session:
        standing = emergency.standing(session, now=now)
        provision = policy.from_json(standing.grant.provision) if standing else _provision(form)
        tally = gate.tally(session, provision)
        openings = []
        if standing is not None:
            lines = audit.entries(session, grant_id=standing.grant.id, limit=500)
            told = [one for one in lines if one.event in {"card.opened", "card.refused"}]
            openings = [one for one in told if one.at > now - WEEK]
    settings = visit.appliance.settings
    return visit.render(
        "pages/emergency.html",
        status=422 if sentence else 200,
        sentence=sentence,
        standing=standing,
        tally=tally,
        openings=openings,
        named=[title for title, label in SENSITIVE.values() if label & provision.labels],
        offered=OFFERED,
        also=form.all("also"),
        per_week=int(form.get("weekly")) if is_number(form.get("weekly")) else A_WEEK[1],
        a_week=A_WEEK,
        told="; ".join(f"{what} {span}".rstrip() for span, what in given.told(provision)),
        days=CARD_LASTS.days,
        minutes=int(LASTS.total_seconds()) // 60,
        address=f"{settings.public_url}{PATH}/{made}" if made else "",
        qr=qr(f"{settings.public_url}{PATH}/{made}") if made else "",
        safe=settings.public_is_safe,
        public_url=settings.public_url,
        loopback=not settings.public_is_https,
        by_itself=visit.appliance.vaults.opens_by_itself(visit.vault.id),
        may_change=visit.patient is not None and visit.patient.role in {"self", "proxy"},
        once=ids.new_id(),
    )


@action("/p/{patient_id:str}/emergency", access=Access.PROXY)
def switch_on(visit: Visit, form: Form) -> Response[Any]:
    """Switch it on, after the password, and show the first card's address once."""
    now, once = clock.now(), form.get("once")
    provision = _provision(form)
    try:
        _must_be_reachable(visit)
        per_week = _weekly(form)
        made = emergency.switch_on(
            visit.vault,
            provision,
            per_week=per_week,
            grant_id=once if is_id(once) else ids.new_id(),
            step_up=step_up_of(visit),
            shown=_shown(visit, provision, per_week),
            actor=visit.actor,
            now=now,
        )
    except InvalidInput as error:
        return _draw(visit, form, sentence=error.sentence)
    return _draw(visit, form, made=made)


@action("/p/{patient_id:str}/emergency/card", access=Access.PROXY)
def another(visit: Visit) -> Response[Any]:
    """Make one more card, after the password; its address is shown once."""
    visit.require_step_up()
    try:
        _must_be_reachable(visit)
    except InvalidInput as error:
        return _draw(visit, Form(), sentence=error.sentence)
    made = emergency.another_card(visit.vault, visit.actor, now=clock.now())
    return _draw(visit, Form(), made=made)


@action("/p/{patient_id:str}/emergency/off", access=Access.PROXY)
def switch_off(visit: Visit) -> Response[Any]:
    """Switch it off for all cards at once; asks for no password."""
    emergency.switch_off(visit.vault, visit.actor, now=clock.now())
    return visit.redirect(f"{base_of(visit)}/emergency", OFF)


def _provision(form: Form) -> Provision:
    """Return the emergency set, with the sensitive kinds that were ticked one by one."""
    ticked = [SENSITIVE[key][1] for key in form.all("also") if key in OFFERED]
    preset = policy.preset(ROLE, now=clock.now())
    return replace(preset, labels=reduce(or_, ticked, Label.NONE))


def _weekly(form: Form) -> int:
    weekly = form.get("weekly")
    if not is_number(weekly) or int(weekly) not in A_WEEK:
        raise InvalidInput("Please choose how often it may be opened.")
    return int(weekly)


def _must_be_reachable(visit: Visit) -> None:
    if not visit.appliance.settings.public_is_safe:
        raise InvalidInput(NOT_REACHABLE)


def _shown(visit: Visit, provision: Provision, per_week: int) -> str:
    """Return exactly what the person confirmed, as text: it is kept, with its hash."""
    named = [title for title, label in SENSITIVE.values() if label in provision.labels]
    with visit.vault.read() as session:
        tally = gate.tally(session, provision)
    lines = [
        f"What: {policy.ROLES[ROLE].title}; {tally.shared} records now",
        f"Sensitive: {', '.join(named) or 'left out'}",
        "For whom: whoever holds the printed card; a name and a reason are asked, not checked",
        f"How long: {LASTS.total_seconds() // 60:.0f} minutes each, {per_week} times in 7 days",
        f"Until: {CARD_LASTS.days} days from now, or until it is switched off",
        f"Provision: {policy.to_json(provision)}",
    ]
    return "\n".join(lines)


ROUTES: list[HTTPRouteHandler] = [show, switch_on, another, switch_off]
