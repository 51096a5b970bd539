"""Decides which rows are about the same organisation, and what its name, place and doors are.

Strong reasons join (same customer identifier, same tenant address, same name at a host or site of
few names), medium ones join (same name and state, same name and ZIP, same vendor and brand
name), weak ones never do. A join that would
bring two stated states or two websites together is refused and kept as a question for people.
"""

import re
import unicodedata
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from lighthouse import repair
from lighthouse.rows import Row
from lighthouse.sites import site_of
from lighthouse.vendors import tenant_of

NAMESPACE = uuid.UUID("6f0ce1a4-5b1e-5c0e-9d55-7f0c5a1d7e10")  # ids of this catalogue, for ever
BRAND_VENDORS = {"Epic"}  # one brand name is one organisation there (`spec` of the vendor's list)
SHARED_NAMES = 3  # an address with this many names in one list says nothing about who is who
SHARED_BRANDS = 2  # the same for a customer identifier: a host lends its own to its affiliates
HOME_NAMES = 4  # with more names, or rows without one, a host or site is some vendor's
UNNAMED = {"N-missing", "N-placeholder", "N-is-an-id", "N-too-short"}  # no name to join by

_FORM = re.compile(
    r"\b(?:inc|llc|llp|pllc|plc|pc|pa|psc|ltd|corp|corporation|co|md|do|dba|the|apmc|sc)\b\.?"
)
_MARKS = re.compile(r"[^a-z0-9]+")


def name_key(name: str) -> str:
    """Return what two spellings of one name share: letters and digits, company forms dropped."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = plain.replace("&", " and ").replace("'s", "s").replace(".", "")
    plain = _MARKS.sub(" ", plain)
    return _MARKS.sub("", _FORM.sub(" ", plain)) or _MARKS.sub("", plain)


@dataclass(slots=True)
class Seen:
    """A row after repair, as the merge looks at it."""

    row: Row
    name: repair.Repaired
    address: repair.Address
    key: str  # of the name
    state: str
    zip: str
    website: str
    defects: set[str]


@dataclass(slots=True)
class Found:
    """One organisation: the rows it was made of and the id it keeps for ever."""

    id: str
    rows: list[Seen] = field(default_factory=list)


def see(row: Row) -> Seen:
    """Repair a row and collect its defects."""
    name, address = repair.name(row.name), repair.address(row.url)
    zip_code, zip_defects = repair.zip_code(row.zip, row.country)
    defects = name.defects | address.defects | zip_defects | repair.street(row.street)
    if row.npi and not repair.npi_is_valid(row.npi):
        defects.add("I-npi-bad-checksum")
    website = re.sub(r"^https?://(?:www\.)?|/.*$", "", row.website.strip().lower())
    state = repair.state_code(row.state) or name.state or repair.state_at_end(name.name)
    return Seen(row, name, address, name_key(name.name), state, zip_code, website, defects)


def endpoint_id(key: str) -> str:
    """Return the id of an endpoint: made from its normalised address, so it never changes."""
    return uuid.uuid5(NAMESPACE, f"endpoint|{key}").hex


def anchor(seen: Seen) -> str:
    """Return what ties a row to its organisation between two ingests."""
    return "|".join(_unit(seen))


class _Sets:
    """Union-find that refuses to join what contradicts itself."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.states: list[set[str]] = []
        self.websites: list[set[str]] = []

    def add(self, state: str, website: str) -> int:
        self.parent.append(len(self.parent))
        self.states.append({state} - {""})
        self.websites.append({website} - {""})
        return len(self.parent) - 1

    def root(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, one: int, other: int) -> bool:
        low, high = sorted((self.root(one), self.root(other)))
        if low == high:
            return True
        states = self.states[low] | self.states[high]
        websites = self.websites[low] | self.websites[high]
        if len(states) > 1 or len(websites) > 1:
            return False
        self.parent[high] = low
        self.states[low], self.websites[low] = states, websites
        return True


@dataclass(slots=True)
class Merged:
    """What came of a merge: organisations, and the joins that were refused and want a person."""

    organizations: list[Found]
    shared: set[str]  # addresses of many names: they say nothing about who is who
    questions: list[tuple[str, str]]  # names that share a strong reason but contradict each other


def merge(rows: Iterable[Row], known: dict[str, str]) -> Merged:
    """Merge rows into organisations. `known` maps anchors of an earlier ingest to their ids."""
    seen = sorted(map(see, rows), key=_order)
    groups: dict[tuple[str, str], list[Seen]] = defaultdict(list)
    shared, alone = _shared(seen), _only_evidence(seen)
    known_of = _Known(shared, alone, _homes(seen, alone), _namesakes(seen))
    for one in seen:
        groups[_unit(one)].append(one)
    sets = _Sets()
    units = list(groups)
    for unit in units:
        members = groups[unit]
        said = [m for m in members if unit[1] in alone or not m.row.evidence]
        sets.add(_first(m.state for m in said), _first(m.website for m in members))
    questions = _join(units, groups, sets, known_of)
    found: dict[int, Found] = {}
    for number, unit in enumerate(units):
        found.setdefault(sets.root(number), Found("")).rows.extend(groups[unit])
    organizations = list(found.values())
    _name_ids(organizations, known, shared)
    return Merged(organizations, shared, questions)


def _order(seen: Seen) -> tuple[str, ...]:
    row = seen.row
    return (row.origin, row.as_of, row.origin_id, row.name, row.url, row.zip, row.npi)


