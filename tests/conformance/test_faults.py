"""A hospital that misbehaves in every way we know of (issue 2, acceptance 3; security.md e-A, e-C).

Each pull runs in a process of its own, so that its memory can be measured. Whatever a server does:
no kind of record is lost without a line in the ledger, the rest arrives, the bytes are the bytes.
"""

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from phr.fhir.kinds import KINDS
from tests.fakes import hospital as faults
from tests.fakes.hospital import FHIR, HTML, PAGE, Behaviour, Hospital, outcome, says, some

ROOT = Path(__file__).resolve().parents[2]
ASKED = [kind.type for kind in KINDS.values() if kind.patient_param and kind.type != "Patient"]
MEMORY = 64 << 20  # bytes; security.md e: "bounded memory (+64 MB)"
HUGE_MEMORY = 128 << 20  # 31 MB is many times what a hospital sends at once
DONE, REFUSED, BROKEN = "done", "refused", "broken"


@pytest.fixture
def hospital() -> Iterator[Hospital]:
    """A hospital with three records of every kind, and a stranger beside it."""
    stranger = Hospital()
    made = Hospital(
        records={kind: some(kind) for kind in ASKED} | {"Patient": [faults.patient()]},
        foreign=stranger,
    )
    made.records["Observation"] = faults.odd_observations()
    yield made
    made.close()
    stranger.close()


