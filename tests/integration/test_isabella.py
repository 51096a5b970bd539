"""Isabella Jones of five certified systems, and Myra Jones of the same surname and day (corpus).

Their documents' allergies are read here by a few lines of our own, as plain FHIR; how C-CDA is
taken in is another test's business.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree

from phr.chart.allergies import allergies
from phr.chart.reconcile import reconcile
from phr.fhir.record import Record, Selection
from phr.store import records
from tests.cast import Cast
from tests.corpus import corpus
from tests.fixtures_records import as_record, keep_records
from tests.walking import home_pages, text_of

pytestmark = pytest.mark.corpus

HL7 = {"h": "urn:hl7-org:v3"}
ALLERGY = "2.16.840.1.113883.10.20.22.4.7"
SUBSTANCE = "h:participant/h:participantRole/h:playingEntity/h:code"
BORN = "1947-05-01"


def people() -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (given name, Patient and allergies) of each document about a Jones of that day."""
    found = []
    for path in sorted((corpus() / "ccda" / "vendor").glob("*.xml")):
        root = etree.fromstring(re.sub(rb"^\s+", b"", path.read_bytes()))
        who = root.find(".//h:recordTarget/h:patientRole/h:patient", HL7)
        given, family = (who.findtext(f"h:name/h:{part}", "", HL7) for part in ("given", "family"))
        born = re.sub(
            r"(\d{4})(\d\d)(\d\d).*", r"\1-\2-\3", who.find("h:birthTime", HL7).get("value", "")
        )
        if (family.strip(), born) == ("Jones", BORN):
            named = [{"given": [given.strip()], "family": "Jones"}]
            patient = {"resourceType": "Patient", "id": "p", "name": named, "birthDate": born}
            listed = list(_allergies(root))
            found.append((given.strip(), [patient, *listed]))
    return found


def _allergies(root: Any) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(root.iter("{urn:hl7-org:v3}observation")):
        if ALLERGY in {each.get("root") for each in one.findall("h:templateId", HL7)}:
            code = one.find(SUBSTANCE, HL7)
            name = one.findtext(SUBSTANCE.replace("h:code", "h:name"), "", HL7).strip()
            codings = [_coding(each) for each in (code, *code.findall("h:translation", HL7))]
            yield {
                "resourceType": "AllergyIntolerance",
                "id": f"allergy-{number}",
                "patient": {"reference": "Patient/p"},
                "code": {"coding": [each for each in codings if each], "text": name},
            }


def _coding(element: Any) -> dict[str, str]:
    if element.get("code") is None:
        return {}
    system = f"urn:oid:{element.get('codeSystem')}"
    return {
        "system": system,
        "code": element.get("code"),
        "display": element.get("displayName", ""),
    }


def everything() -> list[Record]:
    return [
        as_record(one, pk=100 * place + number, connection_id=place)
        for place, (_, listed) in enumerate(people(), start=1)
        for number, one in enumerate(listed)
    ]


def test_the_documents_are_those_of_the_table():
    names = [given for given, _ in people()]
    assert sorted(names) == ["Isabella"] * 5 + ["Myra"]
    assert sum(len(listed) - 1 for given, listed in people() if given == "Isabella") == 15


def test_fifteen_entries_of_five_systems_are_three_allergies_and_myras_stay_apart():
    found = everything()
    made = reconcile([one for one in found if one.type == "AllergyIntolerance"], near=found)
    myra = {
        one.pk
        for one in found
        if one.connection_id == next(n for n, (g, _) in enumerate(people(), 1) if g == "Myra")
    }
    hers = [entry for entry in made.entries if not {one.pk for one in entry.records} & myra]
    assert sorted(len(entry.records) for entry in hers) == [5, 5, 5]
    assert all(len(entry.sources) == 5 for entry in hers)
    assert set(made.flagged) == myra
    assert [len(e.records) for e in made.entries if {one.pk for one in e.records} & myra] == [1] * 3


def test_the_page_shows_three_allergies_from_five_hospitals(cast: Cast):
    vault = cast.vault("Ada")
    for number, (given, listed) in enumerate(people()):
        if given == "Isabella":
            keep_records(vault, listed, name=f"Hospital {number}")
    with vault.read() as session:
        kept = records.select(session, vault, Selection(types=("AllergyIntolerance", "Patient")))
    assert len(allergies(kept).listed) == 3
    page = text_of(cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/allergies").text)
    assert page.count("from 5 hospitals") == 3
    assert "somebody else" not in page


def test_myras_document_beside_isabellas_is_pointed_out_on_the_page_and_joined_with_nothing(
    cast: Cast,
):
    vault = cast.vault("Ada")
    for number, (given, listed) in enumerate(people()):
        keep_records(vault, listed, name=f"{given} {number}")
    page = text_of(cast.browser("Ada").get(f"/p/{cast.patients['Ada']}/allergies").text)
    assert page.count("from 5 hospitals") == 3
    assert page.count("its source names Myra Jones, 1 May 1947") == 3
    assert [path for path, _ in home_pages(cast, "Ada", cast.browser("Ada"))]
