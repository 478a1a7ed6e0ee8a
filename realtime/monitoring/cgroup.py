"""What a container may have: the limits of its control group (version 2), and what it uses.

Only of a container, whose own group is the root of what it sees; elsewhere that has no limits and
nothing is told. Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/sys/fs/cgroup")


class Memory(NamedTuple):
    """Bytes in use, without the file cache that can be given back, and how many there may be."""

    used: int
    limit: int


def memory(root: Path = ROOT) -> Memory | None:
    """Return the container's memory; ``None`` without a limit."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit = int((root / "memory.max").read_text())
        cache = _fields(root / "memory.stat")["inactive_file"]
        used = int((root / "memory.current").read_text()) - cache
        return Memory(max(used, 0), limit)
    return None


def cpus(root: Path = ROOT) -> float | None:
    """Return how many processors the container may use; ``None`` without a limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def cpu_seconds(root: Path = ROOT) -> float | None:
    """Return the processor time that the container has used."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _fields(root / "cpu.stat")["usage_usec"] / 1e6
    return None


def _fields(path: Path) -> dict[str, int]:
    """Read a file of names and numbers."""
    pairs = (line.split() for line in path.read_text().splitlines())
    return {name: int(value) for name, value in pairs}
