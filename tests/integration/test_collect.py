"""Mail in a provider's mailbox (Dovecot): fetched once, sealed, judged; and nothing removed there.

Issue 5, deliverables 3 (HISP edge mode) and 7. The hostile servers are sockets of this test.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from phr import clock, collect, net, receive
from phr.errors import InvalidInput, MailboxFailed
from phr.http import Http
from phr.sharing import letterbox, postbox
from phr.sharing.channels import imap, mdn, message
from phr.sharing.channels.imap import Account
from phr.sharing.channels.mdn import Disposition, Notice
from phr.sharing.channels.message import Attachment, Letter
from phr.sharing.postbox import Wanted
from phr.store import arrived, audit
from phr.store.models import Delivery, LetterState, MailMode, Postbox, Recipient
from tests.fixtures_mail import DOCTOR, OWN, Mailroom, opened_mailroom
from tests.fixtures_provider import HOST, PASSWORD, Provider, provider


@pytest.fixture(scope="module")
def there() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def room(tmp_path: Path, there: Provider) -> Iterator[Mailroom]:
    """Ada's house in HISP mode, with a mailbox at the provider that is empty."""
    there.asked("expunge", "-u", OWN, "mailbox", "INBOX", "all")
    with opened_mailroom(tmp_path) as made:
        made.http.close()
        made.http = Http(net.Guard([f"{HOST}:{there.imap}", f"127.0.0.1:{made.outpost.port}"]))
        set_up(made, there)
        yield made


def set_up(room: Mailroom, there: Provider, **more: object) -> None:
    wanted = Wanted(
        OWN,
        MailMode.HISP,
        "127.0.0.1",
        room.outpost.port,
        "ada",
        "secret",
        HOST,
        there.imap,
        OWN,
        PASSWORD,
    )
    with room.vault.write() as session:
        made = replace(wanted, **more)  # type: ignore[arg-type]  # fields by name
        postbox.set_up(session, room.vault, made, audit.APPLIANCE, now=clock.now())


def fetched(room: Mailroom, there: Provider) -> int:
    return collect.fetch(room.vault, http=room.http, now=clock.now(), tls=there.tls)


def box_of(room: Mailroom) -> Postbox:
    with room.vault.read() as session:
        found = postbox.get(session)
    assert found is not None
    return found


def plain(number: int = 1, text: str = "Your results are attached.", **more: object) -> bytes:
    """Return a mail as a provider hands it out: opened, and checked by the provider."""
    letter = Letter(
        sender=DOCTOR,
        recipient=OWN,
        message_id=message.message_id("theirs", number, "clinic.example"),
        date=clock.now(),
        subject="Results",
        text=text,
    )
    return message.compose(replace(letter, **more))  # type: ignore[arg-type]  # fields by name


def test_what_a_provider_opened_waits_in_the_inbox_as_vouched_for_by_it(
    room: Mailroom, there: Provider
) -> None:
    report = Attachment("report.txt", "text/plain", "Hämoglobin 14.1\r\n".encode())
    there.delivered(plain(attachments=(report,)), OWN)
    assert fetched(room, there) == 1
    assert room.arrivals() == []  # sealed on the disk until it is judged
    room.look()
    line = room.line()
    assert (line.state, line.reason, line.certificate) == (LetterState.TAKEN, "", None)
    assert line.sender == DOCTOR
    assert line.vouched
    assert report.content in {each.content for each in room.arrivals()}
    with room.vault.read() as session:
        (who,) = {each.recipient_id for each in room.arrivals()}
        recipient = session.get_one(Recipient, who)
    assert recipient.verification == letterbox.BY_PROVIDER
    assert line.answers == []  # the provider answers
    assert room.outpost.mails == []


def test_each_message_is_taken_once_and_stays_unread_at_the_provider(
    room: Mailroom, there: Provider
) -> None:
    for number in range(3):
        there.delivered(plain(number, f"Number {number}."), OWN)
    assert fetched(room, there) == 3
    assert fetched(room, there) == 0
    there.delivered(plain(3, "Number 3."), OWN)
    assert fetched(room, there) == 1
    room.look()
    assert sorted(each.content for each in room.arrivals()) == [
        b"Number %d." % number for number in range(4)
    ]
    kept = there.asked("fetch", "-u", OWN, "flags", "mailbox", "INBOX", "all")
    assert kept.count("flags:") == 4
    assert "Seen" not in kept
    assert "Deleted" not in kept


def test_it_is_removed_there_only_when_the_patient_says_so(room: Mailroom, there: Provider) -> None:
    set_up(room, there, imap_delete=True)
    there.delivered(plain(), OWN)
    assert fetched(room, there) == 1
    assert "flags:" not in there.asked("fetch", "-u", OWN, "flags", "mailbox", "INBOX", "all")
    room.look()
    assert len(room.arrivals()) == 1


