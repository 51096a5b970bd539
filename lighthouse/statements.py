"""What lists say about an endpoint, field by field, and whose word counts for each field.

A publisher's own list goes before a copy of it, that before collections, and a third party's claim
comes last; among equals the newest. What nobody else says is taken from whoever says it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lighthouse import repair
from lighthouse.merge import Seen
from lighthouse.vendors import version_at

FIELDS = ("url", "vendor", "fhir_version", "authorize", "token")
# By rank. Derived: told by the address or the name of the list, not stated. Former: the same list
# says something else by now.
STANDINGS = ("own", "copied", "collected", "derived", "claimed", "former")
_RANK = {standing: rank for rank, standing in enumerate(STANDINGS)}

Statement = Mapping[str, Any]


def of(seen: Seen, identity: str) -> Iterator[dict[str, Any]]:
    """Yield what a row says about its endpoint: a row of the table `statement` for each field.

    A sign-in address that must never be requested is not taken.
    """
    row = seen.row
    standing = "claimed" if row.evidence else STANDINGS[row.hands]
    stated = repair.stated_version(row.fhir_version)
    said = {
        "url": (seen.address.published, standing),
        "vendor": (row.vendor, standing),
        "fhir_version": (stated, standing) if stated else (derived_version(seen), "derived"),
        "authorize": (_usable(row.authorize), standing),
        "token": (_usable(row.token), standing),
    }
    where = {"endpoint": identity, "origin": row.origin, "as_of": row.as_of}
    for field, (value, how) in said.items():
        if value:
            yield where | {"field": field, "value": value, "standing": how}


def derived_version(seen: Seen) -> str:
    """Return the FHIR version that an address shows, else its server's, else the list's name."""
    name = seen.row.origin.rsplit("/", 1)[-1]
    key = seen.address.key
    return repair.version_in(key) or version_at(key) or repair.version_in_name(name)


def _usable(address: str) -> str:
    return address.strip() if address and repair.address(address).key else ""


def retire(
    new: dict[tuple[Any, ...], dict[str, Any]], stored: Iterable[tuple[tuple[Any, ...], Statement]]
) -> None:
    """Add to new statements what was said earlier; what the same list corrected is former."""
    said = {(one["endpoint"], one["field"], one["origin"]) for one in new.values()}
    for key, one in stored:
        if key not in new:
            corrected = (one["endpoint"], one["field"], one["origin"]) in said
            new[key] = dict(one) | ({"standing": "former"} if corrected else {})


def chosen(statements: Iterable[Statement]) -> dict[str, dict[str, Statement]]:
    """Return by endpoint and field the statement that counts; a field that nobody fills lacks."""
    of_field: dict[tuple[str, str], list[Statement]] = defaultdict(list)
    for one in statements:
        if one["standing"] != "former":
            of_field[one["endpoint"], one["field"]].append(one)
    found: dict[str, dict[str, Statement]] = defaultdict(dict)
    for (identity, field), said in of_field.items():
        if field != "authorize":
            found[identity][field] = _best(said)
    for (identity, field), said in of_field.items():
        if field == "authorize":
            found[identity][field] = _best(_beside(said, found[identity], of_field) or said)
    return found


def _beside(
    said: list[Statement],
    found: Mapping[str, Statement],
    of_field: Mapping[tuple[str, str], list[Statement]],
) -> list[Statement]:
    """Return what was said by those who say the token address that counts: the two are a pair."""
    if "token" not in found:
        return []
    token = found["token"]
    speakers = {
        one["origin"]
        for one in of_field[token["endpoint"], "token"]
        if one["value"] == token["value"]
    }
    return [one for one in said if one["origin"] in speakers]


def _best(said: list[Statement]) -> Statement:
    if len(said) == 1:
        return said[0]
    often = Counter(one["value"] for one in said)

    def order(one: Statement) -> tuple[int, str, int, str, str]:
        return (
            -_RANK[one["standing"]],
            one["as_of"],
            often[one["value"]],
            one["value"],
            one["origin"],
        )

    return max(said, key=order)
