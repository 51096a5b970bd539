"""Bulk exports (FHIR Bulk Data 2.0.0): asked for, waited for, fetched, cancelled, stopped."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import time_machine

from phr import clock
from phr.errors import Ended
from phr.fhir.record import Selection
from phr.sharing import exports, gate, handles
from phr.sharing.parameters import PARAMETERS
from phr.store import audit, records
from phr.store.models import Export
from phr.store.vault import Vault
from tests.cast import PUBLIC, Cast
from tests.fixtures_fhir import App, app_for, issue_of, token_for, vault
from tests.fixtures_sharing import (
    ADA,
    condition,
    keep_all,
    keep_more,
    lab,
    label,
    recent,
)

__all__ = ["vault"]

ASYNC = {"prefer": "respond-async"}
BASE = f"{PUBLIC}/fhir"
SYSTEM = "system/*.rs"


@pytest.fixture
def app(cast: Cast, vault: Vault) -> App:
    return app_for(cast, vault, scopes=SYSTEM)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    looked_through()


def looked_through() -> None:
    """Wait until the one thread that prepares exports has nothing before it."""
    exports._worker.submit(int).result()


def kick_off(app: App, query: str = "", **more: Any) -> str:
    answer = app.get(f"$export{query}", headers=ASYNC | more.pop("headers", {}))
    assert (answer.status_code, answer.content) == (202, b""), answer.text
    address = answer.headers["content-location"]
    assert address.startswith(f"{BASE}/$export/")
    return address


def done(app: App, query: str = "") -> dict[str, Any]:
    """Return the manifest of an export that was waited for."""
    address = kick_off(app, query)
    looked_through()
    answer = app.get(address)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["expires"]
    return dict(answer.json())


def files(app: App, manifest: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for each in manifest["output"]:
        answer = app.get(each["url"], headers={"accept": "application/fhir+ndjson"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/fhir+ndjson"
        assert answer.content.endswith(b"\n")
        found[each["type"]] = [json.loads(line) for line in answer.content.splitlines()]
        assert "count" not in each  # the patient may leave out more before it is fetched
    return found


def test_an_export_holds_exactly_what_searches_find(app: App) -> None:
    manifest = done(app)
    assert manifest["requiresAccessToken"] is True
    assert manifest["request"] == f"{BASE}/$export"
    assert manifest["error"] == []
    got = files(app, manifest)
    for type_ in PARAMETERS:
        searched = {each["id"]: each for each in app.found(type_)}
        assert {each["id"]: each for each in got.get(type_, ())} == searched, type_
    assert got["Patient"]
    assert got["Practitioner"]


def test_received_bytes_leave_on_one_line_with_every_digit(app: App, vault: Vault) -> None:
    manifest = done(app, "?_type=Observation")
    [file] = manifest["output"]
    lines = app.get(file["url"]).content.splitlines()
    assert any(b'"value": 5.40' in line for line in lines)
    with vault.read() as session:
        kept = records.count(session, Selection())
    assert kept > len(lines) == 3


def test_hidden_records_are_absent_from_counts_files_and_types(cast: Cast, vault: Vault) -> None:
    connection = keep_all(vault, "Saltmarsh", [lab("x1", recent(9))])
    app = app_for(cast, vault, scopes=SYSTEM)

    def told() -> tuple[Any, ...]:
        manifest = done(app)
        given = [each["type"] for each in manifest["output"]]
        return given, files(app, manifest)

    before = told()
    secret = {"meta": label("HIV"), "subject": {"reference": "Patient/1"}}
    keep_more(vault, connection, [
        lab("h1", recent(1), valueString="Canary", **secret),
        condition("h2", "Canary", asserter={"reference": "Practitioner/hp"}, meta=label("HIV")),
        {"resourceType": "Practitioner", "id": "hp", "name": [{"family": "Canary"}]},
        {"resourceType": "Goal", "id": "hg", "description": {"text": "Canary"}, **secret},
    ])  # fmt: skip
    after = told()
    assert after == before
    assert "Canary" not in repr(after)


def test_only_the_types_asked_for_and_what_came_since(cast: Cast, app: App, vault: Vault) -> None:
    connection = keep_all(vault, "Saltmarsh", [lab("x1", recent(9))])
    since = clock.now() + timedelta(seconds=5)
    with time_machine.travel(since + timedelta(seconds=5), tick=True):
        keep_more(vault, connection, [lab("x2", recent(8)), condition("x3", "Gout")])
        later = app_for(cast, vault, scopes=SYSTEM)
        text = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        got = files(later, done(later, f"?_type=Observation,Goal&_type=Condition&_since={text}"))
    assert {type_: len(found) for type_, found in got.items()} == {"Observation": 1, "Condition": 1}


def test_what_comes_after_the_question_is_not_in_the_files(cast: Cast, vault: Vault) -> None:
    connection = keep_all(vault, "Saltmarsh", [condition("x1", "First words")])
    app = app_for(cast, vault, scopes=SYSTEM)
    manifest = done(app, "?_type=Condition")
    with time_machine.travel(clock.now() + timedelta(minutes=2), tick=True):
        keep_more(vault, connection, [condition("x1", "Second words"), condition("x2", "New")])
        texts = [each["code"]["text"] for each in files(app, manifest)["Condition"]]
        assert "First words" in texts
        assert not {"Second words", "New"} & set(texts)
        assert "Second words" in [e["code"]["text"] for e in app.found("Condition")]


def test_while_it_is_looked_through_progress_is_told_and_one_more_refused(
    cast: Cast, vault: Vault, app: App
) -> None:
    """Another client's export is held up first, so that ours waits in the line."""
    held = threading.Event()
    exports._worker.submit(held.wait)
    try:
        address = kick_off(app)
        waiting = app.get(address)
        assert waiting.status_code == 202
        assert waiting.headers["x-progress"] == "waiting"
        assert waiting.headers["retry-after"] == "1"
        second = app.get("$export", headers=ASYNC)
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        other = app_for(cast, vault, scopes=SYSTEM)  # another client may
        elsewhere = kick_off(other)
        assert app.get(elsewhere).status_code == 404
        assert app.get(f"{address}/Condition.ndjson").status_code == 404
        deleted = cancelled(other, elsewhere)
        assert deleted.status_code == 202
    finally:
        held.set()
    looked_through()
    assert app.get(address).status_code == 200
    assert other.get(elsewhere).status_code == 404


