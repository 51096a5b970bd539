"""SMART Health Links of our own: made by the patient, opened by anybody's viewer (SHL 1.0).

Each fetch passes the gate and is made and encrypted anew. Not here: how the door speaks
(`phr.web.doors.health_links`), and links of others (`phr.connectors.health_link`).
"""

from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import wraps
from threading import Lock
from typing import Any, Final, TypeVar

from sqlalchemy.orm import Session

from phr import clock, ids, jwt
from phr.chart import documents
from phr.errors import Denied, Ended, InvalidInput, NotFound, TooManyTries
from phr.fhir import document, references
from phr.fhir.build import authored
from phr.fhir.record import Record, Selection
from phr.papers.kinds import kind_of
from phr.sharing import gate, grants, handles, links, summary
from phr.sharing.gate import Presented, Released
from phr.sharing.grants import StepUp
from phr.sharing.handles import Bearer, HealthLink
from phr.sharing.links import Wish
from phr.sharing.package import composed_patient
from phr.sharing.provision import Action
from phr.store import audit
from phr.store.database import Priority
from phr.store.models import Grant, GrantState, Handle, HandleKind, HandleState, RecipientKind
from phr.store.vault import Vault
from phr.views.picture import without_traces

Answer = TypeVar("Answer")

PATH: Final = "/h"  # of manifests, below the public address
FHIR_JSON: Final = "application/fhir+json"
LABEL: Final = "Health record, shared by its owner"
LONGEST_URL: Final = 128  # characters (SHL "url")
ROUTING_TEXT: Final = 22  # characters in which 16 bytes are written
SECRET_TEXT: Final = 43
VISIT: Final = timedelta(days=1)  # what runs longer may be looked at again: flag L
EMBEDDED: Final = 512 * 1024  # characters of a file that stands in the manifest, unless told less
MOST_DOCUMENTS: Final = 20
MOST_DOCUMENT: Final = 10 << 20  # bytes of the files of one document
RATE: Final = 10  # manifests of one link within a minute
MINUTE: Final = timedelta(minutes=1)
OPENED: Final = "health_link.opened"  # the line of the log for a manifest
CLAIMED: Final = 80  # characters that are kept of who a viewer says it is for
SUMMARY: Final = "summary"
LETTERS: Final = Selection(types=("DocumentReference",), limit=MOST_DOCUMENTS)
LOCKED: Final = (
    "A health link of yours was locked after five wrong passcodes. Look at “Who can see”."
)
TOO_LONG: Final = (
    "The public address of this Homeport is too long for a health link, which has 128 characters"
    " in all. A link works."
)

_asked_at: dict[str, list[datetime]] = {}  # when a link's manifest was asked for, lately
_counting = Lock()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a viewer sends for a manifest (SHL "Manifest Request"); `recipient` is only claimed."""

    recipient: str
    passcode: str | None = field(default=None, repr=False)
    embedded_most: int = EMBEDDED  # characters


@dataclass(frozen=True, slots=True)
class WrongPasscode:
    """No passcode, or not the right one; so many wrong ones may follow."""

    left: int


# ------------------------------------------------------------------ the patient


def make(
    vault: Vault,
    wish: Wish,
    *,
    grant_id: str,
    has_passcode: bool,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> HealthLink:
    """Make recipient, grant, approval and link in one transaction; shown once, like any link.

    Raises Conflict for a form sent twice, InvalidInput or StepUpNeeded; then nothing was made.
    """
    with vault.write() as session:
        grant = links.draft(
            session, wish, RecipientKind.HEALTH_LINK, actor, grant_id=grant_id, now=now
        )
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        routing_id = handles.reserve(vault.house, vault.id, grant.id)
        return handles.make_health_link(
            session, grant.id, routing_id, has_passcode=has_passcode, now=now
        )


def flags(*, has_passcode: bool, lasts: timedelta) -> str:
    """Return the flags of a link: P where a passcode is asked, L where it outlasts one visit.

    U (one file, no manifest) is for hosts that are blind, and this is none.
    """
    return ("L" if lasts > VISIT else "") + ("P" if has_passcode else "")


def text(link: HealthLink, wish: Wish, *, public_url: str, now: datetime) -> str:
    """Return `shlink:/…` (SHL "Construct a SMART Health Link Payload").

    Raises InvalidInput where the address would be longer than the standard allows.
    """
    url = f"{public_url}{PATH}/{_routing(link.handle_id)}{link.secret}"
    if len(url) > LONGEST_URL:
        raise InvalidInput(TOO_LONG)
    flag = flags(has_passcode=bool(link.passcode), lasts=wish.ends_at - now)
    payload: dict[str, Any] = {"url": url, "key": ids.as_text(link.key)}
    payload["exp"] = int(wish.ends_at.timestamp())
    if flag:
        payload["flag"] = flag
    payload |= {"label": LABEL, "v": 1}
    return f"shlink:/{ids.as_text(document.dumps(payload))}"


def must_fit(public_url: str) -> None:
    """Raise InvalidInput where the public address leaves no room for a link's own part."""
    if len(f"{public_url}{PATH}/") + ROUTING_TEXT + SECRET_TEXT > LONGEST_URL:
        raise InvalidInput(TOO_LONG)


