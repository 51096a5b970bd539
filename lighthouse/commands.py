"""Commands of the write side: ask the lists, agree to one that was held, visit the endpoints."""

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from lighthouse import clock, publishing, register
from lighthouse.net import Guard
from lighthouse.probe import Budget, Crawler

FOLDER = click.option(
    "--register",
    "folder",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder that holds register.toml.",
)
ALLOW = click.option(
    "--allow",
    "allowed",
    multiple=True,
    metavar="HOST:PORT",
    help="A server of your own network that may be asked; all other private addresses are refused.",
)
SOME = click.IntRange(min=1)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


class Commands(click.Group):
    """All commands: whatever goes wrong is one sentence, with --json also one object."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether objects are wanted: wrong use is told before options are read."""
        ctx.obj = "--json" in args or (args[:1] == ["search"] and "--text" not in args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error goes to standard error, as an object to standard output."""
        try:
            return self._invoke(ctx)
        except click.ClickException as error:
            if ctx.obj:
                kind = "usage" if isinstance(error, click.UsageError) else "failed"
                said = {"error": kind, "sentence": error.format_message(), "exit": error.exit_code}
                click.echo(json.dumps(said, ensure_ascii=False))
            raise

    def _invoke(self, ctx: click.Context) -> Any:
        # A driver that is interrupted writes a line of its own beside our sentence.
        logging.getLogger("psycopg").addHandler(logging.NullHandler())
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}.") from None
        except SQLAlchemyError:  # its words may hold the address, and so a password
            raise click.ClickException("The catalogue could not be read or written.") from None


@click.command()
@FOLDER
@click.option("--only", default="", help="Ask for this list only.")
@ALLOW
@AS_JSON
def fetch(folder: Path, only: str, allowed: tuple[str, ...], *, as_json: bool) -> None:
    """Ask for the lists of the register. What looks like an outage is held, not taken."""
    bad = False
    try:
        if only and only not in {entry.name for entry in register.read(folder)}:
            raise click.UsageError(f"No list in register.toml is called {only}.")
        for outcome in register.fetch(folder, _guard(allowed), _today(), only):
            bad = bad or outcome.outcome in {"held", "failed"}
            text = f"{outcome.name}: {outcome.outcome}, {outcome.rows} entries. {outcome.reason}"
            _say(asdict(outcome), text.rstrip(), as_json=as_json)
    except register.Wrong as error:
        raise click.ClickException(str(error)) from None
    sys.exit(1 if bad else 0)


@click.command()
@FOLDER
@click.argument("name")
@AS_JSON
def agree(folder: Path, name: str, *, as_json: bool) -> None:
    """Take the list that was held: you looked at it and it is right."""
    try:
        outcome = register.agree(folder, name)
    except register.Wrong as error:
        raise click.ClickException(str(error)) from None
    _say(asdict(outcome), f"{name}: taken, {outcome.rows} entries.", as_json=as_json)


@click.command()
@click.option("--catalogue", "where", required=True, help="A file, or a database URL.")
@click.option("--budget", default=5000, show_default=True, type=SOME, help="Requests in all.")
@click.option("--per-host", default=60, show_default=True, type=SOME, help="Endpoints of one host.")
@click.option(
    "--workers",
    default=32,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Hosts asked at the same time.",
)
@ALLOW
@AS_JSON
def probe(
    where: str,
    *,
    budget: int,
    per_host: int,
    workers: int,
    allowed: tuple[str, ...],
    as_json: bool,
) -> None:
    """Visit the endpoints that were not visited for longest: one request a second to a host."""
    limits = Budget(budget, per_host)
    told = Crawler(_guard(allowed), _today(), limits).run(publishing.opened(where), workers)
    said = {
        "visited": told.total(),
        **{name.replace(" ", "_"): told[name] for name in ("alive", "not FHIR", "no answer")},
        "refused": told["refused"],
        "requests": budget - max(0, limits.requests),
    }
    text = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in said.items())
    _say(said, text, as_json=as_json)


def _guard(allowed: tuple[str, ...]) -> Guard:
    pairs = set()
    for text in allowed:
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise click.UsageError(f"--allow wants HOST:PORT, not {text}.")
        pairs.add((host.strip("[]").lower(), int(port)))
    return Guard(frozenset(pairs))


def _today() -> str:
    return clock.now().date().isoformat()


def _say(answer: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else text)
