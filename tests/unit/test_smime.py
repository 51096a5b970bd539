"""S/MIME by ourselves: what is refused, that it all looks the same, and that nothing is let in."""

import base64
import hashlib
import tracemalloc
from collections.abc import Callable

import pytest
from asn1crypto import cms
from asn1crypto import x509 as foreign
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phr import clock
from phr.errors import MessageRefused
from phr.sharing.channels import mime, smime
from phr.sharing.channels.smime import Cipher, Transport
from tests.fixtures_direct import Authority, key, with_exponent_one

ENTITY = b"Content-Type: text/plain\r\n\r\nNo known allergies.\r\n"
OTHER = b"Content-Type: text/plain\r\n\r\nAllergic to penicillin.\r\n"


@pytest.fixture(scope="module")
def ann() -> smime.Own:
    return Authority().issue(address="ann@direct.example", number=1), key(1, 2048)


@pytest.fixture(scope="module")
def ben() -> smime.Own:
    return Authority().issue(address="ben@direct.example", number=2), key(2, 2048)


def signed(own: smime.Own, entity: bytes = ENTITY) -> bytes:
    return smime.sign(entity, certificate=own[0], key=own[1], now=clock.now())


def refused(step: Callable[[], object]) -> str:
    with pytest.raises(MessageRefused) as caught:
        step()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return str(caught.value)


def der_of(entity: bytes) -> bytes:
    return mime.decoded(mime.read(entity))


def as_mail(der: bytes, kind: str = "enveloped-data") -> bytes:
    return mime.in_base64([("Content-Type", f"application/pkcs7-mime; smime-type={kind}")], der)


@pytest.mark.parametrize("cipher", list(Cipher))
@pytest.mark.parametrize("transport", list(Transport))
def test_what_is_sealed_comes_out_byte_for_byte(
    cipher: Cipher, transport: Transport, ann: smime.Own, ben: smime.Own
) -> None:
    to = [ann[0], ben[0]]
    sealed = smime.encrypt(signed(ann), to, cipher=cipher, transport=transport)
    assert b"allergies" not in sealed
    for own in (ann, ben):
        found = smime.verify(smime.decrypt(sealed, [own]))
        assert found.content == ENTITY
        assert found.signers == (ann[0],)


def test_every_failure_of_opening_looks_the_same(ann: smime.Own, ben: smime.Own) -> None:
    der = der_of(smime.encrypt(ENTITY, [ann[0]], transport=Transport.PKCS1))
    content = bytes(cms.ContentInfo.load(der)["content"]["encrypted_content_info"]
                    ["encrypted_content"].native)  # fmt: skip
    wrapped = cms.ContentInfo.load(der)["content"]["recipient_infos"][0].chosen
    key_bytes = bytes(wrapped["encrypted_key"].native)
    at_key, at_content = der.index(key_bytes), der.index(content)
    flips = [at_key + 20, at_content, at_content + len(content) - 1, at_content + 16]
    said = {
        refused(lambda: smime.decrypt(as_mail(der), [ben])),
        refused(lambda: smime.decrypt(as_mail(der), [])),
        refused(lambda: smime.decrypt(as_mail(der[:-3]), [ann])),
        refused(lambda: smime.decrypt(as_mail(der + b"\0"), [ann])),
        refused(lambda: smime.decrypt(ENTITY, [ann])),
        refused(lambda: smime.verify(ENTITY)),
        *(
            refused(
                lambda at=at: smime.verify(
                    smime.decrypt(as_mail(der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :]), [ann])
                )
            )
            for at in flips
        ),
    }
    assert len(said) == 1


def test_any_flipped_bit_of_a_gcm_message_is_noticed(ann: smime.Own) -> None:
    der = der_of(smime.encrypt(ENTITY, [ann[0]], cipher=Cipher.AES256_GCM))
    for at in range(len(der) - 90, len(der)):
        changed = der[:at] + bytes([der[at] ^ 4]) + der[at + 1 :]
        refused(lambda c=changed: smime.decrypt(as_mail(c), [ann]))


