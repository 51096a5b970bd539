"""What an app proposes: to share or send by a FHIR Consent, or to fetch by one; answered here.

What an answer does is decided in `phr.sharing.consents` and `phr.consented`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, Final

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock, consented
from phr.errors import Conflict, ConnectorError, InvalidInput, NetError
from phr.fhir import document
from phr.fhir.labels import Label
from phr.sharing import advisor, clients, consents, given, grants
from phr.sharing.consent import PURPOSES, Part
from phr.sharing.consents import Answer, Asked, Kept
from phr.sharing.provision import SENSITIVE
from phr.sharing.pushes import NO_POSTBOX
from phr.sharing.servers import shown
from phr.web.outcome import FHIR_JSON
from phr.web.pages.asked import REACH, is_number
from phr.web.pages.shares import base_of, named_server, step_up_of
from phr.web.routing import Access, Form, Visit, action, slow_page

DAYS: Final = {"": "as long as it asks", "1": "1 day", "30": "30 days", "90": "3 months"}
MOST_FILE: Final = consents.MOST_BYTES * 4  # with its narrative
ANSWERED: Final = "This was answered already."
SENDING: Final = "It goes out within a minute."


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the patient left of a proposal on the page."""

    lines: tuple[str, ...]
    also: frozenset[str]
    reach: str
    days: str


@slow_page("/p/{patient_id:str}/consents", access=Access.PROXY)
def listed(visit: Visit) -> Response[Any]:
    """List what apps propose and nobody answered yet."""
    return _draw_list(visit)


@action("/p/{patient_id:str}/consents", access=Access.PROXY, uploads=True)
def bring(visit: Visit, form: Form) -> Response[Any]:
    """Take a Consent by hand, pasted or as a file, for the server that is named beside it."""
    appliance = visit.appliance
    try:
        server = named_server(visit, form.get("server").strip())
        advisor.vouch(appliance.http, appliance.settings.advisor, server.address)
        body = _brought(form)
        grant_id = consents.bring(visit.vault, body, server, visit.actor, now=clock.now())
    except InvalidInput as error:
        return _draw_list(visit, sentence=error.sentence)
    return visit.redirect(f"{base_of(visit)}/consents/{grant_id}")


def _brought(form: Form) -> bytes:
    """Return the bytes of the Consent: what was pasted, or else the file. Raises InvalidInput."""
    text = form.get("text").strip()
    if text:
        return text.encode()
    for upload in form.uploads():
        if upload.filename:
            body = bytearray()
            for chunk in upload.chunks:
                body += chunk
                if len(body) > MOST_FILE:
                    raise InvalidInput("This file is larger than a Consent can be.")
            return bytes(body)
    raise InvalidInput("Paste a Consent, or choose a file.")


def _draw_list(visit: Visit, *, sentence: str = "") -> Response[Any]:
    with visit.vault.read() as session:
        waiting = consents.waiting(session, visit.vault)
        given = consents.standing(session, visit.vault)
        fetches = consented.waiting(session)
    return visit.render(
        "pages/proposals.html",
        status=422 if sentence else 200,
        sentence=sentence,
        waiting=[(each, _app(visit, each.row.client_id)) for each in waiting],
        given=given,
        fetches=[(each, shown(each.url), _app(visit, each.client_id)) for each in fetches],
        base=base_of(visit),
    )


@action("/p/{patient_id:str}/fetches/{request_id:str}", access=Access.PROXY)
def answer_fetch(visit: Visit, form: Form, request_id: str) -> Response[Any]:
    """Agree, with the password, to fetch from another server under its Consent; or refuse.

    Nothing is shared by it.
    """
    if form.get("do") == "refuse":
        consented.decline(visit.vault, request_id)
        return visit.redirect(f"{base_of(visit)}/consents", "Refused. Nothing is fetched.")
    try:
        connection_id = consented.agree(
            visit.vault,
            request_id,
            http=visit.appliance.http,
            public_url=visit.appliance.settings.public_url,
            step_up=step_up_of(visit),
            actor=visit.actor,
            now=clock.now(),
        )
    except (InvalidInput, NetError, ConnectorError) as error:
        return _draw_list(visit, sentence=error.sentence)
    jobs = visit.appliance.jobs
    if jobs is not None:
        jobs.pull_soon(visit.vault.id, connection_id)
    return visit.redirect(f"{base_of(visit)}/connections/{connection_id}", "It is being fetched.")


@slow_page("/p/{patient_id:str}/consents/{grant_id:str}", access=Access.PROXY)
def ask(visit: Visit, grant_id: str) -> Response[Any]:
    """Show one proposal: who asks, for which server, each kind of record, and how long."""
    asked = _asked(visit, grant_id)
    lines = tuple(part.line.text for part in asked.proposal.parts)
    return _draw(visit, asked, Chosen(lines, frozenset(), "", ""))


@action("/p/{patient_id:str}/consents/{grant_id:str}", access=Access.PROXY)
def answer(visit: Visit, form: Form, grant_id: str) -> Response[Any]:
    """Refuse, which asks for nothing more; or approve what is left of it, with the password."""
    asked = _asked(visit, grant_id)
    now = clock.now()
    if form.get("do") == "refuse":
        consents.refuse(visit.vault, grant_id, visit.actor, now=now)
        return visit.redirect(f"{base_of(visit)}/consents", "Refused. Nothing was shared.")
    chosen = _chosen(form, asked)
    if form.get("do") != "allow":
        return _draw(visit, asked, chosen, sentence="Allow it, or refuse.")
    try:
        kept = _kept(asked, chosen, now)
        consents.approve(
            visit.vault,
            grant_id,
            kept,
            step_up=step_up_of(visit),
            shown=_shown(visit, asked, kept, chosen),
            actor=visit.actor,
            now=now,
        )
    except InvalidInput as error:
        return _draw(visit, asked, chosen, sentence=error.sentence)
    said = SENDING if asked.mailbox else "It may fetch from now on."
    return visit.redirect(f"{base_of(visit)}/grants/{grant_id}", said)


