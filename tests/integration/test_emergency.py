"""Emergency access: off, on, opened by a stranger with a reason, told at once, over by itself."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from phr import clock, ids
from phr.chart.plain import sentence_case
from phr.errors import InvalidInput
from phr.sharing import emergency, gate, grants
from phr.sharing import provision as policy
from phr.sharing.grants import StepUp
from phr.sharing.provision import SENSITIVE
from phr.store import audit
from tests.cast import PUBLIC, Browser, Cast
from tests.fixtures_sharing import (
    ADA,
    Share,
    a_record,
    another_record,
    condition,
    keep_all,
    label,
    recent,
)

HIDDEN = ("Hiddendepression", "Hiddenpractitioner", "Secretville", "Hiddenvip")
OPENING = {"name": "Dr. Quick, Harbour ER", "reason": "Unconscious after a fall"}
SHOWN = re.compile(re.escape(PUBLIC) + r"(/e/[0-9a-f]{32}\.[A-Za-z0-9_-]{43})")


@pytest.fixture
def share(cast: Cast) -> Iterator[Share]:
    vault = cast.vault("Ada")
    hidden = condition("vip", "Hiddenvip", onsetDateTime=recent(9), meta=label("V"))
    directive = {
        "resourceType": "Consent",
        "id": "adv",
        "status": "active",
        "scope": {"coding": [{"code": "adr"}]},
        "category": [{"coding": [{"code": "acd"}]}],
        "patient": {"reference": "Patient/1"},
        "dateTime": "2020-01-01",
    }
    keep_all(vault, "North Quay", [*a_record(), hidden, directive])
    keep_all(vault, "Saltmarsh", another_record())
    return Share(cast.appliance, vault)


def page_of(cast: Cast) -> str:
    return f"/p/{cast.patients['Ada']}/emergency"


def switched_on(cast: Cast, **more: Any) -> str:
    """Switch it on as Ada does; return the path of the first card."""
    ada, page = cast.browser("Ada"), page_of(cast)
    shown = ada.submit(page, {"weekly": "3", "once": ids.new_id()} | more, page=page)
    assert shown.status_code == 200, shown.text
    found = SHOWN.search(shown.text)
    assert found
    assert 'class="qr"' in shown.text
    return found[1]


def opened(cast: Cast, card: str) -> Browser:
    browser = cast.stranger()
    answer = browser.submit(card, OPENING, page=card)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith("/s/")
    return browser


def first_page(card: str) -> str:
    return "/s/" + card.removeprefix("/e/").partition(".")[0]


def events(share: Share) -> Counter[str]:
    with share.vault.read() as session:
        return Counter(each.event for each in audit.entries(session, limit=500))


# ------------------------------------------------------------------ off and on


def test_it_is_off_until_it_is_switched_on(cast: Cast, share: Share) -> None:
    page = cast.browser("Ada").get(page_of(cast)).text
    assert "Emergency access is off" in page
    with share.vault.read() as session:
        assert emergency.standing(session, now=clock.now()) is None
    unknown = f"/e/{ids.new_id()}.{ids.new_secret()}"
    assert cast.stranger().get(unknown).status_code == 404


def test_switching_it_on_needs_a_fresh_password(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, page = cast.browser("Ada"), page_of(cast)
    later = clock.now() + timedelta(minutes=6)
    monkeypatch.setattr(clock, "now", lambda: later)
    asked = ada.submit(page, {"weekly": "3", "once": ids.new_id()}, page=page)
    assert "confirm.password" in asked.text
    assert not events(share)["grant.approved"]


def test_the_grant_says_emergency_treatment_and_what_was_confirmed(
    cast: Cast, share: Share
) -> None:
    switched_on(cast, also="mental")
    with share.vault.read() as session:
        (grant,) = grants.standing(session)
        shown = grants.approvals(session, grant.id)[0].shown
    assert (grant.purpose, grant.role) == ("ETREAT", "card")
    assert grant.ends_at - grant.starts_at == timedelta(days=365)
    assert "Mental health" in shown
    assert "3 times in 7 days" in shown


def test_what_a_hospital_restricted_can_never_be_ticked(cast: Cast, share: Share) -> None:
    assert "restricted" not in emergency.OFFERED
    card = switched_on(cast, also="restricted")
    assert "Hiddenvip" not in opened(cast, card).get(first_page(card)).text
    now = clock.now()
    wide = policy.Provision(policy.preset("card", now=now).rules, SENSITIVE["restricted"][1])
    with pytest.raises(InvalidInput):
        emergency.switch_on(
            cast.vault("Ben"),
            wide,
            per_week=3,
            grant_id=ids.new_id(),
            step_up=StepUp("ada", "password", now),
            shown="shown",
            actor=ADA,
            now=now,
        )


def test_a_form_sent_twice_makes_one(cast: Cast, share: Share) -> None:
    switched_on(cast)
    ada, page = cast.browser("Ada"), page_of(cast)
    again = ada.submit(page, {"weekly": "3", "once": ids.new_id()}, page=page)
    assert again.status_code == 409
    assert events(share)["grant.approved"] == 1


@pytest.mark.parametrize("weekly", ["", "2", "x", "-1", "9" * 30])
def test_how_often_is_one_of_three(cast: Cast, share: Share, weekly: str) -> None:
    ada, page = cast.browser("Ada"), page_of(cast)
    answer = ada.submit(page, {"weekly": weekly, "once": "x"}, page=page)
    assert answer.status_code == 422
    assert "how often" in answer.text


# ------------------------------------------------------------------ opening a card


def test_the_form_names_nobody_and_consumes_nothing(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    before = events(share)
    scanner = cast.stranger()
    for _ in range(5):
        assert scanner.head(card).status_code == 200
        page = scanner.get(card)
        assert page.status_code == 200
        for word in ("Juniper", "Sample", "Ada", "Penicillin"):
            assert word not in page.text
    assert events(share) == before


def test_it_opens_the_emergency_set_and_nothing_else(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    browser = opened(cast, card)
    page = browser.get(first_page(card))
    assert page.status_code == 200
    for word in ("Juniper Sample", "Penicillin", "Levothyroxine", "Asthma"):
        assert word in page.text
    assert browser.get(f"{first_page(card)}/other?type=Consent").status_code == 200
    for path in ("", "/problems", "/results", "/visits", "/other?type=Observation"):
        answer = browser.get(first_page(card) + path)
        for word in (*HIDDEN, "Sodium", "Body weight"):
            assert word not in answer.text
    for path in ("/print", "/record.json"):
        assert browser.get(first_page(card) + path).status_code == 403


def test_a_sensitive_kind_comes_only_when_it_was_ticked(cast: Cast, share: Share) -> None:
    card = switched_on(cast, also="mental")
    assert "Hiddendepression" in opened(cast, card).get(first_page(card)).text


@pytest.mark.parametrize("missing", ["name", "reason"])
def test_name_and_reason_must_be_given(cast: Cast, share: Share, missing: str) -> None:
    card = switched_on(cast)
    browser = cast.stranger()
    answer = browser.submit(card, OPENING | {missing: " \u200b\n "}, page=card)
    assert answer.status_code == 400
    assert "your name and the reason" in answer.text
    assert not events(share)["card.opened"]
    assert browser.get(first_page(card)).status_code == 404


def test_the_household_is_told_at_once_and_the_log_says_who_and_why(
    cast: Cast, share: Share
) -> None:
    card = switched_on(cast)
    opened(cast, card)
    banner = "Somebody opened the emergency card"
    assert banner in cast.browser("Ada").get(f"/p/{cast.patients['Ada']}").text
    assert banner in cast.browser("Cleo").get(f"/p/{cast.patients['Ada']}").text
    page = cast.browser("Ada").get(page_of(cast)).text
    assert OPENING["name"] in page
    assert OPENING["reason"] in page
    with share.vault.read() as session:
        line = next(e for e in audit.entries(session) if e.event == "card.opened")
    assert line.detail["claimed"] == OPENING["name"]
    assert line.detail["reason"] == OPENING["reason"]
    assert line.actor["kind"] == "recipient"


def test_words_of_strangers_are_one_short_line_and_never_markup(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    words = {"name": "<b>x</b>\n" + "n" * 500, "reason": "\u202e<script>" + "r" * 500}
    assert cast.stranger().submit(card, words, page=card).status_code == 303
    with share.vault.read() as session:
        detail = next(e for e in audit.entries(session) if e.event == "card.opened").detail
    assert (len(detail["claimed"]), len(detail["reason"])) == (80, 200)
    assert "\n" not in detail["claimed"]
    assert "\u202e" not in detail["reason"]
    for path in ("emergency", "grants", "activity"):
        page = cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/{path}").text
        assert "<b>x</b>" not in page
        assert "<script>r" not in page


def test_unknown_wrong_and_foreign_cards_are_one_answer(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    link = share.link()
    paths = [
        card[:-43] + ids.new_secret(),
        f"/e/{ids.new_id()}.{ids.new_secret()}",
        "/e/" + link.url.rpartition("/")[2],
        "/e/x",
    ]
    browser = cast.stranger()
    assert {browser.get(path).status_code for path in paths} == {404}
    form = {"csrf": browser.csrf(card), **OPENING}
    assert {browser.post(path, data=form).status_code for path in paths} == {404}
    as_a_link = "/s/" + card.removeprefix("/e/")
    assert browser.get(as_a_link).status_code == 404
    assert browser.post(as_a_link, data=form | {"code": "000000"}).status_code == 404


def test_another_browser_needs_an_opening_of_its_own(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    opened(cast, card)
    assert cast.stranger().get(first_page(card)).status_code == 404


# ------------------------------------------------------------------ limits


def test_openings_of_a_week_are_counted_over_all_cards(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = switched_on(cast, weekly="1")
    ada, page = cast.browser("Ada"), page_of(cast)
    more = ada.submit(f"{page}/card", page=page)
    second = SHOWN.search(more.text)
    assert second
    opened(cast, card)
    refused = cast.stranger().submit(second[1], OPENING, page=second[1])
    assert refused.status_code == 429
    assert "as often as its owner allows" in refused.text
    assert events(share)["card.refused"] == 1
    assert "tried the emergency card" in ada.get(f"/p/{cast.patients['Ada']}").text
    later = clock.now() + timedelta(days=7, minutes=1)
    monkeypatch.setattr(clock, "now", lambda: later)
    opened(cast, second[1])


def test_fifty_openings_at_once_are_as_many_as_allowed(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    browsers = [cast.stranger() for _ in range(5)]
    tokens = [browser.csrf(card) for browser in browsers]
    seen: Counter[int] = Counter()
    held, start = threading.Lock(), threading.Barrier(5)

    def ask(number: int) -> None:
        start.wait()
        for _ in range(10):
            form = {"csrf": tokens[number], **OPENING}
            status = browsers[number].post(card, data=form).status_code
            with held:
                seen[status] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen == {303: 3, 429: 47}
    assert events(share)["card.opened"] == 3
    assert events(share)["card.refused"] <= emergency.TRIES.free


def test_an_opening_is_over_after_an_hour_by_itself(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = switched_on(cast)
    browser = opened(cast, card)
    start = clock.now()
    monkeypatch.setattr(clock, "now", lambda: start + timedelta(minutes=59))
    assert browser.get(first_page(card)).status_code == 200
    monkeypatch.setattr(clock, "now", lambda: start + timedelta(minutes=61))
    assert browser.get(first_page(card)).status_code == 410
    assert browser.get(f"{first_page(card)}/problems").status_code == 410


# ------------------------------------------------------------------ the end


def test_one_switch_ends_every_card_and_every_open_page(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    ada, page = cast.browser("Ada"), page_of(cast)
    second = SHOWN.search(ada.submit(f"{page}/card", page=page).text)
    assert second
    browser = opened(cast, card)
    off = ada.submit(f"{page}/off", page=page)
    assert off.status_code == 303
    assert browser.get(first_page(card)).status_code == 410
    for each in (card, second[1]):
        assert cast.stranger().get(each).status_code == 410
    assert "Emergency access is off" in ada.get(page).text
    assert ada.submit(f"{page}/off", page=page).status_code == 303  # again: nothing to end
    assert ada.submit(f"{page}/card", page=page).status_code == 410
    fresh = switched_on(cast)
    assert cast.stranger().get(card).status_code == 410  # an old card stays dead
    opened(cast, fresh)


def test_the_stop_button_of_who_can_see_ends_it_too(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    with share.vault.read() as session:
        (grant,) = grants.standing(session)
    ada, at = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/grants"
    listed = ada.get(at).text
    assert sentence_case(emergency.HOLDER) in listed
    assert ada.submit(f"{at}/{grant.id}/stop", page=at).status_code == 303
    assert cast.stranger().get(card).status_code == 410


def test_the_page_says_all_that_a_card_opens(cast: Cast) -> None:
    ada, at = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/emergency"
    for text in (ada.get(at).text, (switched_on(cast), ada.get(at).text)[1]):
        assert "problems and family history, " in text
        assert "care team, family and insurance" in text


def test_an_open_card_counts_as_one_who_looks_on_home_and_who_can_see(
    cast: Cast, share: Share
) -> None:
    card = switched_on(cast)
    with share.vault.read() as session:
        assert grants.looking(session) == 0
    opened(cast, card)
    with share.vault.read() as session:
        assert grants.looking(session) == 1
    ada, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    assert "One recipient can see" in ada.get(f"{base}/grants").text
    alert = ada.get(f"{base}/").text
    assert f'<a href="{base}/grants">“Who can see”</a>' in alert


def test_a_paused_card_opens_nothing(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    with share.vault.read() as session:
        (grant,) = grants.standing(session)
    gate.suspend(share.vault, grant.id, ADA)
    assert cast.stranger().get(card).status_code == 403
    ada, page = cast.browser("Ada"), page_of(cast)
    assert "Paused" in ada.get(page).text
    assert ada.submit(f"{page}/card", page=page).status_code == 410


def test_a_sealed_record_says_so_in_words(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    cast.appliance.vaults.seal(cast.patients["Ada"])
    answer = cast.stranger().get(card)
    assert answer.status_code == 503
    assert "locked" in answer.text


def test_who_can_see_counts_a_card_while_it_is_open(
    cast: Cast, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = switched_on(cast)
    at = f"/p/{cast.patients['Ada']}/grants"
    assert "Nobody outside can see this record" in cast.browser("Ada").get(at).text
    opened(cast, card)
    assert "One recipient can see parts of this record" in cast.browser("Ada").get(at).text
    later = clock.now() + timedelta(minutes=61)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert "Nobody outside can see this record" in cast.browser("Ada").get(at).text


def test_the_printed_card_carries_the_address_and_no_code(cast: Cast, share: Share) -> None:
    card = switched_on(cast)
    ada, page = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/card"
    assert page_of(cast) in ada.get(page).text
    shown = ada.submit(page, {"link": PUBLIC + card}, page=page_of(cast))
    assert shown.text.count('class="qr"') == 2
    assert "In an emergency: scan." in shown.text
    for odd in ({"link": "https://elsewhere.example/e/x"}, {"link": PUBLIC + card, "code": "1"}):
        assert ada.submit(page, odd, page=page_of(cast)).status_code == 404


def test_a_viewer_sees_the_page_and_no_button(cast: Cast, share: Share) -> None:
    switched_on(cast)
    page = cast.browser("Cleo").get(page_of(cast)).text
    assert "Emergency access is on" in page
    assert "Switch off" not in page
