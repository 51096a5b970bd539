"""Query figures at 20,000 to 10^6 records: the timeline, a result over the years, text search."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import quantiles

from sqlalchemy.orm import Session

from phr import views
from phr.bench import house, imports, shape
from phr.bench.row import Row
from phr.fhir.record import Selection
from phr.store import points, records
from phr.store.vault import Vault

TEST = ("http://loinc.org", "4544-3")  # one of those that every person of the corpus has
POINTS = points.MOST
_TYPO = {20_000: "<= 15", 100_000: "<= 25", 1_000_000: "<= 60"}  # milliseconds


def hot(quick: bool) -> list[Row]:
    """Measure p95 of the hot queries with parsed bodies, in milliseconds."""
    rows = []
    for count in (2_000, 10_000) if quick else (20_000, 100_000):
        given = imports.items(count)
        with house.opened() as vault:
            imports.pages(vault, house.connection(vault), given)
            large = count in (10_000, 100_000)
            rows += _measured(vault, count, ("timeline", "series") if large else ())
    return rows


def million(quick: bool) -> list[Row]:
    """Measure the same at 10^6 records: 20,000 kept ones, repeated at other times."""
    base, count = (2_000, 10_000) if quick else (20_000, 1_000_000)
    with house.opened() as vault:
        imports.pages(vault, house.connection(vault), imports.items(base))
        shape.multiply(vault, count // base)
        return _measured(vault, count, ("timeline", "trend"))


def _measured(vault: Vault, count: int, more: tuple[str, ...]) -> list[Row]:
    with vault.read() as session:
        cases = _cases(session, vault)
        bars = {
            "timeline": ("<= 5", "<= 1"),
            "series": ("<= 50", "<= 20"),
            "trend": ("<= 2", "<= 1"),
            "search": ("<= 25", "<= 5") if count > 100_000 else ("<= 5", "<= 1"),
            "search.typo": (_TYPO.get(count, ""), "<= 15"),
        }
        return [
            Row(f"query.{name}.{count}.p95", _p95(cases[name]), "ms", None, None, *bars[name])
            for name in (*more, "search", "search.typo")
        ]


def _cases(session: Session, vault: Vault) -> dict[str, Callable[[], object]]:
    newest = Selection(timeline=True, limit=50)
    series = Selection(codes=("|".join(TEST),), limit=POINTS)
    trend = replace(views.TEST.selection, codes=series.codes)  # as the page of one test asks
    return {
        "timeline": lambda: records.select(session, vault, newest),
        "series": lambda: records.select(session, vault, series),
        "trend": lambda: points.read(session, vault, trend),
        "search": lambda: records.search(session, vault, "glucose", limit=50),
        "search.typo": lambda: records.search_near(session, vault, "glucsoe", limit=50),
    }


def _p95(work: Callable[[], object], times: int = 100) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append((time.perf_counter() - begin) * 1000)
    return quantiles(took, n=20)[-1]
