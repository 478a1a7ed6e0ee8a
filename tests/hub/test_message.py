"""Messages in their frames: plain, compressed, byte for byte as published, or in parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realtime.hub.index import Hub
from realtime.hub.message import Message, field_tree, project
from realtime.protocol import SUBSCRIPTION_TYPES
from tests.hub.outlets import (
    TIME,
    RecordingOutlet,
    deliver,
    expected_message,
    message,
    subscribe,
)
from tests.hub.test_shaping import options


@pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("size", [1, 200, 5_000, 200_000])
def test_a_subscriber_receives_the_data_message(kind: str, deflated: bool, size: int) -> None:
    hub, outlet = Hub(), RecordingOutlet(deflated)
    subscription = subscribe(hub, outlet, kind)
    payload = {"text": "é" * size}
    deliver(hub, kind, payload)
    assert outlet.take() == [expected_message(kind, payload, subscription.id)]


def test_a_large_message_is_compressed_for_those_who_take_it() -> None:
    hub, plain, deflated = Hub(), RecordingOutlet(), RecordingOutlet(deflated=True)
    for outlet in (plain, deflated):
        subscribe(hub, outlet, "events")
    deliver(hub, "events", {"text": "x" * 10_000})
    assert len(deflated.written) < 1000 < len(plain.written)
    assert deflated.take() == plain.take()


def test_the_published_text_is_delivered_byte_for_byte() -> None:
    hub, outlet = Hub(), RecordingOutlet()
    subscribe(hub, outlet, "events", {"n": 1})
    text = b'{ "n":1.0, "text":"\\u00e9", "n":1e0 }'
    [shared] = hub.share_frames("events", [Message("events", text, TIME)])
    assert text in shared.frames


def test_a_message_that_no_filter_can_read_is_delivered_to_those_without() -> None:
    hub, everything, filtered = Hub(), RecordingOutlet(), RecordingOutlet()
    subscribe(hub, everything, "events")
    subscribe(hub, filtered, "events", {"a": 1})
    deep = Message("events", b'{"a":' * 20_000 + b"1" + b"}" * 20_000, TIME)
    groups = list(hub.share_frames("events", [deep, message("events", {"a": 1})]))
    counts = {g.subscriptions[0].outlet: len(g.messages) for g in groups}
    assert counts == {everything: 2, filtered: 1}


# The option ``fields``


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
def test_the_wanted_parts_of_a_payload(paths: list[str], expected: Any) -> None:
    payload = {"a": 1, "deep": {"x": [1, {"y": 2}], "z": {"w": None}}, "text": "x"}
    tree = field_tree(options(fields=paths).fields or ())
    assert json.loads(project(json.dumps(payload).encode(), tree)) == expected


def test_wanted_values_stay_as_they_were_written() -> None:
    payload = b'{"a":1.0,"b":123456789012345678901234567890,"c":"\\u00e9","d":{"e":1E2}}'
    tree = field_tree([("a",), ("b",), ("c",), ("d", "e")])
    assert project(b' { "x":{},' + payload[1:], tree) == payload


def test_what_cannot_be_read_has_no_parts() -> None:
    tree = field_tree([("a",)])
    assert project(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", tree) == b"{}"
