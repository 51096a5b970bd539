"""The conductor IN: claim -> ask -> keep -> ledger -> audit -> settle, one connection at a time.

No transaction is open while the network is waited for, and a crash at any byte resumes. When it
runs: `phr.jobs`. How a server is asked: `phr.connectors`. What a record is: `phr.keep`.
"""

import logging
import random
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from phr import clock, courtesy, keep, logs, oauth, returned
from phr.connectors import LIVE
from phr.connectors.base import Cursor, Fetched, LiveConnector, Outcome, Remote
from phr.connectors.smart import SUPPORTING
from phr.connectors.upload import Upload, shown
from phr.errors import (
    AddressRefused,
    Conflict,
    NeedsReauthorisation,
    NetError,
    PhrError,
    TryLater,
    VaultError,
    WrongPatient,
)
from phr.fhir import kinds
from phr.fhir.kinds import KINDS
from phr.http import Http
from phr.keep import Keeper, Kept
from phr.oauth import Client, Credentials, Endpoint
from phr.sharing import servers
from phr.store import audit, connections
from phr.store.database import Priority
from phr.store.models import Connection, ConnectionState, LedgerLine, LedgerState, PullState
from phr.store.vault import Vault
from phr.told import Fault, Told, kept_as

log = logging.getLogger(__name__)

FULL_DAYS: Final = 7
RETRY: Final = 900.0  # seconds; doubled with each failure in a row, up to the interval
DOCUMENTS: Final = "Documents"
NOT_ASKED: Final = "The pull ended before this was asked for."
STATES: Final = {
    Outcome.MORE: LedgerState.ASKING,
    Outcome.DONE: LedgerState.DONE,
    Outcome.REFUSED: LedgerState.REFUSED,
    Outcome.BROKEN: LedgerState.BROKEN,
}


# ------------------------------------------------------------------------- the recipe


def run(
    vault: Vault, connection_id: int, *, http: Http, now: datetime, full_days: int = FULL_DAYS
) -> PullState:
    """Pull one connection and return how it went; every failure ends as a sentence on its page.

    Raises Conflict when it is not active or already being pulled, Sealed when the vault closes
    meanwhile (the run resumes later), and never for what a hospital does.
    """
    courtesy.take_turns()
    with _alone(vault.id, connection_id) as stop:
        job = _claim(vault, connection_id, now, full_days)
        try:
            end = _fetch_and_keep(vault, job, http, stop, now)
        except VaultError:
            raise  # sealed or damaged: nothing can be written; the claim stays and resumes
        except _Interrupted:
            return PullState.RUNNING
        except Exception as problem:  # noqa: BLE001 - whatever broke, the person is told
            end = _end_for(problem, job)
        return _settle(vault, job, end, now, _certificate(http, job))


