"""The log in memory, for the channel layer within one process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from realtime.config import get_streaming_config
from realtime.log.contract import READ_BYTES, READ_ENTRIES, Append, Chunk, Entry, new_epoch
from realtime.protocol import Position


class _Stream:
    """The log of one type."""

    def __init__(self) -> None:
        self.epoch = new_epoch()
        self.head = 0
        # The newest entries; the last has the offset ``head``.
        self.entries: deque[Entry] = deque()

    def trim(self, now: float) -> None:
        """Forget what is no longer retained."""
        config, entries = get_streaming_config().websocket, self.entries
        expired = now - config.history_ttl
        while entries and (len(entries) > config.history_size or entries[0].timestamp < expired):
            entries.popleft()


class MemoryLog:
    """The logs of all types in one process, as :class:`~realtime.log.contract.Log` says."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        # Type and ``once`` of an append -> its position and when to forget it.
        self._appended: dict[tuple[str, str], tuple[Position, float]] = {}
        self._forget_at = 1000
        # Publishers may be in other threads than readers.
        self._lock = threading.Lock()

    def append(self, append: Append) -> Position:
        key = append.kind, append.once
        with self._lock:
            now = time.time()
            stream = self._stream(append.kind)
            earlier, until = self._appended.get(key, (None, 0.0))
            if earlier is not None and earlier.epoch == stream.epoch and until > now:
                return earlier
            # What is due is forgotten once there is twice as much as the last time left.
            if len(self._appended) >= self._forget_at:
                self._appended = {key: it for key, it in self._appended.items() if it[1] > now}
                self._forget_at = 2 * len(self._appended) + 1000
            position = Position(stream.epoch, stream.head + 1)
            for batch in append.batches:
                stream.entries.extend(Entry(append.timestamp, body) for body in batch.bodies)
                stream.head += len(batch.bodies)
            stream.trim(now)
            self._appended[key] = position, now + append.once_ttl
            return position

    async def aappend(self, append: Append) -> Position:
        return self.append(append)

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        with self._lock:
            stream = self._stream(kind)
            stream.trim(time.time())
            oldest = stream.head - len(stream.entries) + 1
            first = min(max(after + 1, oldest), stream.head + 1)
            entries = []
            room = READ_BYTES
            for offset in range(first, min(first + (at_most or READ_ENTRIES), stream.head + 1)):
                if room <= 0:
                    break
                entries.append(stream.entries[offset - oldest])
                room -= len(entries[-1].body)
            return Chunk(stream.epoch, stream.head, first, entries)

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        with self._lock:
            streams = {kind: self._stream(kind) for kind in kinds}
            return {kind: Position(stream.epoch, stream.head) for kind, stream in streams.items()}

    async def lengths(self, kinds: Iterable[str]) -> dict[str, int]:
        with self._lock:
            streams = {kind: self._stream(kind) for kind in kinds}
            for stream in streams.values():
                stream.trim(time.time())
            return {kind: len(stream.entries) for kind, stream in streams.items()}

    async def renew(self, kind: str, seen: Position) -> None:
        with self._lock:
            stream = self._stream(kind)
            if stream.epoch == seen.epoch and stream.head < seen.offset:
                self._streams[kind] = _Stream()

    def _stream(self, kind: str) -> _Stream:
        return self._streams.setdefault(kind, _Stream())
