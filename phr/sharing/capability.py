"""The CapabilityStatement (R4 §5.1): exactly what the FHIR API does, made from its own tables."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import phr
from phr import clock
from phr.fhir.build import concept
from phr.sharing import addresses, consents, inbox
from phr.sharing.parameters import CHAINS, EVERYWHERE, PARAMETERS, Parameter
from phr.sharing.search import REVINCLUDE

_BULK: Final = "http://hl7.org/fhir/uv/bulkdata"
OPERATIONS: Final = {  # of a type
    "Patient": {
        "everything": "http://hl7.org/fhir/OperationDefinition/Patient-everything",
        "summary": "http://hl7.org/fhir/uv/ips/OperationDefinition/summary",
        "export": f"{_BULK}/OperationDefinition/patient-export",
    },
    "DocumentReference": {
        "docref": "http://hl7.org/fhir/us/core/OperationDefinition/docref",
    },
}
WHOLE: Final = {"export": f"{_BULK}/OperationDefinition/export"}  # of the server itself
_OAUTH: Final = (
    ("authorize", addresses.AUTHORIZE),
    ("token", addresses.TOKEN),
    ("register", addresses.REGISTER),
    ("introspect", addresses.INTROSPECT),
    ("revoke", addresses.REVOKE),
)
_EVERYWHERE: Final = dict(zip(EVERYWHERE, ("token", "date"), strict=True))
_VERSIONED: Final = ("read", "vread", "history-instance", "search-type")
_WRITTEN: Final = ("create", "update", "delete")
_LAST_UPDATED: Final = "When this server took the version in; `meta.lastUpdated` is its source's."
_SECURITY: Final = (
    "A bearer token that stands for one patient's decision to share: one patient, what that patient"
    " chose, until it ends. What is not shared answers as if it did not exist."
)


def statement(base: str, now: datetime) -> Mapping[str, Any]:
    """Return the CapabilityStatement of the API at `base`."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": clock.instant(now),
        "kind": "instance",
        "software": {"name": "Homeport", "version": phr.__version__},
        "implementation": {"description": "A person's own health record", "url": base},
        "instantiates": [f"{_BULK}/CapabilityStatement/bulk-data"],
        "fhirVersion": "4.0.1",
        "format": ["json", "application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": {
                    "service": [concept("restful-security-service", "SMART-on-FHIR")],
                    "description": _SECURITY,
                    "extension": [_oauth_uris(base.removesuffix("/fhir"))],
                },
                "resource": [_resource(type_, rows) for type_, rows in PARAMETERS.items()]
                + [_provenance(), _binary(), consents.CAPABILITY],
                "operation": _operations(WHOLE),
            }
        ],
    }


def _oauth_uris(issuer: str) -> Mapping[str, Any]:
    """Return where apps authorize, for those that read it here (SMART App Launch 1.0 §4.1)."""
    return {
        "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
        "extension": [{"url": name, "valueUri": f"{issuer}{path}"} for name, path in _OAUTH],
    }


def _resource(type_: str, rows: Mapping[str, Parameter]) -> Mapping[str, Any]:
    is_patient = type_ == "Patient"
    made: dict[str, Any] = {
        "type": type_,
        "interaction": [
            {"code": code} for code in (("read", "search-type") if is_patient else _VERSIONED)
        ],
        "versioning": "no-version" if is_patient else "versioned",
        "conditionalRead": "not-match",
        "searchInclude": [
            f"{type_}:{name}" for name, row in rows.items() if row.kind == "reference"
        ],
        "searchRevInclude": [] if is_patient else [REVINCLUDE],
        "searchParam": [
            *({"name": name, "type": kind, **_said(name)} for name, kind in _EVERYWHERE.items()),
            *(_parameter(row) for row in rows.values()),
        ],
    }
    if type_ in inbox.TYPES:
        made["interaction"] += [
            {"code": code, "documentation": inbox.CAPABILITY} for code in _WRITTEN
        ]
        made |= {"conditionalCreate": False, "updateCreate": False}
    if type_ in OPERATIONS:
        made["operation"] = _operations(OPERATIONS[type_])
    return {name: value for name, value in made.items() if value or value is False}


def _operations(known: Mapping[str, str]) -> list[Mapping[str, str]]:
    return [{"name": name, "definition": definition} for name, definition in known.items()]


def _said(name: str) -> Mapping[str, str]:
    return {"documentation": _LAST_UPDATED} if name == "_lastUpdated" else {}


def _parameter(row: Parameter) -> Mapping[str, Any]:
    said: dict[str, Any] = {"name": row.name, "type": row.kind}
    if (row.type, row.name) in CHAINS:
        target, names = CHAINS[row.type, row.name]
        said["documentation"] = f"Chained to {target}: {', '.join(names)}."
    return said


def _provenance() -> Mapping[str, Any]:
    return {
        "type": "Provenance",
        "interaction": [{"code": "read"}],
        "documentation": "One for each record: where it came from, and when.",
        "versioning": "no-version",
        "conditionalRead": "not-match",
    }


def _binary() -> Mapping[str, Any]:
    return {
        "type": "Binary",
        "interaction": [{"code": "read"}],
        "documentation": "The files of documents: as they are, or as a Binary where FHIR is asked.",
        "versioning": "no-version",
    }
