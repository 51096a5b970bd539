"""The crawler: who is alive, at one request a second to a host, and nobody it must not ask."""

import json
from collections import defaultdict
from itertools import pairwise

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from lighthouse import catalogue, tables
from lighthouse.__main__ import main
from lighthouse.ingest import ingest
from lighthouse.net import Answer, Guard, Refused, Unanswered
from lighthouse.probe import Budget, Crawler, below
from lighthouse.writing import put
from tests.fakes.list_server import Said

SMART = {
    "authorization_endpoint": "https://auth.example.org/authorize",
    "token_endpoint": "https://auth.example.org/token",
    "registration_endpoint": "https://auth.example.org/register",
    "code_challenge_methods_supported": ["S256"],
    "token_endpoint_auth_methods_supported": ["private_key_jwt", "<script>"],
    "user_access_brand_bundle": "https://example.org/brands.json",
}
R4 = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "software": {"name": "Epic"}}
DSTU2 = {
    "resourceType": "Conformance", "fhirVersion": "1.0.2",
    "rest": [{"security": {"extension": [{
        "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
        "extension": [{"url": "authorize", "valueUri": "https://auth.example.org/dstu2/a"},
                      {"url": "token", "valueUri": "https://auth.example.org/dstu2/t"}]}]}}],
}  # fmt: skip


@pytest.fixture
def fill(engine, tmp_path):
    def fill(*urls):
        made = [{"URL": url, "OrganizationName": f"Clinic {n}"} for n, url in enumerate(urls)]
        (tmp_path / "list.json").write_text(json.dumps({"Endpoints": made}))
        ingest([tmp_path], engine)
        return engine

    return fill


class Network:
    """Hosts that answer by their first label, on a clock that only moves when somebody waits."""

    def __init__(self):
        self.at = 0.0
        self.requests = defaultdict(list)
        self.smart = SMART

    def clock(self):
        return self.at

    def wait(self, seconds):
        self.at += seconds

    def ask(self, _method, url, _guard, *, headers, **_limits):
        host = url.split("/")[2]
        self.requests[host].append(self.at)
        kind = host.split(".")[0].rstrip("0123456789")
        if kind == "gone":
            raise Unanswered("nobody there")
        if kind == "private":
            raise Refused("The name leads into a private network.")
        if kind == "html":
            return Answer(200, {}, b"<html>")
        if url.endswith("/smart-configuration"):
            said = None if kind == "old" else self.smart
        elif kind == "old":
            said = DSTU2 if headers["Accept"] == "application/json+fhir" else None
        else:
            said = R4
        return Answer(200 if said else 404, {}, json.dumps(said).encode())


def crawl(engine, network, day="2026-08-01", requests=100_000, **limits):
    budget = Budget(requests, **limits)
    crawler = Crawler(Guard(), day, budget, network.ask, network.clock, network.wait)
    return crawler.run(engine, workers=1)


def seen(engine):
    return {end.url: end for one in catalogue.organizations(engine) for end in one.endpoints}


def test_what_a_server_says_of_itself_reaches_the_catalogue(fill):
    engine = fill("https://fhir.example.org/r4", "https://old.example.org/dstu2")

    told = crawl(engine, Network())

    ends = seen(engine)
    new, old = ends["https://fhir.example.org/r4"], ends["https://old.example.org/dstu2"]
    assert told == {"alive": 2}
    assert (new.answer, new.last_ok, new.software) == ("alive", "2026-08-01", "Epic")
    assert (new.authorize, new.token, new.registration) == (
        SMART["authorization_endpoint"], SMART["token_endpoint"], SMART["registration_endpoint"],
    )  # fmt: skip
    assert (new.pkce, new.token_auth) == ("S256", "private_key_jwt")
    assert (old.token, old.fhir_version) == ("https://auth.example.org/dstu2/t", "DSTU2")


def test_failed_visit_takes_nothing_away_and_keeps_the_last_good_day(fill):
    engine = fill("https://fhir.example.org/r4")
    crawl(engine, Network())

    away = Network()
    away.ask = lambda *_words, **_limits: (_ for _ in ()).throw(Unanswered("slow"))
    crawl(engine, away, day="2026-08-02")

    (end,) = seen(engine).values()
    assert (end.answer, end.probed, end.last_ok) == ("no answer", "2026-08-02", "2026-08-01")
    assert end.token == SMART["token_endpoint"]


