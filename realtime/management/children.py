"""Runs the commands of ``manage.py serve --demo`` beside the server; knows none of them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from django.conf import settings

from realtime.cluster.process import describe_end
from realtime.server.backoff import Backoff

logger = logging.getLogger(__name__)

# Seconds that children have to end.
STOP_TIMEOUT = 3.0


class Children:
    """Other commands of ``manage.py``, each with a thread that starts it again when it ends."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        # Held while a process is started, so that none is once they are to stop.
        self._starting = threading.Lock()
        self._running: dict[threading.Thread, subprocess.Popen[bytes]] = {}
        self._keepers: list[threading.Thread] = []

    def start(self, *command: str) -> None:
        """Run a :class:`~realtime.management.running.RunningCommand` until this process ends it."""
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
                # In a session of its own: Ctrl-C is for the parent, which ends its children.
                child = subprocess.Popen(program, start_new_session=True)  # noqa: S603 - our own
                self._running[threading.current_thread()] = child
            started = time.monotonic()
            code = child.wait()
            if self._stopping.is_set():
                return
            logger.error("%s ended: %s; it is started again", command[0], describe_end(code))
            self._stopping.wait(backoff.pause(time.monotonic() - started))

    def stop(self) -> None:
        """End all at the same time; return when they have ended. May be called again."""
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
        """End all, then call *then*: from a thread, unless there are none."""

        def stop() -> None:
            self.stop()
            then()

        if self._keepers:
            threading.Thread(target=stop, name="children", daemon=True).start()
        else:
            then()
