"""What an app asked at the public door, until its patient has answered at the home address.

In memory only and bounded: who floods the door fills his own places and nobody else's.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any

from phr import ids
from phr.errors import TooManyTries

LASTS = timedelta(minutes=10)  # DESIGN §6
MOST = 1000
MOST_OF_ONE = 20  # network


@dataclass(frozen=True, slots=True)
class _Place:
    """What lies here, for whom and until when."""

    what: Any
    whose: str
    until: datetime


class Parking:
    """Places for things that wait ten minutes at most, each under a random id."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}

    def put(self, what: Any, *, whose: str, now: datetime) -> str:
        """Park a thing of a network and return its id. Raises TooManyTries when that is full."""
        with self._lock:
            self._places = {key: one for key, one in self._places.items() if one.until > now}
            mine = sum(one.whose == whose for one in self._places.values())
            if mine >= MOST_OF_ONE or len(self._places) >= MOST:
                raise TooManyTries(after=now + LASTS)
            key = ids.new_id()
            self._places[key] = _Place(what, whose, now + LASTS)
            return key

    def look(self, key: str, now: datetime) -> Any:
        """Return what waits under an id, or None."""
        with self._lock:
            found = self._places.get(key)
        return found.what if found is not None and found.until > now else None

    @contextmanager
    def taken(self, key: str, now: datetime) -> Iterator[Any]:
        """Take what waits under an id while it is answered; it is put back if that fails.

        So of two answers at once only one finds it. Yields None where there is nothing.
        """
        with self._lock:
            place = self._places.pop(key, None)
        if place is None or place.until <= now:
            yield None
            return
        try:
            yield place.what
        except BaseException:
            with self._lock:
                self._places[key] = place
            raise


def wider(network: str) -> str:
    """Return the network whose places are counted together: an IPv6 household has a whole /48."""
    try:
        given = ip_network(network, strict=False)
    except ValueError:
        return network
    return str(given.supernet(new_prefix=48)) if given.version == 6 else network
