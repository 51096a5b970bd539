"""Vital signs: the latest of each kind and its series; blood pressure always as a pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from phr.chart.evidence import PLAINLY, How
from phr.chart.hl7 import VITAL_SIGNS
from phr.chart.plain import joined, mapping, mappings, string
from phr.chart.results import LOINC, Result, in_unit, results
from phr.chart.units import factor, together
from phr.chart.whose import GROWN, Whose
from phr.fhir.record import Record

SYSTOLIC, DIASTOLIC = "8480-6", "8462-4"
PRESSURE_PANELS = frozenset({"85354-9", "55284-4", "35094-2"})

NAMES = VITAL_SIGNS  # others keep the source's name
_ORDER = {code: place for place, code in enumerate(NAMES)}


HEIGHT: Final = frozenset({"8302-2", "3137-7", "8306-3"})
WEIGHT: Final = frozenset({"29463-7", "3141-9"})
HEAD: Final = frozenset({"9843-4"})
BODY_MASS: Final = "39156-5"
GROWTH: Final = HEIGHT | WEIGHT | HEAD | {BODY_MASS}


@dataclass(frozen=True, slots=True)
class Vital:
    """All values of one kind, as far as they can be told in one unit, newest first.

    A pair has both figures in `words`. Figures that came in another unit are `converted`.
    """

    name: str
    key: tuple[str, str] | None
    readings: tuple["Reading", ...]

    @property
    def come(self) -> tuple["Reading", ...]:
        """Return the readings of days that had come; all of them where there is none."""
        return tuple(one for one in self.readings if not one.first.marks.ahead) or self.readings


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement; `figures` holds one result, or systolic and diastolic."""

    words: str  # "120/80", "72.5"
    unit: str
    first: Result  # the Observation that stands for it
    figures: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class BodyMass:
    """A body mass index that no source sent: worked out from a weight and a height."""

    words: str  # kg/m2, one digit after the point
    weight: Result
    height: Result


class Setting(StrEnum):
    """Where, or by whom, something was measured, as far as the source says it."""

    OWN = "own"
    CLINIC = "clinic"
    UNSAID = ""


def vitals(records: Sequence[Record], how: How = PLAINLY) -> tuple[Vital, ...]:
    """Group vital-sign Observations by kind, in the order people ask for them.

    Units without a known factor between them stay apart.
    """
    same: dict[object, list[Reading]] = {}
    for one in _readings(results(records, how=how)):
        same.setdefault(_key(one) or one.first.name.casefold(), []).append(one)
    made = [vital for some in same.values() for vital in _of_kind(some)]
    return tuple(sorted(made, key=_rank))


def _of_kind(some: list[Reading]) -> list[Vital]:
    some.sort(key=_when, reverse=True)
    name, key = _name(_key(some[0]), some[0]), _key(some[0])
    units = dict.fromkeys(_ucum(one) for one in some if _measures(one))
    if len(units) < 2:
        return [Vital(name, key, tuple(some))]
    homes, first = together(units), next(iter(units))
    found: dict[str, list[Reading]] = {}
    for one in some:
        home = homes[_ucum(one)] if _measures(one) else first
        figures = tuple(in_unit(each, home) for each in one.figures)
        found.setdefault(home, []).append(replace(one, figures=figures))
    return [Vital(name, key, tuple(each)) for each in found.values()]


def _measures(one: Reading) -> bool:
    return one.figures[0].value.figure is not None


def _ucum(one: Reading) -> str:
    return one.figures[0].value.ucum


def setting(document: Mapping[str, Any]) -> Setting:
    """Return whether a clinic or the person measured, where the source says it; never a guess.

    By the performer's kind, the visit it belongs to, or HL7's integrity label (PATAST, PATRPT).
    """
    security = mapping(document.get("meta")).get("security")
    labels = {string(one.get("code")) for one in mappings(security)}
    kinds = {
        (string(one.get("reference")).split("/")[-2:-1] or [string(one.get("type"))])[0]
        for one in mappings(document.get("performer"))
    }
    if kinds & {"Patient", "RelatedPerson"} or labels & {"PATAST", "PATRPT"}:
        return Setting.OWN
    clinic = kinds & {"Practitioner", "PractitionerRole", "Organization", "CareTeam"}
    visit = document.get("encounter") or document.get("context")
    return Setting.CLINIC if clinic or visit else Setting.UNSAID


# A height of a grown person holds for a year, a child's for a month.
_NEAR: Final = timedelta(days=366)
_NEAR_CHILD: Final = timedelta(days=31)


