"""Units of measurement: which spellings are the same unit, and which convert by a known factor.

A small part of UCUM, as much as results and vital signs use, after a table of the spellings that
laboratories really send (`K/uL` is thousands per microlitre, not kelvin). Tests hold every factor
against `ucumvert`, which needs 40 MB and a second to start (decision 25).
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple

# As laboratories write it, in small letters and without spaces -> UCUM (case-sensitive).
ALIASES: Final = {
    "k/ul": "10*3/uL",
    "k/cumm": "10*3/uL",
    "k/mm3": "10*3/uL",
    "thousand/ul": "10*3/uL",
    "thou/ul": "10*3/uL",
    "thou/mm3": "10*3/uL",
    "m/ul": "10*6/uL",
    "mil/ul": "10*6/uL",
    "million/ul": "10*6/uL",
    "m/mm3": "10*6/uL",
    "cells/ul": "/uL",
    "cells/mcl": "/uL",
    "cells/mm3": "/uL",
    "/mm3": "/uL",
    "/cumm": "/uL",
    "giga/l": "10*9/L",
    "g/l(10*9)": "10*9/L",
    "t/l": "10*12/L",
    "tera/l": "10*12/L",
    "iu/l": "[IU]/L",
    "iu/ml": "[IU]/mL",
    "miu/l": "m[IU]/L",
    "miu/ml": "m[IU]/mL",
    "uiu/ml": "u[IU]/mL",
    "mcunit/ml": "u[IU]/mL",
    "units/l": "U/L",
    "u/l": "U/L",
    "unit/l": "U/L",
    "mmhg": "mm[Hg]",
    "mm/hr": "mm/h",
    "mm/hour": "mm/h",
    "sec": "s",
    "seconds": "s",
    "lb": "[lb_av]",
    "lbs": "[lb_av]",
    "pounds": "[lb_av]",
    "oz": "[oz_av]",
    "in": "[in_i]",
    "inches": "[in_i]",
    "ft": "[ft_i]",
    "kilograms": "kg",
    "centimeters": "cm",
    "°c": "Cel",
    "degc": "Cel",
    "c": "Cel",
    "°f": "[degF]",
    "degf": "[degF]",
    "f": "[degF]",
    "percent": "%",
    "bpm": "/min",
    "beats/min": "/min",
    "beats/minute": "/min",
    "{beats}/min": "/min",
    "{beats}/minute": "/min",
    "breaths/min": "/min",
    "breaths/minute": "/min",
    "{breaths}/min": "/min",
    "permin": "/min",
    "kg/m²": "kg/m2",
    "ml/min/1.73m2": "mL/min/{1.73_m2}",
    "ml/min/1.73m^2": "mL/min/{1.73_m2}",
    "ml/min/1.73m²": "mL/min/{1.73_m2}",
    "ml/min/1,73m2": "mL/min/{1.73_m2}",
    "ml/min/{1.73m2}": "mL/min/{1.73_m2}",
    "ml/min/1.73": "mL/min/{1.73_m2}",
    "meq/l": "meq/L",
    "mosm/kg": "mosm/kg",
    "copies/ml": "{copies}/mL",
    "ratio": "{ratio}",
    "ph": "[pH]",
}

_PREFIXES: Final = {
    "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0,
    "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15,
}  # fmt: skip
# atom -> (base, factor to it). Bases that look alike in dimension and are not the same thing (a
# count, an international unit, an enzyme unit) stay apart: nothing converts between them.
_METRIC: Final = {
    "g": ("g", "1"),
    "mol": ("mol", "1"),
    "L": ("L", "1"),
    "l": ("L", "1"),
    "m": ("m", "1"),
    "s": ("s", "1"),
    "eq": ("eq", "1"),
    "osm": ("osm", "1"),
    "[IU]": ("[IU]", "1"),
    "[iU]": ("[IU]", "1"),
    "U": ("U", "1"),
    "kat": ("kat", "1"),
    "Pa": ("Pa", "1"),
    "m[Hg]": ("Pa", "133322.387415"),
    "cal": ("cal", "1"),
    "J": ("J", "1"),
    "V": ("V", "1"),
}
_PLAIN: Final = {
    "min": ("s", "60"),
    "h": ("s", "3600"),
    "d": ("s", "86400"),
    "wk": ("s", "604800"),
    "[lb_av]": ("g", "453.59237"),
    "[oz_av]": ("g", "28.349523125"),
    "[in_i]": ("m", "0.0254"),
    "[ft_i]": ("m", "0.3048"),
    "%": ("%", "1"),
    "1": ("1", "1"),
    "[pH]": ("[pH]", "1"),
    "[drp]": ("[drp]", "1"),
    "Cel": ("Cel", "1"),  # the two scales have different zeros: `converted` knows them
    "[degF]": ("[degF]", "1"),
}
_TOKENS = re.compile(r"\{[^}]*\}|[/.]|[^/.{]+|\{")
_EXPONENT = re.compile(r"(.*?)([+-]?\d)$")
_TEN = re.compile(r"10[*^]([+-]?\d{1,2})")
_SPELLED = re.compile(r"(?i)[x\u00d7]?10(?:\*\*|[*^e(])?([369]|12)\)?/(?:(cumm|mm3)|([mu]?c?)l)")


class Measure(NamedTuple):
    """A unit taken apart: powers of its bases in their order, and the factor to them.

    What stands above and below the line is not cancelled: mg/g is no mmol/mol and no percentage.
    """

    bases: tuple[tuple[str, int], ...]
    factor: Decimal


@lru_cache(maxsize=1024)
def canonical(unit: str, code: str = "") -> str:
    """Return the UCUM spelling of a unit; `code` is the sender's own UCUM code, where it gave one.

    What is not understood comes back as it was written: two spellings of it stay two units. So
    does a unit whose own code says something else: nobody knows which of the two is right.
    """
    coded, worded = _spelling(code) if code else None, _spelling(unit)
    if coded is not None and worded is not None and not is_same(coded, worded):
        return f"{unit.strip()} or {code.strip()}"
    return coded or worded or unit.strip()


def _spelling(said: str) -> str | None:
    """Return UCUM for a spelling, or None. A table's row goes before what UCUM would make of it."""
    plain = said.strip().replace("μ", "u").replace("µ", "u")
    key = plain.replace(" ", "").casefold()
    if key in ALIASES:
        return ALIASES[key]
    power = _SPELLED.fullmatch(key)
    if power is not None:
        small = "u" if power[2] or power[3] in ("u", "mc") else power[3].replace("c", "")
        return f"10*{power[1]}/{small}L"
    tidied = re.sub(r"(?i)\bmc(?=g|l|mol|iu)", "u", plain.replace(" ", ""))
    for tried in (tidied, re.sub(r"(?<=[dmunpf])l\b|(?<=/)l\b", "L", tidied)):
        if tried and measure(tried) is not None:
            return re.sub(r"(?<![a-z])([dmunpf]?)l(?![a-zA-Z])", r"\1L", tried)
    return None


