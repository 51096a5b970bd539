"""How the C library treats freed memory: a box of 1 GB must not keep what one large answer took."""

import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = -3  # names of mallopt(3)
_TRIM_THRESHOLD: Final = -1
_ARENA_MAX: Final = -8
_BLOCK: Final = 1 << 20
_ARENAS: Final = 2


def give_back_early() -> bool:
    """Make glibc return freed blocks of 1 MB and more at once; say whether it could be told.

    By itself it raises that threshold up to 32 MB with the first large block freed, for each
    thread's arena: after four hospitals' large pages 130 MB stay with the process (measured).
    Other C libraries (musl, macOS) have no mallopt and no such habit.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wishes = ((_MMAP_THRESHOLD, _BLOCK), (_TRIM_THRESHOLD, 4 * _BLOCK), (_ARENA_MAX, _ARENAS))
    return all(mallopt(name, value) == 1 for name, value in wishes)
