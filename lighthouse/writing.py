"""Writes a merge into the catalogue: what is new is added, what drifts is kept beside it.

Nothing is deleted: a name that a list gives up stays as a former name, an endpoint that no list
names any more stays and shows since when, and one that moved gets a forwarding record.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Table, case, select, update

from lighthouse import repair, statements
from lighthouse.merge import UNNAMED, Found, Merged, Seen, anchors_of, endpoint_id
from lighthouse.tables import (
    alias,
    anchors,
    defect,
    door,
    edition,
    endpoint,
    forward,
    identifier,
    listing,
    location,
    metadata,
    organization,
    provenance,
    question,
    refused,
    statement,
)

Line = tuple[Table, Mapping[str, Any]]
Lines = dict[Table, dict[tuple[Any, ...], dict[str, Any]]]

# Where a new list says nothing, what an older one said stays.
KEPT = frozenset(
    {
        "name", "kind", "parent", "part_of", "street", "city", "state", "zip", "country", "website",
        "about", "vendor", "fhir_version", "authorize", "token", "portal", "portal_url",
        "portal_about",
    }
)  # fmt: skip


JOINED = "joined with another"
MANY = 500  # rows from which on it pays to look first which of them are there


def write(engine: Engine, merged: Merged) -> None:
    """Write a merge over the catalogue, in one transaction. What is not seen again stays."""
    lines: Lines = defaultdict(dict)
    newest, stated = _newest_editions(merged), _stated(engine)
    for found in merged.organizations:
        for table, row in _rows_of(found, newest, known=found.id in stated):
            held = lines[table].setdefault(_key(table, row), dict(row))
            if table is listing:
                _widen(held, row["first"], row["last"])
            elif table is alias and held["kind"] == "claimed":
                held.update(row)
        for text in anchors_of(found, merged.shared):
            lines[anchors].setdefault((text,), {"anchor": text, "organization": found.id})
    _resolve_parents(merged, lines)
    for series, last in newest.items():
        lines[edition][series,] = {"list": series, "newest": last}
    counts = Counter(name for f in merged.organizations for s in f.rows for name in s.defects)
    for name, number in counts.items():
        lines[defect][name,] = {"class": name, "rows": number}
    for one, other in merged.questions:
        lines[question][one, other] = {"one": one, "other": other}
    with engine.begin() as connection:
        _remember(connection, lines)
        absorbed = _absorb(connection, lines)
        _settle(lines)
        for table in metadata.sorted_tables:
            put(connection, table, [lines[table][key] for key in sorted(lines[table])])
        _hide(connection, absorbed)
        _forward(connection)


def _key(table: Table, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key)


def put(
    connection: Connection,
    table: Table,
    rows: list[dict[str, Any]],
    kept: frozenset[str] = KEPT,
) -> None:
    """Insert or replace by primary key (the same on SQLite and PostgreSQL).

    An empty text never replaces what is there in the columns of `kept`.
    """
    keys = [column.name for column in table.primary_key]
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415  (per dialect)
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]  # noqa: PLC0415
    if not rows:
        return
    statement = insert(table)
    given = [name for name in rows[0] if name not in keys]
    others: dict[str, Any] = {name: statement.excluded[name] for name in given}
    for name in kept & others.keys():
        new = statement.excluded[name]
        others[name] = case((new == "", table.c[name]), else_=new)
    if others:
        statement = statement.on_conflict_do_update(index_elements=keys, set_=others)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    changed = _changed(connection, table, rows) if len(rows) > MANY else rows
    for start in range(0, len(changed), 2000):
        connection.execute(statement, changed[start : start + 2000])


def _changed(
    connection: Connection, table: Table, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Leave out the rows that are there already, to the letter: reading is cheaper."""
    names = list(rows[0])
    there = {tuple(row) for row in connection.execute(select(*(table.c[name] for name in names)))}
    return [row for row in rows if tuple(row[name] for name in names) not in there]


# --------------------------------------------------------------------------- what is remembered


def _newest_editions(merged: Merged) -> dict[str, str]:
    """Return the newest edition of each list that was read."""
    newest: dict[str, str] = {}
    for found in merged.organizations:
        for seen in found.rows:
            series = _series(seen)
            newest[series] = max(newest.get(series, ""), seen.row.as_of)
    return newest