def pulled(hospital: Hospital) -> dict[str, Any]:
    """Pull in a child; return its report."""
    places = [hospital.base]
    if hospital.foreign is not None:
        places.append(hospital.foreign.place)  # so that only the client's own rule holds it back
    child = subprocess.run(
        [sys.executable, "-m", "tests.fakes.puller", *places],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=240,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert "secret-token" not in child.stderr, "a token in the log"
    return json.loads(child.stdout)


def lines_of(report: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    return [line for line in report["ledger"].values() if line["type"] == kind]


def stored(report: Mapping[str, Any], kind: str) -> list[bytes]:
    found = report["bodies"].items()
    return [body.encode("latin-1") for name, body in found if name.startswith(kind + "/")]


def check_ledger(report: Mapping[str, Any], hospital: Hospital) -> None:
    """Each kind has its line; what is not whole says why; numbers are those of the store."""
    for kind in ASKED:
        lines = lines_of(report, kind)
        assert lines, f"{kind} has no line"
        kept = stored(report, kind)
        assert sum(line["got"] - line["quarantined"] for line in lines) >= len(kept)
        for line in lines:
            assert line["state"] in {DONE, REFUSED, BROKEN}, line
            assert line["state"] == DONE or line["sentence"], line
            assert not re.search(r"[{}<>]|Traceback|http://", line["sentence"] or ""), line
        whole = len(kept) == len(hospital.records[kind])
        told = any(line["sentence"] or line["quarantined"] for line in lines)
        assert whole or told, f"{kind} was lost silently"


def check_bytes(report: Mapping[str, Any], hospital: Hospital) -> None:
    """Every stored record is byte for byte one that was offered."""
    offered = {body for bodies in hospital.records.values() for body in bodies}
    for name, body in report["bodies"].items():
        assert body.encode("latin-1") in offered, name


# ------------------------------------------------------------------------------ the good case


def test_three_pages_are_followed_and_every_byte_is_kept(hospital):
    hospital.behaviours.clear()
    report = pulled(hospital)
    assert report["state"] == DONE
    line = report["ledger"]["Observation"]
    assert (line["pages"], line["got"], line["state"]) == (3, 6, DONE)
    assert sorted(stored(report, "Observation")) == sorted(hospital.records["Observation"])
    assert any(b'"value":1.10,' in body for body in stored(report, "Observation"))
    assert all(len(stored(report, kind)) == len(hospital.records[kind]) for kind in ASKED)
    check_ledger(report, hospital)
    check_bytes(report, hospital)


# ------------------------------------------------------------------------------ in words

IN_WORDS: dict[str, tuple[Behaviour, str, int]] = {
    # kind: what it does, how its line ends, how many of its three records arrive
    "AllergyIntolerance": (says("401 Unauthorized", PAGE, HTML), REFUSED, 0),
    "Appointment": (says("403 Forbidden"), REFUSED, 0),
    "CarePlan": (says("404 Not Found", PAGE, HTML), REFUSED, 0),
    "CareTeam": (says("400 Bad Request", outcome("invalid"), FHIR), REFUSED, 0),
    "Condition": (faults.busy_once, DONE, 3),
    "Coverage": (faults.busy_inside, BROKEN, 1),
    "Device": (faults.dies_halfway, BROKEN, 2),
    "DiagnosticReport": (faults.next_is(faults.itself), BROKEN, 1),
    "DocumentReference": (faults.next_is(faults.another_host), BROKEN, 1),
    "Encounter": (faults.next_is(lambda _: "javascript:alert(1)"), BROKEN, 1),
    "EpisodeOfCare": (faults.next_is(lambda _: "//other.example/fhir"), BROKEN, 1),
    "ExplanationOfBenefit": (says("500 Internal Server Error", PAGE, HTML), BROKEN, 0),
    "FamilyMemberHistory": (says("200 OK", PAGE, HTML), BROKEN, 0),
    "Goal": (says("200 OK", outcome("security"), FHIR), REFUSED, 0),
    "ImagingStudy": (says("302 Found", b"", "Location: http://127.0.0.1/"), BROKEN, 0),
    "Immunization": (says("204 No Content"), BROKEN, 0),
    "Media": (says("200 OK", b"", FHIR), BROKEN, 0),
    "MedicationAdministration": (says("502 Bad Gateway", PAGE, HTML), BROKEN, 0),
    "MedicationDispense": (says("200 OK", b'{"resourceType":"Bundle"', FHIR), BROKEN, 0),
    "MedicationRequest": (says("410 Gone"), REFUSED, 0),
    "MedicationStatement": (says("200 OK", b"\xff\xfe{\0}\0", FHIR), BROKEN, 0),
    "Procedure": (says("200 OK", b'{"a":1}{"b":2}', FHIR), BROKEN, 0),
    "Provenance": (says("200 OK", b'{"resourceType":"Bundle","entry":NaN}', FHIR), BROKEN, 0),
}  # fmt: skip


def test_every_refusal_and_fault_is_a_line_and_the_rest_arrives(hospital):
    hospital.behaviours = {kind: row[0] for kind, row in IN_WORDS.items()}
    report = pulled(hospital)
    assert report["state"] == "partial"
    assert report["connection"] == "active"
    for kind, (_, state, count) in IN_WORDS.items():
        assert report["ledger"][kind]["state"] == state, (kind, report["ledger"][kind])
        assert len(stored(report, kind)) == count, kind
    for kind in set(ASKED) - set(IN_WORDS):
        assert len(stored(report, kind)) == len(hospital.records[kind]), kind
    check_ledger(report, hospital)
    check_bytes(report, hospital)
    assert report["grown"] < MEMORY


def test_no_token_reaches_the_stranger(hospital):
    """The guard lets the stranger's address through, so only the rule of the origin protects."""
    hospital.behaviours = {
        "Condition": faults.next_is(faults.another_host),
        "Goal": says("302 Found", b"", f"Location: {hospital.foreign.base}/Goal"),
    }
    pulled(hospital)
    assert hospital.foreign.asked == []
    assert all(asked.bearer == "Bearer secret-token" for asked in hospital.asked)


# ------------------------------------------------------------------------------ framing and time

FRAMING: dict[str, Behaviour] = {
    "Condition": faults.lies("Content-Length: 5", body=b'{"resourceType":"Bundle"}'),
    "Goal": faults.lies("Content-Length: 5000", body=b'{"resourceType":"Bundle"}'),
    "CarePlan": faults.lies("Content-Length: -1", body=b"{}"),
    "CareTeam": faults.lies("Content-Length: 2", "Content-Length: 9", body=b"{}"),
    "Coverage": faults.lies("Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "Device": faults.lies("X-Long: " + "a" * (1 << 20), "Content-Length: 2", body=b"{}"),
    "Encounter": faults.endless_headers,
    "Immunization": faults.drip,
    "Procedure": faults.silent,
    "Specimen": faults.lies("Content-Encoding: gzip", "Content-Length: 2", body=b"{}"),
}


def test_lies_about_framing_and_endless_waits_cost_one_kind_each(hospital):
    hospital.behaviours = dict(FRAMING)
    report = pulled(hospital)
    assert report["state"] == "partial"
    for kind in FRAMING:
        assert report["ledger"][kind]["state"] == BROKEN, kind
        assert stored(report, kind) == []
    check_ledger(report, hospital)
    check_bytes(report, hospital)
    assert report["grown"] < MEMORY


# ------------------------------------------------------------------------------ weights

WEIGHTS: dict[str, Behaviour] = {
    "1 GB, declared": faults.huge(declared=True),
    "1 GB, not declared": faults.huge(declared=False),
    "gzip bomb": faults.bomb,
    "gzip in gzip": faults.double_bomb,
    "brotli": faults.encoded("br"),
    "zstd": faults.encoded("zstd"),
    "100,000 deep": faults.deep,
    "10 million entries": faults.MANY_ENTRIES,
    "10 million links": faults.MANY_LINKS,
    "10 million issues": faults.MANY_ISSUES,
    "10 million extensions": faults.MANY_EXTENSIONS,
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_memory_stays_flat_whatever_is_thrown_at_it(hospital, weight):
    hospital.behaviours = {"FamilyMemberHistory": weight}
    report = pulled(hospital)
    line = report["ledger"]["FamilyMemberHistory"]
    assert line["state"] == BROKEN or line["quarantined"] == line["got"] == 1
    assert stored(report, "FamilyMemberHistory") == []
    assert len(stored(report, "Observation")) == 6
    assert report["grown"] < MEMORY, f"{report['grown'] >> 20} MB"
    check_ledger(report, hospital)
    assert hospital.sent["FamilyMemberHistory"] < 250 << 20, "a giant is not read to its end"


def test_memory_stays_flat_when_many_kinds_are_giants_at_once(hospital):
    giants = ASKED[:8]
    hospital.behaviours = dict.fromkeys(giants, faults.huge(declared=False))
    report = pulled(hospital)
    assert {report["ledger"][kind]["state"] for kind in giants} == {BROKEN}
    assert report["grown"] < MEMORY, f"{report['grown'] >> 20} MB"


def one_huge_record(kind: str) -> Behaviour:
    """A page just under the limit with a single, well-formed record of 31 MB."""
    whose = faults.WHOSE.get(kind, "subject")
    begin = (
        f'{{"resourceType":"Bundle","entry":[{{"resource":{{"resourceType":"{kind}","id":"huge",'
        f'"{whose}":{{"reference":"Patient/p1"}},"note":"'
    )
    return faults.many(begin.encode(), b"so much to say; ", b'"}}]}')


def test_memory_is_bounded_when_every_kind_is_one_huge_record(hospital):
    hospital.behaviours = {kind: one_huge_record(kind) for kind in ASKED}
    report = pulled(hospital)
    assert report["state"] == DONE
    assert len(report["bodies"]) == len(ASKED) + 1
    assert report["grown"] < HUGE_MEMORY, f"{report['grown'] >> 20} MB"


def long_records(kind: str) -> Behaviour:
    """A page of 28 MB: a hundred records with a narrative that no compression makes small."""
    whose = faults.WHOSE.get(kind, "subject")
    told = random.Random(kind).randbytes(140_000).hex()  # noqa: S311 - the same each time

    def behave(exchange: faults.Exchange) -> bool:
        page = faults.bundle(
            [
                f'{{"resourceType":"{kind}","id":"{number}","{whose}":{{"reference":"Patient/p1"}},'
                f'"text":{{"status":"generated","div":"{number}{told}"}}}}'.encode()
                for number in range(100)
            ]
        )
        exchange.send(faults.plain(page, "200 OK", FHIR))
        return True

    return behave


def test_memory_is_bounded_when_every_kind_is_a_page_of_long_records(hospital):
    hospital.behaviours = {kind: long_records(kind) for kind in ASKED}
    report = pulled(hospital)
    assert report["state"] == DONE
    assert len(report["bodies"]) == 100 * len(ASKED) + 1
    assert report["grown"] < HUGE_MEMORY, f"{report['grown'] >> 20} MB"


# ------------------------------------------------------------------------------ hostile JSON

RESOURCE = b'{"resourceType":"Goal","id":"x","subject":{"reference":"Patient/p1"},%b}'


def surrounded(raw: bytes) -> Callable[[Any], bool]:
    """Serve a good record, a bad one and a good one on one page."""

    def behave(exchange: faults.Exchange) -> bool:
        good = exchange.hospital.records["Goal"]
        page = faults.bundle([good[0], raw, good[1]])
        exchange.send(faults.plain(page, "200 OK", FHIR))
        return True

    return behave


BAD_RECORDS = {
    "twice the same name": RESOURCE % b'"a":1,"a":2',
    "a number of 5,000 digits": RESOURCE % (b'"a":' + b"1" * 5000),
    "1e999999": RESOURCE % b'"a":1e999999',
    "a lone surrogate": RESOURCE % b'"a":"\\ud800"',
    "a NUL": RESOURCE % b'"a":"\\u0000"',
    "nested 100 deep": RESOURCE % (b'"a":' + b"[" * 100 + b"]" * 100),
    "no type": b'{"id":"x","subject":{"reference":"Patient/p1"}}',
    "an unknown type": b'{"resourceType":"Wand","id":"x"}',
    "a number as type": b'{"resourceType":7,"id":"x"}',
    "somebody else's": b'{"resourceType":"Goal","id":"x","subject":{"reference":"Patient/p2"}}',
}


@pytest.mark.parametrize("raw", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_one_bad_record_is_set_aside_with_its_reason_and_its_neighbours_are_kept(hospital, raw):
    hospital.behaviours = {"Goal": surrounded(raw)}
    report = pulled(hospital)
    line = report["ledger"]["Goal"]
    assert (line["got"], line["quarantined"]) == (3, 1)
    assert sorted(stored(report, "Goal")) == sorted(hospital.records["Goal"][:2])
    assert len(report["quarantined"]) == 1
    assert report["quarantined"][0].endswith((".", "?"))
