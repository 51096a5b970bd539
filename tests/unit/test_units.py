"""Units: spellings of laboratories, and factors held against an independent UCUM library."""

from decimal import Decimal
from itertools import product

import pytest
import ucumvert

from phr.chart.units import ALIASES, canonical, converted, factor, measure

MASS = ("kg/L", "g/L", "g/dL", "mg/dL", "mg/L", "ug/L", "ug/dL", "ng/mL", "ng/dL", "pg/mL")
AMOUNT = ("mol/L", "mmol/L", "umol/L", "nmol/L", "pmol/L")
COUNT = ("10*3/uL", "10*6/uL", "10*9/L", "10*12/L", "/uL", "/mL")
OTHER = (
    ("[lb_av]", "kg"),
    ("[in_i]", "cm"),
    ("mm[Hg]", "kPa"),
    ("mL/min", "L/h"),
    ("mm/h", "cm/h"),
)
PAIRS = [
    pair for group in (MASS, AMOUNT, COUNT) for pair in product(group, group) if pair[0] != pair[1]
] + list(OTHER)


@pytest.fixture(scope="module")
def ucum():
    """The judge: UCUM by `ucumvert`, units by `pint`."""
    return ucumvert.PintUcumRegistry()


def test_every_factor_is_that_of_an_independent_library(ucum):
    for one, other in PAIRS:
        theirs = (1 * ucum.from_ucum(one)).to(ucum.from_ucum(other).units).magnitude
        assert float(factor(one, other)) == pytest.approx(theirs, rel=1e-9), (one, other)


def test_every_alias_leads_to_a_unit_that_the_library_knows_too(ucum):
    for unit in set(ALIASES.values()) - {"[pH]", "{ratio}"}:
        assert measure(unit) is not None, unit
        assert ucum.from_ucum(unit) is not None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("K/uL", "10*3/uL"),
        ("K/µL", "10*3/uL"),
        ("x10E3/uL", "10*3/uL"),
        ("x10(3)/mcL", "10*3/uL"),
        ("10^9/L", "10*9/L"),
        ("10e9/L", "10*9/L"),
        ("M/uL", "10*6/uL"),
        ("mcg/dL", "ug/dL"),
        ("µg/L", "ug/L"),
        ("mg/dl", "mg/dL"),
        ("mmol/l", "mmol/L"),
        ("mIU/L", "m[IU]/L"),
        ("uIU/mL", "u[IU]/mL"),
        ("mL/min/1.73 m2", "mL/min/{1.73_m2}"),
        ("mmHg", "mm[Hg]"),
        ("beats/min", "/min"),
        ("lbs", "[lb_av]"),
    ],
)
def test_spellings_that_laboratories_send_are_read(said, meant):
    assert canonical(said) == meant
    assert measure(meant) is not None


@pytest.mark.parametrize("said", ["/HPF", "tablet", "T", "Index", "{score", "mg/", "", "1+"])
def test_what_is_not_understood_stays_as_it_was_written(said):
    assert canonical(said) == said


def test_the_senders_own_code_goes_before_its_words():
    assert canonical("thousand per microlitre", "10*3/uL") == "10*3/uL"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mmol/L", "mg/dL"),  # needs the substance
        ("10*3/uL", "m[IU]/L"),  # of one dimension, and not one thing
        ("U/L", "[IU]/L"),
        ("%", "mmol/mol"),  # HbA1c: two scales, no factor
        ("mg/g", "mmol/mol"),
        ("%", "mg/g"),
        ("mL/min", "mL/min/{1.73_m2}"),
        ("meq/L", "mmol/L"),
        ("Cel", "[degF]"),
        ("kg", "tablet"),
    ],
)
def test_without_a_known_factor_nothing_converts(one, other):
    assert factor(one, other) is None
    assert factor(other, one) is None


@pytest.mark.parametrize(
    ("digits", "unit", "other", "made"),
    [
        ("5.40", "g/L", "mg/dL", "540"),
        ("0.054", "g/dL", "g/L", "0.54"),
        ("98.6", "[degF]", "Cel", "37.0"),
        ("37", "Cel", "[degF]", "99"),
        ("250", "10*3/uL", "10*9/L", "250"),
        ("72.5", "[lb_av]", "kg", "32.9"),
        ("0", "g/L", "mg/dL", "0"),
    ],
)
def test_a_converted_value_has_as_many_digits_as_were_given(digits, unit, other, made):
    assert converted(digits, unit, other) == made


@pytest.mark.parametrize("digits", ["", "positive", "1:128", "NaN", "Infinity"])
def test_what_is_no_number_does_not_convert(digits):
    assert converted(digits, "g/L", "mg/dL") is None


def test_a_factor_is_exact():
    assert factor("mg/dL", "g/L") == Decimal("0.01")
