"""Backups that were opened, restores that distrust, and a drill on a machine that has nothing."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
import time_machine

from phr import clock, ids, own, pull
from phr.errors import (
    Conflict,
    Damaged,
    NewerSchema,
    NotFound,
    PhrError,
    TooManyTries,
    VaultError,
    WrongSecret,
)
from phr.fhir.statements import STATEMENTS
from phr.http import Http
from phr.jobs import Jobs, Plan
from phr.net import Guard
from phr.store import accounts, audit, backup, entries, members, slots
from phr.store.backup import MANIFEST, SLOTS, VAULT, Backup
from phr.store.database import PAGE_BYTES, Database
from phr.store.models import Connection, Grant, Member, Recipient, VaultFact
from phr.store.models import Session as Browser
from phr.store.restore import restore
from phr.store.vault import CHECK
from tests.fixtures_records import keep_records, lab
from tests.fixtures_store import OTHER, PASSWORD, Home, write_down, written


def backed_up(home: Home, *, by_itself: bool = False) -> tuple[str, str, Backup]:
    ada = home.account()
    patient = home.patient(ada, by_itself=by_itself)
    write_down(home.vaults.get(patient), "kept")
    return ada, patient, backup.back_up(home.house, home.vaults, patient)


def restored(home: Home, folder: Path, **how: object) -> str:
    return restore(home.house, home.vaults, folder, **how).patient_id  # type: ignore[arg-type]


# ---------------------------------------------------------------------- making


def test_a_backup_is_one_folder_that_opens_with_the_vault_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        assert {each.name for each in made.folder.iterdir()} == {VAULT, SLOTS, MANIFEST}
        assert {each.stat().st_mode & 0o777 for each in made.folder.iterdir()} == {0o600}
        manifest = backup.verify_backup(made.folder, home.vaults.get(patient).key)
        assert manifest.counts["recipient"] == 1
        assert (manifest.vault_id, manifest.badge) == (patient, "same version")
        assert made.size > PAGE_BYTES
        assert not list(made.folder.parent.glob(".*"))


def test_house_key_and_house_slot_are_in_no_backup(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, _, made = backed_up(home, by_itself=True)
        held = slots.read_file(made.folder / SLOTS)
        assert held.current.house is None
        assert slots.keys_for_house(held, home.house.key) == []
        backup.back_up_all(home.house, home.vaults)
        for path in home.house.backups_folder.rglob("*"):
            if path.is_file():
                assert home.house.key not in path.read_bytes()
                assert home.house.key.hex().encode() not in path.read_bytes()


def test_nothing_of_a_person_is_readable_in_a_backup(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account("Adelheid-canary")
        patient = home.patient(ada, "Adelheid-canary")
        made = backup.back_up(home.house, home.vaults, patient)
        for path in made.folder.iterdir():
            assert b"Adelheid-canary" not in path.read_bytes()


def test_the_night_backs_up_open_vaults_and_names_sealed_ones(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada), home.patient(ada, "Ben")
        home.vaults.seal(child)
        report = backup.back_up_all(home.house, home.vaults)
        assert (report.made, report.sealed, report.failed) == ((own,), (child,), {})
        assert home.house.get_setting("last_backup")["made"] == [own]
        assert list((home.house.backups_folder / "house").glob("house-*.db"))
        copy = next((home.house.backups_folder / "house").glob("house-*.db"))
        opened = Database(copy, home.house.key, kind="house")
        assert opened.problems() == []
        assert opened.counts()["account"] == 1


def test_one_failing_backup_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada), home.patient(ada, "Ben")
        (home.house.backups_folder / own).mkdir()
        real = Database.copy_to

        def fail_once(self: Database, target: Path) -> None:
            if own in str(target):
                raise Damaged
            real(self, target)

        monkeypatch.setattr(Database, "copy_to", fail_once)
        report = backup.back_up_all(home.house, home.vaults)
        assert report.made == (child,)
        assert report.failed == {own: Damaged.sentence}
        assert list((home.house.backups_folder / own).iterdir()) == []


def test_a_vault_opened_later_is_due(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel("2026-03-01T02:00:00Z", tick=False) as now:
        _, patient, _ = backed_up(home)
        assert backup.due(home.house, home.vaults) == []
        now.shift(timedelta(hours=25))
        assert backup.due(home.house, home.vaults) == [patient]
        home.vaults.seal(patient)
        assert backup.due(home.house, home.vaults) == []


@pytest.fixture
def working() -> Iterator[Callable[[Home], Jobs]]:
    """Jobs of a house, started."""
    running: list[Jobs] = []

    def start(home: Home) -> Jobs:
        jobs = Jobs(home.house, home.vaults, Http(Guard()), Plan(home.data / "outbox", ""))
        running.append(jobs)
        jobs.start()
        return jobs

    yield start
    for jobs in running:
        jobs.stop()


def looked(jobs: Jobs, name: str) -> None:
    """Wait until a job has looked."""
    for _ in range(500):
        if any(tick.ran_at for tick in jobs.ticks() if tick.name == name):
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{name} was not looked at")


def test_a_record_sealed_at_the_backup_hour_is_backed_up_when_it_opens(
    tmp_path: Path, working: Callable[[Home], Jobs]
) -> None:
    with Home(tmp_path) as home:
        with time_machine.travel("2026-03-01T12:00:00Z", tick=False):
            ada, patient, _ = backed_up(home)
            home.vaults.seal(patient)
        with time_machine.travel("2026-03-03T04:30:00Z"):
            report = backup.back_up_all(home.house, home.vaults)
            assert report.sealed == (patient,)
            jobs = working(home)
            assert len(backup.list_backups(home.house, patient)) == 1
            home.sign_in()
            looked(jobs, "missed")
            newest, _ = backup.list_backups(home.house, patient)
            assert newest.manifest is not None
            assert newest.manifest.reason == "nightly"
            told = home.house.get_setting("last_backup")
            assert (told["made"], told["sealed"]) == ([patient], [])
            jobs.make_up_backup(patient)
            assert len(backup.list_backups(home.house, patient)) == 2, "once is enough"
        del ada


def test_a_record_made_since_the_backup_hour_waits_for_the_night(
    tmp_path: Path, working: Callable[[Home], Jobs]
) -> None:
    with Home(tmp_path) as home:
        jobs = working(home)
        patient = home.patient(home.account())
        looked(jobs, "missed")
        assert backup.list_backups(home.house, patient) == []


def test_entries_made_by_older_rules_are_made_anew_when_the_record_opens(
    tmp_path: Path, working: Callable[[Home], Jobs]
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        vault = home.vaults.get(patient)
        keep_records(vault, [lab("Sodium", "s1", "140")])
        with vault.write() as session:
            session.merge(VaultFact(name="derived_version", value=b"0"))
            session.connection().exec_driver_sql("DELETE FROM evidence")
            session.connection().exec_driver_sql("DELETE FROM entry")
        home.vaults.seal(patient)
        jobs = working(home)
        home.sign_in()
        looked(jobs, "entries")
        with home.vaults.get(patient).read() as session:
            assert not entries.outdated(session)
            assert sum(entries.counts(session).values()) == 1


def test_old_backups_go_and_the_newest_stay(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        for number in range(5):
            write_down(home.vaults.get(patient), f"day{number}")
            backup.back_up(home.house, home.vaults, patient, keep=3)
            backup.back_up_all(home.house, home.vaults, keep=3)
        by_hand = backup.back_up(home.house, home.vaults, patient, keep=3, reason="by hand")
        kept = backup.list_backups(home.house, patient)
        assert len(kept) == 4
        assert kept[0].folder == by_hand.folder
        counts = [each.manifest.counts["recipient"] for each in kept[1:] if each.manifest]
        assert counts == [5, 5, 4]
        assert len(list((home.house.backups_folder / "house").iterdir())) == 3
        assert len(backup.list_backups(home.house)) == 4


# ---------------------------------------------------------------------- damage


def cut(path: Path, count: int = 40) -> None:
    os.truncate(path, path.stat().st_size - count)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace(path: Path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "vault cut": lambda folder: cut(folder / VAULT, PAGE_BYTES),
    "vault empty": lambda folder: os.truncate(folder / VAULT, 0),
    "vault bit": lambda folder: flip(folder / VAULT),
    "vault gone": lambda folder: (folder / VAULT).unlink(),
    "slots gone": lambda folder: (folder / SLOTS).unlink(),
    "slots cut": lambda folder: cut(folder / SLOTS),
    "slots older": lambda folder: replace(folder / SLOTS, b'"generation": 1', b'"generation": 2'),
    "manifest cut": lambda folder: cut(folder / MANIFEST),
    "manifest empty": lambda folder: os.truncate(folder / MANIFEST, 0),
    "manifest a list": lambda folder: replace(folder / MANIFEST, b"{", b"["),
    "counts": lambda folder: replace(folder / MANIFEST, b'"recipient": 1', b'"recipient": 2'),
    "mac": lambda folder: replace(folder / MANIFEST, b'"mac": "', b'"mac": "00'),
    "a way out": lambda folder: replace(folder / MANIFEST, b'"vault": "', b'"vault": "../../'),
    "other person": lambda folder: replace(folder / MANIFEST, b'"vault": "', b'"vault": "f'),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_refused_with_a_reason_and_live_data_stays(
    tmp_path: Path, kind: str
) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        write_down(home.vaults.get(patient), "newer")
        DAMAGES[kind](made.folder)
        with pytest.raises(Damaged) as caught:
            restored(home, made.folder, password=PASSWORD)
        assert len(caught.value.sentence) > 20
        assert written(home.vaults.get(patient)) == {"kept", "newer"}
        assert not list(home.house.vaults_folder.glob("*.coming*"))


def test_a_backup_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, _, made = backed_up(home)
        plain = json.loads((made.folder / MANIFEST).read_text())
        for changed in ({"schema": 99}, {"format": 99}):
            (made.folder / MANIFEST).write_text(json.dumps({**plain, **changed}))
            with pytest.raises(NewerSchema):
                restored(home, made.folder, password=PASSWORD)
        listed = backup.read_backup(made.folder)
        assert listed.manifest is None
        (made.folder / MANIFEST).write_text(json.dumps({**plain, "schema": 99}))
        (listed,) = backup.list_backups(home.house)
        assert listed.manifest is not None
        assert listed.manifest.badge == "newer version"


def test_an_empty_folder_is_no_backup(tmp_path: Path) -> None:
    with Home(tmp_path) as home, pytest.raises(NotFound):
        restored(home, tmp_path, password=PASSWORD)


# ---------------------------------------------------------------------- restoring here


def test_a_restore_brings_the_record_back_and_starts_a_new_epoch(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        write_down(home.vaults.get(patient), "newer")
        done = restore(home.house, home.vaults, made.folder)
        assert (done.patient_id, done.name, done.new_here) == (patient, "Ada", False)
        vault = home.vaults.get(patient)
        assert written(vault) == {"kept"}
        assert vault.epoch == 2
        with vault.read() as session:
            line = audit.entries(session, limit=1)[0]
            assert (line.event, line.epoch) == ("vault.restored", 2)
            assert audit.verify(session, vault) == []
        assert "restored from the backup" in home.house.warnings(patient)[0]
        before = backup.list_backups(home.house, patient)[0]
        assert before.manifest is not None
        assert before.manifest.reason == "before restore"  # what was replaced is kept
        home.reopen()
        home.sign_in()
        assert written(home.vaults.get(patient)) == {"kept"}
        assert len(home.house.warnings(patient)) == 1


def test_a_restore_twice_opens_two_epochs(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        restored(home, made.folder, password=PASSWORD)
        restored(home, made.folder, password=PASSWORD)
        assert home.vaults.get(patient).epoch == 3


def test_a_restore_over_a_sealed_and_a_damaged_vault(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        home.vaults.seal(patient)
        home.vaults.path(patient).write_bytes(b"rubbish")
        home.vaults.path(patient).with_name(f"{patient}.db-wal").write_bytes(b"stale wal")
        home.vaults.slots_path(patient).unlink()
        with pytest.raises(WrongSecret, match="needs the password"):
            restored(home, made.folder)
        restored(home, made.folder, password=PASSWORD)
        assert written(home.vaults.get(patient)) == {"kept"}
        aside = next((home.house.backups_folder / patient).glob("replaced-*"))
        assert {each.name for each in aside.iterdir()} == {f"{patient}.db", f"{patient}.db-wal"}


def test_what_cannot_be_backed_up_before_a_restore_is_put_aside_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)

        def fail(self: Database, target: Path) -> None:
            raise Damaged

        monkeypatch.setattr(Database, "copy_to", fail)
        restored(home, made.folder)
        assert list((home.house.backups_folder / patient).glob("replaced-*/*.db"))
        assert len(backup.list_backups(home.house, patient)) == 1
        assert written(home.vaults.get(patient)) == {"kept"}


def test_a_backup_that_cannot_be_brought_in_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        write_down(home.vaults.get(patient), "newer")

        def fail(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copyfile", fail)
        with pytest.raises(VaultError, match="The disk is full"):
            restored(home, made.folder)
        assert written(home.vaults.get(patient)) == {"kept", "newer"}
        assert not list(home.house.vaults_folder.glob("*.coming*"))


def test_after_a_restore_grants_wait_and_ended_ones_stay_ended(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        vault, now = home.vaults.get(patient), clock.now()
        with vault.write() as session:
            session.add(Recipient(id="dr", name="Dr", kind="link", created_at=now))
            session.flush()
            for name in ("stays", "revoked later"):
                session.add(
                    Grant(id=name, recipient_id="dr", role="specialist", provision={},
                          state="active", created_by=ada, created_at=now, starts_at=now,
                          ends_at=now)
                )  # fmt: skip
            session.add(
                Connection(kind="smart", name="H", base_url="https://h.example", state="active",
                           created_at=now)
            )  # fmt: skip
        made = backup.back_up(home.house, home.vaults, patient)
        home.house.bury("grant", "revoked later")
        with home.house.write() as session:
            session.add(
                Browser(id_hash=b"x", public_id="x", account_id=ada, browser="F", created_at=now,
                        seen_at=now, expires_at=now + timedelta(days=1))
            )  # fmt: skip
        done = restore(home.house, home.vaults, made.folder)
        assert (done.grants_suspended, done.connections_paused) == (1, 1)
        with home.vaults.get(patient).read() as session:
            assert session.get_one(Grant, "stays").state == "suspended"
            assert session.get_one(Grant, "revoked later").state == "ended"
            assert session.get_one(Connection, 1).state == "paused"
        with home.house.read() as session:
            assert session.query(Browser).count() == 0


def places(home: Home, patient: str) -> dict[str, str]:
    """Keep one own statement and one file; return the states of the two places by kind."""
    vault, now = home.vaults.get(patient), clock.now()
    author = own.Author({"kind": "member", "name": "Ada"}, is_patient=True)
    own.state(vault, STATEMENTS["allergy"], {"what": "Latex"}, author, now=now)
    file = home.data / "labs.ndjson"
    file.write_bytes(b'{"resourceType":"Patient","id":"p1","birthDate":"1980-01-01"}')
    pull.take_file(vault, file.name, file, actor=author.actor, now=now)
    return states(home, patient)


def states(home: Home, patient: str) -> dict[str, str]:
    with home.vaults.get(patient).read() as session:
        return {row.kind: row.state for row in session.query(Connection)}


def pause_places(home: Home, patient: str) -> None:
    """Leave the places as earlier versions left them after a restore."""
    with home.vaults.get(patient).write() as session:
        for row in session.query(Connection):
            row.state, row.sentence = "paused", CHECK


def test_a_restore_asks_to_check_only_what_a_server_stands_behind(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        assert places(home, patient) == {"own": "active", "upload": "active"}
        made = backup.back_up(home.house, home.vaults, patient)
        done = restore(home.house, home.vaults, made.folder)
        assert done.connections_paused == 0
        assert "Connections to check: 0." in done.sentence
        assert states(home, patient) == {"own": "active", "upload": "active"}


def test_places_that_an_earlier_restore_paused_are_active_when_the_record_opens(
    tmp_path: Path,
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account(), by_itself=True)
        places(home, patient)
        pause_places(home, patient)
        made = backup.back_up(home.house, home.vaults, patient)
        home.reopen()
        assert home.vaults.open_by_themselves() == [patient]
        assert states(home, patient) == {"own": "active", "upload": "active"}
        assert restored(home, made.folder) == patient
        with home.vaults.get(patient).read() as session:
            assert {row.sentence for row in session.query(Connection)} == {None}
        assert places(home, patient) == {"own": "active", "upload": "active"}


def test_a_member_removed_since_does_not_come_back(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, ben = home.account(), home.account("Ben", OTHER)
        patient = home.patient(ada)
        invited = members.invite(home.house, patient, by=ada, role="proxy")
        members.answer(home.house, invited.code, ben)
        told = members.fingerprint_of(home.house, ben)
        members.confirm_member(home.house, home.vaults, invited.id, by=ada, fingerprint=told)
        made = backup.back_up(home.house, home.vaults, patient)
        old_key = home.vaults.get(patient).key
        members.remove_member(home.house, home.vaults, patient, ben, by=ada)
        restored(home, made.folder, password=PASSWORD)
        vault = home.vaults.get(patient)
        assert [member.account_id for member in home.vaults.members(vault)] == [ada]
        assert [view.account_id for view in members.members_of(home.house, patient)] == [ada]
        assert vault.key != old_key
        assert [slot.account_id for slot in home.vaults.slots_of(patient).current.slots] == [ada]


def test_a_member_added_since_is_invited_again(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, patient, made = backed_up(home)
        ben = home.account("Ben", OTHER)
        invited = members.invite(home.house, patient, by=ada, role="proxy")
        members.answer(home.house, invited.code, ben)
        told = members.fingerprint_of(home.house, ben)
        members.confirm_member(home.house, home.vaults, invited.id, by=ada, fingerprint=told)
        restored(home, made.folder, password=PASSWORD)
        assert members.role_of(home.house, patient, ben) is None
        assert any("invited again" in sentence for sentence in home.house.warnings(patient))


def test_a_key_changed_since_is_changed_again(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        old_key = home.vaults.get(patient).key
        home.vaults.rotate(home.vaults.get(patient))
        with pytest.raises(WrongSecret, match="needs the password"):
            restored(home, made.folder)  # the open vault has another key by now
        restored(home, made.folder, password=PASSWORD)
        assert home.vaults.get(patient).key != old_key
        assert written(home.vaults.get(patient)) == {"kept"}


def test_todays_password_and_the_one_of_then_both_open_a_backup(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, patient, made = backed_up(home)
        accounts.change_password(home.house, home.vaults, ada, PASSWORD, OTHER)
        for password in (OTHER, PASSWORD):
            home.vaults.seal(patient)
            restored(home, made.folder, password=password)
            (slot,) = home.vaults.slots_of(patient).current.slots
            assert slots.unwrap(slot.wraps[0], OTHER)  # today's is the one that stays
        home.reopen()
        home.sign_in(password=OTHER)
        assert home.vaults.is_open(patient)


def test_opening_by_itself_is_kept_over_a_restore(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home, by_itself=True)
        restored(home, made.folder)
        home.reopen()
        assert home.vaults.open_by_themselves() == [patient]


def test_guessing_at_a_backup_is_limited(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        _, _, made = backed_up(home)
        for _ in range(5):
            with pytest.raises(WrongSecret, match="No member"):
                restored(home, made.folder, password="not the right one")
        with pytest.raises(TooManyTries):
            restored(home, made.folder, password=PASSWORD)


def test_a_shredded_record_comes_back_only_when_asked_for(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, patient, made = backed_up(home)
        away = tmp_path / "usb"
        shutil.copytree(made.folder, away)
        accounts.shred(home.house, home.vaults, patient)
        with pytest.raises(Conflict, match="destroyed on purpose"):
            restored(home, away, password=PASSWORD)
        assert accounts.patients_of(home.house, ada) == []
        restored(home, away, password=PASSWORD, bring_back=True)
        assert written(home.vaults.get(patient)) == {"kept"}
        home.reopen()
        home.sign_in()
        assert home.vaults.is_open(patient)


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("step", ["before swap", "half swapped", "before house", "before epoch"])
def test_a_crash_while_restoring_leaves_the_old_or_the_restored_record(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        write_down(home.vaults.get(patient), "newer")

        def crash(*_args: object, **_more: object) -> None:
            raise Crash

        if step == "before swap":
            monkeypatch.setattr(type(home.vaults), "swap_in", crash)
        elif step == "half swapped":
            real = Path.replace
            monkeypatch.setattr(
                Path,
                "replace",
                lambda self, to: crash() if self.suffix == ".coming-slots" else real(self, to),
            )
        elif step == "before house":
            monkeypatch.setattr("phr.store.restore._register", crash)
        else:
            monkeypatch.setattr(type(home.vaults), "open_restored", crash)
        with pytest.raises(Crash):
            restored(home, made.folder)
        monkeypatch.undo()
        home.reopen()
        assert home.sign_in().unopened == ()
        vault = home.vaults.get(patient)
        assert written(vault) == {"kept"}
        assert vault.epoch == 2  # noticed as older, so distrusted
        assert home.house.warnings(patient)
        assert not list(home.house.vaults_folder.glob("*.coming*"))


# ---------------------------------------------------------------------- the drill


def carried(tmp_path: Path, made: Backup) -> Path:
    """A USB stick: the backup folder alone, in the hands of somebody with a new machine."""
    return Path(shutil.copytree(made.folder, tmp_path / "usb"))


@pytest.mark.parametrize("secret", ["password", "kit"])
def test_an_empty_machine_needs_the_backup_and_one_secret_only(tmp_path: Path, secret: str) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with Home(tmp_path / "old") as home:
        ada = home.account()
        patient = home.patient(ada, "Ada L.")
        write_down(home.vaults.get(patient), "kept")
        kit = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        accounts.confirm_kit(home.house, ada)
        stick = carried(tmp_path, backup.back_up(home.house, home.vaults, patient))
    shutil.rmtree(tmp_path / "old")
    how = {"password": PASSWORD} if secret == "password" else {"kit": kit}
    with Home(tmp_path / "new") as home:
        done = restore(home.house, home.vaults, stick, **how)
        assert (done.new_here, done.name) == (True, "Ada L.")
        assert written(home.vaults.get(patient)) == {"kept"}
        (account,) = accounts.list_accounts(home.house)
        assert (account.id, account.name, account.administrator) == (ada, "Ada", True)
        home.reopen()
        assert home.vaults.open_by_themselves() == []  # the new house was given no key
        home.sign_in()
        (view,) = accounts.patients_of(home.house, ada)
        assert (view.name, view.role, view.is_open) == ("Ada L.", "self", True)
        accounts.recover(home.house, home.vaults, "Ada", kit, OTHER)


def test_a_wrong_secret_on_an_empty_machine_leaves_it_empty(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with Home(tmp_path) as home:
        stick = carried(tmp_path, backed_up(home)[2])
    with Home(tmp_path / "new") as home:
        for how in ({"password": "wrong wrong wrong"}, {"kit": slots.spell_kit(bytes(20))}, {}):
            with pytest.raises(PhrError):
                restored(home, stick, **how)
        assert accounts.list_accounts(home.house) == []
        assert list(home.house.vaults_folder.iterdir()) == []


def test_a_family_is_restored_with_all_its_members(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with Home(tmp_path) as home:
        ada, ben = home.account(), home.account("Ben", OTHER)
        child = home.patient(ada, "Child")
        invited = members.invite(home.house, child, by=ada, role="viewer")
        members.answer(home.house, invited.code, ben)
        told = members.fingerprint_of(home.house, ben)
        members.confirm_member(home.house, home.vaults, invited.id, by=ada, fingerprint=told)
        own = home.patient(ada)
        sticks = [backup.back_up(home.house, home.vaults, each).folder for each in (child, own)]
        held = [shutil.copytree(each, tmp_path / each.parent.name) for each in sticks]
    with Home(tmp_path / "new") as home:
        restored(home, held[0], password=OTHER)  # the viewer's password opens it, too
        restored(home, held[1], password=PASSWORD)
        assert {a.name for a in accounts.list_accounts(home.house)} == {"Ada", "Ben"}
        roles = {view.name: view.role for view in members.members_of(home.house, child)}
        assert roles == {"Ada": "self", "Ben": "viewer"}
        assert len(accounts.patients_of(home.house, ada)) == 2
        home.reopen()
        home.sign_in("Ben", OTHER)
        assert home.vaults.open_ids() == [child]


def test_a_name_that_is_taken_on_the_new_machine_gets_a_number(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with Home(tmp_path) as home:
        stick = carried(tmp_path, backed_up(home)[2])
    with Home(tmp_path / "new") as home:
        home.account("Ada", OTHER)
        restored(home, stick, password=PASSWORD)
        assert {a.name for a in accounts.list_accounts(home.house)} == {"Ada", "Ada (2)"}
        administrators = [a.name for a in accounts.list_accounts(home.house) if a.administrator]
        assert "Ada (2)" not in administrators
        home.sign_in("Ada (2)", PASSWORD)


def test_a_forged_member_of_a_backup_does_not_take_an_account_over(tmp_path: Path) -> None:
    """Somebody else's key under a known account id gets no place in the house."""
    (tmp_path / "new").mkdir()
    with Home(tmp_path) as home:
        _, patient, _ = backed_up(home)
        ben = home.account("Ben", OTHER)
        forged = Member(account_id=ben, name="Ben", public_key=slots.new_key_pair().public,
                        role="proxy", pinned_at=clock.now(), pinned_by=None)  # fmt: skip
        home.vaults.pin(home.vaults.get(patient), forged, ())
        made = backup.back_up(home.house, home.vaults, patient)
        stick = carried(tmp_path, made)
        accounts.shred(home.house, home.vaults, patient)
        restored(home, stick, password=PASSWORD, bring_back=True)
        assert [view.name for view in members.members_of(home.house, patient)] == ["Ada"]
        assert len(home.vaults.members(home.vaults.get(patient))) == 1


