"""Rows without bodies in the shape of a large record: for query plans and page timings."""

from random import Random

from phr.bench import house
from phr.fhir.kinds import KINDS
from phr.store.vault import Vault

_TYPES = ("Observation",) * 10 + ("Encounter", "Condition", "Procedure", "DiagnosticReport")


def fill(vault: Vault, count: int, seed: int = 1) -> None:
    """Write `count` rows of mixed kinds, texts, concepts and dates over 20 years."""
    connection = house.connection(vault)
    chance = Random(seed)
    kinds = [KINDS[type_] for type_ in _TYPES]
    rows = []
    for pk in range(1, count + 1):
        kind = chance.choice(kinds)
        time = chance.randrange(1_100_000_000_000, 1_750_000_000_000)
        concept = chance.randrange(1, 300)
        rows.append(
            (
                pk,
                chance.getrandbits(63),
                connection,
                kind.number,
                f"r{pk}",
                bytes(16),
                time,
                time if kind.timeline else None,
                concept,
                1 << chance.randrange(4),
                chance.randrange(1, 800),
                chance.random(),
                pk,
                1,
                b"",
                b"",
            )
        )
    with vault.write() as session:
        run = session.connection().exec_driver_sql
        run(
            "INSERT INTO record(pk, key, connection, type, remote_id, version, hash, time,"
            " timeline, concept, category, text, value, labels, flags, received, pull, splices,"
            " body) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?)",
            rows,
        )
        run(
            "INSERT INTO coding(system, code, concept, display)"
            " VALUES ('http://loinc.org', '2345-7', 7, '')"
        )
        run("INSERT INTO entry(pk, section, state, time) SELECT pk, type % 9, 1, time FROM record")
        run("INSERT INTO evidence(entry, record) SELECT pk, pk FROM record")
        run("INSERT INTO search_text(id, hash) VALUES (5, 5)")
        run("INSERT INTO search(rowid, words) VALUES (5, 'glucose')")
