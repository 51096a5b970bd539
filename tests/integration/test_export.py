"""The owner's copy: everything, as it was received, and the same record when it comes back."""

import io
import json
import zipfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from phr import clock, keep, pull
from phr.fhir.labels import Label
from phr.fhir.record import Record, Selection
from phr.sharing import gate, package
from phr.store import audit, entries, records
from phr.store.vault import Vault
from tests.fixtures_records import NOW, keep_records, lab
from tests.fixtures_sharing import ADA, Share, keep_all, share

__all__ = ["share"]
LETTER = b"%PDF-1.4 a letter"


def exported(vault: Vault) -> bytes:
    return b"".join(package.export(gate.owner_export(vault, ADA, form="zip"), now=clock.now()))


def everything(vault: Vault) -> list[Record]:
    with vault.read() as session:
        return records.select(session, vault, Selection())


def with_letter(share: Share) -> None:
    """The first hospital sends a letter with its file."""
    letter = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "subject": {"reference": "Patient/1"},
        "content": [{"attachment": {"contentType": "application/pdf", "url": "Binary/b1"}}],
    }
    keep_all(share.vault, "Letters", [letter])
    found = next(each for each in everything(share.vault) if each.type == "DocumentReference")
    keep.attach(share.vault, found.pk, "Binary/b1", "application/pdf", LETTER)


def brought_back(vault: Vault, content: bytes, folder: Path, name: str = "export.zip") -> None:
    """Upload the export into another record, as a person would."""
    path = folder / name
    path.write_bytes(content)
    taken = pull.take_file(vault, name, path, actor=ADA, now=clock.now())
    assert (taken.state, taken.kept.quarantined) == ("done", 0), taken


@pytest.fixture
def other(share: Share) -> Vault:
    """Another person's record, empty."""
    home = share.home
    return home.vaults.get(home.patient(home.account("Bea"), "Bea", by_itself=True))


def test_the_export_is_in_the_audit_log_before_it_begins(share: Share) -> None:
    gate.owner_export(share.vault, ADA, form="zip")
    with share.vault.read() as session:
        newest = audit.entries(session, limit=1)[0]
    assert (newest.event, newest.actor["name"]) == ("export.done", "Ada")


def test_everything_is_in_it_sensitive_private_and_all(share: Share) -> None:
    content = exported(share.vault)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        lines = [
            line
            for name in archive.namelist()
            if name.endswith(".ndjson") and not name.startswith("provenance/")
            for line in archive.read(name).splitlines()
        ]
    assert len(lines) == len(everything(share.vault))
    assert any(b"Hiddendepression" in line for line in lines)
    assert any(b'"value": 5.40' in line for line in lines)
    assert all(json.loads(line)["resourceType"] for line in lines)


def test_its_provenance_names_each_record_its_place_and_its_time(share: Share) -> None:
    with zipfile.ZipFile(io.BytesIO(exported(share.vault))) as archive:
        lines = archive.read("provenance/Provenance.ndjson").splitlines()
        manifest = json.loads(archive.read("manifest.json"))
    told = [target["reference"] for line in lines for target in json.loads(line)["target"]]
    assert sorted(told) == sorted(f"{r.type}/{r.local_id}" for r in everything(share.vault))
    assert [each["name"] for each in manifest["connections"]] == ["North Quay", "Saltmarsh"]


def test_bringing_it_back_gives_the_same_record(share: Share, other: Vault, tmp_path: Path) -> None:
    with_letter(share)
    brought_back(other, exported(share.vault), tmp_path)
    before, after = everything(share.vault), everything(other)
    assert Counter(r.type for r in before) == Counter(r.type for r in after)
    assert {r.local_id for r in before} == {r.remote_id for r in after}
    assert contents(before) == contents(after)
    letter = next(each for each in after if each.type == "DocumentReference")
    with other.read() as session:
        named = records.attachments(session, letter.pk)
        assert [records.attachment(session, each.hash or b"") for each in named] == [
            ("application/pdf", LETTER)
        ]


