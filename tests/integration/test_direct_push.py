"""Records on their way to a Direct address: sealed, once, in order, and stopped in time."""

import asyncio
import email
import json
import os
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email import policy as mail_policy
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import update

from phr import clock, ids, push
from phr.errors import Conflict, DeliveryFailed, DeliveryUncertain, Ended, NotFound
from phr.http import Http
from phr.net import Guard
from phr.sharing import channels, gate, orders, outbox, postbox
from phr.sharing import provision as policy
from phr.sharing.channels import message, submission
from phr.sharing.channels.base import Channel, Parcel, Receipt
from phr.sharing.channels.direct import Direct, Outfit
from phr.sharing.channels.discovery import Places
from phr.sharing.channels.folder import Folder
from phr.sharing.channels.submission import Server
from phr.sharing.grants import StepUp
from phr.store.models import Delivery, DeliveryState, Direction, MailMode, Pull
from tests.fixtures_direct import (
    Authority,
    Mailbox,
    cert_line,
    der,
    key,
    knot,
    mail_server,
    mailbox,
    named,
)
from tests.fixtures_sharing import ADA, PUBLIC_URL, Share, keep_more, lab, recent, share

__all__ = ["share"]
DOCTOR = "dr.pell@direct.clinic.test"
STOPS = int(os.environ.get("HOMEPORT_MAIL_STOPS", "30"))
OURS = "juniper@home.test"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Authority, tuple[str, int]]]:
    """Yield the clinic's root and where its name system answers."""
    root = Authority("Clinic root", number=1000)
    lines = cert_line("dr.pell.direct.clinic.test", der(root.issue(DOCTOR, number=1)))
    other = Authority("Nobody", number=1001)
    lines += cert_line("dr.ash.direct.clinic.test", der(other.issue("dr.ash@direct.clinic.test")))
    with knot(tmp_path_factory.mktemp("names") / "knot", "clinic.test", lines) as server:
        yield root, server


@dataclass
class Sender:
    """A patient's vault with a postbox, and a mail server it hands over to."""

    share: Share
    root: Authority
    names: tuple[str, int]
    box: Mailbox
    port: int = 0
    grants: list[str] = field(default_factory=list)
    theirs: x509.Certificate | None = None

    def ways(self, **more: Any) -> Mapping[str, Channel]:
        guard = Guard([f"127.0.0.1:{self.port or self.box.port}"])
        with self.share.vault.read() as session:
            outfit = Outfit(
                address=OURS,
                sealed=True,
                own=postbox.current(session),
                chain=postbox.chain(session),
                anchors=postbox.anchors(session, Direction.OUT),
                places=Places(guard, lambda _: b"", [self.names]),
                server=Server("127.0.0.1", self.port or self.box.port, encrypt=False),
            )
        return {"direct": Direct(replace(outfit, **more))}

    def start(self, address: str = DOCTOR, *, standing: bool = False, **more: Any) -> str:
        now = clock.now()
        grant_id = push.start(
            self.share.vault,
            self.share.wish(ends_at=now + timedelta(days=30), **more),
            channel=self.ways()["direct"],
            address=address,
            standing=standing,
            grant_id=ids.new_id(),
            step_up=StepUp("ada", "password", now),
            shown="x",
            actor=ADA,
            now=now,
        )
        self.grants.append(grant_id)
        return grant_id

    def run(self, ways: Mapping[str, Channel] | None = None, **more: Any) -> int:
        given = {"channels": ways or self.ways(), "public_url": PUBLIC_URL, "now": clock.now()}
        return push.run_due(self.share.vault, **{**given, **more})

    def arrives(self, resources: list[dict[str, Any]]) -> None:
        """Let the first hospital send something in a pull that comes to its end."""
        keep_more(self.share.vault, 1, resources)
        with self.share.vault.write() as session:
            session.execute(update(Pull).values(ended_at=clock.now()))

    def deliveries(self) -> list[Delivery]:
        with self.share.vault.read() as session:
            found = [each for one in self.grants for each in outbox.of_grant(session, one)]
        return sorted(found, key=lambda each: (each.created_at, each.part))

    def opened(self, number: int = -1) -> tuple[message.Opened, message.Contents]:
        envelope = self.box.got[number]
        opened = message.unseal(
            envelope.content,
            envelope_from=envelope.mail_from,
            envelope_to=envelope.rcpt_tos,
            keys=[(self.theirs, key(1))],
        )
        return opened, message.contents(opened)

    def sent_ids(self, number: int = -1) -> set[str]:
        """Return the local ids of the clinical records of one message."""
        bundle = json.loads(self.opened(number)[1].attachments[0].content)
        beside = {"Patient", "Consent", "OperationOutcome", "Provenance"}
        beside |= {"Practitioner", "Medication"}
        resources = [each["resource"] for each in bundle["entry"]]
        return {each["id"] for each in resources if each["resourceType"] not in beside}


