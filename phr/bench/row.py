"""One figure of the benchmark, printed as one JSON line."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside the limit measured in the same run; `ratio` is value to limit."""

    name: str
    value: float
    unit: str
    limit: float | None
    ratio: float | None
    bar: str
    goal: str

    def line(self) -> str:
        """Return the row as JSON with numbers rounded to four digits."""
        cells = {
            name: float(f"{cell:.4g}") if isinstance(cell, float) else cell
            for name, cell in asdict(self).items()
        }
        return json.dumps(cells)
