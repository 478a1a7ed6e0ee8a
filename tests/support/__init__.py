"""Real servers and clients for tests: processes, sockets, commands. No mocks, no sleeping."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import psutil
import pytest

from realtime.testing import Client, LiveServer
from realtime.testing.client import TIMEOUT, Position
from realtime.testing.server import START_TIMEOUT, environment, free_port, wait_until
from realtime.testing.server import manage as manage_project

__all__ = ["TIMEOUT", "Client", "Position", "environment", "free_port", "wait_until"]

ROOT = Path(__file__).resolve().parents[2]


def manage(
    *arguments: str, data_dir: Path, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` to its end."""
    return manage_project(*arguments, data_dir=data_dir, stdin=stdin, root=ROOT, **variables)


class Server(LiveServer):
    """A ``manage.py serve`` process of its own data directory and port."""

    def __init__(self, data_dir: Path, *arguments: str, **variables: str) -> None:
        variables = {"DJANGO_SETTINGS_MODULE": "streaming_site.settings"} | variables
        super().__init__(data_dir, *arguments, root=ROOT, **variables)

    def publish_singly(self, kind: str, *payloads: dict[str, Any]) -> None:
        """Publish from another process, one message after another, as fast as it goes."""
        self.administer(
            "from realtime import publish\nfor payload in payloads: publish(kind, payload)",
            kind=kind,
            payloads=payloads,
        )

    def try_to_publish(self, kind: str, *payloads: dict[str, Any]) -> str:
        """Publish from another process; return ``published`` or what went wrong."""
        done: str = self.administer(
            "from realtime import PublishError\n"
            "result = 'published'\n"
            "try: publish_many(kind, payloads)\n"
            "except PublishError as error: result = f'error: {error}'",
            kind=kind,
            payloads=payloads,
        )
        return done

    def valkey(self) -> list[psutil.Process]:
        """Return the embedded Valkey's processes that this server started."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "python" not in child.name():
                    found.append(child)
        return found


class OtherServer(Server):
    """A server that another command starts; it does not say when it listens."""

    def __init__(self, data_dir: Path, *program: str, **variables: str) -> None:
        """``{port}`` in the program stands for the port, a free one."""
        super().__init__(data_dir, **variables)
        self._program = program
        self._port = free_port()

    def program(self) -> list[str]:
        """Return the command that serves."""
        return [sys.executable, *(part.format(port=self._port) for part in self._program)]

    def _wait_until_listening(self) -> None:
        def is_listening() -> bool:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.connect(("127.0.0.1", self._port))
                return True
            return False

        wait_until(is_listening, START_TIMEOUT)
        self.port = self._port


def start_program(
    stack: contextlib.ExitStack, data_dir: Path, *arguments: str
) -> subprocess.Popen[str]:
    """Start Python with these arguments; return when it has printed ``running``."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(data_dir),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
        )
    )
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


class Frame(NamedTuple):
    """A WebSocket frame, as it is on the wire."""

    first_byte: int
    payload: bytes


TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


class RawClient:
    """A client that sends the bytes it is told and answers nothing by itself."""

    def __init__(self, server: Server, path: bytes = b"/ws/") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        self._received = b""
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def shake_hands(self, *headers: bytes) -> bytes:
        """Send a handshake and return the status line and headers of the answer."""
        lines = (
            b"GET " + self._path + b" HTTP/1.1",
            b"Host: localhost",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: " + base64.b64encode(b"a nonce of bytes"),
            b"Sec-WebSocket-Version: 13",
            *headers,
        )
        self.socket.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        return self.read_head()

    def read_head(self) -> bytes:
        """Return the status line and headers of the answer to a handshake."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        answer, _, self._received = self._received.partition(b"\r\n\r\n")
        return answer

    def connect(self) -> Self:
        """Complete the handshake."""
        answer = self.shake_hands()
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return self

    def send(self, first_byte: int, payload: bytes = b"", *, masked: bool = True) -> None:
        """Send a frame, with an empty mask."""
        mask = 0x80 if masked else 0
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", first_byte, mask | length)
        elif length < 65_536:
            head = struct.pack("!BBH", first_byte, mask | 126, length)
        else:
            head = struct.pack("!BBQ", first_byte, mask | 127, length)
        self.socket.sendall(head + bytes(4 if masked else 0) + payload)

    def send_message(self, message: dict[str, Any]) -> None:
        """Send a message in one text frame."""
        self.send(TEXT, json.dumps(message).encode())

    def read_frame(self) -> Frame:
        """Return the next frame of the server."""
        first, length = self._take(2)
        if length >= 126:
            (length,) = struct.unpack(
                *(("!H", self._take(2)) if length == 126 else ("!Q", self._take(8)))
            )
        return Frame(first, self._take(length))

    def read_message(self) -> dict[str, Any]:
        """Return the next message."""
        frame = self.read_frame()
        assert frame.first_byte == TEXT, frame
        message: dict[str, Any] = json.loads(frame.payload)
        return message

    def assert_closed(self, code: int, reason: str | None = None) -> str:
        """Check that the next frame closes; return its reason."""
        frame = self.read_frame()
        assert frame.first_byte == CLOSE, frame
        (received,) = struct.unpack("!H", frame.payload[:2])
        text = frame.payload[2:].decode()
        assert received == code and reason in (None, text), (received, text)
        return text

    def say_goodbye(self) -> None:
        """Answer the server's close frame; check that it ends the connection."""
        with contextlib.suppress(OSError):  # it has, if the client closed first
            self.send(CLOSE)
        self.assert_end()

    def assert_end(self) -> None:
        """Check that the server ends the TCP connection without another byte."""
        assert self._received == b""
        with contextlib.suppress(ConnectionResetError):
            assert self.socket.recv(1) == b""

    def drain(self) -> bytes:
        """Return what has come until the server ends the connection; also if by a reset."""
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(65_536):
                self._received += part
        drained, self._received = self._received, b""
        return drained

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _receive(self) -> None:
        part = self.socket.recv(65_536)
        assert part, f"the connection ended after {self._received!r}"
        self._received += part


def client(
    server: LiveServer, token: str | None = None, **options: Any
) -> AbstractAsyncContextManager[Client]:
    """Connect to a server, and authenticate if a token is given."""
    return server.connect(token, **options)


async def newest(server: Server, token: str | None, kind: str = "events") -> Position:
    """Return the newest position of a type."""
    async with client(server, token) as page:
        answer = await page.subscribed(kind)
    return {"epoch": answer["epoch"], "offset": answer["offset"]}


def following(position: Position, count: int) -> list[Position]:
    """Return the next positions after one."""
    epoch, offset = position["epoch"], position["offset"]
    return [{"epoch": epoch, "offset": offset + n} for n in range(1, count + 1)]


def lacks(what: str) -> NoReturn:
    """Skip a test since something is not installed; fail with NOTHING_SKIPPED=1, as CI sets it."""
    if os.environ.get("NOTHING_SKIPPED"):
        pytest.fail(what)
    pytest.skip(what)


def is_gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended, though nobody may have collected it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def locked_database(server: Server) -> Iterator[None]:
    """Hold all of SQLite's locks: who asks the server's database waits and gets no answer.

    These are the eight bytes from 120 on of the shared memory's file (sqlite.org/walformat.html).
    """
    with (server.data_dir / "db.sqlite3-shm").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 8, 120)
        yield


@contextlib.contextmanager
def running(data_dir: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """Run a server with settings of its own for the length of a test."""
    with Server(data_dir, *arguments, **variables) as server:
        yield server
