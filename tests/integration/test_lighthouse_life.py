"""What time does to a catalogue: renamed, moved, gone, part of something; on both databases."""

import json

import pytest
from sqlalchemy import select

from lighthouse import catalogue, national, tables
from lighthouse.ingest import ingest
from lighthouse.search import Search


def lantern(*rows):
    made = [{"URL": url, "OrganizationName": name, **more} for name, url, more in rows]
    return json.dumps({"Endpoints": made})


@pytest.fixture
def taken(engine, tmp_path):
    """Take in files given as path=text into one catalogue, each call a later ingest."""
    calls = []

    def take(**files):
        folder = tmp_path / str(len(calls))
        calls.append(folder)
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        ingest([folder], engine)
        found = catalogue.organizations(engine)
        return {one.name: one for one in found if one.kind != national.KIND}

    return take


CERNER = "https://fhir-myrecord.cerner.com/r4/0b8a0111-e8e6-4c26-a91c-5069cbc6b1ca/"


def test_renamed_organisation_keeps_its_id_and_its_former_name(taken):
    before = taken(**{"v__2026-01-01__l.json": lantern(("Keck Medicine of USC", CERNER, {}))})
    after = taken(**{"v__2026-05-01__l.json": lantern(("USC Health System", CERNER, {}))})

    assert after["USC Health System"].id == before["Keck Medicine of USC"].id
    assert after["USC Health System"].aliases == ("Keck Medicine of USC",)


def test_former_name_in_an_older_edition_is_kept_as_such(taken, engine):
    taken(
        **{
            "v__2026-01-01__l.json": lantern(("Jackson Health System", CERNER, {})),
            "v__2026-05-01__l.json": lantern(("Public Health Trust", CERNER, {})),
        }
    )

    with engine.connect() as connection:
        kept = connection.execute(select(tables.alias.c.text, tables.alias.c.kind)).all()
    assert ("Jackson Health System", "former") in kept


def crosswalk(url, name):
    return f"endpoint_id,base_url,org_id,org_npi,org_name,org_state\ne,{url},o,,{name},"


def crawled(url, name, **more):
    return json.dumps([{"id": "1", "url": url, "name": name, **more}])


SIGN_IN = {"authorize": "https://ehr.example.org/authorize", "token": "https://ehr.example.org/t"}
SPELT = "https://ehr.example.org/api/FHIR/R4/"


@pytest.mark.parametrize("order", [("own", "crawl", "claim"), ("claim", "crawl", "own")])
@pytest.mark.parametrize("apart", [True, False], ids=["three ingests", "one ingest"])
def test_each_field_is_taken_from_whose_word_counts_for_it(taken, order, apart):
    files = {
        "own": ("v__2026-01-01__l.json", lantern(("Alpha Clinic", SPELT, {}))),
        "crawl": ("crawl.json", crawled(SPELT.rstrip("/"), "Alpha Clinic", **SIGN_IN)),
        "claim": ("z.csv", crosswalk(SPELT.rstrip("/"), "Somebody Else")),
    }
    given = [files[name] for name in order]
    for some in [[one] for one in given] if apart else [given]:
        found = taken(**dict(some))

    (end,) = found["Alpha Clinic"].endpoints
    assert (end.url, end.authorize, end.token) == (SPELT, *SIGN_IN.values())


def test_third_party_that_comes_later_renames_nobody(taken):
    taken(**{"v.json": lantern(("Alpha Clinic", SPELT, {}), ("Alpha Health", SPELT, {}))})

    found = taken(**{"z.csv": crosswalk(SPELT, "Alpha Health")})
    found = taken(**{"z.csv": crosswalk(SPELT, "Somebody Else")})

    assert "Somebody Else" not in found
    (one,) = found.values()
    assert {one.name, *one.aliases} == {"Alpha Clinic", "Alpha Health"}


def test_two_that_turn_out_to_be_one_are_one_card_and_no_name_is_lost(taken):
    # Two servers of one name, then a list that says that they are one customer's.
    first, second = "https://one.example.org/r4", "https://two.example.net/r4"
    before = taken(**{"v.json": lantern(("Alpha Clinic", first, {}), ("Alpha Health", second, {}))})
    assert len(before) == 2
    text = json.dumps({"resourceType": "Bundle", "entry": [
        endpoint("a", first), endpoint("b", second),
        resource("Organization", "o", name="Alpha Clinic",
                 endpoint=[{"reference": "Endpoint/a"}, {"reference": "Endpoint/b"}]),
    ]})  # fmt: skip

    after = taken(**{"own.json": text})

    (one,) = after.values()
    assert one.id in {kept.id for kept in before.values()}
    assert {end.url for end in one.endpoints} == {first, second}
    assert {one.name, *one.aliases} == {"Alpha Clinic", "Alpha Health"}


