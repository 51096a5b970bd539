"""The Direct message and its notices: what stands outside, what is read, what is refused."""

import email
import email.policy
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from phr.errors import MessageRefused, PhrError
from phr.sharing.channels import mdn, message, mime, smime
from phr.sharing.channels.mdn import Disposition, Notice
from phr.sharing.channels.message import Attachment, EnvelopeRefused, Letter
from tests.fixtures_direct import Authority, key

ANN, BEN = "ann@home.example", "ben@clinic.example"
WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BUNDLE = '{"resourceType":"Bundle","type":"collection","note":"Größe 5.40"}'.encode()
ID = message.message_id("d1", 1, "home.example")
LETTER = Letter(
    sender=ANN,
    recipient=BEN,
    message_id=ID,
    date=WHEN,
    subject="Results of Zoë",
    text="Dear doctor,\nthe results of Zoë.",
    attachments=(
        Attachment("bundle.json", "application/fhir+json; charset=utf-8", BUNDLE),
        Attachment("übersicht.html", "text/html; charset=utf-8", b"<p>5.40</p>"),
    ),
    context={"patient-id": "urn:oid:1.2.3", "type-of-data": "general"},
    asks_dispatched=True,
)


@pytest.fixture(scope="module")
def ann() -> smime.Own:
    return Authority().issue(address=ANN, number=1), key(1, 2048)


@pytest.fixture(scope="module")
def ben() -> smime.Own:
    return Authority().issue(address=BEN, number=2), key(2, 2048)


def sealed(inner: bytes, ann: smime.Own, ben: smime.Own) -> bytes:
    return message.seal(
        inner, sender=ANN, recipient=BEN, message_id=ID, date=WHEN, own=ann, recipients=[ben[0]]
    )


def opened(raw: bytes, ben: smime.Own, sender: str = ANN, *to: str) -> message.Opened:
    return message.unseal(raw, envelope_from=sender, envelope_to=to or (BEN,), keys=[ben])


def sealed_entity(entity: bytes, ann: smime.Own, ben: smime.Own) -> bytes:
    signed = smime.sign(entity, certificate=ann[0], key=ann[1], now=WHEN)
    return smime.encrypt(signed, [ben[0]])


def plain(fields: dict[str, str], body: bytes = b"Hello.\r\n") -> bytes:
    return mime.entity([("Content-Type", "text/plain"), *fields.items()], body)


FIELDS = {"From": ANN, "To": BEN, "Message-ID": "<a@home.example>"}


def test_a_letter_arrives_as_it_was_written(ann: smime.Own, ben: smime.Own) -> None:
    got = opened(sealed(message.compose(LETTER), ann, ben), ben)
    assert (got.sender, got.message_id, got.subject) == (ANN, ID, "Results of Zoë")
    assert got.asks_dispatched
    assert got.signers == (ann[0],)
    said = message.contents(got)
    assert said.text == LETTER.text.replace("\n", "\r\n")
    assert [(one.name, one.content) for one in said.attachments] == [
        ("bundle.json", BUNDLE),
        ("übersicht.html", b"<p>5.40</p>"),
    ]
    assert said.context["patient-id"] == "urn:oid:1.2.3"
    assert said.context["version"] == "1.1"


def test_nothing_of_the_patient_stands_outside_the_envelope(ann: smime.Own, ben: smime.Own) -> None:
    raw = sealed(message.compose(LETTER), ann, ben)
    head = email.message_from_bytes(raw, policy=email.policy.default)
    assert set(head.keys()) == {
        "From", "To", "Date", "Message-ID", "MIME-Version", "Subject", "Content-Type",
        "Content-Transfer-Encoding", "Content-Disposition",
    }  # fmt: skip
    assert head["Subject"] == message.SUBJECT
    assert b"Zo" not in raw.split(b"\r\n\r\n")[0]
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert raw.isascii()


def test_the_standard_library_reads_our_message_too(ann: smime.Own, ben: smime.Own) -> None:
    inner = email.message_from_bytes(message.compose(LETTER), policy=email.policy.default)
    kinds = [part.get_content_type() for part in inner.iter_parts()]
    assert kinds == ["text/plain", "application/fhir+json", "text/html", "text/plain"]
    assert [part.get_filename() for part in inner.iter_parts()][1:] == [
        "bundle.json", "übersicht.html", "metadata.txt",
    ]  # fmt: skip
    assert inner["Subject"] == "Results of Zoë"
    parts = list(inner.iter_parts())
    assert parts[3]["Content-ID"] == inner["X-Direct-Context"]


