"""Logos that a person has reviewed: taken from a folder, packed for a snapshot, read from a pack.

Only small PNGs, reduced to the picture itself: an SVG is a program. Nobody fetches a logo from
its owner, for that would tell whom somebody looks for; who has none is shown by letters.
"""

import base64
import binascii
import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lighthouse import lines

LARGEST = 16 * 1024  # bytes of one logo
SIDES = range(16, 257)  # pixels
NARROWEST = 2  # how many times one side may be as long as the other
MOST = 6 * 1024 * 1024  # bytes of a whole pack, unpacked

_BEGINNING = b"\x89PNG\r\n\x1a\n"
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # chunks that make the picture


class NotALogo(Exception):
    """A picture or a list of them cannot be used; the text is a sentence for the operator."""


def clean(data: bytes) -> bytes:
    """Return a PNG (ISO/IEC 15948) with the picture only: no text, no profile, nothing behind it.

    Raises NotALogo for another format, a wrong size, or what does not unpack to its own size.
    """
    if len(data) > LARGEST:
        raise NotALogo(f"is larger than {LARGEST // 1024} KiB")
    chunks = [(kind, body) for kind, body in _chunks(data) if kind in _PICTURE]
    if not chunks or chunks[0][0] != b"IHDR" or chunks[-1][0] != b"IEND":
        raise NotALogo("is no whole PNG")
    _check_size(chunks)
    return _BEGINNING + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a PNG up to its end, each whole and undamaged."""
    if not data.startswith(_BEGINNING):
        raise NotALogo("is no PNG")
    at = len(_BEGINNING)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body, end = data[at + 8 : at + 8 + size], at + 12 + size
        if end > len(data) or _chunk(kind, body) != data[at:end]:
            raise NotALogo("is damaged")
        if kind not in _PICTURE and kind[:1].isupper():
            raise NotALogo("holds something that is not known")
        yield kind, body
        if kind == b"IEND":
            return
        at = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _check_size(chunks: list[tuple[bytes, bytes]]) -> None:
    """Refuse what is too large or narrow to be shown, or unpacks to more than it says."""
    if len(chunks[0][1]) != 13:
        raise NotALogo("is damaged")
    width, height, depth, colours, *_ = struct.unpack(">IIBBBBB", chunks[0][1])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colours, 0)
    if not channels or depth not in {1, 2, 4, 8, 16}:
        raise NotALogo("is damaged")
    fitting = width in SIDES and height in SIDES
    if not fitting or max(width, height) > NARROWEST * min(width, height):
        raise NotALogo(f"is {width} by {height} pixels: {SIDES[0]} to {SIDES[-1]}, nearly square")
    # interlaced pictures have up to seven small ones, each with its own lines
    most = height * ((width * channels * depth + 7) // 8 + 1) * 2
    unpacked = zlib.decompressobj()
    try:
        made = unpacked.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"), most)
    except zlib.error as error:
        raise NotALogo("is damaged") from error
    if not made or not unpacked.eof:
        raise NotALogo("does not unpack to its own size")


def reviewed(folder: Path) -> dict[str, bytes]:
    """Return the logos of a folder by organisation id: those whose licence somebody reviewed.

    `logos.json` has for each id `file`, `licence` (the terms, or where they stand) and
    `reviewed_by` (who, when); without the last two an entry is passed over. Raises NotALogo.
    """
    try:
        listed: dict[str, dict[str, Any]] = json.loads((folder / "logos.json").read_bytes())
        wanted = {
            identity: str(entry["file"])
            for identity, entry in sorted(listed.items())
            if entry.get("licence") and entry.get("reviewed_by")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotALogo(f"{folder.name} has no logos.json that can be read.") from error
    found: dict[str, bytes] = {}
    for identity, name in wanted.items():
        if Path(name).name != name:
            raise NotALogo(f"{name} does not lie in the folder of the logos.")
        try:
            found[identity] = clean((folder / name).read_bytes())
        except OSError as error:
            raise NotALogo(f"{name} cannot be read.") from error
        except NotALogo as error:
            raise NotALogo(f"{name} {error}.") from error
    return found


def file_name(logo: bytes) -> str:
    """Return the name under which a logo is handed out: another one for other bytes."""
    return f"{hashlib.sha256(logo).hexdigest()[:32]}.png"


# --------------------------------------------------------------------------- packs


def write(logos: Mapping[str, bytes]) -> bytes:
    """Return logos (by organisation id) as lines; the same logos give the same bytes.

    Raises NotALogo where they are more than a reader takes.
    """
    shared: dict[bytes, list[str]] = {}
    for identity in sorted(logos):
        shared.setdefault(logos[identity], []).append(lines.short(identity))
    made = b"".join(
        msgspec.json.encode({"is": "logo", "organizations": ids, "png": _text(logo)}) + b"\n"
        for logo, ids in shared.items()
    )
    if len(made) > MOST:
        raise NotALogo(f"The logos are more than {MOST >> 20} MiB together.")
    return made


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class _Line(msgspec.Struct, tag_field="is", tag="logo"):
    organizations: list[str]
    png: str


def read(raw: bytes) -> dict[str, bytes]:
    """Return the logos of a pack by organisation id. Raises NotALogo; other lines are passed over.

    What is not exactly as `clean` leaves it is refused.
    """
    found: dict[str, bytes] = {}
    for text in filter(None, raw.split(b"\n")):
        try:
            if msgspec.json.decode(text, type=dict[str, Any]).get("is") != "logo":
                continue
            line = msgspec.json.decode(text, type=_Line)
            logo = binascii.a2b_base64(
                line.png.translate(_ALPHABET) + "=" * (-len(line.png) % 4), strict_mode=True
            )
            ids = [lines.full(one) for one in line.organizations]
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise NotALogo("A line of the logos cannot be read.") from error
        if clean(logo) != logo:
            raise NotALogo("A logo holds more than its picture.")
        found.update(dict.fromkeys(ids, logo))
    return found


_ALPHABET = str.maketrans("-_", "+/")