def _unit(seen: Seen) -> tuple[str, str]:
    """Rows with one name at one tenant (or address) are one thing from the start."""
    url = seen.row.url.strip()
    place = tenant_of(url) or seen.address.key or url
    # Who has no address at all (the one door of a country) is told apart by the list's own id.
    return seen.key, place or f"{seen.row.country}:{seen.row.org_id}".strip(":")


def _shared(seen: list[Seen]) -> set[str]:
    """Return tenants, addresses and customer identifiers that one list gives to several names.

    What a list calls part of another is no new name of it, though both answer at one address.
    """
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    brands: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in seen:
        if one.key and not one.row.evidence:
            places[_unit(one)[1], one.row.origin].add(one.key)
            brands[one.row.brand_id, one.row.origin].add(one.key)
    parts = {_unit(one)[1] for one in seen if one.row.parent_id not in {"", one.row.org_id}}
    found = {place for (place, _), keys in places.items() if len(keys) >= SHARED_NAMES}
    found |= {place for (place, _), keys in places.items() if place in parts and len(keys) > 1}
    return found | {brand for (brand, _), keys in brands.items() if len(keys) >= SHARED_BRANDS}


def _only_evidence(seen: list[Seen]) -> set[str]:
    """Return the places of which no list but a third party's speaks: there it is all we have."""
    own = {_unit(one)[1] for one in seen if not one.row.evidence}
    return {_unit(one)[1] for one in seen} - own


def _homes(seen: list[Seen], alone: set[str]) -> set[str]:
    """Return the hosts and sites of few names: what has one name twice there is one organisation.

    A vendor's server has many names, or rows without one.
    """
    names: dict[str, set[str]] = defaultdict(set)
    for one in seen:
        if one.address.key and (not one.row.evidence or _unit(one)[1] in alone):
            name = "" if one.name.defects & UNNAMED else one.key
            for home in _home_of(one):
                names[home].add(name)
    return {home for home, said in names.items() if len(said) <= HOME_NAMES and "" not in said}


def _namesakes(seen: list[Seen]) -> set[str]:
    """Return brand names that one list gives to several owners: there are two "Baptist Health"."""
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in seen:
        if one.row.owner:
            owners[one.key, one.row.origin].add(name_key(one.row.owner))
    return {key for (key, _), said in owners.items() if len(said) > 1}


def _home_of(one: Seen) -> tuple[str, str]:
    """Return the host and the site of an address; a host of its own may stand in a shared site."""
    key = one.address.key
    return (urlsplit(key).hostname or "", f"*.{site_of(key)}") if key else ("", "")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of places before anything is joined."""

    shared: set[str]
    alone: set[str]
    homes: set[str]
    namesakes: set[str]


def _reasons(
    unit: tuple[str, str], members: list[Seen], known: _Known
) -> Iterator[tuple[str, ...]]:
    """Yield why a unit may be joined with another that gives the same reason."""
    key, place = unit
    if place and place not in known.shared:
        yield "place", place
    for one in members:
        if one.row.evidence and place not in known.alone:
            continue  # a third party's link was made by name: it supports, it never decides
        yield from (("home", home, key) for home in _home_of(one) if home in known.homes)
        if one.row.org_id and key:
            yield "own", one.row.origin, one.row.org_id, key
        if one.row.brand_id and one.row.brand_id not in known.shared:
            yield "brand", one.row.brand_id
        if not key or one.name.defects & UNNAMED:
            continue
        if one.state:
            yield "state", key, one.state
        if one.zip:
            yield "zip", key, one.zip
        branded = one.row.vendor in BRAND_VENDORS or one.row.kind == "ins"
        if branded and key not in known.namesakes:
            yield "vendor", key, one.row.vendor


def _join(
    units: list[tuple[str, str]],
    groups: dict[tuple[str, str], list[Seen]],
    sets: _Sets,
    known: _Known,
) -> list[tuple[str, str]]:
    first: dict[tuple[str, ...], int] = {}
    questions = []
    for strength in (("own", "brand", "place", "home"), ("state", "zip", "vendor")):
        for number, unit in enumerate(units):
            for reason in dict.fromkeys(_reasons(unit, groups[unit], known)):
                if reason[0] not in strength:
                    continue
                other = first.setdefault(reason, number)
                if not sets.join(other, number) and strength[0] == "own":
                    questions.append((groups[units[other]][0].row.name, groups[unit][0].row.name))
    return questions


def anchors_of(found: Found, shared: set[str]) -> list[str]:
    """Return the anchors of an organisation: name and place of each row, then each place alone.

    A place alone ties a renamed site to its id even when only the new name is taken in.
    """
    exact = dict.fromkeys(map(anchor, found.rows))
    places = {_unit(one)[1] for one in found.rows} - shared - {""}
    return [*exact, *(f"|{place}" for place in sorted(places) if f"|{place}" not in exact)]


def _name_ids(organizations: list[Found], known: dict[str, str], shared: set[str]) -> None:
    """Give each organisation the id its anchors had before, else one made of its first anchor."""
    taken: set[str] = set()
    for organization in organizations:
        before = Counter(known[a] for a in anchors_of(organization, shared) if a in known)
        likeliest = sorted(before.items(), key=lambda pair: (-pair[1], pair[0]))
        chosen = _first(identity for identity, _ in likeliest if identity not in taken)
        made = f"organization|{min(map(anchor, organization.rows))}"
        while not chosen or chosen in taken:  # an id that another organisation took with it
            chosen, made = uuid.uuid5(NAMESPACE, made).hex[:16], made + "'"
        organization.id = chosen
        taken.add(organization.id)


def _first(values: Iterable[str]) -> str:
    return next((value for value in values if value), "")
