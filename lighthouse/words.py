"""Words as people type them and as lists print them, brought to one form for search."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files

from lighthouse.repair import STATE_CODES, STATES

GENERIC = frozenset(
    {
        "hospital", "health", "care", "clinic", "center", "medical", "system", "group",
        "associates", "physicians", "services", "medicine", "practice", "partners", "network",
        "family", "of", "and", "the", "for", "at", "in", "on", "by", "an", "doctor", "doctors",
        "company", "corporation", "foundation", "institute", "office",
    }
)  # fmt: skip
DROPPED = frozenset(
    {"inc", "llc", "llp", "pllc", "pc", "pa", "psc", "ltd", "corp", "co", "dba", "the"}
)
_SAME = {
    "st": "saint", "ste": "sainte", "mt": "mount", "ft": "fort", "univ": "university",
    "ctr": "center", "cntr": "center", "cntre": "center", "centre": "center", "centers": "center",
    "hosp": "hospital", "hospitals": "hospital", "med": "medical", "assoc": "associates",
    "associate": "associates", "assocs": "associates", "grp": "group", "svc": "services",
    "svcs": "services", "service": "services", "childrens": "children", "child": "children",
    "womens": "women", "woman": "women", "womans": "women", "mens": "men", "hlth": "health",
    "peds": "pediatric", "pediatrics": "pediatric", "paediatric": "pediatric", "ped": "pediatric",
    "ortho": "orthopedic", "orthopaedic": "orthopedic", "orthopaedics": "orthopedic",
    "orthopedics": "orthopedic", "derm": "dermatology", "cardio": "cardiology",
    "rehabilitation": "rehab", "comm": "community", "mem": "memorial", "meml": "memorial",
    "reg": "regional", "regl": "regional", "natl": "national", "intl": "international",
    "clinics": "clinic", "systems": "system", "physician": "physicians",
    "specialists": "specialist",
    "pediatrician": "pediatric", "pediatricians": "pediatric", "dermatologist": "dermatology",
    "cardiologist": "cardiology", "cardiologists": "cardiology", "urologist": "urology",
    "neurologist": "neurology", "oncologist": "oncology", "orthopedist": "orthopedic",
    "doc": "doctor", "labs": "lab", "laboratory": "lab",
    "laboratories": "lab", "instit": "institute", "inst": "institute",
    "phys": "physicians", "surg": "surgery", "surgical": "surgery", "surgeons": "surgery",
    "int": "internal", "fam": "family", "prac": "practice", "hlthcare": "health",
    "dr": "doctor", "drs": "doctor", "amer": "american", "gen": "general",
    "presby": "presbyterian", "meth": "methodist", "bapt": "baptist",
}  # fmt: skip
_CHATTER = re.compile(
    r"\b(?:my doctor is at|my doctor|i go to|login|log in|sign in|patient portal|portal|mychart|"
    r"my chart|website|near me|online|(?:my )?(?:medical |health )?records?|account|"
    r"(?:my )?(?:test|lab) results|"
    r"(?:how|where|what) (?:do|can|is|are|to)(?: i| you| we| my)?(?: find| see| get)?|"
    r"(?:i am |i'm )?looking for|i (?:want|need|would like)(?: to)?|can i|could you|show me|"
    r"(?:owned|run) by|part of|please|thanks|thank you)\b"
)
_AROUND = re.compile(
    r"^(?:\s*\b(?:for|at|the|to|from|with|of)\b)+|(?:\b(?:for|at|in|to|from)\b\s*)+$"
)
_DOMAIN = re.compile(
    r"\b(?:https?://)?(?:www\.)?([a-z0-9-]+(?:\.[a-z0-9-]+)*)\.(?:org|com|net|edu|gov)\b"
)
_WORD = re.compile(r"[a-z0-9]+")
_STATE_NAMES = tuple(sorted(STATE_CODES, key=lambda name: (-len(name), name)))
# In small letters these are words, titles or company forms rather than states.
_WORDS_FIRST = frozenset(
    ["al", "co", "de", "do", "hi", "id", "in", "la", "ma", "md", "me", "ok", "or", "pa"]
)
STATE_NAMES = {
    code.lower(): name for name, code in STATE_CODES.items() if code.lower() not in _WORDS_FIRST
}
COMPASS = {
    "n": "north", "no": "north", "s": "south", "so": "south", "e": "east", "w": "west",
    "nw": "northwest", "ne": "northeast", "sw": "southwest", "se": "southeast",
}  # fmt: skip
ZIP = re.compile(r"\b\d{5}\b")
SHORT_ZIP = re.compile(r"\s*[1-9]\d{3}\s*")  # the leading zero was left out


def plain(text: str) -> str:
    """Return lower-case ASCII with possessives closed, initials joined and `&` spelt out."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    folded = text.lower()
    if "&" in folded:
        folded = folded.replace("&", " and ")
    if "'" in folded:
        folded = folded.replace("'s", "s").replace("s'", "s").replace("'", "")
    if "." in folded:
        folded = _INITIALS.sub(lambda found: found[0].replace(".", "") + " ", folded)
    return folded


