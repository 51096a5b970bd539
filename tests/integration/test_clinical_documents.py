"""Clinical documents (C-CDA) become records: brought as a file, in a zip, or sent by a hospital."""

import io
import json
import zipfile

import pytest
from sqlalchemy import Engine, event, select

from phr import clock, keep, pull, transcribe
from phr.fhir.kinds import KINDS
from phr.fhir.labels import Label
from phr.fhir.record import Selection
from phr.papers import cda_entries
from phr.papers.reading import TRANSCRIBED
from phr.sharing import gate, package
from phr.store import records
from phr.store.models import Pull, PullState
from tests.corpus import corpus
from tests.fixtures_clinical import RXNORM, allergy, document, medicine
from tests.fixtures_records import keep_records
from tests.integration.test_files_read import PATIENT, letter
from tests.walking import doctors_pages, home_pages, text_of

ACTOR = {"kind": "account", "id": "ada", "name": "Ada"}
PENICILLIN = f'<code code="70618" displayName="Penicillin" {RXNORM}/>'
METOPROLOL = (
    '<statusCode code="active"/>'
    '<effectiveTime xsi:type="IVL_TS"><low value="20260301"/></effectiveTime>'
)


def document_open(*entries):
    """Return a document that is not restricted."""
    return document(*entries).replace(
        b'<confidentialityCode code="R"/>', b'<confidentialityCode code="N"/>'
    )


OPEN = document_open(allergy(PENICILLIN))


