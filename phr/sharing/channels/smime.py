"""S/MIME for Direct: sign, encrypt, decrypt and verify (RFC 5652, 5083, 8551; Applicability 1.3).

Bytes in, bytes out. A failure of any step is the one MessageRefused, whatever failed, so that
nobody learns more by trying; and only what a signature covers is given back. Whether a signer is
to be trusted: `trust`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from asn1crypto import algos, cms, core
from asn1crypto import x509 as foreign
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher as Machine
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding

from phr import ids
from phr.errors import MessageRefused
from phr.sharing.channels import mime

LEAST_BITS: Final = 2048  # Applicability Statement 1.3
MOST_BITS: Final = 8192  # a larger key only costs time
MOST_ELEMENTS: Final = 100_000  # of ASN.1 in one message; 20 MB in pieces of 1 kB have 20,000
MOST_SIGNERS: Final = 8
MOST_CERTIFICATES: Final = 32
MOST_TRIES: Final = 8  # own certificates that one message is tried with

_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}
_OAEP_ALSO: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    "sha1": hashes.SHA1,
    **_HASHES,
}  # as a mask, SHA-1 is not broken
_KEY_BYTES: Final = {
    **{f"aes{bits}_{mode}": bits // 8 for bits in (128, 192, 256) for mode in ("cbc", "gcm")}
}
_ENCRYPTED: Final = {"application/pkcs7-mime", "application/x-pkcs7-mime"}
_SIGNATURE: Final = {"application/pkcs7-signature", "application/x-pkcs7-signature"}

Own = tuple[x509.Certificate, rsa.RSAPrivateKey]

_Open = Callable[[Any, cms.EncryptedContentInfo, bytes], bytes]


class Cipher(StrEnum):
    """How the content is encrypted. GCM is S/MIME 4.0: only for peers known to read it."""

    AES128_CBC = "aes128_cbc"
    AES256_CBC = "aes256_cbc"
    AES128_GCM = "aes128_gcm"
    AES256_GCM = "aes256_gcm"


class Transport(StrEnum):
    """How the content's key is encrypted to each recipient (RFC 8017 §7)."""

    OAEP_SHA256 = "sha256"
    OAEP_SHA384 = "sha384"
    OAEP_SHA512 = "sha512"
    PKCS1 = "pkcs1-v1.5"


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature covers, and whose signatures hold. `certificates` were sent along."""

    content: bytes = field(repr=False)
    signers: tuple[x509.Certificate, ...]
    certificates: tuple[x509.Certificate, ...]


# ---------------------------------------------------------------------------------------- outwards


def sign(
    entity: bytes,
    *,
    certificate: x509.Certificate,
    key: rsa.RSAPrivateKey,
    chain: Sequence[x509.Certificate] = (),
    now: datetime,
) -> bytes:
    """Return multipart/signed with a detached SHA-256 signature (RFC 8551 §3.5.3).

    `entity` is a whole MIME entity of 7-bit lines that end in CRLF; else ValueError.
    """
    if not mime.is_plain(entity):
        raise ValueError("what is signed must be lines of ASCII that end in CRLF")
    attributes = cms.CMSAttributes(
        [
            {"type": "content_type", "values": ["data"]},
            {"type": "signing_time", "values": [cms.Time("utc_time", now)]},
            {"type": "message_digest", "values": [_digest("sha256", entity)]},
        ]
    )
    signature = key.sign(attributes.dump(), padding.PKCS1v15(), hashes.SHA256())
    digest = {"algorithm": "sha256"}
    signed = cms.SignedData(
        {
            "version": "v1",
            "digest_algorithms": [digest],
            "encap_content_info": {"content_type": "data"},
            "certificates": [_foreign(each) for each in (certificate, *chain)],
            "signer_infos": [
                {
                    "version": "v1",
                    "sid": _named(cms.SignerIdentifier, certificate),
                    "digest_algorithm": digest,
                    "signed_attrs": attributes,
                    "signature_algorithm": {"algorithm": "rsassa_pkcs1v15"},
                    "signature": signature,
                }
            ],
        }
    )
    whole = cms.ContentInfo({"content_type": "signed_data", "content": signed}).dump()
    attached = mime.in_base64(
        [("Content-Type", 'application/pkcs7-signature; name="smime.p7s"')],
        whole,
        more=[("Content-Disposition", 'attachment; filename="smime.p7s"')],
    )
    boundary = ids.new_id()  # random: in no content
    kind = f'protocol="application/pkcs7-signature"; micalg=sha-256; boundary="{boundary}"'
    return mime.multipart(
        [("Content-Type", f"multipart/signed; {kind}")], [entity, attached], boundary
    )


def encrypt(
    entity: bytes,
    recipients: Sequence[x509.Certificate],
    *,
    cipher: Cipher = Cipher.AES256_CBC,
    transport: Transport = Transport.OAEP_SHA256,
) -> bytes:
    """Return an application/pkcs7-mime entity that each recipient's key opens (RFC 8551 §3.3).

    Raises ValueError for no recipient, or one whose key is not RSA of 2048 bits or more.
    """
    if not recipients:
        raise ValueError("nobody could open this")
    secret = ids.random_bytes(_KEY_BYTES[cipher])
    wrapped = [_wrapped(each, secret, transport) for each in recipients]
    make = _in_gcm if cipher in {Cipher.AES128_GCM, Cipher.AES256_GCM} else _in_cbc
    kind, whole = make(entity, secret, cipher, wrapped)
    return mime.in_base64(
        [("Content-Type", f'application/pkcs7-mime; smime-type={kind}; name="smime.p7m"')],
        whole,
        more=[("Content-Disposition", 'attachment; filename="smime.p7m"')],
    )


def _wrapped(
    certificate: x509.Certificate, secret: bytes, transport: Transport
) -> cms.RecipientInfo:
    algorithm: dict[str, Any] = {"algorithm": "rsaes_pkcs1v15"}
    how: padding.AsymmetricPadding = padding.PKCS1v15()
    if transport is not Transport.PKCS1:
        hashed = _HASHES[transport]()
        digest = {"algorithm": str(transport)}
        mask = {"algorithm": "mgf1", "parameters": digest}
        both = {"hash_algorithm": digest, "mask_gen_algorithm": mask}
        algorithm = {"algorithm": "rsaes_oaep", "parameters": algos.RSAESOAEPParams(both)}
        how = padding.OAEP(padding.MGF1(hashed), hashed, None)
    made = {
        "version": "v0",
        "rid": _named(cms.RecipientIdentifier, certificate),
        "key_encryption_algorithm": algorithm,
        "encrypted_key": _strong(certificate).encrypt(secret, how),
    }
    return cms.RecipientInfo("ktri", cms.KeyTransRecipientInfo(made))


def _in_cbc(
    entity: bytes, secret: bytes, cipher: Cipher, wrapped: Sequence[cms.RecipientInfo]
) -> tuple[str, bytes]:
    start = ids.random_bytes(16)
    padder, machine = PKCS7(128).padder(), Machine(algorithms.AES(secret), modes.CBC(start))
    writer = machine.encryptor()
    sealed = writer.update(padder.update(entity) + padder.finalize()) + writer.finalize()
    content = {
        "version": "v0",
        "recipient_infos": wrapped,
        "encrypted_content_info": {
            "content_type": "data",
            "content_encryption_algorithm": {"algorithm": str(cipher), "parameters": start},
            "encrypted_content": sealed,
        },
    }
    made = {"content_type": "enveloped_data", "content": cms.EnvelopedData(content)}
    return "enveloped-data", cms.ContentInfo(made).dump()


class _Nonce(core.Sequence):  # type: ignore[misc]  # GCMParameters (RFC 5084 §3.2); library untyped
    _fields = [  # noqa: RUF012 - read by the library
        ("nonce", core.OctetString),
        ("length", core.Integer, {"default": 12}),
    ]


class _Authenticated(core.Sequence):  # type: ignore[misc]  # the library untyped
    # The library loses the explicit tag of `ContentInfo.content` where the type is not listed.
    _fields = [  # noqa: RUF012 - read by the library
        ("content_type", cms.ContentType),
        ("content", cms.AuthEnvelopedData, {"explicit": 0}),
    ]


def _in_gcm(
    entity: bytes, secret: bytes, cipher: Cipher, wrapped: Sequence[cms.RecipientInfo]
) -> tuple[str, bytes]:
    nonce = ids.random_bytes(12)
    sealed = AESGCM(secret).encrypt(nonce, entity, None)
    parameters = _Nonce({"nonce": nonce, "length": 16})
    content = {
        "version": "v0",
        "recipient_infos": wrapped,
        "auth_encrypted_content_info": {
            "content_type": "data",
            "content_encryption_algorithm": {"algorithm": str(cipher), "parameters": parameters},
            "encrypted_content": sealed[:-16],
        },
        "mac": sealed[-16:],
    }
    made = _Authenticated({"content_type": "authenticated_enveloped_data", "content": content})
    return "authEnveloped-data", made.dump()


# ----------------------------------------------------------------------------------------- inwards


@contextmanager
def _one_error() -> Iterator[None]:
    """Let every failure look the same; a stranger's bytes make the library raise many kinds."""
    try:
        yield
    except Exception:  # noqa: BLE001 - see above; nothing of the cause may be told apart
        raise MessageRefused from None


