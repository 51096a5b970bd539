"""How soon the patient's tap is felt while many programs read: a running `phr serve`, over HTTP.

The readers are a program of their own (this module, run): what they cost is not the server's.
"""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from phr.appliance import Appliance
from phr.bench import doors, pages
from phr.bench.pages import Server
from phr.bench.row import Row
from phr.settings import Settings

RECORDS = 1000
ASKED = "/fhir/Observation?status=final"
WARM_SECONDS = 3.0  # the rest of the program is loaded, every reader has its line


def stopped(quick: bool) -> list[Row]:
    """Measure from the tap on "stop" until the next request is refused, under fifty readers.

    The tap is a POST of the page's form, the request one of an app whose line is open already;
    each reader asks for its next page at once. Told by the clock on the wall.
    """
    times = doors.REVOKES // 20 if quick else doors.REVOKES
    with TemporaryDirectory() as name:
        stage = pages.staged(Path(name), RECORDS)
        appliance = Appliance.open(Settings(data=stage.data))
        try:
            vault = appliance.vault(stage.patient)
            reading = doors.token_for(vault, doors.unfiltered()).text
            given = [doors.token_for(vault, doors.unfiltered()) for _ in range(times)]
        finally:
            appliance.close()
        with pages.running(stage) as server:
            home, app = server.browser(), _line(server)
            form = pages.form_token(home, stage)
            _ask(app, reading, HTTPStatus.OK)
            with _crowd(server, reading):
                took = []
                for token in given:
                    _ask(app, token.text, HTTPStatus.OK)
                    begin = time.perf_counter()
                    pages.post(server, home, f"/grants/{token.grant_id}/stop", form)
                    _ask(app, token.text, HTTPStatus.UNAUTHORIZED)
                    took.append((time.perf_counter() - begin) * 1000)
    return [
        Row("stop.http.median", median(took), "ms", None, None, "<= 50", "<= 20"),
        Row("stop.http.p99", quantiles(took, n=100)[-1], "ms", None, None, "<= 100", "<= 20"),
    ]


def _ask(line: http.client.HTTPConnection, token: str, wanted: HTTPStatus) -> None:
    line.request("GET", ASKED, headers={"Authorization": f"Bearer {token}"})
    answer = line.getresponse()
    answer.read()
    if answer.status != wanted:
        raise RuntimeError(f"{answer.status} instead of {wanted.value}")


def _line(server: Server) -> http.client.HTTPConnection:
    parts = urlsplit(server.public)
    line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    line.connect()
    return line


@contextmanager
def _crowd(server: Server, token: str) -> Iterator[None]:
    """Let readers ask again and again until the block ends."""
    parts = urlsplit(server.public)
    process = subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-m", __name__, parts.hostname or "", str(parts.port), token],
        stdin=subprocess.PIPE,
    )
    try:
        time.sleep(WARM_SECONDS)
        yield
        if process.poll() is not None:
            raise RuntimeError("nobody read meanwhile")
    finally:
        process.kill()
        process.communicate()


def _read(host: str, port: int, token: str) -> None:
    line = http.client.HTTPConnection(host, port, timeout=60)
    while True:
        _ask(line, token, HTTPStatus.OK)


if __name__ == "__main__":
    given = (sys.argv[1], int(sys.argv[2]), sys.argv[3])
    for _ in range(doors.READERS):
        threading.Thread(target=_read, args=given, daemon=True).start()
    sys.stdin.read()  # until who started this ends it
