"""Two hundred hostile clients, until standard input ends: its line has host, port and a token.

Fifty that flood, with and without a token, in messages, pings and parts; fifty that send what is
no HTTP, no WebSocket or no JSON; fifty that only half open a connection, or never authenticate;
fifty that read slowly or not at all what they subscribe to. Who is closed comes back a little
later. Prints how often clients of each kind were closed. Kinds after the token mean those alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

from benchmarks import wire

COUNT = 50
# Seconds until one that was closed comes back.
BACK_AFTER = (0.2, 1.0)
PATH = "/ws/"
PING_MESSAGE = b'{"type": "ping", "metadata": {"x": "%s"}}' % (b"x" * 200)
# Masked with zeros: an empty ping, a part of one byte of a message that goes on, its beginning.
PING = b"\x89\x80" + bytes(4)
PART = b"\x00\x81" + bytes(4) + b" "
BEGINNING = b"\x01\x81" + bytes(4) + b"["


class Attacker:
    """One connection of a hostile client."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self._address = address
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        # Little fits on the way, so that what is not read piles up at the server.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)

    def close(self) -> None:
        """Cut the connection."""
        self._socket.close()

    async def connect(self) -> None:
        """Open the TCP connection."""
        await self._loop.sock_connect(self._socket, self._address)

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the server does not read."""
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self, size: int = 4096) -> bytes:
        """Return what has come; raises ``ConnectionError`` at the end."""
        data = await self._loop.sock_recv(self._socket, size)
        if not data:
            raise ConnectionError
        return data

    async def open(self, *messages: dict[str, object]) -> None:
        """Shake hands, and send messages."""
        await self.connect()
        await self.send(wire.upgrade(PATH))
        received = b""
        while b"\r\n\r\n" not in received:
            received += await self.receive()
        for message in messages:
            await self.send(wire.masked(json.dumps(message).encode()))

    async def authenticate(self, *messages: dict[str, object]) -> None:
        """Shake hands, authenticate, and send messages."""
        await self.open({"type": "auth", "data": {"token": self._token}}, *messages)


async def flood(client: Attacker, number: int) -> None:
    """Send as much as the server takes and read nothing."""
    ways = [wire.masked(PING_MESSAGE), PING, PART]
    begin: Callable[[], Awaitable[None]] = client.authenticate if number % 2 else client.open
    await begin()
    await client.send(BEGINNING if number % 3 == 2 else b"")
    while True:
        await client.send(ways[number % 3] * 100)


async def garbage(client: Attacker, number: int) -> None:
    """Send what nobody can understand."""
    if number % 3 == 0:
        await client.connect()
        await client.send(os.urandom(random.randrange(1, 10_000)))
    else:
        await client.open()
        for _ in range(20):
            noise = os.urandom(random.randrange(1, 2000))
            await client.send(noise if number % 3 == 1 else wire.masked(noise.hex().encode()))
            await asyncio.sleep(0.05)
    while True:
        await client.receive()


async def half_open(client: Attacker, number: int) -> None:
    """Take up a connection and give nothing."""
    if number % 3 == 0:
        await client.connect()
        for byte in wire.upgrade(PATH):
            await client.send(bytes([byte]))
            await asyncio.sleep(0.5)
    elif number % 3 == 1:
        await client.open()
    else:
        await client.open()
        await client.send(b"\x81\xfe\xff\xff" + bytes(4) + b"[" * 60_000)  # of 65,535 bytes
    while True:
        await client.receive()


async def slow(client: Attacker, number: int) -> None:
    """Subscribe to everything and read hardly any of it."""
    wanted: list[dict[str, object]] = [
        {"type": "subscribe", "data": {"type": kind}} for kind in ("events", "metrics")
    ]
    await client.authenticate(*wanted)
    while True:
        await asyncio.sleep(1.0)
        if number % 2:
            await client.receive(100)
        else:
            await client.send(PING)


KINDS = (flood, garbage, half_open, slow)


async def attack(address: tuple[str, int], token: str, names: list[str]) -> Counter[str]:
    """Run them until standard input ends."""
    closed: Counter[str] = Counter()

    async def run(kind: Callable[[Attacker, int], Awaitable[None]], number: int) -> None:
        while True:
            client = Attacker(address, token)
            try:
                with contextlib.suppress(OSError):
                    await kind(client, number)
            finally:
                client.close()
            closed[kind.__name__] += 1
            await asyncio.sleep(random.uniform(*BACK_AFTER))

    kinds = [kind for kind in KINDS if not names or kind.__name__ in names]
    tasks = [asyncio.create_task(run(kind, n)) for kind in kinds for n in range(COUNT)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return closed


def start(host: str, port: int, token: str) -> subprocess.Popen[str]:
    """Start them in a process of their own, to be ended by ``communicate("")``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.attackers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f"{host} {port} {token}\n")
    process.stdin.flush()
    return process


def main() -> None:
    """Attack."""
    os.nice(10)  # it shares a core with the clients that behave
    host, port, token, *kinds = sys.stdin.readline().split()
    print(json.dumps(asyncio.run(attack((host, int(port)), token, kinds))))


if __name__ == "__main__":
    main()
