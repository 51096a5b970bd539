"""What a FHIR search asks for (R4 §3.1.1): read once, then some SQL and a test of each record.

The SQL only narrows what is looked at; the test decides, on the very bytes that would leave. What
is not understood is refused, never dropped. No I/O here: the gate runs it, inside the policy.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from phr import clock
from phr.errors import InvalidInput
from phr.fhir import document, kinds, reading
from phr.fhir.older import as_r4, may_be_older
from phr.fhir.record import Record
from phr.fhir.references import key_of
from phr.sharing.parameters import CHAINS, PARAMETERS, Parameter
from phr.sharing.provision import SUPPORTING
from phr.store.records import Clause

COUNT: Final = 50  # records on a page, unless asked
COUNT_AT_MOST: Final = 500
VALUES_AT_MOST: Final = 200  # of one parameter
CRITERIA_AT_MOST: Final = 50
REVINCLUDE: Final = "Provenance:target"
_FORMATS: Final = ("json", "application/json", "application/fhir+json", "text/json")
_TOTALS: Final = ("none", "estimate", "accurate")
_SUMMARIES: Final = ("true", "data", "text", "count", "false")
_MODIFIERS: Final = {
    "token": ("not", "missing"),
    "string": ("exact", "contains", "missing"),
    "date": ("missing",),
    "reference": ("missing",),
    "uri": ("missing",),
}
_PREFIXED: Final = re.compile(r"(eq|ne|gt|ge|lt|le|sa|eb|ap)?(\d.*)")
_NEAR: Final = 0.1  # ap: a tenth of the time between now and the value (R4 §3.1.1.4.6)
_FAR: Final = 1 << 60
_YEAR: Final = timedelta(days=367) // clock.MILLISECOND  # longer than any date but a period
_FIRST: Final = clock.to_ms(datetime.min.replace(tzinfo=UTC))  # of the instants that can be told
_LAST: Final = clock.to_ms(datetime.max.replace(tzinfo=UTC))

PATIENT: Final = "Patient"
ANY: Final = Clause("1")

Document = Mapping[str, Any]
Test = Callable[[Document], bool]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One parameter as asked: values are alternatives, criteria all count."""

    parameter: Parameter
    modifier: str
    values: tuple[str, ...]  # still escaped


@dataclass(frozen=True, slots=True)
class Facet:
    """Values of one parameter of one type by which the index (`facets`) leads to records."""

    parameter: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """What the index leads to by several values of which only a vault knows how many it has.

    `first` and `last` bound the values, `fits` chooses among those that there are; `absent` is a
    spread that has the rest.
    """

    parameter: int
    fits: Callable[[int], bool]
    first: int = -(1 << 63)
    last: int = (1 << 63) - 1
    absent: "Spread | None" = None


