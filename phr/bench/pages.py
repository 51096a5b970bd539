"""Page figures: a running `phr serve` with 10^5 records, asked over loopback as a browser would.

The bare query is the page's own SELECT (50 rows with their bodies) on a driver connection of the
same file, its rows fetched and thrown away.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from random import Random
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from phr import clock, ids
from phr.appliance import Appliance
from phr.bench import corpus, house, imports
from phr.bench.row import Row
from phr.cli import control
from phr.fhir.record import Selection
from phr.settings import Settings
from phr.sharing import links, provision
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.store import accounts, records, sessions
from phr.store.vault import Vault

PEOPLE = {"kind": "account", "id": "bench", "name": "Bench"}
REVOKES = 50
TIMES = 400  # requests of one figure
IDLE_SECONDS = 5.0  # before the resident memory is read
IMPORT_LIVES = 20_000  # records of one imported file; the next file follows at once


@dataclass(slots=True)
class Stage:
    """A prepared data folder: one person whose vault opens by itself, a session, some links."""

    data: Path
    patient: str
    cookie: str
    places: list[tuple[int, int] | None]  # where timeline pages begin; None is the newest
    grants: list[tuple[str, str, str]]  # (grant id, routing id, cookie of the bound browser)
    bare: dict[str, float] = field(default_factory=dict)  # seconds of CPU of the bare query


@dataclass(slots=True)
class Server:
    """A running appliance in a process of its own."""

    stage: Stage
    process: subprocess.Popen[str]
    home: str
    public: str
    started: float

    def browser(self) -> http.client.HTTPConnection:
        """Return a connection to the home address that is kept alive."""
        parts = urlsplit(self.home)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def cpu(self) -> float:
        """Return the seconds of CPU that every thread of the server has used."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        spent = [(task / "schedstat").read_text().split()[0] for task in tasks.iterdir()]
        return sum(map(int, spent)) / 1e9

    def resident(self) -> float:
        """Return the resident memory in megabytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


# ------------------------------------------------------------------ the figures


def pages(quick: bool) -> list[Row]:
    """Measure timeline page, start, memory and revoke against a running appliance."""
    count = 10_000 if quick else 100_000
    with TemporaryDirectory() as name:
        stage = _stage(Path(name), count)
        with running(stage) as server:
            rows = [_first_page(server), *_timelines(server, count), *_revokes(server, quick)]
            with importing(server, Path(name)):
                rows += [_busy(server, count), *_revokes(server, quick, busy=True)]
        with running(stage) as server:
            _get(server.browser(), server.stage, "/")
            time.sleep(IDLE_SECONDS)
            rows.append(Row("rss.idle", server.resident(), "MB", None, None, "<= 110", "<= 75"))
    return rows


def _first_page(server: Server) -> Row:
    _get(server.browser(), server.stage, "/timeline")
    took = time.perf_counter() - server.started
    return Row("start.first_page", took, "s", None, None, "<= 1.0", "<= 0.5")


def _timelines(server: Server, count: int) -> Iterator[Row]:
    """Time the newest page and pages at random places, each beside the same bare query."""
    browser = server.browser()
    for name, places in (("newest", server.stage.places[:1]), ("older", server.stage.places[1:])):
        paths = [_path(places[number % len(places)]) for number in range(TIMES)]
        for path in paths[:50]:
            _get(browser, server.stage, path)
        before = server.cpu()
        walls = [_seconds(browser, server.stage, path) for path in paths]
        spent, bare = (server.cpu() - before) / TIMES, server.stage.bare[name]
        yield Row(
            f"page.timeline.{name}.{count}.cpu",
            spent * 1e6,
            "us CPU",
            bare * 1e6,
            spent / bare,
            "<= 10",
            "<= 5",
        )
        yield Row(
            f"page.timeline.{name}.{count}.p95", _p95(walls), "ms", None, None, "<= 10", "<= 3"
        )


def _busy(server: Server, count: int) -> Row:
    """Time the newest and older pages in turn while a live import runs."""
    browser, places, walls = server.browser(), server.stage.places, []
    for number in range(TIMES):
        path = _path(places[number % len(places) if number % 2 else 0])
        walls.append(_seconds(browser, server.stage, path))
        time.sleep(0.005)
    return Row(f"page.timeline.{count}.importing.p95", _p95(walls), "ms", None, None, "<= 25", "")


def _revokes(server: Server, quick: bool, *, busy: bool = False) -> Iterator[Row]:
    """Time from the tap on "stop" until an open page of the doctor is told and answers 410."""
    times = 10 if quick else REVOKES
    browser = server.browser()
    token = _token(browser, server.stage)
    told = [_revoke(server, browser, token, server.stage.grants.pop()) for _ in range(times)]
    name = "revoke.importing" if busy else "revoke"
    if not busy:
        yield Row(f"{name}.median", median(told) * 1000, "ms", None, None, "<= 50", "<= 20")
    yield Row(f"{name}.worst", max(told) * 1000, "ms", None, None, "<= 1000", "<= 100")


def _revoke(
    server: Server, browser: http.client.HTTPConnection, token: str, grant: tuple[str, str, str]
) -> float:
    grant_id, routing_id, cookie = grant
    parts = urlsplit(server.public)
    doctor = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    named = {"Cookie": f"s-{routing_id}={cookie}"}
    doctor.request("GET", f"/s/{routing_id}/events", headers=named)
    answer = doctor.getresponse()
    while (line := answer.readline()) and b"open" not in line:
        pass
    blank: list[float] = []
    page = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    page.connect()

    def wait() -> None:
        while (line := answer.readline()) and b"ended" not in line:
            pass
        page.request("GET", f"/s/{routing_id}", headers=named)
        status = page.getresponse().status
        blank.append(time.perf_counter())
        if status != HTTPStatus.GONE:
            raise AssertionError(f"the page was still there: {status}")

    listener = threading.Thread(target=wait)
    listener.start()
    begin = time.perf_counter()
    _post(server, browser, f"/grants/{grant_id}/stop", token)
    listener.join(60)
    doctor.close()
    page.close()
    return blank[0] - begin


# ------------------------------------------------------------------ the stage


def _stage(folder: Path, count: int) -> Stage:
    """Fill a data folder and measure the bare queries on its file."""
    appliance = Appliance.open(Settings(data=folder / "data"))
    try:
        at = appliance.house, appliance.vaults
        account = accounts.create_account(at[0], "Bench", ids.new_secret(), administrator=True)
        patient = accounts.create_patient(
            *at, name="Bench", colour=1, account_id=account, role="self", opens_by_itself=True
        )
        vault = appliance.vault(patient)
        imports.pages(vault, house.connection(vault), imports.items(count))
        cookie = sessions.start(
            at[0], account, browser="bench", lifetime=timedelta(hours=10), factor="password"
        )
        stage = Stage(appliance.settings.data, patient, cookie, _places(vault), _grants(vault))
        stage.bare = {
            "newest": _bare(vault, stage.places[:1]),
            "older": _bare(vault, stage.places[1:]),
        }
        return stage
    finally:
        appliance.close()


def _places(vault: Vault, number: int = 50) -> list[tuple[int, int] | None]:
    with vault.read() as session:
        rows = session.connection().exec_driver_sql(
            "SELECT timeline, pk FROM record WHERE timeline IS NOT NULL"
        )
        return [None, *Random(corpus.SEED).sample([(row[0], row[1]) for row in rows], number)]


def _grants(vault: Vault) -> list[tuple[str, str, str]]:
    now, made = clock.now(), []
    step_up = StepUp("bench", "password", now)
    wish = Wish(
        "Dr Bench", "", "primary", provision.preset("primary", now=now), now + timedelta(1), None
    )
    for _ in range(2 * REVOKES):
        grant_id = ids.new_id()
        link = links.make(
            vault,
            wish,
            grant_id=grant_id,
            step_up=step_up,
            shown="bench",
            actor=PEOPLE,
            public_url="http://127.0.0.1",
            now=now,
        )
        routing_id, _, secret = link.url.rpartition("/")[2].partition(".")
        claimed = links.claim(vault, routing_id, secret, link.code, "bench", now=now)
        made.append((grant_id, routing_id, claimed.cookie or ""))
    return made


def _bare(vault: Vault, places: list[tuple[int, int] | None]) -> float:
    """Return the mean seconds of CPU of the page's SELECT on a connection of the driver."""
    asked = [
        records.statement(Selection(timeline=True, limit=50, before=place)) for place in places
    ]
    with vault.read() as session:
        driver: Any = session.connection().connection.driver_connection

        def ask(number: int) -> None:
            driver.execute(*asked[number % len(asked)]).fetchall()

        for number in range(50):
            ask(number)
        begin = time.process_time()
        for number in range(TIMES):
            ask(number)
        return (time.process_time() - begin) / TIMES


