"""A proxy as some networks have it: ordinary requests pass, WebSocket handshakes are refused."""

from __future__ import annotations

import asyncio
import contextlib

from realtime.testing.proxy import Proxy


class Blocker(Proxy):
    """Looks at the first bytes of each connection while ``blocks``."""

    blocks = True
    refused = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if self.blocks and b"upgrade: websocket" in head.lower():
                self.refused += 1
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                writer.close()
                return
            forwarded = asyncio.StreamReader()
            forwarded.feed_data(head)
            feeding = asyncio.create_task(_feed(reader, forwarded))
            await super()._accept(forwarded, writer)
            feeding.cancel()


async def _feed(source: asyncio.StreamReader, target: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while part := await source.read(65_536):
            target.feed_data(part)
    target.feed_eof()
