"""The patient's own layer in the real application: add, change, take back, undo, "not taken"."""

import re

import pytest

from phr import own, transcribe
from phr.fhir.record import Selection
from phr.store import audit, backup, records
from phr.store.restore import restore
from tests.fixtures_papers import pdf
from tests.fixtures_records import juniper, keep_records
from tests.walking import doctors_pages, text_of


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


def test_not_taken_reaches_a_medicine_that_only_another_record_names(ada, base, cast):
    order = {
        "resourceType": "MedicationRequest",
        "id": "order",
        "status": "active",
        "intent": "order",
        "medicationReference": {"reference": "Medication/m1"},
    }
    medicine = {"resourceType": "Medication", "id": "m1", "code": {"text": "Warfarin 5 mg"}}
    keep_records(cast.vault("Ada"), [order, medicine])
    (listed,) = kept(cast, "MedicationRequest")
    ada.submit(f"{base}/own/not-taken/MedicationRequest/{listed.local_id}", {}, page=f"{base}/own")
    (said,) = kept(cast, "MedicationStatement")
    assert said.document["medicationCodeableConcept"]["text"] == "Warfarin 5 mg"
    page = ada.get(f"{base}/record/MedicationRequest/{listed.local_id}").text
    assert "Told as one thing with" in page


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


def test_after_a_restore_the_patient_goes_on_adding_by_hand(ada, base, cast):
    add(ada, base, "allergy", what="Latex")
    home = cast.appliance
    made = backup.back_up(home.house, home.vaults, cast.patients["Ada"])
    restore(home.house, home.vaults, made.folder)
    ada = cast.browser("Ada")
    assert add(ada, base, "allergy", what="Birch").status_code == 303
    page = ada.get(f"{base}/allergies").text
    assert "Latex" in page
    assert "Birch" in page


# ------------------------------------------------------------------------- documents by hand


def bring(browser, base, content, name="scan.pdf", **answers):
    place = f"{base}/own/add/document"
    fields = {"csrf": browser.csrf(place), "what": "Blood test at Dr. Weber's", **answers}
    return browser.post(place, data=fields, files={"file": (name, content, "text/html")})


def brought(cast):
    (record,) = kept(cast, "DocumentReference")
    return record


def test_a_document_brought_by_hand_is_kept_with_its_file_and_is_found(ada, base, cast):
    content = pdf("Ferritin 9 ug/L")
    answer = bring(ada, base, content, kind="11502-2", when="2019-03", note="from the old practice")
    assert answer.status_code == 303
    record = brought(cast)
    assert record.document["type"]["text"] == "Blood test at Dr. Weber's"
    assert record.document["type"]["coding"][0]["code"] == "11502-2"
    told = record.document["content"][0]["attachment"]
    assert told["contentType"] == "application/pdf"
    assert told["title"] == "scan.pdf"
    place = f"{base}/record/DocumentReference/{record.local_id}"
    page = ada.get(f"{place}/file/0").text
    assert "is something else" not in page
    assert "announces another" not in page
    assert ada.get(f"{place}/file/0/save").content == content
    listed = ada.get(f"{base}/documents").text
    assert "Blood test at Dr. Weber&#39;s" in listed
    assert "The patient" in listed
    transcribe.run(cast.vault("Ada"))
    assert "In Blood test at Dr. Weber&#39;s" in ada.get(f"{base}/search?q=ferritin").text
    (provenance,) = kept(cast, "Provenance")
    assert provenance.document["target"][0]["reference"].endswith(record.remote_id)


def test_changing_a_document_keeps_its_file_and_can_be_undone(ada, base, cast):
    bring(ada, base, b"plain words", name="note.txt")
    record = brought(cast)
    place = f"{base}/own/DocumentReference/{record.local_id}"
    assert 'type="file"' not in ada.get(place).text
    ada.submit(place, {"what": "Another name", "do": "save"}, page=place)
    changed = brought(cast)
    assert changed.document["type"]["text"] == "Another name"
    assert changed.document["content"] == record.document["content"]
    saved = f"{base}/record/DocumentReference/{record.local_id}/file/0/save"
    assert ada.get(saved).content == b"plain words"
    ada.submit(place, {"do": "undo"}, page=place)
    assert brought(cast).document["type"]["text"] == "Blood test at Dr. Weber's"
    ada.submit(place, {"do": "take-back"}, page=place)
    assert brought(cast).document["status"] == "entered-in-error"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "This file is empty."), (b"x" * (25 * 1024 * 1024 + 1), "larger than 25 MB")],
)
def test_a_document_that_cannot_be_kept_says_why_and_keeps_what_was_typed(
    ada, base, cast, content, sentence
):
    answer = bring(ada, base, content, note="my note")
    assert answer.status_code == 422
    assert sentence in answer.text
    assert "choose the file again" in answer.text
    assert "my note" in answer.text
    assert not kept(cast, "DocumentReference")


