"""Whether a stranger's certificate may be used for a Direct address: binding, usage, dates, chain.

What a certificate says about itself is a stranger's word; what counts is that a chain of
signatures leads to an anchor the patient chose. Where they are found: `discovery`, beside this.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from phr.errors import PhrError
from phr.http import SMALL, Http

if TYPE_CHECKING:  # the library costs 100 ms and 10 MB: loaded when a chain is really followed
    from pyhanko_certvalidator.context import ValidationContext

Fetch = Callable[[str], bytes]  # raises NetError

LEAST_BITS: Final = 2048  # Applicability Statement 1.3
WEAK: Final = frozenset({"md2", "md5", "sha1"})
MOST_FETCHED: Final = 6  # certificates and lists asked for in one judgement
LONGEST_CHAIN: Final = 4  # certificates between the address and the anchor
MOST_BYTES: Final = 256 << 10


class Purpose(StrEnum):
    """What the certificate is to be used for."""

    ENCRYPT = "encrypt"
    SIGN = "sign"


class Bound(StrEnum):
    """Whose certificate it is: one address's, or that of every address of a domain."""

    ADDRESS = "address"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`trusted`, and why in a sentence; `path` leads from the anchor down to the certificate."""

    trusted: bool
    sentence: str
    path: tuple[x509.Certificate, ...] = ()
    passing: bool = False  # the reason may go away by itself: a list could not be fetched


class _Refused(Exception):
    def __init__(self, sentence: str, *, passing: bool = False) -> None:
        super().__init__(sentence)
        self.sentence, self.passing = sentence, passing


def fetching(http: Http) -> Fetch:
    """Return a getter of certificates and revocation lists that keeps to the address guard.

    What is fetched is signed itself, so that plain http is usual here (RFC 5280 §8, 256 KiB).
    """

    def fetch(url: str) -> bytes:
        answer = http.get(url, limits=SMALL, plain=True)
        return answer.body if answer.status == 200 else b""

    return fetch


def split(address: str) -> tuple[str, str]:
    """Return local part and domain of an address, the domain in lower case."""
    local, _, domain = address.rpartition("@")
    return local, domain.lower()


def binding(certificate: x509.Certificate, address: str) -> Bound | None:
    """Say how a certificate is bound to an address (Applicability Statement 1.3, §5.1).

    By rfc822Name, else by a dNSName without any rfc822Name. Where there are no alternative names at
    all, the older e-mail attribute of the subject counts as the address.
    """
    wanted, domain = address.lower(), split(address)[1]
    names = _alternative_names(certificate)
    if names is None:
        older = certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        said = {str(each.value).lower() for each in older}
        return Bound.ADDRESS if wanted in said else None
    mails = {each.lower() for each in names.get_values_for_type(x509.RFC822Name)}
    if mails:
        return Bound.ADDRESS if wanted in mails else None
    domains = {each.lower() for each in names.get_values_for_type(x509.DNSName)}
    return Bound.DOMAIN if domain in domains else None


def judge(
    certificate: x509.Certificate,
    *,
    address: str,
    purpose: Purpose,
    anchors: Sequence[x509.Certificate],
    intermediates: Sequence[x509.Certificate] = (),
    fetch: Fetch,
    now: datetime,
) -> Verdict:
    """Say whether a certificate may be used for an address; never raises for what it holds."""
    try:
        _check_itself(certificate, address, purpose, now)
        path = _path(certificate, anchors, intermediates, fetch, now)
    except _Refused as refused:
        return Verdict(trusted=False, sentence=refused.sentence, passing=refused.passing)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return Verdict(trusted=False, sentence="The certificate is malformed.")
    return Verdict(trusted=True, sentence="The certificate is trusted.", path=path)


# --------------------------------------------------------------------------- the certificate alone


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _check_itself(
    certificate: x509.Certificate, address: str, purpose: Purpose, now: datetime
) -> None:
    if binding(certificate, address) is None:
        raise _Refused("The certificate is for another address.")
    if now < certificate.not_valid_before_utc:
        raise _Refused("The certificate is not valid yet.")
    if now > certificate.not_valid_after_utc:
        raise _Refused("The certificate has expired.")
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise _Refused("The certificate's key is not RSA, which Direct asks for.")
    if key.key_size < LEAST_BITS:
        raise _Refused(f"The certificate's key is shorter than {LEAST_BITS} bits.")
    hashed = certificate.signature_hash_algorithm
    if hashed is None or hashed.name in WEAK:
        raise _Refused("The certificate is signed in an outdated way (MD5 or SHA-1).")
    if not _suits(certificate, purpose):
        doing = "encrypting" if purpose is Purpose.ENCRYPT else "signing"
        raise _Refused(f"The certificate is not meant for {doing} mail.")


def _suits(certificate: x509.Certificate, purpose: Purpose) -> bool:
    """Say whether key usage and extended key usage allow it; an absent extension allows all."""
    with suppress(x509.ExtensionNotFound):
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        encrypts = usage.key_encipherment
        signs = usage.digital_signature or usage.content_commitment
        if not (encrypts if purpose is Purpose.ENCRYPT else signs):
            return False
    with suppress(x509.ExtensionNotFound):
        more = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        mail = ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
        return any(each in more for each in mail)
    return True


# -------------------------------------------------------------------------------------- the chain


def _path(
    certificate: x509.Certificate,
    anchors: Sequence[x509.Certificate],
    intermediates: Sequence[x509.Certificate],
    fetch: Fetch,
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Return the chain from the certificate to an anchor, each link verified and not revoked."""
    if certificate in anchors:  # whole certificates are compared, never a key identifier
        return (certificate,)
    issuing = [each for each in anchors if issues(each)]  # a correspondent's own vouches for none
    standing = [each for each in issuing if _in_date(each, now)]
    if not anchors:
        raise _Refused("You have not chosen whom to trust for this yet: there is no anchor.")
    left = _Fetched(fetch)
    between = [*intermediates, *_issuers_above(certificate, standing, intermediates, left)]
    lists = list(_revocation_lists([certificate, *between], left))
    try:
        return _followed(certificate, standing, between, lists, now)
    except _Refused as refused:
        if len(standing) < len(issuing) and not refused.passing:
            raise _Refused(f"{refused.sentence} One of your anchors has expired.") from None
        raise


