"""Rows H and I of the list of bad inputs (docs/security-rows.md) that no other test covers."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from phr import clock
from phr.errors import WrongSecret
from phr.settings import Settings
from phr.store import backup
from phr.store.restore import restore
from tests.cast import Cast
from tests.fixtures_store import PASSWORD, Home, write_down, written

FEW_FILES = 96  # descriptors: what it needs by itself, and a few callers


@contextmanager
def serving(data: Path, log: str, before: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `phr serve` with its log at `log`; `before` runs in that process first."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PHR_")}
    ports = {"PHR_PORT": "0", "PHR_PUBLIC_PORT": "0", "PHR_DEMO_PORT": "0"}
    run = f"{before}from phr.cli import main; main()"
    with open(log, "w") as errors:  # noqa: PTH123 - also /dev/full
        process = subprocess.Popen(
            [sys.executable, "-c", run, "serve", "--json", "--data", str(data)],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True,
            env=clean | ports,
        )  # fmt: skip
    try:
        assert process.stdout
        facts = next(json.loads(line) for line in process.stdout if line.startswith("{"))
        yield process, facts["home_url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)
        assert process.stdout
        process.stdout.close()


@pytest.fixture
def data(cast: Cast, settings: Settings) -> Path:
    """The folder of the cast, nobody using it."""
    cast.close()
    cast.appliance.close()
    return settings.data


def test_a_full_disk_under_the_log_stops_nothing(data: Path):
    with serving(data, "/dev/full") as (process, home):
        for path in ("/healthz", "/signin", "/nothing", "/readyz"):
            assert httpx.get(home + path).status_code in {200, 404}
        assert process.poll() is None
    assert process.returncode == 0


def test_more_callers_than_files_may_be_open_harm_nothing(data: Path, tmp_path: Path):
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FEW_FILES}, {FEW_FILES})); "
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * FEW_FILES
    with serving(data, str(tmp_path / "log"), limited) as (process, home):
        place = urlsplit(home)
        with ExitStack() as held:
            for _ in range(2 * FEW_FILES):
                line = socket.create_connection((place.hostname, place.port), 5)
                held.enter_context(line).sendall(b"GET / HTTP/1.1\r\nHost: ")
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(transport=transport, timeout=10) as caller:
            assert caller.get(f"{home}/readyz").status_code == 200
            assert caller.get(f"{home}/signin").status_code == 200
        assert process.poll() is None
    with Home(data.parent) as home_again:
        assert home_again.vaults.open_by_themselves()


def test_a_backup_among_ten_writers_is_one_moment_of_the_record(tmp_path: Path):
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada, by_itself=True)
        vault = home.vaults.get(patient)
        done = threading.Event()

        def write(number: int) -> None:
            step = 0
            while not done.is_set() and step < 200:
                write_down(vault, f"{number}-{step:03}")
                step += 1

        writers = [threading.Thread(target=write, args=(number,)) for number in range(10)]
        for writer in writers:
            writer.start()
        made = backup.back_up(home.house, home.vaults, patient)
        done.set()
        for writer in writers:
            writer.join()
        later = written(vault)
        restore(home.house, home.vaults, made.folder)
        then = written(home.vaults.get(patient))
        assert then <= later
        for number in range(10):  # of each writer a beginning without a gap
            own = sorted(name for name in then if name.startswith(f"{number}-"))
            assert own == [f"{number}-{step:03}" for step in range(len(own))]


def test_a_backup_opens_with_the_only_secret_that_is_left_and_with_no_other(tmp_path: Path):
    """The old password after a change; nothing tells which of two wrong secrets was nearer."""
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        write_down(home.vaults.get(patient), "kept")
        folder = backup.back_up(home.house, home.vaults, patient).folder
        (tmp_path / "new").mkdir()
        with Home(tmp_path / "new") as machine:
            told = set()
            for wrong in ("nobody's password", PASSWORD[:-1], PASSWORD.upper()):
                with pytest.raises(WrongSecret) as refused:
                    restore(machine.house, machine.vaults, folder, password=wrong)
                told.add(refused.value.sentence)
            assert len(told) == 1
            restore(machine.house, machine.vaults, folder, password=PASSWORD)
            machine.sign_in()
            assert written(machine.vaults.get(patient)) >= {"kept"}


def test_the_same_commit_tried_again_after_a_lost_answer_changes_nothing(cast: Cast):
    """A commit that was reported as failed but is stored: the keeper's retry is no duplicate."""
    from tests.fixtures_records import keep_records, lab

    vault = cast.vault("Ada")
    some = [lab("Sodium", f"s{number}", "140") for number in range(20)]
    connection = keep_records(vault, some)
    keep_records(vault, some, connection_id=connection, now=clock.now())
    with vault.read() as session:
        rows = session.connection().exec_driver_sql("SELECT count(*) FROM record").scalar_one()
    assert rows == len(some)
