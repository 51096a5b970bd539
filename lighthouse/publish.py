"""Makes snapshots: packs a catalogue, makes deltas, signs.

The publisher's side of docs/lighthouse-spec.md. Same content, dates and keys: same bytes.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from lighthouse import lines, logos
from lighthouse.lines import Content
from lighthouse.snapshot import (
    ENVELOPE,
    FORMAT,
    VERSION,
    WINDOW,
    Delegation,
    Delta,
    File,
    Manifest,
    Pack,
    Sum,
    public_bytes,
    signed_text,
    to_text,
)

UNSIGNED = "manifest.json"  # what `build` writes and `sign` signs
LEVEL, DELTA_LEVELS = 19, (12, 17)  # which level is best for a delta depends on the change
DAYS, KEY_DAYS = 30, 90
DELTAS = 7  # how many earlier snapshots get a delta to the newest
_CATALOGUE = re.compile(r"catalogue-(\d+)\.ndjson\.zst")


class NotMade(Exception):
    """A snapshot cannot be made or signed; the text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator decides about a snapshot. `serial` 0: the one after the last."""

    lighthouse: str
    created: datetime
    days: int = DAYS
    serial: int = 0
    deltas: int = DELTAS
    services: Mapping[str, str] = field(default_factory=dict)
    logos: Mapping[str, bytes] = field(default_factory=dict)  # reviewed, by organisation id


# --------------------------------------------------------------------------- packing


def pack(raw: bytes) -> bytes:
    """Return lines as one zstd frame (RFC 8878) with its size in the header."""
    wide = min(max(len(raw) * 2, 1 << 20), WINDOW).bit_length() - 1
    how = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=len(raw), window_log=wide
    )
    return zstandard.ZstdCompressor(compression_params=how).compress(raw)


def delta(before: bytes, after: bytes) -> bytes:
    """Return `after` as one zstd frame with `before` as raw dictionary (`zstd --patch-from`)."""
    wide = min(max((len(before) + len(after)) * 2, 1 << 20), WINDOW).bit_length() - 1
    given = zstandard.ZstdCompressionDict(before, zstandard.DICT_TYPE_RAWCONTENT)
    tried = []
    for level in DELTA_LEVELS:
        how = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=len(after), dict_size=len(before), window_log=wide
        )
        made = zstandard.ZstdCompressor(dict_data=given, compression_params=how).compress(after)
        tried.append(made)
    return min(tried, key=len)


def unpacked(path: Path) -> bytes:
    """Return the lines of an own catalogue file. Raises NotMade."""
    try:
        return zstandard.ZstdDecompressor(max_window_size=WINDOW).decompress(path.read_bytes())
    except (OSError, zstandard.ZstdError) as error:
        raise NotMade(f"{path.name} cannot be read.") from error


def build(content: Content, folder: Path, plan: Plan) -> Manifest:
    """Write catalogue file, deltas from earlier ones in the folder, and the unsigned manifest.

    Where nothing changed since the last snapshot, its file is named again and nothing is packed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = last_manifest(folder)
    serial = plan.serial or (last.serial + 1 if last else 1)
    raw = lines.write(content)
    if not raw:
        raise NotMade("The catalogue is empty: there is nothing to publish.")
    lines.read(raw)  # what no reader would take is not published
    summed = Sum(len(raw), hashlib.sha256(raw).hexdigest())
    if last is not None and last.content == summed and last.serial != serial:
        catalogue = last.catalogue
    else:
        catalogue = _write(folder, f"catalogue-{serial}.ndjson.zst", pack(raw))
    manifest = Manifest(
        lighthouse=plan.lighthouse,
        serial=serial,
        created=plan.created,
        expires=plan.created + timedelta(days=plan.days),
        minimum_client=1,
        catalogue=catalogue,
        content=summed,
        counts={
            "organizations": len(content.organizations),
            "endpoints": len(content.endpoints),
        },
        deltas=_deltas(folder, serial, raw, plan.deltas, catalogue.size),
        services=dict(plan.services),
        logos=_logos(folder, plan.logos),
    )
    _put(folder / UNSIGNED, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    return manifest


def _logos(folder: Path, reviewed: Mapping[str, bytes]) -> Pack | msgspec.UnsetType:
    """Write the file of the logos; the same logos are the same file, fetched once."""
    if not reviewed:
        return msgspec.UNSET
    raw = logos.write(reviewed)
    name = f"logos-{hashlib.sha256(raw).hexdigest()[:16]}.ndjson.zst"
    written = _write(folder, name, pack(raw))
    return Pack(written.file, written.size, written.sha256, len(raw))


def last_manifest(folder: Path) -> Manifest | None:
    """Return the manifest that was built last in a folder, or None."""
    try:
        return msgspec.json.decode((folder / UNSIGNED).read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise NotMade(f"{UNSIGNED} cannot be read.") from error


def _deltas(folder: Path, serial: int, raw: bytes, most: int, whole: int) -> list[Delta]:
    """Write a delta from each of the last catalogue files, where it is smaller than the whole."""
    found = ((_CATALOGUE.fullmatch(one.name), one) for one in folder.iterdir())
    earlier = sorted((int(m[1]), one) for m, one in found if m and int(m[1]) < serial)
    made = []
    for since, path in reversed(earlier[len(earlier) - most :] if most else []):
        before = unpacked(path)
        if before != raw and len(packed := delta(before, raw)) < whole:
            written = _write(folder, f"delta-{since}-{serial}.zst", packed)
            made.append(Delta(written.file, written.size, written.sha256, since))
    return made


def _write(folder: Path, name: str, data: bytes) -> File:
    _put(folder / name, data)
    return File(name, len(data), hashlib.sha256(data).hexdigest())


def _put(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    beside.replace(path)


# --------------------------------------------------------------------------- keys and signatures


def new_key(path: Path) -> str:
    """Write a new Ed25519 key (PEM, 0600) to a file that must not exist; return its public half."""
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError as error:
        raise NotMade(f"{path.name} exists already; a key is never overwritten.") from error
    path.write_bytes(text)
    return public_of(key)


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key. Raises NotMade."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise NotMade(f"{path.name} holds no key that can be read.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise NotMade(f"{path.name} holds no Ed25519 key.")
    return key


def public_of(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key as base64url."""
    return to_text(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def delegate(
    roots: Iterable[Ed25519PrivateKey], signing: Sequence[str], *, starts: datetime, days: int
) -> bytes:
    """Return a delegation: the root keys let signing keys (base64url) sign until a date.

    Its serial is the second it was made in: readers refuse an older one once they saw a newer.
    """
    for key in signing:
        try:
            right = len(public_bytes(key)) == 32
        except ValueError:
            right = False
        if not right:
            raise NotMade(f"{key} is no public key.")
    made = Delegation(
        serial=int(starts.timestamp()),
        starts=starts,
        expires=starts + timedelta(days=days),
        keys=list(signing),
    )
    return msgspec.json.encode(_signed("delegation", msgspec.json.encode(made), roots)) + b"\n"


def _signed(role: str, payload: bytes, keys: Iterable[Ed25519PrivateKey]) -> dict[str, Any]:
    text = signed_text(role, payload)
    signatures = [
        {"key": public_of(key), "signature": to_text(key.sign(text))}
        for key in sorted(keys, key=public_of)
    ]
    return {"payload": to_text(payload), "signatures": signatures}


def files_of(manifest: Manifest) -> list[File]:
    """Return every file that a manifest names."""
    found = [manifest.catalogue, *manifest.deltas]
    return found if manifest.logos is msgspec.UNSET else [*found, manifest.logos]


def sign(folder: Path, delegation: bytes, keys: Sequence[Ed25519PrivateKey]) -> Manifest:
    """Sign the manifest of a folder with delegated keys and write `snapshot.json`. Raises NotMade.

    The files are looked at again: what is signed is what lies there.
    """
    manifest = last_manifest(folder)
    if manifest is None:
        raise NotMade("There is nothing to sign here. Run `lighthouse build` first.")
    for wanted in files_of(manifest):
        data = (folder / wanted.file).read_bytes() if (folder / wanted.file).is_file() else b""
        if hashlib.sha256(data).hexdigest() != wanted.sha256:
            raise NotMade(f"{wanted.file} is not the file that was built.")
    try:
        outer = msgspec.json.decode(delegation)
        inner = msgspec.json.decode(public_bytes(outer["payload"]), type=Delegation)
    except (ValueError, KeyError, TypeError) as error:
        raise NotMade("The delegation cannot be read.") from error
    if not {public_of(key) for key in keys} <= set(inner.keys):
        raise NotMade("The delegation is for another signing key.")
    if not inner.starts <= manifest.created < inner.expires:
        raise NotMade("The delegation does not hold at the time the snapshot was made.")
    envelope = {
        "format": FORMAT,
        "version": VERSION,
        "delegation": outer,
        "manifest": _signed("manifest", msgspec.json.encode(manifest), keys),
    }
    _put(folder / ENVELOPE, msgspec.json.encode(envelope) + b"\n")
    return manifest


def bundle(folder: Path, manifest: Manifest, path: Path) -> None:
    """Write a signed snapshot as one .zip (stored, fixed dates), to be carried by hand."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        pictures = [] if manifest.logos is msgspec.UNSET else [manifest.logos.file]
        for name in (ENVELOPE, manifest.catalogue.file, *pictures):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, (folder / name).read_bytes())
