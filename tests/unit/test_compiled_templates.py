"""Templates are kept compiled beside their source, and only as long as they fit it."""

import subprocess
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from phr.views.compiled import Compiled


def drawn(folder: Path) -> str:
    kept = Compiled(folder)
    made = Environment(loader=FileSystemLoader(folder), autoescape=True, bytecode_cache=kept)
    return made.get_template("a.html").render(name="<Ada>")


def test_a_template_is_compiled_once_and_again_when_it_changed(tmp_path):
    (tmp_path / "a.html").write_text("Hello {{ name }}")
    assert drawn(tmp_path) == "Hello &lt;Ada&gt;"
    (kept,) = (tmp_path / "__pycache__").iterdir()
    first = kept.read_bytes()
    assert drawn(tmp_path) == "Hello &lt;Ada&gt;"
    assert kept.read_bytes() == first
    (tmp_path / "a.html").write_text("Good day {{ name }}")
    assert drawn(tmp_path) == "Good day &lt;Ada&gt;"
    assert kept.read_bytes() != first
    assert list((tmp_path / "__pycache__").iterdir()) == [kept]


def test_nonsense_in_the_place_of_byte_code_is_compiled_over(tmp_path):
    (tmp_path / "a.html").write_text("Hello {{ name }}")
    drawn(tmp_path)
    (kept,) = (tmp_path / "__pycache__").iterdir()
    kept.write_bytes(b"nonsense")
    assert drawn(tmp_path) == "Hello &lt;Ada&gt;"


def test_a_file_in_the_place_of_the_folder_is_no_error(tmp_path):
    (tmp_path / "a.html").write_text("Hello {{ name }}")
    (tmp_path / "__pycache__").write_text("")
    assert drawn(tmp_path) == "Hello &lt;Ada&gt;"


def test_the_appliance_loads_nothing_of_what_nobody_uses():
    asked = (
        "import sys; from phr import memory; memory.leave_out(); import phr.cli.serve;"
        " print(sorted({name.partition('.')[0] for name, held in sys.modules.items() if held}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    ).stdout
    unused = ("trio", "rich", "pygments", "apscheduler", "authlib", "joserfc", "httpx", "pydantic")
    for name in unused:
        assert f"'{name}'" not in loaded, name
