"""The register of lists: polite and bounded; a shrinking list is an outage until a human agrees."""

import json

import pytest
from click.testing import CliRunner

from lighthouse import adapters, register
from lighthouse.__main__ import main
from lighthouse.net import Guard
from tests.fakes.list_server import Said


def bundle(number):
    return json.dumps(
        {
            "Endpoints": [
                {"URL": f"https://site{n}.example.org/r4", "OrganizationName": f"Site {n} Clinic"}
                for n in range(number)
            ]
        }
    ).encode()


@pytest.fixture
def folder(tmp_path, list_server):
    (tmp_path / "register.toml").write_text(
        f'[[list]]\nname = "sites"\nurl = "{list_server.url("/list")}"\nvendor = "Example"\n'
    )
    return tmp_path


@pytest.fixture
def fetched(folder, list_server):
    def once(answer, day):
        list_server.answers["/list"] = answer
        return next(register.fetch(folder, Guard(list_server.allowed), day))

    return once


def editions(folder):
    return [path.relative_to(folder).as_posix() for path in adapters.lists_below(folder)]


def test_list_is_taken_as_a_dated_edition_and_carries_its_vendor(folder, fetched):
    assert fetched(Said(bundle(10)), "2026-08-01") == register.Outcome("sites", "new", 10)

    assert editions(folder) == ["lists/sites/2026-08-01.json.gz"]
    vendor = register.publishers(folder)["sites"]
    rows = list(adapters.read(adapters.lists_below(folder)[0], folder, vendor))
    assert {(row.list, row.as_of, row.vendor) for row in rows} == {
        ("lists/sites/*", "2026-08-01", "Example")
    }


def test_unchanged_list_is_asked_for_by_its_tag_and_leaves_no_new_edition(
    folder, fetched, list_server
):
    fetched(Said(bundle(10), headers={"ETag": 'W/"1"'}), "2026-08-01")

    assert fetched(Said(status=304), "2026-08-02").outcome == "unchanged"
    assert list_server.asked[1][1]["if-none-match"] == 'W/"1"'
    assert "if-none-match" not in list_server.asked[0][1]
    assert fetched(Said(bundle(10)), "2026-08-03").outcome == "unchanged"
    assert len(editions(folder)) == 1


def test_grown_list_is_a_new_edition_and_the_old_one_stays_as_evidence(folder, fetched):
    fetched(Said(bundle(10)), "2026-08-01")
    fetched(Said(bundle(11)), "2026-08-08")

    assert editions(folder) == [
        "lists/sites/2026-08-01.json.gz",
        "lists/sites/2026-08-08.json.gz",
    ]


def test_shrinking_list_is_held_until_a_human_agrees(folder, fetched):
    fetched(Said(bundle(10), headers={"ETag": '"full"'}), "2026-08-01")

    held = fetched(Said(bundle(4), headers={"ETag": '"less"'}), "2026-08-02")

    assert held == register.Outcome("sites", "held", 4, "The list shrank from 10 to 4 entries.")
    assert editions(folder) == ["lists/sites/2026-08-01.json.gz"]
    assert register.states(folder)["sites"].etag == '"full"'

    agreed = CliRunner().invoke(main, ["agree", "--register", str(folder), "sites", "--json"])

    assert json.loads(agreed.output)["rows"] == 4
    assert editions(folder)[-1] == "lists/sites/2026-08-02.json.gz"
    again = CliRunner().invoke(main, ["agree", "--register", str(folder), "sites"])
    assert again.exit_code == 1
    assert "Nothing of sites waits" in again.output


def test_list_that_recovers_by_itself_needs_nobody(folder, fetched):
    fetched(Said(bundle(10)), "2026-08-01")
    fetched(Said(bundle(1)), "2026-08-02")

    assert fetched(Said(bundle(12)), "2026-08-03").outcome == "new"
    assert register.states(folder)["sites"].held == ""


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Said(b"<!DOCTYPE html><title>Sign in</title>"), "held"),
        (Said(b'{"resourceType": "Bundle", "entry": []}'), "held"),
        (Said(b'{"Endpoints": [{"URL'), "held"),
        (Said(b"oh", 503), "failed"),
        (Said(b"", 302, {"Location": "https://elsewhere.example.org/"}), "failed"),
    ],
    ids=["web page", "empty", "cut", "503", "redirect"],
)
def test_outage_never_replaces_a_good_list(folder, fetched, answer, outcome):
    fetched(Said(bundle(10)), "2026-08-01")

    said = fetched(answer, "2026-08-02")

    assert (said.outcome, bool(said.reason)) == (outcome, True)
    assert editions(folder) == ["lists/sites/2026-08-01.json.gz"]
    assert register.states(folder)["sites"].alarm == said.reason
    assert not list(folder.glob(".sites*"))


def test_list_on_a_private_address_is_not_asked_for(tmp_path, watched):
    (tmp_path / "register.toml").write_text(
        '[[list]]\nname = "a"\nurl = "https://169.254.169.254/latest"\n'
        '[[list]]\nname = "b"\nurl = "http://10.0.0.1/list"\n'
    )

    outcomes = [said.outcome for said in register.fetch(tmp_path, Guard(), "2026-08-01")]

    assert outcomes == ["failed", "failed"]
    assert watched == []


@pytest.mark.parametrize(
    "text",
    ["", "[[list]]\n", '[[list]]\nname = "../x"\nurl = "https://a.org"\n', "not toml",
     '[[list]]\nname = "a"\nurl = "u"\n[[list]]\nname = "a"\nurl = "u"\n'],
)  # fmt: skip
def test_register_that_cannot_be_used_is_refused_with_a_sentence(tmp_path, text):
    (tmp_path / "register.toml").write_text(text)

    said = CliRunner().invoke(main, ["fetch", "--register", str(tmp_path)])

    assert said.exit_code == 1
    assert "register.toml" in said.output


def test_command_asks_only_for_the_list_named_and_says_how_it_went(folder, list_server):
    list_server.answers["/list"] = Said(bundle(3))
    words = ["fetch", "--register", str(folder), "--allow", f"127.0.0.1:{list_server.port}"]

    done = CliRunner().invoke(main, [*words, "--json"])
    other = CliRunner().invoke(main, [*words, "--only", "nothing"])
    closed = CliRunner().invoke(main, words[:3])

    assert (done.exit_code, json.loads(done.output)["outcome"]) == (0, "new")
    assert (other.exit_code, "No list in register.toml is called nothing." in other.output) == (
        2,
        True,
    )
    assert (closed.exit_code, "failed" in closed.output) == (1, True)
