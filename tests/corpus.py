"""Where the shared test corpus is. Tests that use it carry the mark `corpus`."""

import os
from pathlib import Path

import pytest

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


def corpus() -> Path:
    """Return the corpus folder, or skip with the reason where this machine has none."""
    folder = Path(os.environ.get("HOMEPORT_CORPUS", DEFAULT))
    if not folder.is_dir():
        pytest.skip(f"no test corpus at HOMEPORT_CORPUS (looked in {folder.name})")
    return folder
