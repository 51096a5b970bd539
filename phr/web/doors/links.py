"""The link a patient gives to a doctor: a form for the code, then pages drawn through the gate.

The secret stands only in the address that asks for the code. Once a browser is bound, its cookie
and the routing id are enough, so that history, bookmarks and printed pages hold no secret.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import ServerSentEvent, Stream
from litestar.response.sse import ServerSentEventMessage
from markupsafe import Markup

from phr import clock
from phr.chart import documents
from phr.chart.titles import title
from phr.errors import Denied, Ended, NotFound, PhrError, Sealed, TooManyTries
from phr.fhir.kinds import KINDS
from phr.fhir.record import Record
from phr.papers import apart
from phr.papers.kinds import as_text
from phr.sharing import cover, endings, gate, handles, links, package
from phr.sharing.gate import Released
from phr.sharing.links import Claim, Outcome
from phr.sharing.provision import SUPPORTING, Action
from phr.store.vault import Vault
from phr.views import RECORD, VIEWS, Context, View, attachment, show
from phr.views.attachment import FRAME_CSP, Way
from phr.views.picture import without_traces
from phr.web.faults import status_of
from phr.web.presented import by_cookie, cookie_of, vault_of
from phr.web.routing import Access, Form, Visit, action, live_page, slow_page

AFTERWARDS = timedelta(days=30)  # a link that is over says so to the browser that had it
LISTENERS_AT_MOST = 20  # open pages of one link that hear of the end at once
KEEP_ALIVE = 20.0  # seconds between two signs of life
LONGEST_LIST = 1000  # rows of one section
TITLES: dict[type[Exception], str] = {
    Ended: "This link has ended",
    Denied: "This is not shared right now",
    Sealed: "The record is locked just now",
}
SENTENCES = {  # what the error itself says -> what a doctor needs to know beside the title
    Ended.sentence: "Ask the person who sent it for a new one.",
    Sealed.sentence: "The patient's own server was restarted and the record on it is still locked."
    " Please ask the patient to sign in there once, then reload this page. Nothing is lost.",
}
NOT_HERE = "The record names this file, but the file itself never came to the patient's server."
ONLY_ON_SCREEN = "This file can only be saved, and the patient shares this for the screen only."
AGAIN = (
    "Somebody with the right code tried to open one of your links on a second device, or a link was"
    " locked after five wrong codes. Look at “Who can see”."
)
Handler = Callable[..., Any]


def door(handler: Handler) -> Handler:
    """Say an ending, a pause or a sealed record in words; everything unknown stays a plain 404."""

    @wraps(handler)
    def guarded(visit: Visit, *args: Any, **named: Any) -> Any:
        try:
            return handler(visit, *args, **named)
        except (Ended, Denied, Sealed) as error:
            return _sorry(visit, error)

    @wraps(handler)
    async def guarded_stream(visit: Visit, *args: Any, **named: Any) -> Any:
        try:
            return await handler(visit, *args, **named)
        except (Ended, Denied, Sealed) as error:
            return _sorry(visit, error)

    return guarded_stream if iscoroutinefunction(handler) else guarded


def _sorry(visit: Visit, error: PhrError) -> Response[bytes]:
    return visit.render(
        "doors/sorry.html",
        status=status_of(error),
        title=TITLES[type(error)],
        sentence=SENTENCES.get(error.sentence, error.sentence),
    )


# ------------------------------------------------------------------ the form


@slow_page("/s/{handle:str}", access=Access.LINK)
@door
def opened(visit: Visit, handle: str, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Ask for the code (this consumes nothing), or show the first page to a bound browser."""
    routing_id, _, secret = handle.partition(".")
    if not secret:
        return _first_page(visit, routing_id, is_head=request.method == "HEAD")
    vault = vault_of(visit, routing_id)
    left = links.look(vault, routing_id, secret, now=clock.now())
    if _is_bound(visit, vault, routing_id):
        return visit.redirect(f"/s/{routing_id}")
    return _form(visit, handle, None if left else Claim(Outcome.LOCKED))


