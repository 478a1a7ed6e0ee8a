"""What comes in on one WebSocket connection: when its bytes are read, and how many are allowed.

Knows counts, limits and turns; the frames themselves are read by Autobahn's protocol.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from realtime.protocol import CloseCode, CloseReason
from realtime.server import patches

logger = logging.getLogger(__name__)

# Seconds that turns may take before the event loop serves others.
ROUND = 0.001
# Frames of one connection that are read in one turn.
FRAMES = 16
# Seconds that a message is estimated to take. It is carried out after its turn, so that the clock
# does not show it.
MESSAGE = 0.0001
# A client has to wait when this many messages, or bytes of them, wait for the application; it may
# go on when half of that do.
MESSAGES = 16
BYTES = 256 * 1024
# Bytes that a client may still send after the server's close frame: the rest of a large message.
MAX_BYTES_AFTER_CLOSE = 8 * 1024 * 1024
# Frames, or parts of them, that are read after the close frame to find its answer.
MAX_FRAMES_AFTER_CLOSE = 2000
# Control frames and parts of messages of fewer bytes than this are counted, since each costs the
# loop what a message does and no other limit counts them. A client that sends more of them a
# minute than this is flooding.
SMALL_PART = 512
SMALL_PARTS_PER_MINUTE = 1000
# Bytes that one client that has not authenticated may hold unfinished, and all of them together.
STRANGERS_BYTES = 64 * 1024
ALL_STRANGERS_BYTES = 64 * 1024 * 1024


class FairQueue:
    """Fair shares of the loop for connections that have sent more than can be read at once.

    Twisted hands over up to 64 KB of a connection at a time, which may be ten thousand frames. A
    connection that has sent more than a few waits here for its turn, first come, first served. All
    turns together take a millisecond, then others are served. Each server has one.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], float]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, take: Callable[[], object], charge: float = 0.0) -> None:
        """Call *take* in its turn. It reads a first request, or at most :data:`FRAMES` frames.

        *charge* is the seconds of work that follow the turn.
        """
        self._waiting.append((take, charge))
        if self._task is None:
            self._task = asyncio.ensure_future(self._serve())

    async def turn(self) -> None:
        """Return when it is the caller's turn to carry out one message."""
        turn = asyncio.Event()
        self.add(turn.set, MESSAGE)
        await turn.wait()

    async def _serve(self) -> None:
        """Take turns until nobody waits, and let the loop serve others after each round."""
        try:
            while self._waiting:
                await asyncio.sleep(0)
                ends = time.monotonic() + ROUND
                while self._waiting and time.monotonic() < ends:
                    take, charge = self._waiting.popleft()
                    ends -= charge
                    try:
                        take()
                    except Exception:
                        logger.exception("reading a connection failed")
        finally:
            self._task = None


class ReceiveQueue:
    """The messages of one client that the application has not taken yet.

    Bounded by its producer: whoever calls ``put()`` must call ``is_full()`` after it, and put
    nothing more until ``is_low()``.
    """

    __slots__ = ("_bytes", "_fair_queue", "_messages", "_waiter")

    def __init__(self, fair_queue: FairQueue) -> None:
        self._fair_queue = fair_queue
        # A list takes a tenth of a deque's memory, and is never long.
        self._messages: list[tuple[dict[str, Any], int]] = []
        self._bytes = 0
        # Set while the application waits for a message.
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return self._bytes

    def put(self, message: dict[str, Any], size: int) -> None:
        """Add an ASGI message that holds *size* bytes of the client."""
        self._messages.append((message, size))
        self._bytes += size
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> dict[str, Any]:
        """Return the oldest message; if messages were waiting, take a turn in the fair queue."""
        if self._messages:
            await self._fair_queue.turn()
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, size = self._messages.pop(0)
        self._bytes -= size
        return message

    def clear(self) -> None:
        self._messages.clear()
        self._bytes = 0

    def is_full(self) -> bool:
        return len(self._messages) >= MESSAGES or self._bytes >= BYTES

    def is_low(self) -> bool:
        return len(self._messages) <= MESSAGES // 2 and self._bytes <= BYTES // 2


class Reading(enum.Enum):
    """Whether the bytes of a connection are read, and if not, why not::

    OPEN -- the application has enough --> PAUSED -- it has taken half --> WAITING
    OPEN -- the client has sent much at once ----------------------------> WAITING
    WAITING -- its turn has come --> OPEN          any -- flood, or end --> REFUSED
    """

    OPEN = enum.auto()
    PAUSED = enum.auto()
    WAITING = enum.auto()
    REFUSED = enum.auto()


