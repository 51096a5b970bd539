"""The index of searches: made at the first one, right after whatever happened to the record."""

from typing import Any

import pytest
from sqlalchemy.orm import Session

from phr import keep
from phr.fhir import references
from phr.sharing import facets
from phr.store import records
from phr.store.database import rows
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import App, app_for
from tests.fixtures_sharing import condition, keep_all, keep_more, lab, label, recent


@pytest.fixture
def vault(cast: Cast) -> Vault:
    return cast.vault("Ada")


@pytest.fixture
def app(cast: Cast, vault: Vault) -> App:
    return app_for(cast, vault)


def count(vault: Vault) -> int:
    with vault.read() as session:
        return int(rows(session, "SELECT count(*) FROM facet")[0][0])


def ids(vault: Vault, connection: int, *names: str) -> list[str]:
    return [
        f"Observation/{records.local_id(vault, connection, 'Observation', name)}" for name in names
    ]


def test_an_import_makes_no_rows_and_the_first_search_all(vault: Vault, app: App) -> None:
    connection = keep_all(vault, "North Quay", [lab("o1", recent(3)), lab("o2", recent(2))])
    assert count(vault) == 0
    assert app.names("Observation?status=final") == ids(vault, connection, "o2", "o1")
    made = count(vault)
    assert made > 0
    app.names("Observation?status=final")
    assert count(vault) == made


def test_what_changed_is_found_by_what_it_says_now(vault: Vault, app: App) -> None:
    connection = keep_all(vault, "North Quay", [lab("o1", recent(9)), lab("o2", recent(5))])
    assert len(app.names("Observation?status=final")) == 2
    keep_more(vault, connection, [lab("o1", recent(1), status="amended")])
    assert app.names("Observation?status=final") == ids(vault, connection, "o2")
    assert app.names("Observation?status=amended") == ids(vault, connection, "o1")
    assert app.names("Observation?status=amended,final") == ids(vault, connection, "o1", "o2")


def test_a_change_of_date_alone_moves_it_and_shows_it_once(vault: Vault, app: App) -> None:
    connection = keep_all(vault, "North Quay", [lab("o1", recent(9)), lab("o2", recent(5))])
    assert app.names("Observation?status=final") == ids(vault, connection, "o2", "o1")
    keep_more(vault, connection, [lab("o1", recent(1))])
    assert app.names("Observation?status=final") == ids(vault, connection, "o1", "o2")


def test_an_erased_connection_leaves_nothing_and_its_numbers_may_come_again(
    vault: Vault, app: App
) -> None:
    first = keep_all(vault, "North Quay", [lab("o1", recent(9))])
    second = keep_all(vault, "Saltmarsh", [lab("p1", recent(8)), lab("p2", recent(7))])
    assert len(app.names("Observation?status=final")) == 3
    keep.erase(vault, second)
    assert app.names("Observation?status=final") == ids(vault, first, "o1")
    third = keep_all(vault, "Wharf", [lab("q1", recent(6), status="amended")])
    assert app.names("Observation?status=amended") == ids(vault, third, "q1")
    assert app.names("Observation?status=final") == ids(vault, first, "o1")


@pytest.mark.parametrize("order", ["date", "-date"])
def test_pages_follow_one_another_without_gap_or_repetition(
    vault: Vault, app: App, order: str
) -> None:
    same = recent(5)
    made = [lab(f"o{n}", same if n % 3 else recent(n + 1)) for n in range(20)]
    made += [lab(f"u{n}", "") | {"effectiveDateTime": "unknown"} for n in range(4)]
    keep_all(vault, "North Quay", made)
    whole = app.names(f"Observation?status=final&_count=100&_sort={order}")
    paged = app.names(f"Observation?status=final&_count=3&_sort={order}")
    assert paged == whole
    assert len(set(whole)) == 24
    assert whole == app.names(f"Observation?_count=100&_sort={order}")