def cancelled(app: App, address: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {app.token.text}"}
    return app.browser.delete(address.removeprefix(PUBLIC), headers=headers)


def test_a_cancelled_export_is_gone_with_its_files(app: App) -> None:
    address = kick_off(app)
    looked_through()
    [*_, last] = app.get(address).json()["output"]
    assert cancelled(app, address).status_code == 202
    assert app.get(address).status_code == 404
    assert app.get(last["url"]).status_code == 404
    assert cancelled(app, address).status_code == 404


def test_a_revoked_grant_stops_status_files_and_what_is_being_sent(app: App, vault: Vault) -> None:
    manifest = done(app)
    address = manifest["output"][0]["url"]
    pieces = _release(app, vault).guarded([b"first", b"second"])
    assert next(pieces) == b"first"
    gate.end(vault, app.token.grant_id, "patient", ADA, now=clock.now())
    with pytest.raises(Ended):
        next(pieces)
    for path in (address, address.rpartition("/")[0], "$export"):
        answer = app.get(path, headers=ASYNC)
        assert answer.status_code == 401, path
        assert issue_of(answer)["code"] == "login"


def _release(app: App, vault: Vault) -> gate.Released:
    return gate.release_to(
        vault,
        app.token.grant_id,
        handles.bearer_of(app.token.text),
        gate.Interaction("rs", None),
        "api.exported",
        now=clock.now(),
    )


def test_a_token_of_the_same_grant_may_fetch_and_of_another_not(
    cast: Cast, vault: Vault, app: App
) -> None:
    """Tokens of backend services last five minutes; an export may take longer."""
    manifest = done(app)
    fresh = App(vault, token_for(vault, scopes=SYSTEM, grant_id=app.token.grant_id), app.browser)
    assert files(fresh, manifest) == files(app, manifest)
    other = app_for(cast, vault, scopes=SYSTEM)
    nobody = app.browser
    for each in manifest["output"]:
        assert other.get(each["url"]).status_code == 404
        assert nobody.get(each["url"].removeprefix(PUBLIC)).status_code == 401
    narrow = App(
        vault,
        token_for(vault, scopes="system/Condition.rs", grant_id=app.token.grant_id),
        app.browser,
    )
    by_type = {each["type"]: each["url"] for each in manifest["output"]}
    assert narrow.get(by_type["Condition"]).status_code == 200
    assert narrow.get(by_type["Observation"]).status_code == 403


def test_an_export_that_a_restart_interrupted_is_begun_again(app: App, vault: Vault) -> None:
    address = kick_off(app, "?_type=Condition")
    looked_through()
    with vault.write() as session:  # as it stands in the file when the program dies on the way
        session.get_one(Export, address.rpartition("/")[2]).counts = None
    answer = app.get(address)
    assert (answer.status_code, answer.headers["x-progress"]) == (202, "begun again")
    looked_through()
    assert app.get(address).json()["output"][0]["type"] == "Condition"


def test_questions_are_few_and_end(app: App, vault: Vault) -> None:
    given = []
    for _ in range(exports.KEPT_AT_MOST + 2):
        given.append(kick_off(app, "?_type=Goal"))
        looked_through()
    assert [app.get(each).status_code for each in given] == [404] * 2 + [200] * exports.KEPT_AT_MOST
    with time_machine.travel(clock.now() + exports.LASTS + timedelta(minutes=1), tick=True):
        fresh = App(vault, token_for(vault, scopes=SYSTEM), app.browser)
        old = App(vault, token_for(vault, scopes=SYSTEM), app.browser)
        kick_off(fresh, "?_type=Goal")
        looked_through()
        with vault.read() as session:
            assert session.query(Export).count() == 1
        assert old.get(given[-1]).status_code == 404


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 400),
        ("?_type=Nonsense", ASYNC, 400),
        ("?_type=AuditEvent", ASYNC, 400),
        ("?_since=yesterday", ASYNC, 400),
        ("?_typeFilter=Observation%3Fstatus%3Dfinal", ASYNC, 400),
        ("?patient=1", ASYNC, 400),
        ("?_outputFormat=text/csv", ASYNC, 400),
        ("?_outputFormat=application/fhir%2Bndjson", ASYNC, 202),
        ("?_outputFormat=ndjson", ASYNC, 202),
        ("?includeAssociatedData=x", {"prefer": "respond-async, handling=lenient"}, 202),
        ("", ASYNC | {"accept": "text/html"}, 406),
    ],
)
def test_a_question_is_understood_or_refused(
    app: App, query: str, headers: dict[str, str], status: int
) -> None:
    assert app.get(f"$export{query}", headers=headers).status_code == status
    looked_through()
    assert app.get(f"Patient/$export{query}", headers=headers).status_code == status


