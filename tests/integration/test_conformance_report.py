"""What a connected hospital's interface does, as a report that holds nothing of the patient."""

import ast
import json
from datetime import timedelta
from pathlib import Path

import pytest
import time_machine

from phr import clock, conformance
from phr.cli import commands
from phr.errors import NotFound
from phr.oauth import Client, Credentials
from phr.store import connections
from phr.store.models import Connection
from phr.told import Fault
from tests.fakes import hospital as faults
from tests.fakes import puller
from tests.fixtures_hospital import FHIR, connected, go, impatient, observation  # noqa: F401 - a fixture
from tests.fixtures_net import plain

ROOT = Path(__file__).resolve().parents[2]
CANARIES = {
    "name": "Wilhelmina Kanarek",
    "patient": "kanarienvogel-7731",
    "client": "gelber-client-8842",
    "token": "tok-kanarek-9953",
    "renewal": "ref-kanarek-1164",
    "mrn": "KX4471193",
    "path": "tenant-kanarek-5582",
    "host": "kanarek.example.org",
    "text": "kanarek text of the server",
}


def says(items, kind):
    return {one.subject: one for one in items if one.kind == kind}


def leaks(text):
    """Return the canaries, whole or in words of their own, that stand in a text."""
    low = text.casefold()
    return [name for name, value in CANARIES.items() if value.casefold() in low] + [
        word for word in ("kanarek", "kanarienvogel", "wilhelmina") if word in low
    ]


@pytest.fixture
def tattling(cast, hospital):
    """A hospital that writes the patient into every place it can reach."""
    cast.appliance.http.guard.allow(hospital.server.place)
    hospital.patient = CANARIES["patient"]
    hospital.tokens = {CANARIES["token"]}
    whose = {"patient": CANARIES["patient"], "identifier": [{"value": CANARIES["mrn"]}]}
    name = CANARIES["name"].split()
    hospital.records = {
        "Patient": [
            json.dumps(
                {"resourceType": "Patient", "id": CANARIES["patient"],
                 "name": [{"given": name[:1], "family": name[1]}]}
            ).encode()
        ],
        "Observation": [observation(number, **whose) for number in range(5)]
        + [observation(9, patient="kanarek-2")],
    }  # fmt: skip
    said = CANARIES["text"]
    html = f"<html>{said} {CANARIES['mrn']}</html>".encode()
    hospital.faults = {
        "Condition": lambda _: plain(html, "200 OK", "Content-Type: text/html"),
        "Procedure": lambda _: plain(b"", "302 Found", f"Location: https://{CANARIES['host']}/"),
        "Immunization": lambda _: plain(json.dumps(
            {"resourceType": "Bundle", "type": "searchset",
             "link": [{"relation": "next", "url": f"https://{CANARIES['host']}/{CANARIES['mrn']}"}],
             "entry": []}).encode(), "200 OK", FHIR),
        "Goal": lambda _: plain(
            json.dumps({"resourceType": "OperationOutcome", "issue": [
                {"severity": "error", "code": "forbidden", "diagnostics": said}]}).encode(),
            "403 Forbidden", FHIR),
        "metadata": lambda _: plain(
            json.dumps({
                "resourceType": "CapabilityStatement", "fhirVersion": f"4.0.1-{CANARIES['mrn']}",
                "format": ["json", said],
                "software": {"name": f"Portal of {CANARIES['name']}", "version": CANARIES["mrn"]},
                "implementation": {"url": f"https://{CANARIES['host']}/{CANARIES['path']}"},
                "rest": [{"resource": [{"type": "Observation", "searchParam": [
                    {"name": "patient"}, {"name": said}]}, {"type": "Kanarek"}]}],
            }).encode(), "200 OK", f"Content-Type: application/{CANARIES['path']}",
            "X-RateLimit-Limit: 60", f"X-RateLimit-Remaining: {CANARIES['mrn']}"),
    }  # fmt: skip
    hospital.configured = {
        "capabilities": ["launch-standalone", said],
        "scopes_supported": ["patient/*.read", f"patient/Kanarek.{CANARIES['patient']}"],
        "token_endpoint_auth_methods_supported": ["none", said],
    }
    usual = hospital.fhir

    def without_token(asked):
        if asked.path.endswith("/metadata"):
            return hospital.faults["metadata"](asked)
        return usual(asked)

    hospital.fhir = without_token
    vault = cast.vault("Ada")
    number = connected(vault, hospital)
    narrow = f"patient/Observation.rs?code={CANARIES['mrn']}"
    granted = f"openid patient/*.read launch/{CANARIES['patient']} {narrow}"
    with vault.write() as session:
        row = session.get_one(Connection, number)
        row.name = f"Hospital of {CANARIES['name']}"
        row.remote_patient = CANARIES["patient"]
        row.client = Client(CANARIES["client"], "http://127.0.0.1/cb").to_json()
        row.credentials = Credentials(
            CANARIES["token"], clock.now(), clock.now() + timedelta(hours=1),
            CANARIES["renewal"], CANARIES["patient"], granted,
        ).to_json()  # fmt: skip
    go(vault, number, cast.appliance.http)
    return vault, number


