"""The only place of the lighthouse that asks what time it is: aware UTC, whole seconds."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, in UTC, cut to seconds: the form in which it is published."""
    return datetime.now(UTC).replace(microsecond=0)
