"""Sensitivity labels of a record (DS4P), computed at keep time by a local rule set.

The rules name codes and code prefixes that the vocabularies themselves place in a sensitive
class. They err on the side of labelling: a label hides until the patient ticks it.
"""

import re
from collections.abc import Iterator, Mapping
from enum import IntFlag
from functools import lru_cache
from typing import Any, Final, NamedTuple

from phr.fhir.reading import Coding, codings, walk


class Label(IntFlag):
    """Bits kept with each version of a record; 0 is Normal (N).

    Names are HL7 v3 ActCode sensitivity codes where one exists; PRIVATE is the patient's own mark.
    """

    NONE = 0
    R = 1  # Confidentiality "restricted" given by the source
    V = 2  # Confidentiality "very restricted" given by the source
    ETH = 4  # substance abuse (alcohol)
    ETHUD = 8  # alcohol use disorder
    OPIOIDUD = 16  # opioid use disorder
    PSY = 32  # psychiatry and mental health
    SDV = 64  # domestic or sexual violence
    HIV = 128
    STD = 256  # sexually transmitted disease
    SEX = 512  # sexuality and reproductive health
    GDIS = 1024  # genetic disease
    PRIVATE = 2048  # "keep private": recipients never learn of it


class Rule(NamedTuple):
    """Codes (exact) and code prefixes of one vocabulary that carry a label."""

    id: str
    vocabulary: str
    label: Label
    codes: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()


_VOCABULARIES: Final = {  # canonical system -> short name; C-CDA sends OIDs
    "http://hl7.org/fhir/sid/icd-10-cm": "icd10",
    "http://hl7.org/fhir/sid/icd-10": "icd10",
    "urn:oid:2.16.840.1.113883.6.90": "icd10",
    "urn:oid:2.16.840.1.113883.6.3": "icd10",
    "http://hl7.org/fhir/sid/icd-9-cm": "icd9",
    "urn:oid:2.16.840.1.113883.6.103": "icd9",
    "http://snomed.info/sct": "snomed",
    "urn:oid:2.16.840.1.113883.6.96": "snomed",
    "http://loinc.org": "loinc",
    "urn:oid:2.16.840.1.113883.6.1": "loinc",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
    "urn:oid:2.16.840.1.113883.6.88": "rxnorm",
}

_ALCOHOL = Label.ETH | Label.ETHUD
_OPIOID = Label.ETH | Label.OPIOIDUD


def _rule(id_: str, vocabulary: str, label: Label, *, codes: str = "", prefixes: str = "") -> Rule:
    return Rule(id_, vocabulary, label, frozenset(codes.split()), tuple(prefixes.split()))