def issues(certificate: x509.Certificate) -> bool:
    """Say whether a certificate may stand above others (RFC 5280 §4.2.1.9)."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


def _in_date(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


class _Fetched:
    """A bounded number of fetches; what cannot be had is b""."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch, self._left = fetch, MOST_FETCHED

    def __call__(self, url: str) -> bytes:
        if self._left <= 0:
            return b""
        self._left -= 1
        try:
            return self._fetch(url)[:MOST_BYTES]
        except PhrError:
            return b""


def _issuers_above(
    certificate: x509.Certificate,
    anchors: Iterable[x509.Certificate],
    given: Iterable[x509.Certificate],
    fetch: _Fetched,
) -> list[x509.Certificate]:
    """Fetch the issuers that were not sent along (authority information access, RFC 5280)."""
    known = {each.subject for each in anchors}
    by_name = {each.subject: each for each in given}
    found: list[x509.Certificate] = []
    below = certificate
    for _ in range(LONGEST_CHAIN):
        if below.issuer in known or below.issuer == below.subject:
            break
        above = by_name.get(below.issuer)
        if above is None:
            fetched = (one for url in _issuer_urls(below) for one in read_any(fetch(url)))
            above = next((one for one in fetched if one.subject == below.issuer), None)
            if above is None:
                break
            found.append(above)
        below = above
    return found


def _issuer_urls(certificate: x509.Certificate) -> list[str]:
    try:
        listed = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except x509.ExtensionNotFound:
        return []
    return [
        each.access_location.value
        for each in listed.value
        if each.access_method == AuthorityInformationAccessOID.CA_ISSUERS
        and isinstance(each.access_location, x509.UniformResourceIdentifier)
        and each.access_location.value.startswith(("http://", "https://"))
    ]


