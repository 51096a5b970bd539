"""Files of records in the real application: read in the background, found, shown, flagged."""

import base64
import threading

import pytest

from phr import keep, transcribe
from phr.clock import now
from phr.fhir.record import Selection
from phr.jobs import Jobs, Plan
from phr.papers import apart, cda
from phr.papers.reading import Reading
from phr.store import papers, records
from tests.fixtures_papers import RTF, ccda, dicom, pdf, wrapped
from tests.fixtures_records import concept, juniper, keep_records

PATIENT = {
    "resourceType": "Patient",
    "id": "juniper",
    "name": [{"given": ["Juniper", "Ann"], "family": "Sample"}],
    "birthDate": "1984-02-17",
}


def letter(content, media_type="application/pdf", name="Letter of the heart clinic", id_="paper-1"):
    """Return a DocumentReference that carries these bytes inside."""
    return {
        "resourceType": "DocumentReference",
        "id": id_,
        "status": "current",
        "type": concept(name),
        "date": "2026-11-04T10:30:00Z",
        "content": [
            {
                "attachment": {
                    "contentType": media_type,
                    "data": base64.b64encode(content).decode(),
                }
            }
        ],
    }


@pytest.fixture
def vault(cast):
    return cast.vault("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


def place(vault, id_="paper-1"):
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("DocumentReference",)))
    (one,) = [record for record in found if record.remote_id == id_]
    return f"record/DocumentReference/{one.local_id}"


def hits(vault, words):
    with vault.read() as session:
        return transcribe.find(vault, session, words, limit=20)


# ------------------------------------------------------------------------------ searching


def test_words_inside_a_pdf_are_found_with_the_place_where_they_stand(cast, vault, base):
    keep_records(vault, [*juniper(), letter(pdf("Echocardiogram:", "mitral valve prolapse."))])
    assert transcribe.run(vault) > 0
    page = cast.browser("Ada").get(f"{base}/search?q=mitral+prol").text
    assert "1 document with these words" in page
    assert "In Letter of the heart clinic" in page
    assert "mitral valve prolapse." in page
    assert f"{place(vault)}/file/0" in page
    assert "Nothing found" not in page


def test_search_says_that_files_are_still_being_read(cast, vault, base):
    keep_records(vault, [*juniper(), letter(pdf("Ferritin was low."))])
    assert "still being read" in cast.browser("Ada").get(f"{base}/search?q=ferritin").text
    transcribe.run(vault)
    assert "still being read" not in cast.browser("Ada").get(f"{base}/search?q=ferritin").text


def test_records_and_documents_with_a_word_stand_on_one_page(cast, vault, base):
    keep_records(vault, [*juniper(), letter(pdf("Ferritin was low."))])
    transcribe.run(vault)
    page = cast.browser("Ada").get(f"{base}/search?q=ferritin").text
    assert "records found and 1 document with these words" in page


def test_a_word_that_only_a_document_has_is_not_put_right(cast, vault, base):
    keep_records(vault, [*juniper(), letter(pdf("Bronchitix"))])
    transcribe.run(vault)
    page = cast.browser("Ada").get(f"{base}/search?q=bronchitix").text
    assert "Nothing here has" not in page
    assert "In Letter of the heart clinic" in page


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (RTF, "arztbrief"),
        (ccda("<paragraph>Zygomatic fracture</paragraph>"), "zygomatic"),
        (wrapped(pdf("Quincke oedema"), "application/pdf"), "quincke"),
        (b"<html><p>Hypothenar hammer</p></html>", "hypothenar"),
        ("Knöchel rechts".encode(), "knochel"),
        (dicom(), "thorax"),
    ],
)
def test_every_kind_that_has_words_is_found_by_them(vault, content, word):
    keep_records(vault, [letter(content)])
    transcribe.run(vault)
    (hit,) = hits(vault, word)
    assert word[:2] in hit.excerpt.casefold()


def test_a_file_that_was_fetched_later_is_read_then(vault):
    fetched = letter(b"")
    fetched["content"][0]["attachment"] = {"url": "Binary/b1", "contentType": "application/pdf"}
    keep_records(vault, [fetched])
    transcribe.run(vault)
    assert not hits(vault, "sphygmograph")
    with vault.read() as session:
        (record,) = records.select(session, vault, Selection(types=("DocumentReference",)))
    keep.attach(vault, record.pk, "Binary/b1", "application/pdf", pdf("Sphygmograph"))
    transcribe.run(vault)
    assert len(hits(vault, "sphygmograph")) == 1


