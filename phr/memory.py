"""What a box of 1 GB must not lose memory to: freed blocks that stay, and code that nobody uses."""

import ctypes
import sys
from contextlib import suppress
from typing import Final

_MMAP_THRESHOLD: Final = -3  # names of mallopt(3)
_TRIM_THRESHOLD: Final = -1
_ARENA_MAX: Final = -8
_BLOCK: Final = 128 << 10
_ARENAS: Final = 1  # threads share one interpreter anyway: a second would keep 2 MB of its own
_UNUSED: Final = (  # optional parts of libraries: 0.1 s and 8 MB of every process that has them
    "httpx._main",  # httpx's own command line: rich, pygments
    "trio",  # an event loop beside asyncio, loaded by httpcore where it is installed
)


def give_back_early() -> bool:
    """Make glibc return freed blocks of 128 kB and more at once; say whether it could be told.

    By itself it raises that threshold up to 32 MB with the first large block freed, for each
    thread's arena: after four hospitals' large pages 130 MB stay with the process (measured).
    Other C libraries (musl, macOS) have no mallopt and no such habit.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wishes = ((_MMAP_THRESHOLD, _BLOCK), (_TRIM_THRESHOLD, 4 << 20), (_ARENA_MAX, _ARENAS))
    return all(mallopt(name, value) == 1 for name, value in wishes)


def give_back_now() -> None:
    """Return what lies freed between blocks in use: after a start about 1.5 MB."""
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def leave_out() -> None:
    """Make parts that no module here uses look absent to the libraries that would load them.

    Only before the first import of those libraries; who has loaded one already keeps it.
    """
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # "not there" (import system)
