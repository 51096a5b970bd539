"""What files say, read one by one in a child process and kept for search and for reading.

Between `phr.papers`, which knows no store, and `phr.store.papers`, which knows no files. All of it
is derived and made anew when readers find more; nothing here can stop a pull. The coded entries
of a C-CDA that arrived as a document become records of a place beside its hospital.
"""

import json
import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any, Final, NamedTuple

from sqlalchemy.orm import Session

from phr import clock, courtesy, keep, logs
from phr.chart import documents, provenance
from phr.chart.marks import says_transcribed
from phr.chart.plain import mapping, mappings, string
from phr.fhir import document, references
from phr.fhir.kinds import KINDS
from phr.fhir.labels import Label
from phr.fhir.record import BESIDE, CONTRIBUTED, UPLOAD, Item, Record, Selection
from phr.fhir.statements import RECORD
from phr.keep import Keeper, Kept
from phr.papers import apart
from phr.papers.kinds import Reader, kind_of
from phr.papers.reading import RULES, Reading, excerpt, unpacked
from phr.store import audit, connections, index, papers, records
from phr.store.database import Priority, rows
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
_DOCUMENT: Final = "DocumentReference"
_HL7: Final = "http://terminology.hl7.org/CodeSystem/v3-"
_WEIGHED: Final = "weighed"  # in `vault.drawn`: the documents as they were when last weighed
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
    if stopping is None or not stopping.is_set():
        _weigh(vault)
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
    is_news = _is_news(vault, record)
    silent = is_news and record.version > 1  # until one of its files says something
    for one in documents.attachments(record.document):
        with vault.read() as session:
            content, _ = content_of(vault, session, record, one)
            hash_ = sha256(content or b"").digest()
            known = papers.held(session, hash_, RULES)
        silent = silent and bool(content)  # of a file that is not here nothing is known
        if content:
            reading = unpacked(known) if known else apart.read(kind_of(content).reader, content)
            is_clinical = kind_of(content).reader is Reader.CDA
            edition = _edition(record, reading, is_clinical=is_clinical)
            made.append(Paper(one.place, hash_, reading.packed(), _words(reading), edition))
            if is_clinical and is_news:
                silent = not _take_in(vault, record, content) and silent
    if silent:
        _say_no_more(vault, record)
    return made


def _say_no_more(vault: Vault, record: Record) -> None:
    """Mark as withdrawn what an earlier version of a document said: this one has no entries."""
    with vault.read() as session:
        gone = {
            one.key
            for place in _beside(session)
            for one in _told(vault, session, place)
            if one.paper == record.local_id and one.holds
        }
    if gone:
        with vault.write(Priority.BULK) as session:
            keep.withdraw(session, gone)


def _is_news(vault: Vault, record: Record) -> bool:
    """Say whether a document was not taken in with its entries (`phr.connectors.upload`).

    Only of what was brought: anybody who sends can write the mark.
    """
    if says_transcribed(record):
        with vault.read() as session:
            if connections.origins(session)[record.connection_id].kind == UPLOAD:
                return False
    return _speaks(record)


def _speaks(record: Record) -> bool:
    """Say whether a document's hospital still stands by it."""
    said = (record.document.get("status"), record.document.get("docStatus"))
    return not record.withdrawn and not any(one in _REPLACED for one in said)


def _take_in(vault: Vault, record: Record, content: bytes) -> bool:
    """Keep the coded entries of a document that arrived, with Provenance that points to it.

    They are kept apart from what its hospital sends as FHIR: a full pull does not ask for them.
    False where the document was read and has no entries.
    """
    entries = apart.entries(content)
    if entries is None:
        return True  # nobody knows what it says
    if not any(_is_told(body) for body in entries[1:]):
        return False
    now = clock.now()
    with vault.write(Priority.BULK) as session:
        if not _is_there(vault, session, record):
            return True
        row = _place_of(session, record, now)
        place = row.id
        pull_id = connections.claim(session, row, now=now, full=False, anew=True).pull_id
        row.claimed_by = None  # nothing is asked for: a stop here leaves nothing to go on with
    keeper = Keeper(vault, place, pull_id, now=now)
    with vault.read() as session:
        made = _labelled(vault, session, place, record, entries[1:], stamp=str(pull_id))
    settle = partial(_settle, vault, place, record, [key for key, _ in made])
    try:
        kept = keeper.page(record.type, [Item(body) for _, body in made], settle=settle)
        kept += keeper.finish()
    except _TakenBackError:  # while it was read: nothing of this is kept
        return True
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
    return True


def _is_told(body: bytes) -> bool:
    """Say whether a resource says more than whom the document is about."""
    return document.parse(body).get("resourceType") != "Patient"


class _TakenBackError(Exception):
    """The document left the record, or changed, while its entries were made."""


def _is_there(vault: Vault, session: Session, record: Record) -> bool:
    found = records.get(session, vault, record.type, record.local_id)
    return found is not None and found.version == record.version