def decrypt(entity: bytes, keys: Sequence[Own]) -> bytes:
    """Return the entity that was encrypted to one of these keys. Raises MessageRefused.

    What comes back is not authenticated yet: it is for `verify` and nothing else.
    """
    with _one_error():
        read = mime.read(entity)
        if read.media_type not in _ENCRYPTED:
            raise ValueError("not encrypted")
        whole = _loaded(_bounded(mime.decoded(read)))
        return _opened(whole, keys)


def verify(entity: bytes) -> Signed:
    """Return what a signature covers, detached or opaque (RFC 8551 §3.5). Raises MessageRefused.

    Only the mathematics: a certificate may still be anybody's. `signers` has one at least.
    """
    with _one_error():
        read = mime.read(entity)
        if read.media_type == "multipart/signed":
            read = mime.read(mime.canonical(entity))
            content, signature = mime.parts(read)  # exactly two (RFC 1847 §2.1)
            other = mime.read(signature)
            if other.media_type not in _SIGNATURE:
                raise ValueError("another kind of signature")
            return _verified(_loaded(_bounded(mime.decoded(other))), content)
        if read.media_type in _ENCRYPTED:
            return _verified(_loaded(_bounded(mime.decoded(read))), None)
        raise ValueError("not signed")


def _bounded(der: bytes) -> bytes:
    """Return the bytes if they are not too many elements for one message (X.690 §8.1).

    A look from header to header: what is constructed is stepped into, all else passed over.
    """
    place = number = 0
    while place < len(der):
        number += 1
        if number > MOST_ELEMENTS:
            raise ValueError("too many elements")
        tag = der[place]
        place += 1
        if tag & 31 == 31:
            while der[place] & 128:
                place += 1
            place += 1
        length = der[place]
        place += 1
        if length > 128:
            size = length & 127
            length = int.from_bytes(der[place : place + size], "big")
            place += size
        elif length == 128:
            length = 0  # indefinite: it ends at its end-of-contents element
        if not tag & 32:
            place += length
    if place != len(der):
        raise ValueError("cut off")
    return der


