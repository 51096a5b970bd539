"""Makes the shipped compression dictionary from generated people only: reproducible, no real data.

Run `python -m phr.bench.dictionary` after changing the seed or carebundle's version.
"""

from pathlib import Path

import zstandard

from phr.bench import corpus
from phr.store import bodies

SEED = 7  # other people than the benchmark's, so that its ratio is not flattered
SIZE = 48 * 1024


def make() -> bytes:
    """Train the general dictionary."""
    samples: list[bytes | bytearray | memoryview] = list(
        corpus.bodies(12_000, seed=SEED, people=150)
    )
    made = zstandard.train_dictionary(SIZE, samples, k=512, d=8, dict_id=bodies.GENERAL_ID)
    return made.as_bytes()


if __name__ == "__main__":
    target = Path(bodies.__file__).with_name("general.zdict")
    target.write_bytes(make())
    print(f"{target}: {target.stat().st_size} bytes")
