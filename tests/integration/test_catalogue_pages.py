"""The list of hospitals in the browser: a newer one as a file, and addresses that moved."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from phr import clock, connect
from phr.catalogue import Catalogue, Lighthouse
from phr.oauth import Client, Endpoint, Made
from phr.store import connections
from phr.store.models import Connection, ConnectionState
from tests.fixtures_hospital import connected
from tests.fixtures_lighthouse import (
    HILL,
    LAKE,
    endpoint,
    of_today,
    organization,
    people_type,
    png,
)
from tests.fixtures_net import plain

HERE = "/admin/catalogue"


@pytest.fixture
def admin(cast, publisher):
    """Ada runs this Homeport, which knows one lighthouse."""
    known = Lighthouse("main", "https://lighthouse.example.org", publisher.trust.roots)
    cast.appliance._catalogue = Catalogue(cast.appliance.settings.catalogue_path, [known])
    return cast.browser("Ada")


def packed(publisher, tmp_path):
    return shutil.make_archive(str(tmp_path / "packed"), "zip", publisher.folder)


def bring(browser, path):
    with Path(path).open("rb") as file:
        return browser.submit(HERE, page=HERE, files={"file": ("snapshot.zip", file.read())})


def test_a_packed_snapshot_is_taken_in_the_browser_and_what_changed_is_said(
    admin, publisher, tmp_path
):
    answer = bring(admin, packed(publisher, tmp_path))
    assert answer.status_code == 303
    page = admin.get(answer.headers["location"]).text
    assert "Taken: number 1" in page
    assert "4 organisations and 3 addresses" in page

    publisher.publish(people_type()[:3], at=clock.now().replace(microsecond=0))
    page = admin.get(bring(admin, packed(publisher, tmp_path)).headers["location"]).text
    assert "Taken: number 2" in page
    assert "before, in number 1, 4 and 3" in page
    page = admin.get(bring(admin, packed(publisher, tmp_path)).headers["location"]).text
    assert "was here already" in page


def test_a_forged_old_or_broken_file_is_refused_with_the_reason(admin, publisher, tmp_path, cast):
    old = tmp_path / "old.zip"
    shutil.copy(packed(publisher, tmp_path), old)
    publisher.publish(people_type()[:3], at=clock.now().replace(microsecond=0))
    assert bring(admin, packed(publisher, tmp_path)).status_code == 303
    stranger, now = of_today(tmp_path / "stranger")
    stranger.publish(people_type(), at=now)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no zip")

    for path, said in (
        (old, "older than the one we have"),
        (packed(stranger, tmp_path / "x"), "not signed by a key we trust"),
        (broken, "no packed snapshot"),
    ):
        answer = bring(admin, path)
        assert answer.status_code == 422
        assert "Refused, nothing was changed." in answer.text
        assert said in answer.text
    assert cast.appliance.catalogue.serials() == {"main": 2}
    leftovers = [one.name for one in cast.appliance.settings.data.iterdir() if "tmp" in one.name]
    assert leftovers == []
    assert admin.submit(HERE, page=HERE, files={"file": ("", b"")}).status_code == 422


def test_only_who_runs_the_house_may_bring_a_list(cast, admin):
    eve = cast.browser("Eve")
    assert eve.get(HERE).status_code in {403, 404}
    assert eve.submit(HERE, files={"file": ("a.zip", b"x")}).status_code in {403, 404}


def test_a_moved_sign_in_address_waits_for_somebody_to_agree(cast, admin, publisher, tmp_path):
    bring(admin, packed(publisher, tmp_path))
    moved = replace(HILL, token="https://elsewhere.example.net/token")
    people = (organization(2, "Hillside Clinic", moved), *people_type()[2:])
    publisher.publish(people, at=clock.now().replace(microsecond=0))
    bring(admin, packed(publisher, tmp_path))
    page = admin.get(HERE).text
    assert HILL.token in page
    assert "https://elsewhere.example.net/token" in page
    mark = page.partition('name="mark" value="')[2].partition('"')[0]
    kept = cast.appliance.catalogue
    assert kept.find("hillside clinic")[0].organization.endpoints[0].token == HILL.token

    assert admin.submit(HERE + "/confirm", {"mark": "other"}, page=HERE).status_code == 422
    answer = admin.submit(HERE + "/confirm", {"mark": mark}, page=HERE)
    assert answer.status_code == 303
    now = kept.find("hillside clinic")[0].organization.endpoints[0]
    assert now.token == "https://elsewhere.example.net/token"
    assert mark not in admin.get(HERE).text


def test_a_reviewed_logo_stands_beside_its_hospital_and_lies_in_this_house(
    cast, admin, publisher, tmp_path
):
    at = clock.now().replace(microsecond=0)
    publisher.publish(people_type(), at=at, logos={f"{1:032x}": png()})
    bring(admin, packed(publisher, tmp_path))
    here = f"/p/{cast.patients['Ada']}/find"

    page = admin.submit(here, {"q": "lakeside"}, page=here).text

    (src,) = re.findall(r'<img class="initial" src="([^"]+)" alt=""', page)
    assert src.startswith(here + "/logos/")
    given = admin.get(src)
    assert (given.status_code, given.headers["content-type"]) == (200, "image/png")
    assert given.content == png()
    assert src in admin.get(f"{here}/{1:032x}").text
    assert "<img" not in admin.submit(here, {"q": "hillside"}, page=here).text
    assert admin.get(here + "/logos/none.png").status_code == 404
    assert cast.browser("Cleo").get(src).status_code in {403, 404}


# ----------------------------------------------------------------- a connection that may follow


def forwarding(cast, publisher, tmp_path, old, new):
    """Publish a list in which an address took another's place, and take it in."""
    there = endpoint("https://fhir.new-place.org/r4")
    gone = replace(LAKE, forward=there.id)
    publisher.publish(
        [organization(1, "Lakeside", there, gone)], at=clock.now().replace(microsecond=0)
    )
    kept = cast.appliance.catalogue
    kept.apply(publisher.folder, clock.now())
    assert kept.forwarded(LAKE.url) == (there.url, kept.lighthouses[0])
    assert kept.forwarded(there.url) is None
    kept.forwarded = lambda url: (new, kept.lighthouses[0]) if url == old else None


