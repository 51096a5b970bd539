"""The disk fails at every step in turn, is full, or loses its power; nothing acknowledged is lost.

HOMEPORT_SWEEP=all tries every single step (else at most 8 of each kind, evenly spread), and
HOMEPORT_CUTS is the number of power cuts (60 where nothing is said).
"""

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phr import clock, ids
from phr.errors import PhrError
from phr.fhir.record import Item
from phr.http import Http
from phr.jobs import Jobs, Plan
from phr.keep import Keeper
from phr.net import Guard
from phr.store import audit, backup, connections, database, index, migrations, restore
from phr.store.vault import Vault
from tests.fakes import puller
from tests.fakes.disk import Disk, Failure
from tests.fakes.hospital import Hospital, odd_observations, patient
from tests.fixtures_store import Home, write_down, written
from tests.integration import kill_child
from tests.integration.kill_child import WORK, observation
from tests.integration.test_kill import prepare

MOST = 10**6 if os.environ.get("HOMEPORT_SWEEP") == "all" else 8
CUTS = int(os.environ.get("HOMEPORT_CUTS", "60"))
SEED = 20260302
Work = Callable[[Home, Vault], None]

FAILURES = {
    "EIO once": (errno.EIO, False),
    "EIO from then on": (errno.EIO, True),
    "ENOSPC once": (errno.ENOSPC, False),
    "ENOSPC until there is space again": (errno.ENOSPC, True),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One record with something in it, a connection to import into, and a backup beside it."""
    folder = tmp_path_factory.mktemp("start")
    prepare(folder)
    return folder


def begun(start: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    return folder


def opened(home: Home) -> Vault:
    home.vaults.on_open.append(index.ensure)
    (patient,) = home.vaults.open_by_themselves() or home.vaults.open_ids()
    return home.vaults.get(patient)


# ------------------------------------------------------------------ what is done


def committing(home: Home, vault: Vault) -> None:
    write_down(vault, ids.new_id())


def importing(home: Home, vault: Vault) -> None:
    keeper = Keeper(vault, 1, 1, expected_patient="p", now=clock.now())
    keeper.page("Observation", [Item(observation(n), f"entry {n}") for n in range(60)])
    keeper.finish()


def backing_up(home: Home, vault: Vault) -> None:
    report = backup.back_up_all(home.house, home.vaults)
    if report.failed:
        raise PhrError(*report.failed.values())


def rekeying(home: Home, vault: Vault) -> None:
    home.vaults.rotate(vault)


def restoring(home: Home, vault: Vault) -> None:
    restore.restore(home.house, home.vaults, home.data.parent / "aside")


def exporting_person(home: Home, vault: Vault) -> None:
    """A small thing that writes to vault, slots and house: who opens by itself."""
    home.vaults.set_by_itself(vault, on=False)
    home.vaults.set_by_itself(vault, on=True)


WORKS: dict[str, Work] = {
    "commit": committing,
    "import": importing,
    "backup": backing_up,
    "rekey": rekeying,
    "restore": restoring,
    "opens by itself": exporting_person,
}


# ------------------------------------------------------------------ the sweep


def steps_of(start: Path, folder: Path, work: Work) -> int:
    disk = Disk(begun(start, folder) / "data")
    with disk.in_use(), Home(folder) as home:
        vault = opened(home)
        before = disk.steps
        work(home, vault)
        return disk.steps - before


def chosen(steps: int) -> Iterator[int]:
    """The n of "the n-th step fails": all, or evenly spread with both ends."""
    few = min(steps, MOST)
    return iter(sorted({1 + round(k * (steps - 1) / max(few - 1, 1)) for k in range(few)}))


def clear(error: PhrError) -> None:
    """The person is told what happened, not that something happened."""
    assert error.sentence
    assert error.sentence != PhrError.sentence
    assert "Errno" not in error.sentence


def judged(folder: Path, least: set[str]) -> None:
    """After a restart: whole, nothing lost, nothing suspected, nothing half done."""
    with Home(folder) as home:
        vault = opened(home)
        assert vault.database.problems() == []
        assert home.house.database.problems() == []
        with vault.read() as session:
            assert audit.verify(session, vault) == []
            twice = session.connection().exec_driver_sql(
                "SELECT remote_id FROM record GROUP BY 1 HAVING count(*) > 1"
            )
            assert twice.all() == []
        assert least <= written(vault)
        assert home.vaults.slots_of(vault.id).pending is None
        assert not list(home.house.vaults_folder.glob("*.coming*"))
        assert not list(home.house.backups_folder.glob("*/.*"))
        for made in backup.list_backups(home.house, vault.id):
            assert made.manifest is not None


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())
def test_the_nth_step_fails_and_nothing_acknowledged_is_lost(
    start: Path, tmp_path: Path, work: Work, failure: tuple[int, bool]
) -> None:
    folder = tmp_path / "run"
    steps = steps_of(start, folder, work)
    failed = 0
    for n in chosen(steps):
        disk = Disk(begun(start, folder) / "data")
        with disk.in_use(), Home(folder) as home:
            vault = opened(home)
            write_down(vault, "said before")
            disk.failure = Failure(disk.steps + n, *failure)
            try:
                work(home, vault)
            except PhrError as error:
                clear(error)
                failed += 1
            disk.failure = None
            vault = home.vaults.get(vault.id) if home.vaults.open_ids() else opened(home)
            work(home, vault)  # the next try works, without a restart
        judged(folder, {"first"} if work is restoring else {"first", "said before"})
    assert failed


def test_a_migration_fails_at_the_nth_step_and_is_made_up(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(migrations.STEPS, "vault", (kill_child.add_column,))
    folder = tmp_path / "run"
    disk = Disk(begun(start, folder) / "data")
    with disk.in_use(), Home(folder) as home:
        before = disk.steps
        opened(home)
        steps = disk.steps - before
    failed = 0
    for n in chosen(steps):
        for number, on in FAILURES.values():
            disk = Disk(begun(start, folder) / "data")
            with disk.in_use(), Home(folder) as home:
                disk.failure = Failure(disk.steps + n, number, on)
                if not home.vaults.open_by_themselves():
                    failed += 1
                disk.failure = None
                vault = opened(home)
                assert vault.database.version() == 2
                kept = [each.manifest for each in backup.list_backups(home.house, vault.id)]
                assert "before migration" in {manifest.reason for manifest in kept if manifest}
            judged(folder, {"first"})
    assert failed


def test_a_pull_on_a_full_disk_says_so_and_goes_on_when_there_is_space(
    start: Path, tmp_path: Path
) -> None:
    folder = begun(start, tmp_path / "run")
    hospital = Hospital(records={"Patient": [patient()], "Observation": odd_observations()})
    disk = Disk(folder / "data")
    with disk.in_use(), Home(folder) as home:
        vault = opened(home)
        connection_id = puller.connect(vault, hospital.base)
        http = Http(Guard([hospital.place]), limits=puller.QUICK)
        jobs = Jobs(home.house, home.vaults, http, Plan(folder / "outbox", ""))
        for reads in range(2):  # the vault's disk is full, and then the house's too
            disk.failure = Failure(disk.steps + 1 + reads, errno.ENOSPC, on=bool(reads))
            jobs._pull(vault.id, connection_id)
            disk.failure = None
        assert [each for each in home.house.warnings(vault.id) if "disk is full" in each]
        jobs._pull(vault.id, connection_id)
        http.close()
        jobs.stop()
        with vault.read() as session:
            last = connections.last_pull(session, connection_id)
            assert last is not None
            assert last.state in {"done", "partial"}
            query = "SELECT count(*) FROM record WHERE connection = ?"
            run = session.connection().exec_driver_sql
            assert run(query, (connection_id,)).scalar() == 1 + len(odd_observations())
    hospital.close()
    judged(folder, {"first"})


def reading(home: Home, vault: Vault) -> set[str]:
    assert home.house.warnings(vault.id) == []
    there = written(vault)
    assert "first" in there
    return there


def test_the_nth_read_fails_and_the_next_one_does_not(start: Path, tmp_path: Path) -> None:
    """From the house key to the last row, and a commit after it."""
    folder = begun(start, tmp_path / "run")

    def look(failure: Failure | None) -> Disk:
        disk = Disk(folder / "data", failure)
        with disk.in_use(), Home(folder) as home:
            if home.vaults.open_by_themselves():
                reading(home, home.vaults.get(*home.vaults.open_ids()))
        return disk

    failed = 0
    for n in chosen(look(None).reads):
        try:
            look(Failure(n, errno.EIO, reading=True))
        except PhrError as error:
            clear(error)
            failed += 1
        with Home(folder) as home:
            home.house.dismiss_warnings(opened(home).id)
        look(None)
    judged(folder, {"first"})
    assert failed


# ------------------------------------------------------------------ the power cut


@pytest.mark.parametrize("work", ["import", "rekey", "backup", "migration", "restore"])
def test_a_power_cut_anywhere_leaves_every_acknowledged_commit(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    folder = begun(start, tmp_path / "run")
    monkeypatch.setenv("HOMEPORT_KILL_BACKUP", str(folder / "aside"))
    if work == "migration":
        monkeypatch.setitem(migrations.STEPS, "vault", (kill_child.add_column,))
    disk = Disk(folder / "data", recording=True)
    with disk.in_use(), Home(folder) as home:
        vault = opened(home)
        doing = WORK[work](home.house, home.vaults, vault, lambda value: disk.note("said", value))
        for _ in range(1 if work == "migration" else 3):
            next(doing)
    chance = random.Random(f"{SEED} {work}")  # noqa: S311 - where to cut
    for number in range(max(3, CUTS // 5)):
        after = tmp_path / f"after-{number}"
        said = disk.cut(chance.randrange(len(disk.events) + 1), chance, after / "data")
        if work == "import":
            judged(after, {"first"})
            with Home(after) as home:
                there = kill_child.cursor_of(opened(home))
            assert there >= int(said[-1] if said else 0)
        else:
            told = {value for value in said if str(value).startswith(("rekey-", "backup-"))}
            judged(after, {"first"} | told)
        shutil.rmtree(after)


def test_this_power_cut_does_lose_what_was_not_synced(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with `synchronous=NORMAL` the same cuts lose acknowledged commits."""
    careless = tuple(each.replace("synchronous=2", "synchronous=1") for each in database.PRAGMAS)
    monkeypatch.setattr(database, "PRAGMAS", careless)
    monkeypatch.setitem(database.EXPECTED, "synchronous", 1)
    folder = begun(start, tmp_path / "run")
    disk = Disk(folder / "data", recording=True)
    with disk.in_use(), Home(folder) as home:
        vault = opened(home)
        for number in range(8):
            write_down(vault, f"said {number}")
            disk.note("said", f"said {number}")
    monkeypatch.undo()
    chance, lost = random.Random(SEED), 0  # noqa: S311 - where to cut
    for number in range(12):
        after = tmp_path / f"after-{number}"
        said = disk.cut(chance.randrange(len(disk.events)), chance, after / "data")
        with Home(after) as home:
            lost += not set(said) <= written(opened(home))
    assert lost
