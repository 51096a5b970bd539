"""What `test_kill` kills: a process that forks, for each trial, a child at work in a data folder.

A line of JSON (a `Trial`) on standard input begins a trial, a line answers when the child is dead.
With `wait` the delay begins once the vault is open. Acknowledged is what stands in the file
`acks`: it is written after the commit returned.
"""

import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from sqlalchemy import Connection

from phr import clock, ids, keep, pull
from phr.fhir.record import Item
from phr.http import Http
from phr.keep import Keeper, Kept
from phr.net import Guard
from phr.store import accounts, audit, backup, migrations, restore
from phr.store.house import House
from phr.store.models import VaultFact
from phr.store.vault import Vault, Vaults
from tests.fakes import puller
from tests.fakes.growing import name_of
from tests.fixtures_store import CHEAP, OTHER, PASSWORD, write_down

Trial = dict[str, Any]


def observation(number: int) -> bytes:
    """The bytes that a hospital sends for `number`, the same each time."""
    return (
        b'{"resourceType":"Observation","id":"o%d","status":"final","code":{"text":"Glucose"},'
        b'"subject":{"reference":"Patient/p"},"effectiveDateTime":"2024-01-%02d",'
        b'"valueQuantity":{"value":5.%02d0,"unit":"mmol/L"}}'
    ) % (number, number % 28 + 1, number % 100)


def add_column(connection: Connection) -> None:
    """Migrate: DDL over a table with rows."""
    connection.exec_driver_sql("ALTER TABLE recipient ADD COLUMN note TEXT")
    connection.exec_driver_sql("CREATE TABLE added AS SELECT * FROM recipient")
    connection.exec_driver_sql("CREATE INDEX added_name ON added (name)")


class Acks:
    """Says what was acknowledged, in a file that outlives the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def __call__(self, value: object) -> None:
        os.write(self._file, f"{value}\n".encode())


def cursor_of(vault: Vault) -> int:
    return int(vault.fact("cursor") or b"0")


def importing(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    chance = random.Random(cursor_of(vault))  # noqa: S311 - sizes of pages
    keeper = Keeper(vault, 1, 1, expected_patient="p", now=clock.now())
    number = cursor_of(vault)
    while True:
        for _ in range(chance.randint(1, 3)):
            size = chance.randint(1, 40)
            items = [Item(observation(n), f"entry {n}") for n in range(number, number + size)]
            number += size

            def settle(session: Any, kept: Kept, upto: int = number) -> None:
                session.merge(VaultFact(name="cursor", value=str(upto).encode()))
                audit.append(session, vault, "pull.page", audit.APPLIANCE, got=kept.new)

            keeper.page("Observation", items, settle=settle)
        keeper.flush()
        ack(number)
        yield


class Telling(Keeper):
    """Names what arrived, once the transaction that keeps it has been committed."""

    ack: Callable[[object], None]

    def page(self, chain: str, items: Sequence[Item], *, settle: keep.Settle | None = None) -> Kept:
        names = " ".join(name_of(item.body) for item in items)

        def settled(session: Any, kept: Kept) -> None:
            if settle is not None:
                settle(session, kept)
            session.info.setdefault("after", []).append(lambda: self.ack(names))

        return super().page(chain, items, settle=settled)


def pulling(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    base = os.environ["HOMEPORT_KILL_BASE"]
    Telling.ack = staticmethod(ack)  # type: ignore[method-assign]
    pull.Keeper = Telling  # type: ignore[misc]
    keep.WAIT = 0.03  # type: ignore[misc]  # many small commits in the time of one
    puller.hurry()
    http = Http(Guard([urlsplit(base).netloc]), limits=puller.QUICK)
    while True:
        state = pull.run(vault, 1, http=http, now=clock.now())
        if state != "done":
            raise AssertionError(state)
        urlopen(f"{base}/grow").close()
        yield


def rekeying(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    while True:
        vaults.rotate(vault)
        name = f"rekey-{ids.new_id()}"
        write_down(vault, name)
        ack(name)
        yield


def backing_up(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    while True:
        name = f"backup-{ids.new_id()}"
        write_down(vault, name)
        ack(name)
        backup.back_up_all(house, vaults, keep=2)
        yield


def migrating(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    ack("migrated")  # opening the vault was the migration
    yield


def changing(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    account = accounts.list_accounts(house)[0].id
    passwords = [PASSWORD, OTHER]
    try:
        accounts.private_key(house, account, PASSWORD)
    except accounts.WrongSecret:
        passwords.reverse()
    while True:
        accounts.change_password(house, vaults, account, *passwords)
        passwords.reverse()
        ack(passwords[0])
        yield


def restoring(house: House, vaults: Vaults, vault: Vault, ack: Acks) -> Iterator[None]:
    folder = Path(os.environ["HOMEPORT_KILL_BACKUP"])
    while True:
        write_down(vaults.get(vault.id), f"later-{ids.new_id()}")
        restore.restore(house, vaults, folder)
        ack("restored")
        yield


WORK: dict[str, Callable[[House, Vaults, Vault, Acks], Iterator[None]]] = {
    "pull": pulling,
    "import": importing,
    "rekey": rekeying,
    "backup": backing_up,
    "migration": migrating,
    "password": changing,
    "restore": restoring,
}


def child(trial: Trial, ready: int) -> None:
    if not trial["wait"]:
        os.write(ready, b"!")
    os.environ["HOMEPORT_KILL_BACKUP"] = trial.get("backup", "")
    os.environ["HOMEPORT_KILL_BASE"] = trial.get("base", "")
    if trial["work"] == "migration":
        migrations.STEPS["vault"] = (add_column,)
    ack = Acks(trial["acks"])
    house = House.open(Path(trial["data"]))
    vaults = Vaults(house)
    (vault_id,) = vaults.open_by_themselves()
    os.write(ready, b"!")
    for _ in WORK[trial["work"]](house, vaults, vaults.get(vault_id), ack):
        pass
    signal.pause()


def waited(pid: int | str = "thread-self") -> float:
    """Seconds in which a process (its first thread) could have run, but others did."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # a kernel that does not count it, or it is over
        return 0.0


def _let_run(pid: int, seconds: float) -> None:
    """Wait until a child has had so much time that no other program took from it, or is over."""
    began, before, alive = time.monotonic(), waited(pid), os.pidfd_open(pid)
    while time.monotonic() - began < 30 * seconds:
        left = seconds - (time.monotonic() - began - max(waited(pid) - before, 0.0))
        if left <= 0 or select.select([alive], [], [], left)[0]:
            break
    os.close(alive)


def run(trial: Trial, work: Callable[[Trial, int], None]) -> None:
    """Fork the child, wait (until it has begun to work, and) the random delay, kill it."""
    listening, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(trial, ready)
        except BaseException as error:  # noqa: BLE001 - the parent must hear of it
            Acks(trial["acks"])(f"ERROR {type(error).__name__}: {error}")
        finally:
            os._exit(1)
    os.close(ready)
    os.read(listening, 1)
    os.close(listening)
    _let_run(pid, trial["delay"])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def obey(work: Callable[[Trial, int], None]) -> None:
    """Run the trials that are asked for, each in a process of its own."""
    for line in sys.stdin:
        run(json.loads(line), work)
        sys.stdout.write("dead\n")
        sys.stdout.flush()


if __name__ == "__main__":
    assert CHEAP
    obey(child)
