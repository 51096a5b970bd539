"""Our International Patient Summary before two validators that we did not write (IPS 2.0.0)."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fhirkit
import pytest

from phr import clock
from phr.bench import corpus, house
from phr.chart.summary import SELECTIONS
from phr.chart.summary import summary as sections_of
from phr.fhir import document
from phr.fhir.record import Item
from phr.keep import Keeper
from phr.papers import cda_entries
from phr.sharing import summary
from phr.sharing.gate import Owned
from phr.store.vault import Vault
from tests.corpus import corpus as shared_corpus

JUDGE = Path(__file__).parents[1] / "fakes" / "judge.mjs"
pytestmark = pytest.mark.node
BASE = "https://doors.example"
REQUIRED = {"11450-4", "48765-2", "10160-0"}
HELD = {  # section -> what may stand in it (IPS 2.0.0, Composition-uv-ips)
    "11450-4": {"Condition"},
    "11348-0": {"Condition"},
    "48765-2": {"AllergyIntolerance"},
    "10160-0": {"MedicationRequest", "MedicationStatement"},
    "11369-6": {"Immunization"},
    "47519-4": {"Procedure"},
    "30954-2": {"Observation", "DiagnosticReport"},
    "8716-3": {"Observation"},
}


@pytest.fixture(scope="module")
def node() -> str:
    """Return the program that runs the judge, or skip and say what is missing."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node on this machine")
    if not (JUDGE.parents[2] / "node_modules" / "@medplum" / "core").is_dir():
        pytest.skip("node_modules is not installed (make conformance does that)")
    return found


def filled(vault: Vault, resources: Sequence[Mapping[str, Any]]) -> Owned:
    connection = house.connection(vault)
    keeper = Keeper(vault, connection, house.pull(vault, connection), now=clock.now())
    keeper.page("all", [Item(document.dumps(one)) for one in resources])
    keeper.finish()
    return Owned(vault)


def judged(node: str, bodies: Sequence[bytes]) -> list[list[str]]:
    """Return what Medplum objects to, a list for each document."""
    lines = b"\n".join(body.replace(b"\n", b" ") for body in bodies)
    found = subprocess.run([node, JUDGE], input=lines, capture_output=True, check=True)
    return [json.loads(line) for line in found.stdout.splitlines()]


def resources_of(made: Mapping[str, Any], type_: str) -> list[Mapping[str, Any]]:
    return [e["resource"] for e in made["entry"] if e["resource"]["resourceType"] == type_]


def check_document(body: bytes) -> None:
    """Every rule of the guide that a document of ours must meet, whoever the person is."""
    made = json.loads(body)
    assert made["type"] == "document"
    assert made["identifier"]["value"].startswith("urn:uuid:")
    assert made["timestamp"]
    kinds = [entry["resource"]["resourceType"] for entry in made["entry"]]
    assert kinds[0] == "Composition"
    assert kinds.count("Composition") == kinds.count("Patient") == 1
    names = {entry["fullUrl"] for entry in made["entry"]}
    assert len(names) == len(made["entry"])
    composition = made["entry"][0]["resource"]
    assert composition["type"]["coding"][0]["code"] == "60591-5"
    assert {s["code"]["coding"][0]["code"] for s in composition["section"]} >= REQUIRED
    author = composition["author"][0]["reference"]
    assert author.startswith("Device/")
    assert composition["status"] == "final"
    assert composition["title"]
    assert composition["date"] == made["timestamp"]
    assert not [section for section in composition["section"] if "section" in section]  # flat
    for one in resources_of(made, "Provenance"):  # every entry says where it is from
        assert [entity for entity in one["entity"] if entity["what"]["display"]]
    for section in composition["section"]:
        for reason in section.get("emptyReason", {}).get("coding", ()):
            assert reason["code"] in ("unavailable", "notasked", "withheld")  # never "nilknown"
        code = section["code"]["coding"][0]["code"]
        kinds_here = {one["reference"].partition("/")[0] for one in section.get("entry", ())}
        assert kinds_here <= HELD.get(code, kinds_here), (code, kinds_here)
    said = {target["reference"] for p in resources_of(made, "Provenance") for target in p["target"]}
    for section in composition["section"]:
        assert section["text"]["div"].startswith('<div xmlns="http://www.w3.org/1999/xhtml">')
        assert ("entry" in section) != ("emptyReason" in section)
        for entry in section.get("entry", ()):
            assert f"{BASE}/fhir/{entry['reference']}" in names
            assert entry["reference"] in said
    for reference in (composition["subject"]["reference"], author):
        assert f"{BASE}/fhir/{reference}" in names


