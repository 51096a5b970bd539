"""Whose certificate it is, and whether it may be used: every way to be wrong has its own words."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from phr import clock
from phr.errors import AddressRefused, NetError
from phr.sharing.channels import trust
from phr.sharing.channels.trust import Bound, Purpose, Verdict
from tests.fixtures_direct import DAY, Authority, der, key, named, with_exponent_one

ADDRESS = "dr.pell@direct.clinic.test"
DOMAIN = "direct.clinic.test"
LISTS = "http://ca.test/list.crl"
ISSUER = "http://ca.test/issuer.cer"


def judged(
    certificate: x509.Certificate,
    *anchors: x509.Certificate,
    purpose: Purpose = Purpose.ENCRYPT,
    served: Mapping[str, bytes] | None = None,
    beside: tuple[x509.Certificate, ...] = (),
) -> Verdict:
    def fetch(url: str) -> bytes:
        if served is None or url not in served:
            raise NetError
        return served[url]

    return trust.judge(
        certificate,
        address=ADDRESS,
        purpose=purpose,
        anchors=anchors,
        intermediates=beside,
        fetch=fetch,
        now=clock.now(),
    )


@pytest.fixture
def root() -> Authority:
    return Authority()


# ---------------------------------------------------------------------------------------- binding


@pytest.mark.parametrize(
    ("address", "domain", "bound"),
    [
        (ADDRESS, None, Bound.ADDRESS),
        ("Dr.Pell@Direct.Clinic.Test", None, Bound.ADDRESS),
        (None, DOMAIN, Bound.DOMAIN),
        (None, DOMAIN.upper(), Bound.DOMAIN),
        ("dr@pell.direct.clinic.test", None, None),  # the same name in the DNS, another address
        ("other@direct.clinic.test", DOMAIN, None),  # with an rfc822Name it is not the domain's
        (None, "clinic.test", None),
        (None, "*.clinic.test", None),
        (None, None, None),
    ],
)
def test_a_certificate_is_bound_to_an_address_or_a_domain(
    root: Authority, address: str | None, domain: str | None, bound: Bound | None
) -> None:
    assert trust.binding(root.issue(address, domain=domain), ADDRESS) is bound


def test_the_older_mail_attribute_counts_only_without_other_names(root: Authority) -> None:
    def older(*names: x509.GeneralName) -> x509.Certificate:
        mail = x509.NameAttribute(x509.NameOID.EMAIL_ADDRESS, ADDRESS)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([mail]))
            .issuer_name(named(root.name))
            .public_key(key(1).public_key())
            .serial_number(1)
            .not_valid_before(clock.now() - DAY)
            .not_valid_after(clock.now() + DAY)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(root.key, hashes.SHA256())

    assert trust.binding(older(), ADDRESS) is Bound.ADDRESS
    assert trust.binding(older(), "other@direct.clinic.test") is None
    assert trust.binding(older(x509.RFC822Name("other@direct.clinic.test")), ADDRESS) is None


# ---------------------------------------------------------------------------- the certificate alone


def test_a_certificate_below_an_anchor_is_trusted_with_its_path(root: Authority) -> None:
    certificate = root.issue(ADDRESS)
    verdict = judged(certificate, root.certificate)
    assert verdict.trusted
    assert verdict.path == (root.certificate, certificate)


def test_each_fault_of_the_certificate_is_told_in_words(root: Authority) -> None:
    told = {
        root.issue("someone@direct.clinic.test"): "another address",
        root.issue(ADDRESS, begins=-10 * DAY, ends=-DAY): "has expired",
        root.issue(ADDRESS, begins=DAY, ends=2 * DAY): "not valid yet",
        root.issue(ADDRESS, number=2, bits=1024): "shorter than 2048",
        root.issue(ADDRESS, usage=["digital_signature"]): "not meant for encrypting",
        root.issue(ADDRESS, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]): "not meant for encrypting",
    }
    for certificate, words in told.items():
        verdict = judged(certificate, root.certificate)
        assert not verdict.trusted
        assert words in verdict.sentence
        assert not verdict.passing
    signing = judged(
        root.issue(ADDRESS, usage=["key_encipherment"]), root.certificate, purpose=Purpose.SIGN
    )
    assert "not meant for signing" in signing.sentence


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_a_certificate_signed_in_an_outdated_way_is_refused(
    root: Authority, tmp_path: Path, digest: str
) -> None:
    certificate = root.outdated(ADDRESS, digest, tmp_path)
    verdict = judged(certificate, root.certificate)
    assert not verdict.trusted
    assert "outdated" in verdict.sentence


# --------------------------------------------------------------------------------------- the chain


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_key_whose_exponent_is_one_is_not_trusted_even_by_itself(
    root: Authority, purpose: Purpose
) -> None:
    open_to_all = x509.load_der_x509_certificate(with_exponent_one(root.issue(ADDRESS)))
    said = judged(open_to_all, root.certificate, open_to_all, purpose=purpose)
    assert not said.trusted
    assert said.sentence == "The certificate is malformed."


def test_without_an_anchor_nobody_is_trusted(root: Authority) -> None:
    assert "no anchor" in judged(root.issue(ADDRESS)).sentence


def test_a_stranger_below_another_root_is_not_trusted(root: Authority) -> None:
    other = Authority("Other root", number=1001)
    assert "Nobody you trust" in judged(other.issue(ADDRESS), root.certificate).sentence


def test_a_look_alike_anchor_with_the_same_name_and_key_identifier_is_not_trusted(
    root: Authority,
) -> None:
    alike, forged = Authority(root.name, number=1002), root.look_alike(ADDRESS)
    for beside in ((), (alike.certificate,)):
        verdict = judged(forged, root.certificate, beside=beside)
        assert not verdict.trusted
        assert "do not hold" in verdict.sentence or "Nobody you trust" in verdict.sentence


def test_an_intermediate_or_the_certificate_itself_may_be_the_anchor(root: Authority) -> None:
    between = Authority("Between", number=1003, parent=root)
    certificate = between.issue(ADDRESS)
    assert judged(certificate, between.certificate).trusted
    assert judged(certificate, certificate).path == (certificate,)
    assert not judged(certificate, between.issue(ADDRESS)).trusted  # like it, but another one


def test_a_correspondents_own_certificate_as_anchor_vouches_for_nobody_else(
    root: Authority,
) -> None:
    doctor = Authority("Test", number=5)
    theirs = root.issue("dr.voss@direct.clinic.test", number=5)  # the same name and key, no issuer
    verdict = judged(doctor.issue(ADDRESS, subject="Other"), theirs)
    assert not verdict.trusted
    assert "Nobody you trust" in verdict.sentence


def test_an_anchor_that_has_expired_carries_nothing(root: Authority) -> None:
    certificate = root.issue(ADDRESS)
    later = clock.now() + timedelta(days=4000)
    old = trust.judge(
        root.issue(ADDRESS, begins=3990 * DAY, ends=4010 * DAY),
        address=ADDRESS,
        purpose=Purpose.ENCRYPT,
        anchors=[root.certificate],
        fetch=lambda _: b"",
        now=later,
    )
    assert not old.trusted
    assert "anchors has expired" in old.sentence
    assert judged(certificate, root.certificate).trusted


def test_an_intermediate_is_taken_from_beside_or_fetched(root: Authority) -> None:
    between = Authority("Between", number=1003, parent=root)
    certificate = between.issue(ADDRESS, issuers_at=ISSUER)
    assert judged(certificate, root.certificate, beside=(between.certificate,)).trusted
    collection = pkcs7.serialize_certificates([between.certificate], Encoding.DER)
    pem = between.certificate.public_bytes(Encoding.PEM)
    for served in (der(between.certificate), pem, collection):
        assert judged(certificate, root.certificate, served={ISSUER: served}).trusted
    for served in (b"", b"<html>", der(Authority("Else", number=1004).certificate)):
        verdict = judged(certificate, root.certificate, served={ISSUER: served})
        assert "Nobody you trust" in verdict.sentence


def test_an_end_certificate_cannot_issue(root: Authority) -> None:
    false = Authority("False", number=1)
    leaf = root.issue("x@direct.clinic.test", number=1, subject="False")
    verdict = judged(false.issue(ADDRESS, number=2), root.certificate, beside=(leaf,))
    assert not verdict.trusted


def test_a_revoked_certificate_is_refused_and_an_unknown_state_is_too(root: Authority) -> None:
    good = root.issue(ADDRESS, lists_at=LISTS)
    bad = root.issue(ADDRESS, lists_at=LISTS)
    root.revoked.append(bad.serial_number)
    served = {LISTS: root.revocations()}
    assert judged(good, root.certificate, served=served).trusted
    revoked = judged(bad, root.certificate, served=served)
    assert "revoked" in revoked.sentence
    assert not revoked.passing
    for nothing in ({}, {LISTS: b""}, {LISTS: b"junk"}):
        unknown = judged(good, root.certificate, served=nothing)
        assert not unknown.trusted
        assert unknown.passing
        assert "could not be found out" in unknown.sentence


def test_a_list_of_another_issuer_says_nothing(root: Authority) -> None:
    good = root.issue(ADDRESS, lists_at=LISTS)
    other = Authority("Other root", number=1001)
    alike = Authority(root.name, number=1002)
    for issuer in (other, alike):
        verdict = judged(good, root.certificate, served={LISTS: issuer.revocations()})
        assert not verdict.trusted


def test_a_revoked_intermediate_takes_everything_below_it_along(root: Authority) -> None:
    between = Authority("Between", number=1003, parent=root)
    certificate = between.issue(ADDRESS, lists_at=LISTS)
    between.revoked.append(certificate.serial_number)
    verdict = judged(
        certificate,
        root.certificate,
        beside=(between.certificate,),
        served={LISTS: between.revocations()},
    )
    assert "revoked" in verdict.sentence


def test_fetching_is_bounded_and_a_ring_of_issuers_ends(root: Authority) -> None:
    asked: list[str] = []
    ring = Authority("Ring", number=1005, parent=Authority("Ring above", number=1006))
    certificate = ring.issue(ADDRESS, issuers_at="http://ca.test/1")

    def fetch(url: str) -> bytes:
        asked.append(url)
        number = int(url.rpartition("/")[2]) + 1
        below = Authority("Ring" if number % 2 else "Ring above", number=1005 + number % 2)
        again = Authority(
            below.name, below.number, ring.parent, issuers_at=f"http://ca.test/{number}"
        )
        return der(again.certificate)

    verdict = trust.judge(
        certificate,
        address=ADDRESS,
        purpose=Purpose.ENCRYPT,
        anchors=[root.certificate],
        fetch=fetch,
        now=clock.now(),
    )
    assert not verdict.trusted
    assert len(asked) <= trust.MOST_FETCHED


def test_a_refused_address_of_an_issuer_is_no_answer(root: Authority) -> None:
    def refuse(_: str) -> bytes:
        raise AddressRefused

    between = Authority("Between", number=1003, parent=root)
    verdict = trust.judge(
        between.issue(ADDRESS, issuers_at="http://169.254.169.254/"),
        address=ADDRESS,
        purpose=Purpose.ENCRYPT,
        anchors=[root.certificate],
        fetch=refuse,
        now=clock.now(),
    )
    assert "Nobody you trust" in verdict.sentence


def test_bytes_that_are_no_certificate_read_as_none() -> None:
    for junk in (b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"x" * 4096, b"-----BEGIN", b"\x00"):
        assert trust.read_any(junk) == []
