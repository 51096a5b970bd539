"""What every answer carries: headers, our own names, sub-paths, https, errors, static files."""

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phr.appliance import Appliance
from phr.settings import Settings
from phr.web import app as web
from phr.web import look
from tests.cast import HOME, PASSWORDS, Browser, Cast, csrf_in, populate

PATHS = ("/signin", "/healthz", "/nothing", "/setup", "/account", "/robots.txt", "/p/x/results")


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_carries_the_strict_headers(cast: Cast, path: str):
    headers = cast.browser().get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "HX-Request" in headers["vary"]
    assert "server" not in headers


def test_public_answers_carry_them_too(cast: Cast):
    headers = cast.stranger().get("/s/nothing").headers
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8080.evil.example",
        "evil.example",
        "phrxlocal",
        "127.0.0.1.evil.example",
        "evil.example:8080",
        "",
        "[::1",
        "a b",
    ],
)
def test_a_foreign_host_name_is_refused_before_anything_else(cast: Cast, host: str):
    answer = cast.browser().get("/healthz", headers={"host": host})
    assert answer.status_code == 400
    assert "content-security-policy" in answer.headers


def test_endless_headers_are_refused(cast: Cast):
    browser = cast.browser()
    assert browser.get("/healthz", headers={"x": "a" * 65_536}).status_code == 431
    many = {f"x{number}": "a" for number in range(10_000)}
    assert browser.get("/healthz", headers=many).status_code == 431


def test_a_length_beside_a_chunked_body_is_refused_whatever_parser_let_it_pass(cast: Cast):
    framed_twice = {"content-length": "4", "transfer-encoding": "chunked"}
    answer = cast.browser().get("/healthz", headers=framed_twice)
    assert answer.status_code == 400
    assert answer.headers["connection"] == "close"


def test_forwarded_host_is_never_looked_at(cast: Cast):
    ada = cast.browser("Ada")
    headers = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    page = ada.get("/account", headers=headers)
    assert page.status_code == 200
    assert "evil.example" not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/x/..%2f..%2fapp.py",
        "/static/x/%2e%2e/app.py",
        "//account",
        "/account/%00",
        "/p/%2e%2e/results",
        "/" + "a" * 8000,
        "/account%0d%0aset-cookie:x",
    ],
)
def test_odd_paths_are_not_found_and_never_a_file(cast: Cast, path: str):
    answer = cast.browser().send(_raw(cast.browser(), path))
    assert answer.status_code == 404
    assert "import " not in answer.text


def _raw(browser: Browser, path: str) -> Any:
    request = browser.build_request("GET", "/x")
    request.url = request.url.copy_with(raw_path=path.encode())
    return request


def test_static_files_are_kept_for_ever_under_their_version_only(cast: Cast):
    browser = cast.browser()
    page = browser.get("/signin").text
    address = re.search(r'href="(/static/[0-9a-f]{16}/all\.css)"', page)
    assert address
    answer = browser.get(address[1], headers={"accept-encoding": "gzip"})
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert "set-cookie" not in answer.headers
    old = browser.get("/static/0000000000000000/all.css")
    assert old.status_code == 200
    assert old.headers["cache-control"] == "no-store"
    assert browser.get("/static/0000000000000000/nothing.css").status_code == 404


def test_style_and_script_stay_within_the_budget():
    files = look.read_static()
    sent = [
        len(file.packed or file.body)
        for name, file in files.items()
        if name in {look.ALL_SHEETS, *look.SCRIPTS, "icons.svg", "mark.svg", look.HTMX}
    ]
    assert sum(sent) < 45_000
    for name in look.SCRIPTS:
        assert len(Path(look.WEB / "static" / name).read_text().splitlines()) <= 60


def test_gzip_of_static_files_gives_the_same_bytes():
    for file in look.read_static().values():
        if file.packed is not None:
            assert gzip.decompress(file.packed) == file.body


def test_health_is_told_without_a_session_and_without_a_cookie(cast: Cast):
    answer = cast.browser().get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert "set-cookie" not in answer.headers
    assert cast.browser().get("/readyz").text == "ready\n"


def test_head_answers_like_get_without_a_body(cast: Cast):
    answer = cast.browser().head("/signin")
    assert answer.status_code == 200


def test_a_page_not_found_looks_like_ours_and_says_nothing_else(cast: Cast):
    answer = cast.browser("Ada").get("/nothing/here")
    assert answer.status_code == 404
    assert "There is nothing here" in answer.text
    assert '<link rel="stylesheet"' in answer.text


def test_a_failure_inside_says_nothing_of_it(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any) -> None:
        raise ValueError("canary-7f3a in the middle")

    ada = cast.browser("Ada")
    monkeypatch.setattr("phr.store.accounts.get_account", broken)
    answer = ada.get("/account")
    assert answer.status_code == 500
    assert "Nothing was lost" in answer.text
    assert "canary" not in answer.text
    assert "request.failed" in caplog.text