def _stated(engine: Engine) -> set[str]:
    """Return the organisations of which somebody else than a third party has spoken before."""
    query = select(provenance.c.organization).where(provenance.c.evidence == 0).distinct()
    with engine.connect() as connection:
        return set(connection.execute(query).scalars())


def _series(seen: Seen) -> str:
    return seen.row.list or seen.row.origin


def _remember(connection: Connection, lines: Lines) -> None:
    """Keep what the tables know from earlier: former names, first and last sightings."""
    for row in connection.execute(select(organization.c.id, organization.c.name)):
        new = lines[organization].get((row.id,))
        if new and row.name and new["name"] and new["name"] != row.name:
            former = {"organization": row.id, "text": row.name, "kind": "former"}
            said = {"origin": "this catalogue", "as_of": ""}
            lines[alias].setdefault((row.id, row.name), former | said)
    named = alias.c.kind != "claimed"  # what was stated is no mere claim afterwards
    for stated in connection.execute(select(alias).where(named)).mappings():
        held = lines[alias].get((stated["organization"], stated["text"]))
        if held and held["kind"] == "claimed":
            held.update(stated)
    for known in connection.execute(select(edition)):
        held = lines[edition].get((known.list,))
        if held:
            held["newest"] = max(held["newest"], known.newest)
    for sighting in connection.execute(select(listing)):
        held = lines[listing].get((sighting.endpoint, sighting.list))
        if held:
            _widen(held, sighting.first, sighting.last)
    stored = connection.execute(select(statement)).mappings()
    ours = (dict(one) for one in stored if (one["endpoint"],) in lines[endpoint])
    statements.retire(lines[statement], ((_key(statement, one), one) for one in ours))


def _absorb(connection: Connection, lines: Lines) -> dict[str, str]:
    """Return who turned out to be somebody else, with whom; names and doors go over to them.

    Told by the places: each that was an organisation's own is another's now. Its row stays, hidden.
    """
    moved: dict[str, set[str]] = defaultdict(set)
    for row in connection.execute(select(anchors).where(anchors.c.anchor.startswith("|"))):
        held = lines[anchors].get((row.anchor,))
        moved[row.organization].add(held["organization"] if held else row.organization)
    gone = {old: new.pop() for old, new in moved.items() if len(new) == 1 and new != {old}}
    if not gone:
        return {}
    here = organization.c.id.in_(gone)
    for known in connection.execute(select(organization.c.id, organization.c.name).where(here)):
        new, text = gone[known.id], known.name
        shown = lines[organization].get((new,), {}).get("name")
        if text and text != shown:
            said = {"kind": "former", "origin": "this catalogue", "as_of": ""}
            lines[alias].setdefault((new, text), {"organization": new, "text": text} | said)
    for table in (alias, door):
        theirs = select(table).where(table.c.organization.in_(gone))
        for one in connection.execute(theirs).mappings():
            given = dict(one) | {"organization": gone[one["organization"]]}
            lines[table].setdefault(_key(table, given), given)
    return gone


def _hide(connection: Connection, absorbed: Mapping[str, str]) -> None:
    """Hide the rows of who is another now; what ties published rows to them leads to that one."""
    for old, new in absorbed.items():
        row = update(organization).where(organization.c.id == old)
        connection.execute(row.values(hidden=JOINED))
        ties = update(anchors).where(anchors.c.organization == old)
        connection.execute(ties.values(organization=new))


def _settle(lines: Lines) -> None:
    """Fill the endpoints, each field with the word that counts for it."""
    for identity, fields in statements.chosen(lines[statement].values()).items():
        held = lines[endpoint][identity,]
        held.update({name: one["value"] for name, one in fields.items()})
        held.update(origin=fields["url"]["origin"], as_of=fields["url"]["as_of"])


def _widen(held: dict[str, Any], first: str, last: str) -> None:
    held["first"], held["last"] = min(held["first"], first), max(held["last"], last)


def _resolve_parents(merged: Merged, lines: Lines) -> None:
    """Turn the references of lists into ids, cycles cut: nothing is above itself."""
    ids = {
        (s.row.origin, s.row.org_id): f.id
        for f in merged.organizations
        for s in f.rows
        if s.row.org_id
    }
    above: dict[str, str] = {}
    for found in merged.organizations:
        for seen in found.rows:
            parent = ids.get((seen.row.origin, seen.row.parent_id), "")
            if seen.row.parent_id and parent and parent != found.id:
                above.setdefault(found.id, parent)
    for child in sorted(above):
        at, steps = above[child], 0
        while at in above and at != child and steps < 10:
            at, steps = above[at], steps + 1
        if at != child and steps < 10 and (child,) in lines[organization]:
            lines[organization][child,]["part_of"] = above[child]
        else:
            del above[child]


