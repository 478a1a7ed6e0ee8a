"""The base of commands that run until they are stopped.

Knows signals and the terminal; nothing of what the commands do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.cluster.servers import uses_embedded
from realtime.cluster.stores import check_stores

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds: how late a signal may be noticed in a sleep, and the end of a parent.
SLICE = 0.25


def refuse_unfit_stores() -> None:
    """Raise ``CommandError`` if a server in ``REDIS_URL`` that answers is not fit."""
    if not uses_embedded() and (faults := check_stores()):
        raise CommandError("REDIS_URL: " + "; ".join(faults))


class RunningCommand(BaseCommand):
    """A command that runs until SIGTERM, Ctrl-C or the end of its parent, and then exits with 0.

    A subclass implements :meth:`run`. What works in steps does so within ``with self.stopping():``
    and looks at :meth:`is_stopped`; what works in an event loop adds its own signal handlers.
    """

    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A list holds the signals, not an Event: setting an Event in a handler can lock up the
        # thread that waits for it.
        self._signals: list[int] = []
        # Whether the last attempt failed of which :meth:`report` was told.
        self._is_failing = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--parent", type=int, help="end when this parent process has ended")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["parent"] is not None:
            _end_with(options["parent"])
        refuse_unfit_stores()
        self.run(options)

    def run(self, options: dict[str, Any]) -> None:
        """Do the command's work until it is stopped."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Write a line for the operator, who may have gone with the other end of the pipe."""
        name = type(self).__module__.rpartition(".")[2]
        with contextlib.suppress(OSError, ValueError):
            self.stderr.write(f"{name}: {text}")
            self.stderr.flush()

    def report(self, error: Exception | None) -> None:
        """Say that publishing fails, once, and once that it works again (*error* is ``None``)."""
        if error is not None and not self._is_failing:
            self.say(f"not published, trying again: {one_line(error)}")
        elif self._is_failing and error is None:
            self.say("publishing works again")
        self._is_failing = error is not None

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Collect the signals that stop a command, so that it can end in an orderly way."""
        before = [
            signal.signal(number, lambda number, _: self._signals.append(number))
            for number in STOP_SIGNALS
        ]
        try:
            yield
        finally:
            for number, handler in zip(STOP_SIGNALS, before, strict=True):
                signal.signal(number, handler)

    def is_stopped(self) -> bool:
        """Tell whether the command is to end."""
        return bool(self._signals)

    def sleep(self, seconds: float) -> None:
        """Sleep until the command is to end, at most so long."""
        # In slices: Python resumes a sleep that a signal has interrupted.
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.is_stopped():
            time.sleep(min(left, SLICE))


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Let a command that prints end on SIGTERM, and when nobody reads what it prints."""
    # By an exception, so that what is to be done at the end is done.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    except BrokenPipeError:
        # Nor should the interpreter try to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error: Exception) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def number(expected: str, *, most: float, least: float = 0.0) -> Callable[[str], float]:
    """Return what reads an option: a number above 0, from *least* to *most*."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if (value := float(text)) > 0 and least <= value <= most:
                return value
        raise ArgumentTypeError(f"{text!r}: expected {expected}")

    return read


def _end_with(parent: int) -> None:
    """Send this process SIGTERM when its parent has ended, however that happened."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SLICE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
