"""Sharing, for the patient: what, for whom and how long; then a link, a page, or saved files.

What is decided is decided in `phr.sharing`; here are the forms and the words around them. What
stands already is `phr.web.pages.grants`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from markupsafe import Markup

from phr import clock, push
from phr.chart.titles import title
from phr.errors import Conflict, InvalidInput, NetError, NotFound
from phr.sharing import (
    addresses,
    advisor,
    channels,
    cover,
    gate,
    handles,
    health_links,
    links,
    outbox,
    package,
    servers,
    tickets,
)
from phr.sharing import provision as policy
from phr.sharing.channels import folder
from phr.sharing.channels.base import Channel
from phr.sharing.consent import FETCHING
from phr.sharing.gate import Presented
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.provision import PARTS, ROLES, SENSITIVE, Action, Provision
from phr.sharing.servers import Server
from phr.store.models import HandleKind, Postbox
from phr.web.pages import picking
from phr.web.pages.asked import (
    DIRECT,
    HOURS,
    LONGER,
    PRIVATE_SHOWN,
    REACH,
    USES,
    Asked,
    asked_of,
    fields_of,
    provision_of,
    wish_of,
)
from phr.web.routing import Access, Form, Visit, action, slow_page

if TYPE_CHECKING:  # what Direct needs is loaded when somebody asks for it
    from phr.web.pages.mailing import Checked

PAPER_HOURS = 1
START = (("what", "primary"), ("reach", "2"), ("hours", "24"), ("print", "1"), ("download", "1"))
NOT_REACHABLE = (
    "This box has no public address with https yet, so a doctor could not open a link safely."
)
TOO_LONG = "That lasts 30 days at most. Please choose how long."
NOT_SENT = "Nothing was sent: there is no certificate to trust for this address."
UNDER_WAY = "It goes out within a minute. This page follows it."
HEALTH_LINK = {True: "by a health link with a passcode", False: "by a health link to scan"}
QUEUED = "It waits in the outbox and is saved within a minute. You can still stop it."


# ------------------------------------------------------------------ making


@slow_page("/p/{patient_id:str}/share", access=Access.PROXY)
def new(visit: Visit, by: str = "", to: str = "") -> Response[Any]:
    """Show What / For whom / How long on one page, with a count and what they will see first.

    `by=direct` begins with Direct mail, and with an address if there is one already.
    """
    ticked = (("part", each) for each in ROLES["primary"].parts)  # where choosing begins
    return _draw(visit, asked_of(Form([*START, *ticked, ("by", by), ("to", to)])))


@action("/p/{patient_id:str}/share", access=Access.PROXY)
def make(visit: Visit, form: Form) -> Response[Any]:
    """Count again, choose single records, show the doctor's view, or make what was asked for."""
    asked = asked_of(form)
    wanted = form.get("do", "count")
    if visit.is_htmx:
        return _check(visit, asked) if wanted == "check" else _draw(visit, asked)
    if wanted.startswith("pick"):
        return _pick(visit, asked, form)
    if wanted == "preview":
        return _preview(visit, asked)
    making = _MAKING.get(wanted)
    if making is None:
        return _draw(visit, asked, checked=_checked(visit, asked))
    try:
        _must_end_in_time(asked, wanted)
        return making(visit, asked)
    except InvalidInput as error:
        return _draw(visit, asked, sentence=error.sentence)


def _must_end_in_time(asked: Asked, wanted: str) -> None:
    """Raise InvalidInput for something other than mail that is to last longer than 30 days."""
    if asked.hours not in HOURS and wanted != DIRECT:
        raise InvalidInput(TOO_LONG)


def _make_link(visit: Visit, asked: Asked) -> Response[Any]:
    if not visit.appliance.settings.public_is_safe:
        raise InvalidInput(NOT_REACHABLE)
    now = clock.now()
    wish = wish_of(asked, now)
    link = links.make(
        visit.vault,
        wish,
        grant_id=asked.once,
        step_up=step_up_of(visit),
        shown=_shown(visit, wish, "by link"),
        actor=visit.actor,
        public_url=visit.appliance.settings.public_url,
        now=now,
    )
    return visit.render(
        "pages/shares_made.html",
        link=link,
        qr=qr(link.url),
        wish=wish,
        loopback=not visit.appliance.settings.public_is_https,
    )


def _make_paper(visit: Visit, asked: Asked) -> Response[Any]:
    now = clock.now()
    wish = replace(_in_hand(asked, now), ends_at=now + timedelta(hours=PAPER_HOURS))
    grant_id = links.make_paper(
        visit.vault,
        wish,
        grant_id=asked.once,
        step_up=step_up_of(visit),
        shown=_shown(visit, wish, "a page to print or save"),
        actor=visit.actor,
        now=now,
    )
    return visit.redirect(f"{base_of(visit)}/grants/{grant_id}/paper")


