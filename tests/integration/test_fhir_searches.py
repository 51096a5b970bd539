"""Every search of US Core 6.1.0 against a reading of the vault by hand, under three grants.

The reader here shares nothing with `phr.sharing.search`: it takes element paths and types from
the guide's own metadata and compares values by the words of R4 §3.1.1.4.
"""

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from phr.fhir import document
from phr.fhir.labels import Label
from phr.fhir.record import Record, Selection
from phr.sharing import gate
from phr.sharing.provision import Action, Provision, Rule
from phr.store.vault import Vault
from tests.cast import Cast
from tests.corpus import corpus
from tests.fixtures_fhir import App, app_for, everything
from tests.fixtures_sharing import ADA, a_record, keep_all, lab, label

pytestmark = pytest.mark.corpus
SUPPORTING = {"Practitioner", "PractitionerRole", "Organization", "Location", "Medication"}
SUBJECT = {"reference": "Patient/85"}
SINCE = datetime(2020, 1, 1, tzinfo=UTC)
EVERY_LABEL = Label.NONE
for each in Label:
    EVERY_LABEL |= each
VALUES_OF_ONE = 2  # of each parameter, for each search
REQUESTS_OF_ONE = 5


# ------------------------------------------------------------------ the guide's metadata


@dataclass(frozen=True)
class Definition:
    """One search parameter, as the guide's metadata has it."""

    name: str
    kind: str
    paths: tuple[str, ...]


@cache
def metadata() -> dict[str, tuple[dict[str, Definition], set[tuple[str, ...]]]]:
    """Return for each type its parameters, and the combinations that US Core asks for."""
    text = (corpus() / "fhir/uscore-packages/inferno-metadata-v6.1.0.yml").read_text()
    plain = re.sub(r"(?m)^(\s*(?:- )?):(\w[\w-]*):", r"\1\2:", text)
    found: dict[str, tuple[dict[str, Definition], set[tuple[str, ...]]]] = {}
    for group in yaml.safe_load(plain)["groups"]:
        definitions, searches = found.setdefault(group["resource"], ({}, set()))
        for name, one in (group.get("search_definitions") or {}).items():
            definitions[name] = Definition(name, one["type"], tuple(one["full_paths"]))
        searches |= {tuple(one["names"]) for one in group["searches"]}
    return found


def at(resource: Mapping[str, Any], path: str) -> list[Any]:
    """Return what stands at a path of the metadata: choices, lists and one `where` included."""
    values: list[Any] = [resource]
    for step in re.split(r"\.(?![^(]*\))", path)[1:]:
        if step.startswith("where("):
            url = step.split("'")[1]
            values = [one for one in values if one.get("url") == url]
            continue
        values = [
            inner
            for value in values
            if isinstance(value, dict)
            for name, found in value.items()
            if name == step or (name.startswith(step) and name[len(step) :][:1].isupper())
            for inner in (found if isinstance(found, list) else [found])
        ]
    return values


# ------------------------------------------------------------------ comparing by hand


def tokens(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for coding in value.get("coding", [value]):
            yield str(coding.get("system", "")), str(coding.get("code", coding.get("value", "")))
    else:
        yield "", str(value)


def words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from () if name in {"use", "type", "period"} else words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner)
    else:
        yield str(value)


def span(value: Any) -> tuple[datetime, datetime] | None:
    """Return the first and the last instant that a date, a dateTime or a Period may mean."""
    if isinstance(value, dict):
        first, last = span(value.get("start")), span(value.get("end"))
        if first is None and last is None:
            return None
        begin = first or last
        assert begin
        return begin[0], last[1] if last else datetime.max.replace(tzinfo=UTC)
    if not value:
        return None
    text = str(value)
    if len(text) > 10:
        at_ = datetime.fromisoformat(text)
        return at_, at_
    parts = [int(part) for part in text.split("-")]
    first_day = datetime(*(parts + [1] * (3 - len(parts))), tzinfo=UTC)  # type: ignore[arg-type,misc]  # year, month, day
    if len(parts) == 1:
        after = first_day.replace(year=first_day.year + 1)
    elif len(parts) == 2:
        after = (first_day.replace(day=28) + timedelta(days=4)).replace(day=1)
    else:
        after = first_day + timedelta(days=1)
    return first_day, after - timedelta(milliseconds=1)


Span = tuple[datetime, datetime]
COMPARED: dict[str, Callable[[Span, Span], bool]] = {
    "eq": lambda asked, has: asked[0] <= has[0] and has[1] <= asked[1],
    "ne": lambda asked, has: not (asked[0] <= has[0] and has[1] <= asked[1]),
    "gt": lambda asked, has: has[1] > asked[1],
    "ge": lambda asked, has: has[1] > asked[1] or (asked[0] <= has[0] and has[1] <= asked[1]),
    "lt": lambda asked, has: has[0] < asked[0],
    "le": lambda asked, has: has[0] < asked[0] or (asked[0] <= has[0] and has[1] <= asked[1]),
    "sa": lambda asked, has: has[0] > asked[1],
    "eb": lambda asked, has: has[1] < asked[0],
}


