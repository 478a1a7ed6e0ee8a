"""What ``manage.py publish_system_status`` publishes: messages made of figures, and their health.

``metrics`` get the host's figures and those of each serving process on it, ``system_status`` the
health of the host and of its serving. Knows no terminal, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from realtime.monitoring.host import THRESHOLDS, Threshold, grade
from realtime.monitoring.snapshot import Figures

# Seconds that an event loop was late: all its clients wait so long.
LOOP_LAG = "loop_lag_seconds"
DEFAULTS = {**THRESHOLDS, LOOP_LAG: Threshold(0.25, 1.0)}

Payload = dict[str, Any]


class Messages(NamedTuple):
    """Payloads for two types."""

    metrics: list[Payload]
    system_status: list[Payload]


class Reporter:
    """Makes messages about one host, named as its serving processes name it."""

    def __init__(self, host: str, thresholds: Mapping[str, Threshold] = DEFAULTS) -> None:
        self._host = host
        self._of_host = {name: of for name, of in thresholds.items() if name != LOOP_LAG}
        self._of_serving = {LOOP_LAG: thresholds[LOOP_LAG]}
        # Processes of this host, to measure their CPU time from look to look.
        self._watched: dict[int, psutil.Process] = {}
        self._has_served = False

    def messages(self, readings: Payload, processes: Sequence[Figures], timestamp: str) -> Messages:
        """Return what to publish, from this host's readings and all serving processes."""
        head = {"host": self._host, "timestamp": timestamp}
        mine = [one for one in processes if one.host == self._host]
        metrics = [{"name": "host", **head, **readings}]
        metrics += [{"name": "server_process", **head, **self._process(one)} for one in mine]
        self._watched = {pid: self._watched[pid] for pid in self._watched.keys() & _pids(mine)}
        return Messages(metrics, [self._health(readings) | head, *self._serving(mine, head)])

    def _health(self, readings: Payload) -> Payload:
        shown = {name: readings.get(name) for name in self._of_host}
        return _status("host", shown, self._of_host) | shown

    def _serving(self, mine: Sequence[Figures], head: Payload) -> list[Payload]:
        """Return the health of serving; nothing on a host that has never served."""
        self._has_served |= bool(mine)
        if not self._has_served:
            return []
        figures = {
            "processes": len(mine),
            "connections": sum(one.connections for one in mine),
            LOOP_LAG: max((round(one.loop_lag, 4) for one in mine), default=None),
        }
        status = _status("serving", figures, self._of_serving)
        if not mine:
            status |= {"status": "critical", "reasons": ["no process serves on this host any more"]}
            status["message"] = status["reasons"][0]
        return [status | figures | head]

    def _process(self, one: Figures) -> Payload:
        return {
            "process": one.process,
            "pid": one.pid,
            "cpu_percent": self._cpu_percent(one.pid),
            "resident_bytes": one.resident,
            "uptime_seconds": round(one.at - one.started, 1),
            "draining": one.draining,
            "connections": one.connections,
            "subscriptions": sum(one.subscriptions.values()),
            "buffered_bytes": one.buffered,
            "received_per_second": round(one.received_per_second, 2),
            "published_per_second": round(one.published_per_second, 2),
            "delivered_per_second": round(one.delivered_per_second, 2),
            "delivery_lag_seconds": None if one.lag is None else round(one.lag, 5),
            LOOP_LAG: round(one.loop_lag, 4),
            "round_trip_seconds": round(one.round_trip, 4),
        }

    def _cpu_percent(self, pid: int) -> float | None:
        """Return a process's CPU use since it was looked at before; of all its threads."""
        try:
            if (known := self._watched.get(pid)) is not None:
                return round(known.cpu_percent(), 2)
            self._watched[pid] = psutil.Process(pid)
            self._watched[pid].cpu_percent()
        except psutil.Error:
            self._watched.pop(pid, None)
        return None


def _pids(processes: Sequence[Figures]) -> set[int]:
    return {one.pid for one in processes}


def _status(component: str, readings: Payload, thresholds: Mapping[str, Threshold]) -> Payload:
    health = grade(readings, thresholds)
    status = {
        "component": component,
        "status": health.status,
        "reasons": health.reasons,
        "checks": health.checks,
    }
    return status | ({"message": "; ".join(health.reasons)} if health.reasons else {})