@pytest.fixture
def sender(share: Share, names: tuple[Authority, tuple[str, int]]) -> Iterator[Sender]:
    root, server = names
    with share.vault.write() as session:
        wanted = postbox.Wanted(OURS, MailMode.STA, "mail.home.test", 25)
        postbox.set_up(session, share.vault, wanted, ADA, now=clock.now())
        pem = root.certificate.public_bytes(Encoding.PEM)
        postbox.add_anchor(session, share.vault, pem, Direction.OUT, ADA, now=clock.now())
    with mailbox(Mailbox()) as box:
        made = Sender(share, root, server, box)
        found = made.ways()["direct"]
        assert isinstance(found, Direct)
        made.theirs = found._certificates(DOCTOR, clock.now())[0]
        yield made


# ---------------------------------------------------------------------------------------- the way


def test_a_record_reaches_the_doctor_sealed_through_a_mail_server(
    sender: Sender, tmp_path: Path
) -> None:
    with mail_server(tmp_path / "mta", sender.box.port) as port:
        sender.port = port
        sender.start()
        assert sender.run() == 1
        envelope = sender.box.wait()[0]
    assert envelope.mail_from == OURS
    assert envelope.rcpt_tos == [DOCTOR]
    for told in (b"Juniper", b"Sample", b"Asthma", b"Homeport"):
        assert told not in envelope.content
    opened, contents = sender.opened()
    assert opened.sender == OURS
    with sender.share.vault.read() as session:
        own = postbox.current(session)
    assert own is not None
    assert opened.signers == (own.certificate,)
    record, page = contents.attachments
    assert (record.name, record.media_type) == ("record.json", "application/fhir+json")
    bundle = json.loads(record.content)
    assert bundle["type"] == "collection"
    assert b'"value": 5.40' in record.content  # as received
    assert b"Juniper Sample" in page.content
    assert b"Hidden" not in record.content + page.content
    assert "Juniper" not in contents.text + opened.subject
    done = sender.deliveries()[0]
    assert done.state == DeliveryState.SENT
    assert done.message_id == opened.message_id
    assert done.receipt is not None
    assert done.receipt["bytes"] > 1000


def test_what_the_recipients_server_answers_is_kept_with_the_delivery(sender: Sender) -> None:
    sender.start()
    sender.run()
    vault, sent = sender.share.vault, sender.deliveries()[0]
    assert sent.message_id is not None

    def settle(recipient: str, disposition: str, message_id: str = "") -> bool:
        with vault.write() as session:
            return postbox.settle(
                session,
                vault,
                message_id=message_id or str(sent.message_id),
                recipient=recipient,
                disposition=disposition,
                now=clock.now(),
            )

    assert not settle("mallory@direct.clinic.test", "processed")  # correlated by recipient, too
    assert not settle(DOCTOR, "processed", "<other@home.test>")
    assert sender.deliveries()[0].answer is None
    assert settle(DOCTOR.upper(), "processed")
    assert sender.deliveries()[0].answer == "processed"
    assert settle(DOCTOR, "dispatched")
    assert settle(DOCTOR, "processed")  # comes late
    assert sender.deliveries()[0].answer == "dispatched"
    with vault.read() as session:
        assert orders.gone(session, sender.grants[0]) == orders.Gone(0, 0)


