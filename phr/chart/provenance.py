"""Which documents a record was transcribed from, as Provenance says (R4 §6.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phr.chart.plain import mapping, mappings, string
from phr.fhir.record import Record
from phr.fhir.statements import RECORD


@dataclass(frozen=True, slots=True)
class Behind:
    """A document behind a record: its title and section, and where it is.

    `local_id` is a record of this vault; else `remote_id` is one of the same connection.
    """

    words: str
    local_id: str = ""
    remote_id: str = ""


def behind(record: Record, told: Sequence[Record]) -> list[Behind]:
    """Return the documents that the Provenance of its connection names for a record."""
    name = f"{record.type}/{record.remote_id}"
    found = [
        _behind(mapping(entity.get("what")))
        for one in told
        if one.connection_id == record.connection_id
        and any(string(target.get("reference")) == name for target in _targets(one))
        for entity in _entities(one)
    ]
    return list(dict.fromkeys(one for one in found if one.local_id or one.remote_id))


def made_of(record: Record, told: Sequence[Record]) -> list[tuple[int, str, str]]:
    """Return what was transcribed from a document, as (connection, type, remote id)."""
    found: dict[tuple[int, str, str], None] = {}
    for one in told:
        if any(_is(record, one, mapping(entity.get("what"))) for entity in _entities(one)):
            for target in _targets(one):
                type_, _, remote_id = string(target.get("reference")).partition("/")
                found[one.connection_id, type_, remote_id] = None
    return list(found)


def _is(record: Record, told: Record, what: Mapping[str, Any]) -> bool:
    one = _behind(what)
    here = told.connection_id == record.connection_id and bool(one.remote_id)
    return record.type == "DocumentReference" and (
        one.local_id == record.local_id or (here and one.remote_id == record.remote_id)
    )


def _entities(one: Record) -> Sequence[Mapping[str, Any]]:
    return mappings(one.document.get("entity"))


def _targets(one: Record) -> Sequence[Mapping[str, Any]]:
    return mappings(one.document.get("target"))


def _behind(what: Mapping[str, Any]) -> Behind:
    words = string(what.get("display")) or "Document"
    named = mapping(what.get("identifier"))
    if string(named.get("system")) == RECORD:
        type_, _, local_id = string(named.get("value")).partition("/")
        return Behind(words, local_id=local_id if type_ == "DocumentReference" else "")
    type_, _, remote_id = string(what.get("reference")).partition("/")
    return Behind(words, remote_id=remote_id if type_ == "DocumentReference" else "")
