"""Imports a file of NDJSON page by page and prints the peak resident memory in megabytes."""

import sys
from itertools import islice
from pathlib import Path

from phr import clock, keep
from phr.bench import house
from phr.fhir.record import Item


def main(path: Path) -> None:
    """Import the file's lines as pages of 100."""
    with house.opened() as vault, path.open("rb") as lines:
        connection = house.connection(vault)
        keeper = keep.Keeper(vault, connection, house.pull(vault, connection), now=clock.now())
        while page := list(islice(lines, 100)):
            keeper.page("bench", [Item(line, "bench") for line in page])
        keeper.finish()
    print(high_water())


def high_water() -> float:
    """Return this program's own peak; `ru_maxrss` would count the parent's at the fork too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