@pytest.mark.parametrize("bits", [1024, 1536])
def test_a_short_key_neither_signs_nor_receives(bits: int) -> None:
    weak = Authority().issue(address="old@direct.example", number=7, bits=bits)
    with pytest.raises(ValueError, match="2048"):
        smime.encrypt(ENTITY, [weak])
    refused(lambda: smime.verify(signed((weak, key(7, bits)))))


@pytest.mark.parametrize("transport", list(Transport))
def test_no_key_is_carried_by_an_exponent_of_one(transport: Transport, ann: smime.Own) -> None:
    open_to_all = x509.load_der_x509_certificate(with_exponent_one(ann[0]))
    with pytest.raises(ValueError, match="e must be"):
        smime.encrypt(ENTITY, [open_to_all], transport=transport)


def test_a_signature_under_an_exponent_of_one_is_refused(ann: smime.Own) -> None:
    whole = mime.read(signed(ann))
    boundary = whole.head.get_boundary("")
    kind = [("Content-Type", f'multipart/signed; boundary="{boundary}"')]
    sent = cms.ContentInfo.load(der_of(mime.parts(whole)[1]))

    def again() -> bytes:
        fields = [("Content-Type", "application/pkcs7-signature")]
        beside = mime.in_base64(fields, sent.dump(force=True))
        return mime.multipart(kind, [mime.parts(whole)[0], beside], boundary)

    assert smime.verify(again()).content == ENTITY
    info = sent["content"]["signer_infos"][0]
    digest = hashlib.sha256(info["signed_attrs"].untag().dump()).digest()
    named = bytes.fromhex("3031300d060960864801650304020105000420") + digest
    # what anybody can write: with e=1 the padded digest is its own signature (RFC 8017 §9.2)
    info["signature"] = b"\0\1" + b"\xff" * (256 - 3 - len(named)) + b"\0" + named
    open_to_all = foreign.Certificate.load(with_exponent_one(ann[0]))
    sent["content"]["certificates"] = [cms.CertificateChoices("certificate", open_to_all)]
    refused(lambda: smime.verify(again()))


def test_a_message_for_nobody_is_not_made() -> None:
    with pytest.raises(ValueError, match="nobody"):
        smime.encrypt(ENTITY, [])


@pytest.mark.parametrize("entity", [b"a\nb\n", "Content: ä\r\n".encode(), b"a\0\r\n"])
def test_what_a_relay_would_change_is_not_signed(entity: bytes, ann: smime.Own) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        signed(ann, entity)


def test_what_was_changed_after_signing_is_refused(ann: smime.Own) -> None:
    refused(lambda: smime.verify(signed(ann).replace(b"No known", b"No other")))


def test_a_third_part_beside_the_signature_is_refused(ann: smime.Own) -> None:
    whole = mime.read(signed(ann))
    boundary = whole.head.get_boundary()
    kind = [("Content-Type", f'multipart/signed; boundary="{boundary}"')]
    refused(lambda: smime.verify(mime.multipart(kind, [*mime.parts(whole), OTHER], boundary)))
    refused(lambda: smime.verify(mime.multipart(kind, [OTHER, *mime.parts(whole)], boundary)))


def test_words_around_the_signed_part_never_come_out(ann: smime.Own) -> None:
    whole = signed(ann)
    edge = b"--" + mime.read(whole).head.get_boundary("").encode()
    around = whole.replace(edge, b"Take double the dose.\r\n" + edge, 1) + b"\r\nAnd again."
    assert smime.verify(around).content == ENTITY


def test_a_signed_message_within_an_unsigned_one_is_not_signed(ann: smime.Own) -> None:
    kind = [("Content-Type", 'multipart/mixed; boundary="edge"')]
    refused(lambda: smime.verify(mime.multipart(kind, [OTHER, signed(ann)], "edge")))


def test_a_signature_of_another_message_does_not_serve(ann: smime.Own) -> None:
    whole, other = mime.read(signed(ann)), mime.read(signed(ann, OTHER))
    boundary = whole.head.get_boundary()
    kind = [("Content-Type", f'multipart/signed; boundary="{boundary}"')]
    mixed = [mime.parts(whole)[0], mime.parts(other)[1]]
    refused(lambda: smime.verify(mime.multipart(kind, mixed, boundary)))


