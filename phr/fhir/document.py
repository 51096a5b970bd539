"""The only door for FHIR JSON: strict reading, lossless numbers, raw slices of a Bundle.

Bytes are judged before anything is built from them; every refusal is an `InvalidInput` sentence.
Not here: what the fields mean (`reading`), or files too large for memory (`slicing`).
"""

import json
import re
from codecs import getincrementaldecoder
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import starmap
from typing import Any, Final, NamedTuple, Self, overload

import msgspec

from phr.errors import InvalidInput
from phr.fhir import cutting
from phr.told import Fault, Told

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_NUMBER: Final = 40  # characters
MAX_EXPONENT: Final = 30  # powers of ten, either way
MAX_VALUES: Final = 250_000  # of one resource, counted by its commas
MAX_PAGE_VALUES: Final = 1_000_000
BOM: Final = b"\xef\xbb\xbf"
LARGE: Final = 1 << 20  # bytes; what is larger is not held twice
_FEW: Final = 8  # records of a large page that are cut out at once: then the page itself can go

_EXPONENT = re.compile(r"[eE]([+-]?\d+)$")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_KEY = re.compile(
    rb'[ \t\r\n]*,?[ \t\r\n]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL
)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_SPACE = b" \t\r\n"


class TooMuch(InvalidInput):
    """More bytes or parts than are taken in one piece."""


class Malformed(InvalidInput):
    """What no JSON of a record may be."""

    tells = Fault.MALFORMED


class Number(Decimal):
    """A JSON number with a fraction or an exponent; `str()` is exactly what was sent."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        """Take the literal as it stood in the document."""
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        """Return the literal as it stood in the document (`1.10` stays `1.10`)."""
        return self.text


class Item(msgspec.Struct, frozen=True, gc=False):
    """One received resource on its way in: the bytes, where it stood, and its fullUrl if any."""

    body: bytes
    place: str = ""  # for people: "entry 17", "labs.ndjson line 3"
    url: str | None = None

    def __repr__(self) -> str:
        """Name the place, never what it says."""
        return f"Item({self.place!r})"


class Issue(NamedTuple):
    """One issue of an OperationOutcome, or an entry's own error status."""

    severity: str
    code: str
    text: str


_Slice = bytes | msgspec.Raw
_Cut = tuple[_Slice, str, str | None]  # the fields of an Item, its body perhaps still uncut


class Entries(Sequence[Item]):
    """The records of a large page: each is cut out when it is asked for, anew each time.

    Their bytes stand in memory once, in the page as it came, and not beside it too.
    """

    def __init__(self, cuts: Sequence[_Cut]) -> None:
        """Take views into the page."""
        self._cuts = cuts

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._cuts)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        """Cut out one record; of several return those, uncut."""
        found = self._cuts[place]
        return _item(*found) if isinstance(found, tuple) else Entries(found)

    def __iter__(self) -> Iterator[Item]:
        """Cut out one record after the other."""
        return starmap(_item, self._cuts)

    def sizes(self) -> list[int]:
        """Return the bytes of each record."""
        return [len(cut[0]) for cut in self._cuts]


def sizes(items: Sequence[Item]) -> list[int]:
    """Return the bytes of each record of a page, without cutting any out."""
    return items.sizes() if isinstance(items, Entries) else [len(item.body) for item in items]


