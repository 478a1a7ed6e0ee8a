"""The numbers of a host and its health: what ``manage.py publish_system_status`` publishes.

``metrics`` get the host's readings and the numbers of each serving process on it, ``system_status``
the health of the host and of its serving processes. In a container with limits, CPU and memory are
the container's, measured against its limits. Knows psutil, nothing of who reads the messages.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

from realtime.monitoring.snapshot import Snapshot

# A container sees its own control group (version 2) as the root of all groups. Outside of a
# container the root has no limits. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.
CGROUP = Path("/sys/fs/cgroup")

GRADES = ("ok", "warning", "critical")

Payload = dict[str, Any]
T = TypeVar("T")


class HealthLimits(NamedTuple):
    """From which value on a reading is a warning, and from which it is critical."""

    warning: float
    critical: float


# Load is per processor, over one minute.
THRESHOLDS = {
    "cpu_percent": HealthLimits(90.0, 98.0),
    "memory_percent": HealthLimits(85.0, 95.0),
    "disk_percent": HealthLimits(85.0, 95.0),
    "load_per_cpu": HealthLimits(1.5, 3.0),
}
# Seconds that an event loop was late: all its clients wait so long.
LOOP_LAG = "loop_lag_seconds"
DEFAULTS = {**THRESHOLDS, LOOP_LAG: HealthLimits(0.25, 1.0)}


def grade(
    readings: Mapping[str, Any], thresholds: Mapping[str, HealthLimits] = THRESHOLDS
) -> Payload:
    """Return the worst status, that of each reading with limits and a value, and the reasons."""
    checks: dict[str, str] = {}
    reasons = []
    for name, limits in thresholds.items():
        if (value := readings.get(name)) is not None:
            level = (value >= limits.warning) + (value >= limits.critical)
            checks[name] = GRADES[level]
            if level:
                limit = f"{GRADES[level]} from {limits[level - 1]:g} on"
                reasons.append(f"{name} is {value:g} ({limit})")
    worst = max(checks.values(), key=GRADES.index, default="ok")
    return {"status": worst, "checks": checks, "reasons": reasons}


class Host:
    """Reads the numbers of the host. Rates are means since the reading before.

    *disk* is a path on the disk to read, *limits* where the kernel shows a container's limits.
    """

    def __init__(
        self, disk: Path, clock: Callable[[], float] = time.monotonic, limits: Path = CGROUP
    ) -> None:
        self._disk = str(disk)
        self._clock = clock
        self._limits = limits
        self._at = clock()
        # psutil measures from one call to the next: the first one has nothing to tell.
        _reading(psutil.cpu_percent)
        self._before = self._counters()

    def read(self) -> Payload:
        """Return the readings by name; ``None`` is what this system does not tell."""
        elapsed = max(self._clock() - self._at, 0.001)
        before, self._before = self._before, self._counters()
        self._at += elapsed
        rates = {name: _rate(before[name], now, elapsed) for name, now in self._before.items()}
        cpus = _reading(lambda: container_cpus(self._limits))
        used = rates.pop("cpu")
        percent = _reading(psutil.cpu_percent)
        if cpus and used is not None:
            percent = round(100 * used / cpus, 2)
        host_cpus = os.cpu_count() or 1
        # The load is always the host's, and so per processor of the host.
        load = _reading(lambda: round(psutil.getloadavg()[0], 2))
        return {
            "cpu_percent": percent,
            "cpus": cpus or host_cpus,
            **self._memory(),
            "disk_percent": _reading(lambda: psutil.disk_usage(self._disk).percent),
            "disk_free_bytes": _reading(lambda: psutil.disk_usage(self._disk).free),
            "load_1m": load,
            "load_per_cpu": None if load is None else round(load / host_cpus, 2),
            **{
                f"{name}_bytes_per_second": None if rate is None else round(rate)
                for name, rate in rates.items()
            },
        }

    def _memory(self) -> dict[str, float | None]:
        """Return the container's memory if it has less than the host, otherwise the host's."""
        total = _reading(lambda: psutil.virtual_memory().total)
        percent = _reading(lambda: psutil.virtual_memory().percent)
        container = _reading(lambda: container_memory(self._limits))
        if container is not None and (total is None or container[1] < total):
            used, total = container
            percent = round(100 * used / total, 2)
        swap = _reading(lambda: psutil.swap_memory().percent)
        return {"memory_percent": percent, "memory_total_bytes": total, "swap_percent": swap}

    def _counters(self) -> dict[str, float | None]:
        # psutil has no counters where there are no disks or interfaces.
        network, disk = _reading(psutil.net_io_counters), _reading(psutil.disk_io_counters)
        return {
            "cpu": _reading(lambda: _fields(self._limits / "cpu.stat")["usage_usec"] / 1e6),
            "network_received": getattr(network, "bytes_recv", None),
            "network_sent": getattr(network, "bytes_sent", None),
            "disk_read": getattr(disk, "read_bytes", None),
            "disk_written": getattr(disk, "write_bytes", None),
        }


def _rate(before: float | None, now: float | None, elapsed: float) -> float | None:
    if before is None or now is None or now < before:  # the counter has started again
        return None
    return (now - before) / elapsed


def _reading(read: Callable[[], T]) -> T | None:
    """Return a reading, or ``None`` where this system does not tell."""
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        return read()
    return None


def container_memory(root: Path) -> tuple[int, int]:
    """Return the bytes that a container uses, and how many it may. Raises if it has no limit.

    File cache that the kernel can take back does not count as used.
    """
    limit = int((root / "memory.max").read_text())
    cache = _fields(root / "memory.stat")["inactive_file"]
    return max(int((root / "memory.current").read_text()) - cache, 0), limit


def container_cpus(root: Path) -> float:
    """Return how many processors a container may use. Raises if it has no limit."""
    quota, period = (root / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _fields(path: Path) -> dict[str, int]:
    """Read a file of names and numbers."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in pairs}


