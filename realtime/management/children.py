"""Runs the commands of ``manage.py serve --demo`` beside the server; knows none of them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from django.conf import settings

from realtime.cluster.process import Backoff, ChildProcess

logger = logging.getLogger(__name__)

# Seconds that children have to end.
STOP_TIMEOUT = 3.0


class Children:
    """Other commands of ``manage.py``, each with a thread that starts it again when it ends."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        # Held while a process is started, so that none is once they are to stop.
        self._starting = threading.Lock()
        self._running: dict[str, ChildProcess] = {}
        self._keepers: list[threading.Thread] = []

    def start(self, *command: str) -> None:
        """Run a :class:`~realtime.management.running.RunningCommand` until this process ends it."""
        name = f"keeper of {command[0]}"
        keeper = threading.Thread(target=self._keep, args=command, name=name, daemon=True)
        self._keepers.append(keeper)
        keeper.start()

    def _keep(self, name: str, *options: str) -> None:
        program = [sys.executable, str(settings.BASE_DIR / "manage.py"), name, *options]
        program += ["--parent", str(os.getpid())]
        backoff = Backoff()
        while True:
            with self._starting:
                if self._stopping.is_set():
                    return
                child = self._running[name] = ChildProcess(program, own_session=True)
            child.wait()
            if self._stopping.is_set():
                return
            logger.error("%s ended: %s; it is started again", name, child.describe_end())
            self._stopping.wait(backoff.pause(time.monotonic() - child.started))

    def stop(self) -> None:
        """End all at the same time; return when they have ended. May be called again."""
        with self._starting:
            self._stopping.set()
        for child in self._running.values():
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        for child in self._running.values():
            if not child.wait(max(0.0, deadline - time.monotonic())):
                child.kill()
        for keeper in self._keepers:
            keeper.join()

    def stop_before(self, then: Callable[[], object]) -> None:
        """End all, then call *then*: from a thread, unless there are none."""

        def stop() -> None:
            self.stop()
            then()

        if self._keepers:
            threading.Thread(target=stop, name="children", daemon=True).start()
        else:
            then()