def _asked(visit: Visit, grant_id: str) -> Asked:
    with visit.vault.read() as session:
        asked = consents.one(session, visit.vault, grant_id)
    if asked.answer is not Answer.WAITING:
        raise Conflict(ANSWERED)
    return asked


def _chosen(form: Form, asked: Asked) -> Chosen:
    ticked = form.all("line")
    return Chosen(
        lines=tuple(part.line.text for part in asked.proposal.parts if part.line.text in ticked),
        also=frozenset(form.all("also")) & _offered(asked).keys(),
        reach=form.get("reach") if form.get("reach") in REACH else "",
        days=form.get("days") if form.get("days") in DAYS else "",
    )


def _offered(asked: Asked) -> Mapping[str, tuple[str, Label]]:
    """Return the sensitive subjects that are asked for by name; no other is offered."""
    return {key: it for key, it in SENSITIVE.items() if it[1] & asked.proposal.labels}


def _kept(asked: Asked, chosen: Chosen, now: datetime) -> Kept:
    days = int(chosen.days) if is_number(chosen.days) else None
    wanted = asked.grant.ends_at if days is None else now + timedelta(days=days)
    return Kept(
        lines=chosen.lines,
        labels=reduce(or_, (SENSITIVE[each][1] for each in chosen.also), Label.NONE),
        since=now - timedelta(days=365 * int(chosen.reach)) if chosen.reach else None,
        ends_at=min(wanted, asked.grant.ends_at),
    )


def _shown(visit: Visit, asked: Asked, kept: Kept, chosen: Chosen) -> str:
    """Return the exact text that is approved."""
    titles = [title for key, (title, _) in SENSITIVE.items() if key in chosen.also]
    parts = [part for part in asked.proposal.parts if part.line.text in kept.lines]
    verb = "Is sent" if asked.mailbox else "May fetch"
    return "\n".join(
        [
            *(f"{name}: {words}" for name, words in _facts(visit, asked).items()),
            *(f"{verb}: {part.line.words} ({part.line.text}){_span(part)}" for part in parts),
            f"Sensitive: {', '.join(titles) or 'left out'}",
            f"Since: {kept.since.isoformat() if kept.since else 'as proposed'}",
            f"Until: {kept.ends_at.isoformat(timespec='minutes')}",
        ]
    )


def _facts(visit: Visit, asked: Asked) -> Mapping[str, str]:
    """Return who asks for what, in the words that the page shows and the approval keeps."""
    return {
        **_whom(visit, asked),
        "Proposed by": _app(visit, asked.row.client_id),
        "Record": "" if visit.patient is None else visit.patient.name,
        "Purpose": PURPOSES[asked.grant.purpose],
    }


def _whom(visit: Visit, asked: Asked) -> Mapping[str, str]:
    if asked.mailbox is None:
        return {"Server": "" if asked.server is None else asked.server.address}
    from phr.sharing import postbox  # noqa: PLC0415 - loaded only where Direct is used

    with visit.vault.read() as session:
        box = postbox.get(session)
    return {
        "Direct address": asked.mailbox.address,
        "When": "once" if asked.mailbox.once else "now, and whenever new records arrive",
        "Who can read it": NO_POSTBOX if box is None else postbox.who_reads(box.mode),
    }


def _span(part: Part) -> str:
    """Return the data period of a part in words; "" where it has none."""
    words = given.span(part.since, part.until)
    return f", {words}" if words else ""


def _app(visit: Visit, client_id: str) -> str:
    if client_id == consents.BY_HAND:
        return "a member of this record, by hand"
    app = clients.find(visit.appliance.house, client_id)
    return "an app that is blocked or gone" if app is None else app.host


def _draw(visit: Visit, asked: Asked, chosen: Chosen, *, sentence: str = "") -> Response[Any]:
    return visit.render(
        "pages/proposal.html",
        status=422 if sentence else 200,
        here=f"{base_of(visit)}/consents/{asked.grant.id}",
        back=f"{base_of(visit)}/consents",
        asked=asked,
        whom=asked.server or asked.mailbox,
        mail=asked.mailbox is not None,
        app=_app(visit, asked.row.client_id),
        facts=_facts(visit, asked),
        parts_asked=[(part.line, _span(part)) for part in asked.proposal.parts],
        ends=clock.minute_here(asked.grant.ends_at),
        sensitive=_offered(asked),
        chosen=chosen,
        sentence=sentence,
        reach=REACH,
        days=DAYS,
    )


# ------------------------------------------------------------------ a grant to take along


@slow_page("/p/{patient_id:str}/grants/{grant_id:str}/consent.json", access=Access.MEMBER)
def as_consent(visit: Visit, grant_id: str) -> Response[bytes]:
    """Give any grant as a FHIR R4 Consent, for one's own papers or another system."""
    with visit.vault.read() as session:
        found = consents.written(session, visit.vault, grants.get(session, grant_id))
    headers = {"Content-Disposition": 'attachment; filename="consent.json"'}
    return Response(document.dumps(found), media_type=FHIR_JSON, headers=headers)


ROUTES: list[HTTPRouteHandler] = [listed, bring, ask, answer, answer_fetch, as_consent]
