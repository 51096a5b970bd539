"""Every page that can be reached: axe, valid HTML, 320 px, no foreign request, small, no script."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Error, Page, Response

from tests.e2e import journey
from tests.e2e.house import running
from tests.fixtures_direct import installed

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
VALIDATE = ROOT / "node_modules" / ".bin" / "html-validate"
NU = ROOT / "node_modules" / "vnu-jar" / "build" / "dist" / "vnu.jar"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast", "link-in-text-block", "target-size"]
PAGE_BYTES = 60_000
PAGE_REQUESTS = 8
AT_MOST = 120  # pages
PER_KIND = 2  # of each kind of page: not of every record one


@dataclass
class Seen:
    """What a page answered: its address, its HTML, the bytes that came for it."""

    url: str
    html: str
    weight: int = 0
    requests: int = 0
    foreign: list[str] = field(default_factory=list)


def kind_of(path: str) -> str:
    """Return the address with ids and types taken out, so that pages of one kind count together."""
    parts = path.split("/")
    return "/".join("…" if len(p) >= 16 or p.isdigit() or p[:1].isupper() else p for p in parts)


class Crawl:
    """Follows every link of the appliance's own pages, a few of each kind."""

    def __init__(self, page: Page, home: str) -> None:
        self.page, self.home = page, home
        self.seen: dict[str, Seen] = {}
        self._kinds: dict[str, int] = {}
        self.problems: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"{kind_of(urlsplit(self.page.url).path)}: {message.text}")

    def run(self, *starts: str) -> None:
        """Visit the starts and what they lead to."""
        waiting = list(starts)
        while waiting and len(self.seen) < AT_MOST:
            url = waiting.pop(0).partition("#")[0]
            if url in self.seen or not self._wanted(url):
                continue
            waiting += self._visit(url)

    def _wanted(self, url: str) -> bool:
        path = urlsplit(url).path
        if not url.startswith(self.home + "/") or "/raw" in path or "/signout" in path:
            return False
        kind = kind_of(path)
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        return self._kinds[kind] <= PER_KIND

    def _visit(self, url: str) -> list[str]:
        got, answers = Seen(url, ""), []

        def note(response: Response) -> None:
            answers.append(response)

        self.page.on("response", note)
        try:
            answer = self.page.goto(url, timeout=15_000)
        except Error as error:
            if "Download is starting" in error.message:
                return []
            raise
        finally:
            self.page.remove_listener("response", note)
        if answer is None or "text/html" not in answer.headers.get("content-type", ""):
            return []
        if "sandbox" in answer.headers.get("content-security-policy", ""):
            return []  # a hospital's letter: not a page of ours, and no script (axe) runs in it
        got.html = answer.text()
        got.foreign = [a.url for a in answers if not a.url.startswith((self.home, "data:"))]
        got.requests = len(answers)
        got.weight = sum(int(a.headers.get("content-length") or 0) for a in answers)
        self.seen[url] = got
        return self.page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")


@pytest.fixture(scope="module")
def crawled(browser, tmp_path_factory):
    """A house with a demo record and a live link, every page of it visited once."""
    with running(tmp_path_factory.mktemp("pages") / "data") as house:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        walk = journey.new_walk(context, house.home)
        early = []
        early.append(Seen(house.home + "/setup", walk.page.goto(house.home + "/").text()))
        journey.set_up(walk, house.code)
        patient = journey.try_demo(walk)
        link, code = journey.make_link(walk, patient)
        doctor = browser.new_context(viewport={"width": 1280, "height": 800})
        page = doctor.new_page()
        early.append(Seen(link, page.goto(link).text()))
        journey.open_link(page, link, code)
        outside = Crawl(page, house.public)
        outside.run(page.url)
        inside = Crawl(walk.page, house.home)
        inside.run(f"{house.home}/p/{patient}/", f"{house.home}/p/{patient}/more", house.home + "/")
        yield context, doctor, inside, outside, early
        context.close()
        doctor.close()


