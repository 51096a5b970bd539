"""Bodies as they sleep: received bytes, zstd-compressed with a dictionary, given back unchanged.

A general dictionary (trained on generated data only, see `phr.bench.dictionary`) is shipped; each
connection gets its own, trained inside the vault. A frame names its dictionary.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

import zstandard
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from phr import ids
from phr.errors import Damaged

GENERAL_ID: Final = 40_000
LEVEL: Final = 1  # with a dictionary, 3 saves 3 % of the bytes and costs a third more time
OWN_BYTES: Final = 48 * 1024  # size of a connection's own dictionary
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_ID_BYTES: Final = (0, 1, 2, 4)


@cache
def general() -> bytes:
    """Return the shipped dictionary."""
    return (files("phr.store") / "general.zdict").read_bytes()


class Packer:
    """Compresses bodies for one connection. Not for several threads."""

    def __init__(self, dictionary: bytes | None = None) -> None:
        held = zstandard.ZstdCompressionDict(dictionary or general())
        held.precompute_compress(level=LEVEL)
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=held)

    def pack(self, contents: list[bytes]) -> list[bytes]:
        """Compress several bodies in one call."""
        if not contents:
            return []
        found = self._compressor.multi_compress_to_buffer(
            list[bytes | bytearray | memoryview](contents)
        )
        return [found[number].tobytes() for number in range(len(found))]


def packer(session: Session, connection_id: int) -> Packer:
    """Return a packer with the connection's newest dictionary, or the general one."""
    row = session.connection().exec_driver_sql(
        "SELECT bytes FROM dictionary WHERE connection = ? ORDER BY made DESC, id LIMIT 1",
        (connection_id,),
    )
    return Packer(row.scalar())


def unpack(session: Session, blob: bytes) -> bytes:
    """Return the received bytes of a stored body."""
    return unpacker(session)(blob)


def unpacker(session: Session) -> Callable[[bytes], bytes]:
    """Return a function that gives the received bytes of stored bodies.

    Decompressors stay with the database connection: they end with it, and no two threads share one.
    """
    bound = cast(Connection, session.get_bind())  # `Database.read` and `write` bind one
    held: dict[int, Any] = bound.info.setdefault("unpackers", {})

    def opened(blob: bytes) -> bytes:
        number = dictionary_id(blob)
        opener = held.get(number)
        if opener is None:
            opener = held[number] = _opener(session, number).decompress
        content: bytes = opener(blob)
        return content

    return opened


def _opener(session: Session, number: int) -> Any:
    if number == 0:
        return zstandard.ZstdDecompressor()
    if number == GENERAL_ID:
        content: bytes | None = general()
    else:
        content = (
            session.connection()
            .exec_driver_sql("SELECT bytes FROM dictionary WHERE id = ?", (number,))
            .scalar()
        )
    if content is None:
        raise Damaged("A compression dictionary of this record is missing.")
    return zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(content))


def dictionary_id(blob: bytes) -> int:
    """Return the dictionary id in a zstd frame header (RFC 8878 §3.1.1.1), 0 for none."""
    if blob[:4] != _MAGIC:
        raise Damaged
    size = _ID_BYTES[blob[4] & 3]
    at = 5 if blob[4] & 32 else 6  # a single segment has no window descriptor
    return int.from_bytes(blob[at : at + size], "little")


def train(samples: Sequence[bytes], size: int = OWN_BYTES) -> tuple[int, bytes]:
    """Train a dictionary and return (its id, its bytes); the id is random, above the general's."""
    number = GENERAL_ID + 1 + int.from_bytes(ids.random_bytes(3), "big")
    made = zstandard.train_dictionary(size, list(samples), k=512, d=8, dict_id=number)
    return number, made.as_bytes()


def plain(content: bytes, level: int = 3) -> bytes:
    """Compress content that shares nothing with others (attachments, quarantined items)."""
    return zstandard.ZstdCompressor(level=level).compress(content)
