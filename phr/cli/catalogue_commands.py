"""`phr catalogue`: what the catalogue of hospitals is made of, and taking in a list by hand."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phr import clock
from phr.appliance import Appliance

Item = Mapping[str, Any]


def apply(appliance: Appliance, *, file: str) -> Iterator[Item]:
    """Take a packed snapshot that was carried here; it must be signed by a known lighthouse."""
    before = appliance.catalogue.serials()
    kept = appliance.catalogue.apply(Path(file), clock.now())
    same = before.get(kept.name) == kept.serial
    here = f"Snapshot {kept.serial} was already here; nothing changed."
    yield _said(kept) | {"sentence": here if same else None}


def show(appliance: Appliance) -> Iterator[Item]:
    """Say what is kept of each lighthouse, and what went wrong last."""
    standing = appliance.catalogue.standing()
    for kept in standing.kept:
        yield _said(kept) | {"sentence": standing.trouble.get(kept.name)}
    named = {kept.name for kept in standing.kept}
    for name, sentence in standing.trouble.items():
        if name not in named:
            yield {**_NOTHING, "lighthouse": name, "sentence": sentence}
    if not standing.kept:
        said = f"The built-in list of {standing.seed_dated}."
        built_in = {"lighthouse": "built-in", "organizations": standing.organizations}
        yield {**_NOTHING, **built_in, "sentence": said}


_NOTHING: Item = dict.fromkeys(
    ("lighthouse", "serial", "created", "expires", "organizations", "endpoints", "moved")
)


def _said(kept: Any) -> dict[str, Any]:
    return {
        "lighthouse": kept.name,
        "serial": kept.serial,
        "created": kept.created.isoformat(),
        "expires": kept.expires.isoformat(),
        "organizations": kept.organizations,
        "endpoints": kept.endpoints,
        "moved": len(kept.held),
        "sentence": None,
    }
