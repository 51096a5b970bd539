"""Checks of the interface on a record made for them: numbers, charts, paper, hostile letters.

Spec interface §7; which check is where: docs/interface-checks.md.
"""

import base64
import io
import json
import re
import shutil
import subprocess

import pytest
import zxingcpp
from PIL import Image

from tests.e2e import journey
from tests.e2e.house import command_line, running

ABOUT = {"reference": "Patient/1"}
LABORATORY = {
    "system": "http://terminology.hl7.org/CodeSystem/observation-category",
    "code": "laboratory",
}
INTERPRETATION = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
POTASSIUM = {  # day: (value as it is sent, flag)
    "2025-11-11": ("4.10", "N"),
    "2026-01-11": ("4.85", "N"),
    "2026-03-11": ("5.00", "N"),
    "2026-05-11": ("4.73", "N"),
    "2026-07-11": ("3.40", "L"),
    "2026-09-11": ("5.40", "H"),
}
HOSTILE = """<html><head><meta http-equiv="refresh" content="0; url=http://evil.invalid/refresh">
<style>@import url(http://evil.invalid/style); body { background: url(http://evil.invalid/bg) }
</style>
<link rel="stylesheet" href="http://evil.invalid/sheet"><base href="http://evil.invalid/"></head>
<body onload="parent.document.title='taken'"><p>Seen in clinic</p>
<script>fetch('http://evil.invalid/script'); alert(1)</script>
<img src="http://evil.invalid/pixel" onerror="alert(2)">
<svg onload="alert(3)"><image href="http://evil.invalid/svg"/></svg>
<iframe src="http://evil.invalid/frame"></iframe><object data="http://evil.invalid/object"></object>
<form action="http://evil.invalid/form"><input name="a" autofocus onfocus="alert(4)"></form>
</body></html>"""


def lab(number, code, text, value, day, *, flag="", low=None, high=None):
    """Return one laboratory result as the line that a hospital sends; its digits are kept."""
    made = {
        "resourceType": "Observation",
        "id": f"{code}-{number}",
        "status": "final",
        "subject": ABOUT,
        "category": [{"coding": [LABORATORY]}],
        "code": {"text": text, "coding": [{"system": "http://loinc.org", "code": code}]},
        "effectiveDateTime": f"{day}T08:00:00Z",
        "performer": [{"display": "Harbour Laboratory"}],
        "valueQuantity": {"value": "\0", "unit": "mmol/L"},
    }
    if flag:
        made["interpretation"] = [{"coding": [{"system": INTERPRETATION, "code": flag}]}]
    if low:
        made["referenceRange"] = [{"low": {"value": low}, "high": {"value": high}}]
    return json.dumps(made).replace('"\\u0000"', value)


def lines():
    letter = base64.b64encode(HOSTILE.encode()).decode()
    patient = {"resourceType": "Patient", "id": "1", "name": [{"text": journey.PERSON}]}
    allergy = {
        "resourceType": "AllergyIntolerance",
        "id": "2",
        "patient": ABOUT,
        "code": {"text": "Penicillin"},
    }
    note = {
        "resourceType": "DocumentReference",
        "id": "3",
        "status": "current",
        "subject": ABOUT,
        "date": "2026-05-11T08:00:00Z",
        "description": "Letter of the clinic",
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">Seen'
            ' <img src="http://evil.invalid/narrative"/><script>alert(5)</script></div>',
        },
        "content": [{"attachment": {"contentType": "text/html", "data": letter}}],
    }
    yield from map(json.dumps, (patient, allergy, note))
    for number, (day, (value, flag)) in enumerate(POTASSIUM.items()):
        yield lab(number, "2823-3", "Potassium", value, day, flag=flag, low=3.5, high=5.1)
    yield lab(0, "2276-4", "Ferritin", "88.0", "2026-09-11")


