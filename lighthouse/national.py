"""The one door of a whole country, where there is one: found by search, connected by nobody yet."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

from lighthouse.rows import Row

FILE = Path(__file__).parent / "data" / "national.toml"
KIND = "national"


def rows() -> Iterator[Row]:
    """Yield one row a country; it has no endpoint, and `about` says what people can do instead."""
    for door in tomllib.loads(FILE.read_text())["door"]:
        yield Row(
            "national",
            "",
            "",
            door["name"],
            "",
            aliases=tuple(door["aliases"]),
            kind=KIND,
            country=door["country"],
            website=door["website"],
            about=door["about"],
            org_id=door["country"],
        )
