"""The life of a link: made by the patient, claimed by a browser with the code, opened up again.

Not here: what a claimed link shows (`gate`), or how the door speaks (`phr.web.doors.links`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from phr.errors import Ended
from phr.sharing import gate, grants, handles, recipients
from phr.sharing.grants import StepUp
from phr.sharing.handles import Link
from phr.sharing.provision import Provision
from phr.store import audit
from phr.store.database import Priority
from phr.store.models import (
    Grant,
    GrantState,
    Handle,
    HandleKind,
    HandleState,
    RecipientKind,
)
from phr.store.vault import Vault


@dataclass(frozen=True, slots=True)
class Wish:
    """What the patient asked for on the share page."""

    recipient: str
    reason: str
    role: str
    provision: Provision
    ends_at: datetime
    uses: int | None


class Outcome(StrEnum):
    """What came of typing a code."""

    BOUND = "bound"  # this browser may read now
    WRONG = "wrong"
    LOCKED = "locked"  # no try left: only a new code helps
    TAKEN = "taken"  # right code, but another browser has it: the patient must allow one more


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a typed code; `cookie` is shown once, to the browser that is now bound."""

    outcome: Outcome
    tries_left: int = 0
    cookie: str | None = None
    ends_at: datetime | None = None


# ------------------------------------------------------------------ the patient


def make(
    vault: Vault,
    wish: Wish,
    *,
    grant_id: str,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    public_url: str,
    now: datetime,
) -> Link:
    """Make recipient, grant, approval and link in one transaction, and return what is shown once.

    `grant_id` comes with the form, so that a form sent twice makes one link: the second time
    raises Conflict. Raises InvalidInput or StepUpNeeded; then nothing was made.
    """
    with vault.write() as session:
        grant = draft(session, wish, RecipientKind.LINK, actor, grant_id=grant_id, now=now)
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        routing_id = handles.reserve(vault.house, vault.id, grant.id)
        return handles.make_link(session, grant.id, routing_id, public_url, now=now)


def make_paper(
    vault: Vault,
    wish: Wish,
    *,
    grant_id: str,
    step_up: StepUp,
    shown: str,
    actor: Mapping[str, Any],
    now: datetime,
) -> str:
    """Make a short grant for something the patient prints or saves; return its id."""
    with vault.write() as session:
        grant = draft(session, wish, RecipientKind.PAPER, actor, grant_id=grant_id, now=now)
        grants.approve(session, vault, grant, step_up=step_up, shown=shown, actor=actor, now=now)
        handles.make_inner(session, grant.id, HandleKind.PRINT, now=now)
        return grant.id


def draft(
    session: Session,
    wish: Wish,
    kind: RecipientKind,
    actor: Mapping[str, Any],
    *,
    grant_id: str,
    now: datetime,
) -> Grant:
    """Draft the grant of a wish for a recipient of this kind."""
    recipient = recipients.named(session, wish.recipient, kind, now=now)
    return grants.create(
        session,
        grant_id=grant_id,
        recipient_id=recipient.id,
        role=wish.role,
        provision=wish.provision,
        reason=wish.reason,
        created_by=str(actor["id"]),
        shared_by=str(actor["name"]),
        ends_at=wish.ends_at,
        uses=wish.uses,
        now=now,
    )


def new_code(vault: Vault, grant_id: str, actor: Mapping[str, Any]) -> str:
    """Give the link of a grant a new code and five tries; the old code stops working."""
    with vault.write(Priority.URGENT) as session:
        handle = _link_of(session, grant_id)
        audit.append(session, vault, "link.new_code", actor, grant_id=grant_id)
        return handles.new_code(handle)


def allow_browser(vault: Vault, grant_id: str, actor: Mapping[str, Any]) -> None:
    """Let one more browser use the link of a grant with the same code."""
    with vault.write(Priority.URGENT) as session:
        handles.allow_browser(session, _link_of(session, grant_id))
        audit.append(session, vault, "link.browser_allowed", actor, grant_id=grant_id)


def _link_of(session: Session, grant_id: str) -> Handle:
    grant, handle = grants.get(session, grant_id), handles.of_grant(session, grant_id)
    if handle is None or grant.state == GrantState.ENDED:
        raise Ended
    return handle


# ------------------------------------------------------------------ the recipient


def look(vault: Vault, handle_id: str, secret: str, *, now: datetime) -> int:
    """Return how many tries a link has left, changing nothing (HEAD, previews, mail scanners).

    Raises NotFound alike for unknown and wrong, Ended for a right secret whose time is over.
    """
    with vault.read() as session:
        handle = handles.presented(session, handle_id, secret)
        _must_be_open(handle, grants.get(session, handle.grant_id), now)
        return handle.tries_left


def claim(
    vault: Vault, handle_id: str, secret: str, code: str, browser: str, *, now: datetime
) -> Claim:
    """Try a code for a link. One urgent transaction per guess: parallel guesses stand in line.

    The try is used up before the code is compared, and everything is committed before anybody
    learns the outcome. Raises NotFound and Ended as `look` does.
    """
    with vault.write(Priority.URGENT) as session:
        handle = handles.presented(session, handle_id, secret)
        grant = grants.get(session, handle.grant_id)
        _must_be_open(handle, grant, now)
        left = handles.take_try(session, handle.id)
        if left is None:
            return Claim(Outcome.LOCKED)
        session.refresh(handle)
        who = gate.actor_of(session, grant)
        if not handles.code_fits(handle, code):
            audit.append(
                session,
                vault,
                "link.wrong_code",
                who,
                grant_id=grant.id,
                left=left,
                browser=browser,
            )
            return Claim(Outcome.WRONG if left else Outcome.LOCKED, left)
        cookie = handles.bind_browser(session, handle, browser, now=now)
        if cookie:
            handles.give_try_back(session, handle.id)
        event = "link.claimed" if cookie else "link.second_browser"
        audit.append(session, vault, event, who, grant_id=grant.id, browser=browser)
        return Claim(Outcome.BOUND if cookie else Outcome.TAKEN, left, cookie, grant.ends_at)


def _must_be_open(handle: Handle, grant: Grant, now: datetime) -> None:
    over = handle.state == HandleState.ENDED or grant.state in (GrantState.ENDED, GrantState.DRAFT)
    if over or not grant.starts_at <= now < grant.ends_at:
        raise Ended
