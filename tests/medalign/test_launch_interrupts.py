"""Signals while a run trains: the first is a wish, the second an order, and afterwards all is as it was."""

import signal
import threading

import pytest

from medalign.launch.interrupts import listening


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_kept_and_the_second_interrupts(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with listening() as interrupts:
        assert interrupts.received is None
        signal.raise_signal(number)
        assert interrupts.received == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts.received == number
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_lost_lock_interrupts_at_once_from_any_thread() -> None:
    def lose() -> None:
        threading.Thread(target=interrupts.end_now).start()
        threading.Event().wait(5)

    with listening() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            lose()
        assert interrupts.received is None


def test_a_handler_that_was_laid_over_it_is_taken_away() -> None:
    with listening() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray.init does
        interrupts.take()
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.received == signal.SIGTERM


def test_outside_the_main_thread_nothing_is_touched() -> None:
    found = []

    def listen() -> None:
        with listening() as interrupts:
            found.append((interrupts.received, signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [(None, before)]
