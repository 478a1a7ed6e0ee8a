"""Hosts of a cluster: network namespaces, with links that can be cut (network_namespaces(7)).

::

    root:  nginx, PostgreSQL, clients, publishers
           198.18.1.254              198.18.2.254
                |                         |
           198.18.1.2                198.18.2.2
    host a: workers, a Valkey   -----   host b: workers, a Valkey
           198.18.3.1                198.18.3.2

Addresses are of the range for benchmarks (RFC 2544).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

from tests.support import lacks


def run(*command: str) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Host:
    """A namespace; *number* is 1 or 2."""

    def __init__(self, number: int) -> None:
        self.name = f"streaming-{os.getpid()}-{number}"
        self._front = f"st{os.getpid()}f{number}"
        # The address for those in front, and the one for the other host.
        self.address = f"198.18.{number}.2"
        self.inner_address = f"198.18.3.{number}"
        self._other = f"198.18.3.{3 - number}"
        self._gateway = f"198.18.{number}.254"

    @property
    def prefix(self) -> list[str]:
        """What runs a command there, in the same process."""
        return ["ip", "netns", "exec", self.name]

    def _ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    def create(self) -> None:
        """Make the namespace and its link to the front."""
        run("ip", "netns", "add", self.name)
        run(
            *("ip", "link", "add", self._front, "type", "veth"),
            *("peer", "name", "front", "netns", self.name),
        )
        run("ip", "address", "add", f"{self._gateway}/24", "dev", self._front)
        run("ip", "link", "set", self._front, "up")
        self._ip("address", "add", f"{self.address}/24", "dev", "front")
        self._ip("address", "add", f"{self.inner_address}/32", "dev", "lo")
        for device in ("lo", "front"):
            self._ip("link", "set", device, "up")
        self._ip("route", "add", "default", "via", self._gateway)
        # What cannot go to the other host goes nowhere else.
        self._ip("route", "add", "unreachable", f"{self._other}/32", "metric", "1000")

    def connect(self) -> None:
        """Bring up this end of the link to the other host."""
        self._ip("link", "set", "between", "up")
        self._ip("route", "add", f"{self._other}/32", "dev", "between", "src", self.inner_address)

    def disconnect(self) -> None:
        """Bring down this end: from here there is no way, from there it leads into the void."""
        self._ip("link", "set", "between", "down")

    def kill(self) -> None:
        """End everything that runs there, at once."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        for pid in done.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        """Remove the namespace, and its links with it."""
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts that are connected to this one and to each other."""
    if not shutil.which("ip") or subprocess.run(["ip", "netns"], capture_output=True).returncode:
        lacks("there is no `ip netns` (iproute2)")
    hosts = Host(1), Host(2)
    try:
        try:
            hosts[0].create()
        except AssertionError as error:
            _may_not(str(error))
        hosts[1].create()
        run(
            *("ip", "link", "add", "between", "netns", hosts[0].name, "type", "veth"),
            *("peer", "name", "between", "netns", hosts[1].name),
        )
        for host in hosts:
            host.connect()
        yield hosts
    finally:
        for host in hosts:
            host.remove()


def _may_not(error: str) -> None:
    import pytest

    if "permitted" in error or "denied" in error:
        pytest.skip(f"this user may not make network namespaces: {error}")
    raise AssertionError(error)
