"""The inbox: what recipients sent to this record, to read closed off, to accept, reject and undo.

What is decided is decided in `phr.sharing.inbox`; how a file is shown says `phr.views.attachment`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.orm import Session

from phr import clock, transcribe
from phr.chart import documents
from phr.chart.fields import fields
from phr.chart.plain import joined, moment_words, sentence_case, size_words
from phr.chart.titles import kind_words, list_words, record_title, when_text
from phr.errors import Conflict, InvalidInput, NotFound
from phr.fhir.record import Record, Selection
from phr.papers import kinds
from phr.papers.kinds import Kind, Reader, Way
from phr.papers.reading import Reading
from phr.sharing import arrivals, inbox, letterbox
from phr.store import records
from phr.store.models import (
    Arrival,
    ArrivalKind,
    ArrivalRule,
    ArrivalState,
    Letter,
    LetterState,
    Recipient,
)
from phr.views import attachment
from phr.web.pages.asked import is_number
from phr.web.pages.shares import base_of, wake
from phr.web.routing import Access, Form, Visit, action, slow_page

SHOWN = 20  # records of one arrival that are drawn whole
KINDS = {
    ArrivalKind.NOTE: "A note",
    ArrivalKind.FILE: "A file",
    ArrivalKind.RECORDS: "Records",
    ArrivalKind.WITHDRAWAL: "Takes something back",
}
STATES = {
    ArrivalState.WAITING: ("wait", "Waits for you"),
    ArrivalState.ACCEPTED: ("fresh", "Accepted"),
    ArrivalState.REJECTED: ("ended", "Rejected"),
    ArrivalState.WITHDRAWN: ("ended", "Withdrawn"),
}
DONE = {
    "accept": "Accepted. It stands beside the record now, with its author, and can be undone.",
    "reject": "Rejected. For 30 days you can change your mind; then it is erased.",
    "undo": "Undone. It waits for you again, and the record is as it was before.",
    "accept withdrawal": "Accepted. It is taken out of the record; that can be undone.",
    "reject withdrawal": "Rejected. What you had accepted stays in the record.",
    "always": "Accepted; from now on this comes in without asking. You can take that back here.",
}
MAIL_DONE = {
    "accept": "Accepted, all that waited. It stands beside the record now, and can be undone.",
    "reject": "Rejected, all that waited of it. For 30 days you can change your mind.",
    "again": "It is looked at again. What comes of it stands here in a moment.",
}
MOST_REFUSED = 20  # mails that nobody is trusted for, in the list
MOST_READ = 4  # readings remembered of one open record
_PATIENTS = Selection(types=("Patient",), limit=50)
_readings: WeakKeyDictionary[object, dict[bytes, Reading]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Row:
    """One arrival as the pages show it."""

    held: Arrival
    sender: str
    way: str
    title: str
    kind: str
    word: tuple[str, str]
    size: str
    became: str  # what was decided, by whom, or what the sender did; "" while it waits
    can_undo: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """A record that is not in the record yet: its fields as (depth, label, value)."""

    heading: str
    lead: str
    rows: tuple[tuple[int, str, str], ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule in words, and what it let in."""

    rule: ArrivalRule
    sender: str
    what: str
    let_in: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a mail: its line, what a note says, and whether a closed frame can show it."""

    row: Row
    text: str
    framed: bool


# ------------------------------------------------------------------ the list


@slow_page("/p/{patient_id:str}/inbox", access=Access.MEMBER)
def show(visit: Visit) -> Response[Any]:
    """Show what waits, what was decided, and what comes in without asking."""
    inbox.tidy(visit.vault, now=clock.now())
    with visit.vault.read() as session:
        waiting = [_row(session, one) for one in inbox.listed(session, ArrivalState.WAITING)]
        others = (ArrivalState.ACCEPTED, ArrivalState.REJECTED, ArrivalState.WITHDRAWN)
        decided = [_row(session, one) for one in inbox.listed(session, *others, limit=100)]
        rules = [_rule(session, one) for one in inbox.rules(session)]
        taken = letterbox.listed(session, LetterState.TAKEN)
        refused = letterbox.listed(session, LetterState.REFUSED, limit=MOST_REFUSED)
    return visit.render(
        "pages/inbox.html",
        mails={arrival: letter for letter in taken for arrival in letter.arrivals},
        refused=refused,
        waiting=waiting,
        decided=decided,
        rules=rules,
        may_change=_may_change(visit),
    )


def _row(session: Session, held: Arrival) -> Row:
    kind = ArrivalKind(held.kind)
    sender = session.get_one(Recipient, held.recipient_id).name
    undoable = held.state == ArrivalState.ACCEPTED or (
        held.state == ArrivalState.REJECTED
        and held.decided_at is not None
        and clock.now() - held.decided_at < inbox.KEPT_FOR
    )
    return Row(
        held=held,
        sender=sender,
        way=inbox.by_what(session, held),
        title=held.title or held.name or KINDS[kind],
        kind=_kind(held),
        word=STATES[ArrivalState(held.state)],
        size=size_words(held.size) if held.kind == ArrivalKind.FILE else "",
        became=_became(session, held),
        can_undo=undoable,
    )


def _became(session: Session, held: Arrival) -> str:
    """Say what became of an arrival. A sender may withdraw or replace what was decided before."""
    if held.state == ArrivalState.WITHDRAWN and held.replaced_by is not None:
        by = session.get_one(Arrival, held.replaced_by)
        if by.kind == ArrivalKind.WITHDRAWAL:
            return "Taken back by the sender, and taken out of the record."
        return f"Replaced by the sender with another, received {clock.minute_here(by.received_at)}."
    if held.decided_at is None:
        return ""
    if held.state == ArrivalState.WITHDRAWN:
        who = "by the sender"
    elif held.rule_id is not None:
        who = "because you let this in beforehand"
    else:
        who = f"by {held.decided_by}" if held.decided_by else ""
    word = STATES[ArrivalState(held.state)][1]
    return f"{word} {clock.minute_here(held.decided_at)}, {who}".rstrip(", ") + "."


def _kind(held: Arrival) -> str:
    if held.kind == ArrivalKind.RECORDS:
        return ", ".join(kind_words(each) for each in held.what)
    return KINDS[ArrivalKind(held.kind)]


def _what(what: str) -> str:
    words = {"note": "Notes", "file": "Files", "document": "Clinical documents"}
    return words.get(what) or list_words(what)


def _rule(session: Session, rule: ArrivalRule) -> Rule:
    sender = session.get_one(Recipient, rule.recipient_id).name
    let_in = tuple(_row(session, one) for one in inbox.let_in_by(session, rule.id))
    return Rule(rule, sender, _what(rule.what), let_in)


def _may_change(visit: Visit) -> bool:
    return visit.patient is not None and visit.patient.role != "viewer"


# ------------------------------------------------------------------ one mail


@slow_page("/p/{patient_id:str}/inbox/mail/{letter_id:str}", access=Access.MEMBER)
def mail(visit: Visit, letter_id: str) -> Response[Any]:
    """Show a mail as a whole: who sent it and how that was checked, its parts, what to decide."""
    return _draw_mail(visit, letter_id)


def _draw_mail(visit: Visit, letter_id: str, sentence: str = "") -> Response[Any]:
    from phr.web.pages import mailing  # noqa: PLC0415 - reading certificates is much to load

    with visit.vault.read() as session:
        letter = _letter(session, letter_id)
        parts = [_part(session, each) for each in _arrivals(session, letter)]
        kept = _is_kept(session, letter)
    waiting = [each for each in parts if each.row.held.state == ArrivalState.WAITING]
    return visit.render(
        "pages/inbox_mail.html",
        status=422 if sentence else 200,
        sentence=sentence,
        letter=letter,
        refused=letter.state == LetterState.REFUSED,
        signer=mailing.seen(letter.certificate) if letter.certificate else None,
        parts=parts,
        waiting=len(waiting),
        kept=kept,
        may_change=_may_change(visit),
    )


def _letter(session: Session, letter_id: str) -> Letter:
    letter = session.get(Letter, letter_id)
    if letter is None or letter.state == LetterState.NOTICE:
        raise NotFound
    return letter


def _arrivals(session: Session, letter: Letter) -> list[Arrival]:
    """Return what is still here of a mail: what was rejected long ago is gone."""
    found = (session.get(Arrival, each) for each in letter.arrivals)
    return [each for each in found if each is not None]


def _part(session: Session, held: Arrival) -> Part:
    content = inbox.received(held) if held.content and held.kind == ArrivalKind.NOTE else b""
    kind = attachment.kind_of(held.content) if held.content else None
    framed = held.kind == ArrivalKind.FILE and kind is not None and kind.way is Way.HTML
    text = attachment.as_text(content)[0] if content else ""
    return Part(_row(session, held), text, framed)


def _is_kept(session: Session, letter: Letter) -> bool:
    """Say whether the bytes of a refused mail are still here, so that it can be judged anew."""
    if letter.state != LetterState.REFUSED:
        return False
    try:
        return bool(letterbox.content(session, letter.id))
    except NotFound:
        return False


@action("/p/{patient_id:str}/inbox/mail/{letter_id:str}", access=Access.PROXY)
def decide_mail(visit: Visit, form: Form, letter_id: str) -> Response[Any]:
    """Accept or reject all that waits of a mail, or have a refused one judged anew."""
    wanted = form.get("do")
    if wanted == "again":
        return _again(visit, letter_id)
    step = _STEPS.get(wanted)
    if step is None or wanted not in MAIL_DONE:
        raise InvalidInput
    with visit.vault.read() as session:
        found = _arrivals(session, _letter(session, letter_id))
        waiting = [each.id for each in found if each.state == ArrivalState.WAITING]
    try:
        for arrival_id in waiting:
            step(visit, arrival_id)
    except (InvalidInput, Conflict) as error:
        return _draw_mail(visit, letter_id, error.sentence)
    return visit.redirect(f"{base_of(visit)}/inbox/mail/{letter_id}", MAIL_DONE[wanted])


def _again(visit: Visit, letter_id: str) -> Response[Any]:
    from phr import receive  # noqa: PLC0415 - it loads what Direct needs

    try:
        receive.again(visit.vault, letter_id, visit.actor, now=clock.now())
    except Conflict as error:
        return _draw_mail(visit, letter_id, error.sentence)
    wake(visit, "mail")
    return visit.redirect(f"{base_of(visit)}/inbox", MAIL_DONE["again"])


# ------------------------------------------------------------------ one arrival


@slow_page("/p/{patient_id:str}/inbox/{arrival_id:str}", access=Access.MEMBER)
def one(visit: Visit, arrival_id: str) -> Response[Any]:
    """Show who sent what, its content closed off, and what would be added."""
    return _draw(visit, arrival_id)


def _draw(visit: Visit, arrival_id: str, sentence: str = "") -> Response[Any]:
    vault = visit.vault
    with vault.read() as session:
        held = inbox.get(session, arrival_id)
        row = _row(session, held)
        found = inbox.as_records(vault, held) if held.kind == ArrivalKind.RECORDS else []
        drawn = [_drawn(each) for each in found[:SHOWN]]
        stranger = _stranger(visit, session, held)
        before = arrivals.earlier(session, held)
        replaces = None if before is None else _row(session, before)
        refused = arrivals.was_refused(session, held)
        coded = inbox.holds_coded(held)
        twins = [_row(session, other) for other in inbox.twins(session, held)]
        rules = {rule.what for rule in inbox.rules(session, held)}
        came_with = _mail_of(session, held)
    return visit.render(
        "pages/inbox_one.html",
        status=422 if sentence else 200,
        row=row,
        held=held,
        erased=held.kind != ArrivalKind.WITHDRAWAL and held.content is None,
        sentence=sentence,
        drawn=drawn,
        more=max(0, len(found) - SHOWN),
        stranger=stranger,
        replaces=replaces,
        refused=refused,
        twins=twins,
        letter=came_with,
        always=[] if coded else [_what(each) for each in held.what if each not in rules],
        may_change=_may_change(visit),
        **_looks(visit, held),
    )


def _mail_of(session: Session, held: Arrival) -> Letter | None:
    """Return the mail that something came with; None for what came another way, or long ago."""
    if held.way != inbox.DIRECT:
        return None
    taken = letterbox.listed(session, LetterState.TAKEN)
    return next((each for each in taken if held.id in each.arrivals), None)


def _drawn(record: Record) -> Drawn:
    document = record.document
    told = fields(document)
    return Drawn(
        record_title(record),
        joined(kind_words(record.type), moment_words(when_text(document))),
        tuple((min(one.depth, 4), one.label, one.value) for one in told.rows),
        told.left_out,
    )


def _looks(visit: Visit, held: Arrival) -> Mapping[str, Any]:
    """Return how the bytes of a note or file may be looked at."""
    content = inbox.received(held) if held.kind in {ArrivalKind.NOTE, ArrivalKind.FILE} else b""
    kind = kinds.TEXT if held.kind == ArrivalKind.NOTE else attachment.kind_of(content)
    text, cut = attachment.as_text(content) if content and kind.way is Way.TEXT else ("", False)
    reading = _reading(visit, content, kind)
    return {
        "way": kind.way.value if content else "",
        "type_words": sentence_case(kind.words),
        "text": text,
        "cut": cut,
        "reading": reading,
        "words": bool(reading.text) and kind is kinds.PDF,
    }


def _reading(visit: Visit, content: bytes, kind: Kind) -> Reading:
    """Return what a reader finds in a file that is not shown as it is, in a process of its own.

    The last few are remembered: a page and its frame ask for the same, and reading takes long.
    """
    if not content or kind.reader in {Reader.NONE, Reader.TEXT, Reader.HTML}:
        return Reading()
    name, database = sha256(content).digest(), visit.vault.database
    known = _readings.get(database, {})
    if name not in known:
        newest = dict(list(known.items())[1 - MOST_READ :])
        known = _readings[database] = newest | {name: transcribe.of(visit.vault, content)}
    return known[name]


def _stranger(visit: Visit, session: Session, held: Arrival) -> str:
    """Say whether what was sent names somebody else than this record is about."""
    named = inbox.named_person(held)
    if named is None and held.kind == ArrivalKind.FILE:
        whose = _reading(visit, inbox.received(held), kinds.kind_of(inbox.received(held))).whose
        named = (whose.name, whose.born) if whose.name or whose.born else None
    if named is None:
        return ""
    patients = records.select(session, visit.vault, _PATIENTS)
    return documents.somebody_else(*named, [each.document for each in patients])


@slow_page("/p/{patient_id:str}/inbox/{arrival_id:str}/content", access=Access.MEMBER)
def content(visit: Visit, arrival_id: str) -> Response[bytes]:
    """Give a picture, or what is read in a file, for the closed frame; nothing else is opened."""
    held, bytes_, kind = _file(visit, arrival_id)
    if kind.way is Way.IMAGE:
        return _closed(bytes_, kind.media_type, "inline", f"file.{kind.ending}")
    title = held.title or held.name
    if kind.way is Way.HTML:
        return _framed(attachment.frame_page(kinds.as_text(bytes_), title))
    reading = _reading(visit, bytes_, kind)
    if not (reading.text or reading.html):
        raise NotFound
    return _framed(attachment.read_page(reading, title, with_head=False))


def _framed(framed: bytes) -> Response[bytes]:
    headers = {
        "Content-Security-Policy": attachment.FRAME_CSP,
        "X-Frame-Options": "SAMEORIGIN",
    }
    return Response(framed, media_type="text/html; charset=utf-8", headers=headers)


@slow_page("/p/{patient_id:str}/inbox/{arrival_id:str}/save", access=Access.MEMBER)
def save(visit: Visit, arrival_id: str) -> Response[bytes]:
    """Give the bytes exactly as they were received, for saving."""
    held, bytes_, kind = _file(visit, arrival_id)
    name = attachment.file_name(held.title or held.name or "received", kind.ending)
    return _closed(bytes_, kind.media_type, "attachment", name)


def _file(visit: Visit, arrival_id: str) -> tuple[Arrival, bytes, Kind]:
    with visit.vault.read() as session:
        held = inbox.get(session, arrival_id)
    if held.content is None:
        raise NotFound
    return held, held.content, attachment.kind_of(held.content)


def _closed(bytes_: bytes, media_type: str, way: str, name: str) -> Response[bytes]:
    headers = {
        "Content-Security-Policy": attachment.FILE_CSP,
        "Content-Disposition": f'{way}; filename="{name}"',
        "X-Frame-Options": "SAMEORIGIN",
    }
    return Response(bytes_, media_type=media_type, headers=headers)


# ------------------------------------------------------------------ deciding


@action("/p/{patient_id:str}/inbox/{arrival_id:str}", access=Access.PROXY)
def decide(visit: Visit, form: Form, arrival_id: str) -> Response[Any]:
    """Accept, reject, undo, or accept this and its like from now on."""
    wanted = form.get("do")
    step = _STEPS.get(wanted)
    if step is None:
        raise InvalidInput
    try:
        step(visit, arrival_id)
    except (InvalidInput, Conflict) as error:
        return _draw(visit, arrival_id, error.sentence)
    with visit.vault.read() as session:
        kind = inbox.get(session, arrival_id).kind
    return visit.redirect(f"{base_of(visit)}/inbox", DONE.get(f"{wanted} {kind}", DONE[wanted]))


def _accept(visit: Visit, arrival_id: str) -> None:
    inbox.accept(visit.vault, arrival_id, visit.actor, now=clock.now())


def _reject(visit: Visit, arrival_id: str) -> None:
    inbox.reject(visit.vault, arrival_id, visit.actor, now=clock.now())


def _undo(visit: Visit, arrival_id: str) -> None:
    inbox.undo(visit.vault, arrival_id, visit.actor, now=clock.now())


def _always(visit: Visit, arrival_id: str) -> None:
    _accept(visit, arrival_id)
    inbox.always(visit.vault, arrival_id, visit.actor, now=clock.now())


_STEPS = {"accept": _accept, "reject": _reject, "undo": _undo, "always": _always}


@action("/p/{patient_id:str}/inbox/rules/{rule_id:str}", access=Access.PROXY)
def end_rule(visit: Visit, rule_id: str) -> Response[Any]:
    """Take a rule back: from now on this waits again."""
    if not is_number(rule_id):
        raise NotFound
    inbox.end_rule(visit.vault, int(rule_id), visit.actor, now=clock.now())
    said = "Taken back. What comes now waits for you; what came in before stays until you undo it."
    return visit.redirect(f"{base_of(visit)}/inbox", said)


ROUTES: list[HTTPRouteHandler] = [
    show, mail, decide_mail, one, content, save, decide, end_rule
]  # fmt: skip
