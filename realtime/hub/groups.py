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
from realtime.hub.shaping import Shaper
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


# Above the number of any message.
NEVER = 2**63


class Subscription:
    """One connection's subscription; messages may be written while it is ``active``.

    It takes each message once, by the filters that it has then, though its filters may change while
    messages are being written to one connection after another::

        messages     1 2 3 4 | 5 6 7 8 | 9 ...
                     written | writing |
        it                     ^ sent_until = 6: its old group sent it 6, the only one that matched

    If its filters change now, it takes 7 and 8 by the new ones, and what any group has up to 8 is
    not for it any more.
    """

    __slots__ = ("group", "id", "outlet", "sent_until", "shaped")

    def __init__(self, outlet: Outlet, subscription_id: str, group: FanOutGroup) -> None:
        self.outlet = outlet
        self.id = subscription_id
        self.group = group
        # The number of the newest message that is not for it any more: it was sent that one, or
        # has become active since. It takes later ones.
        self.sent_until = NEVER
        # With options only: its group within the fan-out group.
        self.shaped: ShapedGroup | None = None

    @property
    def type(self) -> str:
        return self.group.type

    @property
    def options(self) -> Options | None:
        return None if self.shaped is None else self.shaped.options

    @property
    def active(self) -> bool:
        return self.sent_until < NEVER

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
    """The frames of *messages*, the same bytes for all of *subscriptions*.

    Whoever writes them leaves out those whose ``sent_until`` is not below the last message's
    number, and gives it that number before writing: to write may end a subscription.
    """

    subscriptions: tuple[Subscription, ...]
    frames: bytes
    messages: Sequence[Message]


# End of the data message, which has the subscription id -> the members with that id.
Members = dict[bytes, dict[Subscription, None]]


class FrameGroup:
    """Subscriptions of a type that receive the same messages in the same form."""

    __slots__ = ("_members", "type")

    def __init__(self, kind: str) -> None:
        self.type = kind
        # Those who do not take compressed messages, and those who do. Most have the derived id of
        # their filters, so equal frames.
        self._members: tuple[Members, Members] = {}, {}

    def add_member(self, subscription: Subscription) -> None:
        tail = encode_data_tail(subscription.id)
        self._members[subscription.outlet.deflated].setdefault(tail, {})[subscription] = None

    def remove_member(self, subscription: Subscription) -> bool:
        """Remove a subscription; tell whether it was there."""
        members = self._members[subscription.outlet.deflated]
        tail = encode_data_tail(subscription.id)
        if subscription not in members.get(tail, ()):
            return False
        del members[tail][subscription]
        if not members[tail]:
            del members[tail]
        return True

    def __bool__(self) -> bool:
        return any(self._members)

    def __iter__(self) -> Iterator[Subscription]:
        for members in self._members:
            for subscriptions in tuple(members.values()):
                yield from tuple(subscriptions)

    def share_frames(
        self, messages: Sequence[Message], encoded: Sequence[Encoded]
    ) -> Iterator[SharedFrames]:
        """Yield the frames of messages, in order, once for all members with the same id.

        *encoded* is how the group encodes the messages, which may be several together.
        """
        for deflated in (False, True):
            if not self._members[deflated]:
                continue
            # Frames differ in their tails only: what precedes them is made once for each length.
            pieces: dict[int, list[bytes]] = {}
            for tail, subscriptions in tuple(self._members[deflated].items()):
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
    becomes active, its ``sent_until`` is 2. Message 3 is taken, and the three are released: A, an
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

    def share_held(self, held: Sequence[Message]) -> Iterator[SharedFrames]:
        """Yield the frames of what was held, for each member without what is older than it."""
        first = held[0].number
        for shared in self.share_frames(held, self.encode(held)):
            members = shared.subscriptions
            older = tuple(member for member in members if member.sent_until < first)
            yield shared._replace(subscriptions=older)
            if len(older) == len(members):
                continue
            for member in members:
                if member.sent_until < held[-1].number:
                    newer = [message for message in held if message.number > member.sent_until]
                    yield SharedFrames((member,), member.frames(newer), newer)
