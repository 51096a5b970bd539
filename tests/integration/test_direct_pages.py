"""The page of Direct mail as a person goes through it: set up, trust, check, send, stop."""

from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from phr import clock, ids
from phr.sharing import orders, outbox, postbox
from phr.store.models import DeliveryState
from phr.web.pages import mailing
from tests.cast import PASSWORDS, Browser, Cast
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
    form = {"by": "direct", "to": DOCTOR, "whom": "Dr. Pell", "what": "primary", "hours": "720"}
    return form | {"once": ids.new_id(), "do": "direct"} | more


def share(cast: Cast, ada: Browser, **more: str) -> Any:
    page = page_of(cast).replace("/direct", "/share")
    return ada.submit(page, sending(**more), page=page)


def checked(cast: Cast, ada: Browser, to: str = DOCTOR) -> str:
    return unescape(share(cast, ada, do="check", to=to).text)


def test_before_it_is_set_up_there_is_only_the_form(cast: Cast) -> None:
    text = cast.browser("Ada").get(page_of(cast)).text
    assert "Set it up" in text
    assert "Send to a doctor" not in text
    form = cast.browser("Ada").get(page_of(cast).replace("/direct", "/share?by=direct")).text
    assert "For this you need a Direct address of your own" in form
    assert 'id="to"' not in form
    assert "Set up Direct mail" in form
    assert postbox.READ_BY_HISP in text  # said before anything is chosen


def test_a_person_sets_it_up_trusts_checks_sends_follows_and_stops(
    cast: Cast, box: Mailbox
) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    shown = ada.get(page).text
    assert "ada@home.test" in shown
    assert "CERT PKIX" in shown
    assert "Nobody yet" in shown
    said = checked(cast, ada)
    assert "There is no certificate to trust" in said
    assert "You trust nobody's certificates yet" in said
    refused = share(cast, ada)
    assert refused.status_code == 422
    assert "Nothing was sent" in refused.text
    assert f'value="{DOCTOR}"' in refused.text  # what was typed stays
    trust(cast, ada)
    said = checked(cast, ada)
    assert "A certificate was found, and you trust it" in said
    assert "It is for this one address." in said
    assert postbox.READ_BY_NOBODY in said
    sent = share(cast, ada, standing="1")
    assert sent.status_code == 303, sent.text
    follow = sent.headers["location"]
    cast.appliance.make_jobs()
    jobs = cast.appliance.jobs
    assert jobs is not None
    jobs.deliver_due()
    assert len(box.wait()) == 1
    everywhere = f"/p/{cast.patients['Ada']}/grants"
    for where in (follow, everywhere):
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
    assert "Opened by the recipient" in ada.get(everywhere).text
    assert "says that it received and opened it" in ada.get(follow).text
    assert "now and whenever new records arrive" in ada.get(everywhere).text
    stopped = ada.submit(f"{follow}/stop", page=follow)
    assert stopped.status_code == 303
    assert "No message was on its way without an answer" in ada.get(everywhere).text
    jobs.deliver_due()
    assert len(box.got) == 1


