"""When two records are about the same thing: yes, no, or not known from these two.

`no` is stronger than any number of yes: an entry never holds two records that say no to each other.
"""

from collections.abc import Callable, Mapping
from typing import Final

from phr.chart.ingredients import Told
from phr.chart.traits import (
    CVX,
    FINE,
    NPI,
    SHARED,
    Codes,
    Person,
    Trait,
    telling,
    vaccine_groups,
)
from phr.fhir.reading import Moment

_DAY: Final = 86_400_000
_MINUTE: Final = 60_000
_EPISODE: Final = 90 * _DAY  # two beginnings further apart are two illnesses, once one is over
Verdict = bool | None


def same(one: Trait, other: Trait) -> Verdict:
    """Return whether two records are about the same thing; None: these two do not tell."""
    if one.kind != other.kind or one.alone or other.alone or one.state != other.state:
        return False
    if one.record.remote_id == other.record.remote_id and telling(one.record):
        return _same_resource(one, other)
    return _RULES[one.kind](one, other)


def _same_resource(one: Trait, other: Trait) -> Verdict:
    """One resource by two ways (a file and a connection); what it says must not have changed."""
    if one.record.type != other.record.type:
        return None
    if one.record.body == other.record.body:
        return True
    verdict = _RULES[one.kind](one, other)
    if verdict is not None:
        return verdict
    same_time = (one.when and one.when.start) == (other.when and other.when.start)
    return (one.codes, one.names, one.value) == (other.codes, other.names, other.value) and (
        same_time
    )


# ------------------------------------------------------------------------------------ concepts


def concepts(one: Trait, other: Trait) -> Verdict:
    """Compare codes, then words; never words where codes disagree."""
    mine, theirs = one.codes or {}, other.codes or {}
    if mine is theirs and mine:  # both were read from one Element
        return True
    met = {name for name in mine if name in theirs}
    agreeing = {name for name in met if mine[name] & theirs[name]}
    named = bool(one.names & other.names)
    if (met & SHARED) - agreeing and (not agreeing & SHARED or (met & FINE) - agreeing):
        return False
    if agreeing & SHARED:
        return True
    if agreeing and (named or not one.names or not other.names or _alike(one, other)):
        return True
    if met and not agreeing:  # one list, two codes: a name that both have is not enough
        return None
    return True if named else None


def _alike(one: Trait, other: Trait) -> bool:
    """Say whether two names have a word in common (for codes of a hospital's own lists)."""
    mine = {word for name in one.names for word in name.split()}
    return any(word in mine for name in other.names for word in name.split())


def _codes_disagree(mine: Codes | None, theirs: Codes | None) -> bool:
    met = [name for name in mine or {} if name in SHARED and name in (theirs or {})]
    return bool(met) and not any((mine or {})[name] & (theirs or {})[name] for name in met)


def _elsewhere(one: Trait, other: Trait) -> bool:
    """Say whether left and right, two places of the body, two stages or kinds contradict."""
    if one.side and other.side and one.side != other.side:
        return True
    if one.site and other.site and not (one.site <= other.site or other.site <= one.site):
        return True
    if not one.finer or not other.finer:
        return False
    mine, theirs = dict(one.finer), dict(other.finer)
    return any(
        not (mine[axis].startswith(theirs[axis]) or theirs[axis].startswith(mine[axis]))
        for axis in mine.keys() & theirs.keys()
    )


# ------------------------------------------------------------------------------------ time


def _minute(found: Moment | None) -> bool:
    return found is not None and found.start is not None and found.precision >= 5


def _when(one: Moment | None, other: Moment | None) -> str:
    """Return "minute" or "day" for how two moments agree, "" where they do not."""
    if one is None or other is None or one.start is None or other.start is None:
        return ""
    if _minute(one) and _minute(other):
        return "minute" if abs(one.start - other.start) < _MINUTE else ""
    if one.precision < 3 or other.precision < 3:
        return ""
    if one.text[:10] == other.text[:10]:
        return "day"
    return "day" if one.start // _DAY == other.start // _DAY else ""


def _here(one: Trait, other: Trait) -> bool:
    return one.record.connection_id == other.record.connection_id


# ------------------------------------------------------------------------------------ lists


def _allergy(one: Trait, other: Trait) -> Verdict:
    if one.substances and other.substances:
        if one.substances != other.substances:
            return False
        return None if _named_only(one, other) else True
    return concepts(one, other)


