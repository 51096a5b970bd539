"""What a person may state about himself, as rows of one table: fields of a form <-> FHIR R4.

A field names the place of its element, so that one walk builds the resource and another reads it
back. Not here: keeping them (`phr.own`), forms as HTML (`phr.web.pages.own`).
"""

import base64
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from phr import clock
from phr.errors import InvalidInput
from phr.fhir import document
from phr.fhir.build import LOINC, concept

UCUM = "http://unitsofmeasure.org"
RECORD: Final = "urn:homeport:record"  # identifiers "Type/id" with the id a record leaves with
OWN_WORDS: Final = "urn:homeport:own-words"
OWN_NAME: Final = "own-name"  # a List of this code: its text is what the patient calls a thing
NOTE_CODE: Final = "51855-5"  # LOINC: Patient Note
PATIENT = {"reference": "Patient/self"}  # leaves as the one composed Patient of the vault
LONGEST = 2000  # characters of one field
LONGEST_NOTE = 20_000

REMARKS: Final = "About a record"

Path = tuple[str | int, ...]


class Shape(StrEnum):
    """How a field is asked for."""

    LINE = "line"
    LONG = "long"
    DATE = "date"  # as precisely as it is known: YYYY, YYYY-MM, YYYY-MM-DD
    CHOICE = "choice"
    NUMBER = "number"  # kept with its digits
    RESULT = "result"  # a number, a comparison or words: Observation.value[x]
    FILE = "file"  # kept beside the record by its hash, never in it; asked for once


@dataclass(frozen=True, slots=True)
class Option:
    """One choice: its key in the form, its words, and the element that it stands for."""

    key: str
    words: str
    element: Any = None  # None: nothing is said


@dataclass(frozen=True, slots=True)
class Field:
    """One question. `path` is where its answer stands; `beside` names what must stand there too."""

    name: str
    label: str
    path: Path
    shape: Shape = Shape.LINE
    required: bool = False
    options: tuple[Option, ...] = ()
    hint: str = ""
    beside: str = ""  # an element without which this one makes no sense
    past: bool = False  # a date that cannot lie ahead


@dataclass(frozen=True, slots=True)
class Statement:
    """A kind of statement: the FHIR resource it becomes and what is asked."""

    slug: str
    title: str
    type: str
    fields: tuple[Field, ...]
    skeleton: Mapping[str, Any]
    stated: str = ""  # the element that says when it was stated
    mistaken: Mapping[str, Any] | None = None  # what a taken back one says instead
    group: str = "More"
    kept: tuple[str, ...] = ()  # elements that no field asks for: a new version has them again

    @property
    def has_file(self) -> bool:
        """Say whether a file belongs to it."""
        return any(field.shape is Shape.FILE for field in self.fields)

    @property
    def stands_alone(self) -> bool:
        """Say whether it can be stated by itself; a remark is about a record."""
        return self.group != REMARKS


# ------------------------------------------------------------------ parts of rows


def _note(path: Path = ("note", 0, "text")) -> Field:
    return Field("note", "Note", path, Shape.LONG, hint="In your own words.")


def _when(
    name: str, label: str, *path: str | int, required: bool = False, past: bool = False
) -> Field:
    hint = "As far as you know it: 2019, 2019-03 or 2019-03-14."
    return Field(name, label, path, Shape.DATE, required=required, hint=hint, past=past)


def _category(code: str, display: str) -> list[dict[str, Any]]:
    return [concept("observation-category", code, display)]


def _unit(unit: str, code: str) -> dict[str, str]:
    return {"unit": unit, "system": UCUM, "code": code}


def _measure(
    slug: str, title: str, code: tuple[str, str], units: Sequence[tuple[str, str]]
) -> Statement:
    value = Field("value", "Value", ("valueQuantity", "value"), Shape.NUMBER, required=True)
    options = tuple(Option(key, unit, _unit(unit, key)) for unit, key in units)
    unit = Field("unit", "Unit", ("valueQuantity",), Shape.CHOICE, required=True, options=options)
    return Statement(
        slug,
        title,
        "Observation",
        (
            value,
            unit,
            _when("when", "Measured on", "effectiveDateTime", required=True, past=True),
            _note(),
        ),
        _observation(_category("vital-signs", "Vital Signs"), concept(LOINC, *code)),
        stated="issued",
        mistaken={"status": "entered-in-error"},
        group="Measurements at home",
    )


