"""What the FHIR API answers with: one resource, a page of a search, a history, everything.

Only what `gate.Released` gives: received bytes with local ids, the one composed Patient, and a
Provenance for each record that says where it is from. No decision is made here.
"""

import hmac
import json
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, Final
from urllib.parse import urlencode

from phr import clock
from phr.errors import InvalidInput, NotFound
from phr.fhir import document, references, subset
from phr.fhir.record import Record
from phr.fhir.references import key_of
from phr.sharing import package
from phr.sharing.gate import Released
from phr.sharing.parameters import PARAMETERS
from phr.sharing.provision import SUPPORTING
from phr.sharing.ready import END, HEAD, NAME_END, Lot, is_r4
from phr.sharing.search import Search

ORIGIN: Final = "origin-"  # with the id of a record: its Provenance
PATIENT, PROVENANCE = "Patient", "Provenance"
SIGNED_BYTES: Final = 12
MATCH: Final = b'"search":{"mode":"match"}}'  # the end of an entry
INCLUDE: Final = b'"search":{"mode":"include"}}'
CCD: Final = "http://loinc.org|34133-9"  # a summary of care (US Core `$docref`)
DOCUMENT: Final = "DocumentReference"

Pair = tuple[str, bytes]  # "Type/id", the resource


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it leaves, with its version and when this server took that in."""

    name: str  # "Type/id"
    body: bytes
    version: str
    received_at: datetime

    @property
    def etag(self) -> str:
        """The weak ETag of this version (R4 §3.1.0.3)."""
        return f'W/"{self.version}"'


# ------------------------------------------------------------------ one


def is_id(text: str) -> bool:
    """Tell whether a text has the form of an id that this API gives out."""
    return key_of(text.removeprefix(ORIGIN)) is not None


def one(released: Released, type_: str, local_id: str) -> Resource:
    """Return one resource. Raises NotFound alike for hidden, unknown and never received."""
    if type_ == PATIENT:
        return patient(released, local_id)
    if type_ == PROVENANCE:
        return _origin(released, local_id)
    return _resource(*released.bodies([_record(released, type_, local_id)])[0])


def _record(released: Released, type_: str, local_id: str) -> Record:
    if type_ not in PARAMETERS:
        raise NotFound
    supporting = type_ in SUPPORTING
    found = (released.supporting if supporting else released.one)(type_, local_id)
    if not is_r4(found):
        raise NotFound
    return found


def versions(released: Released, type_: str, local_id: str) -> list[Resource]:
    """Return the versions of one resource, newest first. Raises NotFound."""
    if type_ == PATIENT:
        raise NotFound
    found = released.versions(_record(released, type_, local_id))
    if not found:
        raise NotFound
    return [_resource(record, body) for record, body in found]


def version(released: Released, type_: str, local_id: str, number: str) -> Resource:
    """Return one version of one resource. Raises NotFound."""
    for each in versions(released, type_, local_id):
        if each.version == number:
            return each
    raise NotFound


def _resource(record: Record, body: bytes) -> Resource:
    name = f"{record.type}/{record.local_id}"
    return Resource(name, body, str(record.version), record.received_at)


def patient(released: Released, local_id: str | None = None) -> Resource:
    """Return the composed Patient; its version follows from its content."""
    known = references.patient_id(released.vault.id_key)
    if local_id not in (None, known) or not released.reaches(PATIENT):
        raise NotFound
    identity = released.identity()
    body = document.dumps(_named(package.composed_patient(known, identity)))
    at = max((record.received_at for record in identity), default=released.terms.created_at)
    return Resource(f"{PATIENT}/{known}", body, blake2b(body, digest_size=8).hexdigest(), at)


def _named(composed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return our Patient with what US Core demands of one: an identifier, which is ours, and a sex.

    A sex that no source told is "unknown"; the identifier says no more than the id.
    """
    own = blake2b(str(composed["id"]).encode(), digest_size=16).hexdigest()
    parts = (own[:8], own[8:12], own[12:16], own[16:20], own[20:])  # RFC 9562 §4
    identifier = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{'-'.join(parts)}"}
    return {**composed, "identifier": [identifier], "gender": composed.get("gender", "unknown")}


def _origin(released: Released, name: str) -> Resource:
    """Return the Provenance "origin-<id>" of a record that is released."""
    of = name.removeprefix(ORIGIN)
    if of == name:
        raise NotFound
    for type_ in released.types_of(of):
        record = _record(released, type_, of)
        return Resource(*_provenance(released, record), "1", record.received_at)
    raise NotFound


def _provenance(released: Released, record: Record) -> Pair:
    name = f"{ORIGIN}{record.local_id}"
    target = f"{record.type}/{record.local_id}"
    made = package.provenance(name, released.place_of(record), record.received_at, [target])
    return f"{PROVENANCE}/{name}", document.dumps(made)


