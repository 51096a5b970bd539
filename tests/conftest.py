"""Fixtures every test may use: a real appliance on a temporary folder, and its cast."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from phr.appliance import Appliance
from phr.settings import Settings
from phr.store import slots
from tests.cast import Cast, populate, settle

# A busy machine makes every test slow, and none of ours is timed.
hypothesis.settings.register_profile(
    "untimed",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")

pytest_plugins = [
    "tests.fixtures_net",
    "tests.fixtures_smart",
    "tests.fixtures_hospital",
    "tests.fixtures_catalogue",
]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes after their argument: packed ones hold the time, and all workers need one name."""
    return argname if isinstance(val, bytes) else None


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


@pytest.fixture(scope="session")
def cast_at_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cast]:
    """The data folder of the cast, made once; each test works on a copy of its own."""
    folder = tmp_path_factory.mktemp("cast") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "calibrated", lambda _seconds=0.35: slots.FLOOR)
        appliance = Appliance.open(Settings(data=folder))
        made = populate(appliance)
        appliance.close()
    return folder, made


@pytest.fixture
def cast(
    request: pytest.FixtureRequest,
    open_appliance: Callable[..., Appliance],
    settings: Settings,
    cast_at_home: tuple[Path, Cast],
) -> Iterator[Cast]:
    """An appliance with Ada, Ben, Cleo and Eve; the one of `appliance` when a test asks for it."""
    if "appliance" in request.fixturenames:
        made = populate(request.getfixturevalue("appliance"))
    else:
        folder, pattern = cast_at_home
        shutil.copytree(folder, settings.data, ignore=shutil.ignore_patterns("run"))
        made = settle(open_appliance(), pattern)
    yield made
    made.close()
