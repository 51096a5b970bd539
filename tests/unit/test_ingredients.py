"""Ingredients: names, salts, brands and codes of one substance; what a medicine's name tells."""

import pytest

from phr.chart import ingredients
from phr.chart.ingredients import RXNORM, TableError, allergen, by_codes, parse, told
from tests.corpus import corpus
from tools import ingredients as tool


@pytest.mark.parametrize(
    ("name", "substances", "strengths", "route"),
    [
        ("200 ACTUAT Albuterol 0.09 MG/ACTUAT Inhaler", "albuterol", "0.09mg", "inhaled"),
        ("PROVENTIL HFA, 108 (90 Base)MCG/ACT", "albuterol", "0.09mg", "inhaled"),
        ("CLARITHROMYCIN, 500MG (Oral Tablet)", "clarithromycin", "500mg", "mouth"),
        ("10 ML Furosemide 10 MG/ML Injection", "furosemide", "10mg/ml", "injected"),
        ("Levothyroxine 50 micrograms", "levothyroxine", "0.05mg", ""),
        ("warfarin-hctz 20-12.5 mg tab", "hydrochlorothiazide warfarin", "12.5mg 20mg", "mouth"),
        ("Insulin Glargine 100 UNT/ML Injection", "insulin_glargine", "100unit/ml", "injected"),
        ("Amoxicillin 250 mg/5 mL oral suspension", "amoxicillin", "50mg/ml", "mouth"),
        ("Tylenol PM", "acetaminophen diphenhydramine", "", ""),
        ("Augmentin", "amoxicillin clavulanate", "", ""),
        ("Ferrous sulfate 1 g tablet", "ferrous_sulfate", "1000mg", "mouth"),
    ],
)  # fmt: skip
def test_a_name_tells_substance_strength_and_route(name, substances, strengths, route):
    found = told(name)
    assert found.sure
    assert sorted(found.ingredients) == [one.replace("_", " ") for one in substances.split()]
    assert found.strengths == tuple(strengths.split())
    assert found.route == route


@pytest.mark.parametrize(
    "name", ["Velmanase 10 mg", "Amlodipine / Newdrug 5 mg", "", "x" * 500, "Take one daily"]
)
def test_a_name_with_an_unknown_word_is_never_sure(name):
    assert not told(name).sure


@pytest.mark.parametrize(
    ("name", "substance"),
    [
        ("Allergy to sulfonamide (finding)", "sulfonamides"),
        ("Codeine Sulfate *ANALGESICS - OPIOID*", "codeine"),
        ("Bicillin L-A", "penicillin g"),
        ("PENICILLINS", "penicillins"),
        ("Peanuts", "peanut"),
        ("ÁSPIRIN", "aspirin"),
    ],
)
def test_an_allergen_is_known_by_brand_salt_and_sentence(name, substance):
    assert allergen(name)[0] == {substance}


def test_an_unknown_allergen_keeps_its_bare_words():
    assert allergen("Allergy to Foo root extracts") == (frozenset(), "extract foo root")


def test_codes_that_do_not_agree_tell_nothing():
    assert by_codes([(RXNORM, "1191"), (RXNORM, "318272"), ("x", "y")]) == {"aspirin"}
    assert by_codes([(RXNORM, "1191"), (RXNORM, "2670")]) == frozenset()


def test_mirror_images_and_look_alikes_are_different_substances():
    pairs = ("citalopram escitalopram", "prednisone prednisolone", "hydralazine hydroxyzine")
    for pair in pairs:
        one, other = (told(name).ingredients for name in pair.split())
        assert one
        assert other
        assert one != other


def test_a_table_that_contradicts_itself_is_refused():
    assert parse(["# a comment", "", "a | rx 1 | | | b; c"]).codes == {(RXNORM, "1"): {"a"}}
    with pytest.raises(TableError):
        parse(["a | rx 1 | | | x", "b | rx 1 | | |"])
    with pytest.raises(TableError):
        parse(["a | | | | same", "b | | | | same"])
    with pytest.raises(TableError):
        parse(["a | b"])


def test_the_parts_of_every_combination_are_in_the_table():
    table = ingredients.table()
    alone = {name for means in table.names.values() if len(means) == 1 for name in means}
    assert all(means <= alone for means in table.names.values())
    assert len(table.codes) > 300


def test_the_table_is_ours_dated_and_says_what_it_may_hold(capsys):
    assert tool.main(None) == 0
    assert "no contradiction" in capsys.readouterr().out


@pytest.mark.corpus
def test_no_published_display_contradicts_a_code_of_the_table(capsys):
    assert tool.main(str(corpus() / "fhir")) == 0
    assert tool.main(str(corpus() / "ccda")) == 0
    assert "CONTRADICTS" not in capsys.readouterr().out


def test_the_tool_names_the_codes_that_a_listing_does_not_confirm(tmp_path, capsys):
    (tmp_path / "list.tsv").write_text(f"{RXNORM}\t1191\taspirin\n{RXNORM}\t2670\tNewdrug\n")
    assert tool.main(str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "1 codes are confirmed" in told
    assert "rxnorm 1191" not in told
    assert "rxnorm 2670" in told


def test_the_tool_finds_a_code_under_another_substance_in_a_listing(tmp_path, capsys):
    (tmp_path / "list.tsv").write_text(f"{RXNORM}\t1191\tibuprofen\n")
    assert tool.main(str(tmp_path)) == 1
    assert "CONTRADICTS" in capsys.readouterr().out
