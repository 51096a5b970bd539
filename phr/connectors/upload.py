"""Files a person brings: FHIR Bundle, NDJSON, single resources, or a zip of these.

Read from disk in slices, counted before unpacking; file names are only ever shown, never opened.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from phr.connectors.base import Cursor, Fetched, Outcome
from phr.errors import InvalidInput
from phr.fhir.document import Item
from phr.fhir.slicing import slices

PAGE: Final = 200  # items
PAGE_BYTES: Final = 4 * 1024 * 1024
MOST_MEMBERS: Final = 20_000
LARGEST_MEMBER: Final = 2 * 1024**3
LARGEST_ZIP: Final = 4 * 1024**3  # unpacked
MOST_RATIO: Final = 200  # unpacked to packed, beyond the first megabyte
MANIFEST: Final = "manifest.json"
_ZIP: Final = b"PK\x03\x04"
_MANIFEST_BYTES: Final = 16 * 1024 * 1024
_READABLE: Final = (".json", ".ndjson", ".jsonl", ".phr", ".txt", "")


@dataclass(frozen=True, slots=True)
class Brought:
    """A file of an own export that belongs to a record ("DocumentReference/1f…")."""

    record: str
    url: str
    media_type: str
    content: bytes = field(repr=False)


def shown(name: str) -> str:
    """Return a file name fit to be shown: its last part, printable, at most 80 characters."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(letter if letter.isprintable() else "_" for letter in last)[:80] or "file"


class Upload:
    """Reads files that lie on disk. One chain per file; what is inside decides what it is."""

    def __init__(self, files: Sequence[tuple[str, Path]]) -> None:
        """Take (name as the person knows it, path) of each file."""
        self._files = files

    def fetch(self, cursor: Cursor | None = None) -> Iterator[Fetched]:
        """Yield the resources of all files as pages; a file that cannot be read says why."""
        del cursor  # a file is always read whole: what is there already changes nothing
        for name, path in self._files:
            with path.open("rb") as file:
                if file.read(4) == _ZIP:
                    yield from _zip(path, shown(name))
                else:
                    file.seek(0)
                    yield from _pages(file, shown(name), "")

    def attachments(self) -> Iterator[Brought]:
        """Yield the attachments of own exports among the files (manifest.json and attachments/)."""
        for _, path in self._files:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    yield from _brought(archive)


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


def _page(items: Iterator[Item]) -> Iterator[Item]:
    size = 0
    for item in islice(items, PAGE):
        size += len(item.body)
        yield item
        if size > PAGE_BYTES:
            return


# ------------------------------------------------------------------------------------ zips


def _zip(path: Path, name: str) -> Iterator[Fetched]:
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive)
            for member in archive.infolist():
                if not member.is_dir() and not _of_export(member.filename):
                    yield from _member(archive, member, name)
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
        raise InvalidInput("This zip holds more than 20,000 files.")
    if sum(member.file_size for member in members) > LARGEST_ZIP:
        raise InvalidInput("This zip would unpack to more than 4 GB.")
    for member in members:
        allowed = 1024 * 1024 + MOST_RATIO * member.compress_size
        if member.file_size > min(allowed, LARGEST_MEMBER):
            raise InvalidInput("This zip unpacks to far more than it is. It was not opened.")


def _of_export(name: str) -> bool:
    return name == MANIFEST or name.startswith(("attachments/", "provenance/"))


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Iterator[Fetched]:
    label = shown(member.filename)
    chain = f"{name}: {label}"
    ending = Path(label).suffix.lower()
    if member.flag_bits & 1:
        reason = "This file is protected by a password."
    elif ending == ".zip":
        reason = "A zip inside a zip is not opened."
    elif ending not in _READABLE:
        reason = "This is not FHIR JSON."
    else:
        with archive.open(member) as file:
            if file.read(4) == _ZIP:
                reason = "A zip inside a zip is not opened."
            else:
                file.seek(0)
                yield from _pages(file, chain, label)  # type: ignore[arg-type]  # ZipExtFile reads bytes
                return
    yield Fetched(chain, "", Outcome.REFUSED, sentence=reason)


def _brought(archive: zipfile.ZipFile) -> Iterator[Brought]:
    refuse_bomb(archive)
    names = set(archive.namelist())
    if MANIFEST not in names or archive.getinfo(MANIFEST).file_size > _MANIFEST_BYTES:
        return
    try:
        listed: Any = json.loads(archive.read(MANIFEST)).get("attachments")
    except (ValueError, AttributeError):
        return
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, dict) and all(isinstance(value, str) for value in each.values()):
            member = f"attachments/{each.get('hash', '')}"
            if member in names:
                content = archive.read(member)
                media_type = each.get("media_type", "")
                yield Brought(each.get("record", ""), each.get("url", ""), media_type, content)
