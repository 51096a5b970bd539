"""Fixtures every test may use: a real appliance on a temporary folder, and its cast."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phr.appliance import Appliance
from phr.settings import Settings
from phr.store import slots
from tests.cast import Cast, populate

pytest_plugins = ["tests.fixtures_net", "tests.fixtures_smart", "tests.fixtures_hospital"]


@pytest.fixture
def cheap_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id with its floor parameters: the same code, 20 times as fast."""
    monkeypatch.setattr(slots, "calibrated", lambda _seconds=0.35: slots.FLOOR)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an appliance on a temporary folder."""
    return Settings(data=tmp_path / "data")


@pytest.fixture
def open_appliance(cheap_kdf: None, settings: Settings) -> Iterator[Callable[..., Appliance]]:
    """Open appliances (`**changes` of the settings); all are closed at the end."""
    opened: list[Appliance] = []

    def open_(**changes: Any) -> Appliance:
        opened.append(Appliance.open(replace(settings, **changes)))
        return opened[-1]

    yield open_
    for appliance in opened:
        appliance.close()


@pytest.fixture
def appliance(open_appliance: Callable[..., Appliance]) -> Appliance:
    """An empty appliance: nobody has an account yet."""
    return open_appliance()


@pytest.fixture
def cast(appliance: Appliance) -> Iterator[Cast]:
    """The appliance with Ada, Ben, Cleo and Eve."""
    made = populate(appliance)
    yield made
    made.close()
