"""What a record is about, as far as that can be compared: codes, words, time, side, value, person.

One reader a kind. Pure: from a document and what it points to. Rules about traits are in `rules`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any, Final

from phr import clock
from phr.chart import ingredients as table
from phr.chart.book import Book
from phr.chart.ingredients import RXNORM, SNOMED, UNII, Told, stem, words
from phr.chart.plain import (
    address_words,
    code_of,
    codes,
    concept_words,
    listing,
    mapping,
    mappings,
    number,
    string,
)
from phr.chart.statements import NO_INFORMATION_CODES, NONE_KNOWN_CODES, says_none_known
from phr.fhir.reading import Moment, at, moment, moment_of
from phr.fhir.record import Record, once

LOINC: Final = "http://loinc.org"
ICD10CM: Final = "http://hl7.org/fhir/sid/icd-10-cm"
CVX: Final = "http://hl7.org/fhir/sid/cvx"
NDC: Final = "http://hl7.org/fhir/sid/ndc"
CPT: Final = "http://www.ama-assn.org/go/cpt"
NPI: Final = "http://hl7.org/fhir/sid/us-npi"
FINE: Final = frozenset({SNOMED, LOINC, RXNORM, CVX})  # one concept a code
SHARED: Final = FINE | {  # vocabularies in which a code means the same everywhere
    UNII,
    ICD10CM,
    NDC,
    CPT,
    "http://hl7.org/fhir/sid/icd-10",
    "http://hl7.org/fhir/sid/icd-9-cm",
    "http://www.whocc.no/atc",
    "http://www.cms.gov/medicare/coding/icd10",
    "https://www.cms.gov/medicare/coding/hcpcsreleasecodesets",
}
_OIDS: Final = {
    "2.16.840.1.113883.6.96": SNOMED,
    "2.16.840.1.113883.6.1": LOINC,
    "2.16.840.1.113883.6.88": RXNORM,
    "2.16.840.1.113883.6.90": ICD10CM,
    "2.16.840.1.113883.6.69": NDC,
    "2.16.840.1.113883.6.12": CPT,
    "2.16.840.1.113883.12.292": CVX,
    "2.16.840.1.113883.4.9": UNII,
    "2.16.840.1.113883.4.6": NPI,
}
_SAYS_NOTHING: Final = frozenset(  # SNOMED CT concepts that only name a kind of thing
    """261665006 410942007 71388002 71181003 55607006 64572001 404684003 105590001 419199007
    416098002 414285001 418038007 420134006 235719002 59037007 419511003 418471000 232347008
    373873005 363787002 108252007""".split()  # noqa: SIM905  a word list
)
_JUNK: Final = frozenset(
    """unknown other none na unspecified specified not general misc routine status new given
    reported history generic standard default detail allergy problem result procedure visit
    medicine medication document finding test note see comment condition diagnosis observation
    vaccine encounter report letter""".split()  # noqa: SIM905  a word list
)
_TAG = re.compile(
    r"\((?:disorder|finding|procedure|situation|substance|product|medicinal product|event|regime/"
    r"therapy|morphologic abnormality|observable entity|qualifier value|physical object)\)",
    re.IGNORECASE,
)
_BODY: Final = frozenset({"structure", "entire", "region", "part", "side", "left", "right", "both"})
_SMALL: Final = frozenset("of the a an and in to for nos by on".split())  # noqa: SIM905
_SIDES: Final = {
    **dict.fromkeys(("left", "lt", "l", "os"), "left"),
    **dict.fromkeys(("right", "rt", "r", "od"), "right"),
    **dict.fromkeys(("bilateral", "bilat", "both", "ou"), "both"),
}
_BRACKETS = re.compile(r"\([^)]*\)")
_HEAP: Final = frozenset({"other", "nec", "elsewhere"})
_CLASSIFICATIONS: Final = frozenset(
    {ICD10CM, "http://hl7.org/fhir/sid/icd-10", "http://hl7.org/fhir/sid/icd-9-cm"}
)
# Words that change what a name means, although the code beside it may be the same.
_MODES: Final = (
    ("family", re.compile(r"\b(?:family history|fam(?:ily)? hx|fhx?)\b")),
    ("risk", re.compile(r"\b(?:at (?:high |increased )?risk|risk of|screening)\b")),
    (
        "denied",
        re.compile(
            r"^no\b(?! known)|\b(?:ruled out|denies|negative for|absence of|no evidence of)\b"
        ),
    ),
    ("suspected", re.compile(r"\b(?:rule out|r/o|suspected|possible|probable|query)\b|\?$")),
    ("history", re.compile(r"\b(?:history of|past history|personal history|h/o|hx of)\b")),
)
_GRADE = re.compile(
    r"\b(?:stage|type|grade|class|degree|phase)\s+(\d{1,2}[a-d]?|[ivx]{1,4}[ab]?|[a-d])\b"
)
_ROMAN: Final = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5"}
_OPPOSITES: Final = (
    ("acute", "chronic"),
    ("with", "without"),
    ("upper", "lower"),
    ("benign", "malignant"),
    ("primary", "secondary"),
    ("proximal", "distal"),
    ("internal", "external"),
)
_TELLING: Final = 20  # a remote id this long names one thing in the world (UUID, Epic)
_MOST_CODES: Final = 20

Codes = Mapping[str, frozenset[str]]


@dataclass(slots=True)
class Trait:
    """What a record is about. `keys` bring it together with what it could be the same as."""

    record: Record
    kind: str
    keys: tuple[str, ...] = ()
    codes: Codes | None = None
    names: frozenset[str] = frozenset()
    alone: bool = False  # entered in error, or says nothing: never joined by a rule
    state: str = ""  # what must be equal: refuted, suspected, not done
    side: str = ""
    finer: frozenset[tuple[str, str]] = frozenset()  # stage, type, "acute": axis and value
    site: frozenset[str] = frozenset()  # where on the body: words
    when: Moment | None = None
    until: Moment | None = None
    over: bool = False
    value: tuple[Any, ...] = ()
    place: str = ""  # specimen, body site, provider: in bare words
    lot: str = ""
    ids: frozenset[tuple[str, str]] = frozenset()
    substances: frozenset[str] = frozenset()
    by_code: bool = False  # the substances come from codes
    told: Told | None = None
    person: "Person | None" = None

    @property
    def profile(self) -> tuple[Any, ...]:
        """Return all that rules look at but the record: equal ones need not be judged twice."""
        frozen = tuple(sorted((self.codes or {}).items(), key=lambda pair: pair[0]))
        moments = (self.when and self.when.text, self.until and self.until.text)
        return (
            self.record.connection_id,
            frozen,
            self.names,
            self.alone,
            self.state,
            self.side,
            self.finer,
            self.site,
            moments,
            self.over,
            self.value,
            self.place,
            self.lot,
            self.ids,
            self.substances,
            self.by_code,
            self.told,
            self.person,
        )


@dataclass(frozen=True, slots=True)
class Person:
    """Names, birth date and ways to reach somebody, in bare words."""

    names: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # (given, family), each as words
    born: str = ""
    reach: frozenset[str] = frozenset()


# ------------------------------------------------------------------------------------ words


@lru_cache(maxsize=16_384)
def bare(text: str) -> str:
    """Return the words that count, without order, plurals, small words and SNOMED CT's tags."""
    if "(" in text:
        text = _TAG.sub(" ", text)
    found = {stem(word) for word in words(text)} - _SMALL
    return "" if found <= _JUNK else " ".join(sorted(found))