def test_nothing_is_sent_without_a_certificate_to_trust(sender: Sender) -> None:
    for address, words in (
        ("dr.ash@direct.clinic.test", "Nobody you trust"),
        ("dr.nobody@direct.clinic.test", "No certificate is published"),
    ):
        sender.start(address)
        sender.run()
        last = sender.deliveries()[-1]
        assert last.state == DeliveryState.FAILED
        assert words in str(last.sentence)
    assert sender.box.got == []


def test_a_silent_name_system_is_asked_again_later(sender: Sender) -> None:
    places = Places(Guard(), lambda _: b"", [("127.0.0.1", 9)], seconds=0.2)
    sender.start()
    sender.run(sender.ways(places=places))
    waiting = sender.deliveries()[0]
    assert waiting.state == DeliveryState.QUEUED
    assert "name system" in str(waiting.sentence)


def test_without_an_own_certificate_nothing_leaves_unsealed(sender: Sender) -> None:
    sender.start()
    sender.run(sender.ways(own=None))
    assert sender.deliveries()[0].state == DeliveryState.QUEUED
    assert sender.box.got == []


# ------------------------------------------------------------------------------------- the order


def test_a_standing_order_sends_what_is_new_and_nothing_twice(sender: Sender) -> None:
    sender.start(standing=True)
    assert sender.run() == 1
    first = sender.sent_ids()
    assert len(first) > 4
    assert sender.run() == 0
    sender.arrives([lab("o9", recent(1), value="6.10")])
    assert sender.run() == 1
    second = sender.sent_ids()
    assert len(second) == 1
    assert not first & second
    sender.arrives([lab("o9", recent(1), value="6.20")])
    assert sender.run() == 1  # a new version of it
    assert sender.sent_ids() == second
    assert b"6.20" in sender.opened()[1].attachments[0].content
    assert len(sender.box.got) == 3


def test_an_order_for_now_is_over_when_it_is_out(sender: Sender) -> None:
    sender.start()
    sender.run()
    sender.arrives([lab("o9", recent(1))])
    assert sender.run() == 0


def test_a_large_record_goes_in_several_messages_in_order_of_time(sender: Sender) -> None:
    sender.start(standing=True)
    planned = push.plan_due(sender.share.vault, budget=700, now=clock.now())
    assert planned > 2
    assert sender.run() == planned
    carried = [sender.sent_ids(number) for number in range(planned)]
    assert sum(map(len, carried)) == len(set().union(*carried))
    assert [each.part for each in sender.deliveries()] == list(range(1, planned + 1))
    assert f"message 2 of {planned}" in sender.opened(1)[1].text
    vault = sender.share.vault
    times: list[str] = []
    for number in range(planned):
        bundle = json.loads(sender.opened(number)[1].attachments[0].content)
        times += sorted(
            each["resource"]["effectiveDateTime"]
            for each in bundle["entry"]
            if "effectiveDateTime" in each["resource"]
        )
    assert times == sorted(times)
    with vault.read() as session:
        assert orders.due(session) == []


def test_a_message_holds_no_more_records_than_a_recipient_takes(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "MOST_RECORDS", 2)
    sender.start()
    planned = push.plan_due(sender.share.vault, budget=push.BUDGET, now=clock.now())
    assert sender.run() == planned > 1
    carried = [sender.sent_ids(number) for number in range(planned)]
    assert max(map(len, carried)) == 2
    assert sum(map(len, carried)) == len(set().union(*carried))


def test_one_address_has_one_order(sender: Sender) -> None:
    sender.start()
    with pytest.raises(Conflict):
        sender.start(DOCTOR.title(), standing=True)


def test_what_was_never_taken_goes_with_a_later_message(sender: Sender) -> None:
    sender.box.refuse = "550 no such mailbox"
    sender.start(standing=True)
    sender.run()
    failed = sender.deliveries()[0]
    assert failed.state == DeliveryState.FAILED
    assert "550 no such mailbox" in str(failed.sentence)
    sender.box.refuse = ""
    sender.arrives([lab("o9", recent(1))])
    sender.run()
    assert len(sender.sent_ids()) > 5


