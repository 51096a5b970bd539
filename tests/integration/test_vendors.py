"""Mock vendors, one per row of the table of quirks, connected end to end from the page."""

import json
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from phr import clock, pull
from phr.catalogue import Catalogue
from phr.fhir.record import Selection
from phr.store import connections, records
from phr.store.models import ConnectionState
from tests.fakes.vendors import CLIENT, ROWS, SECRET, Row, Vendor, seed_of

CALLBACK = "http://127.0.0.1:8080/connect/callback"


@pytest.fixture
def ada(cast):
    return cast.browser("Ada")


@pytest.fixture
def here(cast):
    return f"/p/{cast.patients['Ada']}/find"


@pytest.fixture
def stand(cast, raw_server, tmp_path):
    """Start a mock vendor and put it into the catalogue of the house."""

    def start(row: Row, **changes) -> Vendor:
        made = Vendor(row, redirect_uri=CALLBACK, **changes)
        made.server = raw_server(made.reply)
        public = cast.stranger()
        made.keys = lambda: public.get("/client-jwks.json").json()
        cast.appliance.http.guard.allow(made.server.place)
        path = tmp_path / "seed.json"
        path.write_text(json.dumps(seed_of([made])))
        cast.appliance._catalogue = Catalogue(tmp_path / "catalogue", seed=path)
        return made

    return start


def connect(ada, here, vendor: Vendor, **form) -> tuple[httpx.Response, str]:
    """Go from typing a name to the vendor's sign-in; return its answer and where it leads."""
    page = ada.submit(here, {"q": f"hospital with {vendor.row.vendor}"}, page=here)
    place = page.text.partition('class="go" href="')[2].partition('"')[0]
    ways = ada.get(place)
    assert vendor.base in ways.text
    action = ways.text.partition(f'action="{place}/')[2].partition('"')[0]
    answer = ada.submit(f"{place}/{action}", form, page=place)
    assert answer.status_code == 303, answer.text
    leaving = ada.get(answer.headers["location"])
    link = leaving.text.partition(f'href="{vendor.url}/oauth2/authorize')[2].partition('"')[0]
    url = f"{vendor.url}/oauth2/authorize{link}".replace("&amp;", "&")
    answer = httpx.get(url)
    assert answer.status_code == 302, vendor.problems
    return answer, answer.headers["location"]


def land(ada, here, vendor: Vendor, back: str) -> httpx.Response:
    """Come back as a browser does; what it cannot hand over (a fragment) is pasted."""
    if back.startswith(CALLBACK + "?"):
        return ada.get("/connect/callback", params=dict(parse_qsl(urlsplit(back).query)))
    base = here.replace("/find", "/connections")
    return ada.submit("/connect/paste", {"landed": back}, page=base + "/1/sign-in")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.vendor}-{row.auth}-{row.version}")
def test_a_vendor_of_each_row_connects_from_the_page(cast, ada, here, stand, row):
    vendor = stand(row)
    form = {"way": row.way, "client_id": CLIENT}
    if row.auth in {"post", "basic"}:
        form["secret"] = SECRET
    if row.redirect_https:
        vendor.redirect_uri = form["registered"] = "https://phr.example.org/landing"
    _, back = connect(ada, here, vendor, **form)
    answer = land(ada, here, vendor, back)
    assert answer.status_code == 303, answer.text
    assert vendor.problems == []
    vault = cast.vault("Ada")
    with vault.read() as session:
        kept = connections.get(session, 1)
        assert kept.state == ConnectionState.ACTIVE
        assert kept.remote_patient == "p1"
        assert bool(kept.credentials.get("refresh_token")) == row.renews
        assert row.pace == ("per_minute" in kept.endpoint["quirks"])
        if row.accept:
            assert kept.endpoint["quirks"]["accept"] == row.accept
    if row.pace:
        return
    pull.run(vault, 1, http=cast.appliance.http, now=clock.now())
    assert vendor.problems == []
    with vault.read() as session:
        assert len(records.select(session, vault, Selection(("Observation",)))) == 3
    if row.renews:
        renew_by_pulling(cast, vendor)


