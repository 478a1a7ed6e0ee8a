"""The two sides of a WebSocket as units: what is read of it, and what is written to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from twisted.internet import reactor, tcp

from realtime.protocol import CloseReason
from realtime.server import incoming as incoming_module
from realtime.server.incoming import (
    FRAMES,
    MAX_BYTES_AFTER_CLOSE,
    MAX_FRAMES_AFTER_CLOSE,
    MESSAGES,
    Incoming,
    Reading,
)
from realtime.server.outgoing import Outgoing
from realtime.testing import FakeClock

BOUND = 1000


class TurnsByHand:
    """A fair queue in which it is a reader's turn when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def add(self, read: Callable[[], object]) -> None:
        self.waiting.append(read)

    async def turn(self) -> None:
        pass

    def take(self) -> None:
        waiting, self.waiting = self.waiting, []
        for read in waiting:
            read()


class FakeConnection:
    """The protocol as its two sides see it: frames that can be read, and how it was closed."""

    STATE_CLOSED, STATE_CLOSING, STATE_OPEN = 0, 2, 3

    def __init__(self, transport: Any) -> None:
        self.state = self.STATE_OPEN
        self.max_buffered_bytes = BOUND
        self.transport = transport
        self.turns = TurnsByHand()
        self.closed: list[CloseReason] = []
        self.is_dropped = False
        self.strangers_hold = 0
        self.factory = SimpleNamespace(count_unfinished=self._count_unfinished)
        # What Autobahn holds of a message that is not complete.
        self.data = b""
        self.inside_message = False
        # Frames that have come and are not read, and how many were.
        self.frames = 0
        self.read = 0
        self.outgoing = Outgoing(self)
        self.incoming = Incoming(self, self.turns)  # type: ignore[arg-type] # its two methods

    def _count_unfinished(self, more: int) -> int:
        self.strangers_hold += more
        return self.strangers_hold

    def close(self, code: int, reason: CloseReason) -> None:
        self.closed.append(reason)
        self.state = self.STATE_CLOSING

    def dropConnection(self, abort: bool) -> None:
        self.is_dropped = abort
        self.state = self.STATE_CLOSED

    def processData(self) -> bool:
        if not self.frames:
            return False
        self.frames -= 1
        self.read += 1
        if self.state == self.STATE_OPEN:
            self.incoming.put({"type": "websocket.receive", "text": str(self.read)}, 1)
        return True

    def consumeData(self) -> None:
        self.incoming.read()


class FakeTransport:
    """A transport that notes whether it reads."""

    def __init__(self) -> None:
        self.is_reading = True

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection(FakeTransport())


async def receive(connection: FakeConnection, count: int) -> None:
    for _ in range(count):
        await connection.incoming.receive()


# Reading


async def test_few_frames_are_read_at_once(connection: FakeConnection) -> None:
    connection.frames = 3
    connection.incoming.read()
    assert connection.read == 3
    assert connection.transport.is_reading
    assert (await connection.incoming.receive())["text"] == "1"


async def test_others_have_a_turn_after_some_frames(connection: FakeConnection) -> None:
    connection.state = connection.STATE_CLOSING  # so that the application gets none of them
    connection.frames = 2 * FRAMES + 1
    connection.incoming.read()
    assert connection.read == FRAMES
    assert connection.incoming.reading is Reading.WAITING
    assert not connection.transport.is_reading
    connection.incoming.read()  # more bytes have come
    assert connection.read == FRAMES
    connection.turns.take()
    assert connection.read == 2 * FRAMES
    connection.turns.take()
    assert connection.read == 2 * FRAMES + 1
    assert connection.transport.is_reading


