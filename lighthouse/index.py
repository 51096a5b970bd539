"""The search index as one immutable SQLite file: what an appliance and each reader searches.

Opening it reads the vocabulary and nothing else. How hits are found is `lighthouse.search`.
"""

import json
import os
import sqlite3
import sys
import threading
import zlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, lru_cache
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote

import msgspec

from lighthouse import lines, repair
from lighthouse import vendors as rules
from lighthouse.catalogue import Endpoint, Organization
from lighthouse.lines import Content
from lighthouse.search import Hit, Search

APPLICATION = 0x4C484F55  # "LHOU", in the file's header
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE organization (number INTEGER PRIMARY KEY, id TEXT, body BLOB, doors BLOB);
CREATE TABLE endpoint (id TEXT PRIMARY KEY, origin INTEGER, body BLOB, profile BLOB) WITHOUT ROWID;
"""
_SPOTS = {"acronym": "_acronyms", "squashed": "_squashed", "zip": "_zips"}

_ORGANIZATION = [one for one in fields(Organization) if one.name != "endpoints"]
_ENDPOINT = [one for one in fields(Endpoint) if one.name not in ("id", *lines.DOOR)]
_organization_values = attrgetter(*(one.name for one in _ORGANIZATION))
_endpoint_values = attrgetter(*(one.name for one in _ENDPOINT))
_Doors = list[tuple[str, str, str]]
_MEMBERS = [(one.name, str(one.type)) for one in (*_ORGANIZATION, *_ENDPOINT)]
# Kept in the file's header: a file of another shape is told by it, not by failing searches.
SHAPE = zlib.crc32(repr((1, _TABLES, sorted(_SPOTS), _MEMBERS)).encode()) >> 1


def _decoder(members: Sequence[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(tuple.__class_getitem__(tuple(one.type for one in members)))


class NoIndex(Exception):
    """There is no index at a place, or not one that this version reads."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose snapshot endpoints came from; serial 0 is no snapshot."""

    name: str
    serial: int = 0
    created: str = ""
    expires: str = ""


# --------------------------------------------------------------------------- writing


