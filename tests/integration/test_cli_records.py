"""The command line with records: connect and pull at the demo hospital, import, chart, export."""

import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from click.testing import Result

from phr import clock, demo
from phr import connect as at_hospital
from phr.appliance import Appliance
from phr.cli import control
from phr.connectors import LIVE
from phr.settings import Settings, load
from phr.store import connections
from phr.store.models import ConnectionState
from phr.views import VIEWS
from tests.house.look import ROOT
from tests.integration.test_cli import PASSWORD, code, documented, enrolled, items, run
from tests.integration.test_serve import Running, command, environment, start
from tests.integration.test_serve import phr as shell

Run = Callable[..., Result]
__all__ = ["run", "start"]  # the fixtures

BUNDLE: dict[str, Any] = {
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


def sign_in(hospital: demo.Demo, url: str, decision: str = "allow") -> None:
    """Choose a person and decide, as somebody would in a browser."""
    page = browse(url)
    key = re.search(r'name="key" value="([^"]+)"', page)
    person = re.search(r'name="person" value="([^"]+)"', page)
    assert key is not None
    assert person is not None
    browse(f"{hospital.url}/person", key=key.group(1), person=person.group(1))
    said = browse(f"{hospital.url}/consent", key=key.group(1), decision=decision)
    assert "You may close this page" in said
    assert ("Nothing was connected" in said) is (decision != "allow")


def connect(hospital: demo.Demo, tmp_path: Path) -> set[str]:
    """Connect Ada's record as a person does at a terminal; return the keys that were printed."""
    with connecting(hospital, tmp_path) as (process, begun):
        sign_in(hospital, begun["open"])
        assert process.stdout is not None
        done = json.loads(process.stdout.readline())
    assert process.returncode == 0
    return set(begun) | set(done)


@contextmanager
def connecting(
    hospital: demo.Demo, tmp_path: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run the command as far as its first line, and to its end."""
    options = ("--patient", "Ada", "--client-id", hospital.client_id, "--timeout", "60", "--json")
    process = subprocess.Popen(
        command("connect", hospital.base_url, *options, *more, "--data", str(tmp_path / "data")),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(PHR_LAN_HOSTS=hospital.address),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())


def test_a_hospital_is_connected_and_pulled_without_a_page_of_ours(
    hospital: demo.Demo, ada: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connect(hospital, tmp_path) == documented()["connect"]
    monkeypatch.setenv("PHR_LAN_HOSTS", hospital.address)
    pulled = items(ada("pull", "--json"))
    assert pulled[0]["kind"] == "pull"
    assert pulled[0]["new"] > 10
    assert set().union(*pulled) == documented()["pull"]
    assert items(ada("pull", "--json"))[0]["new"] == 0


def test_a_pull_that_failed_fails_and_one_that_waits_for_a_person_says_so_each_time(
    hospital: demo.Demo, ada: Run, tmp_path: Path
) -> None:
    connect(hospital, tmp_path)
    result = ada("pull", "--json")  # the address is not allowed any more
    assert code(result) == 1
    assert json.loads(result.stdout.splitlines()[0])["state"] == "failed"
    assert "could be fetched" in json.loads(result.stderr)["error"]

    appliance = Appliance.open(load({"PHR_DATA": str(tmp_path / "data")}))
    try:
        with appliance.vaults.get(appliance.vaults.open_ids()[0]).write() as session:
            row = next(one for one in connections.listed(session) if one.kind in LIVE)
            row.state, row.sentence = ConnectionState.NEEDS_REAUTHORISATION, "Please sign in."
            number = row.id
    finally:
        appliance.close()
    for arguments in (("pull", "--json"), ("pull", "--connection", str(number), "--json")):
        result = ada(*arguments)
        assert code(result) == 4
        assert json.loads(result.stdout)["needs_a_person"] is True
        assert json.loads(result.stderr) == {"error": "Please sign in.", "exit": 4}


def test_a_pause_is_told_and_one_after_a_restore_needs_a_person(
    hospital: demo.Demo, ada: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHR_LAN_HOSTS", hospital.address)
    connect(hospital, tmp_path)
    appliance = Appliance.open(load({"PHR_DATA": str(tmp_path / "data")}))
    try:
        vault = appliance.vaults.get(appliance.vaults.open_ids()[0])
        with vault.read() as session:
            number = next(one.id for one in connections.listed(session) if one.kind in LIVE)
        at_hospital.pause(vault, number, actor={"kind": "account", "id": "a", "name": "Ada"})
    finally:
        appliance.close()
    paused = ada("pull", "--json")
    (line,) = items(paused)
    assert (line["connection"], line["state"], line["needs_a_person"]) == (number, "paused", False)
    assert code(ada("pull", "--connection", str(number))) == 1

    appliance = Appliance.open(load({"PHR_DATA": str(tmp_path / "data")}))
    try:
        vault = appliance.vaults.get(appliance.vaults.open_ids()[0])
        at_hospital.resume(vault, number, actor={"kind": "account", "id": "a", "name": "Ada"})
    finally:
        appliance.close()
    made = items(ada("backup", "--json"))[0]
    other = ("--data", str(tmp_path / "other"))
    (tmp_path / "password").write_text(PASSWORD)
    unlock = ("--unlock-file", str(tmp_path / "password"))
    restored = ada("restore", str(made["folder"]), *other, "--json", given=PASSWORD)
    assert items(restored)[0]["connections_paused"] == 1
    for arguments in (("pull", "--json"), ("pull", "--connection", str(number), "--json")):
        result = ada(*arguments, *other, *unlock)
        assert code(result) == 4
        line = json.loads(result.stdout)
        assert (line["state"], line["needs_a_person"]) == ("paused", True)
        assert line["sentence"] == json.loads(result.stderr)["error"]


def test_saying_no_at_the_hospital_needs_a_person_and_a_strangers_answer_is_nobodys(
    hospital: demo.Demo, ada: Run, tmp_path: Path
) -> None:
    with connecting(hospital, tmp_path) as (process, begun):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            browse(f"{begun['redirect_uri']}?code=mine&state=a-strangers-state")
        sign_in(hospital, begun["open"], decision="deny")
        assert process.stderr is not None
        said = json.loads(process.stderr.readline())
    assert process.returncode == said["exit"] == 4


@pytest.fixture
def unlocking(run: Run, tmp_path: Path) -> tuple[str, str]:
    """Ada's record stays sealed; the options that open it once: password and code of now."""
    assert code(run("account", "create", "Ada", given=PASSWORD)) == 0
    assert code(run("vault", "create", "Ada", "--owner", "Ada")) == 0
    codes = enrolled(tmp_path / "data", "Ada")
    (tmp_path / "secret").write_text(f"{PASSWORD}\n{codes.at(clock.now())}\n")
    return "--unlock-file", str(tmp_path / "secret")


def state_of_the_record(tmp_path: Path) -> str:
    listed = shell("vault", "list", "--json", "--data", str(tmp_path / "data"))
    return str(json.loads(listed.stdout)["state"])


def test_a_code_is_asked_once_for_both_ends_of_a_sign_in(
    hospital: demo.Demo, unlocking: tuple[str, str], tmp_path: Path
) -> None:
    with connecting(hospital, tmp_path, *unlocking) as (process, begun):
        sign_in(hospital, begun["open"])
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["name"]
    assert process.returncode == 0
    assert state_of_the_record(tmp_path) == "sealed"


def test_a_record_is_open_in_a_running_homeport_until_the_sign_in_is_done(
    hospital: demo.Demo,
    unlocking: tuple[str, str],
    start: Callable[..., Running],
    tmp_path: Path,
) -> None:
    start(PHR_LAN_HOSTS=hospital.address)
    with connecting(hospital, tmp_path, *unlocking) as (process, begun):
        assert state_of_the_record(tmp_path) == "open"
        sign_in(hospital, begun["open"])
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["name"]
    assert process.returncode == 0
    assert state_of_the_record(tmp_path) == "sealed"


def test_a_record_is_sealed_again_when_whoever_waited_for_the_sign_in_is_gone(
    hospital: demo.Demo,
    unlocking: tuple[str, str],
    start: Callable[..., Running],
    tmp_path: Path,
) -> None:
    start(PHR_LAN_HOSTS=hospital.address)
    with connecting(hospital, tmp_path, *unlocking) as (process, _):
        assert state_of_the_record(tmp_path) == "open"
        process.kill()
    assert "sealed" in (state_of_the_record(tmp_path) for _ in range(20))


def test_a_caller_who_leaves_a_question_unanswered_counts_as_gone(tmp_path: Path) -> None:
    ended = threading.Event()

    def asking(_name: str, _arguments: Any) -> control.Dialogue:
        try:
            yield control.Ask({"well": "?"}, within=0.01)
        finally:
            ended.set()

    listening = control.Control(tmp_path / "asked.sock", asking, lambda _: 1)
    try:
        going = control.call(tmp_path / "asked.sock", "ask", {})
        assert next(going) == {"well": "?"}
        assert ended.wait(60)
        with pytest.raises(control.RemoteFailure):
            going.send("too late")
    finally:
        listening.close()


def test_a_record_made_in_a_running_homeport_is_open_there(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    data = ("--data", str(start().data), "--json")
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    secret = ("--unlock-file", str(file))
    assert shell("account", "create", "Ada", *secret, *data).returncode == 0
    for more in ((), ("--account", "Ada", *secret)):
        words = ("vault", "create", "Ada", "--owner", "Ada", "--opens-by-itself")
        made = json.loads(shell(*words, *data, *more).stdout)
        listed = map(json.loads, shell("vault", "list", *data).stdout.splitlines())
        assert made["state"] == "open"
        assert made in list(listed)


@pytest.mark.parametrize(
    "arguments",
    [
        ("vault", "list", "--horoscope"),
        ("vault", "create", "--owner", "Ada"),
        ("activity", "--patient", "Ada", "--limit", "many"),
        ("import", "absent.json", "--patient", "Ada"),
        ("horoscope",),
    ],
)
def test_wrong_use_is_one_line_of_json_where_json_is_asked_for(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    result = shell(*arguments, "--json", "--data", str(tmp_path / "data"))
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert set(json.loads(line)) == {"error", "exit"}
    assert json.loads(line)["exit"] == 2


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
    assert again[1:] == first[1:]  # what still waits is told each time, with its reason

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


def test_a_file_of_which_nothing_can_be_kept_is_a_failure(ada: Run, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text("Dear Ada,")
    assert code(ada("import", str(file), "--patient", "Ada")) == 1


def test_only_the_file_that_is_broken_is_called_so(ada: Run, tmp_path: Path) -> None:
    known, broken = tmp_path / "known.json", tmp_path / "broken.json"
    known.write_text(json.dumps(BUNDLE["entry"][1]["resource"]))
    broken.write_text("{]")
    items(ada("import", str(known), "--patient", "Ada", "--json"))
    result = ada("import", str(known), str(broken), "--patient", "Ada")
    assert code(result) == 1
    assert result.stderr == "Nothing of broken.json could be kept: see above.\n"
    assert f"{known}: 0 kept, 1 unchanged, 0 set aside\n" in result.stdout


def test_what_is_no_regular_file_is_wrong_use_and_never_waited_for(
    ada: Run, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero"), tmp_path / "absent.json"):
        result = ada("import", str(path), "--patient", "Ada")
        assert code(result) == 2
        assert str(path) in str(result.exception)
        assert not result.stdout


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to read")
def test_a_file_that_cannot_be_read_is_told_and_the_others_are_taken(
    ada: Run, tmp_path: Path
) -> None:
    file = tmp_path / "bundle.json"
    file.write_text(json.dumps(BUNDLE))
    result = ada("import", "/proc/self/mem", str(file), "--patient", "Ada", "--json")
    assert code(result) == 1
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert told[0]["sentence"].startswith("This file could not be read (")
    assert (told[0]["state"], told[1]["kept"]) == ("failed", 2)
    assert "mem" in json.loads(result.stderr)["error"]


def test_a_section_nobody_knows_is_named_with_those_there_are(ada: Run) -> None:
    result = ada("chart", "horoscope", "--patient", "Ada")
    assert code(result) == 2
    assert "medications" in result.stderr


def a_full_record() -> list[dict[str, Any]]:
    """One resource or more for each section."""
    who = {"reference": "Patient/1"}
    day, named = "2024-03-05", {"text": "Something"}

    def category(system: str, word: str) -> list[dict[str, Any]]:
        code = f"http://terminology.hl7.org/CodeSystem/{system}"
        return [{"coding": [{"system": code, "code": word}]}]

    measured = {"subject": who, "code": named, "status": "final", "effectiveDateTime": day}
    kinds: list[dict[str, Any]] = [
        {"resourceType": "Patient", "name": [{"family": "Lovelace"}]},
        {
            "resourceType": "Observation",
            **measured,
            "category": category("observation-category", "laboratory"),
            "valueQuantity": {"value": 5.1, "unit": "mmol/L"},
        },
        {
            "resourceType": "Observation",
            **measured,
            "category": category("observation-category", "vital-signs"),
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "valueQuantity": {"value": 71, "unit": "/min"},
        },
        {
            "resourceType": "MedicationRequest",
            "status": "active",
            "intent": "order",
            "subject": who,
            "medicationCodeableConcept": named,
            "authoredOn": day,
        },
        {"resourceType": "AllergyIntolerance", "patient": who, "code": named},
        {"resourceType": "Condition", "subject": who, "code": named, "onsetDateTime": day},
        {
            "resourceType": "Immunization",
            "status": "completed",
            "patient": who,
            "vaccineCode": named,
            "occurrenceDateTime": day,
        },
        {
            "resourceType": "Encounter",
            "status": "finished",
            "class": {"code": "AMB"},
            "subject": who,
            "period": {"start": day},
        },
        {
            "resourceType": "Procedure",
            "status": "completed",
            "subject": who,
            "code": named,
            "performedDateTime": day,
        },
        {
            "resourceType": "DocumentReference",
            "status": "current",
            "subject": who,
            "type": named,
            "date": f"{day}T10:00:00Z",
            "content": [{"attachment": {"contentType": "text/plain", "data": "SGVsbG8="}}],
        },
        {"resourceType": "Practitioner", "name": [{"family": "Somerville"}]},
        {
            "resourceType": "Coverage",
            "status": "active",
            "beneficiary": who,
            "payor": [{"display": "A payer"}],
        },
        {"resourceType": "Flag", "status": "active", "code": named, "subject": who},
    ]
    return [{**kind, "id": str(number)} for number, kind in enumerate(kinds, 1)]


def test_every_section_of_the_document_is_charted_with_what_is_in_it(
    ada: Run, tmp_path: Path
) -> None:
    file = tmp_path / "full.ndjson"
    file.write_text("\n".join(map(json.dumps, a_full_record())))
    items(ada("import", str(file), "--patient", "Ada", "--json"))
    text = (ROOT / "docs" / "cli.md").read_text()
    named = text.split("Prints what the page of a section shows (")[1].split(")")[0]
    assert set(re.findall(r"`([a-z]+)`", named)) == set(VIEWS)
    for section in VIEWS:
        shown = items(ada("chart", section, "--patient", "Ada", "--json"))
        assert shown, section
        for item in shown:
            assert set(item) == documented()["chart"], section
            assert all(re.fullmatch(r"[A-Z]\w+/[\w-]+", one) for one in item["evidence"]), item
            assert len(set(item["evidence"])) == len(item["evidence"]), "each piece once"
        assert code(ada("chart", section, "--patient", "Ada")) == 0


def test_the_timeline_says_when_what_and_from_where(ada: Run, tmp_path: Path) -> None:
    file = tmp_path / "full.ndjson"
    file.write_text("\n".join(map(json.dumps, a_full_record())))
    items(ada("import", str(file), "--patient", "Ada", "--json"))
    shown = items(ada("chart", "timeline", "--patient", "Ada", "--json"))
    found = next(one for one in shown if one["evidence"][0].startswith("Procedure/"))
    assert (found["group"], found["title"], found["word"]) == ("2024", "Something", None)
    assert "2024" in found["value"]
    assert found["details"] == ["Procedure · full.ndjson"]


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
