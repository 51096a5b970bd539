"""Reading grade of what the product says (spec interface §7 check 26), by Flesch and Kincaid."""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pyphen

import phr

ROOT = Path(phr.__file__).parent
NOT_PAGES = {"bench", "cli", "demo"}
SYLLABLES = pyphen.Pyphen(lang="en_US")
BLOCK = (
    r"</?(?:p|li|h\d|small|label|legend|dt|dd|td|th|button|option|summary|title|div|section|br)"
    r"\b[^>]*>"
)
WORD = r"[A-Za-z][A-Za-z'\u2019]*"
ENOUGH = 8  # words: of fewer the formula says nothing
AT_MOST, ON_AVERAGE = 11, 8


def grade(text: str) -> float:
    """Return the school year in which a text is understood (Kincaid 1975)."""
    sentences = [one for one in re.split(r"[.!?:;]+(?:\s|$)", text) if re.search("[A-Za-z]", one)]
    words = re.findall(WORD, text)
    syllables = sum(SYLLABLES.inserted(word).count("-") + 1 for word in words)
    return 0.39 * len(words) / len(sentences) + 11.8 * syllables / len(words) - 15.59


def of_templates() -> Iterator[tuple[str, str]]:
    """Yield each piece of text of every template, with the template's name."""
    for path in sorted(ROOT.rglob("templates/**/*.html")):
        text = re.sub(r"\{#.*?#\}", "", path.read_text(), flags=re.DOTALL)
        text = re.sub(r"\{%.*?%\}", "\n", text, flags=re.DOTALL)
        text = re.sub(r"\{\{.*?\}\}", " X ", text, flags=re.DOTALL)
        text = re.sub(r"<[^>]+>", "", re.sub(BLOCK, "\n", text))
        for line in text.split("\n"):
            yield path.name, html.unescape(" ".join(line.split()))


def of_code() -> Iterator[tuple[str, str]]:
    """Yield each string of the code that is a sentence, with the name of its module."""
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        if NOT_PAGES & set(place.parts):
            continue
        tree = ast.parse(path.read_text())
        described = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = " ".join(node.value.split())
                if id(node) not in described and re.match(r"[A-Z][a-z].*\.$", text):
                    yield str(place), text


def said() -> list[tuple[float, str, str]]:
    """Return (grade, place, text); "A → B" lists menu entries of other people's programs."""
    return [
        (grade(text), place, text)
        for place, text in (*of_templates(), *of_code())
        if len(re.findall(WORD, text)) >= ENOUGH and not {"→", "{"} & set(text)
    ]


def test_everything_said_is_read_by_a_child_of_eighth_grade():
    every = said()
    assert len(every) > 400
    assert mean(one[0] for one in every) <= ON_AVERAGE


def test_no_text_is_harder_than_eleventh_grade():
    assert [one for one in said() if one[0] > AT_MOST] == []
