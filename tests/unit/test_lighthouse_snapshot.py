"""Snapshots: the same bytes each time, and every attack of the specification refused."""

import json
from dataclasses import replace

import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lighthouse import index, lines, merge, publish, snapshot
from lighthouse.snapshot import Refused, Shelf, Trust
from tests.fixtures_lighthouse import (
    DAY,
    HILL,
    LAKE,
    NOW,
    OTHER,
    Lighthouse,
    endpoint,
    files_below,
    organization,
    people_type,
)


@pytest.fixture
def house(tmp_path):
    return Lighthouse(tmp_path / "published")


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def kept(house, shelf):
    """A reader that holds serial 5."""
    house.publish(people_type(), serial=5)
    shelf.take("main", house.fetch, house.trust, now=NOW)
    return files_below(shelf.folder)


def refuses(shelf, house, reason, *, now=NOW, fetch=None, trust=None):
    """Nothing is taken, the reason is right, and what was kept stays byte for byte."""
    before = files_below(shelf.folder) if shelf.folder.exists() else {}
    with pytest.raises(Refused) as caught:
        shelf.take("main", fetch or house.fetch, trust or house.trust, now=now)
    assert caught.value.reason in reason.split()
    assert (files_below(shelf.folder) if shelf.folder.exists() else {}) == before


def forged(house, change, *, key=None):
    """Rewrite the manifest and sign it again: what somebody with the signing key could do."""
    path = house.folder / "snapshot.json"
    envelope = json.loads(path.read_bytes())
    manifest = json.loads(snapshot.public_bytes(envelope["manifest"]["payload"]))
    change(manifest)
    envelope["manifest"] = publish._signed(
        "manifest", json.dumps(manifest).encode(), [key or house.key]
    )
    path.write_text(json.dumps(envelope))


# --------------------------------------------------------------------------- what is published


def test_same_catalogue_dates_and_keys_give_the_same_bytes(tmp_path):
    one, other = Lighthouse(tmp_path / "one"), Lighthouse(tmp_path / "other")
    other.root, other.key = one.root, one.key
    for house in (one, other):
        house.publish(people_type())
        house.publish(people_type()[1:], at=NOW + DAY)

    assert files_below(one.folder) == files_below(other.folder)


def test_order_of_the_organisations_does_not_change_the_bytes():
    there = lines.write(lines.content_of(people_type()))

    assert lines.write(lines.content_of(reversed(people_type()))) == there


def test_lines_say_what_was_written():
    content = lines.content_of(
        people_type(), {"Epic": {"aud": "exact"}}, {HILL.id: {"pkce": "S256"}}
    )

    read = lines.read(lines.write(content))

    assert {one.id: one for one in read.organizations} == {one.id: one for one in people_type()}
    assert read.endpoints == {end.id: end for end in (LAKE, HILL, OTHER)}
    assert (read.vendors, read.overrides) == (content.vendors, content.overrides)


@pytest.mark.parametrize("url", ["https://a.example.org/r4/", "https://b.example.org/x", LAKE.url])
def test_id_made_of_an_address_is_the_catalogues(url):
    assert lines.derived(url) == merge.endpoint_id(url.rstrip("/"))


def test_daily_dates_of_living_endpoints_are_not_published():
    alive = replace(
        LAKE, answer="alive", last_ok="2026-03-01", probed="2026-03-01", last_listed="2026-02"
    )

    line = json.loads(lines.endpoint_line(alive))

    assert not line.keys() & {"last_ok", "probed", "last_listed"}
    assert (
        json.loads(lines.endpoint_line(replace(alive, answer="no answer")))["last_ok"]
        == "2026-03-01"
    )


def test_endpoint_that_no_shown_organisation_has_is_published_too(house):
    lone = endpoint("https://fhir.lone.example.org/r4", "https://fhir.lone.example.org/token")

    read = lines.read(lines.write(lines.content_of(people_type(), endpoints=[lone, LAKE])))

    assert read.endpoints.keys() == {LAKE.id, HILL.id, OTHER.id, lone.id}


def test_unknown_members_and_kinds_of_a_later_version_are_passed_over():
    raw = lines.write(lines.content_of(people_type()))
    later = b'{"is":"weather","sun":true}\n' + raw.replace(
        b'"is":"endpoint"', b'"is":"endpoint","new":1'
    )

    assert lines.read(later) == lines.read(raw)


