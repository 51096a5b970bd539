"""Keeping records in a real encrypted vault."""

import zlib
from base64 import b64encode
from collections import Counter

import orjson
import pytest

from phr import clock, keep, whose
from phr.bench import house
from phr.errors import NotFound
from phr.fhir import references
from phr.fhir.check import Note
from phr.fhir.labels import Label
from phr.fhir.record import Selection
from phr.store import bodies, entries, index, records
from tests.fixtures_keep import PATIENT, hospital, item, keep_all, lab, rows, vault

__all__ = ["hospital", "vault"]


def only(vault, type_="Observation"):
    with vault.read() as session:
        (found,) = records.select(session, vault, Selection(types=(type_,)))
        return found


def everything(vault):
    tables = ("record", "record_version", "entry", "evidence", "counter", "attachment_link")
    return {table: rows(vault, f"SELECT * FROM {table}") for table in tables}


def test_every_stored_byte_is_the_byte_that_was_sent(vault, hospital):
    sent = [lab("a", "1.10"), lab("b", "1e2").replace(b",", b" ,\n"), b" " + lab("c", "-0.0")]
    assert keep_all(vault, hospital, [item(body) for body in sent]).new == 3
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("Observation",), order="oldest"))
    assert sorted(body.strip() for body in sent) == sorted(record.body for record in found)
    assert {"1.10", "1e2", "-0.0"} == {
        str(record.document["valueQuantity"]["value"]) for record in found
    }


def test_unchanged_bytes_write_no_record_index_or_entry_row(vault, hospital):
    items = [item(lab(str(number))) for number in range(50)]
    keep_all(vault, hospital, items)
    before = everything(vault)
    kept = keep_all(vault, hospital, items)
    assert (kept.new, kept.changed, kept.unchanged) == (0, 0, 50)
    assert before == everything(vault)


def test_changed_bytes_make_a_new_version_and_keep_the_old_one(vault, hospital):
    keep_all(vault, hospital, [item(lab(value="5.4"))])
    assert keep_all(vault, hospital, [item(lab(value="5.5"))]).changed == 1
    with vault.read() as session:
        current = only(vault)
        found = records.versions(session, vault, "Observation", current.local_id)
        assert [record.version for record in found] == [2, 1]
        assert [str(each.document["valueQuantity"]["value"]) for each in found] == ["5.5", "5.4"]
        assert b'"Observation/' not in records.released_bytes(vault, found[1], session)


def test_a_server_that_stamps_each_reading_makes_no_versions(vault, hospital):
    def stamped(number):
        return lab(meta={"versionId": str(number), "lastUpdated": f"2024-01-0{number}T00:00:00Z"})

    keep_all(vault, hospital, [item(stamped(1))])
    assert keep_all(vault, hospital, [item(stamped(2))]).unchanged == 1
    other = orjson.loads(stamped(3)) | {"meta": {"tag": [{"code": "new"}]}}
    assert keep_all(vault, hospital, [item(other)]).changed == 1


def test_the_same_id_twice_in_one_page_keeps_both_and_again_changes_nothing(vault, hospital):
    both = [item(lab(value="5.4")), item(lab(value="5.5"))]
    kept = keep_all(vault, hospital, both)
    assert (kept.new, kept.changed) == (1, 1)
    assert rows(vault, "SELECT version FROM record_version") == [(1,)]
    before = everything(vault)
    assert keep_all(vault, hospital, both).unchanged == 2
    assert before == everything(vault)


def test_a_live_server_going_back_to_old_content_is_believed(vault, hospital):
    for value in ("5.4", "5.5", "5.4"):
        keep_all(vault, hospital, [item(lab(value=value))])
    assert (only(vault).version, str(only(vault).document["valueQuantity"]["value"])) == (3, "5.4")


def test_an_old_file_does_not_bring_old_content_back(vault):
    upload = house.connection(vault, kind="upload")
    for value in ("5.4", "5.5"):
        keep_all(vault, upload, [item(lab(value=value))])
    assert keep_all(vault, upload, [item(lab(value="5.4"))]).unchanged == 1
    assert str(only(vault).document["valueQuantity"]["value"]) == "5.5"


