"""What a grant covers, compiled once into a piece of SQL and into a check of each record.

Both say the same: the SQL keeps hidden records out of counts, order and pages, the check stands
behind it. Whatever is not understood gives nothing. No I/O here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import reduce
from itertools import chain
from operator import or_
from typing import Any

from phr import clock
from phr.fhir import kinds, reading
from phr.fhir.check import Note
from phr.fhir.labels import Label
from phr.fhir.record import Record
from phr.fhir.references import key_of
from phr.store.records import Clause


class Action(StrEnum):
    """What a recipient may do: with what is released, or send something to the patient."""

    VIEW = "view"
    PRINT = "print"
    DOWNLOAD = "download"
    CONTRIBUTE = "contribute"  # it waits in the inbox (`sharing.inbox`); never given by itself


READING = frozenset({Action.VIEW, Action.PRINT, Action.DOWNLOAD})


@dataclass(frozen=True, slots=True)
class Permit:
    """Yes."""


PERMIT = Permit()


@dataclass(frozen=True, slots=True)
class Deny:
    """No, and why; the reason is for the log, never for a recipient."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One permit (R4 `Consent.provision.provision`, type permit): types, categories, data period.

    `categories` empty: all; a record in one of `without` is not covered. `since` is inclusive,
    `until` exclusive; partial dates and periods match on overlap, and where a limit is set an
    undated record is not covered (sharing.md §4.2.3).
    """

    types: tuple[str, ...]
    categories: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Provision:
    """What is shared: any of `rules`, from any of `connections` (empty: all), and no more.

    `labels` are the sensitive labels the patient named; `excluded` and `ticked` are local ids:
    records taken away, and private records that the patient ticked one by one.
    """

    rules: tuple[Rule, ...] = ()
    labels: Label = Label.NONE
    actions: frozenset[Action] = frozenset({Action.VIEW})
    connections: tuple[int, ...] = ()
    excluded: frozenset[str] = frozenset()
    ticked: frozenset[str] = frozenset()
    understood: bool = True


@dataclass(frozen=True, slots=True)
class Compiled:
    """A provision ready for use: `where` is `counted`, `supporting` and identity together.

    `supporting` are practitioners, places and medications, which leave only when referred to.
    """

    where: Clause
    counted: Clause
    supporting: Clause
    permits: Callable[["Record | Facts"], Permit | Deny] = field(repr=False)
    grants_something: bool
    edges: tuple[datetime, ...] = ()  # where a period of any rule begins or ends
    single: frozenset[str] = frozenset()  # local ids that are decided about one by one
    by_content: frozenset[str] = frozenset()  # types of which only a whole record tells enough


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides about a record, read from its bytes before; the names are those of Record.

    `last` is the last instant of its time, `categories` are the bits of its own words.
    """

    type: str
    local_id: str
    connection_id: int
    labels: Label
    withdrawn: bool
    categories: int
    when: datetime | None
    last: datetime


# Who it is about; exempt from periods.
IDENTITY = ("Patient",)
# Released only when a released record points at them: on their own they would tell of hidden ones.
SUPPORTING = ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication")

NOTHING = Provision(understood=False)
NEVER = datetime.min.replace(tzinfo=UTC)


# ------------------------------------------------------------------ compiling


def compiled(provision: Provision) -> Compiled:
    """Compile a provision: the SQL over columns of `record`, and the same as a check."""
    if not (provision.understood and provision.rules):
        nothing = Clause("0", ())
        return Compiled(nothing, nothing, nothing, _refuse, grants_something=False)
    guard = _guard(provision)
    covered = [_rule_clause(rule) for rule in _merged(provision.rules)]
    named = _types_clause(IDENTITY + SUPPORTING)
    return Compiled(
        where=_all(guard, _any(named, *covered)),
        counted=_all(guard, _any(*covered)),
        supporting=_all(guard, _types_clause(SUPPORTING)),
        permits=_check_of(provision),
        grants_something=True,
        edges=tuple(sorted({at for rule in provision.rules for at in _limits(rule)})),
        single=provision.excluded | provision.ticked,
    )


