"""Words as people type them and as lists print them, brought to one form for search."""

import re
import unicodedata

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
    "dr": "doctor", "drs": "doctor", "amer": "american", "gen": "general",
    "presby": "presbyterian", "meth": "methodist", "bapt": "baptist",
}  # fmt: skip
_CHATTER = re.compile(
    r"\b(?:my doctor is at|my doctor|i go to|login|log in|sign in|patient portal|portal|mychart|"
    r"my chart|website|near me|online|records?|account)\b"
)
_DOMAIN = re.compile(
    r"\b(?:https?://)?(?:www\.)?([a-z0-9-]+(?:\.[a-z0-9-]+)*)\.(?:org|com|net|edu|gov)\b"
)
_WORD = re.compile(r"[a-z0-9]+")
_STATE_NAMES = tuple(sorted(STATE_CODES, key=lambda name: (-len(name), name)))
ZIP = re.compile(r"\b\d{5}\b")


def plain(text: str) -> str:
    """Return lower-case ASCII with possessives closed, initials joined and `&` spelt out."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    folded = folded.replace("&", " and ").replace("'s", "s").replace("s'", "s").replace("'", "")
    return re.sub(r"\b(?:[a-z]\.){2,}", lambda found: found[0].replace(".", "") + " ", folded)


def tokens(text: str) -> list[str]:
    """Return the words of a name or query in their common form, company forms left out."""
    found = []
    for word in _WORD.findall(plain(text)):
        if word == "healthcare":
            found += ["health", "care"]
        elif word not in DROPPED:
            found.append(_SAME.get(word, word))
    return found


def squash(text: str) -> str:
    """Return the letters and digits of a text's words in one run."""
    return "".join(word for word in tokens(text) if word != "and")


def query_text(typed: str) -> str:
    """Drop what people type around a name ("mychart login for …") and open up web addresses."""
    text = _DOMAIN.sub(lambda found: found[1].replace(".", " ").replace("-", " "), typed.lower())
    shorter = _CHATTER.sub(" ", text)
    shorter = re.sub(r"^\s*(?:for|at|the|to)\b|\b(?:for|at|in|to)\s*$", " ", shorter)
    return shorter if _WORD.search(shorter) else typed


def states_in(text: str) -> dict[str, str]:
    """Return {state code: the words that name it} for US states spelt out or as capitals."""
    folded = f" {' '.join(_WORD.findall(plain(text)))} "
    found: dict[str, str] = {}
    for name in _STATE_NAMES:
        if f" {name} " in folded and not any(name in longer for longer in found.values()):
            found[STATE_CODES[name]] = name
    for word in re.findall(r"\b[A-Z]{2}\b", text):
        if word in STATES:
            found.setdefault(word, word.lower())
    return found


_STOP = frozenset(["of", "and", "the", "for", "at", "in", "on", "by", "an", "a", "to", "de"])


def acronyms(name: str) -> set[str]:
    """Return the initials a name may go by, with and without small words, "(CHOC)" included."""
    words = _WORD.findall(plain(re.sub(r"\(.*?\)", " ", name)))
    words = [word for word in words if word not in DROPPED or word == "the"]
    found = {printed.lower() for printed in re.findall(r"\(([A-Z]{2,7})\)", name)}
    strong = [word for word in words if word not in _STOP]
    for chosen in (words, strong):
        split = [part for word in chosen for part in _parts(word)]
        for series in (chosen, split):
            if 2 <= len(series) <= 8:
                found.add("".join(part[0] for part in series))
    return {text for text in found if 2 <= len(text) <= 7}


def _parts(word: str) -> list[str]:
    return ["health", "care"] if word == "healthcare" else [word]
