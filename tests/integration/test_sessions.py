"""Who is signed in: ids, cookies, time limits, sign-out, and the second step of delicate things."""

from datetime import timedelta

import pyotp
import pytest
import time_machine

from phr import clock
from phr.store import accounts, sessions
from tests.cast import PASSWORDS, Cast, csrf_in, sign_in


def test_signing_in_leads_to_the_page_that_was_asked_for(cast: Cast):
    browser = cast.browser()
    asked = browser.get("/account?x=1")
    assert asked.status_code == 303
    assert asked.headers["location"] == "/signin?next=/account%3Fx%3D1"
    page = browser.get(asked.headers["location"])
    form = {"name": "Ada", "password": PASSWORDS["Ada"], "next": "/account?x=1"}
    answer = browser.post("/signin", data=form | {"csrf": csrf_in(page.text)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/account?x=1")
    assert "Ada" in browser.get("/account").text


def test_a_planted_session_id_is_not_taken_over_at_sign_in(cast: Cast):
    browser = cast.browser()
    browser.cookies.set("hp", "planted-by-somebody-else")
    sign_in(browser, "Ada")
    other = cast.browser()
    other.cookies.set("hp", "planted-by-somebody-else")
    assert other.get("/account").status_code == 303


def test_each_sign_in_gets_a_new_id_and_the_old_one_is_dead(cast: Cast):
    browser = cast.browser("Ada")
    first = browser.cookies["hp"]
    page = browser.get("/account")
    cast.appliance.vaults.seal(cast.patients["Ada"])
    token = csrf_in(browser.get("/unlock").text)
    answer = browser.post("/unlock", data={"csrf": token, "password": PASSWORDS["Ada"]})
    assert answer.status_code == 303
    assert page.status_code == 200
    assert browser.cookies["hp"] != first
    thief = cast.browser()
    thief.cookies.set("hp", first)
    assert thief.get("/account").status_code == 303
    assert browser.get("/account").status_code == 200


def test_the_session_cookie_is_http_only_and_lax(cast: Cast):
    browser = cast.browser()
    token = csrf_in(browser.get("/signin").text)
    form = {"csrf": token, "name": "Ada", "password": PASSWORDS["Ada"]}
    cookies = browser.post("/signin", data=form).headers.get_list("set-cookie")
    session = next(each for each in cookies if each.startswith("hp="))
    assert "; HttpOnly" in session
    assert "; SameSite=Lax" in session
    assert "; Path=/" in session


def test_an_idle_browser_is_signed_out(cast: Cast):
    browser = cast.browser("Ada")
    minutes = cast.appliance.settings.idle_minutes
    with time_machine.travel(clock.now() + timedelta(minutes=minutes + 1), tick=False):
        assert browser.get("/account").status_code == 303


def test_a_busy_browser_is_signed_out_after_the_absolute_limit(cast: Cast):
    browser, start = cast.browser("Ada"), clock.now()
    hours = cast.appliance.settings.session_hours
    step = timedelta(minutes=cast.appliance.settings.idle_minutes - 1)
    at = start
    while at + step < start + timedelta(hours=hours):
        at += step
        with time_machine.travel(at, tick=False):
            assert browser.get("/account").status_code == 200, at - start
    with time_machine.travel(start + timedelta(hours=hours, seconds=5), tick=False):
        assert browser.get("/account").status_code == 303


def test_signing_out_ends_the_session_and_clears_the_browser(cast: Cast):
    browser = cast.browser("Ada")
    old = browser.cookies["hp"]
    answer = browser.submit("/signout")
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    assert answer.headers["location"] == "/signin?said=out"
    thief = cast.browser()
    thief.cookies.set("hp", old)
    assert thief.get("/account").status_code == 303
    assert "You are signed out" in thief.get("/signin?said=out").text


def test_an_ended_session_answers_401_to_a_program(cast: Cast):
    browser = cast.browser("Ada")
    browser.headers["accept"] = "application/json"
    sessions.end_everybody(cast.appliance.house)
    answer = browser.get("/account")
    assert answer.status_code == 401
    assert "Please sign in" in answer.text


def test_an_expired_session_in_a_fragment_leads_the_whole_page_to_sign_in(cast: Cast):
    browser = cast.browser("Ada")
    sessions.end_everybody(cast.appliance.house)
    answer = browser.get("/account", headers={"hx-request": "true"})
    assert answer.headers["hx-redirect"] == "/signin"
    assert answer.text == ""


def test_changing_the_password_signs_other_browsers_out(cast: Cast):
    here, there = cast.browser("Ada"), cast.browser("Ada")
    new = "another battery of horses"
    form = {"current": PASSWORDS["Ada"], "password": new, "again": new}
    assert here.submit("/account/password", form).status_code == 303
    assert there.get("/account").status_code == 303
    assert here.get("/account").status_code == 200


def test_a_wrong_present_password_changes_nothing_and_says_so(cast: Cast):
    browser = cast.browser("Ada")
    form = {"current": "wrong", "password": "another battery of h", "again": "another battery of h"}
    answer = browser.submit("/account/password", form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    sign_in(cast.browser(), "Ada")


def test_one_other_session_can_be_ended_from_the_list(cast: Cast):
    here, there = cast.browser("Ada"), cast.browser("Ada")
    others = sessions.of_account(cast.appliance.house, cast.accounts["Ada"])
    mine = sessions.find(cast.appliance.house, here.cookies["hp"], idle=timedelta(hours=1))
    other = next(each for each in others if mine and each.public_id != mine.public_id)
    here.submit("/account/sessions/end", {"session": other.public_id})
    assert there.get("/account").status_code == 303
    assert here.get("/account").status_code == 200


def test_nobody_ends_a_session_of_somebody_else(cast: Cast):
    eve, ada = cast.browser("Eve"), cast.browser("Ada")
    (theirs,) = sessions.of_account(cast.appliance.house, cast.accounts["Ada"])
    eve.submit("/account/sessions/end", {"session": theirs.public_id})
    assert ada.get("/account").status_code == 200


def test_a_disabled_account_loses_access_at_once(cast: Cast):
    ada, cleo = cast.browser("Ada"), cast.browser("Cleo")
    ada.submit("/admin/account", {"account": cast.accounts["Cleo"], "state": "disabled"})
    assert cleo.get("/account").status_code == 303


# ------------------------------------------------------------------ step-up


def test_a_delicate_step_asks_for_the_password_and_then_does_what_was_typed(cast: Cast):
    browser = cast.browser("Ada")
    path = f"/p/{cast.patients['Ada']}/members/invite"
    with time_machine.travel(clock.now() + timedelta(minutes=6), tick=False):
        asked = browser.submit(path, {"role": "viewer"})
        assert asked.status_code == 403
        assert "Please confirm that it is you" in asked.text
        assert '<input type="hidden" name="role" value="viewer">' in asked.text
        old = browser.cookies["hp"]
        form = {"csrf": csrf_in(asked.text), "role": "viewer", "confirm.password": PASSWORDS["Ada"]}
        assert browser.post(path, data=form).status_code == 303
        assert browser.cookies["hp"] != old
        assert "Invitation code" in browser.get(f"/p/{cast.patients['Ada']}/person").text


def test_a_wrong_password_on_the_confirm_page_keeps_what_was_typed(cast: Cast):
    browser = cast.browser("Ada")
    path = f"/p/{cast.patients['Ada']}/members/invite"
    with time_machine.travel(clock.now() + timedelta(minutes=6), tick=False):
        answer = browser.submit(path, {"role": "viewer", "confirm.password": "wrong"})
    assert answer.status_code == 403
    assert 'role="alert"' in answer.text
    assert '<input type="hidden" name="role" value="viewer">' in answer.text
    assert "wrong" not in answer.text.split("<form")[-1].split('type="password"')[-1]


def test_the_confirm_page_asks_for_a_code_where_a_second_factor_is_enrolled(cast: Cast):
    browser = cast.browser("Ada")
    secret = _enrol(browser)
    path = f"/p/{cast.patients['Ada']}/members/invite"
    with time_machine.travel(clock.now() + timedelta(minutes=6), tick=False):
        asked = browser.submit(path, {"role": "viewer"})
        assert 'name="confirm.totp"' in asked.text
        form = {"csrf": csrf_in(asked.text), "role": "viewer"}
        form["confirm.totp"] = pyotp.TOTP(secret).at(clock.now())
        assert browser.post(path, data=form).status_code == 303
        stepped = sessions.find(
            cast.appliance.house, browser.cookies["hp"], idle=timedelta(hours=1)
        )
    assert stepped is not None
    assert stepped.stepped_up_with == "totp"


def test_a_password_does_not_replace_the_code_on_the_confirm_page(cast: Cast):
    browser = cast.browser("Ada")
    _enrol(browser)
    path = f"/p/{cast.patients['Ada']}/members/invite"
    with time_machine.travel(clock.now() + timedelta(minutes=6), tick=False):
        form = {"role": "viewer", "confirm.password": PASSWORDS["Ada"]}
        assert browser.submit(path, form).status_code == 403


def _enrol(browser) -> str:
    browser.submit("/account/totp")
    page = browser.get("/account/totp").text
    secret = page.split('id="secret" class="code" value="')[1].split('"')[0]
    code = pyotp.TOTP(secret).at(clock.now() - timedelta(seconds=30))
    answer = browser.post("/account/totp/confirm", data={"csrf": csrf_in(page), "code": code})
    assert answer.status_code == 303
    return secret


def test_signing_in_with_a_second_factor_takes_two_steps_and_no_code_twice(cast: Cast):
    secret = _enrol(cast.browser("Ada"))
    browser = cast.browser()
    token = csrf_in(browser.get("/signin").text)
    form = {"csrf": token, "name": "Ada", "password": PASSWORDS["Ada"]}
    assert browser.post("/signin", data=form).headers["location"] == "/signin/code"
    page = browser.get("/signin/code").text
    assert PASSWORDS["Ada"] not in page
    code = pyotp.TOTP(secret).at(clock.now())
    answer = browser.post("/signin/code", data={"csrf": csrf_in(page), "code": code})
    assert answer.status_code == 303
    assert browser.get("/account").status_code == 200

    again = cast.browser()
    token = csrf_in(again.get("/signin").text)
    again.post("/signin", data=form | {"csrf": token})
    page = again.get("/signin/code").text
    replayed = again.post("/signin/code", data={"csrf": csrf_in(page), "code": code})
    assert replayed.status_code == 422
    assert again.get("/account").status_code == 303


@pytest.mark.parametrize(
    "elsewhere",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "\t//x"],
)
def test_sign_in_never_leads_to_a_foreign_address(cast: Cast, elsewhere: str):
    browser = cast.browser()
    token = csrf_in(browser.get("/signin").text)
    form = {"csrf": token, "name": "Ada", "password": PASSWORDS["Ada"], "next": elsewhere}
    assert browser.post("/signin", data=form).headers["location"] == "/"


def test_unknown_name_and_wrong_password_answer_the_same(cast: Cast):
    pages = []
    for name in ("Ada", "Nobody"):
        browser = cast.browser()
        token = csrf_in(browser.get("/signin").text)
        form = {"csrf": token, "name": name, "password": "wrong wrong wrong"}
        answer = browser.post("/signin", data=form)
        assert answer.status_code == 422
        token = csrf_in(answer.text)
        pages.append(answer.text.replace(name, "NAME").replace(token, "TOKEN"))
    assert pages[0] == pages[1]


def test_guessing_makes_wait_but_a_known_place_still_gets_in(cast: Cast):
    sign_in(cast.browser(), "Ada")
    guesser = cast.browser()
    token = csrf_in(guesser.get("/signin").text)
    form = {"csrf": token, "name": "Cleo", "password": "wrong wrong wrong"}
    answers = [guesser.post("/signin", data=form) for _ in range(7)]
    assert answers[-1].status_code == 429
    assert "Please wait" in answers[-1].text
    sign_in(cast.browser(), "Ada")


def test_the_recovery_kit_sets_a_new_password_and_ends_every_session(cast: Cast):
    appliance = cast.appliance
    ada, account_id = cast.browser("Ada"), cast.accounts["Ada"]
    kit = accounts.make_kit(appliance.house, appliance.vaults, account_id, PASSWORDS["Ada"])
    stranger = cast.browser()
    new = "a whole new set of words"
    form = {"name": "Ada", "kit": kit.lower(), "password": new, "again": new}
    answer = stranger.submit("/recover", form, page="/recover")
    assert answer.headers["location"] == "/signin?said=recovered"
    assert ada.get("/account").status_code == 303
    used = stranger.submit("/recover", form, page="/recover")
    assert used.status_code == 422


def test_a_typo_in_the_kit_names_its_group(cast: Cast):
    appliance = cast.appliance
    kit = accounts.make_kit(
        appliance.house, appliance.vaults, cast.accounts["Ada"], PASSWORDS["Ada"]
    )
    groups = kit.split("-")
    groups[2] = ("B" if groups[2][0] != "B" else "C") + groups[2][1:]
    new = "a whole new set of words"
    form = {"name": "Ada", "kit": "-".join(groups), "password": new, "again": new}
    answer = cast.browser().submit("/recover", form, page="/recover")
    assert "typo in group 3" in answer.text
