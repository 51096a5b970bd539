"""A throw-away house with one open vault and one connection, for measuring real files."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from phr import clock, ids
from phr.store.database import Database
from phr.store.house import House
from phr.store.models import Connection, ConnectionState, Pull, VaultFact
from phr.store.vault import Vault

BASE = "https://bench.example.org/fhir"


@contextmanager
def opened(folder: Path | None = None) -> Iterator[Vault]:
    """Give a fresh vault in a temporary data folder."""
    with TemporaryDirectory(dir=folder) as name:
        house = House.open(Path(name) / "data")
        path = house.vaults_folder / "bench.db"
        path.parent.mkdir(exist_ok=True)
        database = Database.open(path, ids.random_bytes(32), kind="vault", create=True)
        facts = {
            "id": b"bench",
            "id_key": bytes(32),
            "audit_key": bytes(32),
            "box_private": bytes(32),
            "epoch": b"1",
        }
        with database.write() as session:
            session.add_all(VaultFact(name=name, value=value) for name, value in facts.items())
        vault = Vault("bench", bytes(32), database, house)
        vault.load_facts()
        try:
            yield vault
        finally:
            database.close()
            house.close()


@contextmanager
def frozen() -> Iterator[None]:
    """Leave what is loaded out of the collector's walks, as `phr serve` does: each takes 0.1 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def connection(vault: Vault, name: str = "Bench hospital", kind: str = "smart") -> int:
    """Add an active connection and return its id."""
    with vault.write() as session:
        made = Connection(
            kind=kind,
            name=name,
            base_url=BASE,
            state=ConnectionState.ACTIVE,
            created_at=clock.now(),
        )
        session.add(made)
        session.flush()
        return made.id


def pull(vault: Vault, connection_id: int) -> int:
    """Begin a pull and return its id."""
    with vault.write() as session:
        made = Pull(connection_id=connection_id, started_at=clock.now())
        session.add(made)
        session.flush()
        return made.id
