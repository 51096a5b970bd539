"""Statements of lists in a C-CDA as FHIR: allergies, problems, medicines, immunizations."""

import re
from collections.abc import Iterator
from typing import Final

from phr.papers import cda
from phr.papers import cda_values as values
from phr.papers.cda_page import TEMPLATE, UNKNOWN, Page, coded, keyed, to, words_of
from phr.papers.cda_values import (
    SNOMED,
    Element,
    Value,
    attr,
    code_in,
    every,
    filled,
    first,
    roots,
    words_in,
)

_PROBLEMS, _DISCHARGED, _ADMITTED = "11450-4", "11535-2", "46241-6"


def allergy(page: Page, at: Element) -> Iterator[Value]:
    """Allergy - Intolerance Observation (C-CDA 2.1 §3.4)."""
    if attr(at, "moodCode") not in _HAPPENED:
        return
    playing = first(at, "participant/participantRole/playingEntity")
    about = first(at, "value")
    what = page.concept(first(playing, "code"))
    if name := words_in(first(playing, "name")):
        what.setdefault("text", name)
    kind = code_in(about)
    negated = attr(at, "negationInd") == "true"
    if not what and negated and kind in _NONE_KNOWN:
        said = _said(page, at, about)
        if not said or _SAYS_NONE.fullmatch(said):
            what = coded(SNOMED, *_NONE_KNOWN[kind])
            negated = False
        what = what or filled({"text": said})
    elif not what and kind not in _GENERAL:
        what = page.concept(about)
    if not what:
        what = filled({"text": page.told(first(at, "text"))})
    if negated and _SAYS_NONE.fullmatch(words_of(what)):
        return  # denied twice and no kind: only the text can say what is meant
    if not what:
        return
    mistaken = attr(first(at, "statusCode"), "code") == "nullified"
    status = "" if mistaken else _status_of(page, at, "28")
    sure = "entered-in-error" if mistaken else "refuted" if negated else ""
    recorded, who = page.written_by(at)
    reactions = [_reaction(page, each) for each in page.inside(at, "9")]
    _of_the_substance(page, at, what)
    severe = next((page.concept(first(each, "value")) for each in page.inside(at, "8")), {})
    notes = page.notes(at)
    if severe and (said := words_of(severe)):
        notes.append({"text": f"Severity as the document says: {said}"})
    made = page.begin("AllergyIntolerance", "patient")
    critical = (code_in(first(each, "value")) for each in page.inside(at, "145"))
    yield made | filled(
        {
            "clinicalStatus": coded("allergyintolerance-clinical", status) if status else {},
            "verificationStatus": coded("allergyintolerance-verification", sure) if sure else {},
            "type": _ALLERGY_TYPES.get(kind, ""),
            "category": [_CATEGORIES[kind]] if kind in _CATEGORIES else [],
            "criticality": _CRITICAL.get(next(critical, ""), ""),
            "code": what,
            **_onset(first(at, "effectiveTime")),
            "recordedDate": recorded,
            "recorder": filled({"display": who}),
            "reaction": [one for one in reactions if one.get("manifestation")],
            "note": notes,
        }
    )


def _status_of(page: Page, at: Element, template: str) -> str:
    """Return the clinical status: what an observation inside says, else the end, else the act."""
    for each in page.inside(at, template):
        if said := _STATUS.get(code_in(first(each, "value"))):
            return said
    if _ended(first(at, "effectiveTime")):
        return "resolved"
    return _CONCERN.get(page.act_status(at), "")


def _of_the_substance(page: Page, at: Element, what: Value) -> None:
    """Take away words for the substance that are a reaction's: some documents point there.

    "Hives" would hide the penicillin. Where there is no coding they are all that was written.
    """
    said: set[str] = set()
    for each in page.inside(at, "9"):
        said |= {page.told(first(each, "text")), words_of(page.concept(first(each, "value")))}
    shown = any(one.get("display") for one in what.get("coding", ()))
    if shown and what.get("text") in said:
        del what["text"]