def test_signed_attributes_cannot_be_passed_off_as_content(ann: smime.Own) -> None:
    data = cms.ContentInfo.load(der_of(mime.parts(mime.read(signed(ann)))[1]))
    info = data["content"]["signer_infos"][0]
    covered = info["signed_attrs"].untag().dump()
    del info["signed_attrs"]
    data["content"]["encap_content_info"]["content"] = covered
    refused(lambda: smime.verify(as_mail(data.dump(force=True), "signed-data")))


def test_a_content_that_is_there_twice_is_refused(ann: smime.Own) -> None:
    whole = mime.read(signed(ann))
    data = cms.ContentInfo.load(der_of(mime.parts(whole)[1]))
    data["content"]["encap_content_info"]["content"] = OTHER
    boundary = whole.head.get_boundary()
    kind = [("Content-Type", f'multipart/signed; boundary="{boundary}"')]
    piece = mime.in_base64([("Content-Type", "application/pkcs7-signature")], data.dump(force=True))
    refused(lambda: smime.verify(mime.multipart(kind, [mime.parts(whole)[0], piece], boundary)))


def test_a_signature_without_its_certificate_is_refused(ann: smime.Own, ben: smime.Own) -> None:
    data = cms.ContentInfo.load(der_of(mime.parts(mime.read(signed(ann)))[1]))
    data["content"]["encap_content_info"]["content"] = ENTITY
    foreign = smime._foreign(ben[0])
    data["content"]["certificates"] = [cms.CertificateChoices("certificate", foreign)]
    refused(lambda: smime.verify(as_mail(data.dump(force=True), "signed-data")))


def test_bare_line_ends_on_the_way_do_not_break_a_signature(ann: smime.Own) -> None:
    assert smime.verify(signed(ann).replace(b"\r\n", b"\n")).content == ENTITY


# ------------------------------------------------------------------------------- hostile bytes


def nested(depth: int) -> bytes:
    return b"\x30\x80" * depth + b"\0\0" * depth


HOSTILE = {
    "empty": b"",
    "one byte": b"\x30",
    "cut length": b"\x30\x84\xff",
    "longer than itself": b"\x30\x82\xff\xff\x02\x01\x01",
    "huge length": b"\x30\x88" + b"\xff" * 8,
    "endless tag": b"\x3f" + b"\xff" * 1000,
    "indefinite, never ended": b"\x30\x80" * 5000,
    "deep": nested(20_000),
    "many": b"\x30\x80" + b"\x04\x00" * 400_000 + b"\0\0",
    "pieces of one byte": b"\x24\x80" + b"\x04\x01x" * 200_000 + b"\0\0",
    "zeros": b"\0" * 1_000_000,
    "a text": b"not ASN.1 at all" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_asn1_is_refused_with_little_memory(name: str, ann: smime.Own) -> None:
    tracemalloc.start()
    try:
        refused(lambda: smime.decrypt(as_mail(HOSTILE[name]), [ann]))
        refused(lambda: smime.verify(as_mail(HOSTILE[name], "signed-data")))
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [b"%%%%", b"=", b"\xff\xfe", base64.b64encode(b"\x30\x03\x02\x01")],
    ids=["no base64", "padding only", "not ASCII", "cut off"],
)
def test_a_broken_body_is_refused(body: bytes, ann: smime.Own) -> None:
    fields = [
        ("Content-Type", "application/pkcs7-mime; smime-type=enveloped-data"),
        ("Content-Transfer-Encoding", "base64"),
    ]
    refused(lambda: smime.decrypt(mime.entity(fields, body), [ann]))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_change_to_a_message_leads_to_another_error_or_content(
    data: st.DataObject, ann: smime.Own
) -> None:
    whole = bytearray(smime.encrypt(signed(ann), [ann[0]]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = smime.verify(smime.decrypt(bytes(whole), [ann]))
    except MessageRefused:
        return
    assert found.content == ENTITY


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=400))
def test_no_bytes_lead_to_another_error(ann: smime.Own, content: bytes) -> None:
    for step in (lambda: smime.decrypt(content, [ann]), lambda: smime.verify(content)):
        refused(step)
    for kind in ("enveloped-data", "signed-data"):
        refused(lambda kind=kind: smime.verify(as_mail(content, kind)))
        refused(lambda kind=kind: smime.decrypt(as_mail(content, kind), [ann]))
