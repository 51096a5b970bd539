"""An app asks, a patient answers, and what follows: codes, tokens, refresh, revoke, introspect."""

import base64
import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import time_machine

from phr import clock, ids, jwt
from phr.sharing import clients, gate, grants
from phr.store.models import Grant, GrantState
from tests.cast import HOME, PASSWORDS, PUBLIC, Browser, Cast, csrf_in

BACK = "https://app.example.org/back"
VERIFIER = "a-verifier-of-forty-three-characters-or-more-0123"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=")
SCOPE = "openid fhirUser launch/patient offline_access patient/Observation.rs patient/Condition.rs"


@dataclass
class Stage:
    """Ada at home, a registered app, and the public door that the app knocks at."""

    cast: Cast
    ada: Browser
    door: Browser
    client_id: str

    def ask(self, **changed: str | None) -> Any:
        """Send the patient's browser to the authorize endpoint; return the answer."""
        given: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": BACK,
            "scope": SCOPE,
            "state": "a-state-with-enough-entropy",
            "aud": f"{PUBLIC}/fhir",
            "code_challenge": CHALLENGE.decode(),
            "code_challenge_method": "S256",
        }
        kept = {name: value for name, value in (given | changed).items() if value is not None}
        return self.door.get("/oauth/authorize", params=kept)

    def page(self, **changed: str | None) -> str:
        """Return the path of the page on which Ada is asked."""
        answer = self.ask(**changed)
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"].startswith(f"{HOME}/apps/ask/")
        return str(urlsplit(answer.headers["location"]).path)

    def answer(self, path: str, do: str = "allow", **fields: Any) -> Any:
        """Answer as Ada, with her password where it is asked for."""
        page = self.ada.get(path).text
        ticked = fields.pop("line", re.findall(r'name="line" value="([^"]+)"', page))
        once = re.findall(r'name="once" value="([^"]+)"', page)[0]
        form = {"csrf": csrf_in(page), "once": once, "do": do, "line": ticked, "days": "30"}
        form |= {"patient": self.cast.patients["Ada"], "confirm.password": PASSWORDS["Ada"]}
        return self.ada.post(path, data=form | fields)

    def code(self, **changed: str | None) -> str:
        """Return the code of an approved request."""
        return self.back(self.answer(self.page(**changed)))["code"]

    def back(self, answer: Any) -> dict[str, str]:
        """Return what came back to the app."""
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"].startswith(BACK)
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))

    def post(self, path: str, **fields: str) -> Any:
        return self.door.post(f"/oauth/{path}", data=fields, headers={"origin": ""})

    def register(self, given: Any, **headers: str) -> Any:
        """Send a registration as a program does: without what a browser would add."""
        return self.door.post("/oauth/register", json=given, headers={"origin": ""} | headers)

    def redeem(self, code: str, **changed: str) -> Any:
        given = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": BACK,
            "client_id": self.client_id,
            "code_verifier": VERIFIER,
        }
        return self.post("token", **(given | changed))

    def refresh(self, token: str, **more: str) -> Any:
        given = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.client_id}
        return self.post("token", **(given | more))

    def standing(self) -> list[Grant]:
        with self.cast.vault("Ada").read() as session:
            return grants.standing(session)


@pytest.fixture
def stage(cast: Cast) -> Iterator[Stage]:
    ada = cast.browser("Ada")
    added = ada.submit("/apps", {"name": "Growth", "redirects": BACK, "kind": "app"}, page="/apps")
    assert added.status_code == 303
    client_id = re.findall(r"Client id <code>(\w+)</code>", ada.get("/apps").text)[0]
    with Browser(cast.public, PUBLIC) as door:
        yield Stage(cast, ada, door, client_id)


def clock_later(**span: float) -> Any:
    return time_machine.travel(clock.now() + timedelta(**span), tick=True)


# ------------------------------------------------------------------ the whole way