def test_asking_by_head_begins_nothing(app: App, vault: Vault) -> None:
    headers = ASYNC | {"authorization": f"Bearer {app.token.text}", "accept": "*/*"}
    assert app.browser.head("/fhir/$export", headers=headers).status_code == 405
    with vault.read() as session:
        assert session.query(Export).count() == 0


def test_scopes_bound_what_is_exported(cast: Cast, vault: Vault) -> None:
    app = app_for(cast, vault, scopes="system/Condition.rs system/Patient.rs")
    assert {each["type"] for each in done(app)["output"]} == {"Condition", "Patient"}
    assert app.get("$export?_type=Observation", headers=ASYNC).status_code == 403
    reading = app_for(cast, vault, scopes="system/Condition.r")
    assert reading.get("$export", headers=ASYNC).status_code == 403


def test_each_step_is_told_in_the_log(app: App, vault: Vault) -> None:
    files(app, done(app, "?_type=Condition"))
    with vault.read() as session:
        events = [line.event for line in audit.entries(session)]
    assert events.count("api.exported") == 1
    assert events.count("api.export_file") == 1


def test_the_statement_tells_of_exports(app: App) -> None:
    rest = app.get("metadata").json()["rest"][0]
    assert [each["name"] for each in rest["operation"]] == ["export"]
    by_type = {each["type"]: each for each in rest["resource"]}
    assert {each["name"] for each in by_type["Patient"]["operation"]} >= {"export"}
    assert [each["name"] for each in by_type["DocumentReference"]["operation"]] == ["docref"]
    assert by_type["Binary"]["interaction"] == [{"code": "read"}]
