"""What a real pull brought, as the real pages show it: withdrawn records and fetched files.

At home, behind a doctor's link, and after the hospital has changed its mind.
"""

import json
import re
from typing import Any

import pytest

from phr import clock, pull
from phr.http import Http
from phr.store.models import PullState
from phr.store.vault import Vault
from tests.cast import PUBLIC, Browser, Cast
from tests.fixtures_hospital import Hospital, connected, observation
from tests.fixtures_sharing import Share, a_record, keep_all

LETTER = b"Dear colleague, the film is clear."
PDF = b"%PDF-1.7 letter"


def document(name: str, url: str, title: str, media_type: str) -> bytes:
    found = {
        "resourceType": "DocumentReference",
        "id": name,
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "date": clock.now().isoformat(),
        "type": {"text": title},
        "content": [{"attachment": {"contentType": media_type, "url": url, "title": title}}],
    }
    return json.dumps(found).encode()


@pytest.fixture
def pulled(cast: Cast, hospital: Hospital, to_hospital: Http) -> Any:
    """Ada's record after one full pull, and a way to pull once more."""
    hospital.records["DocumentReference"] = [
        document("d1", "Binary/b1", "Film report", "text/plain"),
        document("d2", "Binary/b2", "Clinic letter", "application/pdf"),
    ]
    hospital.files |= {"Binary/b1": LETTER, "Binary/b2": PDF}
    vault = cast.vault("Ada")
    connection_id = connected(vault, hospital)

    def again() -> PullState:
        return pull.run(vault, connection_id, http=to_hospital, now=clock.now(), full_days=0)

    assert again() == PullState.DONE
    return again


def base(cast: Cast) -> str:
    return f"/p/{cast.patients['Ada']}"


def page_of(browser: Browser, path: str, title: str) -> str:
    """Return the address of the record that a list calls so."""
    text = browser.get(path).text
    found = re.search(rf'href="([^"]*/record/\w+/[0-9a-f]{{16}})"[^>]*>{title}', text)
    assert found, text
    return found[1]


def files_on(browser: Browser, record: str) -> list[str]:
    return re.findall(r'href="([^"]*/file/\d+)"', browser.get(record).text)


def opened(cast: Cast, vault: Vault) -> tuple[Browser, str]:
    """Return a doctor's browser with a link open, and the link's first page."""
    link = Share(cast.appliance, vault).link()
    browser = cast.stranger()
    page = link.url.removeprefix(PUBLIC)
    browser.submit(page, {"code": link.code}, page=page)
    return browser, f"/s/{link.handle_id}"


@pytest.mark.usefixtures("pulled")
def test_files_that_a_pull_fetched_open_from_the_records_own_page(cast: Cast) -> None:
    browser = cast.browser("Ada")
    report = page_of(browser, f"{base(cast)}/documents", "Film report")
    (file,) = files_on(browser, report)
    assert LETTER in browser.get(file).content
    assert browser.get(f"{file}/save").content == LETTER
    letter = page_of(browser, f"{base(cast)}/documents", "Clinic letter")
    (file,) = files_on(browser, letter)
    saved = browser.get(f"{file}/save")
    assert saved.content == PDF
    assert "attachment" in saved.headers["content-disposition"]


@pytest.mark.usefixtures("pulled")
def test_files_that_a_pull_fetched_open_for_a_doctor_with_the_link(cast: Cast) -> None:
    browser, first = opened(cast, cast.vault("Ada"))
    report = page_of(browser, f"{first}/documents", "Film report")
    (file,) = files_on(browser, report)
    answer = browser.get(file)
    assert LETTER in answer.content
    assert "sandbox" in answer.headers["content-security-policy"]


def test_a_withdrawn_record_says_so_at_home_and_is_gone_for_the_doctor(
    cast: Cast, pulled: Any, hospital: Hospital
) -> None:
    browser = cast.browser("Ada")
    doctor, first = opened(cast, cast.vault("Ada"))
    mine = page_of(browser, f"{base(cast)}/problems", "Hay fever")
    hidden = page_of(doctor, f"{first}/problems", "Hay fever")
    before, hospital.records["Condition"] = hospital.records["Condition"], []
    assert pulled() == PullState.DONE
    page = browser.get(mine)
    assert page.status_code == 200
    assert "withdrawn" in page.text.lower() or "no longer" in page.text.lower()
    assert "Hay fever" not in doctor.get(first).text
    assert "Hay fever" not in doctor.get(f"{first}/problems").text
    assert doctor.get(hidden).status_code == 404
    hospital.records["Condition"] = before
    assert pulled() == PullState.DONE
    assert "Hay fever" in doctor.get(f"{first}/problems").text


def test_a_file_of_a_withdrawn_letter_stays_at_home_and_leaves_no_more(
    cast: Cast, pulled: Any, hospital: Hospital
) -> None:
    browser = cast.browser("Ada")
    doctor, first = opened(cast, cast.vault("Ada"))
    mine = files_on(browser, page_of(browser, f"{base(cast)}/documents", "Film report"))[0]
    theirs = files_on(doctor, page_of(doctor, f"{first}/documents", "Film report"))[0]
    hospital.records["DocumentReference"] = hospital.records["DocumentReference"][1:]
    assert pulled() == PullState.DONE
    assert LETTER in browser.get(mine).content
    assert doctor.get(theirs).status_code == 404


def test_a_corrected_value_stands_alone_and_its_first_version_is_reachable(
    cast: Cast, pulled: Any, hospital: Hospital
) -> None:
    browser = cast.browser("Ada")
    hospital.records["Observation"][0] = observation(0, "7.77")
    assert pulled() == PullState.DONE
    record = page_of(browser, f"{base(cast)}/search?q=Sodium", "Sodium: 7.77")
    assert "7.77" in browser.get(record).text
    versions = browser.get(f"{record}/versions").text
    assert "1.10" in versions or "Version 1" in versions


def test_what_a_person_says_of_a_medicine_stands_beside_the_hospitals_copy(cast: Cast) -> None:
    keep_all(cast.vault("Ada"), "North Quay", a_record())
    browser = cast.browser("Ada")
    record = page_of(browser, f"{base(cast)}/medications", "Levothyroxine")
    page = browser.get(record).text
    action = re.search(r'action="([^"]*/own/not-taken/[^"]+)"', page)
    assert action
    assert browser.submit(action[1], {}, page=record).status_code == 303
    mine = re.search(
        r'href="[^"]*/own/(Medication\w+/\w{16})"', browser.get(f"{base(cast)}/own").text
    )
    assert mine
    own = browser.get(f"{base(cast)}/record/{mine[1]}").text
    assert "You said this yourself" in own
    assert "/own/not-taken/" not in own
    assert browser.get(record).status_code == 200


def test_home_counts_new_measurements_that_the_timeline_does_not_show(
    cast: Cast, pulled: Any, hospital: Hospital
) -> None:
    browser = cast.browser("Ada")
    browser.submit(f"{base(cast)}/seen", page=f"{base(cast)}/")
    assert "Nothing new" in browser.get(f"{base(cast)}/").text
    hospital.records["Observation"] += [observation(7, "9.90"), observation(8, "8.80")]
    assert pulled() == PullState.DONE
    page = browser.get(f"{base(cast)}/").text
    assert "2 new measurements" in page
    assert "2 measurements new or changed" in page
    browser.submit(f"{base(cast)}/seen", page=f"{base(cast)}/")
    assert "Nothing new" in browser.get(f"{base(cast)}/").text
