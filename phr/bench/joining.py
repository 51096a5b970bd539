"""Joins the records of two hospitals from nothing; prints CPU seconds and peak megabytes.

Both send the lines of a file of NDJSON, the second under ids of its own: every day has two of each.
"""

import sys
import time
from itertools import islice
from pathlib import Path

from phr import clock, gather, keep
from phr.bench import house
from phr.bench.peak import high_water
from phr.fhir.record import Item
from phr.store import entries
from phr.store.vault import Vault


def main(path: Path) -> None:
    """Keep everything without entries, then make and join them."""
    with house.opened() as vault:
        _keep(vault, path, b"")
        _keep(vault, path, b"second-")
        begin = time.process_time()
        with vault.write() as session:
            entries.rebuild(session)
        gather.settle(vault)
        took = time.process_time() - begin
    print(took, high_water())


def _keep(vault: Vault, path: Path, before: bytes) -> None:
    connection = house.connection(vault, before.decode() or "first")
    run = house.pull(vault, connection)
    keeper = keep.Keeper(vault, connection, run, now=clock.now(), with_entries=False)
    with path.open("rb") as lines:
        while page := list(islice(lines, 100)):
            bodies = [line.replace(b'"id":"', b'"id":"' + before, 1) for line in page]
            keeper.page("bench", [Item(body, "bench") for body in bodies])
    keeper.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
