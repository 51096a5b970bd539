"""Rows G of the list of bad inputs (docs/security-rows.md) that no other test covers."""

import re
import threading
from datetime import timedelta
from typing import Any

import pyotp
import pytest

from phr import clock
from phr.store import accounts, audit, limits
from phr.store.models import Handle
from tests.cast import PASSWORDS, PUBLIC, Browser, Cast, csrf_in
from tests.fixtures_sharing import ADA, Share, a_record, keep_all


@pytest.fixture
def share(cast: Cast) -> Share:
    keep_all(cast.vault("Ada"), "North Quay", a_record())
    return Share(cast.appliance, cast.vault("Ada"))  # type: ignore[arg-type]  # has house and vaults


# ------------------------------------------------------------------ guessing


LIMITS = [
    each
    for each in (limits.SIGN_IN, limits.SETUP, limits.TOTP, limits.KIT, limits.CODE)
    if isinstance(each, limits.Limit)
]


def guesses_of_a_day(limit: limits.Limit) -> int:
    """Return how many tries a patient attacker gets on the second day at one key."""
    tries, at = 0, 0.0
    while at < 2 * 86_400:
        wait = (
            0.0 if tries < limit.free else min(limit.first * 2 ** (tries - limit.free), limit.most)
        )
        at += wait
        tries += 1
    return tries


def test_two_days_of_patient_guessing_at_one_account_are_few_tries():
    """A known place and all others count apart: twice the number of one key (G1, R13)."""
    assert guesses_of_a_day(limits.SIGN_IN) / 2 * 2 <= 100
    assert all(guesses_of_a_day(each) <= 330 for each in LIMITS)


def test_a_thousand_guesses_from_many_places_and_names_are_counted_in_the_house(cast: Cast):
    """Rotating addresses does not help against one account, and a restart forgets nothing."""
    token, refused = "", 0
    for number in range(40):
        browser = Browser(cast.home, "http://127.0.0.1:8080", network=f"198.51.100.{number}")
        with browser:
            token = csrf_in(browser.get("/signin").text)
            typed = {"csrf": token, "name": "Ada", "password": f"guess {number}"}
            refused += browser.post("/signin", data=typed).status_code == 429
    assert refused >= 40 - limits.SIGN_IN.free - 1
    with cast.appliance.house.read() as session:
        rows = session.connection().exec_driver_sql("SELECT key, count FROM attempt").all()
    assert any("in" in key and count >= limits.SIGN_IN.free for key, count in rows)


def test_rotating_addresses_and_headers_buys_no_sixth_guess_at_a_link(cast: Cast, share: Share):
    link = share.link()
    path = link.url.removeprefix(PUBLIC)
    wrong = "000000" if link.code != "000000" else "111111"
    seen: list[int] = []

    def guess(number: int) -> None:
        lying = {"x-forwarded-for": f"10.0.0.{number}", "x-real-ip": f"10.0.1.{number}"}
        with Browser(cast.public, PUBLIC, network=f"203.0.113.{number}") as browser:
            page = browser.get(path, headers=lying).text
            if 'name="csrf"' not in page:
                return
            typed = {"csrf": csrf_in(page), "code": wrong}
            seen.append(browser.post(path, data=typed, headers=lying).status_code)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.count(403) == 4
    assert set(seen) <= {403, 410}
    with share.vault.read() as session:
        assert session.get_one(Handle, link.handle_id).tries_left == 0
        lines = [entry.event for entry in audit.entries(session, limit=200)]
    assert lines.count("link.wrong_code") == 5


# ------------------------------------------------------------------ factors


def second_factor(cast: Cast, name: str) -> pyotp.TOTP:
    """Switch a second factor on for somebody; return what makes its codes."""
    house = cast.appliance.house
    enrolled = accounts.enrol_totp(house, cast.accounts[name])
    codes = pyotp.TOTP(enrolled.secret)
    accounts.confirm_totp(house, cast.accounts[name], codes.at(clock.now()))
    return codes


def test_a_password_alone_takes_no_second_factor_away(cast: Cast, time_machine: Any):
    ada = cast.browser("Ada")
    second_factor(cast, "Ada")
    time_machine.move_to(clock.now() + timedelta(minutes=6), tick=True)
    made = ada.submit("/account/kit", {"password": PASSWORDS["Ada"]})
    assert made.headers.get("location") != "/account/kit"