@dataclass(slots=True)
class Job:
    """What one run knows: plain values, no rows."""

    connection_id: int
    kind: str
    pull_id: int
    full: bool
    resumed: bool
    base_url: str
    patient: str
    endpoint: Endpoint
    client: Client
    credentials: Credentials
    cursor: Cursor
    interval: timedelta
    failures: int
    since: dict[str, datetime] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # types of which something failed
    complete: set[str] = field(default_factory=set)  # types of which a chain came to its end
    missing: int = 0
    new: int = 0
    changed: int = 0
    trained: bool = False  # a dictionary was thought of in this run
    certificate: str | None = None  # SHA-256 of what the server showed, this time or before


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended: the pull's state, the connection's (None: as it was), and the words."""

    pull: PullState
    sentence: str | None = None
    connection: ConnectionState | None = None
    again_in: float | None = None  # seconds; None: by the interval


def _claim(vault: Vault, connection_id: int, now: datetime, full_days: int) -> Job:
    """Claim the connection in one short write and return everything the run needs."""
    with vault.write(Priority.URGENT) as session:
        row = connections.get(session, connection_id)
        stale = row.last_full_at is None or now - row.last_full_at >= timedelta(days=full_days)
        claim = connections.claim(session, row, now=now, full=stale)
        since = {chain: clock.from_ms(ms) for chain, ms in row.cursor.get("since", {}).items()}
        numbers = {KINDS[kind].number: kind for kind in SUPPORTING}
        known = connections.remote_names(session, row.id, numbers) if not claim.full else ()
        return Job(
            connection_id=row.id,
            kind=row.kind,
            pull_id=claim.pull_id,
            full=claim.full,
            resumed=claim.resumed,
            base_url=row.base_url,
            patient=row.remote_patient or "",
            endpoint=Endpoint.from_json(row.endpoint),
            client=with_key(vault, Client.from_json(row.client)),
            credentials=Credentials.from_json(row.credentials),
            cursor=Cursor(claim.full, since, claim.resume, claim.finished, frozenset(known)),
            interval=timedelta(hours=row.interval_hours),
            failures=row.failures,
            since=dict(since),
            certificate=row.cursor.get("certificate"),
        )


def with_key(vault: Vault, client: Client) -> Client:
    """Return a client that fetches by a Consent or a ticket with this house's key, kept there."""
    keyed = client.consent or client.ticket
    return replace(client, key=servers.own_key(vault.house)) if keyed else client


def _fetch_and_keep(vault: Vault, job: Job, http: Http, stop: "Stop", now: datetime) -> End:
    connector = _connector(vault, job, http)
    keeper = Keeper(
        vault,
        job.connection_id,
        job.pull_id,
        expected_patient=job.patient,
        now=now,
        deferred=keep.DEFERRED_WAITING,
    )
    pages = connector.fetch(job.cursor)
    walking: set[str] = set()  # chains of which another page is to come
    try:
        for fetched in pages:
            stop.look()
            if keeper.written >= keep.TRAINED and not job.trained:
                job.trained = True
                keep.train(vault, job.connection_id)
            if fetched is None:
                _use_the_wait(keeper, is_lull=not walking)
                continue
            (walking.add if fetched.outcome is Outcome.MORE else walking.discard)(fetched.chain)
            settle = partial(_write_line, job=job, fetched=fetched)
            keeper.page(fetched.chain, fetched.items, settle=settle)
            _remember(job, fetched)
            del fetched, settle  # up to 30 MB: not held while the next page is waited for
    finally:
        _close(pages)
        keeper.flush()
    keeper.finish()
    if not job.trained:
        keep.train(vault, job.connection_id)
    _fetch_documents(vault, job, connector, stop)
    _mark_withdrawn(vault, job)
    return _end(job)


def _use_the_wait(keeper: Keeper, *, is_lull: bool) -> None:
    """Do what is due while nothing arrives; in a lull also what else would be left for the end."""
    if not (is_lull and keeper.catch_up()) and keeper.due() <= 0:
        keeper.flush()


def _close(pages: Iterator[Any]) -> None:
    """End the connector's threads now, not when somebody collects the generator."""
    close = getattr(pages, "close", None)
    if close is not None:
        close()


def _connector(vault: Vault, job: Job, http: Http) -> LiveConnector:
    remote = Remote(
        base_url=job.base_url,
        patient=job.patient,
        http=http,
        tokens=Purse(vault, job, http),
        everything=job.endpoint.everything,
        quirks=job.endpoint.quirks,
        release=job.endpoint.fhir_version or "",
    )
    return LIVE[job.kind](remote)


def _write_line(session: Session, kept: Kept, *, job: Job, fetched: Fetched) -> None:
    """Bring the ledger up to date in the transaction that keeps the page's records."""
    held = session.info.setdefault("lines", {})  # else each page reads and writes its line anew
    line = held.get(fetched.chain)
    if line is None:
        with session.no_autoflush:
            line = connections.line(session, job.pull_id, fetched.chain, fetched.type)
        held[fetched.chain] = line
    _add_to_line(line, kept, fetched)
    job.new += kept.new
    job.changed += kept.changed


