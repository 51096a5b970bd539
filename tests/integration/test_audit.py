"""The logs: a chain that shows every change, the mark outside, and what happens while sealed."""

from pathlib import Path

import pytest

from phr.store import audit
from phr.store.house import Mark
from phr.store.models import SealedEvent
from phr.store.vault import Vault
from tests.fixtures_store import Home

ADA = {"kind": "account", "id": "a", "name": "Ada"}


def filled(home: Home) -> Vault:
    vault = home.vaults.get(home.patient(home.account()))
    with vault.write() as session:
        for number in range(5):
            audit.append(session, vault, "link.viewed", ADA, grant_id=f"g{number % 2}", n=number)
    return vault


def problems(vault: Vault) -> list[str]:
    with vault.read() as session:
        return audit.verify(session, vault)


def test_lines_are_chained_and_newest_first(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        with vault.read() as session:
            lines = audit.entries(session)
            assert [line.seq for line in lines] == [6, 5, 4, 3, 2, 1]
            assert lines[0].previous == lines[1].hash
            assert (lines[0].actor, lines[0].detail) == (ADA, {"n": 4})
            assert [line.seq for line in audit.entries(session, grant_id="g0")] == [6, 4, 2]
            assert [line.seq for line in audit.entries(session, limit=2, before=4)] == [3, 2]
        assert problems(vault) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE audit_entry SET detail='{}' WHERE seq=3", "Line 3 was changed"),
        ("UPDATE audit_entry SET at=at-1 WHERE seq=3", "Line 3 was changed"),
        ("UPDATE audit_entry SET actor='{}' WHERE seq=3", "Line 3 was changed"),
        ("UPDATE audit_entry SET grant_id=NULL WHERE seq=3", "Line 3 was changed"),
        ("UPDATE audit_entry SET epoch=9 WHERE seq=3", "Line 3 was changed"),
        ("UPDATE audit_entry SET hash=x'00' WHERE seq=3", "Line 3 was changed"),
        ("DELETE FROM audit_entry WHERE seq=3", "Lines 3 to 3 are missing"),
        ("DELETE FROM audit_entry WHERE seq<3", "Lines 1 to 2 are missing"),
    ],
)
def test_a_change_of_any_line_is_found(tmp_path: Path, change: str, said: str) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        with vault.write() as session:
            session.connection().exec_driver_sql(change)
        assert said in " ".join(problems(vault))


def test_a_line_and_the_change_it_tells_of_are_stored_together(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        before = home.house.mark_of(vault.id)

        def fail() -> None:
            with vault.write() as session:
                audit.append(session, vault, "grant.ended", ADA)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with vault.read() as session:
            assert audit.entries(session)[0].event == "link.viewed"
        assert home.house.mark_of(vault.id) == before


def test_the_mark_follows_each_commit(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        with vault.read() as session:
            assert home.house.mark_of(vault.id) == audit.mark(session) == Mark(1, 6)
        home.vaults.note(vault.id, "link.opened", audit.APPLIANCE)
        assert home.house.mark_of(vault.id) == Mark(1, 7)


def test_a_vault_behind_or_beside_its_mark_does_not_follow(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        with vault.read() as session:
            here = audit.mark(session)
            assert here is not None
            assert audit.follows(session, 1, None)
            assert audit.follows(session, 1, here)
            assert not audit.follows(session, 1, Mark(1, 7, b"x"))
            assert not audit.follows(session, 1, Mark(1, 6, b"x"))
            assert not audit.follows(session, 1, Mark(2, 1, b"x"))
            assert audit.follows(session, 2, Mark(1, 99, b"x"))


def test_what_happens_while_sealed_is_unreadable_and_merged_at_opening(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        home.vaults.seal(vault.id)
        home.vaults.note(vault.id, "link.opened", ADA, grant_id="g7", place="canary-place")
        home.vaults.note(vault.id, "link.wrong_code", audit.APPLIANCE)
        with home.house.read() as session:
            (first, _second) = session.query(SealedEvent).all()
            assert b"canary-place" not in first.box
            assert b"link.opened" not in first.box
        home.sign_in()
        vault = home.vaults.get(vault.id)
        with vault.read() as session:
            newest, opened = audit.entries(session, limit=2)
        assert newest.event == "link.wrong_code"
        assert (opened.event, opened.grant_id) == ("link.opened", "g7")
        assert opened.detail == {"place": "canary-place", "while_sealed": True}
        assert opened.at == first.at
        assert problems(vault) == []
        with home.house.read() as session:
            assert session.query(SealedEvent).count() == 0


def test_a_crash_while_merging_does_not_double_lines(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        home.vaults.seal(vault.id)
        home.vaults.note(vault.id, "link.opened", ADA)
        with home.house.read() as session:
            (waiting,) = session.query(SealedEvent).all()
        home.sign_in()
        with home.house.write() as session:  # as if the process had died before it was deleted
            session.merge(waiting)
        home.reopen()
        home.sign_in()
        with home.vaults.get(vault.id).read() as session:
            events = [line.event for line in audit.entries(session)]
        assert events.count("link.opened") == 1


def test_the_chain_survives_a_change_of_key(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        home.vaults.rotate(vault)
        home.vaults.note(vault.id, "link.opened", ADA)
        assert problems(vault) == []


def test_the_houses_log_is_chained_too(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        filled(home)
        home.sign_in()
        with home.house.read() as session:
            assert audit.verify_house(session, home.house) == []
            events = [line.event for line in audit.house_entries(session)]
            assert events == ["signin.ok", "patient.created", "account.created"]
            assert len(audit.house_entries(session, limit=1, before=2)) == 1
        with home.house.write() as session:
            session.connection().exec_driver_sql("UPDATE house_audit SET event='x' WHERE seq=2")
        with home.house.read() as session:
            assert audit.verify_house(session, home.house) == ["Line 2 was changed."]


def test_a_line_put_in_between_does_not_follow(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        vault = filled(home)
        with vault.write() as session:
            run = session.connection().exec_driver_sql
            run("DELETE FROM audit_entry WHERE seq=6")
            run("UPDATE audit_entry SET seq=6 WHERE seq=5")
            run("UPDATE audit_entry SET seq=5 WHERE seq=4")
        assert problems(vault)
