"""The endpoints that apps speak OAuth with. What they are given is decided in `phr.sharing`.

An authorization request is judged here and parked; its patient answers at the home address.
Authlib is loaded by the first request that needs it: most boxes never see an app.
"""

import json
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from phr import clock
from phr.errors import Conflict, InvalidInput, PhrError, Sealed, TooManyTries
from phr.sharing import addresses, advisor, clients, consents, parked, proof, tickets
from phr.sharing.clients import App, BadRegistration
from phr.sharing.proof import OAuthRefused
from phr.web.faults import status_of
from phr.web.routing import Access, Form, Visit, action, slow_page

if TYPE_CHECKING:  # loaded by the first app that asks
    from phr.sharing.authorization import Answer

JSON = "application/json"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1
NOT_SAFE = (
    "This Homeport has no public address with https yet, so no app is let in. Its owner finds how"
    " to get one in the self-hosting guide."
)
UNKNOWN_APP = (
    "The app that sent you here is not known to this Homeport, or it named an address that is not"
    " the one it registered. Nothing was shared."
)
NOT_INVITED = (
    "Apps register themselves from the home's own network, or with an invitation that the owner"
    " made on the page “Apps”."
)
Given = Mapping[str, list[str]]


# ------------------------------------------------------------------ the patient's browser


@slow_page(addresses.AUTHORIZE, access=Access.APP)
def authorize(visit: Visit, request: Request[Any, Any, Any]) -> Response[Any]:
    """Judge what an app asks and lead to the page where its patient answers (SMART §2.1.6)."""
    if request.method == "HEAD":
        raise InvalidInput
    return _parked(visit, _given(request.scope["query_string"]))


@action(addresses.AUTHORIZE, access=Access.APP, csrf=False)
def authorize_by_form(visit: Visit) -> Response[Any]:
    """Take the same request as a form (SMART capability `authorize-post`)."""
    return _parked(visit, _given(visit.body))


def _parked(visit: Visit, given: Given) -> Response[Any]:
    authorization = _authorization()
    visit.set_cookies.clear()
    appliance = visit.appliance
    if not appliance.settings.public_is_safe:
        raise InvalidInput(NOT_SAFE)
    here = addresses.of(appliance.settings)
    try:
        asked = authorization.read_request(appliance.house, given, here)
    except OAuthRefused as refused:
        if not refused.leads_to:
            raise InvalidInput(UNKNOWN_APP) from None
        state = next(iter(given.get("state", [])), "")
        said = {"error": refused.code, "error_description": refused.words, "state": state}
        return visit.leave(authorization.leading_back(refused.leads_to, here, **said))
    key = appliance.parking.put(asked, whose=parked.wider(visit.network), now=clock.now())
    return visit.leave(f"{appliance.settings.home_url}/apps/ask/{key}")


# ------------------------------------------------------------------ the app's own requests


