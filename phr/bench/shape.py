"""Large records without a long import: rows without bodies, and kept rows repeated many times."""

from random import Random

from phr.bench import house
from phr.fhir.kinds import KINDS
from phr.store import index
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
        run("INSERT INTO search_text(id, hash) VALUES (5, 5)")
        run("INSERT INTO search(rowid, words) VALUES (5, 'glucose')")


_APART = 604_800_000  # a week, in milliseconds, from one repetition to the next
_COPY = (
    "INSERT INTO record(pk, key, connection, type, remote_id, version, hash, time, time_end,"
    " timeline, concept, category, text, value, measure, labels, flags, received, pull, splices,"
    " body) SELECT pk + :pks, random(), connection, type, remote_id || :name, version, hash,"
    " time - :ms, time_end - :ms, timeline - :ms, concept, category, text, value, measure, labels,"
    " flags, received, pull, splices, body FROM record WHERE pk <= :most"
)


def multiply(vault: Vault, times: int) -> None:
    """Repeat every kept record with its body, index columns and entry, each round a week earlier.

    The schema is the product's own, the indexes are built by the product; only the import is
    spared. Texts and concepts are shared, as those of a long life are.
    """
    with vault.write() as session:
        index.drop(session)
        run = session.connection().exec_driver_sql
        most = run("SELECT max(pk) FROM record").scalar_one()
    for round_ in range(1, times):
        values = {"pks": round_ * most, "name": f"-{round_}", "ms": round_ * _APART, "most": most}
        with vault.write() as session:
            driver = session.connection().connection.driver_connection
            assert driver is not None  # noqa: S101  of an open transaction
            driver.execute(_COPY, values)
            driver.execute(
                "INSERT INTO entry(pk, section, state, time) SELECT pk + :pks, section, state,"
                " time - :ms FROM entry WHERE pk <= :most",
                values,
            )
            driver.execute(
                "INSERT INTO evidence(entry, record) SELECT entry + :pks, record + :pks"
                " FROM evidence WHERE record <= :most",
                values,
            )
    with vault.write() as session:
        session.connection().exec_driver_sql(f"UPDATE counter SET n = n * {int(times)}")
    index.ensure(vault)
