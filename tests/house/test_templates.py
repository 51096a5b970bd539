"""Pages run under a policy without `unsafe-*`: what it forbids is not in any template."""

import re

import pytest

from tests.house.look import ROOT, place

TEMPLATES = sorted(
    path
    for folder in ("phr/web/templates", "phr/views/templates", "phr/demo")
    for path in (ROOT / folder).rglob("*.html")
)
FORBIDDEN = {
    "a style attribute": re.compile(r"<[^>]*\sstyle\s*=", re.IGNORECASE),
    "a style element": re.compile(r"<style\b", re.IGNORECASE),
    "an inline script": re.compile(r"<script\b(?![^>]*\bsrc=)", re.IGNORECASE),
    "an event attribute": re.compile(r"<[^>]*\son[a-z]+\s*=", re.IGNORECASE),
    "htmx that needs eval": re.compile(
        r"hx-on|hx-vals\s*=\s*['\"]?js:|\bjs:|javascript:", re.IGNORECASE
    ),
    "a trigger filter": re.compile(r"hx-trigger\s*=\s*\"[^\"]*\[", re.IGNORECASE),
    "unescaped output": re.compile(r"\|\s*safe\b"),
    "a foreign address that is loaded": re.compile(
        r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*\s(?:src|href)\s*=\s*\"(?:https?:)?//",
        re.IGNORECASE,
    ),
    "an own path without url()": re.compile(r"\s(?:href|action|src)\s*=\s*\"/", re.IGNORECASE),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_template_holds(what: str) -> None:
    wrong = [
        f"{place(path, number)} {line.strip()[:80]}"
        for path in TEMPLATES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not wrong


def test_every_form_that_posts_carries_the_token() -> None:
    form = re.compile(r"<form\b[^>]*method=\"post\".*?</form>", re.DOTALL)
    wrong = [
        place(path, text.count("\n", 0, found.start()) + 1)
        for path, text in ((path, path.read_text()) for path in TEMPLATES)
        if "demo" not in path.parts
        for found in form.finditer(text)
        if "csrf_field()" not in found.group()
    ]
    assert not wrong


def test_there_are_templates() -> None:
    assert TEMPLATES


def test_our_own_scripts_and_styles_load_nothing_foreign() -> None:
    static = ROOT / "phr/web/static"
    wrong = [
        place(path, number)
        for path in sorted([*static.glob("*.css"), *static.glob("*.js")])
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"url\(\s*['\"]?(?:https?:)?//|@import|\beval\(|new Function\(", line)
    ]
    assert not wrong
