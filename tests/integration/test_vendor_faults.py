"""Every behaviour in vendor-faults.json becomes a ledger line; no kind is lost silently."""

import json
import threading

import pytest

from phr import clock, pull
from phr.connectors import rest
from phr.fhir.kinds import KINDS
from phr.store import connections
from phr.store.models import LedgerState, PullState
from phr.web.pages import ledger
from tests.corpus import corpus
from tests.fixtures_hospital import connected
from tests.fixtures_net import plain

MOST = 7  # records of a kind: enough for several pages
VENDORS = (
    "Athena",
    "Careevolution",
    "ChBase",
    "Cigna",
    "DrChrono",
    "EclinicalWorks",
    "EpicLegacy",
    "Epic",
    "HealthIt",
    "Humana",
    "Kaiser",
    "Medhost",
    "NextGen",
)
BODIES = {
    "text/html": b"<html><body>Sign in</body></html>",
    "(none)": b"",
    "application/json+fhir": b'{"resourceType":"OperationOutcome","issue":[]}',
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(rest.Conversation.__init__, "__defaults__", (lambda _attempt: 0.01,))


def recorded(name: str) -> dict:
    text = (corpus() / "other/vendor-faults.json").read_text()
    vendors = {vendor["vendor"]: vendor for vendor in json.loads(text)["vendors"]}
    assert set(vendors) == set(VENDORS), "a vendor was added: name it above"
    return vendors[name]


def some(kind: str, count: int) -> list[bytes]:
    whose = "beneficiary" if kind == "Coverage" else "subject"
    whose = "patient" if kind in {"AllergyIntolerance", "Immunization", "Device"} else whose
    return [
        json.dumps(
            {
                "resourceType": kind,
                "id": f"{kind}-{number}",
                whose: {"reference": "Patient/p1"},
                "performer": [{"reference": "Practitioner/x"}, {"reference": "Organization/y"}],
            }
        ).encode()
        for number in range(min(count, MOST))
    ]


def refuses(status: int | str, body: bytes, kind: str, interaction: str, gate: threading.Event):
    """Fail searches or reads of a kind; searches by the first category of US Core still work."""
    searches = KINDS[kind].searches if kind in KINDS else ()
    works = dict([searches[0].split("=", 1)]) if searches and status == 400 else None

    def fault(asked):
        is_read = asked.path.count("/") > 2
        if is_read != (interaction == "read"):
            return None
        if works and works.items() <= asked.params.items():
            return None
        if status == "timeout/none":
            gate.wait(1.2)
            return plain(b"", "504 Gateway Timeout")
        place = "Location: https://elsewhere.example/" if 300 <= status < 400 else "X-Kind: fault"
        return plain(body, f"{status} Recorded", place)

    return fault


@pytest.mark.corpus
@pytest.mark.parametrize("name", VENDORS)
def test_no_kind_is_lost_silently(cast, hospital, to_hospital, name):
    vendor, gate = recorded(name), threading.Event()
    body = BODIES.get(next(iter(vendor["content_types"])), b"")
    for kind, count in vendor["entries_by_type"].items():
        if kind in KINDS and kind != "Patient" and KINDS[kind].patient_param:
            hospital.records[kind] = some(kind, count)
    failed = {}
    for failure in vendor["failures"]:
        kind, interaction = failure["resource"], failure["interaction"]
        hospital.faults[kind] = refuses(failure["status"], body, kind, interaction, gate)
        if interaction == "search" and kind in KINDS and KINDS[kind].patient_param:
            failed[kind] = failure["status"]
    vault = cast.vault("Ada")
    cid = connected(vault, hospital)
    state = pull.run(vault, cid, http=to_hospital, now=clock.now())
    gate.set()
    assert state in {PullState.DONE, PullState.PARTIAL}
    with vault.read() as session:
        last = connections.last_pull(session, cid)
        lines = connections.lines(session, last.id)
    by_type = {}
    for line in lines:
        by_type.setdefault(line.type, []).append(line)
    for kind, bodies in hospital.records.items():
        if kind not in failed and kind not in {"Practitioner", "Organization"}:
            assert sum(line.got for line in by_type[kind]) == len(bodies), kind
    for kind in failed:
        spoken = [line for line in by_type[kind] if line.sentence]
        assert spoken, f"{kind} failed without a word"
        assert all(line.state != LedgerState.ASKING for line in by_type[kind])
    asked = {kind.type for kind in KINDS.values() if kind.patient_param}
    assert asked <= set(by_type), "every kind has its line"
    assert ledger.tallies_of(lines)