@pytest.fixture
def vault(cast):
    return cast.vault("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


def bring(vault, tmp_path, content, name="summary.xml"):
    """Take in a file as a person brings it."""
    path = tmp_path / "brought"
    path.write_bytes(content)
    return pull.take_file(vault, name, path, actor=ACTOR, now=clock.now())


def kept(vault, *types):
    with vault.read() as session:
        return records.select(session, vault, Selection(types=types))


def test_a_document_that_is_brought_is_kept_as_it_came_and_becomes_records(
    cast, vault, base, tmp_path
):
    content = document(allergy(PENICILLIN), medicine(METOPROLOL))
    taken = bring(vault, tmp_path, content)
    assert taken.state == PullState.DONE
    assert taken.kept.new == 5  # the document, its person, an allergy, a medicine, whence they come
    (paper,) = kept(vault, "DocumentReference")
    with vault.read() as session:
        (link,) = records.attachments(session, paper.pk)
        assert records.attachment(session, link.hash)[1] == content
    page = text_of(cast.browser("Ada").get(f"{base}/allergies").text)
    assert "Penicillin" in page
    assert "Transcribed from a document" in page
    assert "Metoprolol" in text_of(cast.browser("Ada").get(f"{base}/medications").text)


def test_the_same_document_twice_changes_nothing(vault, tmp_path):
    content = document(allergy(PENICILLIN), medicine(METOPROLOL))
    bring(vault, tmp_path, content)
    again = bring(vault, tmp_path, content)
    assert again.is_all_known


def test_the_next_document_of_a_place_that_says_the_same_adds_only_itself(vault, tmp_path):
    first = document(allergy(PENICILLIN, more='<id root="1.2.3" extension="one"/>'))
    second = document(allergy(PENICILLIN, more='<id root="1.2.3" extension="two"/>'))
    bring(vault, tmp_path, first)
    bring(vault, tmp_path, second)
    assert len(kept(vault, "AllergyIntolerance")) == 1
    assert len(kept(vault, "DocumentReference")) == 2
    assert len(kept(vault, "Provenance")) == 2  # each says whence, with the entry's own id there
    assert {one.version for one in kept(vault, "AllergyIntolerance", "Patient")} == {1}


def test_a_record_says_which_part_of_which_document_it_was_made_of(cast, vault, base, tmp_path):
    bring(vault, tmp_path, document(allergy(PENICILLIN)))
    (found,) = kept(vault, "AllergyIntolerance")
    (paper,) = kept(vault, "DocumentReference")
    page = cast.browser("Ada").get(f"{base}/record/AllergyIntolerance/{found.local_id}").text
    assert "Transcribed from a document, which is kept as it came" in page
    assert "Discharge Letter: Listed" in page
    assert f"{base}/record/DocumentReference/{paper.local_id}" in page


def test_documents_in_a_zip_are_taken_in_and_what_is_none_says_so(vault, tmp_path):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("IHE_XDM/SUBSET01/DOC0001.XML", document(allergy(PENICILLIN)))
        archive.writestr("IHE_XDM/SUBSET01/METADATA.XML", "<SubmitObjectsRequest/>")
    taken = bring(vault, tmp_path, held.getvalue(), "download.zip")
    assert taken.state == PullState.PARTIAL
    assert taken.sentence == "This is neither FHIR JSON nor a clinical document (C-CDA)."
    assert len(kept(vault, "AllergyIntolerance")) == 1
    (paper,) = kept(vault, "DocumentReference")
    with vault.read() as session:
        assert all(link.hash for link in records.attachments(session, paper.pk))


def test_a_damaged_document_says_so_and_brings_nothing(vault, tmp_path):
    taken = bring(vault, tmp_path, document(allergy(PENICILLIN))[:-40])
    assert taken.state == PullState.FAILED
    assert "damaged" in taken.sentence
    assert not kept(vault)


def test_a_document_of_somebody_born_on_another_day_is_not_kept_in_this_record(vault, tmp_path):
    keep_records(vault, [PATIENT])
    bring(vault, tmp_path, document(allergy(PENICILLIN), born="19500101"))
    assert not kept(vault, "AllergyIntolerance")


def test_a_document_about_somebody_with_another_name_is_flagged(cast, vault, base, tmp_path):
    said = {"patient": {"reference": "Patient/juniper"}, "resourceType": "AllergyIntolerance"}
    hers = [said | {"id": name, "code": {"text": name}} for name in ("Latex", "Kiwi")]
    keep_records(vault, [PATIENT, *hers])
    bring(vault, tmp_path, document(allergy(PENICILLIN), given="Myrtle"))
    page = text_of(cast.browser("Ada").get(f"{base}/allergies").text)
    assert "its source names Myrtle Sample, 17 Feb 1984" in page


def test_a_document_that_a_hospital_sent_becomes_records_beside_it(cast, vault, base):
    content = document(allergy(PENICILLIN))
    hospital = keep_records(vault, [PATIENT, letter(content, "text/xml")])
    transcribe.run(vault)
    transcribe.run(vault)
    (found,) = kept(vault, "AllergyIntolerance")
    assert found.connection_id != hospital  # a full pull of the hospital does not ask for it
    (paper,) = kept(vault, "DocumentReference")
    assert paper.connection_id == hospital
    page = cast.browser("Ada").get(f"{base}/record/AllergyIntolerance/{found.local_id}").text
    assert f"{base}/record/DocumentReference/{paper.local_id}" in page
    assert "Documents from Saltmarsh University Hospital" in text_of(page)


def test_what_was_transcribed_from_a_private_document_is_private_too(cast, vault, base, tmp_path):
    bring(vault, tmp_path, document(allergy(PENICILLIN)))
    (paper,) = kept(vault, "DocumentReference")
    page = f"{base}/record/DocumentReference/{paper.local_id}"
    answer = cast.browser("Ada").submit(
        f"{page}/private", {"on": "yes"}, page=page, follow_redirects=True
    )
    assert "what was transcribed from it: 1 record" in answer.text
    (found,) = kept(vault, "AllergyIntolerance")
    assert found.labels & Label.PRIVATE


def test_what_a_private_document_says_is_private_from_the_start(vault):
    keep_records(vault, [PATIENT, letter(document(allergy(PENICILLIN)), "text/xml")])
    (paper,) = kept(vault, "DocumentReference")
    keep.mark_private(vault, paper.local_id, on=True)
    transcribe.run(vault)
    (found,) = kept(vault, "AllergyIntolerance")
    assert found.labels & Label.PRIVATE


def test_a_document_that_was_replaced_speaks_no_more(vault):
    replaced = letter(document(allergy(PENICILLIN)), "text/xml") | {"status": "superseded"}
    keep_records(vault, [PATIENT, replaced])
    transcribe.run(vault)
    assert not kept(vault, "AllergyIntolerance")


def again(vault, hospital, paper):
    """Let the hospital send its document anew, and read it."""
    keep_records(vault, [paper], connection_id=hospital)
    transcribe.run(vault)


ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
LEVEL = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"


@pytest.mark.parametrize(
    ("marked", "label"),
    [
        ({"meta": {"security": [{"system": ACT, "code": "PSY"}]}}, Label.PSY),
        ({"meta": {"security": [{"system": LEVEL, "code": "R"}]}}, Label.R),
        ({"securityLabel": [{"coding": [{"system": ACT, "code": "HIV"}]}]}, Label.HIV),
    ],
    ids=["of a kind", "restricted", "as its own element"],
)
def test_what_a_sensitive_document_says_is_as_sensitive(vault, marked, label):
    paper = letter(OPEN, "text/xml")
    hospital = keep_records(vault, [PATIENT, paper | marked])
    transcribe.run(vault)
    for type_ in ("DocumentReference", "AllergyIntolerance"):
        assert [one.labels for one in kept(vault, type_)] == [label]
    assert all(one.labels == label for one in kept(vault, "Provenance"))
    again(vault, hospital, paper)
    assert [one.labels for one in kept(vault, "AllergyIntolerance")] == [Label.NONE]
    again(vault, hospital, paper | marked | {"description": "once more"})
    assert [one.labels for one in kept(vault, "AllergyIntolerance")] == [label]


def test_what_two_documents_say_is_as_sensitive_as_both(vault):
    marked = {"meta": {"security": [{"system": ACT, "code": "PSY"}]}}
    other = letter(
        document_open(allergy(PENICILLIN), medicine(METOPROLOL)), "text/xml", id_="paper-2"
    )
    hospital = keep_records(vault, [PATIENT, letter(OPEN, "text/xml") | marked])
    transcribe.run(vault)
    again(vault, hospital, other)
    (found,) = kept(vault, "AllergyIntolerance")
    assert found.labels & Label.PSY
    (found,) = kept(vault, "MedicationStatement")
    assert not found.labels & Label.PSY


def test_entries_of_a_private_document_are_private_in_the_transaction_that_keeps_them(vault):
    keep_records(vault, [PATIENT, letter(OPEN, "text/xml")])
    (paper,) = kept(vault, "DocumentReference")
    keep.mark_private(vault, paper.local_id, on=True)
    marked = []

    def look(connection):
        """Say of each transaction, as it ends, whether all entries in it are private."""
        run = connection.exec_driver_sql
        if run("SELECT 1 FROM sqlite_master WHERE name = 'record'").first():
            number = KINDS["AllergyIntolerance"].number
            found = run("SELECT labels FROM record WHERE type = ?", (number,)).scalars()
            marked.extend(bool(labels & Label.PRIVATE) for labels in found)

    event.listen(Engine, "commit", look)
    try:
        transcribe.run(vault)
    finally:
        event.remove(Engine, "commit", look)
    assert marked
    assert all(marked)


@pytest.mark.parametrize(
    "taken_back",
    [{"status": "entered-in-error"}, {"status": "superseded"}, {"docStatus": "entered-in-error"}],
    ids=["mistaken", "replaced", "mistaken in itself"],
)
def test_what_only_a_document_says_that_its_hospital_took_back_is_withdrawn(vault, taken_back):
    paper = letter(OPEN, "text/xml")
    both = letter(document_open(medicine(METOPROLOL)), "text/xml", id_="paper-2")
    more = letter(document_open(allergy(PENICILLIN), medicine(METOPROLOL)), "text/xml")
    hospital = keep_records(vault, [PATIENT, more, both])
    transcribe.run(vault)
    again(vault, hospital, more | taken_back)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]
    assert [one.withdrawn for one in kept(vault, "MedicationStatement")] == [False]  # another says
    again(vault, hospital, paper)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [False]


