"""What a file from outside really is, and how it may be shown: decided from its bytes alone.

HTML is cleaned here and shown only in a sandboxed frame; no link, image or style of it survives.
"""

import base64
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import nh3
from markupsafe import Markup

MOST_PIXELS: Final = 50_000_000  # above that an image may exhaust a phone's memory
MOST_TEXT: Final = 400_000  # characters shown; all of it can be saved
_HEAD = 1024


class Way(StrEnum):
    """How a file may be shown."""

    IMAGE = "image"
    HTML = "html"
    TEXT = "text"
    SAVE = "save"  # only saved, never opened here


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is: our media type for it, a word for people, its ending, and the way."""

    media_type: str
    words: str
    ending: str
    way: Way


PDF = Kind("application/pdf", "PDF", "pdf", Way.SAVE)
UNKNOWN = Kind("application/octet-stream", "file of an unknown kind", "bin", Way.SAVE)
HTML = Kind("text/html", "web page", "html", Way.HTML)
TEXT = Kind("text/plain", "text", "txt", Way.TEXT)
RTF = Kind("application/rtf", "RTF document", "rtf", Way.SAVE)
DICOM = Kind("application/dicom", "DICOM image", "dcm", Way.SAVE)
ZIP = Kind("application/zip", "packed file", "zip", Way.SAVE)
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", Kind("image/png", "picture", "png", Way.IMAGE)),
    (b"\xff\xd8\xff", Kind("image/jpeg", "picture", "jpg", Way.IMAGE)),
    (b"GIF87a", Kind("image/gif", "picture", "gif", Way.IMAGE)),
    (b"GIF89a", Kind("image/gif", "picture", "gif", Way.IMAGE)),
)
_OTHERS = ((b"%PDF-", PDF), (b"{\\rtf", RTF), (b"PK\x03\x04", ZIP))
_HTML_STARTS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<div", b"<p>", b"<p ", b"<table")


def kind_of(content: bytes) -> Kind:
    """Return what the bytes are; what the sender called them does not count (security.md D9)."""
    for magic, kind in (*_IMAGES, *_OTHERS):
        if content.startswith(magic):
            return kind if kind.way is not Way.IMAGE or _small_enough(content) else _saved(kind)
    if content[128:132] == b"DICM":
        return DICOM
    return _text_kind(content)


def _saved(kind: Kind) -> Kind:
    return Kind(kind.media_type, "very large picture", kind.ending, Way.SAVE)


def _text_kind(content: bytes) -> Kind:
    head = content[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"\0" in content[: _HEAD * 64] or not content:
        return UNKNOWN
    if head.startswith(_HTML_STARTS) or (b"<html" in head and head.startswith(b"<")):
        return HTML
    return TEXT if _is_text(content[: _HEAD * 64]) else UNKNOWN


def _is_text(sample: bytes) -> bool:
    controls = sum(byte < 32 and byte not in b"\t\n\r\f" for byte in sample)
    return controls == 0 and bool(sample.strip())


def _small_enough(content: bytes) -> bool:
    size = dimensions(content)
    return size is not None and 0 < size[0] * size[1] <= MOST_PIXELS


def dimensions(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG, GIF or JPEG from its header, without decoding it."""
    if content.startswith(b"\x89PNG") and len(content) >= 24:
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
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
            height = int.from_bytes(content[at + 5 : at + 7])
            return int.from_bytes(content[at + 7 : at + 9]), height
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None


def as_text(content: bytes) -> tuple[str, bool]:
    """Return text for showing and whether it was cut; bytes that are no UTF-8 read as Latin-1."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", "replace")
    return text[:MOST_TEXT], len(text) > MOST_TEXT


# ------------------------------------------------------------------------------------ HTML

_TAGS = frozenset(
    {
        *("p", "div", "span", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre"),
        *("ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tfoot"),
        *("tr", "th", "td", "colgroup", "col", "b", "strong", "i", "em", "u", "s", "small"),
        *("sub", "sup", "code", "abbr", "address", "tt", "big"),
    }
)
_ATTRIBUTES = {"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan", "scope"}, "*": {"dir"}}
_STYLE = (
    "html{color-scheme:light dark;font:100%/1.45 system-ui,sans-serif;overflow-wrap:anywhere}"
    "body{margin:1rem}table{border-collapse:collapse}"
    "th,td{border:1px solid;padding:.25rem .5rem;text-align:start;vertical-align:top}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# The frame's own policy: nothing is loaded, nothing runs, nothing is sent.
FRAME_CSP: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'self'; sandbox"
)
FILE_CSP: Final = "default-src 'none'; frame-ancestors 'self'; sandbox"


def clean(html: str) -> str:
    """Return hospital HTML with text structure only (nh3): security.md rows D1 to D6 and D8."""
    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags={"script", "style", "template", "noscript", "title", "svg", "math"},
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        url_schemes=set(),
        strip_comments=True,
    )


def frame_page(html: str, title: str) -> bytes:
    """Return a whole page for the sandboxed frame; served only with FRAME_CSP."""
    page = Markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>{}</title><style>{}</style></head><body>{}</body></html>"
    )
    body = Markup(clean(html))  # noqa: S704 (cleaned one line above, framed under FRAME_CSP)
    return page.format(title, Markup(_STYLE), body).encode()  # noqa: S704 (our own constant)


def file_name(title: str, ending: str) -> str:
    """Return a harmless file name of plain letters with our own ending (security.md D14)."""
    stem, _, old = title.rpartition(".")
    stem = stem if stem and old.isalnum() and len(old) <= 5 else title
    safe = "".join(one if one.isascii() and one.isalnum() else "-" for one in stem)[:60].strip("-")
    return f"{safe or 'file'}.{ending}"
