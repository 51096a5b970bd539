"""The files of records as software reaches them: their addresses in what leaves, and their bytes.

A file goes where the record goes that names it. Its address in the FHIR API is `Binary/<id of the
record>-<mark of the address its sender gave>`: so the record leads to it, and nothing else does.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec
from sqlalchemy.orm import Session

from phr.chart import documents
from phr.fhir import references
from phr.fhir.reading import text
from phr.fhir.record import Record
from phr.papers.kinds import TEXT, UNKNOWN, ZIP, kind_of
from phr.sharing import provision as policy
from phr.sharing.provision import Provision
from phr.store import records
from phr.store.database import rows
from phr.store.models import Connection
from phr.store.records import Attachment
from phr.store.vault import Vault

BINARY: Final = "Binary"
_URL: Final = re.compile(rb'"url"[ \t\r\n]*:[ \t\r\n]*"((?:[^"\\]|\\.)*+)"')
_NAME: Final = re.compile("[0-9a-f]{16}-[0-9a-f]{16}")
_MEDIA_TYPE: Final = re.compile(r"(?:application|audio|text|video)/[a-z0-9][a-z0-9.+-]{0,99}")
_ACTIVE: Final = re.compile("html|xml|svg|script")  # what a browser might run


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of a file, and the media type that its sender gave it."""

    content: bytes
    said_type: str


def media_type(content: bytes, said: str) -> str:
    """Return what a file is: by its bytes, and only where they do not tell as its sender said."""
    kind = kind_of(content)
    plain = said.partition(";")[0].strip().lower()
    told = _MEDIA_TYPE.fullmatch(plain) and not _ACTIVE.search(plain)
    return plain if kind in (TEXT, UNKNOWN, ZIP) and told else kind.media_type


def is_name(name: str) -> bool:
    """Tell whether a text has the form of an id that `addressed` gives out."""
    return _NAME.fullmatch(name) is not None


def read_name(vault: Vault, name: str) -> tuple[str, Callable[[Sequence[Attachment]], str]]:
    """Return the id of the record in a file's id, and what finds the address among its files."""
    local_id, _, mark = name.partition("-")

    def found(among: Sequence[Attachment]) -> str:
        return next((one.url for one in among if _mark(vault, one.url) == mark), "")

    return local_id, found


def held(
    session: Session, vault: Vault, provision: Provision, record: Record, url: str
) -> File | None:
    """Return a file that a record names, or None where it is not here.

    It was kept beside the record, or came as a Binary of the same source; one that is itself
    private, withdrawn or labelled stays.
    """
    for link in records.attachments(session, record.pk):
        kept = records.attachment(session, link.hash) if link.url == url and link.hash else None
        if kept is not None:
            return File(kept[1], kept[0])
    key = _binary_key(session, vault, record, url)
    for binary in records.by_keys(session, vault, [] if key is None else [key]):
        content = documents.inline_bytes(binary.document, 0)
        if content is not None and policy.objection(provision, binary) is None:
            return File(content, text(binary.document.get("contentType")))
    return None


def addressed(
    session: Session, vault: Vault, leaving: Sequence[tuple[Record, bytes]]
) -> list[tuple[Record, bytes]]:
    """Return records as they leave with the addresses of their files leading to our own.

    An address elsewhere changes only where the file is here; the others stay as they were sent.
    """
    carriers = [record.pk for record, body in leaving if b'"url"' in body]
    named = _named(session, carriers) if carriers else {}
    if not named:
        return list(leaving)
    return [
        (record, _exchanged(_ours(session, vault, record, named[record.pk]), body))
        if record.pk in named
        else (record, body)
        for record, body in leaving
    ]


def _named(session: Session, pks: Sequence[int]) -> dict[int, list[tuple[str, bool]]]:
    """Return the addresses that records name, and whether the bytes are kept."""
    marks = ",".join("?" * len(pks))
    sql = (
        "SELECT record, url, hash IS NOT NULL FROM attachment_link"
        f" WHERE record IN ({marks}) AND substr(url, 1, 1) <> '#'"
    )
    found: dict[int, list[tuple[str, bool]]] = {}
    for pk, url, kept in rows(session, sql, tuple(pks)):
        found.setdefault(pk, []).append((url, bool(kept)))
    return found


def _ours(
    session: Session, vault: Vault, record: Record, named: Sequence[tuple[str, bool]]
) -> dict[str, str]:
    """Return our address for each of a record's, by what stands in the bytes that leave."""
    found: dict[str, str] = {}
    for url, kept in named:
        ours = f"{BINARY}/{record.local_id}-{_mark(vault, url)}"
        if kept:
            found[url] = ours
        key = _binary_key(session, vault, record, url)
        if key is not None:  # spliced like any reference
            found[f"{BINARY}/{references.local_id_of(key)}"] = ours
    return found


def _exchanged(ours: dict[str, str], body: bytes) -> bytes:
    def address(match: re.Match[bytes]) -> bytes:
        new = ours.get(_plain(match[1]))
        whole: bytes = match[0]
        return whole if new is None else whole[: -len(match[1]) - 1] + new.encode() + b'"'

    return _URL.sub(address, body)


def _plain(raw: bytes) -> str:
    """Return the text of a JSON string; "" for one that is no text (a lone surrogate)."""
    try:
        return str(msgspec.json.decode(b'"' + raw + b'"'))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _binary_key(session: Session, vault: Vault, record: Record, url: str) -> int | None:
    """Return the key of the Binary that an address means, if it is one of the same source."""
    pointed = references.target(url)
    if pointed is None or pointed.type != BINARY:
        return None
    if pointed.base and pointed.base != _base_of(session, record.connection_id):
        return None
    return references.local_key(vault.id_key, record.connection_id, BINARY, pointed.id)


def _base_of(session: Session, connection_id: int) -> str:
    found = session.get(Connection, connection_id)
    return "" if found is None or not found.base_url else found.base_url.rstrip("/") + "/"


def _mark(vault: Vault, url: str) -> str:
    named = url.encode("utf-8", "surrogatepass")
    return blake2b(named, digest_size=8, key=vault.id_key, person=b"file address").hexdigest()