def _add_to_line(line: LedgerLine, kept: Kept, fetched: Fetched) -> None:
    if line.state == LedgerState.BROKEN:  # it goes on: what had ended it is over
        line.sentence, line.faults = None, ""
    line.state = STATES[fetched.outcome]
    line.pages += fetched.pages
    line.got += len(fetched.items)
    line.new += kept.new
    line.changed += kept.changed
    line.unchanged += kept.unchanged
    line.quarantined += kept.quarantined
    if fetched.total is not None:
        line.claimed = fetched.total
    line.next_url = fetched.next_url
    if fetched.sentence:
        line.sentence, line.faults = str(fetched.sentence), kept_as(fetched.sentence)


def _remember(job: Job, fetched: Fetched) -> None:
    """Note what the end of the run must know. The cursor moves only for chains that ended well."""
    if fetched.outcome is not Outcome.REFUSED:
        job.missing += fetched.missing
    if fetched.asked_at is not None:
        job.since[fetched.chain] = fetched.asked_at
    if fetched.outcome is Outcome.DONE:
        job.complete.add(fetched.type)
    elif fetched.outcome is Outcome.BROKEN:
        job.broken.add(fetched.type)
        job.since.pop(fetched.chain, None)
        earlier = job.cursor.since.get(fetched.chain)
        if earlier is not None:
            job.since[fetched.chain] = earlier


def _mark_withdrawn(vault: Vault, job: Job) -> None:
    """After a full pass: what is no longer offered is shown so, kind by kind, never deleted."""
    if not job.full:
        return
    asked = _types_of(job)
    complete = asked if "*" in job.complete and not job.broken else job.complete & asked
    types = sorted(complete - job.broken)
    if types:
        keep.withdraw_unseen(vault, job.connection_id, job.pull_id, types)


def _end(job: Job) -> End:
    if job.broken or job.missing:
        return End(PullState.PARTIAL)
    return End(PullState.DONE)


def _end_for(problem: Exception, job: Job) -> End:
    """Turn what ended a run into words and states."""
    if isinstance(problem, _StoppedByPerson):
        return End(PullState.STOPPED, "Stopped by you. What had arrived is kept.")
    if isinstance(problem, NeedsReauthorisation | WrongPatient):
        state = ConnectionState.NEEDS_REAUTHORISATION
        return End(PullState.FAILED, problem.told, state)
    if isinstance(problem, TryLater):
        return End(PullState.FAILED, problem.told, again_in=max(problem.after, 60.0))
    wait = min(RETRY * 2 ** min(job.failures, 10), job.interval.total_seconds())
    if isinstance(problem, PhrError):
        return End(PullState.FAILED, problem.told, again_in=wait)
    log.error("pull.broke", exc_info=problem)
    return End(PullState.FAILED, PhrError.sentence, again_in=wait)


def _certificate(http: Http, job: Job) -> str | None:
    """Return the certificate the server shows now; a valid new one is allowed, and logged."""
    with suppress(NetError):
        shown_now = http.certificate(job.base_url)
        if job.certificate and shown_now and shown_now != job.certificate:
            logs.event(log, "certificate.changed", logging.WARNING, connection=job.connection_id)
        return shown_now or job.certificate
    return job.certificate


def _settle(vault: Vault, job: Job, end: End, now: datetime, certificate: str | None) -> PullState:
    """Write how it went: pull, connection, when to ask again, one audit line."""
    ended = clock.now()
    changed = {"certificate": "changed"} if job.certificate not in {None, certificate} else {}
    with vault.write(Priority.URGENT) as session:
        pull = connections.pull(session, job.connection_id, job.pull_id)
        pull.state, pull.ended_at, pull.sentence = end.pull, ended, end.sentence
        pull.faults = kept_as(end.sentence)
        if end.sentence:
            _name_the_rest(session, job, end.sentence)
        row = session.get_one(Connection, job.connection_id)
        row.claimed_by = None
        since = {chain: clock.to_ms(at) for chain, at in job.since.items()}
        row.cursor = {"since": since} | ({"certificate": certificate} if certificate else {})
        if row.state == ConnectionState.ACTIVE:
            _settle_connection(row, job, end, ended, now)
        audit.append(
            session,
            vault,
            "pull.done",
            audit.APPLIANCE,
            connection=job.connection_id,
            pull=job.pull_id,
            state=str(end.pull),
            new=job.new,
            changed=job.changed,
            **changed,
        )
    logs.event(log, "pull.done", connection=job.connection_id, state=str(end.pull))
    return end.pull


