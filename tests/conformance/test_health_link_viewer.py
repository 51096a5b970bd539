"""SMART Health Links and Cards between us and kill-the-clipboard (npm), which nobody here wrote.

Our links in its viewer (SHL 1.0); its cards verified here, and read by it again as we forward them.
"""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from phr import clock, ids
from phr.connectors import health_card, health_link
from phr.http import Http
from phr.net import Guard
from tests.cast import PASSWORDS, PUBLIC, Cast, csrf_in
from tests.conformance.test_patient_summary import judged
from tests.corpus import corpus
from tests.e2e.house import Running, command_line, running
from tests.fakes import shl_host
from tests.fixtures_health_links import health_link as our_link
from tests.fixtures_sharing import Share, a_record, keep_all, recent

pytestmark = [pytest.mark.node, pytest.mark.corpus]

ROOT = Path(__file__).resolve().parents[2]
LETTER = {
    "resourceType": "DocumentReference",
    "id": "letter",
    "status": "current",
    "type": {"text": "Discharge letter"},
    "date": recent(20),
    "content": [{"attachment": {"contentType": "text/plain", "data": "VGFrZSBpdCBlYXN5Lg=="}}],
}
PERSON = {"resourceType": "Patient", "id": "1", "name": [{"family": "Sample"}]}
Viewer = Callable[..., dict[str, Any]]


@dataclass
class Home:
    """A running appliance with reference patient 85 in Ada's record, and Ada's browser."""

    house: Running
    patient_id: str
    ada: httpx.Client

    def send(self, path: str, form: dict[str, str], page: str) -> httpx.Response:
        given = {"csrf": csrf_in(self.ada.get(page).text), **form}
        return self.ada.post(path, data=given, headers={"origin": self.house.home})

    def link(self, how: str) -> tuple[str, str, str]:
        """Make a health link on the share page; return it, its passcode and its grant."""
        page, once = f"/p/{self.patient_id}/share", ids.new_id()
        form = {"what": "primary", "whom": "Clinic A", "hours": "24", "do": how, "once": once}
        form["confirm.password"] = PASSWORDS["Ada"]
        shown = self.send(page, form, page)
        assert shown.status_code == 200, shown.text
        text = html.unescape(re.findall(r'value="(shlink:/[^"]+)"', shown.text)[0])
        code = re.findall(r'class="code"><b>(\d+)</b>', shown.text)
        return text, code[0] if code else "", once

    def stop(self, grant_id: str) -> None:
        at = f"/p/{self.patient_id}/grants"
        assert self.send(f"{at}/{grant_id}/stop", {}, at).status_code == 303


