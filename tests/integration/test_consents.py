"""An app proposes a FHIR Consent and names a server; the patient decides; the server fetches.

Issue 4 items 3 and 4 at the source; spec/sharing.md §4 and §9.1, spec/security.md e-B.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from fhir.resources.R4B.consent import Consent as R4Consent

from phr import clock, ids, jwt
from phr.sharing import asking, consent, gate, servers
from tests.cast import PASSWORDS, PUBLIC, Browser, Cast, csrf_in
from tests.fixtures_net import RawServer, plain
from tests.fixtures_sharing import a_record, keep_all
from tests.integration.test_apps import BACK, Stage, clock_later

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


def a_consent(patient: str, *permits: Any, **changed: Any) -> dict[str, Any]:
    until = (clock.now() + timedelta(days=60)).strftime("%Y-%m-%d")
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": "x", "code": "patient-privacy"}]},
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

    assert "has not named the server" in page
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
        given = of({"name": "jwt", "valueString": jwt.sign(claims, key)})
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
    for _ in range(20):
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
    for _ in range(20):
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