_INITIALS = re.compile(r"\b(?:[a-z]\.){2,}")


@lru_cache(maxsize=4096)
def split(text: str) -> tuple[str, ...]:
    """Return the words of a text as they stand there, in `plain` letters."""
    return tuple(_WORD.findall(plain(text)))


def split_all(texts: Sequence[str]) -> list[list[str]]:
    """Return for each text what `split` does. All are folded at once: 100,000 calls are slow."""
    lines = "\n".join([text.replace("\n", " ") if "\n" in text else text for text in texts])
    return [line.split() for line in plain(lines).translate(_BLANKS).split("\n")] if texts else []


_BLANKS = {at: " " for at in range(128) if not _WORD.match(chr(at)) and chr(at) != "\n"}


@lru_cache(maxsize=65536)
def tokens(text: str) -> tuple[str, ...]:
    """Return the words of a name or query in their common form, company forms left out."""
    return tuple(normal_forms(split(text)))


def normal_forms(split_words: Iterable[str]) -> list[str]:
    """Return the words that `split` gave in their common form, company forms left out."""
    same = _SAME.get
    found = [same(word, word) for word in split_words if word not in DROPPED]
    while "healthcare" in found:
        at = found.index("healthcare")
        found[at : at + 1] = ["health", "care"]
    return found if _OBGYN.isdisjoint(found) else _with_obgyn(found)


_OBGYN = frozenset(
    [
        "ob", "gyn", "obgyn", "obs", "obstetrics", "obstetric", "obstetrical", "obstetrician",
        "obstetricians", "gynecology", "gynecologic", "gynecological", "gynecologist",
        "gynecologists", "gynaecology",
    ]
)  # fmt: skip
# What a slip must be compared with, because the vocabulary holds only the common form.
FAR_FORMS = {
    word: normal
    for word, normal in (_SAME | dict.fromkeys(_OBGYN, "obgyn")).items()
    if len(word) >= 8 and (len(word) - len(normal) > 2 or word[:4] != normal[:4])
}


def _with_obgyn(found: list[str]) -> list[str]:
    """Write "OB/GYN", "Gynecology & Obstetrics" and "obgyn" alike."""
    same: list[str] = []
    for word in found:
        if word in _OBGYN:
            while same and same[-1] in ("and", "obgyn"):
                same.pop()
        same.append("obgyn" if word in _OBGYN else word)
    return same


def squash(text: str) -> str:
    """Return the letters and digits of a text's words in one run."""
    return "".join(word for word in tokens(text) if word != "and")


def query_text(typed: str) -> str:
    """Drop what people type around a name ("mychart login for …") and open up web addresses."""
    text = _DOMAIN.sub(_opened, typed.lower())
    shorter = _AROUND.sub(" ", " ".join(_CHATTER.sub(" ", text).split()))
    return shorter if _WORD.search(shorter) else typed


_DESK = frozenset(
    [
        "www",
        "my",
        "mychart",
        "portal",
        "patient",
        "patients",
        "login",
        "secure",
        "m",
        "epic",
        "fhir",
    ]
)


def _opened(found: re.Match[str]) -> str:
    """Return the words of a web address, without the desks that every hospital has."""
    labels = found[1].split(".")
    telling = [label for label in labels[:-1] if label not in _DESK] + labels[-1:]
    return " ".join(telling).replace("-", " ")


def is_desk(name: str) -> bool:
    """Say whether a portal's name tells nothing ("MyChart"): every other hospital has one."""
    return not _WORD.search(_CHATTER.sub(" ", name.lower()))


