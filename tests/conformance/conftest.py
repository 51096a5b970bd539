"""Fixtures of the conformance tests: programs of other people, started for one session."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus import corpus
from tests.fakes import provider as providers
from tests.fakes.provider import Provider

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def _provider_process() -> Iterator[Provider]:
    if shutil.which("node") is None:
        pytest.skip("no node on this machine")
    if not (ROOT / "node_modules" / "oidc-provider").is_dir():
        pytest.skip("node_modules is not installed (make conformance does that)")
    bundle = corpus() / "fhir" / "uscore-reference" / "uscore_bundle_patient_85.json"
    with providers.running(bundle) as provider:
        yield provider


@pytest.fixture
def provider(_provider_process: Provider) -> Provider:
    """The independent SMART provider with US Core reference patient 85, in its usual mood."""
    _provider_process.set(accessSeconds=60, delayMs=0, page=0)
    return _provider_process
