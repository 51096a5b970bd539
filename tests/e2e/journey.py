"""The steps a person takes in the browser, as functions that several walks share."""

import re
from dataclasses import dataclass, field

from playwright.sync_api import BrowserContext, Page, expect

PASSWORD = "violet tractor seldom whistles"
NAME = "Ada Example"
PERSON = "Juniper Demo"


@dataclass
class Walk:
    """A person in a browser, counting the forms they send on the way to a record."""

    page: Page
    home: str
    sent: int = 0
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Note everything the browser complains about, and every request that leaves the house."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _note(self, message) -> None:
        if message.type == "error" and "status of 4" not in message.text:
            self.problems.append(message.text)

    def send(self, selector: str) -> None:
        """Press a button that sends a form, and wait for the next page."""
        self.sent += 1
        with self.page.expect_navigation():
            self.page.locator(selector).first.click()

    @property
    def text(self) -> str:
        """What the page says."""
        return self.page.inner_text("main")


def new_walk(context: BrowserContext, home: str) -> Walk:
    """Open a page in a browser context."""
    return Walk(context.new_page(), home)


def set_up(walk: Walk, code: str, *, opens: str = "itself") -> None:
    """Go from the empty appliance to its first account, with the recovery kit asked back."""
    page = walk.page
    page.goto(walk.home + "/")
    page.fill("#code", code)
    page.fill("#name", NAME)
    page.fill("#password", PASSWORD)
    page.fill("#again", PASSWORD)
    walk.send("button.main")
    groups = re.findall(r"^\d$\s+^([0-9A-Z]{5})$", walk.text, re.MULTILINE)
    assert len(groups) == 8, walk.text
    for asked in page.query_selector_all("main input[name^=group]"):
        asked.fill(groups[int(asked.get_attribute("name").removeprefix("group")) - 1])
    walk.send("button.main")
    page.check(f"input[name=opens][value={opens}]")
    walk.send("button.main")


def sign_in(page: Page, home: str) -> None:
    """Sign in with name and password, as who has an account already."""
    page.goto(f"{home}/signin")
    page.fill("#name", NAME)
    page.fill("#password", PASSWORD)
    with page.expect_navigation():
        page.locator("main button.main").click()


def try_demo(walk: Walk) -> str:
    """Connect the demo hospital and return the patient's id once its record is on screen."""
    page = walk.page
    walk.send('form[action$="/demo/start"] button')
    walk.send('form[action$="/connections/demo"] button')
    page.locator("main a", has_text="Go to").click()
    page.locator("button[name=person]").first.click()  # the hospital's own pages
    page.locator("button[value=allow]").click()
    patient = re.search(r"/p/([0-9a-f]+)/", page.url)[1]
    _wait_for(walk, f"/p/{patient}/medications", "Levothyroxine")
    _wait_for(walk, f"/p/{patient}/connections", "Up to date")  # all of it has come
    return patient


def _wait_for(walk: Walk, path: str, words: str) -> None:
    for _ in range(60):
        walk.page.goto(walk.home + path)
        if words in walk.text:
            return
        walk.page.wait_for_timeout(250)
    raise AssertionError(f"no “{words}” on {path}: {walk.text}")


def make_link(walk: Walk, patient: str, whom: str = "Dr. Chen") -> tuple[str, str]:
    """Share the record by link; return the link and its six-digit code."""
    page = walk.page
    page.goto(f"{walk.home}/p/{patient}/share")
    page.fill("#whom", whom)
    walk.send('button[name=do][value="link"]')
    if page.locator('input[name="confirm.password"]').count():
        page.fill('input[name="confirm.password"]', PASSWORD)
        walk.send("button.main")
    link = page.input_value("#address")
    code = re.sub(r"\D", "", page.inner_text("p.code"))
    assert re.fullmatch(r"\d{6}", code)
    return link, code


def open_link(page: Page, link: str, code: str) -> None:
    """Open a link as a doctor does: the form first, then the code."""
    page.goto(link)
    assert PERSON not in page.content(), "a name was shown before the code"
    page.fill("#code", code)
    with page.expect_navigation():
        page.locator("button.main").click()
    expect(page.locator("body")).to_contain_text(PERSON)


def stop(walk: Walk, patient: str) -> None:
    """Stop the only live grant from "Who can see"."""
    walk.page.goto(f"{walk.home}/p/{patient}/grants")
    walk.send('form[action$="/stop"] button')