def _send(visit: Visit, asked: Asked) -> Response[Any]:
    """Queue one delivery through the folder channel, and lead to the page that follows it."""
    now = clock.now()
    wish = _in_hand(asked, now)
    name = folder.name_for(wish.recipient)
    push.begin(
        visit.vault,
        wish,
        channel=_channels(visit)[folder.Folder.kind],
        address=name,
        grant_id=asked.once,
        step_up=step_up_of(visit),
        shown=_shown(visit, wish, f"saved as files to the outbox folder, as “{name}”"),
        actor=visit.actor,
        now=now,
    )
    return visit.redirect(f"{base_of(visit)}/grants/{asked.once}", QUEUED)


def _make_health_link(visit: Visit, asked: Asked, *, has_passcode: bool) -> Response[Any]:
    """Make a SMART Health Link: to send, with a passcode, or to be scanned in the room, without."""
    settings = visit.appliance.settings
    if not settings.public_is_safe:
        raise InvalidInput(NOT_REACHABLE)
    health_links.must_fit(settings.public_url)
    now = clock.now()
    wish = _in_hand(asked, now)
    if not has_passcode:
        wish = replace(wish, ends_at=min(wish.ends_at, now + health_links.VISIT))
    made = health_links.make(
        visit.vault,
        wish,
        grant_id=asked.once,
        has_passcode=has_passcode,
        step_up=step_up_of(visit),
        shown=_shown(visit, wish, HEALTH_LINK[has_passcode]),
        actor=visit.actor,
        now=now,
    )
    text = health_links.text(made, wish, public_url=settings.public_url, now=now)
    return visit.render(
        "pages/shares_health.html",
        text=text,
        passcode=made.passcode,
        qr=qr(text),
        wish=wish,
        letters=health_links.MOST_DOCUMENTS,
        loopback=not settings.public_is_https,
    )


def _make_ticket(visit: Visit, asked: Asked) -> Response[Any]:
    """Make a SMART Permission Ticket for another server, which then fetches by itself."""
    appliance = visit.appliance
    if not appliance.settings.public_is_safe:
        raise InvalidInput(NOT_REACHABLE)
    now, step_up = clock.now(), step_up_of(visit)
    server, key_set = _server(visit, asked.server)
    advisor.vouch(appliance.http, appliance.settings.advisor, server.address)
    wish = _in_hand(asked, now)
    wish = replace(wish, provision=replace(wish.provision, actions=FETCHING))
    whom = replace(wish, recipient=f"{wish.recipient} ({server.address})".strip())
    made = tickets.issue(
        visit.vault,
        wish,
        server,
        key_set,
        addresses.of(appliance.settings),
        grant_id=asked.once,
        step_up=step_up,
        shown=_shown(visit, whom, "by a ticket for that server alone"),
        actor=visit.actor,
        now=now,
    )
    return visit.render(
        "pages/shares_ticket.html",
        made=made,
        server=server,
        loopback=not appliance.settings.public_is_https,
    )


def named_server(visit: Visit, text: str) -> Server:
    """Return the server that a person named, by its address or its public key."""
    return _server(visit, text)[0]


def _server(visit: Visit, text: str) -> tuple[Server, Mapping[str, Any]]:
    """Return the server that a person named, by address or key, and its keys as they lie there."""
    if not text:
        raise InvalidInput("Please give the address of the server that this is for.")
    if text.startswith(("{", "-----BEGIN")):
        server = servers.with_key(text)
        return server, server.jwks or {}
    try:
        return servers.with_keys_at(visit.appliance.http, text)
    except NetError as problem:
        raise InvalidInput(problem.sentence) from None


def _make_direct(visit: Visit, asked: Asked) -> Response[Any]:
    """Begin to send by Direct mail, once or always, after one more look at the address."""
    now = clock.now()
    wish = _in_hand(asked, now)
    if not wish.recipient.strip():
        raise InvalidInput("Please say who it is for.")
    channel = push.post(visit.vault, http=visit.appliance.http).get(DIRECT)
    if channel is None:
        raise InvalidInput("Please set up your own Direct address first.")
    outbox.check_address(channel, asked.to)
    step_up = step_up_of(visit)
    checked = _checked(visit, asked)
    if checked is None or not checked.may_send:
        return _draw(visit, asked, sentence=NOT_SENT, checked=checked)
    when = "now, and whenever new records arrive" if asked.standing else "once, now"
    shown = _shown(visit, wish, f"by Direct mail to {asked.to}, {when}. {checked.reads}")
    try:
        push.start(
            visit.vault,
            wish,
            channel=channel,
            address=asked.to,
            standing=asked.standing,
            grant_id=asked.once,
            step_up=step_up,
            shown=shown,
            actor=visit.actor,
            now=now,
        )
    except Conflict as error:
        return _draw(visit, asked, sentence=error.sentence, checked=checked)
    wake(visit, "deliveries")
    return visit.redirect(f"{base_of(visit)}/grants/{asked.once}", UNDER_WAY)


