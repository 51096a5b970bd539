"""Direct mail comes in: sealed at the door, judged at opening, kept in the inbox, answered."""

import json
import smtplib
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from phr import clock, jobs, listener, receive
from phr.errors import Conflict, NotFound
from phr.sharing import inbox, letterbox, sent
from phr.sharing.channels import mdn, message, mime, smime
from phr.sharing.channels.mdn import Disposition, Notice
from phr.store import accounts, arrived, audit, files
from phr.store.arrived import Mail
from phr.store.models import (
    ArrivalKind,
    ArrivalState,
    AuditEntry,
    Delivery,
    DeliveryState,
    Direction,
    Grant,
    LetterState,
    Recipient,
)
from tests.fixtures_direct import Authority, der
from tests.fixtures_mail import (
    DOCTOR,
    OWN,
    TEXT,
    Correspondent,
    Mailroom,
    opened_mailroom,
)
from tests.fixtures_store import PASSWORD

RESULT = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"text": "Potassium"},
    "valueQuantity": {"value": 5.40, "unit": "mmol/L"},
}
BUNDLE = json.dumps(
    {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": RESULT}]}
).encode()
FHIR = ("bundle.json", "application/fhir+json", BUNDLE)
PDF = ("letter.pdf", "application/pdf", b"%PDF-1.4\n%a letter\n")


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Mailroom]:
    with opened_mailroom(tmp_path) as made:
        yield made


def refused(room: Mailroom) -> str:
    """Return why the one mail was refused; nothing of it may have reached the inbox."""
    line = room.line()
    assert line.state == LetterState.REFUSED
    assert room.arrivals() == []
    assert line.answers == []
    assert room.outpost.mails == []
    with room.vault.read() as session:
        assert letterbox.content(session, line.id)
    return line.reason


# ------------------------------------------------------------------------------- taken in


def test_a_trusted_mail_waits_in_the_inbox_byte_for_byte(room: Mailroom) -> None:
    room.post(room.written(FHIR, PDF))
    room.look()
    by_kind = {each.kind: each for each in room.arrivals()}
    assert set(by_kind) == {ArrivalKind.NOTE, ArrivalKind.RECORDS, ArrivalKind.FILE}
    assert inbox.received(by_kind[ArrivalKind.RECORDS]) == BUNDLE
    assert inbox.received(by_kind[ArrivalKind.FILE]) == PDF[2]
    assert inbox.received(by_kind[ArrivalKind.NOTE]).decode() == TEXT
    assert {each.title for each in by_kind.values()} == {"Results"}
    line = room.line()
    assert (line.state, line.sender, line.recipient) == (LetterState.TAKEN, DOCTOR, OWN)
    assert set(line.arrivals) == {each.id for each in by_kind.values()}
    assert line.certificate == der(room.doctor.own[0])
    with room.vault.read() as session:
        with pytest.raises(NotFound):
            letterbox.content(session, line.id)
        sender = session.get_one(Recipient, by_kind[ArrivalKind.NOTE].recipient_id)
    assert (sender.name, sender.verification) == (DOCTOR, letterbox.VERIFIED)


def test_a_whole_record_is_taken_and_what_the_package_says_of_itself_is_not_added(
    room: Mailroom,
) -> None:
    told = [
        {"resourceType": "Patient", "id": "p"},
        {"resourceType": "Consent", "id": "c", "status": "active"},
        {"resourceType": "OperationOutcome", "id": "x", "issue": []},
        {"resourceType": "MessageHeader", "id": "m"},
    ]
    results = [RESULT | {"id": f"o{number}"} for number in range(sent.MOST_RESOURCES + 1)]
    entries = [{"resource": each} for each in (*told, *results)]
    whole = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    room.post(room.written((*FHIR[:2], json.dumps(whole).encode()), text=""))
    room.look()
    (held,) = room.arrivals()
    assert held.kind == ArrivalKind.RECORDS
    assert held.what == ["Observation"]
    assert len(sent.contributed(held)) == len(results)


def test_what_cannot_be_added_is_named(room: Mailroom) -> None:
    with_it = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": RESULT}]}
    with_it["entry"].append({"resource": {"resourceType": "Slot", "id": "s"}})
    room.post(room.written((*FHIR[:2], json.dumps(with_it).encode()), text="Hello"))
    room.look()
    assert [each.kind for each in room.arrivals()] == [ArrivalKind.NOTE]
    ((name, why),) = room.line().left_out
    assert name == "bundle.json"
    assert "cannot be added to a record (Slot)" in why