@lru_cache(maxsize=512)
def system(said: str) -> str:
    """Return one address for each code system, however it is written."""
    plain = said.strip().rstrip("/").replace("hl7.org.fhir", "hl7.org/fhir")
    oid = plain.removeprefix("urn:oid:")
    if oid in _OIDS:
        return _OIDS[oid]
    lower = plain.casefold()
    return lower.replace("https:", "http:") if "www.cms.gov" not in lower else lower


@lru_cache(maxsize=4096)
def side(*texts: str) -> str:
    """Return "left", "right" or "both" where exactly one is said."""
    found = {_SIDES[word] for text in texts if text for word in words(text) if word in _SIDES}
    return found.pop() if len(found) == 1 else ""


@lru_cache(maxsize=4096)
def mode(*texts: str) -> str:
    """Return how a problem is meant: "" as it stands, else "suspected", "family", "history" ..."""
    for text in texts:
        said = text.casefold().strip()
        for name, pattern in _MODES:
            if pattern.search(said):
                return name
    return ""


@lru_cache(maxsize=4096)
def finer(*texts: str) -> frozenset[tuple[str, str]]:
    """Return what names add to a code: a stage, type or grade, and one of two opposites."""
    found = set()
    spoken = {word for text in texts for word in words(text)}
    for pair in _OPPOSITES:
        told = [word for word in pair if word in spoken]
        if len(told) == 1:
            found.add((pair[0], told[0]))
    grades = {grade for text in texts for grade in _GRADE.findall(" ".join(words(text))) if grade}
    if len(plain := {_ROMAN.get(one, one) for one in grades}) == 1:
        found.add(("grade", plain.pop()))
    return frozenset(found)