def _check(visit: Visit, asked: Asked) -> Response[Any]:
    """Draw how the check of a Direct address went, alone: it is asked while a person types."""
    checked = _checked(visit, asked)
    return visit.render("pages/shares_address.html", checked=checked)


def _checked(visit: Visit, asked: Asked) -> "Checked | None":
    """Look for whom a Direct address leads to; None where nothing is sent that way."""
    if asked.by != DIRECT:
        return None
    from phr.web.pages import mailing  # noqa: PLC0415 - an idle appliance does not hold it

    return mailing.check(visit, asked.to)


_MAKING: Mapping[str, Callable[[Visit, Asked], Response[Any]]] = {
    "link": _make_link,
    "paper": _make_paper,
    "folder": _send,
    "ticket": _make_ticket,
    DIRECT: _make_direct,
    "health": partial(_make_health_link, has_passcode=True),
    "scan": partial(_make_health_link, has_passcode=False),
}


def _in_hand(asked: Asked, now: datetime) -> Wish:
    """Return the wish for something handed over whole: "may print" and uses do not apply to it."""
    wish = wish_of(asked, now)
    return replace(wish, uses=None, provision=replace(wish.provision, actions=policy.READING))


def _channels(visit: Visit) -> Mapping[str, Channel]:
    return channels.opened(visit.appliance.settings.outbox_path)


def _draw(
    visit: Visit, asked: Asked, *, sentence: str = "", checked: "Checked | None" = None
) -> Response[Any]:
    now = clock.now()
    vault = visit.vault
    provision = provision_of(asked, now)
    with vault.read() as session:
        tally = gate.tally(session, provision)
        origins = gate.origins(session)
        private = gate.private_records(session, vault, limit=PRIVATE_SHOWN)
        without = picking.left_out(session, vault, asked.without)
        first = draft_cover(visit, session, provision, now)
        box = session.get(Postbox, 1)
    return visit.render(
        "pages/shares_new.html",
        status=422 if sentence else 200,
        block="tally",
        asked=asked,
        sentence=sentence,
        tally=tally,
        first=first,
        origins=origins.values(),
        private=private,
        without=without,
        titles={record.local_id: title(record.document) for record in private},
        roles={key: role for key, role in ROLES.items() if role.offered},
        all_parts=PARTS,
        sensitive=SENSITIVE,
        bare=[key for key in SENSITIVE if not (tally.labelled[key] or key in asked.also)],
        hours=HOURS,
        longer=LONGER,
        uses=USES,
        box=box,
        checked=checked,
        sealed_at_start=box is not None and not opens_by_itself(visit),
        reach=REACH,
        safe=visit.appliance.settings.public_is_safe,
        public_url=visit.appliance.settings.public_url,
        loopback=not visit.appliance.settings.public_is_https,
    )


def draft_cover(visit: Visit, session: Any, provision: Provision, now: datetime) -> cover.Cover:
    """Return the doctor's first screen for a provision nobody has approved yet."""
    vault = visit.vault
    terms = gate.draft_terms(vault, provision, shared_by=visit.account_name, now=now)
    records = gate.preview(session, vault, provision, cover.IDENTITY, *cover.FIRST)
    origins = gate.origins(session, policy.compiled(provision).counted)
    decisions = gate.decided(session, vault, provision)
    return cover.build(records, terms, provision, origins, now=now, decisions=decisions)


def _pick(visit: Visit, asked: Asked, form: Form) -> Response[Any]:
    """Show the list from which single records are taken out; the form travels along."""
    with visit.vault.read() as session:
        picked = picking.page_of(session, visit.vault, provision_of(asked, clock.now()), form)
    return visit.render(
        "pages/shares_pick.html",
        picked=picked,
        fields=fields_of(asked),
        action=f"{base_of(visit)}/share",
        back="count",
        live=False,
    )


def _preview(visit: Visit, asked: Asked) -> Response[Any]:
    now = clock.now()
    provision = provision_of(asked, now)
    with visit.vault.read() as session:
        first = draft_cover(visit, session, provision, now)
    until = now + timedelta(hours=asked.hours)
    named = replace(
        first,
        recipient=asked.whom or "the doctor you name",
        reason=asked.why or "not given",
        ends=cover.minute(until),
    )
    return visit.render(
        "pages/shares_preview.html",
        body=cover.body(named),
        fields=[*fields_of(asked), *(("without", each) for each in sorted(asked.without))],
        safe=visit.appliance.settings.public_is_safe,
        by_mail=asked.by == DIRECT,
    )


