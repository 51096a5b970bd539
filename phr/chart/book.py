"""Finding what a reference points to, among the records at hand. Not here: fetching anything."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from phr.chart.plain import concept_words, joined, mapping, mappings, name_words, string
from phr.fhir.record import Record

_NAMED_BY_CODE = frozenset({"Medication", "Substance", "Device"})


class Book:
    """The records of one view, found by connection and remote id. References never cross over."""

    def __init__(self, records: Collection[Record]) -> None:
        """Take the records; they are indexed when the first reference is looked up."""
        self._records = records

    @cached_property
    def _by_reference(self) -> dict[tuple[int, str], Record]:
        found: dict[tuple[int, str], Record] = {}
        for record in self._records:
            found[record.connection_id, f"{record.type}/{record.remote_id}"] = record
            found.setdefault((record.connection_id, record.remote_id), record)
        return found

    def find(self, origin: Record, reference: Any) -> Record | None:
        """Return the record that `reference`, found in `origin`, points to (FHIR R4 §2.3.0)."""
        target = string(mapping(reference).get("reference"))
        if not target or target.startswith("#"):
            return None
        if target.startswith("urn:"):
            return self._by_reference.get((origin.connection_id, target.rpartition(":")[2]))
        parts = target.partition("/_history/")[0].split("/")[-2:]
        return self._by_reference.get((origin.connection_id, "/".join(parts)))

    def document(self, origin: Record, reference: Any) -> Mapping[str, Any]:
        """Return the contained or kept resource that is pointed to, else an empty object."""
        target = string(mapping(reference).get("reference"))
        if target.startswith("#"):
            return contained(origin.document, target[1:])
        found = self.find(origin, reference)
        return found.document if found else {}

    def name(self, origin: Record, reference: Any) -> str:
        """Return in words what a reference points to: its display, else the target's own name."""
        display = string(mapping(reference).get("display"))
        if display:
            return display
        target = self.document(origin, reference)
        return resource_name(target) if target else identifier_words(reference)

    def names(self, origin: Record, references: Any) -> tuple[str, ...]:
        """Return the names of several references, without repeats."""
        found = (self.name(origin, one) for one in mappings(references))
        return tuple(dict.fromkeys(name for name in found if name))


def contained(document: Any, fragment: str) -> Mapping[str, Any]:
    """Return the contained resource with this id, or an empty object."""
    for inner in mappings(mapping(document).get("contained")):
        if string(inner.get("id")) == fragment:
            return inner
    return {}


def resource_name(document: Mapping[str, Any]) -> str:
    """Return the name of a person, place, organization, medicine or device."""
    if string(document.get("resourceType")) in _NAMED_BY_CODE:
        return concept_words(document.get("code")) or concept_words(document.get("type"))
    name = document.get("name")
    if isinstance(name, str):
        return name.strip()
    role = concept_words(document.get("code"))
    whose = string(mapping(document.get("practitioner")).get("display"))
    return name_words(name) or joined(whose, role)


def identifier_words(reference: Any) -> str:
    """Return the identifier of a logical reference: "Number 123 (NPI)", or ""."""
    number = string(mapping(mapping(reference).get("identifier")).get("value"))
    return f"Number {number}" if number else ""


def of_types(records: Sequence[Record], *types: str) -> list[Record]:
    """Return the records of these types, in their order."""
    return [record for record in records if record.type in types]
