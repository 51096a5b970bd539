"""An app proposes a FHIR Consent and names a server; the patient decides; the server fetches.

Issue 4 items 3 and 4 at the source; spec/sharing.md §4 and §9.1, spec/security.md e-B.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from fhir.resources.R4B.consent import Consent as R4Consent

from phr import clock, consented, ids, jwt
from phr.sharing import asking, consent, consents, gate, servers
from phr.store.database import rows
from tests.cast import PASSWORDS, PUBLIC, Browser, Cast, csrf_in
from tests.fixtures_net import RawServer, plain
from tests.fixtures_sharing import a_record, keep_all
from tests.integration.test_apps import BACK, Stage, assertion, clock_later, let_server_in

BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCESS = "http://terminology.hl7.org/CodeSystem/consentaction"
FHIR_JSON = {"content-type": "application/fhir+json", "origin": ""}


@pytest.fixture
def stage(cast: Cast) -> Iterator[Stage]:
    keep_all(cast.vault("Ada"), "General", a_record())
    ada = cast.browser("Ada")
    ada.submit("/apps", {"name": "Errands", "redirects": BACK, "kind": "app"}, page="/apps")
    client_id = re.findall(r"Client id <code>(\w+)</code>", ada.get("/apps").text)[0]
    with Browser(cast.public, PUBLIC) as door:
        yield Stage(cast, ada, door, client_id)


@dataclass
class Errand:
    """An app that its patient let ask, with its token."""

    stage: Stage
    token: str
    patient: str
    server: "Clinic"

    def get(self, path: str) -> Any:
        headers = {"authorization": f"Bearer {self.token}"}
        return self.stage.door.get(f"/fhir/{path}", headers=headers)

    def post(self, path: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {self.token}"} | FHIR_JSON
        return self.stage.door.post(f"/fhir/{path}", content=json.dumps(body), headers=headers)

    def propose(self, **changed: Any) -> str:
        answer = self.post("Consent", a_consent(self.patient, **changed))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def authorize(self, consent_id: str, *more: Any) -> Any:
        given = [{"name": "client", "valueUri": self.server.address}, *more]
        return self.post(f"Consent/{consent_id}/$authorize", of(*given))

    def waiting(self) -> str:
        """Return the path of the page on which Ada answers the newest proposal."""
        base = f"/p/{self.stage.cast.patients['Ada']}/consents"
        page = self.stage.ada.get(base).text
        return re.findall(rf'href="({base}/\w+)"', page)[0]

    def answer(self, do: str = "allow", **fields: Any) -> Any:
        path = self.waiting()
        page = self.stage.ada.get(path).text
        ticked = fields.pop("line", re.findall(r'name="line" value="([^"]+)"', page))
        form = {"csrf": csrf_in(page), "do": do, "line": ticked, "days": ""}
        form |= {"confirm.password": PASSWORDS["Ada"]} | fields
        kept = {name: value for name, value in form.items() if value is not None}
        return self.stage.ada.post(path, data=kept)

    def granted(self, **changed: Any) -> str:
        """Return a Consent under which the clinic may fetch."""
        consent_id = self.propose(**changed)
        assert self.authorize(consent_id).status_code == 202
        assert self.answer().status_code == 303
        return consent_id


@dataclass
class Clinic:
    """A server with a key, at an address where its key lies."""

    key: dict[str, Any] = field(default_factory=lambda: jwt.new_key("ES384"))
    server: RawServer | None = None
    asked: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.server.url}/clinic"

    published: bytes | None = None  # None: its public key

    def reply(self, request: bytes, channel: Any) -> None:
        self.asked.append(request.split(b" ", 2)[1])
        keys = self.published or json.dumps({"keys": [jwt.public_half(self.key)]}).encode()
        known = self.asked[-1] == b"/clinic/.well-known/jwks.json"
        channel.sendall(plain(keys) if known else plain(b"", "404 Not Found"))

    def assertion(self, consent_id: str, **changed: Any) -> str:
        now = int(clock.now().timestamp())
        claims: dict[str, Any] = {
            "iss": self.address,
            "aud": f"{PUBLIC}/oauth/token",
            "exp": now + 200,
            "jti": ids.new_secret(),
            "consent": consent_id,
        }
        kept = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.sign(kept, self.key)


@pytest.fixture
def errand(stage: Stage, raw_server: Any) -> Errand:
    clinic = Clinic()
    clinic.server = raw_server(clinic.reply)
    appliance = stage.cast.appliance
    appliance.http.guard.allow(clinic.server.place)
    scope = f"patient/Condition.rs {asking.MANAGE}"
    given = stage.redeem(stage.code(scope=scope)).json()
    return Errand(stage, given["access_token"], given["patient"], clinic)


def of(*parameters: Any) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": list(parameters)}


def permit(*types: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "permit",
        "action": [{"coding": [{"system": ACCESS, "code": "access"}]}],
        "class": [{"system": consent.RESOURCE_TYPES, "code": each} for each in types],
    } | more


def scoped(*scopes: str, **more: Any) -> dict[str, Any]:
    return permit(**{"class": [{"system": consent.SCOPES, "code": each} for each in scopes]}) | more


def a_consent(patient: str, *permits: Any, **changed: Any) -> dict[str, Any]:
    until = (clock.now() + timedelta(days=60)).strftime("%Y-%m-%d")
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": consent.CONSENT_SCOPE, "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "policyRule": {"coding": [{"code": "OPTINR"}]},
        "provision": {
            "type": "deny",
            "period": {"end": until},
            "provision": list(permits) or [permit("Observation"), permit("AllergyIntolerance")],
        },
    } | changed


def of_2017(patient: str, *scopes: str, **changed: Any) -> dict[str, Any]:
    """The profile of the connectathon of September 2017 (STU3)."""
    coding = {"system": "http://hl7.org/fhir/consentaction", "code": "access"}
    return {
        "resourceType": "Consent",
        "status": "active",
        "patient": {"reference": f"Patient/{patient}"},
        "policyRule": consent.SIMPLE_OAUTH,
        "except": [
            {
                "type": "permit",
                "action": [{"coding": [coding]}],
                "class": [{"system": consent.SCOPES, "code": each} for each in scopes],
            }
        ],
    } | changed


def fetch(stage: Stage, clinic: Clinic, consent_id: str, **changed: Any) -> Any:
    assertion = clinic.assertion(consent_id, **changed)
    return stage.post("token", grant_type=BEARER, assertion=assertion)


def read(stage: Stage, token: str, path: str) -> Any:
    headers = {"authorization": f"Bearer {token}", "accept": "application/fhir+json"}
    return stage.door.get(f"/fhir/{path}", headers=headers)


# ------------------------------------------------------------------ the whole way


def test_server_fetches_under_a_consent_from_approval_to_revocation(stage: Stage, errand: Errand):
    consent_id = errand.propose()
    asked = errand.authorize(consent_id)
    assert asked.status_code == 202
    assert fetch(stage, errand.server, consent_id).json()["error"] == "invalid_client"

    assert errand.answer().status_code == 303
    given = fetch(stage, errand.server, consent_id)

    assert given.status_code == 200, given.text
    body = given.json()
    assert body["expires_in"] <= 300
    assert "refresh_token" not in body
    assert body["scope"] == "patient/Observation.rs patient/AllergyIntolerance.rs"
    token = body["access_token"]
    found = read(stage, token, "AllergyIntolerance")
    assert [each["resource"]["resourceType"] for each in found.json()["entry"]] == [
        "AllergyIntolerance"
    ]
    assert read(stage, token, "Condition").status_code == 403

    told = errand.get(f"Consent/{consent_id}/$authorizations").json()["parameter"][0]["part"]
    said = {part["name"]: next(v for k, v in part.items() if k != "name") for part in told}
    assert said["status"] == "active"
    assert said["app-id"] == errand.server.address
    assert "lastUsed" in said

    named = {"name": "app-id", "valueUri": errand.server.address}
    ended = errand.post(f"Consent/{consent_id}/$revokeAuthorization", of(named))
    assert ended.status_code == 200
    assert read(stage, token, "AllergyIntolerance").status_code == 401
    again = fetch(stage, errand.server, consent_id)
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    repeated = errand.post(f"Consent/{consent_id}/$revokeAuthorization", of(named))
    assert repeated.status_code == 200


# ------------------------------------------------------------------ proposing


def test_proposal_is_told_as_a_valid_r4_consent_and_gives_nothing(stage: Stage, errand: Errand):
    consent_id = errand.propose()

    listed = errand.get("Consent").json()
    one = errand.get(f"Consent/{consent_id}").json()

    assert [each["resource"]["id"] for each in listed["entry"]] == [consent_id]
    assert one["status"] == "proposed"
    R4Consent.model_validate(one)
    assert consent_id not in {each.id for each in stage.standing()}
    assert read(stage, errand.token, "Observation").status_code == 403


def test_proposal_without_a_server_has_nothing_to_approve(stage: Stage, errand: Errand):
    errand.propose()
    page = stage.ada.get(errand.waiting()).text

    assert "has not named who shall have it" in page
    assert 'value="allow"' not in page
    assert errand.answer().status_code == 409


def test_approving_needs_the_password_and_refusing_does_not(stage: Stage, errand: Errand):
    consent_id = errand.propose()
    errand.authorize(consent_id)

    with clock_later(minutes=10):
        waits = errand.answer(**{"confirm.password": None})
        assert waits.status_code == 403
        assert fetch(stage, errand.server, consent_id).status_code == 401
        assert errand.answer("refuse", **{"confirm.password": None}).status_code == 303
    assert fetch(stage, errand.server, consent_id).status_code == 401


def test_refused_consent_is_told_as_rejected_and_can_be_proposed_anew(stage: Stage, errand: Errand):
    consent_id = errand.propose()
    errand.authorize(consent_id)
    errand.answer("refuse")

    assert errand.get(f"Consent/{consent_id}").json()["status"] == "rejected"
    assert errand.authorize(consent_id).status_code == 409
    assert fetch(stage, errand.server, errand.granted()).status_code == 200


def test_patient_takes_lines_away_and_the_server_gets_no_more(stage: Stage, errand: Errand):
    consent_id = errand.propose()
    errand.authorize(consent_id)
    errand.answer(line=["patient/AllergyIntolerance.rs"], days="1")

    given = fetch(stage, errand.server, consent_id).json()
    assert given["scope"] == "patient/AllergyIntolerance.rs"
    assert read(stage, given["access_token"], "Observation").status_code == 403
    told = errand.get(f"Consent/{consent_id}").json()
    classes = [each["class"] for each in told["provision"]["provision"]]
    assert classes == [[{"system": consent.RESOURCE_TYPES, "code": "AllergyIntolerance"}]]
    ends = max(grant.ends_at for grant in stage.standing() if grant.id == consent_id)
    assert ends <= clock.now() + timedelta(days=1)


def test_pages_say_all_that_an_approved_consent_gives(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    base = f"/p/{stage.cast.patients['Ada']}/grants"
    for path in (f"{base}/{consent_id}", base):
        page = stage.ada.get(path).text
        assert "allergies, results and measurements" in page
        assert "A server" in page
        assert "by an app" not in page


def test_what_a_consent_gives_can_be_taken_away_piece_by_piece(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    token = fetch(stage, errand.server, consent_id).json()["access_token"]
    less = f"/p/{stage.cast.patients['Ada']}/grants/{consent_id}/less"
    page = stage.ada.get(less).text
    offered = re.findall(r'name="part" value="([^"]+)" checked', page)
    assert len(offered) == 2
    form = {"csrf": csrf_in(page), "do": "less"}
    kept = {"part": ["allergies"], "download": "1"}
    assert stage.ada.post(less, data=form | kept).status_code == 303
    assert "entry" not in read(stage, token, "Observation").json()
    assert len(read(stage, token, "AllergyIntolerance").json()["entry"]) == 1
    assert "<dd>A server: allergies</dd>" in stage.ada.get(less.removesuffix("/less")).text
    assert stage.ada.post(less, data=form).status_code == 422  # nothing ticked: stop it instead


def test_who_can_see_says_that_something_is_proposed(stage: Stage, errand: Errand):
    base = f"/p/{stage.cast.patients['Ada']}"
    assert "An app proposes" not in stage.ada.get(f"{base}/grants").text
    errand.propose()
    assert "An app proposes" in stage.ada.get(f"{base}/grants").text
    more = stage.ada.get(f"{base}/more").text
    for place in ("emergency", "consents", "files/link"):
        assert f'href="{base}/{place}"' in more
    assert 'href="/apps"' in more


def test_sensitive_records_stay_unless_asked_for_and_ticked(stage: Stage, errand: Errand):
    label = {"system": consent.ACT_CODE, "code": "PSY"}
    plain = errand.granted()
    asked = errand.propose(provision=provision(permit("Condition", securityLabel=[label])))
    errand.authorize(asked)
    errand.answer()
    ticked = errand.propose(provision=provision(permit("Condition", securityLabel=[label])))
    errand.authorize(ticked)
    errand.answer(also=["mental"])

    for consent_id, number in ((plain, None), (asked, 1), (ticked, 2)):
        token = fetch(stage, errand.server, consent_id).json()["access_token"]
        found = read(stage, token, "Condition")
        if number is None:
            assert found.status_code == 403
        else:
            assert len(found.json()["entry"]) == number
        assert ("Hiddendepression" in found.text) is (consent_id == ticked)


def test_data_period_holds_for_every_kind_it_names(stage: Stage, errand: Errand):
    since = (clock.now() - timedelta(days=100)).strftime("%Y-%m-%d")
    period = {"start": since}
    asked = permit("Observation", "Condition", dataPeriod=period)
    consent_id = errand.granted(provision=provision(asked))
    token = fetch(stage, errand.server, consent_id).json()["access_token"]

    assert len(read(stage, token, "Observation").json()["entry"]) == 2  # the one of long ago stays
    assert "Asthma" not in read(stage, token, "Condition").text


def provision(*permits: Any) -> dict[str, Any]:
    return {"type": "deny", "provision": list(permits)}


def test_profile_of_2017_is_taken(stage: Stage, errand: Errand):
    body = of_2017(errand.patient, "patient/Condition.read", period={"end": "2100"})
    answer = errand.post("Consent", body)
    assert answer.status_code == 201, answer.text
    R4Consent.model_validate(answer.json())
    duration = {"name": "duration", "valueDuration": {
        "value": 3, "system": "http://unitsofmeasure.org", "code": "mo"}}  # fmt: skip

    consent_id = answer.json()["id"]
    path = f"Consent/{consent_id}/$getToken"  # as it was called at first
    statement = jwt.sign(
        {"iss": errand.server.address, "aud": f"{PUBLIC}/fhir", "exp": 2e9 + 3e9},
        errand.server.key,
        kind=servers.STATEMENT,
    )
    asked = errand.post(path, of(duration, {"name": "jwt", "valueString": statement}))
    assert asked.status_code == 202, asked.text
    errand.answer()
    given = fetch(stage, errand.server, consent_id)

    assert given.json()["scope"] == "patient/Condition.read"


REFUSED: dict[str, Any] = {
    "another patient": {"patient": {"reference": "Patient/0000000000000000"}},
    "no longer active": {"status": "inactive"},
    "an unknown member": {"verification": [{"verified": True}]},
    "an extension that changes meaning": {"modifierExtension": [{"url": "x"}]},
    "permit at the root": {"provision": {"type": "permit"}},
    "labels on the root": {"provision": {"type": "deny", "securityLabel": [{"code": "R"}]}},
    "nothing inside": {"provision": {"type": "deny", "provision": []}},
    "it has ended": {"provision": {
        "type": "deny", "period": {"end": "2001"}, "provision": [permit("Condition")]}},
    "it begins later": {"provision": {
        "type": "deny", "period": {"start": "2100"}, "provision": [permit("Condition")]}},
    "a deny inside": {"provision": provision({"type": "deny"})},
    "levels": {"provision": provision(permit("Condition", provision=[{"type": "deny"}]))},
    "single records": {"provision": provision(permit("Condition", data=[{"meaning": "instance"}]))},
    "codes": {"provision": provision(permit("Condition", code=[{"text": "x"}]))},
    "an unknown type": {"provision": provision(permit("Spaceship"))},
    "writing": {"provision": provision(permit(**{"class": [
        {"system": consent.SCOPES, "code": "patient/Condition.cruds"}]}))},
    "a plain scope": {"provision": provision(permit(**{"class": [
        {"system": consent.SCOPES, "code": "openid"}]}))},
    "two scopes in one": {"provision": provision(permit(**{"class": [
        {"system": consent.SCOPES, "code": "patient/Condition.rs patient/*.rs"}]}))},
    "another system": {"provision": provision(permit(**{"class": [
        {"system": "urn:x", "code": "Condition"}]}))},
    "another action": {"provision": provision(permit("Condition", action=[
        {"coding": [{"system": ACCESS, "code": "correct"}]}]))},
    "an action in words": {"provision": provision(permit("Condition", action=[{"text": "all"}]))},
    "emergency": {"provision": provision(permit("Condition", purpose=[{"code": "ETREAT"}]))},
    "an unknown label": {"provision": provision(permit("Condition", securityLabel=[
        {"system": consent.ACT_CODE, "code": "NOSUCH"}]))},
    "the private mark": {"provision": provision(permit("Condition", securityLabel=[
        {"system": consent.ACT_CODE, "code": "PRIVATE"}]))},
    "labels for a part": {"provision": provision(permit("Condition"), permit(
        "Observation", securityLabel=[{"system": consent.ACT_CODE, "code": "PSY"}]))},
    "a date that is none": {"provision": provision(permit(
        "Condition", dataPeriod={"start": "yesterday"}))},
    "two recipients": {"provision": provision(permit("Condition", actor=[
        {"reference": {"display": "A"}}, {"reference": {"display": "B"}}]))},
    "an unknown policy": {"policyRule": "http://example.org/other", "provision": None},
    "except in R4": {"except": [{"type": "permit"}]},
    "another resource": {"resourceType": "Contract"},
    "opting out": {"policyRule": {"coding": [{"system": consent.ACT_CODE, "code": "OPTOUT"}]}},
    "a policy in words": {"policyRule": {"text": "anything goes"}},
    "a policy of somebody": {"policy": [{"uri": "https://example.org/may-resell"}]},
    "a consent to treatment": {"scope": {"coding": [
        {"system": consent.CONSENT_SCOPE, "code": "treatment"}]}},
    "a scope of somebody": {"scope": {"coding": [{"system": "x", "code": "patient-privacy"}]}},
    "somebody else who agrees": {"performer": [{"reference": "Practitioner/1"}]},
    "an organization": {"organization": [{"display": "Elsewhere"}]},
    "a purpose of somebody": {"provision": provision(permit("Condition", purpose=[
        {"system": "urn:x", "code": "TREAT"}]))},
    "a status that is none": {"status": []},
    "a label that is none": {"provision": provision(permit("Condition", securityLabel=[
        {"system": consent.ACT_CODE, "code": []}]))},
    "a system that is none": {"provision": provision(permit("Condition", securityLabel=[
        {"system": [], "code": "PSY"}]))},
    "a purpose that is none": {"provision": provision(permit("Condition", purpose=[{"code": {}}]))},
    "a role that is none": {"provision": provision(permit("Condition", actor=[
        {"role": {"coding": [{"system": [], "code": "IRCP"}]}, "reference": {"display": "A"}}]))},
    "one kind twice with two periods": {"provision": provision(
        permit("Observation", dataPeriod={"start": "1950", "end": "1950"}),
        permit("Observation"))},
    "an intent with a period of its own": {"provision": provision(
        scoped("patient/MedicationRequest.rs?intent=order", dataPeriod={"end": "1950"}),
        scoped("patient/MedicationRequest.rs?intent=plan"))},
    "an intent beside every kind": {"provision": provision(
        scoped("patient/MedicationRequest.rs?intent=order"),
        permit("Condition", dataPeriod={"end": "1950"}),
        scoped("patient/*.rs", dataPeriod={"end": "1950"}))},
    "a category of a system with a period of its own": {"provision": provision(
        scoped("patient/Observation.rs?category=urn:x|laboratory", dataPeriod={"end": "1950"}),
        scoped("patient/Observation.rs?category=urn:y|laboratory"))},
    "reading without searching with a period of its own": {"provision": provision(
        scoped("patient/Observation.r"), permit("Observation", dataPeriod={"end": "1950"}))},
    "too many permits": {"provision": provision(*[permit("Condition")] * 51)},
    "a period of its own": {"provision": provision(permit("Condition", period={"end": "2100"}))},
    "a class without a code": {"provision": provision(permit(**{"class": [{"system": "x"}]}))},
    "a class that is none": {"provision": provision(permit(**{"class": "Condition"}))},
    "no class": {"provision": provision(permit())},
    "two purposes": {"provision": provision(permit("Condition", purpose=[
        {"code": "TREAT"}, {"code": "PATRQT"}]))},
    "another role": {"provision": provision(permit("Condition", actor=[
        {"role": {"coding": [{"code": "CST"}]}, "reference": {"display": "A"}}]))},
    "a recipient by a number": {"provision": provision(permit("Condition", actor=[
        {"reference": {"identifier": {"system": "urn:x", "value": "1"}}}]))},
    "a reference elsewhere": {"provision": provision(permit("Condition", actor=[
        {"reference": {"reference": "Organization/1"}}]))},
    "an extension deep inside": {"provision": provision(permit(**{"class": [
        {"system": consent.RESOURCE_TYPES, "code": "Condition", "extension": [{"url": "x"}]}]}))},
    "no patient": {"patient": "Patient/1"},
    "no action": {"provision": provision(permit("Condition", action=[]))},
    "only people": {"provision": provision(permit("Practitioner"))},
}  # fmt: skip


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED.keys())
def test_consent_that_cannot_be_kept_exactly_is_refused_in_words(patient_and, changed):
    read_, patient = patient_and

    with pytest.raises(consent.NotExpressible) as refused:
        read_(a_consent(patient) | changed)

    assert refused.value.sentence.endswith(".")


@pytest.fixture
def patient_and() -> Any:
    patient = "0123456789abcdef"
    return lambda given: consent.read(given, patient_id=patient, now=clock.now()), patient


def test_refused_consent_is_a_422_and_nothing_is_kept(stage: Stage, errand: Errand):
    answer = errand.post("Consent", a_consent(errand.patient, **REFUSED["writing"]))

    assert answer.status_code == 422
    assert answer.json()["issue"][0]["diagnostics"].startswith("It names scopes")
    assert "entry" not in errand.get("Consent").json()


# ------------------------------------------------------------------ naming a server


def test_duration_is_the_consents_unless_it_is_shorter_and_longer_is_an_error(errand: Errand):
    consent_id = errand.propose()
    unit = {"system": "http://unitsofmeasure.org", "code": "d"}

    longer = errand.authorize(
        consent_id, {"name": "duration", "valueDuration": {"value": 99, **unit}}
    )
    assert longer.status_code == 422
    shorter = errand.authorize(
        consent_id, {"name": "duration", "valueDuration": {"value": 2, **unit}}
    )

    assert shorter.status_code == 202
    expires = next(p for p in shorter.json()["parameter"] if p["name"] == "expires")
    assert datetime.fromisoformat(expires["valueInstant"]) <= clock.now() + timedelta(days=2)


@pytest.mark.parametrize(
    "duration", [{"value": -1}, {"value": 1e9}, {"value": "x"}, {"value": 1, "code": "fortnight"}]
)
def test_duration_that_makes_no_sense_is_refused(errand: Errand, duration):
    given = {"system": "http://unitsofmeasure.org", "code": "d"} | duration

    answer = errand.authorize(errand.propose(), {"name": "duration", "valueDuration": given})

    assert answer.status_code == 422


def test_server_named_twice_is_a_conflict_and_another_one_is_asked_for_anew(
    stage: Stage, errand: Errand
):
    consent_id = errand.granted()
    assert errand.authorize(consent_id).status_code == 409

    key = jwt.public_half(jwt.new_key("ES384"))
    other = of({"name": "publicKey", "valueString": json.dumps(key)})
    assert errand.post(f"Consent/{consent_id}/$authorize", other).status_code == 202
    known = errand.get(f"Consent/{consent_id}/$authorizations").json()["parameter"]
    states = [part["valueCode"] for each in known for part in each["part"] if "valueCode" in part]
    assert states == ["active", "awaiting-approval"]
    assert errand.get(f"Consent/{consent_id}").json()["status"] == "active"


def test_server_known_by_its_key_alone_fetches_with_that_key(stage: Stage, errand: Errand):
    key = errand.server.key
    consent_id = errand.propose()
    pem = json.dumps(jwt.public_half(key))
    given = of({"name": "publicKey", "valueString": pem})
    assert errand.post(f"Consent/{consent_id}/$authorize", given).status_code == 202
    assert errand.answer().status_code == 303

    name = servers.THUMBPRINT + key["kid"]
    assert fetch(stage, errand.server, consent_id, iss=name).status_code == 200
    assert errand.server.asked == []  # nobody was asked for keys


def test_consent_that_names_its_server_is_given_to_no_other(stage: Stage, errand: Errand):
    actor = {"reference": {"display": "Clinic", "identifier": {
        "system": "urn:ietf:rfc:3986", "value": "https://other.example.org"}}}  # fmt: skip
    consent_id = errand.propose(provision=provision(permit("Condition", actor=[actor])))

    assert errand.authorize(consent_id).status_code == 422


@pytest.mark.parametrize(
    "given",
    [
        [],
        [{"name": "client", "valueUri": "http://clinic.example.org"}],
        [{"name": "client", "valueUri": "https://10.0.0.1/clinic"}],
        [{"name": "client", "valueUri": "https://169.254.169.254/latest"}],
        [{"name": "client", "valueUri": "file:///etc/passwd"}],
        [{"name": "client", "valueUri": "http://127.0.0.1:1/clinic"}],
        [{"name": "publicKey", "valueString": "{}"}],
        [{"name": "publicKey", "valueString": "-----BEGIN " + "PRIVATE KEY-----"}],
        [{"name": "jwt", "valueString": "a.b.c"}],
        [{"name": "surprise", "valueString": "x"}],
        [{"name": "client", "valueUri": "https://a.b", "valueString": "x"}],
    ],
)
def test_server_that_cannot_be_known_is_refused(errand: Errand, given):
    answer = errand.post(f"Consent/{errand.propose()}/$authorize", of(*given))

    assert answer.status_code == 422


@pytest.mark.parametrize(
    "published",
    [b"<html>", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "EC", "d": "x"}]}', b"[" * 9999],
)
def test_address_without_sound_keys_names_no_server(errand: Errand, published: bytes):
    errand.server.published = published

    assert errand.authorize(errand.propose()).status_code == 422


def test_statement_for_another_or_with_another_key_names_no_server(errand: Errand):
    consent_id = errand.propose()
    said = {"iss": errand.server.address, "aud": f"{PUBLIC}/fhir", "exp": 5e9}
    for claims, key in (
        (said | {"aud": "https://elsewhere.example.org"}, errand.server.key),
        (said | {"aud": [said["aud"]]}, errand.server.key),
        (said | {"exp": 1}, errand.server.key),
        (said, jwt.new_key("ES384")),
    ):
        statement = jwt.sign(claims, key, kind=servers.STATEMENT)
        given = of({"name": "jwt", "valueString": statement})
        assert errand.post(f"Consent/{consent_id}/$authorize", given).status_code == 422


def test_private_key_that_travelled_is_refused(errand: Errand):
    key = json.dumps(errand.server.key)
    given = of({"name": "publicKey", "valueString": key})

    assert errand.post(f"Consent/{errand.propose()}/$authorize", given).status_code == 422


# ------------------------------------------------------------------ who may ask


def test_app_without_the_consent_scope_may_do_none_of_it(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    plain = stage.redeem(stage.code(scope="patient/*.rs")).json()["access_token"]
    other = Errand(stage, plain, errand.patient, errand.server)

    for answer in (
        other.post("Consent", a_consent(errand.patient)),
        other.get("Consent"),
        other.get(f"Consent/{consent_id}"),
        other.authorize(consent_id),
        other.get(f"Consent/{consent_id}/$authorizations"),
        other.post(f"Consent/{consent_id}/$revokeAuthorization", of()),
    ):
        assert answer.status_code == 403


def test_consents_of_another_app_are_as_unknown_as_none(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    stage.ada.submit("/apps", {"name": "Other", "redirects": BACK, "kind": "app"}, page="/apps")
    ids_ = re.findall(r"Client id <code>(\w+)</code>", stage.ada.get("/apps").text)
    other_id = next(each for each in ids_ if each != stage.client_id)
    code = stage.code(scope=asking.MANAGE, client_id=other_id)
    token = stage.redeem(code, client_id=other_id).json()["access_token"]
    other = Errand(stage, token, errand.patient, errand.server)

    assert "entry" not in other.get("Consent").json()
    for path in (f"Consent/{consent_id}", f"Consent/{consent_id}/$authorizations"):
        unknown = other.get(path.replace(consent_id, "0" * 32))
        answer = other.get(path)
        assert (answer.status_code, answer.text) == (404, unknown.text)
    assert other.authorize(consent_id).status_code == 404


def test_app_that_runs_errands_only_reads_nothing(stage: Stage):
    token = stage.redeem(stage.code(scope="Consent.authorize")).json()  # as spelled in 2017

    assert token["scope"] == asking.MANAGE
    assert read(stage, token["access_token"], "Condition").status_code == 403
    assert read(stage, token["access_token"], "Consent").status_code == 200
    (grant,) = stage.standing()
    base = f"/p/{stage.cast.patients['Ada']}/grants"
    assert stage.ada.get(base).status_code == 200
    assert stage.ada.get(f"{base}/{grant.id}").status_code == 200


def test_unticked_errand_is_not_given(stage: Stage):
    path = stage.page(scope=f"patient/Condition.rs {asking.MANAGE}")
    code = stage.back(stage.answer(path, line=["patient/Condition.rs"]))["code"]

    assert stage.redeem(code).json()["scope"] == "patient/Condition.rs"


def test_viewer_and_stranger_answer_no_proposal(stage: Stage, errand: Errand):
    errand.authorize(errand.propose())
    path = errand.waiting()

    assert stage.cast.browser("Cleo").get(path).status_code == 403
    assert stage.cast.browser("Eve").get(path).status_code == 404


def test_blocked_app_proposes_nothing_more(stage: Stage, errand: Errand):
    stage.ada.submit(f"/apps/{stage.client_id}/block", page="/apps")

    assert errand.get("Consent").status_code == 401
    assert errand.post("Consent", a_consent(errand.patient)).status_code == 401


def test_proposals_that_wait_are_bounded(errand: Errand):
    for _ in range(5):
        errand.propose()

    assert errand.post("Consent", a_consent(errand.patient)).status_code == 409


# ------------------------------------------------------------------ at the token endpoint


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://elsewhere.example.org"},
        {"aud": "https://elsewhere.example.org/token"},
        {"aud": [f"{PUBLIC}/oauth/token"]},
        {"exp": 1},
        {"exp": 4102444800},
        {"exp": None},
        {"jti": None},
        {"sub": "somebody else"},
        {"consent": None},
    ],
    ids=["iss", "aud", "audiences", "past", "far", "no exp", "no jti", "sub", "no consent"],
)
def test_assertion_that_is_not_exactly_right_gives_no_token(stage: Stage, errand: Errand, changed):
    consent_id = errand.granted()

    assert fetch(stage, errand.server, consent_id, **changed).status_code in {400, 401}


def test_assertion_serves_once_and_only_with_the_key_at_the_address(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    assertion = errand.server.assertion(consent_id)

    assert stage.post("token", grant_type=BEARER, assertion=assertion).status_code == 200
    assert stage.post("token", grant_type=BEARER, assertion=assertion).status_code == 401
    forged = Clinic(server=errand.server.server)
    assert fetch(stage, forged, consent_id).status_code == 401


def test_consent_alone_says_the_scopes(stage: Stage, errand: Errand):
    assertion = errand.server.assertion(errand.granted())

    answer = stage.post("token", grant_type=BEARER, assertion=assertion, scope="patient/*.rs")

    assert answer.json()["error"] == "invalid_scope"


def test_other_ways_to_a_token_are_closed_to_a_server_with_a_consent(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    given = {
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": errand.server.assertion(consent_id, sub=errand.server.address),
    }

    answer = stage.post("token", grant_type="client_credentials", scope="system/*.rs", **given)

    assert answer.status_code == 400
    assert "access_token" not in answer.json()


def test_consent_of_another_server_gives_nothing(stage: Stage, errand: Errand, raw_server: Any):
    mine = errand.granted()
    other = Clinic()
    other.server = raw_server(other.reply)
    stage.cast.appliance.http.guard.allow(other.server.place)
    theirs = Errand(stage, errand.token, errand.patient, other).granted()

    assert fetch(stage, other, theirs).status_code == 200
    assert fetch(stage, other, mine).json()["error"] == "invalid_grant"
    assert fetch(stage, errand.server, theirs).json()["error"] == "invalid_grant"


def test_blocked_server_fetches_nothing_more(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    token = fetch(stage, errand.server, consent_id).json()["access_token"]
    ids_ = re.findall(r"Client id <code>(\w+)</code>", stage.ada.get("/apps").text)
    server_id = next(each for each in ids_ if each != stage.client_id)
    stage.ada.submit(f"/apps/{server_id}/block", page="/apps")

    assert read(stage, token, "AllergyIntolerance").status_code == 401
    assert fetch(stage, errand.server, consent_id).status_code == 401


def test_grant_that_the_patient_stops_or_that_ends_gives_no_token(stage: Stage, errand: Errand):
    first, second = errand.granted(), None
    gate.end(stage.cast.vault("Ada"), first, "patient", {"kind": "account"}, now=clock.now())
    assert fetch(stage, errand.server, first).json()["error"] == "invalid_grant"
    second = errand.granted()
    with clock_later(days=61):
        assert fetch(stage, errand.server, second).json()["error"] == "invalid_grant"


def test_sealed_record_asks_the_server_to_come_back(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    stage.cast.appliance.vaults.seal(stage.cast.patients["Ada"])

    assert fetch(stage, errand.server, consent_id).status_code == 503


# ------------------------------------------------------------------ an adviser, where one is asked


@pytest.fixture
def adviser(stage: Stage, raw_server: Any) -> Any:
    """An adviser that says what the test sets, and what it was told."""
    said = {"answer": {"trusted": True}, "told": []}

    def reply(request: bytes, channel: Any) -> None:
        said["told"].append(request.partition(b"\r\n\r\n")[2].decode())
        channel.sendall(plain(json.dumps(said["answer"]).encode()))

    server = raw_server(reply)
    appliance = stage.cast.appliance
    appliance.http.guard.allow(server.place)
    appliance.settings = replace(appliance.settings, advisor=f"{server.url}/vouch")
    return said


def test_adviser_is_told_of_the_server_alone_and_asked_at_each_token(
    stage: Stage, errand: Errand, adviser: Any
):
    consent_id = errand.granted()
    assert fetch(stage, errand.server, consent_id).status_code == 200
    told = {urlencode({"client": errand.server.address})}
    assert (set(adviser["told"]), len(adviser["told"])) == (told, 2)

    adviser["answer"] = {"trusted": False}
    refused = fetch(stage, errand.server, consent_id)

    assert (refused.status_code, refused.json()) == (400, {"error": "invalid_grant"})
    page = stage.ada.get(f"/p/{stage.cast.patients['Ada']}/consents").text
    assert "does not vouch for this server" in page
    told_app = errand.get(f"Consent/{consent_id}/$authorizations").text
    assert "vouch" not in told_app
    adviser["answer"] = {"trusted": True}
    assert fetch(stage, errand.server, consent_id).status_code == 200


@pytest.mark.parametrize("answer", [{}, [], {"trusted": "yes"}, {"trusted": 1}, None])
def test_server_is_not_named_without_the_advisers_yes(errand: Errand, adviser: Any, answer):
    adviser["answer"] = answer

    assert errand.authorize(errand.propose()).status_code == 422


# ------------------------------------------------------------------ as the target


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/fhir",
        "https://169.254.169.254/fhir",
        "http://clinic.example.org/fhir?x=1",
        "file:///etc/passwd",
        "https://[::1]/fhir",
        "nonsense",
    ],
)
def test_target_is_led_to_no_address_of_its_own_network(stage: Stage, url: str):
    token = stage.redeem(stage.code(scope=asking.CONNECT)).json()["access_token"]
    app = Errand(stage, token, "", Clinic())
    given = of({"name": "url", "valueUri": url}, {"name": "consent", "valueString": "1"})

    assert app.post("$connect", given).status_code == 422


def test_target_asks_nobody_before_its_patient_agrees(stage: Stage, errand: Errand):
    token = stage.redeem(stage.code(scope=asking.CONNECT)).json()["access_token"]
    app = Errand(stage, token, errand.patient, errand.server)
    url = {"name": "url", "valueUri": errand.server.address}
    consent_ = {"name": "consent", "valueString": "Consent/1"}

    elsewhere = {"name": "patient", "valueString": "Patient/0000000000000000"}
    assert app.post("$connect", of(url, consent_, elsewhere)).status_code == 422
    assert errand.post("$connect", of(url, consent_)).status_code == 403  # without the scope
    for _ in range(5):
        assert app.post("$connect", of(url, consent_)).status_code == 202
    assert app.post("$connect", of(url, consent_)).status_code == 409
    assert errand.server.asked == []
    assert app.get(f"$connect/{ids.new_id()}").status_code == 404


def test_keys_of_this_house_are_published_without_what_signs(stage: Stage):
    keys = stage.door.get("/.well-known/jwks.json").json()["keys"]

    assert [set(key) & jwt.PRIVATE_MEMBERS for key in keys] == [set()]


def forged(assertion: str, header: dict[str, Any], signature: str | None = None) -> str:
    """Return an assertion with another header, unsigned or with a signature that was given."""
    _, claims, signed = assertion.split(".")
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{head}.{claims}.{signed if signature is None else signature}"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "nOnE"},
        {"alg": "HS256"},
        {"alg": "ES384", "jku": "https://elsewhere.example.org/keys.json"},
        {"alg": "ES384", "jwk": {"kty": "EC"}},
        {"alg": "ES384", "crit": ["exp"]},
        {"alg": "ES384", "b64": False},
        {"alg": "ES384", "zip": "DEF"},
        {"alg": "ES384", "typ": "at+jwt"},
        {"alg": "ES384", "kid": "../../etc/passwd"},
    ],
    ids=["none", "nOnE", "HS256", "jku", "jwk", "crit", "b64", "zip", "typ", "kid"],
)
def test_forged_assertion_gives_no_token(stage: Stage, errand: Errand, header):
    assertion = errand.server.assertion(errand.granted())
    kid = {"kid": errand.server.key["kid"]}

    for signature in (None, "", "AAAA"):
        made = forged(assertion, kid | header, signature)
        assert stage.post("token", grant_type=BEARER, assertion=made).status_code == 401


@pytest.mark.parametrize("assertion", ["", "x", "a.b.c", "." * 20000, "é.é.é"])
def test_nonsense_for_an_assertion_is_refused(stage: Stage, assertion: str):
    answer = stage.post("token", grant_type=BEARER, assertion=assertion)

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_grant_goes_along_as_a_valid_consent_for_every_member(stage: Stage, errand: Errand):
    errand.granted()
    for grant in stage.standing():
        path = f"/p/{stage.cast.patients['Ada']}/grants/{grant.id}/consent.json"
        found = stage.cast.browser("Cleo").get(path)
        assert found.headers["content-type"].startswith("application/fhir+json")
        R4Consent.model_validate(found.json())
        assert found.json()["status"] == "active"
        assert stage.cast.browser("Eve").get(path).status_code == 404


def test_paused_consent_gives_no_token_until_it_is_resumed(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    vault = stage.cast.vault("Ada")
    gate.suspend(vault, consent_id, {"kind": "account"})

    told = errand.get(f"Consent/{consent_id}/$authorizations").text
    assert '"suspended"' in told
    assert fetch(stage, errand.server, consent_id).json()["error"] == "invalid_grant"
    assert errand.authorize(consent_id).status_code == 409
    stage.ada.submit(f"/p/{vault.id}/grants/{consent_id}/resume", page=f"/p/{vault.id}/grants")
    assert fetch(stage, errand.server, consent_id).status_code == 200


def test_consent_stands_while_one_of_its_servers_may_fetch(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    key = json.dumps(jwt.public_half(jwt.new_key("ES384")))
    other = of({"name": "publicKey", "valueString": key})
    errand.post(f"Consent/{consent_id}/$authorize", other)
    errand.answer()
    gate.end(stage.cast.vault("Ada"), consent_id, "patient", {"kind": "account"}, now=clock.now())

    assert errand.get(f"Consent/{consent_id}").json()["status"] == "active"


# ------------------------------------------------------------------ what an app cannot bring about


def test_categories_with_two_periods_are_kept_apart_and_taken(patient_and: Any):
    read_, patient = patient_and
    permits = (
        scoped("patient/Observation.rs?category=laboratory", dataPeriod={"start": "2024"}),
        scoped("patient/Observation.rs?category=vital-signs"),
        permit("Condition", dataPeriod={"start": "2020"}),
    )

    rules = read_(a_consent(patient, *permits)).provision.rules

    assert [(rule.categories, rule.since is None) for rule in rules] == [
        (("laboratory",), False),
        (("vital-signs",), True),
        ((), False),
    ]


def rows_of(errand: Errand) -> list[int]:
    """Count what a proposal leaves: grant, recipient, request, and the way to it."""
    vault = errand.stage.cast.vault("Ada")
    tables = ('"grant"', "recipient", "consent_asked")
    with vault.read() as session, vault.house.read() as house:
        found = [rows(session, f"SELECT count(*) FROM {name}")[0][0] for name in tables]
        return [*found, rows(house, "SELECT count(*) FROM route")[0][0]]


def test_withdrawn_proposal_leaves_nothing_and_no_narrative_is_kept(errand: Errand):
    before = rows_of(errand)
    consent_id = errand.propose(text={"status": "generated", "div": "x" * 200_000})
    named = of({"name": "authorization", "valueString": consent_id})
    path = f"Consent/{consent_id}/$revokeAuthorization"
    with errand.stage.cast.vault("Ada").read() as session:
        assert rows(session, "SELECT max(length(body)) FROM consent_asked")[0][0] < 2000

    assert errand.post(path, named).status_code == 200
    assert rows_of(errand) == before
    assert errand.get(f"Consent/{consent_id}").status_code == 404


def test_large_consent_is_refused(errand: Errand):
    body = a_consent(errand.patient, language="x" * 20_000)

    assert errand.post("Consent", body).status_code == 422


def test_proposals_of_one_day_are_bounded_though_each_is_withdrawn(errand: Errand):
    for _ in range(20):
        consent_id = errand.propose()
        named = of({"name": "authorization", "valueString": consent_id})
        errand.post(f"Consent/{consent_id}/$revokeAuthorization", named)

    assert errand.post("Consent", a_consent(errand.patient)).status_code == 429


def test_what_other_apps_proposed_does_not_show(stage: Stage, errand: Errand):
    for _ in range(5):
        errand.propose()
    stage.ada.submit("/apps", {"name": "Other", "redirects": BACK, "kind": "app"}, page="/apps")
    ids_ = re.findall(r"Client id <code>(\w+)</code>", stage.ada.get("/apps").text)
    other_id = next(each for each in ids_ if each != stage.client_id)
    code = stage.code(scope=f"patient/Condition.rs {asking.MANAGE}", client_id=other_id)
    token = stage.redeem(code, client_id=other_id).json()["access_token"]
    other = Errand(stage, token, errand.patient, errand.server)

    answers = [other.post("Consent", a_consent(errand.patient)).status_code for _ in range(6)]

    assert answers == [201] * 5 + [409]


def test_servers_named_for_one_consent_are_bounded(errand: Errand, monkeypatch):
    monkeypatch.setattr(consents, "MOST_REQUESTS", 4)
    consent_id = errand.propose()
    path = f"Consent/{consent_id}/$authorize"
    withdrawn = f"Consent/{consent_id}/$revokeAuthorization"
    errand.authorize(consent_id)
    assert errand.answer().status_code == 303
    codes = []
    for _ in range(4):
        key = json.dumps(jwt.public_half(jwt.new_key("ES384")))
        made = errand.post(path, of({"name": "publicKey", "valueString": key}))
        codes.append(made.status_code)
        if made.status_code == 202:
            errand.answer("refuse", **{"confirm.password": None})

    assert codes == [202] * 3 + [409]
    named = {"name": "app-id", "valueUri": errand.server.address}
    assert errand.post(withdrawn, of(named)).status_code == 200


def test_app_that_names_a_slow_server_holds_one_place_and_no_more(errand: Errand):
    consent_id = errand.propose()
    begun, ends = threading.Event(), threading.Event()
    published = errand.server.reply

    def slow(request: bytes, channel: Any) -> None:
        begun.set()
        ends.wait(20)
        published(request, channel)

    errand.server.server.reply = slow
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(errand.authorize, consent_id)
        assert begun.wait(20)
        try:
            assert errand.authorize(consent_id).status_code == 429
        finally:
            ends.set()
        assert first.result().status_code == 202


def test_app_that_asks_for_others_again_and_again_has_to_wait(errand: Errand):
    consent_id = errand.propose()
    given = of({"name": "publicKey", "valueString": "{}"})
    codes = [errand.post(f"Consent/{consent_id}/$authorize", given).status_code for _ in range(31)]

    assert codes == [422] * 30 + [429]


def test_why_an_address_gives_no_keys_is_not_told_to_an_app(errand: Errand):
    consent_id = errand.propose()
    told = set()
    for address in ("https://10.0.0.1", "https://no-such.invalid", "http://127.0.0.1:1/clinic"):
        given = of({"name": "client", "valueUri": address})
        told.add(errand.post(f"Consent/{consent_id}/$authorize", given).text)

    assert len(told) == 1


@pytest.mark.parametrize("unit", ["a", "min"])
def test_longest_duration_is_an_answer_and_no_fault(errand: Errand, unit: str):
    duration = {"value": 9999, "system": "http://unitsofmeasure.org", "code": unit}
    given = {"name": "duration", "valueDuration": duration}

    assert errand.authorize(errand.propose(), given).status_code in {202, 422}


def test_parameter_whose_name_is_none_is_refused(errand: Errand):
    given = of({"name": ["client"], "valueString": "x"})

    assert errand.post(f"Consent/{errand.propose()}/$authorize", given).status_code == 422


def test_page_and_approval_say_the_whole_address_and_the_purpose(stage: Stage, errand: Errand):
    consent_id = errand.propose()
    errand.authorize(consent_id)
    page = stage.ada.get(errand.waiting()).text
    errand.answer()
    with stage.cast.vault("Ada").read() as session:
        wanted = "SELECT shown FROM approval WHERE grant_id = ?"
        [(shown,)] = rows(session, wanted, (consent_id,))

    for words in (errand.server.address, consent.PURPOSES["PATRQT"]):
        assert words in page
        assert words in shown
    assert f"{errand.server.address.partition('//')[2]} asks to fetch" in page


# ------------------------------------------------------------------ who a server is


def test_statement_of_this_house_serves_as_nothing_else(stage: Stage):
    given = stage.redeem(stage.code(scope=f"patient/Condition.rs {asking.CONNECT}")).json()
    head = {"authorization": f"Bearer {given['access_token']}"}
    for odd in ("", "x", "http://hospital.example", "https://hospital.example/fhir?x=1"):
        refused = stage.door.get("/fhir/$jwt", params={"source": odd}, headers=head)
        assert refused.status_code == 422

    where = "https://hospital.example/fhir"
    text = stage.door.get("/fhir/$jwt", params={"source": where}, headers=head).text
    keys = stage.door.get("/.well-known/jwks.json").json()
    claims = jwt.verify(text, keys, issuer=PUBLIC, audience=where, now=clock.now())

    assert jwt.header(text)["typ"] == servers.STATEMENT
    assert claims["exp"] - claims["iat"] == 300
    assert not {"sub", "jti"} & claims.keys()
    with stage.cast.vault("Ada").read() as session:
        wanted = "SELECT count(*) FROM audit_entry WHERE event = 'statement.signed'"
        assert rows(session, wanted)[0][0] == 1


def test_token_that_is_no_statement_names_no_server(errand: Errand):
    claims = {"iss": errand.server.address, "aud": f"{PUBLIC}/fhir", "exp": 5e9}
    given = of({"name": "jwt", "valueString": jwt.sign(claims, errand.server.key)})

    assert errand.post(f"Consent/{errand.propose()}/$authorize", given).status_code == 422


def test_consent_is_read_only_from_what_was_checked(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    own = errand.server.assertion(consent_id, consent=None, sub=errand.server.address)
    head, body = ({"alg": "none"}, {"consent": consent_id})
    forged = ".".join(
        base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=")
        for each in (head, body, {})
    )

    answer = stage.post(
        "token",
        grant_type=BEARER,
        assertion=forged,
        client_assertion=own,
        client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    )

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_failed_look_at_the_keys_takes_away_none_that_are_good(stage: Stage, errand: Errand):
    consent_id = errand.granted()
    assert fetch(stage, errand.server, consent_id).status_code == 200
    stranger = Clinic(server=errand.server.server)
    with clock_later(minutes=2):
        errand.server.published = b"down"
        assert fetch(stage, stranger, consent_id).status_code == 401
        assert fetch(stage, errand.server, consent_id).status_code == 200


def test_key_that_calls_itself_by_anothers_id_is_not_that_server(stage: Stage, errand: Errand):
    squatter = jwt.new_key("ES384") | {"kid": errand.server.key["kid"]}
    registered = stage.register(
        {
            "client_name": "Harmless",
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [jwt.public_half(squatter)]},
            "scope": "system/Observation.rs",
        }
    )
    let_server_in(stage, registered.json()["client_id"])
    consent_id = errand.propose()
    key = json.dumps(jwt.public_half(errand.server.key))
    errand.post(f"Consent/{consent_id}/$authorize", of({"name": "publicKey", "valueString": key}))
    assert errand.answer().status_code == 303
    name = servers.THUMBPRINT + errand.server.key["kid"]

    assert fetch(stage, errand.server, consent_id, iss=name).status_code == 200
    squatting = Clinic(key=squatter, server=errand.server.server)
    assert fetch(stage, squatting, consent_id, iss=name).status_code == 401


def test_server_with_a_consent_still_asks_on_its_own(stage: Stage, errand: Errand):
    registered = stage.register(
        {
            "client_name": "Clinic",
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks_uri": f"{errand.server.address}/.well-known/jwks.json",
            "scope": "system/Observation.rs",
        }
    )
    client_id = registered.json()["client_id"]
    let_server_in(stage, client_id)
    consent_id = errand.granted()
    asked = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}

    own = stage.post("token", **asked, **assertion(errand.server.key, client_id))

    assert own.status_code == 200, own.text
    assert fetch(stage, errand.server, consent_id).status_code == 200


# ------------------------------------------------------------------ this record as the target


@dataclass
class Giver:
    """A server that gives a token under any Consent, or says that another one does."""

    tokens_at: str = ""
    asked: list[bytes] = field(default_factory=list)
    server: RawServer | None = None

    def reply(self, request: bytes, channel: Any) -> None:
        self.asked.append(request)
        path = request.split(b" ", 2)[1]
        body: dict[str, Any] = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}
        if b"smart-configuration" in path:
            at = self.tokens_at or self.server.url
            body = {"authorization_endpoint": f"{at}/authorize", "token_endpoint": f"{at}/token"}
        elif b"/token" in path:
            body = {"access_token": "Topsecret", "token_type": "Bearer", "expires_in": 300}
            body |= {"patient": "77", "scope": "patient/*.rs"}
        channel.sendall(plain(json.dumps(body).encode()))


@pytest.fixture
def giver(stage: Stage, raw_server: Any) -> Giver:
    made = Giver()
    made.server = raw_server(made.reply)
    stage.cast.appliance.http.guard.allow(made.server.place)
    return made


def to_agree(stage: Stage, giver: Giver) -> tuple[str, str]:
    """Have the app ask to fetch; return the path of the answer and the page's csrf."""
    given = stage.redeem(stage.code(scope=f"patient/Condition.rs {asking.CONNECT}")).json()
    head = {"authorization": f"Bearer {given['access_token']}"} | FHIR_JSON
    wanted = of(
        {"name": "url", "valueUri": f"{giver.server.url}/fhir"},
        {"name": "consent", "valueString": "c1"},
    )
    asked = stage.door.post("/fhir/$connect", headers=head, content=json.dumps(wanted))
    assert asked.status_code == 202, asked.text
    base = f"/p/{stage.cast.patients['Ada']}"
    page = stage.ada.get(f"{base}/consents").text
    return re.findall(rf'action="({base}/fetches/\w+)"', page)[0], csrf_in(page)