class HostReporter:
    """Makes messages about one host, named as its serving processes name it."""

    def __init__(self, host: str, thresholds: Mapping[str, HealthLimits] = DEFAULTS) -> None:
        self._host = host
        self._of_host = {name: limits for name, limits in thresholds.items() if name != LOOP_LAG}
        self._of_serving = {LOOP_LAG: thresholds[LOOP_LAG]}
        # The serving processes of this host: psutil works out their CPU time between two calls.
        self._watched: dict[int, psutil.Process] = {}
        self._has_served = False

    def messages(
        self, readings: Payload, processes: Sequence[Snapshot], timestamp: str
    ) -> dict[str, list[Payload]]:
        """Return what to publish, by type, from this host's readings and all serving processes."""
        head = {"host": self._host, "timestamp": timestamp}
        local = [snapshot for snapshot in processes if snapshot.host == self._host]
        metrics = [{"name": "host", **head, **readings}]
        metrics += [{"name": "server_process", **head, **self._process(own)} for own in local]
        pids = {snapshot.pid for snapshot in local}
        self._watched = {pid: self._watched[pid] for pid in self._watched.keys() & pids}
        shown = {name: readings.get(name) for name in self._of_host}
        health = _status("host", shown, self._of_host) | shown | head
        return {"metrics": metrics, "system_status": [health, *self._serving(local, head)]}

    def _serving(self, local: Sequence[Snapshot], head: Payload) -> list[Payload]:
        """Return the health of serving; nothing on a host that has never served."""
        self._has_served |= bool(local)
        if not self._has_served:
            return []
        numbers = {
            "processes": len(local),
            "connections": sum(snapshot.connections for snapshot in local),
            LOOP_LAG: max((round(snapshot.loop_lag, 4) for snapshot in local), default=None),
        }
        status = _status("serving", numbers, self._of_serving)
        if not local:
            reason = "no process serves on this host any more"
            status |= {"status": "critical", "reasons": [reason], "message": reason}
        return [status | numbers | head]

    def _process(self, snapshot: Snapshot) -> Payload:
        """Return the numbers of a process under the names of the messages."""
        lag = snapshot.lag
        return {
            "process": snapshot.process,
            "pid": snapshot.pid,
            "cpu_percent": self._cpu_percent(snapshot.pid),
            "resident_bytes": snapshot.resident,
            "uptime_seconds": round(snapshot.at - snapshot.started, 1),
            "draining": snapshot.draining,
            "connections": snapshot.connections,
            "subscriptions": sum(snapshot.subscriptions.values()),
            "buffered_bytes": snapshot.buffered,
            "received_per_second": round(snapshot.received_per_second, 2),
            "published_per_second": round(snapshot.published_per_second, 2),
            "delivered_per_second": round(snapshot.delivered_per_second, 2),
            "delivery_lag_seconds": None if lag is None else round(lag, 5),
            LOOP_LAG: round(snapshot.loop_lag, 4),
            "round_trip_seconds": round(snapshot.round_trip, 4),
        }

    def _cpu_percent(self, pid: int) -> float | None:
        """Return the CPU use of all threads of a process since the last call, ``None`` at first."""
        try:
            if (process := self._watched.get(pid)) is not None:
                return round(process.cpu_percent(), 2)
            self._watched[pid] = psutil.Process(pid)
            self._watched[pid].cpu_percent()
        except psutil.Error:
            self._watched.pop(pid, None)
        return None


def _status(component: str, readings: Payload, thresholds: Mapping[str, HealthLimits]) -> Payload:
    health = grade(readings, thresholds)
    reasons = {"message": "; ".join(health["reasons"])} if health["reasons"] else {}
    return {"component": component, **health, **reasons}
