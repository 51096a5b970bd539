"""The lines of a snapshot: endpoints, organisations and vendors as NDJSON, and back.

The format is described in docs/lighthouse-spec.md. Nothing here is signed, packed or fetched.
"""

import base64
import binascii
import gc
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from lighthouse import repair
from lighthouse.catalogue import Endpoint, Organization
from lighthouse.merge import NAMESPACE

LONGEST = 256 * 1024  # of one line; a reader refuses more
MOST = 2_000_000  # lines
DOOR = ("portal", "portal_url")  # what an organisation says about an endpoint
_NO_DOOR: dict[str, Any] = dict.fromkeys(DOOR, "")
ADDRESSES = ("authorize", "token", "registration")  # where a browser or a secret is sent

_WEB = re.compile(r"https://([^/?#\s\\@]+)(?:[/?#][^\s\\]*)?", re.IGNORECASE)
_WEB_LINE = re.compile(f"^{_WEB.pattern}$", re.IGNORECASE | re.MULTILINE)


class Unreadable(ValueError):
    """The lines are not what the format says; the text is a sentence that names the line."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a snapshot holds. `vendors`: rules for each vendor; `overrides`: for one endpoint id.

    The texts are the lines as they came, by id, of what still is as they say: who changes an
    endpoint or an organisation leaves its line out. They spare the index to write each anew.
    """

    organizations: tuple[Organization, ...]
    endpoints: Mapping[str, Endpoint]
    vendors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    organization_texts: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    endpoint_texts: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)


def content_of(
    organizations: Iterable[Organization],
    vendors: Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    endpoints: Iterable[Endpoint] = (),
) -> Content:
    """Return organisations of a catalogue as content, in the form a reader would have it.

    `endpoints`: further ones, that no organisation which is shown has.
    """
    kept = tuple(organizations)
    ends = {end.id: end for end in endpoints}
    ends |= {end.id: replace(end, **_NO_DOOR) for one in kept for end in one.endpoints}
    return Content(kept, ends, dict(vendors or {}), dict(overrides or {}))


def short(identity: str) -> str:
    """Return an id (hexadecimal) as base64url without padding, the form it has in a line."""
    return base64.urlsafe_b64encode(bytes.fromhex(identity)).decode().rstrip("=")


# --------------------------------------------------------------------------- writing


def write(content: Content) -> bytes:
    """Return the lines: vendors, endpoints by address, organisations by first address and name.

    The same content gives the same bytes; neighbours are alike, which keeps the packed file small.
    """
    urls = {end.id: end.url for end in content.endpoints.values()}
    if len(set(urls.values())) != len(urls):
        raise Unreadable("Two endpoints have the same published address.")
    lines: list[dict[str, Any]] = [
        {"is": "vendor", "vendor": name, "profile": content.vendors[name]}
        for name in sorted(content.vendors)
    ]
    ends = sorted(content.endpoints.values(), key=lambda end: end.url)
    lines += [_endpoint_line(end, content.overrides.get(end.id)) for end in ends]
    organized = [(_first_url(one, urls), one.name, one.id, one) for one in content.organizations]
    lines += [_organization_line(one, urls) for *_, one in sorted(organized, key=lambda o: o[:3])]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def endpoint_line(end: Endpoint, override: Mapping[str, Any] | None = None) -> str:
    """Return the line of an endpoint, without its end of line, as a snapshot has it."""
    return msgspec.json.encode(_endpoint_line(end, override)).decode()


def organization_line(one: Organization) -> str:
    """Return the line of an organisation, without its end of line, as a snapshot has it."""
    urls = {end.id: end.url for end in one.endpoints}
    return msgspec.json.encode(_organization_line(one, urls)).decode()


def endpoint_text(end: Endpoint) -> bytes:
    """Return a line of an endpoint with all that is known of it, dates of visits included."""
    return msgspec.json.encode(
        {"is": "endpoint", "url": end.url, **dict(_said(end, _ENDPOINT, ()))}
    )


