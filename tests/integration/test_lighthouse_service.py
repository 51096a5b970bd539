"""The lighthouse over HTTP: answers, headers, files; and what is kept of a query: nothing."""

import csv
import json
import re
import sqlite3
import statistics
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from litestar.testing import TestClient

from lighthouse import app, catalogue, index, lines, publish, snapshot
from lighthouse.__main__ import main
from lighthouse.ingest import ingest
from lighthouse.vendors import profiles
from tests.corpus import corpus
from tests.fixtures_lighthouse import (
    DAY,
    HILL,
    LAKE,
    NOW,
    Lighthouse,
    organization,
    people_type,
    png,
    serving,
)

CANARY = "zzcanaryzz"


@pytest.fixture
def house(tmp_path):
    found = Lighthouse(tmp_path / "published")
    found.publish(people_type(), vendors={"Epic": {"aud": "no_slash", "notes": ["Ask <them>."]}})
    found.replica(tmp_path / "index.db")
    return found


@pytest.fixture
def log():
    return []


@pytest.fixture
def client(house, tmp_path, log):
    made = app.create(
        tmp_path / "index.db", app.Files(house.folder), lambda *line: log.append(line)
    )
    with TestClient(made) as found:
        yield found


# --------------------------------------------------------------------------- the interface


def test_search_answers_what_the_command_line_answers(client):
    asked = {"q": "lakside helth", "limit": 1}
    hits = client.post("/v1/search", json=asked).json()["hits"]

    assert hits[0]["name"] == "Lakeside Health System"
    assert set(hits[0]) == {
        "id", "name", "aliases", "matched", "city", "state", "zip", "country", "vendor", "score",
        "endpoints",
    }  # fmt: skip
    assert client.get("/v1/search", params=asked).json()["hits"] == hits


def test_endpoint_says_addresses_rules_and_its_signed_line(client, house):
    said = client.get(f"/v1/endpoints/{LAKE.id}").json()

    assert said["endpoint"]["token"] == LAKE.token
    assert said["profile"]["aud"] == "no_slash"
    assert (said["lighthouse"], said["serial"]) == ("Test lighthouse", 1)
    assert said["line"] in lines.write(lines.content_of(people_type())).decode().split("\n")


def test_organisation_without_an_endpoint_is_answered_too(client):
    said = client.get(f"/v1/organizations/{4:032x}").json()

    assert said["organization"]["name"] == "National Record of Ruritania"
    assert said["organization"]["endpoints"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/search", None, 400),
        ("GET", "/v1/search?q=a&limit=1000", None, 400),
        ("GET", f"/v1/search?q={'a' * 500}", None, 400),
        ("POST", "/v1/search", {"q": "a", "more": 1}, 400),
        ("POST", "/v1/search", {"q": ["a"]}, 400),
        ("POST", "/v1/search", {"q": "a" * 20_000}, 413),
        ("GET", "/v1/endpoints/none", None, 400),
        ("GET", f"/v1/endpoints/{'0' * 32}", None, 404),
        ("GET", f"/organizations/{'0' * 32}", None, 404),
        ("DELETE", "/v1/search", None, 405),
        ("GET", "/snapshots/manifest.json", None, 404),
        ("GET", "/snapshots/..%2Findex.db", None, 404),
        ("GET", "/static/x/none.css", None, 404),
        ("GET", "/logos/none.png", None, 404),
        ("GET", "/nothing", None, 404),
        ("GET", "/organizations/nothing", None, 404),
    ],
)
def test_wrong_request_gets_a_sentence_that_repeats_nothing(client, method, path, body, status):
    answer = client.request(method, path, json=body)

    assert answer.status_code == status
    assert "aaaa" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "typed", ['"', "*", "NEAR(", "\x00", "' OR 1=1", "<script>", "é" * 300, ""]
)
def test_no_typed_text_breaks_the_service(client, typed):
    assert client.post("/v1/search", json={"q": typed}).status_code == 200
    page = client.post("/", data={"q": typed})
    assert page.status_code == 200
    assert "<script>" not in page.text


