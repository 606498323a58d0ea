"""Signals while a run trains: the first SIGTERM or SIGINT asks it to save and end, the next one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

HARD_END_S = 1.0  # that the stack has left to unwind after the second signal; Ray adds half a second
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """What signals have asked for.

    Attributes:
        received: the first signal, None before it.
    """

    def __init__(self, wished: Callable[[], bool] = bool) -> None:
        self._wished = wished
        self.received: signal.Signals | None = None
        self._is_over = threading.Event()
        self._must_end = False

    def take(self) -> None:
        """Take the signals from whoever has them: `ray.init` puts a handler of its own over SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.handle)

    def is_asked(self) -> bool:
        """Tell whether a signal came, or who watches the run wishes it to end."""
        return self.received is not None or self._wished()

    def end_now(self) -> None:
        """Raise KeyboardInterrupt in the main thread, from any thread, whatever came before."""
        self._must_end = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._must_end:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = signal.Signals(number)
            return
        # whatever hangs while the stack unwinds: a store, a lock, a collective
        threading.Thread(target=self._end_hard, args=(128 + number,), name="medalign-end", daemon=True).start()
        raise KeyboardInterrupt

    def close(self) -> None:
        """Take no more signals."""
        self._is_over.set()

    def _end_hard(self, code: int) -> None:
        if not self._is_over.wait(HARD_END_S):
            os._exit(code)


@contextlib.contextmanager
def listening(wished: Callable[[], bool] = bool) -> Iterator[Interrupts]:
    """Take signals for as long as the block runs; from another thread than the main one, none arrive.

    Args:
        wished: another reason to save and end; of nothing: False.
    """
    found = Interrupts(wished)
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    found.take()
    try:
        yield found
    finally:
        found.close()
        for number, handler in before.items():
            signal.signal(number, handler)