def _routing(handle_id: str) -> str:
    return ids.as_text(bytes.fromhex(handle_id))


def read_address(address: str) -> Bearer | None:
    """Read the last part of a manifest's address; None for what cannot be one of ours."""
    handle_id = read_routing(address[:ROUTING_TEXT])
    sound = handle_id and len(address) == ROUTING_TEXT + SECRET_TEXT
    return Bearer(handle_id, address[ROUTING_TEXT:]) if sound else None


def read_routing(written: str) -> str:
    """Return the routing id that an address begins with; "" for what is none."""
    try:
        raw = urlsafe_b64decode(written.encode("ascii") + b"==")
    except ValueError:
        return ""
    return raw.hex() if len(written) == ROUTING_TEXT and ids.as_text(raw) == written else ""


# ------------------------------------------------------------------ the viewer


def _ended_where_over(asked: Callable[..., Answer]) -> Callable[..., Answer]:
    """Have what has run out ended for good, and say that there is nothing."""

    @wraps(asked)
    def guarded(vault: Vault, *given: Any, now: datetime, **named: Any) -> Answer:
        try:
            return asked(vault, *given, now=now, **named)
        except Ended:
            gate.expire(vault, now=now)
            raise NotFound from None

    return guarded


@_ended_where_over
def manifest(
    vault: Vault, bearer: Bearer, asked: Asked, *, base_url: str, now: datetime
) -> dict[str, Any] | WrongPasscode:
    """Return what a link holds at this moment (SHL "Manifest Response"), or the tries left.

    The summary stands in it where the viewer has room; each letter lies at an address of its own,
    good for an hour and once. Raises NotFound alike for unknown, wrong, paused, ended and locked,
    TooManyTries beyond RATE.
    """
    admitted = _admitted(vault, bearer, asked, now=now)
    if isinstance(admitted, WrongPasscode):
        return admitted
    released = _release(vault, bearer.routing_id, OPENED, now=now, asked=asked)
    sealed = jwt.seal(summary.bundle(released, base_url=base_url, now=now), admitted.key, FHIR_JSON)
    is_embedded = len(sealed) <= asked.embedded_most
    apart = [*([] if is_embedded else [SUMMARY]), *(one.local_id for one in _letters(released))]
    with vault.write(Priority.URGENT) as session:
        handle = session.get_one(Handle, bearer.routing_id)
        places = handles.make_files(session, handle, apart, now=now)
    below = f"{base_url}{PATH}/{_routing(bearer.routing_id)}"
    said = {"contentType": FHIR_JSON, "lastUpdated": clock.instant(now)}
    return {
        **({"status": "can-change"} if admitted.outlasts else {}),
        "files": [
            *([said | {"embedded": sealed}] if is_embedded else []),
            *(said | {"location": f"{below}/{secret}"} for secret in places.values()),
        ],
    }


@_ended_where_over
def file(vault: Vault, bearer: Bearer, *, base_url: str, now: datetime) -> str:
    """Return one file as JWE, by the address that a manifest gave; the address works once.

    What it holds is decided now, not when the manifest was made. Raises NotFound.
    """
    with vault.write(Priority.URGENT) as session:
        link = session.get(Handle, bearer.routing_id)
        if link is None or link.kind != HandleKind.HEALTH_LINK or _is_locked(link):
            raise NotFound
        _must_stand(session, link, now)
        taken = handles.file_of(session, link.grant_id, bearer.secret, now=now)
        if taken is None or link.content_key is None:
            raise NotFound
        handle_id, name, key = taken.id, taken.scopes or "", link.content_key
    released = _release(vault, handle_id, "health_link.fetched", now=now)
    made = (
        summary.bundle(released, base_url=base_url, now=now)
        if name == SUMMARY
        else _letter(released, name, base_url, now)
    )
    return jwt.seal(made, key, FHIR_JSON)


@dataclass(frozen=True, slots=True)
class _Admitted:
    key: bytes = field(repr=False)
    outlasts: bool  # one visit


def _admitted(
    vault: Vault, bearer: Bearer, asked: Asked, *, now: datetime
) -> _Admitted | WrongPasscode:
    """Check address and passcode. One urgent transaction per guess: parallel ones stand in line.

    A try is used up before anything is compared, and given back to who knew the passcode.
    """
    with vault.write(Priority.URGENT) as session:
        handle = handles.presented(
            session, bearer.routing_id, bearer.secret, HandleKind.HEALTH_LINK
        )
        grant = _must_stand(session, handle, now)
        if handle.code_hash is not None:
            wrong = _wrong_passcode(session, vault, handle, grant, asked)
            if wrong is not None:
                return wrong
        _must_not_hurry(handle.id, now)
        if handle.content_key is None:
            raise NotFound
        return _Admitted(handle.content_key, grant.ends_at - grant.starts_at > VISIT)


