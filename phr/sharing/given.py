"""What a provision gives, in pieces that a patient reads and takes away one by one.

Every page that says what a grant covers says it from here: the pieces together are what the rules
of `provision` cover, no more and no less, and without any of them nothing is given.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from phr import clock
from phr.fhir import kinds
from phr.sharing.provision import IDENTITY, PARTS, SUPPORTING, Provision, Rule

REST: Final = "rest"
REST_WORDS: Final = "Kinds without a list of their own, such as claims, tasks and notes of origin"
_TYPES: Final = {  # by part: every type that it touches
    key: frozenset(type_ for rule in part.rules for type_ in rule.types)
    for key, part in PARTS.items()
}
_WHOLE: Final = {  # by part: the types of which it covers every record
    key: frozenset(
        type_
        for rule in part.rules
        if not (rule.categories or rule.without)
        for type_ in rule.types
    )
    for key, part in PARTS.items()
}
# These divide all observations among them; only where all three are given they stand for the type.
_OBSERVING: Final = _TYPES["results"] | _TYPES["vitals"] | _TYPES["plans"]
_REST: Final = (
    frozenset(kinds.KINDS) - frozenset().union(*_TYPES.values()) - {*IDENTITY, *SUPPORTING}
)
# Types that a period is asked for; lists that hold for life have none.
DATED: Final = frozenset().union(*(_TYPES[key] for key, part in PARTS.items() if part.dated))

Divided = tuple[str, str, tuple[Rule, ...]]  # key, title, rules


@dataclass(frozen=True, slots=True)
class Piece:
    """One kind of thing that a grant gives: its words, and its rules, each with its period."""

    title: str
    rules: tuple[Rule, ...]
    dated: bool


# ------------------------------------------------------------------ dividing


def pieces(provision: Provision) -> dict[str, Piece]:
    """Return what a provision gives by key, in the order of PARTS, the rest behind them.

    A key is the same for the same kind of thing, whatever its period; forms carry it.
    """
    titles: dict[str, str] = {}
    found: dict[str, dict[Rule, None]] = {}
    rules = provision.rules if provision.understood else ()
    for since, until in dict.fromkeys((rule.since, rule.until) for rule in rules):
        bare = dict.fromkeys(
            replace(rule, since=None, until=None)
            for rule in rules
            if (rule.since, rule.until) == (since, until)
        )
        for key, title, those in _divided(bare):
            titles[key] = title
            mine = found.setdefault(key, {})
            mine |= dict.fromkeys(replace(rule, since=since, until=until) for rule in those)
    order = [*(key for key in PARTS if key in found), *(key for key in found if key not in PARTS)]
    return {key: Piece(titles[key], tuple(found[key]), _is_dated(key, found[key])) for key in order}


def _is_dated(key: str, rules: Collection[Rule]) -> bool:
    if key in PARTS:
        return PARTS[key].dated
    return any(type_ in DATED for rule in rules for type_ in rule.types)


def _divided(rules: Collection[Rule]) -> Iterator[Divided]:
    """Divide rules without a period: parts that stand there whole, and the others by their types.

    Some rules of a part are not the part: they go by their types, in words of their own.
    """
    whole = [key for key, part in PARTS.items() if all(rule in rules for rule in part.rules)]
    named = {rule for key in whole for rule in PARTS[key].rules}
    for key in whole:
        yield key, PARTS[key].title, PARTS[key].rules
    for rule in rules:
        if rule.categories or rule.without:
            yield from () if rule in named else (_single(rule, type_) for type_ in rule.types)
        elif rule not in named:
            yield from _by_type(rule)


def _by_type(rule: Rule) -> Iterator[Divided]:
    """Divide a rule that covers its types whole: into parts as far as they fit, then by type."""
    types, left = frozenset(rule.types), dict.fromkeys(rule.types)
    all_observing = types >= _OBSERVING
    for key, part in PARTS.items():
        if types >= _TYPES[key] and (all_observing or "Observation" not in _TYPES[key]):
            yield key, part.title, part.rules
            left = {type_: None for type_ in left if type_ not in _WHOLE[key]}
    if all_observing:
        left.pop("Observation")
    if left.keys() >= _REST:
        yield REST, REST_WORDS, (Rule(tuple(sorted(_REST))),)
        left = {type_: None for type_ in left if type_ not in _REST}
    yield from (_single(rule, type_) for type_ in left)


def _single(rule: Rule, type_: str) -> Divided:
    label = kinds.KINDS[type_].label
    only, but = sorted(rule.categories), sorted(rule.without)
    key = f"{'-'.join(label.lower().split())}:{'.'.join(only)}!{'.'.join(but)}"
    words = f"{label}{_listed(': only', only)}{_listed(', without', but)}"
    return key, words, (replace(rule, types=(type_,)),)


def _listed(word: str, categories: Collection[str]) -> str:
    said = ("other" if each == "other" else each.replace("-", " ") for each in categories)
    return f"{word} {' and '.join(said)}" if categories else ""


# ------------------------------------------------------------------ in words


def told(provision: Provision) -> tuple[tuple[str, str], ...]:
    """Return (period, what) in words: "" or "since 22 Nov 2024", then the titles in a sentence."""
    spans: dict[str, list[str]] = {}
    for piece in pieces(provision).values():
        for rule in piece.rules:
            titles = spans.setdefault(span(rule.since, rule.until), [])
            if piece.title not in titles:
                titles.append(piece.title)
    return tuple(
        (words, ", ".join(each[0].lower() + each[1:] for each in titles))
        for words, titles in sorted(spans.items(), key=lambda pair: pair[0] != "")
    )


def span(since: datetime | None, until: datetime | None) -> str:
    """Return a data period in words; "" where there is none. `until` is the first moment beyond."""
    limits = (("since", since), ("before", until))
    return " and ".join(f"{word} {clock.day_here(at)}" for word, at in limits if at is not None)


def reaching_back(provision: Provision) -> datetime | None:
    """Return how far back the dated pieces reach at most; None where one has no limit, or none."""
    limits = [
        rule.since for each in pieces(provision).values() if each.dated for rule in each.rules
    ]
    known = [each for each in limits if each is not None]
    return min(known) if known and len(known) == len(limits) else None


# ------------------------------------------------------------------ giving less


def only(provision: Provision, keys: Collection[str], since: datetime | None = None) -> Provision:
    """Return a provision with only some of its pieces left, the dated ones from `since` on."""
    every = pieces(provision)
    if every and since is None and every.keys() <= set(keys):
        return provision
    kept = dict.fromkeys(
        _later(rule, since) if piece.dated else rule
        for key, piece in every.items()
        if key in keys
        for rule in piece.rules
    )
    return replace(provision, rules=tuple(kept))


def _later(rule: Rule, since: datetime | None) -> Rule:
    return rule if since is None else replace(rule, since=max(rule.since or since, since))