def answers(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Say every refusal as RFC 6749 §5.2 does; nothing of it is kept by anybody on the way."""

    @wraps(handler)
    def guarded(visit: Visit) -> Response[Any]:
        visit.set_cookies.clear()
        try:
            status, body = handler(visit)
        except OAuthRefused as refused:
            status, body = refused.status, _error(refused.code, refused.words)
        except proof.Unproved:
            status, body = 401, _error("invalid_client")
        except (Sealed, TooManyTries, Conflict) as error:
            status, body = status_of(error), _error("temporarily_unavailable", error.sentence)
        except PhrError:
            status, body = 400, _error("invalid_request")
        return Response(
            json.dumps(body).encode(), media_type=JSON, status_code=status, headers=NO_STORE
        )

    guarded.__annotations__ = {"visit": Visit, "return": Response[Any]}
    return guarded


def _error(code: str, words: str = "") -> dict[str, str]:
    return {"error": code, **({"error_description": words} if words else {})}


@action(addresses.TOKEN, access=Access.APP, csrf=False)
@answers
def token(visit: Visit) -> tuple[int, Mapping[str, Any]]:
    """Give tokens for a code, a refresh token, a Consent or a ticket, or to a server by itself."""
    given = _form(visit)
    app = _proved(visit, given)
    consent_id = proof.consent_of(given)
    if consent_id or given.get("grant_type") == [tickets.EXCHANGE]:
        _vouched(visit, app, consent_id)
    return _answered(visit, app, given, _authorization().give_token)


def _vouched(visit: Visit, app: App, consent_id: str) -> None:
    """Ask the adviser once more, where there is one; of a Consent the patient is told why not."""
    appliance = visit.appliance
    try:
        advisor.vouch(appliance.http, appliance.settings.advisor, advisor.name_of(app))
    except InvalidInput as refused:
        patient_id = consents.whose(appliance.house, consent_id) if consent_id else None
        if patient_id is not None:
            consents.note(appliance.vault(patient_id), consent_id, app.id, refused.sentence)
        raise OAuthRefused("invalid_grant") from None


@action(addresses.REVOKE, access=Access.APP, csrf=False)
@answers
def revoke(visit: Visit) -> tuple[int, Mapping[str, Any]]:
    """End a token (RFC 7009)."""
    return _ask(visit, _authorization().revoke)


@action(addresses.INTROSPECT, access=Access.APP, csrf=False)
@answers
def introspect(visit: Visit) -> tuple[int, Mapping[str, Any]]:
    """Say what a token of the asking app stands for (RFC 7662)."""
    return _ask(visit, _authorization().introspect)


def _ask(visit: Visit, asked: Callable[..., "Answer"]) -> tuple[int, Mapping[str, Any]]:
    given = _form(visit)
    return _answered(visit, _proved(visit, given), given, asked)


def _answered(
    visit: Visit, app: App, given: Given, asked: Callable[..., "Answer"]
) -> tuple[int, Mapping[str, Any]]:
    appliance = visit.appliance
    here = addresses.of(appliance.settings)
    desk = _authorization().Desk(appliance.house, appliance.vaults, here, clock.now())
    answer = asked(desk, app, given)
    return answer.status, answer.body


def _authorization() -> ModuleType:
    """Return the authorization server, loaded at the first need."""
    from phr.sharing import authorization  # noqa: PLC0415 - Authlib comes with it

    return authorization


def _proved(visit: Visit, given: Given) -> App:
    house, here = visit.appliance.house, addresses.of(visit.appliance.settings)
    audiences = (here.token, here.public_url)
    key_sets, now = visit.appliance.key_sets, clock.now()
    return proof.prove(house, key_sets, given, audiences, network=visit.network, now=now)


@action(addresses.REGISTER, access=Access.APP, csrf=False)
@answers
def register(visit: Visit) -> tuple[int, Mapping[str, Any]]:
    """Take an app's registration (RFC 7591 §3); a patient lets it in when it first asks."""
    house = visit.appliance.house
    scheme, _, invitation = visit.headers.get("authorization", "").partition(" ")
    shown = invitation.strip() if scheme.lower() == "bearer" else ""
    at_home = clients.may_register(visit.network) and not _is_of_a_page(visit)
    try:
        says = clients.read(_object(visit))
    except BadRegistration as refused:
        return 400, _error(refused.code, refused.sentence)
    invited = clients.use_invitation(house, shown)
    if not invited and not at_home:
        return 401, _error("invalid_token", NOT_INVITED)
    made = clients.register(house, says, network=visit.network, invited=invited)
    return 201, clients.described(made)


def _is_of_a_page(visit: Visit) -> bool:
    """Tell a request that a browser sends for some page: being in this network is no sign then."""
    return bool({"origin", "sec-fetch-site"} & visit.headers.keys())


# ------------------------------------------------------------------ small parts


def _object(visit: Visit) -> Mapping[str, Any]:
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        given = json.loads(visit.body) if kind == JSON else None
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise BadRegistration("A registration is a JSON object.")
    return given


def _form(visit: Visit) -> Given:
    form = visit.form or Form()
    return {name: form.all(name) for name, _ in form.pairs()}


def _given(encoded: bytes) -> Given:
    try:
        return parse_qs(encoded.decode("ascii"), max_num_fields=100, errors="strict")
    except ValueError:
        raise InvalidInput(UNKNOWN_APP) from None


ROUTES: list[HTTPRouteHandler] = [
    authorize,
    authorize_by_form,
    token,
    revoke,
    introspect,
    register,
]