# --------------------------------------------------------------------------- what is taken


def test_snapshot_is_taken_and_searched_without_a_network(house, shelf):
    house.publish(people_type(), services={"redirect": "https://lighthouse.example.org/r"})

    kept = shelf.take("main", house.fetch, house.trust, now=NOW)
    found = snapshot.open_index(shelf.index(["main"]))

    assert (kept.serial, kept.organizations, kept.endpoints, kept.expired) == (1, 4, 3, False)
    assert kept.services == {"redirect": "https://lighthouse.example.org/r"}
    best = found.find("lakside helth", 1)[0].organization
    assert best == people_type()[0]
    assert found.find("LHS trust", 1)[0].organization.id == best.id
    assert found.endpoint(LAKE.id) == LAKE
    assert found.endpoint_at("https://FHIR.lakeside-health.org/api/FHIR/R4") == LAKE
    assert found.lighthouse(LAKE.id) == "main"
    found.close()


def test_index_file_finds_what_the_search_in_memory_finds(house, shelf):
    house.publish(people_type())
    shelf.take("main", house.fetch, house.trust, now=NOW)
    memory = snapshot.Search(people_type())
    with snapshot.open_index(shelf.index(["main"])) as file:
        for typed in (
            "hill",
            "97701",
            "zoe son",
            "myhill",
            "lhs",
            "ruritania",
            "nothing at all",
            "hillsde clinc",
        ):
            assert file.find(typed) == memory.find(typed), typed


def test_same_snapshot_again_fetches_one_small_file(house, shelf):
    house.publish(people_type())
    shelf.take("main", house.fetch, house.trust, now=NOW)
    asked = []

    shelf.take(
        "main",
        lambda name, most: asked.append(name) or house.fetch(name, most),
        house.trust,
        now=NOW,
    )

    assert asked == ["snapshot.json"]


def test_new_dates_without_new_content_cost_one_small_file(house, shelf, kept):
    manifest = house.publish(people_type(), at=NOW + DAY)
    asked = []

    now = shelf.take(
        "main", lambda n, m: asked.append(n) or house.fetch(n, m), house.trust, now=NOW + DAY
    )

    assert asked == ["snapshot.json"]
    assert now.serial == manifest.serial == 6
    assert manifest.catalogue.file == "catalogue-5.ndjson.zst"


def test_delta_is_fetched_instead_of_the_whole(house, shelf, kept):
    house.publish(people_type()[:2], at=NOW + DAY)
    asked = []

    shelf.take(
        "main", lambda n, m: asked.append(n) or house.fetch(n, m), house.trust, now=NOW + DAY
    )

    assert asked == ["snapshot.json", "delta-5-6.zst"]
    assert [one.id for one in shelf.load("main").content.organizations] == [
        f"{2:032x}",
        f"{1:032x}",
    ]


def test_damaged_delta_costs_the_whole_file_and_no_more(house, shelf, kept):
    house.publish(people_type()[:2], at=NOW + DAY)
    delta = house.folder / "delta-5-6.zst"
    delta.write_bytes(delta.read_bytes()[:-1] + b"\x00")
    asked = []

    taken = shelf.take(
        "main", lambda n, m: asked.append(n) or house.fetch(n, m), house.trust, now=NOW + DAY
    )

    assert asked == ["snapshot.json", "delta-5-6.zst", "catalogue-6.ndjson.zst"]
    assert taken.serial == 6


@pytest.mark.parametrize("failure", [FileNotFoundError, TimeoutError, ConnectionError])
def test_delta_that_does_not_come_costs_the_whole_file_and_no_more(house, shelf, kept, failure):
    house.publish(people_type()[:2], at=NOW + DAY)

    def fetch(name, most):
        if name.startswith("delta"):
            raise failure(name)
        return house.fetch(name, most)

    assert shelf.take("main", fetch, house.trust, now=NOW + DAY).serial == 6


def test_file_carried_by_hand_takes_the_place_of_the_one_before(house, shelf, tmp_path):
    for days, people in enumerate((people_type(), people_type()[:2])):
        carried = tmp_path / f"carried-{days}.zip"
        manifest = house.publish(people, at=NOW + days * DAY)
        publish.bundle(house.folder, manifest, carried)
        fetch = snapshot.reader_of(carried)
        taken = shelf.take("main", fetch, house.trust, now=NOW + days * DAY)

    assert taken.serial == 2
    assert len(shelf.load("main").content.organizations) == 2


