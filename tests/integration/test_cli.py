"""The command line as a contract: exit codes, stable keys, secrets never as an argument."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pyotp
import pytest
from click.testing import CliRunner, Result

from phr import clock
from phr.cli import commands, phr
from phr.store import accounts
from phr.store.house import House
from tests.house.look import ROOT

PASSWORD = "wombat lantern drizzle oboe"


@pytest.fixture
def run(cheap_kdf: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run one command in this process on a data folder of its own."""
    for name in ("PHR_DATA", "PHR_PORT"):
        monkeypatch.delenv(name, raising=False)

    def run_(*arguments: str, given: str | None = None) -> Result:
        options = list(arguments)
        if "--data" not in options:
            options += ["--data", str(tmp_path / "data")]
        return CliRunner().invoke(phr, options, input=given, standalone_mode=False)

    return run_


def code(result: Result) -> int:
    """The exit code as the shell would see it."""
    if isinstance(result.exception, click.ClickException):
        return 2
    if result.exception is not None:
        raise result.exception
    return int(result.return_value or 0)


def items(result: Result) -> list[dict[str, Any]]:
    assert code(result) == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return str(file)


@pytest.fixture
def household(run: Callable[..., Result], password_file: str) -> Callable[..., Result]:
    """Ada with a record that stays sealed, and Ben with one that opens by itself."""
    for name in ("Ada", "Ben"):
        assert code(run("account", "create", name, "--unlock-file", password_file)) == 0
    assert code(run("vault", "create", "Ada", "--owner", "Ada")) == 0
    assert code(run("vault", "create", "Ben", "--owner", "Ben", "--opens-by-itself")) == 0
    return run


def enrolled(data: Path, name: str) -> pyotp.TOTP:
    """Give an account a second factor; the code of now was not used yet."""
    with closing(House.open(data)) as house:
        account = accounts.account_named(house, name)
        assert account is not None
        codes = pyotp.TOTP(accounts.enrol_totp(house, account.id).secret)
        accounts.confirm_totp(house, account.id, codes.at(clock.now() - timedelta(seconds=30)))
    return codes


