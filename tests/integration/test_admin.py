"""This Homeport, for who runs it: accounts, self-check, backups put back, the demo removed."""

import re

from phr.store import accounts, backup
from phr.store.models import MemberRole
from tests.cast import PASSWORDS, Cast, sign_in

WORDS = "restore this record"


def put_back_address(cast: Cast, name: str) -> str:
    page = cast.browser("Ada").get("/admin").text
    found = re.search(rf'href="(/admin/restore/{cast.patients[name]}/[^"]+)"', page)
    assert found, page
    return found[1]


def test_the_page_names_accounts_and_backups_and_nothing_of_a_record(cast: Cast):
    page = cast.browser("Ada").get("/admin").text
    assert "Cleo" in page
    assert "There is no backup yet." in page


def test_backing_up_now_verifies_each_open_record(cast: Cast):
    ada = cast.browser("Ada")
    cast.appliance.vaults.seal(cast.patients["Ben"])
    answer = ada.submit("/admin/backup")
    assert answer.status_code == 303
    page = ada.get("/admin").text
    assert "2 backed up and verified. 1 sealed" in page
    assert page.count(">Put back<") == 2


def test_putting_a_backup_back_needs_the_words_and_signs_members_out(cast: Cast):
    ada, cleo = cast.browser("Ada"), cast.browser("Cleo")
    appliance, patient_id = cast.appliance, cast.patients["Ada"]
    ada.submit("/admin/backup")
    accounts.set_person(appliance.house, appliance.vaults, patient_id, name="Ada changed")
    address = put_back_address(cast, "Ada")
    ada = cast.browser("Ada")
    assert ada.submit(address, {"words": "yes"}).status_code == 422
    assert ada.get(address).status_code == 200
    answer = ada.submit(address, {"words": WORDS.title()})
    assert answer.status_code == 200
    assert "restored from the backup of" in answer.text
    assert cleo.get("/account").status_code == 303
    assert ada.get("/account").status_code == 303
    sign_in(ada, "Ada")
    page = ada.get(f"/p/{patient_id}/person").text
    assert "restored from the backup of" in page
    ada.submit(f"/p/{patient_id}/person/read")
    assert "restored from the backup of" not in ada.get(f"/p/{patient_id}/person").text


def test_a_sealed_record_is_put_back_by_a_members_password(cast: Cast):
    ada = cast.browser("Ada")
    ada.submit("/admin/backup")
    cast.appliance.vaults.seal(cast.patients["Eve"])
    address = put_back_address(cast, "Eve")
    assert ada.submit(address, {"words": WORDS}).status_code == 422
    wrong = ada.submit(address, {"words": WORDS, "member": "not the password at all"})
    assert wrong.status_code == 422
    answer = ada.submit(address, {"words": WORDS, "member": PASSWORDS["Eve"]})
    assert answer.status_code == 200
    assert ada.get(f"/p/{cast.patients['Eve']}/person").status_code == 404


def test_a_damaged_backup_changes_nothing(cast: Cast):
    ada = cast.browser("Ada")
    ada.submit("/admin/backup")
    (copy,) = backup.list_backups(cast.appliance.house, cast.patients["Ada"])
    file = copy.folder / "vault.db"
    body = bytearray(file.read_bytes())
    body[5000] ^= 1
    file.write_bytes(body)
    answer = ada.submit(put_back_address(cast, "Ada"), {"words": WORDS})
    assert answer.status_code == 422
    assert ada.get(f"/p/{cast.patients['Ada']}/person").status_code == 200


def test_a_backup_that_is_not_in_the_list_is_not_found(cast: Cast):
    ada = cast.browser("Ada")
    for stamp in ("nothing", "..", "%2e%2e"):
        assert ada.get(f"/admin/restore/{cast.patients['Ada']}/{stamp}").status_code == 404


def test_nobody_disables_themself(cast: Cast):
    ada = cast.browser("Ada")
    form = {"account": cast.accounts["Ada"], "state": "disabled"}
    assert ada.submit("/admin/account", form).status_code == 400
    assert ada.get("/account").status_code == 200


def test_a_disabled_account_may_be_let_in_again(cast: Cast):
    ada = cast.browser("Ada")
    form = {"account": cast.accounts["Cleo"]}
    ada.submit("/admin/account", form | {"state": "disabled"})
    refused = cast.browser().submit(
        "/signin", {"name": "Cleo", "password": PASSWORDS["Cleo"]}, page="/signin"
    )
    assert refused.status_code == 422
    ada.submit("/admin/account", form | {"state": "active"})
    sign_in(cast.browser(), "Cleo")


def test_the_self_check_says_each_finding_in_words(cast: Cast):
    page = cast.browser("Ada").get("/admin/check").text
    assert "The household reaches http://127.0.0.1:8080" in page
    assert 'class="word' in page


def test_one_button_removes_the_demo_and_nothing_else(cast: Cast):
    appliance = cast.appliance
    demo_id = accounts.create_patient(
        appliance.house,
        appliance.vaults,
        name="Sample person",
        account_id=cast.accounts["Ada"],
        role=MemberRole.PROXY,
        opens_by_itself=True,
        demo=True,
    )
    ada = cast.browser("Ada")
    page = ada.get(f"/p/{demo_id}/person").text
    assert "Everything here" not in page
    assert "Demo record." in page
    assert ada.submit("/demo/remove").status_code == 303
    assert ada.get(f"/p/{demo_id}/person").status_code == 404
    assert ada.get(f"/p/{cast.patients['Ada']}/person").status_code == 200


def test_somebody_else_does_not_remove_the_demo(cast: Cast):
    assert cast.browser("Eve").submit("/demo/remove").status_code == 404
