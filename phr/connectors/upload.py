"""Files a person brings: FHIR Bundle, NDJSON, single resources, C-CDA, or a zip of these.

Read from disk in slices, counted before unpacking; file names are only ever shown, never opened.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from phr.connectors.base import Cursor, Fetched, Outcome
from phr.errors import InvalidInput
from phr.fhir import document
from phr.fhir.document import Item
from phr.fhir.intake import peek
from phr.fhir.slicing import slices
from phr.papers import apart
from phr.papers.kinds import CDA, kind_of
from phr.papers.reading import BROKEN, name_of

PAGE: Final = 200  # items
PAGE_BYTES: Final = 4 * 1024 * 1024
MOST_MEMBERS: Final = 20_000
MOST_DIRECTORY: Final = 8 * 1024 * 1024  # bytes of a zip's list of its files
MOST_ATTACHMENT: Final = 25 * 1024 * 1024  # more is not kept (phr.keep)
LARGEST_MEMBER: Final = 2 * 1024**3
LARGEST_ZIP: Final = 4 * 1024**3  # unpacked
MOST_RATIO: Final = 200  # unpacked to packed, beyond the first megabyte
MANIFEST: Final = "manifest.json"
VERSIONS: Final = "versions/"
DECISIONS: Final = "homeport/decisions.ndjson"
_DECISION_BYTES: Final = 4096
_BREAKS: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_ZIP: Final = b"PK\x03\x04"
_LISTED: Final = b"PK\x01\x02"  # begins each line of a zip's directory
_MANIFEST_BYTES: Final = 16 * 1024 * 1024
TOO_MANY: Final = "This zip holds more than 20,000 files."
NEITHER: Final = "This is neither FHIR JSON nor a clinical document (C-CDA)."
_XML: Final = ".xml"
_HEAD_BYTES: Final = 64 * 1024  # tells what a file is
_READABLE: Final = (".json", ".ndjson", ".jsonl", ".phr", ".txt", "")


@dataclass(frozen=True, slots=True)
class Brought:
    """A file of an own export that belongs to a record ("DocumentReference/1f…").

    Of one that is larger than what is kept, `content` is the beginning: it is too large too.
    """

    record: str
    url: str
    media_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier version of a record of an own export, and when it was received at the time."""

    record: str
    received: datetime
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Marks:
    """Which records of an own export ("Type/id") are private, and which no longer offered."""

    private: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()