RULES: Final = (
    # ICD-10-CM, by block (prefixes without the dot)
    _rule("icd10-alcohol", "icd10", _ALCOHOL, prefixes="F10 K70 G312 Z714 Y90 R780 Z6372 G621"),
    _rule("icd10-opioid", "icd10", _OPIOID, prefixes="F11 T400 T401 T402 T403"),
    _rule(
        "icd10-substance",
        "icd10",
        Label.ETH,
        prefixes="F12 F13 F14 F15 F16 F18 F19 Z715 T404 T405 T406 T407 T409 R781 R782",
    ),
    _rule(
        "icd10-mental",
        "icd10",
        Label.PSY,
        prefixes="F0 F2 F3 F4 F5 F6 F7 F8 F9 X71 X72 X73 X74 X75 X76 X77 X78 X79 X80 X81 X82 X83"
        " T1491 R45851 Z915 Z9151",
    ),
    _rule(
        "icd10-violence",
        "icd10",
        Label.SDV,
        prefixes="T74 T76 Y07 Z69 O9A3 O9A4 O9A5 Z9141 Z6281 Z630",
    ),
    _rule(
        "icd10-hiv",
        "icd10",
        Label.HIV,
        prefixes="B20 B21 B22 B23 B24 Z21 B9735 O987 R75 Z206 Z717 Z114",
    ),
    _rule(
        "icd10-std",
        "icd10",
        Label.STD,
        prefixes="A50 A51 A52 A53 A54 A55 A56 A57 A58 A59 A60 A61 A62 A63 A64 Z202 Z113 B977 O981"
        " O982 O983",
    ),
    _rule(
        "icd10-reproductive",
        "icd10",
        Label.SEX,
        prefixes="O Z30 Z31 Z32 Z33 Z34 Z36 Z37 Z39 Z3A Z640 Z725 F52 F64 F65 F66 N46 N97 N52",
    ),
    _rule(
        "icd10-genetic",
        "icd10",
        Label.GDIS,
        prefixes="Z14 Z15 E84 D56 D57 G10 G1221 Q9 E7502 E701 Z8481 Z1371 Z1379",
    ),
    # ICD-9-CM
    _rule("icd9-alcohol", "icd9", _ALCOHOL, prefixes="291 303 3050"),
    _rule("icd9-opioid", "icd9", _OPIOID, prefixes="3040 3047 3055"),
    _rule("icd9-substance", "icd9", Label.ETH, prefixes="292 304 3052 3053 3054 3056 3057 3058"),
    _rule(
        "icd9-mental",
        "icd9",
        Label.PSY,
        prefixes="290 293 294 295 296 297 298 299 300 301 302 306 307 308 309 311 312 313 314 315"
        " 317 318 319 E95 V6284",
    ),
    _rule("icd9-violence", "icd9", Label.SDV, prefixes="9955 9958 E967 V1541 V1542"),
    _rule("icd9-hiv", "icd9", Label.HIV, prefixes="042 043 044 V08 07953 79571"),
    _rule("icd9-std", "icd9", Label.STD, prefixes="091 092 093 094 095 096 097 098 099 0541 V016"),
    # SNOMED CT
    _rule(
        "snomed-alcohol",
        "snomed",
        _ALCOHOL,
        codes="7200002 15167005 66590003 10939881000119105 25702006",
    ),
    _rule("snomed-opioid", "snomed", _OPIOID, codes="5602001 75544000 231477003"),
    _rule(
        "snomed-substance",
        "snomed",
        Label.ETH,
        codes="191816009 26416006 66214007 361055000 55680006 31956009 78267003 85005007 37344009",
    ),
    _rule(
        "snomed-mental",
        "snomed",
        Label.PSY,
        codes="74732009 35489007 370143000 36923009 13746004 58214004 197480006 21897009 47505003"
        " 225444004 6471006 82313006 406506008 192127007 371631005 69322001 48694002 371596008"
        " 191736004 17226007 72366004",
    ),
    _rule("snomed-violence", "snomed", Label.SDV, codes="706893006 424393004 397940009"),
    _rule("snomed-hiv", "snomed", Label.HIV, codes="86406008 62479008 165816005 91947003"),
    _rule(
        "snomed-std",
        "snomed",
        Label.STD,
        codes="8098009 76272004 15628003 240589008 33839006 266113007 105629000 56335008",
    ),
    _rule(
        "snomed-reproductive",
        "snomed",
        Label.SEX,
        codes="77386006 72892002 19169002 17369002 386639001 57797005 93461009 8619003 79586000"
        " 47200007 398254007 11687002 169826009 384729004 156073000 35999006 15938005",
    ),
    _rule(
        "snomed-genetic",
        "snomed",
        Label.GDIS,
        codes="190905008 58756001 127040003 417357006 41040004 40108008 32895009",
    ),
    # LOINC
    _rule(
        "loinc-alcohol-drugs",
        "loinc",
        Label.ETH,
        codes="72109-2 75626-2 75624-7 82666-9 82667-7 5640-8 5643-2 3879-4 3397-7 19295-5 11331-6"
        " 11343-1 68518-0 68519-8 68520-6",
    ),
    _rule(
        "loinc-mental",
        "loinc",
        Label.PSY,
        codes="44249-1 44261-6 55757-9 55758-7 69737-5 70274-6 73831-0 73832-8 71354-5 44250-9"
        " 44255-8 44260-8 44254-1 44259-0 44251-7 44252-5 44253-3 44256-6 44257-4 44258-2 89204-2"
        " 69725-0 69689-8 69733-4 69734-2 69735-9 69736-7",
    ),
    _rule("loinc-violence", "loinc", Label.SDV, codes="76499-3 95618-5 76504-0"),
    _rule(
        "loinc-hiv",
        "loinc",
        Label.HIV,
        codes="7917-8 7918-6 29893-5 5221-7 5220-9 68961-2 56888-1 31201-7 20447-9 25835-0 25836-8"
        " 24012-7 30361-0 53379-4 58900-2 75622-1 48345-3 49890-7 43010-8 62469-2",
    ),
    _rule(
        "loinc-std",
        "loinc",
        Label.STD,
        codes="20507-0 20508-8 5292-8 5291-0 21613-7 24111-7 43304-5 43305-2 11084-1 24110-9"
        " 22461-8 21190-4 21191-2 36902-5 36903-3 22587-0 31147-2 47236-5",
    ),
    _rule(
        "loinc-reproductive",
        "loinc",
        Label.SEX,
        codes="2106-3 2118-8 82810-3 76690-7 76691-5 86645-9 11976-8 11996-6 11778-8 11779-6"
        " 21198-7 19080-1 8665-2",
    ),
    _rule("loinc-genetic", "loinc", Label.GDIS, codes="51969-4 81247-9 21636-6 48018-6 69548-6"),
    # RxNorm ingredients
    _rule("rxnorm-alcohol", "rxnorm", _ALCOHOL, codes="3554 82819"),
    _rule("rxnorm-opioid", "rxnorm", _OPIOID, codes="6813 1819 7243 7242"),
    _rule(
        "rxnorm-mental",
        "rxnorm",
        Label.PSY,
        codes="6448 2626 61381 51272 35636 89013 5093 4493 36437 2556 321988 32937 39786 72625"
        " 42347 15996",
    ),
    _rule(
        "rxnorm-hiv",
        "rxnorm",
        Label.HIV,
        codes="276237 322248 195085 1433868 719872 68244 190521 11413 343047 460132 85762",
    ),
)

