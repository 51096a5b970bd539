"""The link from the other side: a stranger, a doctor, a scanner, a guesser, a second browser."""

import re
import threading
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from phr import clock, gather, ids, keep
from phr.errors import PhrError
from phr.fhir.record import Record, Selection
from phr.sharing import endings, gate, grants, handles, links
from phr.sharing import provision as policy
from phr.sharing.handles import Link
from phr.sharing.links import Outcome
from phr.sharing.provision import Action
from phr.store import audit, records
from phr.store.models import Handle
from tests.cast import PUBLIC, Browser, Cast
from tests.fixtures_sharing import ADA, Share, a_record, another_record, keep_all, lab, recent
from tests.unit.test_picture import JFIF, PICTURE, PLACE, TABLE, exif, jpeg, segment

WRONG = "000000"


@pytest.fixture
def share(cast: Cast) -> Iterator[Share]:
    """Ada's record, shared from the running appliance."""
    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", a_record())
    keep_all(vault, "Saltmarsh", another_record())
    return Share(cast.appliance, vault)


def path_of(link: Link) -> str:
    return link.url.removeprefix(PUBLIC)


def type_code(browser: Browser, link: Link, code: str) -> Any:
    return browser.submit(path_of(link), {"code": code}, page=path_of(link))


def opened(cast: Cast, link: Link) -> Browser:
    """Return a browser in which the right code was typed."""
    browser = cast.stranger()
    answer = type_code(browser, link, link.code)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"] == f"/s/{link.handle_id}"
    return browser


def events(share: Share, link: Link) -> list[str]:
    with share.vault.read() as session:
        return [each.event for each in audit.entries(session, grant_id=link.grant_id)]


def wrong_code(link: Link) -> str:
    return WRONG if link.code != WRONG else "111111"


def test_the_form_names_nobody_and_consumes_nothing(cast: Cast, share: Share) -> None:
    link = share.link(uses=1)
    scanner = cast.stranger()
    for _ in range(20):
        assert scanner.head(path_of(link)).status_code == 200
        answer = scanner.get(path_of(link))
        assert answer.status_code == 200
        for word in ("Juniper", "Sample", "Ada", "Pell", "First visit", "Penicillin"):
            assert word not in answer.text
    assert events(share, link) == ["grant.approved"]
    with share.vault.read() as session:
        assert grants.get(session, link.grant_id).uses_left == 1
        assert session.get_one(Handle, link.handle_id).tries_left == 5