def _forward(connection: Connection) -> None:
    """Add forwarding records: what left every list, and what took its place there.

    Only where organisation, vendor, FHIR version and domain leave one answer.
    """
    ends: dict[str, list[Any]] = defaultdict(list)
    status = statuses(connection)
    if not any(state != "listed" for state, _ in status.values()):
        return
    columns = (endpoint.c.id, endpoint.c.key, endpoint.c.vendor, endpoint.c.fhir_version)
    query = select(door.c.organization, *columns).join_from(door, endpoint)
    for row in connection.execute(query.order_by(door.c.organization, endpoint.c.key)):
        ends[row.organization].append(row)
    moved: dict[tuple[Any, ...], dict[str, Any]] = {}
    for members in ends.values():
        for old in members:
            if status[old.id][0] == "listed":
                continue
            same = {
                new.id
                for new in members
                if status[new.id][0] == "listed" and _kin(old) == _kin(new)
            }
            if len(same) == 1:
                reason = "same organisation, vendor, version and domain"
                step = {"old": old.id, "new": same.pop(), "as_of": status[old.id][1]}
                moved.setdefault((old.id,), step | {"reason": reason})
    put(connection, forward, [moved[key] for key in sorted(moved)])


def _kin(row: Any) -> tuple[str, str, str]:
    host = row.key.split("/")[2].split(":")[0]
    return row.vendor, row.fhir_version, ".".join(host.split(".")[-2:])


def statuses(connection: Connection) -> dict[str, tuple[str, str]]:
    """Return {endpoint id: (listed, missing or retired; the date it was last listed)}."""
    newest = {row.list: row.newest for row in connection.execute(select(edition))}
    found: dict[str, tuple[str, str]] = {}
    for row in connection.execute(select(listing).order_by(listing.c.endpoint, listing.c.list)):
        listed = row.last >= newest.get(row.list, "")
        gone = _days(newest.get(row.list, "")) - _days(row.last) > RETIRED_AFTER
        state = "listed" if listed else "retired" if gone else "missing"
        before, last = found.get(row.endpoint, ("retired", ""))
        state = min(state, before, key=("listed", "missing", "retired").index)
        found[row.endpoint] = state, max(last, row.last)
    return found


RETIRED_AFTER = 180  # days between the last edition that named an endpoint and the newest one


def _days(date: str) -> int:
    """Return a sortable number of days for `YYYY`, `YYYY-MM` or a full date; months count 30.4."""
    parts = [int(part) for part in date.split("-") if part.isdigit()][:3]
    year, month, day = (*parts, *(0, 1, 1)[len(parts) :])
    return int(year * 365.25 + month * 30.4375 + day)


# --------------------------------------------------------------------------- from rows to tables


def _rows_of(found: Found, newest: Mapping[str, str], *, known: bool) -> Iterator[Line]:
    """Yield the rows of an organisation; `known`: who speaks for it was heard in another ingest.

    Then third parties alone change nothing of it: what they say is kept as evidence.
    """
    stated = [s for s in found.rows if not s.row.evidence]
    own = stated or found.rows
    name = _best_name(own)
    shown = name if stated or not known else ""
    if shown or not known:
        yield organization, _shown(found.id, own, name)
    for seen in found.rows:
        evidence = seen.row.evidence and bool(stated or known)
        yield from _names_of(found, seen, shown, newest, evidence=evidence)
        yield from _facts_of(found, seen)
        yield from _places_of(found, seen)
        if seen.address.key:
            yield from _endpoint_of(found, seen)
        elif seen.row.url.strip():
            reason = seen.address.refused
            yield (
                refused,
                {"url": seen.row.url.strip(), "reason": reason, "origin": seen.row.origin},
            )


