"""Sharing, for the patient: making a link, who can see, and who saw what, when.

What is decided is decided in `phr.sharing`; here are the forms and the words around them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce
from io import BytesIO
from operator import or_
from typing import Any

import segno
from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from markupsafe import Markup

from phr import clock, ids
from phr.chart.titles import title
from phr.errors import InvalidInput, NotFound
from phr.fhir.labels import Label
from phr.fhir.references import key_of
from phr.sharing import activity, cover, gate, grants, handles, links, outbox, package
from phr.sharing import provision as policy
from phr.sharing.gate import Presented
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.sharing.provision import PARTS, ROLES, SENSITIVE, Action, Provision
from phr.store import audit
from phr.store.models import Grant, HandleKind, Recipient
from phr.web.routing import Access, Form, Visit, action, page, slow_page

HOURS = {1: "1 hour", 24: "1 day", 7 * 24: "7 days", 30 * 24: "30 days"}
USES = {"": "As often as they need", "1": "Once", "3": "3 times", "10": "10 times"}
REACH = {"": "all years", "1": "1 year", "2": "2 years", "5": "5 years", "10": "10 years"}
PRIVATE_SHOWN = 50
PAGE_OF_LOG = 100
PAPER_HOURS = 1
NOT_REACHABLE = (
    "This box has no public address with https yet, so a doctor could not open a link safely."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The share form as it was filled in."""

    what: str
    parts: frozenset[str]
    reach: str
    also: frozenset[str]
    places: frozenset[int]
    ticked: frozenset[str]
    whom: str
    why: str
    hours: int
    uses: str
    may_print: bool
    may_download: bool
    once: str


# ------------------------------------------------------------------ making


@slow_page("/p/{patient_id:str}/share", access=Access.PROXY)
def new(visit: Visit, patient_id: str) -> Response[Any]:  # noqa: ARG001 - checked by the doorkeeper
    """Show What / For whom / How long on one page, with a count and what they will see first."""
    start = Form([("what", "primary"), ("hours", "24"), ("print", "1"), ("download", "1")])
    return _draw(visit, _asked(start))


@action("/p/{patient_id:str}/share", access=Access.PROXY)
def make(visit: Visit, form: Form, patient_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """Count again, show the doctor's view, make the link, or open the page to print."""
    asked = _asked(form)
    wanted = form.get("do", "count")
    if wanted not in {"link", "paper"} or visit.is_htmx:
        return _preview(visit, asked) if wanted == "preview" else _draw(visit, asked)
    try:
        return _make_link(visit, asked) if wanted == "link" else _make_paper(visit, asked)
    except InvalidInput as error:
        return _draw(visit, asked, sentence=error.sentence)


def _make_link(visit: Visit, asked: Asked) -> Response[Any]:
    if not visit.appliance.settings.public_is_safe:
        raise InvalidInput(NOT_REACHABLE)
    now = clock.now()
    wish = _wish(asked, now)
    link = links.make(
        visit.vault,
        wish,
        grant_id=asked.once,
        step_up=_step_up(visit),
        shown=_shown(visit, wish),
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
    wish = replace(_wish(asked, now), ends_at=now + timedelta(hours=PAPER_HOURS), uses=None)
    grant_id = links.make_paper(
        visit.vault,
        wish,
        grant_id=asked.once,
        step_up=_step_up(visit),
        shown=_shown(visit, wish),
        actor=visit.actor,
        now=now,
    )
    return visit.redirect(f"{_base(visit)}/grants/{grant_id}/paper")


def _draw(visit: Visit, asked: Asked, *, sentence: str = "") -> Response[Any]:
    now = clock.now()
    vault = visit.vault
    provision = _provision(asked, now)
    with vault.read() as session:
        tally = gate.tally(session, provision)
        origins = gate.origins(session)
        private = gate.private_records(session, vault, limit=PRIVATE_SHOWN)
        first = _cover(visit, session, provision, now)
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
        titles={record.local_id: title(record.document) for record in private},
        roles={key: role for key, role in ROLES.items() if role.offered},
        all_parts=PARTS,
        sensitive=SENSITIVE,
        hours=HOURS,
        uses=USES,
        reach=REACH,
        safe=visit.appliance.settings.public_is_safe,
        public_url=visit.appliance.settings.public_url,
        loopback=not visit.appliance.settings.public_is_https,
    )


def _cover(visit: Visit, session: Any, provision: Provision, now: datetime) -> cover.Cover:
    """Return the doctor's first screen for a provision nobody has approved yet."""
    vault = visit.vault
    terms = gate.draft_terms(vault, provision, shared_by=visit.account_name, now=now)
    records = gate.preview(session, vault, provision, cover.IDENTITY, *cover.FIRST)
    where = policy.compiled(provision).counted
    return cover.build(records, terms, provision, gate.origins(session, where), now=now)


def _preview(visit: Visit, asked: Asked) -> Response[Any]:
    now = clock.now()
    provision = _provision(asked, now)
    with visit.vault.read() as session:
        first = _cover(visit, session, provision, now)
    until = now + timedelta(hours=asked.hours)
    named = replace(
        first,
        recipient=asked.whom or "the doctor you name",
        reason=asked.why or "not given",
        ends=cover.minute(until),
    )
    fields = [pair for pair in _fields(asked) if pair[0] != "do"]
    return visit.render(
        "pages/shares_preview.html",
        body=cover.body(named),
        fields=fields,
        back=None,
        safe=visit.appliance.settings.public_is_safe,
    )


def qr(text: str) -> Markup:
    """Return a QR code as inline SVG without style attributes and with a name."""
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
        title="QR code of the link",
    )
    return Markup(drawn.getvalue().decode())  # noqa: S704 - drawn by segno, the text is only dots


