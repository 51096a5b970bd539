"""Entries in a real vault: joined after an import, after a rebuild, and as the patient says."""

import pytest

from phr import clock, gather, keep
from phr.bench import house
from phr.chart.reconcile import reconcile
from phr.errors import InvalidInput, NotFound
from phr.fhir.kinds import KINDS
from phr.fhir.record import Selection
from phr.store import entries, records
from phr.store.models import VaultFact
from tests.fixtures_keep import PATIENT, hospital, item, keep_all, lab, rows, vault

__all__ = ["hospital", "vault"]

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"


@pytest.fixture
def other(vault):
    return house.connection(vault, "Harbour Practice")


def fill(vault, connection, *resources):
    about = {"reference": f"Patient/{PATIENT}"}
    field = {"AllergyIntolerance": "patient", "Immunization": "patient"}
    made = [
        item(
            one
            if isinstance(one, bytes)
            else {field.get(one["resourceType"], "subject"): about, **one}
        )
        for one in resources
    ]
    keep_all(vault, connection, made)
    gather.settle(vault)


def allergy(id_, text="", code="", **more):
    coding = {"coding": [{"system": RXNORM, "code": code}]} if code else {}
    concept = coding | ({"text": text} if text else {})
    return {"resourceType": "AllergyIntolerance", "id": id_, "code": concept, **more}


def medicine(id_, text, status="active"):
    concept = {"text": text}
    return {
        "resourceType": "MedicationRequest",
        "id": id_,
        "status": status,
        "medicationCodeableConcept": concept,
    }


def grouped(vault, type_="AllergyIntolerance"):
    """Return the entries of a type as sets of remote ids."""
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=(type_,)))
        homes = entries.siblings(session, [one.pk for one in found])
    sets = {}
    for one in found:
        sets.setdefault(homes[one.pk], set()).add(one.remote_id)
    return sorted(map(frozenset, sets.values()), key=sorted)


def local_id(vault, remote_id, type_="AllergyIntolerance"):
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=(type_,)))
    return next(one.local_id for one in found if one.remote_id == remote_id)


def sets(*groups):
    return sorted((frozenset(group.split()) for group in groups), key=sorted)


ISABELLA = {
    "a": "1191 212033 318272 1001473",
    "c": "2670 601263 997170",
    "p": "7982 215674 731570 731575",
}


def test_isabellas_eleven_codes_and_a_text_are_three_allergies(vault):
    for number in range(4):
        fill(
            vault,
            house.connection(vault, f"Hospital {number}"),
            *(
                allergy(f"{letter}{number}", code=codes.split()[number])
                for letter, codes in ISABELLA.items()
                if number < len(codes.split())
            ),
        )
    fill(vault, house.connection(vault, "Hospital 4"), allergy("c4", "codeine sulfate"))
    assert grouped(vault) == sets("a0 a1 a2 a3", "c0 c1 c2 c4", "p0 p1 p2 p3")


def test_one_result_of_two_hospitals_is_one_entry_and_two_draws_are_two(vault, hospital, other):
    fill(vault, hospital, lab("1"), lab("2", effectiveDateTime="2024-03-01T14:00:00Z"))
    fill(vault, other, lab("x"))
    assert grouped(vault, "Observation") == sets("1 x", "2")
    with vault.read() as session:
        assert entries.counts(session) == {"results": 2}


def test_one_hospital_and_its_file_are_one_entry_with_two_pieces_of_evidence(vault, hospital):
    upload = house.connection(vault, kind="upload")
    name = "5f0c3a52-1111-4222-8333-444455556666"
    fill(vault, hospital, lab(name))
    fill(vault, upload, lab(name))
    assert len(rows(vault, "SELECT * FROM entry")) == 1
    assert rows(vault, "SELECT entry, record FROM evidence") == [(1, 2)]


def test_a_new_version_that_says_something_else_leaves_its_entry(vault, hospital, other):
    fill(vault, hospital, allergy("1", code="1191"))
    fill(vault, other, allergy("2", code="318272"))
    assert grouped(vault) == sets("1 2")
    fill(vault, other, allergy("2", code="2670"))
    assert grouped(vault) == sets("1", "2")


def test_what_a_connection_brought_leaves_with_it_and_the_rest_parts(vault, hospital, other):
    third = house.connection(vault, "Third")
    fill(vault, hospital, allergy("1", "Foo root", code="990001"))
    fill(vault, other, allergy("2", "Bar root"))
    fill(vault, third, allergy("3", "Bar root", code="990001"))
    assert grouped(vault) == sets("1 2 3")
    keep.erase(vault, third)
    gather.settle(vault)
    assert grouped(vault) == sets("1", "2")


