"""NPPES, the US register of providers, read as a stream: evidence for names and places.

Organisations, their other names and practice locations only: no person, phone or official is read.
A number that a vendor's own list states lends its names to search; one that merely has the same
name and state is noted as a claim and decides nothing.
"""

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select

from lighthouse import repair
from lighthouse.merge import name_key
from lighthouse.tables import alias, identifier, location, organization, provenance
from lighthouse.writing import put

_PARTS = {
    "main": re.compile(r"npidata_pfile_[\d-]+\.csv(?:\.gz)?$"),
    "names": re.compile(r"othername_pfile_[\d-]+\.csv(?:\.gz)?$"),
    "places": re.compile(r"pl_pfile_[\d-]+\.csv(?:\.gz)?$"),
}
_ZIP = re.compile(r"NPPES_[\w-]+\.zip$", re.IGNORECASE)
ORGANIZATION = "2"  # entity type code


@dataclass(slots=True)
class Report:
    """What NPPES had to say: organisations read, matched, names and places added, ended numbers."""

    read: int = 0
    matched: int = 0
    names: int = 0
    places: int = 0
    ended: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)  # file, why it cannot be read


@dataclass(frozen=True, slots=True)
class _Match:
    organization: str
    sure: bool  # the vendor's own list states this number, and the states agree


@dataclass(slots=True)
class _Known:
    """What the catalogue knows that a line of NPPES may be about."""

    numbers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    keys: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    facts: dict[str, Any] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def support(engine: Engine, folder: Path) -> Report:
    """Add the evidence of the NPPES files below a folder to the organisations that are there."""
    report, matches = Report(), dict[str, list[_Match]]()
    with engine.begin() as connection:
        lines = _Lines(_known(connection))
        for line, origin, as_of in _stream(folder, "main", report):
            found = _matches(line, lines, (origin, as_of), report)
            if found:
                matches[line["npi"]] = found
        for line, origin, as_of in _stream(folder, "names", report):
            for match in matches.get(line["npi"], ()):
                lines.name(match, line.get("provider other organization name", ""), (origin, as_of))
        for line, origin, as_of in _stream(folder, "places", report):
            for match in matches.get(line["npi"], ()):
                lines.place(match, _secondary(line), (origin, as_of))
        for table, rows in lines.rows.items():
            put(connection, table, [rows[key] for key in sorted(rows)])
    report.names = len(lines.rows[alias])
    report.places = len(lines.rows[location])
    return report


def _known(connection: Connection) -> _Known:
    found = _Known()
    for row in connection.execute(select(identifier).where(identifier.c.system == "npi")):
        if row.confidence in {"stated", "deactivated"}:
            found.numbers[row.value].append(row.organization)
    columns = ("id", "name", "street", "city", "state", "zip")
    for row in connection.execute(select(*(organization.c[name] for name in columns))):
        found.facts[row.id] = row
        found.names[row.id].add(row.name)
        if row.name and row.state:
            found.keys[name_key(row.name), row.state].add(row.id)
    for row in connection.execute(select(alias)):
        found.names[row.organization].add(row.text)
    return found


def _matches(
    line: Mapping[str, str], lines: "_Lines", place: tuple[str, str], report: Report
) -> list[_Match]:
    """Take one line of the main file: return whom it is about, and note what it supports."""
    number, known = line["npi"], lines.known
    if line.get("npi deactivation date") and not line.get("npi reactivation date"):
        for one in known.numbers.get(number, ()):
            lines.ended(one, number, place)  # a tombstone: the number and the date are all there is
            report.ended += 1
        return []
    if line.get("entity type code") != ORGANIZATION:
        return []
    report.read += 1
    where = _practice(line)
    state = repair.state_code(where[2])
    legal = line.get("provider organization name legal business name", "")
    names = [name for name in (legal, line.get("provider other organization name", "")) if name]
    stated = known.numbers.get(number, ())
    found = [_Match(one, known.facts[one].state in {"", state}) for one in stated]
    same = {one for name in names for one in known.keys.get((name_key(name), state), ())}
    if not found and state and len(same) == 1:  # a name alone proves nothing, two prove less
        found = [_Match(same.pop(), sure=False)]
        lines.claim(found[0].organization, number, place)
    for match in found:
        report.matched += 1
        for name in names:
            lines.name(match, name, place)
        lines.address(match, where, place)
    return found


