"""HISP edge mode as a whole with Dovecot as the provider's mailbox, and the message to oneself.

In STA mode OpenSMTPD carries it and Knot DNS publishes the own certificate. Issue 5, deliverables 3
and 8.
"""

import email
import threading
from collections.abc import Iterator
from email import policy
from pathlib import Path

import pytest

from phr import clock, collect, ids, net, push
from phr.errors import InvalidInput
from phr.http import Http
from phr.sharing import echo, postbox
from phr.sharing.channels import discovery
from phr.sharing.grants import StepUp
from phr.sharing.postbox import Wanted
from phr.store import audit
from phr.store.models import Delivery, DeliveryState, LetterState, MailMode
from tests.fixtures_direct import cert_line, der, free_port, knot, mail_server
from tests.fixtures_mail import OWN, Mailroom, opened_mailroom
from tests.fixtures_provider import HOST, PASSWORD, Provider, provider, submission
from tests.fixtures_sharing import ADA, Share, share

__all__ = ["share"]
DOCTOR = "dr.pell@hisp.example"


@pytest.fixture(scope="module")
def there() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Mailroom]:
    with opened_mailroom(tmp_path) as made:
        yield made


def wanted(there: Provider, port: int, address: str) -> Wanted:
    at = {"smtp_host": HOST, "smtp_port": port, "smtp_login": address, "smtp_password": PASSWORD}
    box = {"imap_host": HOST, "imap_port": there.imap, "imap_login": address}
    return Wanted(address, MailMode.HISP, **at, **box, imap_password=PASSWORD)


def told(room: Mailroom) -> dict[str, str]:
    return {each.name: each.state for each in echo.steps(room.vault, now=clock.now())}


def until_it_came(room: Mailroom, http: Http) -> None:
    """Look into the mailbox until something is there; a mail server takes its time."""
    pause = threading.Event()
    for _ in range(200):
        if collect.fetch(room.vault, http=http, now=clock.now()):
            return
        pause.wait(0.1)
    pytest.fail("nothing came into the mailbox")


