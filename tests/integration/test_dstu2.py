"""A hospital that speaks DSTU2 is connected and pulled from the page, and is in every view."""

import re
from typing import Any
from urllib.parse import parse_qs

import pytest

from phr import clock, pull
from phr.fhir import kinds
from phr.store.models import LedgerState, PullState
from tests.fakes.dstu2 import LETTER, RECORDS, OldHospital, raw
from tests.fixtures_hospital import ledger, stored

READ_ALONE = ("Practitioner", "Medication")  # not searched for: read because a record names them
SHOWN = {  # what a page shows of each kind of record, in the words of the source
    "allergies": ("Peanut", "Hives"),
    "medications": ("lisinopril 10 MG Oral Tablet", "Take one tablet each morning.", "Vitamin D3"),
    "problems": ("Osteoarthritis of knee",),
    "immunizations": ("Influenza, seasonal",),
    "results": ("Potassium", "4.10"),
    "vitals": ("128", "79"),
    "visits": ("Office visit",),
    "procedures": ("Arthroscopy of knee",),
    "documents": ("Clinic letter",),
    "people": ("Larkin", "Thistle"),
    "timeline": ("Knee X-ray", "Office visit", "Arthroscopy of knee", "lisinopril"),
}


@pytest.fixture
def old(cast, raw_server, request):
    made = OldHospital(raw_server, **getattr(request, "param", {}))
    cast.appliance.http.guard.allow(made.server.place)
    return made


def connected_from_the_page(cast, old) -> tuple[Any, str]:
    """Type the address, sign in, come back; return the browser and the record's address."""
    browser, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    page = f"{base}/connections/add"
    typed = {"name": "Old Quay", "base_url": old.base, "client_id": "app"}
    answer = browser.submit(page, typed, page=page)
    assert answer.status_code == 303, answer.text
    link = browser.get(answer.headers["location"]).text
    asked = link.partition(f'href="{old.server.url}/auth?')[2].partition('"')[0]
    state = parse_qs(asked.replace("&amp;", "&"))["state"][0]
    back = browser.get("/connect/callback", params={"code": "good-code", "state": state})
    assert back.status_code == 303, back.text
    return browser, base


def pulled(cast, *, full_days: int = 7) -> PullState:
    http = cast.appliance.http
    return pull.run(cast.vault("Ada"), 1, http=http, now=clock.now(), full_days=full_days)


@pytest.mark.parametrize(
    "old", [{}, {"deaf": True}], ids=["by header", "by address"], indirect=True
)
def test_a_dstu2_hospital_is_connected_from_the_page_and_everything_it_has_is_kept(cast, old):
    connected_from_the_page(cast, old)
    assert pulled(cast) == PullState.DONE
    for kind, records in RECORDS.items():
        if kind != "Binary":
            bodies = [one.body for one in stored(cast.vault("Ada"), kind)]
            assert sorted(bodies) == sorted(raw(kind, one) for one in records), kind
    lines = ledger(cast.vault("Ada"), 1)
    assert lines["MedicationOrder"].got == 1
    assert lines["Observation?category=laboratory"].got == 1
    assert lines["Documents"].got == 1


def test_nothing_is_asked_that_the_release_does_not_know(cast, old):
    connected_from_the_page(cast, old)
    pulled(cast)
    paths = {path.removeprefix("/dstu2/").partition("/")[0] for path, _, _ in old.asked}
    assert not paths & {"MedicationRequest", "ServiceRequest", "CareTeam", "Coverage"}
    first = [accept for path, _, accept in old.asked if path.startswith("/dstu2/Condition")]
    assert all(one.startswith("application/json+fhir") for one in first)


def test_its_records_are_in_every_view_that_newer_ones_are_in(cast, old):
    browser, base = connected_from_the_page(cast, old)
    pulled(cast)
    for page, words in SHOWN.items():
        answer = browser.get(f"{base}/{page}")
        assert answer.status_code == 200
        for word in words:
            assert word in answer.text, (page, word)
    assert "Peanut" in browser.get(base).text
    assert "lisinopril" in browser.get(f"{base}/search?q=lisinopril").text
    letter = re.search(
        r'href="([^"]*/record/Document\w+/\w{16})"', browser.get(f"{base}/documents").text
    )
    file = re.search(r'href="([^"]*/file/\d+)"', browser.get(letter[1]).text)
    assert LETTER in browser.get(file[1]).content


def test_what_the_old_hospital_no_longer_offers_is_withdrawn(cast, old, monkeypatch):
    connected_from_the_page(cast, old)
    pulled(cast)
    monkeypatch.setitem(RECORDS, "MedicationOrder", [])
    assert pulled(cast, full_days=0) == PullState.DONE
    (order,) = stored(cast.vault("Ada"), "MedicationOrder")
    assert order.withdrawn


@pytest.mark.parametrize("old", [{"deaf": True}], indirect=True)
def test_after_the_first_answer_in_xml_json_is_asked_for_in_the_address(cast, old):
    connected_from_the_page(cast, old)
    old.asked.clear()
    pulled(cast)
    twice = [
        path for path, asked, _ in old.asked if "_format" not in asked and "Binary" not in path
    ]
    assert len(twice) < 10  # the Patient, and what several chains had asked by then


def test_a_server_that_answers_xml_whatever_is_asked_is_said_in_words(cast, old):
    browser, base = connected_from_the_page(cast, old)
    old.stubborn = True
    assert pulled(cast) == PullState.PARTIAL
    lines = ledger(cast.vault("Ada"), 1)
    assert {line.state for line in lines.values()} <= {
        LedgerState.BROKEN,
        LedgerState.REFUSED,
        LedgerState.DONE,
    }
    assert "Homeport reads JSON only" in lines["Condition"].sentence
    assert "Homeport reads JSON only" in browser.get(f"{base}/connections/1").text
    assert stored(cast.vault("Ada"), "Condition") == []


def test_the_release_decides_what_is_asked_for():
    def names(release):
        return {kind.type for kind in kinds.asked(release)}

    assert {"MedicationOrder", "DiagnosticOrder"} <= names("1.0.2")
    assert "MedicationRequest" not in names("1.0.2")
    assert {"MedicationRequest", "ProcedureRequest"} <= names("3.0.1")
    assert "ServiceRequest" not in names("3.0.1")
    assert names("4.0.1") == names("") == names("5.0.0")
    assert all(kind.patient_param for kind in kinds.asked("1.0.2"))
