"""A client of event streams: one HTTP request, read event by event."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from tests.support import TIMEOUT, Position, Server


class Event(NamedTuple):
    """An event as EventSource would see it; ``data`` is decoded, ``None`` if there is none."""

    name: str
    id: str
    data: Any


class EventSource:
    """One response; ``status`` and ``headers`` are there at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self._text = b""

    async def read_head(self) -> None:
        """Read status line and headers."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {
            name.lower(): value
            for name, value in (line.split(": ", 1) for line in head[1:] if line)
        }

    async def body(self) -> Any:
        """Return the JSON of an answer that is no stream."""
        return json.loads(await self.reader.readexactly(int(self.headers["content-length"])))

    async def _more(self) -> bool:
        size = int((await self.reader.readline()).strip() or b"0", 16)
        part = await self.reader.readexactly(size)
        await self.reader.readline()
        self._text += part
        return bool(size)

    async def block(self, timeout: float = TIMEOUT) -> list[str]:
        """Return the lines up to the next empty one; none at the end."""
        async with asyncio.timeout(timeout):
            while b"\n\n" not in self._text:
                if not await self._more():
                    return []
        block, _, self._text = self._text.partition(b"\n\n")
        return block.decode().split("\n")

    async def next(self) -> Event:
        """Return the next event with data."""
        while lines := await self.block():
            fields = dict(line.split(": ", 1) for line in lines if ": " in line)
            if "data" in fields:
                name = fields.get("event", "message")
                return Event(name, fields.get("id", ""), json.loads(fields["data"]))
        return Event("end", "", None)

    async def payloads(self, count: int) -> list[Any]:
        """Return the payloads of the next events, which are data messages."""
        events = [await self.next() for _ in range(count)]
        assert [event.name for event in events] == ["message"] * count, events
        return [event.data["data"]["event"] for event in events]

    async def assert_closed(self, code: int, reason: str) -> None:
        """Check that the stream says why it ends, and ends."""
        event = await self.next()
        assert (event.name, event.data) == ("close", {"code": code, "reason": reason}), event
        assert (await self.next()).name == "end"


@contextlib.asynccontextmanager
async def event_source(
    server: Server | int,
    kind: str = "events",
    token: str | None = None,
    *,
    method: str = "GET",
    last_event_id: str | Position | None = None,
    headers: dict[str, str] | None = None,
    **query: Any,
) -> AsyncIterator[EventSource]:
    """Send a request to a server, or to a port, and read the head of the answer.

    What of the query is not an option here may follow the type: ``events?token=...&``.
    """
    port = server if isinstance(server, int) else server.port
    path = kind if "?" in kind else f"{kind}?"
    lines = [
        f"{method} /api/stream/{path}{urlencode(query, doseq=True)} HTTP/1.1",
        "Host: test",
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if isinstance(last_event_id, dict):
        last_event_id = "{epoch}:{offset}".format_map(last_event_id)
    if last_event_id is not None:
        lines.append(f"Last-Event-ID: {last_event_id}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        source = EventSource(reader, writer)
        async with asyncio.timeout(TIMEOUT):
            await source.read_head()
        yield source
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def subscribed(
    server: Server | int, kind: str, token: str, **options: Any
) -> AsyncIterator[tuple[EventSource, Event]]:
    """Open a stream and read its first event, ``subscribed``."""
    async with event_source(server, kind, token, **options) as source:
        assert source.status == 200, await source.body()
        first = await source.next()
        assert first.name == "subscribed", first
        yield source, first
