"""Documents say what the code does: settings, commands, the tour, errors, routes, targets."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from phr import errors, settings
from phr.cli import phr
from phr.web import faults
from phr.web.app import routes
from phr.web.routing import Access
from tests.house.look import ROOT, modules

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def plain(value: object) -> str:
    if value is None or value == ():
        return "-"
    return f"`{int(value) if isinstance(value, bool) else value}`"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    found = re.findall(
        r"^\| (`PHR_.*?) \| (.*?) \| (.*) \|$", text("docs/settings.md"), re.MULTILINE
    )
    expected = [
        (
            f"`{row.variable}`" + (f", `{row.variable}_FILE`" if row.secret else ""),
            plain(row.default),
            row.about,
        )
        for row in settings.table()
    ]
    assert found == expected


def test_every_setting_has_a_reader() -> None:
    code = "\n".join(path.read_text() for name, path in modules().items() if name != "phr.settings")
    own = text("phr/settings.py")
    unread = [
        row.name
        for row in settings.table()
        if not re.search(rf"settings\.{row.name}\b", code)
        and not re.search(rf"(?:self|settings)\.{row.name}\b", own)
    ]
    assert not unread


def commands(group: click.Group, before: str = "phr") -> Iterator[tuple[str, click.Command]]:
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from commands(found, f"{before} {name}")
        else:
            yield f"{before} {name}", found


def test_the_document_of_the_command_line_names_every_command_and_option() -> None:
    document = text("docs/cli.md")
    sections = {
        re.match(r"`([^`]*)`", part).group(1): part.split("\n### ")[0]  # type: ignore[union-attr]
        for part in document.split("\n### ")[1:]
    }
    assert set(sections) == {name for name, _ in commands(phr)}
    for name, found in commands(phr):
        for parameter in found.params:
            if isinstance(parameter, click.Option):
                assert any(option in document for option in parameter.opts), (name, parameter.opts)


def test_the_tour_names_every_room_and_every_path_it_names_exists() -> None:
    tour = text("docs/tour.md")
    rooms = {
        str(path.parent.relative_to(ROOT))
        for path in modules().values()
        if path.name == "__init__.py" and path.parent.name != "phr"
    }
    assert not {room for room in rooms if f"`{room}`" not in tour}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_a_document_names_exists(document: Path) -> None:
    named = re.findall(
        r"`((?:phr|lighthouse|tests|docs|docker|tools|\.ci)/[\w./*-]+)`", document.read_text()
    )
    missing = [name for name in named if not any(ROOT.glob(name.rstrip("/")))]
    assert not missing


def test_every_check_of_the_interface_has_a_row_and_the_tests_it_names_exist() -> None:
    document = text("docs/interface-checks.md")
    assert re.findall(r"^\| (\d+) \|", document, re.MULTILINE) == [str(n) for n in range(1, 41)]
    named = re.findall(r"`((?:e2e|integration|unit)/\w+\.py)::(test_\w+)`", document)
    assert not [
        f"{file}::{test}" for file, test in named if f"def {test}(" not in text(f"tests/{file}")
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_documents_leads_somewhere(document: Path) -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert not [one for one in linked if not (document.parent / one).exists()]


def test_the_readme_has_two_commands_and_make_has_both() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)`?", text("README.md") + text("CONTRIBUTING.md")))
    assert {"run", "test"} <= named
    assert named <= targets


def test_the_compose_file_stays_under_twenty_lines() -> None:
    assert len(text("docker/compose.yaml").splitlines()) < 20


# ------------------------------------------------------------------ tables that must be whole


def every_error(kind: type[errors.PhrError] = errors.PhrError) -> Iterator[type[errors.PhrError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == "phr.errors":
            yield from every_error(child)


def test_the_drawing_of_errors_is_the_tree_of_errors() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(
        kind.__name__ for kind in every_error() if kind is not errors.PhrError
    )


def test_every_error_has_a_sentence_and_a_status() -> None:
    for kind in every_error():
        assert kind.sentence.endswith((".", "…")), kind
        assert any(parent in faults.STATUS for parent in kind.__mro__), kind


def test_every_leaf_of_the_tree_has_a_status_of_its_own_or_its_familys() -> None:
    family = {kind: next(p for p in kind.__mro__ if p in faults.STATUS) for kind in every_error()}
    fallen = [k.__name__ for k, p in family.items() if p is errors.PhrError and k is not p]
    assert not fallen


def test_every_route_says_whom_it_lets_in() -> None:
    silent = [
        (app, method, path)
        for app, method, path, access in routes()
        if not isinstance(access, Access)
    ]
    assert not silent


def test_every_route_has_its_row_in_the_matrix() -> None:
    seen = {f"{app} {method} {path} {access}" for app, method, path, access in routes()}
    rows = text("tests/integration/routes.txt").splitlines()
    assert seen == set(rows)
    assert len(rows) == len(set(rows))


def test_doors_let_in_nobody_but_anyone_and_holders_of_links() -> None:
    wrong = [
        (path, access)
        for app, _, path, access in routes()
        if app == "public" and access not in {Access.ANYONE, Access.LINK, Access.BEARER, Access.APP}
    ]
    assert not wrong


def test_only_the_declared_methods_change_anything() -> None:
    every = list(routes())
    assert {method for _, method, _, _ in every} <= {"GET", "HEAD", "POST", "PUT", "DELETE"}
    programs = {Access.BEARER, Access.APP}  # a browser's form knows GET and POST only
    assert {method for _, method, _, access in every if access not in programs} <= {
        "GET",
        "HEAD",
        "POST",
    }
