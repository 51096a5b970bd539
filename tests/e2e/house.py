"""A real appliance in its own process on free loopback ports, for tests with a browser."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
def running(data: Path, **settings: str) -> Iterator[Running]:
    """Start `phr serve` with the demo hospital; stop it at the end."""
    given = {"PHR_PORT": "0", "PHR_PUBLIC_PORT": "0", "PHR_DEMO_PORT": "0", "PHR_DEMO": "1"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PHR_")}
    log = (data.parent / f"{data.name}.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "phr", "serve", "--json", "--data", str(data)],
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