def test_what_a_list_corrects_is_kept_as_what_it_said_before(taken, engine):
    taken(**{"crawl.json": crawled(SPELT, "Alpha Clinic", **SIGN_IN)})
    new = SIGN_IN | {"token": "https://ehr.example.org/another"}

    found = taken(**{"crawl.json": crawled(SPELT, "Alpha Clinic", **new)})

    assert found["Alpha Clinic"].endpoints[0].token == "https://ehr.example.org/another"
    said = tables.statement.c
    with engine.connect() as connection:
        query = select(said.value, said.standing).where(said.field == "token")
        kept = dict(map(tuple, connection.execute(query)))
    assert kept == {SIGN_IN["token"]: "former", new["token"]: "collected"}


def test_sign_in_address_that_must_never_be_asked_is_not_taken(taken, engine):
    wrong = SIGN_IN | {"token": "https://ehr.example.org/tenants/{tenant_id}/token"}

    found = taken(**{"crawl.json": crawled(SPELT, "Alpha Clinic", **wrong)})

    assert found["Alpha Clinic"].endpoints[0].token == ""
    with engine.connect() as connection:
        assert wrong["token"] in connection.execute(select(tables.refused.c.url)).scalars().all()


OLD = "https://ehr.example.org/FHIR/api/FHIR/R4"
NEW = "https://ehr.example.org/FHIR/parkland/api/FHIR/R4"
AWAY = "https://ehr.example.net/api/FHIR/R4"
OTHER = ("Other Clinic", "https://x.example.org/api/FHIR/R4", {})


@pytest.mark.parametrize(
    ("later", "status"), [("2026-03-01", "missing"), ("2026-12-01", "retired")]
)
def test_moved_endpoint_stays_shows_since_when_and_gets_a_forwarding_record(taken, later, status):
    epic = {"OrganizationZipCode": "75235"}
    files = {
        "epic__2026-01-01__l.json": lantern(("Parkland", OLD, epic), OTHER),
        f"epic__{later}__l.json": lantern(("Parkland", NEW, epic), OTHER),
    }  # fmt: skip

    found = taken(**files)

    new, old = found["Parkland"].endpoints
    assert (new.url, new.status, new.forward) == (NEW, "listed", "")
    assert (old.url, old.status, old.last_listed, old.forward) == (
        OLD,
        status,
        "2026-01-01",
        new.id,
    )
    assert [end.status for end in found["Other Clinic"].endpoints] == ["listed"]


def test_endpoint_that_moves_to_another_domain_is_not_forwarded_by_itself(taken):
    files = {
        "epic__2026-01-01__l.json": lantern(("Parkland", OLD, {})),
        "epic__2026-05-01__l.json": lantern(("Parkland", AWAY, {})),
    }  # fmt: skip

    assert {end.forward for end in taken(**files)["Parkland"].endpoints} == {""}


def test_taking_in_one_list_changes_nothing_of_the_others(taken):
    taken(
        **{
            "a.json": lantern(
                ("Alpha Clinic", "https://a.example.org/r4", {"OrganizationZipCode": "44101"})
            )
        }
    )

    found = taken(**{"b.json": lantern(("Beta Clinic", "https://b.example.org/r4", {}))})

    assert (found["Alpha Clinic"].zip, found["Alpha Clinic"].endpoints[0].status) == (
        "44101",
        "listed",
    )


def test_later_list_that_says_less_takes_nothing_away(taken):
    url = "https://a.example.org/r4"
    taken(**{"a.json": lantern(("Alpha Clinic", url, {"OrganizationZipCode": "44101"}))})

    assert taken(**{"a.json": lantern(("Alpha Clinic", url, {}))})["Alpha Clinic"].zip == "44101"


def resource(kind, identity, **more):
    full = f"https://lists.example.org/{kind}/{identity}"
    return {"fullUrl": full, "resource": {"resourceType": kind, "id": identity, **more}}


def endpoint(identity, url, **more):
    return resource("Endpoint", identity, status="active", address=url, **more)


