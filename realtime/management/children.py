"""Commands that ``manage.py serve --demo`` runs beside itself, and how each ends with it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence

from django.conf import settings

from realtime.cluster.process import describe_end
from realtime.server.backoff import Backoff

logger = logging.getLogger(__name__)

# Seconds that children have to end, and between looks at whether the parent is there.
STOP_TIMEOUT = 3.0
LOOK_INTERVAL = 0.25


class Children:
    """Other commands of ``manage.py``, started by this one, and again when they end."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        # Held while a process is started, so that none is once they are to stop.
        self._starting = threading.Lock()
        self._running: dict[threading.Thread, subprocess.Popen[bytes]] = {}
        self._keepers: list[threading.Thread] = []

    def start(self, *command: str) -> None:
        """Run a command, which takes ``--parent``, until this process stops it or has ended."""
        keeper = threading.Thread(
            target=self._keep, args=(command,), name=f"keeper of {command[0]}", daemon=True
        )
        self._keepers.append(keeper)
        keeper.start()

    def _keep(self, command: Sequence[str]) -> None:
        program = [sys.executable, str(settings.BASE_DIR / "manage.py"), *command]
        program += ["--parent", str(os.getpid())]
        backoff = Backoff()
        while True:
            with self._starting:
                if self._stopping.is_set():
                    return
                # In a session of its own: Ctrl-C is for the parent, which ends the rest.
                child = subprocess.Popen(program, start_new_session=True)  # noqa: S603 - our own
                self._running[threading.current_thread()] = child
            started = time.monotonic()
            code = child.wait()
            if self._stopping.is_set():
                return
            logger.error("%s ended: %s; it is started again", command[0], describe_end(code))
            self._stopping.wait(backoff.pause(time.monotonic() - started))

    def stop(self) -> None:
        """End all at the same time; return when they have ended. Once or more."""
        with self._starting:
            self._stopping.set()
        running = list(self._running.values())
        for child in running:
            child.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        for keeper in self._keepers:
            keeper.join(max(0.0, deadline - time.monotonic()))
        for child in running:
            child.kill()
        for keeper in self._keepers:
            keeper.join()

    def stop_before(self, then: Callable[[], object]) -> None:
        """End all, then call something: from a thread, unless there are none."""

        def stop() -> None:
            self.stop()
            then()

        if self._keepers:
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