def test_the_right_code_opens_the_record_in_this_browser(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    page = doctor.get(f"/s/{link.handle_id}")
    assert page.status_code == 200
    for word in ("Juniper Sample", "14 Mar 1984", "female", "Ada, with Dr. Pell", "First visit"):
        assert word in page.text
    for word in ("Penicillin", "Levothyroxine 50 ug", "Asthma", "140", "North Quay", "Saltmarsh"):
        assert word in page.text
    assert "The patient chose what to share. This may be incomplete." in page.text
    assert "Not listed does not mean absent." in page.text
    for hidden in ("Hiddendepression", "Hiddenpractitioner", "Secretville"):
        assert hidden not in page.text


def test_a_page_holds_no_secret_and_no_script_of_its_own(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    page = doctor.get(f"/s/{link.handle_id}")
    secret = link.url.rpartition(".")[2]
    assert secret not in page.text
    assert link.code not in page.text
    assert " style=" not in page.text
    assert not re.search(r"<script(?![^>]*src=)", page.text)
    assert page.headers["cache-control"] == "no-store"
    assert "noindex" in page.headers["x-robots-tag"]
    assert "unsafe" not in page.headers["content-security-policy"]


def test_unknown_wrong_and_foreign_are_one_and_the_same_answer(cast: Cast, share: Share) -> None:
    link = share.link()
    stranger = cast.stranger()
    known, secret = path_of(link).removeprefix("/s/").split(".")
    asked = [
        f"/s/{ids.new_id()}.{secret}",  # unknown id
        f"/s/{known}.{ids.new_secret()}",  # wrong secret
        f"/s/{known}",  # not claimed here
        f"/s/{ids.new_id()}",
        f"/s/{known}/results",
        f"/s/{known}/record.json",
        f"/s/{known}/print",
        f"/s/{known}/record/Condition/{'0' * 16}",
        "/s/x",
        "/nothing",
    ]
    answers = [stranger.get(each) for each in asked]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1


def test_five_wrong_codes_lock_the_link_for_the_right_one_too(cast: Cast, share: Share) -> None:
    link = share.link()
    guesser = cast.stranger()
    statuses = [type_code(guesser, link, wrong_code(link)).status_code for _ in range(5)]
    assert statuses == [403, 403, 403, 403, 410]
    owner = cast.stranger()
    locked = owner.get(path_of(link))
    assert "This link is locked" in locked.text
    assert "code" not in re.findall(r'<input[^>]*name="(\w+)"', locked.text)
    now = clock.now()
    handle_id, secret = path_of(link).removeprefix("/s/").split(".")
    claim = links.claim(share.vault, handle_id, secret, link.code, "x", now=now)
    assert claim.outcome is Outcome.LOCKED
    assert events(share, link).count("link.wrong_code") == 5


def test_two_hundred_guesses_at_once_get_five_tries_together(share: Share) -> None:
    link = share.link()
    handle_id, secret = path_of(link).removeprefix("/s/").split(".")
    outcomes: list[Outcome] = []

    def guess() -> None:
        claim = links.claim(share.vault, handle_id, secret, wrong_code(link), "x", now=clock.now())
        outcomes.append(claim.outcome)

    threads = [threading.Thread(target=guess) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 200
    assert outcomes.count(Outcome.WRONG) == 4  # the fifth answers that it is locked now
    assert outcomes.count(Outcome.LOCKED) == 196
    assert events(share, link).count("link.wrong_code") == 5


def test_of_many_right_codes_at_once_exactly_one_browser_wins(share: Share) -> None:
    link = share.link()
    handle_id, secret = path_of(link).removeprefix("/s/").split(".")
    cookies: list[str | None] = []

    def claim() -> None:
        made = links.claim(share.vault, handle_id, secret, link.code, "x", now=clock.now())
        cookies.append(made.cookie)

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(cookie is not None for cookie in cookies) == 1


def test_what_is_no_code_costs_no_try(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = cast.stranger()
    for typed in (
        "",
        "12345",
        "1234567",
        "abcdef",
        "\uff11\uff12\uff13\uff14\uff15\uff16",
        "x" * 5000,
    ):
        assert type_code(doctor, link, typed).status_code == 400
    spaced = f"{link.code[:3]} {link.code[3:]}"
    assert type_code(doctor, link, spaced).status_code == 303


def test_a_second_browser_needs_the_patient(cast: Cast, share: Share) -> None:
    link = share.link()
    opened(cast, link)
    second = cast.stranger()
    answer = type_code(second, link, link.code)
    assert answer.status_code == 409
    assert "another device" in answer.text
    assert "link.second_browser" in events(share, link)
    assert second.get(f"/s/{link.handle_id}").status_code == 404
    links.allow_browser(share.vault, link.grant_id, ADA)
    assert type_code(second, link, link.code).status_code == 303
    assert second.get(f"/s/{link.handle_id}").status_code == 200


def test_a_new_code_opens_a_locked_link_and_kills_the_old_code(cast: Cast, share: Share) -> None:
    link = share.link()
    guesser = cast.stranger()
    for _ in range(5):
        type_code(guesser, link, wrong_code(link))
    fresh = links.new_code(share.vault, link.grant_id, ADA)
    doctor = cast.stranger()
    if fresh != link.code:
        assert type_code(doctor, link, link.code).status_code == 403
    assert type_code(doctor, link, fresh).status_code == 303


def test_a_stopped_link_is_gone_at_the_next_request(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    for path in ("", "/results", "/print", "/record.json"):
        answer = doctor.get(f"/s/{link.handle_id}{path}")
        assert answer.status_code == 410, path
        assert "Juniper" not in answer.text
    assert doctor.get(path_of(link)).status_code == 410  # the right secret, still
    assert cast.stranger().get(f"/s/{link.handle_id}").status_code == 404


def test_time_ends_a_link_without_anybody_doing_anything(
    cast: Cast, share: Share, time_machine: Any
) -> None:
    link = share.link(ends_at=clock.now() + timedelta(hours=1))
    doctor = opened(cast, link)
    time_machine.move_to(clock.now() + timedelta(minutes=61))
    assert doctor.get(f"/s/{link.handle_id}").status_code == 410
    assert cast.stranger().get(path_of(link)).status_code == 410


def test_pages_close_together_are_one_use(cast: Cast, share: Share, time_machine: Any) -> None:
    link = share.link(uses=1)
    doctor = opened(cast, link)
    for path in ("", "/results", "/allergies", ""):
        assert doctor.get(f"/s/{link.handle_id}{path}").status_code == 200
    time_machine.move_to(clock.now() + timedelta(minutes=31))
    answer = doctor.get(f"/s/{link.handle_id}")
    assert answer.status_code == 410
    assert "as often as the patient allowed" in answer.text


def test_a_hidden_record_answers_like_none(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    with share.vault.read() as session:
        found = gate.preview(
            session,
            share.vault,
            policy.Provision((policy.Rule(("Condition",)),), labels=policy.SENSITIVE["mental"][1]),
            Selection(types=("Condition",)),
        )
    by_name = {record.remote_id: record for record in found}
    hidden, shown = by_name["c2"], by_name["c1"]
    base = f"/s/{link.handle_id}/record/Condition"
    assert doctor.get(f"{base}/{shown.local_id}").status_code == 200
    gone = doctor.get(f"{base}/{hidden.local_id}")
    never = doctor.get(f"{base}/{'ab' * 8}")
    assert gone.status_code == never.status_code == 404
    assert gone.text == never.text


def test_what_a_record_points_to_is_named_and_linked_where_it_is_shared(
    cast: Cast, share: Share
) -> None:
    report = {
        "resourceType": "DiagnosticReport",
        "id": "report",
        "status": "final",
        "code": {"text": "Electrolytes"},
        "effectiveDateTime": recent(3),
        "result": [{"reference": "Observation/chloride"}],
    }
    value = lab("chloride", recent(3), "101.0")
    keep_all(share.vault, "Harbour Practice", [report, value])
    link = share.link()
    doctor = opened(cast, link)
    listed = doctor.get(f"/s/{link.handle_id}/other?type=DiagnosticReport").text
    page = doctor.get(re.search(r'href="([^"]+/record/DiagnosticReport/[^"]+)"', listed)[1]).text
    assert "Observation/chloride" not in page
    (place,) = re.findall(r'href="([^"]+/record/Observation/[^"]+)"', page)
    assert "101.0" in doctor.get(place).text


def test_the_address_widens_nothing(cast: Cast, share: Share) -> None:
    provision = policy.Provision(policy.rules_for(["allergies"], days=None, now=clock.now()))
    link = share.link(provision, role="chosen")
    doctor = opened(cast, link)
    base = f"/s/{link.handle_id}"
    assert "Asthma" not in doctor.get(base).text
    for section in ("problems", "results", "medications", "other", "people", "timeline"):
        page = doctor.get(f"{base}/{section}?types=Condition&_include=*")
        for word in ("Asthma", "Sodium", "Levothyroxine", "Hidden"):
            assert word not in page.text, (section, word)
    for path in ("print", "record.json"):
        assert doctor.get(f"{base}/{path}").status_code == 403, path
    for path in ("everything", "history", "../share", "Binary/1", "bundle"):
        assert doctor.get(f"{base}/{path}").status_code == 404, path


def test_download_is_written_down_and_holds_only_what_is_shared(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    answer = doctor.get(f"/s/{link.handle_id}/record.json")
    assert answer.status_code == 200
    types = [entry["resource"]["resourceType"] for entry in answer.json()["entry"]]
    assert types.count("Condition") == 2
    assert "Hidden" not in answer.text
    assert "Secretville" not in answer.text
    assert events(share, link)[0] == "link.downloaded"


def test_what_only_may_be_read_is_not_for_paper(cast: Cast, share: Share) -> None:
    only = frozenset({Action.VIEW})
    provision = policy.Provision(policy.preset("emergency", now=clock.now()).rules, actions=only)
    doctor = opened(cast, link := share.link(provision))
    page = doctor.get(f"/s/{link.handle_id}")
    assert "no-paper" in page.text
    assert "record.json" not in page.text


def test_a_paused_link_says_so_and_goes_on_later(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    gate.suspend(share.vault, link.grant_id, ADA)
    answer = doctor.get(f"/s/{link.handle_id}")
    assert answer.status_code == 403
    assert "paused" in answer.text
    assert "Juniper" not in answer.text


def test_a_sealed_record_says_so_in_words(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    cast.appliance.vaults.seal(share.vault.id)
    answer = doctor.get(f"/s/{link.handle_id}")
    assert answer.status_code == 503
    assert "ask the patient to sign in" in answer.text.replace("\n", " ")


def test_the_cookie_of_one_link_opens_no_other(cast: Cast, share: Share) -> None:
    one, other = share.link(), share.link()
    doctor = opened(cast, one)
    cookie = doctor.cookies.get(f"s-{one.handle_id}")
    doctor.cookies.set(f"s-{other.handle_id}", cookie)
    assert doctor.get(f"/s/{other.handle_id}").status_code == 404


def test_a_head_request_of_a_bound_browser_is_no_view(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    before = events(share, link)
    assert doctor.head(f"/s/{link.handle_id}").status_code == 200
    assert events(share, link) == before


def test_the_link_kept_in_the_vault_is_only_a_hash(share: Share) -> None:
    link = share.link()
    secret = link.url.rpartition(".")[2]
    with share.vault.read() as session:
        handle = handles.of_grant(session, link.grant_id)
        assert handle is not None
        assert handle.secret_hash == ids.fingerprint(secret)
        rows = session.connection().exec_driver_sql("SELECT * FROM handle").fetchall()
    assert secret not in repr(rows)
    assert link.code not in repr(rows)


def test_a_link_of_a_shredded_record_is_unknown(cast: Cast, share: Share) -> None:
    link = share.link()
    with cast.appliance.house.write() as session:
        session.connection().exec_driver_sql("DELETE FROM route")
    assert cast.stranger().get(path_of(link)).status_code == 404
    with pytest.raises(PhrError):
        cast.appliance.vault(ids.new_id())


def with_letters(share: Share, *attachments: dict[str, str]) -> Record:
    """A hospital sends letters; return the record that holds them."""
    letter = {
        "resourceType": "DocumentReference",
        "id": "letters",
        "status": "current",
        "date": recent(5),
        "subject": {"reference": "Patient/1"},
        "content": [{"attachment": each} for each in attachments],
    }
    keep_all(share.vault, "Letters", [letter])
    with share.vault.read() as session:
        (found,) = records.select(session, share.vault, Selection(types=("DocumentReference",)))
    return found


def test_a_letter_opens_in_a_closed_frame_and_not_without_its_record(
    cast: Cast, share: Share
) -> None:
    html = b"<html><body><p>Dear colleague</p><script>alert(1)</script></body></html>"
    letter = with_letters(
        share, {"contentType": "text/html", "data": b64encode(html).decode(), "title": "Letter"}
    )
    place = f"record/DocumentReference/{letter.local_id}/file/0"
    link = share.link()
    page = opened(cast, link).get(f"/s/{link.handle_id}/{place}")
    assert page.status_code == 200
    assert "Dear colleague" in page.text
    assert "script" not in page.text
    assert "sandbox" in page.headers["content-security-policy"]
    assert "link.file" in events(share, link)
    allergies = policy.Provision(policy.rules_for(["allergies"], days=None, now=clock.now()))
    narrow = share.link(allergies, role="chosen")
    assert opened(cast, narrow).get(f"/s/{narrow.handle_id}/{place}").status_code == 404


def test_a_shared_picture_says_nothing_of_the_place_it_was_taken(cast: Cast, share: Share) -> None:
    photo = jpeg(JFIF, segment(0xE1, exif("<", 6)), TABLE)
    taken = with_letters(
        share, {"contentType": "image/jpeg", "data": b64encode(photo).decode(), "title": "Rash"}
    )
    link = share.link()
    place = f"/s/{link.handle_id}/record/DocumentReference/{taken.local_id}/file/0"
    shown = opened(cast, link).get(place)
    assert shown.headers["content-type"] == "image/jpeg"
    assert PLACE in photo
    assert PLACE not in shown.content
    assert PICTURE[:255] in shown.content


def test_a_kept_file_is_saved_only_where_downloading_is_shared(cast: Cast, share: Share) -> None:
    letter = with_letters(share, {"contentType": "application/pdf", "url": "Binary/b1"})
    place = f"record/DocumentReference/{letter.local_id}/file"
    link = share.link()
    doctor = opened(cast, link)
    missing = doctor.get(f"/s/{link.handle_id}/{place}/0")  # not fetched yet
    assert (missing.status_code, "Not here" in missing.text) == (200, True)
    keep.attach(share.vault, letter.pk, "Binary/b1", "application/pdf", b"%PDF-1.4 x")
    saved = doctor.get(f"/s/{link.handle_id}/{place}/0")
    assert saved.content == b"%PDF-1.4 x"
    assert saved.headers["content-disposition"].startswith("attachment")
    assert doctor.get(f"/s/{link.handle_id}/{place}/1").status_code == 404
    only = policy.Provision(
        policy.preset("primary", now=clock.now()).rules, actions=frozenset({Action.VIEW})
    )
    screen = share.link(only)
    assert opened(cast, screen).get(f"/s/{screen.handle_id}/{place}/0").status_code == 403


def test_an_open_page_is_told_of_the_end(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    heard: list[Any] = []
    listener = threading.Thread(
        target=lambda: heard.append(doctor.get(f"/s/{link.handle_id}/events"))
    )
    listener.start()
    moment = threading.Event()
    for _ in range(1000):  # until the page listens
        if endings.watching(link.grant_id) or moment.wait(0.01):
            break
    gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    listener.join(20)
    (answer,) = heard
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: ended" in answer.text
    assert endings.watching(link.grant_id) == 0


def test_only_a_bound_browser_may_listen(cast: Cast, share: Share) -> None:
    link = share.link()
    assert cast.stranger().get(f"/s/{link.handle_id}/events").status_code == 404


def test_the_patient_is_told_of_a_locked_link(cast: Cast, share: Share) -> None:
    link = share.link()
    guesser = cast.stranger()
    for _ in range(5):
        type_code(guesser, link, wrong_code(link))
    (warning,) = cast.appliance.house.warnings(share.vault.id)
    assert "five wrong codes" in warning
    assert "Pell" not in warning


def test_every_shared_record_is_reachable_by_its_kind(cast: Cast, share: Share) -> None:
    goal = {
        "resourceType": "Goal",
        "id": "g1",
        "lifecycleStatus": "active",
        "description": {"text": "Walk to the lighthouse"},
        "subject": {"reference": "Patient/1"},
        "startDate": recent(30)[:10],
    }
    keep_all(share.vault, "Third", [goal])
    link = share.link()
    doctor = opened(cast, link)
    kinds = doctor.get(f"/s/{link.handle_id}/other").text
    assert f"/s/{link.handle_id}/other?type=Goal" in kinds
    assert "Walk to the lighthouse" in doctor.get(f"/s/{link.handle_id}/other?type=Goal").text
    assert "Walk to the lighthouse" in doctor.get(f"/s/{link.handle_id}/print").text
    hidden = doctor.get(f"/s/{link.handle_id}/other?type=Practitioner").text
    assert "Hiddenpractitioner" not in hidden


def test_what_the_patient_said_is_the_same_is_so_for_the_doctor(cast: Cast, share: Share) -> None:
    """A split shows as split on the first page, in its section and on paper; undone, as one."""
    keep_all(share.vault, "Harbour", [{**a_record()[1], "recorder": None}])
    gather.settle(share.vault)
    link = share.link()
    doctor = opened(cast, link)
    home = f"/s/{link.handle_id}"

    def told() -> list[int]:
        line = re.compile(r"<(?:h3|b)[^>]*>(?:<a [^>]*>)?Penicillin<")
        pages = ("", "/allergies", "/print")
        return [len(line.findall(doctor.get(home + each).text)) for each in pages]

    assert told() == [1, 1, 2]
    assert "from 2 hospitals" in doctor.get(f"{home}/allergies").text
    with share.vault.read() as session:
        found = records.select(session, share.vault, Selection(types=("AllergyIntolerance",)))
    step = gather.split(share.vault, found[0].local_id, by="ada", now=clock.now())
    assert "from 2 hospitals" not in doctor.get(f"{home}/allergies").text
    assert told() == [2, 2, 4]
    gather.undo(share.vault, step, now=clock.now())
    assert told() == [1, 1, 2]


def test_many_places_are_counted_first_and_named_at_the_end_of_the_printed_page(
    cast: Cast, share: Share
) -> None:
    for number in range(4):
        keep_all(share.vault, f"Clinic {number}", another_record())
    link = share.link()
    doctor = opened(cast, link)
    first = doctor.get(f"/s/{link.handle_id}").text
    assert "6 places, " in first
    head = first[: first.index("<h2")]
    assert "<details" in head
    printed = doctor.get(f"/s/{link.handle_id}/print").text
    assert printed.rindex("Clinic 3") > printed.rindex("Data as of")


def test_every_page_of_a_link_names_whose_record_it_is(cast: Cast, share: Share) -> None:
    link = share.link()
    doctor = opened(cast, link)
    for section in ("results", "allergies", "problems", "timeline"):
        page = doctor.get(f"/s/{link.handle_id}/{section}").text
        assert "<b>Juniper Sample</b> · born 14 Mar 1984" in page, section