def test_a_rebuild_makes_the_same_entries_and_keeps_the_patients_word(vault, hospital, other):
    fill(vault, hospital, allergy("1", code="1191"), allergy("2", code="2670"))
    fill(vault, other, allergy("3", code="318272"), allergy("4", "codeine"))
    gather.split(vault, local_id(vault, "4"), by="me", now=clock.now())
    before = grouped(vault), rows(vault, "SELECT * FROM entry ORDER BY pk")
    with vault.write() as session:
        session.merge(VaultFact(name="derived_version", value=b"1"))
    with vault.read() as session:
        assert entries.outdated(session)
    gather.refresh(vault)
    assert (grouped(vault), rows(vault, "SELECT * FROM entry ORDER BY pk")) == before
    with vault.read() as session:
        assert not entries.outdated(session)


def test_an_import_that_broke_off_before_joining_is_made_up_for(vault, hospital, other):
    keep_all(vault, hospital, [item(allergy("1", code="1191"))])
    keep_all(vault, other, [item(allergy("2", code="318272"))])
    gather.refresh(vault)
    assert grouped(vault) == sets("1 2")
    assert gather.settle(vault) == 0


def test_nothing_is_written_where_nothing_waits(vault, hospital):
    fill(vault, hospital, allergy("1", code="1191"))
    before = rows(vault, "SELECT total_changes()")
    assert gather.settle(vault) == 0
    assert rows(vault, "SELECT total_changes()") == before


# ------------------------------------------------------------------------- the patient's word


def test_a_split_holds_through_later_imports_and_is_undone(vault, hospital, other):
    fill(vault, hospital, allergy("1", code="1191"))
    fill(vault, other, allergy("2", code="318272"))
    step = gather.split(vault, local_id(vault, "2"), by="me", now=clock.now())
    assert grouped(vault) == sets("1", "2")
    fill(vault, other, allergy("2", code="318272", note=[{"text": "told again"}]))
    fill(vault, other, allergy("5", "Latex"))
    assert grouped(vault) == sets("1", "2", "5")
    gather.undo(vault, step, now=clock.now())
    assert grouped(vault) == sets("1 2", "5")
    with pytest.raises(NotFound):
        gather.undo(vault, step, now=clock.now())


def test_a_join_goes_before_every_rule_and_is_undone(vault, hospital, other):
    fill(vault, hospital, allergy("1", "Bee sting"))
    fill(vault, other, allergy("2", "Insect bite, unspecified"))
    assert grouped(vault) == sets("1", "2")
    step = gather.join(vault, local_id(vault, "1"), local_id(vault, "2"), by="me", now=clock.now())
    assert grouped(vault) == sets("1 2")
    fill(vault, hospital, allergy("3", "Peanuts"))
    assert grouped(vault) == sets("1 2", "3")
    gather.undo(vault, step, now=clock.now())
    assert grouped(vault) == sets("1", "2", "3")


def test_the_newer_word_goes_before_the_older_one(vault, hospital, other):
    fill(vault, hospital, allergy("1", code="1191"))
    fill(vault, other, allergy("2", code="318272"))
    one, two = local_id(vault, "1"), local_id(vault, "2")
    gather.split(vault, two, by="me", now=clock.now())
    again = gather.join(vault, one, two, by="me", now=clock.now())
    assert grouped(vault) == sets("1 2")
    gather.split(vault, two, by="me", now=clock.now())
    assert grouped(vault) == sets("1", "2")
    gather.undo(vault, again, now=clock.now())
    assert grouped(vault) == sets("1", "2")


def test_two_results_of_other_days_can_be_joined_by_hand(vault, hospital):
    fill(vault, hospital, lab("1"), lab("2", effectiveDateTime="2024-03-02T08:00:00Z"))
    one, two = (local_id(vault, name, "Observation") for name in ("1", "2"))
    gather.join(vault, one, two, by="me", now=clock.now())
    assert grouped(vault, "Observation") == sets("1 2")


def test_what_stands_alone_cannot_be_split_and_two_kinds_cannot_be_joined(vault, hospital):
    fill(vault, hospital, allergy("1", "Latex"), lab("o"))
    one, result = local_id(vault, "1"), local_id(vault, "o", "Observation")
    with pytest.raises(InvalidInput):
        gather.split(vault, one, by="me", now=clock.now())
    with pytest.raises(InvalidInput):
        gather.join(vault, one, result, by="me", now=clock.now())
    with pytest.raises(NotFound):
        gather.split(vault, "0" * 16, by="me", now=clock.now())


