"""Files of records: what is in them, shown closed off, read, and saved; and raw bytes.

What a file is says `phr.papers.kinds`, what it says `phr.transcribe`, how it looks
`phr.views.attachment`.
"""

from typing import Any

from litestar import Response

from phr import transcribe
from phr.chart import documents
from phr.chart.plain import mapping, sentence_case, string
from phr.chart.titles import record_title
from phr.errors import NotFound
from phr.fhir.record import Record, Selection
from phr.papers import apart, kinds
from phr.papers.kinds import Kind, Reader, Way
from phr.papers.reading import Reading
from phr.store import records
from phr.views import attachment
from phr.web.pages.chart import one_record
from phr.web.routing import Access, Visit, slow_page

_RECORD = "/p/{patient_id:str}/record/{type_:str}/{local_id:str}"
_PATIENTS = Selection(types=("Patient",), limit=50)


# ------------------------------------------------------------------------- answers


def _file(content: bytes, media_type: str, name: str, *, inline: bool) -> Response[bytes]:
    """Answer with a file from outside: own type, nosniff, sandboxed, named by us."""
    way = "inline" if inline else "attachment"
    return Response(
        content,
        media_type=media_type,
        headers={
            "Content-Security-Policy": attachment.FILE_CSP,
            "Content-Disposition": f'{way}; filename="{name}"',
            "X-Frame-Options": "SAMEORIGIN",
        },
    )


def _framed(page: bytes) -> Response[bytes]:
    """Answer with a cleaned page under the frame's own policy."""
    return Response(
        page,
        media_type="text/html; charset=utf-8",
        headers={
            "Content-Security-Policy": attachment.FRAME_CSP,
            "X-Frame-Options": "SAMEORIGIN",
        },
    )


# ------------------------------------------------------------------------- one record


@slow_page(f"{_RECORD}/raw", access=Access.MEMBER)
def raw(visit: Visit, type_: str, local_id: str) -> Response[bytes]:
    """Give the bytes exactly as they were received."""
    with visit.vault.read() as session:
        found = one_record(visit, session, type_, local_id)
    return _file(found.body, "text/plain; charset=utf-8", f"{type_}-{local_id}.json", inline=True)


@slow_page(f"{_RECORD}/narrative", access=Access.MEMBER)
def narrative(visit: Visit, type_: str, local_id: str) -> Response[bytes]:
    """Give the hospital's own text of a record, cleaned, for the sandboxed frame."""
    with visit.vault.read() as session:
        found = one_record(visit, session, type_, local_id)
    html = string(mapping(found.document.get("text")).get("div"))
    if not html:
        raise NotFound
    return _framed(attachment.frame_page(html, record_title(found)))


# ------------------------------------------------------------------------- its files


def _content(
    visit: Visit, type_: str, local_id: str, place: int
) -> tuple[Record, documents.Attachment, bytes | None, str]:
    """Return record, attachment, its bytes (None: not here) and why they are missing."""
    with visit.vault.read() as session:
        found = one_record(visit, session, type_, local_id)
        listed = documents.attachments(found.document)
        if not 0 <= place < len(listed):
            raise NotFound
        one = listed[place]
        content, why = transcribe.content_of(visit.vault, session, found, one)
    return found, one, content, why


def _named(one: documents.Attachment, record: Record) -> str:
    return one.title or record_title(record)


@slow_page(f"{_RECORD}/file/{{place:str}}", access=Access.MEMBER)
def file(visit: Visit, type_: str, local_id: str, place: int) -> Response[Any]:
    """Show a file from outside: a picture or text in the page, all else in a closed frame."""
    found, one, content, why = _content(visit, type_, local_id, place)
    kind = attachment.kind_of(content) if content else attachment.UNKNOWN
    text, cut = attachment.as_text(content) if content and kind.way is Way.TEXT else ("", False)
    reading = _reading(visit, content, kind)
    return visit.render(
        "pages/file.html",
        name=_named(one, found),
        of=record_title(found),
        kind=sentence_case(kind.words),
        way=kind.way.value,
        size=documents.size_words(str(len(content))) if content else "",
        said=one.said_type,
        differs=bool(content and one.said_type and not _same_type(one.said_type, kind)),
        otherwise=content is not None
        and documents.announced_otherwise(found.document, place, content),
        held=content is not None,
        why=why,
        text=text,
        cut=cut,
        reading=reading,
        words=bool(reading.text) and kind is attachment.PDF,
        stranger=_stranger(visit, reading),
        base=f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}",
        place=place,
    )


