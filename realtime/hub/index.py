"""The index of one process: subscription type -> fan-out groups -> connections. Pure.

Fan-out groups (:mod:`realtime.hub.groups`) are found through an index of their filters
(:mod:`realtime.filters.index`), so an event costs what its matches cost, not what there are
subscriptions. The hub tells who gets which bytes; the node writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from realtime.filters import Filter
from realtime.filters.index import FilterIndex
from realtime.hub.groups import Delivery, FanOut, Outlet, Shaped, Subscription
from realtime.hub.message import Message
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.protocol.options import Options


class Hub:
    """All subscriptions of a process."""

    def __init__(self) -> None:
        self._indexes = {kind: TypeIndex(kind) for kind in SUBSCRIPTION_TYPES}
        # Groups with options that have taken messages since :meth:`take_shaped` was called.
        self.shaped: dict[Shaped, None] = {}

    def subscribe(
        self,
        outlet: Outlet,
        kind: str,
        compiled: Filter,
        subscription_id: str,
        options: Options | None = None,
    ) -> Subscription:
        """Add a subscription, not yet active."""
        fan_out = self._indexes[kind].group(compiled)
        subscription = Subscription(outlet, subscription_id, fan_out)
        fan_out.add(subscription, options)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Remove a subscription; tell whether it was there."""
        subscription.active = False
        fan_out = subscription.fan_out
        was_member = fan_out.discard(subscription)
        if not fan_out:
            self._indexes[fan_out.type].remove(fan_out)
        return was_member

    def change_filter(self, subscription: Subscription, compiled: Filter) -> None:
        """Let a subscription have other filters from now on."""
        before, options = subscription.fan_out, subscription.options
        after = self._indexes[before.type].group(compiled)
        if after is before:
            return
        before.discard(subscription)
        subscription.fan_out = after
        after.add(subscription, options)
        if not before:
            self._indexes[before.type].remove(before)

    def has_subscriptions(self, kind: str) -> bool:
        """Tell whether anyone is subscribed to a type."""
        return bool(self._indexes[kind].groups)

    def subscriptions(self, kind: str) -> Iterator[Subscription]:
        """Yield the subscriptions of a type."""
        for fan_out in tuple(self._indexes[kind].groups.values()):
            yield from fan_out

    def count_groups(self) -> int:
        """Return how many fan-out groups there are."""
        return sum(
            fan_out.count_groups()
            for index in self._indexes.values()
            for fan_out in tuple(index.groups.values())
        )

    def shaped_groups(self, kind: str) -> Iterator[Shaped]:
        """Yield the groups of a type that have options."""
        for fan_out in tuple(self._indexes[kind].groups.values()):
            yield from tuple(fan_out.shaped.values())

    def take_shaped(self) -> Iterable[Shaped]:
        """Return the groups with options that have taken messages since this was called last."""
        taken, self.shaped = self.shaped, {}
        return taken

    def deliveries(self, kind: str, messages: Iterable[Message]) -> Iterator[Delivery]:
        """Yield what goes to whom of *messages* at once; groups with options take theirs.

        Messages that wait together leave together: each subscription comes at most once, with all
        its frames in the order of the messages. The caller looks at ``active`` when it writes.
        """
        index = self._indexes[kind]
        matched: dict[FanOut, list[Message]] = {}
        for message in messages:
            for fan_out in index.match(message):
                matched.setdefault(fan_out, []).append(message)
        for fan_out in [fan_out for fan_out in matched if fan_out.shaped]:
            for shaped in fan_out.shaped.values():
                for message in matched[fan_out]:
                    shaped.shaper.take(message)
                self.shaped[shaped] = None
        for fan_out, its_messages in matched.items():
            yield from fan_out.deliveries(its_messages)


class TypeIndex:
    """The fan-out groups of one subscription type, found by their filters."""

    def __init__(self, kind: str) -> None:
        self._type = kind
        self.groups: dict[Filter, FanOut] = {}
        # The group without filters, which every message concerns.
        self._unfiltered: FanOut | None = None
        self._filtered: FilterIndex[FanOut] = FilterIndex()

    def group(self, compiled: Filter) -> FanOut:
        """Return the group with these filters, made if need be."""
        fan_out = self.groups.get(compiled)
        if fan_out is None:
            fan_out = self.groups[compiled] = FanOut(self._type, compiled)
            if compiled:
                self._filtered.insert(fan_out, compiled)
            else:
                self._unfiltered = fan_out
        return fan_out

    def remove(self, fan_out: FanOut) -> None:
        """Forget an empty group, once."""
        if self.groups.get(fan_out.filter) is not fan_out:
            return  # it is forgotten already, and may have a successor
        del self.groups[fan_out.filter]
        if fan_out.filter:
            self._filtered.remove(fan_out)
        else:
            self._unfiltered = None

    def match(self, message: Message) -> list[FanOut]:
        """Return the groups whose filters the message satisfies."""
        matched = [] if self._unfiltered is None else [self._unfiltered]
        if self._filtered:
            matched += self._filtered.match(message.decoded)
        return matched
