"""The secrets under a grant: link, Health Link, emergency card, access tokens, push and print.

Only SHA-256 values are kept, in the vault; the routing id in house.db says which vault. Every
function runs in the caller's transaction. Whether a handle opens anything: `gate`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from phr import ids
from phr.errors import Conflict, InvalidInput, NotFound
from phr.store.database import rows
from phr.store.house import House
from phr.store.models import ClaimedBrowser, Handle, HandleKind, HandleState, Route

CODE_DIGITS = 6
TRIES = 5  # in all, until the patient gives a new code
BROWSERS_AT_MOST = 10
SALT_BYTES = 16
TOKEN_LASTS = timedelta(minutes=15)  # an access token at most (sharing.md §3.3)
TOKENS_AT_MOST = 200  # live ones of one grant
FILE_LASTS = timedelta(hours=1)  # the address of a Health Link's file at most (SHL "location")
FILES_AT_MOST = 200  # such addresses of one grant
KEY_BYTES = 32  # of a Health Link's files (A256GCM)
LONGEST_TOKEN = 200  # characters
TICKET_PLACES = 1 << 14  # in the list of one record's stopped tickets
UNKNOWN = ids.fingerprint(ids.new_secret())  # compared with where there is nothing to compare


@dataclass(frozen=True, slots=True)
class Link:
    """A link as it is shown once: the address, and the code that goes another way."""

    handle_id: str
    grant_id: str
    url: str
    code: str


@dataclass(frozen=True, slots=True)
class HealthLink:
    """A SMART Health Link as it is shown once: the secret of its address, key and passcode."""

    handle_id: str
    grant_id: str
    secret: str = field(repr=False)
    key: bytes = field(repr=False)
    passcode: str  # "": none is asked


@dataclass(frozen=True, slots=True)
class Token:
    """An access token as it is shown once (RFC 6749 §5.1): the text, and what it stands for."""

    handle_id: str
    grant_id: str
    text: str = field(repr=False)
    scopes: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a request presents: the routing id that leads to a vault, and the secret."""

    routing_id: str
    secret: str = field(repr=False)


# ------------------------------------------------------------------ routing, in house.db


def reserve(house: House, patient_id: str, grant_id: str) -> str:
    """Enter a new random routing id that leads to this patient's vault, and return it."""
    routing_id = ids.new_id()
    with house.write() as session:
        session.add(Route(id=routing_id, patient_id=patient_id, grant_id=grant_id))
    return routing_id


def patient_of(house: House, routing_id: str) -> str | None:
    """Return whose vault a routing id leads to, or None."""
    with house.read() as session:
        found = session.get(Route, routing_id)
        return None if found is None else found.patient_id


def bearer_route(house: House, patient_id: str, grant_id: str) -> str:
    """Return the routing id with which the tokens of a grant begin; one for all of them."""
    known = select(Route.id).where(Route.grant_id == grant_id, Route.bearer == 1).limit(1)
    with house.write() as session:
        found = session.scalars(known).first()
        if found is not None:
            return found
        made = Route(id=ids.new_id(), patient_id=patient_id, grant_id=grant_id, bearer=1)
        session.add(made)
        return made.id


def route_of(house: House, bearer: Bearer) -> tuple[str, str] | None:
    """Return (patient id, grant id) that a token's routing id leads to, or None."""
    asked = "SELECT patient_id, grant_id FROM route WHERE id = ? AND bearer = 1"
    with house.read() as session:
        found = rows(session, asked, (bearer.routing_id,))
    return (found[0][0], found[0][1]) if found else None


def ticket_route(house: House, patient_id: str, grant_id: str) -> tuple[str, int]:
    """Return the routing id of a Permission Ticket, and its place in the list of stopped ones.

    The place is drawn: how many tickets there are does not follow from it. Raises Conflict where
    none is free.
    """
    routing_id = bearer_route(house, patient_id, grant_id)
    with house.write() as session:
        taken = set(
            session.scalars(
                select(Route.ticket).where(
                    Route.patient_id == patient_id, Route.ticket.is_not(None)
                )
            )
        )
        free = [place for place in range(TICKET_PLACES) if place not in taken]
        if not free:
            raise Conflict("Too many tickets were made for this record.")
        route = session.get_one(Route, routing_id)
        if route.ticket is None:
            route.ticket = free[int.from_bytes(ids.random_bytes(8), "big") % len(free)]
        return routing_id, route.ticket