def binary(name: str, record: Record, content: bytes, media_type: str) -> bytes:
    """Return a file as a Binary (R4 §2.37); whoever may read the record may read it."""
    made = {
        "resourceType": "Binary",
        "id": name,
        "contentType": media_type,
        "securityContext": {"reference": f"{record.type}/{record.local_id}"},
        "data": b64encode(content).decode(),
    }
    return document.dumps(made)


# ------------------------------------------------------------------ a page of a search


def page(released: Released, asked: Search, *, base: str) -> bytes:
    """Return a Bundle of type searchset; `base` is our FHIR base. Raises InvalidInput (cursor)."""
    if asked.type == PATIENT:
        return _page_of_patient(released, asked, base)
    total = released.total(asked) if asked.total else None
    if asked.summary == "count":
        return _searchset(asked, base, (), (), total=total)
    after = _opened(released, asked) if asked.cursor else ""
    try:
        found = list(islice(released.found(asked, after=after), asked.count + 1))
    except NotFound:
        raise InvalidInput("This page is no longer there. Please search again.") from None
    more = len(found) > asked.count
    shown = found[: asked.count]
    following = _cursor(released, asked, shown[-1][0]) if more else ""
    others = [*_others(released, asked, shown)]
    matches = [(f"{record.type}/{record.local_id}", body) for record, body in shown]
    return _searchset(asked, base, matches, others, total=total, following=following)


def _page_of_patient(released: Released, asked: Search, base: str) -> bytes:
    found = patient(released)
    at = clock.to_ms(found.received_at)
    fits = asked.fits(document.parse(found.body)) and asked.admits(
        found.name.rpartition("/")[2], at
    )
    matches = [(found.name, found.body)] if fits else []
    total = len(matches) if asked.total else None
    if asked.summary == "count":
        matches = []
    return _searchset(asked, base, matches, (), total=total)


def _others(
    released: Released, asked: Search, shown: Sequence[tuple[Record, bytes]]
) -> Iterator[Pair]:
    """Yield what `_include` and `_revinclude` add."""
    if asked.includes:
        included = released.included(shown, asked)
        for record, body in released.bodies(included):
            yield f"{record.type}/{record.local_id}", body
        if released.includes_patient(shown, asked):
            found = patient(released)
            yield found.name, found.body
    if asked.origins and released.reaches(PROVENANCE):
        for record, _ in shown:
            yield _provenance(released, record)


def _searchset(
    asked: Search,
    base: str,
    matches: Collection[Pair],
    others: Iterable[Pair],
    *,
    total: int | None,
    following: str = "",
) -> bytes:
    cut = _cutter(asked)
    here = f"{base}/{asked.type}"
    own = [pair for pair in asked.asked if pair[0] != "_page"]
    links = [("self", [*own, *([("_page", asked.cursor)] if asked.cursor else [])])]
    if following:
        links.append(("next", [*own, ("_page", following)]))
    head = {
        "resourceType": "Bundle",
        "type": "searchset",
        **({} if total is None else {"total": total}),
        "link": [
            {"relation": relation, "url": f"{here}?{urlencode(pairs)}" if pairs else here}
            for relation, pairs in links
        ],
    }
    entries = [_entry(base, name, cut(body), MATCH) for name, body in matches]
    entries += [_entry(base, name, cut(body), INCLUDE) for name, body in others]
    opening = document.dumps(head)
    if not entries:
        return opening
    return opening[:-1] + b',"entry":[' + b",\n".join(entries) + b"]}"


def _entry(base: str, name: str, body: bytes, end: bytes) -> bytes:
    """Return an entry of a Bundle: the resource, and what is said beside it."""
    return b'{"fullUrl":"' + f"{base}/{name}".encode() + b'","resource":' + body + b"," + end


def _cutter(asked: Search) -> Callable[[bytes], bytes]:
    """Return what makes of each resource the part that was asked for."""
    if asked.elements:
        return lambda body: subset.elements(body, asked.elements)
    parts = {"true": subset.summary, "text": subset.narrative, "data": subset.data}
    return parts.get(asked.summary, bytes)


# ------------------------------------------------------------------ cursors


def _cursor(released: Released, asked: Search, last: Record) -> str:
    """Return where the next page begins: behind a record that this one shows, nothing else.

    Signed for this grant and this search, so that it says nothing and fits nowhere else.
    """
    return urlsafe_b64encode(
        bytes.fromhex(last.local_id) + _signed(released, asked, last.local_id)
    ).decode()


def _opened(released: Released, asked: Search) -> str:
    try:
        raw = urlsafe_b64decode(asked.cursor.encode("ascii"))
    except ValueError:
        raw = b""
    local_id, tag = raw[:8].hex(), raw[8:]
    if not hmac.compare_digest(tag, _signed(released, asked, local_id)):
        raise InvalidInput("This page is no longer there. Please search again.")
    return local_id


