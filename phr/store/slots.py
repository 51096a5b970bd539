"""Wrapped keys: account keys under password and recovery kit, vault keys under member keys.

Pure cryptography and the slots file of a vault; no database. Everything unwrapped here was
authenticated together with its parameters, and those are bounded before anything is run.
"""

import base64
import binascii
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from phr import ids
from phr.errors import Damaged, NewerSchema, WrongSecret
from phr.store import files

FORMAT = 1
KEY_BYTES = 32
NONCE_BYTES = 12
SALT_BYTES = 16
KIT_BYTES = 20  # 160 bits: 32 characters of Crockford's base32
KIT_GROUPS = 8
KIT_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LARGEST_FILE = 1_000_000

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)  # RFC 9180 §7


# ---------------------------------------------------------------------- password hashing


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id parameters (RFC 9106): memory in KiB, passes, lanes."""

    memory: int
    passes: int
    lanes: int = 1


FLOOR = Cost(19 * 1024, 2)
CEILING = Cost(1024 * 1024, 10, 4)
LADDER = (
    FLOOR,
    Cost(32 * 1024, 2),
    Cost(46 * 1024, 3),
    *(Cost(64 * 1024, passes) for passes in range(3, 11)),
)  # never more than 64 MiB: time is bought with passes, small boxes keep their memory

_one_at_a_time = threading.Lock()  # a flood of sign-ins must not become a flood of memory


def bounded(cost: Cost) -> Cost:
    """Return `cost`, or raise Damaged before anything is run with parameters out of bounds."""
    fits = (
        FLOOR.memory <= cost.memory <= CEILING.memory
        and FLOOR.passes <= cost.passes <= CEILING.passes
        and FLOOR.lanes <= cost.lanes <= CEILING.lanes
    )
    if not fits:
        raise Damaged(
            "The settings of this wrapped key are outside the permitted bounds. It was not tried."
        )
    return cost


def stretch(password: str, salt: bytes, cost: Cost) -> bytes:
    """Return 32 bytes of Argon2id(password); one run at a time in this process."""
    bounded(cost)
    with _one_at_a_time:
        return hash_secret_raw(
            password.encode(),
            salt,
            time_cost=cost.passes,
            memory_cost=cost.memory,
            parallelism=cost.lanes,
            hash_len=KEY_BYTES,
            type=Type.ID,
        )


@cache
def calibrated(seconds: float = 0.35) -> Cost:
    """Return the dearest cost of LADDER expected to take at most `seconds` here; at least FLOOR."""
    began = time.perf_counter()
    stretch("calibration", bytes(SALT_BYTES), FLOOR)
    unit = (time.perf_counter() - began) / (FLOOR.memory * FLOOR.passes)
    fitting = [cost for cost in LADDER if cost.memory * cost.passes * unit <= seconds]
    return fitting[-1] if fitting else FLOOR


def derive(key: bytes, purpose: str, salt: bytes | None = None) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869) for one purpose."""
    return HKDF(SHA256(), KEY_BYTES, salt, f"homeport 1 {purpose}".encode()).derive(key)


