"""Finds organisations as people type: words, prefixes, acronyms, spelling, places, ZIP.

One library for the service and for the appliance: it needs a list of organisations and no network.
Candidates come from an FTS5 table ordered by how well known an organisation is; a small scorer
decides. Nothing that was typed is kept or logged.
"""

import math
import re
import sqlite3
import zlib
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from urllib.parse import urlsplit

from lighthouse import words
from lighthouse.catalogue import Organization
from lighthouse.merge import name_key

FEW = 60  # candidates of one kind that are scored
THRESHOLD = 0.55  # under it a hit is a guess
MEANT = 0.9  # how well a name must be met for a nickname to mean it
KNOWN = 0.18  # the most that being well known adds
PLACED = 0.8  # how good a match a place is
PREFIX = 0.92  # how sure a word is of which only the beginning was typed
BEGUN = 0.25  # how much less a nickname counts of which only the beginning was typed
RARE, USUAL = 2, 50  # organisations with a word: at most, to be a slip; at least, to be meant
REWRITTEN = 0.03  # how much less a hit counts that was found by words written otherwise
UNPLACED = 0.3  # how much a typed place counts against who has no place
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
    weight: float  # how much it tells, as its likeliest meaning


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


def namesakes(hits: Iterable[Hit]) -> dict[str, str]:
    """Return by id where each hit answers that shares its name with another: it tells them apart.

    That is its hosts, or its first address where another of the name is at the same host.
    """
    same: dict[str, list[Organization]] = defaultdict(list)
    for hit in hits:
        same[name_key(hit.organization.name)].append(hit.organization)
    found: dict[str, str] = {}
    for some in same.values():
        hosts = {one.id: _hosts(one) for one in some} if len(some) > 1 else {}
        often = Counter(host for each in hosts.values() for host in each)
        for one in some:
            told = hosts.get(one.id, [])
            if any(often[host] > 1 for host in told):
                told = [one.endpoints[0].url.partition("://")[2].rstrip("/")]
            more = f" and {len(told) - 2} more" if len(told) > 2 else ""
            if told:
                found[one.id] = ", ".join(told[:2]) + more
    return found


def _hosts(one: Organization) -> list[str]:
    return list(dict.fromkeys(urlsplit(end.url).hostname or "" for end in one.endpoints))


_SYSTEM = re.compile(r"\b(?:health system|healthcare system|health network|health care system)\b")
_CENTER = re.compile(r"\bmedical center\b")
_LARGE = {"hospital", "university", "medicine", "clinic", "health", "healthcare"}
_ALONE = {"md", "do", "dpm", "np"}
_ASIDE = {"sandbox", "lab", "test", "foundation"}
_TELLING = _LARGE | _ALONE | _ASIDE | {"medical"}


def _known(organization: Organization, split: Iterable[str]) -> float:
    """Return how well known an organisation is (0..1), from the words of its name and its doors."""
    told = _TELLING.intersection(split)
    score = 0.0
    if told:
        name = " ".join(split)
        if not _LARGE.isdisjoint(told) or _CENTER.search(name):
            score += 0.5 if _SYSTEM.search(name) else 0.35
        score -= 0.0 if _ALONE.isdisjoint(told) else 0.1
        score -= 0.0 if _ASIDE.isdisjoint(told) else 0.15
    vendors = {end.vendor for end in organization.endpoints}
    if "Epic" in vendors:
        score += 0.35
    elif not _USUAL_VENDORS.isdisjoint(vendors):
        score += 0.2
    if organization.kind in _KINDS:
        score += _KINDS[organization.kind]
    return max(0.0, min(1.0, score))


_STATE_WORDS = frozenset(part for name in words.STATE_NAMES.values() for part in name.split())
_OPENING = frozenset(("el", "ft", "la", "le", "mt", "st"))
_USUAL_VENDORS = frozenset(("Oracle Health", "MEDITECH", "Altera"))
_KINDS = {"ins": 0.15, "national": 0.6}