def _name_the_rest(session: Session, job: Job, sentence: str) -> None:
    """Give each kind that was not asked for, or not to its end, a line with what ended the run.

    Nothing came at all: then the run's own sentence says it.
    """
    known = connections.lines(session, job.pull_id)
    for line in known:
        if line.state == LedgerState.ASKING:
            line.state, line.sentence = LedgerState.BROKEN, str(sentence)
            line.faults = kept_as(sentence)
    if not known or any(one.type == "*" and one.state != LedgerState.REFUSED for one in known):
        return
    told = {line.type for line in known}
    for type_ in _types_of(job) - told:
        line = connections.line(session, job.pull_id, type_, type_)
        line.state, line.faults = LedgerState.BROKEN, kept_as(sentence)
        line.sentence = f"{NOT_ASKED} {sentence}"


def _types_of(job: Job) -> set[str]:
    """Return the kinds that a run asks for by themselves."""
    return {"Patient", *(kind.type for kind in kinds.asked(job.endpoint.fhir_version or ""))}


def _settle_connection(row: Connection, job: Job, end: End, ended: datetime, now: datetime) -> None:
    answered = end.pull in {PullState.DONE, PullState.PARTIAL}
    row.failures = 0 if answered else row.failures + (end.pull == PullState.FAILED)
    row.sentence = end.sentence
    if answered:
        row.last_pull_at = ended
        if job.full:
            # An interrupted run has not seen every reference, so the next pass is full again.
            row.last_full_at = None if job.resumed else now
    if end.connection is not None:
        row.state = end.connection
        row.next_pull_at = None
    else:
        seconds = end.again_in or job.interval.total_seconds()
        row.next_pull_at = ended + timedelta(seconds=seconds * _jitter())


def _jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - spreads the load, keeps no secret


# ------------------------------------------------------------------------- documents


def _fetch_documents(vault: Vault, job: Job, connector: LiveConnector, stop: "Stop") -> None:
    """Fetch the documents that kept records point to, each once; each failure is a sentence."""
    with vault.read() as session:
        missing = connections.files_wanted(session, job.connection_id)
    if not missing:
        return
    naming: defaultdict[str, list[int]] = defaultdict(list)
    for pk, url in missing:
        naming[url].append(pk)
    got = elsewhere = 0
    arriving = connector.attachments(list(naming))
    try:
        for arrived in arriving:
            stop.look()
            if arrived is None:
                continue
            url, found = arrived
            for pk in naming[url]:
                if isinstance(found, PhrError):
                    keep.attach_failed(vault, pk, url, found.sentence)
                    elsewhere += isinstance(found, AddressRefused)
                else:
                    keep.attach(vault, pk, url, found.media_type, found.body)
                    got += 1
    finally:
        _close(arriving)
    wanted = len(missing) - elsewhere
    job.missing += wanted - got
    with vault.write() as session:
        line = connections.line(session, job.pull_id, DOCUMENTS, "Binary")
        line.state = LedgerState.DONE
        line.got, line.new, line.claimed = got, got, wanted
        line.sentence = _documents_sentence(wanted - got, elsewhere)
        line.faults = kept_as(line.sentence)