# ---------------------------------------------------------------------- account keys


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair, raw bytes (RFC 7748)."""

    private: bytes = field(repr=False)
    public: bytes


def new_key_pair() -> KeyPair:
    """Return a fresh key pair."""
    private = X25519PrivateKey.generate()
    return KeyPair(private.private_bytes_raw(), private.public_key().public_bytes_raw())


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def fingerprint_words(public_key: bytes) -> str:
    """Return what two people compare: 80 bits of SHA-256 as four groups of four characters."""
    digest = hashlib.sha256(b"homeport member key\0" + public_key).digest()
    letters = _base32(digest[:10])
    return " ".join(letters[at : at + 4] for at in range(0, 16, 4))


def wrap_by_password(pair: KeyPair, account_id: str, password: str, cost: Cost) -> dict[str, Any]:
    """Wrap the private key under Argon2id(password); the parameters are authenticated with it."""
    kdf = {
        "name": "argon2id",
        "memory": cost.memory,
        "passes": cost.passes,
        "lanes": cost.lanes,
        "salt": _text(ids.random_bytes(SALT_BYTES)),
    }
    return _wrap(pair, account_id, "password", kdf, password)


def wrap_by_kit(pair: KeyPair, account_id: str, kit: bytes) -> dict[str, Any]:
    """Wrap the private key under the 160 random bits of a recovery kit (HKDF: nothing to guess)."""
    kdf = {"name": "hkdf-sha256", "salt": _text(ids.random_bytes(SALT_BYTES))}
    return _wrap(pair, account_id, "kit", kdf, kit)


def unwrap(wrap: Mapping[str, Any], secret: str | bytes) -> KeyPair:
    """Open a wrap by its password (str) or kit (bytes). Raises WrongSecret, or Damaged."""
    try:
        nonce, box = _bytes(wrap["nonce"]), _bytes(wrap["box"])
        public, bound = _bytes(wrap["public_key"]), _bound(wrap)
        key = _wrapping_key(wrap["kdf"], wrap["kind"], secret)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged("A wrapped key cannot be read.") from error
    try:
        private = AESGCM(key).decrypt(nonce, box, bound)
    except (InvalidTag, ValueError) as error:
        raise WrongSecret from error
    if public_of(private) != public:
        raise Damaged("A wrapped key does not belong to its account.")
    return KeyPair(private, public)


def cost_of(wrap: Mapping[str, Any]) -> Cost:
    """Return the Argon2id cost of a password wrap."""
    kdf = wrap["kdf"]
    return Cost(int(kdf["memory"]), int(kdf["passes"]), int(kdf["lanes"]))


def _wrap(
    pair: KeyPair, account_id: str, kind: str, kdf: dict[str, Any], secret: str | bytes
) -> dict[str, Any]:
    wrap: dict[str, Any] = {
        "format": FORMAT,
        "kind": kind,
        "account": account_id,
        "public_key": _text(pair.public),
        "kdf": kdf,
    }
    nonce = ids.random_bytes(NONCE_BYTES)
    box = AESGCM(_wrapping_key(kdf, kind, secret)).encrypt(nonce, pair.private, _bound(wrap))
    return {**wrap, "nonce": _text(nonce), "box": _text(box)}


def _wrapping_key(kdf: Mapping[str, Any], kind: str, secret: str | bytes) -> bytes:
    salt = _bytes(kdf["salt"])
    if isinstance(secret, str):
        if kdf["name"] != "argon2id" or kind != "password":
            raise WrongSecret
        cost = Cost(int(kdf["memory"]), int(kdf["passes"]), int(kdf["lanes"]))
        return derive(stretch(secret, salt, cost), "password wrap")
    if kdf["name"] != "hkdf-sha256" or kind != "kit":
        raise WrongSecret
    return derive(secret, "kit wrap", salt)


def _bound(wrap: Mapping[str, Any]) -> bytes:
    names = ("format", "kind", "account", "public_key", "kdf")
    return _canonical({name: wrap[name] for name in names})


# ---------------------------------------------------------------------- the recovery kit


def spell_kit(kit: bytes) -> str:
    """Return the kit as people see it: 8 groups of 4 characters and one check character."""
    letters = _base32(kit)
    groups = [letters[at : at + 4] for at in range(0, len(letters), 4)]
    return "-".join(group + _check(group, number) for number, group in enumerate(groups, 1))


def read_kit(text: str) -> bytes:
    """Return the 20 bytes of a typed kit; case, spaces, O/0 and I/L/1 do not matter.

    Raises WrongSecret that names the group with the typo; the kit itself is not tried then.
    """
    typed = text.upper().translate(str.maketrans("OIL", "011", " -\t\r\n\u2013\u2014_."))
    if len(typed) != KIT_GROUPS * 5:
        raise WrongSecret(
            f"A recovery code has 8 groups of 5 characters; this one has {len(typed)} characters."
        )
    groups = [typed[at : at + 5] for at in range(0, len(typed), 5)]
    for number, group in enumerate(groups, 1):
        if set(group) - set(KIT_ALPHABET) or _check(group[:4], number) != group[4]:
            raise WrongSecret(f"There is a typo in group {number} of the recovery code.")
    value = 0
    for letter in "".join(group[:4] for group in groups):
        value = value * 32 + KIT_ALPHABET.index(letter)
    return value.to_bytes(KIT_BYTES, "big")


def _check(group: str, number: int) -> str:
    """Return the check character: a polynomial over GF(32), so one typo or one swap never hides."""
    value = number
    for letter in group:
        value = _times_x(value) ^ KIT_ALPHABET.index(letter)
    return KIT_ALPHABET[_times_x(value)]


def _times_x(value: int) -> int:
    doubled = value << 1
    return doubled ^ 0b100101 if doubled & 0b100000 else doubled  # x^5 + x^2 + 1


def _base32(data: bytes) -> str:
    value, letters = int.from_bytes(data, "big"), []
    for _ in range(len(data) * 8 // 5):
        value, digit = divmod(value, 32)
        letters.append(KIT_ALPHABET[digit])
    return "".join(reversed(letters))


# ---------------------------------------------------------------------- slots of a vault


@dataclass(frozen=True, slots=True)
class Pinned:
    """A member as pinned in the vault, with the wraps of the account's private key to carry."""

    account_id: str
    public_key: bytes
    wraps: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Slot:
    """The vault key sealed to one member, and the wraps of that member's private key."""

    account_id: str
    public_key: bytes
    sealed: bytes = field(repr=False)
    wraps: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Ring:
    """All slots of one vault key. `house` is there only when the vault opens by itself."""

    key_id: str
    slots: tuple[Slot, ...]
    house: bytes | None = field(default=None, repr=False)
    mac: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Slots:
    """A slots file: the current ring and, while the key is being changed, the pending one.

    `box_key` is the vault's public key, for what happens while it is sealed. `generation` counts
    the writings of this file, so that an older one is noticed.
    """

    vault_id: str
    box_key: bytes
    current: Ring
    pending: Ring | None = None
    generation: int = 1

    @property
    def rings(self) -> tuple[Ring, ...]:
        """Return the current ring and the pending one, if any."""
        return (self.current,) if self.pending is None else (self.current, self.pending)