def test_reader_two_snapshots_behind_gets_a_delta_of_its_own(house, shelf, kept):
    house.publish(people_type()[:3], at=NOW)
    house.publish(people_type()[:2], at=NOW + DAY)

    assert {delta.since for delta in publish.last_manifest(house.folder).deltas} == {5, 6}
    assert shelf.take("main", house.fetch, house.trust, now=NOW + DAY).serial == 7


def test_one_file_carried_by_hand_is_a_snapshot_too(house, shelf, tmp_path):
    manifest = house.publish(people_type())
    publish.bundle(house.folder, manifest, tmp_path / "carried.zip")

    taken = shelf.take("main", snapshot.reader_of(tmp_path / "carried.zip"), house.trust, now=NOW)

    assert taken.serial == 1


def test_file_that_is_no_zip_is_refused(house, shelf, tmp_path):
    (tmp_path / "some.zip").write_bytes(b"no zip")

    refuses(shelf, house, "format", fetch=snapshot.reader_of(tmp_path / "some.zip"))


# --------------------------------------------------------------------------- attacks


def test_older_serial_is_refused(house, shelf, kept):
    house.publish(people_type()[:1], serial=4)

    refuses(shelf, house, "rollback")


def test_second_snapshot_with_the_same_serial_is_refused(house, shelf, kept):
    house.publish(people_type()[:1], serial=5)

    refuses(shelf, house, "rollback")


def test_expired_snapshot_is_refused(house, shelf, kept):
    house.publish(people_type()[:1], at=NOW, days=10)

    refuses(shelf, house, "expired", now=NOW + 10 * DAY)


def test_frozen_lighthouse_is_told_by_the_date_of_what_is_kept(house, shelf, kept):
    assert not shelf.kept(now=NOW + 29 * DAY)[0].expired
    assert shelf.kept(now=NOW + 30 * DAY)[0].expired
    assert snapshot.open_index(shelf.index(["main"])).find("hillside")  # it goes on answering


def test_expired_signing_key_is_refused(house, shelf, kept):
    house.publish(people_type(), at=NOW + 80 * DAY)

    refuses(shelf, house, "expired", now=NOW + 95 * DAY)


def test_snapshot_from_the_future_is_refused(house, shelf):
    house.publish(people_type(), at=NOW + 3 * DAY)

    refuses(shelf, house, "format", now=NOW)


def test_signing_key_that_was_replaced_is_refused(house, shelf):
    house.publish(people_type())
    old = files_below(house.folder)["snapshot.json"]
    stolen, house.key = house.key, Ed25519PrivateKey.generate()
    fresh = publish.delegate([house.root], [publish.public_of(house.key)], starts=NOW, days=90)
    publish.sign(house.folder, fresh, [house.key])
    shelf.take("main", house.fetch, house.trust, now=NOW)
    (house.folder / "snapshot.json").write_bytes(old)
    forged(house, lambda manifest: manifest.update(serial=9), key=stolen)

    refuses(shelf, house, "rollback")


@pytest.mark.parametrize("level", ["delegation", "manifest"])
def test_signature_of_a_stranger_is_refused(house, shelf, kept, level):
    house.publish(people_type()[:1], at=NOW + DAY)
    stranger = Ed25519PrivateKey.generate()
    path = house.folder / "snapshot.json"
    envelope = json.loads(path.read_bytes())
    payload = snapshot.public_bytes(envelope[level]["payload"])
    envelope[level] = publish._signed(level, payload, [stranger])
    path.write_text(json.dumps(envelope))

    refuses(shelf, house, "signature", now=NOW + DAY)


def test_signature_of_one_role_does_not_serve_another(house, shelf):
    house.publish(people_type())
    path = house.folder / "snapshot.json"
    envelope = json.loads(path.read_bytes())
    payload = snapshot.public_bytes(envelope["delegation"]["payload"])
    envelope["delegation"] = publish._signed("manifest", payload, [house.root])
    path.write_text(json.dumps(envelope))

    refuses(shelf, house, "signature")


