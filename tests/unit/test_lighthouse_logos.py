"""Reviewed logos: what a picture may be, how it gets into a snapshot, and out of it."""

import json
import struct
import zlib

import pytest

from lighthouse import logos, publish
from lighthouse.snapshot import Refused, Shelf, reader_of
from tests.fixtures_lighthouse import NOW, Lighthouse, people_type, png, png_chunk

LAKESIDE, HILLSIDE = f"{1:032x}", f"{2:032x}"
TEXT = png_chunk(b"tEXt", b"Comment\0made by somebody at their desk")


def test_a_logo_is_kept_as_its_picture_alone():
    assert logos.clean(png()) == png()
    assert logos.clean(png(extra=TEXT) + b"behind the end") == png()


def head(width, height, depth=8, colours=2):
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


def made_of(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def data(size):
    return png_chunk(b"IDAT", zlib.compress(bytes(size)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>", "no PNG"),
        (b"GIF89a", "no PNG"),
        (b"", "no PNG"),
        (png()[:-12], "no whole PNG"),
        (png()[:60], "no whole PNG|damaged"),
        (png().replace(b"IDAT", b"IDAX"), "damaged"),
        (png(extra=png_chunk(b"EVIL", b"x")), "not known"),
        (png(extra=png_chunk(b"tEXt", bytes(17 * 1024))), "larger than 16 KiB"),
        (png(side=8), "8 by 8 pixels"),
        (png(side=300, height=300), "300 by 300 pixels"),
        (png(side=200, height=90), "200 by 90 pixels"),
        (made_of(head(32, 32)), "own size"),
        (made_of(head(32, 32), data(10_000_000)), "own size"),
        (made_of(head(32, 32), png_chunk(b"IDAT", b"nonsense")), "damaged"),
        (made_of(head(32, 32, depth=3), data(64)), "damaged"),
        (made_of(png_chunk(b"IHDR", b"short"), data(64)), "damaged"),
    ],
)
def test_what_is_no_small_whole_png_is_refused_with_the_reason(given, said):
    with pytest.raises(logos.NotALogo, match=said):
        logos.clean(given)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "logos"
    made.mkdir()
    (made / "a.png").write_bytes(png(extra=TEXT))
    return made


def listed(folder, entries):
    (folder / "logos.json").write_text(json.dumps(entries))


def test_a_logo_nobody_has_reviewed_is_passed_over(folder):
    terms = {"file": "a.png", "licence": "https://example.org/brand"}
    listed(folder, {LAKESIDE: {**terms, "reviewed_by": "R. Viewer"}, HILLSIDE: terms})

    assert logos.reviewed(folder) == {LAKESIDE: png()}


@pytest.mark.parametrize(
    ("name", "said"),
    [("../a.png", "does not lie"), ("b.png", "cannot be read"), ("c.svg", "c.svg is no PNG.")],
)
def test_a_reviewed_logo_that_cannot_be_used_is_named(folder, name, said):
    (folder / "c.svg").write_text("<svg/>")
    listed(folder, {LAKESIDE: {"file": name, "licence": "terms", "reviewed_by": "R. Viewer"}})

    with pytest.raises(logos.NotALogo, match=said):
        logos.reviewed(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"licence": 1, "reviewed_by": 1}}'])
def test_a_list_of_logos_that_cannot_be_read_is_said(folder, text):
    (folder / "logos.json").write_text(text)

    with pytest.raises(logos.NotALogo, match=r"no logos\.json that can be read"):
        logos.reviewed(folder)


def test_a_pack_gives_back_its_logos_and_passes_over_other_lines():
    given = {LAKESIDE: png(), HILLSIDE: png()}
    raw = logos.write(given)

    assert raw == logos.write(dict(reversed(given.items())))
    assert raw.count(b"\n") == 1, "one picture for two stands there once"
    assert logos.read(raw + b'{"is":"later"}\n') == given


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"is":"logo","organizations":["\xc3\xa9"],"png":""}',
        b'{"is":"logo","organizations":[],"png":"!"}',
        logos.write({LAKESIDE: png(extra=TEXT)}),
        logos.write({LAKESIDE: b"<svg/>"}),
    ],
)
def test_a_pack_with_anything_else_in_it_is_refused_whole(line):
    with pytest.raises(logos.NotALogo):
        logos.read(logos.write({HILLSIDE: png()}) + line)


def test_more_logos_than_a_reader_takes_are_not_packed():
    with pytest.raises(logos.NotALogo, match="more than 6 MiB"):
        logos.write({LAKESIDE: bytes(7 << 20)})


# ----------------------------------------------------------------- in a snapshot


@pytest.fixture
def house(tmp_path):
    made = Lighthouse(tmp_path / "published")
    made.publish(people_type(), logos={LAKESIDE: png()})
    return made


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


def taken(shelf, house, fetch=None):
    shelf.take("main", fetch or house.fetch, house.trust, now=NOW)
    shelf.take_logos("main", fetch or house.fetch)
    return shelf.logos("main")


def test_a_snapshot_brings_its_logos_and_the_same_ones_once(shelf, house):
    asked = []

    def fetch(name, most):
        asked.append(name)
        return house.fetch(name, most)

    assert taken(shelf, house, fetch) == {LAKESIDE: png()}
    house.publish(people_type()[:3], logos={LAKESIDE: png()})
    assert taken(shelf, house, fetch) == {LAKESIDE: png()}
    assert len([name for name in asked if name.startswith("logos-")]) == 1
    house.publish(people_type()[:3])
    assert taken(shelf, house, fetch) == {}


def test_logos_that_are_not_the_signed_ones_are_not_shown(shelf, house):
    (file,) = house.folder.glob("logos-*")
    packed = file.read_bytes()
    file.write_bytes(packed[:-1] + bytes([packed[-1] ^ 1]))
    shelf.take("main", house.fetch, house.trust, now=NOW)
    with pytest.raises(Refused) as refused:
        shelf.take_logos("main", house.fetch)
    assert refused.value.reason == "hash"
    assert shelf.logos("main") == {}

    file.write_bytes(packed)
    assert taken(shelf, house) == {LAKESIDE: png()}
    (shelf.folder / "main" / "logos").write_bytes(b"something else")
    assert shelf.logos("main") == {}


@pytest.mark.parametrize("kept", [b"<svg/>", png(extra=TEXT)])
def test_signed_logos_that_are_more_than_pictures_are_refused_too(shelf, house, kept):
    house.publish(people_type(), logos={LAKESIDE: kept})
    shelf.take("main", house.fetch, house.trust, now=NOW)
    with pytest.raises(Refused) as refused:
        shelf.take_logos("main", house.fetch)
    assert refused.value.reason == "content"
    assert not (shelf.folder / "main" / "logos").exists()


def test_a_snapshot_carried_by_hand_carries_its_logos(shelf, house, tmp_path):
    manifest = publish.last_manifest(house.folder)
    publish.bundle(house.folder, manifest, tmp_path / "one.zip")

    assert taken(shelf, house, reader_of(tmp_path / "one.zip")) == {LAKESIDE: png()}


def test_logos_swapped_after_the_build_are_not_signed(house):
    (file,) = house.folder.glob("logos-*")
    file.write_bytes(b"other")

    with pytest.raises(publish.NotMade, match="is not the file that was built"):
        publish.sign(house.folder, house.delegation(), [house.key])


def test_without_a_snapshot_there_are_no_logos(shelf):
    assert shelf.logos("main") == {}
    with pytest.raises(KeyError):
        shelf.take_logos("main", lambda *_: b"")
