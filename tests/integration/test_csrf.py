"""Forms from elsewhere (security.md F1, F2, F18): every way to forge one is refused."""

import pytest

from tests.cast import HOME, PASSWORDS, Cast, csrf_in

ADD = "/household/add"


def names(cast: Cast, browser) -> list[str]:
    return [line for line in ("Zoe",) if line in browser.get("/household").text]


def test_a_form_with_its_token_and_origin_is_taken(cast: Cast):
    ada = cast.browser("Ada")
    assert ada.submit(ADD, {"name": "Zoe"}).status_code == 303
    assert names(cast, ada) == ["Zoe"]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": HOME + ".evil.example"},
    ],
)
def test_a_form_from_elsewhere_is_refused_even_with_the_right_token(cast: Cast, headers: dict):
    ada = cast.browser("Ada")
    answer = ada.submit(ADD, {"name": "Zoe"}, headers=headers)
    assert answer.status_code == 403
    assert "Nothing was changed" in answer.text
    assert names(cast, ada) == []


def test_a_form_without_token_is_refused(cast: Cast):
    ada = cast.browser("Ada")
    assert ada.post(ADD, data={"name": "Zoe"}).status_code == 403
    assert ada.post(ADD).status_code == 403
    assert names(cast, ada) == []


@pytest.mark.parametrize("token", ["", "x", "AAAA", "=", "é", "A" * 10_000])
def test_nonsense_as_token_is_refused(cast: Cast, token: str):
    ada = cast.browser("Ada")
    assert ada.post(ADD, data={"csrf": token, "name": "Zoe"}).status_code == 403


def test_the_token_of_another_session_is_refused(cast: Cast):
    ada, eve = cast.browser("Ada"), cast.browser("Eve")
    answer = ada.post(ADD, data={"csrf": eve.csrf(), "name": "Zoe"})
    assert answer.status_code == 403


def test_a_planted_pair_of_cookie_and_token_is_refused(cast: Cast):
    attacker, ada = cast.browser(), cast.browser("Ada")
    token = csrf_in(attacker.get("/signin").text)
    ada.cookies.set("hp-form", attacker.cookies["hp-form"])
    assert ada.post(ADD, data={"csrf": token, "name": "Zoe"}).status_code == 403


def test_the_token_from_before_sign_in_is_dead_after_it(cast: Cast):
    browser = cast.browser()
    token = csrf_in(browser.get("/signin").text)
    form = {"csrf": token, "name": "Ada", "password": PASSWORDS["Ada"]}
    assert browser.post("/signin", data=form).status_code == 303
    assert browser.post(ADD, data={"csrf": token, "name": "Zoe"}).status_code == 403


def test_signing_somebody_in_from_elsewhere_is_refused(cast: Cast):
    victim, attacker = cast.browser(), cast.browser()
    token = csrf_in(attacker.get("/signin").text)
    form = {"csrf": token, "name": "Eve", "password": PASSWORDS["Eve"]}
    assert victim.post("/signin", data=form).status_code == 403


def test_a_token_is_masked_anew_each_time_and_each_works(cast: Cast):
    ada = cast.browser("Ada")
    one, two = ada.csrf(), ada.csrf()
    assert one != two
    assert ada.post(ADD, data={"csrf": one, "name": "Zoe"}).status_code == 303


def test_the_token_may_come_in_a_header(cast: Cast):
    ada = cast.browser("Ada")
    answer = ada.post(ADD, data={"name": "Zoe"}, headers={"x-csrf-token": ada.csrf()})
    assert answer.status_code == 303


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/xml"])
def test_a_simple_request_with_another_body_is_not_a_form(cast: Cast, kind: str):
    ada = cast.browser("Ada")
    headers = {"content-type": kind, "x-csrf-token": ada.csrf()}
    answer = ada.post(ADD, content=b'{"name": "Zoe"}', headers=headers)
    assert answer.status_code == 400
    assert names(cast, ada) == []


def test_a_method_override_header_does_nothing(cast: Cast):
    ada = cast.browser("Ada")
    headers = {"x-http-method-override": "POST", "x-method-override": "POST"}
    assert ada.get(ADD, headers=headers).status_code == 405


def test_no_get_request_signs_out(cast: Cast):
    ada = cast.browser("Ada")
    assert ada.get("/signout").status_code == 405
    assert ada.get("/account").status_code == 200


def test_the_same_form_sent_twice_at_sign_out_has_one_effect(cast: Cast):
    ada = cast.browser("Ada")
    token = ada.csrf()
    assert ada.post("/signout", data={"csrf": token}).status_code == 303
    assert ada.post("/signout", data={"csrf": token}).status_code == 403


def test_a_method_that_an_address_does_not_have_is_told_with_those_it_has(cast):
    """RFC 9110 §15.5.6: a 405 names them, on pages and at the interface."""
    asked = (
        (cast.browser("Ada"), "TRACE", "/account"),
        (cast.stranger(), "PUT", "/fhir/metadata"),
    )
    for browser, method, path in asked:
        refused = browser.request(method, path, headers={"accept": "*/*"})
        assert refused.status_code == 405
        assert {"GET", method} & set(refused.headers["allow"].split(", ")) == {"GET"}


def test_options_is_listed_where_it_is_answered_and_nowhere_else(cast: Cast):
    """RFC 9110 §9.3.7; ASVS 4.1.4: an address takes the methods it names, and no other."""
    ada, door = cast.browser("Ada"), cast.stranger()
    asked = ((ada, "/account"), (ada, "/healthz"), (door, "/s/none"), (door, "/fhir/metadata"))
    for browser, path in asked:
        answered = browser.request("OPTIONS", path).status_code
        refused = browser.request("TRACE", path)
        listed = "OPTIONS" in refused.headers["allow"].split(", ")
        assert (answered, listed) in {(204, True), (405, False)}, path
    assert listed
    refused = ada.request("OPTIONS", "/account")
    assert refused.headers["allow"] == "GET, HEAD"
    assert refused.headers["cache-control"] == "no-store"