def read_any(data: bytes) -> list[x509.Certificate]:
    """Read one certificate (DER, PEM) or a collection (PKCS#7); an empty list for all else."""
    readers: tuple[Callable[[bytes], Any], ...] = (
        lambda each: [x509.load_der_x509_certificate(each)],
        x509.load_pem_x509_certificates,
        pkcs7.load_der_pkcs7_certificates,
        pkcs7.load_pem_pkcs7_certificates,
    )
    for read in readers:
        try:
            return list(read(data))
        except Exception:  # noqa: BLE001, S112 - a stranger's bytes; the library raises many kinds
            continue
    return []


def _revocation_lists(certificates: Iterable[x509.Certificate], fetch: _Fetched) -> Iterable[bytes]:
    seen: set[str] = set()
    for certificate in certificates:
        for url in _list_urls(certificate):
            if url not in seen:
                seen.add(url)
                data = fetch(url)
                with suppress(ValueError):
                    yield x509.load_der_x509_crl(data).public_bytes(Encoding.DER)


def _list_urls(certificate: x509.Certificate) -> list[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return [
        name.value
        for point in points
        for name in point.full_name or ()
        if isinstance(name, x509.UniformResourceIdentifier)
        and name.value.startswith(("http://", "https://"))
    ]


def _followed(
    certificate: x509.Certificate,
    anchors: Sequence[x509.Certificate],
    between: Sequence[x509.Certificate],
    lists: Sequence[bytes],
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Verify a chain (RFC 5280 §6) by the library, and say in words where it ends."""
    from pyhanko_certvalidator import CertificateValidator, errors  # noqa: PLC0415 - see the top

    context = _context([certificate, *between], anchors, lists, now)
    checking = CertificateValidator(
        _foreign(certificate), [_foreign(each) for each in between], validation_context=context
    )
    try:
        path = asyncio.run(checking.async_validate_path())
    except errors.RevokedError:
        raise _Refused("The certificate, or one above it, was revoked by its issuer.") from None
    except errors.InsufficientRevinfoError:
        raise _Refused(
            "It could not be found out whether the certificate was revoked.", passing=True
        ) from None
    except errors.PathBuildingError:
        raise _Refused("Nobody you trust stands behind this certificate.") from None
    except errors.ExpiredError:
        raise _Refused("A certificate above this one has expired.") from None
    except errors.ValidationError:
        raise _Refused("The signatures above this certificate do not hold.") from None
    return tuple(x509.load_der_x509_certificate(each.dump()) for each in path)


def _foreign(certificate: x509.Certificate) -> Any:
    """Return the same certificate as an object of the validating library."""
    from asn1crypto import x509 as foreign  # noqa: PLC0415 - see the top

    return foreign.Certificate.load(certificate.public_bytes(Encoding.DER))


def _context(
    certificates: Iterable[x509.Certificate],
    anchors: Iterable[x509.Certificate],
    lists: Iterable[bytes],
    now: datetime,
) -> "ValidationContext":
    """Return what a chain is checked against; a certificate that names a list needs that list."""
    from pyhanko_certvalidator import context, policy_decl  # noqa: PLC0415 - see the top

    rule = policy_decl.RevocationCheckingRule
    listed = any(_list_urls(each) for each in certificates)
    asked = rule.CHECK_IF_DECLARED if listed else rule.NO_CHECK
    return context.ValidationContext(
        trust_roots=[_foreign(each) for each in anchors],
        crls=list(lists),
        moment=now,
        allow_fetching=False,
        weak_hash_algos=WEAK,
        revinfo_policy=policy_decl.CertRevTrustPolicy(
            policy_decl.RevocationCheckingPolicy(
                ee_certificate_rule=asked, intermediate_ca_cert_rule=asked
            )
        ),
    )