def test_the_same_id_from_two_hospitals_is_two_records(vault, hospital):
    other = house.connection(vault, "Other hospital")
    keep_all(vault, hospital, [item(lab("1", "1"))])
    keep_all(vault, other, [item(lab("1", "2"))])
    with vault.read() as session:
        found = records.select(session, vault, Selection())
        assert len({record.local_id for record in found}) == 2
        assert entries.counts(session)["results"] == 2


def test_one_hospital_by_two_ways_is_one_entry_with_two_pieces_of_evidence(vault, hospital):
    upload = house.connection(vault, kind="upload")
    name = "5f0c3a52-1111-4222-8333-444455556666"
    keep_all(vault, hospital, [item(lab(name))])
    keep_all(vault, upload, [item(lab(name))])
    assert rows(vault, "SELECT pk FROM entry") == [(1,)]
    assert rows(vault, "SELECT entry, record FROM evidence") == [(1, 2)]  # beside its first
    keep.erase(vault, hospital)
    assert rows(vault, "SELECT entry, record FROM evidence") == []
    assert rows(vault, "SELECT pk FROM entry") == [(2,)]


BAD = {
    "not JSON": b"{nonsense",
    "a name twice": b'{"resourceType":"Observation","id":"9","status":"a","status":"b"}',
    "no type": b'{"id":"9"}',
    "unknown type": b'{"resourceType":"Potion","id":"9"}',
    "type is a number": b'{"resourceType":1,"id":"9"}',
    "a message": b'{"resourceType":"OperationOutcome"}',
    "id is a number": b'{"resourceType":"Observation","id":9}',
    "id is empty": b'{"resourceType":"Observation","id":""}',
    "lone surrogate": b'{"resourceType":"Observation","id":"9","note":[{"text":"\\ud800"}]}',
    "NUL": b'{"resourceType":"Observation","id":"9","note":[{"text":"\\u0000"}]}',
    "too deep": b'{"resourceType":"Observation","id":"9","x":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "huge number": b'{"resourceType":"Observation","id":"9","valueInteger":1e999}',
    "invalid UTF-8": b'{"resourceType":"Observation","id":"\xff"}',
    "nothing": b"",
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_entry_waits_in_quarantine_and_the_rest_is_kept(vault, hospital, body):
    items = [item(lab("1")), item(body, "entry 17"), item(lab("2"))]
    kept = keep_all(vault, hospital, items)
    assert (kept.new, kept.quarantined) == (2, 1)
    assert kept.reasons[0][0] == "entry 17"
    again = keep_all(vault, hospital, items)
    assert (again.unchanged, again.quarantined) == (2, 1)
    ((place, reason),) = rows(vault, "SELECT place, reason FROM quarantined")
    assert ("entry 17", kept.reasons[0][1]) == (place, reason)


def test_another_patients_records_are_kept_nowhere_visible(vault, hospital):
    items = [
        item(lab("1")),
        item(lab("2", subject={"reference": "Patient/somebody-else"}), "entry 2"),
        item({"resourceType": "Patient", "id": "somebody-else"}, "entry 3"),
        item({"resourceType": "Patient", "id": PATIENT}),
        item({"resourceType": "Coverage", "id": "c", "beneficiary": {"reference": "Patient/x"}}),
        item({"resourceType": "Practitioner", "id": "d"}),
    ]
    kept = keep_all(vault, hospital, items, expected_patient=PATIENT)
    assert (kept.new, kept.quarantined) == (3, 3)
    assert all(reason == whose.ANOTHER for _, reason in kept.reasons)


def person(id_, birth_date):
    return item({"resourceType": "Patient", "id": id_, "birthDate": birth_date}, f"patient {id_}")


@pytest.mark.parametrize("early", [True, False])
def test_a_file_about_several_people_brings_only_the_first(vault, early):
    upload = house.connection(vault, kind="upload")
    theirs = item(lab("2", subject={"reference": "Patient/b"}), "theirs")
    people = [person("a", "1970-01-01"), person("b", "1971-01-01"), person("c", "1970")]
    items = [item(lab("1", subject={"reference": "Patient/a"}))]
    items += [theirs, *people] if early else [*people, theirs]
    kept = keep_all(vault, upload, items)
    assert {"patient b", "theirs"} == {place for place, _ in kept.reasons}
    assert (kept.new, kept.quarantined) == (3, 2)
    with vault.read() as session:
        found = {record.remote_id for record in records.select(session, vault, Selection())}
        assert found == {"1", "a", "c"}
        assert records.counts(session) == {"Observation": 1, "Patient": 2}
    assert {"patient b", "theirs"} == {
        place for (place,) in rows(vault, "SELECT place FROM quarantined")
    }
    again = keep_all(
        vault, house.connection(vault, "Later", kind="upload"), [person("b", "1971-01-01")]
    )
    assert again.quarantined == 1


def test_a_strangers_resource_under_the_same_id_does_not_take_ours_away(vault):
    upload = house.connection(vault, kind="upload")
    ours = item(lab("1", subject={"reference": "Patient/a"}))
    theirs = item(lab("1", "9", subject={"reference": "Patient/b"}))
    items = [ours, theirs, person("a", "1970-01-01"), person("b", "1971-01-01")]
    keep_all(vault, upload, items)
    assert only(vault).body == ours.body
    before = rows(vault, "SELECT pk, key, version, body FROM record")
    again = keep_all(vault, upload, items)
    assert (again.new, again.changed) == (0, 0)
    assert before == rows(vault, "SELECT pk, key, version, body FROM record")
    assert rows(vault, "SELECT * FROM record_version") == []


def test_entered_in_error_is_kept_and_marked(vault, hospital):
    keep_all(vault, hospital, [item(lab(status="entered-in-error"))])
    with vault.read() as session:
        assert Note.IN_ERROR & records.notes(session, only(vault).pk)


def test_ledger_and_cursor_commit_with_their_records_or_not_at_all(vault, hospital):
    pull = house.pull(vault, hospital)
    keeper = keep.Keeper(vault, hospital, pull, now=clock.now())

    def breaks(session, kept):
        raise NotFound

    keeper.page("x", [item(lab("1"))], settle=breaks)
    with pytest.raises(NotFound):
        keeper.flush()
    assert rows(vault, "SELECT * FROM record") == []
    seen = []
    keeper.page("x", [item(lab("1")), item(b"{")], settle=lambda _, kept: seen.append(kept))
    keeper.page("y", [item(lab("1")), item(lab("2"))], settle=lambda _, kept: seen.append(kept))
    assert seen == []
    keeper.finish()
    assert [(kept.new, kept.unchanged, kept.quarantined) for kept in seen] == [(1, 0, 1), (1, 1, 0)]


def test_pages_are_committed_in_groups(vault, hospital):
    keeper = keep.Keeper(vault, hospital, house.pull(vault, hospital), now=clock.now(), group=10)
    done = [
        keeper.page("x", [item(lab(f"{page}-{number}")) for number in range(4)]).new
        for page in range(5)
    ]
    assert done == [0, 0, 12, 0, 0]
    assert keeper.due() <= keep.WAIT
    assert keeper.finish().new == 8
    assert float("inf") == keeper.due()


def test_what_a_full_pull_does_not_meet_is_withdrawn_and_comes_back(vault, hospital):
    a, b = item(lab("a")), item(lab("b"))
    keep_all(vault, hospital, [a, b])
    pull = house.pull(vault, hospital)
    keep_all(vault, hospital, [a], pull=pull)
    keep_all(vault, hospital, [], pull=pull)  # goes on after a crash: what was met is remembered
    assert keep.withdraw_unseen(vault, hospital, pull, ["Observation", "Condition"]) == 1
    with vault.read() as session:
        shown = records.select(session, vault, Selection(withdrawn=False))
        assert [record.remote_id for record in shown] == ["a"]
        assert [record.withdrawn for record in records.select(session, vault, Selection())] == [
            True,
            False,
        ]
    keep_all(vault, hospital, [a, b])
    with vault.read() as session:
        assert records.count(session, Selection(withdrawn=False)) == 2
    assert rows(vault, "SELECT * FROM seen WHERE pull = ?", (pull,)) == []


def test_withdrawing_leaves_other_hospitals_and_types_alone(vault, hospital):
    other = house.connection(vault, "Other")
    keep_all(vault, other, [item(lab("a"))])
    keep_all(vault, hospital, [item(lab("a")), item({"resourceType": "Device", "id": "d"})])
    pull = house.pull(vault, hospital)
    assert keep.withdraw_unseen(vault, hospital, pull, ["Observation"]) == 1


def test_the_private_mark_stays_over_new_versions_and_history(vault, hospital):
    keep_all(vault, hospital, [item(lab(value="1"))])
    local_id = only(vault).local_id
    keep.mark_private(vault, local_id, on=True)
    keep_all(vault, hospital, [item(lab(value="2"))])
    with vault.read() as session:
        found = records.versions(session, vault, "Observation", local_id)
    assert all(Label.PRIVATE in record.labels for record in found)
    keep.mark_private(vault, local_id, on=False)
    with vault.read() as session:
        found = records.versions(session, vault, "Observation", local_id)
    assert not any(Label.PRIVATE in record.labels for record in found)
    with pytest.raises(NotFound):
        keep.mark_private(vault, "0" * 16, on=True)


def test_erasing_a_connection_leaves_nothing_of_it(vault, hospital):
    document = {
        "resourceType": "DocumentReference",
        "id": "d",
        "content": [
            {"attachment": {"contentType": "text/plain", "data": b64encode(b"x").decode()}}
        ],
    }
    keep_all(vault, hospital, [item(lab("1")), item(lab("1", "9")), item(document), item(b"{")])
    other = house.connection(vault, "Other")
    keep_all(vault, other, [item(lab("z"))])
    before = everything(vault)["record"]
    assert keep.erase(vault, hospital) == 2
    after = everything(vault)
    assert [before[-1]] == after["record"]
    assert [(other, 96, 1)] == after["counter"]
    for table in ("record_version", "attachment", "attachment_link", "quarantined"):
        assert rows(vault, f"SELECT * FROM {table}") == []
    with vault.read() as session:
        assert len(records.search(session, vault, "glucose")) == 1
    assert keep.erase(vault, hospital) == 0


def test_files_inside_records_are_kept_by_their_hash(vault, hospital):
    text = b"Discharge note 5.4"
    attachment = {"contentType": "text/plain", "data": b64encode(text).decode()}
    document = {
        "resourceType": "DocumentReference",
        "id": "d",
        "content": [
            {"attachment": attachment},
            {"attachment": {"contentType": "application/pdf", "url": "Binary/7"}},
            {"attachment": {"contentType": "text/plain", "data": "no base64!"}},
        ],
    }
    binary = {"resourceType": "Binary", "id": "7", **attachment}
    keep_all(vault, hospital, [item(document), item(binary)])
    with vault.read() as session:
        found = records.attachments(session, only(vault, "DocumentReference").pk)
        assert [each.url for each in found] == ["#1", "Binary/7"]
        assert ("text/plain", text) == records.attachment(session, found[0].hash)
        pk, url = found[1].record_pk, found[1].url
        assert (found[1].hash, found[1].sentence) == (None, None)
        assert len(records.attachment_records(session, vault, found[0].hash)) == 2
    keep.attach_failed(vault, pk, url, "The hospital refused this file.")
    with vault.read() as session:
        assert records.attachments(session, pk)[1].sentence == "The hospital refused this file."
    keep.attach(vault, pk, url, "application/pdf", b"%PDF-")
    with vault.read() as session:
        found = records.attachments(session, pk)[1]
        assert (found.sentence, found.size) == (None, 5)
    assert rows(vault, "SELECT count(*) FROM attachment")[0][0] == 2


def test_references_leave_as_local_ids_and_the_patient_as_the_one(vault, hospital):
    body = lab(
        "1",
        encounter={"reference": f"{house.BASE}/Encounter/e1"},
        performer=[{"reference": "https://elsewhere.org/fhir/Practitioner/1"}, {"reference": "#x"}],
        basedOn=[{"reference": "ServiceRequest/s"}],
    )
    keep_all(vault, hospital, [item(body)])
    with vault.read() as session:
        record = only(vault)
        out = orjson.loads(records.released_bytes(vault, record, session))
    assert record.local_id == out["id"]
    assert f"Patient/{references.patient_id(vault.id_key)}" == out["subject"]["reference"]
    here = records.local_id(vault, hospital, "Encounter", "e1")
    assert f"Encounter/{here}" == out["encounter"]["reference"]
    assert [each["reference"] for each in out["performer"]] == [
        "https://elsewhere.org/fhir/Practitioner/1",
        "#x",
    ]
    assert "5.40" in records.released_bytes(vault, record).decode()


def test_urns_of_a_bundle_lead_to_its_resources(vault):
    upload = house.connection(vault, kind="upload")
    encounter = {"resourceType": "Encounter", "status": "finished"}
    doctor = {"resourceType": "Practitioner", "id": "doc"}
    body = {
        "resourceType": "Observation",
        "encounter": {"reference": "urn:uuid:aaaa-1"},
        "performer": [{"reference": "urn:uuid:bbbb-2"}, {"reference": "urn:uuid:unknown"}],
    }
    items = [
        item(body, url="urn:uuid:cccc-3"),
        item(encounter, url="urn:uuid:aaaa-1"),
        item(doctor, url="urn:uuid:bbbb-2"),
    ]
    keep_all(vault, upload, items)
    with vault.read() as session:
        out = orjson.loads(records.released_bytes(vault, only(vault), session))
        keys = records.referenced(session, vault, only(vault))
        assert sorted(record.type for record in records.by_keys(session, vault, keys)) == [
            "Encounter",
            "Practitioner",
        ]
    assert f"Encounter/{only(vault, 'Encounter').local_id}" == out["encounter"]["reference"]
    assert [f"Practitioner/{only(vault, 'Practitioner').local_id}", "urn:uuid:unknown"] == [
        each["reference"] for each in out["performer"]
    ]
    assert keep_all(vault, upload, items).unchanged == 3


def test_counters_follow_the_records(vault, hospital):
    items = [item(lab(str(number))) for number in range(7)]
    keep_all(vault, hospital, [*items, *items, item({"resourceType": "Device", "id": "d"})])
    with vault.read() as session:
        assert records.counts(session) == {"Observation": 7, "Device": 1}
        assert records.counts(session, hospital) == {"Observation": 7, "Device": 1}
        assert entries.counts(session) == {"results": 7, "other": 1}


def test_the_first_import_builds_its_indexes_at_the_end_and_after_a_crash(vault, hospital):
    wanted = {each.name for each in index.secondary()}

    def present():
        return {row[0] for row in rows(vault, "SELECT name FROM sqlite_schema WHERE type='index'")}

    keeper = keep.Keeper(vault, hospital, house.pull(vault, hospital), now=clock.now())
    keeper.page("x", [item(lab("1"))])
    keeper.flush()
    assert not wanted & present()
    del keeper  # the process dies here; the vault opens again
    index.ensure(vault)
    assert wanted <= present()
    keep_all(vault, hospital, [item(lab("2"))])
    assert wanted <= present()


def test_a_first_import_knows_what_it_wrote_without_an_index(vault, hospital):
    keeper = keep.Keeper(vault, hospital, house.pull(vault, hospital), now=clock.now())
    kept = keep.Kept()
    for body in (lab("1"), lab("1"), lab("1", "7"), lab("2")):
        keeper.page("x", [item(body)])
        kept += keeper.flush()
    assert (kept.new, kept.changed, kept.unchanged) == (2, 1, 1)
    keeper.finish()
    assert [tuple(row) for row in rows(vault, "SELECT remote_id, version FROM record")] == [
        ("1", 2),
        ("2", 1),
    ]


def test_entries_are_rebuilt_from_the_records(vault, hospital):
    keep_all(vault, hospital, [item(lab(str(number))) for number in range(5)])
    before = everything(vault)
    with vault.write() as session:
        session.connection().exec_driver_sql("DELETE FROM entry")
        assert entries.rebuild(session) == 5
    assert before == everything(vault)


def test_texts_and_concepts_are_stored_once(vault, hospital):
    keep_all(vault, hospital, [item(lab(str(number))) for number in range(20)])
    keep_all(vault, hospital, [item(lab("x"))])
    counted = Counter(
        {
            table: rows(vault, f"SELECT count(*) FROM {table}")[0][0]
            for table in ("search_text", "concept")
        }
    )
    assert counted == {"search_text": 1, "concept": 1}


def test_a_connection_gets_a_dictionary_of_its_own_and_old_bodies_stay_readable(vault, hospital):
    def noted(number):
        digest = f"{zlib.crc32(str(number).encode()):08x}"
        return lab(str(number), note=[{"text": f"Ward {number % 7}, nurse {digest}"}] * 3)

    sent = {str(number): noted(number) for number in range(400)}
    keep_all(vault, hospital, [item(body) for body in sent.values()])
    assert not keep.train(vault, hospital, least=500)
    assert keep.train(vault, hospital, least=300)
    assert not keep.train(vault, hospital, least=300)
    more = {str(number): noted(number) for number in range(400, 420)}
    keep_all(vault, hospital, [item(body) for body in more.values()])
    with vault.read() as session:
        found = records.scan(session, vault, limit=1000)
    assert {**sent, **more} == {record.remote_id: record.body for record in found}
    used = {bodies.dictionary_id(row[0]) for row in rows(vault, "SELECT body FROM record")}
    assert len(used) == 2


def test_nothing_is_kept_for_a_connection_that_does_not_exist(vault):
    with pytest.raises(NotFound):
        keep.Keeper(vault, 4711, 1, now=clock.now())


def test_a_long_first_import_builds_its_indexes_on_the_way(vault, hospital, monkeypatch):
    monkeypatch.setattr(keep, "DEFERRED", 3)
    wanted = {each.name for each in index.secondary()}
    keeper = keep.Keeper(vault, hospital, house.pull(vault, hospital), now=clock.now())
    for number in range(5):
        keeper.page("x", [item(lab(str(number)))])
        keeper.flush()
        names = rows(vault, "SELECT name FROM sqlite_schema WHERE type = 'index'")
        assert (wanted <= {row[0] for row in names}) is (number >= 2)
    again = keeper.page("x", [item(lab("0")), item(lab("4", "7"))]) + keeper.finish()
    assert (again.new, again.changed, again.unchanged) == (0, 1, 1)
    assert records_there(vault) == ["0", "1", "2", "3", "4"]


def records_there(vault):
    return [row[0] for row in rows(vault, "SELECT remote_id FROM record ORDER BY remote_id")]


def test_several_versions_of_a_stranger_over_ours_and_alone_all_go(vault):
    upload = house.connection(vault, kind="upload")
    ours = item(lab("1", subject={"reference": "Patient/a"}))
    theirs = [
        item(lab(id_, value, subject={"reference": "Patient/b"}))
        for id_ in ("1", "2")
        for value in ("7", "8", "9")
    ]
    people = [person("a", "1970-01-01"), person("b", "1971-01-01")]
    kept = keep_all(vault, upload, [ours, *theirs, *people])
    assert only(vault).body == ours.body
    assert (kept.new, kept.changed) == (2, 0)
    assert rows(vault, "SELECT * FROM record_version") == []
    assert records_there(vault) == ["1", "a"]
    assert rows(vault, "SELECT sum(n) FROM counter")[0][0] == 2


def test_an_import_that_leaves_the_entries_out_is_made_good_by_rebuilding(tmp_path):
    def told(vault, **options):
        upload = house.connection(vault, kind="upload")
        keep_all(vault, upload, [item(lab("1")), item(lab("2"))], **options)
        ours = item(lab("2", "6", subject={"reference": "Patient/a"}))
        theirs = item(lab("2", "9", subject={"reference": "Patient/b"}))
        people = [person("a", "1970-01-01"), person("b", "1971-01-01")]
        keep_all(vault, upload, [ours, theirs, *people], **options)
        with vault.write() as session:
            entries.rebuild(session)
        return rows(
            vault,
            "SELECT record.remote_id, record.version, entry.section, entry.time FROM entry"
            " JOIN record ON record.pk = entry.pk"
            " ORDER BY 1, 2",
        )

    with house.opened(tmp_path) as vault:
        usual = told(vault)
    with house.opened(tmp_path) as vault:
        assert told(vault, with_entries=False) == usual
    assert [row[0] for row in usual][:2] == ["1", "2"]


def test_a_new_version_of_a_letter_brings_its_new_file(vault, hospital):
    def letter(text):
        content = [{"attachment": {"contentType": "text/plain", "data": b64encode(text).decode()}}]
        return item({"resourceType": "DocumentReference", "id": "d", "content": content})

    keep_all(vault, hospital, [letter(b"draft")])
    assert keep_all(vault, hospital, [letter(b"final")]).changed == 1
    with vault.read() as session:
        (found,) = records.attachments(session, only(vault, "DocumentReference").pk)
        assert records.attachment(session, found.hash) == ("text/plain", b"final")


def test_a_file_over_the_limit_is_named_and_not_kept(vault, hospital, monkeypatch):
    monkeypatch.setattr(keep, "MAX_ATTACHMENT", 4)
    data = b64encode(b"12345").decode()
    content = [{"attachment": {"contentType": "text/plain", "data": data}}]
    keep_all(
        vault,
        hospital,
        [item({"resourceType": "DocumentReference", "id": "d", "content": content})],
    )
    with vault.read() as session:
        (found,) = records.attachments(session, only(vault, "DocumentReference").pk)
    assert found.hash is None
    assert "larger than 25 MB" in found.sentence
    assert rows(vault, "SELECT * FROM attachment") == []


def test_a_broken_new_version_waits_in_quarantine_and_the_good_one_stays(vault, hospital):
    keep_all(vault, hospital, [item(lab("1")), item(lab("2"))])
    broken = lab("1").replace(b'"status":"final"', b'"status":"final","status":"amended"')
    kept = keep_all(vault, hospital, [item(broken), item(lab("2", "6"))])
    assert (kept.changed, kept.quarantined) == (1, 1)
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=("Observation",)))
    assert {record.body for record in found} == {lab("1"), lab("2", "6")}


