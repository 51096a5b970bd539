"""Trust bundles: published collections of anchors (Direct Trust Bundle Distribution Guide 1.0).

Reading one and saying what changed. What is kept of them: `phr.sharing.postbox`.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from phr.errors import TrustError
from phr.sharing.channels import trust

MOST_ANCHORS: Final = 500
_HEAD: Final = (
    b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The anchors of a bundle, those that may issue; `signer` signed it, None: nobody did."""

    anchors: tuple[x509.Certificate, ...]
    signer: x509.Certificate | None


def read(data: bytes) -> Bundle:
    """Read a bundle: a PKCS#7 collection of certificates, alone or inside of a signature.

    The signature is checked, not who made it: compare `signer` with the one before. Raises
    TrustError for a signature that does not hold and for what is no bundle.
    """
    from phr.sharing.channels import smime  # noqa: PLC0415 - loads asn1crypto

    found, signer = trust.read_any(data), None
    try:
        signed = smime.verify(_HEAD + base64.encodebytes(data).replace(b"\n", b"\r\n"))
    except TrustError:
        if not found or _has_content(data):
            raise TrustError("This is no trust bundle, or its signature does not hold.") from None
    else:
        found, signer = trust.read_any(signed.content), signed.signers[0]
    anchors = tuple(dict.fromkeys(each for each in found if trust.issues(each)))
    if not anchors or len(anchors) > MOST_ANCHORS:
        raise TrustError("This bundle holds no anchors, or far too many.")
    return Bundle(anchors, signer)


def _has_content(data: bytes) -> bool:
    """Say whether a PKCS#7 object is about something, and so more than a mere collection."""
    from asn1crypto import cms  # noqa: PLC0415 - loaded at the first bundle only

    try:
        inside = cms.ContentInfo.load(data)["content"]["encap_content_info"]["content"].native
    except (ValueError, TypeError, KeyError):
        return False  # PEM, or one certificate alone
    return inside is not None


def changes(
    old: Iterable[x509.Certificate], new: Iterable[x509.Certificate]
) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    """Return the certificates that came and those that went, each in its list's order."""
    before, after = list(old), list(new)
    came = [each for each in after if each not in before]
    return came, [each for each in before if each not in after]