def test_a_document_form_without_a_file_asks_for_one(ada, base, cast):
    answer = add(ada, base, "document", what="Letter")
    assert answer.status_code == 422
    assert "Please choose a file." in answer.text
    assert not kept(cast, "DocumentReference")


# ------------------------------------------------------------------------- notes and own names


def of_hospital(cast, type_, remote_id):
    found = [one for one in kept(cast, type_) if one.remote_id == remote_id]
    return found[0]


def say(browser, base, record, **fields):
    page = f"{base}/record/{record.type}/{record.local_id}"
    return browser.submit(f"{base}/own/about/{record.type}/{record.local_id}", fields, page=page)


@pytest.fixture
def medicine(cast):
    keep_records(cast.vault("Ada"), juniper())
    return of_hospital(cast, "MedicationRequest", "medicine-0")


def test_an_own_name_stands_beside_the_hospitals_name_and_leaves_its_copy_alone(
    ada, base, cast, medicine
):
    assert say(ada, base, medicine, name="the small white pill").status_code == 303
    assert "You call it “the small white pill”" in ada.get(f"{base}/medications").text
    assert "the small white pill" in ada.get(f"{base}/search?q=small+white").text
    again = of_hospital(cast, "MedicationRequest", "medicine-0")
    assert again.body == medicine.body
    (name,) = kept(cast, "List")
    (provenance,) = kept(cast, "Provenance")
    assert provenance.document["target"][0]["reference"].endswith(name.remote_id)


def test_an_own_name_of_a_test_stands_at_every_result_of_it(ada, base, cast, medicine):
    result = of_hospital(cast, "Observation", "2276-4-2026-11-19")
    say(ada, base, result, name="my iron")
    older = of_hospital(cast, "Observation", "2276-4-2025-06-03")
    assert "my iron" in ada.get(f"{base}/other?type=Observation").text
    page = ada.get(f"{base}/record/Observation/{older.local_id}").text
    assert "my iron" in page


def test_a_second_name_takes_the_place_of_the_first_and_can_be_undone(ada, base, cast, medicine):
    say(ada, base, medicine, name="first")
    say(ada, base, medicine, name="second")
    (name,) = kept(cast, "List")
    assert "You call it “second”" in ada.get(f"{base}/medications").text
    place = f"{base}/own/List/{name.local_id}"
    ada.submit(place, {"do": "undo"}, page=place)
    assert "You call it “first”" in ada.get(f"{base}/medications").text
    ada.submit(place, {"do": "take-back"}, page=place)
    assert "You call it" not in ada.get(f"{base}/medications").text


def test_a_note_stands_beside_its_record_and_is_found(ada, base, cast, medicine):
    say(ada, base, medicine, note="Makes me dizzy in the morning")
    page = ada.get(f"{base}/record/MedicationRequest/{medicine.local_id}").text
    assert "Makes me dizzy" in page
    assert "Your note: Makes me dizzy in the morning" in ada.get(f"{base}/medications").text
    assert "Note: Levothyroxine" in ada.get(f"{base}/search?q=dizzy").text
    (note,) = [one for one in kept(cast, "DocumentReference") if one.document.get("context")]
    page = ada.get(f"{base}/record/DocumentReference/{note.local_id}").text
    assert "You said this about" in page
    place = f"{base}/own/DocumentReference/{note.local_id}"
    ada.submit(place, {"note": "Only at first", "do": "save"}, page=place)
    page = ada.get(f"{base}/record/MedicationRequest/{medicine.local_id}").text
    assert "Only at first" in page
    assert "Makes me dizzy" not in page


def test_what_only_has_codes_is_called_as_the_patient_calls_it_everywhere(ada, base, cast):
    coded = [{"system": "http://loinc.org", "code": "77147-7", "display": "GFR CKD-EPI 2021"}]
    made = {
        "resourceType": "Observation",
        "id": "kidney",
        "status": "final",
        "code": {"coding": coded},
        "effectiveDateTime": "2026-11-20",
        "valueQuantity": {"value": 88, "unit": "mL/min"},
    }
    spoken = made | {"id": "spoken", "code": {"coding": coded, "text": "eGFR by the lab"}}
    keep_records(cast.vault("Ada"), [made, spoken])
    say(ada, base, of_hospital(cast, "Observation", "kidney"), name="My kidney number")
    for page in ("results", "search?q=77147-7", "other?type=Observation"):
        shown = text_of(ada.get(f"{base}/{page}").text)
        assert "My kidney number" in shown, page
    assert "eGFR by the lab" in text_of(ada.get(f"{base}/results").text)  # the text goes first
    place = of_hospital(cast, "Observation", "kidney").local_id
    page = ada.get(f"{base}/record/Observation/{place}").text
    assert "<h1>My kidney number" in page
    raw = ada.get(f"{base}/record/Observation/{place}/raw").text
    assert "My kidney" not in raw


