"""The commands around snapshots: key, delegate, build, sign, verify, delta, replica, serve.

They read files and say what happened; the work is done in publish, snapshot, index and app.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET
from sqlalchemy.exc import SQLAlchemyError

from lighthouse import catalogue, clock, index, lines, logos, publish, snapshot, vendors
from lighthouse.catalogue import Endpoint, Organization
from lighthouse.parameters import PUBLIC_KEY

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
GIVEN = click.Path(exists=True, dir_okay=False, path_type=Path)
ROOTS = click.option(
    "--root", "roots", multiple=True, required=True, type=PUBLIC_KEY, help="A public root key."
)
THRESHOLD = click.option(
    "--threshold",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many must sign.",
)
AT = click.option("--at", metavar="TIME", help="Instead of now: ISO 8601 in UTC.")


def _say(answer: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else text)


def _time(text: str | None) -> datetime:
    if not text:
        return clock.now()
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text} is no ISO 8601 time.") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _made(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (
        publish.NotMade, lines.Unreadable, logos.NotALogo, index.NoIndex
    ) as error:  # fmt: skip
        raise click.ClickException(str(error)) from error


def _key(path: Path) -> Ed25519PrivateKey:
    """Read a private key; a file that holds none is wrong use."""
    try:
        return publish.load_key(path)
    except publish.NotMade as error:
        raise click.UsageError(str(error)) from error


def _trust(roots: tuple[str, ...], threshold: int) -> snapshot.Trust:
    if threshold > len(set(roots)):
        sentence = f"--threshold {threshold} wants more signatures than there are --root keys."
        raise click.UsageError(sentence)
    return snapshot.Trust(roots, threshold)


@click.command()
@click.option("--out", required=True, type=FILE, help="The file to write; must not exist.")
@AS_JSON
def key(out: Path, *, as_json: bool) -> None:
    """Make an Ed25519 key: a root key (keep it offline) or a signing key."""
    public = _made(lambda: publish.new_key(out))
    _say({"file": str(out), "public": public}, public, as_json=as_json)


@click.command()
@click.option("--root-key", "roots", multiple=True, required=True, type=GIVEN, help="Root key.")
@click.option(
    "--signing", multiple=True, required=True, type=PUBLIC_KEY, help="A public signing key."
)
@click.option(
    "--days",
    default=publish.KEY_DAYS,
    show_default=True,
    type=click.IntRange(1, 36500),
    help="How long it may sign.",
)
@click.option("--out", required=True, type=FILE, help="The file to write; must not exist.")
@AT
@AS_JSON
def delegate(
    roots: tuple[Path, ...], signing: tuple[str, ...], *, days: int, out: Path, at: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Let signing keys sign snapshots for a time: done offline, with the root key."""
    if out.exists():
        raise click.ClickException(f"{out} exists already; a delegation is never overwritten.")
    starts = _time(at)
    keys = [_key(one) for one in roots]
    made = _made(lambda: publish.delegate(keys, signing, starts=starts, days=days))
    out.write_bytes(made)
    said = {"file": str(out), "keys": list(signing), "days": days}
    _say(said, f"{len(signing)} key(s) may sign for {days} days.", as_json=as_json)


