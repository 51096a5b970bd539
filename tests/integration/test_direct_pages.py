"""The page of Direct mail as a person goes through it: set up, trust, check, send, stop."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from phr import clock, ids
from phr.sharing import orders, outbox, postbox
from phr.store.models import DeliveryState
from tests.cast import Browser, Cast
from tests.fixtures_direct import Authority, Mailbox, cert_line, der, knot, mailbox
from tests.fixtures_sharing import a_record, keep_all

DOCTOR = "dr.pell@direct.clinic.test"
ROOT = Authority("Clinic root", number=1000)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    lines = cert_line("dr.pell.direct.clinic.test", der(ROOT.issue(DOCTOR, number=1)))
    with knot(tmp_path_factory.mktemp("names") / "knot", "clinic.test", lines) as server:
        yield server


@pytest.fixture
def box(cast: Cast, names: tuple[str, int]) -> Iterator[Mailbox]:
    keep_all(cast.vault("Ada"), "North Quay", a_record())
    guard = cast.appliance.http.guard
    guard.name_servers = [names]
    with mailbox(Mailbox()) as made:
        guard.allow(f"localhost:{made.port}")
        yield made


def page_of(cast: Cast) -> str:
    return f"/p/{cast.patients['Ada']}/direct"


def set_up(cast: Cast, box: Mailbox, **more: str) -> Browser:
    ada, page = cast.browser("Ada"), page_of(cast)
    form = {"address": "ada@home.test", "mode": "sta", "host": "localhost", "port": str(box.port)}
    answer = ada.submit(page, form | more, page=page)
    assert answer.status_code == 303, answer.text
    return ada


def trust(cast: Cast, ada: Browser) -> None:
    page = page_of(cast)
    file = ("root.pem", ROOT.certificate.public_bytes(Encoding.PEM), "application/x-pem-file")
    answer = ada.submit(f"{page}/trust", {"direction": "out"}, page=page, files={"file": file})
    assert answer.status_code == 303, answer.text


def sending(**more: str) -> dict[str, str]:
    form = {"to": DOCTOR, "whom": "Dr. Pell", "what": "primary", "days": "30"}
    return form | {"once": ids.new_id()} | more


def test_before_it_is_set_up_there_is_only_the_form(cast: Cast) -> None:
    text = cast.browser("Ada").get(page_of(cast)).text
    assert "Set it up" in text
    assert "Send to a doctor" not in text
    assert postbox.READ_BY_HISP in text  # said before anything is chosen


def test_a_person_sets_it_up_trusts_checks_sends_follows_and_stops(
    cast: Cast, box: Mailbox
) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    shown = ada.get(page).text
    assert "ada@home.test" in shown
    assert "CERT PKIX" in shown
    assert "Nobody yet" in shown
    checked = ada.submit(f"{page}/check", {"to": DOCTOR}, page=page).text
    assert "There is no certificate to trust" in checked
    assert "there is no anchor" in checked
    assert "/direct/send" not in checked
    trust(cast, ada)
    checked = ada.submit(f"{page}/check", {"to": DOCTOR}, page=page).text
    assert "A certificate was found, and you trust it" in checked
    sent = ada.submit(f"{page}/send", sending(standing="1"), page=page)
    assert sent.status_code == 303, sent.text
    follow = sent.headers["location"]
    cast.appliance.make_jobs()
    jobs = cast.appliance.jobs
    assert jobs is not None
    jobs.deliver_due()
    assert len(box.wait()) == 1
    for where in (follow, page, f"/p/{cast.patients['Ada']}/grants"):
        text = ada.get(where).text
        assert "Handed to the mail server" in text
        assert "Dr. Pell" in text
    vault = cast.vault("Ada")
    with vault.write() as session:
        grant_id = orders.every(session)[0].grant_id
        delivery = outbox.of_grant(session, grant_id)[0]
        postbox.settle(
            session,
            vault,
            message_id=str(delivery.message_id),
            recipient=DOCTOR,
            disposition="processed",
            now=clock.now(),
        )
    assert "Opened by the recipient" in ada.get(page).text
    stopped = ada.submit(f"{page}/stop", {"grant": grant_id}, page=page)
    assert stopped.status_code == 303
    assert "Nothing more leaves" in ada.get(page).text
    jobs.deliver_due()
    assert len(box.got) == 1


def test_every_step_that_widens_needs_the_password_and_stopping_does_not(
    cast: Cast, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    trust(cast, ada)
    assert ada.submit(f"{page}/send", sending(), page=page).status_code == 303
    later = clock.now() + timedelta(minutes=6)
    monkeypatch.setattr(clock, "now", lambda: later)
    for path, form in (
        ("", {"address": "x@home.test", "mode": "sta", "host": "localhost", "port": "25"}),
        ("/renew", {}),
        ("/send", sending()),
    ):
        assert "confirm.password" in ada.submit(page + path, form, page=page).text
    vault = cast.vault("Ada")
    with vault.read() as session:
        grant_id = orders.every(session)[0].grant_id
        assert len(orders.every(session)) == 1
    assert ada.submit(f"{page}/stop", {"grant": grant_id}, page=page).status_code == 303


def test_mistakes_come_back_with_a_sentence_and_what_was_typed(cast: Cast, box: Mailbox) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    for path, form, words in (
        ("", {"address": "no", "mode": "sta", "host": "x.test", "port": "25"}, "looks like name@"),
        ("", {"address": "a@b.test", "mode": "x", "host": "x.test", "port": "25"}, "who seals"),
        ("", {"address": "a@b.test", "mode": "sta", "host": "x.test", "port": "no"}, "as a number"),
        ("/check", {"to": "nobody"}, "looks like name@"),
        ("/send", sending(whom=""), "who it is for"),
        ("/send", sending(to="nobody"), "looks like name@"),
        ("/trust", {"direction": "out"}, "exactly one certificate"),
        ("/trust", {"direction": "up"}, "whom it is for"),
        ("/trust", {"direction": "out", "bundle": "http://192.168.1.1/x"}, "https"),
    ):
        answer = ada.submit(page + path, form, page=page)
        assert answer.status_code == 422, path
        assert words in answer.text
    twice = sending()
    assert ada.submit(f"{page}/send", twice, page=page).status_code == 303
    assert "already" in ada.submit(f"{page}/send", sending(), page=page).text


def test_what_others_need_can_be_taken_along(cast: Cast, box: Mailbox, tmp_path: Path) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    assert "BEGIN CERTIFICATE" in ada.get(f"{page}/anchor.pem").text
    assert "ada.home.test. 3600 IN CERT PKIX 0 0 (" in ada.get(f"{page}/zone.txt").text
    assert "mail: ada@home.test" in ada.get(f"{page}/directory.ldif").text
    assert ada.get(f"{page}/key.pem").status_code == 404
    before = ada.get(f"{page}/zone.txt").text
    assert ada.submit(f"{page}/renew", {}, page=page).status_code == 303
    assert ada.get(f"{page}/zone.txt").text != before
    assert "PRIVATE" not in ada.get(page).text


def test_an_anchor_is_trusted_no_more_with_one_tap(cast: Cast, box: Mailbox) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    trust(cast, ada)
    assert "Clinic root" in ada.get(page).text
    assert ada.submit(f"{page}/distrust", {"anchor": "1"}, page=page).status_code == 303
    assert "Clinic root" not in ada.get(page).text
    assert ada.submit(f"{page}/distrust", {"anchor": "1"}, page=page).status_code == 404
    assert ada.submit(f"{page}/distrust", {"bundle": "x"}, page=page).status_code == 404


def test_with_a_provider_it_is_said_who_can_read_and_no_certificate_is_looked_for(
    cast: Cast, box: Mailbox
) -> None:
    ada = set_up(cast, box, mode="hisp", login="me", secret="hidden-password")
    page = page_of(cast)
    text = ada.get(page).text
    assert "it can read everything you send" in text
    assert "hidden-password" not in text
    checked = ada.submit(f"{page}/check", {"to": DOCTOR}, page=page).text
    assert "Your provider looks after the certificate" in checked
    assert "/direct/send" in checked


def test_a_stopped_message_is_shown_as_stopped(cast: Cast, box: Mailbox) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    trust(cast, ada)
    box.answer = "451 later"
    ada.submit(f"{page}/send", sending(), page=page)
    cast.appliance.make_jobs()
    jobs = cast.appliance.jobs
    assert jobs is not None
    jobs.deliver_due()
    assert "451 later" in ada.get(page).text
    vault = cast.vault("Ada")
    with vault.read() as session:
        grant_id = orders.every(session)[0].grant_id
    ada.submit(f"{page}/stop", {"grant": grant_id}, page=page)
    with vault.read() as session:
        assert outbox.of_grant(session, grant_id)[0].state == DeliveryState.STOPPED
    assert "Stopped" in ada.get(page).text
