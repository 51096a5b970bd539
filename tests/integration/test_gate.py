"""The gate: decided and written down before anything is read, and over at once when it is over."""

import asyncio
import json
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

import pytest

from phr import clock, gather, ids
from phr.errors import Denied, Ended, NotFound
from phr.fhir.record import Selection
from phr.sharing import cover, endings, gate, grants, handles, links, package
from phr.sharing import provision as policy
from phr.sharing.gate import Presented, Released
from phr.sharing.grants import StepUp
from phr.sharing.provision import Action, Provision, Rule
from phr.store import audit, records
from phr.store.models import HandleKind
from tests.fixtures_sharing import ADA, Share, a_record, condition, keep_all, label, raw, share

__all__ = ["share"]


def released(share: Share, provision: Provision | None = None, **more: Any) -> Released:
    link = share.link(provision, **more)
    return gate.release(
        share.vault,
        Presented(link.handle_id, share.claimed(link)),
        Action.VIEW,
        "link.viewed",
        now=clock.now(),
    )


def only(*types: str, **more: Any) -> Provision:
    return Provision((Rule(types),), actions=frozenset(Action), **more)


def names(found: list[Any]) -> set[str]:
    return {record.remote_id for record in found}


def test_the_line_is_written_before_anything_is_read(share: Share) -> None:
    link = share.link()
    cookie = share.claimed(link)
    gate.release(
        share.vault,
        Presented(link.handle_id, cookie),
        Action.DOWNLOAD,
        "link.downloaded",
        now=clock.now(),
        measure=True,
    )  # nothing of it is ever read
    with share.vault.read() as session:
        newest = audit.entries(session, grant_id=link.grant_id, limit=1)[0]
    assert newest.event == "link.downloaded"
    assert newest.actor["name"] == "Dr. Pell"
    assert newest.detail["records"] == 7


def test_what_was_denied_counts_no_use_and_writes_no_view(share: Share) -> None:
    provision = Provision((Rule(("Condition",)),), actions=frozenset({Action.VIEW}))
    link = share.link(provision, uses=3)
    presented = Presented(link.handle_id, share.claimed(link))
    with pytest.raises(Denied):
        gate.release(share.vault, presented, Action.DOWNLOAD, "link.downloaded", now=clock.now())
    with share.vault.read() as session:
        assert grants.get(session, link.grant_id).uses_left == 3
        assert audit.entries(session, limit=1)[0].event == "link.claimed"


def test_a_cookie_nobody_was_given_presents_nothing(share: Share) -> None:
    link = share.link()
    share.claimed(link)
    for cookie in (None, "", "x" * 43, link.url.rpartition(".")[2]):
        with pytest.raises(NotFound):
            gate.release(
                share.vault,
                Presented(link.handle_id, cookie),
                Action.VIEW,
                "link.viewed",
                now=clock.now(),
            )


def test_a_draft_and_an_unknown_handle_release_nothing(share: Share) -> None:
    with pytest.raises(NotFound):
        gate.release(share.vault, Presented("0" * 32), Action.VIEW, "link.viewed", now=clock.now())


def test_sensitive_records_stay_hidden_until_their_label_is_named(share: Share) -> None:
    hidden = released(share, only("Condition"))
    named = released(share, only("Condition", labels=policy.SENSITIVE["mental"][1]))
    selection = Selection(types=("Condition",))
    assert names(hidden.select(selection)) == {"c1"}
    assert names(named.select(selection)) == {"c1", "c2"}
    assert hidden.count(selection) == 2  # c1 of both hospitals
    assert named.count(selection) == 3


def test_a_total_never_counts_what_is_hidden(share: Share) -> None:
    out = released(share, only("Condition"))
    with share.vault.read() as session:
        assert records.count(session, Selection(types=("Condition",))) == 3
    assert out.count(Selection(types=("Condition",))) == 2
    assert out.count(Selection()) == 2