def _observation(category: list[dict[str, Any]], code: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": "final",
        "category": category,
        **({"code": code} if code else {}),
        "subject": PATIENT,
        "performer": [PATIENT],
    }


_MERCURY = _unit("mmHg", "mm[Hg]")
_PRESSURE = Statement(
    "blood-pressure",
    "Blood pressure",
    "Observation",
    (
        Field(
            "upper",
            "Upper value (systolic), mmHg",
            ("component", 0, "valueQuantity", "value"),
            Shape.NUMBER,
            required=True,
        ),
        Field(
            "lower",
            "Lower value (diastolic), mmHg",
            ("component", 1, "valueQuantity", "value"),
            Shape.NUMBER,
            required=True,
        ),
        _when("when", "Measured on", "effectiveDateTime", required=True, past=True),
        _note(),
    ),
    {
        **_observation(
            _category("vital-signs", "Vital Signs"),
            concept(LOINC, "85354-9", "Blood pressure panel"),
        ),
        "component": [
            {
                "code": concept(LOINC, "8480-6", "Systolic blood pressure"),
                "valueQuantity": dict(_MERCURY),  # one each: a deep copy keeps shared things shared
            },
            {
                "code": concept(LOINC, "8462-4", "Diastolic blood pressure"),
                "valueQuantity": dict(_MERCURY),  # one each: a deep copy keeps shared things shared
            },
        ],
    },
    stated="issued",
    mistaken={"status": "entered-in-error"},
    group="Measurements at home",
)

_PAPERS = (  # what people keep on paper, by LOINC document codes
    ("11502-2", "Laboratory report", "laboratory report"),
    ("18748-4", "Diagnostic imaging study", "report of an X-ray, CT, MRI or ultrasound"),
    ("18842-5", "Discharge summary", "discharge letter of a hospital"),
    ("34109-9", "Note", "other letter or note of a doctor"),
    ("57833-6", "Prescription for medication", "prescription"),
    ("11369-6", "History of Immunization note", "vaccination card"),
    ("42348-3", "Advance directives", "living will or other directive"),
    ("64290-0", "Health insurance card", "insurance card"),
)
_CLINICAL = "allergyintolerance-clinical"
_PROBLEM = "condition-clinical"

