"""A real vault for tests of keeping and reading records, with short ways to fill it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from phr import clock, keep
from phr.bench import house
from phr.fhir.record import Item
from phr.store.vault import Vault

PATIENT = "p-1"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with house.opened(tmp_path) as opened:
        yield opened


@pytest.fixture
def hospital(vault: Vault) -> int:
    return house.connection(vault)


def item(resource: dict[str, Any] | bytes, place: str = "entry 1", url: str | None = None) -> Item:
    body = resource if isinstance(resource, bytes) else orjson.dumps(resource)
    return Item(body, place, url)


def lab(id_: str = "o-1", value: str = "5.40", **more: Any) -> bytes:
    """An Observation whose number keeps the digits that are given."""
    resource = {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "category": [{"coding": [{"system": "s", "code": "laboratory"}]}],
        "code": {
            "coding": [{"system": "http://loinc.org", "code": "2345-7", "display": "Glucose"}],
            "text": "Glucose in serum",
        },
        "subject": {"reference": f"Patient/{PATIENT}"},
        "effectiveDateTime": "2024-03-01T08:00:00Z",
        "valueQuantity": {"value": "DIGITS", "unit": "mmol/L"},
        **more,
    }
    return orjson.dumps(resource).replace(b'"DIGITS"', value.encode())


def keep_all(
    vault: Vault, connection: int, items: list[Item], *, pull: int | None = None, **options: Any
) -> keep.Kept:
    """Keep items as one pull; the options are the Keeper's."""
    number = house.pull(vault, connection) if pull is None else pull
    keeper = keep.Keeper(vault, connection, number, now=clock.now(), **options)
    return keeper.page("test", items) + keeper.finish()


def rows(vault: Vault, sql: str, params: tuple[Any, ...] = ()) -> list[Any]:
    with vault.read() as session:
        return session.connection().exec_driver_sql(sql, params).fetchall()