# ------------------------------------------------------------------ the form in words


def _asked(form: Form) -> Asked:
    what = form.get("what")
    hours = form.get("hours")
    once = form.get("once")
    return Asked(
        what=what if what in ROLES and ROLES[what].offered else "primary",
        parts=frozenset(form.all("part")) & PARTS.keys(),
        reach=form.get("reach") if form.get("reach") in REACH else "",
        also=frozenset(form.all("also")) & SENSITIVE.keys(),
        places=frozenset(int(each) for each in form.all("from")[:200] if _is_number(each)),
        ticked=frozenset(
            each for each in form.all("private")[:PRIVATE_SHOWN] if key_of(each) is not None
        ),
        whom=form.get("whom")[:200],
        why=form.get("why")[:400],
        hours=int(hours) if _is_number(hours) and int(hours) in HOURS else 24,
        uses=form.get("uses") if form.get("uses") in USES else "",
        may_print=form.has("print"),
        may_download=form.has("download"),
        once=once if _is_id(once) else ids.new_id(),
    )


def _is_number(text: str) -> bool:
    """Tell a whole number that fits into a column; `int` refuses thousands of digits by raising."""
    return text.isascii() and text.isdigit() and len(text) < 19


def _is_id(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _fields(asked: Asked) -> list[tuple[str, str]]:
    """Return the form again as name and value, for the hidden fields of the preview."""
    return [
        ("what", asked.what),
        *(("part", each) for each in sorted(asked.parts)),
        ("reach", asked.reach),
        *(("also", each) for each in sorted(asked.also)),
        *(("from", str(each)) for each in sorted(asked.places)),
        *(("private", each) for each in sorted(asked.ticked)),
        ("whom", asked.whom),
        ("why", asked.why),
        ("hours", str(asked.hours)),
        ("uses", asked.uses),
        *([("print", "1")] if asked.may_print else []),
        *([("download", "1")] if asked.may_download else []),
        ("once", asked.once),
    ]


def _provision(asked: Asked, now: datetime) -> Provision:
    chosen = asked.what == "chosen"
    years = int(asked.reach) if chosen and asked.reach else None
    rules = (
        policy.rules_for(sorted(asked.parts), days=years and years * 365, now=now)
        if chosen
        else policy.preset(asked.what, now=now).rules
    )
    optional = ((asked.may_print, Action.PRINT), (asked.may_download, Action.DOWNLOAD))
    return Provision(
        rules=rules,
        labels=reduce(or_, (SENSITIVE[each][1] for each in asked.also), Label.NONE),
        actions=frozenset({Action.VIEW, *(what for given, what in optional if given)}),
        connections=tuple(sorted(asked.places)) if chosen else (),
        ticked=asked.ticked,
    )


def _wish(asked: Asked, now: datetime) -> Wish:
    return Wish(
        recipient=asked.whom,
        reason=asked.why,
        role=asked.what,
        provision=_provision(asked, now),
        ends_at=now + timedelta(hours=asked.hours),
        uses=int(asked.uses) if asked.uses else None,
    )


def _step_up(visit: Visit) -> StepUp:
    factor = visit.require_step_up()
    browser = visit.session
    at = browser.stepped_up_at if browser else None
    if at is None:
        raise NotFound
    return StepUp(visit.account_id, factor, at)


def _shown(visit: Visit, wish: Wish) -> str:
    """Return exactly what the person confirmed, as text: it is kept, with its hash."""
    provision = wish.provision
    named = [title for title, label in SENSITIVE.values() if label in provision.labels]
    with visit.vault.read() as session:
        number = gate.tally(session, provision).shared
    lines = [
        f"What: {ROLES[wish.role].title}; {number} records now",
        f"Sensitive: {', '.join(named) or 'left out'}",
        f"For whom: {wish.recipient}",
        f"Reason: {wish.reason or 'not given'}",
        f"Until: {wish.ends_at.isoformat(timespec='minutes')}",
        f"Opened: {USES.get(str(wish.uses or ''), wish.uses)}",
        f"They may: {', '.join(sorted(provision.actions))}",
        f"Provision: {policy.to_json(provision)}",
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------ print or save for my visit


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}/paper", access=Access.PROXY)
def paper(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001 - as above
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
def paper_file(visit: Visit, patient_id: str, grant_id: str, kind: str) -> Stream:  # noqa: ARG001
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


# ------------------------------------------------------------------ who can see


@dataclass(frozen=True, slots=True)
class Standing:
    """One live grant as the page shows it."""

    grant: Grant
    name: str
    kind: str
    role: str
    number: int
    named: tuple[str, ...]
    is_link: bool
    browsers: tuple[str, ...]
    devices_left: int
    locked: bool
    confirmed: str
    deliveries: tuple[Any, ...]


@slow_page("/p/{patient_id:str}/grants", access=Access.MEMBER)
def who_can_see(visit: Visit, patient_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """Show who can see parts of this record now, the last lines of the log, and what has ended."""
    return _draw_grants(visit)


def _draw_grants(visit: Visit, **more: Any) -> Response[Any]:
    vault = visit.vault
    now = clock.now()
    gate.expire(vault, now=now)
    with vault.read() as session:
        standing = [_standing(session, grant) for grant in grants.standing(session)]
        over = [(grant, _name(session, grant)) for grant in grants.over(session)]
        lines = _lines(session, visit, grant_id=None, limit=8, before=None)
    return visit.render(
        "pages/shares_grants.html",
        standing=standing,
        over=over,
        lines=lines,
        because={"patient": "Ended by you", "time": "Time ran out", "uses": "Used up"},
        may_change=_may_change(visit),
        hours=HOURS,
        **{"code": None, "code_for": None} | more,
    )


def _standing(session: Any, grant: Grant) -> Standing:
    provision = policy.from_json(grant.provision)
    handle = handles.of_grant(session, grant.id, HandleKind.LINK)
    bound = handles.browsers(session, handle.id) if handle else []
    approved = grants.approvals(session, grant.id)
    recipient = session.get(Recipient, grant.recipient_id)
    return Standing(
        grant=grant,
        name=_name(session, grant),
        kind={"link": "by link", "folder": "sent as files", "paper": "on paper"}[recipient.kind],
        role=ROLES[grant.role].title if grant.role in ROLES else grant.role,
        number=gate.tally(session, provision).shared,
        named=tuple(title for title, label in SENSITIVE.values() if label in provision.labels),
        is_link=handle is not None,
        browsers=tuple(one.browser for one in bound),
        devices_left=handle.devices_left if handle else 0,
        locked=handle is not None and handle.tries_left == 0,
        confirmed=activity.PASSWORD.get(approved[0].factor, "") if approved else "",
        deliveries=tuple(outbox.of_grant(session, grant.id)),
    )


def _name(session: Any, grant: Grant) -> str:
    return str(gate.actor_of(session, grant)["name"])


def _may_change(visit: Visit) -> bool:
    return visit.patient is not None and visit.patient.role in {"self", "proxy"}


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}", access=Access.MEMBER)
def what_they_see(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001
    """Show the first screen exactly as the recipient of a grant sees it now."""
    now = clock.now()
    with visit.vault.read() as session:
        grant = grants.get(session, grant_id)
        provision = policy.from_json(grant.provision)
        first = replace(
            _cover(visit, session, provision, now),
            recipient=_name(session, grant),
            shared_by=grant.shared_by,
            reason=grant.reason or "not given",
            ends=cover.minute(grant.ends_at),
        )
    return visit.render(
        "pages/shares_preview.html",
        body=cover.body(first),
        fields=[],
        back=f"{_base(visit)}/grants",
    )


@action("/p/{patient_id:str}/grants/{grant_id:str}/stop", access=Access.PROXY)
def stop(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """End a grant at once; asks nothing."""
    gate.end(visit.vault, grant_id, "patient", visit.actor, now=clock.now())
    return visit.redirect(
        f"{_base(visit)}/grants",
        "Stopped. All further access ends now; copies already opened, printed, downloaded or sent"
        " stay with the recipient.",
    )


@action("/p/{patient_id:str}/grants/{grant_id:str}/pause", access=Access.PROXY)
def pause(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """Pause a grant; asks nothing."""
    gate.suspend(visit.vault, grant_id, visit.actor)
    return visit.redirect(f"{_base(visit)}/grants", "Paused. They see nothing until you go on.")


@action("/p/{patient_id:str}/grants/{grant_id:str}/resume", access=Access.PROXY)
def resume(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """Start a paused grant again; needs the password."""
    step_up = _step_up(visit)
    gate.resume(
        visit.vault,
        grant_id,
        step_up=step_up,
        shown="Let them see it again",
        actor=visit.actor,
        now=clock.now(),
    )
    return visit.redirect(f"{_base(visit)}/grants", "They can see it again.")


@action("/p/{patient_id:str}/grants/{grant_id:str}/extend", access=Access.PROXY)
def extend(visit: Visit, form: Form, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001
    """Let a grant run longer, counted from now; needs the password."""
    hours = form.get("hours")
    if not _is_number(hours) or int(hours) not in HOURS:
        raise InvalidInput("Please choose how long.")
    step_up = _step_up(visit)
    now = clock.now()
    until = now + timedelta(hours=int(hours))
    shown = f"Let them read until {until.isoformat(timespec='minutes')}"
    with visit.vault.write() as session:
        grant = grants.get(session, grant_id)
        grants.extend(
            session,
            visit.vault,
            grant,
            until,
            step_up=step_up,
            shown=shown,
            actor=visit.actor,
            now=now,
        )
    return visit.redirect(f"{_base(visit)}/grants", f"It now runs until {cover.minute(until)}.")


@action("/p/{patient_id:str}/grants/{grant_id:str}/code", access=Access.PROXY)
def code(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """Make a new code for a link and show it once."""
    made = links.new_code(visit.vault, grant_id, visit.actor)
    return _draw_grants(visit, code=made, code_for=grant_id)


@action("/p/{patient_id:str}/grants/{grant_id:str}/device", access=Access.PROXY)
def device(visit: Visit, patient_id: str, grant_id: str) -> Response[Any]:  # noqa: ARG001 - as above
    """Allow one more device for a link."""
    links.allow_browser(visit.vault, grant_id, visit.actor)
    return visit.redirect(
        f"{_base(visit)}/grants", "One more device may open the link, with the same code."
    )


# ------------------------------------------------------------------ who saw what, when


@page("/p/{patient_id:str}/activity", access=Access.MEMBER)
def log(
    visit: Visit,
    patient_id: str,  # noqa: ARG001 - checked by the doorkeeper
    grant: str = "",
    before: int = 0,
) -> Response[Any]:
    """Show the audit log in sentences, newest first, for all or for one grant."""
    with visit.vault.read() as session:
        lines = _lines(
            session, visit, grant_id=grant or None, limit=PAGE_OF_LOG, before=before or None
        )
        names = _recipients(session)
    return visit.render(
        "pages/shares_activity.html",
        lines=lines,
        names=names,
        chosen=grant,
        more=lines[-1].seq if len(lines) == PAGE_OF_LOG else None,
    )


def _lines(
    session: Any, visit: Visit, *, grant_id: str | None, limit: int, before: int | None
) -> list[activity.Line]:
    names = _recipients(session)
    found = audit.entries(session, grant_id=grant_id, limit=limit, before=before)
    places = {number: origin.name for number, origin in gate.origins(session).items()}
    return [activity.line(entry, names, visit.account_id, places) for entry in found]


def _recipients(session: Any) -> Mapping[str, str]:
    every = [*grants.standing(session), *grants.over(session, limit=1000)]
    return {grant.id: _name(session, grant) for grant in every}


def _base(visit: Visit) -> str:
    if visit.patient is None:
        raise NotFound
    return f"/p/{visit.patient.id}"


ROUTES: list[HTTPRouteHandler] = [
    new,
    make,
    paper,
    paper_file,
    who_can_see,
    what_they_see,
    stop,
    pause,
    resume,
    extend,
    code,
    device,
    log,
]