def key_id(key: bytes) -> str:
    """Return a short public name of a vault key."""
    return derive(key, "vault key id")[:8].hex()


def make_ring(
    vault_id: str, key: bytes, members: Iterable[Pinned], house_key: bytes | None
) -> Ring:
    """Seal a vault key to every member by HPKE, and to the house when its key is given."""
    name = key_id(key)
    slots = tuple(
        Slot(
            member.account_id,
            member.public_key,
            _seal_to(member, vault_id, name, key),
            tuple(member.wraps),
        )
        for member in members
    )
    return Ring(name, slots, house_key and _house_slot(house_key, vault_id, name, key))


def with_house(ring: Ring, vault_id: str, key: bytes, house_key: bytes | None) -> Ring:
    """Return the ring with a house slot, or without one."""
    return replace(ring, house=house_key and _house_slot(house_key, vault_id, ring.key_id, key))


def keys_for_member(slots: Slots, account_id: str, pair: KeyPair) -> list[bytes]:
    """Return every vault key (current, then pending) that this member's private key opens."""
    found = []
    for ring in slots.rings:
        for slot in ring.slots:
            if slot.account_id == account_id:
                info = _slot_info(slots.vault_id, slot.account_id, slot.public_key, ring.key_id)
                private = X25519PrivateKey.from_private_bytes(pair.private)
                try:
                    found.append(SUITE.decrypt(slot.sealed, private, info))
                except (InvalidTag, ValueError):
                    continue
    return found


def keys_for_house(slots: Slots, house_key: bytes) -> list[bytes]:
    """Return every vault key (current, then pending) that the house slot gives."""
    found = []
    for ring in slots.rings:
        if ring.house:
            nonce, box = ring.house[:NONCE_BYTES], ring.house[NONCE_BYTES:]
            try:
                cipher = AESGCM(derive(house_key, "house slot"))
                found.append(cipher.decrypt(nonce, box, _house_info(slots.vault_id, ring.key_id)))
            except (InvalidTag, ValueError):
                continue
    return found


def signed(slots: Slots, keys: Iterable[bytes]) -> Slots:
    """Return the slots with each ring authenticated under its own vault key."""
    by_name = {key_id(key): key for key in keys}
    rings = [replace(ring, mac=_mac(slots, ring, by_name[ring.key_id])) for ring in slots.rings]
    return replace(slots, current=rings[0], pending=rings[1] if len(rings) > 1 else None)


def authentic(slots: Slots, key: bytes) -> bool:
    """Tell whether the ring of this vault key is exactly as a holder of the key wrote it."""
    name = key_id(key)
    return any(
        ring.key_id == name and hmac.compare_digest(_mac(slots, ring, key), ring.mac)
        for ring in slots.rings
    )


def _seal_to(member: Pinned, vault_id: str, name: str, key: bytes) -> bytes:
    info = _slot_info(vault_id, member.account_id, member.public_key, name)
    return SUITE.encrypt(key, X25519PublicKey.from_public_bytes(member.public_key), info)