def _reaction(page: Page, at: Element) -> Value:
    what = page.concept(first(at, "value"))
    if not what:
        what = filled({"text": page.told(first(at, "text"))})
    severities = (code_in(first(each, "value")) for each in page.inside(at, "8"))
    return filled(
        {
            "manifestation": [what] if what else [],
            "onset": values.point(first(at, "effectiveTime"))
            or values.period(first(at, "effectiveTime")).get("start", ""),
            "severity": _SEVERITIES.get(next(severities, ""), ""),
        }
    )


def problem(page: Page, at: Element) -> Iterator[Value]:
    """Problem Observation (C-CDA 2.1 §3.79)."""
    if attr(at, "moodCode") not in _HAPPENED:
        return
    about = first(at, "value")
    what = _telling(page.concept(about))
    if not what:
        what = filled({"text": page.told(first(at, "text"))})
    negated = attr(at, "negationInd") == "true"
    codes = {one["code"] for one in page.concept(about).get("coding", ())}
    if negated and not codes - {_A_PROBLEM}:
        said = _said(page, at, about)
        what = filled({"text": said})
        is_denial = _SAYS_NONE.fullmatch(said) is not None
        if is_denial and not codes and "problem" not in said.casefold():
            return  # denied twice, and of what is not said: only the text can tell
        if is_denial or (codes and not said):
            what = coded(SNOMED, "160245001", "No current problems or disability")
            negated = False
    if not what:
        return
    mistaken = attr(first(at, "statusCode"), "code") == "nullified"
    status = "" if mistaken else _status_of(page, at, "6")
    sure = "entered-in-error" if mistaken else "refuted" if negated else ""
    recorded, who = page.written_by(at)
    severe = next((page.concept(first(each, "value")) for each in page.inside(at, "8")), {})
    span = first(at, "effectiveTime")
    made = page.begin("Condition")
    yield made | filled(
        {
            "clinicalStatus": coded("condition-clinical", status) if status else {},
            "verificationStatus": coded("condition-ver-status", sure) if sure else {},
            "category": _problem_category(page, at),
            "severity": severe,
            "code": what,
            **_onset(span),
            "abatementDateTime": values.moment(attr(first(span, "high"), "value")),
            "recordedDate": recorded,
            "recorder": filled({"display": who}),
            "note": page.notes(at),
        }
    )


def _problem_category(page: Page, at: Element) -> list[Value]:
    section = attr(first(page.section, "code"), "code")
    act = at.getparent().getparent() if at.getparent() is not None else None
    diagnosed = act is not None and roots(act) & _DIAGNOSES
    if diagnosed or section in (_DISCHARGED, _ADMITTED):
        return [coded("condition-category", "encounter-diagnosis")]
    if section == _PROBLEMS:
        return [coded("condition-category", "problem-list-item")]
    return []


def medicine(page: Page, at: Element) -> Iterator[Value]:
    """Medication Activity (C-CDA 2.1 §3.60): taken (EVN) or ordered (INT)."""
    what = _product(page, at, "consumable")
    mood = attr(at, "moodCode")
    negated = attr(at, "negationInd") == "true"
    if not what or mood not in ("EVN", "INT"):
        return
    recorded, who = page.written_by(at)
    span = _taken(at)
    status = _medicine_status(at, span)
    dose = _dose(page, at, what)
    common = {
        "medicationCodeableConcept": what,
        "reasonCode": [
            reason
            for each in page.inside(at, "19")
            if (reason := page.concept(first(each, "value")))
        ],
        "note": [*page.notes(at), *_sentence(page, at, what, dose)],
    }
    if mood == "INT":
        if span and not dose.get("timing", {}).get("repeat", {}).get("boundsPeriod"):
            timing = dose.setdefault("timing", {})
            timing.setdefault("repeat", {})["boundsPeriod"] = span
        made = {"status": status, "intent": "order", **page.begin("MedicationRequest")}
        yield made | filled(
            {
                "doNotPerform": True if negated else None,
                **common,
                "authoredOn": recorded,
                "requester": filled({"display": who}),
                "dosageInstruction": [dose] if dose else [],
            }
        )
        return
    status = "not-taken" if negated and status != "entered-in-error" else status
    made = {"status": status, **page.begin("MedicationStatement")}
    at_once = values.point(first(at, "effectiveTime"))
    yield made | filled(
        {
            **common,
            "effectivePeriod": span,
            "effectiveDateTime": "" if span else at_once,
            "dateAsserted": recorded,
            "informationSource": filled({"display": who}),
            "dosage": [dose] if dose else [],
        }
    )


