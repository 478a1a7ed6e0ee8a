"""What tests of delivery share: a clock, a log that fails, and what one client can know."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from realtime.cluster.clients import Unavailable
from realtime.delivery.feed import END
from realtime.filters import EVERYTHING
from realtime.filters.compiler import compile_filters
from realtime.hub.groups import Subscription
from realtime.log.contract import Chunk, MemoryLog, new_epoch, shared
from realtime.protocol import CloseCode, CloseReason, Position, encode, split_frames, text_frame
from realtime.protocol.subscribe import StartFrom, SubscribeRequest, read_options
from realtime.sessions.node import Node

KIND = "events"


class FickleLog(MemoryLog):
    """A log that can be slow, be away for readers, and lose everything."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.delay = 0.0
        self._earlier: list[Position] = []

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay)
        if self.is_away:
            raise Unavailable("away")

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        """Return what is retained when the answer comes."""
        await self._answer()
        return (await super().read(kind, after, at_most))._replace(earlier=tuple(self._earlier))

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Return positions of the moment when the answer comes."""
        await self._answer()
        return await super().heads(kinds)

    def flush(self) -> None:
        """Lose everything."""
        self._streams.clear()
        self._earlier.clear()

    def fail_over(self, lost: int = 0) -> None:
        """Go on in another epoch, without the newest messages, as a replica that is promoted."""
        self.lose_newest(lost)
        stream = self._stream(KIND)
        self._earlier.append(Position(stream.epoch, stream.head))
        stream.epoch = new_epoch()

    def lose_newest(self, count: int) -> None:
        """Lose what was appended last, as a server does that had not written it to its disk."""
        stream = self._stream(KIND)
        stream.head -= count
        for _ in range(count):
            stream.entries.pop()

    def state(self) -> LogState:
        """Return what a reader would find now."""
        stream = self._stream(KIND)
        stream.now()
        oldest = stream.head - len(stream.entries) + 1
        return LogState(stream.epoch, oldest, stream.head, tuple(self._earlier))


class LogState(NamedTuple):
    """The log at one moment: its epoch, the oldest retained offset and the newest, and its past."""

    epoch: str
    oldest: int
    head: int
    earlier: tuple[Position, ...]


class Session:
    """A connection with one subscription, as a consumer has it, and what its client has to read."""

    deflated = False
    bytes_sent = 0
    on_lost: Callable[[], None] | None = None
    on_ended: Callable[[CloseReason], None] | None = None

    def __init__(
        self, node: Node, log: FickleLog, start_from: StartFrom, drops: bool = False
    ) -> None:
        self.node = node
        self.start_from = start_from
        self.options = read_options({"on_overflow": "drop"} if drops else {})
        self.subscription: Subscription | None = None
        self.ended = False
        # Messages that the client has not read, each with the log as it was then.
        self.unread: list[tuple[bytes, LogState]] = []
        self._log = log
        # The newest offset when the client asked: it can know of none beyond.
        self.asked_at = 0

    def write(self, frames: bytes) -> None:
        """Buffer frames, within the bound."""
        if self.ended:
            return
        waiting = self.buffered_bytes()
        if waiting and waiting + len(frames) > self.node.policy.config.max_buffered_bytes:
            self.overflow()
        else:
            state = self._log.state()
            self.unread += [(text, state) for text in split_frames(frames)]

    def buffered_bytes(self) -> int:
        """Return how many bytes the client has not read."""
        return sum(len(text) for text, _ in self.unread)

    def overflow(self) -> None:
        """Close a client that does not read."""
        self.end()

    def trust(self) -> None:
        """Nobody else is here."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Only consumers close."""
        raise AssertionError(reason)

    def end(self) -> None:
        """The connection is gone."""
        self.ended = True
        if self.subscription is not None:
            self.node.subscriptions.unsubscribe(self.subscription)

    async def subscribe(self, wanted: dict[str, Any]) -> None:
        """Subscribe and answer; end if that cannot be."""
        self.asked_at = self._log.state().head
        filters = compile_filters(wanted)
        request = SubscribeRequest(KIND, filters, wanted, self.options, self.start_from)
        try:
            replay = await self.node.subscriptions.subscribe(self, request, EVERYTHING, "id")
        except Unavailable:
            self.ended = True
            return
        if self.ended:
            self.node.subscriptions.unsubscribe(replay.subscription)
            return
        self.subscription = replay.subscription
        found = {"recovered": replay.recovered, "replayed": replay.replayed}
        self._reply("subscribed", replay.live_from._asdict() | found)
        self.node.subscriptions.go_live(replay)

    def change_filter(self, wanted: list[int] | None, count: int) -> None:
        """Have other rights from now on, when so many messages have been published, and say so."""
        if self.subscription is None:
            return
        self._reply("auth_success", {"wanted": wanted, "count": count})
        if not self.ended:
            compiled = compile_filters({} if wanted is None else {"k": wanted})
            self.node.subscriptions.change_filter(self.subscription, compiled)

    def pong(self) -> None:
        """Say up to where everything has been sent."""
        if self.subscription is not None:
            self._reply("pong", self.node.subscriptions.position(self.subscription)._asdict())

    def _reply(self, kind: str, data: dict[str, Any]) -> None:
        self.write(text_frame(encode(kind, 0, data)))


