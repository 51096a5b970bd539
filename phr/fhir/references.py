"""References inside resources: where they stand, what they point to, local ids, splicing.

A record leaves as the received bytes with only its id and its references exchanged; the places
are found once, at keep time, and kept as a compact blob.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from phr.fhir.reading import walk

# R4 §2.3.0.2: [base]/Type/id[/_history/version]. Ids are taken as servers send them: Epic's are up
# to 130 characters, others hold underscores.
_LITERAL = re.compile(
    r"(?P<base>https?://[^?#]*/)?(?P<type>[A-Z][A-Za-z]{1,63})/(?P<id>[A-Za-z0-9_.~=+-]{1,256})"
    r"(?:/_history/[A-Za-z0-9_.~=+-]{1,64})?"
)
_URN = re.compile(r"urn:(?:uuid|oid):(?P<id>[A-Za-z0-9.-]{1,64})", re.IGNORECASE)
_REFERENCE = re.compile(rb'"reference"[ \t\r\n]*:[ \t\r\n]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_BINARY = re.compile(rb'"url"[ \t\r\n]*:[ \t\r\n]*"([^"]{0,500}Binary\\?/[^"]{1,300})"')
_SIGN: Final = 1 << 63
_WRAP: Final = 1 << 64


class Target(NamedTuple):
    """What a literal reference points to. `type` is "" for a URN; `base` ends in a slash."""

    type: str
    id: str
    base: str = ""


# -------------------------------------------------------------------------------- local ids


def local_key(id_key: bytes, connection: int, type_: str, remote_id: str) -> int:
    """Return the signed 64-bit key of a remote resource: keyed BLAKE2b of connection|type|id."""
    named = f"{connection}|{type_}|{remote_id}".encode()
    digest = blake2b(named, digest_size=8, key=id_key).digest()
    return int.from_bytes(digest, "big", signed=True)


class Keys:
    """Makes the keys of one connection quickly: the part that stays the same is hashed once."""

    def __init__(self, id_key: bytes, connection: int) -> None:
        self._id_key = id_key
        self._connection = connection
        self._begun: dict[str, Any] = {}

    def key(self, type_: str, remote_id: bytes) -> int:
        """Return what `local_key` returns for the UTF-8 bytes of an id."""
        begun = self._begun.get(type_)
        if begun is None:
            named = f"{self._connection}|{type_}|".encode()
            begun = self._begun[type_] = blake2b(named, digest_size=8, key=self._id_key)
        hashed = begun.copy()
        hashed.update(remote_id)
        return int.from_bytes(hashed.digest(), "big", signed=True)


def patient_id(id_key: bytes) -> str:
    """Return the local id of a vault's one composed Patient: where patient references lead."""
    return local_id_of(local_key(id_key, 0, "Patient", ""))


def local_id_of(key: int) -> str:
    """Return a key as local id: 16 hex digits."""
    return f"{key % _WRAP:016x}"


def key_of(local_id: str) -> int | None:
    """Return the key of a local id, or None if it has not the form of one."""
    if not re.fullmatch("[0-9a-f]{16}", local_id):
        return None
    number = int(local_id, 16)
    return number - _WRAP if number >= _SIGN else number


# -------------------------------------------------------------------------------- reading


def target(reference: str) -> Target | None:
    """Read a literal reference; None for fragments (`#x`), searches and anything else."""
    if match := _LITERAL.fullmatch(reference):
        return Target(match["type"], match["id"], match["base"] or "")
    if match := _URN.fullmatch(reference):
        return Target("", match["id"].lower())
    return None


def targets(document: Mapping[str, Any]) -> list[Target]:
    """Return what every literal reference in a resource points to, in order, each once."""
    found: dict[Target, None] = {}
    for each in walk(document):
        reference = each.get("reference")
        if isinstance(reference, str) and (pointed := target(reference)):
            found[pointed] = None
    return list(found)


# -------------------------------------------------------------------------------- places


def places(raw: bytes) -> list[tuple[int, int]]:
    """Return (start, length) of the text of every literal reference in a piece of raw JSON.

    Also of attachment addresses that name a Binary. Inside JSON strings quotes are escaped, so
    the pattern meets names only.
    """
    if b'"reference"' not in raw and b"Binary" not in raw:
        return []
    found = [match.span(1) for match in _REFERENCE.finditer(raw)]
    if b"Binary" in raw:
        found = sorted({*found, *(match.span(1) for match in _BINARY.finditer(raw))})
    return [(start, end - start) for start, end in found if raw[start : start + 1] not in b"#"]