def test_a_narrowed_grant_sends_no_more_than_it_covers_now(sender: Sender) -> None:
    grant_id = sender.start()
    push.plan_due(sender.share.vault, budget=push.BUDGET, now=clock.now())
    whole = policy.preset("primary", now=clock.now())
    allergies = [each for each in whole.rules if "AllergyIntolerance" in each.types]
    small = replace(whole, rules=(replace(allergies[0], types=("AllergyIntolerance",)),))
    gate.narrow(sender.share.vault, grant_id, small, ADA)
    sender.run()
    content = sender.opened()[1].attachments[0].content
    assert b"Penicillin" in content
    assert b"Asthma" not in content


# ------------------------------------------------------------------------------------ the trouble


def test_a_temporary_refusal_is_put_off(sender: Sender) -> None:
    sender.box.answer = "451 try later"
    sender.start()
    sender.run()
    waiting = sender.deliveries()[0]
    assert waiting.state == DeliveryState.QUEUED
    assert "451 try later" in str(waiting.sentence)
    sender.box.answer = "250 kept"
    assert sender.run(now=clock.now() + timedelta(minutes=2)) == 1
    assert sender.deliveries()[0].state == DeliveryState.SENT
    assert len(sender.box.got) == 1


def test_a_connection_that_breaks_after_the_final_dot_is_uncertain_and_not_repeated(
    sender: Sender,
) -> None:
    sender.box.answer = "break"
    sender.start(standing=True)
    sender.run()
    left = sender.deliveries()[0]
    assert left.state == DeliveryState.UNCERTAIN
    assert "may have been sent" in str(left.sentence)
    sender.box.answer = "250 kept"
    assert sender.run(now=clock.now() + timedelta(days=1)) == 0
    with sender.share.vault.write() as session:
        assert postbox.settle(
            session,
            sender.share.vault,
            message_id=str(left.message_id),
            recipient=DOCTOR,
            disposition="processed",
            now=clock.now(),
        )
    assert sender.deliveries()[0].state == DeliveryState.SENT  # it had arrived


def test_a_crash_at_the_last_step_is_uncertain_after_the_next_start(sender: Sender) -> None:
    sender.start(standing=True)
    push.plan_due(sender.share.vault, budget=push.BUDGET, now=clock.now())
    vault = sender.share.vault
    with vault.write() as session:
        outbox.claim(session, sender.deliveries()[0].id, now=clock.now())  # and here it died
    with vault.write() as session:
        outbox.recover(session, vault, channels.opened(Path("unused")), now=clock.now())
    assert sender.deliveries()[0].state == DeliveryState.UNCERTAIN
    assert sender.run() == 0
    assert sender.box.got == []


# ---------------------------------------------------------------------------------------- stopped


def test_a_stopped_order_sends_nothing_more_and_says_what_cannot_be_called_back(
    sender: Sender,
) -> None:
    grant_id = sender.start(standing=True)
    push.plan_due(sender.share.vault, budget=700, now=clock.now())
    first = sender.deliveries()[0]
    push.deliver(
        sender.share.vault, first.id, channels=sender.ways(), public_url=PUBLIC_URL, now=clock.now()
    )
    halted = push.halt(sender.share.vault, grant_id, ADA, now=clock.now())
    assert halted == push.Halted(unconfirmed=1, uncertain=False)
    assert sender.run(now=clock.now() + timedelta(days=1)) == 0
    assert len(sender.box.got) == 1
    states = [each.state for each in sender.deliveries()]
    assert states == ["sent", *["stopped"] * (len(states) - 1)]
    with pytest.raises(NotFound):
        push.halt(sender.share.vault, grant_id, ADA, now=clock.now())


