"""The publisher, a process of its own: ``python -m benchmarks.publisher USERS SINK [ADDRESS ...]``.

Reads commands from standard input, one a line: ``burst N`` (as fast as possible), ``one``, and
``rate N HZ``. Answers each with a line of JSON when it is done. :class:`Publisher` is the other end
of the pipes. Events are numbered from 0 through the life of the process.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import message, wire
from benchmarks.machine import LOAD_CORE, Process, cpu_seconds
from benchmarks.peers import ROOT, Server

Event = dict[str, Any]


class Publisher:
    """Starts and directs a publisher process."""

    def __init__(self, server: Server, directory: Path, users: int = 1000) -> None:
        command = [sys.executable, "-m", "benchmarks.publisher", str(users), *server.publisher]
        environment = server.environment | {"PYTHONPATH": str(ROOT)}
        log = directory / "publisher.log"
        self._process = Process(command, LOAD_CORE, log, environment, pipes=True)
        self._sequence = 0
        self.answer()  # it has connected

    def order(self, command: str, count: int = 1, hz: float = 0) -> range:
        """Have *count* events published, without waiting; return their numbers."""
        words = [command, str(count), str(hz)]
        assert self._process.child.stdin is not None
        self._process.child.stdin.write(f"{' '.join(words)}\n".encode())
        self._process.child.stdin.flush()
        self._sequence += count
        return range(self._sequence - count, self._sequence)

    def answer(self) -> dict[str, float]:
        """Wait until the last order is done; return what the process says of it."""
        assert self._process.child.stdout is not None
        line = self._process.child.stdout.readline()
        if not line:
            raise RuntimeError(f"the publisher has ended:\n{self._process.tail()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def cpu(self) -> float:
        """Return the CPU seconds that the process has used."""
        return cpu_seconds([self._process.child.pid])

    def stop(self) -> None:
        """End the process."""
        self._process.stop()


class Sink(ABC):
    """A way into a server."""

    @abstractmethod
    def one(self, event: Event) -> None:
        """Publish one event."""

    def many(self, events: list[Event]) -> None:
        """Publish events in order, as fast as possible."""
        for event in events:
            self.one(event)


class Realtime(Sink):
    """``realtime.publish`` and ``realtime.publish_many``."""

    def __init__(self, batch: str, kind: str = "events") -> None:
        import django

        django.setup()
        from realtime import publish, publish_many

        self._publish, self._publish_many = publish, publish_many
        self._batch = int(batch)
        self._kind = kind

    def one(self, event: Event) -> None:
        """Publish one event."""
        self._publish(self._kind, event)

    def many(self, events: list[Event]) -> None:
        """Publish in batches."""
        if self._batch == 1:
            super().many(events)
            return
        batch = self._batch or len(events)
        for start in range(0, len(events), batch):
            self._publish_many(self._kind, events[start : start + batch])


class Layer(Sink):
    """``group_send`` of the channel layer; in one event loop, or each by ``async_to_sync``."""

    def __init__(self, path: str, group: str = "events", mode: str = "loop") -> None:
        from channels_redis.pubsub import RedisPubSubChannelLayer

        self._layer = RedisPubSubChannelLayer(hosts=[f"unix://{path}"])
        self._group = group
        self._mode = mode
        self._loop = asyncio.new_event_loop()
        self._offset = 0

    def _message(self, event: Event) -> dict[str, Any]:
        self._offset += 1
        return {
            "type": "stream.message",
            "event": event,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "offset": self._offset,
        }

    def one(self, event: Event) -> None:
        """Publish one event."""
        if self._mode == "sync":
            from asgiref.sync import async_to_sync

            async_to_sync(self._layer.group_send)(self._group, self._message(event))
        else:
            self._loop.run_until_complete(self._layer.group_send(self._group, self._message(event)))


class Lines(Sink):
    """JSON lines over TCP."""

    def __init__(self, host: str, port: str) -> None:
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def one(self, event: Event) -> None:
        """Publish one event."""
        self.many([event])

    def many(self, events: list[Event]) -> None:
        """Publish all with one call."""
        self._socket.sendall(b"".join(_compact(event) + b"\n" for event in events))


class Nchan(Sink):
    """nchan's publisher over a WebSocket: one frame per complete data message."""

    def __init__(self, host: str, port: str) -> None:
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(wire.upgrade("/pub"))
        answer = bytearray()
        while not wire.take_upgrade(answer):
            answer += self._socket.recv(4096)
        self._socket.setblocking(False)
        self._offset = 0

    def one(self, event: Event) -> None:
        """Publish one event."""
        self._offset += 1
        head = b'{"type":"data","data":{"event":' + _compact(event)
        tail = (
            b',"subscription_type":"events"},"timestamp":"2026-01-01T00:00:00.000Z",'
            b'"metadata":{"epoch":"benchmark","offset":%d},"subscription_id":"events"}'
        )
        frame = wire.masked(head + tail % self._offset)
        while frame:
            try:
                frame = frame[self._socket.send(frame) :]
            except BlockingIOError:
                time.sleep(0.0005)
            self._discard_answers()

    def _discard_answers(self) -> None:
        try:
            self._socket.recv(65_536)
        except BlockingIOError:
            return


def _compact(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


SINKS: dict[str, type[Sink]] = {
    "realtime": Realtime,
    "layer": Layer,
    "lines": Lines,
    "nchan": Nchan,
}


def main(users: int, sink: Sink) -> None:
    """Carry out orders until standard input ends."""
    print("{}", flush=True)
    sequence = 0
    for line in sys.stdin:
        command, count_word, hz = line.split()
        count = int(count_word)
        numbers = range(sequence, sequence + count)
        sequence += count
        events = [message.event(number, users) for number in numbers] if command == "burst" else []
        start, cpu = time.monotonic(), time.process_time()
        answer = {"start": start}
        if command == "burst":
            sink.many(events)
        else:
            answer |= one_by_one(sink, numbers, users, float(hz))
        answer |= {"seconds": time.monotonic() - start, "cpu": time.process_time() - cpu}
        print(json.dumps(answer), flush=True)


def one_by_one(sink: Sink, numbers: range, users: int, hz: float) -> dict[str, float]:
    """Publish so many a second, or one after another; return percentiles of a call's seconds."""
    start = time.monotonic()
    calls = []
    for index, number in enumerate(numbers):
        if hz:
            time.sleep(max(0.0, start + index / hz - time.monotonic()))
        began = time.monotonic()
        sink.one(message.event(number, users))
        calls.append(time.monotonic() - began)
    calls.sort()
    return {"p50": calls[len(calls) // 2], "p99": calls[len(calls) * 99 // 100]}


if __name__ == "__main__":
    arguments = sys.argv[3:]
    main(int(sys.argv[1]), SINKS[sys.argv[2]](*arguments))
