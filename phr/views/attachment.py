"""How a file from outside is shown: cleaned HTML in a sandboxed frame, text, or only for saving.

No link, image or style of a file survives. What a file is says `phr.papers.kinds`.
"""

import base64
import hashlib
import re
from html import escape
from typing import Final

from markupsafe import Markup

from phr.papers import kinds
from phr.papers.kinds import (
    CDA,
    DICOM,
    HTML,
    PDF,
    RTF,
    TEXT,
    UNKNOWN,
    ZIP,
    Kind,
    Way,
    dimensions,
    kind_of,
)
from phr.papers.reading import MOST_HTML, Reading

__all__ = [
    "CDA",
    "DICOM",
    "FILE_CSP",
    "FRAME_CSP",
    "HTML",
    "PDF",
    "RTF",
    "TEXT",
    "UNKNOWN",
    "ZIP",
    "Kind",
    "Way",
    "as_text",
    "clean",
    "dimensions",
    "file_name",
    "frame_page",
    "kind_of",
    "read_page",
]

MOST_TEXT: Final = 400_000  # characters shown; all of it can be saved


def as_text(content: bytes) -> tuple[str, bool]:
    """Return text for showing and whether it was cut; bytes that are no UTF-8 read as Latin-1."""
    text = kinds.as_text(content)
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
    "html{color-scheme:light dark;background:Canvas;color:CanvasText;"
    "font:100%/1.45 system-ui,sans-serif;overflow-wrap:anywhere}"
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

_DEEPEST: Final = 400  # tags open at once; the cleaner's time grows with the square of it
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_ALONE = frozenset(  # need no end
    {
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "li", "link", "meta", "p"),
        *("param", "td", "th", "tr", "wbr"),
    }
)


def clean(html: str) -> str:
    """Return hospital HTML with text structure only (nh3): security.md rows D1 to D6 and D8.

    What is nested too deep to be meant for people stays as the text that it is.
    """
    if _is_too_deep(html):
        return f"<pre>{escape(html[:MOST_TEXT])}</pre>"
    import nh3  # noqa: PLC0415 - 1.5 MB that an idle appliance does not need

    return nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags={"script", "style", "template", "noscript", "title", "svg", "math"},
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        url_schemes=set(),
        strip_comments=True,
    )


def _is_too_deep(html: str) -> bool:
    """Tell whether more tags are open at once, or more is said, than people's documents have."""
    depth = 0
    for found in _TAG.finditer(html):
        if found[2].lower() not in _ALONE:
            depth = max(0, depth - 1) if found[1] else depth + 1
            if depth > _DEEPEST:
                return True
    return len(html) > MOST_HTML


def frame_page(html: str, title: str) -> bytes:
    """Return a whole page for the sandboxed frame; served only with FRAME_CSP."""
    page = Markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>{}</title><style>{}</style></head><body>{}</body></html>"
    )
    body = Markup(clean(html))  # noqa: S704 (cleaned one line above, framed under FRAME_CSP)
    return page.format(title, Markup(_STYLE), body).encode()  # noqa: S704 (our own constant)


def read_page(reading: Reading, title: str, *, with_head: bool) -> bytes:
    """Return the page of what a reader found, for the frame; `with_head`: its facts as well."""
    head = "".join(
        f"<tr><th>{escape(label)}</th><td>{escape(value)}</td></tr>"
        for label, value in reading.facts
    )
    body = reading.html or "".join(
        f"<p>{escape(line)}</p>" for line in reading.text.split("\n") if line
    )
    told = f"<p><em>{escape(reading.sentence)}</em></p>" if reading.sentence else ""
    table = f"<table>{head}</table>" if with_head and head else ""
    return frame_page(f"{table}{told}{body}", title)


def file_name(title: str, ending: str) -> str:
    """Return a harmless file name of plain letters with our own ending (security.md D14)."""
    stem, _, old = title.rpartition(".")
    stem = stem if stem and old.isalnum() and len(old) <= 5 else title
    safe = "".join(one if one.isascii() and one.isalnum() else "-" for one in stem)[:60].strip("-")
    return f"{safe or 'file'}.{ending}"