def _documents_sentence(failed: int, elsewhere: int) -> Told | None:
    """Say how many files are missing and why; None when none is."""
    parts, faults = [], list[Fault]()
    if failed:
        files = "1 file" if failed == 1 else f"{failed} files"
        parts.append(f"{files} could not be fetched; asked for again next time.")
        faults.append(Fault.FILES)
    if elsewhere:
        files = "1 file lies" if elsewhere == 1 else f"{elsewhere} files lie"
        parts.append(f"{files} on another server, outside of this connection: not fetched.")
        faults += [Fault.OUTSIDE, Fault.ELSEWHERE]
    return Told(" ".join(parts), *faults) if parts else None


# ------------------------------------------------------------------------- files a person brings


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one file: counts, and (place, reason) of what waits in quarantine."""

    name: str
    connection_id: int
    pull_id: int
    state: PullState
    kept: Kept
    sentence: str | None = None

    @property
    def is_all_known(self) -> bool:
        """Whether the file brought nothing that was not here already."""
        return not (self.kept.new or self.kept.changed or self.kept.quarantined or self.sentence)


def take_file(
    vault: Vault, name: str, path: Path, *, actor: Mapping[str, Any], now: datetime
) -> Taken:
    """Take in a file that lies on disk: Bundle, NDJSON, one resource, or a zip of these.

    The same file again changes nothing. What cannot be kept waits in quarantine with the reason.
    """
    with vault.write(Priority.URGENT) as session:
        row = connections.upload_of(session, shown(name), now=now)
        connection_id, known_as = row.id, row.name
    with _alone(vault.id, connection_id) as stop:
        with vault.write(Priority.URGENT) as session:
            row = connections.get(session, connection_id)
            pull_id = connections.claim(session, row, now=now, full=True, anew=True).pull_id
        keeper = Keeper(vault, connection_id, pull_id, now=now)
        total, sentence = _read_file(keeper, pull_id, (name, path), stop)
        returned.complete(vault, connection_id, Upload([(name, path)]))
        state = PullState.DONE
        if sentence or total.quarantined:
            any_kept = total.new or total.changed or total.unchanged
            state = PullState.PARTIAL if any_kept else PullState.FAILED
        taken = Taken(known_as, connection_id, pull_id, state, total, sentence)
        _settle_file(vault, taken, actor)
        return taken


def _read_file(
    keeper: Keeper, pull_id: int, file: tuple[str, Path], stop: "Stop"
) -> tuple[Kept, str | None]:
    total, sentences = [Kept()], list[str]()

    def settle(session: Session, kept: Kept, fetched: Fetched) -> None:
        _add_to_line(connections.line(session, pull_id, fetched.chain, fetched.type), kept, fetched)
        total[0] += kept

    upload = Upload([file])
    for chain, person in upload.people():  # whom each file is about, before any of it is kept
        stop.look()
        keeper.acquaint(chain, person)
    for fetched in upload.fetch():
        stop.look()
        if fetched.sentence:
            sentences.append(str(fetched.sentence))
        keeper.page(fetched.chain, fetched.items, settle=partial(settle, fetched=fetched))
    keeper.flush()
    keeper.finish()
    return total[0], sentences[0] if sentences else None


def _settle_file(vault: Vault, taken: Taken, actor: Mapping[str, Any]) -> None:
    ended = clock.now()
    with vault.write(Priority.URGENT) as session:
        pull = connections.pull(session, taken.connection_id, taken.pull_id)
        pull.state, pull.ended_at, pull.sentence = taken.state, ended, taken.sentence
        row = session.get_one(Connection, taken.connection_id)
        row.claimed_by, row.last_pull_at, row.sentence = None, ended, taken.sentence
        audit.append(
            session,
            vault,
            "import.done",
            actor,
            connection=taken.connection_id,
            pull=taken.pull_id,
            new=taken.kept.new,
            changed=taken.kept.changed,
            unchanged=taken.kept.unchanged,
            quarantined=taken.kept.quarantined,
        )


# ------------------------------------------------------------------------- tokens


class Purse:
    """The tokens of one connection: renewed ahead of need, one at a time, written before use."""

    def __init__(self, vault: Vault, job: Job, http: Http) -> None:
        """Take the vault to write to and what the run knows."""
        self._vault = vault
        self._http = http
        self._job = job
        self._held = job.credentials
        self._lock = threading.Lock()
        self._not_before: datetime | None = None

    def current(self) -> str:
        """Return a token good for the next request."""
        with self._lock:
            now = clock.now()
            waiting = self._not_before is not None and now < self._not_before
            if self._held.refresh_token and self._held.due(now) and not waiting:
                self._renew_or_go_on(now)
            return self._held.access_token

    def renewed(self, dead: str) -> str:
        """Return another token than `dead`, which was just refused."""
        with self._lock:
            if self._held.access_token == dead:
                self._renew(clock.now())
            return self._held.access_token

    def _renew_or_go_on(self, now: datetime) -> None:
        """Renew; when the sign-in service is busy, the old token serves to its end."""
        try:
            self._renew(now)
        except TryLater:
            if self._held.expires_at is not None and now >= self._held.expires_at:
                raise
            self._not_before = now + timedelta(minutes=1)

    def _renew(self, now: datetime) -> None:
        """Use the refresh token once; what is in flight is on disk before it is sent."""
        held = self._held
        if held.renewing and held.rotates is not False:
            self._write(replace(held, refresh_token=None, renewing=False))
            raise NeedsReauthorisation(
                "The permission was being renewed when Homeport stopped, so the hospital may not "
                "accept it again. Please sign in there; what was fetched before is kept."
            )
        if held.refresh_token:
            self._write(replace(held, renewing=True))
        try:
            fresh = oauth.refresh(self._http, self._job.endpoint, self._job.client, held, now=now)
        except (NeedsReauthorisation, WrongPatient):
            self._write(replace(held, refresh_token=None, renewing=False))
            raise
        except TryLater:
            self._write(replace(held, renewing=False))
            raise
        self._write(fresh)

    def _write(self, credentials: Credentials) -> None:
        with self._vault.write(Priority.URGENT) as session:
            row = session.get_one(Connection, self._job.connection_id)
            row.credentials = credentials.to_json()
        self._held = credentials


# ------------------------------------------------------------------------- one run at a time


class _StoppedByPerson(Exception):
    pass


class _Interrupted(Exception):
    pass


class Stop:
    """A run's ear: a person paused or removed the connection, or the process is ending."""

    def __init__(self) -> None:
        """Begin unheard."""
        self._reason: type[Exception] | None = None

    def ask(self, *, resume: bool) -> None:
        """Ask the run to end; with `resume` it goes on at the next start."""
        self._reason = _Interrupted if resume else _StoppedByPerson

    def look(self) -> None:
        """Raise when the run was asked to end."""
        if self._reason is not None:
            raise self._reason


_running: dict[tuple[str, int], Stop] = {}
_changed = threading.Condition()


@contextmanager
def _alone(vault_id: str, connection_id: int) -> Iterator[Stop]:
    key, stop = (vault_id, connection_id), Stop()
    with _changed:
        if key in _running:
            raise Conflict("This connection is being pulled right now.")
        _running[key] = stop
    try:
        yield stop
    finally:
        with _changed:
            del _running[key]
            _changed.notify_all()


def is_running(vault_id: str, connection_id: int) -> bool:
    """Say whether this process is pulling a connection now."""
    return (vault_id, connection_id) in _running


def stop(vault_id: str, connection_id: int, *, wait: float = 0.0) -> bool:
    """Ask a run to end because a person said so; say whether it has, within `wait` seconds."""
    with _changed:
        running = _running.get((vault_id, connection_id))
        if running is not None:
            running.ask(resume=False)
        return _changed.wait_for(lambda: not is_running(vault_id, connection_id), wait)


def stop_all(*, wait: float = 0.0) -> bool:
    """Ask every run to end because the process does; each resumes at the next start."""
    with _changed:
        for running in _running.values():
            running.ask(resume=True)
        return _changed.wait_for(lambda: not _running, wait)