def test_what_a_document_says_no_more_in_its_next_version_is_withdrawn(vault):
    hospital = keep_records(vault, [PATIENT, letter(OPEN, "text/xml")])
    transcribe.run(vault)
    again(vault, hospital, letter(document_open(medicine(METOPROLOL)), "text/xml"))
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]
    assert [one.withdrawn for one in kept(vault, "MedicationStatement")] == [False]


NOTHING = document_open()


def test_what_a_document_said_is_withdrawn_when_its_next_version_has_no_entries(vault):
    hospital = keep_records(vault, [PATIENT, letter(OPEN, "text/xml")])
    transcribe.run(vault)
    again(vault, hospital, letter(NOTHING, "text/xml"))
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]
    again(vault, hospital, letter(OPEN, "text/xml"))
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [False]


def test_what_a_document_said_is_withdrawn_when_its_next_version_is_no_clinical_document(vault):
    hospital = keep_records(vault, [PATIENT, letter(OPEN, "text/xml")])
    transcribe.run(vault)
    again(vault, hospital, letter(b"Dear Ada, all is well.", "text/plain"))
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]


def edition(content, *, name, number="", series="set", replaces=""):
    """Return a document as one version of a series, or as replacing another one."""
    told = f'<setId root="1.2.3" extension="{series}"/>' if number else ""
    told += f'<versionNumber value="{number}"/>' if number else ""
    if replaces:
        parent = f'<parentDocument><id root="1.2.3" extension="{replaces}"/></parentDocument>'
        told += f'<relatedDocument typeCode="RPLC">{parent}</relatedDocument>'
    head = f'<id root="1.2.3" extension="{name}"/>{told}<title>'
    return content.replace(b"<title>", head.encode(), 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "a", "number": "1"}, {"name": "b", "number": "2"}),
        ({"name": "a"}, {"name": "b", "replaces": "a"}),
    ],
    ids=["by series and number", "by the id that it replaces"],
)
def test_a_file_that_replaces_another_one_silences_it_also_without_entries(
    vault, tmp_path, first, second
):
    bring(vault, tmp_path, edition(OPEN, **first), "old.xml")
    transcribe.run(vault)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [False]
    bring(vault, tmp_path, edition(NOTHING, **second), "new.xml")
    transcribe.run(vault)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]


