"""JSON Web Tokens (RFC 7519): the only room that knows joserfc.

A token is judged with a fixed list of algorithms and with keys that we chose; what its header says
about keys (`jwk`, `jku`, `x5u`, `x5c`) is never looked at. Not here: where keys are fetched.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from phr import ids
from phr.errors import TrustError

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

# joserfc is imported where it is used: 20 ms of every start, and few starts see a token.

MAX_TOKEN: Final = 16 * 1024  # characters
MAX_KEYS: Final = 100
MAX_TRIES: Final = 8  # keys tried when the token names none
MIN_RSA_BITS: Final = 2048
SKEW: Final = 60.0  # seconds
ID_TOKEN_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
FAMILIES: Final = {"R": "RSA", "P": "RSA", "E": "EC"}
SIGNING_ALGORITHMS: Final = ("RS384", "ES384")  # SMART App Launch 2.2 §5.1.1; RSA is taken by more
NEW_RSA_BITS: Final = 3072
PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
Key: TypeAlias = "RSAKey | ECKey | OKPKey"


def verify(
    token: str,
    key_set: Mapping[str, Any],
    *,
    issuer: str,
    audience: str,
    now: datetime,
    algorithms: Collection[str] = ID_TOKEN_ALGORITHMS,
    required: Collection[str] = ("iss", "aud", "exp"),
) -> dict[str, Any]:
    """Return the claims of a signed token; raise TrustError unless all of it holds.

    `key_set` is a JWK Set (RFC 7517 §5). Checked: signature, `iss`, `aud`, `exp`, `nbf`, `iat`
    (RFC 7519 §4.1, 60 s skew), `azp` where there are several audiences (OIDC Core §3.1.3.7).
    """
    header = _header(token)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TrustError("The signature is of a kind that is not accepted.")
    claims = _signed_claims(token, algorithm, header.get("kid"), key_set)
    _check(claims, issuer, audience, now, required)
    return claims


def peek(token: str) -> dict[str, Any]:
    """Return the claims WITHOUT any check, to find out what a token lacks. Never act on them."""
    parts = token.split(".")
    return _part(parts[1]) if len(parts) == 3 and len(token) <= MAX_TOKEN else {}


def header(token: str) -> dict[str, Any]:
    """Return what a token says of its own making (RFC 7515 §4), unchecked. Raises TrustError."""
    return _header(token)


def _header(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != 3 or not all(parts):
        raise TrustError
    header = _part(parts[0])
    if "crit" in header or "b64" in header or "zip" in header:
        raise TrustError("The token asks for something that is not understood here.")
    return header


def _part(text: str) -> dict[str, Any]:
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        raise TrustError from None
    if not isinstance(value, dict):
        raise TrustError
    return value


def _signed_claims(
    token: str, algorithm: str, kid: object, key_set: Mapping[str, Any]
) -> dict[str, Any]:
    from joserfc import jws  # noqa: PLC0415 - see above
    from joserfc.errors import JoseError  # noqa: PLC0415 - see above

    for number, key in enumerate(_usable_keys(key_set, algorithm, kid)):
        if number == MAX_TRIES:
            break
        try:
            jws.deserialize_compact(token, key, algorithms=[algorithm])
        except (JoseError, ValueError):
            continue
        return _part(token.split(".")[1])
    raise TrustError


def _usable_keys(key_set: Mapping[str, Any], algorithm: str, kid: object) -> Iterator[Key]:
    listed = key_set.get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise TrustError("The list of signing keys cannot be used.")
    for raw in listed:
        if not isinstance(raw, dict) or raw.get("kty") != _family(algorithm):
            continue
        if raw.get("use", "sig") != "sig" or raw.get("alg", algorithm) != algorithm:
            continue
        if isinstance(kid, str) and raw.get("kid") not in {None, kid}:
            continue
        key = _sound_key(raw)
        if key is not None:
            yield key


def _family(algorithm: str) -> str:
    return "OKP" if algorithm == "EdDSA" else FAMILIES[algorithm[0]]


def _sound_key(raw: Mapping[str, Any]) -> "Key | None":
    """Return a public key strong enough to believe; None for private, short or broken ones."""
    from joserfc.errors import JoseError  # noqa: PLC0415 - see above
    from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key  # noqa: PLC0415 - see above

    if "d" in raw or any(isinstance(value, str) and len(value) > 4096 for value in raw.values()):
        return None
    if raw["kty"] == "RSA" and len(str(raw.get("n", ""))) * 6 < MIN_RSA_BITS:
        return None
    try:
        key = import_key(dict(raw))
        public = key.public_key if isinstance(key, RSAKey | ECKey | OKPKey) else None
    except (JoseError, ValueError, TypeError):
        return None
    if isinstance(public, RSAPublicKey) and (
        public.key_size < MIN_RSA_BITS or public.public_numbers().e < 3
    ):
        return None
    return key if isinstance(key, RSAKey | ECKey | OKPKey) else None


def _check(
    claims: Mapping[str, Any],
    issuer: str,
    audience: str,
    now: datetime,
    required: Collection[str],
) -> None:
    if any(claims.get(name) in (None, "", []) for name in required):
        raise TrustError("The token lacks something that it must say.")
    if claims.get("iss") != issuer:
        raise TrustError("The token was issued by somebody else.")
    _check_audience(claims, audience)
    instant = now.timestamp()
    if _seconds(claims, "exp", float("inf")) <= instant - SKEW:
        raise TrustError("The token has expired.")
    if _seconds(claims, "nbf", 0.0) > instant + SKEW or _seconds(claims, "iat", 0.0) > (
        instant + SKEW
    ):
        raise TrustError("The token is from the future.")


def _check_audience(claims: Mapping[str, Any], audience: str) -> None:
    given: Sequence[Any] = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if audience not in given:
        raise TrustError("The token was made for somebody else.")
    if claims.get("azp", audience) != audience or (len(given) > 1 and "azp" not in claims):
        raise TrustError("The token was made for somebody else.")


def _seconds(claims: Mapping[str, Any], name: str, default: float) -> float:
    """Return a NumericDate (RFC 7519 §2); text, infinities and nonsense are refused."""
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TrustError
    if name in claims and not 0 <= value < 1e12:
        raise TrustError
    return float(value)


# ------------------------------------------------------------------------- our own keys


def new_key(algorithm: str) -> dict[str, Any]:
    """Return a new private key as JWK (RFC 7517); its id is RFC 7638's.

    For RS256, RS384, ES256, ES384 or EdDSA. Raises KeyError for any other algorithm.
    """
    from joserfc.jwk import ECKey, OKPKey, RSAKey  # noqa: PLC0415 - see above

    makers: dict[str, Callable[[], Key]] = {
        "RS256": lambda: RSAKey.generate_key(NEW_RSA_BITS),  # what every OpenID client reads
        "RS384": lambda: RSAKey.generate_key(NEW_RSA_BITS),
        "ES256": lambda: ECKey.generate_key("P-256"),  # what Permission Tickets are signed with
        "ES384": lambda: ECKey.generate_key("P-384"),
        "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
    }
    made = makers[algorithm]()
    kept = dict(made.as_dict(private=True))
    return kept | {"kid": made.thumbprint(), "alg": algorithm, "use": "sig"}


def public_half(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JWK without anything that signs."""
    return {name: value for name, value in key.items() if name not in PRIVATE_MEMBERS}


