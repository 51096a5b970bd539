"""The ways out, by the key that stands in `delivery.channel`. Never rename a key, only add.

A new channel is one module here, one line in the table, and its row in `make`'s settings if any.
"""

from collections.abc import Mapping
from pathlib import Path

from phr.sharing.channels.base import Channel
from phr.sharing.channels.folder import Folder

CHANNELS: dict[str, type[Folder]] = {"folder": Folder}


def opened(outbox: Path) -> Mapping[str, Channel]:
    """Return every channel ready for use; `outbox` is the data folder's place for saved parcels."""
    return {kind: channel(outbox) for kind, channel in CHANNELS.items()}
