"""Valkey and Redis servers of a test's own: on ports, with TLS, passwords, replicas, Sentinels."""

from __future__ import annotations

import shutil
from pathlib import Path

from realtime.testing.redis_server import RedisServer as RedisServer


class SentinelServer(RedisServer):
    """A Sentinel that watches a service alone and replaces its server *after* milliseconds.

    A server that is only slow is replaced too, and may go on confirming for a moment.
    """

    def __init__(
        self, directory: Path, service: str, watched: RedisServer, after: int = 500
    ) -> None:
        super().__init__(directory)
        del self._options["save"]
        self._config = directory / "sentinel.conf"
        directory.mkdir(parents=True)
        self._config.write_text(
            f"sentinel monitor {service} 127.0.0.1 {watched.port} 1\n"
            f"sentinel down-after-milliseconds {service} {after}\n"
            f"sentinel failover-timeout {service} 2000\n"
        )

    def _first_arguments(self) -> list[str]:
        return [str(self._config), "--sentinel"]


def installed_redis() -> str:
    """Return the path of a ``redis-server``, which unlike the embedded one speaks TLS; or ""."""
    return shutil.which("redis-server") or ""
