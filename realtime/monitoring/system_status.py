"""Makes the messages of ``manage.py publish_system_status``: the numbers of a host, and its health.

``metrics`` get the host's readings and the numbers of each serving process on it, ``system_status``
the health of the host and of its serving processes. Knows no terminal and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psutil

from realtime.monitoring.host import THRESHOLDS, HealthLimits, grade
from realtime.monitoring.snapshot import Snapshot

# Seconds that an event loop was late: all its clients wait so long.
LOOP_LAG = "loop_lag_seconds"
DEFAULTS = {**THRESHOLDS, LOOP_LAG: HealthLimits(0.25, 1.0)}

Payload = dict[str, Any]


class Messages(NamedTuple):
    """Payloads for two types."""

    metrics: list[Payload]
    system_status: list[Payload]


class Reporter:
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
