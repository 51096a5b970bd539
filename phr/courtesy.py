"""Who goes first inside this process: who stops something, then who waits for a page.

One interpreter runs one thread at a time. A page gives it up at each row that it reads, and would
get it back only after the import's thread had its turn, fifty times over.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

LONGEST: Final = 0.02  # seconds that long work waits at a time
STEP: Final = 0.0005
FRESH: Final = 0.25  # seconds; an answer that takes longer is a stream or long work itself
INTERVAL: Final = 0.0001  # seconds after which a thread that computes lets others run
STOPPING: Final = 0.1  # seconds that anybody else waits at most while something is stopped
STOPS_WITHIN: Final = 1.0  # seconds; what takes longer to stop waits for something itself
TURNS: Final = 0.0005  # the same where nobody waits for a page, 5 ms by itself

_tickets = count()
_answering: dict[int, float] = {}  # when each request came that is being answered
_answered = 0.0  # when the last answer ended
_calm = threading.Event()  # nothing is being stopped
_calm.set()
_stopping: dict[int, float] = {}  # since when each is being stopped
_lock = threading.Lock()


def take_turns() -> None:
    """Let threads of this process wait for each other half a millisecond at a time, not five.

    Threads that fetch need the interpreter some six times for a page of records; while another one
    keeps records, each time would cost the whole interval.
    """
    if sys.getswitchinterval() > TURNS:
        sys.setswitchinterval(TURNS)


@contextmanager
def answering() -> Iterator[None]:
    """Mark that somebody waits for an answer."""
    global _answered  # noqa: PLW0603 - of the whole process, as the interpreter is
    ticket = next(_tickets)
    _answering[ticket] = time.monotonic()
    try:
        yield
    finally:
        _answering.pop(ticket, None)
        _answered = time.monotonic()


def quiet() -> float:
    """Return for how many seconds nobody has waited for an answer."""
    return 0.0 if _answering else time.monotonic() - _answered


@contextmanager
def stopping() -> Iterator[None]:
    """Mark that access is being stopped: whoever reads for others stands back for that moment.

    Each statement of it would otherwise wait for the interpreter behind every thread that reads.
    """
    ticket = next(_tickets)
    with _lock:
        _stopping[ticket] = time.monotonic()
        _calm.clear()
    try:
        yield
    finally:
        with _lock:
            _stopping.pop(ticket, None)
            if not _stopping:
                _calm.set()


def stand_back() -> None:
    """Wait while something is being stopped. Asked in front of every record read for others."""
    if not _stopping:
        return
    newest = max(list(_stopping.values()), default=0.0)
    if time.monotonic() - newest < STOPS_WITHIN:
        _calm.wait(STOPPING)


def give_way() -> None:
    """Let answers go first, for a moment. Long work asks this every millisecond or two."""
    stand_back()
    if not _answering:
        return
    sys.setswitchinterval(INTERVAL)  # of the whole process: it matters only now
    until = time.monotonic() + LONGEST
    while (now := time.monotonic()) < until:
        if all(now - since > FRESH for since in list(_answering.values())):
            return
        time.sleep(STEP)
