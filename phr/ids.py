"""The only place that makes identifiers and secrets."""

import base64
import hashlib
import hmac
import secrets
import uuid

ROUTING_BYTES = 16  # 128 bits: public, random, unguessable, but not a secret
SECRET_BYTES = 32


def new_id() -> str:
    """Return a random 128-bit identifier as 32 hex digits (patients, accounts, grants, ...)."""
    return secrets.token_hex(16)


def new_uuid() -> str:
    """Return a random UUID (RFC 9562 §5.4), where a standard asks for one."""
    return str(uuid.uuid4())


def new_secret(size: int = SECRET_BYTES) -> str:
    """Return a URL-safe secret of `size` random bytes. It is shown once and never stored."""
    return secrets.token_urlsafe(size)


def as_text(raw: bytes) -> str:
    """Return bytes as URL-safe text without padding (RFC 4648 §5), as secrets are written."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def random_bytes(size: int) -> bytes:
    """Return `size` bytes from the system's CSPRNG (keys, salts, nonces)."""
    return secrets.token_bytes(size)


def new_code(digits: int = 6) -> str:
    """Return a decimal code with exactly `digits` digits, leading zeros included."""
    return f"{secrets.randbelow(10**digits):0{digits}d}"


def fingerprint(secret: str | bytes) -> bytes:
    """Return the SHA-256 of a secret: the only form in which a handle is ever stored."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def same(one: str | bytes, other: str | bytes) -> bool:
    """Compare two secrets (or their fingerprints) in constant time."""
    left = one.encode() if isinstance(one, str) else one
    right = other.encode() if isinstance(other, str) else other
    return hmac.compare_digest(left, right)
