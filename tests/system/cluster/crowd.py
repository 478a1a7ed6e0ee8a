"""Clients that follow a numbered stream, and the process that publishes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from realtime.client import Gap, StreamingClient
from tests.support import ROOT, environment

# As many as two cores can serve among other tests: what breaks with them breaks with more.
CLIENTS = int(os.environ.get("CLUSTER_CLIENTS", "300"))
# Of each type a client gets every so many-th message.
SLICES = 50
TYPES = ("events", "metrics")
# Clients that connect at the same time, at first.
AT_ONCE = 50
# Seconds for all to be there: a handshake costs 20 ms of a core with all that takes part in it.
PATIENCE = 180


class Follower:
    """A client that gets a slice of a type, and checks its numbers."""

    def __init__(self, number: int, url: str, token: str, **options: Any) -> None:
        self.kind = TYPES[number % len(TYPES)]
        self._slice = number // len(TYPES) % SLICES
        # Seconds: a network that swallows everything must be noticed soon.
        self._client = StreamingClient(
            url, token, heartbeat=3.0, backoff=(0.1, 1.0), compression=None, **options
        )
        # The newest number, and when it came.
        self.newest = self._slice - SLICES
        self._came = 0.0
        self.longest_gap = 0.0
        self.wrong: list[tuple[int, int]] = []
        self.gaps: list[Gap] = []

    async def follow(self, ready: asyncio.Semaphore, subscribed: asyncio.Event) -> None:
        """Follow until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            async with ready:
                await stack.enter_async_context(self._client)
                messages = await self._client.subscribe(
                    self.kind, {"slice": self._slice}, on_gap=self.gaps.append
                )
            subscribed.set()
            async for message in messages:
                self._take(message.payload["n"])

    def _take(self, number: int) -> None:
        now = time.monotonic()
        if number != self.newest + SLICES:
            self.wrong.append((self.newest, number))
        if self._came:
            self.longest_gap = max(self.longest_gap, now - self._came)
        self.newest, self._came = number, now

    def has(self, number: int) -> bool:
        """Tell whether everything of its slice up to a number has come."""
        return self.newest > number - SLICES


class Stream:
    """A process that publishes numbered messages of each type, so many a second in all."""

    def __init__(self, data_dir: Path, rate: int, **variables: str) -> None:
        together = 5
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.system.cluster.publisher", *TYPES),
                *("--together", str(together), "--slices", str(SLICES)),
                *("--interval", str(together * len(TYPES) / rate)),
            ],
            env=environment(data_dir, **variables),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # Type -> the newest number that is confirmed.
        self.confirmed = dict.fromkeys(TYPES, -1)
        self.refused = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, what = line.split()
            if what == "refused":
                self.refused += 1
            else:
                self.confirmed[kind] = int(what)

    def stop(self) -> None:
        """End it when everything is confirmed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Crowd:
    """All clients."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        self.followers = [Follower(number, url, token, **options) for number in range(CLIENTS)]

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow; all are subscribed when this begins."""
        ready = asyncio.Semaphore(AT_ONCE)
        subscribed = [asyncio.Event() for _ in self.followers]
        tasks = [
            asyncio.create_task(follower.follow(ready, event))
            for follower, event in zip(self.followers, subscribed, strict=True)
        ]
        try:
            await asyncio.wait_for(
                asyncio.gather(*(event.wait() for event in subscribed)), PATIENCE
            )
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def behind(self, numbers: dict[str, int]) -> int:
        """Return how many clients lack something up to these numbers of each type."""
        return sum(not one.has(numbers[one.kind]) for one in self.followers)

    async def until_all_have(self, numbers: dict[str, int], seconds: float) -> None:
        """Wait until every client has everything up to these numbers."""
        deadline = time.monotonic() + seconds
        while behind := self.behind(numbers):
            assert time.monotonic() < deadline, f"{behind} clients lack messages up to {numbers}"
            await asyncio.sleep(0.02)

    def take_longest_gaps(self) -> tuple[float, float]:
        """Return the longest time between two messages since this was asked last, in seconds.

        Of the client with the longest, and of that in the middle of all.
        """
        gaps = sorted(one.longest_gap for one in self.followers)
        for one in self.followers:
            one.longest_gap = 0.0
        return gaps[-1], gaps[len(gaps) // 2]

    def check(self) -> None:
        """Check that nothing was lost or repeated, and that no client was told so."""
        wrong = [one.wrong for one in self.followers if one.wrong]
        assert not wrong, f"{len(wrong)} clients got (this, then that): {wrong[:3]}"
        gaps = [one.gaps for one in self.followers if one.gaps]
        assert not gaps, f"{len(gaps)} clients were told of gaps: {gaps[:3]}"
