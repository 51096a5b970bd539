"""People and members in the browser: adding, inviting, confirming, removing, sealing, shredding."""

import re
from datetime import timedelta
from typing import Any

import time_machine

from phr import clock
from phr.store import accounts, audit, members
from tests.cast import PASSWORDS, Browser, Cast, csrf_in, sign_in

NEW_PASSWORD = "quite a few new words here"


def invitation_code(browser: Browser, patient_id: str, role: str = "viewer") -> str:
    browser.submit(f"/p/{patient_id}/members/invite", {"role": role})
    page = browser.get(f"/p/{patient_id}/person").text
    found = re.search(r'id="code" class="code" value="([^"]+)"', page)
    assert found, page
    return found[1]


def join_as_new(cast: Cast, code: str, name: str = "Dora") -> Browser:
    browser = cast.browser()
    form = {"code": code, "name": name, "password": NEW_PASSWORD, "again": NEW_PASSWORD}
    assert browser.submit("/join", form, page="/join").headers["location"] == "/join/kit"
    return browser


def words_of(browser: Browser) -> str:
    found = re.search(r'class="paper stack code words">([^<]+)<', browser.get("/join/wait").text)
    assert found
    return found[1]


def let_in(cast: Cast, words: str, patient: str = "Ada") -> Any:
    patient_id = cast.patients[patient]
    ada = cast.browser("Ada")
    (waiting,) = members.invitations(cast.appliance.house, patient_id)
    form = {"invitation": waiting.id, "fingerprint": words}
    return ada.submit(f"/p/{patient_id}/members/confirm", form)


def test_a_child_gets_a_record_of_its_own(cast: Cast):
    ada = cast.browser("Ada")
    form = {"name": "Fay", "whose": "other", "colour": "3", "opens": "1"}
    answer = ada.submit("/household/add", form)
    assert answer.status_code == 303
    made = next(p for p in accounts.all_patients(cast.appliance.house) if p.name == "Fay")
    assert (made.colour, made.is_open) == (3, True)
    assert cast.appliance.vaults.opens_by_itself(made.id)
    assert "Fay" in ada.get("/household").text
    assert "Fay" not in cast.browser("Cleo").get("/household").text


def test_an_invited_stranger_becomes_a_member_after_the_words_were_compared(cast: Cast):
    code = invitation_code(cast.browser("Ada"), cast.patients["Ada"])
    dora = join_as_new(cast, code)
    path = f"/p/{cast.patients['Ada']}/person"
    assert dora.get(path).status_code == 404
    assert let_in(cast, words_of(dora)).status_code == 303
    assert dora.get(path).status_code == 200


def test_wrong_words_let_nobody_in(cast: Cast):
    dora = join_as_new(cast, invitation_code(cast.browser("Ada"), cast.patients["Ada"]))
    answer = let_in(cast, "AAAA BBBB CCCC DDDD")
    assert answer.status_code == 422
    assert "not the four groups on their screen" in answer.text
    assert dora.get(f"/p/{cast.patients['Ada']}/person").status_code == 404


def test_a_wrong_code_makes_no_account(cast: Cast):
    browser = cast.browser()
    form = {"code": "wrong", "name": "Mallory", "password": NEW_PASSWORD, "again": NEW_PASSWORD}
    answer = browser.submit("/join", form, page="/join")
    assert answer.status_code == 422
    assert accounts.account_named(cast.appliance.house, "Mallory") is None


def test_somebody_with_an_account_joins_by_code_alone(cast: Cast):
    code = invitation_code(cast.browser("Ada"), cast.patients["Ben"])
    eve = cast.browser("Eve")
    assert eve.submit("/join", {"code": code}).headers["location"] == "/join/wait"
    assert let_in(cast, words_of(eve), "Ben").status_code == 303
    assert eve.get(f"/p/{cast.patients['Ben']}/person").status_code == 200


