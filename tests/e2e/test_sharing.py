"""Sharing in a real browser: taking records out, sharing less, files in the outbox folder."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e import journey
from tests.e2e.house import running
from tests.e2e.test_pages import AXE, PAGE_BYTES, in_every_look

PENICILLIN = re.compile("Penicillin")


@pytest.fixture(scope="module")
def shared(browser, tmp_path_factory):
    """A house with the demo record in it, and the browser of who set it up."""
    with running(tmp_path_factory.mktemp("sharing") / "data") as house:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        walk = journey.new_walk(context, house.home)
        journey.set_up(walk, house.code)
        patient = journey.try_demo(walk)
        yield house, context, walk, patient
        context.close()


def count(page: Page) -> int:
    """Return how many records the tally says are shared."""
    return int(re.search(r"(\d+) records?", page.inner_text("#tally .tally"))[1])


def pick(walk: journey.Walk, patient: str, words: str) -> None:
    """Fill the share form and take out the one record with these words."""
    page = walk.page
    page.goto(f"{walk.home}/p/{patient}/share")
    page.fill("#whom", "Dr. Chen")
    walk.send("button[name=do][value=pick]:not(.unseen)")
    page.fill("#words", words)
    walk.send(".seek-line button")
    page.locator("input[name=without]").first.check()


def test_a_record_is_taken_out_and_the_count_follows_both_ways(shared):
    house, _, walk, patient = shared
    page = walk.page
    page.goto(f"{house.home}/p/{patient}/share")
    before = count(page)
    pick(walk, patient, "penicillin")
    walk.send(".done-bar button")

    assert count(page) == before - 1
    assert page.input_value("#whom") == "Dr. Chen"
    expect(page.locator("#tally")).not_to_contain_text(PENICILLIN)
    page.locator("input[name=without]").uncheck()  # put back: the count follows by itself
    expect(page.locator("#tally .tally")).to_contain_text(f"{before} records")
    assert walk.problems == []


def test_open_pages_of_a_doctor_lose_at_once_what_is_taken_away(shared, browser):
    house, _, walk, patient = shared
    link, code = journey.make_link(walk, patient)
    elsewhere = browser.new_context()
    doctor = elsewhere.new_page()
    journey.open_link(doctor, link, code)
    expect(doctor.locator("body")).to_contain_text(PENICILLIN)
    page = walk.page
    page.goto(f"{house.home}/p/{patient}/grants")
    page.locator("main h3 a").first.click()
    page.get_by_role("link", name="Share less").click()
    before = count(page)
    page.uncheck("#part-allergies")
    expect(page.locator("#tally .tally")).to_contain_text(f"now: {before} records")
    expect(page.locator("#tally .tally")).not_to_contain_text("the same as now")
    walk.send("button[name=do][value=less]")

    assert page.locator('input[name="confirm.password"]').count() == 0  # narrowing never asks
    expect(doctor.locator("body")).not_to_contain_text(PENICILLIN, timeout=5000)
    expect(doctor.locator("body")).to_contain_text("The patient does not share allergies here.")
    expect(doctor.locator("body")).to_contain_text("Levothyroxine")  # the link itself goes on
    journey.stop(walk, patient)
    elsewhere.close()
    assert walk.problems == []


def test_files_are_saved_to_the_outbox_folder_and_the_page_follows_by_itself(shared):
    house, _, walk, patient = shared
    page = walk.page
    page.goto(f"{house.home}/p/{patient}/share")
    page.fill("#whom", "Dr. Paper")
    walk.send("button[name=do][value=folder]")

    expect(page.locator("#sendings")).to_contain_text("Saved on", timeout=40_000)
    (folder,) = (house.data / "outbox").iterdir()
    assert sorted(each.name for each in folder.iterdir()) == [
        *("record.html", "record.json", "signed.json", "signed.jws")
    ]
    assert folder.name in page.inner_text("#sendings")
    assert walk.problems == []


def test_pages_behind_a_form_are_as_accessible_and_as_narrow_as_the_others(shared):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (make setup)")
    _, _, walk, patient = shared
    page, found = walk.page, {}

    def look(name: str) -> None:
        if problems := in_every_look(page, only_light=False):
            found[name] = problems
        page.emulate_media(color_scheme="light", forced_colors="none")
        page.set_viewport_size({"width": 320, "height": 700})
        extent = page.evaluate("document.documentElement.scrollWidth")
        if extent > 320 or len(page.content()) > 4 * PAGE_BYTES:
            found[f"{name}, size"] = [str(extent), str(len(page.content()))]
        page.set_viewport_size({"width": 1280, "height": 800})

    pick(walk, patient, "latex")
    look("the list of single records")
    walk.send(".done-bar button")
    look("the share page with a record taken out")
    walk.send('button[name=do][value="preview"]')
    look("the doctor's view")
    page.goto(f"{walk.home}/p/{patient}/share")
    walk.send('button[name=do][value="link"]')
    look("the share page with an error")

    assert found == {}
