"""Orders to send: once now, or whenever new records arrive; what each message of one carries.

Which versions of records go with a delivery is written down before it goes, so that a crash
neither loses nor repeats one (the high-water mark). Sending is `phr.push`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from phr import clock, ids
from phr.errors import Conflict, Ended, NotFound
from phr.sharing import endings
from phr.sharing.provision import SUPPORTING
from phr.sharing.released import Released
from phr.store import audit
from phr.store.models import (
    Carried,
    Delivery,
    DeliveryState,
    Grant,
    GrantState,
    Pull,
    PushJob,
    PushState,
)
from phr.store.records import Clause
from phr.store.vault import Vault

# What was refused, or never went, does not count as carried.
_GONE_BY: Final = "('failed', 'stopped')"
_CARRIED: Final = (
    "(pk, version) IN (SELECT c.record_pk, c.version FROM carried c"
    f" JOIN delivery d ON d.id = c.delivery_id WHERE d.grant_id = ? AND d.state NOT IN {_GONE_BY})"
)

MOST_RECORDS: Final = 2_000  # in one message: a Homeport takes 5,000 with what comes along

Version = tuple[int, int]  # key of a record, number of its version

WAITED: Final = 5.0  # seconds for a message at its last step; then its connection is broken off
_BREAKING: Final = 2.0  # seconds for a connection that was broken off to be let go


@dataclass(slots=True)
class _Turn:
    """Whose turn it is at the last step of a grant's messages, and how to break that off."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    cut: Callable[[], None] | None = None


_turns: dict[str, _Turn] = {}
_registry = threading.Lock()


def make(
    session: Session,
    vault: Vault,
    grant: Grant,
    *,
    channel: str,
    address: str,
    standing: bool,
    actor: Mapping[str, Any],
    now: datetime,
) -> PushJob:
    """Write an order under an active grant. Raises Conflict where the address has one already."""
    for other in active(session):
        if other.address.lower() == address.lower() and other.channel == channel:
            raise Conflict("Records are being sent to this address already.")
    job = PushJob(
        grant_id=grant.id,
        channel=channel,
        address=address,
        standing=int(standing),
        created_at=now,
    )
    session.add(job)
    session.flush()
    how = "standing" if standing else "once"
    audit.append(session, vault, "push.started", actor, grant_id=grant.id, channel=channel, how=how)
    return job


def get(session: Session, grant_id: str) -> PushJob | None:
    """Return the order of a grant, or None."""
    return session.get(PushJob, grant_id)


def every(session: Session) -> list[PushJob]:
    """Return all orders, newest first."""
    return list(
        session.scalars(select(PushJob).order_by(PushJob.created_at.desc(), PushJob.grant_id))
    )


def active(session: Session) -> list[PushJob]:
    """Return the orders that go on: not stopped, and their grant active."""
    return list(
        session.scalars(
            select(PushJob)
            .join(Grant, Grant.id == PushJob.grant_id)
            .where(PushJob.state == PushState.ACTIVE, Grant.state == GrantState.ACTIVE)
            .order_by(PushJob.created_at, PushJob.grant_id)
        )
    )


def taken_in(session: Session) -> str:
    """Return a mark of what this vault has taken in: another one after each pull or upload."""
    ended = select(func.count(), func.max(Pull.ended_at)).where(Pull.ended_at.is_not(None))
    count, last = session.execute(ended).one()
    return f"{count}.{0 if last is None else clock.to_ms(last)}"


def due(session: Session) -> list[str]:
    """Return the grants whose order has something to look at: the first time, or something came."""
    now = taken_in(session)
    return [
        job.grant_id
        for job in active(session)
        if job.seen is None or (job.standing and job.seen != now)
    ]


# ------------------------------------------------------------------------------ what is carried


def not_carried(released: Released, grant_id: str) -> Released:
    """Return what was released without what earlier messages of the order carried."""
    return _only(released, Clause(f"NOT ({_CARRIED})", (grant_id,)))


def within(session: Session, released: Released, delivery_id: str) -> Released:
    """Return of what was released only what a delivery carries; all, where nothing says so."""
    asked = select(Carried.record_pk).where(Carried.delivery_id == delivery_id).limit(1)
    if session.scalar(asked) is None:
        return released
    condition = "(pk, version) IN (SELECT record_pk, version FROM carried WHERE delivery_id = ?)"
    return _only(released, Clause(condition, (delivery_id,)))


