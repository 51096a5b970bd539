"""Consents at the FHIR API: an app that its patient let ask proposes one, and names whom it is for.

Nothing is approved here: whatever an app proposes waits for the patient at the home address, and
the answer says so (202). What the words of a Consent mean is decided in `phr.sharing`.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Final

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from phr import clock, consented, push
from phr.errors import InvalidInput, NetError, ScopeTooSmall, TooManyTries
from phr.fhir import document, references
from phr.sharing import addresses, advisor, asking, consents, gate, pushes, servers
from phr.sharing.consents import Answer, Asked, Mailbox
from phr.sharing.gate import Standing
from phr.store import audit, limits
from phr.store.house import House
from phr.store.models import DeliveryState, FetchAsked
from phr.store.vault import Vault
from phr.web.outcome import BASE, FHIR_JSON
from phr.web.presented import by_token
from phr.web.routing import Access, Visit, action, slow_page

JSON: Final = frozenset({FHIR_JSON, "application/json"})
UCUM: Final = "http://unitsofmeasure.org"
UNITS: Final = {  # months and years as people count them
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "wk": timedelta(days=7),
    "mo": timedelta(days=30),
    "a": timedelta(days=365),
}
LONGEST: Final = timedelta(days=36_500)  # longer than any Consent lasts here
NUMBER: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?", re.ASCII)
AT_ONCE: Final = 2  # apps for which others are asked at this moment
BUSY: Final = "Other servers are being asked already. Please try again in a moment."
AGAIN: Final = timedelta(seconds=5)
Caller = tuple[Vault, Standing]
Handler = Callable[..., Response[bytes]]

_lock = threading.Lock()
_asking: set[str] = set()  # grants


def unprocessable(handler: Handler) -> Handler:
    """Say 422 for what was understood and cannot be kept (R4 §3.1.0.1.5), in words."""

    @wraps(handler)
    def guarded(visit: Visit, *args: Any, **named: Any) -> Response[bytes]:
        try:
            return handler(visit, *args, **named)
        except InvalidInput as error:
            return _outcome(422, error.sentence)

    return guarded


# ------------------------------------------------------------------ the Consent itself


@action(f"{BASE}/Consent", access=Access.BEARER, csrf=False)
@unprocessable
def propose(visit: Visit) -> Response[bytes]:
    """Take a proposal (R4 §3.1.0.8): a draft that waits for the patient, and gives nothing."""
    vault, by = _caller(visit, asking.MANAGE, asking.PUSH)
    _must_be_json(visit)
    consent_id = consents.propose(vault, by, visit.body, now=clock.now())
    with vault.read() as session:
        made = consents.of_consent(session, vault, by.client_id, consent_id)[0]
        body = consents.written(session, vault, made.grant)
    place = f"{visit.appliance.settings.public_url}{BASE}/Consent/{consent_id}"
    return _json(body, 201, {"Location": place})


@slow_page(f"{BASE}/Consent", access=Access.BEARER)
def listed(visit: Visit) -> Response[bytes]:
    """List the Consents that this app proposed and that stand, to choose from."""
    vault, by = _caller(visit, asking.MANAGE, asking.PUSH)
    base = visit.appliance.settings.public_url + BASE
    with vault.read() as session:
        entries = [
            {
                "fullUrl": f"{base}/Consent/{one.row.consent_id}",
                "resource": consents.written(session, vault, one.grant),
                "search": {"mode": "match"},
            }
            for one in consents.of_app(session, vault, by.client_id)
        ]
    bundle = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(entries),
        "link": [{"relation": "self", "url": f"{base}/Consent"}],
    }
    return _json(bundle | ({"entry": entries} if entries else {}))


@slow_page(f"{BASE}/Consent/{{consent_id:str}}", access=Access.BEARER)
def read(visit: Visit, consent_id: str) -> Response[bytes]:
    """Return one of them, as the patient left it."""
    vault, by = _caller(visit, asking.MANAGE, asking.PUSH)
    with vault.read() as session:
        known = consents.of_consent(session, vault, by.client_id, consent_id)
        return _json(consents.written(session, vault, consents.foremost(known).grant))


# ------------------------------------------------------------------ which servers may fetch


@action(
    [
        f"{BASE}/Consent/{{consent_id:str}}/$authorize",
        f"{BASE}/Consent/{{consent_id:str}}/$getToken",
    ],
    access=Access.BEARER,
    csrf=False,
)
@unprocessable
def authorize(visit: Visit, consent_id: str) -> Response[bytes]:
    """Name a server that shall fetch under a Consent; the patient approves it (sharing.md §9.1)."""
    vault, by = _caller(visit, asking.MANAGE)
    _must_be_json(visit)
    with vault.read() as session:
        consents.of_consent(session, vault, by.client_id, consent_id)
    given = parameters(visit.body, {"client", "publicKey", "jwt", "duration"})
    appliance, now = visit.appliance, clock.now()
    here = addresses.of(appliance.settings)
    audiences = frozenset({here.fhir, here.token, here.public_url})
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    ends_at = _after(given.get("duration"), now)
    with _place_for(appliance.house, by.grant.id):
        server = servers.named(appliance.http, texts, audiences, now)
        advisor.vouch(appliance.http, appliance.settings.advisor, server.address)
    asked = consents.authorize(vault, by, consent_id, server, ends_at, now=now)
    place = f"{here.fhir}/Consent/{consent_id}/$authorizations"
    body = {"resourceType": "Parameters", "parameter": _told(asked)}
    return _json(body, 202, {"Content-Location": place})


@slow_page(f"{BASE}/Consent/{{consent_id:str}}/$authorizations", access=Access.BEARER)
def authorizations(visit: Visit, consent_id: str) -> Response[bytes]:
    """List the servers that were named for a Consent, and how each stands."""
    vault, by = _caller(visit, asking.MANAGE)
    with vault.read() as session:
        known = consents.of_consent(session, vault, by.client_id, consent_id)
        parts = [
            {"name": "token", "part": _told(each)} for each in known if each.server is not None
        ]
    body = {"resourceType": "Parameters"} | ({"parameter": parts} if parts else {})
    return _json(body)


@action(f"{BASE}/Consent/{{consent_id:str}}/$revokeAuthorization", access=Access.BEARER, csrf=False)
@unprocessable
def revoke(visit: Visit, consent_id: str) -> Response[bytes]:
    """End what a server has under a Consent, at once; doing it again changes nothing."""
    vault, by = _caller(visit, asking.MANAGE)
    _must_be_json(visit)
    given = parameters(visit.body, {"app-id", "authorization"})
    named = given.get("authorization") or given.get("app-id")
    if not isinstance(named, str):
        raise InvalidInput("Name the server: app-id or authorization.")
    consents.revoke(vault, by, consent_id, named.rstrip("/"), now=clock.now())
    return _outcome(200, "It has ended. No further access; what was fetched stays there.")


@contextmanager
def _place_for(house: House, grant_id: str) -> Iterator[None]:
    """Ask others for one app at a time, and for two at most: the rest of the house goes on.

    Raises TooManyTries at once where there is no place, and where one app asks too often.
    """
    limits.take(house, [(f"asks others:{grant_id}", limits.NETWORK)])
    with _lock:
        if grant_id in _asking or len(_asking) >= AT_ONCE:
            raise TooManyTries(BUSY, after=clock.now() + AGAIN)
        _asking.add(grant_id)
    try:
        yield
    finally:
        with _lock:
            _asking.discard(grant_id)


def _told(asked: Asked) -> list[Mapping[str, Any]]:
    """Say how a request stands; why something failed is for the patient (sharing.md §9, 13)."""
    parts: list[Mapping[str, Any]] = [
        {"name": "authorization", "valueString": asked.grant.id},
        {"name": "app-id", "valueUri": asked.row.address},
        {"name": "status", "valueCode": str(asked.answer)},
        {"name": "expires", "valueInstant": clock.instant(asked.grant.ends_at)},
    ]
    if asked.row.used_at is not None:
        parts.append({"name": "lastUsed", "valueInstant": clock.instant(asked.row.used_at)})
    return parts


def _after(duration: Any, now: datetime) -> datetime | None:
    """Return when a FHIR Duration (R4 §2.24.0.6) from now is over; None where none is given."""
    if duration is None:
        return None
    given = duration if isinstance(duration, Mapping) else {}
    unit = UNITS.get(str(given.get("code"))) if given.get("system") == UCUM else None
    match = NUMBER.fullmatch(str(given.get("value")))
    if unit is None or match is None or not float(match[0]):
        raise InvalidInput("The duration cannot be read: a value with a unit of time (UCUM).")
    return now + min(float(match[0]) * unit, LONGEST)


# ------------------------------------------------------------------ what is sent by Direct mail


@action(
    [
        f"{BASE}/Consent/{{consent_id:str}}/$pushStart",
        f"{BASE}/Consent/{{consent_id:str}}/$pushRecords",
    ],
    access=Access.BEARER,
    csrf=False,
)
@unprocessable
def push_start(visit: Visit, consent_id: str) -> Response[bytes]:
    """Ask that what a Consent covers be sent to a Direct address (sharing.md §2.6).

    The patient approves it; then it goes, and whatever arrives later, unless `once`.
    """
    vault, by = _caller(visit, asking.PUSH)
    _must_be_json(visit)
    with vault.read() as session:
        consents.of_consent(session, vault, by.client_id, consent_id)
    given = parameters(visit.body, {"address", "once", "duration"})
    address, once = str(given.get("address", "")).removeprefix("mailto:"), given.get("once", False)
    if sentence := pushes.problem(address):
        return _outcome(400, sentence)
    if not isinstance(once, bool):
        raise InvalidInput("“once” is true or false.")
    now, appliance = clock.now(), visit.appliance
    ends_at = _after(given.get("duration"), now)
    seconds = None if ends_at is None else round((ends_at - now).total_seconds())
    with _place_for(appliance.house, by.grant.id):
        pushes.must_be_reachable(vault, appliance.http, address, now=now)
    box = Mailbox(address, once=once, seconds=seconds)
    asked = consents.authorize(vault, by, consent_id, box, ends_at, now=now)
    place = f"{appliance.settings.public_url}{BASE}/Consent/{consent_id}/$listPush"
    with vault.read() as session:
        told = next(
            each
            for each in pushes.listed(session, vault, by.client_id, consent_id)
            if each.asked.grant.id == asked.grant.id
        )
    status = 202 if asked.answer is Answer.WAITING else 200
    body = {"resourceType": "Parameters", "parameter": _pushed(told)}
    return _json(body, status, {"Content-Location": place})


@slow_page(f"{BASE}/Consent/{{consent_id:str}}/$listPush", access=Access.BEARER)
def push_list(visit: Visit, consent_id: str) -> Response[bytes]:
    """List what is sent, or shall be, under a Consent, and how each stands."""
    vault, by = _caller(visit, asking.PUSH)
    with vault.read() as session:
        known = pushes.listed(session, vault, by.client_id, consent_id)
        parts = [{"name": "token", "part": _pushed(each)} for each in known]
    return _json({"resourceType": "Parameters"} | ({"parameter": parts} if parts else {}))


@action(f"{BASE}/Consent/{{consent_id:str}}/$pushStop", access=Access.BEARER, csrf=False)
@unprocessable
def push_stop(visit: Visit, consent_id: str) -> Response[bytes]:
    """Stop sending; when this answers nothing more leaves, and it says what had left before."""
    vault, by = _caller(visit, asking.PUSH)
    _must_be_json(visit)
    given = parameters(visit.body, {"address", "push"})
    named = given.get("push") or given.get("address")
    if not isinstance(named, str):
        raise InvalidInput("Say which: address or push.")
    now = clock.now()
    with vault.read() as session:
        asked = pushes.live(session, vault, by.client_id, consent_id, named.removeprefix("mailto:"))
    gone = push.Halted(0, uncertain=False)
    if asked.answer is not Answer.WAITING:
        actor = {"kind": "recipient", "id": by.grant.id, "name": by.recipient}
        gone = push.halt(vault, asked.grant.id, actor, now=now)
    consents.end(vault, by, asked, now=now)
    parts = [
        {"name": "push", "valueString": asked.grant.id},
        {"name": "status", "valueCode": pushes.STOPPED},
        {"name": "unconfirmed", "valueUnsignedInt": gone.unconfirmed},
        {"name": "uncertain", "valueBoolean": gone.uncertain},
    ]
    return _json({"resourceType": "Parameters", "parameter": parts})


def _pushed(told: pushes.Told) -> list[Mapping[str, Any]]:
    """Say how a push stands; why something failed is for the patient (sharing.md §9, 13)."""
    messages = told.messages
    parts: list[Mapping[str, Any]] = [
        {"name": "push", "valueString": told.asked.grant.id},
        {"name": "address", "valueString": told.address},
        {"name": "once", "valueBoolean": told.once},
        {"name": "status", "valueCode": told.status},
        {"name": "expires", "valueInstant": clock.instant(told.asked.grant.ends_at)},
        *({"name": each, "valueUnsignedInt": messages.get(each, 0)} for each in DeliveryState),
    ]
    if told.disposition is not None:
        parts.append({"name": "lastDisposition", "valueCode": told.disposition})
    if told.next_at is not None:
        parts.append({"name": "nextAttempt", "valueInstant": clock.instant(told.next_at)})
    return parts


# ------------------------------------------------------------------ this record as the target


@action(f"{BASE}/$connect", access=Access.BEARER, csrf=False)
@unprocessable
def connect(visit: Visit) -> Response[bytes]:
    """Take the request to fetch from another server under its Consent (sharing.md §9, 9)."""
    vault, by = _caller(visit, asking.CONNECT)
    _must_be_json(visit)
    given = parameters(visit.body, {"url", "consent", "patient"})
    url, consent = given.get("url"), given.get("consent")
    if not (isinstance(url, str) and isinstance(consent, str)):
        raise InvalidInput("Name the other server and its Consent: url and consent.")
    own = references.patient_id(vault.id_key)
    if str(given.get("patient", own)).rpartition("/")[2] != own:
        raise InvalidInput("That is another patient than the one who let you in.")
    http, named = visit.appliance.http, consent.rpartition("/")[2]
    try:
        with _place_for(visit.appliance.house, by.grant.id):
            made = consented.ask(vault, by, url, named, http=http, now=clock.now())
    except NetError:  # why is not for an app: it would learn what there is in our own network
        raise InvalidInput("The address cannot be used.") from None
    place = f"{visit.appliance.settings.public_url}{BASE}/$connect/{made.id}"
    return _json(_standing(made), 202, {"Content-Location": place})


@slow_page(f"{BASE}/$connect/{{request_id:str}}", access=Access.BEARER)
def connected(visit: Visit, request_id: str) -> Response[bytes]:
    """Say whether the patient has agreed to fetch; 404 where the answer was no."""
    vault, by = _caller(visit, asking.CONNECT)
    with vault.read() as session:
        return _json(_standing(consented.of_app(session, by.client_id, request_id)))


def _standing(made: FetchAsked) -> Mapping[str, Any]:
    state = "awaiting-approval" if made.connection_id is None else "active"
    parts = [{"name": "id", "valueString": made.id}, {"name": "status", "valueCode": state}]
    return {"resourceType": "Parameters", "parameter": parts}


@slow_page(f"{BASE}/$jwt", access=Access.BEARER)
@unprocessable
def statement(visit: Visit) -> Response[bytes]:
    """Return a signed statement of who this server is, for one other (2017: `jwt`)."""
    appliance = visit.appliance
    vault, by = _caller(visit, asking.CONNECT)
    audience = servers.plain_address(visit.query.get("source", ""))
    here = appliance.settings.public_url
    signed = servers.statement(appliance.house, here, audience, clock.now())
    actor = {"kind": "recipient", "id": by.grant.id, "name": by.recipient}
    with vault.write() as session:
        audit.append(
            session, vault, "statement.signed", actor, grant_id=by.grant.id, audience=audience
        )
    return Response(signed.encode(), media_type="application/jwt")


# ------------------------------------------------------------------ small parts


def parameters(body: bytes, known: set[str]) -> Mapping[str, Any]:
    """Return the values of a Parameters resource (R4 §2.41) by name. Raises InvalidInput.

    What is not known here is refused, and so is what stands twice.
    """
    given = document.loads(body)
    listed = given.get("parameter", [])
    if given.get("resourceType") != "Parameters" or not isinstance(listed, list):
        raise InvalidInput("This takes a Parameters resource.")
    found: dict[str, Any] = {}
    for each in listed:
        name = each.get("name") if isinstance(each, Mapping) else None
        values = [value for key, value in each.items() if key.startswith("value")] if name else []
        if not isinstance(name, str) or name not in known or name in found or len(values) != 1:
            raise InvalidInput("A parameter is not known here, or it stands twice.")
        found[name] = values[0]
    return found


def _caller(visit: Visit, *needed: str) -> Caller:
    """Return the record and what the token of a request stands for; one of the scopes is enough.

    Raises TokenRefused, ScopeTooSmall.
    """
    vault, grant_id, bearer = by_token(visit)
    with vault.read() as session:
        by = gate.stands(session, vault, grant_id, bearer, now=clock.now())
    if by.client_id is None or not set(needed) & set(by.scopes.split(" ")):
        raise ScopeTooSmall
    return vault, by


def _must_be_json(visit: Visit) -> None:
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON:
        raise HTTPException(status_code=415)


def _outcome(status: int, sentence: str) -> Response[bytes]:
    issue = {
        "severity": "information" if status == 200 else "error",
        "code": "informational" if status == 200 else "business-rule",
        "diagnostics": sentence,
    }
    return _json({"resourceType": "OperationOutcome", "issue": [issue]}, status)


def _json(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    return Response(
        document.dumps(body), media_type=FHIR_JSON, status_code=status, headers=dict(headers or {})
    )


ROUTES: Sequence[HTTPRouteHandler] = [
    propose,
    listed,
    read,
    authorize,
    authorizations,
    revoke,
    push_start,
    push_list,
    push_stop,
    connect,
    connected,
    statement,
]