def organization_text(one: Organization) -> bytes:
    """Return a line of an organisation for our own files: its ids stand there as they are."""
    line = _organization_line(one, {end.id: end.url for end in one.endpoints}, as_it_is)
    return msgspec.json.encode(line)


def as_it_is(identity: str) -> str:
    """Return an id unchanged: not every id of our own files is hexadecimal."""
    return identity


def _first_url(one: Organization, urls: Mapping[str, str]) -> str:
    return urls[one.endpoints[0].id] if one.endpoints else ""


def _endpoint_line(end: Endpoint, override: Mapping[str, Any] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"is": "endpoint", "url": end.url}
    if derived(end.url) != end.id:
        line["id"] = short(end.id)
    # Dates that change daily would make every delta as large as the whole.
    quiet = {"probed"}
    quiet |= {"last_ok"} if end.answer == "alive" else set()
    quiet |= {"last_listed"} if end.status == "listed" else set()
    line.update(_said(end, _ENDPOINT, quiet))
    if override:
        line["profile"] = override
    return line


def _organization_line(
    one: Organization, urls: Mapping[str, str], shorten: Callable[[str], str] = short
) -> dict[str, Any]:
    line: dict[str, Any] = {"is": "organization", "id": shorten(one.id), "name": one.name}
    line.update(_said(one, _ORGANIZATION, set()))
    if one.part_of:
        line["part_of"] = shorten(one.part_of)
    doors: list[Any] = []
    for end in one.endpoints:
        said = {name: value for name in DOOR if (value := getattr(end, name))}
        doors.append({"url": urls[end.id], **said} if said else urls[end.id])
    if doors:
        line["endpoints"] = doors
    return line


