"""SMART Health Links as their viewers use them: reading `shlink:/`, asking, opening files."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from phr import clock, ids, jwt
from phr.sharing import health_links
from phr.sharing import provision as policy
from phr.sharing.grants import StepUp
from phr.sharing.provision import Provision
from tests.cast import PUBLIC, Browser
from tests.fixtures_sharing import ADA, Share


def payload_of(text: str) -> dict[str, Any]:
    """Return what stands in `shlink:/…`."""
    written = text.rpartition("shlink:/")[2]
    return dict(json.loads(base64.urlsafe_b64decode(written + "=" * (-len(written) % 4))))


@dataclass(frozen=True)
class Made:
    """A health link of ours, as the patient was shown it."""

    text: str
    grant_id: str
    handle_id: str
    passcode: str

    @property
    def payload(self) -> dict[str, Any]:
        return payload_of(self.text)

    @property
    def path(self) -> str:
        return str(self.payload["url"]).removeprefix(PUBLIC)

    @property
    def key(self) -> bytes:
        return base64.urlsafe_b64decode(self.payload["key"] + "=")

    def ask(self, browser: Browser, **more: Any) -> Any:
        given = {"recipient": "Clinic A", "passcode": self.passcode or None} | more
        sent = {name: value for name, value in given.items() if value is not None}
        return browser.post(self.path, json=sent)

    def opened(self, sealed: str) -> dict[str, Any]:
        plain, kind = jwt.unseal(sealed, self.key)
        assert kind == "application/fhir+json"
        return dict(json.loads(plain))


def health_link(
    share: Share, provision: Provision | None = None, *, has_passcode: bool = False, **more: Any
) -> Made:
    """Make a health link as the share page does; the primary preset unless told otherwise."""
    wish = share.wish(provision or policy.preset("primary", now=clock.now()), **more)
    now = clock.now()
    link = health_links.make(
        share.vault,
        wish,
        grant_id=ids.new_id(),
        has_passcode=has_passcode,
        step_up=StepUp("ada", "password", now),
        shown="what was shown",
        actor=ADA,
        now=now,
    )
    text = health_links.text(link, wish, public_url=PUBLIC, now=now)
    return Made(text, link.grant_id, link.handle_id, link.passcode)
