"""What a reader found in a file: words, structure, facts, and whom it is about. Plain data."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

MOST_TEXT: Final = 1_000_000  # characters that are kept of a file
MOST_HTML: Final = 2_000_000
RULES: Final = 4  # raise it when readers find more: what was read before is read again
MADE: Final = "urn:homeport:made"
TRANSCRIBED: Final = {  # meta.tag of what was made of a document here
    "system": MADE,
    "code": "transcribed",
    "display": "Transcribed from a document",
}
BROKEN: Final = "This file could not be read: it is damaged, or built in an unusual way."


def name_of(content: bytes) -> str:
    """Return the id of what is made of a file: the same file has the same."""
    return f"cda-{hashlib.sha256(content).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Whose:
    """Whom a file says it is about; empty where it does not say. `born` is YYYY-MM-DD or less."""

    name: str = ""
    born: str = ""
    sex: str = ""


@dataclass(frozen=True, slots=True)
class Edition:
    """Which version of which document a file says it is (CDA R2 §4.2.1): ids as "root^extension".

    `series` is what all versions share, `number` tells them apart, `replaces` names others.
    """

    name: str = ""
    series: str = ""
    number: int = 0
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """The outcome for one file.

    `text` has its words, paragraphs on lines of their own; `html` its structure, not cleaned yet
    (`phr.views.attachment.clean`); `facts` are (label, value) from its head; `sentence` says in
    words what could not be read; `inside` is the media type of a file that it wraps; `edition`
    tells versions of one document apart.
    """

    text: str = ""
    html: str = ""
    title: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    whose: Whose = Whose()
    sentence: str = ""
    cut: bool = False
    inside: str = ""
    edition: Edition = Edition()

    def packed(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(asdict(self), ensure_ascii=True, separators=(",", ":")).encode()


def unpacked(packed: bytes) -> Reading:
    """Return what `packed` made. Raises ValueError, TypeError or KeyError for anything else."""
    read = json.loads(packed)
    if not isinstance(read, dict):
        raise TypeError("no reading")
    return Reading(
        text=bounded(read, "text", MOST_TEXT),
        html=bounded(read, "html", MOST_HTML),
        title=bounded(read, "title", 500),
        facts=tuple((str(each[0])[:200], str(each[1])[:2000]) for each in read["facts"][:200]),
        whose=Whose(*(bounded(read["whose"], name, 500) for name in ("name", "born", "sex"))),
        sentence=bounded(read, "sentence", 500),
        cut=bool(read.get("cut")),
        inside=bounded(read, "inside", 100),
        edition=_edition(read["edition"]),
    )


def _edition(read: Mapping[str, Any]) -> Edition:
    number = read.get("number")
    return Edition(
        bounded(read, "name", 300),
        bounded(read, "series", 300),
        number if isinstance(number, int) else 0,
        tuple(str(each)[:300] for each in read["replaces"][:20]),
    )


def bounded(read: Mapping[str, Any], name: str, most: int) -> str:
    """Return one text of a mapping, cut, without lone surrogates and NUL."""
    value = read.get(name)
    text = value if isinstance(value, str) else ""
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "")


def of_text(text: str, **more: Any) -> Reading:
    """Return a Reading of plain text, cut where it is too long to keep."""
    tidy = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).strip()
    return Reading(text=tidy[:MOST_TEXT], cut=len(tidy) > MOST_TEXT, **more)


_AROUND: Final = 90  # characters before and after what was searched for


def excerpt(text: str, terms: Sequence[str]) -> str:
    """Return the place of a text where the first of the searched words begins a word."""
    folded = _folded(text)
    places = [
        found.start()
        for term in terms
        if (found := re.search(rf"\b{re.escape(_folded(term))}", folded)) is not None
    ]
    at = min(places, default=0)
    begin, end = max(0, at - _AROUND), at + 2 * _AROUND
    cut = text[begin:end]
    if begin:
        cut = cut[cut.find(" ") + 1 :] if " " in cut[:_AROUND] else cut
    if end < len(text):
        cut = cut.rsplit(" ", 1)[0]
    words = " ".join(cut.split())
    return f"{'… ' if begin else ''}{words}{' …' if end < len(text) else ''}"


def _folded(text: str) -> str:
    """Return text without case and accents, letter for letter: places stay places."""
    if text.isascii():
        return text.lower()
    return "".join(unicodedata.normalize("NFD", one)[0].lower()[:1] or one for one in text)
