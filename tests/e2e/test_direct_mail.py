"""Direct mail in a real browser, between two houses: send, see it confirmed, stop; read, accept.

Issue 5, acceptance 6. Mail and names go through OpenSMTPD and Knot, as in
tests/conformance/test_direct_between.py.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from playwright.sync_api import Browser, Page, expect

from tests.cast import PASSWORDS
from tests.conformance.test_direct_between import (  # noqa: F401 - one is a fixture
    EVE,
    RECORDS,
    RUN,
    TWO,
    Side,
    World,
    sealed,
    world,
)
from tests.e2e.house import command_line
from tests.e2e.test_pages import AXE, PAGE_BYTES, in_every_look, invalid_html
from tests.fixtures_direct import Authority, key

SOON = 60_000  # milliseconds; mail takes seconds, and a machine may be busy
WALKS = [(1280, True), (360, True), (1280, False), (360, False)]
NAMES = ["wide", "narrow", "wide, no script", "narrow, no script"]


@pytest.fixture(scope="module")
def between(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two houses that can write to each other; Ada has a record."""
    made: World = request.getfixturevalue("world")
    file = tmp_path_factory.mktemp("records") / "records.ndjson"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in RECORDS))
    command_line(made.ada.house, "import", str(file), "--patient", "Ada")
    return made


