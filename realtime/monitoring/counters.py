"""A process's counters, and the document's statistics made of them. Pure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from realtime.protocol import SUBSCRIPTION_TYPES

if TYPE_CHECKING:
    from realtime.config import WebSocketConfig


# Upper bounds: seconds from publishing to writing, and connections that a message goes to.
LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FAN_OUT_BOUNDS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)

COUNTERS = (
    "total_connections",
    "messages_sent",
    "messages_received",
    "received_bytes",
    "authenticated",
    "auth_failures",
    "auth_unavailable",
    "rate_limited",
    "slow_consumers",
    "refused_connections",
    "replays",
)
COUNTERS_BY_TYPE = (
    "published",
    "published_bytes",
    "delivered",
    "delivered_bytes",
    "replayed",
    "repaired",
    "lost",
    "dropped",
)


class Histogram:
    """How many values were up to each of some bounds, how many above all, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


def _by_type() -> dict[str, int]:
    return dict.fromkeys(SUBSCRIPTION_TYPES, 0)


@dataclass(slots=True)
class Stats:
    """Counters since the process started; ``active_clients`` and subscriptions are current."""

    is_running: bool = False
    active_clients: int = 0
    total_connections: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    received_bytes: int = 0
    authenticated: int = 0
    auth_failures: int = 0
    # Attempts that got no answer in time.
    auth_unavailable: int = 0
    rate_limited: int = 0
    slow_consumers: int = 0
    refused_connections: int = 0
    subscriptions: dict[str, int] = field(default_factory=_by_type)
    # Messages that have come, and the bytes of their payloads.
    published: dict[str, int] = field(default_factory=_by_type)
    published_bytes: dict[str, int] = field(default_factory=_by_type)
    # Data messages and their bytes on the way to clients, and those of them that were replayed.
    delivered: dict[str, int] = field(default_factory=_by_type)
    delivered_bytes: dict[str, int] = field(default_factory=_by_type)
    replayed: dict[str, int] = field(default_factory=_by_type)
    # Messages that the layer did not bring and the log did, and those that are lost.
    repaired: dict[str, int] = field(default_factory=_by_type)
    lost: dict[str, int] = field(default_factory=_by_type)
    # Data messages that clients, who have chosen that, did not read in time.
    dropped: dict[str, int] = field(default_factory=_by_type)
    # Messages that the log retains, of the types whose log answered when it was last asked.
    log: dict[str, int] = field(default_factory=dict)
    replays: int = 0
    # Close code -> connections that ended with it; 1006 without a close frame.
    closes: dict[int, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    fan_out: Histogram = field(default_factory=lambda: Histogram(FAN_OUT_BOUNDS))
    # Seconds: how late the event loop was of late, and the last question to the channel layer.
    loop_lag: float = 0.0
    round_trip: float = 0.0

    @property
    def counters(self) -> dict[str, int]:
        """What is only counted up, by name; without what is counted by type."""
        return {name: getattr(self, name) for name in COUNTERS}

    def count_close(self, code: int) -> None:
        """Count the end of a connection."""
        self.closes[code] = self.closes.get(code, 0) + 1

    def report(self, config: WebSocketConfig) -> dict[str, Any]:
        """Return the figures under the documented keys, and more.

        ``messages_sent`` counts data messages and replies to clients; ``messages_published``
        counts, by type, messages that reached this process through the channel layer.
        """
        return {
            "is_running": self.is_running,
            "active_clients": self.active_clients,
            "total_connections": self.total_connections,
            "total_subscriptions": sum(self.subscriptions.values()),
            "messages_sent": self.messages_sent,
            "messages_received": self.messages_received,
            "config": {
                "host": config.host,
                "port": config.port,
                "max_connections": config.max_connections,
                "require_auth": config.require_auth,
            },
            "authenticated": self.authenticated,
            "auth_failures": self.auth_failures,
            "rate_limited": self.rate_limited,
            "slow_consumers": self.slow_consumers,
            "refused_connections": self.refused_connections,
            "subscriptions_by_type": dict(self.subscriptions),
            "messages_published": dict(self.published),
        }
