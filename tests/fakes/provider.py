"""Runs provider_sim.mjs (a SMART provider nobody here wrote) and walks through its own pages."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.fakes.forms import forms, send

CLIENT_ID = "phr-app"
SIM = Path(__file__).with_name("provider_sim.mjs")
STEPS = 12  # pages between the first address and the last redirect


@dataclass(frozen=True)
class Provider:
    """A running provider: its FHIR base, the one patient it lets in, how many records it has."""

    base: str
    patient: str
    resources: int

    @property
    def place(self) -> str:
        return urlsplit(self.base).netloc

    def set(self, **settings: int) -> None:
        """Change accessSeconds, delayMs or page, and forget the events so far."""
        httpx.post(f"http://{self.place}/sim/settings", json=settings).raise_for_status()

    def events(self) -> list[dict[str, Any]]:
        """Return what happened since `set`: {path, status}, {token, status} or {revoked}."""
        return httpx.get(f"http://{self.place}/sim/events").json()

    def names(self) -> list[str]:
        """Return "Type/id" of every record there is."""
        return httpx.get(f"http://{self.place}/sim/resources").json()

    def sign_in(self, url: str, *, consent: bool = True) -> dict[str, str]:
        """Open an authorization address, sign in, consent; return what the app is sent back with.

        The app's own address is never opened: its parameters are read from the redirect.
        """
        with httpx.Client() as browser:
            answer = browser.get(url)
            for _ in range(STEPS):
                target = answer.headers.get("location")
                if target is None:
                    answer = self._fill_in(browser, answer, consent=consent)
                    continue
                where = answer.url.join(target)
                if where.netloc.decode() != self.place:
                    return dict(parse_qsl(where.query.decode()))
                answer = browser.get(where)
        raise AssertionError("the provider's pages did not end")

    @staticmethod
    def _fill_in(browser: httpx.Client, page: httpx.Response, *, consent: bool) -> httpx.Response:
        assert page.status_code == 200, page.text[:500]
        form = forms(page.text)[0]
        if not consent and form.fields.get("prompt") == "consent":
            return browser.get(f"{page.url}/abort")
        return send(browser, page, form, login="patient", password="any")


@contextmanager
def running(*bundles: Path) -> Iterator[Provider]:
    """Start the provider with the records of some bundles; stop it at the end."""
    with tempfile.TemporaryFile("w+") as noise:
        process = subprocess.Popen(
            ["node", str(SIM), *map(str, bundles)],
            stdout=subprocess.PIPE,
            stderr=noise,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        try:
            line = process.stdout.readline()
            if not line:
                noise.seek(0)
                raise AssertionError(f"the provider did not start:\n{noise.read()[-2000:]}")
            facts = json.loads(line)
            yield Provider(facts["fhir"], facts["patient"], facts["resources"])
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()
