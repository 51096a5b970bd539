"""Repairs published names, addresses and URLs, and says which defect each one had.

Every URL in a list is hostile input: `endpoint_key` refuses what must never be requested
(`spec` of the catalogue: not https, private or loopback hosts, IP literals, white space in a host).
"""

import html
import ipaddress
import re
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import urlsplit

STATES = {
    "AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California",
    "CO": "Colorado", "CT": "Connecticut", "DE": "Delaware", "DC": "District of Columbia",
    "FL": "Florida", "GA": "Georgia", "HI": "Hawaii", "ID": "Idaho", "IL": "Illinois",
    "IN": "Indiana", "IA": "Iowa", "KS": "Kansas", "KY": "Kentucky", "LA": "Louisiana",
    "ME": "Maine", "MD": "Maryland", "MA": "Massachusetts", "MI": "Michigan", "MN": "Minnesota",
    "MS": "Mississippi", "MO": "Missouri", "MT": "Montana", "NE": "Nebraska", "NV": "Nevada",
    "NH": "New Hampshire", "NJ": "New Jersey", "NM": "New Mexico", "NY": "New York",
    "NC": "North Carolina", "ND": "North Dakota", "OH": "Ohio", "OK": "Oklahoma", "OR": "Oregon",
    "PA": "Pennsylvania", "RI": "Rhode Island", "SC": "South Carolina", "SD": "South Dakota",
    "TN": "Tennessee", "TX": "Texas", "UT": "Utah", "VT": "Vermont", "VA": "Virginia",
    "WA": "Washington", "WV": "West Virginia", "WI": "Wisconsin", "WY": "Wyoming",
    "PR": "Puerto Rico", "GU": "Guam", "VI": "Virgin Islands", "AS": "American Samoa",
    "MP": "Northern Mariana Islands",
}  # fmt: skip
STATE_CODES = {name.casefold(): code for code, name in STATES.items()}

