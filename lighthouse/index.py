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
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import quote

import msgspec

from lighthouse import lines, repair
from lighthouse import vendors as rules
from lighthouse.catalogue import Endpoint, Organization
from lighthouse.lines import Content
from lighthouse.search import WORDS, Hit, Search

APPLICATION = 0x4C484F55  # "LHOU", in the file's header
_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE organization (part INTEGER PRIMARY KEY, body BLOB);
CREATE TABLE numbered (part INTEGER PRIMARY KEY, body BLOB);
CREATE TABLE endpoint (part INTEGER PRIMARY KEY, body BLOB);
"""
# A row for each would cost more than all the rest: a row holds PART numbers in sequence, or those
# whose ids fall into one of so many parts.
PART = 16
_NUMBERED, _ENDPOINTS = 256, 4096

_Doors = list[tuple[str, str, str]]  # id of the endpoint, portal, its address
_Organizations = list[tuple[msgspec.Raw, _Doors | None]]  # a line; doors where it does not tell
_Endpoints = dict[str, tuple[int, msgspec.Raw, dict[str, Any]]]  # by id: origin, line, own rules
# Kept in the file's header: a file of another shape is told by it, not by failing searches.
SHAPE = zlib.crc32(repr((3, _TABLES, WORDS, PART, lines.MEMBERS)).encode()) >> 1


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
    with lines.everything_stays():
        made = _made(content, origins, vendors, origin_of)
    with beside.open("wb") as file:
        file.write(made)
        file.flush()
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


def _made(
    content: Content,
    origins: Sequence[Origin],
    vendors: Mapping[str, Mapping[str, Mapping[str, Any]]],
    origin_of: Mapping[str, Origin],
) -> bytes:
    """Return the file: made in memory, for it is written once and as a whole."""
    search = _Filled(content.organizations)
    database = search._db  # noqa: SLF001 - the index is the search, laid down in a file
    database.executescript(_TABLES)
    database.execute(f"PRAGMA user_version = {SHAPE}")
    database.execute(f"PRAGMA application_id = {APPLICATION}")
    _fill_organizations(database, search._all, content.organization_texts)  # noqa: SLF001
    _fill_endpoints(database, content, {id(one): at for at, one in enumerate(origins)}, origin_of)
    about = {
        "origins": [asdict(origin) for origin in origins],
        "vendors": vendors,
        "organizations": len(content.organizations),
        "endpoints": len(content.endpoints),
    }
    kept = {
        "about": msgspec.json.encode(about),
        "words": msgspec.json.encode(search._count),  # noqa: SLF001
        "cities": msgspec.json.encode(sorted(search._cities)),  # noqa: SLF001
        "prior": _packed("d", search._prior),  # noqa: SLF001
        "spots": _packed("Q", search._spots),  # noqa: SLF001
    }
    database.executemany("INSERT INTO about VALUES (?, ?)", sorted(kept.items()))
    database.commit()
    return database.serialize()


def _fill_organizations(
    database: sqlite3.Connection, every: Sequence[Organization], texts: Mapping[str, bytes]
) -> None:
    encode = msgspec.json.Encoder().encode
    numbered: dict[int, dict[str, int]] = defaultdict(dict)
    rows: list[bytes] = []  # each an item of `_Organizations`: lines are JSON already
    for number, one in enumerate(every):
        numbered[_part_of(one.id, _NUMBERED)][one.id] = number
        text = texts.get(one.id)
        if text is None:
            rows.append(b"[%b,%b]" % (lines.organization_text(one), encode(_doors(one))))
        else:
            rows.append(b"[%b,null]" % text)
    database.executemany(
        "INSERT INTO organization VALUES (?, ?)",
        [
            (at // PART, b"[%b]" % b",".join(rows[at : at + PART]))
            for at in range(0, len(rows), PART)
        ],
    )
    database.executemany(
        "INSERT INTO numbered VALUES (?, ?)",
        [(part, encode(found)) for part, found in sorted(numbered.items())],
    )


def _fill_endpoints(
    database: sqlite3.Connection,
    content: Content,
    numbers: Mapping[int, int],
    origin_of: Mapping[str, Origin],
) -> None:
    """Write the endpoints; `numbers` has the origins' by identity: hashing one is slow."""
    encode = msgspec.json.Encoder().encode
    texts, overrides, crc32 = content.endpoint_texts, content.overrides, zlib.crc32
    found: dict[int, list[bytes]] = defaultdict(list)  # each a member of `_Endpoints`
    own: dict[str, str] = {}  # ids that do not follow from the address
    for key in sorted(content.endpoints):
        text = texts.get(key)
        if text is None:
            text = lines.endpoint_text(content.endpoints[key])
        elif b'"id":' in text:
            own[content.endpoints[key].url] = key
        name = key.encode()
        rules = encode(overrides[key]) if key in overrides else b"{}"
        named = b'"%b"' % name if key.isalnum() else encode(key)  # ids mostly are hexadecimal
        row = b"%b:[%d,%b,%b]" % (named, numbers[id(origin_of[key])], text, rules)
        found[crc32(name) % _ENDPOINTS].append(row)
    database.executemany(
        "INSERT INTO endpoint VALUES (?, ?)",
        [(part, b"{%b}" % b",".join(ends)) for part, ends in sorted(found.items())],
    )
    database.execute("INSERT INTO about VALUES ('ids', ?)", (encode(dict(sorted(own.items()))),))


