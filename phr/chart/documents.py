"""Letters, reports and files: what they are, who wrote them, and which attachments they carry."""

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phr.chart.book import Book, of_types
from phr.chart.evidence import NO_EVIDENCE, PLAINLY, Evidence, How, entries, gathered
from phr.chart.marks import Marks, marks
from phr.chart.plain import (
    clip,
    code_as_words,
    concepts_words,
    joined,
    listing,
    mappings,
    moment_words,
    name_words,
    safe_depth,
    string,
)
from phr.chart.titles import title, when_text
from phr.fhir.record import Record

TYPES = ("DocumentReference", "DiagnosticReport", "Composition", "Media")
_HOLDERS = frozenset({"attachment", "presentedForm", "photo", "valueAttachment"})
_TYPE_WORDS = {
    "application/pdf": "PDF",
    "application/rtf": "RTF document",
    "application/xhtml+xml": "web page",
    "application/xml": "XML document",
    "text/html": "web page",
    "text/plain": "text",
    "text/rtf": "RTF document",
    "text/xml": "XML document",
}
_MOST = 50  # attachments of one record that are listed


@dataclass(frozen=True, slots=True)
class Attachment:
    """One FHIR Attachment, by its place in the record. `inline` says the bytes are inside."""

    place: int
    title: str
    said_type: str  # as the sender named it; what is served is decided from the bytes
    size: str
    url: str
    inline: bool
    created: str


@dataclass(frozen=True, slots=True)
class Paper:
    """One document as listed."""

    record: Record
    name: str
    category: str
    date: str  # FHIR text
    authors: tuple[str, ...]
    status: str
    attachments: tuple[Attachment, ...]
    marks: Marks
    evidence: Evidence = NO_EVIDENCE


def documents(records: Sequence[Record], how: How = PLAINLY) -> tuple[Paper, ...]:
    """Read every document in the order given; a report counts when it carries a file."""
    book = Book(records)
    found = entries(records, TYPES, how)
    read = [_paper(record, book) for record in of_types(records, *TYPES)]
    told = gathered(read, found, lambda one: len(one.attachments))
    return tuple(one for one in told if one.attachments or one.record.type != "DiagnosticReport")


def _paper(record: Record, book: Book) -> Paper:
    document = record.document
    status = string(document.get("docStatus")) or string(document.get("status"))
    writers = [
        *mappings(document.get("author")),
        *mappings(document.get("performer")),
        *mappings(document.get("custodian")),
    ]
    return Paper(
        record=record,
        name=title(document),
        category=joined(*concepts_words(document.get("category"))),
        date=when_text(document),
        authors=book.names(record, writers),
        status="" if status in ("current", "final", "") else code_as_words(status),
        attachments=attachments(document),
        marks=marks(record),
    )


def attachments(document: Mapping[str, Any]) -> tuple[Attachment, ...]:
    """Return every Attachment of a resource in a fixed order; the place names it in addresses."""
    return tuple(
        Attachment(
            place=place,
            title=clip(string(one.get("title")), 120),
            said_type=clip(string(one.get("contentType")), 80),
            size=string(one.get("size")),
            url=string(one.get("url")),
            inline=isinstance(one.get("data"), str),
            created=string(one.get("creation")),
        )
        for place, one in enumerate(_found(document))
    )