def permits(provision: Provision, record: Record) -> Permit | Deny:
    """Check one record against a provision. The default is Deny."""
    if not (provision.understood and provision.rules):
        return Deny("not understood, or nothing is granted")
    return _check_of(provision)(record)


def _limits(rule: Rule) -> Iterator[datetime]:
    yield from (at for at in (rule.since, rule.until) if at is not None)


def _check_of(provision: Provision) -> Callable[[Record | Facts], Permit | Deny]:
    """Return the check of a record, with the rules sorted by type: it is made for every record."""
    by_type: dict[str, list[_Bounds]] = {}
    for rule in provision.rules:
        bounds = _Bounds(
            kinds.category_mask(rule.categories),
            kinds.category_mask(rule.without),
            rule.since,
            rule.until,
        )
        for type_ in rule.types:
            by_type.setdefault(type_, []).append(bounds)
    named = {*IDENTITY, *SUPPORTING}

    def check(record: Record | Facts) -> Permit | Deny:
        reason = objection(provision, record)
        if reason:
            return Deny(reason)
        if record.type in named or _is_covered(by_type.get(record.type, ()), record):
            return PERMIT
        return Deny("no rule covers it")

    return check


def _refuse(_record: Record | Facts) -> Permit | Deny:
    return Deny("not understood, or nothing is granted")


def objection(provision: Provision, record: Record | Facts) -> str | None:
    """Return why a record stays whatever rule covers it, or None."""
    if record.withdrawn:
        return "withdrawn by its source"
    if record.local_id in provision.excluded:
        return "taken away by the patient"
    if provision.connections and record.connection_id not in provision.connections:
        return "from another place"
    return _objection_to_labels(provision, record) if record.labels else None


def _objection_to_labels(provision: Provision, record: Record | Facts) -> str | None:
    if record.labels & Label.PRIVATE and record.local_id not in provision.ticked:
        return "private"
    if record.labels & ~(provision.labels | Label.PRIVATE):
        return "sensitive, and the label is not named"
    return None


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What a rule asks of a record of one of its types; the masks are 0 where all will do."""

    categories: int
    without: int
    since: datetime | None
    until: datetime | None


def _is_covered(rules: Sequence[_Bounds], record: Record | Facts) -> bool:
    bits = None
    for rule in rules:
        if rule.categories or rule.without:
            bits = _categories(record) if bits is None else bits
            if bits & rule.without or (rule.categories and not bits & rule.categories):
                continue
        if _is_within(rule, record):
            return True
    return False


def _categories(record: Record | Facts) -> int:
    return record.categories if isinstance(record, Facts) else reading.categories(record.document)


def _is_within(rule: _Bounds, record: Record | Facts) -> bool:
    if rule.since is None and rule.until is None:
        return True
    if record.when is None:
        return False
    return (rule.since is None or rule.since <= _last(record)) and (
        rule.until is None or record.when < rule.until
    )


def _last(record: Record | Facts) -> datetime:
    """Return the last instant of a record's time: a partial date or a period overlaps a limit."""
    if isinstance(record, Facts):
        return record.last
    moment = reading.when(record.document)
    end = None if moment is None else moment.end
    return clock.from_ms(end) if end is not None else record.when or NEVER


def facts(record: Record) -> Facts:
    """Read what decides about a record, for later; labels and withdrawal may change."""
    return Facts(
        record.type,
        record.local_id,
        record.connection_id,
        record.labels,
        record.withdrawn,
        _categories(record),
        record.when,
        _last(record),
    )


# ------------------------------------------------------------------ SQL


def _guard(provision: Provision) -> Clause:
    """Return what every released record must fulfil, whatever rule covers it."""
    allowed = int(provision.labels | Label.PRIVATE)
    parts = [
        Clause("(record.flags & ?) = 0", (int(Note.WITHDRAWN),)),
        Clause("(record.labels & ?) = 0", (~allowed,)),
        _any(
            Clause("(record.labels & ?) = 0", (int(Label.PRIVATE),)),
            among("record.key", _keys(provision.ticked)),
        ),
        _not(among("record.key", _keys(provision.excluded))),
    ]
    if provision.connections:
        parts.append(among("record.connection", provision.connections))
    return _all(*parts)