def test_a_removed_member_loses_access_at_once_and_the_key_changes(cast: Cast):
    cleo, ada = cast.browser("Cleo"), cast.browser("Ada")
    path = f"/p/{cast.patients['Ada']}"
    assert cleo.get(f"{path}/person").status_code == 200
    key = cast.vault("Ada").key
    answer = ada.submit(f"{path}/members/remove", {"account": cast.accounts["Cleo"]})
    assert answer.status_code == 303
    assert cleo.get(f"{path}/person").status_code == 404
    assert cast.vault("Ada").key != key
    assert "stay readable to them" in ada.get(f"{path}/person").text


def test_a_withdrawn_invitation_is_dead(cast: Cast):
    ada = cast.browser("Ada")
    code = invitation_code(ada, cast.patients["Ada"])
    (waiting,) = members.invitations(cast.appliance.house, cast.patients["Ada"])
    ada.submit(f"/p/{cast.patients['Ada']}/members/withdraw", {"invitation": waiting.id})
    form = {"code": code, "name": "Dora", "password": NEW_PASSWORD, "again": NEW_PASSWORD}
    assert cast.browser().submit("/join", form, page="/join").status_code == 422


def test_a_viewer_changes_nothing_about_members(cast: Cast):
    cleo, path = cast.browser("Cleo"), f"/p/{cast.patients['Ada']}"
    for part, form in (
        ("members/invite", {"role": "viewer"}),
        ("members/role", {"account": cast.accounts["Cleo"], "role": "proxy"}),
        ("members/remove", {"account": cast.accounts["Ada"]}),
        ("person", {"name": "Mine now"}),
        ("person/opens", {"opens": "itself"}),
        ("person/seal", {}),
        ("person/shred", {"name": "Ada"}),
    ):
        answer = cleo.submit(f"{path}/{part}", form)
        assert answer.status_code == 403, part
        assert "You may look at this record, but not change it." in answer.text


def test_nobody_raises_their_own_role_or_removes_the_person_themself(cast: Cast):
    ada, path = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/members"
    own = {"account": cast.accounts["Ada"]}
    assert ada.submit(f"{path}/role", own | {"role": "viewer"}).status_code == 403
    assert ada.submit(f"{path}/remove", own).status_code == 403


def test_a_viewer_may_be_let_act_and_set_back(cast: Cast):
    ada, cleo = cast.browser("Ada"), cast.browser("Cleo")
    path = f"/p/{cast.patients['Ada']}"
    form = {"account": cast.accounts["Cleo"], "role": "proxy"}
    assert ada.submit(f"{path}/members/role", form).status_code == 303
    assert cleo.submit(f"{path}/person", {"name": "Ada B."}).status_code == 303
    ada.submit(f"{path}/members/role", form | {"role": "viewer"})
    assert cleo.submit(f"{path}/person", {"name": "Ada C."}).status_code == 403


def test_a_member_may_leave(cast: Cast):
    cleo = cast.browser("Cleo")
    path = f"/p/{cast.patients['Ada']}"
    assert cleo.submit(f"{path}/members/leave").status_code == 303
    assert cleo.get(f"{path}/person").status_code == 404


def test_an_invitation_to_another_record_is_not_confirmed_here(cast: Cast):
    ada = cast.browser("Ada")
    dora = join_as_new(cast, invitation_code(ada, cast.patients["Ben"]))
    (waiting,) = members.invitations(cast.appliance.house, cast.patients["Ben"])
    form = {"invitation": waiting.id, "fingerprint": words_of(dora)}
    answer = ada.submit(f"/p/{cast.patients['Ada']}/members/confirm", form)
    assert answer.status_code == 404


def test_seal_now_asks_nothing_and_leads_every_page_to_unlock(cast: Cast):
    ada, path = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    with time_machine.travel(clock.now() + timedelta(minutes=10), tick=False):
        assert ada.submit(f"{path}/person/seal").status_code == 303
        answer = ada.get(f"{path}/results")
        assert answer.headers["location"] == f"/unlock?next={path}/results"
        assert "One record is sealed" in ada.get("/unlock").text
        assert ada.get("/readyz").status_code == 503
        form = {"password": PASSWORDS["Ada"], "next": f"{path}/person"}
        opened = ada.submit("/unlock", form, page="/unlock")
        assert opened.headers["location"] == f"{path}/person"
        assert ada.get("/readyz").status_code == 200


