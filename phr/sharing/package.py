"""What is carried: a Bundle of released bytes, a page to read, and the owner's whole copy.

Received bytes leave as they came, with only ids and references exchanged for local ones. What we
author ourselves (the composed Patient, Provenance, Consent) is little and says so.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import chain, count, islice
from operator import itemgetter
from typing import IO, Any, cast

from phr import clock
from phr.chart.people import of_the_person
from phr.fhir import document, references
from phr.fhir.build import authored
from phr.fhir.labels import Label
from phr.fhir.record import Origin, Record
from phr.sharing import consent, cover, signing
from phr.sharing.channels.base import Parcel, Part
from phr.sharing.gate import Owned, Released
from phr.sharing.ready import END, ID, NAME_END, Came, Lot
from phr.sharing.signing import Archive, Seal
from phr.store import records

CHUNK = 256 * 1024  # bytes; between two chunks the grant is looked at again
TARGETS = 1000  # references in one Provenance at most
FHIR_JSON = "application/fhir+json"
SYSTEM = "http://terminology.hl7.org/CodeSystem/"
first = itemgetter(0)


class Trail:
    """Where records came from: (connection, instant of receipt) -> local ids of each type.

    Ids are of one length and stand one behind the other: a record costs its 16 bytes.
    """

    def __init__(self, origins: Mapping[int, Origin]) -> None:
        """Take the names of the connections."""
        self._origins = origins
        self._from: dict[Came, dict[str, bytearray]] = {}

    def note(self, record: Record) -> None:
        """Remember one record."""
        came = (record.connection_id, clock.to_ms(record.received_at))
        self._note(record.type, came, record.local_id.encode())

    def note_all(self, lot: Lot) -> None:
        """Remember the records of a lot that was asked for with `came`."""
        names = lot.names()
        if len(set(lot.came)) == 1:
            self._note(lot.type, lot.came[0], b"".join(names))
            return
        for came, name in zip(lot.came, names, strict=True):
            self._note(lot.type, came, name)

    def _note(self, type_: str, came: Came, names: bytes) -> None:
        self._from.setdefault(came, {}).setdefault(type_, bytearray()).extend(names)

    def provenances(self) -> Iterator[Mapping[str, Any]]:
        """Yield Provenance resources (R4 §5.4): from where, and when it was received."""
        for number, (came, by_type) in enumerate(sorted(self._from.items(), key=first), start=1):
            connection, at = came[0], clock.from_ms(came[1])
            targets = (
                f"{type_}/{ids[begin : begin + ID].decode()}"
                for type_, ids in by_type.items()
                for begin in range(0, len(ids), ID)
            )
            for part in count():
                some = list(islice(targets, TARGETS))
                if not some:
                    break
                yield self._provenance(f"origin-{number}-{part}", connection, at, some)

    def _provenance(
        self, name: str, connection: int, at: datetime, targets: list[str]
    ) -> Mapping[str, Any]:
        origin = self._origins.get(connection)
        if origin is None:
            return provenance(name, "an unknown source", at, targets)
        return provenance(name, origin.name, at, targets, address=origin.address)


def provenance(
    name: str, place: str, at: datetime, targets: Iterable[str], *, address: str = ""
) -> Mapping[str, Any]:
    """Return a Provenance (R4 §5.4): the place that some records came from, and when.

    `address` is the endpoint's, where it was pulled from one.
    """
    known = {"identifier": {"system": "urn:ietf:rfc:3986", "value": address}} if address else {}
    role = {"coding": [{"system": f"{SYSTEM}provenance-participant-type", "code": "assembler"}]}
    return {
        "resourceType": "Provenance",
        "id": name,
        "target": [{"reference": target} for target in targets],
        "recorded": clock.instant(at),
        "agent": [{"type": role, "who": {"display": "Homeport, the patient's own record"}}],
        "entity": [{"role": "source", "what": {**known, "display": place}}],
    }


# ------------------------------------------------------------------ the recipient's Bundle


def bundle(released: Released, *, base_url: str, now: datetime) -> Iterator[bytes]:
    """Yield a FHIR R4 Bundle (type collection) in pieces; raise Ended as soon as it is over.

    fullUrls are `{base_url}/fhir/Type/local id`, so that the references inside resolve.
    """
    return released.guarded(chunked(_bundle(released, base_url, now)))


def _bundle(released: Released, base_url: str, now: datetime) -> Iterator[bytes]:
    """Yield what we composed, then what was received, then where it is from."""
    vault, base = released.vault, f"{base_url}/fhir"
    trail = Trail(released.origins())
    patient_id = references.patient_id(vault.id_key)
    head = {"resourceType": "Bundle", "type": "collection", "timestamp": clock.instant(now)}
    yield document.dumps(head)[:-1] + b',"entry":['
    yield _entry(base, f"Patient/{patient_id}", _composed(patient_id, released.identity()))
    for made in (consent.resource(released.terms, released.provision, patient_id), _WITHHELD):
        yield b",\n" + _entry(base, *_authored(made))
    for lot in released.lots(older=True, came=True):
        trail.note_all(lot)
        yield b",\n" + _entries(base, lot)
    for name, body in _told(trail):
        yield b",\n" + _entry(base, name, body)
    yield b"]}\n"


def _entry(base: str, name: str, body: bytes) -> bytes:
    return b'{"fullUrl":"' + f"{base}/{name}".encode() + NAME_END + body + b"}"


def _entries(base: str, lot: Lot) -> bytes:
    """Return the entries of many records: as `_entry` for each."""
    opening = b'{"fullUrl":"' + f"{base}/{lot.type}/".encode()
    if lot.body is not None:
        return b"".join((opening, lot.text, NAME_END, lot.body, b"}"))
    return b"".join((opening, lot.text.replace(END, b"},\n" + opening), b"}"))


def _authored(resource: Mapping[str, Any]) -> tuple[str, bytes]:
    return f"{resource['resourceType']}/{resource['id']}", authored(resource)


def _told(trail: Trail) -> Iterator[tuple[str, bytes]]:
    """Yield ("Provenance/id", bytes); of its targets, which are alike, the model judges one."""
    for made in trail.provenances():
        name, _ = _authored({**made, "target": made["target"][:1]})
        yield name, document.dumps(made)


def _composed(patient_id: str, identity: Iterable[Record]) -> bytes:
    """Return the composed Patient; its parts are foreign, so that no model of ours judges them."""
    return document.dumps(composed_patient(patient_id, identity))


# In every package, whether or not something was left out: its absence would tell (§4.2.5).
_WITHHELD = {
    "resourceType": "OperationOutcome",
    "id": "the-patient-chose",
    "issue": [
        {
            "severity": "information",
            "code": "suppressed",
            "diagnostics": cover.CHOSEN,
        }
    ],
}


def composed_patient(patient_id: str, identity: Iterable[Record]) -> Mapping[str, Any]:
    """Return the one Patient that all local references point at: name, birth date, sex, no more.

    Each element is the newest that a source gave; a Patient that may be somebody else's does not
    count. Addresses, numbers and contacts stay at home.
    """
    made: dict[str, Any] = {"resourceType": "Patient", "id": patient_id}
    told = list(identity)
    sure = of_the_person(told) or told
    newest = sorted(sure, key=lambda record: record.received_at, reverse=True)
    for name in ("name", "birthDate", "gender"):
        given = (record.document.get(name) for record in newest)
        value = next((each for each in given if each), None)
        if value is not None:
            made[name] = value
    return made


# ------------------------------------------------------------------ a parcel for a channel


def parcel(released: Released, delivery_id: str, *, base_url: str, now: datetime) -> Parcel:
    """Return what a channel carries: the Bundle, a page that a person can read, the signature.

    Parts are read in their order: the signature is over those before it.
    """
    page = cover.page(released, now=now)
    seal = Seal(released.vault.house, now)
    whole = seal.noted("record.json", bundle(released, base_url=base_url, now=now))
    shown = seal.noted("record.html", released.guarded([page]))
    return Parcel(
        delivery_id,
        (
            Part("record.json", FHIR_JSON, whole),
            Part("record.html", "text/html; charset=utf-8", shown),
            Part(signing.LIST, "application/json", later(seal.listed)),
            Part(signing.SIGNATURE, signing.JOSE, later(seal.signature)),
        ),
    )


def later(make: Callable[[], bytes]) -> Iterator[bytes]:
    """Yield what is made when it is asked for, not before."""
    yield make()


def zipped(parcel: Parcel) -> Iterator[bytes]:
    """Yield the parts of a parcel as one zip, in pieces."""
    outlet = _Outlet()
    with zipfile.ZipFile(cast("IO[bytes]", outlet), "w", zipfile.ZIP_DEFLATED) as archive:
        for part in parcel.parts:
            with archive.open(part.name, "w", force_zip64=True) as file:
                for chunk in part.chunks:
                    file.write(chunk)
                    if piece := outlet.take(CHUNK):
                        yield piece
    yield outlet.take()


# ------------------------------------------------------------------ the owner's copy


class _Outlet:
    """Where the zip is written: memory that is emptied again and again, never a file on disk."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self, least: int = 0) -> bytes:
        """Return what was written since the last time, once it is at least so much."""
        if len(self._waiting) <= least:
            return b""
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