def test_report_holds_nothing_of_the_patient_wherever_a_server_writes_it(
    cast, tattling, impatient  # noqa: F811 - the fixture
):  # fmt: skip
    vault, number = tattling
    seen = conformance.look(vault, number, cast.appliance.http)

    items = conformance.report(vault, number, seen)

    whole = conformance.as_text(items) + conformance.as_lines(items)
    assert leaks(whole) == []
    assert str(cast.patients["Ada"]) not in whole
    assert "127.0.0.1" not in whole
    assert "http://" not in whole.replace("http://hl7.org", "")
    # The positive control: what the report was made of holds every one of them.
    with vault.read() as session:
        row = connections.get(session, number)
        made_of = repr([row.name, row.client, row.credentials, row.base_url, row.endpoint])
    assert set(leaks(made_of)) >= {"name", "patient", "client", "token", "renewal"}
    assert "kanarek" in repr(seen.endpoint).casefold()


def test_report_names_the_faults_and_where_they_were_met(cast, tattling):
    vault, number = tattling
    items = conformance.report(vault, number)

    faults = {word: one.value for word, one in says(items, "fault").items()}
    assert faults["web-page"] == ["Condition"]
    assert faults["redirect"] == ["Procedure"]
    assert faults["outside"] == ["Immunization"]
    assert faults["not-for-apps"] == ["Goal"]
    assert faults["other-person"] == []
    answers = says(items, "answer")
    assert answers["Observation"].value["got"] == 6
    assert answers["Observation"].value["set_aside"] == 1
    assert answers["Observation"].value["pages"] == 3
    assert answers["Goal"].value["state"] == "refused"
    assert answers["Goal"].value["why"] == ["not-for-apps"]


def test_report_tells_scopes_asked_for_and_granted(cast, tattling):
    vault, number = tattling
    scopes = says(conformance.report(vault, number), "scope")

    assert scopes["patient/*.read"].value["asked"] is True
    assert scopes["patient/*.read"].value["granted"] is True
    assert scopes["offline_access"].value == {"asked": True, "granted": False, "offered": None}
    assert scopes["patient/Observation.rs?…"].value["asked"] is False
    assert scopes["others"].value == 1


def test_look_tells_content_types_and_rate_limits_and_never_renews(cast, tattling, hospital):
    vault, number = tattling
    hospital.asked.clear()
    seen = conformance.look(vault, number, cast.appliance.http)
    answered = says(conformance.report(vault, number, seen), "exchange")

    assert answered["metadata"].value["content_type"] == "another"
    assert answered["metadata"].value["rate_limits"] == {
        "x-ratelimit-limit": 60,
        "x-ratelimit-remaining": None,
    }
    assert answered["Patient"].value["status"] == 200
    assert answered["Patient"].value["content_type"] == "application/fhir+json"
    with time_machine.travel(clock.now() + timedelta(hours=2)):
        hospital.asked.clear()
        seen = conformance.look(vault, number, cast.appliance.http)
        answered = says(conformance.report(vault, number, seen), "exchange")
    assert answered["Patient"].value is None
    assert "renewed" in answered["Patient"].sentence
    assert not [one for one in hospital.asked if "/Patient/" in one.path or one.path == "/token"]


def test_server_that_is_gone_is_a_line_and_no_error(cast, hospital):
    cast.appliance.http.guard.allow(hospital.server.place)
    vault = cast.vault("Ada")
    number = connected(vault, hospital)
    hospital.server.close()

    seen = conformance.look(vault, number, cast.appliance.http)
    items = conformance.report(vault, number, seen)

    assert says(items, "exchange")["metadata"].value["status"] is None
    assert "unreachable" in says(items, "fault")
    assert says(items, "report")["pull"].value is None


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("https://fhir.lakeside-health.org/api/FHIR/R4", "fhir.lakeside-health.org"),
        ("https://10.0.0.7/fhir", None),
        ("https://box.local/fhir", None),
        ("https://t4711193.vendor.example.com/r4", None),
        ("https://kanarek.vendor.example.com/r4", None),
    ],
)
def test_server_is_named_by_its_public_name_only(cast, tattling, base, shown):
    vault, number = tattling
    with vault.write() as session:
        session.get_one(Connection, number).base_url = base

    assert says(conformance.report(vault, number), "report")["server"].value == shown
    unnamed = conformance.report(vault, number, named=False)
    assert says(unnamed, "report")["server"].value is None