def every_command(
    group: click.Group = phr, before: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from every_command(found, (*before, name))
        else:
            yield (*before, name), found


def test_every_command_has_the_four_common_options() -> None:
    for name, found in every_command():
        options = {option for parameter in found.params for option in parameter.opts}
        assert {"--data", "--unlock-file", "--account", "--json"} <= options, name


def test_no_option_or_argument_takes_a_secret() -> None:
    for name, found in every_command():
        for parameter in found.params:
            words = set(re.split(r"[-_]", parameter.name or ""))
            is_file = parameter.name in {"unlock_file", "client_secret_file"}
            assert is_file or not words & {"password", "secret", "kit"} or parameter.is_flag, name


def test_the_first_account_is_the_administrator(run: Callable[..., Result]) -> None:
    made = items(run("account", "create", "Ada", "--json", given=PASSWORD))
    assert made[0]["administrator"] is True
    made = items(run("account", "create", "Eve", "--json", given=PASSWORD))
    assert made[0]["administrator"] is False


def test_a_command_without_its_secret_is_wrong_use(run: Callable[..., Result]) -> None:
    assert code(run("account", "create", "Ada", given="")) == 2


def test_a_weak_password_is_wrong_use(run: Callable[..., Result]) -> None:
    assert code(run("account", "create", "Ada", given="password")) == 2


@pytest.mark.parametrize(
    ("name", "password"),
    [("Ada", "password"), ("Ada", "ada ada ada ada"), ("", PASSWORD), ("A" * 200, PASSWORD)],
    ids=["short", "guessed", "nameless", "long name"],
)
def test_an_account_that_cannot_be_begins_no_house(
    run: Callable[..., Result], tmp_path: Path, name: str, password: str
) -> None:
    assert code(run("account", "create", name, given=password)) == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("url", ["nonsense", "https://127.0.0.1/fhir", "http://ehr.example.org"])
def test_an_address_that_can_be_no_hospitals_is_wrong_use(
    household: Callable[..., Result], url: str
) -> None:
    asked = ("connect", url, "--patient", "Ben", "--client-id", "us", "--json")
    assert code(household(*asked, given="")) == 2


@pytest.mark.parametrize("kit", [(), ("--kit",)], ids=["password", "kit"])
def test_what_is_no_backup_begins_no_house(
    run: Callable[..., Result], tmp_path: Path, kit: tuple[str, ...]
) -> None:
    (tmp_path / "photos").mkdir()
    result = run("restore", str(tmp_path / "photos"), *kit, given=PASSWORD)
    assert code(result) == 1
    assert not (tmp_path / "data").exists()


def test_a_missing_second_factor_needs_a_person_and_a_wrong_one_fails(
    household: Callable[..., Result], tmp_path: Path
) -> None:
    asked = ("activity", "--patient", "Ada", "--account", "Ada")
    codes = enrolled(tmp_path / "data", "Ada")
    assert code(household(*asked, given=PASSWORD)) == 4
    assert code(household(*asked, given=f"{PASSWORD}\n000000\n")) == 1
    assert code(household(*asked, given=f"{PASSWORD}\n{codes.at(clock.now())}\n")) == 0


def test_a_missing_argument_and_an_unknown_command_are_wrong_use(
    run: Callable[..., Result],
) -> None:
    assert code(run("vault", "seal")) == 2
    assert code(run("vaults")) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("vault", "list"),
        ("account", "list"),
        ("vault", "create", "Ada", "--owner", "Ada"),
        ("pull",),
        ("activity", "--patient", "Ada"),
        ("backup",),
        ("check",),
        ("catalogue", "show"),
    ],
    ids=" ".join,
)
def test_a_mistyped_data_folder_is_told_and_not_made(
    run: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    typo, empty = tmp_path / "dta", tmp_path / "empty"
    empty.mkdir()
    for folder in (typo, empty):
        result = run(*arguments, "--data", str(folder), "--json")
        assert code(result) == 2
        assert str(folder) in json.loads(result.stderr)["error"]
    assert not typo.exists()
    assert list(empty.iterdir()) == []


def test_a_name_nobody_has_is_a_failure(household: Callable[..., Result]) -> None:
    assert code(household("activity", "--patient", "Zoe")) == 1


def test_a_sealed_record_gives_its_own_code(household: Callable[..., Result]) -> None:
    result = household("activity", "--patient", "Ada", "--json")
    assert code(result) == 3
    assert json.loads(result.stderr)["exit"] == 3


def test_a_record_that_opens_by_itself_needs_no_secret(household: Callable[..., Result]) -> None:
    lines = items(household("activity", "--patient", "ben", "--json"))
    assert lines[-1]["event"] == "vault.created"


def test_a_password_opens_a_sealed_record_for_one_command(
    household: Callable[..., Result], password_file: str
) -> None:
    options = ("--account", "Ada", "--unlock-file", password_file)
    assert items(household("activity", "--patient", "Ada", "--json", *options))
    assert code(household("activity", "--patient", "Ada")) == 3


def test_a_password_needs_to_be_somebodys(
    household: Callable[..., Result], password_file: str
) -> None:
    result = household("activity", "--patient", "Ada", "--unlock-file", password_file)
    assert code(result) == 2
    assert "--account" in result.stderr


def test_a_wrong_password_is_a_failure(household: Callable[..., Result]) -> None:
    result = household(
        "activity", "--patient", "Ada", "--account", "Ada", given="not this one at all"
    )
    assert code(result) == 1


def test_two_people_of_one_name_are_told_apart_by_id(household: Callable[..., Result]) -> None:
    made = items(household("vault", "create", "Ben", "--owner", "Ada", "--json"))
    result = household("vault", "seal", "--patient", "Ben")
    assert code(result) == 2
    assert made[0]["vault"] in result.stderr
    assert items(household("vault", "seal", "--patient", made[0]["vault"], "--json"))


def test_opening_a_vault_for_nobody_is_refused(
    household: Callable[..., Result], password_file: str
) -> None:
    result = household("vault", "open", "--account", "Ada", "--unlock-file", password_file)
    assert code(result) == 1
    assert "No Homeport is running" in result.stderr


def test_shredding_asks_for_the_name_once_more(household: Callable[..., Result]) -> None:
    assert code(household("vault", "shred", "--patient", "Ben", "--confirm", "ben")) == 2
    assert code(household("vault", "shred", "--patient", "Ben", "--confirm", "Ben")) == 0
    assert [one["patient"] for one in items(household("vault", "list", "--json"))] == ["Ada"]


def test_check_says_how_it_is_and_fails_when_something_is_wrong(
    household: Callable[..., Result], tmp_path: Path
) -> None:
    names = [one["name"] for one in items(household("check", "--json"))]
    for name in ("home", "public", "tls", "clock", "disk", "rights", "backups", "store"):
        assert name in names
    (tmp_path / "data" / "house.db").chmod(0o644)
    result = household("check", "--json")
    assert code(result) == 1
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["name"] for one in findings if one["level"] == "problem"] == ["rights"]


