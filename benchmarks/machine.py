"""Processes on this machine: where they run, what they use, that they end with the run."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

# The server has one core, load generator and publisher share another.
_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _cores[0], _cores[1 % len(_cores)]

_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2
_libc = ctypes.CDLL(None)


class ProcessFailedError(Exception):
    """A server or publisher did not start, or ended before its time."""


def prepare() -> None:
    """Pin this process to the load generator's core and allow it as many sockets as it may have."""
    os.sched_setaffinity(0, {LOAD_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # By an exception, so that what was started is stopped too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


class Process:
    """A child pinned to a core; it gets SIGTERM when its parent dies, however that happens.

    Without a core it runs where the system puts it.
    """

    def __init__(
        self,
        command: Sequence[str],
        core: int | None,
        log: Path,
        environment: dict[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        self.log = log
        pipe = subprocess.PIPE if pipes else None
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                command,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or output,
                stderr=output,
                env=os.environ | (environment or {}),
                preexec_fn=lambda: _settle(core),
            )

    def wait_for(self, address: tuple[str, int] | Path, timeout: float = 30) -> None:
        """Return when the process accepts connections at *address*."""
        self._wait_until(lambda: _accepts(address), "does not listen", timeout)

    def wait_to_say(self, text: str, timeout: float = 30) -> None:
        """Return when the process has said *text*."""
        self._wait_until(lambda: text in self.tail(), f"does not say {text!r}", timeout)

    def _wait_until(self, condition: Callable[[], bool], fails: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if self.child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ProcessFailedError(f"{self.child.args!r} {fails}:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self) -> str:
        """Return the end of what the process said."""
        return self.log.read_text(errors="replace")[-2000:]

    def tree(self) -> list[int]:
        """Return the ids of the process and all it has started."""
        children = psutil.Process(self.child.pid).children(recursive=True)
        return [self.child.pid, *(child.pid for child in children)]

    def stop(self, patience: float = 5) -> None:
        """Ask the process to end; kill it if it does not."""
        self.child.terminate()
        try:
            self.child.wait(patience)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _settle(core: int | None) -> None:
    os.sched_setaffinity(0, _cores if core is None else {core})
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _accepts(address: tuple[str, int] | Path) -> bool:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as probe:
        where = str(address) if isinstance(address, Path) else address
        return probe.connect_ex(where) == 0


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used, user and system.

    The process's CPU clock, as /proc/PID/stat but in nanoseconds instead of ticks.
    """
    return sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process."""
    resident: int = psutil.Process(pid).memory_info().rss
    return resident


def describe() -> dict[str, str | int | float]:
    """Return what a reader of the figures should know of this machine."""
    system = os.uname()
    return {
        "cpu": _cpu_model(),
        "cores": len(_cores),
        "system": f"{system.sysname} {system.release} {system.machine}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"
