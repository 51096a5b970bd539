"""What the patient adds: forms for every kind of statement, changing one, taking it back, undo."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from litestar import Response
from sqlalchemy.orm import Session

from phr import clock, own
from phr.chart.titles import kind_words, record_title
from phr.errors import InvalidInput, NotFound
from phr.fhir import statements
from phr.fhir.record import Record
from phr.fhir.statements import STATEMENTS, Statement
from phr.store import records
from phr.views.frame import minute
from phr.web.routing import Access, Form, Visit, action, page

_ONE = "/p/{patient_id:str}/own/{type_:str}/{local_id:str}"
_NEW = "/p/{patient_id:str}/own/add/{slug:str}"


@page("/p/{patient_id:str}/own", access=Access.MEMBER)
def listed(visit: Visit) -> Response[Any]:
    """Offer what can be added, and list what was."""
    connection_id = own.connection_of(visit.vault)
    rows = []
    if connection_id is not None:
        with visit.vault.read() as session:
            found = records.select(session, visit.vault, own.selection(connection_id))
        rows = [_row(visit, one) for one in found]
    groups = groupby(STATEMENTS.values(), key=lambda one: one.group)
    return visit.render(
        "pages/own_list.html",
        rows=rows,
        groups=[(name, list(some)) for name, some in groups],
    )


def _row(visit: Visit, record: Record) -> Mapping[str, Any]:
    return {
        "title": record_title(record),
        "kind": kind_words(record.type),
        "href": _href(visit, record),
        "at": minute(record.received_at),
        "taken_back": statements.is_taken_back(record.document),
    }


def _href(visit: Visit, record: Record) -> str:
    return visit.url(f"{_base(visit)}/{record.type}/{record.local_id}")


def _base(visit: Visit) -> str:
    if visit.patient is None:
        raise NotFound
    return f"/p/{visit.patient.id}/own"


# ------------------------------------------------------------------ adding


@page(_NEW, access=Access.PROXY)
def add(visit: Visit, slug: str) -> Response[Any]:
    """Show the empty form of one kind."""
    return _form(visit, _statement(slug), {})


@action(_NEW, access=Access.PROXY)
def keep_new(visit: Visit, form: Form, slug: str) -> Response[Any]:
    """Keep what was filled in."""
    statement = _statement(slug)
    answers = _answers(statement, form)
    try:
        own.state(visit.vault, statement, answers, _author(visit), now=clock.now())
    except InvalidInput as problem:
        return _form(visit, statement, answers, sentence=problem.sentence)
    return visit.redirect(_base(visit), flash=f"{statement.title} added.")


def _statement(slug: str) -> Statement:
    if slug not in STATEMENTS:
        raise NotFound
    return STATEMENTS[slug]


def _answers(statement: Statement, form: Form) -> dict[str, str]:
    return {field.name: form.get(field.name) for field in statement.fields}


def _author(visit: Visit) -> own.Author:
    return own.Author(visit.actor, visit.patient is not None and visit.patient.role == "self")


def _form(
    visit: Visit,
    statement: Statement,
    answers: Mapping[str, str],
    *,
    sentence: str = "",
    record: Record | None = None,
    versions: int = 1,
) -> Response[Any]:
    return visit.render(
        "pages/own_form.html",
        status=422 if sentence else 200,
        statement=statement,
        answers=answers,
        sentence=sentence,
        record=record,
        versions=versions,
        taken_back=record is not None and statements.is_taken_back(record.document),
    )


# ------------------------------------------------------------------ changing


@page(_ONE, access=Access.PROXY)
def change(visit: Visit, type_: str, local_id: str) -> Response[Any]:
    """Show the form of a statement, filled with what it says now."""
    versions, statement = _found(visit, type_, local_id)
    held = versions[0]
    answers = statements.answers(statement, held.document)
    return _form(visit, statement, answers, record=held, versions=len(versions))


@action(_ONE, access=Access.PROXY)
def keep_change(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Keep a new version, take the statement back, or undo the last change."""
    versions, statement = _found(visit, type_, local_id)
    now, author = clock.now(), _author(visit)
    wanted = form.get("do", "save")
    if wanted == "take-back":
        own.take_back(visit.vault, versions[0], author, now=now)
        return visit.redirect(_base(visit), flash="Marked as a mistake. You can undo this.")
    if wanted == "undo":
        own.undo(visit.vault, versions, author, now=now)
        return visit.redirect(_base(visit), flash="It says again what it said before.")
    answers = _answers(statement, form)
    remote_id = versions[0].remote_id
    try:
        own.state(visit.vault, statement, answers, author, now=now, remote_id=remote_id)
    except InvalidInput as problem:
        return _form(
            visit,
            statement,
            answers,
            sentence=problem.sentence,
            record=versions[0],
            versions=len(versions),
        )
    return visit.redirect(_base(visit), flash=f"{statement.title} changed.")


def _found(visit: Visit, type_: str, local_id: str) -> tuple[list[Record], Statement]:
    """Return the versions of an own statement and its kind. Raises NotFound for all else."""
    with visit.vault.read() as session:
        versions = records.versions(session, visit.vault, type_, local_id)
    if not versions or versions[0].connection_id != own.connection_of(visit.vault):
        raise NotFound
    statement = statements.of_type(versions[0].document)
    if statement is None:
        raise NotFound
    return versions, statement


# ------------------------------------------------------------------ about what hospitals list


@action("/p/{patient_id:str}/own/not-taken/{type_:str}/{local_id:str}", access=Access.PROXY)
def not_taken(visit: Visit, type_: str, local_id: str) -> Response[Any]:
    """Note "I don't take this" beside a medicine that a hospital lists; its copy stays."""
    if type_ not in {"MedicationRequest", "MedicationStatement"}:
        raise NotFound
    with visit.vault.read() as session:
        record = _one(session, visit, type_, local_id)
    own.not_taken(visit.vault, record, _author(visit), now=clock.now())
    flash = "Noted: you do not take this. The hospital's copy stays as it is."
    return visit.redirect(
        f"/p/{visit.patient.id if visit.patient else ''}/medications", flash=flash
    )


def _one(session: Session, visit: Visit, type_: str, local_id: str) -> Record:
    found = records.get(session, visit.vault, type_, local_id)
    if found is None:
        raise NotFound
    return found


ROUTES = [listed, add, keep_new, change, keep_change, not_taken]