def test_an_older_version_that_comes_later_does_not_speak(vault, tmp_path):
    more = document_open(medicine(METOPROLOL))
    bring(vault, tmp_path, edition(more, name="b", number="10"), "new.xml")
    bring(vault, tmp_path, edition(OPEN, name="a", number="9"), "old.xml")
    transcribe.run(vault)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]
    assert [one.withdrawn for one in kept(vault, "MedicationStatement")] == [False]


def test_a_file_cannot_silence_what_a_hospital_sent(vault, tmp_path):
    keep_records(vault, [PATIENT, letter(edition(OPEN, name="a", number="1"), "text/xml")])
    bring(vault, tmp_path, edition(NOTHING, name="b", number="2", replaces="a"), "new.xml")
    transcribe.run(vault)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [False]


def test_a_hospitals_document_that_replaces_another_one_silences_it(vault):
    old = letter(OPEN, "text/xml")
    new = letter(NOTHING, "text/xml", id_="paper-2") | {
        "relatesTo": [
            {"code": "replaces", "target": {"reference": f"DocumentReference/{old['id']}"}}
        ]
    }
    keep_records(vault, [PATIENT, old, new])
    transcribe.run(vault)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]


def test_two_documents_that_replace_each_other_both_speak(vault, tmp_path):
    more = document_open(medicine(METOPROLOL))
    bring(vault, tmp_path, edition(OPEN, name="a", replaces="b"), "one.xml")
    bring(vault, tmp_path, edition(more, name="b", replaces="a"), "two.xml")
    transcribe.run(vault)
    for type_ in ("AllergyIntolerance", "MedicationStatement"):
        assert [one.withdrawn for one in kept(vault, type_)] == [False]


def test_what_a_document_said_is_withdrawn_with_it_when_a_hospital_offers_it_no_more(vault):
    hospital = keep_records(vault, [PATIENT, letter(OPEN, "text/xml")])
    transcribe.run(vault)
    keep_records(vault, [PATIENT], connection_id=hospital)
    with vault.read() as session:
        (last,) = session.scalars(
            select(Pull.id).where(Pull.connection_id == hospital).order_by(Pull.id.desc()).limit(1)
        )
    assert keep.withdraw_unseen(vault, hospital, last, ["DocumentReference"]) == 1
    transcribe.run(vault)
    assert [one.withdrawn for one in kept(vault, "AllergyIntolerance")] == [True]


def test_a_hospital_that_writes_our_mark_on_a_document_does_not_stop_its_reading(vault):
    marked = {"meta": {"tag": [TRANSCRIBED]}}
    keep_records(vault, [PATIENT, letter(OPEN, "text/xml") | marked])
    transcribe.run(vault)
    assert len(kept(vault, "AllergyIntolerance")) == 1


