"""SMART Health Links for viewers anywhere: the manifest and its files (SHL 1.0).

What opens, and what it holds then, is decided in `phr.sharing.health_links`. Whatever does not
open answers 404 with the same bytes, whether it is unknown, paused, locked or over.
"""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from phr import clock
from phr.errors import Ended, InvalidInput, NotFound, PhrError, Sealed, TooManyTries
from phr.fhir import document
from phr.sharing import handles, health_links
from phr.sharing.handles import Bearer
from phr.sharing.health_links import CLAIMED, EMBEDDED, PATH, Asked, WrongPasscode
from phr.sharing.recipients import one_line
from phr.store.vault import Vault
from phr.web.faults import status_of
from phr.web.routing import Access, Visit, action, slow_page

JSON = "application/json"
JOSE = "application/jose"
RETRY = 30  # seconds; a sealed record opens when a member signs in
Handler = Callable[..., Response[bytes]]


def door(handler: Handler) -> Handler:
    """Answer programs: refusals are short JSON, and tell nothing that was not presented."""

    @wraps(handler)
    def guarded(visit: Visit, *args: Any, **named: Any) -> Response[bytes]:
        try:
            return handler(visit, *args, **named)
        except Ended:  # while it was being made
            return _refusal(NotFound())
        except (NotFound, Sealed, TooManyTries, InvalidInput) as error:
            return _refusal(error)

    return guarded


def _refusal(error: PhrError) -> Response[bytes]:
    headers = {}
    if isinstance(error, Sealed):
        headers["Retry-After"] = str(RETRY)
    if isinstance(error, TooManyTries) and error.after is not None:
        wait = (error.after - clock.now()).total_seconds()
        headers["Retry-After"] = str(max(1, round(wait)))
    said = {"message": error.sentence} if not isinstance(error, NotFound) else {}
    return _json(said, status_of(error), headers)


def _json(said: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    body = document.dumps(said)
    return Response(body, media_type=JSON, status_code=status, headers=headers or {})


@action(f"{PATH}/{{address:str}}", access=Access.BEARER, csrf=False)
@door
def manifest(visit: Visit, address: str) -> Response[bytes]:
    """Say what the link holds (SHL "Manifest Request"); a wrong passcode is told with 401."""
    asked = _asked(visit)
    bearer = health_links.read_address(address)
    if bearer is None:
        raise NotFound
    answer = health_links.manifest(
        _vault(visit, bearer),
        bearer,
        asked,
        base_url=visit.appliance.settings.public_url,
        now=clock.now(),
    )
    if isinstance(answer, WrongPasscode):
        return _json({"remainingAttempts": answer.left}, 401)
    return _json(answer)


@slow_page(f"{PATH}/{{routing:str}}/{{secret:str}}", access=Access.BEARER)
@door
def file(
    visit: Visit, routing: str, secret: str, request: Request[Any, Any, Any]
) -> Response[bytes]:
    """Give one file that a manifest named, once (SHL "location")."""
    bearer = Bearer(health_links.read_routing(routing), secret)
    if request.method == "HEAD":
        raise NotFound  # looking uses nothing up
    base_url = visit.appliance.settings.public_url
    sealed = health_links.file(_vault(visit, bearer), bearer, base_url=base_url, now=clock.now())
    return Response(sealed.encode(), media_type=JOSE)


def _asked(visit: Visit) -> Asked:
    """Read a manifest request. Raises InvalidInput where it is not one."""
    try:
        given = json.loads(visit.body)
    except (ValueError, RecursionError):
        given = None
    recipient = given.get("recipient") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(recipient, str) or not recipient.strip():
        raise InvalidInput("A manifest request is JSON and says a recipient.")
    passcode, most = given.get("passcode"), given.get("embeddedLengthMax", EMBEDDED)
    if not isinstance(passcode, str | None) or isinstance(most, bool) or not isinstance(most, int):
        raise InvalidInput("passcode is text, embeddedLengthMax a whole number.")
    claimed = one_line(recipient[: CLAIMED * 4], limit=CLAIMED) or "nobody"
    return Asked(claimed, passcode, max(0, most))


def _vault(visit: Visit, bearer: Bearer) -> Vault:
    patient_id = handles.patient_of(visit.appliance.house, bearer.routing_id)
    if patient_id is None:
        raise NotFound
    return visit.appliance.vault(patient_id)


ROUTES: list[HTTPRouteHandler] = [manifest, file]