WORDS = """
CREATE VIRTUAL TABLE docs USING fts5(
    names, place, content='', columnsize=0, detail='column', tokenize='ascii', prefix='1 2 3'
)
"""
# Where the sums of short texts of each kind begin: initials, names without blanks, ZIP, its area.
_SPOTS = {"initials": 1, "squashed": 2, "zip": 3, "area": 4}


def _is_whole(typed: Sequence[str], normal: Sequence[str]) -> bool:
    """Say whether the last word is whole: a shorter form stands for it, as lab for laboratory."""
    return bool(typed and normal) and len(normal[-1]) < len(typed[-1])


def _sum_of(kind: str, text: str) -> int:
    """Return 32 bits of a short text. Two may have the same: who is found by it is looked at."""
    return zlib.crc32(text.encode(), _SPOTS[kind])


class Search:
    """An index over organisations, held in memory. Build once, ask from any thread in turn."""

    def __init__(self, organizations: Iterable[Organization]) -> None:
        """Build the index; about half a second for 47,000 organisations."""
        given = list(organizations)
        split = words.split_all([one.name for one in given])
        known = list(map(_known, given, split))
        order = sorted((-known[at], one.name, one.id, at) for at, one in enumerate(given))
        self._all = [given[at] for *_, at in order]
        self._prior = [known[at] for *_, at in order]
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        # Words are asked for alone and rows come by number: neither places nor lengths are kept.
        self._db.execute("PRAGMA page_size = 16384")  # rows of `lighthouse.index` are kilobytes
        self._db.execute(WORDS)
        # One segment, written once: merging many would take as long again.
        self._db.execute("INSERT INTO docs(docs, rank) VALUES ('hashsize', ?)", (1 << 26,))
        self._spots = array("Q")  # sum of a text, number: sorted, so the best known come first
        self._count: Counter[str] = Counter()
        self._cities: set[str] = set()
        self._fill([split[at] for *_, at in order])
        self._prepare()

    def _prepare(self) -> None:
        """Make ready to answer (also by `lighthouse.index`, from its file)."""
        self._tokens = lru_cache(maxsize=4096)(self._tokens_of)
        self._place = lru_cache(maxsize=4096)(lambda number: frozenset(_place(self._all[number])))
        self._spell = lru_cache(maxsize=2048)(self._spelling)

    @cached_property
    def _vocabulary(self) -> list[str]:
        return sorted(self._count)

    @cached_property
    def _grams(self) -> dict[str, list[int]]:
        """Pairs of letters with the words that have them: made when a misspelling is looked up."""
        found: dict[str, list[int]] = defaultdict(list)
        for number, word in enumerate(self._vocabulary):
            for gram in _grams(word):
                found[gram].append(number)
        return found

    def _fill(self, split: Sequence[Sequence[str]]) -> None:
        """Lay down every organisation; `split` has the words of their names, in order."""
        rows: list[tuple[int, str, str]] = []
        spots: list[int] = []
        counted: list[str] = []
        more = [_other_names(one) for one in self._all]
        more_split = iter(words.split_all([name for some in more for name in some]))
        places = words.split_all([_place_text(one) for one in self._all])
        crc32, squashed, initials = zlib.crc32, _SPOTS["squashed"], _SPOTS["initials"]
        for number, one in enumerate(self._all):
            named: dict[str, None] = {}  # a set that keeps its order
            names = [(one.name, split[number])]
            if more[number]:
                names += [(name, next(more_split)) for name in more[number]]
            for name, found in names:
                tokens = words.normal_forms(found)
                named = named | dict.fromkeys(tokens) if named else dict.fromkeys(tokens)
                spots.append(crc32("".join(tokens).encode(), squashed) << 32 | number)
                short = words.acronyms(name) if "(" in name else words.initials(found)
                spots += [crc32(text.encode(), initials) << 32 | number for text in short]
            counted += named
            place = one.state.lower()
            if places[number]:
                told = words.normal_forms(places[number])
                counted += [word for word in dict.fromkeys(told) if word not in named]
                place = " ".join([*told, place])
            rows.append((number, " ".join(named), place))
            for zip_code in _zips(one) if one.zip or one.places else ():
                spots.append(_sum_of("zip", zip_code) << 32 | number)
                spots.append(_sum_of("area", zip_code[:3]) << 32 | number)
        self._count.update(counted)
        self._cities.update(*map(words.tokens, {one.city for one in self._all}))
        self._spots = array("Q", sorted(set(spots)))
        self._db.executemany("INSERT INTO docs(rowid, names, place) VALUES (?, ?, ?)", rows)
        self._db.commit()  # until then FTS5 looks through all words for each that is begun

    # ----------------------------------------------------------------- asking

    def find(self, typed: str, limit: int = 10) -> list[Hit]:
        """Return the best hits, best first; an empty list where nothing is close enough."""
        zip_code = words.ZIP.search(typed[:200])
        bare = words.ZIP.sub(" ", typed[:200])
        text = words.query_text(bare)
        states = words.states_in(re.sub(r"[^\w\s&'.]", " ", bare))
        query = Query(self._words(text), states, zip_code[0] if zip_code else "")
        if query.zip and not query.words:
            return self._near(query.zip, limit)
        if words.SHORT_ZIP.fullmatch(typed) and (near := self._near(f"0{typed.strip()}", limit)):
            return near
        best = {hit.organization.id: hit for hit in self._ranked(query, text)}
        for other in self._otherwise(words.split(text), states):
            again = Query(self._words(other), states, query.zip)
            for hit in self._ranked(again, other):
                before = best.get(hit.organization.id)
                if before is None or before.score < hit.score - REWRITTEN:
                    best[hit.organization.id] = replace(hit, score=hit.score - REWRITTEN)
        for rank, (meant, more) in enumerate(self._meant(words.tokens(text), query)):
            again = Query(self._words(meant), states, query.zip)
            for hit in self._ranked(again, meant):
                # A nickname means one name; what merely resembles that name is not meant.
                score = hit.score + more - 0.04 * rank
                before = best.get(hit.organization.id)
                if hit.score >= MEANT and (before is None or before.score < score):
                    best[hit.organization.id] = replace(hit, score=score)
        hits = sorted(
            best.values(),
            key=lambda hit: (-round(hit.score, 6), hit.organization.name, hit.organization.id),
        )
        return hits[:limit]

    def _otherwise(self, typed: Sequence[str], states: Mapping[str, str]) -> list[str]:
        """Return the same words written otherwise: joined, parted, or spelt out.

        "ortho carolina" for OrthoCarolina, "bluecross" for Blue Cross, "n mississippi", "tx".
        """
        joined, parted, told = list(typed), list(typed), list(typed)
        for at, (one, other) in enumerate(pairwise(typed)):
            if len(one + other) >= 6 and self._count[one + other] and joined[at]:
                joined[at : at + 2] = [one + other, ""]
        for at, word in enumerate(typed):
            if len(word) >= 7 and 0 < self._count[word] < USUAL:
                parted[at] = " ".join(self._parts(word) or [word])
            following = typed[at + 1] if at + 1 < len(typed) else ""
            if word in words.COMPASS and (following in self._cities or following in _STATE_WORDS):
                told[at] = words.COMPASS[word]
            elif word in words.STATE_NAMES and word not in states.values():
                told[at] = words.STATE_NAMES[word]
        found = [" ".join(filter(None, some)) for some in (joined, parted, told)]
        return [text for text in dict.fromkeys(found) if text != " ".join(typed)]

    def _meant(self, typed: Sequence[str], query: Query) -> list[tuple[str, float]]:
        """Return what a query means by nicknames as typed, as spelt right, or as begun."""
        right = tuple(self._spelt(word) for word in query.words)
        found = words.meant(typed) or words.meant(right)
        if found:
            return [(name, 0.25 if whole else 0.0) for name, whole in found]
        return [(name, -BEGUN) for name in words.begun(typed) or words.begun(right)]

    def _spelt(self, word: Word) -> str:
        """Return a typed word as it is probably spelt; words of nicknames are right."""
        if word.text in words.of_nicknames() or self._count[word.text] > RARE:
            return word.text
        return self._likeliest(word.text, word.meanings) or word.text

    def _ranked(self, query: Query, text: str) -> list[Hit]:
        scored = (self._score(number, query) for number in self._candidates(query, text))
        return [hit for hit in scored if hit.score >= THRESHOLD]

    def _near(self, zip_code: str, limit: int) -> list[Hit]:
        """Return who is at a ZIP, then who shares its first three digits, best known first."""
        exact = [
            number for number in self._at("zip", zip_code) if zip_code in _zips(self._all[number])
        ]
        near = self._at("area", zip_code[:3])
        found = [(number, 1.0) for number in exact[:limit]]
        found += [(number, 0.7) for number in near if number not in exact][:limit]
        return [Hit(self._all[n], self._all[n].name, score) for n, score in found[:limit]]

    def _at(self, kind: str, text: str) -> Iterator[int]:
        """Yield who has these initials, this squashed name, this ZIP; best known first."""
        wanted = _sum_of(kind, text)
        for at in range(bisect_left(self._spots, wanted << 32), len(self._spots)):
            if self._spots[at] >> 32 != wanted:
                return
            yield self._spots[at] & 0xFFFFFFFF

    def _words(self, typed: str) -> tuple[Word, ...]:
        found = []
        joined = self._rejoin(words.tokens(typed))
        begun = not _is_whole(words.split(typed), joined)
        for number, text in enumerate(joined[:12]):
            meanings = self._meanings(text)
            last = number == len(joined) - 1
            prefix = (last and begun) or (not last and len(text) >= 3 and text not in words.GENERIC)
            likeliest = self._likeliest(text, meanings)
            weight = self._weight(likeliest) if likeliest else UNKNOWN_WORD
            found.append(Word(text, meanings, prefix, weight))
        return tuple(found)

    def _likeliest(self, text: str, meanings: dict[str, float]) -> str:
        """Return the word that is meant: lists have misspellings of "clinic" as well."""
        if 0 < self._count[text] <= RARE:
            for other, sure in meanings.items():
                if other != text and sure >= 0.9 and self._count[other] >= USUAL:
                    return other
        if self._count[text] <= FEW // 10 and len(text) >= 5:
            for other, sure in meanings.items():
                if other in words.GENERIC and len(other) >= 6 and sure >= 0.85:
                    return other
        return max(meanings, key=lambda other: (meanings[other], self._count[other]), default="")

    def _rejoin(self, typed: Sequence[str]) -> list[str]:
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
        return self._parts(word)

    def _parts(self, word: str) -> list[str] | None:
        """Return the two words that a word is made of, where the catalogue knows both."""
        best: tuple[int, list[str]] | None = None
        shortest = 2 if word[:2] in _OPENING else 3  # "stlukes", "lebonheur"
        for cut in range(shortest, len(word) - 2):
            left, right = (
                words.tokens(word[:cut])[:1] or ("",),
                words.tokens(word[cut:])[:1] or ("",),
            )
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
        for gram in sorted(_grams(text)):  # a set's own order differs from run to run
            shared.update(self._grams.get(gram, ()))
        allowed = 1 if len(text) <= 5 else 2
        close = [(self._vocabulary[at], same) for at, same in shared.most_common(80)]
        meant = [(word, word) for word, same in close if same >= 2 and word != text]
        found: dict[str, float] = {}
        for word, normal in (*meant, *words.FAR_FORMS.items()):
            if abs(len(word) - len(text)) > allowed:
                continue
            begins = word[0] == text[0]  # whoever slips there seldom slips again
            most = allowed if begins else 1
            distance = _distance(text, word, most)
            if distance <= most:
                sure = 0.9 - 0.13 * (distance - 1) - (0.0 if begins else 0.12)
                found[normal] = max(sure, found.get(normal, 0.0))
        likely = sorted(found.items(), key=lambda one: (-one[1], -self._count[one[0]], one[0]))
        return tuple(likely[:5])

    def _candidates(self, query: Query, text: str) -> set[int]:
        """Collect whom to score: all words, all telling words, any word, acronyms, exact names."""
        found: set[int] = set()
        if not query.words:
            return found
        squashed = words.squash(text)
        found.update(islice(self._at("squashed", squashed), FEW))
        for initials in (*(word.text for word in query.words), squashed, *_contracted(query)):
            found.update(islice(self._at("initials", initials), FEW))
        placed = query.state_words
        without_place = [word for word in query.words if word.text not in placed]
        telling = [word for word in without_place if word.text not in words.GENERIC]
        for chosen in (query.words, without_place, telling):
            if chosen:
                clause = " AND ".join(dict.fromkeys(map(_any_of, chosen)))
                exact = " AND ".join(dict.fromkeys(map(_as_typed, chosen)))
                found.update(self._match(clause, 2 * FEW))
                if exact != clause:  # misspellings of a word must not crowd out the word
                    found.update(self._match(exact, 2 * FEW))
                for code in query.states:
                    found.update(self._match(f"({clause}) AND place : {code.lower()}", FEW))
        rare = sorted(telling, key=self._frequency)
        for word in rare[:3]:
            found.update(self._match(_any_of(word), FEW))
            found.update(self._match(f'"{word.text}"', FEW) if word.text in word.meanings else ())
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
        return tuple((name, words.tokens(name)) for name in _names(one))

    def _weight(self, word: str) -> float:
        weight = math.log(1 + len(self._all) / (1 + self._count[word]))
        return weight * (0.35 if word in words.GENERIC else 1.0)

    def _score(self, number: int, query: Query) -> Hit:
        one = self._all[number]
        place = self._place(number)
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

    def _coverage(
        self, query: Query, split: tuple[str, ...], place: AbstractSet[str], state: str
    ) -> float:
        """Score how much of what was typed a name covers, and how little else it says."""
        total = gained = 0.0
        used: set[str] = set()
        for word in query.words:
            quality, hit = self._quality(word, split)
            named_state = word.text in query.state_words and state in query.states
            if quality < PLACED and (named_state or self._is_place(word, place)):
                quality, hit = PLACED, ""
            weight = self._missing_weight(word, query, place, state) if not quality else 0.0
            weight = weight or word.weight
            total += weight
            gained += weight * quality
            used.update({hit} - {""})
        if "".join(word.text for word in query.words) == "".join(split):
            return 1.0 + self._bonus(query, split)  # "united health care", "UnitedHealthcare"
        whole = sum(map(self._weight, split)) or 1.0
        tight = min(1.0, sum(map(self._weight, used)) / whole)
        return gained / total * (0.72 + 0.28 * tight) + self._bonus(query, split)

    def _missing_weight(
        self, word: Word, query: Query, place: AbstractSet[str], state: str
    ) -> float:
        """Return how much a word that a name lacks counts against it, or 0 for "in full"."""
        weight = word.weight
        if word.text not in word.meanings:
            return min(weight, UNKNOWN_WORD)
        unplaced = not place and word.text in self._cities
        if unplaced or (not state and word.text in query.state_words):
            return weight * UNPLACED
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

    def _is_place(self, word: Word, place: AbstractSet[str]) -> bool:
        return word.text in place or any(meaning in place for meaning in word.meanings)

    def _acronym_score(
        self, query: Query, name: str, split: tuple[str, ...], place: AbstractSet[str]
    ) -> float:
        """Score "UTMB" against the initials of a name; other typed words must fit as well."""
        initials = words.acronyms(name)
        hits = [word for word in query.words if word.text in initials]
        run = 0
        if not hits and len(query.words) > 1 and len(query.words[0].text) <= 5:
            run = _leading(query.words[0].text, split)  # "IU Health"
            hits = [query.words[0]] if run else []
        if not hits:
            return 0.0
        rest = [word for word in query.words if word not in hits]
        left = split[run:]
        fitting = sum(self._quality(word, left)[0] > 0.7 or word.text in place for word in rest)
        sure = {2: 0.5, 3: 0.82}.get(len(hits[0].text), 0.95)
        if run and fitting == len(rest):
            sure = max(sure, 0.8) if len(left) == len(rest) else max(sure, 0.6)
        return sure * (1 + fitting) / (1 + len(rest))


