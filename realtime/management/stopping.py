"""How a command that works until it is stopped learns of it, and sleeps meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from realtime.management.children import is_orphaned

# How late a signal may be noticed during a long pause, in seconds.
SLICE = 0.25

Stopped = Callable[[], bool]


@contextmanager
def stop_signals(parent: int | None) -> Iterator[Stopped]:
    """Collect SIGTERM and SIGINT instead of ending at once; give what tells whether to stop.

    It is also time to stop when the *parent* has ended. A list holds the signals, not an Event:
    setting an Event in a handler can lock up the thread that waits for it.
    """
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda got, _: received.append(got)) for number in signals]
    try:
        yield lambda: bool(received) or is_orphaned(parent)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def sleep(seconds: float, *, stopped: Stopped) -> None:
    """Sleep, in slices, since Python resumes a sleep that a signal interrupted."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not stopped():
        time.sleep(min(left, SLICE))
