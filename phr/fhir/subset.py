"""Parts of a resource: the summary, or the elements asked for (R4 §3.1.1.5.8, §3.1.1.5.9).

What comes out is marked SUBSETTED and is no longer the received bytes; values keep their digits.
"""

from collections.abc import Collection
from functools import cache
from typing import Any

from phr.fhir import document, reading
from phr.fhir.build import CODE_SYSTEM, model

ALWAYS = frozenset({"resourceType", "id", "meta", "implicitRules", "modifierExtension"})
SUBSETTED = {"system": f"{CODE_SYSTEM}v3-ObservationValue", "code": "SUBSETTED"}


def summary(body: bytes) -> bytes:
    """Return `_summary=true`: the elements that R4 marks as summary, and the mandatory ones."""
    whole = document.parse(body)
    type_ = reading.text(whole.get("resourceType"))
    return _only(whole, _summary_elements(type_) | _mandatory(type_))


def narrative(body: bytes) -> bytes:
    """Return `_summary=text`: the narrative, and the mandatory elements."""
    whole = document.parse(body)
    return _only(whole, {"text"} | _mandatory(reading.text(whole.get("resourceType"))))


def data(body: bytes) -> bytes:
    """Return `_summary=data`: everything but the narrative."""
    whole = document.parse(body)
    return _only(whole, whole.keys() - {"text"})


def elements(body: bytes, wanted: Collection[str]) -> bytes:
    """Return `_elements`: the outermost elements of these names, and the mandatory ones."""
    whole = document.parse(body)
    names = frozenset(name.partition(".")[0] for name in wanted)
    return _only(whole, names | _mandatory(reading.text(whole.get("resourceType"))))


def _only(whole: dict[str, Any], wanted: Collection[str]) -> bytes:
    kept = {
        name: value
        for name, value in whole.items()
        if name in ALWAYS or name in wanted or name.removeprefix("_") in wanted
    }
    meta = dict(reading.mapping(kept.get("meta")))
    meta["tag"] = [*reading.listed(meta.get("tag")), SUBSETTED]
    return document.dumps({**kept, "meta": meta})


@cache
def _summary_elements(type_: str) -> frozenset[str]:
    return frozenset(model(type_).summary_elements_sequence())


@cache
def _mandatory(type_: str) -> frozenset[str]:
    """Return the elements that must be there; of a choice (`value[x]`) every form."""
    found = set()
    for field in model(type_).model_fields.values():
        extra = field.json_schema_extra or {}
        required = extra.get("element_required") or extra.get("one_of_many_required")
        if required or field.is_required():
            found.add(field.alias or "")
    return frozenset(found)
