"""`phr`: the command line reads options and secrets and prints objects; `commands` does the work.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 sealed, 4 needs a person.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phr import __version__, memory
from phr.errors import (
    Conflict,
    InvalidInput,
    NeedsReauthorisation,
    NotFound,
    OutOfMemory,
    PhrError,
)
from phr.settings import Settings, load

if TYPE_CHECKING:
    from phr.connect import Listener

Item = Mapping[str, Any]
Call = Callable[..., Generator[Item, Any, None]]  # may be sent what an item asks for

DONE, FAILED, WRONG_USE, SEALED, NEEDS_A_PERSON = 0, 1, 2, 3, 4
_SIGN_IN = "Password"
_CODE = "Second-factor code (none: press Enter)"


def main() -> None:
    """Run the command line: the entry point `phr`."""
    memory.give_back_early()
    memory.leave_out()
    try:
        code = phr.main(prog_name="phr", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else DONE)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo(_sentence("Stopped.", FAILED, as_json=_wants_json()), err=True)
        sys.exit(FAILED)
    except click.ClickException as error:
        if _wants_json():
            click.echo(_sentence(error.format_message(), WRONG_USE, as_json=True), err=True)
        else:
            error.show()
        sys.exit(WRONG_USE)


def _wants_json() -> bool:
    """Tell whether --json was asked for, also where the arguments could not be understood."""
    return "--json" in sys.argv[1:]


def _sentence(words: str, code: int, *, as_json: bool) -> str:
    """Return what is said of an error on standard error."""
    return json.dumps({"error": words, "exit": code}) if as_json else words


# ------------------------------------------------------------------ what every command has


class Shell:
    """One call of the command line: its settings, its secret and its way of printing."""

    def __init__(
        self, data: Path | None, unlock_file: str | None, account: str | None, as_json: bool
    ) -> None:
        """Take the four options that every command has."""
        self.as_json = as_json
        self.account = account
        self._unlock_file = unlock_file
        self._data = data
        self._secret: list[str] | None = None

    def settings(self, **given: str) -> Settings:
        """Return the settings of the environment, changed by what the options say."""
        environ = dict(os.environ) | given
        if self._data is not None:
            environ["PHR_DATA"] = str(self._data)
        return load(environ)

    def secret(self, prompt: str, *, twice: bool = False) -> list[str]:
        """Return the lines of the secret: from --unlock-file, a hidden prompt, or standard input.

        Never an argument: those can be seen in the list of processes.
        """
        if self._secret is None:
            self._secret = self._read_secret(prompt, twice=twice)
        return self._secret

    def _read_secret(self, prompt: str, *, twice: bool) -> list[str]:
        if self._unlock_file not in {None, "-"}:
            try:
                text = Path(str(self._unlock_file)).read_text(encoding="utf-8")
            except OSError as error:
                raise click.UsageError(f"--unlock-file: {error.strerror}") from error
        elif self._unlock_file is None and sys.stdin.isatty():
            text = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
            if prompt == _SIGN_IN:
                text += "\n" + click.prompt(_CODE, default="", show_default=False, err=True)
        else:
            text = sys.stdin.read()
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise click.UsageError(
                "A secret is needed: --unlock-file FILE, or on standard input (--unlock-file -)."
            )
        return lines

    def unlock(self, *, always: bool = False) -> dict[str, Any]:
        """Return the account and password that open sealed records, where they were given."""
        if self.account is None and self._unlock_file is None and not always:
            return {}
        password, *more = self.secret(_SIGN_IN)
        code = more[0] if more else None
        return {"unlock": {"account": self.account, "password": password, "code": code}}

    def require_running(self) -> None:
        """Raise Conflict unless an appliance is running on this data."""
        from phr.cli import control  # noqa: PLC0415 - `phr --help` needs none of the house

        if not control.answers(self.settings().control_path):
            raise Conflict("No Homeport is running on this data, so nothing would stay open.")

    def show(self, items: Iterator[Item], text: Callable[[Item], str | None]) -> None:
        """Print each object as it comes: one a line with --json, otherwise as `text` says it."""
        for item in items:
            line = json.dumps(item, default=str) if self.as_json else text(item)
            if line is not None:
                click.echo(line)

    @contextmanager
    def target(self, *, begins: bool = False) -> Iterator[Call]:
        """Give what runs commands: the running appliance, else this process itself.

        Only what `begins` a house makes one where there is none; the rest raises InvalidInput.
        """
        from phr.cli import control  # noqa: PLC0415 - `phr --help` needs none of the house

        settings = self.settings(**self._quiet())
        if control.answers(settings.control_path):
            yield lambda command, /, **given: control.call(settings.control_path, command, given)
            return
        from phr.store import house  # noqa: PLC0415 - as above

        if not begins and not house.begun(settings.data):
            raise InvalidInput(
                f"There is no Homeport in {settings.data.absolute()}, so nothing was done. "
                "Say where it is with --data or PHR_DATA."
            )
        from phr.appliance import Appliance  # noqa: PLC0415 - as above
        from phr.cli import commands  # noqa: PLC0415 - as above

        appliance = Appliance.open(settings)
        try:
            yield lambda command, /, **given: commands.run(appliance, command, given)
        finally:
            appliance.close()

    def _quiet(self) -> dict[str, str]:
        """A command prints its result; log lines only where something is wrong, or as asked."""
        return {} if "PHR_LOG_LEVEL" in os.environ else {"PHR_LOG_LEVEL": "warning"}

    def do(self, name: str, text: Callable[[Item], str | None], /, **given: Any) -> None:
        """Run one command and print what it yields."""
        with self.target() as call:
            self.show(call(name, **given, **self.unlock()), text)


def command(group: click.Group, name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Declare a command with the options that all have; errors become one sentence and a code."""

    def declare(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def run(
            data: Path | None,
            unlock_file: str | None,
            account: str | None,
            as_json: bool,
            **given: Any,
        ) -> int:
            shell = Shell(data, unlock_file, account, as_json)
            try:
                function(shell, **given)
            except PhrError as error:
                return _complain(shell, error)
            except MemoryError:
                return _complain(shell, OutOfMemory())
            return DONE

        for option in reversed(_OPTIONS):
            run = option(run)
        return group.command(name)(run)

    return declare


NOT_KNOWN = "Nothing goes by that name or number here."  # at the shell everything is yours to see
_OPTIONS = (
    click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="Data folder (default: PHR_DATA, else ./data).",
    ),
    click.option(
        "--unlock-file",
        metavar="FILE",
        help="File with the password in its first line (a second-factor code in its second); "
        "- is standard input.",
    ),
    click.option("--account", metavar="NAME", help="Whose password that is."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
)


def _complain(shell: Shell, error: PhrError) -> int:
    """Say what went wrong on standard error and return the exit code."""
    from phr.cli.commands import exit_code  # noqa: PLC0415 - `phr --help` needs none of the house

    code = exit_code(error)
    said = NOT_KNOWN if error.sentence == NotFound.sentence else error.sentence
    click.echo(_sentence(said, code, as_json=shell.as_json), err=True)
    return code


# ------------------------------------------------------------------ the commands


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="phr")
def phr() -> None:
    """Homeport: a personal health record at home."""