def stopped_tickets(house: House, patient_id: str) -> list[int]:
    """Return the places of a record's Permission Tickets that ended, also of a sealed one."""
    wanted = select(Route.ticket).where(
        Route.patient_id == patient_id, Route.ticket.is_not(None), Route.ended_at.is_not(None)
    )
    with house.read() as session:
        return [place for place in session.scalars(wanted) if place is not None]


# ------------------------------------------------------------------ making, in the vault


def _made(
    session: Session, grant_id: str, kind: HandleKind, secret: str, *, now: datetime, **more: Any
) -> Handle:
    """Keep a live handle that this secret opens; what is not said is none: no try, no browser."""
    said = {"id": ids.new_id(), "tries_left": 0, "devices_left": 0} | more
    handle = Handle(
        grant_id=grant_id,
        kind=kind,
        state=HandleState.LIVE,
        secret_hash=ids.fingerprint(secret),
        created_at=now,
        **said,
    )
    session.add(handle)
    session.flush()
    return handle


def make_link(
    session: Session, grant_id: str, routing_id: str, public_url: str, *, now: datetime
) -> Link:
    """Issue a link under a grant: 256-bit secret, 6-digit code, one browser, five tries."""
    secret = ids.new_secret()
    handle = _made(
        session,
        grant_id,
        HandleKind.LINK,
        secret,
        id=routing_id,
        tries_left=TRIES,
        devices_left=1,
        now=now,
    )
    code = _set_code(handle)
    session.flush()
    return Link(routing_id, grant_id, f"{public_url}/s/{routing_id}.{secret}", code)


def make_inner(session: Session, grant_id: str, kind: HandleKind, *, now: datetime) -> Handle:
    """Issue a handle that never leaves the house (push, print): nobody outside can present it."""
    return _made(session, grant_id, kind, ids.new_secret(), now=now)


def make_health_link(
    session: Session, grant_id: str, routing_id: str, *, has_passcode: bool, now: datetime
) -> HealthLink:
    """Issue a SMART Health Link: 256-bit secret and content key, and a passcode if one is asked.

    The content key stays, for each fetch is encrypted anew; it is wiped when the grant ends.
    """
    secret, key = ids.new_secret(), ids.random_bytes(KEY_BYTES)
    handle = _made(
        session,
        grant_id,
        HandleKind.HEALTH_LINK,
        secret,
        id=routing_id,
        content_key=key,
        tries_left=TRIES if has_passcode else 0,
        now=now,
    )
    passcode = _set_code(handle) if has_passcode else ""
    session.flush()
    return HealthLink(routing_id, grant_id, secret, key, passcode)


def make_files(
    session: Session, link: Handle, names: Sequence[str], *, now: datetime
) -> dict[str, str]:
    """Return an address for each file of a Health Link, good for one hour and for one fetch.

    Those that ran out or were used are swept away; of too many the oldest stop working.
    """
    of_link = (Handle.grant_id == link.grant_id, Handle.kind == HandleKind.HEALTH_FILE)
    dead = or_(Handle.expires_at <= now, Handle.tries_left == 0)
    oldest = select(Handle.id).where(*of_link).order_by(Handle.created_at.desc(), Handle.id)
    crowded = oldest.offset(max(0, FILES_AT_MOST - len(names)))
    for unwanted in (dead, Handle.id.in_(crowded)):
        session.execute(
            delete(Handle).where(*of_link, unwanted).execution_options(synchronize_session=False)
        )
    secrets = {name: ids.new_secret() for name in names}
    for name, secret in secrets.items():
        _made(
            session,
            link.grant_id,
            HandleKind.HEALTH_FILE,
            secret,
            scopes=name,
            tries_left=1,
            expires_at=now + FILE_LASTS,
            now=now,
        )
    return secrets


def make_card(session: Session, grant_id: str, routing_id: str, *, now: datetime) -> str:
    """Issue the address of an emergency card and return it: no code, no browser bound yet."""
    secret = ids.new_secret()
    _made(session, grant_id, HandleKind.CARD, secret, id=routing_id, now=now)
    return f"{routing_id}.{secret}"