def test_app_is_let_in_reads_its_tokens_and_comes_back_with_a_refresh(stage: Stage):
    said = stage.back(stage.answer(stage.page(nonce="n-1")))
    assert said["state"] == "a-state-with-enough-entropy"
    assert said["iss"] == PUBLIC

    answer = stage.redeem(said["code"])

    given = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert given["token_type"] == "Bearer"
    assert 0 < given["expires_in"] <= 900
    assert set(given["scope"].split()) == set(SCOPE.split())
    assert re.fullmatch(r"[0-9a-f]{16}", given["patient"])
    keys = stage.door.get("/oauth/keys.json").json()
    claims = jwt.verify(
        given["id_token"], keys, issuer=PUBLIC, audience=stage.client_id, now=clock.now()
    )
    assert claims["nonce"] == "n-1"
    assert claims["fhirUser"] == f"{PUBLIC}/fhir/Patient/{given['patient']}"
    again = stage.refresh(given["refresh_token"]).json()
    assert again["access_token"] != given["access_token"]
    assert again["refresh_token"] != given["refresh_token"]
    assert [grant.role for grant in stage.standing()] == ["app"]


def test_page_names_the_host_it_leads_to_larger_than_the_name_the_app_gave_itself(stage: Stage):
    page = stage.ada.get(stage.page()).text

    heading = page.partition("<h1")[2].partition("</h1>")[0]
    assert "app.example.org" in heading
    assert "Growth" not in heading
    assert "Growth" in page


def test_unticked_line_is_neither_in_the_grant_nor_in_the_scopes(stage: Stage):
    answer = stage.answer(stage.page(), line=["patient/Condition.rs"])

    given = stage.redeem(stage.back(answer)["code"]).json()

    assert "Observation" not in given["scope"]
    assert "patient/Condition.rs" in given["scope"].split()
    (grant,) = stage.standing()
    assert grant.provision["rules"][0]["types"] == ["Condition"]


def test_how_far_back_counts_for_dated_kinds_and_leaves_lists_for_life_whole(stage: Stage):
    stage.answer(stage.page(), reach="2")

    (grant,) = stage.standing()
    since = {rule["types"][0]: rule["since"] for rule in grant.provision["rules"]}
    assert since["Condition"] is None
    assert since["Observation"] is not None


def test_nothing_ticked_is_said_on_the_page_and_gives_nothing(stage: Stage):
    answer = stage.answer(stage.page(), line=[])

    assert answer.status_code == 422
    assert "Leave at least one line" in answer.text
    assert stage.standing() == []


def test_nobody_is_chosen_where_there_are_several_records(stage: Stage):
    path = stage.page()
    assert 'name="patient"' in stage.ada.get(path).text
    assert "checked" not in stage.ada.get(path).text.partition("What it may read")[0]

    answer = stage.answer(path, patient="")

    assert answer.status_code == 422
    assert "Choose whose record" in answer.text
    assert stage.standing() == []


def test_refusing_leads_back_with_access_denied_and_asks_for_no_password(stage: Stage):
    path = stage.page()
    page = stage.ada.get(path).text

    answer = stage.ada.post(path, data={"csrf": csrf_in(page), "do": "refuse"})

    assert stage.back(answer)["error"] == "access_denied"
    assert stage.standing() == []
    assert stage.ada.get(path).status_code == 400


def test_only_the_word_allow_allows(stage: Stage):
    answer = stage.answer(stage.page(), do="")

    assert answer.status_code == 422
    assert stage.standing() == []


def test_request_that_is_answered_twice_at_once_gives_one_code(stage: Stage):
    path = stage.page()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: stage.answer(path, once=ids.new_id()), range(4)))

    assert min(each.status_code for each in answers) == 303
    assert len(stage.standing()) == 1


def test_request_waits_on_while_its_answer_could_not_be_taken(stage: Stage):
    path = stage.page()
    assert stage.answer(path, line=[]).status_code == 422

    assert stage.answer(path).status_code == 303


def test_allowing_needs_the_password(stage: Stage):
    with clock_later(minutes=6):
        path = stage.page()
        page = stage.ada.get(path).text
        once = re.findall(r'name="once" value="([^"]+)"', page)[0]
        form = {"csrf": csrf_in(page), "once": once, "line": "patient/Condition.rs", "do": "allow"}
        answer = stage.ada.post(path, data=form | {"patient": stage.cast.patients["Ada"]})

    assert answer.status_code == 403
    assert "confirm.password" in answer.text
    assert "https://app.example.org" in answer.headers["content-security-policy"]
    assert stage.standing() == []


