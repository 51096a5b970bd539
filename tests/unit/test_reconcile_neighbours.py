"""Generated people at two hospitals: what is the same thing is found again, its neighbours are not.

A neighbour differs from a record in one clinically decisive thing: code, side, strength, day,
value, state. It must never be told as one with the record it was made from.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import carebundle
import pytest

from phr.chart.reconcile import reconcile
from phr.fhir.record import Record
from tests.fixtures_records import as_record

Resource = dict[str, Any]
KINDS = ("AllergyIntolerance", "Condition", "Immunization", "MedicationRequest", "Observation",
         "Procedure")  # fmt: skip
NAMES = {"MedicationRequest": "medicationCodeableConcept", "Immunization": "vaccineCode"}
DAYS = ("onsetDateTime", "occurrenceDateTime", "effectiveDateTime", "performedDateTime")


def people() -> Iterator[list[Resource]]:
    for index, profile in enumerate(("ckd_stage3", "healthy", "hypertension", "type2_diabetes")):
        bundle = carebundle.generate_bundle(profile=profile, seed=20261122, index=index)
        entries = json.loads(carebundle.to_json(bundle))["entry"]
        yield [one["resource"] for one in entries if one["resource"]["resourceType"] in KINDS]


PEOPLE = list(people())


def neighbours(one: Resource) -> Iterator[tuple[str, Resource]]:
    """Yield records that a careless rule would take for this one, and what is different."""
    for why, fields in (*_other_names(one), *_other_states(one), *_other_facts(one)):
        yield why, {**copy.deepcopy(one), **fields}


def _other_names(one: Resource) -> Iterator[tuple[str, Resource]]:
    kind = one["resourceType"]
    name = NAMES.get(kind, "code")
    if kind == "MedicationRequest":
        told = json.dumps(one[name])
        twice = re.sub(r"\d+(?= ?MG)", lambda found: f"{int(found[0]) * 2}", told)
        yield "twice the strength", {name: json.loads(twice)}
    elif kind != "AllergyIntolerance":  # these two are matched by substance
        named = copy.deepcopy(one[name])
        for coding in named.get("coding", ()):
            coding["code"] += "9"
        yield "another code under the same name", {name: named}
    if kind == "Condition":
        for side in ("left", "right"):
            text = f"{one['code'].get('text') or 'Pain'}, {side} side"
            yield side, {"code": {**one["code"], "text": text}, "_pair": side}


def _other_states(one: Resource) -> Iterator[tuple[str, Resource]]:
    kind = one["resourceType"]
    if kind in ("AllergyIntolerance", "Condition"):
        for state in ("entered-in-error", "refuted"):
            yield state, {"verificationStatus": {"coding": [{"code": state}]}}
    else:
        yield "entered in error", {"status": "entered-in-error"}
    if kind in ("Immunization", "Procedure"):
        yield "not done", {"status": "not-done"}


def _other_facts(one: Resource) -> Iterator[tuple[str, Resource]]:
    day = next((name for name in DAYS if name in one), None)
    if day and one["resourceType"] in ("Immunization", "Observation", "Procedure"):
        yield "another year", {day: f"{int(one[day][:4]) - 1}{one[day][4:]}"}
    if measured := one.get("valueQuantity"):
        yield "another value", {"valueQuantity": {**measured, "value": measured["value"] + 1}}
        unit = {**measured, "unit": "other", "code": "other"}
        yield "another unit", {"valueQuantity": unit}


def record(one: Resource, pk: int, hospital: int) -> Record:
    body = {name: value for name, value in one.items() if not name.startswith("_")}
    return as_record({**body, "id": f"own-{pk}"}, pk=pk, connection_id=hospital)


@pytest.mark.parametrize("found", PEOPLE, ids=range(len(PEOPLE)))
def test_a_copy_at_a_second_hospital_is_the_same_thing(found: list[Resource]) -> None:
    missed = Counter[str]()
    for one in found:
        mine, theirs = record(one, 1, 1), record(one, 2, 2)
        of = reconcile([mine, theirs]).of()
        missed[one["resourceType"]] += of[1] is not of[2]
    undated = sum("valueQuantity" not in one for one in found if one["resourceType"] == KINDS[4])
    assert missed.total() <= undated, missed


@pytest.mark.parametrize("found", PEOPLE, ids=range(len(PEOPLE)))
def test_no_neighbour_is_taken_for_the_thing_itself(found: list[Resource]) -> None:
    wrong = []
    for one in found:
        for why, other in neighbours(one):
            of = reconcile([record(one, 1, 1), record(other, 2, 2)]).of()
            if of[1] is of[2] and "_pair" not in other:
                wrong.append((one["resourceType"], why))
        pair = [other for _, other in neighbours(one) if "_pair" in other]
        if pair:
            of = reconcile([record(pair[0], 1, 1), record(pair[1], 2, 2)]).of()
            if of[1] is of[2]:
                wrong.append((one["resourceType"], "left and right"))
    assert not wrong, Counter(wrong)
