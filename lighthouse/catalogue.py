"""The catalogue itself: organisations, their names and places, and the endpoints behind them.

SQLAlchemy tables (SQLite by default, PostgreSQL by URL). Nothing is ever deleted: an organisation
that a list no longer names stays, its ids are for ever, and every value keeps who said it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    select,
)

from lighthouse import repair
from lighthouse.merge import Found, Merged, Seen, anchor, endpoint_id

metadata = MetaData()
organization = Table(
    "organization",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("parent", Text, nullable=False),
    Column("city", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("zip", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("website", Text, nullable=False),
    Column("hidden", Text, nullable=False),  # why it is not found by search ("test entry"), or ""
)
alias = Table(
    "alias",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("text", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # also, former, place, claimed
    Column("origin", Text, nullable=False),
    Column("as_of", Text, nullable=False),
)
identifier = Table(
    "identifier",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("system", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("origin", Text, nullable=False),
    Column("confidence", Text, nullable=False),  # stated, claimed (by a third party), invalid
)
endpoint = Table(
    "endpoint",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("url", Text, nullable=False),  # as published: `aud` may have to equal it byte for byte
    Column("vendor", Text, nullable=False),
    Column("fhir_version", Text, nullable=False),
    Column("authorize", Text, nullable=False),
    Column("token", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("as_of", Text, nullable=False),
)
door = Table(  # organisation -> endpoint, grouped by portal
    "door",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("endpoint", Text, ForeignKey("endpoint.id"), primary_key=True),
    Column("portal", Text, nullable=False),
)
Index("door_endpoint", door.c.endpoint)
provenance = Table(
    "provenance",
    metadata,
    Column("organization", Text, ForeignKey("organization.id"), primary_key=True),
    Column("field", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("origin", Text, primary_key=True),
    Column("as_of", Text, nullable=False),
    Column("evidence", Integer, nullable=False),
)
anchors = Table(
    "anchor",
    metadata,
    Column("anchor", Text, primary_key=True),
    Column("organization", Text, ForeignKey("organization.id"), nullable=False),
)
refused = Table(  # addresses that must never be requested, with the reason
    "refused",
    metadata,
    Column("url", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("origin", Text, nullable=False),
)
defect = Table(
    "defect",
    metadata,
    Column("class", Text, primary_key=True),
    Column("rows", Integer, nullable=False),
)
question = Table(
    "question",
    metadata,
    Column("one", Text, primary_key=True),
    Column("other", Text, primary_key=True),
)


def connect(where: str | Path) -> Engine:
    """Open a catalogue by database URL or file path, making its tables where they are missing."""
    text = str(where)
    engine = create_engine(text if "://" in text else f"sqlite:///{text}")
    metadata.create_all(engine)
    return engine


def known_anchors(engine: Engine) -> dict[str, str]:
    """Return the anchors of earlier ingests and the organisation ids they were given."""
    with engine.connect() as connection:
        rows = connection.execute(select(anchors.c.anchor, anchors.c.organization))
        return {row[0]: row[1] for row in rows}


def write(engine: Engine, merged: Merged) -> None:
    """Write a merge over the catalogue, in one transaction. What is not seen again stays."""
    tables: dict[Table, dict[tuple[Any, ...], Mapping[str, Any]]] = defaultdict(dict)
    for found in merged.organizations:
        for table, row in _rows_of(found):
            key = tuple(row[column.name] for column in table.primary_key)
            tables[table].setdefault(key, row)
    counts = Counter(name for f in merged.organizations for s in f.rows for name in s.defects)
    for name, number in counts.items():
        tables[defect][name,] = {"class": name, "rows": number}
    for one, other in merged.questions:
        tables[question][one, other] = {"one": one, "other": other}
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            rows = [tables[table][key] for key in sorted(tables[table])]
            _replace(connection, table, rows)


def _replace(connection: Any, table: Table, rows: list[Mapping[str, Any]]) -> None:
    """Insert or replace by primary key (the same on SQLite and PostgreSQL)."""
    keys = [column.name for column in table.primary_key]
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415  (per dialect)
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]  # noqa: PLC0415
    statement = insert(table)
    others = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    if others:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    for start in range(0, len(rows), 2000):
        connection.execute(statement, rows[start : start + 2000])


# --------------------------------------------------------------------------- from rows to tables


def _rows_of(found: Found) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    own = [s for s in found.rows if not s.row.evidence] or found.rows
    name = _best_name(own)
    yield (
        organization,
        {
            "id": found.id,
            "name": name,
            "kind": _newest(own, lambda s: s.row.kind),
            "parent": _newest(own, lambda s: s.row.parent),
            "city": _newest(own, lambda s: s.row.city.strip()),
            "state": _newest(own, lambda s: s.state),
            "zip": _newest(own, lambda s: s.zip),
            "country": _newest(own, lambda s: repair.country_code(s.row.country)),
            "website": _newest(own, lambda s: s.website),
            "hidden": _why_hidden(own, name),
        },
    )
    for seen in found.rows:
        yield from _names_of(
            found, seen, name, evidence=seen.row.evidence and own is not found.rows
        )
        yield from _facts_of(found, seen)
        yield anchors, {"anchor": anchor(seen), "organization": found.id}
        if seen.address.key:
            yield from _endpoint_of(found, seen)
        elif seen.row.url.strip():
            reason = seen.address.refused
            yield (
                refused,
                {"url": seen.row.url.strip(), "reason": reason, "origin": seen.row.origin},
            )


_UNUSABLE = {"N-missing", "N-placeholder", "N-is-an-id", "N-too-short"}


def _best_name(own: list[Seen]) -> str:
    """Choose the name to show: newest list first, repaired spelling, never a code or placeholder.

    Names drift towards legal entities; the others stay findable as aliases.
    """
    usable = [s for s in own if not s.defects & _UNUSABLE] or own
    newest = max((s.row.as_of for s in usable), default="")
    counts = Counter(s.name.name for s in usable if s.row.as_of == newest or not s.row.as_of)
    counts = counts or Counter(s.name.name for s in usable)
    return min(counts, key=lambda text: (-counts[text], len(text), text))


def _newest(own: list[Seen], value: Any) -> str:
    """Return the value that the newest rows say most often."""
    said: Counter[tuple[str, str]] = Counter()
    for seen in own:
        text = value(seen)
        if text:
            said[seen.row.as_of, text] += 1
    if not said:
        return ""
    return max(said, key=lambda pair: (pair[0], said[pair], pair[1]))[1]


def _why_hidden(own: list[Seen], name: str) -> str:
    if all("N-test-entry" in s.defects for s in own):
        return "test entry"
    return "" if name and any(not s.defects & _UNUSABLE for s in own) else "no usable name"


def _names_of(
    found: Found, seen: Seen, name: str, *, evidence: bool
) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    texts = [(seen.name.name, "claimed" if evidence else "also")]
    texts += [(repair.name(text).name, "also") for text in seen.row.aliases]
    for text, kind in texts:
        if text and text != name and not seen.defects & (_UNUSABLE - {"N-too-short"}):
            row = {"organization": found.id, "text": text, "kind": kind}
            yield alias, row | {"origin": seen.row.origin, "as_of": seen.row.as_of}


def _facts_of(found: Found, seen: Seen) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    row = seen.row
    said = {"name": row.name.strip(), "city": row.city, "state": row.state, "zip": row.zip}
    for name, value in said.items():
        if value:
            yield (
                provenance,
                {
                    "organization": found.id,
                    "field": name,
                    "value": value,
                    "origin": row.origin,
                    "as_of": row.as_of,
                    "evidence": int(row.evidence),
                },
            )
    for system, value in (("npi", row.npi), ("brand", row.brand_id)):
        if value:
            valid = system != "npi" or repair.npi_is_valid(value)
            stated = "claimed" if row.evidence else "stated"
            yield (
                identifier,
                {
                    "organization": found.id,
                    "system": system,
                    "value": value,
                    "origin": row.origin,
                    "confidence": stated if valid else "invalid",
                },
            )


def _endpoint_of(found: Found, seen: Seen) -> Iterator[tuple[Table, Mapping[str, Any]]]:
    row, identity = seen.row, endpoint_id(seen.address.key)
    yield (
        endpoint,
        {
            "id": identity,
            "key": seen.address.key,
            "url": seen.address.published,
            "vendor": row.vendor,
            "fhir_version": repair.fhir_version(row.url, row.fhir_version),
            "authorize": row.authorize,
            "token": row.token,
            "origin": row.origin,
            "as_of": row.as_of,
        },
    )
    yield door, {"organization": found.id, "endpoint": identity, "portal": row.portal}


# --------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as a searcher sees it."""

    id: str
    url: str
    vendor: str
    fhir_version: str
    authorize: str
    token: str
    portal: str


@dataclass(frozen=True, slots=True)
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


def organizations(engine: Engine) -> list[Organization]:
    """Return what may be found by search, by id: named, not a test entry, with an endpoint."""
    with engine.connect() as connection:
        names: dict[str, list[str]] = defaultdict(list)
        for row in connection.execute(select(alias).order_by(alias.c.organization, alias.c.text)):
            if row.kind != "claimed":
                names[row.organization].append(row.text)
        ends: dict[str, list[Endpoint]] = defaultdict(list)
        joined = select(door.c.organization, door.c.portal, endpoint).join_from(door, endpoint)
        for row in connection.execute(joined.order_by(door.c.organization, endpoint.c.key)):
            ends[row.organization].append(
                Endpoint(
                    row.id,
                    row.url,
                    row.vendor,
                    row.fhir_version,
                    row.authorize,
                    row.token,
                    row.portal,
                )
            )
        query = select(organization).where(organization.c.hidden == "").order_by(organization.c.id)
        return [
            Organization(
                row.id, row.name, tuple(names[row.id]), row.kind, row.parent, row.city, row.state,
                row.zip, row.country, row.website, tuple(ends[row.id]),
            )
            for row in connection.execute(query)
            if ends[row.id]
        ]  # fmt: skip
