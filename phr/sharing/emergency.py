"""Emergency access: one standing grant for whoever holds the printed card (sharing.md §8.6).

Off until the patient switches it on. An opening names somebody and a reason, runs an hour and is
told to the household at once. What it shows: `gate` and the pages of a link.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phr.errors import Conflict, Denied, Ended, InvalidInput, TooManyTries
from phr.sharing import gate, grants, handles, links
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.provision import SENSITIVE, Provision
from phr.sharing.recipients import one_line
from phr.store import audit, limits
from phr.store.database import Priority
from phr.store.limits import Limit
from phr.store.models import (
    ClaimedBrowser,
    Grant,
    GrantState,
    Handle,
    HandleKind,
    Recipient,
    RecipientKind,
    VaultFact,
)
from phr.store.vault import Vault

PATH: Final = "/e"  # of cards, below the public address
ROLE: Final = "card"
PURPOSE: Final = "ETREAT"  # HL7 v3 PurposeOfUse: emergency treatment
HOLDER: Final = "whoever holds the emergency card"
REASON: Final = "Emergency"
LASTS: Final = timedelta(hours=1)  # of one opening
CARD_LASTS: Final = timedelta(days=365)
WEEK: Final = timedelta(days=7)
A_WEEK: Final = (1, 3, 10)  # openings that a patient may allow
NEVER: Final = "restricted"  # of SENSITIVE: what a hospital marked so stays out of every card
OFFERED: Final = {key: words for key, (words, _) in SENSITIVE.items() if key != NEVER}
NAME_LENGTH: Final = 80
REASON_LENGTH: Final = 200
TRIES: Final = Limit(free=10, first=5, most=600)  # openings asked for with one card
OPENED: Final = (
    "Somebody opened the emergency card. “Who can see” says who they said they are, and why."
)
REFUSED: Final = (
    "Somebody tried the emergency card after it was opened as often as you allow in a week."
)
USED_UP: Final = (
    "This card was opened as often as its owner allows in one week. Treat by what the card and the"
    " person themselves tell."
)
_PER_WEEK: Final = "emergency_per_week"


@dataclass(frozen=True, slots=True)
class Standing:
    """Emergency access as it is switched on."""

    grant: Grant
    per_week: int
    cards: int  # addresses that were made, each printed as often as the patient liked
    openings: tuple[ClaimedBrowser, ...]  # of the last seven days, newest first


# ------------------------------------------------------------------ the patient


def standing(session: Session, *, now: datetime) -> Standing | None:
    """Return emergency access as it stands; None while it is off."""
    grant = _grant(session)
    if grant is None or grant.ends_at <= now:
        return None
    mine = select(Handle.id).where(Handle.grant_id == grant.id, Handle.kind == HandleKind.CARD)
    opened = (
        select(ClaimedBrowser)
        .where(ClaimedBrowser.handle_id.in_(mine), ClaimedBrowser.claimed_at > now - WEEK)
        .order_by(ClaimedBrowser.claimed_at.desc())
    )
    cards = session.scalar(select(func.count()).select_from(mine.subquery()))
    return Standing(grant, _per_week(session), int(cards or 0), tuple(session.scalars(opened)))


def switch_on(
    vault: Vault,
    provision: Provision,
    *,
    per_week: int,
    grant_id: str,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> str:
    """Make the grant and its first card; return what the card's address ends with, shown once.

    Raises Conflict where it is on already, InvalidInput or StepUpNeeded; then nothing was made.
    """
    if per_week not in A_WEEK or provision.labels & SENSITIVE[NEVER][1]:
        raise InvalidInput
    wish = Wish(HOLDER, REASON, ROLE, provision, now + CARD_LASTS, None)
    with vault.write() as session:
        if standing(session, now=now) is not None:
            raise Conflict("Emergency access is on already.")
        grant = links.draft(session, wish, RecipientKind.CARD, actor, grant_id=grant_id, now=now)
        grant.purpose = PURPOSE
        session.merge(VaultFact(name=_PER_WEEK, value=str(per_week).encode()))
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        routing_id = handles.reserve(vault.house, vault.id, grant.id)
        return handles.make_card(session, grant.id, routing_id, now=now)


def another_card(vault: Vault, actor: Mapping[str, Any], *, now: datetime) -> str:
    """Make one more card under the same decision; those printed before go on working."""
    with vault.write() as session:
        known = standing(session, now=now)
        if known is None or known.grant.state != GrantState.ACTIVE:
            raise Ended("Emergency access is off. Switch it on first.")
        grant_id = known.grant.id
        audit.append(session, vault, "card.made", actor, grant_id=grant_id)
        routing_id = handles.reserve(vault.house, vault.id, grant_id)
        return handles.make_card(session, grant_id, routing_id, now=now)


def switch_off(vault: Vault, actor: Mapping[str, Any], *, now: datetime) -> bool:
    """End it: every printed card and every open page at once. False where it was off."""
    with vault.read() as session:
        grant = _grant(session)
    return grant is not None and gate.end(vault, grant.id, "patient", actor, now=now)


def _grant(session: Session) -> Grant | None:
    wanted = (
        select(Grant)
        .join(Recipient, Recipient.id == Grant.recipient_id)
        .where(Recipient.kind == RecipientKind.CARD, Grant.state.in_(grants.LIVE))
    )
    return session.scalars(wanted.limit(1)).first()


def _per_week(session: Session) -> int:
    row = session.get(VaultFact, _PER_WEEK)
    return min(A_WEEK) if row is None else int(row.value)


# ------------------------------------------------------------------ whoever holds a card


def look(vault: Vault, handle_id: str, secret: str, *, now: datetime) -> None:
    """Say whether a card still opens anything, changing nothing (previews, scanners).

    Raises NotFound alike for unknown and wrong, Ended or Denied for a card that no longer opens.
    """
    with vault.read() as session:
        _must_open(session, handle_id, secret, now)


def open_card(
    vault: Vault,
    handle_id: str,
    secret: str,
    *,
    name: str,
    reason: str,
    browser: str,
    now: datetime,
) -> tuple[str, datetime]:
    """Bind this browser for an hour; return its cookie and the end. The household is told.

    `name` and `reason` are only claimed. Raises InvalidInput without them, TooManyTries beyond
    what the patient allows, and as `look` does.
    """
    claimed, why = one_line(name, limit=NAME_LENGTH), one_line(reason, limit=REASON_LENGTH)
    look(vault, handle_id, secret, now=now)  # a stranger without a card is counted nowhere
    if not claimed or not why:
        raise InvalidInput("Please give your name and the reason.")
    limits.take(vault.house, [(f"card {handle_id}", TRIES)])
    said = {"claimed": claimed, "reason": why, "browser": browser}
    with vault.write(Priority.URGENT) as session:
        grant, handle = _must_open(session, handle_id, secret, now)
        who = gate.actor_of(session, grant)
        known = standing(session, now=now)
        may = known is not None and len(known.openings) < known.per_week
        event = "card.opened" if may else "card.refused"
        audit.append(session, vault, event, who, grant_id=grant.id, **said)
        session.info["after"] = [partial(vault.house.warn, vault.id, OPENED if may else REFUSED)]
        until = min(now + LASTS, grant.ends_at)
        cookie = handles.open_card(session, handle, browser, until=until, now=now) if may else ""
    if not cookie:
        raise TooManyTries(USED_UP)
    return cookie, until


def _must_open(
    session: Session, handle_id: str, secret: str, now: datetime
) -> tuple[Grant, Handle]:
    handle = handles.presented(session, handle_id, secret, HandleKind.CARD)
    grant = grants.get(session, handle.grant_id)
    if grant.state == GrantState.SUSPENDED:
        raise Denied("suspended", "The owner has paused the emergency card.")
    if grant.state != GrantState.ACTIVE or not grant.starts_at <= now < grant.ends_at:
        raise Ended("This emergency card no longer opens anything.")
    return grant, handle
