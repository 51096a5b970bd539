"""What files say, read one by one in a child process and kept for search and for reading.

Between `phr.papers`, which knows no store, and `phr.store.papers`, which knows no files. All of it
is derived and made anew when readers find more; nothing here can stop a pull. The coded entries
of a C-CDA that arrived as a document become records of a place beside its hospital.
"""

import json
import logging
import threading
from hashlib import sha256
from typing import Final

from sqlalchemy.orm import Session

from phr import clock, courtesy, keep, logs
from phr.chart import documents, provenance
from phr.chart.marks import is_transcribed
from phr.fhir import references
from phr.fhir.labels import Label
from phr.fhir.record import Item, Record, Selection
from phr.fhir.statements import RECORD
from phr.keep import Keeper
from phr.papers import apart
from phr.papers.kinds import Reader, kind_of
from phr.papers.reading import RULES, Reading, excerpt, unpacked
from phr.store import audit, connections, index, papers, records
from phr.store.database import Priority
from phr.store.models import Connection, PullState
from phr.store.papers import Paper
from phr.store.records import Clause
from phr.store.vault import Vault
from phr.views.documents import Hit

log = logging.getLogger(__name__)

TYPES: Final = (*documents.TYPES, "Binary")
_AT_ONCE: Final = 200  # records looked through in one go
_READ: Final = 4  # files after which what was read is written
_REPLACED: Final = ("superseded", "entered-in-error")  # documents that speak no more
_MARK: Final = "transcribe"  # in `vault.drawn`: the state of the vault in which nothing waited


def run_when_quiet(vault: Vault, *, stopping: threading.Event) -> int:
    """Read what waits unless an import is under way; return how many files were read."""
    commits = vault.database.commits
    if vault.drawn.get(_MARK) == commits:
        return 0
    with vault.read() as session:
        if papers.is_importing(session):
            return 0
    count = run(vault, stopping=stopping)
    if not stopping.is_set() and not count:
        vault.drawn[_MARK] = commits
    return count


def run(vault: Vault, *, stopping: threading.Event | None = None) -> int:
    """Read every file that waits, in bounded steps; return how many were read.

    What was read stays when it is cut off: the next run goes on behind it.
    """
    count = after = 0
    while stopping is None or not stopping.is_set():
        with vault.read() as session:
            pks = papers.waiting(session, TYPES, RULES, after=after, limit=_AT_ONCE)
        if not pks:
            break
        after = pks[-1]
        try:
            count += _look_through(vault, pks, stopping)
        except apart.Stopped:
            break
    if count:
        logs.event(log, "papers.read", vault=vault.id, files=count)
    return count


def waits(vault: Vault, session: Session) -> bool:
    """Say whether files that have come are still to be read: search may find more soon."""
    if vault.drawn.get(_MARK) == vault.database.commits:
        return False
    return bool(papers.waiting(session, TYPES, RULES, limit=1))


def made_of(vault: Vault, session: Session, record: Record) -> list[Record]:
    """Return the records that were transcribed from a document."""
    if record.type not in TYPES:
        return []
    told = records.select(session, vault, Selection(types=("Provenance",)))
    keys = (
        references.local_key(vault.id_key, place, type_, remote_id)
        for place, type_, remote_id in provenance.made_of(record, told)
    )
    return records.by_keys(session, vault, keys)


def content_of(
    vault: Vault, session: Session, record: Record, one: documents.Attachment
) -> tuple[bytes | None, str]:
    """Return the bytes of a file (None: not here) and why they are missing.

    They are inside the record, kept beside it, or in a Binary of the same source.
    """
    if one.inline:
        content = documents.inline_bytes(record.document, one.place)
        return content, "" if content else "The bytes in the record are damaged."
    links = [link for link in records.attachments(session, record.pk) if link.url == one.url]
    for link in links:
        kept = records.attachment(session, link.hash) if link.hash else None
        if kept:
            return kept[1], ""
    pointed = references.target(one.url)
    if pointed is not None and pointed.type == "Binary":
        local_id = records.local_id(vault, record.connection_id, "Binary", pointed.id)
        binary = records.get(session, vault, "Binary", local_id)
        if binary is not None:
            return documents.inline_bytes(binary.document, 0), ""
    return None, next((link.sentence for link in links if link.sentence), "")


def of(vault: Vault, content: bytes) -> Reading:
    """Return what a file says: as it was read before, or read now (a second or less)."""
    reader = kind_of(content).reader
    if reader is Reader.NONE:
        return Reading()
    with vault.read() as session:
        known = papers.held(session, sha256(content).digest(), RULES)
    return unpacked(known) if known else apart.read(reader, content)


