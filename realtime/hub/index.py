"""The index of one process: subscription type -> fan-out groups -> connections. Pure.

Groups are found through an index of their filters, so the cost of an event grows with its matches
and not with the number of subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from realtime.filters import EVERYTHING, Filter
from realtime.filters.index import FilterIndex
from realtime.hub.groups import (
    NEVER,
    FanOutGroup,
    Outlet,
    ShapedGroup,
    SharedFrames,
    Subscription,
)
from realtime.hub.message import Message
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.protocol.subscribe import Options


class Hub:
    """All subscriptions of a process."""

    def __init__(self) -> None:
        self._indexes = {kind: TypeIndex(kind) for kind in SUBSCRIPTION_TYPES}

    def subscribe(
        self,
        outlet: Outlet,
        kind: str,
        compiled: Filter,
        subscription_id: str,
        options: Options | None = None,
    ) -> Subscription:
        """Add a subscription, not yet active."""
        group = self._indexes[kind].group(compiled)
        subscription = Subscription(outlet, subscription_id, group)
        group.add(subscription, options)
        return subscription

    def activate(self, subscription: Subscription) -> None:
        """Let a subscription receive the messages that are taken from now on."""
        subscription.sent_until = self._indexes[subscription.type].taken

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Remove a subscription; tell whether it was there."""
        subscription.sent_until = NEVER
        group = subscription.group
        was_member = group.discard(subscription)
        if not group:
            self._indexes[group.type].remove(group)
        return was_member

    def change_filter(self, subscription: Subscription, compiled: Filter) -> list[Message]:
        """Let a subscription have other filters from now on.

        Return what was held or is being written, has not been written to it, and passes the new
        filters: the caller must write that before all else, and activate the subscription again.
        """
        before, shaped = subscription.group, subscription.shaped
        index = self._indexes[before.type]
        after = index.group(compiled)
        if after is before:
            return []
        before.discard(subscription)
        subscription.group = after
        after.add(subscription, subscription.options)
        if not before:
            index.remove(before)
        held = index.writing if shaped is None else shaped.shaper.held(subscription.sent_until)
        return subscription.select(m for m in held if m.number > subscription.sent_until)

    def has_subscriptions(self, kind: str) -> bool:
        return bool(self._indexes[kind].groups)

    def subscriptions(self, kind: str) -> Iterator[Subscription]:
        for group in tuple(self._indexes[kind].groups.values()):
            yield from group

    def count_groups(self) -> int:
        return sum(
            group.count_groups()
            for index in self._indexes.values()
            for group in tuple(index.groups.values())
        )

    def shaped_groups(self, kind: str) -> Iterator[ShapedGroup]:
        for group in tuple(self._indexes[kind].groups.values()):
            yield from tuple(group.shaped.values())

    def pop_shaped(self, kind: str) -> Iterable[ShapedGroup]:
        """Return a type's shaped groups that have taken messages since this was called last."""
        index = self._indexes[kind]
        shaped, index.shaped = index.shaped, {}
        return shaped

    def share_frames(self, kind: str, messages: Sequence[Message]) -> Iterator[SharedFrames]:
        """Yield what is to be written at once of *messages*; shaped groups take theirs.

        The caller must then see to the groups that :meth:`pop_shaped` returns.
        """
        index = self._indexes[kind]
        matched: dict[FanOutGroup, list[Message]] = {}
        for message in messages:
            index.taken = message.number = index.taken + 1
            for group in index.match(message):
                matched.setdefault(group, []).append(message)
        for group, group_messages in matched.items():
            for shaped in group.shaped.values():
                for message in group_messages:
                    shaped.shaper.take(message)
                index.shaped[shaped] = None
        index.writing = messages
        try:
            for group, group_messages in matched.items():
                yield from group.share_frames(group_messages, group_messages)
        finally:
            index.writing = ()


class TypeIndex:
    """The fan-out groups of one subscription type, found by their filters."""

    def __init__(self, kind: str) -> None:
        self._type = kind
        # How many messages were taken, which is the number of the newest; and those of them that
        # are being written.
        self.taken = 0
        self.writing: Sequence[Message] = ()
        # Shaped groups that have taken messages and have not been seen to.
        self.shaped: dict[ShapedGroup, None] = {}
        self.groups: dict[Filter, FanOutGroup] = {}
        self._filtered: FilterIndex[FanOutGroup] = FilterIndex()

    def group(self, compiled: Filter) -> FanOutGroup:
        """Return the group with these filters; it is made if there is none."""
        group = self.groups.get(compiled)
        if group is None:
            group = self.groups[compiled] = FanOutGroup(self._type, compiled)
            if compiled:
                self._filtered.insert(group, compiled)
        return group

    def remove(self, group: FanOutGroup) -> None:
        """Remove an empty group, if it has not been removed already."""
        if self.groups.get(group.filter) is group:  # another may have taken its place meanwhile
            del self.groups[group.filter]
            if group.filter:
                self._filtered.remove(group)

    def match(self, message: Message) -> list[FanOutGroup]:
        """Return the groups whose filters the message satisfies."""
        unfiltered = self.groups.get(EVERYTHING)
        matched = [] if unfiltered is None else [unfiltered]
        if self._filtered:
            matched += self._filtered.match(message.decoded)
        return matched