def write(
    path: Path,
    content: Content,
    origins: Sequence[Origin],
    vendors: Mapping[str, Mapping[str, Mapping[str, Any]]],
    origin_of: Mapping[str, Origin],
) -> None:
    """Write the index of a content to a file, whole or not at all.

    `vendors` has the rules by origin and vendor; `origin_of` says where an endpoint came from.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    database = sqlite3.connect(beside)
    try:
        with lines.everything_stays():
            _fill(database, content, origins, vendors, origin_of)
        database.commit()
    finally:
        database.close()
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def write_catalogue(
    path: Path, organizations: Sequence[Organization], endpoints: Sequence[Endpoint]
) -> None:
    """Write the index of a catalogue that was read from its database, unsigned."""
    content = lines.content_of(organizations, endpoints=endpoints)
    origin = Origin("catalogue")
    write(path, content, [origin], {}, dict.fromkeys(content.endpoints, origin))


class _Filled(Search):
    """A search that is only laid down: not made ready to answer, and gone as soon as it is done."""

    def _prepare(self) -> None:
        pass


def _fill(
    database: sqlite3.Connection,
    content: Content,
    origins: Sequence[Origin],
    vendors: Mapping[str, Mapping[str, Mapping[str, Any]]],
    origin_of: Mapping[str, Origin],
) -> None:
    search = _Filled(content.organizations)
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA synchronous = OFF")  # `write` forces the whole file out at its end
    search._db.commit()  # noqa: SLF001 - an open transaction would hold the copy up for ever
    search._db.backup(database)  # noqa: SLF001 - the index is the search, laid down in a file
    database.executescript(_TABLES)
    database.execute(f"PRAGMA user_version = {SHAPE}")
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    encode = msgspec.json.Encoder().encode
    database.executemany(
        "INSERT INTO organization VALUES (?, ?, ?, ?)",
        (
            (number, one.id, encode(_organization_values(one)), encode(_doors(one)))
            for number, one in enumerate(search._all)  # noqa: SLF001
        ),
    )
    database.execute("CREATE UNIQUE INDEX organization_id ON organization (id)")
    numbers = {id(origin): number for number, origin in enumerate(origins)}  # hashing one is slow
    ends = content.endpoints
    profiles = {key: encode(override) for key, override in content.overrides.items() if override}
    database.executemany(
        "INSERT INTO endpoint VALUES (?, ?, ?, ?)",
        (
            (
                key,
                numbers[id(origin_of[key])],
                encode(_endpoint_values(ends[key])),
                profiles.get(key),
            )
            for key in sorted(ends)
        ),
    )
    _fill_words(database, search)
    about = {
        "origins": [asdict(origin) for origin in origins],
        "vendors": vendors,
        "organizations": len(content.organizations),
        "endpoints": len(content.endpoints),
    }
    database.execute("INSERT INTO about VALUES ('about', ?)", (encode(about),))


def _doors(one: Organization) -> _Doors:
    return [(end.id, end.portal, end.portal_url) for end in one.endpoints]


def _fill_words(database: sqlite3.Connection, search: Search) -> None:
    """Lay down vocabulary and spots as whole columns: 100,000 rows would cost half the time."""
    encode = msgspec.json.encode
    kept = {
        "words": encode(search._count),  # noqa: SLF001
        "prior": _packed("d", search._prior),  # noqa: SLF001
        "cities": encode(sorted(search._cities)),  # noqa: SLF001
    }
    for kind, name in _SPOTS.items():
        found: Mapping[str, Sequence[int]] = getattr(search, name)
        texts = sorted(found)
        numbers = [found[text] for text in texts]
        kept[f"{kind}.texts"] = encode(texts)
        kept[f"{kind}.ends"] = _packed("I", accumulate(map(len, numbers)))
        kept[f"{kind}.numbers"] = _packed("I", chain.from_iterable(numbers))
    database.executemany("INSERT INTO about VALUES (?, ?)", sorted(kept.items()))


def _packed(kind: str, numbers: Iterable[float]) -> bytes:
    """Return numbers as little-endian bytes."""
    packed: array[Any] = array(kind, numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpacked(kind: str, data: bytes) -> "array[Any]":
    found: array[Any] = array(kind, data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


# --------------------------------------------------------------------------- reading


class _Rows:
    """The organisations by number as the score needs them: of their endpoints only the portals."""

    def __init__(self, database: sqlite3.Connection, count: int) -> None:
        self._database, self._count = database, count
        self._decode = _decoder(_ORGANIZATION).decode
        self._row = lru_cache(maxsize=8192)(self._read)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Organization:
        return self._row(number)

    def _read(self, number: int) -> Organization:
        query = "SELECT body, doors FROM organization WHERE number = ?"
        body, doors = self._database.execute(query, (number,)).fetchone()
        named = (door for door in msgspec.json.decode(doors, type=_Doors) if door[1])
        ends = (Endpoint(key, "", "", "", "", "", portal, url) for key, portal, url in named)
        return self.made(body, tuple(ends))

    def made(self, body: bytes, ends: tuple[Endpoint, ...]) -> Organization:
        """Return the organisation of a row."""
        values = dict(zip(_NAMES, self._decode(body), strict=True))
        return Organization(**values, endpoints=ends)


_NAMES = [one.name for one in _ORGANIZATION]


class _Spots:
    """Numbers of organisations by a text: acronyms, names without blanks, ZIP codes.

    Read at the first question: who never searches pays nothing.
    """

    def __init__(self, database: sqlite3.Connection, kind: str) -> None:
        self._database, self._kind = database, kind
        self._columns = cache(self._read)

    def get(self, text: str, default: Sequence[int] = ()) -> Sequence[int]:
        """Return the numbers of a text."""
        texts, ends, numbers = self._columns()
        at = bisect_left(texts, text)
        if at == len(texts) or texts[at] != text:
            return default
        return numbers[ends[at - 1] if at else 0 : ends[at]]

    def items(self) -> Iterator[tuple[str, Sequence[int]]]:
        """Yield every text with its numbers."""
        texts, ends, numbers = self._columns()
        for text, start, end in zip(texts, chain((0,), ends), ends, strict=False):
            yield text, numbers[start:end]

    def _read(self) -> "tuple[list[str], array[int], array[int]]":
        query = "SELECT value FROM about WHERE key = ?"
        texts, ends, numbers = (
            self._database.execute(query, (f"{self._kind}.{part}",)).fetchone()[0]
            for part in ("texts", "ends", "numbers")
        )
        decoded = msgspec.json.decode(texts, type=list[str])
        return decoded, _unpacked("I", ends), _unpacked("I", numbers)


class Index(Search):
    """A search over an index file. Ask from one thread at a time; `close` when done."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading. Raises NoIndex."""
        self.path = path
        self._lock = threading.Lock()
        self._db = _opened(path)
        try:
            query = "SELECT key, value FROM about WHERE key NOT LIKE '%.%'"
            stored = dict(self._db.execute(query))
        except sqlite3.DatabaseError as error:
            raise NoIndex(f"{path.name} is no search index.") from error
        about = json.loads(stored["about"])
        self._count = Counter(msgspec.json.decode(stored["words"], type=dict[str, int]))
        self.organizations: int = about["organizations"]
        self.endpoints: int = about["endpoints"]
        self.origins = tuple(Origin(**origin) for origin in about["origins"])
        self._vendors: dict[str, dict[str, dict[str, Any]]] = about["vendors"]
        self._rows = _Rows(self._db, self.organizations)
        self._all = cast("list[Organization]", self._rows)
        self._prior = list(_unpacked("d", stored["prior"]))
        for kind, name in _SPOTS.items():
            setattr(self, name, _Spots(self._db, kind))
        self._cities = set(msgspec.json.decode(stored["cities"], type=list[str]))
        self._end_values = _decoder(_ENDPOINT).decode
        self._prepare()

    def find(self, typed: str, limit: int = 10) -> list[Hit]:
        """Return the best hits, best first; an empty list where nothing is close enough."""
        with self._lock:
            hits = super().find(typed, limit)
            return [replace(hit, organization=self._whole(hit.organization.id)) for hit in hits]

    def organization(self, identity: str) -> Organization | None:
        """Return an organisation with its endpoints by its id."""
        with self._lock:
            query = "SELECT 1 FROM organization WHERE id = ?"
            known = self._db.execute(query, (identity,)).fetchone()
            return self._whole(identity) if known else None

    def endpoint(self, identity: str) -> Endpoint | None:
        """Return an endpoint by its id."""
        with self._lock:
            return self._end(identity)

    def endpoint_at(self, url: str) -> Endpoint | None:
        """Return the endpoint of an address as a person may write it, or None."""
        key = repair.address(url).key
        return self.endpoint(lines.derived(key)) if key else None

    def origin(self, identity: str) -> Origin | None:
        """Return whose word an endpoint is."""
        with self._lock:
            query = "SELECT origin FROM endpoint WHERE id = ?"
            row = self._db.execute(query, (identity,)).fetchone()
        return self.origins[row[0]] if row else None

    def lighthouse(self, identity: str) -> str:
        """Return the name of the lighthouse that an endpoint came from, or ""."""
        origin = self.origin(identity)
        return origin.name if origin and origin.serial else ""

    def override(self, identity: str) -> dict[str, Any]:
        """Return the rules that one endpoint has for itself."""
        with self._lock:
            query = "SELECT profile FROM endpoint WHERE id = ?"
            row = self._db.execute(query, (identity,)).fetchone()
        found: dict[str, Any] = json.loads(row[0]) if row and row[0] else {}
        return found

    def profile(self, end: Endpoint) -> dict[str, Any]:
        """Return the rules for an endpoint: its vendor's, overlaid by its own."""
        origin = self.origin(end.id)
        stated = self._vendors.get(origin.name, {}).get(end.vendor) if origin else None
        base = stated if stated is not None else rules.profile(end.vendor)
        return {**base, **self.override(end.id)}

    def __enter__(self) -> Self:
        """Return itself; the file is let go of at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the file."""
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def _whole(self, identity: str) -> Organization:
        query = "SELECT body, doors FROM organization WHERE id = ?"
        body, doors = self._db.execute(query, (identity,)).fetchone()
        ends = []
        for key, portal, portal_url in msgspec.json.decode(doors, type=_Doors):
            end = self._end(key)
            if end is not None:
                ends.append(replace(end, portal=portal, portal_url=portal_url))
        return self._rows.made(body, tuple(ends))

    def _end(self, identity: str) -> Endpoint | None:
        query = "SELECT body FROM endpoint WHERE id = ?"
        row = self._db.execute(query, (identity,)).fetchone()
        if row is None:
            return None
        said = dict(zip(_ENDPOINT_NAMES, self._end_values(row[0]), strict=True))
        return Endpoint(id=identity, portal="", **said)


_ENDPOINT_NAMES = [one.name for one in _ENDPOINT]


def open_index(path: Path) -> Index:
    """Open a search index for reading. Raises NoIndex."""
    return Index(path)


def is_index(path: Path) -> bool:
    """Say whether a file is a search index, of whatever version."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(72)
    return head.startswith(b"SQLite format 3") and head[68:] == APPLICATION.to_bytes(4, "big")


def _opened(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
    try:
        database = sqlite3.connect(address, uri=True, check_same_thread=False)
        mark = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise NoIndex(f"{path.name} is no search index.") from error
    if (mark, version) != (APPLICATION, SHAPE):
        database.close()
        raise NoIndex(f"{path.name} is no search index that this version reads. Make it again.")
    return database
