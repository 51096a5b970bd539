"""Find your hospital in Chromium: keyboard only, 320 px, without script, and nobody learns it."""

import base64
import hashlib
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import expect

from lighthouse import redirect
from lighthouse.installations import Installations
from phr import clock
from tests.e2e import journey
from tests.e2e.house import running
from tests.integration.test_lighthouse_help import serving

CODE = "canary-code-5b1e"


@pytest.fixture(scope="module")
def signed_in(browser, tmp_path_factory):
    """A house with a record, and what a browser needs to be signed in there."""
    folder = tmp_path_factory.mktemp("find")
    with running(folder / "data") as house:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        walk = journey.new_walk(context, house.home)
        journey.set_up(walk, house.code)
        patient = journey.try_demo(walk)
        for _ in range(100):  # a page that shows a running pull reloads itself
            walk.page.goto(f"{house.home}/p/{patient}/connections")
            if not walk.page.locator("[data-live]").count():
                break
            walk.page.wait_for_timeout(200)
        yield house, patient, context.storage_state(), folder / "data.log"
        context.close()


@contextmanager
def page_of(browser, signed_in, **options):
    """Open a page that notes every request which leaves the house."""
    house, patient, state, _ = signed_in
    context = browser.new_context(storage_state=state, **options)
    page = context.new_page()
    foreign, problems = [], []
    page.on("request", lambda r: None if r.url.startswith(house.home) else foreign.append(r.url))
    page.on(
        "console",
        lambda m: (
            problems.append(m.text) if m.type == "error" and "status of 4" not in m.text else None
        ),
    )
    yield page, f"{house.home}/p/{patient}", foreign
    context.close()
    assert foreign == []
    assert problems == []


def tab_to(page, wanted, most=60):
    """Press Tab until an element with this text has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        text = page.evaluate(
            "() => document.activeElement.innerText || document.activeElement.id || ''"
        )
        if wanted in text:
            return
    raise AssertionError(f"Tab never reached {wanted}")


@pytest.mark.parametrize("width", [320, 1280])
def test_with_the_keyboard_alone_from_connections_to_the_exact_values(browser, signed_in, width):
    with page_of(browser, signed_in, viewport={"width": width, "height": 700}) as (page, base, _):
        page.goto(base + "/connections")
        tab_to(page, "Find your hospital")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect(page.locator("#q")).to_be_focused()
        page.keyboard.type("mayo clinc", delay=20)
        expect(page.locator("#found")).to_contain_text("Mayo Clinic")
        expect(page.locator("#q")).to_be_focused()
        assert "mayo" not in page.url
        tab_to(page, "Mayo Clinic")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("Connect Mayo Clinic")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.input_value("#v-redirect").endswith("/connect/callback")
        tab_to(page, "client_id")
        page.keyboard.type("my-client")
        expect(page.locator("#client_id")).to_have_value("my-client")


def test_without_script_the_button_searches(browser, signed_in):
    with page_of(browser, signed_in, java_script_enabled=False) as (page, base, _):
        page.goto(base + "/find")
        page.fill("#q", "kaiser")
        page.keyboard.press("Enter")
        page.locator("#found a", has_text="Kaiser Permanente").click()
        page.locator("main a", has_text="Southern California").click()
        expect(page.locator("h1")).to_contain_text("Southern California")
        assert "kaiser" not in page.url.partition("/find/")[0]


def test_what_was_typed_is_in_no_log_of_the_house(browser, signed_in):
    with page_of(browser, signed_in) as (page, base, _):
        page.goto(base + "/find")
        page.keyboard.type("zebracanary", delay=10)
        expect(page.locator("#found")).to_contain_text("Nothing in this list fits")
    log = signed_in[3].read_text()
    assert "zebracanary" not in log
    assert log, "the positive control: there is a log"


def test_an_answer_in_the_fragment_is_handed_over_by_the_browser(browser, signed_in):
    with page_of(browser, signed_in) as (page, base, _):
        home = base.partition("/p/")[0]
        with page.expect_response(lambda r: "state=nothing" in r.url) as answer:
            page.goto(f"{home}/connect/callback#code=x&state=nothing")
        assert answer.value.status == 400
        expect(page.locator("h1")).to_contain_text("The sign-in did not work out")


# ------------------------------------------------------------------------- the redirect page


@pytest.fixture
def landing(tmp_path):
    """A redirect page with its sealing key."""
    installations = Installations(tmp_path / "installations.db")
    key = ec.generate_private_key(ec.SECP256R1())
    with serving(redirect.create_app(installations, key)) as url:
        yield url, key
    installations.close()


def state_of(key, to, *, mark="m" * 43, seconds=600):
    """Return a state as an appliance sends it, sealed for an address."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(mark.encode()).digest()).rstrip(b"=").decode()
    ends = int(clock.now().timestamp()) + seconds
    return f"{mark}~{redirect.sealed(key, to, digest, ends)}"


@pytest.mark.parametrize("joint", ["?", "#"])
def test_the_redirect_page_leads_home_with_the_code(browser, landing, signed_in, joint):
    url, key = landing
    home = signed_in[0].home
    state = state_of(key, f"{home}/connect/callback")
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/r{joint}code={CODE}&state={state}")
    page.wait_for_url(f"{home}/**")
    context.close()


@pytest.mark.parametrize(
    "wrong", ["no seal", "other key", "other state", "too old", "changed"], ids=str
)
def test_the_redirect_page_leads_nowhere_else(browser, landing, wrong):
    url, key = landing
    to = "http://127.0.0.1:9/connect/callback"
    good = state_of(key, to)
    states = {
        "no seal": "m" * 43,
        "other key": state_of(ec.generate_private_key(ec.SECP256R1()), to),
        "other state": "n" + good[1:],
        "too old": state_of(key, to, seconds=-5),
        "changed": good.replace("~", "~A", 1),
    }
    context = browser.new_context()
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}/r?code={CODE}&state={states[wrong]}")
    expect(page.locator("#told")).to_contain_text("begin again")
    assert not [one for one in asked if not one.startswith(url)]
    context.close()


def test_a_home_on_the_open_internet_is_named_and_asked_about(browser, landing):
    url, key = landing
    state = state_of(key, "https://phr.example.org/connect/callback")
    context = browser.new_context(viewport={"width": 320, "height": 600})
    page = context.new_page()
    page.goto(f"{url}/r?code={CODE}&state={state}")
    expect(page.locator("#go")).to_be_focused()
    assert page.inner_text("#host") == "phr.example.org"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.url.startswith(url)
    context.close()


def test_without_script_the_redirect_page_says_what_to_do(browser, landing):
    url, _ = landing
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{url}/r?code={CODE}&state=x")
    assert "copy the whole address" in page.inner_text("main")
    context.close()
