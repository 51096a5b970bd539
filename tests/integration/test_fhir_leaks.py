"""Hidden is absent: no way around the filter of the FHIR API tells that something is there.

Each way of the list in the design (sharing, "what can leak around a filter") is asked before the
hidden records come and after; status, headers and bytes must be the same.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from phr import keep
from phr.fhir import references
from phr.fhir.labels import Label
from phr.fhir.record import Selection
from phr.sharing.provision import Action, Provision, Rule
from phr.store import records
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import App, app_for, everything
from tests.fixtures_sharing import (
    a_record,
    condition,
    keep_all,
    keep_more,
    lab,
    label,
    recent,
)

CANARY = "Zanzibarcanary"
CHANGING = re.compile(
    rb'"timestamp":"[^"]+"|urn:uuid:[0-9a-f-]{36}|"date":"[^"]+"|Composition/[0-9a-f-]{36}'
    rb'|"id":"[0-9a-f]{8}-[0-9a-f-]{27}"'
)
SINCE = datetime(2015, 1, 1, tzinfo=UTC)
PROVISIONS: dict[str, Callable[[], Provision]] = {
    "everything without labels": everything,
    "a period": lambda: Provision(
        tuple(
            Rule(rule.types, rule.categories, rule.without, since=SINCE)
            for rule in everything().rules
        ),
        actions=frozenset(Action),
    ),
}


def visible() -> list[dict[str, Any]]:
    """Return what is shared; some of it refers to what will be hidden."""
    return [
        *a_record(),
        condition(
            "v1",
            "Eczema",
            onsetDateTime=recent(20),
            encounter={"reference": "Encounter/h1"},
            asserter={"reference": "Practitioner/gp"},
            evidence=[{"detail": [{"reference": "Observation/h2"}]}],
        ),
        *(lab(f"n{number}", recent(number + 2)) for number in range(12)),
    ]


def hidden() -> list[dict[str, Any]]:
    """Return what must not show: by label, by a chain of references, and what refers to it."""
    secret = {"meta": label("HIV"), "subject": {"reference": "Patient/1"}}
    coded = {"coding": [{"system": "urn:canary", "code": CANARY, "display": CANARY}]}
    return [
        {"resourceType": "Encounter", "id": "h1", "status": "finished", "class": {"code": CANARY},
         "period": {"start": recent(20)}, "type": [coded],
         "location": [{"location": {"reference": "Location/hl"}}], **secret},
        lab("h2", recent(1), code=coded, valueString=CANARY, **secret),
        lab("h3", recent(9), **secret, note=[{"text": CANARY}]),
        condition("h4", CANARY, onsetDateTime=recent(4), **secret,
                  asserter={"reference": "PractitionerRole/hr"}),
        {"resourceType": "MedicationRequest", "id": "h5", "status": "active", "intent": "order",
         "medicationReference": {"reference": "Medication/hm"}, "authoredOn": recent(2), **secret},
        {"resourceType": "DocumentReference", "id": "h6", "status": "current", "type": coded,
         "date": recent(2), "content": [{"attachment": {"data": "WmFuemliYXJjYW5hcnk="}}],
         **secret},
        {"resourceType": "Medication", "id": "hm", "code": {"text": CANARY}},
        {"resourceType": "Location", "id": "hl", "name": CANARY},
        {"resourceType": "Organization", "id": "ho", "name": CANARY},
        {"resourceType": "Practitioner", "id": "hp", "name": [{"family": CANARY}]},
        {"resourceType": "PractitionerRole", "id": "hr", "specialty": [coded],
         "practitioner": {"reference": "Practitioner/hp"},
         "organization": {"reference": "Organization/ho"}},
        {"resourceType": "Provenance", "id": "hv", "recorded": recent(1),
         "target": [{"reference": "Condition/h4"}], "agent": [{"who": {"display": CANARY}}]},
        {"resourceType": "AuditEvent", "id": "ha", "outcomeDesc": CANARY},
    ]  # fmt: skip


def ways(vault: Vault, connection_id: int, names: list[str]) -> list[str]:
    """Return every way around the filter; `names` are ids of what is, or will be, hidden."""
    types = ("Condition", "Observation", "Encounter", "MedicationRequest", "DocumentReference",
             "Medication", "Location", "Organization", "Practitioner", "PractitionerRole",
             "Goal", "Provenance", "AuditEvent", "Binary")  # fmt: skip
    me = f"Patient/{references.patient_id(vault.id_key)}"
    local = {
        f"{type_}/{name}": records.local_id(vault, connection_id, type_, name)
        for type_, name in (each.split("/") for each in names)
    }
    asked = [f"{type_}?_count=5{more}" for type_ in types for more in (
        "", "&_total=accurate", "&_summary=count", "&_lastUpdated=ge2000", "&_elements=id",
        "&_revinclude=Provenance:target")]  # fmt: skip
    asked += [
        "Observation?_sort=date&_count=3",
        "Observation?_sort=-date&_count=3",
        "Observation?date=ge2020&_count=2&_total=accurate",
        f"Observation?code={CANARY}&_total=accurate",
        f"Observation?code=urn:canary|{CANARY}",
        f"Observation?code:not={CANARY}&_summary=count",
        "Observation?code:missing=true&_summary=count",
        "Observation?category=laboratory&_summary=count",
        f"Encounter?class={CANARY}",
        f"Condition?encounter=Encounter/{local['Encounter/h1']}",
        f"Encounter?location=Location/{local['Location/hl']}&_total=accurate",
        "Condition?_include=Condition:encounter&_include=Condition:patient",
        "MedicationRequest?_include=MedicationRequest:medication",
        f"PractitionerRole?practitioner.name={CANARY}",
        f"PractitionerRole?practitioner={local['Practitioner/hp']}",
        f"Practitioner?name={CANARY[:3]}",
        f"Location?name={CANARY}",
        f"Organization?name:contains={CANARY[2:]}",
        f"Condition?_has:Encounter:x:class={CANARY}",
        f"{me}/$everything",
        f"{me}/$summary",
        "metadata",
    ]
    for name, local_id in local.items():
        type_ = name.split("/")[0]
        asked += [
            f"{type_}/{local_id}",
            f"{type_}/{local_id}/_history",
            f"{type_}/{local_id}/_history/1",
            f"{type_}/{local_id}/$everything",
            f"Provenance/origin-{local_id}",
            f"{type_}?_id={local_id}&_total=accurate",
            f"{type_}?_id={local_id}&_include={type_}:encounter",
        ]
    return asked


def told(app: App, path: str) -> tuple[Any, ...]:
    """Return everything an answer says, without what changes with the clock; pages followed."""
    found: list[Any] = []
    for condition_ in ({}, {"if-none-match": "*"}):
        answer = app.get(path, headers=condition_)
        headers = {name: value for name, value in answer.headers.items() if name != "date"}
        body = CHANGING.sub(b"", answer.content)
        found.append((answer.status_code, headers, body))
    if path.partition("?")[1] and found[0][0] == 200:
        bundle_links = json.loads(found[0][2]).get("link", ())
        following = [each["url"] for each in bundle_links if each["relation"] == "next"]
        found += [told(app, url) for url in following]
    return tuple(found)


@pytest.mark.parametrize("name", PROVISIONS)
def test_nothing_changes_when_hidden_records_come(cast: Cast, name: str) -> None:
    vault = cast.vault("Ada")
    connection_id = keep_all(vault, "North Quay", visible())
    app = app_for(cast, vault, PROVISIONS[name]())
    secret = hidden()
    if name == "a period":  # what the period hides, and what has no date where a period is set
        secret += [lab("h7", "1999-01-01", valueString=CANARY), condition("h8", CANARY)]
    names = [f"{each['resourceType']}/{each['id']}" for each in secret]
    asked = ways(vault, connection_id, names)
    before = {path: told(app, path) for path in asked}
    keep_more(vault, connection_id, secret)
    after = {path: told(app, path) for path in asked}
    assert [path for path in asked if before[path] != after[path]] == []
    assert [path for path in asked if CANARY.encode() in _all_bytes(after[path], path)] == []
    with vault.read() as session:  # the canary is there
        found = records.select(session, vault, Selection())
    assert sum(CANARY.encode() in each.body for each in found) > 8


def _all_bytes(answers: tuple[Any, ...], path: str) -> bytes:
    """Return what an answer says beyond what was asked (links repeat the question)."""
    text = repr(answers).encode()
    return b"" if CANARY in path and b'"entry"' not in text else text


def test_an_owner_who_looks_the_same_way_would_find_the_canary(cast: Cast) -> None:
    vault = cast.vault("Ada")
    connection_id = keep_all(vault, "North Quay", visible())
    keep_more(vault, connection_id, hidden())
    whole = Provision(everything().rules, Label.HIV, frozenset(Action))
    app = app_for(cast, vault, whole)
    for query in (f"Observation?code={CANARY}", f"Encounter?class={CANARY}",
                  f"Practitioner?name={CANARY}", f"PractitionerRole?practitioner.name={CANARY}",
                  f"Location?name={CANARY}"):  # fmt: skip
        assert CANARY in app.get(query).text, query


def test_a_version_of_before_or_after_a_label_tells_nothing(cast: Cast) -> None:
    vault = cast.vault("Ada")
    connection_id = keep_all(
        vault, "North Quay", [*visible(), condition("x1", "Was open", onsetDateTime=recent(3)),
                              condition("x2", CANARY, onsetDateTime=recent(3), meta=label("PSY"))]
    )  # fmt: skip
    keep_more(vault, connection_id, [
        condition("x1", CANARY, onsetDateTime=recent(3), meta=label("PSY")),
        condition("x2", "Now open", onsetDateTime=recent(3)),
    ])  # fmt: skip
    app = app_for(cast, vault)
    closed, opened = (records.local_id(vault, connection_id, "Condition", n) for n in ("x1", "x2"))
    for path in ("", "/_history", "/_history/1", "/_history/2"):
        absent = app.get(f"Condition/{'0' * 16}{path}")
        answer = app.get(f"Condition/{closed}{path}")
        assert (answer.status_code, answer.content) == (absent.status_code, absent.content), path
    assert app.get(f"Condition/{opened}").status_code == 200
    history = app.get(f"Condition/{opened}/_history")
    assert history.json()["total"] == 1
    assert app.get(f"Condition/{opened}/_history/1").status_code == 404
    assert app.get(f"Condition/{opened}/_history/2").status_code == 200
    assert CANARY not in history.text


def test_a_private_mark_hides_at_once_with_every_version(cast: Cast) -> None:
    vault = cast.vault("Ada")
    connection_id = keep_all(vault, "North Quay", [*visible(), condition("p1", "Gout")])
    app = app_for(cast, vault)
    name = f"Condition/{records.local_id(vault, connection_id, 'Condition', 'p1')}"
    etag = app.get(name).headers["etag"]
    keep.mark_private(vault, name.split("/")[1], on=True)
    for path in (name, f"{name}/_history", f"{name}/_history/1"):
        assert app.get(path, headers={"if-none-match": etag}).status_code == 404, path
    assert name not in app.names("Condition")
    assert "Gout" not in app.get("Patient/$everything").text
    assert "Gout" not in app.get("Patient/$summary").text