def _reading(visit: Visit, content: bytes | None, kind: Kind) -> Reading:
    """Return what a reader finds in a file that is not shown as it is."""
    if content is None or kind.reader in (Reader.NONE, Reader.TEXT, Reader.HTML):
        return Reading()
    return transcribe.of(visit.vault, content)


def _stranger(visit: Visit, reading: Reading) -> str:
    """Say whether a file names somebody else than the records here do."""
    whose = reading.whose
    if not whose.name and not whose.born:
        return ""
    with visit.vault.read() as session:
        patients = records.select(session, visit.vault, _PATIENTS)
    return documents.somebody_else(whose.name, whose.born, [one.document for one in patients])


def _same_type(said: str, kind: Kind) -> bool:
    """Say whether the sender's name for a file fits what its bytes are."""
    plain = said.partition(";")[0].strip().lower()
    if kind is attachment.CDA:
        return plain.endswith("xml") or plain == "application/octet-stream"
    if kind is attachment.RTF and plain == "text/rtf":
        return True
    if kind.way is Way.TEXT:
        return plain.startswith("text/") or plain.endswith(("xml", "json"))
    return plain in (kind.media_type, "application/octet-stream", "application/xhtml+xml")


@slow_page(f"{_RECORD}/file/{{place:str}}/content", access=Access.MEMBER)
def file_content(visit: Visit, type_: str, local_id: str, place: int) -> Response[bytes]:
    """Give a picture, or what is shown of a file in the frame; nothing else is opened here."""
    found, one, content, _ = _content(visit, type_, local_id, place)
    kind = attachment.kind_of(content) if content else attachment.UNKNOWN
    if content is None:
        raise NotFound
    if kind.way is Way.IMAGE:
        return _file(content, kind.media_type, f"file.{kind.ending}", inline=True)
    if kind.way is Way.HTML:
        return _framed(attachment.frame_page(kinds.as_text(content), _named(one, found)))
    if kind.way is not Way.READ and kind.reader is not Reader.PDF:
        raise NotFound
    reading = transcribe.of(visit.vault, content)
    if kind is attachment.PDF and not reading.text:
        raise NotFound  # there is nothing of it that could be shown here
    return _framed(attachment.read_page(reading, _named(one, found), with_head=False))


@slow_page(f"{_RECORD}/file/{{place:str}}/save", access=Access.MEMBER)
def file_save(visit: Visit, type_: str, local_id: str, place: int) -> Response[bytes]:
    """Give the bytes for saving, never for opening in the page."""
    found, one, content, _ = _content(visit, type_, local_id, place)
    if content is None:
        raise NotFound
    kind = attachment.kind_of(content)
    name = attachment.file_name(_named(one, found), kind.ending)
    return _file(content, kind.media_type, name, inline=False)


@slow_page(f"{_RECORD}/file/{{place:str}}/inside", access=Access.MEMBER)
def file_inside(visit: Visit, type_: str, local_id: str, place: int) -> Response[bytes]:
    """Give the file that a clinical document wraps, for saving."""
    found, one, content, _ = _content(visit, type_, local_id, place)
    wraps = content is not None and attachment.kind_of(content) is attachment.CDA
    wrapped = apart.inside(content) if content and wraps else None
    if wrapped is None:
        raise NotFound
    kind = attachment.kind_of(wrapped)
    name = attachment.file_name(_named(one, found), kind.ending)
    return _file(wrapped, kind.media_type, name, inline=False)


ROUTES = [raw, narrative, file, file_content, file_save, file_inside]