def test_a_connection_whose_address_moved_says_so_and_follows_when_asked(
    cast, admin, hospital, publisher, tmp_path
):
    cast.appliance.http.guard.allow(hospital.server.place)
    vault = cast.vault("Ada")
    number = connected(vault, hospital)
    old, new = hospital.base, hospital.server.url + "/parkland/fhir"
    forwarding(cast, publisher, tmp_path, old, new)
    here = f"/p/{cast.patients['Ada']}/connections/{number}"
    page = admin.get(here).text
    assert "interface moved." in page
    assert new in page
    assert admin.submit(here + "/follow", {"to": "https://x.org"}, page=here).status_code == 409
    assert cast.browser("Cleo").submit(here + "/follow", {"to": new}).status_code in {403, 404}
    with vault.read() as session:
        assert connections.get(session, number).base_url == old

    usual = hospital.fhir
    hospital.fhir = lambda asked: usual(replace(asked, path=asked.path.removeprefix("/parkland")))
    answer = admin.submit(here + "/follow", {"to": new}, page=here)

    assert answer.status_code == 303
    page = admin.get(here).text
    assert "The permission goes along." in page
    assert "interface moved" not in page
    with vault.read() as session:
        row = connections.get(session, number)
        assert (row.base_url, row.state) == (new, ConnectionState.ACTIVE)
        assert row.credentials["access_token"] == "at-0"


def test_following_to_another_host_needs_a_new_sign_in_and_leaves_the_keys_behind(
    cast, hospital, raw_server
):
    elsewhere = raw_server(hospital.reply)
    for place in (hospital.server.place, elsewhere.place):
        cast.appliance.http.guard.allow(place)
    vault = cast.vault("Ada")
    number = connected(vault, hospital)
    actor = {"kind": "appliance"}

    anew = connect.follow(
        vault, number, elsewhere.url + "/fhir", http=cast.appliance.http, actor=actor
    )

    assert anew
    with vault.read() as session:
        row = connections.get(session, number)
        assert row.state == ConnectionState.NEEDS_REAUTHORISATION
        assert row.credentials == {}
        assert "moved to another address" in row.sentence
    assert not [one for one in hospital.asked if one.bearer]


