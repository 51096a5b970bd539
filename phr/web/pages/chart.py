"""Reading: every section, one test, one record with its files and versions, search.

Handlers fetch a Selection and hand it to a view; what is shown is decided in `phr.views`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.orm import Session

from phr import clock, keep, views
from phr.chart import documents
from phr.chart.changes import changes
from phr.chart.plain import counted, mapping, sentence_case, string
from phr.chart.titles import list_words, record_title
from phr.errors import NotFound
from phr.fhir import synonyms
from phr.fhir.kinds import KINDS
from phr.fhir.record import Record, Selection
from phr.store import connections, entries, records
from phr.store.models import LedgerState
from phr.store.vault import Vault
from phr.views import attachment
from phr.views.frame import day, minute
from phr.web.pages import same
from phr.web.routing import Access, Form, Visit, action, page, slow_page

LOINC = "http://loinc.org"
SEARCH_LIMIT = 60  # as many as one page shows
POINTED_LIMIT = 100  # records that one record points to and that are named on its page
_RECORD = "/p/{patient_id:str}/record/{type_:str}/{local_id:str}"


# ------------------------------------------------------------------------- fetching


def fetch(session: Session, vault: Vault, view: views.View, main: Selection) -> list[Record]:
    """Return the records of a view's main selection, then what they point to."""
    found = list(records.select(session, vault, main))
    seen = {record.pk for record in found}
    for selection in view.also:
        extra = records.select(session, vault, selection)
        found += [record for record in extra if record.pk not in seen]
        seen.update(record.pk for record in extra)
    return found