def test_letting_the_house_hold_the_key_asks_for_the_password(cast: Cast):
    ada, patient_id = cast.browser("Ada"), cast.patients["Ada"]
    path, vaults = f"/p/{patient_id}/person/opens", cast.appliance.vaults
    with time_machine.travel(clock.now() + timedelta(minutes=10), tick=False):
        assert ada.submit(path, {"opens": "sealed"}).status_code == 303
        assert not vaults.opens_by_itself(patient_id)
        asked = ada.submit(path, {"opens": "itself"})
        assert asked.status_code == 403
        assert not vaults.opens_by_itself(patient_id)
        form = {
            "csrf": csrf_in(asked.text),
            "opens": "itself",
            "confirm.password": PASSWORDS["Ada"],
        }
        assert ada.post(path, data=form).status_code == 303
        assert vaults.opens_by_itself(patient_id)


def test_destroying_a_record_needs_its_name_and_leaves_nothing(cast: Cast):
    ada, patient_id = cast.browser("Ada"), cast.patients["Ben"]
    path = f"/p/{patient_id}/person/shred"
    assert ada.submit(path, {"name": "Bob"}).status_code == 422
    assert cast.appliance.vaults.is_open(patient_id)
    assert ada.submit(path, {"name": "Ben"}).status_code == 303
    assert ada.get(f"/p/{patient_id}/person").status_code == 404
    assert not list(cast.appliance.house.vaults_folder.glob(f"{patient_id}*"))


def test_the_person_switcher_names_everybody_once(cast: Cast):
    ada = cast.browser("Ada")
    page = ada.get(f"/p/{cast.patients['Ada']}/person").text
    switcher = page.split('<details class="who">')[1].split("</details>")[0]
    assert switcher.count(">Ada<") == 1
    assert f'href="/p/{cast.patients["Ben"]}/"' in switcher
    assert "you act for them" in switcher
    assert ">Eve<" not in page


def test_a_name_with_markup_is_shown_as_text(cast: Cast):
    ada = cast.browser("Ada")
    ada.submit("/household/add", {"name": "<script>alert(1)</script>"})
    page = ada.get("/household").text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_after_sign_in_the_own_record_comes_first(cast: Cast):
    browser = cast.browser()
    sign_in(browser, "Ada")
    assert browser.get("/").headers["location"] == f"/p/{cast.patients['Ada']}/"
    assert cast.browser("Cleo").get("/").headers["location"] == f"/p/{cast.patients['Ada']}/"


def test_who_was_let_in_is_led_on_and_not_asked_to_wait(cast: Cast):
    dora = join_as_new(cast, invitation_code(cast.browser("Ada"), cast.patients["Ada"]))
    assert "Now read these four groups out" in dora.get("/join/wait").text
    let_in(cast, words_of(dora))
    answer = dora.get("/join/wait")
    assert (answer.status_code, answer.headers["location"]) == (303, "/household")


def test_the_log_names_who_became_a_member_and_who_was_removed(cast: Cast):
    ada, patient = cast.browser("Ada"), cast.patients["Ada"]
    let_in(cast, words_of(join_as_new(cast, invitation_code(ada, patient))))
    dora = accounts.account_named(cast.appliance.house, "Dora")
    assert dora is not None
    appliance = cast.appliance
    by = cast.accounts["Ada"]
    members.remove_member(appliance.house, appliance.vaults, patient, dora.id, by=by)
    with cast.vault("Ada").read() as session:
        newest = audit.entries(session, limit=20)
    lines = {one.event: one.detail for one in newest[::-1]}
    for event in ("member.added", "member.removed"):
        assert (lines[event]["member"], lines[event]["role"]) == ("Dora", "viewer")


def test_a_viewer_of_an_empty_record_is_not_offered_what_a_viewer_may_not_do(cast: Cast):
    patient = cast.patients["Ada"]
    seen, own = (cast.browser(name).get(f"/p/{patient}/").text for name in ("Cleo", "Ada"))
    assert "Somebody who may change this record can connect a hospital" in seen
    assert "/connections/add" not in seen
    assert "/connections/add" in own
