"""Whose body was measured: sex and date of birth, as far as the sources agree on them.

Only for choosing among ranges that a source sent and for telling ages. Unknown stays unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from phr.chart.book import of_types
from phr.chart.evidence import PLAINLY, How, entries
from phr.chart.plain import codes, concept_words, counted, mapping, mappings, number, string
from phr.fhir.record import Record


@dataclass(frozen=True, slots=True)
class Whose:
    """The person: `sex` is a FHIR AdministrativeGender, "" where unknown or said otherwise."""

    sex: str = ""
    born: date | None = None

    def age(self, on: str) -> int | None:
        """Return the age in days on a FHIR date with its day; None where either is unknown."""
        day = as_date(on)
        return (day - self.born).days if day and self.born and day >= self.born else None


NOBODY: Final = Whose()


def whose(records: Sequence[Record], how: How = PLAINLY) -> Whose:
    """Return what the Patient records agree on; who may be somebody else does not count."""
    patients = of_types(records, "Patient")
    if not patients:
        return NOBODY
    doubts = entries(records, ("Patient",), how).flagged if len(patients) > 1 else {}
    told = [one.document for one in patients if one.pk not in doubts]
    sexes = {string(one.get("gender")) for one in told} - {"", "unknown"}
    births = {string(one.get("birthDate")) for one in told} - {""}
    return Whose(
        sexes.pop() if len(sexes) == 1 else "",
        as_date(births.pop()) if len(births) == 1 else None,
    )


def as_date(value: str) -> date | None:
    """Return the day of a FHIR date or dateTime; None where it is less exact, or no date."""
    day = value.partition("T")[0]
    try:
        return date.fromisoformat(day) if len(day) == len("2026-01-01") else None
    except ValueError:
        return None


def age_words(days: int) -> str:
    """Return an age as people say it: "9 days", "14 months", "3 years 2 months"."""
    if days < 2 * _MONTH:
        return counted(days, "day")
    months = int(days / _MONTH)
    years, rest = divmod(months, 12)
    if years < 2:
        return counted(months, "month")
    if years >= GROWN or not rest:
        return counted(years, "year")
    return f"{years} years {counted(rest, 'month')}"


GROWN: Final = 20  # years; up to then growth charts are kept
_MONTH: Final = 365.25 / 12
_DAYS: Final = {"a": 365.25, "mo": _MONTH, "wk": 7.0, "d": 1.0, "h": 1 / 24}
_DAYS_SAID: Final = {"year": "a", "month": "mo", "week": "wk", "day": "d", "hour": "h"}

# appliesTo as SNOMED CT, HL7 v2 0001, v3 and plain words say it.
_SEXES: Final = {
    **dict.fromkeys(("248152002", "female", "f", "women", "woman", "girls"), "female"),
    **dict.fromkeys(("248153007", "male", "m", "men", "man", "boys"), "male"),
}


def fits(span: Mapping[str, Any], person: Whose, taken: str) -> bool | None:
    """Say whether a reference range (R4 Observation.referenceRange) is for this person.

    None: it has a condition that is not understood or whose answer is not known.
    """
    answers = [_sex_fits(one, person) for one in mappings(span.get("appliesTo"))]
    age = mapping(span.get("age"))
    if age:
        answers.append(_age_fits(age, person.age(taken)))
    if False in answers:
        return False
    return None if None in answers else True


def _sex_fits(concept: Mapping[str, Any], person: Whose) -> bool | None:
    said = {code.casefold() for _, code in codes(concept)} or {concept_words(concept).casefold()}
    found = {_SEXES[one] for one in said if one in _SEXES}
    if len(found) != 1 or not person.sex:
        return None
    return person.sex in found


def _age_fits(age: Mapping[str, Any], days: int | None) -> bool | None:
    if days is None:
        return None
    for side, wrong in (("low", float.__gt__), ("high", float.__lt__)):
        bound = mapping(age.get(side))
        if not bound:
            continue
        count, unit = number(bound.get("value")), _unit_of(bound)
        if count is None or unit is None:
            return None
        # "up to 17 years" lasts until the 18th birthday
        edge = (count + (1 if side == "high" and count == int(count) else 0)) * unit
        if wrong(float(edge), float(days)):
            return False
    return True


def _unit_of(bound: Mapping[str, Any]) -> float | None:
    said = string(bound.get("code")) or string(bound.get("unit"))
    return _DAYS.get(said) or _DAYS.get(_DAYS_SAID.get(said.casefold().removesuffix("s"), ""))
