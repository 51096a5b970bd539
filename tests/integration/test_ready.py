"""What leaves is kept ready: the same bytes as made one by one, and nothing of what is hidden."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from phr import clock, keep
from phr.errors import Ended, VaultError
from phr.sharing import answers, gate, handles, package, ready
from phr.sharing import released as released_module
from phr.sharing.gate import Interaction, Released
from phr.sharing.provision import Provision, Rule
from phr.store import records
from phr.store.database import rows
from phr.store.models import Connection
from phr.store.records import Clause
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import ALL, everything, token_for
from tests.fixtures_sharing import condition, keep_all, keep_more, lab, recent

BASE = "https://doors.example/fhir"
DOCTOR: dict[str, Any] = {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Osei"}]}
ADA = {"kind": "account", "id": "ada", "name": "Ada"}
OTHER = DOCTOR | {"id": "other", "name": [{"family": "Unseen"}]}


@pytest.fixture
def vault(cast: Cast) -> Vault:
    return cast.vault("Ada")


def let_out(vault: Vault, provision: Provision | None = None, scopes: str = ALL) -> Released:
    token = token_for(vault, provision, scopes)
    bearer = handles.bearer_of(token.text)
    assert bearer is not None
    wanted = Interaction("rs", None)
    return gate.release_to(vault, token.grant_id, bearer, wanted, "api.everything", now=clock.now())


def entries(released: Released, **asked: Any) -> set[bytes]:
    pieces = answers.everything(released, None, **{"types": (), "since": None, **asked}, base=BASE)
    inside = b"".join(pieces).partition(b'"entry":[')[2].removesuffix(b"]}")
    return {each.removesuffix(b",\n") for each in inside.split(b'{"fullUrl"') if each}


def lines(released: Released, type_: str, **asked: Any) -> list[bytes]:
    given = {"since": None, "until": clock.now(), **asked}
    return sorted(b"".join(answers.lines(released, type_, **given)).splitlines())


def frames(vault: Vault) -> int:
    with vault.read() as session:
        return int(rows(session, "SELECT count(*) FROM ready")[0][0])


def run(vault: Vault, sql: str, *params: object) -> None:
    with vault.write() as session:
        session.connection().exec_driver_sql(sql, params)


def many(number: int = 12) -> list[dict[str, Any]]:
    doctor = {"performer": [{"reference": "Practitioner/dr"}]}
    return [
        *(lab(f"o{n}", recent(n + 1), **(doctor if n % 2 else {})) for n in range(number)),
        *(condition(f"c{n}", f"Problem {n}") for n in range(number)),
        DOCTOR,
        OTHER,
    ]


@pytest.fixture
def north(vault: Vault) -> int:
    return keep_all(vault, "North Quay", many())


# ------------------------------------------------------------------ the same bytes

GRANTS = {
    "all": lambda _: everything(),
    "a period": lambda _: replace(
        everything(),
        rules=(Rule(("Observation", "Condition"), since=clock.now() - timedelta(days=6)),),
    ),
    "a category": lambda _: replace(
        everything(), rules=(Rule(("Observation",), categories=("laboratory",)),)
    ),
    "another category": lambda _: replace(
        everything(), rules=(Rule(("Observation",), categories=("vital-signs",)),)
    ),
    "some taken away": lambda names: replace(everything(), excluded=frozenset(names[:3])),
    "another place": lambda _: replace(everything(), connections=(99,)),
}


@pytest.mark.parametrize("name", GRANTS)
def test_what_was_ready_leaves_as_what_was_not(vault: Vault, north: int, name: str) -> None:
    names = [records.local_id(vault, north, "Observation", f"o{n}") for n in range(12)]
    released = let_out(vault, GRANTS[name](names))
    whole, some = entries(released), lines(released, "Observation")
    assert frames(vault) == 0
    ready.make(vault)
    assert frames(vault) == 3
    assert entries(released) == whole
    assert lines(released, "Observation") == some
    assert entries(released, types=("Condition",)) <= whole


def test_scopes_that_ask_for_words_of_a_record_read_the_record(vault: Vault, north: int) -> None:
    ready.make(vault)
    vitals = lab("v", recent(1)) | {"category": [{"coding": [{"code": "vital-signs"}]}]}
    keep_more(vault, north, [vitals])
    ready.make(vault)
    released = let_out(vault, scopes="patient/Observation.rs?category=vital-signs")
    [found] = lines(released, "Observation")
    assert records.local_id(vault, north, "Observation", "v").encode() in found


def test_only_doctors_named_by_what_leaves_come_with_it(vault: Vault, north: int) -> None:
    ready.make(vault)
    found = b"".join(entries(let_out(vault)))
    assert b"Osei" in found
    assert b"Unseen" not in found
    unnamed = [records.local_id(vault, north, "Observation", f"o{n}") for n in range(1, 12, 2)]
    hidden = let_out(vault, replace(everything(), excluded=frozenset(unnamed)))
    assert b"Osei" not in b"".join(entries(hidden))
    assert lines(hidden, "Practitioner") == []


def test_large_sets_leave_in_parts(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_all(vault, "North Quay", many(40))
    released = let_out(vault)
    whole = entries(released)
    ready.make(vault)
    monkeypatch.setattr(ready, "PART", 2000)
    assert entries(released) == whole
    assert len(list(released.lots("Observation"))) > 3


def test_records_of_several_windows_leave_as_those_of_one(
    vault: Vault, north: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = let_out(vault)
    whole, some = entries(released), lines(released, "Observation")
    monkeypatch.setattr(ready, "READY_WINDOW", 8)
    monkeypatch.setattr(ready, "SCATTERED", 1)
    ready.make(vault)
    assert frames(vault) > 3
    for _ in range(2):
        assert lines(released, "Observation") == some
        assert entries(released) == whole


def test_what_is_too_long_is_made_when_it_leaves(
    vault: Vault, north: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = let_out(vault)
    whole = entries(released)
    monkeypatch.setattr(ready, "LONGEST", 100)
    ready.make(vault)
    assert entries(released) == whole
    assert all(lot.body is not None for lot in released.lots("Observation"))


# ------------------------------------------------------------------ what changes


def test_a_label_set_later_hides_what_was_ready(vault: Vault, north: int) -> None:
    released = let_out(vault)
    ready.make(vault)
    before = entries(released)
    name = records.local_id(vault, north, "Condition", "c3")
    keep.mark_private(vault, name, on=True)
    after = entries(released)
    assert {each for each in before if name.encode() in each} == before - after
    assert name.encode() not in b"".join(lines(released, "Condition"))


def test_what_came_again_otherwise_leaves_as_it_is_now(vault: Vault, north: int) -> None:
    released = let_out(vault)
    ready.make(vault)
    then = clock.now() - timedelta(milliseconds=2)  # instants of receipt are whole milliseconds
    keep_more(vault, north, [lab("o1", recent(2), status="amended"), condition("new", "Gout")])
    assert frames(vault) == 2
    found = b"".join(entries(released))
    assert found.count(b'"amended"') == 1
    assert found.count(b"Gout") > 0
    assert b"Gout" not in b"".join(lines(released, "Condition", until=then))
    assert b'"amended"' not in b"".join(lines(released, "Observation", until=then))
    assert len(lines(released, "Observation", until=then)) == 12
    ready.make(vault)
    assert b"".join(sorted(entries(released))).count(b'"amended"') == 1
    assert b'"amended"' not in b"".join(lines(released, "Observation", until=then))


def test_only_what_came_since_leaves(vault: Vault, north: int) -> None:
    released = let_out(vault)
    then = clock.now()
    assert lines(released, "Condition", since=then + timedelta(seconds=1)) == []
    ready.make(vault)
    assert lines(released, "Condition", since=then + timedelta(seconds=1)) == []
    assert len(lines(released, "Condition", since=datetime(2020, 1, 1, tzinfo=UTC))) == 12


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE record SET body = body WHERE pk = (SELECT min(pk) FROM record)",
        "UPDATE record SET category = 0 WHERE pk = (SELECT min(pk) FROM record)",
        "DELETE FROM record WHERE pk = (SELECT max(pk) FROM record)",
        "UPDATE connection SET base_url = 'https://moved.example/fhir'",
        "INSERT INTO alias(connection, url, key) VALUES (1, 'urn:uuid:1', 1)",
    ],
)
def test_whatever_it_was_made_of_takes_it_away(vault: Vault, north: int, sql: str) -> None:
    ready.make(vault)
    made = frames(vault)
    run(vault, sql)
    assert frames(vault) < made


def test_an_erased_place_leaves_nothing_behind(vault: Vault, north: int) -> None:
    released = let_out(vault)
    ready.make(vault)
    keep.erase(vault, north)
    assert frames(vault) == 0
    assert lines(released, "Condition") == []


def test_a_reference_that_finds_its_record_later_is_not_kept_ready(vault: Vault) -> None:
    loose = lab("o1", recent(1), encounter={"reference": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187"})
    connection = keep_all(vault, "Letters", [loose])
    ready.make(vault)
    released = let_out(vault)
    assert b"urn:uuid" in lines(released, "Observation")[0]
    visit = {
        "resourceType": "Encounter",
        "id": "0c3151bd-1cbf-4d64-b04d-cd9187",
        "status": "finished",
        "class": {"code": "AMB"},
    }
    keep_more(vault, connection, [visit])
    name = records.local_id(vault, connection, "Encounter", visit["id"])
    assert name.encode() in lines(released, "Observation")[0]


def test_a_window_that_is_written_to_meanwhile_waits(
    vault: Vault, north: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = ready._Making.frame

    def interrupted(self: Any, pks: Any) -> tuple[bytes, bytes]:
        run(vault, "UPDATE connection SET name = name")
        return making(self, pks)

    monkeypatch.setattr(ready._Making, "frame", interrupted)
    ready.make(vault)
    assert frames(vault) == 0
    monkeypatch.undo()
    ready.make(vault)
    assert frames(vault) == 3


# ------------------------------------------------------------------ remembered, until it changes


@pytest.fixture
def scattered(vault: Vault, north: int, monkeypatch: pytest.MonkeyPatch) -> Released:
    """A whole window is asked for at once, and what the store said of it is remembered."""
    monkeypatch.setattr(ready, "SCATTERED", 1)
    ready.make(vault)
    released = let_out(vault)
    assert len(lines(released, "Observation")) == 12
    return released


def remembered(released: Released) -> bool:
    file = released.vault.database
    return bool(ready._told.get(file, file.commits, released.compiled.where))


def test_what_the_store_said_of_a_window_serves_the_next_type(scattered: Released) -> None:
    whole = b"".join(sorted(entries(scattered)))
    assert remembered(scattered)
    assert len(lines(scattered, "Condition")) == 12
    assert len(lines(scattered, "Practitioner")) == 1
    assert lines(scattered, "Immunization") == []
    assert b"".join(sorted(entries(scattered))) == whole


def test_a_label_set_between_two_types_is_heeded(
    scattered: Released, vault: Vault, north: int
) -> None:
    name = records.local_id(vault, north, "Condition", "c3")
    keep.mark_private(vault, name, on=True)
    assert not remembered(scattered)
    assert name.encode() not in b"".join(lines(scattered, "Condition"))


def test_a_label_set_in_the_middle_of_a_stream_is_heeded(
    scattered: Released, vault: Vault, north: int
) -> None:
    name = records.local_id(vault, north, "Condition", "c3")
    found = answers.lines(scattered, "Observation", since=None, until=clock.now())
    next(found)
    keep.mark_private(vault, name, on=True)
    list(found)
    assert name.encode() not in b"".join(lines(scattered, "Condition"))


def test_a_smaller_grant_is_not_served_what_a_larger_one_was_told(
    scattered: Released, vault: Vault
) -> None:
    only = let_out(vault, replace(everything(), rules=(Rule(("Condition",)),)))
    assert lines(only, "Observation") == []
    assert len(lines(only, "Condition")) == 12


def test_another_use_of_the_same_grant_finds_what_the_first_was_told(
    scattered: Released, vault: Vault
) -> None:
    let_out(vault)  # writes a grant: all is asked again
    assert not remembered(scattered)
    lines(scattered, "Observation")
    commits = vault.database.commits
    run(vault, "UPDATE connection SET name = name")
    released_module.outlive(vault, commits)
    assert remembered(scattered)
    run(vault, "UPDATE connection SET name = name")
    released_module.outlive(vault, commits)  # of an older commit: nothing is carried
    assert not remembered(scattered)


def test_a_revoke_in_the_middle_of_a_stream_ends_it(scattered: Released, vault: Vault) -> None:
    found = scattered.lots("Observation")
    gate.end(vault, scattered.terms.grant_id, "patient", ADA, now=clock.now())
    with pytest.raises(Ended):
        list(found)


def test_only_so_many_windows_are_remembered(
    scattered: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "TOLD", 0)
    run(scattered.vault, "UPDATE connection SET name = name")
    assert len(lines(scattered, "Condition")) == 12
    assert not remembered(scattered)


def test_the_patients_of_hospitals_leave_only_as_the_composed_one(scattered: Released) -> None:
    assert list(scattered.lots("Patient")) == []


# ------------------------------------------------------------------ checked again


def too_wide(released: Released) -> Released:
    """Return what a query that lets out everything would give to the check."""
    every = Clause("1")
    return replace(released, compiled=replace(released.compiled, where=every, counted=every))


def test_what_a_query_lets_out_wrongly_is_held_by_the_check(vault: Vault, north: int) -> None:
    ready.make(vault)
    hidden = records.local_id(vault, north, "Condition", "c3")
    keep.mark_private(vault, hidden, on=True)
    found = b"".join(entries(too_wide(let_out(vault))))
    assert hidden.encode() not in found
    assert records.local_id(vault, north, "Condition", "c4").encode() in found
    only = let_out(vault, replace(everything(), rules=(Rule(("Condition",)),)))
    assert lines(too_wide(only), "Observation") == []


def test_undated_records_stay_out_of_a_period(vault: Vault) -> None:
    undated = {k: v for k, v in lab("undated", "").items() if k != "effectiveDateTime"}
    keep_all(vault, "North Quay", [undated, lab("dated", recent(2)), lab("old", recent(20))])
    since = clock.now() - timedelta(days=6)
    released = let_out(vault, replace(everything(), rules=(Rule(("Observation",), since=since),)))
    before = lines(released, "Observation")
    ready.make(vault)
    assert len(before) == 1
    assert lines(released, "Observation") == before
    assert lines(too_wide(released), "Observation") == before


def test_records_of_an_older_release_stay_out_although_ready(vault: Vault) -> None:
    older = condition("c", "Gout", dateRecorded="2014-03-02")
    keep_all(vault, "North Quay", [older, condition("c1", "Sprain")])
    released = let_out(vault)
    before = lines(released, "Condition")
    ready.make(vault)
    assert len(before) == 1
    assert lines(released, "Condition") == before


def test_a_person_is_given_records_of_an_older_release_as_they_came(vault: Vault) -> None:
    older = condition("c", "Gout", dateRecorded="2014-03-02")
    keep_all(vault, "North Quay", [older, condition("c1", "Sprain")])
    released = let_out(vault)
    for _ in range(2):  # not ready, then ready
        whole = b"".join(package.bundle(released, base_url=BASE, now=clock.now()))
        found = [each["resource"] for each in json.loads(whole)["entry"]]
        given = {one["code"]["text"]: one for one in found if one["resourceType"] == "Condition"}
        assert sorted(given) == ["Gout", "Sprain"]
        assert given["Gout"]["dateRecorded"] == "2014-03-02"
        ready.make(vault)


def test_what_is_ready_is_not_made_again(vault: Vault, north: int) -> None:
    ready.make(vault)
    commits = vault.database.commits
    ready.make(vault)
    assert vault.database.commits == commits


# ------------------------------------------------------------------ behind, and many


@pytest.fixture
def crowd(vault: Vault) -> Iterator[int]:
    yield keep_all(vault, "North Quay", [lab(f"o{n}", recent(n % 50)) for n in range(80)])
    ready._worker.submit(int).result()


def test_the_first_that_fetches_much_has_it_made_behind(vault: Vault, crowd: int) -> None:
    released = let_out(vault)
    first = lines(released, "Observation")
    ready._worker.submit(int).result()
    assert frames(vault) == 1
    assert lines(released, "Observation") == first
    assert len(first) == 80


def test_a_record_sealed_meanwhile_stops_the_making(vault: Vault, crowd: int) -> None:
    vault.database.close()
    ready.behind(vault)
    ready._worker.submit(int).result()
    ready.behind(vault)


def test_the_making_waits_for_nobody_twice(
    vault: Vault, crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Vault] = []
    monkeypatch.setattr(ready, "make", made.append)
    monkeypatch.setattr(ready, "_waiting", {vault.database})
    ready.behind(vault)
    ready._worker.submit(int).result()
    assert made == []


def test_a_full_disk_stops_the_making_and_no_answer(
    vault: Vault, crowd: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_vault: Vault) -> None:
        raise VaultError("The disk is full.")

    monkeypatch.setattr(ready, "make", full)
    released = let_out(vault)
    assert len(lines(released, "Observation")) == 80
    ready._worker.submit(int).result()
    assert "ready.stopped" in caplog.text
    monkeypatch.undo()
    assert len(lines(released, "Observation")) == 80


def test_a_failure_of_the_making_is_told_in_the_log(
    vault: Vault, crowd: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_vault: Vault) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ready, "make", broken)
    ready.behind(vault)
    ready._worker.submit(int).result()
    assert "ready.failed" in caplog.text


def test_a_file_of_a_record_keeps_its_own_address(vault: Vault, north: int) -> None:
    with vault.read() as session:
        [first, *_] = records.scan(session, vault, where=Clause("record.type > 0"), limit=1)
    ready.make(vault)
    whole = entries(let_out(vault))
    run(
        vault,
        "INSERT INTO attachment_link(record, url) VALUES (?, 'https://files.example/1')",
        first.pk,
    )
    assert entries(let_out(vault)) == whole


def test_chunks_are_of_one_size_however_the_pieces_come() -> None:
    size = package.CHUNK
    pieces = [b"a" * 10, b"b" * (3 * size), b"c" * 5, b"d" * (size - 15), b"e"]
    chunks = list(package.chunked(pieces))
    assert b"".join(chunks) == b"".join(pieces)
    assert [len(each) for each in chunks[:-1]] == [size] * (len(chunks) - 1)


def test_a_house_that_moved_its_place_still_has_its_records(vault: Vault, north: int) -> None:
    released = let_out(vault)
    ready.make(vault)
    with vault.write() as session:
        place = session.get(Connection, north)
        assert place is not None
        place.base_url = "https://moved.example/fhir"
    assert frames(vault) == 0
    assert len(lines(released, "Condition")) == 12
