"""A doctor with a link sends something back, and the patient decides, page by page."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from phr import clock
from phr.sharing import gate, inbox
from phr.sharing import provision as policy
from phr.sharing.provision import READING, Action, Provision
from phr.store.models import Arrival, ArrivalState
from tests.cast import HOME, Browser, Cast
from tests.fixtures_sharing import ADA, Share, a_record, keep_all, lab

CANARY = "Zinnoberkanarie"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00"
    b"\x1f\x15\xc4\x89"
)


class Practice:
    """A browser with an opened link, and the record that it is about."""

    def __init__(self, cast: Cast, *, may_send: bool = True) -> None:
        self.cast, self.vault = cast, cast.vault("Ada")
        self.share = Share(cast.appliance, self.vault)
        rules = policy.preset("primary", now=clock.now()).rules
        more = {Action.CONTRIBUTE} if may_send else set()
        self.link = self.share.link(Provision(rules, actions=READING | more))
        self.web: Browser = cast.stranger()
        page = self.link.url.partition("8081")[2]
        self.csrf = self.web.csrf(page)
        assert self.web.submit(page, {"code": self.link.code}, page=page).status_code == 303
        self.at = f"/s/{self.link.handle_id}"

    def sends(self, *files: tuple[str, bytes], **typed: str) -> Any:
        page = f"{self.at}/send"
        data = {"csrf": self.web.csrf(page), **typed}
        given = [("file", (name, content, "text/html")) for name, content in files]
        return self.web.post(page, data=data, files=given or None)

    def arrivals(self, *states: ArrivalState) -> list[Arrival]:
        with self.vault.read() as session:
            return inbox.listed(session, *(states or tuple(ArrivalState)))


@pytest.fixture
def practice(cast: Cast) -> Practice:
    keep_all(cast.vault("Ada"), "North Quay", a_record())
    return Practice(cast)


def text_of(answer: Any) -> str:
    return re.sub(r"\s+", " ", answer.text)


# ------------------------------------------------------------------ the doctor's side


def test_a_link_offers_to_send_only_where_the_patient_said_so(cast: Cast) -> None:
    keep_all(cast.vault("Ada"), "North Quay", a_record())
    silent = Practice(cast, may_send=False)
    assert "Send to the patient" not in silent.web.get(silent.at).text
    assert silent.web.get(f"{silent.at}/send").status_code == 404
    typed = {"csrf": silent.csrf, "note": "hello"}
    refused = silent.web.post(f"{silent.at}/send", data=typed)
    assert refused.status_code == 404
    assert silent.arrivals() == []


def test_a_note_is_received_confirmed_and_listed_but_not_shown_again(practice: Practice) -> None:
    assert "Send to the patient" in practice.web.get(practice.at).text
    answer = practice.sends(title="Advice", note=CANARY, signed="A. Pell")
    assert answer.status_code == 303
    page = practice.web.get(answer.headers["location"])
    assert "Received: “Advice”" in text_of(page)
    assert "The patient decides about it" in text_of(page)
    assert CANARY not in page.text
    (held,) = practice.arrivals()
    assert (held.title, held.signed, held.handle_id) == (
        "Advice",
        "A. Pell",
        practice.link.handle_id,
    )


def test_a_note_and_a_file_are_two_arrivals(practice: Practice) -> None:
    assert practice.sends(("letter.pdf", PDF), note="see the letter").status_code == 303
    assert sorted(one.kind for one in practice.arrivals()) == ["file", "note"]


def test_what_is_unfit_says_why_and_keeps_what_was_typed(practice: Practice) -> None:
    answer = practice.sends(("page.html", b"<html>x</html>"), note="my words", title="My title")
    assert answer.status_code == 422
    assert inbox.NOT_TAKEN in text_of(answer)
    assert "my words" in answer.text
    assert "My title" in answer.text
    assert practice.arrivals() == []  # the note neither: both or none
    assert "write a note or choose a file" in text_of(practice.sends())
    assert practice.sends(("big.pdf", b"%PDF-" + bytes(11 << 20))).status_code == 422


def test_the_same_sent_twice_is_one_arrival_and_says_so(practice: Practice) -> None:
    practice.sends(note="once")
    again = practice.sends(note="once")
    assert "This was here already" in text_of(practice.web.get(again.headers["location"]))
    assert len(practice.arrivals()) == 1


def test_a_limit_is_told_with_a_status_of_its_own(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_HOURLY", 1)
    practice.sends(note="one")
    assert practice.sends(note="two").status_code == 429


def test_own_things_are_amended_and_taken_back(practice: Practice) -> None:
    practice.sends(title="Advice", note="first")
    (first,) = practice.arrivals()
    page = practice.web.get(f"{practice.at}/send/{first.id}")
    assert "In the place of “Advice”" in text_of(page)
    practice.sends(note="second", amends=first.id)
    waiting = practice.arrivals(ArrivalState.WAITING)
    assert [one.chain for one in waiting] == [first.id]
    both = practice.sends(("a.pdf", PDF), note="both", amends=waiting[0].id)
    assert "one thing in the place of another" in text_of(both)
    where = f"{practice.at}/send/{waiting[0].id}/withdraw"
    csrf = practice.web.csrf(f"{practice.at}/send")
    assert practice.web.post(where, data={"csrf": csrf}).status_code == 303
    assert practice.arrivals(ArrivalState.WAITING) == []
    assert "Taken back" in practice.web.get(f"{practice.at}/send?withdrawn=1").text


def test_another_doctor_finds_nothing_of_it(cast: Cast, practice: Practice) -> None:
    practice.sends(title="Secretadvice", note="first")
    (first,) = practice.arrivals()
    other = Practice(cast)
    assert "Secretadvice" not in other.web.get(f"{other.at}/send").text
    assert other.web.get(f"{other.at}/send/{first.id}").status_code == 404
    assert other.web.get(f"{other.at}/send?sent={first.id}").status_code == 200
    csrf = other.web.csrf(f"{other.at}/send")
    where = f"{other.at}/send/{first.id}/withdraw"
    assert other.web.post(where, data={"csrf": csrf}).status_code == 404
    assert len(practice.arrivals(ArrivalState.WAITING)) == 1


def test_a_file_for_a_link_that_never_was_is_not_read(cast: Cast) -> None:
    stranger = cast.stranger()
    nowhere = f"/s/{'0' * 32}/send"

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        raise AssertionError("it was read")

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert stranger.post(nowhere, content=endless(), headers=headers).status_code == 404


def test_an_ended_link_takes_nothing_any_more(practice: Practice) -> None:
    csrf = practice.web.csrf(f"{practice.at}/send")
    gate.end(practice.vault, practice.link.grant_id, "patient", ADA, now=clock.now())
    answer = practice.web.post(f"{practice.at}/send", data={"csrf": csrf, "note": "late"})
    assert answer.status_code == 410
    assert practice.arrivals() == []


# ------------------------------------------------------------------ it shows nowhere


def test_what_waits_shows_on_no_page_and_at_no_door(cast: Cast, practice: Practice) -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [
        {"resource": lab("s1", "2024-05-01", note=[{"text": CANARY}])},
        {"resource": {"resourceType": "AllergyIntolerance", "id": "x", "code": {"text": CANARY},
                      "patient": {"reference": "Patient/1"}}},
    ]}  # fmt: skip
    practice.sends(("r.json", json.dumps(bundle).encode()), note=CANARY, title=CANARY)
    base = f"/p/{cast.patients['Ada']}"
    ada = cast.browser("Ada")
    pages = ("", "/timeline", "/results", "/allergies", "/documents", "/other", "/connections",
             "/card", "/summary", "/share", "/activity", f"/search?q={CANARY}")  # fmt: skip
    for page in pages:
        said = ada.get(f"{base}{page}").text.replace(f'value="{CANARY}"', "")
        assert CANARY not in said.replace(f"“{CANARY}”", ""), page
    doors = ("", "/allergies", "/results", "/documents", "/other", "/print", "/record.json")
    for door in doors:
        assert CANARY not in practice.web.get(f"{practice.at}{door}").text, door
    owned = gate.owner_export(practice.vault, ADA, form="zip")
    assert CANARY.encode() not in b"".join(
        body for type_ in owned.types() for place in owned.origins()
        for _, body in owned.stream(place, type_)
    )  # fmt: skip
    assert CANARY in ada.get(f"{base}/inbox").text


# ------------------------------------------------------------------ the patient's side


def decide(cast: Cast, arrival: Arrival, what: str, who: str = "Ada") -> Any:
    at = f"/p/{cast.patients['Ada']}/inbox/{arrival.id}"
    browser = cast.browser(who)
    return browser.submit(at, {"do": what}, page="/account")


def test_the_menu_counts_what_waits(cast: Cast, practice: Practice) -> None:
    ada, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    assert "Nothing was ever sent" in ada.get(f"{base}/inbox").text
    assert "Inbox (" not in ada.get(f"{base}/results").text
    practice.sends(note="one")
    practice.sends(note="two")
    assert "Inbox (2)" in ada.get(f"{base}/results").text


def test_the_patient_reads_accepts_and_undoes(cast: Cast, practice: Practice) -> None:
    practice.sends(title="Advice", note=CANARY, signed="A. Pell")
    (held,) = practice.arrivals()
    ada, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    page = text_of(ada.get(f"{base}/inbox/{held.id}"))
    assert CANARY in page
    assert "as typed there; nobody checked it" in page
    assert decide(cast, held, "accept").status_code == 303
    documents = text_of(ada.get(f"{base}/documents"))
    assert "Dr. Pell (by link, not verified)" in documents
    assert decide(cast, held, "accept").status_code == 422
    assert decide(cast, held, "undo").status_code == 303
    assert "Advice" not in ada.get(f"{base}/documents").text
    assert decide(cast, held, "reject").status_code == 303
    assert decide(cast, held, "nonsense").status_code == 400


def test_records_show_each_field_and_whose_they_say_they_are(
    cast: Cast, practice: Practice
) -> None:
    other = {"resourceType": "Patient", "id": "p", "name": [{"family": "Other"}],
             "birthDate": "1950-01-01"}  # fmt: skip
    entries = [{"resource": each} for each in (other, lab("s1", "2024-05-01", "4.17"))]
    found = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    practice.sends(("r.json", json.dumps(found).encode()))
    (held,) = practice.arrivals()
    page = text_of(cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/inbox/{held.id}"))
    assert "4.17" in page
    assert "This may be about somebody else" in page
    assert "born 1950-01-01" in page or "1950" in page


def test_a_file_is_shown_closed_off_or_only_saved(cast: Cast, practice: Practice) -> None:
    practice.sends(("letter.pdf", PDF))
    rtf = b"{\\rtf1 Dear colleague}"
    practice.sends(("letter.rtf", rtf))
    letter, pdf = practice.arrivals()
    assert pdf.media_type == "application/pdf"
    ada, at = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/inbox"
    assert "not opened inside Homeport" in text_of(ada.get(f"{at}/{pdf.id}"))
    saved = ada.get(f"{at}/{pdf.id}/save")
    assert saved.content == PDF
    assert saved.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in saved.headers["content-security-policy"]
    assert "<iframe" in ada.get(f"{at}/{letter.id}").text
    framed = ada.get(f"{at}/{letter.id}/content")
    assert "Dear colleague" in framed.text
    assert "sandbox" in framed.headers["content-security-policy"]
    assert ada.get(f"{at}/nothing/save").status_code == 404
    assert ada.get(f"{at}/{pdf.id}/content").status_code == 404  # no text in it to be shown
    practice.sends(("scan.png", PNG))
    scan = next(one for one in practice.arrivals() if one.name == "scan.png")
    assert ada.get(f"{at}/{scan.id}/content").headers["content-type"] == "image/png"
    csrf = practice.web.csrf(f"{practice.at}/send")
    practice.web.post(f"{practice.at}/send/{scan.id}/withdraw", data={"csrf": csrf})
    assert ada.get(f"{at}/{scan.id}/save").status_code == 404
    assert "not here any more" in text_of(ada.get(f"{at}/{scan.id}"))


def test_a_rule_is_made_told_and_taken_back(cast: Cast, practice: Practice) -> None:
    practice.sends(title="First", note="one")
    (held,) = practice.arrivals()
    assert decide(cast, held, "always").status_code == 303
    practice.sends(title="Second", note="two")
    ada, at = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/inbox"
    page = ada.get(at).text
    assert "Notes from Dr. Pell" in page
    assert "It let in 1" in text_of(ada.get(at))
    where = re.search(rf'action="({HOME})?([^"]+/rules/\d+)"', page)
    assert where is not None
    assert ada.submit(where[2]).status_code == 303
    practice.sends(note="three")
    assert len(practice.arrivals(ArrivalState.WAITING)) == 1
    assert ada.submit(f"{at}/rules/x").status_code == 404


def test_taking_back_what_was_accepted_shows_and_the_patient_reads_what_happens(
    cast: Cast, practice: Practice
) -> None:
    practice.sends(title="Potassium", note="Repeat it.")
    (held,) = practice.arrivals()
    assert decide(cast, held, "accept").status_code == 303
    page = f"{practice.at}/send"
    assert practice.web.submit(f"{page}/{held.id}/withdraw", page=page).status_code == 303
    told = practice.web.get(page).text
    assert "Taken back; the patient is asked to take it out." in told
    assert f"{held.id}/withdraw" not in told
    (asked,) = practice.arrivals(ArrivalState.WAITING)
    answer = decide(cast, asked, "accept")
    said = cast.browser("Ada").get(answer.headers["location"]).text
    assert "stands beside the record now" not in said
    assert "Taken back by the sender, and taken out of the record." in said
    assert "Taken back; the patient is asked to take it out." in practice.web.get(page).text


def test_what_replaces_a_rejected_one_waits_and_says_what_it_replaces(
    cast: Cast, practice: Practice
) -> None:
    practice.sends(title="First", note="First.")
    (first,) = practice.arrivals()
    decide(cast, first, "always")
    decide(cast, first, "undo")
    decide(cast, first, "reject")
    practice.sends(title="Second", note="Second.", amends=first.id)
    (second,) = practice.arrivals(ArrivalState.WAITING)  # the rule would have let it in
    browser, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    shown = text_of(browser.get(f"{base}/inbox/{second.id}"))
    assert "First</a>, received" in shown
    assert "which you had rejected" in shown
    listed = text_of(browser.get(f"{base}/inbox"))
    assert "Replaced by the sender with another, received" in listed
    assert "Withdrawn" in listed
    assert "by Ada" not in listed.partition('id="done"')[2]
    told = re.sub(r"<[^>]+>", "", text_of(browser.get(f"{base}/activity")))
    assert "lets in" not in told
    assert re.search(r"You\s+let a note of .+ in without asking", told)


def test_the_doctor_reads_the_name_of_the_record_not_the_household_label(
    cast: Cast, practice: Practice
) -> None:
    first = practice.web.get(practice.at).text
    name = re.findall(r"<h1>([^<]+)</h1>", first)[0]
    assert f"For {name} ·" in practice.web.get(f"{practice.at}/send").text


def test_who_may_only_look_decides_nothing(cast: Cast, practice: Practice) -> None:
    practice.sends(note="one")
    (held,) = practice.arrivals()
    page = cast.browser("Cleo").get(f"/p/{cast.patients['Ada']}/inbox/{held.id}")
    assert page.status_code == 200
    assert 'name="do"' not in page.text
    assert decide(cast, held, "accept", who="Cleo").status_code == 403


def test_who_saw_what_tells_of_what_came(cast: Cast, practice: Practice) -> None:
    practice.sends(note="one")
    (held,) = practice.arrivals()
    decide(cast, held, "accept")
    log = text_of(cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/activity"))
    assert "sent a note." in log
    assert "let a note into the record." in log
