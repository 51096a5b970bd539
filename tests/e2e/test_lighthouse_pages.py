"""The lighthouse's pages in a real Chromium: keyboard, 320 px, no script, axe, nothing foreign."""

from urllib.parse import urlsplit

import pytest

from lighthouse.app import create
from tests.e2e.test_pages import AXE, in_every_look
from tests.fixtures_lighthouse import Lighthouse, people_type
from tests.fixtures_lighthouse_web import running


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lighthouse")
    house = Lighthouse(folder / "published")
    house.publish(people_type(), vendors={"Epic": {"aud": "exact", "notes": ["Ask them first."]}})
    house.replica(folder / "index.db")
    with running(create(folder / "index.db", log=lambda *_: None)) as found:
        yield found


def heard(message):
    """Say whether a message of the console is a fault: the browser also tells of our 404 page."""
    return not (message.text.startswith("Failed to load") and "/none" in message.location["url"])


@pytest.fixture
def visit(browser, base):
    """Open a page; at the end nothing foreign was asked and the console said nothing."""
    opened, asked, said = [], [], []

    def open_page(path="/", **options):
        context = browser.new_context(**options)
        opened.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(urlsplit(request.url)))
        page.on("console", lambda message: said.append(message.text) if heard(message) else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(base + path)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert {one.netloc for one in asked} <= {urlsplit(base).netloc}
    assert not [one for one in asked if one.query]  # nothing that was typed is in an address
    assert said == []


def test_hits_appear_while_one_types_and_the_keyboard_reaches_them(visit):
    page = visit()
    for _ in range(5):
        if page.evaluate("document.activeElement.id") == "q":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("lakside")
    page.wait_for_selector(".hits li")
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")  # the first hit
    assert page.evaluate("document.activeElement.innerText") == "Lakeside Health System"
    page.keyboard.press("Enter")
    page.wait_for_selector("h2")
    assert page.inner_text("h1") == "Lakeside Health System"


def test_page_works_without_script(visit):
    page = visit(java_script_enabled=False)
    page.fill("#q", "hilside clinc")
    page.keyboard.press("Enter")
    page.click("text=Hillside Clinic")

    assert "https://ehr.hillclinic.com/r4" in page.inner_text("main")


def test_answer_to_an_older_keystroke_never_replaces_a_newer_one(visit):
    page = visit()
    page.type("#q", "lakeside", delay=10)
    page.fill("#q", "hillside")
    page.wait_for_selector("text=Hillside Clinic")
    page.wait_for_timeout(200)

    assert "Lakeside" not in page.inner_text("#hits")


@pytest.mark.parametrize("path", ["/", f"/organizations/{1:032x}", f"/organizations/{3:032x}"])
def test_narrowest_screen_needs_no_sideways_scrolling(visit, path):
    page = visit(path, viewport={"width": 320, "height": 640})
    if path == "/":
        page.fill("#q", "hospital health clinic lakeside zoe")
        page.wait_for_selector("#hits p")

    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(visit, width):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (make setup)")
    found = []
    for path in ("/", f"/organizations/{2:032x}", "/organizations/none"):
        page = visit(path, viewport={"width": width, "height": 800}, bypass_csp=True)
        if path == "/":
            page.fill("#q", "lakeside")
            page.wait_for_selector(".hits li")
        found += in_every_look(page, only_light=False)
    assert found == []
