"""Query figures at 10^5 records: the timeline, a result over the years, text search."""

import time
from collections.abc import Callable
from statistics import quantiles

from phr.bench import house, imports
from phr.bench.row import Row
from phr.fhir.record import Selection
from phr.store import records


def hot(quick: bool) -> list[Row]:
    """Measure p95 of the hot queries with parsed bodies, in milliseconds."""
    count = 10_000 if quick else 100_000
    given = imports.items(count)
    with house.opened() as vault:
        imports.pages(vault, house.connection(vault), given)
        with vault.read() as session:
            cases: dict[str, Callable[[], object]] = {
                "timeline": lambda: records.select(
                    session, vault, Selection(timeline=True, limit=50)
                ),
                "series": lambda: records.select(
                    session, vault, Selection(codes=("http://loinc.org|4544-3",), limit=2000)
                ),
                "search": lambda: records.search(session, vault, "glucose", limit=50),
                "search.typo": lambda: records.search_near(session, vault, "glucsoe", limit=50),
            }
            return [
                Row(f"query.{name}.{count}.p95", _p95(work), "ms", None, None, bar, goal)
                for (name, work), (bar, goal) in zip(
                    cases.items(),
                    (("<= 5", "<= 1"), ("<= 50", "<= 20"), ("<= 5", "<= 1"), ("<= 25", "<= 15")),
                    strict=True,
                )
            ]


def _p95(work: Callable[[], object], times: int = 100) -> float:
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append((time.perf_counter() - begin) * 1000)
    return quantiles(took, n=20)[-1]
