"""The owner's copy: everything, as it was received, and the same record when it comes back."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from phr import clock, keep
from phr.connectors.upload import Upload
from phr.fhir.record import Record, Selection
from phr.sharing import gate, package
from phr.store import audit, records
from phr.store.models import Connection, ConnectionState, Pull
from phr.store.vault import Vault
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


def brought_back(vault: Vault, content: bytes, folder: Path) -> None:
    """Upload the export into another record, as a person would."""
    path = folder / "export.zip"
    path.write_bytes(content)
    now = clock.now()
    with vault.write() as session:
        connection = Connection(
            kind="upload", name="File", base_url="", state=ConnectionState.ACTIVE, created_at=now
        )
        session.add(connection)
        session.flush()
        pull = Pull(connection_id=connection.id, started_at=now)
        session.add(pull)
        session.flush()
        ids = connection.id, pull.id
    upload = Upload([("export.zip", path)])
    keeper = keep.Keeper(vault, *ids, expected_patient=None, now=now)
    for fetched in upload.fetch():
        assert fetched.sentence is None, fetched
        keeper.page(fetched.chain, fetched.items)
    kept = keeper.finish()
    assert kept.quarantined == 0, kept
    for each in upload.attachments():
        type_, _, remote_id = each.record.partition("/")
        local_id = records.local_id(vault, ids[0], type_, remote_id)
        with vault.read() as session:
            record = records.get(session, vault, type_, local_id)
        assert record is not None
        keep.attach(vault, record.pk, each.url, each.media_type, each.content)


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


def test_bringing_it_back_gives_the_same_record(share: Share, tmp_path: Path) -> None:
    with_letter(share)
    home = share.home
    other = home.vaults.get(home.patient(home.account("Bea"), "Bea", by_itself=True))
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


def test_exporting_what_was_brought_back_changes_nothing_more(share: Share, tmp_path: Path) -> None:
    home = share.home
    other = home.vaults.get(home.patient(home.account("Bea"), "Bea", by_itself=True))
    content = exported(share.vault)
    brought_back(other, content, tmp_path)
    before = len(everything(other))
    brought_back(other, content, tmp_path)  # as a second upload: a second place
    assert len(everything(other)) == 2 * before


def test_an_empty_record_gives_an_empty_export(share: Share) -> None:
    home = share.home
    other = home.vaults.get(home.patient(home.account("Bea"), "Bea", by_itself=True))
    with zipfile.ZipFile(io.BytesIO(exported(other))) as archive:
        assert json.loads(archive.read("manifest.json"))["connections"] == []
