"""Walks through every page of a record, at home and behind a doctor's link, as a person would.

Follows the links that only read. What is not there, or breaks, is a failing test of the caller.
"""

import html
import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

from phr import views
from phr.fhir.record import Selection
from phr.store import records
from tests.cast import PUBLIC, Browser, Cast
from tests.fixtures_sharing import Share

_HREF = re.compile(r'href="([^"#]+)')
_NO_CHART = re.compile(
    r"/(?:connections|files|find|share|grants|activity|apps|own|person|papers|same|file/[^/]+/save)(?:/|$|\?)"
    r"|/versions$|\?version="  # the same again for what has one version
)
_SHOWN = re.compile(
    r"<(script|style|head|form|nav|svg)\b.*?</\1>|<!--.*?-->", re.DOTALL | re.IGNORECASE
)
_TAG = re.compile(r"<[^>]+>")


def text_of(page: str) -> str:
    """Return what a page says, without its frame of links and forms."""
    main = page.partition("<main")[2].partition(">")[2].partition("</main>")[0] or page
    return html.unescape(_TAG.sub(" ", _SHOWN.sub(" ", main)))


def home_pages(cast: Cast, name: str, browser: Browser) -> Iterator[tuple[str, str]]:
    """Yield (path, HTML) of each page of a person's chart that can be reached from its views."""
    base = f"/p/{cast.patients[name]}"
    vault = cast.vault(name)
    with vault.read() as session:
        kept = records.select(session, vault, Selection())
    each = [f"{base}/record/{one.type}/{one.local_id}" for one in kept]
    first = [base, *(f"{base}/{slug}" for slug in views.VIEWS)]
    first += [f"{base}/{more}" for more in ("more", "summary", "card", "search?q=a")]
    yield from _walk(browser, [*first, *each], base)


def doctors_pages(cast: Cast, name: str) -> Iterator[tuple[str, str]]:
    """Yield (path, HTML) of each page that a doctor with a link to all of a record reaches."""
    link = Share(cast.appliance, cast.vault(name)).link()  # type: ignore[arg-type]  # only kept
    browser = cast.stranger()
    page = link.url.removeprefix(PUBLIC)
    browser.submit(page, {"code": link.code}, page=page)
    yield from _walk(browser, [f"/s/{link.handle_id}"], f"/s/{link.handle_id}")


def _walk(browser: Browser, first: list[str], base: str) -> Iterator[tuple[str, str]]:
    waiting, seen = list(first), set(first)
    while waiting:
        path = waiting.pop()
        answer = browser.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[-600:])
        if "html" not in answer.headers.get("content-type", ""):
            continue
        yield path, answer.text
        for href in _HREF.findall(answer.text):
            to = urljoin(path, html.unescape(href))
            place = urlsplit(to)
            if place.netloc or not place.path.startswith(base) or _NO_CHART.search(to):
                continue
            if to not in seen:
                seen.add(to)
                waiting.append(to)
