"""The index beside the records: distinct search texts, concepts, measures, secondary indexes.

Words are indexed once per distinct text; a record only names its text. Not here: queries.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import Index
from sqlalchemy.orm import Session

from phr.fhir import measures
from phr.fhir.reading import Coding
from phr.store.models import entry, evidence, record
from phr.store.vault import Vault

_TERM = re.compile(r"\w+")
_MOST_TERMS: Final = 16
_LONGEST_TERM: Final = 64
_CACHED: Final = 50_000


class Terms:
    """Numbers of texts, concepts and measures of one import; new ones are written by `settle`."""

    def __init__(self) -> None:
        self.texts: dict[tuple[str, ...], int | None] = {}
        self.concepts: dict[tuple[Coding, ...], int | None] = {}
        self.measures: dict[measures.Key | None, int | None] = {}
        self.forget()

    def forget(self) -> None:
        """Forget all numbers (after a transaction that did not commit)."""
        self.texts = {(): None}
        self.concepts = {(): None}
        self.measures = {None: None}

    def settle(
        self,
        session: Session,
        texts: Iterable[tuple[str, ...]],
        concepts: Iterable[tuple[Coding, ...]],
        counted: Iterable[measures.Key | None],
    ) -> None:
        """Give every text, concept and measure a number, writing those the vault does not have.

        Then `texts`, `concepts` and `measures` have them: None where there are no words, no
        codings, or where the bodies must be read.
        """
        if max(len(self.texts), len(self.concepts), len(self.measures)) > _CACHED:
            self.forget()
        new_texts = {words: _hash("\n".join(words)) for words in texts if words not in self.texts}
        if new_texts:
            self._settle_texts(session, new_texts)
        new_concepts = {
            codings: _hash("\n".join(f"{each.system}|{each.code}" for each in codings))
            for codings in concepts
            if codings not in self.concepts
        }
        if new_concepts:
            self._settle_concepts(session, new_concepts)
        new_measures = [key for key in counted if key not in self.measures]
        if new_measures:
            self._settle_measures(session, new_measures)

    def _settle_texts(self, session: Session, new: dict[tuple[str, ...], int]) -> None:
        by_hash = {hash_: words for words, hash_ in new.items()}
        numbers, missing = _numbered(session, "search_text", list(by_hash))
        run = session.connection().exec_driver_sql
        if missing:
            run(
                "INSERT INTO search_text(id, hash) VALUES (?, ?)",
                [(numbers[hash_], hash_) for hash_ in missing],
            )
            run(
                "INSERT INTO search(rowid, words) VALUES (?, ?)",
                [(numbers[hash_], "\n".join(by_hash[hash_])) for hash_ in missing],
            )
        self.texts.update((words, numbers[hash_]) for words, hash_ in new.items())

    def _settle_concepts(self, session: Session, new: dict[tuple[Coding, ...], int]) -> None:
        by_hash = {hash_: codings for codings, hash_ in new.items()}  # displays may differ
        numbers, missing = _numbered(session, "concept", list(by_hash))
        run = session.connection().exec_driver_sql
        if missing:
            run(
                "INSERT INTO concept(id, hash) VALUES (?, ?)",
                [(numbers[hash_], hash_) for hash_ in missing],
            )
            run(
                "INSERT OR IGNORE INTO coding(system, code, concept, display) VALUES (?, ?, ?, ?)",
                [
                    (each.system, each.code, numbers[hash_], each.display)
                    for hash_ in missing
                    for each in by_hash[hash_]
                ],
            )
        self.concepts.update((codings, numbers[hash_]) for codings, hash_ in new.items())

    def _settle_measures(self, session: Session, new: list[measures.Key | None]) -> None:
        """Give numbers to measures: never that of another content, whatever its hash."""
        made = {key: None if key is None else measures.content(key) for key in new}
        by_hash = {_hash_of(content): content for content in made.values() if content is not None}
        numbers, missing = _numbered(session, "measure", list(by_hash))
        run = session.connection().exec_driver_sql
        if missing:
            run(
                "INSERT INTO measure(id, hash, content) VALUES (?, ?, ?)",
                [(numbers[hash_], hash_, by_hash[hash_]) for hash_ in missing],
            )
        told: dict[bytes, int] = {}
        ids = list(numbers.values())
        for begin in range(0, len(ids), 1000):
            some = tuple(ids[begin : begin + 1000])
            marks = ",".join("?" * len(some))
            kept = run(f"SELECT content, id FROM measure WHERE id IN ({marks})", some)
            told.update((row[0], row[1]) for row in kept)
        self.measures.update(
            (key, None if content is None else told.get(content)) for key, content in made.items()
        )


def _hash(content: str) -> int:
    return _hash_of(content.encode("utf-8", "surrogatepass"))


def _hash_of(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big", signed=True)


def _numbered(session: Session, table: str, hashes: list[int]) -> tuple[dict[int, int], list[int]]:
    """Return the number of each hash (new ones follow the greatest) and which of them are new."""
    run = session.connection().exec_driver_sql
    numbers: dict[int, int] = {}
    for begin in range(0, len(hashes), 1000):
        some = tuple(hashes[begin : begin + 1000])
        marks = ",".join("?" * len(some))
        found = run(f"SELECT hash, id FROM {table} WHERE hash IN ({marks})", some)
        numbers.update((row[0], row[1]) for row in found)
    missing = [hash_ for hash_ in hashes if hash_ not in numbers]
    if missing:
        following = run(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").scalar_one()
        numbers.update(zip(missing, range(following, following + len(missing)), strict=True))
    return numbers, missing


# -------------------------------------------------------------------------------- searching


def terms(words: str) -> list[str]:
    """Return the words of what a person typed."""
    return [term[:_LONGEST_TERM] for term in _TERM.findall(words)[:_MOST_TERMS]]


def query(words: str, *others: str) -> str | None:
    """Turn what a person typed into an FTS5 query: each word quoted, as a prefix, all of them.

    `others` are names that would do as well. None when there is nothing to search for. Nothing a
    person types can be an operator.
    """
    asked = (" ".join(f'"{term}"*' for term in terms(each)) for each in (words, *others))
    return " OR ".join(filter(None, asked)) or None


# -------------------------------------------------------------------------------- indexes


def secondary() -> Sequence[Index]:
    """Return the indexes that a first import may leave for later: all but the rowids."""
    found = [*record.indexes, *entry.indexes, *evidence.indexes]
    return sorted(found, key=lambda each: str(each.name))


def drop(session: Session) -> None:
    """Drop the secondary indexes inside the caller's transaction."""
    for each in secondary():
        each.drop(session.connection(), checkfirst=True)


def missing(session: Session) -> list[Index]:
    """Return the secondary indexes that are not there (an import left them, or was cut off)."""
    rows = session.connection().exec_driver_sql("SELECT name FROM sqlite_schema WHERE type='index'")
    there = {row[0] for row in rows}
    return [each for each in secondary() if each.name not in there]


def ensure(vault: Vault) -> None:
    """Build what is missing, so that a first import that was cut off leaves no slow vault.

    Called when a vault opens and when a first import ends.
    """
    with vault.read() as session:
        wanted = missing(session)
    if wanted:
        with vault.write() as session:
            for each in wanted:
                each.create(session.connection(), checkfirst=True)
        analyse(vault)


def analyse(vault: Vault) -> None:
    """Let SQLite count, so that its plans fit the sizes of this vault."""
    with vault.write() as session:
        run: Any = session.connection().exec_driver_sql
        run("PRAGMA analysis_limit = 1000")
        run("ANALYZE")
