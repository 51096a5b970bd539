"""A grant as a FHIR R4 Consent: what travels with a package and says under which terms.

Deny at the root, one permit for each rule. It says what was granted and never what was left out:
recipients do not learn which labels or records the patient kept back.
"""

from collections.abc import Mapping
from typing import Any

from phr import clock
from phr.sharing.gate import Terms
from phr.sharing.provision import Provision, Rule

SYSTEM = "http://terminology.hl7.org/CodeSystem/"
RESOURCE_TYPES = "http://hl7.org/fhir/resource-types"


def resource(terms: Terms, provision: Provision, patient_id: str) -> Mapping[str, Any]:
    """Return the Consent resource (R4 §6.2, constraint ppc-1 met by `policyRule`)."""
    return {
        "resourceType": "Consent",
        "id": terms.grant_id,
        "status": "active",
        "scope": _concept("consentscope", "patient-privacy"),
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient_id}"},
        "dateTime": clock.instant(terms.created_at),
        "performer": [{"display": terms.shared_by}],
        "policyRule": _concept("v3-ActCode", "OPTINR"),
        "provision": {
            "type": "deny",
            "period": {
                "start": clock.instant(terms.created_at),
                "end": clock.instant(terms.ends_at),
            },
            "provision": [_permit(rule, terms) for rule in provision.rules],
        },
    }


def _permit(rule: Rule, terms: Terms) -> dict[str, Any]:
    permit: dict[str, Any] = {
        "type": "permit",
        "actor": [
            {
                "role": _concept("v3-ParticipationType", "IRCP"),
                "reference": {"display": terms.recipient},
            }
        ],
        "action": [_concept("consentaction", "access")],
        "purpose": [{"system": f"{SYSTEM}v3-ActReason", "code": terms.purpose}],
        "class": [{"system": RESOURCE_TYPES, "code": each} for each in rule.types],
    }
    period = {"start": rule.since, "end": rule.until}
    if any(period.values()):
        permit["dataPeriod"] = {k: clock.instant(at) for k, at in period.items() if at is not None}
    return permit


def _concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{SYSTEM}{system}", "code": code}]}