def test_a_record_goes_through_a_provider_and_lies_in_the_mailbox_of_the_other(
    share: Share, there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Authenticated submission; the plain sentence says who can read."""
    monkeypatch.setenv("SSL_CERT_FILE", str(there.root))
    with submission(there, OWN) as port:
        http, now = Http(net.Guard([f"{HOST}:{port}"])), clock.now()
        with share.vault.write() as session:
            postbox.set_up(session, share.vault, wanted(there, port, OWN), ADA, now=now)
        ways = push.post(share.vault, http=http)
        push.start(
            share.vault,
            share.wish(),
            channel=ways["direct"],
            address=DOCTOR,
            standing=False,
            grant_id=ids.new_id(),
            step_up=StepUp("ada", "password", now),
            shown="x",
            actor=ADA,
            now=now,
        )
        push.run_due(share.vault, channels=ways, public_url="http://127.0.0.1:8081", now=now)
        with share.vault.read() as session:
            (sent,) = session.query(Delivery).all()
        assert sent.state == DeliveryState.SENT, sent.sentence
        http.close()
        raw, pause = "", threading.Event()
        while not raw:
            raw = there.asked("fetch", "-u", DOCTOR, "text", "mailbox", "INBOX", "all")
            pause.wait(0.1)
    seen = email.message_from_string(raw.removeprefix("text:\n"), policy=policy.default)
    assert seen["Message-ID"] == sent.message_id
    assert [each.get_filename() for each in seen.iter_attachments()][:2] == [
        "record.json",
        "record.html",
    ]
    assert "can read everything" in postbox.who_reads(MailMode.HISP)


def test_a_test_message_goes_out_and_comes_back_through_a_provider(
    room: Mailroom, there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(there.root))
    there.asked("expunge", "-u", OWN, "mailbox", "INBOX", "all")
    with submission(there, OWN) as port:
        http = Http(net.Guard([f"{HOST}:{port}", f"{HOST}:{there.imap}"]))
        with room.vault.write() as session:
            given = wanted(there, port, OWN)
            postbox.set_up(session, room.vault, given, audit.APPLIANCE, now=clock.now())
        echo.begin(room.vault, http=http, listens=False, now=clock.now())
        assert told(room) == {
            "Certificates": "done",
            "Taken by the mail server": "done",
            "Arrived": "waiting",
            "Confirmed": "waiting",
        }
        until_it_came(room, http)
        http.close()
    room.look()
    assert told(room)["Arrived"] == "done"
    assert room.line().state == LetterState.NOTICE
    assert room.arrivals() == []
    late = clock.now() + 2 * echo.PATIENCE
    assert echo.steps(room.vault, now=late)[-1].sentence == echo.LATE


def test_a_wrong_password_is_a_step_that_failed(
    room: Mailroom, there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(there.root))
    with submission(there, "somebody@else.example") as port:
        http = Http(net.Guard([f"{HOST}:{port}"]))
        with room.vault.write() as session:
            given = wanted(there, port, OWN)
            postbox.set_up(session, room.vault, given, audit.APPLIANCE, now=clock.now())
        echo.begin(room.vault, http=http, listens=False, now=clock.now())
        http.close()
    steps = {each.name: each for each in echo.steps(room.vault, now=clock.now())}
    assert steps["Taken by the mail server"].state == "failed"
    assert "name and password" in steps["Taken by the mail server"].sentence
    assert steps["Arrived"].state == "failed"


def test_a_test_message_takes_the_whole_way_through_a_mail_server_and_the_name_system(
    room: Mailroom, tmp_path: Path
) -> None:
    line = cert_line(OWN.replace("@", "."), der(room.certificate()))
    with (
        knot(tmp_path / "names", "home.example", line) as names,
        mail_server(tmp_path / "mta", room.listener.port, port=free_port()) as port,
    ):
        room.http.close()
        room.http = Http(net.Guard([f"127.0.0.1:{port}"], name_servers=[names]))
        with room.vault.write() as session:
            given = Wanted(OWN, MailMode.STA, "127.0.0.1", port)
            postbox.set_up(session, room.vault, given, audit.APPLIANCE, now=clock.now())
        assert echo.began(room.vault) is None
        echo.begin(room.vault, http=room.http, listens=True, now=clock.now())
        assert echo.began(room.vault) is not None
        looked = threading.Event()
        for _ in range(300):
            room.look()
            if told(room)["Confirmed"] == "done":
                break
            looked.wait(0.1)
    assert told(room) == dict.fromkeys(
        ("Own certificate", "Published", "Taken by the mail server", "Arrived", "Confirmed"), "done"
    )
    assert {each.state for each in room.lines()} == {LetterState.NOTICE}
    assert room.arrivals() == []


def test_what_is_missing_is_said_step_by_step(room: Mailroom) -> None:
    """Nothing is published, the mail server is away, and nothing takes mail in."""
    room.http.close()
    room.http = Http(net.Guard([f"127.0.0.1:{room.outpost.port}"], name_servers=[("127.0.0.1", 9)]))
    room.outpost.close()
    echo.begin(room.vault, http=room.http, listens=False, now=clock.now())
    steps = {each.name: each for each in echo.steps(room.vault, now=clock.now())}
    assert {name: each.state for name, each in steps.items()} == {
        "Own certificate": "done",
        "Published": "failed",
        "Taken by the mail server": "failed",
        "Taken in again": "failed",
        "Arrived": "failed",
        "Confirmed": "failed",
    }
    assert steps["Taken in again"].sentence == echo.NO_WAY_IN
    assert discovery.problem(OWN) is None
    with room.vault.write() as session:
        session.delete(postbox.get(session))
    with pytest.raises(InvalidInput, match="set up"):
        echo.begin(room.vault, http=room.http, listens=False, now=clock.now())