@dataclass(frozen=True)
class Concept:
    """A CodeableConcept: its codes by system, what it is called, and what shared codes say."""

    codes: dict[str, frozenset[str]]
    pairs: tuple[tuple[str, str], ...]
    text: str
    shown: tuple[str, ...]  # displays of shared vocabularies
    others: tuple[str, ...]  # displays of all others

    @cached_property
    def names(self) -> frozenset[str]:
        """Return its names as bare words."""
        found = {bare(one) for one in (self.text, *self.shown[:4], *self.others[:4]) if one}
        return frozenset(found - {""})

    @cached_property
    def is_absent(self) -> bool:
        """Say whether it says that nothing is known: not that there is none."""
        return any("absent" in name for name, _ in self.pairs)


def concept(*values: Any) -> Concept:
    """Read one or several CodeableConcepts (or Codings) as one."""
    return once(_concept, values[0]) if len(values) == 1 else _concept(*values)


def _concept(*values: Any) -> Concept:
    by_system: dict[str, set[str]] = {}
    text = next((said for one in values for each in mappings(one) if (said := _text(each))), "")
    pairs: list[tuple[str, str]] = []
    shown: list[str] = []
    others: list[str] = []
    for value in values:
        for one in mappings(value):
            inner = one.get("coding")
            for coding in mappings(inner) if inner is not None else [one]:
                code, name = string(coding.get("code")), system(string(coding.get("system")))
                display = string(coding.get("display"))
                if name in _CLASSIFICATIONS:
                    display = _BRACKETS.sub(" ", display)  # may be there or not: ICD-10-CM I.A.7
                    if text and not _HEAP.isdisjoint(words(display)):
                        code = f"{code} {bare(text)}"  # "other ...": the text says which
                if name == CVX:
                    code = code.lstrip("0")
                (shown if name in SHARED else others).append(display)
                if name and any(letter.isalnum() for letter in code) and len(pairs) < _MOST_CODES:
                    if name == SNOMED and code in _SAYS_NOTHING:
                        continue
                    pairs.append((name, code))
                    by_system.setdefault(name, set()).add(code)
    return Concept(
        {name: frozenset(found) for name, found in by_system.items()},
        tuple(pairs),
        text,
        tuple(one for one in shown if one),
        tuple(one for one in others if one),
    )


def _text(concept_: Mapping[str, Any]) -> str:
    """Return the words of a concept; in those of a classification the brackets may be missing."""
    said = string(concept_.get("text"))
    for one in mappings(concept_.get("coding")):
        classified = system(string(one.get("system"))) in _CLASSIFICATIONS
        if classified and string(one.get("display")) == said:
            return _BRACKETS.sub(" ", said)
    return said


def _concept_keys(kind: str, about: Concept, after: str = "") -> tuple[str, ...]:
    keys = [f"{kind}|{name}|{code}{after}" for name, code in about.pairs]
    keys += [f"{kind}|{name}{after}" for name in about.names]
    return tuple(keys)


def _day_keys(when: Moment | None) -> tuple[str, ...]:
    """Return every day of both clocks near a moment, so that two time zones can meet."""
    if when is None or when.start is None or when.precision < 3:
        return ()
    if when.precision == 3:
        return (when.text[:10],)
    return tuple(dict.fromkeys((when.text[:10], _utc_day(when.start))))


