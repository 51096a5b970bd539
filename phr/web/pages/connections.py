"""Connections: is my record up to date, what could not be fetched, and how to sign in somewhere.

The words are `phr.web.pages.ledger`; what happens is `phr.connect` and `phr.pull`.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from litestar import Response
from litestar.response import ServerSentEvent, ServerSentEventMessage
from sqlalchemy.orm import Session

from phr import beacon, clock, connect, ids, oauth, pull
from phr.errors import Conflict, InvalidInput, NetError, NotFound, PhrError, Sealed, StepUpNeeded
from phr.store import connections, records
from phr.store.models import Connection, ConnectionState, Pull
from phr.store.vault import Vault
from phr.web.pages import ledger
from phr.web.routing import Access, Form, Visit, action, live_page, page, slow_page
from phr.web.sessions import CHANGING_ROLES

CALLBACK = "/connect/callback"
AUDIENCES = {
    "exact": "The address as typed above (most hospitals)",
    "no_slash": "The address without a slash at its end",
    "absent": "Leave it out",
}
SOON = timedelta(days=14)  # before a permission ends, the person is asked to sign in anew
WATCH_SECONDS = 1.0
WATCH_LONGEST = 1800  # looks of one event stream


# ------------------------------------------------------------------------- looking


@page("/p/{patient_id:str}/connections", access=Access.MEMBER)
def show(visit: Visit) -> Response[Any]:
    """List the connections with their health and what each offered."""
    with visit.vault.read() as session:
        rows = connections.listed(session)
        cards = [_card(visit, session, row) for row in rows if row.kind != connections.UPLOAD]
        # One that gave nothing stays among the files, with the reason.
        giving = connections.giving(session)
        files = [row for row in rows if row.kind == connections.UPLOAD and row.id in giving]
        endings = {row.id: ending_of(row, clock.now()) for row in rows}
    head, below = ledger.answer(cards)
    return visit.render(
        "pages/connections_list.html",
        head=head,
        below=below,
        cards=cards,
        files=files,
        endings=endings,
        may_change=_may_change(visit),
    )


@page("/p/{patient_id:str}/connections/{connection_id:str}", access=Access.MEMBER)
def one(visit: Visit, connection_id: int) -> Response[Any]:
    """Show one connection with its whole ledger; htmx and event streams keep it fresh."""
    with visit.vault.read() as session:
        row = connections.get(session, connection_id)
        last = connections.last_pull(session, connection_id)
        lines = _lines(session, last)
        return visit.render(
            "pages/connections_one.html",
            block="ledger",
            card=_card(visit, session, row),
            ending=ending_of(row, clock.now()),
            helped=helped_by(row),
            moved=visit.appliance.catalogue.forwarded(row.base_url) if row.base_url else None,
            row=row,
            is_unread=ledger.is_unread(row, last),
            is_place=row.kind in connections.PLACES,
            is_file=row.kind == connections.UPLOAD,
            last=last,
            lines=ledger.in_order(lines),
            empty=sorted({ledger.label_of(line) for line in lines if ledger.is_empty(line)}),
            aside=connections.quarantined(session, last.id) if last else [],
            pulls=connections.pulls(session, connection_id),
            label_of=ledger.label_of,
            may_change=_may_change(visit),
        )


@dataclass(frozen=True, slots=True)
class Ending:
    """When a hospital's permission ends, in words: the mark's class, the sentence, what to do."""

    word: str
    text: str
    more: str


def ending_of(row: Connection, now: datetime) -> Ending | None:
    """Return what is said about the end of a permission; None while none is known."""
    ends = connections.permission_ends(row)
    if ends is None:
        return None
    if not row.credentials.get("refresh_token"):
        return Ending(
            "wait" if ends > now else "none",
            "This hospital's permission cannot renew itself. It is good until "
            f"{clock.minute_here(ends)}.",
            "Each later update needs a new sign-in there.",
        )
    word = "wait" if ends - now < SOON else "fresh"
    return Ending(
        word,
        f"The hospital's permission ends on {clock.day_here(ends)}.",
        "Sign in there anew before then, and nothing is missed.",
    )


def helped_by(row: Connection) -> list[str]:
    """Say which lighthouse helps with this connection and what it sees (DESIGN §7.12)."""
    if not row.client:
        return []
    client, said = oauth.Client.from_json(row.client), []
    if client.help is not None:
        place = urlsplit(client.help.url).netloc
        does = {
            beacon.SIGNS: f"The lighthouse {place} signs for this connection when it renews.",
            beacon.PASSES: f"This connection passes its keys through {place} when it renews.",
        }[client.help.kind]
        said.append(f"{does} {beacon.SEES[client.help.kind]}")
    if client.back is not None:
        place = urlsplit(client.back.url).netloc
        said.append(f"Signing in leads back through {place}. {beacon.SEES[beacon.LEADS_BACK]}")
    return said


def _lines(session: Session, last: Pull | None) -> list[Any]:
    return connections.lines(session, last.id) if last else []


def _card(visit: Visit, session: Session, row: Connection) -> ledger.Card:
    last = connections.last_pull(session, row.id)
    return ledger.card(
        row,
        last,
        _lines(session, last),
        kept=sum(records.counts(session, row.id).values()),
        running=_is_asked(visit, row.id),
        host=urlsplit(row.base_url).netloc,
    )


def _is_asked(visit: Visit, connection_id: int) -> bool:
    jobs = visit.appliance.jobs
    waiting = jobs is not None and jobs.is_asked(visit.vault.id, connection_id)
    return waiting or pull.is_running(visit.vault.id, connection_id)


def _may_change(visit: Visit) -> bool:
    return visit.patient is not None and visit.patient.role in CHANGING_ROLES


@live_page("/p/{patient_id:str}/connections/{connection_id:str}/events", access=Access.MEMBER)
async def events(visit: Visit, connection_id: int) -> ServerSentEvent:
    """Tell how a running pull gets on, until it has ended."""
    vault = visit.vault
    return ServerSentEvent(_progress(visit, vault, connection_id))


async def _progress(
    visit: Visit, vault: Vault, connection_id: int
) -> AsyncIterator[ServerSentEventMessage]:
    said = ""
    for _ in range(WATCH_LONGEST):
        if not _is_asked(visit, connection_id):
            break
        try:
            words = await asyncio.to_thread(_words_of, vault, connection_id)
        except (Sealed, NotFound):
            break
        if words != said:
            said = words
            yield ServerSentEventMessage(event="progress", data=words)
        await asyncio.sleep(WATCH_SECONDS)
    yield ServerSentEventMessage(event="done", data="done")


def _words_of(vault: Vault, connection_id: int) -> str:
    with vault.read() as session:
        connections.get(session, connection_id)
        got, _ = ledger.counted(_lines(session, connections.last_pull(session, connection_id)))
    return f"Asking now: {got:,} records looked at so far."


# ------------------------------------------------------------------------- what it does


INTERFACE = "/p/{patient_id:str}/connections/{connection_id:str}/interface"


@slow_page(INTERFACE, access=Access.MEMBER)
def interface(visit: Visit, connection_id: int) -> Response[Any]:
    """Show what this hospital's interface claims, returned and got wrong: nothing of the person."""
    from phr import conformance  # noqa: PLC0415 - most starts never make a report

    seen = visit.kept(f"look {connection_id}")
    with visit.vault.read() as session:
        row = connections.get(session, connection_id)
        name = row.name
    items = conformance.report(visit.vault, connection_id, seen)
    parts = [
        (heading, [one for one in items if one.kind == kind])
        for kind, heading in conformance.HEADINGS.items()
    ]
    return visit.render(
        "pages/connections_interface.html",
        name=name,
        connection_id=connection_id,
        parts_of_it=[pair for pair in parts if pair[1]],
        seen=seen is not None,
        may_change=_may_change(visit),
    )