def test_page_shows_the_report_and_hands_it_out(cast, tattling, hospital):
    _, number = tattling
    ada, cleo, eve = (cast.browser(name) for name in ("Ada", "Cleo", "Eve"))
    here = f"/p/{cast.patients['Ada']}/connections/{number}"
    assert f'{here}/interface"' in ada.get(here).text

    page = ada.get(f"{here}/interface").text
    assert "It was not asked for this report" in page
    asked = len(hospital.asked)
    answer = ada.submit(f"{here}/interface", page=f"{here}/interface")
    assert answer.status_code == 303
    assert len(hospital.asked) > asked
    assert "Asked anew for this report" in ada.get(f"{here}/interface").text
    for ending in ("txt", "json"):
        file = ada.get(f"{here}/interface/report.{ending}")
        assert "attachment" in file.headers["content-disposition"]
        assert "Asked anew" in file.text
        assert leaks(file.text) == []
    assert ">Ask the server now" not in cleo.get(f"{here}/interface").text
    assert cleo.submit(f"{here}/interface").status_code in {403, 404}
    assert eve.get(f"{here}/interface").status_code == 404


def test_every_class_of_fault_has_its_words_and_is_named_where_the_fault_is_met():
    named = set()
    for file in (ROOT / "phr").rglob("*.py"):
        tree = ast.parse(file.read_text())
        words = {
            id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys
        }
        named |= {
            node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Fault"
            and id(node) not in words
        }  # fmt: skip
    assert list(conformance.FAULTS) == list(Fault)
    assert named == set(Fault.__members__)


def test_what_was_not_foreseen_is_a_class_of_its_own_and_not_quoted(cast, tattling):
    vault, number = tattling
    with vault.write() as session:
        last = connections.last_pull(session, number)
        last.sentence, last.faults = f"Something about {CANARIES['name']}.", ""

    items = conformance.report(vault, number)

    assert says(items, "fault")["refused"].sentence == "Something else went wrong."
    assert leaks(conformance.as_text(items)) == []


def test_report_of_the_fault_hospital_has_a_class_for_each_thing_it_does(cast, impatient):  # noqa: F811
    broken = {
        "AllergyIntolerance": (faults.says("200 OK", faults.PAGE, faults.HTML), "web-page"),
        "Procedure": (faults.next_is(faults.itself), "circle"),
        "CarePlan": (faults.bomb, "too-large"),
        "Goal": (faults.says("403 Forbidden", faults.outcome("forbidden"), faults.FHIR),
                 "not-for-apps"),
        "CareTeam": (faults.says("404 Not Found"), "not-there"),
        "Device": (faults.says("500 Error"), "server-error"),
        "MedicationRequest": (faults.says("302 Found", b"", "Location: https://a.example.org/"),
                              "redirect"),
        "Immunization": (faults.says("200 OK", b"", faults.FHIR), "empty"),
        "Coverage": (faults.says("200 OK", b'{"resourceType":"Bundle"', faults.FHIR), "unreadable"),
        "Encounter": (faults.encoded("br"), "unpacked"),
    }  # fmt: skip
    made = faults.Hospital(
        records={"Patient": [faults.patient()], "Procedure": faults.some("Procedure")},
        behaviours={kind: behaviour for kind, (behaviour, _) in broken.items()},
    )
    try:
        cast.appliance.http.guard.allow(made.place)
        vault = cast.vault("Ada")
        number = puller.connect(vault, made.base)
        go(vault, number, cast.appliance.http)
        items = conformance.report(vault, number)
    finally:
        made.close()

    found = {word: one.value for word, one in says(items, "fault").items()}
    for kind, (_, word) in broken.items():
        assert kind in found.get(word, ()), (kind, word, found)
    answered = says(items, "answer")
    assert set(broken) <= {one.value["type"] for one in answered.values()}
    assert "secret-token" not in conformance.as_lines(items)


def test_command_prints_the_report_and_names_no_server_where_asked(cast, tattling):
    _, number = tattling
    given = {"connection": number, "patient": "Ada", "now": True, "unnamed": True}
    lines = list(commands.run(cast.appliance, "check", given))

    assert {frozenset(line) for line in lines} == {
        frozenset(("kind", "subject", "label", "value", "sentence"))
    }
    assert {line["kind"] for line in lines} <= set(conformance.HEADINGS)
    assert leaks(json.dumps(lines)) == []
    with pytest.raises(NotFound):
        list(commands.run(cast.appliance, "check", given | {"connection": 999}))