def shown(name: str) -> str:
    """Return a file name fit to be shown: its last part, printable, at most 80 characters."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "_" for letter in last)[:80] or "file"


_ByDocument = Callable[[IO[bytes], str], Iterator[Fetched]]  # how a clinical document is read


class Upload:
    """Reads files that lie on disk. One chain per file; what is inside decides what it is."""

    def __init__(self, files: Sequence[tuple[str, Path]]) -> None:
        """Take (name as the person knows it, path) of each file."""
        self._files = files

    def fetch(self, cursor: Cursor | None = None) -> Iterator[Fetched]:
        """Yield the resources of all files as pages; a file that cannot be read says why."""
        del cursor  # a file is always read whole: what is there already changes nothing
        yield from self._read(_clinical)

    def people(self) -> Iterator[tuple[str, Item]]:
        """Yield (chain, item) of every Patient in these files, which may stand at their ends.

        To know whom a file is about before anything of it is kept. Not of clinical documents:
        they say it on the first page that `fetch` gives.
        """
        for fetched in self._read(_unread):
            for item in fetched.items:
                if _is_patient(item.body):
                    yield fetched.chain, item

    def _read(self, document_by: _ByDocument) -> Iterator[Fetched]:
        for name, path in self._files:
            with path.open("rb") as file:
                head = _head(file)
                if head.startswith(_ZIP):
                    yield from _zip(file, shown(name), document_by)
                elif kind_of(head) is CDA:
                    yield from document_by(file, shown(name))
                else:
                    yield from _pages(file, shown(name), "")

    def attachments(self) -> Iterator[Brought]:
        """Yield clinical documents as they came, and the attachments of own exports."""
        for archive in self._exports():
            yield from _brought(archive)
        for _, path in self._files:
            with path.open("rb") as file:
                head = _head(file)
                if head.startswith(_ZIP):
                    yield from _documents(file)
                elif kind_of(head) is CDA:
                    yield _as_brought(file.read(MOST_ATTACHMENT + 1))

    def versions(self) -> Iterator[Earlier]:
        """Yield the earlier versions in own exports (versions/), oldest first of each record."""
        for archive in self._exports():
            for member in archive.infolist():
                if member.filename.startswith(VERSIONS):
                    yield from _earlier(archive, member)

    def marks(self) -> Marks:
        """Return the marks of own exports among the files (manifest.json)."""
        private, withdrawn = list[str](), list[str]()
        for archive in self._exports():
            manifest = _manifest(archive)
            private += _texts(manifest.get("private"))
            withdrawn += _texts(manifest.get("withdrawn"))
        return Marks(tuple(private), tuple(withdrawn))

    def decisions(self) -> Iterator[dict[str, Any]]:
        """Yield what the patient of own exports decided about which records are the same thing."""
        for archive in self._exports():
            if DECISIONS in archive.namelist():
                with archive.open(DECISIONS) as file:
                    for line in islice(file, MOST_MEMBERS):
                        yield from _decision(line)

    def _exports(self) -> Iterator[zipfile.ZipFile]:
        """Open each own export among the files; what is broken in one was said by `fetch`."""
        for _, path in self._files:
            with path.open("rb") as file, suppress(InvalidInput, *_BREAKS):
                if file.read(4) == _ZIP:
                    with _opened(file) as archive:
                        if MANIFEST in archive.namelist():
                            yield archive


def _pages(file: BinaryIO, chain: str, name: str) -> Iterator[Fetched]:
    """Read one file; a break in it ends its chain as broken, with the reason."""
    items: Iterator[Item] = slices(file, name)
    while True:
        sentence = None
        try:
            page = list(_page(items))
        except InvalidInput as problem:
            page, sentence = [], problem.sentence
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError):
            page, sentence = [], "This file is damaged."
        if not page:
            outcome = Outcome.BROKEN if sentence else Outcome.DONE
            yield Fetched(chain, "", outcome, sentence=sentence)
            return
        yield Fetched(chain, "", Outcome.MORE, page, pages=1)


def _is_patient(body: bytes) -> bool:
    with suppress(InvalidInput):
        return b'"Patient"' in body and peek(body)[0] == "Patient"
    return False


def _page(items: Iterator[Item]) -> Iterator[Item]:
    size = 0
    for item in islice(items, PAGE):
        size += len(item.body)
        yield item
        if size > PAGE_BYTES:
            return


# ------------------------------------------------------------------------------------ documents


def _head(file: IO[bytes]) -> bytes:
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    return head


def _clinical(file: IO[bytes], chain: str) -> Iterator[Fetched]:
    """Read a C-CDA document: itself, and its coded entries transcribed into resources."""
    content = file.read(MOST_ATTACHMENT + 1)
    if len(content) > MOST_ATTACHMENT:
        sentence = "This document is larger than 25 MB."
        yield Fetched(chain, "", Outcome.BROKEN, sentence=sentence)
        return
    made = apart.entries(content)
    if made is None:
        yield Fetched(chain, "", Outcome.BROKEN, sentence=BROKEN)
        return
    items = [Item(body, f"entry {place}") for place, body in enumerate(made)]
    for begin in range(0, len(items), PAGE):
        yield Fetched(chain, "", Outcome.MORE, items[begin : begin + PAGE], pages=1)
    yield Fetched(chain, "", Outcome.DONE)


def _unread(file: IO[bytes], chain: str) -> Iterator[Fetched]:
    """Pass over a clinical document."""
    del file, chain
    yield from ()


def _as_brought(content: bytes) -> Brought:
    """Return a document as the file of its own record; nothing of it was changed."""
    name = name_of(content)
    return Brought(f"DocumentReference/{name}", f"Binary/{name}", CDA.media_type, content)


def _documents(file: BinaryIO) -> Iterator[Brought]:
    """Yield the clinical documents in a zip; what is broken in it was said by `fetch`."""
    with suppress(InvalidInput, ValueError, OSError, *_BREAKS), _opened(file) as archive:
        for member in archive.infolist():
            wanted = Path(member.filename).suffix.lower() == _XML and not member.flag_bits & 1
            if wanted and not _of_export(member.filename):
                with archive.open(member) as opened:
                    if kind_of(opened.read(_HEAD_BYTES)) is CDA:
                        opened.seek(0)
                        yield _as_brought(opened.read(MOST_ATTACHMENT + 1))


# ------------------------------------------------------------------------------------ zips


class _Counted:
    """A zip file whose directory is counted before it becomes objects (`zipfile` reads it whole).

    Each line of a directory begins with the same four bytes, so there are no more than these.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read as a file does. Raises InvalidInput for a directory that is none of ours."""
        size = size if size >= 0 else self._size - self._file.tell()
        if size > MOST_DIRECTORY:
            raise InvalidInput("The list of files in this zip is larger than 8 MB.")
        data = self._file.read(size)
        if data.count(_LISTED) > MOST_MEMBERS:
            raise InvalidInput(TOO_MANY)
        return data


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip that lies in `file`. Raises InvalidInput for a bomb, BadZipFile for a broken one.

    Nothing is unpacked, and its directory was counted before.
    """
    archive = zipfile.ZipFile(cast("IO[bytes]", _Counted(file)))
    refuse_bomb(archive)
    return archive


