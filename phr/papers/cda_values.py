"""Values of CDA R2 (HL7 v3 data types) as FHIR R4 values: codes, times, amounts, persons.

Only what is written: what the sender marks as unknown (nullFlavor) gives nothing, digits and
precision stay. The statements made of them are `phr.papers.cda_entries`.
"""

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, Final, TypeAlias

V3: Final = "{urn:hl7-org:v3}"
SDTC: Final = "{urn:hl7-org:sdtc}"
XSI_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
UCUM: Final = "http://unitsofmeasure.org"
SNOMED: Final = "http://snomed.info/sct"
LOINC: Final = "http://loinc.org"
_MOST_TEXT: Final = 5000  # characters of one text that is repeated outside of the document
_MOST_CODES: Final = 20  # of one concept

Element: TypeAlias = Any  # lxml ships no types
Value: TypeAlias = dict[str, Any]
Told: TypeAlias = Callable[[Element | None], str]  # the words of a text or of what it refers to

SYSTEMS: Final = {  # OID -> the name FHIR has for the same list of codes
    "2.16.840.1.113883.6.1": LOINC,
    "2.16.840.1.113883.6.96": SNOMED,
    "2.16.840.1.113883.6.88": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "2.16.840.1.113883.6.90": "http://hl7.org/fhir/sid/icd-10-cm",
    "2.16.840.1.113883.6.3": "http://hl7.org/fhir/sid/icd-10",
    "2.16.840.1.113883.6.103": "http://hl7.org/fhir/sid/icd-9-cm",
    "2.16.840.1.113883.6.104": "http://terminology.hl7.org/CodeSystem/icd9cm",
    "2.16.840.1.113883.6.4": "http://www.cms.gov/Medicare/Coding/ICD10",
    "2.16.840.1.113883.6.12": "http://www.ama-assn.org/go/cpt",
    "2.16.840.1.113883.6.69": "http://hl7.org/fhir/sid/ndc",
    "2.16.840.1.113883.12.292": "http://hl7.org/fhir/sid/cvx",
    "2.16.840.1.113883.6.59": "http://hl7.org/fhir/sid/cvx",  # as documents of Release 1.1 name it
    "2.16.840.1.113883.12.227": "http://terminology.hl7.org/CodeSystem/MVX",
    "2.16.840.1.113883.4.9": "http://fdasis.nlm.nih.gov",
    "2.16.840.1.113883.5.83": (
        "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
    ),
    "2.16.840.1.113883.5.4": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "2.16.840.1.113883.5.111": "http://terminology.hl7.org/CodeSystem/v3-RoleCode",
    "2.16.840.1.113883.5.8": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
}
_NPI: Final = "2.16.840.1.113883.4.6"
_SSN: Final = "2.16.840.1.113883.4.1"  # stays in the document: nothing here needs it

# Units that are surely UCUM as they stand. Others stay words: `K/uL` would be kelvin.
_UCUM: Final = (
    "% /min 10*3/uL 10*6/uL 10*9/L 10*12/L Cel [degF] [in_i] [lb_av] [oz_av] [ft_i] a cm d fL fg g "
    "g/dL g/L h [iU]/L [iU]/mL kg kg/m2 kPa L L/min m m[IU]/L m[iU]/L m[iU]/mL mL mL/h mL/min mg "
    "mg/dL mg/L mg/g mg/mL min mm mm[Hg] mm/h mmol/L mo mol/L mosm/kg meq/L ng/dL ng/mL ng/L "
    "nmol/L pg pg/mL pmol/L s u[iU]/mL ug ug/dL ug/L ug/mL umol/L U/L wk"
)
_UNITS: Final = frozenset(_UCUM.split())


# ------------------------------------------------------------------------------ finding


def path(steps: str) -> str:
    """Return a path of CDA's names as lxml wants it."""
    return "/".join(f"{V3}{step}" for step in steps.split("/"))


def first(at: Element | None, steps: str) -> Element | None:
    """Return the first element at a path below another."""
    return None if at is None else at.find(path(steps))


def every(at: Element | None, steps: str) -> list[Element]:
    """Return all elements at a path below another."""
    return [] if at is None else list(at.findall(path(steps)))


