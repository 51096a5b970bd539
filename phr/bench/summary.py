"""The patient summary of a person with 5,000 records: how long until the document is there."""

import time
from collections.abc import Callable
from statistics import median

from phr import clock
from phr.bench import house, imports
from phr.bench.row import Row
from phr.sharing import summary
from phr.sharing.gate import Owned
from phr.views import paper

COUNT = 5_000
BASE = "https://doors.example"


def documents(quick: bool) -> list[Row]:
    """Measure the median time to the FHIR document and to the PDF, warm."""
    with house.opened() as vault:
        imports.pages(vault, house.connection(vault), imports.items(COUNT))
        owned, now = Owned(vault), clock.now()
        made = _median(lambda: summary.bundle(owned, base_url=BASE, now=now), 5 if quick else 20)
        rows = [Row("summary.json", made * 1000, "ms", None, None, "<= 300", "<= 100")]
        if paper.possible():
            drawn = _median(lambda: summary.pdf(owned, now=now), 1 if quick else 5)
            rows.append(Row("summary.pdf", drawn, "s", None, None, "<= 2", "<= 1"))
        return rows


def _median(work: Callable[[], object], times: int) -> float:
    took = []
    work()
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return median(took)