def test_one_signature_of_two_is_not_enough(house, shelf):
    house.publish(people_type())
    second = Ed25519PrivateKey.generate()
    both = Trust((*house.trust.roots, publish.public_of(second)), threshold=2)

    refuses(shelf, house, "signature", trust=both)

    keys = [publish.public_of(house.key)]
    agreed = publish.delegate([house.root, second], keys, starts=NOW - DAY, days=30)
    publish.sign(house.folder, agreed, [house.key])
    assert shelf.take("main", house.fetch, both, now=NOW).serial == 1


def test_same_signature_twice_counts_once(house, shelf):
    house.publish(people_type())
    path = house.folder / "snapshot.json"
    envelope = json.loads(path.read_bytes())
    envelope["delegation"]["signatures"] *= 2
    path.write_text(json.dumps(envelope))

    refuses(shelf, house, "signature", trust=Trust(house.trust.roots * 2, threshold=2))


def test_no_flipped_bit_changes_what_is_taken(house):
    right = house.publish(people_type()[:3])
    good = files_below(house.folder)
    raw = snapshot.fetch_content(right, lambda name, _: good[name], None)
    flips = 0
    for name in ("snapshot.json", right.catalogue.file):
        for bit in range(3, len(good[name]) * 8, 37):
            data = bytearray(good[name])
            data[bit // 8] ^= 1 << bit % 8
            flipped = {**good, name: bytes(data)}
            try:
                found = snapshot.check(flipped["snapshot.json"], house.trust, now=NOW).manifest
                content = snapshot.fetch_content(found, lambda n, _, f=flipped: f[n], None)
            except Refused:
                flips += 1
            else:  # the last letter of a base64 text has bits that mean nothing
                assert (found, content) == (right, raw)
    assert flips > 300


def test_flipped_bit_leaves_what_is_kept(house, shelf, kept):
    manifest = house.publish(people_type()[:1], at=NOW + DAY, deltas=0)
    path = house.folder / manifest.catalogue.file
    data = path.read_bytes()
    path.write_bytes(data[:50] + bytes([data[50] ^ 16]) + data[51:])

    refuses(shelf, house, "hash", now=NOW + DAY)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_truncated_file_is_refused(house, shelf, cut):
    house.publish(people_type())
    path = house.folder / "catalogue-1.ndjson.zst"
    path.write_bytes(path.read_bytes()[:cut])

    refuses(shelf, house, "size")


def test_longer_file_is_refused(house, shelf):
    house.publish(people_type())
    path = house.folder / "catalogue-1.ndjson.zst"
    path.write_bytes(path.read_bytes() + b"more")

    refuses(shelf, house, "size")


def bomb(house, unpacked, *, said=None):
    """Publish a file that unpacks to `unpacked` zeros, signed like any other."""
    packed = zstandard.ZstdCompressor(level=19, write_content_size=False).compress(bytes(unpacked))
    house.publish(people_type())
    path = house.folder / "catalogue-1.ndjson.zst"
    path.write_bytes(packed)

    def change(manifest):
        manifest["catalogue"] |= {"size": len(packed), "sha256": snapshot._sha256(packed)}
        manifest["content"]["size"] = unpacked if said is None else said

    forged(house, change)


def test_bomb_that_says_so_is_refused_before_it_is_unpacked(house, shelf):
    bomb(house, 64 << 20)

    refuses(
        shelf,
        house,
        "size",
        fetch=lambda n, m: house.fetch(n, m) if n == "snapshot.json" else 1 / 0,
    )


def test_bomb_that_lies_is_cut_off_where_it_said_it_ends(house, shelf):
    bomb(house, 64 << 20, said=1000)

    refuses(shelf, house, "size")


def test_window_of_gigabytes_is_refused(house, shelf):
    wide = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=0)
    packed = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    data = packed.compress(b"x" * 5000) + packed.flush()
    house.publish(people_type())
    (house.folder / "catalogue-1.ndjson.zst").write_bytes(data)
    forged(house, lambda m: m["catalogue"].update(size=len(data), sha256=snapshot._sha256(data)))

    refuses(shelf, house, "hash")