def test_every_step_that_widens_needs_the_password_and_stopping_does_not(
    cast: Cast, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    trust(cast, ada)
    assert share(cast, ada).status_code == 303
    later = clock.now() + timedelta(minutes=6)
    monkeypatch.setattr(clock, "now", lambda: later)
    for path, form in (
        ("", {"address": "x@home.test", "mode": "sta", "host": "localhost", "port": "25"}),
        ("/renew", {}),
        ("/export", {"key": "long enough a password", "again": "long enough a password"}),
    ):
        assert "confirm.password" in ada.submit(page + path, form, page=page).text
    assert "confirm.password" in share(cast, ada).text
    vault = cast.vault("Ada")
    with vault.read() as session:
        grant_id = orders.every(session)[0].grant_id
        assert len(orders.every(session)) == 1
    stop = page.replace("/direct", f"/grants/{grant_id}/stop")
    assert ada.submit(stop, page=page).status_code == 303


def test_no_page_holds_a_password_that_was_typed_before_the_confirm_page(
    cast: Cast, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    later = clock.now() + timedelta(minutes=6)
    monkeypatch.setattr(clock, "now", lambda: later)
    wanted = {"address": "ada@direct.home.test", "mode": "sta", "host": "localhost", "port": "587"}
    typed = wanted | {"login": "ada", "secret": "a provider's password"}
    asked = ada.submit(page, typed, page=page)
    assert "confirm.password" in asked.text
    assert 'name="login" value="ada"' in asked.text
    assert "provider&#39;s password" not in asked.text
    assert 'name="secret"' not in asked.text
    repeated = wanted | {"login": "ada", mailing.PUT_DOWN: "1"}
    wrong = ada.submit(page, repeated | {"confirm.password": "not this one"}, page=page)
    assert "That is not your password." in wrong.text
    saved = ada.submit(page, repeated | {"confirm.password": PASSWORDS["Ada"]}, page=page)
    assert saved.status_code == 303, saved.text
    with cast.vault("Ada").read() as session:
        kept = postbox.get(session)
        assert kept is not None
        assert kept.smtp_password == "a provider's password"
    again = ada.submit(page, repeated, page=page)
    assert "Please type it again" in again.text  # taken once, and never saved as an empty one


def test_a_key_leaves_under_the_password_typed_before_the_confirm_page(
    cast: Cast, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    later = clock.now() + timedelta(minutes=6)
    monkeypatch.setattr(clock, "now", lambda: later)
    secret = "long enough a password"
    asked = ada.submit(page + "/export", {"key": secret, "again": secret}, page=page)
    assert "confirm.password" in asked.text
    assert secret not in asked.text
    form = {mailing.PUT_DOWN: "1", "confirm.password": PASSWORDS["Ada"]}
    taken = ada.submit(page + "/export", form, page=page)
    assert pkcs12.load_pkcs12(taken.content, secret.encode()).key is not None


def test_mistakes_come_back_with_a_sentence_and_what_was_typed(cast: Cast, box: Mailbox) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    for path, form, words in (
        ("", {"address": "no", "mode": "sta", "host": "x.test", "port": "25"}, "looks like name@"),
        ("", {"address": "a@b.test", "mode": "x", "host": "x.test", "port": "25"}, "who seals"),
        ("", {"address": "a@b.test", "mode": "sta", "host": "x.test", "port": "no"}, "as a number"),
        (
            "",
            {"address": "a@b.test", "mode": "hisp", "host": "x.test", "port": "587"},
            "a name and",
        ),
        ("/export", {"key": "short", "again": "short"}, "at least 12 characters"),
        ("/export", {"key": "long enough a one", "again": "another"}, "not the same"),
        ("/trust", {"direction": "out"}, "exactly one certificate"),
        ("/trust", {"direction": "up"}, "whom it is for"),
        ("/trust", {"direction": "out", "bundle": "http://192.168.1.1/x"}, "https"),
    ):
        answer = ada.submit(page + path, form, page=page)
        assert answer.status_code == 422, path
        assert words in answer.text
        for kept in (form.get("address"), form.get("bundle")):
            assert kept is None or f'value="{kept}"' in answer.text
        assert "short" not in answer.text  # a password is never shown again
    trust(cast, ada)
    for form, words in (
        ({"whom": ""}, "who it is for"),
        ({"to": "nobody"}, "looks like name@"),
        ({"to": "other@direct.clinic.test"}, "Nothing was sent"),
        ({"do": "link", "hours": "8760"}, "30 days at most"),
    ):
        answer = share(cast, ada, **form)
        assert answer.status_code == 422, form
        assert words in answer.text
        assert f'value="{form.get("to", DOCTOR)}"' in answer.text
    assert share(cast, ada).status_code == 303
    assert "already" in share(cast, ada).text


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
    said = checked(cast, ada)
    assert "Goes through your provider" in said
    assert postbox.READ_BY_HISP in said
    again = ada.submit(
        page, {"address": "no", "mode": "hisp", "imap_host": "imap.test"}, page=page
    ).text
    assert 'value="imap.test"' in again
    assert 'value="hisp" checked' in again


def test_a_stopped_message_is_shown_as_stopped(cast: Cast, box: Mailbox) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    trust(cast, ada)
    box.answer = "451 later"
    share(cast, ada)
    cast.appliance.make_jobs()
    jobs = cast.appliance.jobs
    assert jobs is not None
    jobs.deliver_due()
    everywhere = page.replace("/direct", "/grants")
    assert "451 later" in ada.get(everywhere).text
    vault = cast.vault("Ada")
    with vault.read() as session:
        grant_id = orders.every(session)[0].grant_id
    assert "Will be tried again then" in ada.get(f"{everywhere}/{grant_id}").text
    ada.submit(f"{everywhere}/{grant_id}/stop", page=page)
    jobs.deliver_due()
    with vault.read() as session:
        assert outbox.of_grant(session, grant_id)[0].state != DeliveryState.SENT
    assert len(box.got) == 0
    assert "Ended by you" in ada.get(everywhere).text


def test_what_was_handed_over_before_a_stop_is_told(cast: Cast, box: Mailbox) -> None:
    ada, everywhere = set_up(cast, box), page_of(cast).replace("/direct", "/grants")
    trust(cast, ada)
    follow = share(cast, ada).headers["location"]
    assert "It is prepared within a minute" in ada.get(follow).text
    cast.appliance.make_jobs()
    jobs = cast.appliance.jobs
    assert jobs is not None
    jobs.deliver_due()
    ada.submit(f"{follow}/stop", page=follow)
    assert "1 message was handed to the mail server before" in ada.get(everywhere).text


def test_a_key_is_taken_along_under_a_password(cast: Cast, box: Mailbox) -> None:
    ada, page = set_up(cast, box), page_of(cast)
    words = "four words for a file"
    answer = ada.submit(f"{page}/export", {"key": words, "again": words}, page=page)
    key, certificate, others = pkcs12.load_key_and_certificates(answer.content, words.encode())
    assert key is not None
    assert certificate is not None
    assert (
        certificate.public_bytes(Encoding.PEM).decode() == ada.get(f"{page}/certificate.pem").text
    )
    assert len(others) == 1