class _Lines:
    """Rows to write, by table and key."""

    def __init__(self, known: _Known) -> None:
        self.known = known
        self.rows: dict[Any, dict[tuple[str, ...], dict[str, Any]]] = {
            table: {} for table in (organization, alias, location, identifier, provenance)
        }

    def name(self, match: _Match, published: str, place: tuple[str, str]) -> None:
        text = repair.name(published).name
        if not text or text in self.known.names[match.organization]:
            return
        row = {"organization": match.organization, "text": text, "origin": place[0]}
        kind = "other" if match.sure else "claimed"
        made = row | {"kind": kind, "as_of": place[1]}
        self.rows[alias].setdefault((match.organization, text), made)
        self._evidence(match.organization, "name", published, place)

    def place(self, match: _Match, where: tuple[str, ...], place: tuple[str, str]) -> None:
        street, city, state, zip_code = _repaired(where)
        if not city or repair.country_code(where[4]) not in {"", "US"}:
            return
        key = (match.organization, street, city, state, zip_code)
        facts = self.known.facts[match.organization]
        if key == (facts.id, facts.street, facts.city, facts.state, facts.zip):
            return
        row = dict(zip(("organization", "street", "city", "state", "zip"), key, strict=True))
        confidence = "stated" if match.sure else "claimed"
        made = row | {"country": "US", "origin": place[0], "confidence": confidence}
        self.rows[location].setdefault(key, made)

    def address(self, match: _Match, where: tuple[str, ...], place: tuple[str, str]) -> None:
        """Fill an empty address where the number is the vendor's own; else only note it."""
        said = dict(zip(("street", "city", "state", "zip"), _repaired(where), strict=True))
        for name, value in said.items():
            if value and name != "street":
                self._evidence(match.organization, name, value, place)
        facts = self.known.facts[match.organization]
        bare = not (facts.city or facts.zip)
        if match.sure and bare:
            self.rows[organization].setdefault(
                (match.organization,),
                {"id": match.organization, "name": facts.name, "hidden": ""} | said,
            )
        else:
            self.place(match, where, place)

    def claim(self, one: str, number: str, place: tuple[str, str]) -> None:
        self._identifier(one, number, place, "claimed")

    def ended(self, one: str, number: str, place: tuple[str, str]) -> None:
        self._identifier(one, number, place, "deactivated")

    def _identifier(self, one: str, number: str, place: tuple[str, str], confidence: str) -> None:
        row = {"organization": one, "system": "npi", "value": number}
        made = row | {"origin": place[0], "confidence": confidence}
        self.rows[identifier][one, "npi", number] = made

    def _evidence(self, one: str, name: str, value: str, place: tuple[str, str]) -> None:
        row = {"organization": one, "field": name, "value": value, "origin": place[0]}
        self.rows[provenance][one, name, value, place[0]] = row | {"as_of": place[1], "evidence": 1}


def _repaired(where: tuple[str, ...]) -> tuple[str, str, str, str]:
    street, city, state, zip_code, _ = where
    home = "A-maybe-home-address" in repair.street(street)  # a flat may be somebody's home
    shown = repair.name(street).name if street and not home else ""
    city = repair.name(city).name
    return shown, city, repair.state_code(state), repair.zip_code(zip_code)[0]


_PRACTICE = "provider business practice location address"
_SECOND = "provider secondary practice location address"


def _practice(line: Mapping[str, str]) -> tuple[str, ...]:
    return (
        line.get("provider first line business practice location address", ""),
        line.get(f"{_PRACTICE} city name", ""),
        line.get(f"{_PRACTICE} state name", ""),
        line.get(f"{_PRACTICE} postal code", ""),
        line.get(f"{_PRACTICE} country code if outside u s", ""),
    )


def _secondary(line: Mapping[str, str]) -> tuple[str, ...]:
    ends = (
        "address line 1",
        "city name",
        "state name",
        "postal code",
        "country code if outside u s",
    )
    return tuple(line.get(f"{_SECOND} {end}", "") for end in ends)


# --------------------------------------------------------------------------- files


_BROKEN = (
    OSError, EOFError, ValueError, csv.Error, zlib.error, zipfile.BadZipFile, RuntimeError,
)  # fmt: skip


def files_below(folder: Path) -> list[Path]:
    """Return the files of NPPES below a folder, by name."""
    kinds = (*_PARTS.values(), _ZIP)
    return sorted(
        path for path in folder.rglob("*") if any(kind.search(path.name) for kind in kinds)
    )


def _stream(
    folder: Path, part: str, report: Report
) -> Iterator[tuple[Mapping[str, str], str, str]]:
    """Yield (line by normalised column name, origin, date) of one kind of file, line by line.

    A file that cannot be read to its end is reported; what came before holds.
    """
    for path in files_below(folder):
        try:
            yield from _file(path, part)
        except _BROKEN as error:
            said = (path.relative_to(folder).as_posix(), str(error)[:200] or "cut or broken")
            if said not in report.broken:
                report.broken.append(said)


def _file(path: Path, part: str) -> Iterator[tuple[Mapping[str, str], str, str]]:
    if _PARTS[part].search(path.name):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from _lines(stream, path.name)
    elif _ZIP.search(path.name):
        with zipfile.ZipFile(path) as packed:
            for name in sorted(packed.namelist()):
                if _PARTS[part].search(name):
                    with packed.open(name) as stream:
                        yield from _lines(stream, name.rsplit("/", 1)[-1])


def _lines(stream: Any, name: str) -> Iterator[tuple[Mapping[str, str], str, str]]:
    dated = re.search(r"(\d{4})(\d\d)(\d\d)(?=\.csv)", name)
    as_of = "-".join(dated.groups()) if dated else ""
    with _as_text(stream) as text:
        reader = csv.reader(text)
        columns = [_column(title) for title in next(reader, [])]
        if "npi" not in columns:
            raise ValueError("no column NPI")
        for values in reader:
            if len(values) == len(columns):
                yield dict(zip(columns, values, strict=True)), "nppes", as_of


@contextmanager
def _as_text(stream: Any) -> Iterator[io.TextIOWrapper]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
    try:
        yield text
    finally:
        text.detach()


def _column(title: str) -> str:
    """Bring a published column title to one form: dashes, brackets and double blanks vary."""
    return re.sub(r"[^a-z0-9]+", " ", title.lower()).strip()
