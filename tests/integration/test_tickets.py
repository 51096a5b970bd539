"""A patient makes a Permission Ticket for a clinic's server, which exchanges it; what is refused.

Issue 4 item 5; spec/sharing.md §3.6; SMART Permission Tickets (draft), "Server-Side Validation".
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from phr import clock, ids, jwt
from phr.errors import TrustError
from phr.sharing import asking, clients, servers, tickets
from tests.cast import PASSWORDS, PUBLIC, Browser, Cast, csrf_in
from tests.fixtures_net import plain
from tests.fixtures_sharing import a_record, keep_all
from tests.integration.test_apps import clock_later
from tests.integration.test_consents import Clinic, forged

ASSERTED = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Desk:
    """Ada at home, the public door, and a clinic's server with its key."""

    cast: Cast
    ada: Browser
    door: Browser
    clinic: Clinic
    record: str

    def make(self, **changed: Any) -> Any:
        """Make a ticket on the share page as Ada does; return the answer."""
        page = f"/p/{self.record}/share"
        form: dict[str, Any] = {
            "csrf": csrf_in(self.ada.get(page).text),
            "do": "ticket",
            "what": "chosen",
            "part": ["problems", "results"],
            "hours": "168",
            "once": ids.new_id(),
            "server": self.clinic.address,
            "confirm.password": PASSWORDS["Ada"],
        }
        kept = {name: value for name, value in (form | changed).items() if value is not None}
        return self.ada.post(page, data=kept)

    def ticket(self, **changed: Any) -> str:
        answer = self.make(**changed)
        assert answer.status_code == 200, answer.text
        return str(re.findall(r"<textarea[^>]*readonly[^>]*>([^<]+)<", answer.text)[0])

    def assertion(self, key: Any = None, **changed: Any) -> str:
        now = int(clock.now().timestamp())
        claims = {
            "iss": self.clinic.address,
            "sub": self.clinic.address,
            "aud": f"{PUBLIC}/oauth/token",
            "exp": now + 200,
            "jti": ids.new_secret(),
        }
        return jwt.sign(claims | changed, key or self.clinic.key)

    def exchange(self, ticket: str, **changed: str | None) -> Any:
        given: dict[str, str | None] = {
            "grant_type": tickets.EXCHANGE,
            "subject_token": ticket,
            "subject_token_type": tickets.TOKEN_TYPE,
            "client_assertion_type": ASSERTED,
            "client_assertion": self.assertion(),
        }
        kept = {name: value for name, value in (given | changed).items() if value is not None}
        return self.door.post("/oauth/token", data=kept, headers={"origin": ""})

    def read(self, token: str, path: str) -> Any:
        headers = {"authorization": f"Bearer {token}", "accept": "application/fhir+json"}
        return self.door.get(f"/fhir/{path}", headers=headers)

    def signed(self, ticket: str, **changed: Any) -> str:
        """Return a ticket with other claims, signed by the very key of this record's issuer."""
        issuer = json.loads(self.cast.vault("Ada").fact(tickets.ISSUER_FACT) or b"")
        claims = jwt.peek(ticket) | changed
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.sign(kept, issuer["key"])

    def submit(self, path: str) -> Any:
        return self.ada.submit(path, {}, page=f"/p/{self.record}/grants")

    def grant(self) -> str:
        page = self.ada.get(f"/p/{self.record}/grants").text
        return str(re.findall(rf"/p/{self.record}/grants/(\w{{32}})", page)[0])


@pytest.fixture
def desk(cast: Cast, raw_server: Any) -> Iterator[Desk]:
    keep_all(cast.vault("Ada"), "General", a_record())
    clinic = Clinic()
    clinic.server = raw_server(clinic.reply)
    cast.appliance.http.guard.allow(clinic.server.place)
    with Browser(cast.public, PUBLIC) as door:
        yield Desk(cast, cast.browser("Ada"), door, clinic, cast.patients["Ada"])


def refused(answer: Any, code: str) -> None:
    assert answer.status_code == (401 if code == "invalid_client" else 400), answer.text
    assert answer.json()["error"] == code
    assert "access_token" not in answer.text


# ------------------------------------------------------------------ the whole way