def hand_out(page: Page, at: Element) -> Iterator[Value]:
    """Medication Dispense (C-CDA 2.1): handed out once, under the medicine it stands in.

    Its product is that medicine where it names none. A span may be of days covered: no day of it.
    One without day, number and amount names the pharmacy somebody goes to, and is none.
    """
    around = next(at.iterancestors(f"{values.V3}substanceAdministration"), None)
    said = [first(at, name) for name in ("effectiveTime", "repeatNumber", "quantity")]
    happened = any(one is not None and not attr(one, "nullFlavor") for one in said)
    if attr(at, "moodCode") != "EVN" or attr(at, "negationInd") == "true" or not happened:
        return
    listed = list(medicine(page, around)) if around is not None else []
    what = _product(page, at, "product")
    what = what or next((one["medicationCodeableConcept"] for one in listed), {})
    if not what:
        return
    orders = (keyed(one) for one in listed if one["resourceType"] == "MedicationRequest")
    who = cda.party(first(at, "performer/assignedEntity"))
    status = _HANDED.get(attr(first(at, "statusCode"), "code"), "unknown")
    made = {"status": status, **page.begin("MedicationDispense")}
    yield made | filled(
        {
            "medicationCodeableConcept": what,
            "performer": [{"actor": {"display": who}}] if who else [],
            "authorizingPrescription": [to(one) for one in orders],
            "quantity": values.quantity(first(at, "quantity")),
            "whenHandedOver": values.point(first(at, "effectiveTime")),
            "note": page.notes(at),
        }
    )


def _product(page: Page, at: Element, role: str) -> Value:
    """Return a Medication Information (C-CDA 2.1): its code, or its name."""
    material = f"{role}/manufacturedProduct/manufacturedMaterial"
    what = page.concept(first(at, f"{material}/code"))
    if name := words_in(first(at, f"{material}/name")):
        what.setdefault("text", name)
    return what


def _medicine_status(at: Element, span: Value) -> str:
    """Return the status; "completed" says only that the entry is: see the decision."""
    said = attr(first(at, "statusCode"), "code")
    if said == "completed" and not span.get("end"):
        return "unknown"
    return _MEDICINE.get(said, "unknown")


def _sentence(page: Page, at: Element, what: Value, dose: Value) -> list[Value]:
    """Return what the narrative says of this medicine, where it adds to its name and dose."""
    said = page.told(first(at, "text"))
    return [{"text": said}] if said not in ("", words_of(what), dose.get("text")) else []


def _instruction(page: Page, at: Element, what: Value) -> str:
    """Return the words of the narrative that a medicine points to, where they are its dosage.

    A whole row or paragraph, or what only repeats the name, is no dosage: it stays a note.
    """
    pointed = page.pointed(first(at, "text"))
    if pointed is None or str(pointed.tag).rpartition("}")[2] not in ("content", "td"):
        return ""
    said = page.told(first(at, "text"))
    names = (words_of(what), *(str(one.get("display", "")) for one in what.get("coding", ())))
    return "" if said.casefold() in (name.casefold() for name in names) else said


def _dose(page: Page, at: Element, what: Value) -> Value:
    """Return a Dosage of the parts that are told (C-CDA 2.1 §3.60, effectiveTime twice).

    Its text is what the document says to the reader ("every 4 - 6 hours as needed"): entries often
    code less than that.
    """
    amount = values.quantity(first(at, "doseQuantity"))
    form = page.concept(first(at, "administrationUnitCode"))
    if amount and "unit" not in amount and form:
        amount = amount | filled({"unit": words_of(form)})
    low_high = values.spread(first(at, "doseQuantity"))
    rate = values.quantity(first(at, "rateQuantity"))
    signature = next(
        (
            page.told(first(each, "text"))
            for each in every(at, "entryRelationship/substanceAdministration")
            if f"{TEMPLATE}147" in roots(each)
        ),
        "",
    )
    taught = next(
        (
            page.told(first(each, "text"))
            for each in every(at, "entryRelationship/act")
            if f"{TEMPLATE}20" in roots(each)
        ),
        "",
    )
    given = filled({"doseQuantity": amount, "doseRange": {} if amount else low_high})
    given |= filled({"rateQuantity": rate})
    needed = first(at, "precondition")
    reason = page.concept(first(needed, "criterion/value"))
    return filled(
        {
            "text": signature or _instruction(page, at, what),
            "patientInstruction": taught,
            "timing": _timing(at),
            "asNeededCodeableConcept": reason,
            "asNeededBoolean": True if needed is not None and not reason else None,
            "site": page.concept(first(at, "approachSiteCode")),
            "route": page.concept(first(at, "routeCode")),
            "doseAndRate": [given] if given else [],
        }
    )