def test_stamps_are_looked_for_in_meta_only_where_it_is_an_object(vault, hospital):
    """Meta as a text is wrong, but kept; another text in it is another version."""
    keep_all(vault, hospital, [item(lab("1", meta="lastUpdated 1"))])
    assert keep_all(vault, hospital, [item(lab("1", meta="lastUpdated 2"))]).changed == 1


def test_a_patient_without_a_birth_date_makes_nobody_a_stranger(vault):
    upload = house.connection(vault, kind="upload")
    nameless = item({"resourceType": "Patient", "id": "a", "name": [{"text": "A"}]})
    assert keep_all(vault, upload, [nameless]).new == 1
    assert keep_all(vault, upload, [person("b", "1971-01-01")]).new == 1
    assert keep_all(vault, upload, [person("c", "1950-01-01")]).quarantined == 1


def test_what_a_full_pull_met_here_and_there_is_not_withdrawn(vault, hospital):
    keep_all(vault, hospital, [item(lab(str(number))) for number in range(10)])
    pull = house.pull(vault, hospital)
    met = ["0", "1", "4", "6", "7", "9"]
    keep_all(vault, hospital, [item(lab(number)) for number in met], pull=pull)
    assert keep.withdraw_unseen(vault, hospital, pull, ["Condition"]) == 0
    keep_all(vault, hospital, [item(lab(number)) for number in met], pull=pull)
    assert keep.withdraw_unseen(vault, hospital, pull, ["Observation"]) == 4
    sql = f"SELECT remote_id FROM record WHERE flags & {int(Note.WITHDRAWN)} = 0 ORDER BY 1"
    assert [row[0] for row in rows(vault, sql)] == met
