"""Words that nothing in the vault has, put right by the words that it does have.

The vocabulary is that of the full-text index itself: nothing is looked up anywhere else, and no
list of words is shipped. Not here: the search (`phr.store.records`).
"""

from typing import Final

from sqlalchemy.orm import Session

from phr.store.database import rows
from phr.store.index import terms

_SHORTEST: Final = 4  # letters; shorter words have too many neighbours
_LONG: Final = 8  # letters from which two slips are forgiven
_LAST: Final = "\U0010ffff"


def nearest(session: Session, words: str) -> str | None:
    """Return the words with each unknown one exchanged for the nearest known; None: no help.

    A word is known when any word of the vault begins with it. Of equally near ones the commonest.
    """
    made, helped = [], False
    for term in terms(words):
        folded = term.casefold()
        if _known(session, folded):
            made.append(term)
            continue
        better = _neighbour(session, folded)
        if better is None:
            return None
        made.append(better)
        helped = True
    return " ".join(made) if helped else None


def _known(session: Session, word: str) -> bool:
    sql = "SELECT 1 FROM vocabulary WHERE term >= ? AND term < ? LIMIT 1"
    return bool(rows(session, sql, (word, word + _LAST)))


def _neighbour(session: Session, word: str) -> str | None:
    """Return the nearest known word; first among those that begin alike, then among all."""
    if len(word) < _SHORTEST or not word.isalpha():
        return None
    most = 2 if len(word) >= _LONG else 1
    sql = "SELECT term, doc FROM vocabulary WHERE length(term) BETWEEN ? AND ?"
    bounds = (len(word) - most, len(word) + most)
    first = (word[0], word[0] + _LAST)
    alike = rows(session, f"{sql} AND term >= ? AND term < ?", (*bounds, *first))
    return _best(word, alike, most) or _best(word, rows(session, sql, bounds), most)


def _best(word: str, vocabulary: list[tuple[str, int]], most: int) -> str | None:
    ranked = (
        (far, -common, known)
        for known, common in vocabulary
        if (far := distance(word, known, most)) <= most
    )
    return min(ranked, default=(0, 0, None))[2]


def distance(one: str, other: str, most: int) -> int:
    """Return the number of slips between two words, or `most + 1` where there are more.

    A slip is a letter too many, too few or wrong, or two neighbours exchanged (optimal string
    alignment).
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, mine in enumerate(one, start=1):
        row = [i]
        for j, theirs in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (mine != theirs))
            if i > 1 and j > 1 and mine == other[j - 2] and one[i - 2] == theirs:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before, last = last, row
    return min(last[-1], most + 1)
