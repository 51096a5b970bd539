"""Reading: every section, one test, one record with its files and versions, search.

Handlers fetch a Selection and hand it to a view; what is shown is decided in `phr.views`.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.orm import Session

from phr import clock, transcribe, views
from phr import own as own_layer
from phr.chart import remarks
from phr.chart.changes import changes
from phr.chart.plain import counted, mapping
from phr.chart.provenance import behind
from phr.chart.titles import list_words, record_title
from phr.errors import NotFound
from phr.fhir import synonyms
from phr.fhir.kinds import KINDS
from phr.fhir.record import OWN, Record, Selection
from phr.store import connections, entries, newest, points, records
from phr.store.models import LedgerState, Member
from phr.store.vault import Vault
from phr.views import documents as document_views
from phr.views import during
from phr.views.frame import CAREGIVERS, Context, Link, day, is_transcribed, minute
from phr.web.pages import own, same
from phr.web.routing import Access, Form, Visit, action, page, slow_page

LOINC = "http://loinc.org"
PAGES_KEPT = 12  # drawn sections of one vault, at most about 100 kB each
_PAGES = "sections"  # where they lie in `Vault.drawn`
SEARCH_LIMIT = 60  # as many as one page shows
PAPERS_LIMIT = 20  # documents found by their own text
FEW = 350  # records: it is quicker to follow their references than to read all caregivers
POINTED_LIMIT = 100  # records that one record points to and that are named on its page
T = TypeVar("T")
_RECORD = "/p/{patient_id:str}/record/{type_:str}/{local_id:str}"


# ------------------------------------------------------------------------- fetching


def fetch(session: Session, vault: Vault, view: views.View, main: Selection) -> list[Record]:
    """Return the records of a view's main selection, then what they point to.

    One view wants only the newest value of each test; on its last page are also those that have no
    code, which a person writes down and a paper says.
    """
    pick = newest.of_each_concept if view is views.BY_TEST else records.select
    found = list(pick(session, vault, main))
    room = (main.limit or 0) - 1 - len(found)
    if view is views.BY_TEST and room > 0:  # a full page goes on
        found = [*newest.without_concept(session, vault, main, room), *found]
    seen = {record.pk for record in found}
    for selection in view.also:
        if selection is CAREGIVERS and len(found) <= FEW:
            extra = records.pointed_to(session, vault, found, selection.types)
        else:
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
        remarks=remarks.read(own.remarked(visit, session)),
        **more,
    )


def _test_href(base: str, system: str, code: str) -> str | None:
    if not code or "/" in code or len(code) > 100 or not code.isprintable():
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
    """Show one view as a page."""
    place = (view, main, visit.path, tuple(sorted(visit.query.items())))
    shown, further = kept(visit, place, lambda: _drawn(visit, view, main))
    return visit.render(
        "pages/section.html",
        title=view.title,
        shown=shown,
        older=further,
        later=bool(main.before),
        **{"tabs": [], "back": None, **(extra or {})},
    )


def kept(visit: Visit, place: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` draws at a place, as long as nothing was written since.

    It says what the vault says, and which day it is: the number of commits tells whether that is
    still so. Kept with the open vault, and gone with its sealing (docs/decisions/0036).
    """
    vault = visit.vault
    state = vault.database.commits, clock.now().date(), visit.url("")
    held: tuple[Any, dict[Any, Any]] | None = vault.drawn.get(_PAGES)
    if held is None or held[0] != state:
        held = vault.drawn[_PAGES] = (state, {})
    pages = held[1]
    if place in pages:
        drawn: T = pages[place]
        return drawn
    drawn = make()
    if vault.database.commits == state[0]:
        if len(pages) >= PAGES_KEPT:
            pages.clear()
        pages[place] = drawn
    return drawn


def _drawn(visit: Visit, view: views.View, main: Selection) -> tuple[views.Shown, str | None]:
    """Fetch, build and draw one view; return it and the address of its next page."""
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
        if view is views.TEST and len(own) == main.limit:  # its drawing goes back further
            known["points"] = points.read(session, vault, main)
        shown = views.show(view, found, context(visit, session, **known))
    return shown, older(visit, own, main.limit)


def _section(view: views.View) -> Any:
    @slow_page(f"/p/{{patient_id:str}}/{view.slug}", access=Access.MEMBER, name=view.slug)
    def section(visit: Visit) -> Response[Any]:
        return _draw(visit, view, replace(view.selection, before=before(visit)))

    return section


_RESULT_VIEWS = {
    "newest": ("Newest", views.VIEWS["results"]),
    "tests": ("By test", views.BY_TEST),
    "flagged": ("Out of range", views.FLAGGED),
    "new": ("New", views.NEW),
}


@slow_page("/p/{patient_id:str}/results", access=Access.MEMBER)
def results(visit: Visit) -> Response[Any]:
    """Show the newest groups, one row for each test, what is out of range, or what is new."""
    show = visit.query.get("show", "newest")
    _, view = _RESULT_VIEWS.get(show, _RESULT_VIEWS["newest"])
    tabs = [(f"?show={slug}", words, one is view) for slug, (words, one) in _RESULT_VIEWS.items()]
    since = _seen(visit) if view is views.NEW else None
    selection = replace(view.selection, before=before(visit), received_since=since)
    return _draw(visit, view, selection, extra={"tabs": tabs})