def test_stopping_cuts_a_message_before_its_final_dot(sender: Sender) -> None:
    grant_id = sender.start()

    class Slow(Direct):
        def send(self, parcel: Parcel, address: str) -> Receipt:
            push.halt(sender.share.vault, grant_id, ADA, now=clock.now())  # while it is under way
            return super().send(parcel, address)

    found = sender.ways()["direct"]
    assert isinstance(found, Direct)
    sender.run({"direct": Slow(found.outfit)})
    assert sender.deliveries()[0].state == DeliveryState.STOPPED
    assert sender.box.got == []


@dataclass
class Silent(Mailbox):
    """A mailbox that has the final dot and does not answer before it is told to."""

    at_last: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.at_last.set()
        await asyncio.to_thread(self.over.wait, 30)
        return await super().handle_DATA(server, session, envelope)


@contextmanager
def one_at_its_last_step(sender: Sender) -> Iterator[tuple[str, Silent]]:
    """Yield the grant of a message whose final dot is out, and the server that says nothing."""
    with mailbox(Silent()) as box:
        assert isinstance(box, Silent)
        sender.port = box.port
        grant_id = sender.start()
        run = threading.Thread(target=sender.run)
        run.start()
        assert box.at_last.wait(30)
        try:
            yield grant_id, box
        finally:
            box.over.set()
            run.join(30)


def test_ending_a_grant_waits_for_a_message_at_its_final_dot(sender: Sender) -> None:
    with one_at_its_last_step(sender) as (grant_id, box):
        end = threading.Thread(
            target=gate.end,
            args=(sender.share.vault, grant_id, "patient", ADA),
            kwargs={"now": clock.now()},
        )
        end.start()
        end.join(0.2)
        assert end.is_alive()
        box.over.set()
        end.join(30)
        assert not end.is_alive()
        assert len(box.got) == 1
    assert sender.deliveries()[0].state == DeliveryState.SENT


