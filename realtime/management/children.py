"""Commands that ``manage.py serve --demo`` runs beside itself, and how each ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable

from django.conf import settings

# Seconds that children have to end, and between looks at whether the parent is there.
STOP_TIMEOUT = 3.0
LOOK_INTERVAL = 0.25


class Children:
    """Other commands of ``manage.py``, started by this one."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str) -> None:
        """Run a command, which takes ``--parent``, until this process stops it or has ended."""
        program = [sys.executable, str(settings.BASE_DIR / "manage.py"), *command]
        program += ["--parent", str(os.getpid())]
        # In a session of its own: Ctrl-C is for the parent, which ends the rest.
        child = subprocess.Popen(program, start_new_session=True)  # noqa: S603 - our own
        self._running.append(child)

    def stop(self) -> None:
        """End all at the same time; return when they have ended."""
        for child in self._running:
            child.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        for child in self._running:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def stop_before(self, then: Callable[[], object]) -> None:
        """End all, then call something: from a thread, unless there are none."""

        def stop() -> None:
            self.stop()
            then()

        if self._running:
            threading.Thread(target=stop, name="children", daemon=True).start()
        else:
            then()


def add_parent_argument(parser: ArgumentParser) -> None:
    """Declare the option whose value :func:`end_with` takes."""
    parser.add_argument("--parent", type=int, help="end when this parent process has ended")


def is_orphaned(parent: int | None) -> bool:
    """Tell whether a parent that was given has ended."""
    return parent is not None and os.getppid() != parent


def end_with(parent: int | None) -> None:
    """Send this process SIGTERM when the parent has ended, however that happened."""

    def watch() -> None:
        while not is_orphaned(parent):
            time.sleep(LOOK_INTERVAL)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=watch, name="parent", daemon=True).start()