def test_a_doctor_reads_notes_and_own_names_only_where_the_patient_opened_them(
    ada, base, cast, medicine
):
    say(ada, base, medicine, note="I stopped telling my husband")
    say(ada, base, medicine, name="the small white pill")
    before = " ".join(page for _, page in doctors_pages(cast, "Ada"))
    assert "Levothyroxine" in before
    assert "husband" not in before
    assert "small white pill" not in before
    (note,) = [one for one in kept(cast, "DocumentReference") if one.document.get("context")]
    place = f"{base}/record/DocumentReference/{note.local_id}"
    ada.submit(f"{place}/private", {"on": "no"}, page=place)
    after = " ".join(page for _, page in doctors_pages(cast, "Ada"))
    assert "husband" in after
    assert "small white pill" not in after


def test_a_remark_on_a_private_record_is_private_too(ada, base, cast, medicine):
    say(ada, base, medicine, note="before")
    private = f"{base}/record/MedicationRequest/{medicine.local_id}"
    ada.submit(f"{private}/private", {"on": "yes"}, page=private)
    say(ada, base, medicine, note="after")
    say(ada, base, medicine, name="secret")
    notes = [
        one
        for one in kept(cast, "DocumentReference", "List")
        if one.connection_id != medicine.connection_id
    ]
    assert len(notes) == 3
    assert all(one.labels & one.labels.PRIVATE for one in notes)


def test_a_remark_is_as_sensitive_as_what_it_is_about(ada, base, cast):
    record = {
        "resourceType": "Condition",
        "id": "c1",
        "meta": {
            "security": [
                {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}
            ]
        },
        "code": {
            "coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "F32.1"}],
            "text": "Depression",
        },
    }
    keep_records(cast.vault("Ada"), [record])
    held = of_hospital(cast, "Condition", "c1")
    say(ada, base, held, note="since the move")
    say(ada, base, held, name="the fog")
    for one in kept(cast, "DocumentReference", "List"):
        assert one.labels & held.labels == held.labels != 0


def test_an_empty_or_strange_remark_is_refused(ada, base, cast, medicine):
    assert say(ada, base, medicine, note="  ").status_code == 422
    long = say(ada, base, medicine, note="y" * 20_001)
    assert "this has 20,001" in long.text
    assert "y" * 20_001 in long.text
    assert ada.get(f"{base}/own/add/note").status_code == 404
    viewer = cast.browser("Cleo")
    path = f"{base}/own/about/MedicationRequest/{medicine.local_id}"
    assert viewer.submit(path, {"note": "x"}).status_code == 403
    assert ada.submit(f"{base}/own/about/Condition/0", {"note": "x"}).status_code == 404


def test_the_list_of_what_was_added_begins_with_what_came_last_and_tells_measurements_apart(
    ada, base
):
    add(ada, base, "blood-pressure", upper="131", lower="84", when="2026-11-01")
    add(ada, base, "blood-pressure", upper="128", lower="81", when="2020-01-01")
    add(ada, base, "contact", name="Sam Example")
    page = text_of(ada.get(f"{base}/own").text)
    places = [page.index(words) for words in ("Sam Example", "128/81 mmHg", "131/84 mmHg")]
    assert places == sorted(places)


def test_a_visit_is_called_by_its_reason_and_not_by_a_kind_that_nobody_stated(ada, base):
    add(ada, base, "visit", what="Broken wrist", when="2026-10-30", where="Harbour Hospital")
    assert "Broken wrist" in ada.get(f"{base}/timeline").text
    for page in ("visits", "timeline", "own"):
        text = text_of(ada.get(f"{base}/{page}").text)
        assert "Broken wrist" in text
        assert "Outpatient" not in text
        assert "unknown" not in text.casefold()


def test_a_result_that_has_no_code_is_among_the_tests(ada, base):
    add(ada, base, "result", what="Rapid strep", value="Negative", when="2026-11-01")
    page = text_of(ada.get(f"{base}/results?show=tests").text)
    assert "1 test with results" in page
    assert "Rapid strep" in page