def _merged(rules: Iterable[Rule]) -> Iterator[Rule]:
    """Yield rules with those that differ in their types only as one.

    Without the types that leave beside others: what counts is in the query of every record.
    """
    types: dict[Rule, list[str]] = {}
    for rule in rules:
        own = [type_ for type_ in rule.types if type_ not in IDENTITY + SUPPORTING]
        types.setdefault(replace(rule, types=()), []).extend(own)
    yield from (replace(rule, types=tuple(found)) for rule, found in types.items())


def _rule_clause(rule: Rule) -> Clause:
    parts = [_types_clause(rule.types)]
    for names, wanted in ((rule.categories, "<>"), (rule.without, "=")):
        if names:
            mask = kinds.category_mask(names)
            parts.append(Clause(f"(COALESCE(record.category, 0) & ?) {wanted} 0", (mask,)))
    if rule.since is not None:  # NULL compares with nothing: undated records stay out
        since = clock.to_ms(rule.since)
        parts.append(Clause("COALESCE(record.time_end, record.time) >= ?", (since,)))
    if rule.until is not None:
        parts.append(Clause("record.time < ?", (clock.to_ms(rule.until),)))
    return _all(*parts)


def _countable() -> Clause:
    """Return what a patient would call a record of theirs: not supporting, not withdrawn."""
    withdrawn = Clause("(record.flags & ?) = 0", (int(Note.WITHDRAWN),))
    return _all(withdrawn, _not(_types_clause(IDENTITY + SUPPORTING)))


def _types_clause(types: Iterable[str]) -> Clause:
    return among("record.type", sorted({kinds.KINDS[each].number for each in types}))


def among(column: str, values: Sequence[int]) -> Clause:
    """Return that a column holds one of some numbers; nothing fulfils it where there are none."""
    if not values:
        return Clause("0", ())
    return Clause(f"{column} IN ({', '.join('?' * len(values))})", tuple(values))


def _all(*clauses: Clause) -> Clause:
    return _joined(" AND ", clauses)


def _any(*clauses: Clause) -> Clause:
    return _joined(" OR ", clauses)


def _joined(word: str, clauses: Sequence[Clause]) -> Clause:
    sql = word.join(f"({clause.sql})" for clause in clauses)
    return Clause(sql, tuple(chain.from_iterable(clause.params for clause in clauses)))


def _not(clause: Clause) -> Clause:
    return Clause(f"NOT ({clause.sql})", clause.params)


def _keys(local_ids: Iterable[str]) -> list[int]:
    return sorted(key for each in local_ids if (key := key_of(each)) is not None)


COUNTABLE = _countable()

# ------------------------------------------------------------------ as JSON, and comparing


def to_json(provision: Provision) -> dict[str, Any]:
    """Return a provision as it is kept with a grant."""
    return {
        "rules": [_rule_json(rule) for rule in provision.rules],
        "labels": [label.name for label in Label if label in provision.labels],
        "actions": sorted(provision.actions),
        "connections": list(provision.connections),
        "excluded": sorted(provision.excluded),
        "ticked": sorted(provision.ticked),
    }


def from_json(value: Any) -> Provision:
    """Read a kept provision. Whatever is not understood in it makes it grant nothing."""
    try:
        return _read(value)
    except (TypeError, ValueError, KeyError, AttributeError):
        return NOTHING


def _rule_json(rule: Rule) -> dict[str, Any]:
    period = {"since": rule.since, "until": rule.until}
    return {
        "types": list(rule.types),
        "categories": list(rule.categories),
        "without": list(rule.without),
        **{name: None if at is None else at.isoformat() for name, at in period.items()},
    }


def _read(value: Mapping[str, Any]) -> Provision:
    return Provision(
        rules=tuple(_read_rule(**rule) for rule in _list(value["rules"])),
        labels=_labels(_list(value["labels"])),
        actions=frozenset(Action(each) for each in _list(value["actions"])),
        connections=tuple(int(each) for each in _list(value["connections"])),
        excluded=frozenset(_local_ids(value["excluded"])),
        ticked=frozenset(_local_ids(value["ticked"])),
        understood=set(value) == _NAMES,
    )