STATEMENTS: Final[Mapping[str, Statement]] = {
    one.slug: one
    for one in (
        Statement(
            "allergy",
            "Allergy",
            "AllergyIntolerance",
            (
                Field("what", "What you react to", ("code", "text"), required=True),
                Field("reaction", "What happens", ("reaction", 0, "manifestation", 0, "text")),
                Field(
                    "severity",
                    "How bad it was",
                    ("reaction", 0, "severity"),
                    Shape.CHOICE,
                    options=(
                        Option("", "not said"),
                        Option("mild", "mild", "mild"),
                        Option("moderate", "moderate", "moderate"),
                        Option("severe", "severe", "severe"),
                    ),
                    beside="reaction",
                ),
                _when("since", "Since", "onsetDateTime", past=True),
                _note(),
            ),
            {
                "clinicalStatus": concept(_CLINICAL, "active"),
                "patient": PATIENT,
                "asserter": PATIENT,
            },
            stated="recordedDate",
            mistaken={
                "clinicalStatus": None,
                "verificationStatus": concept(
                    "allergyintolerance-verification", "entered-in-error"
                ),
            },
            group="What a doctor asks first",
        ),
        Statement(
            "medicine",
            "Medicine",
            "MedicationStatement",
            (
                Field(
                    "what",
                    "Name and strength",
                    ("medicationCodeableConcept", "text"),
                    required=True,
                    hint="As on the package: Ferrous fumarate 210 mg.",
                ),
                Field(
                    "dose", "How you take it", ("dosage", 0, "text"), hint="1 tablet each morning"
                ),
                Field(
                    "status",
                    "Do you take it?",
                    ("status",),
                    Shape.CHOICE,
                    required=True,
                    options=(
                        Option("active", "Yes, now", "active"),
                        Option("completed", "No longer: it ended", "completed"),
                        Option("stopped", "No longer: it was stopped", "stopped"),
                        Option("not-taken", "I never took it", "not-taken"),
                    ),
                ),
                _when("since", "Since", "effectivePeriod", "start", past=True),
                _when("until", "Until", "effectivePeriod", "end"),
                Field("reason", "What for", ("reasonCode", 0, "text")),
                _note(),
            ),
            {"subject": PATIENT, "informationSource": PATIENT},
            stated="dateAsserted",
            mistaken={"status": "entered-in-error"},
            group="What a doctor asks first",
        ),
        Statement(
            "problem",
            "Problem or illness",
            "Condition",
            (
                Field("what", "What it is", ("code", "text"), required=True),
                Field(
                    "status",
                    "Do you have it now?",
                    ("clinicalStatus",),
                    Shape.CHOICE,
                    required=True,
                    options=(
                        Option("active", "Yes", concept(_PROBLEM, "active")),
                        Option("resolved", "No, it is over", concept(_PROBLEM, "resolved")),
                    ),
                ),
                _when("began", "Since", "onsetDateTime", past=True),
                _when("ended", "Until", "abatementDateTime"),
                _note(),
            ),
            {
                "category": [concept("condition-category", "problem-list-item")],
                "subject": PATIENT,
                "asserter": PATIENT,
            },
            stated="recordedDate",
            mistaken={
                "clinicalStatus": None,
                "verificationStatus": concept("condition-ver-status", "entered-in-error"),
            },
            group="What a doctor asks first",
        ),
        _PRESSURE,
        _measure("weight", "Weight", ("29463-7", "Body weight"), (("kg", "kg"), ("lb", "[lb_av]"))),
        _measure("height", "Height", ("8302-2", "Body height"), (("cm", "cm"), ("in", "[in_i]"))),
        _measure("pulse", "Pulse", ("8867-4", "Heart rate"), (("beats/minute", "/min"),)),
        _measure(
            "temperature",
            "Body temperature",
            ("8310-5", "Body temperature"),
            (("°C", "Cel"), ("°F", "[degF]")),
        ),
        _measure(
            "oxygen",
            "Blood oxygen level",
            ("59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry"),
            (("%", "%"),),
        ),
        Statement(
            "result",
            "Laboratory result",
            "Observation",
            (
                Field("what", "Name of the test", ("code", "text"), required=True),
                Field(
                    "value",
                    "Value",
                    (),
                    Shape.RESULT,
                    required=True,
                    hint="As on the paper: 5.40, < 0.1 or Negative.",
                ),
                Field("unit", "Unit", ("valueQuantity", "unit"), beside="valueQuantity"),
                Field("range", "Reference range", ("referenceRange", 0, "text"), hint="3.5 to 5.1"),
                _when("when", "Taken on", "effectiveDateTime", required=True, past=True),
                Field("lab", "Laboratory", ("performer", 1, "display")),
                _note(),
            ),
            _observation(_category("laboratory", "Laboratory"), {}),
            stated="issued",
            mistaken={"status": "entered-in-error"},
        ),
        Statement(
            "vaccine",
            "Vaccination",
            "Immunization",
            (
                Field("what", "Vaccine, or against what", ("vaccineCode", "text"), required=True),
                _when("when", "Given on", "occurrenceDateTime", required=True, past=True),
                Field("lot", "Lot number", ("lotNumber",)),
                Field("where", "Where", ("location", "display")),
                _note(),
            ),
            {
                "status": "completed",
                "patient": PATIENT,
                "primarySource": False,
                "reportOrigin": concept("immunization-origin", "recall"),
            },
            stated="recorded",
            mistaken={"status": "entered-in-error"},
        ),
        Statement(
            "procedure",
            "Operation or procedure",
            "Procedure",
            (
                Field("what", "What was done", ("code", "text"), required=True),
                _when("when", "When", "performedDateTime", past=True),
                Field("where", "Where", ("location", "display")),
                Field("who", "By whom", ("performer", 0, "actor", "display")),
                _note(),
            ),
            {"status": "completed", "subject": PATIENT, "asserter": PATIENT},
            mistaken={"status": "entered-in-error"},
        ),
        Statement(
            "visit",
            "Visit",
            "Encounter",
            (
                Field("what", "Why you went", ("reasonCode", 0, "text"), required=True),
                _when("when", "When", "period", "start", required=True, past=True),
                Field("who", "Whom you saw", ("participant", 0, "individual", "display")),
                Field("where", "Where", ("serviceProvider", "display")),
            ),
            {
                "status": "finished",
                "class": concept("v3-NullFlavor", "UNK", "unknown")["coding"][0],  # not asked
                "subject": PATIENT,
            },
            mistaken={"status": "entered-in-error"},
        ),
        Statement(
            "note",
            "Note on a record",
            "DocumentReference",
            (Field("note", "Your note", ("description",), Shape.LONG, required=True),),
            {
                "status": "current",
                "type": concept(LOINC, NOTE_CODE, "Patient Note"),
                "subject": PATIENT,
                "author": [PATIENT],
            },
            stated="date",
            mistaken={"status": "entered-in-error"},
            group=REMARKS,
            kept=("meta", "type", "context"),
        ),
        Statement(
            "name",
            "Own name for something",
            "List",
            (Field("name", "What you call it", ("code", "text"), required=True),),
            {
                "status": "current",
                "mode": "working",
                "code": concept(OWN_WORDS, OWN_NAME),
                "subject": PATIENT,
                "source": PATIENT,
            },
            stated="date",
            mistaken={"status": "entered-in-error"},
            group=REMARKS,
            kept=("meta", "entry"),
        ),
        Statement(
            "document",
            "Document or picture",
            "DocumentReference",
            (
                Field(
                    "what",
                    "What it is",
                    ("type", "text"),
                    required=True,
                    hint="So that you find it again: Blood test at Dr. Weber's.",
                ),
                Field(
                    "kind",
                    "Kind",
                    ("type",),
                    Shape.CHOICE,
                    options=(
                        Option("", "not said"),
                        *(
                            Option(code, words, concept(LOINC, code, display))
                            for code, display, words in _PAPERS
                        ),
                    ),
                ),
                _when("when", "Date on it", "context", "period", "start", past=True),
                _note(("description",)),
                Field(
                    "file",
                    "The file",
                    (),
                    Shape.FILE,
                    required=True,
                    hint="PDF, picture, text, C-CDA or anything else, at most 25 MB.",
                ),
            ),
            {"status": "current", "subject": PATIENT, "author": [PATIENT]},
            mistaken={"status": "entered-in-error"},
            kept=("content",),
        ),
        Statement(
            "family",
            "Illness in the family",
            "FamilyMemberHistory",
            (
                Field("who", "Who", ("relationship", "text"), required=True, hint="Mother"),
                Field("what", "What illness", ("condition", 0, "code", "text"), required=True),
                Field("age", "At what age", ("condition", 0, "onsetString")),
                _note(),
            ),
            {"status": "completed", "patient": PATIENT},
            stated="date",
            mistaken={"status": "entered-in-error"},
        ),
        Statement(
            "contact",
            "Person to call",
            "RelatedPerson",
            (
                Field("name", "Name", ("name", 0, "text"), required=True),
                Field("role", "Who it is to you", ("relationship", 0, "text"), hint="Daughter"),
                Field("phone", "Telephone", ("telecom", 0, "value")),
            ),
            {"active": True, "patient": PATIENT},
            mistaken={"active": False},
        ),
    )
}