def test_ticket_is_exchanged_again_and_again_until_it_is_stopped(desk: Desk):
    ticket = desk.ticket()
    first = desk.exchange(ticket)

    given = first.json()
    assert first.status_code == 200, first.text
    assert given["issued_token_type"] == tickets.ACCESS_TOKEN
    assert given["token_type"] == "Bearer"
    assert 0 < given["expires_in"] <= 300
    assert "refresh_token" not in given
    token = given["access_token"]
    assert desk.read(token, "Condition").json()["entry"]
    assert desk.read(token, f"Patient/{given['patient']}").status_code == 200
    assert desk.read(token, "AllergyIntolerance").status_code == 403
    assert desk.exchange(ticket).status_code == 200  # a jti is not for once (§3.6)

    stopped = desk.submit(f"/p/{desk.record}/grants/{desk.grant()}/stop")

    assert stopped.status_code == 303
    assert desk.read(token, "Condition").status_code == 401
    refused(desk.exchange(ticket), "invalid_grant")


def test_ticket_says_what_the_draft_asks_and_nobodys_name(desk: Desk):
    ticket = desk.ticket()
    said = jwt.peek(ticket)
    keys = desk.door.get(said["iss"].removeprefix(PUBLIC) + "/.well-known/jwks.json").json()

    assert jwt.verify(
        ticket, keys, issuer=said["iss"], audience=f"{PUBLIC}/fhir", now=clock.now(),
        algorithms={"ES256"},
    ) == said  # fmt: skip
    assert jwt.header(ticket)["kid"] == keys["keys"][0]["kid"]
    assert "d" not in keys["keys"][0]
    assert said["aud_type"] == "data_holder_url"
    assert said["ticket_type"] == tickets.TYPE
    bound = jwt.thumbprint(jwt.public_half(desk.clinic.key))
    assert said["presenter_binding"] == {"method": "jkt", "jkt": bound}
    assert said["exp"] - said["iat"] == 168 * 3600
    assert "patient/Condition.rs" in said["access"]["smart_scopes"]
    assert set(said["access"]) <= {"smart_scopes", "data_period"}
    assert "Ada" not in json.dumps(said)
    offered = desk.door.get("/fhir/.well-known/smart-configuration").json()
    assert tickets.EXCHANGE in offered["grant_types_supported"]
    assert offered["smart_permission_ticket_types_supported"] == [tickets.TYPE]


def test_status_list_tells_a_stopped_ticket_also_while_the_record_is_sealed(desk: Desk):
    kept, ended = jwt.peek(desk.ticket()), jwt.peek(desk.ticket(why="the second"))
    place = ended["revocation"]["url"].removeprefix(PUBLIC)
    before = desk.door.get(place).json()
    assert not tickets.is_stopped(before, ended["revocation"]["index"])

    desk.submit(f"/p/{desk.record}/grants/{desk.grant()}/stop")
    desk.cast.appliance.vaults.seal(desk.record)

    after = desk.door.get(place).json()
    assert tickets.is_stopped(after, ended["revocation"]["index"])
    assert not tickets.is_stopped(after, kept["revocation"]["index"])
    assert sum(byte.bit_count() for byte in unpacked(after)) == 1
    keys = desk.door.get(ended["iss"].removeprefix(PUBLIC) + "/.well-known/jwks.json")
    assert keys.status_code == 200
    for what in ("/status.json", "/.well-known/jwks.json"):
        assert desk.door.get(f"/tickets/{ids.new_id()}{what}").status_code == 404


def unpacked(status: Any) -> bytes:
    text = status["bits"]
    return gzip.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@pytest.mark.parametrize(
    ("status", "place"),
    [
        ({}, 0),
        ({"bits": "!"}, 0),
        ({"bits": "AAAA"}, 0),
        ({"bits": ids.as_text(gzip.compress(b"\0"))}, 8),
    ],
    ids=["none", "no base64", "no gzip", "beyond its end"],
)
def test_status_that_cannot_be_known_is_no_status(status: Any, place: int):
    with pytest.raises(TrustError):
        tickets.is_stopped(status, place)


def test_sealed_record_asks_the_server_to_come_back(desk: Desk):
    ticket = desk.ticket()
    desk.cast.appliance.vaults.seal(desk.record)

    answer = desk.exchange(ticket)

    assert answer.status_code == 503
    assert answer.json()["error"] == "temporarily_unavailable"


def test_paused_ticket_gives_nothing_until_it_is_resumed(desk: Desk):
    ticket = desk.ticket()
    base = f"/p/{desk.record}/grants/{desk.grant()}"
    desk.submit(f"{base}/pause")
    refused(desk.exchange(ticket), "invalid_grant")
    page = f"/p/{desk.record}/grants"
    desk.ada.submit(f"{base}/resume", {"confirm.password": PASSWORDS["Ada"]}, page=page)

    assert desk.exchange(ticket).status_code == 200


