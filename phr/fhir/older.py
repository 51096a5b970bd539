"""DSTU2 and STU3 resources with their elements under R4's names, for reading only.

Each rule fires on an element that R4 does not have, so R4 resources pass as they are. Received
bytes stay what they are: this is how they are read, not what is kept or leaves.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Rule = Callable[[dict[str, Any], Any], None]  # (the resource being made, the older element's value)


def as_r4(document: dict[str, Any]) -> dict[str, Any]:
    """Return a resource with older elements renamed; the same object where there are none.

    The order stays, and what R4's own element says already is never replaced. Never raises.
    """
    kind = document.get("resourceType")
    if not isinstance(kind, str) or _OLDER.get(kind, _NONE).isdisjoint(document):
        return document
    names, rules = _RENAMED.get(kind, _NOTHING), _RULES.get(kind, _NOTHING)
    made: dict[str, Any] = {}
    for name, value in document.items():
        newer = names.get(name, name)
        if newer == name or newer not in document:
            made.setdefault(newer, value)
    for name, rule in rules.items():
        if name in made:
            rule(made, made.pop(name))
    return made


def may_be_older(kind: str, body: bytes) -> bool:
    """Tell, quickly, whether a resource could have elements of an older release: few are parsed."""
    return b"\\u" in body or any(name in body for name in _NAMES.get(kind, ()))


# Elements that only changed their name.
_REASON: Final = {"reasonCodeableConcept": "reasonCode"}
_RENAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "AllergyIntolerance": {
        "substance": "code",
        "onset": "onsetDateTime",
        "assertedDate": "recordedDate",
        "lastOccurence": "lastOccurrence",  # codespell:ignore - so spelt in DSTU2
    },
    "CarePlan": {"context": "encounter"},
    "Condition": {
        "dateRecorded": "recordedDate",
        "assertedDate": "recordedDate",
        "onsetQuantity": "onsetAge",
    },
    "DiagnosticOrder": {"orderer": "requester", "reason": "reasonCode"},
    "DiagnosticReport": {"codedDiagnosis": "conclusionCode"},
    "DocumentReference": {"class": "category", "indexed": "date"},
    "Encounter": {"reason": "reasonCode", "indication": "reasonReference"},
    "Goal": {"status": "lifecycleStatus"},
    "Immunization": {"date": "occurrenceDateTime", "vaccinationProtocol": "protocolApplied"},
    "MedicationAdministration": {
        "effectiveTimeDateTime": "effectiveDateTime",
        "effectiveTimePeriod": "effectivePeriod",
    },
    "MedicationOrder": {"dateWritten": "authoredOn", "prescriber": "requester", **_REASON},
    "MedicationStatement": {"reasonForUseCodeableConcept": "reasonCode"},
    "Patient": {"careProvider": "generalPractitioner"},
    "Procedure": {"reasonNotPerformed": "statusReason", **_REASON},
    "ProcedureRequest": {
        "orderer": "requester",
        "orderedOn": "authoredOn",
        "scheduledDateTime": "occurrenceDateTime",
        **_REASON,
    },
    "ReferralRequest": {"dateSent": "authoredOn", "reason": "reasonCode"},
}
_PROTOCOL: Final = {
    "doseSequence": "doseNumberPositiveInt",
    "seriesDoses": "seriesDosesPositiveInt",
}
_DOSAGE: Final = {"quantityQuantity": "doseQuantity", "quantityRange": "doseRange"}
_CRITICALITY: Final = {"CRITL": "low", "CRITH": "high", "CRITU": "unable-to-assess"}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _each(made: dict[str, Any], name: str, names: Mapping[str, str]) -> None:
    """Rename inside of each object that stands in an element."""
    if name in made:
        made[name] = [
            {names.get(key, key): inner for key, inner in one.items()}
            if isinstance(one, dict)
            else one
            for one in _listed(made[name])
        ]


def _refused(made: dict[str, Any], value: Any) -> None:
    """Turn a boolean "was not done" into the status that says so since R4."""
    if value is True and made.get("status") != "entered-in-error":
        made["status"] = "not-done"


def _note(made: dict[str, Any], value: Any) -> None:
    """Read `notes`, `comments` and `comment`: plain text, or Annotations."""
    notes = [{"text": one} if isinstance(one, str) else one for one in _listed(value)]
    made["note"] = [*_listed(made.get("note")), *notes]


def _allergy(made: dict[str, Any], value: Any) -> None:
    """Split DSTU2's one status (§4.1.4) into R4's two; what it did not say stays unsaid."""
    clinical = value in ("active", "inactive", "resolved")
    made.setdefault("clinicalStatus" if clinical else "verificationStatus", value)


def _criticality(made: dict[str, Any], value: Any) -> None:
    made["criticality"] = _CRITICALITY.get(value, value) if isinstance(value, str) else value


def _explanation(made: dict[str, Any], value: Any) -> None:
    given = value if isinstance(value, dict) else {}
    for older, newer in (("reason", "reasonCode"), ("reasonNotGiven", "statusReason")):
        if older in given:
            made.setdefault(newer, given[older])


def _reported(made: dict[str, Any], value: Any) -> None:
    if isinstance(value, bool):
        made.setdefault("primarySource", not value)


def _protocol(made: dict[str, Any], value: Any) -> None:
    made["protocolApplied"] = value
    _each(made, "protocolApplied", _PROTOCOL)


def _performer(made: dict[str, Any], value: Any) -> None:
    """Read the one Reference of DSTU2 as R4's `performer.actor`."""
    plain = isinstance(value, dict) and "actor" not in value
    made["performer"] = [{"actor": value}] if plain else value