def test_a_file_that_came_as_a_binary_in_the_same_bundle_is_here(cast, vault, base):
    named = letter(b"")
    named["content"][0]["attachment"] = {"url": "Binary/b1", "contentType": "application/pdf"}
    data = base64.b64encode(pdf("Sphygmograph")).decode()
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "application/pdf", "data": data}
    keep_records(vault, [named, binary])
    transcribe.run(vault)
    assert {hit.record.type for hit in hits(vault, "sphygmograph")} >= {"DocumentReference"}
    page = cast.browser("Ada").get(f"{base}/{place(vault)}/file/0").text
    assert "The file itself is not here" not in page


def test_what_was_read_is_not_read_again_and_a_new_version_is(vault):
    connection = keep_records(vault, [letter(pdf("First edition"))])
    assert transcribe.run(vault) == 1
    assert transcribe.run(vault) == 0
    keep_records(vault, [letter(pdf("Second edition"))], connection_id=connection, now=now())
    assert transcribe.run(vault) == 1
    assert not hits(vault, "first")
    assert len(hits(vault, "second")) == 1


def test_equal_files_are_read_once(vault, monkeypatch):
    asked = []
    read = apart.read
    monkeypatch.setattr(apart, "read", lambda *some: asked.append(1) or read(*some))
    same = pdf("Twice the same")
    for id_ in ("paper-1", "paper-2"):
        keep_records(vault, [letter(same, id_=id_)])
        assert transcribe.run(vault) == 1
    assert len(hits(vault, "twice")) == 2
    assert len(asked) == 1


def test_newer_rules_read_everything_again(vault, monkeypatch):
    keep_records(vault, [letter(pdf("Once more"))])
    transcribe.run(vault)
    monkeypatch.setattr(transcribe, "RULES", 99)
    assert transcribe.run(vault) == 1
    assert len(hits(vault, "once")) == 1


def test_erasing_a_source_erases_the_words_of_its_files(vault):
    connection = keep_records(vault, [letter(pdf("Ephemeral"))])
    transcribe.run(vault)
    keep.erase(vault, connection)
    assert not hits(vault, "ephemeral")
    with vault.read() as session:
        run = session.connection().exec_driver_sql
        for table in ("paper", "paper_seen", "paper_search"):
            assert run(f"SELECT count(*) FROM {table}").scalar() == 0


def test_reading_waits_while_an_import_is_under_way(vault):
    connection = keep_records(vault, [letter(pdf("Patience"))])
    with vault.write() as session:
        session.connection().exec_driver_sql("UPDATE connection SET claimed_by = 1")
    quiet = threading.Event()
    assert transcribe.run_when_quiet(vault, stopping=quiet) == 0
    with vault.write() as session:
        session.connection().exec_driver_sql(
            "UPDATE connection SET claimed_by = NULL WHERE id = ?", (connection,)
        )
    assert transcribe.run_when_quiet(vault, stopping=quiet) == 1
    assert transcribe.run_when_quiet(vault, stopping=quiet) == 0


def test_the_job_reads_what_came_into_open_vaults(cast, vault, tmp_path):
    keep_records(vault, [letter(pdf("Nocturnal"))])
    house = cast.appliance
    jobs = Jobs(house.house, house.vaults, house.http, Plan(tmp_path, ""))
    jobs.read_papers()
    assert len(hits(vault, "nocturnal")) == 1
    jobs.stop()


def test_a_reading_that_was_stopped_goes_on_at_the_next_start(vault):
    keep_records(vault, [letter(pdf("One")), letter(pdf("Two"), id_="paper-2")])
    stopped = threading.Event()
    stopped.set()
    assert transcribe.run(vault, stopping=stopped) == 0
    assert transcribe.run(vault, stopping=threading.Event()) == 2


def test_a_record_that_is_gone_meanwhile_is_left_out(vault):
    with vault.write() as session:
        papers.put(session, 12345, [], version=1, files=0, rules=1)
        run = session.connection().exec_driver_sql
        assert run("SELECT count(*) FROM paper_seen").scalar() == 0


# ------------------------------------------------------------------------------ its page