def test_where_nothing_answers_at_the_new_address_the_old_one_stays(
    cast, admin, hospital, publisher, tmp_path
):
    cast.appliance.http.guard.allow(hospital.server.place)
    vault = cast.vault("Ada")
    number = connected(vault, hospital)
    new = "http://127.0.0.1:9/fhir"
    forwarding(cast, publisher, tmp_path, hospital.base, new)
    here = f"/p/{cast.patients['Ada']}/connections/{number}"

    assert admin.submit(here + "/follow", {"to": new}, page=here).status_code == 303

    assert "It stays at the old address." in admin.get(here).text
    with vault.read() as session:
        assert connections.get(session, number).base_url == hospital.base


def test_forwarding_in_a_circle_leads_nowhere(cast, admin, publisher):
    one = endpoint("https://fhir.one.org/r4")
    two = replace(endpoint("https://fhir.two.org/r4"), forward=one.id)
    one = replace(one, forward=two.id)
    publisher.publish(
        [organization(1, "Lakeside", one, two)], at=clock.now().replace(microsecond=0)
    )
    kept = cast.appliance.catalogue
    kept.apply(publisher.folder, clock.now())
    assert kept.forwarded(one.url) is None


# ----------------------------------------------------------------- a client that is given back


@pytest.fixture
def registered(cast, hospital):
    """A connection whose client the hospital made (RFC 7591), and what it heard about it."""
    cast.appliance.http.guard.allow(hospital.server.place)
    heard, status, usual = [], ["204 No Content"], hospital.reply

    def reply(request, channel):
        if request.startswith(b"DELETE "):
            heard.append(request)
            channel.sendall(plain(b"", status[0]))
        else:
            usual(request, channel)

    hospital.server.reply = reply
    vault = cast.vault("Ada")
    number = connected(vault, hospital)

    def made_at(url):
        known = Endpoint(
            hospital.base, hospital.server.url + "/auth", hospital.server.url + "/token",
            registration_endpoint=hospital.server.url + "/register",
        )  # fmt: skip
        client = Client("given", "http://127.0.0.1/cb", made=Made(url, "manage-canary"))
        with vault.write() as session:
            row = session.get_one(Connection, number)
            row.endpoint, row.client = known.to_json(), client.to_json()
        return vault, number

    return made_at, heard, status


@pytest.mark.parametrize(
    ("status", "said"),
    [("204 No Content", "deleted the registration"), ("500 No", "did not confirm")],
)
def test_removing_a_connection_gives_its_registered_client_back(
    cast, hospital, registered, status, said
):
    made_at, heard, answers = registered
    answers[0] = status
    made_at(hospital.server.url + "/register/given")
    ada, here = cast.browser("Ada"), f"/p/{cast.patients['Ada']}/connections/1"

    answer = ada.submit(here + "/remove", {"records": "keep"}, page=here + "/remove")

    assert said in ada.get(answer.headers["location"]).text
    (asked,) = heard
    assert asked.startswith(b"DELETE /register/given ")
    assert b"authorization: bearer manage-canary" in asked.lower()


def test_the_token_of_a_registered_client_goes_to_the_site_that_made_it_only(
    cast, hospital, registered, raw_server
):
    made_at, heard, _ = registered
    others = []
    elsewhere = raw_server(lambda request, _channel: others.append(request))
    cast.appliance.http.guard.allow(elsewhere.place)
    vault, number = made_at(elsewhere.url + "/register/given")

    told = connect.remove(
        vault, number, http=cast.appliance.http, keep_records=True, actor={"kind": "appliance"}
    )

    assert "did not confirm" in told
    assert (others, heard) == ([], [])