@lru_cache(maxsize=1024)
def measure(unit: str) -> Measure | None:
    """Take a UCUM unit apart, or return None: not understood, so nothing converts."""
    bases: list[tuple[str, int]] = []
    factor, sign = Decimal(1), 1
    for part in _TOKENS.findall(unit):
        if part in "/.":
            sign = -1 if part == "/" else sign
            continue
        taken = _atom(part)
        if taken is None:
            return None
        base, size, power = taken
        factor *= size ** (sign * power)
        if base != "1":
            bases.append((base, sign * power))
    return Measure(tuple(sorted(bases)), factor)


def _atom(text: str) -> tuple[str, Decimal, int] | None:
    """Return (base, factor, power) of one atom with its prefix and exponent, or None."""
    if ten := _TEN.fullmatch(text):
        return "1", Decimal(10) ** int(ten[1]), 1
    if text.startswith("{") and text.endswith("}"):
        return text, Decimal(1), 1  # an annotation has no size, but says what is counted
    found = _named(text)
    power = 1
    if found is None and (match := _EXPONENT.fullmatch(text)):
        found, power = _named(match[1]), int(match[2])
    return None if found is None else (found[0], found[1], power)


def _named(text: str) -> tuple[str, Decimal] | None:
    if text in _PLAIN:
        base, size = _PLAIN[text]
        return base, Decimal(size)
    for prefix, power in _PREFIXES.items():
        if text.startswith(prefix) and (known := _METRIC.get(text[len(prefix) :])):
            return known[0], Decimal(known[1]) * Decimal(10) ** power
    return None


def factor(unit: str, other: str) -> Decimal | None:
    """Return by what a value in `unit` is multiplied to be one in `other`; None: not known."""
    mine, theirs = measure(unit), measure(other)
    if mine is None or theirs is None or mine.bases != theirs.bases:
        return None
    return mine.factor / theirs.factor


def is_same(unit: str, other: str) -> bool:
    """Say whether a figure means the same in both units: one unit, or a factor of 1."""
    return unit == other or factor(unit, other) == 1


def converts(unit: str, other: str) -> bool:
    """Say whether values in one unit can be told in the other."""
    return unit == other or {unit, other} == _SCALES or factor(unit, other) is not None


def together(units: Iterable[str]) -> dict[str, str]:
    """Return for each unit the one in which its values are drawn: the first that it converts to."""
    found: dict[str, str] = {}
    for unit in units:
        homes = dict.fromkeys(found.values())
        found.setdefault(unit, next((home for home in homes if converts(unit, home)), unit))
    return found


_SCALES: Final = {"Cel", "[degF]"}  # degrees: no factor, two scales with different zeros


def converted(digits: str, unit: str, other: str) -> str | None:
    """Return a value in another unit with as many digits as it was given with; None: not known.

    It is a figure of ours: whoever shows it says that it is converted, and from what.
    """
    try:
        value = Decimal(digits)
    except ArithmeticError:
        return None
    made = _scaled(value, unit, other) if value.is_finite() else None
    if made is None:
        return None
    given = max(2, len(value.as_tuple().digits))
    rounded = made if made == 0 else round(made, given - 1 - made.adjusted())
    return f"{rounded:f}"


def _scaled(value: Decimal, unit: str, other: str) -> Decimal | None:
    if (unit, other) == ("[degF]", "Cel"):
        return (value - 32) * 5 / 9
    if (unit, other) == ("Cel", "[degF]"):
        return value * 9 / 5 + 32
    by = factor(unit, other)
    return None if by is None else value * by