def answered(session: Session, types: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return, per type, which hospitals were asked and listed none, in sentences."""
    said: dict[str, list[str]] = {}
    for row in connections.listed(session):
        pull = connections.last_pull(session, row.id)
        if pull is None or pull.ended_at is None:
            continue
        for line in connections.lines(session, pull.id):
            if line.type in types and line.state == LedgerState.DONE and not line.got:
                sentence = f"{row.name}, asked on {day(pull.ended_at)}, listed none."
                said.setdefault(line.type, []).append(sentence)
    return {kind: tuple(dict.fromkeys(lines)) for kind, lines in said.items()}


def context(visit: Visit, session: Session, **more: Any) -> views.Context:
    """Return a Context whose links lead to the pages of this patient."""
    base = f"{visit.url('')}/p/{visit.patient.id if visit.patient else ''}"
    return views.Context(
        origins=connections.origins(session),
        now=clock.now(),
        link=lambda record: f"{base}/record/{record.type}/{record.local_id}",
        test_link=lambda system, code: _test_href(base, system, code),
        attachment_link=lambda record, place: (
            f"{base}/record/{record.type}/{record.local_id}/file/{place}"
        ),
        type_link=lambda kind: f"{base}/other?{urlencode({'type': kind})}",
        **more,
    )


def _test_href(base: str, system: str, code: str) -> str | None:
    if not code or "/" in code or len(code) > 100:
        return None
    tail = "" if system == LOINC else f"?{urlencode({'system': system})}"
    return f"{base}/results/{quote(code, safe='')}{tail}"


def before(visit: Visit) -> tuple[int, int] | None:
    """Return the place from which a newest-first list goes on, as the address says it."""
    when, _, pk = visit.query.get("before", "").partition(".")
    try:
        place = int(when), int(pk)
    except ValueError:
        return None
    return place if all(abs(part) < 2**63 for part in place) else None


def older(visit: Visit, main: Sequence[Record], limit: int | None) -> str | None:
    """Return the address of the next page of a full list, else None."""
    if limit is None or len(main) < limit or not main:
        return None
    last = main[-1]
    when = clock.to_ms(last.when) if last.when else records.UNDATED
    query = {**visit.query, "before": f"{when}.{last.pk}"}
    return f"{visit.url(visit.path)}?{urlencode(query)}"


# ------------------------------------------------------------------------- sections


def _draw(
    visit: Visit, view: views.View, main: Selection, *, extra: Mapping[str, Any] | None = None
) -> Response[Any]:
    """Fetch, build and draw one view as a page."""
    vault = visit.vault
    with vault.read() as session:
        found = fetch(session, vault, view, main)
        own = [record for record in found if not main.types or record.type in main.types]
        known: dict[str, Any] = {} if own else {"answered": answered(session, main.types)}
        if view.slug == "other":
            known = {"counts": records.counts(session)}
        else:
            known["decisions"] = entries.decisions(session)
            known["grouped"] = entries.siblings(session, [record.pk for record in found])
        shown = views.show(view, found, context(visit, session, **known))
    return visit.render(
        "pages/section.html",
        title=view.title,
        shown=shown,
        older=older(visit, own, main.limit),
        later=bool(main.before),
        **{"tabs": [], "back": None, **(extra or {})},
    )


def _section(view: views.View) -> Any:
    @slow_page(f"/p/{{patient_id:str}}/{view.slug}", access=Access.MEMBER, name=view.slug)
    def section(visit: Visit) -> Response[Any]:
        return _draw(visit, view, replace(view.selection, before=before(visit)))

    return section


_RESULT_VIEWS = {"newest": views.VIEWS["results"], "tests": views.BY_TEST, "flagged": views.FLAGGED}


@slow_page("/p/{patient_id:str}/results", access=Access.MEMBER)
def results(visit: Visit) -> Response[Any]:
    """Show the newest groups, one row for each test, or only what a source flagged."""
    show = visit.query.get("show", "newest")
    view = _RESULT_VIEWS.get(show, views.VIEWS["results"])
    words = {"newest": "Newest", "tests": "By test", "flagged": "Flagged"}
    tabs = [(f"?show={slug}", word, _RESULT_VIEWS[slug] is view) for slug, word in words.items()]
    selection = replace(view.selection, before=before(visit))
    return _draw(visit, view, selection, extra={"tabs": tabs})


@slow_page("/p/{patient_id:str}/results/{code:str}", access=Access.MEMBER)
def test(visit: Visit, code: str) -> Response[Any]:
    """Show one test over time."""
    system = visit.query.get("system", LOINC)
    view = views.TEST
    main = replace(view.selection, codes=(f"{system}|{code}",), before=before(visit))
    return _draw(visit, view, main, extra={"back": ("results", "Results")})


@slow_page("/p/{patient_id:str}/other", access=Access.MEMBER)
def other(visit: Visit) -> Response[Any]:
    """Show every kind with its count, or all records of one kind."""
    kind = visit.query.get("type", "")
    if not kind:
        return _draw(visit, views.VIEWS["other"], Selection(limit=0))
    if kind not in KINDS:
        raise NotFound
    main = replace(views.KIND.selection, types=(kind,), before=before(visit))
    return _draw(visit, views.KIND, main, extra={"back": ("other", "All records")})


SECTIONS = (
    ("results", "results", "Results"),
    ("medications", "medicines", "Medicines"),
    ("allergies", "allergies", "Allergies"),
    ("problems", "problems", "Problems"),
    ("immunizations", "vaccine", "Vaccines"),
    ("vitals", "vitals", "Vital signs"),
    ("visits", "visit", "Visits"),
    ("procedures", "procedure", "Procedures"),
    ("documents", "documents", "Documents"),
    ("people", "people", "People"),
    ("insurance", "other", "Insurance"),
    ("timeline", "timeline", "Timeline"),
    ("other", "other", "All records"),
)
_BESIDE = (
    ("summary", "file", "Summary"),
    ("own", "pen", "Add something yourself"),
    ("card", "print", "Emergency card"),
    ("grants", "eye", "Who can see"),
    ("activity", "timeline", "Who saw what"),
    ("connections", "connections", "Connections"),
    ("files", "file", "Bring or take a file"),
    ("person", "people", "Members and this person"),
)


@page("/p/{patient_id:str}/more", access=Access.MEMBER)
def more(visit: Visit) -> Response[Any]:
    """Show every section of the record and what stands beside it."""
    return visit.render("pages/more.html", sections=SECTIONS, beside=_BESIDE)


# ------------------------------------------------------------------------- search


@slow_page("/p/{patient_id:str}/search", access=Access.MEMBER)
def search(visit: Visit) -> Response[Any]:
    """Find words anywhere in the record; hits stand by kind."""
    words = visit.query.get("q", "").strip()[:200]
    vault = visit.vault
    with vault.read() as session:
        found, instead = records.search_near(session, vault, words, limit=SEARCH_LIMIT)
        shown = views.show(views.HITS, found, context(visit, session))
    heading = shown.heading if words else "Search this record"
    return visit.render(
        "pages/search.html",
        words=words,
        heading=heading,
        shown=shown,
        instead=instead,
        also=synonyms.also(instead or words),
    )


# ------------------------------------------------------------------------- one record


def _record(visit: Visit, session: Session, type_: str, local_id: str) -> Record:
    """Return the record in the path, or the earlier version that the query names."""
    found = records.get(session, visit.vault, type_, local_id)
    if found is None:
        raise NotFound
    wanted = visit.query.get("version", "")
    if not wanted or wanted == str(found.version):
        return found
    for earlier in records.versions(session, visit.vault, type_, local_id):
        if str(earlier.version) == wanted:
            return earlier
    raise NotFound


@slow_page(_RECORD, access=Access.MEMBER)
def record(visit: Visit, type_: str, local_id: str) -> Response[Any]:
    """Show one record readable, with its marks and where it came from."""
    with visit.vault.read() as session:
        found = _record(visit, session, type_, local_id)
        pointed = records.referenced(session, visit.vault, found)[:POINTED_LIMIT]
        near = records.by_keys(session, visit.vault, pointed)
        around = context(visit, session)
        shown = views.show(views.RECORD, [found, *near], around)
        versions = records.versions(session, visit.vault, type_, local_id)
        beside = same.beside(visit, session, found)
    origin = around.origins.get(found.connection_id)
    newest = max((one.version for one in versions), default=found.version)
    return visit.render(
        "pages/record.html",
        shown=shown,
        found=found,
        kind=list_words(found.type),
        own=origin is not None and origin.kind == "own",
        base=f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}",
        narrative=isinstance(mapping(found.document.get("text")).get("div"), str),
        private=bool(found.labels & found.labels.PRIVATE),
        earlier=found.version != newest,
        versions=len({one.version for one in versions} | {found.version}),
        suffix=f"?version={found.version}" if found.version != newest else "",
        **beside,
    )


@slow_page(f"{_RECORD}/versions", access=Access.MEMBER)
def versions(visit: Visit, type_: str, local_id: str) -> Response[Any]:
    """List every version that was ever received."""
    with visit.vault.read() as session:
        newest = _record(visit, session, type_, local_id)
        found = {newest.version: newest}
        for one in records.versions(session, visit.vault, type_, local_id):
            found.setdefault(one.version, one)
    ordered = sorted(found.values(), key=lambda one: -one.version)
    rows = [
        (one, minute(one.received_at), changes(before.document, one.document) if before else None)
        for one, before in zip(ordered, [*ordered[1:], None], strict=True)
    ]
    return visit.render(
        "pages/versions.html",
        rows=rows,
        heading=counted(len(rows), "version"),
        name=record_title(newest),
        base=f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}",
    )


@slow_page(f"{_RECORD}/raw", access=Access.MEMBER)
def raw(visit: Visit, type_: str, local_id: str) -> Response[bytes]:
    """Give the bytes exactly as they were received."""
    with visit.vault.read() as session:
        found = _record(visit, session, type_, local_id)
    return _file(found.body, "text/plain; charset=utf-8", f"{type_}-{local_id}.json", inline=True)


@slow_page(f"{_RECORD}/narrative", access=Access.MEMBER)
def narrative(visit: Visit, type_: str, local_id: str) -> Response[bytes]:
    """Give the hospital's own text of a record, cleaned, for the sandboxed frame."""
    with visit.vault.read() as session:
        found = _record(visit, session, type_, local_id)
    html = string(mapping(found.document.get("text")).get("div"))
    if not html:
        raise NotFound
    return _framed(html, record_title(found))


@action(f"{_RECORD}/private", access=Access.PROXY)
def mark_private(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Keep a record private, or take that mark away; recipients never learn of it."""
    on = form.get("on") == "yes"
    keep.mark_private(visit.vault, local_id, on=on)
    said = (
        "This record is private now. It is never shared." if on else "It is not private any more."
    )
    return visit.redirect(
        f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}", flash=said
    )


# ------------------------------------------------------------------------- files


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


def _framed(html: str, title: str) -> Response[bytes]:
    """Answer with cleaned hospital HTML under the frame's own policy."""
    return Response(
        attachment.frame_page(html, title),
        media_type="text/html; charset=utf-8",
        headers={
            "Content-Security-Policy": attachment.FRAME_CSP,
            "X-Frame-Options": "SAMEORIGIN",
        },
    )


def _content(
    visit: Visit, type_: str, local_id: str, place: int
) -> tuple[Record, documents.Attachment, bytes | None, str]:
    """Return record, attachment, its bytes (None: not here) and why they are missing."""
    with visit.vault.read() as session:
        found = _record(visit, session, type_, local_id)
        listed = documents.attachments(found.document)
        if not 0 <= place < len(listed):
            raise NotFound
        one = listed[place]
        if one.inline:
            content = documents.inline_bytes(found.document, place)
            return found, one, content, "" if content else "The bytes in the record are damaged."
        for link in records.attachments(session, found.pk):
            if link.url == one.url:
                held = records.attachment(session, link.hash) if link.hash else None
                return found, one, held[1] if held else None, link.sentence or ""
    return found, one, None, ""


@slow_page(f"{_RECORD}/file/{{place:str}}", access=Access.MEMBER)
def file(visit: Visit, type_: str, local_id: str, place: int) -> Response[Any]:
    """Show a file from outside: a picture or text in the page, HTML in a closed frame."""
    found, one, content, why = _content(visit, type_, local_id, place)
    kind = attachment.kind_of(content) if content else attachment.UNKNOWN
    text, cut = attachment.as_text(content) if content and kind.way == "text" else ("", False)
    return visit.render(
        "pages/file.html",
        name=one.title or record_title(found),
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
        base=f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}",
        place=place,
    )


def _same_type(said: str, kind: attachment.Kind) -> bool:
    """Say whether the sender's name for a file fits what its bytes are."""
    plain = said.partition(";")[0].strip().lower()
    if kind.way is attachment.Way.TEXT:
        return plain.startswith("text/") or plain.endswith(("xml", "json"))
    return plain in (kind.media_type, "application/octet-stream", "application/xhtml+xml")


@slow_page(f"{_RECORD}/file/{{place:str}}/content", access=Access.MEMBER)
def file_content(visit: Visit, type_: str, local_id: str, place: int) -> Response[bytes]:
    """Give a picture, or cleaned HTML for the frame; nothing else is opened here."""
    found, one, content, _ = _content(visit, type_, local_id, place)
    kind = attachment.kind_of(content) if content else attachment.UNKNOWN
    if content is None or kind.way not in (attachment.Way.IMAGE, attachment.Way.HTML):
        raise NotFound
    if kind.way is attachment.Way.HTML:
        return _framed(content.decode("utf-8", "replace"), one.title or record_title(found))
    return _file(content, kind.media_type, f"file.{kind.ending}", inline=True)


@slow_page(f"{_RECORD}/file/{{place:str}}/save", access=Access.MEMBER)
def file_save(visit: Visit, type_: str, local_id: str, place: int) -> Response[bytes]:
    """Give the bytes for saving, never for opening in the page."""
    found, one, content, _ = _content(visit, type_, local_id, place)
    if content is None:
        raise NotFound
    kind = attachment.kind_of(content)
    name = attachment.file_name(one.title or record_title(found), kind.ending)
    return _file(content, kind.media_type, name, inline=False)


_OWN: tuple[str, ...] = ("results", "timeline", "other")
_PLAIN = [_section(view) for slug, view in views.VIEWS.items() if slug not in _OWN]
ROUTES: list[HTTPRouteHandler] = [
    *_PLAIN,
    results,
    test,
    other,
    more,
    search,
    record,
    versions,
    raw,
    narrative,
    mark_private,
    file,
    file_content,
    file_save,
]
