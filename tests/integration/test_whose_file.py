"""What does not say whose it is belongs to the person its file is about, or is set aside."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from phr import clock, keep, pull, whose
from phr.bench import house
from phr.connectors.upload import PAGE
from phr.fhir.record import Selection
from phr.store import audit, records
from phr.store.models import PullState
from phr.store.vault import Vault
from tests.fixtures_keep import PATIENT, hospital, item, keep_all, rows, vault

__all__ = ["hospital", "vault"]

ADA = {"resourceType": "Patient", "id": "ada", "birthDate": "1970-01-01"}
OTTO = {"resourceType": "Patient", "id": "otto", "birthDate": "1990-01-01"}
DOCTOR = {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Chen"}]}


def seen(id_: str, **more: Any) -> dict[str, Any]:
    made = {"resourceType": "Observation", "id": id_, "status": "final", "code": {"text": id_}}
    return made | more


def of(id_: str) -> dict[str, Any]:
    return {"subject": {"reference": f"Patient/{id_}"}}


def bundle(*resources: dict[str, Any]) -> bytes:
    entries = [{"resource": each} for each in resources]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def ndjson(*resources: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(each).encode() for each in resources)


def bring(vault: Vault, path: Path, content: bytes) -> pull.Taken:
    path.write_bytes(content)
    return pull.take_file(vault, path.name, path, actor=audit.APPLIANCE, now=clock.now())


@pytest.fixture
def record(vault: Vault, tmp_path: Path) -> Vault:
    """A record that knows whose it is: Ada's."""
    bring(vault, tmp_path / "ada.json", bundle(ADA))
    return vault


def names(vault: Vault) -> set[str]:
    with vault.read() as session:
        return {one.remote_id for one in records.select(session, vault, Selection())}


@pytest.mark.parametrize("write", [bundle, ndjson])
@pytest.mark.parametrize("last", [True, False], ids=["patient last", "patient first"])
def test_nothing_of_a_strangers_file_is_kept_even_if_it_names_nobody(
    record: Vault, tmp_path: Path, write: Any, last: bool
) -> None:
    """More than one page: the Patient at the end says whose the first page was."""
    theirs = [seen(f"o{number}") for number in range(PAGE + 5)]
    everything = [*theirs, DOCTOR, OTTO] if last else [OTTO, DOCTOR, *theirs]
    taken = bring(record, tmp_path / "otto.json", write(*everything))
    assert (taken.kept.new, taken.kept.quarantined) == (0, len(everything))
    assert taken.state is PullState.FAILED
    assert {reason for _, reason in taken.kept.reasons} == {whose.ANOTHER}
    assert names(record) == {"ada"}
    aside = rows(record, "SELECT hash FROM quarantined ORDER BY hash")
    again = bring(record, tmp_path / "otto.json", write(*everything))
    assert (again.kept.new, again.kept.changed, again.kept.unchanged) == (0, 0, 0)
    assert names(record) == {"ada"}
    assert aside == rows(record, "SELECT hash FROM quarantined ORDER BY hash")


def test_an_allergy_of_a_stranger_that_only_displays_a_name_is_set_aside(
    record: Vault, tmp_path: Path
) -> None:
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "x",
        "code": {"text": "Penicillin"},
        "patient": {"display": "Otto Other"},
    }
    assert bring(record, tmp_path / "x.json", bundle(allergy, OTTO)).kept.new == 0
    assert names(record) == {"ada"}


def test_in_a_file_about_two_people_only_what_says_it_is_ours_is_kept(
    record: Vault, tmp_path: Path
) -> None:
    content = bundle(
        seen("unnamed"), seen("ours", **of("ada")), seen("theirs", **of("otto")), DOCTOR, ADA, OTTO
    )
    for _ in range(2):
        taken = bring(record, tmp_path / "both.json", content)
        said = dict(taken.kept.reasons)
        assert said["entry 1"] == whose.UNSAID
        assert said["entry 3"] == said["entry 6"] == whose.ANOTHER
        assert taken.kept.quarantined == 3
        assert names(record) == {"ada", "ours", "dr"}


@pytest.mark.parametrize("people", [[], [ADA], [{**ADA, "birthDate": "1970"}]])
def test_what_names_nobody_is_kept_where_nobody_else_is_named(
    record: Vault, tmp_path: Path, people: list[dict[str, Any]]
) -> None:
    bring(record, tmp_path / "fine.json", bundle(seen("unnamed"), *people))
    assert "unnamed" in names(record)


def test_each_file_of_a_zip_is_about_its_own_person(record: Vault, tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("otto.json", bundle(seen("theirs"), OTTO))
        archive.writestr("ada.json", bundle(seen("ours"), ADA))
        archive.writestr("loose.ndjson", ndjson(seen("loose")))
    taken = bring(record, path, path.read_bytes())
    assert names(record) == {"ada", "ours"}
    assert sorted(reason for _, reason in taken.kept.reasons) == sorted(
        [whose.ANOTHER, whose.ANOTHER, whose.UNSAID]
    )


def test_a_zip_with_one_file_for_each_kind_is_about_the_person_in_one_of_them(
    record: Vault, tmp_path: Path
) -> None:
    """As bulk exports are written; the Patient's file may be the last."""
    path = tmp_path / "bulk.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Observation.ndjson", ndjson(seen("theirs")))
        archive.writestr("Patient.ndjson", ndjson(OTTO))
    assert bring(record, path, path.read_bytes()).kept.new == 0
    assert names(record) == {"ada"}


def test_a_page_of_a_hospital_with_somebody_else_on_it_brings_only_what_names_ours(
    vault: Vault, hospital: int
) -> None:
    items = [
        item(json.dumps(each).encode(), each["id"])
        for each in (seen("unnamed"), seen("ours", **of(PATIENT)), DOCTOR, OTTO)
    ]
    kept = keep_all(vault, hospital, items, expected_patient=PATIENT)
    assert dict(kept.reasons) == {"unnamed": whose.UNSAID, "otto": whose.ANOTHER}
    assert names(vault) == {"ours", "dr"}


def test_an_import_that_is_cut_off_leaves_nothing_of_a_stranger(
    record: Vault, tmp_path: Path
) -> None:
    """The Patient is looked for first: no moment shows what is taken out again later."""
    path = tmp_path / "otto.json"
    path.write_bytes(bundle(*(seen(f"o{number}") for number in range(PAGE + 5)), OTTO))
    upload = house.connection(record, kind="upload")
    keeper = keep.Keeper(record, upload, house.pull(record, upload), now=clock.now(), group=1)
    files = pull.Upload([(path.name, path)])
    for chain, person in files.people():
        keeper.acquaint(chain, person)
    fetched = next(files.fetch())
    assert len(fetched.items) == PAGE
    keeper.page(fetched.chain, fetched.items)  # and then the power fails
    assert names(record) == {"ada"}