@action("/s/{handle:str}", access=Access.LINK)
@door
def claim(visit: Visit, form: Form, handle: str) -> Response[bytes]:
    """Take a typed code; the right one binds this browser and leads to the first page."""
    routing_id, _, secret = handle.partition(".")
    vault = vault_of(visit, routing_id)
    code = handles.digits(form.get("code"))
    if code is None:
        links.look(vault, routing_id, secret, now=clock.now())
        return _form(visit, handle, None, unreadable=True)
    now = clock.now()
    result = links.claim(vault, routing_id, secret, code, visit.agent, now=now)
    if result.outcome in {Outcome.TAKEN, Outcome.LOCKED}:
        vault.house.warn(vault.id, AGAIN)
    if result.cookie is None or result.ends_at is None:
        return _form(visit, handle, result)
    lasts = result.ends_at - now + AFTERWARDS
    visit.set_cookie(
        cookie_of(routing_id),
        result.cookie,
        path=cookie_path(visit),
        max_age=int(lasts.total_seconds()),
    )
    return visit.redirect(f"/s/{routing_id}")


STATUS = {Outcome.WRONG: 403, Outcome.TAKEN: 409, Outcome.LOCKED: 410}


def _form(
    visit: Visit, handle: str, result: Claim | None, *, unreadable: bool = False
) -> Response[bytes]:
    status = 400 if unreadable else STATUS[result.outcome] if result else 200
    return visit.render(
        "doors/code.html", status=status, handle=handle, result=result, unreadable=unreadable
    )


# ------------------------------------------------------------------ the pages


def _first_page(visit: Visit, routing_id: str, *, is_head: bool) -> Response[bytes]:
    if is_head:  # a mail scanner or a preview that got hold of the address looks, nobody reads
        gate.look(vault_of(visit, routing_id), by_cookie(visit, routing_id), now=clock.now())
        return Response(b"", media_type="text/html")
    released = _release(visit, routing_id, Action.VIEW, "link.viewed", section="first page")
    return _draw(
        visit,
        "doors/first.html",
        routing_id,
        released,
        body=cover.body(
            cover.cover(released, now=clock.now()), _tools(visit, routing_id, released)
        ),
        sections=cover.sections(released),
    )


