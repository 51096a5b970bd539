"""The catalogue as a searcher and the snapshot see it: opened, its ids remembered, read.

The tables are in `lighthouse.tables`; how they are filled is in `lighthouse.writing`.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, select

from lighthouse.tables import (
    alias,
    anchors,
    defect,
    door,
    endpoint,
    forward,
    location,
    metadata,
    organization,
    probe,
)
from lighthouse.writing import statuses

__all__ = ["defect", "endpoint", "metadata"]


def connect(where: str | Path) -> Engine:
    """Open a catalogue by database URL or file path, making its tables where they are missing."""
    text = str(where)
    if text.startswith("postgresql://"):  # the driver that is declared, whatever else is installed
        text = text.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(text if "://" in text else f"sqlite:///{text}")
    metadata.create_all(engine)
    return engine


def shown(where: str) -> str:
    """Return a database URL as it may be printed: without its password."""
    if "://" not in where:
        return where
    hidden = re.sub(r"(password=)[^&]*", r"\1***", where, flags=re.IGNORECASE)
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", hidden, flags=re.DOTALL)


def known_anchors(engine: Engine) -> dict[str, str]:
    """Return the anchors of earlier ingests and the organisation ids they were given."""
    with engine.connect() as connection:
        rows = connection.execute(select(anchors.c.anchor, anchors.c.organization))
        return {row[0]: row[1] for row in rows}


# These two are never changed either, but a frozen one costs six times as much to make, and each
# snapshot makes 100,000 of them.


@dataclass(slots=True, unsafe_hash=True)
class Endpoint:
    """An endpoint as a searcher sees it. Dates are ISO text; "" means that nobody said it."""

    id: str
    url: str
    vendor: str
    fhir_version: str
    authorize: str
    token: str
    portal: str
    portal_url: str = ""
    status: str = "listed"  # missing, retired: no list names it any more
    last_listed: str = ""
    probed: str = ""
    last_ok: str = ""
    answer: str = ""  # of the last probe: alive, not FHIR, no answer, refused
    software: str = ""
    registration: str = ""  # RFC 7591
    pkce: str = ""  # space separated
    token_auth: str = ""  # space separated
    forward: str = ""  # id of the endpoint that took its place


@dataclass(slots=True, unsafe_hash=True)
class Organization:
    """An organisation as a searcher sees it, without names that only a third party claims."""

    id: str
    name: str
    aliases: tuple[str, ...]
    kind: str
    parent: str
    city: str
    state: str
    zip: str
    country: str
    website: str
    endpoints: tuple[Endpoint, ...]
    part_of: str = ""
    street: str = ""
    about: str = ""
    places: tuple[tuple[str, str, str], ...] = ()  # city, state, ZIP of further locations


def organizations(engine: Engine) -> list[Organization]:
    """Return what may be found by search, by id: named, no test entry, with an endpoint.

    The one door of a whole country (kind "national") is found without one.
    """
    with engine.connect() as connection:
        names: dict[str, list[str]] = defaultdict(list)
        for row in connection.execute(select(alias).where(alias.c.kind != "claimed")):
            names[row.organization].append(row.text)
        places: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        for row in connection.execute(select(location).where(location.c.confidence == "stated")):
            places[row.organization].add((row.city, row.state, row.zip))
        ends = _endpoints(connection)
        query = select(organization).where(organization.c.hidden == "")
        found = [
            Organization(
                row.id, row.name, tuple(sorted(names[row.id])), row.kind, row.parent, row.city,
                row.state, row.zip, row.country, row.website, tuple(ends[row.id]), row.part_of,
                row.street, row.about, tuple(sorted(places[row.id])),
            )
            for row in connection.execute(query)
            if ends[row.id] or row.kind == "national"
        ]  # fmt: skip
    return sorted(found, key=lambda one: one.id)  # databases sort text differently


def endpoints(engine: Engine) -> list[Endpoint]:
    """Return every endpoint by id, also those behind test entries; portals are left out."""
    with engine.connect() as connection:
        every = {
            end.id: replace(end, portal="", portal_url="")
            for ends in _endpoints(connection).values()
            for end in ends
        }
    return [every[identity] for identity in sorted(every)]


def forwards(engine: Engine) -> list[tuple[str, str, str]]:
    """Return the forwarding records: old endpoint id, new endpoint id, ISO date last listed."""
    with engine.connect() as connection:
        rows = connection.execute(select(forward))
        return sorted((row.old, row.new, row.as_of) for row in rows)


def _endpoints(connection: Connection) -> dict[str, list[Endpoint]]:
    """Return the endpoints of each organisation: those that lists still name first."""
    life = statuses(connection)
    moved = {row.old: row.new for row in connection.execute(select(forward))}
    visited = {row.endpoint: row for row in connection.execute(select(probe))}
    found: dict[str, list[tuple[bool, str, Endpoint]]] = defaultdict(list)
    joined = select(door.c.organization, door.c.portal, door.c.portal_url, endpoint)
    for row in connection.execute(joined.join_from(door, endpoint)):
        state, last = life.get(row.id, ("listed", ""))
        one = Endpoint(
            row.id,
            row.url,
            row.vendor,
            row.fhir_version,
            row.authorize,
            row.token,
            row.portal,
            row.portal_url,
            state,
            last,
            forward=moved.get(row.id, ""),
        )
        one = _with_probe(one, visited[row.id]) if row.id in visited else one
        found[row.organization].append((state != "listed", row.key, one))
    for members in found.values():
        members.sort(key=lambda pair: pair[:2])
    return defaultdict(list, {one: [end for *_, end in ends] for one, ends in found.items()})


def _with_probe(one: Endpoint, seen: Any) -> Endpoint:
    """Add what the crawler found; what a list says about addresses and version goes first."""
    return replace(
        one,
        fhir_version=one.fhir_version or seen.fhir_version,
        authorize=one.authorize or seen.authorize,
        token=one.token or seen.token,
        probed=seen.probed,
        last_ok=seen.last_ok,
        answer=seen.answer,
        software=seen.software,
        registration=seen.registration,
        pkce=seen.pkce,
        token_auth=seen.token_auth,
    )
