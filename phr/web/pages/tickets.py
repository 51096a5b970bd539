"""A Permission Ticket that somebody gave: what it says, and whether to fetch with it.

What fetching by it means is in `phr.consented`; tickets of this house are made on the share page.
"""

from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock, consented
from phr.consented import Offered
from phr.errors import ConnectorError, InvalidInput, NetError
from phr.web.pages.shares import base_of, step_up_of
from phr.web.routing import Access, Form, Visit, action, slow_page


@slow_page("/p/{patient_id:str}/ticket", access=Access.PROXY)
def show(visit: Visit) -> Response[Any]:
    """Ask for a ticket."""
    return _draw(visit)


@action("/p/{patient_id:str}/ticket", access=Access.PROXY)
def answer(visit: Visit, form: Form) -> Response[Any]:
    """Show what a ticket says; or, with the password, connect the server that made it."""
    text = form.get("ticket")
    try:
        ticket = consented.offered(visit.appliance.house, text, clock.now())
        if form.get("do") != "fetch":
            return _draw(visit, text=text, ticket=ticket)
        connection_id = consented.take_up(
            visit.vault,
            ticket,
            http=visit.appliance.http,
            public_url=visit.appliance.settings.public_url,
            step_up=step_up_of(visit),
            actor=visit.actor,
            now=clock.now(),
        )
    except (InvalidInput, NetError, ConnectorError) as error:
        return _draw(visit, text=text, sentence=error.sentence)
    jobs = visit.appliance.jobs
    if jobs is not None:
        jobs.pull_soon(visit.vault.id, connection_id)
    return visit.redirect(f"{base_of(visit)}/connections/{connection_id}", "It is being fetched.")


def _draw(
    visit: Visit, *, text: str = "", ticket: Offered | None = None, sentence: str = ""
) -> Response[Any]:
    return visit.render(
        "pages/ticket.html",
        status=422 if sentence else 200,
        here=f"{base_of(visit)}/ticket",
        text=text,
        ticket=ticket,
        ends=None if ticket is None else clock.minute_here(ticket.ends_at),
        address=visit.appliance.settings.public_url,
        sentence=sentence,
    )


ROUTES: list[HTTPRouteHandler] = [show, answer]
