"""What software may send by the FHIR API: create, update, delete, and only of its own.

Everything goes to the patient's inbox (`phr.sharing.inbox`): 202 while it waits, 201 or 200 where
the patient let such things in beforehand. A hospital's record is never changed.
"""

from collections.abc import Callable

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from phr import clock
from phr.errors import Denied, NotFound, ScopeTooSmall
from phr.fhir import document, references
from phr.sharing import answers, gate, inbox, scopes
from phr.sharing.gate import Released, Terms
from phr.sharing.inbox import Received, Sent
from phr.store.models import Arrival, ArrivalState
from phr.web.doors.fhir import base_of, door, release
from phr.web.outcome import BASE, FHIR_JSON
from phr.web.presented import by_token
from phr.web.routing import Access, Visit, action, removal, replacement

CREATE, UPDATE, DELETE = "c", "u", "d"  # letters of SMART scopes
TAKEN = (FHIR_JSON, "application/json")
WAITS = "It was received. It is not in the record unless the patient lets it in, who decides."
ACCEPTED = "It was received, and it is in the record: the patient let it in."
ASKED = "The patient is asked to take it out of the record; until then it stays there."
GONE = "It was taken back before the patient had accepted it."


@action(f"{BASE}/{{type_:str}}", access=Access.BEARER, csrf=False, most=inbox.MOST_BY_API)
@door
def create(visit: Visit, type_: str) -> Response[bytes]:
    """Take one resource in (R4 §3.1.0.8). A conditional create is refused before anything."""
    released = _may(visit, CREATE, type_)
    if "if-none-exist" in visit.headers:
        raise HTTPException(status_code=405)
    return _received(visit, released, _receive(visit, released, type_, CREATE), created=201)


@replacement(f"{BASE}/{{type_:str}}/{{local_id:str}}", access=Access.BEARER, most=inbox.MOST_BY_API)
@door
def update(visit: Visit, type_: str, local_id: str) -> Response[bytes]:
    """Take a resource in the place of one that was sent under this grant (R4 §3.1.0.4)."""
    released = _may(visit, UPDATE, type_)
    try:
        before = _own(released, type_, local_id)
    except NotFound:  # a hospital's, a hidden or an unknown one: all alike (no update as create)
        raise HTTPException(status_code=405) from None
    _must_match(visit, before, type_, local_id)
    taken = _receive(visit, released, type_, UPDATE, amends=before.id)
    return _received(visit, released, taken, created=200)


@removal(f"{BASE}/{{type_:str}}/{{local_id:str}}", access=Access.BEARER)
@door
def delete(visit: Visit, type_: str, local_id: str) -> Response[bytes]:
    """Take back what was sent under this grant (R4 §3.1.0.7)."""
    released = _may(visit, DELETE, type_)
    before = _own(released, type_, local_id)
    _must_match(visit, before, type_, local_id)
    stands = _stands(visit, released)
    state = inbox.withdraw(released.vault, stands, before.id, now=clock.now())
    accepted = state == ArrivalState.ACCEPTED
    return _said(ASKED if accepted else GONE, 202 if accepted else 200)


# ------------------------------------------------------------------ small parts


def _may(visit: Visit, letters: str, type_: str) -> Released:
    """Ask the gate about the token; only who holds one learns which types may be sent."""
    known = type_ if type_ in inbox.TYPES else None
    released = release(visit, letters, known, "api.sent", **({"type": known} if known else {}))
    if known is None:
        raise HTTPException(status_code=405)
    return released


def _receive(
    visit: Visit, released: Released, type_: str, letters: str, amends: str | None = None
) -> Received:
    kind = visit.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in TAKEN:
        raise HTTPException(status_code=415)
    vault = released.vault
    sent = Sent(
        visit.body,
        way=inbox.API,
        type=type_,
        patient=references.patient_id(vault.id_key),
        amends=amends,
    )
    inbox.look_at(sent)
    if not scopes.covers(released.scopes, letters, inbox.draft(sent, now=clock.now())):
        raise ScopeTooSmall
    return inbox.receive(vault, _stands(visit, released), sent, handle_id=None, now=clock.now())


def _stands(visit: Visit, released: Released) -> Callable[[], Terms]:
    """Return the question to the gate whether the token stands now, with what it allowed before."""
    vault, grant_id, bearer = by_token(visit)

    def stands() -> Terms:
        with vault.read() as session:
            gate.stands(session, vault, grant_id, bearer, now=clock.now())
        next(released.guarded(iter([b""])))  # narrowed since: it ends here
        return released.terms

    return stands


def _own(released: Released, type_: str, local_id: str) -> Arrival:
    vault, grant_id = released.vault, released.terms.grant_id
    with vault.read() as session:
        return inbox.sent_as(session, vault, grant_id, f"{type_}/{local_id}")


def _must_match(visit: Visit, held: Arrival, type_: str, local_id: str) -> None:
    """Refuse to act on another version than the sender knows (R4 §3.1.0.5.1)."""
    wanted = visit.headers.get("if-match", "")
    known = [each.strip() for each in wanted.split(",")]
    if (
        wanted
        and inbox.etag(held) not in known
        and _as_read(visit, held, type_, local_id) not in known
    ):
        raise HTTPException(status_code=412)


def _as_read(visit: Visit, held: Arrival, type_: str, local_id: str) -> str:
    """Return the entity tag under which an accepted one is read, by a token that may read it."""
    if held.state != ArrivalState.ACCEPTED:
        return ""
    try:
        released = release(visit, "r", type_, "api.read", type=type_, id=local_id)
        return answers.one(released, type_, local_id).etag
    except (Denied, NotFound):
        return ""


def _received(
    visit: Visit, released: Released, taken: Received, *, created: int
) -> Response[bytes]:
    """Answer with where it will be found; that address tells nothing of the record."""
    vault = released.vault
    with vault.read() as session:
        held = inbox.own(session, released.terms.grant_id, taken.id)
    accepted = taken.state == ArrivalState.ACCEPTED
    headers = {
        "Location": f"{base_of(visit)}/{inbox.address(vault, held)}",
        "ETag": inbox.etag(held),
    }
    return _said(ACCEPTED if accepted else WAITS, created if accepted else 202, headers)


def _said(sentence: str, status: int, headers: dict[str, str] | None = None) -> Response[bytes]:
    issue = {"severity": "information", "code": "informational", "diagnostics": sentence}
    body = document.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    return Response(body, status_code=status, media_type=FHIR_JSON, headers=headers or {})


ROUTES: list[HTTPRouteHandler] = [create, update, delete]