def test_pages_and_log_tell_of_a_ticket(desk: Desk):
    ticket = desk.ticket(whom="Dr. Meyer")
    desk.exchange(ticket)
    grant_id = desk.grant()

    listed = desk.ada.get(f"/p/{desk.record}/grants").text
    one = desk.ada.get(f"/p/{desk.record}/grants/{grant_id}").text
    log = desk.ada.get(f"/p/{desk.record}/activity").text

    assert "by a server with a ticket" in one
    assert servers.shown(desk.clinic.address) in listed
    assert "made a ticket for" in log
    assert "connected and may read from now on." in log
    assert ticket not in listed + one + log


def test_making_one_needs_the_password_and_a_form_sent_twice_makes_one(desk: Desk):
    with clock_later(minutes=6):
        asked = desk.make(**{"confirm.password": None})
    assert 'name="confirm.password"' in asked.text
    assert "eyJ" not in asked.text
    once = ids.new_id()
    desk.ticket(once=once)

    assert desk.make(once=once).status_code == 409


def test_ticket_for_a_key_serves_a_server_that_calls_itself_by_it(desk: Desk):
    public = jwt.public_half(desk.clinic.key)
    ticket = desk.ticket(server=json.dumps(public))
    name = servers.THUMBPRINT + str(jwt.thumbprint(public))

    answer = desk.exchange(ticket, client_assertion=desk.assertion(iss=name, sub=name))

    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("", "Please give the address"),
        ("ftp://example.org", "problem"),
        ("https://10.0.0.1", ""),
        ("{}", "This public key cannot be read"),
    ],
    ids=["none", "no web address", "private network", "no key"],
)
def test_server_that_cannot_be_known_gets_no_ticket(desk: Desk, server: str, words: str):
    answer = desk.make(server=server)

    assert answer.status_code == 422
    assert words in answer.text
    assert "eyJ" not in answer.text


def test_server_with_two_keys_must_name_the_one(desk: Desk):
    keys = [jwt.public_half(desk.clinic.key), jwt.public_half(jwt.new_key("ES384"))]
    desk.clinic.published = json.dumps({"keys": keys}).encode()

    answer = desk.make()

    assert answer.status_code == 422
    assert "Give the one public key" in answer.text


# ------------------------------------------------------------------ scopes


def test_token_has_what_is_asked_within_the_ticket(desk: Desk):
    ticket = desk.ticket()

    less = desk.exchange(ticket, scope="patient/Condition.rs").json()
    wide = desk.exchange(ticket, scope="patient/*.cruds").json()
    of_system = desk.exchange(ticket, scope="system/Condition.read").json()

    assert less["scope"] == "patient/Condition.rs"
    assert "patient/Condition.rs" in wide["scope"].split()
    assert "AllergyIntolerance" not in wide["scope"]
    assert not re.search(r"\.\w*[cud]", wide["scope"])
    assert of_system["scope"] == "system/Condition.read"
    assert desk.read(less["access_token"], "Observation").status_code == 403
    assert desk.read(of_system["access_token"], "Condition").status_code == 200


@pytest.mark.parametrize(
    "scope",
    [
        "patient/AllergyIntolerance.rs",
        "patient/Condition.c",
        "offline_access",
        "nonsense/x",
        "patient/X.rs",
    ],
)
def test_scopes_beyond_the_ticket_give_no_token(desk: Desk, scope: str):
    refused(desk.exchange(desk.ticket(), scope=scope), "invalid_scope")


def test_sharing_less_afterwards_holds_for_the_ticket(desk: Desk):
    ticket = desk.ticket()
    grant_id = desk.grant()
    page = f"/p/{desk.record}/grants/{grant_id}/less"
    shown = desk.ada.get(page).text
    parts = [each for each in re.findall(r'name="part" value="([^"]+)"', shown) if "roblem" in each]
    desk.ada.submit(page, {"do": "less", "part": parts, "download": "1"}, page=page)

    token = desk.exchange(ticket).json()["access_token"]

    assert desk.read(token, "Condition").json()["entry"]
    assert "entry" not in desk.read(token, "Observation").json()