def test_agreeing_to_fetch_needs_the_password_and_keeps_no_key(stage: Stage, giver: Giver):
    path, csrf = to_agree(stage, giver)
    form = {"csrf": csrf, "do": "allow"}
    with clock_later(minutes=10):
        assert stage.ada.post(path, data=form).status_code == 403
        assert giver.asked == []
    agreed = stage.ada.post(path, data=form | {"confirm.password": PASSWORDS["Ada"]})

    assert agreed.status_code == 303
    vault = stage.cast.vault("Ada")
    with vault.read() as session:
        wanted = "SELECT client FROM connection WHERE base_url = ?"
        [(kept,)] = rows(session, wanted, (f"{giver.server.url}/fhir",))
    assert servers.own_key(vault.house)["d"] not in kept


def test_token_of_one_host_is_not_shown_to_another(stage: Stage, giver: Giver, raw_server: Any):
    hospital = Giver()
    hospital.server = raw_server(hospital.reply)
    stage.cast.appliance.http.guard.allow(hospital.server.place)
    giver.tokens_at = hospital.server.url
    path, csrf = to_agree(stage, giver)

    form = {"csrf": csrf, "do": "allow", "confirm.password": PASSWORDS["Ada"]}
    answer = stage.ada.post(path, data=form)

    assert answer.status_code == 422
    for server in (giver.server, hospital.server):
        assert server.url.partition("//")[2] in answer.text
    assert hospital.asked == []


