"""Sizes: functions short, modules readable. Past the soft ceilings it is a report, past the hard
ones a failure."""

import ast
from statistics import median

from tests.house.look import ROOT, modules, tree

HARD_FUNCTION = 70  # lines; the habit is 50
HARD_MODULE = 1000  # lines; a thought starts at 300
TABLES = {"phr.store.models", "phr.fhir.kinds", "phr.fhir.labels"}  # data, not flow


def functions() -> list[tuple[int, str]]:
    found = []
    for name, path in modules().items():
        if name.startswith("phr.demo"):
            continue  # people made up by hand: data, not flow
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                plate = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
                found.append(((node.end_lineno or 0) - (plate or 0), f"{name}.{node.name}"))
    return sorted(found, reverse=True)


def test_functions_stay_short() -> None:
    sizes = functions()
    print("longest functions:", *(f"{size:4} {name}" for size, name in sizes[:12]), sep="\n")  # noqa: T201 - the report
    assert not [one for one in sizes if one[0] > HARD_FUNCTION]
    assert median(size for size, _ in sizes) <= 10


def test_modules_stay_readable() -> None:
    sizes = sorted(
        ((len(path.read_text().splitlines()), name) for name, path in modules().items()),
        reverse=True,
    )
    print("longest modules:", *(f"{size:4} {name}" for size, name in sizes[:12]), sep="\n")  # noqa: T201 - the report
    assert not [one for one in sizes if one[0] > HARD_MODULE and one[1] not in TABLES]


def test_no_room_is_empty() -> None:
    rooms = [path.parent for name, path in modules().items() if path.name == "__init__.py"]
    wrong = [
        str(room.relative_to(ROOT))
        for room in rooms
        if room.name != "lighthouse"
        and not [p for p in room.rglob("*.py") if p.name != "__init__.py"]
    ]
    assert not wrong
