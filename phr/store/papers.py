"""What was read in the files of records: derived rows and their own full-text index.

Opaque here: a reading is bytes, its words are text. What waits follows from the records
themselves, so a reading that was cut off goes on. Who reads is `phr.transcribe`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from phr.fhir.kinds import KINDS
from phr.store import bodies, connections
from phr.store.database import rows

_MOST_WORDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Paper:
    """One file of a record as it was read; `words` are what search finds it by.

    `edition` says which version of which document it is, "" where it does not.
    """

    place: int
    hash: bytes
    body: bytes
    words: str
    edition: str = ""


def waiting(
    session: Session, types: Sequence[str], rules: int, *, after: int = 0, limit: int = 200
) -> list[int]:
    """Return the pks behind `after` of records whose files were not read as they are now."""
    numbers = tuple(KINDS[type_].number for type_ in types)
    sql = (
        "SELECT record.pk FROM record LEFT JOIN paper_seen AS seen ON seen.record = record.pk"
        f" WHERE record.type IN ({','.join('?' * len(numbers))}) AND record.pk > ?"
        " AND (seen.record IS NULL OR seen.version != record.version OR seen.rules != ?"
        " OR seen.files != (SELECT count(hash) FROM attachment_link WHERE record = record.pk))"
        " ORDER BY record.pk LIMIT ?"
    )
    return [row[0] for row in rows(session, sql, (*numbers, after, rules, limit))]


def is_importing(session: Session) -> bool:
    """Tell whether a pull or an upload is under way.

    What people state or send is kept at once: a claim on such a place was left by a crash.
    """
    sql = "SELECT 1 FROM connection WHERE claimed_by IS NOT NULL AND kind NOT IN (?, ?) LIMIT 1"
    return bool(rows(session, sql, (connections.OWN, connections.CONTRIBUTED)))


def held(session: Session, hash_: bytes, rules: int) -> bytes | None:
    """Return what was read in a file with these bytes by the same rules, whosever it was."""
    sql = "SELECT body FROM paper WHERE hash = ? AND rules = ? LIMIT 1"
    found = rows(session, sql, (hash_, rules))
    return bodies.unpack(session, found[0][0]) if found else None


def files(session: Session, pk: int) -> int:
    """Return how many files of a record are kept beside it."""
    return int(
        rows(session, "SELECT count(hash) FROM attachment_link WHERE record = ?", (pk,))[0][0]
    )


def put(
    session: Session, pk: int, found: Sequence[Paper], *, version: int, files: int, rules: int
) -> None:
    """Keep what was read in a record's files in place of what was read before.

    A record that is gone by now (erased meanwhile) is left out.
    """
    run = session.connection().exec_driver_sql
    if not rows(session, "SELECT 1 FROM record WHERE pk = ?", (pk,)):
        return
    run("DELETE FROM paper WHERE record = ?", (pk,))
    for one in found:
        made = run(
            "INSERT INTO paper(record, place, hash, rules, body, edition)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (pk, one.place, one.hash, rules, bodies.plain(one.body), one.edition),
        )
        run(
            "INSERT INTO paper_search(rowid, words) VALUES (?, ?)",
            (made.lastrowid, one.words[:_MOST_WORDS]),
        )
    run(
        "INSERT OR REPLACE INTO paper_seen(record, version, files, rules) VALUES (?, ?, ?, ?)",
        (pk, version, files, rules),
    )


def find(session: Session, query: str, limit: int) -> list[tuple[int, int, bytes]]:
    """Return (record pk, place, reading) of the files whose words match an FTS5 query.

    Those of the newest records first.
    """
    sql = (
        "SELECT paper.record, paper.place, paper.body FROM paper"
        " JOIN record ON record.pk = paper.record WHERE paper.id IN"
        " (SELECT rowid FROM paper_search WHERE paper_search MATCH ?)"
        " ORDER BY record.time DESC, paper.id DESC LIMIT ?"
    )
    opened = bodies.unpacker(session)
    return [(pk, place, opened(body)) for pk, place, body in rows(session, sql, (query, limit))]


def editions(session: Session) -> list[tuple[int, str]]:
    """Return (record pk, edition) of every file that says which version of a document it is."""
    return [
        (pk, said)
        for pk, said in rows(
            session, "SELECT record, edition FROM paper WHERE edition != '' ORDER BY id"
        )
    ]


def places(session: Session, pk: int) -> Mapping[int, bytes]:
    """Return what was read of one record, by the place of the file."""
    opened = bodies.unpacker(session)
    found = rows(session, "SELECT place, body FROM paper WHERE record = ?", (pk,))
    return {place: opened(body) for place, body in found}