def make_token(
    session: Session,
    grant_id: str,
    routing_id: str,
    scopes: str,
    *,
    now: datetime,
    lasts: timedelta = TOKEN_LASTS,
) -> Token:
    """Issue an access token under a grant: opaque, 256-bit secret, looked up at every request.

    `scopes` are kept as one text, as they are said back to the client; `routing_id` comes from
    `bearer_route`. Tokens that ran out are swept away here. Raises InvalidInput where it would
    last longer than TOKEN_LASTS, Conflict where TOKENS_AT_MOST are live.
    """
    if not timedelta() < lasts <= TOKEN_LASTS:
        raise InvalidInput("An access token lasts 15 minutes at most.")
    session.execute(
        delete(Handle)
        .where(
            Handle.grant_id == grant_id, Handle.kind == HandleKind.TOKEN, Handle.expires_at <= now
        )
        .execution_options(synchronize_session=False)
    )
    if len(tokens(session, grant_id)) >= TOKENS_AT_MOST:
        raise Conflict("Too many access tokens are in use at once.")
    secret = ids.new_secret()
    handle = _made(
        session,
        grant_id,
        HandleKind.TOKEN,
        secret,
        scopes=scopes,
        expires_at=now + lasts,
        now=now,
    )
    return Token(handle.id, grant_id, f"{routing_id}.{secret}", scopes, now + lasts)


def keep_ticket(
    session: Session, grant_id: str, routing_id: str, text: str, *, now: datetime
) -> Handle:
    """Keep that a Permission Ticket was made under a grant: its SHA-256, not the ticket."""
    return _made(session, grant_id, HandleKind.TICKET, text, id=routing_id, now=now)


def of_grant(session: Session, grant_id: str, kind: HandleKind | None = None) -> Handle | None:
    """Return the handle of a grant (of this kind), or None."""
    wanted = select(Handle).where(Handle.grant_id == grant_id)
    if kind is not None:
        wanted = wanted.where(Handle.kind == kind)
    return session.scalars(wanted.order_by(Handle.created_at.desc()).limit(1)).first()


# ------------------------------------------------------------------ what the patient may do


def new_code(handle: Handle) -> str:
    """Give a link a new code, five tries and room for one more browser; the old code is dead."""
    _must_stand(handle)
    handle.tries_left = TRIES
    handle.devices_left = max(1, handle.devices_left)
    return _set_code(handle)


def allow_browser(session: Session, handle: Handle) -> None:
    """Let one more browser use the same link and code. Raises Conflict at ten."""
    _must_stand(handle)
    if len(browsers(session, handle.id)) + handle.devices_left >= BROWSERS_AT_MOST:
        raise Conflict("Ten devices are enough for one link. Make a new link for others.")
    handle.devices_left += 1


def browsers(session: Session, handle_id: str) -> list[ClaimedBrowser]:
    """Return the browsers bound to a link, the first bound first."""
    return list(
        session.scalars(
            select(ClaimedBrowser)
            .where(ClaimedBrowser.handle_id == handle_id)
            .order_by(ClaimedBrowser.claimed_at)
        )
    )


def _must_stand(handle: Handle) -> None:
    if handle.kind != HandleKind.LINK or handle.state == HandleState.ENDED:
        raise Conflict("This link has ended. Make a new one.")


# ------------------------------------------------------------------ what is presented


def presented(
    session: Session, handle_id: str, secret: str, kind: HandleKind = HandleKind.LINK
) -> Handle:
    """Return the handle of this kind that this secret opens.

    Raises NotFound, alike for unknown and for wrong.
    """
    handle = session.get(Handle, handle_id)
    known = handle is not None and handle.kind == kind
    expected = handle.secret_hash if handle is not None and known else UNKNOWN
    if not ids.same(ids.fingerprint(secret), expected) or handle is None or not known:
        raise NotFound
    return handle


def tokens(session: Session, grant_id: str) -> list[Handle]:
    """Return the access tokens of a grant that were not swept away, the oldest first."""
    return list(
        session.scalars(
            select(Handle)
            .where(Handle.grant_id == grant_id, Handle.kind == HandleKind.TOKEN)
            .order_by(Handle.created_at)
        )
    )


def end_token(session: Session, handle_id: str) -> bool:
    """End one access token (RFC 7009); its next request is refused. False if it was over."""
    row = session.execute(
        update(Handle)
        .where(
            Handle.id == handle_id,
            Handle.kind == HandleKind.TOKEN,
            Handle.state != HandleState.ENDED,
        )
        .values(state=HandleState.ENDED)
        .execution_options(synchronize_session=False)
        .returning(Handle.id)
    ).first()
    return row is not None


def bearer_of(text: str) -> Bearer | None:
    """Read a token as it stands behind "Bearer "; None for what cannot be one of ours."""
    routing_id, dot, secret = text.partition(".")
    plain = routing_id + secret
    sound = dot and plain.isascii() and plain.replace("-", "").replace("_", "").isalnum()
    return Bearer(routing_id, secret) if sound and len(text) <= LONGEST_TOKEN else None