def _place_of(session: Session, record: Record, now: datetime) -> Connection:
    """Return the place for what a document says: of a recipient's, one that goes with it."""
    origin = connections.origins(session)[record.connection_id]
    title = f"{BESIDE}{origin.name}"
    if origin.kind != CONTRIBUTED:
        return connections.upload_of(session, title, now=now)
    name = f"{record.type}/{record.local_id}"
    return connections.place_of_document(session, name, title, now=now)


def _settle(
    vault: Vault, place: int, record: Record, keys: Sequence[int], session: Session, _: Kept
) -> None:
    """Mark in the transaction that keeps a document's entries what must never be seen otherwise.

    What a private document says is private from the start; what an earlier version of the document
    said is its word no more.
    """
    if not _is_there(vault, session, record):
        raise _TakenBackError
    labels = rows(session, "SELECT labels FROM record WHERE pk = ?", (record.pk,))
    if labels and labels[0][0] & Label.PRIVATE:
        keep.keep_private(session, keys)
    earlier = [one.key for one in _told(vault, session, place) if one.paper == record.local_id]
    keep.withdraw(session, set(earlier) - set(keys))


def _labelled(
    vault: Vault,
    session: Session,
    place: int,
    record: Record,
    entries: Iterable[bytes],
    *,
    stamp: str,
) -> list[tuple[int, bytes]]:
    """Return (key, bytes) of a document's entries, each as sensitive as the document itself.

    A recipient who is refused a document must not get it in pieces. What several documents say is
    as sensitive as all of them. Provenance names the record by the id it leaves with.
    """
    backing = _backing(vault, session, place)
    papers_by_id = _papers(vault, session, {name for some in backing.values() for name in some})
    made = []
    for body in entries:
        one = _pointing(document.parse(body), record)
        type_, remote_id = one["resourceType"], one["id"]
        key = references.local_key(vault.id_key, place, type_, remote_id)
        labels = record.labels
        for name in backing.get(key, ()):
            paper = papers_by_id.get(name)
            if paper is not None and name != record.local_id and _speaks(paper):
                labels |= paper.labels
        if type_ != "Patient":
            one["meta"] = _stricter(one["meta"], labels)
        made.append((key, one))
    there = {
        references.key_of(one.local_id): one
        for one in records.by_keys(session, vault, [key for key, _ in made])
    }
    return [(key, _stamped(one, there.get(key), stamp)) for key, one in made]


def _stricter(meta: Mapping[str, Any], labels: Label) -> dict[str, Any]:
    """Return `meta` with the codes of these labels in `security`."""
    security = list(meta.get("security", ()))
    codes = {one["code"] for one in security}
    for label in labels & ~Label.PRIVATE:
        system = f"{_HL7}{'Confidentiality' if label in Label.R | Label.V else 'ActCode'}"
        if label.name not in codes:
            security.append({"system": system, "code": label.name})
    return {**({"security": security} if security else {}), "tag": meta["tag"]}


def _stamped(made: dict[str, Any], there: Record | None, stamp: str) -> bytes:
    """Write an entry; with a version of its own where it is kept with other labels.

    Going back to labels that it had before would else be taken for an old version out of turn.
    """
    if there is not None:
        meta = mapping(document.parse(there.body).get("meta"))
        same = meta.get("security") == made["meta"].get("security")
        version = string(meta.get("versionId")) if same else stamp
        made["meta"] = {**made["meta"], **({"versionId": version} if version else {})}
    return document.dumps(made)


def _pointing(made: dict[str, Any], record: Record) -> dict[str, Any]:
    """Return Provenance that names the record by the id it leaves with; all else as it is."""
    for one in made["entity"] if made["resourceType"] == "Provenance" else ():
        named = {"system": RECORD, "value": f"{record.type}/{record.local_id}"}
        one["what"] = {"identifier": named, "display": one["what"].get("display", "")}
    return made


# ------------------------------------------------------------------------------ standing by it


class _Told(NamedTuple):
    """One Provenance that was made here: of which document, what was made of it."""

    key: int
    paper: str  # the local id of the document
    targets: tuple[int, ...]  # keys of entries
    holds: bool  # whether the document still says so


def _told(vault: Vault, session: Session, place: int) -> Iterator[_Told]:
    """Yield what the Provenance of a place says that was made here."""
    for one in records.select(
        session, vault, Selection(types=("Provenance",), connection_id=place)
    ):
        key = references.key_of(one.local_id)
        for entity in mappings(one.document.get("entity")) if says_transcribed(one) else ():
            paper = _paper(vault, place, mapping(entity.get("what")))
            if key is None or not paper:
                continue
            listed = (string(each.get("reference")) for each in mappings(one.document["target"]))
            pairs = (each.partition("/") for each in listed)
            targets = (references.local_key(vault.id_key, place, a, b) for a, _, b in pairs)
            yield _Told(key, paper, tuple(targets), not one.withdrawn)


def _paper(vault: Vault, place: int, what: Mapping[str, Any]) -> str:
    """Return the local id of the document that a Provenance names: of this vault or its file."""
    named = mapping(what.get("identifier"))
    if string(named.get("system")) == RECORD:
        return string(named.get("value")).rpartition("/")[2]
    type_, _, remote_id = string(what.get("reference")).partition("/")
    return records.local_id(vault, place, type_, remote_id) if type_ == _DOCUMENT else ""


