"""Which rows are one organisation, and that ids outlive every ingest."""

import pytest

from lighthouse import merge
from lighthouse.rows import Row


def row(name, url, origin="vendor", **more):
    return Row(origin, more.pop("as_of", ""), more.pop("vendor", ""), name, url, **more)


def names(merged):
    return sorted(sorted({s.row.name for s in found.rows}) for found in merged.organizations)


def test_renamed_site_at_one_tenant_stays_one_organisation_under_both_names():
    old = row(
        "Jackson Health System", "https://fhir-myrecord.cerner.com/r4/T1/", "o1", as_of="2022-06-03"
    )
    new = row(
        "Public Health Trust of Miami-Dade County",
        "https://fhir-myrecord.cerner.com/r4/T1/",
        "o2",
        as_of="2026-02-20",
    )

    assert len(merge.merge([old, new], {}).organizations) == 1


def test_dstu2_and_r4_of_one_tenant_are_one_organisation():
    one = row("Kuakini Medical Center", "https://fhir-myrecord.cerner.com/dstu2/T2/")
    two = row("Kuakini Medical Center", "https://fhir-myrecord.cerner.com/r4/T2/")

    assert len(merge.merge([one, two], {}).organizations) == 1


def test_same_name_in_two_states_is_two_organisations():
    one = row("Urology Associates", "https://a.example.org/r4", state="NV")
    two = row("Urology Associates", "https://b.example.org/r4", state="OK")

    assert len(merge.merge([one, two], {}).organizations) == 2


def test_same_name_alone_never_merges():
    one = row("Urology Associates", "https://a.example.org/r4")
    two = row("Urology Associates", "https://b.example.net/r4")

    assert len(merge.merge([one, two], {}).organizations) == 2


@pytest.mark.parametrize(
    "other",
    ["https://fhir.lakeside.example/dstu2", "https://live02.lakeside.example/r4"],
    ids=["same host", "same site"],
)
def test_one_name_at_a_server_of_its_own_is_one_organisation(other):
    one = row("Lakeside Hospital", "https://fhir.lakeside.example/r4")
    two = row("Lakeside Hospital", other)

    assert len(merge.merge([one, two], {}).organizations) == 1


def test_one_name_twice_at_a_vendors_server_stays_two():
    def at(name, tenant):
        return row(name, f"https://fhir.vendor.example/{tenant}/r4")

    many = [at(f"Practice {number}", number) for number in range(5)]
    same = [at("Family Eye Care", "a"), at("Family Eye Care", "b")]

    assert len(merge.merge([*many, *same], {}).organizations) == 7
    nameless = [at("", number) for number in range(2)]
    assert len(merge.merge([*nameless, *same], {}).organizations) == 4


def test_one_name_at_one_server_in_two_stated_states_stays_two():
    one = row("Lakeside Hospital", "https://fhir.lakeside.example/oh/r4", state="OH")
    two = row("Lakeside Hospital", "https://fhir.lakeside.example/tx/r4", state="TX")

    assert len(merge.merge([one, two], {}).organizations) == 2


def test_one_brand_name_of_two_owners_in_one_list_stays_two():
    more = {"vendor": "Epic", "origin": "crawl"}
    one = row("Baptist Health", "https://api.baptist.example/r4", owner="Baptist (AR)", **more)
    two = row("Baptist Health", "https://proxy.hosted.example/r4", owner="Orlando", **more)
    assert len(merge.merge([one, two], {}).organizations) == 2

    same = row("Baptist Health", "https://proxy.hosted.example/r4", owner="BAPTIST (AR)", **more)
    assert len(merge.merge([one, same], {}).organizations) == 1


def test_one_address_for_thousands_of_names_joins_nobody():
    rows = [row(f"Practice {n}", "https://api.vendor.example.com/fhir/r4") for n in range(5)]

    assert len(merge.merge(rows, {}).organizations) == 5


def test_third_party_never_moves_a_hospital_to_another_state():
    own = row("Kuakini Medical Center", "https://fhir-myrecord.cerner.com/r4/T3/", state="HI")
    claim = row(
        "Kuakini Medical Center",
        "https://fhir-myrecord.cerner.com/r4/T3/",
        "crosswalk",
        state="CA",
        evidence=True,
    )

    found = merge.merge([own, claim], {}).organizations

    assert len(found) == 1
    assert {s.state for s in found[0].rows if not s.row.evidence} == {"HI"}


def test_brand_identifier_that_would_join_two_states_becomes_a_question():
    one = row(
        "North Care", "https://a.example.org/r4", "x", brand_id="https://north.org", state="OH"
    )
    two = row(
        "North Care", "https://b.example.net/r4", "y", brand_id="https://north.org", state="TX"
    )

    merged = merge.merge([one, two], {})

    assert len(merged.organizations) == 2
    assert merged.questions == [("North Care", "North Care")]


def test_id_of_an_organisation_outlives_its_name_and_other_rows():
    old = row("Keck Medicine of USC", "https://fhir-myrecord.cerner.com/r4/T4/", "o1")
    first = merge.merge([old], {}).organizations[0]
    known = {merge.anchor(s): first.id for s in first.rows}
    new = row("USC Health System", "https://fhir-myrecord.cerner.com/r4/T4/", "a-newer-list")

    again = merge.merge([new, old], known).organizations[0]

    assert again.id == first.id


def test_order_of_rows_does_not_matter():
    rows = [
        row("Alpha Clinic", "https://a.example.org/r4", state="OH"),
        row("ALPHA CLINIC, LLC", "https://b.example.org/r4", state="OH"),
        row("Beta Clinic", "https://c.example.org/r4"),
    ]

    one, other = merge.merge(rows, {}), merge.merge(rows[::-1], {})

    assert names(one) == names(other)
    assert sorted(f.id for f in one.organizations) == sorted(f.id for f in other.organizations)
