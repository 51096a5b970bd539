"""What an app cannot do: fill its owner's log, trip the server with a date, outlive its block."""

import json
from typing import Any

import pytest
import time_machine

from phr import clock, ids
from phr.errors import InvalidInput
from phr.fhir import references
from phr.fhir.record import Selection
from phr.sharing import activity, bursts, clients, search
from phr.sharing.parameters import PARAMETERS
from phr.store import audit, records
from phr.store.models import Authorization
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import BASE, App, app_for, issue_of
from tests.fixtures_sharing import a_record, condition, keep_all, lab

PREFIXES = ("", "eq", "ne", "gt", "ge", "lt", "le", "sa", "eb", "ap")
FAR = (
    "0000",
    "0001",
    "0001-01",
    "0001-01-01",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00-23:59",
    "0001-01-01T00:00:00+24:00",
    "9999",
    "9999-12",
    "9999-12-31",
    "9999-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59.999-14:00",
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59+99:99",
    "9999-12-31T24:00:00Z",
    "10000",
)


@pytest.fixture
def vault(cast: Cast) -> Vault:
    found = cast.vault("Ada")
    keep_all(found, "North Quay", [
        *a_record(),
        lab("never", "9999-12-31"),
        lab("first", "0001-01-01"),
        condition("open", "Eczema", onsetDateTime="9999-12-31"),
    ])  # fmt: skip
    return found


@pytest.fixture
def app(cast: Cast, vault: Vault) -> App:
    return app_for(cast, vault)


def lines(app: App) -> list[tuple[str, dict[str, Any], str]]:
    """Return what the log says of the app: event, detail, and the words its owner reads."""
    with app.vault.read() as session:
        found = audit.entries(session, grant_id=app.token.grant_id, limit=1000)[::-1]
        return [
            (one.event, dict(one.detail), activity.line(one, {}, None).what)
            for one in found
            if one.event.startswith("api.")
        ]


# ------------------------------------------------------------------ the owner's log


def test_made_up_reads_are_one_line_without_a_word_of_the_app(app: App) -> None:
    for number in range(50):
        assert app.get(f"HIV-Diagnosis-{number}/nothing-{number}").status_code == 404
        assert app.get(f"HIV-Diagnosis-{number}").status_code == 404
        assert app.get(f"HIV-Diagnosis-{number}/x/_history").status_code == 404
        assert app.get(f"HIV-Diagnosis-{number}/x/_history/{number}").status_code == 404

    assert lines(app) == [
        ("api.read", {}, "asked for one record."),
        ("api.searched", {}, "asked for records."),
    ]


def test_type_and_id_are_told_only_where_they_are_ours(app: App) -> None:
    me = references.patient_id(app.vault.id_key)
    known = app.names("Condition")[0]
    for path in (known, f"Patient/{me}", f"Provenance/origin-{known.rpartition('/')[2]}",
                 "Condition/you-are-ill", "Condition/origin-you-are-ill",
                 "Condition/ABCDEF0123456789", f"Nothing/{me}"):  # fmt: skip
        app.get(path)

    said = [(detail, words) for event, detail, words in lines(app) if event == "api.read"]

    assert said == [
        ({"type": "Condition", "id": known.rpartition("/")[2]}, "asked for one record: problems."),
        ({"type": "Patient", "id": me}, "asked for one record: personal details."),
        (
            {"type": "Provenance", "id": f"origin-{known.rpartition('/')[2]}"},
            "asked for one record: notes of origin.",
        ),
        ({"type": "Condition"}, "asked for one record: problems."),
        ({"id": me}, "asked for one record."),
    ]


def test_more_than_sixty_lines_in_a_minute_become_one(app: App) -> None:
    for number in range(bursts.LINES_AT_MOST + 30):
        app.get(f"Condition/{number:016x}")
    app.get("Observation")
    told = [event for event, _, _ in lines(app)]
    assert told == ["api.read"] * bursts.LINES_AT_MOST + ["api.many"]
    assert lines(app)[-1][2] == "asked for many records."

    with time_machine.travel(clock.now() + bursts.BURST, tick=True):
        app.get("Observation")

    assert lines(app)[-1][:2] == ("api.searched", {"type": "Observation"})


def test_nobody_hides_behind_many_small_requests_that_everything_was_fetched(app: App) -> None:
    for number in range(bursts.LINES_AT_MOST + 1):
        app.get(f"Condition/{number:016x}")
    me = references.patient_id(app.vault.id_key)

    assert app.get(f"Patient/{me}/$everything").status_code == 200
    assert app.get(f"Patient/{me}/$summary").status_code == 200

    assert [event for event, _, _ in lines(app)][-3:] == [
        "api.many",
        "api.everything",
        "api.summary",
    ]


