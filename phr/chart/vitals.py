"""Vital signs: the latest of each kind and its series; blood pressure always as a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

from phr.chart.evidence import PLAINLY, How
from phr.chart.plain import joined
from phr.chart.results import LOINC, Result, results
from phr.fhir.record import Record

SYSTOLIC, DIASTOLIC = "8480-6", "8462-4"
PRESSURE_PANELS = frozenset({"85354-9", "55284-4", "35094-2"})

# LOINC code -> the name people use. Others keep the source's name.
NAMES = {
    "85354-9": "Blood pressure",
    "55284-4": "Blood pressure",
    "35094-2": "Blood pressure",
    "8867-4": "Pulse",
    "9279-1": "Breathing rate",
    "8310-5": "Body temperature",
    "2708-6": "Blood oxygen level",
    "59408-5": "Blood oxygen level (pulse oximetry)",
    "29463-7": "Weight",
    "3141-9": "Weight, measured",
    "8302-2": "Height",
    "39156-5": "Body mass index",
    "9843-4": "Head circumference",
    "8289-1": "Head circumference, percentile",
    "59576-9": "Body mass index, percentile",
    "77606-2": "Weight for length, percentile",
    "72514-3": "Pain score",
}
_ORDER = {code: place for place, code in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class Vital:
    """All values of one kind in one unit, newest first. A pair has both figures in `words`."""

    name: str
    key: tuple[str, str] | None
    readings: tuple["Reading", ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement; `figures` holds one result, or systolic and diastolic."""

    words: str  # "120/80", "72.5"
    unit: str
    first: Result  # the Observation that stands for it
    figures: tuple[Result, ...]


def vitals(records: Sequence[Record], how: How = PLAINLY) -> tuple[Vital, ...]:
    """Group vital-sign Observations by kind and unit, in the order people ask for them."""
    found: dict[tuple[object, str], list[Reading]] = {}
    names: dict[tuple[object, str], tuple[str, tuple[str, str] | None]] = {}
    for one in _readings(results(records, how=how)):
        key = _key(one)
        kind: tuple[object, str] = (key or one.first.name.casefold(), one.unit)
        found.setdefault(kind, []).append(one)
        names.setdefault(kind, (_name(key, one), key))
    made = []
    _join_valueless(found)
    for kind, readings in found.items():
        readings.sort(key=_when, reverse=True)
        name, key = names[kind]
        made.append(Vital(name, key, tuple(readings)))
    return tuple(sorted(made, key=_rank))


def _join_valueless(found: dict[tuple[object, str], list[Reading]]) -> None:
    """Put readings without a value, hence without a unit, beside those that have one."""
    for key, unit in list(found):
        home = next((kind for kind in found if kind[0] == key and kind[1]), None)
        if not unit and home and not any(one.first.value.exact for one in found[key, unit]):
            found[home].extend(found.pop((key, unit)))


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
