"""The command line with records: connect and pull at the demo hospital, import, chart, export."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from click.testing import Result

from phr import demo
from phr.settings import Settings
from phr.views import VIEWS
from tests.integration.test_cli import PASSWORD, code, documented, items, run
from tests.integration.test_serve import command, environment

Run = Callable[..., Result]
__all__ = ["run"]  # the fixture

BUNDLE = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [
        {"resource": {"resourceType": "Patient", "id": "1", "name": [{"family": "Lovelace"}]}},
        {
            "resource": {
                "resourceType": "AllergyIntolerance",
                "id": "2",
                "patient": {"reference": "Patient/1"},
                "code": {"text": "Penicillin"},
            }
        },
        {"resource": {"nothing": "at all"}},
    ],
}


@pytest.fixture
def hospital() -> Iterator[demo.Demo]:
    running = demo.start(Settings(demo_port=0), standalone=True)
    yield running
    running.close()


@pytest.fixture
def ada(run: Run) -> Run:
    """Run commands on a data folder with Ada, whose record opens by itself."""
    assert code(run("account", "create", "Ada", given=PASSWORD)) == 0
    assert code(run("vault", "create", "Ada", "--owner", "Ada", "--opens-by-itself")) == 0
    return run


def browse(url: str, **form: str) -> str:
    body = urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, body, timeout=10) as answer:
        return answer.read().decode()


def sign_in(hospital: demo.Demo, url: str) -> None:
    """Choose a person and allow, as somebody would in a browser."""
    page = browse(url)
    key = re.search(r'name="key" value="([^"]+)"', page)
    person = re.search(r'name="person" value="([^"]+)"', page)
    assert key is not None
    assert person is not None
    browse(f"{hospital.url}/person", key=key.group(1), person=person.group(1))
    assert "You may close" in browse(f"{hospital.url}/consent", key=key.group(1), decision="allow")


def test_a_hospital_is_connected_and_pulled_without_a_page_of_ours(
    hospital: demo.Demo, ada: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--patient", "Ada", "--client-id", hospital.client_id, "--timeout", "60", "--json")
    process = subprocess.Popen(
        command("connect", hospital.base_url, *options, "--data", str(tmp_path / "data")),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        env=environment(PHR_LAN_HOSTS=hospital.address),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        begun = json.loads(process.stdout.readline())
        sign_in(hospital, begun["open"])
        done = json.loads(process.stdout.readline())
    assert process.returncode == 0
    assert set(begun) | set(done) == documented()["connect"]

    monkeypatch.setenv("PHR_LAN_HOSTS", hospital.address)
    pulled = items(ada("pull", "--json"))
    assert pulled[0]["kind"] == "pull"
    assert pulled[0]["new"] > 10
    assert set().union(*pulled) == documented()["pull"]
    assert items(ada("pull", "--json"))[0]["new"] == 0


def test_nobody_coming_back_needs_a_person(
    hospital: demo.Demo, ada: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHR_LAN_HOSTS", hospital.address)
    options = ("--patient", "Ada", "--client-id", hospital.client_id, "--timeout", "0")
    assert code(ada("connect", hospital.base_url, *options)) == 4


def test_a_private_address_is_refused_unless_it_is_named(hospital: demo.Demo, ada: Run) -> None:
    result = ada("connect", hospital.base_url, "--patient", "Ada", "--client-id", "x")
    assert code(result) in {1, 2}
    assert not result.stdout


def test_files_come_in_once_and_leave_again(ada: Run, tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps(BUNDLE))
    first = items(ada("import", str(file), "--patient", "Ada", "--json"))
    assert (first[0]["kept"], first[0]["quarantined"]) == (2, 1)
    assert first[1]["place"] == "entry 3"
    assert set().union(*first) == documented()["import"]
    again = items(ada("import", str(file), "--patient", "Ada", "--json"))
    assert (again[0]["kept"], again[0]["unchanged"]) == (0, 2)

    shown = items(ada("chart", "allergies", "--patient", "Ada", "--json"))
    assert shown[0]["title"] == "Penicillin"
    assert shown[0]["evidence"][0].startswith("AllergyIntolerance/")
    assert set(shown[0]) == documented()["chart"]

    out = tmp_path / "copy.zip"
    arguments = ("export", "--patient", "Ada", "--out", str(out), "--json")
    left = items(ada(*arguments))
    assert left[0] == {"file": str(out), "records": 2, "bytes": out.stat().st_size}
    assert out.stat().st_mode & 0o077 == 0
    assert code(ada(*arguments)) == 2  # never over an existing file
    back = items(ada("import", str(out), "--patient", "Ada", "--json"))
    assert [one["kind"] for one in back] == ["file"]


def test_a_file_of_which_nothing_can_be_kept_is_wrong_use(ada: Run, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Ada,")
    assert code(ada("import", str(file), "--patient", "Ada")) == 2


def test_a_section_nobody_knows_is_named_with_those_there_are(ada: Run) -> None:
    result = ada("chart", "horoscope", "--patient", "Ada")
    assert code(result) == 2
    assert "medications" in result.stderr


def test_every_section_can_be_charted(ada: Run, tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps(BUNDLE))
    items(ada("import", str(file), "--patient", "Ada", "--json"))
    for section in VIEWS:
        for item in items(ada("chart", section, "--patient", "Ada", "--json")):
            assert set(item) == documented()["chart"]


def test_a_shredded_record_comes_back_only_on_demand_and_by_a_secret(
    ada: Run, tmp_path: Path
) -> None:
    made = items(ada("backup", "--json"))[0]
    kept = tmp_path / "elsewhere"
    Path(made["folder"]).rename(kept)
    assert code(ada("vault", "shred", "--patient", "Ada", "--confirm", "Ada")) == 0
    assert code(ada("restore", str(kept), given=PASSWORD)) == 1
    assert code(ada("restore", str(kept), "--bring-back", given="not the password")) == 1
    restored = items(ada("restore", str(kept), "--bring-back", "--json", given=PASSWORD))
    assert restored[0]["patient"] == "Ada"
    assert set(restored[0]) == documented()["restore"]
    assert [one["patient"] for one in items(ada("vault", "list", "--json"))] == ["Ada"]


def test_a_backup_is_restored_into_an_empty_folder(ada: Run, tmp_path: Path) -> None:
    made = items(ada("backup", "--json"))[0]
    other = ("--json", "--data", str(tmp_path / "another-machine"))
    restored = items(ada("restore", made["folder"], *other, given=PASSWORD))
    assert restored[0]["new_here"] is True