def test_what_waits_can_be_accepted_beside_the_record(room: Mailroom) -> None:
    room.post(room.written(FHIR, text=""))
    room.look()
    (held,) = room.arrivals()
    inbox.accept(room.vault, held.id, audit.APPLIANCE, now=clock.now())
    assert [each.id for each in room.arrivals(ArrivalState.ACCEPTED)] == [held.id]


def test_the_sender_is_told_that_it_was_processed_and_dispatched(room: Mailroom) -> None:
    room.post(room.written(FHIR, asks=True))
    room.look()
    room.look()
    said = []
    for raw in room.outpost.mails:
        opened = message.unseal(
            raw, envelope_from=OWN, envelope_to=[DOCTOR], keys=[room.doctor.own]
        )
        assert opened.signers == (room.certificate(),)
        said.append(mdn.read(opened))
    original = message.message_id("theirs", 1, "clinic.example")
    assert said == [
        Notice(original, OWN, Disposition.PROCESSED),
        Notice(original, OWN, Disposition.DISPATCHED),
    ]
    assert room.line().answer_at is None


def test_without_being_asked_only_processed_is_said(room: Mailroom) -> None:
    room.post(room.written(FHIR))
    room.look()
    room.look()
    assert len(room.outpost.mails) == 1


def test_an_answer_that_cannot_go_is_tried_again_and_then_no_more(room: Mailroom) -> None:
    room.outpost.answer = b"451 later\r\n"
    room.post(room.written(FHIR))
    now = clock.now().replace(microsecond=0)
    room.look(now)
    line = room.line()
    assert "451" in line.answer_problem
    assert line.answer_at == now + letterbox.FIRST_WAIT
    for _ in range(letterbox.ANSWER_TRIES):
        now += letterbox.LONGEST_WAIT
        room.look(now)
    assert room.line().answer_at is None
    room.outpost.answer = b"250 taken\r\n"
    room.look(now + letterbox.LONGEST_WAIT)
    assert room.outpost.mails == []


def test_the_same_mail_twice_is_taken_once_and_answered_once(room: Mailroom) -> None:
    raw = room.written(FHIR)
    room.post(raw)
    room.post(raw)
    assert len(arrived.waiting(room.home.house, room.patient)) == 1
    room.look()
    room.post(raw)
    room.look()
    assert len(room.lines()) == 1
    assert len(room.arrivals()) == 2
    assert len(room.outpost.mails) == 1


def test_the_same_records_in_another_mail_are_recognised(room: Mailroom) -> None:
    room.post(room.written(FHIR))
    room.look()
    room.post(room.written(FHIR, number=2))
    room.look()
    assert len(room.arrivals()) == 2
    first, second = room.lines()
    assert first.arrivals == second.arrivals


def test_an_id_used_twice_hides_nothing(room: Mailroom) -> None:
    room.post(room.written(text="First."))
    room.post(room.written(text="Second, under the same id."))
    room.look()
    assert len(room.arrivals()) == 2


def test_a_part_that_cannot_be_taken_is_named_and_the_mail_is_kept(room: Mailroom) -> None:
    room.post(room.written(FHIR, ("setup.exe", "application/pdf", b"MZ\x90\0" + b"\1\2" * 40)))
    room.look()
    line = room.line()
    assert [name for name, _ in line.left_out] == ["setup.exe"]
    assert len(room.arrivals()) == 2
    with room.vault.read() as session:
        assert letterbox.content(session, line.id)


def test_long_words_become_a_file(room: Mailroom) -> None:
    room.post(room.written(text="word " * 5000))
    room.look()
    (held,) = room.arrivals()
    assert held.kind == ArrivalKind.FILE