def test_each_kind_of_silence_has_its_own_word(fill):
    engine = fill(*(f"https://{kind}.example.org/r4" for kind in ("gone", "html", "private")))

    assert crawl(engine, Network()) == {"no answer": 1, "not FHIR": 1, "refused": 1}


def test_three_thousand_hosts_are_asked_once_a_second_each(fill):
    urls = [f"https://h{n % 3000}.example.org/t{n}/r4" for n in range(4000)]
    network = Network()

    told = crawl(fill(*urls), network)

    assert told == {"alive": 4000}
    assert len(network.requests) == 3000
    pauses = [b - a for times in network.requests.values() for a, b in pairwise(times)]
    assert min(pauses) >= 1.0


def test_budgets_are_kept_and_the_next_crawl_begins_where_nobody_was(fill):
    engine = fill(*(f"https://big.example.org/t{n}/r4" for n in range(10)))
    network = Network()

    assert crawl(engine, network, per_host=4).total() == 4
    assert crawl(engine, network, requests=9, day="2026-08-02").total() == 4
    assert sum(map(len, network.requests.values())) == 4 * 2 + 9
    assert crawl(engine, network, per_host=2, day="2026-08-03").total() == 2
    assert {end.probed for end in seen(engine).values()} == {
        "2026-08-01", "2026-08-02", "2026-08-03",
    }  # fmt: skip


def test_token_endpoint_that_moves_to_another_domain_waits_for_a_person(fill):
    engine = fill("https://fhir.example.org/r4")
    crawl(engine, Network())
    moved = Network()
    moved.smart = SMART | {"token_endpoint": "https://evil.example.net/token"}

    crawl(engine, moved, day="2026-08-02")

    assert next(iter(seen(engine).values())).token == SMART["token_endpoint"]
    with engine.connect() as connection:
        asked = connection.execute(select(tables.question)).all()
    assert [row.other for row in asked] == ["https://evil.example.net/token"]


@pytest.mark.parametrize(
    "hostile", ["http://10.0.0.1/token", "https://127.0.0.1/t", "javascript:x", 7]
)
def test_server_that_names_a_hostile_address_is_not_believed(fill, hostile):
    network = Network()
    network.smart = SMART | {"token_endpoint": hostile}
    engine = fill("https://fhir.example.org/r4")

    crawl(engine, network)

    assert next(iter(seen(engine).values())).token == ""


def test_endpoint_that_resolves_to_a_private_address_is_never_dialled(fill, watched):
    engine = fill("https://fhir.example.org/r4", "https://other.example.org/r4")
    watched.clear()
    guard = Guard(resolve=lambda _host, port: [(2, ("10.0.0.1", port))])

    told = Crawler(guard, "2026-08-01", Budget()).run(engine)

    assert told == {"refused": 2}
    assert not [where for _, where in watched if "10.0.0.1" in str(where)]


def test_command_visits_a_real_server_and_says_how_many(empty_catalogue, list_server):
    engine, where = empty_catalogue("sqlite")
    list_server.answers["/r4/metadata"] = Said(json.dumps(R4).encode())
    rows = {"id": "e1", "key": "k", "url": list_server.url("/r4")}
    with engine.begin() as connection:
        put(connection, tables.organization, [{"id": "o1", "name": "One", "hidden": ""}])
        put(connection, tables.endpoint, [rows])
        put(connection, tables.door, [{"organization": "o1", "endpoint": "e1"}])

    words = ["probe", "--catalogue", where, "--allow", f"127.0.0.1:{list_server.port}", "--json"]
    done = CliRunner().invoke(main, words)

    assert json.loads(done.output) == {
        "visited": 1, "alive": 1, "not_FHIR": 0, "no_answer": 0, "refused": 0, "requests": 2,
    }  # fmt: skip
    assert [path for path, _ in list_server.asked] == [
        "/r4/.well-known/smart-configuration",
        "/r4/metadata",
    ]
    assert all("authorization" not in headers for _, headers in list_server.asked)


def test_query_of_a_base_address_stays_at_its_end():
    assert below("https://a.org/fhir/?cust=1", "/metadata") == "https://a.org/fhir/metadata?cust=1"