def plain_places(raw: bytes) -> tuple[tuple[int, int], ...]:
    """Return what `places` does for compact references that hold nothing else and no escapes."""
    found = []
    at = raw.index(b":") + 2
    for said in raw.split(b'"')[3::4]:  # {"reference":"..."},{"reference":"..."}
        if not said.startswith(b"#"):
            found.append((at, len(said)))
        at += len(said) + len('"},{"reference":"')
    return tuple(found)


def pack(id_place: tuple[int, int], found: Iterable[tuple[int, int]]) -> bytes:
    """Pack the place of the id and those of references (ascending) into a blob of varints.

    Each place is its distance from the end of the one before, then its length. A length of 0 for
    the id says that there is none: it is written right after the opening bracket.
    """
    numbers = [*id_place]
    at = 0
    for start, length in found:
        numbers += (start - at, length)
        at = start + length
    return packed(numbers)


def packed(numbers: Sequence[int]) -> bytes:
    """Return numbers as a blob of varints."""
    try:
        return b"".join(map(_small, numbers))
    except IndexError:
        blob = bytearray()
        for number in numbers:
            varint(blob, number)
        return bytes(blob)


def unpack(blob: bytes) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Return what `pack` was given."""
    numbers = varints(blob)
    id_place = (numbers[0], numbers[1])
    found = []
    at = 0
    for gap, length in zip(numbers[2::2], numbers[3::2], strict=True):
        found.append((at + gap, length))
        at += gap + length
    return id_place, found


def varint(blob: bytearray, number: int) -> None:
    """Append a number (7 bits a byte, least first)."""
    while number > 127:
        blob.append(number & 127 | 128)
        number >>= 7
    blob.append(number)


def varints(blob: bytes) -> list[int]:
    """Return the numbers of a blob of varints."""
    if blob.isascii():  # each is below 128, a byte
        return list(blob)
    numbers: list[int] = []
    number = shift = 0
    for byte in blob:
        if byte < 128:
            numbers.append(number | byte << shift)
            number = shift = 0
        else:
            number |= (byte & 127) << shift
            shift += 7
    return numbers


def _smalls() -> list[bytes]:
    made = []
    for number in range(4096):
        blob = bytearray()
        varint(blob, number)
        made.append(bytes(blob))
    return made


_small: Final = _smalls().__getitem__


# -------------------------------------------------------------------------------- splicing


def reference_texts(body: bytes, blob: bytes) -> list[str]:
    """Return the references of a kept resource, as the sender wrote them."""
    return [unescaped(said) for said in said_in(body, blob)]


def said_in(body: bytes, blob: bytes) -> list[bytes]:
    """Return the references of a kept resource as they stand in it, escapes and all."""
    return [body[start : start + length] for start, length in unpack(blob)[1]]


def splice(
    body: bytes, blob: bytes, local_id: str, rewrite: Callable[[bytes], bytes | None]
) -> bytes:
    """Return `body` with its id set to `local_id` and each reference as `rewrite` says.

    `rewrite` takes the reference as it stands in the JSON string and answers None where it stays.
    """
    id_place, found = unpack(blob)
    changes: list[tuple[int, int, bytes]] = []
    if id_place[1]:
        changes.append((*id_place, local_id.encode()))
    else:
        changes.append((id_place[0], 0, f'"id":"{local_id}",'.encode()))
    for start, length in found:
        new = rewrite(body[start : start + length])
        if new is not None:
            changes.append((start, length, new))
    return _exchanged(body, sorted(changes))


def _exchanged(body: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    parts: list[bytes] = []
    at = 0
    for start, length, new in changes:
        parts += (body[at:start], new)
        at = start + length
    return b"".join((*parts, body[at:]))


def unescaped(said: bytes) -> str:
    """Return the text of what stands between the quotes of a JSON string."""
    if b"\\" in said:
        return str(msgspec.json.decode(b'"%s"' % said))
    return said.decode("utf-8")


def escaped(text: str) -> bytes:
    """Return a text as it stands between the quotes of a JSON string."""
    return msgspec.json.encode(text)[1:-1]
