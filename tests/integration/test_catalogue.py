"""The catalogue of a house: built-in list, signed snapshots, and that nothing phones home."""

import gzip
import json
from datetime import timedelta

import pytest

from phr import clock
from phr.catalogue import SEED, Catalogue, Lighthouse, configured
from phr.errors import InvalidInput, NotFound, SettingsError, TrustError
from phr.http import Http
from phr.net import Guard
from phr.settings import load
from tests.corpus import corpus
from tests.fixtures_lighthouse import of_today, people_type, png
from tests.fixtures_net import plain

KEY = "A" * 43


@pytest.fixture
def known(publisher):
    return Lighthouse("main", "https://lighthouse.example.org", publisher.trust.roots)


def test_the_built_in_list_is_searched_with_nothing_configured(tmp_path):
    kept = Catalogue(tmp_path / "c")
    assert kept.find("cleveland")[0].organization.name == "Cleveland Clinic"
    assert kept.find("   ") == []
    with pytest.raises(NotFound):
        kept.organization("nobody")
    kept.close()


@pytest.mark.corpus
def test_each_built_in_address_stands_in_a_published_list_or_its_origin_is_named():
    seed = json.loads(SEED.read_text(encoding="utf-8"))
    wanted = {
        end["url"].rstrip("/").lower(): one["id"]
        for one in seed["organizations"]
        for end in one["endpoints"]
    }
    listed = set()
    for path in sorted((corpus() / "lighthouse").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(
                errors="replace"
            )
            folded = text.lower().replace("\\/", "/")
            listed |= {url for url in wanted.keys() - listed if url in folded}

    assert {wanted[url] for url in wanted.keys() - listed} == seed["origins"].keys()


def test_a_snapshot_carried_here_is_searched_beside_the_built_in_list(tmp_path, publisher, known):
    kept = Catalogue(tmp_path / "c", [known])
    assert kept.find("lakeside") == []
    taken = kept.apply(publisher.folder, clock.now())
    assert (taken.serial, taken.organizations) == (1, 4)
    (hit, *_) = kept.find("lakeside health")
    assert hit.organization.name == "Lakeside Health System"
    assert kept.publisher(hit.organization.endpoints[0]) == known
    assert kept.find("cleveland clinic")
    assert kept.publisher(kept.find("cleveland clinic")[0].organization.endpoints[0]) is None
    assert kept.standing().kept[0].serial == 1


def test_a_reviewed_logo_of_a_snapshot_is_shown_and_letters_else(tmp_path, publisher, known):
    lakeside, cleveland = f"{1:032x}", b"seed-cleveland".hex()
    now = clock.now().replace(microsecond=0)
    publisher.publish(people_type(), at=now, logos={lakeside: png(), cleveland: png()})
    kept = Catalogue(tmp_path / "c", [known])
    kept.apply(publisher.folder, clock.now())

    (hit, *_) = kept.find("lakeside health")
    assert kept.logo(hit.logo) == png()
    assert kept.logo_of(hit.organization) == hit.logo
    assert [one.logo for one in kept.find("hillside clinic")[:1]] == [""]
    assert kept.find("cleveland clinic")[0].logo == "", "the built-in list has no logos"
    with pytest.raises(NotFound):
        kept.logo("0" * 32 + ".png")

    publisher.publish(people_type()[:3], at=now, logos={lakeside: png(colour=(9, 9, 9))})
    (file,) = publisher.folder.glob(publisher.last.logos.file)
    file.write_bytes(b"forged")
    assert kept.apply(publisher.folder, clock.now()).serial == 3
    assert kept.find("lakeside health")[0].logo == "", "a list without its logos is a list"


def test_a_list_of_a_lighthouse_that_is_gone_from_the_settings_is_gone(tmp_path, publisher, known):
    Catalogue(tmp_path / "c", [known]).apply(publisher.folder, clock.now())
    assert Catalogue(tmp_path / "c").find("lakeside health system") == []


def test_a_snapshot_of_somebody_else_is_refused_and_the_old_one_stays(tmp_path, publisher, known):
    kept = Catalogue(tmp_path / "c", [known])
    kept.apply(publisher.folder, clock.now())
    other, now = of_today(tmp_path / "other")
    other.publish(people_type()[:1], at=now, serial=9)
    with pytest.raises(TrustError, match="not signed by a key we trust"):
        kept.apply(other.folder, clock.now())
    assert kept.standing().kept[0].serial == 1


def test_a_file_that_is_no_snapshot_and_a_house_without_a_key_are_said(tmp_path, known):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK nonsense")
    with pytest.raises((TrustError, InvalidInput)):
        Catalogue(tmp_path / "c", [known]).apply(path, clock.now())
    with pytest.raises(InvalidInput, match="PHR_LIGHTHOUSES"):
        Catalogue(tmp_path / "c").apply(path, clock.now())


@pytest.fixture
def serving(raw_server, publisher):
    """A lighthouse that serves its files, and counts."""
    gone = []

    def reply(request, channel):
        name = request.split(b" ")[1].decode().removeprefix("/")
        file = publisher.folder / name
        if gone or not file.is_file():
            channel.sendall(plain(b"<html>", "503 Later"))
        else:
            channel.sendall(plain(file.read_bytes()))

    server = raw_server(reply)
    http = Http(Guard([server.place]))
    yield server, http, gone
    http.close()


def test_a_lighthouse_is_asked_once_a_day_and_a_failure_is_a_sentence(tmp_path, publisher, serving):
    server, http, gone = serving
    kept = Catalogue(tmp_path / "c", [Lighthouse("main", server.url, publisher.trust.roots)])
    now = clock.now()
    kept.fetch_due(http, now)
    assert len(server.requests) == 2
    assert kept.find("lakeside health")
    kept.fetch_due(http, now + timedelta(hours=23))
    assert len(server.requests) == 2
    gone.append(True)
    kept.fetch_due(http, now + timedelta(hours=29))
    assert len(server.requests) == 3
    assert "no such file" in kept.standing().trouble["main"]
    assert kept.find("lakeside health"), "the last good one stays"
    paths = {request.split(b" ")[1] for request in server.requests}
    assert paths == {b"/snapshot.json", b"/catalogue-1.ndjson.zst"}, "no word of what was sought"


def test_without_a_lighthouse_the_jobs_ask_nobody(cast):
    asked = []
    cast.appliance.http.guard._resolver = lambda *place: asked.append(place) or []
    cast.appliance._tend_catalogue()
    cast.appliance.catalogue.find("mayo")
    cast.appliance._tend_catalogue()
    assert asked == []


def test_an_index_that_nobody_uses_is_let_go_and_comes_back(tmp_path):
    kept = Catalogue(tmp_path / "c")
    kept.find("mayo")
    kept.rest(clock.now())
    assert kept._index is not None
    kept.rest(clock.now() + timedelta(hours=1))
    assert kept._index is None
    assert kept.find("mayo")
    kept.close()


def test_a_damaged_index_is_made_again(tmp_path):
    kept = Catalogue(tmp_path / "c")
    kept.find("mayo")
    kept.close()
    (tmp_path / "c" / "index.db").write_bytes(b"nonsense")
    assert Catalogue(tmp_path / "c").find("mayo")


# ----------------------------------------------------------------- settings


def test_lighthouses_are_read_from_the_settings_in_order():
    given = f"https://one.example.org#{KEY}, https://two.example.org/list/#{KEY}+{KEY[:-1]}B"
    found = configured(load({"PHR_LIGHTHOUSES": given}).lighthouses)
    assert [one.name for one in found] == ["one-example-org", "two-example-org"]
    assert found[1].url == "https://two.example.org/list"
    assert len(found[1].roots) == 2
    assert configured(load({}).lighthouses) == ()


@pytest.mark.parametrize(
    "given",
    ["https://one.example.org", f"http://one.example.org#{KEY}", "https://one.example.org#short"],
)
def test_a_lighthouse_without_key_or_https_is_refused(given):
    with pytest.raises(SettingsError, match="PHR_LIGHTHOUSES"):
        load({"PHR_LIGHTHOUSES": given})