# Clinical drugs have tens of thousands of codes; their names begin with their ingredients.
_INGREDIENTS: Final = {
    _ALCOHOL: "disulfiram acamprosate",
    _OPIOID: "methadone buprenorphine naltrexone naloxone",
    Label.PSY: "lithium clozapine olanzapine quetiapine risperidone aripiprazole haloperidol"
    " paliperidone ziprasidone lurasidone fluoxetine sertraline citalopram escitalopram paroxetine"
    " venlafaxine desvenlafaxine duloxetine bupropion mirtazapine trazodone buspirone amitriptyline"
    " nortriptyline fluvoxamine chlorpromazine fluphenazine perphenazine",
    Label.HIV: "emtricitabine tenofovir efavirenz dolutegravir raltegravir lamivudine abacavir"
    " zidovudine atazanavir darunavir ritonavir bictegravir rilpivirine cabotegravir elvitegravir"
    " maraviroc etravirine nevirapine",
    Label.SEX: "levonorgestrel norethindrone mifepristone misoprostol medroxyprogesterone"
    " etonogestrel ulipristal clomiphene sildenafil tadalafil",
}
_BY_NAME: Final = {name: label for label, names in _INGREDIENTS.items() for name in names.split()}
_WORD = re.compile(r"[a-z]{6,}")

_BY_SOURCE: Final = {  # meta.security: v3-Confidentiality and v3-ActCode
    "R": Label.R,
    "V": Label.V,
    "ETH": Label.ETH,
    "ETHUD": _ALCOHOL,
    "ALC": Label.ETH,
    "SUD": Label.ETH,
    "DRGIS": Label.NONE,
    "OPIOIDUD": _OPIOID,
    "42CFRPart2": Label.ETH,
    "PSY": Label.PSY,
    "PSYTHPN": Label.PSY,
    "MH": Label.PSY,
    "BH": Label.PSY,
    "SDV": Label.SDV,
    "SV": Label.SDV,
    "IPV": Label.SDV,
    "SEXDISAB": Label.SDV,
    "HIV": Label.HIV,
    "STD": Label.STD,
    "SEX": Label.SEX,
    "REPRO": Label.SEX,
    "GDIS": Label.GDIS,
}


def label(document: Mapping[str, Any]) -> Label:
    """Return the labels of a resource: what the source gave and what the rules say of its codes."""
    found = Label.NONE
    for _, bits in explain(document):
        found |= bits
    return found


def explain(document: Mapping[str, Any]) -> Iterator[tuple[str, Label]]:
    """Yield (rule id, labels) for everything in a resource that carries a label."""
    meta = document.get("meta")
    if isinstance(meta, dict):
        yield from of_security(meta.get("security"))
    yield from of_security(document.get("securityLabel"))  # of a DocumentReference
    for name, element in document.items():
        if name != "meta":
            yield from of_element(element)


def of_security(security: Any) -> Iterator[tuple[str, Label]]:
    """Yield what `meta.security` or `securityLabel` says, as (rule id, labels)."""
    for coding in codings(security):
        if bits := _BY_SOURCE.get(coding.code):
            yield f"source-{coding.code}", bits


def of_element(element: Any) -> Iterator[tuple[str, Label]]:
    """Yield (rule id, labels) for every coding and medicine name inside an element."""
    if isinstance(element, str):  # `code` of a DSTU2 or hand-made resource may be plain
        return
    for found in walk(element):
        if "code" in found and "system" in found:
            code, system = found["code"], found["system"]
            if isinstance(code, str) and isinstance(system, str):
                yield from of_coding(Coding(system, code))
        for name in ("display", "text"):
            said = found.get(name)
            if isinstance(said, str):
                yield from of_name(said[:200])


@lru_cache(maxsize=16384)
def of_coding(coding: Coding) -> tuple[tuple[str, Label], ...]:
    """Return (rule id, labels) for each rule that a coding meets."""
    vocabulary = _VOCABULARIES.get(coding.system)
    if vocabulary is None:
        return ()
    code = coding.code.strip().upper()
    plain = code.replace(".", "")
    return tuple(
        (rule.id, rule.label)
        for rule in RULES
        if rule.vocabulary == vocabulary
        and (code in rule.codes or (rule.prefixes and plain.startswith(rule.prefixes)))
    )


@lru_cache(maxsize=16384)
def of_name(said: str) -> tuple[tuple[str, Label], ...]:
    """Return (rule id, labels) for each sensitive medicine that a text names."""
    words = _WORD.findall(said.lower())
    return tuple((f"name-{word}", _BY_NAME[word]) for word in words if word in _BY_NAME)
