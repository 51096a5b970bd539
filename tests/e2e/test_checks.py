"""Checks of the interface in a real browser (spec interface §7): keyboard, spacing, motion, ink."""

import shutil
import subprocess

import pytest

from tests.e2e import journey
from tests.e2e.house import running

PAGES = (
    "", "timeline", "results", "medications", "allergies", "problems", "immunizations", "vitals",
    "visits", "documents", "people", "summary", "card", "own", "own/add/medicine", "share",
    "emergency", "direct", "grants", "activity", "connections", "files", "files/link", "more",
    "search?q=thyro",
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
# WCAG 2.2 SC 2.5.8 for all but links inside a sentence; 44 px for what a page is mainly for.
SMALL = """() => [...document.querySelectorAll(
    'button, .button, select, input, textarea, summary, nav a, a.find, .menu-grid a')]
  .map(e => [e, (e.matches('[type=checkbox], [type=radio]') ? e.closest('label') : e)])
  .map(([e, hit]) => [e, hit.getBoundingClientRect()])
  .filter(([e, r]) => r.width > 1 && e.type !== 'hidden'
    && Math.min(r.height, r.width) < (e.matches('.main:not(.filters *), nav a') ? 44 : 24))
  .map(([e]) => e.outerHTML.slice(0, 120))"""
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
# The contrast of the outline with the page behind it (WCAG 2.2: relative luminance).
RING = """() => {
  const e = document.querySelector('#whom'); e.focus();
  const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = colour => {
    probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3)
      .map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ring = light(getComputedStyle(e).outlineColor);
  return Math.min(...[e.closest('.paper'), document.documentElement].map(behind => {
    const [a, b] = [ring, light(getComputedStyle(behind).backgroundColor)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  }));
}"""
SHIFT = """() => new Promise(done => {
  let sum = 0;
  new PerformanceObserver(seen => seen.getEntries().forEach(e => sum += e.value))
    .observe({type: 'layout-shift', buffered: true});
  requestAnimationFrame(() => requestAnimationFrame(() => done(sum)));
})"""
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


def reach(walk, selector: str) -> None:
    """Press Tab until the focus is on what is looked for; it is visible all the way."""
    page = walk.page
    page.wait_for_load_state()
    for _ in range(120):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
        seen = page.evaluate(FOCUSED)
        assert seen is None or seen["tag"] == "IFRAME" or seen["outline"] >= 2, seen
        assert seen is None or not seen["covered"], seen
    raise AssertionError(f"the keyboard never reaches {selector} on {page.url}")


def enter(walk) -> None:
    with walk.page.expect_navigation():
        walk.page.keyboard.press("Enter")


def test_with_the_keyboard_alone_one_signs_in_reads_a_result_shares_and_stops(lived_in, browser):
    walk, base = lived_in
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    ada = journey.new_walk(context, walk.home)
    keys = ada.page.keyboard
    ada.page.goto(f"{walk.home}/signin")
    reach(ada, "#name")
    keys.type(journey.NAME)
    reach(ada, "#password")
    keys.type(journey.PASSWORD)
    enter(ada)
    ada.page.goto(f"{base}/")
    reach(ada, "nav a[href$='/results']")
    enter(ada)
    reach(ada, "main a[href*='/results/']")
    enter(ada)
    assert ada.page.locator("main table.values").count()
    reach(ada, "nav a[href$='/share']")
    enter(ada)
    reach(ada, "#whom")
    keys.type("Dr. Keys")
    reach(ada, "button[name=do][value=link]")
    enter(ada)
    if ada.page.locator("#confirm").count():
        reach(ada, "#confirm")
        keys.type(journey.PASSWORD)
        enter(ada)
    reach(ada, "main a[href$='/grants']")
    enter(ada)
    reach(ada, "form[action$='/stop'] button")
    enter(ada)
    assert "Stopped." in ada.page.inner_text("#status")
    assert "Nobody outside can see this record" in ada.text
    context.close()


def test_the_focus_ring_stands_out_from_what_is_behind_it(lived_in):
    walk, base = lived_in
    walk.page.goto(f"{base}/share")
    for scheme in ("light", "dark"):
        walk.page.emulate_media(color_scheme=scheme)
        assert walk.page.evaluate(RING) >= 3, scheme
    walk.page.emulate_media(color_scheme="light")


def test_a_change_in_the_share_form_is_told_in_the_status(lived_in):
    walk, base = lived_in
    page = walk.page
    page.goto(f"{base}/share")
    told = page.inner_text("#tally [role=status]")
    page.check("input[name=what][value=emergency]")
    page.wait_for_function(
        "told => document.querySelector('#tally [role=status]').innerText !== told", arg=told
    )
    assert page.evaluate("document.activeElement.value") == "emergency"  # the focus stays


def test_pages_do_not_jump_while_they_load(lived_in):
    walk, base = lived_in
    for width in (1280, 360):
        for path in each(walk, base, width=width):
            assert walk.page.evaluate(SHIFT) <= 0.02, (path, width)


def test_the_first_screen_of_a_doctor_holds_what_matters_and_needs_no_account(lived_in, browser):
    walk, base = lived_in
    patient = base.rpartition("/")[2]
    link, code = journey.make_link(walk, patient)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    doctor = context.new_page()
    doctor.goto(link)
    assert doctor.locator("input:not([type=hidden])").count() == 1  # the code, and nothing else
    journey.open_link(doctor, link, code)
    for head in ("Allergies", "Medicines listed as current", "Problems"):
        part = doctor.locator("section", has=doctor.get_by_role("heading", name=head))
        box = part.first.bounding_box()
        assert box["y"] + box["height"] <= 800, head

    with doctor.expect_download() as saved:
        doctor.get_by_role("link", name="FHIR file").click()
    saved.value.path()
    journey.stop(walk, patient)
    assert context.request.get(doctor.url).status == 410
    walk.page.goto(f"{base}/activity")
    told = walk.text
    for words in (
        "Dr. Chen opened the link with the right code.",
        "Dr. Chen looked at the first page.",
        "Dr. Chen downloaded",
        "You stopped sharing with Dr. Chen.",
    ):
        assert words in told, words
    context.close()


def test_no_button_is_smaller_than_a_finger_needs(lived_in):
    walk, base = lived_in
    for path in each(walk, base, width=360):
        assert walk.page.evaluate(SMALL) == [], path


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
    with walk.page.expect_navigation():
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
    walk.page.emulate_media(media="null", color_scheme="light")
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


def test_a_page_is_printed_across_the_whole_of_a_wide_sheet(lived_in):
    walk, base = lived_in
    walk.page.set_viewport_size({"width": 1120, "height": 780})  # A4 across
    walk.page.emulate_media(media="print")
    for page in ("results", "medications", "summary"):
        walk.page.goto(f"{base}/{page}")
        width = walk.page.evaluate("document.querySelector('main').getBoundingClientRect().width")
        assert width > 1000, page
    walk.page.emulate_media(media="null")
    walk.page.set_viewport_size({"width": 1280, "height": 720})


def test_after_signing_out_back_shows_nothing_and_the_browser_keeps_nothing(lived_in, browser):
    walk, base = lived_in
    context = browser.new_context()
    page = context.new_page()
    journey.sign_in(page, walk.home)
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