def sign(claims: Mapping[str, Any], key: Mapping[str, Any], *, kind: str = "JWT") -> str:
    """Return claims as a signed token (RFC 7515 §7.1); the key says with which algorithm.

    `kind` is its `typ`, so that a token for one use is not taken for another (RFC 8725 §3.11).
    """
    from joserfc import jws  # noqa: PLC0415 - see above
    from joserfc.jwk import import_key  # noqa: PLC0415 - see above

    algorithm = str(key["alg"])
    header = {"alg": algorithm, "kid": str(key["kid"]), "typ": kind}
    private = import_key(dict(key))
    payload = json.dumps(dict(claims), separators=(",", ":")).encode()
    return jws.serialize_compact(header, payload, private, algorithms=[algorithm])


def sign_words(words: Sequence[str], key: Mapping[str, Any]) -> str:
    """Return the Ed25519 signature (RFC 8032) of lines of text, base64url: to a lighthouse."""
    raw = base64.urlsafe_b64decode(str(key["d"]) + "=" * (-len(str(key["d"])) % 4))
    made = Ed25519PrivateKey.from_private_bytes(raw).sign("\n".join(words).encode())
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


# ------------------------------------------------------------------------- sealed and packed

# joserfc stops at 250 KiB, and inflates without looking at what it came from; the files of a
# SMART Health Link are larger. One cipher and no key wrapping leave little to write by hand.

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
LONGEST_NONCE: Final = 16  # RFC 7518 §5.3 says 12; a library that others use writes 16
TAG_BYTES: Final = 16
MOST_INFLATED: Final = 10 << 20  # bytes
MOST_RATIO: Final = 200  # inflated to packed, beyond the first 64 KiB; FHIR reaches 60
MAX_CARD: Final = 64 * 1024  # characters of a Health Card's JWS


def seal(plain: bytes, key: bytes, content_type: str) -> str:
    """Return bytes as compact JWE (RFC 7516 §7.1), `dir` and A256GCM, with a fresh nonce.

    Never zipped: readers stop inflating at different sizes.
    """
    said = {"alg": "dir", "enc": "A256GCM", "cty": content_type}
    head = ids.as_text(json.dumps(said, separators=(",", ":")).encode())
    nonce = ids.random_bytes(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, plain, head.encode())
    body, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
    return f"{head}..{ids.as_text(nonce)}.{ids.as_text(body)}.{ids.as_text(tag)}"


