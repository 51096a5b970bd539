"""Health links and health cards of others: opened, shown, and only then kept.

They are read by `phr.connectors.health_link` and `health_card`, and kept as files brought by hand.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock, pull
from phr.chart import documents
from phr.chart.titles import list_words, title
from phr.connectors import health_card, health_link
from phr.errors import InvalidInput, NetError, NotFound
from phr.fhir import document
from phr.fhir.record import Record, Selection
from phr.sharing import gate
from phr.store import records
from phr.web.forms import Upload
from phr.web.pages.shares import base_of, qr
from phr.web.routing import Access, Form, Visit, action, slow_page

NAME = "brought from others"  # of what is put down between looking and keeping
MOST_TEXT = 64 * 1024  # characters pasted, or in a file of cards
SHOWN = 200  # lines of what is inside
LONGEST_QR = 1195  # characters of a card in one QR code (SHC)
GONE = "That was open too long and is forgotten. Open it again."
LOOKED_THROUGH = 500  # newest documents among which cards are listed


@dataclass(frozen=True, slots=True)
class Line:
    """One thing inside: what kind, and what it is called."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One FHIR file or one card, ready to be kept: NDJSON or a Bundle, under a name."""

    name: str
    said: str
    is_good: bool
    about: tuple[str, ...]
    lines: tuple[Line, ...]
    number: int
    body: bytes = field(repr=False)


@slow_page("/p/{patient_id:str}/files/link", access=Access.PROXY)
def ask(visit: Visit) -> Response[Any]:
    """Offer to paste a link or a card, or to bring a file of cards."""
    return _draw(visit)


def _draw(visit: Visit, sentence: str = "", **more: Any) -> Response[Any]:
    given: dict[str, Any] = {"pieces": (), "text": "", "host": "", "label": ""}
    given["cards"] = () if more.get("pieces") else _cards(visit)
    return visit.render(
        "pages/brought.html", status=422 if sentence else 200, sentence=sentence, **given | more
    )


@action("/p/{patient_id:str}/files/link", access=Access.PROXY, uploads=True)
def look(visit: Visit, form: Form) -> Response[Any]:
    """Open what was pasted or brought and show it; nothing of it is kept yet."""
    visit.forget(NAME)
    text = form.get("text")[:MOST_TEXT].strip()
    try:
        text = text or _text_of(form)
        if health_link.is_link(text):
            link = health_link.read(text)
            pieces = _of_link(visit, link, form.get("passcode").strip())
            host, label = link.host, link.label
        else:
            pieces, host, label = _of_cards(visit, health_card.read(text)), "", ""
    except (InvalidInput, NetError) as problem:
        return _draw(visit, problem.sentence, text=text)
    visit.put_down(NAME, pieces)
    return _draw(visit, pieces=pieces, host=host, label=label)


@action("/p/{patient_id:str}/files/link/keep", access=Access.PROXY)
def keep(visit: Visit) -> Response[Any]:
    """Keep what was just shown, as files brought by hand."""
    pieces: Sequence[Piece] | None = visit.kept(NAME)
    visit.forget(NAME)
    if not pieces:
        return _draw(visit, GONE)
    visit.put_down("taken", [_take(visit, each) for each in pieces])
    return visit.redirect(f"{base_of(visit)}/files?taken=1")


