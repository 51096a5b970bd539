"""The local CA and the certificate it issues, judged by OpenSSL as browsers' libraries would."""

import shutil
import ssl
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import time_machine

from phr import clock, tls
from phr.errors import SettingsError, TrustError
from phr.settings import Settings

KEY = bytes(range(32))


@pytest.fixture
def household(tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path,
        tls="own",
        home_url="https://phr.lan:8080",
        public_url="https://doors.example.org",
    )


def handshake(server: ssl.SSLContext, authority: bytes, name: str) -> str | None:
    """Return None when a client that trusts only `authority` accepts the server as `name`."""
    client = ssl.create_default_context(cadata=authority.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for turn in range(8):
        try:
            ends[turn % 2].do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


def authority_of(settings: Settings) -> tls.Authority:
    found = tls.authority(settings)
    assert found is not None
    return found


def test_without_own_tls_nothing_is_made(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    assert tls.prepare(settings, KEY) is None
    assert tls.authority(settings) is None
    assert tls.expires_in_days(settings) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["phr.lan", "doors.example.org", "localhost", "127.0.0.1"])
def test_a_device_that_trusts_the_authority_accepts_our_names(
    household: Settings, name: str
) -> None:
    made = tls.prepare(household, KEY)
    assert made is not None
    assert handshake(made.context, authority_of(household).pem, name) is None


def test_a_device_refuses_a_name_we_do_not_have(household: Settings) -> None:
    made = tls.prepare(household, KEY)
    assert made is not None
    assert handshake(made.context, authority_of(household).pem, "bank.example.com")


def test_the_authority_cannot_vouch_for_other_web_sites(
    household: Settings, tmp_path: Path
) -> None:
    tls.prepare(household, KEY)
    ca, key = tls._open_or_make_authority(household.tls_path, KEY, ["phr.lan"])
    leaf = tls._leaf(ca, key, key.public_key(), ["bank.example.com"])
    (tmp_path / "leaf.pem").write_bytes(tls._pem(leaf))
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    command = [openssl, "verify", "-CAfile", household.tls_path / "ca.pem", tmp_path / "leaf.pem"]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode != 0
    assert "permitted subtree violation" in judged.stdout + judged.stderr


def test_keys_lie_encrypted_and_for_their_owner_only(household: Settings) -> None:
    tls.prepare(household, KEY)
    for name in ("ca.key", "server.key"):
        file = household.tls_path / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"ENCRYPTED PRIVATE KEY" in file.read_bytes()


def test_another_house_key_does_not_open_the_authority(household: Settings) -> None:
    tls.prepare(household, KEY)
    with pytest.raises(TrustError):
        tls.prepare(household, bytes(32))


def test_a_second_start_changes_nothing(household: Settings) -> None:
    tls.prepare(household, KEY)
    before = {file.name: file.read_bytes() for file in household.tls_path.iterdir()}
    made = tls.prepare(household, KEY)
    assert made is not None
    assert not made.renew()
    assert before == {file.name: file.read_bytes() for file in household.tls_path.iterdir()}


def test_a_certificate_is_renewed_ahead_of_its_end_and_the_authority_stays(
    household: Settings,
) -> None:
    made = tls.prepare(household, KEY)
    assert made is not None
    before = authority_of(household).fingerprint
    with time_machine.travel(clock.now().timestamp() + 70 * 86400, tick=False):
        assert made.renew()
        assert not made.renew()
        assert (tls.expires_in_days(household) or 0) >= tls.LEAF_DAYS - 1
    assert authority_of(household).fingerprint == before


def test_a_new_household_name_is_added_without_a_new_authority(household: Settings) -> None:
    tls.prepare(household, KEY)
    before = authority_of(household).fingerprint
    moved = replace(household, home_url="https://record.home.arpa")
    made = tls.prepare(moved, KEY)
    assert made is not None
    assert authority_of(moved).fingerprint == before
    assert handshake(made.context, authority_of(moved).pem, "record.home.arpa") is None


def test_a_public_name_the_authority_must_not_vouch_for_leads_to_a_new_one(
    household: Settings,
) -> None:
    tls.prepare(household, KEY)
    before = authority_of(household).fingerprint
    moved = replace(household, public_url="https://other.example.net")
    made = tls.prepare(moved, KEY)
    assert made is not None
    assert authority_of(moved).fingerprint != before
    assert handshake(made.context, authority_of(moved).pem, "other.example.net") is None


def test_own_certificate_files_are_used_as_they_are(household: Settings, tmp_path: Path) -> None:
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    files = {"tls_cert_file": tmp_path / "c.pem", "tls_key_file": tmp_path / "k.pem"}
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=phr.lan", "-addext", "subjectAltName=DNS:phr.lan"]
    command += ["-keyout", files["tls_key_file"], "-out", files["tls_cert_file"], "-days", "9"]
    subprocess.run(command, check=True, capture_output=True)
    settings = replace(household, **files)
    made = tls.prepare(settings, KEY)
    assert made is not None
    assert not made.renew()
    assert tls.authority(settings) is None
    assert tls.expires_in_days(settings) == 8
    assert handshake(made.context, files["tls_cert_file"].read_bytes(), "phr.lan") is None


def test_certificate_files_that_do_not_fit_are_a_sentence(
    household: Settings, tmp_path: Path
) -> None:
    (tmp_path / "c.pem").write_text("no certificate")
    settings = replace(household, tls_cert_file=tmp_path / "c.pem", tls_key_file=tmp_path / "c.pem")
    with pytest.raises(SettingsError, match="PHR_TLS_CERT_FILE"):
        tls.prepare(settings, KEY)