@action(INTERFACE, access=Access.PROXY)
def look(visit: Visit, connection_id: int) -> Response[Any]:
    """Ask the server anew what it says of itself; the answer is shown for a quarter of an hour."""
    from phr import conformance  # noqa: PLC0415 - as above

    seen = conformance.look(visit.vault, connection_id, visit.appliance.http)
    visit.put_down(f"look {connection_id}", seen)
    return visit.redirect(f"{_base(visit)}/{connection_id}/interface")


@slow_page(INTERFACE + "/report.txt", access=Access.MEMBER)
def report_as_text(visit: Visit, connection_id: int) -> Response[Any]:
    """Give the report as a text file, to be sent to anybody."""
    from phr import conformance  # noqa: PLC0415 - as above

    return _file("txt", conformance.as_text(_items(visit, connection_id)))


@slow_page(INTERFACE + "/report.json", access=Access.MEMBER)
def report_as_json(visit: Visit, connection_id: int) -> Response[Any]:
    """Give the report as NDJSON, the same lines as `phr check connection --json`."""
    from phr import conformance  # noqa: PLC0415 - as above

    return _file("json", conformance.as_lines(_items(visit, connection_id)))


def _items(visit: Visit, connection_id: int) -> Any:
    from phr import conformance  # noqa: PLC0415 - as above

    named, seen = "unnamed" not in visit.query, visit.kept(f"look {connection_id}")
    return conformance.report(visit.vault, connection_id, seen, named=named)


