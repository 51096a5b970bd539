"""Limits on tries of secrets, kept in house.db so that a restart forgets nothing.

Delays grow and never become for ever. What is tried, and what follows, is the caller's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.orm import Session

from phr import clock
from phr.errors import TooManyTries
from phr.store.database import Priority
from phr.store.house import House
from phr.store.models import Attempt

FORGOTTEN_AFTER = timedelta(days=1)
KNOWN_FOR = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Limit:
    """`free` tries without waiting, then `first` seconds doubling up to `most` between tries."""

    free: int
    first: float
    most: float


# At 2400 s between tries a day of guessing is 50 tries, and 100 from two places: a known one, for
# which the owner need not wait, and all others together.
SIGN_IN = Limit(free=5, first=2, most=2400)
NETWORK = Limit(free=30, first=2, most=600)  # a household shares one address
SETUP = Limit(free=5, first=2, most=600)
TOTP = Limit(free=5, first=30, most=1200)
KIT = Limit(free=5, first=5, most=1200)
CODE = Limit(free=10, first=5, most=600)


def check(house: House, key: str, limit: Limit) -> None:
    """Raise TooManyTries with the instant of the next try when `key` has to wait."""
    with house.read() as session:
        _refuse(session, key, limit, clock.now())


def failed(house: House, key: str) -> None:
    """Count a failed try."""
    with house.write(Priority.URGENT) as session:
        _count(session, key, clock.now())


def passed(house: House, *keys: str) -> None:
    """Forget the failed tries of each key."""
    with house.write(Priority.URGENT) as session:
        session.execute(delete(Attempt).where(Attempt.key.in_(keys)))


def take(house: House, tries: Iterable[tuple[str, Limit]]) -> None:
    """Check every key and count a try for each, in one step, before the secret is looked at.

    So a hundred guesses at the same instant are a hundred counted guesses. `passed` gives the
    tries back.
    """
    now, wanted = clock.now(), list(tries)
    with house.write(Priority.URGENT) as session:
        for key, limit in wanted:
            _refuse(session, key, limit, now)
        for key, _ in wanted:
            _count(session, key, now)
        _prune(session, now)


def remember_place(house: House, key: str) -> None:
    """Remember that a secret was right here: guessing elsewhere does not slow this place down."""
    with house.write() as session:
        now = clock.now()
        session.merge(Attempt(key=f"known:{key}", count=0, first_at=now, last_at=now))


def known_place(house: House, key: str) -> bool:
    """Tell whether a secret was right here in the last 30 days."""
    with house.read() as session:
        row = session.get(Attempt, f"known:{key}")
        return row is not None and clock.now() - row.last_at < KNOWN_FOR


def _refuse(session: Session, key: str, limit: Limit, now: datetime) -> None:
    row = session.get(Attempt, key)
    if row is None or row.count < limit.free or now - row.last_at > FORGOTTEN_AFTER:
        return
    doublings = min(row.count - limit.free, 40)
    wait = timedelta(seconds=min(limit.first * 2**doublings, limit.most))
    after = min(row.last_at, now) + wait  # a clock set back must not lengthen the wait
    if now < after:
        raise TooManyTries(f"Too many tries. Please wait {_words(after - now)}.", after=after)


def _count(session: Session, key: str, now: datetime) -> None:
    row = session.get(Attempt, key)
    if row is None:
        session.add(Attempt(key=key, count=1, first_at=now, last_at=now))
    elif now - row.last_at > FORGOTTEN_AFTER:
        row.count, row.first_at, row.last_at = 1, now, now
    else:
        row.count, row.last_at = row.count + 1, now
    session.flush()


def _prune(session: Session, now: datetime) -> None:
    old = Attempt.last_at < now - KNOWN_FOR
    session.execute(delete(Attempt).where(old), execution_options={"synchronize_session": False})


def _words(wait: timedelta) -> str:
    seconds = int(wait.total_seconds()) + 1
    return f"{seconds} seconds" if seconds < 100 else f"{-(-seconds // 60)} minutes"
