"""An import gives way to those who wait for a page, but never for long."""

import sys
import threading
import time

import pytest

from phr import courtesy


@pytest.fixture(autouse=True)
def usual_interval():
    """Other tests keep the interpreter's usual interval."""
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_nobody_waiting_costs_nothing():
    before = time.monotonic()
    courtesy.give_way()
    assert time.monotonic() - before < courtesy.LONGEST


def test_long_work_waits_until_the_answer_is_given():
    answered, begun = threading.Event(), threading.Event()

    def answers():
        with courtesy.answering():
            begun.set()
            answered.set()

    thread = threading.Thread(target=answers)
    with courtesy.answering():
        thread.start()
        assert begun.wait(5)
    courtesy.give_way()
    assert answered.is_set()
    thread.join()


def test_long_work_goes_on_after_a_moment_whoever_waits():
    with courtesy.answering():
        begin = time.monotonic()
        courtesy.give_way()
        assert time.monotonic() - begin >= courtesy.LONGEST


def test_an_open_stream_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(courtesy, "FRESH", -1.0)
    monkeypatch.setattr(courtesy, "LONGEST", 3600.0)
    with courtesy.answering():
        courtesy.give_way()


def test_an_answer_that_fails_is_over_too():
    with pytest.raises(ValueError, match="broke"), courtesy.answering():
        raise ValueError("broke")
    assert not courtesy._answering


def test_threads_that_fetch_and_keep_take_quick_turns_and_never_slower_ones_than_before():
    sys.setswitchinterval(0.005)
    courtesy.take_turns()
    assert sys.getswitchinterval() == pytest.approx(courtesy.TURNS)
    sys.setswitchinterval(courtesy.INTERVAL)
    courtesy.take_turns()
    assert sys.getswitchinterval() == pytest.approx(courtesy.INTERVAL)


def test_whoever_reads_stands_back_until_access_is_stopped():
    stopped, begun = threading.Event(), threading.Event()

    def stops():
        with courtesy.stopping():
            begun.set()
            stopped.set()

    thread = threading.Thread(target=stops)
    with courtesy.stopping():
        thread.start()
        assert begun.wait(5)
    courtesy.stand_back()
    assert stopped.is_set()
    thread.join()
    courtesy.stand_back()


def test_nobody_stands_back_for_long():
    with courtesy.stopping():
        courtesy.stand_back()
        courtesy.give_way()


def test_a_stop_that_waits_for_something_itself_holds_no_reader_back(monkeypatch):
    monkeypatch.setattr(courtesy, "STOPPING", 3600.0)
    monkeypatch.setattr(courtesy, "STOPS_WITHIN", 0.0)
    with courtesy.stopping():
        courtesy.stand_back()


def test_a_reader_waits_until_what_is_stopped_is_stopped(monkeypatch):
    monkeypatch.setattr(courtesy, "STOPPING", 3600.0)
    monkeypatch.setattr(courtesy, "STOPS_WITHIN", 3600.0)
    over = threading.Event()
    reader = threading.Thread(target=lambda: (courtesy.stand_back(), over.set()))
    with courtesy.stopping():
        reader.start()
        assert not over.is_set()
    reader.join(5)
    assert over.is_set()