def _file(ending: str, text: str) -> Response[Any]:
    kind = {"txt": "text/plain; charset=utf-8", "json": "application/x-ndjson"}[ending]
    disposition = f'attachment; filename="interface-report.{ending}"'
    return Response(text.encode(), media_type=kind, headers={"Content-Disposition": disposition})


# ------------------------------------------------------------------------- connecting


@page("/p/{patient_id:str}/connections/add", access=Access.PROXY)
def add_form(visit: Visit) -> Response[Any]:
    """Offer the ways to connect: the demo hospital, by name, or by address."""
    return _draw_add(visit)


def _draw_add(visit: Visit, form: Form | None = None, sentence: str | None = None) -> Response[Any]:
    return visit.render(
        "pages/connections_add.html",
        status=422 if sentence else 200,
        redirect_uri=redirect_uri(visit),
        audiences=AUDIENCES,
        demo=visit.appliance.demo,
        typed=form or Form(),
        sentence=sentence,
    )


def redirect_uri(visit: Visit) -> str:
    """Return the address at which hospitals send people back to this Homeport."""
    return visit.appliance.settings.home_url + CALLBACK


@action("/p/{patient_id:str}/connections/add", access=Access.PROXY)
def add(visit: Visit, form: Form) -> Response[Any]:
    """Look how to sign in at the address, keep the connection, and lead to its sign-in.

    Without a client id this Homeport registers itself, where the server takes that.
    """
    client_id = form.text("client_id", limit=300)
    wish = connect.Wish(
        name=form.text("name", limit=80),
        base_url=form.text("base_url", limit=2000),
        client_id=client_id,
        way=connect.OWN if client_id else connect.REGISTERED,
        secret=form.text("secret", limit=2000),
        scopes=form.text("scopes", limit=4000),
        audience=form.text("audience", limit=20) or "exact",
        registered=form.text("registered", limit=2000),
    )
    try:
        return add_and_begin(visit, wish)
    except PhrError as problem:
        if isinstance(problem, Sealed | StepUpNeeded):
            raise
        return _draw_add(visit, form, problem.sentence)


@action("/p/{patient_id:str}/connections/demo", access=Access.PROXY)
def add_demo(visit: Visit) -> Response[Any]:
    """Connect the demo hospital that runs beside this appliance."""
    demo = visit.appliance.demo
    if demo is None:
        raise NotFound
    wish = connect.Wish(
        demo.name, demo.base_url, demo.client_id, authorize=demo.authorize_url, demo=True
    )
    return add_and_begin(visit, wish)


def add_and_begin(visit: Visit, wish: connect.Wish) -> Response[Any]:
    """Keep a new connection and lead to the page that names where the person signs in."""
    connection_id = connect.add(
        visit.vault,
        visit.appliance.http,
        wish,
        redirect_uri=redirect_uri(visit),
        actor=visit.actor,
    )
    return _begin(visit, connection_id)