@pytest.mark.parametrize("way", ["stop", "end", "suspend"])
def test_a_message_without_an_answer_is_broken_off_and_uncertain(
    sender: Sender, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, now = sender.share.vault, clock.now()
    monkeypatch.setattr(orders.at_rest, "__defaults__", (0.05,))
    with one_at_its_last_step(sender) as (grant_id, _):
        if way == "stop":
            assert push.halt(vault, grant_id, ADA, now=now).uncertain
        elif way == "end":
            assert gate.end(vault, grant_id, "patient", ADA, now=now)
        else:
            gate.suspend(vault, grant_id, ADA)
    assert sender.deliveries()[0].state == DeliveryState.UNCERTAIN
    with vault.read() as session:
        assert orders.gone(session, grant_id) == orders.Gone(handed_over=0, uncertain=1)


def test_a_grant_that_was_narrowed_at_the_last_moment_sends_nothing_of_before(
    sender: Sender,
) -> None:
    grant_id = sender.start()

    class Slow(Direct):
        def send(self, parcel: Parcel, address: str) -> Receipt:
            packed = replace(
                parcel, parts=[replace(one, chunks=list(one.chunks)) for one in parcel.parts]
            )
            less = replace(
                sender.share.wish().provision, actions=frozenset({policy.Action.DOWNLOAD})
            )
            gate.narrow(sender.share.vault, grant_id, less, ADA)
            return super().send(packed, address)

    found = sender.ways()["direct"]
    assert isinstance(found, Direct)
    sender.run({"direct": Slow(found.outfit)})
    assert sender.box.got == []
    assert sender.deliveries()[0].state == DeliveryState.QUEUED
    assert sender.deliveries()[0].sentence == push.NARROWED


class Stepwise(Folder):
    """Tells when it is before or at its last step, and notes what left after `returned`."""

    def __init__(self, outbox_folder: Path, *, at_last: bool) -> None:
        super().__init__(outbox_folder)
        self.at_last = at_last
        self.ready, self.returned = threading.Event(), threading.Event()
        self.out: list[str] = []
        self.late: list[str] = []

    def send(self, parcel: Parcel, address: str) -> Receipt:
        if not self.at_last:
            self.ready.set()
        with parcel.point(bool):
            self.ready.set()
            (self.late if self.returned.is_set() else self.out).append(address)
        return Receipt({})


@pytest.mark.slow
def test_after_stop_returned_nothing_leaves_whenever_it_came(share: Share, tmp_path: Path) -> None:
    """The stop falls anywhere into the sending: what is out was out before it returned.

    Half of them stop the order, half end the grant. HOMEPORT_MAIL_STOPS says how many (30).
    """
    for number in range(STOPS):
        channel = Stepwise(tmp_path / "outbox", at_last=bool(number % 2))
        now = clock.now()
        grant_id = push.start(
            share.vault,
            share.wish(),
            channel=channel,
            address=f"box {number}",
            standing=False,
            grant_id=ids.new_id(),
            step_up=StepUp("ada", "password", now),
            shown="x",
            actor=ADA,
            now=now,
        )
        given = {"channels": {"folder": channel}, "public_url": PUBLIC_URL, "now": now}
        run = threading.Thread(target=push.run_due, args=(share.vault,), kwargs=given)
        run.start()
        assert channel.ready.wait(30)
        if number % 4 < 2:
            push.halt(share.vault, grant_id, ADA, now=now)
        else:
            gate.end(share.vault, grant_id, "patient", ADA, now=now)
        channel.returned.set()
        run.join(30)
        assert channel.late == []
        with share.vault.read() as session:
            state = outbox.of_grant(session, grant_id)[0].state
        assert state == (DeliveryState.SENT if channel.out else DeliveryState.STOPPED)


def test_a_paused_or_ended_grant_is_not_planned(sender: Sender) -> None:
    grant_id = sender.start(standing=True)
    gate.suspend(sender.share.vault, grant_id, ADA)
    assert sender.run() == 0
    gate.end(sender.share.vault, grant_id, "patient", ADA, now=clock.now())
    assert sender.run() == 0
    assert sender.box.got == []


def test_the_point_of_no_return_refuses_an_ended_grant(sender: Sender) -> None:
    grant_id = sender.start()
    with orders.point(sender.share.vault, grant_id):
        pass
    gate.end(sender.share.vault, grant_id, "patient", ADA, now=clock.now())
    with pytest.raises(Ended), orders.point(sender.share.vault, grant_id):
        pass


# ------------------------------------------------------------------------------------ handing over

PLAIN = b"From: <a@x.test>\r\nTo: <b@y.test>\r\nSubject: x\r\n\r\n.dot\r\nend\r\n"


def give(box: Mailbox, raw: bytes = PLAIN, **more: Any) -> str:
    server = more.pop("server", Server("127.0.0.1", box.port, encrypt=False))
    guard = Guard([f"{server.host}:{server.port}"])
    given = {"sender": "a@x.test", "recipient": "b@y.test", "server": server, "guard": guard}
    return submission.hand_over(raw, **{**given, **more})


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a mail server called localhost and of who trusts its issuer."""
    root = Authority("Mail root", number=1007)
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named("localhost"))
        .issuer_name(named(root.name))
        .public_key(key(9).public_key())
        .serial_number(9)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()),
            critical=False,
        )
        .sign(root.key, hashes.SHA256())
    )
    import tempfile

    secret = key(9).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.public_bytes(Encoding.PEM) + secret)
        file.flush()
        theirs.load_cert_chain(file.name)
    ours = ssl.create_default_context(cadata=root.certificate.public_bytes(Encoding.PEM).decode())
    return theirs, ours


def test_a_message_arrives_byte_for_byte(sender: Sender) -> None:
    assert give(sender.box) == "kept"
    assert sender.box.got[0].content == PLAIN


@pytest.mark.parametrize(
    "raw",
    [
        PLAIN.replace(b"end\r\n", b"end\n"),
        PLAIN.replace(b"end", b"a\rb"),
        PLAIN + b"x\n.\r\nMAIL FROM:<evil@x.test>\r\n",
        PLAIN[:-2],
        PLAIN + b"y" * 999 + b"\r\n",
        PLAIN + b"\0\r\n",
    ],
    ids=["lone LF", "lone CR", "smuggled", "no end", "long line", "NUL"],
)
def test_line_ends_that_two_servers_read_differently_are_not_sent(
    sender: Sender, raw: bytes
) -> None:
    with pytest.raises(DeliveryFailed) as failed:
        give(sender.box, raw)
    assert failed.value.permanent
    assert sender.box.got == []


def test_a_provider_is_never_reached_without_encryption(sender: Sender) -> None:
    wanting = Server("127.0.0.1", sender.box.port, "me", "secret")
    with pytest.raises(DeliveryFailed, match="no encryption"):
        give(sender.box, server=wanting)
    assert sender.box.got == []


def test_a_provider_takes_mail_with_a_name_and_password_over_tls(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    theirs, ours = tls
    with mailbox(Mailbox(login=("me", "right")), theirs) as box:
        at = {"host": "localhost", "port": box.port}
        assert give(box, server=Server(**at, login="me", password="right"), tls=ours) == "kept"
        with pytest.raises(DeliveryFailed, match="name and password"):
            give(box, server=Server(**at, login="me", password="wrong"), tls=ours)
        with pytest.raises(DeliveryFailed, match="could not be reached"):  # unknown issuer
            give(box, server=Server(**at, login="me", password="right"))
        elsewhere = Server("127.0.0.1", box.port, "me", "right")
        with pytest.raises(DeliveryFailed, match="could not be reached"):  # another name
            give(box, server=elsewhere, tls=ours)
        assert len(box.got) == 1


def test_a_server_that_is_down_private_or_breaks_off_is_told_apart(sender: Sender) -> None:
    with pytest.raises(DeliveryFailed, match="could not be reached"):
        give(sender.box, server=Server("127.0.0.1", 9, encrypt=False))
    with pytest.raises(DeliveryFailed, match="private network"):
        give(sender.box, guard=Guard())
    sender.box.answer = "break"
    with pytest.raises(DeliveryUncertain):
        give(sender.box)


def test_an_end_at_the_last_step_leaves_nothing_at_the_server(sender: Sender) -> None:
    @contextmanager
    def over(_cut: Any) -> Iterator[None]:
        raise Ended
        yield

    with pytest.raises(Ended):
        give(sender.box, point=over)
    assert give(sender.box) == "kept"
    assert len(sender.box.got) == 1


def test_through_a_provider_the_message_goes_unsealed_and_needs_no_certificate(
    sender: Sender, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    theirs, ours = tls
    with mailbox(Mailbox(login=("me", "right")), theirs) as box:
        server = Server("localhost", box.port, "me", "right")
        places = Places(Guard([f"localhost:{box.port}"]), lambda _: b"")
        more = {"server": server, "tls": ours, "places": places, "anchors": (), "own": None}
        ways = sender.ways(sealed=False, **more)
        sender.start("anybody@hisp.test")
        sender.run(ways)
        assert sender.deliveries()[0].state == DeliveryState.SENT, sender.deliveries()[0].sentence
        seen = email.message_from_bytes(box.got[0].content, policy=mail_policy.default)
    names = [each.get_filename() for each in seen.iter_attachments()]
    assert names[:2] == ["record.json", "record.html"]
    assert "Juniper" not in str(seen["Subject"])


def test_the_appliance_makes_its_channel_from_what_the_vault_keeps(sender: Sender) -> None:
    http = Http(Guard())
    try:
        made = push.post(sender.share.vault, http=http)["direct"]
        assert isinstance(made, Direct)
        assert made.outfit.sealed
        assert made.outfit.address == OURS
        assert made.outfit.server.host == "mail.home.test"
        assert made.outfit.anchors == [sender.root.certificate]
        assert push.refresh_bundles(sender.share.vault, http=http, now=clock.now()) == 0
    finally:
        http.close()


def test_without_a_postbox_there_is_no_channel(share: Share) -> None:
    http = Http(Guard())
    try:
        assert push.post(share.vault, http=http) == {}
        assert push.refresh_bundles(share.vault, http=http, now=clock.now()) == 0
    finally:
        http.close()