_ZERO_WIDTH = re.compile("[\u200b-\u200f\u2028-\u202e\u2060\ufeff]")
_SPACES = re.compile(r"\s+")
_STATE_PREFIX = re.compile(r"^([A-Z]{2})\s*-\s+(?=\S)")
_INTERNAL = (
    re.compile(r"\s*-\s*(?:PROD(?:UCTION)?|PRD|LV\d+|LIVE)\b\.?$", re.IGNORECASE),
    re.compile(r"\s+(?:PROD|PRD)$"),
    re.compile(r"\s+-\s+[A-Z]{2,3}\d{1,2}$"),
    re.compile(r"\s*\(Hosted by [^)]*\)", re.IGNORECASE),
    re.compile(r"\s*-?\s*MaaS Pod [\d ]+", re.IGNORECASE),
    re.compile(r"\s*\*+\s*MASTER SITE\s*\*+", re.IGNORECASE),
    re.compile(r"\s*<[A-Z]{2,4}>"),
)
_PLACEHOLDERS = {
    "na",
    "n/a",
    "none",
    "null",
    "abc",
    "test",
    "unknown",
    "tbd",
    "xxx",
    "-",
    ".",
    "tw",
    "clinic",
}
_ID_NAME = re.compile(
    r"^(?:[A-Z]{2}-?)?[\d-]{3,}(?:-?[A-Z])?$|^[0-9a-f]{8}-[0-9a-f-]{20,}$", re.IGNORECASE
)
_MACHINE_NAME = re.compile(r"^[A-Z0-9]+(?:[-_][A-Z0-9]+)+$|^TW(?:-|$)", re.IGNORECASE)
_PERSON = re.compile(
    r",?\s+(?:M\.?D|D\.?O|N\.?P|D\.?P\.?M|Ph\.?D|D\.?D\.?S|D\.?C|O\.?D)\.?(?:,|\s|$)", re.IGNORECASE
)
_TEST = re.compile(
    r"\b(?:test(?:ing)?|demo|sandbox|dummy|fake\w*|qa|uat|sample|training|dev(?:elopment)?|staging)\b",
    re.IGNORECASE,
)
# Real places that only look like test entries (about one in eleven of the rule's hits).
_NOT_TEST = re.compile(
    r"psychological testing|training station|sample family|testing center|lab testing|"
    r"genetic test|allergy test|training institute|training center|drug test",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Repaired:
    """A repaired name: what to show, what it hid (state, notes), and the defects that were met."""

    name: str
    state: str = ""
    notes: list[str] = field(default_factory=list)
    defects: set[str] = field(default_factory=set)


def name(published: str) -> Repaired:
    """Repair a published organisation name; the published text stays known as an alias."""
    found = Repaired("")
    text = published
    if "&" in text and html.unescape(text) != text:
        found.defects.add("N-html-entity")
        text = html.unescape(text)
    if "\ufffd" in text:
        found.defects.add("N-mojibake")
        text = text.replace("s\ufffds", "s's").replace("\ufffds", "'s").replace("\ufffd", "")
    text = _ZERO_WIDTH.sub("", unicodedata.normalize("NFC", text))
    if _SPACES.sub(" ", text).strip() != text:
        found.defects.add("N-whitespace")
        text = _SPACES.sub(" ", text).strip()
    text = _split_state(text, found)
    text = _strip_internal(text, found)
    text = text.strip(" \"',;")
    _judge(text, found)
    found.name = _calm_capitals(text) if "N-all-caps" in found.defects else text
    return found


def _split_state(text: str, found: Repaired) -> str:
    match = _STATE_PREFIX.match(text)
    if match and match[1] in STATES:
        found.defects.add("N-state-prefix")
        found.state = match[1]
        return text[match.end() :]
    return text


def _strip_internal(text: str, found: Repaired) -> str:
    for pattern in _INTERNAL:
        shorter = pattern.sub("", text)
        if shorter != text and shorter.strip(" -"):
            found.defects.add("N-internal-suffix")
            found.notes.append(text[len(shorter) :].strip(" -") or text)
            text = shorter
    return text


def _judge(text: str, found: Repaired) -> None:
    key = text.casefold()
    if not text:
        found.defects.add("N-missing")
        return
    if key in _PLACEHOLDERS:
        found.defects.add("N-placeholder")
    if _ID_NAME.match(text):
        found.defects.add("N-is-an-id")
    if len(re.sub(r"[^A-Za-z]", "", text)) < 3 or (
        _MACHINE_NAME.match(text) and any(map(str.isdigit, text))
    ):
        found.defects.add("N-too-short")
    if len(text) > 4 and text.isupper():
        found.defects.add("N-all-caps")
    if _PERSON.search(text):
        found.defects.add("N-a-person")
    if is_test(text):
        found.defects.add("N-test-entry")


def is_test(text: str) -> bool:
    """Say whether a name looks like a test entry. Such entries are hidden, never deleted."""
    return bool(_TEST.search(text)) and not _NOT_TEST.search(text)


_SMALL = {"of", "and", "the", "for", "in", "at", "on", "by", "a", "an", "to", "de", "la", "del"}
_UPPER = {
    "MD", "DO", "PC", "PA", "LLC", "LLP", "PLLC", "PLC", "INC", "DBA", "ENT", "OB", "GYN", "OBGYN",
    "UC", "UCLA", "USA", "US", "VA", "NY", "NYU", "II", "III", "IV", "PT", "OT", "DPM", "DDS", "NP",
}  # fmt: skip


def _calm_capitals(text: str) -> str:
    """Write SHOUTED NAMES in title case; initials and company forms stay as they are."""
    words = []
    for number, word in enumerate(text.split(" ")):
        bare = re.sub(r"[^A-Z]", "", word)
        if bare in _UPPER or len(bare) <= 1 or "." in word[:-1]:
            words.append(word)
        elif number and word.casefold() in _SMALL:
            words.append(word.lower())
        else:
            words.append(re.sub(r"[A-Z][A-Z']*", lambda found: found[0].capitalize(), word))
    return " ".join(words)


def zip_code(published: str, country: str = "") -> tuple[str, set[str]]:
    """Return a US ZIP as five digits (other countries' codes untouched) and the defects met."""
    text = published.strip()
    if not text or (country and country.casefold() not in _US):
        return text, set()
    digits = text.replace("-", "").replace(" ", "")
    if re.fullmatch(r"\d{5}(-\d{4})?", text):
        return text[:5], set()
    if re.fullmatch(r"\d{9}", digits) and "-" not in text:
        return digits[:5], {"A-zip9-no-hyphen"}
    if re.fullmatch(r"\d{3,4}", digits):
        return digits.zfill(5), {"A-zip-lost-leading-zero"}
    if re.fullmatch(r"\d{8}", text):  # nine digits whose first was a zero
        return "0" + digits[:4], {"A-zip-lost-leading-zero", "A-zip9-no-hyphen"}
    return "", {"A-zip-malformed"}


_PO_BOX = re.compile(r"\bP\.?\s*O\.?\s*Box\b|\bPost Office Box\b", re.IGNORECASE)
_HOME = re.compile(r"\b(?:apt|apartment|unit|lot|trailer)\b\.?\s*#?\w", re.IGNORECASE)


def street(published: str) -> set[str]:
    """Return the defects of a street line: a box is no place to go to, a flat may be a home."""
    defects = set()
    if _PO_BOX.search(published):
        defects.add("A-po-box")
    if _HOME.search(published):
        defects.add("A-maybe-home-address")
    return defects


_US = {"us", "usa", "united states", "united states of america", "u.s.a.", "u.s."}


def country_code(published: str) -> str:
    """Return ISO 3166-1 alpha-2 for the spellings that lists use; empty stays empty."""
    text = published.strip().casefold()
    if text in _US:
        return "US"
    known = {"canada": "CA", "bermuda": "BM", "cayman islands": "KY", "puerto rico": "PR"}
    return known.get(text, text.upper() if len(text) == 2 else "")


def state_code(published: str) -> str:
    """Return the two-letter code of a US state or territory, or "" where it is none."""
    text = published.strip()
    return text.upper() if text.upper() in STATES else STATE_CODES.get(text.casefold(), "")


def state_at_end(name: str) -> str:
    """Return the state of a name that ends with its place ("… Family Medicine MARGATE FL")."""
    match = re.search(r"[A-Za-z]\s([A-Z]{2})$", name)
    known = match is not None and match[1] in STATES and match[1] not in {"MD", "PA", "DC", "MS"}
    # KY is Kentucky, but also the country code of the Cayman Islands.
    return match[1] if match and known and "cayman" not in name.casefold() else ""


def npi_is_valid(number: str) -> bool:
    """Check the Luhn digit of an NPI over the prefix 80840 (45 CFR 162.406)."""
    if not re.fullmatch(r"\d{10}", number):
        return False
    total = 0
    for place, digit in enumerate(reversed("80840" + number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


# --------------------------------------------------------------------------- addresses of servers

_DOCUMENT = re.compile(
    r"\.(?:html?|json|pdf|xml|xlsx?|csv|txt)$|/index\b|#/|/swagger|/docs?/?$", re.IGNORECASE
)
_RESOURCE = re.compile(r"/(?:Patient|Observation|Practitioner|Organization|Coverage)/?$")
_TEST_HOST = re.compile(
    r"sandbox|(?:^|[.-])(?:test|demo|dev|stage|staging|uat|qa|preprod|sbx)\d*(?=[.-])",
    re.IGNORECASE,
)
_SINGLE_LABEL_TLDS = (
    ".local", ".localhost", ".internal", ".lan", ".localdomain", ".corp", ".home", ".intranet",
)  # fmt: skip


@dataclass(slots=True)
class Address:
    """A published base URL: the spelling to use (`aud` may need it byte for byte) and its key.

    `key` is empty and `refused` says why where it must never be requested.
    """

    published: str
    key: str = ""
    refused: str = ""
    defects: set[str] = field(default_factory=set)


def address(published: str) -> Address:
    """Judge one published URL: normalise it to a key, or refuse it with the reason."""
    found = Address(published.strip())
    _judge_text(published, found)
    text = found.published
    if "U-not-a-url" in found.defects:
        found.refused = found.refused or "not an address"
        return found
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        found.defects.add("U-not-a-url")
        found.refused = "not an address"
        return found
    _judge_parts(text, host, port, found)
    if not found.refused:
        found.key = _key(text)
    return found


def _judge_text(published: str, found: Address) -> None:
    text = published.strip()
    defects = found.defects
    if text != published or re.search(r"\s", text):
        defects.add("U-whitespace")
    if "\\" in text:
        defects.add("U-backslash")
        found.refused = "backslash in the address"
    if len(re.findall(r"https?://", text, re.IGNORECASE)) > 1:
        defects.add("U-several-urls-in-one-field")
        found.refused = "several addresses in one field"
    if "$" in text or re.search(r"[{}<>]", text):
        defects.add("U-template-placeholder")
        found.refused = "a template, not an address"
    if not re.match(r"https?://", text, re.IGNORECASE):
        defects.update({"U-no-scheme", "U-not-a-url"} if "://" in text else {"U-no-scheme"})
        found.refused = "no scheme"
        defects.add("U-not-a-url")
        return
    authority = re.match(r"https?://([^/?#]*)", text, re.IGNORECASE)
    if authority and re.search(r"\s", authority[1]):
        # Splitting here would call another host, trimming would build a wrong name.
        defects.add(
            "U-whitespace-inside-host" if not authority[1][-1:].isspace() else "U-whitespace"
        )
        found.refused = "white space in the host"
    elif re.search(r"\s", text):
        found.refused = "white space in the address"


def _judge_parts(text: str, host: str, port: int | None, found: Address) -> None:
    defects = found.defects
    parts = urlsplit(text)
    if parts.scheme.lower() == "http":
        defects.add("U-plain-http")
        found.refused = found.refused or "not https"
    if parts.username or "@" in parts.netloc:
        found.refused = "user name in the address"
    if parts.netloc != parts.netloc.lower():
        defects.add("U-upper-host")
    if port is not None:
        standard = {"https": 443, "http": 80}[parts.scheme.lower()]
        defects.add("U-default-port-written" if port == standard else "U-odd-port")
    _judge_path(text, found)
    if _TEST_HOST.search(host) or is_test(parts.path.replace("/", " ")):
        defects.add("U-test-or-sandbox")
    _judge_host(host.rstrip("."), found)


def _judge_path(text: str, found: Address) -> None:
    defects, parts = found.defects, urlsplit(text)
    if "//" in parts.path:
        defects.add("U-double-slash")
    if re.search(r"/metadata/?$", parts.path):
        defects.add("U-points-at-metadata")
    if _RESOURCE.search(parts.path):
        defects.add("U-points-at-resource")
        found.refused = found.refused or "a resource, not a server"
    if _DOCUMENT.search(text):
        defects.add("U-is-a-document")
        found.refused = found.refused or "a document, not a server"
    if parts.query or parts.fragment:
        defects.add("U-query-or-fragment")


def _judge_host(host: str, found: Address) -> None:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        if "." not in host or host.endswith(_SINGLE_LABEL_TLDS) or host == "localhost":
            found.defects.add("U-private-host")
            found.refused = found.refused or "a private host"
        elif host.replace(".", "").isdigit() or host.startswith("0x"):
            found.refused = found.refused or "a number instead of a host"
        return
    found.defects.add("U-ip-literal")
    found.refused = found.refused or "an IP address instead of a host"
    if not ip.is_global:
        found.defects.add("U-private-host")


def _key(text: str) -> str:
    """Return what two spellings of one server have in common (path case is significant)."""
    parts = urlsplit(text)
    host = (parts.hostname or "").lower().rstrip(".")
    port = f":{parts.port}" if parts.port not in (None, 443) else ""
    path = re.sub(r"/{2,}", "/", parts.path)
    path = re.sub(r"/metadata/?$", "", path).rstrip("/")
    query = f"?{parts.query}" if parts.query else ""  # some servers choose the practice by it
    return f"https://{host}{port}{path}{query}"


def stated_version(said: str) -> str:
    """Return R4, STU3, DSTU2 or "" for a version as lists write it (`4.0.1`, `dstu2`)."""
    spoken = {"4": "R4", "3": "STU3", "1": "DSTU2", "0": "DSTU2"}.get(said[:1])
    return spoken or (said.upper() if said.upper() in {"R4", "STU3", "DSTU2"} else "")


def version_in(url: str) -> str:
    """Return the version that an address shows (right in 99.96 % of what lists label), or ""."""
    text = url.upper()
    for mark, version in (
        ("DSTU2", "DSTU2"),
        ("ARGONAUT", "DSTU2"),
        ("STU3", "STU3"),
        ("R4", "R4"),
    ):
        if re.search(rf"(?<![A-Z0-9]){mark}(?![0-9])", text) or f"/{mark}" in text:
            return version
    if re.search(r"USCORE|FHIR/4(?![A-Z0-9-])|V4(?=/|$)|FHIR4", text):
        return "R4"
    return "DSTU2" if re.search(r"/R2(?=/|$)", text) else ""  # FHIR Release 2 is DSTU2


def version_in_name(name: str) -> str:
    """Return the version that the name of a list says, or ""."""
    said = set(re.findall(r"DSTU2|STU3|R4", name.upper()))
    return said.pop() if len(said) == 1 else ""
