"""The simplest channel: saves the parcel as files below the outbox folder of the data folder.

The files are readable by whoever reads that folder; they are meant to be carried away.
"""

import os
import re
import shutil
import unicodedata
from pathlib import Path

from phr.errors import DeliveryFailed
from phr.sharing.channels.base import Channel, Parcel, Part, Receipt

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,59}")
UNNAMED = "For a doctor"


def name_for(recipient: str) -> str:
    """Return a folder name like a recipient's name; UNNAMED where none of its letters will do."""
    plain = unicodedata.normalize("NFKD", recipient).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_-]+", " ", plain).strip(" _-")
    return words[:60].rstrip() or UNNAMED


class Folder(Channel):
    """Saves to `<outbox>/<label>-<delivery id>/`: the same delivery gives the same folder."""

    kind = "folder"
    title = "Save to the outbox folder"
    address_label = "A name for the folder"
    repeatable = True

    def __init__(self, outbox: Path) -> None:
        """Write below `outbox`; it is made when it is first needed."""
        self.outbox = outbox

    def problems(self, address: str) -> list[str]:
        """Allow letters, digits, space, dash and underscore, at most 60."""
        if LABEL.fullmatch(address):
            return []
        return ["Please use letters, digits, spaces and dashes only, at most 60."]

    def send(self, parcel: Parcel, address: str) -> Receipt:
        """Write all files aside, flush them to the disk and put them in place at once."""
        if self.problems(address):
            raise DeliveryFailed("This folder name cannot be used.", permanent=True)
        place = self.outbox / f"{address}-{parcel.id}"
        aside = self.outbox / f".{parcel.id}.part"
        try:
            self.outbox.mkdir(mode=0o700, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)  # of an attempt that died
            aside.mkdir(mode=0o700)
            written = sum(_write(aside, part) for part in parcel.parts)
            with parcel.point(lambda: None):  # over before anybody could break it off
                if place.exists():
                    shutil.rmtree(place)
                aside.rename(place)
            _flush(self.outbox)
        except OSError as error:
            raise DeliveryFailed(
                "The outbox folder could not be written; the disk may be full or read-only."
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return Receipt({"folder": place.name, "files": len(parcel.parts), "bytes": written})


def _write(folder: Path, part: Part) -> int:
    handle = os.open(folder / part.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        written = sum(file.write(chunk) for chunk in part.chunks)
        file.flush()
        os.fsync(file.fileno())
    return written


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