def test_what_two_sets_of_scopes_share_is_the_narrower_of_each():
    lab = "category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory"
    ticket = asking.read(f"patient/Observation.rs?{lab} patient/Condition.rs")

    wide = asking.both(asking.read("patient/*.rs"), ticket)
    other = asking.both(asking.read("patient/Observation.rs?category=vital-signs"), ticket)

    assert {line.text for line in wide.lines} == {line.text for line in ticket.lines}
    assert other.lines == ()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"subject_token_type": None}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:jwt"}, "invalid_request"),
        ({"subject_token": None}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
        ({"resource": "https://other.example/fhir"}, "invalid_target"),
        ({"audience": "https://other.example"}, "invalid_target"),
        ({"subject_token": "nonsense"}, "invalid_grant"),
        ({"subject_token": "a.b.c"}, "invalid_grant"),
        ({"subject_token": "x" * 20_000}, "invalid_grant"),
        ({"client_assertion": None, "client_assertion_type": None}, "invalid_client"),
        ({"client_assertion": "nonsense"}, "invalid_client"),
    ],
)
def test_request_that_is_not_an_exchange_of_a_ticket_is_refused(
    desk: Desk, changed: Any, code: str
):
    refused(desk.exchange(desk.ticket(), **changed), code)


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "https://other.example/fhir"},
        {"aud": [f"{PUBLIC}/fhir", "https://other.example/fhir"], "azp": f"{PUBLIC}/fhir"},
        {"aud": [f"{PUBLIC}/fhir"]},
        {"aud_type": "trust_framework"},
        {"iss": f"{PUBLIC}/tickets/{'0' * 32}"},
        {"iss": "https://trust-broker.example"},
        {"iss": PUBLIC},
        {"iss": None},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"exp": "never"},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"jti": "0" * 32},
        {"jti": None},
        {"ticket_type": None},
        {"ticket_type": tickets.TYPE.replace("patient-self-access", "payer-claims-adjudication")},
        {"subject": {"patient": {"resourceType": "Patient"}}},
        {"subject": {"recipient_record": {"reference": "Patient/0123456789abcdef"}}},
        {"subject": "Ada"},
        {"requester": {"resourceType": "Practitioner"}},
        {"context": {"kind": "referral"}},
        {"subject_identity_evidence": {"source": "embedded"}},
        {"must_understand": ["purpose_of_use"]},
        {"must_understand": "all"},
        {"access": {"smart_scopes": ["patient/*.rs"]}},
        {"access": {"smart_scopes": ["patient/Condition.rs"], "claim_linkage": {}}},
        {"access": {"smart_scopes": ["patient/Condition.rs"], "data_holder_filter": []}},
        {"access": {"smart_scopes": ["patient/Condition.rs?_filter=x"]}},
        {"access": {"smart_scopes": "patient/*.rs"}},
        {"access": {"permissions": []}},
        {"access": {}},
        {"access": []},
        {"presenter_binding": None},
        {"presenter_binding": {"method": "jkt", "jkt": "somebody-else"}},
        {"presenter_binding": {"method": "trust_framework_client", "entity_uri": PUBLIC}},
        {"presenter_binding": "anybody"},
        {"revocation": None},
        {"facts": "may be added, but then it is not the ticket that was made"},
    ],
    ids=str,
)  # fmt: skip
def test_ticket_that_our_own_key_did_not_make_so_is_refused(desk: Desk, changed: Any):
    refused(desk.exchange(desk.signed(desk.ticket(), **changed)), "invalid_grant")


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES384"},
        {"alg": "RS256"},
        {"kid": None},
        {"kid": "another"},
        {"crit": ["exp"]},
        {"b64": False},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
    ],
    ids=str,
)
def test_forged_ticket_is_refused(desk: Desk, header: dict[str, Any]):
    ticket = desk.ticket()
    said = jwt.header(ticket) | header
    kept = {name: value for name, value in said.items() if value is not None}

    for signature in (None, ""):
        refused(desk.exchange(forged(ticket, kept, signature)), "invalid_grant")


def test_altered_ticket_and_one_signed_by_somebody_else_are_refused(desk: Desk):
    ticket = desk.ticket()
    head, body, mark = ticket.split(".")
    claims = jwt.peek(ticket) | {"exp": 4_000_000_000}
    widened = ids.as_text(json.dumps(claims).encode())
    other = jwt.new_key("ES256") | {"kid": jwt.header(ticket)["kid"]}

    refused(desk.exchange(f"{head}.{widened}.{mark}"), "invalid_grant")
    refused(desk.exchange(f"{head}.{body}.{mark[:-4]}AAAA"), "invalid_grant")
    refused(desk.exchange(jwt.sign(jwt.peek(ticket), other)), "invalid_grant")
    assert desk.exchange(ticket).status_code == 200


