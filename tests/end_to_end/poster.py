"""A client that publishes over HTTP: a request whose body is sent piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from tests.support import TIMEOUT, Server

NDJSON = "application/x-ndjson"


class Answer(NamedTuple):
    """An answer in JSON."""

    status: int
    headers: dict[str, str]
    said: Any


class Post:
    """One connection; requests on it follow one another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def begin(self, path: str, headers: dict[str, str | None], method: str = "POST") -> None:
        """Send the head of a request; headers that are ``None`` are left out."""
        lines = [f"{method} /api/publish/{path} HTTP/1.1", "Host: test"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def send(self, part: bytes) -> None:
        """Send a chunk of the body, and wait until the system has taken it."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await self.writer.drain()

    async def end(self) -> Answer:
        """End a body in chunks; return the answer."""
        self.writer.write(b"0\r\n\r\n")
        return await self.answer()

    async def answer(self) -> Answer:
        """Return the answer."""
        async with asyncio.timeout(TIMEOUT):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            while head[0].split()[1] == "100":
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in pairs}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, json.loads(body))

    async def assert_end(self) -> None:
        """Check that the server ends the connection."""
        async with asyncio.timeout(TIMEOUT):
            assert await self.reader.read() == b""


@contextlib.asynccontextmanager
async def posting(
    server: Server | int, context: ssl.SSLContext | None = None
) -> AsyncIterator[Post]:
    """Connect to a server, or to a port, with TLS if there is a context."""
    port = server if isinstance(server, int) else server.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Post(reader, writer)
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def streaming(
    server: Server | int,
    path: str,
    token: str,
    key: str | None = None,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[Post]:
    """Begin to publish lines, in chunks."""
    async with posting(server, context) as post:
        post.begin(
            path,
            {
                "Authorization": f"Bearer {token}",
                "Content-Type": NDJSON,
                "Transfer-Encoding": "chunked",
                "Idempotency-Key": key,
            },
        )
        yield post


async def post(
    server: Server,
    path: str,
    token: str | None,
    body: bytes,
    content_type: str = "application/json",
    method: str = "POST",
    **headers: str,
) -> Answer:
    """Send a request whose body is there from the start; return the answer."""
    async with posting(server) as connection:
        given: dict[str, str | None] = {
            "Authorization": f"Bearer {token}" if token is not None else None,
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection.begin(path, given, method)
        connection.writer.write(body)
        return await connection.answer()


def lines(payloads: Iterable[dict[str, Any]]) -> bytes:
    """Return payloads as newline-delimited JSON."""
    return b"".join(json.dumps(payload).encode() + b"\n" for payload in payloads)
