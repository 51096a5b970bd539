"""Connections, pulls and their ledgers as rows of a vault: reading them and their named changes.

What happens between two changes (asking a hospital, signing in there) is `phr.pull`, `phr.connect`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from phr import clock
from phr.errors import Conflict, NotFound
from phr.fhir import record as origin
from phr.fhir.kinds import KINDS
from phr.fhir.record import Origin
from phr.store.database import rows
from phr.store.models import (
    Connection,
    ConnectionState,
    LedgerLine,
    LedgerState,
    Pull,
    PullState,
    Quarantined,
    attachment_link,
    record,
)

OWN, UPLOAD = origin.OWN, origin.UPLOAD
CONTRIBUTED = origin.CONTRIBUTED  # of the place of what one recipient sent
# No server stands behind these: nothing to ask, pause, sign in at or check.
PLACES = (OWN, UPLOAD, CONTRIBUTED)
RESUME_WITHIN = timedelta(hours=6)  # a run that an outage ended goes on where it stopped


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that may begin: its pull, and whether it goes on where an earlier one stopped."""

    pull_id: int
    full: bool
    resumed: bool
    resume: Mapping[str, str]
    finished: frozenset[str]


def get(session: Session, connection_id: int) -> Connection:
    """Return a connection that was not removed. Raises NotFound."""
    row = session.get(Connection, connection_id)
    if row is None or row.state == ConnectionState.REMOVED:
        raise NotFound
    return row


def listed(session: Session, *, kind: str | None = None) -> list[Connection]:
    """Return the connections that were not removed, oldest first.

    Without a kind: hospitals and files, not the places of what people here or recipients stated.
    """
    query = select(Connection).where(Connection.state != ConnectionState.REMOVED)
    stated = Connection.kind.not_in((OWN, CONTRIBUTED))
    query = query.where(stated if kind is None else Connection.kind == kind)
    return list(session.scalars(query.order_by(Connection.id)))


def own_place(session: Session) -> int | None:
    """Return the id of the place of the patient's own statements; None before the first one."""
    sql = "SELECT min(id) FROM connection WHERE kind = ? AND state != ?"
    found: int | None = rows(session, sql, (OWN, ConnectionState.REMOVED))[0][0]
    return found


def origins(session: Session) -> dict[int, Origin]:
    """Return where records came from, by connection; removed ones too, for their kept records.

    Not the places of recipients of whom nothing was accepted: those came from nowhere yet.
    Only the columns that are needed: whole rows would read the tokens for every page.
    """
    sql = (
        "SELECT id, name, kind, demo, last_pull_at FROM connection WHERE kind != ? OR EXISTS"
        " (SELECT 1 FROM counter WHERE counter.connection = connection.id AND counter.n > 0)"
    )
    found = rows(session, sql, (CONTRIBUTED,))
    return {
        id_: Origin(id_, name, kind, bool(demo), None if ms is None else clock.from_ms(ms))
        for id_, name, kind, demo, ms in found
    }


def giving(session: Session) -> set[int]:
    """Return the connections that records are kept of."""
    return {row[0] for row in rows(session, "SELECT connection FROM counter WHERE n > 0", ())}


