"""The core journey in Firefox and in WebKit: sign in, a lab result, share by link, revoke."""

import json
import re
from urllib.parse import urlsplit

import pytest

from tests.e2e import journey
from tests.e2e.engines import Person, firefox, webkit
from tests.e2e.house import command_line, running
from tests.e2e.test_pages import AXE, TAGS

ABOUT = {"reference": "Patient/1"}
LABORATORY = {
    "system": "http://terminology.hl7.org/CodeSystem/observation-category",
    "code": "laboratory",
}
RECORDS = [
    {"resourceType": "Patient", "id": "1", "name": [{"given": ["Juniper"], "family": "Demo"}]},
    {
        "resourceType": "AllergyIntolerance",
        "id": "2",
        "patient": ABOUT,
        "code": {"text": "Penicillin"},
    },
    *(
        {
            "resourceType": "Observation",
            "id": f"{number}",
            "status": "final",
            "subject": ABOUT,
            "category": [{"coding": [LABORATORY]}],
            "code": {"text": "Creatinine", "coding": [{"system": "urn:demo", "code": "crea"}]},
            "effectiveDateTime": f"2026-0{number}-11T08:00:00Z",
            "valueQuantity": {"value": 1 + number / 100, "unit": "mg/dL"},
        }
        for number in (3, 4, 5)
    ),
]


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory):
    """A house with an account and a small record, made at the command line."""
    folder = tmp_path_factory.mktemp("engines")
    file = folder / "record.ndjson"
    file.write_text("\n".join(map(json.dumps, RECORDS)))
    with running(folder / "data") as house:
        command_line(house, "account", "create", journey.NAME, given=journey.PASSWORD)
        owned = ("--owner", journey.NAME, "--opens-by-itself", "--json")
        made = json.loads(command_line(house, "vault", "create", journey.PERSON, *owned))
        command_line(house, "import", str(file), "--patient", journey.PERSON)
        yield house, made["vault"]


@pytest.mark.parametrize("engine", [firefox, webkit])
def test_core_journey_in_another_engine(lived_in, engine):
    house, patient = lived_in
    record = f"{house.home}/p/{patient}"
    with engine() as ada:
        sign_in(ada, house.home)
        see_a_lab_result(ada, record)
        link, code = share(ada, record)
        with engine() as doctor:
            open_link(doctor, link, code)
            ada.go(f"{record}/grants")
            ada.press('form[action$="/stop"] button')
            doctor.wait(lambda: "Penicillin" not in doctor.text, "the blank page after the stop")
            doctor.go(f"{house.public}{urlsplit(link).path}".rpartition(".")[0])
            assert "Penicillin" not in doctor.text
            assert journey.PERSON not in doctor.text
        ada.go(f"{record}/activity")
        assert "Dr. Chen" in ada.text


KEY_PAGES = ("", "results", "results/crea?system=urn:demo", "share", "grants", "connections")


@pytest.mark.parametrize("engine", [firefox, webkit])
def test_axe_finds_nothing_in_another_engine(lived_in, engine):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (make setup)")
    house, patient = lived_in
    found = {}
    with engine() as ada:
        sign_in(ada, house.home)
        for path in KEY_PAGES:
            ada.go(f"{house.home}/p/{patient}/{path}")
            if problems := ada.violations(AXE.read_text(), TAGS):
                found[path] = problems
    assert found == {}


def sign_in(person: Person, home: str) -> None:
    person.go(home + "/")
    assert "/signin" in person.url
    person.fill(name=journey.NAME, password=journey.PASSWORD)
    person.press("button.main")
    assert "/signin" not in person.url, person.text


def see_a_lab_result(person: Person, record: str) -> None:
    """Go from the list of results to the page of one test, with its drawing and its table."""
    person.go(f"{record}/results")
    assert "Creatinine" in person.text
    person.press('main a[href*="/results/"]')
    assert person.has("main svg")
    assert person.has("main table")


def share(person: Person, record: str) -> tuple[str, str]:
    person.go(f"{record}/share")
    person.fill(whom="Dr. Chen")
    person.press('button[name=do][value="link"]')
    if person.has('input[name="confirm.password"]'):
        person.fill(confirm=journey.PASSWORD)
        person.press("button.main")
    code = re.search(r"\b(\d{3})\s(\d{3})\b", person.text)
    return person.value("#address"), "".join(code.groups())


def open_link(doctor: Person, link: str, code: str) -> None:
    doctor.go(link)
    assert journey.PERSON not in doctor.text
    doctor.fill(code=code)
    doctor.press("button.main")
    assert journey.PERSON in doctor.text
    assert "Penicillin" in doctor.text
