"""Visits, family and social history, abilities and pregnancy of a C-CDA as FHIR."""

from collections.abc import Iterator
from typing import Final

from phr.papers import cda
from phr.papers import cda_values as values
from phr.papers.cda_lists import problem
from phr.papers.cda_page import (
    HL7,
    TEMPLATE,
    UNKNOWN,
    Page,
    coded,
    is_denied,
    keyed,
    stands,
    to,
    words_of,
)
from phr.papers.cda_seen import observation, parts
from phr.papers.cda_values import LOINC, SDTC, Element, Value, attr, every, filled, first, roots

_ACT_CODES: Final = f"{HL7}v3-ActCode"
_DEAD: Final = "419099009"  # SNOMED CT


def visit(page: Page, at: Element) -> Iterator[Value]:
    """Encounter Activity (C-CDA 2.1 §3.25): one that happened; its diagnoses are Conditions."""
    what = page.concept(first(at, "code"))
    if not what:
        what = filled({"text": page.told(first(at, "text"))})
    if attr(at, "moodCode") != "EVN" or attr(at, "negationInd") == "true":
        return
    span = first(at, "effectiveTime")
    at_once = values.point(span)
    lasted = {"start": at_once, "end": at_once} if at_once else values.period(span)
    if not what and not lasted:
        return
    status = _visit_status(at, span, at_once)
    diagnosed = (
        keyed(one)
        for act in every(at, "entryRelationship/act")
        if f"{TEMPLATE}80" in roots(act)
        for each in every(act, "entryRelationship/observation")
        if f"{TEMPLATE}4" in roots(each) and stands(each)
        for one in problem(page, each)
    )
    left = page.concept(_extension(at, "dischargeDispositionCode"))
    made = {"status": status, "class": _class_of(what), **page.begin("Encounter")}
    yield made | filled(
        {
            "type": [what] if what else [],
            "participant": [
                {"individual": {"display": who}}
                for each in every(at, "performer")
                if (who := cda.party(first(each, "assignedEntity")))
            ],
            "period": lasted,
            "reasonCode": [
                reason
                for each in page.inside(at, "19")
                if (reason := page.concept(first(each, "value")))
            ],
            "diagnosis": [{"condition": to(each)} for each in diagnosed],
            "hospitalization": filled({"dischargeDisposition": left}),
            "location": [
                {"location": {"display": place}}
                for each in every(at, "participant")
                if attr(each, "typeCode") == "LOC" and (place := _place(page, each))
            ],
        }
    )


def _extension(at: Element, name: str) -> Element | None:
    """Return an element of HL7's own extension of CDA."""
    return at.find(f"{SDTC}{name}")


def _visit_status(at: Element, span: Element | None, at_once: str) -> str:
    """Return the status; what has an end, be it unknown, is over."""
    said = attr(first(at, "statusCode"), "code")
    if said in _VISITS:
        return _VISITS[said]
    return "finished" if at_once or first(span, "high") is not None else "unknown"


def _class_of(what: Value) -> Value:
    """Return the class (R4 Encounter.class, required) where a code of the visit is one."""
    for one in what.get("coding", ()):
        if one.get("system") == _ACT_CODES and one["code"] in _CLASSES:
            return dict(one)
    return {"extension": [UNKNOWN]}


def _place(page: Page, at: Element) -> str:
    role = first(at, "participantRole")
    name = values.words_in(first(role, "playingEntity/name"))
    return name or words_of(page.concept(first(role, "code")))


# ------------------------------------------------------------------------------ the family


def relative(page: Page, at: Element) -> Iterator[Value]:
    """Family History Organizer (C-CDA 2.1 §3.30): one relative and what is said of them.

    What a relative surely does not have is told in words: FHIR has no other place for it.
    """
    if attr(at, "moodCode") not in ("EVN", "") or is_denied(at):
        return
    role = first(at, "subject/relatedSubject")
    who = page.concept(first(role, "code"))
    if not who:
        return
    person = first(role, "subject")
    listed = [
        each
        for each in every(at, "component/observation")
        if f"{TEMPLATE}46" in roots(each) and not attr(each, "nullFlavor")
    ]
    held = [each for each in listed if attr(each, "negationInd") != "true"]
    conditions = [one for each in held if (one := _illness(page, each))]
    denied = [
        said
        for each in listed
        if each not in held and (said := words_of(page.concept(first(each, "value"))))
    ]
    if not conditions:
        return
    status = attr(first(at, "statusCode"), "code")
    mistaken = status == "nullified"
    made: Value = {
        "status": "entered-in-error" if mistaken else "completed",
        **page.begin("FamilyMemberHistory", "patient"),
        "relationship": who,
    }
    names = (values.words_in(each) for each in every(person, "name"))
    sex = attr(first(person, "administrativeGenderCode"), "code").upper()
    dead = any(_caused_death(each) for each in held) or _is_dead(person)
    yield made | filled(
        {
            "name": next(filter(None, names), ""),
            "sex": coded(_GENDER, *_SEXES[sex]) if sex in _SEXES else {},
            "bornDate": values.moment(attr(first(person, "birthTime"), "value")).partition("T")[0],
            "deceasedBoolean": True if dead else None,
            "condition": conditions,
            "note": [
                *page.notes(at),
                *({"text": f"Not so, as the document says: {said}"} for said in denied),
            ],
        }
    )


