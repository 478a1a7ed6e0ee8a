"""The hub: who receives which bytes, in which order, through any sequence of changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from realtime.filters import EVERYTHING, Filter, conjunction
from realtime.filters.compiler import compile_filters
from realtime.hub.groups import Subscription
from realtime.hub.index import Hub
from realtime.protocol import SUBSCRIPTION_TYPES
from tests.hub.outlets import (
    RecordingOutlet,
    deliver,
    expected_message,
    message,
    reachable,
    read_messages,
    subscribe,
)

Wanted = dict[str, Any]


def naive_match(wanted: Wanted, payload: Any) -> bool:
    """Tell whether *payload* has one of the wanted values, or what is compared, at every path."""
    for path, values in wanted.items():
        if path == "$or":
            if not any(naive_match(alternative, payload) for alternative in values):
                return False
            continue
        here = payload
        for step in path.split("."):
            here = here.get(step, ...) if isinstance(here, dict) else ...
        tests = values if isinstance(values, dict) else {"in": values}
        if not all(NAIVE_TESTS[name](here, operand) for name, operand in tests.items()):
            return False
    return True


def one_of(here: Any, values: list[Any]) -> bool:
    """Tell whether a value is one of these, and of its type."""
    return any(type(here) is type(value) and here == value for value in values)


NAIVE_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "in": one_of,
    "nin": lambda here, values: here is not ... and not one_of(here, values),
    "exists": lambda here, wanted: (here is ...) is not wanted,
    "gte": lambda here, bound: type(here) is type(bound) and here >= bound,
    "gt": lambda here, bound: type(here) is type(bound) and not here <= bound,
    "lte": lambda here, bound: type(here) is type(bound) and here <= bound,
    "lt": lambda here, bound: type(here) is type(bound) and not here >= bound,
    "prefix": lambda here, start: isinstance(here, str) and here.find(start) == 0,
    "contains": lambda here, part: isinstance(here, str) and part in here,
}


def test_other_types_receive_nothing() -> None:
    hub = Hub()
    outlets = {kind: RecordingOutlet() for kind in SUBSCRIPTION_TYPES}
    for kind, outlet in outlets.items():
        subscribe(hub, outlet, kind)
    deliver(hub, "alerts", {"n": 1})
    assert [kind for kind, outlet in outlets.items() if outlet.take()] == ["alerts"]


def test_equal_subscriptions_are_handed_the_same_bytes() -> None:
    hub = Hub()
    for _ in range(100):
        subscribe(hub, RecordingOutlet(), "events", {"a": 1, "b": "x"})
    subscribe(hub, RecordingOutlet(), "events", {"b": ["x"], "a": 1.0})
    [shared] = hub.share_frames("events", [message("events", {"a": 1, "b": "x"})])
    assert len(shared.subscriptions) == 101
    assert hub.count_groups() == 1


def test_ids_of_different_lengths_each_reach_their_own() -> None:
    hub = Hub()
    outlets = {
        (own_id, deflated): RecordingOutlet(deflated)
        for own_id in ("a", "b", "ab", "x" * 64)
        for deflated in (False, True)
    }
    for (own_id, _), outlet in outlets.items():
        subscribe(hub, outlet, "events", None, own_id)
    deliver(hub, "events", {"n": 1}, {"n": 2, "text": "y" * 3000})
    for (own_id, _), outlet in outlets.items():
        assert [received["subscription_id"] for received in outlet.take()] == [own_id] * 2


def test_a_batch_keeps_its_order_and_comes_in_one_piece() -> None:
    hub, outlet = Hub(), RecordingOutlet(deflated=True)
    subscribe(hub, outlet, "events", {"even": True})
    payloads = [{"n": n, "even": n % 2 == 0, "text": "x" * (n % 3 * 1000)} for n in range(100)]
    batch = [message("events", payload) for payload in payloads]
    [shared] = hub.share_frames("events", batch)
    assert len(shared.messages) == 50
    numbers = [m["data"]["event"]["n"] for m in read_messages(shared.frames, True)]
    assert numbers == list(range(0, 100, 2))


def test_an_empty_batch_and_no_match_give_nothing() -> None:
    hub = Hub()
    subscribe(hub, RecordingOutlet(), "events", {"a": 1})
    assert list(hub.share_frames("events", [])) == []
    assert list(hub.share_frames("events", [message("events", {"a": 2})])) == []
    assert list(hub.share_frames("metrics", [message("metrics", {"a": 1})])) == []


def test_a_subscription_is_not_active_until_it_is_told() -> None:
    hub, outlet = Hub(), RecordingOutlet()
    subscription = hub.subscribe(outlet, "events", EVERYTHING, "id")
    assert not subscription.active
    deliver(hub, "events", {"n": 1})
    hub.activate(subscription)
    deliver(hub, "events", {"n": 2})
    assert [received["data"]["event"] for received in outlet.take()] == [{"n": 2}]


def test_one_who_leaves_during_a_delivery_gets_nothing_more() -> None:
    hub = Hub()
    outlets = [RecordingOutlet() for _ in range(3)]
    subscriptions = [subscribe(hub, outlet, "events") for outlet in outlets]
    batch = [message("events", {"n": 1})]
    for shared in hub.share_frames("events", batch):
        for subscription in shared.subscriptions:
            if subscription.active:
                subscription.outlet.write(shared.frames)
            for other in subscriptions:
                hub.unsubscribe(other)
    assert sum(len(outlet.take()) for outlet in outlets) == 1
    assert hub.count_groups() == 0


def test_one_who_comes_during_a_delivery_hurts_nobody() -> None:
    hub, first = Hub(), RecordingOutlet()
    subscribe(hub, first, "events")
    subscribe(hub, first, "events", {"n": 1})
    for subscriptions, frames, _ in hub.share_frames("events", [message("events", {"n": 1})]):
        for subscription in subscriptions:
            subscription.outlet.write(frames)
        for number in range(10):
            subscribe(hub, RecordingOutlet(), "events", None, f"late-{number}")
            subscribe(hub, RecordingOutlet(), "events", {"n": number})
    assert len(first.take()) == 2


def test_leaving_twice_is_told() -> None:
    hub = Hub()
    subscription = subscribe(hub, RecordingOutlet(), "events", {"a": 1})
    again = subscribe(hub, RecordingOutlet(), "events", {"a": 1})
    assert hub.unsubscribe(subscription) is True
    assert hub.unsubscribe(subscription) is False
    assert hub.has_subscriptions("events")
    assert hub.unsubscribe(again) is True
    assert not hub.has_subscriptions("events")
    # One that is gone cannot take its successor with it.
    successor = subscribe(hub, RecordingOutlet(), "events", {"a": 1})
    assert hub.unsubscribe(again) is False
    assert hub.has_subscriptions("events")
    assert hub.unsubscribe(successor) is True


def test_a_changed_filter_holds_from_then_on() -> None:
    hub, outlet = Hub(), RecordingOutlet()
    subscription = subscribe(hub, outlet, "events", {"a": 1})
    for wanted in ({"a": 2}, {"a": 2}, {}, {"a": [1, 2], "b": "x"}, {"a": 1}):
        hub.change_filter(subscription, compile_filters(wanted))
        assert hub.count_groups() == 1
        assert subscription.type == "events"
        deliver(hub, "events", {"a": 1}, {"a": 2, "b": "x"})
        received = [m["data"]["event"]["a"] for m in outlet.take()]
        compiled = {path: v if isinstance(v, list) else [v] for path, v in wanted.items()}
        assert received == [
            payload["a"]
            for payload in ({"a": 1}, {"a": 2, "b": "x"})
            if naive_match(compiled, payload)
        ]


def test_a_filter_that_nothing_satisfies_costs_nothing_and_leaves_nothing() -> None:
    hub, outlet = Hub(), RecordingOutlet()
    nothing = conjunction(compile_filters({"a": 1}), compile_filters({"a": 2}))
    subscription = subscribe(hub, outlet, "events")
    hub.change_filter(subscription, nothing)
    deliver(hub, "events", {"a": 1}, {"a": 2}, {}, {"a": []})
    assert not outlet.written
    assert hub.unsubscribe(subscription)
    assert hub.count_groups() == 0


@pytest.mark.parametrize("payload", [{"a": []}, {"a": {}}, {"a": {"b": {}}}, {"a": {"b": [1]}}, {}])
def test_payloads_of_other_shapes_match_nothing(payload: Any) -> None:
    hub, outlet = Hub(), RecordingOutlet()
    subscribe(hub, outlet, "events", {"a.b": [1, None]})
    deliver(hub, "events", payload)
    assert not outlet.written


def test_many_come_and_go_and_nothing_stays() -> None:
    hub = Hub()
    empty = reachable(hub)
    subscriptions = [
        subscribe(hub, RecordingOutlet(n % 2 == 0), kind, {"user": n, "a.b": [n % 7, "x"]}, own)
        for n in range(200)
        for kind in ("events", "metrics")
        for own in (None, f"own-{n}")
    ]
    assert hub.count_groups() == 400
    deliver(hub, "events", *({"user": n, "a": {"b": "x"}} for n in range(200)))
    outlets = [subscription.outlet for subscription in subscriptions]
    for subscription in subscriptions[::2] + subscriptions[1::2]:
        hub.unsubscribe(subscription)
    assert hub.count_groups() == 0
    assert not any(hub.has_subscriptions(kind) for kind in SUBSCRIPTION_TYPES)
    assert reachable(hub) == empty
    assert sum(bool(o.written) for o in outlets if isinstance(o, RecordingOutlet)) == 400


# Random sequences against a naive evaluator

VALUES: list[Any] = [None, True, False, -7, 0, 1, 2, 3, 1000, "1", "x", "xa", "xab", "y"]


PATHS = ["a", "b", "a.b"]


values = st.sampled_from(VALUES)


bounds = st.integers(-8, 8) | st.sampled_from([1000, "", "1", "x", "xa", "xb", "y"])


prefixes = st.sampled_from(["", "1", "x", "xa", "xab", "xabc"])


operators = st.one_of(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("gt", "gte", "lt", "lte"), bounds)),
    st.fixed_dictionaries({"prefix": prefixes}, optional={"gt": bounds, "contains": prefixes}),
    st.fixed_dictionaries({"nin": st.lists(values, min_size=1, max_size=2)}),
    st.fixed_dictionaries({"exists": st.booleans()}),
).filter(bool)


conditions = st.lists(values, min_size=1, max_size=3) | operators


plain = st.dictionaries(st.sampled_from(PATHS), conditions, max_size=3)


alternatives = st.lists(
    st.dictionaries(st.sampled_from(PATHS), conditions, min_size=1, max_size=2),
    min_size=1,
    max_size=3,
)


wanted_filters = plain | st.builds(
    lambda all_of, either: all_of | {"$or": either}, plain, alternatives
)


payloads = st.fixed_dictionaries(
    {},
    optional={
        "a": values | st.fixed_dictionaries({}, optional={"b": values}),
        "b": values | st.just([1]),
        # How long a text comes with it: plain, compressed, in a frame of the longest header.
        "text": st.sampled_from([0, 1500, 70_000]),
    },
)


kinds = st.sampled_from(["events", "alerts"])


class Member(NamedTuple):
    """A subscription, and what is known about it without the hub."""

    subscription: Subscription
    outlet: RecordingOutlet
    kind: str
    wanted: list[Wanted]


class HubMachine(RuleBasedStateMachine):
    """Clients come, go and change their filters while messages are published."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub()
        self.empty = reachable(self.hub)
        self.members: dict[int, Member] = {}

    subscriptions: Bundle[Member] = Bundle("subscriptions")

    @rule(
        target=subscriptions,
        kind=kinds,
        wanted=wanted_filters,
        own_id=st.none() | st.sampled_from(["a", "b", "longer-id"]),
        deflated=st.booleans(),
    )
    def subscribe(self, kind: str, wanted: Wanted, own_id: str | None, deflated: bool) -> Member:
        """A client subscribes."""
        outlet = RecordingOutlet(deflated)
        subscription = subscribe(self.hub, outlet, kind, wanted, own_id)
        member = Member(subscription, outlet, kind, [wanted])
        self.members[id(member)] = member
        return member

    @rule(member=consumes(subscriptions))
    def unsubscribe(self, member: Member) -> None:
        """A client leaves."""
        assert self.hub.unsubscribe(member.subscription) is True
        assert self.hub.unsubscribe(member.subscription) is False
        del self.members[id(member)]

    @rule(member=subscriptions, wanted=wanted_filters)
    def change_filter(self, member: Member, wanted: Wanted) -> None:
        """A client's rights change so that other filters hold."""
        self.hub.change_filter(member.subscription, compile_filters(wanted))
        member.wanted[:] = [wanted]

    @rule(member=subscriptions, enforced=wanted_filters)
    def narrow_filter(self, member: Member, enforced: Wanted) -> None:
        """A client's rights change so that further filters hold."""
        both: Filter = EVERYTHING
        member.wanted.append(enforced)
        for wanted in member.wanted:
            both = conjunction(both, compile_filters(wanted))
        self.hub.change_filter(member.subscription, both)

    @rule(kind=kinds, batch=st.lists(payloads, max_size=4))
    def publish(self, kind: str, batch: list[dict[str, Any]]) -> None:
        """Messages come in; each goes to exactly those who want it, in order."""
        numbered = [
            payload | {"n": number, "text": "y" * payload.get("text", 0)}
            for number, payload in enumerate(batch)
        ]
        deliver(self.hub, kind, *numbered)
        for member in self.members.values():
            assert member.outlet.take() == [
                expected_message(kind, payload, member.subscription.id)
                for payload in numbered
                if member.kind == kind
                and all(naive_match(wanted, payload) for wanted in member.wanted)
            ]

    @invariant()
    def groups_are_known(self) -> None:
        """Types with subscribers are told from those without."""
        for kind in SUBSCRIPTION_TYPES:
            expected = any(member.kind == kind for member in self.members.values())
            assert self.hub.has_subscriptions(kind) is expected
        assert self.hub.count_groups() <= len(self.members)

    def teardown(self) -> None:
        """After all have left, nothing is held."""
        for member in self.members.values():
            self.hub.unsubscribe(member.subscription)
        assert self.hub.count_groups() == 0
        assert reachable(self.hub) == self.empty


TestRandomSequences = HubMachine.TestCase


TestRandomSequences.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