def add(
    session: Session,
    *,
    kind: str,
    name: str,
    base_url: str,
    now: datetime,
    state: ConnectionState = ConnectionState.DRAFT,
    endpoint: Mapping[str, Any] | None = None,
    client: Mapping[str, Any] | None = None,
    demo: bool = False,
) -> int:
    """Add a connection and return its id."""
    row = Connection(
        kind=kind,
        name=name,
        base_url=base_url,
        endpoint=dict(endpoint or {}),
        client=dict(client or {}),
        credentials={},
        cursor={},
        state=state,
        demo=int(demo),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row.id


def forget_drafts(session: Session, *, before: datetime) -> None:
    """Delete connections that were begun and never authorised."""
    session.execute(
        delete(Connection).where(
            Connection.state == ConnectionState.DRAFT,
            Connection.kind != UPLOAD,
            Connection.created_at < before,
        )
    )


def due(session: Session, *, now: datetime) -> list[int]:
    """Return the connections whose time has come, or whose run a crash interrupted."""
    query = (
        select(Connection.id)
        .where(
            Connection.state == ConnectionState.ACTIVE,
            Connection.kind.not_in(PLACES),
            or_(Connection.next_pull_at <= now, Connection.claimed_by.is_not(None)),
        )
        .order_by(Connection.next_pull_at)
    )
    return list(session.scalars(query))


def claim(
    session: Session, row: Connection, *, now: datetime, full: bool, anew: bool = False
) -> Claim:
    """Claim a connection for one run. Raises Conflict unless it is active.

    A run left by a crash, or ended by an outage within the last hours, is taken up again; the
    caller makes sure that no run of this process is at it. With `anew` it never goes on.
    """
    if row.state != ConnectionState.ACTIVE:
        raise Conflict("This connection is not active, so nothing was asked for.")
    pull = None if anew else _unfinished(session, row, now)
    resumed = pull is not None
    if pull is None:
        pull = Pull(connection_id=row.id, full=int(full), started_at=now)
        session.add(pull)
    pull.state, pull.ended_at, pull.sentence = PullState.RUNNING, None, None
    session.flush()
    row.claimed_by = pull.id
    return Claim(pull.id, bool(pull.full), resumed, *_standing(session, pull.id))


def _unfinished(session: Session, row: Connection, now: datetime) -> Pull | None:
    if row.claimed_by is not None:
        left = session.get(Pull, row.claimed_by)
        if left is not None and left.state == PullState.RUNNING:
            return left
    last = last_pull(session, row.id)
    if last is None or last.state != PullState.FAILED or now - last.started_at > RESUME_WITHIN:
        return None
    return last if lines(session, last.id) else None


def _standing(session: Session, pull_id: int) -> tuple[dict[str, str], frozenset[str]]:
    """Return where each chain of a run goes on, and which are finished."""
    known = lines(session, pull_id)
    resume = {
        line.chain: line.next_url
        for line in known
        if line.next_url and line.state in {LedgerState.ASKING, LedgerState.BROKEN}
    }
    return resume, frozenset(line.chain for line in known if line.state == LedgerState.DONE)


def last_pull(session: Session, connection_id: int) -> Pull | None:
    """Return the newest pull of a connection."""
    return session.scalar(
        select(Pull).where(Pull.connection_id == connection_id).order_by(Pull.id.desc()).limit(1)
    )


def pulls(session: Session, connection_id: int, *, limit: int = 10) -> list[Pull]:
    """Return the newest pulls of a connection."""
    query = select(Pull).where(Pull.connection_id == connection_id)
    return list(session.scalars(query.order_by(Pull.id.desc()).limit(limit)))


def pull(session: Session, connection_id: int, pull_id: int) -> Pull:
    """Return one pull of a connection. Raises NotFound."""
    row = session.get(Pull, pull_id)
    if row is None or row.connection_id != connection_id:
        raise NotFound
    return row


def lines(session: Session, pull_id: int) -> list[LedgerLine]:
    """Return the ledger of a pull."""
    query = select(LedgerLine).where(LedgerLine.pull_id == pull_id)
    return list(session.scalars(query.order_by(LedgerLine.type, LedgerLine.chain)))


def line(session: Session, pull_id: int, chain: str, type_: str) -> LedgerLine:
    """Return the ledger line of a chain; the first time it is made."""
    row = session.get(LedgerLine, (pull_id, chain))
    if row is None:
        zeros = dict.fromkeys(("pages", "got", "new", "changed", "unchanged", "quarantined"), 0)
        row = LedgerLine(
            pull_id=pull_id, chain=chain, type=type_, state=LedgerState.ASKING, **zeros
        )
        session.add(row)
    return row


def arrived(session: Session, since: datetime) -> dict[str, int]:
    """Return how many records came or changed in the pulls that ended since then, by type asked.

    Counted from the ledgers, not from the records; "" are those of files, which ask for no type.
    """
    brought = func.sum(LedgerLine.new + LedgerLine.changed)
    query = select(LedgerLine.type, brought).join(Pull, Pull.id == LedgerLine.pull_id)
    query = query.where(Pull.ended_at >= since).group_by(LedgerLine.type)
    return {type_: count for type_, count in session.execute(query) if count}


def quarantined(session: Session, pull_id: int, *, limit: int = 200) -> list[Quarantined]:
    """Return what a pull could not keep, with the reasons."""
    query = select(Quarantined).where(Quarantined.pull_id == pull_id)
    return list(session.scalars(query.order_by(Quarantined.id).limit(limit)))


def remote_names(session: Session, connection_id: int, types: Mapping[int, str]) -> frozenset[str]:
    """Return "Type/id" of the records kept from a connection, for the given type numbers."""
    query = select(record.c.type, record.c.remote_id).where(
        record.c.connection == connection_id, record.c.type.in_(types)
    )
    return frozenset(f"{types[number]}/{name}" for number, name in session.execute(query))


def flagged(session: Session, connection_id: int, bits: Sequence[int]) -> dict[int, int]:
    """Return how many records of a connection carry each of the bits (`fhir.check.Note`)."""
    sums = [func.total(record.c.flags.op("&")(bit) != 0) for bit in bits]
    found = session.execute(select(*sums).where(record.c.connection == connection_id)).one()
    return {bit: int(number) for bit, number in zip(bits, found, strict=True)}


def files_wanted(session: Session, connection_id: int) -> list[tuple[int, str]]:
    """Return (record pk, url) of files not fetched yet, those included that failed before."""
    query = (
        select(attachment_link.c.record, attachment_link.c.url)
        .join(record, record.c.pk == attachment_link.c.record)
        .where(attachment_link.c.hash.is_(None), record.c.connection == connection_id)
        .order_by(attachment_link.c.record)
    )
    return [(pk, url) for pk, url in session.execute(query)]


def upload_of(session: Session, name: str, *, now: datetime) -> Connection:
    """Return the place to which files of this name belong; the first time it is made."""
    query = select(Connection).where(
        Connection.kind == UPLOAD,
        Connection.name == name,
        Connection.state == ConnectionState.ACTIVE,
    )
    row = session.scalar(query.order_by(Connection.id).limit(1))
    if row is None:
        made = add(
            session, kind=UPLOAD, name=name, base_url="", now=now, state=ConnectionState.ACTIVE
        )
        row = session.get_one(Connection, made)
    return row


def told_by(session: Session, name: str, *, closed: bool = False) -> Connection | None:
    """Return the place of what a recipient's document ("Type/local id") says, if there is one."""
    query = select(Connection).where(
        Connection.kind == CONTRIBUTED,
        func.json_extract(Connection.client, "$.document") == name,
    )
    if not closed:
        query = query.where(Connection.state != ConnectionState.REMOVED)
    return session.scalar(query)


def place_of_document(session: Session, name: str, title: str, *, now: datetime) -> Connection:
    """Return the place of what a recipient's document says; made, or opened again, if need be.

    One for each document, so that it can go with it.
    """
    row = told_by(session, name, closed=True)
    if row is not None:
        row.state = ConnectionState.ACTIVE
        return row
    made = add(
        session, kind=CONTRIBUTED, name=title, base_url="", now=now,
        state=ConnectionState.ACTIVE, client={"document": name},
    )  # fmt: skip
    return session.get_one(Connection, made)


def held_in(session: Session, connection_id: int) -> list[tuple[str, str]]:
    """Return (type, remote id) of every record of one place."""
    types = {kind.number: type_ for type_, kind in KINDS.items()}
    query = select(record.c.type, record.c.remote_id).where(record.c.connection == connection_id)
    return [(types[number], name) for number, name in session.execute(query)]


def close_place(session: Session, row: Connection) -> None:
    """Close a place whose records are gone; what it could not keep goes too."""
    session.execute(delete(Quarantined).where(Quarantined.connection_id == row.id))
    row.state = ConnectionState.REMOVED


def twin(session: Session, row: Connection, patient: str) -> Connection | None:
    """Return another live connection to the same address and remote person."""
    query = select(Connection).where(
        Connection.id != row.id,
        Connection.base_url == row.base_url,
        Connection.remote_patient == patient,
        Connection.state.not_in((ConnectionState.REMOVED, ConnectionState.DRAFT)),
    )
    return session.scalar(query.limit(1))


def end_runs(
    session: Session, connection_id: int, states: Sequence[PullState], sentence: str
) -> None:
    """Mark the runs of a connection in one of `states` as stopped."""
    session.execute(
        update(Pull)
        .where(Pull.connection_id == connection_id, Pull.state.in_(states))
        .values(state=PullState.STOPPED, sentence=sentence)
    )


def permission_ends(row: Connection) -> datetime | None:
    """Return when a hospital's permission ends, as far as it told; None: no end is known.

    A permission that cannot renew itself ends with its access token.
    """
    kept = row.credentials
    if row.state not in {ConnectionState.ACTIVE, ConnectionState.PAUSED} or not kept:
        return None
    text = kept.get("ends_at") or (None if kept.get("refresh_token") else kept.get("expires_at"))
    return datetime.fromisoformat(text) if isinstance(text, str) else None
