"""Bulk exports (FHIR Bulk Data Access 2.0.0): asked for, looked through in the background, fetched.

Kept is only the question. The files are made of released records while they are fetched: nothing
of them ever lies anywhere, and what ends a grant stops them. Who may: `gate`. A line: `answers`.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from phr import clock, ids, logs
from phr.errors import NotFound, PhrError, TooManyTries
from phr.sharing import answers
from phr.sharing.released import Released, outlive
from phr.store.database import Priority
from phr.store.models import Export
from phr.store.vault import Vault

log = logging.getLogger("phr.exports")

LASTS: Final = timedelta(hours=24)  # then the question is forgotten
KEPT_AT_MOST: Final = 5  # of one grant; the oldest gives way
WAITING_AT_MOST: Final = 8  # in this process; one is looked through at a time
RETRY: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Asked:
    """One export: its types, what came from when on (None: ever), and the address of the request.

    `at` is the transaction time: what was taken in later is not part of it. `counts` says how many
    lines each file has, once that is known.
    """

    id: str
    types: tuple[str, ...]
    since: datetime | None
    request: str
    at: datetime
    ends_at: datetime
    counts: Mapping[str, int] | None = None


@dataclass(slots=True)
class _Progress:
    """How far one that is being looked through has come, and whether that is still wanted."""

    grant_id: str
    text: str = "waiting"
    cancelled: threading.Event = field(default_factory=threading.Event)


_lock = threading.Lock()
_running: dict[str, _Progress] = {}
_worker = ThreadPoolExecutor(1, thread_name_prefix="export")


# ------------------------------------------------------------------ asking


def begin(
    released: Released,
    types: Sequence[str],
    *,
    since: datetime | None,
    request: str,
    now: datetime,
) -> str:
    """Keep the question, begin to look through what it covers, and return its id.

    Raises TooManyTries while another one of this grant is looked through (one at a time).
    """
    vault, grant_id = released.vault, released.terms.grant_id
    asked = Asked(ids.new_id(), tuple(types), since, request, now, now + LASTS)
    _enter(asked, grant_id, now)
    try:
        with vault.write(Priority.URGENT) as session:
            _make_room(session, grant_id, now)
            session.add(
                Export(
                    id=asked.id,
                    grant_id=grant_id,
                    request=request,
                    types=list(types),
                    since=since,
                    at=now,
                    ends_at=asked.ends_at,
                )
            )
    except BaseException:
        _leave(asked.id)
        raise
    _worker.submit(_look_through, released, asked)
    return asked.id


def _enter(asked: Asked, grant_id: str, now: datetime) -> None:
    with _lock:
        busy = any(one.grant_id == grant_id for one in _running.values())
        if busy or len(_running) >= WAITING_AT_MOST:
            raise TooManyTries("One export is prepared at a time.", after=now + RETRY)
        _running[asked.id] = _Progress(grant_id)


def _leave(export_id: str) -> None:
    with _lock:
        _running.pop(export_id, None)


def _make_room(session: Session, grant_id: str, now: datetime) -> None:
    forget_old(session, now=now)
    session.execute(delete(Export).where(Export.grant_id == grant_id, Export.counts.is_(None)))
    known = select(Export.id).where(Export.grant_id == grant_id).order_by(Export.at.desc())
    old = list(session.scalars(known.offset(KEPT_AT_MOST - 1)))
    session.execute(delete(Export).where(Export.id.in_(old)))


def forget_old(session: Session, *, now: datetime) -> None:
    """Forget the questions whose time is over."""
    session.execute(delete(Export).where(Export.ends_at <= now))


# ------------------------------------------------------------------ looking through


def resume(released: Released, asked: Asked, *, now: datetime) -> None:
    """Look through again what a restart of the program interrupted."""
    _enter(asked, released.terms.grant_id, now)
    _worker.submit(_look_through, released, asked)


def progress(asked: Asked) -> str | None:
    """Return how far the looking through has come; None where nobody is at it."""
    with _lock:
        known = _running.get(asked.id)
        return None if known is None else known.text


def _look_through(released: Released, asked: Asked) -> None:
    """Count the lines of each file, as each would leave now."""
    try:
        counts = _counted(released, asked, _running[asked.id])
        if counts is not None:
            with released.vault.write() as session:
                told = partial(outlive, released.vault, released.vault.database.commits)
                session.info["after"] = [told]  # the files are fetched next
                kept = session.get(Export, asked.id)
                if kept is not None:
                    kept.counts = counts
    except PhrError as error:  # the grant is over, or the record was sealed meanwhile
        logs.event(log, "export.stopped", export=asked.id, error=type(error).__name__)
    except Exception as error:  # noqa: BLE001 (the next question for its state begins again)
        logs.event(log, "export.failed", logging.ERROR, export=asked.id, error=type(error).__name__)
    finally:
        _leave(asked.id)


def _counted(released: Released, asked: Asked, at: _Progress) -> dict[str, int] | None:
    counts: dict[str, int] = {}
    for number, type_ in enumerate(asked.types):
        at.text = f"{number} of {len(asked.types)} kinds of records looked through"
        found = 0
        for piece in answers.lines(released, type_, since=asked.since, until=asked.at):
            if at.cancelled.is_set():
                return None
            found += piece.count(b"\n")
        counts[type_] = found
    return counts


# ------------------------------------------------------------------ its state


def find(vault: Vault, grant_id: str, export_id: str, *, now: datetime) -> Asked:
    """Return an export of this grant. Raises NotFound for any other."""
    with vault.read() as session:
        kept = session.get(Export, export_id)
        if kept is None or kept.grant_id != grant_id or kept.ends_at <= now:
            raise NotFound
        return Asked(
            kept.id,
            tuple(kept.types),
            kept.since,
            kept.request,
            kept.at,
            kept.ends_at,
            kept.counts,
        )


def cancel(vault: Vault, asked: Asked) -> None:
    """Forget an export; one that is being looked through stops."""
    with _lock:
        if asked.id in _running:
            _running[asked.id].cancelled.set()
    with vault.write(Priority.URGENT) as session:
        session.execute(delete(Export).where(Export.id == asked.id))


def manifest(asked: Asked, *, base: str) -> Mapping[str, Any]:
    """Return the manifest of an export that was looked through (Bulk Data §2.5.4).

    Without the counts, which it may have: the patient may have left out records since.
    """
    counts = asked.counts or {}
    return {
        "transactionTime": clock.instant(asked.at),
        "request": asked.request,
        "requiresAccessToken": True,
        "output": [
            {"type": type_, "url": f"{base}/$export/{asked.id}/{type_}.ndjson"}
            for type_, number in counts.items()
            if number
        ],
        "error": [],
    }