def _found(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Find the attachments at the places where FHIR R4 puts them, and a Binary itself."""
    if document.get("resourceType") == "Binary" and isinstance(document.get("data"), str):
        return [document]
    found: list[Mapping[str, Any]] = []
    _walk(document, "", found, 0)
    return found[:_MOST]


def _walk(value: Any, field: str, found: list[Mapping[str, Any]], depth: int) -> None:
    if not safe_depth(depth) or len(found) >= _MOST:
        return
    if isinstance(value, list):
        for one in value:
            _walk(one, field, found, depth + 1)
    elif isinstance(value, dict):
        if _is_attachment(value, field):
            found.append(value)
            return
        for name, inner in value.items():
            if isinstance(inner, (dict, list)) and name not in ("extension", "contained"):
                _walk(inner, name, found, depth + 1)


def _is_attachment(value: Mapping[str, Any], field: str) -> bool:
    filled = isinstance(value.get("url"), str) or isinstance(value.get("data"), str)
    return filled and (field in _HOLDERS or isinstance(value.get("contentType"), str))


def inline_bytes(document: Mapping[str, Any], place: int) -> bytes | None:
    """Return the bytes inside the record for the attachment at `place`; None if it has none."""
    found = _found(document)
    data = found[place].get("data") if 0 <= place < len(found) else None
    if not isinstance(data, str):
        return None
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def announced_otherwise(document: Mapping[str, Any], place: int, content: bytes) -> bool:
    """Tell whether bytes differ from the size or SHA-1 the record names (FHIR R4 §2.24.0.6)."""
    found = _found(document)
    one = found[place] if 0 <= place < len(found) else {}
    size, told = string(one.get("size")), one.get("hash")
    if size.isascii() and size.isdigit() and int(size[:18]) != len(content):
        return True
    if not isinstance(told, str):
        return False
    digest = hashlib.sha1(content, usedforsecurity=False).digest()
    return "".join(told.split()) != base64.b64encode(digest).decode()


_TITLES = frozenset({"mr", "mrs", "ms", "miss", "dr", "prof", "jr", "sr", "ii", "iii", "iv"})


def somebody_else(name: str, born: str, patients: Sequence[Mapping[str, Any]]) -> str:
    """Say in words how a file's patient differs from the Patient resources here; "" when not.

    Another birth date is somebody else. So is another given name, and another family name where
    no birth date says otherwise (people marry). What either side does not say does not count.
    """
    theirs = _name_words(name)
    for one in patients:
        ours = string(one.get("birthDate"))
        days = bool(born and ours)
        if days and not (born.startswith(ours) or ours.startswith(born)):
            continue
        if not theirs or any(
            _may_be(theirs, each, is_sure=days) for each in mappings(one.get("name"))
        ):
            return ""
    if not patients:
        return ""
    told = joined(name, f"born {moment_words(born)}" if born else "", by=", ")
    here = joined(*dict.fromkeys(_told(one) for one in patients[:3]), by=" or ")
    return f"It says that it is about {told}. This record is about {here}."


def _may_be(theirs: frozenset[str], ours: Mapping[str, Any], *, is_sure: bool) -> bool:
    """Say whether a name in a file can be this HumanName."""
    given = _name_words(" ".join(map(string, listing(ours.get("given")))))
    family = _name_words(string(ours.get("family")))
    if not given and not family:
        whole = _name_words(string(ours.get("text")))
        return not whole or len(whole & theirs) >= min(2, len(whole), len(theirs))
    same_given = not given or bool(given & theirs)
    return same_given and (is_sure or not family or bool(family & theirs))


def _name_words(name: str) -> frozenset[str]:
    plain = "".join(one for one in unicodedata.normalize("NFD", name.casefold()) if one.isascii())
    return frozenset(re.findall(r"[a-z]+", plain)) - _TITLES


def _told(patient: Mapping[str, Any]) -> str:
    born = string(patient.get("birthDate"))
    return joined(
        name_words(patient.get("name")), f"born {moment_words(born)}" if born else "", by=", "
    )


def described(one: Attachment) -> str:
    """Return what the sender said about an attachment: title, type in words, size."""
    return joined(one.title, type_words(one.said_type), size_words(one.size))


def type_words(said_type: str) -> str:
    """Return a media type in words where there are any, else as it was sent."""
    plain = said_type.partition(";")[0].strip().lower()
    return _TYPE_WORDS.get(plain, "picture" if plain.startswith("image/") else said_type)


def size_words(size: str) -> str:
    """Return a size in bytes in words: "12 kB"."""
    if not size.isdigit() or len(size) > 15:
        return ""
    count = int(size)
    for unit, step in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= step:
            return f"{count / step:.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{count} bytes"