def test_a_practitioner_leaves_only_beside_a_record_that_names_them(share: Share) -> None:
    people = Selection(types=("Practitioner",))
    problems = Selection(types=("Condition",))
    out = released(share, only("Condition"))
    assert names(out.select(problems, people)) == {"c1"}
    assert out.select(people) == []
    with_label = released(share, only("Condition", labels=policy.SENSITIVE["mental"][1]))
    assert "psych" in names(with_label.select(problems, people))


def two_of(share: Share, remote_id: str) -> list[str]:
    """Return the local ids of two hospitals' problems of this id, the first hospital's first."""
    with share.vault.read() as session:
        found = records.select(session, share.vault, Selection(types=("Condition",)))
    found.sort(key=lambda one: one.pk)
    return [one.local_id for one in found if one.remote_id == remote_id]


def problem_titles(out: Released) -> list[str]:
    shown = cover.cover(out, now=clock.now())
    return [line.title for line in shown.columns[2].lines]


def test_what_a_query_lets_through_by_mistake_the_second_look_refuses(share: Share) -> None:
    narrow = released(share, only("Condition"))
    careless = policy.compiled(only("Condition", "Observation")).where
    wide = replace(narrow, compiled=replace(narrow.compiled, where=careless))
    assert wide.select(Selection(types=("Observation",))) == []
    assert wide.select(Selection(types=("Condition",)))


def test_around_a_record_is_what_it_points_to_and_may_be_seen(share: Share) -> None:
    problems = [{"reference": f"Condition/{name}"} for name in ("p1", "p2", "p3")]
    whom = {"reference": "Patient/1"}
    visit = {"resourceType": "Encounter", "id": "e", "subject": whom, "status": "finished"}
    visit["diagnosis"] = [{"condition": each} for each in problems]
    visit["partOf"] = {"reference": "Encounter/e"}
    visit["serviceProvider"] = {"reference": "Organization/here"}
    seen, hidden = condition("p1", "Asthma"), condition("p2", "Hidden", meta=label("PSY"))
    here = {"resourceType": "Organization", "id": "here", "name": "North Quay"}
    patient = {"resourceType": "Patient", "id": "1", "birthDate": "1984-03-14"}
    keep_all(share.vault, "Third", [visit, seen, hidden, here, patient])

    let_out = released(share, only("Encounter", "Condition", "Patient"))
    (shown,) = let_out.select(Selection(types=("Encounter",)))
    assert names(let_out.around(shown)) == {"p1", "here"}

    narrower = released(share, only("Encounter"))
    assert names(narrower.around(shown)) == {"here"}
    endings.announce(narrower.terms.grant_id)
    with pytest.raises(Ended):
        narrower.around(shown)


def test_what_the_patient_joined_and_split_is_so_for_the_recipient(share: Share) -> None:
    keep_all(share.vault, "Harbour", [condition("c1", "Asthma", onsetDateTime="2001")])
    gather.settle(share.vault)
    ada, now = "ada", clock.now()
    out = released(share, only("Condition"))
    assert sorted(problem_titles(out)) == ["Asthma", "Underactive thyroid"]
    assert out.decisions() == ()
    north, thyroid, harbour = two_of(share, "c1")
    gather.split(share.vault, harbour, by=ada, now=now)
    assert sorted(problem_titles(out)) == ["Asthma", "Asthma", "Underactive thyroid"]
    step = gather.join(share.vault, north, thyroid, by=ada, now=now)
    assert len(problem_titles(out)) == 2
    assert cover.whole(out, now=now).count("from 2 hospitals") == 1
    gather.undo(share.vault, step, now=now)
    assert len(problem_titles(out)) == 3


def test_a_decision_about_a_hidden_record_is_not_released(share: Share) -> None:
    north, thyroid = two_of(share, "c1")
    gather.join(share.vault, north, thyroid, by="ada", now=clock.now())
    assert len(released(share, only("Condition")).decisions()) == 1
    kept_back = only("Condition", excluded=frozenset({thyroid}))
    out = released(share, kept_back)
    assert out.decisions() == ()
    assert problem_titles(out) == ["Asthma"]
    with share.vault.read() as session:
        assert gate.decided(session, share.vault, kept_back) == ()
        assert len(gate.decided(session, share.vault, only("Condition"))) == 1


