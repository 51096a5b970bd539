"""Which diseases a vaccine is against, by its CVX code: facts of a code set without copyright.

Codes of the CDC's CVX list as of September 2025. Immune globulins and skin tests are in no group:
they are no vaccines. A vaccine without a known code stands by its own name.
"""

from collections.abc import Iterable, Mapping
from typing import Final

CVX: Final = "http://hl7.org/fhir/sid/cvx"
_SYSTEMS: Final = frozenset({CVX, "urn:oid:2.16.840.1.113883.12.292", "2.16.840.1.113883.12.292"})

# Disease group -> CVX codes, in the order in which people look for them. A combined vaccine is a
# dose in each of its groups.
_TABLE: Final = {
    "COVID-19": "207 208 210 211 212 213 217 218 219 221 225 226 227 228 229 230 300 301 302 308"
    " 309 310 311 312 313 500 501 502 503 504 505 506 507 508 509 510 511 512 513 514 515 516 517"
    " 518 519 520 521",
    "Influenza": "15 16 88 111 135 140 141 144 149 150 151 153 155 158 161 166 168 171 185 186 194"
    " 197 200 201 202 205 231 320 331 333",
    "Pandemic and avian influenza": "123 125 126 127 128 160 321 322 323",
    "Tetanus, diphtheria, pertussis": "1 9 11 20 22 28 35 50 102 106 107 110 112 113 115 120 130"
    " 132 138 139 142 146 170 195 196 198",
    "Polio": "2 10 89 110 120 130 132 146 170 178 179 182 195 324",
    "Measles, mumps, rubella": "3 4 5 6 7 38 94",
    "Chickenpox": "21 94",
    "Shingles": "121 187 188",
    "Hepatitis B": "8 42 43 44 45 51 102 104 110 132 146 189 193 198 220",
    "Hepatitis A": "31 52 83 84 85 104 169 193",
    "Haemophilus influenzae type b": "17 22 46 47 48 49 50 51 102 120 132 146 148 170 198",
    "Pneumococcal disease": "33 100 109 133 152 177 215 216 327",
    "Meningococcal disease": "32 103 108 114 136 147 148 162 163 164 167 191 192 203 316 328",
    "Human papillomavirus (HPV)": "62 118 137 165",
    "Rotavirus": "74 116 119 122",
    "RSV": "303 304 305 314 326",
    "Rabies": "18 40 90 175 176",
    "Typhoid": "25 41 53 91 101 190",
    "Yellow fever": "37 183 184",
    "Japanese encephalitis": "39 129 134",
    "Tick-borne encephalitis": "77 222 223 224",
    "Cholera": "26 172 173 174",
    "Tuberculosis (BCG)": "19",
    "Smallpox and mpox": "75 105 206 325",
    "Anthrax": "24 318 319",
    "Adenovirus": "54 55 82 143",
    "Dengue": "56 330",
    "Chikungunya": "317 329",
    "Ebola": "204 214",
    "Lyme disease": "66",
    "Plague": "23",
}
GROUPS: Final = tuple(_TABLE)


def _turned() -> Mapping[str, tuple[str, ...]]:
    made: dict[str, list[str]] = {}
    for group, listed in _TABLE.items():
        for code in listed.split():
            made.setdefault(code, []).append(group)
    return {code: tuple(groups) for code, groups in made.items()}


_BY_CODE: Final = _turned()


def words(system: str, code: str) -> str:
    """Return what a code is against, for a vaccine that came without a name; "" where unknown."""
    against = "; ".join(groups([(system, code)]))
    return f"Vaccine against {against} (CVX {code})" if against else ""


def groups(codes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the disease groups of a vaccine's (system, code) pairs; () for one not known."""
    for system, code in codes:
        if system in _SYSTEMS and (found := _BY_CODE.get(code.lstrip("0"))):
            return found
    return ()