@dataclass(frozen=True, slots=True)
class Include:
    """An `_include`: what a reference of the results points to, of some type or of any."""

    parameter: Parameter
    target: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A reference to something that fulfils another search."""

    parameter: Parameter
    search: "Search"


@dataclass(frozen=True, slots=True)
class Search:
    """A search of one type: what must be so (`where`, `tests`, `keys`), and how to answer."""

    type: str
    asked: tuple[tuple[str, str], ...]  # as asked, for the links of a page
    where: Clause = ANY
    codes: tuple["Token", ...] = ()  # one of these the record is about, and the index knows it
    since: datetime | None = None  # bounds of its date, where the index knows them
    until: datetime | None = None  # exclusive
    tests: tuple[Test, ...] = ()
    keys: tuple[int, ...] | None = None  # of `_id`
    received: tuple[tuple["Range", ...], ...] = ()  # of `_lastUpdated`
    marks: tuple[tuple[bytes, ...], ...] = ()  # of each: one of them stands in the bytes
    dated_from: datetime | None = None  # the first date that fits, where it has no period
    facets: tuple[Facet, ...] = ()  # each of them has every record that fits
    late: Facet | None = None  # what begins before `dated_from` and may fit all the same
    spreads: tuple[Spread, ...] = ()  # as `facets`, where an index of few values has them
    chains: tuple[Chain, ...] = ()
    includes: tuple[Include, ...] = ()
    origins: bool = False  # `_revinclude=Provenance:target`
    count: int = COUNT
    order: str = "newest"
    summary: str = "false"
    elements: frozenset[str] = frozenset()
    total: bool = False
    cursor: str = ""

    def fits(self, document: Document) -> bool:
        """Tell whether a document, as it leaves, fulfils every criterion."""
        return all(test(document) for test in self.tests)

    def may_fit(self, record: Record) -> bool:
        """Tell, quickly, whether a record could fit: most that do not are never parsed."""
        body = record.body
        if b"\\" in body:  # escapes: names and codes may be written in many ways
            return True
        return self._may_end_late(record) and all(
            any(each in body for each in one) for one in self.marks
        )

    def _may_end_late(self, record: Record) -> bool:
        if self.dated_from is None or b'"start"' in record.body:
            return True
        return record.when is not None and record.when >= self.dated_from

    def admits(self, local_id: str, received: int) -> bool:
        """Tell whether `_id` and `_lastUpdated` let in what no row of the store stands for."""
        known = self.keys is None or key_of(local_id) in self.keys
        return known and all(
            any(each.meets((received, received)) for each in ranges) for ranges in self.received
        )


# ------------------------------------------------------------------ reading a query


def read(
    type_: str,
    pairs: Sequence[tuple[str, str]],
    *,
    base: str,
    now: datetime,
    lenient: bool = False,
) -> Search:
    """Read the parameters of a search of `type_`; `base` is our own FHIR base.

    Raises InvalidInput for what is not known or has no sense; `lenient` leaves out parameters that
    are not known (R4 §3.1.1.3), which `Search.asked` then tells.
    """
    known = PARAMETERS[type_]
    search = Search(type_, ())
    for name, value in pairs:
        plain, _, modifier = name.partition(":")
        if plain in _CONTROLS:
            search = _CONTROLS[plain](search, modifier, value)
        elif plain == "_id" and modifier in ("", "missing"):
            search = _with_ids(search, modifier, value)
        elif plain == "_lastUpdated" and not modifier:
            ranges = tuple(_range(each, now) for each in _values(value))
            where = search.where & _joined([_received_clause(each) for each in ranges])
            spreads = (*search.spreads, *_received_spreads(type_, ranges))
            search = replace(
                search, where=where, received=(*search.received, ranges), spreads=spreads
            )
        elif plain in known:
            search = _with(search, Criterion(known[plain], modifier, _values(value)), base, now)
        elif chained := _chained(type_, plain, value, base, now):
            search = replace(search, chains=(*search.chains, chained))
        elif lenient and "." not in plain:
            continue
        else:
            raise InvalidInput(f"The search parameter “{_short(name)}” of {type_} is not known.")
        search = replace(search, asked=(*search.asked, (name, value)))
        if len(search.asked) > CRITERIA_AT_MOST:
            raise InvalidInput("That is more than one search can ask for.")
    return search


def constraint(type_: str, name: str, value: str) -> tuple[Clause, Test]:
    """Return what one token parameter demands, for a scope (SMART App Launch 2.2 §3.1)."""
    parameter = PARAMETERS[type_][name]
    criterion = Criterion(parameter, "", _values(value))
    where = _narrowing(criterion, ()) if parameter.index else Clause("1")
    return where, _test(criterion, (), "")


def within(type_: str, keys: Iterable[str], parameter: Parameter) -> Test:
    """Return the test that a reference points to one of some "Type/id" names."""
    names = frozenset(f"{type_}/{each}" for each in keys)
    return lambda document: any(one in names for one in _references(document, parameter))


def _with(search: Search, criterion: Criterion, base: str, now: datetime) -> Search:
    kind = criterion.parameter.kind
    if criterion.modifier and criterion.modifier not in _MODIFIERS[kind]:
        raise InvalidInput(f"The modifier “{_short(criterion.modifier)}” is not known here.")
    ranges: tuple[Range, ...] = ()
    if kind == "date" and not criterion.modifier:
        ranges = tuple(_range(value, now) for value in criterion.values)
    search = replace(search, tests=(*search.tests, _test(criterion, ranges, base)))
    if kind == "token" and not criterion.modifier:
        search = _marked(search, criterion)
    if facet := _facet(criterion):
        search = replace(search, facets=(*search.facets, facet))
    if spread := _spread(criterion):
        search = replace(search, spreads=(*search.spreads, spread))
    if criterion.modifier == "not" and criterion.parameter.index == "concept":
        having = _narrowing(criterion, ())
        others = Clause(f"NOT coalesce({having.sql}, 0)", having.params)
        return replace(search, where=search.where & others)
    if criterion.modifier or not criterion.parameter.index:
        return search
    if criterion.parameter.index == "time" and len(ranges) == 1:
        return _bounded(search, criterion.parameter, ranges[0])
    tokens = tuple(_token(each) for each in criterion.values) if not ranges else ()
    by_code = criterion.parameter.index == "concept" and all(code for _, code in tokens)
    if by_code and not search.codes:
        return replace(search, codes=tokens)
    return replace(search, where=search.where & _narrowing(criterion, ranges))


def _values(value: str) -> tuple[str, ...]:
    """Return the alternatives of a value: commas part them unless escaped (R4 §3.1.1.4.0)."""
    found = tuple(re.split(r"(?<!\\),", value))
    if len(found) > VALUES_AT_MOST or not all(found):
        raise InvalidInput("A search parameter has too many values, or an empty one.")
    return found


def _plain(value: str) -> str:
    return re.sub(r"\\([\\,$|])", r"\1", value)


def _short(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:40]


def _chained(type_: str, name: str, value: str, base: str, now: datetime) -> Chain | None:
    first, dot, rest = name.partition(".")
    target = CHAINS.get((type_, first))
    if not dot or target is None or rest not in target[1]:
        return None
    return Chain(PARAMETERS[type_][first], read(target[0], [(rest, value)], base=base, now=now))


def _with_ids(search: Search, modifier: str, value: str) -> Search:
    if modifier:
        raise InvalidInput("Every record has an id.")
    found = [key for each in _values(value) if (key := key_of(_plain(each))) is not None]
    before = search.keys
    return replace(
        search, keys=tuple(found if before is None else [one for one in found if one in before])
    )


# ------------------------------------------------------------------ how to answer


def _count(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidInput("_count is a whole number.")
    if int(value) == 0:  # the same as _summary=count (R4 §3.1.1.5.3)
        return replace(search, summary="count", total=True)
    return replace(search, count=min(int(value), COUNT_AT_MOST))


def _sort(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    parameter = PARAMETERS[search.type].get(value.removeprefix("-"))
    if parameter is None or parameter.index != "time":
        raise InvalidInput(f"{search.type} cannot be sorted by that.")
    return replace(search, order="newest" if value.startswith("-") else "oldest")


def _summary(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    if value not in _SUMMARIES:
        raise InvalidInput("_summary is true, text, data, count or false.")
    return replace(search, summary=value, total=search.total or value == "count")


def _elements(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    return replace(search, elements=frozenset(_plain(each) for each in _values(value)))


def _total(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    if value not in _TOTALS:
        raise InvalidInput("_total is none, estimate or accurate.")
    return replace(search, total=search.total or value != "none")


def _include(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    type_, _, rest = value.partition(":")
    name, _, target = rest.partition(":")
    parameter = PARAMETERS[search.type].get(name)
    if type_ != search.type or parameter is None or parameter.kind != "reference":
        raise InvalidInput(f"_include={_short(value)} is not known.")
    return replace(search, includes=(*search.includes, Include(parameter, target)))


def _revinclude(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    if value != REVINCLUDE:
        raise InvalidInput(f"_revinclude={_short(value)} is not known.")
    return replace(search, origins=True)


def _format(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    if value.split(";", maxsplit=1)[0].strip().replace(" ", "+") not in _FORMATS:
        raise InvalidInput("Only JSON is spoken here.")
    return search


def _page(search: Search, modifier: str, value: str) -> Search:
    _no(modifier)
    if not value:
        raise InvalidInput("_page is empty.")
    return replace(search, cursor=value)


def _no(modifier: str) -> None:
    if modifier:
        raise InvalidInput(f"The modifier “{_short(modifier)}” is not known here.")


_CONTROLS: Final[dict[str, Callable[[Search, str, str], Search]]] = {
    "_count": _count,
    "_sort": _sort,
    "_summary": _summary,
    "_elements": _elements,
    "_total": _total,
    "_include": _include,
    "_revinclude": _revinclude,
    "_format": _format,
    "_page": _page,
}


# ------------------------------------------------------------------ narrowing, in SQL


def _marked(search: Search, criterion: Criterion) -> Search:
    """Remember the codes asked for: JSON without escapes holds them as they are."""
    codes = [code for _, code in map(_token, criterion.values)]
    if not all(code.isascii() and code for code in codes):
        return search
    return replace(search, marks=(*search.marks, tuple(code.encode() for code in codes)))


def _bounded(search: Search, parameter: Parameter, asked: "Range") -> Search:
    """Let the store's own index of dates do what it can; the test decides all the same.

    What lies outside the years 1 to 9999 bounds as the first or the last instant of them does.
    """
    since, until = _BOUNDS[asked.prefix](asked)
    if since is not None:
        at = nearest(since)
        search = replace(search, since=at if search.since is None else max(at, search.since))
    if until is not None and until <= _LAST:
        at = nearest(until)
        search = replace(search, until=at if search.until is None else min(at, search.until))
    if asked.prefix in ("gt", "ge"):
        late = Facet(_number(parameter), (_hashed(_LONG),))
        search = replace(search, dated_from=nearest(asked.start - _YEAR), late=late)
    return search


def nearest(ms: int) -> datetime:
    """Return the instant of milliseconds since 1970; the first or last there is, beyond those."""
    return clock.from_ms(min(max(ms, _FIRST), _LAST))


Bounds = tuple[int | None, int | None]
_BOUNDS: Final[dict[str, Callable[["Range"], Bounds]]] = {  # first, and the first one beyond
    "eq": lambda asked: (asked.start, asked.end + 1),
    "sa": lambda asked: (asked.end + 1, None),
    "lt": lambda asked: (None, asked.start),
    "eb": lambda asked: (None, asked.start),
    "le": lambda asked: (None, asked.end + 1),
    **dict.fromkeys(("ne", "gt", "ge", "ap"), lambda _asked: (None, None)),
}


def _narrowing(criterion: Criterion, ranges: Sequence["Range"]) -> Clause:
    """Return a condition that every record fulfilling the criterion fulfils, as sharp as can be."""
    index = criterion.parameter.index
    if index == "time":
        return _joined([_time_clause(each) for each in ranges])
    tokens = [_token(value) for value in criterion.values]
    if index == "category":
        codes = [code for _, code in tokens]
        if not all(codes):
            return Clause("1")
        return Clause("(record.category & ?) <> 0", (kinds.category_mask(codes),))
    return _joined([_concept_clause(each) for each in tokens])


def _concept_clause(token: "Token") -> Clause:
    system, code = token
    parts = [Clause("system = ?", (system,))] if system is not None else []
    parts += [Clause("code = ?", (code,))] if code else []
    inner = " AND ".join(part.sql for part in parts)
    params = tuple(value for part in parts for value in part.params)
    return Clause(f"record.concept IN (SELECT concept FROM coding WHERE {inner})", params)


def _time_clause(asked: "Range") -> Clause:
    since, until = _BOUNDS[asked.prefix](asked)
    found = Clause("record.time IS NOT NULL")
    if since is not None:
        found &= Clause("record.time >= ?", (since,))
    return found if until is None else found & Clause("record.time < ?", (until,))


def _joined(clauses: Sequence[Clause]) -> Clause:
    sql = " OR ".join(f"({clause.sql})" for clause in clauses)
    return Clause(f"({sql})", tuple(value for clause in clauses for value in clause.params))


def _received_clause(asked: "Range") -> Clause:
    """Return `_lastUpdated`: when this server took the version in, which is what it answers for."""
    column, first, last = "record.received", asked.start, asked.end
    by_prefix = {
        "eq": (f"{column} BETWEEN ? AND ?", (first, last)),
        "ne": (f"NOT ({column} BETWEEN ? AND ?)", (first, last)),
        "gt": (f"{column} > ?", (last,)),
        "sa": (f"{column} > ?", (last,)),
        "ge": (f"{column} >= ?", (first,)),
        "lt": (f"{column} < ?", (first,)),
        "eb": (f"{column} < ?", (first,)),
        "le": (f"{column} <= ?", (last,)),
        "ap": (f"{column} BETWEEN ? AND ?", (first - asked.gap, last + asked.gap)),
    }
    return Clause(*by_prefix[asked.prefix])


# ------------------------------------------------------------------ narrowing, by facets

_LONG: Final = "long"  # of a Period that lasts for years, or has no end yet
_SHAPE, _RECEIVED = "shape", "received"
_ELSEWHERE: Final = "elsewhere"  # of a reference that may lead to us when more has come


def facets_of(type_: str, leaving: Document, patient: str) -> Iterator[Facet]:
    """Yield what the index holds of a resource as it leaves: every value it can be found by.

    But for the local id of the patient, to whom nearly everything refers.
    """
    for parameter in PARAMETERS[type_].values():
        values = {_hashed(each) for each in _said(leaving, parameter) if each != patient}
        if values:
            yield Facet(_number(parameter), tuple(values))
    if type_ not in SUPPORTING:
        yield Facet(_numbered(type_, _SHAPE), (_shape(type_, leaving),))


def received_facet(type_: str, received: int) -> Facet:
    """Return what the index holds of when this server took a record in (ms)."""
    return Facet(_numbered(type_, _RECEIVED), (received,))


def _shape(type_: str, leaving: Document) -> int:
    """Return which parameters of its type a resource has any value of, a bit for each."""
    known = PARAMETERS[type_].values()
    return sum(1 << bit for bit, one in enumerate(known) if values_at(leaving, one))


def beyond(asked: Search, patient: str) -> Search:
    """Return a search without the facets that ask for the patient: of those there are no rows."""
    own = _hashed(patient)
    return replace(asked, facets=tuple(one for one in asked.facets if own not in one.values))


def _facet(criterion: Criterion) -> Facet | None:
    """Return by which values the index leads to everything that fulfils a criterion."""
    parameter = criterion.parameter
    if criterion.modifier or not _has_facets(parameter):
        return None
    said: list[str]
    if parameter.kind == "token":
        said = [code for _, code in map(_token, criterion.values)]
        if not all(said):  # a system alone
            return None
    elif parameter.kind == "reference":
        said = [_plain(each).rpartition("/")[2] for each in criterion.values] + [_ELSEWHERE]
    else:
        said = [_plain(each).partition("|")[0] for each in criterion.values]
    return Facet(_number(parameter), tuple({_hashed(each): None for each in said}))


def _spread(criterion: Criterion) -> Spread | None:
    """Return how the index leads to what has no value of a parameter, or others than some."""
    parameter = criterion.parameter
    if parameter.type in SUPPORTING or parameter.type == PATIENT:
        return None
    if criterion.modifier == "missing":
        return _having(parameter, none=criterion.values == ("true",))
    if criterion.modifier != "not" or not _has_facets(parameter):
        return None
    tokens = [_token(value) for value in criterion.values]
    whole = {_hashed(code) for system, code in tokens if code and system is None}
    absent = _having(parameter, none=True)
    return Spread(_number(parameter), lambda value: value not in whole, absent=absent)


def _having(parameter: Parameter, *, none: bool) -> Spread:
    bit = list(PARAMETERS[parameter.type]).index(parameter.name)
    number = _numbered(parameter.type, _SHAPE)
    return Spread(number, lambda value: bool(value >> bit & 1) is not none)


def _received_spreads(type_: str, ranges: Sequence["Range"]) -> Iterator[Spread]:
    if len(ranges) != 1 or type_ in SUPPORTING or type_ == PATIENT:
        return
    [asked] = ranges
    first, last = asked.span()

    def fits(value: int) -> bool:
        return asked.meets((value, value))

    yield Spread(_numbered(type_, _RECEIVED), fits, first, last)


def _has_facets(parameter: Parameter) -> bool:
    if parameter.type in SUPPORTING or parameter.type == PATIENT:
        return False  # found by way of what refers to them
    return parameter.kind in ("reference", "uri") or (
        parameter.kind == "token" and parameter.index != "concept"
    )


def _said(leaving: Document, parameter: Parameter) -> Iterator[str]:
    if parameter.kind == "date" and parameter.index == "time":
        if any(last - first > _YEAR for first, last in _moments(leaving, parameter)):
            yield _LONG
    elif not _has_facets(parameter):
        return
    elif parameter.kind == "token":
        for value in values_at(leaving, parameter):
            yield from (code for _, code in _tokens(value, parameter) if code)
    elif parameter.kind == "reference":
        for said in _references(leaving, parameter):
            yield said.rpartition("/")[2]
            if ":" in said:
                yield _ELSEWHERE
    else:
        for said in values_at(leaving, parameter):
            yield str(said).partition("|")[0]


@lru_cache(maxsize=4096)
def _hashed(text: str) -> int:
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big", signed=True)


def _number(parameter: Parameter) -> int:
    return _numbered(parameter.type, parameter.name)


@lru_cache(maxsize=512)
def _numbered(type_: str, name: str) -> int:
    named = f"{type_}.{name}".encode()
    return int.from_bytes(blake2b(named, digest_size=4).digest(), "big")


# ------------------------------------------------------------------ testing a document


def _test(criterion: Criterion, ranges: Sequence["Range"], base: str) -> Test:
    parameter = criterion.parameter
    if criterion.modifier == "missing":
        return _missing(criterion)
    if parameter.kind == "token":
        return _token_test(criterion)
    if parameter.kind == "date":
        return lambda document: any(
            each.meets(moment) for moment in _moments(document, parameter) for each in ranges
        )
    if parameter.kind == "reference":
        wanted = frozenset(_plain(each).removeprefix(f"{base}/") for each in criterion.values)
        return lambda document: any(
            one in wanted or one.rpartition("/")[2] in wanted
            for one in _references(document, parameter)
        )
    if parameter.kind == "uri":
        addresses = [_plain(each) for each in criterion.values]
        return lambda document: any(
            one == each or ("|" not in each and one.partition("|")[0] == each)
            for one in values_at(document, parameter)
            for each in addresses
        )
    return _string_test(criterion)


def _missing(criterion: Criterion) -> Test:
    if criterion.values not in (("true",), ("false",)):
        raise InvalidInput(":missing is true or false.")
    wanted = criterion.values == ("true",)
    return lambda document: (not values_at(document, criterion.parameter)) is wanted


def values_at(document: Document, parameter: Parameter) -> list[Any]:
    """Return every value that a resource has at the places of a parameter."""
    return [value for path in parameter.paths for value in _at(document, path)]


def _at(document: Document, path: str) -> list[Any]:
    if not path.startswith("extension="):
        return reading.at(document, path)
    url = path.removeprefix("extension=")
    return [
        each["valueDateTime"]
        for each in reading.at(document, "extension")
        if isinstance(each, dict) and each.get("url") == url and "valueDateTime" in each
    ]


Token = tuple[str | None, str]  # (None: any system, "": none), (code, "": any)


def _token(value: str) -> Token:
    parts = re.split(r"(?<!\\)\|", value)
    if len(parts) > 2 or not any(parts):
        raise InvalidInput("A token is code, system|code, |code or system|.")
    if len(parts) == 1:
        return None, _plain(parts[0])
    return _plain(parts[0]), _plain(parts[1])


def _token_test(criterion: Criterion) -> Test:
    wanted = [_token(value) for value in criterion.values]
    parameter = criterion.parameter
    plainly = criterion.modifier != "not"

    def meets(document: Document) -> bool:
        tokens = [
            token for value in values_at(document, parameter) for token in _tokens(value, parameter)
        ]
        return any(_same(token, each) for token in tokens for each in wanted) is plainly

    return meets


def _same(token: tuple[str, str], wanted: Token) -> bool:
    system, code = wanted
    return (system is None or token[0] == system) and (not code or token[1] == code)


def _tokens(value: Any, parameter: Parameter) -> Iterator[tuple[str, str]]:
    """Yield (system, code) of a code, a Coding, a CodeableConcept or an Identifier."""
    if not isinstance(value, dict):
        yield parameter.system, "true" if value is True else reading.text(value)
    elif "value" in value:
        yield reading.text(value.get("system")), reading.text(value["value"])
    else:
        for coding in reading.codings(value):
            yield coding.system, coding.code


def _references(document: Document, parameter: Parameter) -> Iterator[str]:
    for value in values_at(document, parameter):
        said = value.get("reference") if isinstance(value, dict) else None
        if isinstance(said, str):
            yield said


def referred(document: Document, parameter: Parameter) -> list[str]:
    """Return what the references of a parameter say."""
    return list(_references(document, parameter))


# ------------------------------------------------------------------ strings


def _string_test(criterion: Criterion) -> Test:
    parameter = criterion.parameter
    exact, inside = criterion.modifier == "exact", criterion.modifier == "contains"
    values = [_plain(value) for value in criterion.values]
    folded = [_folded(value) for value in values]

    def meets(document: Document) -> bool:
        words = [word for value in values_at(document, parameter) for word in _strings(value)]
        if exact:
            return any(word in values for word in words)
        plain = [_folded(word) for word in words]
        if inside:
            return any(each in word for word in plain for each in folded)
        return any(word.startswith(each) for word in plain for each in folded)

    return meets


def _strings(value: Any) -> Iterator[str]:
    """Yield the parts of a string, HumanName or Address that a search may meet."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("use", "type", "period", "extension", "id"):
                for each in reading.listed(inner):
                    if isinstance(each, str):
                        yield each