def states_in(text: str) -> dict[str, str]:
    """Return {state code: the words that name it} for US states spelt out, as capitals, or last."""
    folded = f" {' '.join(_WORD.findall(plain(text)))} "
    found: dict[str, str] = {}
    for name in _STATE_NAMES:
        if f" {name} " in folded and not any(name in longer for longer in found.values()):
            found[STATE_CODES[name]] = name
    for word in re.findall(r"\b[A-Z]{2}\b", text):
        if word in STATES:
            found.setdefault(word, word.lower())
    *before, last = folded.split() or [""]
    if len(before) >= 2 and last in STATE_NAMES:
        found.setdefault(last.upper(), last)
    return found


SMALL = frozenset(["of", "and", "the", "for", "at", "in", "on", "by", "an", "a", "to", "de"])


def acronyms(name: str) -> set[str]:
    """Return the initials a name may go by, with and without small words, "(CHOC)" included."""
    if "(" not in name:
        return initials(split(name))
    printed = {found.lower() for found in _PRINTED.findall(name)}
    return printed | initials(split(_BRACKETS.sub(" ", name)))


def initials(split_words: Iterable[str]) -> set[str]:
    """Return the initials that the words of a name without brackets may go by."""
    words = [word for word in split_words if word not in _COMPANY]
    if len(words) < 2:
        return {"hc"} if words == ["healthcare"] else set()
    short = "".join([word[0] for word in words[:9]])
    if SMALL.isdisjoint(words) and "healthcare" not in words:  # most names
        return {short} if len(short) <= 7 else set()
    found = {short}
    chosen = [words]
    if not SMALL.isdisjoint(words):
        chosen.append([word for word in words if word not in SMALL])
        found.add("".join([word[0] for word in chosen[1][:9]]))
    if "healthcare" in words:
        found |= {
            "".join(["hc" if word == "healthcare" else word[0] for word in some[:9]])
            for some in chosen
        }
    return {text for text in found if 2 <= len(text) <= 7}


_COMPANY = DROPPED - {"the"}
_PRINTED = re.compile(r"\(([A-Z]{2,7})\)")
_BRACKETS = re.compile(r"\(.*?\)")


# --------------------------------------------------------------------------- nicknames, countries

COUNTRIES = {
    "AT": "austria", "AU": "australia", "BM": "bermuda", "CA": "canada", "CH": "switzerland",
    "DE": "germany", "DK": "denmark", "FI": "finland", "FR": "france",
    "GB": "united kingdom england britain uk", "KY": "cayman islands", "NL": "netherlands",
    "NO": "norway", "SE": "sweden",
}  # fmt: skip


@cache
def nicknames() -> Mapping[tuple[str, ...], tuple[str, ...]]:
    """Return {words of a nickname: the names meant}, from the reviewed list of this project."""
    kept = files("lighthouse").joinpath("data/nicknames.tsv").read_text(encoding="utf-8")
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line in kept.splitlines():
        if line and not line.startswith("#"):
            typed, _, meant = line.partition("\t")
            found[tokens(typed)] = tuple(name.strip() for name in meant.split("|"))
    return found


@cache
def of_nicknames() -> frozenset[str]:
    """Return every word of the nicknames."""
    return frozenset(word for run in nicknames() for word in run)


def begun(typed: Sequence[str]) -> tuple[str, ...]:
    """Return what a nickname means whose first two or more words were typed, if it is one thing."""
    size = len(typed)
    if size < 2:
        return ()
    *whole, last = typed
    found = {
        names
        for run, names in nicknames().items()
        if list(run[: size - 1]) == whole and len(run) >= size and run[size - 1].startswith(last)
    }
    return found.pop() if len(found) == 1 else ()


def meant(typed: Sequence[str]) -> list[tuple[str, bool]]:
    """Return what a query may mean, its longest nickname replaced, and whether it was all of it.

    Two letters among other words are more often a state or initials than a nickname.
    """
    known = nicknames()
    for size in range(min(len(typed), 4), 0, -1):
        for at in range(len(typed) - size + 1):
            run = tuple(typed[at : at + size])
            whole = size == len(typed)
            if run in known and (whole or len("".join(run)) > 2):
                before, after = " ".join(typed[:at]), " ".join(typed[at + size :])
                return [(f"{before} {name} {after}".strip(), whole) for name in known[run]]
    return []
