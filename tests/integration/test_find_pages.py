"""Find your hospital, in the browser: searching, the ways to connect, and that nobody learns it."""

import json
import logging

import pytest

from phr import catalogue


@pytest.fixture
def ada(cast):
    return cast.browser("Ada")


@pytest.fixture
def here(cast):
    return f"/p/{cast.patients['Ada']}/find"


def search(browser, here, typed, **more):
    return browser.submit(here, {"q": typed}, page=here, **more)


def link_to(page, name):
    """Return where the link with this text leads."""
    before = page.text.partition(f">{name}</a>")[0]
    return before.rpartition('href="')[2].partition('"')[0]


def test_a_hospital_of_the_built_in_list_is_found_by_name_nickname_and_slip(ada, here):
    for typed in ("mayo clinic", "Mayo Clinc", "MAYO"):
        assert ">Mayo Clinic</a>" in search(ada, here, typed).text
    found = search(ada, here, "mgb").text
    assert ">Mass General Brigham</a>" in found
    assert "Boston, MA" in found


def test_only_the_hits_are_sent_to_htmx(ada, here):
    piece = search(ada, here, "hopkins", headers={"HX-Request": "true"})
    assert piece.text.lstrip().startswith('<section id="found"')
    assert "<html" not in piece.text


def test_nothing_found_is_said_with_the_other_ways_beside_it(ada, here):
    page = search(ada, here, "qqqqzzzz").text
    assert "Nothing in this list fits “qqqqzzzz”" in page
    assert "Connect by address" in page


@pytest.mark.parametrize(
    "typed", ['"', "*", "-x", "NEAR(", "a:b", "'; DROP", "😀", "%00", "x" * 9999]
)
def test_odd_words_find_nothing_and_break_nothing(ada, here, typed):
    assert search(ada, here, typed).status_code == 200


def test_what_was_typed_stands_in_no_address_log_or_file(cast, ada, here, caplog):
    with caplog.at_level(logging.DEBUG):
        search(ada, here, "canaryclinic")
        page = search(ada, here, "sloan kettering")
        ada.get(link_to(page, "Memorial Sloan Kettering Cancer Center"))
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "canaryclinic" not in said
    assert "kettering" not in said.lower()
    data = cast.appliance.settings.data
    for path in data.rglob("*"):
        if path.is_file():
            assert b"canaryclinic" not in path.read_bytes(), path


def test_looking_asks_nobody(cast, ada, here):
    """Positive control: with the guard's resolver recording, only connecting asks for a name."""
    asked = []

    def resolver(host, port):
        asked.append(host)
        return []

    cast.appliance.http.guard._resolver = resolver
    page = search(ada, here, "mayo clinic")
    ways = ada.get(link_to(page, "Mayo Clinic"))
    assert "What is known" in ways.text
    assert asked == []
    place = link_to(page, "Mayo Clinic")
    answer = ada.get(place)
    end = answer.text.partition(f'action="{place}/')[2].partition('"')[0]
    form = {"way": "id", "client_id": "x"}
    assert ada.submit(f"{place}/{end}", form, page=place).status_code == 422
    assert asked == ["mcc.api.mayo.edu"]


def test_a_system_with_several_portals_lets_one_choose(ada, here):
    page = ada.get(link_to(search(ada, here, "kaiser permanente"), "Kaiser Permanente"))
    assert "Which one is yours?" in page.text
    assert ">Southern California</a>" in page.text
    ways = ada.get(link_to(page, "Southern California"))
    assert "Connect Kaiser Permanente, Southern California" in ways.text


def test_the_ways_show_the_exact_values_and_what_is_known(cast, ada, here):
    page = ada.get(link_to(search(ada, here, "mayo clinic"), "Mayo Clinic")).text
    assert ">http://127.0.0.1:8080/connect/callback</textarea>" in page
    assert "launch/patient openid fhirUser" in page
    assert "https://fhir.epic.com" in page
    assert "https://mcc.api.mayo.edu/epic-fhir/api/FHIR/R4/" in page
    assert "Nobody has been asked yet." in page
    assert "What lighthouse" not in page


def test_a_vendor_that_refuses_homes_says_what_to_register_instead(ada, here):
    page = ada.get(link_to(search(ada, here, "Veterans Affairs"), "Veterans Affairs")).text
    assert "https://localhost/callback" in page
    assert "may not be localhost" in page


