"""Accounts: names, passwords, sign-in, tries, second factor, recovery kit, sessions that end."""

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import pyotp
import pytest
import time_machine

from phr import clock
from phr.errors import Conflict, InvalidInput, NotFound, TooManyTries, TotpNeeded, WrongSecret
from phr.store import accounts, audit, limits, slots
from phr.store.models import Account, Attempt
from phr.store.models import Session as Browser
from tests.fixtures_store import CHEAP, OTHER, PASSWORD, Home, write_down, written

WRONG = "not the password at all"
NOON = datetime(2026, 6, 1, 12, 0, 10, tzinfo=UTC)


def browser(home: Home, account_id: str, name: str) -> None:
    now = clock.now()
    with home.house.write() as session:
        session.add(
            Browser(
                id_hash=name.encode(),
                public_id=name,
                account_id=account_id,
                browser="Firefox",
                created_at=now,
                seen_at=now,
                expires_at=now + timedelta(hours=1),
            )
        )


def browsers(home: Home) -> set[str]:
    with home.house.read() as session:
        rows = session.connection().exec_driver_sql("SELECT public_id FROM session")
        return {row[0] for row in rows}


def enrolled(home: Home, account_id: str) -> pyotp.TOTP:
    enrolment = accounts.enrol_totp(home.house, account_id)
    totp = pyotp.TOTP(enrolment.secret)
    before = clock.now() - timedelta(seconds=30)
    accounts.confirm_totp(home.house, account_id, totp.at(before))
    return totp


# ---------------------------------------------------------------------- names and passwords


@pytest.mark.parametrize(
    "password",
    ["", "short", "elevenchars", "x" * 1025, "aaaaaaaaaaaa", "abababababab", "123456789012",
     "abcdefghijkl", "Password1234", "qwertyuiopas", "correct horse battery staple"],
)  # fmt: skip
def test_a_short_or_obvious_password_is_refused(tmp_path: Path, password: str) -> None:
    with Home(tmp_path) as home:
        with pytest.raises(InvalidInput):
            home.account("Ada", password)
        assert accounts.list_accounts(home.house) == []


@pytest.mark.parametrize(
    "password", ["horse glass nine", "no-rules-here-please", "ключ от старого дома"]
)
def test_length_is_the_only_rule_of_composition(password: str) -> None:
    accounts.check_password(password)


def test_the_name_is_no_password() -> None:
    with pytest.raises(InvalidInput):
        accounts.check_password("Ada Lovelace", "ada lovelace")