def _loaded(der: bytes) -> cms.ContentInfo:
    return cms.ContentInfo.load(der, strict=True)  # no bytes behind its end


def _opened(whole: cms.ContentInfo, keys: Sequence[Own]) -> bytes:
    kind, content = whole["content_type"].native, whole["content"]
    open_: _Open
    if kind == "enveloped_data":
        info, open_ = content["encrypted_content_info"], _out_of_cbc
    elif kind == "authenticated_enveloped_data":
        info, open_ = content["auth_encrypted_content_info"], _out_of_gcm
    else:
        raise ValueError("not encrypted")
    if info["content_type"].native != "data":
        raise ValueError("not a MIME entity")
    name = info["content_encryption_algorithm"]["algorithm"].native
    size = _KEY_BYTES[name]
    tries = list(_own_wraps(content["recipient_infos"], keys))[:MOST_TRIES]
    failed: Exception = ValueError("for somebody else")
    for wrap, key in tries:
        try:
            return open_(content, info, _unwrapped(wrap, key, size))
        except Exception as error:  # noqa: BLE001 - the next key is tried, whatever it was
            failed = error
    raise failed


def _own_wraps(
    infos: cms.RecipientInfos, keys: Sequence[Own]
) -> Iterator[tuple[cms.KeyTransRecipientInfo, rsa.RSAPrivateKey]]:
    for info in infos:
        if info.name == "ktri":
            for certificate, key in keys:
                if _is_named(info.chosen["rid"], _foreign(certificate)):
                    yield info.chosen, key