@phr.group()
def account() -> None:
    """People who sign in."""


@phr.group()
def vault() -> None:
    """The encrypted record of each person."""


@phr.group()
def grant() -> None:
    """Who can see what."""


@phr.group()
def catalogue() -> None:
    """The list in which hospitals are found."""


def _patient(function: Callable[..., Any]) -> Callable[..., Any]:
    option = click.option("--patient", metavar="NAME", required=True, help="Whose record.")
    return option(function)


@command(phr, "serve")
@click.option("--demo", is_flag=True, help="Start the demo hospital beside it.")
def serve(shell: Shell, demo: bool) -> None:
    """Run the appliance until it is told to stop."""
    gc.disable()  # until it is up: loading makes nothing but what stays (serve._settle)
    from phr.cli.serve import Running  # noqa: PLC0415 - `phr --help` needs none of the house
    from phr.cli.serve import serve as run  # noqa: PLC0415 - as above

    def announce(running: Running) -> None:
        shell.show(iter([running.facts()]), _say_ready)
        sys.stdout.flush()

    run(shell.settings(**({"PHR_DEMO": "1"} if demo else {})), announce)


def _say_ready(item: Item) -> str:
    lines = [f"Homeport: {item['home_url']}", f"Doors: {item['public_url']}"]
    if item["demo_url"]:
        lines.append(f"Demo hospital: {item['demo_url']}")
    if item["ca_fingerprint"]:
        lines.append(f"Certificate authority: {item['ca_fingerprint']}")
        lines.append(f"Make your devices trust it: {item['home_url']}/trust")
    if item["setup_code"]:
        lines.append(f"Set-up code: {item['setup_code']}")
    return "\n".join(lines)


