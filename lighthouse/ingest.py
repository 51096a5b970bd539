"""Takes published lists from folders into a catalogue: read, repair, merge, write.

The one doors of countries come along, NPPES only supports what is there. Asks no server.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from lighthouse import adapters, catalogue, merge, national, nppes, register, writing
from lighthouse.rows import Row


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingest read and made; `broken`: lists that could not be read, and why."""

    lists: int
    rows: int
    organizations: int
    endpoints: int
    refused: int
    questions: int
    broken: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...] = ()  # files of no shape that is known: perhaps no lists at all
    supported: int = 0  # organisations that NPPES has evidence for


def are_empty(folders: Iterable[Path]) -> bool:
    """Say whether there is neither a list nor a file of NPPES below the folders."""
    return not any(adapters.lists_below(one) or nppes.files_below(one) for one in folders)


def ingest(folders: Iterable[Path], engine: Engine) -> Report:
    """Ingest every list below the folders. The same lists again change nothing."""
    folders = list(folders)
    rows: list[Row] = []
    per_list: Counter[str] = Counter()
    broken: list[tuple[str, str]] = []
    unknown: list[str] = []
    for folder in folders:
        try:
            vendors = register.publishers(folder)
        except register.Wrong as error:
            vendors = {}
            broken.append(("register.toml", str(error)[:200]))
        for path in adapters.lists_below(folder):
            try:
                found = list(adapters.read(path, folder, vendors.get(path.parent.name, "")))
            except adapters.Unknown:
                unknown.append(path.relative_to(folder).as_posix())
                continue
            except (ValueError, OSError) as error:
                broken.append((path.relative_to(folder).as_posix(), str(error)[:200]))
                continue
            rows += found
            per_list.update(row.origin for row in found)
    merged = merge.merge([*rows, *national.rows()], catalogue.known_anchors(engine))
    writing.write(engine, merged)
    supported = [nppes.support(engine, folder) for folder in folders]
    broken += [one for said in supported for one in said.broken]
    keys = {s.address.key for f in merged.organizations for s in f.rows if s.address.key}
    bad = {s.row.url.strip() for f in merged.organizations for s in f.rows if not s.address.key}
    return Report(
        len(per_list),
        len(rows),
        len(merged.organizations),
        len(keys),
        len(bad - {""}),
        len(merged.questions),
        tuple(broken),
        tuple(unknown),
        sum(said.matched for said in supported),
    )
