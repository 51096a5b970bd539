"""What a doctor with a link may send back: a note or a file, and what became of sending it.

Everything goes to the patient's inbox (`phr.sharing.inbox`); nothing that was sent is shown again.
"""

from collections.abc import Callable
from functools import partial

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.orm import Session

from phr import clock
from phr.errors import Conflict, InvalidInput, NotFound, PhrError, TooManyTries
from phr.sharing import arrivals, cover, gate, inbox
from phr.sharing.gate import Terms
from phr.sharing.inbox import Received, Sent
from phr.sharing.provision import Action
from phr.store.models import Arrival
from phr.web.doors.links import door
from phr.web.faults import status_of
from phr.web.forms import Upload
from phr.web.presented import by_cookie, vault_of
from phr.web.routing import Access, Form, Visit, action, slow_page

EMPTY = "Please write a note or choose a file."
TYPED = ("title", "note", "signed")  # fields that a refused form has again


@slow_page("/s/{routing_id:str}/send", access=Access.LINK)
@door
def send_page(visit: Visit, routing_id: str) -> Response[bytes]:
    """Offer to send a note or a file, say what happens with it, and list what was sent."""
    return _draw(visit, routing_id, Form())


@slow_page("/s/{routing_id:str}/send/{arrival_id:str}", access=Access.LINK)
@door
def amend_page(visit: Visit, routing_id: str, arrival_id: str) -> Response[bytes]:
    """Offer to send something in the place of what was sent before."""
    return _draw(visit, routing_id, Form(), amends=arrival_id)


@action("/s/{routing_id:str}/send", access=Access.LINK, uploads=True)
@door
def send(visit: Visit, form: Form, routing_id: str) -> Response[bytes]:
    """Take a note, a file, or both: each waits for the patient."""
    amends = form.get("amends") or None
    stands = _stands(visit, routing_id)
    _may_send(stands())  # before a stranger's file is read
    try:
        taken = _take(visit, form, routing_id, stands, amends)
    except (InvalidInput, Conflict, TooManyTries) as error:
        return _draw(visit, routing_id, form, amends=amends, error=error)
    again = "&again=1" if taken.is_known else ""
    return visit.redirect(f"/s/{routing_id}/send?sent={taken.id}{again}")


@action("/s/{routing_id:str}/send/{arrival_id:str}/withdraw", access=Access.LINK)
@door
def withdraw(visit: Visit, routing_id: str, arrival_id: str) -> Response[bytes]:
    """Take something back that was sent under this link."""
    stands = _stands(visit, routing_id)
    inbox.withdraw(vault_of(visit, routing_id), stands, arrival_id, now=clock.now())
    return visit.redirect(f"/s/{routing_id}/send?withdrawn=1")


def _take(
    visit: Visit, form: Form, routing_id: str, stands: Callable[[], Terms], amends: str | None
) -> Received:
    """Receive the note and the file of a form; what is there already is known, not an error."""
    title, signed = form.get("title")[:500], form.get("signed")[:500]
    receive = partial(inbox.receive, vault_of(visit, routing_id), stands, handle_id=routing_id)
    note = form.get("note").strip()
    sent = [Sent(note.encode(), title, "", signed, is_note=True, amends=amends)] if note else []
    upload = next((each for each in form.uploads() if each.filename), None)
    if upload is not None:
        sent.append(Sent(_read(upload), title, upload.filename, signed, amends=amends))
    if not sent:
        raise InvalidInput(EMPTY)
    if amends and len(sent) > 1:
        raise InvalidInput("Please send one thing in the place of another.")
    for each in sent:
        inbox.look_at(each)  # both are fit, or none is received
    return [receive(each, now=clock.now()) for each in sent][-1]


def _read(upload: Upload) -> bytes:
    content = bytearray()
    for chunk in upload.chunks:
        content += chunk
        if len(content) > inbox.MOST:
            raise InvalidInput(inbox.TOO_LARGE)
    return bytes(content)


def _stands(visit: Visit, routing_id: str) -> Callable[[], Terms]:
    """Return the question to the gate whether this browser's link stands now."""
    vault, shown = vault_of(visit, routing_id), by_cookie(visit, routing_id)
    return lambda: gate.look(vault, shown, now=clock.now())


def _may_send(terms: Terms) -> None:
    """Answer as if there were nothing here where the patient did not offer it."""
    if Action.CONTRIBUTE not in terms.actions:
        raise NotFound


def _draw(
    visit: Visit,
    routing_id: str,
    form: Form,
    *,
    amends: str | None = None,
    error: PhrError | None = None,
) -> Response[bytes]:
    terms = _stands(visit, routing_id)()
    _may_send(terms)
    with vault_of(visit, routing_id).read() as session:
        before = inbox.own(session, terms.grant_id, amends) if amends else None
        sent = inbox.sent_by(session, terms.grant_id)
        taken_back = arrivals.taken_back(session, terms.grant_id)
        name = _person(session, visit, routing_id, terms)
    received = next((one for one in sent if one.id == visit.query.get("sent")), None)
    return visit.render(
        "doors/send.html",
        status=_status(error),
        handle=routing_id,
        terms=terms,
        person=name,
        sent=[(one, name_of(one)) for one in sent],
        taken_back=taken_back,
        received=None if received is None else name_of(received),
        again="again" in visit.query,
        withdrawn="withdrawn" in visit.query,
        amends=None if before is None else (before.id, name_of(before)),
        typed={name: form.get(name) for name in TYPED},
        sentence="" if error is None else error.sentence,
    )


def _person(session: Session, visit: Visit, routing_id: str, terms: Terms) -> str:
    """Return the name that stands on the first page: the record's, not what the house calls it."""
    told = gate.identity(session, vault_of(visit, routing_id), terms.grant_id)
    return cover.who_is(told, terms.patient, clock.now()).name


def _status(error: PhrError | None) -> int:
    """Return the status of the page: of a form that is shown again it is 422, as everywhere."""
    if error is None:
        return 200
    return status_of(error) if isinstance(error, TooManyTries) else 422


def name_of(held: Arrival) -> str:
    """Return how a sender knows what he sent again: his own words for it, or what it is."""
    kinds = {"note": "Note", "file": "File", "records": "FHIR records"}
    return held.title or held.name or kinds[held.kind]


ROUTES: list[HTTPRouteHandler] = [send_page, amend_page, send, withdraw]