@lru_cache(maxsize=8192)
def _utc_day(ms: int) -> str:
    return clock.from_ms(ms).date().isoformat()


def identifiers(document: Mapping[str, Any], *fields: str) -> frozenset[tuple[str, str]]:
    """Return (system, value) of business identifiers that have both."""
    found = set()
    for field in fields or ("identifier",):
        for one in mappings(document.get(field)):
            name, value = system(string(one.get("system"))), string(one.get("value"))
            if name and len(value) > 1:
                found.add((name, value))
    return frozenset(found)


# ------------------------------------------------------------------------------------ readers


def trait(record: Record, book: Book) -> Trait | None:
    """Return what a record is about; None for kinds that are never joined."""
    reader = _READERS.get(record.type)
    if reader is None:
        return None
    made = reader(record, record.document, book)
    extra = [f"id|{made.kind}|{name}|{value}" for name, value in made.ids]
    if len(record.remote_id) >= _TELLING:
        extra.append(f"rid|{record.type}|{record.remote_id}")
    made.keys = tuple(dict.fromkeys((*made.keys, *extra)))
    return made


def _mistaken(document: Mapping[str, Any]) -> bool:
    return (
        document.get("status") == "entered-in-error"
        or code_of(document.get("verificationStatus")) == "entered-in-error"
    )


