"""What a file from outside really is, decided from its bytes alone, and who can read it.

Not here: how it is shown (`phr.views.attachment`) and the reading itself.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MOST_PIXELS: Final = 50_000_000  # above that an image may exhaust a phone's memory
INSIDE: Final = "inside"  # asked of the child instead of a reader: the file that a C-CDA wraps
ENTRIES: Final = "entries"  # likewise: its coded entries as FHIR resources
_HEAD: Final = 1024
_FAR: Final = 64 * 1024  # bytes looked at to tell text from other things


class Way(StrEnum):
    """How a file may be shown."""

    IMAGE = "image"
    HTML = "html"
    TEXT = "text"
    READ = "read"  # what a reader made of it, in a closed frame
    SAVE = "save"  # only saved, never opened here


class Reader(StrEnum):
    """Which reader finds the words in it."""

    NONE = ""
    PDF = "pdf"
    RTF = "rtf"
    CDA = "cda"
    DICOM = "dicom"
    HTML = "html"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is: our media type for it, a word for people, its ending, way and reader."""

    media_type: str
    words: str
    ending: str
    way: Way
    reader: Reader = Reader.NONE


PDF = Kind("application/pdf", "PDF", "pdf", Way.SAVE, Reader.PDF)
UNKNOWN = Kind("application/octet-stream", "file of an unknown kind", "bin", Way.SAVE)
HTML = Kind("text/html", "web page", "html", Way.HTML, Reader.HTML)
TEXT = Kind("text/plain", "text", "txt", Way.TEXT, Reader.TEXT)
RTF = Kind("application/rtf", "RTF document", "rtf", Way.READ, Reader.RTF)
CDA = Kind("application/xml", "clinical document (C-CDA)", "xml", Way.READ, Reader.CDA)
DICOM = Kind("application/dicom", "DICOM image", "dcm", Way.SAVE, Reader.DICOM)
ZIP = Kind("application/zip", "packed file", "zip", Way.SAVE)
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", Kind("image/png", "picture", "png", Way.IMAGE)),
    (b"\xff\xd8\xff", Kind("image/jpeg", "picture", "jpg", Way.IMAGE)),
    (b"GIF87a", Kind("image/gif", "picture", "gif", Way.IMAGE)),
    (b"GIF89a", Kind("image/gif", "picture", "gif", Way.IMAGE)),
)
_OTHERS = ((b"%PDF-", PDF), (b"{\\rtf", RTF), (b"PK\x03\x04", ZIP))
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<div", b"<p>", b"<p ", b"<table")
_WIDE = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # byte order marks


def kind_of(content: bytes) -> Kind:
    """Return what the bytes are; what the sender called them does not count (security.md D9)."""
    for magic, kind in (*_IMAGES, *_OTHERS):
        if content.startswith(magic):
            return kind if kind.way is not Way.IMAGE or _small_enough(content) else _saved(kind)
    if content[128:132] == b"DICM":
        return DICOM
    return _text_kind(narrow(content[:_FAR]))


def narrow(sample: bytes) -> bytes:
    """Return text of two bytes a letter (UTF-16 with its mark) as UTF-8; all else as it is."""
    for mark, encoding in _WIDE:
        if sample.startswith(mark):
            even = len(sample) - len(sample) % 2
            return sample[2:even].decode(encoding, "replace").encode()
    return sample


def _saved(kind: Kind) -> Kind:
    return Kind(kind.media_type, "very large picture", kind.ending, Way.SAVE)


def _text_kind(sample: bytes) -> Kind:
    start = sample.lstrip(b"\xef\xbb\xbf \t\r\n")
    head = start[:_HEAD].lower()
    if b"\0" in sample or not sample:
        return UNKNOWN
    if start.startswith(b"<") and b"ClinicalDocument" in sample and b"urn:hl7-org:v3" in sample:
        return CDA
    if head.startswith(_HTML_STARTS) or (b"<html" in head and head.startswith(b"<")):
        return HTML
    return TEXT if _is_text(sample) else UNKNOWN


def _is_text(sample: bytes) -> bool:
    controls = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in sample)
    return controls == 0 and bool(sample.strip())


def _small_enough(content: bytes) -> bool:
    size = dimensions(content)
    return size is not None and 0 < size[0] * size[1] <= MOST_PIXELS


def dimensions(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG, GIF or JPEG from its header, without decoding it."""
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if content.startswith(b"GIF8") and len(content) >= 10:
        return int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    return _jpeg_size(content) if content.startswith(b"\xff\xd8") else None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Walk the markers of a JPEG (ITU-T T.81, annex B) to its frame header."""
    at = 2
    for _ in range(200):
        if at + 9 > len(content) or content[at] != 0xFF:
            return None
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(content[at + 5 : at + 7], "big")
            return int.from_bytes(content[at + 7 : at + 9], "big"), height
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def as_text(content: bytes) -> str:
    """Return bytes as text: by their mark, as UTF-8, and what is neither as Windows-1252."""
    content = narrow(content)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")