def test_facility_is_reached_by_part_of_and_knows_what_it_is_part_of(taken):
    # HTI-1, hierarchical: looking at Organization.endpoint alone would lose the hospital.
    text = json.dumps({"resourceType": "Bundle", "timestamp": "2026-08-01T00:00:00Z", "entry": [
        endpoint("e", "https://epic.example.org/api/FHIR/R4"),
        resource("Organization", "brand", name="North Health",
                 endpoint=[{"reference": "Endpoint/e"}]),
        resource("Organization", "site", name="North Hospital Riverside",
                 partOf={"reference": "Organization/brand"}, address=[
                     {"line": ["1 River Rd"], "city": "Akron", "state": "OH",
                      "postalCode": "44301"},
                     {"city": "Canton", "state": "OH", "postalCode": "44702"}]),
    ]})  # fmt: skip

    found = taken(**{"hti1.json": text})

    site, brand = found["North Hospital Riverside"], found["North Health"]
    assert (site.part_of, site.parent, brand.part_of) == (brand.id, "North Health", "")
    assert [end.id for end in site.endpoints] == [end.id for end in brand.endpoints]
    assert (site.street, site.places) == ("1 River Rd", (("Canton", "OH", "44702"),))


def test_hierarchy_that_bites_its_tail_is_cut(taken):
    text = json.dumps({"resourceType": "Bundle", "entry": [
        endpoint("e", "https://epic.example.org/api/FHIR/R4"),
        resource("Organization", "a", name="Alpha Health", endpoint=[{"reference": "Endpoint/e"}],
                 partOf={"reference": "Organization/b"}),
        resource("Organization", "b", name="Beta Health", partOf={"reference": "Organization/a"}),
    ]})  # fmt: skip

    found = taken(**{"hti1.json": text})

    assert [found["Alpha Health"].part_of, found["Beta Health"].part_of].count("") == 1


def test_flat_contained_and_managing_organisations_are_all_read(taken):
    text = json.dumps({"resourceType": "Bundle", "entry": [
        endpoint("f", "https://flat.example.org/r4"),
        resource("Organization", "f", name="Flat Clinic", endpoint=[{"reference": "Endpoint/f"}]),
        endpoint("m", "https://managed.example.org/r4",
                 managingOrganization={"reference": "Organization/m"}),
        resource("Organization", "m", name="Managing Clinic"),
        endpoint("c", "https://contained.example.org/r4", managingOrganization={"reference": "#o"},
                 contained=[{"resourceType": "Organization", "id": "o",
                             "name": "Contained Clinic"}]),
    ]})  # fmt: skip

    assert set(taken(**{"hti1.json": text})) == {
        "Flat Clinic", "Managing Clinic", "Contained Clinic",
    }  # fmt: skip


def test_brand_with_two_portals_keeps_them_apart(taken):
    def portal(name, url, identity):
        return {
            "url": "http://hl7.org/fhir/StructureDefinition/organization-portal",
            "extension": [
                {"url": "portalName", "valueString": name},
                {"url": "portalUrl", "valueUrl": url},
                {"url": "portalEndpoint", "valueReference": {"reference": f"Endpoint/{identity}"}},
            ],
        }

    text = json.dumps({"resourceType": "Bundle", "entry": [
        endpoint("a", "https://adults.example.org/r4"),
        endpoint("c", "https://children.example.org/r4"),
        resource("Organization", "b", name="North Health", endpoint=[{"reference": "Endpoint/a"}],
                 extension=[portal("MyNorth", "https://my.north.example.org", "a"),
                            portal("MyNorth Kids", "https://kids.north.example.org", "c")]),
    ]})  # fmt: skip

    ends = taken(**{"brands.json": text})["North Health"].endpoints

    assert [(end.portal, end.portal_url) for end in ends] == [
        ("MyNorth", "https://my.north.example.org"),
        ("MyNorth Kids", "https://kids.north.example.org"),
    ]


@pytest.mark.parametrize(
    ("typed", "country"),
    [("Netherlands", "NL"), ("england", "GB"), ("my health record australia", "AU"),
     ("Germany", "DE"), ("nhs login", "GB"), ("MedMij", "NL"), ("Österreich", "AT")],
)  # fmt: skip
def test_one_door_of_a_country_is_found_and_says_what_can_be_done(engine, tmp_path, typed, country):
    ingest([tmp_path], engine)

    best = Search(catalogue.organizations(engine)).find(typed, 1)[0].organization

    assert (best.country, best.kind, best.endpoints) == (country, national.KIND, ())
    assert best.about.endswith("bring it in as a file.") or "bring them in" in best.about
