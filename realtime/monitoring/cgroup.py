"""Reads the limits of a container, and what it uses, from its control group (version 2).

A container sees its own group as the root of all groups. Outside of a container the root has no
limits, and everything here returns ``None``. Source: the kernel's
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/sys/fs/cgroup")


class ContainerMemory(NamedTuple):
    """Bytes in use, without file cache that the kernel can take back, and how many are allowed."""

    used: int
    limit: int


def memory(root: Path = ROOT) -> ContainerMemory | None:
    """Return the container's memory; ``None`` without a limit."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit = int((root / "memory.max").read_text())
        cache = _fields(root / "memory.stat")["inactive_file"]
        used = int((root / "memory.current").read_text()) - cache
        return ContainerMemory(max(used, 0), limit)
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
