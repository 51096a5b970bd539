"""A vault with a small record of two hospitals, and grants over it, for the tests of sharing."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phr import clock, ids, keep
from phr.fhir.record import Item
from phr.sharing import links
from phr.sharing import provision as policy
from phr.sharing.grants import StepUp
from phr.sharing.handles import Link
from phr.sharing.links import Wish
from phr.sharing.provision import Provision
from phr.store.models import Connection, ConnectionState, Pull
from phr.store.vault import Vault
from tests.fixtures_store import Home

ADA = {"kind": "account", "id": "ada", "name": "Ada"}
PUBLIC_URL = "http://127.0.0.1:8081"
LOINC = "http://loinc.org"
NUMBER = re.compile(rb'"value": "([0-9.]+)"')


def lab(name: str, when: str, value: str = "5.40", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "category": [{"coding": [{"code": "laboratory"}]}],
        "code": {"coding": [{"system": LOINC, "code": "2951-2", "display": "Sodium"}]},
        "subject": {"reference": "Patient/1"},
        "effectiveDateTime": when,
        "valueQuantity": {"value": value, "unit": "mmol/L"},
        **more,
    }


def condition(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": name,
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "category": [{"coding": [{"code": "problem-list-item"}]}],
        "code": {"text": text},
        "subject": {"reference": "Patient/1"},
        **more,
    }


def label(code: str) -> dict[str, Any]:
    system = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
    return {"security": [{"system": system, "code": code}]}


def recent(days: int) -> str:
    return (clock.now() - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_record() -> list[dict[str, Any]]:
    """What the first hospital sends."""
    return [
        {
            "resourceType": "Patient",
            "id": "1",
            "name": [{"family": "Sample", "given": ["Juniper"]}],
            "birthDate": "1984-03-14",
            "gender": "female",
            "address": [{"city": "Secretville"}],
        },
        {
            "resourceType": "AllergyIntolerance",
            "id": "a1",
            "clinicalStatus": {"coding": [{"code": "active"}]},
            "criticality": "high",
            "code": {"text": "Penicillin"},
            "patient": {"reference": "Patient/1"},
            "recorder": {"reference": "Practitioner/gp"},
        },
        {
            "resourceType": "MedicationRequest",
            "id": "m1",
            "status": "active",
            "intent": "order",
            "medicationReference": {"reference": "Medication/levo"},
            "subject": {"reference": "Patient/1"},
            "authoredOn": recent(400),
        },
        {"resourceType": "Medication", "id": "levo", "code": {"text": "Levothyroxine 50 ug"}},
        {"resourceType": "Practitioner", "id": "gp", "name": [{"family": "Welcome"}]},
        {
            "resourceType": "Practitioner",
            "id": "psych",
            "name": [{"family": "Hiddenpractitioner"}],
        },
        condition("c1", "Asthma", onsetDateTime="2001"),
        condition(
            "c2",
            "Hiddendepression",
            onsetDateTime=recent(30),
            meta=label("PSY"),
            asserter={"reference": "Practitioner/psych"},
        ),
        lab("o1", recent(10), interpretation=[{"coding": [{"code": "H"}]}]),
        lab("o2", recent(5000), value="3.10"),
        {
            **lab("v1", recent(3), value="71.5"),
            "category": [{"coding": [{"code": "vital-signs"}]}],
            "code": {"text": "Body weight"},
        },
    ]


def another_record() -> list[dict[str, Any]]:
    """What a second hospital sends: the same ids, other things."""
    return [
        {
            "resourceType": "Patient",
            "id": "1",
            "name": [{"family": "Sample", "given": ["Juniper"]}],
            "birthDate": "1984-03-14",
        },
        lab("o1", recent(7), value="140"),
        condition("c1", "Underactive thyroid"),
    ]


def raw(resource: dict[str, Any]) -> bytes:
    """Return a resource as a hospital sends it: numbers with the digits they were given."""
    return NUMBER.sub(rb'"value": \1', json.dumps(resource).encode())


def keep_all(vault: Vault, name: str, resources: list[dict[str, Any]]) -> int:
    """Keep resources as one connection of this name and return its id."""
    now = clock.now()
    with vault.write() as session:
        connection = Connection(
            kind="smart",
            name=name,
            base_url=f"https://{ids.new_id()}.example/fhir",
            state=ConnectionState.ACTIVE,
            last_pull_at=now,
            created_at=now,
        )
        session.add(connection)
        session.flush()
        connection_id = connection.id
    keep_more(vault, connection_id, resources)
    return connection_id


def keep_more(vault: Vault, connection_id: int, resources: list[dict[str, Any]]) -> None:
    """Keep what the same hospital sends at another time."""
    keep_items(vault, connection_id, [Item(raw(each)) for each in resources])


def keep_items(vault: Vault, connection_id: int, items: Sequence[Item]) -> None:
    """Keep items as they came, with the addresses they had in their Bundle."""
    now = clock.now()
    with vault.write() as session:
        pull = Pull(connection_id=connection_id, started_at=now)
        session.add(pull)
        session.flush()
        pull_id = pull.id
    keeper = keep.Keeper(vault, connection_id, pull_id, expected_patient=None, now=now)
    keeper.page("all", items)
    keeper.finish()


@dataclass
class Share:
    """A vault with a record, and what a patient does with it."""

    home: Home
    vault: Vault
    links: list[Link] = field(default_factory=list)

    def wish(self, provision: Provision | None = None, **more: Any) -> Wish:
        now = clock.now()
        given: Mapping[str, Any] = {
            "recipient": "Dr. Pell",
            "reason": "First visit",
            "role": "primary",
            "provision": provision or policy.preset("primary", now=now),
            "ends_at": now + timedelta(hours=24),
            "uses": None,
        }
        return Wish(**{**given, **more})

    def link(self, provision: Provision | None = None, **more: Any) -> Link:
        now = clock.now()
        link = links.make(
            self.vault,
            self.wish(provision, **more),
            grant_id=ids.new_id(),
            step_up=StepUp("ada", "password", now),
            shown="what was shown",
            actor=ADA,
            public_url=PUBLIC_URL,
            now=now,
        )
        self.links.append(link)
        return link

    def claimed(self, link: Link) -> str:
        """Return the cookie of a browser that typed the right code."""
        handle_id, secret = link.url.rpartition("/")[2].split(".")
        claim = links.claim(
            self.vault, handle_id, secret, link.code, "Firefox on Linux", now=clock.now()
        )
        assert claim.cookie
        return claim.cookie


def share_in(folder: Path) -> tuple[Home, Share]:
    home = Home(folder)
    ada = home.account()
    vault = home.vaults.get(home.patient(ada, "Juniper", by_itself=True))
    keep_all(vault, "North Quay", a_record())
    keep_all(vault, "Saltmarsh", another_record())
    return home, Share(home, vault)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    home, made = share_in(tmp_path)
    with home:
        yield made