def attr(at: Element | None, name: str) -> str:
    """Return an attribute; nothing where the sender says that it is not known."""
    return "" if at is None else str(at.get(name) or "").strip()


def words_in(at: Element | None) -> str:
    """Return all text of an element on one line."""
    return "" if at is None else " ".join("".join(map(str, at.itertext())).split())


def roots(at: Element) -> set[str]:
    """Return the templates that an element says it follows, without their versions."""
    return {attr(each, "root") for each in every(at, "templateId")}


def kind(at: Element | None) -> str:
    """Return the data type that a value names ("PQ")."""
    return "" if at is None else str(at.get(XSI_TYPE) or "").rpartition(":")[2]


# ------------------------------------------------------------------------------ codes


# A null flavour written where a code belongs; none of them is a code of a clinical vocabulary.
_PLACEHOLDERS: Final = frozenset(("UNK", "NI", "NASK", "ASKU", "NAV"))


def is_placeholder(text: str) -> bool:
    """Say whether words are a null flavour alone, written as if they were a value."""
    return text.strip() in _PLACEHOLDERS


def coding(at: Element) -> Value:
    """Return a Coding; {} for what has no code."""
    code, oid = attr(at, "code"), attr(at, "codeSystem")
    if not code or attr(at, "nullFlavor") or (code in _PLACEHOLDERS and oid in SYSTEMS):
        return {}
    made = {
        "system": SYSTEMS.get(oid) or (f"urn:oid:{oid}" if oid else ""),
        "code": " ".join(code.split()),
        "display": " ".join(attr(at, "displayName").split()),
    }
    return {name: one for name, one in made.items() if one}


def concept(at: Element | None, told: Told) -> Value:
    """Return a CodeableConcept of a CD: its code, translations, original text; {} for nothing."""
    if at is None:
        return {}
    codings: list[Value] = []
    for each in (at, *every(at, "translation"))[:_MOST_CODES]:
        made = coding(each)
        if made and made not in codings:
            codings.append(made)
    text = told(first(at, "originalText"))
    if not codings and not text:
        text = attr(at, "displayName")
    return filled({"coding": codings, "text": text})


def filled(made: Value) -> Value:
    """Return a value without its empty parts."""
    return {name: one for name, one in made.items() if one not in ("", None, [], {})}


def code_in(at: Element | None) -> str:
    """Return the code of an element, or of its first translation that has one."""
    for each in () if at is None else (at, *every(at, "translation")):
        if attr(each, "code") and not attr(each, "nullFlavor"):
            return attr(each, "code")
    return ""


# ------------------------------------------------------------------------------ time

_TIME: Final = re.compile(
    r"(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(?:(\d\d)(\d\d)?(?:\.\d+)?)?)?(?:([+-])(\d\d):?(\d\d)?)?"
)


def moment(said: str) -> str:
    """Return an HL7 time (TS) as a FHIR dateTime of the same precision; "" for no time.

    FHIR allows a time of day only with its zone (R4 dateTime); one without stays a day.
    """
    found = _TIME.fullmatch(said)
    if found is None:
        return ""
    year, month, day, hour, minute, second, sign, zone, rest = found.groups()
    if not _is_day(year, month, day):
        return ""
    told = "-".join(part for part in (year, month, day) if part)
    if not day or minute is None or sign is None:
        return told
    if hour > "23" or minute > "59" or (second or "") > "59":
        return told
    return f"{told}T{hour}:{minute}:{second or '00'}{sign}{zone}:{rest or '00'}"


def _is_day(year: str, month: str | None, day: str | None) -> bool:
    try:
        date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return False
    return True


def point(at: Element | None) -> str:
    """Return the dateTime of a TS, or of an IVL_TS that is one point."""
    if at is None:
        return ""
    return moment(attr(at, "value")) or moment(attr(first(at, "center"), "value"))


def period(at: Element | None) -> Value:
    """Return a Period of an IVL_TS: what is given of its two ends."""
    begin, end = (moment(attr(first(at, name), "value")) for name in ("low", "high"))
    return filled({"start": begin, "end": end})


