"""The only place that asks what time it is. Everything inside is aware UTC."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def to_ms(at: datetime) -> int:
    """Return whole milliseconds since 1970-01-01T00:00Z; the form in which instants are stored.

    Cut, never rounded up: what begins now must not begin in the future.
    """
    return (at - EPOCH) // MILLISECOND


FIRST_MS = to_ms(datetime.min.replace(tzinfo=UTC))
LAST_MS = to_ms(datetime.max.replace(tzinfo=UTC))


def from_ms(ms: int) -> datetime:
    """Return the aware UTC instant of whole milliseconds since 1970-01-01T00:00Z.

    The first or last one there is where none is that early or late: in UTC, what a hospital dates
    `0001-01-01T00:00:00+14:00` lies before year 1.
    """
    if FIRST_MS <= ms <= LAST_MS:
        return EPOCH + ms * MILLISECOND
    return EPOCH + (FIRST_MS if ms < FIRST_MS else LAST_MS) * MILLISECOND


def instant(at: datetime) -> str:
    """Return a FHIR instant in UTC, cut to seconds: "2026-11-22T03:12:00Z" (R4 §2.24.0.1)."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_here(at: datetime) -> str:
    """Return a day as people read it: "9 Nov 2026", in the zone of this box."""
    here = at.astimezone()
    return f"{here.day} {here:%b %Y}"


def minute_here(at: datetime) -> str:
    """Return a day and time as people read it: "9 Nov 2026, 03:12 CET"; the box's zone is named."""
    return f"{day_here(at)}, {at.astimezone():%H:%M %Z}"
