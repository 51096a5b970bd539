"""Connecting, asking, pausing and removing in the browser; bringing files (issue 2 B1, B4, B5)."""

import threading
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from sqlalchemy import select

from phr import clock, connect, jobs, pull
from phr.fhir.record import Selection
from phr.store import backup, connections, records
from phr.store.models import Connection, ConnectionState, PendingAuthorization
from phr.store.restore import restore
from phr.web.pages import files
from tests.fixtures_hospital import connected, observation
from tests.fixtures_net import plain


@pytest.fixture
def ada(cast, hospital):
    cast.appliance.http.guard.allow(hospital.server.place)
    return cast.browser("Ada")


@pytest.fixture
def base(cast):
    return f"/p/{cast.patients['Ada']}/connections"


@pytest.fixture
def working(cast):
    """Jobs of the appliance, ready to pull, without their clock."""
    appliance = cast.appliance
    plan = jobs.Plan(appliance.settings.data / "outbox", appliance.settings.public_url)
    appliance.jobs = jobs.Jobs(appliance.house, appliance.vaults, appliance.http, plan)
    yield appliance.jobs
    appliance.jobs.stop()
    appliance.jobs = None


def wait_for(vault, connection_id, working):
    for _ in range(400):
        if not working.is_asked(vault.id, connection_id):
            return
        threading.Event().wait(0.02)
    pytest.fail("the pull did not end")


def add(browser, base, hospital, **more):
    typed = {"name": "Saltmarsh", "base_url": hospital.base, "client_id": "app"} | more
    return browser.submit(base + "/add", typed, page=base + "/add")


def begin(browser, base, hospital, **more):
    """Walk to the page with the link to the hospital; return the link's parameters."""
    answer = add(browser, base, hospital, **more)
    assert answer.status_code == 303, answer.text
    page = browser.get(answer.headers["location"])
    assert hospital.server.place in page.text
    link = page.text.partition(f'href="{hospital.server.url}/auth?')[2].partition('"')[0]
    asked = parse_qs(link.replace("&amp;", "&"))
    return {name: values[0] for name, values in asked.items()}


def test_a_hospital_is_connected_and_pulled_in_the_browser(cast, ada, base, hospital, working):
    asked = begin(ada, base, hospital)
    assert asked["redirect_uri"] == "http://127.0.0.1:8080/connect/callback"
    answer = ada.get("/connect/callback", params={"code": "good-code", "state": asked["state"]})
    assert answer.status_code == 303
    wait_for(cast.vault("Ada"), 1, working)
    page = ada.get(answer.headers["location"])
    assert "Everything this hospital" in page.text
    assert "8 of 8" in page.text
    assert "Up to date" in ada.get(base).text
    with cast.vault("Ada").read() as session:
        assert len(records.select(session, cast.vault("Ada"), Selection(("Observation",)))) == 6


def test_the_add_page_shows_the_exact_redirect_address(ada, base):
    assert ">http://127.0.0.1:8080/connect/callback</textarea>" in ada.get(base + "/add").text


@pytest.mark.parametrize(
    "typed",
    [
        {"base_url": "http://192.168.0.9/fhir"},
        {"base_url": "https://user@ehr.example.org/"},
        {"base_url": "javascript:alert(1)"},
        {"client_id": ""},
    ],
    ids=str,
)
def test_what_cannot_be_connected_is_said_on_the_form(ada, base, hospital, typed):
    answer = add(ada, base, hospital, **typed)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "hush" not in answer.text


# ----------------------------------------------------------------- state, browser, other people


def test_callback_without_wrong_or_reused_state_stores_nothing(cast, ada, base, hospital):
    asked = begin(ada, base, hospital)
    for state in (None, "", "wrong"):
        params = {"code": "good-code"} | ({} if state is None else {"state": state})
        assert ada.get("/connect/callback", params=params).status_code == 400
    good = {"code": "good-code", "state": asked["state"]}
    assert ada.get("/connect/callback", params=good).status_code == 303
    assert ada.get("/connect/callback", params=good).status_code == 400
    with cast.appliance.house.read() as session:
        assert session.scalars(select(PendingAuthorization)).all() == []


