"""The patient summary and the emergency card in the real application, and what is saved of them."""

import json
import shutil
import subprocess

import pytest

from phr import clock
from phr.chart.summary import summary as sections_of
from phr.fhir import document
from phr.fhir.record import Selection
from phr.sharing import gate, package, summary
from phr.sharing.gate import Presented
from phr.sharing.provision import Action
from phr.store import audit, records
from phr.views import paper
from tests.fixtures_records import juniper, keep_records
from tests.fixtures_sharing import Share, share

__all__ = ["share"]
BASE = "https://doors.example"


@pytest.fixture
def ada(cast):
    """Ada's browser, with Juniper's records in her vault; she has just given her password."""
    keep_records(cast.vault("Ada"), juniper())
    return cast.browser("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


def test_the_summary_begins_with_allergies_medicines_and_problems(ada, base):
    text = ada.get(f"{base}/summary").text
    places = [text.index(f'id="ips-{each}"') for each in ("allergies", "medications", "problems")]
    assert places == sorted(places)
    assert "Levothyroxine 50 micrograms" in text
    assert "Amoxicillin" not in text  # past


def test_an_empty_record_says_that_nothing_is_known_and_never_that_there_is_nothing(cast):
    text = cast.browser("Eve").get(f"/p/{cast.patients['Eve']}/summary").text
    assert text.count("that does not mean there are none") == 3
    assert "none known" not in text.casefold()


def test_saving_the_summary_is_written_down_and_gives_a_document(ada, base, cast):
    answer = ada.submit(f"{base}/summary/save", {"kind": "json"}, page=f"{base}/summary")
    made = json.loads(answer.content)
    assert answer.headers["content-type"] == package.FHIR_JSON
    assert made["entry"][0]["resource"]["resourceType"] == "Composition"
    with cast.vault("Ada").read() as session:
        (line, *_) = audit.entries(session, limit=1)
    assert (line.event, line.detail["form"]) == ("export.done", "summary.json")


def test_a_kind_that_does_not_exist_is_refused(ada, base):
    answer = ada.submit(f"{base}/summary/save", {"kind": "exe"}, page=f"{base}/summary")
    assert answer.status_code == 400


def test_the_pdf_holds_every_value_that_the_page_shows(ada, base):
    if not paper.possible() or shutil.which("pdftotext") is None:
        pytest.skip("no WeasyPrint (extra pdf) or no pdftotext on this machine")
    answer = ada.submit(f"{base}/summary/save", {"kind": "pdf"}, page=f"{base}/summary")
    assert answer.headers["content-type"] == "application/pdf"
    read = subprocess.run(
        ["pdftotext", "-layout", "-", "-"], input=answer.content, capture_output=True, check=True
    ).stdout.decode()
    for words in ("Juniper Sample", "Penicillin", "5.40", "128/79", "Underactive thyroid"):
        assert words in read


def test_hostile_words_in_a_record_fetch_nothing_and_stay_words_in_the_pdf(cast, base):
    evil = "<img src='http://127.0.0.1:1/x'><script>1</script> Gout"
    problem = {
        "resourceType": "Condition",
        "id": "evil",
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "code": {"text": evil},
    }
    keep_records(cast.vault("Ada"), [problem])
    owned = gate.Owned(cast.vault("Ada"))
    assert b"<script>" not in summary.html(owned, now=clock.now()).encode()


def test_the_card_shows_a_medic_what_matters_and_where_it_is_old(ada, base):
    text = ada.get(f"{base}/card").text
    assert text.count("Penicillin") == 2  # the page and the wallet
    assert "(unclear: on hold)" in text
    assert "Not listed does not mean absent" in text
    assert '<svg class="qr"' not in text


def test_a_card_carries_only_a_link_of_this_house(ada, base, cast):
    good = {"link": f"{cast.appliance.settings.public_url}/s/a.b", "code": "123456"}
    assert "qr" in ada.submit(f"{base}/card", good, page=f"{base}/card").text
    for bad in ({"link": "https://evil.example/s/a.b"}, {"code": "12<b>"}):
        answer = ada.submit(f"{base}/card", good | bad, page=f"{base}/card")
        assert answer.status_code == 404


def test_under_a_grant_the_summary_holds_only_what_it_lets_out(share: Share):
    link = share.link()
    shown = Presented(link.url.rpartition("/")[2].split(".")[0], share.claimed(link))
    released = gate.release(share.vault, shown, Action.VIEW, "link.viewed", now=clock.now())
    made = json.loads(summary.bundle(released, base_url=BASE, now=clock.now()))
    held = {
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in made["entry"]
    }
    allowed = {f"{record.type}/{record.local_id}" for record, _ in released.stream()}
    ours = {"Composition", "Device", "Provenance", "Patient"}
    assert {name for name in held if name.partition("/")[0] not in ours} <= allowed
    for section in made["entry"][0]["resource"]["section"]:
        if "emptyReason" in section:
            assert section["emptyReason"]["coding"][0]["code"] == "withheld"


def test_the_summary_brought_into_another_record_says_the_same(cast):
    vault = cast.vault("Ada")
    keep_records(vault, juniper())
    made = summary.bundle(gate.Owned(vault), base_url=BASE, now=clock.now())
    other = cast.vault("Eve")
    entries = document.loads(made)["entry"]
    keep_records(other, [entry["resource"] for entry in entries], name="A summary")
    assert lines(other) == lines(vault)


def lines(vault):
    """Return what the sections say, without where it is from."""
    with vault.read() as session:
        found = records.select(session, vault, Selection())
    return {
        section.head.slug: sorted(line.cells for line in section.lines)
        for section in sections_of(found, now=clock.now())
    }


def test_the_own_summary_says_that_it_has_what_is_kept_private(ada, base, cast):
    said = "This is your own copy: it has what you keep private"
    assert said not in ada.get(f"{base}/summary").text
    with cast.vault("Ada").read() as session:
        (one, *_) = records.select(
            session, cast.vault("Ada"), Selection(types=("AllergyIntolerance",))
        )
    page = f"{base}/record/{one.type}/{one.local_id}"
    ada.submit(f"{page}/private", {"on": "yes"}, page=page)
    assert said in ada.get(f"{base}/summary").text
