"""What we author ourselves, checked against the FHIR R4B models before it is written out.

Never for what was received: those bytes are kept and are not rebuilt from models (decision in
`docs/decisions`). R4B differs from R4 in no resource that is authored here.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from phr.fhir import document

XHTML = "http://www.w3.org/1999/xhtml"
CODE_SYSTEM = "http://terminology.hl7.org/CodeSystem/"
LOINC = "http://loinc.org"


def authored(resource: Mapping[str, Any]) -> bytes:
    """Return a resource of our own as JSON bytes; raise ValueError if it is not valid R4B.

    The models come with the first call (+130 ms, +25 MB), so that a house that only reads and
    shows never loads them.
    """
    model(resource["resourceType"]).model_validate(resource)
    return document.dumps(resource)


@cache
def model(type_: str) -> Any:
    """Return the R4B model of a type."""
    return import_module("fhir.resources.R4B").get_fhir_model_class(type_)


def concept(system: str, code: str, display: str = "") -> dict[str, Any]:
    """Return a CodeableConcept with one coding; `system` is whole or the end of HL7's address."""
    coding = {"system": system if ":" in system else f"{CODE_SYSTEM}{system}", "code": code}
    return {"coding": [coding | ({"display": display} if display else {})]}


def narrative(div: str, *, status: str = "generated") -> dict[str, str]:
    """Return a Narrative (R4 §2.4.0) of XHTML that stands inside a div."""
    return {"status": status, "div": f'<div xmlns="{XHTML}">{div}</div>'}