def test_search_never_comes_from_a_cache_and_metadata_may(client):
    assert client.get("/v1/search?q=a").headers["cache-control"] == "no-store"
    assert "max-age" in client.get(f"/v1/endpoints/{LAKE.id}").headers["cache-control"]


def test_programs_of_any_origin_may_read_the_public_answers(client):
    for path in ("/v1/search?q=a", "/v1/about", "/snapshots/snapshot.json"):
        assert client.get(path).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in client.get("/").headers


# --------------------------------------------------------------------------- pages


def test_every_answer_has_the_strict_headers(client):
    for path in ("/", f"/organizations/{1:032x}", "/v1/about", "/healthz", "/nothing", "/metrics"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in headers


def test_page_finds_without_script_and_says_where_and_which_name_matched(client):
    page = client.post("/", data={"q": "lhs trust"}).text

    assert re.search(r'<a href="organizations/0+1">Lakeside Health System</a>', page)
    assert "also known as LHS Trust" in page
    assert 'value="lhs trust"' in page
    assert "Nothing is close enough" in client.post("/", data={"q": "qqxxyy"}).text


def test_page_of_an_organisation_shows_what_a_client_needs(client):
    page = client.get(f"/organizations/{1:032x}").text

    for text in (LAKE.url, LAKE.token, LAKE.authorize, "the address without a slash at its end"):
        assert text in page
    assert "Ask &lt;them&gt;." in page


def test_pages_load_only_what_this_server_has(client):
    for path in ("/", f"/organizations/{3:032x}"):
        page = client.get(path).text
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', page)
        assert loaded
        for one in loaded:
            assert client.get("/" + one.removeprefix("../")).status_code == 200
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page)
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", page)


def test_logo_is_shown_only_when_a_person_has_reviewed_its_licence(house, tmp_path):
    folder = tmp_path / "logos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    read = {"file": "a.png", "licence": "https://lakeside.example.org/brand"}
    (folder / "logos.json").write_text(json.dumps({
        f"{1:032x}": {**read, "reviewed_by": "R. Viewer, 2026-02-03"},
        f"{2:032x}": read,
        f"{3:032x}": {"file": "a.png", "reviewed_by": "R. Viewer"},
    }))  # fmt: skip
    with TestClient(
        app.create(tmp_path / "index.db", app.Files(logos=folder), lambda *_: None)
    ) as c:
        page = c.post("/", data={"q": "lakeside"}).text
        shown = re.search(r'<img src="(logos/[0-9a-f]+\.png)" alt=""', page)
        assert c.get("/" + shown[1]).content == png()
        other = c.post("/", data={"q": "hillside"}).text
        assert "<img" not in other
        assert ">HC</span>" in other


@pytest.mark.parametrize(
    ("name", "letters"),
    [("Lakeside Health System", "LH"), ("Hospital of the Sea", "HS"), ("7", "7"), ("Øst", "Ø")],
)
def test_monogram_is_one_or_two_letters(name, letters):
    assert app.monogram(name) == letters


# --------------------------------------------------------------------------- files


def test_snapshot_is_revalidated_and_its_files_last_for_ever(client):
    first = client.get("/snapshots/snapshot.json")
    again = client.get("/snapshots/snapshot.json", headers={"If-None-Match": first.headers["etag"]})
    weak = client.get(
        "/snapshots/snapshot.json", headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'}
    )
    whole = client.get("/snapshots/catalogue-1.ndjson.zst")

    assert (first.status_code, again.status_code, weak.status_code) == (200, 304, 304)
    assert again.content == b""
    assert "max-age=300" in first.headers["cache-control"]
    assert "immutable" in whole.headers["cache-control"]
    assert whole.headers["content-type"] == "application/zstd"
    assert "content-encoding" not in whole.headers


