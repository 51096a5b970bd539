"""Pipeline figures: a whole pull from a slow hospital, beside its questions asked and thrown away.

Network only is the same questions in the same chains on as many threads, by the same `phr.http`.
"""

import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from statistics import median
from tempfile import NamedTemporaryFile
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from phr import clock, courtesy, pull
from phr.bench import corpus, house
from phr.bench.row import Row
from phr.bench.slow_hospital import KINDS, PAGE
from phr.connectors.smart import in_order
from phr.fhir import document, kinds
from phr.http import Http
from phr.net import Guard, join
from phr.oauth import Client, Credentials, Endpoint
from phr.store.models import Connection, PullState
from phr.store.vault import Vault

CHAINS = {1: (">= 0.95", ">= 0.99"), 4: (">= 0.90", ">= 0.97"), 8: (">= 0.85", ">= 0.95")}
ROUNDS = 3


def rates(quick: bool) -> list[Row]:
    """Measure pulls with 1, 4 and 8 chains; seconds of wall time, medians of interleaved rounds."""
    courtesy.take_turns()  # as the appliance does, here for both
    pages = 6 if quick else 25
    count = pages * PAGE * len(KINDS)
    whole: dict[int, list[float]] = {chains: [] for chains in CHAINS}
    alone: dict[int, list[float]] = {chains: [] for chains in CHAINS}
    with hospital(count, pages) as base:
        for _ in range(ROUNDS):
            for chains in CHAINS:
                alone[chains].append(network_only(base, chains))
                whole[chains].append(pulled(base, chains, count))
    rows = []
    for chains, (bar, goal) in CHAINS.items():
        rate, best = (count / median(took[chains]) for took in (whole, alone))
        rows.append(Row(f"pipeline.{chains}", rate, "records/s", best, rate / best, bar, goal))
    return rows


@contextmanager
def hospital(count: int, pages: int) -> Iterator[str]:
    """Give the base address of a slow hospital in a process of its own, ended by its id."""
    with NamedTemporaryFile(suffix=".ndjson") as file:
        # Practitioners would be read one by one at the end, which is no matter of pages.
        bodies = corpus.bodies(2 * count)
        kept = (body.replace(b'"Practitioner/', b'"Group/') for body in bodies)
        ours = [body for body in kept if not body.startswith(b'{"resourceType":"Practitioner"')]
        file.write(b"\n".join(ours[:count]))
        file.flush()
        process = subprocess.Popen(  # noqa: S603  ourselves
            [sys.executable, "-m", "phr.bench.slow_hospital", file.name, str(pages)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            yield f"http://127.0.0.1:{port}/fhir"
        finally:
            process.terminate()
            process.wait(10)
            if process.stdout:
                process.stdout.close()


def opened(base: str) -> Http:
    """Return an `Http` that may go to this address only."""
    return Http(Guard([urlsplit(base).netloc]))


def network_only(base: str, chains: int) -> float:
    """Ask every question of a full pull and throw the answers away; return the seconds."""
    waiting = deque(kind.type for kind in in_order(kinds.asked("")))

    def ask(http: Http, kind: str) -> None:
        url: str | None = f"{base}/{kind}?patient={corpus.PATIENT}"
        while url:
            answer = http.get(url)
            link = document.slice_bundle(answer.body).next
            url = join(answer.place, link).url if link else None

    def work(http: Http) -> None:
        with suppress(IndexError):  # nothing waits any more
            while True:
                ask(http, waiting.popleft())

    with closing(opened(base)) as http:
        begin = time.perf_counter()
        http.get(f"{base}/Patient/{corpus.PATIENT}")
        threads = [Thread(target=work, args=(http,)) for _ in range(chains)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begin


def pulled(base: str, chains: int, count: int) -> float:
    """Pull everything into a fresh vault as a scheduled pull does; return the seconds."""
    with house.opened() as vault, closing(opened(base)) as http:
        connection_id = connected(vault, base, {"chains": chains, "everything": False})
        begin = time.perf_counter()
        state = pull.run(vault, connection_id, http=http, now=clock.now())
        took = time.perf_counter() - begin
        with vault.read() as session:
            run = session.connection().exec_driver_sql
            kept = run("SELECT count(*) FROM record").scalar_one()
    if state is not PullState.DONE or kept != count + 1:
        raise RuntimeError(f"the pull ended as {state} with {kept} of {count + 1} records")
    return took


def connected(vault: Vault, base: str, quirks: dict[str, Any]) -> int:
    """Add an authorised connection and return its id."""
    connection_id = house.connection(vault)
    with vault.write() as session:
        row = session.get_one(Connection, connection_id)
        row.base_url = base
        row.endpoint = Endpoint(base, f"{base}/auth", f"{base}/token", quirks=quirks).to_json()
        row.client = Client("bench", f"{base}/back").to_json()
        row.credentials = Credentials("bench", clock.now(), patient=corpus.PATIENT).to_json()
        row.remote_patient = corpus.PATIENT
    return connection_id