def test_several_values_and_several_parameters_together(vault: Vault, app: App) -> None:
    vitals: dict[str, Any] = {"category": [{"coding": [{"code": "vital-signs"}]}]}
    connection = keep_all(vault, "North Quay", [
        lab("a", recent(4)),
        lab("b", recent(3), status="amended"),
        lab("c", recent(2), **vitals),
        lab("d", recent(1), status="amended", **vitals),
    ])  # fmt: skip
    names = app.names("Observation?status=amended,final&category=vital-signs")
    assert names == ids(vault, connection, "d", "c")
    assert app.names("Observation?status=amended&category=laboratory") == ids(
        vault, connection, "b"
    )
    assert app.names("Observation?status=amended&code=http://loinc.org|2951-2") == ids(
        vault, connection, "d", "b"
    )
    assert app.names("Observation?status=cancelled&category=laboratory") == []


def test_what_began_long_ago_and_goes_on_is_found_by_a_late_date(vault: Vault, app: App) -> None:
    connection = keep_all(vault, "North Quay", [
        condition("long", "Asthma", onsetPeriod={"start": "1990-01-01"}),
        condition("over", "Measles", onsetPeriod={"start": "1990-01-01", "end": "1990-02-01"}),
        condition("new", "Gout", onsetDateTime="2024-05-05"),
    ])  # fmt: skip

    def of(name: str) -> str:
        return f"Condition/{records.local_id(vault, connection, 'Condition', name)}"

    assert app.names("Condition?onset-date=ge2024") == [of("new"), of("long")]
    assert app.names("Condition?onset-date=ge2030") == [of("long")]
    assert app.names("Condition?onset-date=ge2030&clinical-status=active") == [of("long")]


def test_another_patient_is_nobody_here(vault: Vault, app: App) -> None:
    keep_all(vault, "North Quay", [lab("o1", recent(1))])
    me = references.patient_id(vault.id_key)
    assert len(app.names(f"Observation?patient={me}")) == 1
    assert len(app.names(f"Observation?patient=Patient/{me}&status=final")) == 1
    assert app.names("Observation?patient=0000000000000000") == []


def test_the_index_opens_nothing_that_is_hidden(vault: Vault, app: App) -> None:
    keep_all(vault, "North Quay", [lab("o1", recent(1), meta=label("HIV"), status="amended")])
    assert app.names("Observation?status=amended") == []
    assert app.get("Observation?status=amended&_summary=count").json()["total"] == 0
    assert count(vault) > 0


def test_while_one_request_makes_the_index_others_look_without_it(vault: Vault, app: App) -> None:
    connection = keep_all(vault, "North Quay", [lab("o1", recent(1))])
    lock = facets._lock_of(vault)
    with lock:
        assert app.names("Observation?status=final") == ids(vault, connection, "o1")
        assert count(vault) == 0
    assert app.names("Observation?status=final") == ids(vault, connection, "o1")
    assert count(vault) > 0


def test_other_rules_make_it_anew(vault: Vault, app: App) -> None:
    keep_all(vault, "North Quay", [lab("o1", recent(1))])
    app.names("Observation?status=final")
    with vault.write() as session:
        run = session.connection().exec_driver_sql
        run("UPDATE facet_state SET rules = 1")
        run("INSERT INTO facet VALUES (1, 1, 1, 1)")
    before = count(vault)
    assert len(app.names("Observation?status=final")) == 1
    assert count(vault) == before - 1


@pytest.mark.parametrize("facet", ["category=laboratory", "date=gt2000", "status=final"])
def test_a_code_with_a_facet_finds_each_once_and_nothing_of_what_is_hidden(
    cast: Cast, vault: Vault, facet: str
) -> None:
    connection = keep_all(vault, "North Quay", [lab(f"v{n}", recent(100 + n)) for n in range(6)])
    app = app_for(cast, vault, scopes="patient/Observation.rs")
    query = f"Observation?code=2951-2&{facet}"

    def told() -> tuple[Any, ...]:
        pages = []
        for most in range(1, 10):
            answer = app.get(f"{query}&_count={most}").json()
            leads = [link["relation"] for link in answer["link"]]
            found = [each["resource"]["id"] for each in answer.get("entry", ())]
            pages.append((found, leads))
        total = app.get(f"{query}&_total=accurate&_count=3").json()["total"]
        return pages, total, app.names(f"{query}&_count=2")

    before = told()
    names = ids(vault, connection, *(f"v{n}" for n in range(6)))
    assert [len(found) for found, _ in before[0]] == [1, 2, 3, 4, 5, 6, 6, 6, 6]
    assert before[1:] == (6, names)
    for number in range(4):  # newer than every one of them
        hidden = {"recordedDate": recent(10 + number), "meta": label("PSY")}
        keep_more(vault, connection, [condition(f"h{number}", "Secret", **hidden)])
        secret = lab(f"s{number}", recent(20 + number), meta=label("PSY"))
        keep_more(vault, connection, [secret])
        assert told() == before