def test_callback_in_another_browser_is_refused_and_uses_the_state_up(cast, ada, base, hospital):
    asked = begin(ada, base, hospital)
    params = {"code": "good-code", "state": asked["state"]}
    for other in (cast.browser("Ada"), ada):
        assert other.get("/connect/callback", params=params).status_code == 400
    with cast.vault("Ada").read() as session:
        assert connections.get(session, 1).state == ConnectionState.DRAFT


def test_a_state_older_than_ten_minutes_is_refused(ada, base, hospital):
    asked = begin(ada, base, hospital)
    with time_machine.travel(clock.now() + timedelta(minutes=10, seconds=1)):
        params = {"code": "good-code", "state": asked["state"]}
        assert ada.get("/connect/callback", params=params).status_code == 400


def test_only_the_newest_of_two_tabs_is_valid(ada, base, hospital):
    first = begin(ada, base, hospital)
    ada.submit(base + "/1/sign-in", page=base)
    params = {"code": "good-code", "state": first["state"]}
    assert ada.get("/connect/callback", params=params).status_code == 400


def test_mix_up_is_refused(ada, base, hospital):
    asked = begin(ada, base, hospital)
    params = {"code": "good-code", "state": asked["state"], "iss": "https://evil.example"}
    assert ada.get("/connect/callback", params=params).status_code == 400


def test_hostile_error_of_the_hospital_is_escaped(ada, base, hospital):
    asked = begin(ada, base, hospital)
    params = {"error": "x", "error_description": "<script>1</script>", "state": asked["state"]}
    answer = ada.get("/connect/callback", params=params)
    assert answer.status_code == 400
    assert "<script>1" not in answer.text
    assert "&lt;script&gt;1" in answer.text


def test_the_landed_address_can_be_pasted(ada, base, hospital):
    registered = "https://localhost/callback"
    asked = begin(ada, base, hospital, registered=registered)
    assert asked["redirect_uri"] == registered
    landed = f"{registered}?code=good-code&state={asked['state']}"
    answer = ada.submit("/connect/paste", {"landed": landed}, page=base + "/1/sign-in")
    assert answer.status_code == 303
    assert "/connections/1" in answer.headers["location"]


def test_pasting_something_else_is_said(ada, base, hospital):
    begin(ada, base, hospital)
    answer = ada.submit("/connect/paste", {"landed": "hello"}, page=base + "/1/sign-in")
    assert answer.status_code == 400
    assert "not the address" in answer.text


def test_viewers_look_and_strangers_see_nothing(cast, ada, base, hospital):
    connected(cast.vault("Ada"), hospital)
    cleo, eve = cast.browser("Cleo"), cast.browser("Eve")
    page = cleo.get(base)
    assert page.status_code == 200
    assert ">Ask now" not in page.text
    assert cleo.submit(base + "/1/pull").status_code in {403, 404}
    assert eve.get(base).status_code == 404
    assert eve.submit(base + "/1/pull").status_code == 404


# ----------------------------------------------------------------------------- signing in again


def again(browser, base, hospital):
    answer = browser.submit(base + "/1/sign-in", page=base)
    page = browser.get(answer.headers["location"])
    link = page.text.partition("/auth?")[2].partition('"')[0].replace("&amp;", "&")
    return page, {name: values[0] for name, values in parse_qs(link).items()}


def test_another_person_coming_back_stops_with_a_warning(cast, ada, base, hospital):
    cid = connected(
        cast.vault("Ada"), hospital, state=ConnectionState.NEEDS_REAUTHORISATION, demo=0
    )
    before = ada.get(base)
    assert "Sign in again" in before.text
    _, asked = again(ada, base, hospital)
    hospital.patient = "p2"
    params = {"code": "good-code", "state": asked["state"]}
    answer = ada.get("/connect/callback", params=params)
    assert answer.status_code == 400
    assert "different person" in answer.text
    with cast.vault("Ada").read() as session:
        row = connections.get(session, cid)
    assert row.remote_patient == "p1"
    assert row.credentials["access_token"] == "at-0"
    assert row.state == ConnectionState.NEEDS_REAUTHORISATION