def test_same_form_sent_twice_makes_one_grant(stage: Stage):
    path = stage.page()
    page = stage.ada.get(path).text
    form = {
        "csrf": csrf_in(page),
        "once": re.findall(r'name="once" value="([^"]+)"', page)[0],
        "line": "patient/Condition.rs",
        "patient": stage.cast.patients["Ada"],
        "do": "allow",
        "confirm.password": PASSWORDS["Ada"],
    }
    first = stage.ada.post(path, data=form)

    second = stage.ada.post(path, data=form | {"csrf": stage.ada.csrf()})

    assert first.status_code == 303
    assert second.status_code == 400
    assert len(stage.standing()) == 1


def test_nobody_but_a_member_who_may_change_answers_for_a_record(stage: Stage):
    path = stage.page()
    eve = stage.cast.browser("Eve")
    page = eve.get(path).text
    form = {
        "csrf": csrf_in(page),
        "once": ids.new_id(),
        "patient": stage.cast.patients["Ada"],
        "line": "patient/Condition.rs",
        "do": "allow",
        "confirm.password": PASSWORDS["Eve"],
    }

    answer = eve.post(path, data=form)

    assert answer.status_code == 404
    assert stage.standing() == []


# ------------------------------------------------------------------ what is asked wrongly


@pytest.mark.parametrize(
    "changed",
    [{"client_id": "unknown"}, {"redirect_uri": BACK + "/more"}, {"redirect_uri": None}],
    ids=["unknown app", "another address", "no address"],
)
def test_unknown_app_or_address_is_told_here_and_leads_nowhere(stage: Stage, changed):
    answer = stage.ask(**changed)

    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "is not known to this Homeport" in answer.text


FAULTS: list[tuple[dict[str, str | None], str]] = [
    ({"code_challenge": None}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
    ({"code_challenge": "short"}, "invalid_request"),
    ({"state": None}, "invalid_request"),
    ({"aud": None}, "invalid_request"),
    ({"aud": "https://elsewhere.example.org/fhir"}, "invalid_request"),
    ({"scope": "openid launch/patient"}, "invalid_scope"),
    ({"scope": "patient/Observation.sr"}, "invalid_scope"),
    ({"scope": "system/Observation.rs"}, "invalid_scope"),
    ({"scope": "patient/Observation.rs?code=x"}, "invalid_scope"),
    ({"request_uri": "urn:example:1"}, "invalid_request"),
    ({"response_mode": "fragment"}, "invalid_request"),
    ({"nonce": "n" * 5000}, "invalid_request"),
]


def test_faulty_request_goes_back_to_the_app_with_its_error(stage: Stage):
    for changed, code in FAULTS:
        said = stage.back(stage.ask(**changed))

        assert said["error"] == code, changed
        assert said["iss"] == PUBLIC
        assert said.get("state") == changed.get("state", "a-state-with-enough-entropy")


def test_parameter_that_stands_twice_is_refused(stage: Stage):
    given = [("client_id", stage.client_id), ("redirect_uri", BACK), ("response_type", "code")]
    twice = urlencode([*given, ("state", "a"), ("state", "b"), ("scope", "patient/*.rs")])

    answer = stage.door.get(f"/oauth/authorize?{twice}")

    assert "code=" not in answer.headers.get("location", "")
    assert not answer.headers.get("location", "").startswith(HOME)


def test_request_as_a_form_is_taken_like_one_in_the_address(stage: Stage):
    query = urlsplit(str(stage.ask().request.url)).query

    answer = stage.post("authorize", **dict(parse_qsl(query)))

    assert answer.headers["location"].startswith(f"{HOME}/apps/ask/")


# ------------------------------------------------------------------ codes


def test_code_is_redeemed_once_and_a_second_time_ends_everything_it_gave(stage: Stage):
    code = stage.code()
    given = stage.redeem(code).json()

    again = stage.redeem(code)

    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert stage.standing() == []
    assert stage.refresh(given["refresh_token"]).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "changed",
    [
        {"code_verifier": "another-verifier-of-forty-three-characters-or-more"},
        {"redirect_uri": "https://app.example.org/other"},
    ],
)
def test_code_with_another_verifier_or_address_gives_nothing(stage: Stage, changed):
    answer = stage.redeem(stage.code(), **changed)

    assert (answer.status_code, answer.json()) == (400, answer.json() | {"error": "invalid_grant"})
    assert "access_token" not in answer.json()