def test_the_id_of_a_part_is_the_same_at_each_attempt() -> None:
    assert message.message_id("d1", 1, "home.example") == ID
    others = {message.message_id("d1", 2, "home.example"), message.message_id("d2", 1, "h.example")}
    assert ID not in others
    assert "d1" not in ID


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "ann@home.example>\r\nBcc: eve@evil.example"},
        {"recipient": "ben@clinic.example,eve@evil.example"},
        {"message_id": "<a b@c>"},
        {"subject": "a\r\nBcc: eve@evil.example"},
        {"subject": "a\x00"},
    ],
    ids=["sender", "recipient", "id", "subject", "zero"],
)
def test_a_header_field_cannot_begin_a_line_of_its_own(change: dict[str, str]) -> None:
    fields = {name: getattr(LETTER, name) for name in LETTER.__slots__}
    with pytest.raises(ValueError, match=r"malformed|control"):
        message.compose(Letter(**{**fields, **change}))


@pytest.mark.parametrize("name", ["a\r\nX: y.pdf", 'a".pdf', "../../x", "con\u202efdp.exe", ""])
def test_a_file_name_stays_a_parameter(name: str) -> None:
    raw = mime.in_base64(
        [("Content-Type", "text/plain")],
        b"x",
        more=[("Content-Disposition", f"attachment; {mime.file_name(name)}")],
    )
    head = mime.read(raw).head
    assert set(head.keys()) == {
        "Content-Type", "Content-Transfer-Encoding", "Content-Disposition",
    }  # fmt: skip


# -------------------------------------------------------------------------- the envelope


@pytest.mark.parametrize(
    ("sender", "to"),
    [("eve@evil.example", BEN), ("", BEN), (ANN, "carl@clinic.example")],
    ids=["another sender", "no sender", "another recipient"],
)
def test_an_envelope_that_says_otherwise_is_refused(
    sender: str, to: str, ann: smime.Own, ben: smime.Own
) -> None:
    raw = sealed(message.compose(LETTER), ann, ben)
    with pytest.raises(EnvelopeRefused):
        opened(raw, ben, sender, to)


def test_capital_letters_in_the_envelope_are_the_same_address(
    ann: smime.Own, ben: smime.Own
) -> None:
    raw = sealed(message.compose(LETTER), ann, ben)
    assert opened(raw, ben, ANN.upper(), BEN.title()).sender == ANN


@pytest.mark.parametrize(
    "fields",
    [
        {**FIELDS, "From": "Ann <ann@home.example>, eve@evil.example, mal@evil.example"},
        {"To": BEN, "Message-ID": "<a@home.example>"},
        {**FIELDS, "Message-ID": "a@home.example"},
        {"From": ANN, "To": BEN},
        {**FIELDS, "To": "carl@clinic.example", "Bcc": BEN},
    ],
    ids=["three senders", "no sender", "odd id", "no id", "only blind copy"],
)
def test_odd_fields_inside_are_refused(
    fields: dict[str, str], ann: smime.Own, ben: smime.Own
) -> None:
    wrapped = mime.entity([("Content-Type", "message/rfc822")], plain(fields))
    with pytest.raises(EnvelopeRefused):
        opened(sealed_entity(wrapped, ann, ben), ben)


def test_a_field_that_stands_twice_is_refused(ann: smime.Own, ben: smime.Own) -> None:
    twice = mime.entity([*FIELDS.items(), ("From", "eve@evil.example")], b"Hello.\r\n")
    wrapped = mime.entity([("Content-Type", "message/rfc822")], twice)
    with pytest.raises(EnvelopeRefused, match="twice"):
        opened(sealed_entity(wrapped, ann, ben), ben)


def test_an_older_peer_that_does_not_wrap_is_read(ann: smime.Own, ben: smime.Own) -> None:
    outer = mime.entity(FIELDS.items(), b"")[:-2]
    got = opened(outer + sealed_entity(plain({}), ann, ben), ben)
    assert (got.sender, message.contents(got).text) == (ANN, "Hello.")