def test_consent_elsewhere_belongs_to_the_first_record_that_fetches_by_it(
    stage: Stage, giver: Giver
):
    house, url = stage.cast.appliance.house, f"{giver.server.url}/fhir"
    name = hashlib.sha256(f"{url}\nc1".encode()).hexdigest()
    house.setting_or_made(f"consent_of {name}", lambda: "another record")
    path, csrf = to_agree(stage, giver)

    form = {"csrf": csrf, "do": "allow", "confirm.password": PASSWORDS["Ada"]}

    assert stage.ada.post(path, data=form).status_code == 422


# ------------------------------------------------------------------ brought by hand


def brought(stage: Stage, body: Any, server: str, **more: Any) -> Any:
    page = f"/p/{stage.cast.patients['Ada']}/consents"
    text = body if isinstance(body, str) else json.dumps(body)
    fields = {"csrf": csrf_in(stage.ada.get(page).text), "text": text, "server": server}
    return stage.ada.post(page, data=fields, files=more or {"file": ("", b"")})


def test_consent_brought_by_hand_is_a_proposal_like_any_other(stage: Stage, errand: Errand):
    answer = brought(stage, a_consent(errand.patient), errand.server.address)
    assert answer.status_code == 303, answer.text
    path = answer.headers["location"]
    page = stage.ada.get(path).text
    assert "by hand" in page
    assert "Results" in page
    assert errand.get("Consent").json()["total"] == 0  # no app's
    consent_id = path.rpartition("/")[2]
    assert fetch(stage, errand.server, consent_id).status_code == 401  # not known here yet

    assert errand.answer().status_code == 303

    assert fetch(stage, errand.server, consent_id).status_code == 200


