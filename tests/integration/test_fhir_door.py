"""The FHIR API from outside: who is let in, what is read, and what the answers look like."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest
import time_machine

from phr import clock, ids
from phr.fhir import references
from phr.fhir.build import model
from phr.fhir.record import Selection
from phr.sharing import bursts, gate, grants, handles
from phr.sharing import provision as policy
from phr.sharing.provision import Action, Provision, Rule
from phr.store import audit, records
from phr.store.models import Grant
from phr.store.vault import Vault
from tests.cast import Cast
from tests.fixtures_fhir import ALL, BASE, App, app_for, everything, issue_of, token_for
from tests.fixtures_sharing import (
    ADA,
    Share,
    a_record,
    another_record,
    condition,
    keep_all,
    keep_more,
    lab,
    recent,
)

HIDDEN = ("Hiddendepression", "Hiddenpractitioner", "Secretville")
NOTHING = "0" * 16


@pytest.fixture
def vault(cast: Cast) -> Vault:
    found = cast.vault("Ada")
    keep_all(found, "North Quay", a_record())
    keep_all(found, "Saltmarsh", another_record())
    return found


@pytest.fixture
def app(cast: Cast, vault: Vault) -> App:
    return app_for(cast, vault)


def local_id(vault: Vault, type_: str, remote: str, text: str = "") -> str:
    with vault.read() as session:
        found = records.select(session, vault, Selection(types=(type_,)))
    return next(
        each.local_id for each in found if each.remote_id == remote and text.encode() in each.body
    )


def patient_id(vault: Vault) -> str:
    return references.patient_id(vault.id_key)


# ------------------------------------------------------------------ the door


def test_without_a_token_nothing_but_the_statement_is_answered(cast: Cast, vault: Vault) -> None:
    stranger = cast.stranger()
    for path in ("Patient", f"Patient/{patient_id(vault)}", "Condition/1/_history", "Nothing",
                 f"Patient/{patient_id(vault)}/$everything", "Provenance/origin-1"):  # fmt: skip
        answer = stranger.get(f"/fhir/{path}", headers={"accept": "application/fhir+json"})
        assert answer.status_code == 401, path
        assert issue_of(answer)["code"] == "login"


def test_what_the_api_says_of_itself_is_a_valid_statement(app: App) -> None:
    answer = app.browser.get("/fhir/metadata", headers={"accept": "application/fhir+json"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/fhir+json"
    model("CapabilityStatement").model_validate(answer.json())
    assert not answer.headers.get("set-cookie")


def test_everything_the_statement_claims_is_true(app: App) -> None:
    for one in app.get("metadata").json()["rest"][0]["resource"]:
        codes = {each["code"] for each in one["interaction"]}
        if "search-type" not in codes or one["type"] == "Consent":  # that has a door of its own
            continue
        for parameter in one["searchParam"]:
            value = {"date": "ge1900", "reference": f"Patient/{NOTHING}"}.get(
                parameter["type"], "x"
            )
            answer = app.get(f"{one['type']}?{parameter['name']}={value}")
            assert answer.status_code == 200, (one["type"], parameter, answer.text)
        for include in one.get("searchInclude", ()):
            assert app.get(f"{one['type']}?_include={include}").status_code == 200, include
        for include in one.get("searchRevInclude", ()):
            assert app.get(f"{one['type']}?_revinclude={include}").status_code == 200, include
        assert "vread" not in codes or one["versioning"] == "versioned"


def test_tokens_that_are_none_are_refused_alike(cast: Cast, vault: Vault, app: App) -> None:
    routing_id, _, secret = app.token.text.partition(".")
    other = token_for(cast.vault("Eve"))
    wrong = [
        f"{routing_id}.{ids.new_secret()}",
        f"{ids.new_id()}.{secret}",
        f"{other.text.partition('.')[0]}.{secret}",
        f"{routing_id}.",
        f".{secret}",
        routing_id,
        secret,
        "",
        "." * 50,
        "x" * 4000,
        f"{routing_id}.{secret} ",
        f"{routing_id}.{secret}.x",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
        "../../house",
        f"{routing_id}.%00",
    ]
    answers = {
        (answer.status_code, answer.headers["www-authenticate"], answer.content)
        for text in wrong
        if text != f"{routing_id}.{secret} "
        for answer in [_with_header(app, f"Bearer {text}")]
    }
    assert len(answers) == 1
    [(status, challenge, _)] = answers
    assert status == 401
    assert challenge == 'Bearer realm="Homeport", error="invalid_token"'


def _with_header(app: App, value: str) -> httpx.Response:
    headers = {"authorization": value, "accept": "application/fhir+json"}
    return app.browser.get("/fhir/Condition", headers=headers)


def test_no_token_and_another_scheme_are_asked_for_one(app: App) -> None:
    plain = app.browser.get("/fhir/Condition", headers={"accept": "application/fhir+json"})
    assert plain.status_code == 401
    assert plain.headers["www-authenticate"] == 'Bearer realm="Homeport"'
    assert issue_of(plain)["code"] == "login"
    assert _with_header(app, f"Basic {app.token.text}").status_code == 401
    assert _with_header(app, f"bearer {app.token.text}").status_code == 200
    assert app.browser.get(f"/fhir/Condition?access_token={app.token.text}", headers={
        "accept": "application/fhir+json"}).status_code == 401  # fmt: skip


def test_a_handle_of_another_kind_is_no_token(cast: Cast, vault: Vault, app: App) -> None:
    link = Share(cast.appliance, vault).link()
    text = link.url.rpartition("/")[2]
    assert _with_header(app, f"Bearer {text}").status_code == 401
    with pytest.raises(gate.NotFound):
        gate.look(vault, gate.Presented(app.token.handle_id), now=clock.now())


def test_a_token_ends_by_time_by_revocation_and_with_its_grant(cast: Cast, vault: Vault) -> None:
    for ending in ("time", "revoked", "grant", "grant's time", "narrowed away"):
        app = app_for(cast, vault)
        assert app.get("Condition").status_code == 200
        later = timedelta()
        if ending == "time":
            later = handles.TOKEN_LASTS
        elif ending == "revoked":
            with vault.write() as session:
                assert handles.end_token(session, app.token.handle_id)
                assert not handles.end_token(session, app.token.handle_id)
        elif ending == "grant":
            gate.end(vault, app.token.grant_id, "patient", ADA, now=clock.now())
        elif ending == "grant's time":
            with vault.write() as session:
                session.get_one(Grant, app.token.grant_id).ends_at = clock.now()
        else:
            nothing = Provision(actions=frozenset({Action.DOWNLOAD}))
            gate.narrow(vault, app.token.grant_id, nothing, ADA)
        with time_machine.travel(clock.now() + later, tick=True):
            answer = app.get("Condition")
        if ending == "narrowed away":
            assert answer.json().get("entry") is None
            continue
        assert answer.status_code == 401, ending
        assert "invalid_token" in answer.headers["www-authenticate"], ending


def test_a_paused_grant_answers_403_and_goes_on_later(vault: Vault, app: App) -> None:
    gate.suspend(vault, app.token.grant_id, ADA)
    answer = app.get("Condition")
    assert (answer.status_code, issue_of(answer)["code"]) == (403, "forbidden")
    now = clock.now()
    gate.resume(vault, app.token.grant_id, step_up=grants.StepUp("ada", "password", now),
                shown="shown", actor=ADA, now=now)  # fmt: skip
    assert app.get("Condition").status_code == 200


def test_a_sealed_record_answers_503_and_says_when_to_come_back(cast: Cast, app: App) -> None:
    cast.appliance.vaults.seal(cast.patients["Ada"])
    answer = app.get("Condition")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert issue_of(answer)["code"] == "transient"


def test_a_grant_for_the_screen_only_gives_software_nothing(cast: Cast, vault: Vault) -> None:
    screen = Provision(everything().rules, actions=frozenset({Action.VIEW}))
    assert app_for(cast, vault, screen).get("Condition").status_code == 403


def test_tokens_are_swept_limited_and_never_kept(cast: Cast, vault: Vault) -> None:
    token = token_for(vault)
    for _ in range(3):
        token_for(vault, grant_id=token.grant_id)
    with time_machine.travel(clock.now() + handles.TOKEN_LASTS, tick=True):
        token_for(vault, grant_id=token.grant_id)
        with vault.read() as session:
            [last] = handles.tokens(session, token.grant_id)
    assert last.secret_hash
    secret = token.text.partition(".")[2]
    assert secret not in repr(token)
    with pytest.raises(handles.InvalidInput), vault.write() as session:
        handles.make_token(session, token.grant_id, "r", ALL, now=clock.now(),
                           lasts=timedelta(hours=1))  # fmt: skip


def test_one_grant_has_room_for_a_bounded_number_of_tokens(vault: Vault) -> None:
    token = token_for(vault)
    with vault.write() as session:
        for _ in range(handles.TOKENS_AT_MOST - 1):
            handles.make_token(session, token.grant_id, "r", ALL, now=clock.now())
        with pytest.raises(handles.Conflict):
            handles.make_token(session, token.grant_id, "r", ALL, now=clock.now())


# ------------------------------------------------------------------ the log


def events(vault: Vault, app: App) -> list[tuple[str, Any]]:
    with vault.read() as session:
        lines = audit.entries(session, grant_id=app.token.grant_id)
    return [(one.event, dict(one.detail)) for one in lines if one.event.startswith("api.")]


def test_requests_for_the_same_thing_within_a_minute_are_one_line(vault: Vault, app: App) -> None:
    for _ in range(5):
        app.get("Condition")
    app.get("Condition?_count=1")
    assert events(vault, app) == [("api.searched", {"type": "Condition"})]
    app.get("Observation")
    with time_machine.travel(clock.now() + bursts.BURST, tick=True):
        app.get("Condition")
    assert [detail["type"] for _, detail in events(vault, app)] == [
        "Condition",
        "Observation",
        "Condition",
    ]


def test_every_way_out_leaves_a_line(vault: Vault, app: App) -> None:
    me = patient_id(vault)
    record = app.names("Condition")[0]
    for path in (record, f"Patient/{me}/$everything", f"Patient/{me}/$summary"):
        assert app.get(path).status_code == 200
    assert {event for event, _ in events(vault, app)} == {
        "api.read",
        "api.searched",
        "api.everything",
        "api.summary",
    }


def test_what_a_token_was_refused_writes_no_line(cast: Cast, vault: Vault) -> None:
    app = app_for(cast, vault, scopes="patient/Observation.rs")
    assert app.get("Condition").status_code == 403
    assert events(vault, app) == []


def test_bursts_are_forgotten_before_they_fill_the_memory(
    cast: Cast, vault: Vault, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bursts, "MOST_TOKENS", 1)
    other = app_for(cast, vault)
    for _ in range(2):
        app.get("Condition")
        other.get("Condition")
    assert len(events(vault, app)) == len(events(vault, other)) == 2


# ------------------------------------------------------------------ scopes


def test_scopes_decide_about_types_and_interactions(cast: Cast, vault: Vault) -> None:
    condition_id = local_id(vault, "Condition", "c1", "Asthma")
    for scopes, read, search, other in (
        ("patient/Condition.rs", 200, 200, 403),
        ("patient/Condition.r", 200, 403, 403),
        ("patient/Condition.s", 403, 200, 403),
        ("patient/*.read", 200, 200, 200),
        ("user/Condition.read", 200, 200, 403),
        ("system/*.s", 403, 200, 200),
        ("patient/Condition.cud", 403, 403, 403),
        ("launch/patient openid", 403, 403, 403),
        ("", 403, 403, 403),
    ):
        app = app_for(cast, vault, scopes=scopes)
        answers = [app.get(f"Condition/{condition_id}"), app.get("Condition"), app.get("Goal")]
        assert [each.status_code for each in answers] == [read, search, other], scopes
        for answer in answers:
            if answer.status_code == 403:
                assert "insufficient_scope" in answer.headers["www-authenticate"]
                assert issue_of(answer)["code"] == "forbidden"


def test_a_granular_scope_narrows_search_read_and_everything(cast: Cast, vault: Vault) -> None:
    category = "http://terminology.hl7.org/CodeSystem/observation-category"
    keep_all(vault, "Third", [
        lab("g1", recent(5), category=[{"coding": [{"system": category, "code": "laboratory"}]}]),
        lab("g2", recent(5), category=[{"coding": [{"system": "urn:x", "code": "laboratory"}]}]),
    ])  # fmt: skip
    scope = f"patient/Observation.rs?category={category}|laboratory"
    app = app_for(cast, vault, scopes=f"patient/Patient.rs {scope}")
    one, other = local_id(vault, "Observation", "g1"), local_id(vault, "Observation", "g2")
    assert app.names("Observation") == [f"Observation/{one}"]
    assert app.get(f"Observation/{one}").status_code == 200
    assert app.get(f"Observation/{other}").status_code == 404
    assert app.get(f"Observation/{other}/_history").status_code == 404
    everything_ = app.get(f"Patient/{patient_id(vault)}/$everything").json()["entry"]
    assert [each["resource"]["id"] for each in everything_] == [patient_id(vault), one]


def test_what_scopes_do_not_reach_is_not_included(cast: Cast, vault: Vault) -> None:
    query = (
        "MedicationRequest?_include=MedicationRequest:medication&_include=MedicationRequest:patient"
    )
    both = f"{query}&_revinclude=Provenance:target"
    wide = app_for(cast, vault).get(both).json()["entry"]
    assert {each["resource"]["resourceType"] for each in wide} == {
        "MedicationRequest",
        "Medication",
        "Patient",
        "Provenance",
    }
    app = app_for(cast, vault, scopes="patient/MedicationRequest.rs")
    assert [each["resource"]["resourceType"] for each in app.get(both).json()["entry"]] == [
        "MedicationRequest"
    ]
    assert app.get(f"Patient/{patient_id(vault)}/$summary").status_code == 403


# ------------------------------------------------------------------ reading


def test_what_leaves_is_the_received_bytes_with_local_ids(vault: Vault, app: App) -> None:
    name = f"Observation/{local_id(vault, 'Observation', 'o1', '5.40')}"
    answer = app.get(name)
    assert answer.status_code == 200
    assert b"5.40" in answer.content
    assert answer.json()["subject"]["reference"] == f"Patient/{patient_id(vault)}"
    page = app.get(f"Observation?_id={name.rpartition('/')[2]}")
    assert answer.content in page.content


def test_an_id_of_another_type_or_of_no_form_is_unknown(vault: Vault, app: App) -> None:
    known = local_id(vault, "Condition", "c1", "Asthma")
    gp = local_id(vault, "Practitioner", "gp")
    for name in (f"Observation/{known}", f"Practitioner/{known}", f"Condition/{gp}",
                 "Practitioner/gp", "Condition/c1", f"Organization/{gp}", "Nothing/1",
                 f"Patient/{known}", f"Patient/{patient_id(vault)}/_history"):  # fmt: skip
        assert app.get(name).status_code == 404, name
    assert app.get(f"Practitioner/{gp}").status_code == 200


def test_a_version_that_is_known_is_not_sent_again(vault: Vault, app: App) -> None:
    for name in (app.names("Condition")[0], f"Patient/{patient_id(vault)}"):
        first = app.get(name)
        etag = first.headers["etag"]
        assert etag.startswith('W/"')
        assert first.headers["last-modified"].endswith("GMT")
        for given in (etag, f'W/"7", {etag}', "*"):
            again = app.get(name, headers={"if-none-match": given})
            assert (again.status_code, again.content) == (304, b"")
        assert app.get(name, headers={"if-none-match": 'W/"7"'}).status_code == 200


def test_history_and_versions_show_each_version_once(cast: Cast, vault: Vault) -> None:
    connection = keep_all(vault, "Third", [condition("h1", "First words")])
    keep_more(vault, connection, [condition("h1", "Second words")])
    app = app_for(cast, vault)
    name = f"Condition/{local_id(vault, 'Condition', 'h1')}"
    bundle = app.get(f"{name}/_history").json()
    model("Bundle").model_validate(bundle)
    texts = [each["resource"]["code"]["text"] for each in bundle["entry"]]
    assert texts == ["Second words", "First words"]
    for entry, text in zip(bundle["entry"], texts, strict=True):
        number = entry["response"]["etag"][3:-1]
        answer = app.get(f"{name}/_history/{number}")
        assert answer.json()["code"]["text"] == text
        assert answer.headers["etag"] == entry["response"]["etag"]
    for number in ("0", "3", "x", "99999999999999999999"):
        assert app.get(f"{name}/_history/{number}").status_code == 404


def test_each_record_has_a_note_of_where_it_is_from(vault: Vault, app: App) -> None:
    record = local_id(vault, "Condition", "c1", "Asthma")
    found = app.get(f"Provenance/origin-{record}").json()
    model("Provenance").model_validate(found)
    assert found["target"] == [{"reference": f"Condition/{record}"}]
    assert found["entity"][0]["what"]["display"] == "North Quay"
    for name in (record, f"origin-{NOTHING}", "origin-", "origin-x"):
        assert app.get(f"Provenance/{name}").status_code == 404
    gp = local_id(vault, "Practitioner", "gp")
    assert app.get(f"Provenance/origin-{gp}").status_code == 200
    psych = local_id(vault, "Practitioner", "psych")
    assert app.get(f"Provenance/origin-{psych}").status_code == 404


def test_older_releases_do_not_leave_by_this_api(cast: Cast, vault: Vault) -> None:
    older = {
        "resourceType": "AllergyIntolerance",
        "id": "old",
        "substance": {"text": "Latex"},
        "patient": {"reference": "Patient/1"},
    }
    keep_all(vault, "Old hospital", [older])
    app = app_for(cast, vault)
    found = local_id(vault, "AllergyIntolerance", "old")
    assert found not in json.dumps(app.found("AllergyIntolerance"))
    assert app.get(f"AllergyIntolerance/{found}").status_code == 404
    me = patient_id(vault)
    assert found not in app.get(f"Patient/{me}/$everything").text


# ------------------------------------------------------------------ searching


def test_pages_are_stable_while_records_come_and_fit_one_search_only(
    cast: Cast, vault: Vault
) -> None:
    many = [lab(f"many{n}", recent(n // 3 + 1)) for n in range(30)]
    keep_all(vault, "Third", many)
    for query in ("Observation", "Observation?_sort=date", "Observation?_sort=-date"):
        app = app_for(cast, vault)
        whole = app.names(f"{query}{'&' if '?' in query else '?'}_count=500")
        paged: list[str] = []
        address = f"{query}{'&' if '?' in query else '?'}_count=7"
        while address:
            bundle = app.get(address).json()
            paged += [f"Observation/{e['resource']['id']}" for e in bundle["entry"]]
            links = {each["relation"]: each["url"] for each in bundle["link"]}
            assert links["self"].startswith(f"{BASE}/Observation?")
            address = links.get("next", "")
            keep_all(vault, f"Late {len(paged)}", [lab("late", recent(0))])
        assert [one for one in paged if one in whole] == whole
        assert len(set(paged)) == len(paged)


def test_a_list_of_ids_has_pages_too(app: App) -> None:
    names = [one.partition("/")[2] for one in app.names("Observation")]
    for order in ("date", "-date"):
        query = f"Observation?_id={','.join(names)}&_sort={order}&_count=1"
        found = [one.partition("/")[2] for one in app.names(query)]
        assert found == (names if order == "-date" else names[::-1])


def test_a_cursor_fits_its_own_search_and_grant_only(cast: Cast, vault: Vault, app: App) -> None:
    links = app.get("Observation?_count=1").json()["link"]
    cursor = next(each["url"] for each in links if each["relation"] == "next").split("_page=")[1]
    assert app.get(f"Observation?_count=1&_page={cursor}").status_code == 200
    assert app.get(f"Observation?_count=2&_page={cursor}").status_code == 200
    other = app_for(cast, vault)
    assert other.get(f"Observation?_count=1&_page={cursor}").status_code == 400
    for query in (f"Observation?status=final&_page={cursor}", f"Condition?_page={cursor}",
                  "Observation?_page=x", "Observation?_page=%C3%BC",
                  "Observation?_page="):  # fmt: skip
        assert app.get(query).status_code == 400, query
    narrower = Provision((Rule(("Observation",), ("survey",)),), actions=frozenset(Action))
    with vault.write() as session:
        session.get_one(Grant, app.token.grant_id).provision = policy.to_json(narrower)
    assert app.get(f"Observation?_count=1&_page={cursor}").status_code == 400


def test_a_posted_search_finds_what_the_same_query_finds(app: App) -> None:
    posted = app.post("Observation/_search", {"code": "2951-2", "_count": "2"})
    assert posted.status_code == 200
    assert posted.json()["entry"] == app.get("Observation?code=2951-2&_count=2").json()["entry"]
    both = app.post("Observation/_search?code=2951-2", {"_count": "2"})
    assert both.json()["entry"] == posted.json()["entry"]
    as_json = app.browser.post("/fhir/Observation/_search", json={"code": "x"}, headers={
        "authorization": f"Bearer {app.token.text}", "accept": "*/*"})  # fmt: skip
    assert (as_json.status_code, issue_of(as_json)["code"]) == (415, "not-supported")
    assert app.get("Observation/_search").status_code == 405


def test_parts_of_resources_are_marked_and_keep_their_digits(app: App) -> None:
    me = app.names("Patient")[0]
    for query, there, gone in (
        ("_elements=valueQuantity", "valueQuantity", "effectiveDateTime"),
        ("_summary=true", "effectiveDateTime", "interpretation"),
        ("_summary=text", "status", "valueQuantity"),
        ("_summary=data", "valueQuantity", "text"),
    ):
        [found] = app.found(f"Observation?code=2951-2&date=ge{recent(11)[:10]}&{query}&patient={me}"
                            "&value=5.40&_id=".partition("&value")[0])[:1]  # fmt: skip
        assert there in found, query
        assert gone not in found, query
        assert found["meta"]["tag"][-1]["code"] == "SUBSETTED"
        assert {"resourceType", "id", "status", "code"} <= found.keys()
    assert b"5.40" in app.get("Observation?_elements=valueQuantity").content
    whole = app.found("Observation?_summary=false")
    assert not any("meta" in each for each in whole)


def test_totals_are_of_what_is_found_and_only_where_asked(app: App) -> None:
    assert "total" not in app.get("Condition").json()
    assert "total" not in app.get("Condition?_total=none").json()
    number = len(app.names("Condition"))
    assert app.get("Observation?status:not=final&_count=1").json().get("entry") is None
    for query in ("_total=accurate", "_total=estimate", "_summary=count", "_count=0"):
        bundle = app.get(f"Condition?{query}").json()
        assert bundle["total"] == number, query
        assert ("entry" in bundle) is query.startswith("_total")
    assert app.get("Patient?_summary=count").json() == app.get("Patient?_count=0").json() | {
        "link": [{"relation": "self", "url": f"{BASE}/Patient?_summary=count"}]
    }
    assert app.get("Patient?_total=accurate").json()["total"] == 1


def test_modifiers_and_combinations(app: App, vault: Vault) -> None:
    weight = f"Observation/{local_id(vault, 'Observation', 'v1')}"
    sodium = [f"Observation/{local_id(vault, 'Observation', 'o1', '5.40')}",
              f"Observation/{local_id(vault, 'Observation', 'o2')}",
              f"Observation/{local_id(vault, 'Observation', 'o1', '140')}"]  # fmt: skip
    for query, expected in (
        ("code=http://loinc.org|2951-2", sodium),
        ("code=http://loinc.org|", sodium),
        ("code=2951-2,nothing", sodium),
        ("code=|2951-2", []),
        ("code=nothing", []),
        ("code:not=2951-2", [weight]),
        ("code:missing=false", [weight, *sodium]),
        ("encounter", None),
        ("category=vital-signs", [weight]),
        ("category=|", None),
        ("category=laboratory&date=lt2020", [sodium[1]]),
        ("date=ge2020&date=le2019", []),
        ("date:missing=true", []),
        (f"date=ge1900,lt1901&_id={weight[12:]}", [weight]),
        (f"date=ap{recent(3)[:10]}&category=vital-signs", [weight]),
        (f"_id={weight[12:]},{NOTHING}", [weight]),
        (f"_id={weight[12:]}&_id={sodium[0][12:]}", []),
        ("_id:missing=true", None),
        ("_lastUpdated=ge2020", [weight, *sodium]),
        ("_lastUpdated=lt2020", []),
        ("_lastUpdated=ne2020,ap1990", [weight, *sodium]),
        ("_lastUpdated=x", None),
        ("patient=Patient/other", []),
        (f"patient={BASE}/Patient/{patient_id(vault)}", [weight, *sodium]),
        ("patient:missing=perhaps", None),
        ("date=2020-13", None),
        ("date=", None),
        ("_count=-1", None),
        ("_sort=code", None),
        ("_summary=x", None),
        ("_total=x", None),
        ("_include=Observation:code", None),
        ("_include=Condition:encounter", None),
        ("_revinclude=Observation:code", None),
        ("_count:not=1", None),
        ("_has:Observation:patient:code=1", None),
        ("patient.name=Sample", None),
        ("_filter=code eq 1", None),
        ("_content=x", None),
    ):
        answer = app.get(f"Observation?{query}")
        if expected is None:
            assert answer.status_code == 400, query
            assert issue_of(answer)["code"] == "invalid"
        else:
            assert sorted(app.names(f"Observation?{query}")) == sorted(expected), query


def test_a_lenient_client_is_told_what_was_left_out(app: App) -> None:
    answer = app.get("Condition?colour=red&_count=1", headers={"prefer": "handling=lenient"})
    assert answer.status_code == 200
    assert answer.json()["link"][0]["url"] == f"{BASE}/Condition?_count=1"
    assert app.get("Condition?colour=red").status_code == 400


def test_text_is_found_without_case_and_accents(cast: Cast, vault: Vault) -> None:
    relation = {
        "resourceType": "RelatedPerson",
        "id": "r",
        "patient": {"reference": "Patient/1"},
        "name": [{"family": "Müller", "given": ["Zoë"], "use": "official"}],
    }
    keep_all(vault, "Third", [relation])
    app = app_for(cast, vault)
    for query, expected in (("name=mul", 1), ("name=ZOE", 1), ("name=ller", 0), ("name=offi", 0),
                            ("name:contains=ULLE", 1), ("name:exact=Müller", 1),
                            ("name:exact=müller", 0)):  # fmt: skip
        assert len(app.found(f"RelatedPerson?{query}")) == expected, query


def test_chains_and_includes_lead_to_what_is_named_only(cast: Cast, vault: Vault) -> None:
    role = {"resourceType": "PractitionerRole", "id": "role",
            "practitioner": {"reference": "Practitioner/dr"},
            "specialty": [{"coding": [{"code": "394579002"}]}]}  # fmt: skip
    person = {"resourceType": "Practitioner", "id": "dr", "name": [{"family": "Chained"}],
              "identifier": [{"system": "urn:npi", "value": "17"}]}  # fmt: skip
    named = condition("n1", "Eczema", asserter={"reference": "PractitionerRole/role"})
    keep_all(vault, "Third", [role, person, named])
    app = app_for(cast, vault)
    for query in ("practitioner.name=Chained", "practitioner.identifier=urn:npi|17",
                  "specialty=394579002"):  # fmt: skip
        assert len(app.found(f"PractitionerRole?{query}")) == 1, query
    for query in ("practitioner.name=Hidden", "practitioner.identifier=18"):
        assert app.found(f"PractitionerRole?{query}") == []
    assert app.get("PractitionerRole?practitioner.gender=male").status_code == 400
    entries = app.get("PractitionerRole?_include=PractitionerRole:practitioner").json()["entry"]
    assert [each["search"]["mode"] for each in entries] == ["match", "include"]
    narrow = app.get("PractitionerRole?_include=PractitionerRole:practitioner:Location").json()
    assert len(narrow["entry"]) == 1
    alone = app_for(cast, vault, scopes="patient/PractitionerRole.rs patient/Condition.rs")
    assert alone.found("PractitionerRole?practitioner.name=Chained") == []


def test_everything_streams_what_is_released_and_takes_two_limits(vault: Vault, app: App) -> None:
    me = patient_id(vault)
    answer = app.get(f"Patient/{me}/$everything")
    bundle = answer.json()
    model("Bundle").model_validate({**bundle, "entry": []})
    names = {f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in bundle["entry"]}
    for type_ in ("Condition", "Observation", "MedicationRequest", "Medication", "Practitioner"):
        assert set(app.names(type_)) <= names
    assert f"Patient/{me}" in names
    some = app.get(f"Patient/{me}/$everything?_type=Condition,Patient").json()["entry"]
    assert {each["resource"]["resourceType"] for each in some} == {"Condition", "Patient"}
    later = app.get(f"Patient/{me}/$everything?_since=2100&_type=Condition")
    assert later.json()["entry"] == []
    for query in ("_count=1", "_since=x", "_type=Nothing"):
        assert app.get(f"Patient/{me}/$everything?{query}").status_code == 400
    for path in (f"Patient/{NOTHING}/$everything", f"Patient/{me}/$match",
                 "Condition/1/$everything", f"Patient/{NOTHING}/$summary"):  # fmt: skip
        assert app.get(path).status_code == 404, path
    assert app.get("Patient/$everything").status_code == 200
    assert app.get("Patient/$summary").json()["type"] == "document"


def test_everything_is_cut_off_where_the_grant_ends(vault: Vault, app: App) -> None:
    notes = [lab(f"big{n}", recent(1), note=[{"text": "x" * 2000}]) for n in range(600)]
    keep_all(vault, "Third", notes)
    headers = {"authorization": f"Bearer {app.token.text}", "accept": "*/*"}
    received = b""
    with (
        suppress(Exception),  # the connection breaks off; the server's own error ends it here
        app.browser.stream("GET", "/fhir/Patient/$everything", headers=headers) as answer,
    ):
        for chunk in answer.iter_raw():
            received += chunk
            gate.end(vault, app.token.grant_id, "patient", ADA, now=clock.now())
    assert received
    assert received.count(b"big") < 600
    assert not received.endswith(b"]}")


# ------------------------------------------------------------------ what is not offered


def test_only_json_is_spoken(app: App) -> None:
    for accept, status in (
        ("application/fhir+json", 200),
        ("application/json;q=0.9, text/html", 200),
        ("*/*", 200),
        ("", 200),
        ("application/fhir+xml", 406),
        ("text/xml, application/xml", 406),
        ("text/turtle", 406),
    ):
        answer = app.get("Condition", headers={"accept": accept})
        assert answer.status_code == status, accept
        assert answer.headers["content-type"] == "application/fhir+json"
    for format_, status in (("json", 200), ("application/fhir%2Bjson", 200), ("xml", 406),
                            ("application/fhir+xml", 406), ("ttl", 406)):  # fmt: skip
        assert app.get(f"Condition?_format={format_}").status_code == status, format_


def test_a_token_that_reads_writes_nothing(app: App) -> None:
    headers = {"authorization": f"Bearer {app.token.text}", "accept": "application/fhir+json"}
    name = app.names("Condition")[0]
    for method, path in (("POST", "Condition"), ("PUT", name), ("PATCH", name), ("DELETE", name),
                         ("POST", ""), ("PUT", "Patient")):  # fmt: skip
        answer = app.browser.request(method, f"/fhir/{path}", headers=headers)
        assert answer.status_code in {403, 404, 405}, (method, path)
        assert issue_of(answer)["code"] in {"forbidden", "not-supported", "not-found"}


def test_answers_are_kept_by_nobody_and_set_no_cookie(app: App) -> None:
    for path in ("Condition", "metadata", f"Condition/{NOTHING}", "Nothing"):
        answer = app.get(path)
        assert "no-store" in answer.headers["cache-control"]
        assert not answer.headers.get("set-cookie")
        for hidden in HIDDEN:
            assert hidden not in answer.text
