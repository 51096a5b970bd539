"""A patient's own certificates for Direct: made, shown, exported, and how others are told of them.

An own root stands above them, so that a correspondent trusts once and a renewed certificate needs
nothing. Where they are kept: `phr.sharing.postbox`.
"""

import base64
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from phr.errors import InvalidInput
from phr.sharing.channels import discovery, trust
from phr.sharing.channels.trust import Bound

ROOT_BITS: Final = 3072
LEAF_BITS: Final = 2048  # two of them fit one DNS answer over TCP; what every Direct server takes
ROOT_FOR: Final = timedelta(days=3650)
LEAF_FOR: Final = timedelta(days=730)
RENEW_BEFORE: Final = timedelta(days=60)
CLOCKS: Final = timedelta(hours=1)  # a correspondent's clock may be behind
LEAST_PASSWORD: Final = 12


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey = field(repr=False)


def root(name: str, *, now: datetime) -> Identity:
    """Make the own anchor that correspondents are given; `name` is the domain or address."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=ROOT_BITS)
    subject = _subject(f"Homeport anchor for {name}")
    builder = (
        _begun(subject, subject, key.public_key(), now, ROOT_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(issues=True), critical=True)
    )
    return Identity(builder.sign(key, hashes.SHA256()), key)


def issue(own_root: Identity, address: str, bound: Bound, *, now: datetime) -> Identity:
    """Make a certificate with a new key for an address, or for every address of its domain."""
    if sentence := discovery.problem(address):
        raise InvalidInput(sentence)
    domain = trust.split(address)[1]
    key = rsa.generate_private_key(public_exponent=65537, key_size=LEAF_BITS)
    name: x509.GeneralName = (
        x509.RFC822Name(address) if bound is Bound.ADDRESS else x509.DNSName(domain)
    )
    issuer = own_root.certificate
    left = issuer.not_valid_after_utc - now
    builder = (
        _begun(
            _subject(address if bound is Bound.ADDRESS else domain),
            issuer.subject,
            key.public_key(),
            now,
            min(LEAF_FOR, left),
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(issues=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(own_root.key.public_key()),
            critical=False,
        )
    )
    return Identity(builder.sign(own_root.key, hashes.SHA256()), key)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])  # RFC 5280: ub 64


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPublicKey,
    now: datetime,
    lasting: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS)
        .not_valid_after(now + lasting)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not issues,
        content_commitment=False,
        key_encipherment=not issues,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


# ------------------------------------------------------------------------------------ shown, given


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate as pairs of hex digits, to be compared by people."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def exported(identity: Identity, chain: Sequence[x509.Certificate], password: str) -> bytes:
    """Return certificate, key and chain as a PKCS#12 file under a password. Raises InvalidInput."""
    if len(password) < LEAST_PASSWORD:
        raise InvalidInput(f"Please choose a password of at least {LEAST_PASSWORD} characters.")
    return pkcs12.serialize_key_and_certificates(
        b"Homeport Direct",
        identity.key,
        identity.certificate,
        list(chain),
        BestAvailableEncryption(password.encode()),
    )


def zone_lines(address: str, certificates: Sequence[x509.Certificate]) -> str:
    """Return the lines of a DNS zone file that publish certificates of an address (RFC 4398).

    Address-bound ones stand under the address with a dot for the @, others under the domain.
    """
    local, domain = trust.split(address)
    lines = []
    for certificate in certificates:
        bound = trust.binding(certificate, address)
        owner = f"{_escaped(local)}.{domain}." if bound is Bound.ADDRESS else f"{domain}."
        encoded = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
        lines += [f"{owner} 3600 IN CERT PKIX 0 0 ("]
        lines += [f"    {piece}" for piece in textwrap.wrap(encoded, 64)]
        lines += [")"]
    return "\n".join(lines) + "\n"


def _escaped(local: str) -> str:
    """Return a local part as labels of a zone file; its dots part labels, as when it is asked."""
    return "".join(
        each if each.isalnum() or each in "-_." else f"\\{ord(each):03d}" for each in local
    )


def directory_entry(
    address: str, certificates: Sequence[x509.Certificate], *, base: str = "o=direct"
) -> str:
    """Return an entry for an LDAP server as LDIF (RFC 2849, inetOrgPerson): mail and certificates.

    Domain-bound certificates are looked for under the domain as `mail`.
    """
    bound = {trust.binding(each, address) for each in certificates}
    mail = address if bound == {Bound.ADDRESS} else trust.split(address)[1]
    name = mail.replace("\\", "\\\\").replace(",", "\\,").replace("+", "\\+").replace("=", "\\=")
    lines = [
        f"dn: cn={name},{base}",
        "objectClass: inetOrgPerson",
        f"cn: {mail}",
        f"sn: {mail}",
        f"mail: {mail}",
    ]
    for certificate in certificates:
        encoded = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
        first, *rest = textwrap.wrap(f"userCertificate;binary:: {encoded}", 76)
        lines += [first, *(f" {piece}" for piece in rest)]
    return "\n".join(lines) + "\n"