def test_what_is_only_encrypted_or_only_signed_is_refused(ann: smime.Own, ben: smime.Own) -> None:
    wrapped = mime.entity([("Content-Type", "message/rfc822")], plain(FIELDS))
    signed = smime.sign(wrapped, certificate=ann[0], key=ann[1], now=WHEN)
    for raw in (smime.encrypt(wrapped, [ben[0]]), signed, wrapped, b"", b"\r\n", b"x" * 100_000):
        with pytest.raises(MessageRefused):
            opened(raw, ben)


def test_encrypted_first_and_signed_then_is_not_direct(ann: smime.Own, ben: smime.Own) -> None:
    wrapped = mime.entity([("Content-Type", "message/rfc822")], plain(FIELDS))
    inside = smime.encrypt(wrapped, [ben[0]])
    with pytest.raises(MessageRefused):
        opened(smime.sign(inside, certificate=ann[0], key=ann[1], now=WHEN), ben)


# ------------------------------------------------------------------------ hostile contents


def multipart(pieces: list[bytes], edge: str = "edge", **fields: str) -> bytes:
    kind = [("Content-Type", f'multipart/mixed; boundary="{edge}"')]
    return mime.multipart([*fields.items(), *kind], pieces, edge)


def deep(levels: int) -> bytes:
    entity = plain({})
    for level in range(levels):
        entity = multipart([entity], f"edge{level:03d}x")
    return entity


LEAF = mime.entity([("Content-Type", "text/plain")], b"x")
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a hundred deep": lambda: deep(100),
    "ten thousand parts": lambda: multipart([LEAF] * 10_000),
    "many in many": lambda: multipart([multipart([LEAF] * 150, "inner")] * 150),
    "no boundary": lambda: mime.entity([("Content-Type", "multipart/mixed")], b"--\r\n\r\n"),
    "never closed": lambda: multipart([LEAF])[:-8],
    "broken base64": lambda: mime.entity(
        [("Content-Type", "image/png"), ("Content-Transfer-Encoding", "base64")], b"a"
    ),
    "unknown way": lambda: mime.entity([("Content-Transfer-Encoding", "uuencode")], b"a"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_of_too_much_is_refused(name: str, ann: smime.Own, ben: smime.Own) -> None:
    fields = mime.entity(FIELDS.items(), b"")[:-2]
    wrapped = mime.entity([("Content-Type", "message/rfc822")], fields + HOSTILE[name]())
    got = opened(sealed_entity(wrapped, ann, ben), ben)
    with pytest.raises(MessageRefused):
        message.contents(got)


@pytest.mark.parametrize(
    "field",
    [
        "Content-Type: text/plain; charset=no-such-set",
        "Content-Type: text/plain; charset*=x''%ff%fe",
        "Content-Type: ;;;===",
        "Content-Type: text/plain; " + "a=b; " * 5000,
        "Content-Disposition: attachment; filename*0*=utf-8''%e4; filename*1*=%f6",
        "Content-Disposition: attachment; filename==?utf-8?b?broken?=",
        "Subject: =?no-such-set?q?x?=",
        "X-Direct-Context: <" + "x" * 5000 + ">",
    ],
    ids=["charset", "charset*", "type", "parameters", "name*", "name", "subject", "context"],
)
def test_an_odd_header_field_breaks_nothing(field: str, ann: smime.Own, ben: smime.Own) -> None:
    inner = mime.entity(FIELDS.items(), b"")[:-2] + field.encode() + b"\r\n\r\nHello.\r\n"
    wrapped = mime.entity([("Content-Type", "message/rfc822")], inner)
    got = opened(sealed_entity(wrapped, ann, ben), ben)
    said = message.contents(got)
    assert "Hello." in said.text or said.attachments[0].content == b"Hello.\r\n"


def test_header_fields_without_end_are_refused(ann: smime.Own, ben: smime.Own) -> None:
    inner = b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
    wrapped = mime.entity([("Content-Type", "message/rfc822")], inner)
    with pytest.raises(PhrError):
        opened(sealed_entity(wrapped, ann, ben), ben)


def test_a_message_over_the_limit_is_not_even_decrypted(ben: smime.Own) -> None:
    with pytest.raises(MessageRefused):
        opened(b"x" * (mime.MOST + 1), ben)


# ------------------------------------------------------------------------------- notices


def notice(kind: Disposition = Disposition.PROCESSED) -> Notice:
    return Notice("<original@home.example>", ANN, kind)


def report(raw: bytes, ann: smime.Own, ben: smime.Own) -> message.Opened:
    return opened(sealed(raw, ann, ben), ben)


@pytest.mark.parametrize(
    "kind", [Disposition.PROCESSED, Disposition.DISPATCHED, Disposition.FAILED]
)
def test_a_notice_is_read_as_it_was_written(
    kind: Disposition, ann: smime.Own, ben: smime.Own
) -> None:
    raw = mdn.compose(notice(kind), recipient=BEN, message_id=ID, date=WHEN)
    assert mdn.read(report(raw, ann, ben)) == notice(kind)
    assert (mdn.FINAL_FIELD.encode() in raw) == (kind is Disposition.DISPATCHED)


def test_the_standard_library_knows_our_notice_for_one() -> None:
    raw = mdn.compose(notice(), recipient=BEN, message_id=ID, date=WHEN)
    read = email.message_from_bytes(raw, policy=email.policy.default)
    assert read.get_content_type() == "multipart/report"
    assert [part.get_content_type() for part in read.iter_parts()] == [
        "text/plain", "message/disposition-notification",
    ]  # fmt: skip


def test_a_letter_is_no_notice(ann: smime.Own, ben: smime.Own) -> None:
    got = report(message.compose(LETTER), ann, ben)
    assert not mdn.is_report(got.entity)
    assert mdn.read(got) is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"automatic-action/MDN-sent-automatically; Processed", Disposition.PROCESSED),
        (b"automatic-action/MDN-sent-automatically;processed/failure", Disposition.FAILED),
        (b"automatic-action/MDN-sent-automatically;processed/error,warning", Disposition.FAILED),
        (b"manual-action/MDN-sent-manually; displayed", Disposition.OTHER),
        (b"manual-action/MDN-sent-manually; other", Disposition.OTHER),
        (b"rubbish", Disposition.OTHER),
    ],
)
def test_dispositions_of_others_are_understood(
    said: bytes, kind: Disposition, ann: smime.Own, ben: smime.Own
) -> None:
    raw = mdn.compose(notice(), recipient=BEN, message_id=ID, date=WHEN)
    changed = raw.replace(b"automatic-action/MDN-sent-automatically;processed", said)
    found = mdn.read(report(changed, ann, ben))
    assert found is not None
    assert found.disposition is kind