@action("/p/{patient_id:str}/connections/{connection_id:str}/sign-in", access=Access.PROXY)
def sign_in(visit: Visit, connection_id: int, form: Form) -> Response[Any]:
    """Start the sign-in at the hospital: first time, again, or after its address moved."""
    return _begin(visit, connection_id, moved_is_fine=form.has("moved_is_fine"))


def _begin(visit: Visit, connection_id: int, *, moved_is_fine: bool = False) -> Response[Any]:
    begun = connect.begin(
        visit.appliance.house,
        visit.vault,
        connection_id,
        http=visit.appliance.http,
        session_hash=_browser(visit),
        redirect_uri=redirect_uri(visit),
        moved_is_fine=moved_is_fine,
    )
    visit.put_down(f"sign-in {connection_id}", begun)
    return visit.redirect(f"{_base(visit)}/{connection_id}/sign-in")


def _browser(visit: Visit) -> bytes:
    """Return what a sign-in is bound to: this browser's session, as a hash."""
    if visit.session is None:
        raise NotFound
    return ids.fingerprint(visit.session.public_id)


def _base(visit: Visit) -> str:
    if visit.patient is None:
        raise NotFound
    return f"/p/{visit.patient.id}/connections"


@page("/p/{patient_id:str}/connections/{connection_id:str}/sign-in", access=Access.PROXY)
def leave(visit: Visit, connection_id: int) -> Response[Any]:
    """Name the host where the person signs in next, with a plain link there.

    A link and not a redirect: a posted form may not lead to a foreign site (CSP form-action), and
    the person should see where the password is going to be typed.
    """
    with visit.vault.read() as session:
        row = connections.get(session, connection_id)
    begun: connect.Begun | None = visit.kept(f"sign-in {connection_id}")
    if begun is None or begun.connection_id != connection_id:
        return visit.redirect(f"{_base(visit)}/{connection_id}")
    return visit.render(
        "pages/connections_leave.html",
        row=row,
        begun=begun,
        own_redirect=oauth.Endpoint.from_json(row.endpoint).quirks.get("redirect"),
        sentence=None,
    )


@slow_page(CALLBACK, access=Access.ACCOUNT)
def callback(visit: Visit) -> Response[Any]:
    """Take the answer that the hospital sent this browser with (RFC 6749 §4.1.2).

    Some answer in the fragment, which is not sent here: a script hands it over, or the person does.
    """
    if not visit.query:
        return visit.render("pages/connections_landed.html", status=400)
    return _land(visit, dict(visit.query))


@action("/connect/paste", access=Access.ACCOUNT)
def paste(visit: Visit, form: Form) -> Response[Any]:
    """Take the same answer from the address that the person landed on and pasted."""
    try:
        landed = oauth.read_landing(form.get("landed"))
    except InvalidInput as problem:
        return _failed(visit, problem)
    return _land(visit, landed)


def _land(visit: Visit, landed: dict[str, str]) -> Response[Any]:
    mine = frozenset(person.id for person in visit.people if person.role in CHANGING_ROLES)
    try:
        found = connect.land(
            visit.appliance.house,
            visit.appliance.vaults,
            landed,
            http=visit.appliance.http,
            session_hash=_browser(visit),
            actor=visit.actor,
            may_change=mine,
        )
    except PhrError as problem:
        if isinstance(problem, Sealed):
            raise
        return _failed(visit, problem)
    _pull_soon(visit, found.patient_id, found.connection_id)
    path = f"/p/{found.patient_id}/connections/{found.connection_id}"
    return visit.redirect(path, flash=f"Signed in at {found.name}. Fetching begins now.")


def _failed(visit: Visit, problem: PhrError) -> Response[Any]:
    return visit.render("pages/connections_failed.html", status=400, sentence=problem.sentence)


# ------------------------------------------------------------------------- using it


def _pull_soon(visit: Visit, patient_id: str, connection_id: int) -> bool:
    jobs = visit.appliance.jobs
    return jobs is not None and jobs.pull_soon(patient_id, connection_id)