def test_a_new_password_is_no_step_up_where_a_code_is_enrolled(cast: Cast, time_machine: Any):
    ada = cast.browser("Ada")
    second_factor(cast, "Ada")
    time_machine.move_to(clock.now() + timedelta(minutes=6), tick=True)
    new = "another quiet sentence here"
    typed = {"current": PASSWORDS["Ada"], "password": new, "again": new}
    ada.submit("/account/password", typed)
    export = ada.submit(f"/p/{cast.patients['Ada']}/files/export")
    assert "confirm.totp" in export.text


# ------------------------------------------------------------------ members and administrators


def test_a_viewer_cannot_raise_stay_or_share_by_any_verb(cast: Cast):
    cleo, base = cast.browser("Cleo"), f"/p/{cast.patients['Ada']}"
    tried = {
        "/members/role": {"account": cast.accounts["Cleo"], "role": "proxy"},
        "/members/invite": {"role": "proxy"},
        "/members/remove": {"account": cast.accounts["Ada"]},
        "/members/confirm": {"invitation": "x", "fingerprint": "x"},
        "/person/opens": {"opens": "itself"},
        "/person/shred": {"name": "Ada"},
        "/share": {"do": "link"},
        "/files/export": {},
    }
    for path, typed in tried.items():
        assert cleo.submit(base + path, typed).status_code == 403, path
    ada = cast.browser("Ada")
    removed = ada.submit(f"{base}/members/remove", {"account": cast.accounts["Cleo"]})
    assert removed.status_code == 303
    for path in ("/", "/timeline", "/files", "/person", "/grants", "/activity"):
        assert cleo.get(base + path).status_code == 404, path
    for path, typed in tried.items():
        assert cleo.submit(base + path, typed).status_code == 404, path


def test_who_acts_for_somebody_makes_no_second_person_of_the_record(cast: Cast):
    """A proxy could otherwise give an accomplice a place that nobody may take away."""
    ada = cast.browser("Ada")
    answer = ada.submit(f"/p/{cast.patients['Ada']}/members/invite", {"role": "self"})
    assert answer.status_code == 409


def test_an_administrator_who_is_no_member_gets_nothing_of_a_record(cast: Cast):
    keep_all(cast.vault("Eve"), "North Quay", a_record())
    ada = cast.browser("Ada")
    ada.submit("/admin/backup")
    for path in ("/admin", "/admin/check", "/household", "/account"):
        assert not re.search("Penicillin|Asthma|Juniper|Sample", ada.get(path).text)
    cast.appliance.vaults.seal(cast.patients["Eve"])
    folder = cast.appliance.settings.data
    held = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    for word in (b"Penicillin", b"Asthma", b"Hiddendepression", b"Secretville"):
        assert word not in held


# ------------------------------------------------------------------ links


def test_what_travels_onward_from_a_doctors_page_holds_no_secret(cast: Cast, share: Share):
    link = share.link()
    path = link.url.removeprefix(PUBLIC)
    secret = path.partition(".")[2]
    with Browser(cast.public, PUBLIC) as doctor:
        form = doctor.get(path)
        assert form.headers["referrer-policy"] == "same-origin"
        bound = doctor.post(path, data={"csrf": csrf_in(form.text), "code": link.code})
        assert secret not in bound.headers["location"]
        page = doctor.get(bound.headers["location"])
        assert secret not in page.text + str(page.headers)
        cookie = bound.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
    with Browser(cast.public, PUBLIC) as friend:
        assert friend.get(bound.headers["location"]).status_code == 404


def test_a_stopped_link_stays_stopped_whatever_is_pressed(cast: Cast, share: Share):
    link = share.link()
    cookie = share.claimed(link)
    ada, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    assert ada.submit(f"{base}/grants/{link.grant_id}/stop").status_code == 303
    for verb in ("resume", "extend", "code", "device", "pause"):
        answer = ada.submit(f"{base}/grants/{link.grant_id}/{verb}", {"hours": "720"})
        assert answer.status_code in {409, 410}, verb
    with Browser(cast.public, PUBLIC) as doctor:
        doctor.cookies.set(f"s-{link.handle_id}", cookie, domain="127.0.0.1")
        for path in ("", "/print", "/record.json", "/results", "/events"):
            assert doctor.get(f"/s/{link.handle_id}{path}").status_code == 410, path


def test_one_tick_of_a_record_that_is_no_id_shares_nothing_more(cast: Cast, share: Share):
    ada = cast.browser("Ada")
    typed = {"what": "chosen", "private": "x' OR 1=1 --", "do": "preview", "whom": "Dr. Pell"}
    page = ada.submit(f"/p/{cast.patients['Ada']}/share", typed)
    assert page.status_code == 200
    assert "Hiddendepression" not in page.text
    assert ADA["name"] in page.text
