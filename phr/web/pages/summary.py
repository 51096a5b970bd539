"""The patient summary to read, print and take along, and the emergency card."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from litestar import Response
from sqlalchemy.orm import Session

from phr import clock
from phr.chart.people import of_the_person
from phr.chart.plain import counted
from phr.chart.summary import ALLERGIES, OF_A_VISIT, Gap, Line, Section, contacts_of
from phr.chart.summary import summary as summary_of
from phr.errors import InvalidInput, NotFound
from phr.fhir.labels import Label
from phr.fhir.record import Record
from phr.sharing import cover, emergency, gate, summary
from phr.sharing.package import FHIR_JSON
from phr.store import entries
from phr.views import Context, paper, show
from phr.views import summary as view
from phr.views.evidence import how
from phr.web.pages.chart import context, fetch
from phr.web.pages.shares import qr
from phr.web.routing import Access, Form, Visit, action, page

WORDS = {"allergies": "Allergies", "medications": "Medicines listed", "problems": "Problems"}
NOUNS = {
    "allergies": ("allergy", "allergies"),
    "medications": ("medicine", "medicines"),
    "problems": ("problem", "problems"),
}
ON_A_CARD = 12  # lines of one list; a card that does not fit its size is not read
CONTACTS = 3


@page("/p/{patient_id:str}/summary", access=Access.MEMBER)
def read(visit: Visit) -> Response[Any]:
    """Show the summary in the order of the International Patient Summary."""
    with visit.vault.read() as session:
        found = fetch(session, visit.vault, view.VIEW, view.VIEW.selection)
        shown = show(view.VIEW, found, _around(visit, session, found))
    private = any(record.labels & Label.PRIVATE for record in found)
    return visit.render("pages/summary.html", shown=shown, pdf=paper.possible(), private=private)


def _around(visit: Visit, session: Session, found: Sequence[Record]) -> Context:
    """Return a Context with the entries as the store keeps them and the patient decided them."""
    return context(
        visit,
        session,
        decisions=entries.decisions(session),
        grouped=entries.siblings(session, [record.pk for record in found]),
    )


@action("/p/{patient_id:str}/summary/save", access=Access.PROXY)
def save(visit: Visit, form: Form) -> Response[bytes]:
    """Give the summary as a FHIR document or as PDF; needs the password just before."""
    kind = form.get("kind")
    if kind not in {"json", "pdf"} or (kind == "pdf" and not paper.possible()):
        raise InvalidInput
    visit.require_step_up()
    owned = gate.owner_export(visit.vault, visit.actor, form=f"summary.{kind}")
    now = clock.now()
    if kind == "pdf":
        return _file(summary.pdf(owned, now=now), "application/pdf", "pdf")
    base_url = visit.appliance.settings.public_url
    return _file(summary.bundle(owned, base_url=base_url, now=now), FHIR_JSON, "json")


def _file(body: bytes, media_type: str, ending: str) -> Response[bytes]:
    disposition = f'attachment; filename="patient-summary.{ending}"'
    return Response(body, media_type=media_type, headers={"Content-Disposition": disposition})


# ------------------------------------------------------------------ the emergency card


@dataclass(frozen=True, slots=True)
class Part:
    """One list of the card. `note` is printed; `left_out` is only said beside the card."""

    title: str
    slug: str
    lines: tuple[Line, ...]
    note: str
    left_out: str


@page("/p/{patient_id:str}/card", access=Access.MEMBER)
def card(visit: Visit) -> Response[Any]:
    """Show what a medic needs on one A4 page and on a card of wallet size.

    What carries a sensitive label is on it only with `?sensitive=yes`; what is private never is.
    """
    return _card(visit, sensitive=visit.query.get("sensitive") == "yes")


@action("/p/{patient_id:str}/card", access=Access.PROXY)
def card_with_link(visit: Visit, form: Form) -> Response[Any]:
    """Show the card with the QR code of what was just made; nothing of it is kept.

    A link comes with its code; emergency access has none, it asks for a name and a reason.
    """
    link, code = form.get("link"), form.get("code")
    public_url = visit.appliance.settings.public_url
    is_link = link.startswith(f"{public_url}/s/") and code.isdigit()
    is_card = link.startswith(f"{public_url}{emergency.PATH}/") and not code
    if not (is_link or is_card):
        raise NotFound
    sensitive = form.get("sensitive") == "yes"
    return _card(visit, sensitive=sensitive, link=link, code=code, qr=qr(link))


def _card(visit: Visit, *, sensitive: bool, **more: Any) -> Response[Any]:
    now = clock.now()
    with visit.vault.read() as session:
        found = fetch(session, visit.vault, view.VIEW, view.VIEW.selection)
        around = _around(visit, session, found)
    people = of_the_person(found, how(around))
    sections = {one.head.slug: one for one in summary_of(found, now=now, how=how(around))}
    parts = [_part(sections[slug], sensitive=sensitive) for slug in WORDS]
    told = {each for part in parts for line in part.lines for each in _sources(line)}
    told |= {one.connection_id for one in people if one.type == "Patient"}
    origins = {one: origin for one, origin in around.origins.items() if one in told}
    labelled = any(_labels(line) & ~Label.PRIVATE for one in parts for line in one.lines)
    return visit.render(
        "pages/card.html",
        who=cover.who_is(people, visit.patient.name if visit.patient else "", now),
        parts=parts,
        left_out=[part.left_out for part in parts if part.left_out],
        sensitive=sensitive,
        is_choice=labelled or any(_may_be_ticked(sections[slug]) for slug in WORDS),
        most=ON_A_CARD,
        contacts=contacts_of(people)[:CONTACTS],
        as_of=[cover.as_of(origin) for origin in cover.hospitals_first(origins)],
        made=cover.minute(now),
        **{"link": "", "code": "", "qr": "", **more},
    )


def _part(section: Section, *, sensitive: bool) -> Part:
    """Return one list without what carries a label that was not ticked, and without doublets."""
    slug = section.head.slug
    lines = [one for one in section.lines if not _is_left_out(one, sensitive=sensitive)]
    count = len(section.lines) - len(lines)
    told = f"{counted(count, *NOUNS[slug])} with a sensitive label {_is_or_are(count)} left out."
    named = {_named(one) for one in lines if not _of_a_visit(one)}
    kept = tuple(one for one in lines if not (_of_a_visit(one) and _named(one) in named))
    note = section.note if kept and section.head is ALLERGIES else ""
    if not kept:
        note = (section.gap or Gap.WITHHELD).words
    return Part(WORDS[slug], slug, kept, note, told if count else "")


def _is_or_are(count: int) -> str:
    return "is" if count == 1 else "are"


def _is_left_out(line: Line, *, sensitive: bool) -> bool:
    return bool(_labels(line) & (Label.PRIVATE if sensitive else ~Label.NONE))


def _may_be_ticked(section: Section) -> bool:
    found = (_labels(line) for line in section.lines)
    return any(labels and not labels & Label.PRIVATE for labels in found)


def _labels(line: Line) -> Label:
    """Return the labels of all records that say a line; one of them is enough to hide it."""
    return reduce(or_, (one.labels for one in (line.record, *line.evidence.records)), Label.NONE)


def _sources(line: Line) -> set[int]:
    return {line.record.connection_id, *line.evidence.sources}


def _of_a_visit(line: Line) -> bool:
    return line.record.type == "Condition" and line.cells[1].endswith(OF_A_VISIT)


def _named(line: Line) -> str:
    return line.cells[0].casefold()


ROUTES = [read, save, card, card_with_link]