def contents(found: list[Record]) -> Counter[str]:
    """What the records say apart from ids and references, digits included."""
    return Counter(json.dumps(_plain(each.document), sort_keys=True, default=str) for each in found)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = {"id", "reference", "url"}
        return {key: _plain(each) for key, each in value.items() if key not in hidden}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def test_marks_and_earlier_versions_come_back_with_it(
    share: Share, other: Vault, tmp_path: Path
) -> None:
    vault = share.vault
    told = [lab("Zinc", "z1", value) for value in ("140", "141.0", "140", "142")]
    connection = keep_records(vault, told[:1])
    for number, each in enumerate(told[1:], start=1):
        keep_records(vault, [each], connection_id=connection, now=NOW + timedelta(days=number))
    gone = lab("Copper", "c1", "4.10")
    keep_records(vault, [gone], connection_id=connection)
    (zinc,) = named(vault, "Zinc")
    (copper,) = named(vault, "Copper")
    keep.mark_private(vault, zinc.local_id, on=True)
    with vault.write() as session:
        session.connection().exec_driver_sql(
            "UPDATE record SET flags = flags | 1 WHERE pk = ?", (copper.pk,)
        )
    with vault.write() as session:
        entries.decide(session, [(zinc.pk, copper.pk)], same=False, by="ada", now=NOW)
    for turn in ("once", "again"):
        brought_back(other, exported(vault), tmp_path)
        (back,) = named(other, "Zinc")
        assert back.labels & Label.PRIVATE, turn
        assert values(other, back) == values(vault, zinc) == ["142", "140", "141.0", "140"]
        assert days(other, back)[1:] == days(vault, zinc)[1:]
        assert [each.withdrawn for each in named(other, "Copper")] == [True]
        assert sum(each.withdrawn for each in everything(other)) == 1
        with other.read() as session:
            (decided,) = entries.decisions_out(session)
        (copper_back,) = named(other, "Copper")
        assert decided["one"] == f"Observation/{back.local_id}"
        assert decided["other"] == f"Observation/{copper_back.local_id}"
        assert (decided["same"], decided["by"]) == (0, "ada")
        hidden = [each for each in everything(vault) if each.labels & Label.PRIVATE]
        assert len([e for e in everything(other) if e.labels & Label.PRIVATE]) == len(hidden)
    assert exported_again(other) == exported_again(vault)


def named(vault: Vault, words: str) -> list[Record]:
    return [each for each in everything(vault) if words in str(each.document.get("code"))]


def versions(vault: Vault, record: Record) -> list[Record]:
    with vault.read() as session:
        return records.versions(session, vault, record.type, record.local_id)


def values(vault: Vault, record: Record) -> list[str]:
    return [str(one.document["valueQuantity"]["value"]) for one in versions(vault, record)]


def days(vault: Vault, record: Record) -> list[datetime]:
    return [each.received_at for each in versions(vault, record)]


def exported_again(vault: Vault) -> Counter[str]:
    """What an export holds, apart from ids and times: the same however often it went round."""
    with zipfile.ZipFile(io.BytesIO(exported(vault))) as archive:
        lines = [
            json.loads(line)
            for name in archive.namelist()
            if name.endswith(".ndjson") and not name.startswith(("provenance/", "homeport/"))
            for line in archive.read(name).splitlines()
        ]
    plain = [_plain(line.get("resource", line)) for line in lines]
    return Counter(json.dumps(each, sort_keys=True) for each in plain)


def test_a_forged_version_of_something_else_is_no_version(
    share: Share, other: Vault, tmp_path: Path
) -> None:
    keep_records(other, [])
    forged = [
        {"record": "Observation/o1", "received": "2024-01-01T00:00:00+00:00",
         "resource": {"resourceType": "Observation", "id": "o2"}},
        {"record": "Observation/none", "received": "2024-01-01T00:00:00+00:00",
         "resource": {"resourceType": "Observation", "id": "none"}},
        {"record": "Observation/o1", "received": "yesterday",
         "resource": {"resourceType": "Observation", "id": "o1"}},
        {"record": ["Observation/o1"]}, "text", {},
    ]  # fmt: skip
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("a/Observation.ndjson", '{"resourceType":"Observation","id":"o1"}')
        archive.writestr("versions/a/Observation.ndjson", "\n".join(map(json.dumps, forged)))
        archive.writestr(
            "manifest.json", json.dumps({"private": ["x", 1, "Observation/none"], "withdrawn": 5})
        )
    brought_back(other, held.getvalue(), tmp_path)
    (only,) = everything(other)
    assert [each.version for each in versions(other, only)] == [1]
    assert not only.withdrawn


def test_the_same_export_twice_changes_nothing(share: Share, other: Vault, tmp_path: Path) -> None:
    content = exported(share.vault)
    brought_back(other, content, tmp_path)
    before = len(everything(other))
    brought_back(other, content, tmp_path)
    assert len(everything(other)) == before
    brought_back(other, content, tmp_path, "another name.zip")  # a second place
    assert len(everything(other)) == 2 * before


def test_an_empty_record_gives_an_empty_export(other: Vault) -> None:
    with zipfile.ZipFile(io.BytesIO(exported(other))) as archive:
        assert json.loads(archive.read("manifest.json"))["connections"] == []
