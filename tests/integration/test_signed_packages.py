"""What leaves as a package is signed; strangers' tools find whole what is whole, and else not."""

import base64
import io
import json
import shutil
import subprocess
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from phr import clock, ids, push
from phr.sharing import channels, gate, package, signing
from phr.sharing.grants import StepUp
from tests.cast import Cast
from tests.fixtures_sharing import ADA, PUBLIC_URL, Share, a_record, keep_all, share

__all__ = ["share"]
ROOT = Path(__file__).parents[2]
JOSE = """
import { flattenedVerify, importJWK } from 'jose';
import { readFileSync } from 'node:fs';
const [list, jws, key] = process.argv.slice(1).map((name) => readFileSync(name));
const [header, , signature] = jws.toString().split('.');
const payload = list.toString('base64url');
const imported = await importJWK(JSON.parse(key), 'Ed25519');
const sound = await flattenedVerify({ protected: header, payload, signature }, imported);
console.log(sound.protectedHeader.alg);
"""


def exported(share: Share) -> zipfile.ZipFile:
    owned = gate.owner_export(share.vault, ADA, form="zip")
    return zipfile.ZipFile(io.BytesIO(b"".join(package.export(owned, now=clock.now()))))


def key_of(share: Share) -> dict[str, Any]:
    found: dict[str, Any] = signing.key_set(share.vault.house)["keys"][0]
    return found


def listed(said: bytes) -> dict[str, tuple[str, int]]:
    return {one["name"]: (one["sha256"], one["size"]) for one in json.loads(said)["files"]}


def by_jose(folder: Path, said: bytes, mark: bytes, key: dict[str, Any]) -> bool:
    """Check a detached JWS with npm's jose."""
    node = shutil.which("node")
    if node is None or not (ROOT / "node_modules" / "jose").is_dir():
        pytest.skip("node or npm's jose is not installed (make setup)")
    files = {"list": said, "jws": mark, "key": json.dumps(key).encode()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command = [node, "--input-type=module", "-e", JOSE, *(str(folder / name) for name in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == "Ed25519"


def by_openssl(folder: Path, said: bytes, mark: bytes, key: dict[str, Any]) -> bool:
    """Check the same with OpenSSL, by hand: what docs/export.md tells."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    head, _, signature = mark.decode().split(".")
    raw = base64.urlsafe_b64decode(key["x"] + "==")[:32]
    (folder / "key.der").write_bytes(bytes.fromhex("302a300506032b6570032100") + raw)
    payload = base64.urlsafe_b64encode(said).rstrip(b"=")
    (folder / "input").write_bytes(head.encode() + b"." + payload)
    padded = signature + "=" * (-len(signature) % 4)
    (folder / "signature").write_bytes(base64.urlsafe_b64decode(padded))
    command = [openssl, "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER"]
    names = ["-inkey", "key.der", "-in", "input", "-sigfile", "signature"]
    done = subprocess.run([*command, *names], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("check", [by_jose, by_openssl], ids=["jose", "openssl"])
def test_a_strangers_tool_checks_an_export(share: Share, tmp_path: Path, check: Any) -> None:
    archive = exported(share)
    said, mark = archive.read("homeport/signed.json"), archive.read("homeport/signed.jws")
    assert check(tmp_path, said, mark, key_of(share))
    altered = said.replace(b'"size":', b'"size": ', 1)
    assert not check(tmp_path, altered, mark, key_of(share))


def test_the_list_names_every_file_of_an_export_as_it_is(share: Share) -> None:
    archive = exported(share)
    files = listed(archive.read("homeport/signed.json"))
    beside = {"homeport/signed.json", "homeport/signed.jws"}
    assert set(files) == set(archive.namelist()) - beside
    for name, (digest, size) in files.items():
        content = archive.read(name)
        assert (sha256(content).hexdigest(), len(content)) == (digest, size)


def test_each_record_says_from_which_endpoint_it_was_pulled_and_when(share: Share) -> None:
    lines = exported(share).read("provenance/Provenance.ndjson").splitlines()
    said = [json.loads(line) for line in lines]
    assert {one["entity"][0]["what"]["display"] for one in said} == {"North Quay", "Saltmarsh"}
    for one in said:
        assert one["entity"][0]["what"]["identifier"]["value"].startswith("https://")
        assert one["recorded"]


def test_what_a_channel_carries_is_signed_over_all_of_its_files(
    share: Share, tmp_path: Path
) -> None:
    ways = channels.opened(tmp_path / "outbox")
    now = clock.now()
    delivery = push.begin(
        share.vault,
        share.wish(),
        channel=ways["folder"],
        address="for Dr Pell",
        grant_id=ids.new_id(),
        step_up=StepUp("ada", "password", now),
        shown="x",
        actor=ADA,
        now=now,
    )
    push.deliver(share.vault, delivery, channels=ways, public_url=PUBLIC_URL, now=now)
    (folder,) = (tmp_path / "outbox").iterdir()
    files = listed((folder / "signed.json").read_bytes())
    assert set(files) == {"record.json", "record.html"}
    for name, (digest, _) in files.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == digest
    assert by_openssl(
        tmp_path,
        (folder / "signed.json").read_bytes(),
        (folder / "signed.jws").read_bytes(),
        key_of(share),
    )


def test_a_doctor_saves_a_signed_copy_and_finds_the_key_on_the_appliance(
    cast: Cast, tmp_path: Path
) -> None:
    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", a_record())
    link = Share(cast.appliance, vault).link()  # type: ignore[arg-type]  # has what a Home has
    web, page = cast.stranger(), link.url.partition("8081")[2]
    web.submit(page, {"code": link.code}, page=page)
    answer = web.get(f"/s/{link.handle_id}/record.zip")
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.namelist() == ["record.json", "record.html", "signed.json", "signed.jws"]
    (key,) = web.get("/package-keys.json").json()["keys"]
    assert "d" not in key
    said = archive.read("signed.json")
    assert json.loads(said)["key"] == key
    assert by_openssl(tmp_path, said, archive.read("signed.jws"), key)
    assert web.head(f"/s/{link.handle_id}/record.zip").status_code == 404
