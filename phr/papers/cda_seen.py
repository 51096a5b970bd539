"""What was measured and done in a C-CDA as FHIR: results, vital signs, procedures."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from phr.papers import cda
from phr.papers import cda_values as values
from phr.papers.cda_page import TEMPLATE, Page, coded, keyed, stands, to, words_of
from phr.papers.cda_values import (
    Element,
    Value,
    attr,
    every,
    filled,
    first,
    roots,
    words_in,
)


def battery(page: Page, at: Element) -> Iterator[Value]:
    """Result Organizer (C-CDA 2.1 §3.88): its results, then the report that holds them."""
    around = first(at, "effectiveTime")
    made = [
        keyed(one)
        for each in every(at, "component/observation")
        if stands(each)
        for one in observation(page, each, "", around)
    ]
    yield from ({name: one[name] for name in one if name != "id"} for one in made)
    what = page.concept(first(at, "code"))
    alone = len(made) == 1 and what == made[0].get("code")
    if not made or not what or alone:
        return
    status = _OBSERVED.get(attr(first(at, "statusCode"), "code"), "unknown")
    _, who = page.written_by(at)
    report = {"status": status, **page.begin("DiagnosticReport")}
    yield report | filled(
        {
            "code": what,
            **values.when(around, "effective"),
            "performer": [{"display": who}] if who else [],
            "result": [to(each) for each in made],
        }
    )


def result(page: Page, at: Element) -> Iterator[Value]:
    """Result Observation outside of an organizer (C-CDA 2.1 §3.87)."""
    yield from observation(page, at, "", None)


def vital(page: Page, at: Element) -> Iterator[Value]:
    """Vital Sign Observation (C-CDA 2.1 §3.109)."""
    organizer = next(at.iterancestors(f"{values.V3}organizer"), None)
    yield from observation(page, at, "vital-signs", first(organizer, "effectiveTime"))


def observation(page: Page, at: Element, category: str, around: Element | None) -> Iterator[Value]:
    """Return what was observed; nothing for what is denied, planned, or of no kind.

    `around` is the effectiveTime of what holds it, for an observation without its own.
    """
    what = page.concept(first(at, "code"))
    if not what:
        what = filled({"text": page.told(first(at, "text"))})
    event = attr(at, "moodCode") in ("EVN", "") and attr(at, "negationInd") != "true"
    if not what or not event:
        return
    held = first(at, "value")
    value = _value(page, held)
    if values.is_placeholder(str(value.get("valueString", ""))):
        value = {}
    absent: Value = {}
    if not value:
        unknown = attr(held, "nullFlavor")
        absent = coded("data-absent-reason", _ABSENT.get(unknown, "unknown"))
    moment = values.when(first(at, "effectiveTime"), "effective")
    if not moment and (at_once := values.point(around)):
        moment = {"effectiveDateTime": at_once}
    _, who = page.written_by(at)
    who = cda.party(first(at, "performer/assignedEntity")) or who
    status = _OBSERVED.get(attr(first(at, "statusCode"), "code"), "unknown")
    made = {"status": status, **page.begin("Observation")}
    yield made | filled(
        {
            "category": [coded("observation-category", category)] if category else [],
            "code": what,
            **moment,
            "performer": [{"display": who}] if who else [],
            **value,
            "dataAbsentReason": absent,
            "interpretation": [
                one for each in every(at, "interpretationCode") if (one := page.concept(each))
            ],
            "note": page.notes(at),
            "bodySite": page.concept(first(at, "targetSiteCode")),
            "method": page.concept(first(at, "methodCode")),
            "referenceRange": [
                one
                for each in every(at, "referenceRange/observationRange")
                if (one := _range(page, each))
            ],
        }
    )


def parts(page: Page, at: Element, template: str) -> list[Value]:
    """Return the observations of a template inside one, as components; no value is made up."""
    listed = (
        filled(
            {
                "code": page.concept(first(each, "code")),
                **_value(page, first(each, "value")),
            }
        )
        for each in every(at, "entryRelationship/observation")
        if template in roots(each) and stands(each) and attr(each, "negationInd") != "true"
    )
    return [one for one in listed if len(one) == 2 and "code" in one]


def _value(page: Page, at: Element | None) -> Value:
    """Return value[x] of an observation; {} where none is told."""
    read = _READERS.get(values.kind(at)) if at is not None else None
    told = read(page, at) if read is not None else {}
    return told if told or at is None else _original(page, at)


def _original(page: Page, at: Element) -> Value:
    """Return a value as the words that were written."""
    text = "" if attr(at, "representation") == "B64" else page.told(at)
    said = text or page.told(first(at, "originalText")) or _written_number(at)
    return filled({"valueString": said})


def _written_number(at: Element) -> str:
    return " ".join(filter(None, (attr(at, "value"), attr(at, "unit"))))


def _range(page: Page, at: Element) -> Value:
    spread = values.spread(first(at, "value"))
    text = page.told(first(at, "text"))
    held = first(at, "value")
    if not spread and not text and held is not None:
        text = words_of(_value(page, held).get("valueCodeableConcept", {}))
        text = text or str(_value(page, held).get("valueString", ""))
    return filled({**spread, "text": text})


def procedure(page: Page, at: Element) -> Iterator[Value]:
    """Procedure Activity (Procedure, Act, Observation; C-CDA 2.1 §3.81): done, not planned."""
    what = page.concept(first(at, "code"))
    if not what:
        what = filled({"text": page.told(first(at, "text"))})
    if not what or attr(at, "moodCode") != "EVN":
        return
    said = attr(first(at, "statusCode"), "code")
    status = _DONE.get(said, "unknown")
    if attr(at, "negationInd") == "true" and status != "entered-in-error":
        status = "not-done"
    who = cda.party(first(at, "performer/assignedEntity"))
    sites = [one for each in every(at, "targetSiteCode") if (one := page.concept(each))]
    made = {"status": status, **page.begin("Procedure")}
    yield made | filled(
        {
            "code": what,
            **values.when(first(at, "effectiveTime"), "performed"),
            "performer": [{"actor": {"display": who}}] if who else [],
            "reasonCode": [
                reason
                for each in page.inside(at, "19")
                if (reason := page.concept(first(each, "value")))
            ],
            "bodySite": sites,
            **_devices(page, at),
            "outcome": _outcome(page, at),
            "note": page.notes(at),
        }
    )


def _devices(page: Page, at: Element) -> Value:
    """Return what a procedure used: its kind, and the one that an FDA number (UDI) tells apart.

    A Product Instance was "placed in a patient or used" (C-CDA 2.1): it does not say which.
    """
    held = [device(page, each) for each in every(at, "participant/participantRole")]
    return {
        "usedCode": [kind for kind, _ in held if kind],
        "usedReference": [
            filled(
                {
                    "type": "Device",
                    "identifier": {"system": f"urn:oid:{_FDA}", "value": number},
                    "display": words_of(kind),
                }
            )
            for kind, number in held
            if number
        ],
    }


def device(page: Page, role: Element) -> tuple[Value, str]:
    """Return the kind and the UDI of a Product Instance; ({}, "") for what is or says none."""
    if f"{TEMPLATE}37" not in roots(role) or not stands(role):
        return {}, ""
    numbers = (
        attr(each, "extension")
        for each in every(role, "id")
        if attr(each, "root") == _FDA and not attr(each, "nullFlavor")
    )
    kind = page.concept(first(role, "playingDevice/code"))
    name = words_in(first(role, "playingDevice/manufacturerModelName"))
    return kind or filled({"text": name}), next(filter(None, numbers), "")


def _outcome(page: Page, at: Element) -> Value:
    """Return what a Procedure Activity Observation found, where it says so."""
    held = first(at, "value")
    told = _value(page, held) if held is not None else {}
    if "valueCodeableConcept" in told:
        return dict(told["valueCodeableConcept"])
    return filled({"text": told.get("valueString", "")})


_FDA: Final = "2.16.840.1.113883.3.3719"


def _yes_or_no(at: Element) -> Value:
    said = attr(at, "value")
    return {"valueBoolean": said == "true"} if said in ("true", "false") else {}


def _interval(at: Element) -> Value:
    """Return an IVL_PQ: with one end a comparison, with both a Range."""
    both = values.spread(at)
    if len(both) == 2:
        return {"valueRange": both}
    for name, open_, closed in (("low", ">", ">="), ("high", "<", "<=")):
        if name in both:
            sign = open_ if attr(first(at, name), "inclusive") == "false" else closed
            return {"valueQuantity": values.quantity(first(at, name), sign)}
    return {}


def _concept_of(page: Page, at: Element) -> Value:
    return filled({"valueCodeableConcept": page.concept(at)})


_READERS: Final[Mapping[str, Callable[[Page, Element], Value]]] = {
    **dict.fromkeys(("CD", "CE", "CO", "CV"), _concept_of),
    **dict.fromkeys(
        ("PQ", "REAL", "INT"), lambda _, at: filled({"valueQuantity": values.quantity(at)})
    ),
    **dict.fromkeys(("IVL_PQ", "IVL_REAL", "IVL_INT"), lambda _, at: _interval(at)),
    **dict.fromkeys(
        ("RTO", "RTO_PQ_PQ", "RTO_QTY_QTY"),
        lambda _, at: filled({"valueRatio": values.ratio(at)}),
    ),
    "TS": lambda _, at: filled({"valueDateTime": values.moment(attr(at, "value"))}),
    "BL": lambda _, at: _yes_or_no(at),
}
_OBSERVED: Final = {
    "completed": "final",
    "active": "preliminary",
    "aborted": "cancelled",
    "cancelled": "cancelled",
    "held": "registered",
    "nullified": "entered-in-error",
}
_DONE: Final = {
    "completed": "completed",
    "active": "in-progress",
    "aborted": "stopped",
    "cancelled": "not-done",
    "nullified": "entered-in-error",
}
_ABSENT: Final = {  # HL7 v3 NullFlavor -> data-absent-reason
    "NI": "unknown",
    "UNK": "unknown",
    "NASK": "not-asked",
    "ASKU": "asked-unknown",
    "NAV": "temp-unknown",
    "NA": "not-applicable",
    "MSK": "masked",
    "OTH": "unsupported",
    "NINF": "negative-infinity",
    "PINF": "positive-infinity",
}
