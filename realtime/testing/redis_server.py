"""A Valkey or Redis server of a test's own: a process on a port that can hang, die and come back.

Knows the server's process; nothing of what is kept in it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import redis

from realtime.testing.client import TIMEOUT
from realtime.testing.server import free_port, wait_until


class RedisServer:
    """A server process on a port of 127.0.0.1, with its data in *directory*; may be started again.

    *options* are those of its configuration, without the dashes; *binary* is by default the
    embedded one's; *prefix* is a command that runs it elsewhere, at the address *host*.
    """

    def __init__(
        self,
        directory: Path,
        binary: str = "",
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        **options: str,
    ) -> None:
        self._directory = directory
        self._binary = binary or _find_binary()
        self._prefix = prefix
        self.port = free_port()
        self._options = {"port": str(self.port), "bind": "127.0.0.1", "save": ""} | {
            name.replace("_", "-"): value for name, value in options.items()
        }
        self.url = f"redis://{host}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:  # of a server that does not get ready nobody else lets go
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return when its port takes connections and its data is there."""
        self.kill()
        command = [*self._prefix, self._binary, *self._first_arguments()]
        for name, value in self._options.items():
            command += [f"--{name}", *(value.split() or [""])]
        log = (self._directory / "log").open("ab")
        self._process = subprocess.Popen(command, cwd=self._directory, stdout=log, stderr=log)
        log.close()
        wait_until(self._answers)

    def _first_arguments(self) -> list[str]:
        return []

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, (self._directory / "log").read_text()
        try:
            return bool(self.client().ping())
        except (redis.AuthenticationError, redis.ConnectionError) as error:
            # It answers, if only that it wants a password or a certificate.
            return isinstance(error, redis.AuthenticationError) or "SSL" in str(error)
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        """Return a client of it."""
        return redis.Redis.from_url(self.url, socket_timeout=TIMEOUT, socket_connect_timeout=1)

    def pause(self) -> None:
        """Have it hang: it takes connections, as the system does that for it, and never answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _find_binary() -> str:
    from realtime.cluster.embedded import find_binary  # after Django is set up, under pytest

    return find_binary()
