"""What the FHIR API emits, before two judges that nobody here wrote (issue 4, acceptance 2).

@medplum/core with US Core 6.1.0, and google-fhir-r4: no error that the received record had not.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phr.bench import corpus
from phr.fhir import document
from phr.fhir.labels import Label
from phr.fhir.record import Selection
from phr.sharing import exports
from phr.sharing.parameters import PARAMETERS
from phr.sharing.provision import READING, Provision
from phr.store import records
from phr.store.vault import Vault
from tests.cast import Cast
from tests.corpus import corpus as shared_corpus
from tests.fixtures_fhir import App, app_for, everything
from tests.fixtures_sharing import keep_all, keep_items

pytestmark = [pytest.mark.node, pytest.mark.corpus]

FAKES = Path(__file__).parents[1] / "fakes"
PEOPLE = 20
US_CORE_PATIENT = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"
Judge = Callable[[Sequence[bytes]], list[list[str]]]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the profiles of US Core 6.1.0."""
    folder = tmp_path_factory.mktemp("us-core")
    package = shared_corpus() / "fhir" / "uscore-packages" / "us_core_610.tgz"
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


@pytest.fixture(scope="module", params=["medplum", "google"])
def judge(request: pytest.FixtureRequest, profiles: Path) -> Judge:
    """Return what tells the errors of each of some resources."""
    node = shutil.which("node")
    if request.param == "google":
        pytest.importorskip("google.fhir.r4.json_format")
        command = [sys.executable, "-W", "ignore", str(FAKES / "judge_google.py")]
    elif node is None or not (FAKES.parents[1] / "node_modules" / "@medplum" / "core").is_dir():
        pytest.skip("no node or no node_modules (make conformance brings them)")
    else:
        command = [node, str(FAKES / "judge.mjs"), str(profiles)]

    def judged(bodies: Sequence[bytes]) -> list[list[str]]:
        lines = b"\n".join(body.replace(b"\n", b" ") for body in bodies)
        found = subprocess.run(command, input=lines, capture_output=True, check=True)
        issues = [json.loads(line) for line in found.stdout.splitlines()]
        assert len(issues) == len(bodies)
        return issues

    return judged


# ------------------------------------------------------------------ what is emitted


def open_to(cast: Cast, vault: Vault) -> App:
    """Return an app that may read everything, also what is labelled."""
    labels = ~Label.PRIVATE
    return app_for(cast, vault, Provision(everything().rules, labels, READING), "system/*.rs")


def raw_entries(bundle: bytes) -> Iterator[bytes]:
    """Yield the resources of a Bundle of ours byte for byte: an entry begins on each line."""
    inside = bundle.partition(b',"entry":[')[2].removesuffix(b"]}")
    for entry in inside.split(b',\n{"fullUrl"') if inside else ():
        body = entry.partition(b',"resource":')[2]
        yield body[: body.rindex(b',"search":')]


def pages(app: App, query: str) -> Iterator[bytes]:
    """Yield every page of a search as it was sent."""
    while query:
        answer = app.get(query)
        assert answer.status_code == 200, answer.text
        yield answer.content
        links = {each["relation"]: each["url"] for each in answer.json()["link"]}
        query = links.get("next", "")


def resources(app: App) -> list[bytes]:
    """Return every resource that searches find, as it was sent."""
    found: list[bytes] = []
    for type_ in PARAMETERS:
        for page in pages(app, f"{type_}?_count=200"):
            found += raw_entries(page)
    return found


def exported(app: App) -> list[bytes]:
    address = app.get("$export", headers={"prefer": "respond-async"}).headers["content-location"]
    exports._worker.submit(int).result()
    output = app.get(address).json()["output"]
    return [line for each in output for line in app.get(each["url"]).content.splitlines()]