def _item(body: _Slice, place: str, url: str | None) -> Item:
    return Item(bytes(body), place, url)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a server: raw slices of the resources, and what it said beside them.

    `next` is the link to the following page, `total` what the server claims (either may be None).
    """

    entries: Sequence[Item]
    next: str | None = None
    total: int | None = None
    outcomes: tuple[Issue, ...] = ()


class Field(NamedTuple):
    """One element of the outermost object: its raw bytes and where they begin."""

    start: int
    raw: bytes


# ------------------------------------------------------------------------------------ reading


def loads(body: bytes) -> Mapping[str, Any]:
    """Read one JSON object from strangers, or raise InvalidInput with the reason.

    Refused: more than 64 MB, other than UTF-8, nesting deeper than 64, duplicate names, NaN and
    infinities, numbers longer than 40 characters or beyond 10^±30, NUL, lone surrogates.
    """
    body = text_bytes(body)
    refuse_swarm(body)
    value = strict(body)
    if not isinstance(value, dict):
        raise InvalidInput("This is not a JSON object.")
    return value


def parse(body: bytes) -> dict[str, Any]:
    """Read bytes that already passed this door when they were kept (no second judgement)."""
    value: dict[str, Any] = _KEPT.decode(body)
    return value


def text_bytes(body: bytes) -> bytes:
    """Return `body` without byte order mark; raise InvalidInput if too large or not UTF-8."""
    if len(body) > MAX_BYTES:
        raise InvalidInput("This is larger than 64 MB.")
    body = body.removeprefix(BOM)
    if not body.isascii():
        try:
            if len(body) <= LARGE:
                body.decode("utf-8")
            else:  # as text it may be four times as long
                decoder = _utf8()
                for begin in range(0, len(body), LARGE):
                    decoder.decode(body[begin : begin + LARGE])
                decoder.decode(b"", final=True)
        except UnicodeDecodeError as problem:
            raise Malformed("This is not UTF-8 text.") from problem
    return body


def refuse_swarm(body: bytes, most: int = MAX_VALUES) -> None:
    """Raise InvalidInput for more values than anybody writes: in memory each takes 100 bytes."""
    if len(body) > most and body.count(b",") > most:
        raise TooMuch("This holds more parts than Homeport takes in one piece.")


def strict(body: bytes, depth: int = MAX_DEPTH) -> Any:
    """Read any JSON value from UTF-8 `body` under the rules of `loads`, at most `depth` deep."""
    if _depth_exceeds(body, depth):
        raise Malformed(f"This is nested deeper than {MAX_DEPTH} levels.")
    try:
        value = _STRICT.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise Malformed("This is not well-formed JSON.") from problem
    if b"\\u" in body:
        _refuse_unspeakable(body, value)
    return value


def _refuse_unspeakable(body: bytes, value: Any) -> None:
    """Raise InvalidInput for escapes that no text may hold: NUL and lone surrogates."""
    if _SURROGATE.search(body):
        try:
            _KEPT.decode(body)
        except (msgspec.DecodeError, ValueError) as problem:
            raise Malformed("This holds half of a character (a lone surrogate).") from problem
    if b"\\u0000" in body and any("\0" in text for text in strings(value)):
        raise Malformed("This holds a NUL character.")


def strings(value: Any) -> Iterator[str]:
    """Yield every name and every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _depth_exceeds(body: bytes, limit: int) -> bool:
    """Say whether brackets nest deeper than `limit`.

    The count of opening brackets bounds the depth for most resources. Beyond that only the
    brackets are looked at, and emptied pairs are removed from inside out: each round takes away
    at least one level and at most two. Brackets inside strings end in the exact scan.
    """
    if body.count(b"{") + body.count(b"[") <= limit:
        return False
    rest = body.translate(None, _NOT_BRACKETS)
    for _ in range(limit // 2):
        rest = rest.replace(b"[]", b"").replace(b"{}", b"")
        if not rest:
            return False
    return _exact_depth(body) > limit


def _exact_depth(body: bytes) -> int:
    """Return the greatest nesting of brackets outside of strings."""
    deepest = level = 0
    for byte in _STRING.sub(b"", body).translate(None, _NOT_BRACKETS):
        if byte in b"{[":
            level += 1
            deepest = max(deepest, level)
        else:
            level -= 1
    return deepest


def number(text: str) -> Number:
    """Return a decimal literal as Number, or raise InvalidInput when it is absurd."""
    if len(text) > MAX_NUMBER:
        raise Malformed(f"This holds a number longer than {MAX_NUMBER} characters.")
    exponent = _EXPONENT.search(text)
    if exponent and abs(int(exponent[1])) > MAX_EXPONENT:
        raise Malformed("This holds a number too large or too small to mean anything.")
    return Number(text)


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER:
        raise Malformed(f"This holds a number longer than {MAX_NUMBER} characters.")
    return int(text)


def _constant(text: str) -> Any:
    raise Malformed(f"{text} is not a number.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed("The same name stands twice in one object.")
    return made


_utf8: Final = getincrementaldecoder("utf-8")
_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_float=number,
    parse_int=_integer,
    parse_constant=_constant,
    strict=True,
)
_KEPT: Final = msgspec.json.Decoder(float_hook=Number)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


# ------------------------------------------------------------------------------------- fields


def slices(body: bytes) -> dict[str, msgspec.Raw]:
    """Cut the outermost object of UTF-8 `body` into raw elements; of equal names the last stays.

    Raises InvalidInput if it is no JSON object. What is inside an element is checked for syntax
    only; `strict` judges the rest.
    """
    try:
        return _FIELDS.decode(body)
    except RecursionError as problem:
        raise Malformed(f"This is nested deeper than {MAX_DEPTH} levels.") from problem
    except (msgspec.DecodeError, ValueError) as problem:
        raise Malformed("This is not a well-formed JSON object.") from problem


def fields(body: bytes) -> dict[str, Field]:
    """Do the work of `slices` with byte offsets, refusing a name that stands twice."""
    at = 0
    made = {}
    for name, slice_ in slices(body).items():
        raw = bytes(slice_)
        at += len(name.encode()) + 4  # the bracket or comma, two quotes, the colon
        made[name] = Field(at, raw)
        at += len(raw)
    # In compact JSON without repeated names the pieces add up to exactly the whole; anything
    # else (white space, escapes in names, a name twice) makes the whole longer than its pieces.
    return made if at + 1 == len(body) else _spaced_fields(body, made)


def _spaced_fields(body: bytes, values: Mapping[str, Field]) -> dict[str, Field]:
    """Do the work of `fields` for JSON with white space, refusing names that stand twice."""
    made: dict[str, Field] = {}
    at = body.find(b"{") + 1
    while match := _KEY.match(body, at):
        name = match[1].decode("utf-8")
        if "\\" in name:
            name = json.loads(f'"{name}"')
        if name in made:
            raise Malformed("The same name stands twice in one object.")
        raw = values[name].raw
        if not body.startswith(raw, match.end()):
            raise Malformed("The same name stands twice in one object.")
        made[name] = Field(match.end(), raw)
        at = match.end() + len(raw)
    return made


# ------------------------------------------------------------------------------------ writing


def dumps(value: Any) -> bytes:
    """Write a JSON value compactly; a `Number` keeps its literal."""
    return _WRITER.encode(value)


def _write_number(value: Any) -> Any:
    if isinstance(value, Number):
        return msgspec.Raw(value.text.encode("ascii"))
    raise NotImplementedError


_WRITER: Final = msgspec.json.Encoder(enc_hook=_write_number, decimal_format="number")


# ------------------------------------------------------------------------------------- Bundles


class _Entry(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw(b"")
    fullUrl: Any = None  # noqa: N815  FHIR's own name
    search: Any = None
    response: Any = None


_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw] | None)
_ENTRY: Final = msgspec.json.Decoder(_Entry)


