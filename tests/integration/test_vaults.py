"""Vaults: sealed and open, keys that change, members, crashes half-way, foreign and older files."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phr.errors import Conflict, Damaged, Denied, Ended, NewerSchema, NotFound, Sealed, WrongSecret
from phr.store import accounts, audit, backup, members, migrations, slots
from phr.store.database import Database
from phr.store.models import (
    Connection,
    Grant,
    Member,
    Membership,
    Recipient,
    Route,
    VaultFact,
)
from phr.store.vault import Vault, Vaults
from tests.fixtures_store import OTHER, PASSWORD, Home, write_down, written


def add_ben(home: Home, patient: str, by: str, role: str = "proxy") -> str:
    ben = home.account("Ben", OTHER)
    invited = members.invite(home.house, patient, by=by, role=role)
    members.answer(home.house, invited.code, ben)
    told = members.fingerprint_of(home.house, ben)
    members.confirm_member(home.house, home.vaults, invited.id, by=by, fingerprint=told)
    return ben


# ---------------------------------------------------------------------- sealed and open


def test_a_vault_is_sealed_after_a_restart_until_a_member_signs_in(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        write_down(home.vaults.get(patient), "kept")
        home.reopen()
        assert home.vaults.open_by_themselves() == []
        with pytest.raises(Sealed):
            home.vaults.get(patient)
        home.sign_in()
        assert written(home.vaults.get(patient)) == {"kept"}
        assert home.vaults.open_ids() == [patient]


def test_a_vault_opens_by_itself_when_its_person_chose_so(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account(), by_itself=True)
        home.reopen()
        opened: list[str] = []
        home.vaults.on_open.append(lambda vault: opened.append(vault.id))
        assert home.vaults.open_by_themselves() == [patient]
        assert opened == [patient]


def test_taking_the_key_back_from_the_house_changes_the_vault_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account(), by_itself=True)
        before = home.vaults.get(patient).key
        accounts.set_opens_by_itself(home.house, home.vaults, patient, False)
        accounts.set_opens_by_itself(home.house, home.vaults, patient, False)
        assert home.vaults.get(patient).key != before
        home.reopen()
        assert home.vaults.open_by_themselves() == []
        home.sign_in()
        accounts.set_opens_by_itself(home.house, home.vaults, patient, True)
        home.reopen()
        assert home.vaults.open_by_themselves() == [patient]


def test_a_loan_seals_what_it_opened_after_the_last_that_needs_it(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.reopen()
        with home.vaults.lend() as later:
            with home.vaults.lend() as first:
                home.sign_in(loan=first)
                home.sign_in(loan=later)
            assert home.vaults.is_open(patient)
        assert not home.vaults.is_open(patient)


def test_a_loan_leaves_open_what_somebody_else_opened(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        with home.vaults.lend() as loan:
            home.sign_in(loan=loan)
        assert home.vaults.is_open(patient), "open before"
        home.reopen()
        with home.vaults.lend() as loan:
            home.sign_in(loan=loan)
            home.sign_in()
        assert home.vaults.is_open(patient), "somebody signed in meanwhile"


def test_seal_now_goes_before_a_loan_and_ends_it(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.reopen()
        with home.vaults.lend() as loan:
            home.sign_in(loan=loan)
            home.vaults.seal(patient)
            with pytest.raises(Sealed):
                home.vaults.get(patient)
            home.sign_in()
        assert home.vaults.is_open(patient)


def test_seal_now_forgets_the_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        vault = home.vaults.get(patient)
        home.vaults.seal(patient)
        home.vaults.seal(patient)
        assert (vault.key, vault.id_key, vault.audit_key, vault.box_private) == (b"",) * 4
        with pytest.raises(Sealed), vault.read():
            pass
        with pytest.raises(Sealed), vault.write():
            pass


def test_a_sealed_vault_and_its_key_holder_admin_read_nothing(tmp_path: Path) -> None:
    """G10: the house key with every file of the folder does not open a sealed vault."""
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        write_down(home.vaults.get(patient), "secret")
        home.vaults.seal(patient)
        held = home.vaults.slots_of(patient)
        assert slots.keys_for_house(held, home.house.key) == []
        with pytest.raises(WrongSecret):
            Database.open(home.vaults.path(patient), home.house.key, kind="vault")
        with pytest.raises(WrongSecret):
            home.vaults.open_with_any(patient, [])


def test_an_unknown_vault_is_not_found(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        with pytest.raises(NotFound):
            home.vaults.get("none")
        with pytest.raises(NotFound):
            home.vaults.open_with("none", bytes(32))


def test_a_vault_shows_no_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = home.vaults.get(home.patient(home.account()))
        assert repr(vault.key)[2:20] not in repr(vault)
        assert vault.id in repr(vault)


def test_vault_files_are_for_the_owner_only(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.patient(home.account())
        modes = {each.stat().st_mode & 0o777 for each in home.house.vaults_folder.iterdir()}
        assert modes == {0o600}


# ---------------------------------------------------------------------- several people


def test_an_account_holds_several_patients_and_opens_them_all(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada), home.patient(ada, "Ben")
        home.reopen()
        home.sign_in()
        assert set(home.vaults.open_ids()) == {own, child}
        assert home.vaults.get(own).key != home.vaults.get(child).key


def test_a_member_who_was_confirmed_opens_the_vault_alone(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        add_ben(home, patient, ada)
        home.reopen()
        home.sign_in("Ben", OTHER)
        vault = home.vaults.get(patient)
        assert {member.name for member in home.vaults.members(vault)} == {"Ada", "Ben"}
        assert [view.name for view in members.members_of(home.house, patient)] == ["Ada", "Ben"]


def test_a_member_is_confirmed_by_the_right_fingerprint_only(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        ben, eve = home.account("Ben", OTHER), home.account("Eve", OTHER)
        patient = home.patient(ada)
        invited = members.invite(home.house, patient, by=ada, role="viewer")
        members.answer(home.house, invited.code, eve)
        (waiting,) = members.invitations(home.house, patient)
        assert (waiting.account_name, waiting.state) == ("Eve", "answered")
        told_by_ben = members.fingerprint_of(home.house, ben)
        with pytest.raises(WrongSecret, match="four groups"):
            members.confirm_member(
                home.house, home.vaults, invited.id, by=ada, fingerprint=told_by_ben
            )
        assert members.role_of(home.house, patient, eve) is None
        assert len(home.vaults.members(home.vaults.get(patient))) == 1


def test_an_invitation_is_used_once_and_ends(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, ben = home.account(), home.account("Ben", OTHER)
        patient = home.patient(ada)
        first = members.invite(home.house, patient, by=ada, role="proxy")
        assert members.look_up(home.house, first.code, network="n").patient_name == "Ada"
        members.answer(home.house, first.code, ben)
        with pytest.raises(Ended):
            members.answer(home.house, first.code, ben)
        members.end_invitation(home.house, first.id, by=ada)
        with pytest.raises(Ended):
            members.confirm_member(home.house, home.vaults, first.id, by=ada, fingerprint="x")
        with pytest.raises(WrongSecret):
            members.look_up(home.house, "made up", network="n")
        second = members.invite(home.house, patient, by=ada, role="proxy")
        with pytest.raises(Conflict, match="already"):
            members.answer(home.house, second.code, ada)


def test_only_who_may_act_for_a_record_invites_and_removes(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, eve = home.account(), home.account("Eve", OTHER)
        patient = home.patient(ada)
        ben = add_ben(home, patient, ada, role="viewer")
        for verb in (
            lambda by: members.invite(home.house, patient, by=by, role="viewer"),
            lambda by: members.remove_member(home.house, home.vaults, patient, ada, by=by),
            lambda by: members.set_role(home.house, home.vaults, patient, ben, "proxy", by=by),
        ):
            with pytest.raises(Denied):
                verb(ben)
            with pytest.raises(NotFound):
                verb(eve)


def test_the_last_who_may_act_cannot_go(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        add_ben(home, patient, ada, role="viewer")
        with pytest.raises(Conflict, match="remain"):
            members.remove_member(home.house, home.vaults, patient, ada, by=ada)
        with pytest.raises(Conflict, match="remain"):
            members.set_role(home.house, home.vaults, patient, ada, "viewer", by=ada)
        with pytest.raises(Conflict, match="own person"):
            members.invite(home.house, patient, by=ada, role="self")


def test_a_role_changes_in_house_and_vault(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        ben = add_ben(home, patient, ada, role="viewer")
        members.set_role(home.house, home.vaults, patient, ben, "proxy", by=ada)
        assert members.role_of(home.house, patient, ben) == "proxy"
        with home.vaults.get(patient).read() as session:
            assert session.get_one(Member, ben).role == "proxy"


def test_removing_a_member_makes_a_kept_key_useless(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        ben = add_ben(home, patient, ada)
        write_down(home.vaults.get(patient), "kept")
        kept_key = home.vaults.get(patient).key
        kept_slots = home.vaults.slots_of(patient)
        members.remove_member(home.house, home.vaults, patient, ben, by=ada)
        write_down(home.vaults.get(patient), "later")
        assert written(home.vaults.get(patient)) == {"kept", "later"}
        home.vaults.seal(patient)
        slots.write_file(home.vaults.slots_path(patient), kept_slots)  # even with the old file
        with pytest.raises(WrongSecret):
            Database.open(home.vaults.path(patient), kept_key, kind="vault")
        assert home.sign_in("Ben", OTHER).unopened == ()
        assert not home.vaults.is_open(patient)


def test_a_member_may_leave(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        ben = add_ben(home, patient, ada, role="viewer")
        members.remove_member(home.house, home.vaults, patient, ben, by=ben)
        assert accounts.patients_of(home.house, ben) == []


# ---------------------------------------------------------------------- crashes half-way


class Crash(BaseException):
    """The process dies here."""


def crash(*args: object, **more: object) -> None:
    raise Crash


@pytest.mark.parametrize("step", ["before rekey", "after rekey", "before the last slots"])
def test_a_crash_while_the_key_changes_leaves_a_file_that_opens(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        vault = home.vaults.get(patient)
        write_down(vault, "kept")
        real = Database.rekey
        if step == "before rekey":
            monkeypatch.setattr(Database, "rekey", crash)
        elif step == "after rekey":
            monkeypatch.setattr(Database, "rekey", lambda self, key: (real(self, key), crash()))
        else:
            monkeypatch.setattr(Vaults, "_save_slots", crash)
        with pytest.raises(Crash):
            home.vaults.rotate(vault)
        monkeypatch.undo()
        assert home.vaults.slots_of(patient).pending is not None
        home.reopen()
        home.sign_in()
        assert written(home.vaults.get(patient)) == {"kept"}
        assert home.vaults.slots_of(patient).pending is None
        assert slots.authentic(home.vaults.slots_of(patient), home.vaults.get(patient).key)
        home.reopen()
        home.sign_in()
        assert home.vaults.is_open(patient)
        assert home.house.warnings(patient) == []


def test_a_removal_cut_short_is_finished_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        ben = add_ben(home, patient, ada)
        key = home.vaults.get(patient).key
        monkeypatch.setattr(Vaults, "rotate", crash)
        with pytest.raises(Crash):
            members.remove_member(home.house, home.vaults, patient, ben, by=ada)
        monkeypatch.undo()
        assert members.role_of(home.house, patient, ben) is None  # at once, whatever comes
        home.reopen()
        home.sign_in()
        assert home.vaults.get(patient).key != key
        held = home.vaults.slots_of(patient)
        assert [slot.account_id for slot in held.current.slots] == [ada]


def test_a_member_pinned_but_without_slot_gets_it_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        monkeypatch.setattr(Vaults, "refresh", crash)
        with pytest.raises(Crash):
            add_ben(home, patient, ada)
        monkeypatch.undo()
        home.reopen()
        home.sign_in()
        assert len(home.vaults.slots_of(patient).current.slots) == 2


@pytest.mark.parametrize(
    "moment", [(slots, "write_file"), (audit, "append_house")], ids=["no slots", "nobody has it"]
)
def test_a_vault_that_was_never_finished_is_swept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: tuple[Any, str]
) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        monkeypatch.setattr(*moment, crash)
        with pytest.raises(Crash):
            home.patient(ada)
        monkeypatch.undo()
        assert list(home.house.vaults_folder.glob("*.db"))
        for name in ("x.slots.new", "x.coming", "x.coming-wal", "x.coming-slots.new"):
            (home.house.vaults_folder / name).touch()
        home.reopen()
        assert list(home.house.vaults_folder.iterdir()) == []


# ---------------------------------------------------------------------- foreign and older files


def test_slots_that_were_changed_from_outside_are_made_anew_and_told(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.vaults.seal(patient)
        held = home.vaults.slots_of(patient)
        forged = replace(held, box_key=slots.new_key_pair().public)
        slots.write_file(home.vaults.slots_path(patient), forged)
        home.sign_in()
        mended = home.vaults.slots_of(patient)
        assert mended.box_key == held.box_key
        assert slots.authentic(mended, home.vaults.get(patient).key)
        assert "key slots" in home.house.warnings(patient)[0]


def test_an_older_slots_file_still_opens_and_is_told(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        older = home.vaults.slots_path(patient).read_bytes()
        add_ben(home, patient, ada)
        home.vaults.seal(patient)
        home.vaults.slots_path(patient).write_bytes(older)
        home.sign_in()
        assert "key slots" in home.house.warnings(patient)[0]
        assert len(home.vaults.slots_of(patient).current.slots) == 2


def test_slots_of_another_person_are_refused(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada), home.patient(ada, "Ben")
        home.vaults.close()
        shutil.copy(home.vaults.slots_path(child), home.vaults.slots_path(own))
        assert home.sign_in().unopened == (own,)
        assert home.vaults.is_open(child)
        assert "belong to another" in home.house.warnings(own)[0]


def test_the_file_of_another_person_is_refused_untouched(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada), home.patient(ada, "Ben")
        home.vaults.close()
        shutil.copy(home.vaults.path(child), home.vaults.path(own))
        before = home.vaults.path(own).read_bytes()
        assert home.sign_in().unopened == (own,)
        assert home.vaults.path(own).read_bytes() == before
        assert "not touched" in home.house.warnings(own)[0]


def test_file_and_slots_of_another_person_under_this_name_are_refused(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada), home.patient(ada, "Ben")
        key = home.vaults.get(child).key
        home.vaults.close()
        shutil.copy(home.vaults.path(child), home.vaults.path(own))
        with pytest.raises(Damaged, match="belongs to another record"):
            home.vaults.open_with(own, key)


def test_one_damaged_vault_does_not_keep_the_others_shut(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada, by_itself=True), home.patient(ada, "Ben", by_itself=True)
        home.vaults.close()
        home.vaults.path(own).write_bytes(b"")
        assert home.vaults.open_by_themselves() == [child]
        assert home.sign_in().unopened == (own,)


def test_a_lost_vault_file_is_told_and_the_others_open(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        own, child = home.patient(ada, by_itself=True), home.patient(ada, "Ben", by_itself=True)
        home.vaults.close()
        home.vaults.path(own).unlink()
        assert home.vaults.open_by_themselves() == [child]
        assert home.house.warnings(own)


def test_an_older_copy_of_the_file_is_noticed_and_distrusted(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.vaults.seal(patient)
        older = home.vaults.path(patient).read_bytes()
        home.sign_in()
        home.vaults.note(patient, "link.opened", audit.APPLIANCE)
        home.vaults.seal(patient)
        home.vaults.path(patient).write_bytes(older)
        home.sign_in()
        assert "older than it was" in home.house.warnings(patient)[0]
        vault = home.vaults.get(patient)
        assert vault.epoch == 2
        with vault.read() as session:
            assert audit.entries(session)[0].event == "vault.rolled_back"
        home.house.dismiss_warnings(patient)
        home.reopen()
        home.sign_in()
        assert home.house.warnings(patient) == []  # told once


def test_another_history_of_the_same_length_is_noticed(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.vaults.seal(patient)
        older = home.vaults.path(patient).read_bytes()
        home.sign_in()
        vault = home.vaults.get(patient)
        twin = replace(vault)
        home.vaults.note(patient, "link.opened", audit.APPLIANCE)
        home.vaults.seal(patient)
        home.vaults.path(patient).write_bytes(older)
        twin.database = Database.open(home.vaults.path(patient), twin.key, kind="vault")
        with twin.database.write() as session:
            audit.append(session, twin, "link.viewed", audit.APPLIANCE)
        twin.database.close()
        home.sign_in()
        assert "older than it was" in home.house.warnings(patient)[0]


def test_a_crash_between_vault_and_mark_is_no_alarm(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        vault = home.vaults.get(patient)
        with vault.database.write() as session:  # commits, and the process dies before the mark
            audit.append(session, vault, "link.opened", audit.APPLIANCE)
        home.reopen()
        home.sign_in()
        assert home.house.warnings(patient) == []
        assert home.vaults.get(patient).epoch == 1


def test_a_vault_of_a_newer_program_is_refused_untouched(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        with home.vaults.get(patient).write() as session:
            session.connection().exec_driver_sql("PRAGMA user_version=99")
        home.vaults.close()
        before = home.vaults.path(patient).read_bytes()
        assert home.sign_in().unopened == (patient,)
        assert NewerSchema.sentence in home.house.warnings(patient)
        assert home.vaults.path(patient).read_bytes() == before


def test_a_vault_is_backed_up_before_it_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        home.vaults.seal(patient)
        monkeypatch.setitem(
            migrations.STEPS,
            "vault",
            (lambda connection: connection.exec_driver_sql("CREATE TABLE added (a) "),),
        )
        home.sign_in()
        (kept,) = backup.list_backups(home.house, patient)
        assert kept.manifest is not None
        assert (kept.manifest.reason, kept.manifest.badge) == ("before migration", "older version")
        assert home.vaults.get(patient).database.version() == 2


# ---------------------------------------------------------------------- distrust and shredding


def share(vault: Vault, grant_id: str, state: str = "active") -> None:
    with vault.write() as session:
        now = audit.clock.now()
        session.merge(Recipient(id="dr", name="Dr", kind="link", created_at=now))
        session.flush()
        session.add(
            Grant(
                id=grant_id,
                recipient_id="dr",
                role="specialist",
                provision={},
                state=state,
                created_by="x",
                created_at=now,
                starts_at=now,
                ends_at=now,
            )
        )


def test_distrust_suspends_grants_keeps_ended_ones_ended_and_pauses_connections(
    tmp_path: Path,
) -> None:
    with Home(tmp_path) as home:
        vault = home.vaults.get(home.patient(home.account()))
        for name, state in (("a", "active"), ("b", "active"), ("c", "ended"), ("d", "draft")):
            share(vault, name, state)
        home.house.bury("grant", "b")
        with vault.write() as session:
            session.add(
                Connection(
                    kind="smart",
                    name="Hospital",
                    base_url="https://h.example",
                    state="active",
                    created_at=audit.clock.now(),
                )
            )
        assert home.vaults.distrust(vault, "vault.restored") == (1, 1)
        with vault.read() as session:
            states = {name: session.get_one(Grant, name).state for name in "abcd"}
            connection = session.get_one(Connection, 1)
        assert states == {"a": "suspended", "b": "ended", "c": "ended", "d": "draft"}
        assert connection.state == "paused"
        assert "Check" in (connection.sentence or "")


def test_shredding_leaves_no_file_and_no_way_back(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient, other = home.patient(ada), home.patient(ada, "Ben")
        with home.house.write() as session:
            session.add(Route(id="r", patient_id=patient, grant_id="g"))
        backup.back_up(home.house, home.vaults, patient)
        home.vaults.seal(patient)
        home.vaults.note(patient, "link.opened", audit.APPLIANCE)
        accounts.shred(home.house, home.vaults, patient)
        left = {each.name for each in home.data.rglob("*") if patient in str(each)}
        assert left == set()
        assert home.house.buried("vault") == {patient}
        with home.house.read() as session:
            assert session.get(Route, "r") is None
            assert session.get(Membership, (ada, patient)) is None
        assert [view.id for view in accounts.patients_of(home.house, ada)] == [other]
        with pytest.raises(NotFound):
            home.vaults.get(patient)
        with pytest.raises(NotFound):
            accounts.shred(home.house, home.vaults, patient)


def test_a_shredding_cut_short_is_finished_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        backup.back_up(home.house, home.vaults, patient)
        monkeypatch.setattr(Vaults, "shred_files", crash)
        with pytest.raises(Crash):
            accounts.shred(home.house, home.vaults, patient)
        monkeypatch.undo()
        home.reopen()
        assert not [each for each in home.data.rglob("*") if patient in str(each)]


def test_starting_again_after_shredding_finds_nothing_to_do(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        accounts.shred(home.house, home.vaults, home.patient(home.account()))
        (home.house.backups_folder / "house").mkdir()
        (home.house.backups_folder / "house" / ".house-1.db.part").touch()
        home.reopen()
        assert list((home.house.backups_folder / "house").iterdir()) == []


def test_a_crash_while_settling_leaves_the_vault_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account(), by_itself=True)
        home.vaults.close()
        monkeypatch.setattr(Vaults, "_settle", crash)
        with pytest.raises(Crash):
            home.vaults.open_by_themselves()
        assert not home.vaults.is_open(patient)
        monkeypatch.undo()
        home.vaults.open_by_themselves()
        key = home.vaults.get(patient).key
        home.vaults.close()
        monkeypatch.setattr(Vaults, "distrust", crash)
        with pytest.raises(Crash):
            home.vaults.open_restored(patient, key, {})
        assert not home.vaults.is_open(patient)


def test_a_bulk_writer_hears_of_urgent_ones_through_its_vault(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        assert not home.vaults.get(home.patient(home.account())).urgent_waiting()


def test_removing_somebody_who_is_no_member_still_changes_the_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = home.vaults.get(home.patient(home.account()))
        before = vault.key
        home.vaults.unpin(vault, "nobody")
        assert vault.key != before


def test_wraps_are_taken_only_from_somebody_who_opens_every_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        with pytest.raises(WrongSecret):
            home.vaults.put_wraps(patient, ada, slots.new_key_pair(), ())
        monkeypatch.setattr(Database, "rekey", crash)
        with pytest.raises(Crash):
            home.vaults.rotate(home.vaults.get(patient))
        accounts.change_password(home.house, home.vaults, ada, PASSWORD, OTHER)
        held = home.vaults.slots_of(patient)
        assert held.pending is not None
        for ring in held.rings:
            assert slots.unwrap(ring.slots[0].wraps[0], OTHER)


def test_name_and_colour_change_in_house_and_vault(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        accounts.set_person(home.house, home.vaults, patient, name="Ada L.", colour=3)
        (view,) = accounts.patients_of(home.house, ada)
        assert (view.name, view.colour, view.initial, view.is_open) == ("Ada L.", 3, "A", True)
        with home.vaults.get(patient).read() as session:
            person = json.loads(session.get_one(VaultFact, "person").value)
        assert person == {"name": "Ada L.", "colour": 3, "demo": 0}


def test_the_key_of_local_ids_never_changes(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        before = home.vaults.get(patient).id_key
        home.vaults.rotate(home.vaults.get(patient))
        home.reopen()
        home.sign_in()
        assert home.vaults.get(patient).id_key == before
        assert len(before) == 32


def test_a_restore_that_stopped_half_way_is_finished_at_the_next_opening(tmp_path: Path) -> None:
    """The disk refused the swap while the house ran: no restart is needed to finish it."""
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        write_down(home.vaults.get(patient), "in the backup")
        home.vaults.seal(patient)
        coming, coming_slots = home.vaults.coming(patient)
        shutil.copy(home.vaults.path(patient), coming)
        shutil.copy(home.vaults.slots_path(patient), coming_slots)
        home.sign_in()
        assert written(home.vaults.get(patient)) == {"in the backup"}
        assert not coming.exists()
        assert not coming_slots.exists()


def test_a_file_that_no_key_opens_after_a_failed_key_change_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account())
        vault = home.vaults.get(patient)

        def lost(database: Database) -> None:
            database.path.write_bytes(os.urandom(database.path.stat().st_size))
            raise Damaged

        monkeypatch.setattr(Database, "_refuse_damage", lost)
        with pytest.raises(Damaged):
            home.vaults.rotate(vault)
        monkeypatch.undo()
        assert not home.vaults.is_open(patient)
        assert vault.key == b""
        with pytest.raises(Sealed):
            home.vaults.get(patient)