def many():
    """Yield 300 tests with three values each."""
    for test in range(300):
        for number, day in enumerate(("2025-03-11", "2025-09-11", "2026-03-11")):
            code, value = f"{10000 + test}-{test % 10}", f"{test}.{number}0"
            yield lab(number, code, f"Test {test}", value, day, flag="N", low=1, high=400)


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A house with an account, a small record and one with 300 tests."""
    folder = tmp_path_factory.mktemp("made")
    with running(folder / "data") as found:
        command_line(found, "account", "create", journey.NAME, given=journey.PASSWORD)
        for name, made in ((journey.PERSON, lines()), ("Many Tests", many())):
            owned = ("--owner", journey.NAME, "--opens-by-itself")
            command_line(found, "vault", "create", name, *owned)
            file = folder / f"{name}.ndjson"
            file.write_text("\n".join(made))
            command_line(found, "import", str(file), "--patient", name)
        yield found


@pytest.fixture(scope="module")
def ada(browser, house):
    """Somebody signed in: (walk, the address of the small record, that of the large one)."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    walk = journey.new_walk(context, house.home)
    page = walk.page
    journey.sign_in(page, house.home)
    page.goto(f"{house.home}/household")
    people = page.locator("main a.go")
    found = {people.nth(n).inner_text(): people.nth(n).get_attribute("href") for n in range(2)}
    small, large = found[journey.PERSON], found["Many Tests"]
    yield walk, house.home + small.rstrip("/"), house.home + large.rstrip("/")
    context.close()


def test_each_result_says_value_unit_word_range_date_and_source(ada):
    walk, base, _ = ada
    walk.page.goto(f"{base}/results")
    rows = walk.page.locator("main li.result")
    told = {}
    for number in range(rows.count()):
        row = rows.nth(number)
        group = row.locator("xpath=ancestor::*[contains(@class, 'sheet')][1]").inner_text()
        told.setdefault(row.locator("h3").inner_text(), (row, row.inner_text(), group))
    row, text, group = told["Potassium"]
    assert re.search(r"5\.40\s+mmol/L", text)
    assert "High" in text
    assert "Range given: 3.5 to 5.1" in text
    assert "11 Sep 2026" in group
    assert "Harbour Laboratory" in group
    assert row.locator(".zone").count() == 1
    row, text, group = told["Ferritin"]
    assert re.search(r"88\.0\s+mmol/L", text)
    assert "No range given" in text
    assert row.locator(".word").inner_text().strip()
    assert row.locator(".zone").count() == 0


def test_digits_of_the_source_stand_on_every_page(ada):
    walk, base, _ = ada
    page = walk.page
    page.goto(f"{base}/results/2823-3")
    cells = page.locator("table.values tbody td:nth-of-type(1)").all_inner_texts()
    assert cells == [value for value, _ in reversed(POTASSIUM.values())]
    assert "no value was converted" in page.inner_text("main")
    page.locator("table.values a").first.click()
    page.wait_for_url("**/record/Observation/**")
    assert "5.40" in page.inner_text("main")


def test_each_plotted_point_is_a_row_of_the_table_and_at_its_height(ada):
    walk, base, _ = ada
    walk.page.goto(f"{base}/results/2823-3")
    drawn = walk.page.eval_on_selector_all(
        "svg.trend > circle.dot, svg.trend > svg:has(.dot)",
        "all => all.map(e => parseFloat(e.getAttribute('cy') ?? e.getAttribute('y')))",
    )
    values = [float(value) for value, _ in POTASSIUM.values()]
    assert len(drawn) == len(values)
    highest, lowest = values.index(max(values)), values.index(min(values))
    scale = (drawn[highest] - drawn[lowest]) / (values[highest] - values[lowest])
    assert scale < 0  # a larger value stands higher
    for y, value in zip(drawn, values, strict=True):
        assert y == pytest.approx(drawn[lowest] + scale * (value - values[lowest]), abs=0.6)
    assert "Potassium" in walk.page.text_content("svg.trend > title")
    assert walk.page.text_content("svg.trend > desc")


def test_flags_are_words_and_shapes_and_not_only_colours(ada):
    walk, base, _ = ada
    page = walk.page
    for path in ("results", "results/2823-3", "results?show=flagged"):
        page.goto(f"{base}/{path}")
        marks = page.locator("main .word")
        assert all(text.strip() for text in marks.all_inner_texts()), path
        assert "High" in page.inner_text("main"), path
        assert page.locator("main circle.dot.out").count() == 0, path  # a flag has a shape


def test_three_hundred_tests_are_a_light_page(ada):
    walk, _, base = ada
    for path in ("results?show=tests", "results"):
        answer = walk.page.goto(f"{base}/{path}")
        nodes = walk.page.evaluate("document.getElementsByTagName('*').length")
        assert nodes <= 5000, path
        assert int(answer.headers["content-length"]) <= 60_000, path