def _leading(initials: str, split: Sequence[str]) -> int:
    """Return how many words a name begins with that have these initials, or 0."""
    wanted, at = list(initials), 0
    for at, token in enumerate(split, 1):
        if token[0] == wanted[0]:
            wanted.pop(0)
        elif token not in words.SMALL:
            return 0
        if not wanted:
            return at if len(initials) > 1 else 0
    return 0


def _contracted(query: Query) -> list[str]:
    """Return the initials a query stands for if its first word is some already ("IU Health")."""
    first, *rest = [word.text for word in query.words]
    short = 2 <= len(first) <= 5 and 0 < len(rest) <= 3
    return [first + "".join(word[0] for word in rest)] if short else []


def _names(one: Organization) -> list[str]:
    """Return what an organisation goes by: its names, and its portals' where they tell anything."""
    return [one.name, *_other_names(one)]


def _zips(one: Organization) -> Collection[str]:
    """Return the ZIP codes of an organisation, as far as it is in the United States."""
    if one.country not in {"", "US"}:
        return ()
    if not one.places:
        return (one.zip,) if one.zip else ()
    return {one.zip, *[place[2] for place in one.places]} - {""}


def _other_names(one: Organization) -> list[str]:
    names = list(one.aliases)
    portals = {end.portal for end in one.endpoints if end.portal}
    if portals:
        told = portals.difference([one.name, *names])
        names += sorted(portal for portal in told if not words.is_desk(portal))
    return names


