"""First run in the browser: code, account, recovery kit, how it opens, the first record."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from phr import clock
from phr.appliance import Appliance
from phr.store import accounts
from phr.web.app import create_home_app
from tests.cast import HOME, Browser, csrf_in

PASSWORD = "five quiet words in a row"


@pytest.fixture
def fresh(appliance: Appliance) -> Iterator[tuple[Browser, str]]:
    """A browser at an empty box, and the code from its log."""
    code = appliance.new_setup_code()
    assert code is not None
    with Browser(create_home_app(appliance), HOME) as browser:
        yield browser, code


def claim(browser: Browser, code: str, **more: str) -> Any:
    form = {
        "code": code,
        "name": "Ada",
        "password": PASSWORD,
        "again": PASSWORD,
        "whose": "me",
        "colour": "2",
    }
    return browser.submit("/setup", form | more, page="/setup")


def hold_kit(browser: Browser) -> Any:
    """Type the two groups back that the page asks for."""
    page = browser.get("/setup/kit").text
    groups = re.findall(r"<code>(\w+)</code>", page)
    asked = re.findall(r'name="group(\d)"', page)
    form = {f"group{number}": groups[int(number) - 1].lower() for number in asked}
    return browser.post("/setup/kit", data=form | {"csrf": csrf_in(page)})


def test_every_page_of_an_empty_box_leads_to_set_up(fresh: Any):
    browser, _ = fresh
    for path in ("/", "/signin", "/account", "/admin", "/p/0/results", "/join"):
        assert browser.get(path).headers["location"] == "/setup", path
    assert browser.get("/healthz").status_code == 200


def test_from_an_empty_box_to_the_choice_of_a_source_in_three_forms(
    fresh: Any, appliance: Appliance
):
    browser, code = fresh
    assert claim(browser, code).headers["location"] == "/setup/kit"
    assert hold_kit(browser).headers["location"] == "/setup/opening"
    chosen = browser.submit("/setup/opening", {"opens": "itself"}, page="/setup/opening")
    assert chosen.headers["location"] == "/setup/start"
    (person,) = accounts.all_patients(appliance.house)
    page = browser.get("/setup/start").text
    assert f'href="/p/{person.id}/connections/add"' in page
    assert f'href="/p/{person.id}/files"' in page
    assert "Try the demo" in page
    assert (person.name, person.colour) == ("Ada", 2)
    assert appliance.vaults.opens_by_itself(person.id)


def test_a_record_for_a_child_makes_its_keeper_act_for_it(fresh: Any, appliance: Appliance):
    browser, code = fresh
    claim(browser, code, whose="other", person="Ben")
    (account,) = accounts.list_accounts(appliance.house)
    (person,) = accounts.patients_of(appliance.house, account.id)
    assert (person.name, person.role) == ("Ben", "proxy")
    assert account.administrator


def test_set_up_is_closed_for_ever_after(fresh: Any):
    browser, code = fresh
    claim(browser, code)
    again = Browser(browser._transport.app, HOME)
    assert again.get("/setup").status_code == 404
    token = again.csrf("/signin")
    form = {"csrf": token, "code": code, "name": "Eve", "password": PASSWORD, "again": PASSWORD}
    assert again.post("/setup", data=form).status_code == 404


def test_a_wrong_code_five_times_makes_wait(fresh: Any, appliance: Appliance):
    browser, code = fresh
    for _ in range(5):
        answer = claim(browser, "AAAA-BBBB-CCCC")
        assert answer.status_code == 422
        assert "not the code from the log" in answer.text
    assert claim(browser, code).status_code == 429
    assert appliance.needs_setup()
    with time_machine.travel(clock.now() + timedelta(minutes=11), tick=False):
        assert claim(browser, code).status_code == 303


def test_what_was_typed_stays_when_the_passwords_differ(fresh: Any, appliance: Appliance):
    browser, code = fresh
    answer = claim(browser, code, again="something else entirely")
    assert answer.status_code == 422
    assert "The two passwords differ" in answer.text
    assert f'value="{code}"' in answer.text
    assert PASSWORD not in answer.text
    assert appliance.needs_setup()


def test_a_short_password_is_refused_before_anything_is_made(fresh: Any, appliance: Appliance):
    browser, code = fresh
    assert claim(browser, code, password="short", again="short").status_code == 422
    assert appliance.needs_setup()
    assert appliance.vaults.ids() == []


def test_a_wrong_group_of_the_kit_does_not_go_on(fresh: Any):
    browser, code = fresh
    claim(browser, code)
    page = browser.get("/setup/kit").text
    asked = re.findall(r'name="group(\d)"', page)
    form = {f"group{number}": "AAAAA" for number in asked} | {"csrf": csrf_in(page)}
    answer = browser.post("/setup/kit", data=form)
    assert answer.status_code == 422
    assert f"Group {asked[0]} is not the same" in answer.text


def test_no_record_opens_before_the_kit_is_confirmed(fresh: Any, appliance: Appliance):
    browser, code = fresh
    claim(browser, code)
    (person,) = accounts.all_patients(appliance.house)
    for path in ("", "files", "connections/add", "own"):
        answer = browser.get(f"/p/{person.id}/{path}")
        assert answer.headers["location"] == "/setup/kit", path
    brought = browser.post(f"/p/{person.id}/files", data={"csrf": browser.csrf("/setup/kit")})
    assert brought.headers["location"] == "/setup/kit"
    hold_kit(browser)
    assert browser.get(f"/p/{person.id}/files").status_code == 200


def test_the_kit_shown_in_set_up_opens_the_account_when_the_password_is_forgotten(fresh: Any):
    browser, code = fresh
    claim(browser, code)
    kit = "-".join(re.findall(r"<code>(\w+)</code>", browser.get("/setup/kit").text))
    hold_kit(browser)
    browser.submit("/signout", page="/setup/start")
    new = "another row of quiet words"
    form = {"name": "Ada", "kit": kit, "password": new, "again": new}
    browser.submit("/recover", form, page="/recover")
    signed_in = browser.submit("/signin", {"name": "Ada", "password": new}, page="/signin")
    assert signed_in.status_code == 303
    assert browser.get("/account").status_code == 200


def test_the_honest_sentence_stands_where_the_choice_is_made(fresh: Any):
    browser, code = fresh
    claim(browser, code)
    page = browser.get("/setup/opening").text
    assert "Whoever controls this running server can read an open vault" in page
    assert "“opens by itself” gives the house the key" in page


def test_a_code_expires_and_a_restart_makes_a_new_one(open_appliance: Callable[..., Appliance]):
    appliance = open_appliance()
    code = appliance.new_setup_code()
    assert code is not None
    with Browser(create_home_app(appliance), HOME) as browser:
        later = clock.now() + timedelta(hours=25)
        with time_machine.travel(later, tick=False):
            assert claim(browser, code).status_code == 422
            new = appliance.new_setup_code()
            assert new is not None
            assert new != code
            assert claim(browser, new).status_code == 303