def person(index: int) -> list[Mapping[str, Any]]:
    """Return a generated person's record: a bundle and a history of visits."""
    patient = {
        "resourceType": "Patient",
        "id": corpus.PATIENT,
        "name": [{"family": f"Person {index}"}],
        "birthDate": "1970-01-01",
    }
    made = corpus.base(seed=corpus.SEED + index, people=1)
    for one in made:
        one["meta"]["lastUpdated"] = "2026-01-01T00:00:00Z"
    return [patient, *made]


def lines(vault: Vault) -> dict[str, list[tuple[str, ...]]]:
    """Return what the sections of a record say, without where it is from."""
    found = Owned(vault).select(*SELECTIONS)
    return {
        section.head.slug: sorted(line.cells for line in section.lines)
        for section in sections_of(found, now=clock.now())
    }


def summarized(resources: Sequence[Mapping[str, Any]]) -> tuple[bytes, Any]:
    """Return the summary of a record, and what its sections say."""
    with house.opened() as vault:
        source = filled(vault, resources)
        return summary.bundle(source, base_url=BASE, now=clock.now()), lines(vault)


def brought(body: bytes) -> Any:
    """Return what the sections of a record say that was given nothing but this summary."""
    with house.opened() as vault:
        filled(vault, [entry["resource"] for entry in document.loads(body)["entry"]])
        return lines(vault)


@pytest.fixture(scope="module")
def told() -> list[tuple[bytes, Any]]:
    """Return the summaries of twenty generated people, each with what its sections say."""
    return [summarized(person(index)) for index in range(20)]


@pytest.fixture(scope="module")
def people(told: list[tuple[bytes, Any]]) -> list[bytes]:
    """Return the summaries of twenty generated people."""
    return [body for body, _ in told]


def test_summaries_of_twenty_people_have_no_error_in_two_validators(
    node: str, people: list[bytes]
) -> None:
    for body in people:
        check_document(body)
        assert [str(one) for one in fhirkit.validate(body) if one.severity == "error"] == []
    assert judged(node, people) == [[]] * 20


def test_summaries_of_twenty_people_brought_elsewhere_say_the_same(
    told: list[tuple[bytes, Any]],
) -> None:
    for body, said in told:
        assert brought(body) == said


@pytest.mark.corpus
def test_summary_of_patient_85_has_no_error_in_two_validators(node: str) -> None:
    file = shared_corpus() / "fhir/uscore-reference/uscore_bundle_patient_85.json"
    entries = document.loads(file.read_bytes())["entry"]
    body, said = summarized([entry["resource"] for entry in entries])
    check_document(body)
    assert [str(one) for one in fhirkit.validate(body) if one.severity == "error"] == []
    assert judged(node, [body]) == [[]]
    assert brought(body) == said


@pytest.mark.corpus
def test_summary_of_what_clinical_documents_say_has_no_error_in_two_validators(node: str) -> None:
    folder = shared_corpus() / "ccda" / "vendor"
    for path in sorted(folder.glob("*Isabella*.xml")):
        made = cda_entries.transcribe(path.read_bytes()).resources
        body, said = summarized([document.loads(one) for one in made])
        check_document(body)
        assert [str(one) for one in fhirkit.validate(body) if one.severity == "error"] == []
        assert judged(node, [body]) == [[]]
        assert brought(body) == said


def test_the_judges_do_find_a_planted_fault(node: str, people: list[bytes]) -> None:
    """A judge that passes everything would prove nothing."""
    made = json.loads(people[0])
    del made["entry"][0]["resource"]["author"]
    broken = json.dumps(made).encode()
    assert judged(node, [broken]) != [[]]
    assert [one for one in fhirkit.validate(broken) if one.severity == "error"]
