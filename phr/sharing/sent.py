"""One thing that was sent: what it is, judged by its bytes, and the records it would add.

Pure: nothing here looks anything up or keeps it. Whether it may come, waits or stands: `inbox`.
"""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from phr import clock
from phr.chart import documents
from phr.chart.plain import name_words, string
from phr.errors import InvalidInput
from phr.fhir import document, statements
from phr.fhir.build import authored
from phr.fhir.intake import Intake, Taken, named, peek
from phr.fhir.labels import Label
from phr.fhir.record import Item, Record
from phr.fhir.references import local_id_of, local_key
from phr.fhir.slicing import slices
from phr.papers import kinds
from phr.papers.kinds import Way
from phr.sharing.parameters import PARAMETERS
from phr.sharing.provision import IDENTITY, SUPPORTING
from phr.store.models import Arrival, ArrivalKind
from phr.store.vault import Vault

MOST: Final = 10 << 20  # bytes of one arrival
MOST_BY_API: Final = 4 << 20  # bytes of a request
MOST_NOTE: Final = 20_000  # characters
MOST_RESOURCES: Final = 200  # in one arrival
MOST_MAILED: Final = 5_000  # in one that came by mail: a whole record is sent so
NOTE: Final = "note"
FILE: Final = "file"
CODED: Final = "document"  # a C-CDA: a file whose coded entries become records
API: Final = "api"
LINK: Final = "link"
DIRECT: Final = "direct"
# What may be sent as FHIR: what the API offers, but nobody's identity. Who and where come along.
TYPES: Final = frozenset(PARAMETERS) - {*IDENTITY, *SUPPORTING, "Provenance"}
_COMING_ALONG: Final = frozenset({*SUPPORTING, "Binary"})
# What a package says of itself and whom it is about: told, and saved with it, but never added.
_TOLD: Final = frozenset({*IDENTITY, "Provenance", "Consent", "MessageHeader", "OperationOutcome"})
_SHOWN_AS: Final = frozenset({kinds.PDF, kinds.TEXT, kinds.CDA, kinds.RTF})

DAMAGED = "This file says that it is FHIR, but it cannot be read as that. It was not kept."
NOT_TAKEN = "Please send a PDF, a picture (PNG, JPEG, GIF), plain text, C-CDA or FHIR (JSON)."
NOT_ADDED = "This file holds something that cannot be added to a record ({type}). It was not kept."
NO_RECORDS = "There is no record in this file that could be added. It was not kept."
TOO_MANY = "This file holds more than {most:,} records. It was not kept."
TOO_LARGE = "This is larger than 10 MB. It was not kept."


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender hands in. `title`, `name` and `signed` are his words; `amends` is an arrival.

    `type` is the FHIR type that a program names in its request; its `content` is one resource,
    about nobody but `patient` (the id by which the API knows whose record this is).
    """

    content: bytes = field(repr=False)
    title: str = field(default="", repr=False)
    name: str = field(default="", repr=False)
    signed: str = field(default="", repr=False)
    is_note: bool = False
    way: str = LINK
    type: str = ""
    patient: str = ""
    amends: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What the bytes are (kind, media type, what is in it), found out without believing anybody."""

    kind: ArrivalKind
    media_type: str
    what: tuple[str, ...]


# ------------------------------------------------------------------ what it is


def look_at(sent: Sent) -> Content:
    """Return what was sent, judged by its bytes. Raises InvalidInput with the reason."""
    content = sent.content
    if not content.strip():
        raise InvalidInput("There is nothing in it.")
    if len(content) > MOST:
        raise InvalidInput(TOO_LARGE)
    if sent.type:
        return _one_resource(sent)
    if sent.is_note:
        if len(content.decode()) > MOST_NOTE:
            raise InvalidInput(f"A note takes at most {MOST_NOTE:,} characters.")
        return Content(ArrivalKind.NOTE, kinds.TEXT.media_type, (NOTE,))
    kind = kinds.kind_of(content)
    if kind is kinds.TEXT and _is_fhir(content):
        return Content(
            ArrivalKind.RECORDS, "application/fhir+json", _types(_judged(content, sent.way))
        )
    is_mailed = kind is kinds.HTML and sent.way == DIRECT  # many systems write nothing else
    if kind not in _SHOWN_AS and kind.way is not Way.IMAGE and not is_mailed:
        raise InvalidInput(NOT_TAKEN)
    what = CODED if kind is kinds.CDA else FILE
    return Content(ArrivalKind.FILE, kind.media_type, (what,))


def _one_resource(sent: Sent) -> Content:
    if sent.type not in TYPES:
        raise InvalidInput("This type cannot be sent here.")
    body = sent.content.removeprefix(document.BOM).strip()
    type_, _ = peek(body)
    if type_ != sent.type:
        raise InvalidInput("The resourceType differs from the address.")
    if set(_take(Item(body)).patients) - {sent.patient}:
        raise InvalidInput("This is about another patient. Nothing was kept.")
    return Content(ArrivalKind.RECORDS, "application/fhir+json", (sent.type,))


def _is_fhir(content: bytes) -> bool:
    start = content.removeprefix(document.BOM).lstrip()
    return start.startswith((b"{", b"[")) and b'"resourceType"' in content


def _judged(content: bytes, way: str) -> list[Item]:
    """Return what would be added of a FHIR file; raise InvalidInput where anything is unfit."""
    items: list[Item] = []
    most = MOST_MAILED if way == DIRECT else MOST_RESOURCES
    for item in slices(io.BytesIO(content)):
        type_ = _take(item).kind.type
        if type_ in _TOLD:
            continue
        if type_ not in TYPES and type_ not in _COMING_ALONG:
            raise InvalidInput(NOT_ADDED.format(type=type_))
        items.append(item)
        if len(items) > most:
            raise InvalidInput(TOO_MANY.format(most=most))
    if not set(_types(items)) & TYPES:
        raise InvalidInput(NO_RECORDS)
    return items


