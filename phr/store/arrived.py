"""Mail that came and waits for its vault: sealed to the vault's public key, a file for each.

One way for open and sealed records: what was taken in is on the disk before the sender hears so,
and only its vault reads it again. Nothing of it is checked here: that is `phr.receive`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from sqlalchemy import delete, select

from phr import clock
from phr.errors import Conflict, Damaged
from phr.store import files, slots
from phr.store.house import House
from phr.store.models import MailRoute
from phr.store.vault import Vault, Vaults

MOST_FILES: Final = 500  # that wait for one vault
MOST_BYTES: Final = 256 << 20  # of them together, on the disk
_ENDING: Final = ".box"
_DIGITS: Final = 32  # of a mail's hash in the name of its file


@dataclass(frozen=True, slots=True)
class Mail:
    """What came: the envelope as SMTP said it, and the message byte for byte."""

    sender: str
    recipients: tuple[str, ...]
    at: datetime
    raw: bytes = field(repr=False)
    vouched: bool = False  # read in the mailbox of a provider who opened and checked it

    @property
    def hash(self) -> bytes:
        """SHA-256 of envelope and message: the same mail again has the same."""
        envelope = "\n".join([self.sender.lower(), *sorted(map(str.lower, self.recipients))])
        way = b"vouched\n" if self.vouched else b""  # the same from a stranger is another mail
        return sha256(way + envelope.encode() + b"\0" + self.raw).digest()


# ------------------------------------------------------------------ whose an address is


def route(house: House, patient_id: str, addresses: Iterable[str]) -> None:
    """Say which addresses are a patient's from now on; others of theirs are forgotten.

    Raises Conflict where one is somebody else's in this house.
    """
    wanted = {each.lower() for each in addresses}
    with house.write() as session:
        for address in wanted:
            held = session.get(MailRoute, address)
            if held is not None and held.patient_id != patient_id:
                raise Conflict("This Direct address belongs to another record of this house.")
        own = MailRoute.patient_id == patient_id
        session.execute(delete(MailRoute).where(own, MailRoute.address.not_in(wanted)))
        for address in wanted:
            session.merge(MailRoute(address=address, patient_id=patient_id))


def whose(house: House, address: str) -> str | None:
    """Return the patient whose an address is; None where it is nobody's here."""
    with house.read() as session:
        query = select(MailRoute.patient_id).where(MailRoute.address == address.lower())
        return session.scalar(query)


# ------------------------------------------------------------------ what waits


def put_aside(vaults: Vaults, patient_id: str, mail: Mail) -> None:
    """Seal a mail to a vault; when this returns it is on the disk, once.

    Raises Conflict when too much waits for this vault, VaultError when the disk does not take it.
    """
    key = X25519PublicKey.from_public_bytes(vaults.slots_of(patient_id).box_key)
    _put(vaults.house, patient_id, key, mail)


def put_aside_here(vault: Vault, mail: Mail) -> None:
    """Seal a mail to an open vault, as `put_aside` does, with the same errors."""
    key = X25519PrivateKey.from_private_bytes(vault.box_private).public_key()
    _put(vault.house, vault.id, key, mail)


def _put(house: House, patient_id: str, key: X25519PublicKey, mail: Mail) -> None:
    folder = _folder(house, patient_id)
    held = _files(folder)
    name = mail.hash.hex()[:_DIGITS]
    if any(path.stem.endswith(name) for path in held):
        return  # its sender did not hear that it was taken, and sent it again
    envelope = {
        "from": mail.sender,
        "to": mail.recipients,
        "at": clock.to_ms(mail.at),
        "vouched": mail.vouched,
    }
    plain = b"%b\n%b" % (json.dumps(envelope).encode(), mail.raw)
    box = slots.SUITE.encrypt(plain, key, _bound(patient_id))
    if len(held) >= MOST_FILES or sum(map(_size, held)) + len(box) > MOST_BYTES:
        raise Conflict("Too much mail waits for this record.")
    with files.in_words():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_atomically(folder / f"{clock.to_ms(mail.at):015d}-{name}{_ENDING}", box)


def waiting(house: House, patient_id: str) -> list[Path]:
    """Return what waits for a vault, the oldest first."""
    return sorted(_files(_folder(house, patient_id)))


def take(vault: Vault, path: Path) -> Mail:
    """Return a mail that waits. It stays until `drop`. Raises Damaged where it cannot be read."""
    try:
        key = X25519PrivateKey.from_private_bytes(vault.box_private)
        plain = slots.SUITE.decrypt(path.read_bytes(), key, _bound(vault.id))
        envelope, _, raw = plain.partition(b"\n")
        said = json.loads(envelope)
        return Mail(
            sender=str(said["from"]),
            recipients=tuple(map(str, said["to"])),
            at=clock.from_ms(int(said["at"])),
            raw=raw,
            vouched=said["vouched"] is True,
        )
    except (OSError, InvalidTag, KeyError, TypeError, ValueError) as error:
        raise Damaged("A mail that waited cannot be read.") from error


def drop(path: Path) -> None:
    """Remove what was taken; the vault remembers what became of it."""
    with files.in_words():
        path.unlink(missing_ok=True)


def _bound(patient_id: str) -> bytes:
    """Return what a box is bound to (RFC 9180 §5.1, `info`): it opens as this and nothing else."""
    return f"homeport 1 mail {patient_id}".encode()


def _folder(house: House, patient_id: str) -> Path:
    return house.data / files.ARRIVALS / patient_id


def _files(folder: Path) -> list[Path]:
    return list(folder.glob(f"*{_ENDING}"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # taken meanwhile
        return 0
