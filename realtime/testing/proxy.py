"""A TCP proxy that delays, stalls, cuts, resets, leads elsewhere, and swallows without a word."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

# SO_LINGER on, for no time: closing sends a reset.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections on a loopback port of its own to another one.

    ``delay`` is in seconds, for each piece of data on its way. While ``flowing`` is not set,
    connections stay and nothing passes. New connections lead to the port that is ``target`` then.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.delay = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.target = target
        self._writers: set[asyncio.StreamWriter] = set()
        # Those to which nothing passes any more.
        self._swallowed: set[asyncio.StreamWriter] = set()
        # The connections' ends whose next piece is to be cut, and what says that one was.
        self._to_cut: set[asyncio.StreamWriter] = set()
        self._was_cut = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self.flowing.set()
        self._server.close()
        self.reset()
        while self._writers:  # noqa: ASYNC110 - their tasks end by themselves
            await asyncio.sleep(0.001)

    async def stall(self, seconds: float) -> None:
        """Let nothing pass for a while."""
        self.flowing.clear()
        await asyncio.sleep(seconds)
        self.flowing.set()

    def swallow(self) -> None:
        """Take what comes over the present connections and pass on nothing; new ones work."""
        self._swallowed |= self._writers

    async def cut(self) -> None:
        """Forward half of what comes next, then end that connection; and all others with it."""
        self._was_cut.clear()
        self._to_cut = set(self._writers)
        await self._was_cut.wait()
        self._to_cut = set()
        for writer in list(self._writers):
            writer.close()

    def move(self, target: int) -> None:
        """Forward to another port from now on; end all connections."""
        self.target = target
        self.reset()

    def reset(self) -> None:
        """End all connections with a reset, and what is on its way with them."""
        for writer in list(self._writers):
            with contextlib.suppress(OSError):  # it has just ended by itself
                connected = writer.get_extra_info("socket")
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        pumps = asyncio.gather(self._pump(reader, target[1]), self._pump(target[0], writer))
        with contextlib.suppress(OSError):
            await pumps

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while data := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self.flowing.wait()
                if writer in self._swallowed:
                    continue
                if writer in self._to_cut and len(data) > 1:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    self._was_cut.set()
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side ended with a reset
        finally:
            self._writers.discard(writer)
            self._swallowed.discard(writer)
            writer.close()
