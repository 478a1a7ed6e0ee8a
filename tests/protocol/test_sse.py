"""Server-sent events: which event becomes of which message."""

from __future__ import annotations

import json

import pytest

from realtime.hub.index import Hub
from realtime.hub.message import Message
from realtime.protocol import (
    ErrorCode,
    Position,
    ProtocolError,
    encode,
    encode_error,
    sse,
    text_frame,
)

PLACE = Position("e1", 7)


class Plain:
    """A transport that keeps nothing."""

    deflated = False

    def write(self, frames: bytes) -> None:
        """Drop *frames*."""


def data_frames(payload: bytes, position: Position | None) -> bytes:
    """Return the frames of a message, as the hub makes them."""
    subscription = Hub().subscribe(Plain(), "events", (), "s")
    return subscription.frames([Message("events", payload, 0.0, position)])


def test_a_data_message_has_its_position_as_id() -> None:
    lines = sse.events(data_frames(b'{"a":1}', PLACE)).split(b"\n")
    assert lines[0] == b"id: e1:7" and lines[2:] == [b"", b""]
    assert json.loads(lines[1].removeprefix(b"data: "))["data"]["event"] == {"a": 1}


def test_a_data_message_without_position_has_no_id() -> None:
    assert sse.events(data_frames(b'{"a":1}', None)).startswith(b"data: {")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":"\\"metadata\\":{\\"epoch\\":\\"x\\",\\"offset\\":9},\\"subscription_id\\":\\"y\\"}"}',
        b'{"metadata":{"epoch":"x","offset":9},"subscription_id":"y"}',
    ],
)
def test_a_payload_cannot_pass_for_a_position(payload: bytes) -> None:
    assert sse.events(data_frames(payload, PLACE)).startswith(b"id: e1:7\n")
    assert sse.events(data_frames(payload, None)).startswith(b"data: ")


def test_a_payload_with_line_breaks_stays_one_event() -> None:
    event = sse.events(data_frames(b'{\r\n"a":\n1}', PLACE))
    assert event.count(b"\n") == 3 and b"\r" not in event
    assert json.loads(event.split(b"\n")[1].removeprefix(b"data: "))["data"]["event"] == {"a": 1}


@pytest.mark.parametrize(
    ("message", "head"),
    [
        (encode("subscribed", 0, {"epoch": "e", "offset": 3, "replayed": 0}, "s"), b"id: e:3"),
        (encode("subscribed", 0, {"epoch": "e", "offset": 3, "replayed": 2}, "s"), b"data: "),
        (encode("unsubscribed", 0, {"reason": "forbidden"}, "s"), b"data: "),
        (encode("unsubscribed", 0), b"data: "),
    ],
)
def test_other_messages_have_their_type_as_name(message: bytes, head: bytes) -> None:
    name, _, others = sse.events(text_frame(message)).partition(b"\n")
    assert name == b"event: " + json.loads(message)["type"].encode()
    assert others.startswith(head)


def test_errors_have_their_code_as_name() -> None:
    error = ProtocolError(ErrorCode.DATA_LOST, details={"from": 1, "to": 2, "reason": "trimmed"})
    assert sse.events(text_frame(encode_error(error, 0, "s"))).startswith(b"event: data_lost\ndata")


@pytest.mark.parametrize("text", ["e:0", "a:b:12", "c6d5:999999999999999999"])
def test_event_ids_are_read_as_they_were_written(text: str) -> None:
    position = sse.parse_event_id(text)
    assert sse.event_id(position) == f"id: {text}\n".encode()


@pytest.mark.parametrize(
    "text", ["", "e", "e:", ":1", "e:-1", "e:1.0", "e:x", "e:²", "e:" + "9" * 19]
)
def test_what_is_no_event_id(text: str) -> None:
    with pytest.raises(ValueError, match="expected EPOCH:OFFSET"):
        sse.parse_event_id(text)
