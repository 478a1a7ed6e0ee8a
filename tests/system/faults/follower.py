"""A client that comes back whenever it is cut off, resumes, and checks every number it gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support import Position

# Seconds between pings, until a silent connection counts as dead, and before another attempt.
PING_INTERVAL = 0.5
SILENCE = 3.0
BACKOFF = 0.1


class Refused(Exception):
    """The server answered with an error; the seconds after which to come back."""


class Follower:
    """Follows ``events`` with the filters given, by the rules for clients of docs/delivery.md."""

    def __init__(self, port: Callable[[], int], token: str, filters: dict[str, Any]) -> None:
        self._port = port
        self._token = token
        self._filters = filters
        self._task: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._position: Position | None = None
        # Whether it was told that messages are missing, so that the next one may leave a gap.
        self._is_told = False
        self._received_at = 0.0
        # While not set: does not connect; does not read.
        self._present = asyncio.Event()
        self._present.set()
        self.reading = asyncio.Event()
        self.reading.set()
        self.has_begun = asyncio.Event()

        self.numbers: list[int] = []
        self.repeated = 0
        # Numbers of which the server said that messages are missing there.
        self.excused: set[int] = set()
        # How often it said so.
        self.told = 0
        self.closed: Counter[int | None] = Counter()
        self.longest_gap = 0.0
        # What no server should ever do.
        self.complaints: list[str] = []

    def matches(self, payload: dict[str, Any]) -> bool:
        """Tell whether this client gets a message."""
        return all(payload[name] == value for name, value in self._filters.items())

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow in the background."""
        self._task = asyncio.create_task(self._follow())
        try:
            yield
            if self._task.done():
                self._task.result()
        finally:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Cut the connection, without a word, and stay away for a while."""
        self._present.clear()
        if self._socket is not None:
            self._socket.transport.abort()
        yield
        self._present.set()

    async def _follow(self) -> None:
        while True:
            await self._present.wait()
            try:
                await self._connect()
            except Refused as refused:
                await asyncio.sleep(refused.args[0])
            except ConnectionClosed as error:
                self.closed[error.rcvd.code if error.rcvd else None] += 1
            except (OSError, InvalidHandshake):  # a TimeoutError is an OSError
                self.closed[None] += 1
            await asyncio.sleep(BACKOFF)

    async def _connect(self) -> None:
        url = f"ws://127.0.0.1:{self._port()}/ws/"
        options: dict[str, Any] = {"open_timeout": SILENCE, "close_timeout": 0.1}
        options |= {"ping_interval": None, "compression": None, "max_size": None, "max_queue": 4}
        async with connect(url, **options) as self._socket:
            pinging = asyncio.create_task(self._ping(self._socket))
            try:
                await self._talk(self._socket)
            finally:
                pinging.cancel()
                self._socket.transport.abort()

    async def _ping(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(PING_INTERVAL)
                await socket.send('{"type": "ping"}')

    async def _talk(self, socket: ClientConnection) -> None:
        await socket.send(json.dumps({"type": "auth", "data": {"token": self._token}}))
        await self._receive(socket, "auth_success")
        data: dict[str, Any] = {"type": "events", "filters": self._filters}
        if self._position is not None:
            data["resume"] = self._position
        await socket.send(json.dumps({"type": "subscribe", "data": data}))
        answer = (await self._receive(socket, "subscribed"))["data"]
        if self._position is None:
            self._position = {"epoch": answer["epoch"], "offset": answer["offset"]}
        elif not answer["recovered"]:
            self._hear_of_a_loss()
        self.has_begun.set()
        while True:
            await self.reading.wait()
            await self._receive(socket, "data")

    async def _receive(self, socket: ClientConnection, wanted: str) -> dict[str, Any]:
        """Take messages until one of a type."""
        while True:
            async with asyncio.timeout(SILENCE):
                message: dict[str, Any] = json.loads(await socket.recv())
            match message["type"]:
                case "data":
                    self._take(message)
                case "pong":
                    self._take_positions(message["data"].get("positions", {}))
                case "error":
                    self._take_error(message)
                case "auth_failed":
                    raise Refused(BACKOFF)
            if message["type"] == wanted:
                return message

    def _take_error(self, message: dict[str, Any]) -> None:
        data = message["data"]
        if data["code"] != "data_lost":
            raise Refused(data.get("details", {}).get("retry_after", BACKOFF))
        details = data["details"]
        expected = self._position and self._position["offset"] + 1
        if not self._filters and not self._is_told and details["from"] != expected:
            self.complaints.append(f"lost from {details['from']}, expected {expected}")
        self._hear_of_a_loss()

    def _hear_of_a_loss(self) -> None:
        self._is_told = True
        self.told += 1

    def _take(self, message: dict[str, Any]) -> None:
        number, position = message["data"]["event"]["n"], message["metadata"]
        now = time.monotonic()
        if self.numbers:
            self.longest_gap = max(self.longest_gap, now - self._received_at)
        self._received_at = now
        self._check(number, position)
        self.numbers.append(number)
        self._position = position
        self._is_told = False

    def _check(self, number: int, position: Position) -> None:
        newest = self.numbers[-1] if self.numbers else 0
        if number <= newest:
            self.repeated += number in self.numbers
            self.complaints.append(f"{number} after {newest}")
        if self._is_told:
            self.excused.update(range(newest + 1, number))
            return
        assert self._position is not None
        # Another epoch that is not told goes on with the offsets of the one before.
        before, offset = self._position["offset"], position["offset"]
        if offset <= before or (not self._filters and offset != before + 1):
            self.complaints.append(f"offset {offset} after {before}")

    def _take_positions(self, positions: dict[str, Position]) -> None:
        for position in positions.values():
            if self._position is None or position["offset"] < self._position["offset"]:
                continue
            self._position = position
