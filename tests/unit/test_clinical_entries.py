"""Coded entries of clinical documents as FHIR: only what is written, and nothing turned round."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phr.chart.doses import doses
from phr.fhir import document as fhir
from phr.papers import cda, cda_entries
from phr.papers.cda_page import Page
from phr.papers.cda_values import V3, first, moment
from tests.fixtures_clinical import (
    LOINC,
    RXNORM,
    SNOMED,
    allergy,
    concern,
    document,
    medicine,
    problem,
    result,
    statement,
)

PENICILLIN = f'<code code="70618" displayName="Penicillin" {RXNORM}/>'
ASTHMA = f'<value xsi:type="CD" code="195967001" displayName="Asthma" {SNOMED}/>'
ACTIVE = '<statusCode code="active"/>'
DONE = '<statusCode code="completed"/>'
GLUCOSE = f'<code code="2345-7" displayName="Glucose" {LOINC}/>'


def made(content, type_):
    """Return the resources of one type that a document gives, numbers with their digits."""
    found = cda_entries.transcribe(content).resources
    read = [json.loads(one, parse_float=Decimal) for one in found]
    return [one for one in read if one["resourceType"] == type_]


def only(content, type_):
    (one,) = made(content, type_)
    return one


def code_of(concept):
    return concept["coding"][0]["code"]


# ------------------------------------------------------------------------------ allergies


def test_an_allergy_has_its_substance_kind_and_status():
    one = only(document(allergy(PENICILLIN)), "AllergyIntolerance")
    assert one["code"]["coding"] == [
        {
            "system": "http://www.nlm.nih.gov/research/umls/rxnorm",
            "code": "70618",
            "display": "Penicillin",
        }
    ]
    assert one["category"] == ["medication"]
    assert code_of(one["clinicalStatus"]) == "active"
    assert "verificationStatus" not in one
    assert "criticality" not in one


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("419199007", "716186003"),
        ("416098002", "409137002"),
        ("414285001", "429625007"),
        ("426232007", "428607008"),
    ],
)
def test_a_denied_kind_without_a_substance_is_the_statement_that_none_is_known(kind, said):
    content = document(allergy('<code nullFlavor="NA"/>', kind, negationInd="true"))
    one = only(content, "AllergyIntolerance")
    assert code_of(one["code"]) == said
    assert "verificationStatus" not in one  # what is stated holds; it is not refuted


def test_a_denied_allergy_to_one_substance_is_refuted_and_not_listed_as_held():
    one = only(document(allergy(PENICILLIN, negationInd="true")), "AllergyIntolerance")
    assert code_of(one["verificationStatus"]) == "refuted"
    assert one["code"]["coding"][0]["display"] == "Penicillin"


def test_an_allergy_with_nothing_said_about_what_stays_in_the_text():
    made_ = cda_entries.transcribe(document(allergy('<code nullFlavor="UNK"/>')))
    assert not made_.counts
    assert made_.left == {"Listed": 1}


def test_a_vendors_own_code_comes_with_its_translations():
    code = (
        '<code code="A-17" codeSystem="1.2.3.4"><originalText>PCN</originalText>'
        f'<translation code="7982" displayName="Penicillin G Benzathine" {RXNORM}/></code>'
    )
    one = only(document(allergy(code)), "AllergyIntolerance")
    assert [each["system"] for each in one["code"]["coding"]] == [
        "urn:oid:1.2.3.4",
        "http://www.nlm.nih.gov/research/umls/rxnorm",
    ]
    assert one["code"]["text"] == "PCN"


def test_a_code_that_is_not_known_leaves_the_words_that_the_text_has():
    code = '<code nullFlavor="UNK"><originalText><reference value="#a1"/></originalText></code>'
    narrative = '<table><tbody><tr><td ID="a1">Bee  venom</td><td>Rash</td></tr></tbody></table>'
    one = only(document(allergy(code), narrative=narrative), "AllergyIntolerance")
    assert one["code"] == {"text": "Bee venom"}


@pytest.mark.parametrize("display", ['displayName="Penicillin"', ""])
def test_words_of_a_reaction_never_hide_the_substance_that_points_to_them(display):
    pointing = '<originalText><reference value="#r1"/></originalText>'
    code = f'<code code="70618" {display} {RXNORM}>{pointing}</code>'
    hives = f'<text><reference value="#r1"/></text><value xsi:type="CD" nullFlavor="OTH" {SNOMED}/>'
    more = f"<entryRelationship>{statement('observation', '9', hives)}</entryRelationship>"
    narrative = '<paragraph ID="r1">Hives</paragraph>'
    one = only(document(allergy(code, more=more), narrative=narrative), "AllergyIntolerance")
    assert one["code"].get("text") == (None if display else "Hives")
    assert one["reaction"] == [{"manifestation": [{"text": "Hives"}]}]


def test_reactions_have_their_severity_and_none_is_made_up():
    severity = statement("observation", "8", f'<value xsi:type="CD" code="24484000" {SNOMED}/>')
    hives = (
        f'<value xsi:type="CD" code="247472004" displayName="Hives" {SNOMED}/>'
        f'<entryRelationship typeCode="SUBJ">{severity}</entryRelationship>'
    )
    reaction = statement("observation", "9", hives)
    more = f'<entryRelationship typeCode="MFST">{reaction}</entryRelationship>'
    one = only(document(allergy(PENICILLIN, more=more)), "AllergyIntolerance")
    assert one["reaction"] == [
        {
            "manifestation": [
                {
                    "coding": [
                        {
                            "system": "http://snomed.info/sct",
                            "code": "247472004",
                            "display": "Hives",
                        }
                    ]
                }
            ],
            "severity": "severe",
        }
    ]


def test_what_was_nullified_is_entered_in_error():
    content = document(allergy(PENICILLIN, more='<statusCode code="nullified"/>'))
    assert code_of(only(content, "AllergyIntolerance")["verificationStatus"]) == "entered-in-error"


# ------------------------------------------------------------------------------ problems


def test_a_problem_of_the_problem_list_is_active_since_its_month():
    content = document(
        problem(f'<effectiveTime><low value="201404"/></effectiveTime>{ASTHMA}'), code="11450-4"
    )
    one = only(content, "Condition")
    assert one["onsetDateTime"] == "2014-04"
    assert code_of(one["clinicalStatus"]) == "active"
    assert code_of(one["category"][0]) == "problem-list-item"
    assert "abatementDateTime" not in one


def test_an_end_that_is_not_known_is_still_an_end():
    span = '<effectiveTime><low value="2014"/><high nullFlavor="UNK"/></effectiveTime>'
    one = only(document(problem(span + ASTHMA)), "Condition")
    assert code_of(one["clinicalStatus"]) == "resolved"
    assert "abatementDateTime" not in one


def test_a_denied_problem_is_refuted():
    one = only(document(problem(ASTHMA, negationInd="true")), "Condition")
    assert code_of(one["verificationStatus"]) == "refuted"


def test_no_problems_at_all_is_a_statement():
    value = f'<value xsi:type="CD" code="55607006" {SNOMED}/>'
    one = only(document(problem(value, negationInd="true")), "Condition")
    assert code_of(one["code"]) == "160245001"
    assert "verificationStatus" not in one


def test_a_code_that_only_says_problem_never_stands_for_the_problem():
    value = (
        f'<value xsi:type="CD" code="55607006" displayName="Problem" {SNOMED}>'
        '<translation code="346.10" displayName="Migraine" codeSystem="2.16.840.1.113883.6.103"/>'
        "</value>"
    )
    one = only(document(problem(value)), "Condition")
    assert [each["code"] for each in one["code"]["coding"]] == ["346.10"]


# ------------------------------------------------------------------------------ what is denied

GENERAL = f'<value xsi:type="CD" code="55607006" displayName="Problem" {SNOMED}'
DIABETES = "<originalText>Diabetes mellitus</originalText>"


def denied_problem(inside):
    return made(document(problem(inside, negationInd="true")), "Condition")


def denied_allergy(inside):
    at = statement("observation", "7", inside, negationInd="true")
    return made(document(concern("30", at)), "AllergyIntolerance")


@pytest.mark.parametrize(
    "inside",
    [
        f'<value xsi:type="CD" nullFlavor="OTH">{DIABETES}</value>',
        f"{GENERAL}>{DIABETES}</value>",
        f"{GENERAL}/><text>Diabetes mellitus</text>",
        '<value xsi:type="CD" nullFlavor="UNK" displayName="Diabetes mellitus"/>',
    ],
    ids=["no code", "general code", "text of the statement", "a label alone"],
)
def test_a_denied_problem_in_words_is_not_the_statement_that_there_are_none(inside):
    (one,) = denied_problem(inside)
    assert one["code"] == {"text": "Diabetes mellitus"}
    assert code_of(one["verificationStatus"]) == "refuted"


def test_a_denied_problem_with_a_translation_is_that_problem_refuted():
    more = '<translation code="E11.9" displayName="Diabetes" codeSystem="2.16.840.1.113883.6.90"/>'
    (one,) = denied_problem(f"{GENERAL}>{more}</value>")
    assert code_of(one["code"]) == "E11.9"
    assert code_of(one["verificationStatus"]) == "refuted"


@pytest.mark.parametrize(
    "inside",
    [
        f"{GENERAL}><originalText>No known health problems</originalText></value>",
        f"{GENERAL}><originalText>Problem</originalText></value>",
        '<value xsi:type="CD" nullFlavor="NI"/><text>No Problems indicated</text>',
    ],
    ids=["the denial in words", "the label again", "words alone"],
)
def test_words_that_only_repeat_the_denial_state_that_there_are_none(inside):
    (one,) = denied_problem(inside)
    assert code_of(one["code"]) == "160245001"
    assert "verificationStatus" not in one


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (
            '<value xsi:type="CD" nullFlavor="OTH"><originalText>Penicillin</originalText></value>',
            "Penicillin",
        ),
        (
            f'<value xsi:type="CD" code="416098002" {SNOMED}/><text>Allergy to latex</text>',
            "Allergy to latex",
        ),
    ],
    ids=["no code", "a kind alone"],
)
def test_a_denied_allergy_in_words_is_not_the_statement_that_none_is_known(inside, said):
    (one,) = denied_allergy(inside)
    assert one["code"] == {"text": said}
    assert code_of(one["verificationStatus"]) == "refuted"


def test_a_kind_denied_in_words_too_is_the_statement_that_none_is_known():
    value = f'<value xsi:type="CD" code="416098002" {SNOMED}/>'
    (one,) = denied_allergy(f"{value}<text>No known drug allergies.</text>")
    assert code_of(one["code"]) == "409137002"


def test_a_denial_of_nothing_stays_in_the_text():
    nothing = '<value xsi:type="CD" nullFlavor="NI"/>'
    assert not denied_problem(nothing)
    assert not denied_allergy(nothing)
    assert not denied_allergy(f"{nothing}<text>No known allergies</text>")


def test_a_denied_reaction_severity_or_reason_is_none():
    def inside(template, value, kind="MFST"):
        held = f'<value xsi:type="CD" {value} {SNOMED}/>'
        said = statement("observation", template, held, negationInd="true")
        return f'<entryRelationship typeCode="{kind}">{said}</entryRelationship>'

    more = inside("9", 'code="39579001" displayName="Anaphylaxis"') + inside("8", 'code="24484000"')
    one = only(document(allergy(PENICILLIN, more=more)), "AllergyIntolerance")
    assert "reaction" not in one
    assert "note" not in one
    why = inside("19", 'code="38341003" displayName="Hypertension"', "RSON")
    assert "reasonCode" not in only(document(medicine(ACTIVE + why)), "MedicationStatement")


# ------------------------------------------------------------------------------ whose, and whether

MOTHER = '<subject><relatedSubject classCode="PRS"><code code="MTH"/></relatedSubject></subject>'


def test_what_a_relative_has_is_no_problem_of_the_patient():
    family = statement(
        "organizer", "45", f"{MOTHER}<component>{problem(ASTHMA)}</component>", classCode="CLUSTER"
    )
    for entry in (problem(MOTHER + ASTHMA), family):
        found = cda_entries.transcribe(document(entry))
        assert not found.counts
        assert found.left == {"Listed": 1}
    whole = document(problem(ASTHMA)).replace(b"<title>Listed", MOTHER.encode() + b"<title>Listed")
    assert not made(whole, "Condition")


@pytest.mark.parametrize("mood", ["GOL", "RQO", "INT", "PRP", "DEF"])
def test_a_goal_an_order_or_a_plan_is_neither_problem_nor_allergy(mood):
    content = document(problem(ASTHMA, moodCode=mood), allergy(PENICILLIN, moodCode=mood))
    found = cda_entries.transcribe(content)
    assert not found.counts
    assert found.left == {"Listed": 2}


def test_a_statement_that_is_null_or_inside_of_a_denied_one_says_nothing():
    null = document(
        problem(ASTHMA, nullFlavor="NI"),
        allergy(PENICILLIN, nullFlavor="UNK"),
        medicine(ACTIVE, nullFlavor="NI"),
        problem(ASTHMA).replace("<act ", '<act negationInd="true" '),
    )
    found = cda_entries.transcribe(null)
    assert not found.counts
    assert found.left == {"Listed": 4}


# ------------------------------------------------------------------------------ medicines


def test_a_medicine_has_dose_rhythm_and_span_as_written():
    inside = (
        f'{ACTIVE}<effectiveTime xsi:type="IVL_TS"><low value="20260301"/></effectiveTime>'
        '<effectiveTime xsi:type="PIVL_TS"><period value="12" unit="h"/></effectiveTime>'
        '<routeCode code="C38288" displayName="Oral" codeSystem="2.16.840.1.113883.3.26.1.1"/>'
        '<doseQuantity value="1.50" unit="{tablet}"/>'
    )
    one = only(document(medicine(inside)), "MedicationStatement")
    assert one["status"] == "active"
    assert one["effectivePeriod"] == {"start": "2026-03-01"}
    (dose,) = one["dosage"]
    assert dose["timing"] == {"repeat": {"frequency": 1, "period": 12, "periodUnit": "h"}}
    assert str(dose["doseAndRate"][0]["doseQuantity"]["value"]) == "1.50"
    assert dose["route"]["coding"][0]["display"] == "Oral"


def test_an_ordered_medicine_is_an_order():
    one = only(document(medicine(ACTIVE, moodCode="INT")), "MedicationRequest")
    assert (one["status"], one["intent"]) == ("active", "order")


def test_completed_says_nothing_about_taking_unless_there_is_an_end():
    assert only(document(medicine(DONE)), "MedicationStatement")["status"] == "unknown"
    span = '<effectiveTime xsi:type="IVL_TS"><high value="20200101"/></effectiveTime>'
    ended = only(document(medicine(DONE + span)), "MedicationStatement")
    assert ended["status"] == "completed"


def test_a_denied_medicine_is_not_taken():
    one = only(document(medicine(ACTIVE, negationInd="true")), "MedicationStatement")
    assert one["status"] == "not-taken"
    ordered = only(
        document(medicine(ACTIVE, negationInd="true", moodCode="INT")), "MedicationRequest"
    )
    assert ordered["doNotPerform"] is True


def test_as_needed_says_for_what():
    need = (
        '<precondition typeCode="PRCN"><criterion>'
        f'<value xsi:type="CD" code="56018004" displayName="Wheezing" {SNOMED}/>'
        "</criterion></precondition>"
    )
    (dose,) = only(document(medicine(ACTIVE + need)), "MedicationStatement")["dosage"]
    assert dose["asNeededCodeableConcept"]["coding"][0]["display"] == "Wheezing"


# ------------------------------------------------------------------------------ immunizations


def shot(inside="", **attributes):
    what = (
        "<consumable><manufacturedProduct><manufacturedMaterial>"
        '<code code="140" displayName="Influenza" codeSystem="2.16.840.1.113883.12.292"/>'
        "<lotNumberText>AB-7</lotNumberText></manufacturedMaterial></manufacturedProduct></consumable>"
    )
    said = {"classCode": "SBADM", **attributes}
    return statement("substanceAdministration", "52", DONE + inside + what, **said)


def test_a_given_vaccine_has_its_day_and_lot():
    one = only(document(shot('<effectiveTime value="20251012"/>')), "Immunization")
    assert (one["status"], one["occurrenceDateTime"]) == ("completed", "2025-10-12")
    assert one["lotNumber"] == "AB-7"


def test_a_refused_vaccine_was_not_given_and_a_planned_one_is_no_vaccination():
    assert only(document(shot(negationInd="true")), "Immunization")["status"] == "not-done"
    assert not made(document(shot(moodCode="INT")), "Immunization")


# ------------------------------------------------------------------------------ results


def test_a_result_keeps_its_digits_unit_range_and_flag():
    inside = (
        f'{GLUCOSE}{DONE}<effectiveTime value="20260301081500-0500"/>'
        '<value xsi:type="PQ" value="5.40" unit="mmol/L"/>'
        '<interpretationCode code="H" codeSystem="2.16.840.1.113883.5.83"/>'
        '<referenceRange><observationRange><value xsi:type="IVL_PQ">'
        '<low value="3.90" unit="mmol/L"/><high value="5.30" unit="mmol/L"/></value>'
        "</observationRange></referenceRange>"
    )
    one = only(document(result(inside)), "Observation")
    assert str(one["valueQuantity"]["value"]) == "5.40"
    assert one["valueQuantity"]["code"] == "mmol/L"
    assert one["effectiveDateTime"] == "2026-03-01T08:15:00-05:00"
    assert str(one["referenceRange"][0]["high"]["value"]) == "5.30"
    assert one["interpretation"][0]["coding"][0]["code"] == "H"
    assert one["status"] == "final"


def test_a_unit_that_is_no_ucum_stays_a_word():
    value = '<value xsi:type="PQ" value="7.1" unit="K/uL"/>'
    one = only(document(result(GLUCOSE + DONE + value)), "Observation")
    assert one["valueQuantity"] == {"value": Decimal("7.1"), "unit": "K/uL"}


@pytest.mark.parametrize(
    ("value", "field", "said"),
    [
        ('<value xsi:type="ST">Negative</value>', "valueString", "Negative"),
        ('<value xsi:type="INT" value="3"/>', "valueQuantity", {"value": 3}),
        (
            '<value xsi:type="IVL_PQ"><high value="0.10" unit="mg/L" inclusive="false"/></value>',
            "valueQuantity",
            {
                "value": Decimal("0.10"),
                "comparator": "<",
                "unit": "mg/L",
                "system": "http://unitsofmeasure.org",
                "code": "mg/L",
            },
        ),
        (
            '<value xsi:type="RTO"><numerator value="1"/><denominator value="128"/></value>',
            "valueRatio",
            {"numerator": {"value": 1}, "denominator": {"value": 128}},
        ),
        ('<value xsi:type="PQ" value="&lt;5" unit="mg"/>', "valueString", "<5 mg"),
        ('<value xsi:type="BL" value="true"/>', "valueBoolean", True),
    ],
    ids=["text", "whole number", "below", "titre", "number that is none", "yes"],
)
def test_every_kind_of_value_is_what_the_document_says(value, field, said):
    one = only(document(result(GLUCOSE + DONE + value)), "Observation")
    assert one[field] == said
    assert "dataAbsentReason" not in one


def test_a_missing_value_says_why_and_is_no_number():
    one = only(
        document(result(f'{GLUCOSE}{DONE}<value xsi:type="PQ" nullFlavor="NASK"/>')), "Observation"
    )
    assert not [name for name in one if name.startswith("value")]
    assert code_of(one["dataAbsentReason"]) == "not-asked"


def test_what_was_not_observed_is_no_result():
    value = '<value xsi:type="PQ" value="5" unit="mg"/>'
    assert not made(document(result(GLUCOSE + DONE + value, negationInd="true")), "Observation")
    assert not made(document(result(GLUCOSE + DONE + value, moodCode="GOL")), "Observation")


def test_results_of_one_report_stand_in_it():
    one = result(GLUCOSE + DONE + '<value xsi:type="PQ" value="5" unit="mmol/L"/>')
    other = result(
        f'<code code="718-7" {LOINC}/>{DONE}<value xsi:type="PQ" value="14" unit="g/dL"/>'
    )
    panel = f'<code code="24323-8" displayName="Metabolic panel" {LOINC}/>{DONE}'
    listed = "".join(f"<component>{each}</component>" for each in (one, other))
    around = '<effectiveTime value="20260301"/>'
    content = document(statement("organizer", "1", panel + around + listed, classCode="BATTERY"))
    report = only(content, "DiagnosticReport")
    held = {f"Observation/{each['id']}" for each in made(content, "Observation")}
    assert {each["reference"] for each in report["result"]} == held
    assert len(held) == 2
    assert {each["effectiveDateTime"] for each in made(content, "Observation")} == {"2026-03-01"}


# ------------------------------------------------------------------------------ procedures


def test_a_procedure_that_was_planned_is_not_said_to_be_done():
    code = f'<code code="80146002" displayName="Appendectomy" {SNOMED}/>{DONE}'
    done = statement("procedure", "14", code, classCode="PROC")
    planned = statement("procedure", "14", code, classCode="PROC", moodCode="RQO")
    denied = statement("procedure", "14", code, classCode="PROC", negationInd="true")
    assert only(document(done), "Procedure")["status"] == "completed"
    assert not made(document(planned), "Procedure")
    assert only(document(denied), "Procedure")["status"] == "not-done"


# ------------------------------------------------------------------------------ around them


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("2013", "2013"),
        ("201308", "2013-08"),
        ("20130815", "2013-08-15"),
        ("201308151035-0500", "2013-08-15T10:35:00-05:00"),
        ("20130815103507.123+0100", "2013-08-15T10:35:07+01:00"),
        ("201308151035", "2013-08-15"),
        ("20130815-0500", "2013-08-15"),
        ("20131340", ""),
        ("00000000", ""),
        ("soon", ""),
        ("18870203", "1887-02-03"),
    ],
)
def test_a_time_keeps_its_precision_and_zone(said, told):
    assert moment(said) == told


def test_ids_follow_from_what_is_said():
    one, same = (document(allergy(PENICILLIN)) for _ in range(2))
    assert cda_entries.transcribe(one) == cda_entries.transcribe(same)
    first, other = (
        only(each, "AllergyIntolerance")
        for each in (one, document(problem(ASTHMA), allergy(PENICILLIN)))
    )
    assert first["id"] == other["id"]


def test_provenance_names_document_section_and_the_entry_itself():
    content = document(allergy(PENICILLIN, more='<id root="1.2.3" extension="A-1"/>'))
    told = only(content, "Provenance")
    one = only(content, "AllergyIntolerance")
    assert told["target"] == [
        {
            "reference": f"AllergyIntolerance/{one['id']}",
            "identifier": {"system": "urn:oid:1.2.3", "value": "A-1"},
        }
    ]
    assert told["entity"][0]["what"]["display"] == "Discharge Letter: Listed"
    assert "recorded" not in told  # when is known by the record's own time of arrival


def test_what_a_document_marks_as_restricted_stays_so_on_each_entry():
    (one,) = made(document(allergy(PENICILLIN)), "AllergyIntolerance")
    assert one["meta"]["security"][0]["code"] == "R"


def security(one):
    return [each["code"] for each in one.get("meta", {}).get("security", ())]


@pytest.mark.parametrize(
    ("outer", "inner", "said"), [("R", "", "R"), ("R", "V", "V"), ("V", "R", "V")]
)
def test_a_section_is_as_confidential_as_the_strictest_that_it_is_part_of(outer, inner, said):
    open_ = document(problem(ASTHMA)).replace(
        b'<confidentialityCode code="R"/>', b'<confidentialityCode code="N"/>'
    )
    assert not security(only(open_, "Condition"))
    marked = f'<confidentialityCode code="{inner}"/>'.encode() if inner else b""
    begin, end = open_.index(b"<section>"), open_.index(b"</section>") + len(b"</section>")
    held = open_[begin:end].replace(b"<section>", b"<section>" + marked)
    nested = (
        f'<section><confidentialityCode code="{outer}"/><component>'.encode()
        + held
        + b"</component></section>"
    )
    content = open_[:begin] + nested + open_[end:]
    for type_ in ("Condition", "Provenance", "DocumentReference"):  # the file has all of it
        assert security(only(content, type_)) == [said]


def test_one_paragraph_that_every_entry_points_to_is_read_once():
    pointing = '<text><reference value="#n"/></text>'
    content = document(pointing, narrative='<paragraph ID="n">Bee venom</paragraph>')
    root = cda.parse(content)
    ids = {each.get("ID"): each for each in root.iter() if each.get("ID")}
    page = Page(ids, {}, root)
    (at,) = root.iter(f"{V3}entry")
    assert page.told(first(at, "text")) == "Bee venom"
    assert page.told(first(at, "text")) is page.told(first(at, "text"))


def test_everything_is_valid_fhir():
    from phr.fhir.build import model

    content = document(
        allergy(PENICILLIN),
        problem(ASTHMA),
        medicine(ACTIVE),
        shot('<effectiveTime value="2020"/>'),
        visited(f'{SEEN.format("")}<effectiveTime value="20260301"/>{CLINIC}'),
        family(
            ill(*INFARCTION, AT_57 + DIED_OF_IT) + ill("1", "Gout", '<effectiveTime value="1950"/>')
        ),
        statement("observation", "78", f"{ASSERTED}{DONE}{NEVER}"),
    )
    for body in cda_entries.transcribe(content).resources:
        read = json.loads(body)
        model(read["resourceType"]).model_validate(read)
        assert fhir.parse(body)


_TAGS = st.sampled_from(
    ("code", "value", "effectiveTime", "statusCode", "doseQuantity", "low", "text")
)
_SAID = st.dictionaries(
    st.sampled_from(("code", "value", "unit", "nullFlavor", "codeSystem", "negationInd", "root")),
    st.sampled_from(("", "1", "UNK", "2020", "true", "1e9", "9" * 40, "-", "&#x202e;")),
    max_size=3,
)


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.tuples(_TAGS, _SAID), max_size=6),
    template=st.sampled_from(
        ("1", "2", "4", "7", "13", "14", "16", "27", "38", "45", "49", "52", "78", "85", "200")
    ),
)
def test_any_statement_gives_json_or_stays_in_the_text(parts, template):
    inside = "".join(
        f"<{tag} {' '.join(f'{name}={json.dumps(value)}' for name, value in said.items())}/>"
        for tag, said in parts
    )
    content = document(statement("observation", template, inside))
    found = cda_entries.transcribe(content)
    assert all(json.loads(one)["resourceType"] for one in found.resources)
    assert sum(found.counts.values()) + sum(found.left.values()) >= 1


# ------------------------------------------------------------------ what the narrative says


def _said(words, place="content"):
    """Return a narrative whose cell or row `sig` has these words."""
    row = f'<tr><td><content ID="sig">{words}</content></td></tr>'
    if place == "tr":
        row = f'<tr ID="sig"><td>{words}</td></tr>'
    return f"<table><tbody>{row}</tbody></table>"


POINTED = '<text><reference value="#sig"/></text>'


def test_the_words_of_the_dose_are_the_dose_and_no_note():
    words = "inhale 2 puff every 4 - 6 hours as needed for Wheezing"
    inside = (
        f"{POINTED}{ACTIVE}"
        '<effectiveTime xsi:type="PIVL_TS"><period value="4" unit="h"/></effectiveTime>'
        '<doseQuantity value="2.00" unit="puff"/>'
    )
    one = only(document(medicine(inside), narrative=_said(words)), "MedicationStatement")
    (dose,) = one["dosage"]
    assert dose["text"] == words
    assert str(dose["doseAndRate"][0]["doseQuantity"]["value"]) == "2.00"
    assert "note" not in one
    assert doses(one) == (words,)


def test_words_alone_are_a_dose_too():
    words = "take 1 tablet by oral route 2 times daily for 7 days"
    content = document(medicine(POINTED + ACTIVE, moodCode="INT"), narrative=_said(words))
    one = only(content, "MedicationRequest")
    assert one["dosageInstruction"][0]["text"] == words


@pytest.mark.parametrize(
    ("words", "place", "note"),
    [
        ("Metoprolol 25 MG Oral Tablet", "content", None),
        ("Metoprolol, active since March", "tr", [{"text": "Metoprolol, active since March"}]),
    ],
)
def test_a_name_or_a_whole_row_is_no_dose(words, place, note):
    content = document(medicine(POINTED + ACTIVE), narrative=_said(words, place))
    one = only(content, "MedicationStatement")
    assert "dosage" not in one
    assert one.get("note") == note


def test_a_placeholder_for_a_code_or_a_value_is_no_result():
    code = f'<code code="UNK" displayName="" {LOINC}/>'
    value = '<value xsi:type="ST">UNK</value>'
    assert not made(document(result(code + DONE + value)), "Observation")
    one = only(document(result(GLUCOSE + DONE + value)), "Observation")
    assert "valueString" not in one
    assert code_of(one["dataAbsentReason"]) == "unknown"


# ------------------------------------------------------------------------------ visits

CLINIC = (
    '<participant typeCode="LOC"><participantRole classCode="SDLOC"><playingEntity>'
    "<name>Harbour Clinic</name></playingEntity></participantRole></participant>"
)
SEEN = '<code code="99213" displayName="Office visit" codeSystem="2.16.840.1.113883.6.12">{}</code>'


def visited(inside, **attributes):
    """Return an encounter activity (C-CDA 2.1 §3.25)."""
    return statement("encounter", "49", inside, classCode="ENC", **attributes)


def test_a_visit_has_its_kind_day_place_reason_and_diagnosis():
    ambulatory = (
        '<translation code="AMB" displayName="ambulatory" codeSystem="2.16.840.1.113883.5.4"/>'
    )
    because = statement(
        "observation", "19", f'<value xsi:type="CD" code="49727002" displayName="Cough" {SNOMED}/>'
    )
    found = f"<entryRelationship>{statement('observation', '4', ASTHMA)}</entryRelationship>"
    diagnosed = statement("act", "80", found, classCode="ACT")
    held = (
        f'{SEEN.format(ambulatory)}<effectiveTime value="20260301"/>{CLINIC}'
        f'<entryRelationship typeCode="RSON">{because}</entryRelationship>'
        f'<entryRelationship typeCode="SUBJ">{diagnosed}</entryRelationship>'
    )
    content = document(visited(held))
    one = only(content, "Encounter")
    assert one["status"] == "finished"
    assert one["class"]["code"] == "AMB"
    assert one["type"][0]["coding"][0]["display"] == "Office visit"
    assert one["period"] == {"start": "2026-03-01", "end": "2026-03-01"}
    assert one["reasonCode"][0]["coding"][0]["display"] == "Cough"
    assert one["location"] == [{"location": {"display": "Harbour Clinic"}}]
    diagnosis = only(content, "Condition")
    assert one["diagnosis"] == [{"condition": {"reference": f"Condition/{diagnosis['id']}"}}]
    assert code_of(diagnosis["category"][0]) == "encounter-diagnosis"
    assert cda_entries.transcribe(content).counts == {"Visits": 1, "Problems": 1}


@pytest.mark.parametrize(
    ("inside", "status"),
    [
        ("", "unknown"),
        ('<high value="20260302"/>', "finished"),
        ('<high nullFlavor="UNK"/>', "finished"),
    ],
)
def test_a_visit_is_over_only_where_the_document_says_so(inside, status):
    span = f'<effectiveTime><low value="20260301"/>{inside}</effectiveTime>'
    one = only(document(visited(SEEN.format("") + span)), "Encounter")
    assert one["status"] == status
    assert "code" not in one["class"]  # no class is made up


def test_a_visit_that_was_called_off_says_so():
    held = f'{SEEN.format("")}<statusCode code="aborted"/><effectiveTime value="20260301"/>'
    assert only(document(visited(held)), "Encounter")["status"] == "cancelled"


def test_a_planned_visit_and_one_that_did_not_happen_are_no_visits():
    for said in ({"moodCode": "INT"}, {"negationInd": "true"}):
        content = document(visited(f'{SEEN.format("")}<effectiveTime value="20260301"/>', **said))
        assert not made(content, "Encounter")
        assert cda_entries.transcribe(content).left == {"Listed": 1}


# ------------------------------------------------------------------------------ the family


def ill(code, name, more="", **attributes):
    value = f'<value xsi:type="CD" code="{code}" displayName="{name}" {SNOMED}/>{more}'
    return f"<component>{statement('observation', '46', value, **attributes)}</component>"


def family(inside, status="completed"):
    """Return what is said of a father (C-CDA 2.1 §3.30)."""
    who = (
        '<subject><relatedSubject classCode="PRS"><code code="FTH" displayName="Father"'
        ' codeSystem="2.16.840.1.113883.5.111"/><subject><administrativeGenderCode code="M"/>'
        '<birthTime value="1910"/></subject></relatedSubject></subject>'
    )
    held = f'<statusCode code="{status}"/>{who}{inside}'
    return statement("organizer", "45", held, classCode="CLUSTER")


INFARCTION = ("22298006", "Myocardial infarction")
AT_57 = (
    "<entryRelationship>"
    + statement("observation", "31", '<value xsi:type="PQ" value="57" unit="a"/>')
    + "</entryRelationship>"
)
DIED_OF_IT = (
    '<entryRelationship typeCode="CAUS">'
    + statement("observation", "47", f'<value xsi:type="CD" code="419099009" {SNOMED}/>')
    + "</entryRelationship>"
)


def test_an_illness_of_a_relative_is_family_history_and_no_problem_of_the_patient():
    content = document(family(ill(*INFARCTION, AT_57 + DIED_OF_IT)))
    one = only(content, "FamilyMemberHistory")
    assert one["status"] == "completed"
    assert one["relationship"]["coding"][0]["display"] == "Father"
    assert one["bornDate"] == "1910"
    assert one["deceasedBoolean"] is True
    (condition,) = one["condition"]
    assert condition["code"]["coding"][0]["display"] == "Myocardial infarction"
    assert condition["onsetAge"]["value"] == 57
    assert condition["onsetAge"]["code"] == "a"
    assert condition["contributedToDeath"] is True
    assert not made(content, "Condition")
    assert cda_entries.transcribe(content).counts == {"Family history": 1}


def test_what_a_relative_does_not_have_is_never_said_to_be_had():
    denied = ill("44054006", "Diabetes", negationInd="true")
    one = only(document(family(ill(*INFARCTION) + denied)), "FamilyMemberHistory")
    assert [code_of(each["code"]) for each in one["condition"]] == ["22298006"]
    assert one["note"] == [{"text": "Not so, as the document says: Diabetes"}]
    assert "deceasedBoolean" not in one
    alone = document(family(denied))
    assert not made(alone, "FamilyMemberHistory")
    assert cda_entries.transcribe(alone).left == {"Listed": 1}


def test_family_history_that_was_nullified_is_entered_in_error():
    one = only(document(family(ill(*INFARCTION), status="nullified")), "FamilyMemberHistory")
    assert one["status"] == "entered-in-error"


# ------------------------------------------------------------------------------ how one lives

NEVER = f'<value xsi:type="CD" code="266919005" displayName="Never smoker" {SNOMED}/>'
ASSERTED = '<code code="ASSERTION" codeSystem="2.16.840.1.113883.5.4"/>'


@pytest.mark.parametrize(("template", "asked"), [("78", "72166-2"), ("85", "11367-0")])
def test_smoking_is_social_history_under_the_question_that_its_template_asks(template, asked):
    said = statement("observation", template, f"{ASSERTED}{DONE}{NEVER}")
    content = document(said)
    one = only(content, "Observation")
    assert code_of(one["category"][0]) == "social-history"
    assert code_of(one["code"]) == asked
    assert one["valueCodeableConcept"]["coding"][0]["display"] == "Never smoker"
    assert cda_entries.transcribe(content).counts == {"Social history": 1}


def test_drinks_a_day_keep_their_digits_and_an_assertion_of_nothing_stays_in_the_text():
    drinks = f'<code code="74013-4" displayName="Drinks per day" {LOINC}/>'
    said = statement("observation", "38", f'{drinks}{DONE}<value xsi:type="PQ" value="1.50"/>')
    one = only(document(said), "Observation")
    assert str(one["valueQuantity"]["value"]) == "1.50"
    asserted = document(statement("observation", "38", f"{ASSERTED}{DONE}{NEVER}"))
    assert not made(asserted, "Observation")


def test_an_unknown_smoking_status_is_no_answer():
    said = statement(
        "observation", "78", f'{ASSERTED}{DONE}<value xsi:type="CD" nullFlavor="UNK"/>'
    )
    one = only(document(said), "Observation")
    assert "valueCodeableConcept" not in one
    assert code_of(one["dataAbsentReason"]) == "unknown"


# ------------------------------------------------------------------------------ what one can do


WALKS = f'<value xsi:type="CD" code="165245003" displayName="Independent walking" {SNOMED}/>'
PHQ_9 = f'<code code="44261-6" displayName="PHQ-9 total score" {LOINC}/>'


@pytest.mark.parametrize(
    ("template", "category"),
    [("67", "functional-status"), ("128", "functional-status"), ("74", "cognitive-status")],
)
def test_what_one_can_do_is_no_result(template, category):
    asked = f'<code code="54522-8" displayName="Functional status" {LOINC}/>'
    held = f'{asked}{DONE}<effectiveTime value="20260301"/>{WALKS}'
    one = only(document(statement("observation", template, held)), "Observation")
    assert [code_of(each) for each in one["category"]] == [category]
    assert one["valueCodeableConcept"]["coding"][0]["display"] == "Independent walking"
    assert one["effectiveDateTime"] == "2026-03-01"


@pytest.mark.parametrize("denial", ['negationInd="true"', 'nullFlavor="NI"'])
def test_what_one_cannot_be_said_to_do_stays_in_the_text(denial):
    held = f"{PHQ_9}{DONE}{WALKS}"
    said = statement("observation", "67", held).replace("<observation", f"<observation {denial}")
    assert not made(document(said), "Observation")


def test_a_finding_without_a_question_stays_in_the_text():
    content = document(statement("observation", "74", f"{ASSERTED}{DONE}{WALKS}"))
    assert not made(content, "Observation")
    assert cda_entries.transcribe(content).left == {"Listed": 1}


def test_a_score_inside_of_an_observation_is_one_of_its_own_with_its_answers():
    answer = statement(
        "observation",
        "86",
        f'<code code="44250-9" displayName="Little interest" {LOINC}/>'
        '<value xsi:type="INT" value="2"/>',
    )
    unanswered = statement("observation", "86", f'<code code="44255-8" {LOINC}/>')
    parts = "".join(f"<entryRelationship>{one}</entryRelationship>" for one in (answer, unanswered))
    score = statement(
        "observation", "69", f'{PHQ_9}{DONE}<value xsi:type="INT" value="09"/>{parts}'
    )
    held = f"{PHQ_9}{DONE}{WALKS}<entryRelationship>{score}</entryRelationship>"
    content = document(statement("observation", "67", held))
    around, one = made(content, "Observation")
    assert code_of(around["category"][0]) == "functional-status"
    assert "component" not in around
    assert code_of(one["category"][0]) == "survey"
    assert one["valueQuantity"]["value"] == 9
    assert [code_of(each["code"]) for each in one["component"]] == ["44250-9"]
    assert one["component"][0]["valueQuantity"]["value"] == 2
    assert cda_entries.transcribe(content).counts == {"Abilities": 1, "Scores": 1}


def pregnant(more="", **attributes):
    """Return a Pregnancy Observation, whose template is not of the series of the others."""
    value = f'<value xsi:type="CD" code="77386006" displayName="Pregnant" {SNOMED}/>'
    held = f'{ASSERTED}{DONE}<effectiveTime><low value="20260301"/></effectiveTime>{value}{more}'
    said = statement("observation", "X", held, **attributes)
    return said.replace("2.16.840.1.113883.10.20.22.4.X", "2.16.840.1.113883.10.20.15.3.8")


def test_a_pregnancy_is_told_with_the_day_that_is_expected():
    due = statement(
        "observation",
        "Y",
        f'<code code="11778-8" displayName="Delivery date Estimated" {LOINC}/>{DONE}'
        '<value xsi:type="TS" value="20261204"/>',
    ).replace("2.16.840.1.113883.10.20.22.4.Y", "2.16.840.1.113883.10.20.15.3.1")
    content = document(pregnant(f"<entryRelationship>{due}</entryRelationship>"))
    status, day = made(content, "Observation")
    assert code_of(status["code"]) == "82810-3"
    assert status["valueCodeableConcept"]["coding"][0]["display"] == "Pregnant"
    assert status["effectivePeriod"] == {"start": "2026-03-01"}
    assert code_of(day["code"]) == "11778-8"
    assert day["valueDateTime"] == "2026-12-04"
    assert {code_of(one["category"][0]) for one in (status, day)} == {"social-history"}


def test_a_denied_pregnancy_is_none():
    assert not made(document(pregnant(negationInd="true")), "Observation")


# ------------------------------------------------------------------------------ handed out, used


def handed_out(inside, **attributes):
    given = statement("supply", "18", inside, **{"classCode": "SPLY", **attributes})
    return f'<entryRelationship typeCode="REFR">{given}</entryRelationship>'


HANDED = '<effectiveTime value="20260302"/><quantity value="30.0" unit="{tablet}"/>'


def test_a_hand_out_is_one_of_the_medicine_that_it_stands_in():
    content = document(medicine(f"{DONE}{handed_out(DONE + HANDED)}", moodCode="INT"))
    order = only(content, "MedicationRequest")
    one = only(content, "MedicationDispense")
    assert one["status"] == "completed"
    assert one["whenHandedOver"] == "2026-03-02"
    assert str(one["quantity"]["value"]) == "30.0"
    assert one["medicationCodeableConcept"] == order["medicationCodeableConcept"]
    assert one["authorizingPrescription"] == [{"reference": f"MedicationRequest/{order['id']}"}]
    assert cda_entries.transcribe(content).counts == {"Medicines": 1, "Medicines handed out": 1}


def test_what_was_handed_out_is_named_as_the_hand_out_says():
    product = (
        "<product><manufacturedProduct><manufacturedMaterial>"
        f'<code code="1234" displayName="Metoprolol Tartrate 50 MG" {RXNORM}/>'
        "</manufacturedMaterial></manufacturedProduct></product>"
    )
    content = document(medicine(handed_out(DONE + HANDED + product)))
    one = only(content, "MedicationDispense")
    assert code_of(one["medicationCodeableConcept"]) == "1234"
    assert "authorizingPrescription" not in one  # it stands in a statement, no order


@pytest.mark.parametrize(
    "held",
    [
        medicine(handed_out(DONE)),
        medicine(handed_out(DONE + HANDED, moodCode="INT")),
        medicine(handed_out(DONE + HANDED, negationInd="true")),
        medicine(handed_out(DONE + '<effectiveTime nullFlavor="UNK"/>')),
    ],
    ids=["names a pharmacy alone", "planned", "denied", "nothing known"],
)
def test_what_is_not_said_to_be_handed_out_is_not_and_is_counted(held):
    content = document(held)
    assert not made(content, "MedicationDispense")
    assert cda_entries.transcribe(content).inside == {"Medicines handed out": 1}


def test_nothing_is_handed_out_of_a_medicine_that_is_denied():
    content = document(medicine(handed_out(DONE + HANDED), negationInd="true"))
    assert not made(content, "MedicationDispense")


@pytest.mark.parametrize(
    ("said", "status"),
    [("aborted", "stopped"), ("nullified", "entered-in-error"), ("x", "unknown")],
)
def test_a_hand_out_has_the_status_that_is_written(said, status):
    held = handed_out(f'<statusCode code="{said}"/>{HANDED}')
    assert only(document(medicine(held)), "MedicationDispense")["status"] == status


def used(inside):
    """Return a Product Instance that takes part in a procedure."""
    role = statement("participantRole", "37", inside, classCode="MANU")
    return f'<participant typeCode="DEV">{role}</participant>'


PACEMAKER = (
    f'<playingDevice><code code="14106009" displayName="Pacemaker" {SNOMED}/></playingDevice>'
)
UDI = "(01)51022222233336(11)141231(17)150707(10)A213B1(21)1234"


def test_a_procedure_says_what_it_used_and_never_that_it_stayed():
    operated = f'<code code="307280005" displayName="Implantation of pacemaker" {SNOMED}/>'
    number = f'<id root="2.16.840.1.113883.3.3719" extension="{UDI}"/>'
    held = f"{operated}{DONE}{used(number + PACEMAKER)}{used(PACEMAKER)}{used('')}"
    content = document(statement("procedure", "14", held, classCode="PROC"))
    one = only(content, "Procedure")
    assert [each["coding"][0]["display"] for each in one["usedCode"]] == ["Pacemaker", "Pacemaker"]
    (device,) = one["usedReference"]
    assert device["identifier"]["value"] == UDI
    assert device["display"] == "Pacemaker"
    assert not made(content, "Device")
    assert cda_entries.transcribe(content).inside == {"Devices": 1}


# ------------------------------------------------------------------------------ what stays behind


OPEN_SPAN = '<effectiveTime xsi:type="IVL_TS"><low value="20260301"/></effectiveTime>'


def said_of(content):
    """Return what the page of a document says of it, by label."""
    return dict(cda_entries.read(content).facts)


def test_an_order_of_a_supply_inside_of_a_medicine_is_not_lost_in_silence():
    ordered = statement("supply", "17", '<repeatNumber value="1"/>', moodCode="INT")
    held = f'{OPEN_SPAN}<entryRelationship typeCode="REFR">{ordered}</entryRelationship>'
    told = said_of(document(medicine(held), narrative="Metoprolol"))
    assert told["Taken into the record"] == "Medicines 1"
    assert told[cda_entries.UNTOLD] == "Orders of a supply 1"
    assert "Only in the text" not in told


@pytest.mark.parametrize(
    ("narrative", "label"),
    [("Walks alone", "Only in the text"), ("", cda_entries.UNTOLD)],
    ids=["told in words", "without words"],
)
def test_an_entry_of_another_kind_is_counted_where_it_can_be_read(narrative, label):
    function = statement("observation", "68", "")  # Functional Status Problem Observation
    assert said_of(document(function, narrative=narrative))[label] == "Listed 1"


def test_the_visit_in_the_head_is_told_with_its_kind_place_people_and_end():
    held = (
        "<componentOf><encompassingEncounter>"
        '<code code="IMP" displayName="Inpatient"/>'
        '<effectiveTime><low value="20261101"/><high value="20261104"/></effectiveTime>'
        '<dischargeDispositionCode code="01" displayName="Home"/>'
        "<responsibleParty><assignedEntity><assignedPerson><name>Imogen Placeholder</name>"
        "</assignedPerson></assignedEntity></responsibleParty>"
        "<location><healthCareFacility><location><name>Ward 4</name></location>"
        "</healthCareFacility></location></encompassingEncounter></componentOf><component>"
    )
    told = said_of(document().replace(b"<component>", held.encode(), 1))
    assert told["Visit"] == "Inpatient, 1 Nov 2026 to 4 Nov 2026"
    assert told["Visit at"] == "Ward 4"
    assert told["Visit with"] == "Imogen Placeholder"
    assert told["After the visit"] == "Home"


def test_a_head_without_a_visit_tells_of_none():
    assert not [label for label in said_of(document()) if "isit" in label]