def _take(item: Item) -> Taken:
    """Judge one resource as `keep` will, so that an accepted arrival is kept as a whole."""
    try:
        kind, _ = named(*peek(item.body), item.body, item.url)
        return Intake().take(document.text_bytes(item.body), kind)
    except InvalidInput as problem:
        raise InvalidInput(f"{DAMAGED} {problem.sentence}") from problem


def _types(items: Iterable[Item]) -> tuple[str, ...]:
    return tuple(sorted({str(peek(item.body)[0]) for item in items}))


# ------------------------------------------------------------------ what it would add


def contributed(held: Arrival) -> list[Item]:
    """Return the resources that an arrival adds once it is accepted: received ones as received."""
    if held.kind == ArrivalKind.WITHDRAWAL or held.content is None:
        return []
    content = received(held)
    if held.kind != ArrivalKind.RECORDS:
        return [Item(authored(_document(held, content)), "what was sent")]
    if held.way == API:
        body = _without_id(content.removeprefix(document.BOM).strip())
        return [Item(body, "what was sent", f"{held.what[0]}/{held.chain}")]
    return _judged(content, held.way)


def received(held: Arrival) -> bytes:
    """Return the bytes of an arrival as they came; b"" where they were erased."""
    return held.content or b""


def _without_id(body: bytes) -> bytes:
    """Return a resource without the id its sender gave it (R4 §3.1.0.8: a server ignores it)."""
    kept = [
        document.dumps(name) + b":" + found.raw
        for name, found in document.fields(body).items()
        if name != "id"
    ]
    return b"{" + b",".join(kept) + b"}"


def adds(held: Arrival) -> list[tuple[str, str]]:
    """Return (type, remote id) of what an arrival adds."""
    found = [named(*peek(item.body), item.body, item.url) for item in contributed(held)]
    return [(kind.type, remote_id) for kind, remote_id in found]


def _document(held: Arrival, content: bytes) -> dict[str, Any]:
    """Return the DocumentReference (R4 §2.25) around a note or a file; the file is beside it."""
    title = held.title or held.name
    said = f"{held.media_type}; charset=utf-8" if held.kind == ArrivalKind.NOTE else held.media_type
    attachment: dict[str, Any] = {"contentType": said, "size": len(content)}
    if held.kind == ArrivalKind.NOTE:
        attachment["data"] = base64.b64encode(content).decode()
    else:
        attachment["url"] = file_address(held)
    if title:
        attachment["title"] = title
    made: dict[str, Any] = {
        "resourceType": "DocumentReference",
        "id": held.chain,
        "status": "current",
        "type": {"text": title or ("Note" if held.kind == ArrivalKind.NOTE else "File")},
        "subject": statements.PATIENT,
        "date": clock.instant(held.received_at),
        "content": [{"attachment": attachment}],
    }
    if held.signed:
        made["author"] = [{"display": f"{held.signed} (as signed, not verified)"}]
    if held.kind == ArrivalKind.NOTE:
        made["description"] = content.decode()
    return made


def file_address(held: Arrival) -> str:
    """Return the address by which the DocumentReference of a file names its bytes."""
    return f"Binary/{held.id}"


def as_records(vault: Vault, held: Arrival) -> list[Record]:
    """Return what an arrival would add as records, for looking at; nothing is kept by that."""
    return [
        Record(
            pk=-number,
            local_id=local_id_of(local_key(vault.id_key, held.place or 0, kind.type, remote_id)),
            connection_id=held.place or 0,
            type=kind.type,
            remote_id=remote_id,
            version=1,
            received_at=held.received_at,
            when=None,
            labels=Label(taken.labels),
            withdrawn=False,
            body=item.body,
        )
        for number, item in enumerate(contributed(held), start=1)
        for kind, remote_id in [named(*peek(item.body), item.body, item.url)]
        for taken in [Intake().take(document.text_bytes(item.body), kind)]
    ]


def draft(sent: Sent, *, now: datetime) -> Record:
    """Return what a program sends as a record, for judging whether its scopes reach that."""
    return Record(
        pk=0,
        local_id="",
        connection_id=0,
        type=sent.type,
        remote_id="",
        version=1,
        received_at=now,
        when=None,
        labels=Label.NONE,
        withdrawn=False,
        body=sent.content.removeprefix(document.BOM).strip(),
    )


def named_person(held: Arrival) -> tuple[str, str] | None:
    """Return (name, birth date) of the patient that a FHIR file is about, if it names one."""
    if held.kind != ArrivalKind.RECORDS or held.content is None:
        return None
    for item in slices(io.BytesIO(received(held))):
        if peek(item.body)[0] in IDENTITY:
            said = document.parse(item.body)
            full = name_words(said.get("name"))
            return full, string(said.get("birthDate"))
    return None


def holds_coded(held: Arrival) -> bool:
    """Say whether what was sent is a C-CDA, or has one inside a FHIR resource.

    It is about a person, and its coded entries become records once it is accepted.
    """
    if held.kind == ArrivalKind.FILE:
        return kinds.kind_of(received(held)) is kinds.CDA
    if held.kind != ArrivalKind.RECORDS:
        return False
    found = (document.parse(item.body) for item in contributed(held))
    return any(
        kinds.kind_of(documents.inline_bytes(said, one.place) or b"") is kinds.CDA
        for said in found
        for one in documents.attachments(said)
        if one.inline
    )
