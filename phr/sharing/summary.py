"""The International Patient Summary as a document Bundle (IPS guide 2.0.0; R4 §3.3), and as PDF.

From released records or from the owner's own. Received bytes leave as they came, with local ids;
authored here are the Composition, its Device author, the composed Patient and the Provenance.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from phr import clock, ids
from phr.chart.decision import Decision
from phr.chart.people import of_the_person
from phr.chart.summary import SELECTIONS, Gap, Section, summary
from phr.fhir import document, references
from phr.fhir.build import LOINC, authored, concept, narrative
from phr.fhir.record import Record
from phr.sharing import closure, cover
from phr.sharing.gate import Owned, Released, person_of
from phr.sharing.package import Trail, composed_patient
from phr.views import Context, paper
from phr.views import summary as view
from phr.views.evidence import how as gathering

IPS = "http://hl7.org/fhir/uv/ips/StructureDefinition/"
AUTHOR = "homeport"  # id of the Device that says: assembled by software, without a clinician
OWN = "What hospitals sent and the patient added. Not listed does not mean absent."
UNKNOWN = {
    "extension": [
        {
            "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
            "valueCode": "unknown",
        }
    ]
}

_PAGE = cover.template("summary.html")


def bundle(source: Released | Owned, *, base_url: str, now: datetime) -> bytes:
    """Return the summary as JSON bytes: Composition first, then Patient, author and entries.

    fullUrls are `{base_url}/fhir/Type/local id`. Raises Ended when a grant is over.
    """
    origins = source.origins()
    found = source.select(*SELECTIONS)
    how = gathering(Context(origins=origins, now=now, decisions=decisions_of(source)))
    sections = summary(found, now=now, shared=isinstance(source, Released), how=how)
    trail = Trail(origins)
    leaving = source.bodies(_named(found, sections))
    for record, _ in leaving:
        trail.note(record)
    patient_id = references.patient_id(source.vault.id_key)
    composition = _composition(sections, Context(origins=origins, now=now), patient_id)
    entries = chain(
        (_named_bytes(composition, authored(composition)),),
        (_patient(source, patient_id, of_the_person(found, how)),),
        (_named_bytes(_DEVICE, authored(_DEVICE)),),
        ((f"{record.type}/{record.local_id}", body) for record, body in leaving),
        (_named_bytes(each, authored(each)) for each in trail.provenances()),
    )
    return _joined(entries, base_url, now)


def pdf(source: Released | Owned, *, now: datetime) -> bytes:
    """Return the summary as PDF/UA; raise Ended when a grant is over."""
    return paper.pdf(html(source, now=now))


def html(source: Released | Owned, *, now: datetime) -> str:
    """Return the page that becomes the PDF: whole in itself, nothing to fetch."""
    origins = source.origins()
    found = source.select(*SELECTIONS)
    how = gathering(Context(origins=origins, now=now, decisions=decisions_of(source)))
    shared = isinstance(source, Released)
    context = Context(origins=origins, now=now)
    return _PAGE.render(
        who=cover.who_is(of_the_person(found, how), person_of(source.vault), now),
        chosen=cover.CHOSEN if shared else OWN,
        made=cover.minute(now),
        as_of=[cover.as_of(origin) for origin in origins.values()] or ["nothing has come yet"],
        sections=[
            (section, view.narrative(section, context))
            for section in summary(found, now=now, shared=shared, how=how)
        ],
    )


def decisions_of(source: Released | Owned) -> tuple[Decision, ...]:
    """Return the patient's standing decisions on what is the same, as far as they may be known."""
    if isinstance(source, Released):
        return source.decisions()
    return tuple(
        Decision(said["one"].rpartition("/")[2], said["other"].rpartition("/")[2], said["same"])
        for said in source.decisions()
        if said["undone"] is None
    )


def _named(found: Sequence[Record], sections: Sequence[Section]) -> list[Record]:
    """Return the entries of all sections, each once, and what they refer to among `found`."""
    entries = {one.pk: one for section in sections for one in section.records}
    wanted = closure.Wanted()
    for record in entries.values():
        wanted.note(record)
    # Whom records are about is the composed Patient, never a hospital's own.
    near = [one for one in found if one.pk not in entries and one.type != "Patient"]
    return [*entries.values(), *wanted.pick(near)]


def _composition(
    sections: Sequence[Section], context: Context, patient_id: str
) -> Mapping[str, Any]:
    day = context.now.date().isoformat()
    return {
        "resourceType": "Composition",
        "id": ids.new_uuid(),
        "meta": {"profile": [f"{IPS}Composition-uv-ips"]},
        "status": "final",
        "type": concept(LOINC, "60591-5", "Patient summary Document"),
        "subject": {"reference": f"Patient/{patient_id}"},
        "date": clock.instant(context.now),
        "author": [{"reference": f"Device/{AUTHOR}"}],
        "title": f"Patient summary of {day}",
        "section": [_section(one, context) for one in sections],
    }


def _section(section: Section, context: Context) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": section.head.title,
        "code": concept(LOINC, section.head.code),
        "text": narrative(str(view.narrative(section, context))),
    }
    entry = [{"reference": f"{r.type}/{r.local_id}"} for r in section.records]
    if entry:
        made["entry"] = entry
    else:  # nothing at all, or only what is told in the text (ips-comp-1)
        made["emptyReason"] = concept("list-empty-reason", section.gap or Gap.UNAVAILABLE)
    return made


_DEVICE = {
    "resourceType": "Device",
    "id": AUTHOR,
    "deviceName": [{"name": "Homeport", "type": "user-friendly-name"}],
    "note": [{"text": "Assembled by software from what hospitals sent. No clinician reviewed it."}],
}


def _patient(
    source: Released | Owned, patient_id: str, told: Sequence[Record]
) -> tuple[str, bytes]:
    """Return the composed Patient; what no source told is said to be unknown (IPS Patient)."""
    made = dict(composed_patient(patient_id, told))
    made.setdefault("name", [{"text": person_of(source.vault)}])
    if "birthDate" not in made:
        made["_birthDate"] = UNKNOWN
    return _named_bytes(made, document.dumps(made))  # foreign names: not for our models to judge


def _named_bytes(resource: Mapping[str, Any], body: bytes) -> tuple[str, bytes]:
    return f"{resource['resourceType']}/{resource['id']}", body


def _joined(entries: Iterable[tuple[str, bytes]], base_url: str, now: datetime) -> bytes:
    head = {
        "resourceType": "Bundle",
        "meta": {"profile": [f"{IPS}Bundle-uv-ips"]},
        "type": "document",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{ids.new_uuid()}"},
        "timestamp": clock.instant(now),
    }
    made = (
        document.dumps({"fullUrl": f"{base_url}/fhir/{name}"})[:-1] + b',"resource":' + body + b"}"
        for name, body in entries
    )
    return authored(head)[:-1] + b',"entry":[' + b",\n".join(made) + b"]}\n"
