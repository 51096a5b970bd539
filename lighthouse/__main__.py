"""The `lighthouse` command: takes lists in, searches them, and says what the catalogue holds.

Exit codes: 0 done, 1 failed, 2 wrong use. With --json one object a line, keys as in docs/cli.md.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from sqlalchemy import func, select

from lighthouse import catalogue, commands, publishing
from lighthouse.ingest import are_empty
from lighthouse.ingest import ingest as take_in
from lighthouse.search import Hit, Search

CATALOGUE = click.option(
    "--catalogue",
    "where",
    required=True,
    help="The catalogue: a file, or a database URL.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group(cls=commands.Commands)
def main() -> None:
    """Lighthouse: a catalogue of provider endpoints that an appliance can search offline."""


main.add_command(commands.fetch)
main.add_command(commands.agree)
main.add_command(commands.probe)
for command in publishing.COMMANDS:
    main.add_command(command)


@main.command()
@click.option(
    "--from",
    "folders",
    multiple=True,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of published lists; may be given several times.",
)
@CATALOGUE
@AS_JSON
def ingest(folders: tuple[Path, ...], where: str, *, as_json: bool) -> None:
    """Take published lists into the catalogue. The same lists again change nothing."""
    if are_empty(folders):
        raise click.ClickException(f"There is no list below {', '.join(map(str, folders))}.")
    report = take_in(folders, publishing.opened(where, new=True))
    said = {
        "lists": report.lists,
        "rows": report.rows,
        "organizations": report.organizations,
        "endpoints": report.endpoints,
        "refused": report.refused,
        "questions": report.questions,
        "broken": [{"list": name, "reason": reason} for name, reason in report.broken],
        "unknown": list(report.unknown),
    }
    _say(
        said,
        f"{report.rows} rows of {report.lists} lists: {report.organizations} organisations, "
        f"{report.endpoints} endpoints, {report.refused} addresses refused, "
        f"{report.questions} questions for people.",
        as_json=as_json,
    )
    for name, reason in report.broken:
        click.echo(f"not read: {name}: {reason}", err=True)
    for name in report.unknown:
        click.echo(f"passed over: {name}: no shape that is known", err=True)
    sys.exit(1 if report.broken or (not report.lists and report.unknown) else 0)


@main.command()
@CATALOGUE
@click.option(
    "--limit", default=5, show_default=True, type=click.IntRange(min=1), help="Hits a query."
)
@click.option("--json/--text", "as_json", default=True, help="One JSON object a line (default).")
def search(where: str, limit: int, *, as_json: bool) -> None:
    """Answer the queries on standard input, one a line. Nothing that was typed is kept."""
    engine = publishing.opened(where)
    with publishing.of_this_version(where):
        index = Search(catalogue.organizations(engine))
    for line in sys.stdin:
        typed = line.rstrip("\n")
        started = time.perf_counter()
        hits = index.find(typed, limit) if typed.strip() else []
        spent = round((time.perf_counter() - started) * 1000, 2)
        told = "; ".join(f"{h.organization.name} {h.organization.state}".strip() for h in hits)
        answer = {"q": typed, "ms": spent, "hits": [_hit(hit) for hit in hits]}
        _say(answer, f"{typed}: {told or 'nothing close enough'}", as_json=as_json)
        sys.stdout.flush()


@main.command()
@CATALOGUE
@AS_JSON
def stats(where: str, *, as_json: bool) -> None:
    """Say what the catalogue holds, by vendor and by defect class."""
    engine = publishing.opened(where)
    table = catalogue.endpoint
    with publishing.of_this_version(where), engine.connect() as connection:
        counted = {
            name: connection.scalar(
                select(func.count()).select_from(catalogue.metadata.tables[name])
            )
            for name in ("organization", "alias", "endpoint", "refused", "question")
        }
        vendors = connection.execute(
            select(table.c.vendor, func.count())
            .group_by(table.c.vendor)
            .order_by(func.count().desc())
        )
        by_vendor = {vendor or "unknown": number for vendor, number in vendors}
        defects = connection.execute(select(catalogue.defect).order_by(catalogue.defect.c["class"]))
        by_defect = {row[0]: row[1] for row in defects}
    text = "\n".join(
        f"{name}: {number}" for name, number in (counted | by_vendor | by_defect).items()
    )
    _say({**counted, "vendors": by_vendor, "defects": by_defect}, text, as_json=as_json)


def _hit(hit: Hit) -> Mapping[str, Any]:
    one = hit.organization
    return {
        "id": one.id,
        "name": one.name,
        "aliases": list(one.aliases),
        "matched": hit.matched,
        "city": one.city,
        "state": one.state,
        "zip": one.zip,
        "country": one.country,
        "vendor": next((end.vendor for end in one.endpoints if end.vendor), ""),
        "score": round(hit.score, 3),
        "endpoints": [
            {
                "id": end.id,
                "url": end.url,
                "vendor": end.vendor,
                "fhir_version": end.fhir_version,
                "portal": end.portal,
            }
            for end in one.endpoints
        ],
    }


def _say(answer: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else text)


if __name__ == "__main__":
    main()