def test_crawl_reaches_every_section(crawled):
    _, _, inside, outside, _ = crawled
    found = {urlsplit(url).path.split("/")[-1] for url in inside.seen}
    sections = "timeline results medications allergies problems immunizations vitals visits"
    others = "procedures documents people other connections files link share grants activity"
    others += " more emergency"

    assert set(f"{sections} {others} household account admin".split()) <= found
    assert len(outside.seen) >= 5


def test_no_page_asks_another_host_and_none_is_heavy(crawled):
    _, _, inside, outside, _ = crawled
    every = [*inside.seen.values(), *outside.seen.values()]

    assert [seen.url for seen in every if seen.foreign] == []
    assert [(kind_of(s.url), s.weight) for s in every if s.weight > PAGE_BYTES] == []
    assert [(kind_of(s.url), s.requests) for s in every if s.requests > PAGE_REQUESTS] == []


def test_the_browser_has_nothing_to_complain_about_on_any_page(crawled):
    _, _, inside, outside, _ = crawled

    assert inside.problems == []  # violations of the policy are told on the console
    assert outside.problems == []


def in_every_look(page: Page, *, only_light: bool) -> list[str]:
    """Run axe in light colours, then what depends on colours in dark and in forced ones."""
    looks = () if only_light else (("dark", "none"), ("light", "active"))
    page.emulate_media(color_scheme="light", forced_colors="none")
    page.evaluate(AXE.read_text())
    found = violations(page, {"type": "tag", "values": TAGS})
    for scheme, forced in looks:
        page.emulate_media(color_scheme=scheme, forced_colors=forced)
        colours = violations(page, {"type": "rule", "values": COLOURS})
        found += [f"{scheme}, forced {forced}: {each}" for each in colours]
    return found


def violations(page: Page, rules: dict) -> list[str]:
    """Run axe in the page and return what it found, in one line each."""
    # In the frame of a hospital's letter no script runs: axe would wait for it for ever.
    options = {"runOnly": rules, "iframes": False}
    result = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{found['id']}: {found['nodes'][0]['target']} {found['nodes'][0]['html'][:120]}"
        for found in result["violations"]
    ]


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_on_any_page(crawled, width):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (make setup)")
    context, doctor, inside, outside, _ = crawled
    found = {}
    for where, crawl in ((context, inside), (doctor, outside)):
        page = where.new_page()
        page.set_viewport_size({"width": width, "height": 800})
        for kind, url in {kind_of(urlsplit(url).path): url for url in crawl.seen}.items():
            page.goto(url)
            if problems := in_every_look(page, only_light=width < 1000):
                found[kind] = problems
        page.close()

    assert found == {}


def test_no_page_scrolls_sideways_at_320_pixels(crawled):
    context, doctor, inside, outside, _ = crawled
    wide = {}
    for where, crawl in ((context, inside), (doctor, outside)):
        page = where.new_page()
        page.set_viewport_size({"width": 320, "height": 700})
        for kind, url in {kind_of(urlsplit(url).path): url for url in crawl.seen}.items():
            page.goto(url)
            extent = page.evaluate("document.documentElement.scrollWidth")
            if extent > 320:
                wide[kind] = extent
        page.close()

    assert wide == {}


RULES = {
    "extends": ["html-validate:recommended"],
    "rules": {
        "doctype-style": ["error", {"style": "lowercase"}],
        "no-trailing-whitespace": "off",  # a matter of templates, not of pages
        "long-title": "off",
        "form-dup-name": ["error", {"shared": ["radio", "button", "submit", "checkbox"]}],
        "no-inline-style": "error",
        "require-sri": "off",  # our own origin only
        "prefer-native-element": "off",
    },
}