def _folded(text: str) -> str:
    """Return text without case and accents (R4 §3.1.1.4.8)."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))


# ------------------------------------------------------------------ dates


@dataclass(frozen=True, slots=True)
class Range:
    """A date as asked: prefix, first and last millisecond, and what "about" adds on both sides."""

    prefix: str
    start: int
    end: int
    gap: int = 0

    def span(self) -> tuple[int, int]:
        """Return the first and the last instant that this can mean."""
        spans = {
            "eq": (self.start, self.end),
            "gt": (self.end + 1, _FAR),
            "sa": (self.end + 1, _FAR),
            "ge": (self.start, _FAR),
            "lt": (-_FAR, self.start - 1),
            "eb": (-_FAR, self.start - 1),
            "le": (-_FAR, self.end),
            "ap": (self.start - self.gap, self.end + self.gap),
        }
        return spans.get(self.prefix, (-_FAR, _FAR))

    def meets(self, moment: tuple[int, int]) -> bool:
        """Compare with (first, last) of a record, both inclusive (R4 §3.1.1.4.6)."""
        first, last = moment
        inside = self.start <= first and last <= self.end
        answers: dict[str, bool] = {
            "eq": inside,
            "ne": not inside,
            "gt": last > self.end,
            "ge": inside or last > self.end,
            "lt": first < self.start,
            "le": inside or first < self.start,
            "sa": first > self.end,
            "eb": last < self.start,
            "ap": first <= self.end + self.gap and last >= self.start - self.gap,
        }
        return answers[self.prefix]


def _range(value: str, now: datetime) -> Range:
    match = _PREFIXED.fullmatch(_plain(value).replace(" ", "+"))
    moment = reading.moment(match[2]) if match else None
    if match is None or moment is None or moment.start is None or moment.end is None:
        raise InvalidInput(f"“{_short(value)}” is no date.")
    gap = int(abs(clock.to_ms(now) - moment.start) * _NEAR)
    return Range(match[1] or "eq", moment.start, moment.end, gap)


def _moments(document: Document, parameter: Parameter) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of every date, Period or Timing; an open end lasts for ever.

    A Period that tells only its end counts as that moment, as everywhere in this house.
    """
    for value in values_at(document, parameter):
        moment = reading.moment_of(value)
        if moment is not None and moment.start is not None:
            open_end = isinstance(value, dict) and not reading.text(value.get("end"))
            last = _FAR if open_end and "start" in value else moment.end
            yield moment.start, moment.start if last is None else last


def fits(tests: Sequence[Test], type_: str, body: bytes) -> bool:
    """Test a resource as it leaves; one of an older release is none of R4's (DESIGN §6)."""
    if not tests and not may_be_older(type_, body):
        return True
    parsed = document.parse(body)
    return as_r4(parsed) is parsed and all(test(parsed) for test in tests)


def pointed(leaving: Sequence[tuple[Record, bytes]], asked: Search) -> set[str]:
    """Return the "Type/id" names to which records point by the `_include`s of a search."""
    found: set[str] = set()
    for _, body in leaving:
        parsed = document.parse(body)
        for include in asked.includes:
            for name in referred(parsed, include.parameter):
                if include.target in ("", name.partition("/")[0]):
                    found.add(name)
    return found
