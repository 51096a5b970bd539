"""The hash-chained logs: one per vault, one for the house, and what happened at a sealed vault.

A line's HMAC covers the line before it, so nothing can be changed, left out or put in between
without the key. Whether the end was cut off shows the high-water mark outside (`house.Mark`).
"""

import hmac
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from phr import clock
from phr.store.house import House, Mark
from phr.store.models import AuditEntry, HouseAudit, SealedEvent
from phr.store.slots import derive, put_in_box

START = bytes(32)
APPLIANCE: Mapping[str, str] = {"kind": "appliance"}


class Chained(Protocol):
    """What the audit log needs of a vault."""

    audit_key: bytes
    epoch: int


def append(
    session: Session,
    vault: Chained,
    event: str,
    actor: Mapping[str, Any],
    *,
    grant_id: str | None = None,
    **detail: Any,
) -> None:
    """Append a line in the caller's write transaction; `event` is a dotted verb.

    The vault pushes the new high-water mark to house.db after the commit.
    """
    said = (event, _text(actor), grant_id, _text(detail))
    _append(session, vault, clock.now(), said)


def _append(
    session: Session, vault: Chained, at: datetime, said: tuple[str, str, str | None, str]
) -> None:
    run = session.connection().exec_driver_sql
    last = run("SELECT seq, hash FROM audit_entry ORDER BY seq DESC LIMIT 1").first()
    seq, previous = (last[0] + 1, last[1]) if last else (1, START)
    line = (seq, vault.epoch, clock.to_ms(at), *said, previous)
    link = _link(vault.audit_key, line)
    run("INSERT INTO audit_entry VALUES (?,?,?,?,?,?,?,?,?)", (*line, link))
    session.info["mark"] = Mark(vault.epoch, seq, link)


def entries(
    session: Session, *, grant_id: str | None = None, limit: int = 100, before: int | None = None
) -> list[AuditEntry]:
    """Return lines newest first; `before` is the `seq` of the last line already shown."""
    query = select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(limit)
    if grant_id is not None:
        query = query.where(AuditEntry.grant_id == grant_id)
    if before is not None:
        query = query.where(AuditEntry.seq < before)
    return list(session.scalars(query))


def verify(session: Session, vault: Chained) -> list[str]:
    """Recompute the whole chain; return what is wrong with it in words (empty: nothing)."""
    rows = session.connection().exec_driver_sql(
        "SELECT seq, epoch, at, event, actor, grant_id, detail, previous, hash"
        " FROM audit_entry ORDER BY seq"
    )
    return list(_breaks(vault.audit_key, rows))


def mark(session: Session) -> Mark | None:
    """Return where the vault's own chain stands; None when it is empty."""
    row = (
        session.connection()
        .exec_driver_sql("SELECT epoch, seq, hash FROM audit_entry ORDER BY seq DESC LIMIT 1")
        .first()
    )
    return None if row is None else Mark(row[0], row[1], row[2])


def follows(session: Session, epoch: int, kept: Mark | None) -> bool:
    """Tell whether the vault's chain contains the mark kept outside it.

    A vault ahead of its mark is fine: the process may have died between the two commits.
    """
    if kept is None or epoch > kept.epoch:
        return True
    row = (
        session.connection()
        .exec_driver_sql("SELECT epoch, hash FROM audit_entry WHERE seq=?", (kept.seq,))
        .first()
    )
    return row is not None and (row[0], row[1]) == (kept.epoch, kept.head)


# ---------------------------------------------------------------------- the house's chain


def append_house(session: Session, house: House, event: str, **detail: Any) -> None:
    """Append a line to the house's log in the caller's house transaction."""
    run = session.connection().exec_driver_sql
    last = run("SELECT seq, hash FROM house_audit ORDER BY seq DESC LIMIT 1").first()
    seq, previous = (last[0] + 1, last[1]) if last else (1, START)
    line = (seq, clock.to_ms(clock.now()), event, _text(detail), previous)
    run("INSERT INTO house_audit VALUES (?,?,?,?,?,?)", (*line, _link(_house_key(house), line)))


def house_entries(
    session: Session, *, limit: int = 100, before: int | None = None
) -> list[HouseAudit]:
    """Return lines of the house's log, newest first."""
    query = select(HouseAudit).order_by(HouseAudit.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(HouseAudit.seq < before)
    return list(session.scalars(query))


def verify_house(session: Session, house: House) -> list[str]:
    """Recompute the house's chain; return what is wrong with it in words."""
    rows = session.connection().exec_driver_sql(
        "SELECT seq, at, event, detail, previous, hash FROM house_audit ORDER BY seq"
    )
    return list(_breaks(_house_key(house), rows))


# ---------------------------------------------------------------------- while sealed


def put_aside(
    session: Session,
    patient_id: str,
    box_key: bytes,
    event: str,
    actor: Mapping[str, Any],
    *,
    grant_id: str | None = None,
    **detail: Any,
) -> None:
    """Keep in house.db, readable only with the vault's key, what happened at a sealed vault."""
    at = clock.now()
    content = {
        "at": clock.to_ms(at),
        "event": event,
        "actor": dict(actor),
        "grant_id": grant_id,
        "detail": detail,
    }
    box = put_in_box(box_key, patient_id, content)
    session.add(SealedEvent(patient_id=patient_id, at=at, box=box))
    session.flush()


def merge(session: Session, vault: Chained, content: Mapping[str, Any]) -> None:
    """Append what had been put aside, at the time it happened, marked `while_sealed`."""
    detail = {**content["detail"], "while_sealed": True}
    said = (content["event"], _text(content["actor"]), content["grant_id"], _text(detail))
    _append(session, vault, clock.from_ms(content["at"]), said)


def _breaks(key: bytes, rows: Any) -> Iterator[str]:
    expected, last = 1, START
    for *line, link in rows:
        if line[0] != expected:
            yield f"Lines {expected} to {line[0] - 1} are missing."
        elif line[-1] != last:
            yield f"Line {line[0]} does not follow the line before it."
        if not hmac.compare_digest(_link(key, tuple(line)), link):
            yield f"Line {line[0]} was changed."
        expected, last = line[0] + 1, link


def _link(key: bytes, line: tuple[Any, ...]) -> bytes:
    plain = [part.hex() if isinstance(part, bytes) else part for part in line]
    return hmac.digest(key, json.dumps(plain, separators=(",", ":")).encode(), "sha256")


def _house_key(house: House) -> bytes:
    return derive(house.key, "house audit")


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
