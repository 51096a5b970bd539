"""The pairs of `tests/data/pairs`: read, made into records, ready to be judged."""

import json
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from phr.fhir.record import Record
from tests.corpus import corpus
from tests.fixtures_records import Digits, as_record

FOLDER = Path(__file__).parent / "data" / "pairs"
HELD_OUT = FOLDER.parent / "held_out"
SYSTEMS = {
    "atc": "http://www.whocc.no/atc",
    "cvx": "http://hl7.org/fhir/sid/cvx",
    "icd10cm": "http://hl7.org/fhir/sid/icd-10-cm",
    "loinc": "http://loinc.org",
    "npi": "http://hl7.org/fhir/sid/us-npi",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "snomed": "http://snomed.info/sct",
    "unii": "http://fdasis.nlm.nih.gov",
}
_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_STATUS = "http://terminology.hl7.org/CodeSystem/status"
Resource = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two records and what must become of them. `near` is what they point to."""

    kind: str
    why: str
    same: bool
    flagged: bool
    published: bool  # refers to the corpus, or to its code table of Isabella Jones
    needs_corpus: bool
    sides: tuple[Any, Any]
    one_hospital: bool

    def records(self) -> tuple[Record, Record, list[Record]]:
        """Return the two records and their neighbours."""
        hospitals = (1, 1) if self.one_hospital else (1, 2)
        made, near = [], []
        for place, (side, hospital) in enumerate(zip(self.sides, hospitals, strict=True)):
            resource, others = _published(side) if isinstance(side, str) else (side, [])
            own = resource if "id" in resource else {**resource, "id": f"own-{place}"}
            made.append(as_record(own, pk=place + 1, connection_id=hospital))
            near += [
                as_record(one, pk=100 + 100 * place + number, connection_id=hospital)
                for number, one in enumerate(others)
            ]
        return made[0], made[1], near


@cache
def every(folder: Path = FOLDER) -> tuple[Pair, ...]:
    """Return all pairs of a folder, in the order of files and lines."""
    return tuple(
        pair
        for path in sorted(folder.glob("*.toml"))
        if path.name != "paths.toml"
        for pair in _read(path)
    )


def _read(path: Path) -> Iterator[Pair]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    for head in ("same", "different"):
        for row in content.get(head, ()):
            sides = (row["one"], row["other"])
            own = [side for side in sides if not isinstance(side, str)]
            yield Pair(
                kind=content["kind"],
                why=f"{path.stem}: {row['why']}",
                same=head == "same",
                flagged=row.get("flagged", False),
                published=len(own) < 2 or any(side.get("isabella") for side in own),
                needs_corpus=len(own) < 2,
                sides=tuple(
                    side if isinstance(side, str) else build(content["kind"], side)
                    for side in sides
                ),
                one_hospital=row.get("hospital") == "same",
            )


# ------------------------------------------------------------------------- published FHIR


@cache
def _paths() -> Mapping[str, str]:
    return tomllib.loads((FOLDER / "paths.toml").read_text(encoding="utf-8"))


@cache
def _file(name: str) -> tuple[Resource, ...]:
    path = corpus() / _paths()[name]
    if path.suffix == ".tgz":
        with tarfile.open(path) as packed:
            members = sorted(
                (one for one in packed if "/example/" in one.name and one.name.endswith(".json")),
                key=lambda one: ("Bundle-" in one.name, one.name),
            )
            texts = [packed.extractfile(one).read().decode() for one in members]
    else:
        texts = [path.read_text(encoding="utf-8")]
        if path.suffix in {".ndjson", ".phr"}:
            try:
                json.loads(texts[0])
            except ValueError:
                texts = texts[0].splitlines()
    return tuple(resource for text in texts for resource in _resources(text))


def _resources(text: str) -> Iterator[Resource]:
    try:
        content = json.loads(text, parse_float=Digits, parse_int=Digits)
    except ValueError:
        return  # one file of the corpus is malformed after its eleventh line
    waiting = [content]
    while waiting:
        found = waiting.pop(0)
        if found.get("resourceType") != "Bundle":
            yield from [found] if "resourceType" in found else []
            continue
        for entry in found.get("entry", ()):
            if inner := entry.get("resource"):
                url = entry.get("fullUrl", "")
                named = {} if "id" in inner or not url else {"id": url.rpartition(":")[2]}
                waiting.append({**inner, **named})


def _published(reference: str) -> tuple[Resource, list[Resource]]:
    """Return the named resource and the medicines of its file, which it may point to."""
    name, _, wanted = reference.partition(" ")
    resources = _file(name)
    exact = [one for one in resources if f"{one['resourceType']}/{one.get('id')}" == wanted]
    fits = exact or [one for one in resources if _fits(one, wanted)]
    names = {(one["resourceType"], one.get("id")) for one in fits}
    assert fits, reference
    assert len(names) == 1 or "*" in wanted or wanted.startswith("#"), (reference, names)
    chosen = fits[0]
    near = [one for one in resources if one["resourceType"] == "Medication" and "id" in one]
    return chosen, [] if chosen["resourceType"] == "Medication" else near


def _fits(resource: Resource, wanted: str) -> bool:
    if wanted == "#no-allergy":
        code = resource.get("code", {})
        return resource["resourceType"] == "AllergyIntolerance" and "no-allergy" in str(code)
    type_, _, rest = wanted.partition("/")
    if resource["resourceType"] != type_:
        return False
    if not rest.startswith("*"):
        return str(resource.get("id", "")).startswith(rest)
    if rest[1:].isdigit():
        return True
    content = json.dumps(resource, ensure_ascii=False)
    return all(f'"{part}"' in content or part in _named(resource) for part in rest[1:].split("&"))


def _named(resource: Resource) -> str:
    fields = ("code", "medicationCodeableConcept", "name")
    return json.dumps([resource.get(field) for field in fields], ensure_ascii=False)


# ------------------------------------------------------------------------- our own


def build(kind: str, row: Mapping[str, Any]) -> Resource:
    """Return FHIR of a few words (`tests/data/pairs/README.md`)."""
    type_ = row.get("kind", kind)
    made: Resource = {"resourceType": type_}
    concept = _concept(row)
    _FIELDS.get(type_, _any)(made, row, concept)
    if "ids" in row:
        made["identifier"] = [
            {"system": SYSTEMS.get(system, system), "value": value}
            for system, _, value in (one.partition(" ") for one in row["ids"])
        ]
    return made


def _concept(row: Mapping[str, Any]) -> Resource:
    codings = []
    for said in row.get("codes", ()):
        system, code, display = (*said.split(" ", 2), "")[:3]
        coding = {"system": SYSTEMS.get(system, system), "code": code}
        codings.append(coding | ({"display": display} if display else {}))
    return ({"coding": codings} if codings else {}) | (
        {"text": row["text"]} if "text" in row else {}
    )


def _state(code: str) -> Resource:
    return {"coding": [{"system": _STATUS, "code": code}]}


def _any(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(code=concept, status=row.get("status", "completed"))
    if "on" in row:
        made["performedDateTime"] = row["on"]
    if "site" in row:
        made["bodySite"] = [{"text": row["site"]}]


def _allergy(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(code=concept, clinicalStatus=_state(row.get("status", "active")))
    if "verification" in row:
        made["verificationStatus"] = _state(row["verification"])
    if "severity" in row:
        made["reaction"] = [{"severity": row["severity"]}]


def _problem(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(
        code=concept,
        clinicalStatus=_state(row.get("status", "active")),
        category=[_state("problem-list-item")],
    )
    if "verification" in row:
        made["verificationStatus"] = _state(row["verification"])
    if "on" in row:
        made["onsetDateTime"] = row["on"]
    if "end" in row:
        made["abatementDateTime"] = row["end"]
    if "site" in row:
        made["bodySite"] = [{"text": row["site"]}]


def _relative(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(status="completed", relationship=_state("MTH"), condition=[{"code": concept}])


def _medicine(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(medicationCodeableConcept=concept, status=row.get("status", "active"))
    if "dose" in row:
        made["dosageInstruction"] = [{"text": row["dose"]}]
    if "on" in row:
        made["whenHandedOver"] = row["on"]


def _vaccine(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(vaccineCode=concept, status=row.get("status", "completed"))
    made["occurrenceDateTime"] = row["on"]
    if "lot" in row:
        made["lotNumber"] = row["lot"]


def _result(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    category = row.get("category", "laboratory")
    made.update(code=concept, status=row.get("status", "final"))
    made["category"] = [{"coding": [{"system": _CATEGORY, "code": category}]}]
    if "on" in row:
        made["effectiveDateTime"] = row["on"]
    if "value" in row:
        *sign, digits, unit = row["value"].split(" ")
        made["valueQuantity"] = {"value": Digits(digits), "unit": unit}
        if sign:
            made["valueQuantity"]["comparator"] = sign[0]
    if "words" in row:
        made["valueString"] = row["words"]
    if "specimen" in row:
        made["specimen"] = {"display": row["specimen"]}
    if "site" in row:
        made["bodySite"] = {"text": row["site"]}


def _report(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(code=concept, status="final", effectiveDateTime=row["on"])
    if "conclusion" in row:
        made["conclusion"] = row["conclusion"]


def _visit(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update({"status": "finished", "class": {"code": row["class"]}})
    made["period"] = {"start": row["on"]}
    if "place" in row:
        made["serviceProvider"] = {"display": row["place"]}


def _paper(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    made.update(type=concept, status="current", date=row["on"])
    if "data" in row:
        made["content"] = [{"attachment": {"contentType": "text/plain", "data": row["data"]}}]


def _person(made: Resource, row: Mapping[str, Any], concept: Resource) -> None:
    if made["resourceType"] == "Organization":
        made["name"] = row["name"]
    else:
        first, *rest = row["name"].split(" ")
        title = [first] if first.endswith(".") else []
        given = rest[:-1] if title else [first, *rest[:-1]]
        made["name"] = [{"prefix": title, "given": given, "family": rest[-1]}]
    if "born" in row:
        made["birthDate"] = row["born"]
    if "phone" in row:
        made["telecom"] = [{"system": "phone", "value": row["phone"]}]
    if "address" in row:
        made["address"] = [{"text": row["address"]}]


_FIELDS = {
    "AllergyIntolerance": _allergy,
    "Condition": _problem,
    "DiagnosticReport": _report,
    "DocumentReference": _paper,
    "Encounter": _visit,
    "FamilyMemberHistory": _relative,
    "Immunization": _vaccine,
    "MedicationDispense": _medicine,
    "MedicationRequest": _medicine,
    "MedicationStatement": _medicine,
    "Observation": _result,
    "Organization": _person,
    "Patient": _person,
    "Practitioner": _person,
}
