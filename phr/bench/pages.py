"""Page figures: a running `phr serve` with 10^5 records, asked over loopback as a browser would.

What a timeline page is measured against, its bare query, is defined at `_Bare`.
"""

import compileall
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from random import Random
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import phr
from phr import clock, ids
from phr.appliance import Appliance
from phr.bench import corpus, house, imports
from phr.bench.row import Row
from phr.cli import control
from phr.fhir.record import Item, Selection
from phr.settings import Settings
from phr.sharing import links, provision
from phr.sharing.grants import StepUp
from phr.sharing.links import Wish
from phr.store import accounts, records, sessions
from phr.store.database import READER, Database
from phr.store.vault import Vault

PEOPLE = {"kind": "account", "id": "bench", "name": "Bench"}
REVOKES = 50
STARTS = 3
TIMES = 400  # requests of one figure
ROUNDS, IN_ROUND = 20, 20  # of page and bare query in turn
UNSEEN = 4  # rounds of pages that nobody has asked for before
SEEN = 51  # places that a reader comes back to; the newest is the first of them
SECTIONS_COUNT, TESTS, OF_EACH = 20_000, 300, 20
SECTIONS = {
    "home": "/",
    "results": "/results",
    "results.tests": "/results?show=tests",
    "medications": "/medications",
}
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
IDLE_SECONDS = 40.0  # before the resident memory is read: each job has looked, most of them twice
IMPORT_LIVES = 20_000  # records of one imported file; the next file follows at once


@dataclass(slots=True)
class Stage:
    """A prepared data folder: one person whose vault opens by itself, a session, some links."""

    data: Path
    patient: str
    cookie: str
    places: list[tuple[int, int] | None]  # where timeline pages begin; None is the newest
    grants: list[tuple[str, str, str]]  # (grant id, routing id, cookie of the bound browser)
    vault: tuple[Path, bytes]  # the file and its key: for the bare query


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
        stage = staged(Path(name), count)
        rows = [_first_page(stage)]
        with running(stage) as server:
            rows += [*_timelines(server, count), *_revokes(server, quick)]
            with importing(server, Path(name)):
                rows += [_busy(server, count), *_revokes(server, quick, busy=True)]
        with running(stage) as server:
            _get(server.browser(), server.stage, "/")
            time.sleep(IDLE_SECONDS)
            rows.append(Row("rss.idle", server.resident(), "MB", None, None, "<= 110", "<= 75"))
    with TemporaryDirectory() as name:
        stage = staged(Path(name), SECTIONS_COUNT - TESTS * OF_EACH, more=_tests())
        with running(stage) as server:
            rows += _sections(server)
    return rows


def _first_page(stage: Stage) -> Row:
    """Time from exec to a page, as after an installation: with the bytecode that pip writes."""
    compileall.compile_dir(str(Path(phr.__file__).parent), quiet=1)
    took = []
    for _ in range(STARTS):
        with running(stage) as server:
            _get(server.browser(), stage, "/timeline")
            took.append(time.perf_counter() - server.started)
    return Row("start.first_page", median(took), "s", None, None, "<= 1.0", "<= 0.5")


def _timelines(server: Server, count: int) -> Iterator[Row]:
    """Time the newest page and pages at random places, in turn with the same bare query."""
    stage, bare = server.stage, _Bare(server.stage)
    for where, places in (("newest", stage.places[:1]), ("older", stage.places[1:SEEN])):
        browser = server.browser()
        for place in places:  # as a reader who has been here before
            _get(browser, stage, _path(place))
        yield from _timeline(f"{where}.{count}", _in_turn(server, bare, places))
    # no line of these pages was ever drawn
    yield from _timeline(f"unseen.{count}", _in_turn(server, bare, stage.places[SEEN:], UNSEEN))
    bare.close()


def _timeline(where: str, measured: tuple[float, float, list[float]]) -> Iterator[Row]:
    page, limit, walls = measured
    name = f"page.timeline.{where}"
    yield Row(f"{name}.cpu", page, "us CPU", limit, page / limit, "<= 10", "<= 5")
    yield Row(f"{name}.p95", _p95(walls), "ms", None, None, "<= 10", "<= 3")


def _in_turn(
    server: Server, bare: "_Bare", places: list[tuple[int, int] | None], rounds: int = ROUNDS
) -> tuple[float, float, list[float]]:
    """Return microseconds of CPU of a page and of its bare query (medians), and seconds a page."""
    browser, pages_, limits, walls = server.browser(), list[float](), list[float](), list[float]()
    for round_ in range(rounds):
        some = [places[(round_ * IN_ROUND + step) % len(places)] for step in range(IN_ROUND)]
        before, spent = server.cpu(), 0.0
        for place in some:
            walls.append(_seconds(browser, server.stage, _path(place)))
            spent += bare.seconds(place)
        pages_.append((server.cpu() - before) / IN_ROUND)
        limits.append(spent / IN_ROUND)
    return median(pages_) * 1e6, median(limits) * 1e6, walls


def _sections(server: Server) -> Iterator[Row]:
    """Time the pages of a person with 20,000 records, 300 different tests among them."""
    browser = server.browser()
    for name, path in SECTIONS.items():
        for _ in range(5):
            _get(browser, server.stage, path)
        walls = [_seconds(browser, server.stage, path) for _ in range(100)]
        yield Row(f"page.{name}.{SECTIONS_COUNT}.p95", _p95(walls), "ms", None, None, "<= 25", "")