def _said(one: Any, names: Mapping[str, Any], quiet: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the members that say something: not empty, and not what their absence means."""
    for name, absent in names.items():
        value = getattr(one, name)
        if name not in quiet and value not in (absent, "", ()):
            yield name, value


def full(text: str) -> str:
    """Return the hexadecimal id of its short form. Raises ValueError where it is none."""
    padded = text.translate(_ALPHABET) + "=" * (-len(text) % 4)
    return binascii.a2b_base64(padded, strict_mode=True).hex()


_ALPHABET = str.maketrans("-_", "+/")
_NAMED = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)  # a name-based UUID is made of it


_VARIANT = {f"{number:x}": f"{number & 3 | 8:x}" for number in range(16)}


def derived(url: str) -> str:
    """Return the id that an endpoint has by its address alone (UUIDv5, RFC 9562 §5.5)."""
    made = _NAMED.copy()
    made.update(b"endpoint|" + url.rstrip("/").encode())
    digest = made.hexdigest()
    return f"{digest[:12]}5{digest[13:16]}{_VARIANT[digest[16]]}{digest[17:32]}"


def _absent(kind: type, without: tuple[str, ...]) -> dict[str, Any]:
    """Return the optional members of a line, each with what its absence means."""
    found: tuple[Field[Any], ...] = fields(kind)
    return {
        one.name: () if str(one.type).startswith("tuple") else _default(one)
        for one in found
        if one.name not in without
    }


def _default(one: Field[Any]) -> Any:
    return "" if one.default is MISSING else one.default


_ENDPOINT = _absent(Endpoint, ("id", "url", *DOOR))
_ORGANIZATION = _absent(Organization, ("id", "name", "endpoints", "part_of"))
MEMBERS = {
    "endpoint": ["id", "url", *_ENDPOINT, "profile"],
    "organization": ["id", "name", *_ORGANIZATION, "part_of", "endpoints"],
    "vendor": ["vendor", "profile"],
    "door": ["url", *DOOR],
}  # the whole vocabulary: docs/lighthouse-spec.md must name each


# --------------------------------------------------------------------------- reading


class _Door(msgspec.Struct):
    url: str
    portal: str = ""
    portal_url: str = ""


_TYPES: dict[str, Any] = {one.name: one.type for one in (*fields(Endpoint), *fields(Organization))}
_TYPES |= {"profile": dict[str, Any], "endpoints": list[str | _Door]}


def _members(absent: Mapping[str, Any]) -> list[str | tuple[str, Any] | tuple[str, Any, Any]]:
    """Return members for msgspec; `...` stands for one that must be there."""
    return [
        (name, _TYPES[name]) if default is ... else (name, _TYPES[name], default)
        for name, default in absent.items()
    ]


class _VendorLine(msgspec.Struct, tag_field="is", tag="vendor"):
    vendor: str
    profile: dict[str, Any]


_EndpointLine = msgspec.defstruct(
    "_EndpointLine",
    _members({"url": ..., "id": "", "profile": {}, **_ENDPOINT, **dict.fromkeys(DOOR, "")}),
    tag_field="is",
    tag="endpoint",
)
_OrganizationLine = msgspec.defstruct(
    "_OrganizationLine",
    _members({"id": ..., "name": ..., "part_of": "", "endpoints": [], **_ORGANIZATION}),
    tag_field="is",
    tag="organization",
)
_DECODER = msgspec.json.Decoder(_EndpointLine | _OrganizationLine | _VendorLine)
_endpoint_values = attrgetter(*(one.name for one in fields(Endpoint)))
_organization_values = attrgetter(*(one.name for one in fields(Organization)))
_addresses = attrgetter(*ADDRESSES)


def read(raw: bytes) -> Content:
    """Return the content of lines. Raises Unreadable; unknown members and kinds are passed over.

    Every address is https to a public name (spec: "every URL in a list is hostile input").
    """
    with everything_stays():
        return _Reading().content(raw)


@contextmanager
def everything_stays() -> Iterator[None]:
    """Look for no garbage while 100,000 objects are made that all stay: it doubles the time.

    What was made counts as old afterwards, or the first object after it would have all looked at.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if not gc.get_freeze_count():  # what somebody else has put aside stays there
                gc.freeze()
                gc.unfreeze()
            gc.enable()


class _Reading:
    """The state of one reading: what was said so far, by address and by id."""

    def __init__(self) -> None:
        self.ends: dict[str, Endpoint] = {}
        self.by_url: dict[str, Endpoint] = {}
        self.made: dict[str, Organization] = {}
        self.organization_texts: dict[str, bytes] = {}
        self.endpoint_texts: dict[str, bytes] = {}
        self.vendors: dict[str, Mapping[str, Any]] = {}
        self.overrides: dict[str, Mapping[str, Any]] = {}

    def content(self, raw: bytes) -> Content:
        lines = raw.split(b"\n")
        read = _at_once(raw, lines) or list(_decoded(lines))
        safe = _are_safe([line for _, line in read if type(line) is _EndpointLine])
        waiting: list[tuple[int, Any]] = []
        number = 0
        try:
            for number, line in read:
                if type(line) is _EndpointLine:
                    self.endpoint(line, lines[number - 1], safe=safe)
                elif type(line) is _VendorLine:
                    self.vendors[line.vendor] = line.profile
                else:
                    waiting.append((number, line))
            for number, line in waiting:
                self.organization(line, lines[number - 1])
        except (KeyError, ValueError) as error:
            sentence = f"Line {number} of the snapshot cannot be used: {error}."
            raise Unreadable(sentence) from error
        return Content(
            tuple(self.made.values()),
            self.ends,
            self.vendors,
            self.overrides,
            self.organization_texts,
            self.endpoint_texts,
        )

    def endpoint(self, line: Any, text: bytes, *, safe: bool) -> None:
        url = line.url
        if not safe:
            for address in (url, *filter(None, _addresses(line))):
                web_address(address)
        line.id = full(line.id) if line.id else derived(url)
        end = Endpoint(*_endpoint_values(line))
        named = self.by_url.setdefault(url, end) is end and self.ends.setdefault(end.id, end) is end
        if not named or line.portal or line.portal_url:
            raise ValueError("an endpoint is named twice, or has a portal")
        self.endpoint_texts[end.id] = text
        if line.profile:
            self.overrides[end.id] = line.profile

    def organization(self, line: Any, text: bytes) -> None:
        by_url = self.by_url
        line.endpoints = tuple(
            [
                by_url[door] if isinstance(door, str) else with_door(by_url[door.url], door)
                for door in line.endpoints
            ]
        )
        line.id = full(line.id)
        if line.part_of:
            line.part_of = full(line.part_of)
        one = Organization(*_organization_values(line))
        if self.made.setdefault(one.id, one) is not one:
            raise ValueError("it names an organisation twice")
        self.organization_texts[one.id] = text


def _at_once(raw: bytes, lines: list[bytes]) -> list[tuple[int, Any]] | None:
    """Read all lines in one go; None where one of them needs to be looked at by itself."""
    if len(lines) > MOST or max(map(len, lines)) > LONGEST:
        return None
    try:
        read = _DECODER.decode_lines(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return list(enumerate(read, 1)) if len(read) == len(lines) - 1 else None


def _are_safe(ends: list[Any]) -> bool:
    """Say whether every address may be used; where not, `web_address` tells which may not."""
    found = [end.url for end in ends]
    found += {address for end in ends for address in _addresses(end)} - {""}
    text = "\n".join(found)
    if text.count("\n") != len(found) - 1:
        return False
    hosts = _WEB_LINE.findall(text)
    return len(hosts) == len(found) and all(_is_public(host.lower()) for host in set(hosts))


def endpoint_of(text: "bytes | msgspec.Raw", identity: str) -> Endpoint:
    """Return the endpoint that a line is about, under the id that it has."""
    line: Any = _DECODER.decode(text)
    line.id = identity
    return Endpoint(*_endpoint_values(line))


@dataclass(frozen=True, slots=True)
class Said:
    """What a line says about an organisation; `doors` are (address, portal, its address)."""

    organization: Organization  # without endpoints
    doors: tuple[tuple[str, str, str], ...]


def organization_of(text: "bytes | msgspec.Raw", read_id: Callable[[str], str] = full) -> Said:
    """Return what a line says about an organisation; `read_id`: how ids stand there."""
    line: Any = _DECODER.decode(text)
    doors = tuple(
        (door, "", "") if isinstance(door, str) else (door.url, door.portal, door.portal_url)
        for door in line.endpoints
    )
    line.endpoints, line.id = (), read_id(line.id)
    line.part_of = read_id(line.part_of) if line.part_of else ""
    return Said(Organization(*_organization_values(line)), doors)


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, Any]]:
    """Yield the lines of a kind that is known, with their numbers, one by one."""
    decode = _DECODER.decode
    for number, text in enumerate(lines, 1):
        if not text:
            continue
        if len(text) > LONGEST or number > MOST:
            raise Unreadable(f"Line {number} of the snapshot is longer or later than allowed.")
        try:
            yield number, decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            if not _is_of_another_kind(text):
                raise Unreadable(f"Line {number} of the snapshot cannot be read.") from error


def _is_of_another_kind(text: bytes) -> bool:
    """Say whether a line is a JSON object of a kind that a later version has added."""
    try:
        kind = msgspec.json.decode(text, type=dict[str, Any]).get("is")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return isinstance(kind, str) and kind not in MEMBERS


def with_door(end: Endpoint, said: Any) -> Endpoint:
    """Return an endpoint with what one organisation says about it (`portal`, `portal_url`)."""
    return replace(end, **{name: getattr(said, name) for name in DOOR})


def web_address(text: str) -> str:
    """Return an address that may be used: https, a public name, no user name, no white space.

    Raises ValueError otherwise. Which machine the name leads to is judged when it is called.
    """
    matched = _WEB.fullmatch(text)
    if matched is None or not _is_public(matched[1].lower()):
        raise ValueError("an address is not https to a public host")
    return text


@lru_cache(maxsize=16384)
def _is_public(host: str) -> bool:
    return bool(repair.address(f"https://{host}/").key)
