"""Sharing from the patient's side: the form, the password, the code shown once, who can see."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from phr import clock
from phr.sharing import gate, grants
from phr.store import audit
from phr.store.models import Approval, Grant
from tests.cast import PASSWORDS, Browser, Cast
from tests.fixtures_sharing import ADA, Share, a_record, another_record, keep_all

FORM = {"what": "primary", "hours": "24", "whom": "Dr. Pell", "print": "1", "download": "1"}


@pytest.fixture
def share(cast: Cast) -> Iterator[Share]:
    vault = cast.vault("Ada")
    keep_all(vault, "North Quay", a_record())
    keep_all(vault, "Saltmarsh", another_record())
    return Share(cast.appliance, vault)


def base(cast: Cast, name: str = "Ada") -> str:
    return f"/p/{cast.patients[name]}"


def confirmed(browser: Browser, path: str, data: dict[str, Any], page: str) -> Any:
    """Submit a form and give the password where a page asks for it."""
    answer = browser.submit(path, data, page=page)
    if "confirm.password" in answer.text:
        return browser.submit(path, {**data, "confirm.password": PASSWORDS["Ada"]}, page=page)
    return answer


@pytest.fixture
def later(time_machine: Any) -> Any:
    """Let the six minutes pass in which the password of the sign-in still counts."""

    def pass_by() -> None:
        time_machine.move_to(clock.now() + timedelta(minutes=6), tick=True)

    return pass_by


def once_of(browser: Browser, path: str) -> str:
    found = re.search(r'name="once" value="([0-9a-f]{32})"', browser.get(path).text)
    assert found
    return found[1]


def live(share: Share) -> list[Grant]:
    with share.vault.read() as session:
        return grants.standing(session)


def test_sensitive_is_off_and_one_day_is_the_default(cast: Cast, share: Share) -> None:
    page = cast.browser("Ada").get(f"{base(cast)}/share").text
    boxes = re.findall(r'<input type="checkbox"[^>]*name="also"[^>]*>', page)
    assert len(boxes) == 7
    assert not any("checked" in box for box in boxes)
    assert re.search(r'name="hours" value="24" checked', page)
    assert "You share 7 records" in page
    assert "Left out: 1 record<" in page.replace("</span>", "<")


def test_count_again_works_without_script(cast: Cast, share: Share) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    page = browser.submit(path, {**FORM, "what": "emergency", "do": "count"}, page=path).text
    assert "You share 4 records" in page
    page = browser.submit(path, {**FORM, "also": "mental", "do": "count"}, page=path).text
    assert "You share 8 records" in page
    assert live(share) == []


def test_htmx_gets_only_the_tally(cast: Cast, share: Share) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    page = browser.submit(path, {**FORM, "do": "link"}, page=path, headers={"HX-Request": "true"})
    assert page.text.strip().startswith('<div id="tally"')
    assert "<html" not in page.text
    assert live(share) == []  # a change of the form never makes a link


def test_the_preview_is_what_the_doctor_will_see(cast: Cast, share: Share) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    page = browser.submit(path, {**FORM, "do": "preview"}, page=path).text
    for word in ("Juniper Sample", "Penicillin", "Asthma", "Dr. Pell", "Not listed does not mean"):
        assert word in page
    assert "Hiddendepression" not in page
    assert live(share) == []


def test_a_link_needs_the_password_and_shows_its_code_once(
    cast: Cast, share: Share, later: Any
) -> None:
    browser = cast.browser("Ada")
    later()
    path = f"{base(cast)}/share"
    once = once_of(browser, path)
    asked = browser.submit(path, {**FORM, "do": "link", "once": once}, page=path)
    assert asked.status_code == 403
    assert "confirm.password" in asked.text
    assert live(share) == []
    made = confirmed(browser, path, {**FORM, "do": "link", "once": once}, path)
    assert made.status_code == 200, made.text
    assert re.search(r'value="http://127.0.0.1:8081/s/[0-9a-f]{32}\.[\w-]{43}"', made.text)
    assert re.search(r"<b>\d{3} \d{3}</b>", made.text)
    assert "<svg" in made.text
    assert " style=" not in made.text
    (grant,) = live(share)
    with share.vault.read() as session:
        approval = session.query(Approval).one()
    assert approval.factor == "password"
    assert "Dr. Pell" in approval.shown
    assert "7 records" in approval.shown
    again = browser.submit(path, {**FORM, "do": "link", "once": once}, page=path)
    assert again.status_code == 409  # the same form once more: one effect
    assert [each.id for each in live(share)] == [grant.id]
    assert made.text.count(once) == 0


def test_nobody_and_nothing_are_refused_with_a_sentence(cast: Cast, share: Share) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    answer = confirmed(browser, path, {**FORM, "whom": " ", "do": "link"}, path)
    assert answer.status_code == 422
    assert "for whom" in answer.text
    answer = confirmed(browser, path, {**FORM, "what": "chosen", "do": "link"}, path)
    assert answer.status_code == 422
    assert "at least one kind" in answer.text
    assert live(share) == []


def test_a_viewer_may_see_who_can_see_and_change_nothing(cast: Cast, share: Share) -> None:
    link = share.link()
    stranger = cast.browser("Eve")
    for path in ("/share", "/grants", "/activity", f"/grants/{link.grant_id}"):
        assert stranger.get(base(cast) + path).status_code == 404
    token = stranger.csrf()
    for verb in ("stop", "code", "device", "extend", "pause", "resume"):
        answer = stranger.post(
            f"{base(cast)}/grants/{link.grant_id}/{verb}", data={"csrf": token, "hours": "24"}
        )
        assert answer.status_code == 404
    assert len(live(share)) == 1


def test_one_tap_stops_without_a_password(cast: Cast, share: Share) -> None:
    link = share.link()
    browser = cast.browser("Ada")
    page = f"{base(cast)}/grants"
    assert "One recipient can see parts of this record" in browser.get(page).text
    answer = browser.submit(f"{page}/{link.grant_id}/stop", {}, page=page)
    assert answer.status_code == 303
    after = browser.get(page).text
    assert "Nobody outside can see this record" in after
    assert "Ended by you" in after
    assert "copies already opened, printed, downloaded or sent stay" in after


def test_a_grant_of_another_record_is_not_there(cast: Cast, share: Share) -> None:
    link = share.link()
    eve = cast.browser("Eve")
    own = base(cast, "Eve")
    for verb in ("stop", "code", "device"):
        answer = eve.submit(f"{own}/grants/{link.grant_id}/{verb}", {}, page=f"{own}/grants")
        assert answer.status_code in {404, 410}
    assert len(live(share)) == 1


def test_extending_asks_for_the_password(cast: Cast, share: Share, later: Any) -> None:
    link = share.link()
    browser = cast.browser("Ada")
    later()
    page = f"{base(cast)}/grants"
    path = f"{page}/{link.grant_id}/extend"
    assert browser.submit(path, {"hours": "168"}, page=page).status_code == 403
    assert confirmed(browser, path, {"hours": "168"}, page).status_code == 303
    (grant,) = live(share)
    assert (grant.ends_at - clock.now()).days == 6


def test_pause_is_free_and_going_on_needs_the_password(
    cast: Cast, share: Share, later: Any
) -> None:
    link = share.link()
    browser = cast.browser("Ada")
    later()
    page = f"{base(cast)}/grants"
    assert browser.submit(f"{page}/{link.grant_id}/pause", {}, page=page).status_code == 303
    assert live(share)[0].state == "suspended"
    assert browser.submit(f"{page}/{link.grant_id}/resume", {}, page=page).status_code == 403
    assert confirmed(browser, f"{page}/{link.grant_id}/resume", {}, page).status_code == 303
    assert live(share)[0].state == "active"


def test_a_new_code_is_shown_once(cast: Cast, share: Share) -> None:
    link = share.link()
    browser = cast.browser("Ada")
    page = f"{base(cast)}/grants"
    answer = browser.submit(f"{page}/{link.grant_id}/code", {}, page=page)
    code = re.search(r"<b>(\d{3}) (\d{3})</b>", answer.text)
    assert code
    assert f"{code[1]} {code[2]}" not in browser.get(page).text


def test_print_or_save_goes_through_the_gate_and_the_log(cast: Cast, share: Share) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    made = confirmed(browser, path, {**FORM, "do": "paper"}, path)
    assert made.status_code == 303, made.text
    paper = made.headers["location"]
    page = browser.get(paper)
    assert "Penicillin" in page.text
    assert "Hiddendepression" not in page.text
    bundle = browser.get(f"{paper}/json")
    assert bundle.status_code == 200, bundle.text
    assert bundle.json()["resourceType"] == "Bundle"
    assert browser.get(f"{paper}/html").text.startswith("<!doctype html>")
    assert browser.get(f"{paper}/exe").status_code == 404
    with share.vault.read() as session:
        events = [each.event for each in audit.entries(session, limit=4)]
    assert events == ["paper.saved", "paper.saved", "paper.shown", "grant.approved"]
    assert live(share)[0].ends_at < clock.now() + timedelta(hours=1, seconds=1)


def test_no_link_is_made_where_it_could_not_be_opened_safely(
    open_appliance: Any, cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    monkeypatch.setattr(type(cast.appliance.settings), "public_is_safe", property(lambda _: False))
    page = browser.get(path).text
    assert "Can your doctor reach this box?" in page
    assert 'value="link"' not in page
    assert 'value="paper"' in page
    answer = confirmed(browser, path, {**FORM, "do": "link"}, path)
    assert answer.status_code == 422
    assert live(share) == []


def test_the_log_speaks_in_sentences_and_filters_by_recipient(cast: Cast, share: Share) -> None:
    one, other = share.link(), share.link(recipient="Dr. Rue")
    share.claimed(one)
    gate.end(share.vault, other.grant_id, "patient", ADA, now=clock.now())
    browser = cast.browser("Ada")
    page = browser.get(f"{base(cast)}/activity").text
    assert "<b>Dr. Pell</b> opened the link with the right code." in page
    assert "stopped sharing with Dr. Rue." in page
    only = browser.get(f"{base(cast)}/activity?grant={one.grant_id}").text
    assert "opened the link with the right code" in only
    assert "stopped sharing with Dr. Rue" not in only


def test_names_and_reasons_of_the_form_are_escaped(cast: Cast, share: Share) -> None:
    evil = '"><script>alert(1)</script>'
    share.link(recipient=evil, reason=evil)
    browser = cast.browser("Ada")
    for path in ("/grants", "/activity"):
        page = browser.get(base(cast) + path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


def test_a_long_log_goes_on_with_the_earlier_lines(cast: Cast, share: Share) -> None:
    with share.vault.write() as session:
        for number in range(150):
            audit.append(session, share.vault, "link.viewed", ADA, section=f"x{number}")
    browser = cast.browser("Ada")
    first = browser.get(f"{base(cast)}/activity").text
    earlier = re.search(r'href="([^"]*activity\?before=\d+)"', first)
    assert earlier
    second = browser.get(earlier[1]).text
    assert first.count("<time") == 100
    assert 50 <= second.count("<time") < 100