def _named_only(one: Trait, other: Trait) -> bool:
    """Say whether the substance is known from words while the codes disagree."""
    sure = one.by_code and other.by_code
    return not sure and _codes_disagree(one.codes, other.codes)


def _statement(one: Trait, other: Trait) -> Verdict:
    return one.state == other.state


def _medicine(one: Trait, other: Trait) -> Verdict:
    if one.substances and other.substances:
        if one.substances != other.substances:
            return False
        if one.told and other.told and not _one_product(one.told, other.told):
            return False
        return None if _named_only(one, other) else True
    if one.told and other.told and not _one_product(one.told, other.told):
        return False
    return concepts(one, other)


_LOCAL: Final = frozenset({"eye", "ear", "nose", "skin", "rectal", "vaginal"})


def _one_product(one: Told, other: Told) -> bool:
    """Say whether strength, way of taking, salt and release can be those of one medicine."""
    if one.strengths and other.strengths and one.strengths != other.strengths:
        return False
    if one.route and other.route and one.route != other.route:
        return False
    salts = bool(one.salts and other.salts)
    if salts and not one.salts & other.salts:
        return False
    local = (one.route in _LOCAL or other.route in _LOCAL) and one.route != other.route
    if local and not (one.strengths and other.strengths):
        return False  # a bare name is the medicine that is taken, not its drops or its cream
    return one.slow == other.slow


def _given(one: Trait, other: Trait) -> Verdict:
    if one.ids & other.ids:
        return True
    if _medicine(one, other) is not True or _here(one, other):
        return None
    return True if _when(one.when, other.when) else None


def _problem(one: Trait, other: Trait) -> Verdict:
    verdict = concepts(one, other)
    if verdict is not True:
        return verdict
    start, later = one.when, other.when
    if start is None or later is None or start.start is None or later.start is None:
        return not _elsewhere(one, other)
    if _here(one, other):  # the date first: a list of one hospital holds many of one name
        return start.text == later.text and not _elsewhere(one, other)
    if _elsewhere(one, other) or _over_before(one, other) or _over_before(other, one):
        return False
    apart = abs(start.start - later.start) > _EPISODE
    return not (apart and (one.over or other.over))


def _over_before(one: Trait, other: Trait) -> bool:
    end, start = one.until, other.when
    return bool(end and start and end.end is not None and start.start is not None) and (
        (end.end or 0) < (start.start or 0)  # type: ignore[union-attr]
    )


def _diagnosis(one: Trait, other: Trait) -> Verdict:
    verdict = concepts(one, other)
    if verdict is not True:
        return verdict
    if _elsewhere(one, other):
        return False
    agreed = _when(one.when, other.when)
    if not agreed:
        return False
    return True if agreed == "minute" or not _here(one, other) else None


# ------------------------------------------------------------------------------------ events


def _result(one: Trait, other: Trait) -> Verdict:
    verdict = concepts(one, other)
    if verdict is False or _elsewhere(one, other):
        return False
    if one.place and other.place and not _share_a_word(one.place, other.place):
        return False
    agreed = _when(one.when, other.when)
    if not agreed or (one.value and other.value and one.value != other.value):
        return False
    if _here(one, other) or not verdict:  # what one hospital holds apart is not ours to join
        return None
    if one.ids & other.ids:  # the laboratory's own number
        return True
    return bool(one.value) if one.value == other.value else False


def _share_a_word(one: str, other: str) -> bool:
    return not set(one.split()).isdisjoint(other.split())


def _report(one: Trait, other: Trait) -> Verdict:
    verdict = concepts(one, other)
    agreed = _when(one.when, other.when)
    if verdict is False or not agreed:
        return False
    if one.value and other.value and one.value != other.value:
        return False
    if verdict is not True or _here(one, other):
        return None
    if one.ids & other.ids or (one.value and one.value == other.value):
        return True
    return True if agreed == "minute" else None


def _vaccine(one: Trait, other: Trait) -> Verdict:
    if one.lot and other.lot and one.lot != other.lot:
        return False
    if not _when(one.when, other.when) and not _one_day(one.when, other.when):
        return False
    mine = (one.codes or {}).get(CVX, frozenset())
    theirs = (other.codes or {}).get(CVX, frozenset())
    if mine and theirs:
        if mine & theirs:
            return True
        group = vaccine_groups(mine) & vaccine_groups(theirs)
        return bool(group & (mine | theirs))  # one of the two is the unspecified one
    return concepts(one, other)


