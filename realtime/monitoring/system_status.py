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
from typing import Any, NamedTuple

import psutil

from realtime.monitoring.snapshot import Snapshot

# A container sees its own control group (version 2) as the root of all groups. Outside of a
# container the root has no limits. Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.
CGROUP = Path("/sys/fs/cgroup")

GRADES = ("ok", "warning", "critical")


class HealthLimits(NamedTuple):
    """From which value on a reading is a warning, and from which it is critical."""

    warning: float
    critical: float

    def grade(self, value: float) -> str:
        """Return the status of a value."""
        return GRADES[(value >= self.warning) + (value >= self.critical)]


# Load is per processor, over one minute.
THRESHOLDS = {
    "cpu_percent": HealthLimits(90.0, 98.0),
    "memory_percent": HealthLimits(85.0, 95.0),
    "disk_percent": HealthLimits(85.0, 95.0),
    "load_per_cpu": HealthLimits(1.5, 3.0),
}


class Health(NamedTuple):
    """The status of each reading that has limits and a value, and the reasons if it is not ok."""

    checks: dict[str, str]
    reasons: list[str]

    @property
    def status(self) -> str:
        """The worst status of all readings."""
        return max(self.checks.values(), key=GRADES.index, default="ok")


def grade(
    readings: Mapping[str, Any], thresholds: Mapping[str, HealthLimits] = THRESHOLDS
) -> Health:
    """Return the health that readings make; those without a value are left out."""
    health = Health({}, [])
    for name, limits in thresholds.items():
        value = readings.get(name)
        if value is None:
            continue
        status = health.checks[name] = limits.grade(value)
        if status != "ok":
            limit = limits[GRADES.index(status) - 1]
            health.reasons.append(f"{name} is {value:g} ({status} from {limit:g} on)")
    return health


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
        _reading(lambda: psutil.cpu_percent(interval=None))
        self._before = self._counters()

    def read(self) -> dict[str, Any]:
        """Return the readings by name; ``None`` is what this system does not tell."""
        elapsed = max(self._clock() - self._at, 0.001)
        before, self._before = self._before, self._counters()
        self._at += elapsed
        rates = {name: _rate(before[name], now, elapsed) for name, now in self._before.items()}
        cpus = container_cpus(self._limits)
        used = rates.pop("cpu")
        percent = _reading(lambda: psutil.cpu_percent(interval=None))
        if cpus and used is not None:
            percent = round(100 * used / cpus, 2)
        return {
            "cpu_percent": percent,
            "cpus": cpus or os.cpu_count() or 1,
            **self._memory(),
            "disk_percent": _reading(lambda: psutil.disk_usage(self._disk).percent),
            "disk_free_bytes": _reading(lambda: psutil.disk_usage(self._disk).free),
            **_load(),
            **{
                f"{name}_bytes_per_second": None if rate is None else round(rate)
                for name, rate in rates.items()
            },
        }

    def _memory(self) -> dict[str, float | None]:
        """Return the container's memory if it has less than the host, otherwise the host's."""
        total = _reading(lambda: psutil.virtual_memory().total)
        container = container_memory(self._limits)
        if container is not None and (total is None or container.limit < total):
            used, total = container
            percent: float | None = round(100 * used / total, 2)
        else:
            percent = _reading(lambda: psutil.virtual_memory().percent)
        swap = _reading(lambda: psutil.swap_memory().percent)
        return {"memory_percent": percent, "memory_total_bytes": total, "swap_percent": swap}

    def _counters(self) -> dict[str, float | None]:
        return {
            "cpu": container_cpu_seconds(self._limits),
            "network_received": _counter(psutil.net_io_counters, "bytes_recv"),
            "network_sent": _counter(psutil.net_io_counters, "bytes_sent"),
            "disk_read": _counter(psutil.disk_io_counters, "read_bytes"),
            "disk_written": _counter(psutil.disk_io_counters, "write_bytes"),
        }


def _load() -> dict[str, float | None]:
    """Return the load, which is always the host's, and so per processor of the host."""
    load = _reading(lambda: psutil.getloadavg()[0])
    per_cpu = None if load is None else round(load / (os.cpu_count() or 1), 2)
    return {"load_1m": load, "load_per_cpu": per_cpu}


def _rate(before: float | None, now: float | None, elapsed: float) -> float | None:
    if before is None or now is None or now < before:  # the counter has started again
        return None
    return (now - before) / elapsed


def _counter(read: Callable[[], Any], name: str) -> float | None:
    """Return one of psutil's counters; it has none where there are no disks or interfaces."""
    return _reading(lambda: getattr(read(), name, None))


def _reading(read: Callable[[], float | None]) -> float | None:
    """Return a reading, or ``None`` where this system does not tell."""
    try:
        value = read()
    except (OSError, psutil.Error):
        return None
    return None if value is None else round(value, 2)


class ContainerMemory(NamedTuple):
    """Bytes in use, without file cache that the kernel can take back, and how many are allowed."""

    used: int
    limit: int


def container_memory(root: Path) -> ContainerMemory | None:
    """Return the container's memory; ``None`` without a limit."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit = int((root / "memory.max").read_text())
        cache = _fields(root / "memory.stat")["inactive_file"]
        used = int((root / "memory.current").read_text()) - cache
        return ContainerMemory(max(used, 0), limit)
    return None


def container_cpus(root: Path) -> float | None:
    """Return how many processors the container may use; ``None`` without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def container_cpu_seconds(root: Path) -> float | None:
    """Return the processor time that the container has used."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _fields(root / "cpu.stat")["usage_usec"] / 1e6
    return None


def _fields(path: Path) -> dict[str, int]:
    """Read a file of names and numbers."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in pairs}


# Seconds that an event loop was late: all its clients wait so long.
LOOP_LAG = "loop_lag_seconds"
DEFAULTS = {**THRESHOLDS, LOOP_LAG: HealthLimits(0.25, 1.0)}

Payload = dict[str, Any]


class Messages(NamedTuple):
    """Payloads for two types."""

    metrics: list[Payload]
    system_status: list[Payload]


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
    ) -> Messages:
        """Return what to publish, from this host's readings and all serving processes."""
        head = {"host": self._host, "timestamp": timestamp}
        local = [snapshot for snapshot in processes if snapshot.host == self._host]
        metrics = [{"name": "host", **head, **readings}]
        metrics += [{"name": "server_process", **head, **self._process(own)} for own in local]
        pids = {snapshot.pid for snapshot in local}
        self._watched = {pid: self._watched[pid] for pid in self._watched.keys() & pids}
        return Messages(metrics, [self._health(readings) | head, *self._serving(local, head)])

    def _health(self, readings: Payload) -> Payload:
        shown = {name: readings.get(name) for name in self._of_host}
        return _status("host", shown, self._of_host) | shown

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
            status |= {"status": "critical", "reasons": ["no process serves on this host any more"]}
            status["message"] = status["reasons"][0]
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
    status = {"component": component, "status": health.status, **health._asdict()}
    return status | ({"message": "; ".join(health.reasons)} if health.reasons else {})
