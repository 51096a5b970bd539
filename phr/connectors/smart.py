"""SMART on FHIR: which kinds of records to ask a hospital for, in which order, and how narrowly.

How a question is asked (pages, waiting, refusals) is `rest`; vendors' habits come as data.
"""

import base64
import binascii
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from phr import clock, net
from phr.connectors.base import Attachment, Cursor, Document, Fetched, Outcome, Remote
from phr.connectors.rest import Chain, Conversation, Job, in_parallel, refuse, weight
from phr.errors import (
    AddressRefused,
    AnswerRefused,
    ConnectorError,
    InvalidInput,
    NeedsReauthorisation,
    NetError,
    NotOffered,
    RemoteBroken,
    TryLater,
    Unreachable,
    WrongPatient,
)
from phr.fhir import document, kinds
from phr.fhir.kinds import Kind
from phr.fhir.record import Item
from phr.http import LARGE_FROM, Limits
from phr.told import Fault, Told

COUNT: Final = 100
OVERLAP: Final = timedelta(minutes=10)  # servers index late; records seen twice cost nothing
ROUNDS: Final = 3  # a role names an organisation, which names a place
BATCH: Final = 20  # single reads handed on together
GIVE_UP: Final = 3  # refusals in a row after which a kind is not asked for any more
SUPPORTING: Final = (  # not asked by patient: read one by one where a record names them
    "Practitioner",
    "PractitionerRole",
    "Organization",
    "Location",
    "Medication",
    "Endpoint",
)
DOCUMENT: Final = Limits(size=32 << 20, first_byte=60.0, total=300.0)
LONG: Final = (  # most records, as a rule: asked first, so that no long chain is left for the end
    "Observation",
    "ExplanationOfBenefit",
    "DiagnosticReport",
    "Encounter",
    "DocumentReference",
    "Condition",
    "Procedure",
    "MedicationRequest",
    "Immunization",
)
EVERYTHING: Final = "Patient/$everything"
AT_ONCE: Final = Told(
    "Asking for everything at once did not work here; asked kind by kind instead.",
    Fault.NOT_AT_ONCE,
)
BY_CATEGORY: Final = Told("Asked by category, as this hospital wants it.", Fault.BY_CATEGORY)