def _must_stand(session: Session, handle: Handle, now: datetime) -> Grant:
    """Return the grant of a link that is live now. Raises NotFound for any other.

    One whose time is over is ended by whoever touches it, and its key wiped with that: no need to
    wait for the housekeeping.
    """
    grant = grants.get(session, handle.grant_id)
    if now >= grant.ends_at:
        raise Ended
    live = grant.state == GrantState.ACTIVE and handle.state != HandleState.ENDED
    if not live or now < grant.starts_at:
        raise NotFound
    return grant


def _is_locked(handle: Handle) -> bool:
    """Tell a link whose passcode was wrong too often: it is as good as gone, with its files."""
    return handle.code_hash is not None and handle.tries_left == 0


def _wrong_passcode(
    session: Session, vault: Vault, handle: Handle, grant: Grant, asked: Asked
) -> WrongPasscode | None:
    if _is_locked(handle):
        raise NotFound
    if asked.passcode is None:
        return WrongPasscode(handle.tries_left)  # nothing was guessed
    left = handles.take_try(session, handle.id)
    if left is None:
        raise NotFound
    if handles.code_fits(handle, handles.digits(asked.passcode) or ""):
        handles.give_try_back(session, handle.id)
        return None
    who = gate.actor_of(session, grant)
    event = "health_link.wrong_code"
    audit.append(session, vault, event, who, grant_id=grant.id, left=left, claimed=asked.recipient)
    if not left:
        session.info["after"] = [lambda: vault.house.warn(vault.id, LOCKED)]
    return WrongPasscode(left)


def _must_not_hurry(handle_id: str, now: datetime) -> None:
    """Raise TooManyTries where a link is asked for again and again (SHL "Polling").

    Counted here and not by the log, whose line is written when the manifest is made: forty asked
    for at once would all find it empty.
    """
    with _counting:
        since = now - MINUTE
        for other in [key for key, times in _asked_at.items() if times[-1] <= since]:
            del _asked_at[other]
        lately = [at for at in _asked_at.get(handle_id, ()) if at > since]
        if len(lately) >= RATE:
            raise TooManyTries(after=lately[-RATE] + MINUTE)
        _asked_at[handle_id] = [*lately, now]


def _release(
    vault: Vault, handle_id: str, event: str, *, now: datetime, asked: Asked | None = None
) -> Released:
    detail: dict[str, Any] = {} if asked is None else {"claimed": asked.recipient}
    try:
        return gate.release(
            vault, Presented(handle_id), Action.DOWNLOAD, event, now=now, measure=True, **detail
        )
    except (Ended, Denied):
        raise NotFound from None


# ------------------------------------------------------------------ letters


def _letters(released: Released) -> list[Record]:
    """Return the newest documents that hold a file, or of which one is kept here."""
    return [
        one
        for one in released.select(LETTERS)
        if one.type == "DocumentReference" and documents.attachments(one.document)
    ]


def _letter(released: Released, local_id: str, base_url: str, now: datetime) -> bytes:
    """Return a document as a Bundle: the patient, the record as received, its kept files."""
    record = released.one("DocumentReference", local_id)
    head = {"resourceType": "Bundle", "type": "collection", "timestamp": clock.instant(now)}
    made = (
        document.dumps({"fullUrl": url})[:-1] + b',"resource":' + body + b"}"
        for url, body in _of_letter(released, record, f"{base_url}/fhir")
    )
    return authored(head)[:-1] + b',"entry":[' + b",\n".join(made) + b"]}\n"


def _of_letter(released: Released, record: Record, base: str) -> Iterator[tuple[str, bytes]]:
    patient = composed_patient(references.patient_id(released.vault.id_key), released.identity())
    yield f"{base}/Patient/{patient['id']}", document.dumps(patient)
    for one, body in released.bodies([record]):
        yield f"{base}/DocumentReference/{one.local_id}", body
    size = 0
    for place in documents.attachments(record.document):
        content = _content(released, record, place)
        size += len(content)
        if content and size <= MOST_DOCUMENT:
            url = place.url if ":" in place.url else f"{base}/{place.url}"
            yield url, authored(_binary(content))


def _content(released: Released, record: Record, place: documents.Attachment) -> bytes:
    if place.inline or not place.url:
        return b""  # it stands in the record itself
    try:
        return released.file(record, place.url)
    except NotFound:
        return b""


def _binary(content: bytes) -> dict[str, str]:
    """Return kept bytes as a Binary (R4 §2.41); what they are is told by them, not by a sender."""
    kind = kind_of(content).media_type.partition(";")[0]
    data = b64encode(without_traces(content)).decode()  # where a picture was taken stays at home
    return {"resourceType": "Binary", "contentType": kind, "data": data}