def _only(released: Released, condition: Clause) -> Released:
    """Narrow what was released; who it is about, and what records refer to, still come along."""
    compiled = released.compiled
    beside = Clause(
        f"({condition.sql}) OR NOT ({compiled.counted.sql})",
        (*condition.params, *compiled.counted.params),
    )
    return replace(
        released,
        compiled=replace(
            compiled, where=compiled.where & beside, counted=compiled.counted & condition
        ),
    )


def split(released: Released, *, budget: int) -> list[list[Version]]:
    """Return what was released in lots of `budget` bytes and 2,000 records, in order of time.

    A record larger than that stands alone; undated ones come last.
    """
    sizes = [
        (one.when is None, one.when or one.received_at, one.pk, one.version, len(body))
        for one, body in released.stream()
        if one.type not in SUPPORTING
    ]
    lots: list[list[Version]] = []
    filled = budget + 1
    for _, _, pk, version, size in sorted(sizes):
        if filled + size > budget or len(lots[-1]) >= MOST_RECORDS:
            lots.append([])
            filled = 0
        lots[-1].append((pk, version))
        filled += size
    return lots


def plan(
    session: Session,
    job: PushJob,
    lots: Sequence[Iterable[Version]],
    *,
    seen: str,
    now: datetime,
) -> list[str]:
    """Queue one delivery for each lot and write down what it carries; return their ids."""
    job.seen = seen
    made = []
    for number, lot in enumerate(lots, 1):
        delivery = Delivery(
            id=ids.new_id(),
            grant_id=job.grant_id,
            channel=job.channel,
            address=job.address,
            state=DeliveryState.QUEUED,
            next_attempt_at=now,
            created_at=now,
            part=number,
            parts=len(lots),
        )
        session.add(delivery)
        session.flush()
        session.execute(
            insert(Carried),
            [
                {"delivery_id": delivery.id, "record_pk": pk, "version": version}
                for pk, version in lot
            ],
        )
        made.append(delivery.id)
    return made


# ------------------------------------------------------------------------- the point of no return


@contextmanager
def point(
    vault: Vault, grant_id: str, turn: int = 0, cut: Callable[[], None] | None = None
) -> Iterator[None]:
    """Surround the step that cannot be taken back, one at a time for a grant.

    Raises Ended on entry when grant or order was stopped, or covers less than at `turn`
    (`endings.turn`): who stops commits that first and then waits for this (`at_rest`), so that
    nothing leaves afterwards. `cut` breaks off what is inside at once, from another thread.
    """
    with _registry:
        last = _turns.setdefault(grant_id, _Turn())
    with last.lock:
        with vault.read() as session:
            grant, job = session.get(Grant, grant_id), session.get(PushJob, grant_id)
        stopped = job is not None and job.state == PushState.STOPPED
        if grant is None or grant.state != GrantState.ACTIVE or stopped:
            raise Ended
        if endings.turn(grant_id) != turn:
            raise Ended
        last.cut = cut
        try:
            yield
        finally:
            last.cut = None


def stop(
    session: Session, vault: Vault, grant_id: str, actor: Mapping[str, Any], *, now: datetime
) -> None:
    """Stop an order: what is queued does not go. Raises NotFound where none is active."""
    job = get(session, grant_id)
    if job is None or job.state != PushState.ACTIVE:
        raise NotFound
    job.state = PushState.STOPPED
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
    audit.append(session, vault, "push.stopped", actor, grant_id=grant_id)


def at_rest(grant_id: str, seconds: float = WAITED) -> bool:
    """Wait until no message of a grant is at its last step; to be called once its end is committed.

    One that takes longer is broken off and False returned: whether it went is uncertain, and what
    of it was still on this machine does not leave. Costs a look-up where nothing is being sent.
    """
    last = _turns.get(grant_id)
    if last is None:
        return True
    if last.lock.acquire(timeout=seconds):
        last.lock.release()
        return True
    if (cut := last.cut) is not None:
        cut()
    if last.lock.acquire(timeout=_BREAKING):
        last.lock.release()
    return False


@dataclass(frozen=True, slots=True)
class Gone:
    """What stopping cannot call back: handed over without an answer yet, and what is uncertain."""

    handed_over: int
    uncertain: int


def gone(session: Session, grant_id: str) -> Gone:
    """Count what went under a grant, or may have gone, and was not answered."""
    asked = (
        select(Delivery.state, func.count().label("messages"))
        .where(Delivery.grant_id == grant_id, Delivery.answer.is_(None))
        .group_by(Delivery.state)
    )
    counts = {each.state: int(each.messages) for each in session.execute(asked)}
    uncertain = counts.get(DeliveryState.UNCERTAIN, 0) + counts.get(DeliveryState.SENDING, 0)
    return Gone(counts.get(DeliveryState.SENT, 0), uncertain)