def _shown(identity: str, own: list[Seen], name: str) -> dict[str, str]:
    placed = _placed(own)
    return {
        "id": identity,
        "name": name,
        "kind": _newest(own, lambda s: s.row.kind),
        "parent": _newest(own, lambda s: s.row.parent),
        "part_of": "",
        "street": _newest(placed, lambda s: s.row.street.strip()),
        "city": _newest(own, lambda s: s.row.city.strip()),
        "state": _newest(own, lambda s: s.state),
        "zip": _newest(own, lambda s: s.zip),
        "country": _newest(own, lambda s: repair.country_code(s.row.country)),
        "website": _newest(own, lambda s: s.website),
        "about": _newest(own, lambda s: s.row.about),
        "hidden": _why_hidden(own, name),
    }


def _placed(own: list[Seen]) -> list[Seen]:
    """Return the rows whose street may be shown: those that fit the city that is shown."""
    city = _newest(own, lambda s: s.row.city.strip())
    return [
        s for s in own if s.row.city.strip() == city and "A-maybe-home-address" not in s.defects
    ]


def _best_name(own: list[Seen]) -> str:
    """Choose the name to show: newest list first, repaired spelling, never a code or placeholder.

    Names drift towards legal entities; the others stay findable as aliases.
    """
    usable = [s for s in own if not s.defects & UNNAMED] or own
    newest = max((s.row.as_of for s in usable), default="")
    counts = Counter(s.name.name for s in usable if s.row.as_of == newest or not s.row.as_of)
    counts = counts or Counter(s.name.name for s in usable)
    return min(counts, key=lambda text: (-counts[text], len(text), text))


def _newest(own: list[Seen], value: Callable[[Seen], str]) -> str:
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
    return "" if name and any(not s.defects & UNNAMED for s in own) else "no usable name"


def _names_of(
    found: Found, seen: Seen, name: str, newest: Mapping[str, str], *, evidence: bool
) -> Iterator[Line]:
    kind = "former" if seen.row.as_of < newest[_series(seen)] else "also"
    texts = [(seen.name.name, "claimed" if evidence else kind)]
    texts += [(repair.name(text).name, "also") for text in seen.row.aliases]
    for text, what in texts:
        if text and text != name and not seen.defects & (UNNAMED - {"N-too-short"}):
            row = {"organization": found.id, "text": text, "kind": what}
            yield alias, row | {"origin": seen.row.origin, "as_of": seen.row.as_of}


def _facts_of(found: Found, seen: Seen) -> Iterator[Line]:
    row = seen.row
    said = {
        "name": row.name.strip(),
        "street": row.street,
        "city": row.city,
        "state": row.state,
        "zip": row.zip,
        "country": row.country,
        "website": row.website,
        "parent": row.parent,
    }
    where = {"organization": found.id, "origin": row.origin}
    for name, value in said.items():
        if value:
            more = {"as_of": row.as_of, "evidence": int(row.evidence)}
            yield provenance, where | {"field": name, "value": value} | more
    for system, value in (("npi", row.npi), ("brand", row.brand_id)):
        if value:
            valid = system != "npi" or repair.npi_is_valid(value)
            stated = "claimed" if row.evidence else "stated"
            more = {"confidence": stated if valid else "invalid"}
            yield identifier, where | {"system": system, "value": value} | more


def _places_of(found: Found, seen: Seen) -> Iterator[Line]:
    for street, city, state, zip_code, country in seen.row.places:
        place = {
            "street": street.strip(),
            "city": city.strip(),
            "state": repair.state_code(state),
            "zip": repair.zip_code(zip_code, country)[0],
            "country": repair.country_code(country),
        }
        said = {
            "origin": seen.row.origin,
            "confidence": "claimed" if seen.row.evidence else "stated",
        }
        yield location, {"organization": found.id} | place | said


def _endpoint_of(found: Found, seen: Seen) -> Iterator[Line]:
    row, identity = seen.row, endpoint_id(seen.address.key)
    yield (
        endpoint,
        {
            "id": identity,
            "key": seen.address.key,
            **dict.fromkeys(statements.FIELDS, ""),  # see `_settle`
            "origin": "",
            "as_of": "",
        },
    )
    yield from ((statement, said) for said in statements.of(seen, identity))
    for unusable in {row.authorize.strip(), row.token.strip()}:
        if unusable and (reason := repair.address(unusable).refused):
            yield refused, {"url": unusable, "reason": reason, "origin": row.origin}
    portal = {"portal": row.portal, "portal_url": row.portal_url, "portal_about": row.portal_about}
    yield door, {"organization": found.id, "endpoint": identity} | portal
    yield (
        listing,
        {"endpoint": identity, "list": _series(seen), "first": row.as_of, "last": row.as_of},
    )
