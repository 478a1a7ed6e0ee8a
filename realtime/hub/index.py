"""The index of one process: subscription type -> fan-out groups -> connections. Pure.

Groups are found through an index of their filters, so the cost of an event grows with its matches
and not with the number of subscriptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from realtime.filters import EVERYTHING, Filter
from realtime.filters.index import FilterIndex
from realtime.hub.groups import FanOutGroup, Outlet, ShapedGroup, SharedFrames, Subscription
from realtime.hub.message import Message
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.protocol.subscribe import Options


class Hub:
    """All subscriptions of a process."""

    def __init__(self) -> None:
        self._indexes = {kind: TypeIndex(kind) for kind in SUBSCRIPTION_TYPES}
        # Shaped groups that have taken messages since :meth:`pop_shaped` was called.
        self._shaped: dict[ShapedGroup, None] = {}

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

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Remove a subscription; tell whether it was there."""
        subscription.active = False
        group = subscription.group
        was_member = group.discard(subscription)
        if not group:
            self._indexes[group.type].remove(group)
        return was_member

    def change_filter(self, subscription: Subscription, compiled: Filter) -> None:
        """Let a subscription have other filters from now on.

        An active one must be activated again if its ``shaped`` has changed.
        """
        before, options = subscription.group, subscription.options
        after = self._indexes[before.type].group(compiled)
        if after is before:
            return
        before.discard(subscription)
        subscription.group = after
        after.add(subscription, options)
        if not before:
            self._indexes[before.type].remove(before)

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

    def pop_shaped(self) -> Iterable[ShapedGroup]:
        """Return the shaped groups that have taken messages since this was called last."""
        shaped, self._shaped = self._shaped, {}
        return shaped

    def share_frames(self, kind: str, messages: Iterable[Message]) -> Iterator[SharedFrames]:
        """Yield what is to be written at once of *messages*; shaped groups take theirs.

        Each subscription comes at most once, with all its messages in order. The caller must leave
        out subscriptions that are not ``active``, then see to the groups that :meth:`pop_shaped`
        returns.
        """
        index = self._indexes[kind]
        matched: dict[FanOutGroup, list[Message]] = {}
        for message in messages:
            for group in index.match(message):
                matched.setdefault(group, []).append(message)
        for group, group_messages in matched.items():
            for shaped in group.shaped.values():
                for message in group_messages:
                    shaped.shaper.take(message)
                self._shaped[shaped] = None
        for group, group_messages in matched.items():
            yield from group.share_frames(group_messages, group_messages)


class TypeIndex:
    """The fan-out groups of one subscription type, found by their filters."""

    def __init__(self, kind: str) -> None:
        self._type = kind
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
