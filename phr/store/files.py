"""Whole files: written in one step, flushed to the disk; the system's errors in words.

What is inside of them is known elsewhere (`phr.store.slots`, `phr.store.backup`).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phr.errors import VaultError

ARRIVALS = "arrivals"  # folder, in that of the data: mail that waits for its vault, sealed to it
FULL = "The disk is full. This step was not stored; what was stored before is safe."
FAILING = "Reading or writing failed; the disk may be failing. Please check the disk."
WORDS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: FULL,
    errno.EIO: FAILING,
    errno.EROFS: "The data folder cannot be written to. Nothing was changed.",
    errno.EACCES: "A file could not be opened; look at the data folder's owner and rights.",
    errno.EMFILE: "Too many files are open at this moment. Please try again.",
    errno.ENFILE: "Too many files are open at this moment. Please try again.",
}


@contextmanager
def in_words() -> Iterator[None]:
    """Raise what the system says about files as VaultError, with a sentence."""
    try:
        yield
    except OSError as error:
        raise VaultError(sentence(error)) from error


def sentence(error: OSError) -> str:
    """Return what an error of the system means for the person whose disk it is."""
    return WORDS.get(error.errno or 0, FAILING)


def flush(path: Path) -> None:
    """Have a file (or folder) and its entry in its folder on the disk before this returns."""
    for place in (path, path.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step (0600), on the disk before this returns. Raises VaultError."""
    with in_words():
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
