"""Checks of the interface in a real browser (spec interface §7): keyboard, spacing, motion, ink."""

import shutil
import subprocess

import pytest

from tests.e2e import journey
from tests.e2e.house import running

PAGES = (
    "", "timeline", "results", "medications", "allergies", "problems", "immunizations", "vitals",
    "visits", "documents", "people", "summary", "card", "own", "own/add/medicine", "share",
    "grants", "activity", "connections", "files", "search?q=thyro", "more",
)  # fmt: skip
# WCAG 2.2 SC 1.4.12: a reader may set these, and nothing may be lost.
SPACING = """
* { line-height: 1.5 !important; letter-spacing: .12em !important; word-spacing: .16em !important }
p { margin-block-end: 2em !important }
"""
CLIPPED = """() => [...document.querySelectorAll('main *')].filter(e => {
  const s = getComputedStyle(e), r = e.getBoundingClientRect();
  return ['hidden', 'clip'].includes(s.overflowX) && !e.closest('.unseen') && r.width > 1
    && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1);
}).map(e => e.outerHTML.slice(0, 160))"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const s = getComputedStyle(e), r = e.getBoundingClientRect();
  const x = Math.min(Math.max(r.x + r.width / 2, 1), innerWidth - 1);
  const y = Math.min(Math.max(r.y + Math.min(r.height / 2, 12), 1), innerHeight - 1);
  const hit = document.elementFromPoint(x, y);
  return {
    name: e.outerHTML.slice(0, 120), tag: e.tagName,
    outline: s.outlineStyle === 'none' ? 0 : parseFloat(s.outlineWidth),
    covered: !(hit && (e.contains(hit) || hit.contains(e) || hit.closest('label'))),
  };
}"""
DRAWINGS = """() => [...document.querySelectorAll('svg[role=img]')]
  .filter(e => !(e.getAttribute('aria-label') || e.querySelector('title')?.textContent))
  .map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def lived_in(browser, tmp_path_factory):
    """A house with the demo person's record: (walk, the address of that record)."""
    with running(tmp_path_factory.mktemp("checks") / "data") as house:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
        walk = journey.new_walk(context, house.home)
        journey.set_up(walk, house.code)
        patient = journey.try_demo(walk)
        yield walk, f"{house.home}/p/{patient}"
        context.close()


def each(walk, base, *, width=1280):
    """Visit every kind of page of a record."""
    walk.page.set_viewport_size({"width": width, "height": 800})
    for path in PAGES:
        answer = walk.page.goto(f"{base}/{path}")
        assert answer.ok, (path, answer.status)
        yield path


def test_focus_is_always_visible_and_never_hidden_under_a_bar(lived_in):
    walk, base = lived_in
    for width in (1280, 360):
        for path in each(walk, base, width=width):
            for _ in range(25):
                walk.page.keyboard.press("Tab")
                seen = walk.page.evaluate(FOCUSED)
                if seen is None:
                    break
                assert seen["outline"] >= 2 or seen["tag"] == "IFRAME", (path, width, seen)
                assert not seen["covered"], (path, width, seen)


def test_no_button_is_smaller_than_a_finger_needs(lived_in):
    walk, base = lived_in
    small = """() => [...document.querySelectorAll('main :is(button, .button, select, input)')]
      .map(e => [e, e.getBoundingClientRect()])
      .filter(([e, r]) => r.width && !['checkbox', 'radio', 'hidden'].includes(e.type)
        && (r.height < (e.matches('button.main') ? 44 : 24) || r.width < 24))
      .map(([e]) => e.outerHTML.slice(0, 120))"""
    for path in each(walk, base, width=360):
        assert walk.page.evaluate(small) == [], path


def test_wider_text_spacing_cuts_nothing_off(lived_in):
    walk, base = lived_in
    for width in (1280, 360):
        for path in each(walk, base, width=width):
            walk.page.add_style_tag(content=SPACING)
            assert walk.page.evaluate(CLIPPED) == [], (path, width)
            over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert walk.page.evaluate(over) <= 0, (path, width)


def test_nothing_moves_for_who_asked_for_less_motion(lived_in):
    walk, base = lived_in
    walk.page.emulate_media(reduced_motion="reduce")
    for path in each(walk, base):
        assert walk.page.evaluate("document.getAnimations().length") == 0, path
    walk.page.emulate_media(reduced_motion="no-preference")


def test_every_drawing_says_what_it_shows(lived_in):
    walk, base = lived_in
    for path in each(walk, base):
        assert walk.page.evaluate(DRAWINGS) == [], path


def test_a_trend_stands_beside_a_table_with_the_same_values(lived_in):
    walk, base = lived_in
    walk.page.goto(f"{base}/results?show=tests")
    walk.page.locator("main a[href*='/results/']").first.click()
    points = walk.page.locator("main svg .dot").count()
    rows = walk.page.locator("main table tbody tr").count()
    assert rows
    assert points <= rows * 2  # the number line of the newest, and the trend's points


def test_the_card_prints_as_one_page_and_one_card_of_wallet_size(lived_in):
    if shutil.which("pdftotext") is None:
        pytest.skip("no pdftotext on this machine")
    walk, base = lived_in
    walk.page.emulate_media(media="print", color_scheme="dark")
    walk.page.goto(f"{base}/card")
    printed = walk.page.pdf(prefer_css_page_size=True, format="A4")
    walk.page.emulate_media(media="screen", color_scheme="light")
    facts = subprocess.run(
        ["pdfinfo", "-f", "1", "-l", "9", "-"], input=printed, capture_output=True, check=True
    ).stdout.decode()
    sizes = [line for line in facts.splitlines() if line.startswith("Page ") and "size" in line]
    assert len(sizes) == 2, facts
    assert "243" in sizes[1] or "242" in sizes[1], sizes  # 85.6 mm in points
    words = subprocess.run(
        ["pdftotext", "-", "-"], input=printed, capture_output=True, check=True
    ).stdout.decode()
    assert words.count(journey.PERSON) == 2
    assert words.count("Penicillin") == 2


def test_after_signing_out_back_shows_nothing_and_the_browser_keeps_nothing(lived_in, browser):
    walk, base = lived_in
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{walk.home}/signin")
    page.fill("#name", journey.NAME)
    page.fill("#password", journey.PASSWORD)
    with page.expect_navigation():
        page.locator("main button[type=submit]").click()
    page.goto(f"{base}/medications")
    assert "Levothyroxine" in page.content()
    page.locator("summary").first.click()
    with page.expect_navigation():
        page.locator("form[action$='/signout'] button").click()
    page.go_back()
    assert "Levothyroxine" not in page.inner_text("body")
    kept = page.evaluate(
        "async () => [localStorage.length, sessionStorage.length, (await caches.keys()).length,"
        " (await indexedDB.databases()).length]"
    )
    assert kept == [0, 0, 0, 0]
    context.close()
