"""Files a person brings, from disk to items and into a vault."""

import io
import json
import random
import tracemalloc
import zipfile

import orjson
import pytest

from phr.bench import house
from phr.connectors.base import Outcome
from phr.connectors.upload import Upload, shown
from phr.errors import InvalidInput
from phr.fhir import slicing
from phr.fhir.record import Selection
from phr.store import records
from tests.corpus import corpus
from tests.fixtures_keep import hospital, keep_all, lab, vault

__all__ = ["hospital", "vault"]


def items_of(content, name=""):
    return list(slicing.slices(io.BytesIO(content), name))


def bundle(*resources, indent=None):
    entries = [
        {"fullUrl": f"urn:uuid:{n}", "resource": orjson.loads(raw)}
        for n, raw in enumerate(resources)
    ]
    return json.dumps(
        {"resourceType": "Bundle", "type": "collection", "entry": entries}, indent=indent
    ).encode()


def read(tmp_path, *files):
    given = []
    for number, (name, content) in enumerate(files):
        path = tmp_path / f"upload-{number}"
        path.write_bytes(content)
        given.append((name, path))
    pages = list(Upload(given).fetch())
    return [item for page in pages for item in page.items], pages


def test_a_bundle_is_cut_into_the_bytes_that_stand_in_it():
    raws = [lab("1", "1.10"), b'{ "resourceType" : "Device",\n "id":"2" }']
    content = (
        b'{"resourceType":"Bundle","entry":[{"resource":%s,"fullUrl":"u"}, {"resource":%s}]}'
        % (
            raws[0],
            raws[1],
        )
    )
    found = items_of(content)
    assert raws == [item.body for item in found]
    assert [item.place for item in found] == ["entry 1", "entry 2"]
    assert [item.url for item in found] == ["u", None]


@pytest.mark.parametrize("indent", [None, 4])
def test_a_bundle_larger_than_any_window_is_cut_the_same(monkeypatch, indent):
    raws = [lab(str(number), note=[{"text": "é" * (number % 50)}]) for number in range(60)]
    content = bundle(*raws, indent=indent)
    whole = [item.body for item in items_of(content)]
    monkeypatch.setattr(slicing, "CHUNK", 257)
    assert whole == [item.body for item in items_of(content)]
    assert [orjson.loads(raw) for raw in raws] == [orjson.loads(body) for body in whole]


@pytest.mark.parametrize("order", range(6))
def test_the_elements_of_a_bundle_may_come_in_any_order(order):
    entry = [{"resource": orjson.loads(lab("1", "5.5"))}]
    elements = [
        ("resourceType", "Bundle"),
        ("entry", entry),
        ("meta", {"tag": [{"code": "x]}"}]}),
        ("total", 1),
    ]
    random.Random(order).shuffle(elements)  # noqa: S311  no secret
    assert [lab("1", "5.5")] == [
        orjson.dumps(orjson.loads(item.body))
        for item in items_of(json.dumps(dict(elements)).encode())
    ]


def test_ndjson_may_have_a_mark_blank_lines_and_broken_lines():
    content = (
        b"\xef\xbb\xbf"
        + lab("1")
        + b"\r\n\r\n\n"
        + b'{"resourceType": nonsense}\nnot json\n'
        + lab("2")
    )
    found = items_of(content, "labs.ndjson")
    assert [lab("1"), b'{"resourceType": nonsense}', b"not json", lab("2")] == [
        item.body for item in found
    ]
    assert found[0].place == "labs.ndjson line 1"
    assert found[3].place == "labs.ndjson line 4"


@pytest.mark.parametrize("broken", [b'{"broken', b'{"a":{"b":', b'{"a":"x', b'{"a":[}]'])
def test_a_broken_line_does_not_take_the_next_one_with_it(broken):
    found = items_of(lab("1") + b"\n" + broken + b"\n" + lab("2") + b"\n" + lab("3"))
    assert [item.body for item in found] == [lab("1"), broken, lab("2"), lab("3")]
    found = items_of(broken + b"\n" + lab("2"))
    assert [item.body for item in found] == [broken, lab("2")]


def test_a_single_resource_and_an_array_of_them_are_read():
    assert [lab("1")] == [item.body for item in items_of(lab("1") + b"\n")]
    assert [lab("1"), lab("2")] == [
        item.body for item in items_of(b"[" + lab("1") + b" ,\n" + lab("2") + b"]")
    ]
    listed = b'{"resourceType":"List","id":"1","entry":[{"item":{"reference":"Patient/1"}}]}'
    assert [listed] == [item.body for item in items_of(listed)]


@pytest.mark.parametrize("at", range(40, 2000, 131))
def test_a_file_that_breaks_off_keeps_its_whole_entries_and_says_so(vault, hospital, at):
    content = bundle(*(lab(str(number)) for number in range(9)))[:at]
    found = items_of(content)
    whole = [item for item in found if item.body.endswith(b"}") and item.url]
    kept = keep_all(vault, hospital, found)
    assert len(whole) == kept.new
    assert kept.quarantined or not found


@pytest.mark.parametrize("content", [b"", b"  \n", b"<ClinicalDocument/>", b"%PDF-1.7", b"hello"])
def test_what_is_no_json_is_refused_in_words(content):
    with pytest.raises(InvalidInput):
        items_of(content)


