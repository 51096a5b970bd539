"""Grants as R4 Consent, before two judges that nobody here wrote (R4 §6.2; issue 4 item 3)."""

from datetime import timedelta

import pytest

from phr import clock, ids
from phr.fhir import document
from phr.fhir.labels import Label
from phr.sharing import consent
from phr.sharing.gate import Terms
from phr.sharing.provision import ROLES, Action, Provision, Rule, preset
from tests.conformance.test_fhir_bytes import Judge, judge, profiles

pytestmark = [pytest.mark.node, pytest.mark.corpus]
__all__ = ["judge", "profiles"]

PATIENT = "0123456789abcdef"


def terms(role: str) -> Terms:
    now = clock.now()
    return Terms(
        grant_id=ids.new_id(),
        patient="",
        recipient="Dr. Blüm & Söhne <Praxis>",
        role=role,
        purpose="TREAT",
        reason=None,
        shared_by="Ada",
        created_at=now,
        ends_at=now + timedelta(days=30),
        actions=frozenset(Action),
    )


def provisions() -> dict[str, Provision]:
    now = clock.now()
    made = {role: preset(role, now=now) for role in ROLES if role != "chosen"}
    rule = Rule(("Observation",), ("laboratory",), since=now - timedelta(days=9), until=now)
    return made | {"one category": Provision((rule,), Label.PSY)}


def test_every_preset_written_out_has_no_error(judge: Judge):
    made = {
        role: document.dumps(consent.resource(terms(role), provision, PATIENT, status=status))
        for role, provision in provisions().items()
        for status in ("proposed", "active", "inactive", "rejected")[: 4 if role == "app" else 1]
    }

    issues = dict(zip(made, judge(list(made.values())), strict=True))

    assert issues == {role: [] for role in made}


@pytest.mark.parametrize("name", ["app", "emergency", "pharmacist", "one category"])
def test_what_is_written_out_is_read_back_the_same_and_never_wider(name: str):
    provision = provisions()[name]
    rules = tuple(rule for rule in provision.rules if not rule.without)
    plain = Provision(rules, Label.NONE, consent.FETCHING)
    found = document.loads(document.dumps(consent.resource(terms(name), plain, PATIENT)))

    back = consent.read(found, patient_id=PATIENT, now=clock.now()).provision

    def covered(one: Provision) -> set[tuple[object, ...]]:
        return {
            (type_, category, clock.to_ms(rule.since or clock.from_ms(0)) // 1000)
            for rule in one.rules
            for type_ in rule.types
            for category in rule.categories or ("",)
        }

    assert covered(back) == covered(plain)


def test_exception_inside_a_permit_is_written_out_and_refused_when_it_comes_back():
    provision = Provision((Rule(("Observation",), without=("vital-signs",)),))
    made = consent.resource(terms("app"), provision, PATIENT)

    assert made["provision"]["provision"][0]["provision"][0]["type"] == "deny"
    found = document.loads(document.dumps(made))
    with pytest.raises(consent.NotExpressible):
        consent.read(found, patient_id=PATIENT, now=clock.now())
