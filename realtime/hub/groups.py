"""Subscriptions, and the groups in which they receive the same bytes. Pure.

A message is matched, encoded and framed once for all connections with the same type and filters.
Those with options are in shaped groups, which hold messages back for all of their members::

    FanOutGroup  type "events", filters {"user": 1}
    |-- its own members: subscriptions without options
    |-- ShapedGroup  options {"max_rate": 5}
    `-- ShapedGroup  options {"batch_ms": 100}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from realtime.filters import Filter, matches
from realtime.hub.message import Encoded, Message, cut, field_tree, frame_pieces, project
from realtime.hub.shaping import Held, Shaper
from realtime.protocol import (
    encode_batch_head,
    encode_batch_item,
    encode_data_tail,
    format_timestamp,
    replace_payload,
)
from realtime.protocol.subscribe import Options

# Bytes of messages in one data_batch, unless a single message is larger.
BATCH_BYTES = 64 * 1024


class Outlet(Protocol):
    """A connection as the hub sees it: somewhere to write frames."""

    # Whether the client takes compressed messages (permessage-deflate).
    deflated: bool

    def write(self, frames: bytes) -> None:
        """Send complete WebSocket frames; never waits."""


class Subscription:
    """One connection's subscription; messages may be written while it is ``active``."""

    __slots__ = ("active", "group", "id", "joined_after", "outlet", "shaped")

    def __init__(self, outlet: Outlet, subscription_id: str, group: FanOutGroup) -> None:
        self.outlet = outlet
        self.id = subscription_id
        self.group = group
        self.active = False
        # With options only: its group within the fan-out group, and the number of the newest
        # message that this had taken when the subscription became active. It receives later ones.
        self.shaped: ShapedGroup | None = None
        self.joined_after = 0

    @property
    def type(self) -> str:
        return self.group.type

    @property
    def options(self) -> Options | None:
        return None if self.shaped is None else self.shaped.options

    def activate(self) -> None:
        """Let it receive the messages that its groups take from now on."""
        self.active = True
        if self.shaped is not None:
            self.joined_after = self.shaped.shaper.taken

    def select(self, messages: Iterable[Message]) -> list[Message]:
        """Return those of *messages* that the filters let through."""
        compiled = self.group.filter
        if not compiled:
            return list(messages)
        return [message for message in messages if matches(compiled, message.decoded)]

    def frames(self, messages: Sequence[Message]) -> bytes:
        """Return the frames of *messages* for this subscription alone."""
        tail = encode_data_tail(self.id)
        encoded = messages if self.shaped is None else self.shaped.encode(messages)
        return tail.join(frame_pieces(encoded, len(tail), self.outlet.deflated))


class SharedFrames(NamedTuple):
    """The frames of *messages*, the same bytes for all of *subscriptions*."""

    subscriptions: tuple[Subscription, ...]
    frames: bytes
    messages: Sequence[Message]


# End of the data message, which has the subscription id -> the members with that id.
Members = dict[bytes, dict["Subscription", None]]


class FrameGroup:
    """Subscriptions of a type that receive the same messages in the same form."""

    __slots__ = ("_deflated", "_plain", "type")

    def __init__(self, kind: str) -> None:
        self.type = kind
        # Members by whether they take compressed messages. Most have the derived id of their
        # filters, so equal frames.
        self._plain: Members = {}
        self._deflated: Members = {}

    def _members(self, subscription: Subscription) -> Members:
        return self._deflated if subscription.outlet.deflated else self._plain

    def add_member(self, subscription: Subscription) -> None:
        tail = encode_data_tail(subscription.id)
        self._members(subscription).setdefault(tail, {})[subscription] = None

    def remove_member(self, subscription: Subscription) -> bool:
        """Remove a subscription; tell whether it was there."""
        members, tail = self._members(subscription), encode_data_tail(subscription.id)
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

    def share_frames(
        self, messages: Sequence[Message], encoded: Sequence[Encoded]
    ) -> Iterator[SharedFrames]:
        """Yield the frames of messages, in order, once for all members with the same id.

        *encoded* is how the group encodes the messages, which may be several together.
        """
        for members, deflated in ((self._plain, False), (self._deflated, True)):
            # Frames differ in their tails only: what precedes them is made once for each length.
            pieces: dict[int, list[bytes]] = {}
            for tail, subscriptions in tuple(members.items()):
                parts = pieces.get(len(tail))
                if parts is None:
                    parts = pieces[len(tail)] = frame_pieces(encoded, len(tail), deflated)
                yield SharedFrames(tuple(subscriptions), tail.join(parts), messages)


