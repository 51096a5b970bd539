"""Which lines of the log one token causes: one for its like within a minute, and not too many.

What a token may read is decided in `gate`, which also writes the log; this only remembers.
"""

from datetime import datetime, timedelta
from threading import Lock
from typing import Final

BURST: Final = timedelta(minutes=1)  # for so long a line stands for all requests of its like
LINES_AT_MOST: Final = 60  # of one token within that, told one by one
MOST_TOKENS = 1_000  # remembered; then all are forgotten, and each writes its lines again

Token = tuple[str, bytes]  # id of the vault, fingerprint of the secret
Line = tuple[str, tuple[tuple[str, str], ...]]  # the event, and the detail beside it
MANY: Final[Line] = ("api.many", ())

_lock = Lock()
_standing: dict[Token, dict[Line, datetime]] = {}  # until when each line stands


def due(token: Token, line: Line, *, now: datetime) -> Line | None:
    """Return the line to write for a request; None where a written one stands for it.

    Beyond LINES_AT_MOST within BURST that is MANY. A line without detail is always told: there
    are few of them, and nobody hides behind many small requests that everything was fetched.
    """
    with _lock:
        standing = {one: until for one, until in _standing.get(token, {}).items() if until > now}
    if line[1] and line not in standing and len(standing) >= LINES_AT_MOST:
        line = MANY
    return None if line in standing else line


def written(token: Token, line: Line, *, now: datetime) -> None:
    """Remember a line that is in the log now."""
    with _lock:
        if token not in _standing and len(_standing) >= MOST_TOKENS:
            _standing.clear()
        standing = _standing.get(token, {})
        _standing[token] = {one: until for one, until in standing.items() if until > now}
        _standing[token][line] = now + BURST
