"""Pulling from a hospital on loopback: ledger, faults, resuming, tokens (spec/peers.md §2.7)."""

import json
import socket
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from phr import clock, pull
from phr.connectors import rest
from phr.errors import Conflict
from phr.fhir import kinds
from phr.fhir.record import Selection
from phr.store import connections, records
from phr.store.models import Connection, ConnectionState, LedgerState, PullState
from tests.fixtures_hospital import FHIR, connected, go, ledger, observation, stored
from tests.fixtures_net import plain

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def vault(cast):
    return cast.vault("Ada")


def row(vault, connection_id):
    with vault.read() as session:
        return session.scalar(select(Connection).where(Connection.id == connection_id))


def bodies(vault, kind):
    return sorted(record.body for record in stored(vault, kind))


def test_three_pages_are_followed_and_every_byte_is_kept(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert bodies(vault, "Observation") == sorted(hospital.records["Observation"])
    assert b'"value":1.10,' in stored(vault, "Observation")[0].body
    line = ledger(vault, cid)["Observation"]
    assert (line.pages, line.got, line.new, line.claimed) == (3, 6, 6, 6)
    assert line.state == LedgerState.DONE
    after = row(vault, cid)
    assert after.claimed_by is None
    assert after.next_pull_at > clock.now() + timedelta(hours=20)
    assert after.last_full_at is not None


def test_second_pull_asks_only_for_changes_and_changes_nothing(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    hospital.asked.clear()
    assert go(vault, cid, to_hospital) == PullState.DONE
    asked = [found for found in hospital.asked if found.path == "/fhir/Observation"]
    assert all(found.params["_lastUpdated"].startswith("ge20") for found in asked)
    line = ledger(vault, cid)["Observation"]
    assert (line.new, line.changed, line.unchanged) == (0, 0, 6)


def test_changed_record_is_a_new_version(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    hospital.records["Observation"][0] = observation(0, "2.20")
    go(vault, cid, to_hospital)
    assert ledger(vault, cid)["Observation"].changed == 1
    assert {record.version for record in stored(vault, "Observation")} == {1, 2}


def test_a_full_pass_marks_what_is_no_longer_offered(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    gone = hospital.records["Observation"].pop()
    go(vault, cid, to_hospital, full_days=0)
    withdrawn = [record.body for record in stored(vault, "Observation") if record.withdrawn]
    assert withdrawn == [gone]


def test_nothing_is_withdrawn_where_a_page_broke(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    hospital.faults["Observation"] = lambda _: plain(b"", "500 Oops")
    assert go(vault, cid, to_hospital, full_days=0) == PullState.PARTIAL
    assert not any(record.withdrawn for record in stored(vault, "Observation"))


# ------------------------------------------------------------------------- refusals and faults

OUTCOME = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "login"}]}


def outcome(code, status="200 OK"):
    found = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}
    return plain(json.dumps(found).encode(), status, FHIR)


def inside(*entries):
    whole = {"resourceType": "Bundle", "type": "searchset", "entry": list(entries)}
    return plain(json.dumps(whole).encode(), "200 OK", FHIR)


def error_entry(code):
    return {
        "search": {"mode": "outcome"},
        "resource": {
            "resourceType": "OperationOutcome",
            "issue": [{"severity": "error", "code": code}],
        },
    }


REFUSALS = {
    "401": plain(b"<html>401</html>", "401 Unauthorized", "Content-Type: text/html"),
    "empty 403": plain(b"", "403 Forbidden"),
    "403 outcome": outcome("forbidden", "403 Forbidden"),
    "404 html": plain(b"<html>", "404 Not Found", "Content-Type: text/html"),
    "400": outcome("invalid", "400 Bad Request"),
    "405": plain(b"", "405 Method Not Allowed"),
    "410": plain(b"", "410 Gone"),
    "418": plain(b"", "418 Teapot"),
    "422": plain(b"", "422 Unprocessable"),
    "200 outcome": outcome("forbidden"),
    "200 not supported": outcome("not-supported"),
    "entry outcome": inside(error_entry("security")),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_kind_is_a_line_and_the_rest_goes_on(vault, hospital, to_hospital, answer):
    hospital.faults["Condition"] = lambda _: answer
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    lines = ledger(vault, cid)
    assert lines["Condition"].state == LedgerState.REFUSED
    assert lines["Condition"].sentence
    assert lines["Observation"].got == 6
    assert row(vault, cid).state == ConnectionState.ACTIVE


def half(asked):
    whole = b'{"resourceType":"Bundle","entry":[{"resource":' + observation(99)
    return plain(whole, "200 OK", FHIR)


def cut(_):
    return b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b'{"resourceType":"Bundle","entry'


FAULTS = {
    "500": lambda _: plain(b"", "500 Oops"),
    "502 html": lambda _: plain(b"<html>", "502 Bad Gateway"),
    "501": lambda _: plain(b"", "501 Not Implemented"),
    "login page": lambda _: plain(
        b"<!doctype html><p>Sign in", "200 OK", "Content-Type: text/html"
    ),
    "half": half,
    "cut": cut,
    "204": lambda _: b"HTTP/1.1 204 No Content\r\n\r\n",
    "206 of nothing": lambda _: plain(b"", "206 Partial Content"),
    "302": lambda _: plain(b"", "302 Found", "Location: https://login.example/"),
    "nul": lambda _: plain(b"\x00\x01", "200 OK", FHIR),
    "deep": lambda _: plain(b'{"resourceType":"Bundle","entry":' + b"[" * 100_000, "200 OK", FHIR),
    "giant": lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{",
    "brotli": lambda _: plain(b"\x00", "200 OK", "Content-Encoding: br"),
    "exception": lambda _: outcome("exception"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_broken_kind_is_a_line_and_the_rest_goes_on(vault, hospital, to_hospital, fault):
    hospital.faults["Condition"] = fault
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    lines = ledger(vault, cid)
    assert lines["Condition"].state == LedgerState.BROKEN
    assert lines["Condition"].sentence
    assert lines["Condition"].got == 0
    assert lines["Observation"].got == 6
    assert stored(vault, "Condition") == []


def test_silence_for_one_kind_does_not_stop_the_others(vault, hospital, to_hospital):
    gate = threading.Event()

    def silent(_):
        gate.wait(1.3)
        return plain(b"")

    hospital.faults["DocumentReference"] = silent
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    gate.set()
    lines = ledger(vault, cid)
    assert lines["DocumentReference"].state == LedgerState.BROKEN
    assert lines["Observation"].got == 6


def test_where_the_plain_question_is_refused_categories_are_asked(vault, hospital, to_hospital):
    def by_category(asked):
        category = asked.params.get("category")
        if category is None:
            return plain(b"", "400 Bad Request")
        if category not in {"laboratory", "vital-signs"}:
            return plain(b"", "400 Bad Request")
        return None if category == "laboratory" else inside()

    hospital.faults["Observation"] = by_category
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    lines = ledger(vault, cid)
    assert lines["Observation?category=laboratory"].got == 6
    assert lines["Observation?category=vital-signs"].state == LedgerState.DONE
    assert lines["Observation?category=survey"].state == LedgerState.REFUSED
    assert lines["Observation"].state == LedgerState.DONE


def test_a_page_that_dies_halfway_keeps_the_pages_before_and_is_asked_again(
    vault, hospital, to_hospital
):
    tries = []

    def dies_once(asked):
        if asked.params.get("_offset") == "2" and not tries:
            tries.append(1)
            return cut(asked)
        return None

    hospital.faults["Observation"] = dies_once
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert ledger(vault, cid)["Observation"].got == 6
    assert len(stored(vault, "Observation")) == 6


@pytest.mark.parametrize(
    ("link", "word"),
    [
        ("{self}", "circle"),
        ("http://127.0.0.2:9/fhir/Observation?page=2", "outside"),
        ("//evil.example/fhir/Observation", "outside"),
        ("/other/Observation?page=2", "outside"),
        ("javascript:alert(1)", ""),
        ("https://u:p@evil.example/", ""),
        ("ftp://evil.example/", ""),
    ],
    ids=["itself", "host", "scheme-relative", "path", "script", "userinfo", "ftp"],
)
def test_next_links_that_lead_nowhere_good_end_the_chain(vault, hospital, to_hospital, link, word):
    def lost(asked):
        url = link.replace("{self}", hospital.server.url + asked.url)
        whole = {
            "resourceType": "Bundle",
            "link": [{"relation": "next", "url": url}],
            "entry": [{"resource": json.loads(observation(1))}],
        }
        return plain(json.dumps(whole).encode(), "200 OK", FHIR)

    hospital.faults["Observation"] = lost
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    line = ledger(vault, cid)["Observation"]
    assert (line.state, line.got) == (LedgerState.BROKEN, 1)
    assert word in line.sentence


def test_token_never_reaches_another_server(vault, hospital, to_hospital, raw_server):
    foreign = raw_server(plain(b"{}"))
    to_hospital.guard.allow(foreign.place)
    hospital.faults["Observation"] = lambda _: plain(
        json.dumps(
            {
                "resourceType": "Bundle",
                "link": [{"relation": "next", "url": foreign.url + "/fhir/Observation"}],
            }
        ).encode(),
        "200 OK",
        FHIR,
    )
    hospital.records["DocumentReference"] = [document(foreign.url + "/letter.pdf")]
    go(vault, connected(vault, hospital), to_hospital)
    assert foreign.requests == []


def test_pages_without_end_stop_at_the_cap(vault, hospital, to_hospital, monkeypatch):
    monkeypatch.setattr(rest, "MAX_PAGES", 5)

    def endless(asked):
        number = int(asked.params.get("n", "0")) + 1
        url = f"{hospital.base}/Observation?n={number}"
        whole = {"resourceType": "Bundle", "link": [{"relation": "next", "url": url}]}
        return plain(json.dumps(whole).encode(), "200 OK", FHIR)

    hospital.faults["Observation"] = endless
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    assert "stopped at 5" in ledger(vault, cid)["Observation"].sentence


def test_a_page_too_large_is_asked_for_in_smaller_pieces(vault, hospital, to_hospital):
    def too_large(asked):
        if asked.params.get("_count") == "100":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n{"
        return None

    hospital.faults["Observation"] = too_large
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert ledger(vault, cid)["Observation"].got == 6


def test_record_of_another_patient_is_quarantined(vault, hospital, to_hospital):
    hospital.records["Observation"].append(observation(7, patient="p2"))
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    line = ledger(vault, cid)["Observation"]
    assert (line.new, line.quarantined) == (6, 1)


def test_another_person_at_the_patient_address_stops_everything(vault, hospital, to_hospital):
    hospital.faults["Patient"] = lambda _: plain(
        b'{"resourceType":"Patient","id":"p2"}', "200 OK", FHIR
    )
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.FAILED
    assert stored(vault, "Observation") == []
    after = row(vault, cid)
    assert after.state == ConnectionState.NEEDS_REAUTHORISATION
    assert "different person" in after.sentence


# --------------------------------------------------------------------------- being asked to wait


def test_429_with_retry_after_waits_and_goes_on(vault, hospital, to_hospital):
    seen = []

    def busy_once(_):
        if seen:
            return None
        seen.append(1)
        return plain(b"", "429 Too Many Requests", "Retry-After: 0")

    hospital.faults["Observation"] = busy_once
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert ledger(vault, cid)["Observation"].got == 6


def test_a_long_wait_ends_the_run_and_the_next_goes_on_where_it_stopped(
    vault, hospital, to_hospital
):
    hospital.faults["Observation"] = lambda asked: (
        plain(b"", "429 Too Many Requests", "Retry-After: 7200")
        if "_offset" in asked.params
        else None
    )
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.FAILED
    after = row(vault, cid)
    assert after.state == ConnectionState.ACTIVE
    assert timedelta(hours=1.7) < after.next_pull_at - clock.now() < timedelta(hours=2.3)
    assert len(stored(vault, "Observation")) == 2
    lines = ledger(vault, cid)
    assert {line.type for line in lines.values()} >= {one.type for one in kinds.asked()}
    assert LedgerState.ASKING not in {line.state for line in lines.values()}
    assert lines["Observation"].state == LedgerState.BROKEN
    assert all(line.sentence for line in lines.values() if line.state == LedgerState.BROKEN)
    hospital.faults.clear()
    hospital.asked.clear()
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert {line.state for line in ledger(vault, cid).values()} <= {
        LedgerState.DONE,
        LedgerState.REFUSED,
    }
    assert not ledger(vault, cid)["Observation"].sentence
    first = next(found for found in hospital.asked if found.path == "/fhir/Observation")
    assert first.params["_offset"] == "2"
    line = ledger(vault, cid)["Observation"]
    assert (line.got, line.pages) == (6, 3)


def test_429_among_the_entries_of_a_200_is_asked_again(vault, hospital, to_hospital):
    seen = []

    def busy_inside(_):
        if seen:
            return None
        seen.append(1)
        return inside({"response": {"status": "429 Too Many Requests"}})

    hospital.faults["Observation"] = busy_inside
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert ledger(vault, cid)["Observation"].got == 6


def test_throttled_to_the_end_is_said(vault, hospital, to_hospital):
    hospital.faults["Observation"] = lambda _: inside(error_entry("throttled"))
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    assert "slow down" in ledger(vault, cid)["Observation"].sentence


def test_a_hospital_that_went_away_ends_the_run_calmly(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    hospital.server.close()
    assert go(vault, cid, to_hospital) == PullState.FAILED
    after = row(vault, cid)
    assert after.state == ConnectionState.ACTIVE
    assert "could not be reached" in after.sentence
    assert after.failures == 1


# ------------------------------------------------------------------------------------- tokens


def test_a_dead_access_token_is_renewed_once_by_all_chains(vault, hospital, to_hospital):
    hospital.tokens.clear()
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert len(hospital.used) == 1
    kept = row(vault, cid).credentials
    assert (kept["refresh_token"], kept["rotates"], kept["renewing"]) == ("rt-1", True, False)


def test_tokens_of_one_second_last_a_whole_pull(vault, hospital, to_hospital):
    hospital.life = 1
    hospital.tokens.clear()
    slow = threading.Event()

    def late(_):
        slow.wait(0.5)

    for kind in ("Condition", "Observation", "Encounter", "Goal", "Procedure", "Immunization"):
        hospital.faults[kind] = late
    cid = connected(vault, hospital, quirks={"chains": 1})
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert len(hospital.used) >= 3
    assert ledger(vault, cid)["Observation"].got == 6


def test_a_revoked_grant_asks_for_a_new_sign_in(vault, hospital, to_hospital):
    hospital.tokens.clear()
    hospital.refresh_tokens.clear()
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.FAILED
    after = row(vault, cid)
    assert after.state == ConnectionState.NEEDS_REAUTHORISATION
    assert "sign in again" in after.sentence
    assert after.next_pull_at is None
    assert after.credentials["refresh_token"] is None, "a dead token is never sent again"
    with pytest.raises(Conflict):
        go(vault, cid, to_hospital)


def test_a_renewal_interrupted_by_a_crash_is_never_repeated(vault, hospital, to_hospital):
    hospital.tokens.clear()
    cid = connected(vault, hospital)
    with vault.write() as session:
        found = session.get_one(Connection, cid)
        found.credentials = found.credentials | {"renewing": True}
    assert go(vault, cid, to_hospital) == PullState.FAILED
    assert not [found for found in hospital.asked if found.path == "/token"]
    assert row(vault, cid).state == ConnectionState.NEEDS_REAUTHORISATION


def test_a_renewal_is_on_disk_before_the_hospital_hears_of_it(vault, hospital, to_hospital):
    hospital.tokens.clear()
    cid = connected(vault, hospital)
    written, answer = [], hospital.token

    def token(form):
        written.append(row(vault, cid).credentials["renewing"])
        return answer(form)

    hospital.token = token
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert written == [True]
    assert row(vault, cid).credentials["renewing"] is False


@pytest.mark.parametrize("rotates", [None, False], ids=["it may rotate", "it never rotated"])
def test_a_renewal_answered_with_nonsense_leaves_nothing_in_flight(
    vault, hospital, to_hospital, rotates
):
    hospital.tokens.clear()
    hospital.token = lambda _: plain(b'{"access_token": "two words"}')
    cid = connected(vault, hospital)
    with vault.write() as session:
        found = session.get_one(Connection, cid)
        found.credentials = found.credentials | {"rotates": rotates}
    assert go(vault, cid, to_hospital) == PullState.FAILED
    after = row(vault, cid)
    kept = after.credentials["refresh_token"]
    assert after.credentials["renewing"] is False
    assert (after.state, kept) == (
        (ConnectionState.ACTIVE, "rt-0")
        if rotates is False
        else (ConnectionState.NEEDS_REAUTHORISATION, None)
    )


def test_a_renewal_that_the_address_guard_refuses_keeps_the_permission(
    vault, hospital, to_hospital
):
    hospital.tokens.clear()
    cid = connected(vault, hospital)
    with vault.write() as session:
        found = session.get_one(Connection, cid)
        there = dict(found.endpoint)
        found.endpoint = there | {"token_endpoint": "https://10.0.0.8/token"}
    for _ in range(2):
        assert go(vault, cid, to_hospital) == PullState.FAILED
        after = row(vault, cid)
        assert after.state == ConnectionState.ACTIVE
        assert after.sentence.startswith("The permission was not renewed, and nothing was sent.")
        assert (after.credentials["renewing"], after.credentials["refresh_token"]) == (
            False,
            "rt-0",
        )
    with vault.write() as session:
        session.get_one(Connection, cid).endpoint = there
    assert go(vault, cid, to_hospital) == PullState.DONE


def test_a_token_dying_in_the_middle_of_the_pages_loses_nothing(vault, hospital, to_hospital):
    def dies(asked):
        if asked.params.get("_offset") == "2" and asked.bearer == "at-0":
            hospital.tokens.clear()
            return plain(b"", "401 Unauthorized")
        return None

    hospital.faults["Observation"] = dies
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert ledger(vault, cid)["Observation"].got == 6
    assert len(hospital.used) == 1


# ------------------------------------------------------------- referred to, documents, everything


def document(url: str, name: str = "d1", **typed: str) -> bytes:
    found = {
        "resourceType": "DocumentReference",
        "id": name,
        "status": "current",
        "subject": {"reference": "Patient/p1"},
        "content": [{"attachment": (typed or {"contentType": "application/pdf"}) | {"url": url}}],
    }
    return json.dumps(found, separators=(",", ":")).encode()


def test_supporting_records_are_fetched_once(vault, hospital, to_hospital):
    hospital.records["Observation"] = [
        observation(number, performer=[{"reference": "Practitioner/dr1"}]) for number in range(4)
    ]
    hospital.records["Practitioner"] = [
        b'{"resourceType":"Practitioner","id":"dr1","name":[{"text":"Dr Reed"}]}'
    ]
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    assert len(stored(vault, "Practitioner")) == 1
    assert hospital.count("Practitioner/dr1") == 1
    go(vault, cid, to_hospital)
    assert hospital.count("Practitioner/dr1") == 1


def test_supporting_records_that_are_refused_are_counted(vault, hospital, to_hospital):
    hospital.records["Observation"] = [
        observation(number, performer=[{"reference": f"Practitioner/dr{number}"}])
        for number in range(6)
    ]
    cid = connected(vault, hospital)
    go(vault, cid, to_hospital)
    line = ledger(vault, cid)["Practitioner (referred to)"]
    assert (line.state, line.claimed) == (LedgerState.REFUSED, 6)
    assert hospital.count("Practitioner/") == 3, "after three refusals the rest is not asked for"


def test_documents_are_fetched_and_kept_by_hash(vault, hospital, to_hospital):
    hospital.records["DocumentReference"] = [document("Binary/b1")]
    hospital.files["Binary/b1"] = b"%PDF-1.7 letter"
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    with vault.read() as session:
        letter = records.select(session, vault, Selection(types=("DocumentReference",)))[0]
        found = records.attachments(session, letter.pk)
        media_type, content = records.attachment(session, found[0].hash)
    assert (media_type, content) == ("application/pdf", b"%PDF-1.7 letter")
    assert ledger(vault, cid)[pull.DOCUMENTS].got == 1


def test_a_document_that_cannot_be_had_is_said_and_asked_for_again(vault, hospital, to_hospital):
    hospital.records["DocumentReference"] = [document("Binary/gone")]
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    assert "asked for again" in ledger(vault, cid)[pull.DOCUMENTS].sentence
    hospital.files["Binary/gone"] = b"%PDF-1.7 found again"
    assert go(vault, cid, to_hospital) == PullState.DONE
    with vault.read() as session:
        assert connections.files_wanted(session, cid) == []


def test_documents_are_fetched_several_at_a_time(vault, hospital, to_hospital):
    together = threading.Barrier(2, timeout=10)
    names = [f"Binary/b{number}" for number in range(4)]
    hospital.records["DocumentReference"] = [document(name, name[-2:]) for name in names]
    hospital.files = {name: b"%PDF-1.7 " + name.encode() for name in names}

    def waits(_asked):
        together.wait()

    hospital.faults["Binary"] = waits
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert not together.broken, "no request waited alone for a second one"
    assert ledger(vault, cid)[pull.DOCUMENTS].got == 4


def test_a_document_that_two_records_name_is_fetched_once(vault, hospital, to_hospital):
    hospital.records["DocumentReference"] = [
        document("Binary/b1", "d1"),
        document("Binary/b1", "d2"),
    ]
    hospital.files["Binary/b1"] = b"%PDF-1.7 letter"
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert hospital.count("Binary/b1") == 1
    with vault.read() as session:
        letters = records.select(session, vault, Selection(types=("DocumentReference",)))
        kept = [records.attachments(session, letter.pk)[0].hash for letter in letters]
    assert len(kept) == 2
    assert None not in kept


def test_a_document_that_does_not_say_what_it_is_is_fetched_too(vault, hospital, to_hospital):
    hospital.records["DocumentReference"] = [document("Binary/b1", title="Letter")]
    hospital.files["Binary/b1"] = b"%PDF-1.7 letter"
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert ledger(vault, cid)[pull.DOCUMENTS].got == 1


def test_a_page_of_too_many_parts_is_asked_for_in_smaller_ones_and_not_again(
    vault, hospital, to_hospital
):
    swarm = plain(b'{"resourceType":"Bundle","entry":[' + b"0," * 1_000_001 + b"0]}")
    hospital.faults["Condition"] = lambda _asked: swarm
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.PARTIAL
    asked = [one.params["_count"] for one in hospital.asked if one.path.endswith("/Condition")]
    assert asked == ["100", "10"]
    assert "more parts" in ledger(vault, cid)["Condition"].sentence


@pytest.mark.parametrize("url", ["https://elsewhere.example/x.pdf", "file:///etc/passwd"])
def test_a_document_on_another_server_is_said_and_never_asked_for(
    vault, hospital, to_hospital, url
):
    hospital.records["DocumentReference"] = [document(url)]
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert "another server" in ledger(vault, cid)[pull.DOCUMENTS].sentence


def test_everything_at_once_where_it_works(vault, hospital, to_hospital):
    hospital.everything = True
    cid = connected(vault, hospital)
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert len(stored(vault, "Observation")) == 6
    assert hospital.count("Observation") == 0


def test_everything_refused_means_kind_by_kind(vault, hospital, to_hospital):
    cid = connected(vault, hospital, quirks={"everything": True})
    assert go(vault, cid, to_hospital) == PullState.DONE
    assert len(stored(vault, "Observation")) == 6


# --------------------------------------------------------------------------- running and stopping


def test_one_connection_is_pulled_by_one_run_at_a_time(vault, hospital, to_hospital):
    entered, leave = threading.Event(), threading.Event()

    def slow(_):
        entered.set()
        leave.wait(5)

    hospital.faults["Condition"] = slow
    cid = connected(vault, hospital)
    runner = threading.Thread(target=go, args=(vault, cid, to_hospital))
    runner.start()
    assert entered.wait(5)
    with pytest.raises(Conflict):
        go(vault, cid, to_hospital)
    leave.set()
    runner.join(10)
    assert not pull.is_running(vault.id, cid)


def test_a_person_stops_a_run_and_what_arrived_is_kept(vault, hospital, to_hospital):
    entered, leave = threading.Event(), threading.Event()

    def slow(_):
        entered.set()
        leave.wait(5)

    hospital.faults["Provenance"] = slow
    cid = connected(vault, hospital)
    result = []
    runner = threading.Thread(target=lambda: result.append(go(vault, cid, to_hospital)))
    runner.start()
    assert entered.wait(5)
    assert pull.stop(vault.id, cid, wait=5) or leave.set() is None
    leave.set()
    runner.join(10)
    assert result == [PullState.STOPPED]
    arrived = sum(line.got for line in ledger(vault, cid).values() if line.type == "Observation")
    assert len(stored(vault, "Observation")) == arrived
    assert row(vault, cid).claimed_by is None


def test_a_run_left_by_a_crash_is_taken_up_again(vault, hospital, to_hospital):
    cid = connected(vault, hospital)
    with vault.write() as session:
        claim = connections.claim(
            session, connections.get(session, cid), now=clock.now(), full=True
        )
    with vault.read() as session:
        assert connections.due(session, now=clock.now()) == [cid]
    assert go(vault, cid, to_hospital) == PullState.DONE
    with vault.read() as session:
        assert connections.last_pull(session, cid).id == claim.pull_id
    assert row(vault, cid).last_full_at is None, "the next pass is full again"


def test_reset_at_many_places_of_a_page_never_duplicates(vault, hospital, to_hospital):
    places = iter(range(0, 400, 40))

    def resets(asked):
        place = next(places, None)
        if place is None:
            return None
        whole = hospital.bundle(hospital.records["Observation"], asked)
        return whole[:place] or b"\r\n"

    hospital.faults["Observation"] = resets
    cid = connected(vault, hospital)
    for _ in range(4):
        go(vault, cid, to_hospital)
    assert bodies(vault, "Observation") == sorted(hospital.records["Observation"])
    assert socket.getdefaulttimeout() is None