def test_a_result_is_printed_without_a_line_of_log(household: Callable[..., Result]) -> None:
    result = household("vault", "list")
    assert result.stdout.count("\n") == 2
    assert not result.stderr


def test_a_sealed_record_is_named_where_the_open_ones_are_pulled(
    household: Callable[..., Result],
) -> None:
    told = items(household("pull", "--json"))
    assert [(one["kind"], one["patient"], one["state"]) for one in told] == [
        ("sealed", "Ada", "sealed")
    ]
    said = household("pull").stdout
    assert said.startswith("Ada: This record is sealed")
    assert "since the last start" not in said, "a person may have sealed it a moment ago"
    assert code(household("pull", "--patient", "Ada")) == 3
    assert code(household("vault", "shred", "--patient", "Ben", "--confirm", "Ben")) == 0
    assert code(household("pull")) == 3


def test_a_sealed_record_without_a_backup_is_named(
    household: Callable[..., Result], password_file: str
) -> None:
    ada = ("--patient", "Ada", "--account", "Ada", "--unlock-file", password_file)
    told = {one["patient"]: one for one in items(household("backup", "--json"))}
    assert (told["Ben"]["sealed"], told["Ada"]["sealed"]) == (False, True)
    assert told["Ada"]["folder"] is None
    assert "Ada: sealed, so not backed up now; it has no backup\n" in household("backup").stdout
    assert backups(household).endswith("1 record has no backup yet.")
    made = items(household("backup", "--json", *ada))[0]
    told = {one["patient"]: one for one in items(household("backup", "--json"))}
    assert told["Ada"] == {**made, "sealed": True}
    assert "no backup" not in backups(household)


def backups(household: Callable[..., Result]) -> str:
    """What `phr check` says about backups."""
    found = items(household("check", "--json"))
    return next(str(one["sentence"]) for one in found if one["name"] == "backups")


# ------------------------------------------------------------------ docs/cli.md


def documented() -> dict[str, set[str]]:
    """The keys that docs/cli.md promises, by command."""
    text = (ROOT / "docs" / "cli.md").read_text()
    found = {}
    for section in text.split("\n### `phr ")[1:]:
        name = re.match(r"[a-z ]+[a-z]", section)
        keys = re.search(r"^Keys: (.*?)\n\n", section + "\n\n", re.MULTILINE | re.DOTALL)
        assert name is not None
        found[name.group()] = set(re.findall(r"`([a-z_]+)`", keys.group(1))) if keys else set()
    return found


def test_the_keys_are_those_of_the_document(household: Callable[..., Result]) -> None:
    promised = documented()
    seen = {
        "account list": household("account", "list", "--json"),
        "vault list": household("vault", "list", "--json"),
        "activity": household("activity", "--patient", "Ben", "--json"),
        "backup": household("backup", "--patient", "Ben", "--json"),
        "check": household("check", "--json"),
        "vault shred": household(
            "vault", "shred", "--patient", "Ben", "--confirm", "Ben", "--json"
        ),
    }
    for name, result in seen.items():
        for item in items(result):
            assert set(item) == promised[name], name


def test_every_command_behind_the_socket_has_a_name_at_the_shell() -> None:
    at_the_shell = {".".join(name) for name, _ in every_command()}
    parts = {
        "check.alive": "check",  # an option there
    }
    inside = {parts.get(name, name) for name in commands.COMMANDS}
    assert inside <= at_the_shell
