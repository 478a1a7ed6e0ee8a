"""This host's figures and health: CPU, memory, disk, load, network; knows psutil, not who reads it.

In a container with limits CPU and memory are those of the container, against its limits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from realtime.monitoring import cgroup

GRADES = ("ok", "warning", "critical")


class Threshold(NamedTuple):
    """From which value on something is a warning, and critical."""

    warning: float
    critical: float

    def grade(self, value: float) -> str:
        """Return the status of a value."""
        return GRADES[(value >= self.warning) + (value >= self.critical)]


# Load is per processor, over one minute.
THRESHOLDS = {
    "cpu_percent": Threshold(90.0, 98.0),
    "memory_percent": Threshold(85.0, 95.0),
    "disk_percent": Threshold(85.0, 95.0),
    "load_per_cpu": Threshold(1.5, 3.0),
}


class Health(NamedTuple):
    """The status of each reading that has a threshold and a value, and why it is not ok."""

    checks: dict[str, str]
    reasons: list[str]

    @property
    def status(self) -> str:
        """The worst of all."""
        return max(self.checks.values(), key=GRADES.index, default="ok")


def grade(readings: Mapping[str, Any], thresholds: Mapping[str, Threshold] = THRESHOLDS) -> Health:
    """Grade readings."""
    health = Health({}, [])
    for name, threshold in thresholds.items():
        value = readings.get(name)
        if value is None:
            continue
        status = health.checks[name] = threshold.grade(value)
        if status != "ok":
            limit = threshold[GRADES.index(status) - 1]
            health.reasons.append(f"{name} is {value:g} ({status} from {limit:g} on)")
    return health


class Host:
    """Reads the figures of the host. What is per second is the mean since the reading before."""

    def __init__(
        self, disk: Path, clock: Callable[[], float] = time.monotonic, limits: Path = cgroup.ROOT
    ) -> None:
        self._disk = str(disk)
        self._clock = clock
        self._limits = limits
        self._at = clock()
        # The first call only sets the mark from which the next one measures.
        _reading(lambda: psutil.cpu_percent(interval=None))
        self._before = self._counters()

    def read(self) -> dict[str, Any]:
        """Return the readings; ``None`` where this system does not tell."""
        elapsed = max(self._clock() - self._at, 0.001)
        before, self._before = self._before, self._counters()
        self._at += elapsed
        rates = {name: _rate(before[name], now, elapsed) for name, now in self._before.items()}
        cpus = cgroup.cpus(self._limits)
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
        total = _reading(lambda: psutil.virtual_memory().total)
        container = cgroup.memory(self._limits)
        if container is not None and (total is None or container.limit < total):
            used, total = container
            percent: float | None = round(100 * used / total, 2)
        else:
            percent = _reading(lambda: psutil.virtual_memory().percent)
        swap = _reading(lambda: psutil.swap_memory().percent)
        return {"memory_percent": percent, "memory_total_bytes": total, "swap_percent": swap}

    def _counters(self) -> dict[str, float | None]:
        return {
            "cpu": cgroup.cpu_seconds(self._limits),
            "network_received": _counter(psutil.net_io_counters, "bytes_recv"),
            "network_sent": _counter(psutil.net_io_counters, "bytes_sent"),
            "disk_read": _counter(psutil.disk_io_counters, "read_bytes"),
            "disk_written": _counter(psutil.disk_io_counters, "write_bytes"),
        }


def _load() -> dict[str, float | None]:
    """Return the load: always the host's, so per processor of the host."""
    load = _reading(lambda: psutil.getloadavg()[0])
    per_cpu = None if load is None else round(load / (os.cpu_count() or 1), 2)
    return {"load_1m": load, "load_per_cpu": per_cpu}


def _rate(before: float | None, now: float | None, elapsed: float) -> float | None:
    if before is None or now is None or now < before:  # counted anew
        return None
    return (now - before) / elapsed


def _counter(read: Callable[[], Any], name: str) -> float | None:
    # psutil has no counters where there are no disks or interfaces.
    return _reading(lambda: getattr(read(), name, None))


def _reading(read: Callable[[], float | None]) -> float | None:
    """Return a reading, None where this system does not tell."""
    try:
        value = read()
    except (OSError, psutil.Error):
        return None
    return None if value is None else round(value, 2)