_NAMES = {"rules", "labels", "actions", "connections", "excluded", "ticked"}


def _read_rule(
    types: Any, categories: Any, without: Any, since: str | None, until: str | None
) -> Rule:
    return Rule(
        tuple(_known(_list(types), kinds.KINDS)),
        tuple(_known(_list(categories), kinds.CATEGORIES)),
        tuple(_known(_list(without), kinds.CATEGORIES)),
        _moment(since),
        _moment(until),
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(text)
    return at


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(value)
    return value


def _known(names: list[Any], among: Mapping[str, Any]) -> list[str]:
    for name in names:
        if name not in among:
            raise ValueError(name)
    return names


def _local_ids(value: Any) -> list[str]:
    found = _list(value)
    if any(key_of(each) is None for each in found):
        raise ValueError(found)
    return found


def _labels(names: list[Any]) -> Label:
    return reduce(or_, (Label[name] for name in names), Label.NONE)


def within(inner: Provision, outer: Provision) -> bool:
    """Say whether `inner` shares nothing that `outer` does not share."""
    return (
        inner.understood
        and outer.understood
        and inner.labels | outer.labels == outer.labels
        and inner.actions <= outer.actions
        and inner.excluded >= outer.excluded
        and inner.ticked <= outer.ticked
        and _connections_within(inner.connections, outer.connections)
        and all(any(_rule_within(rule, wide) for wide in outer.rules) for rule in inner.rules)
    )


def _connections_within(inner: Sequence[int], outer: Sequence[int]) -> bool:
    return not outer or (bool(inner) and set(inner) <= set(outer))


def _rule_within(rule: Rule, wide: Rule) -> bool:
    return (
        set(rule.types) <= set(wide.types)
        and (
            not wide.categories
            or (bool(rule.categories) and set(rule.categories) <= set(wide.categories))
        )
        and set(rule.without) >= set(wide.without)
        and (wide.since is None or (rule.since is not None and rule.since >= wide.since))
        and (wide.until is None or (rule.until is not None and rule.until <= wide.until))
    )


# ------------------------------------------------------------------ roles


@dataclass(frozen=True, slots=True)
class Share:
    """One kind of thing a patient can tick: its words, and the rules without a period."""

    title: str
    rules: tuple[Rule, ...]
    dated: bool = True  # a preset's period applies; lists that hold for life have none


_NOT_TESTS = ("vital-signs", "social-history", "survey", "sdoh", "functional-status",
              "disability-status", "cognitive-status", "care-experience-preference",
              "treatment-intervention-preference")  # fmt: skip

PARTS: dict[str, Share] = {
    "allergies": Share("Allergies", (Rule(("AllergyIntolerance",)),), dated=False),
    "medicines": Share(
        "Medicines",
        (
            Rule(
                (
                    "MedicationRequest",
                    "MedicationStatement",
                    "MedicationDispense",
                    "MedicationAdministration",
                    "MedicationOrder",
                )
            ),
        ),
        dated=False,
    ),
    "problems": Share(
        "Problems and family history",
        (Rule(("Condition", "FamilyMemberHistory", "Flag", "DetectedIssue")),),
        dated=False,
    ),
    "vaccines": Share(
        "Vaccines", (Rule(("Immunization", "ImmunizationRecommendation")),), dated=False
    ),
    "implants": Share(
        "Implants and devices", (Rule(("Device", "DeviceUseStatement")),), dated=False
    ),
    "results": Share(
        "Test results and reports",
        (
            Rule(("DiagnosticReport", "ImagingStudy", "Specimen")),
            Rule(("Observation",), without=_NOT_TESTS),
        ),
    ),
    "vitals": Share("Vital signs", (Rule(("Observation",), ("vital-signs",)),)),
    "visits": Share("Visits", (Rule(("Encounter", "Appointment", "EpisodeOfCare")),)),
    "procedures": Share(
        "Procedures and orders",
        (
            Rule(
                (
                    "Procedure",
                    "ServiceRequest",
                    "DiagnosticOrder",
                    "ProcedureRequest",
                    "ReferralRequest",
                )
            ),
        ),
    ),
    "letters": Share(
        "Letters and documents",
        (Rule(("DocumentReference", "Composition", "QuestionnaireResponse", "Media")),),
    ),
    "plans": Share(
        "Care plans and goals",
        (Rule(("CarePlan", "Goal")), Rule(("Observation",), _NOT_TESTS[1:])),
    ),
    "people": Share(
        "Care team, family and insurance",
        (Rule(("CareTeam", "RelatedPerson", "Coverage")),),
        dated=False,
    ),
    "directives": Share(
        "Advance directives",
        (
            Rule(("Consent",)),
            Rule(("DocumentReference", "Observation"), ("advance-directive",)),
        ),
        dated=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Role:
    """A preset of provision and actions, in words that both sides read."""

    title: str
    words: str
    parts: tuple[str, ...]
    days: int | None = None  # how far back the dated parts go; None: all
    actions: frozenset[Action] = READING
    offered: bool = True  # on the share page


_BASICS = ("allergies", "medicines", "problems")
_SUMMARY = (*_BASICS, "vaccines", "implants", "people", "plans")
_DATED = ("results", "vitals", "visits", "procedures", "letters")
_EMERGENCY = (*_BASICS, "implants", "people", "directives")
_EMERGENCY_WORDS = (
    "allergies, medicines, problems and family history, implants and devices, advance directives,"
    " and care team, family and insurance"
)
_YEAR = 365

ROLES: dict[str, Role] = {
    "primary": Role(
        "For a new doctor",
        "Allergies, medicines, problems, vaccines, and the last 2 years of results and letters",
        (*_SUMMARY, *_DATED),
        2 * _YEAR,
    ),
    "specialist": Role(
        "For a specialist",
        "The same with results, visits and letters of the last 5 years",
        (*_SUMMARY, *_DATED),
        5 * _YEAR,
    ),
    "emergency": Role(
        "Emergency",
        f"Only {_EMERGENCY_WORDS}",
        _EMERGENCY,
    ),
    "pharmacist": Role(
        "For a pharmacist", "Allergies, medicines, problems and vaccines", (*_BASICS, "vaccines")
    ),
    "results": Role("Only test results", "Every result with its range and report", ("results",)),
    "chosen": Role("I choose", "The kinds of records you tick, and how far back they go", ()),
    "card": Role(
        "Emergency card",
        f"Whoever holds the card, for an hour: {_EMERGENCY_WORDS}",
        _EMERGENCY,
        actions=frozenset({Action.VIEW}),
        offered=False,
    ),
    "contributor": Role(
        "May add to the record",
        "Allergies and medicines, so that what they add is safe",
        ("allergies", "medicines"),
        actions=frozenset({Action.VIEW}),
        offered=False,
    ),
    "app": Role(
        "An app",
        "All kinds of records",
        tuple(PARTS),
        actions=frozenset({Action.VIEW, Action.DOWNLOAD}),
        offered=False,
    ),
}


def rules_for(parts: Iterable[str], *, days: int | None, now: datetime) -> tuple[Rule, ...]:
    """Return the rules of some parts; the dated ones reach `days` back from now (None: all)."""
    since = None if days is None else now - timedelta(days=days)
    return tuple(
        replace(rule, since=since) if PARTS[part].dated else rule
        for part in parts
        for rule in PARTS[part].rules
    )


def preset(role: str, *, now: datetime) -> Provision:
    """Return the provision of a role as of now, without any sensitive label."""
    given = ROLES[role]
    return Provision(rules_for(given.parts, days=given.days, now=now), actions=given.actions)


# What a patient is asked about, in words, and the labels behind it.
SENSITIVE: dict[str, tuple[str, Label]] = {
    "mental": ("Mental health", Label.PSY),
    "sexual": ("Sexual health and pregnancy", Label.SEX | Label.STD),
    "hiv": ("HIV", Label.HIV),
    "substance": ("Alcohol and drug use", Label.ETH | Label.ETHUD | Label.OPIOIDUD),
    "violence": ("Violence at home or sexual violence", Label.SDV),
    "genetic": ("Genetic conditions", Label.GDIS),
    "restricted": ("Marked as restricted by a hospital", Label.R | Label.V),
}
