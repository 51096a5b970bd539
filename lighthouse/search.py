"""Finds organisations as people type: words, prefixes, acronyms, spelling, places, ZIP.

One library for the service and for the appliance: it needs a list of organisations and no network.
Candidates come from an FTS5 table ordered by how well known an organisation is; a small scorer
decides. Nothing that was typed is kept or logged.
"""

import math
import re
import sqlite3
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from lighthouse import words
from lighthouse.catalogue import Organization

FEW = 60  # candidates of one kind that are scored
THRESHOLD = 0.55  # under it a hit is a guess
KNOWN = 0.18  # the most that being well known adds
PLACED = 0.8  # how good a match a place is
PREFIX = 0.92  # how sure a word is of which only the beginning was typed
UNKNOWN_WORD = 4.0  # how much a word that nobody knows counts against a match


@dataclass(frozen=True, slots=True)
class Hit:
    """A found organisation, the name that matched, and the score (1 is a full match)."""

    organization: Organization
    matched: str
    score: float


@dataclass(frozen=True, slots=True)
class Word:
    """A typed word with the vocabulary words it may mean, each with how sure that is (0..1)."""

    text: str
    meanings: dict[str, float]
    prefix: bool


@dataclass(frozen=True, slots=True)
class Query:
    """What was typed, taken apart: words, US states named (with their words), ZIP if any."""

    words: tuple[Word, ...]
    states: dict[str, str]
    zip: str

    @property
    def state_words(self) -> set[str]:
        """The words that name the states."""
        return {part for name in self.states.values() for part in name.split()}


def _known(organization: Organization) -> float:
    """Return how well known an organisation is (0..1), from what it is and how it appears."""
    name = words.plain(organization.name)
    score = 0.0
    if re.search(
        r"\b(?:health system|healthcare system|health network|health care system)\b", name
    ):
        score += 0.5
    elif re.search(
        r"\b(?:hospital|medical center|university|medicine|clinic|health|healthcare)\b", name
    ):
        score += 0.35
    vendors = {end.vendor for end in organization.endpoints}
    if vendors & {"Epic"}:
        score += 0.35
    elif vendors & {"Oracle Health", "MEDITECH", "Altera"}:
        score += 0.2
    if organization.kind == "ins":
        score += 0.15
    if re.search(r"\b(?:md|do|dpm|np)\b", name):
        score -= 0.1
    if re.search(r"\b(?:sandbox|lab|test|foundation)\b", name):
        score -= 0.15
    return max(0.0, min(1.0, score))