def test_a_hostile_letter_is_inert_and_asks_nobody(ada):
    walk, base, _ = ada
    page, asked, spoken = walk.page.context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (spoken.append(dialog.message), dialog.dismiss()))
    page.goto(f"{base}/documents")
    page.locator("main a[href*='/record/DocumentReference/']").first.click()
    page.wait_for_url("**/record/**")
    page.locator("details.fold summary").first.click()
    page.wait_for_load_state("networkidle")
    page.goto(f"{base}/documents")
    page.locator("main a[href*='/file/']").first.click()
    page.wait_for_url("**/file/**")
    page.wait_for_load_state("networkidle")

    texts = [frame.locator("body").inner_text() for frame in page.frames[1:]]
    assert any("Seen in clinic" in text for text in texts)
    assert page.title() != "taken"
    assert spoken == []
    assert [url for url in asked if not url.startswith((walk.home, "data:", "about:"))] == []
    page.close()


needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="no poppler-utils on this machine"
)


def words_of(pdf: bytes) -> str:
    """Return the text of a PDF."""
    asked = ["pdftotext", "-layout", "-", "-"]
    return subprocess.run(asked, input=pdf, capture_output=True, check=True).stdout.decode()


def pictures_of(pdf: bytes, dots: int) -> list[Image.Image]:
    """Return the pages of a PDF as pictures, `dots` per inch."""
    asked = ["pdftoppm", "-r", str(dots), "-"]
    done = subprocess.run(asked, input=pdf, capture_output=True, check=True)
    found, data = [], done.stdout
    while data:
        picture = Image.open(io.BytesIO(data))
        picture.load()
        found.append(picture)
        header = re.match(rb"P6\s+\d+\s+\d+\s+\d+\s", data).end()
        data = data[header + picture.width * picture.height * 3 :]
    return found


@needs_poppler
def test_the_page_of_a_test_prints_its_chart_and_its_table_on_white(ada):
    walk, base, _ = ada
    page = walk.page
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(f"{base}/results/2823-3")
    pdf = page.pdf(format="A4", print_background=True)
    page.emulate_media(media="null", color_scheme="light")

    words = words_of(pdf)
    for value, _ in POTASSIUM.values():
        assert value in words
    assert "Nov 2025" in words  # the axis of the chart
    first, *_ = pictures_of(pdf, 40)
    corners = [first.getpixel((5, 5)), first.getpixel((first.width // 2, first.height - 5))]
    assert corners == [(255, 255, 255)] * 2


@needs_poppler
def test_the_code_on_a_printed_card_leads_to_the_link(ada):
    walk, base, _ = ada
    page = walk.page
    link, code = journey.make_link(walk, base.rpartition("/")[2])
    walk.send('form[action$="/card"] button')
    pdf = page.pdf(prefer_css_page_size=True, format="A4", print_background=True)

    both = pictures_of(pdf, 200)
    read = [[found.text for found in zxingcpp.read_barcodes(picture)] for picture in both]
    assert read == [[link], [link]]
    words = words_of(pdf)
    assert words.count("Penicillin") == 2
    assert words.count(f"{code[:3]} {code[3:]}") == 2
    journey.stop(walk, base.rpartition("/")[2])


def test_the_link_is_four_taps_from_home_and_mild_by_default(ada):
    walk, base, _ = ada
    page = walk.page
    page.set_viewport_size({"width": 360, "height": 780})
    page.goto(f"{base}/")
    taps = 0

    def tap(selector: str) -> None:
        nonlocal taps
        taps += 1
        page.locator(selector).first.click()

    tap("nav a[href$='/share']")
    page.wait_for_selector("#whom")
    assert int(page.input_value("input[name=hours]:checked")) <= 24
    assert page.locator("input[name=also]:checked").count() == 0
    page.fill("#whom", "Dr. Chen")
    tap("button[name=do][value=link]")
    page.wait_for_selector("#address, #confirm")
    if page.locator("#confirm").count():
        page.fill("#confirm", journey.PASSWORD)
        tap("button.main")
    page.wait_for_selector("#address")
    assert page.locator("svg.qr").count() == 1
    tap("[data-copy=address]")
    assert taps <= 4
    assert page.evaluate("getSelection().toString() || document.activeElement.value")
    page.set_viewport_size({"width": 1280, "height": 800})
    journey.stop(walk, base.rpartition("/")[2])