def test_decisions_leave_and_come_back_with_the_records(vault, hospital, other, tmp_path):
    pages = {"Hospital": ("1", "1191"), "Practice": ("2", "318272")}
    fill(vault, hospital, allergy("1", code="1191"))
    fill(vault, other, allergy("2", code="318272"))
    gather.split(vault, local_id(vault, "2"), by="me", now=clock.now())
    with vault.read() as session:
        lines = entries.decisions_out(session)
    names = {
        one: local_id(vault, one) for one in ("1", "2")
    }  # the ids under which they are exported
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with house.opened(elsewhere) as second:
        for name, (id_, code) in pages.items():
            fill(second, house.connection(second, name), allergy(names[id_], code=code))
        assert grouped(second) == sets(f"{names['1']} {names['2']}")
        with second.write() as session:
            assert entries.decisions_in(session, lines) == 1
            assert entries.decisions_in(session, lines) == 0
        gather.settle(second)
        assert grouped(second) == sets(names["1"], names["2"])


def test_what_was_released_is_gathered_by_the_same_rules_without_the_store(vault, hospital, other):
    fill(vault, hospital, allergy("1", code="1191"))
    fill(vault, other, allergy("2", code="318272"))
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("AllergyIntolerance",)))
        (whole,) = reconcile(found).entries
        assert len(whole.sources) == 2
        (part,) = reconcile(found[:1]).entries
        assert len(part.records) == 1


# ------------------------------------------------------------------------- what Home reads


def test_home_finds_what_may_be_current_with_all_its_evidence(vault, hospital, other):
    fill(
        vault,
        hospital,
        medicine("1", "Omeprazole 20 mg"),
        medicine("2", "Amoxicillin 500 mg", "stopped"),
        medicine("3", "Sertraline 50 mg"),
    )
    fill(vault, other, medicine("4", "Prilosec 20 mg", "stopped"))
    with vault.read() as session:
        found, more = entries.current(session, vault, "medications")
        assert {one.remote_id for one in found} == {"1", "3", "4"}
        assert not more
        told, _ = entries.current(session, vault, "medications", each=1)
        assert len(told) == 2
        some, more = entries.current(session, vault, "medications", limit=1)
        assert more
        assert len(some) in (1, 2)


def test_home_finds_statements_that_nothing_is_known_and_no_former_allergy(vault, hospital):
    none = {"coding": [{"system": "http://snomed.info/sct", "code": "716186003"}]}
    over = {"coding": [{"code": "resolved"}]}
    fill(
        vault,
        hospital,
        {"resourceType": "AllergyIntolerance", "id": "1", "code": none},
        allergy("2", "Latex", clinicalStatus=over),
    )
    with vault.read() as session:
        found, _ = entries.current(session, vault, "allergies")
    assert [one.remote_id for one in found] == ["1"]


def test_what_has_not_been_looked_at_yet_counts_as_perhaps_current(vault, hospital):
    keep_all(vault, hospital, [item(medicine("1", "Omeprazole 20 mg"))])
    with vault.read() as session:
        found, _ = entries.current(session, vault, "medications")
    assert [one.remote_id for one in found] == ["1"]


def test_what_an_older_release_names_otherwise_is_joined_as_the_pages_read_it(
    vault, hospital, other
):
    older = {
        "resourceType": "AllergyIntolerance",
        "id": "dstu2",
        "status": "active",
        "substance": {"coding": [{"system": RXNORM, "code": "7982"}]},
    }
    refused = {
        "resourceType": "Immunization",
        "id": "refused",
        "status": "completed",
        "wasNotGiven": True,
        "date": "2015-10-01",
        "vaccineCode": {"coding": [{"system": "http://hl7.org/fhir/sid/cvx", "code": "140"}]},
    }
    given = {
        "resourceType": "Immunization",
        "id": "given",
        "status": "completed",
        "occurrenceDateTime": "2015-10-01",
        "vaccineCode": refused["vaccineCode"],
    }
    fill(vault, hospital, older, refused)
    fill(vault, other, allergy("r4", code="7982"), given)
    assert grouped(vault) == sets("dstu2 r4")
    assert grouped(vault, "Immunization") == sets("given", "refused")
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("AllergyIntolerance",)))
        told = reconcile(found)
    assert [len(entry.records) for entry in told.entries] == [2]