@dataclass(slots=True, eq=False)
class Incoming:
    """The reading side of a connection: its queue of messages, and the limits on what it sends."""

    small_parts_per_minute: ClassVar[int] = SMALL_PARTS_PER_MINUTE

    # The protocol; None once the client is gone, so that the two do not keep each other.
    _connection: Any
    _fair_queue: FairQueue
    _queue: ReceiveQueue = field(init=False)
    reading: Reading = Reading.OPEN
    # Whether the client has authenticated.
    is_trusted: bool = False
    # Bytes of unfinished messages that were last counted among those of strangers.
    _unfinished: int = 0
    # Small parts that have come since a monotonic time.
    _small_parts: int = 0
    _small_since: float = 0.0
    _bytes_after_close: int = 0
    _frames_after_close: int = 0

    def __post_init__(self) -> None:
        self._queue = ReceiveQueue(self._fair_queue)

    # The application's side

    async def receive(self) -> dict[str, Any]:
        """Return the next message: ASGI's ``receive``."""
        message = await self._queue.get()
        if self._unfinished:
            self.count_unfinished()
        if self.reading is Reading.PAUSED and self._queue.is_low():
            self.resume()
        return message

    def put(self, message: dict[str, Any], size: int = 0) -> None:
        """Hand the application a message; read no more of the client while it has enough."""
        self._queue.put(message, size)
        if self.reading is Reading.OPEN and self._queue.is_full():
            self.reading = Reading.PAUSED
            self._connection.transport.pauseProducing()

    # Reading

    def read(self) -> None:
        """Read frames until none is complete, the application has enough, or others have a turn."""
        if self.reading is not Reading.OPEN:
            return
        connection = self._connection
        frames = 0
        while connection.processData() and connection.state and self.reading is Reading.OPEN:
            frames += 1
            if connection.state == connection.STATE_CLOSING:
                self._frames_after_close += 1
                if self._frames_after_close > MAX_FRAMES_AFTER_CLOSE:
                    connection.dropConnection(abort=True)
                    return
            if frames >= FRAMES:
                connection.transport.pauseProducing()
                self._wait_for_turn()
                return

    def resume(self) -> None:
        """Go on to read a client that was paused, when it is its turn."""
        if self.reading is Reading.PAUSED:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        self.reading = Reading.WAITING
        self._fair_queue.add(self._take_turn)

    def _take_turn(self) -> None:
        if self.reading is not Reading.WAITING:  # refused since
            return
        self.reading = Reading.OPEN
        connection = self._connection
        connection.consumeData()
        if self.reading is Reading.OPEN:
            connection.transport.resumeProducing()

    # Limits

    def is_allowed_after_close(self, size: int) -> bool:
        """Count bytes that come after the server's close frame; tell whether they may be read."""
        self._bytes_after_close += size
        return self._bytes_after_close <= MAX_BYTES_AFTER_CLOSE

    def count_small_part(self) -> None:
        """Count a control frame or a small part of a message; too many are a flood."""
        now = time.monotonic()
        if now - self._small_since > 60:
            self._small_since, self._small_parts = now, 0
        self._small_parts += 1
        connection = self._connection
        if (
            self._small_parts > self.small_parts_per_minute
            and connection.state == connection.STATE_OPEN
        ):
            connection.outgoing.end(CloseCode.POLICY_VIOLATION, CloseReason.FLOODING)

    def count_unfinished(self) -> None:
        """Bound what strangers hold: while it is too much, those with over their share end."""
        connection = self._connection
        if connection is None or connection.state != connection.STATE_OPEN:
            return
        unfinished = patches.unfinished_bytes(connection) + len(self._queue)
        total = connection.factory.count_unfinished(unfinished - self._unfinished)
        self._unfinished = unfinished
        if unfinished > STRANGERS_BYTES and total > ALL_STRANGERS_BYTES:
            connection.outgoing.end(CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY)

    def trust(self) -> None:
        """Count the client no longer among the strangers; once or more."""
        self.is_trusted = True
        self._connection.factory.count_unfinished(-self._unfinished)
        self._unfinished = 0

    # The end

    def refuse(self) -> None:
        """Read nothing more, not even the answer to the close frame."""
        self.reading = Reading.REFUSED
        self._connection.transport.pauseProducing()

    def lose(self, code: int) -> None:
        """Tell the application with which code the connection has ended, and nothing else."""
        self.trust()
        self.reading = Reading.REFUSED
        self._connection = None
        self._queue.clear()
        self._queue.put({"type": "websocket.disconnect", "code": code}, 0)