def _house_slot(house_key: bytes, vault_id: str, name: str, key: bytes) -> bytes:
    nonce = ids.random_bytes(NONCE_BYTES)
    cipher = AESGCM(derive(house_key, "house slot"))
    return nonce + cipher.encrypt(nonce, key, _house_info(vault_id, name))


def _slot_info(vault_id: str, account_id: str, public_key: bytes, name: str) -> bytes:
    return _canonical(["slot", FORMAT, "member", vault_id, account_id, _text(public_key), name])


def _house_info(vault_id: str, name: str) -> bytes:
    return _canonical(["slot", FORMAT, "house", vault_id, name])


def _mac(slots: Slots, ring: Ring, key: bytes) -> bytes:
    covered = [slots.vault_id, _text(slots.box_key), slots.generation, _plain_ring(ring)]
    return hmac.digest(derive(key, "slots file"), _canonical(["slots", FORMAT, *covered]), "sha256")


# ---------------------------------------------------------------------- the sealed box


def put_in_box(box_key: bytes, vault_id: str, content: Mapping[str, Any]) -> bytes:
    """Encrypt what happened at a sealed vault to the vault's public key (HPKE)."""
    public = X25519PublicKey.from_public_bytes(box_key)
    return SUITE.encrypt(_canonical(content), public, f"homeport 1 box {vault_id}".encode())


def take_from_box(private: bytes, vault_id: str, box: bytes) -> dict[str, Any]:
    """Return what `put_in_box` encrypted. Raises Damaged."""
    key = X25519PrivateKey.from_private_bytes(private)
    try:
        content = json.loads(SUITE.decrypt(box, key, f"homeport 1 box {vault_id}".encode()))
    except (InvalidTag, ValueError) as error:
        raise Damaged("A note from the time the record was sealed cannot be read.") from error
    return dict(content)


# ---------------------------------------------------------------------- the file


def write_file(path: Path, slots: Slots) -> None:
    """Write the slots file atomically (0600): new name, fsync, rename, fsync of the folder."""
    rings = [{**_plain_ring(ring), "mac": _text(ring.mac)} for ring in slots.rings]
    content = {
        "format": FORMAT,
        "vault": slots.vault_id,
        "box_key": _text(slots.box_key),
        "generation": slots.generation,
        "rings": rings,
    }
    files.write_atomically(path, json.dumps(content, indent=1).encode())


def read_file(path: Path) -> Slots:
    """Read a slots file. Raises Damaged (missing, cut, not ours) or NewerSchema."""
    try:
        data = path.read_bytes()
        if len(data) > LARGEST_FILE:
            raise Damaged("The key slots of this record are damaged.")
        return parse(data)
    except OSError as error:
        raise Damaged("The key slots of this record are missing. Restore a backup.") from error


def parse(data: bytes) -> Slots:
    """Return the slots in the bytes of a slots file. Raises Damaged or NewerSchema."""
    try:
        content = json.loads(data)
        if content["format"] > FORMAT:
            raise NewerSchema
        rings = [_read_ring(ring) for ring in content["rings"][:2]]
        return Slots(
            str(content["vault"]),
            _bytes(content["box_key"]),
            rings[0],
            rings[1] if len(rings) > 1 else None,
            int(content["generation"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise Damaged("The key slots of this record are damaged. Restore a backup.") from error


def _plain_ring(ring: Ring) -> dict[str, Any]:
    return {
        "key": ring.key_id,
        "slots": [_plain_slot(slot) for slot in ring.slots],
        "house": ring.house and _text(ring.house),
    }


def _plain_slot(slot: Slot) -> dict[str, Any]:
    return {
        "account": slot.account_id,
        "public_key": _text(slot.public_key),
        "sealed": _text(slot.sealed),
        "wraps": [dict(wrap) for wrap in slot.wraps],
    }


def _read_ring(plain: Mapping[str, Any]) -> Ring:
    slots: Sequence[Mapping[str, Any]] = plain["slots"]
    read = tuple(
        Slot(
            str(slot["account"]),
            _bytes(slot["public_key"]),
            _bytes(slot["sealed"]),
            tuple(dict(wrap) for wrap in slot["wraps"]),
        )
        for slot in slots
    )
    return Ring(
        str(plain["key"]), read, plain["house"] and _bytes(plain["house"]), _bytes(plain["mac"])
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