def test_code_without_verifier_gives_nothing(stage: Stage):
    answer = stage.redeem(stage.code(), code_verifier="")

    assert answer.status_code == 400
    assert "access_token" not in answer.json()


def test_code_runs_out_after_a_minute(stage: Stage):
    code = stage.code()

    with clock_later(seconds=61):
        answer = stage.redeem(code)

    assert answer.json()["error"] == "invalid_grant"


def test_code_of_another_app_gives_nothing_and_harms_nothing(stage: Stage):
    code = stage.code()
    other = stage.register({"redirect_uris": ["https://other.example.org/"]}).json()["client_id"]

    stolen = stage.redeem(code, client_id=other)

    assert stolen.json()["error"] == "invalid_grant"
    assert stage.redeem(code).status_code == 200


def test_nonsense_for_a_code_is_an_invalid_grant(stage: Stage):
    for code in ("", "x", "a.b", "0" * 32 + "." + "x" * 43, "é.x"):
        assert stage.redeem(code).status_code == 400


# ------------------------------------------------------------------ refresh


def test_lost_answer_is_given_again_within_half_a_minute(stage: Stage):
    first = stage.redeem(stage.code()).json()["refresh_token"]
    lost = stage.refresh(first).json()

    again = stage.refresh(first).json()

    assert again["refresh_token"] == lost["refresh_token"]
    assert stage.refresh(again["refresh_token"]).status_code == 200


def test_refresh_token_used_again_later_ends_the_grant(stage: Stage):
    first = stage.redeem(stage.code()).json()["refresh_token"]
    second = stage.refresh(first).json()["refresh_token"]

    with clock_later(seconds=31):
        again = stage.refresh(first)
        after = stage.refresh(second)

    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    assert after.json()["error"] == "invalid_grant"
    assert stage.standing() == []


def test_any_earlier_refresh_token_is_recognised_not_only_the_last(stage: Stage):
    first = token = stage.redeem(stage.code()).json()["refresh_token"]
    for _ in range(5):
        token = stage.refresh(token).json()["refresh_token"]

    stage.refresh(first)

    assert stage.refresh(token).json()["error"] == "invalid_grant"


def test_made_up_refresh_token_harms_nobody(stage: Stage):
    token = stage.redeem(stage.code()).json()["refresh_token"]
    made_up = token.partition(".")[0] + "." + ids.new_secret() + "x" * 22

    assert stage.refresh(made_up).json()["error"] == "invalid_grant"
    assert stage.refresh(token).status_code == 200


def test_refresh_gives_less_when_asked_and_never_more(stage: Stage):
    token = stage.redeem(stage.code()).json()["refresh_token"]

    more = stage.refresh(token, scope="patient/*.rs")
    less = stage.refresh(token, scope="patient/Condition.r")

    assert more.json()["error"] == "invalid_scope"
    assert less.json()["scope"] == "patient/Condition.r"
    again = stage.refresh(less.json()["refresh_token"]).json()
    assert set(again["scope"].split()) == set(SCOPE.split())


def test_without_offline_access_there_is_no_refresh_token(stage: Stage):
    given = stage.redeem(stage.code(scope="patient/Condition.rs")).json()

    assert "refresh_token" not in given
    assert "id_token" not in given


def test_ended_grant_gives_no_more_tokens(stage: Stage):
    token = stage.redeem(stage.code()).json()["refresh_token"]
    vault, (grant,) = stage.cast.vault("Ada"), stage.standing()
    gate.end(vault, grant.id, "patient", {"kind": "appliance"}, now=clock.now())

    assert stage.refresh(token).json()["error"] == "invalid_grant"


def test_sealed_record_says_come_back_later(stage: Stage):
    code = stage.code()
    stage.cast.appliance.vaults.seal(stage.cast.patients["Ada"])

    answer = stage.redeem(code)

    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")


# ------------------------------------------------------------------ revoke, introspect, block


