"""The only place that asks what time it is. Everything inside is aware UTC."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def to_ms(at: datetime) -> int:
    """Return whole milliseconds since 1970-01-01T00:00Z; the form in which instants are stored."""
    return round(at.timestamp() * 1000)


def from_ms(ms: int) -> datetime:
    """Return the aware UTC instant of whole milliseconds since 1970-01-01T00:00Z."""
    return datetime.fromtimestamp(ms / 1000, UTC)
