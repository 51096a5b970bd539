"""Software that a patient let in: grants with access tokens, and a client of the FHIR API."""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest

from phr import clock, ids
from phr.sharing import grants, handles, links
from phr.sharing import provision as policy
from phr.sharing.grants import StepUp
from phr.sharing.handles import Token
from phr.sharing.links import Wish
from phr.sharing.provision import Provision
from phr.store.models import RecipientKind
from phr.store.vault import Vault
from tests.cast import PUBLIC, Browser, Cast
from tests.fixtures_sharing import ADA, a_record, keep_all

ALL = "patient/*.rs"
BASE = f"{PUBLIC}/fhir"


@pytest.fixture
def vault(cast: Cast) -> Vault:
    """Ada's vault with the first hospital's record; tests that want another say so themselves."""
    found = cast.vault("Ada")
    keep_all(found, "North Quay", a_record())
    return found


@dataclass
class App:
    """One client with one token."""

    vault: Vault
    token: Token
    browser: Browser

    def get(self, path: str, **more: Any) -> httpx.Response:
        """Ask below the FHIR base, or a whole address as a link of a Bundle gives it."""
        headers = {"accept": "application/fhir+json", **more.pop("headers", {})}
        if self.token.text:
            headers["authorization"] = f"Bearer {self.token.text}"
        address = path.removeprefix(BASE).lstrip("/")
        return self.browser.get(f"/fhir/{address}", headers=headers, **more)

    def post(self, path: str, data: dict[str, Any], **more: Any) -> httpx.Response:
        """Post a form below the FHIR base."""
        headers = {"authorization": f"Bearer {self.token.text}", "accept": "application/fhir+json"}
        return self.browser.post(f"/fhir/{path}", data=data, headers=headers | more)

    def found(self, query: str) -> list[dict[str, Any]]:
        """Return the resources of every page of a search, matches only."""
        found, address = [], query
        while address:
            answer = self.get(address)
            assert answer.status_code == 200, answer.text
            bundle = answer.json()
            found += [e["resource"] for e in bundle.get("entry", ()) if _mode(e) == "match"]
            links_ = {link["relation"]: link["url"] for link in bundle["link"]}
            address = links_.get("next", "")
        return found

    def names(self, query: str) -> list[str]:
        """Return "Type/id" of what a search finds, in its order."""
        return [f"{each['resourceType']}/{each['id']}" for each in self.found(query)]


def _mode(entry: dict[str, Any]) -> str:
    return str(entry["search"]["mode"])


def everything() -> Provision:
    """Return the provision of an app: all kinds, no sensitive label."""
    return policy.preset("app", now=clock.now())


def token_for(
    vault: Vault,
    provision: Provision | None = None,
    scopes: str = ALL,
    *,
    grant_id: str | None = None,
    lasts: timedelta = handles.TOKEN_LASTS,
) -> Token:
    """Approve a grant for an app (or use one) and issue a token under it."""
    now = clock.now()
    wish = Wish(
        "Growth chart", "", "app", provision or everything(), now + timedelta(hours=24), None
    )
    with vault.write() as session:
        if grant_id is None:
            grant = links.draft(
                session, wish, RecipientKind.APP, ADA, grant_id=ids.new_id(), now=now
            )
            step_up = StepUp("ada", "password", now)
            grants.approve(
                session, vault, grant, step_up=step_up, shown="shown", actor=ADA, now=now
            )
            grant_id = grant.id
        route = handles.bearer_route(vault.house, vault.id, grant_id)
        return handles.make_token(session, grant_id, route, scopes, now=now, lasts=lasts)


def app_for(cast: Cast, vault: Vault, provision: Provision | None = None, scopes: str = ALL) -> App:
    """Return a client of the running appliance with a token of its own."""
    return App(vault, token_for(vault, provision, scopes), cast.stranger())


def issue_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the one issue of an OperationOutcome."""
    outcome = json.loads(answer.content)
    assert outcome["resourceType"] == "OperationOutcome", outcome
    [issue] = outcome["issue"]
    return dict(issue)
