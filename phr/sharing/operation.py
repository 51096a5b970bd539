"""What the operations of the FHIR API are asked for: parameters read once, refused where unknown.

As for searches nothing is dropped that is not understood. No I/O here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from phr.errors import InvalidInput, ScopeTooSmall
from phr.fhir import document, reading
from phr.fhir.reading import listed, text
from phr.sharing import scopes, search
from phr.sharing.answers import DOCUMENT
from phr.sharing.parameters import PARAMETERS
from phr.sharing.released import Released
from phr.sharing.search import Document, Search

Pairs = Sequence[tuple[str, str]]
NDJSON: Final = ("application/fhir+ndjson", "application/ndjson", "ndjson")
_FAR: Final = 1 << 60
_MOST_PARAMETERS: Final = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """Which types (none: all), and from when on this server took them in."""

    types: frozenset[str]
    since: datetime | None


def everything(pairs: Pairs) -> Asked:
    """Read what `$everything` is asked (R4 Patient-operation-everything). Raises InvalidInput."""
    for name, _ in pairs:
        if name not in ("_type", "_since", "_format"):
            raise InvalidInput("$everything takes _type and _since.")
    return _read(pairs)


def export(pairs: Pairs, *, prefer: str) -> Asked:
    """Read what `$export` is asked (FHIR Bulk Data 2.0.0 §2.4). Raises InvalidInput.

    `prefer` is the header of that name: without `respond-async` there is no answer to give.
    """
    said = prefer.replace(" ", "").lower()
    if "respond-async" not in said:
        raise InvalidInput("An export is prepared while you wait: send Prefer: respond-async.")
    lenient = "handling=lenient" in said
    for name, value in pairs:
        if name == "_outputFormat":
            if value.replace(" ", "+") not in NDJSON:
                raise InvalidInput("An export is made as application/fhir+ndjson.")
        elif name not in ("_type", "_since", "_format") and not lenient:
            raise InvalidInput("$export takes _type, _since and _outputFormat.")
    return _read(pairs)


def types_for(asked: Asked, released: Released) -> list[str]:
    """Return the types of an export: those asked for, or all that the token reaches.

    Raises ScopeTooSmall where one was asked for that it does not reach.
    """
    within = scopes.types_within(released.scopes, released.letters) & PARAMETERS.keys()
    if asked.types - within:
        raise ScopeTooSmall
    return sorted(asked.types or within)


def _read(pairs: Pairs) -> Asked:
    types: set[str] = set()
    since = None
    for name, value in pairs:
        if name == "_type":
            types |= set(value.split(","))
        elif name == "_since":
            since = search.nearest(_moment(name, value)[0])
    if types - PARAMETERS.keys():
        raise InvalidInput("_type names a type that is not offered.")
    return Asked(frozenset(types), since)


def _moment(name: str, value: str) -> tuple[int, int]:
    moment = reading.moment(value.replace(" ", "+"))
    if moment.start is None or moment.end is None:
        raise InvalidInput(f"{name} is no date.")
    return moment.start, moment.end


# ------------------------------------------------------------------ $docref


def docref(pairs: Pairs, *, base: str, now: datetime) -> tuple[Search, bool]:
    """Read what `$docref` is asked (US Core 6.1.0): a search, and whether only the newest count.

    Without a date only the most recent document of each kind is meant. Raises InvalidInput.
    """
    said: dict[str, str] = {}
    for name, value in pairs:
        if name not in ("patient", "type", "start", "end", "on-demand", "profile", "_format"):
            raise InvalidInput("$docref takes patient, start, end, type, on-demand and profile.")
        if name in said:
            raise InvalidInput(f"“{name}” is given twice.")
        said[name] = value
    if not said.get("patient"):
        raise InvalidInput("$docref needs the patient.")
    given = [(name, said[name]) for name in ("patient", "type") if said.get(name)]
    asked = search.read(DOCUMENT, given, base=base, now=now)
    first = _moment("start", said["start"])[0] if "start" in said else None
    last = _moment("end", said["end"])[1] if "end" in said else None
    if first is not None or last is not None:
        asked = replace(asked, tests=(*asked.tests, _of_care(first, last)))
    return replace(asked, count=search.COUNT_AT_MOST), first is None and last is None


def _of_care(first: int | None, last: int | None) -> search.Test:
    """Return the test that the care a document is about overlaps a period; else its own date."""

    def meets(resource: Document) -> bool:
        moment = next(
            (
                found
                for path in ("context.period", "date")
                for value in reading.at(resource, path)
                if (found := reading.moment_of(value)) is not None and found.start is not None
            ),
            None,
        )
        if moment is None or moment.start is None:
            return False
        end = _FAR if moment.end is None else moment.end
        return (last is None or moment.start <= last) and (first is None or end >= first)

    return meets


def parameters(body: bytes) -> list[tuple[str, str]]:
    """Return the plain parameters of a Parameters resource (R4 §2.38). Raises InvalidInput."""
    if not body:
        return []
    try:
        sent = document.loads(body)
    except ValueError as error:
        raise InvalidInput("That is no JSON.") from error
    if text(sent.get("resourceType")) != "Parameters":
        raise InvalidInput("That is no Parameters resource.")
    found = listed(sent.get("parameter"))
    if len(found) > _MOST_PARAMETERS:
        raise InvalidInput("That is more than one request can ask for.")
    return [(text(each.get("name")), _value(each)) for each in found if isinstance(each, dict)]


def _value(parameter: dict[str, Any]) -> str:
    """Return one value as a query would have it: a code with its system behind a bar."""
    for name, value in parameter.items():
        if name in ("valueCodeableConcept", "valueCoding"):
            coding = next(iter(reading.codings(value)), None)
            return "" if coding is None else f"{coding.system}|{coding.code}"
        if name.startswith("value"):
            return ("true" if value else "false") if isinstance(value, bool) else text(value)
    return ""
