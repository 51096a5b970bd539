"""Our authorization server and FHIR API, driven by clients that nobody here wrote (issue 4).

openid-client and fhir-kit-client (npm), fhirclient and smart-fetch (PyPI); spec: SMART App Launch
2.2, OpenID Connect Core, FHIR R4 §3.1.1. The patient's own clicks are ours.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fhirclient import client as fhirclient
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from smart_fetch.resources import PATIENT_TYPES

from phr import jwt
from phr.sharing.provision import SENSITIVE
from tests.cast import PASSWORDS, Cast, csrf_in
from tests.corpus import corpus
from tests.e2e.house import Running, command_line, running

pytestmark = [pytest.mark.node, pytest.mark.corpus]

ROOT = Path(__file__).resolve().parents[2]
BACK = "https://app.example.org/back"
SCOPE = "openid fhirUser launch/patient offline_access patient/*.rs"


@dataclass
class Home:
    """A running appliance with reference patient 85 in Ada's record, and Ada's browser."""

    house: Running
    patient_id: str
    ada: httpx.Client
    bundle: dict[str, Any]

    def register(self, **more: Any) -> str:
        given = {"client_name": "A stranger", "redirect_uris": [BACK]} | more
        answer = httpx.post(f"{self.house.public}/oauth/register", json=given)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["client_id"])

    def allow(self, address: str) -> str:
        """Let the app in as Ada would; return the address her browser is led back to."""
        door = httpx.get(address)
        assert door.status_code == 303, door.text
        return self.answer(door.headers["location"])

    def answer(self, address: str) -> str:
        page = self.ada.get(address)
        assert page.status_code == 200, page.text
        form = {
            "csrf": csrf_in(page.text),
            "once": re.findall(r'name="once" value="([^"]+)"', page.text)[0],
            "line": re.findall(r'name="line" value="([^"]+)"', page.text),
            "also": list(SENSITIVE),
            "patient": self.patient_id,
            "days": "30",
            "do": "allow",
            "confirm.password": PASSWORDS["Ada"],
        }
        answer = self.ada.post(address, data=form, headers={"origin": self.house.home})
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def ids(self, type_: str) -> int:
        """Return how many records of a type the patient has."""
        return sum(each["resource"]["resourceType"] == type_ for each in self.bundle["entry"])


@pytest.fixture(scope="module")
def home(
    cast_at_home: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    folder, cast = cast_at_home
    data = tmp_path_factory.mktemp("strangers") / "data"
    shutil.copytree(folder, data, ignore=shutil.ignore_patterns("run"))
    file = corpus() / "fhir" / "uscore-reference" / "uscore_bundle_patient_85.json"
    with running(data, PHR_DEMO="0") as house, httpx.Client(base_url=house.home) as ada:
        command_line(house, "import", str(file), "--patient", "Ada")
        form = {
            "name": "Ada",
            "password": PASSWORDS["Ada"],
            "csrf": csrf_in(ada.get("/signin").text),
        }
        assert ada.post("/signin", data=form, headers={"origin": house.home}).status_code == 303
        yield Home(house, cast.patients["Ada"], ada, json.loads(file.read_text()))


def test_openid_client_signs_in_and_fhir_kit_client_reads_every_page(home: Home):
    if shutil.which("node") is None or not (ROOT / "node_modules" / "openid-client").is_dir():
        pytest.skip("no node or no node_modules (make conformance brings them)")
    client_id = home.register()
    script = [str(Path(__file__).with_name("strangers.mjs")), home.house.public, client_id, BACK]
    app = subprocess.Popen(
        ["node", *script, SCOPE],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def said() -> dict[str, Any]:
        line = app.stdout.readline()
        assert line, "the app ended early"
        return dict(json.loads(line))

    with app:
        app.stdin.write(home.allow(said()["authorize"]) + "\n")
        app.stdin.flush()
        signed_in, read, refreshed, revoked, after = (said() for _ in range(5))
        assert app.wait(30) == 0

    assert signed_in["claims"]["aud"] == client_id
    assert signed_in["claims"]["fhirUser"].endswith(f"/fhir/Patient/{signed_in['patient']}")
    assert read["token"] == f"{home.house.public}/oauth/token"
    assert read["name"]
    assert len(read["seen"]) == len(set(read["seen"])) == home.ids("Observation")
    assert refreshed == {"refreshed": True, "rotated": True}
    assert revoked == {"before": True, "after": False}
    assert (after["refused"], after["status"]) == ("invalid_grant", 401)
    assert 'error="invalid_token"' in after["challenge"]


def test_fhirclient_of_smart_reads_patient_and_laboratory_results(home: Home):
    settings = {
        "app_id": home.register(),
        "api_base": f"{home.house.public}/fhir",
        "redirect_uri": BACK,
        "scope": "openid fhirUser launch/patient offline_access patient/*.read",
    }
    app = fhirclient.FHIRClient(settings=settings)

    app.handle_callback(home.allow(app.authorize_url))

    assert app.ready
    assert app.patient is not None
    found = list(Observation.where({"category": "laboratory"}).perform_resources_iter(app.server))
    expected = [
        each["resource"]
        for each in home.bundle["entry"]
        if "laboratory" in json.dumps(each["resource"].get("category", ""))
        and each["resource"]["resourceType"] == "Observation"
    ]
    assert len(found) == len(expected) > 0
    assert Patient.read(app.patient_id, app.server).id == app.patient_id
    assert app.reauthorize() is not None or app.ready


TYPES = tuple(PATIENT_TYPES)  # all that it knows of a patient


@pytest.fixture(scope="module")
def backend(home: Home, tmp_path_factory: pytest.TempPathFactory) -> "Backend":
    """Return a backend service that the patient let in, with its key in a file."""
    key = jwt.new_key("ES384")
    file = tmp_path_factory.mktemp("backend") / "key.jwks"
    file.write_text(json.dumps({"keys": [{**key, "key_ops": ["sign"]}]}))
    client_id = home.register(
        redirect_uris=[],
        grant_types=["client_credentials"],
        token_endpoint_auth_method="private_key_jwt",
        jwks={"keys": [jwt.public_half(key)]},
        scope="system/*.rs",
    )
    home.answer(f"/p/{home.patient_id}/apps/{client_id}")
    return Backend(home, client_id, key, file)


@dataclass
class Backend:
    """A backend service, and smart-fetch as its program."""

    home: Home
    client_id: str
    key: dict[str, Any]
    file: Path

    def fetched(self, out: Path, verb: str, *more: str) -> dict[str, int]:
        """Run smart-fetch; return how many lines of each type it has on disk."""
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("smart-fetch")),
                verb,
                "--fhir-url", f"{self.home.house.public}/fhir",
                "--smart-client-id", self.client_id,
                "--smart-key", str(self.file),
                "--type", ",".join(TYPES), "--no-compression", "--no-default-filters",
                *more,
                str(out),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return {
            name: sum(path.read_text().count("\n") for path in out.rglob(f"{name}*.ndjson"))
            for name in TYPES[1:]
        }


def test_smart_fetch_crawls_every_type_as_a_backend_service(
    home: Home, backend: Backend, tmp_path: Path
):
    found = httpx.get(f"{home.house.public}/fhir/.well-known/smart-configuration").json()
    assert "client_credentials" in found["grant_types_supported"]
    ids = _patient_id(home, backend.key, backend.client_id)
    lines = backend.fetched(tmp_path / "out", "crawl", "--id-list", ids)
    assert lines == {name: home.ids(name) for name in lines}


def test_smart_fetch_takes_a_bulk_export_as_a_backend_service(
    home: Home, backend: Backend, tmp_path: Path
):
    """FHIR Bulk Data 2.0.0: kick-off, status, manifest, files, and the DELETE at the end."""
    out = tmp_path / "out"
    lines = backend.fetched(out, "bulk")
    assert lines == {name: home.ids(name) for name in lines}
    told = [json.loads(line) for line in (out / "log.ndjson").read_text().splitlines()]
    events = [each["eventId"] for each in told]
    assert events[0] == "kickoff"
    assert events[-1] == "export_complete"
    assert not {"status_error", "download_error"} & set(events)
    [patient] = (json.loads(path.read_text()) for path in out.rglob("Patient*.ndjson"))
    assert patient["id"] == _patient_id(home, backend.key, backend.client_id)


def _patient_id(home: Home, key: dict[str, Any], client_id: str) -> str:
    """Return the id under which the server knows the patient, from a token answer."""
    from tests.integration.test_apps import assertion

    base = home.house.public
    given = assertion(key, client_id, aud=f"{base}/oauth/token")
    asked = {"grant_type": "client_credentials", "scope": "system/Patient.rs system/*.rs"}
    answer = httpx.post(f"{base}/oauth/token", data=asked | given)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["patient"])


def test_address_of_the_app_is_where_the_browser_goes(home: Home):
    client_id = home.register()
    app = fhirclient.FHIRClient(
        settings={
            "app_id": client_id,
            "api_base": f"{home.house.public}/fhir",
            "redirect_uri": BACK,
            "scope": "launch/patient patient/*.read",
        }
    )

    back = urlsplit(home.allow(app.authorize_url))

    assert f"{back.scheme}://{back.netloc}{back.path}" == BACK