@pytest.mark.parametrize(
    "name", ["../x.zst", "/etc/passwd", "a/b.zst", "snapshot.json", "..", "C:x.z"]
)
def test_file_name_that_leads_elsewhere_is_refused(house, shelf, name):
    house.publish(people_type())
    forged(house, lambda manifest: manifest["catalogue"].update(file=name))

    refuses(shelf, house, "format")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("serial"),
        lambda m: m.update(serial="5"),
        lambda m: m.update(created="2026-03-01T00:00:00"),
        lambda m: m.update(expires="soon"),
        lambda m: m.update(catalogue=None),
    ],
)
def test_manifest_of_another_form_is_refused(house, shelf, change):
    house.publish(people_type())
    forged(house, change)

    refuses(shelf, house, "format")


def test_snapshot_for_a_newer_reader_is_refused_in_words(house, shelf):
    house.publish(people_type())
    forged(house, lambda manifest: manifest.update(minimum_client=2))

    refuses(shelf, house, "client")


@pytest.mark.parametrize(
    "envelope", [b"", b"{}", b"[" * 100_000, b"\xff", b" " * 300_000, b'{"format":1}']
)
def test_description_that_is_none_is_refused(house, shelf, envelope):
    refuses(shelf, house, "format size", fetch=lambda *_: envelope)