def test_a_mailbox_whose_numbers_begin_anew_repeats_nothing_in_the_inbox(
    room: Mailroom, there: Provider
) -> None:
    there.delivered(plain(), OWN)
    assert fetched(room, there) == 1
    room.look()
    with room.vault.write() as session:
        held = session.get_one(Postbox, 1)
        held.imap_validity = 1  # as if the provider had restored the mailbox
    assert fetched(room, there) == 1
    room.look()
    assert len(room.lines()) == 1
    assert len(room.arrivals()) == 1


def test_a_crash_after_the_file_and_before_the_number_repeats_nothing(
    room: Mailroom, there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.delivered(plain(), OWN)
    real = collect._remember

    def crash(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(collect, "_remember", crash)
    with pytest.raises(MailboxFailed):
        fetched(room, there)
    monkeypatch.setattr(collect, "_remember", real)
    assert len(arrived.waiting(room.home.house, room.patient)) == 1
    assert fetched(room, there) == 1
    assert len(arrived.waiting(room.home.house, room.patient)) == 1
    room.look()
    assert len(room.arrivals()) == 1


def test_what_waits_sealed_from_a_mailbox_cannot_be_read_on_the_disk(
    room: Mailroom, there: Provider
) -> None:
    there.delivered(plain(text="Canary in plain words."), OWN)
    fetched(room, there)
    (path,) = arrived.waiting(room.home.house, room.patient)
    assert b"Canary" not in path.read_bytes()


def test_too_much_that_waits_stays_at_the_provider(
    room: Mailroom, there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrived, "MOST_FILES", 1)
    for number in range(2):
        there.delivered(plain(number, f"Number {number}."), OWN)
    assert fetched(room, there) == 1
    room.look()
    assert fetched(room, there) == 1
    room.look()
    assert len(room.arrivals()) == 2


def test_a_message_over_the_limit_leaves_a_line_and_nothing_else(
    room: Mailroom, there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "MOST", 2000)
    there.delivered(plain(1, "long " * 1000), OWN)
    there.delivered(plain(2, "short"), OWN)
    assert fetched(room, there) == 2
    room.look()
    by_state = {each.state: each for each in room.lines()}
    assert by_state[LetterState.REFUSED].reason == collect.TOO_LARGE
    assert by_state[LetterState.TAKEN].message_id.endswith("@clinic.example>")
    assert fetched(room, there) == 0


def test_a_notice_through_the_provider_settles_the_delivery_it_speaks_of(
    room: Mailroom, there: Provider
) -> None:
    named = message.message_id("ours", 1, "home.example")
    notice = Notice(named, DOCTOR, Disposition.PROCESSED)
    own_id = message.message_id("answer", 1, "clinic.example")
    raw = mdn.compose(notice, recipient=OWN, message_id=own_id, date=clock.now())
    there.delivered(raw, OWN)
    fetched(room, there)
    room.look()
    assert room.line().state == LetterState.NOTICE
    assert room.line().reason == receive.NOT_OURS  # there is no such delivery
    with room.vault.read() as session:
        assert session.query(Delivery).count() == 0


def test_plain_mail_by_any_other_way_is_refused_also_in_this_mode(room: Mailroom) -> None:
    room.post(plain())
    room.look()
    assert room.line().state == LetterState.REFUSED
    assert room.arrivals() == []


def test_what_a_provider_did_not_open_is_refused(room: Mailroom, there: Provider) -> None:
    there.delivered(room.written(), OWN)
    fetched(room, there)
    room.look()
    assert room.line().state == LetterState.REFUSED
    assert "sealed still" in room.line().reason


def test_without_a_provider_what_is_in_a_mailbox_is_judged_as_any_mail(
    room: Mailroom, there: Provider
) -> None:
    set_up(room, there, mode=MailMode.STA, smtp_login=None)
    there.delivered(room.written(), OWN, sender=DOCTOR)
    there.delivered(plain(2), OWN, sender=DOCTOR)
    assert fetched(room, there) == 2
    room.look()
    assert sorted(each.state for each in room.lines()) == [LetterState.REFUSED, LetterState.TAKEN]
    taken = next(each for each in room.lines() if each.state == LetterState.TAKEN)
    assert taken.certificate is not None
    assert not taken.vouched


# ------------------------------------------------------------------ what goes wrong


def test_a_wrong_password_is_told_and_tried_less_and_less_often(
    room: Mailroom, there: Provider
) -> None:
    set_up(room, there, imap_password="wrong")
    now, waits = clock.now(), []
    for _ in range(3):
        with pytest.raises(MailboxFailed, match="name and password"):
            collect.fetch(room.vault, http=room.http, now=now, tls=there.tls)
        box = box_of(room)
        assert box.imap_problem == "The mailbox did not take the name and password."
        assert box.imap_next_at is not None
        waits.append(box.imap_next_at - now)
    assert waits == sorted(set(waits))
    assert not collect.is_due(room.vault, now=now)
    assert collect.run_due(room.vault, http=room.http, now=now) == 0
    set_up(room, there)
    assert fetched(room, there) == 0
    assert box_of(room).imap_problem == ""
    assert box_of(room).imap_looked_at is not None


def test_a_server_that_does_not_prove_its_name_gets_no_password(
    room: Mailroom, there: Provider
) -> None:
    with pytest.raises(MailboxFailed, match="prove"):
        collect.look(
            room.vault, http=room.http, now=clock.now()
        )  # the machine trusts other issuers
    assert "prove" in box_of(room).imap_problem
    account = Account("127.0.0.1", there.imap, OWN, PASSWORD)
    guard = net.Guard([f"127.0.0.1:{there.imap}"])
    with (
        pytest.raises(MailboxFailed, match="prove"),
        imap.opened(account, guard=guard, tls=there.tls),
    ):
        pass


def test_a_private_address_is_not_reached_unless_it_was_allowed(there: Provider) -> None:
    account = Account(HOST, there.imap, OWN, PASSWORD)
    with (
        pytest.raises(MailboxFailed, match="private network"),
        imap.opened(account, guard=net.Guard(), tls=there.tls),
    ):
        pass


def test_without_a_mailbox_nothing_is_due(room: Mailroom, there: Provider) -> None:
    set_up(room, there, imap_host=None)
    assert not collect.is_due(room.vault, now=clock.now() + timedelta(days=1))
    with pytest.raises(InvalidInput):
        fetched(room, there)


Talk = Callable[[ssl.SSLSocket, bytes], None]


@contextmanager
def odd_server(there: Provider, talk: Talk) -> Iterator[Account]:
    """Run a server that greets, takes any password, and then says what `talk` says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*there.pair)

    def serve(door: socket.socket) -> None:
        with suppress(OSError):
            one, _ = door.accept()
            with one, context.wrap_socket(one, server_side=True) as line:
                answer(line)

    def answer(line: ssl.SSLSocket) -> None:
        line.sendall(b"* OK [CAPABILITY IMAP4rev1] x\r\n")
        for said in line.makefile("rb"):
            tag, _, rest = said.partition(b" ")
            if rest.startswith(b"CAPABILITY"):
                line.sendall(b"* CAPABILITY IMAP4rev1\r\n%b OK x\r\n" % tag)
            elif rest.startswith(b"LOGIN"):
                line.sendall(b"%b OK x\r\n" % tag)
            elif rest.startswith(b"EXAMINE"):
                line.sendall(b"* OK [UIDVALIDITY 7] x\r\n%b OK x\r\n" % tag)
            else:
                talk(line, tag)

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=serve, args=(door,))
        thread.start()
        yield Account(HOST, door.getsockname()[1], "a", "b")
        thread.join(10)


def endless(line: ssl.SSLSocket, _tag: bytes) -> None:
    while True:
        line.sendall(b"* 1 FETCH (UID 1 RFC822.SIZE 5)\r\n" * 1000)


def huge(line: ssl.SSLSocket, _tag: bytes) -> None:
    line.sendall(b"* 1 FETCH (UID 1 BODY[] {9999999999}\r\n")


def rubbish(line: ssl.SSLSocket, tag: bytes) -> None:
    line.sendall(b"\0\xff\xfe no IMAP at all\r\n" + tag + b"\r\n")


def cut_off(line: ssl.SSLSocket, _tag: bytes) -> None:
    line.sendall(b"* 1 FETCH (UID 1 BO")
    line.close()


def bogus_numbers(line: ssl.SSLSocket, tag: bytes) -> None:
    line.sendall(b"* 1 FETCH (UID 99999999999999999999 RFC822.SIZE 1)\r\n%b OK x\r\n" % tag)


@pytest.mark.parametrize("talk", [endless, huge, rubbish, cut_off])
def test_an_odd_server_is_left_within_bounds(there: Provider, talk: Talk) -> None:
    with odd_server(there, talk) as account:
        guard = net.Guard([f"{HOST}:{account.port}"])
        with (
            pytest.raises(MailboxFailed),
            imap.opened(account, guard=guard, tls=there.tls) as box,
        ):
            box.after(0)


def test_a_server_that_says_nothing_is_left_when_the_time_is_over(
    there: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap, "LONGEST", 0.3)
    asked = threading.Event()
    with odd_server(there, lambda _line, _tag: asked.set()) as account:
        guard = net.Guard([f"{HOST}:{account.port}"])
        with (
            pytest.raises(MailboxFailed),
            imap.opened(account, guard=guard, tls=there.tls) as box,
        ):
            box.after(0)
    assert asked.is_set()


def test_a_number_beyond_all_numbers_is_no_message(there: Provider) -> None:
    with odd_server(there, bogus_numbers) as account:
        guard = net.Guard([f"{HOST}:{account.port}"])
        with imap.opened(account, guard=guard, tls=there.tls) as box:
            assert box.after(0) == []
