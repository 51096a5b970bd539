"""The patient's standing decisions: the only writer of Grant and Approval rows.

draft -> active <-> suspended -> ended(reason). Every function runs in the caller's write
transaction and adds its audit line there. What an ending sets in motion outside: `gate.end`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from phr import clock, ids
from phr.errors import Conflict, InvalidInput, NotFound, StepUpNeeded
from phr.sharing import provision as policy
from phr.sharing.recipients import one_line
from phr.store import audit
from phr.store.models import (
    Approval,
    ClaimedBrowser,
    Delivery,
    DeliveryState,
    Grant,
    GrantState,
    Handle,
    HandleKind,
    HandleState,
    Recipient,
    RecipientKind,
)
from phr.store.vault import Vault

LONGEST = timedelta(days=30)
LONGEST_OF: Mapping[str, timedelta] = {  # by role, or by how its recipient is reached
    "app": timedelta(days=366),  # what asks again and again,
    "card": timedelta(days=366),  # lies in a wallet,
    RecipientKind.DIRECT: timedelta(days=366),  # or is sent whenever something arrives: no visit
}
FRESH = timedelta(minutes=5)  # DESIGN §7.10
REASON_LENGTH = 200
USES_AT_MOST = 1000
_BY_THEMSELVES = (RecipientKind.LINK, RecipientKind.APP, RecipientKind.HEALTH_LINK)
LIVE = (GrantState.ACTIVE, GrantState.SUSPENDED)

Actor = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepUp:
    """Who confirmed, with which factor, and when that factor was given."""

    account_id: str
    factor: str
    at: datetime


def get(session: Session, grant_id: str) -> Grant:
    """Return a grant. Raises NotFound."""
    found = session.get(Grant, grant_id)
    if found is None:
        raise NotFound
    return found


def standing(session: Session) -> list[Grant]:
    """Return active and suspended grants, newest first."""
    return list(
        session.scalars(
            select(Grant).where(Grant.state.in_(LIVE)).order_by(Grant.created_at.desc(), Grant.id)
        )
    )


def looking(session: Session) -> int:
    """Return how many recipients can look by themselves right now.

    By a link, as an app, or by an emergency card that somebody opened within its hour.
    """
    open_cards = (
        select(Handle.grant_id)
        .join(ClaimedBrowser, ClaimedBrowser.handle_id == Handle.id)
        .where(Handle.kind == HandleKind.CARD, ClaimedBrowser.ends_at > clock.now())
    )
    query = (
        select(func.count())
        .select_from(Grant)
        .join(Recipient, Recipient.id == Grant.recipient_id)
        .where(Grant.state == GrantState.ACTIVE)
        .where(or_(Recipient.kind.in_(_BY_THEMSELVES), Grant.id.in_(open_cards)))
    )
    return int(session.scalar(query) or 0)


def over(session: Session, *, limit: int = 50) -> list[Grant]:
    """Return ended grants, the last ended first."""
    return list(
        session.scalars(
            select(Grant)
            .where(Grant.state == GrantState.ENDED)
            .order_by(Grant.ended_at.desc(), Grant.id)
            .limit(limit)
        )
    )


def create(
    session: Session,
    *,
    grant_id: str,
    recipient_id: str,
    role: str,
    provision: policy.Provision,
    reason: str,
    created_by: str,
    shared_by: str,
    ends_at: datetime,
    uses: int | None,
    now: datetime,
    purpose: str = "TREAT",
    for_errands: bool = False,
) -> Grant:
    """Draft a grant from now until `ends_at`; it gives nothing until it is approved.

    A grant runs 30 days at most, one for an app or by mail a year. `for_errands`: it may cover no
    record at all, as what it is for is asking the patient.

    Raises InvalidInput where role, time, uses or provision make no sense, Conflict where this id
    was used before (a form sent twice).
    """
    if session.get(Grant, grant_id) is not None:
        raise Conflict("This was made already. You find it at “Who can see”.")
    if role not in policy.ROLES:
        raise InvalidInput("Please choose what to share.")
    _check_end(session, recipient_id, ends_at, now, role)
    if uses is not None and not 1 <= uses <= USES_AT_MOST:
        raise InvalidInput("Please choose how often it may be opened.")
    if not (for_errands or policy.compiled(provision).grants_something):
        raise InvalidInput("Please choose at least one kind of record to share.")
    grant = Grant(
        id=grant_id,
        recipient_id=recipient_id,
        role=role,
        purpose=purpose,
        reason=one_line(reason, limit=REASON_LENGTH) or None,
        provision=policy.to_json(provision),
        state=GrantState.DRAFT,
        created_by=created_by,
        shared_by=shared_by,
        created_at=now,
        starts_at=now,
        ends_at=ends_at,
        uses_left=uses,
    )
    session.add(grant)
    session.flush()
    return grant


def approve(
    session: Session,
    vault: Vault,
    grant: Grant,
    *,
    step_up: StepUp,
    shown: str,
    actor: Actor,
    now: datetime,
) -> None:
    """Turn a draft active; `shown` is the exact text the person confirmed.

    Raises StepUpNeeded where the factor is older than five minutes, Conflict unless a draft.
    """
    if grant.state != GrantState.DRAFT:
        raise Conflict("This was confirmed already, or it has ended.")
    _record_approval(session, grant, step_up, shown, now)
    grant.state = GrantState.ACTIVE
    audit.append(
        session,
        vault,
        "grant.approved",
        actor,
        grant_id=grant.id,
        factor=step_up.factor,
        until=grant.ends_at.isoformat(),
        role=grant.role,
    )


def extend(
    session: Session,
    vault: Vault,
    grant: Grant,
    ends_at: datetime,
    *,
    step_up: StepUp,
    shown: str,
    actor: Actor,
    now: datetime,
) -> None:
    """Let a standing grant run longer, at most as long again from now. Needs a fresh factor."""
    if grant.state not in LIVE or grant.ends_at <= now:
        raise Conflict("This has ended. Make a new link instead.")
    _check_end(session, grant.recipient_id, ends_at, now, grant.role)
    if ends_at <= grant.ends_at:
        raise InvalidInput("It already runs at least that long.")
    _record_approval(session, grant, step_up, shown, now)
    grant.ends_at = ends_at
    audit.append(
        session,
        vault,
        "grant.extended",
        actor,
        grant_id=grant.id,
        factor=step_up.factor,
        until=ends_at.isoformat(),
    )


def narrow(
    session: Session, vault: Vault, grant: Grant, provision: policy.Provision, actor: Actor
) -> None:
    """Share less from now on; asks for nothing. Raises InvalidInput where it would share more."""
    before = policy.from_json(grant.provision)
    if not policy.within(provision, before):
        raise InvalidInput("This would share more than before. Make a new link for that.")
    if grant.state not in LIVE:
        raise Conflict("This has ended.")
    grant.provision = policy.to_json(provision)
    audit.append(session, vault, "grant.narrowed", actor, grant_id=grant.id)


def suspend(
    session: Session, vault: Vault, grant: Grant, actor: Actor, *, because: str = ""
) -> None:
    """Pause an active grant; nothing is released until it is resumed."""
    if grant.state != GrantState.ACTIVE:
        raise Conflict
    grant.state = GrantState.SUSPENDED
    audit.append(session, vault, "grant.suspended", actor, grant_id=grant.id, because=because)


def resume(
    session: Session,
    vault: Vault,
    grant: Grant,
    *,
    step_up: StepUp,
    shown: str,
    actor: Actor,
    now: datetime,
) -> None:
    """Start a suspended grant again. It widens what is open now, so it needs a fresh factor."""
    if grant.state != GrantState.SUSPENDED or grant.ends_at <= now:
        raise Conflict
    _record_approval(session, grant, step_up, shown, now)
    grant.state = GrantState.ACTIVE
    audit.append(session, vault, "grant.resumed", actor, grant_id=grant.id, factor=step_up.factor)


def end(
    session: Session, vault: Vault, grant_id: str, because: str, actor: Actor, *, now: datetime
) -> bool:
    """End a grant for good, with its handles and waiting deliveries; False if it had ended before.

    One UPDATE decides, so that two endings at once write one audit line.
    """
    changed = session.execute(
        update(Grant)
        .where(Grant.id == grant_id, Grant.state != GrantState.ENDED)
        .values(state=GrantState.ENDED, ended_because=because, ended_at=now)
        .execution_options(synchronize_session=False)
        .returning(Grant.id)
    ).first()
    if changed is None:
        return False
    session.execute(
        update(Handle)
        .where(Handle.grant_id == grant_id)
        .values(state=HandleState.ENDED, content_key=None)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(Delivery)
        .where(Delivery.grant_id == grant_id, Delivery.state == DeliveryState.QUEUED)
        .values(
            state=DeliveryState.STOPPED,
            next_attempt_at=None,
            settled_at=now,
            sentence="Stopped before it was sent.",
        )
        .execution_options(synchronize_session=False)
    )
    session.expire_all()
    audit.append(session, vault, "grant.ended", actor, grant_id=grant_id, because=because)
    return True


def due(session: Session, *, now: datetime) -> list[str]:
    """Return the ids of grants whose time has run out but which are not ended yet."""
    return list(
        session.scalars(
            select(Grant.id).where(Grant.state != GrantState.ENDED, Grant.ends_at <= now)
        )
    )


def approvals(session: Session, grant_id: str) -> list[Approval]:
    """Return the approvals of a grant, the last first."""
    return list(
        session.scalars(
            select(Approval).where(Approval.grant_id == grant_id).order_by(Approval.id.desc())
        )
    )


def _check_end(
    session: Session, recipient_id: str, ends_at: datetime, now: datetime, role: str
) -> None:
    reached = session.get_one(Recipient, recipient_id).kind
    longest = LONGEST_OF.get(role, LONGEST_OF.get(reached, LONGEST))
    if not now < ends_at <= now + longest:
        raise InvalidInput(f"Please choose a time between now and {longest.days} days from now.")


def _record_approval(
    session: Session, grant: Grant, step_up: StepUp, shown: str, now: datetime
) -> None:
    if not timedelta() <= now - step_up.at <= FRESH:
        raise StepUpNeeded
    session.add(
        Approval(
            grant_id=grant.id,
            account_id=step_up.account_id,
            factor=step_up.factor,
            factor_at=step_up.at,
            at=now,
            shown_hash=ids.fingerprint(shown),
            shown=shown,
        )
    )