def immunization(page: Page, at: Element) -> Iterator[Value]:
    """Immunization Activity (C-CDA 2.1 §3.41); what is only planned stays in the text."""
    product = first(at, "consumable/manufacturedProduct")
    material = first(product, "manufacturedMaterial")
    what = page.concept(first(material, "code"))
    if name := words_in(first(material, "name")):
        what.setdefault("text", name)
    if not what or attr(at, "moodCode") != "EVN":
        return
    said = attr(first(at, "statusCode"), "code")
    negated = attr(at, "negationInd") == "true"
    status = "completed" if said in ("completed", "active", "") and not negated else "not-done"
    status = "entered-in-error" if said == "nullified" else status
    at_once = values.point(first(at, "effectiveTime"))
    at_once = at_once or values.period(first(at, "effectiveTime")).get("start", "")
    refused = next((page.concept(first(each, "code")) for each in page.inside(at, "53")), {})
    count = attr(first(at, "repeatNumber"), "value")
    who = cda.party(first(at, "performer/assignedEntity"))
    recorded, _ = page.written_by(at)
    made = {"status": status, **page.begin("Immunization", "patient")}
    if not at_once:
        made["_occurrenceDateTime"] = {"extension": [UNKNOWN]}
    yield made | filled(
        {
            "statusReason": refused if status == "not-done" else {},
            "vaccineCode": what,
            "occurrenceDateTime": at_once,
            "recorded": recorded,
            "manufacturer": filled(
                {"display": words_in(first(product, "manufacturerOrganization/name"))}
            ),
            "lotNumber": words_in(first(material, "lotNumberText")),
            "site": page.concept(first(at, "approachSiteCode")),
            "route": page.concept(first(at, "routeCode")),
            "doseQuantity": values.quantity(first(at, "doseQuantity")),
            "performer": [{"actor": {"display": who}}] if who else [],
            "protocolApplied": [{"doseNumberPositiveInt": int(count)}]
            if count.isascii() and count.isdigit() and 0 < int(count[:4]) < 100
            else [],
            "note": page.notes(at),
        }
    )


def _said(page: Page, at: Element, about: Element | None) -> str:
    """Return the words beside a code that names no more than a kind; its label is none of them."""
    label = attr(about, "displayName") if code_in(about) else ""
    found = (
        page.told(first(about, "originalText")),
        attr(about, "displayName"),
        page.told(first(at, "text")),
    )
    return next((one for one in found if one and one.casefold() != label.casefold()), "")


def _telling(what: Value) -> Value:
    """Return a concept without codes that only say "a problem", where something else is said."""
    codings = [one for one in what.get("coding", ()) if one["code"] not in _PROBLEM]
    return filled({**what, "coding": codings}) if codings or what.get("text") else what


def _ended(span: Element | None) -> bool:
    """Say whether a span says that it is over: an end, or one that is not known (UNK)."""
    high = first(span, "high")
    return high is not None and bool(attr(high, "value") or attr(high, "nullFlavor") == "UNK")


def _onset(span: Element | None) -> Value:
    begin = values.moment(attr(first(span, "low"), "value")) or values.point(span)
    return filled({"onsetDateTime": begin})


def _taken(at: Element) -> Value:
    """Return from when to when a medicine is taken: the effectiveTime that is an interval."""
    for each in every(at, "effectiveTime"):
        if values.kind(each) in ("IVL_TS", "") and (span := values.period(each)):
            return span
    return {}