def _illness(page: Page, at: Element) -> Value:
    """Return one condition of a relative; the age at its onset as it is written."""
    what = page.concept(first(at, "value")) or filled({"text": page.told(first(at, "text"))})
    if not what:
        return {}
    age = next((values.quantity(first(each, "value")) for each in _inside(at, "31")), {})
    unit = str(age.get("unit", ""))
    began = values.point(first(at, "effectiveTime"))
    began = began or values.period(first(at, "effectiveTime")).get("start", "")
    coded_age = {"unit": _AGES.get(unit, ""), "system": values.UCUM, "code": unit}
    known = {"onsetAge": {**age, **coded_age}} if age and unit in _AGES else {}
    return filled(
        {
            "code": what,
            "contributedToDeath": True if _caused_death(at) else None,
            **(known or filled({"onsetString": began})),
            "note": page.notes(at),
        }
    )


def _caused_death(at: Element) -> bool:
    """Say whether a Family History Death Observation says that a relative died of it."""
    return any(attr(first(each, "value"), "code") == _DEAD for each in _inside(at, "47"))


def _inside(at: Element, number: str) -> list[Element]:
    """Return the observations of a template inside one about a relative, those that hold."""
    return [
        each
        for each in every(at, "entryRelationship/observation")
        if f"{TEMPLATE}{number}" in roots(each)
        and not attr(each, "nullFlavor")
        and attr(each, "negationInd") != "true"
    ]


def _is_dead(person: Element | None) -> bool:
    if person is None:
        return False
    when = attr(_extension(person, "deceasedTime"), "value")
    return bool(when) or attr(_extension(person, "deceasedInd"), "value") == "true"


# ------------------------------------------------------------------------------ how one lives


def habit(page: Page, at: Element) -> Iterator[Value]:
    """Social History Observation, Smoking Status, Tobacco Use, Birth Sex (C-CDA 2.1 §3.93 ff.).

    Documents of Release 1.1 name no question where the template asks it ("ASSERTION").
    """
    for made in observation(page, at, "social-history", None):
        codes = {one["code"] for one in made["code"].get("coding", ())}
        if codes != {"ASSERTION"}:
            yield made
            continue
        asked = next((_ASKED[one] for one in sorted(roots(at)) if one in _ASKED), None)
        if asked is not None:
            yield {**made, "code": coded(LOINC, *asked)}


def pregnancy(page: Page, at: Element) -> Iterator[Value]:
    """Pregnancy Observation (C-CDA 2.1): whether, then the day of birth that is expected."""
    yield from habit(page, at)
    for each in every(at, "entryRelationship/observation"):
        if _EXPECTED in roots(each) and stands(each):
            yield from habit(page, each)


# ------------------------------------------------------------------------------ what one can do


def ability(page: Page, at: Element) -> Iterator[Value]:
    """Functional Status, Self-Care and Sensory Status Observation (C-CDA 2.1)."""
    yield from _of_category(observation(page, at, "", None), "functional-status")


def mind(page: Page, at: Element) -> Iterator[Value]:
    """Mental Status Observation (C-CDA 2.1)."""
    yield from _of_category(observation(page, at, "", None), "cognitive-status")


def _of_category(made: Iterator[Value], category: str) -> Iterator[Value]:
    """Mark observations as of one of US Core's categories; an assertion of nothing is left out."""
    for one in made:
        if {each["code"] for each in one["code"].get("coding", ())} != {"ASSERTION"}:
            yield {**one, "category": [coded(_US_CORE, category)]}


def scale(page: Page, at: Element) -> Iterator[Value]:
    """Assessment Scale Observation (C-CDA 2.1): the score, and the answers it is made of."""
    for made in observation(page, at, "survey", None):
        yield made | filled({"component": parts(page, at, f"{TEMPLATE}86")})


_US_CORE: Final = "http://hl7.org/fhir/us/core/CodeSystem/us-core-category"
PREGNANCY: Final = "2.16.840.1.113883.10.20.15.3.8"
_EXPECTED: Final = "2.16.840.1.113883.10.20.15.3.1"
_VISITS: Final = {
    "completed": "finished",
    "active": "in-progress",
    "aborted": "cancelled",
    "cancelled": "cancelled",
    "nullified": "entered-in-error",
}
_CLASSES: Final = frozenset(
    ("AMB", "EMER", "FLD", "HH", "IMP", "ACUTE", "NONAC", "OBSENC", "PRENC", "SS", "VR")
)
_GENDER: Final = "http://hl7.org/fhir/administrative-gender"
_SEXES: Final = {"M": ("male", "Male"), "F": ("female", "Female"), "UN": ("other", "Other")}
_AGES: Final = {"a": "years", "mo": "months", "wk": "weeks", "d": "days"}
_ASKED: Final = {
    f"{TEMPLATE}78": ("72166-2", "Tobacco smoking status"),
    f"{TEMPLATE}85": ("11367-0", "History of tobacco use"),
    PREGNANCY: ("82810-3", "Pregnancy status"),
    _EXPECTED: ("11778-8", "Delivery date Estimated"),
}
