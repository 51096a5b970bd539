"""An app asks that records be sent to a Direct address under a Consent; the patient decides.

Issue 5 item 5; spec/sharing.md §2.6 and §9.1: $pushStart, $listPush, $pushStop and their errors.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from phr import clock, ids, push
from phr.sharing import asking, grants, orders
from phr.store.models import MailMode, Postbox
from tests.cast import Cast
from tests.fixtures_direct import Authority, Mailbox, cert_line, der, knot, mailbox
from tests.fixtures_sharing import ADA
from tests.integration.test_apps import Stage
from tests.integration.test_consents import Clinic, Errand, of, permit, stage

__all__ = ["stage"]

DOCTOR, OTHER = "dr.pell@direct.clinic.test", "dr.ash@direct.clinic.test"
ROOT = Authority("Clinic root", number=1000)
UCUM = "http://unitsofmeasure.org"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    lines = cert_line("dr.pell.direct.clinic.test", der(ROOT.issue(DOCTOR, number=1)))
    stranger = Authority("Nobody", number=1001).issue(OTHER)
    lines += cert_line("dr.ash.direct.clinic.test", der(stranger))
    with knot(tmp_path_factory.mktemp("names") / "knot", "clinic.test", lines) as server:
        yield server


@pytest.fixture
def box(stage: Stage, names: tuple[str, int]) -> Iterator[Mailbox]:
    """Ada's own postbox, with the clinic's root trusted, and a mail server that takes her mail."""
    guard = stage.cast.appliance.http.guard
    guard.name_servers = [names]
    page = f"/p/{stage.cast.patients['Ada']}/direct"
    with mailbox(Mailbox()) as made:
        guard.allow(f"localhost:{made.port}")
        form = {"address": "ada@home.test", "mode": "sta", "host": "localhost"}
        assert stage.ada.submit(page, form | {"port": str(made.port)}, page=page).status_code == 303
        pem = {"file": ("r.pem", ROOT.certificate.public_bytes(Encoding.PEM), "text/plain")}
        trusted = stage.ada.submit(f"{page}/trust", {"direction": "out"}, page=page, files=pem)
        assert trusted.status_code == 303, trusted.text
        yield made


@pytest.fixture
def errand(stage: Stage) -> Errand:
    given = stage.redeem(stage.code(scope=f"patient/Condition.rs {asking.PUSH}")).json()
    return Errand(stage, given["access_token"], given["patient"], Clinic())


def start(errand: Errand, consent_id: str, address: str = DOCTOR, *more: Any) -> Any:
    named = {"name": "address", "valueString": address}
    return errand.post(f"Consent/{consent_id}/$pushStart", of(named, *more))


def stop(errand: Errand, consent_id: str, address: str = DOCTOR) -> Any:
    named = of({"name": "address", "valueString": address})
    return errand.post(f"Consent/{consent_id}/$pushStop", named)


def days(number: int) -> dict[str, Any]:
    value = {"value": number, "system": UCUM, "code": "d"}
    return {"name": "duration", "valueDuration": value}


def values(parts: Any) -> dict[str, Any]:
    return {part["name"]: value for part in parts for key, value in part.items() if key != "name"}


def listed(errand: Errand, consent_id: str) -> list[dict[str, Any]]:
    answer = errand.get(f"Consent/{consent_id}/$listPush")
    assert answer.status_code == 200, answer.text
    return [values(each["part"]) for each in answer.json().get("parameter", [])]


def deliver(cast: Cast) -> None:
    cast.appliance.make_jobs()
    jobs = cast.appliance.jobs
    assert jobs is not None
    jobs.deliver_due()


def sent(errand: Errand) -> str:
    """Return a Consent under which records go to the doctor."""
    consent_id = errand.propose()
    assert start(errand, consent_id).status_code == 202
    assert errand.answer().status_code == 303
    return consent_id


def test_app_has_records_sent_from_approval_to_stop(errand: Errand, box: Mailbox):
    cast, ada = errand.stage.cast, errand.stage.ada
    base = f"/p/{cast.patients['Ada']}"
    consent_id = errand.propose()

    asked = start(errand, consent_id)
    assert asked.status_code == 202, asked.text
    assert asked.headers["content-location"].endswith(f"/fhir/Consent/{consent_id}/$listPush")
    told = values(asked.json()["parameter"])
    assert (told["address"], told["status"], told["once"]) == (DOCTOR, "awaiting-approval", False)
    deliver(cast)
    assert box.got == []  # nothing leaves before the patient says so

    assert f"Send to {DOCTOR}" in ada.get(f"{base}/consents").text
    shown = ada.get(errand.waiting()).text
    for words in (DOCTOR, "whenever new records arrive", "The mail servers between see both"):
        assert words in shown
    assert errand.answer().status_code == 303
    deliver(cast)
    assert len(box.wait()) == 1
    (told,) = listed(errand, consent_id)
    assert (told["status"], told["sent"], told["queued"]) == ("active", 1, 0)
    assert DOCTOR in ada.get(f"{base}/grants").text

    stopped = stop(errand, consent_id)
    assert stopped.status_code == 200, stopped.text
    said = values(stopped.json()["parameter"])
    assert (said["status"], said["unconfirmed"], said["uncertain"]) == ("stopped", 1, False)
    assert [each["status"] for each in listed(errand, consent_id)] == ["ended"]
    assert stop(errand, consent_id).status_code == 404
    log = ada.get(f"{base}/activity").text
    assert f"asked to send records to {DOCTOR}" in log
    assert f"stopped sending to {DOCTOR}" in log
    with cast.vault("Ada").read() as session:
        assert orders.active(session) == []


def test_patient_stops_at_who_can_see_what_an_app_started(errand: Errand, box: Mailbox):
    cast, ada = errand.stage.cast, errand.stage.ada
    consent_id, page = sent(errand), f"/p/{cast.patients['Ada']}/grants"
    (path,) = set(re.findall(rf'action="({page}/\w+/stop)"', ada.get(page).text)) - {
        f"{page}/{each}/stop" for each in (errand_grant(errand),)
    }
    assert ada.submit(path, {}, page=page).status_code == 303
    deliver(cast)
    assert box.got == []
    assert [each["status"] for each in listed(errand, consent_id)] == ["ended"]


def errand_grant(errand: Errand) -> str:
    """Return the grant of the app itself, which stands beside what it proposed."""
    with errand.stage.cast.vault("Ada").read() as session:
        return next(
            each.id
            for each in grants.standing(session)
            if each.uses_left is None and orders.get(session, each.id) is None
        )


def test_order_that_is_stopped_while_its_grant_stands_can_be_asked_for_anew(
    errand: Errand, box: Mailbox
):
    consent_id, vault = sent(errand), errand.stage.cast.vault("Ada")
    with vault.read() as session:
        (job,) = orders.active(session)
    push.halt(vault, job.grant_id, ADA, now=clock.now())
    assert listed(errand, consent_id)[0]["status"] == "stopped"
    assert stop(errand, consent_id).status_code == 404
    assert start(errand, consent_id).status_code == 202
    assert [each["status"] for each in listed(errand, consent_id)][1:] == ["awaiting-approval"]


def test_patient_takes_kinds_away_and_no_more_is_sent(errand: Errand, box: Mailbox):
    asked = {"type": "deny", "provision": [permit("Condition", "Observation")]}
    consent_id = errand.propose(provision=asked)
    assert start(errand, consent_id, DOCTOR, {"name": "once", "valueBoolean": True}).is_success
    assert errand.answer(line=["patient/Condition.rs"]).status_code == 303
    deliver(errand.stage.cast)
    assert len(box.wait()) == 1
    with errand.stage.cast.vault("Ada").read() as session:
        (job,) = orders.active(session)
        grant = grants.get(session, job.grant_id)
    assert "Observation" not in str(grant.provision)
    assert job.standing == 0
    assert listed(errand, consent_id)[0]["status"] == "completed"


def test_approving_needs_the_password_and_refusing_does_not(errand: Errand, box: Mailbox):
    consent_id = errand.propose()
    assert start(errand, consent_id).status_code == 202
    page = errand.answer(**{"confirm.password": "wrong"})
    assert page.status_code != 303
    assert listed(errand, consent_id)[0]["status"] == "awaiting-approval"
    assert errand.answer(do="refuse", **{"confirm.password": None}).status_code == 303
    assert listed(errand, consent_id)[0]["status"] == "refused"


@pytest.mark.parametrize("address", ["", "nobody", "dr pell@x.test", "a@b", "x@y.test\r\nX: 1"])
def test_malformed_address_is_400(errand: Errand, address: str):
    answer = start(errand, errand.propose(), address)
    assert (answer.status_code, answer.json()["resourceType"]) == (400, "OperationOutcome")


def test_address_without_a_trusted_certificate_is_422_and_nothing_is_asked(
    errand: Errand, box: Mailbox
):
    consent_id = errand.propose()
    for address in (OTHER, "nobody@direct.clinic.test"):
        answer = start(errand, consent_id, address)
        assert (answer.status_code, answer.json()["resourceType"]) == (422, "OperationOutcome")
        assert "certificate" in answer.text
    assert listed(errand, consent_id) == []


def test_record_without_a_direct_address_sends_nothing(errand: Errand):
    answer = start(errand, errand.propose())
    assert (answer.status_code, "no Direct address of its own" in answer.text) == (422, True)


def test_duration_beyond_the_consent_is_422(errand: Errand, box: Mailbox):
    end = (clock.now() + timedelta(days=20)).isoformat(timespec="seconds")
    period = {"type": "deny", "period": {"end": end}, "provision": [permit("Condition")]}
    consent_id = errand.propose(provision=period)
    assert start(errand, consent_id, DOCTOR, days(21)).status_code == 422
    assert start(errand, consent_id, DOCTOR, days(3)).status_code == 202
    expires = listed(errand, consent_id)[0]["expires"]
    assert expires < clock.instant(clock.now() + timedelta(days=3, minutes=1))


def test_same_address_again_is_the_same_push_and_with_other_parameters_a_conflict(
    errand: Errand, box: Mailbox
):
    consent_id = errand.propose()
    first = values(start(errand, consent_id).json()["parameter"])["push"]
    again = start(errand, consent_id)
    assert (again.status_code, values(again.json()["parameter"])["push"]) == (202, first)
    once = {"name": "once", "valueBoolean": True}
    assert start(errand, consent_id, DOCTOR, once).status_code == 409
    assert start(errand, consent_id, DOCTOR, days(3)).status_code == 409
    assert start(errand, consent_id, DOCTOR.upper(), once).status_code == 409
    assert errand.answer().status_code == 303
    running = start(errand, consent_id)
    assert (running.status_code, values(running.json()["parameter"])["push"]) == (200, first)
    assert start(errand, consent_id, DOCTOR, once).status_code == 409


def test_second_consent_for_an_address_that_is_sent_to_is_told_to_the_patient(
    errand: Errand, box: Mailbox
):
    sent(errand)
    second = errand.propose()
    assert start(errand, second).status_code == 202  # an app does not learn what others began
    answer = errand.answer()
    assert (answer.status_code, "being sent to this address already" in answer.text) == (422, True)
    assert listed(errand, second)[0]["status"] == "awaiting-approval"


def test_waiting_request_is_withdrawn_by_stopping_it(errand: Errand, box: Mailbox):
    consent_id = errand.propose()
    push = values(start(errand, consent_id).json()["parameter"])["push"]
    named = of({"name": "push", "valueString": push})
    assert errand.post(f"Consent/{consent_id}/$pushStop", named).status_code == 200
    assert errand.get(f"Consent/{consent_id}").status_code == 404


@pytest.mark.parametrize("operation", ["$pushStart", "$pushStop", "$listPush"])
def test_unknown_consent_is_404(errand: Errand, operation: str):
    path = f"Consent/{ids.new_id()}/{operation}"
    named = of({"name": "address", "valueString": DOCTOR})
    answer = errand.get(path) if operation == "$listPush" else errand.post(path, named)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"resourceType": "Patient"},
        of({"name": "address", "valueString": DOCTOR}, {"name": "other", "valueString": "x"}),
        of({"name": "address", "valueString": DOCTOR}, {"name": "once", "valueString": "no"}),
        of({"name": "address", "valueString": DOCTOR}, days(0)),
    ],
    ids=["nothing", "another type", "unknown parameter", "once in words", "no time at all"],
)
def test_request_that_is_not_understood_is_refused(
    errand: Errand, box: Mailbox, given: Mapping[str, Any]
):
    answer = errand.post(f"Consent/{errand.propose()}/$pushStart", given)
    assert answer.status_code in {400, 422}
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_app_needs_the_scope_to_send_and_the_old_names_are_understood(stage: Stage, box: Mailbox):
    given = stage.redeem(stage.code(scope=f"patient/Condition.rs {asking.MANAGE}")).json()
    without = Errand(stage, given["access_token"], given["patient"], Clinic())
    consent_id = without.propose()
    assert start(without, consent_id).status_code == 403
    assert stop(without, consent_id).status_code == 403
    assert without.get(f"Consent/{consent_id}/$listPush").status_code == 403

    given = stage.redeem(stage.code(scope="Consent.push")).json()
    assert given["scope"] == asking.PUSH
    old = Errand(stage, given["access_token"], given["patient"], Clinic())
    named = of({"name": "address", "valueUri": f"mailto:{DOCTOR}"})
    answer = old.post(f"Consent/{old.propose()}/$pushRecords", named)
    assert answer.status_code == 202, answer.text
    server = of({"name": "client", "valueUri": "https://clinic.example.org"})
    assert old.post(f"Consent/{consent_id}/$authorize", server).status_code == 403


def test_server_and_mailbox_of_one_consent_are_listed_apart(errand: Errand, box: Mailbox):
    consent_id = sent(errand)
    known = errand.stage.cast.vault("Ada")
    with known.read() as session:
        (job,) = orders.active(session)
    both = errand.stage.redeem(errand.stage.code(scope=f"{asking.MANAGE} {asking.PUSH}")).json()
    other = Errand(errand.stage, both["access_token"], both["patient"], Clinic())
    assert "parameter" not in other.get(f"Consent/{consent_id}/$authorizations").json()
    ending = of({"name": "authorization", "valueString": job.grant_id})
    assert other.post(f"Consent/{consent_id}/$revokeAuthorization", ending).status_code == 404


def test_provider_that_seals_needs_no_certificate_here(errand: Errand):
    with errand.stage.cast.vault("Ada").write() as session:
        session.add(
            Postbox(
                id=1, address="ada@hisp.test", mode=MailMode.HISP, bound="address",
                smtp_host="localhost", smtp_port=587, smtp_login="ada", changed_at=clock.now(),
            )
        )  # fmt: skip
    consent_id = errand.propose()
    assert start(errand, consent_id, OTHER).status_code == 202
    assert "can read everything you send" in errand.stage.ada.get(errand.waiting()).text


def test_capability_statement_and_scopes_say_that_it_is_offered(stage: Stage):
    said = stage.door.get("/fhir/metadata", headers={"accept": "application/json"}).text
    for name in ("$pushStart", "$listPush", "$pushStop", asking.PUSH):
        assert name in said
    known = stage.door.get("/fhir/.well-known/smart-configuration").json()
    assert asking.PUSH in known["scopes_supported"]
