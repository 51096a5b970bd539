"""Commands that read a record or bring files into it: import, export, chart.

Entries are the same that the pages show: built by `phr.views`, here walked instead of drawn.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from phr import clock, pull, views
from phr.chart.timeline import Event, event
from phr.errors import InvalidInput, SettingsError
from phr.fhir.record import Record
from phr.sharing import gate, package
from phr.store import connections, entries, records
from phr.store.models import PullState
from phr.store.vault import Vault

Item = Mapping[str, Any]


def import_files(vault: Vault, files: Sequence[str], actor: Mapping[str, Any]) -> Iterator[Item]:
    """Take files in, one after the other; what cannot be kept is named with its reason."""
    for path in map(Path, files):
        problem = _unreadable(path)
        if problem:
            yield {
                "kind": "file",
                "file": str(path),
                "connection": None,
                "state": PullState.FAILED,
                **dict.fromkeys(("kept", "unchanged", "quarantined"), 0),
                "sentence": problem,
            }
            continue
        taken = pull.take_file(vault, path.name, path, actor=actor, now=clock.now())
        with vault.read() as session:
            aside = connections.quarantined(session, taken.pull_id)
        yield {
            "kind": "file",
            "file": str(path),
            "connection": taken.connection_id,
            "state": taken.state,
            "kept": taken.kept.new + taken.kept.changed,
            "unchanged": taken.kept.unchanged,
            "quarantined": taken.kept.quarantined,
            "sentence": taken.sentence,
        }
        for one in aside:
            reason = {"place": one.place, "reason": one.reason}
            yield {"kind": "quarantined", "file": str(path), **reason}


def _unreadable(path: Path) -> str | None:
    """Say why nothing can be read from a file, before a connection is made for it; None: it can."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"This file could not be read ({error.strerror})."
    return None


def export_record(vault: Vault, out: str, actor: Mapping[str, Any]) -> Iterator[Item]:
    """Write the owner's whole copy (a zip of NDJSON) to a new file that only its owner may read."""
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(f"{out} cannot be written ({error.strerror}).") from error
    owned = gate.owner_export(vault, actor, form="zip")
    with os.fdopen(handle, "wb") as target:
        for chunk in package.export(owned, now=clock.now()):
            target.write(chunk)
        size = target.tell()
    with vault.read() as session:
        number = sum(records.counts(session).values())
    yield {"file": out, "records": number, "bytes": size}


# ------------------------------------------------------------------ chart


def chart(vault: Vault, section: str) -> Iterator[Item]:
    """Yield the entries of a section in the order of its page, each with its evidence."""
    view = views.VIEWS.get(section)
    if view is None:
        raise InvalidInput(f"There is no section {section}. There are: {', '.join(views.VIEWS)}.")
    with vault.read() as session:
        found = list(records.select(session, vault, replace(view.selection, limit=None)))
        for selection in view.also:
            found += records.select(session, vault, selection)
        items = _told(view, found, _context(session))
    yield from items


def _told(view: views.View, found: Sequence[Record], context: views.Context) -> list[Item]:
    if view is views.VIEWS["timeline"]:  # a hot path of the pages: it builds HTML, not entries
        return [_event(view.slug, event(record), context) for record in found]
    # The page of `other` counts kinds and leads to their lists: here the lists follow at once.
    build = views.HITS.build if view is views.VIEWS["other"] else view.build
    return [_item(view.slug, group, entry) for group, entry in _entries(build(found, context), "")]


def _context(session: Session) -> views.Context:
    """Return a context whose links are evidence: `Type/local id` instead of an address."""
    return views.Context(
        origins=connections.origins(session),
        now=clock.now(),
        link=_evidence,
        decisions=entries.decisions(session),
    )


def _evidence(record: Record) -> str:
    return f"{record.type}/{record.local_id}"


def _entries(built: Any, group: str) -> Iterator[tuple[str, Any]]:
    """Walk what a view built and yield (group, row) for everything that names its evidence."""
    if is_dataclass(built) and getattr(built, "href", None):
        yield group, built
    elif is_dataclass(built):
        inner = str(getattr(built, "title", "") or group)
        for one in fields(built):
            yield from _entries(getattr(built, one.name), inner)
    elif isinstance(built, Mapping):
        for value in built.values():
            yield from _entries(value, group)
    elif isinstance(built, (list, tuple)):
        for value in built:
            yield from _entries(value, group)


def _event(section: str, one: Event, context: views.Context) -> Item:
    return {
        "section": section,
        "group": one.year or "No date given",
        "title": one.title,
        "value": one.when or None,
        "word": ", ".join(one.marks.words) or None,
        "details": [f"{one.kind} · {context.origin_name(one.record.connection_id)}"],
        "evidence": [_evidence(one.record)],
    }


def _item(section: str, group: str, entry: Any) -> Item:
    words = " ".join(str(getattr(entry, name, "") or "") for name in ("value", "unit"))
    mark = getattr(entry, "mark", None)
    return {
        "section": section,
        "group": group,
        "title": getattr(entry, "title", "") or getattr(entry, "name", ""),
        "value": words.strip() or None,
        "word": mark.words if mark else None,
        "details": [str(line) for line in getattr(entry, "details", ()) if line],
        "evidence": list(
            dict.fromkeys(
                [entry.href, *(link.href for link in getattr(entry, "links", ()) if link.href)]
            )
        ),
    }