def when(at: Element | None, name: str) -> Value:
    """Return `{name}DateTime` or `{name}Period` of an effectiveTime; {} where none is told."""
    if (at_once := point(at)) or at is None:
        return filled({f"{name}DateTime": at_once})
    span = period(at)
    if span.get("start") and span.get("start") == span.get("end"):
        return {f"{name}DateTime": span["start"]}
    return filled({f"{name}Period": span})


# ------------------------------------------------------------------------------ amounts

_DIGITS: Final = re.compile(r"-?\d{1,30}(\.\d{1,30})?")


def digits(said: str) -> Decimal | None:
    """Return a number with its digits as written; None for what is none."""
    plain = f"0{said}" if said.startswith(".") else said
    return Decimal(plain) if _DIGITS.fullmatch(plain) else None


def quantity(at: Element | None, comparator: str = "") -> Value:
    """Return a Quantity of a PQ, REAL or INT; {} where no number is told."""
    value = digits(attr(at, "value"))
    if value is None or attr(at, "nullFlavor"):
        return {}
    unit = attr(at, "unit")
    unit = "" if unit == "1" else unit
    coded = {"system": UCUM, "code": unit} if unit in _UNITS else {}
    return filled({"value": value, "comparator": comparator, "unit": unit}) | coded


def spread(at: Element | None) -> Value:
    """Return the two ends of an IVL_PQ as {"low": Quantity, "high": Quantity}, what is given."""
    return filled({name: quantity(first(at, name)) for name in ("low", "high")})


def ratio(at: Element) -> Value:
    """Return a Ratio of an RTO; {} unless both numbers are told."""
    parts = {name: quantity(first(at, name)) for name in ("numerator", "denominator")}
    return parts if all(parts.values()) else {}


# ------------------------------------------------------------------------------ persons, names


def identifier(at: Element) -> Value:
    """Return an Identifier of an II; {} where it names nothing."""
    root, extension = attr(at, "root"), attr(at, "extension")
    if not root or root == _SSN or attr(at, "nullFlavor"):
        return {}
    oid = root[:1].isdigit() and set(root) <= set("0123456789.")
    name = f"urn:{'oid' if oid else 'uuid'}:{root if oid else root.lower()}"
    if not extension:
        return {"system": "urn:ietf:rfc:3986", "value": name}
    system = "http://hl7.org/fhir/sid/us-npi" if root == _NPI else name
    return {"system": system, "value": extension}


def identifiers(at: Element) -> list[Value]:
    """Return the identifiers of a statement."""
    return [made for each in every(at, "id")[:5] if (made := identifier(each))]


def human_name(at: Element) -> Value:
    """Return a HumanName of a PN; a name without parts is a text."""
    parts: dict[str, list[str]] = {"prefix": [], "given": [], "family": [], "suffix": []}
    for part in at:
        name = part.tag.rpartition("}")[2] if isinstance(part.tag, str) else ""
        if name in parts and (said := words_in(part)):
            parts[name].append(said)
    family = " ".join(parts.pop("family"))
    made = filled({"family": family, **parts})
    return made or filled({"text": words_in(at)})


_USES: Final = {"H": "home", "HP": "home", "HV": "temp", "WP": "work", "DIR": "work"}
_LINES: Final = ("city", "state", "postalCode", "country")  # the same names in both


def address(at: Element) -> Value:
    """Return an Address of an AD."""
    lines = [said for each in every(at, "streetAddressLine") if (said := words_in(each))]
    made = filled({"line": lines, **{name: words_in(first(at, name)) for name in _LINES}})
    return filled({"use": _USES.get(attr(at, "use"), "")}) | made if made else {}


def telecom(at: Element) -> Value:
    """Return a ContactPoint of a TEL that says "tel:" or "mailto:"."""
    scheme, _, rest = attr(at, "value").partition(":")
    system = {"tel": "phone", "fax": "fax", "mailto": "email"}.get(scheme.lower(), "")
    if not system or not rest or attr(at, "nullFlavor"):
        return {}
    use = "mobile" if attr(at, "use") == "MC" else _USES.get(attr(at, "use"), "")
    return filled({"system": system, "value": rest.strip(), "use": use})


def clipped(text: str) -> str:
    """Return a text that is repeated outside of its document, cut where it is very long."""
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 2]} …"