def _signed(released: Released, asked: Search, local_id: str) -> bytes:
    own = [pair for pair in asked.asked if pair[0] not in {"_page", "_count"}]
    said = json.dumps([released.terms.grant_id, asked.type, own, local_id]).encode()
    key = released.vault.id_key
    return blake2b(said, digest_size=SIGNED_BYTES, key=key, person=b"page of fhir").digest()


# ------------------------------------------------------------------ history


def history(found: Sequence[Resource], *, base: str) -> bytes:
    """Return a Bundle of type history (R4 §3.1.0.9), newest first."""
    entries = []
    for each in found:
        said = {
            "request": {"method": "PUT", "url": each.name},
            "response": {
                "status": "200",
                "etag": each.etag,
                "lastModified": clock.instant(each.received_at),
            },
        }
        entries.append(_entry(base, each.name, each.body, document.dumps(said)[1:]))
    head = {
        "resourceType": "Bundle",
        "type": "history",
        "total": len(found),
        "link": [{"relation": "self", "url": f"{base}/{found[0].name}/_history"}],
    }
    return document.dumps(head)[:-1] + b',"entry":[' + b",\n".join(entries) + b"]}"


# ------------------------------------------------------------------ everything


def everything(
    released: Released,
    local_id: str | None,
    *,
    types: Collection[str],
    since: datetime | None,
    base: str,
) -> Iterator[bytes]:
    """Yield a Bundle with all that is released (R4 Patient-operation-everything), in pieces.

    `types` empty: all. Raises NotFound for another patient, Ended as soon as it is over.
    """
    whose = patient(released, local_id)
    return released.guarded(package.chunked(_everything(released, whose, types, since, base)))


def _everything(
    released: Released, whose: Resource, types: Collection[str], since: datetime | None, base: str
) -> Iterator[bytes]:
    url = f"{base}/{whose.name}/$everything"
    head = {
        "resourceType": "Bundle",
        "type": "searchset",
        "link": [{"relation": "self", "url": url}],
    }
    yield document.dumps(head)[:-1] + b',"entry":['
    first = True
    if not types or PATIENT in types:
        yield _entry(base, whose.name, whose.body, MATCH)
        first = False
    offered = set(types or PARAMETERS) & set(PARAMETERS)
    for lot in released.lots(types=offered, since=since):
        entries = _entries(base, lot)
        yield entries if first else b",\n" + entries
        first = False
    yield b"]}"


def _entries(base: str, lot: Lot) -> bytes:
    """Return the entries of a Bundle for many records: as `_entry` for each."""
    opening, end = b'{"fullUrl":"' + f"{base}/{lot.type}/".encode(), b"," + MATCH
    if lot.body is not None:
        return b"".join((opening, lot.text, NAME_END, lot.body, end))
    return b"".join((opening, lot.text.replace(END, end + b",\n" + opening), end))


# ------------------------------------------------------------------ documents ($docref)


def documents_of(released: Released, asked: Search, *, newest: bool, own: str, base: str) -> bytes:
    """Return a searchset of documents (US Core 6.1.0, DocumentReference/$docref).

    `newest`: only the most recent one of each kind, as where no date is asked for; `own` is the
    address of the request.
    """
    found: dict[object, tuple[str, bytes]] = {}
    for number, (record, body) in enumerate(released.found(asked)):
        kind = json.dumps(document.parse(body).get("type"), sort_keys=True) if newest else number
        found.setdefault(kind, (f"{record.type}/{record.local_id}", body))
    entries = [_entry(base, name, body, MATCH) for name, body in found.values()]
    head = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(entries),
        "link": [{"relation": "self", "url": own}],
    }
    opening = document.dumps(head)
    return opening[:-1] + b',"entry":[' + b",\n".join(entries) + b"]}" if entries else opening


# ------------------------------------------------------------------ one type, line by line


def lines(
    released: Released, type_: str, *, since: datetime | None, until: datetime
) -> Iterator[bytes]:
    """Yield what is released of a type as NDJSON, a line each: as it was at `until`.

    `since`: only what this server took in from then on. Raises Ended as soon as it is over.
    """
    if type_ == PATIENT:
        found = patient(released)
        if since is None or found.received_at >= since:
            yield package.one_line(found.body) + b"\n"
        return
    for lot in released.lots(type_, since=since, until=until):
        yield _as_lines(lot)


def _as_lines(lot: Lot) -> bytes:
    if lot.body is not None:
        return package.one_line(lot.body) + b"\n"
    text = package.one_line(lot.text)
    return b"\n".join([each[HEAD:] for each in text.split(END)]) + b"\n"