def find(vault: Vault, session: Session, words: str, *, limit: int) -> list[Hit]:
    """Return the documents in whose files every word (as a prefix) stands, newest first."""
    query = index.query(words)
    found = papers.find(session, query, limit) if query else []
    owners = {one.pk: one for one in _records(vault, session, [pk for pk, _, _ in found])}
    terms = index.terms(words)
    hits = []
    for pk, place, body in found:
        reading = unpacked(body)
        if pk in owners:
            hits.append(Hit(owners[pk], place, reading.title, excerpt(reading.text, terms)))
    return hits


def stop_all() -> None:
    """End what is being read, because the program ends; it waits for the next start."""
    apart.stop_all()


# ------------------------------------------------------------------------------ one by one


def _look_through(vault: Vault, pks: list[int], stopping: threading.Event | None) -> int:
    """Read the files of some records, and write in steps what was read."""
    done: list[tuple[Record, int, list[Paper]]] = []
    count = fresh = 0
    try:
        for pk in pks:
            if stopping is not None and stopping.is_set():
                break
            courtesy.give_way()
            with vault.read() as session:
                found = _records(vault, session, [pk])
                files = papers.files(session, pk)
            if not found:
                continue
            read = _files_of(vault, found[0])
            done.append((found[0], files, read))
            fresh += len(read)
            if fresh >= _READ:
                count += _keep(vault, done)
                fresh = 0
    finally:
        count += _keep(vault, done)
    return count


def _keep(vault: Vault, done: list[tuple[Record, int, list[Paper]]]) -> int:
    if not done:
        return 0
    with vault.write(Priority.BULK) as session:
        for record, files, read in done:
            papers.put(session, record.pk, read, version=record.version, files=files, rules=RULES)
    count = sum(len(read) for _, _, read in done)
    done.clear()
    return count


def _files_of(vault: Vault, record: Record) -> list[Paper]:
    """Read every file of a record that is here and that a reader knows."""
    made = []
    for one in documents.attachments(record.document):
        with vault.read() as session:
            content, _ = content_of(vault, session, record, one)
            hash_ = sha256(content or b"").digest()
            known = papers.held(session, hash_, RULES)
        if content:
            reading = unpacked(known) if known else apart.read(kind_of(content).reader, content)
            made.append(Paper(one.place, hash_, reading.packed(), _words(reading)))
            if kind_of(content).reader is Reader.CDA and _is_news(record):
                _take_in(vault, record, content)
    return made


def _is_news(record: Record) -> bool:
    """Say whether a document was not taken in with its entries (`phr.connectors.upload`)."""
    return not is_transcribed(record) and record.document.get("status") not in _REPLACED


def _take_in(vault: Vault, record: Record, content: bytes) -> None:
    """Keep the coded entries of a document that arrived, with Provenance that points to it.

    They are kept apart from what its hospital sends as FHIR: a full pull does not ask for them.
    """
    entries = apart.entries(content)
    if entries is None or len(entries) < 2:
        return
    now = clock.now()
    with vault.write(Priority.BULK) as session:
        origin = connections.origins(session)[record.connection_id]
        row = connections.upload_of(session, f"Documents from {origin.name}", now=now)
        place = row.id
        pull_id = connections.claim(session, row, now=now, full=False, anew=True).pull_id
        row.claimed_by = None  # nothing is asked for: a stop here leaves nothing to go on with
    keeper = Keeper(vault, place, pull_id, now=now)
    keeper.page(record.type, [Item(_pointing(one, record)) for one in entries[1:]])
    kept = keeper.finish()
    if record.labels & Label.PRIVATE:  # what a private document says is private from the start
        with vault.read() as session:
            private = made_of(vault, session, record)
        for one in private:
            keep.mark_private(vault, one.local_id, on=True)
    with vault.write() as session:
        pull = connections.pull(session, place, pull_id)
        pull.state, pull.ended_at = PullState.DONE, clock.now()
        row = session.get_one(Connection, place)
        row.last_pull_at = now
        audit.append(
            session,
            vault,
            "import.done",
            audit.APPLIANCE,
            connection=place,
            pull=pull_id,
            new=kept.new,
            changed=kept.changed,
            unchanged=kept.unchanged,
            quarantined=kept.quarantined,
        )


def _pointing(body: bytes, record: Record) -> bytes:
    """Return Provenance that names the record by the id it leaves with; all else as it is."""
    if b'"resourceType":"Provenance"' not in body[:100]:
        return body
    made = json.loads(body)
    for one in made["entity"]:
        named = {"system": RECORD, "value": f"{record.type}/{record.local_id}"}
        one["what"] = {"identifier": named, "display": one["what"].get("display", "")}
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _words(reading: Reading) -> str:
    """Return what search finds a file by; of one that says nothing, nothing."""
    facts = (value for _, value in reading.facts)
    return "\n".join(filter(None, (reading.title, *facts, reading.text)))


def _records(vault: Vault, session: Session, pks: list[int]) -> list[Record]:
    some = list(dict.fromkeys(pks))
    if not some:
        return []
    where = Clause(f"record.pk IN ({','.join('?' * len(some))})", tuple(some))
    return records.scan(session, vault, where=where, limit=len(some))