@action("/p/{patient_id:str}/connections/{connection_id:str}/pull", access=Access.PROXY)
def pull_now(visit: Visit, connection_id: int) -> Response[Any]:
    """Ask the hospital now; the page then shows how it gets on."""
    with visit.vault.read() as session:
        row = connections.get(session, connection_id)
        if row.state != ConnectionState.ACTIVE:
            raise Conflict("This connection is not active, so nothing was asked for.")
    if not _pull_soon(visit, visit.vault.id, connection_id):
        return _back(visit, connection_id, "It is being asked already.")
    return _back(visit, connection_id)


def _back(visit: Visit, connection_id: int, flash: str | None = None) -> Response[Any]:
    return visit.redirect(f"{_base(visit)}/{connection_id}", flash=flash)


@action("/p/{patient_id:str}/connections/{connection_id:str}/pause", access=Access.PROXY)
def pause(visit: Visit, connection_id: int) -> Response[Any]:
    """Ask nothing more until resumed."""
    connect.pause(visit.vault, connection_id, actor=visit.actor)
    return _back(visit, connection_id, "Paused. Nothing is asked there until you resume.")


@action("/p/{patient_id:str}/connections/{connection_id:str}/resume", access=Access.PROXY)
def resume(visit: Visit, connection_id: int) -> Response[Any]:
    """Ask again, beginning now."""
    connect.resume(visit.vault, connection_id, actor=visit.actor)
    _pull_soon(visit, visit.vault.id, connection_id)
    return _back(visit, connection_id, "Resumed.")


@action("/p/{patient_id:str}/connections/{connection_id:str}/follow", access=Access.PROXY)
def follow(visit: Visit, connection_id: int, form: Form) -> Response[Any]:
    """Ask at the address that took this one's place: the person has seen both and agrees."""
    with visit.vault.read() as session:
        row = connections.get(session, connection_id)
        moved = visit.appliance.catalogue.forwarded(row.base_url)
    if moved is None or moved[0] != form.get("to"):
        raise Conflict
    try:
        anew = connect.follow(
            visit.vault, connection_id, moved[0], http=visit.appliance.http, actor=visit.actor
        )
    except (InvalidInput, NetError) as problem:
        return _back(visit, connection_id, f"It stays at the old address. {problem.sentence}")
    if not anew:
        _pull_soon(visit, visit.vault.id, connection_id)
    said = "Please sign in there once." if anew else "The permission goes along."
    return _back(visit, connection_id, f"The new address is in use from now on. {said}")


@page("/p/{patient_id:str}/connections/{connection_id:str}/remove", access=Access.PROXY)
def remove_form(visit: Visit, connection_id: int) -> Response[Any]:
    """Ask what becomes of the records."""
    with visit.vault.read() as session:
        row = connections.get(session, connection_id)
        return visit.render(
            "pages/connections_remove.html",
            row=row,
            card=_card(visit, session, row),
            is_file=row.kind == connections.UPLOAD,
        )


@action("/p/{patient_id:str}/connections/{connection_id:str}/remove", access=Access.PROXY)
def remove(visit: Visit, connection_id: int, form: Form) -> Response[Any]:
    """Forget the tokens and, if so chosen, erase what came from there."""
    choice = form.get("records")
    if choice not in {"keep", "erase"}:
        raise InvalidInput("Please choose what becomes of the records.")
    if choice == "erase":
        visit.require_step_up()
    told = connect.remove(
        visit.vault,
        connection_id,
        http=visit.appliance.http,
        keep_records=choice == "keep",
        actor=visit.actor,
    )
    done = "its records are kept" if choice == "keep" else "its records were erased"
    return visit.redirect(_base(visit), flash=f"The connection was removed; {done}. {told}".strip())


ROUTES = [
    show,
    one,
    events,
    interface,
    look,
    report_as_text,
    report_as_json,
    add_form,
    add,
    add_demo,
    sign_in,
    leave,
    callback,
    paste,
    pull_now,
    pause,
    resume,
    follow,
    remove_form,
    remove,
]