def test_a_hospital_whose_records_are_all_hidden_is_not_named(share: Share) -> None:
    keep_all(share.vault, "Secret clinic", [condition("c9", "x", meta=label("HIV"))])
    out = released(share, only("Condition"))
    assert {origin.name for origin in out.origins().values()} == {"North Quay", "Saltmarsh"}
    assert "Secret clinic" not in cover.page(out, now=clock.now()).decode()


def test_a_private_record_is_shared_only_by_its_own_tick(share: Share) -> None:
    from phr import keep

    with share.vault.read() as session:
        asthma = next(
            record
            for record in records.select(session, share.vault, Selection(types=("Condition",)))
            if b"Asthma" in record.body
        )
    keep.mark_private(share.vault, asthma.local_id, on=True)
    selection = Selection(types=("Condition",))
    every = reduce(or_, (each for _, each in policy.SENSITIVE.values()))
    assert b"Asthma" not in bodies(released(share, only("Condition", labels=every)), selection)
    ticked = only("Condition", ticked=frozenset({asthma.local_id}))
    assert b"Asthma" in bodies(released(share, ticked), selection)


def bodies(out: Released, selection: Selection) -> bytes:
    return b"".join(record.body for record in out.select(selection))


def test_a_changed_record_is_judged_anew_at_the_next_page(share: Share) -> None:
    out = released(share, only("Condition"))
    assert b"Asthma" in bodies(out, Selection())
    changed = condition("c1", "Asthma", onsetDateTime="2001", meta=label("PSY"))
    keeper_over(share, changed)
    assert b"Asthma" not in bodies(out, Selection())


def keeper_over(share: Share, resource: dict[str, Any]) -> None:
    """The first hospital sends a new version of a record."""
    from phr.fhir.record import Item
    from phr.keep import Keeper

    keeper = Keeper(share.vault, 1, 1, expected_patient=None, now=clock.now())
    keeper.page("again", [Item(raw(resource))])
    keeper.finish()


def test_after_an_ending_nothing_more_is_read(share: Share) -> None:
    out = released(share)
    gate.end(share.vault, out.terms.grant_id, "patient", ADA, now=clock.now())
    with pytest.raises(Ended):
        out.select(Selection())
    with pytest.raises(Ended):
        out.count(Selection())
    with pytest.raises(Ended):
        list(out.stream())


def test_an_ending_from_an_earlier_process_counts_too(share: Share) -> None:
    out = released(share)
    with share.vault.write() as session:  # the bell of this process never rang
        grants.end(session, share.vault, out.terms.grant_id, "patient", actor=ADA, now=clock.now())
    assert not endings.stopped(out.terms.grant_id)
    with pytest.raises(Ended):
        out.select(Selection())


def test_a_running_download_is_cut_at_the_next_piece(share: Share) -> None:
    keep_all(share.vault, "Big", [condition(f"b{n}", "x" * 4000) for n in range(300)])
    out = released(share, only("Condition"))
    pieces = package.bundle(out, base_url="https://x.example", now=clock.now())
    first = next(pieces)
    assert first.startswith(b'{"resourceType":"Bundle"') or b"Bundle" in first[:60]
    gate.end(share.vault, out.terms.grant_id, "patient", ADA, now=clock.now())
    with pytest.raises(Ended):
        next(pieces)


def test_a_download_is_cut_when_the_time_runs_out(share: Share, time_machine: Any) -> None:
    out = released(share, ends_at=clock.now() + timedelta(minutes=1))
    pieces = out.guarded(iter([b"one", b"two"]))
    assert next(pieces) == b"one"
    time_machine.move_to(clock.now() + timedelta(minutes=2))
    with pytest.raises(Ended):
        next(pieces)


