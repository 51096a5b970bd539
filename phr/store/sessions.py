"""Signed-in browsers in house.db: a random id of which only the SHA-256 is kept.

Cookies, CSRF tokens and who may see what are `phr.web`'s; this file only remembers.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, update

from phr import clock, ids
from phr.store.database import Priority, rows
from phr.store.house import House
from phr.store.models import Session

TOUCH_EVERY = timedelta(seconds=30)  # how exactly "seen at" is kept; spares a write per click


@dataclass(frozen=True, slots=True)
class Browser:
    """One session as the web sees it; times are aware UTC."""

    id_hash: bytes
    public_id: str
    account_id: str
    account_name: str
    administrator: bool
    browser: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    stepped_up_at: datetime | None
    stepped_up_with: str | None
    flash: tuple[str, ...]


# Plain SQL: every request of a signed-in browser begins with it.
_LIVE = (
    "SELECT s.id_hash, s.public_id, s.account_id, a.name, a.administrator, s.browser,"
    " s.created_at, s.seen_at, s.expires_at, s.stepped_up_at, s.stepped_up_with, s.flash"
    " FROM session s JOIN account a ON a.id = s.account_id WHERE a.state = 'active' AND "
)


def _browser(row: Any) -> Browser:
    stepped_up_at, flash = row[9], json.loads(row[11] or "[]")
    return Browser(
        id_hash=row[0],
        public_id=row[1],
        account_id=row[2],
        account_name=row[3],
        administrator=bool(row[4]),
        browser=row[5],
        created_at=clock.from_ms(row[6]),
        seen_at=clock.from_ms(row[7]),
        expires_at=clock.from_ms(row[8]),
        stepped_up_at=None if stepped_up_at is None else clock.from_ms(stepped_up_at),
        stepped_up_with=row[10],
        flash=tuple(flash or ()),
    )


def start(house: House, account_id: str, *, browser: str, lifetime: timedelta, factor: str) -> str:
    """Begin a session and return its secret id (256 bits); sign-in counts as a fresh step-up."""
    secret, now = ids.new_secret(), clock.now()
    row = Session(
        id_hash=ids.fingerprint(secret),
        public_id=ids.new_id(),
        account_id=account_id,
        browser=browser[:60],
        created_at=now,
        seen_at=now,
        expires_at=now + lifetime,
        stepped_up_at=now,
        stepped_up_with=factor,
    )
    with house.write(Priority.URGENT) as session:
        session.execute(delete(Session).where(Session.expires_at <= now))
        session.add(row)
    return secret


def find(house: House, secret: str, *, idle: timedelta) -> Browser | None:
    """Return the live session of a secret id: known, not expired, not idle, account active."""
    known = remembered(house, ids.fingerprint(secret))
    return known if known is not None and is_live(known, idle=idle) else None


def remembered(house: House, id_hash: bytes) -> Browser | None:
    """Return what is written of a session, live or not, unless its account is not active."""
    with house.read() as session:
        known = rows(session, f"{_LIVE} s.id_hash = ?", (id_hash,))
    return _browser(known[0]) if known else None


def is_live(browser: Browser, *, idle: timedelta) -> bool:
    """Tell whether a session is neither over nor idle for too long."""
    now = clock.now()
    return now < browser.expires_at and now - browser.seen_at < idle


def touch(house: House, browser: Browser) -> None:
    """Remember that the browser was seen now; at most once every TOUCH_EVERY."""
    now = clock.now()
    if now - browser.seen_at >= TOUCH_EVERY:
        _change(house, browser.id_hash, seen_at=now)


def needs_touch(browser: Browser) -> bool:
    """Tell whether `touch` would write."""
    return clock.now() - browser.seen_at >= TOUCH_EVERY


def step_up(house: House, browser: Browser, factor: str) -> str:
    """Note a fresh password or code and return the session's new secret id; the old one is dead."""
    secret, now = ids.new_secret(), clock.now()
    _change(
        house,
        browser.id_hash,
        id_hash=ids.fingerprint(secret),
        seen_at=now,
        stepped_up_at=now,
        stepped_up_with=factor,
    )
    return secret


def leave_note(house: House, browser: Browser, note: str) -> None:
    """Keep a sentence for the next full page of this browser (its flash)."""
    _change(house, browser.id_hash, flash=[*browser.flash, note][-5:])


def take_notes(house: House, browser: Browser) -> tuple[str, ...]:
    """Return the sentences kept for this browser and forget them."""
    if browser.flash:
        _change(house, browser.id_hash, flash=None)
    return browser.flash


def _change(house: House, id_hash: bytes, /, **values: Any) -> None:
    with house.write(Priority.URGENT) as session:
        session.execute(update(Session).where(Session.id_hash == id_hash).values(**values))


def of_account(house: House, account_id: str) -> list[Browser]:
    """Return the live sessions of an account, the last seen first."""
    where = f"{_LIVE} s.account_id = ? AND s.expires_at > ? ORDER BY s.seen_at DESC"
    given = (account_id, clock.to_ms(clock.now()))
    with house.read() as session:
        rows = session.connection().exec_driver_sql(where, given)
        return [_browser(row) for row in rows]


def end(house: House, account_id: str, public_id: str) -> None:
    """End one session of an account; ending a session that is gone is no error."""
    _end(house, lambda rows: rows.where(Session.public_id == public_id), account_id)


def end_others(house: House, account_id: str, *, keep: str | None = None) -> None:
    """End every session of an account, but not the one with the public id `keep`."""
    _end(house, lambda rows: rows.where(Session.public_id != (keep or "")), account_id)


def _end(house: House, narrow: Callable[[Any], Any], account_id: str) -> None:
    with house.write(Priority.URGENT) as session:
        session.execute(narrow(delete(Session).where(Session.account_id == account_id)))


def end_everybody(house: House) -> None:
    """End every session of everybody (after a restore)."""
    with house.write(Priority.URGENT) as session:
        session.execute(delete(Session))