def invalid_html(pages: Mapping[str, str], folder: Path) -> set[str]:
    """Return what html-validate finds on pages, by name: each with the name in front."""
    if not VALIDATE.is_file():
        pytest.skip("html-validate is not installed (make setup)")
    names = {}
    for number, (name, html) in enumerate(pages.items()):
        file = folder / f"page{number}.html"
        file.write_text(html)
        names[str(file)] = name
    (folder / ".htmlvalidate.json").write_text(json.dumps({"root": True, **RULES}))
    subprocess.run(
        [shutil.which("node"), str(VALIDATE), "--formatter", "json=found.json", *names],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    return {
        f"{names[page['filePath']]}: {message['ruleId']}: {message['message']}"
        for page in json.loads((folder / "found.json").read_text())
        for message in page["messages"]
    }


def test_every_page_is_valid_html(crawled, tmp_path):
    _, _, inside, outside, early = crawled
    every = [*early, *inside.seen.values(), *outside.seen.values()]
    pages = {f"{kind_of(urlsplit(seen.url).path)} ({n})": seen.html for n, seen in enumerate(every)}
    found = invalid_html(pages, tmp_path)

    assert not found, "\n".join(sorted(found))


def swapped(crawled) -> dict[str, str]:
    """Return each piece of a page that htmx asks for, as it comes, by the kind of its page."""
    context, _, inside, _, _ = crawled
    kinds = {kind_of(urlsplit(url).path): url for url in inside.seen}
    found = {}
    for kind, url in kinds.items():
        piece = context.request.get(url, headers={"HX-Request": "true"}).text()
        if "<html" not in piece:
            found[kind] = piece
    page = context.new_page()
    for end, selector, do in (
        ("/find", "#q", lambda at: at.press_sequentially("Saltmarsh")),
        ("/share", "#whom", lambda at: (at.fill("Dr. Chen"), at.press("Tab"))),
    ):
        page.goto(next(url for url in kinds.values() if urlsplit(url).path.endswith(end)))
        with page.expect_response(lambda got: "hx-request" in got.request.headers) as asked:
            do(page.locator(selector).first)
        found[f"POST {end}"] = asked.value.text()
    page.close()
    return found


def test_what_is_swapped_into_a_page_is_valid_html_by_itself(crawled, tmp_path):
    pieces = swapped(crawled)
    assert {"POST /find", "POST /share"} < set(pieces)  # and pages that fetch their own pieces
    assert not [kind for kind, piece in pieces.items() if "<html" in piece]
    assert invalid_html(pieces, tmp_path) == set()


def test_the_nu_html_checker_finds_no_error_on_any_page(crawled, tmp_path):
    if not NU.is_file():
        pytest.skip("the Nu HTML checker is not installed (make setup)")
    java = installed("java", "default-jre-headless")
    _, _, inside, outside, early = crawled
    for number, seen in enumerate([*early, *inside.seen.values(), *outside.seen.values()]):
        kind = kind_of(urlsplit(seen.url).path).strip("/").replace("/", "-")
        (tmp_path / f"{number}-{kind}.html").write_text(seen.html)
    frame = '<!doctype html><html lang="en"><title>Piece</title><body>'
    for number, piece in enumerate(swapped(crawled).values()):
        (tmp_path / f"piece{number}.html").write_text(f"{frame}{piece}")
    (tmp_path / "broken.html").write_text("<!doctype html><p id=a><p id=a>")  # it can find one
    done = subprocess.run(
        [java, "-Xmx512m", "-jar", NU, "--format", "json", "--errors-only", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [
        f"{Path(one['url']).name}: {one['message']}" for one in json.loads(done.stderr)["messages"]
    ]

    assert any(one.startswith("broken.html") for one in found)
    assert not [one for one in found if not one.startswith("broken.html")]


def test_strict_policy_and_no_store_on_every_page(crawled):
    context, _, inside, _, _ = crawled
    for url in inside.seen:
        headers = context.request.get(url).headers
        policy = headers["content-security-policy"]
        assert "unsafe-" not in policy
        assert "default-src 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] in {"no-referrer", "same-origin"}
        assert "no-store" in headers["cache-control"]
