"""kill -9 at random moments; an oracle outside compares what was acknowledged with what is there.

HOMEPORT_KILLS sets the number of kills over all kinds of work (100 where nothing is said).
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import apsw
import pytest

from phr import clock
from phr.errors import WrongSecret
from phr.store import accounts, audit, backup, index, migrations
from phr.store.database import PAGE_BYTES
from phr.store.models import Connection, Pull
from phr.store.vault import Vault
from tests.fixtures_store import OTHER, PASSWORD, Home, write_down, written
from tests.integration import kill_child
from tests.integration.kill_child import Trial, cursor_of, observation

KILLS = int(os.environ.get("HOMEPORT_KILLS", "100"))
SHARE = {"import": 0.3, "rekey": 0.2, "backup": 0.15, "migration": 0.15, "password": 0.1,
         "restore": 0.1}  # fmt: skip
SEED = 20260301


class Killer:
    """The process that starts and kills children."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.kill_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )

    def run(self, trial: Trial) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(trial) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "dead\n"

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer()
    yield process
    process.close()


def prepare(folder: Path) -> tuple[str, Path]:
    """One record that opens by itself, with a connection to import into and a backup."""
    with Home(folder) as home:
        patient = home.patient(home.account(), by_itself=True)
        vault, now = home.vaults.get(patient), clock.now()
        write_down(vault, "first")
        with vault.write() as session:
            session.add(Connection(kind="rest", name="H", base_url="https://h.example",
                                   remote_patient="p", created_at=now))  # fmt: skip
            session.flush()
            session.add(Pull(connection_id=1, started_at=now))
        made = backup.back_up(home.house, home.vaults, patient, reason="by hand")
        aside = Path(shutil.copytree(made.folder, folder / "aside"))
    return patient, aside


def acknowledged(path: Path) -> list[str]:
    said = path.read_text().splitlines() if path.exists() else []
    assert not [line for line in said if line.startswith("ERROR")]
    return said


def judge(home: Home, patient: str, *, warned: bool = False) -> Vault:
    """Reopen as a restart does, and demand that everything is whole and nothing is suspected."""
    home.vaults.on_open.append(index.ensure)
    assert home.vaults.open_by_themselves() == [patient]
    vault = home.vaults.get(patient)
    assert vault.database.problems() == []
    assert home.house.database.problems() == []
    with vault.read() as session:
        assert audit.verify(session, vault) == []
    with home.house.read() as session:
        assert audit.verify_house(session, home.house) == []
    assert warned or home.house.warnings(patient) == []
    assert home.vaults.slots_of(patient).pending is None
    assert not list(home.house.vaults_folder.glob("*.coming*"))
    return vault


def judge_import(vault: Vault, said: list[str]) -> None:
    cursor = cursor_of(vault)
    assert cursor >= int(said[-1] if said else 0)
    with vault.read() as session:
        rows = session.connection().exec_driver_sql("SELECT remote_id, hash FROM record").all()
    expected = {f"o{n}": sha256(observation(n)).digest()[:16] for n in range(cursor)}
    assert len(rows) == cursor
    assert {row[0]: row[1] for row in rows} == expected


def judge_backups(home: Home, vault: Vault) -> None:
    assert not list(home.house.backups_folder.glob("*/.*"))
    for made in backup.list_backups(home.house, vault.id):
        backup.verify_backup(made.folder, vault.key)


def judge_password(home: Home, said: list[str]) -> None:
    account = accounts.list_accounts(home.house)[0].id
    fits = []
    for password in (PASSWORD, OTHER):
        try:
            accounts.private_key(home.house, account, password)
            fits.append(password)
        except WrongSecret:
            continue
    assert len(fits) == 1
    home.vaults.seal(home.vaults.open_ids()[0])
    assert home.sign_in("Ada", fits[0]).unopened == ()
    assert said.count(fits[0]) >= said.count(PASSWORD if fits[0] == OTHER else OTHER) - 1