# ------------------------------------------------------------------ form -> FHIR


def build(
    statement: Statement,
    answers: Mapping[str, str],
    *,
    id_: str,
    now: datetime,
    held: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the resource of a filled form. Raises InvalidInput with one sentence for a field.

    Fields that were left empty leave no element behind. `held` is what it said before: what no
    field asks for is taken over from there.
    """
    made: dict[str, Any] = {
        "resourceType": statement.type,
        "id": id_,
        **deepcopy(dict(statement.skeleton)),
    }
    made |= {name: deepcopy(held[name]) for name in statement.kept if held and name in held}
    for field in statement.fields:
        if field.shape is Shape.FILE:
            continue
        said = answers.get(field.name, "").strip()
        if not said and field.required:
            raise InvalidInput(f"Please fill in “{field.label}”.")
        if said:
            _fits(statement, made, field, said, now)
            _answer(made, field, said)
    _agrees(statement, made)
    if statement.type == "RelatedPerson" and "telecom" in made:
        made["telecom"][0]["system"] = "phone"
    if statement.slug == "note":
        made["content"] = [{"attachment": _plain(made["description"])}]
    if statement.stated:
        made[statement.stated] = clock.instant(now)
    return _ordered(made)


def _plain(text: str) -> dict[str, str]:
    data = base64.b64encode(text.encode()).decode()
    return {"contentType": "text/plain; charset=utf-8", "data": data}


def about(record: Mapping[str, Any], local_id: str, title: str) -> dict[str, Any]:
    """Return what a remark on a record has beside its words, as the `held` of `build`.

    The codes of the record come along, so that a remark is as sensitive as what it is about.
    """
    type_ = str(record.get("resourceType"))
    pointed = {
        "type": type_,
        "identifier": {"system": RECORD, "value": f"{type_}/{local_id}"},
        "display": title,
    }
    named = next((record[one] for one in _NAMED if isinstance(record.get(one), dict)), None)
    coded = {"coding": named["coding"]} if named and isinstance(named.get("coding"), list) else None
    security = record["meta"].get("security") if isinstance(record.get("meta"), dict) else None
    context: dict[str, Any] = {"related": [pointed]}
    entry: dict[str, Any] = {"item": pointed}
    if coded:
        context["event"] = [coded]
        entry["extension"] = [{"url": f"{OWN_WORDS}:of", "valueCodeableConcept": coded}]
    note = concept(LOINC, NOTE_CODE, "Patient Note") | {"text": f"Note: {title}"}
    marked = {"meta": {"security": security}} if isinstance(security, list) else {}
    return {"type": note, "context": context, "entry": [entry], **marked}


_NAMED: Final = ("code", "medicationCodeableConcept", "vaccineCode")


def _fits(
    statement: Statement, made: Mapping[str, Any], field: Field, said: str, now: datetime
) -> None:
    """Raise InvalidInput for an answer that is too long, lies ahead, or hangs in the air."""
    most = LONGEST_NOTE if field.shape is Shape.LONG else LONGEST
    if len(said) > most:
        raise InvalidInput(
            f"“{field.label}” takes at most {most:,} characters; this has {len(said):,}."
        )
    if field.beside and field.beside not in made:
        other = next(one for one in statement.fields if _makes(one, field.beside))
        number = " as a number" if other.shape is Shape.RESULT else ""
        raise InvalidInput(f"“{field.label}” makes sense only with “{other.label}”{number}.")
    ahead = said > f"{now + _FARTHEST_ZONE:%Y-%m-%d}"[: len(said)]
    if field.past and ahead and _DATE.fullmatch(said):
        raise InvalidInput(f"“{field.label}” lies in the future.")


_FARTHEST_ZONE: Final = timedelta(hours=14)  # where it is tomorrow already


def _makes(field: Field, element: str) -> bool:
    return field.path[:1] == (element,) or field.shape is Shape.RESULT


def _agrees(statement: Statement, made: Mapping[str, Any]) -> None:
    """Raise InvalidInput for answers that contradict each other."""
    for first, last in _SPANS:
        begin, end = _walk(made, first), _walk(made, last)
        if begin and end and end < begin[: len(end)]:
            raise InvalidInput("“Until” is earlier than “Since”.")
    if statement is _PRESSURE:
        upper, lower = (_walk(made, field.path) for field in statement.fields[:2])
        if lower > upper:
            raise InvalidInput("The upper value is smaller than the lower one. Are they swapped?")
    if statement.slug == "oxygen" and made["valueQuantity"]["value"] > 100:
        raise InvalidInput("“Value” cannot be more than 100 %.")


_SPANS: Final[tuple[tuple[Path, Path], ...]] = (
    (("effectivePeriod", "start"), ("effectivePeriod", "end")),
    (("onsetDateTime",), ("abatementDateTime",)),
)


def taken_back(statement: Statement, held: Mapping[str, Any]) -> dict[str, Any]:
    """Return a statement as one that was made by mistake: it says so and stays readable."""
    made = dict(held)
    for name, element in (statement.mistaken or {}).items():
        if element is None:
            made.pop(name, None)
        else:
            made[name] = element
    return made


def is_taken_back(held: Mapping[str, Any]) -> bool:
    """Say whether a statement was marked as a mistake."""
    statement = of_type(held)
    says = (statement and statement.mistaken) or {}
    return bool(says) and all(held.get(name) == element for name, element in says.items())


def _answer(made: dict[str, Any], field: Field, said: str) -> None:
    if field.shape is Shape.RESULT:
        made.update(_value(said))
    elif field.shape is Shape.CHOICE:
        option = next((one for one in field.options if one.key == said), None)
        if option is None:
            raise InvalidInput(f"Please choose one of the answers to “{field.label}”.")
        if option.element is not None:
            _put(made, field.path, option.element)
    elif field.shape is Shape.NUMBER:
        _put(made, field.path, _number(field, said))
    elif field.shape is Shape.DATE:
        _put(made, field.path, _date(field, said))
    else:
        _put(made, field.path, said)


_DIGITS = re.compile(r"-?\d{1,12}(?:\.\d{1,12})?", re.ASCII)
_COMMA = re.compile(r"-?\d[\d' ]*,\d[\d,' ]*", re.ASCII)
_COMPARED = re.compile(r"(<=|>=|<|>)\s*(.+)")
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", re.ASCII)


def _number(field: Field, said: str) -> Any:
    if not _DIGITS.fullmatch(said):
        raise InvalidInput(f"“{field.label}” needs a number, with a point: 72.5.")
    if said.startswith("-"):
        raise InvalidInput(f"“{field.label}” cannot be less than 0.")
    return document.number(said)


def _date(field: Field, said: str) -> str:
    found = _DATE.fullmatch(said)
    if found is None or not _is_a_day(*(int(part or 1) for part in found.groups())):
        raise InvalidInput(f"“{field.label}” needs a date like 2019, 2019-03 or 2019-03-14.")
    return said


def _is_a_day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _value(said: str) -> dict[str, Any]:
    """Return value[x]: a Quantity with the digits as typed, with its comparator, or a string."""
    compared = _COMPARED.fullmatch(said)
    digits = compared[2] if compared else said
    if _COMMA.fullmatch(digits):
        raise InvalidInput("Please write the number with a point and without spaces: 5.40 or 1200.")
    if not _DIGITS.fullmatch(digits):
        return {"valueString": said}
    quantity = {"value": document.number(digits)}
    return {"valueQuantity": quantity | ({"comparator": compared[1]} if compared else {})}


def _put(made: dict[str, Any], path: Path, element: Any) -> None:
    """Set the element at a path, making what is above it; objects are joined, not replaced."""
    at: Any = made
    for step, following in pairwise(path):
        at = _step(at, step, [] if isinstance(following, int) else {})
    last = path[-1]
    if isinstance(element, dict) and isinstance(_get(at, last), dict):
        at[last] = _get(at, last) | element
    elif isinstance(last, int):
        _step(at, last, element)
    else:
        at[last] = element


def _step(at: Any, step: str | int, empty: Any) -> Any:
    if isinstance(step, int):
        while len(at) <= step:
            at.append(empty if len(at) == step else {})
        return at[step]
    return at.setdefault(step, empty)


def _get(at: Any, step: str | int) -> Any:
    if isinstance(at, dict):
        return at.get(step)
    return at[step] if isinstance(at, list) and isinstance(step, int) and step < len(at) else None


def _ordered(made: dict[str, Any]) -> dict[str, Any]:
    """Return the resource with what FHIR puts first in front."""
    return {name: made[name] for name in ("resourceType", "id")} | made


# ------------------------------------------------------------------ FHIR -> form


def of_type(held: Mapping[str, Any]) -> Statement | None:
    """Return the kind of statement that a kept resource of the patient's own was made with."""
    for one in STATEMENTS.values():
        fixed = [path for path in _CODES if _walk(one.skeleton, path) is not None]
        alike = all(_walk(one.skeleton, path) == _walk(held, path) for path in fixed)
        if one.type == held.get("resourceType") and alike:
            return one
    return None


# Where measurements and remarks have a fixed code; of others it says what a person filled in.
_CODES: Final[tuple[Path, ...]] = (("code", "coding", 0, "code"), ("type", "coding", 0, "code"))


def answers(statement: Statement, held: Mapping[str, Any]) -> dict[str, str]:
    """Return what a form says that is filled with a kept statement."""
    asked = (field for field in statement.fields if field.shape is not Shape.FILE)
    return {field.name: _said(field, held) for field in asked}


def _said(field: Field, held: Mapping[str, Any]) -> str:
    if field.shape is Shape.RESULT:
        quantity = held.get("valueQuantity")
        if not isinstance(quantity, dict):
            return str(held.get("valueString", ""))
        return f"{quantity.get('comparator', '')} {quantity.get('value', '')}".strip()
    found = _walk(held, field.path)
    if field.shape is Shape.CHOICE:
        return next((one.key for one in field.options if _holds(found, one.element)), "")
    return "" if found is None else str(found)


def _holds(found: Any, element: Any) -> bool:
    if isinstance(found, dict) and isinstance(element, dict):
        return all(found.get(name) == value for name, value in element.items())
    return element is not None and bool(found == element)


def _walk(held: Any, path: Path) -> Any:
    for step in path:
        held = _get(held, step)
    return held
