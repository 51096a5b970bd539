"""Versions below which somebody was hurt (security.md f), and what a published package holds."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import sqlcipher3

from tests.house.look import ROOT

FLOORS = {
    "authlib": (1, 6, 11),
    "joserfc": (1, 6, 3),
    "litestar": (2, 20),
    "nh3": (0, 3),
    "cryptography": (44,),
    "h11": (0, 16),
}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+", maxsplit=1)[0].split(".") if part.isdigit())


@pytest.mark.parametrize("name", FLOORS)
def test_installed_version_is_at_least(name: str) -> None:
    assert numbers(version(name)) >= FLOORS[name]


@pytest.mark.parametrize("name", FLOORS)
def test_declared_floor_is_at_least(name: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    line = next(line for line in declared if line.startswith(name + ">="))
    assert numbers(line.split(">=")[1].split(",")[0]) >= FLOORS[name]


def test_httpx_is_exactly_the_version_whose_private_parts_we_know() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert "httpx==0.28.1" in declared
    assert version("httpx") == "0.28.1"


def test_sqlite_and_sqlcipher_are_new_enough() -> None:
    connection = sqlcipher3.connect(":memory:")
    try:
        cipher = connection.execute("PRAGMA cipher_version").fetchone()[0]
        sqlite = connection.execute("SELECT sqlite_version()").fetchone()[0]
    finally:
        connection.close()
    assert numbers(cipher.split(" ")[0]) >= (4, 9)
    assert numbers(sqlite) >= (3, 51, 3)


@pytest.mark.parametrize("name", ["build", "node", "run", "test", "dev"])
def test_locks_hold_hashes_and_no_addresses(name: str) -> None:
    lock = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "--hash=sha256:" in lock
    assert not [line for line in lock.splitlines() if line.startswith("--") or "://" in line]


def test_the_lock_of_what_runs_fits_what_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements" / "run.txt").read_text()
    locked = {line.split("==")[0] for line in lock.splitlines() if "==" in line}
    wanted = project["dependencies"] + project["optional-dependencies"]["demo"]
    names = {line.split(">")[0].split("=")[0].split("[")[0].lower() for line in wanted}
    assert not {name.replace("_", "-") for name in names} - locked


def test_the_npm_lock_has_no_download_addresses() -> None:
    lock = (ROOT / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity": "sha512-' in lock


def test_the_wheel_brings_everything_pages_need(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed (make test installs it)")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    static = {
        str(path.relative_to(ROOT))
        for folder in ("phr/web/static", "phr/web/templates", "phr/views/templates")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.name != ".stamp" and "__pycache__" not in path.parts
    }
    assert "phr/web/static/vendor/htmx.min.js" in names
    assert not static - names
    assert not [name for name in names if "/data/" in name and name.startswith("tests")]
