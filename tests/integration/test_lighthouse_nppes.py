"""NPPES supports names and places, streamed, and decides nothing; on both databases."""

import csv
import io
import json
import zipfile

import pytest
from sqlalchemy import select

from lighthouse import catalogue, nppes, tables
from lighthouse.ingest import ingest
from lighthouse.search import Search

MAIN = [
    "NPI", "Entity Type Code", "Replacement NPI", "Employer Identification Number (EIN)",
    "Provider Organization Name (Legal Business Name)", "Provider Last Name (Legal Name)",
    "Provider First Name", "Provider Other Organization Name",
    "Provider First Line Business Practice Location Address",
    "Provider Second Line Business Practice Location Address",
    "Provider Business Practice Location Address City Name",
    "Provider Business Practice Location Address State Name",
    "Provider Business Practice Location Address Postal Code",
    "Provider Business Practice Location Address Country Code (If outside U.S.)",
    "NPI Deactivation Date", "NPI Reactivation Date", "Is Organization Subpart",
]  # fmt: skip
NAMES = ["NPI", "Provider Other Organization Name", "Provider Other Organization Name Type Code"]
PLACES = [
    "NPI",
    "Provider Secondary Practice Location Address- Address Line 1",
    "Provider Secondary Practice Location Address-  Address Line 2",
    "Provider Secondary Practice Location Address - City Name",
    "Provider Secondary Practice Location Address - State Name",
    "Provider Secondary Practice Location Address - Postal Code",
    "Provider Secondary Practice Location Address - Country Code (If outside U.S.)",
]
OURS, NAMESAKE, ELSEWHERE, ENDED = "1234567893", "1679576722", "1588667638", "1497758544"


def sheet(columns, *rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def organization(npi, name, city, state, zip_code, **more):
    row = dict(zip([MAIN[0], MAIN[1], MAIN[4]], [npi, "2", name], strict=True))
    where = dict(zip(MAIN[8:13], ["7 Main St", "", city, state, zip_code], strict=True))
    return row | where | more


@pytest.fixture
def folder(tmp_path):
    rows = [
        organization(OURS, "PUBLIC TRUST OF AKRON", "AKRON", "OH", "443010001"),
        organization(NAMESAKE, "URBAN CLINIC LLC", "DAYTON", "OH", "45402"),
        organization(ELSEWHERE, "WRONG STATE HOSPITAL", "PHOENIX", "AZ", "85001"),
        {"NPI": ENDED, "NPI Deactivation Date": "01/02/2026"},
        {"NPI": "1003000126", "Entity Type Code": "1", MAIN[5]: "PERSON", MAIN[6]: "SOME"},
    ]
    others = [dict(zip(NAMES, [OURS, "Akron Mercy Hospital", "3"], strict=True))]
    places = [
        dict(zip(PLACES, [OURS, "9 Lake Rd", "", "CANTON", "OH", "44702", "US"], strict=True))
    ]
    with zipfile.ZipFile(tmp_path / "NPPES_Data_Dissemination_August_2026.zip", "w") as packed:
        packed.writestr("npidata_pfile_20050523-20260809.csv", sheet(MAIN, *rows))
        packed.writestr("npidata_pfile_20050523-20260809_fileheader.csv", "x\n")
        packed.writestr("othername_pfile_20050523-20260809.csv", sheet(NAMES, *others))
    (tmp_path / "pl_pfile_20050523-20260809.csv").write_text(sheet(PLACES, *places))
    listed = [
        {"OrganizationName": "Summit System", "URL": "https://a.example.org/r4", "NPIID": OURS},
        {"OrganizationName": "OH - Urban Clinic", "URL": "https://b.example.org/r4"},
        {"OrganizationName": "FL - Sunny Hospital", "URL": "https://c.example.org/r4",
         "NPIID": ELSEWHERE},
        {"OrganizationName": "Ended Clinic", "URL": "https://d.example.org/r4", "NPIID": ENDED},
    ]  # fmt: skip
    (tmp_path / "list.json").write_text(json.dumps({"Endpoints": listed}))
    return tmp_path


@pytest.fixture
def found(engine, folder):
    assert ingest([folder], engine).supported == 3
    return {one.name: one for one in catalogue.organizations(engine)}


def test_number_that_the_vendor_states_lends_names_and_an_empty_address(found):
    ours = found["Summit System"]

    assert set(ours.aliases) == {"Akron Mercy Hospital", "Public Trust of Akron"}
    assert (ours.street, ours.city, ours.state, ours.zip) == ("7 Main St", "Akron", "OH", "44301")
    assert ours.places == (("Canton", "OH", "44702"),)
    best = Search(found.values()).find("akron mercy hospital", 1)[0].organization
    assert best.id == ours.id


def test_name_and_state_alone_are_a_claim_that_changes_nothing(found, engine):
    urban = found["Urban Clinic"]

    assert (urban.aliases, urban.city, urban.state) == ((), "", "OH")
    with engine.connect() as connection:
        query = select(tables.identifier).where(tables.identifier.c.organization == urban.id)
        assert [(r.value, r.confidence) for r in connection.execute(query)] == [
            (NAMESAKE, "claimed")
        ]


def test_register_never_moves_a_hospital_to_another_state(found, engine):
    sunny = found["Sunny Hospital"]

    assert (sunny.state, sunny.city, sunny.aliases) == ("FL", "", ())
    with engine.connect() as connection:
        query = select(tables.provenance).where(tables.provenance.c.origin == "nppes")
        noted = {(r.organization, r.field, r.value) for r in connection.execute(query)}
    assert (sunny.id, "state", "AZ") in noted


def test_ended_number_is_a_tombstone_not_an_error(found, engine):
    with engine.connect() as connection:
        query = select(tables.identifier.c.confidence).where(tables.identifier.c.value == ENDED)
        assert connection.scalar(query) == "deactivated"


def test_same_delivery_again_changes_nothing(found, engine, folder):
    ingest([folder], engine)

    assert {one.name: one for one in catalogue.organizations(engine)} == found


def test_no_person_is_read(found, engine):
    with engine.connect() as connection:
        for table in tables.metadata.sorted_tables:
            assert "PERSON" not in repr(connection.execute(select(table)).all()).upper().replace(
                "N-A-PERSON", ""
            )


def test_delivery_is_read_line_by_line(engine, tmp_path):
    # 60,000 lines as a generator gives them: what is held is what matched, which is nobody.
    ingest([tmp_path], engine)
    with (tmp_path / "npidata_pfile_20050523-20260809.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, MAIN, restval="")
        writer.writeheader()
        for number in range(60_000):
            writer.writerow(
                organization(str(1_000_000_000 + number), f"Clinic {number}", "X", "OH", "44301")
            )

    report = nppes.support(engine, tmp_path)

    assert (report.read, report.matched) == (60_000, 0)