async def test_a_slow_application_pauses_the_client(connection: FakeConnection) -> None:
    connection.frames = 3 * MESSAGES
    connection.incoming.read()
    assert connection.read == MESSAGES
    assert connection.incoming.reading is Reading.PAUSED
    assert not connection.transport.is_reading
    await receive(connection, MESSAGES // 2 - 1)
    assert not connection.turns.waiting
    await receive(connection, 1)
    assert connection.turns.waiting
    connection.turns.take()
    assert connection.read == MESSAGES + MESSAGES // 2
    assert connection.incoming.reading is Reading.PAUSED


async def test_a_client_that_leaves_while_it_waits_is_read_no_more(
    connection: FakeConnection,
) -> None:
    connection.frames = 3 * MESSAGES
    connection.incoming.read()
    await receive(connection, MESSAGES // 2)
    connection.incoming.lose(1006)
    connection.turns.take()
    assert connection.read == MESSAGES
    assert await connection.incoming.receive() == {"type": "websocket.disconnect", "code": 1006}


# Limits


def flood(connection: FakeConnection, parts: int) -> None:
    for _ in range(parts):
        connection.incoming.count_small_part()


def test_many_small_parts_are_a_flood(
    connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(incoming_module, "time", clock)
    monkeypatch.setattr(Incoming, "small_parts_per_minute", 10)
    ended: list[CloseReason] = []
    connection.outgoing.on_ended = ended.append
    flood(connection, 10)
    clock.advance(61)
    flood(connection, 10)
    assert not connection.closed
    flood(connection, 2)
    assert connection.closed == ended == [CloseReason.FLOODING]
    connection.incoming.refuse()
    connection.frames = 1
    connection.incoming.read()
    assert connection.read == 0 and not connection.transport.is_reading


def test_what_strangers_hold_is_bounded_together(
    connection: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming_module, "STRANGERS_BYTES", 100)
    monkeypatch.setattr(incoming_module, "ALL_STRANGERS_BYTES", 1000)
    connection.data = b"x" * 150
    connection.incoming.count_unfinished()
    assert connection.strangers_hold == 150 and not connection.closed  # others hold little
    connection.strangers_hold += 950
    connection.data = b"x" * 100
    connection.incoming.count_unfinished()
    assert not connection.closed  # its share is not too much
    connection.data = b"x" * 101
    connection.incoming.count_unfinished()
    assert connection.closed == [CloseReason.CAPACITY]


def test_a_client_that_has_authenticated_counts_no_longer(connection: FakeConnection) -> None:
    connection.data = b"x" * 150
    connection.incoming.count_unfinished()
    connection.outgoing.trust()
    connection.outgoing.trust()
    assert connection.incoming.is_trusted and connection.strangers_hold == 0


def test_bytes_after_the_close_frame_are_bounded(connection: FakeConnection) -> None:
    assert connection.incoming.is_allowed_after_close(MAX_BYTES_AFTER_CLOSE)
    assert not connection.incoming.is_allowed_after_close(1)


async def test_frames_after_the_close_frame_are_bounded(connection: FakeConnection) -> None:
    connection.state = connection.STATE_CLOSING
    connection.frames = 2 * MAX_FRAMES_AFTER_CLOSE
    connection.incoming.read()
    while connection.turns.waiting:
        connection.turns.take()
    assert connection.is_dropped and connection.read == MAX_FRAMES_AFTER_CLOSE + 1


# Writing


class Ends(NamedTuple):
    """A connection over a socket pair, and the client's end of it."""

    connection: FakeConnection
    client: socket.socket

    def read(self) -> bytes:
        """Let the transport write all it has, and return what the client receives."""
        transport, received = self.connection.transport, b""
        while True:
            try:
                received += self.client.recv(65_536)
            except BlockingIOError:
                if not self.connection.outgoing.buffered_bytes():
                    return received
                transport.doWrite()

    def fill(self) -> bytes:
        """Write until the socket is full and something waits; return all that was written."""
        outgoing, written = self.connection.outgoing, b""
        while not outgoing.buffered_bytes():
            piece = bytes([len(written) // 10_000 % 256]) * 10_000
            outgoing.write(piece)
            written += piece
        return written


@pytest.fixture
def ends() -> Iterator[Ends]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport = tcp.Connection(ours, None, reactor)
        transport.connected = True
        yield Ends(FakeConnection(transport), theirs)
        transport.stopWriting()


def test_frames_go_straight_to_the_socket(ends: Ends) -> None:
    outgoing = ends.connection.outgoing
    for frame in (b"one", b"two"):
        outgoing.write(frame)
    assert ends.client.recv(100) == b"onetwo"  # with nobody having run the reactor
    assert outgoing.bytes_sent == 6 and outgoing.buffered_bytes() == 0


def test_order_is_kept_when_the_socket_is_full(ends: Ends) -> None:
    outgoing = ends.connection.outgoing
    ends.connection.max_buffered_bytes = 10**6
    written = ends.fill()
    outgoing.write(b"after")
    outgoing.send(b"last")
    assert ends.read() == written + b"afterlast"
    assert outgoing.bytes_sent == len(written) + 9
    outgoing.write(b"direct again")
    assert ends.client.recv(100) == b"direct again"


def test_a_client_that_does_not_read_is_closed(ends: Ends) -> None:
    outgoing = ends.connection.outgoing
    ended: list[CloseReason] = []
    outgoing.on_ended = ended.append
    ends.fill()  # one write may be larger than the bound
    waiting = outgoing.buffered_bytes()
    outgoing.write(b"x" * BOUND)
    outgoing.overflow()  # once or more
    assert ends.connection.closed == ended == [CloseReason.SLOW_CONSUMER]
    assert outgoing.buffered_bytes() == waiting
    outgoing.send(b"close frame")  # which is sent though the bound is reached
    assert ends.read().endswith(b"close frame")


def test_nothing_is_written_unless_it_is_open(ends: Ends) -> None:
    outgoing = ends.connection.outgoing
    outgoing.write(b"one")
    ends.connection.state = ends.connection.STATE_CLOSING
    outgoing.stop_direct()
    outgoing.write(b"two")
    outgoing.send(b"three")
    assert ends.read() == b"onethree"


def test_after_the_client_is_gone(ends: Ends) -> None:
    outgoing = ends.connection.outgoing
    outgoing.write(b"one")
    lost: list[int] = []
    outgoing.on_lost = lambda: lost.append(outgoing.bytes_sent)
    outgoing.lose()
    outgoing.write(b"two")
    outgoing.overflow()
    outgoing.trust()
    assert lost == [3] and not ends.connection.closed
    assert ends.read() == b"one" and outgoing.bytes_sent == 3


def test_a_socket_that_fails_is_left_to_the_transport(ends: Ends) -> None:
    outgoing = ends.connection.outgoing
    outgoing.write(b"one")
    ends.client.close()
    outgoing.write(b"two")
    assert outgoing.buffered_bytes() == 3  # the transport meets the error, and reports the loss


def test_the_stream_ends_at_once_if_nothing_waits(ends: Ends) -> None:
    ends.connection.outgoing.shut_down()
    assert ends.client.recv(1) == b""
