"""What stands around one arrival of the inbox: what came before it, and what was taken back.

Looked up for the pages of both sides; nothing is decided or written here (`inbox`).
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from phr.store.models import Arrival, ArrivalKind


def taken_back(session: Session, grant_id: str) -> frozenset[str]:
    """Return the chains of a grant that the patient was asked to take out; not the answers."""
    query = select(Arrival.chain).where(
        Arrival.grant_id == grant_id, Arrival.kind == ArrivalKind.WITHDRAWAL
    )
    return frozenset(session.scalars(query))


def earlier(session: Session, held: Arrival) -> Arrival | None:
    """Return what this one was sent in the place of, whatever became of that; None if nothing."""
    query = select(Arrival).where(
        Arrival.chain == held.chain,
        Arrival.received_at < held.received_at,
        Arrival.kind != ArrivalKind.WITHDRAWAL,
    )
    return session.scalars(query.order_by(Arrival.received_at.desc()).limit(1)).first()


def was_refused(session: Session, held: Arrival) -> bool:
    """Say whether the patient last refused what this one replaces: then they are asked again.

    What was refused and replaced has lost its bytes; what was accepted keeps them.
    """
    query = select(Arrival.content.is_(None)).where(
        Arrival.chain == held.chain,
        Arrival.id != held.id,
        Arrival.kind != ArrivalKind.WITHDRAWAL,
        Arrival.decided_by.is_not(None),
    )
    return bool(session.scalar(query.order_by(Arrival.received_at.desc()).limit(1)))