def test_expired_ticket_is_refused(desk: Desk):
    ticket = desk.ticket(hours="1")
    assert desk.exchange(ticket).status_code == 200

    with clock_later(minutes=62):
        refused(desk.exchange(ticket), "invalid_grant")


def test_assertion_beside_a_ticket_serves_once(desk: Desk):
    ticket, shown = desk.ticket(), desk.assertion()
    assert desk.exchange(ticket, client_assertion=shown).status_code == 200

    refused(desk.exchange(ticket, client_assertion=shown), "invalid_client")


def test_ticket_of_another_server_or_with_another_key_is_refused(desk: Desk, raw_server: Any):
    mine = desk.ticket()
    other = Clinic()
    other.server = raw_server(other.reply)
    desk.cast.appliance.http.guard.allow(other.server.place)
    theirs = desk.ticket(server=other.address)

    refused(desk.exchange(theirs), "invalid_grant")  # a known server, with a stranger's ticket
    wrong = desk.assertion(key=other.key)
    refused(desk.exchange(mine, client_assertion=wrong), "invalid_client")
    stolen = desk.assertion(key=other.key, iss=other.address, sub=other.address)
    refused(desk.exchange(mine, client_assertion=stolen), "invalid_grant")


def test_server_whose_key_changed_needs_a_new_ticket(desk: Desk):
    ticket = desk.ticket()
    desk.clinic.key = jwt.new_key("ES384")

    with clock_later(minutes=2):
        refused(desk.exchange(ticket), "invalid_grant")


def test_ticket_of_one_record_opens_no_other(desk: Desk):
    keep_all(desk.cast.vault("Eve"), "General", a_record())
    mine = desk.ticket()
    eve = desk.cast.browser("Eve")
    theirs = Desk(desk.cast, eve, desk.door, desk.clinic, desk.cast.patients["Eve"])
    made = theirs.ticket(**{"confirm.password": PASSWORDS["Eve"]})

    swapped = desk.signed(mine, jti=jwt.peek(made)["jti"])

    refused(desk.exchange(swapped), "invalid_grant")
    assert jwt.peek(made)["iss"] != jwt.peek(mine)["iss"]
    assert theirs.exchange(made).status_code == 200


def test_blocked_server_gets_nothing_more(desk: Desk):
    ticket = desk.ticket()
    (app,) = clients.listed(desk.cast.appliance.house)
    clients.block(desk.cast.appliance.house, app.id, by="ada")

    refused(desk.exchange(ticket), "invalid_client")


def test_other_ways_to_a_token_are_closed_to_a_server_with_a_ticket(desk: Desk):
    desk.ticket()
    given = {
        "grant_type": "client_credentials",
        "scope": "system/Condition.rs",
        "client_assertion_type": ASSERTED,
        "client_assertion": desk.assertion(),
    }

    refused(desk.door.post("/oauth/token", data=given, headers={"origin": ""}), "invalid_grant")


def test_adviser_is_asked_when_a_ticket_is_made_and_at_each_exchange(desk: Desk, raw_server: Any):
    said = {"trusted": True}
    asked: list[bytes] = []

    def reply(request: bytes, channel: Any) -> None:
        asked.append(request)
        channel.sendall(plain(json.dumps(said).encode()))

    adviser = raw_server(reply)
    appliance = desk.cast.appliance
    appliance.http.guard.allow(adviser.place)
    appliance.settings = replace(appliance.settings, advisor=f"{adviser.url}/vouch")
    ticket = desk.ticket()
    assert desk.exchange(ticket).status_code == 200

    said["trusted"] = False

    refused(desk.exchange(ticket), "invalid_grant")
    assert len(asked) == 3
    assert desk.make().status_code == 422


def test_token_of_a_ticket_lasts_five_minutes(desk: Desk):
    token = desk.exchange(desk.ticket(hours="1")).json()["access_token"]
    assert desk.read(token, "Condition").status_code == 200

    with clock_later(minutes=4):
        assert desk.read(token, "Condition").status_code == 200
    with clock_later(minutes=6):
        assert desk.read(token, "Condition").status_code == 401