# ------------------------------------------------------------------ the running appliance


@contextmanager
def running(stage: Stage) -> Iterator[Server]:
    """Run `phr serve` over the stage; stop it by its process id."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PHR_")}
    given = {"PHR_PORT": "0", "PHR_PUBLIC_PORT": "0", "PHR_IDLE_MINUTES": "240"}
    started = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-m", "phr", "serve", "--json", "--data", str(stage.data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean | given,
    )
    try:
        facts = _ready(process)
        yield Server(stage, process, facts["home_url"], facts["public_url"], started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        if process.stdout:
            process.stdout.close()


def _ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    for line in process.stdout or ():
        facts: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if facts.get("event") == "ready":
            return facts
    raise RuntimeError("the appliance did not start")


@contextmanager
def importing(server: Server, folder: Path) -> Iterator[None]:
    """Import one file after another in the server until the block ends."""
    lines = [body + b"\n" for body in corpus.bodies(IMPORT_LIVES, seed=corpus.SEED + 7)]
    over, begun, kept = threading.Event(), threading.Event(), list[str]()
    socket = Settings(data=server.stage.data).control_path

    def work() -> None:
        number = 0
        while not over.is_set():
            number += 1
            path = folder / f"more-{number}.ndjson"
            path.write_bytes(b"".join(lines))
            asked = {"files": [str(path)], "patient": server.stage.patient}
            begun.set()
            for _ in control.call(socket, "import", asked):
                pass
            path.unlink()
            kept.append(path.name)

    worker = threading.Thread(target=work)
    worker.start()
    begun.wait(60)
    time.sleep(0.5)
    try:
        yield
    finally:
        over.set()
        worker.join(120)
    if not kept:
        raise RuntimeError("nothing was imported meanwhile")


def _path(place: tuple[int, int] | None) -> str:
    return "/timeline" + (f"?before={place[0]}.{place[1]}" if place else "")


def _get(browser: http.client.HTTPConnection, stage: Stage, path: str) -> bytes:
    browser.request("GET", f"/p/{stage.patient}{path}", headers={"Cookie": f"hp={stage.cookie}"})
    answer = browser.getresponse()
    body = answer.read()
    if answer.status != HTTPStatus.OK:
        raise RuntimeError(f"{path} answered {answer.status}")
    return body


def _token(browser: http.client.HTTPConnection, stage: Stage) -> str:
    html = _get(browser, stage, "/more").decode()
    return html.partition('name="csrf" value="')[2].partition('"')[0]


def _post(server: Server, browser: http.client.HTTPConnection, path: str, token: str) -> None:
    headers = {
        "Cookie": f"hp={server.stage.cookie}",
        "Origin": server.home,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    browser.request("POST", f"/p/{server.stage.patient}{path}", f"csrf={token}", headers)
    answer = browser.getresponse()
    answer.read()
    if answer.status != HTTPStatus.SEE_OTHER:
        raise RuntimeError(f"{path} answered {answer.status}")


def _seconds(browser: http.client.HTTPConnection, stage: Stage, path: str) -> float:
    begin = time.perf_counter()
    _get(browser, stage, path)
    return time.perf_counter() - begin


def _p95(walls: list[float]) -> float:
    return quantiles(walls, n=20)[-1] * 1000