def slice_bundle(body: bytes) -> Page:
    """Cut a Bundle (or one single resource) into raw slices, without rebuilding anything.

    OperationOutcomes and failed `entry.response` become `outcomes`. Raises InvalidInput when the
    page is not whole, so that nothing of half a page is stored (R4 §2.36 Bundle). An entry that is
    broken inside comes out as it is: it is quarantined, its neighbours are kept.
    """
    if len(body) > MAX_BYTES:
        raise TooMuch("This is larger than 64 MB.")
    refuse_swarm(body, MAX_PAGE_VALUES)
    body = body.removeprefix(BOM).strip(_SPACE)
    found = _page_fields(body)
    kind = _plain(found, "resourceType")
    if kind == "OperationOutcome":
        return Page((), outcomes=tuple(issues(_quiet(body))))
    if kind != "Bundle":
        if not isinstance(kind, str):
            raise InvalidInput(Told("This is not a FHIR resource.", Fault.NO_RECORD))
        return Page((Item(body, "the resource"),))
    cuts: list[_Cut] = []
    outcomes: list[Issue] = []
    for number, raw in enumerate(_entries(found.get("entry", b"null")), start=1):
        cut, said = _cut(raw, f"entry {number}")
        cuts += cut
        outcomes += said
    total = _plain(found, "total")
    is_held = len(body) > LARGE and len(cuts) > _FEW
    return Page(
        Entries(cuts) if is_held else tuple(starmap(_item, cuts)),
        _next_link(_plain(found, "link")),
        total if isinstance(total, int) else None,
        tuple(outcomes),
    )


