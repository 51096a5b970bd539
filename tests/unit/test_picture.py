"""What a shared picture no longer says: place, device, comments; what it shows stays."""

import struct
import zlib

import pytest

from phr.views.picture import without_traces

PLACE = b"GPS 52.5200 N 13.4050 E"
PICTURE = bytes(range(256)) * 4


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def exif(order: str, orientation: int) -> bytes:
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = struct.pack(order + "HHIHH", 0x010F, 2, 4, 0, 0)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 2) + entries + bytes(4) + PLACE


def jpeg(*segments: bytes) -> bytes:
    scan = segment(0xDA, b"\1\1\0\0\x3f\0") + PICTURE.replace(b"\xff", b"\xff\0") + b"\xff\xd9"
    return b"\xff\xd8" + b"".join(segments) + scan


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
PROFILE = segment(0xE2, b"ICC_PROFILE\0\1\1colours")
TABLE = segment(0xDB, b"\0" + bytes(64))


def test_a_jpeg_loses_place_comment_and_maker_and_keeps_colours_and_picture() -> None:
    told = jpeg(
        JFIF, segment(0xE1, exif("<", 1)), segment(0xE1, b"http://ns.adobe.com/xap" + PLACE),
        PROFILE, segment(0xE2, b"MPF\0" + PLACE), segment(0xED, PLACE), segment(0xFE, PLACE), TABLE,
    )  # fmt: skip
    assert without_traces(told) == jpeg(JFIF, PROFILE, TABLE)


@pytest.mark.parametrize("order", ["<", ">"])
def test_how_a_jpeg_is_turned_is_kept(order: str) -> None:
    shared = without_traces(jpeg(JFIF, segment(0xE1, exif(order, 6)), TABLE))
    assert PLACE not in shared
    assert b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06" in shared
    assert shared.endswith(jpeg(TABLE)[2:])
    assert without_traces(shared) == shared


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def test_a_png_loses_its_texts_and_what_follows_its_end() -> None:
    head, data, end = chunk(b"IHDR", bytes(13)), chunk(b"IDAT", PICTURE), chunk(b"IEND", b"")
    told = head + chunk(b"eXIf", PLACE) + chunk(b"tEXt", PLACE) + data + chunk(b"tIME", bytes(7))
    magic = b"\x89PNG\r\n\x1a\n"
    assert without_traces(magic + told + end + PLACE) == magic + head + data + end


def test_a_webp_loses_its_exif_and_says_so_in_its_header() -> None:
    def part(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)

    def webp(flags: int, *parts: bytes) -> bytes:
        inside = b"WEBP" + part(b"VP8X", bytes((flags,)) + bytes(9)) + b"".join(parts)
        return b"RIFF" + struct.pack("<I", len(inside)) + inside

    data = part(b"VP8 ", PICTURE)
    told = webp(0x2C, data, part(b"EXIF", PLACE), part(b"XMP ", PLACE))
    assert without_traces(told) == webp(0x20, data)


@pytest.mark.parametrize("size", [0, 1, 3, 8, 15, 30, 60, 90])
def test_what_is_cut_off_anywhere_raises_nothing(size: int) -> None:
    turned = jpeg(segment(0xE1, exif("<", 6)))
    drawn = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13))
    for whole in (turned, drawn, b"RIFF\x40\0\0\0WEBPVP8X"):
        without_traces(whole[:size])


def test_what_is_no_picture_stays_as_it_is() -> None:
    assert without_traces(b"GIF89a" + PLACE) == b"GIF89a" + PLACE
    assert without_traces(PLACE) == PLACE