def token_of(session: Session, grant_id: str, secret: str) -> Handle | None:
    """Return the access token of this grant with this secret, whatever its state; or None."""
    return session.scalars(
        select(Handle).where(
            Handle.grant_id == grant_id,
            Handle.kind == HandleKind.TOKEN,
            Handle.secret_hash == ids.fingerprint(secret),
        )
    ).first()


def file_of(session: Session, grant_id: str, secret: str, *, now: datetime) -> Handle | None:
    """Return the address of a Health Link's file with this secret, used up by this call; or None.

    One UPDATE decides, so that two fetches at once are one.
    """
    taken = session.execute(
        update(Handle)
        .where(
            Handle.grant_id == grant_id,
            Handle.kind == HandleKind.HEALTH_FILE,
            Handle.secret_hash == ids.fingerprint(secret),
            Handle.state == HandleState.LIVE,
            Handle.tries_left > 0,
            Handle.expires_at > now,
        )
        .values(tries_left=0)
        .execution_options(synchronize_session=False)
        .returning(Handle.id)
    ).first()
    return None if taken is None else session.get(Handle, taken[0], populate_existing=True)


def browser_of(session: Session, handle_id: str, cookie: str) -> ClaimedBrowser:
    """Return the browser bound by this cookie to this link. Raises NotFound."""
    found = session.get(ClaimedBrowser, ids.fingerprint(cookie))
    if found is None or found.handle_id != handle_id:
        raise NotFound
    return found


def take_try(session: Session, handle_id: str) -> int | None:
    """Use up one of the tries, before anything is compared; return what is left, None at none."""
    row = session.execute(
        update(Handle)
        .where(Handle.id == handle_id, Handle.tries_left > 0)
        .values(tries_left=Handle.tries_left - 1)
        .execution_options(synchronize_session=False)
        .returning(Handle.tries_left)
    ).first()
    return None if row is None else int(row[0])


def give_try_back(session: Session, handle_id: str) -> None:
    """Return the try that bound a browser: it was no guess."""
    session.execute(
        update(Handle)
        .where(Handle.id == handle_id)
        .values(tries_left=Handle.tries_left + 1)
        .execution_options(synchronize_session=False)
    )


def digits(typed: str) -> str | None:
    """Return the six digits of a typed code, spaces and dashes dropped; None if it is no code.

    What cannot be a code is a slip of the hand, and uses up no try.
    """
    plain = "".join(c for c in typed if c not in " -\u00a0\u2009")
    return plain if plain.isascii() and plain.isdigit() and len(plain) == CODE_DIGITS else None


def code_fits(handle: Handle, code: str) -> bool:
    """Compare six digits with the link's code, in constant time."""
    return ids.same(_code_hash(handle.code_salt or b"", code), handle.code_hash or UNKNOWN)


def bind_browser(session: Session, handle: Handle, browser: str, *, now: datetime) -> str | None:
    """Bind a browser by a fresh random cookie and return it; None where no room is left."""
    row = session.execute(
        update(Handle)
        .where(Handle.id == handle.id, Handle.devices_left > 0)
        .values(devices_left=Handle.devices_left - 1, state=HandleState.CLAIMED)
        .execution_options(synchronize_session=False)
        .returning(Handle.id)
    ).first()
    if row is None:
        return None
    cookie = ids.new_secret()
    session.add(
        ClaimedBrowser(
            cookie_hash=ids.fingerprint(cookie),
            handle_id=handle.id,
            browser=browser,
            claimed_at=now,
        )
    )
    session.flush()
    return cookie


def open_card(
    session: Session, handle: Handle, browser: str, *, until: datetime, now: datetime
) -> str:
    """Bind a browser to an emergency card until then, by a fresh random cookie, and return it."""
    cookie = ids.new_secret()
    session.add(
        ClaimedBrowser(
            cookie_hash=ids.fingerprint(cookie),
            handle_id=handle.id,
            browser=browser,
            claimed_at=now,
            ends_at=until,
        )
    )
    session.flush()
    return cookie


def _set_code(handle: Handle) -> str:
    code = ids.new_code(CODE_DIGITS)
    handle.code_salt = ids.random_bytes(SALT_BYTES)
    handle.code_hash = _code_hash(handle.code_salt, code)
    return code


def _code_hash(salt: bytes, code: str) -> bytes:
    return hashlib.blake2b(code.encode(), key=salt, digest_size=32).digest()
