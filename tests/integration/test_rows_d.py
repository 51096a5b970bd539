"""Rows D of the list of bad inputs (docs/security-rows.md) that no other test covers."""

import base64
import hashlib
import io
import json
import tracemalloc
import zipfile

import pytest

from phr.fhir.record import Selection
from phr.fhir.slicing import slices
from phr.store import records
from tests.fixtures_records import keep_records

OTHER_SHA1 = "0JQeaNqPOBUf+Gph/Fn3xc+fyqI="  # of b"other"
LETTER_SHA1 = "Kz39mtl7PyRnHDksWnFvAP6gjuM="
LETTER = b"Dear Juniper,\nall is well.\n"


@pytest.fixture
def ada(cast):
    return cast.browser("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}"


def file_of(cast, base, content, **more):
    """Keep a document that holds these bytes; return the address of its file page."""
    data = base64.b64encode(content).decode()
    document = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "content": [{"attachment": {"contentType": "text/plain", "data": data, **more}}],
    }
    vault = cast.vault("Ada")
    keep_records(vault, [document])
    with vault.read() as session:
        (record,) = records.select(session, vault, Selection(types=("DocumentReference",)))
    return f"{base}/record/DocumentReference/{record.local_id}/file/0"


def packed(*members):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return held.getvalue()


def taken_in(ada, base, name, content):
    """Bring a file through the page; return what the page then says."""
    answer = ada.post(f"{base}/files", data={"csrf": ada.csrf()}, files={"file": (name, content)})
    assert answer.status_code in {303, 422}
    return ada.get(f"{base}/files?taken=1").text if answer.status_code == 303 else answer.text


# ------------------------------------------------------------------ what a file says it is


DIFFERENT = {
    "size": {"size": 5},
    "hash": {"hash": OTHER_SHA1},
    "no hash": {"hash": "???"},
}