def renew_by_pulling(cast, vendor):
    """The vendor forgets the access token: the refresh token, used once, gives another."""
    vendor.access = set()
    vault = cast.vault("Ada")
    pull.run(vault, 1, http=cast.appliance.http, now=clock.now())
    assert vendor.renewals == 1
    assert vendor.problems == []
    with vault.read() as session:
        assert connections.get(session, 1).state == ConnectionState.ACTIVE


def test_one_that_lets_nobody_in_says_to_bring_a_file(cast, ada, here, tmp_path):
    lab = {
        "id": "mock-lab",
        "name": "LabCorp",
        "aliases": [],
        "kind": "laboratory",
        "city": "",
        "state": "",
        "country": "US",
        "website": "",
        "endpoints": [
            {
                "id": "lab",
                "url": "https://lab.example.org/r4",
                "vendor": "LabCorp",
                "fhir_version": "R4",
                "portal": "",
            }
        ],
    }
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(seed_of([], (lab,))))
    cast.appliance._catalogue = Catalogue(tmp_path / "catalogue", seed=path)
    page = ada.get(here + "/mock-lab").text
    assert "Bring a file" in page
    assert "No address for patients is published" in page
    assert 'name="client_id"' not in page


def test_an_answer_in_the_fragment_may_be_pasted_where_no_script_runs(ada):
    page = ada.get("/connect/callback")
    assert page.status_code == 400
    assert 'name="landed"' in page.text
    assert "landed.js" in page.text


# ----------------------------------------------------------------- registration by the hospital


def test_a_hospital_that_registers_apps_gives_this_house_its_own_client(cast, ada, here, stand):
    vendor = stand(Row("", auth="jwt"), registers=True)
    _, back = connect(ada, here, vendor, way="register")
    assert land(ada, here, vendor, back).status_code == 303
    assert vendor.problems == []
    with cast.vault("Ada").read() as session:
        client = connections.get(session, 1).client
    assert client["id"] == CLIENT
    assert client["key"]["alg"] == "RS384"
    renew_by_pulling(cast, vendor)


def test_a_hospital_that_does_not_is_said_on_the_form(cast, ada, here, stand):
    stand(Row("", auth="jwt"))
    place = here + "/mock-0"
    answer = ada.submit(place + "/end-0", {"way": "register"}, page=place)
    assert answer.status_code == 422
    assert "does not register apps by itself" in answer.text
    with cast.vault("Ada").read() as session:
        assert connections.listed(session) == []


# ----------------------------------------------------------------- when a permission ends


def test_an_end_that_the_hospital_told_is_shown_before_it_comes(cast, ada, here, stand):
    vendor = stand(Row("athenahealth"), extra={"refresh_token_expires_in": 10 * 24 * 3600})
    _, back = connect(ada, here, vendor, way="id", client_id=CLIENT)
    page = ada.get(land(ada, here, vendor, back).headers["location"])
    with cast.vault("Ada").read() as session:
        ends = connections.permission_ends(connections.get(session, 1))
    assert timedelta(days=9) < ends - clock.now() <= timedelta(days=10)
    assert "permission ends on" in page.text
    assert 'class="word wait"' in page.text


def test_a_permission_that_cannot_renew_itself_says_so(cast, ada, here, stand):
    vendor = stand(
        Row(
            "Veradigm",
            scopes=("launch/patient", "openid", "fhirUser", "patient/*.read"),
            renews=False,
        )
    )
    _, back = connect(ada, here, vendor, way="id", client_id=CLIENT)
    page = ada.get(land(ada, here, vendor, back).headers["location"]).text
    assert "cannot renew itself" in page


def test_without_a_known_end_nothing_is_said(cast, ada, here, stand):
    vendor = stand(Row("athenahealth"))
    _, back = connect(ada, here, vendor, way="id", client_id=CLIENT)
    page = ada.get(land(ada, here, vendor, back).headers["location"]).text
    assert "permission ends" not in page