def _one_day(one: Moment | None, other: Moment | None) -> bool:
    """Say whether two times are of one day: a vaccine is not given twice on one."""
    return bool(one and other and one.precision >= 3 and other.precision >= 3) and (
        one.text[:10] == other.text[:10]  # type: ignore[union-attr]
    )


def _procedure(one: Trait, other: Trait) -> Verdict:
    verdict = concepts(one, other)
    agreed = _when(one.when, other.when)
    if verdict is False or _elsewhere(one, other) or not agreed:
        return False
    return True if verdict and not _here(one, other) else None


def _visit(one: Trait, other: Trait) -> Verdict:
    if concepts(one, other) is False:
        return False
    if _here(one, other):
        return None
    agreed = _when(one.when, other.when)
    if one.ids & other.ids and (agreed or _one_day(one.when, other.when)):
        return True
    if agreed != "minute" or (one.place and other.place and one.place != other.place):
        return False
    if one.place and one.place == other.place:
        return True
    ends = (one.until and one.until.start, other.until and other.until.start)
    return True if ends[0] is not None and ends[0] == ends[1] else None


def _document(one: Trait, other: Trait) -> Verdict:
    verdict = concepts(one, other)
    if verdict is False or (one.value and other.value and one.value != other.value):
        return False
    if _here(one, other):  # one hospital may use a form more than once
        return None
    if one.value and other.value:  # the same bytes
        return True
    return True if one.ids & other.ids and verdict else None


# ------------------------------------------------------------------------------------ people


def same_person(one: Person, other: Person) -> Verdict:
    """Compare birth dates and names; None: they may be the same, somebody must say so."""
    born = one.born.startswith(other.born) or other.born.startswith(one.born)
    named = any(_one_name(mine, theirs) for mine in one.names for theirs in other.names)
    if not born:
        return False
    if named:
        return True if one.born and other.born else None  # a name alone is many people's
    return False if one.names and other.names else None


def _one_name(
    one: tuple[tuple[str, ...], tuple[str, ...]], other: tuple[tuple[str, ...], tuple[str, ...]]
) -> bool:
    (given, family), (others, surname) = one, other
    if not given or not others or not family or not surname:
        return False
    inside = set(family) <= set(surname) or set(surname) <= set(family)
    first, second = given[0], others[0]
    if len(first) == 1 or len(second) == 1:  # an initial
        return inside and first[0] == second[0]
    return inside and first == second


def _patient(one: Trait, other: Trait) -> Verdict:
    if one.person is None or other.person is None:
        return None
    born = one.person.born.startswith(other.person.born) or other.person.born.startswith(
        one.person.born
    )
    if one.ids & other.ids and born:
        return True
    return same_person(one.person, other.person)


def _professional(one: Trait, other: Trait) -> Verdict:
    if _here(one, other):
        return None
    mine, theirs = _numbers(one, NPI), _numbers(other, NPI)
    if one.person is None or other.person is None or (mine and theirs and not mine & theirs):
        return False
    if one.person.names and other.person.names and not _share_a_name(one.person, other.person):
        return False
    if mine and theirs:
        return True
    named = any(
        _one_name(first, second) for first in one.person.names for second in other.person.names
    )
    if not named:
        return None
    return True if one.ids & other.ids or one.person.reach & other.person.reach else None


def _share_a_name(one: Person, other: Person) -> bool:
    mine = {word for given, family in one.names for word in (*given, *family)}
    return any(word in mine for given, family in other.names for word in (*given, *family))


def _numbers(one: Trait, name: str) -> frozenset[str]:
    return frozenset(value for system, value in one.ids if system == name)


def _organization(one: Trait, other: Trait) -> Verdict:
    if _here(one, other):
        return None
    mine, theirs = _numbers(one, NPI), _numbers(other, NPI)
    if mine and theirs and not mine & theirs:
        return False
    if one.ids & other.ids:
        return True
    if not one.names & other.names or one.person is None or other.person is None:
        return None
    return True if one.person.reach & other.person.reach else None


_RULES: Final[Mapping[str, Callable[[Trait, Trait], Verdict]]] = {
    "allergy": _allergy,
    "diagnosis": _diagnosis,
    "document": _document,
    "given": _given,
    "location": _organization,
    "medicine": _medicine,
    "none known": _statement,
    "organization": _organization,
    "patient": _patient,
    "problem": _problem,
    "procedure": _procedure,
    "professional": _professional,
    "report": _report,
    "result": _result,
    "vaccine": _vaccine,
    "visit": _visit,
}
