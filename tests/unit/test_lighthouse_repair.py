"""Published names, places and addresses: repaired, classified, refused."""

import json

import pytest

from lighthouse import merge, repair
from lighthouse.rows import Row
from tests.corpus import corpus

HOSTILE = [
    "https://10.160.126.33/fhir",
    "https://172.19.5.119/fhir",
    "https://127.0.0.1\teyeassociates.example.com/API/R4",
    "https://EEHRTOP-ALL01.services.local/fhir",
    "https://INSCMQAES51/FHIR",
    "http://fhir.example.org/r4",
    "https://user@fhir.example.org/r4",
    "https://2130706433/fhir",
    "https://[::1]/fhir",
    "https://fhir.example.org/api/FHIR/R$/",
    "https://a.example.org https://b.example.org",
    "https://a.example.org/\\open",
    "/api/FHIR/R4",
    "api.example.org/R4",
    "",
]


@pytest.mark.parametrize("url", HOSTILE)
def test_hostile_address_is_refused_with_a_reason(url):
    found = repair.address(url)

    assert found.key == ""
    assert found.refused


def test_spellings_of_one_server_share_a_key_and_keep_the_published_spelling():
    published = "https://EpicFHIR.aurora.org:443/FHIR//MYAURORA/api/FHIR/R4/metadata"

    found = repair.address(published)

    assert found.key == "https://epicfhir.aurora.org/FHIR/MYAURORA/api/FHIR/R4"
    assert found.published == published


def test_path_case_and_query_are_part_of_the_address():
    assert repair.address("https://a.org/FHIR").key != repair.address("https://a.org/fhir").key
    assert repair.address("https://a.org/fhir?cust=1").key.endswith("?cust=1")


@pytest.mark.parametrize(
    ("published", "shown"),
    [
        ("TX - COLLIN COUNTY PULMONARY ASSOCIATES,", "Collin County Pulmonary Associates"),
        ("Albany Medical Center - PROD", "Albany Medical Center"),
        (
            "Ace Pain Management Rehab &amp; Physical Therapy",
            "Ace Pain Management Rehab & Physical Therapy",
        ),
        ("Matt\ufffds Place", "Matt's Place"),
        ("  Alicia K  Guice ", "Alicia K Guice"),
    ],
)
def test_name_is_shown_as_people_write_it(published, shown):
    assert repair.name(published).name == shown


@pytest.mark.parametrize(
    "name",
    ["Austin Psychological Testing Center", "The Training Station", "Sample Family Medicine"],
)
def test_a_real_place_with_a_testing_name_is_not_hidden(name):
    assert not repair.is_test(name)


@pytest.mark.parametrize(
    ("published", "code"),
    [
        ("6850", "06850"),
        ("071122016", "07112"),
        ("79761?", ""),
        ("904404", ""),
        ("12345-6789", "12345"),
    ],
)
def test_us_zip_is_repaired_or_left_out(published, code):
    assert repair.zip_code(published)[0] == code


def test_foreign_postal_code_is_left_alone():
    assert repair.zip_code("KY1-1010", "Cayman Islands") == ("KY1-1010", set())


def test_npi_is_checked_by_its_luhn_digit():
    assert repair.npi_is_valid("1234567893")
    assert not repair.npi_is_valid("1234567890")


def test_cayman_is_not_kentucky():
    assert repair.state_at_end("Doctors Express Urgent Care Grand Cayman KY") == ""
    assert repair.state_at_end("Sample Family Medicine Lexington KY") == "KY"


@pytest.mark.corpus
def test_every_malformed_row_of_the_corpus_lands_in_its_class():
    # The lines carry no street and no NPI; those three classes have their own tests below.
    missed = []
    for line in (corpus() / "lighthouse" / "weird.ndjson").read_text().splitlines():
        row = json.loads(line)
        found = repair.name(row["name"]).defects | repair.address(row["url"]).defects
        found |= repair.zip_code(row.get("zip") or "")[1]
        if row["defect"] not in found | {"A-po-box", "A-maybe-home-address", "I-npi-bad-checksum"}:
            missed.append((row["defect"], row["name"], row["url"]))
    assert missed == []


def test_street_and_npi_defects_are_seen():
    row = Row(
        "list", "", "", "Relver1 Facility", "https://a.org/r4", npi="1234567890", street="PO Box 7"
    )

    assert {"A-po-box", "I-npi-bad-checksum"} <= merge.see(row).defects
    assert "A-maybe-home-address" in repair.street("611 Lido Park Dr Apt 4-A")