def test_when_even_the_error_page_fails_a_fixed_page_answers(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
):
    ada = cast.browser("Ada")

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no templates")

    monkeypatch.setattr(look.Look, "draw", broken)
    answer = ada.get("/account")
    assert answer.status_code == 500
    assert "Please try again" in answer.text
    assert answer.headers["cache-control"] == "no-store"


# ------------------------------------------------------------------ https and sub-paths

PLACES = {"https": "https://phr.example", "deep": "https://box.example/family/phr"}


@pytest.fixture(params=sorted(PLACES))
def elsewhere(
    request: pytest.FixtureRequest, open_appliance: Callable[..., Appliance], settings: Settings
) -> Cast:
    url = PLACES[request.param]
    made = populate(open_appliance(home_url=url, tls="proxy", trusted_proxies=("127.0.0.1/32",)))
    assert replace(settings, home_url=url).home_is_https
    return made


def at(cast: Cast) -> tuple[Browser, str]:
    settings = cast.appliance.settings
    return Browser(cast.home, settings.home_origin), settings.home_path


def test_links_forms_redirects_and_cookies_keep_the_sub_path(elsewhere: Cast):
    browser, base = at(elsewhere)
    with browser:
        asked = browser.get(f"{base}/account")
        assert asked.headers["location"] == f"{base}/signin?next=/account"
        page = browser.get(asked.headers["location"])
        for address in re.findall(r'(?:href|src|action)="([^"#]+)"', page.text):
            assert address.startswith(f"{base}/"), address
        form = {"csrf": csrf_in(page.text), "name": "Ada", "password": PASSWORDS["Ada"]}
        answer = browser.post(f"{base}/signin", data=form | {"next": "/account"})
        assert answer.headers["location"] == f"{base}/account"
        cookie = next(c for c in answer.headers.get_list("set-cookie") if "hp=" in c)
        assert cookie.startswith("__Host-hp=")
        assert "; Secure" in cookie
        assert "; Path=/;" in cookie
        page = browser.get(f"{base}/account")
        assert page.status_code == 200
        assert page.headers["strict-transport-security"]
        for address in re.findall(r'(?:href|src|action)="([^"#]+)"', page.text):
            assert address.startswith(f"{base}/"), address


def test_a_proxy_may_cut_the_sub_path_off_or_not(elsewhere: Cast):
    browser, base = at(elsewhere)
    with browser:
        assert browser.get(f"{base}/signin").status_code == 200
        assert browser.get("/signin").status_code == 200


def test_an_http_origin_does_not_count_where_people_use_https(elsewhere: Cast):
    browser, base = at(elsewhere)
    with browser:
        token = csrf_in(browser.get(f"{base}/signin").text)
        form = {"csrf": token, "name": "Ada", "password": PASSWORDS["Ada"]}
        origin = elsewhere.appliance.settings.home_origin.replace("https:", "http:")
        answer = browser.post(f"{base}/signin", data=form, headers={"origin": origin})
        assert answer.status_code == 403


def test_a_plain_cookie_name_is_not_looked_at_under_https(elsewhere: Cast):
    browser, base = at(elsewhere)
    with browser:
        token = csrf_in(browser.get(f"{base}/signin").text)
        form = {"csrf": token, "name": "Ada", "password": PASSWORDS["Ada"]}
        browser.post(f"{base}/signin", data=form)
        secret = browser.cookies["__Host-hp"]
        thief = Browser(elsewhere.home, elsewhere.appliance.settings.home_origin)
        thief.cookies.set("hp", secret)
        assert thief.get(f"{base}/account").status_code == 303


def test_a_plain_address_in_the_network_shows_the_banner(open_appliance: Callable[..., Appliance]):
    cast = populate(open_appliance(home_url="http://phr.lan:8080", insecure=True))
    with Browser(cast.home, "http://phr.lan:8080") as browser:
        assert "travels readable through your network" in browser.get("/signin").text


def test_no_banner_on_this_machine_itself(cast: Cast):
    assert "travels readable" not in cast.browser().get("/signin").text


def test_the_public_address_knows_no_page_of_the_household(cast: Cast):
    stranger = cast.stranger()
    for application, method, path, _ in web.routes():
        if (
            application == "home"
            and method == "GET"
            and not path.startswith(("/static", "/robots"))
        ):
            if path in {"/healthz", "/readyz"}:
                continue
            answer = stranger.get(re.sub(r"\{[^}]+\}", "0", path))
            assert answer.status_code == 404, path


def test_the_home_address_knows_no_door(cast: Cast):
    assert cast.browser("Ada").get("/s/anything").status_code == 404
    assert HOME.endswith("8080")