class FanOutGroup(FrameGroup):
    """The subscriptions of a type with equal filters; its own members have no options."""

    __slots__ = ("filter", "shaped")

    def __init__(self, kind: str, compiled: Filter) -> None:
        super().__init__(kind)
        self.filter = compiled
        self.shaped: dict[Options, ShapedGroup] = {}

    def add(self, subscription: Subscription, options: Options | None = None) -> None:
        if options is None:
            self.add_member(subscription)
            return
        shaped = self.shaped.get(options)
        if shaped is None:
            shaped = self.shaped[options] = ShapedGroup(self.type, options)
        subscription.shaped = shaped
        shaped.add_member(subscription)

    def discard(self, subscription: Subscription) -> bool:
        """Remove a subscription; tell whether it was there."""
        shaped = subscription.shaped
        if shaped is None:
            return self.remove_member(subscription)
        was_member = shaped.remove_member(subscription)
        if not shaped and self.shaped.get(shaped.options) is shaped:
            del self.shaped[shaped.options]
        return was_member

    def count_groups(self) -> int:
        """Return how many groups share frames: the shaped ones, and this if it has own members."""
        return len(self.shaped) + super().__bool__()

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self.shaped)

    def __iter__(self) -> Iterator[Subscription]:
        yield from super().__iter__()
        for shaped in tuple(self.shaped.values()):
            yield from shaped


class ShapedGroup(FrameGroup):
    """The subscriptions of a fan-out group with equal options, and what it holds for them.

    A member must not receive what was held before it joined. If messages 1 and 2 are held when B
    becomes active, its ``joined_after`` is 2. Message 3 is taken, and the three are released: A, an
    older member, is sent 1 to 3 in shared frames, and B is sent 3 in frames of its own.
    """

    __slots__ = ("_tree", "options", "shaper")

    def __init__(self, kind: str, options: Options) -> None:
        super().__init__(kind)
        self.options = options
        self.shaper = Shaper(options)
        self._tree = None if options.fields is None else field_tree(options.fields)

    def encode(self, messages: Sequence[Message]) -> Sequence[Encoded]:
        """Return messages as members receive them: with the wanted fields only, or in batches."""
        if self._tree is None and self.options.batch_ms is None:
            return messages
        reduced = list(map(self._reduce, messages))
        if self.options.batch_ms is None:
            return [Encoded(head) for head, _ in reduced]
        items = [Encoded(encode_batch_item(self.type, head, payload)) for head, payload in reduced]
        batches, end = [], 0
        for batch in cut(items, BATCH_BYTES):
            end += len(batch)
            timestamp = format_timestamp(messages[end - 1].timestamp)
            head = encode_batch_head(self.type, [item.head for item in batch], timestamp)
            batches.append(Encoded(head))
        return batches

    def _reduce(self, message: Message) -> tuple[bytes, bytes]:
        head, payload = message.head, message.payload
        if self._tree is None:
            return head, payload
        parts = project(payload, self._tree)
        return replace_payload(self.type, head, payload, parts), parts

    def share_held(self, held: Sequence[Held]) -> Iterator[SharedFrames]:
        """Yield the frames of what was held, for each member without what is older than it."""
        first = held[0].number
        messages = [message for _, message in held]
        for shared in self.share_frames(messages, self.encode(messages)):
            members = shared.subscriptions
            older = tuple(member for member in members if member.joined_after < first)
            yield shared._replace(subscriptions=older)
            if len(older) == len(members):
                continue
            for member in members:
                if member.joined_after < first or not member.active or member.shaped is not self:
                    continue  # it has its frames, or has left meanwhile
                newer = [message for number, message in held if number > member.joined_after]
                if newer:
                    yield SharedFrames((member,), member.frames(newer), newer)