ADDRESSES = [
    "http://fhir.lakeside-health.org/", "https://10.1.2.3/fhir", "https://127.0.0.1/", "https://localhost/x",
    "https://server/fhir", "https://[::1]/", "https://a.local/", "https://me@a.example.org/",
    "https://127.0.0.1\thost.example.org/", "ftp://a.example.org/", "https://a.example.org\\@evil.example/",
    "javascript:alert(1)", "https://2130706433/",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("member", ["url", "token", "authorize", "registration"])
def test_address_that_nobody_may_be_sent_to_is_refused(house, shelf, member, address):
    line = {"is": "endpoint", "url": "https://fhir.lakeside-health.org/r4", member: address}
    with pytest.raises(lines.Unreadable):
        lines.read(msgspec.json.encode(line))


@pytest.mark.parametrize(
    "line",
    [
        b"nothing",
        b'{"is":"endpoint"}',
        b'{"is":"endpoint","url":["https://a.example.org/"]}',
        b'{"is":"organization","id":"AAAA","name":"A","endpoints":["https://not-there.example.org/"]}',
        b'{"is":"organization","id":"?","name":"A"}',
        b'{"is":"organization","id":"AAAA","name":"A"}\n{"is":"organization","id":"AAAA","name":"B"}',
        b'{"is":"endpoint","url":"https://a.example.org"}\n{"is":"endpoint","url":"https://a.example.org/"}',
        b'{"is":"endpoint","url":"https://a.example.org","portal":"A"}',
        b'{"is":7}',
        b'{"is":"organization","id":"AAAA","name":"' + b"A" * 300_000 + b'"}',
    ],
)
def test_line_that_contradicts_the_format_is_refused(line):
    with pytest.raises(lines.Unreadable):
        lines.read(line)


def test_content_that_no_reader_would_take_is_not_published(house):
    bad = organization(9, "Inside", endpoint("https://10.0.0.1/fhir"))

    with pytest.raises(lines.Unreadable):
        house.publish([bad])


# --------------------------------------------------------------------------- swapped token hosts


def with_token(token):
    return (organization(1, "Lakeside Health System", replace(LAKE, token=token)),)


def token_of(shelf):
    return shelf.load("main").content.endpoints[LAKE.id].token


EVIL = "https://login.attacker.example.net/token"


def test_swapped_token_host_is_held_until_a_person_confirms(house, shelf):
    house.publish(people_type()[:1])
    shelf.take("main", house.fetch, house.trust, now=NOW)
    house.publish(with_token(EVIL))

    taken = shelf.take("main", house.fetch, house.trust, now=NOW)

    assert [(one.endpoint, one.field, one.old, one.new) for one in taken.held] == [
        (LAKE.id, "token", LAKE.token, EVIL)
    ]
    assert token_of(shelf) == LAKE.token
    with snapshot.open_index(shelf.index(["main"])) as index:
        assert index.endpoint(LAKE.id).token == LAKE.token
        assert index.find("lakeside", 1)[0].organization.endpoints[0].token == LAKE.token

    shelf.confirm("main", LAKE.id)

    assert token_of(shelf) == EVIL
    assert shelf.kept(now=NOW)[0].held == ()


def test_token_address_may_move_inside_its_registrable_domain(house, shelf):
    house.publish(people_type()[:1])
    shelf.take("main", house.fetch, house.trust, now=NOW)
    house.publish(with_token("https://auth2.lakeside-health.org/token"))

    taken = shelf.take("main", house.fetch, house.trust, now=NOW)

    assert taken.held == ()
    assert token_of(shelf) == "https://auth2.lakeside-health.org/token"


@pytest.mark.parametrize("between", [with_token(""), people_type()[1:2]])
def test_token_host_that_goes_away_and_comes_back_elsewhere_is_held(house, shelf, between):
    for step in (people_type()[:1], between, with_token(EVIL)):
        house.publish(step)
        taken = shelf.take("main", house.fetch, house.trust, now=NOW)

    assert [one.new for one in taken.held] == [EVIL]
    assert token_of(shelf) == LAKE.token


def test_first_token_address_at_a_strangers_site_is_held_too(house, shelf):
    for step in (with_token(""), with_token(EVIL), with_token(EVIL)):
        house.publish(step)
        taken = shelf.take("main", house.fetch, house.trust, now=NOW)

    assert [(one.old, one.new) for one in taken.held] == [("", EVIL)]
    assert token_of(shelf) == ""

    shelf.confirm("main", LAKE.id)

    assert token_of(shelf) == EVIL


def test_first_token_address_at_its_own_site_or_where_its_neighbours_sign_in_is_taken(house, shelf):
    def neighbour(number, token):
        url = f"https://fhir.vendor.example.com/{number}"
        end = replace(LAKE, id=lines.derived(url), url=url, authorize="", token=token)
        return organization(10 + number, f"Practice {number}", end)

    known, own = "https://sign.vendor-id.example.org/token", "https://vendor.example.com/token"
    house.publish((neighbour(1, known), neighbour(2, ""), neighbour(3, "")))
    shelf.take("main", house.fetch, house.trust, now=NOW)
    house.publish((neighbour(1, known), neighbour(2, known), neighbour(3, own)))

    assert shelf.take("main", house.fetch, house.trust, now=NOW).held == ()


def test_held_move_that_is_taken_back_is_forgotten(house, shelf):
    for step in (people_type()[:1], with_token(EVIL), people_type()[:1]):
        house.publish(step)
        taken = shelf.take("main", house.fetch, house.trust, now=NOW)

    assert taken.held == ()


def test_neighbours_on_a_shared_host_are_not_one_site():
    assert snapshot.same_site("https://a.hospital.co.uk/x", "https://b.hospital.co.uk/y")
    assert not snapshot.same_site("https://one.co.uk/", "https://two.co.uk/")
    assert not snapshot.same_site(
        "https://one.azurewebsites.net/", "https://two.azurewebsites.net/"
    )
    assert not snapshot.same_site("", "")


# --------------------------------------------------------------------------- the reader's folder


def test_half_written_files_do_no_harm(house, shelf, kept):
    (shelf.folder / "main" / "state.json.new").write_bytes(b"{")
    house.publish(people_type()[:1], at=NOW + DAY)

    assert shelf.take("main", house.fetch, house.trust, now=NOW + DAY).serial == 6


def test_damaged_copy_is_fetched_again_and_never_used(house, shelf, kept):
    file = next((shelf.folder / "main").glob("*.zst"))
    file.write_bytes(file.read_bytes()[:-3])
    shelf = Shelf(shelf.folder)  # another start of the appliance
    with pytest.raises(Refused):
        shelf.load("main")

    shelf.take("main", house.fetch, house.trust, now=NOW)

    assert len(shelf.load("main").content.organizations) == 4


def test_damaged_memory_of_serials_is_no_reason_to_forget_them(house, shelf, kept):
    (shelf.folder / "main" / "state.json").write_bytes(b"{}")

    refuses(shelf, house, "hash")


def test_forgotten_lighthouse_leaves_nothing(house, shelf, kept):
    shelf.forget("main")

    assert shelf.kept(now=NOW) == []
    with pytest.raises(KeyError):
        shelf.load("main")


@pytest.mark.parametrize("name", ["", "..", "A", "a/b", "-a", "a" * 60])
def test_name_of_a_lighthouse_is_no_path(shelf, house, name):
    with pytest.raises(ValueError, match="named"):
        shelf.take(name, lambda *_: b"", house.trust, now=NOW)


def test_failing_fetch_passes_through_and_changes_nothing(house, shelf, kept):
    def cut_off(_name, _most):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        shelf.take("main", cut_off, house.trust, now=NOW)
    assert files_below(shelf.folder) == kept


# --------------------------------------------------------------------------- several lighthouses


def test_several_lighthouses_merge_in_the_readers_order(tmp_path, shelf):
    one, other = Lighthouse(tmp_path / "one"), Lighthouse(tmp_path / "other")
    one.publish(people_type()[:2], vendors={"Epic": {"client": {"id": "one"}}})
    theirs = replace(LAKE, token=EVIL)
    extra = endpoint("https://fhir.lakeside-health.org/api/FHIR/DSTU2")
    other.publish(
        (organization(77, "LAKESIDE HEALTH SYSTEM", theirs, extra, state="OR"),
         organization(78, "Seaside Practice", endpoint("https://fhir.seaside.example.org/r4"))),
        vendors={"Epic": {"client": {"id": "other"}}},
    )  # fmt: skip
    for name, house in (("one", one), ("other", other)):
        shelf.take(name, house.fetch, house.trust, now=NOW)

    with snapshot.open_index(shelf.index(["one", "other"])) as index:
        lakeside = index.find("lakeside health system", 5)
        assert [hit.organization.id for hit in lakeside if "akeside" in hit.organization.name] == [
            f"{1:032x}"
        ]
        assert {end.url for end in lakeside[0].organization.endpoints} == {LAKE.url, extra.url}
        assert index.endpoint(LAKE.id).token == LAKE.token
        assert index.profile(index.endpoint(LAKE.id))["client"] == {"id": "one"}
        assert index.profile(index.endpoint(extra.id))["client"] == {"id": "other"}
        assert index.find("seaside", 1)[0].organization.name == "Seaside Practice"
        assert index.lighthouse(extra.id) == "other"

    with snapshot.open_index(shelf.index(["other", "one"])) as index:
        assert index.endpoint(LAKE.id).token == EVIL


def test_a_state_that_is_not_said_contradicts_none_but_chooses_none_of_several(house, shelf):
    end = "https://fhir.lakeside-health.org/api/FHIR/R4"
    shared = endpoint(end)
    silent = organization(11, "Lakeside Health", shared, state="", city="")
    stated = organization(12, "Lakeside Health", shared, state="MN", city="Rochester")
    house.publish((silent,))
    shelf.take("main", house.fetch, house.trust, now=NOW)
    with snapshot.open_index(shelf.index(["main"], (stated,))) as index:
        (hit,) = index.find("lakeside health", 5)
        one = hit.organization
        assert (one.id, one.city, one.state) == (silent.id, "Rochester", "MN")

    other = organization(13, "Lakeside Health", shared, state="OR", city="Salem")
    for number, (published, own) in enumerate((((stated, other), silent), ((stated,), other)), 2):
        house.publish(published, serial=number)
        shelf.take("main", house.fetch, house.trust, now=NOW)
        with snapshot.open_index(shelf.index(["main"], (own,))) as index:
            found = {hit.organization.id for hit in index.find("lakeside health", 5)}
            assert found == {one.id for one in (*published, own)}


def test_own_list_works_without_any_lighthouse_and_comes_last(house, shelf):
    with snapshot.open_index(shelf.index([], people_type())) as index:
        assert index.find("hillside", 1)[0].organization.name == "Hillside Clinic"
        assert index.lighthouse(HILL.id) == ""
    house.publish((organization(2, "Hillside Medical", HILL),))
    shelf.take("main", house.fetch, house.trust, now=NOW)
    with snapshot.open_index(shelf.index(["main"], people_type())) as index:
        assert index.organization(f"{2:032x}").name == "Hillside Medical"
        assert index.find("lakeside", 1)


def test_endpoint_has_the_rules_of_its_vendor_and_its_own(house, shelf):
    house.publish(
        people_type(),
        vendors={"Epic": {"aud": "exact", "pkce": "S256"}},
        overrides={HILL.id: {"aud": "absent"}},
    )
    shelf.take("main", house.fetch, house.trust, now=NOW)

    with snapshot.open_index(shelf.index(["main"])) as index:
        assert index.profile(index.endpoint(HILL.id)) == {"aud": "absent", "pkce": "S256"}
        assert index.profile(index.endpoint(LAKE.id)) == {"aud": "exact", "pkce": "S256"}


def test_file_that_is_no_index_is_said_to_be_none(tmp_path):
    for data in (b"", b"SQLite format 3\x00", b"x" * 5000):
        (tmp_path / "some.db").write_bytes(data)
        with pytest.raises(snapshot.NoIndex):
            snapshot.open_index(tmp_path / "some.db")
    with pytest.raises(snapshot.NoIndex):
        snapshot.open_index(tmp_path / "none.db")


# --------------------------------------------------------------------------- keys


def test_key_is_for_its_owner_only_and_never_overwritten(tmp_path):
    path = tmp_path / "root.pem"

    public = publish.new_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert publish.public_of(publish.load_key(path)) == public
    with pytest.raises(publish.NotMade):
        publish.new_key(path)


def test_nothing_is_signed_that_was_changed_after_it_was_built(house):
    house.publish(people_type())
    (house.folder / "catalogue-1.ndjson.zst").write_bytes(b"other")

    with pytest.raises(publish.NotMade):
        publish.sign(house.folder, house.delegation(), [house.key])


def test_key_that_was_not_delegated_signs_nothing(house):
    house.publish(people_type())

    with pytest.raises(publish.NotMade):
        publish.sign(house.folder, house.delegation(), [Ed25519PrivateKey.generate()])


# ------------------------------------------------------------------ a stolen signing key


@pytest.mark.parametrize("serial", [10**30, 1 << 53, 5 + 1_000_001])
def test_stolen_signing_key_cannot_lock_readers_out_by_a_high_number(house, shelf, kept, serial):
    house.publish(people_type(), serial=6)
    forged(house, lambda manifest: manifest.update(serial=serial), key=house.key)

    refuses(shelf, house, "size format rollback")


def test_after_the_root_named_other_keys_numbers_begin_anew(house, shelf, kept):
    house.publish(people_type(), serial=900_000)
    shelf.take("main", house.fetch, house.trust, now=NOW)
    house.key = Ed25519PrivateKey.generate()
    house.publish(people_type()[:3], serial=7, at=NOW + DAY / 2)
    same_delegation = house.delegation()
    later = publish.delegate([house.root], [publish.public_of(house.key)], starts=NOW, days=90)
    assert later != same_delegation
    publish.sign(house.folder, later, [house.key])

    taken = shelf.take("main", house.fetch, house.trust, now=NOW + DAY)

    assert taken.serial == 7
    house.publish(people_type(), serial=6, at=NOW + DAY)
    publish.sign(house.folder, later, [house.key])
    refuses(shelf, house, "rollback", now=NOW + DAY)


def test_index_says_the_same_of_lines_as_they_came_and_of_what_was_changed(house, shelf):
    house.publish(people_type(), serial=5)
    shelf.take("main", house.fetch, house.trust, now=NOW)
    read = shelf.load("main").content
    assert read.organization_texts.keys() == {one.id for one in read.organizations}
    bare = replace(read, organization_texts={}, endpoint_texts={})

    said = []
    for name, content in (("a.db", read), ("b.db", bare)):
        origin = snapshot.Origin("main", 5)
        path = shelf.folder / name
        index.write(path, content, [origin], {}, dict.fromkeys(content.endpoints, origin))
        with snapshot.open_index(path) as made:
            said.append([made.organization(one.id) for one in read.organizations])

    assert said[0] == said[1] == list(read.organizations)


def test_hostile_line_breaks_in_names_and_addresses_do_not_shift_others(house, shelf):
    odd = replace(people_type()[0], name="Lakeside\nHealth\r\nSystem", aliases=("a\nb", "c"))
    house.publish([odd, *people_type()[1:]], serial=5)
    shelf.take("main", house.fetch, house.trust, now=NOW)
    with snapshot.open_index(shelf.index(["main"])) as made:
        assert made.find("Hillside Clinic")[0].organization.name == "Hillside Clinic"
        assert made.find("Lakeside Health System")[0].organization.id == odd.id

    two = "https://fhir.one.example.org/r4\nhttps://fhir.two.example.org/r4"
    for url in (two, "https://x.localhost/r4", "https://a.example.org/\u2028r4"):
        line = json.dumps({"is": "endpoint", "url": url})
        other = json.dumps({"is": "endpoint", "url": "nothing"})
        for raw in (f"{line}\n", f"{line}\n{other}\n"):
            with pytest.raises(Refused):
                snapshot.read_content(raw.encode())
