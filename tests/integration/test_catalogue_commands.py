"""`phr catalogue` at the shell: lists that are new, old, here already, or missing."""

import json
from datetime import datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from phr.cli import phr
from tests.fixtures_lighthouse import of_today, people_type


@pytest.fixture
def run(appliance, settings, monkeypatch):
    """Run one command in this process; return its exit code, objects, and what it complained of."""
    appliance.close()  # a house that is there, and not running
    for name in ("PHR_DATA", "PHR_PORT", "PHR_LIGHTHOUSES"):
        monkeypatch.delenv(name, raising=False)

    def run_(*words):
        options = [*map(str, words), "--data", str(settings.data), "--json"]
        ended = CliRunner().invoke(phr, options, standalone_mode=False)
        if ended.exception is not None and not isinstance(ended.exception, click.ClickException):
            raise ended.exception
        assert ended.exception is None, "a complaint of click is no JSON"
        return ended.return_value or 0, *map(_objects, (ended.stdout, ended.stderr))

    return run_


def _objects(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def published(tmp_path, monkeypatch, run):
    """A lighthouse that this house knows, with two snapshots; returns their files."""
    made, now = of_today(tmp_path / "published")
    known = f"https://lighthouse.example.org#{made.trust.roots[0]}"
    monkeypatch.setenv("PHR_LIGHTHOUSES", known)
    folders = []
    for number in (1, 2):
        made.folder = tmp_path / f"published-{number}"
        at = now - timedelta(hours=2 - number)
        made.publish(people_type()[: number + 1], at=at, serial=number)
        folders.append(made.folder)
    return folders


def test_times_of_the_catalogue_are_iso_8601(run, published):
    (_, (applied,), _), (_, (shown,), _) = (
        run("catalogue", "apply", published[0]),
        run("catalogue", "show"),
    )
    assert applied["serial"] == 1
    assert applied["sentence"] is None
    for said in (applied, shown):
        for name in ("created", "expires"):
            assert said[name][10] == "T"
            assert datetime.fromisoformat(said[name]).utcoffset() == timedelta(0)


def test_the_same_list_again_is_already_here(run, published):
    run("catalogue", "apply", published[1])
    code, (said,), _ = run("catalogue", "apply", published[1])
    assert code == 0
    assert said["sentence"] == "Snapshot 2 was already here; nothing changed."


def test_an_older_list_is_refused_and_the_newer_one_stays(run, published):
    run("catalogue", "apply", published[1])
    code, done, (complaint,) = run("catalogue", "apply", published[0])
    assert (code, done) == (1, [])
    assert complaint == {
        "error": "Snapshot 1 is older than the one we have (2).",
        "exit": 1,
    }
    _, (shown,), _ = run("catalogue", "show")
    assert shown["serial"] == 2


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_is_not_there_is_said_as_json(run, published, monkeypatch, known):
    if not known:
        monkeypatch.delenv("PHR_LIGHTHOUSES")
    code, done, (complaint,) = run("catalogue", "apply", "nosuch.zip")
    assert (code, done) == (2, [])
    assert complaint == {"error": "There is no nosuch.zip at that place.", "exit": 2}