@pytest.mark.parametrize("told", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_a_file_of_another_size_or_checksum_than_announced_says_so(cast, ada, base, told):
    page = ada.get(file_of(cast, base, LETTER, **told)).text
    assert "announces another size or checksum" in page


def test_a_file_as_announced_says_nothing(cast, ada, base):
    page = ada.get(file_of(cast, base, LETTER, size=len(LETTER), hash=LETTER_SHA1)).text
    assert "Dear Juniper" in page
    assert "announces another" not in page


OFFICE = packed(("[Content_Types].xml", b"<Types/>"), ("word/vbaProject.bin", b"\xd0\xcf\x11\xe0"))
DANGEROUS = {
    "macro office file": OFFICE,
    "old office file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600,
    "program": b"MZ\x90\0\x03\0\0\0" + b"\0" * 600,
    "pdf": b"%PDF-1.7\n/OpenAction /JavaScript",
}


@pytest.mark.parametrize("content", DANGEROUS.values(), ids=DANGEROUS.keys())
def test_what_may_hold_a_program_is_only_saved_and_says_so(cast, ada, base, content):
    place = file_of(cast, base, content, title="letter.docm.pdf.hta")
    page = ada.get(place).text
    assert "not opened inside Homeport" in page
    assert "a program you trust" in page
    assert ada.get(f"{place}/content").status_code == 404
    saved = ada.get(f"{place}/save")
    assert saved.content == content
    assert saved.headers["content-disposition"].startswith("attachment;")
    assert ".hta" not in saved.headers["content-disposition"]
    assert saved.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in saved.headers["content-security-policy"]


ACTIVE = {
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "xhtml": b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><script/></html>",
    "stylesheet": b"<?xml-stylesheet href='http://evil.example/x.xsl'?><a/>",
    "html": b"<html><body onload=alert(1)><script>alert(2)</script>Hello</body></html>",
    "mhtml": b"MIME-Version: 1.0\nContent-Type: multipart/related\n\n<script>alert(1)</script>",
    "gif and script": b"GIF89a" + b"\x01\0\x01\0" + b"/*" + b"\0" * 20 + b"*/=1;alert(1)",
    "markdown": b"# Hi\n\n<img src=x onerror=alert(1)> [x](javascript:alert(1))",
}


@pytest.mark.parametrize("content", ACTIVE.values(), ids=ACTIVE.keys())
@pytest.mark.parametrize("said", ["text/html", "image/svg+xml", "application/pdf; charset=x"])
def test_nothing_active_runs_in_a_page_of_ours(cast, ada, base, content, said):
    place = file_of(cast, base, content, contentType=said)
    page = ada.get(place).text
    for bad in ("<script>alert", "onerror=alert(1)>", "<svg xmlns", "onload=alert(1)>"):
        assert bad not in page
    answer = ada.get(f"{place}/content")
    if answer.status_code == 200:
        assert "script" not in answer.text
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["content-type"].partition(";")[0] in {"text/html", "image/gif"}
    saved = ada.get(f"{place}/save")
    assert saved.headers["content-disposition"].startswith("attachment;")


NAMES = ("../../x", "con", "a\r\nSet-Cookie: x=1", "n" * 4000, "\u202etxt.exe", 'a"b', "%00%2f", "")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_saved_file_has_a_harmless_name_of_ours(cast, ada, base, name):
    saved = ada.get(file_of(cast, base, LETTER, title=name) + "/save")
    assert saved.content == LETTER
    given = saved.headers["content-disposition"]
    assert given.isascii()
    assert len(given) < 120
    assert "set-cookie" not in saved.headers
    assert not set("/\\%\r\n") & set(given)
    assert given.count('"') == 2


# ------------------------------------------------------------------ zips


def test_names_inside_a_zip_lead_nowhere(cast, ada, base, tmp_path):
    plain = b'{"resourceType":"Observation","id":"%d","code":{"text":"x"}}'
    link = zipfile.ZipInfo("l.json")
    link.external_attr = 0o120777 << 16
    names = ["../../x.json", "/etc/cron.d/x.json", "C:\\x.json", "a\r\nb.json", "con.json"]
    members = [(name, plain % number) for number, name in enumerate(names)]
    before = sorted(path.name for path in tmp_path.rglob("*") if not path.name.endswith("-wal"))
    said = taken_in(ada, base, "../../up.zip", packed(*members, (link, b"/etc/passwd")))
    assert "5 new" in said
    assert "root:" not in said
    after = sorted(path.name for path in tmp_path.rglob("*") if not path.name.endswith("-wal"))
    assert after == before


def test_a_locked_and_a_packed_again_and_a_lying_zip_are_told_in_words(ada, base):
    good = packed(("a.json", b'{"resourceType":"Observation","id":"1"}'))
    locked = bytearray(good)
    locked[6] |= 1
    locked[good.find(b"PK\x01\x02") + 8] |= 1
    assert "password" in taken_in(ada, base, "l.zip", bytes(locked))
    assert "zip inside a zip" in taken_in(ada, base, "n.zip", packed(("in.zip", good)))
    lying = bytearray(good)
    at = good.find(b"PK\x01\x02") + 24
    lying[at : at + 4] = b"\xff\xff\xff\x7f"
    assert "far more than it is" in taken_in(ada, base, "z.zip", bytes(lying))
    for cut in (10, 40, len(good) - 5):
        assert "kept" in taken_in(ada, base, "c.zip", good[:cut])


def test_the_same_name_twice_in_a_zip_keeps_both(ada, base):
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = packed(
            ("a.json", b'{"resourceType":"Observation","id":"1"}'),
            ("a.json", b'{"resourceType":"Observation","id":"2"}'),
        )
    assert "2 new" in taken_in(ada, base, "t.zip", twice)


def weighed(work):
    """Return what `work` says and how many bytes were held at its worst moment."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_giant_attachment_in_an_export_costs_no_memory(ada, base):
    listed = [{"record": "DocumentReference/0", "url": "x", "hash": "ab", "media_type": "x/y"}]
    noise = hashlib.shake_128(b"noise").digest(8192)
    giant = (noise + bytes(1_000_000)) * 200
    zipped = packed(
        ("manifest.json", json.dumps({"attachments": listed})), ("attachments/ab", giant)
    )
    del giant
    _, most = weighed(lambda: taken_in(ada, base, "e.zip", zipped))
    assert most < 96_000_000


def test_a_line_without_end_costs_no_more_than_the_largest_record(tmp_path):
    """100 MB in one line, as an object and as no JSON at all: told, and the next line is taken."""
    good = b'{"resourceType":"Observation","id":"1"}\n'
    place = tmp_path / "long.ndjson"
    for begin in (b'{"resourceType":"Observation","id":"2","note":"', b"nothing "):
        with place.open("wb") as file:
            file.write(good + begin)
            for _ in range(100):
                file.write(b"x" * 1_000_000)
            file.write(b'"}\n' + good)
        with place.open("rb") as file:
            items, most = weighed(lambda held=file: list(slices(held)))
        assert [len(item.body) for item in items] == [39, 1 << 20, 39]
        assert most < 100_000_000
        assert ("larger than 40 MB" in items[1].place) is begin.startswith(b"{")


def test_a_zip_of_too_many_files_is_refused_before_its_directory_is_read(ada, base):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for number in range(60_000):
            archive.writestr(zipfile.ZipInfo(f"{number}.json"), b"")
    said, most = weighed(lambda: taken_in(ada, base, "m.zip", held.getvalue()))
    assert "20,000" in said
    assert most < 4 * len(held.getvalue())