def test_consent_may_be_brought_as_a_file(stage: Stage, errand: Errand):
    file = ("consent.json", json.dumps(a_consent(errand.patient)).encode())

    answer = brought(stage, "", errand.server.address, file=file)

    assert answer.status_code == 303
    large = brought(stage, "", errand.server.address, file=("c.json", b" " * 100_000))
    assert (large.status_code, "larger than a Consent" in large.text) == (422, True)


@pytest.mark.parametrize(
    ("changed", "server", "words"),
    [
        ({}, "", "address of the server"),
        ({}, "https://10.0.0.1", "problem"),
        ({"provision": {"type": "permit"}}, None, "problem"),
        ({"patient": {"reference": "Patient/0123456789abcdef"}}, None, "problem"),
    ],
    ids=["no server", "private network", "not understood", "another patient"],
)
def test_consent_brought_by_hand_is_refused_in_words(
    stage: Stage, errand: Errand, changed: Any, server: str | None, words: str
):
    body, before = a_consent(errand.patient) | changed, rows_of(errand)

    answer = brought(stage, body, errand.server.address if server is None else server)

    assert answer.status_code == 422
    assert words in answer.text
    assert rows_of(errand) == before


def test_nothing_or_nonsense_is_no_consent(stage: Stage, errand: Errand):
    for text in ("", "nonsense", "[]"):
        assert brought(stage, text, errand.server.address).status_code == 422


def test_proposals_that_wait_are_counted_for_every_page(stage: Stage, errand: Errand):
    vault = stage.cast.vault("Ada")
    assert consented.unanswered(vault) == 0
    errand.propose()
    assert consented.unanswered(vault) == 1
    errand.authorize(errand.propose())
    assert consented.unanswered(vault) == 2
    errand.answer(do="refuse")
    assert consented.unanswered(vault) == 1