def test_records_that_change_places_between_entries_keep_every_entry_founded_by_its_first(
    vault, hospital, other
):
    names = [f"5f0c3a52-1111-4222-8333-44445555666{number}" for number in range(4)]
    fill(vault, hospital, *(lab(name) for name in names))
    fill(vault, other, *(lab(name) for name in names))
    step = [
        entries.Group(1, (1, 6), entries.LISTED, 1),
        entries.Group(2, (2, 3, 5), entries.LISTED, 1),
        entries.Group(4, (4, 7, 99), entries.LISTED, 1),  # 99 is gone meanwhile
        entries.Group(8, (8,), entries.LISTED, 1),
    ]
    back = [entries.Group(pk, (pk, pk + 4), entries.LISTED, 1) for pk in range(1, 5)]
    for wanted in (step, back, step):
        with vault.write() as session:
            entries.write(session, wanted)
        homes = dict(rows(vault, "SELECT record, entry FROM evidence"))
        founders = {row[0] for row in rows(vault, "SELECT pk FROM entry")}
        assert founders == {group.pk for group in wanted}
        assert homes == {
            pk: group.pk for group in wanted for pk in group.records[1:] if pk in range(1, 9)
        }


def problem(id_, code, onset, **more):
    coding = {"system": "http://snomed.info/sct", "code": code, "display": f"Problem {code}"}
    concept = {"coding": [coding], "text": f"Problem {code}"}
    return {"resourceType": "Condition", "id": id_, "code": concept, "onsetDateTime": onset, **more}


def test_what_an_import_read_ahead_is_joined_as_what_the_vault_holds(vault, hospital, other):
    def listed(number):
        return (
            allergy(f"a{number}", code="7982"),
            problem(f"p{number}", "38341003", f"201{number}-01-01"),
            problem(f"q{number}", "44054006", "2015-01-01"),
            medicine(f"m{number}", "Metformin 500 mg oral tablet"),
        )

    fill(vault, hospital, *listed(1), *listed(2))
    fill(vault, other, *listed(3), allergy("a3", code="2670"))  # twice in one file: the last counts
    wanted = {
        "AllergyIntolerance": sets("a1 a2", "a3"),
        "Condition": sets("p1", "p2", "p3", "q1 q2 q3"),
        "MedicationRequest": sets("m1 m2 m3"),
    }
    assert {type_: grouped(vault, type_) for type_ in wanted} == wanted
    with vault.write() as session:
        entries.rebuild(session)
    gather.settle(vault)
    assert {type_: grouped(vault, type_) for type_ in wanted} == wanted


def test_a_record_read_ahead_is_not_told_once_the_vault_has_another(vault, hospital):
    fill(vault, hospital, allergy("1", code="7982"))
    ((pk, key, number, hash_),) = rows(vault, "SELECT pk, key, type, hash FROM record")
    row = (pk, key, hospital, number, "1", 1, 0, None, 0, 0)
    written = entries.JustWritten()
    held = written.add(row, hash_, b'{"resourceType":"AllergyIntolerance","id":"1"}')
    with vault.read() as session:
        assert entries.loaded(session, vault, [pk], ahead=written) == [held]
    fill(vault, hospital, allergy("1", code="2670"))
    with vault.read() as session:
        (now,) = entries.loaded(session, vault, [pk], ahead=written)
    assert now.document["code"]["coding"][0]["code"] == "2670"
    assert now is not held


def test_an_import_of_more_than_is_held_ahead_is_joined_from_the_vault(
    vault, hospital, other, monkeypatch
):
    monkeypatch.setattr(entries, "_AHEAD", 2)
    fill(vault, hospital, *(allergy(f"a{number}", code="7982") for number in range(4)))
    fill(vault, other, allergy("b", code="7982"), allergy("c", code="2670"))
    assert grouped(vault) == sets("a0 a1 a2 a3 b", "c")


def test_what_is_held_ahead_is_bounded_in_bytes_whatever_a_hospital_sends(hospital):
    body = b'{"resourceType":"AllergyIntolerance","id":"%d","note":[{"text":"%b"}]}'
    written = entries.JustWritten()
    number = KINDS["AllergyIntolerance"].number

    def add(pk, size):
        row = (pk, pk, hospital, number, str(pk), 1, 0, None, 0, 0)
        return written.add(row, b"", body % (pk, b"x" * size))

    assert add(1, 5 << 20) is not None
    assert add(2, 5 << 20) is None  # the vault has it
    assert add(3, 10) is not None
    assert add(4, 3 << 20) is None
