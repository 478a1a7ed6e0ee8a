"""This host's health: CPU, memory, disk and load, graded; knows psutil, and not who reads it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from realtime.demo.messages import iso

# Reading → warning from here on, critical from here on. Load is per processor, over one minute.
THRESHOLDS = {
    "cpu_percent": (90.0, 98.0),
    "memory_percent": (85.0, 95.0),
    "disk_percent": (85.0, 95.0),
    "load_per_cpu": (1.5, 3.0),
}
GRADES = ("ok", "warning", "critical")


class Host:
    """Reads the health of the host. CPU use is the mean since the reading before."""

    def __init__(self, disk: Path, wall_clock: Callable[[], datetime] | None = None) -> None:
        self._disk = str(disk)
        self._wall_clock = wall_clock or (lambda: datetime.now(UTC))
        # The first call only sets the mark from which the next one measures.
        _reading(lambda: psutil.cpu_percent(interval=None))

    def read(self) -> dict[str, Any]:
        """Return the readings, a status for each and the worst of them for all."""
        readings = self._readings()
        checks = grade(readings)
        return {
            "component": "host",
            "host": platform.node(),
            "status": max(checks.values(), key=GRADES.index, default="ok"),
            **readings,
            "cpus": os.cpu_count() or 1,
            "checks": checks,
            "timestamp": iso(self._wall_clock()),
        }

    def _readings(self) -> dict[str, float | None]:
        load = _reading(lambda: psutil.getloadavg()[0])
        return {
            "cpu_percent": _reading(lambda: psutil.cpu_percent(interval=None)),
            "memory_percent": _reading(lambda: psutil.virtual_memory().percent),
            "disk_percent": _reading(lambda: psutil.disk_usage(self._disk).percent),
            "load_1m": load,
            "load_per_cpu": None if load is None else round(load / (os.cpu_count() or 1), 2),
        }


def grade(readings: Mapping[str, float | None]) -> dict[str, str]:
    """Return the status of each reading that has thresholds and a value."""
    return {
        name: GRADES[sum(value >= threshold for threshold in THRESHOLDS[name])]
        for name, value in readings.items()
        if name in THRESHOLDS and value is not None
    }


def _reading(read: Callable[[], float]) -> float | None:
    """Return a reading, None where this system does not tell."""
    try:
        return round(read(), 2)
    except (OSError, psutil.Error):
        return None