def around(app: App) -> list[bytes]:
    """Return what is not a received record: Bundles, and what we author ourselves."""
    [patient] = app.found("Patient")
    observation = app.names("Observation?_count=1")[0]
    paths = [
        "metadata",
        "Observation?_count=20&_revinclude=Provenance:target&_include=Observation:patient",
        "Observation?_count=20&_summary=true",
        "Condition?_elements=code",
        "DiagnosticReport?_summary=count",
        f"{observation}/_history",
        f"{observation}/_history/1",
        f"Patient/{patient['id']}",
        f"Patient/{patient['id']}/$everything",
        f"Patient/{patient['id']}/$summary",
        f"DocumentReference/$docref?patient={patient['id']}",
        f"Provenance/origin-{observation.partition('/')[2]}",
        "Observation/0000000000000000",
        "Observation?nonsense=1",
        "Nothing",
    ]
    found = [app.get(path).content for path in paths]
    found.append(App(app.vault, _nobody(app), app.browser).get("Observation").content)
    return found


def _nobody(app: App) -> Any:
    return replace(app.token, text="nothing.nothing")


# ------------------------------------------------------------------ twenty generated people


@pytest.fixture(scope="module")
def received() -> list[list[dict[str, Any]]]:
    people = []
    for index in range(PEOPLE):
        made = corpus.base(seed=corpus.SEED + index, people=1)
        for each in made:
            each["meta"]["lastUpdated"] = "2026-01-01T00:00:00Z"
        patient = {
            "resourceType": "Patient",
            "id": corpus.PATIENT,
            "name": [{"family": "Generated", "given": ["Person"]}],
            "birthDate": "1970-01-01",
        }
        people.append([patient, *made])
    return people


def test_twenty_generated_people_leave_without_an_error(
    cast: Cast, judge: Judge, received: list[list[dict[str, Any]]]
) -> None:
    vault = cast.vault("Ada")
    for index, person in enumerate(received):
        keep_all(vault, f"Hospital {index}", person)
    app = open_to(cast, vault)

    emitted = resources(app)

    assert len(emitted) > PEOPLE * 60
    assert Counter(_profiles(emitted)).total() > PEOPLE * 60
    everything_sent = [*emitted, *around(app)]
    issues = judge(everything_sent)
    assert [(i, b[:200]) for i, b in zip(issues, everything_sent, strict=True) if i] == []
    assert sorted(exported(app)) == sorted(body.replace(b"\n", b" ") for body in emitted)


def _profiles(bodies: Sequence[bytes]) -> Iterator[str]:
    for body in bodies:
        yield from json.loads(body).get("meta", {}).get("profile", ())


def test_our_patient_is_one_of_us_core(cast: Cast, judge: Judge) -> None:
    """Composed by us, so nobody else's profile stands in it: it is judged by that of US Core."""
    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", [
        {"resourceType": "Patient", "id": "1", "name": [{"family": "Sample"}]}
    ])  # fmt: skip
    [patient] = open_to(cast, vault).found("Patient")
    patient["meta"] = {"profile": [US_CORE_PATIENT]}
    assert judge([json.dumps(patient).encode()]) == [[]]
    without = {name: value for name, value in patient.items() if name != "name"}
    without["active"] = "yes"
    assert judge([json.dumps(without).encode()]) != [[]]


# ------------------------------------------------------------------ patient 85


def test_patient_85_leaves_with_no_error_that_it_did_not_bring(cast: Cast, judge: Judge) -> None:
    file = shared_corpus() / "fhir" / "uscore-reference" / "uscore_bundle_patient_85.json"
    vault = cast.vault("Ada")
    connection = keep_all(vault, "Reference", [])
    keep_items(vault, connection, document.slice_bundle(file.read_bytes()).entries)
    with vault.read() as session:
        kept = {each.local_id: each.body for each in records.select(session, vault, Selection())}
    app = open_to(cast, vault)
    emitted = [body for body in resources(app) if json.loads(body)["resourceType"] != "Patient"]
    names = [json.loads(body)["id"] for body in emitted]
    assert len(names) > 100

    before = judge([kept[name] for name in names])
    after = judge(emitted)

    new = [
        (body[:200], list((Counter(ours) - Counter(theirs)).elements()))
        for body, ours, theirs in zip(emitted, after, before, strict=True)
    ]
    assert [each for each in new if each[1]] == []
    # Identifiers may be UUIDs, and leave as they came; what leads to a record is ours.
    assert re.findall(rb'"(?:reference|url)"\s*:\s*"urn:uuid:[^"]*"', b"".join(emitted)) == []