@slow_page("/s/{routing_id:str}/print", access=Access.LINK)
@door
def printed(visit: Visit, routing_id: str, request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show everything on one page, for paper."""
    _refuse_head(request)
    released = _release(visit, routing_id, Action.PRINT, "link.printed", measure=True)
    now = clock.now()
    return _draw(
        visit,
        "doors/print.html",
        routing_id,
        released,
        body=cover.body(cover.cover(released, now=now)),
        whole=cover.whole(released, now=now),
    )


@slow_page("/s/{routing_id:str}/record.json", access=Access.LINK)
@door
def download(
    visit: Visit, routing_id: str, request: Request[Any, Any, Any]
) -> Response[bytes] | Stream:
    """Send the released records as a FHIR Bundle; it is cut off where the grant ends meanwhile."""
    _refuse_head(request)
    released = _release(visit, routing_id, Action.DOWNLOAD, "link.downloaded", measure=True)
    base_url = visit.appliance.settings.public_url
    return Stream(
        package.bundle(released, base_url=base_url, now=clock.now()),
        media_type=package.FHIR_JSON,
        headers={"Content-Disposition": 'attachment; filename="health-record.json"'},
    )


@slow_page("/s/{routing_id:str}/record.zip", access=Access.LINK)
@door
def signed_package(
    visit: Visit, routing_id: str, request: Request[Any, Any, Any]
) -> Response[bytes] | Stream:
    """Send the same Bundle with a page to read and the signature of this appliance, as one zip."""
    _refuse_head(request)
    released = _release(visit, routing_id, Action.DOWNLOAD, "link.downloaded", measure=True)
    base_url, now = visit.appliance.settings.public_url, clock.now()
    parcel = package.parcel(released, routing_id, base_url=base_url, now=now)
    return Stream(
        package.zipped(parcel),
        media_type="application/zip",
        headers={"Content-Disposition": 'attachment; filename="health-record.zip"'},
    )


@slow_page("/s/{routing_id:str}/{section:str}", access=Access.LINK)
@door
def section(
    visit: Visit, routing_id: str, section: str, request: Request[Any, Any, Any]
) -> Response[bytes]:
    """Show one section of what is shared."""
    kind = visit.query.get("type", "")
    view = cover.of_kind(kind) if section == "other" and kind in KINDS else VIEWS.get(section)
    if view is None:
        raise NotFound
    _refuse_head(request)
    wide = replace(view, selection=replace(view.selection, limit=LONGEST_LIST))
    released = _release(visit, routing_id, Action.VIEW, "link.viewed", section=view.slug)
    return _view_page(visit, routing_id, released, wide, cover.section_records(released, wide))


@slow_page("/s/{routing_id:str}/record/{type_:str}/{local_id:str}", access=Access.LINK)
@door
def one_record(
    visit: Visit, routing_id: str, type_: str, local_id: str, request: Request[Any, Any, Any]
) -> Response[bytes]:
    """Show one released record; a hidden one answers as if it did not exist."""
    _refuse_head(request)
    released = _release(visit, routing_id, Action.VIEW, "link.viewed", section="record", type=type_)
    one = released.one(type_, local_id)
    return _view_page(visit, routing_id, released, RECORD, [one, *released.around(one)])


@slow_page(
    "/s/{routing_id:str}/record/{type_:str}/{local_id:str}/file/{place:str}", access=Access.LINK
)
@door
def file(
    visit: Visit,
    routing_id: str,
    type_: str,
    local_id: str,
    *,
    place: int,
    request: Request[Any, Any, Any],
) -> Response[bytes]:
    """Show a file of a released record: text, picture or cleaned HTML; all else is saved."""
    _refuse_head(request)
    released = _release(visit, routing_id, Action.VIEW, "link.file", section="record", type=type_)
    record = released.one(type_, local_id)
    listed = documents.attachments(record.document)
    if not 0 <= place < len(listed):
        raise NotFound
    one = listed[place]
    content = _content(released, record, place, "" if one.inline else one.url)
    if not content:
        return _page(attachment.frame_page(f"<p>{NOT_HERE}</p>", "Not here"))
    return _file(content, one.title or title(record.document), released)


def _content(released: Released, record: Record, place: int, url: str) -> bytes:
    """Return the bytes of a file that a released record names; none where they are not here."""
    if not url:
        return documents.inline_bytes(record.document, place) or b""
    try:
        return released.file(record, url)
    except NotFound:
        return b""


def _file(content: bytes, name: str, released: Released) -> Response[bytes]:
    """Answer with a file from outside, sandboxed; what can only be saved needs that permission."""
    kind = attachment.kind_of(content)
    if kind.way is Way.HTML:
        return _page(attachment.frame_page(as_text(content), name))
    if kind.way is Way.READ:
        return _page(attachment.read_page(apart.read(kind.reader, content), name, with_head=True))
    saved = kind.way is Way.SAVE
    if saved and Action.DOWNLOAD not in released.terms.actions:
        raise Denied("download", ONLY_ON_SCREEN)
    content = without_traces(content)  # where a picture was taken stays at home
    way = "attachment" if saved else "inline"
    headers = {
        "Content-Security-Policy": attachment.FILE_CSP,
        "Content-Disposition": f'{way}; filename="{attachment.file_name(name, kind.ending)}"',
    }
    return Response(content, media_type=kind.media_type, headers=headers)


def _page(page: bytes) -> Response[bytes]:
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": FRAME_CSP})


def _view_page(
    visit: Visit, routing_id: str, released: Released, view: View, records: list[Record]
) -> Response[bytes]:
    def link(record: Record) -> str | None:
        known = record.type not in {"Patient", *SUPPORTING}
        address = f"/s/{routing_id}/record/{record.type}/{record.local_id}"
        return visit.url(address) if known else None

    def file_link(record: Record, place: int) -> str | None:
        return visit.url(f"/s/{routing_id}/record/{record.type}/{record.local_id}/file/{place}")

    context = Context(
        origins=released.origins(),
        now=clock.now(),
        link=link,
        attachment_link=file_link,
        type_link=lambda kind: visit.url(f"/s/{routing_id}/other?type={kind}"),
        counts=released.count_by_type(),
        decisions=released.decisions(),
    )
    shown = show(view, records, context)
    who = cover.who(released, now=context.now)
    return _draw(visit, "doors/section.html", routing_id, released, view=view, shown=shown, who=who)


def _tools(visit: Visit, routing_id: str, released: Released) -> Markup:
    """Return the buttons of the first page; a piece of a page, drawn like one."""
    may = released.terms.actions
    given = {
        "handle": routing_id,
        "may_print": Action.PRINT in may,
        "may_download": Action.DOWNLOAD in may,
        "may_send": Action.CONTRIBUTE in may,
    }
    return Markup(visit.look.draw("doors/tools.html", given))  # noqa: S704 (autoescaped)


def _draw(
    visit: Visit, template: str, routing_id: str, released: Released, **context: Any
) -> Response[bytes]:
    return visit.render(
        template,
        handle=routing_id,
        terms=released.terms,
        may_print=Action.PRINT in released.terms.actions,
        may_download=Action.DOWNLOAD in released.terms.actions,
        chosen=cover.CHOSEN,
        **context,
    )


# ------------------------------------------------------------------ the end, at once


@live_page("/s/{routing_id:str}/events", access=Access.LINK)
@door
async def events(visit: Visit, routing_id: str) -> ServerSentEvent:
    """Tell an open page when its grant ends (WHATWG server-sent events)."""
    visit.set_cookies.clear()
    terms = gate.look(vault_of(visit, routing_id), by_cookie(visit, routing_id), now=clock.now())
    if endings.watching(terms.grant_id) >= LISTENERS_AT_MOST:
        raise TooManyTries("Too many pages of this link are open.")
    return ServerSentEvent(_until_the_end(terms))


async def _until_the_end(terms: gate.Terms) -> AsyncIterator[ServerSentEventMessage]:
    with endings.watch(terms.grant_id) as watch:
        yield ServerSentEventMessage(comment="open", retry=2000)
        while (left := (terms.ends_at - clock.now()).total_seconds()) > 0:
            if await watch.ended(min(left, KEEP_ALIVE)):
                break
            yield ServerSentEventMessage(comment="still open")
    yield ServerSentEventMessage(event="ended", data="ended")
    await asyncio.sleep(0)


# ------------------------------------------------------------------ small parts


def cookie_path(visit: Visit) -> str:
    """Return the cookie's path: `__Host-` demands "/"; without TLS it is bound to the door."""
    return "/" if visit.secure else visit.url("/s")


def _is_bound(visit: Visit, vault: Vault, routing_id: str) -> bool:
    try:
        gate.look(vault, by_cookie(visit, routing_id), now=clock.now())
    except NotFound:
        return False
    return True


def _release(visit: Visit, routing_id: str, what: Action, event: str, **detail: Any) -> Released:
    vault = vault_of(visit, routing_id)
    return gate.release(vault, by_cookie(visit, routing_id), what, event, now=clock.now(), **detail)


def _refuse_head(request: Request[Any, Any, Any]) -> None:
    """Answer only GET: what is counted and written down must have been read."""
    if request.method == "HEAD":
        raise NotFound


ROUTES: list[HTTPRouteHandler] = [
    opened,
    claim,
    printed,
    download,
    signed_package,
    events,
    one_record,
    file,
    section,
]
