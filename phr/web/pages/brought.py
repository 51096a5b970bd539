"""Health links and health cards of others: opened, shown, and only then kept.

They are read by `phr.connectors.health_link` and `health_card`, and kept as files brought by hand.
"""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litestar import Response
from litestar.handlers import HTTPRouteHandler

from phr import clock, ids, pull
from phr.chart import documents, vaccines
from phr.chart.plain import day_words, joined, name_words
from phr.chart.titles import list_words, title, when_text
from phr.connectors import health_card, health_link
from phr.errors import InvalidInput, NetError, NotFound
from phr.fhir import document
from phr.fhir.reading import codings
from phr.fhir.record import Record, Selection
from phr.sharing import gate
from phr.store import records
from phr.web.forms import Upload
from phr.web.pages.shares import base_of, qr
from phr.web.routing import Access, Form, Visit, action, slow_page

NAME = "brought from others"  # of what is put down between looking and keeping, with whose it is
SHOWN_FIELD = "shown"  # of the form: what is kept must be what was looked at
MOST_TEXT = 64 * 1024  # characters pasted, or in a file of cards
SHOWN = 200  # lines of what is inside
LONGEST_QR = 1195  # characters of a card in one QR code (SHC)
_PATIENTS = Selection(types=("Patient",), limit=50)
GONE = "That was open too long and is forgotten. Open it again."
OTHER = "Something else was opened since in this browser. Nothing was kept; open it again."
MOST_NAMED = 3  # things that a card holds, where cards stand in a list
NEITHER = (
    "This is neither a health link (it begins with “shlink:/”) nor a health card (a QR code of one"
    " begins with “shc:/”)."
)
NO_CARDS_IN = "There is neither a health link nor a health card in this file."
OWN = (
    "This health link was made by this Homeport. It leads to what is shared from here, so there is"
    " nothing to bring."
)
LOOKED_THROUGH = 500  # newest documents among which cards are listed


@dataclass(frozen=True, slots=True)
class Line:
    """One thing inside: what kind, and what it is called."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Person:
    """A patient named inside: name and birth date (FHIR) as far as they are given."""

    name: str
    born: str

    @property
    def words(self) -> str:
        """Name and birth date for a person to read."""
        born = f"born {day_words(self.born) or self.born}" if self.born else ""
        return joined(self.name or "No name", born, by=", ")


@dataclass(frozen=True, slots=True)
class Held:
    """A kept card in the list: what was found out about it, and what it says that it holds."""

    local_id: str
    said: str
    holds: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One FHIR file or one card, ready to be kept: NDJSON or a Bundle, under a name.

    `place` is the connection that it will belong to: all files of a link share one.
    """

    place: str
    name: str
    said: str
    is_good: bool
    about: tuple[Person, ...]
    lines: tuple[Line, ...]
    number: int
    body: bytes = field(repr=False)


@slow_page("/p/{patient_id:str}/files/link", access=Access.PROXY)
def ask(visit: Visit) -> Response[Any]:
    """Offer to paste a link or a card, or to bring a file of cards."""
    return _draw(visit)


def _draw(visit: Visit, sentence: str = "", **more: Any) -> Response[Any]:
    given: dict[str, Any] = {"pieces": (), "text": "", "host": "", "label": ""}
    if pieces := more.get("pieces"):
        given["strangers"], given["here"] = _strangers(visit, pieces)
    else:
        given["cards"] = _cards(visit)
    given["shown"] = _digest(more.get("pieces", ()))
    return visit.render(
        "pages/brought.html", status=422 if sentence else 200, sentence=sentence, **given | more
    )