def _seen(visit: Visit) -> datetime | None:
    """Return when this member last marked everything as seen."""
    with visit.vault.read() as session:
        member = session.get(Member, visit.account_id)
        return member.seen_at if member else None


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
    ("emergency", "print", "Emergency access"),
    ("grants", "eye", "Who can see"),
    ("direct", "connections", "Direct mail"),
    ("consents", "connections", "Proposed by apps"),
    ("activity", "timeline", "Who saw what"),
    ("inbox", "inbox", "Inbox"),
    ("connections", "connections", "Connections"),
    ("files", "file", "Bring or take a file"),
    ("files/link", "file", "Health link or card"),
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
        papers = transcribe.find(vault, session, words, limit=PAPERS_LIMIT)
        found, instead = records.search(session, vault, words, limit=SEARCH_LIMIT), ""
        if not found and not papers:
            found, instead = records.search_near(session, vault, words, limit=SEARCH_LIMIT)
            papers = transcribe.find(vault, session, instead, limit=PAPERS_LIMIT)
        around = context(visit, session)
        shown = views.show(views.HITS, found, around)
        unread = bool(words) and transcribe.waits(vault, session)
    inside = document_views.found(papers, around)
    heading = " and ".join(one.heading for one, some in ((shown, found), (inside, papers)) if some)
    if not words:
        heading = "Search this record"
    return visit.render(
        "pages/search.html",
        words=words,
        heading=heading or shown.heading,
        shown=shown if found or not papers else None,
        inside=inside if papers else None,
        instead=instead,
        unread=unread,
        also=synonyms.also(instead or words),
    )


# ------------------------------------------------------------------------- one record


def one_record(visit: Visit, session: Session, type_: str, local_id: str) -> Record:
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


def _with_visit(
    session: Session, vault: Vault, found: Record, shown: views.Shown, around: views.Context
) -> views.Shown:
    """Return the page of a visit with what it brought in front of its own fields."""
    looked = records.select(session, vault, during.selection(found))
    brought = during.of_visit(found, looked)
    if not brought:
        return shown
    return replace(shown, body=views.render(views.VISIT, brought, around) + shown.body)


def _documents(visit: Visit, session: Session, found: Record, around: Context) -> list[Link]:
    """Return links to the documents that a record was transcribed from."""
    if not is_transcribed(found, around):
        return []
    told = Selection(types=("Provenance",), connection_id=found.connection_id, limit=2000)
    made = []
    for one in behind(found, records.select(session, visit.vault, told)):
        type_, place = "DocumentReference", found.connection_id
        local_id = one.local_id or records.local_id(visit.vault, place, type_, one.remote_id)
        if records.get(session, visit.vault, type_, local_id) is not None:
            base = f"/p/{visit.patient.id if visit.patient else ''}"
            made.append(Link(one.words, f"{base}/record/{type_}/{local_id}"))
    return made


def _taken_in(visit: Visit, session: Session, found: Record, around: Context) -> str:
    """Return how many records of which kind were made of a document: "Allergies 3, Problems 2"."""
    made = transcribe.made_of(visit.vault, session, found)
    stand = (one for one in made if is_transcribed(one, around) and not one.withdrawn)
    number = Counter(list_words(one.type) for one in stand)
    return ", ".join(f"{label} {count:,}" for label, count in sorted(number.items()))


@slow_page(_RECORD, access=Access.MEMBER)
def record(visit: Visit, type_: str, local_id: str) -> Response[Any]:
    """Show one record readable, with its marks and where it came from."""
    with visit.vault.read() as session:
        found = one_record(visit, session, type_, local_id)
        pointed = records.referenced(session, visit.vault, found)[:POINTED_LIMIT]
        near = records.by_keys(session, visit.vault, pointed)
        around = context(visit, session)
        shown = views.show(views.RECORD, [found, *near], around)
        if found.type == "Encounter":
            shown = _with_visit(session, visit.vault, found, shown, around)
        versions = records.versions(session, visit.vault, type_, local_id)
        beside = {**same.beside(visit, session, found), **own.beside(visit, session, found)}
        papers = _documents(visit, session, found, around)
        taken = _taken_in(visit, session, found, around)
    origin = around.origins.get(found.connection_id)
    newest = max((one.version for one in versions), default=found.version)
    return visit.render(
        "pages/record.html",
        shown=shown,
        found=found,
        kind=list_words(found.type),
        papers=papers,
        taken=taken,
        own=origin is not None and origin.kind == OWN,
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
        newest = one_record(visit, session, type_, local_id)
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


@action(f"{_RECORD}/private", access=Access.PROXY)
def mark_private(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Keep a record private, or take that mark away; recipients never learn of it."""
    on = form.get("on") == "yes"
    with visit.vault.read() as session:
        found = records.get(session, visit.vault, type_, local_id)
        said = own.on_record(visit, session, found) if found else []
        made = transcribe.made_of(visit.vault, session, found) if found else []
    own_layer.mark_private(visit.vault, local_id, [*said, *made], on=on)
    told = (
        "This record is private now. It is left out of all you share, unless you tick it there."
        if on
        else "It is not private any more."
    )
    if on and made:
        told = f"{told} So is what was transcribed from it: {counted(len(made), 'record')}."
    return visit.redirect(
        f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}", flash=told
    )


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
    mark_private,
]
