"""A real appliance in its own process on free loopback ports, for tests with a browser."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import journey

START_SECONDS = 30


@dataclass(frozen=True)
class Running:
    """A running appliance: its addresses, the set-up code, its data folder and its process."""

    home: str
    public: str
    code: str
    data: Path
    process: subprocess.Popen

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def running(
    data: Path, *, program: Sequence[str] = ("-m", "phr"), **settings: str
) -> Iterator[Running]:
    """Start `phr serve` with the demo hospital; stop it at the end."""
    given = {"PHR_PORT": "0", "PHR_PUBLIC_PORT": "0", "PHR_DEMO_PORT": "0", "PHR_DEMO": "1"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PHR_")}
    log = (data.parent / f"{data.name}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, *program, "serve", "--json", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=log,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean | given | settings,
    )
    try:
        facts = _ready(process, Path(log.name))
        yield Running(
            facts["home_url"], facts["public_url"], facts["setup_code"] or "", data, process
        )
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(15)
        process.stdout.close()
        log.close()


def _ready(process: subprocess.Popen, log: Path) -> dict:
    for line in process.stdout:
        if line.startswith("{"):
            facts = json.loads(line)
            if facts.get("event") == "ready":
                return facts
    raise AssertionError(f"the appliance did not start:\n{log.read_text()[-3000:]}")


def command_line(house: Running, *arguments: str, given: str = "") -> str:
    """Run a command beside the running appliance and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "phr", *arguments, "--data", str(house.data)],
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_small_record(house: Running, folder: Path) -> None:
    """Make an account and a record with one allergy and one medicine, at the command line."""
    command_line(house, "account", "create", journey.NAME, given=journey.PASSWORD)
    owned = ("--owner", journey.NAME, "--opens-by-itself")
    command_line(house, "vault", "create", journey.PERSON, *owned)
    file = folder / "small.ndjson"
    file.write_text(
        '{"resourceType":"AllergyIntolerance","id":"1","code":{"text":"Penicillin"}}\n'
        '{"resourceType":"MedicationRequest","id":"2","status":"active","intent":"order",'
        '"medicationCodeableConcept":{"text":"Metformin 500 mg"}}\n'
    )
    command_line(house, "import", str(file), "--patient", journey.PERSON)