@pytest.mark.parametrize(
    "bad",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"x":"' + b"\\" * 7 + b'"","y":}',
        b'{"a":1e999999}',
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_an_outrageous_entry_does_not_hurt_its_neighbours(vault, hospital, bad):
    content = b'{"resourceType":"Bundle","entry":[{"resource":%s},{"resource":%s},{"resource":%s}]}'
    found = items_of(content % (lab("1"), bad, lab("2")))
    kept = keep_all(vault, hospital, found)
    assert kept.new == 2


def test_the_same_file_twice_changes_nothing(tmp_path, vault):
    upload = house.connection(vault, kind="upload")
    content = bundle(lab("1"), lab("1", "6.6"), b'{"resourceType":"Device"}')
    first, _ = read(tmp_path, ("a.json", content))
    assert (
        keep_all(vault, upload, first).new,
        keep_all(vault, upload, first).changed + 1,
    ) == (2, 1)
    assert keep_all(vault, upload, first).unchanged == 3


def test_a_zip_is_read_member_by_member(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../etc/Observation.ndjson", lab("1") + b"\n" + lab("2"))
        archive.writestr("deep/b.json", bundle(lab("3")))
        archive.writestr("inner.zip", b"PK\x03\x04")
        archive.writestr("hidden.json", b"PK\x03\x04")
        archive.writestr("scan.pdf", b"%PDF")
    items, pages = read(tmp_path, ("my export.zip", packed.getvalue()))
    assert [item.place for item in items] == [
        "Observation.ndjson line 1",
        "Observation.ndjson line 2",
        "b.json entry 1",
    ]
    refused = {page.chain: page.sentence for page in pages if page.outcome is Outcome.REFUSED}
    assert {
        "my export.zip: inner.zip",
        "my export.zip: hidden.json",
        "my export.zip: scan.pdf",
    } == set(refused)
    assert not (tmp_path.parent / "etc").exists()


def test_a_zip_bomb_is_counted_and_never_unpacked(tmp_path):
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb.ndjson", "w") as member,
    ):
        for _ in range(200):
            member.write(b" " * 1_000_000)
    tracemalloc.start()
    items, pages = read(tmp_path, ("bomb.zip", packed.getvalue()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert items == []
    assert Outcome.BROKEN is pages[0].outcome
    assert "far more than it is" in pages[0].sentence
    assert peak < 20_000_000


def test_a_damaged_zip_keeps_what_was_whole(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.ndjson", lab("1"))
        archive.writestr("b.ndjson", lab("2") + b" " * 400_000)
    content = packed.getvalue().replace(b" " * 100, b" " * 99 + b"x", 1)
    items, pages = read(tmp_path, ("x.zip", content))
    assert lab("1") == items[0].body
    assert Outcome.BROKEN is pages[-1].outcome
    _, pages = read(tmp_path, ("cut.zip", packed.getvalue()[:-30]))
    assert pages[0].sentence == "This zip file is damaged."


def test_a_large_file_needs_little_memory(tmp_path):
    path = tmp_path / "large.json"
    raw = lab("1", note=[{"text": "x" * 2000}])
    with path.open("wb") as file:
        file.write(b'{"resourceType":"Bundle","entry":[')
        for _ in range(12_000):
            file.write(b'{"resource":%s},' % raw)
        file.write(b'{"resource":%s}]}' % raw)
    tracemalloc.start()
    count = sum(len(page.items) for page in Upload([("large.json", path)]).fetch())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 12_001
    assert peak < path.stat().st_size / 4


def test_own_exports_bring_their_attachments(tmp_path):
    packed = io.BytesIO()
    manifest = {
        "attachments": [
            {
                "record": "DocumentReference/1",
                "url": "#1",
                "hash": "ab",
                "media_type": "text/plain",
            },
            {"hash": 1},
            7,
        ]
    }
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("attachments/ab", b"hello")
        archive.writestr("1-hospital/Observation.ndjson", lab("1"))
    path = tmp_path / "export.zip"
    path.write_bytes(packed.getvalue())
    upload = Upload([("export.zip", path)])
    assert [lab("1")] == [item.body for page in upload.fetch() for item in page.items]
    (brought,) = upload.attachments()
    assert (brought.record, brought.url, brought.content) == ("DocumentReference/1", "#1", b"hello")


@pytest.mark.parametrize(
    "name", ["../../x", "a\r\nSet-Cookie: b", "x" * 4000, "\u202egpj.exe", "", "c:\\con"]
)
def test_names_are_only_ever_shown(name):
    label = shown(name)
    assert label.isprintable()
    assert 0 < len(label) <= 80
    assert "/" not in label
    assert "\\" not in label


@pytest.mark.corpus
@pytest.mark.parametrize(
    "folder", ["synthea-r4", "ips", "uscore-reference", "phr-ndjson", "health-card"]
)
def test_published_examples_are_kept_to_the_byte(tmp_path, vault, folder):
    upload = house.connection(vault, kind="upload")
    files = [
        path
        for path in sorted((corpus() / "fhir" / folder).rglob("*"))
        if path.suffix in (".json", ".ndjson", ".phr")
    ]
    items = [
        item
        for page in Upload([(path.name, path) for path in files]).fetch()
        for item in page.items
    ]
    kept = keep_all(vault, upload, items)
    assert kept.new
    bodies = {item.body.strip() for item in items}
    with vault.read() as session:
        assert {record.body for record in records.select(session, vault, Selection())} <= bodies
    again = keep_all(vault, upload, items)
    assert (again.new, again.changed) == (0, 0)
