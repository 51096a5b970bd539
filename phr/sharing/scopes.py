"""OAuth scopes of the FHIR API (SMART App Launch 2.2 §3): their grammar, and what they let reach.

A scope only ever takes away from what the grant covers. What cannot be evaluated is refused when
it is asked for; in a token it reaches nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

from phr.errors import InvalidInput
from phr.fhir import kinds
from phr.fhir.record import Record
from phr.sharing import search
from phr.sharing.provision import Compiled, Deny, Facts
from phr.store.records import Clause

LONGEST: Final = 4000  # characters of all scopes together
VERSION_1: Final = {"read": "rs", "write": "cud", "*": "cruds"}  # never read as more (§3.0.1)
GRANULAR: Final = {  # which parameters a scope may name; what is not here is not granted
    "Observation": ("category",),
    "Condition": ("category",),
    "DocumentReference": ("category", "type"),
    "MedicationRequest": ("intent",),
}
_SCOPE: Final = re.compile(
    r"(?P<context>patient|user|system)/(?P<type>\*|[A-Z][A-Za-z]{1,63})"
    r"\.(?P<letters>read|write|\*|c?r?u?d?s?)(?:\?(?P<query>[!-~]{1,500}))?"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """One resource scope: letters of c r u d s for a type ("*": every), and what narrows it."""

    context: str
    type: str
    letters: frozenset[str]
    query: tuple[tuple[str, str], ...] = ()


def read_one(text: str) -> Scope | None:
    """Read one scope; None for one that is not about resources ("launch/patient", "openid").

    Raises InvalidInput for a resource scope that is malformed, names an unknown type, or is
    narrowed by what is not in GRANULAR.
    """
    if not text.startswith(("patient/", "user/", "system/")):
        return None
    match = _SCOPE.fullmatch(text)
    if match is None or not match["letters"]:
        raise InvalidInput("A scope has not the form of one.")
    type_ = match["type"]
    if type_ != "*" and type_ not in kinds.KINDS:
        raise InvalidInput("A scope names a type that does not exist.")
    letters = frozenset(VERSION_1.get(match["letters"], match["letters"]))
    return Scope(match["context"], type_, letters, _query(type_, match["query"]))


def _query(type_: str, text: str | None) -> tuple[tuple[str, str], ...]:
    if text is None:
        return ()
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=5)
    except ValueError as error:
        raise InvalidInput("A scope has not the form of one.") from error
    for name, value in pairs:
        if name not in GRANULAR.get(type_, ()):
            raise InvalidInput("A scope is narrowed by what cannot be granted here.")
        search.constraint(type_, name, value)
    return tuple(pairs)


@lru_cache(maxsize=256)
def resource_scopes(text: str) -> tuple[Scope, ...]:
    """Return the resource scopes in a space-separated text; raises InvalidInput like `read_one`."""
    if len(text) > LONGEST:
        raise InvalidInput("Those are too many scopes.")
    found = (read_one(each) for each in text.split())
    return tuple(one for one in found if one is not None)


@lru_cache(maxsize=256)
def types_within(text: str, letters: str) -> frozenset[str]:
    """Return the types for which some scope has all these letters, however narrowed."""
    needed = frozenset(letters)
    found: set[str] = set()
    for scope in resource_scopes(text):
        if needed <= scope.letters:
            found |= set(kinds.KINDS) if scope.type == "*" else {scope.type}
    return frozenset(found)


def covers(text: str, letters: str, record: Record) -> bool:
    """Tell whether the scopes of a token reach a record by all these letters."""
    return _reach(text, letters).objection(record) is None


def narrowed(compiled: Compiled, text: str, letters: str) -> Compiled:
    """Return a compiled provision with only what the scopes of a token reach by these letters."""
    reach = _reach(text, letters)
    return replace(
        compiled,
        where=compiled.where & reach.where,
        counted=compiled.counted & reach.where,
        supporting=compiled.supporting & reach.where,
        permits=lambda record: reach.objection(record) or compiled.permits(record),
        by_content=frozenset(type_ for type_, _ in reach.parts),
    )


@dataclass(frozen=True, slots=True)
class _Reach:
    """What the scopes of a token reach, as SQL and as a check."""

    where: Clause
    whole: frozenset[str]  # types that are not narrowed
    parts: tuple[tuple[str, tuple[search.Test, ...]], ...]  # (type, all of these)

    def objection(self, record: Record | Facts) -> Deny | None:
        """Return why a record is out of reach, or None."""
        if record.type in self.whole:
            return None
        if isinstance(record, Facts):  # they do not tell what these ask for
            return Deny("outside the scopes")
        for type_, tests in self.parts:
            if record.type == type_ and all(test(record.document) for test in tests):
                return None
        return Deny("outside the scopes")


@lru_cache(maxsize=256)
def _reach(text: str, letters: str) -> _Reach:
    needed = frozenset(letters)
    scopes = [one for one in resource_scopes(text) if needed <= one.letters]
    open_ones = [one for one in scopes if not one.query]
    everything = any(one.type == "*" for one in open_ones)
    whole = frozenset(kinds.KINDS) if everything else frozenset(one.type for one in open_ones)
    clauses = [Clause("1")] if everything else [_of_types(sorted(whole))]
    parts = []
    for scope in scopes:
        if scope.type not in whole and scope.query:
            found = [search.constraint(scope.type, *pair) for pair in scope.query]
            clause = _of_types([scope.type])
            for each, _ in found:
                clause &= each
            clauses.append(clause)
            parts.append((scope.type, tuple(test for _, test in found)))
    sql = " OR ".join(f"({clause.sql})" for clause in clauses)
    params = tuple(value for clause in clauses for value in clause.params)
    return _Reach(Clause(f"({sql})", params), whole, tuple(parts))


def _of_types(types: Sequence[str]) -> Clause:
    if not types:
        return Clause("0")
    marks = ", ".join("?" * len(types))
    return Clause(f"record.type IN ({marks})", tuple(kinds.KINDS[each].number for each in types))