class Search:
    """An index over organisations, held in memory. Build once, ask from any thread in turn."""

    def __init__(self, organizations: Iterable[Organization]) -> None:
        """Build the index; about half a second for 47,000 organisations."""
        pairs = [(_known(one), one) for one in organizations]
        pairs.sort(key=lambda pair: (-pair[0], pair[1].name, pair[1].id))
        self._all = [one for _, one in pairs]
        self._prior = [known for known, _ in pairs]
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute(
            "CREATE VIRTUAL TABLE docs USING fts5(names, place, content='', prefix='1 2 3')"
        )
        self._acronyms: dict[str, list[int]] = defaultdict(list)
        self._squashed: dict[str, list[int]] = defaultdict(list)
        self._zips: dict[str, list[int]] = defaultdict(list)
        self._count: Counter[str] = Counter()
        self._cities: set[str] = set()
        self._fill()
        self._vocabulary = sorted(self._count)
        self._grams: dict[str, list[int]] = defaultdict(list)
        for number, word in enumerate(self._vocabulary):
            for gram in _grams(word):
                self._grams[gram].append(number)
        self._tokens = lru_cache(maxsize=4096)(self._tokens_of)
        self._spell = lru_cache(maxsize=2048)(self._spelling)

    def _fill(self) -> None:
        rows = []
        for number, one in enumerate(self._all):
            names = [one.name, *one.aliases]
            found = [words.tokens(name) for name in names]
            place = words.tokens(f"{one.city} {one.parent}")
            self._cities.update(words.tokens(one.city))
            for name, split in zip(names, found, strict=True):
                for acronym in words.acronyms(name):
                    self._acronyms[acronym].append(number)
                self._squashed["".join(split)].append(number)
            if one.zip and one.country in ("", "US"):
                self._zips[one.zip].append(number)
            every = {word for split in found for word in split}
            self._count.update(every | set(place))
            text = " ".join(dict.fromkeys(word for split in found for word in split))
            rows.append((number, text, " ".join([*place, one.state.lower()])))
        self._db.executemany("INSERT INTO docs(rowid, names, place) VALUES (?, ?, ?)", rows)

    # ----------------------------------------------------------------- asking

    def find(self, typed: str, limit: int = 10) -> list[Hit]:
        """Return the best hits, best first; an empty list where nothing is close enough."""
        zip_code = words.ZIP.search(typed[:200])
        bare = words.ZIP.sub(" ", typed[:200])
        text = words.query_text(bare)
        states = words.states_in(re.sub(r"[^\w\s&'.]", " ", bare))
        query = Query(self._words(words.tokens(text)), states, zip_code[0] if zip_code else "")
        if query.zip and not query.words:
            return self._near(query.zip, limit)
        scored = (self._score(number, query) for number in self._candidates(query, text))
        hits = [hit for hit in scored if hit.score >= THRESHOLD]
        hits.sort(
            key=lambda hit: (-round(hit.score, 6), hit.organization.name, hit.organization.id)
        )
        return hits[:limit]

    def _near(self, zip_code: str, limit: int) -> list[Hit]:
        """Return who is at a ZIP, then who shares its first three digits, best known first."""
        exact = self._zips.get(zip_code, [])
        area = sorted(
            number
            for other, numbers in self._zips.items()
            if other[:3] == zip_code[:3] and other != zip_code
            for number in numbers
        )
        found = [(number, 1.0) for number in sorted(exact)] + [(number, 0.7) for number in area]
        return [Hit(self._all[n], self._all[n].name, score) for n, score in found[:limit]]

    def _words(self, typed: list[str]) -> tuple[Word, ...]:
        query = [
            Word(text, self._meanings(text), number == len(typed) - 1 or len(text) >= 3)
            for number, text in enumerate(self._rejoin(typed))
        ]
        return tuple(query[:12])

    def _rejoin(self, typed: list[str]) -> list[str]:
        """Join "well star" and part "newhaven" where the catalogue knows the other form."""
        out: list[str] = []
        position = 0
        while position < len(typed):
            word = typed[position]
            pair = word + typed[position + 1] if position + 1 < len(typed) else ""
            rare = min(self._count[word], self._count[typed[position + 1]]) if pair else 0
            initial = len(word) == 1 and self._count[pair] > 0  # "u chicago"
            if pair and (initial or self._count[pair] > rare) and len(pair) >= 5:
                out.append(pair)
                position += 2
                continue
            parts = self._split(word) if not self._count[word] else None
            out += parts or [word]
            position += 1
        return out

    def _split(self, word: str) -> list[str] | None:
        if (
            len(word) < 6
            or self._has_prefix(word)
            or any(sure >= 0.9 for _, sure in self._spell(word))
        ):
            return None
        best: tuple[int, list[str]] | None = None
        for cut in range(3, len(word) - 2):
            left, right = words.tokens(word[:cut])[:1] or [""], words.tokens(word[cut:])[:1] or [""]
            known = min(self._count[left[0]], self._count[right[0]])
            if known >= 3 and (best is None or known > best[0]):
                best = known, [*left, *right]
        return best[1] if best else None

    def _has_prefix(self, word: str) -> bool:
        at = bisect_left(self._vocabulary, word)
        return at < len(self._vocabulary) and self._vocabulary[at].startswith(word)

    def _meanings(self, text: str) -> dict[str, float]:
        meanings = {text: 1.0} if self._count[text] else {}
        if len(text) >= 4 and self._count[text] < 40 and not text.isdigit():
            for word, sure in self._spell(text):
                meanings.setdefault(word, sure)
        return meanings

    def _spelling(self, text: str) -> tuple[tuple[str, float], ...]:
        """Return up to five vocabulary words close to a misspelt one, likeliest first."""
        shared: Counter[int] = Counter()
        for gram in _grams(text):
            shared.update(self._grams.get(gram, ()))
        allowed = 1 if len(text) <= 5 else 2
        found = []
        for number, same in shared.most_common(80):
            word = self._vocabulary[number]
            if word == text or abs(len(word) - len(text)) > allowed or same < 2:
                continue
            distance = _distance(text, word, allowed)
            if distance <= allowed:
                sure = 0.9 - 0.13 * (distance - 1) - (0.12 if word[0] != text[0] else 0.0)
                found.append((word, sure))
        found.sort(key=lambda pair: (-pair[1], -self._count[pair[0]], pair[0]))
        return tuple(found[:5])

    def _candidates(self, query: Query, text: str) -> set[int]:
        """Collect whom to score: all words, all telling words, any word, acronyms, exact names."""
        found: set[int] = set()
        if not query.words:
            return found
        squashed = words.squash(text)
        found.update(self._squashed.get(squashed, ())[:FEW])
        for initials in (*(word.text for word in query.words), squashed):
            found.update(self._acronyms.get(initials, ())[:FEW])
        placed = query.state_words
        without_place = [word for word in query.words if word.text not in placed]
        telling = [word for word in without_place if word.text not in words.GENERIC]
        for chosen in (query.words, without_place, telling):
            if chosen:
                clause = " AND ".join(map(_any_of, chosen))
                found.update(self._match(clause, 2 * FEW))
                for code in query.states:
                    found.update(self._match(f"({clause}) AND place : {code.lower()}", FEW))
        rare = sorted(telling, key=self._frequency)
        for word in rare[:3]:
            found.update(self._match(_any_of(word), FEW))
        for one, other in pairwise(rare):
            found.update(self._match(f"{_any_of(one)} AND {_any_of(other)}", FEW))
        return found

    def _match(self, clause: str, limit: int) -> list[int]:
        # Row numbers follow how well known an organisation is: the first rows are the best.
        rows = self._db.execute(
            "SELECT rowid FROM docs WHERE docs MATCH ? LIMIT ?", (clause, limit)
        )
        return [row[0] for row in rows]

    def _frequency(self, word: Word) -> int:
        return sum(self._count[meaning] for meaning in word.meanings) or 1

    # ----------------------------------------------------------------- scoring

    def _tokens_of(self, number: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
        one = self._all[number]
        return tuple((name, tuple(words.tokens(name))) for name in (one.name, *one.aliases))

    def _weight(self, word: str) -> float:
        weight = math.log(1 + len(self._all) / (1 + self._count[word]))
        return weight * (0.35 if word in words.GENERIC else 1.0)

    def _score(self, number: int, query: Query) -> Hit:
        one = self._all[number]
        place = set(words.tokens(f"{one.city} {one.parent}"))
        best, matched = -1.0, one.name
        for name, split in self._tokens(number):
            score = self._coverage(query, split, place, one.state) if split else 0.0
            score = max(score, self._acronym_score(query, name, split, place))
            score -= 0.0 if name == one.name else 0.02
            if score > best:
                best, matched = score, name
        best += _place_score(query, one)
        if best >= THRESHOLD:
            best += KNOWN * self._prior[number]
        return Hit(one, matched, best)

    def _coverage(self, query: Query, split: tuple[str, ...], place: set[str], state: str) -> float:
        """Score how much of what was typed a name covers, and how little else it says."""
        total = gained = 0.0
        used: set[str] = set()
        for word in query.words:
            quality, hit = self._quality(word, split)
            named_state = word.text in query.state_words and state in query.states
            if quality < PLACED and (named_state or self._is_place(word, place)):
                quality, hit = PLACED, ""
            weight = self._missing_weight(word, query, place, state) if not quality else 0.0
            weight = weight or max(map(self._weight, word.meanings), default=UNKNOWN_WORD)
            total += weight
            gained += weight * quality
            used.update({hit} - {""})
        whole = sum(map(self._weight, split)) or 1.0
        tight = min(1.0, sum(map(self._weight, used)) / whole)
        return gained / total * (0.72 + 0.28 * tight) + self._bonus(query, split)

    def _missing_weight(self, word: Word, query: Query, place: set[str], state: str) -> float:
        """Return how much a word that a name lacks counts against it, or 0 for "in full"."""
        weight = max(map(self._weight, word.meanings), default=UNKNOWN_WORD)
        if word.text not in word.meanings:
            return min(weight, UNKNOWN_WORD)
        unplaced = not place and word.text in self._cities
        if unplaced or (not state and word.text in query.state_words):
            return weight * 0.3  # a place, and nobody said where this one is
        return 0.0

    def _bonus(self, query: Query, split: tuple[str, ...]) -> float:
        squashed, joined = "".join(word.text for word in query.words), "".join(split)
        bonus = 0.25 if squashed == joined else 0.08 if joined.startswith(squashed) else 0.0
        return bonus + (0.04 if self._quality(query.words[0], split[:1])[0] >= PLACED else 0.0)

    def _quality(self, word: Word, split: Sequence[str]) -> tuple[float, str]:
        """Return how well a typed word is met by a name's words (0..1), and by which."""
        best, hit = 0.0, ""
        for token in split:
            sure = word.meanings.get(token, 0.0)
            if sure < PREFIX and word.prefix and token.startswith(word.text):
                usual = min(1.0, math.log10(1 + self._count[token]) / 3)
                sure = max(sure, PREFIX + 0.05 * usual if len(word.text) > 1 else 0.6)
            if sure > best:
                best, hit = sure, token
        return best, hit

    def _is_place(self, word: Word, place: set[str]) -> bool:
        return word.text in place or any(meaning in place for meaning in word.meanings)

    def _acronym_score(
        self, query: Query, name: str, split: tuple[str, ...], place: set[str]
    ) -> float:
        """Score "UTMB" against the initials of a name; other typed words must fit as well."""
        initials = words.acronyms(name)
        hits = [word for word in query.words if word.text in initials]
        if not hits:
            return 0.0
        rest = [word for word in query.words if word not in hits]
        fitting = sum(self._quality(word, split)[0] > 0.7 or word.text in place for word in rest)
        sure = {2: 0.5, 3: 0.82}.get(len(hits[0].text), 0.95)
        return sure * (1 + fitting) / (1 + len(rest))


def _place_score(query: Query, one: Organization) -> float:
    """Return what the place adds or takes away: it reorders, it never filters."""
    score = 0.0
    if query.states and one.state:
        score += 0.12 if one.state in query.states else -0.15
    if query.zip and one.zip:
        near = one.zip[:3] == query.zip[:3]
        score += 0.2 if one.zip == query.zip else 0.1 if near else -0.1
    return score


def _any_of(word: Word) -> str:
    """Return an FTS5 clause for a word: its meanings, and as a prefix while it is being typed."""
    terms = [f'"{meaning}"' for meaning in word.meanings]
    if word.prefix or not terms:
        terms.append(f'"{word.text}" *')
    return f"({' OR '.join(terms)})"


def _grams(word: str) -> set[str]:
    padded = f"^{word}$"
    return {padded[at : at + 2] for at in range(len(padded) - 1)}


def _distance(one: str, other: str, most: int) -> int:
    """Return the optimal string alignment distance, or more than `most` as soon as it is clear."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        row = [i]
        for j, right in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before, last = last, row
    return last[-1]