@action("/p/{patient_id:str}/files/link", access=Access.PROXY, uploads=True)
def look(visit: Visit, form: Form) -> Response[Any]:
    """Open what was pasted or brought and show it; nothing of it is kept yet."""
    visit.forget(_name(visit))
    text = form.get("text")[:MOST_TEXT].strip()
    try:
        passcode = form.get("passcode").strip()
        if text:
            pieces, host, label = _opened(visit, text, passcode, NEITHER)
        else:
            pieces, host, label = _opened(visit, _text_of(form), passcode, NO_CARDS_IN)
    except (InvalidInput, NetError) as problem:
        return _draw(visit, problem.sentence, text=text)
    visit.put_down(_name(visit), pieces)
    return _draw(visit, pieces=pieces, host=host, label=label)


@action("/p/{patient_id:str}/files/link/keep", access=Access.PROXY)
def keep(visit: Visit, form: Form) -> Response[Any]:
    """Keep what was just shown for this person, as files brought by hand."""
    pieces: Sequence[Piece] | None = visit.kept(_name(visit))
    if not pieces:
        return _draw(visit, GONE)
    if form.get(SHOWN_FIELD) != _digest(pieces):
        return _draw(visit, OTHER)
    visit.forget(_name(visit))
    places = dict.fromkeys(each.place for each in pieces)
    taken = [_take(visit, one, [each for each in pieces if each.place == one]) for one in places]
    visit.put_down("taken", taken)
    return visit.redirect(f"{base_of(visit)}/files?taken=1")


def _opened(visit: Visit, text: str, passcode: str, otherwise: str) -> tuple[list[Piece], str, str]:
    """Return (what is inside, host, label) of a link or of cards; raise `otherwise` for neither."""
    if health_link.is_link(text):
        link = health_link.read(text)
        if _is_own(visit, link):
            raise InvalidInput(OWN)
        return _of_link(visit, link, passcode), link.host, link.label
    if health_card.is_card(text):
        return _of_cards(visit, health_card.read(text)), "", ""
    raise InvalidInput(otherwise)


def _name(visit: Visit) -> str:
    """Return the name under which things lie here: another person's page keeps none of them."""
    return f"{NAME} {base_of(visit)}"


def _digest(pieces: Sequence[Piece]) -> str:
    """Return what tells these pieces, as they are shown and would be kept, from any others."""
    return ids.fingerprint(repr([(each, ids.fingerprint(each.body)) for each in pieces])).hex()