def test_the_same_person_coming_back_goes_on(cast, ada, base, hospital):
    connected(cast.vault("Ada"), hospital, state=ConnectionState.NEEDS_REAUTHORISATION)
    _, asked = again(ada, base, hospital)
    params = {"code": "good-code", "state": asked["state"]}
    assert ada.get("/connect/callback", params=params).status_code == 303
    with cast.vault("Ada").read() as session:
        assert connections.get(session, 1).state == ConnectionState.ACTIVE


def test_a_sign_in_that_moved_to_another_host_is_asked_about(cast, ada, base, hospital):
    connected(cast.vault("Ada"), hospital, state=ConnectionState.NEEDS_REAUTHORISATION)
    cast.appliance.http.guard.allow("127.0.0.1:9")
    hospital.configured = {"authorization_endpoint": "http://127.0.0.1:9/auth"}
    page, asked = again(ada, base, hospital)
    assert "has moved" in page.text
    assert asked == {}
    answer = ada.submit(base + "/1/sign-in", {"moved_is_fine": "1"}, page=base)
    assert 'href="http://127.0.0.1:9/auth?' in ada.get(answer.headers["location"]).text


def test_connecting_the_same_person_again_makes_no_twin(cast, ada, base, hospital):
    connected(cast.vault("Ada"), hospital)
    asked = begin(ada, base, hospital)
    params = {"code": "good-code", "state": asked["state"]}
    answer = ada.get("/connect/callback", params=params)
    assert answer.headers["location"].endswith("/connections/1")
    with cast.vault("Ada").read() as session:
        assert len(connections.listed(session)) == 1


# ------------------------------------------------------------------------------------- using it


def test_ask_now_pause_resume(cast, ada, base, hospital, working):
    vault = cast.vault("Ada")
    cid = connected(vault, hospital)
    assert ada.submit(f"{base}/{cid}/pull", page=base).status_code == 303
    wait_for(vault, cid, working)
    assert ada.submit(f"{base}/{cid}/pause", page=f"{base}/{cid}").status_code == 303
    assert "Paused" in ada.get(base).text
    assert ada.submit(f"{base}/{cid}/pull", page=base).status_code == 409
    with vault.read() as session:
        assert connections.due(session, now=clock.now() + timedelta(days=9)) == []
    assert ada.submit(f"{base}/{cid}/resume", page=base).status_code == 303
    wait_for(vault, cid, working)
    assert "Up to date" in ada.get(base).text


def test_a_running_pull_tells_how_far_it_is(cast, ada, base, hospital, working):
    entered, leave = threading.Event(), threading.Event()

    def slow(_):
        entered.set()
        leave.wait(5)

    hospital.faults["Condition"] = slow
    cid = connected(cast.vault("Ada"), hospital)
    ada.submit(f"{base}/{cid}/pull", page=base)
    assert entered.wait(5)
    page = ada.get(f"{base}/{cid}")
    assert "Asking now" in page.text
    assert 'hx-trigger="every 4s"' in page.text
    piece = ada.get(f"{base}/{cid}", headers={"HX-Request": "true"})
    assert piece.text.lstrip().startswith('<div id="ledger"')
    with ada.stream("GET", f"{base}/{cid}/events") as stream:
        lines = stream.iter_lines()
        seen = []
        for line in lines:
            seen.append(line)
            if line.startswith("data:"):
                leave.set()
            if "done" in line:
                break
    assert any("records looked at so far" in line for line in seen)
    wait_for(cast.vault("Ada"), cid, working)


@pytest.mark.parametrize("choice", ["keep", "erase"])
def test_removing_keeps_or_erases_the_records(cast, ada, base, hospital, choice):
    vault = cast.vault("Ada")
    cid = connected(vault, hospital)
    pull.run(vault, cid, http=cast.appliance.http, now=clock.now())
    answer = ada.submit(f"{base}/{cid}/remove", {"records": choice}, page=f"{base}/{cid}/remove")
    assert answer.status_code == 303, answer.text[:500]
    with vault.read() as session:
        kept = records.select(session, vault, Selection(types=("Observation",)))
        row = session.get(Connection, cid)
    assert len(kept) == (6 if choice == "keep" else 0)
    assert row is None or row.credentials == {}
    assert ada.get(f"{base}/{cid}").status_code == 404


