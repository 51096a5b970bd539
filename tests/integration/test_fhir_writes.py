"""Writes by the FHIR API: into the inbox, truthful about it, and never over anything."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from phr import clock
from phr.fhir import references
from phr.fhir.record import Selection
from phr.sharing import gate, inbox
from phr.sharing.provision import Action, Provision
from phr.store import records
from phr.store.models import Arrival, ArrivalState
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import App, everything, issue_of, token_for, vault
from tests.fixtures_sharing import ADA, lab

__all__ = ["vault"]

ALL = "patient/*.cruds"
FHIR = "application/fhir+json"
DEEP = b"[" * 500 + b"]" * 500 + b"}"


class Writer(App):
    """An app that may send."""

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        given = {
            "authorization": f"Bearer {self.token.text}",
            "accept": FHIR,
            "content-type": FHIR,
            "origin": "",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        return self.browser.request(method, f"/fhir/{path}", content=content, headers=given)

    def creates(self, resource: Mapping[str, Any], **headers: str) -> httpx.Response:
        return self.ask("POST", str(resource["resourceType"]), resource, **headers)


def writer(cast: Cast, vault: Vault, scopes: str = ALL, *, may_send: bool = True) -> Writer:
    rules = everything().rules
    actions = {Action.VIEW, Action.DOWNLOAD, *([Action.CONTRIBUTE] if may_send else [])}
    token = token_for(vault, Provision(rules, actions=frozenset(actions)), scopes)
    return Writer(vault, token, cast.stranger())


@pytest.fixture
def app(cast: Cast, vault: Vault) -> Writer:
    return writer(cast, vault)


def weight(vault: Vault, value: str = "71.5", **more: Any) -> dict[str, Any]:
    whose = {"reference": f"Patient/{references.patient_id(vault.id_key)}"}
    return lab("ignored", "2026-05-01", value, **{"subject": whose, **more})


def place_of(answer: httpx.Response) -> str:
    return answer.headers["location"].partition("/fhir/")[2]


def waiting(vault: Vault) -> list[Arrival]:
    with vault.read() as session:
        return inbox.listed(session, ArrivalState.WAITING)


def accept(vault: Vault) -> None:
    for each in waiting(vault):
        inbox.accept(vault, each.id, ADA, now=clock.now())


def remote_names(vault: Vault) -> list[tuple[str, int]]:
    with vault.read() as session:
        return [(one.remote_id, one.version) for one in records.select(session, vault, Selection())]


def test_a_created_resource_waits_and_its_address_opens_when_it_is_accepted(
    app: Writer, vault: Vault
) -> None:
    before = remote_names(vault)
    answer = app.creates(weight(vault))
    assert answer.status_code == 202
    assert answer.json()["issue"][0]["diagnostics"].startswith("It was received.")
    assert remote_names(vault) == before
    where = place_of(answer)
    assert app.get(where).status_code == 404
    assert len(app.found("Observation?code=2951-2")) == 2
    accept(vault)
    read = app.get(where).json()
    assert read["id"] == where.partition("/")[2]
    assert read["valueQuantity"]["value"] == "71.5"
    assert len(app.found("Observation?code=2951-2")) == 3


def test_the_id_a_client_chose_is_ignored(app: Writer, vault: Vault) -> None:
    answer = app.creates(weight(vault) | {"id": "o1"})
    accept(vault)
    assert "o1" not in answer.headers["location"]
    assert remote_names(vault).count(("o1", 1)) == 1  # the hospital's, as it was


def test_what_the_patient_lets_in_beforehand_is_created_at_once(app: Writer, vault: Vault) -> None:
    app.creates(weight(vault))
    inbox.always(vault, waiting(vault)[0].id, ADA, now=clock.now())
    answer = app.creates(weight(vault, "72.5"))
    assert answer.status_code == 201
    assert app.get(place_of(answer)).status_code == 200


def test_the_same_request_again_is_the_same_resource(app: Writer, vault: Vault) -> None:
    first, again = app.creates(weight(vault)), app.creates(weight(vault))
    assert first.headers["location"] == again.headers["location"]
    assert len(waiting(vault)) == 1


def test_an_update_of_its_own_waits_and_becomes_the_next_version(app: Writer, vault: Vault) -> None:
    created = app.creates(weight(vault))
    accept(vault)
    where = place_of(created)
    tag = app.get(where).headers["etag"]
    body = weight(vault, "99") | {"id": where.partition("/")[2]}
    assert app.ask("PUT", where, body, if_match='W/"77"').status_code == 412
    changed = app.ask("PUT", where, body, if_match=tag)
    assert changed.status_code == 202
    assert app.get(where).json()["valueQuantity"]["value"] == "71.5"
    accept(vault)
    assert app.get(where).json()["valueQuantity"]["value"] == "99"
    assert len(app.get(f"{where}/_history").json()["entry"]) == 2


def test_who_may_not_read_knows_no_tag_of_the_record(cast: Cast, vault: Vault) -> None:
    blind = writer(cast, vault, "patient/*.cud")
    created = blind.creates(weight(vault))
    accept(vault)
    where = place_of(created)
    assert blind.ask("PUT", where, weight(vault, "1"), if_match='W/"1"').status_code == 412
    tag = created.headers["etag"]
    assert blind.ask("PUT", where, weight(vault, "1"), if_match=tag).status_code == 202


def test_an_update_of_what_waits_takes_its_place(app: Writer, vault: Vault) -> None:
    created = app.creates(weight(vault))
    where = place_of(created)
    changed = app.ask("PUT", where, weight(vault, "80"), if_match=created.headers["etag"])
    assert changed.status_code == 202
    assert place_of(changed) == where
    assert len(waiting(vault)) == 1
    stale = app.ask("PUT", where, weight(vault, "81"), if_match=created.headers["etag"])
    assert stale.status_code == 412


def test_a_delete_takes_back_what_waits_and_asks_about_what_was_accepted(
    app: Writer, vault: Vault
) -> None:
    where = place_of(app.creates(weight(vault)))
    assert app.ask("DELETE", where).status_code == 200
    assert waiting(vault) == []
    assert app.ask("DELETE", where).status_code == 404
    where = place_of(app.creates(weight(vault, "80")))
    accept(vault)
    assert app.ask("DELETE", where, if_match='W/"77"').status_code == 412
    assert app.ask("DELETE", where).status_code == 202
    assert app.get(where).status_code == 200
    accept(vault)
    assert app.get(where).status_code == 404


def test_nothing_else_is_changed_and_what_is_hidden_answers_like_what_is_not(
    cast: Cast, app: Writer, vault: Vault
) -> None:
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("Observation", "Condition")))
    hidden = next(one for one in found if b"Hiddendepression" in one.body)
    seen = next(one for one in found if one.remote_id == "o1")
    before = [(one.local_id, one.version, one.body) for one in found]
    answers = []
    for type_, id_ in ((hidden.type, hidden.local_id), (seen.type, seen.local_id),
                       ("Observation", "0" * 16), ("Condition", "0" * 16)):  # fmt: skip
        body = weight(vault) | {"resourceType": type_, "id": id_}
        put = app.ask("PUT", f"{type_}/{id_}", body, if_match='W/"1"')
        gone = app.ask("DELETE", f"{type_}/{id_}")
        answers.append((put.status_code, put.text, gone.status_code, gone.text))
    assert {each[0] for each in answers} == {405}
    assert {each[2] for each in answers} == {404}
    assert len(set(answers)) == 1
    other = writer(cast, vault)
    where = place_of(other.creates(weight(vault)))
    assert app.ask("PUT", where, weight(vault, "1")).status_code == 405
    assert app.ask("DELETE", where).status_code == 404
    with vault.read() as session:
        again = records.select(session, vault, Selection(types=("Observation", "Condition")))
    assert [(one.local_id, one.version, one.body) for one in again] == before


def test_a_conditional_create_is_refused_whatever_it_asks_for(app: Writer, vault: Vault) -> None:
    for condition in ("code=2951-2", "identifier=nothing"):
        answer = app.creates(weight(vault), if_none_exist=condition)
        assert answer.status_code == 405
    assert waiting(vault) == []


@pytest.mark.parametrize(
    ("scopes", "may_send", "status"),
    [
        ("patient/*.rs", True, 403),
        ("patient/Observation.c", True, 202),
        ("patient/Condition.c", True, 403),
        ("patient/Observation.u", True, 403),
        ("patient/*.write", True, 202),
        ("patient/*.cruds", False, 403),
        ("patient/Observation.c?category=laboratory", True, 202),
        ("patient/Observation.c?category=vital-signs", True, 403),
    ],
    ids=["reading", "its type", "another type", "another letter", "v1", "not granted", "narrowed",
         "narrowed away"],
)  # fmt: skip
def test_the_scopes_and_the_grant_decide(
    cast: Cast, vault: Vault, scopes: str, may_send: bool, status: int
) -> None:
    given = writer(cast, vault, scopes, may_send=may_send)
    answer = given.creates(weight(vault))
    assert answer.status_code == status
    assert len(waiting(vault)) == (status == 202)


@pytest.mark.parametrize(
    ("type_", "body", "status"),
    [
        ("Observation", b"", 400),
        ("Observation", b"{", 400),
        ("Observation", b'{"resourceType":"Condition"}', 400),
        ("Observation", b'{"resourceType":"Observation","a":1,"a":2}', 400),
        ("Observation", b'{"resourceType":"Observation","x":' + DEEP, 400),
        ("Patient", b'{"resourceType":"Patient"}', 405),
        ("Practitioner", b'{"resourceType":"Practitioner"}', 405),
        ("Provenance", b'{"resourceType":"Provenance"}', 405),
        ("Nonsense", b'{"resourceType":"Nonsense"}', 405),
        ("Observation", b'{"resourceType":"Observation","x":"' + b"x" * (11 << 20), 400),
    ],
    ids=["empty", "broken", "another type", "twice", "deep", "patient", "practitioner",
         "provenance", "unknown", "too large"],
)  # fmt: skip
def test_hostile_bodies_are_refused_with_an_outcome(
    app: Writer, vault: Vault, type_: str, body: bytes, status: int
) -> None:
    answer = app.ask("POST", type_, body)
    assert answer.status_code == status
    assert issue_of(answer)["severity"] == "error"
    assert waiting(vault) == []


def test_a_resource_about_another_patient_is_refused(app: Writer, vault: Vault) -> None:
    answer = app.creates(weight(vault, subject={"reference": "Patient/somebody"}))
    assert answer.status_code == 400
    assert "another patient" in answer.text
    assert waiting(vault) == []


def test_xml_is_not_taken(app: Writer, vault: Vault) -> None:
    answer = app.creates(weight(vault), content_type="application/fhir+xml")
    assert answer.status_code == 415


def test_a_token_without_a_grant_sends_nothing(app: Writer, vault: Vault) -> None:
    gate.end(vault, app.token.grant_id, "patient", ADA, now=clock.now())
    for method, path in (("POST", "Observation"), ("PUT", "Observation/1"),
                         ("DELETE", "Observation/1")):  # fmt: skip
        assert app.ask(method, path, weight(vault)).status_code == 401
    assert waiting(vault) == []


def test_the_statement_says_what_becomes_of_a_write(app: Writer) -> None:
    rest = app.get("metadata").json()["rest"][0]
    by_type = {one["type"]: one for one in rest["resource"]}
    said = {one["code"]: one for one in by_type["Observation"]["interaction"]}
    assert {"create", "update", "delete"} <= set(said)
    assert said["create"]["documentation"] == inbox.CAPABILITY
    assert by_type["Observation"]["conditionalCreate"] is False
    assert "create" not in {one["code"] for one in by_type["Patient"]["interaction"]}