def _allergy(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    about = concept(document.get("code"))
    if not about.pairs and not about.names:
        about = concept(*(one.get("substance") for one in mappings(document.get("reaction"))))
    bare_codes = {code for _, code in about.pairs}
    made = Trait(record, "allergy", codes=about.codes, alone=_mistaken(document))
    made.names = about.names
    if bare_codes & NO_INFORMATION_CODES:
        made.kind, made.alone = "no information", True
        return made
    if bare_codes & NONE_KNOWN_CODES or says_none_known(document):
        made.kind, made.codes = "none known", None
        made.state = _none_of_what(bare_codes, about)
        made.keys = (f"none known|{made.state}",)
        made.names = frozenset({made.state})
        return made
    if code_of(document.get("verificationStatus")) == "refuted":
        made.state = "refuted"
    made.substances = table.by_codes(about.pairs)
    made.by_code = bool(made.substances)
    known: set[str] = set()
    for said in (*about.shown, about.text, *about.others):
        means, rest = table.allergen(said) if said else (frozenset(), "")
        if means and not made.substances:
            made.substances = means
            made.by_code = said in about.shown
        if rest and not {*rest.split()} <= _JUNK:
            known.add(rest)
    made.names = frozenset(known)
    keys = [f"allergy|{name}|{code}" for name, code in about.pairs]
    keys += [f"allergy|{name}" for name in known]
    keys += [f"allergy|={'+'.join(sorted(made.substances))}"] if made.substances else []
    made.keys = tuple(keys)
    made.alone = made.alone or not keys
    return made


_NONE_OF = {
    "409137002": "medicine",
    "no-known-medication-allergies": "medicine",
    "429625007": "food",
    "no-known-food-allergies": "food",
    "428607008": "environment",
    "no-known-environmental-allergies": "environment",
    "428197003": "insect",
    "716184000": "latex",
}


def _none_of_what(found: set[str], about: Concept) -> str:
    """Return of what no allergy is known: "" means of anything."""
    for code, what in _NONE_OF.items():
        if code in found:
            return what
    said = " ".join((about.text, *about.shown)).casefold()
    for word, what in (("drug", "medicine"), ("medic", "medicine"), ("food", "food")):
        if word in said:
            return what
    return ""


def medicine_concept(record: Record, book: Book) -> Concept:
    """Return what a medicine record names, here or in the Medication it points to."""
    document = record.document
    own = document.get("medicationCodeableConcept")
    pointed = mapping(document.get("medicationReference"))
    if own is None and not pointed:
        medication = mapping(document.get("medication"))
        own, pointed = medication.get("concept"), mapping(medication.get("reference"))
        if "coding" in medication or "text" in medication:
            own = medication
        elif "reference" in medication and isinstance(medication["reference"], str):
            pointed = medication
    if pointed:
        target = book.document(record, pointed)
        about = concept(own, target.get("code")) if target else concept(own)
        if not about.pairs and not about.text:
            items = [one.get("itemCodeableConcept") for one in mappings(target.get("ingredient"))]
            about = concept(*items) if len(items) == 1 else about
        if not about.text:
            about = replace(about, text=string(pointed.get("display")))
        return about
    return concept(own)


def _medicine(record: Record, document: Mapping[str, Any], book: Book) -> Trait:
    about = medicine_concept(record, book)
    given = record.type in ("MedicationDispense", "MedicationAdministration")
    made = Trait(record, "given" if given else "medicine", codes=about.codes)
    made.names, made.alone = about.names, _mistaken(document)
    made.ids = identifiers(document) if given else frozenset()
    if about.is_absent or any(code == "787481004" for _, code in about.pairs):
        made.kind, made.alone = "no information", True
        return made
    read = [table.told(one) for one in (*about.shown, about.text, *about.others) if one]
    coded = table.by_codes(about.pairs)
    best = next((one for one in read if one.sure), None)
    made.substances = coded or (best.ingredients if best else frozenset())
    shown = any(table.told(one).sure for one in about.shown)
    made.by_code = bool(coded) or (best is not None and shown)
    whole = best or Told(frozenset(), sure=False)
    made.told = whole._replace(
        strengths=next((one.strengths for one in read if one.strengths), ()),
        route=next((one.route for one in read if one.route), "") or _route(document),
        slow=any(one.slow for one in read),
        salts=next((one.salts for one in read if one.salts), frozenset()),
    )
    keys = [f"{made.kind}|{name}|{code}" for name, code in about.pairs]
    keys += [f"{made.kind}|{name}" for name in made.names]
    keys += [f"{made.kind}|={'+'.join(sorted(made.substances))}"] if made.substances else []
    if given:
        made.when = _first(document, "whenHandedOver", "whenPrepared", "effectiveDateTime",
                           "effectivePeriod", "effectiveTimeDateTime")  # fmt: skip
        keys = [f"{key}@{day}" for key in keys for day in _day_keys(made.when)]
    made.keys = tuple(keys)
    made.alone = made.alone or not keys
    return made


def _route(document: Mapping[str, Any]) -> str:
    for dosage in (*mappings(document.get("dosageInstruction")), *mappings(document.get("dosage"))):
        said = concept_words(dosage.get("route"))
        if said and (route := table.told(f"x {said}").route):
            return route
    return ""


def _problem(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    about = concept(document.get("code"))
    made = Trait(record, "problem", codes=about.codes, names=about.names)
    made.alone = _mistaken(document)
    if about.is_absent or any(code == "160245001" for _, code in about.pairs):
        made.kind, made.alone = "no information", True
        return made
    verification = code_of(document.get("verificationStatus"))
    if verification == "refuted":
        made.state = "refuted"
    elif verification in ("provisional", "differential", "unconfirmed"):
        made.state = "suspected"
    else:
        made.state = mode(about.text, *about.shown[:2])
    made.when = _first(document, "onsetDateTime", "onsetPeriod") or _first(
        document, "recordedDate", "assertedDate", "dateRecorded"
    )
    made.until = _end(document, "abatementDateTime", "abatementPeriod", "onsetPeriod")
    clinical = code_of(document.get("clinicalStatus"))
    made.over = clinical in ("resolved", "inactive") or made.until is not None
    sites = [concept_words(one) for one in listing(document.get("bodySite"))]
    made.side = side(about.text, *about.shown[:2], *sites)
    made.finer = finer(about.text, *about.shown[:2])
    made.site = _site(sites)
    made.keys = _concept_keys("problem", about)
    if is_of_a_visit(document):
        made.kind = "diagnosis"
        made.keys = tuple(
            f"diagnosis|{key}@{day}" for key in made.keys for day in _day_keys(made.when)
        )
    made.alone = made.alone or not made.keys
    return made


def is_of_a_visit(document: Mapping[str, Any]) -> bool:
    """Say whether a Condition is what a visit found, and on no list of problems."""
    kinds = {code for _, code in codes(document.get("category"))}
    return "encounter-diagnosis" in kinds and not kinds & {"problem-list-item", "health-concern"}


def _site(sites: Iterable[str]) -> frozenset[str]:
    """Return the words of one body site; several, or none, say nothing that could contradict."""
    told = [bare(one) for one in sites if bare(one)]
    return frozenset(told[0].split()) - _BODY if len(told) == 1 else frozenset()


def _first(document: Mapping[str, Any], *fields: str) -> Moment | None:
    for field in fields:
        found = moment_of(document.get(field)) if field in document else None
        if found is not None and found.start is not None:
            return found
    return None


def _end(document: Mapping[str, Any], *fields: str) -> Moment | None:
    for field in fields:
        value = document.get(field)
        said = string(value) if isinstance(value, str) else string(mapping(value).get("end"))
        if said and (found := moment(said)).start is not None:
            return found
    return None


def _event(
    record: Record, document: Mapping[str, Any], kind: str, about: Concept, when: Moment | None
) -> Trait:
    made = Trait(record, kind, codes=about.codes, names=about.names, when=when)
    made.alone = _mistaken(document)
    made.ids = identifiers(document)
    keys = _concept_keys(kind, about)
    made.keys = tuple(f"{key}@{day}" for key in keys for day in _day_keys(when))
    return made


_RESULT_TIMES = ("effectiveDateTime", "effectiveInstant", "effectivePeriod", "effectiveTiming")


def _result(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    when = _first(document, *_RESULT_TIMES)
    made = _event(record, document, "result", concept(document.get("code")), when)
    made.value = _value(document)
    told = repr(made.value)  # only equal values meet, save by the laboratory's own number
    made.keys = tuple(f"{key}={told}" for key in made.keys)
    if string(document.get("status")) == "cancelled":
        made.state = "cancelled"
    site = concept_words(document.get("bodySite"))
    specimen = string(mapping(document.get("specimen")).get("display"))
    made.place = bare(specimen)
    made.side = side(site)
    made.site = _site([site])
    return made


def _value(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return value[x] and the parts of an Observation in a comparable form; () for none."""
    own = _one_value(document)
    parts = []
    for part in mappings(document.get("component")):
        about = concept(part.get("code"))
        name = min((code for _, code in about.pairs), default=min(about.names, default=""))
        parts.append((name, _one_value(part)))
    return (own, tuple(sorted(parts, key=repr))) if own or parts else ()


_UNITS: Final = {
    "k/ul": "10*3/ul", "thou/ul": "10*3/ul", "x10*3/ul": "10*3/ul", "x10e3/ul": "10*3/ul",
    "10e3/ul": "10*3/ul", "10*9/l": "10*3/ul", "x10*9/l": "10*3/ul", "10e9/l": "10*3/ul",
    "m/ul": "10*6/ul", "x10*6/ul": "10*6/ul", "10*12/l": "10*6/ul", "x10*12/l": "10*6/ul",
    "mmhg": "mm[hg]", "beats/min": "/min", "beats/minute": "/min", "bpm": "/min",
    "{beats}/min": "/min", "breaths/min": "/min", "breaths/minute": "/min", "mcg": "ug",
    "mcg/l": "ug/l", "mcg/dl": "ug/dl", "iu/l": "[iu]/l", "miu/l": "m[iu]/l", "kgs": "kg",
    "lbs": "[lb_av]", "lb": "[lb_av]", "inches": "[in_i]", "in": "[in_i]", "percent": "%",
    "degc": "cel", "c": "cel", "degf": "[degf]", "f": "[degf]", "kg/m^2": "kg/m2",
}  # fmt: skip


@lru_cache(maxsize=2048)
def unit(said: str) -> str:
    """Return one spelling of a unit; no unit becomes another one."""
    plain = said.casefold().replace(" ", "").replace("µ", "u").replace("μ", "u").replace("^", "*")
    return _UNITS.get(plain, plain)


def _one_value(document: Mapping[str, Any]) -> tuple[Any, ...]:
    quantity = mapping(document.get("valueQuantity"))
    if quantity:
        return _amount(quantity)
    coded = document.get("valueCodeableConcept")
    if coded is not None:
        about = concept(coded)
        return ("code", min(about.pairs, default=()) or min(about.names, default=""))
    for field, value in document.items():
        if field.startswith("value"):
            return (field, _plain_value(value))
    absent = document.get("dataAbsentReason")
    return ("absent", concept_words(absent)) if absent is not None else ()


def _amount(quantity: Mapping[str, Any]) -> tuple[Any, ...]:
    digits = string(quantity.get("value"))
    figure = number(quantity.get("value"))
    if figure is None:
        return ("text", digits, string(quantity.get("unit")))
    said = string(quantity.get("code")) or string(quantity.get("unit"))
    exact = f"{Decimal(digits).normalize()}"
    return ("amount", string(quantity.get("comparator")), exact, unit(said))


def _plain_value(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(words(value)) or value
    if isinstance(value, dict):
        return tuple(sorted((key, _plain_value(one)) for key, one in value.items()))
    if isinstance(value, list):
        return tuple(_plain_value(one) for one in value)
    return str(value)


def _report(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    when = _first(document, "effectiveDateTime", "effectivePeriod", "issued")
    made = _event(record, document, "report", concept(document.get("code")), when)
    made.value = tuple(words(string(document.get("conclusion"))))
    return made


def _vaccine(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    when = _first(document, "occurrenceDateTime", "date")
    made = _event(record, document, "vaccine", concept(document.get("vaccineCode")), when)
    refused = document.get("wasNotGiven") is True or document.get("status") == "not-done"
    made.state = "not done" if refused else ""
    made.lot = "".join(words(string(document.get("lotNumber"))))
    groups = vaccine_groups((made.codes or {}).get(CVX, frozenset()))
    made.keys += tuple(f"vaccine|~{group}@{day}" for group in groups for day in _day_keys(when))
    return made


# CVX codes "unspecified formulation" and what they may stand for (CDC, in the public domain). A
# combined vaccine is never one of them: it is another injection than the one with a single part.
_UNSPECIFIED: Final[Mapping[str, str]] = {
    "88": "15 16 111 135 140 141 144 149 150 151 153 155 158 161 166 168 171 185 186 197 205 231",
    "213": "207 208 210 211 212 217 218 219 221 228 229 230 300 301 302 308 309 310 311 312 313",
    "45": "8 42 43 44 189 220",
    "85": "31 52 83 84",
    "107": "20 106",
    "139": "9 113 196",
    "109": "33 133 152 215 216",
    "152": "100 133 215 216",
    "137": "62 118 165",
    "122": "74 116 119",
    "188": "121 187",
    "17": "46 47 48 49",
    "89": "2 10",
}


def vaccine_groups(found: frozenset[str]) -> frozenset[str]:
    """Return the unspecified CVX codes that these codes are, or belong to."""
    return frozenset(
        group for group, inside in _UNSPECIFIED.items() if found & {group, *inside.split()}
    )


def _procedure(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    when = _first(document, "performedDateTime", "performedPeriod", "occurrenceDateTime",
                  "occurrencePeriod")  # fmt: skip
    about = concept(document.get("code"))
    made = _event(record, document, "procedure", about, when)
    status = string(document.get("status"))
    made.state = {"completed": "done", "not-done": "not done", "": "done"}.get(status, "not yet")
    sites = [concept_words(one) for one in listing(document.get("bodySite"))]
    made.side = side(about.text, *about.shown[:2], *sites)
    made.finer = finer(about.text, *about.shown[:2])
    made.site = _site(sites)
    return made


def _visit(record: Record, document: Mapping[str, Any], book: Book) -> Trait:
    period = document.get("period") or document.get("actualPeriod")
    when = moment_of(period)
    about = concept(*listing(document.get("type")))
    made = _event(record, document, "visit", about, when)
    kind = mapping(document.get("class"))
    said = string(kind.get("code")) or string(document.get("class"))
    made.state = said.upper()
    place = book.name(record, document.get("serviceProvider"))
    rooms = [mapping(one).get("location") for one in listing(document.get("location"))]
    made.place = bare(place) or bare(" ".join(book.name(record, one) for one in rooms))
    made.until = _end(document, "period", "actualPeriod")
    if when is not None and when.precision >= 5 and when.start is not None:
        made.keys = (*made.keys, f"visit|{when.start // 60_000}")
    return made


def _paper(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    when = _first(document, "date", "created", "indexed")
    about = concept(document.get("type"))
    made = Trait(record, "document", codes=about.codes, names=about.names, when=when)
    made.alone = _mistaken(document)
    made.ids = identifiers(document, "identifier", "masterIdentifier")
    marks = []
    for one in at(document, "content.attachment"):
        attachment = mapping(one)
        data, hash_ = attachment.get("data"), string(attachment.get("hash"))
        if isinstance(data, str) and len(data) > 16:
            marks.append(sha256("".join(data.split()).encode()).hexdigest()[:32])
        elif len(hash_) > 20:
            marks.append(hash_)
    made.value = tuple(sorted(marks))
    made.keys = tuple(f"document|{mark}" for mark in marks)
    return made


def person(document: Mapping[str, Any]) -> Person:
    """Return names, birth date and reach of a Patient or professional."""
    found = []
    for name in mappings(document.get("name")):
        given = tuple(word for one in listing(name.get("given")) for word in words(string(one)))
        family = words(string(name.get("family")))
        if not family and not given:
            *given_words, last = words(string(name.get("text"))) or ("",)
            given, family = tuple(given_words), (last,)
        found.append((given, family))
    born = string(document.get("birthDate"))
    return Person(tuple(dict.fromkeys(found)), born, _reach(document))


def _reach(document: Mapping[str, Any]) -> frozenset[str]:
    """Return telephone, mail and address in bare words."""
    found = {
        "".join(words(string(one.get("value"))))
        for one in mappings(document.get("telecom"))
        if string(one.get("system")) in ("phone", "email", "")
    }
    address = " ".join(words(address_words(document.get("address"))))
    return frozenset((found | {address}) - {""})


def _somebody(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    kind = "patient" if record.type == "Patient" else "professional"
    made = Trait(record, kind, ids=identifiers(document), person=person(document))
    whom = made.person or Person(())
    surnames = {family[-1] for _, family in whom.names if family}
    made.keys = tuple(f"{kind}|{name}" for name in surnames)
    if kind == "professional":  # a name alone joins nobody
        made.keys = tuple(f"{key}|{way}" for key in made.keys for way in whom.reach)
    return made


def _organization(record: Record, document: Mapping[str, Any], book: Book) -> Trait:  # noqa: ARG001
    name = " ".join(words(string(document.get("name"))))
    made = Trait(record, record.type.casefold(), ids=identifiers(document))
    made.person = Person((), "", _reach(document))
    made.names = frozenset({name} - {""})
    made.keys = tuple(f"{made.kind}|{name}|{way}" for way in made.person.reach) if name else ()
    return made


_READERS: Final[Mapping[str, Callable[[Record, Mapping[str, Any], Book], Trait]]] = {
    "AllergyIntolerance": _allergy,
    "Condition": _problem,
    "DiagnosticReport": _report,
    "DocumentReference": _paper,
    "Encounter": _visit,
    "Immunization": _vaccine,
    "Location": _organization,
    "MedicationAdministration": _medicine,
    "MedicationDispense": _medicine,
    "MedicationOrder": _medicine,
    "MedicationRequest": _medicine,
    "MedicationStatement": _medicine,
    "Observation": _result,
    "Organization": _organization,
    "Patient": _somebody,
    "Practitioner": _somebody,
    "Procedure": _procedure,
}
JOINED: Final = tuple(_READERS)  # the types whose records may become one entry


def telling(record: Record) -> str:
    """Return the remote id where it names one thing in the world, else ""."""
    return record.remote_id if len(record.remote_id) >= _TELLING else ""


def by_itself(record: Record) -> Trait | None:
    """Return what a record is about where no other record is needed to know it, else None."""
    document = record.document
    points = record.type == "Encounter" or (
        record.type.startswith("Medication")
        and ("medicationCodeableConcept" not in document or "medicationReference" in document)
    )
    return None if points else trait(record, _NO_BOOK)


_NO_BOOK: Final = Book(())


def traits(
    records: Iterable[Record], book: Book, known: Mapping[int, Trait] | None = None
) -> list[Trait]:
    """Return the traits of records that may be joined, in the order of their pk.

    `known` are traits that were read before, by the pk of the very record.
    """
    ordered = sorted(records, key=lambda one: one.pk)
    read = {} if known is None else known
    made = ((read.get(one.pk) or trait(one, book)) for one in ordered)
    return [found for found in made if found is not None]