def wake(visit: Visit, job: str) -> None:
    """Have a job of this appliance look now: the person waits for what it does."""
    if visit.appliance.jobs is not None:
        visit.appliance.jobs.wake(job)


def opens_by_itself(visit: Visit) -> bool:
    """Say whether this record opens at a start without anybody, so that what is due can go."""
    return visit.appliance.vaults.opens_by_itself(visit.vault.id)


def qr(text: str, name: str = "QR code of the link") -> Markup:
    """Return a QR code as inline SVG without style attributes and with a name."""
    import segno  # noqa: PLC0415 - 2 MB that an idle appliance does not need

    drawn = BytesIO()
    segno.make(text, error="m", micro=False).save(
        drawn,
        kind="svg",
        border=4,
        xmldecl=False,
        svgns=True,
        svgclass="qr",
        lineclass=None,
        omitsize=True,
        title=name,
    )
    return Markup(drawn.getvalue().decode())  # noqa: S704 - drawn by segno, the text is only dots


def step_up_of(visit: Visit) -> StepUp:
    """Return the fresh password or code of this browser, or raise StepUpNeeded."""
    factor = visit.require_step_up()
    browser = visit.session
    at = browser.stepped_up_at if browser else None
    if at is None:
        raise NotFound
    return StepUp(visit.account_id, factor, at)


def _shown(visit: Visit, wish: Wish, how: str) -> str:
    """Return exactly what the person confirmed, as text: it is kept, with its hash."""
    provision = wish.provision
    named = [title for title, label in SENSITIVE.values() if label in provision.labels]
    with visit.vault.read() as session:
        tally = gate.tally(session, provision)
    lines = [
        f"What: {ROLES[wish.role].title}; {tally.shared} records now",
        f"Sensitive: {', '.join(named) or 'left out'}",
        f"Left out one by one: {tally.single}",
        f"For whom: {wish.recipient}, {how}",
        f"Reason: {wish.reason or 'not given'}",
        f"Until: {wish.ends_at.isoformat(timespec='minutes')}",
        f"Opened: {USES.get(str(wish.uses or ''), wish.uses)}",
        f"They may: {', '.join(sorted(provision.actions))}",
        f"Provision: {policy.to_json(provision)}",
    ]
    return "\n".join(lines)


def base_of(visit: Visit) -> str:
    """Return the address of the record in the path."""
    if visit.patient is None:
        raise NotFound
    return f"/p/{visit.patient.id}"


# ------------------------------------------------------------------ print or save for my visit


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}/paper", access=Access.PROXY)
def paper(visit: Visit, grant_id: str) -> Response[Any]:
    """Show the page to print: through the gate, with an audit line, like every other way out."""
    released = _release_paper(visit, grant_id, Action.PRINT, "paper.shown")
    now = clock.now()
    return visit.render(
        "pages/shares_paper.html",
        grant_id=grant_id,
        body=cover.body(cover.cover(released, now=now)),
        whole=cover.whole(released, now=now),
    )


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}/paper/{kind:str}", access=Access.PROXY)
def paper_file(visit: Visit, grant_id: str, kind: str) -> Stream:
    """Save the same as one HTML page or as a FHIR Bundle."""
    if kind not in {"html", "json"}:
        raise NotFound
    released = _release_paper(visit, grant_id, Action.DOWNLOAD, "paper.saved")
    now = clock.now()
    base_url = visit.appliance.settings.public_url
    pieces = (
        package.bundle(released, base_url=base_url, now=now)
        if kind == "json"
        else released.guarded(iter([cover.page(released, now=now)]))
    )
    media_type = package.FHIR_JSON if kind == "json" else "text/html; charset=utf-8"
    disposition = f'attachment; filename="health-record.{kind}"'
    return Stream(pieces, media_type=media_type, headers={"Content-Disposition": disposition})


def _release_paper(visit: Visit, grant_id: str, what: Action, event: str) -> gate.Released:
    vault = visit.vault
    with vault.read() as session:
        handle = handles.of_grant(session, grant_id, HandleKind.PRINT)
    if handle is None:
        raise NotFound
    return gate.release(
        vault,
        Presented(handle.id),
        what,
        event,
        now=clock.now(),
        actor=visit.actor,
        measure=True,
    )


ROUTES: list[HTTPRouteHandler] = [new, make, paper, paper_file]
