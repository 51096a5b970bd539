"""Entries: what a person reads as one thing, with the records that are its evidence.

Derived and rebuildable. Here one record is one entry, but for the same resource arriving from the
same hospital by two ways (a file and a connection): it is one entry with two pieces of evidence.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from sqlalchemy.orm import Session

from phr.fhir.kinds import BY_NUMBER, SECTIONS, section_number
from phr.store.models import VaultFact

DERIVED_VERSION: Final = b"1"  # of entries; a vault that says otherwise is rebuilt
_TELLING: Final = 20  # a remote id this long names one thing in the world (UUID, Epic)


class New(NamedTuple):
    """A record that was just written."""

    pk: int
    type: int
    remote_id: str
    key: int
    categories: int
    concept: int | None
    time: int | None


def section_of(type_: int, categories: int) -> int:
    """Return the number of the section in which a record is read."""
    return section_number(BY_NUMBER[type_].section_for(categories))


_SECTIONS: Final = {number: section_number(kind.section) for number, kind in BY_NUMBER.items()}
_VARIES: Final = {
    number for number, kind in BY_NUMBER.items() if kind.section_for(-1) != kind.section
}


def identity(row: New) -> int:
    """Return the 64-bit hash of what makes two records from two places the same thing."""
    if len(row.remote_id) < _TELLING:
        return row.key
    named = b"%d|%s|%r|%r" % (row.type, row.remote_id.encode(), row.concept, row.time)
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big", signed=True)


def add(session: Session, rows: Sequence[New], *, merge: bool) -> None:
    """Write the entries of new records; with `merge`, join those that the vault already has."""
    entries, proof = [], []
    names = [identity(row) for row in rows]
    known = _known(session, names) if merge else {}
    for row, name in zip(rows, names, strict=True):
        pk, type_ = row.pk, row.type
        founder = known.get(name, pk)
        proof.append((founder, pk))
        if founder == pk:
            section = section_of(type_, row.categories) if type_ in _VARIES else _SECTIONS[type_]
            entries.append((pk, section, name, row.time))
    driver: Any = session.connection().connection.driver_connection
    if entries:
        driver.executemany(
            "INSERT INTO entry(pk, section, identity, time) VALUES (?, ?, ?, ?)", entries
        )
    if proof:
        driver.executemany("INSERT INTO evidence(entry, record) VALUES (?, ?)", proof)


def _known(session: Session, names: Sequence[int]) -> dict[int, int]:
    run = session.connection().exec_driver_sql
    found: dict[int, int] = {}
    for begin in range(0, len(names), 1000):
        some = tuple(names[begin : begin + 1000])
        marks = ",".join("?" * len(some))
        rows = run(
            f"SELECT identity, min(pk) FROM entry WHERE identity IN ({marks}) GROUP BY 1", some
        )
        found.update((row[0], row[1]) for row in rows)
    return found


def change(session: Session, row: New) -> None:
    """Follow a record that has a new version: it may now be another thing at another time."""
    remove(session, [row.pk])
    add(session, [row], merge=False)


def remove(session: Session, pks: Sequence[int]) -> None:
    """Take records out of the entries they are evidence of; an entry without evidence goes.

    An entry whose first record goes is founded anew by the next one, under that record's pk.
    """
    run = session.connection().exec_driver_sql
    for pk in pks:
        run("DELETE FROM evidence WHERE record = ?", (pk,))
        heir = run("SELECT min(record) FROM evidence WHERE entry = ?", (pk,)).scalar()
        if heir is None:
            run("DELETE FROM entry WHERE pk = ?", (pk,))
        else:
            run("UPDATE entry SET pk = ? WHERE pk = ?", (heir, pk))
            run("UPDATE evidence SET entry = ? WHERE entry = ?", (heir, pk))


def rebuild(session: Session) -> int:
    """Make all entries anew from the records and return their number."""
    run = session.connection().exec_driver_sql
    run("DELETE FROM evidence")
    run("DELETE FROM entry")
    after = made = 0
    while rows := _some(session, after):
        add(session, rows, merge=True)
        after = rows[-1].pk
        made += len(rows)
    session.merge(VaultFact(name="derived_version", value=DERIVED_VERSION))
    return made


def _some(session: Session, after: int) -> list[New]:
    rows = session.connection().exec_driver_sql(
        "SELECT pk, type, remote_id, key, category, concept, time FROM record"
        " WHERE pk > ? ORDER BY pk LIMIT 2000",
        (after,),
    )
    return [New(*row) for row in rows]


def outdated(session: Session) -> bool:
    """Say whether the entries were made by other rules than the present ones."""
    fact = session.get(VaultFact, "derived_version")
    return fact is not None and fact.value != DERIVED_VERSION


def counts(session: Session) -> dict[str, int]:
    """Return the number of entries per section slug."""
    rows = session.connection().exec_driver_sql("SELECT section, count(*) FROM entry GROUP BY 1")
    return {SECTIONS[row[0]]: row[1] for row in rows}


def siblings(session: Session, pks: Iterable[int]) -> dict[int, int]:
    """Return the entry of each record; records of one entry are evidence of the same thing."""
    run = session.connection().exec_driver_sql
    found: dict[int, int] = {}
    listed = list(pks)
    for begin in range(0, len(listed), 1000):
        some = tuple(listed[begin : begin + 1000])
        marks = ",".join("?" * len(some))
        rows = run(f"SELECT record, entry FROM evidence WHERE record IN ({marks})", some)
        found.update((row[0], row[1]) for row in rows)
    return found