def test_app_gives_a_token_back_and_with_a_refresh_token_everything(stage: Stage):
    given = stage.redeem(stage.code()).json()
    ask = {"client_id": stage.client_id}
    assert stage.post("introspect", token=given["access_token"], **ask).json()["active"] is True

    stage.post("revoke", token=given["access_token"], **ask)

    assert stage.post("introspect", token=given["access_token"], **ask).json() == {"active": False}
    assert stage.post("introspect", token=given["refresh_token"], **ask).json()["active"] is True
    assert stage.post("revoke", token=given["refresh_token"], **ask).status_code == 200
    assert stage.post("introspect", token=given["refresh_token"], **ask).json() == {"active": False}
    assert stage.standing() == []


def test_token_of_another_app_is_neither_told_of_nor_ended(stage: Stage):
    given = stage.redeem(stage.code()).json()
    other = stage.register({"redirect_uris": ["https://other.example.org/"]}).json()["client_id"]

    for token in (given["access_token"], given["refresh_token"]):
        told = stage.post("introspect", token=token, client_id=other)
        assert told.json() == {"active": False}
        assert stage.post("revoke", token=token, client_id=other).status_code == 200

    assert stage.refresh(given["refresh_token"]).status_code == 200


def test_earlier_refresh_token_given_back_ends_everything_too(stage: Stage):
    first = stage.redeem(stage.code()).json()["refresh_token"]
    newest = stage.refresh(first).json()["refresh_token"]

    stage.post("revoke", token=first, client_id=stage.client_id)

    assert stage.standing() == []
    assert stage.refresh(newest).json()["error"] == "invalid_grant"


def test_unknown_token_is_revoked_without_a_word(stage: Stage):
    for token in ("", "x", "0" * 32 + "." + "y" * 43):
        answer = stage.post("revoke", token=token, client_id=stage.client_id)
        assert answer.status_code == 200


def test_blocked_app_may_not_ask_and_what_it_read_has_ended(stage: Stage):
    token = stage.redeem(stage.code()).json()["refresh_token"]

    stage.ada.submit(f"/apps/{stage.client_id}/block", page="/apps")

    assert stage.standing() == []
    assert stage.ask().status_code == 400
    assert stage.refresh(token).status_code == 401
    stage.ada.submit(f"/apps/{stage.client_id}/remove", page="/apps")
    assert stage.client_id not in stage.ada.get("/apps").text


# ------------------------------------------------------------------ registration


