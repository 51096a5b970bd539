"""Checks of spec interface §7 that need no browser: three texts, one result of two hospitals."""

import html
import re

import pytest

from phr import gather
from phr.store import records
from tests.cast import PASSWORDS, Cast
from tests.fixtures_records import concept, juniper, keep_records, lab

DAWN = "2026-05-11T08:00:00Z"
ABOUT = {"subject": {"reference": "Patient/p"}}
PATIENT = {
    "resourceType": "Patient",
    "id": "p",
    "name": [{"text": "Ada Example"}],
    "birthDate": "1980-01-01",
}


def allergy(text: str, code: str = "", system: str = "") -> dict[str, object]:
    """Return an allergy or a statement about allergies."""
    made = {"resourceType": "AllergyIntolerance", "id": "a", "code": concept(text, code, system)}
    return made | {"patient": {"reference": "Patient/p"}}


TOLD = {
    "Ada": ([allergy("Penicillin")], "Penicillin"),
    "Ben": ([allergy("No known allergy", "716186003", "http://snomed.info/sct")], "No known all"),
    "Eve": ([], "does not mean there are"),
}


@pytest.mark.parametrize("page", ["", "card", "share"])
def test_allergies_are_unknown_none_known_or_present_on_home_card_and_share(cast: Cast, page: str):
    texts = {}
    for name, (said, _) in TOLD.items():
        keep_records(cast.vault(name), [PATIENT, *said])
        browser = cast.browser("Eve" if name == "Eve" else "Ada")
        answer = browser.get(f"/p/{cast.patients[name]}/{page}")
        assert answer.status_code == 200
        plain = html.unescape(re.sub(r"<[^>]+>|\s+", " ", answer.text.partition("<main")[2]))
        head = "Allergies" if page == "card" else "Allergies:"
        texts[name] = " ".join(plain[plain.index(head) :].split())[:90]
    for name, (_, words) in TOLD.items():
        others = [text for other, text in texts.items() if other != name]
        assert words in texts[name], (page, texts[name])
        assert all(words not in text for text in others), (page, others)


def test_a_result_of_two_hospitals_is_one_row_and_both_originals_are_a_tap_away(cast: Cast):
    vault, base = cast.vault("Ada"), f"/p/{cast.patients['Ada']}"
    for number, name in enumerate(("Saltmarsh Hospital", "Harbour Practice")):
        result = lab("Potassium", "2823-3", "4.10", id=f"lab-{number}", on=DAWN, **ABOUT)
        keep_records(vault, [PATIENT, result], name=name)
    gather.settle(vault)
    browser = cast.browser("Ada")
    page = browser.get(f"{base}/results").text
    assert page.count("<h3>") == 1
    assert "from 2 hospitals: Harbour Practice, Saltmarsh Hospital" in page
    originals = re.findall(rf'href="({base}/record/Observation/[^"]+)"', page)
    bodies = {browser.get(f"{href}/raw").text for href in originals}
    assert {f"lab-{number}" for number in (0, 1)} == {
        found for body in bodies for found in re.findall(r"lab-\d", body)
    }


@pytest.mark.parametrize(
    ("name", "password"), [("admin", "admin"), ("Ada", ""), ("homeport", "homeport"), ("", "")]
)
def test_no_name_and_password_that_everybody_knows_signs_in(cast: Cast, name: str, password: str):
    browser = cast.browser()
    form = {"name": name, "password": password}
    assert browser.submit("/signin", form, page="/signin").status_code in {400, 403, 422}
    assert browser.get("/").headers["location"].startswith("/signin")


def number_of_records(cast: Cast) -> int:
    with cast.vault("Ada").read() as session:
        return sum(records.counts(session).values())


def test_a_backup_put_back_on_the_page_has_as_many_records_and_a_broken_one_changes_nothing(
    cast: Cast,
):
    keep_records(cast.vault("Ada"), [PATIENT, *juniper()])
    before, ada = number_of_records(cast), cast.browser("Ada")
    ada.submit("/admin/backup", page="/admin")
    patient = cast.patients["Ada"]
    put_back = re.search(rf"/admin/restore/{patient}/[^\"]+", ada.get("/admin").text)[0]
    later = lab("Potassium", "2823-3", "4.10", id="later", on=DAWN)
    keep_records(cast.vault("Ada"), [later], name="Harbour Practice")
    assert number_of_records(cast) == before + 1
    file = cast.appliance.house.backups_folder / patient / put_back.rpartition("/")[2] / "vault.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4096] + bytes(4096))
    assert ada.submit(put_back, {"words": "restore this record"}).status_code == 422
    assert number_of_records(cast) == before + 1
    file.write_bytes(whole)
    assert ada.submit(put_back, {"words": "restore this record"}).status_code == 200
    cast.browser("Ada")  # opens it again
    assert number_of_records(cast) == before


def test_home_and_who_can_see_count_links_and_not_what_was_handed_over(cast: Cast):
    keep_records(cast.vault("Ada"), [PATIENT, *juniper()])
    base, ada = f"/p/{cast.patients['Ada']}", cast.browser("Ada")
    asked = {"what": "emergency", "whom": "Dr. Paper", "hours": "1", "do": "paper"}
    ada.submit(f"{base}/share", asked | {"confirm.password": PASSWORDS["Ada"]})
    assert "Nobody outside the household" in ada.get(f"{base}/").text
    page = ada.get(f"{base}/grants").text
    assert "Nobody outside can see this record" in page
    assert "Handed over" in page
    asked = {"what": "emergency", "whom": "Dr. Link", "hours": "1", "do": "link"}
    ada.submit(f"{base}/share", asked)
    assert "1 recipient</span> can see parts of this record" in ada.get(f"{base}/").text
    assert "One recipient can see parts of this record" in ada.get(f"{base}/grants").text
