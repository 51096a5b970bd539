"""Where things are not as hoped: a server that stops, no script, no kit yet."""

import re
import subprocess

import pytest

from tests.e2e import journey
from tests.e2e.house import running, with_small_record
from tests.e2e.test_addresses import free_ports

TYPED = "Dr. Chen, Harbour Practice"


def ports() -> dict[str, str]:
    """Return settings that give a house the same addresses again after a stop."""
    home, public = free_ports(2)
    return {
        "PHR_PORT": str(home),
        "PHR_PUBLIC_PORT": str(public),
        "PHR_HOME_URL": f"http://127.0.0.1:{home}",
        "PHR_PUBLIC_URL": f"http://127.0.0.1:{public}",
    }


def test_a_page_stays_with_what_was_typed_while_the_server_is_away(browser, tmp_path):
    settings = ports()
    context = browser.new_context()
    page = context.new_page()
    with running(tmp_path / "data", **settings) as house:
        with_small_record(house, tmp_path)
        journey.sign_in(page, house.home)
        page.locator("nav a[href$='/share']").first.click()
        page.wait_for_selector("#whom")
        page.fill("#whom", TYPED)
        house.kill()
        page.locator("button[name=do][value=link]").first.click()
        note = page.get_by_role("alert").filter(has_text="does not answer")
        note.wait_for()
        assert page.input_value("#whom") == TYPED
        page.locator("nav a[href$='/results']").first.click()
        note.wait_for()
        assert page.input_value("#whom") == TYPED
        page.locator("button[name=do][value=link]").first.click()
    with running(tmp_path / "data", **settings):
        with page.expect_navigation():
            note.get_by_role("button", name="Try again").click()
        if page.locator("#confirm").count():
            page.fill("#confirm", journey.PASSWORD)
            with page.expect_navigation():
                page.locator("button.main").click()
        assert TYPED in page.inner_text("h1")
    context.close()


@pytest.mark.parametrize("width", [1280, 360])
def test_without_script_one_signs_in_searches_and_brings_a_file(browser, house, tmp_path, width):
    with_small_record(house, tmp_path)
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": width, "height": 800}
    )
    page = context.new_page()
    journey.sign_in(page, house.home)
    base = re.search(r"(.*/p/[0-9a-f]+)", page.url)[1]
    page.goto(f"{base}/search")
    page.fill("#q", "metfromin")
    page.locator("main form[role=search] button").click()
    assert "Metformin 500 mg" in page.inner_text("main")

    file = tmp_path / "more.json"
    file.write_text('{"resourceType":"Condition","id":"9","code":{"text":"Asthma"}}')
    page.goto(f"{base}/files")
    page.set_input_files("#file", str(file))
    page.locator("main form[enctype] button.main").click()
    assert "1 new, 0 changed, 0 known already" in page.inner_text("main")
    page.goto(f"{base}/problems")
    assert "Asthma" in page.inner_text("main")
    for path in ("card", "summary", "connections/add"):  # no button that could do nothing
        page.goto(f"{base}/{path}")
        assert page.locator("[data-print]:visible, [data-copy]:visible").count() == 0, path
    context.close()


def test_the_kit_prints_on_one_page_and_comes_before_any_record(browser, house):
    context = browser.new_context()
    walk = journey.new_walk(context, house.home)
    page = walk.page
    page.goto(house.home + "/")
    page.fill("#code", house.code)
    page.fill("#name", journey.NAME)
    page.fill("#password", journey.PASSWORD)
    page.fill("#again", journey.PASSWORD)
    walk.send("button.main")
    page.goto(house.home + "/")
    assert page.url.endswith("/setup/kit")
    assert page.locator("main input[name^=group]").count() == 2
    groups = page.locator(".groups code").all_inner_texts()
    pdf = page.pdf(format="A4", print_background=True)
    told = subprocess.run(["pdfinfo", "-"], input=pdf, capture_output=True, check=True).stdout
    assert re.search(rb"Pages:\s+1\b", told)
    words = subprocess.run(["pdftotext", "-", "-"], input=pdf, capture_output=True, check=True)
    assert all(group.encode() in words.stdout for group in groups)
    context.close()
