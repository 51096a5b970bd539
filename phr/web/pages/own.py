"""What the patient adds: forms for every kind of statement, changing one, taking it back, undo."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from litestar import Response
from sqlalchemy.orm import Session

from phr import clock, own
from phr.chart import remarks
from phr.chart.plain import joined, string
from phr.chart.results import results
from phr.chart.titles import kind_words, record_title
from phr.chart.vitals import reading
from phr.errors import InvalidInput, NotFound
from phr.fhir import statements
from phr.fhir.record import Record
from phr.fhir.statements import STATEMENTS, Shape, Statement
from phr.keep import MAX_ATTACHMENT
from phr.store import connections, records
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
        found.sort(key=lambda one: one.received_at, reverse=True)  # as it was added, not as dated
        rows = [_row(visit, one) for one in found]
    offered = [one for one in STATEMENTS.values() if one.stands_alone]
    groups = groupby(offered, key=lambda one: one.group)
    return visit.render(
        "pages/own_list.html",
        rows=rows,
        groups=[(name, list(some)) for name, some in groups],
    )


def _row(visit: Visit, record: Record) -> Mapping[str, Any]:
    statement = statements.of_type(record.document)
    return {
        "title": _title(record),
        "kind": statement.title if statement else kind_words(record.type),
        "href": _href(visit, record),
        "at": minute(record.received_at),
        "taken_back": statements.is_taken_back(record.document),
    }


def _title(record: Record) -> str:
    """Return the title of a statement; of a blood pressure with both of its figures."""
    told = record_title(record)
    if "component" not in record.document:
        return told
    measured = (reading(one) for one in results([record]))
    return joined(told, *(joined(one.words, one.unit, by=" ") for one in measured), by=": ")


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


@action(_NEW, access=Access.PROXY, uploads=True)
def keep_new(visit: Visit, form: Form, slug: str) -> Response[Any]:
    """Keep what was filled in, and the file that belongs to it."""
    statement = _statement(slug)
    answers = _answers(statement, form)
    now, author = clock.now(), _author(visit)
    try:
        if statement.has_file:
            own.bring(visit.vault, answers, _file(form), author, now=now)
        else:
            own.state(visit.vault, statement, answers, author, now=now)
    except InvalidInput as problem:
        return _form(visit, statement, answers, sentence=problem.sentence)
    return visit.redirect(_base(visit), flash=f"{statement.title} added.")


def _file(form: Form) -> own.File:
    """Read the one file of a form into memory; more than is kept is refused on the way."""
    for upload in form.uploads():
        if upload.filename:
            content = bytearray()
            for chunk in upload.chunks:
                content += chunk
                if len(content) > MAX_ATTACHMENT:
                    raise InvalidInput("This file is larger than 25 MB.")
            return own.File(upload.filename, bytes(content))
    raise InvalidInput("Please choose a file.")


def _statement(slug: str) -> Statement:
    if slug not in STATEMENTS or not STATEMENTS[slug].stands_alone:
        raise NotFound
    return STATEMENTS[slug]


def _answers(statement: Statement, form: Form) -> dict[str, str]:
    asked = [field.name for field in statement.fields if field.shape is not Shape.FILE]
    return {name: form.get(name) for name in asked}


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
    here: str = "",
) -> Response[Any]:
    """Draw a form; `here` is its address below /own where it is not that of a statement."""
    return visit.render(
        "pages/own_form.html",
        status=422 if sentence else 200,
        statement=statement,
        answers=answers,
        sentence=sentence,
        record=record,
        here=here,
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
    try:
        own.state(visit.vault, statement, answers, author, now=now, version_of=versions[0])
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
        named = records.pointed_to(session, visit.vault, [record], ("Medication",))
    own.not_taken(visit.vault, record, named, _author(visit), now=clock.now())
    flash = "Noted: you do not take this. The hospital's copy stays as it is."
    return visit.redirect(
        f"/p/{visit.patient.id if visit.patient else ''}/medications", flash=flash
    )


def _one(session: Session, visit: Visit, type_: str, local_id: str) -> Record:
    found = records.get(session, visit.vault, type_, local_id)
    if found is None:
        raise NotFound
    return found


# ------------------------------------------------------------------ remarks


def remarked(visit: Visit, session: Session) -> list[Record]:
    """Return the notes and own names of this person, newest first."""
    place = connections.own_place(session)
    return [] if place is None else records.select(session, visit.vault, own.remarks(place))


def on_record(visit: Visit, session: Session, found: Record) -> list[Record]:
    """Return what was remarked on one record, newest first."""
    here = remarks.place(found)
    return [one for one in remarked(visit, session) if remarks.about(one.document) == here]


def beside(visit: Visit, session: Session, found: Record) -> dict[str, Any]:
    """Return what a record's page shows of remarks on it, and what it is a remark on."""
    said = [
        (
            "name" if remarks.is_name(one.document) else "note",
            remarks.called(one.document) or string(one.document.get("description")),
            _href(visit, one),
        )
        for one in on_record(visit, session, found)
        if not statements.is_taken_back(one.document)
    ]
    standing = remarks.read(remarked(visit, session))
    called = "" if any(kind == "name" for kind, _, _ in said) else standing.name(found)
    type_, _, local_id = remarks.about(found.document).partition("/")
    target = records.get(session, visit.vault, type_, local_id) if local_id else None
    about = (record_title(target), f"/record/{type_}/{local_id}") if target else None
    return {"remarks": said, "called": called, "about": about}


@action("/p/{patient_id:str}/own/about/{type_:str}/{local_id:str}", access=Access.PROXY)
def remark(visit: Visit, form: Form, type_: str, local_id: str) -> Response[Any]:
    """Keep a note on a record, or what the person calls the thing."""
    slug = "name" if form.has("name") else "note"
    with visit.vault.read() as session:
        record = _one(session, visit, type_, local_id)
        before = [
            one
            for one in on_record(visit, session, record)
            if slug == "name" and remarks.is_name(one.document)
        ]
    answers = {slug: form.get(slug)}
    now, author, statement = clock.now(), _author(visit), STATEMENTS[slug]
    try:
        if before:
            own.state(visit.vault, statement, answers, author, now=now, version_of=before[0])
        else:
            title = record_title(record)
            own.remark(visit.vault, record, answers, author, slug=slug, title=title, now=now)
    except InvalidInput as problem:
        here = f"about/{type_}/{local_id}"
        return _form(visit, statement, answers, sentence=problem.sentence, here=here)
    said = {"name": "It has your own name now.", "note": "Your note is kept beside it."}
    return visit.redirect(
        f"/p/{visit.patient.id if visit.patient else ''}/record/{type_}/{local_id}",
        flash=said[slug],
    )


ROUTES = [listed, add, keep_new, change, keep_change, not_taken, remark]
