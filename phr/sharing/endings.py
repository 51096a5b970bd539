"""Grants that stopped or were narrowed in this process, and who waits to hear of it.

The truth is the grant's state in the vault; this is the bell that rings without asking the vault,
so that a running download is cut and an open page goes blank at once.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_stopped: set[str] = set()
_over: set[str] = set()  # of these, those that ended for good
_shut: set[str] = set()  # routing ids that lead to these
_turns: dict[str, int] = {}
_waiting: dict[str, set["Watch"]] = {}


class Watch:
    """One asyncio task waiting for the end of one grant."""

    def __init__(self, grant_id: str) -> None:
        """Belong to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self.grant_id = grant_id

    def ring(self) -> None:
        """Wake the waiting task; callable from any thread, also while its loop is closing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bell.set)

    async def ended(self, seconds: float) -> bool:
        """Wait at most `seconds`; return True when the grant has stopped or covers less now."""
        try:
            await asyncio.wait_for(self._bell.wait(), seconds)
        except TimeoutError:
            return False
        return True


def announce(grant_id: str) -> None:
    """Remember that this grant has stopped and wake everyone who waits for it (any thread)."""
    with _lock:
        _stopped.add(grant_id)
    wake(grant_id)


def announce_end(grant_id: str) -> None:
    """Do the same for a grant that will never stand again."""
    with _lock:
        _over.add(grant_id)
    announce(grant_id)


def over(grant_id: str) -> bool:
    """Say whether this grant ended for good since the process started."""
    return grant_id in _over


def shut(routing_ids: Iterable[str]) -> None:
    """Remember that what these lead to ended for good."""
    with _lock:
        _shut.update(routing_ids)


def is_shut(routing_id: str) -> bool:
    """Say whether what this leads to ended for good since the process started."""
    return routing_id in _shut


def turn(grant_id: str) -> int:
    """Return how often this grant was narrowed since the process started."""
    return _turns.get(grant_id, 0)


def narrowed(grant_id: str) -> None:
    """Cut what was released before the grant covered less; to be called before the commit."""
    with _lock:
        _turns[grant_id] = _turns.get(grant_id, 0) + 1


def wake(grant_id: str) -> None:
    """Wake everyone who waits on this grant: open pages ask again and see less (any thread)."""
    with _lock:
        watches = list(_waiting.get(grant_id, ()))
    for watch in watches:
        watch.ring()


def forget(grant_id: str) -> None:
    """Take a stop back: a suspended grant was started again."""
    with _lock:
        _stopped.discard(grant_id)


def stopped(grant_id: str) -> bool:
    """Say whether this grant was stopped since the process started."""
    return grant_id in _stopped


def watching(grant_id: str) -> int:
    """Return how many pages of this grant are open and listening."""
    with _lock:
        return len(_waiting.get(grant_id, ()))


@contextmanager
def watch(grant_id: str) -> Iterator[Watch]:
    """Listen for the end of a grant from a running event loop; rings at once if it has ended."""
    listener = Watch(grant_id)
    with _lock:
        _waiting.setdefault(grant_id, set()).add(listener)
        already = grant_id in _stopped
    if already:
        listener.ring()
    try:
        yield listener
    finally:
        with _lock:
            _waiting[grant_id].discard(listener)
            if not _waiting[grant_id]:
                del _waiting[grant_id]
