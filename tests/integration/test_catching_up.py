"""A lull of the network is used: what waits is written and put in order before the pull ends."""

import threading

import pytest

from phr import clock, keep
from phr.bench import house
from phr.connectors.smart import LONG, in_order
from phr.fhir import kinds
from phr.store import entries, index, records
from phr.store.models import PullState
from tests.fixtures_hospital import (
    connected,
    go,
    hospital,
    impatient,
    ledger,
    observation,
    to_hospital,
)
from tests.fixtures_keep import item, lab, rows, vault

__all__ = ["hospital", "impatient", "to_hospital", "vault"]


def condition(id_, words="Hay fever"):
    return item(
        {
            "resourceType": "Condition",
            "id": id_,
            "code": {"text": words},
            "subject": {"reference": "Patient/p1"},
            "onsetDateTime": "2024-05-01",
        }
    )


def in_good_order(vault):
    with vault.read() as session:
        return not index.missing(session) and not entries.waits(session)


def a_keeper(vault, **options):
    connection = house.connection(vault)
    return keep.Keeper(vault, connection, house.pull(vault, connection), now=clock.now(), **options)


def test_a_lull_writes_what_waits_builds_the_indexes_and_joins(vault, monkeypatch):
    monkeypatch.setattr(keep, "WORTH", 2)
    keeper = a_keeper(vault)
    keeper.page("Condition", [condition("1"), condition("2")])
    assert keeper.catch_up()
    assert in_good_order(vault)
    assert len(rows(vault, "SELECT 1 FROM record")) == 2
    assert len(rows(vault, "SELECT 1 FROM entry")) == 1, "one problem, told twice"


def test_a_lull_changes_nothing_about_what_comes_later(vault, monkeypatch):
    monkeypatch.setattr(keep, "WORTH", 1)
    keeper = a_keeper(vault)
    keeper.page("Condition", [condition("1")])
    assert keeper.catch_up()
    keeper.page("Condition", [condition("1"), condition("2"), condition("3", "Asthma")])
    kept = keeper.finish()
    assert (kept.new, kept.unchanged) == (2, 1)
    assert in_good_order(vault)
    assert len(rows(vault, "SELECT 1 FROM entry")) == 2


def test_a_lull_is_left_unused_until_twice_as_much_has_come(vault, monkeypatch):
    monkeypatch.setattr(keep, "WORTH", 2)
    keeper = a_keeper(vault)
    keeper.page("x", [item(lab("1"))])
    assert not keeper.catch_up(), "one record is not worth it"
    keeper.page("x", [item(lab("2"))])
    assert keeper.catch_up()
    keeper.page("x", [item(lab("3"))])
    assert not keeper.catch_up()
    keeper.page("x", [item(lab("4"))])
    assert keeper.catch_up()
    assert keeper.finish() == keep.Kept()


def test_without_entries_a_lull_joins_nothing(vault, monkeypatch):
    monkeypatch.setattr(keep, "WORTH", 1)
    keeper = a_keeper(vault, with_entries=False)
    keeper.page("Condition", [condition("1")])
    assert keeper.catch_up()
    assert rows(vault, "SELECT 1 FROM entry") == []


@pytest.mark.usefixtures("impatient")
def test_while_the_last_kinds_are_asked_for_the_pull_puts_the_rest_in_order(
    vault, hospital, to_hospital, monkeypatch
):
    monkeypatch.setattr(keep, "WORTH", 3)
    pause, seen = threading.Event(), []

    def answer_once_all_is_in_order(_asked):
        for _ in range(1000):
            with vault.read() as session:
                count = session.connection().exec_driver_sql("SELECT count(*) FROM record")
                if count.scalar_one() == 8 and in_good_order(vault):
                    seen.append(True)
                    break
            pause.wait(0.005)

    hospital.faults["EpisodeOfCare"] = answer_once_all_is_in_order
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert seen == [True]
    line = ledger(vault, cid)["Observation"]
    assert (line.pages, line.got, line.new) == (3, 6, 6)


@pytest.mark.usefixtures("impatient")
def test_a_dictionary_is_made_once_there_is_enough_while_the_rest_is_asked_for(
    vault, hospital, to_hospital
):
    hospital.records["Observation"] = [observation(number) for number in range(keep.TRAINED + 600)]
    hospital.page = 500
    pause, seen = threading.Event(), []

    def answer_once_it_is_there(_asked):
        for _ in range(1000):
            if found := rows(vault, "SELECT connection FROM dictionary"):
                seen.extend(row[0] for row in found)
                break
            pause.wait(0.005)

    hospital.faults["EpisodeOfCare"] = answer_once_it_is_there
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert seen == [cid]
    assert len(rows(vault, "SELECT 1 FROM record")) == keep.TRAINED + 602


def test_kinds_with_many_records_are_asked_for_first_and_none_is_left_out():
    asked = kinds.asked("4.0.1")
    ordered = [kind.type for kind in in_order(asked)]
    assert ordered[: len(LONG)] == list(LONG)
    assert sorted(ordered) == sorted(kind.type for kind in asked if kind.type != "Patient")


def test_records_read_compactly_say_the_same_and_hold_equal_elements_once(vault, monkeypatch):
    monkeypatch.setattr(records, "_REMEMBERED", 5)
    keeper = a_keeper(vault)
    keeper.page("x", [item(lab(str(number), f"5.{number}0")) for number in range(4)])
    keeper.finish()
    pks = [row[0] for row in rows(vault, "SELECT pk FROM record")]
    with vault.read() as session:
        plain = entries.loaded(session, vault, pks)
        compact = entries.loaded(session, vault, pks, ahead=entries.JustWritten())
    assert [one.document for one in compact] == [one.document for one in plain]
    values = [str(one.document["valueQuantity"]["value"]) for one in compact]
    assert values == ["5.00", "5.10", "5.20", "5.30"]
    assert compact[0].document["code"] is compact[1].document["code"]
