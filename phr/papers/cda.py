"""Reads a C-CDA document (HL7 CDA R2, US Realm header): head, sections, narrative as HTML.

Nothing is fetched, no DTD is read, no stylesheet runs. The HTML made here is made of escaped text
and our own tags only, and is still cleaned before it is shown (`phr.views.attachment`).
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from html import escape
from typing import Final

from lxml import etree

from phr.papers.cda_values import V3, Element, attr, every, first, moment, words_in
from phr.papers.kinds import narrow
from phr.papers.reading import MOST_HTML, MOST_TEXT, Edition, Reading, Whose

_XSI_NIL: Final = "nullFlavor"
_DEEPEST: Final = 60  # of narrative and of sections in sections
_MOST_PARTS: Final = 12  # of one name, of authors that are listed
NOT_CDA: Final = "This XML file is no clinical document that can be shown. It can be saved."
DAMAGED: Final = "This document is damaged: it is not well-formed XML. It can be saved."
WITH_DTD: Final = "This document declares entities of its own, which is not safe to read."
_SEXES: Final = {"M": "male", "F": "female", "UN": "undifferentiated"}


def read(content: bytes) -> Reading:
    """Return the readable view of a document; a file that is none, or not safe, says so."""
    try:
        root = parse(content)
    except etree.XMLSyntaxError:
        return Reading(sentence=DAMAGED)
    except ValueError as problem:
        return Reading(sentence=str(problem))
    return _read(root)


def parse(content: bytes) -> Element:
    """Return the root of a ClinicalDocument.

    Raises ValueError with a sentence for a DTD (entity bombs need one) or another root, and
    etree.XMLSyntaxError for XML that is not well-formed or deeper than 256 elements.
    """
    if b"<!DOCTYPE" in narrow(content) or b"<!ENTITY" in narrow(content):
        raise ValueError(WITH_DTD)
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    root = etree.fromstring(content, parser)
    if root.getroottree().docinfo.doctype:
        raise ValueError(WITH_DTD)
    if root.tag != f"{V3}ClinicalDocument":
        raise ValueError(NOT_CDA)
    return root


def _read(root: Element) -> Reading:
    title = words_in(first(root, "title")) or display(first(root, "code")) or "Clinical document"
    whose = whose_of(root)
    pages = _Pages()
    body = first(root, "component/structuredBody")
    wrapped = first(root, "component/nonXMLBody/text")
    if body is not None:
        for section in every(body, "component/section"):
            pages.section(section, 2)
    sentence = inside_type = ""
    if wrapped is not None:
        inside_type, sentence = _wrapped(wrapped)
    elif not pages.html:
        sentence = "There is no text in this document."
    facts = tuple(_facts(root, whose))
    head = [title, *(f"{label}: {value}" for label, value in facts)]
    text = "\n".join([*head, *pages.text])
    html = "".join(pages.html)
    return Reading(
        text=text[:MOST_TEXT],
        html=html if len(html) <= MOST_HTML else "",
        title=title,
        facts=facts,
        whose=whose,
        sentence=sentence,
        cut=len(text) > MOST_TEXT or len(html) > MOST_HTML,
        inside=inside_type,
        edition=_edition(root),
    )


# ------------------------------------------------------------------------------ the head


def display(at: Element | None) -> str:
    """Return a code in words: original text, display name."""
    return words_in(first(at, "originalText")) or attr(at, "displayName")


def whose_of(root: Element) -> Whose:
    """Return whom a document says that it is about."""
    patient = first(root, "recordTarget/patientRole/patient")
    if patient is None:
        return Whose()
    code = first(patient, "administrativeGenderCode")
    said = attr(code, "code").upper()
    return Whose(
        name=person(patient),
        born=moment(attr(first(patient, "birthTime"), "value")).partition("T")[0],
        sex=_SEXES.get(said) or attr(code, "displayName") or said,
    )


def _edition(root: Element) -> Edition:
    number = attr(first(root, "versionNumber"), "value")
    replaced = (
        _id(first(each, "parentDocument/id"))
        for each in every(root, "relatedDocument")[:_MOST_PARTS]
        if attr(each, "typeCode") == "RPLC"
    )
    return Edition(
        name=_id(first(root, "id")),
        series=_id(first(root, "setId")),
        number=int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0,
        replaces=tuple(filter(None, replaced)),
    )


def _id(at: Element | None) -> str:
    root, extension = attr(at, "root"), attr(at, "extension")
    return f"{root}^{extension}" if root and not attr(at, "nullFlavor") else ""


def _facts(root: Element, whose: Whose) -> Iterator[tuple[str, str]]:
    """Yield what the head says (US Realm Header, C-CDA 2.1 §1.1), only what is there."""
    yield from _filled("Patient", whose.name)
    born = attr(first(root, "recordTarget/patientRole/patient/birthTime"), "value")
    yield from _filled("Born", moment_words(born).partition(",")[0])
    yield from _filled("Sex", whose.sex)
    yield from _filled("Kind", display(first(root, "code")))
    yield from _filled("Written", moment_words(attr(first(root, "effectiveTime"), "value")))
    for author in every(root, "author")[:_MOST_PARTS]:
        at = moment_words(attr(first(author, "time"), "value"))
        yield from _filled("Author", _joined(party(first(author, "assignedAuthor")), at))
    custodian = "custodian/assignedCustodian/representedCustodianOrganization/name"
    yield from _filled("Kept by", words_in(first(root, custodian)))
    signed = first(root, "legalAuthenticator")
    if signed is not None:
        at = moment_words(attr(first(signed, "time"), "value"))
        yield from _filled("Signed by", _joined(party(first(signed, "assignedEntity")), at))
    yield from _visit(first(root, "componentOf/encompassingEncounter"))
    for event in every(root, "documentationOf/serviceEvent")[:_MOST_PARTS]:
        yield from _filled("Covers", _period(first(event, "effectiveTime")))
    level = attr(first(root, "confidentialityCode"), "code").upper()
    yield from _filled("Marked", {"R": "restricted", "V": "very restricted"}.get(level, ""))


def _visit(at: Element | None) -> Iterator[tuple[str, str]]:
    """Yield what the head says of the visit that a document is about (US Realm, componentOf)."""
    what = display(first(at, "code"))
    yield from _filled("Visit", _joined(what, _period(first(at, "effectiveTime"))))
    facility = first(at, "location/healthCareFacility")
    named = first(facility, "location/name"), first(facility, "serviceProviderOrganization/name")
    yield from _filled("Visit at", _joined(*dict.fromkeys(map(words_in, named))))
    people = [*every(at, "responsibleParty"), *every(at, "encounterParticipant")]
    told = (party(first(each, "assignedEntity")) for each in people)
    for who in list(dict.fromkeys(filter(None, told)))[:_MOST_PARTS]:
        yield "Visit with", who
    yield from _filled("After the visit", display(first(at, "dischargeDispositionCode")))


def _filled(label: str, value: str) -> Iterator[tuple[str, str]]:
    if value:
        yield label, value


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def party(at: Element | None) -> str:
    """Return who an assigned entity is: person, device, organisation."""
    somebody = person(first(at, "assignedPerson"))
    device = first(at, "assignedAuthoringDevice/softwareName")
    organisation = first(at, "representedOrganization/name")
    return _joined(somebody, words_in(device), words_in(organisation))


def person(at: Element | None) -> str:
    """Return the first name of a person that has words, in the order in which it is written."""
    for name in every(at, "name"):
        parts = [
            words_in(part)
            for part in name
            if _local(part) in ("prefix", "given", "family", "suffix") and words_in(part)
        ]
        found = " ".join(parts[:_MOST_PARTS]) if parts else words_in(name)
        if found:
            return found
    return ""


_TIME: Final = re.compile(
    r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:\d\d)?(?:\.\d+)?(?:([+-]\d\d):?(\d\d)?)?"
)


def moment_words(said: str) -> str:
    """Return an HL7 time (CDA TS) for a reader, with its own precision and zone.

    "15 Aug 2013, 10:35 (UTC-05:00)"; what is no time stays as it is written.
    """
    found = _TIME.fullmatch(said)
    month = int(found[2] or 1) if found else 0
    if found is None or not 1 <= month <= 12:
        return said
    year, named, day, hour, minute, zone, rest = found.groups()
    told = " ".join(
        filter(None, (day and str(int(day)), named and f"{date(2000, month, 1):%b}", year))
    )
    if hour is None:
        return told
    return f"{told}, {hour}:{minute or '00'}" + (f" (UTC{zone}:{rest or '00'})" if zone else "")


def _period(at: Element | None) -> str:
    if at is None:
        return ""
    low = moment_words(attr(first(at, "low"), "value"))
    high = moment_words(attr(first(at, "high"), "value"))
    if not low and not high:
        return moment_words(attr(at, "value"))
    if not low:
        return f"until {high}"
    if low == high:
        return low
    return f"{low} to {high}" if high else f"from {low}"


# ------------------------------------------------------------------------------ a file inside


def _wrapped(at: Element) -> tuple[str, str]:
    """Return media type of a wrapped file and a sentence where it cannot be had."""
    said = attr(at, "mediaType") or "a file"
    reference = attr(first(at, "reference"), "value")
    if reference:
        return "", f"The document itself is a separate file ({reference}) that did not come along."
    return (said, "") if _decoded(at) else ("", "The file inside this document is damaged.")


def inside(content: bytes) -> bytes | None:
    """Return the file that a document wraps (CDA R2 §4.3.1.2), or None."""
    try:
        wrapped = first(parse(content), "component/nonXMLBody/text")
    except (etree.XMLSyntaxError, ValueError):
        return None
    return None if wrapped is None else _decoded(wrapped) or None


def _decoded(at: Element) -> bytes:
    text = "".join(map(str, at.itertext()))
    if attr(at, "representation") != "B64":
        return text.strip().encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


# ------------------------------------------------------------------------------ sections


def title_of(section: Element) -> str:
    """Return what a section is called."""
    said = words_in(first(section, "title")) or display(first(section, "code"))
    return said or "Section without a title"


class _Pages:
    """The sections as HTML and as lines of text."""

    def __init__(self) -> None:
        self.html: list[str] = []
        self.text: list[str] = []

    def section(self, at: Element, level: int) -> None:
        """Add one section and those inside it."""
        title = (
            words_in(first(at, "title")) or display(first(at, "code")) or "Section without a title"
        )
        heading = min(level, 6)
        self.html.append(f"<h{heading}>{escape(title)}</h{heading}>")
        self.text.append(title)
        told = first(at, "text")
        narrative = _Narrative()
        html = narrative.render(told) if told is not None else ""
        if html.strip():
            self.html.append(html)
            self.text.extend(lines(told))
        else:
            self.html.append(f"<p><em>{_silence(at)}</em></p>")
        if level < _DEEPEST:
            for inner in every(at, "component/section"):
                self.section(inner, level + 1)


def _silence(at: Element) -> str:
    if first(at, "component/section") is not None:
        return "The text is in the parts below."
    if attr(at, _XSI_NIL):
        return "The sender marks this section as having no information."
    if first(at, "entry") is not None:
        return "This section has coded entries only; the sender wrote no text for people."
    return "The sender left this section empty."


_LINES: Final = frozenset({"paragraph", "item", "tr", "caption", "br", "list", "table", "footnote"})


def lines(at: Element | None) -> list[str]:
    """Return narrative as lines of plain text, cells apart."""
    pieces: list[str] = []
    for event, element in etree.iterwalk(at, events=("start", "end")) if at is not None else ():
        name = _local(element)
        if event == "start":
            pieces += ["\n" if name in _LINES else "", element.text or ""]
        else:
            cell = "\t" if name in ("td", "th") else ""
            pieces += ["\n" if name in _LINES else cell, element.tail or ""]
    rows = ("".join(pieces)).split("\n")
    cells = ([" ".join(cell.split()) for cell in row.split("\t")] for row in rows)
    return [line for row in cells if (line := " | ".join(cell for cell in row if cell))]


def _local(at: Element) -> str:
    """Return the name of an element without its namespace; vendors also write XHTML names."""
    return str(etree.QName(at).localname)


# CDA R2 §4.3.5: the narrative block. Element -> tag of ours; others are made below.
_PLAIN_TAGS: Final = {
    "paragraph": "p",
    "item": "li",
    "sub": "sub",
    "sup": "sup",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tfoot": "tfoot",
    "tr": "tr",
}
_STYLES: Final = {  # styleCode (CDA R2 §4.3.5.11), case apart
    "bold": "strong",
    "emphasis": "em",
    "italics": "em",
    "underline": "u",
}


class _Narrative:
    """Turns one narrative block into HTML; footnotes are numbered and come at its end."""

    def __init__(self) -> None:
        self._notes: list[tuple[str, str]] = []  # (ID, HTML)
        self._made: dict[str, Callable[[Element, int], str]] = {
            "list": self._list,
            "caption": self._caption,
            "td": self._cell,
            "th": self._cell,
            "br": lambda _, __: "<br>",
            "linkHtml": self._link,
            "footnote": self._footnote,
            "footnoteRef": self._footnote_ref,
            "renderMultiMedia": self._media,
            "col": lambda _, __: "",
            "colgroup": lambda _, __: "",
            "content": self._content,
        }
        self._ids: Mapping[str, int] = {}

    def render(self, at: Element) -> str:
        """Return the HTML of a `text` element."""
        notes = [each for each in at.iter(f"{V3}footnote") if attr(each, "ID")]
        self._ids = {attr(each, "ID"): place for place, each in enumerate(notes, 1)}
        made = self._inner(at, 0)
        if not self._notes:
            return made
        listed = "".join(f"<p><sup>{number}</sup> {html}</p>" for number, html in self._notes)
        return f"{made}<hr>{listed}"

    def _inner(self, at: Element, depth: int) -> str:
        pieces = [escape(at.text or "")]
        for child in at:
            if depth > _DEEPEST:
                pieces.append(escape(words_in(child)))
            elif isinstance(child.tag, str):
                pieces.append(self._one(child, depth + 1))
            pieces.append(escape(child.tail or ""))
        return "".join(pieces)

    def _one(self, at: Element, depth: int) -> str:
        name = _local(at)
        if name in self._made:
            return self._made[name](at, depth)
        inner = self._styled(at, self._inner(at, depth))
        tag = _PLAIN_TAGS.get(name)
        return f"<{tag}>{inner}</{tag}>" if tag else inner

    def _styled(self, at: Element, inner: str) -> str:
        for style in attr(at, "styleCode").casefold().split()[:4]:
            tag = _STYLES.get(style)
            inner = f"<{tag}>{inner}</{tag}>" if tag and inner.strip() else inner
        return inner

    def _content(self, at: Element, depth: int) -> str:
        inner = self._styled(at, self._inner(at, depth))
        revised = attr(at, "revised")
        tag = {"delete": "s", "insert": "u"}.get(revised)
        return f"<{tag}>{inner}</{tag}>" if tag else inner

    def _list(self, at: Element, depth: int) -> str:
        tag = "ol" if attr(at, "listType") == "ordered" else "ul"
        title = "".join(
            f"<p><strong>{self._inner(each, depth)}</strong></p>"
            for each in at
            if isinstance(each.tag, str) and _local(each) == "caption"
        )
        items = "".join(
            self._one(each, depth + 1)
            for each in at
            if isinstance(each.tag, str) and _local(each) == "item"
        )
        return f"{title}<{tag}>{items}</{tag}>"

    def _caption(self, at: Element, depth: int) -> str:
        inner = self._styled(at, self._inner(at, depth))
        parent = at.getparent()
        if parent is not None and _local(parent) == "table":
            return f"<caption>{inner}</caption>"
        return f"<strong>{inner}</strong> "

    def _cell(self, at: Element, depth: int) -> str:
        tag = _local(at)
        inner = self._styled(at, self._inner(at, depth))
        spans = "".join(
            f' {name}="{said}"'
            for name in ("colspan", "rowspan")
            if (said := attr(at, name)).isdecimal() and said.isascii() and len(said) < 4
        )
        return f"<{tag}{spans}>{inner}</{tag}>"

    def _link(self, at: Element, depth: int) -> str:
        """Show where a link leads as text: nothing in the frame leads anywhere (row D8)."""
        inner, href = self._inner(at, depth), attr(at, "href")
        leads = href.casefold().startswith(("http://", "https://", "mailto:"))
        return f"{inner} ({escape(href)})" if leads and href not in inner else inner

    def _footnote(self, at: Element, depth: int) -> str:
        own = self._ids.get(attr(at, "ID"))
        number = str(own) if own else f"{len(self._notes) + 1}"
        self._notes.append((number, self._inner(at, depth)))
        return f"<sup>{number}</sup>"

    def _footnote_ref(self, at: Element, depth: int) -> str:
        del depth
        number = self._ids.get(attr(at, "IDREF"))
        return f"<sup>{number}</sup>" if number else ""

    def _media(self, at: Element, depth: int) -> str:
        title = self._inner(at, depth).strip()
        return f"<p><em>A picture or sound in the document, not shown here.</em> {title}</p>"