@pytest.fixture(scope="module")
def home(
    cast_at_home: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    folder, cast = cast_at_home
    data = tmp_path_factory.mktemp("viewer") / "data"
    shutil.copytree(folder, data, ignore=shutil.ignore_patterns("run"))
    file = corpus() / "fhir" / "uscore-reference" / "uscore_bundle_patient_85.json"
    with running(data, PHR_DEMO="0") as house, httpx.Client(base_url=house.home) as ada:
        letter = data.parent / "letter.json"
        letter.write_text(json.dumps(LETTER))
        for each in (file, letter):
            command_line(house, "import", str(each), "--patient", "Ada")
        made = Home(house, cast.patients["Ada"], ada)
        form = {"name": "Ada", "password": PASSWORDS["Ada"]}
        assert made.send("/signin", form, "/signin").status_code == 303
        yield made


@pytest.fixture(scope="module")
def viewer() -> Iterator[Viewer]:
    if shutil.which("node") is None or not (ROOT / "node_modules" / "kill-the-clipboard").is_dir():
        pytest.skip("no node or no node_modules (make conformance brings them)")
    script = str(Path(__file__).with_name("viewer.mjs"))
    with subprocess.Popen(
        ["node", script], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:

        def ask(**given: Any) -> dict[str, Any]:
            program.stdin.write(json.dumps(given) + "\n")
            program.stdin.flush()
            return dict(json.loads(program.stdout.readline()))

        yield ask
        program.stdin.close()


def test_a_link_to_scan_opens_with_summary_and_letters(home: Home, viewer: Viewer) -> None:
    link, passcode, _ = home.link("scan")
    assert passcode == ""
    seen = viewer(link=link)
    assert seen["flag"] == ""
    assert seen["types"] == ["document", *["collection"] * seen["apart"]]
    assert seen["apart"] > 0
    assert seen["first"][:2] == ["Composition", "Patient"]
    assert {"Condition", "Device"} <= set(seen["first"])
    behind_a_viewer = viewer(link=f"https://viewer.example/#{link}", most=10)
    assert behind_a_viewer["apart"] == seen["apart"] + 1
    assert behind_a_viewer["first"][:2] == ["Composition", "Patient"]


def test_a_passcode_wrong_and_right_and_the_end(home: Home, viewer: Viewer) -> None:
    link, passcode, grant_id = home.link("health")
    assert viewer(link=link) == {"error": "SHLInvalidPasscodeError"}
    assert viewer(link=link, passcode="000000x") == {"error": "SHLInvalidPasscodeError"}
    assert viewer(link=link, passcode=passcode)["flag"] == "P"
    home.stop(grant_id)
    assert viewer(link=link, passcode=passcode) == {"error": "SHLManifestNotFoundError"}


def test_every_byte_of_a_link_passes_a_validator_of_others(cast: Cast) -> None:
    if shutil.which("node") is None or not (ROOT / "node_modules" / "@medplum" / "core").is_dir():
        pytest.skip("no node or no node_modules (make conformance brings them)")
    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", [*a_record(), LETTER | {"subject": {"reference": "Patient/1"}}])
    made = our_link(Share(cast.appliance, vault))
    browser = cast.stranger()
    files = made.ask(browser).json()["files"]
    sealed = [
        one.get("embedded") or browser.get(one["location"].removeprefix(PUBLIC)).text
        for one in files
    ]
    bodies = [json.dumps(made.opened(one)).encode() for one in sealed]
    assert len(bodies) == 2
    assert judged(str(shutil.which("node")), bodies) == [[], []]


def test_a_card_of_a_strangers_issuer_is_verified_and_forwarded(viewer: Viewer) -> None:
    shot = {
        "resourceType": "Immunization",
        "status": "completed",
        "vaccineCode": {"coding": [{"system": "http://hl7.org/fhir/sid/cvx", "code": "207"}]},
        "patient": {"reference": "Patient/1"},
        "occurrenceDateTime": "2021-03-01",
    }
    entries = [
        {"fullUrl": "https://a.example/fhir/Patient/1", "resource": PERSON},
        {"fullUrl": "https://a.example/fhir/Immunization/2", "resource": shot},
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    with shl_host.running() as host:
        host.publish()
        http = Http(Guard([f"127.0.0.1:{host.port}"]))
        made = viewer(issue=bundle, issuer=host.url, key=dict(host.key.as_dict(private=True)))

        (jws,) = health_card.read(made["qr"])
        assert jws == made["jws"]
        card = health_card.judge(http, jws, now=clock.now() + timedelta(seconds=5))
        assert card.objection == ""
        assert [each["resourceType"] for each in card.resources] == ["Patient", "Immunization"]

        types = {"types": ["Patient", "Immunization"]}
        assert viewer(file=health_card.file([card.jws]).decode()) == types
        assert viewer(qr=health_card.numeric(card.jws)) == types

        host.key = type(host.key).generate_key("P-256")
        host.publish()
        assert "does not fit" in health_card.judge(http, jws, now=clock.now()).objection
        http.close()


def test_a_link_that_strangers_packed_is_opened(viewer: Viewer) -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": PERSON}]}
    with shl_host.running() as host:
        http = Http(Guard([f"127.0.0.1:{host.port}"]))
        card = host.card([PERSON])
        packed = viewer(pack=bundle, at=host.url, jws=card)
        host.passcode = "four words and more"
        host.manifest = packed["manifest"]["files"]
        for number, sealed in enumerate(packed["files"]):
            host.files[f"/f{number}"] = (200, sealed.encode())

        link = health_link.read(packed["link"])
        assert link.url == packed["url"]
        assert link.wants_passcode
        found = health_link.fetch(http, link, host.passcode, now=clock.now())
        assert [one.content_type for one in found] == [
            health_link.FHIR, health_link.FHIR, health_link.CARD]  # fmt: skip
        assert [json.loads(one.body) for one in found[:2]] == [bundle, bundle]
        assert health_card.read(found[2].body.decode()) == [card]
        http.close()
