"""Ingredients: which substance a code, brand, salt or name means; what a medicine's name tells.

The table is `data/ingredients.txt` (its head says where it comes from). Not here: records.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from phr.chart.plain import mapping, mappings, string

RXNORM: Final = "http://www.nlm.nih.gov/research/umls/rxnorm"
SNOMED: Final = "http://snomed.info/sct"
UNII: Final = "http://fdasis.nlm.nih.gov"
_SYSTEMS: Final = {"rx": RXNORM, "sct": SNOMED, "unii": UNII}
_LONGEST_NAME: Final = 5  # words
_MOST_WORDS: Final = 60

Ingredients = frozenset[str]


@dataclass(slots=True)
class Table:
    """Names and codes, each with the ingredients it stands for."""

    names: dict[tuple[str, ...], Ingredients] = field(default_factory=dict)
    codes: dict[tuple[str, str], Ingredients] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)


class TableError(ValueError):
    """The table contradicts itself; it is never shipped like that (tools/ingredients.py)."""


@cache
def table() -> Table:
    """Return the table that ships with the product."""
    path = files("phr.chart").joinpath("data/ingredients.txt")
    return parse(path.read_text(encoding="utf-8").splitlines())


def parse(lines: Iterable[str]) -> Table:
    """Read lines of `name | rx ... | unii ... | sct ... | other names`; raise TableError."""
    made = Table()
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 5:
            raise TableError(f"Not five columns: {line}")
        _take(made, parts[0], parts[1:4], parts[4])
    return made


def _take(made: Table, name: str, codes: Iterable[str], others: str) -> None:
    others, _, parts = others.partition("=")
    means = frozenset(part.strip() for part in parts.split("+")) if parts else frozenset({name})
    spoken = [one.strip() for one in others.split(";") if one.strip()]
    if "class" in spoken:
        made.classes.add(name)
        spoken.remove("class")
    for one in (name, *spoken):
        _put(made.names, tuple(words(one)), means)
    for column in codes:
        label, *listed = column.split() or [""]
        for code in listed:
            _put(made.codes, (_SYSTEMS[label], code), means)


def _put(into: dict[Any, Ingredients], key: Any, means: Ingredients) -> None:
    if into.setdefault(key, means) != means:
        raise TableError(f"{key} stands for {set(into[key])} and {set(means)}")


# ------------------------------------------------------------------------------------ words


@lru_cache(maxsize=16_384)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text: no case, no accents, no punctuation."""
    plain = text.casefold()
    if not plain.isascii():
        spread = unicodedata.normalize("NFKD", plain.replace("µ", "u").replace("μ", "u"))
        plain = "".join(one for one in spread if not unicodedata.combining(one))
    return tuple(_WORD.findall(plain)[:_MOST_WORDS])


_WORD = re.compile(r"[^\W_]+")