def test_the_log_says_what_came_without_a_word_of_it(
    room: Mailroom, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        room.post(room.written(FHIR))
        room.look()
    assert "mail.taken" in caplog.text
    for word in (DOCTOR, OWN, "Results", "Potassium"):
        assert word not in caplog.text
    with room.vault.read() as session:
        lines = [each.detail for each in session.query(AuditEntry) if each.event == "mail.taken"]
    assert len(lines) == 1
    assert "Results" not in json.dumps(lines)
    assert DOCTOR not in json.dumps(lines)


# ------------------------------------------------------------------------------- refused


def test_who_is_not_trusted_is_sealed_away_and_hears_nothing(room: Mailroom) -> None:
    stranger = Correspondent("mal@evil.example", 22, Authority("Evil root", 1022))
    room.post(room.written(FHIR, by=stranger), sender=stranger.address)
    room.look()
    assert "Nobody you trust" in refused(room)


@pytest.mark.parametrize(
    ("issued", "words"),
    [
        ({"ends": -timedelta(hours=1), "begins": -timedelta(days=9)}, "expired"),
        ({"begins": timedelta(days=2)}, "not valid yet"),
        ({"usage": ("key_encipherment",)}, "not meant for signing"),
    ],
    ids=["expired", "not yet", "usage"],
)
def test_a_certificate_that_is_not_good_is_refused_with_the_reason(
    issued: dict[str, object], words: str, room: Mailroom
) -> None:
    doctor = room.doctor
    doctor.certificate = doctor.issuer.issue(address=DOCTOR, number=doctor.number, **issued)
    room.post(room.written(FHIR))
    room.look()
    assert words in refused(room)


def test_a_signer_of_another_address_is_refused(room: Mailroom) -> None:
    doctor = room.doctor
    doctor.certificate = doctor.issuer.issue(address="else@clinic.example", number=doctor.number)
    room.post(room.written(FHIR))
    room.look()
    assert "another address" in refused(room)


def test_an_anchor_for_sending_does_not_let_mail_in(room: Mailroom) -> None:
    other = Correspondent("kay@other.example", 23, Authority("Other root", 1023))
    room.accept(other.issuer.certificate, Direction.OUT)
    room.post(room.written(FHIR, by=other), sender=other.address)
    room.look()
    assert "Nobody you trust" in refused(room)


def test_an_envelope_of_another_sender_is_refused(room: Mailroom) -> None:
    room.post(room.written(FHIR), sender="mal@evil.example")
    room.look()
    assert "sender" in refused(room)


def test_a_mail_addressed_to_somebody_else_inside_is_refused(room: Mailroom) -> None:
    room.post(room.written(FHIR, to="other@home.example"))
    room.look()
    assert "not addressed" in refused(room)


def test_a_mail_for_another_key_is_refused_with_the_one_sentence(room: Mailroom) -> None:
    inner = message.compose(message.Letter(DOCTOR, OWN, "<a@b.c>", clock.now(), "Results", TEXT))
    wrapped = mime.entity([("Content-Type", "message/rfc822")], inner)
    own = room.doctor.own
    signed = smime.sign(wrapped, certificate=own[0], key=own[1], now=clock.now())
    room.post(smime.encrypt(signed, [own[0]]))
    room.look()
    assert refused(room) == "This message could not be opened, or its signature does not hold."


def test_plain_mail_is_refused(room: Mailroom) -> None:
    room.post(b"From: pell@clinic.example\r\nTo: ada@home.example\r\n\r\nHello.\r\n")
    room.look()
    assert "could not be opened" in refused(room)


def test_refused_mail_is_judged_again_once_its_sender_is_trusted(room: Mailroom) -> None:
    stranger = Correspondent("ash@other.example", 31, Authority("Other root", 1031))
    room.post(room.written(by=stranger), sender=stranger.address)
    room.look()
    refused = room.line()
    assert refused.state == LetterState.REFUSED
    receive.again(room.vault, refused.id, audit.APPLIANCE, now=clock.now())
    room.look()
    assert room.line().state == LetterState.REFUSED  # nothing has changed
    room.accept(stranger.issuer.certificate)
    room.accept(stranger.issuer.certificate, Direction.OUT)
    receive.again(room.vault, room.line().id, audit.APPLIANCE, now=clock.now())
    assert room.lines() == []
    room.look()
    assert room.line().state == LetterState.TAKEN
    assert room.line().sender == stranger.address
    assert len(room.arrivals()) == 1
    with pytest.raises(NotFound):
        receive.again(room.vault, room.line().id, audit.APPLIANCE, now=clock.now())


def test_what_was_refused_is_erased_after_thirty_days(room: Mailroom) -> None:
    room.post(b"Subject: x\r\n\r\nHello.\r\n")
    room.look()
    with room.vault.write() as session:
        letterbox.tidy(session, now=clock.now() + letterbox.KEPT_FOR + timedelta(hours=1))
    with room.vault.read() as session, pytest.raises(NotFound):
        letterbox.content(session, room.line().id)


def test_mail_waits_where_a_revocation_list_cannot_be_had_and_is_refused_in_the_end(
    room: Mailroom,
) -> None:
    doctor = room.doctor
    doctor.certificate = doctor.issuer.issue(
        address=DOCTOR, number=doctor.number, lists_at="http://lists.invalid/ca.crl"
    )
    room.post(room.written(FHIR))
    now = clock.now()
    room.look(now)
    assert room.lines() == []
    room.look(now + timedelta(minutes=1))  # too early to ask again
    room.look(now + receive.PATIENCE + receive.AGAIN)
    assert "revoked" in refused(room)
    assert arrived.waiting(room.home.house, room.patient) == []


def test_mail_waits_while_the_inbox_is_full(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MOST_WAITING", 1)
    room.post(room.written(FHIR, text=""))
    room.post(room.written(PDF, text="", number=2))
    now = clock.now()
    room.look(now)
    assert len(room.lines()) == 1
    (held,) = room.arrivals()
    inbox.reject(room.vault, held.id, audit.APPLIANCE, now=now)
    room.look(now + receive.AGAIN + timedelta(seconds=1))
    assert len(room.lines()) == 2


def test_a_box_that_is_damaged_does_not_stop_the_others(room: Mailroom) -> None:
    room.post(room.written(FHIR))
    (good,) = arrived.waiting(room.home.house, room.patient)
    (good.parent / "000000000000001-bad.box").write_bytes(b"\0" * 200)
    room.look()
    assert len(room.lines()) == 1
    assert arrived.waiting(room.home.house, room.patient) == []


# ------------------------------------------------------------------------------- notices


def noticed(room: Mailroom, kind: Disposition, about: str, *, number: int = 5) -> None:
    inner = mdn.compose(
        Notice(about, DOCTOR, kind),
        recipient=OWN,
        message_id=message.message_id("notice", number, "clinic.example"),
        date=clock.now(),
    )
    room.post(room.sealed(inner, number=number))
    room.look()


def test_a_notice_about_nothing_of_ours_changes_nothing_and_is_not_answered(
    room: Mailroom,
) -> None:
    noticed(room, Disposition.FAILED, "<somebody@else.example>")
    line = room.line()
    assert (line.state, line.reason) == (LetterState.NOTICE, receive.NOT_OURS)
    assert room.arrivals() == []
    assert room.outpost.mails == []


def test_a_notice_of_a_stranger_about_a_recipient_of_ours_is_refused(room: Mailroom) -> None:
    stranger = Correspondent("mal@evil.example", 22, Authority("Evil root", 1022))
    inner = mdn.compose(
        Notice("<a@home.example>", DOCTOR, Disposition.PROCESSED),
        recipient=OWN,
        message_id="<n@evil.example>",
        date=clock.now(),
    ).replace(b"From: <pell@clinic.example>", b"From: <mal@evil.example>")
    room.post(room.sealed(inner, by=stranger), sender=stranger.address)
    room.look()
    assert "another address" in refused(room)


def test_a_notice_that_cannot_be_read_is_refused_and_not_answered(room: Mailroom) -> None:
    inner = mdn.compose(
        Notice("<a@home.example>", DOCTOR, Disposition.PROCESSED),
        recipient=OWN,
        message_id="<n@clinic.example>",
        date=clock.now(),
    ).replace(b"Original-Message-ID", b"Nothing-At-All")
    room.post(room.sealed(inner))
    room.look()
    assert refused(room) == receive.UNREADABLE


def test_a_notice_signed_by_the_recipient_settles_the_delivery_it_speaks_of(
    room: Mailroom,
) -> None:
    sent = message.message_id("ours", 1, "home.example")
    with room.vault.write() as session:
        recipient = letterbox.sender(session, DOCTOR, "", now=clock.now())
        grant = Grant(
            id="g1",
            recipient_id=recipient,
            role="specialist",
            provision={},
            created_by=room.account,
            created_at=clock.now(),
            starts_at=clock.now(),
            ends_at=clock.now() + timedelta(days=1),
        )
        session.add(grant)
        session.flush()
        session.add(
            Delivery(
                id="d1", grant_id="g1", channel="direct", address=DOCTOR, message_id=sent,
                state=DeliveryState.SENT, next_attempt_at=clock.now(), created_at=clock.now(),
            )
        )  # fmt: skip
    noticed(room, Disposition.PROCESSED, sent, number=5)
    noticed(room, Disposition.DISPATCHED, sent, number=6)
    with room.vault.read() as session:
        assert session.get_one(Delivery, "d1").answer == "dispatched"
    reasons = {each.reason for each in room.lines()}
    assert reasons == {receive.SAID[Disposition.PROCESSED], receive.SAID[Disposition.DISPATCHED]}
    assert room.outpost.mails == []


def test_a_notice_for_another_recipient_than_it_was_sent_to_settles_nothing(
    room: Mailroom,
) -> None:
    inner = mdn.compose(
        Notice("<a@home.example>", "else@clinic.example", Disposition.PROCESSED),
        recipient=OWN,
        message_id="<n@clinic.example>",
        date=clock.now(),
    ).replace(b"From: <else@", b"From: <pell@")
    room.post(room.sealed(inner))
    room.look()
    assert "another address" in refused(room)


def test_who_signs_with_one_key_and_reads_with_another_is_looked_for(room: Mailroom) -> None:
    doctor = room.doctor
    doctor.certificate = doctor.issuer.issue(
        address=DOCTOR, number=doctor.number, usage=("digital_signature",)
    )
    room.post(room.written(FHIR))
    room.look()
    line = room.line()
    assert line.state == LetterState.TAKEN
    assert "DNS" in line.answer_problem
    assert room.outpost.mails == []


# ------------------------------------------------------------------------------- sealed


def test_mail_to_a_sealed_record_waits_sealed_and_is_dealt_with_at_opening(
    room: Mailroom,
) -> None:
    raw = room.written(FHIR, asks=True)
    room.home.vaults.seal(room.patient)
    room.post(raw)
    (waiting,) = arrived.waiting(room.home.house, room.patient)
    held = waiting.read_bytes()
    assert raw not in held
    assert DOCTOR.encode() not in held
    assert waiting.stat().st_mode & 0o077 == 0
    room.home.sign_in(password=PASSWORD)
    assert letterbox.is_due(room.vault, now=clock.now())
    room.look()
    assert len(room.arrivals()) == 2
    room.look()
    assert len(room.outpost.mails) == 2
    assert not letterbox.is_due(room.vault, now=clock.now())


def test_a_crash_after_the_inbox_and_before_the_line_repeats_nothing(
    room: Mailroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.post(room.written(FHIR))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(letterbox, "keep", crash)
        with pytest.raises(KeyboardInterrupt):
            room.look()
    assert len(room.arrivals()) == 2
    room.look()
    assert len(room.arrivals()) == 2
    assert room.line().state == LetterState.TAKEN
    assert len(room.outpost.mails) == 1


def test_too_much_that_waits_is_not_taken(room: Mailroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrived, "MOST_FILES", 1)
    room.post(room.written(FHIR))
    with pytest.raises(smtplib.SMTPDataError) as caught:
        room.post(room.written(PDF, number=2))
    assert caught.value.smtp_code == 452
    mail = Mail(DOCTOR, (OWN,), clock.now(), b"x")
    monkeypatch.setattr(arrived, "MOST_FILES", 500)
    monkeypatch.setattr(arrived, "MOST_BYTES", 1000)
    with pytest.raises(Conflict):
        arrived.put_aside(room.home.vaults, room.patient, mail)


def test_an_address_belongs_to_one_record(room: Mailroom) -> None:
    other = room.home.patient(room.account, "Ben")
    with pytest.raises(Conflict):
        arrived.route(room.home.house, other, [OWN.upper()])
    arrived.route(room.home.house, room.patient, ["new@home.example"])
    assert arrived.whose(room.home.house, OWN) is None
    assert arrived.whose(room.home.house, "NEW@home.example") == room.patient
    arrived.route(room.home.house, other, [OWN])
    assert arrived.whose(room.home.house, OWN) == other


# ------------------------------------------------------------------------------- the door


def test_the_door_knows_only_addresses_of_the_house(room: Mailroom) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        room.post(b"Subject: x\r\n\r\nx\r\n", to="nobody@home.example")
    ((code, _),) = caught.value.recipients.values()
    assert code == 550
    assert arrived.waiting(room.home.house, room.patient) == []


def test_a_mail_over_the_limit_is_not_taken(room: Mailroom) -> None:
    with smtplib.SMTP("127.0.0.1", room.listener.port, timeout=20) as client:
        client.ehlo()
        assert int(client.esmtp_features["size"]) == mime.MOST
        code, _ = client.mail(DOCTOR, [f"size={mime.MOST + 1}"])
    assert code == 552


def test_an_empty_sender_is_taken_and_refused_later(room: Mailroom) -> None:
    room.post(b"Subject: Undelivered\r\n\r\nx\r\n", sender="")
    room.look()
    assert room.line().state == LetterState.REFUSED


def talk(port: int, *lines: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(b"".join(lines))
        line.shutdown(socket.SHUT_WR)
        said = b""
        while piece := line.recv(4096):
            said += piece
    return said


@pytest.mark.parametrize("end", [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r"])
def test_an_odd_end_of_a_mail_begins_no_second_one(end: bytes, room: Mailroom) -> None:
    hidden = (
        b"MAIL FROM:<mal@evil.example>\r\nRCPT TO:<ada@home.example>\r\nDATA\r\nhidden\r\n.\r\n"
    )
    talk(
        room.listener.port,
        b"EHLO x\r\nMAIL FROM:<pell@clinic.example>\r\nRCPT TO:<ada@home.example>\r\nDATA\r\n",
        b"Subject: x\r\n\r\nhello" + end + hidden,
        b"QUIT\r\n",
    )
    senders = {
        arrived.take(room.vault, path).sender
        for path in arrived.waiting(room.home.house, room.patient)
    }
    assert senders <= {DOCTOR}


def test_a_mail_cut_off_before_its_end_is_not_taken(room: Mailroom) -> None:
    talk(
        room.listener.port,
        b"EHLO x\r\nMAIL FROM:<pell@clinic.example>\r\nRCPT TO:<ada@home.example>\r\nDATA\r\n",
        b"Subject: x\r\n\r\nhello",
    )
    assert arrived.waiting(room.home.house, room.patient) == []


@pytest.mark.parametrize(
    "lines",
    [
        b"\0" * 5000,
        b"A" * 100_000 + b"\r\n",
        b"MAIL FROM:<a\r\n b@c>\r\n" * 10,
        b"EHLO x\r\n" + b"NOOP\r\n" * 3000,
        b"EHLO x\r\nMAIL FROM:<\xff@x>\r\nRCPT TO:<\xff\xfe>\r\nDATA\r\n.\r\n",
    ],
    ids=["zeros", "long line", "line ends", "noops", "bytes"],
)
def test_odd_talk_at_the_door_breaks_nothing(lines: bytes, room: Mailroom) -> None:
    talk(room.listener.port, lines)
    room.post(room.written(FHIR))
    room.look()
    assert room.line().state == LetterState.TAKEN


def test_the_door_holds_a_bounded_number_of_connections(room: Mailroom) -> None:
    held = [
        socket.create_connection(("127.0.0.1", room.listener.port), timeout=20)
        for _ in range(listener.CONNECTIONS)
    ]
    try:
        assert all(each.recv(3) == b"220" for each in held)
        with socket.create_connection(("127.0.0.1", room.listener.port), timeout=20) as more:
            assert more.recv(3) == b""
    finally:
        for each in held:
            each.close()


def test_a_place_that_is_taken_is_told(room: Mailroom) -> None:
    with pytest.raises(Conflict, match="Mail cannot be taken in"):
        listener.start(("127.0.0.1", room.listener.port), room.home.house, room.home.vaults)


def test_mail_is_refused_once_the_postbox_is_gone(room: Mailroom) -> None:
    room.post(room.written(FHIR))
    with room.vault.write() as session:
        session.connection().exec_driver_sql("DELETE FROM postbox")
    room.look()
    assert refused(room) == receive.NO_POSTBOX


def test_what_waits_for_a_shredded_record_goes_with_it_and_what_is_others_stays(
    room: Mailroom,
) -> None:
    other = room.home.patient(room.account, "Ben")
    arrived.route(room.home.house, other, ["ben@home.example"])
    room.post(room.written(FHIR))
    room.post(room.written(FHIR), to="ben@home.example")
    accounts.shred(room.home.house, room.home.vaults, other)
    assert arrived.waiting(room.home.house, other) == []
    assert not (room.home.data / files.ARRIVALS / other).exists()
    assert arrived.whose(room.home.house, "ben@home.example") is None
    assert len(arrived.waiting(room.home.house, room.patient)) == 1
    assert arrived.whose(room.home.house, OWN) == room.patient


def test_jobs_listen_where_the_settings_say_and_take_in_what_came(
    room: Mailroom, tmp_path: Path
) -> None:
    plan = jobs.Plan(tmp_path / "outbox", "http://127.0.0.1:1", mail_listen=("127.0.0.1", 0))
    runner = jobs.Jobs(room.home.house, room.home.vaults, room.http, plan)
    room.listener.stop()
    runner.start()
    try:
        assert runner._listener is not None
        room.listener = runner._listener
        room.post(room.written(FHIR))
        runner.take_mail()
        assert room.line().state == LetterState.TAKEN
        runner.take_mail()
    finally:
        runner.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", room.listener.port), timeout=5)
