"""Queries nobody tuned for: names of a catalogue as people mistype, shorten and turn them round.

Seeded, made at test time from whatever catalogue is there. Each has the name it was made from; a
hit is right when it goes by the same name (company forms aside): 2,205 names belong to several.
"""

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lighthouse.catalogue import Organization
from lighthouse.merge import name_key

SHORTER = {
    "saint": "st", "hospital": "hosp", "center": "ctr", "medical": "med", "associates": "assoc",
    "university": "univ", "pediatrics": "peds", "orthopedics": "ortho", "dermatology": "derm",
    "group": "grp", "services": "svcs", "and": "&", "regional": "reg", "memorial": "mem",
    "children's": "childrens", "women's": "womens", "healthcare": "health care",
}  # fmt: skip
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
BESIDE = {
    letter: row[max(0, at - 1) : at] + row[at + 1 : at + 2]
    for row in ROWS
    for at, letter in enumerate(row)
}
PLAIN = {"e": "é", "o": "ö", "a": "á", "n": "ñ"}


@dataclass(frozen=True, slots=True)
class Made:
    """A query, how it was made, and the key of the name it was made from."""

    kind: str
    text: str
    key: str


def typo(chance: random.Random, one: Organization) -> str:
    """One slip in the longest word: two letters swapped, one missing, doubled, or another."""
    words = one.name.split()
    at = max(range(len(words)), key=lambda n: len(words[n]))
    word = words[at]
    place = chance.randrange(1, len(word) - 1)
    words[at] = chance.choice(
        [
            word[:place] + word[place + 1] + word[place] + word[place + 2 :],
            word[:place] + word[place + 1 :],
            word[:place] + word[place] + word[place:],
            word[:place] + chance.choice("aeiorst") + word[place + 1 :],
        ]
    )
    return " ".join(words).lower()


def shortened(_chance: random.Random, one: Organization) -> str:
    """Abbreviations: St, Ctr, Hosp."""
    return " ".join(SHORTER.get(word, word) for word in one.name.lower().split())


def turned(chance: random.Random, one: Organization) -> str:
    """The words in another order."""
    words = one.name.lower().split()
    chance.shuffle(words)
    return " ".join(words)


def begun(_chance: random.Random, one: Organization) -> str:
    """While it is being typed: the last word is half there."""
    *first, last = one.name.split()
    return " ".join([*first, last[: max(1, (len(last) + 1) // 2)]])


def placed(_chance: random.Random, one: Organization) -> str:
    """City and state behind it."""
    return f"{one.name} {one.city} {one.state}".lower()


def zipped(_chance: random.Random, one: Organization) -> str:
    """The ZIP behind it."""
    return f"{one.name} {one.zip}".strip()


def bare(_chance: random.Random, one: Organization) -> str:
    """No punctuation, no capitals."""
    return re.sub(r"[^a-z0-9 ]", "", one.name.lower())


def accented(_chance: random.Random, one: Organization) -> str:
    """Diacritics where the list has none."""
    return "".join(PLAIN.get(letter, letter) for letter in one.name)


def asked(_chance: random.Random, one: Organization) -> str:
    """As people ask a search machine."""
    return f"mychart login for {one.name}"


def beside(chance: random.Random, one: Organization) -> str:
    """The finger lands on the key beside the right one, in the longest word."""
    words = one.name.lower().split()
    at = max(range(len(words)), key=lambda n: len(words[n]))
    word = words[at]
    places = [n for n in range(1, len(word)) if word[n] in BESIDE] or [0]
    place = chance.choice(places)
    words[at] = (
        word[:place] + chance.choice(BESIDE.get(word[place], word[place])) + word[place + 1 :]
    )
    return " ".join(words)


def together(_chance: random.Random, one: Organization) -> str:
    """The first two words in one."""
    first, second, *rest = one.name.lower().split()
    return " ".join([first + second, *rest])


def lacking(chance: random.Random, one: Organization) -> str:
    """One of at least four words left out, but neither of the two longest."""
    words = one.name.lower().split()
    longest = sorted(range(len(words)), key=lambda at: len(words[at]))[-2:]
    weak = [at for at in range(len(words)) if at not in longest]
    if len(words) >= 4:
        del words[chance.choice(weak)]
    return " ".join(words)


def questioned(chance: random.Random, one: Organization) -> str:
    """As a whole sentence."""
    before = ("how do i get my records from", "where can i find test results of", "looking for")
    return f"{chance.choice(before)} {one.name} please"


def of_the_state(_chance: random.Random, one: Organization) -> str:
    """The state behind it, in small letters as phones write."""
    return f"{one.name} {one.state}".lower()


def town_first(_chance: random.Random, one: Organization) -> str:
    """The town before it."""
    return f"{one.city} {one.name}".lower().strip()


def older(_chance: random.Random, one: Organization) -> str:
    """A former or other name."""
    return one.aliases[0] if one.aliases else one.name


KINDS: tuple[Callable[[random.Random, Organization], str], ...] = (
    typo, shortened, turned, begun, placed, zipped, bare, accented, asked, older,
    beside, together, lacking, questioned, of_the_state, town_first,
)  # fmt: skip


def keys(one: Organization) -> set[str]:
    """Return what an organisation's names have in common with other spellings of them."""
    return {name_key(name) for name in (one.name, *one.aliases)}


def make(catalogue: Iterable[Organization], each: int, seed: int) -> list[Made]:
    """Make `each` queries of every kind, the same ones for the same catalogue and seed."""
    chance = random.Random(seed)  # noqa: S311 - the same queries every time
    fit = [
        one
        for one in catalogue
        if len(one.name.split()) >= 2 and len(max(one.name.split(), key=len)) >= 6 and one.endpoints
    ]
    made = []
    for change in KINDS:
        for one in chance.sample(fit, each):
            text = change(chance, one)
            named = older(chance, one) if change is older else one.name
            made.append(Made(change.__name__, text, name_key(named)))
    return made
