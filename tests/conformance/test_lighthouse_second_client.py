"""docs/lighthouse-spec.md is enough: a client written from it alone reads what we publish."""

import ast
import json
import re
from pathlib import Path

import pytest

from lighthouse import lines
from lighthouse.app import Files, create, litestar
from tests.conformance.lighthouse_reader import No, Reader, Service
from tests.fixtures_lighthouse import DAY, HILL, LAKE, NOW, Lighthouse, people_type
from tests.fixtures_lighthouse_web import running

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "docs" / "lighthouse-spec.md"
OPENAPI = ROOT / "docs" / "lighthouse-openapi.json"


@pytest.fixture
def house(tmp_path):
    return Lighthouse(tmp_path / "published")


@pytest.fixture
def service(house, tmp_path):
    house.publish(people_type(), vendors={"Epic": {"aud": "exact"}})
    house.replica(tmp_path / "index.db")
    with running(create(tmp_path / "index.db", Files(house.folder))) as base:
        yield Service(base)


def test_second_client_knows_nothing_of_the_project():
    tree = ast.parse((ROOT / "tests/conformance/lighthouse_reader.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert not imported & {"lighthouse", "phr", "tests", "msgspec", "httpx"}


def test_second_client_verifies_a_snapshot_from_the_service(house, service):
    reader = Reader(service.file, house.trust.roots)

    reader.update(NOW)

    assert reader.manifest["serial"] == 1
    assert reader.endpoints()[LAKE.id]["token"] == LAKE.token
    named = {line["name"] for line in reader.lines("organization")}
    assert named == {one.name for one in people_type()}
    assert reader.lines("vendor")[0]["profile"] == {"aud": "exact"}


def test_second_client_applies_a_delta(house, service):
    reader = Reader(service.file, house.trust.roots)
    reader.update(NOW)
    house.publish(people_type()[:2], at=NOW + DAY)

    reader.update(NOW + DAY)

    assert reader.fetched == ["catalogue-1.ndjson.zst", "delta-1-2.zst"]
    assert len(reader.lines("organization")) == 2


def test_second_client_searches_and_compares_with_what_was_signed(house, service):
    reader = Reader(service.file, house.trust.roots)
    reader.update(NOW)
    signed = reader.content.decode().split("\n")

    hit = service.search("hilside clinc", 1)[0]
    one, end = service.organization(hit["id"]), service.endpoint(hit["endpoints"][0]["id"])

    assert hit["name"] == "Hillside Clinic"
    assert hit["endpoints"][0]["portal"] == "MyHill"
    assert end["endpoint"]["token"] == HILL.token
    assert end["profile"] == {"aud": "exact"}
    assert {one["serial"], end["serial"]} == {1}
    assert one["line"] in signed
    assert end["line"] in signed


@pytest.mark.parametrize(
    ("step", "attack"),
    [
        (1, lambda house: (house.folder / "snapshot.json").write_text("{}")),
        (3, lambda house: house.publish(people_type(), at=NOW - DAY, days=1)),
        (5, lambda house: house.publish(people_type()[:1], serial=4)),
        (5, lambda house: house.publish(people_type()[:1], serial=5)),
        (6, lambda house: truncate(house, house.publish(people_type()[:1], deltas=0))),
    ],
)
def test_second_client_refuses_what_the_document_says(house, step, attack):
    house.publish(people_type(), serial=5)
    reader = Reader(lambda name: (house.folder / name).read_bytes(), house.trust.roots)
    reader.update(NOW)
    before = reader.content
    attack(house)

    with pytest.raises(No) as refused:
        reader.update(NOW)

    assert refused.value.step == step
    assert reader.content == before


def truncate(house, manifest):
    path = house.folder / manifest.catalogue.file
    path.write_bytes(path.read_bytes()[:-1])


def test_second_client_refuses_a_strangers_key(house, tmp_path):
    house.publish(people_type())
    reader = Reader(
        lambda name: (house.folder / name).read_bytes(), Lighthouse(tmp_path).trust.roots
    )

    with pytest.raises(No, match="2"):
        reader.update(NOW)


@pytest.mark.parametrize("kind", lines.MEMBERS)
def test_document_names_every_member_of_every_line(kind):
    text = SPEC.read_text(encoding="utf-8")
    assert not [name for name in lines.MEMBERS[kind] if f"`{name}`" not in text]


def test_committed_description_is_the_one_that_is_served(tmp_path):
    served = litestar(tmp_path / "none.db", Files()).openapi_schema.to_schema()

    assert json.loads(OPENAPI.read_text(encoding="utf-8")) == json.loads(json.dumps(served)), (
        "run `lighthouse openapi --out docs/lighthouse-openapi.json`"
    )


def test_every_route_of_the_document_is_in_the_description_and_back():
    described = {
        f"{method.upper()} {re.sub(r'{.*?}', '', path)}"
        for path, item in json.loads(OPENAPI.read_text())["paths"].items()
        for method in item
    }
    said = re.findall(r"^\| `(GET|POST) ([^`? ]+)", SPEC.read_text(), re.MULTILINE)
    stated = {f"{method} {re.sub(r'[A-Z]+$', '', path)}" for method, path in said}

    assert stated == described
