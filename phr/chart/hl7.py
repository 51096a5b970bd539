"""Words for codes of HL7's own code systems that came without a display.

From HL7 Terminology (THO) 6.5, in the public domain (CC0 1.0), as of November 2025; only what
records use and what is not a word by itself. Of other systems only the vital signs have names
here, which are words of our own.
"""

import re
from collections.abc import Mapping
from typing import Final

_HOMES: Final = ("http://terminology.hl7.org/CodeSystem/", "http://hl7.org/fhir/")
_LEGACY: Final = re.compile(
    r"http://(?:terminology\.)?hl7\.org/(?:fhir/)?v([23])/(?:\w+/)?([\w-]+)"
)
_WORD: Final = re.compile(r"[a-z]+(?:[-_][a-z]+)*")  # a code that reads as words: "in-progress"

_WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "v2-0074": {
        "AU": "audiology",
        "BG": "blood gases",
        "BLB": "blood bank",
        "CG": "cytogenetics",
        "CH": "chemistry",
        "CP": "cytopathology",
        "CT": "CT scan",
        "CUS": "cardiac ultrasound",
        "EC": "electrocardiac",
        "GE": "genetics",
        "HM": "hematology",
        "ICU": "bedside ICU monitoring",
        "IMM": "immunology",
        "LAB": "laboratory",
        "MB": "microbiology",
        "MCB": "mycobacteriology",
        "MYC": "mycology",
        "NMR": "nuclear magnetic resonance",
        "NMS": "nuclear medicine scan",
        "OUS": "obstetric ultrasound",
        "PF": "pulmonary function",
        "PHR": "pharmacy",
        "RAD": "radiology",
        "RUS": "radiology ultrasound",
        "RX": "radiograph",
        "SP": "surgical pathology",
        "SR": "serology",
        "TX": "toxicology",
        "VR": "virology",
        "VUS": "vascular ultrasound",
    },
    "v2-0203": {
        "DL": "driver's license number",
        "MB": "member number",
        "MR": "medical record number",
        "NPI": "national provider identifier",
        "PPN": "passport number",
        "SB": "social beneficiary identifier",
        "SS": "social security number",
    },
    "v3-MaritalStatus": {
        "A": "annulled",
        "D": "divorced",
        "L": "legally separated",
        "M": "married",
        "S": "never married",
        "T": "domestic partner",
        "U": "unmarried",
        "W": "widowed",
    },
    "v3-ParticipationType": {
        "ADM": "admitter",
        "ATND": "attender",
        "CON": "consultant",
        "DIS": "discharger",
        "PART": "participation",
        "PPRF": "primary performer",
        "REF": "referrer",
        "SPRF": "secondary performer",
    },
    "v3-RoleCode": {
        "BRO": "brother",
        "CHILD": "child",
        "DAU": "natural daughter",
        "FTH": "father",
        "GRFTH": "grandfather",
        "GRMTH": "grandmother",
        "GUARD": "guardian",
        "MTH": "mother",
        "NBRO": "natural brother",
        "NFTH": "natural father",
        "NMTH": "natural mother",
        "NSIS": "natural sister",
        "PRN": "parent",
        "SIS": "sister",
        "SON": "natural son",
        "SPS": "spouse",
    },
}

LOINC: Final = "http://loinc.org"
VITAL_SIGNS: Final[Mapping[str, str]] = {
    "85354-9": "Blood pressure",
    "55284-4": "Blood pressure",
    "35094-2": "Blood pressure",
    "8867-4": "Pulse",
    "9279-1": "Breathing rate",
    "8310-5": "Body temperature",
    "2708-6": "Blood oxygen level",
    "59408-5": "Blood oxygen level (pulse oximetry)",
    "29463-7": "Weight",
    "3141-9": "Weight, measured",
    "8302-2": "Height",
    "39156-5": "Body mass index",
    "9843-4": "Head circumference",
    "8289-1": "Head circumference, percentile",
    "59576-9": "Body mass index, percentile",
    "77606-2": "Weight for length, percentile",
    "72514-3": "Pain score",
}
_PARTS: Final = {"8480-6": "Systolic", "8462-4": "Diastolic"}


def words(system: str, code: str) -> str:
    """Return what a code of an HL7 system, or of a vital sign, means; "" for all others."""
    if system == LOINC:
        return VITAL_SIGNS.get(code) or _PARTS.get(code, "")
    old = _LEGACY.fullmatch(system)
    if old is not None:  # as DSTU2 and STU3 wrote the v2 tables and v3 systems
        name = f"v{old[1]}-{old[2]}"
    elif system.startswith(_HOMES):
        name = system.rpartition("/")[2]
    else:
        return ""
    known = _WORDS.get(name, {}).get(code)
    if known is None and _WORD.fullmatch(code) and "sid/" not in system:
        return code.replace("-", " ").replace("_", " ")
    return known or ""
