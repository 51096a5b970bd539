"""What a new version of a record says otherwise than the one before, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final

from phr.chart.fields import Field, fields
from phr.chart.plain import mapping

MOST: Final = 40  # changes of one version; more are counted
_STAMPS = frozenset({"versionId", "lastUpdated"})  # of meta; every version has new ones


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs; `before` or `after` is empty where it was added or is gone."""

    label: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs, in the order of the record; `left_out` counts what did not fit."""

    made: tuple[Change, ...]
    left_out: int


def changes(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Changes:
    """Compare two versions row by row as a person reads them. Equal texts are no change."""
    before, after = _rows(older), _rows(newer)
    found: list[Change] = []
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            found += _paired(before[a:b], after[c:d])
    return Changes(tuple(found[:MOST]), max(0, len(found) - MOST))


def _rows(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (label with those above it, value) of every row that holds a value."""
    meta = {k: v for k, v in mapping(document.get("meta")).items() if k not in _STAMPS}
    above: list[str] = []
    made = []
    for row in fields({**document, "meta": meta}).rows:
        above[row.depth :] = [row.label]
        if row.value:
            made.append((_path(row, above), row.value))
    return made


def _path(row: Field, above: Sequence[str]) -> str:
    """Return "Component, Value" for a row below another."""
    return ", ".join(dict.fromkeys(above[: row.depth + 1]))


def _paired(before: Sequence[tuple[str, str]], after: Sequence[tuple[str, str]]) -> list[Change]:
    """Join what went and what came under the same label; the rest was added or is gone."""
    waiting = list(after)
    made = []
    for label, value in before:
        place = next((i for i, (name, _) in enumerate(waiting) if name == label), None)
        came = "" if place is None else waiting.pop(place)[1]
        if came != value:
            made.append(Change(label, value, came))
    return made + [Change(label, "", value) for label, value in waiting]