def test_an_open_page_hears_the_end_at_once(share: Share) -> None:
    link = share.link()

    async def wait() -> bool:
        with endings.watch(link.grant_id) as watch:
            stopper = threading.Thread(
                target=gate.end,
                args=(share.vault, link.grant_id, "patient", ADA),
                kwargs={"now": clock.now()},
            )
            stopper.start()
            heard = await watch.ended(10.0)
            stopper.join()
            return heard

    assert asyncio.run(wait())
    assert endings.watching(link.grant_id) == 0


def test_who_listens_after_the_end_hears_it_too(share: Share) -> None:
    link = share.link()
    gate.end(share.vault, link.grant_id, "patient", ADA, now=clock.now())

    async def wait() -> bool:
        with endings.watch(link.grant_id) as watch:
            return await watch.ended(10.0)

    assert asyncio.run(wait())


def test_the_bundle_holds_received_digits_local_ids_and_where_each_came_from(
    share: Share,
) -> None:
    out = released(share)
    body = b"".join(package.bundle(out, base_url="https://x.example", now=clock.now()))
    assert b'"value": 5.40' in body
    entries = json.loads(body)["entry"]
    by_type: dict[str, list[Any]] = {}
    for entry in entries:
        resource = entry["resource"]
        by_type.setdefault(resource["resourceType"], []).append(resource)
        assert entry["fullUrl"].endswith(f"/fhir/{resource['resourceType']}/{resource['id']}")
    assert len(by_type["Patient"]) == 1
    patient = by_type["Patient"][0]
    assert set(patient) == {"resourceType", "id", "name", "birthDate", "gender"}
    subjects = {each["subject"]["reference"] for each in by_type["Observation"]}
    assert subjects == {f"Patient/{patient['id']}"}
    assert len({each["id"] for each in by_type["Observation"]}) == len(by_type["Observation"])
    told = {target["reference"] for each in by_type["Provenance"] for target in each["target"]}
    assert {f"Condition/{each['id']}" for each in by_type["Condition"]} <= told
    places = {each["entity"][0]["what"]["display"] for each in by_type["Provenance"]}
    assert places == {"North Quay", "Saltmarsh"}
    assert "some" not in by_type
    assert by_type["Consent"][0]["provision"]["type"] == "deny"


def test_what_we_author_ourselves_is_valid_fhir(share: Share) -> None:
    from fhir.resources.R4B import get_fhir_model_class

    out = released(share)
    body = b"".join(package.bundle(out, base_url="https://x.example", now=clock.now()))
    ours = {"Consent", "Provenance", "OperationOutcome", "Patient"}
    checked = set()
    for entry in json.loads(body)["entry"]:
        kind = entry["resource"]["resourceType"]
        if kind in ours:
            get_fhir_model_class(kind).model_validate(entry["resource"])
            checked.add(kind)
    assert checked == ours


def test_the_consent_does_not_tell_what_was_kept_back(share: Share) -> None:
    taken = only("Condition", excluded=frozenset({"00" * 8}), ticked=frozenset({"ab" * 8}))
    out = released(share, taken)
    body = b"".join(package.bundle(out, base_url="https://x.example", now=clock.now()))
    assert b"PSY" not in body
    assert b"abababababababab" not in body


def test_every_release_of_the_same_vault_is_in_an_unbroken_chain(share: Share) -> None:
    for _ in range(5):
        released(share)
    with share.vault.read() as session:
        assert audit.verify(session, share.vault) == []


def test_entries_are_recomputed_from_what_was_released(share: Share) -> None:
    out = released(share, only("AllergyIntolerance", "Condition"))
    shown = cover.cover(out, now=clock.now())
    allergies, medicines, problems = shown.columns
    assert [line.title for line in allergies.lines] == ["Penicillin"]
    assert medicines.lines == ()
    assert medicines.note == "The patient does not share medicines here."
    assert {line.title for line in problems.lines} == {"Asthma", "Underactive thyroid"}