def unseal(token: str, key: bytes) -> tuple[bytes, str]:
    """Return what a compact JWE of `dir` and A256GCM holds, and its content type ("" unsaid).

    `zip` DEF is undone up to 10 MiB. Raises TrustError where it is broken, sealed with another
    key, in another way, or too large when unpacked.
    """
    parts = token.strip().split(".")
    if len(parts) != 5 or parts[1]:
        raise TrustError
    said = _part(parts[0])
    ours = said.get("alg") == "dir" and said.get("enc") == "A256GCM" and "crit" not in said
    if not ours or said.get("zip") not in {None, "DEF"}:
        raise TrustError("It is sealed in a way that is not understood here.")
    nonce, body, tag = (_bytes(part) for part in parts[2:])
    sound = NONCE_BYTES <= len(nonce) <= LONGEST_NONCE and len(tag) == TAG_BYTES
    if not sound or len(key) != KEY_BYTES:
        raise TrustError
    try:
        plain = AESGCM(key).decrypt(nonce, body + tag, parts[0].encode())
    except InvalidTag:
        raise TrustError("It was sealed with another key, or altered on the way.") from None
    kind = said.get("cty")
    return inflated(plain) if "zip" in said else plain, kind if isinstance(kind, str) else ""


def inflated(packed: bytes) -> bytes:
    """Undo raw DEFLATE (RFC 1951) up to 10 MiB and 200 times its size; raise TrustError beyond."""
    most = min(MOST_INFLATED, max(64 << 10, len(packed) * MOST_RATIO))
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = unpacking.decompress(packed, most)
    except zlib.error:
        raise TrustError from None
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise TrustError("It unpacks to more than is read here, or it is cut off.")
    return plain


def card_claims(token: str) -> tuple[str, dict[str, Any]]:
    """Return key id and claims of a SMART Health Card (framework 1.4, "Health Cards are JWS").

    WITHOUT any check of the signature: `verify_card` does that. Raises TrustError where it is no
    card: ES256, zip DEF, and a payload that is a JSON object.
    """
    parts = token.split(".")
    if len(token) > MAX_CARD or len(parts) != 3 or not all(parts):
        raise TrustError
    said = _part(parts[0])
    kid = said.get("kid")
    if said.get("alg") != "ES256" or said.get("zip") != "DEF" or not isinstance(kid, str):
        raise TrustError("It is not signed in the way of a Health Card.")
    try:
        claims = json.loads(inflated(_bytes(parts[1])))
    except (ValueError, RecursionError):
        raise TrustError from None
    if not isinstance(claims, dict):
        raise TrustError
    return kid, claims


def verify_card(token: str, key_set: Mapping[str, Any]) -> None:
    """Raise TrustError unless a key of the set signed a Health Card: P-256, named by thumbprint."""
    from joserfc import jws  # noqa: PLC0415 - see above
    from joserfc.errors import JoseError  # noqa: PLC0415 - see above

    kid, _ = card_claims(token)
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)  # `zip` in a JWS
    for key in _usable_keys(key_set, "ES256", kid):
        if key.thumbprint() != kid or key.as_dict().get("crv") != "P-256":
            continue
        try:
            jws.deserialize_compact(token, key, registry=registry)
        except (JoseError, ValueError):
            break
        return
    raise TrustError("The signature does not fit the issuer's keys.")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TrustError from None


def thumbprint(key: Mapping[str, Any]) -> str | None:
    """Return the id that RFC 7638 gives a public key, whatever it calls itself; None: unusable."""
    sound = _sound_key(dict(key))
    return None if sound is None else sound.thumbprint()


def read_public(text: str) -> dict[str, Any]:
    """Return a public key written as JWK or PEM, as JWK; its id is RFC 7638's. Raises TrustError.

    Weak and private keys are refused: a private one that travelled is known to others.
    """
    from joserfc.errors import JoseError  # noqa: PLC0415 - see above
    from joserfc.jwk import ECKey, OKPKey, RSAKey  # noqa: PLC0415 - see above

    given = text.strip()
    if len(given) > MAX_TOKEN or "PRIVATE KEY" in given:
        raise TrustError("This is no public key.")
    try:
        raw = json.loads(given) if given.startswith("{") else None
        if raw is None:
            kind = RSAKey if _is_rsa(given.encode()) else ECKey
            raw = dict(kind.import_key(given).as_dict(private=False))
        key = _sound_key(raw) if isinstance(raw, dict) and raw.get("kty") in _KINDS else None
    except (JoseError, ValueError, TypeError, RecursionError):
        key = None
    if not isinstance(key, RSAKey | ECKey | OKPKey):
        raise TrustError("This public key cannot be read, or it is too weak.")
    return dict(key.as_dict(private=False)) | {"kid": key.thumbprint(), "use": "sig"}


_KINDS: Final = frozenset({"RSA", "EC", "OKP"})


def _is_rsa(pem: bytes) -> bool:
    return isinstance(load_pem_public_key(pem), RSAPublicKey)