def test_the_same_password_typed_on_another_keyboard_fits(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account("Zoë", "schöne lange Wörter")
        composed = accounts.sign_in(
            home.house, home.vaults, "zoe\u0308", "scho\u0308ne lange Wo\u0308rter"
        )
        assert composed.name == "Zoë"


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\x00b", "a\u202eb"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    with Home(tmp_path) as home, pytest.raises(InvalidInput):
        home.account(name)


def test_names_are_taken_whatever_their_case(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account("Ada")
        with pytest.raises(Conflict, match="already"):
            home.account(" ADA ")


def test_the_first_account_sets_the_cost_of_the_house(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        accounts.create_account(home.house, "Ben", OTHER)
        ben = accounts.account_named(home.house, "ben")
        assert ben is not None
        assert slots.cost_of(ben.password_wrap) == CHEAP


# ---------------------------------------------------------------------- signing in


def test_a_wrong_password_and_an_unknown_name_are_told_alike(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        said = []
        for name in ("Ada", "Nobody"):
            with pytest.raises(WrongSecret) as caught:
                home.sign_in(name, WRONG)
            said.append((type(caught.value), caught.value.sentence))
        assert said[0] == said[1]


def test_a_wrong_password_and_an_unknown_name_take_alike(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        spent: dict[str, list[float]] = {"Ada": [], "Nobody": []}
        for number in range(24):
            for name, times in spent.items():
                began = time.perf_counter()
                with pytest.raises(WrongSecret):
                    home.sign_in(name, WRONG, network=f"n{number}-{name}")
                times.append(time.perf_counter() - began)
                with home.house.write() as session:
                    session.connection().exec_driver_sql("DELETE FROM attempt")
        known, unknown = median(spent["Ada"]), median(spent["Nobody"])
        assert min(known, unknown) > 0.4 * max(known, unknown)  # without the work: 0.05


def test_a_disabled_account_is_as_unknown(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada, ben = home.account(), home.account("Ben", OTHER)
        with home.house.write() as session:
            session.get_one(Account, ada).administrator = 1
        browser(home, ben, "b")
        accounts.set_disabled(home.house, ben, disabled=True)
        assert browsers(home) == set()
        with pytest.raises(WrongSecret):
            home.sign_in("Ben", OTHER)
        accounts.set_disabled(home.house, ben, disabled=False)
        home.sign_in("Ben", OTHER)
        with pytest.raises(Conflict, match="last administrator"):
            accounts.set_disabled(home.house, ada, disabled=True)


def test_sign_in_is_in_the_log_of_the_house(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        with pytest.raises(WrongSecret):
            home.sign_in(password=WRONG, network="lan")
        home.sign_in(network="lan")
        with home.house.read() as session:
            lines = audit.house_entries(session, limit=2)
        assert [(line.event, line.detail["account"]) for line in lines] == [
            ("signin.ok", ada),
            ("signin.failed", ada),
        ]


def test_a_faster_box_raises_the_cost_at_the_next_sign_in(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        home.house.set_setting("password_cost", {"memory": 20480, "passes": 3, "lanes": 1})
        home.sign_in()
        row = accounts.account_named(home.house, "Ada")
        assert row is not None
        assert slots.cost_of(row.password_wrap) == slots.Cost(20480, 3, 1)
        home.sign_in()


# ---------------------------------------------------------------------- tries


def test_guessing_is_slowed_more_and_more_but_never_for_ever(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False) as now:
        home.account()
        ends, guesses, waits = NOON + timedelta(days=1), 0, []
        while clock.now() < ends:
            try:
                home.sign_in(password=WRONG, network=f"10.0.0.{guesses}")
            except WrongSecret:
                guesses += 1
            except TooManyTries as error:
                waits.append((error.after or ends) - clock.now())
                now.shift(waits[-1])
        assert 40 < guesses <= 52
        assert waits == sorted(waits)
        assert waits[-1] == timedelta(minutes=40)
        now.shift(timedelta(minutes=41))
        home.sign_in(network="10.0.1.1")


def test_the_wait_survives_a_restart(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        for _ in range(limits.SIGN_IN.free):
            with pytest.raises(WrongSecret):
                home.sign_in(password=WRONG)
        home.reopen()
        with pytest.raises(TooManyTries, match="wait"):
            home.sign_in()


def test_the_owner_gets_in_at_home_while_somebody_guesses_elsewhere(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        home.sign_in(network="home")
        for _ in range(limits.SIGN_IN.free):
            with pytest.raises(WrongSecret):
                home.sign_in(password=WRONG, network="elsewhere")
        with pytest.raises(TooManyTries):
            home.sign_in(network="elsewhere")
        home.sign_in(network="home")


def test_one_network_cannot_try_many_names_without_end(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        with pytest.raises(TooManyTries):  # noqa: PT012 - which of the tries is refused does not matter
            for number in range(limits.NETWORK.free + 1):
                with pytest.raises(WrongSecret):
                    home.sign_in(f"name{number}", WRONG, network="one")


def test_guesses_at_the_same_instant_are_all_counted(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        refused: list[type[BaseException]] = []

        def guess() -> None:
            try:
                home.sign_in(password=WRONG)
            except (WrongSecret, TooManyTries) as error:
                refused.append(type(error))

        threads = [threading.Thread(target=guess) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused.count(WrongSecret) <= limits.SIGN_IN.free + 1
        assert len(refused) == 12


def test_a_right_password_forgets_the_wrong_ones(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        for _ in range(3):
            for _ in range(limits.SIGN_IN.free - 1):
                with pytest.raises(WrongSecret):
                    home.sign_in(password=WRONG)
            home.sign_in()


def test_a_clock_set_back_does_not_lengthen_the_wait(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        limit = limits.Limit(free=1, first=10, most=10)
        with time_machine.travel(NOON, tick=False):
            limits.failed(home.house, "k")
        with time_machine.travel(NOON - timedelta(days=3650), tick=False):
            with pytest.raises(TooManyTries) as caught:
                limits.check(home.house, "k", limit)
            assert caught.value.after == clock.now() + timedelta(seconds=10)


def test_old_tries_are_forgotten_and_pruned(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False) as now:
        limit = limits.Limit(free=1, first=10, most=10)
        limits.failed(home.house, "k")
        now.shift(timedelta(hours=25))
        limits.check(home.house, "k", limit)
        limits.failed(home.house, "k")
        with home.house.read() as session:
            assert session.get_one(Attempt, "k").count == 1
        now.shift(timedelta(days=31))
        limits.take(home.house, [("other", limit)])
        with home.house.read() as session:
            assert session.get(Attempt, "k") is None
        limits.passed(home.house, "other")


def test_stepping_up_is_limited_too(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        accounts.verify_password(home.house, ada, PASSWORD)
        for _ in range(limits.SIGN_IN.free):
            with pytest.raises(WrongSecret):
                accounts.verify_password(home.house, ada, WRONG)
        with pytest.raises(TooManyTries):
            accounts.verify_password(home.house, ada, PASSWORD)
        with pytest.raises(NotFound):
            accounts.verify_password(home.house, "nobody", PASSWORD)


# ---------------------------------------------------------------------- the second factor


def test_a_code_is_asked_after_the_password_and_used_once(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False):
        ada = home.account()
        patient = home.patient(ada)
        totp = enrolled(home, ada)
        home.reopen()
        with pytest.raises(TotpNeeded):
            home.sign_in()
        assert not home.vaults.is_open(patient)
        home.sign_in(totp=totp.now())
        assert home.vaults.is_open(patient)
        with pytest.raises(WrongSecret, match="used already"):
            home.sign_in(totp=totp.now())
        with pytest.raises(WrongSecret):
            home.sign_in(password=WRONG, totp=totp.now())


def test_a_code_may_be_one_step_off_and_written_in_other_digits(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False) as now:
        ada = home.account()
        totp = enrolled(home, ada)
        now.shift(120)
        late = totp.at(clock.now() - timedelta(seconds=30))
        full_width = late.translate({ord(str(n)): chr(0xFF10 + n) for n in range(10)})
        accounts.verify_totp(home.house, ada, f" {full_width[:3]} {full_width[3:]} ")
        accounts.verify_totp(home.house, ada, totp.at(clock.now() + timedelta(seconds=30)))
        with pytest.raises(WrongSecret):
            accounts.verify_totp(home.house, ada, totp.at(clock.now() + timedelta(hours=1)))


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "12 34", "\uff11\uff12\uff13"])
def test_what_is_no_code_is_told(code: str) -> None:
    with pytest.raises(WrongSecret, match="six digits"):
        accounts.six_digits(code)


def test_wrong_codes_slow_the_factor_not_the_account(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False):
        ada = home.account()
        enrolled(home, ada)
        for _ in range(limits.TOTP.free):
            with pytest.raises(WrongSecret):
                home.sign_in(totp="000000")
        with pytest.raises(TooManyTries):
            home.sign_in(totp="000000")
        with pytest.raises(TotpNeeded):
            home.sign_in()


def test_a_code_wins_once_when_two_browsers_use_it_at_the_same_instant(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False):
        ada = home.account()
        code, won = enrolled(home, ada).now(), []

        def use() -> None:
            try:
                accounts.verify_totp(home.house, ada, code)
                won.append(1)
            except WrongSecret:
                pass

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [1]


def test_a_factor_counts_only_after_a_code_of_it_was_seen_in_time(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False) as now:
        ada = home.account()
        enrolment = accounts.enrol_totp(home.house, ada)
        assert "Homeport" in enrolment.uri
        assert not accounts.has_totp(home.house, ada)
        with pytest.raises(WrongSecret):
            accounts.confirm_totp(home.house, ada, "000000")
        now.shift(timedelta(minutes=16))
        with pytest.raises(Conflict, match="too long"):
            accounts.confirm_totp(home.house, ada, pyotp.TOTP(enrolment.secret).now())
        with pytest.raises(WrongSecret, match="No second factor"):
            accounts.verify_totp(home.house, ada, "000000")


def test_a_factor_is_dropped_by_a_code_or_by_the_kit_when_the_phone_is_lost(
    tmp_path: Path,
) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False) as now:
        ada = home.account()
        totp = enrolled(home, ada)
        with pytest.raises(WrongSecret):
            accounts.drop_totp(home.house, ada)
        now.shift(60)
        accounts.drop_totp(home.house, ada, code=totp.now())
        kit = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        now.shift(60)
        enrolled(home, ada)
        with pytest.raises(WrongSecret, match="not the recovery code"):
            accounts.drop_totp(home.house, ada, kit=slots.spell_kit(bytes(20)))
        accounts.drop_totp(home.house, ada, kit=kit)
        assert not accounts.has_totp(home.house, ada)


# ---------------------------------------------------------------------- passwords that change


def test_a_new_password_ends_the_other_sessions_and_keeps_the_records(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        write_down(home.vaults.get(patient), "kept")
        browser(home, ada, "this")
        browser(home, ada, "other")
        accounts.change_password(home.house, home.vaults, ada, PASSWORD, OTHER, keep_session="this")
        assert browsers(home) == {"this"}
        home.reopen()
        with pytest.raises(WrongSecret):
            home.sign_in()
        home.sign_in(password=OTHER)
        assert written(home.vaults.get(patient)) == {"kept"}


def test_a_refused_new_password_changes_nothing(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        with pytest.raises(InvalidInput):
            accounts.change_password(home.house, home.vaults, ada, PASSWORD, "short")
        with pytest.raises(WrongSecret):
            accounts.change_password(home.house, home.vaults, ada, WRONG, OTHER)
        home.sign_in()


def test_the_slots_files_carry_the_new_password_also_of_a_sealed_vault(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        home.vaults.seal(patient)
        accounts.change_password(home.house, home.vaults, ada, PASSWORD, OTHER)
        (slot,) = home.vaults.slots_of(patient).current.slots
        assert slots.unwrap(slot.wraps[0], OTHER).public == slot.public_key
        with pytest.raises(WrongSecret):
            slots.unwrap(slot.wraps[0], PASSWORD)
        home.sign_in(password=OTHER)
        assert home.house.warnings(patient) == []


# ---------------------------------------------------------------------- the recovery kit


def test_the_kit_sets_a_new_password_once(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        patient = home.patient(ada)
        write_down(home.vaults.get(patient), "kept")
        kit = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        accounts.confirm_kit(home.house, ada)
        browser(home, ada, "other")
        home.reopen()
        messy = kit.lower().replace("-", " ")
        assert accounts.recover(home.house, home.vaults, "ada", messy, OTHER) == ada
        assert browsers(home) == set()
        home.sign_in(password=OTHER)
        assert written(home.vaults.get(patient)) == {"kept"}
        assert not accounts.get_account(home.house, ada).has_kit
        with pytest.raises(WrongSecret):
            accounts.recover(home.house, home.vaults, "ada", kit, PASSWORD)


def test_a_typo_in_the_kit_is_told_and_not_counted(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        kit = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        groups = kit.split("-")
        groups[2] = ("A" if groups[2][0] != "A" else "B") + groups[2][1:]  # one typo never hides
        for _ in range(10):
            with pytest.raises(WrongSecret, match="group 3"):
                accounts.recover(home.house, home.vaults, "Ada", "-".join(groups), OTHER)
        accounts.recover(home.house, home.vaults, "Ada", kit, OTHER)


def test_guessing_kits_is_limited_and_tells_no_names(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.account()
        guess, said = slots.spell_kit(bytes(20)), set()
        for name in ("Ada", "Nobody"):
            for _ in range(limits.KIT.free):
                with pytest.raises(WrongSecret) as caught:
                    accounts.recover(home.house, home.vaults, name, guess, OTHER)
                said.add(caught.value.sentence)
            with pytest.raises(TooManyTries):
                accounts.recover(home.house, home.vaults, name, guess, OTHER)
        assert len(said) == 1


def test_the_older_kit_works_until_the_new_one_is_confirmed(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        with pytest.raises(Conflict):
            accounts.confirm_kit(home.house, ada)
        first = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        accounts.confirm_kit(home.house, ada)
        second = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        row = accounts.account_of(home.house, ada)
        for kit in (first, second):
            assert accounts._by_kit(home.house, row, slots.read_kit(kit))
        accounts.confirm_kit(home.house, ada)
        row = accounts.account_of(home.house, ada)
        assert accounts._by_kit(home.house, row, slots.read_kit(first)) is None
        assert accounts._by_kit(home.house, row, slots.read_kit(second))
        assert accounts.get_account(home.house, ada).kit_confirmed_at


def test_the_kit_does_not_skip_the_second_factor(tmp_path: Path) -> None:
    with Home(tmp_path) as home, time_machine.travel(NOON, tick=False):
        ada = home.account()
        kit = accounts.make_kit(home.house, home.vaults, ada, PASSWORD)
        enrolled(home, ada)
        accounts.recover(home.house, home.vaults, "Ada", kit, OTHER)
        with pytest.raises(TotpNeeded):
            home.sign_in(password=OTHER)


# ---------------------------------------------------------------------- patients


def test_the_own_record_comes_first_and_demo_last(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        for name, role, demo in (
            ("Demo", "proxy", True),
            ("Child", "proxy", False),
            ("Ada", "self", False),
        ):
            accounts.create_patient(
                home.house, home.vaults, name=name, account_id=ada, role=role, demo=demo
            )
        views = accounts.patients_of(home.house, ada)
        assert [(view.name, view.demo) for view in views] == [
            ("Ada", False),
            ("Child", False),
            ("Demo", True),
        ]
        assert len(accounts.all_patients(home.house)) == 3


def test_a_patient_needs_a_name_a_colour_and_somebody_who_acts(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        ada = home.account()
        for wrong in ({"name": ""}, {"colour": 9}, {"role": "viewer"}):
            with pytest.raises(InvalidInput):
                accounts.create_patient(
                    home.house, home.vaults, **{"name": "A", "account_id": ada, **wrong}
                )
        assert accounts.patients_of(home.house, ada) == []
        assert list(home.house.vaults_folder.iterdir()) == []