def _unwrapped(wrap: cms.KeyTransRecipientInfo, key: rsa.RSAPrivateKey, size: int) -> bytes:
    """Return the content's key, or a random one where it does not come out (RFC 3218 §2.3.2).

    Going on with a random key makes a wrong padding here look like a wrong content.
    """
    instead = ids.random_bytes(size)
    try:
        found = key.decrypt(wrap["encrypted_key"].native, _padding(wrap))
    except ValueError:
        found = b""
    return found if len(found) == size else instead


def _padding(wrap: cms.KeyTransRecipientInfo) -> padding.AsymmetricPadding:
    algorithm = wrap["key_encryption_algorithm"]
    name = algorithm["algorithm"].native
    if name == "rsaes_pkcs1v15":
        return padding.PKCS1v15()
    if name != "rsaes_oaep":
        raise KeyError(name)
    said = algorithm["parameters"]
    if not isinstance(said, algos.RSAESOAEPParams):
        said = algos.RSAESOAEPParams({})  # absent: all by default (RFC 4055 §4.1)
    mask = said["mask_gen_algorithm"]
    if said["p_source_algorithm"]["parameters"].native or mask["algorithm"].native != "mgf1":
        raise ValueError("a label, or another mask")
    hashed = _OAEP_ALSO[said["hash_algorithm"]["algorithm"].native]()
    masked = _OAEP_ALSO[mask["parameters"]["algorithm"].native]()
    return padding.OAEP(padding.MGF1(masked), hashed, None)


def _out_of_cbc(_: Any, info: cms.EncryptedContentInfo, secret: bytes) -> bytes:
    algorithm = info["content_encryption_algorithm"]
    if not algorithm["algorithm"].native.endswith("cbc"):
        raise ValueError("another mode")
    start = algorithm["parameters"].native
    reader = Machine(algorithms.AES(secret), modes.CBC(start)).decryptor()
    padded = reader.update(info["encrypted_content"].native) + reader.finalize()
    stripper = PKCS7(128).unpadder()
    return stripper.update(padded) + stripper.finalize()


def _out_of_gcm(
    content: cms.AuthEnvelopedData, info: cms.EncryptedContentInfo, secret: bytes
) -> bytes:
    algorithm = info["content_encryption_algorithm"]
    if not algorithm["algorithm"].native.endswith("gcm"):
        raise ValueError("another mode")
    said, mac = _Nonce.load(algorithm["parameters"].dump()), content["mac"].native
    nonce = said["nonce"].native
    if len(mac) != 16 or said["length"].native != 16 or not 12 <= len(nonce) <= 16:
        raise ValueError("a shortened tag, or an odd nonce")
    attributes = content["auth_attrs"]
    covered = None if isinstance(attributes, core.Void) else attributes.untag().dump()
    return AESGCM(secret).decrypt(nonce, info["encrypted_content"].native + mac, covered)


def _verified(whole: cms.ContentInfo, detached: bytes | None) -> Signed:
    if whole["content_type"].native != "signed_data":
        raise ValueError("not signed")
    data = whole["content"]
    inside = data["encap_content_info"]
    if inside["content_type"].native != "data":
        raise ValueError("not a MIME entity")
    held = inside["content"].native
    if (held is None) == (detached is None):
        raise ValueError("the content is missing, or is there twice")
    content = held if detached is None else detached
    sent = _sent_along(data)
    infos = list(data["signer_infos"])
    if not 0 < len(infos) <= MOST_SIGNERS:
        raise ValueError("no signer, or too many")
    signers = [signer for info in infos if (signer := _signer(info, content, sent)) is not None]
    if not signers:
        raise ValueError("no signature holds")
    return Signed(content, tuple(signers), tuple(_ours(each) for each in sent))


