"""The appliance's signature under a package: a list of its files by SHA-256, and a detached JWS.

RFC 7515 Appendix F, Ed25519 (RFC 8037, RFC 9864). Whoever holds a package can check that nothing
was altered, left out or added since it was made; how, says docs/export.md.
"""

import base64
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import IO, Any, Final, Self

from phr import clock, jwt
from phr.store.house import House

LIST: Final = "signed.json"
SIGNATURE: Final = "signed.jws"
FOLDER: Final = "homeport/"  # of a zip that is brought back: what lies there is no record
JOSE: Final = "application/jose"
ALGORITHM: Final = {"alg": "Ed25519"}  # the name since RFC 9864; EdDSA before
_KEY: Final = "package_key"  # the house's fact


def key_set(house: House) -> dict[str, Any]:
    """Return the public key as a JWK Set (RFC 7517 §5), for those who check a package."""
    return {"keys": [jwt.public_half(_key(house))]}


def _key(house: House) -> dict[str, Any]:
    made: dict[str, Any] = house.setting_or_made(_KEY, lambda: jwt.new_key("EdDSA") | ALGORITHM)
    return made


@dataclass(slots=True)
class Seal:
    """What a package holds so far, by name: SHA-256 and size of each file."""

    house: House
    made: datetime
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    _signed: tuple[bytes, bytes] | None = None

    def noted(self, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass a file on piece by piece, and note what it was when it is through."""
        digest, size = sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        self.files[name] = (digest.hexdigest(), size)

    def listed(self) -> bytes:
        """Return the list of all that was noted: the exact bytes that are signed."""
        return self._sign()[0]

    def signature(self) -> bytes:
        """Return the detached signature of the list: "header..signature"."""
        return self._sign()[1]

    def _sign(self) -> tuple[bytes, bytes]:
        if self._signed is None:
            key = _key(self.house)
            files = [
                {"name": name, "sha256": digest, "size": size}
                for name, (digest, size) in self.files.items()
            ]
            claims = {
                "homeport_signed": 1,
                "made": clock.instant(self.made),
                "key": jwt.public_half(key),
                "files": files,
            }
            head, payload, mark = jwt.sign(claims, key).split(".")
            said = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
            self._signed = said, f"{head}..{mark}".encode()
        return self._signed


class Archive(zipfile.ZipFile):
    """A zip being written that notes each of its files in a seal."""

    seal: Seal

    def open(self, name: Any, mode: Any = "r", *args: Any, **more: Any) -> Any:
        """Open a member; what is written to it is noted."""
        file = super().open(name, mode, *args, **more)
        named = name.filename if isinstance(name, zipfile.ZipInfo) else name
        return _Noting(file, named, self.seal) if mode == "w" else file

    def sign(self) -> None:
        """Write the list and its signature as the last members."""
        said, mark = self.seal.listed(), self.seal.signature()
        self.writestr(f"{FOLDER}{LIST}", said)
        self.writestr(f"{FOLDER}{SIGNATURE}", mark)


class _Noting:
    """A member of a zip on its way: hashed as it is written."""

    def __init__(self, file: IO[bytes], name: str, seal: Seal) -> None:
        self._file, self._name, self._seal = file, name, seal
        self._digest, self._size = sha256(), 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self._size += len(data)
        return self._file.write(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._seal.files[self._name] = (self._digest.hexdigest(), self._size)


def as_json(value: Any) -> bytes:
    """Return JSON as it is published."""
    return json.dumps(value, separators=(",", ":")).encode()
