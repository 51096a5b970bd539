"""Rows H and I of the list of bad inputs (docs/security-rows.md) that no other test covers."""

import base64
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


LIMITED = """
import resource, sys
from phr.cli import main
from phr.cli import commands, record_commands
held = int(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + {more}, held + {more}))
main()
"""


@pytest.mark.parametrize("more", [40, 400], ids=lambda more: f"{more} MB")
def test_a_step_that_needs_more_memory_than_there_is_harms_nothing(
    data: Path, tmp_path: Path, more: int
):
    """A limit as a container sets it, met in the middle of an import: told, whole, taken up."""
    file = tmp_path / "large.ndjson"
    heavy = base64.b64encode(bytes(range(256)) * 40_000).decode()
    with file.open("w") as lines:
        for number in range(600):
            letter = {"resourceType": "DocumentReference", "id": f"d{number}", "status": "current"}
            if number % 200 == 199:
                letter["content"] = [{"attachment": {"contentType": "image/x", "data": heavy}}]
            lines.write(json.dumps(letter) + "\n")
    words = ["import", str(file), "--patient", "Ada", "--data", str(data), "--json"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PHR_")}
    run = [sys.executable, "-c", LIMITED.format(more=more << 20), *words]
    tried = subprocess.run(run, capture_output=True, text=True, env=clean, check=False)
    assert bool(tried.returncode) is (more < 400), tried.stderr[-2000:]
    if tried.returncode:
        assert "not enough memory" in tried.stderr, tried.stderr[-2000:]
    run = [sys.executable, "-c", "from phr.cli import main; main()", *words]
    again = subprocess.run(run, capture_output=True, text=True, env=clean, check=True)
    told = json.loads(again.stdout.splitlines()[0])
    assert told["kept"] + told["unchanged"] == 600
    assert told["quarantined"] == 0
    with Home(data.parent) as home:
        for patient in home.vaults.open_by_themselves():
            vault = home.vaults.get(patient)
            assert vault.database.problems() == []
            with vault.read() as session:
                query = "SELECT count(*), count(DISTINCT key) FROM record"
                rows, keys = session.connection().exec_driver_sql(query).one()
            assert rows == keys


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