def test_the_ledger_says_what_was_refused_and_what_broke(cast, ada, base, hospital):
    hospital.faults["Condition"] = lambda _: plain(b"", "403 Forbidden")
    hospital.faults["Goal"] = lambda _: plain(b"<html>", "500 Oops")
    vault = cast.vault("Ada")
    cid = connected(vault, hospital)
    pull.run(vault, cid, http=cast.appliance.http, now=clock.now())
    page = ada.get(f"{base}/{cid}").text
    assert "Not offered to apps" in page
    assert "This hospital does not let apps read this." in page
    assert "server failed at this question (error 500)" in page
    assert "Answered, not complete" in ada.get(base).text
    home = ada.get(base.removesuffix("connections")).text
    assert "Answered, not complete" in home
    assert "Up to date" not in home


# ---------------------------------------------------------------------------------------- files

PERSON = b'{"resourceType":"Patient","id":"p1","birthDate":"1980-01-01"}'
LINES = b"\n".join([PERSON, observation(1), b"nonsense", observation(2)])


def bring(browser, base, *files):
    place = base.replace("/connections", "/files")
    token = browser.csrf(place)
    answer = browser.post(place, data={"csrf": token}, files=[("file", one) for one in files])
    assert answer.status_code == 303, answer.text[:800]
    return browser.get(answer.headers["location"]).text


def test_a_file_is_kept_and_its_broken_part_set_aside_with_the_reason(cast, ada, base):
    page = bring(ada, base, ("labs.ndjson", LINES, "application/x-ndjson"))
    assert "3 new, 0 changed, 0 known already" in page
    assert "1 set aside" in page
    assert "line 3" in page
    with cast.vault("Ada").read() as session:
        kept = records.select(session, cast.vault("Ada"), Selection(types=("Observation",)))
    assert sorted(record.body for record in kept) == sorted([observation(1), observation(2)])


def test_a_file_that_is_too_large_for_the_browser_is_refused_with_another_way(
    cast, ada, base, monkeypatch
):
    monkeypatch.setattr(files, "MOST", len(LINES) - 1)
    place = base.replace("/connections", "/files")
    chosen = {"file": ("labs.ndjson", LINES, "application/x-ndjson")}
    answer = ada.post(place, data={"csrf": ada.csrf(place)}, files=chosen)
    assert answer.status_code == 422
    assert "<code>phr import</code>" in answer.text or "`phr import`" in answer.text
    with cast.vault("Ada").read() as session:
        assert connections.listed(session, kind=connections.UPLOAD) == []


def test_the_same_file_twice_changes_nothing(ada, base):
    whole = b"\n".join([PERSON, observation(1)])
    bring(ada, base, ("a.ndjson", whole, "text/plain"))
    assert "Nothing changed" in bring(ada, base, ("a.ndjson", whole, "text/plain"))


def test_the_same_file_after_a_restore_changes_nothing(cast, ada, base):
    whole = ("a.ndjson", b"\n".join([PERSON, observation(1)]), "text/plain")
    bring(ada, base, whole)
    home = cast.appliance
    made = backup.back_up(home.house, home.vaults, cast.patients["Ada"])
    restore(home.house, home.vaults, made.folder)
    assert "Nothing changed" in bring(cast.browser("Ada"), base, whole)
    with cast.vault("Ada").read() as session:
        assert len(connections.listed(session)) == 1


def test_files_and_own_statements_have_no_interface_and_nothing_to_pause(cast, ada, base):
    bring(ada, base, ("a.ndjson", PERSON, "text/plain"))
    form = base.replace("/connections", "/own/add/allergy")
    ada.submit(form, {"what": "Latex"}, page=form)
    with cast.vault("Ada").read() as session:
        found = [
            row.id for kind in connections.PLACES for row in connections.listed(session, kind=kind)
        ]
    assert len(found) == 2
    for place in (f"{base}/{number}" for number in found):
        page = ada.get(place)
        assert page.status_code == 200
        assert "/interface" not in page.text
        assert f"{place}/pause" not in page.text
        for ending in ("", "/report.txt", "/report.json"):
            assert ada.get(f"{place}/interface{ending}").status_code == 404
        assert ada.submit(f"{place}/interface", {}, page=place).status_code == 404
        assert ada.submit(f"{place}/pause", {}, page=place).status_code == 409


