"""Logging: one event a line as `key=value`, identifiers only.

Whatever looks like a secret, a query or free text is cut by the formatter itself, so that a
careless line (ours or a library's) does not leak.
"""

import logging
import re
import sys
import traceback
from types import TracebackType
from typing import TextIO

from phr import clock
from phr.errors import PhrError

QUIET = ("httpx", "httpcore", "uvicorn.access", "apscheduler", "sqlalchemy", "asyncio", "litestar")
PLAIN = re.compile(r"[\w.:/@+\-\[\]]{0,160}")  # a value that may stand as it is
CUTS = (  # foreign lines: what must not pass, and what stands for it
    (re.compile(r"\?[^\s\"'<>]+"), "?[cut]"),
    (re.compile(r"/s/[^\s\"'<>]+"), "/s/[cut]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"']+"), r"\1 [cut]"),
    (re.compile(r"//[^/\s\"'@]+@"), "//[cut]@"),
    (re.compile(r"(?<![\w.\-])(?![0-9a-f]{32}(?![\w.\-]))[A-Za-z0-9_.\-]{40,}"), "[cut]"),
)
LONGEST = 2_000


def event(logger: logging.Logger, name: str, level: int = logging.INFO, **ids: object) -> None:
    """Log one event: a dotted verb and identifiers, counts or durations; never names or values."""
    if logger.isEnabledFor(level):
        pairs = "".join(f" {key}={_value(value)}" for key, value in ids.items())
        logger.log(level, "event=%s%s", name, pairs, extra={"own": True})


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger's lines through the one formatter to `stream` (default: stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        foreign = logging.getLogger(name)
        foreign.handlers.clear()
        foreign.propagate = True


class Lines(logging.Formatter):
    """Formats a record as one line; foreign text is cut, exceptions show places, not messages."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `at=… level=… from=…` and the event, on one line."""
        at = clock.from_ms(round(record.created * 1000)).isoformat(timespec="milliseconds")
        text = record.getMessage()
        if not getattr(record, "own", False):
            text = f'text="{redacted(text)}"'
        line = f"at={at} level={record.levelname.lower()} from={record.name} {text}"
        return f"{line} {_places(record.exc_info)}" if record.exc_info else line


def redacted(text: str) -> str:
    """Return foreign text on one line without queries, link secrets, credentials and tokens."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text[:LONGEST]).replace('"', "'")
    for pattern, stand_in in CUTS:
        line = pattern.sub(stand_in, line)
    return line


def _value(value: object) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if PLAIN.fullmatch(text) else "[cut]"


def _places(
    info: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
) -> str:
    kind, error, trace = info
    if kind is None:
        return ""
    frames = traceback.extract_tb(trace)[-12:]
    places = ",".join(f"{frame.name}:{frame.lineno}" for frame in frames)
    sentence = f' sentence="{redacted(error.sentence)}"' if isinstance(error, PhrError) else ""
    return f"error={kind.__name__} places={places}{sentence}"