def _zip(file: BinaryIO, name: str, document_by: _ByDocument) -> Iterator[Fetched]:
    try:
        with _opened(file) as archive:
            for member in archive.infolist():
                if not member.is_dir() and not _of_export(member.filename):
                    yield from _member(archive, member, name, document_by)
    except InvalidInput as problem:
        yield Fetched(name, "", Outcome.BROKEN, sentence=problem.sentence)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        yield Fetched(name, "", Outcome.BROKEN, sentence="This zip file is damaged.")


def refuse_bomb(archive: zipfile.ZipFile) -> None:
    """Raise InvalidInput for a zip that is not what one fills with medical records.

    Counted from the directory before anything is unpacked; reading then stops at these sizes.
    """
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise InvalidInput(TOO_MANY)
    if sum(member.file_size for member in members) > LARGEST_ZIP:
        raise InvalidInput("This zip would unpack to more than 4 GB.")
    for member in members:
        allowed = 1024 * 1024 + MOST_RATIO * member.compress_size
        if member.file_size > min(allowed, LARGEST_MEMBER):
            raise InvalidInput("This zip unpacks to far more than it is. It was not opened.")


def _of_export(name: str) -> bool:
    beside = ("attachments/", "provenance/", VERSIONS, "homeport/")
    return name == MANIFEST or name.startswith(beside)


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, document_by: _ByDocument
) -> Iterator[Fetched]:
    label = shown(member.filename)
    chain = f"{name}: {label}"
    ending = Path(label).suffix.lower()
    if member.flag_bits & 1:
        reason = "This file is protected by a password."
    elif ending == ".zip":
        reason = "A zip inside a zip is not opened."
    elif ending not in (*_READABLE, _XML):
        reason = NEITHER
    else:
        with archive.open(member) as file:
            head = _head(file)
            if head.startswith(_ZIP):
                reason = "A zip inside a zip is not opened."
            elif kind_of(head) is CDA:
                yield from document_by(file, chain)
                return
            elif ending == _XML:
                reason = NEITHER
            else:
                yield from _pages(file, chain, label)  # type: ignore[arg-type]  # ZipExtFile reads bytes
                return
    yield Fetched(chain, "", Outcome.REFUSED, sentence=reason)


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the manifest of an own export; empty when there is none that can be read."""
    if archive.getinfo(MANIFEST).file_size > _MANIFEST_BYTES:
        return {}
    try:
        read = json.loads(archive.read(MANIFEST))
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _texts(listed: Any) -> list[str]:
    return [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []


def _earlier(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[Earlier]:
    """Read one file of versions: a line holds record, received and the bytes as `resource`."""
    with archive.open(member) as file, suppress(InvalidInput):
        for item in slices(file, ""):  # type: ignore[arg-type]  # ZipExtFile reads bytes
            with suppress(InvalidInput, ValueError, KeyError, TypeError, AttributeError):
                parts = document.fields(item.body)
                record = json.loads(parts["record"].raw)
                received = datetime.fromisoformat(json.loads(parts["received"].raw))
                yield Earlier(str(record), received.astimezone(UTC), parts["resource"].raw)


def _decision(line: bytes) -> Iterator[dict[str, Any]]:
    with suppress(ValueError, RecursionError):
        read = json.loads(line[:_DECISION_BYTES])
        if isinstance(read, dict):
            yield read


def _brought(archive: zipfile.ZipFile) -> Iterator[Brought]:
    names = set(archive.namelist())
    listed = _manifest(archive).get("attachments")
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and all(isinstance(value, str) for value in each.values()):
            member = f"attachments/{each.get('hash', '')}"
            if member in names:
                with archive.open(member) as file:
                    content = file.read(MOST_ATTACHMENT + 1)
                media_type = each.get("media_type", "")
                yield Brought(each.get("record", ""), each.get("url", ""), media_type, content)