def _timing(at: Element) -> Value:
    """Return a Timing of PIVL_TS (every 8 hours) or EIVL_TS (before breakfast)."""
    for each in every(at, "effectiveTime"):
        apart = first(each, "period")
        number, unit = values.digits(attr(apart, "value")), _PERIODS.get(attr(apart, "unit"), "")
        if number and unit:
            return {"repeat": {"frequency": 1, "period": number, "periodUnit": unit}}
        event = attr(first(each, "event"), "code")
        if event in _EVENTS:
            return {"repeat": {"when": [event]}}
    return {}


_NONE_KNOWN: Final = {  # what is denied -> the statement that none is known (SNOMED CT)
    "419199007": ("716186003", "No known allergy"),
    "420134006": ("716186003", "No known allergy"),
    "416098002": ("409137002", "No known drug allergy"),
    "419511003": ("409137002", "No known drug allergy"),
    "414285001": ("429625007", "No known food allergy"),
    "418471000": ("429625007", "No known food allergy"),
    "426232007": ("428607008", "No known environmental allergy"),
}
_SAYS_NONE: Final = re.compile(  # words that are the whole denial: "No known health problems"
    r"(none|nka|nkda|none (known|reported)|(there are )?no"
    r"( (known|current|active|documented|reported|significant|health|medical|drug|medication|food"
    r"|environmental|or|and))*"
    r" (allerg(y|ies)|problems?|conditions?|diagnos[ie]s|diseases?|intolerances?|disabilit(y|ies))"
    r"( (or|and) (allergies|problems|conditions|intolerances|disabilit(y|ies)))?"
    r"( (known|indicated|reported|recorded|documented|on file))?)\.?",
    re.IGNORECASE,
)
_HAPPENED: Final = ("EVN", "")  # no goal, order, plan or definition
_A_PROBLEM: Final = "55607006"
_CATEGORIES: Final = {
    **dict.fromkeys(("416098002", "419511003", "59037007"), "medication"),
    **dict.fromkeys(("414285001", "418471000", "235719002"), "food"),
    "426232007": "environment",
}
_ALLERGY_TYPES: Final = {
    **dict.fromkeys(("419199007", "416098002", "414285001", "426232007"), "allergy"),
    **dict.fromkeys(("59037007", "235719002"), "intolerance"),
}
_GENERAL: Final = frozenset({*_NONE_KNOWN, *_CATEGORIES, *_ALLERGY_TYPES, "418038007"})
_PROBLEM: Final = frozenset(  # problem, condition, finding, diagnosis, complaint, symptom
    ("55607006", "64572001", "404684003", "282291009", "409586006", "418799008")
)
_CRITICAL: Final = {"CRITH": "high", "CRITL": "low", "CRITU": "unable-to-assess"}
_SEVERITIES: Final = {"255604002": "mild", "6736007": "moderate", "24484000": "severe"}
_STATUS: Final = {
    "55561003": "active",
    "73425007": "inactive",
    "413322009": "resolved",
}
_CONCERN: Final = {  # what is no concern any more is not active; whether it is over is not said
    "active": "active",
    "completed": "inactive",
    "suspended": "inactive",
    "aborted": "inactive",
}
_DIAGNOSES: Final = frozenset(f"{TEMPLATE}{one}" for one in ("80", "33", "34", "65", "36"))
_MEDICINE: Final = {
    "active": "active",
    "completed": "completed",
    "aborted": "stopped",
    "suspended": "on-hold",
    "held": "on-hold",
    "nullified": "entered-in-error",
}
_HANDED: Final = {
    "active": "in-progress",
    "completed": "completed",
    "aborted": "stopped",
    "cancelled": "cancelled",
    "nullified": "entered-in-error",
}
_PERIODS: Final = {"s": "s", "min": "min", "h": "h", "d": "d", "wk": "wk", "mo": "mo", "a": "a"}
_EVENTS: Final = frozenset(
    ("HS", "WAKE", "C", "CM", "CD", "CV", "AC", "ACM", "ACD", "ACV", "PC", "PCM", "PCD", "PCV")
)