def _beside(session: Session) -> list[int]:
    """Return the places of what was transcribed: files, and those that stand beside others."""
    found = connections.origins(session).items()
    return [place for place, origin in found if origin.transcribes]


def _backing(vault: Vault, session: Session, place: int) -> Mapping[int, set[str]]:
    """Return the documents (local ids) that say each entry (key) of a place now."""
    found: dict[int, set[str]] = defaultdict(set)
    for one in _told(vault, session, place):
        for key in one.targets:
            found[key] |= {one.paper} if one.holds else set()
    return found


def _papers(vault: Vault, session: Session, names: Iterable[str]) -> Mapping[str, Record]:
    keys = (key for name in names if (key := references.key_of(name)) is not None)
    return {one.local_id: one for one in records.by_keys(session, vault, keys)}


def _weigh(vault: Vault) -> None:
    """Mark as withdrawn what only documents say that were taken back or replaced; lift it again.

    A document that was erased with its hospital was not taken back: what it said stays.
    """
    with vault.read() as session:
        sql = (
            "SELECT type, count(*), sum(version), sum(pk * (flags & 1)),"
            " (SELECT max(id) FROM paper) FROM record WHERE type IN (?, ?) GROUP BY type"
            " ORDER BY type"
        )
        numbers = [KINDS[one].number for one in (_DOCUMENT, "Provenance")]
        state = str(rows(session, sql, tuple(numbers)))
        if vault.drawn.get(_WEIGHED) == state:
            return
        gone: set[int] = set()
        back: set[int] = set()
        replaced = _replaced(vault, session)
        origins = connections.origins(session)
        for place in _beside(session):
            backing = _backing(vault, session, place)
            found = _papers(vault, session, {one for some in backing.values() for one in some})
            silent = {
                name for name, paper in found.items() if name in replaced or not _speaks(paper)
            }
            ours = origins[place].name.startswith(BESIDE)  # in a file it may be marked for more
            for one in records.by_keys(session, vault, backing):
                key = references.key_of(one.local_id)
                if key is None or bool(backing[key] - silent) != one.withdrawn:
                    continue
                if not one.withdrawn:
                    gone.add(key)
                elif ours:
                    back.add(key)
    if gone or back:
        with vault.write(Priority.BULK) as session:
            keep.withdraw(session, gone)
            keep.withdraw(session, back, on=False)
    vault.drawn[_WEIGHED] = state


# ------------------------------------------------------------------------------ replaced by another


def _edition(record: Record, reading: Reading, *, is_clinical: bool) -> str:
    """Return as JSON which version of which document a file is; "" where it makes no difference."""
    told = mappings(record.document.get("relatesTo"))
    others = (
        references.target(string(mapping(one.get("target")).get("reference")))
        for one in told
        if one.get("code") == "replaces"
    )
    edition = reading.edition
    here = f"{record.connection_id}/{record.type}"
    replaces = [*edition.replaces, *(f"{here}/{one.id}" for one in others if one is not None)]
    if not is_clinical and not replaces:
        return ""
    names = [f"{here}/{record.remote_id}", edition.name]
    return json.dumps([names, edition.series, edition.number, replaces])


class _Edition(NamedTuple):
    """One document that speaks, as its file and its record name it."""

    local_id: str
    house: int  # of whom it is; all files that were brought are of one
    names: frozenset[str]
    series: str
    number: int
    replaces: frozenset[str]

    def follows(self, other: "_Edition") -> bool:
        """Say whether this is a later version of another document of the same house.

        Two that each replace the other contradict themselves: both go on speaking.
        """
        if self.house != other.house or self.local_id == other.local_id:
            return False
        if self.replaces & other.names and not other.replaces & self.names:
            return True
        return bool(self.series) and self.series == other.series and self.number > other.number


def _replaced(vault: Vault, session: Session) -> set[str]:
    """Return the documents (local ids) of which a later version is here, as both say.

    Only of what came from the same place: a stranger's file cannot silence a hospital's.
    """
    told = dict(papers.editions(session))
    origins = connections.origins(session)
    found: list[_Edition] = []
    for one in _records(vault, session, list(told)):
        if not _speaks(one):
            continue
        names, series, number, replaces = json.loads(told[one.pk])
        origin = origins.get(one.connection_id)
        house = 0 if origin is not None and origin.kind == UPLOAD else one.connection_id
        known = frozenset(filter(None, names))
        found.append(_Edition(one.local_id, house, known, series, number, frozenset(replaces)))
    named: dict[str, list[_Edition]] = defaultdict(list)
    for one_of in found:
        for name in {*one_of.names, one_of.series} - {""}:
            named[name].append(one_of)
    return {
        earlier.local_id
        for later in found
        for name in {*later.replaces, later.series} - {""}
        for earlier in named[name]
        if later.follows(earlier)
    }


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