def test_a_delivery_status_is_read_as_failed(ann: smime.Own, ben: smime.Own) -> None:
    status = (
        b"Reporting-MTA: dns; clinic.example\r\n\r\n"
        b"Final-Recipient: rfc822; ann@home.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    )
    pieces = [
        plain({}),
        mime.entity([("Content-Type", "message/delivery-status")], status),
        mime.entity(
            [("Content-Type", "text/rfc822-headers")], b"Message-ID: <original@home.example>\r\n"
        ),
    ]
    kind = ("Content-Type", 'multipart/report; report-type=delivery-status; boundary="e"')
    raw = mime.multipart([*FIELDS.items(), kind], pieces, "e")
    assert mdn.read(report(raw, ann, ben)) == notice(Disposition.FAILED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Original-Message-ID", b"X-None"),
        (b"Final-Recipient: rfc822;ann@home.example", b"Final-Recipient: rfc822"),
        (b"message/disposition-notification", b"text/plain"),
    ],
    ids=["no id", "no recipient", "no part"],
)
def test_a_notice_that_says_too_little_is_none_but_stays_a_report(
    old: bytes, new: bytes, ann: smime.Own, ben: smime.Own
) -> None:
    raw = mdn.compose(notice(), recipient=BEN, message_id=ID, date=WHEN)
    head, _, body = raw.partition(b"\r\n\r\n")
    changed = body.replace(b"Original-Recipient: rfc822;ann@home.example\r\n", b"")
    got = report(head + b"\r\n\r\n" + changed.replace(old, new), ann, ben)
    assert mdn.is_report(got.entity)
    assert mdn.read(got) is None