def export(owned: Owned, *, now: datetime) -> Iterator[bytes]:
    """Yield the whole record as a zip of NDJSON, in pieces.

    One folder for each connection, one file for each type, the received bytes with local ids, so
    that importing it anywhere gives the same records; earlier versions, attachments by hash,
    Provenance, a manifest that says what belongs to what and what is private or withdrawn, and
    the appliance's signature over all of it.
    """
    outlet = _Outlet()
    with Archive(cast("IO[bytes]", outlet), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.seal = Seal(owned.vault.house, now)
        for _ in _export(owned, archive, now):
            if piece := outlet.take(CHUNK):
                yield piece
        archive.sign()
    yield outlet.take()


def _export(owned: Owned, archive: zipfile.ZipFile, now: datetime) -> Iterator[None]:
    origins = owned.origins()
    copy = _Copy(owned, archive, Trail(origins))
    folders = []
    for connection in origins.values():
        folder = f"{connection.connection_id}-{_file_name(connection.name)}"
        folders.append({"folder": folder, "name": connection.name})
        for type_ in owned.types():
            yield from copy.type_(folder, connection.connection_id, type_)
    yield from copy.versions()
    for digest in copy.digests:
        archive.writestr(f"attachments/{digest.hex()}", owned.attachment(digest))
        yield
    with archive.open("provenance/Provenance.ndjson", "w") as file:
        for _, body in _told(copy.trail):
            file.write(body + b"\n")
    if decided := owned.decisions():
        lines = "".join(json.dumps(each) + "\n" for each in decided)
        archive.writestr("homeport/decisions.ndjson", lines)
    manifest = {
        "homeport_export": 1,
        "made": clock.instant(now),
        "connections": folders,
        **copy.notes,
    }
    archive.writestr("manifest.json", json.dumps(manifest, indent=1))
    yield


class _Copy:
    """An export on its way: what must be noted in the manifest while records are written."""

    def __init__(self, owned: Owned, archive: zipfile.ZipFile, trail: Trail) -> None:
        self.owned = owned
        self.archive = archive
        self.trail = trail
        self.digests: dict[bytes, None] = {}
        self.changed: dict[str, list[Record]] = {}  # file name -> records with earlier versions
        self.notes: dict[str, list[Any]] = {"attachments": [], "withdrawn": [], "private": []}

    def type_(self, folder: str, connection_id: int, type_: str) -> Iterator[None]:
        """Write all records of one type of one connection as one file, if there are any."""
        found = self.owned.stream(connection_id, type_)
        first = next(found, None)
        if first is None:
            return
        with self.archive.open(f"{folder}/{type_}.ndjson", "w", force_zip64=True) as file:
            for record, body in chain((first,), found):
                self._note(record, body)
                if record.version > 1:
                    bare = replace(record, body=b"", splices=b"")  # named, not carried
                    self.changed.setdefault(f"{folder}/{type_}", []).append(bare)
                file.write(one_line(body) + b"\n")
                yield

    def versions(self) -> Iterator[None]:
        """Write the earlier versions, oldest first: record, when it was received, the bytes."""
        for name, changed in self.changed.items():
            with self.archive.open(f"versions/{name}.ndjson", "w", force_zip64=True) as file:
                for record in changed:
                    for earlier, body in self.owned.earlier(record):
                        received = earlier.received_at.isoformat()
                        facts = {"record": f"{record.type}/{record.local_id}", "received": received}
                        head = json.dumps(facts, separators=(",", ":")).encode()[:-1]
                        file.write(head + b',"resource":' + one_line(body) + b"}\n")
                    yield

    def _note(self, record: Record, body: bytes) -> None:
        self.trail.note(record)
        name = f"{record.type}/{record.local_id}"
        if record.withdrawn:
            self.notes["withdrawn"].append(name)
        if record.labels & Label.PRIVATE:
            self.notes["private"].append(name)
        for one in self.owned.attachments(record):
            digest = one.hash or b""
            self.digests[digest] = None
            facts = {"hash": digest.hex(), "media_type": one.media_type}
            url = _as_written(self.owned, record, one.url, body)
            self.notes["attachments"].append({"record": name, "url": url, **facts})


def _as_written(owned: Owned, record: Record, url: str, body: bytes) -> str:
    """Return an attachment's address as it stands in the exported bytes (a Binary is local)."""
    pointed = references.target(url)
    if pointed is None or not pointed.type:
        return url
    connection = record.connection_id
    local = records.local_id(owned.vault, connection, pointed.type, pointed.id)
    return f"{pointed.type}/{local}" if local.encode() in body else url


def one_line(body: bytes) -> bytes:
    """Return JSON on one line; line breaks stand between its tokens only (RFC 8259 §7)."""
    return body.replace(b"\r", b" ").replace(b"\n", b" ")


def _file_name(name: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
    return "-".join(part for part in plain.split("-") if part)[:40] or "connection"


# ------------------------------------------------------------------ small parts


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Gather small pieces into chunks of about 256 KiB, and cut large ones to them."""
    waiting = bytearray()
    for piece in pieces:
        if len(waiting) + len(piece) < CHUNK:
            waiting += piece
            continue
        rest = CHUNK - len(waiting)
        yield b"".join((waiting, piece[:rest]))
        waiting.clear()
        whole = rest + (len(piece) - rest) // CHUNK * CHUNK
        for at in range(rest, whole, CHUNK):
            yield piece[at : at + CHUNK]
        waiting += piece[whole:]
    if waiting:
        yield bytes(waiting)