def test_a_restored_vault_is_read_by_a_second_implementation(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with Home(tmp_path) as home:
        _, patient, made = backed_up(home)
        with home.vaults.get(patient).write() as session:
            session.connection().exec_driver_sql(
                "INSERT INTO search(rowid, words) VALUES (7, 'penicillin')"
            )
        stick = carried(tmp_path, backup.back_up(home.house, home.vaults, patient))
        assert made.folder != stick
    with Home(tmp_path / "new") as home:
        restored(home, stick, password=PASSWORD)
        key, path = home.vaults.get(patient).key, home.vaults.path(patient)
        home.vaults.close()
        reader = apsw.Connection(str(path))
        cipher = {"cipher": "sqlcipher", "legacy": 4, "legacy_page_size": PAGE_BYTES}
        for name, value in cipher.items():
            reader.pragma(name, value)
        reader.pragma("key", f"raw:{key.hex()}")
        assert reader.execute("SELECT id FROM recipient").fetchall() == [("kept",)]
        found = reader.execute("SELECT rowid FROM search WHERE search MATCH 'penicillin'")
        assert found.fetchall() == [(7,)]
        assert reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        reader.close()


def test_the_stamp_of_a_backup_is_its_time(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel("2026-03-01T02:00:00Z", tick=False):
        _, _, made = backed_up(home)
        assert made.folder.name == "20260301T020000000000Z"
        assert made.manifest is not None
        assert made.manifest.made_at == clock.now()
        assert ids.new_id() not in made.folder.name