def judge_by_second_implementation(home: Home, patient: str, expected: set[str]) -> None:
    key, path = home.vaults.get(patient).key, home.vaults.path(patient)
    home.vaults.close()
    reader = apsw.Connection(str(path))
    for name, value in (("cipher", "sqlcipher"), ("legacy", 4), ("legacy_page_size", PAGE_BYTES)):
        reader.pragma(name, value)
    reader.pragma("key", f"raw:{key.hex()}")
    assert {row[0] for row in reader.execute("SELECT id FROM recipient")} == expected
    assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    reader.close()


def trials(work: str, folder: Path) -> Iterator[Trial]:
    chance = random.Random(f"{SEED} {work}")  # noqa: S311 - when to kill
    for number in range(max(1, round(KILLS * SHARE[work]))):
        yield {
            "work": work,
            "data": str(folder / "data"),
            "acks": str(folder / f"acks-{number}"),
            "wait": work != "migration" and number % 4 != 3,
            "delay": chance.uniform(0.001, 0.2),
        }


def test_import_loses_and_doubles_nothing(tmp_path: Path, killer: Killer) -> None:
    patient, _ = prepare(tmp_path)
    worked = 0
    for trial in trials("import", tmp_path):
        killer.run(trial)
        said = acknowledged(Path(trial["acks"]))
        worked += len(said)
        with Home(tmp_path) as home:
            judge_import(judge(home, patient), said)
    assert worked


@pytest.mark.parametrize("work", ["rekey", "backup"])
def test_new_keys_and_backups_lose_nothing(tmp_path: Path, killer: Killer, work: str) -> None:
    patient, _ = prepare(tmp_path)
    everything = {"first"}
    for trial in trials(work, tmp_path):
        killer.run(trial)
        everything |= set(acknowledged(Path(trial["acks"])))
        with Home(tmp_path) as home:
            vault = judge(home, patient)
            there = written(vault)
            assert everything <= there
            assert len(there - everything) <= 1  # stored, killed before it was said
            everything = there
            if work == "backup":
                judge_backups(home, vault)
    with Home(tmp_path) as home:
        home.vaults.open_by_themselves()
        judge_by_second_implementation(home, patient, everything)
    assert len(everything) > 1


def test_a_migration_is_whole_or_did_not_happen(
    tmp_path: Path, killer: Killer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "older").mkdir()
    patient, _ = prepare(tmp_path / "older")
    monkeypatch.setitem(migrations.STEPS, "vault", (kill_child.add_column,))
    for trial in trials("migration", tmp_path):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        shutil.copytree(tmp_path / "older" / "data", tmp_path / "data")
        killer.run(trial)
        acknowledged(Path(trial["acks"]))
        with Home(tmp_path) as home:
            vault = judge(home, patient)
            assert written(vault) == {"first"}
            assert vault.database.version() == 2
            judge_backups(home, vault)
            kept = [b.manifest for b in backup.list_backups(home.house, patient)]
            assert "before migration" in {manifest.reason for manifest in kept if manifest}


def test_one_of_two_passwords_always_opens(tmp_path: Path, killer: Killer) -> None:
    patient, _ = prepare(tmp_path)
    for trial in trials("password", tmp_path):
        killer.run(trial)
        with Home(tmp_path) as home:
            judge(home, patient)
            judge_password(home, acknowledged(Path(trial["acks"])))


def test_a_restore_is_whole_or_did_not_happen(tmp_path: Path, killer: Killer) -> None:
    patient, aside = prepare(tmp_path)
    for trial in trials("restore", tmp_path):
        killer.run({**trial, "backup": str(aside)})
        acknowledged(Path(trial["acks"]))
        with Home(tmp_path) as home:
            there = written(judge(home, patient, warned=True))
            assert "first" in there
            assert all(name == "first" or name.startswith("later-") for name in there)
