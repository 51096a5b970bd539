"""Sharing from the patient's side: the form, the password, the code shown once, who can see."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from phr import clock, push
from phr.fhir.record import Selection
from phr.sharing import gate, given, grants
from phr.sharing import provision as policy
from phr.sharing.channels import opened
from phr.store import audit, backup, records, restore
from phr.store.models import Approval, Grant
from tests.cast import PASSWORDS, Browser, Cast
from tests.fixtures_sharing import ADA, PUBLIC_URL, Share, a_record, another_record, keep_all

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
    assert "1 record with a sensitive label" in page
    assert "1 record of other kinds, years or places, or kept private" in page  # an old result


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


# ------------------------------------------------------------------ single records


def id_of(share: Share, type_: str, text: str) -> str:
    """Return the local id of the record of this type that holds a text."""
    with share.vault.read() as session:
        every = records.select(session, share.vault, Selection(types=(type_,)))
    return next(one.local_id for one in every if text.encode() in one.body)


def picked(page: str) -> list[tuple[str, bool]]:
    """Return each record that a list offers, and whether it is taken out."""
    found = re.findall(r'<input type="checkbox"[^>]*name="without" value="(\w+)"([^>]*)>', page)
    return [(local_id, "checked" in more) for local_id, more in found]


def test_single_records_are_taken_out_of_a_share_and_the_count_follows(
    cast: Cast, share: Share
) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    asthma = id_of(share, "Condition", "Asthma")
    listed = browser.submit(path, {**FORM, "do": "pick"}, page=path).text
    assert "Leave out single records" in listed
    assert (asthma, False) in picked(listed)
    assert "Hiddendepression" not in listed  # it would not be shared: nothing to take out
    form = {**FORM, "without": asthma}
    page = browser.submit(path, {**form, "do": "count"}, page=path).text
    assert "You share 6 records" in page
    assert "1 record one by one" in page
    assert picked(page) == [(asthma, True)]
    seen = browser.submit(path, {**form, "do": "preview"}, page=path).text
    assert "Asthma" not in seen
    assert f'name="without" value="{asthma}"' in seen  # it travels on to the link
    confirmed(browser, path, {**form, "do": "link"}, path)
    (grant,) = live(share)
    assert grant.provision["excluded"] == [asthma]
    with share.vault.read() as session:
        assert "Left out one by one: 1" in session.query(Approval).one().shown


def test_the_list_of_single_records_narrows_by_kind_and_words_and_forgets_nothing(
    cast: Cast, share: Share
) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    allergy = id_of(share, "AllergyIntolerance", "Penicillin")
    form = {**FORM, "do": "pick", "without": allergy}
    only = browser.submit(path, {**form, "kind": "problems"}, page=path).text
    assert "Asthma" in only
    assert "Penicillin" not in only
    assert f'<input type="hidden" name="without" value="{allergy}">' in only
    found = browser.submit(path, {**form, "words": "penicillin"}, page=path).text
    assert picked(found) == [(allergy, True)]
    nothing = browser.submit(path, {**form, "words": "zzzz"}, page=path).text
    assert "No record that would be shared has these words" in nothing


def test_more_single_records_than_fit_are_refused_and_never_shared(
    cast: Cast, share: Share
) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    many = [("without", f"{number:016x}") for number in range(301)]
    pairs = [*FORM.items(), *many, ("do", "link"), ("csrf", browser.csrf())]
    answer = browser.post(
        path,
        content=urlencode(pairs),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 400
    assert "At most 300 records" in answer.text
    assert live(share) == []


# ------------------------------------------------------------------ sharing less


def test_a_live_share_is_narrowed_without_a_password(cast: Cast, share: Share, later: Any) -> None:
    link = share.link()
    later()
    browser = cast.browser("Ada")
    at = f"{base(cast)}/grants/{link.grant_id}"
    page = browser.get(f"{at}/less").text
    kept = re.findall(r'name="part" value="(\w+)" checked', page)
    assert "medicines" in kept
    form = {"part": [key for key in kept if key != "medicines"], "print": "1", "download": "1"}
    form |= {"from": re.findall(r'name="from" value="(\d+)"', page)}
    form |= {"places": re.findall(r'name="places" value="([\d,]+)"', page)}
    asked = browser.submit(f"{at}/less", {**form, "do": "count"}, page=f"{at}/less").text
    assert "They will see 6 records" in asked
    assert "now: 7 records" in asked
    done = browser.submit(f"{at}/less", {**form, "do": "less"}, page=f"{at}/less")
    assert done.status_code == 303
    (grant,) = live(share)
    types = {each for rule in grant.provision["rules"] for each in rule["types"]}
    assert "MedicationRequest" not in types
    assert "Condition" in types
    assert grant.provision["connections"] == []
    with share.vault.read() as session:
        assert audit.entries(session, limit=1)[0].event == "grant.narrowed"


def test_narrowing_takes_out_single_records_and_what_was_out_stays_out(
    cast: Cast, share: Share
) -> None:
    asthma = id_of(share, "Condition", "Asthma")
    allergy = id_of(share, "AllergyIntolerance", "Penicillin")
    preset = policy.preset("primary", now=clock.now())
    link = share.link(replace(preset, excluded=frozenset({asthma})))
    browser = cast.browser("Ada")
    less = f"{base(cast)}/grants/{link.grant_id}/less"
    parts = list(given.pieces(preset))
    form = {"part": parts, "print": "1", "download": "1", "without": allergy}
    listed = browser.submit(less, {**form, "do": "pick"}, page=less).text
    assert (allergy, True) in picked(listed)
    assert asthma not in listed
    assert browser.submit(less, {**form, "do": "less"}, page=less).status_code == 303
    (grant,) = live(share)
    assert grant.provision["excluded"] == sorted([asthma, allergy])


def test_narrowing_to_nothing_and_narrowing_nothing_are_refused_in_words(
    cast: Cast, share: Share
) -> None:
    link = share.link()
    browser = cast.browser("Ada")
    less = f"{base(cast)}/grants/{link.grant_id}/less"
    nothing = browser.submit(less, {"do": "less"}, page=less)
    assert nothing.status_code == 422
    assert "at least one kind" in nothing.text
    parts = list(given.pieces(policy.preset("primary", now=clock.now())))
    nowhere = {"part": parts, "places": "1,2", "print": "1", "download": "1", "do": "less"}
    assert browser.submit(less, nowhere, page=less).status_code == 422  # no place is not all places
    same = {"part": parts, "print": "1", "download": "1", "do": "less"}
    answer = browser.submit(less, same, page=less)
    assert answer.status_code == 422
    assert "nothing changed" in answer.text


def test_a_share_that_ended_cannot_be_narrowed_and_a_viewer_cannot_narrow(
    cast: Cast, share: Share
) -> None:
    link = share.link()
    cast.add_account("Gil")
    cast.let_in("Ada", "Gil", "viewer")
    less = f"{base(cast)}/grants/{link.grant_id}/less"
    assert cast.browser("Gil").get(less).status_code == 403
    gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())
    assert cast.browser("Ada").get(less).status_code == 409


def test_htmx_gets_only_the_new_count_of_a_narrowing(cast: Cast, share: Share) -> None:
    link = share.link()
    browser = cast.browser("Ada")
    less = f"{base(cast)}/grants/{link.grant_id}/less"
    form = {"part": "allergies", "do": "less"}
    piece = browser.submit(less, form, page=less, headers={"HX-Request": "true"}).text
    assert piece.strip().startswith('<div id="tally"')
    assert "They will see 1 record<" in piece
    assert len(live(share)[0].provision["rules"]) > 1  # only counted


# ------------------------------------------------------------------ the outbox folder


def deliver(cast: Cast, share: Share) -> None:
    folder = cast.appliance.settings.outbox_path
    channels = opened(folder)
    push.run_due(share.vault, channels=channels, public_url=PUBLIC_URL, now=clock.now())


def test_a_package_is_saved_to_the_outbox_folder_and_followed_on_its_page(
    cast: Cast, share: Share
) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    form = {"what": "primary", "hours": "24", "whom": "Dr. Müller & Söhne", "do": "folder"}
    made = confirmed(browser, path, form, path)
    assert made.status_code == 303, made.text
    at = made.headers["location"]
    waiting = browser.get(at).text
    assert "Waiting to be saved" in waiting
    assert 'hx-trigger="every 3s"' in waiting
    deliver(cast, share)
    saved = browser.get(at).text
    assert "Saved" in saved
    assert "4 files" in saved
    assert "every 3s" not in saved
    (folder,) = cast.appliance.settings.outbox_path.iterdir()
    assert folder.name.startswith("Dr Muller Sohne-")
    assert f"outbox/{folder.name}" in saved
    assert b"Penicillin" in (folder / "record.html").read_bytes()
    assert "Handed over" in browser.get(f"{base(cast)}/grants").text
    assert "Nobody outside can see this record" in browser.get(f"{base(cast)}/grants").text


def test_a_package_that_waits_in_the_outbox_is_stopped_by_one_tap(cast: Cast, share: Share) -> None:
    browser = cast.browser("Ada")
    path = f"{base(cast)}/share"
    made = confirmed(browser, path, {**FORM, "do": "folder"}, path)
    at = made.headers["location"]
    assert browser.submit(f"{at}/stop", {}, page=at).status_code == 303
    deliver(cast, share)
    page = browser.get(at).text
    assert "Stopped before it was sent" in page
    assert "Ended by you" in page
    assert not cast.appliance.settings.outbox_path.exists()


# ------------------------------------------------------------------ after a restore


def test_after_a_restore_each_share_waits_until_it_is_confirmed_or_stopped(
    cast: Cast, share: Share
) -> None:
    paused, waits = share.link(recipient="Dr. Paused"), share.link(recipient="Dr. Waits")
    gate.suspend(share.vault, paused.grant_id, ADA)
    copy = backup.back_up(cast.appliance.house, cast.appliance.vaults, share.vault.id)
    restore.restore(cast.appliance.house, cast.appliance.vaults, copy.folder)
    browser = cast.browser("Ada")
    page = browser.get(f"{base(cast)}/grants").text
    waiting = page[page.index("Waiting for you") : page.index("By link")]
    assert "Dr. Waits" in waiting
    assert "Dr. Paused" not in waiting
    at = f"{base(cast)}/grants/{waits.grant_id}"
    assert "put back from a backup" in browser.get(at).text
    assert confirmed(browser, f"{at}/resume", {}, f"{base(cast)}/grants").status_code == 303
    assert "Waiting for you" not in browser.get(f"{base(cast)}/grants").text