@contextmanager
def signed_in(
    browser: Browser, side: Side, person: str, width: int, *, script: bool = True
) -> Iterator[Page]:
    """Open a browser and sign a person in."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, java_script_enabled=script
    )
    page = context.new_page()
    page.goto(f"{side.house.home}/signin")
    page.fill("#name", person)
    page.fill("#password", PASSWORDS[person])
    press(page, "main button.main")
    yield page
    context.close()


def press(page: Page, selector: str) -> None:
    """Press a button that sends a form, and wait for the next page; a password is given."""
    with page.expect_navigation():
        page.locator(selector).first.click()
    if page.locator('input[name="confirm.password"]').count():
        page.fill('input[name="confirm.password"]', PASSWORDS["Ada"])
        with page.expect_navigation():
            page.locator("main button.main").first.click()


def until(page: Page, words: str) -> None:
    """Look at a page again and again until it says something; a person without script does so."""
    for _ in range(SOON // 500):
        if words in page.inner_text("main"):
            return
        page.wait_for_timeout(500)
        page.reload()
    raise AssertionError(f"never “{words}”: {page.inner_text('main')}")


def looked_at(page: Page, name: str, folder: Path) -> None:
    """Check a page as it stands: axe in every look, no scrolling sideways at 320, valid HTML."""
    assert AXE.is_file(), "axe-core is not installed (make setup)"
    page.wait_for_load_state("networkidle")
    size = page.viewport_size
    assert in_every_look(page, only_light=False) == [], name
    page.emulate_media(color_scheme="light", forced_colors="none")
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320, name
    page.set_viewport_size(size)
    answer = page.request.get(page.url)
    assert len(answer.body()) < 4 * PAGE_BYTES  # before it is packed
    assert invalid_html({name: answer.text()}, folder) == set()


def fill(page: Page, side: Side, to: str) -> None:
    """Fill the share form for Direct mail."""
    page.goto(f"{side.house.home}{side.base}/share")
    page.fill("#whom", "Dr. Eve")
    expect(page.locator("#to")).not_to_be_visible()
    page.check("#by-direct")
    page.fill("#to", to)


@pytest.mark.parametrize(("width", "script"), WALKS, ids=NAMES)
def test_a_record_is_sent_to_an_address_confirmed_and_stopped(
    between: World, browser: Browser, tmp_path: Path, width: int, *, script: bool
) -> None:
    ada = between.ada
    with signed_in(browser, ada, "Ada", width, script=script) as page:
        complaints: list[str] = []
        page.on("console", lambda told: complaints.append(told.text) if told.type == "error" else 0)
        fill(page, ada, EVE)
        expect(page.locator("#uses")).not_to_be_visible()  # of a link
        if script:
            expect(page.locator("#address-check")).to_contain_text("you trust it", timeout=SOON)
            looked_at(page, "the share form", tmp_path)
        else:
            press(page, "button[value=check]")
        check = page.locator("#address-check")
        expect(check).to_contain_text("A certificate was found, and you trust it")
        expect(check).to_contain_text("Messages are sealed here for the recipient.")
        page.check("#standing-yes")
        page.check("#hours-8760")
        if script:
            expect(page.locator(".tally")).to_contain_text("what arrives within 1 year")
        press(page, "button[name=do][value=direct]")

        if script:
            # The page follows by itself.
            expect(page.locator("#sendings")).to_contain_text(
                "Opened by the recipient's mail server", timeout=SOON
            )
            looked_at(page, "the grant", tmp_path)
        until(page, "Opened by the recipient's mail server")
        expect(page.locator("#sendings")).to_contain_text("received and opened it")
        page.goto(f"{ada.house.home}{ada.base}/grants")
        expect(page.locator("section:has(#mailed)")).to_contain_text(f"by Direct mail to {EVE}")
        expect(page.locator("section:has(#mailed)")).to_contain_text("whenever new records arrive")
        if script:
            looked_at(page, "who can see", tmp_path)
        press(page, "section:has(#mailed) form[action$='/stop'] button")
        expect(page.locator("#status")).to_contain_text("No message was on its way")
        expect(page.locator("main")).not_to_contain_text(f"by Direct mail to {EVE}")
        assert complaints == []


@pytest.mark.parametrize(("width", "script"), WALKS, ids=NAMES)
def test_mail_is_read_with_who_signed_it_and_accepted(
    between: World, browser: Browser, tmp_path: Path, width: int, *, script: bool
) -> None:
    eve, sender = between.eve, f"dr.{width}.{script}.{RUN}@clinic.test".lower()
    own = between.clinic.issue(sender, number=36), key(36)
    between.post(sealed(between, sender, own), sender)
    with signed_in(browser, eve, "Eve", width, script=script) as page:
        page.goto(f"{eve.house.home}{eve.base}/inbox")
        until(page, sender)
        if script:
            looked_at(page, "the inbox", tmp_path)
        with page.expect_navigation():
            page.locator("li.row", has_text=sender).locator("a[href*='/mail/']").first.click()
        expect(page.locator("main")).to_contain_text("Clinic root")
        expect(page.locator("main")).to_contain_text("somebody you trust stands behind")
        expect(page.locator("main")).to_contain_text("Please read the attached results.")
        if script:
            looked_at(page, "the mail", tmp_path)
        press(page, "button[value=accept]")
        expect(page.locator("main")).to_contain_text("You have decided about everything in it.")
        page.locator("main h3 a").last.click()
        expect(page.locator("pre")).to_contain_text(f"from {sender}")
        expect(page.locator("main")).to_contain_text("Accepted")
        if script:
            looked_at(page, "what was accepted", tmp_path)


def test_mail_of_a_stranger_is_sealed_away_with_the_reason_until_he_is_trusted(
    between: World, browser: Browser, tmp_path: Path
) -> None:
    eve, sender = between.eve, f"stranger.{RUN}@clinic.test"
    stranger = Authority("Nobody known", number=1022)
    between.post(sealed(between, sender, (stranger.issue(sender, number=37), key(37))), sender)
    with signed_in(browser, eve, "Eve", 1280) as page:
        asked: list[str] = []
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(f"{eve.house.home}{eve.base}/inbox")
        until(page, sender)
        page.locator("section:has(#refused) a", has_text=sender).first.click()
        expect(page.locator("main")).to_contain_text("Nobody you trust stands behind")
        expect(page.locator("main")).not_to_contain_text("Please read the attached results.")
        looked_at(page, "mail sealed away", tmp_path)

        anchor = tmp_path / "anchor.pem"
        anchor.write_bytes(stranger.certificate.public_bytes(Encoding.PEM))
        away = page.url
        page.goto(f"{eve.house.home}{eve.base}/direct")
        page.select_option("#direction", "in")
        page.set_input_files("#file", anchor)
        press(page, "form[action$='/direct/trust'] button")
        expect(page.locator("section:has(#trusted)")).to_contain_text("Nobody known")
        page.goto(away)
        press(page, "button[value=again]")
        until(page, f"from {sender}")  # it waits like all that is trusted
        expect(page.locator("main")).not_to_contain_text("Sealed away")
        assert not [url for url in asked if not url.startswith((eve.house.home, "data:"))]


def test_what_is_wrong_with_an_address_is_said_and_what_was_typed_stays(
    between: World, browser: Browser
) -> None:
    ada = between.ada
    with signed_in(browser, ada, "Ada", 360) as page:
        for to, words in (
            ("eve", "A Direct address looks like"),
            (f"forged@{TWO}", "Nobody you trust stands behind this certificate."),
            (f"nobody@{TWO}", "No certificate is published there."),
        ):
            fill(page, ada, to)
            expect(page.locator("#address-check")).to_contain_text(words, timeout=SOON)
            press(page, "button[name=do][value=direct]")
            expect(page.locator("#problem")).to_be_visible()
            assert page.input_value("#to") == to
            assert page.input_value("#whom") == "Dr. Eve"
            expect(page.locator("#to")).to_be_visible()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_a_message_to_oneself_tells_how_far_it_got(
    between: World, browser: Browser, tmp_path: Path, *, script: bool
) -> None:
    with signed_in(browser, between.ada, "Ada", 360, script=script) as page:
        page.goto(f"{between.ada.house.home}{between.ada.base}/direct")
        press(page, "form[action$='/direct/test'] button")
        if script:  # the page follows by itself
            expect(page.locator("#tried")).to_contain_text("came back, too", timeout=SOON)
        until(page, "The confirmation that it was opened came back, too.")
        expect(page.locator("#tried")).not_to_contain_text("Waiting")
        expect(page.locator("#tried")).not_to_contain_text("Failed")
        if script:
            looked_at(page, "a message to oneself", tmp_path)


@pytest.mark.parametrize("width", [1280, 360])
def test_the_settings_show_what_is_kept_and_are_accessible(
    between: World, browser: Browser, tmp_path: Path, width: int
) -> None:
    with signed_in(browser, between.ada, "Ada", width) as page:
        page.goto(f"{between.ada.house.home}{between.ada.base}/direct")
        expect(page.locator("#imap_host")).not_to_be_visible()
        for details in page.locator("main details").all():
            details.locator("summary").click()
        looked_at(page, "Direct mail", tmp_path)
        page.check("#by-provider")
        expect(page.locator("#imap_host")).to_be_visible()
        looked_at(page, "Direct mail through a provider", tmp_path)
