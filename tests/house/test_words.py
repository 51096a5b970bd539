"""One word, one meaning (DESIGN, words): names that say nothing, or say something else here."""

import ast
import re

import pytest

from tests.house.look import ROOT, modules, place, tree

UNUSED = {"util", "utils", "helper", "helpers", "manager", "service", "common", "misc", "sync"}
UNUSED_NOUNS = UNUSED | {"user", "source"}  # Account or Patient; Connection or Endpoint
# Names of somebody else's, which keep their meaning.
ALLOWED = {"user_agent", "user_version"}


def words(name: str) -> set[str]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    for allowed in ALLOWED:
        spaced = spaced.replace(allowed, "")
    return set(spaced.split("_"))


def test_no_module_is_named_after_nothing() -> None:
    wrong = [name for name in modules() if words(name.replace(".", "_")) & UNUSED_NOUNS]
    assert not wrong


def test_no_table_class_or_function_uses_a_word_we_do_not_use() -> None:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    wrong = [
        f"{place(path, node.lineno)} {node.name}"
        for path in modules().values()
        for node in ast.walk(tree(path))
        if isinstance(node, kinds) and words(node.name) & UNUSED_NOUNS
    ]
    assert not wrong


def test_every_module_opens_with_its_door_plate() -> None:
    wrong = []
    for name, path in modules().items():
        plate = ast.get_docstring(tree(path)) or ""
        lines = [line for line in plate.splitlines() if line.strip()]
        drawn = name in {"phr.errors", "phr"}  # a drawing of the whole tree is allowed to be long
        if not lines or (len(lines) > 6 and not drawn):
            wrong.append(f"{name}: {len(lines)} lines")
    assert not wrong


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X"])
def test_nothing_is_left_for_later(word: str) -> None:
    pattern = re.compile(rf"\b{word}\b")
    wrong = [
        place(path, number)
        for folder in ("phr", "lighthouse", "docker", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".html", ".css", ".js", ""}
        and path.is_file()
        and "vendor" not in path.parts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong
