"""Import figures: first and live, re-pull, file size, peak memory; each beside LIMIT.

LIMIT is orjson.loads of each resource and a raw insert of (type, id, JSON) into a table without
index, in the same kind of file, with the same pragmas and commit size.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile
from typing import Any

import orjson

from phr import clock, keep
from phr.bench import corpus, house
from phr.bench.row import Row
from phr.connectors.upload import Upload
from phr.fhir.record import UPLOAD, Item
from phr.store.database import Priority
from phr.store.vault import Vault

PAGE = 100
ROUNDS = 5


def items(count: int) -> list[Item]:
    return [Item(body, "bench") for body in corpus.bodies(count)]


def timed(work: Callable[[], Any]) -> float:
    """Return the CPU seconds (user and system) of this process for `work`."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def limit(given: Sequence[Item]) -> float:
    """Return CPU seconds of the raw insert."""
    with house.opened() as vault:
        with vault.write() as session:
            session.connection().exec_driver_sql(
                "CREATE TABLE raw(type TEXT, id TEXT, body TEXT) STRICT"
            )
        return timed(lambda: _raw(vault, given))


def _raw(vault: Vault, given: Sequence[Item]) -> None:
    for begin in range(0, len(given), keep.GROUP):
        rows = []
        for item in given[begin : begin + keep.GROUP]:
            found = orjson.loads(item.body)
            rows.append((found["resourceType"], found["id"], item.body.decode()))
        with vault.write(Priority.BULK) as session:
            session.connection().exec_driver_sql("INSERT INTO raw VALUES (?, ?, ?)", rows)


def pages(vault: Vault, connection: int, given: Sequence[Item], **options: Any) -> keep.Kept:
    """Keep everything as pages of 100, the way a pull does."""
    keeper = keep.Keeper(
        vault,
        connection,
        house.pull(vault, connection),
        expected_patient=corpus.PATIENT,
        now=clock.now(),
        **options,
    )
    kept = keep.Kept()
    for begin in range(0, len(given), PAGE):
        kept += keeper.page("bench", given[begin : begin + PAGE])
    return kept + keeper.finish()


def first(given: Sequence[Item], **options: Any) -> float:
    with house.opened() as vault:
        connection = house.connection(vault)
        return timed(lambda: pages(vault, connection, given, **options))


def rates(quick: bool) -> list[Row]:
    """Measure first and live imports against LIMIT in interleaved rounds; medians."""
    given = items(6_000 if quick else 20_000)
    cases: dict[str, dict[str, Any]] = {
        "import.first": {"with_entries": False},
        "import.first.entries": {},
        "import.live": {"with_entries": False, "live": True},
        "import.live.entries": {"live": True},
    }
    names = ["limit", *cases]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with house.frozen():
        for round_ in range(ROUNDS):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                took = limit(given) if name == "limit" else first(given, **cases[name])
                seconds[name].append(took)
    best = len(given) / median(seconds["limit"])
    bars = {"import.first": 0.40, "import.first.entries": 0.31}
    bars |= {"import.live": 0.30, "import.live.entries": 0.24}
    rows = []
    for name, bar in bars.items():
        rate = len(given) / median(seconds[name])
        goal = 0.60 if "first" in name else 0.45
        rows.append(Row(name, rate, "records/s CPU", best, rate / best, f">= {bar}", f">= {goal}"))
    for name in ("import.first", "import.live"):
        without, with_ = median(seconds[name]), median(seconds[f"{name}.entries"])
        added = (with_ - without) / len(given) * 1e6
        share = with_ / without - 1
        each = without / len(given) * 1e6
        rows.append(Row(f"{name}.entries.added", added, "us CPU", each, share, "<= 0.30", ""))
    return rows