def _part_of(identity: str, parts: int) -> int:
    return zlib.crc32(identity.encode()) % parts


def _doors(one: Organization) -> _Doors:
    return [(end.id, end.portal, end.portal_url) for end in one.endpoints]


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
        self._decode = msgspec.json.Decoder(_Organizations).decode
        self._row = lru_cache(maxsize=8192)(self._read)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Organization:
        return self._row(number)

    def _read(self, number: int) -> Organization:
        said, _ = self.said(number)
        named = [door for door in said.doors if door[1]]
        if not named:
            return said.organization
        ends = tuple(Endpoint("", "", "", "", "", "", portal, url) for _, portal, url in named)
        return replace(said.organization, endpoints=ends)

    def said(self, number: int) -> tuple[lines.Said, _Doors | None]:
        """Return what is kept of an organisation, and its doors where its line does not tell."""
        query = "SELECT body FROM organization WHERE part = ?"
        part, at = divmod(number, PART)
        row = self._database.execute(query, (part,)).fetchone()
        text, doors = self._decode(row[0])[at]
        read_id = lines.full if doors is None else lines.as_it_is
        return lines.organization_of(text, read_id), doors


class Index(Search):
    """A search over an index file. Ask from one thread at a time; `close` when done."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading. Raises NoIndex."""
        self.path = path
        self._lock = threading.Lock()
        self._db = _opened(path)
        try:
            stored = dict(self._db.execute("SELECT key, value FROM about WHERE key != 'ids'"))
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
        self._spots = _unpacked("Q", stored["spots"])
        self._cities = set(msgspec.json.decode(stored["cities"], type=list[str]))
        self._prepare()

    def find(self, typed: str, limit: int = 10) -> list[Hit]:
        """Return the best hits, best first; an empty list where nothing is close enough."""
        with self._lock:
            hits = super().find(typed, limit)
            return [replace(hit, organization=self._whole(hit.organization.id)) for hit in hits]

    def organization(self, identity: str) -> Organization | None:
        """Return an organisation with its endpoints by its id."""
        with self._lock:
            return self._whole(identity) if self._number(identity) is not None else None

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
            row = self._stored_end(identity)
        return self.origins[row[0]] if row else None

    def lighthouse(self, identity: str) -> str:
        """Return the name of the lighthouse that an endpoint came from, or ""."""
        origin = self.origin(identity)
        return origin.name if origin and origin.serial else ""

    def override(self, identity: str) -> dict[str, Any]:
        """Return the rules that one endpoint has for itself."""
        with self._lock:
            row = self._stored_end(identity)
        return row[2] if row else {}

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

    def _number(self, identity: str) -> int | None:
        query = "SELECT body FROM numbered WHERE part = ?"
        row = self._db.execute(query, (_part_of(identity, _NUMBERED),)).fetchone()
        found: dict[str, int] = msgspec.json.decode(row[0]) if row else {}
        return found.get(identity)

    def _whole(self, identity: str) -> Organization:
        number = self._number(identity)
        if number is None:
            raise KeyError(identity)
        said, doors = self._rows.said(number)
        if doors is None:
            doors = [(self._id_of(url), portal, at) for url, portal, at in said.doors]
        ends = [
            replace(end, portal=portal, portal_url=portal_url)
            for key, portal, portal_url in doors
            if (end := self._end(key)) is not None
        ]
        return replace(said.organization, endpoints=tuple(ends))

    def _id_of(self, url: str) -> str:
        return self._own_ids.get(url) or lines.derived(url)

    @cached_property
    def _own_ids(self) -> dict[str, str]:
        """Ids of the endpoints that do not follow from their addresses."""
        row = self._db.execute("SELECT value FROM about WHERE key = 'ids'").fetchone()
        return msgspec.json.decode(row[0], type=dict[str, str])

    def _end(self, identity: str) -> Endpoint | None:
        row = self._stored_end(identity)
        return lines.endpoint_of(row[1], identity) if row else None

    def _stored_end(self, identity: str) -> tuple[int, msgspec.Raw, dict[str, Any]] | None:
        query = "SELECT body FROM endpoint WHERE part = ?"
        row = self._db.execute(query, (_part_of(identity, _ENDPOINTS),)).fetchone()
        found: _Endpoints = msgspec.json.decode(row[0], type=_Endpoints) if row else {}
        return found.get(identity)


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