class Smart:
    """One pull's connector for a SMART on FHIR endpoint."""

    def __init__(self, remote: Remote) -> None:
        """Take the connection's plain values."""
        self.remote = remote
        self.talk = Conversation(remote)
        self._base = re.escape(self.talk.base.url.rstrip("/") + "/").replace("/", r"\\?/")
        types = "|".join(SUPPORTING)
        self._reference = re.compile(
            rf'"reference"\s*:\s*"(?:{self._base})?({types})\\?/([A-Za-z0-9.\-]{{1,64}})'
            r'(?:\\?/_history\\?/[A-Za-z0-9.\-]{1,64})?"'.encode()
        )
        self._seen: set[str] = set()
        self._wanted: set[str] = set()

    def fetch(self, cursor: Cursor) -> Iterator[Fetched | None]:
        """Yield the Patient, then every kind in parallel, then what they refer to, once each."""
        for fetched in self._fetch(cursor):
            if fetched is not None:
                self._note(fetched)
            yield fetched
            del fetched  # up to 30 MB, here and below: not held while the next page is asked for

    def _fetch(self, cursor: Cursor) -> Iterator[Fetched | None]:
        yield from self._patient(cursor)
        done = EVERYTHING in cursor.finished
        if cursor.full and self._has_everything and not done:
            done = yield from self._everything(cursor)
        if not done:
            yield from in_parallel(self._jobs(cursor), self._workers, self.talk.pace, weight)
        yield from self._supporting(cursor)

    # ---------------------------------------------------------------------------- the person

    def _patient(self, cursor: Cursor) -> Iterator[Fetched]:
        """Read the pinned Patient: proof that token and person are right, before all else."""
        if "Patient" in cursor.finished:
            return
        for fetched in self.talk.walk(Chain("Patient", "Patient", self.talk.patient_url)):
            for item in fetched.items:
                if _name_of(item) != f"Patient/{self.remote.patient}":
                    raise WrongPatient
            yield replace(fetched, total=None)

    # ------------------------------------------------------------------------- every kind

    @property
    def _workers(self) -> int:
        asked = self.remote.quirks.get("chains")
        return asked if isinstance(asked, int) and 0 < asked <= 8 else self.remote.workers

    @property
    def _has_everything(self) -> bool:
        told = self.remote.quirks.get("everything")
        return told if isinstance(told, bool) else self.remote.everything

    def _everything(self, cursor: Cursor) -> Generator[Fetched, None, bool]:
        """Ask for the whole compartment at once; return whether that gave all there is."""
        resumed = cursor.resume.get(EVERYTHING)
        url = resumed or f"{self.talk.patient_url}/$everything?_count={self._count}"
        for fetched in self.talk.walk(Chain(EVERYTHING, "*", url, resumed is not None)):
            if fetched.outcome not in {Outcome.MORE, Outcome.DONE}:
                yield replace(fetched, outcome=Outcome.REFUSED, next_url=None, sentence=AT_ONCE)
                return False
            yield fetched
            del fetched
        return True

    def _jobs(self, cursor: Cursor) -> Sequence[Job]:
        inner = in_order(kinds.asked(self.remote.release))
        return [lambda kind=kind: self._kind(kind, cursor) for kind in inner]  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def _kind(self, kind: Kind, cursor: Cursor) -> Iterator[Fetched]:
        """Ask plainly; only where that is refused, ask by the category chains of US Core."""
        if kind.type in cursor.finished:
            return
        refused: Fetched | None = None
        for fetched in self._search(kind, None, cursor):
            if fetched.outcome is Outcome.REFUSED:
                refused = fetched
            else:
                yield fetched
            del fetched
        if refused is not None:
            yield from self._narrower(kind, cursor, refused)

    def _narrower(self, kind: Kind, cursor: Cursor, refused: Fetched) -> Iterator[Fetched]:
        """Ask by category; the kind as a whole is refused only if every category is."""
        lines: list[Fetched] = []
        answered = False
        for search in kind.searches:
            if f"{kind.type}?{search}" in cursor.finished:
                answered = True
                continue
            for fetched in self._search(kind, search, cursor):
                if fetched.outcome is Outcome.REFUSED:
                    lines.append(fetched)
                else:
                    answered = True
                    yield fetched
                del fetched
        if answered:
            yield from lines
            yield replace(refused, outcome=Outcome.DONE, sentence=BY_CATEGORY)
        else:
            yield refused

    def _search(self, kind: Kind, search: str | None, cursor: Cursor) -> Iterator[Fetched]:
        """Walk one search. Where asking for changes only is refused, everything is asked for."""
        name = f"{kind.type}?{search}" if search else kind.type
        if resumed := cursor.resume.get(name):
            yield from self.talk.walk(Chain(name, kind.type, resumed, resumed=True))
            return
        since = None if cursor.full else cursor.since.get(name, cursor.since.get(EVERYTHING))
        if since is not None:
            for fetched in self.talk.walk(self._chain(kind, name, search, since)):
                if fetched.outcome is Outcome.REFUSED and fetched.pages == 0:
                    break
                yield fetched
                del fetched
            else:
                return
        yield from self.talk.walk(self._chain(kind, name, search, None))

    def _chain(self, kind: Kind, name: str, search: str | None, since: datetime | None) -> Chain:
        query = [f"{kind.patient_param}={quote(self.remote.patient)}"]
        if search:
            query.append(quote(search, safe="=:/,"))
        query.append(f"_count={self._count}")
        if since is not None:
            moment = clock.instant(since - OVERLAP)
            query.append(f"_lastUpdated=ge{moment}")
        return Chain(name, kind.type, self.talk.address(f"{kind.type}?{'&'.join(query)}"))

    @property
    def _count(self) -> int:
        asked = self.remote.quirks.get("count")
        return asked if isinstance(asked, int) and 0 < asked <= 1000 else COUNT

    # ---------------------------------------------------------------- what is referred to

    def _note(self, fetched: Fetched) -> None:
        """Remember what a page brought and which supporting records it names."""
        for item in fetched.items:
            self._wanted.update(
                f"{kind.decode()}/{name.decode()}"
                for kind, name in self._reference.findall(item.body)
            )
            if fetched.type in SUPPORTING or fetched.type == "*":
                self._seen.add(_name_of(item))

    def _supporting(self, cursor: Cursor) -> Iterator[Fetched | None]:
        asked = self._seen | cursor.known
        for _ in range(ROUNDS):
            wanted = sorted(self._wanted - asked - self._seen)
            if not wanted:
                return
            asked |= set(wanted)
            by_type = [
                [name for name in wanted if name.startswith(f"{kind}/")] for kind in SUPPORTING
            ]
            jobs: list[Job] = [
                lambda names=names: self._reads(names)  # type: ignore[misc]  # as above
                for names in by_type
                if names
            ]
            yield from in_parallel(jobs, self._workers, self.talk.pace, weight)

    def _reads(self, names: Sequence[str]) -> Iterator[Fetched]:
        """Read single records; after a few refusals in a row the rest is not asked for."""
        kind = names[0].partition("/")[0]
        batch: list[Item] = []
        refusal, in_a_row, missing, said = None, 0, 0, Outcome.DONE
        for number, name in enumerate(names):
            try:
                batch.append(self._read(name))
                in_a_row = 0
            except (NotOffered, RemoteBroken, AnswerRefused, Unreachable) as problem:
                refusal, in_a_row, missing = problem.told, in_a_row + 1, missing + 1
                said = Outcome.REFUSED if isinstance(problem, NotOffered) else Outcome.BROKEN
            if in_a_row == GIVE_UP:
                missing += len(names) - number - 1
                break
            if len(batch) == BATCH or (batch and len(batch[-1].body) > LARGE_FROM):
                yield Fetched(_named(kind), kind, Outcome.MORE, tuple(batch), pages=1)
                batch.clear()
        outcome = said if missing == len(names) else Outcome.DONE
        yield Fetched(
            _named(kind),
            kind,
            outcome,
            tuple(batch),
            total=len(names),
            sentence=refusal,
            pages=1,
            missing=missing,
        )

    def _read(self, name: str) -> Item:
        answer = self.talk.ask(self.talk.address(name))
        refuse(answer)
        try:
            page = document.slice_bundle(answer.body)
        except InvalidInput as problem:
            raise RemoteBroken(problem.told) from problem
        if len(page.entries) != 1 or _name_of(page.entries[0]) != name:
            sentence = "The hospital sent another record than the one asked for."
            raise RemoteBroken(Told(sentence, Fault.OTHER_RECORD))
        return Item(page.entries[0].body, name, page.entries[0].url)

    # ------------------------------------------------------------------------- documents

    def attachments(self, urls: Sequence[str]) -> Iterator[Document | None]:
        """Fetch documents on as many threads as there are chains; a failure comes as its error."""
        jobs = [lambda url=url: self._document(url) for url in urls]
        return in_parallel(jobs, self._workers, self.talk.pace, _weight)

    def _document(self, url: str) -> Iterator[Document]:
        try:
            yield url, self.attachment(url)
        except (NeedsReauthorisation, TryLater):
            raise
        except (ConnectorError, NetError) as problem:
            yield url, problem

    def attachment(self, url: str) -> Attachment:
        """Fetch one document inside the connection; a Binary resource is unwrapped (R4 §2.37).

        Raises NotOffered, RemoteBroken or NetError with the reason.
        """
        answer = self.talk.get(self._place_of(url).url, accept="*/*", limits=DOCUMENT)
        if answer.status != HTTPStatus.OK or not answer.body:
            refuse(answer)
        if "json" in answer.media_type and b'"Binary"' in answer.body:
            return _unwrapped(answer.body)
        return Attachment(answer.media_type or "application/octet-stream", answer.body)

    def _place_of(self, url: str) -> net.Place:
        """Read a document's address, which is relative to the base (R4 §2.3.0.1)."""
        place = net.join(net.parse(self.talk.base.url.rstrip("/") + "/"), url)
        if not place.within(self.talk.base):
            sentence = (
                f"This document lies at {place.authority}, outside of this connection. It was not "
                "fetched from there."
            )
            raise AddressRefused(Told(sentence, Fault.OUTSIDE))
        return place


