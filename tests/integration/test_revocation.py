"""Stop means stop: what is asked after the patient's click is refused, whatever goes on meanwhile.

Asserted is what came before what, never how long it took (`make bench`: doors.revoke).
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phr import clock
from phr.errors import Ended, TokenRefused
from phr.sharing import answers, gate, handles, search
from phr.sharing.gate import Interaction, Released
from phr.sharing.grants import StepUp
from phr.sharing.handles import Token
from phr.store.vault import Vault
from phr.web import routing
from tests.cast import Cast
from tests.fixtures_fhir import BASE, App, app_for, token_for
from tests.fixtures_sharing import ADA, a_record, keep_all, keep_more, lab, recent
from tests.fixtures_store import Home

READERS = 50
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def vault(tmp_path: Path):
    with Home(tmp_path) as home:
        made = home.vaults.get(home.patient(home.account(), by_itself=True))
        keep_all(made, "North Quay", a_record())
        yield made


def read(vault: Vault, token: Token) -> Released:
    bearer = handles.bearer_of(token.text)
    wanted = Interaction("rs", None)
    out = gate.release_to(vault, token.grant_id, bearer, wanted, "api.searched", now=clock.now())
    asked = search.read("Observation", [("status", "final")], base=BASE, now=clock.now())
    assert b'"searchset"' in answers.page(out, asked, base=BASE)
    return out


def end(vault: Vault, token: Token) -> None:
    gate.end(vault, token.grant_id, "patient", ADA, now=clock.now())


def is_refused(vault: Vault, token: Token) -> bool:
    """Tell whether a token is refused: before anything is read, or on the way."""
    try:
        read(vault, token)
    except (TokenRefused, Ended):
        return True
    return False


def beside(work: Callable[[], None], over: threading.Event) -> threading.Thread:
    """Run something again and again in a thread; return when it was done once."""
    once = threading.Event()

    def again() -> None:
        while not over.is_set():
            work()
            once.set()

    thread = threading.Thread(target=again)
    thread.start()
    assert once.wait(60)
    return thread


def test_no_request_begun_after_the_click_is_answered_under_fifty_readers(vault: Vault) -> None:
    token = token_for(vault)
    clicked = threading.Event()
    reading = threading.Barrier(READERS + 1)
    late: list[str] = []

    def reader() -> None:
        read(vault, token)
        reading.wait(120)
        while True:
            begun_after = clicked.is_set()
            refused = is_refused(vault, token)
            if begun_after and not refused:
                late.append("answered")
            if refused:
                return

    readers = [threading.Thread(target=reader) for _ in range(READERS)]
    for one in readers:
        one.start()
    reading.wait(120)
    end(vault, token)
    clicked.set()
    for one in readers:
        one.join(120)
        assert not one.is_alive()
    assert late == []


def test_other_grants_go_on_while_one_is_stopped(vault: Vault) -> None:
    stopped, going = token_for(vault), token_for(vault)
    over = threading.Event()
    thread = beside(lambda: read(vault, going) and None, over)
    end(vault, stopped)
    assert is_refused(vault, stopped)
    read(vault, going)
    over.set()
    thread.join(60)


def test_the_click_does_not_wait_for_the_end_of_an_import(vault: Vault) -> None:
    connection = keep_all(vault, "Saltmarsh", [])
    token = token_for(vault)
    read(vault, token)
    over = threading.Event()
    number = iter(range(1_000_000))

    def importing() -> None:
        keep_more(vault, connection, [lab(f"i{next(number)}", recent(3)) for _ in range(200)])

    thread = beside(importing, over)
    end(vault, token)
    assert thread.is_alive()  # it goes on for as long as we like
    assert is_refused(vault, token)
    over.set()
    thread.join(60)


def test_what_is_being_sent_stops_at_its_next_piece(vault: Vault) -> None:
    token = token_for(vault)
    out = read(vault, token)
    pieces = out.guarded(iter([b"first", b"second"]))
    assert next(pieces) == b"first"
    end(vault, token)
    with pytest.raises(Ended):
        next(pieces)
    with pytest.raises(Ended):
        list(out.stream())


def test_a_click_survives_a_kill_in_the_same_breath(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        patient = home.patient(home.account(), by_itself=True)
        vault = home.vaults.get(patient)
        keep_all(vault, "North Quay", a_record())
        stopped, going = token_for(vault), token_for(vault)
        read(vault, stopped)
    command = [sys.executable, "-m", "tests.integration.revoke_child"]
    done = subprocess.run(
        [*command, str(tmp_path), patient, stopped.grant_id],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    with Home(tmp_path) as home:
        home.vaults.open_by_themselves()
        vault = home.vaults.get(patient)
        assert is_refused(vault, stopped)
        read(vault, going)


@pytest.fixture
def crowded(cast: Cast) -> Iterator[tuple[Cast, App]]:
    """Give an appliance all of whose threads for doors are taken, and an app with a token."""
    shared = cast.vault("Ada")
    keep_all(shared, "North Quay", a_record())
    app = app_for(cast, shared)
    assert app.get("Observation").status_code == 200
    over = threading.Event()
    for _ in range(routing.DOOR_THREADS):
        routing.AT_DOORS.submit(over.wait, 120)
    try:
        yield cast, app
    finally:
        over.set()


def test_the_tap_and_the_refusal_wait_for_no_program_that_reads(
    crowded: tuple[Cast, App],
) -> None:
    cast, app = crowded
    ada = cast.browser("Ada")
    at = f"/p/{cast.patients['Ada']}/grants"
    assert ada.submit(f"{at}/{app.token.grant_id}/stop", page=at).status_code == 303
    refused = app.get("Observation")
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_what_everybody_may_know_is_told_whatever_token_is_shown(cast: Cast) -> None:
    shared = cast.vault("Ada")
    app = app_for(cast, shared)
    end(shared, app.token)
    assert app.get("Observation").status_code == 401
    assert app.get("metadata").status_code == 200


def test_a_paused_token_is_told_that_it_is_paused_and_goes_on_afterwards(cast: Cast) -> None:
    shared = cast.vault("Ada")
    app = app_for(cast, shared)
    gate.suspend(shared, app.token.grant_id, ADA)
    assert app.get("Observation").status_code == 403
    now = clock.now()
    factor = StepUp("ada", "password", now)
    gate.resume(shared, app.token.grant_id, step_up=factor, shown="shown", actor=ADA, now=now)
    assert app.get("Observation").status_code == 200