class Published(defaultdict[str, list[dict[str, Any]]]):
    """Epoch -> the payloads that were published in it, the first at offset 1.

    Each has a number "n", in the order of publishing, and a key "k" for filters.
    """

    def __init__(self) -> None:
        super().__init__(list)
        # Epoch -> where those before it ended.
        self.earlier: defaultdict[str, tuple[Position, ...]] = defaultdict(tuple)

    def fail_over(self, before: LogState, after: LogState) -> None:
        """Another epoch goes on with what the one before it had up to the head."""
        self[after.epoch] = self[before.epoch][: after.head]
        self.earlier[after.epoch] = after.earlier

    def shared(self, position: Position, epoch: str) -> int | None:
        """Return up to where an epoch has what a reader at a position has read."""
        return shared(position, Position(epoch, END), self.earlier[epoch])


class Account:
    """What one client can know from what it has read, checked against what was published."""

    def __init__(self, published: Published, wanted: list[int] | None) -> None:
        # Keys of the messages that it may see.
        self.wanted = wanted
        # What that was before, and up to which message it may have been in force.
        self._before: list[tuple[list[int] | None, int]] = []
        self._published = published
        # Before this offset the client has everything, or has been told what it lacks. The epoch
        # is "" from when it is told of a change until it reads which is the new one.
        self.epoch = ""
        self.next = 1
        # The offset of its position, which it takes from what comes and not from what is lost.
        self._offset = 0
        # Ranges of that unknown epoch in which nothing may match, and what it has left, if that is
        # known.
        self._unchecked: list[tuple[int, int]] = []
        self._left: Position | None = None
        # Whether something was said to be lost since its position, in a later epoch perhaps.
        self._has_lost = False
        # What was before is not promised: the client has been told to refetch its state.
        self._promised_from = 1
        # Up to which offset so many messages may come.
        self._rewind: tuple[int, int] | None = None

    def position(self) -> Position | None:
        """Return from where to resume."""
        return Position(self.epoch, self._offset) if self.epoch else None

    def read(self, text: bytes, state: LogState, start_from: StartFrom, asked_at: int) -> None:
        """Read a message that was sent when the log was in this state.

        *asked_at* is where the log ended when the client made its request.
        """
        message = json.loads(text)
        match message["type"]:
            case "subscribed":
                self._subscribed(message["data"], state, start_from, asked_at)
            case "data":
                self._received(message)
            case "pong":
                self._sent_until(Position(**message["data"]))
            case "auth_success":
                self._before.append((self.wanted, message["data"]["count"]))
                self.wanted = message["data"]["wanted"]
            case "error":
                assert message["data"]["code"] == "data_lost"
                self._lost(message["data"]["details"], state)
        if message["type"] in ("subscribed", "data", "pong"):
            self._offset, self._has_lost = self.next - 1, False

    def _subscribed(
        self, told: dict[str, Any], state: LogState, start_from: StartFrom, asked_at: int
    ) -> None:
        resume, rewind = start_from
        live = Position(told["epoch"], told["offset"])
        self._unchecked, self._rewind, self._promised_from, self._before = [], None, 1, []
        base = None if resume is None else self._published.shared(resume, live.epoch)
        if told["recovered"]:
            assert resume is not None and base == resume.offset <= live.offset
            self.epoch, self.next = live.epoch, resume.offset + 1
            return
        if resume is not None and base == resume.offset and live.epoch == state.epoch:
            assert resume.offset > asked_at or resume.offset < state.oldest - 1
        retained = state.oldest if state.epoch == live.epoch else live.offset + 1
        self.epoch, self.next = live.epoch, live.offset + 1
        if rewind:
            newest = self._matching(min(retained, self.next), self.next)[-rewind:]
            assert told["replayed"] >= len(newest)
            self._rewind = live.offset, min(rewind, told["replayed"])
            self._promised_from, self.next = newest[0] if newest else self.next, 1
        elif resume is None or (resume.epoch == live.epoch and resume.offset > live.offset):
            assert told["replayed"] == 0
        else:
            self._promised_from = retained
            self.next = (base or 0) + 1

    def _received(self, message: dict[str, Any]) -> None:
        """A message must be the next that matches."""
        offset, payload = message["metadata"]["offset"], message["data"]["event"]
        self._enter(Position(**message["metadata"]))
        assert offset >= self.next, f"{offset} came again, or after a later one"
        assert payload == self._published[self.epoch][offset - 1]
        assert self._matching(offset, offset + 1), "it does not match"
        self._go_to(offset)
        self.next = offset + 1
        if self._rewind is not None and offset <= self._rewind[0]:
            self._rewind = self._rewind[0], self._rewind[1] - 1
            assert self._rewind[1] >= 0, "more than it asked for"

    def _lost(self, details: dict[str, Any], state: LogState) -> None:
        """What is said to be lost must be all that has not come, and not be there any more."""
        first, last, reason = details["from"], details["to"], details["reason"]
        assert first >= self.next, "what is said to be lost has come"
        if self.epoch and self.epoch != state.epoch:
            # It may be about the epoch that the server has come to: what both have is certain.
            both = self._published.shared(Position(self.epoch, first), state.epoch)
            self._go_to(max(self.next, min(first, (both or 0) + 1)))
        else:
            self._go_to(first)
        if reason == "epoch_changed":
            assert last is None
            assert self.epoch != state.epoch, "the epoch is the same"
            self._left = Position(self.epoch, first - 1) if self.epoch else None
            self.epoch, self.next = "", 1
            self._promised_from = first if self._has_lost else 1
            self._unchecked, self._rewind = [], None
            return
        assert last >= first
        if reason == "trimmed":
            assert self.epoch != state.epoch or last < state.oldest, "it is still retained"
        else:
            assert reason == "overflow"
        self.next, self._has_lost = last + 1, True

    def _sent_until(self, position: Position) -> None:
        """What matches up to a pong's position must have come before it."""
        self._enter(position)
        self._go_to(max(self.next, position.offset + 1))

    def _enter(self, position: Position) -> None:
        """The client reads in which epoch it is."""
        before, self.epoch = self.epoch, position.epoch
        if before and self._published.shared(position, before) == position.offset:
            self.epoch = before  # a message of before it, which this node has in memory
        elif before:
            base = self._published.shared(Position(before, self._offset), position.epoch)
            assert base == self._offset, "another epoch, and nobody said so"
        elif self._left is None and self._published.earlier[position.epoch]:
            self._promised_from = position.offset + 1  # it does not know what it has left
        else:
            base = self._left and self._published.shared(self._left, position.epoch)
            for first, end in self._unchecked:
                missed = self._required(max(first, (base or 0) + 1, self._promised_from), end)
                assert not missed, "the first of the new epoch never came"
            self.next = max(self.next, (base or 0) + 1)
        self._unchecked = []

    def _go_to(self, offset: int) -> None:
        """All that is promised before an offset must have come."""
        if self.epoch:
            missed = self._required(max(self.next, self._promised_from), offset)
            assert not missed, f"{missed} never came, and nobody said so"
        else:
            self._unchecked.append((self.next, offset))
        self.next = offset

    def _required(self, first: int, end: int) -> list[int]:
        """Return the offsets in a range whose messages match whatever filters were in force."""
        payloads = self._published[self.epoch]
        return [
            offset
            for offset in self._matching(first, end)
            if all(
                wanted is None or payloads[offset - 1]["k"] in wanted
                for wanted, until in self._before
                if payloads[offset - 1]["n"] <= until
            )
        ]

    def _matching(self, first: int, end: int) -> list[int]:
        """Return the offsets in a range whose messages match."""
        payloads = self._published[self.epoch][first - 1 : end - 1]
        return [
            offset
            for offset, payload in enumerate(payloads, first)
            if self.wanted is None or payload["k"] in self.wanted
        ]
