"""A NATS server of a test's own, with JetStream; may be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import nats
import nats.js.errors

from tests.support import TIMEOUT, free_port, lacks, wait_until


class NatsServer:
    """One server and its files."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = ("-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self._folder))
        with (self._folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen([self._program, *options], stdout=log, stderr=log)
        ready = b"Server is ready"
        seen = (self._folder / "nats.log").read_bytes().count(ready)
        wait_until(lambda: (self._folder / "nats.log").read_bytes().count(ready) > seen)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    async def publish(
        self, stream: str, payloads: list[bytes], subject: str = "", *, anew: bool = False
    ) -> None:
        """Publish to a subject of a stream, by default its name; make it if need be, or anew."""
        connection = await nats.connect(self.url)
        try:
            jetstream = connection.jetstream()
            if anew:
                await jetstream.delete_stream(stream)
            await jetstream.add_stream(name=stream, subjects=[stream, f"{stream}.>"])
            pending = [
                await jetstream.publish_async(subject or stream, payload) for payload in payloads
            ]
            await asyncio.gather(*pending)
        finally:
            await connection.close()

    async def messages(self, stream: str, count: int) -> list[tuple[bytes, dict[str, str]]]:
        """Return the first messages of a stream, each with its headers."""
        connection = await nats.connect(self.url)
        try:
            subscription = await connection.jetstream().pull_subscribe("", stream=stream)
            messages = await subscription.fetch(count, timeout=TIMEOUT)
            return [(message.data, message.headers or {}) for message in messages]
        finally:
            await connection.close()

    async def unacknowledged(self, stream: str, durable: str = "realtime") -> int:
        """Return how many messages a consumer has yet to get or to acknowledge."""
        connection = await nats.connect(self.url)
        try:
            info = await connection.jetstream().consumer_info(stream, durable)
            return (info.num_pending or 0) + (info.num_ack_pending or 0)
        except nats.js.errors.NotFoundError:  # it has not begun
            return (await connection.jetstream().stream_info(stream)).state.messages
        finally:
            await connection.close()


@contextlib.contextmanager
def running_nats(folder: Path) -> Iterator[NatsServer]:
    """Run a server for the length of a test."""
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if program is None:
        lacks("nats-server is not installed")
    with NatsServer(program, folder) as server:
        yield server