def test_keys_are_made_once_and_only_public_halves_are_published(cast, ada, here):
    stranger = cast.stranger()
    assert stranger.get("/client-jwks.json").json() == {"keys": []}
    place = link_to(search(ada, here, "mayo clinic"), "Mayo Clinic")
    assert "Make the keys" in ada.get(place).text
    for _ in range(2):
        answer = ada.submit(here + "/keys", {"next": place}, page=place)
        assert answer.headers["location"] == place
    page = ada.get(place).text
    assert "http://127.0.0.1:8081/client-jwks.json" in page
    keys = stranger.get("/client-jwks.json")
    assert keys.headers["content-type"] == "application/jwk-set+json"
    found = keys.json()["keys"]
    assert sorted(key["alg"] for key in found) == ["ES384", "RS384"]
    assert all(not {"d", "p", "q", "k"} & set(key) for key in found)
    file = ada.get(here + "/keys.json")
    assert file.json()["keys"] == found
    assert "attachment" in file.headers["content-disposition"]


def test_keys_stay_published_while_the_record_is_sealed(cast, ada, here):
    ada.submit(here + "/keys", {"next": here}, page=here)
    cast.appliance.vaults.seal(cast.patients["Ada"])
    assert len(cast.stranger().get("/client-jwks.json").json()["keys"]) == 2


def test_leading_elsewhere_after_making_keys_is_not_possible(ada, here):
    answer = ada.submit(here + "/keys", {"next": "https://evil.example/"}, page=here)
    assert answer.headers["location"] == here


def test_viewers_and_strangers_may_not_connect(cast, here):
    assert cast.browser("Cleo").get(here).status_code in {403, 404}
    assert cast.browser("Eve").get(here).status_code == 404


def test_unknown_organisations_and_endpoints_are_not_found(ada, here):
    assert ada.get(here + "/nothing").status_code == 404
    assert ada.get(here + "/seed-mayo/nothing").status_code == 404


def test_the_built_in_list_is_small_dated_and_well_formed():
    kept = json.loads(catalogue.SEED.read_text())
    assert kept["dated"].startswith("20")
    ends = [end for one in kept["organizations"] for end in one["endpoints"]]
    assert 30 < len(ends) < 100
    assert all(end["url"].startswith("https://") for end in ends)
    assert len({end["id"] for end in ends}) == len(ends)
    assert len({one["id"] for one in kept["organizations"]}) == len(kept["organizations"])


TENANT = "0b8a0111-e8e6-4c26-a91c-5069cbc6b1ca"
OWN_STAFF = f"https://fhir-ehr.cerner.com/r4/{TENANT}/"
PATIENTS = f"https://fhir-myrecord.cerner.com/r4/{TENANT}/"


@pytest.fixture
def two_lists(cast, tmp_path):
    """A house whose list names an organisation as Oracle does: for its staff and for patients."""

    def end(number, url, version="R4"):
        said = {"vendor": "Oracle Health", "fhir_version": version, "portal": ""}
        return {"id": f"end-{number}", "url": url, **said}

    def one(number, name, *ends):
        said = {"aliases": [], "kind": "prov", "city": "", "state": "", "country": "US"}
        return {"id": f"org-{number}", "name": name, **said, "website": "", "endpoints": ends}

    old = PATIENTS.replace("/r4/", "/dstu2/")
    both = one(1, "Bayview Medical", end(1, OWN_STAFF), end(2, old, "DSTU2"), end(3, PATIENTS))
    alone = one(2, "Portless Clinic", end(4, OWN_STAFF + "x/"))
    seed = tmp_path / "own-list.json"
    seed.write_text(json.dumps({"dated": "2026-11-22", "organizations": [both, alone]}))
    before = cast.appliance.catalogue
    cast.appliance._catalogue = catalogue.Catalogue(tmp_path / "own-list", seed=seed)
    yield
    cast.appliance.catalogue.close()
    cast.appliance._catalogue = before


def test_an_address_for_staff_comes_last_and_is_named_so(ada, here, two_lists):
    page = ada.get(here + "/org-1").text
    places = [page.index(f"/find/org-1/end-{number}") for number in (3, 2, 1)]
    assert places == sorted(places)
    assert page.count("own staff") == 1
    assert page.index("own staff") > places[1]
    ways = ada.get(here + "/org-1/end-1").text
    assert "own staff: patients cannot sign in here. " in ways
    assert "See its other addresses" in ways
    assert "own staff" not in ada.get(here + "/org-1/end-3").text


def test_an_organisation_with_an_address_for_staff_alone_says_so(ada, here, two_lists):
    page = ada.get(here + "/org-2").text
    assert "own staff: patients cannot sign in here. " in page
    assert "Ask the hospital for the address of its patient portal" in page
