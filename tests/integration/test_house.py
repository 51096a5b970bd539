"""The data folder: lock, key, owner, small facts, tombstones, and a process without core dumps."""

import os
import resource
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phr import ids
from phr.errors import DataLocked, SettingsError, WrongSecret
from phr.store import house as house_module
from phr.store.house import House, Mark, file_system_of, read_key
from phr.store.models import Patient
from tests.fixtures_store import Home


def test_an_empty_folder_becomes_a_house(tmp_path: Path) -> None:
    house = House.open(tmp_path / "new" / "data")
    assert (house.data / "house.key").stat().st_size == 32
    assert stat.S_IMODE((house.data / "house.key").stat().st_mode) == 0o600
    for folder in (house.data, house.vaults_folder, house.backups_folder, house.data / "run"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    house.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        with pytest.raises(DataLocked, match="already using"):
            House.open(home.data)
        home.reopen()


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from phr.store.house import House;"
        "House.open(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], check=False)
    House.open(tmp_path / "data").close()


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("written", ["raw", "hex", "HEX"])
def test_a_key_file_may_be_raw_or_hex_with_a_newline(
    tmp_path: Path, written: str, ending: bytes
) -> None:
    key = bytes(range(32))
    spelled = {"raw": key, "hex": key.hex().encode(), "HEX": key.hex().upper().encode()}[written]
    assert read_key(spelled + ending, tmp_path / "key") == key


def test_a_raw_key_that_ends_with_a_newline_is_whole(tmp_path: Path) -> None:
    key = bytes(31) + b"\n"
    assert read_key(key, tmp_path / "key") == key


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 40, b"z" * 64, b"a" * 65, b"\xff" * 64])
def test_a_key_of_the_wrong_size_is_told_with_its_size(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SettingsError, match=f"has {len(data)} bytes"):
        read_key(data, tmp_path / "key")


def test_the_key_may_live_elsewhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(ids.random_bytes(32))
    secret.chmod(0o444)  # as container engines mount it
    House.open(tmp_path / "data", key_file=secret).close()
    assert not (tmp_path / "data" / "house.key").exists()
    House.open(tmp_path / "data", key_file=secret).close()


def test_a_named_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PHR_HOUSE_KEY_FILE"):
        House.open(tmp_path / "data", key_file=tmp_path / "none")
    House.open(tmp_path / "data").close()


def test_a_lost_house_key_is_told_and_never_made_anew(tmp_path: Path) -> None:
    House.open(tmp_path / "data").close()
    (tmp_path / "data" / "house.key").unlink()
    with pytest.raises(SettingsError, match="restore each record"):
        House.open(tmp_path / "data")
    assert not (tmp_path / "data" / "house.key").exists()


def test_an_exchanged_house_key_is_told(tmp_path: Path) -> None:
    House.open(tmp_path / "data").close()
    (tmp_path / "data" / "house.key").write_bytes(ids.random_bytes(32))
    with pytest.raises(WrongSecret, match=r"does not open house\.db"):
        House.open(tmp_path / "data")


def test_a_house_key_open_to_others_is_closed(tmp_path: Path) -> None:
    House.open(tmp_path / "data").close()
    (tmp_path / "data" / "house.key").chmod(0o644)
    House.open(tmp_path / "data").close()
    assert stat.S_IMODE((tmp_path / "data" / "house.key").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as caught:
        House.open(tmp_path / "file" / "data")
    assert str(tmp_path) in caught.value.sentence
    assert f"user id {os.getuid()}" in caught.value.sentence


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_module, "file_system_of", lambda _path: "nfs4")
    with pytest.raises(SettingsError, match="network file system"):
        House.open(tmp_path / "data")


def test_the_file_system_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    mounts = f"d / ext4 rw 0 0\nd {tmp_path} cifs rw 0 0\nshort line\nd /elsewhere nfs rw 0 0\n"
    assert file_system_of(tmp_path / "data", mounts) == "cifs"
    assert file_system_of(Path("/usr"), mounts) == "ext4"
    assert file_system_of(Path("/usr"), "") == ""
    assert file_system_of(tmp_path)


def test_small_facts_are_kept_and_forgotten(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.house.set_setting("a", {"b": [1]})
        home.house.set_setting("a", {"b": [2]})
        home.reopen()
        assert home.house.get_setting("a") == {"b": [2]}
        home.house.set_setting("a", None)
        home.house.set_setting("a", None)
        assert home.house.get_setting("a", "gone") == "gone"


def test_two_who_need_a_fact_at_the_same_moment_get_the_same_one(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        both_found_nothing = threading.Barrier(2)

        def make() -> dict[str, str]:
            both_found_nothing.wait(timeout=30)
            return {"key": ids.new_secret()}

        def ask(_: int) -> dict[str, str]:
            got: dict[str, str] = home.house.setting_or_made("signing", make)
            return got

        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(ask, range(2))
        assert one == other
        assert home.house.setting_or_made("signing", dict) == one
        home.reopen()
        assert home.house.get_setting("signing") == one


def test_tombstones_stay(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.house.bury("grant", "g1")
        home.house.bury("grant", "g1")
        home.reopen()
        assert home.house.buried("grant") == {"g1"}
        assert home.house.buried("vault") == frozenset()


def test_warnings_stay_until_dismissed_and_do_not_pile_up(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        for number in range(12):
            home.house.warn("p", f"sentence {number}")
        home.house.warn("p", "sentence 5")
        assert home.house.warnings("p")[-1] == "sentence 5"
        assert len(home.house.warnings("p")) == 10
        home.house.dismiss_warnings("p")
        assert home.house.warnings("p") == []


def test_the_mark_never_goes_back(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.house.advance_mark(patient, Mark(2, 1, b"b"))
        home.house.advance_mark(patient, Mark(1, 99, b"c"))
        home.house.advance_mark(patient, Mark(2, 1, b"d"))
        assert home.house.mark_of(patient) == Mark(2, 1)
        with home.house.read() as session:
            assert session.get_one(Patient, patient).audit_head == b"b"


def test_a_mark_that_cannot_be_written_does_not_fail_the_vault(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.house.database.close()
        home.house.advance_mark(patient, Mark(9, 9, b"x"))


def test_the_house_shows_no_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        shown = f"{home.house!r} {home.house.database!r}"
        assert home.house.key.hex() not in shown
        assert repr(home.house.key)[2:-1] not in shown


def test_a_hardened_process_dumps_no_core(tmp_path: Path) -> None:
    script = (
        "import ctypes, resource; from phr.store.house import harden_process; harden_process();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(0, 0) 0"
    assert resource.getrlimit(resource.RLIMIT_CORE)