def test_a_code_that_no_record_has_finds_nothing(app: App, vault: Vault) -> None:
    keep_all(vault, "North Quay", [lab("o1", recent(3))])

    assert app.names("Observation?code=0000-0&status=final") == []
    assert app.names("Observation?code=0000-0&date=gt2000") == []


# ------------------------------------------------------------------ what is not, is missing, came


@pytest.fixture
def mixed(vault: Vault) -> int:
    vitals: dict[str, Any] = {"category": [{"coding": [{"code": "vital-signs"}]}]}
    return keep_all(vault, "North Quay", [
        lab("a", recent(4)),
        lab("b", recent(3), status="amended"),
        lab("c", recent(2), **vitals),
        lab("d", recent(1)),
        {name: value for name, value in lab("u", "").items() if name != "effectiveDateTime"},
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("status:not=final", "b"),
        ("status:not=amended", "dcau"),
        ("status:not=amended,final", ""),
        ("status:not=http://hl7.org/fhir/observation-status|final", "b"),
        ("status:not=http://elsewhere.example|final", "dcbau"),
        ("category:not=laboratory", "c"),
        ("code:not=2951-2", ""),
        ("code:not=other", "dcbau"),
        ("date:missing=true", "u"),
        ("date:missing=false", "dcba"),
        ("date:missing=true&status:not=final", ""),
        ("date:missing=false&status=amended", "b"),
        ("_lastUpdated=ge2031", ""),
        ("_lastUpdated=lt2031", "dcbau"),
        ("_lastUpdated=lt2001,ge2031", ""),
        ("_lastUpdated=ne2001&status=amended", "b"),
        ("_lastUpdated=ap2001-01-01", ""),
        ("code=2951-2&date:missing=true", "u"),
    ],
)
def test_what_is_not_or_missing_is_found_in_the_order_of_pages(
    vault: Vault, app: App, mixed: int, query: str, names: str
) -> None:
    assert app.names(f"Observation?{query}&_count=1") == ids(vault, mixed, *names)


def test_of_a_patient_or_a_doctor_nothing_is_led_by_what_is_missing(
    vault: Vault, app: App, mixed: int
) -> None:
    me = references.patient_id(vault.id_key)
    assert app.names("Patient?birthdate:missing=true") == [f"Patient/{me}"]
    assert app.names("Practitioner?name:missing=false&_lastUpdated=lt2031") == []


def test_the_index_is_entered_by_value_and_no_record_is_looked_at_for_it(
    vault: Vault, app: App, mixed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.names("Observation?status=final")
    asked: list[tuple[str, tuple[object, ...]]] = []

    def noted(session: Session, sql: str, params: tuple[object, ...] = ()) -> Any:
        asked.append((sql, params))
        return rows(session, sql, params)

    monkeypatch.setattr(facets, "rows", noted)
    for query in ("status:not=final", "date:missing=true", "_lastUpdated=lt2031"):
        asked.clear()
        app.names(f"Observation?{query}")
        [stepped] = [one for one in asked if "RECURSIVE" in one[0]][:1]
        [walked] = [one for one in asked if "UNION ALL" in one[0] or "DISTINCT key" in one[0]][-1:]
        with vault.read() as session:
            for sql, params in (stepped, walked):
                plan = [str(row[3]) for row in rows(session, f"EXPLAIN QUERY PLAN {sql}", params)]
                assert not any(step.startswith("SCAN record") for step in plan), plan
                assert not any(step.startswith("SCAN facet") for step in plan), plan


def test_among_very_many_values_the_type_is_walked_through(
    vault: Vault, app: App, mixed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "VALUES", 1)
    assert app.names("Observation?status:not=final") == ids(vault, mixed, "b")
    assert app.names("Observation?date:missing=true") == ids(vault, mixed, "u")
