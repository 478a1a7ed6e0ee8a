"""Who takes part: processes that publish or compute, and clients that write down what they see."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realtime.client import Gap, StreamingClient
from realtime.protocol import Position
from realtime.torture.checks import Confirmation, Received, Record, Told

# Seconds that a process has to end.
PATIENCE = 60.0
# Seconds until one that has ended is started again.
PAUSE = 0.2
BACKOFF = (0.1, 1.0)
HEARTBEAT = 1.0


class Program:
    """A process that is started again after each death. One thing at a time is done to it."""

    def __init__(
        self, command: list[str], log: Path, variables: Mapping[str, str], root: Path
    ) -> None:
        self.command = command
        self.lock = asyncio.Lock()
        # By how many seconds its clock is wrong.
        self.ahead = 0
        self._log = log
        self._options: dict[str, Any] = {"env": dict(variables), "cwd": root}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "realtime.torture.wrong_clock", str(self.ahead)),
                *self.command,
                *arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                **self._options,
            )

    async def stop(self, seconds: float) -> None:
        """Have it hang for a while."""
        async with self.lock:
            self.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            await self.process.communicate()

    async def restart(self) -> None:
        """Kill it, and start it again."""
        async with self.lock:
            await self.kill()
            await self.start()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.process is not None:
                self.process.send_signal(number)


class Processor(Program):
    """A processor, which is started again also if it ends by itself."""

    async def start(self, *arguments: str) -> None:
        """Start it, and watch it."""
        await super().start(*arguments)
        assert self.process is not None
        self._watching = asyncio.create_task(self._watch(self.process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await process.communicate()
        await asyncio.sleep(PAUSE)
        await self.start()

    async def kill(self) -> None:
        """End it for good."""
        self._watching.cancel()
        await super().kill()


class Publisher(Program):
    """A publisher process, and what it was told."""

    def __init__(
        self,
        name: str,
        module: str,
        interval: float,
        log: Path,
        variables: Mapping[str, str],
        root: Path,
    ) -> None:
        super().__init__([module, name, "--interval", str(interval)], log, variables, root)
        self.name = name
        self.confirmed: list[Confirmation] = []
        self._reading: asyncio.Task[None] | None = None

    async def start(self, *arguments: str) -> None:
        """Go on after what was confirmed last."""
        last = self.confirmed[-1] if self.confirmed else None
        first = last.first + last.messages if last else 1
        await super().start("--first", str(first), *arguments)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        async for line in self.process.stdout:
            if line.endswith(b"\n"):  # else it was killed in the middle
                first, count, epoch, offset = line.decode().split()
                position = Position(epoch, int(offset))
                self.confirmed.append(Confirmation(int(first), int(count), position))

    async def kill(self) -> None:
        """End it at once, and read what it has written."""
        self.send(signal.SIGKILL)
        await self._wait()

    async def finish(self) -> None:
        """Have it end when what it publishes is confirmed."""
        async with self.lock, asyncio.timeout(PATIENCE):
            assert self.process is not None and self.process.stdin is not None
            self.process.stdin.close()
            await self._wait()
            if self.process.returncode:
                raise AssertionError(f"publisher {self.name}: {self._log.read_text()}")

    async def _wait(self) -> None:
        if self.process is not None and self._reading is not None:
            await self._reading
            await self.process.wait()


class Consumer:
    """A client with one subscription that keeps its position when it goes.

    *filters* are those that it asks for.
    """

    def __init__(self, url: str, token: str, record: Record, filters: dict[str, Any]) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self._filters = filters
        self._url = url
        self._token = token
        self._client: StreamingClient | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def position(self) -> Position | None:
        """Up to where it has everything."""
        if self._client is not None:
            for subscription in self._client.subscriptions.values():
                if subscription.position is not None:
                    self.record.end = Position(*subscription.position)
        return self.record.end

    async def come(self) -> None:
        """Connect and go on; return when subscribed."""
        self._client = StreamingClient(
            self._url, self._token, heartbeat=HEARTBEAT, backoff=BACKOFF, compression=None
        )
        await self._client.connect()
        resume = None if self.record.end is None else (*self.record.end,)
        subscription = await self._client.subscribe(
            self.record.kind, self._filters, resume=resume, on_gap=self._hear
        )
        if self.record.start is None and subscription.received is not None:
            self.record.start = Position(*subscription.received)
        self._reading = asyncio.create_task(self._read(subscription))

    async def _read(self, subscription: Any) -> None:
        async for message in subscription:
            assert message.position is not None
            self.take(Received(Position(*message.position), message.payload))

    def take(self, received: Received) -> None:
        """Write down a message."""
        self.record.received.append(received)

    def _hear(self, gap: Gap) -> None:
        assert self._client is not None
        for subscription in self._client.subscriptions.values():
            if subscription.received is not None:
                self.record.told.append(Told(Position(*subscription.received), gap.reason))

    async def go(self) -> None:
        """End, with its position kept. Raises what ended it before."""
        if self._reading is not None:
            if self._reading.done():
                self._reading.result()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._client is not None:
            self.record.end = self.position
            await self._client.close()
        self._client = self._reading = None

    async def leave(self, seconds: float) -> None:
        """Be away for a while."""
        async with self.lock:
            await self.go()
            await asyncio.sleep(seconds)
            await self.come()
