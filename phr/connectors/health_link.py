"""SMART Health Links of others: reading `shlink:/…`, asking for the manifest, opening the files.

Nothing is kept here and nobody is told who asks. Whatever goes wrong is an InvalidInput whose
sentence says what a person can do about it; a network failure stays a NetError.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from phr import clock, jwt
from phr.bounded import read_object
from phr.errors import InvalidInput, RemoteBroken, TrustError
from phr.http import Answer, Http, Limits

SCHEME: Final = "shlink:/"
LONGEST: Final = 4096  # characters of a link with its viewer
KNOWN_FLAGS: Final = frozenset("LPU")
RECIPIENT: Final = "A personal health record (Homeport)"  # never the name of who asks
FHIR: Final = "application/fhir+json"
CARD: Final = "application/smart-health-card"
MOST_FILES: Final = 20
LIMITS: Final = Limits(size=16 << 20, first_byte=20.0, total=60.0)
MOST_BYTES: Final = 32 << 20  # of all files of one link, opened
NO_LINK: Final = (
    "This is not a health link. It begins with “shlink:/”, sometimes after the address of a viewer."
)
DEAD: Final = (
    "There is nothing behind this health link any more, or it was locked. Ask whoever sent it for a"
    " new one."
)


@dataclass(frozen=True, slots=True)
class Link:
    """What `shlink:/…` says (SHL "Payload")."""

    url: str
    key: bytes = field(repr=False)
    flags: str = ""
    label: str = ""
    ends_at: datetime | None = None

    @property
    def host(self) -> str:
        """The name of the server that it leads to."""
        return urlsplit(self.url).hostname or ""

    @property
    def wants_passcode(self) -> bool:
        """Whether a passcode was agreed."""
        return "P" in self.flags


@dataclass(frozen=True, slots=True)
class File:
    """One opened file: what it is said to be (FHIR or CARD), and its bytes."""

    content_type: str
    body: bytes = field(repr=False)


def is_link(text: str) -> bool:
    """Tell a text that holds a health link from anything else."""
    return SCHEME in text


def read(text: str) -> Link:
    """Read a link as it was pasted or scanned, with or without a viewer in front of it."""
    written = text.strip().rpartition(SCHEME)[2]
    if not is_link(text) or len(text) > LONGEST:
        raise InvalidInput(NO_LINK)
    try:
        said = read_object(_decoded(written))
    except (RemoteBroken, binascii.Error, ValueError):
        raise InvalidInput("This health link is cut off or was altered. Copy all of it.") from None
    link = _link(said)
    odd = set(link.flags) - KNOWN_FLAGS
    if odd or {"P", "U"} <= set(link.flags) or said.get("v", 1) != 1:
        marked = "".join(sorted(odd)) or link.flags
        raise InvalidInput(
            f"This health link needs something that is not known here (“{marked[:8]}”). Nothing was"
            " fetched."
        )
    return link


def _link(said: Mapping[str, Any]) -> Link:
    url, written = said.get("url"), said.get("key")
    flags, label, exp = said.get("flag", ""), said.get("label", ""), said.get("exp")
    texts = (url, written, flags, label)
    ends = isinstance(exp, int | float) and not isinstance(exp, bool) and 0 < exp < 1e11
    if not all(isinstance(each, str) for each in texts) or not (exp is None or ends):
        raise InvalidInput(NO_LINK)
    try:
        key = _decoded(str(written))
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != jwt.KEY_BYTES:
        raise InvalidInput("This health link has no usable key. Copy all of it.")
    at = clock.from_ms(int(exp * 1000)) if isinstance(exp, int | float) else None
    return Link(str(url), key, str(flags), str(label)[:80], at)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def fetch(http: Http, link: Link, passcode: str, *, now: datetime) -> list[File]:
    """Ask for everything behind a link and open it. Raises InvalidInput with what to do next.

    Files that are neither FHIR nor Health Cards are left where they are.
    """
    if link.ends_at is not None and link.ends_at <= now:
        raise InvalidInput(f"This health link ended on {link.ends_at:%d %b %Y}. Ask for a new one.")
    if link.wants_passcode and not passcode:
        raise InvalidInput("This health link needs a passcode. Whoever sent it knows it.")
    if "U" in link.flags:
        return _opened(link, [_direct(http, link)])
    return _opened(link, _listed(http, link, passcode))


def _direct(http: Http, link: Link) -> tuple[str, str]:
    joint = "&" if "?" in link.url else "?"
    answer = http.get(f"{link.url}{joint}recipient={quote(RECIPIENT)}", limits=LIMITS)
    _must_be_there(answer)
    return "", _text(answer)


def _listed(http: Http, link: Link, passcode: str) -> Iterator[tuple[str, str]]:
    """Yield (content type as said, JWE) of each file that a manifest names."""
    asked = {"recipient": RECIPIENT} | ({"passcode": passcode} if passcode else {})
    body = json.dumps(asked).encode()
    headers = {"content-type": "application/json", "accept": "application/json"}
    answer = http.post(link.url, body, headers=headers, limits=LIMITS)
    if answer.status == 401:
        raise InvalidInput(_wrong_passcode(answer))
    _must_be_there(answer)
    try:
        files = read_object(answer.body).get("files")
    except RemoteBroken:
        files = None
    if not isinstance(files, list) or not all(isinstance(each, dict) for each in files):
        raise InvalidInput("The server behind this health link does not keep to the standard.")
    if len(files) > MOST_FILES:
        raise InvalidInput(f"This health link holds more than {MOST_FILES} files.")
    for each in files:
        kind = str(each.get("contentType", "")).partition(";")[0].strip().lower()
        if kind in {FHIR, CARD}:
            yield kind, _sealed(http, each)


def _sealed(http: Http, listed: Mapping[str, Any]) -> str:
    embedded, location = listed.get("embedded"), listed.get("location")
    if isinstance(embedded, str):
        return embedded
    if not isinstance(location, str):
        raise InvalidInput("The server behind this health link does not keep to the standard.")
    answer = http.get(location, limits=LIMITS)
    _must_be_there(answer)
    return _text(answer)


def _opened(link: Link, sealed: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> list[File]:
    found, size = list[File](), 0
    for said, token in sealed:
        try:
            body, kind = jwt.unseal(token, link.key)
        except TrustError:
            raise InvalidInput(
                "A file of this health link could not be opened: it was sealed with another key,"
                " altered on the way, or is too large. Nothing was kept."
            ) from None
        size += len(body)
        if size > MOST_BYTES:
            raise InvalidInput("This health link holds more than is read here. Nothing was kept.")
        kind = said or kind.partition(";")[0].strip().lower()
        if kind in {FHIR, CARD}:
            found.append(File(kind, body))
    if not found:
        raise InvalidInput("This health link holds nothing that can be read here.")
    return found


def _text(answer: Answer) -> str:
    return answer.body.decode("ascii", "replace")


def _must_be_there(answer: Answer) -> None:
    if answer.status in {404, 410}:
        raise InvalidInput(DEAD)
    if answer.status == 429:
        raise InvalidInput("The server behind this link asks to wait. Try again in some minutes.")
    if answer.status != 200:
        raise InvalidInput(
            f"The server behind this health link answered with an error ({answer.status}). Try"
            " again later."
        )


def _wrong_passcode(answer: Answer) -> str:
    try:
        left = read_object(answer.body).get("remainingAttempts")
    except RemoteBroken:
        left = None
    if not isinstance(left, int) or isinstance(left, bool):
        return "That is not the passcode. After a few wrong ones the link locks for good."
    if left <= 0:
        return (
            "That was not the passcode, and no try is left: the link is locked. Ask for a new one."
        )
    tries = "one more try is" if left == 1 else f"{left} more tries are"
    return f"That is not the passcode; {tries} left before the link locks for good."