def test_a_file_that_is_no_record_is_said_calmly(ada, base):
    assert "Nothing could be kept" in bring(ada, base, ("x.pdf", b"%PDF-1.4", "application/pdf"))


def test_nothing_chosen_is_said_on_the_form(ada, base):
    place = base.replace("/connections", "/files")
    parts = [
        f'--B\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{ada.csrf(place)}',
        '--B\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n',
        "--B--\r\n",
    ]
    kind = {"content-type": "multipart/form-data; boundary=B"}
    answer = ada.post(place, content="\r\n".join(parts).encode(), headers=kind)
    assert answer.status_code == 422


def test_an_uploaded_file_never_lies_readable_on_the_disk(cast, ada, base, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    bring(ada, base, ("secret.json", PERSON.replace(b"p1", b"canary-in-a-file"), "text/plain"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"canary-in-a-file" not in path.read_bytes()


def test_the_whole_record_is_taken_out_and_in_again(cast, ada, base, hospital):
    vault = cast.vault("Ada")
    cid = connected(vault, hospital)
    pull.run(vault, cid, http=cast.appliance.http, now=clock.now())
    place = base.replace("/connections", "/files")
    answer = ada.submit(place + "/export", page=place)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.content.startswith(b"PK")
    eve = cast.browser("Eve")
    page = bring(
        eve,
        f"/p/{cast.patients['Eve']}/connections",
        ("record.zip", answer.content, "application/zip"),
    )
    assert "8 new" in page


# ----------------------------------------------------------------------------- jobs and the CLI


def test_due_connections_are_pulled_and_sealed_ones_wait(cast, hospital, working):
    cast.appliance.http.guard.allow(hospital.server.place)
    vault = cast.vault("Ada")
    cid = connected(vault, hospital)
    later = connected(cast.vault("Ben"), hospital, next_pull_at=clock.now() + timedelta(hours=1))
    working.pull_due()
    wait_for(vault, cid, working)
    with vault.read() as session:
        assert connections.last_pull(session, cid) is not None
    with cast.vault("Ben").read() as session:
        assert connections.last_pull(session, later) is None


def test_an_expired_sign_in_is_swept_away(cast, ada, base, hospital, working):
    begin(ada, base, hospital)
    with time_machine.travel(clock.now() + timedelta(days=2)):
        working.keep_house()
    with cast.appliance.house.read() as session:
        assert session.scalars(select(PendingAuthorization)).all() == []
    with cast.vault("Ada").read() as session:
        assert connections.listed(session) == []


def test_backup_runs_once_after_its_hour_also_when_slept_through(cast, working):
    house = cast.appliance.house
    working.back_up_if_due()
    assert house.get_setting("last_backup") is None, "the hour has not come yet"
    with time_machine.travel(clock.now() + timedelta(days=3)):
        working.back_up_if_due()
        first = house.get_setting("last_backup")
        working.back_up_if_due()
        assert house.get_setting("last_backup") == first
    assert first["failed"] == {}


def test_memory_is_given_back_only_while_nobody_asks(cast, ada, working, monkeypatch):
    slimmed = []
    monkeypatch.setattr(cast.appliance.house.database, "slim", lambda: slimmed.append("house"))
    ada.get("/")
    working.give_memory_back()
    assert slimmed == [], "somebody asked a moment ago"
    monkeypatch.setitem(jobs.EVERY, "memory", 0)
    working.give_memory_back()
    working.give_memory_back()
    assert slimmed == ["house"], "and once is enough until something is used again"
    with cast.appliance.house.read() as session:
        assert session.scalars(select(PendingAuthorization)).all() == []
    working.give_memory_back()
    assert slimmed == ["house", "house"]


def test_a_look_that_fails_is_remembered_and_comes_again(working):
    def fails():
        raise OSError

    working._look("backup", fails)
    tick = next(tick for tick in working.ticks() if tick.name == "backup")
    assert tick.sentence
    working._look("backup", lambda: None)
    assert next(tick for tick in working.ticks() if tick.name == "backup").sentence is None


def test_jobs_start_and_stop(cast, working):
    working.start()
    working.stop()
    assert not working.pull_soon(cast.patients["Ada"], 1)


def test_the_command_line_connects_through_a_loopback_listener(cast, hospital):
    cast.appliance.http.guard.allow(hospital.server.place)
    vault, house = cast.vault("Ada"), cast.appliance.house
    actor = {"kind": "account", "id": "a", "name": "Ada"}
    with connect.listen() as listener:
        wish = connect.Wish("Saltmarsh", hospital.base, "app")
        http = cast.appliance.http
        uri = listener.redirect_uri
        cid = connect.add(vault, http, wish, redirect_uri=uri, actor=actor)
        begun = connect.begin(house, vault, cid, http=http, session_hash=None, redirect_uri=uri)
        asked = parse_qs(urlsplit(begun.url).query)
        cast.appliance.http.guard.allow(urlsplit(uri).netloc)
        assert http.get(uri.replace("/callback", "/favicon.ico")).status == 404
        listener.expect(begun.url)
        assert http.get(f"{uri}?code=x&state=a-strangers").status == 404
        came = http.get(f"{uri}?code=good-code&state={asked['state'][0]}")
        assert came.status == 200
        assert b"good-code" not in came.body
        landed = listener.wait(5)
    found = connect.land(
        house, cast.appliance.vaults, landed, http=http, session_hash=None, actor=actor
    )
    assert found.connection_id == cid


def test_remove_demo_takes_all_it_brought(cast, hospital):
    cast.appliance.http.guard.allow(hospital.server.place)
    vault, http = cast.vault("Ada"), cast.appliance.http
    cid = connected(vault, hospital, demo=1)
    pull.run(vault, cid, http=http, now=clock.now())
    connect.remove_demo(vault, http=http, actor={"kind": "appliance"})
    with vault.read() as session:
        assert records.select(session, vault, Selection()) == []
        assert connections.listed(session) == []


@pytest.mark.parametrize(
    ("content", "word", "sentence"),
    [
        (b"%PDF-1.7 no record", "Nothing could be read", "neither FHIR JSON nor"),
        (b"{}", "Nothing could be kept", "Everything in it was set aside."),
        (LINES, "Not all of it could be kept", "not a well-formed JSON"),
        (PERSON, "Read", "1 records"),
    ],
    ids=["no FHIR", "nothing fit", "a part", "all of it"],
)
def test_a_file_is_read_and_never_up_to_date(cast, tmp_path, content, word, sentence):
    path = tmp_path / "x.pdf"
    path.write_bytes(content)
    actor = {"kind": "account", "id": cast.accounts["Ada"], "name": "Ada"}
    taken = pull.take_file(cast.vault("Ada"), "x.pdf", path, actor=actor, now=clock.now())
    base = f"/p/{cast.patients['Ada']}"
    ada = cast.browser("Ada")
    home = ada.get(f"{base}/").text
    page = ada.get(f"{base}/connections/{taken.connection_id}").text
    for text in (home, page):
        assert word in text
        assert "Up to date" not in text
        assert "No answer" not in text
        assert "Not answered" not in text
    assert sentence in page
    assert ("/own/add/document" in page) == (taken.sentence is not None)


def test_a_file_that_gave_nothing_is_no_source_of_a_record_that_has_others(cast, tmp_path):
    actor = {"kind": "account", "id": cast.accounts["Ada"], "name": "Ada"}
    ada, base = cast.browser("Ada"), f"/p/{cast.patients['Ada']}"
    with time_machine.travel("2026-03-01 10:00Z", tick=False):
        path = tmp_path / "person.json"
        path.write_bytes(PERSON)
        pull.take_file(cast.vault("Ada"), "person.json", path, actor=actor, now=clock.now())
    path = tmp_path / "bad.exe"
    path.write_bytes(b"MZ no record")
    taken = pull.take_file(cast.vault("Ada"), "bad.exe", path, actor=actor, now=clock.now())
    home = ada.get(f"{base}/").text
    assert "person.json" in home
    assert "Data as of 1 Mar 2026" in home
    assert "bad.exe" not in home
    assert "Nothing could be read" in ada.get(f"{base}/connections/{taken.connection_id}").text