def _busy(server: Server, count: int) -> Row:
    """Time the newest and older pages in turn while a live import runs."""
    browser, places, walls = server.browser(), server.stage.places[:SEEN], []
    for number in range(TIMES):
        path = _path(places[number % len(places) if number % 2 else 0])
        walls.append(_seconds(browser, server.stage, path))
        time.sleep(0.005)
    return Row(f"page.timeline.{count}.importing.p95", _p95(walls), "ms", None, None, "<= 25", "")


def _revokes(server: Server, quick: bool, *, busy: bool = False) -> Iterator[Row]:
    """Time from the tap on "stop" until an open page of the doctor is told and answers 410."""
    times = 10 if quick else REVOKES
    browser = server.browser()
    token = form_token(browser, server.stage)
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
    post(server, browser, f"/grants/{grant_id}/stop", token)
    listener.join(60)
    doctor.close()
    page.close()
    return blank[0] - begin


# ------------------------------------------------------------------ the stage


def staged(folder: Path, count: int, more: Sequence[Item] = ()) -> Stage:
    """Fill a data folder."""
    appliance = Appliance.open(Settings(data=folder / "data"))
    try:
        at = appliance.house, appliance.vaults
        account = accounts.create_account(at[0], "Bench", ids.new_secret(), administrator=True)
        patient = accounts.create_patient(
            *at, name="Bench", colour=1, account_id=account, role="self", opens_by_itself=True
        )
        vault = appliance.vault(patient)
        imports.pages(vault, house.connection(vault), [*imports.items(count), *more])
        cookie = sessions.start(
            at[0], account, browser="bench", lifetime=timedelta(hours=10), factor="password"
        )
        key = appliance.vaults.path(patient), vault.key
        return Stage(appliance.settings.data, patient, cookie, _places(vault), _grants(vault), key)
    finally:
        appliance.close()


def _tests() -> list[Item]:
    """Return results of many different tests, over the last twenty years."""
    chance = Random(corpus.SEED)
    return [
        Item(_result(test, turn, chance), "bench")
        for turn in range(OF_EACH)
        for test in range(TESTS)
    ]


def _result(test: int, turn: int, chance: Random) -> bytes:
    taken = f"{2026 - turn}-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}"
    value = round(chance.uniform(1, 9), 1)
    return json.dumps(
        {
            "resourceType": "Observation",
            "id": f"test-{test}-{turn}",
            "status": "final",
            "category": [{"coding": [{"system": CATEGORY, "code": "laboratory"}]}],
            "code": {
                "coding": [{"system": "http://loinc.org", "code": f"{90_000 + test}-0"}],
                "text": f"Substance {test} in blood",
            },
            "subject": {"reference": f"Patient/{corpus.PATIENT}"},
            "effectiveDateTime": f"{taken}T08:00:00Z",
            "valueQuantity": {"value": value, "unit": "mmol/L"},
            "referenceRange": [{"low": {"value": 2.0}, "high": {"value": 7.0}}],
        }
    ).encode()


def _places(vault: Vault, number: int = SEEN + UNSEEN * IN_ROUND) -> list[tuple[int, int] | None]:
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


class _Bare:
    """The bare query of a timeline page, on a driver connection beside the running appliance.

    It is the one SELECT that the page itself runs for its rows: 50 rows of every column a Record
    has, their bodies as they are stored, with the reader's pragmas, fetched and thrown away. It is
    not charged with what else a request costs (HTTP, who is asking, names of sources, drawing,
    packing), nor with unpacking and parsing bodies: that is the page's own affair, and its ratio
    says how much of it there is. One page, one bare query, and so on: both come after a pause and
    see the same busy machine.
    """

    def __init__(self, stage: Stage) -> None:
        self._connection = Database(*stage.vault, kind="vault").connect(READER)

    def seconds(self, place: tuple[int, int] | None) -> float:
        """Return the seconds of CPU of one SELECT."""
        sql, params = _statement(place)
        begin = time.thread_time()
        self._connection.execute(sql, params).fetchall()
        return time.thread_time() - begin

    def close(self) -> None:
        self._connection.close()


def _statement(place: tuple[int, int] | None) -> tuple[str, tuple[object, ...]]:
    sql, params = records.statement(Selection(timeline=True, limit=50, before=place))
    return str(sql), params


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
    headers = {"Cookie": f"hp={stage.cookie}", "Accept": "text/html", "Accept-Encoding": "gzip"}
    browser.request("GET", f"/p/{stage.patient}{path}", headers=headers)
    answer = browser.getresponse()
    body = answer.read()
    if answer.status != HTTPStatus.OK:
        raise RuntimeError(f"{path} answered {answer.status}")
    return body


def form_token(browser: http.client.HTTPConnection, stage: Stage) -> str:
    html = gzip.decompress(_get(browser, stage, "/more")).decode()
    return html.partition('name="csrf" value="')[2].partition('"')[0]


def post(server: Server, browser: http.client.HTTPConnection, path: str, token: str) -> None:
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