@command(account, "create")
@click.argument("name")
@click.option("--administrator", is_flag=True, help="May see how the box is doing and add people.")
def account_create(shell: Shell, name: str, administrator: bool) -> None:
    """Create the account NAME; its password is the secret."""
    from phr.store import accounts  # noqa: PLC0415 - `phr --help` needs none of the house

    password = shell.secret("Password for the new account", twice=True)[0]
    accounts.check_new(name, password)  # before a house is begun for it
    with shell.target(begins=True) as call:
        items = call("account.create", name=name, password=password, administrator=administrator)
        shell.show(items, lambda item: f"Created the account {item['name']}.")


@command(account, "list")
def account_list(shell: Shell) -> None:
    """List accounts."""
    shell.do("account.list", _say_account)


def _say_account(item: Item) -> str:
    notes = [word for word in ("administrator", "second_factor") if item[word]]
    if item["state"] != "active":
        notes.append(item["state"])
    return f"{item['name']}  ({', '.join(notes).replace('_', ' ')})" if notes else f"{item['name']}"


@command(vault, "create")
@click.argument("patient")
@click.option("--owner", metavar="ACCOUNT", required=True, help="The account that keeps it.")
@click.option("--role", type=click.Choice(["self", "proxy"]), default="self", show_default=True)
@click.option("--opens-by-itself", is_flag=True, help="The house may open it at every start.")
def vault_create(shell: Shell, **given: Any) -> None:
    """Create a record for the person PATIENT."""
    shell.do("vault.create", lambda item: f"Created a record for {item['patient']}.", **given)


@command(vault, "list")
def vault_list(shell: Shell) -> None:
    """List records and whether they are open."""
    shell.do("vault.list", _say_vault)


def _say_vault(item: Item) -> str:
    by_itself = ", opens by itself" if item["opens_by_itself"] else ""
    members = ", ".join(f"{member['name']} ({member['role']})" for member in item["members"])
    return f"{item['patient']}: {item['state']}{by_itself}; members: {members or 'nobody'}"


@command(vault, "open")
def vault_open(shell: Shell) -> None:
    """Open every record of --account in the running appliance."""
    shell.require_running()
    unlock = shell.unlock(always=True)
    with shell.target() as call:
        shell.show(call("vault.open", **unlock), lambda item: f"{item['patient']}: open")


@command(vault, "seal")
@_patient
def vault_seal(shell: Shell, patient: str) -> None:
    """Seal a record now: its key leaves the memory of the running appliance."""
    shell.do("vault.seal", lambda item: f"{item['patient']}: sealed", patient=patient)


@command(vault, "shred")
@_patient
@click.option("--confirm", metavar="NAME", required=True, help="The person's name once more.")
def vault_shred(shell: Shell, patient: str, confirm: str) -> None:
    """Destroy a record for ever: keys, file and the backups on this box."""
    shell.do("vault.shred", _say_shredded, patient=patient, confirm=confirm)


def _say_shredded(item: Item) -> str:
    return f"{item['patient']}: shredded. Copies kept elsewhere are not: remove those yourself."


@command(phr, "connect")
@click.argument("base_url")
@_patient
@click.option("--name", help="What to call this connection (default: the host name).")
@click.option("--client-id", required=True, help="Your own client id at this provider.")
@click.option("--client-secret-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--scope", help="Scopes to ask for instead of the usual ones.")
@click.option("--listen-port", type=int, default=0, help="Port of the callback (default: any).")
@click.option("--timeout", type=int, default=600, show_default=True, help="Seconds to wait.")
def connect(shell: Shell, timeout: int, listen_port: int, **given: Any) -> None:
    """Connect the provider at BASE_URL: prints an address to open and waits for the answer."""
    from phr.connect import listen  # noqa: PLC0415 - `phr --help` needs none of the house

    secret_file = given.pop("client_secret_file")
    secret = secret_file.read_text(encoding="utf-8").strip() if secret_file else ""
    unlock = shell.unlock()
    with shell.target() as call, listen(listen_port) as listener:
        wish = {**given, "secret": secret, "redirect_uri": listener.redirect_uri}
        with closing(call("connect", **wish, timeout=timeout, **unlock)) as going:
            _sign_in_there(shell, going, listener, timeout)