def _dosage(made: dict[str, Any], value: Any) -> None:
    made["dosage"] = value
    _each(made, "dosage", _DOSAGE)


def _items(made: dict[str, Any], value: Any) -> None:
    """Name a DSTU2 order by what was ordered: its one code, or all of them as one text."""
    made["item"] = value
    named = [one["code"] for one in _listed(value) if isinstance(one, dict) and one.get("code")]
    if len(named) == 1:
        made.setdefault("code", named[0])
    elif named:
        made.setdefault("code", {"text": "; ".join(filter(None, map(_said, named)))})


def _said(concept: Any) -> str:
    """Return the words of a CodeableConcept, or ""."""
    if not isinstance(concept, dict):
        return concept if isinstance(concept, str) else ""
    first = next(iter(_listed(concept.get("coding"))), None)
    told = concept.get("text") or (first.get("display") if isinstance(first, dict) else None)
    return told if isinstance(told, str) else ""


def _agent(made: dict[str, Any], value: Any) -> None:
    """Read STU3's `requester.agent`; a Reference stays one."""
    made["requester"] = value["agent"] if isinstance(value, dict) and "agent" in value else value


_RULES: Final[Mapping[str, Mapping[str, Rule]]] = {
    "AllergyIntolerance": {"status": _allergy, "criticality": _criticality},
    "Condition": {"notes": _note},
    "DiagnosticOrder": {"item": _items},
    "Immunization": {
        "wasNotGiven": _refused,
        "notGiven": _refused,
        "explanation": _explanation,
        "reported": _reported,
        "protocolApplied": _protocol,
        "performer": _performer,
    },
    "MedicationAdministration": {"wasNotGiven": _refused, "notGiven": _refused},
    "MedicationStatement": {"dosage": _dosage},
    "Observation": {"comments": _note, "comment": _note},
    "Procedure": {"notPerformed": _refused, "notDone": _refused, "notes": _note},
    "ReferralRequest": {"requester": _agent},
}
_SHARED: Final = {  # elements that R4 has too: they make no resource an older one
    "criticality",
    "dosage",
    "performer",
    "protocolApplied",
    "requester",
}
_MARKS: Final = {"MedicationStatement": {"patient", "wasNotTaken"}}  # older, and stay as they are
_NOTHING: Final[Mapping[str, Any]] = {}
_NONE: Final = frozenset[str]()
_OLDER: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(
        {*_RENAMED.get(kind, ()), *_RULES.get(kind, ()), *_MARKS.get(kind, ())} - _SHARED
    )
    for kind in {*_RENAMED, *_RULES, *_MARKS}
}
_NAMES: Final = {
    kind: tuple(f'"{name}"'.encode() for name in sorted(names)) for kind, names in _OLDER.items()
}
