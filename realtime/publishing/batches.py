"""Lines on their way into the log: what is published together, and what has been.

Knows publishing; nothing of where the lines come from.
"""

from __future__ import annotations

import hashlib
from typing import Any

from realtime.protocol import Position
from realtime.publishing import apublish_checked

MOST_LINES = 1000
MOST_BYTES = 1024 * 1024
# Of the lines that were skipped, so many are named.
SHOWN = 10


class Batches:
    """Payloads of one type, in the order of their lines.

    With a *key* the same lines are cut in the same places and published once, however often they
    come, within ``history_ttl``: what says where to cut is the lines alone. Each batch's key is
    made of *key*, its number and its payloads, so other lines under the same key are published.
    """

    def __init__(self, kind: str, key: str | None) -> None:
        self._kind = kind
        self._key = key
        self._number = 0
        self._lines = 0
        self._bytes = 0
        self._taken = 0
        # Payloads that are not published yet, as JSON text.
        self.waiting: list[bytes] = []
        # The first line that has neither been published nor skipped.
        self.next_line = 1
        self.report: dict[str, Any] = {"count": 0, "epoch": None, "first": None, "last": None}

    @property
    def may_be_cut_anywhere(self) -> bool:
        """Whether what waits may be published though more lines may come."""
        return self._key is None

    @property
    def is_full(self) -> bool:
        """Whether what waits is to be published."""
        return self._lines >= MOST_LINES or self._bytes >= MOST_BYTES

    def add(self, payload: bytes | None, size: int) -> None:
        """Take a line of *size* bytes, ``None`` if there is nothing in it."""
        self._lines += 1
        self._bytes += size
        self._taken += 1
        if payload is not None:
            self.waiting.append(payload)

    def skip(self, size: int, why: str) -> None:
        """Take a line that is not to be published."""
        self.add(None, size)
        self.report["skipped"] = self.report.get("skipped", 0) + 1
        errors = self.report.setdefault("errors", [])
        if len(errors) < SHOWN:
            errors.append({"line": self._taken, "error": why})

    async def publish(self) -> None:
        """Publish what waits. Raises :class:`~realtime.publishing.PublishError`."""
        if self.waiting:
            first = await apublish_checked(self._kind, self.waiting, self._batch_key())
            self._note(first, len(self.waiting))
        self._number += 1
        self._lines = self._bytes = 0
        self.waiting = []
        self.next_line = self._taken + 1

    def _batch_key(self) -> str | None:
        if self._key is None:
            return None
        digest = hashlib.sha256()
        for payload in self.waiting:
            digest.update(payload)
            digest.update(b"\n")
        return f"{self._key} {self._number} {digest.hexdigest()}"

    def _note(self, first: Position, count: int) -> None:
        report = self.report
        if report["epoch"] != first.epoch:  # the first batch, or the log has been lost meanwhile
            report |= {"epoch": first.epoch, "first": first.offset}
        report["last"] = first.offset + count - 1
        report["count"] += count
