"""The emergency card's address: it asks who opens it and why, then shows the pages of a link.

Looking changes nothing. What an opening is allowed, and whom it alarms, is `phr.sharing.emergency`.
"""

from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock
from phr.errors import InvalidInput, TooManyTries
from phr.sharing import emergency
from phr.sharing.emergency import PATH
from phr.web.doors.links import AFTERWARDS, cookie_path, door
from phr.web.faults import status_of
from phr.web.presented import cookie_of, vault_of
from phr.web.routing import Access, Form, Visit, action, slow_page


@slow_page(f"{PATH}/{{card:str}}", access=Access.LINK)
@door
def opened(visit: Visit, card: str) -> Response[bytes]:
    """Ask for a name and a reason; this consumes nothing and names nobody."""
    routing_id, _, secret = card.partition(".")
    emergency.look(vault_of(visit, routing_id), routing_id, secret, now=clock.now())
    return _form(visit, card)


@action(f"{PATH}/{{card:str}}", access=Access.LINK)
@door
def open_card(visit: Visit, form: Form, card: str) -> Response[Any]:
    """Bind this browser for an hour and lead to the first page."""
    routing_id, _, secret = card.partition(".")
    now = clock.now()
    try:
        cookie, until = emergency.open_card(
            vault_of(visit, routing_id),
            routing_id,
            secret,
            name=form.get("name"),
            reason=form.get("reason"),
            browser=visit.agent,
            now=now,
        )
    except (InvalidInput, TooManyTries) as error:
        return _form(visit, card, error.sentence, status_of(error))
    lasts = until - now + AFTERWARDS  # so that an opening that is over can be told so
    path, age = cookie_path(visit), int(lasts.total_seconds())
    visit.set_cookie(cookie_of(routing_id), cookie, path=path, max_age=age)
    return visit.redirect(f"/s/{routing_id}")


def _form(visit: Visit, card: str, sentence: str = "", status: int = 200) -> Response[bytes]:
    form = visit.form or Form()
    given = {"name": form.get("name"), "reason": form.get("reason")}
    at = f"{PATH}/{card}"
    return visit.render("doors/emergency.html", status=status, at=at, sentence=sentence, **given)


ROUTES: list[HTTPRouteHandler] = [opened, open_card]
