"""Politeness towards FHIR servers: Retry-After, rate headers, the bounded queue between threads."""

import threading
from datetime import UTC, datetime

import pytest

from phr import net
from phr.connectors import rest
from phr.connectors.base import Fetched, Outcome
from phr.connectors.rest import Hopper, Pace, Stopped, in_parallel, rate_pause, retry_after, weight
from phr.errors import TryLater
from phr.fhir.record import Item
from phr.http import Answer

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
PLACE = net.parse("https://ehr.example.org/fhir")


def answer(**headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(429, named, b"", PLACE)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 1),
        ("-1", 1),
        ("17", 17),
        ("1000000000", 86400),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("Sun, 22 Nov 2026 03:00:30 GMT", 30),
        ("Fri, 22 Nov 2999 03:00:30 GMT", 86400),
        ("soon", None),
        ("", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_clamped_between_a_second_and_a_day(text, seconds):
    assert retry_after(answer(retry_after=text), NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"ratelimit_remaining": "3", "ratelimit_reset": "9"}, 0),
        ({"ratelimit_remaining": "0", "ratelimit_reset": "9"}, 9),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "999999"}, 60),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "1000000001"}, 1),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": "never"}, 0),
    ],
    ids=str,
)
def test_rate_headers_hold_the_next_request(headers, seconds):
    assert rate_pause(answer(**headers)) == seconds


def test_repetitions_wait_longer_each_time_with_jitter():
    for attempt in range(4):
        assert 2**attempt * 0.5 <= rest.backoff(attempt) <= 2**attempt * 1.5


def test_a_vendors_rate_is_kept_to():
    pace = Pace(per_minute=6000)
    pace.turn()
    pace.turn()
    assert pace._gap == pytest.approx(0.01)


def page(size: int) -> Fetched:
    return Fetched("Observation", "Observation", Outcome.MORE, (Item(b"x" * size),))


def test_the_queue_is_bounded_by_pages_and_by_bytes():
    hopper = Hopper(pages=2, size=100)
    hopper.put(page(500), 500)  # a single large page may always pass
    added = threading.Event()

    def producer():
        hopper.put(page(10), 10)
        added.set()

    thread = threading.Thread(target=producer)
    thread.start()
    assert not added.wait(0.05)
    hopper.take(1)
    assert added.wait(2)
    thread.join()
    hopper.put(page(10), 10)
    hopper.close()
    with pytest.raises(Stopped):
        hopper.put(page(10), 10)


def test_an_empty_queue_says_so_in_time():
    assert Hopper().take(0.01) is None


def test_an_error_in_one_chain_ends_the_others():
    began = threading.Event()
    pace = Pace()

    def endless():
        while True:
            began.set()
            pace.turn()
            yield page(1)

    def fails():
        began.wait(2)
        raise TryLater(after=5)
        yield

    with pytest.raises(TryLater):
        for _ in in_parallel([endless, fails], 2, pace, weight):
            pass
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chain-")]


def test_closing_the_consumer_ends_the_threads():
    pace = Pace()

    def endless():
        while True:
            yield page(1)

    pages = in_parallel([endless] * 3, 3, pace, weight)
    next(pages)
    pages.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chain-")]
