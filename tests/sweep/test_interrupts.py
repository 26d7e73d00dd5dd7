"""Ctrl-C and SIGTERM: the first asks, the second does not."""

import os
import signal
import threading
import time

import pytest

from segcal.sweep import interrupts as module
from segcal.sweep.interrupts import Interrupts

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def before():
    """Handlers of this test, so that no signal reaches the test run."""

    def mine(number, frame):
        raise AssertionError("not given to the block")

    old = {number: signal.signal(number, mine) for number in NUMBERS}
    yield mine
    for number, handler in old.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_asks_and_the_second_is_an_order(before, number):
    said = []
    interrupts = Interrupts(said.append)

    def twice():
        with interrupts.listening():
            assert not interrupts.asked.is_set()
            os.kill(os.getpid(), number)
            assert interrupts.asked.is_set()
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("not reached")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert said == [f"{number.name} received: trials stop after their epoch, 15 s at most; once more: at once"]
    assert handlers() == [before, before]
    assert not interrupts.waited  # there was no time


def test_the_handlers_are_given_back_where_nothing_is_heard(before):
    with Interrupts(pytest.fail).listening():
        assert before not in handlers()
    assert handlers() == [before, before]


def test_one_asks_once_and_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.05)
    said = []
    interrupts = Interrupts(said.append)
    assert not interrupts.waited
    interrupts.ask("another driver took the sweep")
    interrupts.ask("SIGINT received")
    assert len(said) == 1
    assert said[0].startswith("another driver took the sweep: trials stop")
    assert not interrupts.waited
    time.sleep(0.06)
    assert interrupts.waited


def test_another_thread_than_the_main_one_takes_no_signals(before):
    found = []

    def listen():
        with Interrupts(pytest.fail).listening():
            found.extend(handlers())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [before, before]