def _sign_in_there(
    shell: Shell, going: Generator[Item, Any, None], listener: "Listener", timeout: int
) -> None:
    begun = next(going)
    listener.expect(begun["open"])
    shell.show(iter([begun]), _say_address)
    sys.stdout.flush()
    try:
        answer = listener.wait(timeout)
    except InvalidInput as error:  # nobody came back: that needs a person, not other options
        raise NeedsReauthorisation(error.sentence) from error
    done = chain([going.send(answer)], going)  # to its end: then what was opened is sealed again
    shell.show(done, lambda item: f"Connected {item['name']}. Fetch records by: phr pull")


def _say_address(item: Item) -> str:
    return f"Open this address in a browser on this machine:\n\n  {item['open']}\n"


@command(phr, "pull")
@click.option("--patient", metavar="NAME", help="Only this record (default: every open one).")
@click.option("--connection", type=int, help="Only the connection of this number.")
def pull(shell: Shell, **given: Any) -> None:
    """Fetch what is new from the connected providers, now."""
    shell.do("pull", _say_pull, **given)


def _say_pull(item: Item) -> str:
    if item["kind"] == "sealed":
        return f"{item['patient']}: {item['sentence']}"
    counts = f"{item['new']} new, {item['changed']} changed, {item['unchanged']} unchanged"
    if item["kind"] == "line":
        why = f". {item['sentence']}" if item["sentence"] else ""
        return f"  {item['type']}: {item['state']}, {counts}{why}"
    said = f" {item['sentence']}" if item["sentence"] else ""
    return f"{item['patient']}, {item['name']} ({item['connection']}): {item['state']}.{said}"


@command(phr, "import")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, readable=False, path_type=Path),
)
@_patient
def import_(shell: Shell, files: tuple[Path, ...], patient: str) -> None:
    """Take FILES (FHIR Bundle, NDJSON, one resource, C-CDA, or a zip of these) into a record."""
    for file in files:
        if not file.is_file():  # a pipe or a device might never end
            raise click.UsageError(f"{file} is not a regular file.")
    paths = [str(file.absolute()) for file in files]
    shell.do("import", _say_import, files=paths, patient=patient)


def _say_import(item: Item) -> str:
    if item["kind"] == "quarantined":
        return f"  set aside, {item['place']}: {item['reason']}"
    counts = f"{item['kept']} kept, {item['unchanged']} unchanged"
    why = f". {item['sentence']}" if item["sentence"] else ""
    return f"{item['file']}: {counts}, {item['quarantined']} set aside{why}"


@command(phr, "export")
@_patient
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def export(shell: Shell, patient: str, out: Path) -> None:
    """Write a whole record, as it was received, to a zip file. It is not encrypted."""
    shell.do("export", _say_export, patient=patient, out=str(out.absolute()))


def _say_export(item: Item) -> str:
    return f"{item['file']}: {item['records']} records, {item['bytes']} bytes, not encrypted"


@command(phr, "chart")
@click.argument("section")
@_patient
def chart(shell: Shell, section: str, patient: str) -> None:
    """Print the entries of a SECTION (results, medications, allergies, ...) with their evidence."""
    shell.do("chart", _say_entry, section=section, patient=patient)


def _say_entry(item: Item) -> str:
    cells = (item["group"], item["title"], item["value"], item["word"], *item["details"])
    return "  ".join(str(cell) for cell in cells if cell) + f"  [{', '.join(item['evidence'])}]"


@command(grant, "list")
@_patient
@click.option("--all", "ended", is_flag=True, help="Ended ones too.")
def grant_list(shell: Shell, **given: Any) -> None:
    """List who can see a record."""
    shell.do("grant.list", _say_grant, **given)


def _say_grant(item: Item) -> str:
    until = "" if item["state"] == "ended" else f", until {item['ends_at']}"
    return f"{item['grant']}  {item['recipient']}: {item['state']}{until}"


@command(grant, "revoke")
@click.argument("grant_id", metavar="GRANT")
@_patient
def grant_revoke(shell: Shell, grant_id: str, patient: str) -> None:
    """Stop all further access under a GRANT now. What was already copied stays copied."""
    shell.do("grant.revoke", _say_grant, grant=grant_id, patient=patient)


@command(phr, "activity")
@_patient
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
def activity(shell: Shell, **given: Any) -> None:
    """Print who did what with a record, newest first."""
    shell.do("activity", lambda item: f"{item['at']}  {item['sentence']}", **given)


@command(phr, "backup")
@click.option("--patient", metavar="NAME", help="Only this record (default: every open one).")
def backup(shell: Shell, patient: str | None) -> None:
    """Write a verified backup now."""
    shell.do("backup", _say_backup, patient=patient)