def stem(word: str) -> str:
    """Return a word without a plural ending, so that "strawberries" meets "strawberry"."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


# ------------------------------------------------------------------------------------ medicines


class Told(NamedTuple):
    """What the name of a medicine tells. `sure`: every word of it is understood."""

    ingredients: Ingredients
    sure: bool
    strengths: tuple[str, ...] = ()
    route: str = ""
    slow: bool = False  # released slowly
    salts: frozenset[str] = frozenset()


_NOTHING: Final = Told(frozenset(), sure=False)
_ROUTES: Final[Mapping[str, str]] = {
    word: route
    for route, listed in {
        "mouth": "oral tablet tablets tab tabs tbl capsule capsules cap caps caplet pill pills"
        " mouth chewable syrup elixir lozenge tabletten",
        "inhaled": "inhaler inhalation inhalant inhaled aerosol nebulizer nebulised nebulized inh"
        " mdi hfa",
        "nose": "nasal nose intranasal",
        "eye": "ophthalmic eye eyes",
        "ear": "otic ear ears",
        "skin": "cream ointment topical gel lotion foam shampoo",
        "patch": "patch patches transdermal",
        "injected": "injection injectable injections inj syringe vial pen infusion intravenous iv"
        " subcutaneous intramuscular pen injector kwikpen flexpen solostar",
        "rectal": "rectal suppository suppositories enema",
        "vaginal": "vaginal",
        "tongue": "sublingual",
    }.items()
    for word in listed.split()
}
_SLOW: Final = frozenset({"er", "xr", "xl", "sr", "cr", "la", "extended", "sustained"})
_SLOW_SALTS: Final = frozenset({("metoprolol", "succinate")})  # is made in that form only
_SALTS: Final[Mapping[str, str]] = {
    **{
        word: word
        for word in (  # noqa: SIM905  a word list
            "acetate besylate bitartrate bromide calcium carbonate chloride citrate decanoate"
            " dipropionate fumarate furoate gluconate hydrobromide hydrochloride hyclate lactate"
            " magnesium maleate mesylate nitrate phosphate potassium propionate sodium succinate"
            " sulfate tartrate xinafoate benzathine procaine disodium tromethamine"
        ).split()
    },
    "hcl": "hydrochloride",
    "sulphate": "sulfate",
    "pot": "potassium",
    "na": "sodium",
}
_NOISE: Final = frozenset(
    """a abuse act actuat actuation adult and anhydrous base by cf cfc coated containing delayed
    deterrent dihydrate dose doses drops drug ec each enteric equivalent extract film filmomhuld for
    formulation free g generic gram grams hemihydrate herbal hour hours hr human in iu kit l
    medication medicinal mcg meq metered mg microgram micrograms milligram milligrams ml mmol
    monohydrate of only or pack per pf powder prefilled product recomb recombinant regular release
    solution spray strength substance supplement suspension tan the trihydrate unit units ug use
    w with""".split()  # noqa: SIM905  a word list
)
_STARRED = re.compile(r"\*[^*]*\*")
_BASE = re.compile(r"\d+\s*\(\s*([\d.]+)\s*base\s*\)", re.IGNORECASE)
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_UNIT = (
    r"(?:mcg|micrograms?|ug|µg|μg|milligrams?|mg|grams?|gm|g|meq|mmol|international units|units?"
    r"|unt|iu|%)"
)
_STRENGTH = re.compile(
    rf"(?<![\w.])((?:{_NUMBER})(?:\s*[-/]\s*(?:{_NUMBER}))*)\s*({_UNIT})(?![a-z])"
    rf"(?:\s*(?:/|per)\s*({_NUMBER})?\s*(ml|hr?|hours?)(?![a-z]))?",
    re.IGNORECASE,
)
_SCALE: Final = {"m": Decimal("0.001"), "u": Decimal("0.001"), "g": Decimal(1000)}


@lru_cache(maxsize=8192)
def told(name: str) -> Told:
    """Return what the name of a medicine tells, as far as our table knows its words."""
    if not name or len(name) > 400:  # a name, not a leaflet
        return _NOTHING
    plain = _BASE.sub(r"\1", _STARRED.sub(" ", name))
    strengths = _strengths(plain)
    found: set[str] = set()
    routes: set[str] = set()
    salts: set[str] = set()
    slow, sure = False, True
    for word, means in _scan(words(_STRENGTH.sub(" ", plain))):
        if means is not None:
            found |= means
            slow = slow or not _SLOW.isdisjoint(word.split())
            routes |= {_ROUTES[part] for part in word.split() if part in _ROUTES}
        elif word in _ROUTES:
            routes.add(_ROUTES[word])
        elif word in _SLOW:
            slow = True
        elif word in _SALTS:
            salts.add(_SALTS[word])
        elif word not in _NOISE and not any(letter.isdigit() for letter in word):
            sure = False
    route = routes.pop() if len(routes) == 1 else ""
    slow = slow or any((one, salt) in _SLOW_SALTS for one in found for salt in salts)
    return Told(frozenset(found), sure and bool(found), strengths, route, slow, frozenset(salts))


def _scan(spoken: tuple[str, ...]) -> Iterator[tuple[str, Ingredients | None]]:
    """Yield each known name (the longest that fits) with its ingredients, each other word alone."""
    names = table().names
    place = 0
    while place < len(spoken):
        for length in range(min(_LONGEST_NAME, len(spoken) - place), 0, -1):
            means = names.get(spoken[place : place + length])
            if means is not None:
                yield " ".join(spoken[place : place + length]), means
                place += length
                break
        else:
            yield spoken[place], None
            place += 1


def _strengths(plain: str) -> tuple[str, ...]:
    """Return amounts in one spelling: milligrams for masses, "/ml" for what is dissolved."""
    found = []
    for amounts, unit, per, of in _STRENGTH.findall(plain):
        for amount in re.split(r"\s*[-/]\s*", amounts):
            value = Decimal(amount.replace(",", ""))
            name = unit.casefold()
            if name[0] in "mgu\u00b5\u03bc" and name not in ("mg", "meq", "mmol", "milligram"):
                value, name = _in_milligrams(value, name)
            name = {"milligram": "mg", "milligrams": "mg"}.get(name, name)
            if name.endswith(("unit", "units", "iu", "unt")):
                name = "unit"
            if per and Decimal(per.replace(",", "")):
                value /= Decimal(per.replace(",", ""))
            found.append(f"{value.normalize():f}{name}{'/ml' if of.casefold() == 'ml' else ''}")
    return tuple(sorted(set(found)))


def _in_milligrams(value: Decimal, name: str) -> tuple[Decimal, str]:
    if name.startswith("milli"):
        return value, "mg"
    if name.startswith("un"):
        return value, "unit"
    return value * _SCALE["g" if name[0] == "g" else "m"], "mg"


# ------------------------------------------------------------------------------------ allergens

_ALLERGIC: Final = _NOISE | frozenset(
    """allergen allergic allergies allergy disorder derivatives finding hypersensitivity
    intolerance nos other situation to""".split()  # noqa: SIM905  a word list
)


@lru_cache(maxsize=4096)
def allergen(name: str) -> tuple[Ingredients, str]:
    """Return the substances that an allergen's name means, and its bare words for the rest.

    The first is empty where any word of the name is unknown: then only the words can be compared.
    """
    found: set[str] = set()
    bare: list[str] = []
    sure = True
    for word, means in _scan(words(_STRENGTH.sub(" ", _STARRED.sub(" ", name)))):
        if means is not None:
            found |= means
            bare.append(word)
        elif word not in _ALLERGIC and word not in _ROUTES and word not in _SALTS:
            sure = sure and any(letter.isdigit() for letter in word)
            bare.append(stem(word))
    return (frozenset(found) if sure else frozenset()), " ".join(sorted(bare))


def by_codes(codes: Iterable[tuple[str, str]]) -> Ingredients:
    """Return what the codes that our table knows mean; empty where they do not agree."""
    known = table().codes
    found = {known[pair] for pair in codes if pair in known}
    return found.pop() if len(found) == 1 else frozenset()


def at_odds(concept: Any) -> tuple[str, ...]:
    """Return the displays of a concept's codings that name another substance than the first does.

    Only where both are surely known, and none is a class: a source that contradicts itself.
    """
    first: Ingredients = frozenset()
    odd: list[str] = []
    for coding in mappings(mapping(concept).get("coding")):
        shown = string(coding.get("display"))
        means = _surely((string(coding.get("system")), string(coding.get("code"))), shown)
        if not first:
            first = means
        elif means and means.isdisjoint(first):
            odd.append(shown or f"code {string(coding.get('code'))}")
    return tuple(dict.fromkeys(odd))


def _surely(pair: tuple[str, str], shown: str) -> Ingredients:
    held = table()
    heard = told(shown)
    means = held.codes.get(pair) or (heard.ingredients if heard.sure else frozenset())
    return frozenset() if means & held.classes else means