def _sent_along(data: cms.SignedData) -> list[foreign.Certificate]:
    held = data["certificates"]
    sent = [each.chosen for each in held if each.name == "certificate"] if held else []
    if len(sent) > MOST_CERTIFICATES:
        raise ValueError("too many certificates")
    return sent


def _signer(
    info: cms.SignerInfo, content: bytes, sent: Sequence[foreign.Certificate]
) -> x509.Certificate | None:
    """Return the certificate whose key made a signature over the content; None where none did.

    One whose way is not accepted (MD5, SHA-1, a short key) is as none.
    """
    try:
        mine = next(each for each in sent if _is_named(info["sid"], each))
        signer = _ours(mine)
        name = info["digest_algorithm"]["algorithm"].native
        attributes = info["signed_attrs"]
        said = {each["type"].native: each["values"] for each in attributes}
        if len(said) != len(attributes):
            return None  # one attribute twice
        (kind,), (digest,) = said["content_type"].native, said["message_digest"].native
        if kind != "data" or not ids.same(digest, _digest(name, content)):
            return None
        covered = attributes.untag().dump()  # as a SET OF, not as the field [0] (RFC 5652 §5.4)
        how, hashed = _way_of(info, name)
        _strong(signer).verify(info["signature"].native, covered, how, hashed)
    except (StopIteration, KeyError, ValueError, TypeError, InvalidSignature):
        return None
    return signer


def _way_of(
    info: cms.SignerInfo, digest: str
) -> tuple[padding.AsymmetricPadding, hashes.HashAlgorithm]:
    """Return padding and hash of a signature; both must be of the digest that was named."""
    algorithm = info["signature_algorithm"]
    if algorithm["algorithm"].native == "rsassa_pss":
        said = algorithm["parameters"]
        mask = said["mask_gen_algorithm"]["parameters"]["algorithm"].native
        if said["hash_algorithm"]["algorithm"].native != digest or mask != digest:
            raise ValueError("two hashes in one signature")
        hashed = _HASHES[digest]()
        return padding.PSS(padding.MGF1(hashed), said["salt_length"].native), hashed
    if algorithm.signature_algo != "rsassa_pkcs1v15":
        raise ValueError("not RSA")
    if algorithm["algorithm"].native not in {"rsassa_pkcs1v15", f"{digest}_rsa"}:
        raise ValueError("two hashes in one signature")
    return padding.PKCS1v15(), _HASHES[digest]()


# -------------------------------------------------------------------------------------- in between


def _digest(name: str, content: bytes) -> bytes:
    """Hash with one of the accepted ways; KeyError for MD5, SHA-1 and all else."""
    made = hashes.Hash(_HASHES[name]())
    made.update(content)
    return made.finalize()


def _strong(certificate: x509.Certificate) -> rsa.RSAPublicKey:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not LEAST_BITS <= key.key_size <= MOST_BITS:
        raise ValueError("the key is not RSA of 2048 to 8192 bits")
    return key


def _foreign(certificate: x509.Certificate) -> foreign.Certificate:
    return foreign.Certificate.load(certificate.public_bytes(Encoding.DER))


def _ours(certificate: foreign.Certificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate.dump())


def _named(kind: Callable[..., Any], certificate: x509.Certificate) -> Any:
    whose = _foreign(certificate)
    both = {"issuer": whose.issuer, "serial_number": whose.serial_number}
    return kind("issuer_and_serial_number", cms.IssuerAndSerialNumber(both))


def _is_named(name: Any, certificate: foreign.Certificate) -> bool:
    """Say whether an identifier of a signer or recipient means a certificate (RFC 5652 §5.3)."""
    if name.name == "issuer_and_serial_number":
        said = name.chosen
        return bool(
            said["serial_number"].native == certificate.serial_number
            and said["issuer"].dump() == certificate.issuer.dump()
        )
    return bool(
        certificate.key_identifier is not None and name.chosen.native == certificate.key_identifier
    )