def _take(visit: Visit, piece: Piece) -> pull.Taken:
    """Hand a file over in memory: nothing readable reaches the disk."""
    handle = os.memfd_create("brought", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(piece.body)
        place = Path(f"/proc/self/fd/{handle}")
        return pull.take_file(visit.vault, piece.name, place, actor=visit.actor, now=clock.now())
    finally:
        os.close(handle)


def _text_of(form: Form) -> str:
    """Return the text of the file of cards that was brought. Raises InvalidInput without one."""
    for upload in form.uploads():
        if upload.filename:
            return _read(upload)
    raise InvalidInput("Paste a health link or a card, or choose a file.")


def _read(upload: Upload) -> str:
    body = bytearray()
    for chunk in upload.chunks:
        body += chunk
        if len(body) > MOST_TEXT * 4:
            raise InvalidInput("This file is larger than a file of health cards can be.")
    return body.decode("utf-8", "replace").strip()


# ------------------------------------------------------------------ what is inside


def _of_link(visit: Visit, link: health_link.Link, passcode: str) -> list[Piece]:
    files = health_link.fetch(visit.appliance.http, link, passcode, now=clock.now())
    pieces = []
    for number, file in enumerate(files, 1):
        if file.content_type == health_link.CARD:
            pieces += _of_cards(visit, health_card.read(file.body.decode("utf-8", "replace")))
        else:
            pieces.append(_of_fhir(link, file.body, number))
    return pieces


def _of_fhir(link: health_link.Link, body: bytes, number: int) -> Piece:
    try:
        parsed = document.loads(body)
    except InvalidInput:
        raise InvalidInput("A file of this link is no FHIR that can be read here.") from None
    inside = _resources(parsed)
    day = clock.now()
    name = f"Health link of {link.host}, {day.day} {day:%b %Y}, {number}"
    said = f"Fetched from {link.host}. Who wrote it is told inside, and not signed."
    return _piece(name, said, inside, body, is_good=True)


def _resources(parsed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if parsed.get("resourceType") != "Bundle":
        return [parsed]
    entries = parsed.get("entry")
    listed = entries if isinstance(entries, list) else []
    found = [each.get("resource") for each in listed if isinstance(each, dict)]
    return [each for each in found if isinstance(each, dict)]


def _of_cards(visit: Visit, cards: Sequence[str]) -> list[Piece]:
    now = clock.now()
    found = []
    for jws in cards:
        card = health_card.judge(visit.appliance.http, jws, now=now)
        said = f"Signed by {card.signer}, verified on {now.day} {now:%b %Y}."
        if card.objection:
            said = f"Says it is signed by {card.signer}. Not verified: {card.objection}"
        body = health_card.lines(card, now=now)
        name = f"Health card of {card.host}"
        found.append(_piece(name, said, card.resources, body, is_good=not card.objection))
    return found


def _piece(
    name: str, said: str, inside: Sequence[Mapping[str, Any]], body: bytes, *, is_good: bool
) -> Piece:
    listed = [Line(list_words(_type(each)), title(each)) for each in inside if _type(each)]
    about = tuple(_who(each) for each in inside if each.get("resourceType") == "Patient")
    return Piece(name, said, is_good, about, tuple(listed[:SHOWN]), len(listed), body)


def _type(resource: Mapping[str, Any]) -> str:
    kind = resource.get("resourceType")
    return kind if isinstance(kind, str) and kind != "Patient" else ""


def _who(patient: Mapping[str, Any]) -> str:
    born = patient.get("birthDate")
    return f"{title(patient)}, born {born}" if isinstance(born, str) else title(patient)


# ------------------------------------------------------------------ forwarding a card


@slow_page("/p/{patient_id:str}/files/card/{local_id:str}", access=Access.MEMBER)
def forward(visit: Visit, local_id: str) -> Response[Any]:
    """Show a kept card as the QR code that it was, for another reader."""
    record, (jws, *_) = _kept(visit, local_id)
    code = health_card.numeric(jws)
    return visit.render(
        "pages/brought_card.html",
        local_id=local_id,
        said=str(record.document.get("description", "")),
        qr=qr(code, "QR code of the health card") if len(jws) <= LONGEST_QR else "",
    )


@slow_page("/p/{patient_id:str}/files/card/{local_id:str}/file", access=Access.MEMBER)
def card_file(visit: Visit, local_id: str) -> Response[bytes]:
    """Give a kept card as the file that readers of health cards take; noted like any copy."""
    _, cards = _kept(visit, local_id)
    gate.owner_export(visit.vault, visit.actor, form="health card")
    disposition = f'attachment; filename="health-card{health_card.ENDING}"'
    return Response(
        health_card.file(cards),
        media_type=health_link.CARD,
        headers={"Content-Disposition": disposition},
    )


def _kept(visit: Visit, local_id: str) -> tuple[Record, list[str]]:
    """Return a kept card with its signed text. Raises NotFound for any other record."""
    with visit.vault.read() as session:
        found = records.get(session, visit.vault, "DocumentReference", local_id)
    if found is None or not _is_card(found):
        raise NotFound
    text = (documents.inline_bytes(found.document, 0) or b"").decode("utf-8", "replace")
    try:
        return found, health_card.read(text)
    except InvalidInput:
        raise NotFound from None


def _is_card(record: Record) -> bool:
    named = documents.attachments(record.document)
    return bool(named) and named[0].said_type == health_link.CARD


def _cards(visit: Visit) -> list[Record]:
    with visit.vault.read() as session:
        wanted = Selection(types=("DocumentReference",), limit=LOOKED_THROUGH)
        return [one for one in records.select(session, visit.vault, wanted) if _is_card(one)]


ROUTES: list[HTTPRouteHandler] = [ask, look, keep, forward, card_file]
