"""The register: addresses of published lists, fetched politely into dated editions on disk.

A folder holds `register.toml` (whom to ask), `register.state` (what came) and `lists/NAME/` with
every edition that was taken, the evidence. A list that shrinks, turns into HTML or empties is an
outage until a human agrees: it is held, and the last good edition stays the newest.
"""

import gzip
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lighthouse import adapters
from lighthouse.net import Guard, Refused, Unanswered, ask

SECONDS = 60.0
HOPS = 3
SHRINKS = 0.5  # of the last accepted number of rows
ACCEPT = "application/fhir+json, application/json;q=0.9, text/csv;q=0.8"


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of the register: a short name, where the list is, and whose it is."""

    name: str
    url: str
    vendor: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a list: its newest accepted edition, and what waits for a human."""

    etag: str = ""
    modified: str = ""
    sha256: str = ""
    rows: int = 0
    edition: str = ""  # ISO date of the newest accepted edition
    asked: str = ""  # ISO date of the last request
    alarm: str = ""  # why the last answer was not taken
    held: str = ""  # date of the edition that waits for a human


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one list: new, unchanged, held or failed, and why."""

    name: str
    outcome: str
    rows: int
    reason: str = ""


class Wrong(ValueError):
    """The register cannot be used as it is."""


def read(folder: Path) -> list[Listed]:
    """Read `register.toml`: tables `[[list]]` with `name`, `url` and, if known, `vendor`."""
    try:
        found = tomllib.loads((folder / "register.toml").read_text())
        listed = [Listed(**entry) for entry in found["list"]]
    except OSError as error:
        raise Wrong(f"{folder / 'register.toml'}: {error.strerror}.") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Wrong(f"register.toml cannot be read: {error}") from None
    names = [entry.name for entry in listed]
    wrong = [name for name in names if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name)]
    if wrong or len(set(names)) < len(names):
        raise Wrong("Names in register.toml are small letters, digits and -, each used once.")
    return listed


def publishers(folder: Path) -> dict[str, str]:
    """Return {name of a list: its vendor}; empty where the folder has no register."""
    if not (folder / "register.toml").is_file():
        return {}
    return {entry.name: entry.vendor for entry in read(folder)}


def states(folder: Path) -> dict[str, State]:
    """Return what is known of each list."""
    file = folder / "register.state"
    try:
        known = json.loads(file.read_text()) if file.is_file() else {}
        return {name: State(**said) for name, said in known.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Wrong(f"register.state cannot be read: {str(error)[:120]}") from None


def fetch(folder: Path, guard: Guard, today: str, only: str = "") -> Iterator[Outcome]:
    """Ask for each list (or the one named) once, one after the other; `today` is an ISO date."""
    known = states(folder)
    for entry in read(folder):
        if only and entry.name != only:
            continue
        state, outcome = _fetch_one(folder, entry, known.get(entry.name, State()), guard, today)
        known[entry.name] = replace(state, asked=today)
        _save(folder, known)
        yield outcome


def agree(folder: Path, name: str) -> Outcome:
    """Take the edition that was held: a human looked and says that it is right."""
    known = states(folder)
    state = known.get(name, State())
    held = next(iter((folder / "held").glob(f"{name}.*")), None)
    if not state.held or held is None:
        raise Wrong(f"Nothing of {name} waits for a decision.")
    came = _look(folder, name, held.read_bytes())
    known[name] = _take(folder, name, came, replace(state, edition=state.held))
    _save(folder, known)
    held.unlink()
    return Outcome(name, "new", came.rows, "agreed")


def _fetch_one(
    folder: Path, entry: Listed, state: State, guard: Guard, today: str
) -> tuple[State, Outcome]:
    headers = {"Accept": ACCEPT}
    if state.sha256 and state.etag:
        headers["If-None-Match"] = state.etag
    elif state.sha256 and state.modified:
        headers["If-Modified-Since"] = state.modified
    try:
        answer = ask(
            "GET",
            entry.url,
            guard,
            headers=headers,
            limit=adapters.LIMIT,
            seconds=SECONDS,
            hops=HOPS,
        )
    except (Refused, Unanswered) as error:
        return replace(state, alarm=str(error)), Outcome(entry.name, "failed", 0, str(error))
    if answer.status == 304:
        return replace(state, alarm=""), Outcome(entry.name, "unchanged", state.rows)
    if answer.status != 200:
        reason = f"The server answered {answer.status}."
        return replace(state, alarm=reason), Outcome(entry.name, "failed", 0, reason)
    tagged = replace(
        state,
        etag=answer.headers.get("etag", ""),
        modified=answer.headers.get("last-modified", ""),
    )
    if hashlib.sha256(answer.body).hexdigest() == state.sha256:
        return replace(tagged, alarm=""), Outcome(entry.name, "unchanged", state.rows)
    came = _look(folder, entry.name, answer.body)
    reason = came.reason
    if came.rows and came.rows < state.rows * SHRINKS:
        reason = f"The list shrank from {state.rows} to {came.rows} entries."
    if reason:  # the old tags stay: the next visit asks for it again
        held = _hold(folder, entry.name, came, today)
        outcome = Outcome(entry.name, "held", came.rows, reason)
        return replace(state, alarm=reason, held=held or state.held), outcome
    taken = _take(folder, entry.name, came, replace(tagged, edition=today))
    return taken, Outcome(entry.name, "new", came.rows)


@dataclass(frozen=True, slots=True)
class _Came:
    """A list as it came: its bytes, its shape, what it would bring, and why it cannot be read."""

    raw: bytes
    ending: str
    rows: int
    reason: str = ""


def _look(folder: Path, name: str, raw: bytes) -> _Came:
    """Read a list as `ingest` will, without taking it."""
    start = raw[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    ending = "json" if start.startswith((b"{", b"[")) else "csv"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return _Came(raw, ending, 0, "A web page came where a list was promised.")
    trial = folder / f".{name}.{ending}"
    try:
        trial.write_bytes(raw)
        rows = sum(1 for _ in adapters.read(trial, folder))
    except ValueError as error:
        return _Came(raw, ending, 0, f"The list cannot be read: {str(error)[:120]}")
    finally:
        trial.unlink(missing_ok=True)
    return _Came(raw, ending, rows, "" if rows else "The list holds no entry that can be read.")


def _hold(folder: Path, name: str, came: _Came, today: str) -> str:
    """Put an edition aside for a human, where there is something to decide; return its date."""
    if not came.rows:
        return ""
    (folder / "held").mkdir(exist_ok=True)
    for older in (folder / "held").glob(f"{name}.*"):
        older.unlink()
    (folder / "held" / f"{name}.{came.ending}").write_bytes(came.raw)
    return today


def _take(folder: Path, name: str, came: _Came, state: State) -> State:
    kept = folder / "lists" / name
    kept.mkdir(parents=True, exist_ok=True)
    # Packed without a time stamp: the same list is the same file.
    _replace(kept / f"{state.edition}.{came.ending}.gz", gzip.compress(came.raw, mtime=0))
    sha256 = hashlib.sha256(came.raw).hexdigest()
    return replace(state, sha256=sha256, rows=came.rows, alarm="", held="")


def _save(folder: Path, known: Mapping[str, State]) -> None:
    said = {name: asdict(state) for name, state in sorted(known.items())}
    _replace(folder / "register.state", json.dumps(said, indent=1).encode() + b"\n")


def _replace(path: Path, raw: bytes) -> None:
    """Write a file whole or not at all."""
    trial = path.with_name(f".{path.name}.new")
    with trial.open("wb") as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())
    trial.replace(path)