def body_mass(found: Sequence[Vital], person: Whose) -> BodyMass | None:
    """Work out a body mass index from the newest weight and the height nearest to it in time.

    None where a source sent one since, where either is missing or in an unknown unit, or where
    the two lie too far apart.
    """
    weights = _numbers_of(found, WEIGHT)
    sent = [one.record.when for one in _numbers_of(found, frozenset({BODY_MASS}))]
    weight = max(weights, key=_moment, default=None)
    if weight is None or weight.record.when is None:
        return None
    when = weight.record.when
    if any(one is not None and one >= when for one in sent):
        return None
    days = person.age(weight.taken)
    near = _NEAR if days is not None and days >= GROWN * 365.25 else _NEAR_CHILD
    heights = [
        (abs(one.record.when - when), one)
        for one in _numbers_of(found, HEIGHT)
        if one.record.when and abs(one.record.when - when) <= near
    ]
    if not heights:
        return None
    _, height = min(heights, key=lambda item: item[0])
    words = _index(weight, height)
    return BodyMass(words, weight, height) if words else None


def _numbers_of(found: Sequence[Vital], codes: frozenset[str]) -> list[Result]:
    return [
        one.first
        for kind in found
        if kind.key and kind.key[0] == LOINC and kind.key[1] in codes
        for one in kind.readings
        if one.first.value.exact and not (one.first.marks.mistaken or one.first.marks.ahead)
    ]


def _moment(one: Result) -> float:
    return one.record.when.timestamp() if one.record.when else float("-inf")


def _index(weight: Result, height: Result) -> str:
    kilograms = factor(weight.value.ucum, "kg")
    metres = factor(height.value.ucum, "m")
    if kilograms is None or metres is None:
        return ""
    mass, tall = Decimal(weight.value.words) * kilograms, Decimal(height.value.words) * metres
    return f"{mass / tall**2:.1f}" if tall > 0 and mass > 0 else ""


def _rank(vital: Vital) -> tuple[int, str]:
    code = vital.key[1] if vital.key else ""
    return _ORDER.get(code, len(_ORDER)), vital.name.casefold()


def _when(one: Reading) -> float:
    return one.first.record.when.timestamp() if one.first.record.when else float("-inf")


def _key(one: Reading) -> tuple[str, str] | None:
    if len(one.figures) == 2:
        return (LOINC, "85354-9")
    return one.first.key


def _name(key: tuple[str, str] | None, one: Reading) -> str:
    return plain_name(key) or one.first.name


def plain_name(key: tuple[str, str] | None) -> str:
    """Return the name people use for a vital sign, "" where the source's own name is best."""
    return NAMES.get(key[1], "") if key and key[0] == LOINC else ""


def _readings(read: Sequence[Result]) -> list[Reading]:
    """Turn results into readings; two single pressures of one moment and place become a pair."""
    made: list[Reading] = []
    halves: dict[tuple[int, str, str], dict[str, Result]] = {}
    for one in read:
        code = one.key[1] if one.key else ""
        if code in (SYSTOLIC, DIASTOLIC) and one.taken:
            place = (one.record.connection_id, one.taken, one.value.unit)
            other = halves.setdefault(place, {})
            if code not in other:
                other[code] = one
                continue
        made.append(reading(one))
    for pair in halves.values():
        made.extend(_pair(tuple(pair.values())))
    return made


def _pair(halves: tuple[Result, ...]) -> list[Reading]:
    if len(halves) < 2:
        return [reading(one) for one in halves]
    upper, lower = sorted(halves, key=lambda one: bool(one.key and one.key[1] == DIASTOLIC))
    return [_pressure(upper, upper, lower)]


def _pressure(first: Result, upper: Result, lower: Result) -> Reading:
    words = f"{upper.value.words or '?'}/{lower.value.words or '?'}"
    return Reading(words, upper.value.unit or lower.value.unit, first, (upper, lower))


def reading(one: Result) -> Reading:
    """Return one result as a reading; systolic and diastolic parts become a pair."""
    parts = {part.key[1]: part for part in one.parts if part.key}
    upper, lower = parts.get(SYSTOLIC), parts.get(DIASTOLIC)
    if upper is not None and lower is not None and upper.value.unit == lower.value.unit:
        return _pressure(one, upper, lower)
    words = one.value.words
    if one.parts:
        inner = (joined(part.name, part.value.words, part.value.unit, by=" ") for part in one.parts)
        words = joined(words, *inner)
    return Reading(words, one.value.unit, one, (one,))
