"""Imports generated pages and prints the peak resident memory of this process in megabytes."""

import resource
import sys
from itertools import islice

from phr import clock, keep
from phr.bench import corpus, house
from phr.fhir.record import Item


def main(count: int) -> None:
    """Import `count` records that are made page by page, so that only the import is measured."""
    bodies = corpus.bodies(count, people=20)
    with house.opened() as vault:
        connection = house.connection(vault)
        keeper = keep.Keeper(vault, connection, house.pull(vault, connection), now=clock.now())
        while page := list(islice(bodies, 100)):
            keeper.page("bench", [Item(body, "bench") for body in page])
        keeper.finish()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main(int(sys.argv[1]))
