"""The patient's own layer in the real application: add, change, take back, undo, "not taken"."""

import re

import pytest

from phr import own
from phr.fhir.record import Selection
from phr.store import audit, records
from tests.fixtures_records import juniper, keep_records


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


@pytest.fixture
def ada(cast):
    return cast.browser("Ada")


def kept(cast, *types):
    vault = cast.vault("Ada")
    with vault.read() as session:
        return records.select(session, vault, Selection(types=types))


def add(browser, base, slug, **answers):
    place = f"{base}/own/add/{slug}"
    return browser.submit(place, answers, page=place)


def test_every_kind_has_a_form(ada, base):
    links = re.findall(r'href="([^"]+/own/add/[a-z-]+)"', ada.get(f"{base}/own").text)
    assert len(links) == len(set(links)) > 12
    for link in links:
        answer = ada.get(link)
        assert answer.status_code == 200
        assert answer.text.count("<h1") == 1


def test_what_is_added_stands_in_its_section_and_says_that_the_patient_said_it(ada, base, cast):
    assert add(ada, base, "allergy", what="Latex", reaction="rash").status_code == 303
    page = ada.get(f"{base}/allergies").text
    assert "Latex" in page
    assert "The patient" in page
    (record,) = kept(cast, "AllergyIntolerance")
    (provenance,) = kept(cast, "Provenance")
    assert provenance.document["target"][0]["reference"].endswith(record.remote_id)
    with cast.vault("Ada").read() as session:
        assert audit.entries(session, limit=1)[0].event == "own.stated"


def test_a_form_with_a_mistake_keeps_what_was_typed_and_says_what_is_wrong(ada, base, cast):
    answer = add(ada, base, "weight", value="72,5", unit="kg", when="2026-11-01", note="mornings")
    assert answer.status_code == 422
    assert "with a point" in answer.text
    assert "mornings" in answer.text
    assert not kept(cast, "Observation")


def test_a_change_is_a_new_version_and_can_be_undone(ada, base, cast):
    add(ada, base, "problem", what="Asthma", status="active")
    (record,) = kept(cast, "Condition")
    place = f"{base}/own/Condition/{record.local_id}"
    ada.submit(place, {"what": "Asthma", "status": "resolved", "do": "save"}, page=place)
    assert status(cast) == "resolved"
    ada.submit(place, {"do": "undo"}, page=place)
    assert status(cast) == "active"
    with cast.vault("Ada").read() as session:
        found = records.versions(session, cast.vault("Ada"), "Condition", record.local_id)
    assert len(found) == 3


def status(cast):
    (record,) = kept(cast, "Condition")
    return record.document["clinicalStatus"]["coding"][0]["code"]


def test_a_statement_marked_as_a_mistake_stays_readable_and_comes_back(ada, base, cast):
    add(ada, base, "allergy", what="Latex")
    (record,) = kept(cast, "AllergyIntolerance")
    place = f"{base}/own/AllergyIntolerance/{record.local_id}"
    ada.submit(place, {"do": "take-back"}, page=place)
    assert "Allergies are unknown" in ada.get(f"{base}/allergies").text
    assert "Latex" in ada.get(f"{base}/own").text
    ada.submit(place, {"do": "undo"}, page=place)
    assert "1 allergy is listed" in ada.get(f"{base}/allergies").text


def test_not_taken_stands_beside_the_hospitals_copy_which_stays_as_it_is(ada, base, cast):
    keep_records(cast.vault("Ada"), juniper())
    listed = next(one for one in kept(cast, "MedicationRequest") if b"Levothyroxine" in one.body)
    ada.submit(f"{base}/own/not-taken/MedicationRequest/{listed.local_id}", {}, page=f"{base}/own")
    again = next(one for one in kept(cast, "MedicationRequest") if one.pk == listed.pk)
    assert again.body == listed.body
    (said,) = kept(cast, "MedicationStatement")
    assert said.document["status"] == "not-taken"
    assert said.document["medicationCodeableConcept"]["text"] == "Levothyroxine 50 micrograms"


def test_what_a_hospital_sent_cannot_be_changed_or_taken_back_here(ada, base, cast):
    keep_records(cast.vault("Ada"), juniper())
    for record in kept(cast, "AllergyIntolerance", "Condition"):
        place = f"{base}/own/{record.type}/{record.local_id}"
        assert ada.get(place).status_code == 404
        assert ada.submit(place, {"do": "take-back"}, page=f"{base}/own").status_code == 404


def test_the_place_of_own_statements_is_no_connection_to_a_hospital(ada, base, cast):
    add(ada, base, "allergy", what="Latex")
    assert own.connection_of(cast.vault("Ada")) is not None
    assert ">The patient<" not in ada.get(f"{base}/connections").text
    assert "No hospital is connected" in ada.get(f"{base}/").text
