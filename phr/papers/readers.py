"""The readers by kind: PDF, RTF, HTML and plain text. C-CDA and DICOM have modules of their own.

Each takes hostile bytes and is run only in the child process, under its limits.
"""

import io
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from typing import Any, Final

from phr.papers import cda_entries, dicom
from phr.papers.kinds import Reader, as_text
from phr.papers.reading import MOST_TEXT, Reading, of_text

MOST_PAGES: Final = 500
_BLOCKS: Final = frozenset(
    {
        *("p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "table", "section"),
        *("article", "header", "footer", "dt", "dd", "pre", "hr"),
    }
)
_SILENT: Final = frozenset({"script", "style", "template", "noscript", "title"})


def read_pdf(content: bytes) -> Reading:
    """Return the words of a PDF, page by page (ISO 32000-2 §9.10, by pypdf)."""
    import pypdf  # noqa: PLC0415 - only the child that reads a PDF pays for it
    from pypdf.errors import PyPdfError  # noqa: PLC0415 - see above

    try:
        reader = pypdf.PdfReader(io.BytesIO(content), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            return Reading(sentence="This PDF is locked with a password. It can only be saved.")
        count = len(reader.pages)
        pages: list[str] = []
        size = 0
        for page in reader.pages[:MOST_PAGES]:
            pages.append(page.extract_text())
            size += len(pages[-1])
            if size > MOST_TEXT:
                break
        named = reader.metadata
        title = str(named.title or "") if named else ""
    except PyPdfError:
        return Reading(sentence="This PDF is damaged. Its text could not be read.")
    found = of_text("\n\n".join(pages), title=title, facts=(("Pages", str(count)),))
    if not found.text:
        sentence = "There is no text in this PDF, only pictures of pages. It can be saved."
        return Reading(title=title, facts=found.facts, sentence=sentence)
    return found


def read_rtf(content: bytes) -> Reading:
    """Return the words of an RTF document (RTF 1.9.1, by striprtf); pictures are left out."""
    import striprtf.striprtf  # noqa: PLC0415 - as above

    to_text: Any = striprtf.striprtf.rtf_to_text
    text: str = to_text(content.decode("latin-1"), errors="replace")
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    plain = re.sub(r'\("([^"\n]*)"\)', r" (\1)", whole)  # where a link leads
    lines = (re.sub(r"\s*\|\s*", " | ", line).strip(" |") for line in plain.split("\n"))
    found = of_text("\n".join(lines))
    return found if found.text else Reading(sentence="There is no text in this document.")


class _Words(HTMLParser):
    """Collects the text of HTML, a line per block; scripts and styles are silent."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line at a block."""
        del attrs
        self._silent += tag in _SILENT
        if tag in _BLOCKS:
            self.found.append("\n")
        elif tag in ("td", "th"):
            self.found.append("\t")

    def handle_endtag(self, tag: str) -> None:
        """End a line at a block."""
        self._silent = max(0, self._silent - (tag in _SILENT))
        if tag in _BLOCKS:
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        """Take words that are shown."""
        if not self._silent:
            self.found.append(data)


def read_html(content: bytes) -> Reading:
    """Return the words of a web page."""
    words = _Words()
    words.feed(as_text(content))
    words.close()
    lines = (" ".join(line.split()) for line in "".join(words.found).split("\n"))
    return of_text("\n".join(line for line in lines if line))


def read_text(content: bytes) -> Reading:
    """Return plain text as it is."""
    return of_text(as_text(content))


READERS: Final[Mapping[Reader, Callable[[bytes], Reading]]] = {
    Reader.PDF: read_pdf,
    Reader.RTF: read_rtf,
    Reader.HTML: read_html,
    Reader.TEXT: read_text,
    Reader.DICOM: dicom.read,
    Reader.CDA: cda_entries.read,
}