def test_newly_signed_snapshot_is_handed_out_at_once(client, house):
    before = client.get("/snapshots/snapshot.json").headers["etag"]
    house.publish(people_type()[:1], at=NOW + DAY)

    assert client.get("/snapshots/snapshot.json").headers["etag"] != before
    assert client.get("/snapshots/delta-1-2.zst").status_code == 200


def test_head_is_get_without_its_body(client):
    got, head = client.get("/snapshots/snapshot.json"), client.head("/snapshots/snapshot.json")

    assert head.content == b""
    assert {**head.headers} == {**got.headers}


# --------------------------------------------------------------------------- operation


def test_replaced_index_is_taken_up_and_a_broken_one_is_not(house, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "LOOK_AGAIN", 0)
    path = tmp_path / "index.db"
    with TestClient(app.create(path, log=lambda *_: None)) as client:
        assert client.get("/healthz").json() == {"ok": True, "serial": 1}
        house.publish(people_type()[:1], at=NOW + DAY)
        house.replica(path, NOW + DAY)
        assert client.get("/healthz").json() == {"ok": True, "serial": 2}
        (tmp_path / "broken").write_bytes(b"broken")
        (tmp_path / "broken").replace(path)
        assert client.get("/healthz").json() == {"ok": True, "serial": 2}
        path.unlink()
        assert client.post("/v1/search", json={"q": "lakeside"}).json()["hits"]


def test_without_a_catalogue_the_service_says_so_and_recovers(house, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "LOOK_AGAIN", 0)
    path = tmp_path / "later.db"
    with TestClient(app.create(path, log=lambda *_: None)) as client:
        assert client.get("/healthz").status_code == 503
        assert client.get("/").status_code == 503
        assert client.get("/metrics").status_code == 200
        house.replica(path)
        assert client.get("/healthz").status_code == 200


