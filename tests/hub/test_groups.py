"""Groups that receive the same bytes: plain ones, and those that hold back for their members."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.filters import EVERYTHING
from realtime.hub.groups import Subscription
from realtime.hub.index import Hub
from realtime.hub.message import Message
from realtime.protocol import PAYLOAD_KEYS, SUBSCRIPTION_TYPES, Position
from realtime.protocol.subscribe import Options, read_options
from tests.hub.outlets import TIME, RecordingOutlet, reachable, read_messages, write
from tests.hub.test_shaping import OPTIONS, ROOM, message


def subscribe(
    hub: Hub,
    kind: str = "events",
    own_id: str = "s",
    outlet: RecordingOutlet | None = None,
    **said: Any,
) -> tuple[Subscription, RecordingOutlet]:
    """Subscribe with options, actively."""
    outlet = outlet or RecordingOutlet()
    subscription = hub.subscribe(outlet, kind, EVERYTHING, own_id, read_options(said))
    hub.activate(subscription)
    return subscription, outlet


def send(hub: Hub, now: float = 0.0) -> None:
    """Send what is due of the groups that have taken messages."""
    for kind in SUBSCRIPTION_TYPES:
        for shaped in hub.shaped_groups(kind):
            if held := shaped.shaper.release(now, ROOM):
                for shared in shaped.share_held(held):
                    write(shared)
                shaped.shaper.sent()


def publish(hub: Hub, *messages: Message) -> None:
    """Deliver to plain groups, and let the others take theirs."""
    for shared in hub.share_frames("events", messages):
        write(shared)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
def test_a_batch_has_what_messages_have(kind: str, deflated: bool) -> None:
    hub = Hub()
    plain, batched = RecordingOutlet(deflated), RecordingOutlet(deflated)
    subscribe(hub, kind, outlet=plain)
    subscribe(hub, kind, "a-longer-id", outlet=batched, batch_ms=1)
    texts = ['{"é":"\\"}"}', '{"n":1,"text":"' + "x" * 2000 + '"}', "{}"]
    row = [
        Message(kind, text.encode(), TIME + n, Position("e", n + 1) if n else None)
        for n, text in enumerate(texts)
    ]
    for shared in hub.share_frames(kind, row):
        plain.write(shared.frames)
    send(hub)
    send(hub, 1)
    singles = plain.take()
    [batch] = batched.take()
    assert list(batch) == ["type", "data", "timestamp", "subscription_id"]
    assert batch["subscription_id"] == "a-longer-id"
    assert batch["timestamp"] == singles[-1]["timestamp"]
    assert batch["data"] == {
        "subscription_type": kind,
        "messages": [
            {
                PAYLOAD_KEYS[kind]: single["data"][PAYLOAD_KEYS[kind]],
                "timestamp": single["timestamp"],
                "metadata": single["metadata"],
            }
            for single in singles
        ],
    }


def test_a_frame_of_a_batch_is_bounded() -> None:
    hub = Hub()
    _, outlet = subscribe(hub, batch_ms=1, fields=["n", "text"])
    row = [message(n, {"n": n, "text": "x" * 30_000}) for n in range(1, 6)]
    publish(hub, *row)
    send(hub)
    send(hub, 1)
    frames = outlet.take()
    numbers = [[one["event"]["n"] for one in frame["data"]["messages"]] for frame in frames]
    assert numbers == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize("deflated", [False, True])
def test_fields_leave_the_rest_of_a_message(deflated: bool) -> None:
    hub = Hub()
    outlet, whole = RecordingOutlet(deflated), RecordingOutlet(deflated)
    subscribe(hub, outlet=outlet, fields=["a", "deep.b"])
    subscribe(hub, outlet=whole)
    payload = {"deep": {"b": "y" * 2000, "c": 1}, "a": 1, "z": 2}
    publish(hub, message(7, payload), message(8, {"z": 1}))
    send(hub)
    first, second = outlet.take()
    expected = whole.take()[0]
    expected["data"]["event"] = {"a": 1, "deep": {"b": "y" * 2000}}
    assert first == expected
    assert second["data"]["event"] == {}


def test_equal_options_share_a_group_and_others_do_not() -> None:
    hub = Hub()
    first, _ = subscribe(hub, max_rate=1, fields=["a", "b"])
    second, _ = subscribe(hub, max_rate=1.0, fields=["b", "a", "a"])
    third, _ = subscribe(hub, max_rate=2)
    plain, _ = subscribe(hub)
    assert first.shaped is second.shaped and first.shaped is not third.shaped
    assert plain.shaped is None and hub.count_groups() == 3
    for subscription in (first, second, third, plain):
        assert hub.has_subscriptions("events")
        assert hub.unsubscribe(subscription)
        assert not hub.unsubscribe(subscription)
    assert hub.count_groups() == 0 and not hub.has_subscriptions("events")


def test_who_joins_gets_nothing_of_before() -> None:
    hub = Hub()
    _, old = subscribe(hub, conflate="k", batch_ms=100)
    publish(hub, message(1, {"k": 1}))
    send(hub)
    publish(hub, message(2, {"k": 1}), message(3, {"k": 2}))
    newcomer, new = subscribe(hub, own_id="t", conflate="k", batch_ms=100)
    assert newcomer.shaped is not None
    assert newcomer.shaped.shaper.oldest(newcomer.sent_until) is None
    publish(hub, message(4, {"k": 1}))
    assert newcomer.shaped.shaper.oldest(newcomer.sent_until) == 4
    assert newcomer.shaped.shaper.oldest(0) == 1

    def offsets(outlet: RecordingOutlet) -> list[list[int]]:
        return [
            [one["metadata"]["offset"] for one in frame["data"]["messages"]]
            for frame in outlet.take()
        ]

    send(hub, 0.1)
    assert (offsets(old), offsets(new)) == ([[1]], [])
    send(hub, 1)
    send(hub, 1.1)
    assert (offsets(old), offsets(new)) == ([[3, 4]], [[4]])
    publish(hub, message(5, {"k": 1}))
    send(hub, 2)
    send(hub, 2.1)
    assert (offsets(old), offsets(new)) == ([[5]], [[5]])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, 2.0])),
        st.tuples(st.just("join"), st.booleans()),
        st.tuples(st.just("leave"), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(OPTIONS, STEPS)
def test_whoever_comes_and_goes(chosen: Options, steps: list[tuple[str, Any]]) -> None:
    """Each gets what came since it joined: in order, once, the newest of each value in the end."""
    hub, now, published = Hub(), 0.0, list[Message]()
    # Each member, what had been published when it joined, and its way out.
    members: list[tuple[Subscription, int, RecordingOutlet]] = []

    def offsets(outlet: RecordingOutlet) -> list[int]:
        frames = list(read_messages(outlet.written, outlet.deflated))
        if not chosen.batch_ms:
            return [frame["metadata"]["offset"] for frame in frames]
        return [one["metadata"]["offset"] for frame in frames for one in frame["data"]["messages"]]

    for name, value in steps:
        if name == "publish":
            published.append(message(len(published) + 1, {"k": value}))
            publish(hub, published[-1])
            send(hub, now)
        elif name == "wait":
            now += value
            send(hub, now)
        elif name == "join":
            said, outlet = chosen.describe(), RecordingOutlet(value)
            subscription, _ = subscribe(hub, own_id=f"s{value}", outlet=outlet, **said)
            members.append((subscription, len(published), outlet))
        elif members:
            subscription, _, _ = members.pop(value % len(members))
            hub.unsubscribe(subscription)
        for subscription, joined, outlet in members:
            received = offsets(outlet)
            assert received == sorted(set(received)) and all(n > joined for n in received)
            assert subscription.shaped is not None
            oldest = subscription.shaped.shaper.oldest(subscription.sent_until)
            assert oldest is None or oldest > max([joined, *received])
    for _ in range(3):
        now += 10
        send(hub, now)
    for _, joined, outlet in members:
        later = published[joined:]
        newest = {one.decoded["k"] if chosen.conflate else None: one.offset for one in later}
        assert set(newest.values()) <= set(offsets(outlet))
        if not chosen.supersedes:
            assert offsets(outlet) == [one.offset for one in later]
    for subscription, _, _ in members:
        hub.unsubscribe(subscription)
    assert hub.count_groups() == 0


def test_who_leaves_is_not_remembered() -> None:
    hub = Hub()
    subscribe(hub, max_rate=0.001)
    publish(hub, message(1))
    send(hub)
    publish(hub, message(2))
    [shaped] = hub.shaped_groups("events")
    before = reachable(shaped)
    for n in range(3):
        subscription, _ = subscribe(hub, own_id=f"s{n}", max_rate=0.001)
        hub.unsubscribe(subscription)
    del subscription
    assert reachable(shaped) == before