def test_the_page_of_a_document_counts_what_was_taken_into_the_record(cast, vault, base, tmp_path):
    bring(vault, tmp_path, document(allergy(PENICILLIN), "<act><code/></act>"))
    (paper,) = kept(vault, "DocumentReference")
    page = text_of(
        cast.browser("Ada").get(f"{base}/record/DocumentReference/{paper.local_id}/file/0").text
    )
    assert "Taken into the record" in page
    assert "Allergies 1" in page
    assert cda_entries.UNTOLD in page
    assert "Listed 1" in page
    own = text_of(cast.browser("Ada").get(f"{base}/record/DocumentReference/{paper.local_id}").text)
    assert "Taken into the record from this document: Allergies 1. What it says besides" in own


def test_an_own_export_gives_document_and_records_back(cast, vault, base, tmp_path):
    content = document(allergy(PENICILLIN), medicine(METOPROLOL))
    bring(vault, tmp_path, content)
    owned = gate.owner_export(vault, ACTOR, form="zip")
    packed = b"".join(package.export(owned, now=clock.now()))
    other = cast.vault("Ben")
    bring(other, tmp_path, packed, "export.zip")
    assert len(kept(other)) == len(kept(vault))
    (paper,) = kept(other, "DocumentReference")
    with other.read() as session:
        (link,) = records.attachments(session, paper.pk)
        assert records.attachment(session, link.hash)[1] == content


# ------------------------------------------------------------------------------ five real systems


def jones():
    """Return (given name, file) of the documents about a Jones born on 1 May 1947."""
    found = []
    for path in sorted((corpus() / "ccda" / "vendor").glob("*.xml")):
        made = [json.loads(one) for one in cda_entries.transcribe(path.read_bytes()).resources]
        for one in made:
            if one["resourceType"] == "Patient" and one.get("birthDate") == "1947-05-01":
                name = one["name"][0]
                if name["family"] == "Jones":
                    found.append((name["given"][0], path))
    return found


@pytest.mark.corpus
def test_isabella_of_five_systems_has_three_allergies_with_fifteen_pieces_of_evidence(
    cast, vault, base, tmp_path
):
    listed = jones()
    assert sorted(given for given, _ in listed) == ["Isabella"] * 5 + ["Myra"]
    for given, path in listed:
        if given == "Isabella":
            assert bring(vault, tmp_path, path.read_bytes(), path.name).state == PullState.DONE
    assert len(kept(vault, "AllergyIntolerance")) == 15
    page = text_of(cast.browser("Ada").get(f"{base}/allergies").text)
    assert page.count("from 5 sources") == 3
    assert "somebody else" not in page
    for given, path in listed:
        if given == "Myra":
            bring(vault, tmp_path, path.read_bytes(), path.name)
    page = text_of(cast.browser("Ada").get(f"{base}/allergies").text)
    assert page.count("from 5 sources") == 3
    assert page.count("its source names Myra Jones, 1 May 1947") == 3


@pytest.mark.corpus
def test_every_page_of_isabellas_documents_is_shown_at_home_and_to_a_doctor(cast, vault, tmp_path):
    for given, path in jones():
        if given == "Isabella":
            bring(vault, tmp_path, path.read_bytes(), path.name)
    assert [path for path, _ in home_pages(cast, "Ada", cast.browser("Ada"))]
    assert [path for path, _ in doctors_pages(cast, "Ada")]


def test_only_what_was_transcribed_here_is_said_to_be_transcribed(cast, vault, base, tmp_path):
    """A hospital can write our mark on anything; it is believed of places of our own only."""
    forged = {
        "resourceType": "AllergyIntolerance",
        "id": "cda-0123456789abcdef0123456789abcdef",
        "meta": {"tag": [TRANSCRIBED]},
        "patient": {"reference": "Patient/pat-1"},
        "code": {"text": "Latex"},
    }
    keep_records(vault, [PATIENT, forged])
    bring(vault, tmp_path, OPEN)
    browser = cast.browser("Ada")
    assert browser.get(f"{base}/allergies").text.count("Transcribed from a document") == 1
    shown = {
        one.document["code"].get("text", "Penicillin"): browser.get(
            f"{base}/record/AllergyIntolerance/{one.local_id}"
        ).text
        for one in kept(vault, "AllergyIntolerance")
    }
    assert "Made here" in shown["Penicillin"]
    assert "Made here" not in shown["Latex"]  # what its sender wrote stands among its fields only
