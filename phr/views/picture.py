"""What a picture says beside what it shows: place, device and time, taken out before it is shared.

Nothing is encoded anew: only the segments that carry such facts are left out, and how a JPEG is to
be turned is kept. The patient's own copy stays as it came. (security.md D12)
"""

import struct
from collections.abc import Iterator
from typing import Final

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_TELLING: Final = {
    0xFE,
    *range(0xE1, 0xEE),
    0xEF,
}  # comment; APP1-13 and 15: Exif, XMP, IPTC, maker
_KEPT_APPS: Final = {0xE2}  # APP2: the colour profile (ICC); a second picture in it is cut off
_STANDALONE: Final = {0x01, *range(0xD0, 0xD8)}
_SCAN, _END = 0xDA, 0xD9
_CHUNKS: Final = {b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"}
_WEBP_CHUNKS: Final = {b"EXIF", b"XMP "}
_WEBP_FLAGS: Final = 0x0C  # VP8X: there is Exif, there is XMP
_ORIENTATION: Final = 0x0112


def without_traces(content: bytes) -> bytes:
    """Return a JPEG, PNG or WebP without its metadata; all else, and what is broken, as it is."""
    try:
        if content.startswith(_JPEG):
            return b"".join(_jpeg(content))
        if content.startswith(_PNG):
            return _PNG + b"".join(_png(content))
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return _webp(content)
    except (struct.error, IndexError):
        return content
    return content


def _jpeg(content: bytes) -> Iterator[bytes]:
    """Walk the segments up to the first scan (ITU-T T.81 §B.1.1); the rest is the picture."""
    yield content[:2]
    turned = _orientation(content)
    if turned != 1:
        yield _turning(turned)
    at = 2
    while True:
        while content[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = content[at + 1]
        if content[at] != 0xFF or marker in (_SCAN, _END):
            yield content[at:]
            return
        size = 0 if marker in _STANDALONE else struct.unpack_from(">H", content, at + 2)[0]
        segment = content[at : at + 2 + size]
        is_profile = marker in _KEPT_APPS and segment[4:].startswith(b"ICC_PROFILE")
        if marker not in _TELLING or is_profile:
            yield segment
        at += 2 + size


def _orientation(content: bytes) -> int:
    """Return how the picture is to be turned (Exif 2.3 §4.6.4), 1 for "as it is"."""
    begin = content.find(b"Exif\0\0", 0, 1 << 16) + 6
    if begin < 6:
        return 1
    order = {b"II": "<", b"MM": ">"}.get(content[begin : begin + 2])
    if order is None:
        return 1
    first = begin + int(struct.unpack_from(f"{order}I", content, begin + 4)[0])
    (number,) = struct.unpack_from(f"{order}H", content, first)
    for at in range(first + 2, first + 2 + 12 * min(number, 100), 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", content, at)
        if tag == _ORIENTATION and 1 <= value <= 8:
            return int(value)
    return 1


def _turning(orientation: int) -> bytes:
    """Return an Exif segment that says nothing but how to turn."""
    entry = struct.pack(">HHIHH", _ORIENTATION, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
    return b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif


def _png(content: bytes) -> Iterator[bytes]:
    """Walk the chunks (RFC 2083 §3.2); nothing follows IEND."""
    at = len(_PNG)
    while at + 8 <= len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        if name not in _CHUNKS:
            yield content[at : at + 12 + size]
        if name == b"IEND":
            return
        at += 12 + size


def _webp(content: bytes) -> bytes:
    """Walk the chunks (RFC 9649 §2); the header is told that two kinds are gone."""
    made = bytearray(b"WEBP")
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        chunk = bytearray(content[at : at + 8 + size + (size & 1)])
        if name == b"VP8X":
            chunk[8] &= ~_WEBP_FLAGS
        if name not in _WEBP_CHUNKS:
            made += chunk
        at += 8 + size + (size & 1)
    return b"RIFF" + struct.pack("<I", len(made)) + bytes(made)
