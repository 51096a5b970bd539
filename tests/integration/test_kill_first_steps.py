"""kill -9 while somebody takes first steps: there is always a way on, with what the person holds.

HOMEPORT_KILLS sets the number of kills, as in `test_kill`.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from phr import clock
from phr.appliance import Appliance
from phr.errors import WrongSecret
from phr.settings import Settings
from phr.store import accounts, audit, backup, members
from phr.store.models import Connection, Grant, Recipient
from phr.store.restore import restore
from phr.web.app import create_home_app
from tests.cast import HOME, Browser, password_of, sign_in
from tests.integration.first_steps_child import claim, hold_kit
from tests.integration.test_kill import KILLS, SEED, Killer, acknowledged

LONGEST = {"setup": 0.8, "join": 0.5, "kit": 0.8, "new machine": 0.25}  # seconds until the kill
SHARE = 0.04

Open = Callable[..., Appliance]
Kill = Callable[..., Iterator[list[str]]]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = Killer("first_steps_child")
    yield process
    process.close()


@pytest.fixture
def kills(killer: Killer, tmp_path: Path) -> Kill:
    """Kill one kind of work at random moments; yields what was acknowledged each time."""

    def kills_(
        work: str, begin: Callable[[Path], dict[str, str]] | None = None
    ) -> Iterator[list[str]]:
        chance = random.Random(f"{SEED} {work}")  # noqa: S311 - when to kill
        data = tmp_path / "data"
        for number in range(max(2, round(KILLS * SHARE))):
            shutil.rmtree(data, ignore_errors=True)
            more = begin(data) if begin else {}
            acks = tmp_path / f"acks-{number}"
            delay = chance.uniform(0.001, LONGEST[work])
            killer.run(
                {"work": work, "data": str(data), "acks": str(acks), "wait": True, "delay": delay}
                | more
            )
            yield acknowledged(acks)

    return kills_


@contextmanager
def running(appliance: Appliance) -> Iterator[Browser]:
    """A browser at an appliance that was just started."""
    with Browser(create_home_app(appliance), HOME) as browser:
        yield browser
    appliance.close()


def settled(appliance: Appliance) -> None:
    """Nothing half-done lies about, and every chain and file is whole."""
    with appliance.house.read() as session:
        assert audit.verify_house(session, appliance.house) == []
    assert appliance.house.database.problems() == []
    known = set(appliance.vaults.ids())
    for patient in known & set(appliance.vaults.open_ids()):
        vault = appliance.vault(patient)
        assert vault.database.problems() == []
        with vault.read() as session:
            assert audit.verify(session, vault) == []
    left = {path.stem for path in appliance.house.vaults_folder.iterdir()}
    assert {name.partition(".")[0] for name in left} <= known


def reaches_a_record(browser: Browser, appliance: Appliance, name: str) -> None:
    """From the front page to a record that takes hospitals, by what the pages offer."""
    front = browser.get("/", follow_redirects=True)
    assert front.status_code == 200
    account = accounts.account_named(appliance.house, name)
    assert account is not None
    if accounts.waits_for_kit(appliance.house, account.id) and accounts.patients_of(
        appliance.house, account.id
    ):
        assert front.url.path == "/account"
        assert "/account/kit" in front.text
        browser.submit("/account/kit", {"password": password_of(name)})
        hold_kit(browser, "/account/kit", "/account/kit/held")
    elif not accounts.patients_of(appliance.house, account.id):
        assert '"/household/add"' in front.text
        browser.submit("/household/add", {"name": name, "whose": "me"}, page="/household")
    (person,) = accounts.patients_of(appliance.house, account.id)
    if accounts.waits_for_kit(appliance.house, account.id):
        browser.submit("/account/kit", {"password": password_of(name)})
        hold_kit(browser, "/account/kit", "/account/kit/held")
    assert browser.get(f"/p/{person.id}/").status_code == 200
    assert browser.get(f"/p/{person.id}/connections/add").status_code == 200


def test_a_set_up_that_was_cut_off_goes_on(kills: Kill, open_appliance: Open) -> None:
    for said in kills("setup"):
        appliance = open_appliance()
        with running(appliance) as browser:
            code = appliance.new_setup_code()
            if code is not None:
                assert said == []
                claim(browser, code)
                hold_kit(browser, "/setup/kit", "/setup/kit")
            else:
                sign_in(browser, "Ada")
                held = any(line.startswith("kit") for line in said)
                (account,) = accounts.list_accounts(appliance.house)
                assert not held or account.has_kit
                assert account.has_kit or accounts.waits_for_kit(appliance.house, account.id)
            reaches_a_record(browser, appliance, "Ada")
            settled(appliance)


def test_an_invited_person_is_let_in_whatever_broke_off(
    kills: Kill, open_appliance: Open, cheap_kdf: None
) -> None:
    def invited(data: Path) -> dict[str, str]:
        appliance = Appliance.open(Settings(data=data))
        ada = accounts.create_account(appliance.house, "Ada", password_of("Ada"))
        patient = accounts.create_patient(
            appliance.house, appliance.vaults, name="Ada", account_id=ada
        )
        code = members.invite(appliance.house, patient, by=ada, role="viewer").code
        appliance.close()
        codes[:] = [code]
        return {"code": code}

    codes: list[str] = []
    for said in kills("join", invited):
        appliance = open_appliance()
        house, vaults = appliance.house, appliance.vaults
        with running(appliance) as browser:
            form = {"code": codes[0], "name": "Ben"}
            twice = {"password": password_of("Ben"), "again": password_of("Ben")}
            if (ben := accounts.account_named(house, "Ben")) is None:
                assert said == []
                browser.submit("/join", form | twice, page="/join")
            else:
                with Browser(create_home_app(appliance), HOME) as other:
                    refused = other.submit("/join", form | twice, page="/join")
                    assert refused.status_code == 422
                sign_in(browser, "Ben")
                if not members.is_waiting(house, ben.id):
                    assert said == []
                    assert "sign in first" in refused.text
                    browser.submit("/join", {"code": codes[0]}, page="/join")
            ben = accounts.account_named(house, "Ben")
            assert ben is not None
            ada = accounts.account_named(house, "Ada")
            assert ada is not None
            accounts.sign_in(house, vaults, "Ada", password_of("Ada"))
            (patient,) = vaults.ids()
            (waiting,) = members.invitations(house, patient)
            members.confirm_member(
                house, vaults, waiting.id, by=ada.id, fingerprint=waiting.fingerprint or ""
            )
            assert browser.get(f"/p/{patient}/").status_code == 200
            settled(appliance)


def test_a_kit_that_was_typed_back_works_until_the_next_one_was(
    kills: Kill, open_appliance: Open, cheap_kdf: None
) -> None:
    def at_home(data: Path) -> dict[str, str]:
        appliance = Appliance.open(Settings(data=data))
        accounts.create_account(appliance.house, "Ada", password_of("Ada"))
        appliance.close()
        return {}

    for said in kills("kit", at_home):
        appliance = open_appliance()
        with running(appliance) as browser:
            held = [line.removeprefix("kit ") for line in said]
            fitting = []
            for kit in held[-1:]:
                try:
                    accounts.recover(
                        appliance.house, appliance.vaults, "Ada", kit, "another four quiet words"
                    )
                    fitting.append(kit)
                except WrongSecret:  # the next one was put in force, and its page got lost
                    pass
            if not fitting:
                sign_in(browser, "Ada")
                browser.submit("/account/kit", {"password": password_of("Ada")})
                hold_kit(browser, "/account/kit", "/account/kit/held")
                (account,) = accounts.list_accounts(appliance.house)
                assert account.has_kit
            settled(appliance)


@pytest.fixture
def carried(tmp_path: Path, cheap_kdf: None) -> Path:
    """A backup, from another machine, of a record that is shared and connected."""
    old = Appliance.open(Settings(data=tmp_path / "old"))
    ada = accounts.create_account(old.house, "Ada", password_of("Ada"))
    patient = accounts.create_patient(old.house, old.vaults, name="Ada", account_id=ada)
    now = clock.now()
    with old.vault(patient).write() as session:
        session.add(Recipient(id="dr", name="Dr", kind="link", created_at=now))
        session.flush()
        session.add(
            Grant(id="g", recipient_id="dr", role="specialist", provision={}, state="active",
                  created_by=ada, created_at=now, starts_at=now, ends_at=now)
        )  # fmt: skip
        session.add(
            Connection(kind="smart", name="H", base_url="https://h.example", state="active",
                       created_at=now)
        )  # fmt: skip
    made = backup.back_up(old.house, old.vaults, patient)
    carried = Path(shutil.copytree(made.folder, tmp_path / "carried"))
    old.close()
    return carried


def is_distrusted(appliance: Appliance) -> None:
    (patient,) = appliance.vaults.ids()
    with appliance.vault(patient).read() as session:
        assert session.get_one(Grant, "g").state == "suspended"
        assert session.get_one(Connection, 1).state == "paused"


def comes_back(appliance: Appliance, carried: Path) -> None:
    """What a person does on a machine where a restore was cut off: the same again, or sign in."""
    if appliance.needs_setup():
        restore(appliance.house, appliance.vaults, carried, password=password_of("Ada"))
    else:
        accounts.sign_in(appliance.house, appliance.vaults, "Ada", password_of("Ada"))
    is_distrusted(appliance)
    settled(appliance)


def test_a_restore_on_a_new_machine_goes_on_or_begins_again(
    kills: Kill, open_appliance: Open, carried: Path
) -> None:
    for said in kills("new machine", lambda _: {"backup": str(carried)}):
        appliance = open_appliance()
        assert not said or not appliance.needs_setup()
        comes_back(appliance, carried)
        appliance.close()


def test_what_was_restored_is_distrusted_also_when_it_was_cut_off_before_its_opening(
    killer: Killer, open_appliance: Open, carried: Path, tmp_path: Path
) -> None:
    killer.run(
        {"work": "new machine", "data": str(tmp_path / "data"), "acks": str(tmp_path / "acks"),
         "wait": True, "delay": 20.0, "at": "before it is opened", "backup": str(carried)}
    )  # fmt: skip
    assert acknowledged(tmp_path / "acks") == []
    appliance = open_appliance()
    assert not appliance.needs_setup()
    comes_back(appliance, carried)
