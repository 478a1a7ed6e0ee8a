"""Options of subscriptions: what is read, what is held back until when, what parts are sent."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.filters import EVERYTHING
from realtime.hub.groups import Subscription
from realtime.hub.index import Hub
from realtime.hub.message import Message
from realtime.hub.shaping import MAX_VALUES, Shaper, Survivors, project, tree_of
from realtime.protocol import PAYLOAD_KEYS, SUBSCRIPTION_TYPES, Position, parse
from realtime.protocol.options import MAX_FIELDS, Options, read_options
from tests.hub.test_index import RecordingOutlet, read_messages

ROOM = 1_000_000
TIME = 1_704_110_400.0


def message(offset: int, payload: Any = None, kind: str = "events") -> Message:
    """Return a message of the log."""
    text = json.dumps({"n": offset} if payload is None else payload).encode()
    return Message(kind, text, TIME, Position("e", offset))


def options(**given_options: Any) -> Options:
    """Return options as a client gives them."""
    read = read_options(given_options)
    assert read is not None
    return read


class TestReading:
    @pytest.mark.parametrize(
        "nothing", [{}, {"max_rate": None, "fields": None}, {"on_overflow": "close"}, {"type": "x"}]
    )
    def test_nothing(self, nothing: Any) -> None:
        assert read_options(nothing) is None

    @pytest.mark.parametrize(
        ("said", "in_force"),
        [
            ({"max_rate": 5}, {"max_rate": 5.0}),
            ({"max_rate": 0.2}, {"max_rate": 0.2}),
            ({"conflate": "a.b"}, {"max_rate": 1.0, "conflate": "a.b"}),
            ({"conflate": "a", "max_rate": 10}, {"max_rate": 10.0, "conflate": "a"}),
            ({"batch_ms": 250}, {"batch_ms": 250}),
            ({"fields": ["b", "a.c", "b"]}, {"fields": ["a.c", "b"]}),
            ({"on_overflow": "drop"}, {"on_overflow": "drop"}),
        ],
    )
    def test_what_is_in_force(self, said: Any, in_force: Any) -> None:
        assert options(**said).describe() == in_force
        assert options(**in_force) == options(**said)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("max_rate", [0, -1, 1001, True, "5", [], {}, 1e-9, float("inf"), 10**400]),
            ("conflate", [1, "", "a..b", ".", "x" * 257, ".".join("a" * 17), ["a"], {}, False]),
            ("batch_ms", [0, -1, 10_001, 1.5, 100.0, True, "1", [], {}]),
            ("fields", [[], "a", {"a": 1}, [1], [""], ["a", None], [["a"]], ["x" * 257], True]),
            ("fields", [[f"f{n}" for n in range(MAX_FIELDS + 1)]]),
            ("on_overflow", ["", "Drop", True, 1, [], {}, ["drop"]]),
        ],
    )
    def test_what_is_wrong_is_named(self, name: str, values: list[Any]) -> None:
        for value in values:
            with pytest.raises(ValueError, match=f"^{name}: "):
                read_options({name: value})

    def test_what_a_message_may_hold(self) -> None:
        """Numbers as a client may write them."""
        command = parse('{"type":"subscribe","data":{"type":"events","max_rate":1e3}}')
        assert options(**command.data).max_rate == 1000  # type: ignore[attr-defined]


class TestFields:
    @pytest.mark.parametrize(
        ("paths", "expected"),
        [
            (["a"], {"a": 1}),
            (["deep.x", "a"], {"a": 1, "deep": {"x": [1, {"y": 2}]}}),
            (["deep", "deep.x"], {"deep": {"x": [1, {"y": 2}], "z": {"w": None}}}),
            (["deep.z.w"], {"deep": {"z": {"w": None}}}),
            (["deep.x.y", "a.b", "nothing", "deep.nothing"], {}),
        ],
    )
    def test_parts(self, paths: list[str], expected: Any) -> None:
        payload = {"a": 1, "deep": {"x": [1, {"y": 2}], "z": {"w": None}}, "text": "x"}
        tree = tree_of(options(fields=paths).fields or ())
        assert json.loads(project(json.dumps(payload).encode(), tree)) == expected

    def test_values_stay_as_they_were_written(self) -> None:
        payload = b'{"a":1.0,"b":123456789012345678901234567890,"c":"\\u00e9","d":{"e":1E2}}'
        tree = tree_of([("a",), ("b",), ("c",), ("d", "e")])
        assert project(b' { "x":{},' + payload[1:], tree) == payload

    def test_what_cannot_be_read_has_no_parts(self) -> None:
        tree = tree_of([("a",)])
        assert project(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", tree) == b"{}"


# What happens to a group: messages of a value, and time that passes.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.floats(0.001, 3)),
    ),
    max_size=60,
)
OPTIONS = st.builds(
    lambda rate, conflate, batch: options(
        **({"max_rate": rate} if rate else {}),
        **({"conflate": "k"} if conflate else {}),
        **({"batch_ms": batch} if batch else {"fields": ["k"]}),
    ),
    st.sampled_from([None, 0.5, 1, 2, 100]),
    st.booleans(),
    st.sampled_from([None, 1, 700, 5000]),
)


class Run:
    """A group through a row of events, with a timer that is always in time."""

    def __init__(self, chosen: Options) -> None:
        self.options = chosen
        self.shaper: Shaper[Message] = Shaper(chosen)
        self.now = 0.0
        self.taken: list[Message] = []
        # When what left.
        self.left: list[tuple[float, list[Message]]] = []

    def take(self, value: int) -> None:
        self.taken.append(message(len(self.taken) + 1, {"k": value}))
        self.shaper.take(self.taken[-1])
        self._release()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.shaper.due) is not None and due <= end:
            self.now = max(self.now, due)
            self._release()
        self.now = end

    def _release(self) -> None:
        before = self.shaper.oldest(0)
        held = self.shaper.release(self.now, ROOM)
        # What leaves is not sent before that is said.
        assert self.shaper.oldest(0) == before
        self.shaper.sent()
        if held:
            self.left.append((self.now, [one for _, one in held]))

    @property
    def sent(self) -> list[Message]:
        return [one for _, messages in self.left for one in messages]


@given(OPTIONS, EVENTS)
def test_what_leaves(chosen: Options, events: list[tuple[str, Any]]) -> None:
    """In order, never twice, the newest of each value in the end, and no more than the rate."""
    run = Run(chosen)
    for name, value in events:
        getattr(run, name)(value)
        unsent = [one.offset for one in run.taken if one not in run.sent]
        oldest = run.shaper.oldest(0)
        # All that is older than the oldest held has been sent or superseded.
        assert oldest is None or oldest in unsent
    run.wait(10 + 2 / (chosen.max_rate or 1))
    assert run.shaper.due is None and run.shaper.oldest(0) is None
    offsets = [one.offset for one in run.sent]
    assert offsets == sorted(set(offsets))
    if run.taken:
        newest = {one.decoded["k"] if chosen.conflate else None: one for one in run.taken}
        assert set(newest.values()) <= set(run.sent)
    if not chosen.supersedes:
        assert run.sent == run.taken
    if chosen.max_rate and not chosen.batch_ms:
        times = [when for when, _ in run.left]
        steps = [after - before for before, after in pairwise(times)]
        assert all(step >= 1 / chosen.max_rate - 1e-9 for step in steps)
        for _, together in run.left:
            values = [one.decoded["k"] if chosen.conflate else None for one in together]
            assert len(values) == len(set(values))


@given(st.sampled_from([0.5, 2, 10]), st.integers(1, 5000), EVENTS)
def test_batches_keep_the_rate(rate: float, batch: int, events: list[tuple[str, Any]]) -> None:
    """Over any time from when messages leave: as many as the rate allows, and one."""
    run = Run(options(max_rate=rate, batch_ms=batch))
    for name, value in events:
        getattr(run, name)(value)
    for index, (start, _) in enumerate(run.left):
        count = 0
        for end, messages in run.left[index:]:
            count += len(messages)
            assert count <= (end - start + batch / 1000) * rate + 1 + 1e-6


def test_the_first_leaves_at_once_and_the_last_when_it_may() -> None:
    run = Run(options(max_rate=0.5))
    run.wait(100)
    for _ in range(5):
        run.take(0)
    run.wait(1.9)
    assert run.left == [(100.0, [run.taken[0]])]
    run.wait(0.2)
    assert run.left[1:] == [(102.0, [run.taken[4]])]
    assert run.shaper.due is None


def test_messages_without_the_path_are_one_value() -> None:
    run = Run(options(conflate="k.deep"))
    for value in ({"k": {"deep": 1}}, {"k": 1}, {}, {"k": {"deep": [1]}}, {"k": {"deep": 1.0}}):
        run.shaper.take(message(len(run.taken) + 1, value))
        run.taken.append(message(len(run.taken) + 1, value))
    run.wait(1)
    assert [one.offset for one in run.sent] == [4, 5]


def test_what_is_held_is_bounded() -> None:
    shaper: Shaper[Message] = Shaper(options(conflate="n", max_rate=0.001))
    shaper.take(message(1))
    assert len(shaper.release(0, ROOM)) == 1
    for offset in range(2, MAX_VALUES + 2):
        shaper.take(message(offset))
    assert shaper.release(1, 10 * ROOM) == []
    shaper.take(message(MAX_VALUES + 2))
    assert len(shaper.release(1, 10 * ROOM)) == MAX_VALUES + 1
    for offset in range(3):
        shaper.take(message(offset))
    assert len(shaper.release(1, 100)) == 3


def test_one_message_waits_however_large() -> None:
    shaper: Shaper[Message] = Shaper(options(max_rate=1))
    shaper.take(message(1))
    assert shaper.release(0, 1)
    shaper.take(message(2, {"text": "x" * 1000}))
    assert shaper.release(0.5, 1) == []
    assert shaper.due == 1


def test_a_batch_does_not_wait_when_it_is_large() -> None:
    shaper: Shaper[Message] = Shaper(options(batch_ms=10_000))
    shaper.take(message(1))
    assert shaper.release(0, 1000) == []
    shaper.take(message(2, {"text": "x" * 1000}))
    assert len(shaper.release(0, 1000)) == 2
    assert shaper.due is None


@given(st.lists(st.integers(0, 4), max_size=40), st.booleans())
def test_survivors(values: list[int], by_value: bool) -> None:
    chosen = options(max_rate=1, **({"conflate": "k"} if by_value else {}))
    row = [message(n, {"k": value}) for n, value in enumerate(values, 1)]
    survivors = Survivors(chosen)
    survivors.add(row[:10])
    survivors.add(row[10:])
    newest = {one.decoded["k"] if by_value else None: one.offset for one in row}
    assert survivors.offsets() == set(newest.values())


# In the hub


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
    subscription.activate()
    return subscription, outlet


def send(hub: Hub, now: float = 0.0) -> None:
    """Send what is due of the groups that have taken messages."""
    for kind in SUBSCRIPTION_TYPES:
        for shaped in hub.shaped_groups(kind):
            if held := shaped.shaper.release(now, ROOM):
                for delivery, _ in shaped.shaped_deliveries(held):
                    for subscription in delivery.subscriptions:
                        subscription.outlet.write(delivery.frames)
                shaped.shaper.sent()


def publish(hub: Hub, *messages: Message) -> None:
    """Deliver to plain groups, and let the others take theirs."""
    for delivery in hub.deliveries("events", messages):
        for subscription in delivery.subscriptions:
            subscription.outlet.write(delivery.frames)


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
    for delivery in hub.deliveries(kind, row):
        plain.write(delivery.frames)
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
    assert newcomer.shaped is not None and newcomer.shaped.shaper.oldest(newcomer.since) is None
    publish(hub, message(4, {"k": 1}))
    assert newcomer.shaped.shaper.oldest(newcomer.since) == 4
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
            oldest = subscription.shaped.shaper.oldest(subscription.since)
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
    for n in range(3):
        subscription, _ = subscribe(hub, own_id=f"s{n}", max_rate=0.001)
        hub.unsubscribe(subscription)
    [shaped] = hub.shaped_groups("events")
    assert not shaped._newcomers