def older(path):
    """Make an index file one of a shape that this version does not read."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 1")


def test_index_of_another_shape_is_told_in_a_sentence_and_not_served(house, tmp_path):
    older(tmp_path / "index.db")

    said = run("serve", "--index", tmp_path / "index.db", code=1)

    assert "no search index that this version reads. Make it again." in said.output
    assert "Traceback" not in said.output


def test_index_replaced_by_one_of_another_shape_is_said_once(house, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(app, "LOOK_AGAIN", 0)
    path = tmp_path / "index.db"
    with TestClient(app.create(path, log=lambda *_: None)) as client:
        assert client.get("/healthz").status_code == 200
        house.replica(tmp_path / "other.db")
        older(tmp_path / "other.db")
        (tmp_path / "other.db").replace(path)
        for _ in range(3):
            assert client.post("/v1/search", json={"q": "lakeside"}).json()["hits"]
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in told] == ["index refused"]
    assert "Make it again." in told[0]["reason"]


@pytest.mark.parametrize("command", ["search", "stats", "build", "replica", "serve"])
def test_catalogue_of_another_version_is_told_in_a_sentence(tmp_path, command):
    where = tmp_path / "c.db"
    catalogue.connect(where).dispose()
    with closing(sqlite3.connect(where)) as database:
        database.execute("ALTER TABLE organization DROP COLUMN hidden")
        database.execute("ALTER TABLE endpoint DROP COLUMN vendor")
    more = {
        "build": ("--snapshots", tmp_path / "out"),
        "replica": ("--index", tmp_path / "r.db"),
    }.get(command, ())

    said = run(command, "--catalogue", where, *more, code=1)

    assert "is of another version. Make it again with `lighthouse ingest`." in said.output


def test_neither_log_nor_metrics_hold_what_was_asked(client, log):
    client.post("/v1/search", json={"q": CANARY})
    client.get("/v1/search", params={"q": CANARY})
    client.get("/v1/search", params={"q": CANARY, "limit": "x"})
    client.post("/", data={"q": CANARY})
    client.post("/hits", data={"q": CANARY})
    client.get(f"/organizations/{CANARY}")
    client.get(f"/{CANARY}")
    client.get(f"/v1/endpoints/{LAKE.id}")

    assert CANARY in client.post("/", data={"q": CANARY}).text  # the control: it is in the answer
    assert CANARY not in client.get("/metrics").text
    assert LAKE.id not in client.get("/metrics").text + str(log)
    assert CANARY not in str(log)
    assert {line[0] for line in log} == {
        "/v1/search", "/", "/hits", "/organizations/{identity}", "none", "/v1/endpoints/{identity}",
        "/metrics",
    }  # fmt: skip


def test_fault_inside_a_search_is_answered_and_logged_without_the_query(client, log, monkeypatch):
    def broken(_self, typed, _limit):
        raise RuntimeError(typed)

    monkeypatch.setattr(index.Index, "find", broken)

    answer = client.post("/v1/search", json={"q": CANARY})

    assert answer.status_code == 500
    assert CANARY not in answer.text + str(log) + client.get("/metrics").text


def test_served_program_answers_stops_on_sigterm_and_writes_no_query(house, tmp_path):
    said = []
    with (
        serving("--index", tmp_path / "index.db", "--snapshots", house.folder, said=said) as base,
        urllib.request.urlopen(f"{base}/v1/search?q={CANARY}", timeout=5) as answer,
    ):
        assert json.load(answer) == {"hits": []}
        assert "server" not in answer.headers
    assert '"route": "/v1/search"' in said[0]
    assert CANARY not in said[0]


# --------------------------------------------------------------------------- the command line


def run(*words, code=0):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def test_command_line_builds_signs_verifies_and_makes_a_replica(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "a.csv").write_text("name,url\nLakeside,https://fhir.lakeside-health.org/r4\n")
    where, folder, at = tmp_path / "c.db", tmp_path / "out", NOW.isoformat()
    catalogue.connect(where).dispose()
    clients = tmp_path / "clients.json"
    clients.write_text('{"Epic": {"id": "abc"}}')

    root = json.loads(run("key", "--out", tmp_path / "root.pem", "--json").stdout)["public"]
    public = run("key", "--out", tmp_path / "key.pem").stdout.strip()
    run("delegate", "--root-key", tmp_path / "root.pem", "--signing", public, "--at", at,
        "--out", tmp_path / "d.json")  # fmt: skip
    for serial in (1, 2):
        said = json.loads(run("build", "--catalogue", where, "--snapshots", folder, "--at", at,
                              "--clients", clients, "--json").stdout)  # fmt: skip
        assert said["serial"] == serial
        run("sign", "--snapshots", folder, "--key", tmp_path / "key.pem", "--delegation",
            tmp_path / "d.json", "--zip", tmp_path / "s.zip")  # fmt: skip
    for place in (folder, tmp_path / "s.zip"):
        good = run("verify", "--snapshots", place, "--root", root, "--at", at, "--json",
                   "--index", tmp_path / "i.db")  # fmt: skip
        assert json.loads(good.stdout)["ok"]
    for more, reason in (
        (("--newest", 3, "--at", at), "rollback"),
        (("--at", "2031-01-01"), "expired"),
    ):
        bad = run("verify", "--snapshots", folder, "--root", root, "--json", *more, code=1)
        assert json.loads(bad.stdout)["reason"] == reason
    run("verify", "--snapshots", folder, "--root", public, "--at", at, code=1)
    made = run("replica", "--catalogue", where, "--index", tmp_path / "r.db", "--json")
    assert json.loads(made.stdout)["organizations"] == 0
    run("replica", "--snapshots", folder, "--root", root, "--at", at, "--index", tmp_path / "r.db")
    one = folder / "catalogue-1.ndjson.zst"
    run("delta", one, one, "--out", tmp_path / "delta.zst")
    run("key", "--out", tmp_path / "root.pem", code=1)
    run("build", "--catalogue", tmp_path / "none.db", "--snapshots", folder, code=2)
    run("replica", "--index", tmp_path / "r.db", code=2)
    run("serve", code=2)


def test_document_of_the_command_line_names_every_option():
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for name in (
        "key",
        "delegate",
        "build",
        "sign",
        "verify",
        "delta",
        "replica",
        "serve",
        "openapi",
    ):
        assert f"`lighthouse {name}" in text, name
        for option in (
            word for one in main.commands[name].params for word in one.opts if "--" in word
        ):
            assert option in text, (name, option)


# --------------------------------------------------------------------------- the whole catalogue


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    engine = catalogue.connect(folder / "catalogue.db")
    ingest([corpus() / "lighthouse"], engine)
    found, ends = catalogue.organizations(engine), catalogue.endpoints(engine)
    engine.dispose()
    house = Lighthouse(folder / "published")
    manifest = house.publish(found, vendors=profiles(), endpoints=ends)
    house.replica(folder / "index.db")
    return house, found, manifest, folder


def queries():
    with (corpus() / "lighthouse" / "queries_dev.tsv").open() as file:
        return [row["query"] for row in csv.DictReader(file, delimiter="\t")]


@pytest.mark.corpus
def test_whole_catalogue_is_small_and_so_is_a_change_of_half_a_percent(whole, tmp_path):
    _, found, manifest, _ = whole
    changed = [
        replace(one, name=f"{one.name} of {number}") if number % 200 == 0 else one
        for number, one in enumerate(found)
    ]
    before, after = (lines.write(lines.content_of(ones)) for ones in (found, changed))

    delta = publish.delta(before, after)

    print(f"whole {manifest.catalogue.size} bytes, delta of 0.5 % {len(delta)} bytes")  # noqa: T201 - the figures
    assert manifest.catalogue.size < 2_000_000
    assert len(delta) < 15_000


@pytest.mark.corpus
def test_whole_catalogue_is_verified_and_indexed(whole, tmp_path):
    house, found, _, _ = whole
    shelf = snapshot.Shelf(tmp_path / "shelf")
    started = time.process_time()

    shelf.take("main", house.fetch, house.trust, now=NOW)
    checked = time.process_time()
    with snapshot.open_index(shelf.index(["main"])) as made:
        done = time.process_time()
        print(f"verify {checked - started:.2f} s, index {done - checked:.2f} s CPU")  # noqa: T201
        assert made.organizations == len(found)


@pytest.mark.corpus
def test_every_keystroke_is_answered_through_the_service(whole):
    _, _, _, folder = whole
    spent = []
    with TestClient(app.create(folder / "index.db", log=lambda *_: None)) as client:
        client.get("/healthz")
        for text in queries():
            for end in range(1, len(text) + 1):
                began = time.process_time()
                assert client.post("/v1/search", json={"q": text[:end]}).status_code == 200
                spent.append((time.process_time() - began) * 1000)
    ms = sorted(spent)
    p50, p95 = statistics.median(ms), ms[len(ms) * 95 // 100]
    print(f"{len(ms)} keystrokes: p50 {p50:.1f}, p95 {p95:.1f} ms CPU, client and all")  # noqa: T201


@pytest.mark.corpus
def test_index_file_answers_as_the_search_in_memory_does(whole):
    _, found, _, folder = whole
    memory = snapshot.Search(found)
    typed = queries()
    with snapshot.open_index(folder / "index.db") as file:
        for text in typed:
            ours, theirs = file.find(text, 5), memory.find(text, 5)
            assert [(o.organization.id, o.score) for o in ours] == [
                (t.organization.id, t.score) for t in theirs
            ]


def test_shared_endpoint_is_one_line_for_all_its_organisations(tmp_path):
    many = [organization(number, f"Practice {number}", HILL) for number in range(1, 40)]

    raw = lines.write(lines.content_of(many))

    assert raw.count(b'"is":"endpoint"') == 1
    assert len(lines.read(raw).organizations) == 39
