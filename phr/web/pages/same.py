"""The patient's word on one record: it is the same as another, it is not, and each taken back.

What follows from it is decided in `phr.gather`; here it is asked for, shown and undone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.orm import Session

from phr import clock, gather
from phr.chart.plain import moment_words
from phr.chart.titles import list_words, record_title, when_text
from phr.errors import InvalidInput, NotFound
from phr.fhir.record import Record
from phr.store import connections, entries, members, records
from phr.views.frame import Context, day
from phr.web.routing import Access, Form, Visit, action, slow_page

_RECORD = "/p/{patient_id:str}/record/{type_:str}/{local_id:str}"
_SAME = f"{_RECORD}/same"
MOST = 60  # records that one page lists
NAMED = 5  # records that one decision names
DONE = {True: "These are told as one thing now.", False: "This stands apart now."}


@dataclass(frozen=True, slots=True)
class Piece:
    """Another record in short: what, of when, whose, and its page."""

    local_id: str
    title: str
    when: str
    origin: str
    href: str


@dataclass(frozen=True, slots=True)
class Word:
    """What was said in one step about a record and some others, and still stands."""

    step: int
    words: str
    done: str
    others: tuple[Piece, ...]
    hidden: int


def beside(visit: Visit, session: Session, record: Record) -> Mapping[str, Any]:
    """Return what a record's page says of the others that are told as one thing with it."""
    context = Context(origins=connections.origins(session), now=clock.now())
    found = entries.evidence(session, [record.pk])
    pks = [pk for some in found.values() for pk in some if pk != record.pk]
    together = entries.loaded(session, visit.vault, pks[:MOST])
    said = _standing(visit, session, record, context)
    return {
        "together": _pieces(visit, together, context),
        "hidden": len(pks) - len(together),
        "said": said,
        "just": next((one for one in said if str(one.step) == visit.query.get("said")), None),
        "joinable": bool(gather.alike(record.type)),
    }


def _pieces(visit: Visit, found: Sequence[Record], context: Context) -> tuple[Piece, ...]:
    return tuple(
        Piece(
            one.local_id,
            record_title(one),
            moment_words(when_text(one.document)),
            context.origin(one),
            visit.url(_path(visit, one.type, one.local_id)),
        )
        for one in found
    )


def _standing(visit: Visit, session: Session, record: Record, context: Context) -> tuple[Word, ...]:
    """Return what stands about a record, the newest first."""
    steps: dict[int, list[entries.Said]] = {}
    for said in entries.history(session):
        if not said.undone and record.local_id in (said.decision.one, said.decision.other):
            steps.setdefault(said.step, []).append(said)
    return tuple(
        _word(visit, session, record, said, context) for _, said in sorted(steps.items())[::-1]
    )


def _word(
    visit: Visit,
    session: Session,
    record: Record,
    said: Sequence[entries.Said],
    context: Context,
) -> Word:
    first = said[0]
    pairs = [(one.decision.one, one.decision.other) for one in said]
    names = [other if one == record.local_id else one for one, other in pairs]
    keys = [key for name in names[:NAMED] if (key := records.key_of(name)) is not None]
    others = _pieces(visit, records.by_keys(session, visit.vault, keys), context)
    what = "the same thing as" if first.decision.same else "not the same as"
    words = f"{_who(visit, first.by)} said on {day(first.at)} that this is {what}:"
    return Word(first.step, words, DONE[first.decision.same], others, len(names) - len(others))


def _who(visit: Visit, account_id: str) -> str:
    if account_id == visit.account_id:
        return "You"
    house, patient_id = visit.appliance.house, visit.patient.id if visit.patient else ""
    names = {one.account_id: one.name for one in members.members_of(house, patient_id)}
    return names.get(account_id, "Somebody who was a member then")


def _path(visit: Visit, type_: str, local_id: str) -> str:
    if visit.patient is None:
        raise NotFound
    return f"/p/{visit.patient.id}/record/{type_}/{local_id}"


def _found(visit: Visit, session: Session, type_: str, local_id: str) -> Record:
    found = records.get(session, visit.vault, type_, local_id)
    if found is None:
        raise NotFound
    return found


# ------------------------------------------------------------------ the same as another


@slow_page(_SAME, access=Access.PROXY)
def others(visit: Visit, type_: str, local_id: str) -> Response[Any]:
    """List the other records of the same kind that this one could be the same as."""
    return _list(visit, type_, local_id)


@action(_SAME, access=Access.PROXY)
def join(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Tell this record and another one as one thing."""
    with visit.vault.read() as session:
        _found(visit, session, type_, local_id)
    other, now = form.get("other"), clock.now()
    try:
        step = gather.join(
            visit.vault, local_id, other, by=visit.account_id, now=now, actor=visit.actor
        )
    except InvalidInput as refused:
        return _list(visit, type_, local_id, sentence=refused.sentence)
    return visit.redirect(f"{_path(visit, type_, local_id)}?said={step}")


def _list(visit: Visit, type_: str, local_id: str, *, sentence: str = "") -> Response[Any]:
    words = visit.query.get("q", "").strip()[:200]
    types = gather.alike(type_)
    if not types:
        raise NotFound
    with visit.vault.read() as session:
        record = _found(visit, session, type_, local_id)
        found, more = entries.others(
            session, visit.vault, record.pk, types, words=words, limit=MOST
        )
        context = Context(origins=connections.origins(session), now=clock.now())
    return visit.render(
        "pages/same.html",
        status=422 if sentence else 200,
        sentence=sentence,
        name=record_title(record),
        origin=context.origin(record),
        kind=list_words(type_),
        base=_path(visit, type_, local_id),
        rows=_pieces(visit, found, context),
        more=more,
        words=words,
    )


# ------------------------------------------------------------------ not the same, and undo


@action(f"{_RECORD}/apart", access=Access.PROXY)
def split(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Tell this record apart from all that it is told as one thing with."""
    del form
    path = _path(visit, type_, local_id)
    with visit.vault.read() as session:
        _found(visit, session, type_, local_id)
    by, now = visit.account_id, clock.now()
    try:
        step = gather.split(visit.vault, local_id, by=by, now=now, actor=visit.actor)
    except InvalidInput as refused:
        return visit.redirect(path, flash=refused.sentence)
    return visit.redirect(f"{path}?said={step}")


@action(f"{_RECORD}/undo", access=Access.PROXY)
def undo(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Take back what was said about this record in one step."""
    step = form.get("step")
    with visit.vault.read() as session:
        record = _found(visit, session, type_, local_id)
        said = [one for one in entries.history(session) if str(one.step) == step]
    pairs = [(one.decision.one, one.decision.other) for one in said]
    if not any(record.local_id in pair for pair in pairs):
        raise NotFound
    if not said[0].undone:
        gather.undo(visit.vault, said[0].step, now=clock.now(), actor=visit.actor)
    flash = "Taken back. It is told as it was before."
    return visit.redirect(_path(visit, type_, local_id), flash=flash)


ROUTES: list[HTTPRouteHandler] = [others, join, split, undo]