def test_lines_of_one_app_leave_those_of_another_alone(cast: Cast, vault: Vault, app: App) -> None:
    for number in range(bursts.LINES_AT_MOST + 1):
        app.get(f"Condition/{number:016x}")
    other = app_for(cast, vault)

    other.get("Condition")

    assert [event for event, _, _ in lines(other)] == ["api.searched"]


# ------------------------------------------------------------------ dates at both ends of time


def test_dates_at_the_ends_of_time_never_trip_a_search(app: App) -> None:
    for value in FAR:
        for prefix in PREFIXES:
            answer = app.get("Observation", params={"date": f"{prefix}{value}"})
            assert answer.status_code in (200, 400), (prefix, value, answer.text)
        answer = app.get("Condition", params={"onset-date": f"ge{value},le{value}"})
        assert answer.status_code in (200, 400), (value, answer.text)


def test_every_date_of_every_type_takes_the_ends_of_time() -> None:
    asked = {
        (type_, name, f"{prefix}{value}")
        for type_, known in PARAMETERS.items()
        for name, parameter in known.items()
        for prefix in PREFIXES
        for value in FAR
        if parameter.kind == "date"
    }
    taken = 0
    for type_, name, value in asked:
        try:
            search.read(type_, [(name, value)], base=BASE, now=clock.now())
        except InvalidInput:
            continue
        taken += 1
    assert 0 < taken < len(asked)


@pytest.mark.parametrize(
    ("date", "found"),
    [
        ("eq9999", ["never"]),
        ("9999-12-31", ["never"]),
        ("ge9999-12-31", ["never"]),
        ("sa9999-12-31T23:59:59.999Z", []),
        ("gt9999-12-31T23:59:59-14:00", []),
        ("eq0001", ["first"]),
        ("le0001-01-01", ["first"]),
        ("lt0001-01-01T00:00:00+14:00", []),
        ("eb0001", []),
    ],
)
def test_searches_at_the_ends_of_time_find_what_is_there(
    app: App, date: str, found: list[str]
) -> None:
    with app.vault.read() as session:
        known = {
            one.local_id: one.remote_id for one in records.select(session, app.vault, Selection())
        }

    assert [known[each["id"]] for each in app.found(f"Observation?date={date}")] == found


def test_last_updated_and_since_take_the_ends_of_time(app: App) -> None:
    me = references.patient_id(app.vault.id_key)
    for value in FAR:
        for prefix in PREFIXES:
            answer = app.get("Patient", params={"_lastUpdated": f"{prefix}{value}"})
            assert answer.status_code in (200, 400), (prefix, value, answer.text)
        answer = app.get(f"Patient/{me}/$everything", params={"_since": value})
        assert answer.status_code in (200, 400), (value, answer.text)
    later = app.get(f"Patient/{me}/$everything", params={"_since": "9999-12-31T23:59:59-14:00"})
    assert [each["resource"]["resourceType"] for each in later.json()["entry"]] == ["Patient"]


# ------------------------------------------------------------------ apps that may ask no more


def registered(cast: Cast, app: App) -> str:
    """Make the token of an app one of a registered client, as the token endpoint does."""
    says = clients.read({"client_name": "Growth", "redirect_uris": ["https://app.example.org/"]})
    client_id = clients.register(cast.appliance.house, says, by="ada").id
    with app.vault.write() as session:
        session.add(
            Authorization(
                grant_id=app.token.grant_id,
                client_id=client_id,
                account_id="ada",
                scopes=app.token.scopes,
                redirect_uri="https://app.example.org/",
                code_challenge="",
                chain_key=ids.new_secret().encode(),
            )
        )
    return client_id


@pytest.mark.parametrize("way", [clients.block, clients.forget])
def test_bearer_of_an_app_that_may_ask_no_more_is_refused_at_once(
    cast: Cast, app: App, way: Any
) -> None:
    client_id = registered(cast, app)
    assert app.get("Condition").status_code == 200
    before = lines(app)

    way(cast.appliance.house, client_id, by="ada")  # the vault has not heard of it

    for path in (
        "Condition",
        app.token.grant_id,
        f"Patient/{references.patient_id(app.vault.id_key)}",
    ):
        answer = app.get(path)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert issue_of(answer)["code"] == "login"
        assert "Growth" not in json.dumps(answer.json())
    assert lines(app) == before


def test_other_apps_read_on_when_one_is_blocked(cast: Cast, vault: Vault, app: App) -> None:
    other = app_for(cast, vault)
    registered(cast, other)

    clients.block(cast.appliance.house, registered(cast, app), by="ada")

    assert app.get("Condition").status_code == 401
    assert other.get("Condition").status_code == 200