def repull(quick: bool) -> list[Row]:
    """Measure a pull that brings nothing new, and the record rows that it writes."""
    given = items(6_000 if quick else 20_000)
    once, again = [], []
    for _ in range(ROUNDS):
        with house.frozen(), house.opened() as vault:
            connection = house.connection(vault)
            once.append(timed(partial(pages, vault, connection, given)))
            before = _changes(vault)
            again.append(timed(partial(pages, vault, connection, given)))
            written = _changes(vault) - before
    ratio = median(once) / median(again)
    rate = len(given) / median(again)
    return [
        Row("repull.unchanged", rate, "records/s CPU", rate / ratio, ratio, ">= 6", ">= 15"),
        Row("repull.record_rows", float(written), "rows", 0.0, None, "= 0", "= 0"),
    ]


def _changes(vault: Vault) -> int:
    """Return a number that grows with each write to a record, entry or search row."""
    with vault.read() as session:
        run = session.connection().exec_driver_sql
        return int(
            run(
                "SELECT (SELECT count(*) + sum(pull) + sum(version) FROM record)"
                " + (SELECT count(*) FROM record_version) + (SELECT count(*) FROM entry)"
                " + (SELECT count(*) FROM search_text)"
            ).scalar_one()
        )


def sizes(quick: bool) -> list[Row]:
    """Measure file size against received JSON, everything included."""
    given = items(6_000 if quick else 20_000)
    rows = [_size("size.generated", [given], "<= 0.40", "<= 0.25")]
    folder = Path(os.environ.get("HOMEPORT_CORPUS", "../shared/data")) / "fhir"
    people = _people(folder)
    if people:
        rows.append(_size("size.people", people, "<= 0.60", "<= 0.35"))
    else:
        print("size.people needs HOMEPORT_CORPUS", file=sys.stderr)
    return rows


def _people(folder: Path) -> list[list[Item]]:
    found = []
    for name in ("synthea-r4", "uscore-reference", "ips"):
        for path in sorted((folder / name).rglob("*.json")):
            pages_ = Upload([(path.name, path)]).fetch()
            found.append([item for page in pages_ for item in page.items])
    return found


def _size(name: str, sets: list[list[Item]], bar: str, goal: str) -> Row:
    received = sum(len(item.body) for given in sets for item in given)
    with house.opened() as vault:
        for given in sets:
            connection = house.connection(vault, kind=UPLOAD)
            keeper = keep.Keeper(vault, connection, house.pull(vault, connection), now=clock.now())
            keeper.page(name, given)
            keeper.finish()
        vault.database.close()
        size = vault.database.path.stat().st_size
    return Row(name, float(size), "bytes", float(received), size / received, bar, goal)


def joined(quick: bool) -> list[Row]:
    """Measure joining a whole record from nothing: two hospitals that know the same, in a child."""
    count = 2_000 if quick else 20_000
    with NamedTemporaryFile(suffix=".ndjson") as file:
        file.writelines(body + b"\n" for body in corpus.bodies(count // 2))
        file.flush()
        run = subprocess.run(  # noqa: S603  ourselves
            [sys.executable, "-m", "phr.bench.joining", file.name],
            check=True,
            capture_output=True,
            text=True,
        )
    seconds, megabytes = map(float, run.stdout.split())
    return [
        Row(f"join.{count}.cpu", seconds, "s CPU", None, None, "<= 5", ""),
        Row(f"join.{count}.rss", megabytes, "MB", None, None, "<= 200", ""),
    ]


def peak(quick: bool) -> list[Row]:
    """Measure the peak memory of a process that imports 10^5 records page by page."""
    count = 10_000 if quick else 100_000
    with NamedTemporaryFile(suffix=".ndjson") as file:
        file.writelines(body + b"\n" for body in corpus.bodies(count))
        file.flush()
        run = subprocess.run(  # noqa: S603  ourselves
            [sys.executable, "-m", "phr.bench.peak", file.name],
            check=True,
            capture_output=True,
            text=True,
        )
    megabytes = float(run.stdout)
    return [Row(f"rss.import.{count}", megabytes, "MB", None, None, "<= 160", "<= 100")]