def _page_fields(body: bytes) -> Mapping[str, _Slice]:
    """Cut the page itself; the slices are views, so that 30 MB of entries are not copied."""
    try:
        found = slices(body)
        whole = sum(map(len, found.values())) + sum(len(name.encode()) + 4 for name in found) + 1
        if whole != len(body):
            fields(body)
    except InvalidInput:  # perhaps one entry only
        loose = cutting.members(body)
        if loose is None:
            raise
        return loose
    return found


def _entries(raw: _Slice) -> Sequence[_Slice]:
    if bytes(memoryview(raw)[:1]) == b"{":  # a single object where a list belongs
        return [raw]
    try:
        return _RAWS.decode(raw) or ()
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        loose = cutting.elements(bytes(raw))
        if loose is None:  # no list at all: what else it may be, records were meant to be there
            raise InvalidInput("The entries of this Bundle could not be read.") from problem
        return loose


def _cut(raw: _Slice, place: str) -> tuple[Sequence[_Cut], Sequence[Issue]]:
    """Return the resource of one raw entry (if it has one), and what its server said."""
    try:
        found = _ENTRY.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        if bytes(raw) == b"null":
            return (), ()
        loose = cutting.members(bytes(raw)) or {}
        return ((loose.get("resource", bytes(raw)), place, None),), ()
    resource = bytes(found.resource)
    outcomes = tuple(_outcomes(found, resource))
    if resource in (b"", b"null") or is_outcome(resource):
        return (), outcomes
    return ((found.resource, place, _url(found)),), outcomes


def _url(found: "_Entry") -> str | None:
    return found.fullUrl if isinstance(found.fullUrl, str) else None


def entry(raw: bytes) -> tuple[bytes | None, str | None]:
    """Return (raw resource or None, fullUrl) of one entry; None also for an OperationOutcome."""
    try:
        found = _ENTRY.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        raise InvalidInput("This entry could not be read.") from problem
    resource = bytes(found.resource)
    if resource in (b"", b"null") or is_outcome(resource):
        return None, None
    return resource, _url(found)


def _plain(found: Mapping[str, _Slice], name: str) -> Any:
    """Return a small element as plain values, or None if it is absent or unreadable."""
    if name not in found:
        return None
    try:
        return strict(bytes(found[name]))
    except InvalidInput:
        return None


def _next_link(links: Any) -> str | None:
    for link in [links] if isinstance(links, dict) else links if isinstance(links, list) else ():
        if isinstance(link, dict) and link.get("relation") == "next":
            url = link.get("url")
            return url if isinstance(url, str) and url else None
    return None


def is_outcome(raw: bytes) -> bool:
    """Say whether a raw resource is an OperationOutcome."""
    if b'"OperationOutcome"' not in raw:
        return False
    try:
        return bool(strict(fields(raw)["resourceType"].raw) == "OperationOutcome")
    except (InvalidInput, KeyError):
        return False


def _outcomes(entry: _Entry, raw: bytes) -> Iterator[Issue]:
    if is_outcome(raw):
        yield from issues(_quiet(raw))
    response = entry.response if isinstance(entry.response, dict) else {}
    status = str(response.get("status") or "")
    if status[:1] in ("4", "5"):  # such as "429" inside a 200
        outcome = response.get("outcome")
        found = list(issues(outcome)) if isinstance(outcome, dict) else []
        yield from found or [Issue("error", status[:3], "")]


def _quiet(raw: bytes) -> Mapping[str, Any]:
    try:
        return loads(raw)
    except InvalidInput:
        return {}


def issues(outcome: Mapping[str, Any]) -> Iterator[Issue]:
    """Yield the issues of an OperationOutcome as (severity, code, text); tolerant of any shape."""
    listed = outcome.get("issue")
    for issue in listed if isinstance(listed, list) else [listed]:
        if isinstance(issue, dict):
            details = issue.get("details")
            worded = details.get("text") if isinstance(details, dict) else None
            texts = (issue.get("diagnostics"), worded)
            text = next((text for text in texts if isinstance(text, str) and text), "")
            yield Issue(str(issue.get("severity") or ""), str(issue.get("code") or ""), text)