def in_order(asked: Iterable[Kind]) -> list[Kind]:
    """Return kinds in the order in which they are asked for; the Patient came before."""
    rank = {type_: place for place, type_ in enumerate(LONG)}
    others = (kind for kind in asked if kind.type != "Patient")
    return sorted(others, key=lambda kind: rank.get(kind.type, len(rank)))


def _weight(document: Document) -> int:
    found = document[1]
    return len(found.body) if isinstance(found, Attachment) else 0


def _named(kind: str) -> str:
    return f"{kind} (referred to)"


def _name_of(item: Item) -> str:
    """Return "Type/id" of a received resource; "" when it cannot be read."""
    try:
        found = document.fields(document.text_bytes(item.body))
        return f"{_plain(found, 'resourceType')}/{_plain(found, 'id')}"
    except (InvalidInput, KeyError):
        return ""


def _plain(found: Any, name: str) -> Any:
    return document.strict(found[name].raw)


def _unwrapped(body: bytes) -> Attachment:
    try:
        binary = document.loads(body)
        data = base64.b64decode(str(binary.get("data") or binary["content"]))  # DSTU2: content
    except (InvalidInput, KeyError, binascii.Error, ValueError) as problem:
        sentence = "The hospital sent a document that could not be unpacked."
        raise RemoteBroken(Told(sentence, Fault.UNREADABLE)) from problem
    return Attachment(str(binary.get("contentType") or "application/octet-stream"), data)