@click.command()
@click.option("--catalogue", "where", required=True, help="The catalogue: a file, or a URL.")
@click.option("--snapshots", "folder", required=True, type=FOLDER, help="The folder to publish.")
@click.option("--name", default="A lighthouse", help="What people read as its name.")
@click.option(
    "--serial",
    default=0,
    type=click.IntRange(0, snapshot.MOST_SERIAL),
    help="Number; otherwise the one after the last.",
)
@click.option(
    "--days",
    default=publish.DAYS,
    show_default=True,
    type=click.IntRange(1, 36500),
    help="How long it is good.",
)
@click.option(
    "--deltas",
    default=publish.DELTAS,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="From how many earlier.",
)
@click.option("--vendors", "rules", type=GIVEN, help="Rules by vendor (JSON) instead of ours.")
@click.option("--clients", type=GIVEN, help="Shared clients by vendor (JSON).")
@click.option("--endpoints", "overrides", type=GIVEN, help="Rules by endpoint id (JSON).")
@click.option("--services", type=GIVEN, help="Addresses of own services by name (JSON).")
@click.option("--logos", "pictures", type=FOLDER, help="Reviewed logos: a folder with logos.json.")
@AT
@AS_JSON
def build(
    where: str, folder: Path, name: str, *, serial: int, days: int, deltas: int,
    rules: Path | None, clients: Path | None, overrides: Path | None, services: Path | None,
    pictures: Path | None, at: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Pack a catalogue and make the deltas and the manifest that `sign` signs."""
    content = content_of(where, rules, clients, overrides)
    shown = _made(lambda: logos.reviewed(pictures)) if pictures else {}
    plan = publish.Plan(name, _time(at), days, serial, deltas, _object(services), shown)
    made = _made(lambda: publish.build(content, folder, plan))
    said = {
        "serial": made.serial,
        **made.counts,
        "file": made.catalogue.file,
        "bytes": made.catalogue.size,
        "unpacked": made.content.size,
        "deltas": [{"from": d.since, "file": d.file, "bytes": d.size} for d in made.deltas],
        "logos": len(shown),
    }
    text = (
        f"Snapshot {made.serial}: {made.counts['organizations']} organisations, "
        f"{made.counts['endpoints']} endpoints, {made.catalogue.size} bytes, "
        f"{len(made.deltas)} deltas. Not signed yet."
    )
    _say(said, text, as_json=as_json)


def content_of(
    where: str, rules: Path | None, clients: Path | None, overrides: Path | None
) -> lines.Content:
    """Read a catalogue with the rules of its vendors, overlaid by an operator's own."""
    organizations, ends = _all_of(where)
    used = {end.vendor for end in ends} - {""}
    stated: Mapping[str, Any] = _object(rules) if rules else vendors.profiles()
    own = _object(clients)
    profiles = {name: dict(stated.get(name, {})) for name in used if name in stated or name in own}
    for name, client in own.items():
        profiles.setdefault(name, {})["client"] = client
    return lines.content_of(organizations, profiles, _object(overrides), ends)


def _all_of(where: str) -> tuple[list[Organization], list[Endpoint]]:
    engine = opened(where)
    with of_this_version(where):
        return catalogue.organizations(engine), catalogue.endpoints(engine)


@contextmanager
def of_this_version(where: str) -> Iterator[None]:
    """Say in a sentence that a catalogue lacks what this version reads."""
    try:
        yield
    except SQLAlchemyError as error:
        shown = catalogue.shown(where)
        sentence = f"{shown} is of another version. Make it again with `lighthouse ingest`."
        raise click.ClickException(sentence) from error


def opened(where: str, *, new: bool = False) -> Any:
    """Open a catalogue, which must be there unless it may be `new`; else say what is wrong."""
    shown = catalogue.shown(where)
    if "://" not in where:
        if not new and not Path(where).is_file():
            sentence = f"There is no catalogue at {shown}. Make one with `lighthouse ingest`."
            raise click.UsageError(sentence)
        if index.is_index(Path(where)):
            sentence = (
                f"{shown} is a search index, no catalogue: `lighthouse serve --index` reads it."
            )
            raise click.UsageError(sentence)
    try:
        return catalogue.connect(where)
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise click.ClickException(f"{shown} could not be opened as a catalogue.") from error


def _object(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{path.name} is no JSON.") from error
    if not isinstance(found, dict):
        raise click.ClickException(f"{path.name} holds no JSON object.")
    return found


@click.command()
@click.option("--snapshots", "folder", required=True, type=FOLDER, help="What `build` made.")
@click.option("--key", "keys", multiple=True, required=True, type=GIVEN, help="Signing key.")
@click.option("--delegation", required=True, type=GIVEN, help="What `delegate` made.")
@click.option("--zip", "packed", type=FILE, help="Also write one file, to carry by hand.")
@AS_JSON
def sign(
    folder: Path, keys: tuple[Path, ...], delegation: Path, packed: Path | None, *, as_json: bool
) -> None:
    """Sign what was built: afterwards the folder can be published as it is."""
    signing = [_key(one) for one in keys]
    made = _made(lambda: publish.sign(folder, delegation.read_bytes(), signing))
    if packed:
        _made(lambda: publish.bundle(folder, made, packed))
    said = {"serial": made.serial, "expires": made.expires.isoformat(), "file": snapshot.ENVELOPE}
    _say(said, f"Snapshot {made.serial} is signed, good until {made.expires}.", as_json=as_json)


@click.command()
@click.option("--snapshots", "place", required=True, help="A published folder, or one .zip.")
@ROOTS
@THRESHOLD
@click.option(
    "--newest", default=0, type=click.IntRange(min=0), help="Refuse a serial below this one."
)
@click.option("--index", "out", type=FILE, help="Also write the search index to this file.")
@AT
@AS_JSON
def verify(
    place: str, roots: tuple[str, ...], *, threshold: int, newest: int, out: Path | None,
    at: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Verify a snapshot as a reader would. Exit code 1 and the reason where it is refused."""
    trust = _trust(roots, threshold)
    started = time.perf_counter()
    try:
        manifest, content = verified(Path(place), trust, _time(at), newest)
        deltas = _check_deltas(Path(place), manifest)
        pictures = _check_logos(Path(place), manifest)
    except snapshot.Refused as error:
        said = {"ok": False, "reason": error.reason, "sentence": str(error)}
        _say(said, f"Refused ({error.reason}): {error}", as_json=as_json)
        sys.exit(1)
    except OSError:
        reason, sentence = _lacking(Path(place))
        said = {"ok": False, "reason": reason, "sentence": sentence}
        _say(said, sentence, as_json=as_json)
        sys.exit(1)
    checked = time.perf_counter()
    if out:
        write_index(out, manifest, content)
    said = {
        "ok": True,
        "serial": manifest.serial,
        "expires": manifest.expires.isoformat(),
        **manifest.counts,
        "bytes": manifest.catalogue.size,
        "deltas": deltas,
        "logos": pictures,
        "verify_ms": round((checked - started) * 1000),
        "index_ms": round((time.perf_counter() - checked) * 1000) if out else None,
    }
    _say(said, f"Snapshot {manifest.serial} is good until {manifest.expires}.", as_json=as_json)


def _check_deltas(place: Path, manifest: snapshot.Manifest) -> int:
    """Check the deltas that lie there (a .zip may lack them) and return how many. Raises Refused.

    Where the content that one starts from lies there as well, it must make the new one of it.
    """
    fetch = snapshot.reader_of(place)
    checked = 0
    for one in manifest.deltas:
        try:
            packed = snapshot.fetched(fetch, one)
        except FileNotFoundError:
            continue
        checked += 1
        before = place / f"catalogue-{one.since}.ndjson.zst"
        if before.is_file():
            snapshot.unpack(packed, manifest, before=_made(partial(publish.unpacked, before)))
    return checked


def _check_logos(place: Path, manifest: snapshot.Manifest) -> int:
    """Check the logos that lie there (none is needed) and return how many. Raises Refused."""
    if manifest.logos is UNSET:
        return 0
    try:
        packed = snapshot.fetched(snapshot.reader_of(place), manifest.logos)
    except FileNotFoundError:
        return 0
    return len(snapshot.logos_of(packed, manifest.logos))


def _lacking(place: Path) -> tuple[str, str]:
    """Return why a snapshot could not be read: in a word and in a sentence."""
    if (place / publish.UNSIGNED).is_file() and not (place / snapshot.ENVELOPE).is_file():
        return "unsigned", "It is not signed yet: run `lighthouse sign`."
    return "missing", f"{place} cannot be read, or a file is missing."


def verified(
    place: Path, trust: snapshot.Trust, now: datetime, newest: int = 0
) -> tuple[snapshot.Manifest, lines.Content]:
    """Verify the snapshot in a folder or .zip and return what it holds. Raises Refused."""
    fetch = snapshot.reader_of(place)
    manifest = snapshot.check(
        fetch(snapshot.ENVELOPE, snapshot.MOST_ENVELOPE), trust, now=now
    ).manifest
    if manifest.serial < newest:
        raise snapshot.Refused("rollback", f"Snapshot {manifest.serial} is older than {newest}.")
    raw = snapshot.fetch_content(manifest, fetch, None)
    return manifest, snapshot.read_content(raw)


def write_index(out: Path, manifest: snapshot.Manifest, content: lines.Content) -> None:
    """Write the index of one verified snapshot."""
    origin = index.Origin(
        manifest.lighthouse,
        manifest.serial,
        manifest.created.isoformat(),
        manifest.expires.isoformat(),
    )
    origins = dict.fromkeys(content.endpoints, origin)
    index.write(out, content, [origin], {origin.name: content.vendors}, origins)


@click.command()
@click.argument("before", type=GIVEN)
@click.argument("after", type=GIVEN)
@click.option("--out", required=True, type=FILE, help="The file to write.")
@AS_JSON
def delta(before: Path, after: Path, *, out: Path, as_json: bool) -> None:
    """Make the delta between two catalogue files (`build` does it by itself)."""
    old, new = _made(lambda: publish.unpacked(before)), _made(lambda: publish.unpacked(after))
    made = publish.delta(old, new)
    out.write_bytes(made)
    had, has = set(old.split(b"\n")), set(new.split(b"\n"))
    said = {"file": str(out), "bytes": len(made), "gone": len(had - has), "new": len(has - had)}
    text = f"{len(made)} bytes: {said['gone']} lines gone, {said['new']} lines new."
    _say(said, text, as_json=as_json)


@click.command()
@click.option("--catalogue", "where", help="From a catalogue: a file, or a URL.")
@click.option("--snapshots", "place", help="From a signed snapshot: folder or .zip.")
@click.option("--root", "roots", multiple=True, type=PUBLIC_KEY, help="A public root key.")
@THRESHOLD
@click.option("--index", "out", required=True, type=FILE, help="The file to write.")
@AT
@AS_JSON
def replica(
    where: str | None, place: str | None, roots: tuple[str, ...], *, threshold: int, out: Path,
    at: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the file that `serve --index` reads. A running `serve` takes up the new one."""
    if (where is None) == (place is None) or (place and not roots):
        raise click.UsageError("Give --catalogue, or --snapshots with --root.")
    if where:
        found, ends = _all_of(where)
        _made(lambda: index.write_catalogue(out, found, ends))
    else:
        try:
            signed = verified(Path(str(place)), _trust(roots, threshold), _time(at))
        except snapshot.Refused as error:
            raise click.ClickException(f"Refused ({error.reason}): {error}") from error
        except OSError as error:
            raise click.ClickException(_lacking(Path(str(place)))[1]) from error
        write_index(out, *signed)
    with index.open_index(out) as made:
        said = {
            "file": str(out),
            "bytes": out.stat().st_size,
            "serial": made.origins[0].serial,
            "organizations": made.organizations,
            "endpoints": made.endpoints,
        }
    _say(said, f"{said['organizations']} organisations in {out}.", as_json=as_json)


@click.command()
@click.option("--index", "file", type=FILE, help="What `replica` wrote; replaced, it is re-read.")
@click.option("--catalogue", "where", help="Instead: a catalogue, read once at the start.")
@click.option("--snapshots", "folder", type=FOLDER, help="Also publish this folder.")
@click.option("--logos", type=FOLDER, help="Reviewed logos: a folder with logos.json.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8090, show_default=True)
def serve(
    file: Path | None, where: str | None, *, folder: Path | None, logos: Path | None, host: str,
    port: int,
) -> None:  # fmt: skip
    """Answer searches and hand out snapshots over HTTP until SIGTERM or Ctrl-C."""
    from lighthouse import app  # noqa: PLC0415 - a web server is loaded only to serve

    if (file is None) == (where is None):
        raise click.UsageError("Give --index or --catalogue.")
    found = _all_of(where) if where else None
    if file and not file.exists():
        app.say({"event": "index awaited", "reason": f"There is no {file} yet; it is waited for."})
    _made(lambda: app.run(file, found, app.Files(folder, logos), host=host, port=port))


@click.command()
@click.option("--out", type=FILE, help="The file to write; otherwise standard output.")
def openapi(out: Path | None) -> None:
    """Write the description of the interface (OpenAPI)."""
    from lighthouse import app  # noqa: PLC0415 - a web server is loaded only where it is needed

    schema = app.litestar(Path("none"), app.Files()).openapi_schema.to_schema()
    text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
    else:
        click.echo(text, nl=False)


COMMANDS = (key, delegate, build, sign, verify, delta, replica, serve, openapi)