def _place(one: Organization) -> tuple[str, ...]:
    """Return the words that say where an organisation is."""
    return words.tokens(_place_text(one))


def _place_text(one: Organization) -> str:
    """Return city, parent, street, further cities and country of an organisation."""
    cities = " ".join([place[0] for place in one.places]) if one.places else ""
    country = words.COUNTRIES.get(one.country, "")
    return f"{one.city} {one.parent} {one.street} {cities} {country}"


def _place_score(query: Query, one: Organization) -> float:
    """Return what the place adds or takes away: it reorders, it never filters."""
    score = 0.0
    if query.states and one.state:
        score += 0.12 if one.state in query.states else -0.15
    if query.zip and one.zip:
        near = one.zip[:3] == query.zip[:3]
        score += 0.2 if one.zip == query.zip else 0.1 if near else -0.1
    return score


def _as_typed(word: Word) -> str:
    """Return an FTS5 clause for a word as it was typed, where the catalogue knows it like that."""
    return _any_of(word) if word.text not in word.meanings else _typed(word)


def _any_of(word: Word) -> str:
    """Return an FTS5 clause for a word: its meanings, and as a prefix while it is being typed."""
    others = [f'"{meaning}"' for meaning in word.meanings if meaning != word.text]
    return f"({' OR '.join([*others, _typed(word)])})" if others else _typed(word)


def _typed(word: Word) -> str:
    """Return an FTS5 term for the letters that were typed, and for what may follow them."""
    return f'"{word.text}" *' if word.prefix or not word.meanings else f'"{word.text}"'


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
