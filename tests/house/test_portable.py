"""What is stored reads the same on every machine: no number is written in a machine's own order."""

import ast
import re

from tests.house.look import modules, tree

STORING = (
    "phr.store",
    "phr.keep",
    "phr.whose",
    "phr.news",
    "phr.fhir",
    "phr.returned",
    "phr.gather",
    "phr.sharing",
)
NATIVE = re.compile(r"(?![<>!])\w*[hHiIlLqQnNfd]")  # of `struct`, without a byte order
ORDER = {"big", "little"}


def storing() -> list[tuple[str, ast.Module]]:
    found = [
        (str(path), tree(path)) for name, path in modules().items() if name.startswith(STORING)
    ]
    assert len(found) > 20
    return found


def calls(of: ast.Module) -> list[tuple[str, str, ast.Call]]:
    return [
        (getattr(node.func.value, "id", ""), node.func.attr, node)
        for node in ast.walk(of)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def test_no_stored_number_depends_on_the_machine() -> None:
    wrong = []
    for path, module in storing():
        for owner, name, call in calls(module):
            texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            if owner == "struct" and isinstance(texts[0] if texts else None, str):
                native = NATIVE.match(str(texts[0]))
            else:
                native = None
            if name in {"to_bytes", "from_bytes"} and not ORDER & {str(each) for each in texts}:
                wrong.append(f"{path}:{call.lineno} {name} without a byte order")
            if native:
                wrong.append(f"{path}:{call.lineno} struct in the machine's own order")
            if owner in {"array", "sys"} and name in {"array", "byteorder"}:
                wrong.append(f"{path}:{call.lineno} {owner}.{name}")
    assert not wrong
