"""The command line with records: connect and pull at the demo hospital, import, chart, export."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from phr import demo
from phr.settings import Settings
from tests.integration.test_cli import documented
from tests.integration.test_serve import PASSWORD, command, environment, phr

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
def data(tmp_path: Path) -> str:
    """A data folder with Ada, whose record opens by itself."""
    folder = str(tmp_path / "data")
    assert phr("account", "create", "Ada", "--data", folder, given=PASSWORD).returncode == 0
    created = phr("vault", "create", "Ada", "--owner", "Ada", "--opens-by-itself", "--data", folder)
    assert created.returncode == 0, created.stderr
    return folder


def lines(done: subprocess.CompletedProcess[str], code: int = 0) -> list[dict[str, Any]]:
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    hospital: demo.Demo, data: str
) -> None:
    allowed = {"PHR_LAN_HOSTS": hospital.address}
    options = ("--patient", "Ada", "--client-id", hospital.client_id, "--timeout", "30")
    process = subprocess.Popen(
        command("connect", hospital.base_url, *options, "--json", "--data", data),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment(**allowed),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        begun = json.loads(process.stdout.readline())
        sign_in(hospital, begun["open"])
        done = json.loads(process.stdout.readline())
    assert process.returncode == 0
    assert set(begun) | set(done) == documented()["connect"]
    pulled = lines(phr("pull", "--json", "--data", data, **allowed))
    assert pulled[0]["kind"] == "pull"
    assert pulled[0]["new"] > 10
    assert set().union(*pulled) == documented()["pull"]
    again = lines(phr("pull", "--json", "--data", data, **allowed))
    assert again[0]["new"] == 0


def test_nobody_coming_back_needs_a_person(hospital: demo.Demo, data: str) -> None:
    done = phr(
        "connect", hospital.base_url, "--patient", "Ada", "--client-id", hospital.client_id,
        "--timeout", "0", "--data", data, PHR_LAN_HOSTS=hospital.address,
    )  # fmt: skip
    assert done.returncode == 4


def test_a_private_address_is_refused_unless_it_is_named(hospital: demo.Demo, data: str) -> None:
    options = ("--patient", "Ada", "--client-id", "x", "--data", data)
    done = phr("connect", hospital.base_url, *options)
    assert done.returncode == 1
    assert "not allowed" in done.stderr


def test_files_come_in_once_and_leave_again(data: str, tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps(BUNDLE))
    first = lines(phr("import", str(file), "--patient", "Ada", "--json", "--data", data))
    assert (first[0]["kept"], first[0]["quarantined"]) == (2, 1)
    assert first[1]["place"] == "entry 3"
    assert set().union(*first) == documented()["import"]
    again = lines(phr("import", str(file), "--patient", "Ada", "--json", "--data", data))
    assert (again[0]["kept"], again[0]["unchanged"]) == (0, 2)

    shown = lines(phr("chart", "allergies", "--patient", "Ada", "--json", "--data", data))
    assert shown[0]["title"] == "Penicillin"
    assert shown[0]["evidence"][0].startswith("AllergyIntolerance/")
    assert set(shown[0]) == documented()["chart"]

    out = tmp_path / "copy.zip"
    arguments = ("export", "--patient", "Ada", "--out", str(out), "--json", "--data", data)
    left = lines(phr(*arguments))
    assert left[0] == {"file": str(out), "records": 2, "bytes": out.stat().st_size}
    assert out.stat().st_mode & 0o077 == 0
    assert phr(*arguments).returncode == 2  # never over an existing file
    assert len(lines(phr("import", str(out), "--patient", "Ada", "--json", "--data", data))) == 1


def test_a_file_of_which_nothing_can_be_kept_is_wrong_use(data: str, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Ada,")
    assert phr("import", str(file), "--patient", "Ada", "--data", data).returncode == 2


def test_a_section_nobody_knows_is_named_with_those_there_are(data: str) -> None:
    done = phr("chart", "horoscope", "--patient", "Ada", "--data", data)
    assert done.returncode == 2
    assert "medications" in done.stderr


def test_a_shredded_record_comes_back_only_on_demand_and_by_a_secret(
    data: str, tmp_path: Path
) -> None:
    made = lines(phr("backup", "--json", "--data", data))[0]
    kept = tmp_path / "elsewhere"
    Path(made["folder"]).rename(kept)
    assert (
        phr("vault", "shred", "--patient", "Ada", "--confirm", "Ada", "--data", data).returncode
        == 0
    )
    assert phr("restore", str(kept), "--data", data, given=PASSWORD).returncode == 1
    wrong = phr("restore", str(kept), "--bring-back", "--data", data, given="not the password")
    assert wrong.returncode == 1
    right = phr("restore", str(kept), "--bring-back", "--json", "--data", data, given=PASSWORD)
    assert lines(right)[0]["patient"] == "Ada"
    assert set(lines(right)[0]) == documented()["restore"]
    listed = lines(phr("vault", "list", "--json", "--data", data))
    assert [one["patient"] for one in listed] == ["Ada"]


def test_a_backup_is_restored_into_an_empty_folder(data: str, tmp_path: Path) -> None:
    made = lines(phr("backup", "--json", "--data", data))[0]
    other = str(tmp_path / "another-machine")
    done = phr("restore", made["folder"], "--json", "--data", other, given=PASSWORD)
    assert lines(done)[0]["new_here"] is True