def test_the_three_answers_about_allergies_are_three_texts(share: Share) -> None:
    none = {**a_record()[1], "id": "a2", "code": {"coding": [{"code": "716186003"}]}}
    del none["criticality"]
    unknown = released(share, only("AllergyIntolerance", connections=(2,)))
    keep_all(share.vault, "Third", [none])
    said_none = released(share, only("AllergyIntolerance", connections=(3,)))
    present = released(share, only("AllergyIntolerance", connections=(1,)))
    texts = []
    for out in (unknown, said_none, present):
        column = cover.cover(out, now=clock.now()).columns[0]
        texts.append(column.note or column.lines[0].title)
    assert texts[0] == "No allergies in what is shared. That does not mean there are none."
    assert len(set(texts)) == 3


@pytest.mark.parametrize(
    ("type_", "local_id"),
    [("Nonsense", "0" * 16), ("Condition", "not an id"), ("Practitioner", "0" * 16)],
)
def test_what_has_no_name_of_ours_is_not_found(share: Share, type_: str, local_id: str) -> None:
    with pytest.raises(NotFound):
        released(share).one(type_, local_id)


def test_a_long_record_leaves_in_batches_and_nothing_twice(
    share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [record.pk for record, _ in released(share).stream()]
    owned = gate.owner_export(share.vault, ADA, form="zip")
    (connection, *_) = owned.origins()
    mine = [record.pk for record, _ in owned.stream(connection, "Observation")]
    monkeypatch.setattr("phr.sharing.released.BATCH", 1)
    assert [record.pk for record, _ in released(share).stream()] == whole
    assert [record.pk for record, _ in owned.stream(connection, "Observation")] == mine
    assert len(mine) > 1


def test_a_file_that_is_not_kept_is_not_found_in_the_owners_copy(share: Share) -> None:
    with pytest.raises(NotFound):
        gate.owner_export(share.vault, ADA, form="zip").attachment(b"nothing")


def test_a_cookie_does_not_open_what_was_printed(share: Share) -> None:
    now = clock.now()
    grant_id = ids.new_id()
    links.make_paper(
        share.vault,
        share.wish(),
        grant_id=grant_id,
        step_up=StepUp("ada", "password", now),
        shown="what was shown",
        actor=ADA,
        now=now,
    )
    with share.vault.read() as session:
        handle = handles.of_grant(session, grant_id, HandleKind.PRINT)
    assert handle is not None
    with pytest.raises(NotFound):
        gate.look(share.vault, Presented(handle.id, "a cookie"), now=now)
    assert gate.look(share.vault, Presented(handle.id), now=now).grant_id == grant_id


def test_a_bell_that_rang_ends_a_release_before_the_row_says_so(share: Share) -> None:
    link = share.link()
    presented = Presented(link.handle_id, share.claimed(link))
    endings.announce(link.grant_id)
    with pytest.raises(Ended):
        gate.look(share.vault, presented, now=clock.now())


def test_a_limited_link_counts_visits_and_then_says_that_it_is_used_up(share: Share) -> None:
    link = share.link(only("Condition"), uses=1)
    presented = Presented(link.handle_id, share.claimed(link))
    begun = clock.now()

    def view(now: datetime) -> None:
        gate.release(share.vault, presented, Action.VIEW, "link.viewed", now=now)

    def left() -> int | None:
        with share.vault.read() as session:
            return grants.get(session, link.grant_id).uses_left

    before = left()
    view(begun)
    assert left() == 0
    view(begun + gate.VISIT / 2)  # the same visit goes on
    assert left() == 0
    assert before in {0, 1}  # opening it may have been the use
    with pytest.raises(Ended, match="as often as the patient allowed"):
        view(begun + gate.VISIT * 2)


def test_an_identifier_of_another_kind_or_of_nothing_is_not_found(share: Share) -> None:
    out = released(share, only("Condition"))
    name = out.select(Selection(types=("Condition",)))[0].local_id
    assert out.one("Condition", name).local_id == name
    for type_, wrong in (("Observation", name), ("Condition", "no such id"), ("Wand", name)):
        with pytest.raises(NotFound):
            out.one(type_, wrong)
    for type_, wrong in (("Condition", name), ("Practitioner", "no such id")):
        with pytest.raises(NotFound):
            out.supporting(type_, wrong)
