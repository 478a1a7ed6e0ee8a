"""Subscriptions, and the groups in which they receive the same bytes. Pure.

Connections with the same subscription type and filters share a fan-out group: a message is
matched once, encoded once and framed once for all of them. Those that have equal options besides
(:mod:`realtime.hub.shaping`) share a group within it, which holds back for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from realtime.filters import Filter, matches
from realtime.hub.message import Encoded, Message, frame_pieces
from realtime.hub.shaping import Held, Shaper, project, tree_of
from realtime.protocol import (
    encode_batch_head,
    encode_batch_item,
    encode_data_tail,
    format_timestamp,
    replace_payload,
)
from realtime.protocol.options import Options

# Bytes of messages in one data_batch, if there is more than one.
BATCH_BYTES = 64 * 1024


class Outlet(Protocol):
    """A connection as the hub sees it: somewhere to write frames."""

    # Whether the client takes compressed messages (permessage-deflate).
    deflated: bool

    def write(self, frames: bytes) -> None:
        """Send complete WebSocket frames; never waits."""


class Subscription:
    """One connection's subscription.

    ``active`` while messages may be written: the node sets it once the client is to receive what
    is published from then on, removal clears it.
    """

    __slots__ = ("active", "fan_out", "id", "outlet", "shaped", "since")

    def __init__(self, outlet: Outlet, subscription_id: str, fan_out: FanOut) -> None:
        self.outlet = outlet
        self.id = subscription_id
        self.fan_out = fan_out
        self.active = False
        # Its group of equal options, if it has options, and what that had taken when it joined.
        self.shaped: Shaped | None = None
        self.since = 0

    @property
    def type(self) -> str:
        """The subscription type."""
        return self.fan_out.type

    @property
    def options(self) -> Options | None:
        """What it is to receive less of; ``None`` for a plain one."""
        return None if self.shaped is None else self.shaped.options

    def activate(self) -> None:
        """Let it receive what its groups take from now on."""
        self.active = True
        if self.shaped is not None:
            self.shaped.welcome(self)

    def select(self, messages: Iterable[Message]) -> list[Message]:
        """Return those of *messages* that the filters let through."""
        compiled = self.fan_out.filter
        if not compiled:
            return list(messages)
        return [message for message in messages if matches(compiled, message.decoded)]

    def frames(self, messages: Sequence[Message]) -> bytes:
        """Return the frames of *messages* for this subscription alone."""
        tail = encode_data_tail(self.id)
        encoded = messages if self.shaped is None else self.shaped.encode(messages)
        return tail.join(frame_pieces(encoded, len(tail), self.outlet.deflated))


class Delivery(NamedTuple):
    """The frames of so many messages, the same bytes for all of these subscriptions."""

    subscriptions: tuple[Subscription, ...]
    frames: bytes
    messages: int


# End of the data message, which has the subscription id -> the members with that id.
Members = dict[bytes, dict["Subscription", None]]


class Group:
    """Subscriptions of a type that receive the same messages in the same form."""

    __slots__ = ("_deflated", "_plain", "type")

    def __init__(self, kind: str) -> None:
        self.type = kind
        # Members by whether they take compressed messages. Most share the derived id, so share
        # whole frames.
        self._plain: Members = {}
        self._deflated: Members = {}

    def _members(self, subscription: Subscription) -> Members:
        return self._deflated if subscription.outlet.deflated else self._plain

    def take_in(self, subscription: Subscription) -> None:
        """Take a member in."""
        tail = encode_data_tail(subscription.id)
        self._members(subscription).setdefault(tail, {})[subscription] = None

    def let_go(self, subscription: Subscription) -> bool:
        """Let a member go; tell whether it was one."""
        tail = encode_data_tail(subscription.id)
        members = self._members(subscription)
        if subscription not in members.get(tail, ()):
            return False
        del members[tail][subscription]
        if not members[tail]:
            del members[tail]
        return True

    def __bool__(self) -> bool:
        return bool(self._plain or self._deflated)

    def __iter__(self) -> Iterator[Subscription]:
        for members in (self._plain, self._deflated):
            for subscriptions in tuple(members.values()):
                yield from tuple(subscriptions)

    def deliveries(self, encoded: Sequence[Encoded]) -> Iterator[Delivery]:
        """Yield the frames of messages, in order, as one piece of bytes for equal members."""
        for members, deflated in ((self._plain, False), (self._deflated, True)):
            # Frames differ in their tails only: what is before them is made once per length.
            pieces: dict[int, list[bytes]] = {}
            for tail, subscriptions in tuple(members.items()):
                parts = pieces.get(len(tail))
                if parts is None:
                    parts = pieces[len(tail)] = frame_pieces(encoded, len(tail), deflated)
                yield Delivery(tuple(subscriptions), tail.join(parts), len(encoded))


class FanOut(Group):
    """The subscriptions of a type that have equal filters, so to which the same messages matter.

    It delivers to those without options; those with options are in groups of their own.
    """

    __slots__ = ("filter", "shaped")

    def __init__(self, kind: str, compiled: Filter) -> None:
        super().__init__(kind)
        self.filter = compiled
        self.shaped: dict[Options, Shaped] = {}

    def add(self, subscription: Subscription, options: Options | None = None) -> None:
        """Take a member in, plain or with options."""
        if options is None:
            self.take_in(subscription)
            return
        shaped = self.shaped.get(options)
        if shaped is None:
            shaped = self.shaped[options] = Shaped(self.type, options)
        subscription.shaped = shaped
        shaped.take_in(subscription)

    def discard(self, subscription: Subscription) -> bool:
        """Let a member go; tell whether it was one."""
        shaped = subscription.shaped
        if shaped is None:
            return self.let_go(subscription)
        was_member = shaped.let_go(subscription)
        if not shaped and self.shaped.get(shaped.options) is shaped:
            del self.shaped[shaped.options]
        return was_member

    def count_groups(self) -> int:
        """Return how many groups it is, by options."""
        return len(self.shaped) + super().__bool__()

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self.shaped)

    def __iter__(self) -> Iterator[Subscription]:
        yield from super().__iter__()
        for shaped in tuple(self.shaped.values()):
            yield from shaped


class Shaped(Group):
    """The subscriptions of a fan-out group that have equal options, and what it holds for them."""

    __slots__ = ("_newcomers", "_tree", "options", "shaper")

    def __init__(self, kind: str, options: Options) -> None:
        super().__init__(kind)
        self.options = options
        self.shaper: Shaper[Message] = Shaper(options)
        self._tree = None if options.fields is None else tree_of(options.fields)
        # Members that joined while messages were held, which are not for them.
        self._newcomers: dict[Subscription, None] = {}

    def welcome(self, subscription: Subscription) -> None:
        """Let a member receive what is taken from now on."""
        subscription.since = self.shaper.taken
        if self.shaper.due is not None:
            self._newcomers[subscription] = None

    def let_go(self, subscription: Subscription) -> bool:
        """Let a member go; tell whether it was one."""
        self._newcomers.pop(subscription, None)
        return super().let_go(subscription)

    def encode(self, messages: Sequence[Message]) -> Sequence[Encoded]:
        """Return what is sent of messages: their parts, and several in one, as the options say."""
        if self._tree is None and self.options.batch_ms is None:
            return messages
        kind, found = self.type, list(map(self._reduce, messages))
        if self.options.batch_ms is None:
            return [Encoded(head) for head, _ in found]
        items = [encode_batch_item(kind, *reduced) for reduced in found]
        batches = []
        for start, end in _cuts(items):
            timestamp = format_timestamp(messages[end - 1].timestamp)
            batches.append(Encoded(encode_batch_head(kind, items[start:end], timestamp)))
        return batches

    def _reduce(self, message: Message) -> tuple[bytes, bytes]:
        """Return the head and the payload with nothing but the wanted parts."""
        head, payload = message.head, message.payload
        if self._tree is None:
            return head, payload
        parts = project(payload, self._tree)
        return replace_payload(self.type, head, payload, parts), parts

    def shaped_deliveries(
        self, held: Sequence[Held[Message]]
    ) -> Iterator[tuple[Delivery, Sequence[Message]]]:
        """Yield the frames of what was held for each member, and of which messages they are."""
        first, last = held[0].number, held[-1].number
        messages = [message for _, message in held]
        newcomers, self._newcomers = self._newcomers, {}
        for delivery in self.deliveries(self.encode(messages)):
            members = tuple(one for one in delivery.subscriptions if one.since < first)
            yield Delivery(members, delivery.frames, len(messages)), messages
        for one in newcomers:
            if not one.active or one.shaped is not self:
                continue  # it has left meanwhile
            if one.since > last:  # some of what is held still is not for it either
                self._newcomers[one] = None
            elif one.since >= first and one.since < last:
                rest = [message for number, message in held if number > one.since]
                yield Delivery((one,), one.frames(rest), len(rest)), rest


def _cuts(items: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Cut items into runs of so many bytes, but of one item at least."""
    start = size = 0
    for number, item in enumerate(items):
        if number > start and size + len(item) > BATCH_BYTES:
            yield start, number
            start, size = number, 0
        size += len(item)
    if items:
        yield start, len(items)