def test_a_clinical_document_is_readable_in_the_frame_and_its_head_on_the_page(cast, vault, base):
    keep_records(vault, [PATIENT, letter(ccda("<paragraph>Rest for a week.</paragraph>"))])
    browser = cast.browser("Ada")
    page = browser.get(f"{base}/{place(vault)}/file/0").text
    assert "Dr. Imogen Placeholder" in page
    assert "Saltmarsh University Hospital" in page
    assert "Rest for a week." not in page
    assert "may be about somebody else" not in page
    framed = browser.get(f"{base}/{place(vault)}/file/0/content")
    assert "<h2>Findings</h2><p>Rest for a week.</p>" in framed.text
    assert framed.headers["content-security-policy"].endswith("sandbox")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ccda(given="Myra"), "about Myra Sample, born 17 Feb 1984"),
        (ccda(born="19790101"), "about Juniper Sample, born 1 Jan 1979"),
        (dicom("Other^Person", "19500101"), "about Person Other, born 1 Jan 1950"),
    ],
)
def test_a_file_about_somebody_else_is_flagged(cast, vault, base, content, told):
    keep_records(vault, [PATIENT, letter(content)])
    page = cast.browser("Ada").get(f"{base}/{place(vault)}/file/0").text
    assert "This file may be about somebody else." in page
    assert told in page
    assert "This record is about Juniper Ann Sample, born 17 Feb 1984" in page


@pytest.mark.parametrize(
    "content",
    [
        ccda(family="Married"),
        ccda(given="Ann Juniper"),
        ccda(given="JUNIPER", born="1984"),
        ccda(given="", family="", born=""),
        dicom("SAMPLE^JUNIPER^^^", ""),
    ],
)
def test_a_file_about_the_same_person_otherwise_written_is_not_flagged(cast, vault, base, content):
    keep_records(vault, [PATIENT, letter(content)])
    page = cast.browser("Ada").get(f"{base}/{place(vault)}/file/0").text
    assert "may be about somebody else" not in page


def test_a_pdf_can_be_read_as_text_and_saved(cast, vault, base):
    content = pdf("Take one tablet", title="Plan")
    keep_records(vault, [letter(content)])
    browser = cast.browser("Ada")
    page = browser.get(f"{base}/{place(vault)}/file/0").text
    assert "Read as text" in page
    assert "<p>Take one tablet</p>" in browser.get(f"{base}/{place(vault)}/file/0/content").text
    assert browser.get(f"{base}/{place(vault)}/file/0/save").content == content


def test_what_could_not_be_read_is_said_in_words_on_the_page(cast, vault, base):
    keep_records(vault, [letter(b"%PDF-1.4 broken"), letter(ccda()[:-9], id_="cut")])
    transcribe.run(vault)
    browser = cast.browser("Ada")
    assert "could not be read" in browser.get(f"{base}/{place(vault)}/file/0").text
    assert cda.DAMAGED in browser.get(f"{base}/{place(vault, 'cut')}/file/0").text


def test_an_rtf_letter_is_shown_in_the_frame(cast, vault, base):
    keep_records(vault, [letter(RTF, "text/rtf")])
    browser = cast.browser("Ada")
    page = browser.get(f"{base}/{place(vault)}/file/0").text
    assert "<iframe" in page
    assert "is something else" not in page
    assert "Arztbrief" in browser.get(f"{base}/{place(vault)}/file/0/content").text


def test_a_dicom_file_tells_its_head_and_is_only_saved(cast, vault, base):
    keep_records(vault, [letter(dicom(), "application/dicom")])
    browser = cast.browser("Ada")
    page = browser.get(f"{base}/{place(vault)}/file/0").text
    assert "Thorax low dose" in page
    assert "2 x 2 pixels" in page
    assert "The picture itself is not opened inside Homeport" in page
    assert browser.get(f"{base}/{place(vault)}/file/0/content").status_code == 404


def test_the_file_inside_a_clinical_document_can_be_saved(cast, vault, base):
    inner = pdf("Inner letter")
    keep_records(
        vault, [letter(wrapped(inner, "application/pdf"), "text/xml"), letter(inner, id_="plain")]
    )
    browser = cast.browser("Ada")
    here = f"{base}/{place(vault)}/file/0"
    assert "Save the file inside it" in browser.get(here).text
    saved = browser.get(f"{here}/inside")
    assert saved.content == inner
    assert saved.headers["content-type"] == "application/pdf"
    assert browser.get(f"{base}/{place(vault, 'plain')}/file/0/inside").status_code == 404


def test_a_reader_that_finds_nothing_leaves_the_file_as_it_is(cast, vault, base, monkeypatch):
    keep_records(vault, [letter(pdf("x"))])
    monkeypatch.setattr(apart, "read", lambda *_: Reading(sentence=apart.TOO_HARD))
    page = cast.browser("Ada").get(f"{base}/{place(vault)}/file/0").text
    assert "took too long or too much memory" in page
    assert "Save the file" in page