def _take(visit: Visit, place: str, pieces: Sequence[Piece]) -> pull.Taken:
    """Hand files of one place over in memory: nothing readable reaches the disk."""
    handle = os.memfd_create("brought", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(pieces[0].body if len(pieces) == 1 else _together(pieces))
        path = Path(f"/proc/self/fd/{handle}")
        return pull.take_file(visit.vault, place, path, actor=visit.actor, now=clock.now())
    finally:
        os.close(handle)


def _together(pieces: Sequence[Piece]) -> bytes:
    """Return several files as one import, in which each stays a file of its own."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for number, piece in enumerate(pieces, 1):
            archive.writestr(f"{number}.json", piece.body)
    return made.getvalue()


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


def _is_own(visit: Visit, link: health_link.Link) -> bool:
    return link.url.startswith(f"{visit.appliance.settings.public_url.rstrip('/')}/")


def _of_link(visit: Visit, link: health_link.Link, passcode: str) -> list[Piece]:
    now = clock.now()
    files = health_link.fetch(visit.appliance.http, link, passcode, now=now)
    place = f"Health link of {link.host}, {now.day} {now:%b %Y}"
    pieces = list[Piece]()
    for number, file in enumerate(files, 1):
        if file.content_type == health_link.CARD:
            text = file.body.decode("utf-8", "replace")
            pieces += _of_cards(visit, health_card.read(text), place)
        else:
            pieces.append(_of_fhir(link, file.body, place, number if len(files) > 1 else 0))
    return pieces


def _of_fhir(link: health_link.Link, body: bytes, place: str, number: int) -> Piece:
    try:
        parsed = document.loads(body)
    except InvalidInput:
        raise InvalidInput("A file of this link is no FHIR that can be read here.") from None
    inside = _resources(parsed)
    name = f"{place}, {number}" if number else place
    said = f"Fetched from {link.host}. Who wrote it is told inside, and not signed."
    return _piece((place, name), said, inside, body, is_good=True)


def _resources(parsed: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if parsed.get("resourceType") != "Bundle":
        return [parsed]
    entries = parsed.get("entry")
    listed = entries if isinstance(entries, list) else []
    found = [each.get("resource") for each in listed if isinstance(each, dict)]
    return [each for each in found if isinstance(each, dict)]


def _of_cards(visit: Visit, cards: Sequence[str], place: str = "") -> list[Piece]:
    now = clock.now()
    found = []
    for jws in cards:
        card = health_card.judge(visit.appliance.http, jws, now=now)
        said = f"Signed by {card.signer}, verified on {now.day} {now:%b %Y}."
        if card.objection:
            said = f"Says it is signed by {card.signer}. Not verified: {card.objection}"
        body = health_card.lines(card, now=now)
        name = f"Health card of {card.host}"
        where = (place or name, name)
        found.append(_piece(where, said, card.resources, body, is_good=not card.objection))
    return found


def _piece(
    where: tuple[str, str],
    said: str,
    inside: Sequence[Mapping[str, Any]],
    body: bytes,
    *,
    is_good: bool,
) -> Piece:
    """Return a file to be kept; `where` is its place and its own name."""
    listed = [Line(list_words(_type(each)), _called(each)) for each in inside if _type(each)]
    about = tuple(_person(each) for each in inside if each.get("resourceType") == "Patient")
    return Piece(*where, said, is_good, about, tuple(listed[:SHOWN]), len(listed), body)


def _type(resource: Mapping[str, Any]) -> str:
    kind = resource.get("resourceType")
    return kind if isinstance(kind, str) and kind != "Patient" else ""


def _called(resource: Mapping[str, Any]) -> str:
    """Return what a resource is called; cards give vaccines as bare codes, so also against what."""
    coded = codings(resource.get("vaccineCode"))
    against = vaccines.groups((each.system, each.code) for each in coded)
    said = title(resource)
    more = bool(against) and not said.startswith("Vaccine against")
    return joined(said, f"against {', '.join(against)}" if more else "", by=", ")


def _person(patient: Mapping[str, Any]) -> Person:
    born = patient.get("birthDate")
    return Person(name_words(patient.get("name")), born if isinstance(born, str) else "")


def _strangers(visit: Visit, pieces: Sequence[Piece]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how people inside differ from whom this record is about, and who that is."""
    with visit.vault.read() as session:
        found = records.select(session, visit.vault, _PATIENTS)
    ours = [each.document for each in found]
    people = dict.fromkeys(one for piece in pieces for one in piece.about)
    told = (documents.somebody_else(one.name, one.born, ours) for one in people)
    here = (_person(each).words for each in ours)
    return tuple(filter(None, told)), tuple(dict.fromkeys(here))[:MOST_NAMED]


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


def _cards(visit: Visit) -> list[Held]:
    with visit.vault.read() as session:
        wanted = Selection(types=("DocumentReference",), limit=LOOKED_THROUGH)
        return [_held(one) for one in records.select(session, visit.vault, wanted) if _is_card(one)]


def _held(record: Record) -> Held:
    text = (documents.inline_bytes(record.document, 0) or b"").decode("utf-8", "replace")
    inside = [each for each in health_card.said_by(text) if _type(each)]
    named = [joined(_called(each), day_words(when_text(each)), by=", ") for each in inside]
    if len(named) > MOST_NAMED:
        named[MOST_NAMED:] = [f"and {len(inside) - MOST_NAMED} more"]
    said = record.document.get("description")
    said = said if isinstance(said, str) else "Health card"
    return Held(record.local_id, said, "; ".join(named))


ROUTES: list[HTTPRouteHandler] = [ask, look, keep, forward, card_file]