def _say_backup(item: Item) -> str:
    if item["sealed"]:
        kept = f"the newest backup is {item['folder']}" if item["folder"] else "it has no backup"
        return f"{item['patient']}: sealed, so not backed up now; {kept}"
    return f"{item['patient']}: {item['folder']} ({item['records']} records, verified)"


@command(phr, "restore")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--kit", is_flag=True, help="The secret is a recovery kit, not a password.")
@click.option("--bring-back", is_flag=True, help="Even if the record was shredded here.")
def restore(shell: Shell, folder: Path, kit: bool, bring_back: bool) -> None:
    """Restore a record from the backup in FOLDER; the secret of one of its members opens it."""
    from phr.store import restore as restoring  # noqa: PLC0415 - as everywhere here

    secret = shell.secret("Recovery kit" if kit else "Password of a member")[0]
    restoring.check(folder, kit=secret if kit else None)  # before a house is begun for it
    given = {"kit" if kit else "password": secret, "bring_back": bring_back}
    with shell.target(begins=True) as call:
        items = call("restore", folder=str(folder.absolute()), **given)
        shell.show(items, lambda item: f"{item['patient']}: restored. {item['sentence']}")


@command(catalogue, "apply")
@click.argument("file", type=click.Path(path_type=Path))
def catalogue_apply(shell: Shell, file: Path) -> None:
    """Take in FILE: a packed snapshot (or its folder) that was carried here, no network needed."""
    shell.do("catalogue.apply", _say_catalogue, file=str(file.absolute()))


@command(catalogue, "show")
def catalogue_show(shell: Shell) -> None:
    """Say what the list is made of, how old that is, and what went wrong last."""
    shell.do("catalogue.show", _say_catalogue)


def _say_catalogue(item: Item) -> str:
    said = f" {item['sentence']}" if item["sentence"] else ""
    if item["serial"] is None:
        return f"{item['lighthouse']}:{said}"
    moved = f" {item['moved']} sign-in addresses wait to be confirmed." if item["moved"] else ""
    return (
        f"{item['lighthouse']}: number {item['serial']}, {item['organizations']} organisations, "
        f"good until {item['expires']}.{moved}{said}"
    )


@command(phr, "check")
@click.argument("what", required=False, type=click.Choice(["connection"]))
@click.argument("number", required=False, type=int)
@click.option("--patient", metavar="NAME", help="With `connection`: whose record.")
@click.option("--now", is_flag=True, help="With `connection`: ask the server what it says now.")
@click.option("--unnamed", is_flag=True, help="With `connection`: leave out the server's name.")
@click.option(
    "--alive", is_flag=True, help="Only whether a running appliance answers (containers)."
)
def check(shell: Shell, what: str | None, alive: bool, **given: Any) -> None:
    """Say what this Homeport sees of itself: address, TLS, clock, disk, backups, versions.

    `check connection NUMBER` reports what a connected hospital's interface claims, returned and
    got wrong, with nothing of the patient in it.
    """
    if alive and (what or any(given.values())):
        raise click.UsageError("--alive goes with no other question.")
    if alive:
        from phr.cli import alive as probe  # noqa: PLC0415 - `phr --help` needs none of the house

        probe.ask(shell.settings())
    elif what:
        _check_connection(shell, **given)
    elif any(given.values()):
        raise click.UsageError("These options belong to: phr check connection NUMBER")
    else:
        shell.do("check", lambda item: f"{item['level']:8} {item['subject']}: {item['sentence']}")


def _check_connection(shell: Shell, number: int | None, patient: str | None, **given: Any) -> None:
    if number is None or patient is None:
        raise click.UsageError("Say which: phr check connection NUMBER --patient NAME")
    part = [""]

    def said(item: Item) -> str:
        from phr.conformance import HEADINGS  # noqa: PLC0415 - `phr --help` needs none of the house

        head = "" if part[0] == item["kind"] else f"{HEADINGS[item['kind']]}\n"
        part[0] = item["kind"]
        return f"{head}  {item['label']}: {item['sentence']}"

    shell.do("check", said, patient=patient, connection=number, **given)


@command(phr, "demo")
def demo(shell: Shell) -> None:
    """Run only the demo hospital, for trying another Homeport against it."""
    from phr.cli.serve import serve_demo  # noqa: PLC0415 - `phr --help` needs none of the house

    serve_demo(shell.settings(), lambda url: click.echo(f"Demo hospital: {url}"))
