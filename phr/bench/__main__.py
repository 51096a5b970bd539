"""`python -m phr.bench [--quick] [names]`: prints one JSON line for each figure.

Without names everything is measured but what takes minutes: `million` must be named.
"""

import importlib.util
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version

import sqlcipher3

from phr.bench import (
    apps,
    corpus,
    doors,
    imports,
    mail,
    pages,
    pipeline,
    queries,
    stopping,
    summary,
)
from phr.bench.row import Row

MEASURES: dict[str, Callable[[bool], list[Row]]] = {
    "import": imports.rates,
    "repull": imports.repull,
    "size": imports.sizes,
    "rss": imports.peak,
    "pipeline": pipeline.rates,
    "query": queries.hot,
    "million": queries.million,
    "join": imports.joined,
    "pages": pages.pages,
    "summary": summary.documents,
    "doors": doors.leaving,
    "searches": doors.searching,
    "tokens": doors.tokens,
    "stop": stopping.stopped,
    "apps": apps.asked,
    "mail": mail.measured,
}
BY_NAME = {"million"}


def main(arguments: list[str]) -> int:
    """Run the named measures (all without names); 2 for an unknown name or a missing corpus."""
    quick = "--quick" in arguments
    usual = [name for name in MEASURES if name not in BY_NAME]
    names = [name for name in arguments if name != "--quick"] or usual
    if unknown := set(names) - set(MEASURES):
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MEASURES)}")
        return 2
    if importlib.util.find_spec("carebundle") is None:
        print("The benchmark needs carebundle: pip install 'homeport[test]'.")
        return 2
    print(json.dumps(about(quick)), flush=True)
    for name in names:
        for row in MEASURES[name](quick):
            print(row.line(), flush=True)
    return 0


def about(quick: bool) -> dict[str, object]:
    """Return what the figures were measured with: corpus, seed, versions."""
    return {
        "corpus": "carebundle",
        "seed": corpus.SEED,
        "quick": quick,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "sqlite": sqlcipher3.sqlite_version,
        **{name: version(name) for name in ("carebundle", "msgspec", "orjson", "zstandard")},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