def test_app_of_the_own_network_registers_itself_and_waits(stage: Stage):
    given = {
        "client_name": "Visible <b>name</b>",
        "redirect_uris": ["https://new.example.org/cb", "https://new.example.org/other"],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": "patient/*.rs",
    }

    answer = stage.register(given)

    made = answer.json()
    assert answer.status_code == 201
    assert made["redirect_uris"] == given["redirect_uris"]
    page = stage.ada.get("/apps").text
    assert made["client_id"] in page
    assert "Visible &lt;b&gt;name&lt;/b&gt;" in page
    asked = stage.page(client_id=made["client_id"], redirect_uri="https://new.example.org/cb")
    assert "Never used before" in stage.ada.get(asked).text


UNSOUND: list[Any] = [
    {},
    {"redirect_uris": []},
    {"redirect_uris": "https://a.example.org/"},
    {"redirect_uris": ["http://app.example.org/cb"]},
    {"redirect_uris": ["https://app.example.org/cb#x"]},
    {"redirect_uris": ["https://u@app.example.org/cb"]},
    {"redirect_uris": ["https://*.example.org/cb"]},
    {"redirect_uris": ["javascript:alert(1)"]},
    {"redirect_uris": ["data:text/html,x"]},
    {"redirect_uris": [BACK], "token_endpoint_auth_method": "client_secret_basic"},
    {"redirect_uris": [BACK], "grant_types": ["implicit"]},
    {"redirect_uris": [BACK], "response_types": ["token"]},
    {"redirect_uris": [BACK], "token_endpoint_auth_method": "private_key_jwt"},
    {"redirect_uris": [BACK], "jwks": {"keys": [jwt.new_key("ES384")]}},
    {"redirect_uris": [BACK], "jwks": {"keys": [{"kty": "EC", "x": {"deep": [[]]}}]}},
    {"redirect_uris": [BACK, "https://elsewhere.example.org/back"]},
    {"redirect_uris": [BACK, "com.example.app://app.example.org/back"]},
    {"redirect_uris": ["https://app.example.org;sandbox/back"]},
    {"redirect_uris": [BACK], "jwks_uri": "ftp://app.example.org/keys"},
    {"redirect_uris": [BACK], "scope": "patient/Observation.xyz"},
    {"grant_types": ["client_credentials"]},
    [],
    "text",
]


def test_registration_that_is_not_sound_is_refused_in_the_words_of_the_standard(stage: Stage):
    for given in UNSOUND:
        answer = stage.register(given)

        assert answer.status_code == 400, given
        assert answer.json()["error"] in {"invalid_client_metadata", "invalid_redirect_uri"}


def test_page_of_anybody_opened_in_the_house_registers_nothing(stage: Stage):
    given = {"redirect_uris": [BACK]}

    foreign = stage.register(given, origin="https://evil.example.org")
    quiet = stage.register(given, **{"sec-fetch-site": "cross-site"})
    as_text = stage.door.post(
        "/oauth/register", content=b"{}", headers={"origin": "", "content-type": "text/plain"}
    )

    assert (foreign.status_code, quiet.status_code, as_text.status_code) == (401, 401, 400)
    assert "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    ("network", "may"),
    [
        ("127.0.0.1", True),
        ("192.168.1.20", True),
        ("::/64", True),
        ("fd12:3456:789a:1::/64", True),
        ("100.64.0.7", False),
        ("198.18.0.1", False),
        ("8.8.8.8", False),
        ("2001:db8::/64", False),
        ("unknown", False),
    ],
)
def test_only_the_homes_own_networks_count_as_home(network, may):
    assert clients.may_register(network) is may


def test_registered_scope_bounds_what_is_asked(stage: Stage):
    given = {"redirect_uris": [BACK], "scope": "patient/Immunization.rs"}
    client_id = stage.register(given).json()["client_id"]

    more = stage.back(stage.ask(client_id=client_id, scope="patient/*.rs"))
    part = stage.ada.get(
        stage.page(client_id=client_id, scope="patient/Immunization.rs patient/Condition.rs")
    ).text

    assert more["error"] == "invalid_scope"
    assert "patient/Immunization.rs" in part
    assert "patient/Condition.rs" not in part


def test_who_only_looks_decides_nothing_about_apps(stage: Stage):
    cleo = stage.cast.browser("Cleo")

    for path in (f"/apps/{stage.client_id}/block", "/apps/invite", "/apps"):
        answer = cleo.submit(path, {"name": "x", "redirects": BACK}, page="/account")
        assert answer.status_code == 403, path

    assert stage.ask().status_code == 303


def test_blocked_app_may_ask_again_when_it_is_let(stage: Stage):
    stage.ada.submit(f"/apps/{stage.client_id}/block", page="/apps")
    stage.ada.submit(f"/apps/{stage.client_id}/unblock", page="/apps")

    assert stage.ask().status_code == 303


def test_app_from_elsewhere_needs_an_invitation_which_serves_once(stage: Stage):
    stage.door = far = Browser(stage.cast.public, PUBLIC, network="9.9.9.9")
    given = {"redirect_uris": [BACK]}
    assert stage.register(given).status_code == 401
    page = stage.ada.submit("/apps/invite", page="/apps").text
    secret = re.findall(r"<p><code>([\w-]{43})</code></p>", page)[0]
    shown = f"Bearer {secret}"

    assert stage.register({"redirect_uris": []}, authorization=shown).status_code == 400
    assert stage.register(given, authorization=shown).status_code == 201
    assert stage.register(given, authorization=shown).status_code == 401
    far.close()


def test_who_floods_the_registration_fills_only_the_places_of_those_who_wait(stage: Stage):
    answers = [stage.register({"redirect_uris": [BACK]}).status_code for _ in range(25)]

    assert answers.count(201) == 20
    assert set(answers) == {201, 409}
    added = stage.ada.submit(
        "/apps", {"name": "By hand", "redirects": BACK, "kind": "app"}, page="/apps"
    )
    assert added.status_code == 303


def test_who_floods_the_authorize_door_fills_only_his_own_places(stage: Stage):
    flood = [stage.ask().status_code for _ in range(25)]
    assert set(flood) == {303, 429}
    with Browser(stage.cast.public, PUBLIC, network="192.0.2.7") as elsewhere:
        stage.door = elsewhere
        assert stage.ask().status_code == 303


# ------------------------------------------------------------------ servers with a key


def assertion(key: dict[str, Any], client_id: str, **changed: Any) -> dict[str, str]:
    now = clock.now()
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": f"{PUBLIC}/oauth/token",
        "exp": int((now + timedelta(minutes=4)).timestamp()),
        "jti": ids.new_id(),
    }
    token = jwt.sign({k: v for k, v in (claims | changed).items() if v is not None}, key)
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    return {"client_assertion_type": kind, "client_assertion": token}


@pytest.fixture(params=["ES384", "RS384"])
def server(request: pytest.FixtureRequest, stage: Stage) -> tuple[dict[str, Any], str]:
    key = jwt.new_key(request.param)
    given = {
        "client_name": "Clinic",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [jwt.public_half(key)]},
        "scope": "system/Observation.rs system/Condition.rs",
    }
    made = stage.register(given)
    assert made.status_code == 201, made.text
    return key, made.json()["client_id"]


def let_server_in(stage: Stage, client_id: str) -> None:
    path = f"/p/{stage.cast.patients['Ada']}/apps/{client_id}"
    answer = stage.answer(path)
    assert answer.status_code == 303, answer.text


def test_server_fetches_tokens_by_itself_once_a_patient_let_it_in(stage: Stage, server):
    key, client_id = server
    asked = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}
    before = stage.post("token", **asked, **assertion(key, client_id))
    let_server_in(stage, client_id)

    after = stage.post("token", **asked, **assertion(key, client_id))

    assert before.json()["error"] == "invalid_grant"
    given = after.json()
    assert given["scope"] == "system/Observation.rs"
    assert 0 < given["expires_in"] <= 300
    assert "refresh_token" not in given


def test_server_gets_no_more_than_it_was_let(stage: Stage, server):
    key, client_id = server
    let_server_in(stage, client_id)

    for scope in ("system/*.rs", "system/Immunization.rs", "patient/Observation.rs", "", "x/y.rs"):
        asked = {"grant_type": "client_credentials", "scope": scope}
        answer = stage.post("token", **asked, **assertion(key, client_id))
        assert answer.json()["error"] == "invalid_scope", scope


UNPROVED: list[dict[str, Any]] = [
    {"iss": "somebody-else"},
    {"sub": "somebody-else"},
    {"aud": "https://elsewhere.example.org/token"},
    {"aud": [f"{PUBLIC}/oauth/token"]},
    {"aud": None},
    {"exp": None},
    {"exp": 1},
    {"exp": 32503680000},
    {"jti": None},
    {"jti": 5},
]


def test_assertion_that_is_not_exactly_right_proves_nothing(stage: Stage, server):
    key, client_id = server
    let_server_in(stage, client_id)
    asked = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}

    for changed in UNPROVED:
        answer = stage.post("token", **asked, **assertion(key, client_id, **changed))

        assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"}), changed


def test_assertion_serves_once_and_only_with_the_registered_key(stage: Stage, server):
    key, client_id = server
    let_server_in(stage, client_id)
    asked = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}
    once = assertion(key, client_id)
    other = jwt.new_key(key["alg"]) | {"kid": key["kid"]}

    assert stage.post("token", **asked, **once).status_code == 200
    assert stage.post("token", **asked, **once).status_code == 401
    assert stage.post("token", **asked, **assertion(other, client_id)).status_code == 401
    assert stage.post("token", **asked, client_id=client_id).status_code == 401


def test_made_up_assertions_stop_at_a_number_and_the_apps_of_others_go_on(stage: Stage, server):
    key, client_id = server
    let_server_in(stage, client_id)
    asked = {"grant_type": "client_credentials", "scope": "system/Observation.rs"}
    wrong = jwt.new_key(key["alg"]) | {"kid": key["kid"]}

    statuses = {
        stage.post("token", **asked, **assertion(wrong, client_id)).status_code for _ in range(34)
    }

    assert statuses == {401, 429}
    assert stage.redeem(stage.code()).status_code == 200


def test_server_belongs_to_one_record(stage: Stage, server):
    _, client_id = server
    let_server_in(stage, client_id)

    answer = stage.ada.get(f"/p/{stage.cast.patients['Ben']}/apps/{client_id}")

    assert answer.status_code == 404


# ------------------------------------------------------------------ discovery, pages elsewhere


def test_configuration_says_where_and_what_and_nothing_that_is_not_so(stage: Stage):
    answer = stage.door.get(
        "/fhir/.well-known/smart-configuration", headers={"accept": "application/fhir+xml"}
    )

    said = answer.json()
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert said["code_challenge_methods_supported"] == ["S256"]
    for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
        assert stage.post(said[name].rpartition("/")[2]).status_code in {400, 401}, name
    assert stage.door.get(said["user_access_brand_bundle"]).json()["resourceType"] == "Bundle"
    openid = stage.door.get("/.well-known/openid-configuration").json()
    assert openid["issuer"] == PUBLIC


def test_page_elsewhere_may_ask_for_tokens_but_gets_no_cookie_and_no_other_door(stage: Stage):
    asked = {"origin": "https://app.example.org", "access-control-request-method": "POST"}

    allowed = stage.door.request("OPTIONS", "/oauth/token", headers=asked)
    refused = stage.door.request("OPTIONS", "/s/x", headers=asked)

    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in refused.headers
    assert "set-cookie" not in stage.post("token").headers


def test_parent_who_allows_is_not_called_the_patient(stage: Stage):
    answer = stage.answer(stage.page(), patient=stage.cast.patients["Ben"])

    given = stage.redeem(stage.back(answer)["code"]).json()

    keys = stage.door.get("/oauth/keys.json").json()
    claims = jwt.verify(
        given["id_token"], keys, issuer=PUBLIC, audience=stage.client_id, now=clock.now()
    )
    assert "fhirUser" not in claims


def test_app_that_is_opened_from_here_knows_whose_record_is_meant(stage: Stage):
    launch_url = "https://app.example.org/launch"
    form = {"name": "Opened", "redirects": BACK, "kind": "app", "launch": launch_url}
    stage.ada.submit("/apps", form, page="/apps")
    ben = stage.cast.patients["Ben"]
    opened = re.findall(rf"/p/{ben}/apps/(\w+)/open", stage.ada.get("/apps").text)[0]

    answer = stage.ada.submit(f"/p/{ben}/apps/{opened}/open", page="/apps")

    said = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    assert answer.headers["location"].startswith(launch_url)
    assert said["iss"] == f"{PUBLIC}/fhir"
    page = stage.ada.get(
        stage.page(client_id=opened, launch=said["launch"], scope="launch patient/*.rs")
    ).text
    chosen = re.findall(r'name="patient" value="(\w+)" checked', page)
    assert chosen == [ben]
    eve = stage.cast.browser("Eve")
    again = stage.page(client_id=opened, launch=said["launch"], scope="launch patient/*.rs")
    assert eve.get(again).status_code == 400, "another account's launch"
    assert stage.ada.get(f"/apps/ask/{said['launch']}").status_code == 400


def test_grant_of_an_app_ends_by_itself(stage: Stage):
    token = stage.redeem(stage.code()).json()["refresh_token"]

    with clock_later(days=31):
        assert stage.refresh(token).json()["error"] == "invalid_grant"
        gate.expire(stage.cast.vault("Ada"), now=clock.now())
        assert all(grant.state != GrantState.ACTIVE for grant in stage.standing())


def test_app_sends_only_where_the_patient_ticked_that_it_may(stage: Stage):
    scope = "patient/Observation.cruds patient/Condition.rs patient/DocumentReference.write"
    page = stage.ada.get(stage.page(scope=scope)).text
    assert page.count('name="send"') == 1
    assert 'name="send" value="1" checked' not in page

    reading = stage.redeem(stage.code(scope=scope)).json()["scope"]
    assert reading == "patient/Observation.rs patient/Condition.rs"
    answer = stage.answer(stage.page(scope=scope), send="1", line=["patient/Condition.rs"])
    sending = stage.redeem(stage.back(answer)["code"]).json()["scope"]

    assert sending == "patient/Condition.rs patient/Observation.cud patient/DocumentReference.write"
    actions = {tuple(sorted(grant.provision["actions"])) for grant in stage.standing()}
    assert actions == {("download", "view"), ("contribute", "download", "view")}


def test_app_that_asks_for_reading_is_offered_no_sending(stage: Stage):
    assert 'name="send"' not in stage.ada.get(stage.page()).text
