"""The schema's versions, as an append-only list per kind of file, counted by `user_version`.

DDL only: rows derived from records are rebuilt in the background, not here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Connection

from phr.errors import NewerSchema
from phr.store.models import (
    FACET_BEGIN,
    FACET_CHANGED_DDL,
    FACET_GONE_DDL,
    PAPER_GONE_DDL,
    PAPER_SEARCH_DDL,
    READY_DDL,
    SEARCH_DDL,
    VOCABULARY_DDL,
    HouseBase,
    VaultBase,
)

Kind = Literal["house", "vault"]
Step = Callable[[Connection], None]


def create(connection: Connection, kind: Kind) -> None:
    """Create every table of the present models in an empty file."""
    base = HouseBase if kind == "house" else VaultBase
    base.metadata.create_all(connection, checkfirst=False)
    if kind == "vault":
        connection.exec_driver_sql(SEARCH_DDL)
        connection.exec_driver_sql(VOCABULARY_DDL)
        connection.exec_driver_sql(PAPER_SEARCH_DDL)
        connection.exec_driver_sql(PAPER_GONE_DDL)
        connection.exec_driver_sql(FACET_CHANGED_DDL)
        connection.exec_driver_sql(FACET_GONE_DDL)
        connection.exec_driver_sql(FACET_BEGIN)
        for ddl in READY_DDL:
            connection.exec_driver_sql(ddl)


# Step n brings a file from version n to n + 1. Version 1 is the first release: a new file is made
# by `create` and starts at the newest version, so it never runs these. Append only.
STEPS: dict[Kind, Sequence[Step]] = {"house": (), "vault": ()}


def newest(kind: Kind, steps: Mapping[Kind, Sequence[Step]] = STEPS) -> int:
    """Return the version that this program writes."""
    return 1 + len(steps[kind])


def version_of(connection: Any) -> int:
    """Return `user_version` of a driver connection; 0 is an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def needed(kind: Kind, have: int, steps: Mapping[Kind, Sequence[Step]] = STEPS) -> bool:
    """Tell whether a file of version `have` must change; raise NewerSchema when it is ahead."""
    if have > newest(kind, steps):
        raise NewerSchema
    return have < newest(kind, steps)


def run(connection: Connection, kind: Kind, steps: Mapping[Kind, Sequence[Step]] = STEPS) -> None:
    """Bring the file to the newest version inside the caller's transaction."""
    have = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if have == 0:
        create(connection, kind)
    else:
        for step in steps[kind][have - 1 :]:
            step(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={newest(kind, steps)}")
