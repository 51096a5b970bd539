"""One house, one name: a page asked for as `localhost` is led to the configured home address.

A session cookie belongs to one host name, and hospitals lead back to the configured one.
"""

from collections.abc import Callable

import pytest

from tests.cast import HOME, PUBLIC, Browser, Cast, populate

LOCALHOST = {"host": "localhost:8080"}
TUNNEL = {"host": "localhost:9000"}  # another port: somebody's tunnel, not our own listener


def test_a_page_at_another_name_of_this_machine_leads_to_the_configured_one(cast: Cast) -> None:
    browser = cast.browser()
    answer = browser.get("/signin?next=/household", headers=LOCALHOST)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{HOME}/signin?next=/household"
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert browser.get("/signin").status_code == 200


def test_signing_in_there_and_coming_back_from_a_hospital_is_one_session(cast: Cast) -> None:
    browser = cast.browser("Ada")
    answer = browser.get("/connect/callback?code=c&state=s", headers=LOCALHOST)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{HOME}/connect/callback?code=c&state=s"


@pytest.mark.parametrize("path", ["//evil.example/", "/%0d%0aset-cookie:%20x=1", "/\\evil.example"])
def test_the_target_is_always_the_configured_origin(cast: Cast, path: str) -> None:
    answer = cast.browser().get(HOME + path, headers=LOCALHOST)
    assert answer.headers.get("location", HOME + "/").startswith(HOME + "/")
    assert "set-cookie" not in answer.headers or answer.status_code != 307


def test_a_form_is_never_led_elsewhere(cast: Cast) -> None:
    browser = cast.browser()
    token = browser.csrf("/signin")
    answer = browser.post("/signin", data={"csrf": token, "name": "Ada"}, headers=LOCALHOST)
    assert answer.status_code != 307


def test_watchers_and_doors_are_answered_under_every_name(cast: Cast) -> None:
    for path in ("/healthz", "/readyz"):
        assert cast.browser().get(path, headers=LOCALHOST).status_code in {200, 503}
    door = cast.stranger().get("/robots.txt", headers={"host": "localhost:8081"})
    assert door.status_code == 200


def test_through_a_tunnel_on_another_port_the_page_says_so(cast: Cast) -> None:
    page = cast.browser().get("/signin", headers=TUNNEL)
    assert page.status_code == 200
    assert "You came by localhost:9000." in page.text
    assert f'href="{HOME}/"' in page.text
    assert "You came by" not in cast.browser().get("/signin").text
    assert "You came by" not in cast.stranger().get("/", headers={"host": "localhost:1"}).text


def test_behind_a_proxy_nothing_is_led_and_nothing_said(open_appliance: Callable) -> None:
    given = {"tls": "proxy", "trusted_proxies": ("127.0.0.1/32",)}
    cast = populate(open_appliance(**given))
    with Browser(cast.home, HOME) as browser:
        page = browser.get("/signin", headers=LOCALHOST)
        assert page.status_code == 200
        assert "You came by" not in page.text
    cast.close()


def test_the_public_address_is_untouched(cast: Cast) -> None:
    assert cast.stranger().get(f"{PUBLIC}/robots.txt").status_code == 200