def fits(definition: Definition, asked: str, resource: Mapping[str, Any]) -> bool:
    values = [value for path in definition.paths for value in at(resource, path)]
    if definition.name == "_id":
        return bool(resource["id"] == asked)
    if definition.kind == "Reference":
        return any(one.get("reference") in (asked, f"Patient/{asked}") for one in values)
    if definition.kind in ("date", "dateTime", "instant", "Period"):
        prefix, text = (asked[:2], asked[2:]) if asked[0].isalpha() else ("eq", asked)
        wanted = span(text)
        assert wanted
        spans = [found for value in values if (found := span(value))]
        return any(COMPARED[prefix](wanted, has) for has in spans)
    if definition.kind in ("string", "HumanName", "Address"):
        return any(
            word.casefold().startswith(asked.casefold()) for v in values for word in words(v)
        )
    if definition.kind == "canonical":
        return any(str(one).split("|")[0] == asked for one in values)
    system, bar, code = asked.rpartition("|")
    return any(
        has_code == code and (not bar or has_system == system)
        for value in values
        for has_system, has_code in tokens(value)
    )


def samples(definition: Definition, resources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return values worth asking for: some that are there, and for dates what is around them."""
    found: dict[str, None] = {}
    for resource in resources:
        if definition.name == "_id":
            found[str(resource["id"])] = None
        for path in definition.paths:
            for value in at(resource, path):
                found.update(dict.fromkeys(_asked(definition, value)))
    listed = [one for one in found if one and "," not in one]
    step = max(1, len(listed) // VALUES_OF_ONE)
    return listed[::step][:VALUES_OF_ONE]


def _asked(definition: Definition, value: Any) -> Iterator[str]:
    if definition.kind == "Reference":
        if "reference" in value:
            yield str(value["reference"])
    elif definition.kind in ("date", "dateTime", "instant", "Period"):
        text = str(value.get("start", "") if isinstance(value, dict) else value)[:10]
        if text:
            chosen = list(COMPARED)[sum(map(ord, text)) % len(COMPARED)]
            yield f"{chosen}{text}"
    elif definition.kind in ("string", "HumanName", "Address"):
        yield next((word[:4] for word in words(value) if word.isalpha() and len(word) > 4), "")
    elif definition.kind == "canonical":
        yield str(value).split("|")[0]
    else:
        for system, code in tokens(value):
            yield f"{system}|{code}" if system else code


# ------------------------------------------------------------------ the vault, and three grants


def a_person() -> list[dict[str, Any]]:
    """Return Inferno's reference patient with the guide's own examples beside."""
    folder = corpus() / "fhir"
    bundle = json.loads((folder / "uscore-reference/uscore_bundle_patient_85.json").read_text())
    people = [entry["resource"] for entry in bundle["entry"]]
    with tarfile.open(folder / "uscore-packages/us_core_610.tgz") as archive:
        for member in archive:
            if "/example/" in member.name and member.name.endswith(".json"):
                file = archive.extractfile(member)
                assert file
                example = json.load(file)
                if example["resourceType"] in metadata() and example["resourceType"] != "Patient":
                    people.append(example)
    return people


def some_labs() -> Iterator[dict[str, Any]]:
    """Yield results around the first of January 2020, some of them sensitive, one undated."""
    for number, when in enumerate(
        ("2019", "2019-12-31", "2020", "2020-01", "2020-01-01T00:00:00Z", "2021-06-30", "2023-02",
         "2024-05-05T10:00:00+02:00", "2025")
    ):  # fmt: skip
        yield lab(f"l{number}", when, subject=SUBJECT)
        yield lab(f"s{number}", when, subject=SUBJECT, meta=label("HIV"))
        yield lab(f"p{number}", when, subject=SUBJECT, status="preliminary")
    undated = lab("undated", "2022", subject=SUBJECT)
    del undated["effectiveDateTime"]
    yield undated


@dataclass
class Shelf:
    """What the vault holds, as it would leave, with its labels; read as the owner."""

    records: list[Record]
    resources: dict[int, Mapping[str, Any]]

    def of(self, type_: str, permitted: set[int] | None = None) -> list[Mapping[str, Any]]:
        return [
            self.resources[record.pk]
            for record in self.records
            if record.type == type_ and (permitted is None or record.pk in permitted)
        ]

    def permitted(self, covers: Callable[[Record], bool]) -> set[int]:
        """Return the pks a grant lets out: what it covers, and what that refers to."""
        counted = {
            one.pk
            for one in self.records
            if one.type not in SUPPORTING and one.type != "Patient" and covers(one)
        }
        by_name = {f"{one.type}/{one.local_id}": one for one in self.records}
        waiting = list(counted)
        while waiting:
            text = json.dumps(self.resources[waiting.pop()], default=str)
            for name in re.findall(r'"reference": "([^"]+)"', text):
                one = by_name.get(name)
                if one is not None and one.type in SUPPORTING and one.pk not in counted:
                    counted.add(one.pk)
                    waiting.append(one.pk)
        return counted


def shelf_of(vault: Vault) -> Shelf:
    owned = gate.owner_export(vault, ADA, form="test")
    found = owned.select(*(Selection(types=(type_,)) for type_ in owned.types()))
    leaving = owned.bodies(found)
    return Shelf(found, {record.pk: document.parse(body) for record, body in leaving})


def is_labs(record: Record) -> bool:
    codes = [code for value in record.document.get("category", []) for _, code in tokens(value)]
    moments = [
        found
        for path in ("Observation.effective", "Observation.issued")
        for value in at(record.document, path)
        if (found := span(value))
    ]
    return (
        record.type == "Observation"
        and "laboratory" in codes
        and not record.labels
        and bool(moments)
        and moments[0][1] >= SINCE
    )


GRANTS: dict[str, tuple[Callable[[], Provision], Callable[[Record], bool]]] = {
    "all": (
        lambda: Provision(everything().rules, EVERY_LABEL & ~Label.PRIVATE, frozenset(Action)),
        lambda record: record.type not in {"Provenance", "Endpoint", "Bundle"},
    ),
    "labs since 2020": (
        lambda: Provision(
            (Rule(("Observation",), ("laboratory",), since=SINCE),), actions=frozenset(Action)
        ),
        is_labs,
    ),
    "one type": (
        lambda: Provision((Rule(("Condition",)),), actions=frozenset(Action)),
        lambda record: record.type == "Condition" and not record.labels,
    ),
}


@pytest.fixture
def shelf(cast: Cast) -> Shelf:
    vault = cast.vault("Ada")
    text = json.dumps([one for one in a_record() if one["resourceType"] != "Patient"])
    others = json.loads(text.replace("Patient/1", "Patient/85"))
    keep_all(vault, "Reference hospital", [*a_person(), *others, *some_labs()])
    return shelf_of(vault)


def queries(
    shelf: Shelf, type_: str, permitted: set[int], patient_id: str
) -> Iterator[list[tuple[Definition, str]]]:
    """Yield what each search of a type is asked with: single parameters, and all combinations.

    Values are taken from what is shared, and from what is there, shared or not.
    """
    definitions, combinations = metadata()[type_]
    patient = [f"Patient/{patient_id}"]
    values = {
        name: patient
        if name == "patient"
        else [*samples(one, shelf.of(type_, permitted)), *samples(one, shelf.of(type_))]
        for name, one in definitions.items()
    }
    yield []
    for names in [*((name,) for name in definitions), *sorted(combinations)]:
        asked = product(*([(definitions[name], one) for one in values[name]] for name in names))
        yield from (list(one) for one in list(asked)[:REQUESTS_OF_ONE])


@pytest.mark.parametrize("name", GRANTS)
def test_every_search_finds_what_a_reading_by_hand_finds(
    cast: Cast, shelf: Shelf, name: str
) -> None:
    provision, covers = GRANTS[name]
    vault = cast.vault("Ada")
    app = app_for(cast, vault, provision())
    permitted = shelf.permitted(covers)
    [patient] = app.found("Patient")
    asked, hits, wrong = 0, 0, []
    for type_ in metadata():
        if type_ in {"Patient", "Provenance"}:
            continue
        for query in queries(shelf, type_, permitted, patient["id"]):
            address = f"{type_}?{urlencode([(one.name, value) for one, value in query])}"
            expected = sorted(
                str(resource["id"])
                for resource in shelf.of(type_, permitted)
                if all(fits(one, value, resource) for one, value in query)
            )
            found = sorted(str(each["id"]) for each in app.found(f"{address}&_count=150"))
            asked, hits = asked + 1, hits + len(found)
            if found != expected:
                wrong.append((address, len(found), len(expected)))
    assert wrong == []
    assert asked > 250
    assert hits > {"all": 2000, "labs since 2020": 100, "one type": 100}[name], hits


def test_no_search_of_the_guide_is_missing_in_the_capability_statement(
    cast: Cast, shelf: Shelf
) -> None:
    app = app_for(cast, cast.vault("Ada"))
    rest = app.get("metadata").json()["rest"][0]
    offered = {
        one["type"]: {parameter["name"] for parameter in one.get("searchParam", ())}
        for one in rest["resource"]
    }
    for type_, (definitions, combinations) in metadata().items():
        if combinations:
            assert definitions.keys() <= offered[type_], type_


def test_the_patient_is_found_by_what_is_shared_of_it(cast: Cast, shelf: Shelf) -> None:
    app: App = app_for(cast, cast.vault("Ada"))
    [patient] = app.found("Patient")
    family, birth = patient["name"][0]["family"], patient["birthDate"]
    for query in (
        f"_id={patient['id']}",
        f"name={family}",
        f"family={family.upper()}&gender={patient['gender']}",
        f"birthdate={birth}&name={family[:3]}",
        f"birthdate=lt{int(birth[:4]) + 1}",
    ):
        assert app.names(f"Patient?{query}") == [f"Patient/{patient['id']}"], query
    for query in ("_id=0000000000000000", "name=Nobody", "identifier=1", "death-date=ge1900"):
        assert app.names(f"Patient?{query}") == [], query
